"""k-means as product quantisation needs it: many small problems of few dimensions, the same answer everywhere.

Lloyd's steps in numpy. A library would do (faiss, scikit-learn), but codecs belong to the core, which has neither, and
a codebook must not depend on what else is installed. Centres start at distinct random rows; a centre that loses its
last row takes half of a populous one, and the two are moved apart by a hair (as faiss and fastText do).
"""

from __future__ import annotations

import numpy as np

from inlay.errors import BadInput

__all__ = ["assign", "kmeans"]

BLOCK = 1 << 17  # distances held at a time: 512 kB, which a core keeps to itself
FEWEST = 256  # rows at a time, where there are many centres
HAIR = 1e-6  # how far halves of a split centre are moved apart, of the spread of the rows; float32 must still see it


def kmeans(rows: np.ndarray, count: int, *, iterations: int = 25, seed: int = 0) -> np.ndarray:
    """Centres, float32 [count, dim], of rows [n, dim]; n must be at least `count`."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if len(rows) < count:
        raise BadInput(f"{count} centres need at least as many rows, got {len(rows)}; take fewer bits or more rows")
    random = np.random.default_rng(seed)
    centres = rows[random.choice(len(rows), count, replace=False)].copy()
    hair = np.float32(max(HAIR * float(np.abs(rows).max(initial=0)), 1e-30))
    before = None
    for _ in range(iterations):
        nearest = assign(rows, centres)
        held = np.bincount(nearest, minlength=count)
        if before is not None and held.all() and np.array_equal(nearest, before):
            break
        before = nearest
        for column in range(rows.shape[1]):
            sums = np.bincount(nearest, weights=rows[:, column], minlength=count)
            centres[:, column] = np.where(held > 0, sums / np.maximum(held, 1), centres[:, column])
        _fill(centres, held, len(rows), hair, random)
    return centres


def _fill(centres: np.ndarray, held: np.ndarray, total: int, hair: np.float32, random: np.random.Generator) -> None:
    """Give every empty centre half of one drawn in proportion to the rows it could spare."""
    for empty in np.flatnonzero(held == 0):
        spare = np.maximum(held - 1, 0).astype(np.float64)
        if not spare.any():
            return
        rich = int(random.choice(len(held), p=spare / spare.sum()))
        centres[empty] = centres[rich]
        sign = np.where(np.arange(centres.shape[1]) % 2, -hair, hair)
        centres[empty] += sign
        centres[rich] -= sign
        held[empty] = held[rich] // 2
        held[rich] -= held[empty]


def assign(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Number, int64 [n], of each row's nearest centre; the first of equals."""
    nearest = np.empty(len(rows), dtype=np.int64)
    if centres.shape[1] == 1:  # scalars: between two neighbours lies one boundary
        order = np.argsort(centres[:, 0], kind="stable")
        levels = centres[order, 0].astype(np.float64)
        return order[np.searchsorted((levels[1:] + levels[:-1]) / 2, rows[:, 0], side="left")]
    half = (centres.astype(np.float64) ** 2).sum(axis=1).astype(np.float32) / 2
    step = min(max(FEWEST, BLOCK // len(centres)), max(1, len(rows)))
    rows, turned = np.asarray(rows, dtype=np.float32), np.ascontiguousarray(centres.T, dtype=np.float32)
    room = np.empty((step, len(centres)), dtype=np.float32)
    for low in range(0, len(rows), step):
        # |x − c|² = |x|² − 2 (x·c − |c|²/2), so the nearest has the largest x·c − |c|²/2.
        part = rows[low : low + step]
        scores = np.matmul(part, turned, out=room[: len(part)])
        scores -= half
        scores.argmax(axis=1, out=nearest[low : low + len(part)])
    return nearest
