"""Pairs of rows that share a key: what every kind of blocking by buckets comes down to."""

from __future__ import annotations

import numpy as np

from inlay.errors import BadInput

__all__ = ["MOST_PAIRS", "pairs_by_key"]

MOST_PAIRS = 1 << 27  # 1 GB for each of the two arrays of numbers; more pairs are no blocking


def pairs_by_key(
    left: np.ndarray, right: np.ndarray, most: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of equal keys.

    Args:
        left: keys of one side, any integers [n].
        right: keys of the other side [m].
        most: leave out keys that make more pairs than this.

    Returns:
        Positions in `left` and in `right`, int64 [pairs], and how many pairs the key of each makes, int64 [pairs].
    """
    keys, inverse = np.unique(left, return_inverse=True)
    order = np.argsort(right, kind="stable")
    there = right[order]
    first, last = np.searchsorted(there, keys), np.searchsorted(there, keys, side="right")
    makes = np.bincount(inverse, minlength=len(keys)) * (last - first)
    if most is not None:
        last = np.where(makes > most, first, last)
    width = (last - first)[inverse]
    total = int(width.sum())
    if total > MOST_PAIRS:
        raise BadInput(
            f"these keys make {total:,} pairs, and {MOST_PAIRS:,} are the most; the commonest key alone makes "
            f"{int(makes.max()):,}: leave out common keys by a smaller max_pairs"
        )
    ends = np.cumsum(width)
    step = np.arange(total) - np.repeat(ends - width, width)
    pairs = np.repeat(first[inverse], width) + step
    return np.repeat(np.arange(len(left)), width), order[pairs], np.repeat(makes[inverse], width)
