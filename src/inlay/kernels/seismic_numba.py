"""The compiled forms of `inlay.kernels.seismic`; see there for arguments and results.

A search is one call: nothing of Python is between two rows. The rows of a block are asked for before the first of them
is scored, since each is somewhere else in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from inlay.kernels.gather_numba import _ask
from inlay.kernels.postings_numba import _offer
from inlay.kernels.seismic import Arrays, Scratch
from inlay.kernels.seismic_components import CODES, MOST

__all__ = ["ranked_compiled", "scan_compiled", "search_compiled", "sound_compiled"]

AT_ONCE = 32  # rows asked for before they are scored

_u = np.uint64


@intrinsic
def _number(typingctx: Any, value: types.Type) -> Any:
    """A stored number as float32: that of uint16 is a half, not negative and finite, so that its bits only move."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        if value != types.uint16:
            return args[0]
        whole = ir.IntType(32)
        bits = builder.shl(builder.zext(args[0], whole), ir.Constant(whole, 13))
        return builder.fmul(builder.bitcast(bits, ir.FloatType()), ir.Constant(ir.FloatType(), 2.0**112))

    return types.float32(value), codegen


@intrinsic
def _bits(typingctx: Any, value: types.Type) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _float(typingctx: Any, value: types.Type) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@njit(cache=True, nogil=True, boundscheck=False)
def _score(key):
    return _float(np.uint32(key >> np.uint64(32)))  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def _slot(key):
    return np.uint64(0xFFFFFFFF) - (key & np.uint64(0xFFFFFFFF))


@njit(cache=True, nogil=True, boundscheck=False)
def _dot(ids, numbers, query, slot, slots):
    """The dot product of a row with the query, in eight sums."""
    a = b = c = d = e = f = g = h = np.float32(0)
    for s in range(slot, slot + slots):
        i, v = ids[s], numbers[s]
        a += query[i[0]] * _number(v[0])  # type: ignore[call-arg, operator]
        b += query[i[1]] * _number(v[1])  # type: ignore[call-arg, operator]
        c += query[i[2]] * _number(v[2])  # type: ignore[call-arg, operator]
        d += query[i[3]] * _number(v[3])  # type: ignore[call-arg, operator]
        e += query[i[4]] * _number(v[4])  # type: ignore[call-arg, operator]
        f += query[i[5]] * _number(v[5])  # type: ignore[call-arg, operator]
        g += query[i[6]] * _number(v[6])  # type: ignore[call-arg, operator]
        h += query[i[7]] * _number(v[7])  # type: ignore[call-arg, operator]
    return ((a + e) + (c + g)) + ((b + f) + (d + h))


@njit(cache=True, nogil=True, boundscheck=False)
def _entered(score, slot, best, size):
    """Offer a row that has something in common with the query."""
    if score > 0:
        key = (np.uint64(_bits(score)) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - np.uint64(slot))  # type: ignore[call-arg]
        return _offer(best, size, key)
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _settle(arrays, base, waiting, n, query, best, size):
    """Score the rows that wait; they have been asked for."""
    for w in range(n):
        word = waiting[_u(w)]
        slot = word >> np.uint64(16)
        score = _dot(arrays.ids, arrays.numbers, query, slot, word & np.uint64(0xFFFF))
        size = _entered(score, np.uint64(base) + slot, best, size)
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _column(dims, index):
    """Column of a dimension, -1 where there is none."""
    dim, low, high = np.int64(index), 0, len(dims)
    if 0 <= dim < high and dims[dim] == dim:  # as it is everywhere, where no dimension is missing
        return dim
    while low < high:
        middle = (low + high) >> 1
        if dims[middle] < dim:
            low = middle + 1
        else:
            high = middle
    return low if low < len(dims) and dims[low] == dim else -1


@njit(cache=True, nogil=True, boundscheck=False)
def _sum(arrays, c, columns, weights, dots):
    """Fill what each of a list's blocks can come to; returns how many entries were read."""
    first = arrays.lists[c]
    scales = arrays.scales[first : arrays.lists[c + 1]]
    dots[: len(scales)] = 0
    group, stop = arrays.groups[c], arrays.groups[c + 1]
    low, start, read = group, arrays.entries[c], np.int64(0)
    high, wide = arrays.highs[c] - start, arrays.highs[c] < arrays.highs[c + 1]
    for t in range(len(columns)):
        column, weight = columns[t], weights[t]
        left = stop - low
        while left > 0:  # the first group that counts from no less than the column
            half = left >> 1
            below = arrays.bases[_u(low + half)] < column
            low = low + half + 1 if below else low
            left = left - half - 1 if below else half
        its = max(low - 1, group)  # so that the column, if anywhere, begins in the one before
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
        read += count
        for e in range(_u(start + begin), _u(start + begin + count)):
            b = np.int64(arrays.entry_blocks[e])
            if wide:
                b |= np.int64(arrays.entry_highs[_u(high + e)]) << 8
            dots[b] += weight * (scales[b, 0] * np.float32(arrays.entry_codes[e]) + scales[b, 1])
    return read


