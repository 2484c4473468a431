"""Compiled form of the running threshold (see `topk.py`)."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["offer"]

STRIDE = 64  # scores tested by one vectorised comparison before any is looked at


@njit(cache=True, nogil=True, boundscheck=False)
def _kth_largest(values: np.ndarray, k: int) -> np.float32:
    """Quickselect (Hoare's partition, median of three), which reorders `values`."""
    low, high, target = 0, len(values) - 1, k - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return values[target]


@njit(cache=True, nogil=True, boundscheck=False)
def _compact(scores: np.ndarray, ids: np.ndarray, filled: int, k: int, scratch: np.ndarray) -> np.float32:
    """Keep the k best at the front, still in order of id; the worst of them is the new threshold."""
    for i in range(filled):  # not a slice: numba takes seconds to compile one slice assigned to another
        scratch[i] = scores[i]
    cut = _kth_largest(scratch[:filled], k)
    above = 0
    for i in range(filled):
        above += scores[i] > cut
    equal, kept = k - above, 0
    for i in range(filled):
        score = scores[i]
        if score > cut or (score == cut and equal > 0):
            equal -= score == cut
            scores[kept], ids[kept] = score, ids[i]
            kept += 1
    return cut


@njit(cache=True, nogil=True, boundscheck=False)
def offer(
    block: np.ndarray,
    first: int,
    k: int,
    scores: np.ndarray,
    ids: np.ndarray,
    filled: np.ndarray,
    threshold: np.ndarray,
) -> None:
    """Consider `block` float32 [queries, n] of the ids from `first`; the other arrays are the state of a `TopK`."""
    width = scores.shape[1]
    scratch = np.empty(width, np.float32)
    for query in range(block.shape[0]):
        count, cut = filled[query], threshold[query]
        for start in range(0, block.shape[1], STRIDE):
            stop = min(start + STRIDE, block.shape[1])
            better = 0
            for i in range(start, stop):
                better += block[query, i] > cut
            if better == 0:
                continue
            for i in range(start, stop):
                if block[query, i] > cut:
                    if count == width:
                        cut = _compact(scores[query], ids[query], count, k, scratch)
                        count = k
                    scores[query, count], ids[query, count] = block[query, i], first + i
                    count += 1
        # Even a buffer that is not full knows a threshold once it holds k, and a later block may be refused by it.
        if count > k:
            cut = _compact(scores[query], ids[query], count, k, scratch)
            count = k
        filled[query], threshold[query] = count, cut
