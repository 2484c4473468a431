"""Batches of queries whose documents are easily taken for one another: what a re-ranker has to tell apart.

A first search gives each query a list of candidates. Queries and documents, linked where a document is in a query's
list, make a bipartite graph, and a batch is a neighbourhood of it. It begins with a random query; with a query come its
positive and one of its candidates as a negative, not one that the batch has already; the other queries that have this
negative among their candidates go into a container, which gives the next query: the last that came (a stack: a random
walk) or the first (a queue: a snowball). Every query is in one batch of an epoch.

Sheets of the method leave open which ranks link a negative to queries. The authors' code takes two windows of the same
lists, one for negatives and one for links, both from rank 0 to 200 unless told otherwise; so it is here.

What answers several queries of such a batch is no rarity in it, so cells of known answers are always masked.

Source: "Progressively Optimized Bi-Granular Document Representation for Scalable Embedding Based Retrieval" (BiDR,
arXiv 2201.05409, WWW 2022), locality-centric sampling.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from inlay.errors import BadInput

__all__ = ["Batches", "LocalityBatches", "PairBatch", "Positives", "RandomBatches"]

Walk = Literal["snowball", "random_walk"]
TRIES = 8  # draws of a negative that is free, before all that are free are listed


class Positives:
    """Which documents answer which query.

    Args:
        pairs: integers [n, 2], number of a query and of a document; in any order, repeated ones count once.
        queries: how many there are; by default up to the highest that has an answer.
        documents: likewise.
    """

    def __init__(self, pairs: Any, queries: int | None = None, documents: int | None = None) -> None:
        pairs = np.asarray(pairs)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu" or not len(pairs):
            raise BadInput(
                f"positives are pairs of integers [n, 2], n at least 1; got {pairs.dtype} {list(pairs.shape)}"
            )
        least = pairs.min(axis=0)
        if (least < 0).any():
            raise BadInput(f"numbers of queries and documents begin at 0, got {int(least.min())}")
        pairs = np.unique(pairs.astype(np.int64), axis=0)
        highest = pairs.max(axis=0)
        for name, count, top in (("queries", queries, highest[0]), ("documents", documents, highest[1])):
            if count is not None and count <= top:
                raise BadInput(f"a pair names number {top} of {count} {name}; numbers begin at 0")
        self.queries = int(highest[0]) + 1 if queries is None else int(queries)
        self.documents = int(highest[1]) + 1 if documents is None else int(documents)
        self.answers = pairs[:, 1]
        self.starts = np.zeros(self.queries + 1, dtype=np.int64)
        np.cumsum(np.bincount(pairs[:, 0], minlength=self.queries), out=self.starts[1:])

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        return f"Positives({len(self)} pairs, queries={self.queries}, documents={self.documents})"

    def __getitem__(self, query: int) -> np.ndarray:
        """Documents that answer a query, ascending."""
        return self.answers[self.starts[query] : self.starts[query + 1]]

    @property
    def asked(self) -> np.ndarray:
        """Queries that have an answer, ascending."""
        return np.flatnonzero(np.diff(self.starts))

    def known(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Bool [q, d]: whether document j answers query i. Numbers may repeat."""
        order = np.argsort(documents, kind="stable")
        held = documents[order]
        counts = self.starts[queries + 1] - self.starts[queries]
        answers = self.answers[_ranges(self.starts[queries], counts)]
        first = np.searchsorted(held, answers, side="left")
        times = np.searchsorted(held, answers, side="right") - first
        table = np.zeros((len(queries), len(documents)), dtype=bool)
        table[np.repeat(np.repeat(np.arange(len(queries)), counts), times), order[_ranges(first, times)]] = True
        return table


class PairBatch(NamedTuple):
    """Queries, and the documents that all of them are compared with.

    Attributes:
        queries: int64 [B].
        documents: int64 [B + B·n]: a positive of each query, in their order, then n negatives of each.
        keep: bool [B, B + B·n], cells that count: query i's own positive, and what is not known to answer it.
    """

    queries: np.ndarray
    documents: np.ndarray
    keep: np.ndarray


class Batches(Protocol):
    """What heads are trained on: epochs of batches, of numbers of rows."""

    positives: Positives

    def __len__(self) -> int: ...
    def epoch(self) -> Iterator[PairBatch]: ...


