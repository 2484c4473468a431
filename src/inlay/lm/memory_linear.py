"""A linear map's place taken by tables: chunks of the input are hashed by their signs, and rows of the buckets added.

    z_k = x[k·τ : (k+1)·τ]                                    k = 0 … K−1, K = inputs / τ
    h(z) = Σ_i [z_i ≥ 0] · 2^i                                zero counts as positive
    p(z) = exp(−Σ_i softplus(−2·|z_i| / t))                   = exp(⟨z, s⟩ / t) / Σ over all 2^τ patterns of signs
    y = Σ_k p(z_k) · T_k[h(z_k)]                              each table as wide as the output

A row that was read has p · ∂L/∂y for gradient; x has one through p alone, there is no straight-through estimator.
Inputs must be centred (LayerNorm, not RMSNorm), or bits are not balanced and buckets go unused: `bucket_usage` tells.
Where a number passes zero p is continuous and the row is not: under other batch sizes or devices, whose rounding
differs, another row may be read where a number is within rounding of zero.

Rows begin normal with a deviation of 1 / √(K · E[p²]), E over standard normal chunks, so that outputs have variance 1
from the start; with an ordinary 0.02 each layer's output is next to nothing. E[p²] = (2 ∫₀^∞ φ(z) / (1 + exp(−2z/t))²
dz)^τ is integrated for the τ and t at hand. The paper does not say how its tables begin.

Source: MemoryFormer: Minimize Transformer Computation by Removing Fully-Connected Layers (arXiv 2411.12992).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.kernels.memory_lookup import memory_lookup
from inlay.tables.full import Full

__all__ = ["BucketUsage", "MemoryLinear", "weight_moment"]

Start = Literal["unit_variance", "normal"]

MOST_BITS = 16


def weight_moment(tau: int, t: float = 1.0, power: int = 2) -> float:
    """E[p^power] of standard normal chunks, by integration over one coordinate; chunks have `tau` alike.

    τ = 8, t = 1: E[p] = 0.134, E[p²] = 0.0238.
    """
    _check(tau, t)
    if not isinstance(power, int) or power < 0:
        raise BadInput(f"power must be an integer of at least 0, got {power!r}")
    nodes, weights = np.polynomial.legendre.leggauss(200)
    end, total = 12.0, 0.0
    rise = min(16 * t, end)  # beyond it the integrand is the normal density
    for low, high in ((0.0, rise), (rise, end)):
        z = (high - low) / 2 * nodes + (high + low) / 2
        density = 2 * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        total += (high - low) / 2 * float(weights @ (density * (1 + np.exp(-2 * z / t)) ** -power))
    return float(total**tau)


@dataclass(frozen=True)
class BucketUsage:
    """Which buckets inputs fell into.

    Args:
        counts: int64 [K, 2**τ].
    """

    counts: Tensor

    @property
    def entropy(self) -> Tensor:
        """Of each table's buckets, nats, float64 [K]; at most τ·ln 2, and of n inputs too low by about 2**τ / 2n."""
        shares = self.counts.double() / self.counts.sum(1, keepdim=True)
        return torch.special.entr(shares).sum(1)

    @property
    def evenness(self) -> float:
        """Mean entropy as a share of what it is when all buckets are used alike."""
        return float(self.entropy.mean()) / math.log(self.counts.shape[1])

    @property
    def dead(self) -> Tensor:
        """How many buckets of each table nothing fell into, int64 [K]."""
        return (self.counts == 0).sum(1)


