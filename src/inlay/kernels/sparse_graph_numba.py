"""The compiled forms of `inlay.kernels.sparse_graph`; see there for arguments and results.

The neighbours of a row that were not met before are asked for, all of them, before the first is scored.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.gather_numba import _ask
from inlay.kernels.postings_numba import _offer
from inlay.kernels.seismic_numba import _bits, _dot, _number, _sift

__all__ = ["insert_compiled", "scan_compiled", "search_compiled"]

NONE = np.uint32(0xFFFFFFFF)

_u = np.uint64


@njit(cache=True, nogil=True, boundscheck=False)
def _key(graph, query, row):
    start = _u(graph.starts[_u(row)])
    slots = _u(graph.starts[_u(row) + _u(1)]) - start
    score = _dot(graph.ids, graph.numbers, query, start, slots)
    return (_u(_bits(score)) << _u(32)) | (_u(NONE) - _u(row))  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def _row(key):
    return _u(NONE) - (key & _u(NONE))


@njit(cache=True, nogil=True, boundscheck=False)
def _linked(graph, row, level):
    if level == 0:
        return graph.links[_u(row)]
    return graph.higher[_u(graph.above[_u(row)]) + _u(level - 1)]


@njit(cache=True, nogil=True, boundscheck=False)
def _scatter(graph, row, dense):
    """Write the numbers of a row to their columns."""
    for s in range(graph.starts[_u(row)], graph.starts[_u(row) + _u(1)]):
        for lane in range(8):
            value = _number(graph.numbers[s, lane])  # type: ignore[call-arg, var-annotated]
            if value > 0:  # type: ignore[operator]
                dense[_u(graph.ids[s, lane])] = value


@njit(cache=True, nogil=True, boundscheck=False)
def _clear(graph, row, dense):
    for s in range(graph.starts[_u(row)], graph.starts[_u(row) + _u(1)]):
        for lane in range(8):
            dense[_u(graph.ids[s, lane])] = 0


@njit(cache=True, nogil=True, boundscheck=False)
def _sort(keys, n):
    """The first n in ascending order; numba's own takes seconds to compile."""
    for at in range((n >> 1) - 1, -1, -1):
        _sift(keys, at, n)
    for last in range(n - 1, 0, -1):
        keys[0], keys[last] = keys[last], keys[0]
        _sift(keys, 0, last)


@njit(cache=True, nogil=True, boundscheck=False)
def _epoch(room):
    """A new one, in which nothing has been met."""
    if room.epoch[0] == 255:
        room.stamps[:] = 0
        room.epoch[0] = 0
    room.epoch[0] += 1
    return np.uint8(room.epoch[0])


@njit(cache=True, nogil=True, boundscheck=False)
def _push(ahead, n, key):
    """Into a heap with the best at its root."""
    at = n
    while at > 0 and key > ahead[_u((at - 1) >> 1)]:
        ahead[_u(at)] = ahead[_u((at - 1) >> 1)]
        at = (at - 1) >> 1
    ahead[_u(at)] = key


@njit(cache=True, nogil=True, boundscheck=False)
def _pop(ahead, n):
    """Take the best out of a heap of n."""
    last = ahead[_u(n - 1)]
    at, child, n = 0, 1, n - 1
    while child < n:
        if child + 1 < n:
            child += ahead[_u(child + 1)] > ahead[_u(child)]
        if last >= ahead[_u(child)]:
            break
        ahead[_u(at)] = ahead[_u(child)]
        at = child
        child = 2 * at + 1
    ahead[_u(at)] = last


@njit(cache=True, nogil=True, boundscheck=False)
def _request(graph, row):
    """Ask for a row's numbers."""
    start = _u(graph.starts[_u(row)])
    width = (_u(graph.starts[_u(row) + _u(1)]) - start) << _u(3)
    _ask(graph.ids, start, _u(0), width)  # type: ignore[call-arg]
    _ask(graph.numbers, start, _u(0), width)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, boundscheck=False)
def _descend(graph, query, level):
    at, scored = _key(graph, query, graph.entry[0]), 1
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
                top = max(top, _key(graph, query, links[j]))
                scored += 1
            if top == at:
                break
            at = top
    return at, scored


@njit(cache=True, nogil=True, boundscheck=False)
def _seeds(graph, query, columns, seeds, n):
    """Add the heads of the query's columns, where nothing in common was found; returns (how many, rows scored)."""
    for i in range(n):
        if seeds[i] >> _u(32) > _u(0):
            return n, 0
    first = n
    for c in columns:
        head = graph.heads[_u(c)]
        fresh = head != NONE
        for i in range(n):
            fresh &= _row(seeds[i]) != _u(head)
        if fresh:
            seeds[n] = _key(graph, query, head)
            n += 1
    return n, n - first


