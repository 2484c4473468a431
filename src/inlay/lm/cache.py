"""What a decoder remembers of the tokens it has read: the `cache` socket.

Keys and values, layer by layer; the ids, for parts that read more than the current one; and what such parts keep for
themselves. The plain cache keeps everything. A policy that evicts or shares overrides `extend`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inlay.errors import BadInput

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """Keeps every key and value.

    `length` counts tokens read, which is where the next one stands; what is kept of them may be fewer. `ids` and
    `memory_ids` are those tokens, int64 [batch, length], None before the first; a part that is called while further
    tokens are read finds there the tokens before them.
    """

    def __init__(self) -> None:
        self.length = 0
        self.layers: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.ids: Tensor | None = None
        self.memory_ids: Tensor | None = None
        self.kept: dict[tuple[int, int], Tensor] = {}  # by the part's id(): a copied cache serves the same parts

    def extend(self, layer: int, keys: Tensor, values: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add keys and values [batch, heads, new, width] at positions [new]; returns all that is to be attended."""
        if layer in self.layers:
            old = self.layers[layer]
            keys, values = torch.cat([old[0], keys], 2), torch.cat([old[1], values], 2)
            at = torch.cat([old[2], at])
        self.layers[layer] = keys, values, at
        return keys, values, at

    def check(self, ids: Tensor) -> None:
        """Refuse ids [batch, new] of another batch than the one read so far."""
        if self.ids is not None and len(self.ids) != len(ids):
            raise BadInput(f"this cache is of {len(self.ids)} texts, got {len(ids)}; begin another with a new cache")

    def read(self, ids: Tensor, memory_ids: Tensor) -> None:
        """Note that tokens [batch, new] have been read; the decoder says so when all of its parts have seen them."""
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], 1)
        self.memory_ids = memory_ids if self.memory_ids is None else torch.cat([self.memory_ids, memory_ids], 1)
        self.length += ids.shape[1]

    def recall(self, part: nn.Module, layer: int) -> Tensor | None:
        """What a part of a layer kept when it was last called; None at first."""
        return self.kept.get((id(part), layer))

    def keep(self, part: nn.Module, layer: int, state: Tensor) -> None:
        """Keep a tensor for a part of a layer until its next call, in place of the one before."""
        self.kept[id(part), layer] = state

    def __repr__(self) -> str:
        return f"KeyValueCache({self.length} tokens, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values and of what parts keep; the ids, 16 bytes a token, are not counted."""
        held = [tensor for keys, values, _ in self.layers.values() for tensor in (keys, values)]
        return sum(tensor.numel() * tensor.element_size() for tensor in [*held, *self.kept.values()])
