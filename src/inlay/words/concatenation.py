"""Several stores read as one: the vectors of a key, end to end.

both = concat(kv, other, Featurizer(100, "pos"))
both["cat"]                       the same key in every store
both[("cat", "Cat", "NOUN")]      one key for each
both[[("cat", "Cat", "NOUN"), …]]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.mixing import keys_of
from inlay.words.batches import Store
from inlay.words.out_of_vocabulary import evenly, of_length_one

__all__ = ["Concatenated", "Featurizer", "concat"]


class Featurizer(Store):
    """A store without a file: a value's vector is a hash of it, of length 1.

    For features with few values (a part of speech, a flag), where all that a vector must do is tell them apart.

    Args:
        values: about how many different values there will be; the width grows with their logarithm, 100 give 4.
        namespace: what the values are; the same value has other vectors elsewhere.
    """

    def __init__(self, values: int = 1_000_000, namespace: str = "") -> None:
        if not isinstance(values, int) or values < 1:
            raise BadInput(f"values is a number of different values, got {values!r}")
        self.values, self.namespace = values, namespace
        self.dim = max(1, math.ceil(math.log(values, 4))) if values > 1 else 1

    def __repr__(self) -> str:
        return f"Featurizer({self.values}, {self.namespace!r})"

    def __contains__(self, key: object) -> bool:
        return True

    def rows(self, keys: Sequence[Any], *, normalised: bool | None = None) -> np.ndarray:
        """Vectors of values, float32 [n, dim]; values are told apart by type and by text."""
        if not len(keys):
            return np.zeros((0, self.dim), dtype=np.float32)
        drawn = evenly(keys_of(f"{self.namespace}\0{type(key).__name__}\0{key}" for key in keys), self.dim)
        return np.array([of_length_one(row) for row in drawn], dtype=np.float32)


class Concatenated(Store):
    """Several stores as one; see `concat`."""

    def __init__(self, stores: Sequence[Store]) -> None:
        if not stores:
            raise BadInput("concat needs at least one store")
        self.stores = tuple(stores)
        self.dim = sum(store.dim for store in stores)

    def __repr__(self) -> str:
        return f"concat({', '.join(map(repr, self.stores))})"

    def __contains__(self, key: Any) -> bool:
        """Whether every store knows the key, or its part of it."""
        return all(part in store for part, store in zip(self._parts(key), self.stores))  # type: ignore[operator]

    def __getitem__(self, keys: Any) -> np.ndarray:
        return self.query(keys)

    def _parts(self, key: Any) -> tuple[Any, ...]:
        if not isinstance(key, tuple):
            return (key,) * len(self.stores)
        if len(key) != len(self.stores):
            raise BadInput(f"{len(self.stores)} stores need a key or a tuple of {len(self.stores)}, got {key!r}")
        return key

    def rows(self, keys: Sequence[Any], *, normalised: bool | None = None) -> np.ndarray:
        """Vectors of keys, float32 [n, dim]: each store's part as that store gives it."""
        parts = [self._parts(key) for key in keys]
        columns = [
            store.rows([part[i] for part in parts], normalised=normalised) for i, store in enumerate(self.stores)
        ]
        return np.concatenate(columns, axis=1)

    def _pair(self, key: Any, others: Any) -> tuple[np.ndarray, np.ndarray]:
        # Each part has length 1, so the whole has the root of their number.
        a, b = super()._pair(key, others)
        scale = np.float32(1 / math.sqrt(len(self.stores)))
        return a * scale, b * scale


def concat(*stores: Store) -> Concatenated:
    """Read several stores as one."""
    return Concatenated(stores)
