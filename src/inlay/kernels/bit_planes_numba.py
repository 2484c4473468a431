"""Compiled form of the scan over bit planes (see `bit_planes.py`): a block of eight rows at a time, in registers.

How many planes there are is known when it is compiled (they come as tuples), so a word of every plane is loaded once
and meets every plane of the query. Where a processor has no instruction that counts the bits of a vector's lanes, LLVM
makes one of several.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.bit_planes import LANES
from inlay.kernels.dense_numba import _prefetch
from inlay.kernels.topk_numba import offer

__all__ = ["scan"]

BLOCKS_AT_ONCE = 256  # 2,048 scores, and the rows of that many, stay in L2 while every query passes over them
AHEAD = 8 << 10  # bytes of rows asked for before they are needed
_WORD = ir.IntType(64)


@intrinsic
def _products(
    typingctx: Any, queries: Any, j: Any, asked: Any, kept: Any, blocks: Any, block: Any, base: Any, out: Any
) -> Any:
    """`base` − 2 · (weighted count of bits in which query j differs) for the rows of a block, into `out` int32 [8].

    `queries` uint64 [q, planes, words], `blocks` uint64 [n, planes · words · 8]; `asked` and `kept` are tuples as long
    as the queries and the rows have planes.
    """
    signature = types.void(queries, j, asked, kept, blocks, block, base, out)
    n_asked, n_kept = asked.count, kept.count

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        eight, short = ir.VectorType(_WORD, LANES), ir.VectorType(ir.IntType(32), LANES)
        everywhere = ir.Constant(short, [0] * LANES)
        left, right, target = (
            context.make_array(kind)(context, builder, value)
            for kind, value in ((queries, args[0]), (blocks, args[4]), (out, args[7]))
        )
        words = cgutils.unpack_tuple(builder, left.shape, 3)[2]
        size, lanes = words.type, ir.Constant(words.type, LANES)
        width = cgutils.unpack_tuple(builder, right.shape, 2)[1]
        query = builder.gep(left.data, [builder.mul(args[1], builder.mul(words, ir.Constant(size, n_asked)))])
        rows = builder.gep(right.data, [builder.mul(args[5], width)])
        ones = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(eight, [eight]), f"llvm.ctpop.v{LANES}i64"
        )

        def splat(value: ir.Value) -> ir.Value:
            single = builder.insert_element(ir.Constant(eight, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(single, single, everywhere)

        # Counts of equal weight share a sum: s + t is what decides it.
        sums = [cgutils.alloca_once_value(builder, ir.Constant(eight, None)) for _ in range(n_asked + n_kept - 1)]
        with cgutils.for_range(builder, words) as loop:
            theirs = []
            for t in range(n_kept):
                at = builder.add(builder.mul(words, ir.Constant(size, t)), loop.index)
                address = builder.gep(rows, [builder.mul(at, lanes)])
                theirs.append(builder.load(builder.bitcast(address, eight.as_pointer()), align=8))
            for s in range(n_asked):
                at = builder.add(builder.mul(words, ir.Constant(size, s)), loop.index)
                own = splat(builder.load(builder.gep(query, [at])))
                for t, other in enumerate(theirs):
                    counts = builder.call(ones, [builder.xor(own, other)])
                    builder.store(builder.add(builder.load(sums[s + t]), counts), sums[s + t])
        total = ir.Constant(eight, None)
        for i, each in enumerate(sums):
            weight = ir.Constant(eight, [len(sums) - i] * LANES)  # and 1 more, for the factor of 2
            total = builder.add(total, builder.shl(builder.load(each), weight))
        found = builder.trunc(builder.sub(splat(args[6]), total), short)
        builder.store(found, builder.bitcast(target.data, short.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, codegen


@njit(cache=True, nogil=True, boundscheck=False)
def scan(
    queries: np.ndarray, asked: np.ndarray, query_bits: tuple[int, ...], row_bits: tuple[int, ...], blocks: np.ndarray,
    levels: np.ndarray, table: np.ndarray, at: np.ndarray, allowed: np.ndarray, count: int, dims: int, k: int,
    scores: np.ndarray, ids: np.ndarray, filled: np.ndarray, threshold: np.ndarray,
) -> None:  # fmt: skip
    """Offer the cosines of every query with all rows, or with the `allowed` ones in the blocks `at`.

    `asked` float32 [q] is 1 / |c| of the queries, `table` of each level. The last four arrays are the state of a
    `TopK`, to which the rows of the i-th block that is read are 8 · i, 8 · i + 1, …
    """
    masked, levelled, n = len(allowed) > 0, len(levels) > 0, len(at) if len(allowed) > 0 else len(blocks)
    base = np.int64(dims) * ((1 << len(query_bits)) - 1) * ((1 << len(row_bits)) - 1)
    ahead = max(1, AHEAD // (blocks.shape[1] * 8))
    products, found = np.empty(LANES, np.int32), np.empty((1, BLOCKS_AT_ONCE * LANES), np.float32)
    for start in range(0, n, BLOCKS_AT_ONCE):
        stop = min(start + BLOCKS_AT_ONCE, n)
        for j in range(len(queries)):
            factor = asked[j]
            for i in range(start, stop):
                block, place = at[i] if masked else i, (i - start) * LANES
                if j == 0:
                    soon = min(i + ahead, n - 1)
                    _prefetch(blocks, at[soon] if masked else soon)  # type: ignore[call-arg]
                _products(queries, j, query_bits, row_bits, blocks, block, base, products)  # type: ignore[call-arg]
                row = block * LANES
                if not masked and row + LANES <= count:
                    # Here and not in a loop of its own, so that memory is not left waiting meanwhile.
                    for lane in range(LANES):
                        own = table[levels[row + lane]] if levelled else table[0]
                        found[0, place + lane] = np.float32(products[lane]) * own * factor
                    continue
                for lane in range(LANES):
                    found[0, place + lane] = -np.inf
                    if row + lane < count and (not masked or allowed[row + lane]):
                        own = table[levels[row + lane]] if levelled else table[0]
                        found[0, place + lane] = np.float32(products[lane]) * own * factor
            for i in range((stop - start) * LANES, BLOCKS_AT_ONCE * LANES):
                found[0, i] = -np.inf
            offer(found, start * LANES, k, scores[j : j + 1], ids[j : j + 1], filled[j : j + 1], threshold[j : j + 1])
