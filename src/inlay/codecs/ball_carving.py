"""Ball carving: query tokens that lie close together ask as one, which makes exact re-ranking cheaper.

Source: "MUVERA" (arXiv 2405.19504), section on re-ranking: with τ = 0.7, the 32 tokens of a ColBERT query become 5.9.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.errors import BadInput

__all__ = ["carve"]


def carve(query: np.ndarray, tau: float = 0.7) -> np.ndarray:
    """Groups of query tokens, each as its sum: float32 [groups, dim] of tokens [q, dim].

    The first token that is left takes all that are left whose dot product with it is at least `tau`, and so on. MaxSim
    of the groups never exceeds that of the tokens, as tokens of a group must agree on their best document token.
    """
    query = np.asarray(query, dtype=np.float32)
    if query.ndim != 2 or not np.isfinite(query).all():
        raise BadInput(
            f"a query is finite tokens [q, dim], got shape {list(query.shape)} or a number that is not finite"
        )
    least, close, sums = checked_tau(tau), query @ query.T, []
    alone = np.ones(len(query), dtype=bool)
    for token in range(len(query)):
        if not alone[token]:
            continue
        group = alone & (close[token] >= least)
        group[token] = True  # also one that is shorter than tau
        sums.append(query[group].sum(axis=0))
        alone &= ~group
    return np.stack(sums) if sums else query


def checked_tau(tau: Any) -> float:
    """A finite threshold."""
    if not isinstance(tau, int | float | np.number) or isinstance(tau, bool) or not np.isfinite(tau):
        raise BadInput(f"tau must be a finite number, 0.7 in the paper, got {tau!r}")
    return float(tau)
