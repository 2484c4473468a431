"""The compiled form of the search of `inlay.kernels.seismic`; see there for arguments and results.

A query is some tens of microseconds of work, of which most would be waiting for memory, so the order of steps is that
in which addresses become known. Where the query's columns stand in the summaries of all its lists is looked up first,
step by step for all of them, each step asking for what the next one reads. Rows are asked for a few before they are
scored, and while the last rows of a block are scored, the first of the block that is likely next are on their way.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.seismic import LANES, STAMPED
from inlay.kernels.seismic_components import CODES, MOST
from inlay.kernels.seismic_numba import (
    _bits,
    _column,
    _dot,
    _entered,
    _score,
    _sift,
    _slot,
    _sorted,
    ranked_compiled,
    sound_compiled,
)
from inlay.kernels.seismic_table_numba import _opened, _touch, _touch_far

__all__ = ["search_compiled"]

SOON = 3  # rows asked for before they are scored: some thirty lines of the cache
RING = 4  # a power of two above that
LINE = 64

_u = np.uint64


@njit(cache=True, nogil=True, boundscheck=False)
def _group(arrays, c, columns, at):
    """Write the group of a list's summaries in which each column begins, if anywhere; ascending columns."""
    group, stop = arrays.groups[c], arrays.groups[c + 1]
    low = group
    for t in range(len(columns)):
        column, left = columns[t], stop - low
        while left > 0:  # the first group that counts from no less than the column
            half = left >> 1
            below = arrays.bases[_u(low + half)] < column
            low = low + half + 1 if below else low
            left = left - half - 1 if below else half
        its = max(low - 1, group)  # so that the column, if anywhere, begins in the one before
        at[t] = its
        if group < stop:
            _touch(arrays.codes, its * CODES)
            _touch(arrays.firsts, its)


@njit(cache=True, nogil=True, boundscheck=False)
def _entries(arrays, c, columns, at, counts):
    """Make of each group the first entry of its column, and how many there are."""
    group, stop, start = arrays.groups[c], arrays.groups[c + 1], arrays.entries[c]
    for t in range(len(columns)):
        counts[t] = 0
        if group == stop:
            continue
        column, its = columns[t], at[t]
        here, begin, count = np.int64(arrays.bases[_u(its)]), np.int64(arrays.firsts[_u(its)]), np.int64(0)
        p = its * CODES
        while p < its * CODES + CODES:
            code = np.int64(arrays.codes[_u(p)])
            p += 1
            here += code >> 2
            if here >= column:
                count = code & 3
                break
            begin += code & 3
        if here != column:
            continue
        while p < stop * CODES and arrays.codes[_u(p)] <= MOST:  # a gap of 0: the same column
            count += np.int64(arrays.codes[_u(p)])
            p += 1
        at[t], counts[t] = start + begin, count
        _touch(arrays.entry_blocks, start + begin)
        _touch(arrays.entry_codes, start + begin)


@njit(cache=True, nogil=True, boundscheck=False)
def _sum(arrays, c, weights, at, counts, dots):
    """Fill what each of a list's blocks can come to; returns how many entries were read."""
    first = 2 * arrays.lists[c]
    for i in range(arrays.lists[c + 1] - arrays.lists[c]):
        dots[_u(i)] = 0
    read = np.int64(0)
    high, wide = arrays.highs[c] - arrays.entries[c], arrays.highs[c] < arrays.highs[c + 1]
    for t in range(len(weights)):
        weight = weights[t]
        read += counts[t]
        for e in range(_u(at[t]), _u(at[t] + counts[t])):
            b = np.int64(arrays.entry_blocks[e])
            if wide:
                b |= np.int64(arrays.entry_highs[_u(high + e)]) << 8
            pair = _u(first + 2 * b)
            step, least = arrays.scales[pair], arrays.scales[pair + _u(1)]
            dots[b] += weight * (step * np.float32(arrays.entry_codes[e]) + least)
    return read


@njit(cache=True, nogil=True, boundscheck=False)
def _met(stamps, slot, epoch):
    """Whether the row of a slot was met before in this epoch; it is from now on."""
    at = slot // _u(STAMPED)
    mask, word = _u(1) << (slot - at * _u(STAMPED)), stamps[at]
    if word >> _u(STAMPED) != epoch:
        word = epoch << _u(STAMPED)
    stamps[at] = word | mask
    return word & mask != 0


@njit(cache=True, nogil=True, boundscheck=False)
def _fresh(stamps, slot, epoch):
    """Whether it was not."""
    at = slot // _u(STAMPED)
    word = stamps[at]
    return word >> _u(STAMPED) != epoch or (word >> (slot - at * _u(STAMPED))) & _u(1) == 0


