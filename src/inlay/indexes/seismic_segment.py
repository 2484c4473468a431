"""A segment of a `Seismic` index: rows that were blocked together, and never change after."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from inlay.kernels import postings as columns_of
from inlay.kernels import seismic as kernel
from inlay.kernels.seismic import LANES, Arrays, Bound
from inlay.kernels.seismic_blocks import Blocks, block, heads
from inlay.kernels.seismic_components import coded
from inlay.types import Neighbours, Sparse

__all__ = ["Pruning", "Segment", "kept"]

Pruning: TypeAlias = Literal["global", "fixed", "mass"]

ROWS_AT_ONCE = 1 << 16
POSTINGS_AT_ONCE = 1 << 18  # a share of the work of a build
FEW_COLUMNS = 1 << 26  # numbers of columns up to which they are counted in a table
NARROW = 256  # blocks of a list up to which an entry names its block in one byte
GRAPH_CUT, GRAPH_HEAP_FACTOR = 10, 0.7


class Segment:
    """Rows, their blocks and summaries.

    Args:
        arrays: see `inlay.kernels.seismic.Arrays`; made read-only.
        dims: int64 [columns] ascending, the dimension that each column stands for.
    """

    def __init__(self, arrays: Arrays, dims: np.ndarray) -> None:
        self.arrays = Arrays(*(_plain(array) for array in arrays))
        self.dims = _plain(dims)
        self._spare: list[Bound] = []

    def __len__(self) -> int:
        return len(self.arrays.starts) - 1

    @property
    def slots(self) -> int:
        """Of eight numbers each."""
        return len(self.arrays.ids)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of each part."""
        a = self.arrays
        parts = {
            "summaries": (
                a.scales,
                a.groups,
                a.bases,
                a.firsts,
                a.codes,
                a.entries,
                a.entry_blocks,
                a.entry_codes,
                a.highs,
                a.entry_highs,
            ),
            "postings": (a.lists, a.blocks, a.postings),
            "forward": (a.starts, a.ids, a.numbers, self.dims),
            "graph": (a.graph,),
        }
        return {name: sum(array.nbytes for array in arrays) for name, arrays in parts.items()}

    @classmethod
    def build(
        cls, rows: Sparse, *, n_postings: int, pruning: Pruning, max_fraction: float, mass: float,
        centroid_fraction: float, min_cluster_size: int, summary_energy: float, doc_cut: int, knn: int, values: str,
        seed: int, threads: int,
    ) -> Segment:  # fmt: skip
        """Prune, block and summarise rows that were checked before; the arguments are those of `Seismic`."""
        rows = _rounded(rows, values)
        dims, columns = _numbered(rows.indices)
        starts, ids, numbers = _forward(rows.indptr, columns, rows.data, len(dims), values)
        lists, members, weights = columns_of.transpose(rows.indptr, columns, rows.data, len(dims))
        keep = kept(lists, weights, n_postings=n_postings, pruning=pruning, max_fraction=max_fraction, mass=mass)
        del weights
        members = members[keep]
        lists = np.concatenate([[0], np.cumsum(keep)])[lists]
        full = rows.indptr, columns, rows.data
        largest = heads(*full, doc_cut)

        def blocked(share: tuple[int, int]) -> _Part:
            made = block(
                *share, (lists, members), full, largest, centroid_fraction=centroid_fraction,
                min_cluster_size=min_cluster_size, summary_energy=summary_energy, seed=seed,
            )  # fmt: skip
            return _Part.of(made)

        if threads == 1:
            parts = list(map(blocked, _shares(lists)))
        else:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(blocked, _shares(lists)))
        segment = cls(_assembled(parts, starts, ids, numbers), dims)
        if knn and len(segment):
            segment = cls(segment.arrays._replace(graph=segment._neighbours(knn, rows)), dims)
        return segment

    def rows(self) -> Sparse:
        """The rows as they are kept, with the dimensions they came with."""
        lengths = np.diff(self.arrays.starts).astype(np.int64)
        held = self.arrays.numbers.astype(np.float32).reshape(-1)
        full = held > 0
        row = np.repeat(np.repeat(np.arange(len(self)), lengths), LANES)[full]
        indptr = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=len(self)), out=indptr[1:])
        indices = self.dims[self.arrays.ids.reshape(-1)[full]] if len(self.dims) else np.empty(0, np.int64)
        width = int(self.dims[-1]) + 1 if len(self.dims) else 0
        return Sparse(indptr, indices, held[full], (len(self), width))

    def search(
        self, base: int, queries: Sparse, *, query_cut: int, heap_factor: float, first_sorted: bool, n_knn: int,
        allow: np.ndarray | None, best: np.ndarray, sizes: np.ndarray, work: np.ndarray,
    ) -> None:  # fmt: skip
        """Offer the rows to the best of each query; see `inlay.kernels.seismic.search`. `allow` is bool [rows]."""
        allowed = None
        if allow is not None:
            allowed = np.zeros(self.slots, dtype=np.bool_)
            some = allow & (self.arrays.starts[1:] > self.arrays.starts[:-1])
            allowed[self.arrays.starts[:-1][some]] = True
        bound = self._bound()
        kernel.search(
            bound, base, queries.indptr, queries.indices, queries.data,
            query_cut=query_cut, heap_factor=heap_factor, first_sorted=first_sorted,
            n_knn=min(n_knn, self.arrays.graph.shape[1]), allowed=allowed, best=best, sizes=sizes, work=work,
        )  # fmt: skip
        self._spare.append(bound)

    def answer(
        self, queries: Sparse, k: int, largest: float, query_cut: int, heap_factor: float, first_sorted: bool,
        n_knn: int, work: np.ndarray,
    ) -> Neighbours | None:  # fmt: skip
        """Search as the only segment; see `inlay.kernels.seismic.answer`."""
        bound = self._bound()
        found = kernel.answer(bound, queries, k, largest, query_cut, heap_factor, first_sorted, n_knn, work)
        self._spare.append(bound)
        return found

    def scan(self, base: int, queries: Sparse, best: np.ndarray, sizes: np.ndarray) -> None:
        """The same by reading every row: exact."""
        bound = self._bound()
        kernel.scan(bound, base, queries.indptr, queries.indices, queries.data, best=best, sizes=sizes)
        self._spare.append(bound)

    def _bound(self) -> Bound:
        """The arrays with scratch that no other search is using."""
        while self._spare:
            try:
                bound = self._spare.pop()
            except IndexError:  # another thread's by now
                break
            if bound.arrays is self.arrays:
                return bound
        return Bound.of(self.arrays, self.dims)

    def _neighbours(self, knn: int, rows: Sparse) -> np.ndarray:
        """The graph: of each row the `knn` that a search for it finds, uint32 [rows, knn]."""
        n = len(self)
        graph = np.full((n, knn), n, dtype=np.uint32)
        for low in range(0, n, ROWS_AT_ONCE):
            some = rows[low : low + ROWS_AT_ONCE]
            best = np.zeros((len(some), knn + 1), dtype=np.uint64)
            self.search(
                0, some, query_cut=GRAPH_CUT, heap_factor=GRAPH_HEAP_FACTOR, first_sorted=True, n_knn=0, allow=None,
                best=best, sizes=np.zeros(len(some), dtype=np.int64), work=np.zeros(3, dtype=np.int64),
            )  # fmt: skip
            best = np.sort(best, axis=1)[:, ::-1]
            slot = np.uint64(0xFFFFFFFF) - (best & np.uint64(0xFFFFFFFF))
            found = np.searchsorted(self.arrays.starts, slot.astype(np.uint32), side="right") - 1
            other = (best > 0) & (found != np.arange(low, low + len(some))[:, None])
            rank = np.cumsum(other, axis=1) - 1
            row, at = np.nonzero(other & (rank < knn))
            graph[low + row, rank[row, at]] = found[row, at]
        return graph


