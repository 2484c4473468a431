"""How near a query is to a row of a `DenseGraph`: by codes of a byte a number on the way, by the rows themselves at the
end. See `inlay.kernels.dense_graph` for arguments and results; the walks are in `dense_graph_numba`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from inlay.kernels.dense_numba import _FEATURES, _widen
from inlay.kernels.gather_numba import _ask
from inlay.kernels.seismic_numba import _bits, _float
from inlay.kernels.sparse_graph_numba import _row, _sort

__all__ = ["ask", "refine"]

NONE = np.uint32(0xFFFFFFFF)
_SIGN = np.uint32(0x80000000)
_LARGEST = np.float32(np.finfo(np.float32).max)

_u = np.uint64


_WIDE = {"+avx512bw": (32, "llvm.x86.avx512.pmaddw.d.512"), "+avx2": (16, "llvm.x86.avx2.pmadd.wd")}
_LANES, _PAIRS = next((found for feature, found in _WIDE.items() if feature in _FEATURES), (0, ""))


@intrinsic
def _in_pairs(typingctx: Any, query: Any, codes: Any, row: Any) -> Any:
    """Σ query · codes[row], an int32, two products an instruction.

    Written out, because the loop vectoriser widens the query anew for every row, and uses half of the registers.
    """
    signature = types.int32(query, codes, row)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        left = context.make_array(query)(context, builder, args[0])
        right = context.make_array(codes)(context, builder, args[1])
        width = cgutils.unpack_tuple(builder, right.shape, 2)[1]
        head = builder.gep(right.data, [builder.mul(args[2], width)])
        raw, words = ir.VectorType(ir.IntType(8), _LANES), ir.VectorType(ir.IntType(16), _LANES)
        sums = ir.VectorType(ir.IntType(32), _LANES // 2)
        multiply = cgutils.get_or_insert_function(builder.module, ir.FunctionType(sums, [words, words]), _PAIRS)
        totals = [cgutils.alloca_once_value(builder, ir.Constant(sums, None)) for _ in range(2)]
        step = ir.Constant(width.type, 2 * _LANES)
        with cgutils.for_range(builder, builder.udiv(width, step)) as loop:
            at = builder.mul(loop.index, step)
            for i, total in enumerate(totals):
                here = builder.add(at, ir.Constant(width.type, i * _LANES))
                x = builder.load(builder.bitcast(builder.gep(head, [here]), raw.as_pointer()), align=1)
                y = builder.load(builder.bitcast(builder.gep(left.data, [here]), words.as_pointer()), align=2)
                product = builder.call(multiply, [builder.sext(x, words), y])
                builder.store(builder.add(builder.load(total), product), total)
        both = builder.add(builder.load(totals[0]), builder.load(totals[1]))
        name = f"llvm.vector.reduce.add.v{_LANES // 2}i32"
        fold = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), [sums]), name)
        return builder.call(fold, [both])

    return signature, codegen


@njit(cache=True, nogil=True, boundscheck=False)
def _product(query, codes, row):
    """Of a query int16 [width]. The facts at the end of a row are no codes, but the query has zeros there."""
    if _LANES:
        return _in_pairs(query, codes, row)  # type: ignore[call-arg]
    total = np.int32(0)
    for t in range(codes.shape[1]):
        total = np.int32(total + np.int32(query[t]) * np.int32(codes[row, t]))
    return total


@njit(cache=True, nogil=True, boundscheck=False)
def _score(graph, query, step, row):
    row, last = _u(row), _u(graph.facts.shape[1] - 1)
    product = np.float32(_product(query, graph.codes, row))
    return step * graph.facts[row, last - _u(1)] * product - graph.facts[row, last]


@njit(cache=True, nogil=True, boundscheck=False)
def _keyed(score, row):
    """A key: floats in the order of unsigned integers."""
    bits = _bits(np.float32(score))  # type: ignore[call-arg, var-annotated]
    bits = ~bits if bits & _SIGN else bits | _SIGN  # type: ignore[operator]
    return (_u(bits) << _u(32)) | (_u(NONE) - _u(row))


@njit(cache=True, nogil=True, boundscheck=False)
def _key(graph, query, step, row):
    return _keyed(_score(graph, query, step, row), row)


@njit(cache=True, nogil=True, boundscheck=False)
def _take(graph, row, query):
    """Make a row's codes the query; returns what a step of them is worth."""
    width = graph.codes.shape[1]
    query[: width - 8] = graph.codes[row, : width - 8]
    query[width - 8 :] = 0
    return graph.facts[row, graph.facts.shape[1] - 2]


@njit(cache=True, nogil=True, boundscheck=False)
def _request(graph, row):
    _ask(graph.codes, _u(row), _u(0), _u(graph.codes.shape[1]))  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def ask(queries, unit, ready, asked, steps):
    for q in range(len(queries)):
        query, own, peak, total = queries[q], ready[q], np.float32(0), np.float32(0)
        for t in range(len(query)):
            if not abs(query[t]) <= _LARGEST:
                return q  # not a number, or beyond all
            peak = max(peak, abs(query[t]))
        scale = peak if unit and peak > 0 else np.float32(1)
        for t in range(len(query)):
            own[t] = query[t] / scale
            total += own[t] * own[t]
        if unit and total > 0:
            length = np.sqrt(total)
            for t in range(len(own)):
                own[t] /= length
            peak = peak / scale / length
        steps[q] = peak / np.float32(127) if peak > 0 else np.float32(1)
        for t in range(len(own)):
            asked[q, t] = np.rint(own[t] / steps[q])
    return -1


@njit(cache=True, nogil=True, boundscheck=False, fastmath=True)
def _exact(query, rows, row, squared):
    row, total = _u(row), np.float32(0)
    if squared:
        for t in range(rows.shape[1]):
            difference = query[t] - _widen(rows[row, t])  # type: ignore[call-arg]
            total -= difference * difference
    else:
        for t in range(rows.shape[1]):
            total += query[t] * _widen(rows[row, t])  # type: ignore[call-arg]
    return total


@njit(cache=True, nogil=True, boundscheck=False)
def refine(queries, rows, squared, best, sizes, scores, ids):
    """Score what was found by the rows as they are kept (float32, or float16 as the uint16 of their bits), and write
    the nearest k of each query: `scores` float32 [q, k] and `ids` int64 [q, k], behind them -inf and -1. `best` is
    changed.
    """
    for q in range(len(queries)):
        n, keys = max(sizes[q], 0), best[q]
        for i in range(n, ids.shape[1]):
            scores[q, i], ids[q, i] = -np.inf, -1
        for i in range(n):
            _ask(rows, _row(keys[i]), _u(0), _u(rows.shape[1]))  # type: ignore[call-arg]
        for i in range(n):
            row = _row(keys[i])
            keys[i] = _keyed(_exact(queries[q], rows, row, squared), row)
        _sort(keys, n)
        for i in range(min(n, ids.shape[1])):
            key = keys[n - 1 - i]
            bits = np.uint32(key >> _u(32))
            scores[q, i] = _float(bits & ~_SIGN if bits & _SIGN else ~bits)  # type: ignore[call-arg]
            ids[q, i] = np.int64(_row(key))
