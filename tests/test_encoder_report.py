"""The bootstrap's coverage, overlaps and cuts of score distributions, and the report on encoders."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.evaluation.bootstrap import (
    bootstrap_mean,
    bootstrap_statistic,
    paired_difference,
    weights_of_resamples,
)
from inlay.evaluation.encoder_report import rank_correlation, report_encoders
from inlay.evaluation.score_overlap import RULES, Scores, cloud_overlap, overlap_coefficient, score_cut

# --- the bootstrap ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_hold_the_truth_as_often_as_they_say(method):
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        low, high = bootstrap_mean(rng.random(200) < 0.7, method=method, resamples=300, seed=seed)[1:]
        held += low <= 0.7 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_bca_is_scipys_and_differs_where_values_are_skewed():
    values = np.random.default_rng(1).exponential(size=30)
    plain, moved = (bootstrap_mean(values, method=method) for method in ("percentile", "bca"))
    assert plain.mean == moved.mean == values.mean()
    assert moved.low > plain.low
    assert moved.high > plain.high
    assert bootstrap_mean(np.ones(5), method="bca") == (1, 1, 1)


def test_weights_are_draws_of_questions():
    drawn = np.stack(list(weights_of_resamples(40, 500, 0)))
    assert (drawn.sum(axis=1) == 40).all()
    assert abs(drawn.var() - 39 / 40) < 0.03
    values = np.random.default_rng(2).random(40)
    found = bootstrap_statistic(lambda weights: (weights @ values) / weights.sum(), 40, resamples=2000)
    plain = bootstrap_mean(values)
    assert found.mean == pytest.approx(plain.mean)
    np.testing.assert_allclose(found[1:], plain[1:], atol=0.01)


def test_a_paired_difference_sees_what_two_intervals_hide():
    rng = np.random.default_rng(3)
    base = rng.random(200)
    better = base + 0.02 + 0.02 * rng.random(200)
    apart = [bootstrap_mean(one) for one in (base, better)]
    assert apart[0].high > apart[1].low
    found = paired_difference(better, base)
    assert 0 < found.low < found.mean == pytest.approx((better - base).mean())
    assert found.p < 0.001
    assert paired_difference(base, base) == (0, 0, 0, 1)


def test_bad_values_are_refused():
    for values in ([], [[1.0, 2.0]], [np.nan]):
        with pytest.raises(BadInput, match="a finite value for each question"):
            bootstrap_mean(np.array(values))
    with pytest.raises(BadInput, match="method must be"):
        bootstrap_mean(np.ones(3), method="normal")
    for resamples in (99, True, 1e3):
        with pytest.raises(BadInput, match="resamples must be"):
            bootstrap_mean(np.ones(3), resamples=resamples)
    with pytest.raises(BadInput, match="same questions"):
        paired_difference(np.ones(3), np.ones(4))
    with pytest.raises(BadInput, match="questions must be"):
        bootstrap_statistic(lambda weights: 0.0, 0)


# --- overlaps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["histogram", "kde"])
@pytest.mark.parametrize("apart", [0.0, 1.0, 2.0, 4.0])
def test_overlap_of_two_gaussians_is_known(how, apart):
    from scipy.stats import norm

    rng = np.random.default_rng(4)
    found = overlap_coefficient(rng.standard_normal(40_000), rng.standard_normal(40_000) + apart, how=how)
    assert found == pytest.approx(2 * norm.cdf(-apart / 2), abs=0.03)


def test_density_is_scipys():
    from scipy.stats import gaussian_kde

    from inlay.evaluation.score_overlap import _density, _grid

    values = np.random.default_rng(5).gamma(3, size=400)
    weights = np.random.default_rng(6).integers(0, 4, 400)
    grid = _grid(values, values)
    for used in (None, weights.astype(np.float64)):
        np.testing.assert_allclose(
            _density(values, used, grid), gaussian_kde(values, weights=used)(grid), atol=1e-3
        )  # fmt: skip


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 99), st.sampled_from(["histogram", "kde"]))
@settings(max_examples=40, deadline=None)
def test_overlap_is_a_share_and_the_same_both_ways(n, m, seed, how):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal(n), rng.standard_normal(m) * 2 + 1
    found = overlap_coefficient(a, b, how=how)
    assert -1e-9 <= found <= 1 + 1e-6
    assert found == pytest.approx(overlap_coefficient(b, a, how=how))
    assert overlap_coefficient(a, a, how=how) == pytest.approx(1, abs=2e-3)


def test_bad_samples_are_refused():
    assert overlap_coefficient(np.ones(3), np.ones(5)) == 1
    for wrong in (np.array([]), np.array([np.nan])):
        with pytest.raises(BadInput, match="sample of finite scores"):
            overlap_coefficient(wrong, np.ones(2))
    with pytest.raises(BadInput, match="how must be"):
        overlap_coefficient(np.ones(2), np.ones(2), how="normal")
    with pytest.raises(BadInput, match="bins must be"):
        overlap_coefficient(np.ones(2), np.ones(2), bins=1)


def test_clouds_apart_overlap_less():
    rng = np.random.default_rng(7)
    near, far = rng.standard_normal((200, 12)), rng.standard_normal((200, 12))
    assert cloud_overlap(near, far) > 0.9
    assert cloud_overlap(near + 2, far - 2) < 0.1
    with pytest.raises(BadInput, match="two of one width"):
        cloud_overlap(near, far[:, :5])
    with pytest.raises(BadInput, match="two of one width"):
        cloud_overlap(near[:1], far)


# --- cuts -------------------------------------------------------------------------------------------------------------


def samples(apart, questions=80, seed=8):
    rng = np.random.default_rng(seed)
    return (
        Scores.of([rng.standard_normal(1 + i % 4) + apart for i in range(questions)]),
        Scores.of(rng.standard_normal((questions, 3))),
    )


def brute(correct, random, rule, share=0.95):
    """Every possible cut, tried."""
    best, found = -np.inf, np.nan
    for cut in sorted({*correct, *random}, reverse=True):
        hits, false = (correct >= cut).sum(), (random >= cut).sum()
        if rule == "recall":
            if hits / len(correct) >= share:
                return cut
            continue
        value = (
            hits * len(random) - false * len(correct) if rule == "youden" else 2 * hits / (len(correct) + hits + false)
        )
        if value > best + 1e-12:
            best, found = value, cut
    return found


@given(st.integers(0, 200), st.sampled_from(["youden", "f1", "recall"]), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_a_cut_is_the_best_of_all_cuts(seed, rule, digits):
    correct, random = samples(1, 20, seed)
    correct, random = (Scores(one.values.round(digits), one.question, 20) for one in (correct, random))
    found = score_cut(correct, random, rule, resamples=100)
    assert found.score == brute(correct.values, random.values, rule)
    assert found.kept == (correct.values >= found.score).mean()
    assert found.passed == (random.values >= found.score).mean()


@pytest.mark.parametrize("rule", RULES)
def test_a_resample_is_questions_drawn_again(rule):
    """The weighted form against scores written out as often as their question was drawn."""
    from inlay.evaluation.score_overlap import _Crossing, _Pool

    correct, random = samples(1.5, 30)
    weights = next(iter(weights_of_resamples(30, 100, 1)))
    find = {"youden": _Pool(correct, random).youden, "f1": _Pool(correct, random).f1,
            "recall": lambda w: _Pool(correct, random).recall(w, 0.95),
            "crossing": _Crossing(correct, random).at}[rule]  # fmt: skip
    copied = [np.repeat(one.values, weights[one.question]) for one in (correct, random)]
    if rule == "crossing":
        from scipy.stats import gaussian_kde

        cut = find(weights)
        weighted = [gaussian_kde(one.values, weights=weights[one.question])(cut)[0] for one in (correct, random)]
        assert weighted[0] == pytest.approx(weighted[1], rel=0.02)
    else:
        assert find(weights) == brute(*copied, rule)


def test_cuts_of_gaussians_are_where_theory_has_them():
    correct, random = samples(3, 4000)
    for rule in ("youden", "crossing"):
        found = score_cut(correct, random, rule, resamples=100)
        assert found.score == pytest.approx(1.5, abs=0.15)
        assert found.low <= found.score <= found.high
    recall = score_cut(correct, random, "recall", share=0.9, resamples=200)
    assert recall.score == pytest.approx(3 - 1.2816, abs=0.06)
    assert recall.kept >= 0.9
    assert recall.high - recall.low < 0.2


def test_bad_cuts_are_refused():
    correct, random = samples(1)
    with pytest.raises(BadInput, match="rule must be"):
        score_cut(correct, random, "best")
    with pytest.raises(BadInput, match="share must be"):
        score_cut(correct, random, "recall", share=0)
    with pytest.raises(BadInput, match="80 questions against 2"):
        score_cut(correct, Scores.of([[1.0], [2.0]]))
    with pytest.raises(BadInput, match="question 1 has no random score"):
        score_cut(Scores.of([[1.0], [2.0]]), Scores.of([[0.5], []]))
    for wrong in ([], [[], []]):
        with pytest.raises(BadInput, match="no scores"):
            Scores.of(wrong)
    with pytest.raises(BadInput, match="NaN or infinite"):
        Scores.of([[np.inf]])


# --- the report -------------------------------------------------------------------------------------------------------


def spaces(questions=60, groups=6, each=8, noise=(0.5, 0.8, 1.2), seed=9):
    """Sentences round the centres of groups, questions of each group: encoders of more and more noise."""
    rng = np.random.default_rng(seed)
    labels, asked = np.repeat(np.arange(groups), each), np.arange(questions) % groups
    found = {}
    for wide in noise:
        centres = rng.standard_normal((groups, 16))
        found[f"noise {wide}"] = tuple(
            (centres[of] + wide * 2 * rng.standard_normal((len(of), 16))).astype(np.float32) for of in (asked, labels)
        )
    return found, [np.flatnonzero(labels == one) for one in asked]


def test_a_report_ranks_encoders_and_says_why():
    encoders, gold = spaces()
    report = report_encoders(encoders, gold, resamples=300)
    accuracy = [one.accuracy[1].mean for one in report.encoders.values()]
    overlap = [one.overlaps["C/R"] for one in report.encoders.values()]
    assert accuracy == sorted(accuracy, reverse=True)
    assert overlap == sorted(overlap)
    one = report.encoders["noise 0.8"]
    asked, rows = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in encoders["noise 0.8"])
    cosines = asked @ rows.T
    best = np.argsort(-cosines, axis=1)
    for k in (1, 3, 5):
        hits = [np.isin(line[:k], own).any() for line, own in zip(best, gold)]
        np.testing.assert_array_equal(one.hits[k], hits)
    np.testing.assert_allclose(one.top.values.reshape(60, 5), -np.sort(-cosines, axis=1)[:, :5], atol=1e-6)
    for number, own in enumerate(gold):
        mine = one.correct.values[one.correct.question == number]
        np.testing.assert_allclose(np.sort(mine), np.sort(cosines[number, own]), atol=1e-6)
        drawn = one.random.values[one.random.question == number]
        assert len(drawn) == 17  # 8 correct ones, but 1,000 pairs over 60 questions
        assert (np.abs(drawn[:, None] - np.delete(cosines[number], own)).min(axis=1) < 1e-6).all()
    difference = report.paired("noise 0.5", "noise 1.2")
    assert difference.low > 0
    assert difference.p < 0.05
    rows = report.table()
    assert [row["encoder"] for row in rows] == list(encoders)
    assert rows[0]["interval"][0] <= rows[0]["accuracy@1"] <= rows[0]["interval"][1]
    assert report.threshold("noise 0.5").kept >= 0.95
    assert report.correlations()["overlap C/R"].rho == pytest.approx(-1)
    assert set(report.correlations(3)) >= {"iso_score", "partition_ratio", "mean_cosine"}


def test_random_sentences_are_uniform_over_those_that_are_not_correct():
    from inlay.evaluation.encoder_report import _random_others

    truth = [np.array([0, 3, 4, 9])] * 6000
    drawn = np.concatenate(_random_others(truth, [1] * 6000, 10, np.random.default_rng(0)))
    counts = np.bincount(drawn, minlength=10)
    assert (counts[[0, 3, 4, 9]] == 0).all()
    assert (np.abs(counts[[1, 2, 5, 6, 7, 8]] - 1000) < 150).all()


def test_p_is_exact_for_few_encoders():
    from scipy.stats import spearmanr

    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 3, 5, 4])
    found = rank_correlation(a, b)
    assert found.rho == pytest.approx(spearmanr(a, b).statistic)
    every = [spearmanr(a, list(order)).statistic for order in permutations(b)]
    assert found.p == pytest.approx(np.mean(np.abs(every) >= found.rho - 1e-9))
    assert rank_correlation(a, np.ones(5)) == (0, 1)
    assert rank_correlation(a, a).rho == pytest.approx(1)


def test_bad_reports_are_refused():
    encoders, gold = spaces()
    first = dict(list(encoders.items())[:1])
    asked, rows = next(iter(encoders.values()))
    with pytest.raises(BadInput, match="no encoders"):
        report_encoders({}, gold)
    with pytest.raises(BadInput, match="different numbers"):
        report_encoders({**first, "b": (asked[:3], rows)}, gold)
    with pytest.raises(BadInput, match="gold names"):
        report_encoders(first, gold[:5])
    for own, says in (([], "has no correct"), ([99], "must be numbers"), ([0.5], "must be numbers"),
                      (range(48), "every sentence is correct")):  # fmt: skip
        with pytest.raises(BadInput, match=says):
            report_encoders(first, [own, *gold[1:]])
    with pytest.raises(BadInput, match="k must be"):
        report_encoders(first, gold, k=(0,))
    with pytest.raises(BadInput, match="most_correct"):
        report_encoders(first, gold, most_correct=0)
    report = report_encoders(first, gold, resamples=100)
    with pytest.raises(BadInput, match="no encoder 'b'"):
        report.threshold("b")
    with pytest.raises(BadInput, match="accuracy@2 was not measured"):
        report.paired("noise 0.5", "noise 0.5", k=2)
    with pytest.raises(BadInput, match="show no correlation"):
        report.correlations()
    with pytest.raises(BadInput, match="is zero"):
        report_encoders({"a": (asked, rows * 0)}, gold)
