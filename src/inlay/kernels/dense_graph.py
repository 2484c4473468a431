"""Inserting dense rows into a navigable small-world graph and walking it: what `DenseGraph` and its kin run on.

A walk compares int8 codes with int8 codes: a row is a quarter of its float32 bytes, and what a step of a walk costs is
the bytes it waits for. A row of codes ends with two float32 facts, so that one read brings all there is to know: what a
step of its codes is worth, and what is subtracted from its products (½|x|² where nearness is a distance, else 0). A
score is then  step(q) · step(x) · Σ codes(q)·codes(x) − subtracted(x),  which orders rows as q·x or −|q − x|² do.

A candidate is a *key*: the score as an integer of the same order above 2³² − 1 − row, so that keys sort by score and
then by lower row.

Malkov & Yashunin 2018, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
World graphs" (arXiv 1603.09320), algorithms 1 to 5. The kernels are compiled only (extra `fast`): a graph is for more
rows than plain Python could link.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from inlay.errors import MissingExtra

__all__ = [
    "LOOK",
    "NONE",
    "PASS",
    "Graph",
    "Room",
    "Within",
    "aligned",
    "ask",
    "code",
    "flat_graph",
    "insert",
    "kernels",
    "tell",
    "walk",
    "width_of",
]

NONE = 0xFFFFFFFF  # a link that is not there
FACTS = 2  # float32 numbers at the end of a row of codes
LINE = 64
LOOK = 128
ENDLESS = (1 << 62, 0)
EVERY = np.ones(0, dtype=np.bool_)  # how the compiled walk is told that all rows may be found
STEPS = 127

# How a walk treats rows that are not allowed.
PASS = {
    "all": 0,  # there are none
    "through": 1,  # it passes through them, and returns what is allowed
    "two-hop": 2,  # it does not score them, but looks past them at what they link to
    "two-hop-always": 3,  # it looks at what every row links to (ACORN-1)
    "compressed": 4,  # it looks at what the links beyond the nearest link to (ACORN-γ)
}


class Graph(NamedTuple):
    """Rows and links; there may be room for more rows than there are."""

    codes: np.ndarray  # int8 [rows, width], a whole number of cache lines
    facts: np.ndarray  # float32 [rows, width / 4], the same bytes
    levels: np.ndarray  # uint8 [rows], the highest level a row is on
    links: np.ndarray  # uint32 [rows, most], on level 0; NONE after the last
    above: np.ndarray  # uint32 [rows], where a row's links above level 0 begin
    higher: np.ndarray  # uint32 [sum of levels, connectivity], links on levels 1, 2, … of one row after another
    twins: np.ndarray  # uint32 [rows], a row equal to this one that has no links of its own, NONE after the last
    entry: np.ndarray  # int64 [1], the row at which a walk begins, -1 where there is none


class Within(NamedTuple):
    """Where a walk gives up."""

    most: int  # once it has scored more rows than this on level 0
    least: int  # if fewer of the first `LOOK` of them may be found


class Room(NamedTuple):
    """What one walk at a time writes to."""

    stamps: np.ndarray  # uint8 [rows], the epoch in which a row was last met
    epoch: np.ndarray  # int64 [1]
    ahead: np.ndarray  # uint64 [rows], candidates to go on from

    @classmethod
    def of(cls, graph: Graph) -> Room:
        """Room for walks in a graph."""
        rows = len(graph.levels)
        return cls(np.zeros(rows, np.uint8), np.zeros(1, np.int64), np.empty(rows + 1, np.uint64))


def width_of(dim: int) -> int:
    """Bytes of a row of codes."""
    return -(-(dim + 4 * FACTS) // LINE) * LINE


def aligned(rows: int, width: int) -> np.ndarray:
    """Zeros int8 [rows, width] that begin at a cache line."""
    room = np.zeros(rows * width + LINE, dtype=np.int8)
    start = -room.ctypes.data % LINE
    return room[start : start + rows * width].reshape(rows, width)


def code(rows: np.ndarray, *, distances: bool, out: np.ndarray) -> None:
    """Write float32 rows [n, dim] as codes with their facts into int8 [n, width]."""
    dim = rows.shape[1]
    peak = np.abs(rows).max(axis=1, initial=0)
    step = np.where(peak > 0, peak / STEPS, 1).astype(np.float32)
    out[:] = 0
    np.rint(rows / step[:, None], casting="unsafe", out=out[:, :dim])
    tell(out, step, dim, distances=distances)


def tell(codes: np.ndarray, steps: np.ndarray, dim: int, *, distances: bool) -> None:
    """Write the facts of codes int8 [n, width], of which a step is worth steps [n], behind them."""
    facts = codes.view(np.float32)
    facts[:, -2] = steps
    if distances:
        kept = codes[:, :dim].astype(np.float32) * facts[:, -2:-1]
        facts[:, -1] = 0.5 * np.einsum("nd,nd->n", kept, kept)


def kernels() -> Any:
    """The compiled forms."""
    try:
        import numba  # noqa: F401
    except ImportError:
        raise MissingExtra("graph indexes", "fast") from None
    from inlay.kernels import dense_graph_numba

    return dense_graph_numba


def ask(queries: np.ndarray, width: int, *, unit: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries float32 [q, dim] as a walk takes them: themselves (at length 1, if `unit`), as codes int8 [q, width]
    without facts, and what a step of each one's codes is worth, float32 [q]. Numbers must be finite.
    """
    ready = np.empty(queries.shape, np.float32)
    asked, steps = np.zeros((len(queries), width), np.int8), np.empty(len(queries), np.float32)
    if kernels().ask(np.ascontiguousarray(queries), unit, ready, asked, steps) >= 0:
        raise ValueError("a query holds NaN or infinity")
    return ready, asked, steps


