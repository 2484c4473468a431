"""Keys in, arrays out: one key gives a row, a list a matrix, a list of lists a padded block.

Shared by every store (`KeyedVectors`, `Featurizer`, `Concatenated`): each only says what the rows of keys are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from inlay.errors import BadInput

__all__ = ["Side", "Store"]

Side: TypeAlias = Literal["left", "right"]


class Store(ABC):
    """Vectors by key, whatever they are made of."""

    dim: int

    @abstractmethod
    def rows(self, keys: Sequence[Any], *, normalised: bool | None = None) -> np.ndarray:
        """The vectors of keys, float32 [n, dim]; every key has one."""

    def is_key(self, item: Any) -> bool:
        """Whether something is one key rather than several."""
        return not isinstance(item, list | np.ndarray)

    def query(
        self,
        keys: Any,
        *,
        length: int | None = None,
        pad: Side = "right",
        truncate: Side = "right",
        normalised: bool | None = None,
    ) -> np.ndarray:
        """Vectors of a key [dim], of a list of keys [n, dim], or of a list of lists [n, longest, dim].

        Args:
            keys: a key, a list of keys, or a list of lists.
            length: keys in each list: shorter ones are padded with zeros, longer ones cut (default: no change for a
                list, the longest for a list of lists).
            pad: the side that gets the zeros.
            truncate: the side that loses keys.
            normalised: vectors of length 1, or raw (default: as the store was opened).
        """
        if length is not None and (not isinstance(length, int) or length < 0):
            raise BadInput(f"length is a number of keys, got {length!r}")
        for name, side in (("pad", pad), ("truncate", truncate)):
            if side not in ("left", "right"):
                raise BadInput(f"{name} is 'left' or 'right', got {side!r}")
        if self.is_key(keys):
            return self.rows([keys], normalised=normalised)[0]
        keys = list(keys)
        nested = [not self.is_key(item) for item in keys]
        if not any(nested):
            if length is None:
                return self.rows(keys, normalised=normalised)
            return self._block([keys], length, pad, truncate, normalised)[0]
        if not all(nested):
            raise BadInput("a query is a key, a list of keys, or a list of lists of keys; got lists beside keys")
        lists = [list(item) for item in keys]
        longest = max(map(len, lists)) if length is None else length
        return self._block(lists, longest, pad, truncate, normalised)

    def _block(
        self, lists: list[list[Any]], length: int, pad: Side, truncate: Side, normalised: bool | None
    ) -> np.ndarray:
        kept = [keys[:length] if truncate == "right" else keys[max(0, len(keys) - length) :] for keys in lists]
        for item in (item for keys in kept for item in keys):
            if not self.is_key(item):
                raise BadInput("lists of lists of keys go no deeper")
        rows = self.rows([key for keys in kept for key in keys], normalised=normalised)
        block = np.zeros((len(kept), length, self.dim), dtype=np.float32)
        start = 0
        for line, keys in zip(block, kept):
            place = slice(0, len(keys)) if pad == "right" else slice(length - len(keys), length)
            line[place] = rows[start : start + len(keys)]
            start += len(keys)
        return block

    def similarity(self, key: Any, others: Any) -> Any:
        """Cosine of a key with another (a float) or with each of a list (float32 [n])."""
        a, b = self._pair(key, others)
        return b @ a if b.ndim > 1 else float(a @ b)

    def distance(self, key: Any, others: Any) -> Any:
        """Euclidean distance between unit vectors, of a key and another (a float) or each of a list (float32 [n])."""
        a, b = self._pair(key, others)
        return np.linalg.norm(b - a, axis=1) if b.ndim > 1 else float(np.linalg.norm(a - b))

    def _pair(self, key: Any, others: Any) -> tuple[np.ndarray, np.ndarray]:
        if not self.is_key(key):
            raise BadInput(f"expected one key to compare with, got {key!r}")
        return self.query(key, normalised=True), self.query(others, normalised=True)

    def most_similar_to_given(self, key: Any, others: Sequence[Any]) -> Any:
        """The one of `others` most similar to `key`; of equals the first."""
        others = list(others)
        if not others:
            raise BadInput("most_similar_to_given needs at least one key to choose from")
        return others[int(np.argmax(self.similarity(key, others)))]

    def doesnt_match(self, keys: Sequence[Any]) -> Any:
        """The key farthest from the unit mean of all; of equals the first."""
        keys = list(keys)
        if not keys:
            raise BadInput("doesnt_match needs at least one key")
        rows = self.query(keys, normalised=True)
        mean = rows.mean(axis=0)
        length = float(np.linalg.norm(mean))
        return keys[int(np.argmin(rows @ (mean / length if length > 0 else mean)))]
