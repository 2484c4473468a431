"""Character n-gram → rows: the posting lists by which a misspelt key finds its neighbours.

Every key, lower-cased and between two marks that no text contains, is cut into runs of 3 to 6 characters. An n-gram's
number is the CRC-32 of its UTF-8 (what `inlay.kernels.ngrams` computes for all keys at once). Up to four bytes these
numbers are unique; two longer n-grams share one with probability 2⁻³², which adds a stranger to one posting list.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from inlay.kernels.ngrams import hash_ngrams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.words.store_file import StoreFile

__all__ = ["EDGE", "Subword", "grams", "postings"]

EDGE = "\uf000"  # begins and ends every key; a private-use character
NUMBERS = (1 << 32) - 1  # the kernel takes CRC-32 modulo something that fits its own type
KEYS_AT_ONCE = 1 << 15


def grams(text: str, n: int) -> list[str]:
    """Runs of n characters, from left to right."""
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def number(gram: str) -> int:
    """An n-gram's number."""
    return zlib.crc32(gram.encode("utf-8", "surrogatepass")) % NUMBERS


def postings(keys: Sequence[str], shortest: int, longest: int) -> dict[str, np.ndarray]:
    """The blocks of all keys: numbers ascending, and rows ascending within each."""
    weight = np.zeros(longest + 1)
    weight[shortest:] = 1
    parts = []
    for start in range(0, len(keys), KEYS_AT_ONCE):
        marked = [
            f"{EDGE}{key.lower()}{EDGE}".encode("utf-8", "surrogatepass") for key in keys[start : start + KEYS_AT_ONCE]
        ]
        offsets = np.zeros(len(marked) + 1, dtype=np.int64)
        np.cumsum([len(key) for key in marked], out=offsets[1:])
        text = np.frombuffer(b"".join(marked), dtype=np.uint8)
        indptr, numbers, _ = hash_ngrams(text, offsets, weight, NUMBERS, signed=False, stop=np.empty(0, np.uint32))
        rows = np.repeat(np.arange(start, start + len(marked), dtype=np.uint64), np.diff(indptr))
        # An n-gram that a key has twice is listed once.
        parts.append(np.unique(numbers.astype(np.uint64) << np.uint64(32) | rows))
    pairs = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    pairs.sort()
    numbers = (pairs >> np.uint64(32)).astype(np.uint32)
    first = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]])) if len(pairs) else pairs[:0]
    kept = numbers[first]
    bits = max(1, (len(kept) // 4).bit_length())
    ends = np.searchsorted(kept >> np.uint32(32 - bits), np.arange(1 << bits, dtype=np.uint32), side="right")
    return {
        "gram_directory": np.concatenate([[0], ends]).astype(np.uint32),
        "gram_numbers": kept,
        "gram_starts": np.concatenate([first, [len(pairs)]]).astype(np.uint32 if len(pairs) < 1 << 32 else np.int64),
        "gram_rows": pairs.astype(np.uint32),  # the low half
    }


class Subword:
    """Posting lists of an open file."""

    def __init__(self, file: StoreFile) -> None:
        self.file = file
        self._shift = 32 - (file.length("gram_directory") - 1).bit_length() + 1

    def rows(self, gram: str) -> np.ndarray:
        """Rows whose key contains the n-gram, ascending, uint32 [m]."""
        wanted = number(gram)
        bucket = wanted >> self._shift
        low, high = self.file.read("gram_directory", bucket, bucket + 2).tolist()
        near = self.file.read("gram_numbers", low, high).tolist() if low < high else []
        if wanted not in near:
            return np.empty(0, np.uint32)
        at = low + near.index(wanted)
        start, stop = self.file.read("gram_starts", at, at + 2).tolist()
        return self.file.read("gram_rows", start, stop)

    def matches(self, wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows that contain any of the n-grams, ascending, and how many different ones each contains."""
        lists = [self.rows(gram) for gram in dict.fromkeys(wanted)]
        if not lists:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        return np.unique(np.concatenate(lists), return_counts=True)
