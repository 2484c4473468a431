"""Shape of rows: dimension against known manifolds and a library, isotropy against its formula, hubs, truncation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.evaluation.hubness import hubs
from inlay.evaluation.intrinsic_dimension import (
    dimension_of_subsamples,
    distinct_neighbours,
    levina_bickel,
    two_nn,
    two_nn_of,
)
from inlay.evaluation.isotropy import (
    constant_dimensions,
    iso_score,
    mean_cosine,
    participation_ratio,
    partition_ratio,
)
from inlay.evaluation.redundancy import truncation_curve
from inlay.evaluation.row_geometry import LEAST, geometry
from inlay.indexes.local_dimension import near_distances
from inlay.spaces import Moments


def flat(n, rank, dim=100, seed=0):
    """A Gaussian of `rank` dimensions in `dim`."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, rank)))[0].T
    return (rng.standard_normal((n, rank)) @ basis).astype(np.float32)


def swiss_roll(n, seed=0):
    rng = np.random.default_rng(seed)
    turn, width = 1.5 * np.pi * (1 + 2 * rng.random(n)), 21 * rng.random(n)
    return np.stack([turn * np.cos(turn), width, turn * np.sin(turn)], axis=1).astype(np.float32)


def sphere(n, dim, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


MANIFOLDS = {
    "plane of 2": (lambda: flat(3000, 2), 2),
    "space of 5": (lambda: flat(3000, 5), 5),
    "space of 10": (lambda: flat(3000, 10), 10),
    "swiss roll": (lambda: swiss_roll(3000), 2),
    "sphere in 4": (lambda: sphere(3000, 4), 3),
    "sphere in 8": (lambda: sphere(3000, 8), 7),
}


# --- intrinsic dimension ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFOLDS)
def test_manifolds_of_known_dimension(name):
    make, truth = MANIFOLDS[name]
    rows = make()
    distances = distinct_neighbours(rows, 20, metric="l2").distances
    for found in (
        two_nn_of(distances),
        two_nn_of(distances, method="fit"),
        levina_bickel(rows, metric="l2"),
        levina_bickel(rows, (5, 10), combine="inverse", metric="l2"),
    ):
        assert abs(found / truth - 1) < 0.15


def test_two_nn_is_its_formula():
    rows = flat(200, 4)
    distances = np.linalg.norm(rows[:, None].astype(float) - rows[None], axis=2)
    r = np.sort(distances + np.diag(np.full(200, np.inf)), axis=1)
    logs = np.sort(np.log(r[:, 1] / r[:, 0]))
    np.testing.assert_allclose(two_nn(rows, metric="l2"), 199 / logs.sum(), rtol=1e-5)
    x, y = logs[:180], -np.log(1 - np.arange(1, 181) / 200)
    slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    np.testing.assert_allclose(two_nn(rows, method="fit", metric="l2"), slope, rtol=1e-5)


@pytest.mark.parametrize("rank", [3, 12])
def test_two_nn_and_levina_bickel_are_those_of_scikit_dimension(rank):
    skdim = pytest.importorskip("skdim")
    rows = flat(500, rank, dim=40)
    for discard in (0.1, 0.25):
        theirs = skdim.id.TwoNN(discard_fraction=discard).fit(rows.astype(np.float64)).dimension_
        np.testing.assert_allclose(two_nn(rows, method="fit", discard=discard, metric="l2"), theirs, rtol=1e-4)
    for discard in (0.0, 0.1):
        theirs = skdim.id.TwoNN(discard_fraction=discard, method="mle").fit(rows.astype(np.float64)).dimension_
        np.testing.assert_allclose(two_nn(rows, discard=discard, metric="l2"), theirs, rtol=1e-4)
    for unbiased in (False, True):
        for ours, combine in (("mean", "mean"), ("median", "median"), ("inverse", "mle")):
            model = skdim.id.MLE(unbiased=unbiased)
            theirs = model.fit(rows.astype(np.float64), n_neighbors=20, comb=combine).dimension_
            found = levina_bickel(rows, 20, combine=ours, unbiased=unbiased, metric="l2")
            np.testing.assert_allclose(found, theirs, rtol=1e-4)


def test_duplicates_are_left_out_of_neighbours():
    rows = flat(90, 6)
    twice = np.concatenate([rows, rows[:40], rows[:40] * np.float32(3)])  # to a cosine the last are the same, too
    found = distinct_neighbours(twice, 5)
    assert found.kept.tolist() == list(range(90))
    assert (found.distances > 0).all()
    np.testing.assert_allclose(two_nn(twice), two_nn(rows), rtol=1e-9)
    many = np.concatenate([rows] + [rows[:1]] * 60)
    np.testing.assert_allclose(two_nn(many), two_nn(rows), rtol=1e-9)


@given(st.floats(0.01, 100), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_scale_rotation_and_place_change_nothing(scale, seed):
    rows = flat(150, 3, dim=8, seed=seed)
    turn = np.linalg.qr(np.random.default_rng(seed + 9).standard_normal((8, 8)))[0]
    moved = (scale * (rows @ turn + 0.5)).astype(np.float32)
    for estimate in (two_nn, levina_bickel):
        np.testing.assert_allclose(estimate(moved, metric="l2"), estimate(rows, metric="l2"), rtol=2e-3)


def test_subsamples_are_random_parts():
    rows = flat(400, 4)
    found = dimension_of_subsamples(rows, lambda part: two_nn(part, metric="l2"), subsamples=4, seed=3)
    assert found.shape == (4,)
    assert len(set(found.tolist())) == 4
    assert dimension_of_subsamples(rows, len, subsamples=2, share=0.25).tolist() == [100, 100]


def test_bad_rows_are_named():
    rows = flat(50, 3)
    with pytest.raises(BadInput, match="1 different row among 50"):
        two_nn(np.ones((50, 4), dtype=np.float32))
    with pytest.raises(BadInput, match=r"row 3 is zero \(1 of 50 are\)"):
        two_nn(np.where(np.arange(50)[:, None] == 3, 0, rows))
    for wrong in (rows[0], np.zeros((0, 3)), np.zeros((4, 0))):
        with pytest.raises(BadInput, match="expected rows"):
            two_nn(wrong)
    with pytest.raises(BadInput, match="NaN"):
        levina_bickel(np.full((50, 3), np.nan))
    with pytest.raises(BadInput, match="method must be"):
        two_nn(rows, method="line")
    with pytest.raises(BadInput, match="metric must be"):
        two_nn(rows, metric="euclid")
    for discard in (1, -0.1, True, "half"):
        with pytest.raises(BadInput, match="discard must be"):
            two_nn(rows, discard=discard)
    with pytest.raises(BadInput, match="leaves 1 to estimate"):
        two_nn(rows[:5], discard=0.7)
    for k in (1, (20, 10), "ten", (True, 5), (5,)):
        with pytest.raises(BadInput, match="k must be"):
            levina_bickel(rows, k)
    with pytest.raises(BadInput, match="combine must be"):
        levina_bickel(rows, combine="mode")
    with pytest.raises(BadInput, match="20 neighbours of each need 21"):
        levina_bickel(rows[:15])
    with pytest.raises(BadInput, match="subsamples must be"):
        dimension_of_subsamples(rows, subsamples=0)
    with pytest.raises(BadInput, match="share must be"):
        dimension_of_subsamples(rows, share=0)


# --- isotropy ---------------------------------------------------------------------------------------------------------


def long_formula(rows):
    variances = np.linalg.eigvalsh(np.cov(rows.T.astype(np.float64)))
    n = len(variances)
    scaled = np.sqrt(n) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (n - np.sqrt(n)))
    used = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    return (n * used - 1) / (n - 1)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_iso_score_is_the_long_formula(n, dim, seed):
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n, dim)) * rng.random(dim) + 5 * rng.random(dim)).astype(np.float32)
    assert abs(iso_score(rows) - long_formula(rows)) < 1e-9
    assert -1e-9 <= iso_score(rows) <= 1 + 1e-9


