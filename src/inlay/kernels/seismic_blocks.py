"""Posting lists in blocks of rows that are alike, each with a summary: how `Seismic` is built.

Everything adds up in a fixed order in float32, so that both forms agree bit for bit.

Bruch, Nardini, Rulli & Venturini 2024, "Efficient Inverted Indexes for Approximate Retrieval over Learned Sparse
Representations" (SIGIR).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.kernels import compiled
from inlay.kernels.mixing import FIRST, SECOND, mixed

__all__ = ["Blocks", "block", "block_plain", "heads", "heads_plain"]

MOST_BLOCKS = 65_535  # of a list: entries name their block in 16 bits


class Blocks(NamedTuple):
    """Some lists, blocked and summarised; everything list by list."""

    members: np.ndarray  # int32 [postings], rows, block by block
    list_blocks: np.ndarray  # int64 [lists], how many blocks
    block_sizes: np.ndarray  # int64 [blocks], how many rows
    scales: np.ndarray  # float32 [blocks, 2]
    list_components: np.ndarray  # int64 [lists], how many components
    components: np.ndarray  # int32 [components]
    entry_counts: np.ndarray  # int64 [components], how many entries
    entry_blocks: np.ndarray  # uint16 [entries]
    entry_codes: np.ndarray  # uint8 [entries]


def heads(
    indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, cut: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `cut` largest numbers of each CSR row, in order of column; of equal ones the first.

    Args:
        indptr: int64 [rows + 1].
        columns: int32 [nnz].
        values: float32 [nnz].
        cut: how many.

    Returns:
        The same three arrays of what is left.
    """
    if compiled(8 * len(columns)):
        from inlay.kernels.seismic_blocks_numba import heads_compiled

        return heads_compiled(indptr, columns, values, cut)
    return heads_plain(indptr, columns, values, cut)


