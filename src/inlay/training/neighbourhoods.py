"""Batches of related texts: rows that a teacher puts near each other go together.

Two texts drawn at random have nothing to do with each other, and a student learns from a batch of those that everything
is far from everything. What a search turns on is the order among the few texts that are close; a batch from one
neighbourhood is full of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inlay.errors import BadInput
from inlay.training.batching import Choice, Lane
from inlay.training.sources import Source
from inlay.training.teacher import Teaching

__all__ = ["neighbourhoods"]

SAMPLE = 40_000  # rows from which centres are found
ROUNDS = 6
BLOCK = 16_384


def neighbourhoods(inner: Choice, teacher: Teaching, *, size: int = 1000, share: float = 0.5, seed: int = 0) -> Choice:
    """Draw a share of the batches from one neighbourhood each, and the others as another choice does.

    Neighbourhoods are the cells of spherical k-means over the teacher's vectors of the queries.

    Args:
        inner: the choice for the other batches.
        teacher: where texts are.
        size: rows of a neighbourhood on average; several batches' worth.
        share: of the batches that come from a neighbourhood.
        seed: of the first centres.
    """
    if size < 1 or not 0 <= share <= 1:
        raise BadInput(f"size must be at least 1 and share from 0 to 1, got {size}, {share}")

    def lanes(sources: Sequence[Source]) -> list[Lane]:
        others = inner(sources)
        total = sum(lane.share for lane in others)
        found = [Lane(lane.rows, (1 - share) * lane.share / total) for lane in others]
        rows = np.concatenate([lane.rows for lane in others])
        cells = _cells(teacher, sources, rows, max(1, len(rows) // size), np.random.default_rng(seed))
        order = np.argsort(cells, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
            found.append(Lane(rows[np.sort(part)], share * len(part) / len(rows)))
        return found

    return lanes


def _cells(
    teacher: Teaching, sources: Sequence[Source], rows: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Number of the nearest centre of each row."""

    def vectors(part: np.ndarray) -> np.ndarray:
        return teacher.rows([sources[s][i].query for s, i in part])

    sample = vectors(rows[np.sort(rng.permutation(len(rows))[: max(SAMPLE, 8 * count)])])
    centres = sample[rng.permutation(len(sample))[:count]]
    for _ in range(ROUNDS):
        near = (sample @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, near, sample)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-9), centres)
    blocks = [rows[low : low + BLOCK] for low in range(0, len(rows), BLOCK)]
    return np.concatenate([(vectors(block) @ centres.T).argmax(1) for block in blocks])
