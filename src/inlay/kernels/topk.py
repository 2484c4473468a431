"""The k best of many scores, by a running threshold: most scores are refused by one comparison and nothing is sorted
but the k that remain. Equal scores go to the lower id.
"""

from __future__ import annotations

import numpy as np

from inlay.errors import BadInput
from inlay.kernels import compiled
from inlay.types import Neighbours

__all__ = ["TopK", "top_k"]


class TopK:
    """The k best of each query among the scores offered so far.

    Scores arrive in blocks whose ids ascend from call to call. A buffer of a few k candidates stays in order of id;
    when it is full, the k best stay and the worst of them becomes the threshold that later scores must exceed.

    Args:
        queries: how many queries are answered at once.
        k: how many ids each of them wants.
        fast: take the compiled form (default: if numba is loaded already).
    """

    def __init__(self, queries: int, k: int, *, fast: bool | None = None) -> None:
        if k < 1:
            raise BadInput(f"k must be at least 1, got {k}")
        self.k = k
        self.fast = compiled(0) if fast is None else fast
        width = k + max(k, 64)
        self.scores = np.empty((queries, width), dtype=np.float32)
        self.ids = np.empty((queries, width), dtype=np.int64)
        self.filled = np.zeros(queries, dtype=np.int64)
        self.threshold = np.full(queries, -np.inf, dtype=np.float32)

    def offer(self, scores: np.ndarray, first: int = 0) -> None:
        """Consider `scores` float32 [queries, n] of the ids `first`, `first + 1`, …"""
        if self.fast:
            from inlay.kernels.topk_numba import offer

            offer(scores, first, self.k, self.scores, self.ids, self.filled, self.threshold)
            return
        for query, row in enumerate(scores):
            better = np.flatnonzero(row > self.threshold[query])
            if not len(better):
                continue
            kept = self.filled[query]
            values = np.concatenate([self.scores[query, :kept], row[better]])
            ids = np.concatenate([self.ids[query, :kept], better + first])
            if len(values) > self.k:
                stay = _best(values, self.k)
                values, ids = values[stay], ids[stay]
            if len(values) == self.k:
                self.threshold[query] = values.min()
            self.scores[query, : len(values)], self.ids[query, : len(ids)] = values, ids
            self.filled[query] = len(values)

    def result(self) -> Neighbours:
        """Best first, padded with id -1 and score -inf."""
        unused = np.arange(self.scores.shape[1]) >= self.filled[:, None]
        scores = np.where(unused, -np.inf, self.scores).astype(np.float32)
        # The buffer is in order of id, so a stable sort gives ties to the lower id.
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        ids = np.where(unused, -1, self.ids)
        return Neighbours(np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1))


def _best(values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest, ascending; of equal values the first ones."""
    cut = np.partition(values, len(values) - k)[len(values) - k]
    above, equal = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    return np.sort(np.concatenate([above, equal[: k - len(above)]]))


def top_k(scores: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
    """The k highest scores of each row.

    Args:
        scores: [queries, n], or [n] for one query. A score of -inf is never returned.
        k: how many; beyond n the answer is padded with id -1 and score -inf.
        allow: bool [n], the ids that may be returned.
    """
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float32))
    if allow is not None:
        scores = np.where(allow, scores, np.float32(-np.inf))
    best = TopK(len(scores), k, fast=compiled(scores.size))
    best.offer(np.ascontiguousarray(scores))
    return best.result()
