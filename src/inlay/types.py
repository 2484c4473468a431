"""The few shapes everything composes through: plain arrays, four protocols, and what a search returns.

Dense rows are `float32 [n, dim]` numpy arrays. Sparse rows are `Sparse` (CSR), multi-vectors are `Ragged`.
The protocols are structural: any class with these methods fits, without inheriting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64

from inlay.errors import BadInput

__all__ = [
    "Chunk",
    "Codec",
    "Document",
    "Encoder",
    "Generator",
    "Hit",
    "Index",
    "Kind",
    "Neighbours",
    "Ragged",
    "Reranker",
    "Space",
    "SpaceMap",
    "Sparse",
    "Vectors",
]

Kind: TypeAlias = Literal["dense", "sparse", "multi"]
Metric: TypeAlias = Literal["cosine", "dot", "l2"]


@dataclass(frozen=True)
class Space:
    """Where vectors are comparable.

    Args:
        kind: `dense`, `sparse` or `multi`.
        dim: width of a row; 0 where it is open-ended (a vocabulary that grows).
        metric: `cosine`, `dot` or `l2`. A score is always *higher is nearer*, so `l2` scores are negated squares.
        fingerprint: identity of what made the rows (weights and settings). Rows of different fingerprints are
            never compared.
    """

    kind: Kind
    dim: int
    metric: Metric = "cosine"
    fingerprint: str = ""


class Sparse:
    """Rows with few non-zeros, in compressed sparse row form.

    The attribute names are scipy's, so a `scipy.sparse.csr_array` can be given wherever a `Sparse` is taken; importing
    scipy's takes longer than a cold search, so inlay has its own. `Sparse.of(x)` accepts either.

    Args:
        indptr: int64 [n + 1], where row i spans `indptr[i]:indptr[i + 1]`.
        indices: int32 or int64 [nnz], column of each value, ascending within a row.
        data: float32 [nnz].
        shape: (rows, columns).
    """

    __slots__ = ("data", "indices", "indptr", "shape")

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, shape: tuple[int, int]) -> None:
        if len(indptr) != shape[0] + 1 or len(indices) != len(data):
            raise BadInput(f"a CSR of {shape[0]} rows needs {shape[0] + 1} offsets, got {len(indptr)}")
        if indptr[0] != 0 or indptr[-1] != len(data) or (indptr[1:] < indptr[:-1]).any():
            raise BadInput(f"offsets of a CSR rise from 0 to its {len(data)} values, got {indptr[0]} to {indptr[-1]}")
        self.indptr, self.indices, self.data, self.shape = indptr, indices, data, (int(shape[0]), int(shape[1]))

    @classmethod
    def of(cls, rows: Any) -> Sparse:
        """Take CSR rows of any origin (`Sparse`, scipy's `csr_array` or another scipy sparse format)."""
        if isinstance(rows, Sparse):
            return rows
        if hasattr(rows, "tocsr"):
            rows = rows.tocsr()
        if not all(hasattr(rows, name) for name in ("indptr", "indices", "data", "shape")):
            raise BadInput(f"expected sparse rows (inlay.types.Sparse or scipy CSR), got {type(rows).__name__}")
        if hasattr(rows, "has_sorted_indices") and not rows.has_sorted_indices:
            rows = rows.sorted_indices()
        data = np.asarray(rows.data, dtype=np.float32)
        return cls(np.asarray(rows.indptr, dtype=np.int64), np.asarray(rows.indices), data, rows.shape)

    @classmethod
    def from_dense(cls, rows: np.ndarray) -> Sparse:
        """Keep the non-zeros of dense rows [n, dim]."""
        row, column = np.nonzero(rows)
        indptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=len(rows)), out=indptr[1:])
        return cls(indptr, column.astype(np.int32), rows[row, column].astype(np.float32), rows.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Sparse({self.shape[0]} rows, {self.shape[1]} columns, {len(self.data)} non-zeros)"

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> Sparse:
        """Rows by slice or by an array of row numbers."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        indptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=indptr[1:])
        take = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return Sparse(indptr, self.indices[take], self.data[take], (len(rows), self.shape[1]))

    def toarray(self) -> np.ndarray:
        """Dense float32 [n, dim]; mind the memory."""
        dense = np.zeros(self.shape, dtype=np.float32)
        dense[np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), self.indices] = self.data
        return dense

    def to_scipy(self) -> Any:
        """The same rows as a `scipy.sparse.csr_array` (extra `sparse`)."""
        try:
            from scipy.sparse import csr_array
        except ImportError:
            from inlay.errors import MissingExtra

            raise MissingExtra("scipy arrays", "sparse") from None
        return csr_array((self.data, self.indices, self.indptr), shape=self.shape)


@dataclass
class Ragged:
    """Multi-vector rows: a bag of vectors for each item.

    Args:
        values: float32 [tokens, dim], the vectors of all rows one after another.
        offsets: int64 [n + 1]; row i owns `values[offsets[i]:offsets[i + 1]]`.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


Vectors: TypeAlias = "Float32[np.ndarray, 'n dim'] | Sparse | Ragged"


class Neighbours(NamedTuple):
    """What an index found: best first, `-1` where there was no further row.

    `scores` float32 [queries, k] descending (−inf beside id −1); `ids` int64 [queries, k].
    """

    scores: Float32[np.ndarray, "q k"]
    ids: Int64[np.ndarray, "q k"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document: a span of its text, with the lines and the heading path a person would cite.

    Args:
        start: first character in the document's text.
        stop: one past the last character.
        line: first line in the source file, counted from 1 (0 where lines mean nothing).
        last_line: last line in the source file.
        heading: path of headings or names that lead to it, joined by " › ".
    """

    start: int
    stop: int
    line: int = 0
    last_line: int = 0
    heading: str = ""


@dataclass(slots=True)
class Document:
    """A text with an id and metadata; `chunks` are its passages, cut by the reader or, if None, by the collection."""

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    chunks: Sequence[Chunk] | None = None


@dataclass(slots=True)
class Hit:
    """One answer of a search.

    Args:
        id: id of the document.
        score: higher is nearer; comparable within one result list only.
        text: the passage that matched (the whole document where it is one passage).
        metadata: the document's metadata.
        heading: heading path of the passage.
        line: first line of the passage in its source (0 where lines mean nothing).
        last_line: last line of the passage.
        chunk: number of the passage within its document, from 0.
        spaces: what each space contributed: name -> {"rank": from 1, "score": raw score} and, where several were
            fused, "share" of the final score.
        reranked: True if a lazily embedded space took part in ordering this hit.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    heading: str = ""
    line: int = 0
    last_line: int = 0
    chunk: int = 0
    spaces: dict[str, dict[str, float]] = field(default_factory=dict)
    reranked: bool = False

    def __repr__(self) -> str:
        where = f":{self.line}" if self.line else ""
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"Hit({self.id!r}{where}, score={self.score:.4f}, text={text!r})"


@runtime_checkable
class Encoder(Protocol):
    """Things to rows.

    An encoder may also carry `spec`, keyword arguments from which `inlay.encoder(**spec)` makes it again (so that a
    collection reopens by itself), `expensive`: True where encoding is slow enough that a collection should make
    vectors lazily, and `hybrid_surprise`, `hybrid_share`, `hybrid_floor`: how much its scores are worth beside BM25,
    and which score counts as nothing (see `inlay.search.fuse`). All are optional.
    """

    space: Space

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> Vectors:
        """Rows of things to be found."""
        ...

    def encode_query(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Vectors:
        """Rows of things to find by."""
        ...


@runtime_checkable
class Index(Protocol):
    """Nearness to rows."""

    nbytes: int

    def add(self, vectors: Vectors) -> None:
        """Append rows; ids are positions in order of addition."""
        ...

    def search(self, queries: Vectors, k: int, *, allow: Bool[np.ndarray, " n"] | None = None) -> Neighbours:
        """The k nearest rows of each query, among the rows where `allow` is true."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A row in fewer bytes."""

    def fit(self, rows: np.ndarray) -> Codec: ...
    def encode(self, rows: np.ndarray) -> Any: ...
    def decode(self, codes: Any) -> np.ndarray: ...
    def nbytes(self, dim: int) -> int: ...


@runtime_checkable
class SpaceMap(Protocol):
    """Rows of one space into another (the scikit-learn convention, so its objects fit too)."""

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> SpaceMap: ...
    def transform(self, X: np.ndarray) -> np.ndarray: ...


@runtime_checkable
class Reranker(Protocol):
    """(query, candidates) to scores, higher is better."""

    def rerank(self, query: str, candidates: Sequence[Hit]) -> Sequence[float]: ...


@runtime_checkable
class Generator(Protocol):
    """Prompts to texts: an endpoint, a local model, or a script in tests."""

    def generate(self, prompts: Sequence[str], **options: Any) -> list[list[Any]]: ...


# What `Collection.add` takes: strings, dicts with "text" (and "id"), dataclasses, Documents, a pandas or pyarrow table.
Documents: TypeAlias = "Iterable[str | Mapping[str, Any] | Document | Any]"
