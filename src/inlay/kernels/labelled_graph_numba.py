"""Building and walking a graph whose edges respect labels (see `inlay.indexes.labelled_graph`)."""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.dense_graph_scores_numba import _key, _request, _score, _take
from inlay.kernels.postings_numba import _offer
from inlay.kernels.seismic_numba import _float
from inlay.kernels.sparse_graph_numba import _epoch, _pop, _push, _row, _sort

__all__ = ["insert", "walk"]

NONE = np.uint32(0xFFFFFFFF)

_u = np.uint64


@njit(cache=True, nogil=True, boundscheck=False)
def _shares(labels, row, wanted):
    """Whether a row has any of the labels; none wanted are all."""
    if len(wanted) == 0:
        return True
    for w in range(len(wanted)):  # noqa: SIM110 - numba compiles no generators here
        if labels[_u(row), w] & wanted[w]:
            return True
    return False


@njit(cache=True, nogil=True, boundscheck=False)
def _beam(graph, query, step, wanted, starts, room, waiting, best, seen):
    """Walk among rows with a wanted label; returns (rows found, rows scored, rows gone on from: `seen` has them)."""
    epoch, stamps, ahead = _epoch(room), room.stamps, room.ahead
    size, n_ahead, scored, passed = 0, 0, 0, 0
    for start in starts:
        if stamps[start] != epoch and _shares(graph.labels, start, wanted):
            stamps[start] = epoch
            key = _key(graph, query, step, start)
            _push(ahead, n_ahead, key)
            n_ahead += 1
            size = _offer(best, size, key)
            scored += 1
    while n_ahead > 0:
        key = ahead[0]
        if size == len(best) and key < best[0]:
            break
        _pop(ahead, n_ahead)
        n_ahead -= 1
        if passed < len(seen):
            seen[passed] = key
            passed += 1
        links, n = graph.links[_row(key)], 0
        for j in range(len(links)):
            other = links[_u(j)]
            if other == NONE:
                break
            if stamps[_u(other)] != epoch:
                stamps[_u(other)] = epoch
                if _shares(graph.labels, other, wanted):
                    _request(graph, other)
                    waiting[_u(n)] = other
                    n += 1
        scored += n
        for w in range(n):
            key = _key(graph, query, step, waiting[_u(w)])
            if size < len(best) or key > best[0]:
                _push(ahead, n_ahead, key)
                n_ahead += 1
                size = _offer(best, size, key)
    return size, scored, passed


@njit(cache=True, nogil=True, boundscheck=False)
def _prune(graph, row, keys, n, count, stretch, other, gone, chosen):
    """FilteredRobustPrune: of n keys in ascending order, best last, the rows to link to; returns how many.

    A candidate is left out for a nearer one that was chosen if that is near enough to it, and has every label that the
    candidate and the row share: whoever comes for one of these labels can take the other way.
    """
    own, last, taken = graph.labels[row], graph.facts.shape[1] - 1, 0
    for i in range(n):
        gone[i] = False
    half = graph.facts[row, last]
    for i in range(n - 1, -1, -1):
        near = _row(keys[i])
        if gone[i] or near == _u(row):
            continue
        chosen[taken] = near
        taken += 1
        if taken == count:
            break
        step = _take(graph, near, other)
        half_near = graph.facts[near, last]
        for j in range(i):
            far = _row(keys[j])
            if gone[j]:
                continue
            covered = True
            for w in range(len(own)):
                if own[w] & graph.labels[far, w] & ~graph.labels[near, w]:
                    covered = False
                    break
            if covered:
                # Halves of squared distances; a score is a product less half the square of the far row.
                between = half_near - _score(graph, other, step, far)
                if stretch * between <= half - _float_of(keys[j]):
                    gone[j] = True
    return taken


@njit(cache=True, nogil=True, boundscheck=False)
def _float_of(key):
    """The score of a key."""
    bits = np.uint32(key >> _u(32))
    bits = bits & np.uint32(0x7FFFFFFF) if bits & np.uint32(0x80000000) else ~bits
    return _float(bits)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def insert(graph, order, offsets, starts, expansion, count, stretch, room):
    """FilteredVamana: link rows one by one. `starts[offsets[i]:offsets[i + 1]]` are where the walk for row i begins."""
    width = graph.links.shape[1]
    best, seen = np.empty(expansion, dtype=np.uint64), np.empty(4 * expansion, dtype=np.uint64)
    waiting, chosen = np.empty(width, dtype=np.uint32), np.empty(width, dtype=np.uint32)
    keys, gone = (
        np.empty(4 * expansion + width + 1, dtype=np.uint64),
        np.empty(4 * expansion + width + 1, dtype=np.bool_),
    )
    query, other = np.empty(graph.codes.shape[1], np.int16), np.empty(graph.codes.shape[1], np.int16)
    for i in range(len(order)):
        row = order[i]
        step, wanted = _take(graph, row, query), graph.labels[row]
        if not wanted.any():
            wanted = wanted[:0]
        n = _beam(graph, query, step, wanted, starts[offsets[i] : offsets[i + 1]], room, waiting, best, seen)[2]
        for j in range(n):
            keys[j] = seen[j]
        links = graph.links[row]
        for j in range(width):  # those that came to it before
            if links[j] == NONE:
                break
            known = False
            for t in range(n):
                if _row(keys[t]) == _u(links[j]):
                    known = True
                    break
            if not known:
                keys[n] = _key(graph, query, step, links[j])
                n += 1
        _sort(keys, n)
        taken = _prune(graph, row, keys, n, count, stretch, other, gone, chosen)
        for j in range(width):
            links[j] = chosen[j] if j < taken else NONE
        for j in range(taken):
            _link_back(graph, links[j], np.uint32(row), count, stretch, query, other, keys, gone, chosen)


@njit(cache=True, nogil=True, boundscheck=False)
def _link_back(graph, row, new, count, stretch, query, other, keys, gone, chosen):
    links = graph.links[row]
    width = len(links)
    for j in range(width):
        if links[j] == new:
            return
        if links[j] == NONE:
            links[j] = new
            return
    step = _take(graph, row, query)
    for j in range(width):
        keys[j] = _key(graph, query, step, links[j])
    keys[width] = _key(graph, query, step, new)
    _sort(keys, width + 1)
    taken = _prune(graph, np.int64(row), keys, width + 1, count, stretch, other, gone, chosen)
    for j in range(width):
        links[j] = chosen[j] if j < taken else NONE


@njit(cache=True, nogil=True, boundscheck=False)
def walk(graph, queries, steps, wanted, starts, expansion, room, best, sizes):
    """The nearest rows with a wanted label, as keys in descending order; returns how many rows were scored."""
    k, width, scored = best.shape[1], graph.codes.shape[1], 0
    found, seen = np.empty(expansion, dtype=np.uint64), np.empty(0, dtype=np.uint64)
    waiting, query = np.empty(graph.links.shape[1], dtype=np.uint32), np.zeros(width, dtype=np.int16)
    for q in range(len(queries)):
        for t in range(width - 8):
            query[t] = queries[q, t]
        size, more, _ = _beam(graph, query, steps[q], wanted, starts, room, waiting, found, seen)
        scored += more
        _sort(found, size)
        for i in range(min(k, size)):
            best[q, i] = found[size - 1 - i]
        sizes[q] = min(k, size)
    return scored
