"""Inverted lists on disk that carry attributes beside their rows: a filter is tested before any row is read.

    index = DiskIVF.create("rows.lists", 384, attributes={"year": "u16", "lang": "cat", "tags": "set32"})
    index.add(rows, {"year": years, "lang": langs, "tags": tags})
    index.search(queries, 10, where={"lang": "bg", "year": {"$gte": 2010}})

A search ranks the centroids, which memory holds, and for each of the nearest lists (1) looks at what the list's
attributes span, and passes over a list in which nothing can match, unread; (2) reads its head, where attributes and
ids are, and tests the filter; (3) reads the rows that passed, as few runs of pages as hold them, or the whole list
where most of it passed; (4) scores them. Clustering and distance see the rows alone; attributes are no dimensions.

With `probes="auto"` a search goes on until it has k rows, and has scanned as many lists as rows this deep need: of a
filter that keeps a share s, the k nearest rows are about the k/s nearest of all, and `calibrate` measures how many
lists hold those. It stops early where no list left can hold a nearer row (a row is at most its list's radius from the
centroid).

Rows added later go to further files of lists, deleted ones are marked, and `rewrite` makes one file of all that is
left. Files are written, synced and renamed before the manifest names them, and never change: after a crash the index is
what it was after the last call that returned.

Source: "Billion-scale Similarity Search Using a Hybrid Indexing Approach with Advanced Filtering" (arXiv 2501.13442).
The paper leaves updates, the number of lists and probing open; those here are ours. So are the sorting of a list by its
attributes and the splitting of large lists (see `disk_ivf_build`), and that a list of which more than a quarter passes
is read whole only if most of its pages are wanted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from inlay import sealed
from inlay.codecs.kmeans import assign
from inlay.codecs.scalar import Quantised
from inlay.errors import BadInput
from inlay.indexes.attribute_columns import Columns
from inlay.indexes.attribute_filter import Predicate
from inlay.indexes.disk_ivf_build import centroids_of, write_lists
from inlay.indexes.disk_ivf_file import Group, PartWriter
from inlay.indexes.disk_ivf_folder import KIND, MANIFEST, ListsFolder, bits_of
from inlay.indexes.disk_ivf_search import DiskReads, Search
from inlay.indexes.flat import CODECS, checked_k, checked_mask, checked_rows
from inlay.kernels.blocks import SIZE
from inlay.kernels.dense import normalise, score
from inlay.kernels.topk import TopK
from inlay.types import Metric, Neighbours

__all__ = ["DiskIVF"]

ROWS_A_LIST = 64  # rows that k-means sees for each centroid
ROWS_AT_ONCE = 1 << 14
NOBODY, NONE = np.empty(0, dtype=bool), np.empty(0, dtype=np.uint8)


class DiskIVF(ListsFolder):
    """An index in a folder; `create` makes one. Any number of threads may search at once.

    Args:
        path: the folder.
        checks: verify a page when this object `first` reads it, or `always`.

    Attributes:
        columns: of the attributes.
        probes: lists that a search scans if it is not told how many.
        reads: what searches did so far.
    """

    def __init__(self, path: str | Path, *, checks: Literal["first", "always"] = "first") -> None:
        if checks not in ("first", "always"):
            raise BadInput(f"checks must be first or always, got {checks!r}")
        if not hasattr(os, "preadv"):
            raise BadInput("lists on disk are read by preadv, which this system does not offer; take IVF, in memory")
        self.checks, self.reads = checks, DiskReads()
        self._own = threading.local()
        super().__init__(path)

    @classmethod
    def create(
        cls, path: str | Path, dim: int, *, attributes: Mapping[str, str] | None = None, metric: Metric = "cosine",
        dtype: Literal["float32", "float16", "int8"] = "float16", lists: int | None = None, probes: int = 32,
        iterations: int = 10, seed: int = 0, order: Sequence[str] | None = None,
    ) -> Self:  # fmt: skip
        """Make an empty index in a folder that is not there yet, or is empty.

        Args:
            path: the folder.
            dim: width of a row.
            attributes: column → type: `u8`, `u16`, `u32`, `cat`, `set32` …; see `inlay.indexes.attribute_columns`.
            metric: as in `Flat`. Lists are ranked by distance of the centroid, for `dot` by its dot product.
            dtype: how rows are kept.
            lists: how many; by default 4·√n of the rows first added, and one for every 39 of them at most.
            probes: lists that a search scans.
            iterations: of k-means.
            seed: of k-means.
            order: columns by which rows of a list are sorted; by default all, those of fewest values first.
        """
        given = {"dim": dim, "lists": 1 if lists is None else lists, "probes": probes, "iterations": iterations}
        for name, value in given.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name} must be a positive integer, got {value!r}")
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if dtype not in CODECS:
            raise BadInput(f"dtype must be one of {', '.join(CODECS)}, got {dtype!r}")
        columns = Columns({} if attributes is None else attributes)
        for name in order or ():
            columns[name]  # refuses what is no column
        folder = Path(path)
        if not folder.parent.is_dir():
            raise BadInput(f"the folder {folder.parent} does not exist; make it first")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(f"{folder} is there already; open it with DiskIVF(path), or take another name")
        folder.mkdir(exist_ok=True)
        facts = {
            "kind": KIND, "generation": 0, "dim": int(dim), "metric": metric, "dtype": dtype, "lists": lists,
            "probes": int(probes), "iterations": int(iterations), "seed": int(seed), "parts": [], "centroids": None,
            "order": None if order is None else list(order), "types": list(columns.types.items()), "labels": {},
            "rows": 0, "depths": [],
        }  # fmt: skip
        sealed.write(folder / MANIFEST, {"dead": NONE}, facts)
        return cls(folder)

    def __len__(self) -> int:
        return self._rows - int.from_bytes(self._dead.tobytes(), "little").bit_count()

    def __repr__(self) -> str:
        return (
            f"DiskIVF({str(self.path)!r}, dim={self.dim}, metric={self.metric!r}, dtype={self.dtype!r}, attributes="
            f"{self.columns.types}, probes={self.probes}) of {len(self)} rows in {len(self._centroids)} lists"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(part.nbytes for part in self._parts) + self._centroids.nbytes + self._dead.nbytes

    @property
    def resident(self) -> int:
        """Bytes in memory: centroids, directories, deletions, and `working`."""
        return self._centroids.nbytes + self._dead.nbytes + self.working + sum(part.resident for part in self._parts)

    @property
    def working(self) -> int:
        """Bytes that searches of this thread read into: a MiB, or the largest list if that is more, and heads."""
        return sum(len(held) for held in vars(self._own).values())

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each list, deleted ones included, int64 [lists]."""
        sizes = np.zeros(len(self._centroids), dtype=np.int64)
        for part in self._parts:
            sizes[part.lists] += part.counts
        return sizes

    # Writing ----------------------------------------------------------------------------------------------------------

    def fit(self, rows: np.ndarray) -> DiskIVF:
        """Decide the centroids from rows [n, dim], of which a sample will do; only while the index is empty."""
        with self._writing():
            if self._rows:
                raise BadInput(f"the centroids are decided: the index holds {self._rows} rows; create a new one")
            rows = checked_rows(rows, self.dim)
            if not len(rows):
                raise BadInput("centroids need at least one row, got none")
            self._commit(centroids=self._fitted(rows))
        return self

    def _fitted(self, rows: np.ndarray) -> np.ndarray:
        settings, n = self._facts, len(rows)
        lists = min(n, settings["lists"] or max(1, min(round(4 * n**0.5), n // 39)))
        if n > ROWS_A_LIST * lists:
            random = np.random.default_rng(settings["seed"])
            rows = rows[np.sort(random.choice(n, ROWS_A_LIST * lists, replace=False))]
        return centroids_of(self._unit(rows), lists, iterations=settings["iterations"], seed=settings["seed"])

    def add(self, vectors: np.ndarray, attributes: Mapping[str, Any] | None = None) -> None:
        """Append rows [n, dim] and their attributes; ids are positions in order of addition. Durable on return.

        Args:
            vectors: finite numbers; memory-mapped float32 ones are read as they are needed.
            attributes: n values of every column.
        """
        vectors = checked_rows(vectors, self.dim)
        if not len(vectors):
            return
        with self._writing():
            words = self.columns.encode(attributes, len(vectors))
            first = not self._parts
            centroids = self._centroids if len(self._centroids) else self._fitted(vectors)
            if self._order is None:
                self._order = self.columns.by_cardinality(words)
            wide = centroids.astype(np.float32)
            lists = np.empty(len(vectors), dtype=np.int64)
            for start in range(0, len(vectors), ROWS_AT_ONCE):
                part = slice(start, start + ROWS_AT_ONCE)
                lists[part] = assign(self._unit(vectors[part]), wide)
            place = np.argsort(lists, kind="stable")
            bounds = np.searchsorted(lists[place], np.arange(len(centroids) + 1))

            def groups() -> Iterator[tuple[int, Group]]:
                for number in np.flatnonzero(np.diff(bounds)).tolist():
                    own = place[bounds[number] : bounds[number + 1]]
                    codes = self._codec.encode(self._unit(vectors[own]))
                    scales = np.empty(0, dtype=np.float32)
                    if isinstance(codes, Quantised):
                        codes, scales = codes
                    yield number, Group(codes, scales, words[:, own], own + self._rows)

            name, digest, made = self._written(
                groups(), centroids, len(vectors) / len(centroids) if first else None, self._rows + len(vectors)
            )
            changed = made if first or not len(self._centroids) else None
            self._commit(
                parts=[*self._facts["parts"], [name, digest]], rows=self._rows + len(vectors), centroids=changed
            )

    def delete(self, ids: Any) -> None:
        """Mark rows as gone, durably; their bytes go with the next `rewrite`. Ids are never given again."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise BadInput(f"ids must be integers [n], got {ids.dtype} {list(ids.shape)}")
        wrong = (ids < 0) | (ids >= self._rows)
        if wrong.any():
            raise BadInput(f"id {ids[wrong][0]} is outside [0, {self._rows})")
        if not len(ids):
            return
        with self._writing():
            dead = bits_of(self._dead, self._rows)
            np.bitwise_or.at(dead, ids >> 3, (1 << (ids & 7)).astype(np.uint8))
            self._commit(dead=dead)

    def rewrite(self) -> None:
        """Make one file of all: rows that were deleted go, lists that have grown too large are split."""
        with self._writing():
            if not self._parts:
                return

            def groups() -> Iterator[tuple[int, Group]]:
                for number in range(len(self._centroids)):
                    held = [part.group(int(one)) for part in self._parts for one in part.blocks_of(np.array([number]))]
                    if held:
                        joined = (np.concatenate(one, axis=-1 if i == 2 else 0) for i, one in enumerate(zip(*held)))
                        whole = Group(*joined)
                        yield number, whole.some(self._alive(whole.ids))

            alive = max(1, len(self))
            name, digest, made = self._written(groups(), self._centroids, alive / len(self._centroids), self._rows)
            self._commit(parts=[[name, digest]], centroids=made)

    def _written(
        self, groups: Iterator[tuple[int, Group]], centroids: np.ndarray, mean: float | None, rows: int
    ) -> tuple[str, str, np.ndarray]:
        """Write a file of lists: its name, its digest, and the centroids after large lists were split."""
        name = f"part-{self._facts['generation'] + 1:08d}.lists"
        wide = rows > np.iinfo(np.uint32).max
        writer = PartWriter(self.path / name, self.columns, self.dim, self.dtype, wide=wide)
        try:
            made = write_lists(
                writer, groups, centroids, self.columns, self._order or [], mean=mean, seed=self._facts["seed"]
            )
            return name, writer.finish(), made
        finally:
            writer.abandon()

    def _alive(self, ids: np.ndarray) -> np.ndarray:
        """Places of the ids that were not deleted."""
        if not len(self._dead):
            return np.arange(len(ids))
        return np.flatnonzero((self._dead[ids >> 3] >> (ids & 7).astype(np.uint8)) & 1 == 0)

    # Searching --------------------------------------------------------------------------------------------------------

    def search(
        self, queries: np.ndarray, k: int, *, where: Mapping[str, Any] | None = None, allow: np.ndarray | None = None,
        probes: int | Literal["auto"] | None = None,
    ) -> Neighbours:  # fmt: skip
        """About the k nearest rows of each query, among those that pass.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where the lists scanned hold fewer, the rest is id -1 with score -inf.
            where: a filter over the attributes, as `inlay.indexes.attribute_filter` has it.
            allow: bool, one for each id given so far, the rows that may be returned; rows must pass both.
            probes: lists to scan, nearest first; `auto` for as many as it takes; None for the index's `probes`.
        """
        queries, k = self._ready(queries), checked_k(k)
        if probes is None:
            probes = self.probes
        elif probes != "auto" and (not isinstance(probes, int | np.integer) or isinstance(probes, bool) or probes < 1):
            raise BadInput(f"probes must be a positive integer or 'auto', got {probes!r}")
        held = self._held
        allowed = checked_mask(allow, held.rows)
        predicate = Predicate(self.columns, where)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for i, query in enumerate(queries):
            one = Search(self, held, query, k, predicate, NOBODY if allowed is None else allowed)
            found = one.run(self._wanted(k, 1, 1) if probes == "auto" else int(probes), probes == "auto")
            scores[i], ids[i] = found.scores[0], found.ids[0]
            self.reads.queries += 1
        return Neighbours(scores, ids)

    def calibrate(self, queries: np.ndarray, *, recall: float = 0.95, depth: int = 1000) -> dict[int, int]:
        """Measure how many lists hold a share `recall` of the nearest rows; `probes="auto"` goes by it from then on.

        Every row is read once. Some hundred queries like those to come will do.

        Args:
            queries: [q, dim].
            recall: share of the nearest rows, on average over queries.
            depth: how many nearest rows are looked at, at most.

        Returns:
            For 10, 30, 100 … nearest rows, how many lists.
        """
        queries = self._ready(queries)
        if not isinstance(recall, int | float) or not 0 < recall <= 1:
            raise BadInput(f"recall must lie in (0, 1], got {recall!r}")
        depth = min(checked_k(depth), len(self))
        if not depth or not len(queries):
            raise BadInput(f"calibration needs rows and queries, got {len(self)} and {len(queries)}")
        ranks = np.argsort(np.argsort(-self._nearness(queries, self._centroids), axis=1, kind="stable"), axis=1)
        best, lists, seen = TopK(len(queries), depth), [], 0
        for part in self._parts:
            for block, number in enumerate(part.lists.tolist()):
                group = part.group(block, always=self.checks == "always")
                group = group.some(self._alive(group.ids))
                if len(group.ids):
                    best.offer(score(queries, group.codes, scales=group.scales if len(group.scales) else None,
                                     metric=self.metric), seen)  # fmt: skip
                    lists.append(np.full(len(group.ids), number))
                    seen += len(group.ids)
        found = best.result().ids
        places = np.take_along_axis(ranks, np.concatenate(lists)[found], axis=1)
        depths = []
        for d in sorted({min(depth, base * 10**power) for power in range(1, 10) for base in (1, 3)}):
            flat = np.sort(places[:, :d].ravel())
            depths.append([d, int(flat[int(np.ceil(recall * len(flat))) - 1]) + 1])
        with self._writing():
            self._commit(depths=depths)
        return dict(depths)

    def _wanted(self, k: int, kept: int, tested: int) -> int:
        """Lists that hold enough of the k nearest rows that pass, if `kept` of the `tested` passed."""
        if not self._depths or not kept:
            return self.probes
        deep, lists = np.log(np.array(self._depths, dtype=np.float64)).T
        at = np.log(k * tested / kept)
        if at > deep[-1] and len(deep) > 1:  # along the last slope
            more = lists[-1] + (at - deep[-1]) * (lists[-1] - lists[-2]) / max(deep[-1] - deep[-2], 1e-9)
        else:
            more = float(np.interp(at, deep, lists))
        return int(min(np.ceil(np.exp(min(more, 40.0)) - 1e-9), len(self._centroids)))

    def _nearness(self, queries: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        """How near each query is to each centroid, as lists are ranked by: float32 [q, lists]."""
        return score(queries, centroids, metric="dot" if self.metric == "dot" else "l2")

    def _unit(self, rows: np.ndarray) -> np.ndarray:
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)

    def _ready(self, queries: Any) -> np.ndarray:
        return self._unit(checked_rows(queries, self.dim, what="query"))

    def _buffer(self, name: str, pages: int) -> np.ndarray:
        """A thread's own memory of at least so many pages."""
        held = getattr(self._own, name, None)
        if held is None or len(held) < pages * SIZE:
            held = np.empty(pages * SIZE + SIZE, dtype=np.uint8)
            held = held[-held.ctypes.data % SIZE :][: pages * SIZE]
            setattr(self._own, name, held)
        return held

    def drop_cache(self) -> None:
        """Have the system forget what it holds of the files, so that the next reads are the disk's (for measuring)."""
        for part in self._parts:
            part.drop_cache()
