"""Keys and values of the tokens read so far, layer by layer: the `cache` socket of the decoder.

The plain one keeps everything. A policy that evicts or shares overrides `extend`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """Keeps every key and value.

    `length` counts tokens read, which is where the next one stands; what is kept of them may be fewer.
    """

    def __init__(self) -> None:
        self.length = 0
        self.layers: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add keys and values [batch, heads, new, width] at positions [new]; returns all that is to be attended."""
        if layer in self.layers:
            old = self.layers[layer]
            keys, values = torch.cat([old[0], keys], 2), torch.cat([old[1], values], 2)
            at = torch.cat([old[2], at])
        self.layers[layer] = keys, values, at
        return keys, values, at

    def __repr__(self) -> str:
        return f"KeyValueCache({self.length} tokens, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(t.numel() * t.element_size() for keys, values, _ in self.layers.values() for t in (keys, values))
