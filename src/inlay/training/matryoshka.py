"""Matryoshka: the first coordinates of a vector are a vector too. The loss is averaged over prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.training.scores import Pool

__all__ = ["Matryoshka"]


class Matryoshka(nn.Module):
    """A term over several prefixes of the vectors: cut, *then* scaled to unit length again, then the loss, averaged.

    Args:
        loss: any term.
        dims: widths, the full one included if it shall count.
        weights: weight of each width in the average; equal otherwise.
    """

    def __init__(self, loss: nn.Module, dims: Sequence[int], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not dims or min(dims) < 1 or len(set(dims)) < len(dims):
            raise BadInput(f"dims must be distinct positive widths, got {list(dims)}")
        if weights is not None and (len(weights) != len(dims) or not sum(weights) > 0):
            raise BadInput(f"{len(dims)} dims need as many weights, got {list(weights)}")
        self.loss, self.dims = loss, list(dims)
        self.weights = list(weights) if weights is not None else [1.0] * len(dims)

    def forward(self, pool: Pool) -> Tensor:
        """The averaged loss."""
        each = [weight * self.loss(pool.cut(dim)) for dim, weight in zip(self.dims, self.weights)]
        return torch.stack(each).sum() / sum(self.weights)
