"""Compiled form of `postings`: MaxScore in windows of rows.

A query's terms come in descending order of the most that each can add to a row. Once k rows are known, the weakest
of them sets a *threshold*, and the last terms, which even together cannot lift a row above it, become
*non-essential*: a row that has only those cannot enter. The essential lists are read in full, a window of rows at a
time, into an accumulator that stays in the first-level cache; then the other lists are probed for the rows that may
still get above the threshold. Where these are so many that reading a list is cheaper than probing it, it is read.
Everything else is skipped, and nothing is approximate.

Turtle & Flood 1995, "Query Evaluation: Strategies and Optimizations" (MaxScore); the window is Lucene's.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

# Rows of a window: 32 KiB of float32.
WINDOW = 8192

# Candidates settled at a time, so that the threshold they raise spares the next ones.
_BATCH = 512
_BLOCK = 64

# Postings that are read in the time of one probe.
_PROBE = 256

# Terms of a query that are put in order one by one.
_FEW = 32

_u = np.uint64  # a signed index would be tested for being negative, at every access


@njit(cache=True, nogil=True, boundscheck=False)
def transpose(indptr, columns, values, n_columns):
    """See `postings.transpose`: a counting sort."""
    starts = np.zeros(n_columns + 1, dtype=np.int64)
    for column in columns:
        starts[column + 1] += 1
    for column in range(n_columns):
        starts[column + 1] += starts[column]
    free = starts[:-1].copy()
    rows = np.empty(len(columns), dtype=np.int32)
    moved = np.empty(len(columns), dtype=values.dtype)
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            to = free[columns[p]]
            free[columns[p]] = to + 1
            rows[to] = row
            moved[to] = values[p]
    return starts, rows, moved


@njit(cache=True, nogil=True, boundscheck=False)
def _key(score, row):
    """Score and row as one uint64 that is higher the better: by score, then by lower row."""
    bits = np.uint32(np.float32(score + np.float32(0)).view(np.uint32))  # adding 0 makes -0.0 equal to 0.0
    bits ^= np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000)
    return (np.uint64(bits) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - np.uint64(row))


@njit(cache=True, nogil=True, boundscheck=False)
def _score(key):
    bits = np.uint32(key >> np.uint64(32))
    bits ^= np.uint32(0x80000000) if bits >> np.uint32(31) else np.uint32(0xFFFFFFFF)
    return np.uint32(bits).view(np.float32)


@njit(cache=True, nogil=True, boundscheck=False)
def _row(key):
    return np.int64(np.uint64(0xFFFFFFFF) - (key & np.uint64(0xFFFFFFFF)))


@njit(cache=True, nogil=True, boundscheck=False)
def _offer(best, size, key):
    """Offer a key to the best so far, a heap with the worst at its root; returns how many there are."""
    if size < len(best):
        at = size
        while at > 0 and key < best[_u((at - 1) >> 1)]:
            best[_u(at)] = best[_u((at - 1) >> 1)]
            at = (at - 1) >> 1
        best[_u(at)] = key
        return size + 1
    if key > best[0]:
        at = 0
        child = 1
        while child < size:
            if child + 1 < size:
                child += best[_u(child + 1)] < best[_u(child)]
            if key <= best[_u(child)]:
                break
            best[_u(at)] = best[_u(child)]
            at = child
            child = 2 * at + 1
        best[_u(at)] = key
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _seek(rows, start, stop, row):
    """First position in `start:stop` whose row is not below `row`: doubling steps, then bisection."""
    step = 1
    low = start
    while start + step < stop and rows[start + step] < row:
        low = start + step
        step *= 2
    high = min(start + step, stop)
    while low < high:
        middle = (low + high) >> 1
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True, boundscheck=False)
def _add_window(rows, impacts, start, stop, weight, low, high, window):
    """Add one list's postings below row `high` to the window; returns where the list goes on."""
    p = start
    while p + 16 <= stop and rows[_u(p + 15)] < high:  # sixteen for one comparison
        for j in range(p, p + 16):
            window[np.uint32(rows[_u(j)] - low)] += weight * impacts[_u(j)]
        p += 16
    while p < stop and rows[_u(p)] < high:
        window[np.uint32(rows[_u(p)] - low)] += weight * impacts[_u(p)]
        p += 1
    return p


@njit(cache=True, nogil=True, boundscheck=False)
def _cut(threshold, rest):
    """What a row must already have to get above the threshold with `rest` more; rounded down."""
    return np.float32(max(threshold - rest, 0.0) * (1 - 1.2e-7))


@njit(cache=True, nogil=True, boundscheck=False)
def _count(rows, begun, at, lists, read, low, cut, window):
    """How many rows of the window are above the cut, in few postings (then with repetitions) or in all the window."""
    above = 0
    if read <= _BATCH:
        for t in range(lists):
            for p in range(begun[t], at[t]):
                above += window[np.uint32(rows[_u(p)] - low)] > cut
    else:
        for i in range(WINDOW):
            above += window[_u(i)] > cut
    return above


