"""EmbeddingGemma's spread-out regulariser: vectors near to uniform on the sphere survive quantisation and truncation.

To the letter of arXiv 2509.20354: L_S = 1/(B(B−1)) Σ_{i≠j} (q_i·q_j)², and the same for the positives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inlay.training.scores import Pool

__all__ = ["SpreadOut", "spread_out"]


def spread_out(rows: Tensor, floor: float = 0.0) -> Tensor:
    """Mean squared cosine of distinct unit rows [n, dim], as far as it exceeds `floor`; 0 for orthonormal rows."""
    n = len(rows)
    if n < 2:
        return rows.sum() * 0
    # |rowsᵀ rows|² = |rows rowsᵀ|², and costs n·dim² rather than n²·dim: take the smaller.
    small = rows.T @ rows if rows.shape[1] < n else rows @ rows.T
    total = small.square().sum() - rows.square().sum(-1).square().sum()
    return torch.relu(total / (n * (n - 1)) - floor)


class SpreadOut(nn.Module):
    """`spread_out` of the queries plus that of the positives.

    Args:
        floor: the mean square that costs nothing: 0 is the printed form; "1/d" is what random directions have.
    """

    def __init__(self, floor: float | str = 0.0) -> None:
        super().__init__()
        if isinstance(floor, str) and floor != "1/d":
            from inlay.errors import BadInput

            raise BadInput(f"floor must be a number or '1/d', got {floor!r}")
        self.floor = floor

    def forward(self, pool: Pool) -> Tensor:
        """The regulariser of a pool."""
        floor = 1 / pool.rows.shape[1] if isinstance(self.floor, str) else self.floor
        loss = spread_out(pool.q, floor)
        return loss + spread_out(pool.d[:, 0], floor) if pool.d.shape[1] else loss
