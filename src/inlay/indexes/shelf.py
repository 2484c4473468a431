"""Indexes over the same rows under many configurations, made so that what they share is made once.

Bytes are those of all that a query needs: codes, what a cosine multiplies them with, links, axes of a reducer, centres
of a codec. Those of a row are counted apart from those that are kept once, so that a sample tells what the whole takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.arranged import Arranged
from inlay.indexes.configuration import Configuration
from inlay.kernels.dense import normalise

__all__ = ["Made", "Shelf"]

SHARED = ("float16", "int8")  # codes that order the candidates of many
FEW = 4  # rounds of k-means for a first look

Search = Callable[[np.ndarray, int], np.ndarray]


class Made(NamedTuple):
    """An index: ids of the nearest rows of one query [dim], bytes of a row, and bytes that are kept once."""

    search: Search
    row_nbytes: float
    fixed_nbytes: int

    def nbytes(self, rows: int) -> int:
        """Bytes for any number of rows."""
        return round(self.row_nbytes * rows) + self.fixed_nbytes


class Shelf:
    """Makes indexes over some rows, and keeps those that the next configurations are likely to share.

    Args:
        rows: float32 [n, dim], of which the codecs learn too.
        metric: `cosine` or `dot`.
        seed: of the graphs.
        rough: for a first look, in which centres of product codes are moved a few times only.
    """

    def __init__(self, rows: np.ndarray, metric: str, *, seed: int = 0, rough: bool = False) -> None:
        if metric not in ("cosine", "dot"):
            raise BadInput(f"codes are scored by cosine or dot, got metric {metric!r}; normalise the rows and use dot")
        self.rows = normalise(rows) if metric == "cosine" else np.ascontiguousarray(rows, dtype=np.float32)
        self.metric, self.seed, self.rough = metric, seed, rough
        self._indexes: dict[str, Any] = {}
        self._codecs: dict[str, Any] = {}
        self._graphs: dict[tuple[str, str], Any] = {}
        self._maps: dict[str, Any] = {}
        self._mapped: dict[str, np.ndarray] = {}

    def made(self, one: Configuration) -> Made:
        """The index of a configuration.

        Raises:
            BadInput: these rows do not allow it (too few for its axes or centres, say).
        """
        made = self.arranged(one)
        return Made(lambda query, k: made.search(query, k).ids, made.row_nbytes, made.fixed_nbytes)

    def arranged(self, one: Configuration) -> Arranged:
        """The rows kept as a configuration says."""
        map_ = self._map(one.reducer) if one.index == "graph" and one.reducer else None
        first = self._graph(one.reducer, one.codec) if one.index == "graph" else self._coded(one.codec_name)
        return Arranged(one, first, self._coded(one.fine) if one.candidates else None, map_)

    def _coded(self, name: str) -> Any:
        from inlay.indexes.coded import Coded

        if name not in self._indexes:
            one = self._fitted(name)
            index = Coded(one, dim=None if getattr(one, "dim", 0) else self.rows.shape[1], metric=self.metric)  # type: ignore[arg-type]
            index.add(self.rows)
            # Those that order candidates are wanted again and again, of the others only the last.
            self._indexes = {key: kept for key, kept in self._indexes.items() if key in SHARED} | {name: index}
        return self._indexes[name]

    def _fitted(self, name: str) -> Any:
        """A codec that has learnt; those that take long are kept, for they are wanted again as a first stage."""
        from inlay.codecs.chain import Chain
        from inlay.codecs.named import codec

        product = name.rpartition("|")[2].startswith("pq:")
        if name in self._codecs:
            return self._codecs[name]
        one = codec(name, **({"iterations": FEW} if product and self.rough else {}))
        if isinstance(one, Chain):
            reducer = name.rpartition("|")[0]
            one.map = self._map(reducer)
            one.codec.fit(self._mapped[reducer])
        elif hasattr(one, "fit"):
            one.fit(self.rows)
        if product:
            self._codecs[name] = one
        return one

    def _map(self, reducer: str) -> Any:
        """A fitted map, one for all codecs behind it."""
        from inlay.codecs.named import codec

        if reducer not in self._maps:
            self._maps[reducer] = codec(f"{reducer}|float32").map.fit(self.rows)
        if reducer not in self._mapped:
            self._mapped = {reducer: np.ascontiguousarray(self._maps[reducer].transform(self.rows), dtype=np.float32)}
        return self._maps[reducer]

    def _graph(self, reducer: str, kept: str) -> Any:
        from inlay.indexes.dense_graph import DenseGraph

        if (reducer, kept) not in self._graphs:
            if reducer:
                self._map(reducer)
            rows = self._mapped[reducer] if reducer else self.rows
            index = DenseGraph(rows.shape[1], metric=self.metric, dtype=kept, seed=self.seed)  # type: ignore[arg-type]
            index.add(rows)
            self._graphs = {(reducer, kept): index}
        return self._graphs[reducer, kept]
