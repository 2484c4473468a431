"""The vectors of a batch, and the table of scores between them: blocks of candidate cells, and masks over cells.

Row i of a batch has a query q_i and documents d_i0 (the positive), d_i1 … d_iK (its negatives). A contrastive loss
compares the cell (q_i, d_i0) with other cells, which come in blocks:

==================  ==========================  ============
block               cells                       score
==================  ==========================  ============
`own_negatives`     k ≥ 1                       s(q_i, d_ik)
`batch_positives`   j ≠ i                       s(q_i, d_j0)
`batch_negatives`   j ≠ i, k ≥ 1                s(q_i, d_jk)
`queries`           j ≠ i                       s(q_i, q_j)
`documents`         j ≠ i                       s(d_i0, d_j0)
`documents_all`     (j, k) ≠ (i, 0)             s(d_i0, d_jk)
`reverse`           j ≠ i                       s(d_i0, q_j)
==================  ==========================  ============
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.training.models import MAIN, unit

if TYPE_CHECKING:
    from inlay.training.batching import Batch

__all__ = ["BLOCKS", "MASKS", "Mask", "Pool", "block_scores", "guide", "same_class", "same_text"]

BLOCKS = (
    "own_negatives",
    "batch_positives",
    "batch_negatives",
    "queries",
    "documents",
    "documents_all",
    "reverse",
)


class Pool:
    """The vectors that a loss term sees.

    Args:
        vectors: head → unit rows [B + B·(1+K), dim]: all queries, then the documents row by row.
        batch: the texts and labels behind them.
        teacher: unit rows of a teacher for the same texts in the same order [n, teacher dim], or None.
        head: which of `vectors` the properties below show.
        dim: show the first `dim` coordinates only, scaled to unit length again.
    """

    def __init__(
        self,
        vectors: Mapping[str, Tensor],
        batch: Batch,
        teacher: Tensor | None = None,
        *,
        head: str = MAIN,
        dim: int | None = None,
    ) -> None:
        if head not in vectors:
            raise BadInput(f"the model has no head {head!r}; it has {', '.join(vectors)}")
        self.vectors, self.batch, self.head, self.dim = vectors, batch, head, dim
        self._teacher = teacher
        rows = vectors[head]
        if dim is not None and not 0 < dim <= rows.shape[1]:
            raise BadInput(f"cannot keep {dim} of the {rows.shape[1]} dimensions of head {head!r}")
        self.rows = rows if dim is None or dim == rows.shape[1] else unit(rows[:, :dim])

    def on(self, head: str) -> Pool:
        """The same texts as another head sees them."""
        return Pool(self.vectors, self.batch, self._teacher, head=head, dim=self.dim)

    def cut(self, dim: int) -> Pool:
        """The first `dim` coordinates, scaled to unit length again."""
        return Pool(self.vectors, self.batch, self._teacher, head=self.head, dim=dim)

    def taught(self) -> Pool:
        """The same texts as the teacher sees them."""
        return Pool({MAIN: self.teacher}, self.batch, self._teacher)

    @property
    def teacher(self) -> Tensor:
        """The teacher's unit rows, in the order of `rows`."""
        if self._teacher is None:
            raise BadInput("a loss term needs teacher vectors; give the stage a teacher")
        return self._teacher

    @property
    def _shape(self) -> tuple[int, int]:
        """B and 1 + K, said outright: nothing can be inferred from a tensor without elements."""
        return len(self.batch), len(self.batch.docs[0])

    @property
    def q(self) -> Tensor:
        """Queries [B, D]."""
        return self.rows[: len(self.batch)]

    @property
    def d(self) -> Tensor:
        """Documents [B, 1 + K, D], the positive first; [B, 0, D] where there are only texts."""
        return self.rows[len(self.batch) :].view(*self._shape, self.rows.shape[1])

    def text_numbers(self) -> tuple[Tensor, Tensor]:
        """A number for each distinct text: of queries [B], of documents [B, 1 + K]."""
        flat = [*self.batch.query, *(text for row in self.batch.docs for text in row)]
        numbers = _numbers(flat, self.rows.device)
        return numbers[: len(self.batch)], numbers[len(self.batch) :].view(self._shape)

    def class_numbers(self) -> tuple[Tensor, Tensor]:
        """A number for each class (one of its own for None): of queries [B], of documents [B, 1 + K]."""
        flat = [*self.batch.label, *(label for row in self.batch.doc_label for label in row)]
        numbers = _numbers([object() if label is None else label for label in flat], self.rows.device)
        return numbers[: len(self.batch)], numbers[len(self.batch) :].view(self._shape)


