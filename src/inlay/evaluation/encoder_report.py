"""Which encoder to take for a set of questions: accuracy with intervals, cuts of its scores, and why accuracies differ.

Each encoder gives rows of questions and of sentences; for each question the correct sentences are known. Reported are

- accuracy@k: whether a correct sentence is among the first k, with its interval over questions, and paired differences;
- overlaps of the scores T (top results), C (correct sentences) and R (random ones that are not correct, as many);
- cuts of the scores, by the rules of `score_overlap`;
- isotropy of the sentence rows: IsoScore, partition ratio, mean cosine of pairs;
- rank correlations of these over encoders. A few encoders make no law: p is exact, by all orders of them, up to eight.

Source: A Compass for Navigating the World of Sentence Embeddings for the Telecom Domain (arXiv 2406.12336).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.bootstrap import bootstrap_mean, paired_difference
from inlay.evaluation.intrinsic_dimension import usable_rows
from inlay.evaluation.isotropy import iso_score, mean_cosine, partition_ratio
from inlay.evaluation.measures import Difference, Estimate
from inlay.evaluation.ranked_overlap import result_lists
from inlay.evaluation.score_overlap import Cut, Scores, overlap_coefficient, score_cut
from inlay.kernels.dense import normalise

__all__ = ["Correlation", "EncoderReport", "Judged", "report_encoders"]

EXACT = 8  # encoders whose 40,320 orders are all looked at
LEAST_RANDOM = 1000  # pairs


class Correlation(NamedTuple):
    """Spearman's rank correlation over encoders, and its two-sided p."""

    rho: float
    p: float


@dataclass(frozen=True)
class Judged:
    """One encoder.

    Args:
        hits: k → whether each question found a correct sentence, float64 [questions].
        accuracy: k → its mean, with the 95% interval.
        top: scores of the first results.
        correct: scores of the correct sentences.
        random: scores of random sentences that are not correct.
        overlaps: `C/R`, `T/C` and `T/R`.
        iso_score: of the sentence rows.
        partition_ratio: of the sentence rows.
        mean_cosine: of pairs of sentences.
    """

    hits: dict[int, np.ndarray] = field(repr=False)
    accuracy: dict[int, Estimate]
    top: Scores = field(repr=False)
    correct: Scores = field(repr=False)
    random: Scores = field(repr=False)
    overlaps: dict[str, float]
    iso_score: float
    partition_ratio: float
    mean_cosine: float


@dataclass(frozen=True)
class EncoderReport:
    """What `report_encoders` found.

    Args:
        encoders: name → figures.
        resamples: of every interval.
        seed: of every interval.
    """

    encoders: dict[str, Judged]
    resamples: int
    seed: int

    def paired(self, ours: str, theirs: str, k: int = 1) -> Difference:
        """Accuracy@k of one encoder minus another's on the same questions."""
        return paired_difference(self._hits(ours, k), self._hits(theirs, k), resamples=self.resamples, seed=self.seed)

    def threshold(self, name: str, rule: str = "recall", *, share: float = 0.95) -> Cut:
        """From which score on an encoder's results are to be believed; for that encoder only."""
        judged = self._one(name)
        return score_cut(judged.correct, judged.random, rule, share=share, resamples=self.resamples, seed=self.seed)

    def correlations(self, k: int = 1) -> dict[str, Correlation]:
        """Rank correlation over encoders of accuracy@k with each overlap and measure of isotropy.

        Raises:
            MissingExtra: scipy is missing.
        """
        every = list(self.encoders.values())
        if len(every) < 3:
            raise BadInput(f"{len(every)} encoders show no correlation; give three at least, and better many")
        accuracy = np.array([self._hits(name, k).mean() for name in self.encoders])
        columns = {f"overlap {pair}": [one.overlaps[pair] for one in every] for pair in every[0].overlaps}
        columns |= {name: [getattr(one, name) for one in every] for name in ("iso_score", "partition_ratio")}
        columns["mean_cosine"] = [one.mean_cosine for one in every]
        return {name: rank_correlation(np.array(values), accuracy) for name, values in columns.items()}

    def table(self, k: int = 1, rule: str = "recall") -> list[dict[str, Any]]:
        """A row for each encoder, the most accurate first."""
        rows = []
        for name, one in self.encoders.items():
            cut = self.threshold(name, rule)
            rows.append(
                {
                    "encoder": name,
                    f"accuracy@{k}": round(float(self._hits(name, k).mean()), 5),
                    "interval": [round(value, 5) for value in one.accuracy[k][1:]],
                    **{f"overlap {pair}": round(value, 5) for pair, value in one.overlaps.items()},
                    "threshold": round(cut.score, 5),
                    "threshold interval": [round(cut.low, 5), round(cut.high, 5)],
                    "iso_score": round(one.iso_score, 5),
                    "partition_ratio": round(one.partition_ratio, 5),
                    "mean_cosine": round(one.mean_cosine, 5),
                }
            )
        return sorted(rows, key=lambda row: -float(row[f"accuracy@{k}"]))  # type: ignore[arg-type]

    def _one(self, name: str) -> Judged:
        if name not in self.encoders:
            raise BadInput(f"there is no encoder {name!r} in this report; there are {', '.join(self.encoders)}")
        return self.encoders[name]

    def _hits(self, name: str, k: int) -> np.ndarray:
        hits = self._one(name).hits
        if k not in hits:
            raise BadInput(f"accuracy@{k} was not measured; there is {', '.join(map(str, hits))}")
        return hits[k]


