"""Inserting into ACORN's graph, and walking it among rows that pass a filter (see `inlay.indexes.acorn`)."""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.dense_graph_numba import _ENDLESS, _beam, _descend, _nearest, _passes, _twin
from inlay.kernels.dense_graph_scores_numba import _key, _take
from inlay.kernels.sparse_graph_numba import _epoch, _linked, _row, _sort

__all__ = ["insert", "walk"]

NONE = np.uint32(0xFFFFFFFF)

_u = np.uint64


@njit(cache=True, nogil=True, boundscheck=False)
def _compress(graph, keys, n, untouched, count, room, chosen):
    """Of n keys in ascending order, best last, the rows to link to; returns how many.

    The nearest stay. A further one is left out where a further one that was kept links to it: a walk that looks past
    what was kept comes upon it.
    """
    epoch, stamps = _epoch(room), room.stamps
    taken = held = 0
    for i in range(n - 1, -1, -1):
        row = _row(keys[i])
        far = n - 1 - i >= untouched
        met = stamps[row] == epoch
        if far and met:
            continue
        chosen[taken] = row
        taken += 1
        if taken == count:
            break
        if not met:
            stamps[row] = epoch
            held += 1
        if far:
            links = graph.links[row]
            for j in range(len(links)):
                if links[j] == NONE:
                    break
                if stamps[links[j]] != epoch:
                    stamps[links[j]] = epoch
                    held += 1
        if held >= count:
            break
    return taken


@njit(cache=True, nogil=True, boundscheck=False)
def _choose(graph, keys, n, level, untouched, room, chosen):
    """The links of a row of a level, of n keys in ascending order: above level 0 the nearest."""
    if level == 0:
        return _compress(graph, keys, n, untouched, graph.links.shape[1], room, chosen)
    taken = min(n, graph.higher.shape[1])
    for i in range(taken):
        chosen[i] = _row(keys[n - 1 - i])
    return taken


@njit(cache=True, nogil=True, boundscheck=False)
def _link_back(graph, row, new, level, untouched, room, query, keys, chosen):
    links = _linked(graph, row, level)
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
    taken = _choose(graph, keys, width + 1, level, untouched, room, chosen)
    for j in range(width):
        links[j] = chosen[j] if j < taken else NONE


@njit(cache=True, nogil=True, boundscheck=False)
def insert(graph, rows, expansion, untouched, room):
    """Link rows, whose codes and levels are there; a row that equals another becomes its twin."""
    most = max(graph.higher.shape[1], graph.links.shape[1])
    best, every = np.empty(expansion, dtype=np.uint64), np.zeros(0, dtype=np.bool_)
    seeds, waiting = np.empty(expansion + 1, dtype=np.uint64), np.empty(most, dtype=np.uint32)
    keys, mine = np.empty(most + 1, dtype=np.uint64), np.empty(most, dtype=np.uint32)
    chosen = np.empty(most, dtype=np.uint32)
    query, receiver = np.empty(graph.codes.shape[1], np.int16), np.empty(graph.codes.shape[1], np.int16)
    for r in range(len(rows)):
        row = rows[r]
        step = _take(graph, row, query)
        level = np.int64(graph.levels[row])
        if graph.entry[0] < 0:
            graph.entry[0] = row
            continue
        seeds[0] = _descend(graph, query, step, 0)[0]
        n = _nearest(graph, query, step, 0, seeds, 1, every, room, waiting, best)
        twin = _twin(graph, row, seeds, n)
        if twin >= 0:
            graph.twins[row], graph.twins[twin] = graph.twins[twin], np.uint32(row)
            continue
        top = np.int64(graph.levels[graph.entry[0]])
        if level > 0:
            seeds[0] = _descend(graph, query, step, level)[0]
            n = 1
        for floor in range(min(level, top), -1, -1):
            if level > 0:
                n = _nearest(graph, query, step, floor, seeds, n, every, room, waiting, best)
            taken = _choose(graph, seeds, n, floor, untouched, room, mine)
            links = _linked(graph, row, floor)
            for j in range(taken):
                links[j] = mine[j]
            for j in range(taken):
                _link_back(graph, mine[j], np.uint32(row), floor, untouched, room, receiver, keys, chosen)
        if level > top:
            graph.entry[0] = row


@njit(cache=True, nogil=True, boundscheck=False)
def _descend_passing(graph, query, step, allowed, hops, most):
    """The nearest row that passes on the levels above the lowest, step by step; returns (its key, rows scored).

    A row has its first `most` links that pass looked at; with two hops, those of its links too.
    """
    at, scored = _key(graph, query, step, graph.entry[0]), 1
    passes = _passes(graph, np.uint32(graph.entry[0]), allowed)
    for floor in range(np.int64(graph.levels[graph.entry[0]]), 0, -1):
        while True:
            links, top, found = _linked(graph, _row(at), floor), at, 0
            for j in range(len(links)):
                other = links[_u(j)]
                if other == NONE or found >= most:
                    break
                further = _linked(graph, other, floor)
                for i in range(-1, len(further) if hops == 2 else 0):
                    if i >= 0:
                        other = further[_u(i)]
                        if other == NONE or found >= most:
                            break
                    if _passes(graph, other, allowed):
                        key = _key(graph, query, step, other)
                        found += 1
                        if key > top or not passes:
                            top, passes = key, True
            scored += found
            if top == at:
                break
            at = top
    return at, scored


@njit(cache=True, nogil=True, boundscheck=False)
def walk(graph, queries, steps, expansion, allowed, how, untouched, connectivity, room, best, sizes):
    """As `dense_graph.walk`, on the upper levels among rows that pass; 2 · connectivity rows are scored of a step."""
    k, width, scored = best.shape[1], graph.codes.shape[1], 0
    found, seeds = np.empty(expansion, dtype=np.uint64), np.empty(1, dtype=np.uint64)
    waiting = np.empty(2 * connectivity, dtype=np.uint32)
    query = np.empty(width, np.int16)
    for q in range(len(queries)):
        sizes[q] = 0
        if graph.entry[0] < 0:
            continue
        query[: width - 8] = queries[q, : width - 8]
        query[width - 8 :] = 0
        step = steps[q]
        seeds[0], first = _descend_passing(graph, query, step, allowed, 2 if how == 3 else 1, connectivity)
        size, more = _beam(
            graph, query, step, 0, seeds, 1, allowed, True, how, untouched, _ENDLESS, 0, room, waiting, found
        )
        scored += first + more
        _sort(found, size)
        for i in range(min(k, size)):
            best[q, i] = found[size - 1 - i]
        sizes[q] = min(k, size)
    return scored
