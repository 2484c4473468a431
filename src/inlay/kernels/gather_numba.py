"""The compiled forms of `inlay.kernels.gather`; see there for arguments and results.

Keys jump through memory, which no processor foresees: each row is asked for some kilobytes of rows before its turn.
That alone makes a gather three to four times as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.dense_numba import LANES

__all__ = ["distinct_compiled", "gather_compiled", "sum_bags_compiled"]

AHEAD = 4 << 10  # bytes of rows asked for before they are needed: enough to hide memory, not enough to fill L1
LINE = 64


@intrinsic
def _ask(typingctx: Any, rows: Any, row: Any, begin: Any, count: Any) -> Any:
    """Ask for the cache lines of numbers [begin, begin + count) of a row."""
    signature = types.void(rows, row, begin, count)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        array = context.make_array(rows)(context, builder, args[0])
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        byte, number, size = ir.IntType(8).as_pointer(), ir.IntType(32), width.type
        ask = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        head = builder.gep(array.data, [builder.add(builder.mul(args[1], width), args[2])])
        nbytes = builder.mul(args[3], ir.Constant(size, rows.dtype.bitwidth // 8))
        # From the start of the first line, so that a row which straddles lines is asked for whole.
        start = builder.ptrtoint(head, size)
        stop = builder.add(start, nbytes)
        start = builder.and_(start, ir.Constant(size, -LINE))
        lines = builder.udiv(
            builder.add(builder.sub(stop, start), ir.Constant(size, LINE - 1)), ir.Constant(size, LINE)
        )
        read, into_l1, data = (ir.Constant(number, i) for i in (0, 3, 1))
        with cgutils.for_range(builder, lines) as loop:
            address = builder.add(start, builder.mul(loop.index, ir.Constant(size, LINE)))
            builder.call(ask, [builder.inttoptr(address, byte), read, into_l1, data])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _widen(typingctx: Any, value: types.Type) -> Any:
    """One stored number as float32: bfloat16 is its upper half."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        if value == types.int8:
            return builder.sitofp(args[0], ir.FloatType())
        if value == types.uint16:
            whole = ir.IntType(32)
            bits = builder.shl(builder.zext(args[0], whole), ir.Constant(whole, 16))
            return builder.bitcast(bits, ir.FloatType())
        return args[0]

    return types.float32(value), codegen


