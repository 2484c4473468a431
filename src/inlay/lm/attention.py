"""Causal attention with grouped heads: each group of query heads shares a head of keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.lm.cache import KeyValueCache

__all__ = ["Attention"]


class Attention(nn.Module):
    """Softmax over everything before.

    Args:
        dim: width of the residual stream.
        heads: query heads; must divide `dim`.
        kv_heads: heads of keys and values; must divide `heads`. None: as many.
        linear: makes the maps, called (inputs, outputs).
        project: map what the heads found once more; else it is added side by side as it is.
    """

    def __init__(
        self, dim: int, heads: int, kv_heads: int | None = None, linear: Callable[[int, int], nn.Module] | None = None,
        *, project: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or dim % heads or kv_heads < 1 or heads % kv_heads:
            raise BadInput(f"{heads} heads must divide dim {dim}, and {kv_heads} heads of keys divide them")
        linear = linear or (lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False))
        self.heads, self.kv_heads, self.width = heads, kv_heads, dim // heads
        self.query, self.out = linear(dim, dim), linear(dim, dim) if project else nn.Identity()
        self.key, self.value = (linear(dim, kv_heads * self.width) for _ in range(2))

    def forward(
        self, x: Tensor, at: Tensor, position: Any, cache: KeyValueCache | None = None, layer: int = 0
    ) -> Tensor:
        """Normed rows [batch, length, dim] at positions [length] to what is added to them."""
        batch, length, dim = x.shape
        split = (batch, length, -1, self.width)
        q, k, v = (m(x).view(split).transpose(1, 2) for m in (self.query, self.key, self.value))
        q, k = position.rotate(q, at), position.rotate(k, at)
        key_at = at
        if cache is not None:
            k, v, key_at = cache.extend(layer, k, v, at)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        bias = position.bias(at, key_at)
        if bias is None and len(key_at) == length:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = (key_at[None, :] <= at[:, None])[None, None]
            mask = seen if bias is None else bias.masked_fill(~seen, float("-inf"))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
        return out
