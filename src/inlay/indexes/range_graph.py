"""Nearness among the rows whose attribute lies in a range: a tree of graphs over rows in order of the attribute.

Rows are sorted by the attribute. The root of the tree is a graph of all rows, its two children graphs of either half,
and so on down to `leaf` rows. A range of the attribute is a span of sorted rows, and every span is the union of at most
two nodes a depth and of rows at either end that fill no node: the nodes are walked, the rows scanned. Nothing outside
the range is ever looked at, whatever the query, so there is nothing to be unlucky with; the price is a set of links for
each depth, log2(n / leaf) of them, for one attribute. Codes and rows are there once.

This is the segment tree of "Benchmarking Filtered Approximate Nearest Neighbor Search Algorithms on Transformer-based
Embedding Vectors" (arXiv 2507.21989), the simpler kin of SeRF and iRangeGraph; its graphs are those of `DenseGraph`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import checked_k, checked_rows
from inlay.indexes.graph_growth import levels_of
from inlay.kernels import dense_graph as kernel
from inlay.kernels.dense import normalise
from inlay.kernels.dense_graph import NONE, Graph, Room
from inlay.types import Neighbours

__all__ = ["RangeGraph"]

KIND = "range graph"
ROWS_AT_ONCE = 1024  # inserted between two chances to interrupt


class Depth(NamedTuple):
    """Links of all nodes at one depth; numbers of rows count from the first row of their node."""

    levels: np.ndarray  # uint8 [n]
    links: np.ndarray  # uint32 [n, 2 · connectivity]
    above: np.ndarray  # uint32 [n], from the node's first row of `higher` on
    higher: np.ndarray  # uint32 [sum of levels, connectivity]
    twins: np.ndarray  # uint32 [n]
    entries: np.ndarray  # int64 [nodes]
    starts: np.ndarray  # int64 [nodes + 1], where each node's rows of `higher` begin


class RangeGraph:
    """Rows with one ordered attribute (extra `fast`). Rows are linked anew whenever some are added: add many at once.

    Args:
        dim: width of a row.
        metric: `cosine` or `l2`.
        dtype: how rows are kept, `float32` or `float16`.
        connectivity: links of a row on the levels above the lowest of each graph (M); on the lowest twice as many.
        expansion_add: candidates from which a row's links are chosen.
        expansion_search: candidates kept during the walk of a node (ef).
        leaf: rows below which a node has no graph and is scanned.
        refine: rows scored in full, for each of the k that are wanted.
        seed: of the draw of levels and the order of insertion.
    """

    def __init__(
        self,
        dim: int,
        *,
        metric: Literal["cosine", "l2"] = "cosine",
        dtype: Literal["float32", "float16"] = "float32",
        connectivity: int = 12,
        expansion_add: int = 64,
        expansion_search: int = 32,
        leaf: int = 2048,
        refine: int = 3,
        seed: int = 0,
    ) -> None:
        kernel.kernels()
        if metric not in ("cosine", "l2"):
            raise BadInput(f"metric must be cosine or l2, got {metric!r}")
        if dtype not in ("float32", "float16"):
            raise BadInput(f"dtype must be float32 or float16, got {dtype!r}")
        counts = {
            "dim": dim, "connectivity": connectivity, "expansion_add": expansion_add,
            "expansion_search": expansion_search, "leaf": leaf, "refine": refine, "seed": seed,
        }  # fmt: skip
        least = {"connectivity": 2, "seed": 0, "leaf": 2}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least.get(name, 1):
                raise BadInput(f"{name} must be a whole number from {least.get(name, 1)} on, got {value!r}")
        self.settings: dict[str, Any] = {name: int(value) for name, value in counts.items()}
        self.settings |= {"metric": metric, "dtype": dtype}
        self.dim, self.metric = int(dim), metric
        self._order = np.empty(0, np.int64)  # id of each row, in order of the attribute
        self._values = np.empty(0, np.float64)
        self._rows = np.empty((0, self.dim), dtype)
        self._codes = kernel.aligned(0, kernel.width_of(self.dim))
        self._depths: list[Depth] = []
        self._spare: list[Room] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._order)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if name != "dim")
        return f"RangeGraph({self.dim}, {said}) of {len(self)} rows in {len(self._depths)} depths"

    @property
    def nbytes(self) -> int:
        """Bytes of rows, codes, values and links."""
        return sum(array.nbytes for array in self._arrays().values())

    def add(self, vectors: np.ndarray, values: np.ndarray, *, progress: bool = False) -> None:
        """Append rows [n, dim] with their attribute [n], finite numbers; ids are positions in order of addition."""
        from tqdm import tqdm

        vectors = self._ready(vectors, "row")
        values = _numbers(values, len(vectors), "values")
        if len(self) + len(vectors) >= NONE:
            raise BadInput(f"an index holds {NONE - 1} rows, and {len(self)} + {len(vectors)} are more; use several")
        before = np.argsort(self._order)
        rows = np.concatenate([self._rows[before], vectors.astype(self._rows.dtype)])
        every = np.concatenate([self._values[before], values])
        order = np.argsort(every, kind="stable")
        codes = kernel.aligned(len(rows), self._codes.shape[1])
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = order[first : first + ROWS_AT_ONCE]
            kernel.code(rows[part].astype(np.float32), distances=True, out=codes[first : first + len(part)])
        depths: list[Depth] = []
        total = 0
        while len(rows) / 2**total > self.settings["leaf"]:
            total += 1
        with self._lock, tqdm(total=total * len(rows), unit=" rows", disable=not progress, leave=False) as bar:
            for depth in range(total):
                depths.append(self._linked(codes, depth, bar))
            self._order, self._values, self._rows = order.astype(np.int64), every[order], rows[order]
            self._codes, self._depths, self._spare = codes, depths, []

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        low: Any = -np.inf,
        high: Any = np.inf,
        ef: int | None = None,
    ) -> Neighbours:
        """About the k nearest rows of each query whose attribute is at least `low` and at most `high`.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are in the range, the rest is id -1 with score -inf.
            low: one number, or [q].
            high: one number, or [q].
            ef: candidates kept during the walk of a node, in place of `expansion_search`; at least k are.
        """
        queries, k = self._ready(queries, "query"), checked_k(k)
        ef = self.settings["expansion_search"] if ef is None else ef
        if not isinstance(ef, int | np.integer) or isinstance(ef, bool) or ef < 1:
            raise BadInput(f"ef must be a positive integer, got {ef!r}")
        lows, highs = _bounds(low, len(queries), "low"), _bounds(high, len(queries), "high")
        first = np.searchsorted(self._values, lows, "left")
        last = np.maximum(first, np.searchsorted(self._values, highs, "right"))
        asked = np.empty((len(queries), self._codes.shape[1]), np.int8)
        kernel.code(queries, distances=False, out=asked)
        steps = asked.view(np.float32)[:, -2].copy()
        within = k * self.settings["refine"]
        best, sizes = np.zeros((len(queries), within), np.uint64), np.zeros(len(queries), np.int64)
        for q in range(len(queries)):
            keys = self._keys(asked[q : q + 1], steps[q : q + 1], int(first[q]), int(last[q]), max(ef, k), within)
            best[q, : len(keys)], sizes[q] = keys, len(keys)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = np.full((len(queries), k), -1, dtype=np.int64)
        rows = self._rows.view(np.uint16) if self._rows.dtype == np.float16 else self._rows
        kernel.kernels().refine(queries, rows, self.metric == "l2", best, sizes, scores, found)
        there = found >= 0
        found[there] = self._order[found[there]]
        return Neighbours(scores, found)

    def cover(self, low: float, high: float) -> list[tuple[int, int, bool]]:
        """Spans of sorted rows that make up a range: (first, past the last, whether a graph is walked)."""
        lows, highs = _bounds(low, 1, "low"), _bounds(high, 1, "high")
        first, last = (
            int(np.searchsorted(self._values, lows[0], "left")),
            int(np.searchsorted(self._values, highs[0], "right")),
        )
        return [(a, b, depth >= 0) for a, b, depth, _ in self._cover(first, last)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file."""
        facts = {"kind": KIND, "settings": self.settings, "depths": len(self._depths)}
        sealed.write(Path(path), self._arrays(), facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RangeGraph:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(Path(path), KIND)
        try:
            index = cls(**facts["settings"])
            kept = arrays["codes"]
            index._codes = kernel.aligned(*kept.shape)
            index._codes[:] = kept
            index._order, index._values, index._rows = (np.array(arrays[name]) for name in ("order", "values", "rows"))
            index._depths = [
                Depth(*(np.array(arrays[f"{name}_{depth}"]) for name in Depth._fields))
                for depth in range(facts["depths"])
            ]
            for depth, one in enumerate(index._depths):
                if len(one.links) != len(index) or len(one.entries) != 2**depth:
                    raise ValueError(f"depth {depth} has {len(one.links)} rows in {len(one.entries)} nodes")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold a range graph ({error}); build and save it again") from None
        return index

    def _ready(self, rows: Any, what: str) -> np.ndarray:
        rows = checked_rows(rows, self.dim, what=what)
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)

    def _arrays(self) -> dict[str, np.ndarray]:
        own = {"order": self._order, "values": self._values, "rows": self._rows, "codes": self._codes}
        for depth, one in enumerate(self._depths):
            own |= {f"{name}_{depth}": array for name, array in one._asdict().items()}
        return own

    def _linked(self, codes: np.ndarray, depth: int, bar: Any) -> Depth:
        """Links of the nodes at a depth."""
        n, m = len(codes), self.settings["connectivity"]
        levels = levels_of(0, n, m, self.settings["seed"] + depth)
        bounds = _bounds_of(n, depth)
        before = np.concatenate([[0], np.cumsum(levels, dtype=np.int64)])
        own = Depth(
            levels=levels, links=np.full((n, 2 * m), NONE, np.uint32),
            above=(before[:-1] - np.repeat(before[bounds[:-1]], np.diff(bounds))).astype(np.uint32),
            higher=np.full((int(before[-1]), m), NONE, np.uint32), twins=np.full(n, NONE, np.uint32),
            entries=np.full(len(bounds) - 1, -1, np.int64), starts=before[bounds],
        )  # fmt: skip
        random = np.random.default_rng(self.settings["seed"])
        for node in range(len(bounds) - 1):
            graph = _node(own, codes, bounds, node)
            room, order = Room.of(graph), random.permutation(len(graph.levels)).astype(np.int64)
            for first in range(0, len(order), ROWS_AT_ONCE):
                part = order[first : first + ROWS_AT_ONCE]
                kernel.insert(
                    graph, part, expansion=self.settings["expansion_add"], budgets=np.full(len(part), m, np.int64),
                    fill=False, room=room,
                )  # fmt: skip
                bar.update(len(part))
        return own

    def _cover(self, first: int, last: int, depth: int = 0, node: int = 0) -> list[tuple[int, int, int, int]]:
        """(first row, past the last, depth or -1 for a scan, node) of the spans that make up [first, last)."""
        bounds = _bounds_of(len(self), depth)
        low, high = int(bounds[node]), int(bounds[node + 1])
        begin, end = max(low, first), min(high, last)
        if begin >= end:
            return []
        if depth >= len(self._depths):
            return [(begin, end, -1, node)]
        if (begin, end) == (low, high):
            return [(low, high, depth, node)]
        parts = self._cover(first, last, depth + 1, 2 * node) + self._cover(first, last, depth + 1, 2 * node + 1)
        merged: list[tuple[int, int, int, int]] = []
        for part in parts:  # neighbours that are both scanned are scanned at once
            if merged and part[2] < 0 and merged[-1][2] < 0 and merged[-1][1] == part[0]:
                merged[-1] = (merged[-1][0], part[1], -1, 0)
            else:
                merged.append(part)
        return merged

    def _keys(self, asked: np.ndarray, steps: np.ndarray, first: int, last: int, ef: int, within: int) -> np.ndarray:
        """Keys of the nearest rows of a span, descending; rows are numbered as sorted."""
        each = []
        for low, high, depth, node in self._cover(first, last):
            best, size = np.empty((1, min(within, high - low)), np.uint64), np.zeros(1, np.int64)
            if depth < 0:
                rows = np.arange(low, high, dtype=np.int64)
                kernel.scan(self._whole, asked, steps, rows, best=best, sizes=size)
                each.append(best[0, : size[0]])
                continue
            graph, room = _node(self._depths[depth], self._codes, _bounds_of(len(self), depth), node), self._room()
            expansion = min(max(ef, 1), high - low)
            best = best[:, : min(within, expansion)].copy()
            kernel.walk(
                graph, asked, steps, expansion=expansion, allowed=None, how="all", room=room, best=best, sizes=size
            )  # fmt: skip
            self._spare.append(room)
            each.append(best[0, : size[0]] - np.uint64(low))  # a key holds NONE − row
        keys = np.concatenate(each) if each else np.empty(0, np.uint64)
        return np.sort(keys)[::-1][:within]

    @property
    def _whole(self) -> Graph:
        """All codes, without links, for a scan."""
        none = np.empty((0, 2), np.uint32)
        flat = np.empty(0, np.uint32)
        facts = self._codes.view(np.float32)
        return Graph(self._codes, facts, np.empty(0, np.uint8), none, flat, none, flat, np.full(1, -1, np.int64))

    def _room(self) -> Room:
        try:
            return self._spare.pop()
        except IndexError:
            return Room(np.zeros(len(self), np.uint8), np.zeros(1, np.int64), np.empty(len(self) + 1, np.uint64))