def report_encoders(
    encoders: Mapping[str, tuple[np.ndarray, np.ndarray]],
    gold: Sequence[np.ndarray | Sequence[int]],
    *,
    k: Sequence[int] = (1, 3, 5),
    most_correct: int = 20,
    resamples: int = 2000,
    seed: int = 0,
) -> EncoderReport:
    """Judge encoders on the same questions and sentences.

    Args:
        encoders: name → (rows of questions [q, dim], rows of sentences [n, dim]); dims may differ between encoders.
        gold: numbers of the correct sentences of each question.
        k: lengths of the lists that a correct sentence must be in; T are the scores of the longest.
        most_correct: correct sentences of a question whose scores are looked at; a random choice where it has more,
            the same for all encoders. As many random sentences are.
        resamples: of the intervals.
        seed: of what is random.
    """
    sizes = sorted(set(k))
    if not encoders:
        raise BadInput("no encoders to report on; give name → (rows of questions, rows of sentences)")
    first = next(iter(encoders.values()))
    questions, sentences = len(first[0]), len(first[1])
    if any((len(one[0]), len(one[1])) != (questions, sentences) for one in encoders.values()):
        raise BadInput("encoders were given different numbers of questions or sentences: encode the same with all")
    if not sizes or any(isinstance(one, bool) or not 1 <= one <= sentences for one in sizes):
        raise BadInput(f"k must be integers from 1 to {sentences}, got {list(k)}")
    if isinstance(most_correct, bool) or most_correct < 1:
        raise BadInput(f"most_correct must be a positive integer, got {most_correct!r}")
    truth = _checked_gold(gold, questions, sentences)
    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(own)[:most_correct] for own in truth]
    others = _random_others(truth, [len(own) for own in chosen], sentences, draw)
    found = {
        name: _judged(*rows, truth, chosen, others, sizes, resamples, seed) for name, rows in encoders.items()
    }  # fmt: skip
    return EncoderReport(found, resamples, seed)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> Correlation:
    """Spearman's ρ of two columns; p from all orders of up to eight values, of 10,000 random ones beyond.

    A constant column has no order: ρ is 0, and p is 1.
    """
    try:
        from scipy.stats import permutation_test, rankdata
    except ModuleNotFoundError:
        raise MissingExtra("rank correlations", "sparse") from None
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(0.0, 1.0)
    ranks, others = (rankdata(one) - (len(one) + 1) / 2 for one in (a, b))
    others = others / (np.linalg.norm(ranks) * np.linalg.norm(others))
    count = np.inf if len(a) <= EXACT else 9999
    test = permutation_test(
        (ranks,), lambda x, axis: (x * others).sum(axis=axis), permutation_type="pairings", n_resamples=count,
        alternative="two-sided", vectorized=True, rng=np.random.default_rng(0),
    )  # fmt: skip
    return Correlation(float(test.statistic), float(test.pvalue))


def _judged(
    asked: np.ndarray,
    rows: np.ndarray,
    truth: list[np.ndarray],
    chosen: list[np.ndarray],
    others: list[np.ndarray],
    sizes: list[int],
    resamples: int,
    seed: int,
) -> Judged:
    rows = normalise(usable_rows(rows, zeros=False, what="sentence row"))
    asked = normalise(usable_rows(asked, what="question row"))
    near = result_lists(asked, rows, sizes[-1])
    right = np.stack([np.isin(ids, own) for ids, own in zip(near, truth)])
    hits = {k: np.asarray(right[:, :k].any(axis=1), dtype=np.float64) for k in sizes}
    top, correct, random = (
        Scores.of([rows[ids] @ asked[i] for i, ids in enumerate(lists)]) for lists in (near, chosen, others)
    )
    pairs = {"C/R": (correct, random), "T/C": (top, correct), "T/R": (top, random)}
    return Judged(
        hits=hits,
        accuracy={k: bootstrap_mean(own, resamples=resamples, seed=seed) for k, own in hits.items()},
        top=top,
        correct=correct,
        random=random,
        overlaps={name: overlap_coefficient(a.values, b.values) for name, (a, b) in pairs.items()},
        iso_score=iso_score(rows),
        partition_ratio=partition_ratio(rows),
        mean_cosine=mean_cosine(rows),
    )


def _checked_gold(gold: Sequence[Any], questions: int, sentences: int) -> list[np.ndarray]:
    if len(gold) != questions:
        raise BadInput(f"gold names correct sentences of {len(gold)} questions, and there are {questions}")
    found = []
    for number, own in enumerate(gold):
        ids = np.unique(np.asarray(own))
        if not len(ids):
            raise BadInput(f"question {number} has no correct sentence: leave it out, nobody can answer it")
        if ids.dtype.kind not in "iu" or ids[0] < 0 or ids[-1] >= sentences:
            raise BadInput(f"gold of question {number} must be numbers of sentences from 0 to {sentences - 1}: {own!r}")
        if len(ids) == sentences:
            raise BadInput(f"every sentence is correct for question {number}: leave it out, nobody can miss it")
        found.append(ids.astype(np.int64))
    return found


def _random_others(
    truth: list[np.ndarray], counts: list[int], sentences: int, draw: np.random.Generator
) -> list[np.ndarray]:
    """Random sentences of each question that are not correct: as many as are given, and 1,000 over all at least."""
    more = -(-LEAST_RANDOM // len(truth))
    found = []
    for own, count in zip(truth, counts):
        # The i-th sentence that is not correct lies behind as many correct ones as stand before it.
        wanted = np.sort(draw.integers(0, sentences - len(own), max(count, more)))
        found.append(wanted + np.searchsorted(own - np.arange(len(own)), wanted, side="right"))
    return found
