"""Vocabulary tables in fewer bytes that keep the width of their rows, so that the layers above need not change.

A BERT table of 30,522 × 384 is half of a small encoder. Both tables here start as the best approximation of it and are
trained on with the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.tables.low_rank import LowRank as LowRankTable

__all__ = ["LowRankTable", "ProductTable", "compressed"]


class ProductTable(nn.Module):
    """Product quantisation: a row is cut into parts, and each part is one of a few centres.

    A byte a part (for 256 centres), and the centres are shared by all tokens, so that training one row trains its
    relatives. The choice of centres is fixed; the centres are learnt.

    Args:
        codes: int64 [tokens, parts], which centre.
        centres: float [parts, centres, dim / parts].
    """

    codes: Tensor
    _offsets: Tensor

    def __init__(self, codes: Tensor, centres: Tensor) -> None:
        super().__init__()
        parts, count, _ = centres.shape
        self.register_buffer("codes", codes.to(torch.uint8 if count <= 256 else torch.int32))
        self.centres = nn.Parameter(centres.clone())
        self.register_buffer("_offsets", torch.arange(parts) * count, persistent=False)

    @classmethod
    def fit(cls, table: Tensor, parts: int, centres: int = 256, rounds: int = 15, seed: int = 0) -> ProductTable:
        """Centres by k-means of each part.

        Args:
            table: [tokens, dim].
            parts: must divide dim.
            centres: how many to a part.
            rounds: of k-means.
            seed: of its start.
        """
        tokens, dim = table.shape
        if dim % parts or not 1 < centres <= tokens:
            raise BadInput(f"{parts} parts must divide {dim}, and centres be from 2 to {tokens}, got {centres}")
        random = torch.Generator().manual_seed(seed)
        cut = table.detach().float().view(tokens, parts, dim // parts)
        found = [_k_means(cut[:, i], centres, rounds, random) for i in range(parts)]
        return cls(torch.stack([codes for codes, _ in found], 1), torch.stack([middle for _, middle in found]))

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., dim] of ids [...]."""
        at = self.codes[ids].long() + self._offsets
        return nn.functional.embedding(at, self.centres.flatten(0, 1)).flatten(-2)

    @property
    def weight(self) -> Tensor:
        """The whole table [tokens, dim]."""
        return self(torch.arange(len(self.codes), device=self.codes.device))


def _k_means(x: Tensor, count: int, rounds: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """(nearest centre of each row, centres)."""
    middle = x[torch.randperm(len(x), generator=random)[:count]].clone()
    for _ in range(rounds):
        near = _nearest(x, middle)
        sums = torch.zeros_like(middle).index_add_(0, near, x)
        sizes = torch.bincount(near, minlength=count)
        middle = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], middle)
        empty = int((sizes == 0).sum())
        if empty:  # a centre that lost all of its rows starts again at one of them
            middle[sizes == 0] = x[torch.randint(len(x), (empty,), generator=random)]
    return _nearest(x, middle), middle


def _nearest(x: Tensor, middle: Tensor) -> Tensor:
    return (middle.square().sum(1) - 2 * x @ middle.T).argmin(1)


def compressed(table: Tensor, how: str) -> nn.Module:
    """A table from words, as recipes write it: `product(48)`, `product(48, 256)`, `low_rank(64)`."""
    import re

    match = re.fullmatch(r"(product|low_rank)\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", how)
    if not match or (match[1] == "low_rank" and match[3]):
        raise BadInput(f"vocabulary table {how!r}: write product(PARTS), product(PARTS, CENTRES) or low_rank(RANK)")
    if match[1] == "low_rank":
        return LowRankTable.fit(table, int(match[2]))
    return ProductTable.fit(table, int(match[2]), int(match[3] or 256))
