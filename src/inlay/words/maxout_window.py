"""Words in context: layers that each look one word to either side.

Source: the MaxoutWindowEncoder of "Multi hash embeddings in spaCy" (arXiv 2212.09255).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from inlay.errors import BadInput, Corrupt
from inlay.tables import files
from inlay.tables.multi_hash import Maxout, Words
from inlay.tables.table import Rows, _make

__all__ = ["MaxoutWindow"]


class MaxoutWindow(nn.Module):
    """`depth` times: a word and its neighbours side by side → Maxout → layer norm → dropout, added to the word.

    Args:
        embed: a layer from words to vectors, `MultiHash` or `MultiEmbed` (or the frozen form of one).
        depth: layers; a word sees `depth · window` words to each side, and never another document.
        window: words to each side in one layer.
        pieces: of Maxout.
        dropout: share of numbers set to zero while learning.
    """

    def __init__(self, embed: Rows, *, depth: int = 4, window: int = 1, pieces: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        for name, number in (("depth", depth), ("window", window)):
            if not isinstance(number, int) or number < 1:
                raise BadInput(f"{name} must be an integer of at least 1, got {number!r}")
        if not 0 <= dropout < 1:
            raise BadInput(f"dropout must lie in [0, 1), got {dropout!r}")
        self.embed, self.window = embed, window
        self.settings = {"depth": depth, "window": window, "pieces": pieces, "dropout": dropout}
        width = embed.dim
        self.layers = nn.ModuleList(Maxout((2 * window + 1) * width, width, pieces=pieces) for _ in range(depth))
        self.drop = nn.Dropout(dropout)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.embed.dim

    def read(self, documents: Sequence[Sequence[str]]) -> Words:
        """Documents as numbers; see `MultiHash.read`."""
        source: Any = getattr(self.embed, "table", self.embed)  # a frozen layer keeps its table
        words: Words = source.read(documents)
        return words

    def forward(self, documents: Any) -> Tensor:
        """Float32 [words of all documents, dim], of lists of words or of what `read` made of them."""
        given = documents if isinstance(documents, Words) else self.read(documents)
        x = self.embed(given)
        owner = torch.repeat_interleave(torch.arange(len(given.lengths)), torch.tensor(given.lengths, dtype=torch.long))
        for layer in self.layers:
            x = x + self.drop(layer(self._windows(x, owner)))
        return x

    def _windows(self, x: Tensor, owner: Tensor) -> Tensor:
        """Words with their neighbours side by side [n, (2 window + 1) · dim]; zeros beyond the ends of a document."""
        parts = []
        for shift in range(-self.window, self.window + 1):
            if not shift:
                parts.append(x)
                continue
            moved = torch.zeros_like(x)
            size = len(x) - abs(shift)
            if size > 0:
                to, of = (slice(-shift, None), slice(0, size)) if shift < 0 else (slice(0, size), slice(shift, None))
                same = (owner[to] == owner[of])[:, None]
                moved[to] = x[of] * same
            parts.append(moved)
        return torch.cat(parts, dim=-1)

    def save(self, path: str | Path) -> Path:
        """Write to one file (safetensors, settings in its header)."""
        facts = {"class": "MaxoutWindow", "settings": self.settings, "embed": self.embed._facts()}
        return files.write(path, self.state_dict(), facts)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        tensors, facts = files.read(path)
        if facts.get("class") != "MaxoutWindow":
            raise BadInput(f"{path} holds a {facts.get('class')}, not a MaxoutWindow")
        try:
            made = cls(_make(facts["embed"], path), **facts["settings"])
            made.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError) as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); save it again") from None
        return made