@njit(cache=True, nogil=True, boundscheck=False)
def _take_again(rows, begun, at, lists, low, cut, allow, window, found, partial):
    """Candidates of a window with few postings, by reading these again; leaves the window zero."""
    n_found = 0
    for t in range(lists):
        for p in range(begun[t], at[t]):
            i = np.uint32(rows[_u(p)] - low)
            score = window[i]
            window[i] = 0
            if score > cut and (len(allow) == 0 or allow[rows[_u(p)]]):
                found[n_found], partial[n_found] = rows[_u(p)], score
                n_found += 1
    return n_found


@njit(cache=True, nogil=True, boundscheck=False)
def _take_batch(window, start, low, cut, allow, found, partial):
    """Candidates among the `_BATCH` rows of the window from `start` on; leaves these zero."""
    n_found = 0
    for block in range(start, start + _BATCH, _BLOCK):
        above = 0
        for i in range(_BLOCK):
            above += window[_u(block + i)] > cut
        if above:
            for i in range(block, block + _BLOCK):
                score = window[_u(i)]
                if score > cut and (len(allow) == 0 or allow[low + i]):
                    found[n_found], partial[n_found] = low + i, score
                    n_found += 1
    window[start : start + _BATCH] = 0
    return n_found


@njit(cache=True, nogil=True, boundscheck=False)
def _settle(rows, impacts, weights, rest, at, until, lists, low, found, partial, n_found, slack, best, size):
    """Complete candidates from the lists not read and offer them; returns how many rows are best so far.

    Lists are probed strongest first, and a candidate is dropped as soon as what is left cannot save it.
    """
    threshold = _score(best[0]) if size == len(best) else np.float32(0)
    for t in range(lists, len(weights)):
        if n_found == 0:
            break
        at[t] = p = _seek(rows, at[t], until[t], low)
        before = -1
        kept = 0
        for c in range(n_found):
            row, score = found[c], partial[c]
            if score + rest[t] <= threshold * slack:
                continue
            if row < before:
                p = at[t]
            before = row
            p = _seek(rows, p, until[t], row)
            if p < until[t] and rows[p] == row:
                score += weights[t] * impacts[p]
            found[kept], partial[kept] = row, score
            kept += 1
        n_found = kept
    for c in range(n_found):
        if partial[c] >= threshold:  # an equal one may be a lower row: a batch need not be in order
            size = _offer(best, size, _key(partial[c], found[c]))
            if size == len(best):
                threshold = _score(best[0])
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _maxscore(indptr, rows, impacts, n_rows, columns, weights, bounds, allow, window, found, partial, best):
    """The best rows of one query without negative contributions; returns how many there are.

    `window` float32 [WINDOW] is all zero before and after; `found` int64 and `partial` float32 [_BATCH] are scratch.
    """
    m = len(columns)
    at, until, begun = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64)
    rest = np.zeros(m + 1)  # the most that terms t, t + 1, ... add together
    for t in range(m - 1, -1, -1):
        at[t], until[t] = indptr[columns[t]], indptr[columns[t] + 1]
        rest[t] = rest[t + 1] + bounds[t]
    # A float32 sum may be rounded up at each addition but one, so a bound must stay that far below the threshold.
    # Otherwise merely equalling it is not enough: rows come in ascending order, and the later one loses the tie.
    slack = 1 - 1.2e-7 * max(m - 2, 0)

    size = 0
    essential = lists = m
    while True:
        threshold = _score(best[0]) * slack if size == len(best) else 0.0
        while essential > 0 and rest[essential - 1] <= threshold:
            essential -= 1
        low = n_rows
        for t in range(essential):
            if at[t] < until[t]:
                low = min(low, np.int64(rows[at[t]]))
        if low == n_rows:
            return size
        high = min(low + WINDOW, n_rows)

        # Read the essential lists, and then as many more as it takes until probing the next one is cheaper.
        lists = max(essential, lists - 1)
        read = done = 0
        while True:
            for t in range(done, lists):
                begun[t] = at[t] if t < essential else _seek(rows, at[t], until[t], low)
                at[t] = _add_window(rows, impacts, begun[t], until[t], weights[t], low, high, window)
                read += at[t] - begun[t]
            done = lists
            cut = _cut(threshold, rest[lists])
            if lists == m:
                break
            expected = (until[lists] - indptr[columns[lists]]) * (high - low) // n_rows
            if _PROBE * _count(rows, begun, at, lists, read, low, cut, window) <= expected:
                break
            lists += 1

        if read <= _BATCH:
            n_found = _take_again(rows, begun, at, lists, low, cut, allow, window, found, partial)
            size = _settle(
                rows, impacts, weights, rest, at, until, lists, low, found, partial, n_found, slack,
                best, size,
            )  # fmt: skip
            continue
        for start in range(0, high - low, _BATCH):
            n_found = _take_batch(window, start, low, cut, allow, found, partial)
            if n_found:
                size = _settle(
                    rows, impacts, weights, rest, at, until, lists, low, found, partial, n_found, slack,
                    best, size,
                )  # fmt: skip
                if size == len(best):
                    cut = _cut(_score(best[0]) * slack, rest[lists])


