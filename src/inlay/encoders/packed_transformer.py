"""A small BERT in numpy: the tokens of many texts side by side in one array, without padding.

Everything but attention treats tokens one by one, so a batch is one tall matrix and a text comes out the same whatever
stands beside it. Attention runs over groups of texts of equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Layer", "attend", "gelu", "layer_norm"]

_GELU = np.float32(np.sqrt(2 / np.pi))


@dataclass
class Norm:
    """Gain and offset float32 [dim]."""

    gain: np.ndarray
    offset: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return layer_norm(rows, self.gain, self.offset)


@dataclass
class Linear:
    """Matrix float32 [in, out] and offset [out]."""

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = rows @ self.matrix
        found += self.offset
        return found


@dataclass
class Layer:
    """One post-norm transformer layer.

    Args:
        qkv: queries, keys and values of all heads side by side.
        out: what the heads found, back to the width of the rows.
        up: to the hidden units.
        down: and back.
        after_attention: norm.
        after_hidden: norm.
        heads: number of heads.
    """

    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    after_attention: Norm
    after_hidden: Norm
    heads: int

    def __call__(self, rows: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """Rows float32 [tokens, dim] of texts of these lengths, equal lengths next to each other."""
        found = self.out(attend(self.qkv(rows), lengths, self.heads))
        found += rows
        rows = self.after_attention(found)
        found = self.down(gelu(self.up(rows)))
        found += rows
        return self.after_hidden(found)


def attend(qkv: np.ndarray, lengths: Sequence[int], heads: int) -> np.ndarray:
    """Attention within each text: float32 [tokens, 3 · heads · size] to [tokens, heads · size]."""
    width = qkv.shape[1] // 3
    size = width // heads
    out = np.empty((len(qkv), width), dtype=np.float32)
    low = first = 0
    while first < len(lengths):
        length, last = lengths[first], first
        while last < len(lengths) and lengths[last] == length:
            last += 1
        count = last - first
        high = low + count * length
        parts = qkv[low:high].reshape(count, length, 3, heads, size).transpose(2, 0, 3, 1, 4)
        q, k, v = (np.ascontiguousarray(part) for part in parts)  # each [count, heads, length, size]
        q *= np.float32(size**-0.5)
        weight = q @ k.swapaxes(-1, -2)
        weight -= weight.max(axis=-1, keepdims=True)
        np.exp(weight, out=weight)
        weight /= weight.sum(axis=-1, keepdims=True)
        out[low:high] = (weight @ v).transpose(0, 2, 1, 3).reshape(count * length, width)
        low, first = high, last
    return out


def gelu(rows: np.ndarray) -> np.ndarray:
    """GELU in its tanh form, in place."""
    inner = rows * rows
    inner *= np.float32(0.044715)
    inner += np.float32(1)
    inner *= rows
    inner *= _GELU
    np.tanh(inner, out=inner)
    inner += np.float32(1)
    rows *= inner
    rows *= np.float32(0.5)
    return rows


def layer_norm(rows: np.ndarray, gain: np.ndarray, offset: np.ndarray, epsilon: float = 1e-12) -> np.ndarray:
    """Rows of mean 0 and variance 1, times gain, plus offset; in place."""
    rows -= rows.mean(axis=1, keepdims=True)
    variance = np.einsum("ij,ij->i", rows, rows) / np.float32(rows.shape[1])
    rows *= (1 / np.sqrt(variance + np.float32(epsilon)))[:, None]
    rows *= gain
    rows += offset
    return rows
