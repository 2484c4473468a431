"""Hash-MoE: full-width experts chosen by token id, the control that STEM is compared with.

The same signal routes (the id), the same layers have it, and a token costs the same FLOPs as in the dense model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.decoder import _linear
from inlay.lm.feed_forward import SwiGLU

__all__ = ["HashExperts"]


class HashExperts(nn.Module):
    """Experts, one a token: a fixed random map of ids, no gate weight and no balance loss.

    Args:
        vocab: number of token ids.
        dim: width of the residual stream.
        hidden: hidden units of each expert.
        experts: how many.
        seed: of the map.
        linear: makes the maps, called (inputs, outputs).
    """

    expert_of: Tensor

    def __init__(
        self, vocab: int, dim: int, hidden: int, experts: int = 8, seed: int = 0,
        linear: Callable[[int, int], nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if experts < 1:
            raise BadInput(f"experts must be at least 1, got {experts}")
        self.experts = nn.ModuleList(SwiGLU(dim, hidden, linear or _linear) for _ in range(experts))
        random = torch.Generator().manual_seed(seed)
        self.register_buffer("expert_of", torch.randint(experts, (vocab,), generator=random))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Normed rows [batch, length, dim] and ids [batch, length] to what is added."""
        chosen = self.expert_of[ids]
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            if mine.any():
                out[mine] = expert(x[mine], ids[mine])
        return out
