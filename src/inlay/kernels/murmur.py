"""MurmurHash3-128 of 64-bit keys, as four 32-bit numbers: the hash of spaCy's embeddings.

The house hashes with `inlay.kernels.mixing`; this one is here because a published layer names it. The layer's code
calls it x86-128 and computes the x64 variant, whose two 64-bit halves it splits in two. That is the right one: the x86
variant gives eight-byte keys a third and a fourth number that are always equal, so that one row would be added twice.
A seed of 8 cancels against the length of a key, and leaves one 64-bit number, doubled and tripled: take another.
"""

from __future__ import annotations

import numpy as np

__all__ = ["murmur128"]

_C1, _C2 = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)


def murmur128(keys: np.ndarray, seed: int = 0) -> np.ndarray:
    """Uint64 keys of any shape to uint32 [..., 4]: the hash of each key's eight bytes, lowest first."""
    keys = np.asarray(keys).astype(np.uint64)
    with np.errstate(over="ignore"):
        start = np.uint64((seed & 0xFFFFFFFF) ^ 8)  # 8: the key's length
        first = keys * _C1
        first = (first << np.uint64(31)) | (first >> np.uint64(33))
        first = (first * _C2 ^ start) + start
        second = _final(start + first)
        first = _final(first) + second
        second = second + first
    halves = np.stack([first, second], axis=-1)
    words = np.stack([halves.astype(np.uint32), (halves >> np.uint64(32)).astype(np.uint32)], axis=-1)
    return words.reshape(*keys.shape, 4)


def _final(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))
