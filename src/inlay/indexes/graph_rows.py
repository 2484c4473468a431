"""Rows of a dense graph as they are kept: codes that a walk reads, rows that finish a search, and the file of both."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.indexes.card import Card
from inlay.indexes.filter_plan import FilterCosts
from inlay.indexes.filtered_lists import Lists
from inlay.indexes.filtered_walks import Choices
from inlay.indexes.flat import checked_rows, checked_shape
from inlay.indexes.graph_growth import levels_of, longer
from inlay.kernels import dense_graph as kernel
from inlay.kernels.dense import nearest, normalise
from inlay.kernels.dense_graph import NONE, Graph, Room
from inlay.types import Metric, Neighbours

__all__ = ["FILTERS", "Asked", "Dtype", "GraphRows"]

Dtype = Literal["float32", "float16", "int8"]
FILTERS = "filters"  # what the card calls the costs of filtered searches


class Asked:
    """Queries made ready: rows float32 [q, dim], codes int8 [q, width], and what a step of each one's is worth."""

    __slots__ = ("codes", "rows", "steps")

    def __init__(self, rows: np.ndarray, codes: np.ndarray, steps: np.ndarray) -> None:
        self.rows, self.codes, self.steps = rows, codes, steps

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> Asked:
        return Asked(self.rows[which], self.codes[which], self.steps[which])