def kept(
    lists: np.ndarray, weights: np.ndarray, *, n_postings: int, pruning: Pruning, max_fraction: float, mass: float
) -> np.ndarray:
    """Static pruning: which postings stay, bool [postings]; of equal weights the first.

    Args:
        lists: int64 [columns + 1], where each list starts.
        weights: float32 [postings].
        n_postings: of a list: the most of it for `fixed`, on average for `global`.
        pruning: `global` keeps the columns · `n_postings` largest weights of all, and then of each list at most
            `n_postings` · `max_fraction`; `fixed` keeps `n_postings` of each list; `mass` keeps the head of each list
            that holds a share `mass` of its sum, the posting that crosses it included, at most as many as `global`.
        max_fraction: see above.
        mass: see above.
    """
    stay = np.ones(len(weights), dtype=np.bool_)
    most = n_postings if pruning == "fixed" else max(1, int(n_postings * max_fraction))
    budget = (len(lists) - 1) * n_postings
    if pruning == "global" and budget < len(weights):
        stay = _largest(weights, budget)
    counts = np.concatenate([[0], np.cumsum(stay)])[lists]
    over = np.diff(lists) > 1 if pruning == "mass" else np.diff(counts) > most
    for c in np.flatnonzero(over).tolist():
        at = lists[c] + np.flatnonzero(stay[lists[c] : lists[c + 1]])
        n = most
        if pruning == "mass" and mass < 1:
            falling = np.cumsum(np.sort(weights[at])[::-1], dtype=np.float64)
            n = min(n, int(np.searchsorted(falling, mass * falling[-1])) + 1)
        if n < len(at):
            stay[at] = _largest(weights[at], n)
    return stay


def _largest(weights: np.ndarray, n: int) -> np.ndarray:
    """The n largest, bool; of equal ones the first."""
    threshold = np.partition(weights, len(weights) - n)[len(weights) - n]
    stay = weights > threshold
    stay[np.flatnonzero(weights == threshold)[: n - np.count_nonzero(stay)]] = True
    return stay


