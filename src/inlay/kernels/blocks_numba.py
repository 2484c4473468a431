"""The compiled forms of `inlay.kernels.blocks`; see there for arguments and results.

Functions of the C library are called by name, so that what is compiled can be cached.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

__all__ = ["ask_compiled", "fetch_compiled"]

SIZE = 4096
_pread = types.ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uintp, types.int64))
_fadvise = types.ExternalFunction("posix_fadvise", types.int32(types.int32, types.int64, types.int64, types.int32))


@njit(cache=True, nogil=True, boundscheck=False)
def ask_compiled(file, data, runs, advice):
    for i in range(len(runs)):
        _fadvise(np.int32(file), data + runs[i, 1] * SIZE, runs[i, 2] * SIZE, np.int32(advice))  # type: ignore[call-overload]


@njit(cache=True, nogil=True, boundscheck=False)
def _crc32(words, t):
    """Eight bytes a step: a table for each, so that they do not wait for one another."""
    crc = np.uint32(0xFFFFFFFF)
    for word in words:
        low = np.uint32(word & 0xFFFFFFFF) ^ crc
        high = np.uint32(word >> np.uint64(32))
        crc = (
            t[7, low & 255] ^ t[6, (low >> 8) & 255] ^ t[5, (low >> 16) & 255] ^ t[4, low >> 24]
            ^ t[3, high & 255] ^ t[2, (high >> 8) & 255] ^ t[1, (high >> 16) & 255] ^ t[0, high >> 24]
        )  # fmt: skip
    return crc ^ np.uint32(0xFFFFFFFF)


@njit(cache=True, nogil=True, boundscheck=False)
def fetch_compiled(file, data, runs, buffer, sums, verified, always, tables):
    words = buffer.view(np.uint64)
    for i in range(len(runs)):
        place, block, count = runs[i, 0], runs[i, 1], runs[i, 2]
        into = buffer[place * SIZE : (place + count) * SIZE]
        if _pread(np.int32(file), into.ctypes.data, count * SIZE, data + block * SIZE) != count * SIZE:  # type: ignore[call-overload]
            return False
        for j in range(count):
            if always or not verified[block + j]:
                start = (place + j) * (SIZE // 8)
                if _crc32(words[start : start + SIZE // 8], tables) != sums[block + j]:
                    return False
                verified[block + j] = True
    return True
