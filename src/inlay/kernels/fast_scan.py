"""Sums of table entries that codes name, for 64 rows at a time: the codes of 64 rows lie side by side, and one or two
instructions look all of them up in a table that stays in registers.

Whatever has codes of 1, 2, 4 or 8 bits is scored so: product codes, numbers in steps or bins, signs. Of codes below 8
bits, what the parts of a nibble contribute is added up beforehand, sixteen sums of them; codes of 8 bits have tables of
256, which takes four registers and a processor that permutes bytes across them (AVX-512 VBMI).

Entries are rounded to 14 bits, seven high and seven low. The high ones are summed over all rows; where a row of a block
can still be among the best, the low ones are too; and what then cannot be told from the k-th best by rounding is summed
again in float64. Scores and order are those of exact sums; the rounding only saves time.

After André, Kermarrec, Le Scouarnec, "Cache locality is not enough: High-Performance Nearest Neighbor Search with
Product Quantization Fast Scan" (VLDB 2015) and faiss' 4-bit fast scan, which keep the rounded sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from inlay.errors import BadInput
from inlay.kernels import compiled
from inlay.kernels.code_scan import Tables
from inlay.kernels.topk import TopK
from inlay.types import Neighbours

__all__ = ["ROWS", "nearest", "put", "register_tables", "room", "rounded", "taken"]

ROWS = 64  # of a block
LOW = 7  # bits of the lower half of a rounded entry
HALF = 1 << (LOW - 1)
LEVELS = (127 << LOW) + HALF - 1  # of a rounded entry: the upper half stays below 128
QUERIES_AT_ONCE = 64
BLOCKS_AT_ONCE = 64  # numpy form
SPARE = 256  # room for rows that rounding cannot tell from the k-th best


def register_tables(view: Tables) -> np.ndarray:
    """The tables that are read: one a nibble of packed codes, float32 [2 · bytes, 16], the lower nibble of a byte
    first; or one a byte for codes of 8 bits, float32 [bytes, 256].
    """
    parts, entries = view.tables.shape
    if view.bits not in (1, 2, 4, 8) or entries != 1 << view.bits:
        raise BadInput(f"tables of {entries} entries for codes of {view.bits} bits; 1, 2, 4 or 8 bits are read")
    if view.bits == 8 or (view.bits == 4 and parts % 2 == 0):  # as they are read
        return np.ascontiguousarray(view.tables, dtype=np.float32)
    each = 4 // view.bits
    made = np.zeros((2 * -(-parts // (2 * each)), 16), dtype=np.float32)
    short = np.zeros((len(made) * each, entries), dtype=np.float32)
    short[:parts] = view.tables
    numbers = np.arange(16)
    for place in range(each):
        made += short[place::each][:, numbers >> (place * view.bits) & (entries - 1)]
    return made


def room(count: int, wide: int) -> np.ndarray:
    """Blocks for `count` rows of `wide` bytes: uint8 [⌈count / 64⌉, wide, 64], aligned to lines of the cache."""
    blocks = -(-count // ROWS)
    numbers = np.zeros(blocks * wide * ROWS + ROWS, dtype=np.uint8)
    first = -numbers.ctypes.data % ROWS
    return numbers[first : first + blocks * wide * ROWS].reshape(blocks, wide, ROWS)


def put(blocks: np.ndarray, codes: np.ndarray, start: int) -> None:
    """Write codes uint8 [n, wide] as the rows from `start` on."""
    done = 0
    while done < len(codes):  # a block, or what is left of one, at a time where they are not whole
        block, lane = divmod(start + done, ROWS)
        if lane == 0 and len(codes) - done >= ROWS:
            whole = (len(codes) - done) // ROWS
            part = codes[done : done + whole * ROWS].reshape(whole, ROWS, -1)
            blocks[block : block + whole] = part.transpose(0, 2, 1)
            done += whole * ROWS
            continue
        some = min(ROWS - lane, len(codes) - done)
        blocks[block, :, lane : lane + some] = codes[done : done + some].T
        done += some


def taken(blocks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Codes uint8 [n, wide] of rows by number."""
    return blocks[rows // ROWS, :, rows % ROWS]


def rounded(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32, np.float32, float]:
    """Tables float32 [parts, 16] or [parts, 256] as halves of 14-bit numbers.

    Returns:
        high and low uint8 of the same shape, each below 128; what a step is worth; what is added to a sum of steps; and
        by how much a sum can then differ from that of the entries.
    """
    least = tables.min(axis=1, keepdims=True)
    above = tables.astype(np.float64) - least
    step = float(above.max(initial=0)) / LEVELS
    numbers = np.rint(above / step).astype(np.int64) if step > 0 else np.zeros(tables.shape, dtype=np.int64)
    error = float(np.abs(above - numbers * step).max(axis=1).sum()) if step > 0 else 0.0
    size = float(np.abs(tables).max(axis=1).sum())
    error += size * 1e-6  # float32 sums and products
    # The upper half to nearest, so that what the lower one can still add is half as much.
    high = (numbers + HALF) >> LOW
    low = numbers - (high << LOW) + HALF
    base = least.sum(dtype=np.float64) - HALF * len(tables) * step
    return high.astype(np.uint8), low.astype(np.uint8), np.float32(step), np.float32(base), error


def nearest(
    views: list[Tables], blocks: np.ndarray, count: int, k: int, *, factors: np.ndarray | None = None,
    allow: np.ndarray | None = None,
) -> Neighbours:  # fmt: skip
    """The k rows of highest (sum + constant) · factor for each view; equal ones go to the lower id.

    Args:
        views: of the queries.
        blocks: uint8 [≥ ⌈count / 64⌉, bytes, 64], see `room` and `put`.
        count: rows.
        k: how many; beyond the rows allowed the answer is padded with id -1 and score -inf.
        factors: float32 [count], not negative; None for 1.
        allow: bool [count], the rows that may be returned.
    """
    scores = np.full((len(views), k), -np.inf, dtype=np.float32)
    ids = np.full((len(views), k), -1, dtype=np.int64)
    wanted = min(k, count if allow is None else int(allow.sum()))
    if not views or not wanted:
        return Neighbours(scores, ids)
    blocks = blocks[: -(-count // ROWS)]
    fast = compiled(len(views) * blocks.size * 2)
    read = [register_tables(view) for view in views]
    if any(len(tables) != blocks.shape[1] * (1 if tables.shape[1] == 256 else 2) for tables in read):
        raise BadInput(f"{len(read[0])} tables of {read[0].shape[1]} for codes of {blocks.shape[1]} bytes")
    constants = np.array([view.constant for view in views], dtype=np.float32)
    if fast:
        from inlay.kernels.fast_scan_numba import looks_up

        factors_ = np.empty(0, np.float32) if factors is None else factors
        allowed = np.empty(0, np.bool_) if allow is None else allow
        for first in range(0, len(views), QUERIES_AT_ONCE):
            some = slice(first, first + QUERIES_AT_ONCE)
            tables = read[first][None] if len(views) == 1 else np.stack(read[some])
            answered = _answering(looks_up(tables.shape[2]))
            wide = None if tables.shape[2] == 16 else (0,)
            answered(
                tables, constants[some], wide, blocks, count, factors_, allowed, wanted, 2 * wanted + SPARE,
                scores[some], ids[some],
            )  # fmt: skip
        return Neighbours(scores, ids)
    for place, tables in enumerate(read):
        best = TopK(1, wanted)
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            rows = np.arange(start * ROWS, min((start + BLOCKS_AT_ONCE) * ROWS, count))
            found = _exact(tables, constants[place], taken(blocks, rows), rows, factors)
            if allow is not None:
                found[~allow[rows]] = -np.inf
            best.offer(found[None], start * ROWS)
        one = best.result()
        ids[place, :wanted], scores[place, :wanted] = one.ids[0], one.scores[0]
    return Neighbours(scores, ids)


@cache
def _answering(looks_up: bool) -> Callable[..., None]:
    """The compiled form with such an instruction, or without."""
    from inlay.kernels.fast_scan_answer_numba import answer, answer_plain

    return answer if looks_up else answer_plain  # type: ignore[no-any-return]


def _exact(
    tables: np.ndarray, constant: np.float32, codes: np.ndarray, rows: np.ndarray, factors: np.ndarray | None
) -> np.ndarray:  # fmt: skip
    """Scores float32 [n] of some rows' codes, summed part by part in float64, as both forms do."""
    total = np.zeros(len(codes), dtype=np.float64)
    for column, code in enumerate(codes.T):
        if tables.shape[1] == 256:
            total += tables[column, code]
        else:
            total += tables[2 * column, code & 15]
            total += tables[2 * column + 1, code >> 4]
    scores = (total + np.float64(constant)).astype(np.float32)
    return scores if factors is None else scores * factors[rows]
