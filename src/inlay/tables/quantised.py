"""Tables that learn in few bits: integers times a step, rounded at random so that small updates are not lost.

`IntTable` has one fixed step. `ALPT` learns a step for each row: Li, Guo, Zhao, Zhang, Wang, Liu, Tang, Li: "Adaptive
Low-Precision Training for Embeddings in Click-Through Rate Prediction" (arXiv 2212.05735, AAAI 2023), with the gradient
of the step from LSQ (Esser et al., arXiv 1902.08153).

In training the optimiser needs a float parameter to hold on to: it is kept beside the integers, and `train_nbytes`
counts it. What these tables save is what is compiled, and what rounding does to quality is the real thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.compiled import DenseRows
from inlay.tables.keyspace import KeySpace
from inlay.tables.table import Compiled, Table

__all__ = ["ALPT", "IntTable", "stochastic_round"]

_DTYPES = {8: torch.int8, 16: torch.int16}


def stochastic_round(values: Tensor, random: torch.Generator) -> Tensor:
    """⌊v + u⌋ with u uniform in [0, 1): the mean over u is v."""
    return torch.floor(values + torch.rand(values.shape, generator=random))


class IntTable(Table):
    """Value = step · q with q of int8 or int16 and one fixed step.

    After each step of the optimiser the rows it read are rounded to ⌊v / step + u⌋, u uniform in [0, 1) from a
    generator of its own, and clipped. Rows that were not read stay as they are, whatever the optimiser's momentum does
    to them.

    Args:
        rows: number of keys.
        dim: width.
        bits: 8 or 16.
        step: worth of one.
        scale: rows begin uniform in ±scale; None takes √(1 / rows), and no less than one step.
        seed: of the rounding.
    """

    def __init__(
        self, rows: int, dim: int, *, bits: int = 8, step: float = 0.01, scale: float | None = None, seed: int = 0
    ) -> None:
        super().__init__(rows, dim, bits=bits, step=step, scale=scale, seed=seed)
        if bits not in _DTYPES:
            raise BadInput(f"bits must be 8 or 16, got {bits!r}")
        if not step > 0:
            raise BadInput(f"step must be above 0, got {step}")
        self.limit = (1 << (bits - 1)) - 1
        self.random = torch.Generator().manual_seed(seed)
        bound = max(rows**-0.5, step) if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-bound, bound))
        self.register_buffer("codes", torch.zeros(rows, dim, dtype=_DTYPES[bits]))
        self.register_buffer("step", torch.full((self._steps(),), float(step)))
        self.codes: Tensor
        self.step: Tensor
        self._read: list[Tensor] = []
        with torch.no_grad():
            self._quantise(torch.arange(rows))

    def _steps(self) -> int:
        return 1

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """As many bits as fit: 16, or 8; below a quarter of a full table nothing does. A fixed step is not counted."""
        for bits in (16, 8) if "bits" not in settings else (settings["bits"],):
            takes = space.rows * dim * bits // 8 + 4 * cls._learnt_steps(space.rows)
            if takes <= budget_bytes:
                return cls(space.rows, dim, **{**settings, "bits": bits})
        raise BadInput(f"{budget_bytes:,.0f} bytes are too few: {bits} bits take {takes:,}")

    @classmethod
    def _learnt_steps(cls, rows: int) -> int:
        return 0

    def _worth(self, ids: Tensor) -> Tensor:
        """Steps [..., 1] of ids [...]."""
        return self.step

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]: float ones to learn, those of the integers otherwise. Between steps they are the same."""
        if not self.training:
            return self.codes[ids].float() * self._worth(ids)
        self._read.append(ids.detach().flatten())
        return F.embedding(ids, self.weight)

    def _touched(self) -> Tensor:
        read, self._read = self._read, []
        return torch.cat(read).unique() if read else torch.zeros(0, dtype=torch.long)

    def _quantise(self, ids: Tensor) -> None:
        """Round rows of ids, and set every float row to what its integers say."""
        rounded = stochastic_round(self.weight[ids] / self._worth(ids), self.random)
        # Rows that no step moved are exactly step · q, which division need not give back as q.
        same = self.weight[ids] == self.codes[ids].float() * self._worth(ids)
        rounded = torch.where(same, self.codes[ids].float(), rounded).clamp(-self.limit, self.limit)
        self.codes[ids] = rounded.to(self.codes.dtype)
        self.weight.copy_(self.codes.float() * self._worth(torch.arange(self.rows)))

    @torch.no_grad()
    def after_step(self) -> None:
        """Round what was read."""
        self._quantise(self._touched())

    def compiled(self) -> Compiled:
        """Integers and their step or steps: equal to the learning form exactly."""
        return DenseRows.of(self.codes, scale=self.step)


