"""Scores of coded rows without decoding them: what a query makes of a code, and the sums over a row.

A codec says in one of two ways how a dot product with its codes is made (`Linear`, `Tables`), and both are scanned at
about the speed of memory:

- `Linear`: the codes are numbers of a small type, widened to float32 in registers. int8, float16 and bfloat16 are one
  instruction or a shift; e5m2 is the upper half of a float16; and e4m3, its seven bits moved up by seven, is a float16
  too, 2⁻⁸ times the value, subnormal numbers included.
- `Tables`: a code of 1, 2, 4 or 8 bits names an entry of its part's table. Here two, four or eight parts of one byte
  are added up beforehand, so that a byte is one look-up; `inlay.kernels.nibbles` looks 64 rows up at once.

Sums are float32; the scores are those of decoded rows up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels import compiled

__all__ = ["KINDS", "Linear", "Tables", "byte_tables", "linear_scores", "score", "table_scores", "widened"]

# Types of numbers in codes, as numpy keeps them.
KINDS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16),
    "e4m3": np.dtype(np.uint8), "e5m2": np.dtype(np.uint8), "int8": np.dtype(np.int8),
}  # fmt: skip
VALUES_AT_ONCE = 1 << 20  # numpy form: 4 MB of codes widened to float32
E4M3 = np.float32(256)  # a value over the float16 that its bits make
_NO_SCALES = np.empty(0, dtype=np.float32)
_NO_SCALES.flags.writeable = False


class Linear(NamedTuple):
    """A score is vector · numbers + constant.

    Args:
        kind: of the numbers, a key of `KINDS`.
        vector: float32 [width].
        constant: what is added to every score.
    """

    kind: str
    vector: np.ndarray
    constant: float = 0.0


class Tables(NamedTuple):
    """A score is the sum over the parts of what the part's code names in its table, + constant.

    Args:
        tables: float32 [parts, 2^bits].
        bits: of a code: 1, 2, 4 or 8; codes are packed, lowest bit first.
        constant: what is added to every score.
    """

    tables: np.ndarray
    bits: int
    constant: float = 0.0


def score(view: Linear | Tables, codes: np.ndarray) -> np.ndarray:
    """Scores float32 [n] of codes: [n, width] of the view's kind, or packed uint8 [n, ⌈parts · bits / 8⌉]."""
    if isinstance(view, Linear):
        return linear_scores([view], codes)[0]
    return table_scores(byte_tables(view), codes) + np.float32(view.constant)


def widened(codes: np.ndarray, kind: str) -> np.ndarray:
    """Numbers of a small type as float32."""
    if kind == "bfloat16":
        return (codes.astype(np.uint32) << 16).view(np.float32)
    if kind == "e5m2":
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if kind == "e4m3":
        bits = codes.astype(np.uint16)
        return ((bits & 0x80) << 8 | (bits & 0x7F) << 7).view(np.float16).astype(np.float32) * E4M3
    return codes.astype(np.float32, copy=False)


