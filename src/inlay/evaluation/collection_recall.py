"""Whether a collection's indexes find what they should, and whether a graph would: `inlay doctor --recall`.

Three questions of one collection: what its own searches find of what an exact search finds; how hard its dense rows
are for a graph; and what a graph built over a sample of them would lose, with rows inserted as they were added and
with those of highest local intrinsic dimension first. Queries are the collection's own passages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.collection.recall_check import SpaceRecall, checked_spaces, dense_rows
from inlay.errors import MissingExtra
from inlay.evaluation.difficulty import IndexDifficulty, index_difficulty
from inlay.evaluation.measures import Estimate, mean_interval
from inlay.evaluation.orders import OrderEffect, order_effect

if TYPE_CHECKING:
    from inlay.collection import Collection

__all__ = ["CollectionRecall", "collection_recall"]

ORDERS = ("given", "lid-desc")
HELD_OUT = 200  # rows that are kept out of the graph, to ask it with
FEWEST = 100  # rows from which a graph says anything
ANCHORS, AMONG, NEIGHBOURS = 2000, 20_000, 100


@dataclass(frozen=True)
class CollectionRecall:
    """What `collection_recall` found.

    Args:
        spaces: each space as it is searched.
        difficulty: of the dense rows, or of a sample of them; None where there are none, or hardly any.
        order: graphs over a sample of the dense rows; None where there are too few, or no engine.
        remark: why there are no graphs, in words; empty where there are.
    """

    spaces: list[SpaceRecall]
    difficulty: IndexDifficulty | None
    order: OrderEffect | None
    remark: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found: dict[str, Any] = {"spaces": {}}
        for one in self.spaces:
            entry: dict[str, Any] = {"kind": one.kind, "searched_by": one.how, "exact": one.exact, "rows": one.rows}
            entry |= {"pending": one.pending, "k": one.k}
            if not one.exact:
                entry["queries"] = len(one.recall)
                if len(one.recall):
                    mean, low, high = _interval(one.recall)
                    entry |= {"recall": round(mean, 4), "interval": [round(low, 4), round(high, 4)]}
            found["spaces"][one.space] = entry
        if self.difficulty is not None:
            found["difficulty"] = self.difficulty.to_dict()
        if self.order is not None:
            found["graph"] = self.order.to_dict()
        if self.remark:
            found["remark"] = self.remark
        return found

    def lines(self) -> Iterator[str]:
        """The same as sentences, for a terminal."""
        for one in self.spaces:
            waiting = f"; {one.pending:,} passages have no row yet" if one.pending else ""
            head = f"{one.space}: {one.rows:,} rows, searched by {one.how}"
            if one.exact:
                yield f"{head}: exact{waiting}"
            elif not len(one.recall):
                yield f"{head}: not measured, for rows are not kept or have no neighbours{waiting}"
            else:
                mean, low, high = _interval(one.recall)
                yield (
                    f"{head}: recall@{one.k} {mean:.3f} ({low:.3f} to {high:.3f}, "
                    f"{len(one.recall)} passages as queries){waiting}"
                )
        if self.difficulty is not None:
            d = self.difficulty
            yield (
                f"intrinsic dimension: LID {d.lid_mean:.1f} in the mean ({len(d.anchors):,} of {d.rows:,} rows); "
                f"{d.pca99} of {d.dim} principal components hold 99% of the variance; hubness {d.hubness:.1f}"
            )
        if self.order is not None:
            yield f"a graph (HNSW) over {self.order.rows:,} rows would find, recall@{self.order.k}:"
            yield f"  {'ef':>4}  {'as added':>9}  {'highest LID first':>17}"
            (backend,) = self.order.recall
            for ef in self.order.efs:
                given, first = (self.order.mean(backend, order, ef) for order in ORDERS)
                yield f"  {ef:>4}  {given:>9.3f}  {first:>17.3f}"
        if self.remark:
            yield self.remark


def collection_recall(
    collection: Collection,
    k: int = 10,
    *,
    sample: int = 100,
    rows: int = 5000,
    efs: Sequence[int] = (10, 40, 100),
    seeds: int = 3,
    backend: str = "usearch",
    seed: int = 0,
    progress: bool = False,
) -> CollectionRecall:
    """Compare a collection's searches with exact ones, and with graphs.

    Args:
        collection: an open one.
        k: neighbours asked for.
        sample: passages that are asked with.
        rows: dense rows that graphs are built over, at most; more take longer and say more.
        efs: candidates kept during a search of a graph.
        seeds: graphs in each order.
        backend: engine of the graphs, see `order_effect`.
        seed: of the samples.
        progress: show bars.
    """
    spaces = checked_spaces(collection, k, sample=sample, seed=seed, progress=progress)
    drawn = dense_rows(collection, max(AMONG, rows + HELD_OUT), seed=seed)
    if drawn is None:
        return CollectionRecall(spaces, None, None, "There are no dense rows to build a graph over.")
    vectors, metric = drawn
    if len(vectors) < FEWEST:
        return CollectionRecall(
            spaces, None, None, f"{len(vectors)} dense rows are too few for a graph; a scan of them all costs nothing."
        )
    difficulty = index_difficulty(vectors, min(NEIGHBOURS, len(vectors) - 1), ANCHORS, metric=metric, seed=seed)  # type: ignore[arg-type]
    random = np.random.default_rng(seed)
    asked = min(HELD_OUT, len(vectors) // 5)
    few = random.permutation(len(vectors))[: rows + asked]
    inserted, queries = np.sort(few[asked:]), few[:asked]  # in order of addition
    order, remark = None, ""
    try:
        order = order_effect(
            vectors[inserted], vectors[queries], ORDERS, seeds, (backend,), k=min(k, len(inserted)), efs=efs,
            metric=metric, progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
    except MissingExtra as error:
        remark = str(error)
    if order is not None and len(inserted) < len(vectors) - asked:
        remark = "A graph over more rows finds less at the same ef."
    return CollectionRecall(spaces, difficulty, order, remark)


def _interval(values: np.ndarray) -> Estimate:
    return mean_interval(values)
