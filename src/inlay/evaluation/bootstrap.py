"""How sure one can be of a figure over questions: the bootstrap, which draws the questions again with replacement.

Always over questions, never over the sentences or pairs beneath them: those of one question are not independent, and
intervals over them are too narrow. Two encoders are compared on the same questions (`paired_difference`): their own
intervals may overlap widely while one is better at nearly every question.

`percentile` takes the 2.5% and 97.5% points of the resampled figures. `bca` moves these points for bias and skewness
(Efron 1987), which matters for few questions and shares near 0 or 1.

A resample is a weight for each question, how often it was drawn: what is sorted once needs no sorting again.

Source: as used by A Compass for Navigating the World of Sentence Embeddings for the Telecom Domain (arXiv 2406.12336).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.measures import Difference, Estimate, mean_interval, randomisation_p

__all__ = ["bootstrap_mean", "bootstrap_statistic", "paired_difference"]

FEWEST = 100  # resamples: the outer 2.5% of fewer is one or two figures


def bootstrap_mean(
    values: np.ndarray, *, method: Literal["percentile", "bca"] = "percentile", resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of a value for each question, with its 95% interval.

    Args:
        values: [questions], such as 1 for a hit and 0 for a miss.
        method: `percentile` or `bca` (extra `sparse`).
        resamples: draws, 100 at least.
        seed: of the draws.
    """
    if method not in ("percentile", "bca"):
        raise BadInput(f"method must be percentile or bca, got {method!r}")
    values = _checked_values(values)
    resamples = _checked_resamples(resamples)
    if method == "percentile":
        return mean_interval(values, resamples=resamples, seed=seed)
    if np.ptp(values) == 0:  # no resample differs, and no point can be moved
        return Estimate(float(values[0]), float(values[0]), float(values[0]))
    try:
        from scipy.stats import bootstrap
    except ModuleNotFoundError:
        raise MissingExtra("BCa intervals", "sparse") from None
    drawn = bootstrap(
        (values,), np.mean, n_resamples=resamples, batch=max(1, 4_000_000 // len(values)), method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(float(values.mean()), float(drawn.low), float(drawn.high))


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float], questions: int, *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Any figure over questions, with its 95% percentile interval; `mean` is the figure of all questions once.

    Args:
        statistic: weights of the questions, int64 [questions] → the figure. All questions once are weights of 1.
        questions: how many there are.
        resamples: draws, 100 at least.
        seed: of the draws.
    """
    whole = float(statistic(np.ones(questions, dtype=np.int64)))
    drawn = [float(statistic(weights)) for weights in weights_of_resamples(questions, resamples, seed)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(whole, float(low), float(high))


def paired_difference(
    ours: np.ndarray, theirs: np.ndarray, *, resamples: int = 2000, permutations: int = 10_000, seed: int = 0
) -> Difference:
    """Mean of ours minus theirs on the same questions: its 95% interval, and p of the randomisation test.

    Args:
        ours: a value for each question [questions].
        theirs: the other's, of the same questions in the same order.
        resamples: draws of the interval.
        permutations: sign patterns of the test.
        seed: of both.
    """
    ours, theirs = _checked_values(ours), _checked_values(theirs)
    if len(ours) != len(theirs):
        raise BadInput(f"{len(ours)} values against {len(theirs)}: a paired comparison needs the same questions")
    interval = mean_interval(ours - theirs, resamples=_checked_resamples(resamples), seed=seed)
    return Difference(*interval, randomisation_p(ours - theirs, permutations=permutations, seed=seed))


def weights_of_resamples(questions: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each question was drawn, int64 [questions], for each resample."""
    if isinstance(questions, bool) or not isinstance(questions, int | np.integer) or questions < 1:
        raise BadInput(f"questions must be a positive integer, got {questions!r}")
    random = np.random.default_rng(seed)
    for _ in range(_checked_resamples(resamples)):
        yield np.bincount(random.integers(0, questions, questions), minlength=questions)


def _checked_values(values: np.ndarray) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise BadInput(f"expected a finite value for each question [questions], got shape {list(found.shape)}")
    return found


def _checked_resamples(resamples: int) -> int:
    if isinstance(resamples, bool) or not isinstance(resamples, int | np.integer) or resamples < FEWEST:
        raise BadInput(f"resamples must be an integer from {FEWEST} on, got {resamples!r}")
    return int(resamples)