def linear_scores(views: Sequence[Linear], codes: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Scores float32 [q, n] of views of one kind, of all rows or of `codes[ids]`."""
    kind = views[0].kind
    if codes.ndim != 2 or codes.dtype != KINDS[kind] or codes.shape[1] != len(views[0].vector):
        raise BadInput(
            f"expected codes {KINDS[kind]} [n, {len(views[0].vector)}], got {codes.dtype} {list(codes.shape)}"
        )
    vectors = np.ascontiguousarray([view.vector for view in views], dtype=np.float32)
    constants = np.array([view.constant for view in views], dtype=np.float32)[:, None]
    count = len(codes) if ids is None else len(ids)
    if _fast(kind, len(views) * count * codes.shape[1]):
        return _compiled_scores(kind, vectors, codes, ids) + constants
    out = np.empty((len(views), count), dtype=np.float32)
    step = max(256, VALUES_AT_ONCE // max(1, codes.shape[1]))
    for start in range(0, count, step):
        part = codes[start : start + step] if ids is None else codes[ids[start : start + step]]
        out[:, start : start + step] = vectors @ widened(part, kind).T
    return out + constants


def byte_tables(view: Tables) -> np.ndarray:
    """One table a byte of packed codes, float32 [bytes, 256]: the sums of the parts that share it."""
    parts, entries = view.tables.shape
    each = 8 // view.bits
    if view.bits not in (1, 2, 4, 8) or entries != 1 << view.bits:
        raise BadInput(f"tables of {entries} entries for codes of {view.bits} bits; 1, 2, 4 or 8 bits are read")
    short = np.zeros((-(-parts // each) * each, entries), dtype=np.float32)
    short[:parts] = view.tables
    if each == 1:
        return short
    numbers = np.arange(256)
    made = np.zeros((len(short) // each, 256), dtype=np.float32)
    for place in range(each):
        made += short[place::each][:, numbers >> (place * view.bits) & (entries - 1)]
    return made


def table_scores(tables: np.ndarray, codes: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Σ_j tables[j, codes[i, j]], float32 [n], of codes uint8 [n, bytes] or of those that `ids` name."""
    if codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] != len(tables):
        raise BadInput(f"expected codes uint8 [n, {len(tables)}], got {codes.dtype} {list(codes.shape)}")
    count = len(codes) if ids is None else len(ids)
    if compiled(count * codes.shape[1] * 8):
        from inlay.kernels.code_scan_numba import look_up

        out = np.empty(count, dtype=np.float32)
        look_up(np.ascontiguousarray(tables, dtype=np.float32), _plain(codes), ids, out)
        return out
    codes = codes if ids is None else codes[ids]
    total = np.zeros(count, dtype=np.float32)
    for table, column in zip(tables, codes.T):
        total += table[column]
    return total


def _compiled_scores(kind: str, vectors: np.ndarray, codes: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    codes, count = _plain(codes), len(codes) if ids is None else len(ids)
    ids = None if ids is None else np.ascontiguousarray(ids, dtype=np.int64)
    out = np.empty((len(vectors), count), dtype=np.float32)
    if kind in ("e4m3", "e5m2", "bfloat16"):
        from inlay.kernels.code_scan_numba import one, widen

        if kind == "e4m3":
            vectors = vectors * E4M3
        mark: Any = {"e4m3": (0,), "e5m2": (0, 0), "bfloat16": ()}[kind]
        if len(vectors) == 1:
            one(vectors[0], codes, mark, ids, out[0])
            return out
        # Many queries: what is widened once serves them all, and a matrix product is as fast as can be.
        step = max(256, VALUES_AT_ONCE // 4 // max(1, codes.shape[1]))
        room = np.empty((min(step, count), codes.shape[1]), dtype=np.float32)
        for start in range(0, count, step):
            stop = min(start + step, count)
            part = codes[start:stop] if ids is None else codes[ids[start:stop]]
            widen(_plain(part), mark, room[: stop - start])
            np.matmul(vectors, room[: stop - start].T, out=out[:, start:stop])
        return out
    from inlay.kernels.dense_numba import one as one_plain
    from inlay.kernels.dense_numba import tile

    bits = codes.view(np.uint16) if kind == "float16" else codes
    bits.flags.writeable = False
    if len(vectors) == 1:
        one_plain(vectors[0], bits, _NO_SCALES, ids, False, out[0])
    else:
        tile(vectors, bits, _NO_SCALES, ids, False, out)
    return out


def _fast(kind: str, work: int) -> bool:
    if not compiled(work):
        return False
    from inlay.kernels.dense_numba import converts_halves

    return kind in ("float32", "bfloat16", "int8") or converts_halves()


def _plain(array: np.ndarray) -> np.ndarray:
    """A contiguous read-only view: numba does not know `np.memmap`, and takes read-only arrays for another type."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view
