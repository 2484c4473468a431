"""How often the keys of hashed features read the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Collisions", "count_collisions"]


class Collisions(NamedTuple):
    """Shares in [0, 1] of the keys of one feature.

    Args:
        feature: its name.
        keys: how many were looked at.
        within: lookups whose row another key of the feature reads in the same chunk.
        expected: what a perfect hash would give for `within`.
        confused: keys whose every chunk is another key's too: no model can tell them apart.
        across: feature → lookups whose row is also read by a key of that feature.
    """

    feature: str
    keys: int
    within: float
    expected: float
    confused: float
    across: dict[str, float]


def count_collisions(feature: str, at: Tensor, others: Mapping[str, Tensor], buckets: int) -> Collisions:
    """Of the rows [keys, chunks] that different keys read, and those that other features' keys read."""
    keys, chunks = at.shape
    if not keys:
        return Collisions(feature, 0, 0.0, 0.0, 0.0, dict.fromkeys(others, 0.0))
    shared = torch.stack([_repeated(at[:, chunk]) for chunk in range(chunks)], 1)
    _, same, counts = torch.unique(at, dim=0, return_inverse=True, return_counts=True)
    return Collisions(
        feature,
        keys,
        float(shared.double().mean()),
        1 - (1 - 1 / buckets) ** (keys - 1),
        float((counts[same] > 1).double().mean()),
        {name: float(torch.isin(at, other).double().mean()) for name, other in others.items()},
    )


def _repeated(values: Tensor) -> Tensor:
    _, same, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return counts[same] > 1
