"""What a Seismic segment would be with random blocks, or with summaries that are not rounded to 8 bits.

Both are made from a segment that exists, for the lists that some queries read; the others are left empty. Summaries are
computed here once more, in plain numpy, so that a segment made without any change also checks the compiled build.
"""

from __future__ import annotations

import numpy as np

from inlay.indexes.seismic_segment import Segment, _assembled, _Part
from inlay.kernels.seismic_blocks import Blocks, _mass, _quantised
from inlay.types import Sparse

__all__ = ["heaviest", "rebuilt"]


def heaviest(segment: Segment, queries: Sparse, cut: int) -> np.ndarray:
    """Columns of the `cut` largest weights of each query, of the segment's own numbering: int64, ascending."""
    columns = _numbered(segment, queries.indices)
    read = []
    for begin, end in zip(queries.indptr[:-1], queries.indptr[1:]):
        known = np.flatnonzero(columns[begin:end] >= 0) + begin
        read.append(columns[known[np.argsort(-queries.data[known], kind="stable")[:cut]]])
    return np.unique(np.concatenate(read))


def rebuilt(
    segment: Segment, columns: np.ndarray, *, summary_energy: float, shuffle: int | None = None, rounded: bool = True
) -> Segment:
    """The segment with these lists only, their summaries made anew.

    Args:
        segment: to take rows, lists and sizes of blocks from.
        columns: int64, ascending: lists to keep.
        summary_energy: that of the segment.
        shuffle: a seed, to deal each list's rows out to its blocks at random, as many to each as before.
        rounded: keep summaries in 8 bits; if not, in float32.
    """
    a, rows = segment.arrays, segment.rows()
    local = _numbered(segment, rows.indices)
    rng = np.random.default_rng(shuffle)
    n = len(a.lists) - 1
    list_blocks, list_components = np.zeros(n, np.int64), np.zeros(n, np.int64)
    lists: list[tuple[np.ndarray, ...]] = []
    for c in columns.tolist():
        first, last = int(a.lists[c]), int(a.lists[c + 1])
        if first == last:
            continue
        slots = (a.postings[a.blocks[first] : a.blocks[last]] >> np.uint64(16)).astype(np.uint32)
        its = np.searchsorted(a.starts, slots, side="right") - 1
        if shuffle is not None:
            its = rng.permutation(its)
        size = np.diff(a.blocks[first : last + 1])
        block = np.repeat(np.arange(len(size)), size)
        found = [_summary(rows, local, its[block == b], summary_energy) for b in range(len(size))]
        scale = np.tile(np.array([1, 0], np.float32), (len(size), 1))
        values: list[np.ndarray] = [value for _, value in found]
        if rounded:
            for b, value in enumerate(values):
                scale[b], values[b] = _quantised(value)
        component = np.concatenate([column for column, _ in found])
        of = np.repeat(np.arange(len(size)), [len(value) for value in values])
        order = np.lexsort((of, component))
        present, times = np.unique(component, return_counts=True)
        list_blocks[c], list_components[c] = len(size), len(present)
        lists.append((its, size, scale, present, times, of[order], np.concatenate(values)[order]))
    members, sizes, scales, components, counts, blocks, codes = (np.concatenate(parts) for parts in zip(*lists))
    made = Blocks(
        members.astype(np.int32), list_blocks, sizes, scales, list_components, components.astype(np.int32), counts,
        blocks.astype(np.uint16), codes,
    )  # fmt: skip
    return Segment(_assembled([_Part.of(made)], a.starts, a.ids, a.numbers), segment.dims)


def _numbered(segment: Segment, dims: np.ndarray) -> np.ndarray:
    """Column of each dimension in a segment, -1 where it has none."""
    at = np.minimum(np.searchsorted(segment.dims, dims), len(segment.dims) - 1)
    return np.where(segment.dims[at] == dims, at, -1)


def _summary(rows: Sparse, columns: np.ndarray, its: np.ndarray, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """(columns int64, the largest weight in each float32) of some rows, the small ones left out."""
    at = np.concatenate([np.arange(rows.indptr[row], rows.indptr[row + 1]) for row in its])
    order = np.argsort(columns[at], kind="stable")
    column, weight = columns[at][order], rows.data[at][order]
    begins = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))
    highest = np.maximum.reduceat(weight, begins)
    met = np.argsort(order[begins])  # of equal ones those met first stay
    kept = met[_mass(highest[met], energy)]
    return column[begins][kept], highest[kept]
