"""Compiled form of the scan of two planes (see `halves.py`): the high halves of a block of rows, 64 numbers an
instruction, then the low halves of those rows that can still be among the best.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.dense_numba import _prefetch
from inlay.kernels.topk_numba import _kth_largest

__all__ = ["scan"]

STREAMS = 4  # places that are read side by side: a processor fetches ahead along each
APART = 1048576  # bytes between them
ROWS = 16  # of each, before the scores are looked at
AHEAD = 4 << 10  # bytes of each asked for before they are needed
LATE = 8  # as many rows in one wait for a better limit before their low halves are read
WHOLE = 4  # times as many rows are read whole after most of the rows before had to be
SOON = 8  # late rows asked for before they are needed
_INT = ir.IntType(32)
_SUMS = ir.VectorType(_INT, 8)


def _filled(count: int, value: int, bits: int = 8) -> ir.Constant:
    kind = ir.IntType(bits)
    return ir.Constant(ir.VectorType(kind, count), [ir.Constant(kind, value)] * count)


def _load(builder: ir.IRBuilder, head: ir.Value, offset: ir.Value, count: int, bits: int = 8) -> ir.Value:
    """`count` numbers of `bits` from `head[offset]`, wherever that lies."""
    vector = ir.VectorType(ir.IntType(bits), count)
    return builder.load(builder.bitcast(builder.gep(head, [offset]), vector.as_pointer()), align=1)


def _sums(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """The sums of four vectors of eight lanes, as four lanes."""

    def lanes(start: int, step: int, count: int) -> ir.Constant:
        return ir.Constant(ir.VectorType(_INT, count), [start + step * i for i in range(count)])

    while len(vectors) > 1:  # neighbouring lanes of two vectors become the lanes of one
        vectors = [
            builder.add(builder.shuffle_vector(a, b, lanes(0, 2, 8)), builder.shuffle_vector(a, b, lanes(1, 2, 8)))
            for a, b in zip(vectors[::2], vectors[1::2])
        ]
    (found,) = vectors
    return builder.add(*(builder.shuffle_vector(found, found, lanes(i, 2, 4)) for i in (0, 1)))


def _sum(builder: ir.IRBuilder, found: ir.Value) -> ir.Value:
    """The sum of the lanes of a vector."""
    count = _SUMS.count
    while count > 1:
        count //= 2
        halves = (ir.Constant(ir.VectorType(_INT, count), list(range(start, start + count))) for start in (0, count))
        found = builder.add(*(builder.shuffle_vector(found, found, half) for half in halves))
    return builder.extract_element(found, ir.Constant(_INT, 0))


def _pairs(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Products of 16 int16 each, neighbours added: 8 int32."""
    call = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_SUMS, [left.type, left.type]), "llvm.x86.avx2.pmadd.wd"
    )
    return builder.call(call, [left, right])


def _byte_pairs(builder: ir.IRBuilder, small: ir.Value, query: ir.Value) -> ir.Value:
    """Products of 32 uint8, none over 15, and int8, neighbours added: 16 int16."""
    call = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VectorType(ir.IntType(16), 16), [small.type, small.type]),
        "llvm.x86.avx2.pmadd.ub.sw",
    )
    return builder.call(call, [small, query])