@njit(cache=True, nogil=True, boundscheck=False)
def _request(arrays, word):
    """Ask for a row, into the second level of caches, which waits for more lines at once than the first."""
    slot = word >> np.uint64(16)
    stop = slot + (word & np.uint64(0xFFFF))
    for s in range(slot, stop, _u(LINE // (LANES * arrays.ids.itemsize))):
        _touch_far(arrays.ids, s * _u(LANES))
    for s in range(slot, stop, _u(LINE // (LANES * arrays.numbers.itemsize))):
        _touch_far(arrays.numbers, s * _u(LANES))
    _touch_far(arrays.ids, stop * _u(LANES) - _u(1))  # rows need not begin where a line does
    _touch_far(arrays.numbers, stop * _u(LANES) - _u(1))


@njit(cache=True, nogil=True, boundscheck=False)
def _passes(bound, heap_factor, best, size):
    """Whether a block may hold something, by what its summary comes to."""
    return size < len(best) or not bound < heap_factor * _score(best[0])


@njit(cache=True, nogil=True, boundscheck=False)
def _enter(arrays, base, block, soon, bound, heap_factor, allowed, stamps, epoch, ring, query, best, size, work):
    """Score the rows of a block that were not met before.

    `soon` is the block that comes next (-1 for none) if its `bound` passes then, too; its first rows are asked for
    meanwhile, and no more than that.
    """
    begin = end = _u(0)
    if soon >= 0:
        begin, end = _u(arrays.blocks[_u(soon)]), _u(arrays.blocks[_u(soon + 1)])
        for line in range(begin, end, 8):
            _touch(arrays.postings, line)
    p, stop = _u(arrays.blocks[_u(block)]), _u(arrays.blocks[_u(block + 1)])
    n = done = asked = 0
    while p < stop or done < n or (asked < SOON and begin < end):
        if p < stop:
            word = arrays.postings[p]
            p += _u(1)
            slot = word >> np.uint64(16)
            if _met(stamps, slot, epoch) or (len(allowed) > 0 and not allowed[slot]):
                continue
            ring[_u(n & (RING - 1))] = word
            n += 1
            _request(arrays, word)
            if n - done <= SOON:
                continue
        elif asked < SOON and begin < end:
            word = arrays.postings[begin]
            begin += _u(1)
            if not _fresh(stamps, word >> np.uint64(16), epoch):
                continue
            if asked == 0 and not _passes(bound, heap_factor, best, size):
                begin = end
                continue
            asked += 1
            _request(arrays, word)
        if done < n:
            word = ring[_u(done & (RING - 1))]
            done += 1
            slot = word >> np.uint64(16)
            score = _dot(arrays.ids, arrays.numbers, query, slot, word & np.uint64(0xFFFF))
            size = _entered(score, np.uint64(base) + slot, best, size)
    work[0] += n
    work[2] += 1
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _refine(arrays, base, n_knn, allowed, stamps, epoch, query, best, size, work):
    """Try the neighbours of the best so far."""
    n_rows, found = len(arrays.starts) - 1, size
    width = len(arrays.graph) // max(1, n_rows)
    tops = best[:found].copy()
    for i in range(found):
        slot = np.int64(_slot(tops[i])) - base
        if slot < 0 or slot >= len(arrays.ids):
            continue
        low, high = 0, n_rows  # the last row that starts there: those before it are empty
        while low < high:
            middle = (low + high) >> 1
            if np.int64(arrays.starts[middle]) <= slot:
                low = middle + 1
            else:
                high = middle
        for j in range(min(n_knn, width)):
            other = arrays.graph[(low - 1) * width + j]
            if other >= n_rows:
                break
            start = np.uint64(arrays.starts[other])
            if _met(stamps, start, epoch) or (len(allowed) > 0 and not allowed[start]):
                continue
            work[0] += 1
            slots = np.uint64(arrays.starts[_u(other) + _u(1)]) - start
            score = _dot(arrays.ids, arrays.numbers, query, start, slots)
            size = _entered(score, np.uint64(base) + start, best, size)
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _chosen(weights, cut, order):
    """Write the places of the `cut` largest weights, the largest first, of equal ones the first."""
    n = 0
    for t in range(len(weights)):
        if n == cut and not weights[t] > weights[order[n - 1]]:
            continue
        p = n if n < cut else cut - 1
        while p > 0 and weights[t] > weights[order[p - 1]]:
            order[p] = order[p - 1]
            p -= 1
        order[p] = t
        n = min(n + 1, cut)


@njit(cache=True, nogil=True, boundscheck=False)
def _heaped(dots, order, blocks):
    """Blocks of a list as a heap, the one of the highest summary at its root."""
    for b in range(blocks):
        order[b] = (np.uint64(_bits(dots[b])) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - np.uint64(b))  # type: ignore[call-arg]
    for b in range((blocks >> 1) - 1, -1, -1):
        _sift(order, b, blocks)


@njit(cache=True, nogil=True, boundscheck=False)
def _next(dots, order, place, blocks, falling, heap_factor, best, size):
    """(the block to try at a place, the next place): of a heap the highest left, else the next that passes; or -1."""
    if not falling:
        while place < blocks and not _passes(dots[_u(place)], heap_factor, best, size):
            place += 1
        return (place, place + 1) if place < blocks else (np.int64(-1), place)
    if place == blocks:
        return np.int64(-1), place
    left = blocks - place - 1
    top = np.int64(_slot(order[0]))
    order[0] = order[left]
    _sift(order, 0, left)
    return top, place + 1


@njit(cache=True, nogil=True, boundscheck=False)
def search_compiled(
    table, ids, numbers, entry_codes, base, offsets, indices, weights, largest, query_cut, heap_factor, first_sorted,
    n_knn, allowed, best, sizes, work, scores, rows,
):  # fmt: skip
    """Offer rows to the best of each query; the arguments before `base` are those of a `Bound`.

    With a `largest` of 0 or more, queries are `sound` up to it or nothing is done and the answer is False; and what is
    found is written into `scores` and `rows` and not into `best` and `sizes`.
    """
    n, answers, heap_factor = len(offsets) - 1, largest >= 0, np.float32(heap_factor)
    if answers:
        if not sound_compiled(offsets, indices, weights, largest):
            return False
        best = np.zeros((n, max(1, min(scores.shape[1], table[0, 1] - 1))), dtype=np.uint64)
        sizes = np.zeros(n, dtype=np.int64)
    arrays, scratch, dims = _opened(table, ids, numbers, entry_codes)
    query, dots, order, longest = scratch.query, scratch.dots, scratch.order, 0
    for q in range(n):
        longest = max(longest, offsets[q + 1] - offsets[q])
    columns, values = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.float32)
    most = min(query_cut, longest)
    chosen, ring = np.empty(most, dtype=np.int64), np.empty(RING, dtype=np.uint64)
    at, counts = np.empty((most, longest), dtype=np.int64), np.empty((most, longest), dtype=np.int64)
    for q in range(n):
        if scratch.epoch[0] == 255:
            scratch.stamps[:] = 0
            scratch.epoch[0] = 0
        scratch.epoch[0] += 1
        epoch = np.uint64(scratch.epoch[0])
        m = 0
        for t in range(offsets[q], offsets[q + 1]):
            column = _column(dims, indices[t])
            if column >= 0 and weights[t] > 0:
                columns[m], values[m] = column, weights[t]
                query[_u(column)] = weights[t]
                m += 1
        cut = min(query_cut, m)
        _chosen(values[:m], cut, chosen)
        for i in range(cut):
            c = columns[chosen[i]]
            for group in range(arrays.groups[c], arrays.groups[c + 1], 16):
                _touch(arrays.bases, group)
            _touch(arrays.lists, c)
            _touch(arrays.entries, c)
        for i in range(cut):
            _group(arrays, columns[chosen[i]], columns[:m], at[i])
        for i in range(cut):
            _entries(arrays, columns[chosen[i]], columns[:m], at[i], counts[i])
        mine, size, falling = best[q], sizes[q], first_sorted
        for i in range(cut):
            c = columns[chosen[i]]
            first, blocks = arrays.lists[c], arrays.lists[c + 1] - arrays.lists[c]
            if blocks == 0:
                continue
            work[1] += _sum(arrays, c, values[:m], at[i], counts[i], dots)
            if falling:
                _heaped(dots, order, blocks)
            block, place = _next(dots, order, np.int64(0), blocks, falling, heap_factor, mine, size)
            while block >= 0:
                if not _passes(dots[_u(block)], heap_factor, mine, size):
                    if falling:
                        break  # what follows is lower still
                    block, place = _next(dots, order, place, blocks, falling, heap_factor, mine, size)
                    continue
                soon, place = _next(dots, order, place, blocks, falling, heap_factor, mine, size)
                size = _enter(
                    arrays, base, first + block, first + soon if soon >= 0 else soon, dots[_u(max(soon, 0))],
                    heap_factor, allowed, scratch.stamps, epoch, ring, query, mine, size, work,
                )  # fmt: skip
                block = soon
            falling = False
        if n_knn > 0:
            size = _refine(arrays, base, n_knn, allowed, scratch.stamps, epoch, query, mine, size, work)
        sizes[q] = size
        for t in range(m):
            query[_u(columns[t])] = 0
    if answers:
        for q in range(n):
            _sorted(best[q])
        ranked_compiled(best, arrays.starts, 0, 0, scores, rows)
    return True
