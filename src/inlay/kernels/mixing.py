"""The one hash of the house: keys to well-mixed 64-bit numbers, the same on every machine and in every process.

`h = a·x + b mod m` without wrap-around is no hash family: functions made of it share their collision classes, so that a
second and a third hash add nothing. This is the finaliser of splitmix64 on a key shifted by a multiple of the golden
ratio, which salts make independent. Strings become keys by BLAKE2b.

`inlay.tables.hashing` is the same on torch tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

__all__ = ["GOLDEN", "key_of", "keys_of", "mixed"]

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mixed(keys: np.ndarray | int, salt: int = 0) -> np.ndarray:
    """Keys, any integer array, to uint64 of the same shape; other salts give independent numbers."""
    with np.errstate(over="ignore"):
        # The salt is mixed itself: salts 1 and 2 would else be keys shifted by one golden step.
        x = np.asarray(keys).astype(np.uint64) + np.uint64(_salted(salt))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
        return x ^ (x >> np.uint64(31))


def _salted(salt: int) -> int:
    x = (salt + 1) * GOLDEN & _MASK
    x = (x ^ x >> 30) * FIRST & _MASK
    x = (x ^ x >> 27) * SECOND & _MASK
    return x ^ x >> 31


def key_of(text: str) -> int:
    """A string's 64-bit key; two among ten million share one with probability 3e-6."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def keys_of(texts: Iterable[str]) -> np.ndarray:
    """`key_of` of each, uint64 [n]."""
    digests = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").copy()
