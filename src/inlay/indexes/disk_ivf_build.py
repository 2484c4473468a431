"""What goes into which list, and in which order: the building side of `DiskIVF`.

Within a list, rows are sorted by their attributes, the column with the fewest different values first. Rows that pass a
filter then lie next to one another, and a read of few pages fetches them. Sorting by a column of few values first is
what keeps the runs of all columns long (Lemire and Kaser, arXiv 0909.1346).

A list of more than `LARGEST` times the mean is split by k-means into several, so that no search waits for one huge
list. Only its own rows move; one of a neighbouring list may be nearer to a new centroid and stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from inlay.codecs.kmeans import assign, kmeans
from inlay.indexes.attribute_columns import Columns
from inlay.indexes.disk_ivf_file import Group, PartWriter

__all__ = ["LARGEST", "centroids_of", "in_order", "write_lists"]

LARGEST = 4  # times the mean, beyond which a list is split
ROUGH = 0.01  # error of a centroid that is kept as float16, of a row's usual distance from it


def centroids_of(rows: np.ndarray, lists: int, *, iterations: int, seed: int) -> np.ndarray:
    """Centroids [lists, dim] of rows [n, dim]; float16 where that moves none of them to speak of, else float32."""
    centres = kmeans(rows, lists, iterations=iterations, seed=seed)
    few = rows[:: max(1, len(rows) // 1000)]
    usual = float(np.median(np.linalg.norm(few - centres[assign(few, centres)], axis=1)))
    return _halves(centres, usual)


def _halves(centres: np.ndarray, usual: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = centres.astype(np.float16)
    moved = float(np.linalg.norm(halves.astype(np.float32) - centres, axis=1).max(initial=0))
    return halves if moved <= ROUGH * usual else centres


def in_order(group: Group, columns: Columns, order: Sequence[str]) -> Group:
    """A list's rows by the columns named, then by id."""
    keys = [columns.codes(group.words, name) for name in reversed(order)]
    return group.some(np.lexsort([group.ids, *keys]))


def write_lists(
    writer: PartWriter, lists: Iterable[tuple[int, Group]], centroids: np.ndarray, columns: Columns,
    order: Sequence[str], *, mean: float | None, seed: int,
) -> np.ndarray:  # fmt: skip
    """Write lists by number, splitting large ones.

    Args:
        writer: to write with.
        lists: number and rows.
        centroids: of all lists.
        columns: of the attributes.
        order: names of columns by which a list is sorted.
        mean: rows of a list, of which `LARGEST` times as many are too many; None to leave lists as they are.
        seed: of k-means.

    Returns:
        The centroids, those of split lists replaced and new ones appended.
    """
    moved, more = centroids.copy(), []
    for number, group in lists:
        pieces = [(group, centroids[number])]
        if mean is not None:
            pieces = list(_evened(group, centroids[number], mean, seed))
        for i, (piece, centre) in enumerate(pieces):
            if i == 0:
                moved[number] = centre
            else:
                more.append(centre)
            to = number if i == 0 else len(centroids) + len(more) - 1
            writer.add(to, in_order(piece, columns, order), centre.astype(np.float32))
    return np.concatenate([moved, np.array(more, dtype=centroids.dtype).reshape(-1, centroids.shape[1])])


def _evened(group: Group, centroid: np.ndarray, mean: float, seed: int) -> Iterator[tuple[Group, np.ndarray]]:
    """A list as pieces of at most `LARGEST` times the mean, with their centroids; as it is where rows are alike."""
    waiting = [(group, centroid)]
    while waiting:
        own, centre = waiting.pop()
        if len(own.ids) > LARGEST * mean:
            rows = own.floats()
            centres = kmeans(
                rows, min(len(rows), max(2, -(-len(rows) // max(1, round(mean))))), iterations=10, seed=seed
            )
            centres = centres.astype(centroid.dtype)
            nearest = assign(rows, centres.astype(np.float32))
            used = np.unique(nearest)
            if len(used) > 1:
                waiting += [(own.some(np.flatnonzero(nearest == i)), centres[i]) for i in used]
                continue
        yield own, centre
