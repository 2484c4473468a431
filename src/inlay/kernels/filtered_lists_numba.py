"""Scanning the rows that pass a filter, in the lists nearest to the query (see `inlay.indexes.filtered_lists`)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from inlay.kernels.dense_graph_scores_numba import _key, _request
from inlay.kernels.postings_numba import _offer
from inlay.kernels.sparse_graph_numba import _pop, _push, _row, _sort

__all__ = ["probe"]

_AT_ONCE = 32  # rows that are asked for before the first is scored

_u = np.uint64


@njit(cache=True, nogil=True, boundscheck=False)
def probe(graph, lists, queries, steps, allowed, effort, bend, best, sizes):
    """See `Lists.probe`; returns how many rows were scored."""
    width, count, scored = graph.codes.shape[1], len(lists.starts) - 1, 0
    ahead, waiting = np.empty(count, dtype=np.uint64), np.empty(_AT_ONCE, dtype=np.uint32)
    query, enough = np.zeros(width, dtype=np.int16), math.log(effort)
    for q in range(len(queries)):
        for t in range(width - 8):
            query[t] = queries[q, t]
        step, mine = steps[q], best[q]
        for j in range(count):
            _push(ahead, j, _key(lists, query, step, j))
        left, size, seen, tested = count, 0, 0, 0
        while left > 0:
            j = _row(ahead[0])
            _pop(ahead, left)
            left -= 1
            at, stop, n = lists.starts[j], lists.starts[j + _u(1)], 0
            tested += stop - at
            while at < stop:
                row = lists.rows[_u(at)]
                at += 1
                if allowed[_u(row)]:
                    _request(graph, row)
                    waiting[_u(n)] = row
                    n += 1
                if n == _AT_ONCE or at == stop:
                    for w in range(n):
                        key = _key(graph, query, step, waiting[_u(w)])
                        if size < len(mine) or key > mine[0]:
                            size = _offer(mine, size, key)
                    seen += n
                    n = 0
            if size == len(mine) and (1 - bend) * math.log(seen) + bend * math.log(tested) >= enough:
                break
        _sort(mine, size)
        for i in range(size >> 1):
            mine[i], mine[size - 1 - i] = mine[size - 1 - i], mine[i]
        sizes[q] = size
        scored += seen
    return scored
