"""Compiled form of the fast scan (see `fast_scan.py`): a table stays in registers, 64 rows a look-up."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.dense_numba import _FEATURES
from inlay.kernels.topk_numba import _kth_largest

__all__ = ["looks_up", "scan", "scan_plain"]

ROWS = 64  # of a block
WIDE = 64 if "+avx512bw" in _FEATURES else 32  # bytes of a register
COLUMNS_AT_ONCE = 256  # whose pairs of entries below 128 still fit 16 bits together
AHEAD = 8 << 10  # bytes of codes asked for before they are needed
BYTES_AT_ONCE = 384 << 10  # of codes, where there are several queries
_BYTE, _SHORT, _INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)


def looks_up(entries: int) -> bool:
    """Whether there is an instruction that looks bytes up in a table of so many in registers (x86)."""
    return "+avx2" in _FEATURES if entries == 16 else WIDE == 64 and "+avx512vbmi" in _FEATURES


def _constants(kind: ir.VectorType, *values: int) -> list[ir.Constant]:
    return [ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count) for value in values]


def _summing(wide: bool, tests: bool) -> Any:
    """Sums of what columns `first` to `last` of a block contribute: added to `out` int32 [64], or tested against it.

    `tables` are uint8 [2 · columns, 16], or where they are `wide` [columns, 256], with entries below 128; `blocks` are
    uint8 [n, columns, 64]. Where it tests, `out` is a number below 65,536, and the answer whether any row's sum reaches
    it.
    """
    width = 64 if wide else WIDE
    octets, shorts = ir.VectorType(_BYTE, width), ir.VectorType(_SHORT, width // 2)
    (fifteen, four), (eight,) = _constants(octets, 15, 4), _constants(shorts, 8)
    parts = range(ROWS // width)

    @intrinsic
    def sums(typingctx: Any, tables: Any, blocks: Any, block: Any, first: Any, last: Any, out: Any) -> Any:
        answer = types.boolean if tests else types.void
        signature = answer(tables, blocks, block, first, last, types.int32 if tests else out)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            left = context.make_array(tables)(context, builder, args[0]).data
            right = context.make_array(blocks)(context, builder, args[1])
            columns = cgutils.unpack_tuple(builder, right.shape, 3)[1]
            size, pointer = columns.type, _BYTE.as_pointer()
            head = builder.gep(right.data, [builder.mul(builder.mul(args[2], columns), ir.Constant(size, ROWS))])
            ask = builder.module.declare_intrinsic(
                "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, _INT, _INT, _INT])
            )
            totals = [[cgutils.alloca_once(builder, shorts) for _ in range(2)] for _ in parts]
            for total in (one for pair in totals for one in pair):
                builder.store(ir.Constant(shorts, None), total)

            def load(at: ir.Value, offset: int, kind: ir.VectorType = octets) -> ir.Value:
                place = builder.gep(at, [ir.Constant(size, offset)])
                return builder.load(builder.bitcast(place, kind.as_pointer()), align=1)

            with cgutils.for_range(builder, args[4], start=args[3]) as loop:
                line = builder.gep(head, [builder.mul(loop.index, ir.Constant(size, ROWS))])
                read, into_l1, data = (ir.Constant(_INT, i) for i in (0, 3, 1))
                builder.call(ask, [builder.gep(line, [ir.Constant(size, AHEAD)]), read, into_l1, data])
                table = builder.gep(left, [builder.mul(loop.index, ir.Constant(size, 256 if wide else 32))])
                for part, (even, odd) in zip(parts, totals):
                    found = (_of_256 if wide else _of_16)(builder, load, table, load(line, part * width), fifteen, four)
                    # As 16-bit lanes the rows are in pairs: the odd one by a shift, and the even one with 256 times
                    # the odd one on top, which is taken off at the end.
                    pairs = builder.bitcast(found, shorts)
                    builder.store(builder.add(builder.load(even), pairs), even)
                    builder.store(builder.add(builder.load(odd), builder.lshr(pairs, eight)), odd)
            ends = []
            for even_at, odd_at in totals:
                odd = builder.load(odd_at)
                ends.append((builder.sub(builder.load(even_at), builder.shl(odd, eight)), odd))
            if tests:
                return _reaches(builder, ends, args[5])
            target = context.make_array(out)(context, builder, args[5]).data
            for part, (even, odd) in zip(parts, ends):
                _spread(builder, even, odd, builder.gep(target, [ir.Constant(size, part * width)]))
            return context.get_dummy_value()

        return signature, codegen

    return sums


def _of_16(builder: ir.IRBuilder, load: Any, table: ir.Value, codes: ir.Value, fifteen: Any, four: Any) -> ir.Value:
    """Entries of two tables of sixteen, of the lower and the upper nibble, added: below 256 together."""
    entries, octets = ir.VectorType(_BYTE, 16), codes.type
    everywhere = ir.Constant(ir.VectorType(_INT, octets.count), [i % 16 for i in range(octets.count)])
    name = "llvm.x86.avx512.pshuf.b.512" if octets.count == 64 else "llvm.x86.avx2.pshuf.b"
    look = cgutils.get_or_insert_function(builder.module, ir.FunctionType(octets, [octets, octets]), name)
    undefined = ir.Constant(entries, ir.Undefined)
    low, high = (builder.shuffle_vector(load(table, i, entries), undefined, everywhere) for i in (0, 16))
    lower = builder.call(look, [low, builder.and_(codes, fifteen)])
    return builder.add(lower, builder.call(look, [high, builder.lshr(codes, four)]))


def _of_256(builder: ir.IRBuilder, load: Any, table: ir.Value, codes: ir.Value, fifteen: Any, four: Any) -> ir.Value:
    """Entries of a table of 256: seven bits choose among 128 bytes in two registers, the eighth between two pairs."""
    octets = codes.type
    look = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(octets, [octets] * 3), "llvm.x86.avx512.vpermi2var.qi.512"
    )
    low, high = (builder.call(look, [load(table, i), codes, load(table, i + 64)]) for i in (0, 128))
    return builder.select(builder.icmp_signed("<", codes, ir.Constant(octets, None)), high, low)


def _reaches(builder: ir.IRBuilder, ends: list[tuple[ir.Value, ir.Value]], least: ir.Value) -> ir.Value:
    """Whether any of these 16-bit sums is at least a number."""
    shorts = ends[0][0].type
    single = builder.insert_element(
        ir.Constant(shorts, ir.Undefined), builder.trunc(least, _SHORT), ir.Constant(_INT, 0)
    )
    everywhere = builder.shuffle_vector(
        single, single, ir.Constant(ir.VectorType(_INT, shorts.count), [0] * shorts.count)
    )
    hits = None
    for one in (one for pair in ends for one in pair):
        hit = builder.icmp_unsigned(">=", one, everywhere)
        hits = hit if hits is None else builder.or_(hits, hit)
    lanes = ir.IntType(shorts.count)
    return builder.icmp_unsigned("!=", builder.bitcast(hits, lanes), ir.Constant(lanes, 0))


def _spread(builder: ir.IRBuilder, even: ir.Value, odd: ir.Value, target: ir.Value) -> None:
    """Add sums of even and odd rows to int32 from `target` on."""
    count = 2 * even.type.count
    wide = ir.VectorType(_INT, count)
    order = ir.Constant(wide, [i // 2 + (i % 2) * (count // 2) for i in range(count)])
    both = builder.zext(builder.shuffle_vector(even, odd, order), wide)
    address = builder.bitcast(target, wide.as_pointer())
    builder.store(builder.add(builder.load(address, align=4), both), address, align=4)


_nibble_sums, _nibbles_reach = _summing(False, False), _summing(False, True)
_byte_sums, _bytes_reach = _summing(True, False), _summing(True, True)


@njit(cache=True, nogil=True, boundscheck=False)
def _block_sums(
    tables: np.ndarray, wide: tuple[int, ...] | None, blocks: np.ndarray, block: int, out: np.ndarray
) -> None:
    """Sums of a block into `out` int32 [64]; `wide` is None for tables of 16 (and decides when it is compiled)."""
    columns = blocks.shape[1]
    for lane in range(ROWS):
        out[lane] = 0
    for first in range(0, columns, COLUMNS_AT_ONCE):
        last = min(first + COLUMNS_AT_ONCE, columns)
        if wide is None:
            _nibble_sums(tables, blocks, block, first, last, out)  # type: ignore[call-arg]
        else:
            _byte_sums(tables, blocks, block, first, last, out)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def _trim(
    scores: np.ndarray, ids: np.ndarray, filled: int, k: int, factors: np.ndarray, error: np.float32,
    scratch: np.ndarray,
) -> tuple[int, np.float32]:  # fmt: skip
    """Keep what can reach the k-th best of the lower bounds `scores`: how many those are, and that bound."""
    for i in range(filled):
        scratch[i] = scores[i]
    cut, kept, scaled = _kth_largest(scratch[:filled], k), 0, len(factors) > 0
    for i in range(filled):
        own = factors[ids[i]] if scaled else np.float32(1)
        if scores[i] + np.float32(2) * error * own >= cut:
            scores[kept], ids[kept] = scores[i], ids[i]
            kept += 1
    return kept, cut


@njit(cache=True, nogil=True, boundscheck=False)
def _keep(
    values: np.ndarray, first: int, there: int, error: np.float32, factors: np.ndarray, allowed: np.ndarray, k: int,
    scores: np.ndarray, ids: np.ndarray, scratch: np.ndarray, count: int, state: tuple[int, int, np.float32],
) -> tuple[int, int, np.float32]:  # fmt: skip
    """Keep the rows of a block that can be among the k best.

    The state is how many are kept, -1 where they are too many; at how many they are looked through; and the bound that
    others have to reach.
    """
    filled, mark, cut = state
    scaled, masked = len(factors) > 0, len(allowed) > 0
    for lane in range(there):
        own = factors[first + lane] if scaled else np.float32(1)
        if (values[lane] + error) * own < cut or (masked and not allowed[first + lane]):
            continue
        if filled == mark:
            filled, cut = _trim(scores, ids, filled, k, factors, error, scratch)
            if 4 * filled > 3 * len(scores) and len(scores) <= count:
                return -1, mark, cut
            mark = min(len(scores), max(2 * filled, mark))
            if (values[lane] + error) * own < cut:
                continue
        scores[filled], ids[filled] = (values[lane] - error) * own, first + lane
        filled += 1
    return filled, mark, cut


@njit(cache=True, nogil=True, boundscheck=False)
def _part(
    high: np.ndarray, low: np.ndarray, wide: tuple[int, ...] | None, step: np.float32, base: np.float32,
    error: np.float32, most: np.float32, blocks: np.ndarray, start: int, stop: int, count: int, factors: np.ndarray,
    allowed: np.ndarray, k: int, scores: np.ndarray, ids: np.ndarray, scratch: np.ndarray,
    state: tuple[int, int, np.float32],
) -> tuple[int, int, np.float32]:  # fmt: skip
    """The rows of blocks `start` to `stop` for one query; `most` is what the lower halves can add, in steps."""
    scaled = len(factors) > 0
    sums, more, values = np.empty(ROWS, np.int32), np.empty(ROWS, np.int32), np.empty(ROWS, np.float32)
    coarse, above = np.float32(128) * step, base + most * step + error
    columns = blocks.shape[1]
    simple, known, least = not scaled and columns <= COLUMNS_AT_ONCE and step > 0, np.float32(-np.inf), 0
    for block in range(start, stop):
        first, cut, reached = block * ROWS, state[2], 0
        there = min(ROWS, count - first)
        if simple and cut > -np.inf:
            if cut != known:  # the least sum that can still matter, less one for rounding
                known = cut
                least = min(max(np.int64((cut - above) / coarse) - 2, 0), 65535)  # type: ignore[assignment]
            if wide is None:
                if not _nibbles_reach(high, blocks, block, 0, columns, least):  # type: ignore[call-arg]
                    continue
            elif not _bytes_reach(high, blocks, block, 0, columns, least):  # type: ignore[call-arg]
                continue
        _block_sums(high, wide, blocks, block, sums)
        if scaled:
            for lane in range(there):
                reached += int((np.float32(sums[lane]) * coarse + above) * factors[first + lane] >= cut)
        else:
            for lane in range(ROWS):  # those past the end may count too: only the next step looks at rows
                reached += int(np.float32(sums[lane]) * coarse + above >= cut)
        if reached == 0:
            continue
        _block_sums(low, wide, blocks, block, more)
        reached = 0
        for lane in range(there):
            values[lane] = np.float32(128 * sums[lane] + more[lane]) * step + base
            own = factors[first + lane] if scaled else np.float32(1)
            reached += int((values[lane] + error) * own >= cut)
        if reached > 0:
            state = _keep(values, first, there, error, factors, allowed, k, scores, ids, scratch, count, state)
            if state[0] < 0:
                return state
    return state


@njit(cache=True, nogil=True, boundscheck=False)
def scan(
    high: np.ndarray, low: np.ndarray, wide: tuple[int, ...] | None, steps: np.ndarray, bases: np.ndarray,
    errors: np.ndarray, blocks: np.ndarray, count: int, factors: np.ndarray, allowed: np.ndarray, k: int,
    scores: np.ndarray, ids: np.ndarray, found: np.ndarray,
) -> None:  # fmt: skip
    """All rows that can be among the k best of each query, into `ids` int64 [q, room].

    Args:
        high: uint8 [q, nibbles, 16] or [q, bytes, 256], the upper halves of rounded entries.
        low: uint8 of the same shape, the lower halves.
        wide: None for tables of 16, (0,) for those of 256.
        steps: float32 [q], what one step of a rounded sum is worth.
        bases: float32 [q], what is added to a sum.
        errors: float32 [q], by how much it can differ from the true one.
        blocks: uint8 [n, bytes, 64].
        count: rows.
        factors: float32 [count], not negative, what scores are multiplied with; [0] for 1.
        allowed: bool [count]; [0] for all.
        k: no more than the rows allowed.
        scores: float32 [q, room], room for more than k; lower bounds are left in it.
        ids: int64 [q, room].
        found: int64 [q], how many there are; -1 where there was too little room.
    """
    queries, room = scores.shape
    scratch, most, cuts = np.empty(room, np.float32), np.zeros(queries, np.float32), np.empty(queries, np.float32)
    marks = np.empty(queries, np.int64)
    for j in range(queries):
        found[j], marks[j], cuts[j] = 0, min(2 * k + 32, room), -np.inf
        for table in range(high.shape[1]):
            most[j] += np.float32(np.max(low[j, table]))
    together = max(1, BYTES_AT_ONCE // (blocks.shape[1] * ROWS))  # that stay in cache while every query passes
    if queries == 1:
        together = len(blocks)
    for start in range(0, len(blocks), together):
        stop = min(start + together, len(blocks))
        for j in range(queries):
            if found[j] < 0:
                continue
            state = (found[j], marks[j], cuts[j])
            state = _part(
                high[j], low[j], wide, steps[j], bases[j], errors[j], most[j], blocks, start, stop, count, factors,
                allowed, k, scores[j], ids[j], scratch, state,
            )  # fmt: skip
            found[j], marks[j], cuts[j] = state
    for j in range(queries):
        if found[j] > k:
            found[j] = _trim(scores[j], ids[j], found[j], k, factors, errors[j], scratch)[0]


@njit(cache=True, nogil=True, boundscheck=False)
def scan_plain(
    tables: np.ndarray, base: np.float32, error: np.float32, blocks: np.ndarray, count: int, factors: np.ndarray,
    allowed: np.ndarray, k: int, scores: np.ndarray, ids: np.ndarray,
) -> int:  # fmt: skip
    """The same by float32 `tables` [nibbles, 16] or [bytes, 256], for any processor."""
    values, scratch = np.empty(ROWS, np.float32), np.empty(len(scores), np.float32)
    state = (0, min(2 * k + 32, len(scores)), np.float32(-np.inf))
    for block in range(len(blocks)):
        first = block * ROWS
        for lane in range(ROWS):
            values[lane] = base
        for column in range(blocks.shape[1]):
            if tables.shape[1] == 256:
                for lane in range(ROWS):
                    values[lane] += tables[column, blocks[block, column, lane]]
            else:
                for lane in range(ROWS):
                    code = blocks[block, column, lane]
                    values[lane] += tables[2 * column, code & 15] + tables[2 * column + 1, code >> 4]
        there = min(ROWS, count - first)
        state = _keep(values, first, there, error, factors, allowed, k, scores, ids, scratch, count, state)
        if state[0] < 0:
            return -1
    if state[0] > k:
        return _trim(scores, ids, state[0], k, factors, error, scratch)[0]
    return state[0]
