"""Rows in lists around centroids, of which a filtered search scans the nearest, and in these the rows that pass.

A graph is walked from row to row, and where few rows pass most steps lead nowhere. Lists need no steps: a bit tells
whether a row passes before its codes are read, so what does not pass costs next to nothing. The lists keep numbers of
rows only (4 bytes each); codes are the graph's own.

How far to go? To a number of lists, as IVF indexes have it, is too far where all rows pass and too near where few do;
to a number of rows that pass, the reverse. What holds over all shares is between the two: a search ends when
seen^(1 − b) · tested^b reaches the effort, where `seen` rows passed of the `tested` ones. So there is no need to know
how many rows near a query pass: the search finds out.

Lists as in Sivic & Zisserman, Video Google (ICCV 2003); a bitmap tested inside them is the in-filter IVF of
"Benchmarking Filtered Approximate Nearest Neighbor Search Algorithms on Transformer-based Embedding Vectors" (arXiv
2507.21989). The rule of when to end is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import MissingExtra
from inlay.kernels import dense_graph as kernel
from inlay.kernels.dense_graph import Graph
from inlay.types import Metric

__all__ = ["Lists"]

BEND = 0.6  # b: measured on texts, the effort then hardly depends on the share that passes
SAMPLED = 40  # rows that k-means sees for each list
ITERATIONS = 6
ROWS_AT_ONCE = 1 << 14


class Lists(NamedTuple):
    """Centroids as codes, and the numbers of their rows."""

    codes: np.ndarray  # int8 [lists, width]
    facts: np.ndarray  # float32 [lists, width / 4], the same bytes
    starts: np.ndarray  # int64 [lists + 1]
    rows: np.ndarray  # uint32 [rows], ascending in each list

    @classmethod
    def of(cls, graph: Graph, count: int, dim: int, *, metric: Metric, seed: int) -> Lists:
        """Lists of the first `count` rows of a graph, 2·√n of them, by k-means on their codes."""
        from inlay.codecs.kmeans import assign, kmeans

        lists = max(1, min(count, round(2 * count**0.5)))
        some = np.sort(np.random.default_rng(seed).permutation(count)[: SAMPLED * lists])
        centres = kmeans(_rows(graph, some, dim), lists, iterations=ITERATIONS, seed=seed)
        parts = (np.arange(first, min(first + ROWS_AT_ONCE, count)) for first in range(0, count, ROWS_AT_ONCE))
        nearest = np.concatenate([assign(_rows(graph, part, dim), centres) for part in parts])
        codes = kernel.aligned(lists, graph.codes.shape[1])
        kernel.code(centres, distances=metric != "dot", out=codes)
        starts = np.zeros(lists + 1, dtype=np.int64)
        np.cumsum(np.bincount(nearest, minlength=lists), out=starts[1:])
        return cls(codes, codes.view(np.float32), starts, np.argsort(nearest, kind="stable").astype(np.uint32))

    @property
    def nbytes(self) -> int:
        """Bytes of centroids and numbers."""
        return sum(array.nbytes for array in (self.codes, self.starts, self.rows))

    def probe(
        self, graph: Graph, queries: np.ndarray, steps: np.ndarray, allowed: np.ndarray, effort: float,
        best: np.ndarray, sizes: np.ndarray,
    ) -> int:  # fmt: skip
        """Scan lists until it was enough, at least until `best` is full; returns how many rows were scored.

        Args:
            graph: whose codes are scored.
            queries: int8 [q, width], as `kernels.dense_graph.code` makes them.
            steps: float32 [q].
            allowed: bool [rows].
            effort: see above; the number of rows to score where all are allowed.
            best: uint64 [q, k], filled with keys in descending order.
            sizes: int64 [q], filled with the number of keys.
        """
        try:
            from inlay.kernels.filtered_lists_numba import probe
        except ImportError:
            raise MissingExtra("graph indexes", "fast") from None
        return int(probe(graph, self, queries, steps, allowed, float(effort), BEND, best, sizes))

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps."""
        return {"list_codes": self.codes, "list_starts": self.starts, "list_rows": self.rows}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], count: int, width: int) -> Lists:
        """The reverse of `arrays`, for an index of some rows."""
        kept, starts, rows = arrays["list_codes"], np.array(arrays["list_starts"]), np.array(arrays["list_rows"])
        fits = kept.shape == (len(starts) - 1, width) and kept.dtype == np.int8 and len(rows) == count
        if not fits or starts[-1] != count or (np.diff(starts) < 0).any() or rows.max(initial=0) >= max(count, 1):
            raise ValueError(f"lists of {len(rows)} rows in an index of {count}")
        codes = kernel.aligned(*kept.shape)
        codes[:] = kept
        return cls(codes, codes.view(np.float32), starts, rows)


def _rows(graph: Graph, ids: np.ndarray, dim: int) -> np.ndarray:
    """Rows as their codes say, float32."""
    scaled: np.ndarray = graph.codes[ids, :dim] * graph.facts[ids, -2][:, None]
    return scaled
