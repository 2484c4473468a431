"""What a block does to each token by itself: the dense form, and the width it has."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SwiGLU", "hidden_width"]


def hidden_width(dim: int, *, multiple: int = 128, factor: float = 1.0) -> int:
    """Hidden units of a SwiGLU as Llama rounds them: two thirds of 4·dim, up to a multiple."""
    return multiple * -(-int(int(2 * 4 * dim / 3) * factor) // multiple)


class SwiGLU(nn.Module):
    """y = down(SiLU(gate x) ⊙ up x), without biases.

    Args:
        dim: width of the residual stream.
        hidden: hidden units.
        linear: makes the maps, called (inputs, outputs).
    """

    def __init__(self, dim: int, hidden: int, linear: Callable[[int, int], nn.Module] | None = None) -> None:
        super().__init__()
        linear = linear or (lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False))
        self.gate, self.up, self.down = linear(dim, hidden), linear(dim, hidden), linear(hidden, dim)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Normed rows [..., dim] to what is added; the ids of the tokens are not looked at."""
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out