@njit(cache=True, nogil=True, boundscheck=False)
def _sift(order, at, n):
    """Let the key at a place of a heap, the highest at its root, sink to where it belongs."""
    key = order[at]
    child = 2 * at + 1
    while child < n:
        if child + 1 < n and order[child + 1] > order[child]:
            child += 1
        if key >= order[child]:
            break
        order[at] = order[child]
        at, child = child, 2 * child + 1
    order[at] = key


@njit(cache=True, nogil=True, boundscheck=False)
def _sorted(keys):
    """Put keys in ascending order."""
    for at in range((len(keys) >> 1) - 1, -1, -1):
        _sift(keys, at, len(keys))
    for left in range(len(keys) - 1, 0, -1):
        keys[0], keys[left] = keys[left], keys[0]
        _sift(keys, 0, left)


@njit(cache=True, nogil=True, boundscheck=False)
def _enter(arrays, base, begin, end, allowed, stamps, epoch, waiting, query, best, size, work):
    """Score the postings of a block that were not met before."""
    n = 0
    for p in range(_u(begin), _u(end)):
        word = arrays.postings[p]
        slot = word >> np.uint64(16)
        if stamps[slot] == epoch or (len(allowed) > 0 and not allowed[slot]):
            continue
        stamps[slot] = epoch
        _ask(arrays.ids, slot, _u(0), (word & np.uint64(0xFFFF)) << np.uint64(3))  # type: ignore[call-arg]
        _ask(arrays.numbers, slot, _u(0), (word & np.uint64(0xFFFF)) << np.uint64(3))  # type: ignore[call-arg]
        waiting[_u(n)] = word
        n += 1
        if n == AT_ONCE:
            size = _settle(arrays, base, waiting, n, query, best, size)
            work[0] += n
            n = 0
    work[0] += n
    work[2] += 1
    return _settle(arrays, base, waiting, n, query, best, size)


@njit(cache=True, nogil=True, boundscheck=False)
def _refine(arrays, base, n_knn, allowed, stamps, epoch, query, best, size, tops, work):
    """Try the neighbours of the best so far."""
    n_rows, found = len(arrays.starts) - 1, size
    tops[:found] = best[:found]
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
        for j in range(min(n_knn, arrays.graph.shape[1])):
            other = arrays.graph[low - 1, j]
            if other >= n_rows:
                break
            start = np.uint64(arrays.starts[other])
            if stamps[start] == epoch or (len(allowed) > 0 and not allowed[start]):
                continue
            stamps[start] = epoch
            work[0] += 1
            slots = np.uint64(arrays.starts[_u(other) + _u(1)]) - start
            score = _dot(arrays.ids, arrays.numbers, query, start, slots)
            size = _entered(score, np.uint64(base) + start, best, size)
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def sound_compiled(indptr, indices, data, largest):
    for row in range(len(indptr) - 1):
        before = np.int64(-1)
        for t in range(indptr[row], indptr[row + 1]):
            if not (data[t] >= 0 and data[t] <= largest) or indices[t] <= before:
                return False
            before = np.int64(indices[t])
    return True


@njit(cache=True, nogil=True, boundscheck=False)
def ranked_compiled(best, starts, base, first, scores, ids):
    k, slots = best.shape[1], np.int64(starts[-1])
    if first == 0:
        scores[:], ids[:] = -np.inf, -1
    for q in range(len(best)):
        for j in range(k):
            key = best[q, k - 1 - j]
            if key == 0:
                break
            slot = np.int64(_slot(key)) - base
            if slot < 0 or slot >= slots:
                continue
            low, high = 0, len(starts)
            while low < high:  # past the last row that starts there: those before it are empty
                middle = (low + high) >> 1
                if np.int64(starts[middle]) <= slot:
                    low = middle + 1
                else:
                    high = middle
            ids[q, j], scores[q, j] = first + low - 1, _score(key)