class _Rounded(torch.autograd.Function):
    """round(w / s) · s within ±limit, with LSQ's derivative to the step s; none to w, which step A moved already."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, step: Tensor, limit: int, weight: float) -> Tensor:  # type: ignore[override]
        v = rows / step
        ctx.save_for_backward(v)
        ctx.limit, ctx.weight = limit, weight
        return v.round().clamp(-limit, limit) * step

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:  # type: ignore[override]
        (v,) = ctx.saved_tensors
        inside = v.abs() <= ctx.limit
        of_step = torch.where(inside, v.round() - v, v.sign() * ctx.limit)
        return None, (slope * of_step).sum(-1, keepdim=True) * ctx.weight, None, None


class ALPT(IntTable):
    """As `IntTable`, with a step for each row that is learnt.

    Of every training step: (A) the optimiser moves the float rows; (B) `second_pass` runs the model again on the same
    batch with those rows rounded to the nearest, round(w / s) · s, takes the gradient of the loss to s (for each number
    round(v) − v inside the range and ±limit outside, v = w / s, times 1 / √(batch · dim · limit)) and moves s;
    (C) `after_step` rounds the rows of A with the new s at random.

    The steps are moved by Adam, row by row: at their rate plain gradient descent would not move them at all.

    Args:
        rows: number of keys.
        dim: width.
        bits: 8 or 16.
        step: where the steps begin.
        step_lr: their rate.
        scale: rows begin uniform in ±scale; None takes √(1 / rows), and no less than one step.
        seed: of the rounding.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        bits: int = 8,
        step: float = 0.01,
        step_lr: float = 2e-5,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(rows, dim, bits=bits, step=step, scale=scale, seed=seed)
        self.settings["step_lr"] = step_lr
        if not step_lr >= 0:
            raise BadInput(f"step_lr must be at least 0, got {step_lr}")
        self.step_lr = step_lr
        self._leaf: Tensor | None = None
        self._moments = torch.zeros(3, rows)  # first, second, and how many steps: for training only, not in files
        self._passed = False

    def _steps(self) -> int:
        return self.rows

    @classmethod
    def _learnt_steps(cls, rows: int) -> int:
        return rows

    def _worth(self, ids: Tensor) -> Tensor:
        return self.step[ids][..., None]

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        if self._leaf is None:
            return super().lookup(ids)
        batch = ids.shape[0] if ids.ndim else 1
        weight = (batch * self.dim * self.limit) ** -0.5
        return _Rounded.apply(F.embedding(ids, self.weight.detach()), self._leaf[ids][..., None], self.limit, weight)

    def second_pass(self, loss: Callable[[], Tensor]) -> None:
        """Step B: move the steps of the rows of this batch.

        Args:
            loss: runs the model on the batch of this step again and gives its loss.
        """
        self._leaf = self.step.clone().requires_grad_(True)
        try:
            (slope,) = torch.autograd.grad(loss(), [self._leaf])
        finally:
            self._leaf = None
        self._passed = True
        with torch.no_grad():
            ids = torch.cat(self._read).unique() if self._read else torch.zeros(0, dtype=torch.long)
            first, second, count = self._moments
            g = slope[ids]
            count[ids] += 1
            first[ids] += 0.1 * (g - first[ids])
            second[ids] += 0.001 * (g * g - second[ids])
            mean, square = first[ids] / (1 - 0.9 ** count[ids]), second[ids] / (1 - 0.999 ** count[ids])
            self.step[ids] = (self.step[ids] - self.step_lr * mean / (square.sqrt() + 1e-8)).clamp(min=1e-8)

    @torch.no_grad()
    def after_step(self) -> None:
        """Step C."""
        if not self._passed and self._read:
            raise BadInput("ALPT learns its steps in a second pass: call second_pass(loss) before after_step()")
        self._passed = False
        super().after_step()
