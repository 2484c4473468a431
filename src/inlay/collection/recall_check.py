"""What a collection's own searches find of what an exact search would, asked with its own passages.

A passage's stored row is the query, and the passage itself is left out of the answers. Rows of documents are longer
than those of queries, so a query keeps the 32 largest weights of a sparse row, and the first 32 vectors of a bag. The
share of the answers that are as near as the k nearest is the recall; rows as near as the k-th count, whichever of
equals they are.

Small segments are scanned whole: there is nothing to measure then. Neither is it where dense rows are not kept, for
what they would be compared with has to be made again, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.collection.snapshot import DENSE, LEXICAL
from inlay.collection.views import Found
from inlay.errors import BadInput
from inlay.types import Sparse

if TYPE_CHECKING:
    from inlay.collection.collection import Collection

__all__ = ["SpaceRecall", "checked_spaces", "dense_rows"]

QUERY = 32  # weights or vectors that a query keeps
TIED = 1e-5  # scores closer than this, in units of the best, are equal


@dataclass(frozen=True)
class SpaceRecall:
    """How one space is searched, and what that finds.

    Args:
        space: its name.
        kind: `dense`, `sparse` or `multi`.
        how: by what it is searched, in words.
        exact: whether that finds everything by its nature; then nothing was measured.
        rows: how many are alive.
        pending: passages that have no row yet, and are not found here until they do.
        k: neighbours asked for.
        recall: share of the k nearest that was found, query by query, float64; empty if `exact`, or if there are no
            rows to compare with.
    """

    space: str
    kind: str
    how: str
    exact: bool
    rows: int
    pending: int
    k: int
    recall: np.ndarray


def checked_spaces(
    collection: Collection, k: int = 10, *, sample: int = 100, seed: int = 0, progress: bool = False
) -> list[SpaceRecall]:
    """Every space of a collection.

    Args:
        collection: an open one.
        k: neighbours asked for.
        sample: passages that are asked with.
        seed: which these are.
        progress: show a bar.
    """
    for name, value in (("k", k), ("sample", sample)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise BadInput(f"{name} must be a positive integer, got {value!r}")
    found = []
    with collection._mutex:
        snapshot = collection._snapshot
        for name, stored in snapshot.spaces.items():
            view, kind = snapshot.view(name), stored.space.kind
            how, exact = _how(name, kind, view, stored.dtype)
            recall = np.empty(0)
            if not exact and not (kind == "dense" and view.thin):
                recall = _measured(view, _exact_of[kind], _queries_of[kind], k, sample, seed, progress)
            found.append(SpaceRecall(name, kind, how, exact, len(view), snapshot.pending(name), k, recall))
    return found


def dense_rows(collection: Collection, most: int, *, seed: int = 0) -> tuple[np.ndarray, str] | None:
    """Rows of the dense space as they are stored, in order of addition, and the metric they are searched by.

    Args:
        collection: an open one.
        most: rows; drawn at random where there are more.
        seed: which these are.

    Returns:
        (float32 [n, dim], metric), or None where the collection keeps no dense rows.
    """
    with collection._mutex:
        snapshot = collection._snapshot
        stored = snapshot.spaces.get(DENSE)
        if stored is None or stored.space.kind != "dense" or snapshot.view(DENSE).thin:
            return None
        view = snapshot.view(DENSE)
        chunks = _drawn(view, most, seed)
        return view.rows(chunks), stored.space.metric


def _drawn(view: Any, most: int, seed: int) -> np.ndarray:
    """Some chunks that have a row, ascending."""
    chunks: np.ndarray = view.covered()
    if len(chunks) > most:
        chunks = np.sort(np.random.default_rng(seed).choice(chunks, most, replace=False))
    return chunks


def _how(name: str, kind: str, view: Any, dtype: str) -> tuple[str, bool]:
    if name == LEXICAL:
        return "posting lists", True
    if kind == "dense":
        if view.thin:
            return "a graph, and rows that are made again from the text", False
        part, whole, by = view.graphed(), f"a scan of all rows as stored ({dtype})", f"a graph over rows ({dtype})"
    elif kind == "sparse":
        from inlay.collection.posting_blocks import blocks_of

        part, whole = [blocks_of(segment.pack) is not None for segment in view.segments], "posting lists"
        by = "Seismic's blocks"
    else:
        part, whole = ["encodings" in segment.pack for segment in view.segments], "a scan of all bags"
        by = "MUVERA's encodings, then exact MaxSim of candidates"
    if not any(part):
        return whole, True
    return by if all(part) else f"{by}, in {sum(part)} of {len(part)} segments; else {whole}", False


def _measured(
    view: Any, exact_of: Callable[..., Found], queries_of: Callable[..., Any], k: int, sample: int, seed: int,
    progress: bool,
) -> np.ndarray:  # fmt: skip
    from tqdm import tqdm

    shares = []
    queries = queries_of(view, _drawn(view, sample, seed))
    for chunk, query in tqdm(queries, desc="recall", unit="query", disable=not progress, leave=False):
        # One more than k, for the passage finds itself.
        near, best = (part[:k] for part in _without(chunk, exact_of(view, query, k + 1)))
        if not len(near):
            continue  # nothing shares a dimension with it: nothing can be missed
        ours = _without(chunk, view.search(query, k + 1))[0][:k]
        scores = view.scores(query, ours)  # again, for blocks score by rounded weights
        right = int((scores >= best[-1] - TIED * np.abs(best).max()).sum())
        shares.append(min(right, len(near)) / len(near))
    return np.array(shares)


def _without(chunk: int, found: Found) -> Found:
    others = found[0] != chunk
    return found[0][others], found[1][others]


def _sparse_queries(view: Any, chunks: np.ndarray) -> list[tuple[int, Sparse]]:
    """Rows of chunks, put together again from the posting lists of their segments."""
    queries = []
    for segment in view.segments:
        places, rows = segment.rows_of(chunks)
        if not len(rows):
            continue
        number = np.full(segment.rows, -1, dtype=np.int64)
        number[rows] = np.arange(len(rows))
        owner = number[segment.pack["rows"]]
        at = np.flatnonzero(owner >= 0)
        column = np.searchsorted(segment.pack["indptr"], at, side="right") - 1
        dims, values = segment.pack["dims"][column], segment.pack["values"][at].astype(np.float32)
        for i, place in enumerate(places.tolist()):
            own = np.flatnonzero(owner[at] == i)
            own = np.sort(own[np.argsort(-np.abs(values[own]), kind="stable")[:QUERY]])  # ascending dimensions again
            shape = (1, int(dims[own].max(initial=-1)) + 1)
            query = Sparse(np.array([0, len(own)]), dims[own], values[own], shape)
            queries.append((int(chunks[place]), query))
    return queries


def _multi_queries(view: Any, chunks: np.ndarray) -> list[tuple[int, np.ndarray]]:
    queries = []
    for segment in view.segments:
        pack = segment.pack
        places, rows = segment.rows_of(chunks)
        for place, row in zip(places.tolist(), rows.tolist()):
            low, high = (int(end) for end in pack["offsets"][[row, row + 1]])
            high = min(high, low + QUERY)
            bag = pack["rows"][low:high].astype(np.float32)
            if "scales" in pack:
                bag *= pack["scales"][low:high, None]
            if len(bag):
                queries.append((int(chunks[place]), bag))
    return queries


def _sparse_exactly(view: Any, query: Sparse, k: int) -> Found:
    found = []
    for i in range(len(view.segments)):
        columns, weights = view._known(i, query)
        if len(columns):
            found.append(view._top(i, columns, weights, k, None))
    best: Found = view._best(found, k)
    return best


def _multi_exactly(view: Any, query: np.ndarray, k: int) -> Found:
    found = []
    for i, segment in enumerate(view.segments):
        allow = view._allow(i, None)
        rows = np.arange(segment.rows) if allow is None else np.flatnonzero(allow)
        scores = view._score(i, query, rows)
        there = np.isfinite(scores)
        found.append((segment.chunks[rows[there]], scores[there]))
    best: Found = view._best(found, k)
    return best


_queries_of: dict[str, Callable[..., Any]] = {
    "dense": lambda view, chunks: list(zip(chunks.tolist(), view.rows(chunks))),
    "sparse": _sparse_queries, "multi": _multi_queries,
}  # fmt: skip
_exact_of: dict[str, Callable[..., Found]] = {
    "dense": lambda view, query, k: view.scan(query, k), "sparse": _sparse_exactly, "multi": _multi_exactly
}  # fmt: skip
