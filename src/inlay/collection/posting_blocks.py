"""Blocks and summaries beside the postings of a large sparse segment, so that a query skips most of it (Seismic).

Small segments are searched exactly, and have none; so are segments with negative weights, which summaries cannot bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.io import Pack
from inlay.types import Sparse

__all__ = ["blocks_of", "with_blocks"]

# Rows of a segment from which skipping is worth its bytes: at 50,000 it is 1.7 times as fast as reading, at 200,000
# three times (`inlay reproduce seismic-scale`).
BLOCKED = 100_000
LARGEST = 65504.0  # what float16 holds
PREFIX = "seismic."


def with_blocks(arrays: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The arrays of a segment of postings, blocks among them where there are enough rows.

    Args:
        arrays: `indptr`, `rows`, `values` and `dims` of a sparse segment.
        count: its rows.
    """
    values = arrays["values"]
    if count < BLOCKED or not len(values) or values.min() < 0:
        return arrays
    from inlay.indexes.seismic import Seismic
    from inlay.kernels.postings import transpose

    # Read by columns, postings are rows; turned once more, they are the rows that were added.
    columns = len(arrays["dims"])
    indptr, indices, data = transpose(arrays["indptr"], arrays["rows"], values, count)
    index = Seismic(values="float16" if values.max() <= LARGEST else "float32")
    index.add(Sparse(indptr, indices, data, (count, columns)))
    (segment,) = index.segments
    made = {PREFIX + name: np.ascontiguousarray(array) for name, array in segment.arrays._asdict().items()}
    return arrays | made | {PREFIX + "columns": segment.dims}


def blocks_of(pack: Pack) -> Any:
    """The index of a segment, or None where it has none. Its columns are those of the segment's postings."""
    if PREFIX + "columns" not in pack:
        return None
    from inlay.indexes.seismic import Seismic
    from inlay.indexes.seismic_segment import Segment
    from inlay.kernels.seismic import Arrays

    if any(PREFIX + name not in pack for name in Arrays._fields):
        return None  # of another version's layout; the postings are all there, and a merge makes the blocks again
    arrays = Arrays(*(pack[PREFIX + name] for name in Arrays._fields))
    return Seismic.over([Segment(arrays, pack[PREFIX + "columns"])])
