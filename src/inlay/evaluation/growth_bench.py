"""Codecs over growing corpora: what compression costs, query by query, at each size.

Every codec answers the same queries over the same nested corpora (`grow_corpus`) as float32 does. Scores are cosines of
what codes decode to, best first; measures are kept for each query, so that differences are judged on the same queries
(paired t-test, as CoRECT does) and a share of float32's quality has an interval.

By default a codec is fitted once, on the first rows of the corpus, and queries stay as they are ("asymmetric"); a codec
that was made to compare codes on both sides (`faithful`, `symmetric`) gets coded queries. `fit="batch"` is what the
released framework does: parameters of each batch of 50,000 documents, queries coded anew for each, and lists merged by
scores that are then of different scales. That is wrong in general, and there for reproduction.

Rows are asked for in blocks and may be made on the way: no more than a block of them is held for each codec in turn.

Source: "CoRECT: A Framework for Evaluating Embedding Compression Techniques at Scale" (arXiv 2510.19340).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from inlay.codecs.named import codec as codec_named
from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.corpus_growth import GrownCorpus
from inlay.evaluation.measures import Estimate
from inlay.kernels.dense import normalise
from inlay.kernels.topk import TopK

__all__ = ["FLOAT32", "Cost", "GrowthBench", "Paired", "bench_growth"]

FLOAT32 = "float32"
BLOCK = 16_384
BATCH = 50_000
SAMPLE = 100_000
QUALITY = ("ndcg@10", "recall@100", "recall@1000")
ROLES = ("relevant", "distractor", "random")  # RC@10

Rows = np.ndarray | Callable[[int, int], np.ndarray]


class Paired(NamedTuple):
    """A codec minus float32 on the same queries: mean, t and two-sided p of the paired t-test."""

    mean: float
    t: float
    p: float


class Cost(NamedTuple):
    """Bytes of a row, bytes kept once, and seconds to fit, encode, decode and search."""

    nbytes: int
    fixed: int
    seconds: float


@dataclass(frozen=True)
class GrowthBench:
    """What a run over growing corpora found.

    Args:
        sizes: of the corpora.
        dim: width of the rows.
        values: codec → measure → float64 [sizes, queries]; measures are `QUALITY` as far as k reaches, and `relevant`,
            `distractor` and `random`, counts among the first ten.
        costs: codec → bytes and seconds.
    """

    sizes: tuple[int, ...]
    dim: int
    values: dict[str, dict[str, np.ndarray]] = field(repr=False)
    costs: dict[str, Cost] = field(repr=False)

    @property
    def names(self) -> list[str]:
        """Codecs, float32 first."""
        return list(self.values)

    def mean(self, name: str, measure: str = "ndcg@10", size: int | None = None) -> float:
        """Mean over queries at a size, the largest without one."""
        return float(self._of(name, measure, size).mean())

    def retained(self, name: str, measure: str = "ndcg@10", size: int | None = None, *, seed: int = 0) -> Estimate:
        """A codec's mean as a share of float32's, with its 95% bootstrap interval over queries."""
        from inlay.evaluation.bootstrap import bootstrap_statistic

        ours, theirs = self._of(name, measure, size), self._of(FLOAT32, measure, size)
        if not theirs.sum():
            raise BadInput(f"{measure} of float32 is 0 here, so there is no share of it; take another measure or size")

        def share(weights: np.ndarray) -> float:
            whole = float(weights @ theirs)
            return float(weights @ ours) / whole if whole else 1.0

        return bootstrap_statistic(share, len(ours), seed=seed)

    def paired(self, name: str, measure: str = "ndcg@10", size: int | None = None) -> Paired:
        """The paired t-test of a codec against float32 (extra `sparse`)."""
        return paired_t(self._of(name, measure, size), self._of(FLOAT32, measure, size))

    def adjusted(self, measure: str = "ndcg@10", size: int | None = None) -> dict[str, float]:
        """p of every codec but float32, adjusted for their number by Holm's method."""
        names = [name for name in self.values if name != FLOAT32]
        raw = np.array([self.paired(name, measure, size).p for name in names])
        order = np.argsort(raw, kind="stable")
        steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
        return {names[i]: min(1.0, float(p)) for i, p in zip(order.tolist(), steps.tolist())}

    def composition(self, name: str, size: int | None = None) -> tuple[float, float, float]:
        """RC@10: mean counts of relevant documents, distractors and random ones among the first ten."""
        a, b, c = (self.mean(name, role, size) for role in ROLES)
        return a, b, c

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: means, shares, p and RC@10 by codec and size."""
        measures = [measure for measure in QUALITY if measure in self.values[FLOAT32]]
        table: dict[str, Any] = {}
        for name in self.values:
            cost = self.costs[name]
            own: dict[str, Any] = {"nbytes": cost.nbytes, "fixed": cost.fixed, "seconds": round(cost.seconds, 1)}
            for size in self.sizes:
                at: dict[str, Any] = {one: round(self.mean(name, one, size), 4) for one in measures}
                at["composition"] = [round(count, 3) for count in self.composition(name, size)]
                if name != FLOAT32 and self.mean(FLOAT32, "ndcg@10", size):
                    share = self.retained(name, "ndcg@10", size)
                    at["retained"] = [round(value, 4) for value in share]
                    at["p"] = float(f"{self.paired(name, 'ndcg@10', size).p:.3g}")
                own[str(size)] = at
            table[name] = own
        return {"sizes": list(self.sizes), "dim": self.dim, "codecs": table}

    def draw(self, path: str | Path) -> Path:
        """Draw quality by bytes, by size, and RC@10; see `inlay.evaluation.growth_figure`."""
        from inlay.evaluation.growth_figure import draw_growth

        return draw_growth(self, path)

    def _of(self, name: str, measure: str, size: int | None) -> np.ndarray:
        if name not in self.values:
            raise BadInput(f"no codec {name!r} was measured; there are {', '.join(self.values)}")
        if measure not in self.values[name]:
            raise BadInput(f"{measure!r} was not measured; there are {', '.join(self.values[name])}")
        if size is not None and size not in self.sizes:
            raise BadInput(f"size {size!r} is not one of {', '.join(map(str, self.sizes))}")
        return self.values[name][measure][-1 if size is None else self.sizes.index(size)]


def bench_growth(
    corpus: GrownCorpus, rows: Rows, queries: np.ndarray, codecs: Mapping[str, Any] | Sequence[str], *,
    fit: Literal["corpus", "batch"] = "corpus", symmetric: bool = False, k: int = 1000, sample: int = SAMPLE,
    batch: int = BATCH, progress: bool = False,
) -> GrowthBench:  # fmt: skip
    """Measure codecs at every size of a grown corpus.

    Args:
        corpus: nested corpora with their judgments.
        rows: float32 [documents, dim] in the order of `corpus.ids`, or a function (low, high) → rows[low:high] that
            makes them; it is called block by block, from the first to the last.
        queries: float32 [queries, dim], in the order of `corpus.qrels`.
        codecs: name → codec, not fitted, or names that `inlay.codecs.codec` reads. float32 is added.
        fit: once on the `corpus`, or for each `batch` anew.
        symmetric: code the queries of every codec, not only of those made so.
        k: documents found for a query: recall@1000 needs 1000.
        sample: the first rows that a codec is fitted on, at most.
        batch: documents of a batch.
        progress: show a bar.
    """
    made = _codecs(codecs)
    queries = normalise(np.asarray(queries, dtype=np.float32))
    if queries.ndim != 2 or len(queries) != len(corpus.qrels) or not np.isfinite(queries).all():
        raise BadInput(f"expected a finite row for each of {len(corpus.qrels)} queries, got {list(queries.shape)}")
    if fit not in ("corpus", "batch"):
        raise BadInput(f"fit must be 'corpus' or 'batch', got {fit!r}")
    for name, number in (("k", k), ("sample", sample), ("batch", batch)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise BadInput(f"{name} must be a positive whole number, got {number!r}")
    if k < 10:
        raise BadInput(f"k must be at least 10, for ndcg@10, got {k}")
    read = _reader(rows, len(corpus.ids), queries.shape[1])
    judge = _Judge(corpus, k)
    seconds = dict.fromkeys(made, 0.0)
    if fit == "corpus":
        found = _once(corpus.sizes, read, queries, made, seconds, symmetric, k, sample, progress)
    else:
        # Each size has batches of its own, so that none is fitted on documents of a larger one.
        parts = [_batched(size, read, queries, made, seconds, symmetric, k, batch) for size in corpus.sizes]
        found = {name: [part[name] for part in parts] for name in made}
    values = {name: judge.all(lists) for name, lists in found.items()}
    dim = queries.shape[1]
    costs = {
        name: Cost(int(one.nbytes(dim)), int(getattr(one, "fixed_nbytes", 0)), seconds[name])
        for name, one in made.items()
    }
    return GrowthBench(corpus.sizes, dim, values, costs)


def paired_t(ours: np.ndarray, theirs: np.ndarray) -> Paired:
    """The paired t-test of values of the same queries; without any difference, p is 1."""
    try:
        from scipy.stats import ttest_rel
    except ModuleNotFoundError:
        raise MissingExtra("paired t-tests", "sparse") from None
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or len(ours) < 2:
        raise BadInput(f"a paired test needs values of the same two or more queries, got {ours.shape}, {theirs.shape}")
    difference = ours - theirs
    if np.ptp(difference) == 0:  # the test is not defined: no difference at all, or the same one everywhere
        same = float(difference[0])
        return Paired(same, 0.0, 1.0) if same == 0 else Paired(same, float(np.sign(same) * np.inf), 0.0)
    tested = ttest_rel(ours, theirs)
    return Paired(float(difference.mean()), float(tested.statistic), float(tested.pvalue))


class _Judge:
    """Measures of rows found, positions int64 [queries, k], over the judgments of a corpus."""

    def __init__(self, corpus: GrownCorpus, k: int) -> None:
        wanted = corpus.core
        place = {key: i for i, key in enumerate(corpus.ids[: corpus.sizes[0]]) if key in wanted}
        self.grades = [{place[key]: grade for key, grade in own.items()} for own in corpus.qrels.values()]
        self.hard = [{place[key] for key in corpus.distractors[query]} for query in corpus.qrels]
        self.cuts = [cut for cut in (100, 1000) if cut <= k]
        self.discount = 1 / np.log2(np.arange(2, 12))

    def all(self, lists: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Measure → float64 [sizes, queries]."""
        names = ["ndcg@10", *(f"recall@{cut}" for cut in self.cuts), *ROLES]
        values = {name: np.zeros((len(lists), len(self.grades))) for name in names}
        for size, ids in enumerate(lists):
            for query, (found, grades, hard) in enumerate(zip(ids.tolist(), self.grades, self.hard)):
                gains = np.array([grades.get(one, 0) for one in found[:10]], dtype=np.float64)
                ideal = np.sort(np.array(list(grades.values()), dtype=np.float64))[::-1][:10]
                best = float(ideal @ self.discount[: len(ideal)])
                values["ndcg@10"][size, query] = float(gains @ self.discount[: len(gains)]) / best
                for cut in self.cuts:
                    hits = sum(one in grades for one in found[:cut])
                    values[f"recall@{cut}"][size, query] = hits / len(grades)
                for one in found[:10]:
                    if one >= 0:
                        role = 0 if one in grades else 1 if one in hard else 2
                        values[ROLES[role]][size, query] += 1
        return values


