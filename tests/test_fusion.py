"""Fusion of ranked lists: against plain sums, and its bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.search import convex, fuse, reciprocal_rank


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


def test_ties_go_to_the_lower_id():
    fused = reciprocal_rank({"a": (np.array([9]), np.ones(1)), "b": (np.array([3]), np.ones(1))})
    assert fused.ids.tolist() == [3, 9]