@njit(cache=True, nogil=True, boundscheck=False)
def _offer_all(graph, key, allowed, twins, best, size):
    """Offer a row, and its twins with it."""
    row = np.uint32(_row(key))
    while row != NONE:
        key = (key & ~_u(NONE)) | (_u(NONE) - _u(row))
        if len(allowed) == 0 or allowed[_u(row)]:
            size = _offer(best, size, key)
        row = graph.twins[_u(row)] if twins else NONE
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _beam(graph, query, level, seeds, n_seeds, allowed, twins, room, waiting, best):
    """Fill a heap with the best rows; returns (how many, rows scored)."""
    epoch, stamps, ahead = _epoch(room), room.stamps, room.ahead
    expansion, size, n_ahead, scored = len(best), 0, 0, 0
    for i in range(n_seeds):
        stamps[_row(seeds[i])] = epoch
        _push(ahead, n_ahead, seeds[i])
        n_ahead += 1
        size = _offer_all(graph, seeds[i], allowed, twins, best, size)
    while n_ahead > 0:
        key = ahead[0]
        if size == expansion and key < best[0]:
            break
        _pop(ahead, n_ahead)
        n_ahead -= 1
        links = _linked(graph, _row(key), level)
        n = 0
        for j in range(len(links)):
            other = links[_u(j)]
            if other == NONE:
                break
            if stamps[_u(other)] != epoch:
                stamps[_u(other)] = epoch
                _request(graph, other)
                waiting[_u(n)] = other
                n += 1
        scored += n
        for w in range(n):
            key = _key(graph, query, waiting[_u(w)])
            if size < expansion or key > best[0]:
                _push(ahead, n_ahead, key)
                n_ahead += 1
                size = _offer_all(graph, key, allowed, twins, best, size)
    return size, scored


@njit(cache=True, nogil=True, boundscheck=False)
def _nearest(graph, query, level, seeds, n, every, room, waiting, best):
    """Walk from n seeds and put what was found in their place, in ascending order; returns how many."""
    n = _beam(graph, query, level, seeds, n, every, False, room, waiting, best)[0]
    for i in range(n):
        seeds[i] = best[i]
    _sort(seeds, n)
    return n


@njit(cache=True, nogil=True, boundscheck=False)
def _select(graph, keys, n, count, fill, other, chosen, passed):
    """Of n keys in ascending order, best last, the rows to link to; returns how many were chosen."""
    taken = skipped = 0
    for i in range(n - 1, -1, -1):
        if taken == count:
            break
        row = _row(keys[i])
        _scatter(graph, row, other)
        near = False
        for j in range(taken):
            if _key(graph, other, chosen[j]) >> _u(32) >= keys[i] >> _u(32):
                near = True
                break
        _clear(graph, row, other)
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
def _twin(graph, row, keys, n, own):
    start, stop = np.int64(graph.starts[row]), np.int64(graph.starts[row + 1])
    for i in range(n - 1, -1, -1):
        if keys[i] >> _u(32) != own >> _u(32):
            continue
        other = np.int64(_row(keys[i]))
        first = np.int64(graph.starts[other])
        equal = np.int64(graph.starts[other + 1]) - first == stop - start
        for s in range(stop - start):
            if not equal:
                break
            for lane in range(8):
                equal &= graph.ids[start + s, lane] == graph.ids[first + s, lane]
                equal &= graph.numbers[start + s, lane] == graph.numbers[first + s, lane]
        if equal:
            return other
    return -1


@njit(cache=True, nogil=True, boundscheck=False)
def _link_back(graph, row, new, level, fill, other, keys, chosen, passed):
    links = _linked(graph, row, level)
    width = len(links)
    if links[width - 1] == NONE:
        for j in range(width):
            if links[j] == NONE:
                links[j] = new
                return
    _scatter(graph, row, other)
    for j in range(width):
        _request(graph, links[j])
    for j in range(width):
        keys[j] = _key(graph, other, links[j])
    keys[width] = _key(graph, other, new)
    _clear(graph, row, other)
    _sort(keys, width + 1)
    taken = _select(graph, keys, width + 1, width, fill, other, chosen, passed)
    for j in range(width):
        links[j] = chosen[j] if j < taken else NONE


