"""The FLOPs regulariser: rows that are sparse, and whose non-zeros are spread evenly over the dimensions.

What an inverted index pays for a pair of rows is F = Σ_j p_j², where p_j is how often dimension j is not zero. That
has no gradient, so "Minimizing FLOPs to Learn Efficient Sparse Representations" (arXiv 2004.05665, ICLR 2020) puts the
mean magnitude ā_j of the dimension in the place of p_j:

    F̃ = Σ_j ā_j²,  ā_j = 1/n Σ_i |a_ij|          beside it      L1 = Σ_j ā_j

The gradient of F̃ at |a_ij| is 2 ā_j / n: busy dimensions are pushed harder. That of L1 is 1 / n everywhere, which
leaves a few crowded dimensions. The mean is over rows, inside the square (squares inside would be an L2 penalty), of
magnitudes (or signed rows would cancel). Queries and documents have a mean each: they are different populations.

The weight rises as λ(t) = λ · min(1, t / T)²: at full weight from the start it kills dimensions before they mean
anything. λ depends on the scale of the rows. The paper scales rows to unit length and then regularises them
(`SparseHead`); SPLADE regularises what it scores by, which has no fixed length (`Splade`). So a λ of one is none of the
other, and two penalties are to be compared at equal FLOPs or equal non-zeros, never at equal λ.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.training.scores import Pool

__all__ = ["Flops", "flops", "l1", "ramp"]

Penalty = Literal["flops", "l1"]


def flops(rows: Tensor) -> Tensor:
    """F̃ of rows [n, dim]: Σ_j (mean_i |a_ij|)². 0 of no rows."""
    return _busy(rows).square().sum()


def l1(rows: Tensor) -> Tensor:
    """Mean L1 norm of rows [n, dim]. 0 of no rows."""
    return _busy(rows).sum()


def _busy(rows: Tensor) -> Tensor:
    if rows.ndim != 2:
        raise BadInput(f"rows must be [n, dim], got shape {list(rows.shape)}")
    return rows.float().abs().sum(0) / max(len(rows), 1)


def ramp(step: float, steps: float) -> float:
    """min(1, t / T)², the share of λ after `step` updates of the `steps` that the rise takes; 1 where steps is 0."""
    return 1.0 if step >= steps else (step / steps) ** 2


class Flops(nn.Module):
    """λ_q(t) · penalty(queries) + λ_d(t) · penalty(documents), as a term.

    A batch must come whole: the square of a mean over fewer rows is larger in expectation, so means of micro-batches
    would not do. (The trainer joins the parts of `Stage.micro` before it asks for a loss.) All documents of a batch,
    positives and negatives, have one mean.

    It counts its own calls while it trains; the count is a buffer, so it is in checkpoints and a resumed run goes on.
    A source of texts only has no documents, and pays for queries alone.

    Args:
        lambda_q: full weight of the queries. SPLADE uses 5e-5 to 3e-4.
        lambda_d: full weight of the documents. SPLADE uses 3e-5 to 1e-4.
        steps: T, calls over which the weights rise; 0 for none. About a third of the run (SPLADE) to half of it.
        penalty: `flops`, or `l1` to compare with.
    """

    calls: Tensor

    def __init__(
        self, lambda_q: float = 3e-4, lambda_d: float = 1e-4, steps: int = 0, *, penalty: Penalty = "flops"
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in (("lambda_q", lambda_q), ("lambda_d", lambda_d)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise BadInput(f"{name} must be a number from 0 up, got {value!r}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise BadInput(f"steps must be a whole number from 0 up, got {steps!r}")
        if penalty not in get_args(Penalty):
            raise BadInput(f"penalty must be one of {', '.join(get_args(Penalty))}, got {penalty!r}")
        self.lambda_q, self.lambda_d, self.steps, self.penalty = float(lambda_q), float(lambda_d), steps, penalty
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"lambda_q={self.lambda_q:g}, lambda_d={self.lambda_d:g}, steps={self.steps}, penalty={self.penalty!r}"

    @property
    def weights(self) -> tuple[float, float]:
        """λ_q and λ_d as the next call will have them."""
        share = ramp(int(self.calls), self.steps)
        return share * self.lambda_q, share * self.lambda_d

    def forward(self, pool: Pool) -> Tensor:
        """The weighted penalty of a pool."""
        of = flops if self.penalty == "flops" else l1
        lambda_q, lambda_d = self.weights
        loss = lambda_q * of(pool.q) + lambda_d * of(pool.d.flatten(0, 1))
        if self.training:
            self.calls += 1
        return loss