def _sum_of(count: int) -> Callable[..., Any]:
    """The sum of rows, `count` whole vectors wide, held in registers until the last row: each row is read once."""

    @intrinsic
    def sum_block(typingctx: Any, rows: Any, keys: Any, start: Any, stop: Any, column: Any, target: Any) -> Any:
        """Rows `keys[start:stop]` from a column on, summed in order into `target` (which begins at that column)."""
        signature = types.void(rows, keys, start, stop, column, target)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            array, numbers, out = (
                context.make_array(of)(context, builder, args[i]) for of, i in ((rows, 0), (keys, 1), (target, 5))
            )
            width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
            floats, stored = ir.VectorType(ir.FloatType(), LANES), context.get_data_type(rows.dtype)
            raw, size = ir.VectorType(stored, LANES), width.type
            totals = [cgutils.alloca_once_value(builder, ir.Constant(floats, None)) for _ in range(count)]

            def place(head: ir.Value, vector: int, kind: ir.Type) -> ir.Value:
                address = builder.gep(head, [ir.Constant(size, vector * LANES)])
                return builder.bitcast(address, kind.as_pointer())

            with cgutils.for_range(builder, builder.sub(args[3], args[2])) as loop:
                key = builder.load(builder.gep(numbers.data, [builder.add(args[2], loop.index)]))
                head = builder.gep(array.data, [builder.add(builder.mul(key, width), args[4])])
                for i, total in enumerate(totals):
                    value = builder.load(place(head, i, raw), align=rows.dtype.bitwidth // 8)
                    if rows.dtype == types.uint16:
                        whole = ir.VectorType(ir.IntType(32), LANES)
                        half = ir.Constant(whole, [16] * LANES)
                        value = builder.bitcast(builder.shl(builder.zext(value, whole), half), floats)
                    elif rows.dtype == types.int8:
                        value = builder.sitofp(value, floats)
                    builder.store(builder.fadd(builder.load(total), value), total)
            for i, total in enumerate(totals):
                builder.store(builder.load(total), place(out.data, i, floats), align=4)
            return context.get_dummy_value()

        return signature, codegen

    return sum_block


_sum_eight, _sum_one = _sum_of(8), _sum_of(1)


# The inner loops run over slices, whose index begins at 0: of an index that was added to, numba cannot know that it is
# not negative, and then nothing is vectorised.


@njit(inline="always")
def _copy(source, target):
    for t in range(len(source)):
        target[t] = _widen(source[t])  # type: ignore[call-arg]


@njit(inline="always")
def _copy_scaled(source, scale, target):
    for t in range(len(source)):
        target[t] = scale * _widen(source[t])  # type: ignore[call-arg, operator]


@njit(inline="always")
def _add_scaled(source, scale, target):
    for t in range(len(source)):
        target[t] += scale * _widen(source[t])  # type: ignore[call-arg, operator]


@njit(cache=True, nogil=True, boundscheck=False)
def gather_compiled(rows, scales, keys, at, first, layers, width, out, key_stride, layer_stride):
    n, scaled = len(keys), len(scales) > 0
    begin, count = first * width, layers * width
    ahead = max(1, AHEAD // (count * rows.itemsize))
    joined = layer_stride == width and not scaled  # the layers lie side by side on both ends: one copy
    for i in range(min(ahead, n)):
        _ask(rows, keys[i], begin, count)  # type: ignore[call-arg]
    for i in range(n):
        if i + ahead < n:
            _ask(rows, keys[i + ahead], begin, count)  # type: ignore[call-arg]
        row = keys[i]
        to = (i if at is None else at[i]) * key_stride
        if joined:
            _copy(rows[row, begin : begin + count], out[to : to + count])
            continue
        for layer in range(layers):
            here, there = begin + layer * width, to + layer * layer_stride
            if scaled:
                _copy_scaled(rows[row, here : here + width], scales[row, first + layer], out[there : there + width])
            else:
                _copy(rows[row, here : here + width], out[there : there + width])


@njit(cache=True, nogil=True, boundscheck=False)
def _sum_vectors(rows, keys, offsets, count, out, key_stride):
    """Sums of the first `count` columns, a multiple of LANES; alone in its function, where nothing slows it down."""
    n, ahead = len(keys), max(4, 2 * AHEAD // (rows.shape[1] * rows.itemsize))
    for i in range(min(ahead, n)):
        _ask(rows, keys[i], 0, rows.shape[1])  # type: ignore[call-arg]
    for bag in range(len(offsets) - 1):
        i, stop = offsets[bag], offsets[bag + 1]
        for soon in range(i + ahead, min(stop + ahead, n)):
            _ask(rows, keys[soon], 0, rows.shape[1])  # type: ignore[call-arg]
        target, begin = out[bag * key_stride :], 0
        while begin + 8 * LANES <= count:
            _sum_eight(rows, keys, i, stop, begin, target[begin:])  # type: ignore[call-arg]
            begin += 8 * LANES
        while begin < count:
            _sum_one(rows, keys, i, stop, begin, target[begin:])  # type: ignore[call-arg]
            begin += LANES


@njit(cache=True, nogil=True, boundscheck=False)
def sum_bags_compiled(rows, scales, keys, offsets, layers, width, out, key_stride, layer_stride):
    scaled, count, done = len(scales) > 0, layers * width, 0
    if layer_stride == width and not scaled:
        done = count - count % LANES
        _sum_vectors(rows, keys, offsets, done, out, key_stride)
        if done == count:
            return
    for bag in range(len(offsets) - 1):
        for layer in range(layers):
            there = bag * key_stride + layer * layer_stride
            first = min(max(0, done - layer * width), width)
            target = out[there + first : there + width]
            for t in range(len(target)):
                target[t] = np.float32(0)
            for place in range(offsets[bag], offsets[bag + 1]):
                row = keys[place]
                scale = scales[row, layer] if scaled else np.float32(1)
                _add_scaled(rows[row, layer * width + first : (layer + 1) * width], scale, target)


@njit(cache=True, nogil=True, boundscheck=False)
def distinct_compiled(ids, seen, slot, epoch, unique, inverse):
    found = 0
    for t in range(len(ids)):
        id = ids[t]
        if seen[id] != epoch:
            seen[id] = epoch
            slot[id] = found
            unique[found] = id
            found += 1
        inverse[t] = slot[id]
    return found
