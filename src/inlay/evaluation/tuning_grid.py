"""Ways to keep and search dense rows: reducer × codec × index × re-ranking, and an index made of one of them.

The grid is that of "Optimization of embeddings storage for RAG systems" (arXiv 2505.00105), dimensions kept by number
format, with the small codes of CoRECT (arXiv 2510.19340), a graph, and re-ranking: a small code finds candidates, a
finer one of the same rows orders them, and the bytes of both are counted.

Bytes are those of all that a query needs: codes, what a cosine multiplies them with, links, axes of a reducer, centres
of a codec. Those of a row are counted apart from those that are kept once, so that a sample tells what the whole takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.dense import normalise

__all__ = ["Configuration", "Shelf", "grid"]

FULL = "float32"
REDUCED = (0.75, 0.5, 0.25)  # shares of the dimensions that principal components keep
CUT = (0.5, 0.25)  # and those of plain truncation, for models that were trained to be cut
CODES = (FULL, "float16", "float8", "int8", "int4", "percentiles:2", "signs:mean")
PARTS = (4, 8)  # numbers of a row that one byte of a product code stands for
FIRST, FINE, CANDIDATES = ("percentiles:2", "signs:mean", "pq"), ("float16", "int8"), (50, 200)
KEPT_BY_GRAPH, EFS, GRAPH_CANDIDATES = ("float16", "int8"), (32, 128), 50
FEWEST = 1000  # rows for which a graph, or centres of product codes, are worth a try


@dataclass(frozen=True, order=True)
class Configuration:
    """A way to keep rows and to search them.

    Args:
        reducer: a map by name (`pca:192`), or empty for rows as they are.
        codec: of what the map gives, by name; of a graph `float16` or `int8`.
        index: `scan` of all codes, or `graph`.
        ef: candidates that a walk of the graph keeps; 0 for scans.
        candidates: rows that are ordered again; 0 for none.
        fine: codec by which they are.
        encoder: what made the rows, where several are compared.
    """

    reducer: str
    codec: str
    index: Literal["scan", "graph"] = "scan"
    ef: int = 0
    candidates: int = 0
    fine: str = ""
    encoder: str = ""

    @property
    def codec_name(self) -> str:
        """Reducer and codec as `inlay.codecs.codec` takes them."""
        return f"{self.reducer}|{self.codec}" if self.reducer else self.codec

    @property
    def rerank(self) -> str:
        """The second stage in words, empty if there is none."""
        return f"top {self.candidates} by {self.fine}" if self.candidates else ""

    @property
    def family(self) -> tuple[str, str, bool]:
        """What grows alike with the number of rows, and so can be compared on few."""
        return self.encoder, self.index, bool(self.candidates)

    @property
    def full(self) -> bool:
        """Whether this is an exact search of the rows as they are."""
        return (self.reducer, self.codec, self.index, self.candidates) == ("", FULL, "scan", 0)

    def __str__(self) -> str:
        index = f"graph ef={self.ef}" if self.index == "graph" else "scan"
        return " · ".join(part for part in (self.encoder, self.codec_name, index, self.rerank) if part)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own: dict[str, Any] = {"codec": self.codec_name, "index": self.index}
        own |= {"ef": self.ef} if self.index == "graph" else {}
        own |= {"rerank": {"candidates": self.candidates, "by": self.fine}} if self.candidates else {"rerank": None}
        return own | ({"encoder": self.encoder} if self.encoder else {})


def grid(dim: int, rows: int, *, encoder: str = "", graphs: bool | None = None) -> list[Configuration]:
    """Every configuration that rows of a width allow, exact search of full rows first.

    Args:
        dim: width of a row.
        rows: how many there are; few rows allow no graph, no centres and no more axes than there are rows.
        encoder: what made them.
        graphs: whether there are graphs; by default where numba is installed (extra `fast`).
    """
    for name, value in (("dim", dim), ("rows", rows)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise BadInput(f"{name} must be a positive whole number, got {value!r}")
    widths = {f"pca:{_even(dim * share)}": _even(dim * share) for share in REDUCED if dim > 8 and rows > dim * share}
    widths |= {f"truncate:{_even(dim * share)}": _even(dim * share) for share in CUT if dim > 8}
    widths = {name: width for name, width in widths.items() if width < dim}
    found = []
    for reducer, width in ({"": dim} | widths).items():
        parts = [width // each for each in PARTS if width % each == 0 and rows >= FEWEST]
        found += [Configuration(reducer, code, encoder=encoder) for code in CODES]
        found += [Configuration(reducer, f"pq:{count}x8", encoder=encoder) for count in parts]
        if reducer.startswith("truncate"):
            continue
        for first in [code for code in FIRST if code != "pq"] + [f"pq:{count}x8" for count in parts[-1:]]:
            for candidates in (few for few in CANDIDATES if few < rows):
                found += [
                    Configuration(reducer, first, candidates=candidates, fine=fine, encoder=encoder) for fine in FINE
                ]
        if rows >= FEWEST and (find_spec("numba") is not None if graphs is None else graphs):
            for ef in EFS:
                found += [Configuration(reducer, kept, "graph", ef, encoder=encoder) for kept in KEPT_BY_GRAPH]
            if reducer:
                found.append(Configuration(reducer, "int8", "graph", EFS[-1], GRAPH_CANDIDATES, "float16", encoder))
    return found


def _even(width: float) -> int:
    """A width that fills bytes, whatever the code."""
    return max(8, round(width / 8) * 8)


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
    """

    def __init__(self, rows: np.ndarray, metric: str, *, seed: int = 0) -> None:
        if metric not in ("cosine", "dot"):
            raise BadInput(f"codes are scored by cosine or dot, got metric {metric!r}; normalise the rows and use dot")
        self.rows = normalise(rows) if metric == "cosine" else np.ascontiguousarray(rows, dtype=np.float32)
        self.metric, self.seed = metric, seed
        self._indexes: dict[str, Any] = {}
        self._graphs: dict[tuple[str, str], _Walks] = {}
        self._maps: dict[str, Any] = {}
        self._mapped: dict[str, np.ndarray] = {}

    def made(self, one: Configuration) -> Made:
        """The index of a configuration.

        Raises:
            BadInput: these rows do not allow it (too few for its axes or centres, say).
        """
        if one.index == "graph":
            walks = self._graph(one.reducer, one.codec)
            search, row, fixed = walks.at(one.ef), walks.row_nbytes, walks.fixed_nbytes
        else:
            index = self._coded(one.codec_name)
            search, row, fixed = _scan(index), _row_nbytes(index), _fixed_nbytes(index.codec)
        if not one.candidates:
            return Made(search, row, fixed)
        fine = self._coded(one.fine)
        ordered = _ordered(search, fine, one.candidates)
        return Made(ordered, row + _row_nbytes(fine), fixed + _fixed_nbytes(fine.codec))

    def _coded(self, name: str) -> Any:
        from inlay.codecs.chain import Chain
        from inlay.codecs.named import codec
        from inlay.indexes.coded import Coded

        if name not in self._indexes:
            one = codec(name)
            if isinstance(one, Chain):
                reducer = name.rpartition("|")[0]
                one.map = self._map(reducer)
                one.codec.fit(self._mapped[reducer])
            elif hasattr(one, "fit"):
                one.fit(self.rows)
            index = Coded(one, dim=None if getattr(one, "dim", 0) else self.rows.shape[1], metric=self.metric)  # type: ignore[arg-type]
            index.add(self.rows)
            # Those that order candidates are wanted again and again, of the others only the last.
            self._indexes = {key: kept for key, kept in self._indexes.items() if key in FINE} | {name: index}
        return self._indexes[name]

    def _map(self, reducer: str) -> Any:
        """A fitted map, one for all codecs behind it."""
        from inlay.codecs.named import codec

        if reducer not in self._maps:
            self._maps[reducer] = codec(f"{reducer}|float32").map.fit(self.rows)
        if reducer not in self._mapped:
            self._mapped = {reducer: np.ascontiguousarray(self._maps[reducer].transform(self.rows), dtype=np.float32)}
        return self._maps[reducer]

    def _graph(self, reducer: str, kept: str) -> _Walks:
        from inlay.indexes.dense_graph import DenseGraph

        if (reducer, kept) not in self._graphs:
            map_ = self._map(reducer) if reducer else None
            rows = self._mapped[reducer] if reducer else self.rows
            index = DenseGraph(rows.shape[1], metric=self.metric, dtype=kept, seed=self.seed)  # type: ignore[arg-type]
            index.add(rows)
            self._graphs = {(reducer, kept): _Walks(index, map_)}
        return self._graphs[reducer, kept]


