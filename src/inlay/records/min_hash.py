"""MinHash and banded LSH (Broder 1997; Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", chapter 3).

The least hash of a set, under a random order of all tokens, is the same for two sets with a probability that is their
Jaccard similarity: the share of equal entries of two signatures estimates it. A signature is cut into bands of r
entries; records whose band is equal are a pair, which happens with probability 1 − (1 − s^r)^bands at similarity s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.mixing import mixed
from inlay.records.candidates import Candidates
from inlay.records.serialisation import Record, checked_columns
from inlay.records.shared_keys import pairs_by_key
from inlay.records.tokenised import checked_grams, token_sets

__all__ = ["MinHash"]


class MinHash:
    """Pairs of records by the estimated Jaccard similarity of their token sets.

    Args:
        permutations: entries of a signature.
        bands: parts that a signature is cut into; more bands find pairs that are less alike.
        grams: None for words, or the length of runs of characters.
        columns: attributes that are read; None takes all.
        seed: of the permutations.
    """

    def __init__(
        self, permutations: int = 64, bands: int = 16, *, grams: int | None = None,
        columns: Sequence[str] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        for name, value, least in (("permutations", permutations, 1), ("bands", bands, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadInput(f"{name} must be an integer of {least} or more, got {value!r}")
        if permutations % bands:
            raise BadInput(f"{permutations} permutations cannot be cut into {bands} equal bands; take a divisor")
        self.permutations, self.bands, self.seed = permutations, bands, seed
        self.grams, self.columns = checked_grams(grams), checked_columns(columns)

    def __repr__(self) -> str:
        said = f"permutations={self.permutations}, bands={self.bands}, grams={self.grams}, seed={self.seed}"
        return f"MinHash({said})"

    def signatures(self, records: Sequence[Record]) -> np.ndarray:
        """uint64 [n, permutations]; a record without tokens has the largest number everywhere."""
        sets = token_sets(records, self.columns, self.grams)
        out = np.full((len(sets.indptr) - 1, self.permutations), np.iinfo(np.uint64).max, np.uint64)
        filled = np.flatnonzero(np.diff(sets.indptr))
        keys, place = np.unique(sets.keys, return_inverse=True)
        for p in range(self.permutations if len(filled) else 0):
            hashed = mixed(keys, salt=self.seed * self.permutations + p)
            out[filled, p] = np.minimum.reduceat(hashed[place], sets.indptr[filled])
        return out

    def block(self, a: Sequence[Record], b: Sequence[Record] | None = None) -> Candidates:
        """Pairs of two tables, or of one, that share a band, with their estimated similarity."""
        left = self.signatures(a)
        right = left if b is None else self.signatures(b)
        found = []
        for band in range(self.bands):
            keys = [self._band(rows, band) for rows in (left, right)]
            some = [np.flatnonzero(rows[:, 0] != np.iinfo(np.uint64).max) for rows in (left, right)]
            at, other, _ = pairs_by_key(keys[0][some[0]], keys[1][some[1]])
            found.append(np.stack([some[0][at], some[1][other]]))
        rows, others = np.unique(np.concatenate(found, axis=1), axis=1)
        if b is None:
            rows, others = rows[rows < others], others[rows < others]
        scores = np.empty(len(rows), np.float32)
        for low in range(0, len(rows), 1 << 16):
            part = slice(low, low + (1 << 16))
            scores[part] = (left[rows[part]] == right[others[part]]).mean(axis=1)
        return Candidates(rows, others, scores)

    def _band(self, signatures: np.ndarray, band: int) -> np.ndarray:
        width = self.permutations // self.bands
        keys = np.full(len(signatures), band, np.uint64)
        for column in range(band * width, (band + 1) * width):
            keys = mixed(keys ^ signatures[:, column])
        return keys