class RandomBatches:
    """Queries in random order, each with one of its positives and some negatives.

    Args:
        positives: which documents answer which query.
        lists: candidates of each query, int [queries, width], -1 where there is none (see `mined_lists`): negatives are
            drawn from them ("hard"). None draws them from all documents.
        size: queries of a batch.
        negatives: of each query.
        seed: of everything that is drawn.
    """

    def __init__(
        self, positives: Positives, lists: Any = None, *, size: int = 256, negatives: int = 1, seed: int = 0
    ) -> None:
        for name, value, least in (("size", size, 1), ("negatives", negatives, 0), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise BadInput(f"{name} must be an integer of {least} or more, got {value!r}")
        self.positives, self.size, self.negatives, self.seed = positives, int(size), int(negatives), int(seed)
        self.lists = None if lists is None else _packed(lists, positives, "lists")
        self._random = np.random.default_rng(seed)

    def __repr__(self) -> str:
        kind = "all documents" if self.lists is None else f"lists of {self.lists.shape[1]}"
        return (
            f"{type(self).__name__}({self.positives!r}, {kind}, size={self.size}, negatives={self.negatives}, "
            f"seed={self.seed})"
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.positives.asked) // self.size)

    def epoch(self) -> Iterator[PairBatch]:
        """Batches in which every query that has an answer comes once."""
        order = self._random.permutation(self.positives.asked)
        for low in range(0, len(order), self.size):
            queries = order[low : low + self.size]
            own = np.array([self._positive(query) for query in queries])
            negatives: list[int] = []
            for query in queries:
                negatives.extend(self._negatives(int(query), set()))
            yield self._batch(queries, own, negatives)

    def _batch(self, queries: np.ndarray, own: np.ndarray, negatives: list[int]) -> PairBatch:
        documents = np.concatenate([own, np.array(negatives, dtype=np.int64)])
        keep = ~self.positives.known(queries, documents)
        # Another query's copy of a row's own positive stays masked; the row's own cell is its target.
        keep[np.arange(len(queries)), np.arange(len(queries))] = True
        return PairBatch(queries, documents, keep)

    def _positive(self, query: int) -> int:
        low, high = self.positives.starts[query], self.positives.starts[query + 1]
        return int(self.positives.answers[low if high - low == 1 else self._random.integers(low, high)])

    def _negatives(self, query: int, taken: set[int]) -> list[int]:
        """Negatives of a query that are not taken; random documents where its list has not enough."""
        found: list[int] = []
        if self.lists is not None and self.negatives:
            row = self.lists[query]
            count = int(np.searchsorted(row < 0, True))
            for place in self._random.integers(0, count, TRIES * self.negatives) if count else ():
                document = int(row[place])
                if document not in taken and document not in found:
                    found.append(document)
                    if len(found) == self.negatives:
                        return found
            free = [int(one) for one in row[:count] if int(one) not in taken and int(one) not in found]
            missing = self.negatives - len(found)
            found.extend(free[i] for i in self._random.permutation(len(free))[:missing])
        while len(found) < self.negatives:  # where it answers the query, the cell is masked
            found.append(int(self._random.integers(self.positives.documents)))
        return found


class LocalityBatches(RandomBatches):
    """Queries that are linked by candidates they share, each with one of its positives and some candidates.

    Args:
        positives: which documents answer which query.
        lists: candidates of each query, int [queries, width], -1 where there is none, without its positives.
        links: lists that say which queries a negative leads to; by default the same.
        walk: `snowball` goes on with the query that has waited longest, `random_walk` with the one that came last.
        size: queries of a batch.
        negatives: of each query.
        seed: of everything that is drawn.
    """

    def __init__(
        self, positives: Positives, lists: Any, *, links: Any = None, walk: Walk = "snowball", size: int = 256,
        negatives: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        if walk not in get_args(Walk):
            raise BadInput(f"walk must be one of {', '.join(get_args(Walk))}, got {walk!r}")
        if lists is None or negatives == 0:
            raise BadInput("neighbourhoods are made by candidates: give lists, and at least one negative a query")
        super().__init__(positives, lists, size=size, negatives=negatives, seed=seed)
        self.walk = walk
        linked = self.lists if links is None else _packed(links, positives, "links")
        assert linked is not None
        query, place = np.nonzero(linked >= 0)
        document = linked[query, place]
        self._linked = query[np.argsort(document, kind="stable")]  # queries by document
        self._starts = np.zeros(positives.documents + 1, dtype=np.int64)
        np.cumsum(np.bincount(document, minlength=positives.documents), out=self._starts[1:])

    def epoch(self) -> Iterator[PairBatch]:
        """Batches in which every query that has an answer comes once."""
        order = self._random.permutation(self.positives.asked)
        left = np.zeros(self.positives.queries, dtype=bool)
        left[order] = True
        at, count = 0, len(order)
        while count:
            waiting: deque[int] = deque()
            queries: list[int] = []
            own: list[int] = []
            negatives: list[int] = []
            taken: set[int] = set()
            while len(queries) < self.size and count:
                query = self._next(waiting, left)
                if query < 0:
                    while not left[order[at]]:
                        at += 1
                    query = int(order[at])
                left[query] = False
                count -= 1
                queries.append(query)
                own.append(self._positive(query))
                taken.add(own[-1])
                chosen = self._negatives(query, taken)
                negatives.extend(chosen)
                taken.update(chosen)
                for document in chosen:
                    others = self._linked[self._starts[document] : self._starts[document + 1]]
                    others = others[left[others]]
                    waiting.extend(self._random.permutation(others).tolist())
            yield self._batch(np.array(queries), np.array(own), negatives)

    def _next(self, waiting: deque[int], left: np.ndarray) -> int:
        """The next query that waits and is still to come, or -1."""
        while waiting:
            query = waiting.pop() if self.walk == "random_walk" else waiting.popleft()
            if left[query]:
                return query
        return -1


def _packed(lists: Any, positives: Positives, name: str) -> np.ndarray:
    """Lists int64 [queries, width] in which what is -1 stands last."""
    lists = np.asarray(lists)
    if lists.ndim != 2 or len(lists) != positives.queries or lists.dtype.kind not in "iu":
        raise BadInput(
            f"{name} must be integers [{positives.queries}, width], a row a query; got {lists.dtype} "
            f"{list(lists.shape)}"
        )
    if lists.size and (lists.max() >= positives.documents or lists.min() < -1):
        wrong = int(lists.max()) if lists.max() >= positives.documents else int(lists.min())
        raise BadInput(f"{name} name document {wrong}; documents are 0 to {positives.documents - 1}, and -1 is none")
    lists = lists.astype(np.int64)
    if (lists >= 0).all():
        return lists
    return np.take_along_axis(lists, np.argsort(lists < 0, axis=1, kind="stable"), axis=1)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers starts[i] … starts[i] + counts[i] − 1 of every i, one after another."""
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)
