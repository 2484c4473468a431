"""Rows of lists on disk: which pages hold the rows wanted, and their scores once these are read.

A list's rows lie one after another from the start of a page, each as wide as the other, without regard to pages. Pages
are counted from the list's first. Neighbouring pages are one read; where more than `SHARE` of a list's rows and most
of its pages are wanted, the list is read whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.kernels import compiled
from inlay.kernels.blocks import SIZE, _tables, fetch_plain
from inlay.kernels.dense import score
from inlay.types import Metric

__all__ = ["Blocks", "plan", "score_blocks"]

SHARE = 0.25  # of a list's rows, above which it may be read whole
FULL = 0.75  # of its pages, likewise: rows in order of their attributes often need far fewer


class Blocks(NamedTuple):
    """Where lists are, on disk and in memory.

    Attributes:
        file: descriptor.
        data: int64 [b], byte of the file with which each list's rows begin.
        places: int64 [b], byte of the buffer likewise, a multiple of the size of a page.
        counts: int64 [b], rows.
        pages: uint8, bytes of the heads, which hold checksums and scales.
        sums: int64 [b], byte of `pages` where the checksums of the list's pages begin.
        scales: int64 [b], byte of `pages` where the scales of its rows begin; read for int8 rows only.
        verified: bool, of every page of the file's rows.
        first: int64 [b], the list's first among them.
    """

    file: int
    data: np.ndarray
    places: np.ndarray
    counts: np.ndarray
    pages: np.ndarray
    sums: np.ndarray
    scales: np.ndarray
    verified: np.ndarray
    first: np.ndarray


def plan(rows: np.ndarray, cuts: np.ndarray, counts: np.ndarray, row_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads that fetch rows.

    Args:
        rows: int64 [m], places in their lists, ascending within each.
        cuts: int64 [b + 1], which of them are of which list.
        counts: int64 [b], rows of each list.
        row_bytes: bytes of a row.

    Returns:
        Runs of pages, int64 [r, 3] as `inlay.kernels.blocks` takes them (place and page are both counted from the
        list's first page); and where each list's begin, int64 [b + 1].
    """
    if compiled(len(rows)):
        from inlay.kernels.list_rows_numba import plan_compiled

        runs, bounds = np.empty((len(rows), 3), dtype=np.int64), np.zeros(len(cuts), dtype=np.int64)
        plan_compiled(rows, cuts, counts, row_bytes, SHARE, FULL, runs, bounds)
        return runs[: bounds[-1]], bounds
    return plan_plain(rows, cuts, counts, row_bytes)


def plan_plain(
    rows: np.ndarray, cuts: np.ndarray, counts: np.ndarray, row_bytes: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The plain form of `plan`."""
    found: list[np.ndarray] = [np.empty((0, 3), dtype=np.int64)]
    bounds = np.zeros(len(cuts), dtype=np.int64)
    for b in range(len(counts)):
        own = rows[cuts[b] : cuts[b + 1]]
        runs = np.empty((0, 3), dtype=np.int64)
        if len(own):
            first, last = own * row_bytes // SIZE, ((own + 1) * row_bytes - 1) // SIZE
            new = np.flatnonzero(np.append(True, first[1:] > last[:-1] + 1))
            begin, end = first[new], last[np.append(new[1:] - 1, len(own) - 1)]
            whole = -(-int(counts[b]) * row_bytes // SIZE)
            if len(own) > SHARE * counts[b] and (end - begin + 1).sum() > FULL * whole:
                begin, end = np.array([0]), np.array([whole - 1])
            runs = np.stack([begin, begin, end - begin + 1], axis=1)
        found.append(runs)
        bounds[b + 1] = bounds[b] + len(runs)
    return np.concatenate(found), bounds


def score_blocks(
    blocks: Blocks, query: np.ndarray, dtype: np.dtype, metric: Metric, buffer: np.ndarray,
    rows: np.ndarray, cuts: np.ndarray, runs: np.ndarray, bounds: np.ndarray, always: bool,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Read the runs of each list into its place, verify them, and score the rows wanted.

    Args:
        blocks: where the lists are.
        query: float32 [dim].
        dtype: of rows: float32, float16 or int8.
        metric: as in `inlay.kernels.dense.score`.
        buffer: uint8, overwritten.
        rows: int64 [m], as in `plan`.
        cuts: int64 [b + 1].
        runs: int64 [r, 3].
        bounds: int64 [b + 1].
        always: verify pages that were verified before.

    Returns:
        Scores float32 [m], and −1; or scores that mean nothing, and the number of a list that is damaged.
    """
    scores = np.empty(len(rows), dtype=np.float32)
    if _fast(len(rows) * len(query), dtype):
        from inlay.kernels.list_rows_numba import score_compiled

        numbers = buffer.view(np.uint16 if dtype == np.float16 else dtype)
        damaged = score_compiled(
            blocks.file, blocks.data, blocks.places, blocks.counts, blocks.pages, blocks.sums, blocks.scales,
            blocks.verified, blocks.first, query, metric == "l2", dtype == np.int8, buffer, numbers,
            rows, cuts, runs, bounds, always, _tables(), scores,
        )  # fmt: skip
        return scores, int(damaged)
    for b, n in enumerate(blocks.counts.tolist()):
        own = rows[cuts[b] : cuts[b + 1]]
        if not len(own):
            continue
        width = len(query) * dtype.itemsize
        whole = -(-n * width // SIZE)
        place, sums, first = (int(of[b]) for of in (blocks.places, blocks.sums, blocks.first))
        into, verified = buffer[place : place + whole * SIZE], blocks.verified[first : first + whole]
        checks = blocks.pages[sums : sums + 4 * whole].view(np.uint32)
        mine = runs[bounds[b] : bounds[b + 1]]
        if fetch_plain(blocks.file, int(blocks.data[b]), mine, into, checks, verified, always) >= 0:
            return scores, b
        kept = into[: n * width].view(dtype).reshape(n, -1)[own]
        by = None
        if dtype == np.int8:
            by = blocks.pages[blocks.scales[b] : blocks.scales[b] + 4 * n].view(np.float32)[own]
        scores[cuts[b] : cuts[b + 1]] = score(query[None], kept, scales=by, metric=metric)[0]
    return scores, -1


def _fast(work: int, dtype: np.dtype) -> bool:
    if not compiled(work):
        return False
    from inlay.kernels.dense_numba import converts_halves

    return dtype != np.float16 or converts_halves()
