"""A judged set inside corpora of growing size: CoRE's builder, and what a search brings up there.

Loss by compression is small among few documents and grows with their number, so it is measured at several sizes of
which each holds the ones before it. What does not change is what matters to a query: its relevant documents, and the
hardest of those that are not, its distractors. The rest is drawn at random.

1. Queries with fewer than `relevant` documents of at least `grade` are left out; of the others' exactly that many stay.
2. Distractors: the runs of several systems, fused by reciprocal ranks; of each query's best, as many as are wanted and
   as any query has relevant ones, those that are relevant to this query are taken out (others' stay), and the first
   `distractors` kept.
3. Random documents fill up to each size. None is relevant to a query that stays.

The smallest size is shuffled, so that a row's place says nothing and ties favour nobody; larger ones go on from it.

Source: "CoRECT: A Framework for Evaluating Embedding Compression Techniques at Scale" (arXiv 2510.19340).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.retrieval_set import Qrels, RetrievalSet
from inlay.search.fusion import reciprocal_rank

__all__ = ["Composition", "GrownCorpus", "grow_corpus"]


class Composition(NamedTuple):
    """What the first k of each query are: counts float64 [queries], in the order of the judgments. They sum to k, or to
    what was found where that was less.
    """

    relevant: np.ndarray
    distractor: np.ndarray
    random: np.ndarray

    def mean(self) -> tuple[float, float, float]:
        """Mean counts over queries: RC@k."""
        return float(self.relevant.mean()), float(self.distractor.mean()), float(self.random.mean())


@dataclass(frozen=True)
class GrownCorpus:
    """Nested corpora.

    Args:
        ids: document ids of the largest; the first n are the corpus of size n.
        sizes: ascending.
        qrels: query → its sampled relevant documents and their grades.
        distractors: query → its distractors, hardest first.
        seed: of what was drawn.
    """

    ids: list[str] = field(repr=False)
    sizes: tuple[int, ...]
    qrels: Qrels = field(repr=False)
    distractors: dict[str, list[str]] = field(repr=False)
    seed: int = 42

    @property
    def core(self) -> set[str]:
        """Documents that are relevant or a distractor to some query."""
        own = {document for grades in self.qrels.values() for document in grades}
        return own.union(*self.distractors.values())

    def at(self, size: int, texts: Mapping[str, str], queries: Mapping[str, str], name: str = "") -> RetrievalSet:
        """One of the corpora as a retrieval set, for `evaluate` and `inlay eval`.

        Args:
            size: one of `sizes`.
            texts: of every document up to it, by id.
            queries: texts by id.
            name: of the set.
        """
        if size not in self.sizes:
            raise BadInput(f"size {size!r} is not one of {', '.join(map(str, self.sizes))}")
        missing = next((key for key in self.ids[:size] if key not in texts), None)
        if missing is not None:
            raise BadInput(f"there is no text of document {missing!r}; give the texts of all {size:,}")
        return RetrievalSet({key: texts[key] for key in self.ids[:size]}, queries, self.qrels, name or f"grown-{size}")

    def composition(self, run: Mapping[str, Mapping[str, float]], k: int = 10) -> Composition:
        """How many of the first k are relevant, distractors of the query, or neither ("random"): RC@k.

        Args:
            run: query → document → score, as `Run` has it. Equal scores go by id, descending, as in the measures.
            k: how many are looked at.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise BadInput(f"k must be a positive whole number, got {k!r}")
        if not any(query in run for query in self.qrels):
            raise BadInput("the run answers none of the judged queries")
        counts = np.zeros((3, len(self.qrels)))
        for place, (query, grades) in enumerate(self.qrels.items()):
            found = run.get(query, {})
            hard = set(self.distractors[query])
            for document in sorted(found, key=lambda key: (found[key], key), reverse=True)[:k]:
                counts[0 if document in grades else 1 if document in hard else 2, place] += 1
        return Composition(*counts)


