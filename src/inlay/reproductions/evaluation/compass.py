"""Choosing an encoder with intervals, cuts and overlaps (Roychowdhury et al., 2024, the Telecom Compass).

The paper finds that fine-tuning on a domain raises retrieval accuracy and narrows its interval, that the overlap of
the scores of correct and of random sentences goes with accuracy, and that isotropy does not. It publishes no table that
was seen, so the claim is tested by its direction.

Here questions are test utterances of Banking77 and sentences twenty training utterances of each of its 77 intents; a
sentence of the question's intent is correct. The base is LSA of word counts; fine-tuned is the same through a linear
map that starts at the identity and learns, by InfoNCE, from pairs of training utterances of one intent that are not
among the sentences. Three things decide:

(a) 95% intervals of 2,000 made samples (200 hits or misses of probability 0.7) hold the truth 95 ± 2% of the time;
(b) fine-tuned beats base by the paired bootstrap in every seed: the interval of the difference is above 0;
(c) over encoders, the rank correlation of accuracy@1 with the overlap of correct and random scores is stronger than
that with IsoScore, both over the seven without weights (LSA of 32 to 256 dimensions, of letters, tf-idf, fine-tuned)
and over all (MiniLM, the box, its table, NUMEN besides).

All three make it shown, some of them partly. Seven or eleven encoders are few: p is printed beside each correlation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.evaluation.encoder_report import Correlation, EncoderReport, report_encoders
from inlay.evaluation.measures import Difference, mean_interval
from inlay.evaluation.score_overlap import RULES, Cut
from inlay.kernels.dense import normalise
from inlay.reproductions.evaluation._text_rows import Utterances, in_package, lsa, minilm, tfidf, utterances
from inlay.reproductions.result import Figure, Result

PAPER = (
    "A Compass for Navigating the World of Sentence Embeddings for the Telecom Domain (arXiv 2406.12336; later "
    "Investigating Distributions of Telecom Adapted Sentence Embeddings, ICC 2025)"
)

EACH = 20  # sentences of an intent
BASE, TUNED = "LSA-256", "LSA-256, fine-tuned"
FREE = ("LSA-32", "LSA-64", "LSA-128", BASE, "char-LSA-256", "tf-idf", TUNED)
TRIALS, SAMPLE, SHARE = 2000, 200, 0.7
RESAMPLES = 1000


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """Coverage, eleven encoders, a head for each seed; about five minutes."""
    began = time.perf_counter()
    coverage = _coverage(seeds[0])
    _say(progress, f"coverage {coverage:.4f}")
    said = utterances(data, "banking77")
    draw = np.random.default_rng(0)
    sentences, pairs = [], []
    for intent in np.unique(said.train_labels):
        own = draw.permutation(np.flatnonzero(said.train_labels == intent))
        sentences.append(own[:EACH])
        pairs.append(own[EACH:])
    kept = np.concatenate(sentences)
    gold = [np.flatnonzero(said.train_labels[kept] == label) for label in said.test_labels]
    encoders = _encoders(said, kept)
    learnt = lsa(256, said.train, said.test)
    heads = {seed: _tuned(learnt, pairs, seed) for seed in seeds}
    encoders[TUNED] = (heads[seeds[0]][1], heads[seeds[0]][0][kept])
    report = report_encoders(encoders, gold, resamples=RESAMPLES)
    rows = report.table()
    for row in rows:
        _say(progress, f"{row}")
    gains = []
    for seed, (train, test) in heads.items():
        one = report_encoders({BASE: encoders[BASE], TUNED: (test, train[kept])}, gold, k=(1,), resamples=RESAMPLES)
        gains.append(one.paired(TUNED, BASE))
        _say(progress, f"seed {seed}: {gains[-1]}")
    every = report.correlations()
    few = EncoderReport({name: report.encoders[name] for name in FREE}, RESAMPLES, 0).correlations()
    cuts = {name: {rule: report.threshold(name, rule) for rule in RULES} for name in (BASE, TUNED, rows[0]["encoder"])}

    held = _held(coverage, gains, few, every)
    accuracy = {name: one.accuracy[1] for name, one in report.encoders.items()}
    return Result(
        name="compass",
        title="Compass: intervals, score overlaps and cuts of encoders",
        room="evaluation",
        source=PAPER,
        claim="fine-tuning raises accuracy; overlap of correct and random scores goes with accuracy, isotropy does not",
        paper="in words: higher means, narrower intervals after fine-tuning; overlaps correlate, isotropy does not",
        metric="accuracy@1",
        baseline=Figure("LSA", round(accuracy[BASE].mean, 4)),
        method=Figure("LSA, fine-tuned", round(accuracy[TUNED].mean, 4)),
        data=f"Banking77: {len(said.test):,} questions, {len(kept):,} sentences of 77 intents",
        verdict="shown" if all(held) else "partly" if any(held) else "not shown",
        detail=_detail(coverage, report, gains, few, every, cuts, held, rows),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "coverage": round(coverage, 4),
            "encoders": rows,
            "fine-tuned minus base": [[round(value, 5) for value in gain] for gain in gains],
            "correlations with accuracy@1, without weights": _plain(few),
            "correlations with accuracy@1, all": _plain(every),
            "cuts": {
                name: {rule: [round(float(v), 4) for v in cut[:5]] for rule, cut in own.items()}
                for name, own in cuts.items()
            },
            "columns of cuts": ["score", "low", "high", "share of correct kept", "share of random passed"],
        },
    )


def _held(
    coverage: float, gains: list[Difference], few: dict[str, Correlation], every: dict[str, Correlation]
) -> tuple[bool, ...]:
    """Which of the three that decide hold."""
    return (
        abs(coverage - 0.95) <= 0.02,
        all(gain.low > 0 for gain in gains),
        all(abs(one["overlap C/R"].rho) > abs(one["iso_score"].rho) for one in (few, every)),
    )


def _coverage(seed: int) -> float:
    """How often a 95% interval of made hits and misses holds the probability they were made with."""
    draw = np.random.default_rng(seed)
    held = 0
    for trial in range(TRIALS):
        _, low, high = mean_interval(draw.random(SAMPLE) < SHARE, resamples=RESAMPLES, seed=trial)
        held += low <= SHARE <= high
    return held / TRIALS


def _encoders(said: Utterances, kept: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows of questions and of sentences; those without weights learn their words from all training utterances."""
    sentences = [said.train[i] for i in kept]
    found: dict[str, list[np.ndarray]] = {
        f"LSA-{dims}": lsa(dims, said.train, said.test, sentences)[1:] for dims in (32, 64, 128, 256)
    }
    found["char-LSA-256"] = lsa(256, said.train, said.test, sentences, characters=True)[1:]
    found["tf-idf"] = tfidf(said.train, said.test, sentences)[1:]
    for name in ("box", "box?context=false", "numen?dim=4096"):
        found[name] = in_package(name, said.test, sentences)
    teacher = minilm(said.test, sentences)
    if teacher is not None:
        found["MiniLM"] = teacher
    return {name: (own[0], own[1]) for name, own in found.items()}


