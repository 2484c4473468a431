"""Approximate nearness by inverted lists: rows are kept by their nearest of some centroids, and a search scans the
lists whose centroids are nearest to the query, in that order.

A scan can be looked at half way (`probe`): the best rows of the first lists are mostly the best of all, which lets
their documents be fetched while the other lists are scanned (see `espn`).

Centroids come from the house's own k-means rather than from a library, so that an index is the same everywhere.

Source: Sivic and Zisserman, Video Google (ICCV 2003); lists as in faiss' IVFFlat.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np

from inlay import sealed
from inlay.codecs.kmeans import assign, kmeans
from inlay.codecs.scalar import Float16, Float32
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.kernels import compiled
from inlay.kernels.dense import normalise, score
from inlay.kernels.topk import TopK
from inlay.types import Metric, Neighbours

__all__ = ["IVF"]

CODECS: dict[str, Float32 | Float16] = {"float32": Float32(), "float16": Float16()}
ROWS_A_LIST = 64  # rows that k-means sees for each centroid; more change centroids little
KIND = "ivf index"


class IVF:
    """Rows in lists around centroids, which the first rows added decide (or `fit`).

    Args:
        dim: width of a row.
        metric: as in `Flat`. Lists are taken in order of the centroid's distance, for `dot` of its dot product.
        dtype: how rows are kept, `float32` or `float16`.
        lists: how many; by default 4·√n of the rows that decide the centroids. Fewer where there are fewer rows.
        probes: lists that a search scans: more are slower and find more.
        iterations: of k-means.
        seed: of k-means.
    """

    def __init__(
        self,
        dim: int,
        *,
        metric: Metric = "cosine",
        dtype: Literal["float32", "float16"] = "float32",
        lists: int | None = None,
        probes: int = 64,
        iterations: int = 10,
        seed: int = 0,
    ) -> None:
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if dtype not in CODECS:
            raise BadInput(f"dtype must be float32 or float16, got {dtype!r}")
        given = {"dim": dim, "lists": 1 if lists is None else lists, "probes": probes, "iterations": iterations}
        for name, value in given.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name} must be a positive integer, got {value!r}")
        self.dim, self.metric, self.dtype = int(dim), metric, dtype
        self.lists, self.probes, self.iterations, self.seed = lists, probes, iterations, seed
        self._centroids = np.empty((0, self.dim), dtype=np.float32)
        self._rows = np.empty((0, self.dim), dtype=dtype)
        self._ids = np.empty(0, dtype=np.int64)
        self._starts = np.zeros(1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return (
            f"IVF({self.dim}, metric={self.metric!r}, dtype={self.dtype!r}, lists={self.lists}, probes={self.probes}) "
            f"of {len(self)} rows in {len(self._centroids)} lists"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of rows, ids and centroids."""
        return sum(array.nbytes for array in (self._rows, self._ids, self._centroids, self._starts))

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each list, int64 [lists]."""
        return np.diff(self._starts)

    def fit(self, rows: np.ndarray) -> IVF:
        """Decide the centroids from rows [n, dim]; only while the index is empty."""
        if len(self):
            raise BadInput(f"the centroids are decided: the index holds {len(self)} rows; fit a new one")
        rows = self._ready(rows, "row")
        if not len(rows):
            raise BadInput("centroids need at least one row, got none")
        lists = min(len(rows), self.lists or round(4 * len(rows) ** 0.5))
        if len(rows) > ROWS_A_LIST * lists:
            random = np.random.default_rng(self.seed)
            rows = rows[np.sort(random.choice(len(rows), ROWS_A_LIST * lists, replace=False))]
        self._centroids = kmeans(rows, lists, iterations=self.iterations, seed=self.seed)
        self._starts = np.zeros(lists + 1, dtype=np.int64)
        return self

    def add(self, vectors: np.ndarray) -> None:
        """Append rows [n, dim]; ids are positions in order of addition. All rows are moved: add many at once."""
        rows = self._ready(vectors, "row")
        if not len(rows):
            return
        codes = CODECS[self.dtype].encode(rows)
        if not len(self._centroids):
            self.fit(rows)
        lists = np.concatenate([np.repeat(np.arange(len(self.sizes)), self.sizes), assign(rows, self._centroids)])
        order = np.argsort(lists, kind="stable")  # within a list rows stay in order of id
        ids = np.concatenate([self._ids, np.arange(len(self), len(self) + len(rows))])[order]
        kept = np.concatenate([self._rows, codes])[order]
        starts = np.zeros(len(self._centroids) + 1, dtype=np.int64)
        np.cumsum(np.bincount(lists, minlength=len(self._centroids)), out=starts[1:])
        self._rows, self._ids, self._starts = kept, ids, starts

    def search(self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
        """About the k nearest rows of each query: the nearest of those in `probes` lists.

        Of equal scores the one in the nearer list comes first, in one list the lower id; equal rows share a list.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where the lists hold fewer, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned. The others are not read.
        """
        queries, k = self._ready(queries, "query"), checked_k(k)
        allow = checked_mask(allow, len(self))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for i, query in enumerate(queries):
            for found in self._scan(query, k, [self.probes], allow):
                scores[i], ids[i] = found.scores[0], found.ids[0]
        return Neighbours(scores, ids)

    def probe(
        self, query: np.ndarray, k: int, stops: Sequence[int], *, allow: np.ndarray | None = None
    ) -> Iterator[Neighbours]:
        """The k nearest rows of one query as known after each of some numbers of lists.

        Args:
            query: [dim].
            k: how many.
            stops: ascending; the lists between two of them are scanned when the second is asked for.
            allow: as in `search`.

        Returns:
            `Neighbours` [1, k] for each stop. The last are what `search` finds with that many probes.
        """
        rows = self._ready(query, "query")
        if len(rows) != 1:
            raise BadInput(f"probe takes one query [{self.dim}], got {len(rows)}")
        stops = list(stops)
        if not stops or stops[0] < 1 or any(a > b for a, b in zip(stops, stops[1:])):
            raise BadInput(f"stops must ascend from 1 on, got {stops}")
        return self._scan(rows[0], checked_k(k), stops, checked_mask(allow, len(self)))

    def _scan(self, query: np.ndarray, k: int, stops: Sequence[int], allow: np.ndarray | None) -> Iterator[Neighbours]:
        order = self._nearest_lists(query, min(stops[-1], len(self._centroids)))
        best = TopK(1, k, fast=compiled(0))
        seen: list[np.ndarray] = []
        done = offered = 0
        for stop in stops:
            # Always in order of the centroids, so that where a scan is looked at changes nothing of what it finds.
            places = self._places(order[done:stop])
            if allow is not None:
                places = places[allow[self._ids[places]]]
            done = stop
            if len(places):
                best.offer(score(query[None], self._rows, metric=self.metric, ids=places), offered)
                seen.append(places)
                offered += len(places)
            found = best.result()
            if not seen:
                yield found
                continue
            known = self._ids[np.concatenate(seen)]
            yield Neighbours(found.scores, np.where(found.ids < 0, -1, known[found.ids]))

    def _nearest_lists(self, query: np.ndarray, count: int) -> np.ndarray:
        """Numbers of the `count` nearest lists, nearest first; of equals the lower."""
        if not count:
            return np.empty(0, dtype=np.int64)
        nearness = score(query[None], self._centroids, metric="dot" if self.metric == "dot" else "l2")[0]
        if count < len(nearness):
            cut = np.partition(nearness, len(nearness) - count)[len(nearness) - count]
            near = np.flatnonzero(nearness >= cut)
        else:
            near = np.arange(len(nearness))
        return near[np.argsort(-nearness[near], kind="stable")][:count]

    def _places(self, lists: np.ndarray) -> np.ndarray:
        """Where the rows of some lists lie, one list after another."""
        sizes = self.sizes[lists]
        before = np.cumsum(sizes) - sizes
        return np.repeat(self._starts[lists] - before, sizes) + np.arange(int(sizes.sum()))

    def _ready(self, rows: Any, what: str) -> np.ndarray:
        rows = checked_rows(rows, self.dim, what=what)
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write rows and lists to one file."""
        facts = {
            "kind": KIND, "metric": self.metric, "lists": self.lists, "probes": self.probes,
            "iterations": self.iterations, "seed": self.seed,
        }  # fmt: skip
        arrays = {"rows": self._rows, "ids": self._ids, "starts": self._starts, "centroids": self._centroids}
        sealed.write(os.fspath(path), arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> IVF:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(os.fspath(path), KIND)
        try:
            rows = arrays["rows"]
            settings = {name: facts[name] for name in ("metric", "lists", "probes", "iterations", "seed")}
            index = cls(rows.shape[1], dtype=rows.dtype.name, **settings)  # type: ignore[arg-type]
            index._rows, index._ids, index._starts, index._centroids = (
                rows, arrays["ids"], arrays["starts"], arrays["centroids"]
            )  # fmt: skip
        except (KeyError, IndexError, BadInput) as error:
            raise Corrupt(f"{path} does not hold an ivf index ({error}); build and save it again") from None
        return index
