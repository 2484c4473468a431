"""Codecs of single numbers and bits: casts, steps, percentiles, signs; their scores, bytes, files and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs import (
    BFloat16,
    EqualSteps,
    Float4,
    Float8,
    Float16,
    Float32,
    HyperplaneBits,
    Int8,
    OptimisedProduct,
    Percentiles,
    ProductQuantiser,
    Signs,
    Ternary,
)
from inlay.codecs.coarse_product import CoarseProduct
from inlay.codecs.fitted import Fitted
from inlay.codecs.floats import LAYOUTS, cast, power_of_two, values_of
from inlay.codecs.named import FAMILIES, PRESETS, codec
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.types import Codec

MAKERS = {
    "bfloat16": BFloat16,
    "e4m3": Float8,
    "e5m2": lambda: Float8("e5m2"),
    "float4": Float4,
    "steps 8": EqualSteps,
    "steps 4": lambda: EqualSteps(4, tails=0.01),
    "steps 2": lambda: EqualSteps(2, per="all"),
    "percentiles 8": Percentiles,
    "percentiles 4": lambda: Percentiles(4),
    "percentiles 2": lambda: Percentiles(2),
    "signs": Signs,
    "median": lambda: Signs("median"),
    "auto": lambda: Signs("auto"),
    "random": lambda: Signs("mean", rotation="random", bits=5),
    "itq": lambda: Signs("mean", rotation="itq", bits=6),
    "ternary": Ternary,
    "hyperplanes": lambda: HyperplaneBits(70, seed=3),
}


def unit(n: int, dim: int, seed: int = 0, off: float = 0.0) -> np.ndarray:
    """Unit rows whose axes differ in variance, round a mean of length `off`."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, dim)) * np.linspace(0.3, 1.5, dim) / np.sqrt(dim)
    rows += off * random.normal(size=dim) / np.sqrt(dim)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def error(made, rows: np.ndarray) -> float:
    return float(((made.decode(made.encode(rows)) - rows) ** 2).sum(axis=1).mean())


def near(scores: np.ndarray, truth: np.ndarray, k: int = 10) -> float:
    ours, theirs = (np.argpartition(-one, k, axis=1)[:, :k] for one in (scores, truth))
    return float((ours[:, :, None] == theirs[:, None]).any(axis=2).mean())


@pytest.mark.parametrize("format", ["e4m3", "e5m2", "e2m1"])
def test_casts_agree_with_a_library_on_every_value_and_every_tie(format):
    types = pytest.importorskip("ml_dtypes")
    theirs = {"e4m3": types.float8_e4m3fn, "e5m2": types.float8_e5m2, "e2m1": types.float4_e2m1fn}[format]
    values = values_of(format)
    usable = np.isfinite(values) & (np.abs(values) <= LAYOUTS[format][2])
    np.testing.assert_array_equal(
        values[usable], np.arange(len(values), dtype=np.uint8).view(theirs).astype("f4")[usable]
    )
    np.testing.assert_array_equal(values[cast(values[usable], format)], values[usable])
    some = np.unique(np.abs(values[usable]))
    middles = (some[1:] + some[:-1]) / 2
    around = np.concatenate([middles, np.nextafter(middles, 0), np.nextafter(middles, np.float32(1e9))])
    random = np.random.default_rng(0).normal(size=20_000) * 10 ** np.random.default_rng(1).uniform(-8, 5, size=20_000)
    numbers = np.concatenate([around, -around, random]).astype(np.float32)
    expected = np.clip(numbers, -LAYOUTS[format][2], LAYOUTS[format][2]).astype(theirs).astype(np.float32)
    np.testing.assert_array_equal(values[cast(numbers, format)], expected)


def test_bfloat16_agrees_with_a_library_and_never_becomes_infinite():
    types = pytest.importorskip("ml_dtypes")
    bits = np.random.default_rng(0).integers(0, 1 << 32, size=40_000, dtype=np.uint64).astype(np.uint32)
    numbers = bits.view(np.float32)
    numbers = numbers[np.isfinite(numbers) & (np.abs(numbers) < 3.3e38)][None]
    made = BFloat16().fit(numbers)
    np.testing.assert_array_equal(made.encode(numbers), numbers.astype(types.bfloat16).view(np.uint16))
    most = np.full((1, 1), np.finfo(np.float32).max)
    assert np.isfinite(BFloat16().fit(most).decode(BFloat16().fit(most).encode(most))).all()


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 50))
def test_the_scale_is_one_power_of_two_that_puts_the_99_9th_percentile_below_the_end(scale, seed):
    rows = (np.random.default_rng(seed).normal(size=(200, 40)) * scale).astype(np.float32)
    factor = power_of_two(rows, 6.0)
    assert factor == 2.0 ** round(np.log2(factor))
    size = np.percentile(np.abs(rows), 99.9)
    assert 3.0 * (1 - 1e-6) < size * factor <= 6.0 * (1 + 1e-6)


