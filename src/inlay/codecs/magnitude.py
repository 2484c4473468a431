"""Rows grouped by length, so that long ones, which weigh most in a dot product, may cost more bytes."""

from __future__ import annotations

import numpy as np

from inlay.errors import BadInput

__all__ = ["equal_norm_edges", "group_of"]


def equal_norm_edges(rows: np.ndarray, groups: int) -> np.ndarray:
    """Lengths float32 [groups − 1], falling: they part rows into groups of equal total length, longest first."""
    if not len(rows):
        raise BadInput("groups are learnt from rows, got none")
    norms = np.sort(np.linalg.norm(rows.astype(np.float64), axis=1))[::-1]
    before = np.cumsum(norms) - norms / 2  # of the middle of each row
    total = max(float(norms.sum()), 1e-300)
    first = np.searchsorted(before / total, np.arange(1, groups) / groups)
    # The edge is the length of the last row of the longer group; past the end a group is empty.
    return norms[np.clip(first - 1, 0, len(norms) - 1)].astype(np.float32)


def group_of(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Group uint8 [n] of each row: 0 for those at least as long as the first edge."""
    norms = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=1).astype(np.float32)
    return (norms[:, None] < edges[None, :]).sum(axis=1).astype(np.uint8)
