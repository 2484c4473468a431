"""Where documents lie in a slot file: on 4 KiB blocks, so that one document is one read of the disk, rarely two.

A slot is a document's CLS row followed by the rows of its tokens, in float16. A document of more than 2 KiB begins on
a block of its own and takes one block, or two beyond 4 KiB; smaller ones share blocks and are found by (block, byte).
Two blocks are the most: what a document has beyond 8 KiB is cut, whole rows from its end (with CLS rows of 256 bytes
that leaves 7,936 bytes of tokens).

Source: ESPN (arXiv 2312.05417), where every document has blocks of its own; sharing them is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.blocks import SIZE

__all__ = ["SLOT", "Layout", "lay_out", "row_starts", "windows"]

SLOT = SIZE  # bytes of a block: what an SSD reads at once
LARGEST = 2 * SLOT
ALONE = SLOT // 2  # a document larger than this has a block for itself


class Layout(NamedTuple):
    """Where each of n documents lies.

    Attributes:
        block: uint32 [n], number of its first block.
        offset: uint16 [n], byte in that block where it begins.
        tokens: uint16 [n], how many of its rows are kept.
        blocks: how many blocks there are.
    """

    block: np.ndarray
    offset: np.ndarray
    tokens: np.ndarray
    blocks: int


def lay_out(tokens: np.ndarray, cls_bytes: int, row_bytes: int) -> Layout:
    """Lay documents of `tokens` int64 [n] rows out, in their order as far as sharing allows.

    Args:
        tokens: rows of each document.
        cls_bytes: bytes of the row that comes first.
        row_bytes: bytes of one row.
    """
    if cls_bytes + row_bytes > LARGEST:
        raise BadInput(f"a CLS row of {cls_bytes} bytes and one token of {row_bytes} exceed the {LARGEST} of a slot")
    kept = np.minimum(tokens, (LARGEST - cls_bytes) // row_bytes)
    size = cls_bytes + kept * row_bytes
    small = np.flatnonzero((size > 0) & (size <= ALONE))
    # Small documents fill one block after another, each until the next one no longer fits.
    ends = np.cumsum(size[small])
    openers, offset = [], np.zeros(len(size), dtype=np.int64)
    start = 0
    while start < len(small):
        before = int(ends[start] - size[small[start]])
        stop = int(np.searchsorted(ends, before + SLOT, side="right"))
        offset[small[start:stop]] = ends[start:stop] - size[small[start:stop]] - before
        openers.append(start)
        start = stop
    # A shared block takes its number where its first document stands.
    takes = np.where(size > ALONE, -(-size // SLOT), 0)
    takes[small[openers]] = 1
    block = np.cumsum(takes) - takes
    bounds = np.array([*openers, len(small)], dtype=np.int64)
    block[small] = np.repeat(block[small[openers]], bounds[1:] - bounds[:-1])
    block[size == 0] = 0
    blocks = int(takes.sum())
    if blocks > np.iinfo(np.uint32).max:
        raise BadInput(f"{blocks} blocks exceed the 2³² of one file; split the documents over several")
    return Layout(block.astype(np.uint32), offset.astype(np.uint16), kept.astype(np.uint16), blocks)


def windows(numbers: np.ndarray, width: int) -> np.ndarray:
    """Every run of `width` numbers of a flat array, as a view [n - width + 1, width] that can be read and written."""
    step = numbers.strides[0]
    shape = (max(0, len(numbers) - width + 1), width)
    return np.lib.stride_tricks.as_strided(numbers, shape=shape, strides=(step, step))


def row_starts(first: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    """Where rows of `width` numbers begin: `counts[i]` rows one after another from `first[i]`, for every i."""
    before = np.cumsum(counts) - counts
    return np.repeat(first - before * width, counts) + np.arange(int(counts.sum())) * width
