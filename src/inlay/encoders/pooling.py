"""Token states to one row for each text."""

from __future__ import annotations

import numpy as np

from inlay.errors import BadInput

__all__ = ["POOLINGS", "pool", "unit"]

POOLINGS = ("mean", "cls", "last", "max")


def pool(states: np.ndarray, mask: np.ndarray, how: str) -> np.ndarray:
    """Pool token states, padding on the right.

    Args:
        states: float [n, tokens, dim].
        mask: [n, tokens], 1 for a token and 0 for padding; at least one token in every row.
        how: `mean` of the tokens, the first (`cls`), the `last`, or the `max` of each coordinate.

    Returns:
        float32 [n, dim].
    """
    states = states.astype(np.float32, copy=False)
    if how == "mean":
        weight = mask.astype(np.float32)
        # einsum sums over tokens without a masked copy of the states.
        return np.einsum("nt,ntd->nd", weight, states) / weight.sum(axis=1, keepdims=True)
    if how == "cls":
        return states[:, 0].copy()
    if how == "last":
        return states[np.arange(len(states)), mask.astype(np.int64).sum(axis=1) - 1]
    if how == "max":
        return np.where(mask[:, :, None] > 0, states, -np.inf).max(axis=1)
    raise BadInput(f"pooling must be one of {', '.join(POOLINGS)}, got {how!r}")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length; zero rows stay zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