def _codecs(codecs: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if isinstance(codecs, str):
        raise BadInput(f"codecs is a list of names or a mapping, got the string {codecs!r}; write [{codecs!r}]")
    given = dict(codecs) if isinstance(codecs, Mapping) else {name: name for name in codecs}
    made = {FLOAT32: codec_named(FLOAT32)}
    made.update({str(name): codec_named(one) for name, one in given.items() if name != FLOAT32})
    return made


def _reader(rows: Rows, count: int, dim: int) -> Callable[[int, int], np.ndarray]:
    if not callable(rows):
        if getattr(rows, "ndim", 0) != 2 or rows.shape != (count, dim):
            raise BadInput(f"expected rows [{count}, {dim}], one for each document, got {np.shape(rows)}")
        given = rows
        return lambda low, high: normalise(given[low:high])

    def read(low: int, high: int) -> np.ndarray:
        made = np.asarray(rows(low, high))
        if made.shape != (high - low, dim):
            raise BadInput(f"expected rows [{high - low}, {dim}] of documents {low} to {high}, got {list(made.shape)}")
        return normalise(made)

    return read


def _once(
    sizes: tuple[int, ...], read: Callable[[int, int], np.ndarray], queries: np.ndarray, made: dict[str, Any],
    seconds: dict[str, float], symmetric: bool, k: int, sample: int, progress: bool,
) -> dict[str, list[np.ndarray]]:  # fmt: skip
    """Row numbers found at each size, [queries, k], of codecs fitted once; every block is made once."""
    from inlay.encoders.items import bar

    head = read(0, min(sample, sizes[-1]))
    asked, best = {}, {}
    for name, one in made.items():
        began = time.perf_counter()
        one.fit(head)
        asked[name] = _asked(one, queries, symmetric)
        best[name] = TopK(len(queries), min(k, sizes[-1]))
        seconds[name] += time.perf_counter() - began
    found: dict[str, list[np.ndarray]] = {name: [] for name in made}
    edges = sorted({*range(0, sizes[-1], BLOCK), *sizes})
    with bar(sizes[-1], progress=progress, what="rows") as shown:
        for low, high in zip(edges, edges[1:]):
            block = head[low:high] if high <= len(head) else read(low, high)
            for name, one in made.items():
                began = time.perf_counter()
                best[name].offer(_scores(one, asked[name], block), low)
                if high in sizes:
                    found[name].append(best[name].result().ids)
                seconds[name] += time.perf_counter() - began
            shown.update(high - low)
    return found


def _batched(
    size: int, read: Callable[[int, int], np.ndarray], queries: np.ndarray, made: dict[str, Any],
    seconds: dict[str, float], symmetric: bool, k: int, batch: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Row numbers found at one size, [queries, k], of codecs fitted to each batch; scores are merged as they are."""
    best = {name: TopK(len(queries), min(k, size)) for name in made}
    for low in range(0, size, batch):
        block = read(low, min(low + batch, size))
        for name, one in made.items():
            began = time.perf_counter()
            one.fit(block)
            best[name].offer(_scores(one, _asked(one, queries, symmetric), block), low)
            seconds[name] += time.perf_counter() - began
    return {name: one.result().ids for name, one in best.items()}


def _asked(one: Any, queries: np.ndarray, symmetric: bool) -> np.ndarray:
    """Queries where the codec scores, at length 1; coded too where it compares codes with codes."""
    inner = getattr(one, "codec", one)
    mapped = one.mapped(queries) if inner is not one else queries
    if symmetric or getattr(inner, "symmetric", False) or getattr(inner, "faithful", False):
        mapped = np.asarray(inner.decode(inner.encode(mapped)), dtype=np.float32)
    return normalise(mapped)


def _scores(one: Any, asked: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Cosines [queries, rows] with what the codes of rows decode to, in the space behind the codec's map."""
    inner = getattr(one, "codec", one)
    return np.ascontiguousarray(asked @ normalise(inner.decode(one.encode(block))).T)
