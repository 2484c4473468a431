"""What graphs have in common that grow row by row: levels drawn for new rows, and arrays with room to spare."""

from __future__ import annotations

import math

import numpy as np

from inlay.kernels.mixing import mixed

__all__ = ["levels_of", "longer"]


def levels_of(first: int, last: int, connectivity: int, seed: int) -> np.ndarray:
    """Levels of rows uint8: ⌊−ln(u) / ln(M)⌋ of a number u in (0, 1] that row and seed decide."""
    u = ((mixed(np.arange(first, last), seed) >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
    return (-np.log(u) / math.log(connectivity)).astype(np.uint8)


def longer(array: np.ndarray, used: int, needed: int) -> np.ndarray:
    """The array, or a longer copy: growing by half keeps the cost of copying a constant per row."""
    if needed <= len(array):
        return array
    grown = np.empty((max(needed, len(array) * 3 // 2), *array.shape[1:]), dtype=array.dtype)
    grown[:used] = array[:used]
    return grown
