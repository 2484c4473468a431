"""Compiled form of the scan over bit planes (see `bit_planes.py`): a block of eight rows at a time, in registers.

How many planes there are is known when it is compiled (they come as tuples), so a word of every plane is loaded once
and meets every plane of the query. Where a processor has no instruction that counts the bits of a vector's lanes, LLVM
makes one of several.

What is done with a product costs more than the product: a block is looked at only if one of its rows has an integer
product that some length in its neighbourhood could bring among the best, which is one comparison of eight lanes.
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
from inlay.kernels.postings_numba import _offer
from inlay.kernels.seismic_numba import _bits, _float

__all__ = ["scan"]

BLOCKS_AT_ONCE = 256  # 2,048 rows stay in L2 while every query passes over them
AHEAD = 8 << 10  # bytes of rows asked for before they are needed, where some are skipped: else it only disturbs
_WORD = ir.IntType(64)


def _summing(tests: bool) -> Any:
    """`base` − 2 · (weighted count of bits in which query j differs) for the rows of a block: into `out` int32 [8], or
    where it `tests`, whether any of these reaches `out`.

    `queries` uint64 [q, planes, words], `blocks` uint64 [n, planes · words · 8]; `asked` and `kept` are tuples as long
    as the queries and the rows have planes.
    """

    @intrinsic
    def sums(typingctx: Any, queries: Any, j: Any, shape: Any, blocks: Any, block: Any, base: Any, out: Any) -> Any:
        signature = (types.boolean if tests else types.void)(
            queries, j, shape, blocks, block, base, types.int32 if tests else out
        )

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            found = _codegen(context, builder, (queries, blocks), tuple(len(part) for part in shape), args)
            short = found.type
            if tests:
                lane = ir.Constant(ir.IntType(32), 0)
                single = builder.insert_element(ir.Constant(short, ir.Undefined), args[6], lane)
                least = builder.shuffle_vector(single, single, ir.Constant(short, [0] * LANES))
                hits = builder.bitcast(builder.icmp_signed(">=", found, least), ir.IntType(LANES))
                return builder.icmp_unsigned("!=", hits, ir.Constant(ir.IntType(LANES), 0))
            target = context.make_array(out)(context, builder, args[6])
            builder.store(found, builder.bitcast(target.data, short.as_pointer()), align=4)
            return context.get_dummy_value()

        return signature, codegen

    return sums


def _codegen(context: Any, builder: ir.IRBuilder, kinds: Any, counts: tuple[int, ...], args: Any) -> ir.Value:
    """The products of a block's rows, int32 of eight lanes."""
    n_asked, n_kept, n_words = counts
    eight, short = ir.VectorType(_WORD, LANES), ir.VectorType(ir.IntType(32), LANES)
    everywhere = ir.Constant(short, [0] * LANES)
    left, right = (context.make_array(kind)(context, builder, value) for kind, value in zip(kinds, (args[0], args[3])))
    words = cgutils.unpack_tuple(builder, left.shape, 3)[2]
    size, lanes = words.type, ir.Constant(words.type, LANES)
    width = cgutils.unpack_tuple(builder, right.shape, 2)[1]
    query = builder.gep(left.data, [builder.mul(args[1], builder.mul(words, ir.Constant(size, n_asked)))])
    rows = builder.gep(right.data, [builder.mul(args[4], width)])
    ones = cgutils.get_or_insert_function(builder.module, ir.FunctionType(eight, [eight]), f"llvm.ctpop.v{LANES}i64")

    def splat(value: ir.Value) -> ir.Value:
        single = builder.insert_element(ir.Constant(eight, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(single, single, everywhere)

    # Counts of equal weight share a sum: s + t is what decides it.
    sums = [cgutils.alloca_once_value(builder, ir.Constant(eight, None)) for _ in range(n_asked + n_kept - 1)]

    def add(word: ir.Value) -> None:
        theirs = []
        for t in range(n_kept):
            at = builder.add(builder.mul(words, ir.Constant(size, t)), word)
            address = builder.gep(rows, [builder.mul(at, lanes)])
            theirs.append(builder.load(builder.bitcast(address, eight.as_pointer()), align=8))
        for s in range(n_asked):
            at = builder.add(builder.mul(words, ir.Constant(size, s)), word)
            own = splat(builder.load(builder.gep(query, [at])))
            for t, other in enumerate(theirs):
                counts = builder.call(ones, [builder.xor(own, other)])
                builder.store(builder.add(builder.load(sums[s + t]), counts), sums[s + t])

    for word in range(n_words):
        add(ir.Constant(size, word))
    if not n_words:
        with cgutils.for_range(builder, words) as loop:
            add(loop.index)
    total = ir.Constant(eight, None)
    for i, each in enumerate(sums):
        weight = ir.Constant(eight, [len(sums) - i] * LANES)  # and 1 more, for the factor of 2
        total = builder.add(total, builder.shl(builder.load(each), weight))
    return builder.trunc(builder.sub(splat(args[5]), total), short)


_products, _reach = _summing(False), _summing(True)


@njit(cache=True, nogil=True, boundscheck=False)
def _least(levels: np.ndarray) -> int:
    least = levels[0]
    for level in levels:
        least = min(least, level)
    return least


@njit(cache=True, nogil=True, boundscheck=False)
def _key(score: np.float32, row: int) -> int:
    """A number that is larger for a higher score, and of equal ones for the lower row."""
    bits: Any = _bits(score)  # type: ignore[call-arg]
    bits ^= np.uint32(0x80000000) if bits < np.uint32(0x80000000) else np.uint32(0xFFFFFFFF)
    return np.uint64(bits) << np.uint64(32) | (np.uint64(0xFFFFFFFF) - np.uint64(row))


@njit(cache=True, nogil=True, boundscheck=False)
def _worst(key: int) -> np.float32:
    """The score of a key."""
    bits = np.uint32(np.uint64(key) >> np.uint64(32))
    bits ^= np.uint32(0x80000000) if bits >= np.uint32(0x80000000) else np.uint32(0xFFFFFFFF)
    return _float(bits)  # type: ignore[call-arg, no-any-return]


@njit(cache=True, nogil=True, boundscheck=False)
def _needed(best: np.ndarray, size: int, steepest: float) -> np.int32:
    """The least product that can get among the best, where none is worth more than `steepest` times itself.

    Only a product above 0 can beat a score above 0; below that, all are looked at.
    """
    worst = _worst(best[0]) if size == len(best) else np.float32(0)
    if worst <= 0:
        return np.int32(-(2**31))
    return np.int32(min(np.float64(worst) / steepest * (1 - 1e-6), 2.0**31 - 1))


@njit(cache=True, nogil=True, boundscheck=False)
def scan(
    queries: np.ndarray, asked: np.ndarray, shape: tuple[tuple[int, ...], ...], blocks: np.ndarray,
    levels: np.ndarray, table: np.ndarray, at: np.ndarray, allowed: np.ndarray, count: int, dims: int,
    best: np.ndarray, sizes: np.ndarray,
) -> None:  # fmt: skip
    """The best cosines of every query with all rows, or with the `allowed` ones in the blocks `at`.

    `asked` float32 [q] is 1 / |c| of the queries, `table` of each level. `best` uint64 [q, k] is a heap of keys for
    each query with the worst at its root, and `sizes` int64 [q] how many it has; both are filled.
    """
    masked, levelled, n = len(allowed) > 0, len(levels) > 0, len(at) if len(allowed) > 0 else len(blocks)
    base = np.int64(dims) * ((1 << len(shape[0])) - 1) * ((1 << len(shape[1])) - 1)
    ahead = max(1, AHEAD // (blocks.shape[1] * 8))
    products = np.empty(LANES, np.int32)
    for start in range(0, n, BLOCKS_AT_ONCE):
        stop = min(start + BLOCKS_AT_ONCE, n)
        shortest = np.int64(0)
        if levelled:
            first = (at[start] if masked else start) * LANES
            last = min(((at[stop - 1] if masked else stop - 1) + 1) * LANES, count)
            shortest = np.int64(_least(levels[first:last]))
        for j in range(len(queries)):
            factor, size, mine = asked[j], sizes[j], best[j]
            steepest = np.float64(table[shortest]) * factor
            least = _needed(mine, size, steepest)
            for i in range(start, stop):
                block = at[i] if masked else i
                if j == 0 and masked:
                    _prefetch(blocks, at[min(i + ahead, n - 1)])  # type: ignore[call-arg]
                if not _reach(queries, j, shape, blocks, block, base, least):  # type: ignore[call-arg]
                    continue
                _products(queries, j, shape, blocks, block, base, products)  # type: ignore[call-arg]
                row = block * LANES
                for lane in range(min(LANES, count - row)):
                    if masked and not allowed[row + lane]:
                        continue
                    own = table[levels[row + lane]] if levelled else table[0]
                    key = _key(np.float32(products[lane]) * own * factor, row + lane)
                    if size < len(mine) or key > mine[0]:
                        size = _offer(mine, size, key)
                least = _needed(mine, size, steepest)
            sizes[j] = size