@intrinsic
def _high_dots(typingctx: Any, query: Any, high: Any, row: Any, apart: Any, offset: Any, sums: Any, at: Any) -> Any:
    """The products p of `query` int8 [2 · m] and the numbers 0 … 15 of four rows, `row` and others that are `apart`, of
    `high` uint8 [n, m]: 32 p + offset into `sums[:, at]` float32 [4, ROWS]. Past the end, the last row counts again. m
    is a multiple of 16.
    """
    signature = types.void(query, high, row, apart, types.int32, sums, at)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        left = context.make_array(query)(context, builder, args[0]).data
        right = context.make_array(high)(context, builder, args[1])
        target = context.make_array(sums)(context, builder, args[5])
        n, m = cgutils.unpack_tuple(builder, right.shape, 2)
        last, second, ones = builder.sub(n, ir.Constant(n.type, 1)), builder.gep(left, [m]), _filled(16, 1, bits=16)
        rows = [builder.add(args[2], builder.mul(args[3], ir.Constant(n.type, i))) for i in range(STREAMS)]
        rows = [builder.select(builder.icmp_signed("<", row, last), row, last) for row in rows]
        heads = [builder.gep(right.data, [builder.mul(row, m)]) for row in rows]
        totals = [cgutils.alloca_once(builder, _SUMS) for _ in heads]
        for total in totals:
            builder.store(ir.Constant(_SUMS, None), total)

        def nibbles(head: ir.Value, offset: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
            x = _load(builder, head, offset, count)
            return builder.and_(x, _filled(count, 15)), builder.lshr(x, _filled(count, 4))

        def add(found: ir.Value, total: ir.Value) -> None:
            builder.store(builder.add(builder.load(total), _pairs(builder, found, ones)), total)

        step = ir.Constant(m.type, 32)
        blocks = builder.udiv(m, step)
        with cgutils.for_range(builder, blocks) as loop:
            offset = builder.mul(loop.index, step)
            queries = [_load(builder, start, offset, 32) for start in (left, second)]
            for head, total in zip(heads, totals):
                pair = [_byte_pairs(builder, part, q) for part, q in zip(nibbles(head, offset, 32), queries)]
                add(builder.add(*pair), total)  # 4 · 15 · 127 fits int16
        whole = builder.mul(blocks, step)
        with builder.if_then(builder.icmp_unsigned("<", whole, m)):
            both = ir.Constant(ir.VectorType(_INT, 32), list(range(32)))
            q = builder.shuffle_vector(*(_load(builder, start, whole, 16) for start in (left, second)), both)
            for head, total in zip(heads, totals):
                parts = builder.shuffle_vector(*nibbles(head, whole, 16), both)
                add(_byte_pairs(builder, parts, q), total)
        found = builder.shl(_sums(builder, [builder.load(total) for total in totals]), _filled(STREAMS, 5, bits=32))
        for j in range(STREAMS):
            place = builder.gep(target.data, [builder.add(args[6], ir.Constant(args[6].type, ROWS * j))])
            product = builder.add(builder.extract_element(found, ir.Constant(_INT, j)), args[4])
            builder.store(builder.sitofp(product, ir.FloatType()), place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _joined_dot(typingctx: Any, query: Any, high: Any, low: Any, row: Any) -> Any:
    """The product of `query` int16 [2 · m] and the int8 numbers whose halves are `high[row]` and `low[row]`, int32."""
    signature = types.int32(query, high, low, row)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        left = context.make_array(query)(context, builder, args[0]).data
        uppers, lowers = (context.make_array(kind)(context, builder, arg) for kind, arg in zip((high, low), args[1:3]))
        m = cgutils.unpack_tuple(builder, uppers.shape, 2)[1]
        start = builder.mul(args[3], m)
        upper, lower, second = (
            builder.gep(uppers.data, [start]),
            builder.gep(lowers.data, [start]),
            builder.gep(left, [m]),
        )
        wide, four, fifteen = ir.VectorType(ir.IntType(16), 16), _filled(16, 4), _filled(16, 15)
        totals = [cgutils.alloca_once(builder, _SUMS) for _ in range(2)]
        for total in totals:
            builder.store(ir.Constant(_SUMS, None), total)
        step = ir.Constant(m.type, 16)
        with cgutils.for_range(builder, builder.udiv(m, step)) as loop:
            offset = builder.mul(loop.index, step)
            a, b = (_load(builder, head, offset, 16) for head in (upper, lower))
            numbers = (
                builder.or_(builder.shl(a, four), builder.and_(b, fifteen)),
                builder.or_(builder.and_(a, _filled(16, 0xF0)), builder.lshr(b, four)),
            )
            for number, head, total in zip(numbers, (left, second), totals):
                signed = builder.sext(builder.xor(number, _filled(16, 0x80)), wide)
                product = _pairs(builder, signed, _load(builder, head, offset, 16, bits=16))
                builder.store(builder.add(builder.load(total), product), total)
        return _sum(builder, builder.add(*(builder.load(total) for total in totals)))

    return signature, codegen


@njit(cache=True, nogil=True, boundscheck=False)
def _trim(
    scores: np.ndarray, ids: np.ndarray, filled: int, k: int, scales: np.ndarray, steps: np.float32,
    window: np.float32, scratch: np.ndarray,
) -> tuple[int, np.float32]:  # fmt: skip
    """Keep what can reach `window` below the k-th best of the lower bounds `scores`: how many those are, and that
    limit.
    """
    for i in range(filled):
        scratch[i] = scores[i]
    cut, kept = _kth_largest(scratch[:filled], k) - window, 0
    for i in range(filled):
        if scores[i] + np.float32(2) * steps * scales[ids[i]] >= cut:
            scores[kept], ids[kept] = scores[i], ids[i]
            kept += 1
    return kept, cut


@njit(cache=True, nogil=True, boundscheck=False)
def _complete(
    query: np.ndarray, step: np.float32, high: np.ndarray, low: np.ndarray, scales: np.ndarray, rows: np.ndarray,
    count: int, steps: np.float32, window: np.float32, k: int, scores: np.ndarray, ids: np.ndarray, scratch: np.ndarray,
    state: tuple[int, int, np.float32],
) -> tuple[int, int, np.float32]:  # fmt: skip
    """Score `rows[:count]` by both halves. The state is how many are kept, -1 where they are too many, at how many they
    are looked through, and the limit below which none is.
    """
    filled, mark, cut = state
    for i in range(count):
        soon, row = rows[min(i + SOON, count - 1)], rows[i]
        _prefetch(high, soon)  # type: ignore[call-arg]
        _prefetch(low, soon)  # type: ignore[call-arg]
        product = np.float32(_joined_dot(query, high, low, row)) * step  # type: ignore[call-arg]
        upper = scales[row] * (product + steps)
        if upper >= cut:
            if filled == mark:
                filled, cut = _trim(scores, ids, filled, k, scales, steps, window, scratch)
                if 4 * filled > 3 * len(scores) and len(scores) <= len(high):
                    return -1, mark, cut
                mark = min(len(scores), max(2 * filled, mark))
                if upper < cut:
                    continue
            scores[filled], ids[filled] = scales[row] * (product - steps), row
            filled += 1
    return filled, mark, cut


@njit(cache=True, nogil=True, boundscheck=False)
def _reaching(rows: np.ndarray, upper: np.ndarray, count: int, cut: np.float32) -> int:
    """Keep those of the late rows that can still reach the limit: how many."""
    kept = 0
    for i in range(count):
        if upper[i] >= cut:
            rows[kept], upper[kept] = rows[i], upper[i]
            kept += 1
    return kept


@njit(cache=True, nogil=True, boundscheck=False)
def scan(
    query: np.ndarray, step: np.float32, coarse: np.ndarray, coarse_step: np.float32, high: np.ndarray, low: np.ndarray,
    scales: np.ndarray, rests: np.ndarray, unit: np.float32, slack: np.float32, steps: np.float32, window: np.float32,
    k: int, scores: np.ndarray, ids: np.ndarray,
) -> int:  # fmt: skip
    """All rows that can be among the k best of the rows that were copied.

    Args:
        query: int16 [width].
        step: what one step of it is worth.
        coarse: int8 [width], the same query for the high halves.
        coarse_step: what one step of that is worth.
        high: uint8 [n, width / 2].
        low: uint8 [n, width / 2].
        scales: float32 [n].
        rests: uint16 [n].
        unit: what one unit of a rest can add to a score, in steps of its row.
        slack: what else can be missing from a score.
        steps: by how much a score can differ from that of the row that was copied, in steps of its row.
        window: twice what else that can be.
        k: no more than n.
        scores: float32 [room], room for more than k (for more than n is always enough); lower bounds of the answer are
            left at the front, in no order.
        ids: int64 [room], the rows.

    Returns:
        How many were found, or -1 where there is too little room.
    """
    n, m = high.shape
    furthest, ahead = max(1, APART // m), max(1, AHEAD // m)
    offset = np.int32(0)
    for t in range(2 * m):
        offset += np.int32(coarse[t])
    offset = np.int32((15 - 256) * offset)  # twice 7.5 - 16 · 8
    half = np.float32(0.5) * coarse_step
    scratch, sums = np.empty(len(scores), np.float32), np.empty((STREAMS, ROWS), np.float32)
    middle, upper = np.empty(ROWS, np.float32), np.empty(ROWS, np.float32)
    most, looked = n // LATE + STREAMS * ROWS, 0
    now, late = np.empty(STREAMS * ROWS, np.int64), np.empty(most + STREAMS * ROWS, np.int64)
    late_upper = np.empty(len(late), np.float32)
    waiting, whole = 0, 0
    state = (0, min(2 * k + 32, len(scores)), np.float32(-np.inf))
    for base in range(0, n, STREAMS * furthest):
        apart = min(furthest, (n - base + STREAMS - 1) // STREAMS)
        for start in range(base, base + apart, ROWS):
            count, chosen, cut = min(ROWS, base + apart - start), 0, state[2]
            whole -= 1  # turns left in which rows are read whole
            for i in range(count):
                for j in range(STREAMS):
                    soon = min(start + i + j * apart + ahead, n - 1)
                    _prefetch(high, soon)  # type: ignore[call-arg]
                    if whole > 0:
                        _prefetch(low, soon)  # type: ignore[call-arg]
                if whole <= 0:
                    looked += STREAMS
                    _high_dots(coarse, high, start + i, apart, offset, sums, i)  # type: ignore[call-arg]
            for j in range(STREAMS):
                first = start + j * apart
                here = min(count, n - first)
                if whole > 0:
                    for i in range(here):
                        now[chosen] = first + i
                        chosen += 1
                    continue
                reached, by, rest = 0, scales[first : first + ROWS], rests[first : first + ROWS]
                for i in range(here):
                    middle[i] = by[i] * (sums[j, i] * half)
                    upper[i] = middle[i] + by[i] * (np.float32(rest[i]) * unit + steps) + slack
                    reached += upper[i] >= cut
                if reached > 0:
                    for i in range(here):
                        if middle[i] >= cut:
                            now[chosen] = first + i
                            chosen += 1
                        elif upper[i] >= cut:
                            late[waiting], late_upper[waiting] = first + i, upper[i]
                            waiting += 1
            if chosen > 0:
                state = _complete(
                    query, step, high, low, scales, now, chosen, steps, window, k, scores, ids, scratch, state
                )
            if state[0] >= 0 and waiting > most:
                waiting = _reaching(late, late_upper, waiting, state[2])
                if 2 * waiting > most:
                    state = _complete(
                        query, step, high, low, scales, late, waiting, steps, window, k, scores, ids, scratch, state
                    )
                    if 2 * waiting > looked:  # rows are not as far apart as four bits could tell
                        whole = WHOLE * looked // (STREAMS * ROWS)
                    waiting, looked = 0, 0
            if state[0] < 0:
                return -1
    waiting = _reaching(late, late_upper, waiting, state[2])
    state = _complete(query, step, high, low, scales, late, waiting, steps, window, k, scores, ids, scratch, state)
    if state[0] < 0:
        return -1
    return _trim(scores, ids, state[0], k, scales, steps, window, scratch)[0]
