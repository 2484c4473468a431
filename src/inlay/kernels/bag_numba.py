"""The compiled form of `inlay.kernels.bag`; see there for arguments and results."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["bag_epoch_compiled"]


@njit(cache=True, nogil=True)
def bag_epoch_compiled(rows, head, indptr, ids, labels, order, rate, last_rate, learn_rows):
    classes, dim = head.shape
    mean, back = np.empty(dim, dtype=np.float32), np.empty(dim, dtype=np.float32)
    odds = np.empty(classes, dtype=np.float32)
    loss, seen = 0.0, 0
    for number in range(len(order)):
        document = order[number]
        start, stop = indptr[document], indptr[document + 1]
        if start == stop:
            continue
        share = np.float32(1.0) / np.float32(stop - start)
        step = np.float32(rate + (last_rate - rate) * number / len(order))
        mean[:] = 0
        for at in range(start, stop):
            row = ids[at]
            for column in range(dim):
                mean[column] += rows[row, column]
        peak = np.float32(-np.inf)
        for column in range(dim):
            mean[column] *= share
        for label in range(classes):
            score = np.float32(0)
            for column in range(dim):
                score += head[label, column] * mean[column]
            odds[label] = score
            peak = max(peak, score)
        total = np.float32(0)
        for label in range(classes):
            odds[label] = np.exp(odds[label] - peak)
            total += odds[label]
        right = labels[document]
        loss -= np.log(max(odds[right] / total, np.float32(1e-30)))
        seen += 1
        back[:] = 0
        for label in range(classes):
            error = -step * odds[label] / total
            if label == right:
                error += step
            for column in range(dim):
                back[column] += error * head[label, column]
                head[label, column] += error * mean[column]
        if not learn_rows:
            continue
        for column in range(dim):
            back[column] *= share
        for at in range(start, stop):
            row = ids[at]
            for column in range(dim):
                rows[row, column] += back[column]
    return loss / max(seen, 1)