def heads_plain(
    indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, cut: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numpy form of `heads`."""
    lengths = np.diff(indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-values, row))
    rank = np.arange(len(values)) - np.repeat(indptr[:-1], lengths)
    kept = np.sort(order[rank < cut])
    starts = np.zeros(len(indptr), dtype=np.int64)
    np.cumsum(np.minimum(lengths, cut), out=starts[1:])
    return starts, columns[kept], values[kept]


def block(
    first: int,
    last: int,
    lists: tuple[np.ndarray, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    heads: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    centroid_fraction: float,
    min_cluster_size: int,
    summary_energy: float,
    seed: int,
) -> Blocks:
    """Cluster each list's rows about some of them drawn at random, and summarise each cluster.

    A row joins the centroid of the largest dot product with the row's head; of equal ones the first. Clusters of at
    most `min_cluster_size` rows are dissolved, unless no other is left (then the largest stays). A summary is the
    largest value of each column over the members, of which the largest are kept until they hold `summary_energy` of
    the sum, the one that crosses it included; of equal ones those met first.

    Args:
        first: of the lists wanted.
        last: one past the last.
        lists: (int64 [columns + 1], int32 [postings]): the pruned lists' starts and rows.
        rows: CSR of the full rows, (int64 [rows + 1], int32 [nnz], float32 [nnz]), values above 0.
        heads: CSR of their heads.
        centroid_fraction: centroids a row of the list, rounded down, at least one.
        min_cluster_size: see above.
        summary_energy: share of a summary's sum to keep, 1 for all of it.
        seed: of the draw.
    """
    work = int(lists[0][last] - lists[0][first]) * 2000
    if compiled(work):
        from inlay.kernels.seismic_blocks_numba import block_compiled

        found = block_compiled(
            first, last, *lists, *rows, *heads, len(lists[0]) - 1, centroid_fraction, min_cluster_size, summary_energy,
            _salt(seed),
        )  # fmt: skip
        return Blocks(*found)
    return block_plain(
        first, last, lists, rows, heads, centroid_fraction=centroid_fraction, min_cluster_size=min_cluster_size,
        summary_energy=summary_energy, seed=seed,
    )  # fmt: skip


def block_plain(
    first: int,
    last: int,
    lists: tuple[np.ndarray, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    heads: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    centroid_fraction: float,
    min_cluster_size: int,
    summary_energy: float,
    seed: int,
) -> Blocks:
    """The numpy form of `block`."""
    indptr, columns, values = rows
    salt, n_columns = _salt(seed), len(lists[0]) - 1
    made: list[tuple[np.ndarray, ...]] = []
    for c in range(first, last):
        its = lists[1][lists[0][c] : lists[0][c + 1]]
        if not len(its):
            none = np.empty(0, np.int64)
            made.append((its, none, np.empty((0, 2), np.float32), none, none, none, none))
            continue
        n = min(max(1, int(centroid_fraction * len(its))), MOST_BLOCKS)
        joined = _cluster(its, _drawn(its, n, c, salt), rows, heads, n_columns, min_cluster_size)
        members = its[np.argsort(joined, kind="stable")]
        sizes = np.bincount(joined)
        sizes = sizes[sizes > 0]
        scales = np.empty((len(sizes), 2), dtype=np.float32)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        ends = np.cumsum(sizes)
        for b, (start, stop) in enumerate(zip(ends - sizes, ends)):
            at = np.concatenate([np.arange(indptr[r], indptr[r + 1]) for r in members[start:stop]])
            present, met = np.unique(columns[at], return_index=True)
            highest = np.zeros(n_columns, dtype=np.float32)
            np.maximum.at(highest, columns[at], values[at])
            present = present[np.argsort(met)]  # in the order in which they are met
            kept = present[_mass(highest[present], summary_energy)]
            scales[b], codes = _quantised(highest[kept])
            found.append((kept, np.full(len(kept), b), codes))
        component, blocks, codes = (np.concatenate(part) for part in zip(*found))
        order = np.lexsort((blocks, component))
        present, counts = np.unique(component, return_counts=True)
        made.append((members, sizes, scales, present, counts, blocks[order], codes[order]))
    members, sizes, scales, components, counts, blocks, codes = zip(*made)
    return Blocks(
        _joined(members, np.int32), np.array([len(s) for s in sizes], np.int64), _joined(sizes, np.int64),
        np.concatenate(scales), np.array([len(p) for p in components], np.int64), _joined(components, np.int32),
        _joined(counts, np.int64), _joined(blocks, np.uint16), _joined(codes, np.uint8),
    )  # fmt: skip


def _joined(parts: tuple[np.ndarray, ...], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype)


def _salt(seed: int) -> np.uint64:
    return np.uint64(mixed(seed))


def _drawn(its: np.ndarray, n: int, column: int, salt: np.uint64) -> np.ndarray:
    """n of a list's rows, without repetition (Fisher and Yates)."""
    order = its.copy()
    for i in range(n):
        number = _mix((int(salt) + (column << 32 | i)) % 2**64)
        j = i + number % (len(order) - i)
        order[i], order[j] = order[j], order[i]
    return order[:n]


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * FIRST % 2**64
    x = (x ^ x >> 27) * SECOND % 2**64
    return x ^ x >> 31


def _cluster(
    its: np.ndarray,
    centroids: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    heads: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_columns: int,
    min_cluster_size: int,
) -> np.ndarray:
    """Number of the centroid that each row joins, int64 [len(its)]."""
    if len(centroids) == 1:
        return np.zeros(len(its), dtype=np.int64)
    indptr, columns, values = rows
    dense = np.zeros((len(centroids), n_columns), dtype=np.float32)
    for i, r in enumerate(centroids):
        dense[i, columns[indptr[r] : indptr[r + 1]]] = values[indptr[r] : indptr[r + 1]]
    scores = np.zeros((len(its), len(centroids)), dtype=np.float32)
    for i, r in enumerate(its):
        for p in range(heads[0][r], heads[0][r + 1]):
            scores[i] += heads[2][p] * dense[:, heads[1][p]]
    joined = scores.argmax(axis=1)
    sizes = np.bincount(joined, minlength=len(centroids))
    alive = sizes > min_cluster_size
    if not alive.any():
        alive[sizes.argmax()] = True
    lost = ~alive[joined]
    joined[lost] = np.where(alive, scores[lost], -np.inf).argmax(axis=1)
    return joined


def _mass(values: np.ndarray, energy: float) -> np.ndarray:
    """Positions, ascending, of the largest values whose sum reaches that share of the whole."""
    if energy >= 1:
        return np.arange(len(values))
    order = np.argsort(-values, kind="stable")
    cumulative = np.cumsum(values[order].astype(np.float64))
    return np.sort(order[: np.searchsorted(cumulative, energy * values.sum(dtype=np.float64)) + 1])


def _quantised(values: np.ndarray) -> tuple[tuple[np.float32, np.float32], np.ndarray]:
    """((step, minimum), codes uint8)."""
    low = values.min()
    step = (values.max() - low) / np.float32(255)
    if step == 0:
        return (step, low), np.zeros(len(values), dtype=np.uint8)
    return (step, low), np.minimum(np.floor((values - low) / step + np.float32(0.5)), 255).astype(np.uint8)
