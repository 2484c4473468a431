"""SCONE: input rows of frequent n-grams, made by a small transformer while it learns and read from a table afterwards.

    e_i = A_f(T(σ_j), …, T(σ_i)), the hidden state at its last token, of the longest f-gram that ends at i
    e_i = T(σ_i) where none ends

A_f is causal and reads nothing but the f-gram, by the token rows T that the model uses anyway and positions of its own,
0 to K − 1. So e_i depends on the f-gram alone, and once training is over all of them can be written down
(`compile_inputs`): the model has millions of input rows, none of which costs anything but a look-up. What a plain table
of n-grams lacks is that A_f learns from all of them: a row met rarely is as well trained as the rest.

The hidden state is that of the residual stream: no norm follows the last block, which the paper leaves open. So e_i is
T(σ_i) with something added, as the stream of the decoder itself would have it.

Source: Scaling Embedding Layers in Language Models (arXiv 2502.01637).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.attention import Attention
from inlay.lm.decoder import Block, _linear, _truncated_normal
from inlay.lm.feed_forward import SwiGLU, hidden_width
from inlay.lm.fgram_input import FGramInput
from inlay.lm.frequent_ngrams import FGrams
from inlay.tables.table import Table

__all__ = ["Scone"]


class Scone(FGramInput):
    """The `input` socket: ids to rows, those of f-grams made by A_f.

    Args:
        fgrams: which n-grams have rows.
        tokens: T, token id → row [dim]; shared by A_f and by tokens that end no f-gram.
        layers: blocks of A_f. As many as the main model's is the paper's neutral choice; 2 is for small ones.
        heads: attention heads of A_f.
        hidden: hidden units of A_f's feed-forward parts; None: `hidden_width(dim)`.
        separator: the token that documents begin with; None: a text is one document.
    """

    grams: Tensor
    lengths: Tensor

    def __init__(
        self, fgrams: FGrams, tokens: Table, layers: int = 2, *, heads: int = 4, hidden: int | None = None,
        separator: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(fgrams, tokens, separator)
        if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
            raise BadInput(f"layers must be an integer of at least 1, got {layers!r}")
        dim = tokens.dim
        width = hidden_width(dim) if hidden is None else hidden
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, heads, linear=_linear), SwiGLU(dim, width, _linear)) for _ in range(layers)
        )
        self.position = _Unturned()
        self.places = nn.Parameter(torch.empty(fgrams.max_n, dim))
        _truncated_normal(self.places, dim**-0.5)
        self.register_buffer("grams", torch.from_numpy(fgrams.tokens).long(), persistent=False)
        self.register_buffer("lengths", torch.from_numpy(fgrams.lengths).long(), persistent=False)
        self._read, self._made = 0, 0

    def rows(self, numbers: np.ndarray) -> Tensor:
        """Rows [n, dim] of f-grams int64 [n], by A_f."""
        chosen = torch.as_tensor(numbers, device=self.grams.device)
        if not len(chosen):
            return self.places.new_zeros(0, self.dim)
        last = self.lengths[chosen] - 1
        length = int(last.max()) + 1
        grams = self.grams[chosen, :length]
        # Tokens are looked up where there are any, so that no row of T is touched for the sake of padding. What stands
        # behind the last token is not seen by it.
        filled = grams >= 0
        rows = self.tokens(grams[filled])
        h = rows.new_zeros(*grams.shape, self.dim)
        h[filled] = rows
        h = h + self.places[:length]
        at = torch.arange(length, device=h.device)
        for layer, block in enumerate(self.blocks):
            h = block(h, grams, at, self.position, None, layer)
        return h[torch.arange(len(chosen), device=h.device), last]

    def found(self, ids: np.ndarray, last: int) -> tuple[Tensor, np.ndarray]:
        """As in `FGramInput`; counts what A_f has to do for it."""
        rows, place = super().found(ids, last)
        self._read += place.size
        self._made += len(rows)
        return rows, place

    @property
    def made_per_token(self) -> float:
        """F-grams that A_f made for each token read so far; distinct ones of a batch are made once. 1 before any."""
        return self._made / self._read if self._read else 1.0

    def flops_per_token(self, length: int) -> int:
        """FLOPs of A_f in the forward pass for each token of the text, the f-grams as long as there is room for.

        They depend on how many f-grams of a batch are distinct: counted as often as they were so far, and until a text
        was read, as if each token ended one of its own. A compiled input has none.
        """
        maps = sum(p.numel() for block in self.blocks for p in block.parameters() if p.ndim > 1)
        each = 2 * maps + len(self.blocks) * 4 * self.dim * self.max_n
        return round(self.made_per_token * self.max_n * each)

    def extra_repr(self) -> str:
        return f"{self.fgrams}, layers={len(self.blocks)}, separator={self.separator}"


class _Unturned(nn.Module):
    """The decoder's `position` socket where positions are added to the input."""

    def rotate(self, x: Tensor, at: Tensor) -> Tensor:
        return x

    def bias(self, query_at: Tensor, key_at: Tensor) -> Any:
        return None