def insert(graph: Graph, rows: np.ndarray, *, expansion: int, budgets: np.ndarray, fill: bool, room: Room) -> None:
    """Link rows, whose codes and levels are there, to those linked before and to each other (algorithm 1).

    A row that equals one of the candidates for its links becomes a twin of that: many equal rows would have links for
    each other only, and the later ones none that lead to them. A row that others link to keeps as many links as it has
    places for, whatever its own budget was.

    Args:
        graph: to insert into.
        rows: int64 [n], in the order in which they are inserted.
        expansion: candidates from which a row's links are chosen, efConstruction in the paper.
        budgets: int64 [n], links on level 0 that each row chooses for itself.
        fill: give free links to the nearest of the candidates that were passed over (keepPrunedConnections).
        room: to write to; one walk at a time.
    """
    kernels().insert(graph, rows, expansion, budgets, fill, room)


def walk(
    graph: Graph,
    queries: np.ndarray,
    steps: np.ndarray,
    *,
    expansion: int,
    allowed: np.ndarray | None,
    how: str,
    beyond: int = 0,
    within: Within | None = None,
    room: Room,
    best: np.ndarray,
    sizes: np.ndarray,
) -> int:
    """Walk the graph for each query (algorithm 5); returns how many rows were scored.

    Args:
        graph: to walk.
        queries: int8 [q, width], as `code` makes them.
        steps: float32 [q], what a step of each query's codes is worth; it stands among its facts.
        expansion: candidates that are kept, ef in the paper.
        allowed: bool [rows], the rows that may be found.
        how: the walk's way with rows that are not allowed, a name of `PASS`.
        beyond: for `compressed`: links of a row from this one on are looked past.
        within: where a query's walk gives up.
        room: to write to; one walk at a time.
        best: uint64 [q, k ≤ expansion], filled with keys in descending order.
        sizes: int64 [q], filled with the number of keys, -1 where the walk gave up.
    """
    every = EVERY if allowed is None else np.ascontiguousarray(allowed, dtype=np.bool_)
    most, least = ENDLESS if within is None else within
    return int(
        kernels().walk(graph, queries, steps, expansion, every, PASS[how], beyond, most, least, room, best, sizes)
    )


def scan(
    graph: Graph, queries: np.ndarray, steps: np.ndarray, rows: np.ndarray, *, best: np.ndarray, sizes: np.ndarray
) -> None:
    """Score some rows one by one, all of them.

    Args:
        graph: whose codes are read; its links are not.
        queries: as in `walk`.
        steps: as in `walk`.
        rows: int64 [m], which to score; ascending, memory is read in order.
        best: uint64 [q, k ≤ m], filled with keys in descending order.
        sizes: int64 [q], zeros, filled with the number of keys.
    """
    kernels().scan(graph, queries, steps, rows, best, sizes)


def flat_graph(codes: np.ndarray, *, order: np.ndarray, expansion: int, budgets: np.ndarray, most: int) -> Graph:
    """A graph of one level over rows of codes: every walk begins at the row that `order` names first.

    Args:
        codes: int8 [n, width], as `code` makes them, beginning at a cache line (`aligned`).
        order: int64 [n], the order in which rows are inserted.
        expansion: as in `insert`.
        budgets: int64 [n], links that each row chooses for itself.
        most: links that a row has at most, its own and those it was given.
    """
    n = len(codes)
    graph = Graph(
        codes=codes, facts=codes.view(np.float32), levels=np.zeros(n, np.uint8),
        links=np.full((n, most), NONE, np.uint32), above=np.zeros(n, np.uint32), higher=np.empty((0, 2), np.uint32),
        twins=np.full(n, NONE, np.uint32), entry=np.full(1, -1, np.int64),
    )  # fmt: skip
    room = Room.of(graph)
    for first in range(0, n, 1024):  # between two, there is a chance to interrupt
        part = order[first : first + 1024]
        insert(graph, part, expansion=expansion, budgets=budgets[part], fill=False, room=room)
    return graph