def _tuned(rows: list[np.ndarray], pairs: list[np.ndarray], seed: int, *, steps: int = 1500) -> list[np.ndarray]:
    """The same rows through a linear map learnt from pairs of one intent: a batch holds one pair of every intent."""
    import torch

    width = rows[0].shape[1]
    weight = torch.eye(width, requires_grad=True)
    learns = torch.optim.Adam([weight], lr=1e-3)
    train = torch.from_numpy(rows[0])
    draw = np.random.default_rng(seed)
    truth = torch.arange(len(pairs))
    for _ in range(steps):
        left, right = np.array([draw.choice(own, 2, replace=False) for own in pairs]).T
        a, b = (torch.nn.functional.normalize(train[side] @ weight, dim=1) for side in (left, right))
        scores = a @ b.T / 0.05
        loss = (
            torch.nn.functional.cross_entropy(scores, truth) + torch.nn.functional.cross_entropy(scores.T, truth)
        ) / 2
        learns.zero_grad()
        loss.backward()
        learns.step()
    with torch.inference_mode():
        return [normalise((torch.from_numpy(one) @ weight).numpy()) for one in rows]


def _plain(found: dict[str, Correlation]) -> dict[str, list[float]]:
    return {name: [round(value, 4) for value in one] for name, one in found.items()}


def _detail(
    coverage: float,
    report: EncoderReport,
    gains: list[Difference],
    few: dict[str, Correlation],
    every: dict[str, Correlation],
    cuts: dict[str, dict[str, Cut]],
    held: tuple[bool, ...],
    rows: list[dict[str, Any]],
) -> str:
    def widths(name: str) -> float:
        _, low, high = report.encoders[name].accuracy[1]
        return high - low

    def linked(found: dict[str, Correlation], name: str) -> str:
        return f"{found[name].rho:+.2f} (p {found[name].p:.3g})"

    said = [
        f"Intervals held the truth in {coverage:.1%} of samples.",
        "Accuracy@1: " + ", ".join(f"{row['encoder']} {row['accuracy@1']:.3f}" for row in rows) + ".",
        "Fine-tuned minus base, by seed: "
        + "; ".join(f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" for gain in gains)
        + f". The interval is {widths(BASE):.4f} wide for the base and {widths(TUNED):.4f} when fine-tuned.",
        f"Rank correlation with accuracy over the {len(FREE)} encoders without weights: overlap of correct and random "
        f"{linked(few, 'overlap C/R')}, of top and correct {linked(few, 'overlap T/C')}, IsoScore "
        f"{linked(few, 'iso_score')}, partition ratio {linked(few, 'partition_ratio')}; over all "
        f"{len(report.encoders)}: {linked(every, 'overlap C/R')}, {linked(every, 'overlap T/C')}, "
        f"{linked(every, 'iso_score')}, {linked(every, 'partition_ratio')}"
        + ("." if held[2] else "; overlap of correct and random had to be stronger than IsoScore in both."),
        "Cuts that keep 95% of correct scores: "
        + "; ".join(
            f"{name} {own['recall'].score:.3f} ({own['recall'].low:.3f} to {own['recall'].high:.3f}), which "
            f"{own['recall'].passed:.0%} of random ones pass"
            for name, own in cuts.items()
        )
        + ": a cut of one encoder is none for another.",
    ]
    widths_of_one = [report.encoders[name] for name in FREE[:4]]
    if all(a.accuracy[1] < b.accuracy[1] and a.iso_score > b.iso_score
           for a, b in zip(widths_of_one, widths_of_one[1:])):  # fmt: skip
        said.append(
            "Four of the seven are one LSA at four widths, of which accuracy rises and IsoScore falls with each "
            "doubling: IsoScore tells widths apart there, rather than how good an encoder is."
        )
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
