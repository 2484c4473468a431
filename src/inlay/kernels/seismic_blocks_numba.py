"""The compiled forms of `inlay.kernels.seismic_blocks`; see there for arguments and results."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["block_compiled", "heads_compiled"]

MOST_BLOCKS = 65_535

_u = np.uint64


@njit(cache=True, nogil=True, boundscheck=False)
def heads_compiled(indptr, columns, values, cut):
    n = len(indptr) - 1
    starts = np.zeros(n + 1, dtype=np.int64)
    longest = 0
    for row in range(n):
        length = indptr[row + 1] - indptr[row]
        longest = max(longest, length)
        starts[row + 1] = starts[row] + min(length, cut)
    kept_columns, kept_values = np.empty(starts[n], dtype=np.int32), np.empty(starts[n], dtype=np.float32)
    work = np.empty(longest, dtype=np.float32)
    for row in range(n):
        begin, length, to = indptr[row], indptr[row + 1] - indptr[row], starts[row]
        threshold, ties = np.float32(-1), 0
        if length > cut:
            work[:length] = values[begin : begin + length]
            threshold = _nth(work, length, cut)
            ties = cut
            for p in range(begin, begin + length):
                ties -= values[p] > threshold
        for p in range(begin, begin + length):
            value = values[p]
            if value > threshold or (value == threshold and ties > 0):
                ties -= value == threshold
                kept_columns[to], kept_values[to] = columns[p], value
                to += 1
    return starts, kept_columns, kept_values


@njit(cache=True, nogil=True, boundscheck=False)
def _split(work, low, high):
    """Values `low:high` about one of them: the larger ones first, then its equals; (where these begin, end, value)."""
    a, b, c = work[low], work[(low + high) >> 1], work[high - 1]
    pivot = max(min(a, b), min(max(a, b), c))
    i, j, end = low, low, high  # larger ones up to i, equals up to j, smaller ones from end
    while j < end:
        value = work[j]
        if value > pivot:
            work[j] = work[i]
            work[i] = value
            i += 1
            j += 1
        elif value < pivot:
            end -= 1
            work[j] = work[end]
            work[end] = value
        else:
            j += 1
    return i, end, pivot


@njit(cache=True, nogil=True, boundscheck=False)
def _nth(work, length, nth):
    """The nth largest value, counted from 1."""
    low, high = 0, length
    while True:
        begin, end, pivot = _split(work, low, high)
        if nth <= begin:
            high = begin
        elif nth <= end:
            return pivot
        else:
            low = end


@njit(cache=True, nogil=True, boundscheck=False)
def _crossing(work, length, need):
    """(value at which the sum of the largest ones reaches `need`, how many of that value it takes)."""
    low, high, above = 0, length, 0.0
    while low < high:
        begin, end, pivot = _split(work, low, high)
        larger = 0.0
        for i in range(low, begin):
            larger += work[i]
        if begin > low and above + larger >= need:
            high = begin
            continue
        count, value = end - begin, float(pivot)
        if above + larger + count * value >= need:
            for taken in range(1, count):
                if above + larger + taken * value >= need:
                    return pivot, taken
            return pivot, count
        above += larger + count * value
        low = end
    return np.float32(0), 0  # rounding: all of it


@njit(cache=True, nogil=True, boundscheck=False)
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True, boundscheck=False)
def _room(array, needed):
    if needed <= len(array):
        return array
    longer = np.empty(max(needed, 2 * len(array)), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True, nogil=True, boundscheck=False)
def _nearest(row, head_indptr, head_columns, head_values, begin, count, near, weight, alive, scores):
    """The centroid that a row joins, among those alive."""
    scores[:] = 0
    for p in range(head_indptr[row], head_indptr[row + 1]):
        column, value = head_columns[p], head_values[p]
        start = begin[column]
        for e in range(start, start + count[column]):
            scores[_u(near[_u(e)])] += value * weight[_u(e)]
    found, highest = -1, np.float32(-1)
    for i in range(len(scores)):
        if scores[i] > highest and alive[i]:
            found, highest = i, scores[i]
    return found


@njit(cache=True, nogil=True, boundscheck=False)
def block_compiled(
    first, last, list_starts, list_rows, indptr, columns, values, head_indptr, head_columns, head_values, n_columns,
    centroid_fraction, min_cluster_size, summary_energy, salt,
):  # fmt: skip
    n_lists, offset = last - first, list_starts[first]
    members = np.empty(list_starts[last] - offset, dtype=np.int32)
    longest, most = 0, 0
    for c in range(first, last):
        length = list_starts[c + 1] - list_starts[c]
        longest = max(longest, length)
        if length:
            most += min(max(1, int(centroid_fraction * length)), MOST_BLOCKS)
    list_blocks, list_components = np.zeros(n_lists, dtype=np.int64), np.zeros(n_lists, dtype=np.int64)
    block_sizes, scales = np.empty(most, dtype=np.int64), np.empty((most, 2), dtype=np.float32)
    components, entry_counts = np.empty(1024, dtype=np.int32), np.empty(1024, dtype=np.int64)
    entry_blocks, entry_codes = np.empty(4096, dtype=np.uint16), np.empty(4096, dtype=np.uint8)
    n_blocks, n_components, n_entries = 0, 0, 0

    begin, count = np.zeros(n_columns, dtype=np.int64), np.zeros(n_columns, dtype=np.int64)
    touched = np.empty(n_columns, dtype=np.int32)
    highest, work = np.zeros(n_columns, dtype=np.float32), np.empty(n_columns, dtype=np.float32)
    near, weight = np.empty(1024, dtype=np.int32), np.empty(1024, dtype=np.float32)
    order, joined = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int64)
    its_components, its_blocks = np.empty(4096, dtype=np.int32), np.empty(4096, dtype=np.uint16)
    its_codes = np.empty(4096, dtype=np.uint8)

    for c in range(first, last):
        rows = list_rows[list_starts[c] : list_starts[c + 1]]
        length = len(rows)
        if length == 0:
            continue
        n = min(max(1, int(centroid_fraction * length)), MOST_BLOCKS)
        sizes = np.zeros(n, dtype=np.int64)
        if n == 1:
            joined[:length] = 0
            sizes[0] = length
        else:
            order[:length] = rows
            for i in range(n):
                number = _mix(salt + ((np.uint64(c) << np.uint64(32)) | np.uint64(i)))
                j = i + np.int64(number % np.uint64(length - i))
                order[i], order[j] = order[j], order[i]
            # The centroids' own inverted lists.
            used, total = 0, 0
            for i in range(n):
                for p in range(indptr[order[i]], indptr[order[i] + 1]):
                    column = columns[p]
                    if count[column] == 0:
                        touched[used] = column
                        used += 1
                    count[column] += 1
                    total += 1
            near, weight = _room(near, total), _room(weight, total)
            at = 0
            for t in range(used):
                begin[touched[t]] = at
                at += count[touched[t]]
                count[touched[t]] = 0
            for i in range(n):
                for p in range(indptr[order[i]], indptr[order[i] + 1]):
                    column = columns[p]
                    to = begin[column] + count[column]
                    near[to], weight[to] = i, values[p]
                    count[column] += 1
            alive, scores = np.ones(n, dtype=np.bool_), np.empty(n, dtype=np.float32)
            for i in range(length):
                joined[i] = _nearest(
                    rows[i], head_indptr, head_columns, head_values, begin, count, near, weight, alive, scores
                )
                sizes[joined[i]] += 1
            left, largest = 0, 0
            for i in range(n):
                alive[i] = sizes[i] > min_cluster_size
                left += alive[i]
                if sizes[i] > sizes[largest]:
                    largest = i
            if left == 0:
                alive[largest] = True
            for i in range(length):
                if not alive[joined[i]]:
                    joined[i] = _nearest(
                        rows[i], head_indptr, head_columns, head_values, begin, count, near, weight, alive, scores
                    )
                    sizes[joined[i]] += 1
            for i in range(n):
                if not alive[i]:
                    sizes[i] = 0
            for t in range(used):
                count[touched[t]] = 0

        # Members block by block, in the order of the list within each.
        start = list_starts[c] - offset
        free, at, its_n = np.empty(n, dtype=np.int64), start, 0
        for i in range(n):
            free[i] = at
            at += sizes[i]
        for i in range(length):
            members[free[joined[i]]] = rows[i]
            free[joined[i]] += 1
        at = start
        for i in range(n):
            if sizes[i] == 0:
                continue
            # What is met is numbered, its highest value kept.
            met, whole = 0, 0.0
            for m in range(at, at + sizes[i]):
                for p in range(indptr[members[m]], indptr[members[m] + 1]):
                    column = columns[p]
                    if highest[column] == 0:
                        touched[met] = column
                        met += 1
                    highest[column] = max(highest[column], values[p])
            at += sizes[i]
            for t in range(met):
                work[t] = highest[touched[t]]
                whole += work[t]
            threshold, ties = np.float32(0), 0
            if summary_energy < 1:
                threshold, ties = _crossing(work, met, summary_energy * whole)
            low, high = np.float32(np.inf), np.float32(0)
            its_components = _room(its_components, its_n + met)
            its_blocks, its_codes = _room(its_blocks, its_n + met), _room(its_codes, its_n + met)
            block, kept = list_blocks[c - first], 0
            for t in range(met):
                value = highest[touched[t]]
                if value > threshold or (value == threshold and ties > 0):
                    ties -= value == threshold
                    low, high = min(low, value), max(high, value)
                    work[kept] = value
                    its_components[its_n + kept], its_blocks[its_n + kept] = touched[t], block
                    kept += 1
            step = (high - low) / np.float32(255)
            for t in range(kept):
                code = np.float32(0)
                if step > 0:
                    code = min(np.floor((work[t] - low) / step + np.float32(0.5)), np.float32(255))
                its_codes[its_n + t] = np.uint8(code)
            for t in range(met):
                highest[touched[t]] = 0
            its_n += kept
            block_sizes[n_blocks], scales[n_blocks, 0], scales[n_blocks, 1] = sizes[i], step, low
            n_blocks += 1
            list_blocks[c - first] += 1

        # Transposed: by component, then block.
        used = 0
        for e in range(its_n):
            if count[its_components[e]] == 0:
                touched[used] = its_components[e]
                used += 1
            count[its_components[e]] += 1
        its = np.sort(touched[:used])
        components, entry_counts = _room(components, n_components + used), _room(entry_counts, n_components + used)
        entry_blocks, entry_codes = _room(entry_blocks, n_entries + its_n), _room(entry_codes, n_entries + its_n)
        at = n_entries
        for t in range(used):
            components[n_components + t], entry_counts[n_components + t] = its[t], count[its[t]]
            begin[its[t]] = at
            at += count[its[t]]
            count[its[t]] = 0
        for e in range(its_n):
            to = begin[its_components[e]]
            entry_blocks[to], entry_codes[to] = its_blocks[e], its_codes[e]
            begin[its_components[e]] = to + 1
        n_entries += its_n
        n_components += used
        list_components[c - first] = used
    return (
        members, list_blocks, block_sizes[:n_blocks].copy(), scales[:n_blocks].copy(), list_components,
        components[:n_components].copy(), entry_counts[:n_components].copy(),
        entry_blocks[:n_entries].copy(), entry_codes[:n_entries].copy(),
    )  # fmt: skip
