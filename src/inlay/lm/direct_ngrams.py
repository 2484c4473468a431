"""Input rows of frequent n-grams from a plain table: what SCONE is compared with.

Each f-gram has a row of its own, learnt like that of a token, and no transformer makes it. Nothing learnt about one
f-gram helps another: rows of rare ones stay near where they began.

Source: the baseline of Scaling Embedding Layers in Language Models (arXiv 2502.01637), its larger vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.lm.fgram_input import FGramInput
from inlay.lm.frequent_ngrams import FGrams
from inlay.tables.full import Full
from inlay.tables.table import Table

__all__ = ["DirectNGrams"]


class DirectNGrams(FGramInput):
    """The `input` socket: ids to rows, those of f-grams from a table.

    Args:
        fgrams: which n-grams have rows.
        tokens: T, token id → row [dim], for tokens that end no f-gram.
        table: number of the f-gram → row [dim]; None: a full one whose rows begin as large as the decoder's token rows.
        separator: the token that documents begin with; None: a text is one document.
        sparse: give the default table row-sparse gradients, for `RowAdam`.
    """

    def __init__(
        self, fgrams: FGrams, tokens: Table, table: Table | None = None, *, separator: int | None = None,
        sparse: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(fgrams, tokens, separator)
        if not len(fgrams):
            raise BadInput("there is no f-gram to have a row; mine with a smaller min_count")
        if table is None:
            table = Full(len(fgrams), tokens.dim, scale=(3 / tokens.dim) ** 0.5, sparse=sparse)
        if (table.rows, table.dim) != (len(fgrams), tokens.dim):
            raise BadInput(
                f"the table has {table.rows} rows of {table.dim}, the f-grams need {len(fgrams)} of {tokens.dim}"
            )
        self.table = table

    def rows(self, numbers: np.ndarray) -> Tensor:
        """Rows [n, dim] of f-grams int64 [n], as they stand in the table."""
        device = next(self.table.buffers(), next(self.table.parameters(), torch.zeros(0))).device
        out: Tensor = self.table(torch.as_tensor(numbers, device=device))
        return out

    def extra_repr(self) -> str:
        return f"{self.fgrams}, separator={self.separator}"
