"""Compiled form of dense scores (see `dense.py`): one loop for one query, one register tile for many.

Rows are float32, float16 (handed over as the uint16 of their bits, since numba has no half type) or int8; each is
widened to float32 in registers, so a query never loses a digit and a row costs only the bytes it is stored in.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

__all__ = ["converts_halves", "one", "tile"]

# What code is compiled for, which NUMBA_CPU_NAME can set below what the processor has.
_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
LANES = 16 if "+avx512f" in _FEATURES else 8 if "+avx2" in _FEATURES else 4
TILE = 4  # queries × rows of a tile: 16 sums
ROWS_AT_ONCE = 4 if LANES == 16 else 2  # of a tile: all sums stay in 32 vector registers, but only 8 of them in 16
ROWS_IN_CACHE = 16  # rows that stay in L1 while every query passes over them
AHEAD = 8 << 10  # bytes of rows asked for before they are needed; the processor's own prefetch stops at every 4 KiB
APART = 64 << 10  # bytes between rows that are read side by side
LINE = 64
_FLOAT = ir.FloatType()


def converts_halves() -> bool:
    """Whether float16 is converted by an instruction; without one, LLVM would call a routine that is not linked."""
    return "+f16c" in _FEATURES or platform.machine().lower() in ("arm64", "aarch64")


def _widened(builder: ir.IRBuilder, value: ir.Value, stored: types.Type, to: ir.Type) -> ir.Value:
    """`value`, a scalar or vector as it is stored, as float32."""
    if stored == types.int8:
        return builder.sitofp(value, to)
    if stored == types.uint16:
        half = ir.HalfType() if to is _FLOAT else ir.VectorType(ir.HalfType(), LANES)
        return builder.fpext(builder.bitcast(value, half), to)
    return value


@intrinsic
def _widen(typingctx: Any, value: types.Type) -> Any:
    """One stored number as float32."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return _widened(builder, args[0], value, _FLOAT)

    return types.float32(value), codegen


@intrinsic
def _prefetch(typingctx: Any, rows: Any, row: Any) -> Any:
    """Ask for every cache line of a row."""
    signature = types.void(rows, row)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        array = context.make_array(rows)(context, builder, args[0])
        dim = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        byte, number, size = ir.IntType(8).as_pointer(), ir.IntType(32), dim.type
        ask = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        head = builder.bitcast(builder.gep(array.data, [builder.mul(args[1], dim)]), byte)
        lines = builder.udiv(builder.mul(dim, ir.Constant(size, rows.dtype.bitwidth // 8)), ir.Constant(size, LINE))
        read, into_l1, data = (ir.Constant(number, i) for i in (0, 3, 1))
        with cgutils.for_range(builder, lines) as loop:
            address = builder.gep(head, [builder.mul(loop.index, ir.Constant(size, LINE))])
            builder.call(ask, [address, read, into_l1, data])
        return context.get_dummy_value()

    return signature, codegen


def _fold(builder: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    """The sum of each of these vectors, as lanes: every step adds neighbouring lanes and halves the vectors."""
    even, odd = (ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(i, 2 * LANES, 2))) for i in (0, 1))
    for _ in range(LANES.bit_length() - 1):
        vectors = [
            builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))
            for a, b in zip(vectors[::2], vectors[1::2])
        ]
    return vectors


