"""Blocks of a file: asked for ahead, read into memory, and verified.

Runs are int64 [n, 3]: place in the buffer, block of the file, and how many; all are counted in blocks of `SIZE` bytes.

`os.preadv` holds no Python lock while the disk works, but takes it again after every block, and threads that read what
is in memory already then spend more time on handing the lock round than on reading. The compiled form calls the
system itself and takes the lock once a call.
"""

from __future__ import annotations

import os
import zlib
from functools import cache

import numpy as np

from inlay.kernels import compiled

__all__ = ["SIZE", "ask", "ask_plain", "fetch", "fetch_plain"]

SIZE = 4096


def ask(file: int, data: int, runs: np.ndarray) -> None:
    """Have the system begin to read blocks into its page cache; return before they are there.

    Args:
        file: descriptor.
        data: byte with which block 0 begins.
        runs: int64 [n, 3].
    """
    if not hasattr(os, "posix_fadvise"):
        return
    if compiled(0):
        from inlay.kernels.blocks_numba import ask_compiled

        ask_compiled(file, data, runs, os.POSIX_FADV_WILLNEED)
    else:
        ask_plain(file, data, runs)


def ask_plain(file: int, data: int, runs: np.ndarray) -> None:
    """The plain form of `ask`."""
    for _, block, count in runs.tolist():
        os.posix_fadvise(file, data + block * SIZE, count * SIZE, os.POSIX_FADV_WILLNEED)


def fetch(
    file: int, data: int, runs: np.ndarray, buffer: np.ndarray, sums: np.ndarray, verified: np.ndarray, always: bool
) -> int:
    """Read blocks into their places, and compare them with their checksums.

    Args:
        file: descriptor.
        data: byte with which block 0 begins.
        runs: int64 [n, 3], within the buffer and the file's blocks: they are not checked here.
        buffer: uint8, filled.
        sums: uint32 [blocks], CRC-32 of each.
        verified: bool [blocks], those that need not be compared; updated.
        always: compare them nevertheless.

    Returns:
        The first block that is cut short or does not match its checksum, or −1.
    """
    if compiled(0):
        from inlay.kernels.blocks_numba import fetch_compiled

        if fetch_compiled(file, data, runs, buffer, sums, verified, always, _tables()):
            return -1
    # What went wrong is found by going through it again.
    return fetch_plain(file, data, runs, buffer, sums, verified, always)


def fetch_plain(
    file: int, data: int, runs: np.ndarray, buffer: np.ndarray, sums: np.ndarray, verified: np.ndarray, always: bool
) -> int:
    """The plain form of `fetch`."""
    bytes_ = buffer.data
    for place, block, count in runs.tolist():
        into, got = bytes_[place * SIZE : (place + count) * SIZE], 0
        while got < len(into):
            more = os.preadv(file, [into[got:]], data + block * SIZE + got)
            if not more:
                return block + got // SIZE
            got += more
        for i in range(count):
            if always or not verified[block + i]:
                if zlib.crc32(into[i * SIZE : (i + 1) * SIZE]) != sums[block + i]:
                    return block + i
                verified[block + i] = True
    return -1


@cache
def _tables() -> np.ndarray:
    """uint32 [8, 256]: what a byte adds to the CRC-32 when 0 to 7 bytes follow it in its word of eight."""
    tables = np.zeros((8, 256), dtype=np.uint32)
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = (row >> np.uint32(1)) ^ np.where(row & 1, np.uint32(0xEDB88320), np.uint32(0))
    tables[0] = row
    for i in range(1, 8):
        tables[i] = (tables[i - 1] >> np.uint32(8)) ^ row[tables[i - 1] & 255]
    return tables
