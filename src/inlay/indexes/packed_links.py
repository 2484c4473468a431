"""A graph's links in the bytes row numbers need: 2 where there are at most 65,536 rows, 3 up to 16 million, else 4.

A row's links lie one after another; beside them, one byte a row says how many there are. Where they begin is added up
when the graph is read, and is not kept.
"""

from __future__ import annotations

import numpy as np

from inlay.errors import BadInput

__all__ = ["PackedLinks"]

MOST = 255  # links of a row


class PackedLinks:
    """Links of rows, to be read a row at a time; rows can be given other links.

    Args:
        rows: int64 [n] arrays of each row's links, or packed ones with `degrees`.
        degrees: uint8 [n], where `rows` is the uint8 array that `packed` was.
    """

    def __init__(self, rows: list[np.ndarray] | np.ndarray, degrees: np.ndarray | None = None) -> None:
        self._changed: dict[int, np.ndarray] = {}
        if degrees is None:
            assert isinstance(rows, list)
            self.packed, self.degrees = _packed(rows)
        else:
            self.packed, self.degrees = np.asarray(rows, dtype=np.uint8), np.asarray(degrees, dtype=np.uint8)
        self._count = len(self.degrees)
        self._wide = _width(self._count)
        self._starts = np.concatenate([[0], np.cumsum(self.degrees, dtype=np.int64)])
        if self._starts[-1] * self._wide != len(self.packed):
            raise BadInput(f"{self._starts[-1]} links of {self._wide} bytes are not {len(self.packed)} bytes")

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of links and of their numbers, as they are kept in a file."""
        again = self.compacted() if self._changed else self
        return again.packed.nbytes + again.degrees.nbytes

    def of(self, row: int) -> np.ndarray:
        """A row's links, int64."""
        changed = self._changed.get(row)
        if changed is not None:
            return changed
        return self._unpacked(int(self._starts[row]), int(self._starts[row + 1]))

    def change(self, row: int, links: np.ndarray) -> None:
        """Give a row other links; the row after the last adds one."""
        if len(links) > MOST:
            raise BadInput(f"a row has at most {MOST} links, got {len(links)}")
        self._changed[row] = np.asarray(links, dtype=np.int64)
        self._count = max(self._count, row + 1)

    def compacted(self) -> PackedLinks:
        """The same, with all changes packed."""
        return PackedLinks([self.of(row) for row in range(self._count)])

    def _unpacked(self, start: int, stop: int) -> np.ndarray:
        raw = self.packed[start * self._wide : stop * self._wide].reshape(-1, self._wide)
        wide = np.zeros((len(raw), 4), dtype=np.uint8)
        wide[:, : self._wide] = raw
        return wide.view("<u4")[:, 0].astype(np.int64)


def _width(rows: int) -> int:
    return 2 if rows <= 1 << 16 else 3 if rows <= 1 << 24 else 4


def _packed(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    degrees = np.array([len(links) for links in rows], dtype=np.int64)
    if len(degrees) and degrees.max() > MOST:
        raise BadInput(f"a row has at most {MOST} links, got {degrees.max()}")
    flat = np.concatenate(rows).astype("<u4") if rows else np.empty(0, "<u4")
    raw = flat.view(np.uint8).reshape(-1, 4)[:, : _width(len(rows))]
    return np.ascontiguousarray(raw).reshape(-1), degrees.astype(np.uint8)
