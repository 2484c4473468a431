"""Fewer rows of fewer numbers: kept rows of a width of their own, padded with zeros to the width that models expect."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.table import Compiled, Table

__all__ = ["CompiledNarrow", "NarrowRows"]


class NarrowRows(Table):
    """Row = stored row of width `width`, then zeros; keys without a stored row read zeros or one row that they share.

    A zero needs no storing, so that models whose fields are multiplied with each other take it without projections.

    Args:
        rows: number of keys.
        dim: width that is given.
        width: width that is stored.
        kept: rows stored, if not one a key; which key has which, `keep` says.
        oov: keys without a row share a trainable one; else they read zeros.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
    """

    index: Tensor

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        width: int,
        kept: int | None = None,
        oov: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__(rows, dim, width=width, kept=kept, oov=oov, scale=scale)
        if not 1 <= width <= dim:
            raise BadInput(f"width must be from 1 to {dim}, got {width}")
        if kept is not None and not 0 <= kept <= rows:
            raise BadInput(f"kept must be from 0 to {rows}, got {kept}")
        self.width, self.kept, self.oov = width, kept, oov and kept is not None
        bound = rows**-0.5 if scale is None else scale
        stored = rows if kept is None else kept + self.oov
        self.weight = nn.Parameter(torch.empty(stored, width).uniform_(-bound, bound))
        self.register_buffer("index", None if kept is None else torch.full((rows,), -1, dtype=torch.int32))

    @classmethod
    def keep(
        cls, mask: Tensor, dim: int, width: int, *, values: Tensor | None = None, oov: bool = False,
        scale: float | None = None,
    ) -> Self:  # fmt: skip
        """Of the keys where mask [rows] is true, beginning as the first columns of values [rows, ≥ width], if given."""
        kept = int(mask.sum())
        made = cls(len(mask), dim, width=width, kept=None if kept == len(mask) else kept, oov=oov, scale=scale)
        with torch.no_grad():
            if made.index is not None:
                made.index.fill_(kept if made.oov else -1)
                made.index[mask] = torch.arange(kept, dtype=torch.int32)
            if values is not None:
                made.weight[:kept] = values[mask, :width]
                if made.oov:  # what the pruned ones were on average
                    made.weight[kept] = values[~mask, :width].mean(0)
        return made

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        if self.index is None:
            return F.pad(F.embedding(ids, self.weight), (0, self.dim - self.width))
        at = self.index[ids].long()
        if not len(self.weight):
            return self.weight.new_zeros(*ids.shape, self.dim)
        found = F.embedding(at.clamp(min=0), self.weight)
        if not self.oov:
            found = found.masked_fill((at < 0)[..., None], 0.0)
        return F.pad(found, (0, self.dim - self.width))

    @torch.no_grad()
    def compiled(self) -> Compiled:
        """Stored rows and the remap, a word a key; no remap where every key has its row. Equal exactly."""
        return CompiledNarrow.of(self.weight.detach(), self.dim, self.index)


class CompiledNarrow(Compiled):
    """What `NarrowRows` compiles to.

    Args:
        rows: keys.
        dim: width that is given.
        width: width that is stored.
        kept: rows stored, if not one a key.
    """

    values: Tensor
    index: Tensor

    def __init__(self, rows: int, dim: int, *, width: int, kept: int | None = None) -> None:
        super().__init__(rows, dim, width=width, kept=kept)
        self.register_buffer("values", torch.zeros(rows if kept is None else kept, width))
        self.register_buffer("index", None if kept is None else torch.zeros(rows, dtype=torch.int32))

    @classmethod
    def of(cls, values: Tensor, dim: int, index: Tensor | None = None) -> Self:
        """Of values [kept, width] and the row [rows] of each key, -1 for zeros."""
        rows = len(values) if index is None else len(index)
        made = cls(rows, dim, width=values.shape[1], kept=None if index is None else len(values))
        made.values.copy_(values)
        if index is not None:
            made.index.copy_(index)
        return made

    def lookup(self, ids: Tensor) -> Tensor:
        """Float32 rows [..., dim]."""
        found = torch.zeros(*ids.shape, self.dim)
        if not len(self.values):
            return found
        at = ids if self.index is None else self.index[ids].long()
        found[..., : self.values.shape[1]] = self.values[at.clamp(min=0)]
        return found if self.index is None else found.masked_fill((at < 0)[..., None], 0.0)
