"""Compiled form of what is around the fast scan (see `fast_scan.py`): tables in steps before it, exact sums after it.

All in one call: a scan leaves nothing of Python in the caches, and a dozen numpy calls then take as long as a third of
the scan of half a million rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.bit_planes_numba import _key, _worst
from inlay.kernels.fast_scan import HALF, LEVELS, LOW
from inlay.kernels.fast_scan_numba import ROWS, scan, scan_plain
from inlay.kernels.seismic_numba import _sorted

__all__ = ["answer", "answer_plain", "rounded_compiled"]


@njit(cache=True, nogil=True, boundscheck=False)
def rounded_compiled(tables: np.ndarray, high: np.ndarray, low: np.ndarray) -> tuple[float, float, float]:
    """`fast_scan.rounded`, into `high` and `low`; returns the other three."""
    parts, entries = tables.shape
    base = largest = size = error = 0.0
    for part in range(parts):
        least = most = tables[part, 0]
        for entry in range(entries):
            least, most = min(least, tables[part, entry]), max(most, tables[part, entry])
        base += np.float64(least)
        largest = max(largest, np.float64(most) - np.float64(least))
        size += np.float64(max(abs(least), abs(most)))
    step = largest / LEVELS
    for part in range(parts):
        least, worst = np.float64(np.min(tables[part])), 0.0
        for entry in range(entries):
            above = np.float64(tables[part, entry]) - least
            number = np.int64(np.rint(above / step)) if step > 0 else np.int64(0)
            upper = (number + HALF) >> LOW
            high[part, entry], low[part, entry] = upper, number - (upper << LOW) + HALF
            if step > 0:
                worst = max(worst, abs(above - number * step))
        error += worst
    return step, base - HALF * parts * step, error + size * 1e-6


@njit(cache=True, nogil=True, boundscheck=False)
def _best(
    tables: np.ndarray, constant: np.float32, blocks: np.ndarray, factors: np.ndarray, near: np.ndarray, k: int,
    scores: np.ndarray, ids: np.ndarray,
) -> None:  # fmt: skip
    """The k of highest exact sum of the rows `near` int64, into `scores` and `ids`; equal ones in order of id."""
    keys = np.empty(len(near), dtype=np.uint64)
    for i in range(len(near)):
        block, lane, total = near[i] // ROWS, near[i] % ROWS, 0.0
        for column in range(blocks.shape[1]):
            code = np.int64(blocks[block, column, lane])
            if tables.shape[1] == 256:
                total += np.float64(tables[column, code])
            else:
                total += np.float64(tables[2 * column, code & 15])
                total += np.float64(tables[2 * column + 1, code >> 4])
        score = np.float32(total + np.float64(constant))
        if len(factors) > 0:
            score *= factors[near[i]]
        keys[i] = _key(score + np.float32(0), near[i])  # -0 is 0, or they would not tie
    _sorted(keys)
    for place in range(min(k, len(keys))):
        key = keys[len(keys) - 1 - place]
        scores[place], ids[place] = _worst(key), np.int64(np.uint64(0xFFFFFFFF) - (key & np.uint64(0xFFFFFFFF)))


@njit(cache=True, nogil=True, boundscheck=False)
def answer(
    tables: np.ndarray, constants: np.ndarray, wide: tuple[int, ...] | None, blocks: np.ndarray, count: int,
    factors: np.ndarray, allowed: np.ndarray, k: int, room: int, scores: np.ndarray, ids: np.ndarray,
) -> None:  # fmt: skip
    """The k best rows of each query, into `scores` float32 [q, ≥ k] and `ids` int64; equal ones to the lower id.

    Args:
        tables: float32 [q, nibbles, 16] or [q, bytes, 256].
        constants: float32 [q], what is added to every sum.
        wide: None for tables of 16, (0,) for those of 256.
        blocks: uint8 [n, bytes, 64].
        count: rows.
        factors: float32 [count], not negative, what scores are multiplied with; [0] for 1.
        allowed: bool [count]; [0] for all.
        k: no more than the rows allowed.
        room: for rows that can be among the best, above k; more is taken where it does not do.
        scores: see above.
        ids: see above.
    """
    left = np.arange(len(tables))
    while len(left) > 0:
        queries = len(left)
        shape = (queries, tables.shape[1], tables.shape[2])
        high, low = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
        steps, bases = np.empty(queries, np.float32), np.empty(queries, np.float32)
        errors, found = np.empty(queries, np.float32), np.empty(queries, np.int64)
        for i in range(queries):
            step, base, error = rounded_compiled(tables[left[i]], high[i], low[i])
            steps[i], bases[i] = step, np.float32(base) + constants[left[i]]
            errors[i] = error + abs(np.float64(constants[left[i]])) * 1e-6
        best, near = np.empty((queries, room), np.float32), np.empty((queries, room), np.int64)
        scan(high, low, wide, steps, bases, errors, blocks, count, factors, allowed, k, best, near, found)
        for i in range(queries):
            j = left[i]
            if found[i] >= 0:
                _best(tables[j], constants[j], blocks, factors, near[i, : found[i]], k, scores[j], ids[j])
        left, room = left[found < 0], min(4 * room, count + 1)


@njit(cache=True, nogil=True, boundscheck=False)
def answer_plain(
    tables: np.ndarray, constants: np.ndarray, wide: tuple[int, ...] | None, blocks: np.ndarray, count: int,
    factors: np.ndarray, allowed: np.ndarray, k: int, room: int, scores: np.ndarray, ids: np.ndarray,
) -> None:  # fmt: skip
    """The same for any processor, by float32 tables: only the rounding of their sums is to be allowed for."""
    for j in range(len(tables)):
        slack, found, space = np.float64(abs(constants[j])), -1, room
        for part in range(tables.shape[1]):
            slack += np.float64(np.max(np.abs(tables[j, part])))
        near = np.empty(0, np.int64)
        while found < 0:
            best, near = np.empty(space, np.float32), np.empty(space, np.int64)
            found = scan_plain(
                tables[j],
                constants[j],
                np.float32(slack * (tables.shape[1] * 2.0**-24 + 1e-6)),
                blocks,
                count,
                factors,
                allowed,
                k,
                best,
                near,
            )
            space = min(4 * space, count + 1)
        _best(tables[j], constants[j], blocks, factors, near[:found], k, scores[j], ids[j])
