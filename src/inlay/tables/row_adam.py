"""AdamW that pays for the rows a batch touched, not for the table.

With t the steps taken so far (this one included), and s the step at which a row was last touched, a row with gradient g
(the sum over its occurrences) becomes

    m ← β₁^(t−s) m + (1 − β₁) g         v ← β₂^(t−s) v + (1 − β₂) g²
    row ← row · Π_{s < i ≤ t} (1 − lr_i · λ)
    row ← row − lr_t · (m / (1 − β₁^t)) / (√(v / (1 − β₂^t)) + ε)

The moments are those dense AdamW would have, had the row's gradient been zero since s; so is the decay, also under a
learning rate that changes (its logarithms are summed). What dense AdamW does beside that, and this does not, is to move
a row on by its old moments in steps that do not touch it: lazy rows do not coast. With β₁ = β₂ = 0, or where every row
is touched in every step, both are the same.

Decay owed is paid when a row is next touched; call `refresh(table, ids)` before the forward pass to pay it before the
row is read, and `flush()` before rows are saved or compiled.

Source: the table optimiser of STEM (arXiv 2601.10639) and Engram (arXiv 2601.07372) in row-sparse form; AdamW is
Loshchilov & Hutter (arXiv 1711.05101).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from inlay.errors import BadInput

__all__ = ["RowAdam"]


class RowAdam(torch.optim.Optimizer):
    """Row-sparse AdamW for tables [rows, …], from sparse gradients (`Full(sparse=True)`, `nn.Embedding(sparse=True)`).

    A dense gradient is taken too: it touches every row.

    Args:
        params: tables, or groups of them.
        lr: learning rate.
        betas: of the moments.
        eps: added to the root.
        weight_decay: decoupled, λ above.
        multiplier: of the learning rate, so that a schedule can set `lr` of tables and backbone alike. Engram takes 5.
        clip: largest norm of the gradient of all tables here together; None for none. Kept apart from the backbone's,
            which the table's would throttle.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        multiplier: float = 1.0,
        clip: float | None = 1.0,
    ) -> None:
        for what, number, fine in (
            ("lr", lr, lr >= 0),
            ("betas", betas, all(0 <= beta < 1 for beta in betas)),
            ("eps", eps, eps >= 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("multiplier", multiplier, multiplier > 0),
            ("clip", clip, clip is None or clip > 0),
        ):
            if not fine:
                raise BadInput(f"{what} cannot be {number!r}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "multiplier": multiplier}
        super().__init__(params, defaults)
        self.clip = clip
        for group in self.param_groups:
            for table in group["params"]:
                if table.ndim < 1 or not table.is_floating_point():
                    raise BadInput(f"RowAdam takes tables [rows, …] of floats, got {table.dtype} {list(table.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of every table; those without a gradient only owe its decay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        touched = {
            table: _summed(table.grad)
            for group in self.param_groups
            for table in group["params"]
            if table.grad is not None
        }
        scale = self._scale([gradient for _, gradient in touched.values()])
        for group in self.param_groups:
            lr = group["lr"] * group["multiplier"]
            owed = lr * group["weight_decay"]
            if owed >= 1:
                raise BadInput(f"lr · multiplier · weight_decay must stay below 1, got {owed:g}; lower one of them")
            for table in group["params"]:
                state = self._state(table)
                state["step"] += 1
                state["log_decay"] += math.log1p(-owed)
                if table in touched:
                    rows, gradient = touched[table]
                    _update(table, rows, gradient if scale is None else gradient * scale, state, group, lr)
        return loss

    def _scale(self, gradients: list[Tensor]) -> Tensor | None:
        if self.clip is None or not gradients:
            return None
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
        return (self.clip / (norm + 1e-6)).clamp(max=1.0)

    def _state(self, table: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[table]
        if not state:
            rows, device = len(table), table.device
            state["step"] = 0
            state["log_decay"] = 0.0  # Σ log(1 − lr_i λ) over all steps
            state["first"] = torch.zeros_like(table)
            state["second"] = torch.zeros_like(table)
            state["touched"] = torch.zeros(rows, dtype=torch.int32, device=device)  # step of the moments
            state["decayed"] = torch.zeros(rows, dtype=torch.float64, device=device)  # log_decay already paid
        return state

    @torch.no_grad()
    def refresh(self, table: Tensor, ids: Tensor | None = None) -> None:
        """Pay the decay that rows `ids` [...] of a table owe (all, if None)."""
        state = self._state(table)
        if ids is None:
            owed = torch.exp(state["log_decay"] - state["decayed"])
            table.mul_(_column(owed, table).to(table.dtype))
            state["decayed"].fill_(state["log_decay"])
            return
        rows = ids.flatten().unique()
        table.index_copy_(0, rows, table[rows] * _column(_paid(rows, state), table).to(table.dtype))

    def flush(self) -> None:
        """Pay the decay of every row of every table: before saving, compiling or comparing rows."""
        for group in self.param_groups:
            for table in group["params"]:
                self.refresh(table)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `Optimizer.load_state_dict`, which casts every tensor to the table's type; step numbers are kept."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        tables = [table for group in self.param_groups for table in group["params"]]
        for number, table in zip(numbers, tables):
            for name in ("touched", "decayed"):
                if name in state_dict["state"].get(number, {}):
                    self.state[table][name] = state_dict["state"][number][name].clone().to(table.device)


def _summed(gradient: Tensor) -> tuple[Tensor | None, Tensor]:
    """Distinct rows (None: all) and the sum of the gradients of each."""
    if not gradient.is_sparse:
        return None, gradient
    if gradient.sparse_dim() != 1:
        raise BadInput(f"sparse gradients must be by row, got one with {gradient.sparse_dim()} sparse dimensions")
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()


def _column(factors: Tensor, table: Tensor) -> Tensor:
    """[n] as [n, 1, …], to multiply rows by."""
    return factors.view(-1, *[1] * (table.ndim - 1))


def _paid(rows: Tensor, state: dict[str, Any]) -> Tensor:
    """Factors float64 [n] of the decay that rows owe, noted as paid."""
    owed = torch.exp(state["log_decay"] - state["decayed"][rows])
    state["decayed"][rows] = state["log_decay"]
    return owed


def _update(
    table: Tensor, rows: Tensor | None, gradient: Tensor, state: dict[str, Any], group: dict[str, Any], lr: float
) -> None:
    if rows is None:
        rows = torch.arange(len(table), device=table.device)
    if not len(rows):
        return
    step, (beta1, beta2) = state["step"], group["betas"]
    missed = (step - state["touched"][rows]).double()
    state["touched"][rows] = step
    first, second = state["first"][rows], state["second"][rows]
    first.mul_(_column(beta1**missed, table).to(first.dtype)).add_(gradient, alpha=1 - beta1)
    second.mul_(_column(beta2**missed, table).to(second.dtype)).addcmul_(gradient, gradient, value=1 - beta2)
    state["first"].index_copy_(0, rows, first)
    state["second"].index_copy_(0, rows, second)
    kept = table[rows].mul_(_column(_paid(rows, state), table).to(table.dtype))
    root = second.sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
    table.index_copy_(0, rows, kept.addcdiv_(first, root, value=-lr / (1 - beta1**step)))
