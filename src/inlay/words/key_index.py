"""Key → rows, by sorted 64-bit hashes behind a directory of their leading bits.

A look-up reads two entries of the directory and the handful of hashes between them, so it touches three pages of the
file whatever the number of keys. The same hash is not taken for the same key: keys are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inlay.kernels.mixing import key_of, keys_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.words.store_file import StoreFile

__all__ = ["KeyIndex", "most_alike", "sorted_hashes"]

IN_A_BUCKET = 4  # hashes between two entries of the directory, on average


def sorted_hashes(hashes: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    """The blocks of an index over `hashes` uint64 [n], row by row; rows of one hash are in file order."""
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    bits = max(1, (len(hashes) // IN_A_BUCKET).bit_length())
    ends = np.searchsorted(hashes >> np.uint64(64 - bits), np.arange(1 << bits, dtype=np.uint64), side="right")
    starts = np.concatenate([[0], ends]).astype(np.uint32)
    return {f"{prefix}_starts": starts, f"{prefix}_hashes": hashes, f"{prefix}_rows": order.astype(np.uint32)}


def most_alike(hashes: np.ndarray) -> int:
    """How many rows share a hash at most."""
    if not len(hashes):
        return 0
    edges = np.flatnonzero(np.diff(hashes))
    return int(np.diff(np.concatenate([[-1], edges, [len(hashes) - 1]])).max())


class KeyIndex:
    """Look-ups in the blocks named `<prefix>_…` of a file.

    Args:
        file: the open file.
        prefix: `key`, or `folded` for lower-cased keys.
    """

    def __init__(self, file: StoreFile, prefix: str) -> None:
        self.file, self.prefix, self.folded = file, prefix, prefix == "folded"
        # Keys that are all in lower case already need no second index.
        self._blocks = prefix if f"{prefix}_hashes" in file else "key"
        self._shift = 64 - (file.length(f"{self._blocks}_starts") - 1).bit_length() + 1

    def rows(self, key: str) -> list[int]:
        """Rows of a key, in file order."""
        key = key.lower() if self.folded else key
        hashed = key_of(key)
        bucket = hashed >> self._shift
        low, high = self.file.read(f"{self._blocks}_starts", bucket, bucket + 2).tolist()
        if low == high:
            return []
        near = self.file.read(f"{self._blocks}_hashes", low, high).tolist()
        if hashed not in near:
            return []
        rows = self.file.read(f"{self._blocks}_rows", low, high).tolist()
        alike = [row for row, other in zip(rows, near) if other == hashed]
        return [row for row in alike if self._fold(self.file.key(row)) == key]

    def first_rows(self, keys: Sequence[str]) -> np.ndarray:
        """The first row of each key, -1 where there is none: int64 [n]. For many keys at once."""
        keys = [key.lower() for key in keys] if self.folded else list(keys)
        wanted, hashes = keys_of(keys), self.file.whole(f"{self._blocks}_hashes")
        found = np.full(len(keys), -1, dtype=np.int64)
        if not len(hashes):
            return found
        at = np.searchsorted(hashes, wanted)
        hits = np.flatnonzero(hashes[np.minimum(at, len(hashes) - 1)] == wanted)
        rows = self.file.whole(f"{self._blocks}_rows")[at[hits]].astype(np.int64)
        for i, row, other in zip(hits.tolist(), rows.tolist(), self.file.keys(rows)):
            if self._fold(other) == keys[i]:
                found[i] = row
            else:  # another key with the same hash comes first
                found[i] = next(iter(self.rows(keys[i])), -1)
        return found

    def _fold(self, key: str) -> str:
        return key.lower() if self.folded else key
