"""Which rows to keep in a small fast memory: those used most, and of these the ones used last.

The planner moves no rows. It says, for a batch, where each row is or goes and which must be read; all rows of the batch
are pinned while it plans, so that a later miss never takes the place that an earlier id was just promised. (The planner
released with STEM does not guard this.)

Source: STEM (arXiv 2601.10639), offload runtime: least frequently used, ties to the least recently used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.tables.deduplication import Deduplication, checked

__all__ = ["LFU", "Plan"]


class Plan(NamedTuple):
    """Where the rows of a batch are.

    Attributes:
        unique: distinct ids, int64 [u], in the order they first occur.
        inverse: int64 [n], `unique[inverse]` are the ids.
        slots: int64 [u], the slot of each distinct id.
        reads: int64 [misses], ids whose rows must be read before the slots are.
        writes: int64 [misses], the slots they go to.
    """

    unique: np.ndarray
    inverse: np.ndarray
    slots: np.ndarray
    reads: np.ndarray
    writes: np.ndarray

    @property
    def slot(self) -> np.ndarray:
        """The slot of each id, int64 [n]."""
        return self.slots[self.inverse]

    @property
    def misses(self) -> int:
        """Rows to be read."""
        return len(self.reads)


class LFU:
    """A planner over one table; a batch costs O(ids), and O(capacity) more where it must evict.

    A row's count is how often its id occurred since it came in; leaving the cache forgets it.

    Args:
        rows: of the table.
        capacity: slots; what exceeds `rows` is of no use.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        if capacity < 1:
            raise BadInput(f"capacity must be at least 1, got {capacity}")
        self.rows, self.capacity = rows, min(capacity, rows)
        self._distinct = Deduplication(rows)
        self.slot_of = np.full(rows, -1, dtype=np.int64)
        self._key = np.full(self.capacity, -1, dtype=np.int64)
        self._count = np.zeros(self.capacity, dtype=np.int64)
        self._last = np.zeros(self.capacity, dtype=np.int64)
        self._filled = self._clock = 0

    def clear(self) -> None:
        """Forget everything."""
        self.slot_of[self._key[: self._filled]] = -1
        self._filled = 0

    def plan(self, ids: np.ndarray) -> Plan:
        """Slots of a batch of ids [n]. Refuses, changing nothing, one of more distinct ids than there are slots."""
        unique, inverse = self._distinct(ids)
        if len(unique) > self.capacity:
            raise BadInput(
                f"the batch has {len(unique)} distinct ids, more than the {self.capacity} slots; "
                "raise the capacity, or cut it with split(ids)"
            )
        slots = self.slot_of[unique]
        missing = np.flatnonzero(slots < 0)
        reads = unique[missing]
        fresh = min(len(reads), self.capacity - self._filled)
        taken = np.arange(self._filled, self._filled + fresh)
        if len(reads) > fresh:
            out = self._victims(len(reads) - fresh, pinned=slots[slots >= 0])
            self.slot_of[self._key[out]] = -1
            taken = np.concatenate([taken, out])
        self._filled += fresh
        slots[missing] = taken
        self._key[taken], self.slot_of[reads], self._count[taken] = reads, taken, 0

        last = np.empty(len(unique), dtype=np.int64)
        last[inverse] = np.arange(len(inverse))  # of several places the last stands
        self._count[slots] += np.bincount(inverse, minlength=len(unique))
        self._last[slots] = self._clock + last
        self._clock += len(inverse)
        return Plan(unique, inverse, slots, reads, taken)

    def _victims(self, wanted: int, pinned: np.ndarray) -> np.ndarray:
        """The `wanted` least used slots that are not pinned, the least first."""
        free = np.ones(self.capacity, dtype=bool)
        free[: self._filled][pinned] = False
        free[self._filled :] = False
        found = np.flatnonzero(free)
        count = self._count[found]
        if wanted < len(found):  # no sort of all: whoever is above the wanted-th count stays
            found = found[count <= np.partition(count, wanted - 1)[wanted - 1]]
        return found[np.lexsort((self._last[found], self._count[found]))[:wanted]]

    def split(self, ids: np.ndarray) -> list[np.ndarray]:
        """Cut ids [n] into runs of at most `capacity` distinct ones each, as long as possible, in order."""
        rest, runs = checked(ids, self.rows), []
        while len(rest):
            _, inverse = self._distinct(rest)
            beyond = np.flatnonzero(inverse == self.capacity)[:1]  # where the first id too many first occurs
            cut = int(beyond[0]) if len(beyond) else len(rest)
            runs.append(rest[:cut])
            rest = rest[cut:]
        return runs