class _Buckets(Full):
    """Full rows that are read by bag, weighed and added, so that the n · K rows of a batch are never side by side."""

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sums [n, dim] of rows of valid ids [n, K] by weights [n, K]; without weights, rows."""
        if weights is None:
            return super().forward(ids)
        return F.embedding_bag(ids, self.weight, mode="sum", per_sample_weights=weights, sparse=self.sparse)

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"class": "Full"}  # in a file, rows are rows


class MemoryLinear(nn.Module):
    """Tables where a linear map would be, without a bias.

    `table` has the K tables below one another, [K · 2**τ, outputs]; trainers see it as a table, for `RowAdam`. The
    paper takes three times the learning rate of a dense model. Outside of training, on CPU, rows are read by a kernel.

    Args:
        inputs: width of what comes in; a multiple of `tau`.
        outputs: width of what goes out, and of every row.
        tau: bits of a bucket; tables have 2**tau rows. At most 16.
        t: temperature of p.
        start: "unit_variance" as above, or "normal", with a deviation of 0.02.
        sparse: give row-sparse gradients.
    """

    def __init__(
        self, inputs: int, outputs: int, tau: int = 8, t: float = 1.0, start: Start = "unit_variance",
        sparse: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        _check(tau, t)
        for what, number in (("inputs", inputs), ("outputs", outputs)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise BadInput(f"{what} must be an integer of at least 1, got {number!r}")
        if inputs % tau:
            raise BadInput(f"chunks of tau = {tau} numbers do not divide {inputs} inputs; take a tau that does")
        if start not in get_args(Start):
            raise BadInput(f"start must be one of {', '.join(get_args(Start))}, got {start!r}")
        self.inputs, self.outputs, self.tau, self.t, self.start, self.sparse = inputs, outputs, tau, t, start, sparse
        self.chunks = inputs // tau
        deviation = 0.02 if start == "normal" else (self.chunks * weight_moment(tau, t)) ** -0.5
        self.table = _Buckets(self.chunks << tau, outputs, scale=0.0, sparse=sparse)
        nn.init.normal_(self.table.weight, std=deviation)

    @property
    def weight(self) -> nn.Parameter:
        """Rows of all tables."""
        return self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        """Rows [..., inputs] to [..., outputs]. NaN is refused, since its sign is none."""
        flat = self._flat(x)
        if self._only_read(flat):
            y: Tensor = torch.from_numpy(
                memory_lookup(flat.detach().numpy(), self.weight.detach().numpy(), self.tau, self.t)
            )
            if y.isnan().any() and flat.isnan().any():
                raise _no_sign(flat)
            return y.view(*x.shape[:-1], self.outputs)
        if flat.element_size() < 4:
            flat = flat.float()  # products of many probabilities want more than a half's digits
        buckets, positive = self._buckets(flat)
        signs = positive.to(flat.dtype) * 2 - 1
        z = flat.view(-1, self.chunks, self.tau)
        p = F.logsigmoid(z * signs * (2 / self.t)).sum(-1).exp()
        if p.isnan().any():
            raise _no_sign(flat)
        rows = buckets + (torch.arange(self.chunks, device=x.device) << self.tau)
        y = self.table(rows, p.to(self.weight.dtype))
        return y.view(*x.shape[:-1], self.outputs)

    @torch.no_grad()
    def bucket_usage(self, x: Tensor) -> BucketUsage:
        """Which buckets rows [..., inputs] fall into."""
        flat = self._flat(x)
        if not len(flat):
            raise BadInput("bucket_usage needs at least one row")
        if flat.isnan().any():
            raise _no_sign(flat)
        buckets, _ = self._buckets(flat)
        return BucketUsage(torch.stack([chunk.bincount(minlength=1 << self.tau) for chunk in buckets.T]))

    def flops_per_token(self, length: int) -> int:
        """2·K·(τ + outputs), whatever the length: hashing and weighing each number, and adding K weighted rows."""
        return 2 * self.chunks * (self.tau + self.outputs)

    def extra_repr(self) -> str:
        return (
            f"{self.inputs}, {self.outputs}, tau={self.tau}, t={self.t:g}, start={self.start!r}, sparse={self.sparse}"
        )

    def _flat(self, x: Tensor) -> Tensor:
        if not x.is_floating_point() or not x.ndim or x.shape[-1] != self.inputs:
            raise BadInput(f"x must be floats [..., {self.inputs}], got {x.dtype} {list(x.shape)}")
        return x.reshape(-1, self.inputs)

    def _buckets(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Buckets int64 [n, K] and whether numbers count as positive, bool [n, K, τ]."""
        positive = flat.view(-1, self.chunks, self.tau) >= 0
        return (positive << torch.arange(self.tau, device=flat.device)).sum(-1), positive

    def _only_read(self, flat: Tensor) -> bool:
        learns = torch.is_grad_enabled() and (flat.requires_grad or self.weight.requires_grad)
        plain = flat.dtype == self.weight.dtype == torch.float32
        return plain and not learns and flat.device.type == self.weight.device.type == "cpu"


def _check(tau: int, t: float = 1.0) -> None:
    if not isinstance(tau, int) or isinstance(tau, bool) or not 1 <= tau <= MOST_BITS:
        raise BadInput(f"tau must be an integer from 1 to {MOST_BITS}, got {tau!r}; a table has 2**tau rows")
    if not isinstance(t, int | float) or isinstance(t, bool) or not 0 < t < math.inf:
        raise BadInput(f"t must be a number above 0, got {t!r}")


def _no_sign(flat: Tensor) -> BadInput:
    row = int(flat.isnan().any(1).nonzero()[0, 0])
    return BadInput(f"row {row} of x has NaN, which has no sign; lower the learning rate if it came up in training")
