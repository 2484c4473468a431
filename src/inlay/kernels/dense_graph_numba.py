"""The compiled forms of `inlay.kernels.dense_graph`; see there for arguments and results.

The neighbours of a row that were not met before are asked for, all of them, before the first is scored.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.dense_graph import LOOK
from inlay.kernels.dense_graph_scores_numba import NONE, _key, _request, _score, _take, _u, ask, refine
from inlay.kernels.postings_numba import _offer
from inlay.kernels.sparse_graph_numba import _epoch, _linked, _pop, _push, _row, _sort

__all__ = ["ask", "insert", "refine", "scan", "walk"]

_ENDLESS = np.int64(1) << np.int64(62)  # rows that no walk scores
_LOOK = LOOK
_AT_ONCE = 32  # rows that a scan asks for before it scores them for every query


@njit(cache=True, nogil=True, boundscheck=False)
def _passes(graph, row, allowed):
    """Whether a row or a twin of it may be found."""
    if len(allowed) == 0:
        return True
    while row != NONE:
        if allowed[_u(row)]:
            return True
        row = graph.twins[_u(row)]
    return False


@njit(cache=True, nogil=True, boundscheck=False)
def _descend(graph, query, step, level):
    """The nearest row on the levels above one, step by step; returns (its key, rows scored)."""
    at, scored = _key(graph, query, step, graph.entry[0]), 1
    for floor in range(np.int64(graph.levels[graph.entry[0]]), level, -1):
        while True:
            links, top = _linked(graph, _row(at), floor), at
            for j in range(len(links)):
                if links[j] == NONE:
                    break
                _request(graph, links[j])
            for j in range(len(links)):
                if links[j] == NONE:
                    break
                top = max(top, _key(graph, query, step, links[j]))
                scored += 1
            if top == at:
                break
            at = top
    return at, scored


@njit(cache=True, nogil=True, boundscheck=False)
def _offer_all(graph, key, allowed, best, size):
    """Offer a row, and its twins with it."""
    row = np.uint32(_row(key))
    while row != NONE:
        if len(allowed) == 0 or allowed[_u(row)]:
            size = _offer(best, size, (key & ~_u(NONE)) | (_u(NONE) - _u(row)))
        row = graph.twins[_u(row)]
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _collect(graph, links, allowed, how, beyond, most, stamps, epoch, waiting):
    """The rows to score after one whose links these are: not met before and, from two hops on, allowed."""
    n = 0
    for j in range(len(links)):
        other = links[_u(j)]
        if other == NONE or n >= most:
            break
        passes = how < 2 or _passes(graph, other, allowed)
        fresh = stamps[_u(other)] != epoch
        if fresh:
            stamps[_u(other)] = epoch
            if passes:
                _request(graph, other)
                waiting[_u(n)] = other
                n += 1
        # What is not allowed is looked past once; others, each time they are met: a walk may have stopped short there.
        if (how == 2 and not passes and fresh) or how == 3 or (how == 4 and j >= beyond):
            further = graph.links[_u(other)]
            for i in range(len(further)):
                last = further[_u(i)]
                if last == NONE or n >= most:
                    break
                if stamps[_u(last)] != epoch and _passes(graph, last, allowed):
                    stamps[_u(last)] = epoch
                    _request(graph, last)
                    waiting[_u(n)] = last
                    n += 1
    return n


@njit(cache=True, nogil=True, boundscheck=False)
def _beam(graph, query, step, level, seeds, n_seeds, allowed, twins, how, beyond, limit, least, room, waiting, best):
    """Fill a heap with the best rows, and their twins if these are wanted; returns (how many, rows scored).

    It gives up, and returns -1, once more than `limit` are scored, or fewer than `least` of the first `_LOOK` may be
    found.
    """
    epoch, stamps, ahead = _epoch(room), room.stamps, room.ahead
    expansion, size, n_ahead, scored, most = len(best), 0, 0, 0, len(waiting)
    for i in range(n_seeds):
        stamps[_row(seeds[i])] = epoch
        _push(ahead, n_ahead, seeds[i])
        n_ahead += 1
        if twins:
            size = _offer_all(graph, seeds[i], allowed, best, size)
        else:
            size = _offer(best, size, seeds[i])
    while n_ahead > 0 and scored <= limit:
        if least > 0 and scored >= _LOOK:
            if size < least:
                return -1, scored
            least = 0
        key = ahead[0]
        if size == expansion and key < best[0]:
            break
        _pop(ahead, n_ahead)
        n_ahead -= 1
        links = _linked(graph, _row(key), level)
        n = _collect(graph, links, allowed, how, beyond, most, stamps, epoch, waiting)
        scored += n
        for w in range(n):
            key = _key(graph, query, step, waiting[_u(w)])
            if size < expansion or key > best[0]:
                _push(ahead, n_ahead, key)
                n_ahead += 1
                if twins:
                    size = _offer_all(graph, key, allowed, best, size)
                else:
                    size = _offer(best, size, key)
    return (size if scored <= limit else -1), scored


@njit(cache=True, nogil=True, boundscheck=False)
def _nearest(graph, query, step, level, seeds, n, every, room, waiting, best):
    """Walk from n seeds and put what was found in their place, in ascending order; returns how many."""
    n = _beam(graph, query, step, level, seeds, n, every, False, 0, 0, _ENDLESS, 0, room, waiting, best)[0]
    for i in range(n):
        seeds[i] = best[i]
    _sort(seeds, n)
    return n


@njit(cache=True, nogil=True, boundscheck=False)
def _select(graph, base, keys, n, count, fill, other, chosen, passed):
    """Of n keys in ascending order, best last, the rows to link to (algorithm 4); returns how many were chosen.

    A candidate is passed over if it is nearer to one that was chosen than to the row itself.
    """
    taken = skipped = 0
    for i in range(n - 1, -1, -1):
        if taken == count:
            break
        row = _row(keys[i])
        step = _take(graph, row, other)
        to_base = _score(graph, other, step, base)
        near = False
        for j in range(taken):
            if _score(graph, other, step, chosen[j]) > to_base:
                near = True
                break
        if near:
            passed[skipped] = row
            skipped += 1
        else:
            chosen[taken] = row
            taken += 1
    if fill:
        for j in range(min(skipped, count - taken)):
            chosen[taken] = passed[j]
            taken += 1
    return taken


@njit(cache=True, nogil=True, boundscheck=False)
def _twin(graph, row, keys, n):
    """A row among the nearest that has the same codes and facts, -1 if there is none."""
    for i in range(n - 1, -1, -1):
        other = np.int64(_row(keys[i]))
        if other == row:
            continue
        equal = True
        for t in range(graph.codes.shape[1]):
            if graph.codes[row, t] != graph.codes[other, t]:
                equal = False
                break
        if equal:
            return other
    return np.int64(-1)


@njit(cache=True, nogil=True, boundscheck=False)
def _link_back(graph, row, new, level, fill, query, other, keys, chosen, passed):
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
        _request(graph, links[j])
    for j in range(width):
        keys[j] = _key(graph, query, step, links[j])
    keys[width] = _key(graph, query, step, new)
    _sort(keys, width + 1)
    taken = _select(graph, row, keys, width + 1, width, fill, other, chosen, passed)
    for j in range(width):
        links[j] = chosen[j] if j < taken else NONE


@njit(cache=True, nogil=True, boundscheck=False)
def insert(graph, rows, expansion, budgets, fill, room):
    count, width = graph.higher.shape[1], graph.links.shape[1]
    most = max(count, width)
    best, every = np.empty(expansion, dtype=np.uint64), np.zeros(0, dtype=np.bool_)
    seeds, waiting = np.empty(expansion + 1, dtype=np.uint64), np.empty(most, dtype=np.uint32)
    keys, mine = np.empty(most + 1, dtype=np.uint64), np.empty(most, dtype=np.uint32)
    chosen = np.empty(most, dtype=np.uint32)
    passed = np.empty(max(expansion, most + 1), dtype=np.uint32)
    query, other = np.empty(graph.codes.shape[1], np.int16), np.empty(graph.codes.shape[1], np.int16)
    receiver = np.empty(graph.codes.shape[1], np.int16)
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
            budget = min(budgets[r], width) if floor == 0 else count
            taken = _select(graph, row, seeds, n, budget, fill, other, mine, passed)
            links = _linked(graph, row, floor)
            for j in range(taken):
                links[j] = mine[j]
            for j in range(taken):
                _link_back(graph, mine[j], np.uint32(row), floor, fill, receiver, other, keys, chosen, passed)
        if level > top:
            graph.entry[0] = row


@njit(cache=True, nogil=True, boundscheck=False)
def walk(graph, queries, steps, expansion, allowed, how, beyond, limit, least, room, best, sizes):
    k, width, scored = best.shape[1], graph.codes.shape[1], 0
    found, seeds = np.empty(expansion, dtype=np.uint64), np.empty(1, dtype=np.uint64)
    # Of two hops, as many rows are scored as a row has links; of one, all.
    waiting = np.empty(graph.links.shape[1], dtype=np.uint32)
    query = np.empty(width, np.int16)
    for q in range(len(queries)):
        sizes[q] = 0
        if graph.entry[0] < 0:
            continue
        query[: width - 8] = queries[q, : width - 8]
        query[width - 8 :] = 0
        step = steps[q]
        seeds[0], first = _descend(graph, query, step, 0)
        size, more = _beam(
            graph, query, step, 0, seeds, 1, allowed, True, how, beyond, limit, least, room, waiting, found
        )
        scored += first + more
        if size < 0:
            sizes[q] = -1
            continue
        _sort(found, size)
        for i in range(min(k, size)):
            best[q, i] = found[size - 1 - i]
        sizes[q] = min(k, size)
    return scored


@njit(cache=True, nogil=True, boundscheck=False)
def scan(graph, queries, steps, rows, best, sizes):
    width = graph.codes.shape[1]
    wide = np.zeros((len(queries), width), dtype=np.int16)
    for q in range(len(queries)):
        wide[q, : width - 8] = queries[q, : width - 8]
    for first in range(0, len(rows), _AT_ONCE):
        stop = min(first + _AT_ONCE, len(rows))
        for i in range(stop, min(stop + _AT_ONCE, len(rows))):
            _request(graph, rows[i])
        for q in range(len(queries)):
            mine, size = best[q], sizes[q]
            for i in range(first, stop):
                key = _key(graph, wide[q], steps[q], rows[i])
                if size < len(mine) or key > mine[0]:
                    size = _offer(mine, size, key)
            sizes[q] = size
    for q in range(len(queries)):
        mine, size = best[q], sizes[q]
        _sort(mine, size)
        for i in range(size >> 1):
            mine[i], mine[size - 1 - i] = mine[size - 1 - i], mine[i]
