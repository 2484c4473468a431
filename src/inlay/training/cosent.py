"""CoSENT, for pairs with graded similarity (STS): every pair of pairs whose gold order is known counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.training.scores import Pool

__all__ = ["CoSENT", "cosent"]


def cosent(s: Tensor, gold: Tensor, tau: float = 0.05) -> Tensor:
    """log(1 + Σ exp((s_b − s_a)/τ)) over all a, b with gold_a > gold_b; ties are left out.

    Args:
        s: cosines of the pairs [n].
        gold: their gold similarity [n].
        tau: temperature. The usual .05 lost to plain squared error where we measured; .2 did not.
    """
    gap = ((s[None] - s[:, None]).float() / tau)[gold[:, None] > gold[None]]
    return torch.cat([gap.new_zeros(1), gap]).logsumexp(0)


class CoSENT(nn.Module):
    """`cosent` of query and positive against the examples' `score`. Wants one source to a batch, and a large batch."""

    def __init__(self, tau: float = 0.2) -> None:
        super().__init__()
        if not tau > 0:
            raise BadInput(f"tau must be above 0, got {tau}")
        self.tau = tau

    def forward(self, pool: Pool) -> Tensor:
        """The loss of a pool of graded pairs."""
        if None in pool.batch.score or not pool.d.shape[1]:
            raise BadInput(f"CoSENT needs pairs with a score, which source {pool.batch.source!r} does not have")
        gold = torch.tensor(pool.batch.score, device=pool.rows.device)
        return cosent((pool.q * pool.d[:, 0]).sum(-1), gold, self.tau)
