"""Encoders that cost nothing and count what they are asked."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from inlay.types import Space

__all__ = ["Scaled", "Words"]


class Words:
    """Sums a random row for each word: texts that share words are near. Knows how often it was asked.

    Args:
        dim: width of a row.
        seed: another seed is another model.
        expensive: what a transformer would say of itself.
    """

    def __init__(self, dim: int = 24, seed: int = 0, *, expensive: bool = False) -> None:
        self.dim, self.seed, self.expensive = dim, seed, expensive
        self.space = Space("dense", dim, "cosine", f"words-{dim}-{seed}")
        self.documents: list[str] = []
        self.queries: list[str] = []

    def __repr__(self) -> str:
        return f"Words(dim={self.dim}, seed={self.seed})"

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        self.documents += items
        return self._rows(items)

    def encode_query(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        self.queries += items
        return self._rows(items)

    def _rows(self, items: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(items), self.dim), dtype=np.float32)
        for i, item in enumerate(items):
            for word in item.lower().split():
                rows[i] += _row(self.seed, self.dim, word)
        return rows


@cache
def _row(seed: int, dim: int, word: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{seed} {word}".encode()))
    return rng.standard_normal(dim).astype(np.float32)


class Scaled:
    """A space map in scikit-learn's manner: here, the identity with a memory."""

    def __init__(self) -> None:
        self.seen = 0

    def fit(self, X: Any, Y: Any = None) -> Scaled:
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        self.seen += len(X)
        return X
