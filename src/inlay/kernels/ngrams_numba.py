"""The compiled forms of `inlay.kernels.ngrams`; see there for arguments and results."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["hash_ngrams_compiled", "sum_words_compiled"]


@njit(cache=True, nogil=True)
def hash_ngrams_compiled(text, offsets, weight, dim, signed, stop, table):
    words = len(offsets) - 1
    longest = len(weight) - 1
    lengths = 0
    for n in range(1, longest + 1):
        lengths += weight[n] != 0.0
    indptr = np.zeros(words + 1, dtype=np.int64)
    buckets = np.empty(len(text) * lengths, dtype=np.int64)  # each byte starts at most one n-gram of each length
    values = np.empty(len(text) * lengths, dtype=np.float64)
    filled = 0
    for word in range(words):
        end = offsets[word + 1]
        for start in range(offsets[word], end):
            if text[start] & 0xC0 == 0x80:
                continue
            crc = np.uint32(0xFFFFFFFF)
            byte = start
            for n in range(1, longest + 1):
                if byte >= end:
                    break
                while True:
                    crc = table[(crc ^ np.uint32(text[byte])) & np.uint32(255)] ^ (crc >> np.uint32(8))
                    byte += 1
                    if byte >= end or text[byte] & 0xC0 != 0x80:
                        break
                if weight[n] == 0.0:
                    continue
                hashed = np.uint32(crc ^ np.uint32(0xFFFFFFFF))
                if len(stop):
                    at = np.searchsorted(stop, hashed)
                    if at < len(stop) and stop[at] == hashed:
                        continue
                buckets[filled] = np.int64(hashed) % dim
                values[filled] = -weight[n] if signed and hashed >> np.uint32(31) else weight[n]
                filled += 1
        indptr[word + 1] = filled
    return indptr, buckets[:filled].copy(), values[:filled].copy()


@njit(cache=True, nogil=True)
def sum_words_compiled(indptr, words, first, buckets, values, dim):
    documents = len(indptr) - 1
    scratch = np.zeros(dim, dtype=np.float64)
    # One flag a bucket, read eight at a time: finding a row's buckets in order costs dim / 8 reads and no sort.
    flags = np.zeros((dim + 7) // 8 * 8, dtype=np.uint8)
    eights = flags.view(np.uint64)
    out = np.zeros(documents + 1, dtype=np.int64)
    columns = np.empty(max(1024, len(words)), dtype=np.int32)
    sums = np.empty(len(columns), dtype=np.float64)
    filled = 0
    for document in range(documents):
        for token in range(indptr[document], indptr[document + 1]):
            word = words[token]
            for pair in range(first[word], first[word + 1]):
                bucket = buckets[pair]
                scratch[bucket] += values[pair]
                flags[bucket] = 1
        if filled + dim > len(columns):  # a row has at most `dim` buckets: room for it before it is read
            room = max(2 * len(columns), filled + dim)
            more_columns = np.empty(room, dtype=np.int32)
            more_sums = np.empty(room, dtype=np.float64)
            more_columns[:filled] = columns[:filled]
            more_sums[:filled] = sums[:filled]
            columns, sums = more_columns, more_sums
        for eight in range(len(eights)):
            if eights[eight] == 0:
                continue
            for bucket in range(8 * eight, 8 * eight + 8):
                if flags[bucket]:
                    flags[bucket] = 0
                    if scratch[bucket] != 0.0:
                        columns[filled] = bucket
                        sums[filled] = scratch[bucket]
                        scratch[bucket] = 0.0
                        filled += 1
        out[document + 1] = filled
    return out, columns[:filled].copy(), sums[:filled].copy()