def test_iso_score_is_that_of_its_authors():
    module = pytest.importorskip("IsoScore.IsoScore")
    rows = flat(300, 12, dim=30) + np.random.default_rng(1).standard_normal((300, 30)).astype(np.float32) * 0.2
    assert abs(iso_score(rows) - float(module.IsoScore(rows.astype(np.float64)))) < 1e-6


def test_iso_score_at_its_ends():
    rng = np.random.default_rng(0)
    assert iso_score(rng.standard_normal((40_000, 10)).astype(np.float32)) > 0.99
    assert iso_score(np.outer(rng.standard_normal(50), rng.standard_normal(6))) < 1e-6
    assert participation_ratio(np.concatenate([np.eye(5), -np.eye(5)])) == pytest.approx(5)
    assert iso_score(np.concatenate([np.eye(5), -np.eye(5)])) == pytest.approx(1)


def test_wide_rows_over_many_blocks():
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((1500, 1300)) + 3).astype(np.float32)
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    values = np.linalg.eigvalsh(centred.T @ centred)
    np.testing.assert_allclose(participation_ratio(rows), values.sum() ** 2 / (values**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(participation_ratio(rows[:1100]), participation_ratio(rows[:1100] - 3), rtol=1e-4)


def test_moments_have_the_isotropy_of_their_rows():
    rows = flat(300, 7, dim=30) * np.linspace(0.2, 2, 30, dtype=np.float32) + 40
    moments = Moments.of(rows[:100]) + Moments.of(rows[100:])
    assert iso_score(moments) == pytest.approx(iso_score(rows), rel=1e-6)
    assert participation_ratio(moments) == pytest.approx(participation_ratio(rows), rel=1e-6)
    with pytest.raises(BadInput, match="are equal"):
        iso_score(Moments.of(np.full((30, 4), 0.1, dtype=np.float32)))
    for few in (Moments(), Moments.of(rows[:1])):
        with pytest.raises(BadInput, match="have no variance"):
            participation_ratio(few)


def test_partition_ratio_is_its_definition_whichever_side_is_longer():
    for shape in ((60, 7), (9, 30), (8, 8)):
        rows = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) / 3 + 0.1
        exact = rows.astype(np.float64)
        vectors = np.linalg.eigh(exact.T @ exact)[1]
        sums = [np.exp(sign * exact @ vectors).sum(axis=0) for sign in (1, -1)]
        np.testing.assert_allclose(partition_ratio(rows), np.min(sums) / np.max(sums), rtol=1e-6)
    ball = sphere(5000, 6)
    assert partition_ratio(ball) > 0.95
    assert partition_ratio(ball + 2) < 0.1  # a common mean counts, as it does not for IsoScore
    assert iso_score(ball + 2) == pytest.approx(iso_score(ball), rel=1e-4)
    assert 0 <= partition_ratio(ball * 1e4) < 1e-6  # without overflow


def test_mean_cosine_is_over_all_pairs():
    rows = np.random.default_rng(3).standard_normal((40, 9)).astype(np.float32) + 0.3
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    every = (unit @ unit.T)[np.triu_indices(40, 1)]
    assert mean_cosine(rows) == pytest.approx(float(every.mean()), abs=1e-6)


def test_bad_rows_have_no_isotropy():
    for equal in (np.ones((20, 5)), np.full((7, 40), 0.1)):
        with pytest.raises(BadInput, match="are equal"):
            iso_score(equal)
    with pytest.raises(BadInput, match="one row"):
        participation_ratio(np.ones((1, 4)))
    with pytest.raises(BadInput, match="one direction only"):
        iso_score(np.arange(5.0)[:, None])
    with pytest.raises(BadInput, match="expected rows"):
        partition_ratio(np.zeros(4))
    with pytest.raises(BadInput, match="is zero"):
        mean_cosine(np.zeros((3, 4)))
    with pytest.raises(BadInput, match="one row"):
        mean_cosine(np.ones((1, 4)))
    assert constant_dimensions(np.array([[1, 2, 3], [1, 5, 3]])) == 2


# --- hubs and the whole -----------------------------------------------------------------------------------------------


def test_occurrences_are_counted_in_all_lists():
    rows = flat(200, 5, dim=9)
    found = hubs(rows, 7)
    counted = np.zeros(200, dtype=int)
    for ids in near_distances(rows, 7)[0]:
        counted[ids] += 1
    np.testing.assert_array_equal(found.times, counted)
    assert found.times.mean() == 7
    centred = counted - 7
    assert found.skewness == pytest.approx((centred**3).mean() / (centred**2).mean() ** 1.5)
    assert (found.antihubs, found.most) == ((counted == 0).mean(), counted.max())
    with pytest.raises(BadInput, match="is zero"):
        hubs(np.zeros((30, 3)))
    with pytest.raises(BadInput, match="k=40 neighbours"):
        hubs(flat(20, 3), 40)


def test_hubs_come_with_dimension():
    few, many = hubs(flat(1500, 3), metric="l2"), hubs(flat(1500, 60), metric="l2")
    assert few.skewness < 0.6 < 1.5 < many.skewness
    assert few.antihubs < 0.01 < many.antihubs


def test_geometry_is_of_unit_rows_without_repetitions():
    rows = flat(300, 6, dim=20) + 0.2
    rows[:, 19] = 0
    whole = geometry(np.concatenate([rows, 2 * rows[:30]]))
    assert (whole.rows, whole.duplicates, whole.dim, whole.constant) == (300, 30, 20, 1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert whole.two_nn == pytest.approx(two_nn(unit, metric="l2"), rel=1e-5)
    assert whole.two_nn_fit == pytest.approx(two_nn(rows, method="fit"), rel=1e-5)
    assert whole.levina_bickel == pytest.approx(levina_bickel(rows), rel=1e-5)
    assert whole.iso_score == pytest.approx(iso_score(unit), rel=1e-5)
    assert whole.hubness == pytest.approx(hubs(rows).skewness)
    assert whole.two_nn_spread > 0
    assert geometry(rows, subsamples=0).two_nn_spread == 0
    assert whole.to_dict()["dim"] == 20
    with pytest.raises(BadInput, match=f"need {LEAST}"):
        geometry(rows[: LEAST - 1])
    with pytest.raises(BadInput, match="is zero"):
        geometry(np.zeros((30, 4)))
    with pytest.raises(BadInput, match="1 dimension"):
        geometry(np.ones((30, 1)))
    with pytest.raises(BadInput, match="subsamples"):
        geometry(rows, subsamples=-1)


# --- truncation -------------------------------------------------------------------------------------------------------


def labelled(dim=64):
    """Two classes that one random direction tells apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 2
    way = sphere(1, dim, seed=4)[0]
    return (rng.standard_normal((300, dim)) / 4 + np.where(labels, 1, -1)[:, None] * way).astype(np.float32), labels


def test_truncation_cuts_normalises_and_judges():
    rows, labels = labelled()
    seen = []

    def task(one):
        assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
        seen.append(one.shape[1])
        centres = np.stack([one[labels == label].mean(axis=0) for label in (0, 1)])
        return (one @ centres.T).argmax(axis=1) == labels

    curve = truncation_curve(rows, task, how=("first", "random", "pca"), seeds=(0, 1))
    assert seen[0] == 64
    assert sorted(curve.kept["first"]) == [2, 4, 8, 16, 32]
    assert seen.count(8) == 1 + 2 + 1  # random dimensions are drawn for each seed
    assert curve.kept["pca"][2] > 0.97 > curve.kept["first"][2]  # the direction is the first component
    assert curve.retained("first", 32) == curve.kept["first"][32] / curve.whole
    mean, low, high = curve.intervals["first"][4]
    assert mean == pytest.approx(curve.kept["first"][4])
    assert low <= mean <= high
    assert curve.enough(0.9, "pca") == 2
    assert curve.enough(1.01, "first") == 64
    assert curve.to_dict()["kept"]["first"]["2"] == round(curve.kept["first"][2], 5)


def test_sets_are_cut_alike_and_ways_may_be_ones_own():
    rows, _ = labelled(12)
    widths = truncation_curve([rows, rows[:50]], lambda a, b: np.abs(a[:50] - b).max(), dims=[3, 5], how=("random",))
    assert widths.kept["random"] == {3: 0, 5: 0}
    own = truncation_curve(
        rows, lambda one: one.shape[1], dims=[4], how={"last": lambda basis, dims, seed: lambda one: one[:, -dims:]}
    )
    assert own.kept == {"last": {4: 4.0}}
    assert own.intervals == {}
    roll = truncation_curve(swiss_roll(200), lambda one: one.shape[1], dims=[2], how=("isomap",))
    assert roll.kept["isomap"][2] == 2


def test_bad_truncations_are_refused():
    rows, _ = labelled(8)

    def task(one):
        return 1.0

    with pytest.raises(BadInput, match="how must be among"):
        truncation_curve(rows, task, how=("last",))
    for dims in ([0], [9], [True], []):
        with pytest.raises(BadInput, match="dims"):
            truncation_curve(rows, task, dims=dims)
    with pytest.raises(BadInput, match="cut alike"):
        truncation_curve([rows, rows[:, :4]], task)
    with pytest.raises(BadInput, match="nothing to cut"):
        truncation_curve(rows[:, :2], task)
    with pytest.raises(BadInput, match="no rows to cut"):
        truncation_curve([], task)
    with pytest.raises(BadInput, match="reduce_on"):
        truncation_curve(rows, task, reduce_on=rows[:, :3])
    with pytest.raises(BadInput, match="principal components"):
        truncation_curve(rows[:5], task, dims=[7], how=("pca",))
    with pytest.raises(BadInput, match="too few for an Isomap"):
        truncation_curve(rows[:5], task, dims=[2], how=("isomap",))
    with pytest.raises(BadInput, match="nothing was measured"):
        truncation_curve(rows, task).retained("pca", 5)
