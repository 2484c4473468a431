"""Compiled form of the rough scan (see `sketch.py`): sixteen columns at a time, and no score kept that is not among
the best so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.dense_numba import _FEATURES, _prefetch
from inlay.kernels.topk_numba import _compact

__all__ = ["multiplies_pairs", "scan"]

COLUMNS, SUMS = 16, 4  # of one instruction, and chains of them that do not wait for each other
AHEAD = 8 << 10  # bytes of rows asked for before they are needed
_INT = ir.IntType(32)


def multiplies_pairs() -> bool:
    """Whether there is an instruction that multiplies int16 and adds neighbours (x86 with AVX2)."""
    return "+avx2" in _FEATURES


@intrinsic
def _dot(typingctx: Any, query: Any, codes: Any, row: Any) -> Any:
    """The product of `query` int16 [width] and `codes[row]` int8, int32; width is a multiple of 16."""
    signature = types.int32(query, codes, row)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        left = context.make_array(query)(context, builder, args[0])
        right = context.make_array(codes)(context, builder, args[1])
        width = cgutils.unpack_tuple(builder, right.shape, 2)[1]
        stored, wide, sums = (
            ir.VectorType(ir.IntType(bits), count) for bits, count in ((8, COLUMNS), (16, COLUMNS), (32, COLUMNS // 2))
        )
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(sums, [wide, wide]), "llvm.x86.avx2.pmadd.wd"
        )
        head = builder.gep(right.data, [builder.mul(args[2], width)])
        totals = [cgutils.alloca_once(builder, sums) for _ in range(SUMS)]
        for total in totals:
            builder.store(ir.Constant(sums, None), total)

        def add(offset: ir.Value, total: ir.Value) -> None:
            x = builder.load(builder.bitcast(builder.gep(head, [offset]), stored.as_pointer()), align=1)
            q = builder.load(builder.bitcast(builder.gep(left.data, [offset]), wide.as_pointer()), align=2)
            product = builder.call(multiply_add, [builder.sext(x, wide), q])
            builder.store(builder.add(builder.load(total), product), total)

        step = ir.Constant(width.type, COLUMNS * SUMS)
        whole = builder.mul(builder.udiv(width, step), step)
        with cgutils.for_range(builder, builder.udiv(width, step)) as loop:
            for i, total in enumerate(totals):
                add(builder.add(builder.mul(loop.index, step), ir.Constant(width.type, i * COLUMNS)), total)
        single = ir.Constant(width.type, COLUMNS)
        with cgutils.for_range(builder, builder.udiv(builder.sub(width, whole), single)) as loop:
            add(builder.add(whole, builder.mul(loop.index, single)), totals[0])
        left_sum, right_sum = (builder.add(builder.load(a), builder.load(b)) for a, b in zip(totals[::2], totals[1::2]))
        found, count = builder.add(left_sum, right_sum), COLUMNS // 2
        while count > 1:
            count //= 2
            halves = (
                ir.Constant(ir.VectorType(_INT, count), list(range(start, start + count))) for start in (0, count)
            )
            found = builder.add(*(builder.shuffle_vector(found, found, half) for half in halves))
        return builder.extract_element(found, ir.Constant(_INT, 0))

    return signature, codegen


@njit(cache=True, nogil=True, boundscheck=False)
def scan(
    query: np.ndarray, step: np.float32, codes: np.ndarray, scales: np.ndarray, k: int, scores: np.ndarray,
    ids: np.ndarray,
) -> int:  # fmt: skip
    """The k best of `query` int16 [width] · `step` with `codes` int8 [n, width] · `scales` float32 [n].

    They are left at the front of `scores` float32 [room] and `ids` int64 [room], in order of id, room for more than k;
    the answer is how many there are. Equal scores go to the lower id.
    """
    n, width = codes.shape
    ahead = max(1, AHEAD // width)
    scratch = np.empty(len(scores), np.float32)
    filled, cut = 0, np.float32(-np.inf)
    for row in range(n):
        _prefetch(codes, min(row + ahead, n - 1))  # type: ignore[call-arg]
        score = np.float32(_dot(query, codes, row)) * (scales[row] * step)  # type: ignore[call-arg]
        if score > cut:
            if filled == len(scores):
                cut = _compact(scores, ids, filled, k, scratch)
                filled = k
                if score <= cut:
                    continue
            scores[filled], ids[filled] = score, row
            filled += 1
    if filled > k:
        _compact(scores, ids, filled, k, scratch)
        filled = k
    return filled
