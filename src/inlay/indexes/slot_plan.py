"""What one read of a slot file touches: distinct blocks as they lie on disk, documents in that order, in pieces.

All of it is planned at once, before the disk is asked, so that a reading thread has little to do in Python: it would
hold up the thread that searches.
"""

from __future__ import annotations

import threading

import numpy as np

from inlay.indexes.slot_layout import SLOT, row_starts

__all__ = ["PIECE", "Plan"]

PIECE = 64  # blocks that a thread reads before it hands documents on: what it works in, 256 KiB, stays in L2


class Plan:
    """One read, planned.

    Args:
        places: int64 [n], of the documents among the ids asked for.
        block: int64 [n], their first blocks.
        spans: int64 [n], blocks each takes.
        offset: int64 [n], byte where each begins in its first block.
        tokens: int64 [n], rows each has.
        cls_dim: numbers of the row before them.
        bow_dim: numbers of one of them.

    Attributes:
        places: the documents' places, in order of the disk.
        blocks: how many blocks are read.
        cuts: where pieces begin among the documents, and where the last one ends.
        cls: int64 [n], number in its piece's buffer with which each document begins.
        rows: int64 [tokens], the same for its token rows.
        offsets: int64 [n + 1], which of `rows` are whose.
        runs: of each piece, int64 [n, 3] as `inlay.kernels.blocks` takes them: blocks that are neighbours on disk.
        asked: pieces that the system was asked for ahead; `lock` guards it.
    """

    def __init__(
        self, places: np.ndarray, block: np.ndarray, spans: np.ndarray, offset: np.ndarray, tokens: np.ndarray,
        cls_dim: int, bow_dim: int,
    ) -> None:  # fmt: skip
        order = np.argsort(block, kind="stable")
        self.places, block, spans = places[order], block[order], spans[order]
        # Documents that share a block, and one asked for twice, follow one another and have one slot.
        new = np.append(True, block[1:] != block[:-1])
        ends = np.cumsum(np.where(new, spans, 0))
        slot = ends - spans  # spans of those that share are equal
        piece = slot // PIECE
        heads = np.flatnonzero(np.append(True, piece[1:] != piece[:-1]))
        self.cuts = [*heads.tolist(), len(order)]
        sizes = np.diff(np.array(self.cuts))
        starts = slot[heads]
        self.cls = ((slot - np.repeat(starts, sizes)) * SLOT + offset[order]) // 2
        counts = tokens[order]
        self.rows = row_starts(self.cls + cls_dim, counts, bow_dim)
        self.offsets = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(counts, out=self.offsets[1:])
        self.blocks = int(ends[-1])
        self.runs = self._runs(row_starts(block[new], spans[new], 1), starts)
        self.asked, self.lock = 0, threading.Lock()

    def _runs(self, blocks: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
        breaks = np.append(True, np.diff(blocks) != 1)
        breaks[starts] = True
        first = np.flatnonzero(breaks)
        piece = np.searchsorted(starts, first, side="right") - 1
        runs = np.stack([first - starts[piece], blocks[first], np.diff(np.append(first, len(blocks)))], axis=1)
        return np.split(runs, np.searchsorted(piece, np.arange(1, len(starts))))

    def __len__(self) -> int:
        return len(self.cuts) - 1
