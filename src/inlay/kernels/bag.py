"""Stochastic gradient descent on a bag classifier: mean of rows → linear → softmax, one document at a time."""

from __future__ import annotations

import numpy as np

from inlay import kernels

__all__ = ["bag_epoch", "bag_means"]

OVERHEAD = 10_000  # elementary operations that numpy's calls for one document are worth


def bag_epoch(
    rows: np.ndarray,
    head: np.ndarray,
    indptr: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    rate: float,
    last_rate: float,
    learn_rows: bool = True,
) -> float:
    """One pass over documents, in place; the mean loss in nats.

    Args:
        rows: float32 [features, dim].
        head: float32 [classes, dim].
        indptr: int64 [documents + 1].
        ids: int32 [nnz], feature numbers; document d has `ids[indptr[d]:indptr[d + 1]]`, repetitions included.
        labels: int32 [documents].
        order: int64, documents in the order they are seen; those without features are passed over.
        rate: learning rate at the first document, falling linearly towards `last_rate`.
        last_rate: learning rate behind the last one.
        learn_rows: whether rows change; the head alone does otherwise.
    """
    if kernels.compiled(4 * len(ids) * rows.shape[1] + OVERHEAD * len(order)):
        from inlay.kernels.bag_numba import bag_epoch_compiled

        return float(bag_epoch_compiled(rows, head, indptr, ids, labels, order, rate, last_rate, learn_rows))
    loss, seen = 0.0, 0
    for number, document in enumerate(order.tolist()):
        own = ids[indptr[document] : indptr[document + 1]]
        if not len(own):
            continue
        step = np.float32(rate + (last_rate - rate) * number / len(order))
        mean = rows[own].sum(axis=0) / np.float32(len(own))
        scores = head @ mean
        odds = np.exp(scores - scores.max())
        odds /= odds.sum()
        label = labels[document]
        loss -= float(np.log(max(odds[label], 1e-30)))
        seen += 1
        error = -odds * step
        error[label] += step
        back = error @ head / np.float32(len(own))
        head += error[:, None] * mean
        if learn_rows:
            np.add.at(rows, own, back)
    return loss / max(seen, 1)


def bag_means(rows: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Means, float32 [documents, dim], of consecutive rows [nnz, dim]; zeros for a document without any."""
    lengths = np.diff(indptr)
    means = np.zeros((len(lengths), rows.shape[1]), dtype=np.float32)
    full = np.flatnonzero(lengths)
    if len(full):
        means[full] = np.add.reduceat(rows, indptr[full], axis=0) / lengths[full, None].astype(np.float32)
    return means
