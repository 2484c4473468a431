"""Where a token stands, as the decoder's `position` socket takes it: rotated queries and keys, or added scores.

A position is any module with `rotate(x, at)` for queries and keys [..., length, width] at positions [length], and
`bias(query_at, key_at)`, a tensor that broadcasts over [batch, heads, queries, keys], or None.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inlay.errors import BadInput

__all__ = ["Rotary"]


class Rotary(nn.Module):
    """RoPE: pairs of coordinates turn by an angle that grows with the position.

    Args:
        width: of an attention head; even.
        theta: base of the frequencies.
    """

    frequency: Tensor

    def __init__(self, width: int, theta: float = 10_000.0) -> None:
        super().__init__()
        if width % 2:
            raise BadInput(f"rotary positions need heads of even width, got {width}")
        self.width, self.theta = width, theta
        self.register_buffer("frequency", theta ** (-torch.arange(0, width, 2) / width), persistent=False)

    def rotate(self, x: Tensor, at: Tensor) -> Tensor:
        """Turn x [..., length, width] by its positions [length]."""
        angle = at[:, None].float() * self.frequency  # [length, width / 2]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        even, odd = x.chunk(2, -1)
        return torch.cat([even * cos - odd * sin, odd * cos + even * sin], -1)

    def bias(self, query_at: Tensor, key_at: Tensor) -> Tensor | None:
        """Nothing is added to scores."""
        return None

    def extra_repr(self) -> str:
        return f"{self.width}, theta={self.theta:g}"
