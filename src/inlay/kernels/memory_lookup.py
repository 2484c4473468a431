"""Vectors read from tables by the signs of their chunks: what a memory layer does outside of training.

A vector is cut into chunks of `tau` numbers. The signs of chunk k are the bits of a bucket, zero counted as positive,
the first number as the lowest bit; what is read is the row of that bucket in table k, times the bucket's probability

    p = Π 1 / (1 + exp(−2·|z| / t))

under the softmax of ⟨z, s⟩ / t over all patterns s of signs; rows of all chunks are added.
"""

from __future__ import annotations

import numpy as np

from inlay.kernels import compiled

__all__ = ["memory_lookup", "memory_lookup_plain"]

AT_ONCE = 1 << 22  # numbers gathered at once by the plain form
_done = 0  # numbers read so far in this process; layers are read in many small batches


def memory_lookup(x: np.ndarray, rows: np.ndarray, tau: int, t: float) -> np.ndarray:
    """Float32 [n, width], in the compiled form where it is worth it.

    Args:
        x: float32 [n, chunks · tau]; NaN gives NaN.
        rows: float32 [chunks · 2**tau, width], the tables below one another.
        tau: numbers a chunk.
        t: temperature, above 0.
    """
    global _done
    _done += len(x) * (x.shape[1] // tau) * rows.shape[1]
    if compiled(_done):
        from inlay.kernels.memory_lookup_numba import memory_lookup_compiled

        return memory_lookup_compiled(np.ascontiguousarray(x), np.ascontiguousarray(rows), tau, np.float32(2 / t))
    return memory_lookup_plain(x, rows, tau, t)


def memory_lookup_plain(x: np.ndarray, rows: np.ndarray, tau: int, t: float) -> np.ndarray:
    """The same, in numpy."""
    chunks, width = x.shape[1] // tau, rows.shape[1]
    first = np.arange(chunks, dtype=np.int64) << tau
    out = np.empty((len(x), width), dtype=np.float32)
    step = max(1, AT_ONCE // (chunks * width))
    for start in range(0, len(x), step):
        z = x[start : start + step].reshape(-1, chunks, tau)
        buckets = (z >= 0) @ (np.int64(1) << np.arange(tau)) + first
        weights = 1 / (1 + np.exp(np.abs(z) * np.float32(-2 / t))).prod(axis=-1)
        np.matmul(weights[:, None, :], rows[buckets], out=out[start : start + step, None, :])
    return out