def test_float4_of_unit_rows_is_nothing_without_its_scale():
    rows = unit(300, 512)
    assert not Float4(scale=1).fit(rows).encode(rows * np.float32(0.4)).view(np.uint8).__and__(0x77).any()
    assert error(Float4().fit(rows), rows) < 0.03
    assert error(Float8().fit(rows), rows) < 0.001
    # A cast of the same numbers at another power of two changes nothing while none is subnormal or beyond the end.
    plain, scaled = Float8(scale=2.0**9).fit(rows), Float8(scale=2.0**8).fit(rows)
    large = np.where(np.abs(rows) < 2**-13, np.float32(0), rows)
    np.testing.assert_array_equal(plain.decode(plain.encode(large)), scaled.decode(scaled.encode(large)))
    huge = np.full((1, 512), 1e6, dtype=np.float32)
    assert (plain.decode(plain.encode(huge)) == 448 / 2.0**9).all()


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=8, deadline=None)
@given(dim=st.integers(6, 40), n=st.integers(2, 60), seed=st.integers(0, 99))
def test_scores_are_those_of_decoded_rows_and_bytes_are_counted(name, dim, n, seed):
    rows = unit(n, dim, seed, off=0.5)
    made = MAKERS[name]()
    assert isinstance(made, Codec)
    assert made.fit(rows) is made
    codes, query = made.encode(rows), unit(1, dim, seed + 1)[0]
    assert codes.nbytes == n * made.nbytes(dim)
    decoded = made.decode(codes)
    assert decoded.shape == rows.shape
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(made.scorer(query)(codes), decoded @ query, atol=2e-5)
    assert made.decode(codes[:0]).shape == (0, dim)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equal_steps_follow_the_definition(bits):
    rows = unit(1000, 7, 3)
    made = EqualSteps(bits).fit(rows)
    ordered = np.sort(rows, axis=0)
    low, high = ordered[25], ordered[-26]
    step = (high - low) / (2**bits - 1)
    codes = np.floor((rows.astype(np.float64) - low) / step) - 2 ** (bits - 1)
    assert (codes < -(2 ** (bits - 1))).any()  # what the clamp is for
    expected = np.clip(codes, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (made.numbers(rows) != expected).mean() < 2e-3  # numbers on an edge may fall to either side by rounding
    np.testing.assert_array_equal(made.unpacked(made.encode(rows)), made.numbers(rows))
    inside = (rows >= low) & (rows <= high)
    assert (np.abs(made.decode(made.encode(rows)) - rows) <= 0.501 * step)[inside].all()
    whole = EqualSteps(8, tails=0).fit(rows)
    np.testing.assert_allclose(whole.low, rows.min(axis=0))


def test_percentile_bins_hold_equally_many_and_stand_for_their_means():
    rows = unit(4096, 5, 1)
    for bits in (2, 4, 8):
        made = Percentiles(bits).fit(rows)
        numbers = made.numbers(rows)
        for column in range(5):
            held = np.bincount(numbers[:, column], minlength=2**bits)
            assert np.ptp(held) <= 2
            first = rows[numbers[:, column] == 1, column].mean()
            assert made.values[column, 1] == pytest.approx(first, abs=1e-6)
    losses = [error(Percentiles(bits).fit(rows), rows) for bits in (2, 4, 8)]
    assert losses[0] > 4 * losses[1] > 16 * losses[2]


def test_equal_values_make_equal_cuts_and_still_decode():
    rows = np.zeros((200, 2), dtype=np.float32)
    rows[:, 1] = np.where(np.arange(200) % 10, 0, np.arange(200))
    made = Percentiles(4).fit(rows)
    decoded = made.decode(made.encode(rows))
    assert np.isfinite(decoded).all()
    np.testing.assert_array_equal(decoded[:, 0], 0)
    # Bins between equal cuts are empty; zeros share theirs with the few numbers below the next cut.
    assert len(np.unique(made.numbers(rows)[:, 1])) == 2
    assert decoded[rows[:, 1] == 0, 1].max() < made.cuts[1, -1]


def test_raw_codes_are_what_corect_compares():
    rows, query = unit(400, 12, 2, off=1.0), unit(1, 12, 9, off=1.0)[0]
    for made in (EqualSteps(8, faithful=True), EqualSteps(2, faithful=True), Percentiles(4, faithful=True)):
        made.fit(rows)
        codes = made.encode(rows)
        asked = made.numbers(query[None])[0].astype(np.float32)
        np.testing.assert_array_equal(made.decode(codes), made.numbers(rows).astype(np.float32))
        np.testing.assert_allclose(made.scorer(query)(codes), made.decode(codes) @ asked, rtol=1e-5)


def test_signs_stand_for_the_mean_distance_and_hamming_for_the_angle():
    rows = unit(2000, 32, 4)
    made = Signs().fit(rows)
    assert set(np.unique(np.abs(made.decode(made.encode(rows)))).tolist()) <= set(made.size.tolist())
    np.testing.assert_allclose(made.size, np.abs(rows).mean(axis=0), rtol=1e-5)
    both = Signs(symmetric=True).fit(rows)
    query = rows[0] + 0.1 * unit(1, 32, 5)[0]
    agreeing = ((rows > 0) == (query > 0)).mean(axis=1)
    np.testing.assert_allclose(both.scorer(query)(both.encode(rows)), 2 * agreeing - 1, atol=1e-6)
    many = HyperplaneBits(8192, symmetric=True).fit(rows)
    angle = np.pi / 2 * (1 - many.scorer(rows[0])(many.encode(rows)))
    np.testing.assert_allclose(np.cos(angle), rows @ rows[0], atol=0.06)
    exact = HyperplaneBits(8192).fit(rows)
    np.testing.assert_allclose(exact.scorer(rows[0])(exact.encode(rows)), rows @ rows[0], atol=0.07)


def test_the_threshold_of_an_off_centre_model_is_its_median():
    centred, away = unit(3000, 48, 6), unit(3000, 48, 6, off=3.0)
    assert Signs("auto").fit(centred).chosen == "zero"
    auto = Signs("auto", symmetric=True).fit(away)
    assert auto.chosen == "median"
    queries, kept = away[:200], away[200:]

    def found(made) -> float:
        made.fit(kept)
        return near(np.stack([made.scorer(q)(made.encode(kept)) for q in queries]), queries @ kept.T)

    assert found(Signs("median", symmetric=True)) > 1.3 * found(Signs("zero", symmetric=True))
    assert found(auto) == found(Signs("median", symmetric=True))


def test_rotations_are_orthonormal_and_itq_loses_least():
    rows = unit(3000, 24, 7)
    losses = {}
    for rotation in ("random", "itq"):
        made = Signs("mean", rotation=rotation).fit(rows)
        np.testing.assert_allclose(made.axes.T @ made.axes, np.eye(24), atol=1e-4)
        losses[rotation] = error(made, rows)
    assert losses["itq"] < losses["random"]


def test_three_values_lie_between_one_bit_and_two():
    rows = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32)
    share = error(Ternary().fit(rows), rows) / 16
    assert share == pytest.approx(0.19, abs=0.01)  # of the variance, what the best three values leave of normal numbers
    assert error(Percentiles(2).fit(rows), rows) / 16 < share < error(Signs().fit(rows), rows) / 16
    assert Ternary().nbytes(16) == 4


