"""How good a run is, query by query, and how sure one can be of it.

The measures are those of trec_eval, computed by `ir_measures`: a document is relevant when its grade is above 0; nDCG
takes the grade itself as gain and divides by log2(rank + 1); documents of equal score are ordered by id, descending, so
that no ranking gains by the order in which it happened to list ties. A judged query without an answer counts as 0.

A mean over a few hundred queries is an estimate. Its interval comes from the percentile bootstrap over queries (the
queries are drawn again with replacement), and a difference between two runs is judged on the same queries: a paired
bootstrap interval, and the p-value of a paired randomisation test (each query's difference keeps its size and gets a
random sign; p is the share of such sign patterns that do at least as well as the one observed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inlay.errors import BadInput

if TYPE_CHECKING:
    from jaxtyping import Float64

__all__ = ["MEASURES", "Difference", "Estimate", "compare", "estimate", "mean_interval", "per_query"]

MEASURES = ("ndcg@10", "recall@100", "mrr@10")

_BLOCK = 4_000_000  # resampled values held at once: 32 MB, whatever the number of queries


class Estimate(NamedTuple):
    """A mean over queries and its 95% interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """Run minus baseline: mean over queries, its 95% interval, and the p-value of the randomisation test."""

    mean: float
    low: float
    high: float
    p: float


def per_query(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = MEASURES,
) -> dict[str, Float64[np.ndarray, " queries"]]:
    """Value of each measure for each judged query, in the order of `qrels`.

    Args:
        run: query → document → score. Queries without judgments are left aside.
        qrels: query → document → grade.
        measures: `ndcg@k`, `recall@k`, `precision@k`, `mrr@k`, `map` or `map@k`, in any case.
    """
    import ir_measures

    if not qrels:
        raise BadInput("no judgments: nothing can be measured")
    if not any(query in run for query in qrels):
        ours, theirs = next(iter(run), "nothing"), next(iter(qrels))
        raise BadInput(f"the run answers none of the judged queries (it has {ours!r}, the judgments {theirs!r})")
    wanted = {_measure(name): name for name in measures}
    row = {query: i for i, query in enumerate(qrels)}
    values = {name: np.zeros(len(row)) for name in wanted.values()}
    answers = {query: _ranked(run[query]) for query in row if query in run}
    grades = {query: dict(found) for query, found in qrels.items()}
    for metric in ir_measures.iter_calc(list(wanted), grades, answers):
        values[wanted[metric.measure]][row[metric.query_id]] = metric.value
    return values


def estimate(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = MEASURES,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Mean of each measure with its 95% bootstrap interval."""
    return {
        name: mean_interval(values, resamples=resamples, seed=seed)
        for name, values in per_query(run, qrels, measures).items()
    }


def mean_interval(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of per-query values [queries] with its 95% percentile bootstrap interval."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or resamples < 1:
        raise BadInput(f"expected one value a query and resamples ≥ 1, got shape {values.shape}, {resamples} resamples")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK // len(values))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        means[start:stop] = values[rng.integers(0, len(values), (stop - start, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def compare(
    run: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = MEASURES,
    *,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Whether a run is better than a baseline on the same queries.

    Args:
        run: the run that is judged.
        baseline: the run it is held against.
        qrels: query → document → grade.
        measures: names, see `per_query`.
        resamples: draws of the bootstrap.
        permutations: sign patterns of the randomisation test; the smallest p is 1 / (permutations + 1).
        seed: of both.
    """
    ours, theirs = per_query(run, qrels, measures), per_query(baseline, qrels, measures)
    differences = {}
    for name in ours:
        delta = ours[name] - theirs[name]
        interval = mean_interval(delta, resamples=resamples, seed=seed)
        differences[name] = Difference(*interval, randomisation_p(delta, permutations=permutations, seed=seed))
    return differences


def randomisation_p(differences: np.ndarray, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the paired randomisation (sign-flip) test of differences [queries] against a mean of 0."""
    differences = np.asarray(differences, dtype=np.float64)
    moved = differences[differences != 0]  # a tie looks the same under either sign
    observed = abs(moved.sum())
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(moved))
    as_large = 0
    for start in range(0, permutations, step):
        signs = rng.integers(0, 2, (min(step, permutations - start), len(moved)), dtype=np.int8) * 2 - 1
        as_large += int((np.abs(signs @ moved) >= observed - 1e-9).sum())
    return (as_large + 1) / (permutations + 1)


def _ranked(found: Mapping[str, float]) -> dict[str, float]:
    """Scores replaced by distinct ones in trec_eval's order, since the providers of `ir_measures` break ties unlike."""
    order = sorted(found, key=lambda document: (found[document], document))
    return {document: float(place) for place, document in enumerate(order)}


def _measure(name: str) -> Any:
    import ir_measures

    families = {
        "ndcg": ir_measures.nDCG,
        "recall": ir_measures.R,
        "precision": ir_measures.P,
        "mrr": ir_measures.RR,
        "map": ir_measures.AP,
    }
    match = re.fullmatch(r"(ndcg|recall|precision|mrr|map)(?:@([1-9]\d*))?", name.lower())
    if not match or (match[2] is None and match[1] in ("recall", "precision")):
        raise BadInput(f"{name!r} is not a measure; use ndcg@k, recall@k, precision@k, mrr@k, map or map@k")
    family = families[match[1]]
    return family @ int(match[2]) if match[2] else family
