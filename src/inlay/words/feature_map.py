"""Which row a kept feature of a pruned classifier has: by strings and bucket numbers, or by fingerprints alone.

A small table is outweighed by its dictionary. `HashedMap` keeps 16 bits of each feature's hash instead of its spelling:
features are parted by hash into groups of about eight, whose fingerprints lie side by side in sorted order, in the
order of the rows. It costs 2.5 bytes a feature; a feature that was not kept is mistaken for one that was with a
probability of about 8 / 65,536. Source of the idea: "FastText.zip" (arXiv 1612.03651), section 3.3, which names hashing
and Bloom filters and leaves the structure open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.kernels.mixing import keys_of, mixed
from inlay.words.bag_features import Tokens

__all__ = ["HashedMap", "StringMap"]

GROUP = 8  # features sharing a group, on average
WORD_SALT, GRAM_SALT = 11, 12


class StringMap:
    """Exact: the kept words as strings, the kept buckets as sorted int32 numbers. Rows: words first, then buckets."""

    kind = "strings"

    def __init__(self, words: Sequence[str], buckets: np.ndarray) -> None:
        self.words = list(words)
        self.buckets = np.asarray(buckets, dtype=np.int32)
        self._row_of = {word: row for row, word in enumerate(self.words)}

    @classmethod
    def of(cls, words: Sequence[str], buckets: np.ndarray) -> tuple[Self, np.ndarray]:
        """The map, and for each of its rows the place in [*words, *buckets]."""
        order = np.argsort(buckets, kind="stable")
        return cls(words, buckets[order]), np.concatenate([np.arange(len(words)), len(words) + order])

    def rows(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Row of every distinct word [distinct], and of every n-gram [n-grams]; -1 where it was not kept."""
        words = np.asarray([self._row_of.get(word, -1) for word in tokens.distinct], dtype=np.int64)
        if not len(self.buckets):
            return words, np.full(len(tokens.grams), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.buckets, tokens.grams), len(self.buckets) - 1)
        return words, np.where(self.buckets[at] == tokens.grams, len(self.words) + at, -1)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps."""
        spelled = [word.encode("utf-8", "surrogatepass") for word in self.words]
        offsets = np.cumsum([0, *map(len, spelled)]).astype(np.uint32)
        return {
            "words": np.frombuffer(b"".join(spelled), dtype=np.uint8), "word_offsets": offsets, "buckets": self.buckets
        }  # fmt: skip

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Of what `arrays` gave."""
        data, offsets = arrays["words"].tobytes(), arrays["word_offsets"].tolist()
        words = [data[low:high].decode("utf-8", "surrogatepass") for low, high in zip(offsets, offsets[1:])]
        return cls(words, arrays["buckets"].copy())

    def __len__(self) -> int:
        return len(self.words) + len(self.buckets)


class HashedMap:
    """Fingerprints: `starts` uint32 [groups + 1] into `prints` uint16 [features], sorted within each group."""

    kind = "hashed"

    def __init__(self, starts: np.ndarray, prints: np.ndarray) -> None:
        if (
            len(starts) < 2
            or starts[0] != 0
            or starts[-1] != len(prints)
            or (np.diff(starts.astype(np.int64)) < 0).any()
        ):
            raise Corrupt("the classifier's map of features is inconsistent; restore the file from a copy")
        self.starts, self.prints = starts, prints

    @classmethod
    def of(cls, words: Sequence[str], buckets: np.ndarray) -> tuple[Self, np.ndarray]:
        """The map, and for each of its rows the place in [*words, *buckets]."""
        hashes = np.concatenate([_word_hashes(words), mixed(buckets, GRAM_SALT)])
        groups = max(1, len(hashes) // GROUP)
        group, mark = _parted(hashes, groups)
        order = np.lexsort((mark, group))
        starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))]).astype(np.uint32)
        return cls(starts, mark[order]), order

    def rows(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Row of every distinct word [distinct], and of every n-gram [n-grams]; -1 where none is kept."""
        return self._find(_word_hashes(tokens.distinct)), self._find(mixed(tokens.grams, GRAM_SALT))

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        group, mark = _parted(hashes, len(self.starts) - 1)
        at, stop = self.starts[group].astype(np.int64), self.starts[group + 1].astype(np.int64)
        found = np.full(len(hashes), -1, dtype=np.int64)
        left = np.flatnonzero(at < stop)
        while len(left):  # as often as the largest group has features
            here = at[left]
            hit = self.prints[here] == mark[left]
            found[left[hit]] = here[hit]
            at[left] += 1
            left = left[~hit & (here + 1 < stop[left])]
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps."""
        return {"starts": self.starts, "prints": self.prints}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Of what `arrays` gave."""
        return cls(arrays["starts"].copy(), arrays["prints"].copy())

    def __len__(self) -> int:
        return len(self.prints)


def _word_hashes(words: Sequence[str]) -> np.ndarray:
    return mixed(keys_of(words), WORD_SALT)


def _parted(hashes: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Group int64 and fingerprint uint16 of each hash, from different bits."""
    return ((hashes >> np.uint64(32)) % np.uint64(groups)).astype(np.int64), hashes.astype(np.uint16)


def map_of(kind: str) -> type[StringMap] | type[HashedMap]:
    """The class of a map, by what settings call it."""
    if kind not in ("strings", "hashed"):
        raise BadInput(f"dictionary must be 'hashed' or 'strings', got {kind!r}")
    return StringMap if kind == "strings" else HashedMap
