"""The compiled forms of `inlay.kernels.list_rows`; see there for arguments and results."""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.blocks_numba import fetch_compiled
from inlay.kernels.dense_numba import one

__all__ = ["plan_compiled", "score_compiled"]

SIZE = 4096


@njit(cache=True, nogil=True, boundscheck=False)
def plan_compiled(rows, cuts, counts, row_bytes, share, full, runs, bounds):
    r = 0
    for b in range(len(counts)):
        begun, pages = r, 0
        for i in range(cuts[b], cuts[b + 1]):
            first, last = rows[i] * row_bytes // SIZE, ((rows[i] + 1) * row_bytes - 1) // SIZE
            if r > begun and first <= runs[r - 1, 1] + runs[r - 1, 2]:
                more = last + 1 - (runs[r - 1, 1] + runs[r - 1, 2])
                runs[r - 1, 2] += more
            else:
                more = last - first + 1
                runs[r, 0], runs[r, 1], runs[r, 2] = first, first, more
                r += 1
            pages += more
        whole = (counts[b] * row_bytes + SIZE - 1) // SIZE
        if cuts[b + 1] - cuts[b] > share * counts[b] and pages > full * whole:
            runs[begun, 0], runs[begun, 1], runs[begun, 2] = 0, 0, whole
            r = begun + 1
        bounds[b + 1] = r


@njit(cache=True, nogil=True, boundscheck=False)
def score_compiled(
    file, data, places, counts, pages, sums, scales, verified, first, query, squared, scaled, buffer, numbers,
    rows, cuts, runs, bounds, always, tables, out,
):  # fmt: skip
    dim, size = len(query), numbers.itemsize
    for b in range(len(counts)):
        low, high, n = cuts[b], cuts[b + 1], counts[b]
        if low == high:
            continue
        whole = (n * dim * size + SIZE - 1) // SIZE
        into = buffer[places[b] : places[b] + whole * SIZE]
        checks = pages[sums[b] : sums[b] + 4 * whole].view(np.uint32)
        known = verified[first[b] : first[b] + whole]
        if not fetch_compiled(file, data[b], runs[bounds[b] : bounds[b + 1]], into, checks, known, always, tables):
            return b
        kept = numbers[places[b] // size : places[b] // size + n * dim].reshape((n, dim))
        by = pages[scales[b] : scales[b] + (4 * n if scaled else 0)].view(np.float32)
        one(query, kept, by, rows[low:high], squared, out[low:high])
    return -1
