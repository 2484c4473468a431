"""A seeded bijection of [0, count) that takes no memory: ids out of their order, and nothing to store.

Ids are usually numbered by falling frequency, so that schemes which make neighbours share a row tie the frequent to the
frequent and the rare to the rare. Whether that helps or hurts is told only by a run on permuted ids.
"""

from __future__ import annotations

from torch import Tensor

from inlay.errors import BadInput
from inlay.tables.hashing import mixed

__all__ = ["permuted"]

_ROUNDS = 4


def permuted(ids: Tensor, count: int, seed: int = 0) -> Tensor:
    """Int64 ids of any shape in [0, count) to the ids that a seeded bijection gives them.

    A Feistel network over the next even power of two, walked until it lands inside [0, count): less than four steps on
    average (Black & Rogaway, "Ciphers with Arbitrary Finite Domains").
    """
    if not 0 < count <= 1 << 48:
        raise BadInput(f"a permutation needs from 1 to 2**48 ids, got {count}")
    half = max(1, -(-(count - 1).bit_length() // 2))
    found = _feistel(ids.long(), half, seed)
    while True:
        outside = found >= count
        if not bool(outside.any()):
            return found
        found = found.masked_scatter(outside, _feistel(found[outside], half, seed))


def _feistel(ids: Tensor, half: int, seed: int) -> Tensor:
    mask = (1 << half) - 1
    left, right = ids >> half, ids & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (mixed(right, seed * _ROUNDS + turn) & mask)
    return (left << half) | right
