"""Multi-vector rows on disk, read while the candidates are still being searched.

    index = IVF(128); index.add(cls)
    store = SlotFile.create("tokens.slots", cls, bow)
    found = ESPN(index, store).search(query_cls, query_tokens, k=10)

1. The index, over one CLS row a document, scans the first lists of a query; what is best so far begins to be read.
2. The other lists are scanned meanwhile. Documents that arrive are scored by the threads that read them.
3. Of the final candidates, those that were not read ahead are read and scored.
4. The best `rerank` candidates are ordered by CLS dot + MaxSim; the others keep the index's order below them, because
   the two scores are not of one scale.

Memory holds the index, nine bytes a document and five a block; the disk holds the tokens.

What reading ahead gains depends on what a read is made of. The paper's reads are waiting, which the search hides.
Blocks that are asked for together from a fast (virtual) disk come back almost at once, and what is left of a read is
work: about 6 µs of a processor to ask for a block, 2 to copy it, and scoring. Work is hidden only where a second core
is free. On two quiet cores, where the search took as long as the reads, reading ahead took 0.88 of the time of reading
after the search with `step=0.3` and 0.81 with 0.1 (1.37 and 1.27 of that of memory); where the search took a fifth of
the reads, or other work kept both cores busy, nothing was gained. See `inlay reproduce espn`.

Source: ESPN (arXiv 2312.05417), whose score is that of ColBERTer (arXiv 2203.13088).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inlay.errors import BadInput, SpaceMismatch
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.indexes.slot_file import Reading, SlotFile, Slots
from inlay.kernels.maxsim import maxsim
from inlay.types import Neighbours, Ragged

__all__ = ["ESPN", "Reads"]


@dataclass
class Reads:
    """What the searches of an `ESPN` did so far.

    Attributes:
        queries: how many.
        wanted: documents that were to be re-ranked.
        hits: those of them that were read ahead.
        early: those of them that were scored already when the scan ended.
        ahead: documents read ahead, needed or not.
        moved: bytes read.
        searched: seconds of the candidate search.
        waited: seconds that were spent waiting for documents after it.
    """

    queries: int = 0
    wanted: int = 0
    hits: int = 0
    early: int = 0
    ahead: int = 0
    moved: int = 0
    searched: float = 0.0
    waited: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the wanted documents that were read ahead."""
        return self.hits / max(1, self.wanted)

    @property
    def bytes_per_query(self) -> float:
        """Bytes read for a query."""
        return self.moved / max(1, self.queries)

    @property
    def waited_ms(self) -> float:
        """Milliseconds a query waited after its search."""
        return 1e3 * self.waited / max(1, self.queries)