@njit(cache=True, nogil=True, boundscheck=False)
def _exhaustive(indptr, rows, impacts, n_rows, columns, weights, allow, best):
    """The best rows of one query where contributions may be negative, so that no bound holds."""
    scores = np.zeros(n_rows, dtype=np.float32)
    touched = np.zeros(n_rows, dtype=np.bool_)
    for t in range(len(columns)):
        for p in range(indptr[columns[t]], indptr[columns[t] + 1]):
            added = weights[t] * impacts[p]
            scores[rows[p]] += added
            if added != 0:
                touched[rows[p]] = True
    size = 0
    for row in range(n_rows):
        if touched[row] and (len(allow) == 0 or allow[row]):
            size = _offer(best, size, _key(scores[row], row))
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def _plan(highest, lowest, ready, columns, weights, begin, end, its_columns, its_weights, bounds):
    """A query's terms that matter, those that may add most first; of equal ones in the query's order.

    Returns:
        How many there are, or -1 if a column is not ready; and whether one may add less than nothing.
    """
    m, signed = 0, False
    for t in range(begin, end):
        column, weight = columns[t], weights[t]
        if column < 0 or column >= len(ready) or weight == 0:
            continue
        if not ready[column]:
            return -1, signed
        one, other = weight * highest[column], weight * lowest[column]
        signed |= min(one, other) < 0
        its_columns[m], its_weights[m], bounds[m] = column, weight, max(one, other, np.float32(0))
        m += 1
    if m > _FEW:
        order = np.argsort(-bounds[:m], kind="mergesort")
        its_columns[:m], its_weights[:m], bounds[:m] = its_columns[order], its_weights[order], bounds[order]
        return m, signed
    for i in range(1, m):
        column, weight, bound = its_columns[i], its_weights[i], bounds[i]
        j = i
        while j > 0 and bounds[j - 1] < bound:
            its_columns[j], its_weights[j], bounds[j] = its_columns[j - 1], its_weights[j - 1], bounds[j - 1]
            j -= 1
        its_columns[j], its_weights[j], bounds[j] = column, weight, bound
    return m, signed


@njit(cache=True, nogil=True, boundscheck=False)
def _some_queries(
    begin, end, indptr, rows, impacts, highest, lowest, ready, n_rows, offsets, columns, weights, allow, scores, ids
):
    """Fill scores and ids of queries `begin:end`; False if a column that is asked for is not ready."""
    best = np.empty(scores.shape[1], dtype=np.uint64)
    window = np.zeros(WINDOW, dtype=np.float32)
    found = np.empty(_BATCH, dtype=np.int64)
    partial = np.empty(_BATCH, dtype=np.float32)
    longest = 0
    for q in range(begin, end):
        longest = max(longest, offsets[q + 1] - offsets[q])
    its_columns, its_weights = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.float32)
    bounds = np.empty(longest, dtype=np.float32)
    for q in range(begin, end):
        m, signed = _plan(
            highest, lowest, ready, columns, weights, offsets[q], offsets[q + 1], its_columns, its_weights, bounds
        )
        if m < 0:
            return False
        if signed:
            size = _exhaustive(indptr, rows, impacts, n_rows, its_columns[:m], its_weights[:m], allow, best)
        else:
            size = _maxscore(
                indptr, rows, impacts, n_rows, its_columns[:m], its_weights[:m], bounds[:m], allow,
                window, found, partial, best,
            )  # fmt: skip
        best[:size].sort()
        for i in range(size):
            key = best[size - 1 - i]
            scores[q, i], ids[q, i] = _score(key), _row(key)
        scores[q, size:] = -np.inf
        ids[q, size:] = -1
    return True


@njit(cache=True, nogil=True, boundscheck=False)
def top_rows(indptr, rows, impacts, highest, lowest, ready, n_rows, offsets, columns, weights, k, allow):
    """See `postings.top_rows`; `allow` is empty where all rows are allowed. First returns whether it could be done."""
    n = len(offsets) - 1
    scores, ids = np.empty((n, k), dtype=np.float32), np.empty((n, k), dtype=np.int64)
    done = _some_queries(
        0, n, indptr, rows, impacts, highest, lowest, ready, n_rows, offsets, columns, weights, allow, scores, ids
    )
    return done, scores, ids


@njit(cache=True, nogil=True, boundscheck=False, parallel=True)
def top_rows_parallel(indptr, rows, impacts, highest, lowest, ready, n_rows, offsets, columns, weights, k, allow):
    """The same, with queries spread over threads."""
    n = len(offsets) - 1
    scores, ids = np.empty((n, k), dtype=np.float32), np.empty((n, k), dtype=np.int64)
    share = 16
    parts = (n + share - 1) // share
    done = np.zeros(parts, dtype=np.bool_)
    for s in prange(parts):
        done[s] = _some_queries(
            s * share, min(s * share + share, n), indptr, rows, impacts, highest, lowest, ready, n_rows,
            offsets, columns, weights, allow, scores, ids,
        )  # fmt: skip
    return done.all(), scores, ids
