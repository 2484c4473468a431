"""From which score on a result is to be believed: distributions of scores, how far they overlap, and where to cut.

Three samples of scores are kept for each question: T of its top results, C of its correct sentences, R of random
sentences that are not correct. The overlap coefficient ∫ min(f, g) of two of them is 1 when they are alike and 0 when
they never meet; a small one of C and R means that a cut between them exists.

A cut c accepts scores from c on. Rules:

- `youden`: the largest share of C accepted minus share of R accepted;
- `f1`: the largest F1 of accepting C among C and R;
- `recall`: the highest cut that accepts a share of C, 95% by default;
- `crossing`: where the densities of C and R meet between their means, a line being drawn between points of a grid.

Each has an interval by the bootstrap over questions. A cut is of one encoder: score ranges differ by 0.3 and more, so
none may be taken over to another. The paper names neither its densities nor its rule: these are our choices. Densities
are a histogram of 100 bins over the pooled range, or Gaussian kernels of Scott's width on a grid.

Source: A Compass for Navigating the World of Sentence Embeddings for the Telecom Domain (arXiv 2406.12336).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.bootstrap import bootstrap_statistic

__all__ = ["RULES", "Cut", "Scores", "cloud_overlap", "overlap_coefficient", "score_cut"]

RULES = ("youden", "f1", "recall", "crossing")
GRID = 1024  # points of a density
PAIRS = 20_000  # of clouds


class Cut(NamedTuple):
    """A cut and what it does.

    Args:
        score: results from this on are accepted.
        low: lower end of its 95% interval over questions.
        high: upper end.
        kept: share of the correct that is accepted.
        passed: share of the random that is accepted.
        rule: which rule chose it.
    """

    score: float
    low: float
    high: float
    kept: float
    passed: float
    rule: str


@dataclass(frozen=True)
class Scores:
    """Scores of questions.

    Args:
        values: of all questions, float64 [n].
        question: number of the question each belongs to, int64 [n].
        questions: how many there are.
    """

    values: np.ndarray = field(repr=False)
    question: np.ndarray = field(repr=False)
    questions: int

    @classmethod
    def of(cls, each: Sequence[np.ndarray] | np.ndarray) -> Scores:
        """From the scores of each question, any number of them: a list of arrays, or [questions, count]."""
        lists = [np.asarray(one, dtype=np.float64).ravel() for one in each]
        if not lists or not sum(map(len, lists)):
            raise BadInput("there are no scores; give those of at least one question")
        values = np.concatenate(lists)
        if not np.isfinite(values).all():
            raise BadInput("a score is NaN or infinite; leave such results out")
        return cls(values, np.repeat(np.arange(len(lists)), [len(one) for one in lists]), len(lists))


def overlap_coefficient(
    a: np.ndarray, b: np.ndarray, *, how: Literal["histogram", "kde"] = "histogram", bins: int = 100
) -> float:
    """∫ min(f, g) of the densities of two samples [n], [m]: from 0 (apart) to 1 (alike).

    Args:
        a: a sample of scores.
        b: another.
        how: a common `histogram` over the pooled range, or `kde`, kernels of Scott's width.
        bins: of the histogram. A histogram of few scores makes the overlap too small.
    """
    a, b = _sample(a), _sample(b)
    if how not in ("histogram", "kde"):
        raise BadInput(f"how must be histogram or kde, got {how!r}")
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 2:
        raise BadInput(f"bins must be an integer from 2 on, got {bins!r}")
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    if low == high:
        return 1.0
    if how == "histogram":
        shares = [np.histogram(one, bins, (low, high))[0] / len(one) for one in (a, b)]
        return float(np.minimum(*shares).sum())
    grid = _grid(a, b)
    return float(np.minimum(*(_density(one, None, grid) for one in (a, b))).sum() * (grid[1] - grid[0]))


def score_cut(
    correct: Scores,
    random: Scores,
    rule: str = "youden",
    *,
    share: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Cut:
    """Where to cut, by a rule, with its interval over questions.

    Args:
        correct: scores of correct sentences.
        random: scores of sentences that are not, of the same questions.
        rule: `youden`, `f1`, `recall` or `crossing`.
        share: of the correct that `recall` accepts.
        resamples: of the interval.
        seed: of the interval.
    """
    if rule not in RULES:
        raise BadInput(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if not 0 < share <= 1:
        raise BadInput(f"share must be above 0 and at most 1, got {share!r}")
    if correct.questions != random.questions:
        raise BadInput(f"scores of {correct.questions} questions against {random.questions}: give those of the same")
    for what, one in (("correct", correct), ("random", random)):
        silent = np.flatnonzero(np.bincount(one.question, minlength=one.questions) == 0)
        if len(silent):  # a resample of such questions alone would have nothing to cut
            raise BadInput(f"question {silent[0]} has no {what} score: leave it out of both")
    sorted_pool = _Pool(correct, random)
    find = {
        "youden": sorted_pool.youden,
        "f1": sorted_pool.f1,
        "recall": lambda weights: sorted_pool.recall(weights, share),
        "crossing": _Crossing(correct, random).at,
    }[rule]
    found = bootstrap_statistic(find, correct.questions, resamples=resamples, seed=seed)
    kept, passed = (float((one.values >= found.mean).mean()) for one in (correct, random))
    return Cut(*found, kept, passed, rule)


def cloud_overlap(domain: np.ndarray, general: np.ndarray, *, seed: int = 0) -> float:
    """How far sentences of a domain are told from general ones: overlap of cosines within the domain and across.

    1 where a sentence of the domain is as near to general ones as to its own.

    Args:
        domain: rows [n, dim], two at least.
        general: rows [m, dim] by the same encoder.
        seed: of the pairs, 20,000 of each kind.
    """
    from inlay.evaluation.intrinsic_dimension import usable_rows
    from inlay.kernels.dense import normalise

    own, other = (normalise(usable_rows(one, zeros=False)) for one in (domain, general))
    if len(own) < 2 or own.shape[1] != other.shape[1]:
        raise BadInput(f"{list(own.shape)} domain rows and {list(other.shape)} general ones: give two of one width")
    draw = np.random.default_rng(seed)
    left = draw.integers(0, len(own), PAIRS)
    right = (left + draw.integers(1, len(own), PAIRS)) % len(own)
    across = draw.integers(0, len(other), PAIRS)
    within = np.einsum("nd,nd->n", own[left], own[right])
    return overlap_coefficient(within, np.einsum("nd,nd->n", own[left], other[across]))


class _Pool:
    """Correct and random scores in one descending order, so that a resample is a cumulative sum of weights."""

    def __init__(self, correct: Scores, random: Scores) -> None:
        values = np.concatenate([correct.values, random.values])
        order = np.argsort(-values, kind="stable")
        self.values = values[order]
        self.question = np.concatenate([correct.question, random.question])[order]
        self.correct = (np.arange(len(values)) < len(correct.values))[order]
        self.last = np.append(self.values[1:] != self.values[:-1], True)  # equal scores are accepted together

    def sums(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At each possible cut: the cut, and the weight of correct and of random scores accepted."""
        weight = weights[self.question]
        hits = np.cumsum(np.where(self.correct, weight, 0))[self.last]
        false = np.cumsum(np.where(self.correct, 0, weight))[self.last]
        return self.values[self.last], hits, false

    def youden(self, weights: np.ndarray) -> float:
        cuts, hits, false = self.sums(weights)
        return float(cuts[np.argmax(hits * false[-1] - false * hits[-1])])  # in integers: ties stay ties

    def f1(self, weights: np.ndarray) -> float:
        cuts, hits, false = self.sums(weights)
        return float(cuts[np.argmax(2 * hits / (hits[-1] + hits + false).clip(1))])

    def recall(self, weights: np.ndarray, share: float) -> float:
        cuts, hits, _ = self.sums(weights)
        return float(cuts[np.argmax(hits >= share * hits[-1] - 1e-9)])


