"""How many experts and how many rows of memory, when all parameters and those a token uses are given.

    P_sparse = P_total − P_active        P_experts = ρ P_sparse        P_memory = (1 − ρ) P_sparse

A routed expert that a token does not use, and a row of an n-gram memory, cost nothing to run: both are sparse, and one
can be traded for the other. In the paper loss against ρ is a U: its bottom is at ρ = 75 to 80% for two budgets alike,
and at 40% it is back at that of experts alone.

Embedding and head are in neither sum. What a memory adds to every token, its maps W_K, W_V and convolution, is not
sparse: it is given as `overhead`, to be taken off the backbone where P_active must be kept to the last number.

Source: Conditional Memory via Scalable Lookup (arXiv 2601.07372), whose 27B model trades 17 of 72 experts for 5.7B.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from inlay.errors import BadInput

__all__ = ["Allocation", "allocate"]


class Allocation(NamedTuple):
    """What a budget buys.

    Attributes:
        experts: routed experts of a layer, those that a token uses included.
        slots: rows of each head of each memory layer.
        expert_parameters: in experts that a token does not use.
        memory_parameters: in rows.
        rho: share of the experts, after rounding to whole ones.
        total: parameters in all: what was asked for, less than a slot's worth missing.
        active: parameters a token uses: what was asked for.
        overhead: parameters of the memory that every token uses, in neither sum.
    """

    experts: int
    slots: int
    expert_parameters: int
    memory_parameters: int
    rho: float
    total: int
    active: int
    overhead: int


def allocate(
    total: float, active: float, *, rho: float = 0.78, expert: float, top_k: int = 6, expert_layers: int = 1,
    d_mem: int = 1280, memory_layers: int = 2, dim: int | None = None, branches: int = 1, conv: int = 4,
) -> Allocation:  # fmt: skip
    """Experts and slots for a budget; experts are rounded to whole ones, slots take the rest.

    Args:
        total: parameters without embedding and head.
        active: those of them that a token uses.
        rho: share of the difference that goes to experts, from 0 to 1.
        expert: parameters of one routed expert of one layer; of a SwiGLU 3 · dim · hidden.
        top_k: routed experts that a token uses; counted as active.
        expert_layers: layers that have experts.
        d_mem: width of what a token reads in a memory layer: orders · heads · d_head.
        memory_layers: layers that have a memory.
        dim: width of the residual stream, for `overhead`; None: `overhead` is 0.
        branches: residual streams of the memory.
        conv: its taps.
    """
    for what, size in (("total", total), ("active", active), ("expert", expert)):
        if not (math.isfinite(size) and size > 0):
            raise BadInput(f"{what} must be a positive number of parameters, got {size}")
    if total < active:
        raise BadInput(f"total {total:g} is less than active {active:g}; a token cannot use more than there is")
    if not 0 <= rho <= 1:
        raise BadInput(f"rho must be from 0 to 1, got {rho}")
    for what, number in (
        ("top_k", top_k), ("expert_layers", expert_layers), ("d_mem", d_mem), ("memory_layers", memory_layers),
        ("dim", 1 if dim is None else dim), ("branches", branches), ("conv", conv + 1),
    ):  # fmt: skip
        if number < 1:
            raise BadInput(f"{what} must be at least {0 if what == 'conv' else 1}, got {number - (what == 'conv')}")
    sparse, each = round(total) - round(active), round(expert * expert_layers)
    idle = min(round(rho * sparse / each), sparse // each)
    slots = 0 if rho == 1 else (sparse - idle * each) // (d_mem * memory_layers)
    in_experts, in_rows = idle * each, slots * d_mem * memory_layers
    per_layer = 0 if dim is None else (d_mem + 1) * dim * (1 + branches) + (3 + conv) * branches * dim
    return Allocation(
        experts=top_k + idle,
        slots=slots,
        expert_parameters=in_experts,
        memory_parameters=in_rows,
        rho=in_experts / sparse if sparse else rho,
        total=round(active) + in_experts + in_rows,
        active=round(active),
        overhead=per_layer * memory_layers,
    )
