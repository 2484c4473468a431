"""Character n-grams of words, hashed into buckets, and their sums over documents.

Two steps, so that a word which occurs a thousand times is hashed once: `hash_ngrams` turns distinct words into
(bucket, value) pairs, `sum_words` adds the pairs of each document's words into CSR rows.

n-grams are runs of *characters* (code points); only the hash sees bytes. The hash is CRC-32 as in `zlib.crc32`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from inlay.kernels import compiled

__all__ = ["crc_table", "hash_ngrams", "hash_ngrams_plain", "sum_words", "sum_words_plain"]

# Cells of the float64 scratch in which one block of documents is summed (8 MB).
SCRATCH = 1 << 20

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


@cache
def crc_table() -> np.ndarray:
    """CRC-32 (reflected polynomial 0xEDB88320) of every byte, uint32 [256]."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> np.uint32(1)) ^ np.uint32(0xEDB88320), crc >> np.uint32(1))
    return crc


def hash_ngrams(
    text: np.ndarray, offsets: np.ndarray, weight: np.ndarray, dim: int, *, signed: bool, stop: np.ndarray
) -> Pairs:
    """Hash the n-grams of each word; n-grams never cross words.

    Args:
        text: uint8 [bytes], valid UTF-8 of all words one after another, without separators.
        offsets: int64 [words + 1], first byte of each word.
        weight: float64 [longest n + 1], value of an n-gram by its length; 0 leaves that length out.
        dim: number of buckets; an n-gram falls into bucket `crc32 % dim`.
        signed: take the sign of the value from the highest bit of the hash.
        stop: uint32 [m], ascending hashes of n-grams to leave out.

    Returns:
        CSR by word: indptr int64 [words + 1], buckets int64 [pairs], values float64 [pairs]; within a word by first
        character, then by n. An n-gram that occurs twice in a word is listed twice.
    """
    if compiled(len(text) * len(weight)):
        from inlay.kernels.ngrams_numba import hash_ngrams_compiled

        return hash_ngrams_compiled(text, offsets, weight, dim, signed, stop, crc_table())
    return hash_ngrams_plain(text, offsets, weight, dim, signed=signed, stop=stop)


def hash_ngrams_plain(
    text: np.ndarray, offsets: np.ndarray, weight: np.ndarray, dim: int, *, signed: bool, stop: np.ndarray
) -> Pairs:
    """The numpy form of `hash_ngrams`: one pass per character of the longest n-gram, all words at once."""
    words = len(offsets) - 1
    first_byte = np.flatnonzero((text & 0xC0) != 0x80)  # every byte of UTF-8 but continuations starts a character
    width = np.diff(np.append(first_byte, len(text)))
    first_character = np.searchsorted(first_byte, offsets)
    word = np.repeat(np.arange(words), np.diff(first_character))
    left = first_character[word + 1] - np.arange(len(first_byte))  # characters from here to the end of the word

    start = np.arange(len(first_byte))
    crc = np.full(len(start), 0xFFFFFFFF, dtype=np.uint32)
    starts, hashes, values = [], [], []
    for length in range(1, len(weight)):
        inside = left[start] >= length
        start, crc = start[inside], crc[inside]
        crc = _extend(crc, text, first_byte[start + length - 1], width[start + length - 1])
        if weight[length]:
            starts.append(start)
            hashes.append(~crc)
            values.append(np.full(len(start), weight[length]))
    where, hashed, value = np.concatenate(starts), np.concatenate(hashes), np.concatenate(values)
    order = np.argsort(where, kind="stable")
    if len(stop):
        order = order[~np.isin(hashed[order], stop)]
    where, hashed, value = where[order], hashed[order], value[order]
    if signed:
        value = np.where(hashed >> np.uint32(31), -value, value)
    indptr = np.zeros(words + 1, dtype=np.int64)
    np.cumsum(np.bincount(word[where], minlength=words), out=indptr[1:])
    return indptr, (hashed % np.uint32(dim)).astype(np.int64), value


def _extend(crc: np.ndarray, text: np.ndarray, byte: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Feed one character (1 to 4 bytes from `byte`) to each running CRC."""
    table = crc_table()
    crc = table[(crc ^ text[byte]) & np.uint32(255)] ^ (crc >> np.uint32(8))
    for k in range(1, int(width.max(initial=1))):
        more = np.flatnonzero(width > k)
        running = crc[more]
        crc[more] = table[(running ^ text[byte[more] + k]) & np.uint32(255)] ^ (running >> np.uint32(8))
    return crc


def sum_words(indptr: np.ndarray, words: np.ndarray, pairs: Pairs, dim: int) -> Pairs:
    """Add up the (bucket, value) pairs of each document's words.

    Args:
        indptr: int64 [documents + 1]; document i has the words `words[indptr[i]:indptr[i + 1]]`.
        words: int64 [tokens], word numbers.
        pairs: what `hash_ngrams` made of the distinct words.
        dim: number of buckets.

    Returns:
        CSR by document: indptr int64 [documents + 1], buckets int32 [nnz] ascending within a row, sums float64 [nnz].
        Sums that came to exactly 0 are left out.
    """
    if compiled(int((pairs[0][words + 1] - pairs[0][words]).sum())):
        from inlay.kernels.ngrams_numba import sum_words_compiled

        return sum_words_compiled(indptr, words, *pairs, dim)
    return sum_words_plain(indptr, words, pairs, dim)


def sum_words_plain(indptr: np.ndarray, words: np.ndarray, pairs: Pairs, dim: int) -> Pairs:
    """The numpy form of `sum_words`: blocks of documents summed in a dense scratch by `bincount`."""
    first, buckets, values = pairs
    vocabulary = len(first) - 1
    documents = len(indptr) - 1
    block = max(1, SCRATCH // dim)
    lengths, columns, sums = [np.zeros(1, dtype=np.int64)], [], []
    for low in range(0, documents, block):
        high = min(low + block, documents)
        row = np.repeat(np.arange(high - low), np.diff(indptr[low : high + 1]))
        # Repeats of a word within a document become a factor, so memory follows distinct words however long a text is.
        key, times = np.unique(row * vocabulary + words[indptr[low] : indptr[high]], return_counts=True)
        row, word = np.divmod(key, max(vocabulary, 1))
        length = first[word + 1] - first[word]
        end = np.cumsum(length)
        take = np.arange(end[-1] if len(end) else 0) + np.repeat(first[word] - end + length, length)
        cell = np.repeat(row * dim, length) + buckets[take]
        total = np.bincount(cell, weights=values[take] * np.repeat(times, length), minlength=(high - low) * dim)
        kept = np.flatnonzero(total != 0)  # several times as fast on booleans
        row, column = np.divmod(kept, dim)
        lengths.append(np.bincount(row, minlength=high - low))
        columns.append(column.astype(np.int32))
        sums.append(total[kept].astype(np.float64, copy=False))  # bincount of nothing is int64
    out = np.cumsum(np.concatenate(lengths))
    if not columns:
        return out, np.zeros(0, dtype=np.int32), np.zeros(0)
    return out, np.concatenate(columns), np.concatenate(sums)
