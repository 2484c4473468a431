"""Which rows a filter keeps, from attributes packed into 64-bit words.

A filter is a program for a stack of answers. Most of it is one kind of step, `TEST`: whether a word, under a mask, lies
between two bounds. That is equality (bounds alike), several equalities of fields of one word at once (masks joined),
ranges, a set that contains labels (mask of the labels, bounds alike) and a set that contains any of them (bounds 1 and
all ones). `LISTED` looks a field up in a sorted table. Fields are never shifted: bounds and tables are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.kernels import compiled

__all__ = ["AND", "CONSTANT", "LISTED", "NOT", "OR", "TEST", "Heads", "Program", "passes", "survivors"]

TEST, LISTED, NOT, AND, OR, CONSTANT = range(6)


class Program(NamedTuple):
    """Steps of a filter, in postfix order; without steps everything passes.

    Attributes:
        steps: int64 [n, 4]: what to do; the word tested, or the constant; first and last + 1 of the table.
        bounds: uint64 [n, 3]: mask, lowest, highest.
        table: uint64 [t], sorted within each step's part.
        depth: answers held at once.
    """

    steps: np.ndarray
    bounds: np.ndarray
    table: np.ndarray
    depth: int


class Heads(NamedTuple):
    """Blocks of attributes and ids in one buffer: words uint64 [width, n], then ids uint32 or uint64 [n].

    Attributes:
        buffer: uint8.
        starts: int64 [b], byte with which each block begins, a multiple of eight.
        counts: int64 [b], its rows.
        width: words of a row.
        id_bytes: 4 or 8.
    """

    buffer: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    width: int
    id_bytes: int


def passes(words: np.ndarray, program: Program) -> np.ndarray:
    """Bool [n], whether each row passes.

    Args:
        words: uint64 [width, n].
        program: the filter.
    """
    words = np.ascontiguousarray(words)
    if not len(program.steps):
        return np.ones(words.shape[1], dtype=bool)
    if compiled(words.shape[1] * len(program.steps)):
        from inlay.kernels.attribute_scan_numba import passes_compiled

        stack = np.empty((program.depth, words.shape[1]), dtype=bool)
        passes_compiled(words, program.steps, program.bounds, program.table, stack)
        return stack[0].copy()
    return passes_plain(words, program)


def passes_plain(words: np.ndarray, program: Program) -> np.ndarray:
    """The plain form of `passes`."""
    stack: list[np.ndarray] = []
    for (what, word, first, last), (mask, low, high) in zip(program.steps.tolist(), program.bounds):
        if what == TEST:
            field = words[word] & mask
            stack.append((field >= low) & (field <= high))
        elif what == LISTED:
            field, table = words[word] & mask, program.table[first:last]
            place = np.minimum(np.searchsorted(table, field), len(table) - 1)
            stack.append(table[place] == field)
        elif what == CONSTANT:
            stack.append(np.full(words.shape[1], bool(word)))
        elif what == NOT:
            stack.append(~stack.pop())
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(left & right if what == AND else left | right)
    return stack[0]


def survivors(
    heads: Heads, program: Program, allow: np.ndarray, dead: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Rows that pass, of several blocks.

    Args:
        heads: the blocks.
        program: the filter.
        allow: bool by id, the ids that may pass; empty where all may.
        dead: uint8, a bit for each id that may not (the first in the lowest bit); empty where none.

    Returns:
        Places in their blocks and ids, int64 [m], block after block; and where each block's begin, int64 [b + 1].
    """
    total = int(heads.counts.sum())
    if compiled(total * max(1, len(program.steps))):
        from inlay.kernels.attribute_scan_numba import survivors_compiled

        rows, ids = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
        cuts = np.zeros(len(heads.counts) + 1, dtype=np.int64)
        survivors_compiled(
            heads.buffer, heads.starts, heads.counts, heads.width, heads.id_bytes,
            program.steps, program.bounds, program.table, max(1, program.depth), allow, dead, rows, ids, cuts,
        )  # fmt: skip
        return rows[: cuts[-1]], ids[: cuts[-1]], cuts
    return survivors_plain(heads, program, allow, dead)


def survivors_plain(
    heads: Heads, program: Program, allow: np.ndarray, dead: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The plain form of `survivors`."""
    rows, found, cuts = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [0]
    for start, n in zip(heads.starts.tolist(), heads.counts.tolist()):
        behind = start + 8 * heads.width * n
        words = heads.buffer[start:behind].view(np.uint64).reshape(heads.width, n)
        kind = np.uint32 if heads.id_bytes == 4 else np.uint64
        ids = heads.buffer[behind : behind + heads.id_bytes * n].view(kind).astype(np.int64)
        keep = passes_plain(words, program) if len(program.steps) else np.ones(n, dtype=bool)
        if len(allow):
            keep &= allow[ids]
        if len(dead):
            keep &= (dead[ids >> 3] >> (ids & 7).astype(np.uint8)) & 1 == 0
        rows.append(np.flatnonzero(keep))
        found.append(ids[keep])
        cuts.append(cuts[-1] + len(rows[-1]))
    return np.concatenate(rows), np.concatenate(found), np.array(cuts, dtype=np.int64)
