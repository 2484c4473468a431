"""PEP: learn a threshold for every number of a table, and keep the numbers that exceed theirs.

Liu, Zhao, Chen, Zhang, Gao, Liu, Zhu, Tang: "Learnable Embedding Sizes for Recommender Systems" (arXiv 2101.07577, ICLR
2021).
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.compiled import sparse
from inlay.tables.deep_light import kept_within
from inlay.tables.keyspace import KeySpace
from inlay.tables.staged import Staged, largest
from inlay.tables.table import Compiled, Table

__all__ = ["PEP"]


class PEP(Staged):
    """Value = sign(v) · relu(|v| − sigmoid(s)), with an s for each number; then the survivors are trained from new.

    The search is over when no more than `keep` numbers are left. What is left is the mask; the second stage starts
    from another random table (a new seed, and a new model around it), with what is outside the mask at zero.

    The public code starts s at −150, where sigmoid(s) is 7e-66 and its gradient in float32 is nought: only weight decay
    moves s. Here s starts where sigmoid(s) is small beside the numbers, and has a gradient.

    Args:
        rows: number of keys.
        dim: width.
        keep: numbers kept in the end.
        start: where s starts.
        threshold_lr: rate of Adam for s; s moves about as much a step.
        threshold_decay: pull of s towards 0, a step, as a share: the other thing that raises thresholds.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
        seed: of the second start.
        stage: `search` or `re-train`.
    """

    stages = ("search", "re-train")

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        keep: int,
        start: float = -8.0,
        threshold_lr: float = 1e-2,
        threshold_decay: float = 0.0,
        scale: float | None = None,
        seed: int = 1,
        stage: str | None = None,
    ) -> None:
        super().__init__(
            rows, dim, keep=keep, start=start, threshold_lr=threshold_lr, threshold_decay=threshold_decay, scale=scale,
            seed=seed, stage=stage,
        )  # fmt: skip
        if not 0 <= keep <= rows * dim:
            raise BadInput(f"keep must be from 0 to {rows * dim:,}, got {keep}")
        if not math.isfinite(start) or not threshold_lr >= 0 or not 0 <= threshold_decay < 1:
            raise BadInput(f"start, threshold_lr, threshold_decay cannot be {start}, {threshold_lr}, {threshold_decay}")
        self.keep, self.threshold_lr, self.threshold_decay = keep, threshold_lr, threshold_decay
        self.bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-self.bound, self.bound))
        self.searched: nn.Parameter | None = None
        self.mask: Tensor | None
        self.register_buffer("mask", torch.ones(rows, dim, dtype=torch.bool) if self.stage == "re-train" else None)
        if self.stage == "search":
            self.searched = nn.Parameter(torch.full((rows, dim), float(start)))
            self._adam = torch.optim.Adam([self.searched], lr=threshold_lr)

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """As many numbers as the budget holds in sparse form."""
        return cls(space.rows, dim, keep=min(kept_within(space.rows, budget_bytes), space.rows * dim), **settings)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        v = F.embedding(ids, self.weight)
        if self.searched is None:
            assert self.mask is not None
            return v * self.mask[ids]
        return v.sign() * F.relu(v.abs() - F.embedding(ids, self.searched).sigmoid())

    def own_parameters(self) -> list[nn.Parameter]:
        """The thresholds."""
        return [] if self.searched is None else [self.searched]

    @torch.no_grad()
    def after_step(self) -> None:
        """A step of the thresholds."""
        if self.searched is None or self.searched.grad is None:
            return
        if self.threshold_decay:
            self.searched.mul_(1 - self.threshold_decay)
        self._adam.step()
        self.searched.grad = None

    @property
    @torch.no_grad()
    def left(self) -> int:
        """Numbers that are not zero."""
        if self.searched is None:
            assert self.mask is not None
            return int(self.mask.sum())
        return int((self.weight.abs() > self.searched.sigmoid()).sum())

    @property
    def stage_over(self) -> bool:
        """When the search has left so few numbers."""
        return self.searched is not None and self.left <= self.keep

    @property
    def may_keep(self) -> bool:
        """Of the search, only its end."""
        return self.searched is None or self.stage_over

    @property
    def fresh_model(self) -> bool:
        """The mask is what the search was for; nothing else of it is kept."""
        return True

    @torch.no_grad()
    def advance(self) -> Table:
        """A new table with the mask; a search that was stopped too early keeps what exceeds its threshold most."""
        if self.searched is None:
            return super().advance()
        surplus = (self.weight.abs() - self.searched.sigmoid()).clamp(min=0)
        mask = largest(surplus, self.keep) & (surplus > 0)
        made = type(self)(**{**self.settings, "stage": "re-train"})
        assert made.mask is not None
        made.mask.copy_(mask)
        random = torch.Generator().manual_seed(int(self.settings["seed"]))
        made.weight.copy_(torch.empty_like(made.weight).uniform_(-self.bound, self.bound, generator=random))
        return made

    @torch.no_grad()
    def compiled(self) -> Compiled:
        """Sparse rows."""
        return sparse(self.materialize())
