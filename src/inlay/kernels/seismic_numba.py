"""The compiled forms of `inlay.kernels.seismic`, but for the search itself; see there for arguments and results."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.postings_numba import _offer
from inlay.kernels.seismic import LANES
from inlay.kernels.seismic_table_numba import _opened

__all__ = ["ranked_compiled", "scan_compiled", "sound_compiled"]

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


@intrinsic
def _eight_sums(typingctx: Any, ids: Any, numbers: Any, query: Any, slot: Any, slots: Any) -> Any:
    """What the eight numbers of some slots add up to with the query's, each by itself: a tuple of eight float32.

    In vectors but for the query, which is looked up number by number: gathers of a whole vector are no faster.
    """
    signature = types.UniTuple(types.float32, LANES)(ids, numbers, query, slot, slots)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        at, held, asked = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip((ids, numbers, query), args[:3])
        )
        size, lane = ir.IntType(64), ir.IntType(32)
        halves, words, floats = (ir.VectorType(t, LANES) for t in (ir.IntType(16), lane, ir.FloatType()))
        sums = cgutils.alloca_once_value(builder, ir.Constant(floats, None))
        first = builder.mul(args[3], ir.Constant(size, LANES))
        with cgutils.for_range(builder, args[4]) as loop:
            begin = builder.add(first, builder.mul(loop.index, ir.Constant(size, LANES)))
            theirs = ir.Constant(floats, ir.Undefined)
            for i in range(LANES):
                column = builder.load(builder.gep(at, [builder.add(begin, ir.Constant(size, i))]))
                own = builder.load(builder.gep(asked, [builder.zext(column, size)]))
                theirs = builder.insert_element(theirs, own, ir.Constant(lane, i))
            head = builder.gep(held, [begin])
            if numbers.dtype == types.uint16:  # as in `_number`
                bits = builder.load(builder.bitcast(head, halves.as_pointer()), align=2)
                moved = builder.shl(builder.zext(bits, words), ir.Constant(words, [13] * LANES))
                wide = builder.fmul(builder.bitcast(moved, floats), ir.Constant(floats, [2.0**112] * LANES))
            else:
                wide = builder.load(builder.bitcast(head, floats.as_pointer()), align=4)
            builder.store(builder.fadd(builder.load(sums), builder.fmul(theirs, wide)), sums)
        done = builder.load(sums)
        each = [builder.extract_element(done, ir.Constant(lane, i)) for i in range(LANES)]
        return context.make_tuple(builder, signature.return_type, each)

    return signature, codegen


@njit(cache=True, nogil=True, boundscheck=False)
def _dot(ids, numbers, query, slot, slots):
    """The dot product of a row with the query."""
    s: Any = _eight_sums(ids, numbers, query, _u(slot), _u(slots))  # type: ignore[call-arg]
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


@njit(cache=True, nogil=True, boundscheck=False)
def _entered(score, slot, best, size):
    """Offer a row that has something in common with the query."""
    if score > 0:
        key = (np.uint64(_bits(score)) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - np.uint64(slot))  # type: ignore[call-arg]
        return _offer(best, size, key)
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
def scan_compiled(table, ids, numbers, entry_codes, base, offsets, indices, weights, best, sizes):
    arrays, scratch, dims = _opened(table, ids, numbers, entry_codes)
    query = scratch.query
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
