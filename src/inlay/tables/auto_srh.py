"""AutoSrh: gates for the dimensions of ids that are about as frequent, searched on held-out rows.

Kong, Cheng, Chen, Wang, Wang: "AutoSrh: An Embedding Dimensionality Search Framework for Tabular Data Prediction" (IEEE
TKDE 2022), as in arXiv 2311.15578.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.compiled import sparse
from inlay.tables.deep_light import kept_within
from inlay.tables.keyspace import KeySpace
from inlay.tables.staged import Staged, largest
from inlay.tables.table import Compiled, Table

__all__ = ["AutoSrh", "frequency_groups"]


class AutoSrh(Staged):
    """Value = E[x] · α[g(x)], with g(x) the frequency group of id x and α [groups, dim] in [0, 1], all 1 at first.

    After a warm-up E learns from training batches and α from held-out ones, by gradient descent on the loss and l1 ·
    |α|, each group's gradient divided by its mean magnitude. Then α is fixed, E trained again, and in the end the
    smallest |E · α| become zeros.

    Args:
        rows: number of keys.
        dim: width.
        keep: numbers kept in the end.
        groups: of ids.
        gate_lr: rate of α.
        l1: pull of α towards 0.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
        counts: how often each id is seen in training, [rows]; None (as a file is read) takes one group for all.
        stage: `warm-up`, `search` or `re-train`.
    """

    stages = ("warm-up", "search", "re-train")

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        keep: int,
        groups: int = 6,
        gate_lr: float = 1e-3,
        l1: float = 1e-5,
        scale: float | None = None,
        counts: np.ndarray | None = None,
        stage: str | None = None,
    ) -> None:
        super().__init__(rows, dim, keep=keep, groups=groups, gate_lr=gate_lr, l1=l1, scale=scale, stage=stage)
        if not 0 <= keep <= rows * dim:
            raise BadInput(f"keep must be from 0 to {rows * dim:,}, got {keep}")
        if not 1 <= groups <= 255:
            raise BadInput(f"groups must be from 1 to 255, got {groups}")
        if not gate_lr >= 0 or not l1 >= 0:
            raise BadInput(f"gate_lr and l1 must be at least 0, got {gate_lr} and {l1}")
        self.keep, self.gate_lr, self.l1 = keep, gate_lr, l1
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-bound, bound))
        self.gates = nn.Parameter(torch.ones(groups, dim))
        of = np.zeros(rows, dtype=np.uint8) if counts is None else frequency_groups(counts, groups)
        if len(of) != rows:
            raise BadInput(f"counts has {len(of)} numbers for {rows} rows")
        self.register_buffer("group", torch.from_numpy(of))
        self.group: Tensor
        self._hold_gates()

    def _hold_gates(self) -> None:
        self.gates.requires_grad_(self.searching)

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """As many numbers as the budget holds in sparse form; the gates are multiplied in, and cost nothing."""
        keep = min(kept_within(space.rows, budget_bytes), space.rows * dim)
        return cls(space.rows, dim, keep=keep, counts=space.counts, **settings)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        return F.embedding(ids, self.weight) * self.gates[self.group[ids].long()]

    @property
    def searching(self) -> bool:
        """In its second stage."""
        return self.stage == "search"

    def own_parameters(self) -> list[nn.Parameter]:
        """The gates."""
        return [self.gates]

    def search_step(
        self,
        valid_loss: Callable[[], Tensor],
        *,
        train_loss: Callable[[], Tensor] | None = None,
        weights: Sequence[nn.Parameter] = (),
        lr: float = 0.0,
    ) -> None:
        """A step of the gates on a held-out batch."""
        if not self.searching:
            return
        (slope,) = torch.autograd.grad(valid_loss(), [self.gates])
        with torch.no_grad():
            slope = slope / slope.abs().mean(1, keepdim=True).clamp(min=1e-12)
            self.gates.sub_(self.gate_lr * (slope + self.l1 * self.gates.sign())).clamp_(0, 1)
            self.gates.grad = None

    def after_step(self) -> None:
        """Drop what the training batch said of the gates."""
        self.gates.grad = None

    def advance(self) -> Table:
        """The same table; its gates are free only while they are searched."""
        made = super().advance()
        self._hold_gates()
        return made

    @torch.no_grad()
    def finish(self) -> Table:
        """Keep the `keep` largest numbers |E · α|."""
        self.weight.mul_(largest(self.weight * self.gates[self.group.long()], self.keep))
        return self

    @torch.no_grad()
    def compiled(self) -> Compiled:
        """Sparse rows, the gates multiplied in."""
        return sparse(self.materialize())


def frequency_groups(counts: np.ndarray, groups: int) -> np.ndarray:
    """Group uint8 [n] of each id, 0 for the most frequent: `groups` of about as many; ids seen as often go together."""
    counts = np.asarray(counts)
    _, inverse, of_value = np.unique(-counts, return_inverse=True, return_counts=True)
    middle = np.cumsum(of_value) - of_value / 2  # where the block of equal counts lies, by its middle
    group = np.minimum((middle / len(counts) * groups).astype(np.int64), groups - 1)
    return group[inverse.reshape(-1)].astype(np.uint8)
