"""Compiled form of `tokens`: one pass over UTF-8 bytes into an exact hash table, one counting pass over numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)
_WORD, _ALONE, _MARK = 1, 2, 3


@njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _code_point(data, i):
    """(code point, width) of the non-ASCII character that starts at byte i of valid UTF-8."""
    lead = np.int64(data[i])
    if lead < 0xE0:
        return ((lead & 0x1F) << 6) | (np.int64(data[i + 1]) & 0x3F), 2
    middle = ((np.int64(data[i + 1]) & 0x3F) << 6) | (np.int64(data[i + 2]) & 0x3F)
    if lead < 0xF0:
        return ((lead & 0x0F) << 12) | middle, 3
    return ((lead & 0x07) << 18) | (middle << 6) | (np.int64(data[i + 3]) & 0x3F), 4


def number_tokens(data, starts, kinds):
    """Number the distinct tokens of texts laid end to end.

    Args:
        data: uint8 [bytes], valid UTF-8 with ASCII folded.
        starts: int64 [n + 1], first byte of each text.
        kinds: uint8 [code points], see `tokens.kind`; code points beyond it separate.

    Returns:
        (offsets int64 [n + 1], ids int32 [tokens], first int64 [distinct], last int64 [distinct]), where token t was
        first met at bytes `first[t]:last[t]`.
    """
    n = len(starts) - 1
    offsets = np.zeros(n + 1, dtype=np.int64)
    ids = np.empty(len(data) + 1, dtype=np.int32)  # never written to the end, so never paid for
    hashes, first, last = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    text, distinct = 0, 0
    while text < n:
        # The table grows between texts, out here: growing it inside would cost the loop its registers.
        room = max(1 << 15, 2 * distinct, distinct + int(starts[text + 1] - starts[text]))
        slots = np.full(1 << (2 * room - 1).bit_length(), -1, dtype=np.int32)
        hashes, first, last = (_with_room(array[:distinct], room) for array in (hashes, first, last))
        _seat(slots, hashes, distinct)
        text, distinct = _number(data, starts, kinds, text, offsets, ids, slots, hashes, first, last, distinct)
    return offsets, ids[: offsets[n]].copy(), first[:distinct], last[:distinct]


def _with_room(array, room):
    larger = np.empty(room, dtype=array.dtype)
    larger[: len(array)] = array
    return larger


@njit(cache=True, nogil=True, boundscheck=False)
def _seat(slots, hashes, distinct):
    """Give the first `distinct` tokens their places in an empty table."""
    mask = len(slots) - 1
    for token in range(distinct):
        slot = np.int64((hashes[token] * _SPREAD) >> _SHIFT) & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = token


@njit(cache=True, nogil=True, boundscheck=False)
def _number(data, starts, kinds, text, offsets, ids, slots, hashes, first, last, distinct):
    """Number texts from `text` on, until one might not fit the table; returns (that text, distinct tokens)."""
    n = len(starts) - 1
    mask = len(slots) - 1
    written = offsets[text]
    while text < n and distinct + starts[text + 1] - starts[text] <= len(hashes):
        i, end = starts[text], starts[text + 1]
        while i < end:
            byte = data[i]
            if byte < 128:
                what, width = np.int64(kinds[byte]), np.int64(1)
            else:
                code, width = _code_point(data, i)
                what = np.int64(kinds[code]) if code < len(kinds) else np.int64(0)
            start = i
            i += width
            if what != _WORD and what != _ALONE:
                continue

            hashed = _SEED
            for j in range(start, i):
                hashed = (hashed ^ np.uint64(data[j])) * _PRIME
            while what == _WORD and i < end:
                byte = data[i]
                if byte < 128:
                    if kinds[byte] != _WORD:
                        break
                    hashed = (hashed ^ np.uint64(byte)) * _PRIME
                    i += 1
                else:
                    code, width = _code_point(data, i)
                    follows = np.int64(kinds[code]) if code < len(kinds) else np.int64(0)
                    if follows != _WORD and follows != _MARK:
                        break
                    for j in range(i, i + width):
                        hashed = (hashed ^ np.uint64(data[j])) * _PRIME
                    i += width

            # Find the token, or the free slot where it belongs: equal hash first, then equal bytes, so it is exact.
            slot = np.int64((hashed * _SPREAD) >> _SHIFT) & mask
            while slots[slot] >= 0:
                token = slots[slot]
                if hashes[token] == hashed and last[token] - first[token] == i - start:
                    j = 0
                    while j < i - start and data[first[token] + j] == data[start + j]:
                        j += 1
                    if j == i - start:
                        break
                slot = (slot + 1) & mask
            if slots[slot] < 0:
                slots[slot] = distinct
                hashes[distinct], first[distinct], last[distinct] = hashed, start, i
                distinct += 1
            ids[written] = slots[slot]
            written += 1
        text += 1
        offsets[text] = written
    return text, distinct


@njit(cache=True, nogil=True, boundscheck=False)
def count_columns(offsets, ids, column_of, n_columns, most):
    """See `tokens.count_columns`."""
    n = len(offsets) - 1
    indptr = np.zeros(n + 1, dtype=np.int64)
    columns = np.empty(len(ids), dtype=np.int32)
    counts = np.empty(len(ids), dtype=np.uint16)
    lengths = np.zeros(n, dtype=np.int32)
    seen_in = np.full(n_columns, -1, dtype=np.int32)
    count = np.zeros(n_columns, dtype=np.int32)
    begin = 0
    for text in range(n):
        end = begin
        length = 0
        for t in range(offsets[text], offsets[text + 1]):
            column = column_of[ids[t]]
            if column < 0:
                continue
            length += 1
            if seen_in[column] != text:
                seen_in[column] = text
                count[column] = 1
                columns[end] = column
                end += 1
            else:
                count[column] += 1
        columns[begin:end].sort()
        for cell in range(begin, end):
            counts[cell] = min(count[columns[cell]], most)
        lengths[text] = length
        begin = end
        indptr[text + 1] = end
    return indptr, columns[:begin].copy(), counts[:begin].copy(), lengths
