"""Compiled form of scores of codes (see `code_scan.py`): small floats widened in registers, look-ups by the byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from inlay.kernels.dense_numba import APART

__all__ = ["look_up", "one", "widen"]

_FLOAT, _HALF, _SHORT, _INT = ir.FloatType(), ir.HalfType(), ir.IntType(16), ir.IntType(32)


@intrinsic
def _widen(typingctx: Any, value: types.Type, mark: Any) -> Any:
    """One stored number as float32: e4m3 (a mark of one) as 2⁻⁸ times its value, e5m2 (of two), bfloat16 (of none)."""
    kind = mark.count if hasattr(mark, "count") else 0

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        if kind == 0:
            wide = builder.shl(builder.zext(args[0], _INT), ir.Constant(_INT, 16))
            return builder.bitcast(wide, _FLOAT)
        if kind == 2:
            half = builder.shl(builder.zext(args[0], _SHORT), ir.Constant(_SHORT, 8))
        else:
            # Sign-extended and moved by seven, the sign stands in bits 15 and 14: the latter has to go.
            half = builder.shl(builder.sext(args[0], _SHORT), ir.Constant(_SHORT, 7))
            half = builder.and_(half, ir.Constant(_SHORT, 0xBFFF))
        return builder.fpext(builder.bitcast(half, _HALF), _FLOAT)

    return types.float32(value, mark), codegen


@njit(cache=True, nogil=True, boundscheck=False, fastmath=True)
def one(query: np.ndarray, rows: np.ndarray, mark: tuple[int, ...], ids: np.ndarray | None, out: np.ndarray) -> None:
    """Dot products of `query` float32 [dim] with small floats, of `rows[ids]` or of all rows, into `out` float32 [n].

    Rows are read at four places at a time, as in `dense_numba`.
    """
    n = len(out)
    apart = max(1, min(APART // (rows.shape[1] * rows.itemsize), n // 4))
    fours = n // (4 * apart) * apart
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
            first += query[t] * _widen(rows[i, t], mark)  # type: ignore[call-arg]
            second += query[t] * _widen(rows[j, t], mark)  # type: ignore[call-arg]
            third += query[t] * _widen(rows[k, t], mark)  # type: ignore[call-arg]
            fourth += query[t] * _widen(rows[m, t], mark)  # type: ignore[call-arg]
        out[a], out[b], out[c], out[d] = first, second, third, fourth


@njit(cache=True, nogil=True, boundscheck=False)
def widen(rows: np.ndarray, mark: tuple[int, ...], out: np.ndarray) -> None:
    """Small floats [n, dim] as float32 into `out`."""
    for i in range(rows.shape[0]):
        for t in range(rows.shape[1]):
            out[i, t] = _widen(rows[i, t], mark)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def look_up(tables: np.ndarray, codes: np.ndarray, ids: np.ndarray | None, out: np.ndarray) -> None:
    """Σ_j tables[j, codes[i, j]] of four rows at a time, whose look-ups do not wait for each other."""
    n, parts = len(out), codes.shape[1]
    for a in range(0, n, 4):
        b, c, d = min(a + 1, n - 1), min(a + 2, n - 1), min(a + 3, n - 1)
        i, j, k, m = (a, b, c, d) if ids is None else (ids[a], ids[b], ids[c], ids[d])
        first = second = third = fourth = np.float32(0)
        for t in range(parts):
            first += tables[t, codes[i, t]]
            second += tables[t, codes[j, t]]
            third += tables[t, codes[k, t]]
            fourth += tables[t, codes[m, t]]
        out[a], out[b], out[c], out[d] = first, second, third, fourth
