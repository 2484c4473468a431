"""Codecs: error bounds, honest byte counts, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from inlay.codecs import Float16, Float32, Int8
from inlay.errors import BadInput
from inlay.types import Codec

CODECS = [Float32(), Float16(), Int8()]
ROWS = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(-60000, 60000, width=32)
)


@given(ROWS)
def test_decoded_values_stay_within_the_stated_error(rows):
    np.testing.assert_array_equal(Float32().decode(Float32().encode(rows)), rows)
    half = Float16().decode(Float16().encode(rows))
    assert (np.abs(half - rows) <= np.maximum(np.abs(rows) / 2048, 3e-8)).all()
    codes = Int8().encode(rows)
    bound = np.abs(rows).max(axis=1, keepdims=True) / 254
    assert (np.abs(Int8().decode(codes) - rows) <= bound * 1.0001 + 1e-40).all()
    assert codes.codes.min(initial=0) >= -127


@given(ROWS)
def test_int8_is_symmetric(rows):
    codes, negated = Int8().encode(rows), Int8().encode(-rows)
    np.testing.assert_array_equal(negated.codes, -codes.codes)
    np.testing.assert_array_equal(negated.scales, codes.scales)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_bytes_of_a_row_are_what_its_codes_take(codec):
    codes = codec.encode(np.ones((5, 24), dtype=np.float32))
    parts = codes if isinstance(codes, tuple) else (codes,)
    assert sum(part.nbytes for part in parts) == 5 * codec.nbytes(24)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_shape_of_the_protocol(codec):
    assert isinstance(codec, Codec)
    assert codec.fit(np.ones((2, 3), dtype=np.float32)) is codec
    assert codec.decode(codec.encode(np.empty((0, 3), dtype=np.float32))).shape == (0, 3)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_refused_by_number(codec, bad):
    with pytest.raises(BadInput, match="row 1 "):
        codec.encode(np.array([[0, 1], [bad, 0]], dtype=np.float32))


def test_float16_refuses_what_it_cannot_hold():
    with pytest.raises(BadInput, match="row 1 reaches 70000"):
        Float16().encode(np.array([[1], [70000]], dtype=np.float32))


def test_rows_of_zeros_and_of_tiny_numbers():
    codes = Int8().encode(np.array([[0, 0], [1e-45, -1e-45], [1e-40, -3e-41]], dtype=np.float32))
    assert np.isfinite(Int8().decode(codes)).all()
    assert not codes.codes[0].any()
