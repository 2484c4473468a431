"""Inserting rows into a navigable small-world graph and walking it: what `SparseGraph` runs on.

Rows are kept in slots of eight numbers, as in `inlay.kernels.seismic`, and a dot product adds up in the same fixed
order in float32, so that both forms build the same graph and find the same rows, bit for bit. A candidate is a *key*:
the bits of its score, which is never negative, above 2³² − 1 − row, so that keys sort by score and then by lower row.

Malkov & Yashunin 2018, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
World graphs" (arXiv 1603.09320), algorithms 1 to 5.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from inlay.kernels import compiled
from inlay.kernels.seismic import _dot, _score

__all__ = ["NONE", "Graph", "Room", "insert", "scan", "search"]

NONE = 0xFFFFFFFF  # a link that is not there


class Graph(NamedTuple):
    """Rows and links; there may be room for more rows than there are. A row without numbers is never linked."""

    starts: np.ndarray  # uint32 [rows + 1], the first slot of each row
    ids: np.ndarray  # uint16 or uint32 [slots, 8], columns
    numbers: np.ndarray  # float16 or float32 [slots, 8]
    levels: np.ndarray  # uint8 [rows], the highest level a row is on
    links: np.ndarray  # uint32 [rows, 2 · connectivity], on level 0; NONE after the last
    above: np.ndarray  # uint32 [rows], where a row's links above level 0 begin
    higher: np.ndarray  # uint32 [sum of levels, connectivity], links on levels 1, 2, … of one row after another
    twins: np.ndarray  # uint32 [rows], a row equal to this one that has no links of its own, NONE after the last
    entry: np.ndarray  # int64 [1], the row at which a walk begins, -1 where there is none
    heads: np.ndarray  # uint32 [columns], the row with the largest number in each column, NONE where there is none
    peaks: np.ndarray  # float32 [columns], that number


class Room(NamedTuple):
    """What one walk at a time writes to. All but `stamps` and `epoch` is as it was when it ends."""

    stamps: np.ndarray  # uint8 [rows], the epoch in which a row was last met
    epoch: np.ndarray  # int64 [1]
    query: np.ndarray  # float32 [columns], zeros
    other: np.ndarray  # float32 [columns], zeros
    ahead: np.ndarray  # uint64 [rows], candidates to go on from

    @classmethod
    def of(cls, graph: Graph) -> Room:
        """Room for walks in a graph."""
        rows, columns = len(graph.levels), len(graph.heads)
        return cls(
            np.zeros(rows, np.uint8), np.zeros(1, np.int64), np.zeros(columns, np.float32),
            np.zeros(columns, np.float32), np.empty(rows, np.uint64),
        )  # fmt: skip


def insert(graph: Graph, first: int, last: int, *, expansion: int, fill: bool, room: Room) -> None:
    """Link rows `first` to `last`, whose numbers and levels are there, to those before and to each other (algorithm 1).

    A row that equals one of the candidates for its links becomes a twin of that: many equal rows would have links for
    each other only, and the later ones none that lead to them.

    Args:
        graph: to insert into.
        first: the first row to insert; all before it are inserted already.
        last: one past the last.
        expansion: candidates from which a row's links are chosen, efConstruction in the paper.
        fill: give free links to the nearest of the candidates that were passed over (keepPrunedConnections).
        room: to write to; one walk at a time.
    """
    if compiled((last - first) * expansion * 50_000):
        from inlay.kernels.sparse_graph_numba import insert_compiled

        insert_compiled(_numbered(graph), first, last, expansion, fill, room)
        return
    for row in range(first, last):
        _insert_plain(graph, row, expansion, fill, room)


def search(
    graph: Graph,
    offsets: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    *,
    expansion: int,
    allowed: np.ndarray | None,
    room: Room,
    best: np.ndarray,
    sizes: np.ndarray,
) -> int:
    """Walk the graph for each query (algorithm 5).

    A walk passes through rows that are not allowed, and ends when it has `expansion` that are and none ahead is nearer.
    Where it comes down to level 0 at a row that has nothing in common with the query, it goes on from the `heads` of
    the query's columns: on a plain of zeros no step is better than another.

    Args:
        graph: to walk.
        offsets: int64 [queries + 1].
        columns: int64 [terms], ascending in a query; negative ones match nothing.
        weights: float32 [terms], not negative.
        expansion: candidates that are kept, ef in the paper; at least k.
        allowed: bool [rows], the rows that may be found; None for all.
        room: to write to; one walk at a time.
        best: uint64 [queries, k], filled with keys in descending order.
        sizes: int64 [queries], filled with how many of them there are.

    Returns:
        How many rows were scored.
    """
    if compiled((len(offsets) - 1) * expansion * 50_000):
        from inlay.kernels.sparse_graph_numba import search_compiled

        return search_compiled(
            _numbered(graph), offsets, columns, weights, expansion, _EVERY if allowed is None else allowed, room, best,
            sizes,
        )  # fmt: skip
    scored = 0
    for q in range(len(offsets) - 1):
        span = slice(offsets[q], offsets[q + 1])
        known = (columns[span] >= 0) & (weights[span] > 0)
        found, its = _search_plain(graph, columns[span][known], weights[span][known], expansion, allowed, room)
        found = found[: best.shape[1]]
        best[q, : len(found)], sizes[q], scored = found, len(found), scored + its
    return scored


def scan(
    graph: Graph, offsets: np.ndarray, columns: np.ndarray, weights: np.ndarray, rows: np.ndarray, *, room: Room,
    best: np.ndarray, sizes: np.ndarray,
) -> None:  # fmt: skip
    """The best of some rows (int64, ascending) for each query, by scoring all of them; the rest as in `search`."""
    if compiled((len(offsets) - 1) * len(rows) * 100):
        from inlay.kernels.sparse_graph_numba import scan_compiled

        scan_compiled(_numbered(graph), offsets, columns, weights, rows, room, best, sizes)
        return
    for q in range(len(offsets) - 1):
        span = slice(offsets[q], offsets[q + 1])
        known = columns[span] >= 0
        room.query[columns[span][known]] = weights[span][known]
        keys = sorted((_key(graph, room.query, row) for row in rows.tolist()), reverse=True)
        found = [key for key in keys[: best.shape[1]] if _score(key) > 0]
        best[q, : len(found)], sizes[q] = found, len(found)
        room.query[columns[span][known]] = 0


_EVERY = np.zeros(0, dtype=np.bool_)


def _numbered(graph: Graph) -> Graph:
    """Half precision as its bits: numba has no such type."""
    if graph.numbers.dtype != np.float16:
        return graph
    return graph._replace(numbers=graph.numbers.view(np.uint16))


def _key(graph: Graph, query: np.ndarray, row: int) -> int:
    start, stop = int(graph.starts[row]), int(graph.starts[row + 1])
    score = _dot(graph, query, start, stop - start)  # type: ignore[arg-type]
    return int(np.float32(score).view(np.uint32)) << 32 | (NONE - row)


def _row(key: int) -> int:
    return NONE - (key & NONE)


def _linked(graph: Graph, row: int, level: int) -> np.ndarray:
    """The links of a row on a level, a view."""
    return graph.links[row] if level == 0 else graph.higher[int(graph.above[row]) + level - 1]


def _neighbours(graph: Graph, row: int, level: int) -> list[int]:
    links = _linked(graph, row, level)
    return links[links != NONE].tolist()


def _numbers(graph: Graph, row: int) -> tuple[np.ndarray, np.ndarray]:
    """(columns, numbers float32) of a row, without what fills up its last slot."""
    span = slice(int(graph.starts[row]), int(graph.starts[row + 1]))
    columns, numbers = graph.ids[span].reshape(-1), graph.numbers[span].reshape(-1).astype(np.float32)
    return columns[numbers > 0].astype(np.int64), numbers[numbers > 0]


def _descend(graph: Graph, query: np.ndarray, level: int) -> tuple[int, int]:
    """(key of the row that steps to the best neighbour lead to on the levels above one, rows scored)."""
    entry = int(graph.entry[0])
    at, scored = _key(graph, query, entry), 1
    for floor in range(int(graph.levels[entry]), level, -1):
        while True:
            keys = [_key(graph, query, other) for other in _neighbours(graph, _row(at), floor)]
            scored += len(keys)
            if max(keys, default=0) <= at:
                break
            at = max(keys)
    return at, scored


def _beam(
    graph: Graph, query: np.ndarray, level: int, seeds: list[int], expansion: int, allowed: np.ndarray | None,
    twins: bool,
) -> tuple[list[int], int]:  # fmt: skip
    """(keys of the best rows of a level, descending, rows scored): algorithm 2, from seeds."""
    met = {_row(key) for key in seeds}
    ahead = [-key for key in seeds]
    heapq.heapify(ahead)
    best: list[int] = []

    def offer(key: int) -> None:
        row = _row(key)
        while row != NONE:
            key = key & ~NONE | (NONE - row)
            if allowed is None or allowed[row]:
                if len(best) < expansion:
                    heapq.heappush(best, key)
                elif key > best[0]:
                    heapq.heapreplace(best, key)
            row = int(graph.twins[row]) if twins else NONE

    for key in seeds:
        offer(key)
    scored = 0
    while ahead:
        key = -heapq.heappop(ahead)
        if len(best) == expansion and key < best[0]:
            break
        for other in _neighbours(graph, _row(key), level):
            if other in met:
                continue
            met.add(other)
            scored += 1
            its = _key(graph, query, other)
            if len(best) < expansion or its > best[0]:
                heapq.heappush(ahead, -its)
                offer(its)
    return sorted(best, reverse=True), scored


def _seeds(graph: Graph, query: np.ndarray, columns: np.ndarray, keys: list[int]) -> tuple[list[int], int]:
    """(where a walk on level 0 begins, rows scored)."""
    if max(map(_score, keys)) > 0:
        return keys, 0
    met, seeds = {_row(key) for key in keys}, list(keys)
    for head in graph.heads[columns].tolist():
        if head != NONE and head not in met:
            met.add(head)
            seeds.append(_key(graph, query, head))
    return seeds, len(seeds) - len(keys)


def _search_plain(
    graph: Graph, columns: np.ndarray, weights: np.ndarray, expansion: int, allowed: np.ndarray | None, room: Room
) -> tuple[list[int], int]:
    if graph.entry[0] < 0:
        return [], 0
    room.query[columns] = weights
    at, first = _descend(graph, room.query, 0)
    seeds, second = _seeds(graph, room.query, columns, [at])
    found, third = _beam(graph, room.query, 0, seeds, expansion, allowed, True)
    room.query[columns] = 0
    return [key for key in found if _score(key) > 0], first + second + third


def _insert_plain(graph: Graph, row: int, expansion: int, fill: bool, room: Room) -> None:
    columns, numbers = _numbers(graph, row)
    if not len(columns):
        return
    level, query = int(graph.levels[row]), room.query
    query[columns] = numbers
    twin = -1
    if graph.entry[0] >= 0:
        near = _seeds(graph, query, columns, [_descend(graph, query, 0)[0]])[0]
        near = _beam(graph, query, 0, near, expansion, None, False)[0]
        twin = _twin(graph, row, near, _key(graph, query, row))
    if twin >= 0:
        graph.twins[row], graph.twins[twin] = graph.twins[twin], row
    elif graph.entry[0] < 0:
        graph.entry[0] = row
    else:
        top = int(graph.levels[graph.entry[0]])
        keys = [_descend(graph, query, level)[0]] if level else near
        for floor in range(min(level, top), -1, -1):
            if level:
                begin = _seeds(graph, query, columns, keys)[0] if floor == 0 else keys
                keys = _beam(graph, query, floor, begin, expansion, None, False)[0]
            chosen = _select(graph, keys, graph.higher.shape[1], fill, room)
            _linked(graph, row, floor)[: len(chosen)] = chosen
            for other in chosen:
                _link_back(graph, other, row, floor, fill, room)
        if level > top:
            graph.entry[0] = row
    query[columns] = 0
    higher = numbers > graph.peaks[columns]
    graph.peaks[columns[higher]], graph.heads[columns[higher]] = numbers[higher], row


def _twin(graph: Graph, row: int, keys: list[int], own: int) -> int:
    """The first of the candidates that is equal to a row, -1 if none is."""
    span = slice(int(graph.starts[row]), int(graph.starts[row + 1]))
    for key in keys:
        if _score(key) == _score(own):
            other = slice(int(graph.starts[_row(key)]), int(graph.starts[_row(key) + 1]))
            if all(np.array_equal(part[span], part[other]) for part in (graph.ids, graph.numbers)):
                return _row(key)
    return -1


def _link_back(graph: Graph, row: int, new: int, level: int, fill: bool, room: Room) -> None:
    """Link a row to a new one; where it has no link left, choose among the old and the new (shrinking)."""
    links = _linked(graph, row, level)
    count = int(np.count_nonzero(links != NONE))
    if count < len(links):
        links[count] = new
        return
    columns, numbers = _numbers(graph, row)
    room.other[columns] = numbers
    keys = sorted((_key(graph, room.other, other) for other in [*links.tolist(), new]), reverse=True)
    room.other[columns] = 0
    chosen = _select(graph, keys, len(links), fill, room)
    links[: len(chosen)], links[len(chosen) :] = chosen, NONE


def _select(graph: Graph, keys: list[int], count: int, fill: bool, room: Room) -> list[int]:
    """Of candidates in descending order those that are nearer to the row than to any chosen before (algorithm 4)."""
    chosen: list[int] = []
    passed: list[int] = []
    for key in keys:
        if len(chosen) == count:
            break
        columns, numbers = _numbers(graph, _row(key))
        room.other[columns] = numbers
        near = any(_score(_key(graph, room.other, other)) >= _score(key) for other in chosen)
        room.other[columns] = 0
        (passed if near else chosen).append(_row(key))
    return (chosen + passed)[:count] if fill else chosen
