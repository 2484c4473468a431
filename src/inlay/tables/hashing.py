"""`inlay.kernels.mixing` on tensors: the same numbers, where keys already are a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.kernels.mixing import FIRST, SECOND, _salted

__all__ = ["buckets", "mixed", "salted"]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64: torch shifts the sign in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mixed(keys: Tensor, salt: int = 0) -> Tensor:
    """Int64 keys of any shape to int64 of the same bits as the uint64 of `inlay.kernels.mixing.mixed`."""
    x = keys.long() + _signed(_salted(salt))
    x = (x ^ _right(x, 30)) * _signed(FIRST)
    x = (x ^ _right(x, 27)) * _signed(SECOND)
    return x ^ _right(x, 31)


def buckets(keys: Tensor, count: int, salt: int = 0) -> Tensor:
    """Keys of any shape to int64 in [0, count), count below 2³²."""
    if not 0 < count < 1 << 32:
        raise BadInput(f"a hash needs from 1 to 2**32 - 1 buckets, got {count}")
    return _right(mixed(keys, salt), 1) % count


def salted(keys: Tensor, salts: Sequence[int]) -> Tensor:
    """Keys [...] to [..., len(salts)] which hash, unsalted, as the keys do with each salt: many hashes in one call."""
    shifts = [_signed((_salted(salt) - _salted(0)) % (1 << 64)) for salt in salts]
    return keys.long()[..., None] + torch.tensor(shifts, dtype=torch.long, device=keys.device)
