"""What is tuned: rows, queries, and what a search of them is judged by.

Judged queries are answered by documents: the best passage of a document counts, and the measure is nDCG@k. Without
judgments it is recall@k against an exact search at full precision, where rows as near as the k-th count, whichever of
equals they are.

A task is cut to fewer queries and rows, so that a first look costs little. A cut has the rows that its queries are
judged by and others drawn at random; smaller cuts lie inside larger ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.measures import per_query
from inlay.kernels.dense import normalise, score

__all__ = ["Task", "TunedSpace"]

TIED = 1e-5  # scores closer than this, in units of the best, are equal
DEEPER = 5  # passages asked for each document wanted, where documents have several, at most


@dataclass(frozen=True)
class TunedSpace:
    """Rows of one encoder.

    Args:
        rows: float32 [n, dim].
        queries: float32 [q, dim].
        encode_ms: milliseconds that a query's text takes to become a row.
    """

    rows: np.ndarray
    queries: np.ndarray
    encode_ms: float = 0.0


@dataclass(frozen=True)
class Task:
    """Rows and queries of one encoder or several, and what is right.

    Args:
        spaces: name of the encoder → its rows and queries; all of the same passages and questions. Shares of quality
            are of the first one's full-precision search.
        metric: `cosine` or `dot`.
        documents: id of each passage's document [n]; without it each passage stands for itself.
        judged: for each query, grades of documents by id; None where searches are compared with an exact one.
        own: for each query, the row it was made of, which is no answer; -1 for none.
        total: passages of the collection that the rows are a sample of.
        k: answers looked at.
        seed: of the draw of cuts.
    """

    spaces: dict[str, TunedSpace]
    metric: str = "cosine"
    documents: Sequence[str] | None = None
    judged: Sequence[dict[str, int]] | None = None
    own: np.ndarray | None = None
    total: int = 0
    k: int = 10
    seed: int = 0
    remarks: tuple[str, ...] = ()
    _exact: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.spaces:
            raise BadInput("there is nothing to tune: give rows and queries of one encoder at least")
        shapes = {(len(one.rows), len(one.queries)) for one in self.spaces.values()}
        if len(shapes) > 1:
            raise BadInput("encoders are compared on the same passages and queries, got (rows, queries) of "
                           + ", ".join(map(str, sorted(shapes))))  # fmt: skip
        for name, one in self.spaces.items():
            for what, rows in (("rows", one.rows), ("queries", one.queries)):
                if rows.ndim != 2 or not rows.size:
                    raise BadInput(f"{what} of {name or 'the space'} must be at least one [n, dim], got {rows.shape}")
                if not np.isfinite(rows).all():
                    raise BadInput(f"{what} of {name or 'the space'} hold NaN or infinity; leave these out")
                if not rows.any():
                    raise BadInput(f"all {what} of {name or 'the space'} are zero: no search can tell them apart")
            if one.rows.shape[1] != one.queries.shape[1]:
                raise BadInput(f"rows of {one.rows.shape[1]} numbers against queries of {one.queries.shape[1]}")
        n, q = shapes.pop()
        if self.metric not in ("cosine", "dot"):
            raise BadInput(f"codes are scored by cosine or dot, got metric {self.metric!r}; nothing can be tuned by it")
        if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer) or self.k < 1:
            raise BadInput(f"k must be a positive whole number, got {self.k!r}")
        if self.documents is not None and len(self.documents) != n:
            raise BadInput(f"{len(self.documents)} document ids for {n} rows: one each is due")
        if self.judged is not None:
            if len(self.judged) != q:
                raise BadInput(f"judgments of {len(self.judged)} queries for {q}: one set each is due")
            there = set(self._ids())
            bad = [
                i for i, grades in enumerate(self.judged) if not any(g > 0 and d in there for d, g in grades.items())
            ]
            if bad:
                raise BadInput(f"query {bad[0]} has no relevant document among the rows; leave such queries out")
        if self.own is not None and len(self.own) != q:
            raise BadInput(f"own rows of {len(self.own)} queries for {q}: one each is due, -1 for none")
        if self.judged is None and len(self.spaces) > 1:
            raise BadInput("every encoder agrees with itself: to compare encoders, give judged queries")
        object.__setattr__(self, "total", max(int(self.total), n))

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.spaces.values())).rows)

    @property
    def queries(self) -> int:
        """How many there are."""
        return len(next(iter(self.spaces.values())).queries)

    @property
    def measure(self) -> str:
        """What `quality` measures."""
        return f"nDCG@{self.k}" if self.judged is not None else f"recall@{self.k}"

    @property
    def depth(self) -> int:
        """Passages that a search is asked for, so that k documents are found."""
        most = 1
        if self.judged is not None and self.documents is not None:
            most = min(DEEPER, int(np.unique(np.asarray(self.documents), return_counts=True)[1].max()))
        return min(self.rows, self.k * most + (self.own is not None))

    def cut(self, rows: int, queries: int) -> Task:
        """The same with fewer queries, and about so many rows; all that its queries are judged by stay."""
        if rows >= self.rows and queries >= self.queries:
            return self
        random = np.random.default_rng(self.seed)
        asked = np.sort(random.permutation(self.queries)[: max(1, queries)])
        others = random.permutation(self.rows)
        needed = self._needed(asked)
        few = np.concatenate([needed, others[~np.isin(others, needed)]])[: max(rows, len(needed))]
        kept = np.sort(few)
        own = None
        if self.own is not None:
            place = np.full(self.rows, -1, dtype=np.int64)
            place[kept] = np.arange(len(kept))
            own = np.where(self.own[asked] < 0, -1, place[self.own[asked]])
        spaces = {
            name: TunedSpace(one.rows[kept], one.queries[asked], one.encode_ms) for name, one in self.spaces.items()
        }
        judged = None if self.judged is None else [self.judged[i] for i in asked]
        ids = None if self.documents is None else [self.documents[i] for i in kept]
        ids = [str(i) for i in kept] if ids is None and judged is not None else ids
        return Task(spaces, self.metric, ids, judged, own, self.total, self.k, self.seed)

    def quality(self, encoder: str, found: Sequence[np.ndarray]) -> np.ndarray:
        """What lists of rows, best first, are worth: a value for each query, float64 [q].

        Args:
            encoder: whose rows were searched.
            found: ids of rows for each query, -1 where there is none.
        """
        lists = []
        for i, ids in enumerate(found):
            ids = ids[ids >= 0]
            lists.append(ids if self.own is None else ids[ids != self.own[i]])
        return self._agreement(encoder, lists) if self.judged is None else self._ndcg(lists)

    def _needed(self, asked: np.ndarray) -> np.ndarray:
        """Rows that queries are judged by."""
        own = np.empty(0, dtype=np.int64) if self.own is None else np.unique(self.own[asked])
        own = own[own >= 0]
        if self.judged is None:
            return own
        wanted = {document for i in asked for document, grade in self.judged[i].items() if grade > 0}
        right = np.flatnonzero([document in wanted for document in self._ids()])
        return np.union1d(own, right)

    def _ids(self) -> Sequence[str]:
        return [str(i) for i in range(self.rows)] if self.documents is None else self.documents

    def _ndcg(self, lists: list[np.ndarray]) -> np.ndarray:
        assert self.judged is not None
        ids = self._ids()
        run: dict[str, dict[str, float]] = {}
        for i, found in enumerate(lists):
            best = list(dict.fromkeys(ids[row] for row in found.tolist()))[: self.k]
            run[str(i)] = {document: 1 / rank for rank, document in enumerate(best, start=1)}
        name = f"ndcg@{self.k}"
        return per_query(run, {str(i): grades for i, grades in enumerate(self.judged)}, [name])[name]

    def _agreement(self, encoder: str, lists: list[np.ndarray]) -> np.ndarray:
        scores, least, wanted = self._truth(encoder)
        values = np.ones(len(lists))
        for i in np.flatnonzero(wanted):
            right = int((scores[i, lists[i][: self.k]] >= least[i]).sum())
            values[i] = min(right, wanted[i]) / wanted[i]
        return values

    def _truth(self, encoder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Exact scores float32 [q, n], a query's own row at -inf; what a row must score to be among the k; and how
        many there are.
        """
        if encoder not in self._exact:
            one = self.spaces[encoder]
            rows, queries = one.rows, one.queries
            if self.metric == "cosine":
                rows, queries = normalise(rows), normalise(queries)
            scores = score(np.ascontiguousarray(queries), np.ascontiguousarray(rows))
            if self.own is not None:
                there = np.flatnonzero(self.own >= 0)
                scores[there, self.own[there]] = -np.inf
            wanted = np.minimum(self.k, np.isfinite(scores).sum(axis=1))
            least = np.full(len(scores), np.inf, dtype=np.float32)
            for i in np.flatnonzero(wanted):
                last = np.partition(scores[i], -wanted[i])[-wanted[i]]
                least[i] = last - TIED * np.abs(scores[i][np.isfinite(scores[i])]).max()
            self._exact[encoder] = scores, least, wanted
        return self._exact[encoder]

    def to_dict(self) -> dict[str, Any]:
        """What was measured on, plain values for JSON."""
        return {
            "passages": self.total, "sampled": self.rows, "queries": self.queries, "measure": self.measure,
            "metric": self.metric, "k": self.k, "judged": self.judged is not None,
        }  # fmt: skip