class ESPN:
    """An index over CLS rows, and documents that are read ahead of its end.

    Args:
        index: of the CLS rows, in the order of the store's documents. To read ahead it needs `probe`, `probes` and
            `sizes` as `IVF` has them; any other index does with `step=0`.
        store: the documents. If they have CLS rows, their dot product with the query's takes part in the score.
        candidates: documents that the index finds (K in the paper).
        rerank: how many of these are re-ranked (R): 64 or 128 cost little quality and move a fraction of the bytes;
            None for all.
        step: share of the lists to be scanned before documents are read; 0 reads when the search is over.
        cls_weight: what the CLS dot product counts beside MaxSim.
    """

    def __init__(
        self,
        index: Any,
        store: SlotFile,
        *,
        candidates: int = 1000,
        rerank: int | None = 64,
        step: float = 0.3,
        cls_weight: float = 1.0,
    ) -> None:
        for name, value in (("candidates", candidates), ("rerank", 1 if rerank is None else rerank)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name} must be a positive integer, got {value!r}")
        if not isinstance(step, int | float) or not 0 <= step <= 1:
            raise BadInput(f"step must be a share of the lists from 0 to 1, got {step!r}")
        if not isinstance(cls_weight, int | float) or not np.isfinite(cls_weight):
            raise BadInput(f"cls_weight must be a finite number, got {cls_weight!r}")
        if step and not hasattr(index, "probe"):
            raise BadInput(f"{type(index).__name__} has no probe to look at half way; take an IVF, or step=0")
        if not isinstance(store, SlotFile):
            raise BadInput(f"store must be a SlotFile, got {type(store).__name__}")
        if len(index) != len(store):
            raise BadInput(
                f"the index has {len(index)} rows, the store {len(store)} documents; build both from the same"
            )
        if store.cls_dim and store.cls_dim != index.dim:
            raise SpaceMismatch(f"the index has {index.dim} dimensions, the store's CLS rows have {store.cls_dim}")
        self.index, self.store = index, store
        self.candidates, self.rerank, self.step, self.cls_weight = candidates, rerank, step, cls_weight
        self._reads, self._lock = Reads(), threading.Lock()

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        return (
            f"ESPN({self.index!r}, {self.store!r}, candidates={self.candidates}, rerank={self.rerank}, "
            f"step={self.step}, cls_weight={self.cls_weight})"
        )

    @property
    def nbytes(self) -> int:
        """Bytes in memory: the index, and where documents lie."""
        return int(self.index.nbytes) + self.store.resident

    @property
    def reads(self) -> Reads:
        """What was read so far, a copy."""
        with self._lock:
            return replace(self._reads)

    def search(
        self, cls: np.ndarray, tokens: Ragged | np.ndarray, k: int, *, allow: np.ndarray | None = None
    ) -> Neighbours:
        """The k best documents of each query. Several threads may search at once.

        Args:
            cls: CLS rows of the queries, [q, dim], or [dim] for one.
            tokens: their token rows: a `Ragged` of q, or [tokens, dim] for one query.
            k: how many; where fewer were found, the rest is id -1 with score -inf.
            allow: bool [n], the documents that may be returned.

        Returns:
            Scores of re-ranked documents are CLS dot + MaxSim; a document without tokens has its CLS dot alone. The
            others' are the index's, moved as a whole so that they go on where the re-ranked end.
        """
        queries = checked_rows(cls, self.index.dim, what="query")
        k, bags = checked_k(k), self._bags(tokens, len(queries))
        allow = checked_mask(allow, len(self))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for i, query in enumerate(queries):
            found, near = self._one(query, bags[i], max(k, self.candidates), allow)
            count = min(k, len(found))
            ids[i, :count], scores[i, :count] = found[:count], near[:count]
        return Neighbours(scores, ids)

    def _one(
        self, query: np.ndarray, tokens: np.ndarray, candidates: int, allow: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and scores of one query's candidates, best first."""
        limit = candidates if self.rerank is None else min(self.rerank, candidates)
        began = time.perf_counter()
        early = _Scored(self, query, tokens)
        if self.step:
            probes = max(1, min(self.index.probes, len(self.index.sizes)))
            stops = [max(1, min(probes, round(self.step * probes))), probes]
            looks = self.index.probe(query, candidates, stops, allow=allow)
            early.start(_found(next(looks))[0][:limit])
            ids, near = _found(next(looks))
        else:
            ids, near = _found(self.index.search(query, candidates, allow=allow))
        searched = time.perf_counter()
        head = ids[:limit]
        known = np.isin(head, early.ids)
        in_time = early.arrived(head[known])
        late = _Scored(self, query, tokens)
        late.start(head[~known])
        early.wait()
        late.wait()
        waited = time.perf_counter() - searched
        exact = np.empty(len(head), dtype=np.float32)
        exact[known], exact[~known] = early.of(head[known]), late.scores
        # Equal scores keep the order the index gave.
        order = np.argsort(-exact, kind="stable")
        tail = near[limit:]
        if len(tail):
            tail = exact.min() - (near[limit - 1] - tail)
        with self._lock:
            reads = self._reads
            reads.queries += 1
            reads.wanted += len(head)
            reads.hits += int(known.sum())
            reads.early += in_time
            reads.ahead += len(early.ids)
            reads.moved += early.moved + late.moved
            reads.searched += searched - began
            reads.waited += waited
        return np.concatenate([head[order], ids[limit:]]), np.concatenate([exact[order], tail])

    def _bags(self, tokens: Any, queries: int) -> Ragged:
        if isinstance(tokens, Ragged):
            offsets = np.asarray(tokens.offsets, dtype=np.int64)
            rising = len(offsets) and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
            if not rising or offsets[-1] != len(tokens.values):
                raise BadInput(f"offsets of the queries' tokens must rise from 0 to their {len(tokens.values)} rows")
        else:
            tokens = checked_rows(tokens, self.store.bow_dim, what="query token")
            tokens = Ragged(tokens, np.array([0, len(tokens)]))
        if len(tokens) != queries:
            raise BadInput(f"there are {queries} CLS rows and token rows of {len(tokens)} queries; give both of each")
        values = checked_rows(tokens.values, self.store.bow_dim, what="query token")
        return Ragged(values, tokens.offsets)


class _Scored:
    """Documents of one query on their way, each scored by the thread that read it."""

    def __init__(self, pipeline: ESPN, query: np.ndarray, tokens: np.ndarray) -> None:
        self.store, self.weight = pipeline.store, np.float32(pipeline.cls_weight)
        self.query, self.tokens = query, tokens
        self.ids = np.empty(0, dtype=np.int64)
        self.scores = np.empty(0, dtype=np.float32)
        self._there = np.empty(0, dtype=bool)
        self._reading: Reading | None = None

    def start(self, ids: np.ndarray) -> None:
        if len(ids):
            self.ids, self._order = ids, np.argsort(ids)
            self.scores, self._there = np.empty(len(ids), dtype=np.float32), np.zeros(len(ids), dtype=bool)
            self._reading = self.store.start(ids, self._score)

    def wait(self) -> None:
        if self._reading is not None:
            self._reading.wait()

    @property
    def moved(self) -> int:
        return 0 if self._reading is None else self._reading.nbytes

    def arrived(self, ids: np.ndarray) -> int:
        """How many of these ids, all of them among ours, are scored by now."""
        return int(self._there[self._places(ids)].sum())

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Scores of these ids, all of them among ours."""
        return self.scores[self._places(ids)]

    def _places(self, ids: np.ndarray) -> np.ndarray:
        if not len(ids):
            return np.empty(0, dtype=np.int64)
        return self._order[np.searchsorted(self.ids, ids, sorter=self._order)]

    def _score(self, places: np.ndarray, slots: Slots) -> None:
        near = maxsim(self.tokens, slots.bow.values, slots.bow.offsets)
        near[np.diff(slots.bow.offsets) == 0] = 0
        if slots.cls.shape[1]:
            near += self.weight * (slots.cls.astype(np.float32) @ self.query)
        self.scores[places], self._there[places] = near, True


def _found(best: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores of one query, without what was not found."""
    there = best.ids[0] >= 0
    return best.ids[0][there], best.scores[0][there]
