"""Free vectors brought to a wanted order by gradient: queries and documents that nothing constrains but their width.

The loss is the mean, over the pairs of a query and one of its documents, of −log softmax of q·d/T over all documents.
A step is one of Adam on all queries and all documents at once, after which every row is brought back to length 1. What
Adam remembers is not projected. The gradient of a logit is (c·p − a)/pairs: p its softmax, a 1 for a wanted document, c
the query's number of those.

A query is ordered when its lowest wanted score is above its highest other one, strictly: a tie is no order.

Weller et al., "On the Theoretical Limitations of Embedding-Based Retrieval" (arXiv 2508.21038).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.kernels import compiled

__all__ = ["FIRST", "SECOND", "TINY", "Ending", "free_steps", "free_steps_plain", "loss_and_gradients", "ordered_share"]

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # of Adam


class Ending(NamedTuple):
    """How a run of steps ended: whether it had every query ordered, after how many steps, and the last loss."""

    solved: bool
    steps: int
    loss: float


def free_steps(
    queries: np.ndarray,
    documents: np.ndarray,
    wanted: np.ndarray,
    *,
    temperature: float,
    rate: float,
    most: int,
    every: int,
    patience: int,
    least: float,
) -> Ending:
    """Take steps until every query is ordered, the loss has stopped falling, or there were enough.

    Args:
        queries: float32 [queries, dim] at length 1; changed in place.
        documents: float32 [documents, dim] at length 1; changed in place.
        wanted: bool [queries, documents], at least one and not all of each row.
        temperature: T.
        rate: learning rate of Adam.
        most: steps at most.
        every: the order is looked at after the first step, and then every so many.
        patience: steps without an improvement after which the loss is said to stand still.
        least: a smaller improvement on the best loss so far counts as none.
    """
    if compiled(len(queries) * len(documents) * queries.shape[1] * most):
        from inlay.kernels.free_steps_numba import free_steps_compiled

        solved, steps, loss = free_steps_compiled(
            queries, documents, wanted, np.float32(temperature), rate, most, every, patience, least
        )
        return Ending(bool(solved), int(steps), float(loss))
    return free_steps_plain(
        queries, documents, wanted, temperature=temperature, rate=rate, most=most, every=every, patience=patience,
        least=least,
    )  # fmt: skip


def free_steps_plain(
    queries: np.ndarray, documents: np.ndarray, wanted: np.ndarray, *, temperature: float, rate: float, most: int,
    every: int, patience: int, least: float,
) -> Ending:  # fmt: skip
    """The same, in numpy."""
    rows = (queries, documents)
    firsts, seconds = [np.zeros_like(own) for own in rows], [np.zeros_like(own) for own in rows]
    best, waited, loss = np.inf, 0, np.inf
    for step in range(most):
        loss, gradients = loss_and_gradients(queries, documents, wanted, temperature)
        for own, gradient, first, second in zip(rows, gradients, firsts, seconds):
            first += np.float32(1 - FIRST) * (gradient - first)
            second += np.float32(1 - SECOND) * (gradient * gradient - second)
            ahead = first / np.float32(1 - FIRST ** (step + 1))
            spread = second / np.float32(1 - SECOND ** (step + 1))
            own -= np.float32(rate) * ahead / (np.sqrt(spread) + np.float32(TINY))
            own /= np.sqrt(np.einsum("nd,nd->n", own, own))[:, None]
        if loss < best - least:
            best, waited = loss, 0
        else:
            waited += 1
        if step % every == 0 and ordered_share(queries, documents, wanted) == 1:
            return Ending(True, step + 1, loss)
        if waited >= patience:
            return Ending(ordered_share(queries, documents, wanted) == 1, step + 1, loss)
    return Ending(ordered_share(queries, documents, wanted) == 1, most, loss)


def loss_and_gradients(
    queries: np.ndarray, documents: np.ndarray, wanted: np.ndarray, temperature: float
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """The loss, and its gradients by queries and by documents, shaped like them."""
    logits = queries @ documents.T
    logits *= np.float32(1 / temperature)
    pairs = np.count_nonzero(wanted)
    of_query = wanted.sum(axis=1, dtype=np.float32)[:, None]
    chosen = float(logits[wanted].sum(dtype=np.float64))
    highest = logits.max(axis=1, keepdims=True)
    logits -= highest
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    spread = np.log(total) + highest
    loss = (float((of_query * spread).sum(dtype=np.float64)) - chosen) / pairs
    logits *= of_query / total
    logits -= wanted
    logits *= np.float32(1 / (pairs * temperature))
    return loss, (logits @ documents, logits.T @ queries)


def ordered_share(queries: np.ndarray, documents: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the queries that have all their documents above all others, strictly."""
    scores = queries @ documents.T
    lowest = np.where(wanted, scores, np.inf).min(axis=1)
    highest = np.where(wanted, -np.inf, scores).max(axis=1)
    return float(np.mean(lowest > highest))