@pytest.mark.parametrize("name", MAKERS)
def test_they_come_back_from_a_file_and_damaged_ones_are_refused(name, tmp_path):
    rows, path = unit(300, 12, 1, off=0.4), tmp_path / "codec"
    made: Fitted = MAKERS[name]().fit(rows)
    again = type(made).load(made.save(path))
    assert repr(again) == repr(made)
    assert (again.dim, again.fixed_nbytes) == (12, made.fixed_nbytes)
    np.testing.assert_array_equal(again.decode(again.encode(rows)), made.decode(made.encode(rows)))
    raw, refused = bytearray(path.read_bytes()), 0
    for at in range(0, len(raw), 53):
        bad = raw.copy()
        bad[at] ^= 16
        path.write_bytes(bad)
        try:
            read = type(made).load(path)
        except (Corrupt, BadInput):
            refused += 1
            continue
        # Only what fills up to a whole line carries nothing.
        np.testing.assert_array_equal(read.decode(read.encode(rows)), made.decode(made.encode(rows)))
    assert refused >= 3
    path.write_bytes(raw[:-80])
    with pytest.raises(Corrupt):
        type(made).load(path)


def test_what_does_not_fit_its_settings_is_refused():
    made = EqualSteps(4).fit(unit(50, 6))
    for settings_ in ({"bits": 4, "dim": 7}, {"bits": 3, "dim": 6}, {"dim": True}, {}):
        with pytest.raises(Corrupt, match="does not fit"):
            EqualSteps.restored(made.arrays(), settings_)
    with pytest.raises(Corrupt):
        Percentiles.restored({"cuts": np.ones((6, 3)), "values": np.ones((6, 3))}, {"bits": 2, "dim": 6})
    with pytest.raises(Corrupt):
        Signs.restored({"threshold": np.zeros(6), "size": np.zeros(5)}, {"dim": 6})
    with pytest.raises(Corrupt):
        Float8.restored({"factor": np.array([np.nan])}, {"dim": 6})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Float8("e3m4"), "format must be one of e4m3, e5m2"),
        (lambda: Float8(scale=0), "scale must be 'auto' or a positive number, got 0"),
        (lambda: Float4(scale="big"), "got 'big'"),
        (lambda: EqualSteps(3), "bits must be 2, 4 or 8, got 3"),
        (lambda: EqualSteps(8, tails=0.5), "tails must be"),
        (lambda: EqualSteps(8, per="row"), "per must be one of"),
        (lambda: Percentiles(16), "bits must be 2, 4 or 8"),
        (lambda: Signs("one"), "threshold must be one of"),
        (lambda: Signs(rotation="pca"), "rotation must be one of"),
        (lambda: Signs(bits=4), "needs a rotation"),
        (lambda: Signs(rotation="random", bits=9).fit(unit(9, 4)), "take HyperplaneBits"),
        (lambda: Ternary(0), "cut must be"),
        (lambda: HyperplaneBits(0), "bits must be a positive"),
        (lambda: Float8().encode(unit(3, 4)), "call fit"),
        (lambda: Float8().fit(np.zeros((0, 4), np.float32)), "at least one row"),
        (lambda: Float8().fit(unit(3, 4)).encode(np.full((1, 4), np.nan)), "row 0 holds NaN"),
        (lambda: Float8().fit(unit(3, 4)).decode(np.zeros((2, 5), np.uint8)), "expected codes uint8"),
        (lambda: Float8().fit(unit(3, 4)).scorer(np.zeros(5)), "one finite query"),
        (lambda: Int8().scorer(np.zeros((2, 2))), "one finite query"),
        (lambda: Float16().scorer(np.full(3, np.inf)), "one finite query"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(BadInput, match=says):
        make()


def test_another_width_is_another_space():
    with pytest.raises(SpaceMismatch, match="rows of 4 numbers, got 5"):
        EqualSteps().fit(unit(9, 4)).encode(unit(3, 5))


@pytest.mark.parametrize("made", [Float32(), Float16(), Int8()])
def test_codecs_that_learn_nothing_score_too(made):
    rows, query = unit(40, 24), unit(1, 24, 1)[0]
    codes = made.fit(rows).encode(rows)
    np.testing.assert_allclose(made.scorer(query)(codes), made.decode(codes) @ query, atol=1e-6)
    assert str(codec(str(made))) == str(made)


def test_the_lists_of_a_coarse_product_score_too():
    rows, query = unit(600, 16), unit(1, 16, 1)[0]
    for lists in (0, 5):
        made = CoarseProduct(4, 16, lists=lists, iterations=2).fit(rows)
        codes = made.encode(rows)
        np.testing.assert_allclose(made.scorer(query)(codes), made.decode(codes) @ query, atol=1e-5)
    with pytest.raises(BadInput, match="one query"):
        made.scorer(np.zeros(15))


@pytest.mark.parametrize(
    "name",
    [
        *PRESETS,
        *(name for family in FAMILIES.values() for name in family),
        "pca:192|float8",
        "pca:0.25|truncate:32|int4",
        "opq:8x4",
        "residual-pq:8x8?lists=64",
        "float8:e5m2?scale=16.0",
        "signs:median?symmetric=true",
        "itq:128",
        "ternary?cut=0.7",
    ],
)
def test_names_go_there_and_back(name):
    made = codec(name)
    again = codec(str(made))
    assert repr(again) == repr(made)
    assert str(again) == str(made)
    assert repr(codec(**json.loads(json.dumps(made.spec)))) == repr(made)
    # A usual word is left out, and a preset with an argument is written in full.
    if name not in ("float8:e4m3", "signs:zero", "itq:128"):
        assert str(made) == name


def test_names_that_are_wrong_say_what_is_right():
    for name, says in {
        "flaot8": "did you mean 'float8'",
        "pca:192": r"write pca:192\|float32",
        "float8|pca:3": "maps and then one codec",
        "float8|int8": "maps and then one codec",
        "steps:3": "bits must be 2, 4 or 8",
        "float4:e2m1": "takes nothing after its colon",
        "pq": "either parts or dsub",
        "opq": "needs m: write opq:MxKSUB",
        "opq:8x20": "bits from 1 to 16",
        "steps?bit=4": "no option 'bit'",
        "steps?bits": "options are written",
        "": "no codec or map is called ''",
    }.items():
        with pytest.raises(BadInput, match=says):
            codec(name)
    with pytest.raises(BadInput, match="a codec is a name or an object"):
        codec(3)
    made = Float8()
    assert codec(made) is made
    with pytest.raises(BadInput, match="go with a name"):
        codec(made, scale=2)
    assert repr(codec("float8", scale=2)) == repr(Float8(scale=2))
    assert repr(codec("pq:16x4")) == repr(ProductQuantiser(16, bits=4))
    assert repr(codec("opq:16x4")) == repr(OptimisedProduct(16, 16))
