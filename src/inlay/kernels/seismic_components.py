"""Which columns the summaries of a list have, and how many entries each: a byte or so a column.

Lists have thousands of columns and mostly one or two entries for each, so that plain columns and offsets would weigh
as much as everything else in an index. Here a column is one byte, `gap << 2 | count`: how far it is from the one before
and how many entries it has. A column of more than three entries goes on in further bytes of gap 0; a gap beyond 63 is
bridged by bytes of count 0. Sixteen bytes are a group, whose first column and entry are written out, so that a reader
searches among groups and then walks through one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.kernels import compiled

__all__ = ["CODES", "FAR", "MOST", "REACH", "Coded", "coded", "coded_plain", "plain"]

CODES = 16  # bytes of a group
MOST = 3  # entries that a byte counts
REACH = 63  # columns that a byte bridges
FAR = 8 * REACH  # a gap that begins a group of its own: half a group left empty is less than the bytes to bridge it


class Coded(NamedTuple):
    """Columns of some lists, list by list."""

    list_groups: np.ndarray  # int64 [lists], how many groups
    bases: np.ndarray  # int32 [groups]: the column from which the gap of the first byte counts
    firsts: np.ndarray  # uint32 [groups]: entry of the first byte, counted from the list's first
    codes: np.ndarray  # uint8 [groups · CODES]; what is left of a run's last group is 0


def coded(list_components: np.ndarray, components: np.ndarray, counts: np.ndarray) -> Coded:
    """Columns and their numbers of entries in bytes.

    Args:
        list_components: int64 [lists], how many columns.
        components: int32 [columns], ascending in a list.
        counts: int64 [columns], above 0: how many entries.
    """
    if compiled(30 * len(components)):
        from inlay.kernels.seismic_components_numba import coded_compiled

        return Coded(*coded_compiled(list_components, components, counts))
    return coded_plain(list_components, components, counts)


def coded_plain(list_components: np.ndarray, components: np.ndarray, counts: np.ndarray) -> Coded:
    """The numpy form of `coded`."""
    lists = np.repeat(np.arange(len(list_components)), list_components)
    if not len(lists):
        none = np.empty(0, np.int32)
        return Coded(np.zeros(len(list_components), np.int64), none, none.astype(np.uint32), none.astype(np.uint8))
    counts = counts.astype(np.int32)
    fresh, gaps = np.append(True, lists[1:] != lists[:-1]), np.diff(components, prepend=np.int32(0))
    fresh |= gaps > FAR
    gaps[fresh] = np.minimum(components[fresh], REACH)
    bridges = np.maximum(gaps - 1, 0) // REACH
    bridges[fresh] = 0
    more = (counts - 1) // MOST

    # Where each run of bytes, and each column in it, begins.
    sizes = bridges + 1 + more
    heads = np.flatnonzero(fresh)
    run_groups = -(-np.add.reduceat(sizes, heads) // CODES)
    run_ends = np.cumsum(run_groups)
    run_starts = run_ends - run_groups
    before = np.cumsum(sizes) - sizes
    lengths = np.diff(np.append(heads, len(lists)))
    at = before + np.repeat(run_starts * CODES - before[heads], lengths)

    codes = np.zeros(run_ends[-1] * CODES, dtype=np.uint8)
    codes[_spread(at, bridges)] = REACH << 2
    at += bridges
    codes[at] = (gaps - bridges * REACH) << 2 | np.minimum(counts, MOST)
    codes[_spread(at + 1, more)] = MOST
    long = more > 0
    codes[at[long] + more[long]] = counts[long] - MOST * more[long]

    grouped = codes.reshape(-1, CODES)
    moved = np.cumsum((grouped >> 2).sum(axis=1, dtype=np.int64))
    moved = np.append(0, moved[:-1])
    base = components[heads] - gaps[heads]
    bases = moved + np.repeat(base - moved[run_starts], run_groups)
    list_groups = np.bincount(lists[heads], weights=run_groups, minlength=len(list_components)).astype(np.int64)
    entries = np.append(0, np.cumsum((grouped & 3).sum(axis=1, dtype=np.int64))[:-1])
    full = list_groups[list_groups > 0]
    firsts = entries - np.repeat(entries[np.cumsum(full) - full], full)
    return Coded(list_groups, bases.astype(np.int32), firsts.astype(np.uint32), codes)


def plain(bases: np.ndarray, firsts: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(columns, first entry of each, its number of entries), int64, of the groups of one list."""
    grouped = codes.reshape(-1, CODES)
    columns = bases[:, None].astype(np.int64) + np.cumsum(grouped >> 2, axis=1, dtype=np.int64)
    some = np.cumsum(grouped & 3, axis=1, dtype=np.int64)
    starts = firsts[:, None].astype(np.int64) + some - (grouped & 3)
    there = (grouped & 3) > 0
    columns, starts, counts = columns[there], starts[there], (grouped & 3)[there].astype(np.int64)
    heads = np.flatnonzero(np.diff(columns, prepend=-1))
    return columns[heads], starts[heads], np.add.reduceat(counts, heads) if len(heads) else counts


def _spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Numbers from each start on, as many as its length says."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