def _numbers(values: Iterable[Hashable], device: torch.device) -> Tensor:
    known: dict[Hashable, int] = {}
    return torch.tensor([known.setdefault(value, len(known)) for value in values], device=device)


def block_scores(q: Tensor, d: Tensor, block: str) -> tuple[Tensor, Tensor]:
    """Cosines of a block's cells, and which cells belong to it.

    Args:
        q: unit queries [B, D].
        d: unit documents [B, 1 + K, D], the positive first.
        block: one of `BLOCKS`.

    Returns:
        scores [B, cells] and bool [B, cells].
    """
    size, k = len(q), d.shape[1] - 1
    off = ~torch.eye(size, dtype=torch.bool, device=q.device)
    p, n = d[:, 0], d[:, 1:]
    if block == "own_negatives":
        return torch.einsum("bd,bkd->bk", q, n), torch.ones(size, k, dtype=torch.bool, device=q.device)
    if block == "batch_positives":
        return q @ p.T, off
    if block == "batch_negatives":
        return q @ n.flatten(0, 1).T, off.repeat_interleave(k, 1)
    if block == "queries":
        return q @ q.T, off
    if block == "documents":
        return p @ p.T, off
    if block == "documents_all":
        first = torch.arange(d.shape[1], device=q.device).repeat(size) == 0
        return p @ d.flatten(0, 1).T, off.repeat_interleave(d.shape[1], 1) | ~first
    if block == "reverse":
        return p @ q.T, off
    raise BadInput(f"unknown block {block!r}; blocks are {', '.join(BLOCKS)}")


Mask = Callable[[Pool, str], Tensor]


def _cells(q: Tensor, d: Tensor, block: str) -> Tensor:
    """What stands in each cell of a block, given a number for each query [B] and document [B, 1 + K]."""
    if block == "own_negatives":
        return d[:, 1:]
    return {
        "batch_positives": d[:, :1],
        "batch_negatives": d[:, 1:],
        "queries": q[:, None],
        "documents": d[:, :1],
        "documents_all": d,
        "reverse": q[:, None],
    }[block].reshape(1, -1)


def same_text(pool: Pool, block: str) -> Tensor:
    """Keep a cell unless its text is row i's query or positive, or its row has the same query or positive as row i.

    For `batch_positives` this is EmbeddingGemma's 1_TN(i, j); the first clause also catches chains, where the positive
    of one row is the query of the next.
    """
    q, d = pool.text_numbers()
    p, cells = d[:, 0], _cells(q, d, block)
    keep = (cells != q[:, None]) & (cells != p[:, None])
    if block in ("batch_positives", "queries", "documents", "reverse"):  # one cell for each row j
        keep &= (q[:, None] != q[None]) & (p[:, None] != p[None])
    return keep


def same_class(pool: Pool, block: str) -> Tensor:
    """Keep a cell unless its class is the anchor's (QZhou's classification loss)."""
    q, d = pool.class_numbers()
    return _cells(q, d, block) != q[:, None]


def guide(eps: float = 0.0) -> Mask:
    """Drop cells that the teacher finds as near as the positive, f(cell) ≥ f(q_i, d_i0) + eps (GISTEmbed, CDE)."""

    def keep(pool: Pool, block: str) -> Tensor:
        taught = pool.taught()
        positive = (taught.q * taught.d[:, 0]).sum(-1, keepdim=True)
        return block_scores(taught.q, taught.d, block)[0] < positive + eps

    return keep


MASKS: dict[str, Callable[..., Tensor]] = {"same_text": same_text, "same_class": same_class}
