"""What inputs made of frequent n-grams share: where a frequent n-gram ends, its row stands in place of the token's.

    e_i = row of the longest f-gram (σ_j, …, σ_i) that ends at i, if there is one
    e_i = T(σ_i) otherwise

Rows of f-grams replace those of tokens and are not added to them. Each f-gram of a batch is made once, however often it
is met. Nothing behind i is read, and nothing before the document of i.

Source: SCONE (arXiv 2502.01637), section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inlay.errors import BadInput, SpaceMismatch
from inlay.lm.cache import KeyValueCache
from inlay.lm.frequent_ngrams import FGrams
from inlay.tables.table import Compiled, Table

__all__ = ["FGramInput"]


class FGramInput(nn.Module):
    """The `input` socket: ids to rows. A subclass says in `rows` what the row of an f-gram is.

    Args:
        fgrams: which n-grams have rows; None where a subclass finds them by itself.
        tokens: T, the rows of all others: token id → row [dim].
        separator: the token that documents begin with; None: a text is one document.
    """

    wants_cache = True
    _digest: Tensor

    def __init__(self, fgrams: FGrams | None, tokens: Table | Compiled, separator: int | None = None) -> None:
        super().__init__()
        if not isinstance(tokens, Table | Compiled):
            raise BadInput(f"tokens must be a table, inlay.tables.Full for one, got {type(tokens).__name__}")
        if separator is not None and (isinstance(separator, bool) or not 0 <= separator < tokens.rows):
            raise BadInput(f"separator must be a token id in [0, {tokens.rows}), got {separator!r}")
        if fgrams is not None:
            if not isinstance(fgrams, FGrams):
                raise BadInput(f"fgrams must be FGrams, as mine_fgrams gives them, got {type(fgrams).__name__}")
            if len(fgrams) and fgrams.tokens.max() >= tokens.rows:
                raise BadInput(
                    f"f-grams hold token {fgrams.tokens.max()}, the table of tokens ends at {tokens.rows}; mine them "
                    "from text of the same tokenizer"
                )
            # A number means an f-gram only together with the list: weights are refused where the list is another one.
            digest = torch.frombuffer(bytearray(fgrams.fingerprint), dtype=torch.uint8)
            self.register_buffer("_digest", digest)
        self.fgrams, self.tokens, self.separator = fgrams, tokens, separator

    @property
    def dim(self) -> int:
        """Width of rows."""
        return self.tokens.dim

    @property
    def max_n(self) -> int:
        """Tokens of the longest f-gram there is room for."""
        assert self.fgrams is not None
        return self.fgrams.max_n

    def rows(self, numbers: np.ndarray) -> Tensor:
        """Rows [n, dim] of f-grams int64 [n]."""
        raise NotImplementedError

    def found(self, ids: np.ndarray, last: int) -> tuple[Tensor, np.ndarray]:
        """Rows [u, dim] of the f-grams that end at the last tokens of ids [batch, time], each once; and which ends
        where, int64 [batch, last], -1 for none.
        """
        assert self.fgrams is not None
        unique, place = self.fgrams.distinct(ids, separator=self.separator, last=last)
        return (self.rows(unique) if len(unique) else torch.zeros(0, self.dim)), place

    def forward(self, ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Rows [batch, length, dim] of ids [batch, length].

        Args:
            ids: the tokens.
            cache: remembers the tokens before them, if they go on a text.
        """
        if ids.ndim != 2 or ids.dtype.is_floating_point or ids.dtype is torch.bool:
            raise BadInput(f"ids must be integers [batch, length], got {ids.dtype} {list(ids.shape)}")
        before = None if cache is None else cache.ids
        whole = ids if before is None else torch.cat([before[:, max(0, before.shape[1] - self.max_n + 1) :], ids], 1)
        made, place = self.found(whole.detach().cpu().numpy(), ids.shape[1])
        at = torch.from_numpy(place).to(ids.device).flatten()
        alone = at < 0
        rows = self.tokens(ids.flatten()[alone])
        # The rows of tokens first, then those of f-grams: which of them each place takes.
        at = torch.where(alone, alone.cumsum(0) - 1, at + len(rows))
        every = torch.cat([rows, made.to(rows.device)]) if len(made) else rows
        return every[at].view(*ids.shape, self.dim)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        given = state_dict.get(f"{prefix}_digest")
        if given is not None and self.fgrams is not None and not torch.equal(given.cpu(), self._digest.cpu()):
            raise SpaceMismatch("these weights belong to other f-grams; make the input with those it was trained on")
        super()._load_from_state_dict(state_dict, prefix, *rest)
