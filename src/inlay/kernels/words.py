"""Bytes to numbered words, with numpy alone: what tokenising comes to for English, where no compiler is at hand.

A word is a maximal run of bytes that are no space. Up to 16 bytes it is two 64-bit numbers, so that words of a slice
of text are compared all at once, and numbered by a hash table whose every probe is one gather over all of them. The few
that are longer go through a dictionary. Exact: words are told apart by their bytes, never by their hashes.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Words"]

SPACE = 32
SLICE = 1 << 20  # bytes looked at together: what a core's cache holds with all that is made of them
_SLOTS = 1 << 17

_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_KEPT = np.array([(1 << (8 * count)) - 1 for count in range(9)], dtype=np.uint64)  # a word's own bytes of eight


class Words:
    """Numbers words in the order of their first occurrence: `spelled` are the words, by number."""

    def __init__(self) -> None:
        self.spelled: list[bytes] = []
        self.count = 0
        self._long: dict[bytes, int] = {}
        self._heads, self._tails = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64)
        self._slots = np.full(_SLOTS, -1, dtype=np.int32)

    def number(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Words of a slice, which begins and ends between words.

        Returns:
            (numbers int32 [words], first byte of each int64 [words]).
        """
        padded = np.frombuffer(data + bytes([SPACE]) * 17, dtype=np.uint8)  # so that 16 bytes follow every start
        inside = padded != SPACE
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        if inside[0]:
            edges = np.concatenate([[0], edges])
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        # Eight bytes at every byte: an overlapping view, read where words start.
        eight = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
        heads = eight[starts] & _KEPT[np.minimum(lengths, 8)]
        tails = eight[np.minimum(starts + 8, len(eight) - 1)] & _KEPT[np.clip(lengths - 8, 0, 8)]
        found = np.full(len(starts), -1, dtype=np.int32)
        before = self.count
        new = self._number_short(np.flatnonzero(lengths <= 16), heads, tails, found)
        new += self._number_long(np.flatnonzero(lengths > 16), data, starts, lengths, found)
        if new:
            new = self._rename(before, np.array(new), found)
            self.spelled += [data[a : a + n] for a, n in zip(starts[new].tolist(), lengths[new].tolist())]
        return found, starts

    def _number_short(self, left: np.ndarray, heads: np.ndarray, tails: np.ndarray, found: np.ndarray) -> list[int]:
        """Number words that fit 16 bytes; returns where the new ones first occur."""
        new: list[int] = []
        mixed = _mixed(heads, tails)
        step = 0
        while len(left):
            slot = self._slot(mixed[left], step)
            there = self._slots[slot]
            free = np.flatnonzero(there < 0)
            if len(free):
                # The first word to ask for a free slot gets it: it is written last.
                at, asked = slot[free], np.arange(len(free), dtype=np.int32)
                self._slots[at[::-1]] = asked[::-1]
                won = free[self._slots[at] == asked]
                self._slots[slot[won]] = np.arange(self.count, self.count + len(won), dtype=np.int32)
                self._heads = np.concatenate([self._heads, heads[left[won]]])
                self._tails = np.concatenate([self._tails, tails[left[won]]])
                self.count += len(won)
                new += left[won].tolist()
                there = self._slots[slot]
            same = (self._heads[there] == heads[left]) & (self._tails[there] == tails[left])
            found[left[same]] = there[same]
            left, step = left[~same], step + 1
            if self.count > len(self._slots) // 2:
                self._grow()
                step = 0
        return new

    def _slot(self, mixed: np.ndarray, step: int) -> np.ndarray:
        return ((mixed + np.uint64(step)) & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _grow(self) -> None:
        """Seat all short words in a table four times as large."""
        self._slots = np.full(4 * len(self._slots), -1, dtype=np.int32)
        left = np.flatnonzero(self._heads)  # a long word has no head
        mixed = _mixed(self._heads, self._tails)
        step = 0
        while len(left):
            slot = self._slot(mixed[left], step)
            free = self._slots[slot] < 0
            self._slots[slot[free]] = left[free]
            left, step = left[self._slots[slot] != left], step + 1

    def _number_long(
        self, left: np.ndarray, data: bytes, starts: np.ndarray, lengths: np.ndarray, found: np.ndarray
    ) -> list[int]:
        new = []
        for at, start, length in zip(left.tolist(), starts[left].tolist(), lengths[left].tolist()):
            number = self._long.setdefault(data[start : start + length], self.count)
            if number == self.count:
                new.append(at)
                self.count += 1
            found[at] = number
        none = np.zeros(len(new), dtype=np.uint64)
        self._heads, self._tails = np.concatenate([self._heads, none]), np.concatenate([self._tails, none])
        return new

    def _rename(self, before: int, new: np.ndarray, found: np.ndarray) -> list[int]:
        """Give the words from number `before` on, which first occur at `new`, the order of their occurrence."""
        order = np.argsort(new)
        name = np.empty(len(new), dtype=np.int32)
        name[order] = np.arange(before, self.count, dtype=np.int32)
        for numbers in (found, self._slots):
            recent = numbers >= before
            numbers[recent] = name[numbers[recent] - before]
        self._heads[before:], self._tails[before:] = self._heads[before:][order], self._tails[before:][order]
        for word, number in reversed(self._long.items()):
            if number < before:
                break
            self._long[word] = int(name[number - before])
        return new[order].tolist()


def _mixed(heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
    mixed = (heads ^ (heads >> np.uint64(32))) * _FIRST + tails * _SECOND
    return mixed ^ (mixed >> np.uint64(29))
