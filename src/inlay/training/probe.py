"""A quick look at a model while it trains: rows held out of its sources, and one figure for each source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from inlay.training.models import Model
from inlay.training.sources import Source
from inlay.training.teacher import Teaching
from inlay.types import Encoder

__all__ = ["agreement", "probe", "spearman"]


def probe(held: Sequence[Source]) -> Callable[[Model | Encoder], dict[str, float]]:
    """model → figures, a few for each source of held-out rows.

    Pairs: how often the first document is a positive (`NAME accuracy@1`) and the mean reciprocal rank (`NAME MRR@10`),
    among the held-out positives. Graded pairs: Spearman's correlation with the gold similarity (`NAME Spearman`).
    """

    def figures(model: Model | Encoder) -> dict[str, float]:
        found: dict[str, float] = {}
        for source in held:
            queries = np.asarray(model.encode_query([example.query for example in source]))
            first = np.asarray(model.encode_document([example.pos[0] for example in source]))
            if source.kind == "graded":
                gold = np.array([example.score for example in source], dtype=float)
                found[f"{source.name} Spearman"] = spearman((queries * first).sum(1), gold)
                continue
            scores = queries @ first.T
            texts = [example.pos[0] for example in source]
            right = np.array([[text in set(example.pos) for text in texts] for example in source])
            # Ties count against the model: an untrained one that maps all texts to a point must not look perfect.
            best = np.where(right, scores, -np.inf).max(1, keepdims=True)
            rank = 1 + ((scores >= best) & ~right).sum(1)
            found[f"{source.name} accuracy@1"] = float((rank == 1).mean())
            found[f"{source.name} MRR@10"] = float(np.where(rank <= 10, 1 / rank, 0).mean())
        return found

    return figures


def agreement(texts: Sequence[str], teacher: Teaching, *, k: int = 10) -> Callable[[Model | Encoder], dict[str, float]]:
    """model → how far it agrees with its teacher about texts that neither has to rank for anyone.

    `teacher cosine` is the mean over texts of the cosine of both vectors, `teacher neighbours` the share of each text's
    k nearest others, by the teacher, that are among the model's k nearest.
    """
    theirs = teacher.rows(texts)

    def nearest(rows: np.ndarray) -> np.ndarray:
        scores = rows @ rows.T
        np.fill_diagonal(scores, -np.inf)
        return np.argpartition(-scores, k - 1, axis=1)[:, :k]

    known = nearest(theirs)

    def figures(model: Model | Encoder) -> dict[str, float]:
        mine = np.asarray(model.encode_document(texts))
        shared = [len(np.intersect1d(a, b)) for a, b in zip(nearest(mine), known)]
        found = {"teacher neighbours": float(np.mean(shared)) / k}
        if mine.shape == theirs.shape:
            found["teacher cosine"] = float((mine * theirs).sum(1).mean())
        return found

    return figures


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side does not vary."""
    x, y = _ranks(np.asarray(a)), _ranks(np.asarray(b))
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[group]
