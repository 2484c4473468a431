"""A segment's arrays from a table of their addresses (`inlay.kernels.seismic.Bound`), inside compiled code.

Python hands compiled code an array in about a tenth of a microsecond, one in a tuple more slowly, and longer where a
query's own work has pushed Python's out of the caches. Twenty-three of them at each call would cost as much as scoring
the rows of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from inlay.kernels.seismic import Arrays, Scratch

__all__: list[str] = []


@intrinsic
def _flat(typingctx: Any, table: Any, at: Any, dtype: Any) -> Any:
    """The array of one dimension, of numbers of a type, whose address and size a line of the table has."""
    made = types.Array(dtype.dtype, 1, "C")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        lines = context.make_array(table)(context, builder, args[0]).data
        first = builder.gep(lines, [builder.mul(args[1], ir.Constant(args[1].type, 2))])
        size = builder.load(builder.gep(first, [ir.Constant(args[1].type, 1)]))
        array, width = context.make_array(made)(context, builder), dtype.dtype.bitwidth // 8
        data = builder.inttoptr(builder.load(first), context.get_data_type(dtype.dtype).as_pointer())
        strides = cgutils.pack_array(builder, [ir.Constant(size.type, width)])
        populate_array(
            array, data, cgutils.pack_array(builder, [size]), strides, ir.Constant(size.type, width), None, None
        )
        return array._getvalue()

    return made(table, at, dtype), codegen


def _touching(near: int) -> Any:
    """Code that asks for the cache line of one number of an array, by its place in memory order: `near` is 3 for the
    first level of caches, 2 for the second.
    """

    @intrinsic
    def touch(typingctx: Any, numbers: Any, at: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            array = context.make_array(numbers)(context, builder, args[0])
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            ask = builder.module.declare_intrinsic(
                "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            )
            read, level, data = (ir.Constant(number, i) for i in (0, near, 1))
            builder.call(ask, [builder.bitcast(builder.gep(array.data, [args[1]]), byte), read, level, data])
            return context.get_dummy_value()

        return types.void(numbers, at), codegen

    return touch


_touch, _touch_far = _touching(3), _touching(2)
_line: Any = _flat  # without the first argument, as compiled code calls it


@njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _opened(table, ids, numbers, entry_codes):
    """(`Arrays`, `Scratch`, dims), in the order in which `Bound.of` wrote them; `scales` and `graph` in one line."""
    arrays = Arrays(
        _line(table, 0, np.uint32), ids, numbers, _line(table, 3, np.int64), _line(table, 4, np.int64),
        _line(table, 5, np.uint64), _line(table, 6, np.float32), _line(table, 7, np.int64), _line(table, 8, ids.dtype),
        _line(table, 9, np.uint32), _line(table, 10, np.uint8), _line(table, 11, np.int64), _line(table, 12, np.uint8),
        entry_codes, _line(table, 14, np.int64), _line(table, 15, np.uint8), _line(table, 16, np.uint32),
    )  # fmt: skip
    scratch = Scratch(
        _line(table, 17, np.uint64), _line(table, 18, np.int64), _line(table, 19, np.float32),
        _line(table, 20, np.float32), _line(table, 21, np.uint64),
    )  # fmt: skip
    return arrays, scratch, _line(table, 22, np.int64)