def _tile_of(squared: bool) -> Callable[..., Any]:
    """A 4 × 4 tile: dots (or squared distances) of four queries and four rows over the whole vectors of `LANES`.

    Written out as vectors, because the loop vectoriser does not keep sixteen sums in registers. It is called with the
    numbers of its queries (`js`) and rows (`at`), the rows' scales (`by`), and float32 [16] for the sums.
    """

    @intrinsic
    def tile(typingctx: Any, queries: Any, js: Any, rows: Any, at: Any, by: Any, sums: Any) -> Any:
        signature = types.void(queries, js, rows, at, by, sums)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            stored = rows.dtype
            floats = ir.VectorType(_FLOAT, LANES)
            raw = ir.VectorType(context.get_data_type(stored), LANES)
            left = context.make_array(queries)(context, builder, args[0])
            right = context.make_array(rows)(context, builder, args[2])
            target = context.make_array(sums)(context, builder, args[5])
            dim = cgutils.unpack_tuple(builder, right.shape, 2)[1]
            lanes = ir.Constant(dim.type, LANES)

            def heads(data: ir.Value, numbers: ir.Value) -> list[ir.Value]:
                return [builder.gep(data, [builder.mul(i, dim)]) for i in cgutils.unpack_tuple(builder, numbers, TILE)]

            def vector_at(head: ir.Value, offset: ir.Value, vector: ir.Type) -> ir.Value:
                return builder.bitcast(builder.gep(head, [offset]), vector.as_pointer())

            def spread(factor: ir.Value) -> ir.Value:
                first, undefined = ir.Constant(ir.IntType(32), 0), ir.Constant(floats, ir.Undefined)
                everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
                return builder.shuffle_vector(builder.insert_element(undefined, factor, first), undefined, everywhere)

            query_heads, row_heads = heads(left.data, args[1]), heads(right.data, args[3])
            factors = [spread(factor) for factor in cgutils.unpack_tuple(builder, args[4], TILE)]
            totals = [cgutils.alloca_once_value(builder, ir.Constant(floats, None)) for _ in range(TILE * TILE)]
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(floats, [floats] * 3), f"llvm.fmuladd.v{LANES}f32"
            )
            for at_once in range(0, TILE, ROWS_AT_ONCE):
                part = range(at_once, at_once + ROWS_AT_ONCE)
                with cgutils.for_range(builder, builder.udiv(dim, lanes)) as loop:
                    offset = builder.mul(loop.index, lanes)
                    loads = [
                        builder.load(vector_at(row_heads[r], offset, raw), align=stored.bitwidth // 8) for r in part
                    ]
                    xs = [_widened(builder, x, stored, floats) for x in loads]
                    if squared and stored == types.int8:
                        xs = [builder.fmul(x, factors[r]) for x, r in zip(xs, part)]
                    for j, head in enumerate(query_heads):
                        q = builder.load(vector_at(head, offset, floats), align=4)
                        for x, r in zip(xs, part):
                            total = totals[j * TILE + r]
                            a, b = (builder.fsub(q, x),) * 2 if squared else (q, x)
                            builder.store(builder.call(multiply_add, [a, b, builder.load(total)]), total)
            for i, folded in enumerate(_fold(builder, [builder.load(total) for total in totals])):
                address = vector_at(target.data, ir.Constant(dim.type, i * LANES), floats)
                builder.store(folded, address, align=4)
            return context.get_dummy_value()

        return signature, codegen

    return tile


_dots_tile = _tile_of(squared=False)
_squares_tile = _tile_of(squared=True)


@njit(cache=True, nogil=True, boundscheck=False, fastmath=True)
def _dots(query: np.ndarray, rows: np.ndarray, scales: np.ndarray, ids: np.ndarray | None, out: np.ndarray) -> None:
    """Dot products of rows, read at four places at a time.

    A processor fetches ahead along each of several places it sees being read, and waits for memory that much less
    (`python -m benchmarks flat`). The last few rows pass the same loop, and so do rows that a mask leaves: what a row
    scores does not depend on where it lies.
    """
    n, scaled = len(out), len(scales) > 0
    apart = max(1, min(APART // (rows.shape[1] * rows.itemsize), n // 4))
    fours = n // (4 * apart) * apart  # that lie apart
    for four in range(fours + (n - 4 * fours + 3) // 4):
        if four < fours:
            a = four // apart * 4 * apart + four % apart
            b, c, d = a + apart, a + 2 * apart, a + 3 * apart
        else:
            a = 4 * four
            b, c, d = min(a + 1, n - 1), min(a + 2, n - 1), min(a + 3, n - 1)
        i, j, k, m = (a, b, c, d) if ids is None else (ids[a], ids[b], ids[c], ids[d])
        first = second = third = fourth = np.float32(0)
        for t in range(rows.shape[1]):
            first += query[t] * _widen(rows[i, t])  # type: ignore[call-arg]
            second += query[t] * _widen(rows[j, t])  # type: ignore[call-arg]
            third += query[t] * _widen(rows[k, t])  # type: ignore[call-arg]
            fourth += query[t] * _widen(rows[m, t])  # type: ignore[call-arg]
        if scaled:
            first, second, third, fourth = first * scales[i], second * scales[j], third * scales[k], fourth * scales[m]
        out[a], out[b], out[c], out[d] = first, second, third, fourth


@njit(cache=True, nogil=True, boundscheck=False, fastmath=True)
def one(
    query: np.ndarray, rows: np.ndarray, scales: np.ndarray, ids: np.ndarray | None, squared: bool, out: np.ndarray
) -> None:
    """Scores of `query` float32 [dim] with `rows[ids]`, or with all rows, into `out` float32 [n]; `scales` float32 [0]
    where rows are not int8.
    """
    if not squared:
        _dots(query, rows, scales, ids, out)
        return
    scaled, n = len(scales) > 0, len(out)
    ahead = max(1, AHEAD // (rows.shape[1] * rows.itemsize))
    for i in range(n):
        soon = min(i + ahead, n - 1)
        _prefetch(rows, soon if ids is None else ids[soon])  # type: ignore[call-arg]
        row = i if ids is None else ids[i]
        scale = scales[row] if scaled else np.float32(1)
        total = np.float32(0)
        for t in range(rows.shape[1]):
            difference = query[t] - scale * _widen(rows[row, t])  # type: ignore[call-arg]
            total += difference * difference
        out[i] = -total


@njit(cache=True, nogil=True, boundscheck=False, fastmath=True)
def _add_tail(
    queries: np.ndarray,
    js: tuple[int, int, int, int],
    rows: np.ndarray,
    at: tuple[int, int, int, int],
    by: tuple[Any, ...],
    whole: int,
    squared: bool,
    sums: np.ndarray,
) -> None:
    """The columns that do not fill a vector."""
    for a in range(TILE):
        for b in range(TILE):
            for t in range(whole, rows.shape[1]):
                q = queries[js[a], t]
                x: np.float32 = _widen(rows[at[b], t])  # type: ignore[call-arg]
                sums[a * TILE + b] += (q - by[b] * x) * (q - by[b] * x) if squared else q * x


@njit(cache=True, nogil=True, boundscheck=False, fastmath=True)
def tile(
    queries: np.ndarray, rows: np.ndarray, scales: np.ndarray, ids: np.ndarray | None, squared: bool, out: np.ndarray
) -> None:
    """The same for `queries` float32 [q, dim] into `out` float32 [q, n], four queries by four rows at a time.

    At an edge the last query or row is taken again: its score is computed twice and is the same.
    """
    scaled, last, n, dim = len(scales) > 0, queries.shape[0] - 1, out.shape[1], rows.shape[1]
    whole, sums, plain = dim - dim % LANES, np.empty(TILE * TILE, np.float32), np.float32(1)
    for start in range(0, n, ROWS_IN_CACHE):
        stop = min(start + ROWS_IN_CACHE, n)
        for j in range(0, queries.shape[0], TILE):
            js = (j, min(j + 1, last), min(j + 2, last), min(j + 3, last))
            for i in range(start, stop, TILE):
                if j == 0:  # the rest of the queries give the next rows time to arrive
                    for soon in range(i + ROWS_IN_CACHE, min(i + ROWS_IN_CACHE + TILE, n)):
                        _prefetch(rows, soon if ids is None else ids[soon])  # type: ignore[call-arg]
                places = (i, min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1))
                if ids is None:
                    at = places
                else:
                    at = (ids[places[0]], ids[places[1]], ids[places[2]], ids[places[3]])
                by = (plain, plain, plain, plain)
                if scaled:
                    by = (scales[at[0]], scales[at[1]], scales[at[2]], scales[at[3]])
                if squared:
                    _squares_tile(queries, js, rows, at, by, sums)
                else:
                    _dots_tile(queries, js, rows, at, by, sums)
                if whole < dim:
                    _add_tail(queries, js, rows, at, by, whole, squared, sums)
                for a in range(TILE):
                    for b in range(TILE):
                        total = sums[a * TILE + b]
                        out[js[a], places[b]] = -total if squared else by[b] * total
