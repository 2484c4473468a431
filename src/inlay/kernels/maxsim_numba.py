"""Compiled form of MaxSim (see `maxsim.py`): documents pass a register tile whose lanes are query tokens.

The query is turned once so that its tokens lie side by side, [dim, tokens], and stays in L1. Each number of a handful
of document tokens is spread over a vector and multiplied with the query tokens' numbers of that dimension. So a sum
never has to be folded across lanes, and the largest of each query token is a running maximum of whole vectors. float32
is read where it lies, all else is widened into a small block first. int8 runs the same way with pairs of 16-bit
numbers, which processors multiply and add two at a time (`pmaddwd`).

Memory is asked for a few bytes a step, tiles ahead: all lines of a tile at once would fill the queue of those that are
on their way, and the processor would stand still until it drains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.dense_numba import _FEATURES, AHEAD, LANES, _widen

__all__ = ["COLUMNS", "LANES", "score", "score_int8", "score_residual"]

COLUMNS = 2 * LANES  # query tokens of one pass: two vectors
# Document tokens of one tile: two sums each, and registers must be left for the query's two vectors and the number.
TOKENS = 12 if "+avx512f" in _FEATURES else 6
_FLOAT, _WORD = ir.FloatType(), ir.IntType(32)


def _tile_of(vectors: int, integers: bool) -> Callable[..., Any]:
    """Raise `best` float32 [tokens] by the dots of `TOKENS` document tokens with `vectors` · LANES query tokens.

    It is called with the query [dim, tokens], the first of its columns, the address of the tokens [TOKENS, dim], a
    factor for each of them, float32 [TOKENS] or None, the address of what will be read, and how many bytes of that to
    ask for a dimension. Of integers, dim counts pairs of int16, the first in the lower half of an int32.
    """

    @intrinsic
    def tile(typingctx: Any, query: Any, column: Any, block: Any, factors: Any, best: Any, soon: Any, step: Any) -> Any:
        signature = types.void(query, column, block, factors, best, soon, step)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            floats, words = ir.VectorType(_FLOAT, LANES), ir.VectorType(_WORD, LANES)
            halves = ir.VectorType(ir.IntType(16), 2 * LANES)
            summed = words if integers else floats
            left = context.make_array(query)(context, builder, args[0])
            target = context.make_array(best)(context, builder, args[4])
            dim, width = cgutils.unpack_tuple(builder, left.shape, 2)
            size = dim.type
            tokens = builder.inttoptr(args[2], summed.element.as_pointer())

            def number(i: int) -> ir.Value:
                return ir.Constant(size, i)

            def spread(value: ir.Value, kind: ir.Type) -> ir.Value:
                everywhere, undefined = ir.Constant(words, None), ir.Constant(kind, ir.Undefined)
                first = builder.insert_element(undefined, value, ir.Constant(_WORD, 0))
                return builder.shuffle_vector(first, undefined, everywhere)

            def vector(data: ir.Value, offset: ir.Value, kind: ir.Type) -> ir.Value:
                return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())

            def pairs(total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
                """`total` and the products of both halves: what LLVM makes one multiply-add of where there is one."""
                wide = ir.VectorType(_WORD, 2 * LANES)
                a, b = (builder.sext(builder.bitcast(x, halves), wide) for x in (a, b))
                product = builder.mul(a, b)
                even, odd = (ir.Constant(words, list(range(i, 2 * LANES, 2))) for i in (0, 1))
                both = builder.add(*(builder.shuffle_vector(product, product, half) for half in (even, odd)))
                return builder.add(total, both)

            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(floats, [floats] * 3), f"llvm.fmuladd.v{LANES}f32"
            )
            totals = [cgutils.alloca_once_value(builder, ir.Constant(summed, None)) for _ in range(TOKENS * vectors)]
            byte = ir.IntType(8).as_pointer()
            ask = builder.module.declare_intrinsic(
                "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, _WORD, _WORD, _WORD])
            )
            read, into_l1, data = (ir.Constant(_WORD, i) for i in (0, 3, 1))
            with cgutils.for_range(builder, dim) as loop:
                next_line = builder.add(args[5], builder.mul(loop.index, args[6]))
                builder.call(ask, [builder.inttoptr(next_line, byte), read, into_l1, data])
                line = builder.add(builder.mul(loop.index, width), args[1])
                asked = [
                    builder.load(vector(left.data, builder.add(line, number(v * LANES)), summed), align=4)
                    for v in range(vectors)
                ]
                here = builder.gep(tokens, [loop.index])
                # Hidden from LLVM, which would keep an address for each token, run out of registers, and spill sums.
                apart = builder.asm(ir.FunctionType(size, [size]), "", "=r,0", [dim], True)
                for i in range(TOKENS):
                    x = spread(builder.load(builder.gep(here, [builder.mul(number(i), apart)])), summed)
                    for q, total in zip(asked, totals[i * vectors :]):
                        so_far = builder.load(total)
                        more = pairs(so_far, q, x) if integers else builder.call(multiply_add, [q, x, so_far])
                        builder.store(more, total)
            for v in range(vectors):
                place = vector(target.data, builder.add(args[1], number(v * LANES)), floats)
                largest = builder.load(place, align=4)
                for i in range(TOKENS):
                    total = builder.load(totals[i * vectors + v])
                    total = builder.sitofp(total, floats) if integers else total
                    if factors != types.none:
                        by = context.make_array(factors)(context, builder, args[3])
                        factor = spread(builder.load(builder.gep(by.data, [number(i)])), floats)
                        total = builder.fmul(total, factor)
                    above = builder.fcmp_ordered(">", total, largest)
                    largest = builder.select(above, total, largest)
                builder.store(largest, place, align=4)
            return context.get_dummy_value()

        return signature, codegen

    return tile


_two_floats, _one_float = _tile_of(2, False), _tile_of(1, False)
_two_words, _one_word = _tile_of(2, True), _tile_of(1, True)


@njit(inline="always")
def _copy(source, target):
    # Of slices the index begins at 0, which numba must see to vectorise.
    for t in range(len(source)):
        target[t] = _widen(source[t])  # type: ignore[call-arg]


@njit(inline="always")
def _copy_words(source, target):
    for t in range(len(source)):
        target[t] = source[t]


@njit(inline="always")
def _soon(tile, start, stop, offsets, ids, i, n):
    """First token of a document's tile, or, past its end, of the next document's; so that memory is asked in time."""
    left = tile - (stop - start + TOKENS - 1) // TOKENS
    if left < 0 or i + 1 == n:
        return start + tile * TOKENS
    return offsets[i + 1 if ids is None else ids[i + 1]] + left * TOKENS


@njit(inline="always")
def _total(best, weights, tokens):
    """Sum of the largest of each query token; −inf where a document had none to offer."""
    total = np.float32(0)
    for j in range(tokens):
        total += best[j] * weights[j]
    return total


@njit(inline="always")
def _share(size, steps, width):
    """Bytes to ask for a step, where all steps of all columns together are to ask for `size`."""
    return -(-size // (steps * -(-width // COLUMNS)))


@njit(inline="always")
def _raise(query, block, factors, best, soon, step):
    """All query tokens past one tile of document tokens."""
    dim, width = query.shape
    for column in range(0, width - LANES, COLUMNS):
        _two_floats(query, column, block, factors, best, soon, step)  # type: ignore[call-arg]
        soon += dim * step
    if width % COLUMNS:
        _one_float(query, width - LANES, block, factors, best, soon, step)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def score(query, tokens, values, offsets, ids, out):
    """Scores into `out` float32 [n] of the documents `ids`, or of all.

    `query` float32 [dim, whole vectors], of which the first `tokens` columns count; `values` float32 or uint16 (bits of
    float16) [tokens, dim].
    """
    dim, width = query.shape
    block, best = np.zeros((TOKENS, dim), np.float32), np.empty(width, np.float32)
    ones = np.ones(width, np.float32)
    size = dim * values.itemsize
    ahead, step = max(1, AHEAD // (TOKENS * size)), _share(TOKENS * size, dim, width)
    there, here = np.int64(values.ctypes.data), np.int64(block.ctypes.data)
    for i in range(len(out)):
        document = i if ids is None else ids[i]
        start, stop = offsets[document], offsets[document + 1]
        if start == stop:
            out[i] = -np.inf
            continue
        best[:] = -np.inf
        for tile in range((stop - start + TOKENS - 1) // TOKENS):
            low, soon = start + tile * TOKENS, _soon(tile + ahead, start, stop, offsets, ids, i, len(out))
            at = there + low * size
            if values.itemsize != 4 or low + TOKENS > stop:
                at = here
                for t in range(TOKENS):  # at the end the last token is taken again, which changes no maximum
                    _copy(values[min(low + t, stop - 1)], block[t])
            _raise(query, at, None, best, there + soon * size, step)
        out[i] = _total(best, ones, tokens)


@njit(cache=True, nogil=True, boundscheck=False)
def score_int8(query, steps, tokens, values, scales, offsets, ids, out):
    """The same of int8 `values` with `scales` float32 [tokens].

    `query` int32 [pairs, whole vectors] holds int16 numbers of dimensions 2p and 2p + 1; what one of their steps is
    worth is `steps` float32 [columns].
    """
    pairs, width = query.shape
    dim = values.shape[1]
    block, best = np.zeros((TOKENS, 2 * pairs), np.int16), np.empty(width, np.float32)
    words = block.view(np.int32)
    factors = np.empty(TOKENS, np.float32)
    ahead, step = max(1, AHEAD // (TOKENS * dim)), _share(TOKENS * dim, pairs, width)
    there, here = np.int64(values.ctypes.data), np.int64(words.ctypes.data)
    for i in range(len(out)):
        document = i if ids is None else ids[i]
        start, stop = offsets[document], offsets[document + 1]
        if start == stop:
            out[i] = -np.inf
            continue
        best[:] = -np.inf
        for tile in range((stop - start + TOKENS - 1) // TOKENS):
            low = start + tile * TOKENS
            soon = there + _soon(tile + ahead, start, stop, offsets, ids, i, len(out)) * dim
            for t in range(TOKENS):
                row = min(low + t, stop - 1)
                _copy_words(values[row], block[t, :dim])
                factors[t] = scales[row]
            for column in range(0, width - LANES, COLUMNS):
                _two_words(query, column, here, factors, best, soon, step)  # type: ignore[call-arg]
                soon += pairs * step
            if width % COLUMNS:
                _one_word(query, width - LANES, here, factors, best, soon, step)  # type: ignore[call-arg]
        out[i] = _total(best, steps, tokens)


@njit(inline="always")
def _decode(centroid, weights, code, bits, target):
    """Centroid and residual into `target`; the square of its length."""
    mask, here, shift = (1 << bits) - 1, 0, 0
    shared = len(weights) == 1
    square = np.float32(0)
    for t in range(len(target)):
        bucket = (code[here] >> shift) & mask
        x = centroid[t] + weights[0 if shared else t, bucket]
        target[t] = x
        square += x * x
        shift += bits
        if shift == 8:
            here, shift = here + 1, 0
    return square


@njit(cache=True, nogil=True, boundscheck=False, fastmath={"contract", "reassoc"})
def score_residual(query, tokens, centroids, weights, near, codes, bits, unit, offsets, ids, out):
    """The same of tokens kept as the number of a centroid and `bits` bits a dimension, which must divide 8."""
    dim, width = query.shape
    block, best = np.zeros((TOKENS, dim), np.float32), np.empty(width, np.float32)
    ones = np.ones(width, np.float32)
    factors = np.ones(TOKENS, np.float32)
    here = np.int64(block.ctypes.data)
    for i in range(len(out)):
        document = i if ids is None else ids[i]
        start, stop = offsets[document], offsets[document + 1]
        if start == stop:
            out[i] = -np.inf
            continue
        best[:] = -np.inf
        for low in range(start, stop, TOKENS):
            for t in range(TOKENS):
                row = min(low + t, stop - 1)
                square = _decode(centroids[near[row]], weights, codes[row], bits, block[t])
                if unit:
                    factors[t] = np.float32(1) / np.sqrt(square) if square > 0 else np.float32(0)
            _raise(query, here, factors, best, here, 0)  # codes are few bytes: nothing is asked for
        out[i] = _total(best, ones, tokens)