def _rounded(rows: Sparse, values: str) -> Sparse:
    """Rows as they will be kept, so that summaries bound what is searched; without zeros."""
    data = rows.data.astype(values).astype(np.float32)
    full = data > 0
    if full.all():
        return Sparse(rows.indptr, rows.indices, data, rows.shape)
    indptr = np.concatenate([[0], np.cumsum(full)])[rows.indptr]
    return Sparse(indptr, rows.indices[full], data[full], rows.shape)


def _numbered(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dimensions that occur int64, ascending, and the number among them of each int32)."""
    if not len(indices) or indices.max() >= FEW_COLUMNS:
        dims, columns = np.unique(indices, return_inverse=True)
        return dims.astype(np.int64), columns.astype(np.int32)
    occurs = np.bincount(indices) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - np.int32(1))[indices]


def _forward(
    indptr: np.ndarray, columns: np.ndarray, data: np.ndarray, n_columns: int, values: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts, ids, numbers) of `Arrays`."""
    starts = np.zeros(len(indptr), dtype=np.int64)
    np.cumsum(-(-np.diff(indptr) // LANES), out=starts[1:])
    ids = np.zeros(starts[-1] * LANES, dtype=np.uint16 if n_columns <= 1 << 16 else np.uint32)
    numbers = np.zeros(starts[-1] * LANES, dtype=values)
    for low in range(0, len(indptr) - 1, ROWS_AT_ONCE):
        high = min(low + ROWS_AT_ONCE, len(indptr) - 1)
        span = slice(indptr[low], indptr[high])
        shift = np.repeat(starts[low:high] * LANES - indptr[low:high], np.diff(indptr[low : high + 1]))
        to = np.arange(span.start, span.stop) + shift
        ids[to], numbers[to] = columns[span], data[span]
    return starts.astype(np.uint32), ids.reshape(-1, LANES), numbers.reshape(-1, LANES)


def _shares(lists: np.ndarray) -> Iterator[tuple[int, int]]:
    """Lists in runs of about as many postings."""
    marks = np.arange(POSTINGS_AT_ONCE, lists[-1], POSTINGS_AT_ONCE)
    ends = np.unique(np.concatenate([[0], np.searchsorted(lists, marks), [len(lists) - 1]])).tolist()
    return zip(ends[:-1], ends[1:])


class _Part(NamedTuple):
    """Some lists as they are kept: what `Arrays` has of them, list by list."""

    members: np.ndarray  # int32 [postings], rows
    list_blocks: np.ndarray
    block_sizes: np.ndarray
    scales: np.ndarray
    list_groups: np.ndarray
    bases: np.ndarray
    firsts: np.ndarray
    codes: np.ndarray
    list_entries: np.ndarray
    entry_blocks: np.ndarray
    entry_codes: np.ndarray
    list_highs: np.ndarray
    entry_highs: np.ndarray

    @classmethod
    def of(cls, made: Blocks) -> _Part:
        ends = np.append(0, np.cumsum(made.entry_counts))
        list_entries = np.diff(ends[np.append(0, np.cumsum(made.list_components))])
        wide = made.list_blocks > NARROW
        highs = made.entry_blocks[np.repeat(wide, list_entries)] >> 8 if wide.any() else np.empty(0, np.uint16)
        return cls(
            *made[:4], *coded(made.list_components, made.components, made.entry_counts), list_entries,
            made.entry_blocks.astype(np.uint8), made.entry_codes, np.where(wide, list_entries, 0),
            highs.astype(np.uint8),
        )  # fmt: skip


def _assembled(parts: list[_Part], starts: np.ndarray, ids: np.ndarray, numbers: np.ndarray) -> Arrays:
    """The arrays of a segment without a graph."""

    def joined(name: str, like: Any) -> np.ndarray:
        return np.concatenate([like, *(getattr(part, name) for part in parts)])

    def ends(name: str) -> np.ndarray:
        return np.cumsum(joined(name, np.zeros(1, np.int64)))

    members = joined("members", np.empty(0, np.int32))
    postings = starts[members].astype(np.uint64) << np.uint64(16)
    postings |= (starts[members + 1] - starts[members]).astype(np.uint64)
    return Arrays(
        starts=starts,
        ids=ids,
        numbers=numbers,
        lists=ends("list_blocks"),
        blocks=ends("block_sizes"),
        postings=postings,
        scales=joined("scales", np.empty((0, 2), np.float32)),
        groups=ends("list_groups"),
        bases=joined("bases", np.empty(0, np.int32)).astype(ids.dtype),
        firsts=joined("firsts", np.empty(0, np.uint32)),
        codes=joined("codes", np.empty(0, np.uint8)),
        entries=ends("list_entries"),
        entry_blocks=joined("entry_blocks", np.empty(0, np.uint8)),
        entry_codes=joined("entry_codes", np.empty(0, np.uint8)),
        highs=ends("list_highs"),
        entry_highs=joined("entry_highs", np.empty(0, np.uint8)),
        graph=np.empty((len(starts) - 1, 0), dtype=np.uint32),
    )


def _plain(array: np.ndarray) -> np.ndarray:
    """A read-only view: numba takes read-only arrays, which mapped ones are, for another type."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view