class GraphRows:
    """Rows, their codes and a graph over them: how they are kept and scored. `DenseGraph` links and searches them.

    The arguments are those of `DenseGraph`.
    """

    kind: str

    def __init__(
        self,
        dim: int,
        *,
        metric: Metric = "cosine",
        dtype: Dtype = "float32",
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 64,
        refine: int = 3,
        keep_pruned: bool = False,
        seed: int = 0,
    ) -> None:
        kernel.kernels()
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if dtype not in get_args(Dtype):
            raise BadInput(f"dtype must be one of {', '.join(get_args(Dtype))}, got {dtype!r}")
        if not isinstance(keep_pruned, bool | np.bool_):
            raise BadInput(f"keep_pruned must be True or False, got {keep_pruned!r}")
        counts = {
            "dim": dim, "connectivity": connectivity, "expansion_add": expansion_add,
            "expansion_search": expansion_search, "refine": refine, "seed": seed,
        }  # fmt: skip
        least = {"connectivity": 2, "seed": 0}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least.get(name, 1):
                raise BadInput(f"{name} must be a whole number from {least.get(name, 1)} on, got {value!r}")
        self.settings: dict[str, Any] = {
            **{name: int(value) for name, value in counts.items()},
            "metric": metric, "dtype": dtype, "keep_pruned": bool(keep_pruned),
        }  # fmt: skip
        self.dim, self.metric, self.dtype = int(dim), metric, dtype
        self.card = Card()
        width = kernel.width_of(self.dim)
        self._graph = self._empty(width, 2 * int(connectivity), int(connectivity))
        self._rows = np.empty((0, 0 if dtype == "int8" else self.dim), dtype="float32" if dtype == "int8" else dtype)
        self._count = 0
        self._higher = 0  # rows of `higher` in use
        self._spare: list[Room] = []
        self.lists: Lists | None = None
        self._costs: dict[tuple[int, float | None], FilterCosts] = {}
        self._choices: dict[Any, Choices] = {}
        self._lock = threading.Lock()

    @staticmethod
    def _empty(width: int, most: int, connectivity: int) -> Graph:
        codes = kernel.aligned(0, width)
        return Graph(
            codes=codes, facts=codes.view(np.float32), levels=np.empty(0, np.uint8),
            links=np.empty((0, most), np.uint32), above=np.empty(0, np.uint32),
            higher=np.empty((0, connectivity), np.uint32), twins=np.empty(0, np.uint32),
            entry=np.full(1, -1, np.int64),
        )  # fmt: skip

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if name != "dim")
        return f"{type(self).__name__}({self.dim}, {said}) of {len(self)} rows"

    @property
    def nbytes(self) -> int:
        """Bytes of rows, codes and links, without the room that is kept for rows to come."""
        return sum(self.nbytes_of_parts.values())

    @property
    def nbytes_of_parts(self) -> dict[str, int]:
        """Bytes of `rows`, `codes`, `graph` and `lists`."""
        arrays = self._trimmed()
        rows, codes = arrays.pop("rows").nbytes, arrays.pop("codes").nbytes
        lists = 0 if self.lists is None else self.lists.nbytes
        return {"rows": rows, "codes": codes, "graph": sum(one.nbytes for one in arrays.values()), "lists": lists}

    def decoded(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids as they are kept, float32 [n, dim]; for cosines, at length 1."""
        if self.dtype != "int8":
            return self._rows[ids].astype(np.float32)
        return self._graph.codes[ids, : self.dim] * self._graph.facts[ids, -2:-1]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays as far as they are in use, by name: rows, codes, the graph, and lists where they were made."""
        lists = {} if self.lists is None else self.lists.arrays()
        return {**self._trimmed(), **lists}

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of the rest."""
        return {"settings": self.settings, "card": self.card.to_dict()}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Self:
        """Of what `arrays` and `facts` gave. The arrays are copied; BadInput where they do not fit each other."""
        try:
            index, arrays = cls(**facts["settings"]), dict(arrays)
            rows = arrays.pop("rows")
            lists = {name: arrays.pop(name) for name in list(arrays) if name.startswith("list_")}
            codes = kernel.aligned(*arrays["codes"].shape)
            codes[:] = arrays.pop("codes")
            own = {name: np.array(array) for name, array in arrays.items()}  # as its own: it is written to
            graph = Graph(codes=codes, facts=codes.view(np.float32), **own)
            for name, fresh in index._graph._asdict().items():
                its = getattr(graph, name)
                if its.shape[1:] != fresh.shape[1:] or its.dtype != fresh.dtype:
                    raise ValueError(f"{name} is {its.dtype} {list(its.shape)}")
            if rows.shape[1:] != index._rows.shape[1:] or rows.dtype != index._rows.dtype:
                raise ValueError(f"rows are {rows.dtype} {list(rows.shape)}")
            if lists:
                index.lists = Lists.from_arrays(lists, len(rows), codes.shape[1])
            index.card = Card.from_dict(facts["card"])
            for kept in index.card.facts.get(FILTERS, []):
                FilterCosts.from_dict(kept)
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"this is no {cls.kind} ({error}); build it again") from None
        index._graph, index._rows = graph, np.array(rows)
        index._count, index._higher = len(graph.levels), len(graph.higher)
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file."""
        sealed.write(Path(path), self.arrays(), {"kind": self.kind, **self.facts()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; rows may be added to it."""
        arrays, facts = sealed.read(Path(path), cls.kind)
        try:
            return cls.restored(arrays, facts)
        except BadInput as error:
            raise Corrupt(f"{path} does not hold a {cls.kind} ({error}); build and save it again") from None

    def _best(self, queries: int, k: int, most: int, refined: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Room for the keys that are to be refined, of as many as can be found, and for how many they are."""
        within = min(most, k * self.settings["refine"]) if refined and self.dtype != "int8" else min(most, k)
        return np.empty((queries, within), np.uint64), np.zeros(queries, np.int64)

    def _finished(self, asked: Asked, k: int, best: np.ndarray, sizes: np.ndarray, refined: bool = True) -> Neighbours:
        """The nearest k of the keys that were found, scored in full."""
        scores, found = np.empty((len(asked), k), np.float32), np.empty((len(asked), k), np.int64)
        if refined and self.dtype != "int8":
            rows = self._rows.view(np.uint16) if self.dtype == "float16" else self._rows
            kernel.kernels().refine(asked.rows, rows, self.metric == "l2", best, sizes, scores, found)
            return Neighbours(scores, found)
        scores[:], found[:] = -np.inf, -1
        if refined:
            self._by_codes(asked.rows, best, sizes, scores, found)
        else:
            there = np.arange(best.shape[1]) < sizes[:, None]
            found[:, : best.shape[1]] = np.where(there, NONE - (best & np.uint64(NONE)).astype(np.int64), -1)
        return Neighbours(scores, found)

    def _by_codes(
        self, queries: np.ndarray, best: np.ndarray, sizes: np.ndarray, scores: np.ndarray, found: np.ndarray
    ) -> None:
        """Scores of codes with the queries as they are."""
        for q, query in enumerate(queries):
            ids = np.sort(NONE - (best[q, : max(0, sizes[q])] & np.uint64(NONE)).astype(np.int64))
            if len(ids):
                codes, scales = self._graph.codes[ids, : self.dim], self._graph.facts[ids, -2]
                near = nearest(query[None], codes, len(ids), scales=scales, metric=self.metric)
                scores[q, : len(ids)], found[q, : len(ids)] = near.scores[0], ids[near.ids[0]]

    def _scan(self, queries: np.ndarray, k: int, ids: np.ndarray) -> Neighbours:
        """Exactly the nearest of some rows."""
        allow = None
        if len(ids) < self._count:
            allow = np.zeros(self._count, dtype=bool)
            allow[ids] = True
        if self.dtype == "int8":
            codes = self._graph.codes[: self._count, : self.dim]
            scales = self._graph.facts[: self._count, -2]
            return nearest(queries, codes, k, scales=scales, metric=self.metric, allow=allow)
        return nearest(queries, self._rows[: self._count], k, metric=self.metric, allow=allow)

    def _asked(self, queries: Any) -> Asked:
        """Queries, checked."""
        rows = checked_shape(queries, self.dim, what="query")
        try:
            return Asked(*kernel.ask(rows, self._graph.codes.shape[1], unit=self.metric == "cosine"))
        except ValueError:
            checked_rows(rows, self.dim, what="query")  # says which
            raise

    def _ready(self, rows: Any) -> np.ndarray:
        """Rows to be added, checked."""
        rows = checked_rows(rows, self.dim)
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)

    def _append(self, vectors: np.ndarray, kept: np.ndarray) -> None:
        """Put rows and their levels behind the rows there are, without links; makes room where there is none."""
        old, count, stop = self._graph, self._count, self._count + len(vectors)
        levels = levels_of(count, stop, self.settings["connectivity"], self.settings["seed"])
        higher = self._higher + int(levels.sum(dtype=np.int64))
        codes = old.codes
        if stop > len(codes):
            codes = kernel.aligned(max(stop, len(codes) * 3 // 2), codes.shape[1])
            codes[:count] = old.codes[:count]
        graph = Graph(
            codes=codes, facts=codes.view(np.float32), levels=longer(old.levels, count, stop),
            links=longer(old.links, count, stop), above=longer(old.above, count, stop),
            higher=longer(old.higher, self._higher, higher), twins=longer(old.twins, count, stop),
            entry=old.entry.copy(),
        )  # fmt: skip
        kernel.code(vectors, distances=self.metric == "l2", out=codes[count:stop])
        graph.levels[count:stop], graph.links[count:stop], graph.twins[count:stop] = levels, NONE, NONE
        graph.above[count:stop] = self._higher + np.cumsum(levels, dtype=np.int64) - levels
        graph.higher[self._higher : higher] = NONE
        self._graph, self._rows = graph, longer(self._rows, count, stop)
        self._rows[count:stop] = kept

    def _trimmed(self) -> dict[str, np.ndarray]:
        """The arrays as far as they are in use, by name."""
        graph, n = self._graph, self._count
        ends = {"codes": n, "levels": n, "links": n, "above": n, "higher": self._higher, "twins": n, "entry": 1}
        return {**{name: getattr(graph, name)[:end] for name, end in ends.items()}, "rows": self._rows[:n]}