@njit(cache=True, nogil=True, boundscheck=False)
def insert_compiled(graph, first, last, expansion, fill, room):
    count = graph.higher.shape[1]
    width = 2 * count
    longest = 0
    for row in range(first, last):
        longest = max(longest, 8 * (np.int64(graph.starts[row + 1]) - np.int64(graph.starts[row])))  # type: ignore[assignment]
    best, every = np.empty(expansion, dtype=np.uint64), np.zeros(0, dtype=np.bool_)
    seeds = np.empty(expansion + longest + 1, dtype=np.uint64)
    waiting, keys = np.empty(width, dtype=np.uint32), np.empty(width + 1, dtype=np.uint64)
    mine, chosen = np.empty(width, dtype=np.uint32), np.empty(width, dtype=np.uint32)
    passed = np.empty(max(expansion, width + 1), dtype=np.uint32)
    columns = np.empty(longest, dtype=np.int64)
    query, other = room.query, room.other
    for row in range(first, last):
        m = 0
        for s in range(graph.starts[row], graph.starts[row + 1]):
            for lane in range(8):
                value = _number(graph.numbers[s, lane])  # type: ignore[call-arg, var-annotated]
                if value > 0:  # type: ignore[operator]
                    columns[m] = graph.ids[s, lane]
                    query[_u(columns[m])] = value
                    m += 1
        if m == 0:
            continue
        level, twin, n = np.int64(graph.levels[row]), np.int64(-1), 0
        if graph.entry[0] >= 0:
            seeds[0] = _descend(graph, query, 0)[0]
            n = _seeds(graph, query, columns[:m], seeds, 1)[0]
            n = _nearest(graph, query, 0, seeds, n, every, room, waiting, best)
            twin = _twin(graph, row, seeds, n, _key(graph, query, row))
        if twin >= 0:
            graph.twins[row], graph.twins[twin] = graph.twins[twin], row
        elif graph.entry[0] < 0:
            graph.entry[0] = row
        else:
            top = np.int64(graph.levels[graph.entry[0]])
            if level > 0:
                seeds[0] = _descend(graph, query, level)[0]
                n = 1
            for floor in range(min(level, top), -1, -1):
                if level > 0:
                    if floor == 0:
                        n = _seeds(graph, query, columns[:m], seeds, n)[0]
                    n = _nearest(graph, query, floor, seeds, n, every, room, waiting, best)
                taken = _select(graph, seeds, n, count, fill, other, mine, passed)
                links = _linked(graph, row, floor)
                for j in range(taken):
                    links[j] = mine[j]
                for j in range(taken):
                    _link_back(graph, mine[j], np.uint32(row), floor, fill, other, keys, chosen, passed)
            if level > top:
                graph.entry[0] = row
        for t in range(m):
            c = _u(columns[t])
            if query[c] > graph.peaks[c]:
                graph.peaks[c], graph.heads[c] = query[c], row
            query[c] = 0


@njit(cache=True, nogil=True, boundscheck=False)
def search_compiled(graph, offsets, columns, weights, expansion, allowed, room, best, sizes):
    n, k = len(offsets) - 1, best.shape[1]
    longest, scored = 0, 0
    for q in range(n):
        longest = max(longest, offsets[q + 1] - offsets[q])
    its_columns, seeds = np.empty(longest, dtype=np.int64), np.empty(longest + 1, dtype=np.uint64)
    found, waiting = np.empty(expansion, dtype=np.uint64), np.empty(graph.links.shape[1], dtype=np.uint32)
    query = room.query
    for q in range(n):
        sizes[q] = 0
        if graph.entry[0] < 0:
            continue
        m = 0
        for t in range(offsets[q], offsets[q + 1]):
            if columns[t] >= 0 and weights[t] > 0:
                its_columns[m] = columns[t]
                query[_u(columns[t])] = weights[t]
                m += 1
        seeds[0], steps = _descend(graph, query, 0)
        n_seeds, heads = _seeds(graph, query, its_columns[:m], seeds, 1)
        size, more = _beam(graph, query, 0, seeds, n_seeds, allowed, True, room, waiting, found)
        scored += steps + heads + more
        _sort(found, size)
        for i in range(min(k, size)):
            key = found[size - 1 - i]
            if key >> _u(32) == _u(0):
                break
            best[q, i] = key
            sizes[q] += 1
        for t in range(m):
            query[_u(its_columns[t])] = 0
    return scored


@njit(cache=True, nogil=True, boundscheck=False)
def scan_compiled(graph, offsets, columns, weights, rows, room, best, sizes):
    query = room.query
    for q in range(len(offsets) - 1):
        for t in range(offsets[q], offsets[q + 1]):
            if columns[t] >= 0:
                query[_u(columns[t])] = weights[t]
        mine, size = best[q], 0
        for row in rows:
            key = _key(graph, query, row)
            if key >> _u(32) > _u(0):
                size = _offer(mine, size, key)
        _sort(mine, size)
        for i in range(size >> 1):
            mine[i], mine[size - 1 - i] = mine[size - 1 - i], mine[i]
        sizes[q] = size
        for t in range(offsets[q], offsets[q + 1]):
            if columns[t] >= 0:
                query[_u(columns[t])] = 0