def grow_corpus(
    qrels: Mapping[str, Mapping[str, int]], runs: Sequence[Mapping[str, Mapping[str, float]]], others: Sequence[str],
    *, relevant: int = 10, distractors: int = 100, sizes: Sequence[int] = (10_000, 100_000), grade: int = 1,
    seed: int = 42,
) -> GrownCorpus:  # fmt: skip
    """Build nested corpora around a judged set.

    Args:
        qrels: query → document → grade.
        runs: answers of several systems over the judged set, query → document → score, deep enough to leave
            `distractors` once relevant ones are out.
        others: ids of the documents to fill up with. Those judged relevant to a query, and those already in, are
            passed over.
        relevant: documents a query.
        distractors: documents a query.
        sizes: of the corpora, ascending.
        grade: from which a document is relevant (CoRE: 2 for passages, 1 for documents).
        seed: of what is drawn.

    Raises:
        BadInput: no query has enough relevant documents, the runs are too shallow, or `others` too few.
    """
    sizes = tuple(int(size) for size in sizes)
    if not sizes or sizes[0] < 1 or any(b <= a for a, b in zip(sizes, sizes[1:])):
        raise BadInput(f"sizes must rise and be positive, got {list(sizes)}")
    for name, number, least in (("relevant", relevant, 1), ("distractors", distractors, 0), ("grade", grade, 1)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
            raise BadInput(f"{name} must be a whole number from {least} on, got {number!r}")
    random = np.random.default_rng(seed)
    judged = {query: {d: g for d, g in grades.items() if g >= grade} for query, grades in qrels.items()}
    judged = {query: grades for query, grades in judged.items() if len(grades) >= relevant}
    if not judged:
        most = max((sum(g >= grade for g in grades.values()) for grades in qrels.values()), default=0)
        raise BadInput(f"no query has {relevant} documents of grade {grade} or more (the most is {most}); "
                       "lower relevant or grade")  # fmt: skip
    kept: Qrels = {}
    for query, grades in judged.items():
        keys = sorted(grades)
        chosen = np.sort(random.choice(len(keys), relevant, replace=False))
        kept[query] = {keys[i]: int(grades[keys[i]]) for i in chosen}
    hard = _hardest(judged, runs, distractors) if distractors else {query: [] for query in judged}
    known = {document for grades in judged.values() for document in grades}
    core = sorted({document for grades in kept.values() for document in grades}.union(*hard.values()))
    if len(core) > sizes[0]:
        raise BadInput(f"{len(core)} relevant documents and distractors do not fit into {sizes[0]}; "
                       "take a larger first size, or fewer distractors")  # fmt: skip
    taken = known.union(core)
    free = [document for document in dict.fromkeys(others) if document not in taken]
    wanted = sizes[-1] - len(core)
    if len(free) < wanted:
        raise BadInput(f"{len(free):,} other documents do not fill {sizes[-1]:,}, {wanted:,} are needed; "
                       "bring more, or smaller sizes")  # fmt: skip
    drawn = [free[i] for i in random.permutation(len(free))[:wanted].tolist()]
    first = core + drawn[: sizes[0] - len(core)]
    ids = [first[i] for i in random.permutation(len(first)).tolist()] + drawn[sizes[0] - len(core) :]
    return GrownCorpus(ids, sizes, kept, hard, seed)


def _hardest(judged: Qrels, runs: Sequence[Mapping[str, Mapping[str, float]]], wanted: int) -> dict[str, list[str]]:
    """Of each query, the documents that the runs together put highest and that are not relevant to it."""
    if not runs:
        raise BadInput("distractors come from runs of systems over the judged set; give at least one, or distractors=0")
    deep = wanted + max(map(len, judged.values()))
    hard: dict[str, list[str]] = {}
    for query, grades in judged.items():
        number: dict[str, int] = {}
        lists: dict[str, Any] = {}
        for place, run in enumerate(runs):
            found = run.get(query, {})
            order = sorted(found, key=lambda key: (found[key], key), reverse=True)
            ids = np.array([number.setdefault(key, len(number)) for key in order], dtype=np.int64)
            lists[str(place)] = (ids, np.array([found[key] for key in order], dtype=np.float32))
        keys = list(number)
        pooled = [keys[i] for i in reciprocal_rank(lists).ids[:deep].tolist()]
        hard[query] = [document for document in pooled if document not in grades][:wanted]
        if len(hard[query]) < wanted:
            raise BadInput(f"query {query!r}: the runs leave {len(hard[query])} distractors, {wanted} are wanted; "
                           f"bring runs of depth {deep} or more, or fewer distractors")  # fmt: skip
    return hard
