"""What is done with weights once they are trained: merged, cut, or kept in fewer bytes.

The merges take and give state dictionaries; floating-point tensors are merged, others are copied from the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from inlay.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["quantise_table", "slerp", "soup", "task_arithmetic", "truncate_dims"]

State = Mapping[str, "Tensor"]


def soup(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Mean of checkpoints, weighted if asked."""
    _check(states)
    if weights is not None and (len(weights) != len(states) or not sum(weights) > 0):
        raise BadInput(f"{len(states)} checkpoints need as many weights with a sum above 0, got {list(weights)}")
    share = np.ones(len(states)) if weights is None else np.asarray(weights, dtype=float)
    share = share / share.sum()
    # Sums in float64: the soup of identical checkpoints is that checkpoint, to the bit.
    return _each(states, lambda ts: sum(float(w) * t.double() for w, t in zip(share, ts)))  # type: ignore[arg-type,return-value]


def task_arithmetic(base: State, states: Sequence[State], scale: float = 1.0) -> dict[str, Tensor]:
    """base + scale · Σ (checkpoint − base)."""
    _check([base, *states])

    def merge(ts: Sequence[Tensor]) -> Tensor:
        start = ts[0].double()
        return start + scale * sum((t.double() - start for t in ts[1:]), start * 0)

    return _each([base, *states], merge)


def slerp(a: State, b: State, t: float = 0.5) -> dict[str, Tensor]:
    """From a (t = 0) to b (t = 1) along the great circle, tensor by tensor; straight where they nearly agree."""
    import torch

    _check([a, b])

    def merge(ts: Sequence[Tensor]) -> Tensor:
        x, y = ts[0].double(), ts[1].double()
        cosine = torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0).clamp(-1, 1)
        if cosine.abs() > 0.9995:
            return (1 - t) * x + t * y
        angle = cosine.arccos()
        return (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)

    return _each([a, b], merge)


def truncate_dims(rows: np.ndarray, dim: int) -> np.ndarray:
    """The first `dim` coordinates of rows [n, D], for tables and vectors trained with `Matryoshka`."""
    if not 0 < dim <= rows.shape[1]:
        raise BadInput(f"cannot keep {dim} of {rows.shape[1]} dimensions")
    return np.ascontiguousarray(rows[:, :dim])


def quantise_table(table: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A token table in int8, one scale a row, which goes into the token's weight.

    Args:
        table: float [tokens, dim].
        weights: float [tokens]; 1 otherwise.

    Returns:
        int8 [tokens, dim] and float32 [tokens], with weights · row as before up to half a step of 1/127 of the row's
        largest number.
    """
    table = np.asarray(table, dtype=np.float32)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise BadInput(f"expected finite rows [tokens, dim], got {list(table.shape)}")
    scale = np.abs(table).max(axis=1) / 127
    codes = np.rint(np.divide(table, scale[:, None], out=np.zeros_like(table), where=scale[:, None] > 0))
    factors = scale if weights is None else scale * np.asarray(weights, dtype=np.float32)
    return codes.astype(np.int8), factors.astype(np.float32)


def _check(states: Sequence[State]) -> None:
    if not states:
        raise BadInput("nothing to merge: give at least one checkpoint")
    for state in states[1:]:
        if set(state) != set(states[0]):
            raise BadInput(f"checkpoints differ in tensors: {sorted(set(state) ^ set(states[0]))[:5]}")
        wrong = [name for name in state if state[name].shape != states[0][name].shape]
        if wrong:
            shapes = [list(states[0][wrong[0]].shape), list(state[wrong[0]].shape)]
            raise BadInput(f"tensor {wrong[0]!r} has shapes {shapes[0]} and {shapes[1]}; only equal ones merge")


def _each(states: Sequence[State], merge: Callable[[Sequence[Tensor]], Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, first in states[0].items():
        whole = merge([state[name] for state in states]) if first.is_floating_point() else first.clone()
        found[name] = whole.to(first.dtype)
    return found
