"""Approximate nearness of sparse rows, by posting lists in blocks of which a summary tells whether to read them.

Bruch, Nardini, Rulli & Venturini 2024, "Efficient Inverted Indexes for Approximate Retrieval over Learned Sparse
Representations" (SIGIR); the graph: Bruch, Nardini, Rulli & Venturini 2024, "Pairing Clustered Inverted Indexes with
κ-NN Graphs for Fast Approximate Retrieval over Learned Sparse Representations" (CIKM); parameters at scale: Bruch,
Nardini, Rulli, Venturini & Venuta 2025, "Investigating the Scalability of Approximate Sparse Retrieval Algorithms to
Massive Datasets" (ECIR).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.flat import checked_k, checked_mask
from inlay.indexes.seismic_file import read, write
from inlay.indexes.seismic_segment import Pruning, Segment
from inlay.kernels.seismic import ranked, sound
from inlay.types import Neighbours, Sparse

__all__ = ["Seismic", "Work"]

VALUES = ("float16", "float32")
LARGEST = {"float16": 65_504.0, "float32": float(np.finfo(np.float32).max)}
LONGEST = 65_535 * 8  # numbers of a row: a posting has 16 bits for its slots
CUTS = (2, 3, 4, 5, 6, 8, 10, 14, 20, 30)
HEAP_FACTORS = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)
ALL = 1 << 62  # lists
INFINITY = float("inf")
GROWTH = 1.25  # of the rows, beyond which a calibration is of another index


class Work(NamedTuple):
    """What a query read, on average."""

    scored: float  # rows scored exactly
    entries: float  # entries of summaries
    blocks: float  # blocks entered


class Seismic:
    """Approximate index of sparse rows without negative weights, such as those of learned sparse encoders.

    Each column's list keeps its largest weights, in blocks of rows that are alike. A block has a summary: the largest
    weight of each column over its rows, the small ones left out. A query reads the lists of its largest weights, skips
    blocks whose summary says that nothing in them gets among the best, and scores the rows of the others exactly. Below
    some hundred thousand rows, the exact `Inverted` is as fast.

    Rows that are added become a segment of their own at the next search, with lists pruned by their own number of
    rows; many small segments are slower than one, which `compact` makes of them.

    Args:
        n_postings: how long lists are: on average (`global`) or at most (`fixed`). The paper takes 3,500 to 4,000 for
            nine million rows, and ten times as many for 138 million. None for 0.5 % of a segment's rows, at least 160.
        pruning: `global`, one threshold for all lists; `fixed`, the same length for each; or `mass`, the head of each
            list that holds `mass` of its sum.
        max_fraction: of `n_postings`, the most that one list keeps (`global`, `mass`).
        mass: see `pruning`.
        centroid_fraction: blocks a posting, before small ones are dissolved.
        min_cluster_size: blocks of at most as many rows are dissolved.
        summary_energy: share of its sum that a summary keeps; with 1 it bounds what a row can score, but for the
            rounding of its weights to 8 bits.
        doc_cut: weights of a row, its largest, by which it finds its block.
        knn: neighbours of each row in a graph that is tried last; 0 for none. With 20, lists may be half as long.
        values: `float16` or `float32`, how weights are kept.
        seed: of the draw of centroids.
        threads: to build with.
    """

    def __init__(
        self,
        *,
        n_postings: int | None = None,
        pruning: Pruning = "global",
        max_fraction: float = 1.5,
        mass: float = 0.9,
        centroid_fraction: float = 0.1,
        min_cluster_size: int = 2,
        summary_energy: float = 0.4,
        doc_cut: int = 15,
        knn: int = 0,
        values: str = "float16",
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        if pruning not in get_args(Pruning):
            raise BadInput(f"pruning must be one of {', '.join(get_args(Pruning))}, got {pruning!r}")
        if values not in VALUES:
            raise BadInput(f"values must be one of {', '.join(VALUES)}, got {values!r}")
        self.settings: dict[str, Any] = {
            "n_postings": None if n_postings is None else _integer("n_postings", n_postings, 1),
            "pruning": pruning,
            "max_fraction": _number("max_fraction", max_fraction, 1.0, float("inf")),
            "mass": _number("mass", mass, 0.0, 1.0),
            "centroid_fraction": _number("centroid_fraction", centroid_fraction, 0.0, 1.0),
            "min_cluster_size": _integer("min_cluster_size", min_cluster_size, 0),
            "summary_energy": _number("summary_energy", summary_energy, 0.0, 1.0),
            "doc_cut": _integer("doc_cut", doc_cut, 1),
            "knn": _integer("knn", knn, 0),
            "values": values,
            "seed": _integer("seed", seed, 0),
        }
        self.threads = _integer("threads", threads, 1)
        self.calibration: list[dict[str, float]] = []
        self._calibrated_rows = 0
        self._segments: list[Segment] = []
        self._pending: list[Sparse] = []
        self._lock = threading.Lock()

    @classmethod
    def over(cls, segments: list[Segment]) -> Seismic:
        """An index over segments that exist already, memory-mapped ones too."""
        index = cls()
        index._segments = list(segments)
        return index

    def __len__(self) -> int:
        return sum(map(len, self._segments)) + sum(map(len, self._pending))

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Seismic({said}) of {len(self)} rows"

    @property
    def segments(self) -> list[Segment]:
        """Segments of all rows added so far."""
        with self._lock:
            if self._pending:
                self._segments = [*self._segments, self._built(self._pending)]
                self._pending = []
            return self._segments

    @property
    def nbytes(self) -> int:
        """Bytes of the index."""
        return sum(self.nbytes_of_parts.values())

    @property
    def nbytes_of_parts(self) -> dict[str, int]:
        """Bytes of `summaries`, `postings`, `forward` (the rows) and `graph`."""
        total = {"summaries": 0, "postings": 0, "forward": 0, "graph": 0}
        for segment in self.segments:
            for name, size in segment.nbytes.items():
                total[name] += size
        return total

    def add(self, vectors: Any) -> None:
        """Append rows: a `Sparse` or any scipy sparse array, of any width; they are blocked by the next search."""
        largest = LARGEST[self.settings["values"]]
        rows = _checked(vectors, "row", largest)
        lengths = np.diff(rows.indptr)
        if len(lengths) and lengths.max() > LONGEST:
            raise BadInput(f"row {lengths.argmax()} has {lengths.max()} non-zeros; a row may have {LONGEST}")
        with self._lock:
            self._pending.append(rows)

    def compact(self) -> None:
        """Make one segment of all rows, as if they had been added at once."""
        segments = self.segments
        if len(segments) > 1:
            built = self._built([segment.rows() for segment in segments])
            with self._lock:
                self._segments = [built]

    def search(
        self,
        queries: Any,
        k: int,
        *,
        allow: np.ndarray | None = None,
        query_cut: int | None = 8,
        heap_factor: float = 0.8,
        n_knn: int | None = None,
        first_sorted: bool = True,
        recall: float | None = None,
    ) -> Neighbours:
        """The k rows of highest dot product with each query that are met; equal scores go to the lower id.

        Args:
            queries: sparse rows without negative weights.
            k: how many; where fewer rows are met, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be found.
            query_cut: lists to read, those of the query's largest weights; None for all. Scores are always those of
                the whole query.
            heap_factor: a block is skipped if its summary comes to less than this times the score of the worst of
                the k best so far. 1 trusts summaries, 0.7 is careful, 0 skips nothing. (The paper's text divides by
                it; the authors' code multiplies, as here.)
            n_knn: neighbours of each of the k best to try; None for all that the graph has.
            first_sorted: read the first list's blocks in descending order of their summaries.
            recall: take the cheapest `query_cut` and `heap_factor` that reached this share of the true best when the
                index was calibrated (see `calibrate`), instead of those given.
        """
        if recall is not None:
            query_cut, heap_factor = self._setting(recall)
        return self._found(queries, k, allow, query_cut, heap_factor, n_knn, first_sorted)[0]

    def work(self, queries: Any, k: int, **settings: Any) -> Work:
        """What `search` with the same arguments reads, a query on average."""
        given = {"allow": None, "query_cut": 8, "heap_factor": 0.8, "n_knn": None, "first_sorted": True}
        unknown = set(settings) - set(given)
        if unknown:
            raise BadInput(f"work takes {', '.join(given)}, not {', '.join(sorted(unknown))}")
        found, work = self._found(queries, k, **{**given, **settings})
        return Work(*(work / max(1, len(found.ids))).tolist())

    def exact(self, queries: Any, k: int) -> Neighbours:
        """The true k best of the rows as they are kept, by reading all of them: what recall is measured against."""
        queries, k = _checked(queries, "query", LARGEST["float32"]), checked_k(k)
        best, sizes, base = self._room(len(queries), k)
        segments = self.segments
        for segment in segments:
            segment.scan(base, queries, best, sizes)
            base += segment.slots
        return self._neighbours(best, k, segments)

    def calibrate(self, queries: Any, k: int = 10) -> list[dict[str, float]]:
        """Measure settings on queries like those to come, so that `search(recall=…)` can choose.

        The table is kept with the index, and saved. Its cost counts numbers read, so it does not depend on what else
        the machine is doing.

        Args:
            queries: sparse rows; a hundred or more.
            k: how many neighbours recall is taken over.

        Returns:
            The settings that no other beats: {query_cut, heap_factor, recall, cost, scored}, cheapest first.
        """
        truth = self.exact(queries, k).ids
        if not (truth >= 0).any():
            raise BadInput("none of the queries has anything in common with a row; give queries like those to come")
        width = sum(segment.slots for segment in self.segments) * 8 / max(1, len(self))
        tried = []
        for cut in CUTS:
            for factor in HEAP_FACTORS:
                found, work = self._found(queries, k, None, cut, factor, None, True)
                hits = sum(np.isin(t[t >= 0], f).sum() for t, f in zip(truth, found.ids))
                scored, entries = (work[:2] / len(truth)).tolist()
                tried.append({
                    "query_cut": cut, "heap_factor": factor, "recall": float(hits / (truth >= 0).sum()),
                    "cost": scored * width + entries, "scored": scored,
                })  # fmt: skip
        tried.sort(key=lambda setting: (setting["cost"], -setting["recall"]))
        front: list[dict[str, float]] = []
        for setting in tried:
            if not front or setting["recall"] > front[-1]["recall"]:
                front.append(setting)
        self.calibration, self._calibrated_rows = front, len(self)
        return front

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file."""
        facts = {"settings": self.settings, "calibration": self.calibration, "calibrated_rows": self._calibrated_rows}
        write(Path(path), self.segments, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True, threads: int = 1) -> Seismic:
        """Map what `save` wrote into memory: its bytes are read from the file as searches touch them.

        Args:
            path: of the file.
            verify: read through it once and compare checksums. False is for files that something else vouches for: a
                damaged one may then give wrong answers, or end the process.
            threads: to build further segments with.
        """
        segments, facts = read(Path(path), verify=verify)
        index = cls(**facts["settings"], threads=threads)
        index._segments = segments
        index.calibration, index._calibrated_rows = facts["calibration"], facts["calibrated_rows"]
        return index

    def _built(self, parts: list[Sparse]) -> Segment:
        lengths = np.concatenate([np.diff(part.indptr) for part in parts])
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        indices = np.concatenate([part.indices for part in parts])
        data = np.concatenate([part.data for part in parts])
        rows = Sparse(indptr, indices, data, (len(lengths), max(part.shape[1] for part in parts)))
        settings = dict(self.settings)
        if settings["n_postings"] is None:
            settings["n_postings"] = max(160, len(rows) // 200)
        return Segment.build(rows, **settings, threads=self.threads)

    def _found(
        self, queries: Any, k: int, allow: Any, query_cut: int | None, heap_factor: float, n_knn: int | None,
        first_sorted: bool,
    ) -> tuple[Neighbours, np.ndarray]:  # fmt: skip
        queries, k = Sparse.of(queries), k if type(k) is int and k > 0 else checked_k(k)
        cut = ALL if query_cut is None else _integer("query_cut", query_cut, 1)
        heap_factor = _number("heap_factor", heap_factor, 0.0, INFINITY)
        n_knn = self.settings["knn"] if n_knn is None else _integer("n_knn", n_knn, 0)
        segments, work = self.segments, np.zeros(3, dtype=np.int64)
        if len(segments) == 1 and allow is None:
            segment = segments[0]
            found = segment.answer(queries, k, LARGEST["float32"], cut, heap_factor, bool(first_sorted), n_knn, work)
            if found is not None:
                return found, work
        queries = _checked(queries, "query", LARGEST["float32"])
        allow = None if allow is None else checked_mask(allow, len(self))
        best, sizes, base = self._room(len(queries), k)
        first = 0
        for segment in segments:
            its = None if allow is None else allow[first : first + len(segment)]
            segment.search(
                base, queries, query_cut=cut, heap_factor=heap_factor, first_sorted=bool(first_sorted), n_knn=n_knn,
                allow=its, best=best, sizes=sizes, work=work,
            )  # fmt: skip
            base += segment.slots
            first += len(segment)
        return self._neighbours(best, k, segments), work

    def _room(self, queries: int, k: int) -> tuple[np.ndarray, np.ndarray, int]:
        """(heaps uint64 [queries, at most k], their sizes int64, first slot)."""
        return np.zeros((queries, min(k, max(1, len(self)))), np.uint64), np.zeros(queries, np.int64), 0

    def _neighbours(self, best: np.ndarray, k: int, segments: list[Segment]) -> Neighbours:
        """What heaps hold, best first."""
        best.sort(axis=1)
        scores, ids = np.empty((len(best), k), dtype=np.float32), np.empty((len(best), k), dtype=np.int64)
        base, first = 0, 0
        if not segments:
            scores[:], ids[:] = -np.inf, -1
        for segment in segments:
            ranked(best, segment.arrays.starts, base, first, scores, ids)
            base += segment.slots
            first += len(segment)
        return Neighbours(scores, ids)

    def _setting(self, recall: float) -> tuple[int, float]:
        recall = _number("recall", recall, 0.0, 1.0)
        if not self.calibration:
            raise BadInput(f"recall={recall:g} needs a calibration; call calibrate(queries) once, with real queries")
        if len(self) > GROWTH * self._calibrated_rows:
            raise BadInput(
                f"the index was calibrated with {self._calibrated_rows} rows and has {len(self)}; calibrate it again"
            )
        for setting in self.calibration:
            if setting["recall"] >= recall:
                return int(setting["query_cut"]), setting["heap_factor"]
        raise BadInput(
            f"no calibrated setting reached recall {recall:g}, the best {self.calibration[-1]['recall']:.4f}; build "
            "with a larger n_postings or with knn, or give query_cut=None, heap_factor=0"
        )


def _checked(vectors: Any, what: str, largest: float, needs: str = "Seismic's summaries hold") -> Sparse:
    """Sparse rows with ascending columns and weights of 0 to `largest`, or an error that names the first offender."""
    rows = Sparse.of(vectors)
    data, indices, indptr = rows.data, rows.indices, rows.indptr
    if sound(indptr, indices, data, largest):
        return rows

    def row(bad: np.ndarray) -> int:
        return int(np.searchsorted(indptr, np.flatnonzero(bad)[0], side="right")) - 1

    if not (data.min() >= 0 and data.max() <= largest):
        bad = ~np.isfinite(data)
        if bad.any():
            raise BadInput(f"{what} {row(bad)} holds NaN or infinity; sparse rows must be finite")
        bad = data < 0
        if bad.any():
            raise BadInput(
                f"{what} {row(bad)} has the negative weight {data[bad][0]:g}; {needs} for weights of 0 and more only. "
                "Use Inverted"
            )
        bad = data > largest
        raise BadInput(
            f"{what} {row(bad)} has the weight {data[bad][0]:g}; float16 ends at 65504, use values='float32'"
        )
    if indices.dtype.kind not in "iu":
        raise BadInput(f"columns must be integers, got {indices.dtype}")
    if indices.min() < 0:
        raise BadInput(f"columns must not be negative, got {indices.min()}")
    descends = np.append(indices[1:] <= indices[:-1], False)
    descends[indptr[1:-1][indptr[1:-1] > 0] - 1] = False  # between two rows nothing is asked
    raise BadInput(f"columns of {what} {row(descends)} do not ascend; sort them and sum duplicates first")


def _integer(name: str, value: Any, least: int) -> int:
    if type(value) is int and value >= least:  # as it mostly is, at a fifth of the time: a query is not long
        return value
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise BadInput(f"{name} must be an integer of {least} or more, got {value!r}")
    return int(value)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if type(value) is float and low <= value <= high:
        return value
    if not isinstance(value, int | float | np.floating | np.integer) or isinstance(value, bool):
        raise BadInput(f"{name} must be a number, got {value!r}")
    if not low <= value <= high:
        raise BadInput(f"{name} must be {low:g} to {high:g}, got {value!r}")
    return float(value)
