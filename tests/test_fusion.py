"""Fusion of ranked lists: against plain sums, and its bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_ndtr

from inlay.search import convex, fuse, reciprocal_rank, surprisal


@st.composite
def found(draw):
    ids = draw(st.lists(st.integers(0, 60), unique=True, max_size=30))
    scores = sorted(draw(st.lists(st.floats(0, 50, width=32), min_size=len(ids), max_size=len(ids))), reverse=True)
    return np.array(ids, dtype=np.int64), np.array(scores, dtype=np.float32)


@given(st.dictionaries(st.sampled_from(["lexical", "dense", "other"]), found(), min_size=1))
def test_reciprocal_rank_is_the_plain_sum(lists):
    plain: dict[int, float] = {}
    for ids, _ in lists.values():
        for rank, item in enumerate(ids.tolist(), 1):
            plain[item] = plain.get(item, 0) + 1 / (60 + rank)
    fused = reciprocal_rank(lists)
    assert sorted(fused.ids.tolist()) == sorted(plain)
    np.testing.assert_allclose(fused.scores, [plain[i] for i in fused.ids.tolist()], rtol=1e-5)
    assert (np.diff(fused.scores) <= 0).all()


@given(found(), found(), st.floats(0.05, 0.95))
def test_convex_scores_lie_between_nothing_and_everything(lexical, dense, share):
    lists = {"lexical": lexical, "dense": dense}
    fused = convex(lists, weights={"lexical": 1 - share, "dense": share}, floors={"lexical": 0.0, "dense": 0.0})
    assert ((fused.scores >= 0) & (fused.scores <= 1 + 1e-5)).all()
    total = sum(fused.parts.values()) if fused.parts else np.zeros(0)
    np.testing.assert_allclose(total, fused.scores, atol=1e-6)


@given(found(), st.floats(0.5, 100))
def test_convex_does_not_depend_on_the_scale_of_a_list(lexical, factor):
    other = (lexical[0][::-1].copy(), np.linspace(1, 0.1, len(lexical[0]), dtype=np.float32))
    weights = {"lexical": 0.6, "dense": 0.4}
    floors = {"lexical": 0.0, "dense": 0.0}
    one = convex({"lexical": lexical, "dense": other}, weights=weights, floors=floors)
    scaled = (lexical[0], lexical[1] * np.float32(factor))
    two = convex({"lexical": scaled, "dense": other}, weights=weights, floors=floors)
    by_id = dict(zip(two.ids.tolist(), two.scores.tolist()))
    np.testing.assert_allclose(one.scores, [by_id[i] for i in one.ids.tolist()], atol=1e-4)


def test_an_encoder_that_says_its_worth_is_fused_by_scores_and_another_by_ranks():
    lists = {
        "lexical": (np.array([1, 2]), np.array([10.0, 1.0], dtype=np.float32)),
        "dense": (np.array([2, 1]), np.array([0.9, 0.8], dtype=np.float32)),
    }

    class Weak:
        hybrid_share, hybrid_floor = 0.1, 0.0

    assert fuse("lexical", "dense", lists, Weak()).ids.tolist() == [1, 2]
    by_rank = fuse("lexical", "dense", lists)
    assert by_rank.scores[0] == pytest.approx(by_rank.scores[1])


@given(found(), found(), st.floats(-5, 20), st.floats(0.1, 10), st.floats(0.05, 2))
def test_surprisal_is_bm25_and_what_chance_would_make_of_the_dense_score(lexical, dense, mean, deviation, weight):
    lists = {"lexical": lexical, "dense": dense}
    fused = surprisal(lists, lexical="lexical", dense="dense", background=(mean, deviation), weight=weight)
    surprise = -log_ndtr((mean - dense[1].astype(np.float64)) / deviation)
    plain = dict(zip(lexical[0].tolist(), lexical[1].tolist()))
    for item, amount in zip(dense[0].tolist(), weight * (surprise - surprise.min(initial=np.inf))):
        plain[item] = plain.get(item, 0) + amount
    assert sorted(fused.ids.tolist()) == sorted(plain)
    np.testing.assert_allclose(fused.scores, [plain[i] for i in fused.ids.tolist()], rtol=1e-4, atol=1e-4)
    assert (np.diff(fused.scores) <= 0).all()


def test_surprisal_of_a_dense_list_alone_keeps_its_order():
    scores = np.linspace(3, -3, 40, dtype=np.float32)  # half of them below the mean
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.float32))
    fused = surprisal(
        {"lexical": nothing, "dense": (np.arange(40)[::-1], scores)}, lexical="lexical", dense="dense",
        background=(0.0, 1.0),
    )  # fmt: skip
    assert fused.ids.tolist() == list(range(40))[::-1]


@given(found(), found(), st.floats(0.5, 100), st.floats(-10, 10))
def test_surprisal_does_not_depend_on_scale_and_offset_of_the_dense_scores(lexical, dense, factor, offset):
    one = surprisal({"a": lexical, "b": dense}, lexical="a", dense="b", background=(2.0, 1.5))
    moved = (dense[0], (dense[1].astype(np.float64) * factor + offset))
    two = surprisal(
        {"a": lexical, "b": moved}, lexical="a", dense="b", background=(2.0 * factor + offset, 1.5 * factor)
    )
    by_id = dict(zip(two.ids.tolist(), two.scores.tolist()))
    np.testing.assert_allclose(one.scores, [by_id[i] for i in one.ids.tolist()], rtol=1e-3, atol=1e-3)


def test_surprisal_where_all_dense_scores_are_equal_goes_by_words():
    lists = {
        "lexical": (np.array([5, 4]), np.array([2.0, 1.0], dtype=np.float32)),
        "dense": (np.array([1, 4, 5]), np.full(3, 0.7, dtype=np.float32)),
    }
    fused = surprisal(lists, lexical="lexical", dense="dense", background=(0.7, 0.0))
    assert fused.ids.tolist() == [5, 4, 1]


def test_far_tails_stay_finite_and_in_order():
    scores = np.array([500, 40, 30, 26, 25, 24.9, 24, 5, -5, -60], dtype=np.float32)
    fused = surprisal(
        {"l": (np.zeros(0, np.int64), np.zeros(0, np.float32)), "d": (np.arange(10), scores)}, lexical="l", dense="d",
        background=(0.0, 1.0), weight=1.0,
    )  # fmt: skip
    assert fused.ids.tolist() == list(range(10))
    assert np.isfinite(fused.scores).all()
    assert fused.scores[0] == pytest.approx(500**2 / 2 + math.log(500 * math.sqrt(2 * math.pi)), rel=1e-5)


def test_lists_of_unknown_worth_are_fused_by_surprisal_where_there_is_a_background():
    lists = {
        "lexical": (np.array([1, 2]), np.array([4.0, 3.9], dtype=np.float32)),
        "dense": (np.array([2, 1]), np.array([0.9, 0.1], dtype=np.float32)),
    }
    assert fuse("lexical", "dense", lists, None, (0.0, 0.1)).ids.tolist() == [2, 1]  # nine deviations
    assert fuse("lexical", "dense", lists, None, (0.0, 10.0)).ids.tolist() == [1, 2]  # a tenth of one


def test_ties_go_to_the_lower_id():
    fused = reciprocal_rank({"a": (np.array([9]), np.ones(1)), "b": (np.array([3]), np.ones(1))})
    assert fused.ids.tolist() == [3, 9]
