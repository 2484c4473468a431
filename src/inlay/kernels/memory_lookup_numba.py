"""The compiled form of `inlay.kernels.memory_lookup`; see there for arguments and results."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["memory_lookup_compiled"]

TILE = 512  # vectors that read a table before the next one's turn comes, so that it stays in the cache


@njit(cache=True, nogil=True)
def memory_lookup_compiled(x, rows, tau, steepness):
    width = rows.shape[1]
    chunks = x.shape[1] // tau
    out = np.zeros((len(x), width), dtype=np.float32)
    for start in range(0, len(x), TILE):
        for chunk in range(chunks):
            for number in range(start, min(start + TILE, len(x))):
                bucket, odds = chunk << tau, np.float32(1)
                for bit in range(tau):
                    z = x[number, chunk * tau + bit]
                    if z >= 0:
                        bucket += 1 << bit
                    odds *= np.float32(1) + np.exp(-steepness * np.abs(z))
                weight = np.float32(1) / odds
                row, mine = rows[bucket], out[number]
                for column in range(width):
                    mine[column] += weight * row[column]
    return out
