"""The compiled forms of `inlay.kernels.attribute_scan`; see there for arguments and results."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["passes_compiled", "survivors_compiled"]

TEST, LISTED, NOT, AND, _OR, CONSTANT = range(6)


@njit(cache=True, nogil=True, boundscheck=False)
def passes_compiled(words, steps, bounds, table, stack):
    """Each step passes over all rows, so that tests run many rows at a time; the answer is `stack[0]`."""
    n, top = words.shape[1], 0
    for s in range(len(steps)):
        what, word = steps[s, 0], steps[s, 1]
        mask, low, high = bounds[s, 0], bounds[s, 1], bounds[s, 2]
        if what == TEST:
            for i in range(n):
                field = words[word, i] & mask
                stack[top, i] = (field >= low) & (field <= high)
            top += 1
        elif what == LISTED:
            for i in range(n):
                field, first, last = words[word, i] & mask, steps[s, 2], steps[s, 3] - 1
                while first < last:
                    middle = (first + last) // 2
                    if table[middle] < field:
                        first = middle + 1
                    else:
                        last = middle
                stack[top, i] = table[first] == field
            top += 1
        elif what == CONSTANT:
            for i in range(n):
                stack[top, i] = word != 0
            top += 1
        elif what == NOT:
            for i in range(n):
                stack[top - 1, i] = not stack[top - 1, i]
        else:
            top -= 1
            for i in range(n):
                left, right = stack[top - 1, i], stack[top, i]
                stack[top - 1, i] = (left & right) if what == AND else (left | right)


@njit(cache=True, nogil=True, boundscheck=False)
def survivors_compiled(
    buffer, starts, counts, width, id_bytes, steps, bounds, table, depth, allow, dead, rows, ids, cuts
):  # fmt: skip
    stack = np.empty((depth, counts.max() if len(counts) else 0), np.bool_)
    kept = 0
    for b in range(len(starts)):
        n, start = counts[b], starts[b]
        behind = start + 8 * width * n
        if len(steps):
            words = buffer[start:behind].view(np.uint64).reshape((width, n))
            passes_compiled(words, steps, bounds, table, stack)
        halves = buffer[behind : behind + id_bytes * n].view(np.uint32)
        for i in range(n):
            if len(steps) and not stack[0, i]:
                continue
            if id_bytes == 4:
                own = np.int64(halves[i])
            else:
                own = np.int64(halves[2 * i]) | (np.int64(halves[2 * i + 1]) << 32)
            if len(allow) and not allow[own]:
                continue
            if len(dead) and (dead[own >> 3] >> (own & 7)) & 1:
                continue
            rows[kept], ids[kept] = i, own
            kept += 1
        cuts[b + 1] = kept