@njit(cache=True, nogil=True, boundscheck=False)
def search_compiled(
    base, dims, offsets, indices, weights, query_cut, heap_factor, first_sorted, n_knn, allowed, best, sizes, work,
    largest, scores, ids, spare, *held,
):  # fmt: skip
    """Unless `largest` is negative, queries are `sound` up to it or nothing is done; `scores` with rows are filled."""
    if largest >= 0 and not sound_compiled(offsets, indices, weights, largest):
        return False
    arrays, scratch = Arrays(*held), Scratch(*spare)
    n, k = len(offsets) - 1, best.shape[1]
    longest = 0
    for q in range(n):
        longest = max(longest, offsets[q + 1] - offsets[q])
    its_columns, its_weights = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.float32)
    taken = np.empty(longest, dtype=np.bool_)
    waiting, tops = np.empty(AT_ONCE, dtype=np.uint64), np.empty(k, dtype=np.uint64)
    stamps, query, dots, order = scratch.stamps, scratch.query, scratch.dots, scratch.order
    for q in range(n):
        if scratch.epoch[0] == 255:
            stamps[:] = 0
            scratch.epoch[0] = 0
        scratch.epoch[0] += 1
        epoch = np.uint8(scratch.epoch[0])
        m = 0
        for t in range(offsets[q], offsets[q + 1]):
            column = _column(dims, indices[t])
            if column >= 0 and weights[t] > 0:
                its_columns[m], its_weights[m], taken[m] = column, weights[t], False
                query[_u(column)] = weights[t]
                m += 1
        mine, size, unsorted = best[q], sizes[q], first_sorted
        for _ in range(min(query_cut, m)):
            term = -1
            for t in range(m):
                if not taken[t] and (term < 0 or its_weights[t] > its_weights[term]):
                    term = t
            taken[term] = True
            c = its_columns[term]
            first, blocks = arrays.lists[c], arrays.lists[c + 1] - arrays.lists[c]
            if blocks == 0:
                continue
            work[1] += _sum(arrays, c, its_columns[:m], its_weights[:m], dots)
            if unsorted:
                unsorted = False
                for b in range(blocks):
                    order[b] = (np.uint64(_bits(dots[b])) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - np.uint64(b))  # type: ignore[call-arg]
                for b in range((blocks >> 1) - 1, -1, -1):
                    _sift(order, b, blocks)
                left = blocks
                while left > 0:
                    top = np.int64(_slot(order[0]))
                    if size == k and dots[top] < heap_factor * _score(mine[0]):
                        break  # what follows is lower still
                    left -= 1
                    order[0] = order[left]
                    _sift(order, 0, left)
                    size = _enter(
                        arrays, base, arrays.blocks[first + top], arrays.blocks[first + top + 1], allowed, stamps,
                        epoch, waiting, query, mine, size, work,
                    )  # fmt: skip
                continue
            for b in range(blocks):
                if size == k and dots[_u(b)] < heap_factor * _score(mine[0]):
                    continue
                size = _enter(
                    arrays, base, arrays.blocks[first + b], arrays.blocks[first + b + 1], allowed, stamps, epoch,
                    waiting, query, mine, size, work,
                )  # fmt: skip
        if n_knn > 0:
            size = _refine(arrays, base, n_knn, allowed, stamps, epoch, query, mine, size, tops, work)
        sizes[q] = size
        for t in range(m):
            query[_u(its_columns[t])] = 0
    if len(scores) > 0:
        for q in range(n):
            _sorted(best[q])
        ranked_compiled(best, arrays.starts, 0, 0, scores, ids)
    return True


@njit(cache=True, nogil=True, boundscheck=False)
def scan_compiled(base, dims, offsets, indices, weights, best, sizes, spare, *held):
    arrays, query = Arrays(*held), Scratch(*spare).query
    for q in range(len(offsets) - 1):
        for t in range(offsets[q], offsets[q + 1]):
            column = _column(dims, indices[t])
            if column >= 0:
                query[_u(column)] = weights[t]
        size = sizes[q]
        for row in range(len(arrays.starts) - 1):
            slot = np.uint64(arrays.starts[row])
            slots = np.uint64(arrays.starts[row + 1]) - slot
            if slots > 0:
                score = _dot(arrays.ids, arrays.numbers, query, slot, slots)
                size = _entered(score, np.uint64(base) + slot, best[q], size)
        sizes[q] = size
        for t in range(offsets[q], offsets[q + 1]):
            column = _column(dims, indices[t])
            if column >= 0:
                query[_u(column)] = 0
