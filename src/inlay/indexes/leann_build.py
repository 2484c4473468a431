"""What is decided when a `Leann` is built: rows as codes, the order they are linked in, and how few links are enough.

The graph is grown whole first, which tells the hubs: the rows of the highest degree. Then it is grown again, where it
takes too much room: hubs choose as many links as before, other rows few, and fewer still until what they take fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from inlay.indexes.packed_links import PackedLinks
from inlay.indexes.recomputed import Recomputed
from inlay.kernels import dense_graph as kernel
from inlay.kernels.dense_graph import NONE, Graph

__all__ = ["LEAST_DEGREE", "Thinned", "coded", "decoded", "diverse", "from_the_middle", "grown", "links_of", "shards"]

TEXTS_AT_ONCE = 4096  # encoded between two steps of the bar
LEAST_DEGREE = 4


def coded(rows: Recomputed, n: int, *, sample: int, seed: int, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """All n rows as codes of a byte a number, and `sample` of them as they are, to learn product codes from."""
    dim = rows.encoder.space.dim
    codes = kernel.aligned(n, kernel.width_of(dim))
    random = np.random.default_rng(seed)
    chosen = np.zeros(n, dtype=bool)
    chosen[random.choice(n, min(n, sample), replace=False)] = True
    kept = []
    for ids in shards(n, progress):
        some = rows.fetch(ids)
        kernel.code(some, distances=False, out=codes[ids[0] : ids[-1] + 1])
        kept.append(some[chosen[ids[0] : ids[-1] + 1]])
    return codes, np.concatenate(kept)


def decoded(codes: np.ndarray, dim: int) -> np.ndarray:
    """Rows float32 [n, dim] of such codes."""
    steps = np.ascontiguousarray(codes).view(np.float32)[:, -2]
    return codes[:, :dim].astype(np.float32) * steps[:, None]


def from_the_middle(codes: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """An order of insertion, int64 [n]: the row nearest to the mean, then the others as the seed has them."""
    mean = decoded(codes[:: max(1, len(codes) // 8192)], dim).mean(axis=0)
    nearness = np.concatenate([decoded(codes[i : i + 8192], dim) @ mean for i in range(0, len(codes), 8192)])
    order = np.random.default_rng(seed).permutation(len(codes))
    middle = int(nearness.argmax())
    return np.concatenate([[middle], order[order != middle]])


def grown(codes: np.ndarray, order: np.ndarray, budgets: np.ndarray, settings: Mapping[str, Any]) -> Graph:
    """The graph whose rows choose so many links, int64 [n], with `degree` and `expansion_add` of the settings."""
    return kernel.flat_graph(
        codes, order=order, expansion=settings["expansion_add"], budgets=budgets, most=settings["degree"]
    )


def links_of(graph: Graph) -> PackedLinks:
    """The links of all rows; equal rows are linked in a chain to the first of them."""
    links = [row[row != NONE].astype(np.int64) for row in graph.links]
    for row in np.flatnonzero(graph.twins != NONE).tolist():
        other = int(graph.twins[row])
        links[row], links[other] = np.append(links[row], other), np.append(links[other], row)
    return PackedLinks(links)


class Thinned(NamedTuple):
    """Links that are few enough.

    `low_degree` is what rows choose that are no hubs, `degree` where nothing had to be thinned; `before` is the mean
    degree of the whole graph.
    """

    links: PackedLinks
    low_degree: int
    before: float

    @classmethod
    def of(
        cls, codes: np.ndarray, order: np.ndarray, settings: Mapping[str, Any], room: float | None = None
    ) -> Thinned:
        """Grow the graph with as few links as take `room` bytes, or with the index's `low_degree` where that is None.

        Rows that have `LEAST_DEGREE` links keep them, room or not.
        """
        degree, low, n = settings["degree"], settings["low_degree"], len(codes)
        whole = grown(codes, order, np.full(n, degree, np.int64), settings)
        degrees = (whole.links != NONE).sum(axis=1)
        hubs = np.argsort(-degrees, kind="stable")[: max(1, round(settings["hub_share"] * n))]
        links, before = links_of(whole), float(degrees.mean())
        if room is not None and links.nbytes <= room:
            return cls(links, degree, before)
        while True:
            budgets = np.full(n, low, np.int64)
            budgets[hubs] = degree
            links = links_of(grown(codes, order, budgets, settings))
            if room is None or links.nbytes <= room or low == LEAST_DEGREE:
                return cls(links, low, before)
            low -= 1


def diverse(vector: np.ndarray, near: Sequence[tuple[int, np.ndarray]], count: int) -> np.ndarray:
    """Of rows by nearness, those to link to: none that is nearer to one before it than to the row itself."""
    rows: list[int] = []
    chosen: list[np.ndarray] = []
    for row, candidate in near:
        if len(rows) == count:
            break
        distance = float(((candidate - vector) ** 2).sum())
        if all(float(((candidate - other) ** 2).sum()) >= distance for other in chosen):
            rows.append(row)
            chosen.append(candidate)
    return np.array(rows, dtype=np.int64)


def shards(n: int, progress: bool) -> Iterator[list[int]]:
    """Numbers of rows, as many at a time as are encoded between two steps of a bar."""
    from tqdm import tqdm

    with tqdm(total=n, unit=" texts", desc="encoding", disable=not progress, leave=False) as bar:
        for first in range(0, n, TEXTS_AT_ONCE):
            ids = list(range(first, min(first + TEXTS_AT_ONCE, n)))
            yield ids
            bar.update(len(ids))
