"""The arrays of a segment, made from texts or vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.codecs.ragged import checked_ragged
from inlay.collection.bag_encodings import with_encodings
from inlay.collection.posting_blocks import with_blocks
from inlay.collection.row_graphs import with_graph
from inlay.collection.segment import Terms
from inlay.collection.snapshot import LEXICAL, StoredSpace
from inlay.errors import BadInput, SpaceMismatch
from inlay.types import Sparse

if TYPE_CHECKING:
    from inlay.encoders.analysis import TermPostings

__all__ = ["encoded", "rows_of", "unit"]


def rows_of(space: StoredSpace, encoder: Any, items: Any) -> dict[str, np.ndarray]:
    """Rows of one space, ready to be stored.

    Args:
        space: the space.
        encoder: makes rows of texts; None where `items` are the rows already.
        items: texts, or rows.
    """
    if space.name == LEXICAL:
        return _lexical(encoder.postings(items))
    rows = items if encoder is None else encoded(encoder, items)
    return _MAKERS[space.space.kind](space, rows)


def encoded(encoder: Any, texts: Sequence[str]) -> Any:
    """An encoder's rows of documents, one for each: a row too few would shift all that follow."""
    rows = encoder.encode_document(texts)
    count = len(rows) if hasattr(rows, "__len__") else f"a {type(rows).__name__}, not"
    if count != len(texts):
        raise BadInput(f"{encoder!r} made {count} rows of {len(texts)} texts")
    return rows


def _lexical(postings: TermPostings) -> dict[str, np.ndarray]:
    return {
        "indptr": postings.indptr,
        "rows": postings.rows,
        "values": postings.counts,
        "lengths": postings.lengths,
        **Terms.pack([term.encode() for term in postings.terms]),
    }


def _sparse(space: StoredSpace, rows: Any) -> dict[str, np.ndarray]:
    from inlay.indexes.inverted import Postings

    rows = Sparse.of(rows)
    if not np.isfinite(rows.data.sum(dtype=np.float64)):
        bad = int(np.searchsorted(rows.indptr, np.flatnonzero(~np.isfinite(rows.data))[0], side="right")) - 1
        raise BadInput(f"sparse row {bad} has NaN or infinite elements")
    dims, columns = np.unique(rows.indices, return_inverse=True)
    postings = Postings.from_rows(rows.indptr, columns.astype(np.int32), rows.data, len(dims))
    arrays: dict[str, np.ndarray] = {
        "indptr": postings.indptr,
        "rows": postings.rows,
        "values": postings.values,
        "dims": dims.astype(np.int64),
    }
    return with_blocks(arrays, len(rows))


def _dense(space: StoredSpace, rows: Any) -> dict[str, np.ndarray]:
    try:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the rows of space {space.name!r} are no numbers: {error}") from None
    if rows.ndim != 2 or rows.shape[1] != space.space.dim:
        raise SpaceMismatch(f"the space {space.name!r} has {space.space.dim} dimensions, got rows {list(rows.shape)}")
    # The sum is finite only if every element is: one pass, no temporary mask.
    if not np.isfinite(rows.sum(dtype=np.float64)):
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise BadInput(f"vector {bad} has NaN or infinite elements")
    metric = space.space.metric
    return with_graph(_in_dtype(unit(rows) if metric == "cosine" else rows, space.dtype), metric)


def _multi(space: StoredSpace, rows: Any) -> dict[str, np.ndarray]:
    bags = checked_ragged(rows, space.space.dim, "passage")
    values = unit(bags.values) if space.space.metric == "cosine" else bags.values
    return with_encodings(_in_dtype(values, space.dtype) | {"offsets": bags.offsets})


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [n, dim] at length 1; zeros stay."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def _in_dtype(values: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """Vectors float32 [n, dim] in the type of a space, under the names that segments have for them."""
    if dtype == "int8":
        from inlay.codecs.scalar import Int8

        codes, scales = Int8().encode(values)
        return {"rows": codes, "scales": scales}
    return {"rows": values.astype(dtype, copy=False)}


_MAKERS = {"dense": _dense, "sparse": _sparse, "multi": _multi}
