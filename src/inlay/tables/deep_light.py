"""DeepLight: prune an embedding table by magnitude while it trains, ever more gently.

Deng, Pan, Zhou, Kong, Flores, Lin: "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR Predictions
in Ad Serving" (arXiv 2002.06987, WSDM 2021), for embedding tables as in arXiv 2311.15578.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.compiled import sparse, sparse_count
from inlay.tables.keyspace import KeySpace
from inlay.tables.staged import Staged, largest
from inlay.tables.table import Compiled, Table

__all__ = ["DeepLight"]


class DeepLight(Staged):
    """One table for all fields; after the warm-up its smallest numbers become zero every `every` steps.

    The share of zeros after t steps of pruning is R(1 − 0.99^(t / pace)), R = 1 − keep / (rows · dim). Zeros may grow
    back between prunings. A checkpoint counts once the share is within a thousandth of R: after pace · ln(1e-3) / ln
    0.99 ≈ 687 · pace steps. A budget of half the bytes is three quarters of zeros or so: each number kept brings its
    column with it.

    Args:
        rows: number of keys.
        dim: width.
        keep: numbers kept in the end.
        every: steps between two prunings.
        pace: of the schedule, in steps. The paper's 100 suits tens of thousands of steps an epoch; data of a thousand
            times fewer rows want 1.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
        stage: `warm-up`, or `prune`.
    """

    stages = ("warm-up", "prune")

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        keep: int,
        every: int = 10,
        pace: float = 100.0,
        scale: float | None = None,
        stage: str | None = None,
    ) -> None:
        super().__init__(rows, dim, keep=keep, every=every, pace=pace, scale=scale, stage=stage)
        if not 0 <= keep <= rows * dim:
            raise BadInput(f"keep must be from 0 to {rows * dim:,}, got {keep}")
        if every < 1 or not pace > 0:
            raise BadInput(f"every must be at least 1 and pace above 0, got {every} and {pace}")
        self.keep, self.every, self.pace = keep, every, pace
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-bound, bound))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.steps: Tensor

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """As many numbers as the budget holds in sparse form."""
        return cls(space.rows, dim, keep=min(kept_within(space.rows, budget_bytes), space.rows * dim), **settings)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        return F.embedding(ids, self.weight)

    @property
    def share(self) -> float:
        """Of zeros, that the schedule wants now."""
        full = 1 - self.keep / self.weight.numel()
        return full * (1 - 0.99 ** (int(self.steps) / self.pace))

    @property
    def may_keep(self) -> bool:
        """Of the pruning stage, only once its schedule is done."""
        return self.stage == "warm-up" or int(self.steps) > self.pace * math.log(1e-3) / math.log(0.99)

    @torch.no_grad()
    def after_step(self) -> None:
        """Prune, every so often."""
        if self.stage != "prune":
            return
        self.steps += 1
        if int(self.steps) % self.every == 0:
            self._prune(self.weight.numel() - round(self.share * self.weight.numel()))

    def _prune(self, keep: int) -> None:
        self.weight.mul_(largest(self.weight, keep))

    @torch.no_grad()
    def finish(self) -> Table:
        """Prune to `keep` exactly: what grew back since, and the schedule's last thousandth."""
        self._prune(self.keep)
        return self

    def compiled(self) -> Compiled:
        """Sparse rows."""
        return sparse(self.weight.detach())


def kept_within(rows: int, budget_bytes: float) -> int:
    """Numbers that fit, at least one."""
    keep = sparse_count(rows, budget_bytes)
    if keep < 1:
        raise BadInput(f"{budget_bytes:,.0f} bytes are too few: one number takes 10")
    return keep
