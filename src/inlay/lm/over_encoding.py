"""Rows of n-grams averaged into the input: what a gated memory inside of the model is compared with.

    input_t = (T(x_t) + Σ_h W_h e_{t,h}) / (1 + heads of all orders)

The rows e, their hash and their folding are those of `Engram`; what is missing is the context: every n-gram is added in
full, where nothing is known yet of the text but the token.

Source: Over-Tokenized Transformer (arXiv 2501.16975), as the baseline of Conditional Memory via Scalable Lookup (arXiv
2601.07372).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.cache import KeyValueCache
from inlay.lm.engram import Engram
from inlay.tables.table import Table

__all__ = ["OverEncoding"]


class OverEncoding(nn.Module):
    """The `input` socket: ids to rows.

    Args:
        tokens: T, token id → row [dim].
        average: divide by the number of terms; False leaves their sum.
        options: of `Engram`: orders, heads, d_head, slots, folding, separator, pad, sparse, scale, table, seed.
    """

    wants_cache = True

    def __init__(self, tokens: Table, *, average: bool = True, **options: Any) -> None:
        super().__init__()
        unwanted = sorted({"gate", "conv", "branches"} & set(options))
        if unwanted:
            raise BadInput(f"{unwanted[0]} is not to be chosen here: rows are added to the input as they are")
        self.tokens, self.average, self.dim = tokens, average, tokens.dim
        self.memory = Engram(tokens.dim, tokens.rows, **{"layer": 0} | options, gate=False, conv=0)

    def forward(self, ids: Tensor, *, cache: KeyValueCache | None = None) -> Tensor:
        """Rows [batch, length, dim] of ids [batch, length]."""
        found: Tensor = self.tokens(ids)
        memory = self.memory
        if memory.enabled:
            found = found + memory.project(memory.rows(ids, None if cache is None else cache.ids))
        heads = len(memory.keyer.orders) * memory.keyer.heads
        return found / (1 + heads) if self.average else found

    def extra_repr(self) -> str:
        return f"average={self.average}"