def _fixed_nbytes(codec: Any) -> int:
    return int(getattr(codec, "fixed_nbytes", getattr(codec, "codebook_nbytes", 0)))


def _row_nbytes(index: Any) -> float:
    return (index.nbytes - _fixed_nbytes(index.codec)) / max(1, len(index))


def _scan(index: Any) -> Search:
    def search(query: np.ndarray, k: int) -> np.ndarray:
        found: np.ndarray = index.search(query, k).ids[0]
        return found

    return search


def _ordered(first: Search, fine: Any, candidates: int) -> Search:
    """Candidates of a first search, ordered by finer codes of the same rows."""
    allow = np.zeros(len(fine), dtype=bool)

    def search(query: np.ndarray, k: int) -> np.ndarray:
        near = first(query, max(k, candidates))
        near = near[near >= 0]
        allow[near] = True
        found: np.ndarray = fine.search(query, k, allow=allow).ids[0]
        allow[near] = False
        return found

    return search


class _Walks:
    """A graph whose queries go through a map first."""

    def __init__(self, index: Any, map_: Any) -> None:
        self.index, self.map = index, map_
        self.row_nbytes = index.nbytes / max(1, len(index))
        self.fixed_nbytes = 0 if map_ is None else int(map_.nbytes)

    def at(self, ef: int) -> Search:
        """The search that keeps so many candidates."""

        def search(query: np.ndarray, k: int) -> np.ndarray:
            asked = query[None] if self.map is None else self.map.transform(query[None])
            found: np.ndarray = self.index.search(asked, k, ef=ef).ids[0]
            return found

        return search