def _bounds_of(count: int, depth: int) -> np.ndarray:
    """Where the nodes of a depth begin and end."""
    return np.arange(2**depth + 1, dtype=np.int64) * count // 2**depth


def _node(own: Depth, codes: np.ndarray, bounds: np.ndarray, node: int) -> Graph:
    """One node as a graph by itself: views only."""
    a, b = int(bounds[node]), int(bounds[node + 1])
    return Graph(
        codes=codes[a:b], facts=codes.view(np.float32)[a:b], levels=own.levels[a:b], links=own.links[a:b],
        above=own.above[a:b], higher=own.higher[own.starts[node] : own.starts[node + 1]], twins=own.twins[a:b],
        entry=own.entries[node : node + 1],
    )  # fmt: skip


def _numbers(values: Any, count: int, name: str) -> np.ndarray:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} must be numbers: {error}") from None
    if numbers.shape != (count,):
        raise BadInput(f"{name} must be [{count}], one a row, got {list(numbers.shape)}")
    if not np.isfinite(numbers).all():
        raise BadInput(f"{name}[{int(np.flatnonzero(~np.isfinite(numbers))[0])}] is not finite; a range needs an order")
    return numbers


def _bounds(value: Any, count: int, name: str) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} must be a number, or one for each query: {error}") from None
    if numbers.shape not in ((), (count,)) or np.isnan(numbers).any():
        raise BadInput(f"{name} must be a number, or one for each of {count} queries, got {value!r:.80}")
    return np.broadcast_to(numbers, (count,))
