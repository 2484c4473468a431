"""The search that skips most blocks of posting lists by their summaries: what `Seismic` runs on.

Rows are kept in *slots* of eight numbers, the last one of a row filled up with zeros, so that a dot product is eight
sums side by side, and a row is named by the slot where it starts. Everything adds up in a fixed order in float32, so
that both forms agree bit for bit.

Bruch, Nardini, Rulli & Venturini 2024, "Efficient Inverted Indexes for Approximate Retrieval over Learned Sparse
Representations" (SIGIR).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels import compiled
from inlay.kernels.seismic_components import CODES, plain
from inlay.types import Neighbours, Sparse

__all__ = ["LANES", "Arrays", "Bound", "Scratch", "answer", "ranked", "scan", "search", "sound"]

LANES = 8  # numbers of a slot
STAMPED = 56  # slots of a stamp: what is left of a word is a byte for its epoch


class Arrays(NamedTuple):
    """One segment. A list has blocks, a block has postings; the summaries of a list's blocks are kept transposed.

    A posting is `slot << 16 | slots`: where its row is read, without looking anything up.
    """

    starts: np.ndarray  # uint32 [rows + 1], the first slot of each row
    ids: np.ndarray  # uint16 or uint32 [slots, 8], columns
    numbers: np.ndarray  # float16 or float32 [slots, 8]
    lists: np.ndarray  # int64 [columns + 1], blocks of each list
    blocks: np.ndarray  # int64 [blocks + 1], postings of each block
    postings: np.ndarray  # uint64 [postings]
    scales: np.ndarray  # float32 [blocks, 2]: what a step of the summary's codes is worth, and what code 0 stands for
    groups: np.ndarray  # int64 [columns + 1], groups of each list: see `inlay.kernels.seismic_components`
    bases: np.ndarray  # uint16 or uint32 [groups], from which the columns of a group count
    firsts: np.ndarray  # uint32 [groups], first entry of each, counted from the list's first
    codes: np.ndarray  # uint8 [groups · CODES], the columns that a list's summaries have
    entries: np.ndarray  # int64 [columns + 1], entries of each list
    entry_blocks: np.ndarray  # uint8 [entries], block, counted from the list's first; the lower byte
    entry_codes: np.ndarray  # uint8 [entries]; or float32, where rounding is left out to see what it costs
    highs: np.ndarray  # int64 [columns + 1], upper bytes of each list
    entry_highs: np.ndarray  # uint8, the upper bytes in lists of more than 256 blocks; others have none
    graph: np.ndarray  # uint32 [rows, neighbours]; the number of rows where there is no further one


class Scratch(NamedTuple):
    """What one search at a time writes to. All but `stamps` and `epoch` is as it was when the search ends."""

    stamps: np.ndarray  # uint64 [⌈slots / 56⌉]: a bit for each row met in the epoch of the upper byte
    epoch: np.ndarray  # int64 [1]
    query: np.ndarray  # float32 [columns], zeros
    dots: np.ndarray  # float32 [most blocks of a list]
    order: np.ndarray  # uint64 [most blocks of a list]

    @classmethod
    def of(cls, arrays: Arrays) -> Scratch:
        """Scratch for a segment."""
        most = int(np.diff(arrays.lists).max(initial=0))
        return cls(
            np.zeros(len(arrays.ids) // STAMPED + 1, np.uint64), np.zeros(1, np.int64),
            np.zeros(len(arrays.lists) - 1, np.float32), np.zeros(most, np.float32), np.zeros(most, np.uint64),
        )  # fmt: skip


class Bound(NamedTuple):
    """A segment's arrays with scratch of their own, and what compiled code takes of them at each call.

    It takes addresses, so what `table` names lives as long as the others here do.
    """

    arrays: Arrays
    scratch: Scratch
    dims: np.ndarray  # int64 [columns] ascending, the dimension that each column stands for
    table: np.ndarray  # int64 [arrays, 2], address and numbers of each
    ids: np.ndarray  # those of `arrays`: of these three the types differ from segment to segment
    numbers: np.ndarray  # half precision as its bits, for numba has no such type
    entry_codes: np.ndarray

    @classmethod
    def of(cls, arrays: Arrays, dims: np.ndarray) -> Bound:
        """Bind arrays, which have to be contiguous and of the types that `Arrays` says."""
        for name, array, types in zip((*Arrays._fields, "dims"), (*arrays, dims), _TYPES):
            if array.dtype.str[1:] not in types.split() or not array.flags.c_contiguous:
                raise BadInput(f"{name} of a segment must be contiguous {types}, got {array.dtype}; build it again")
        if arrays.bases.dtype != arrays.ids.dtype:
            raise BadInput(f"bases of a segment must be {arrays.ids.dtype} as its ids, got {arrays.bases.dtype}")
        scratch, numbers = Scratch.of(arrays), arrays.numbers
        table = np.array([(array.ctypes.data, array.size) for array in (*arrays, *scratch, dims)], dtype=np.int64)
        if numbers.dtype == np.float16:
            numbers = numbers.view(np.uint16)
        return cls(arrays, scratch, dims, table, arrays.ids, numbers, arrays.entry_codes)


_TYPES = (
    "u4", "u2 u4", "f2 f4", "i8", "i8", "u8", "f4", "i8", "u2 u4", "u4", "u1", "i8", "u1", "u1 f4", "i8", "u1", "u4",
    "i8",
)  # fmt: skip


def search(
    bound: Bound,
    base: int,
    offsets: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    *,
    query_cut: int,
    heap_factor: float,
    first_sorted: bool,
    n_knn: int,
    allowed: np.ndarray | None,
    best: np.ndarray,
    sizes: np.ndarray,
    work: np.ndarray,
) -> None:
    """Offer a segment's rows to the best of each query.

    Args:
        bound: the segment; one search at a time.
        base: number of its first slot among the slots of all segments.
        offsets: int64 [queries + 1].
        indices: integers [terms], dimensions, ascending in a query.
        weights: float32 [terms], not negative.
        query_cut: lists to read, those of the largest weights.
        heap_factor: a block whose summary comes to less than this times the worst of the k best is skipped.
        first_sorted: read the first list's blocks in descending order of their summaries.
        n_knn: neighbours in the graph to try, of each of the k best.
        allowed: bool [slots], true where a row that may be found starts; None for all.
        best: uint64 [queries, k], the best so far as a heap: score, then the lower slot. Updated.
        sizes: int64 [queries], how many of them there are. Updated.
        work: int64 [3], to which rows scored, summary entries read and blocks entered are added.
    """
    if _fast((len(offsets) - 1) * 200_000):
        _searching()(
            *bound[3:], base, offsets, indices, weights, -1.0, query_cut, heap_factor, first_sorted, n_knn,
            _EVERY if allowed is None else allowed, best, sizes, work, _NO_SCORES, _NO_ROWS,
        )  # fmt: skip
        return
    arrays, scratch = bound.arrays, bound.scratch
    columns = _columns(indices, bound.dims)
    for q in range(len(offsets) - 1):
        span = slice(offsets[q], offsets[q + 1])
        known = (columns[span] >= 0) & (weights[span] > 0)
        heap = best[q, : sizes[q]].tolist()
        _search_plain(
            arrays, base, columns[span][known], weights[span][known], query_cut, np.float32(heap_factor), first_sorted,
            n_knn, allowed, scratch, heap, best.shape[1], work,
        )  # fmt: skip
        sizes[q] = len(heap)
        best[q, : len(heap)] = heap


_EVERY = np.zeros(0, dtype=np.bool_)
_NO_BEST, _NO_SIZES = np.zeros((0, 0), dtype=np.uint64), np.zeros(0, dtype=np.int64)
_NO_SCORES, _NO_ROWS = np.zeros((0, 0), dtype=np.float32), np.zeros((0, 0), dtype=np.int64)
_FLOAT, _LONG = np.dtype(np.float32), np.dtype(np.int64)
_done = 0  # work so far in this process: queries come one a call


def _fast(work: int) -> bool:
    global _done
    _done += work
    return compiled(_done)


def scan(
    bound: Bound,
    base: int,
    offsets: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    *,
    best: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """The same by reading every row: exact."""
    arrays, scratch = bound.arrays, bound.scratch
    if compiled((len(offsets) - 1) * arrays.ids.size):
        from inlay.kernels.seismic_numba import scan_compiled

        scan_compiled(*bound[3:], base, offsets, indices, weights, best, sizes)
        return
    columns = _columns(indices, bound.dims)
    every = np.flatnonzero(np.diff(arrays.starts))
    for q in range(len(offsets) - 1):
        span = slice(offsets[q], offsets[q + 1])
        known = columns[span] >= 0
        scratch.query[columns[span][known]] = weights[span][known]
        heap = best[q, : sizes[q]].tolist()
        for row in every:
            slot, stop = int(arrays.starts[row]), int(arrays.starts[row + 1])
            _offer(heap, best.shape[1], _dot(arrays, scratch.query, slot, stop - slot), base + slot)
        sizes[q] = len(heap)
        best[q, : len(heap)] = heap
        scratch.query[columns[span][known]] = 0


def sound(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, largest: float) -> bool:
    """Whether weights are from 0 to `largest` and columns not negative and ascending in each row."""
    if _usual(indptr, indices, data) and compiled(len(data)):
        from inlay.kernels.seismic_numba import sound_compiled

        return sound_compiled(indptr, indices, data, largest)
    if not len(data):
        return True
    if not (data.min() >= 0 and data.max() <= largest):  # neither holds with NaN
        return False
    if indices.dtype.kind not in "iu" or indices.min() < 0:
        return False
    ascends = indices[1:] > indices[:-1]
    starts = indptr[1:-1]
    ascends[starts[(starts > 0) & (starts < len(indices))] - 1] = True  # between two rows nothing is asked
    return bool(ascends.all())


def answer(
    bound: Bound, queries: Sparse, k: int, largest: float, query_cut: int, heap_factor: float, first_sorted: bool,
    n_knn: int, work: np.ndarray,
) -> Neighbours | None:  # fmt: skip
    """`sound`, `search` and `ranked` for an index of one segment, in one call where that can be; else None.

    A query's own work is some ten microseconds, and between two of them Python's code has left the caches: what it
    does counts more than what it computes.
    """
    indptr, indices, data = queries.indptr, queries.indices, queries.data
    if not _usual(indptr, indices, data) or not compiled(_done):
        return None
    shape = len(indptr) - 1, k
    scores, ids = np.empty(shape, _FLOAT), np.empty(shape, _LONG)
    if _searching()(
        *bound[3:], 0, indptr, indices, data, largest, query_cut, heap_factor, first_sorted, n_knn, _EVERY, _NO_BEST,
        _NO_SIZES, work, scores, ids,
    ):  # fmt: skip
        return Neighbours(scores, ids)
    return None


@cache
def _searching() -> Callable[..., bool]:
    """What is imported once: the statement alone takes half a microsecond."""
    from inlay.kernels.seismic_search_numba import search_compiled

    return search_compiled  # type: ignore[no-any-return]


def _usual(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> bool:
    """Whether these are of types that the compiled forms are compiled for already."""
    return data.dtype == _FLOAT and indices.dtype.kind == "i" and indptr.dtype == _LONG


def ranked(best: np.ndarray, starts: np.ndarray, base: int, first: int, scores: np.ndarray, ids: np.ndarray) -> None:
    """Write the rows of one segment to their places among the best; that of the first, all other places too.

    Args:
        best: uint64 [queries, at most k], keys as `search` leaves them, ascending in each row.
        starts: uint32 [rows + 1], of the segment's rows.
        base: number of its first slot.
        first: id of its first row.
        scores: float32 [queries, k], best first. Updated.
        ids: int64 [queries, k]. Updated. What is not found is -1, with score -inf.
    """
    if compiled(20 * best.size):
        from inlay.kernels.seismic_numba import ranked_compiled

        ranked_compiled(best, starts, base, first, scores, ids)
        return
    if not first:
        scores[:], ids[:] = -np.inf, -1
    found = best[:, ::-1]
    slots = 0xFFFFFFFF - (found & np.uint64(0xFFFFFFFF)).astype(np.int64) - base
    query, place = np.nonzero((found > 0) & (slots >= 0) & (slots < int(starts[-1])))
    at = slots[query, place].astype(np.uint32)
    ids[query, place] = np.searchsorted(starts, at, side="right") + (first - 1)
    scores[query, place] = (found[query, place] >> np.uint64(32)).astype(np.uint32).view(np.float32)


def _columns(indices: np.ndarray, dims: np.ndarray) -> np.ndarray:
    """Column of each dimension, int64; -1 where there is none."""
    if not len(dims):
        return np.full(len(indices), -1, dtype=np.int64)
    local = np.minimum(np.searchsorted(dims, indices), len(dims) - 1)
    return np.where(dims[local] == indices, local, -1)


def _search_plain(
    arrays: Arrays,
    base: int,
    columns: np.ndarray,
    weights: np.ndarray,
    query_cut: int,
    heap_factor: np.float32,
    first_sorted: bool,
    n_knn: int,
    allowed: np.ndarray | None,
    scratch: Scratch,
    heap: list[int],
    k: int,
    work: np.ndarray,
) -> None:
    scratch.query[columns] = weights
    visited: set[int] = set()

    def try_row(slot: int, slots: int) -> None:
        if slot in visited or not (allowed is None or allowed[slot]):
            return
        visited.add(slot)
        work[0] += 1
        _offer(heap, k, _dot(arrays, scratch.query, slot, slots), base + slot)

    unsorted = first_sorted
    for t in np.argsort(-weights, kind="stable")[:query_cut]:
        c = columns[t]
        first, last = arrays.lists[c], arrays.lists[c + 1]
        if first == last:
            continue
        dots = _summed(arrays, c, columns, weights, work)
        order = np.argsort(-dots, kind="stable") if unsorted else range(last - first)
        unsorted = False
        for b in order:
            if len(heap) == k and dots[b] < heap_factor * _score(heap[0]):
                continue
            work[2] += 1
            for word in arrays.postings[arrays.blocks[first + b] : arrays.blocks[first + b + 1]].tolist():
                try_row(word >> 16, word & 0xFFFF)
    if n_knn:
        for slot in [(0xFFFFFFFF - (key & 0xFFFFFFFF)) - base for key in heap]:
            if not 0 <= slot < len(arrays.ids):
                continue
            row = np.searchsorted(arrays.starts, np.uint32(slot), side="right") - 1
            for other in arrays.graph[row, :n_knn].tolist():
                if other < len(arrays.starts) - 1:
                    start, stop = int(arrays.starts[other]), int(arrays.starts[other + 1])
                    try_row(start, stop - start)
    scratch.query[columns] = 0


def _summed(arrays: Arrays, c: int, columns: np.ndarray, weights: np.ndarray, work: np.ndarray) -> np.ndarray:
    """What each of a list's blocks can come to, by its summary: float32 [blocks]."""
    first, last = arrays.lists[c], arrays.lists[c + 1]
    dots = np.zeros(last - first, dtype=np.float32)
    low, high = arrays.groups[c], arrays.groups[c + 1]
    components, starts, counts = plain(
        arrays.bases[low:high], arrays.firsts[low:high], arrays.codes[low * CODES : high * CODES]
    )
    for column, weight in zip(columns, weights):
        at = np.searchsorted(components, column)
        if at == len(components) or components[at] != column:
            continue
        begin = arrays.entries[c] + starts[at]
        end = begin + counts[at]
        its = arrays.entry_blocks[begin:end].astype(np.int64)
        if arrays.highs[c] < arrays.highs[c + 1]:
            shift = arrays.highs[c] - arrays.entries[c]
            its |= arrays.entry_highs[begin + shift : end + shift].astype(np.int64) << 8
        step, low_value = arrays.scales[first + its].T
        dots[its] += weight * (step * arrays.entry_codes[begin:end].astype(np.float32) + low_value)
        work[1] += end - begin
    return dots


def _dot(arrays: Arrays, query: np.ndarray, slot: int, slots: int) -> np.float32:
    products = query[arrays.ids[slot : slot + slots]] * arrays.numbers[slot : slot + slots].astype(np.float32)
    s = np.add.reduce(products, axis=0)  # slot after slot
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


def _offer(heap: list[int], k: int, score: np.float32, slot: int) -> None:
    if not score > 0:
        return
    key = int(np.float32(score).view(np.uint32)) << 32 | (0xFFFFFFFF - slot)
    if len(heap) < k:
        heapq.heappush(heap, key)
    elif key > heap[0]:
        heapq.heapreplace(heap, key)


def _score(key: int) -> np.float32:
    return np.uint32(key >> 32).view(np.float32)