class _Crossing:
    """Where two densities meet between the means of their samples; the middle of the means where they do not."""

    def __init__(self, correct: Scores, random: Scores) -> None:
        self.scores = (correct, random)
        self.grid = _grid(correct.values, random.values)

    def at(self, weights: np.ndarray) -> float:
        samples = [(one.values, weights[one.question].astype(np.float64)) for one in self.scores]
        if any(not weight.sum() for _, weight in samples):
            return float("nan")
        means = [float(np.average(values, weights=weight)) for values, weight in samples]
        f, g = (_density(values, weight, self.grid) for values, weight in samples)
        above = f - g
        low, high = sorted(means)
        turns = np.flatnonzero((above[:-1] * above[1:] <= 0) & (above[:-1] != above[1:]))
        points = self.grid[turns] + (self.grid[1] - self.grid[0]) * above[turns] / (above[turns] - above[turns + 1])
        inside = points[(points >= low) & (points <= high)]
        middle = (low + high) / 2
        return float(inside[np.argmin(np.abs(inside - middle))]) if len(inside) else middle


def _sample(scores: np.ndarray) -> np.ndarray:
    found = np.asarray(scores, dtype=np.float64).ravel()
    if not len(found) or not np.isfinite(found).all():
        raise BadInput(f"expected a sample of finite scores, got {len(found)} of them, or one that is not finite")
    return found


def _grid(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Points from well below to well above both samples."""
    room = 4 * max(_scott(a, None), _scott(b, None))
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    room = max(room, 0.05 * (high - low), 1e-6)
    return np.linspace(low - room, high + room, GRID)


def _scott(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Scott's width of a kernel: standard deviation times n^(−1/5), n the effective number where weights differ."""
    weight = np.ones(len(values)) if weights is None else weights
    total = weight.sum()
    count = total**2 / np.square(weight).sum()
    mean = np.average(values, weights=weight)
    variance = float((weight * np.square(values - mean)).sum() / total) * count / max(count - 1, 1)
    return float(variance**0.5 * count**-0.2)


def _density(values: np.ndarray, weights: np.ndarray | None, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernels at the points of a grid: scores are shared between the two next points, then smoothed."""
    step = grid[1] - grid[0]
    place = (values - grid[0]) / step
    below = np.floor(place).astype(np.int64).clip(0, len(grid) - 2)
    part = place - below
    weight = np.ones(len(values)) if weights is None else weights
    mass = np.bincount(below, weight * (1 - part), len(grid)) + np.bincount(below + 1, weight * part, len(grid))
    width = max(_scott(values, weights), step / 2)
    reach = min(int(np.ceil(6 * width / step)), (len(grid) - 1) // 2)
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) * step / width))
    smooth = np.convolve(mass, kernel / kernel.sum(), "same")
    return np.asarray(smooth / (weight.sum() * step))
