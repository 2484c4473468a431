"""The compiled form of `inlay.kernels.free_steps`; see there for arguments and results.

Documents are held with a dimension in a row of memory, so that the loops over them run in vector registers; the
exponential is a polynomial for the same reason, right to 3e-7.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["free_steps_compiled"]

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # as in the plain form
F = np.float32
LOG2E, LN2_HIGH, LN2_LOW = F(1.4426950408889634), F(0.693359375), F(-2.12194440e-4)
C2, C3, C4, C5, C6 = F(0.5), F(1 / 6), F(1 / 24), F(1 / 120), F(1 / 720)


@njit(cache=True, nogil=True, inline="always")
def _exp(x):
    """e^x for −87 ≤ x ≤ 0."""
    n = math.floor(x * LOG2E + F(0.5))
    r = x - n * LN2_HIGH - n * LN2_LOW
    p = F(1) + r * (F(1) + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    return p * np.int32(np.int32(n + F(127)) << np.int32(23)).view(np.float32)


@njit(cache=True, nogil=True)
def _adam(rows, gradients, first, second, rate, step):
    ahead = F(1 / (1 - FIRST ** (step + 1)))
    spread = F(1 / (1 - SECOND ** (step + 1)))
    keep1, keep2, tiny, own_rate = F(1 - FIRST), F(1 - SECOND), F(TINY), F(rate)
    for i in range(rows.size):
        g = gradients[i]
        first[i] += keep1 * (g - first[i])
        second[i] += keep2 * (g * g - second[i])
        rows[i] -= own_rate * (first[i] * ahead) / (math.sqrt(second[i] * spread) + tiny)


@njit(cache=True, nogil=True)
def _unit(rows):
    for i in range(rows.shape[0]):
        total = F(0)
        for c in range(rows.shape[1]):
            total += rows[i, c] * rows[i, c]
        length = F(1) / math.sqrt(total)
        for c in range(rows.shape[1]):
            rows[i, c] *= length


@njit(cache=True, nogil=True)
def _unit_columns(columns, totals):
    totals[:] = 0
    for c in range(columns.shape[0]):
        for j in range(columns.shape[1]):
            totals[j] += columns[c, j] * columns[c, j]
    for j in range(columns.shape[1]):
        totals[j] = F(1) / math.sqrt(totals[j])
    for c in range(columns.shape[0]):
        for j in range(columns.shape[1]):
            columns[c, j] *= totals[j]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _gradients(queries, columns, mask, of_query, temperature, to_queries, to_columns, line):
    """The loss; fills the gradients."""
    n, dim = columns.shape[1], columns.shape[0]
    pairs = F(0)
    for i in range(len(of_query)):
        pairs += of_query[i]
    inverse = F(1) / temperature
    share = inverse / pairs
    to_columns[:] = 0
    loss = 0.0
    for i in range(queries.shape[0]):
        line[:] = 0
        for c in range(dim):
            q = queries[i, c] * inverse
            for j in range(n):
                line[j] += q * columns[c, j]
        highest, chosen = F(-1e30), F(0)
        for j in range(n):
            highest = max(highest, line[j])
            chosen += line[j] * mask[i, j]
        total = F(0)
        for j in range(n):
            line[j] = _exp(max(line[j] - highest, F(-87)))
            total += line[j]
        loss += of_query[i] * (math.log(total) + highest) - chosen
        scale = of_query[i] / total
        for j in range(n):
            line[j] = (line[j] * scale - mask[i, j]) * share
        for c in range(dim):
            q, own = queries[i, c], F(0)
            for j in range(n):
                own += line[j] * columns[c, j]
                to_columns[c, j] += q * line[j]
            to_queries[i, c] = own
    return loss / pairs


@njit(cache=True, nogil=True)
def _ordered(queries, columns, mask, line):
    n, dim = columns.shape[1], columns.shape[0]
    for i in range(queries.shape[0]):
        line[:] = 0
        for c in range(dim):
            for j in range(n):
                line[j] += queries[i, c] * columns[c, j]
        lowest, highest = F(1e30), F(-1e30)
        for j in range(n):
            if mask[i, j] > 0:
                lowest = min(lowest, line[j])
            else:
                highest = max(highest, line[j])
        if not lowest > highest:
            return False
    return True


@njit(cache=True, nogil=True)
def free_steps_compiled(queries, documents, wanted, temperature, rate, most, every, patience, least):
    columns = np.ascontiguousarray(documents.T)
    mask = wanted.astype(np.float32)
    of_query = np.zeros(len(queries), dtype=np.float32)
    for i in range(len(queries)):
        for j in range(wanted.shape[1]):
            of_query[i] += mask[i, j]
    to_queries, to_columns = np.zeros_like(queries), np.zeros_like(columns)
    first_q, second_q = np.zeros_like(queries), np.zeros_like(queries)
    first_d, second_d = np.zeros_like(columns), np.zeros_like(columns)
    line, totals = np.empty(columns.shape[1], dtype=np.float32), np.empty(columns.shape[1], dtype=np.float32)
    best, waited, loss, steps, solved = np.inf, 0, np.inf, most, False
    for step in range(most):
        loss = _gradients(queries, columns, mask, of_query, temperature, to_queries, to_columns, line)
        _adam(queries.ravel(), to_queries.ravel(), first_q.ravel(), second_q.ravel(), rate, step)
        _adam(columns.ravel(), to_columns.ravel(), first_d.ravel(), second_d.ravel(), rate, step)
        _unit(queries)
        _unit_columns(columns, totals)
        if loss < best - least:
            best, waited = loss, 0
        else:
            waited += 1
        if step % every == 0 and _ordered(queries, columns, mask, line):
            steps, solved = step + 1, True
            break
        if waited >= patience:
            steps = step + 1
            break
    documents[:] = columns.T
    if not solved:
        solved = _ordered(queries, columns, mask, line)
    return solved, steps, loss
