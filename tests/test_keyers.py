"""Keys from ids: each against a loop one would write down."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.kernels.mixing import mixed
from inlay.tables.keyers import (
    Engram,
    LongestNGram,
    digit_keys,
    ngram_keys,
    primes_above,
    radix,
    sign_keys,
    token_keys,
)

MASK = (1 << 64) - 1
texts = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=25)


def document(tokens: list[tuple[int, bool]], place: int) -> list[int]:
    """The tokens up to `place` of its document, the latest first."""
    found = []
    for token, begins in reversed(tokens[: place + 1]):
        found.append(token)
        if begins:
            break
    return found


@given(texts, st.integers(1, 4), st.integers(1, 1000), st.integers(1, 3), st.integers(0, 99))
def test_ngrams_are_hashed_one_by_one(tokens, n, buckets, heads, salt):
    ids, starts = np.array([t for t, _ in tokens], dtype=np.int64), np.array([b for _, b in tokens], dtype=bool)
    found = ngram_keys(ids, n, buckets, heads=heads, salt=salt, pad=77, starts=starts)
    assert found.shape == (len(tokens), heads)
    for place in range(len(tokens)):
        window = [*document(tokens, place), *[77] * n][:n]
        for head in range(heads):
            hashed = int(mixed(window[0], salt + head))
            for token in window[1:]:
                hashed = int(mixed(np.uint64(hashed ^ token), salt + head))
            assert found[place, head] == (hashed >> 1) % buckets


@given(texts, st.integers(2, 4), st.integers(1, 3), st.integers(0, 5))
def test_engram_keys_are_those_of_the_paper(tokens, n, heads, layer):
    keyer = Engram(10, 50, n=n, heads=heads, layer=layer, pad=3)
    ids, starts = np.array([t for t, _ in tokens], dtype=np.int64), np.array([b for _, b in tokens], dtype=bool)
    found = keyer.keys(ids, starts=starts)
    assert found.shape == (len(tokens), (n - 1) * heads)
    multipliers = keyer.multipliers.tolist()
    assert all(m % 2 and m * 9 < 1 << 63 for m in multipliers)
    for place in range(len(tokens)):
        window, expected = [*document(tokens, place), *[3] * n][:n], []
        for order in range(2, n + 1):
            mix = 0
            for k in range(order):
                mix ^= window[k] * multipliers[k]
            offset = keyer.offsets[order - 2].tolist()
            expected += [mix % p + o for p, o in zip(keyer.primes[order - 2].tolist(), offset)]
        assert found[place].tolist() == expected
    assert keyer.rows == keyer.primes.sum()
    assert not found.size or 0 <= found.min() <= found.max() < keyer.rows


def test_engram_tables_share_no_modulus_and_no_multiplier_across_layers():
    used: set[int] = set()
    layers = [Engram(1000, 500, layer=layer, used=used) for layer in (1, 4)]
    moduli = np.concatenate([layer.primes.reshape(-1) for layer in layers])
    assert len(set(moduli.tolist())) == len(moduli) == 2 * 2 * 8
    assert moduli.min() > 500
    assert not set(layers[0].multipliers.tolist()) & set(layers[1].multipliers.tolist())
    again = Engram(1000, 500, layer=1)
    assert np.array_equal(again.multipliers, layers[0].multipliers)
    assert primes_above(10, 4, {13}) == [11, 17, 19, 23]


def test_no_ngram_looks_ahead():
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 50, (3, 40))
    changed = ids.copy()
    changed[:, 20:] = generator.integers(0, 50, (3, 20))
    longest = LongestNGram([[1], *np.unique(ids[:, :3], axis=0).tolist()])
    engram = Engram(50, 1000)
    for keys in (lambda x: ngram_keys(x, 3, 1000), engram.keys, lambda x: longest.keys(x)[0]):
        assert np.array_equal(keys(ids)[:, :20], keys(changed)[:, :20])
    assert ngram_keys(ids, 3, 10**6).shape == (3, 40, 1)


@given(texts, st.sets(st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple), max_size=30))
def test_the_longest_ngram_that_ends_here(tokens, ngrams):
    listed = sorted(ngrams, key=lambda ngram: hash(ngram) % 97)
    keyer = LongestNGram(listed)
    ids, starts = np.array([t for t, _ in tokens], dtype=np.int64), np.array([b for _, b in tokens], dtype=bool)
    keys, lengths = keyer.keys(ids, starts=starts)
    for place in range(len(tokens)):
        before = document(tokens, place)[::-1]
        ends = [ngram for ngram in listed if tuple(before[-len(ngram) :]) == ngram]
        best = max(ends, key=len, default=())
        assert lengths[place] == len(best)
        assert keys[place] == (listed.index(best) if best else -1)


def test_a_collision_of_hashes_is_no_match(monkeypatch):
    from inlay.tables import keyers

    keyer = LongestNGram([[1, 2]])
    salt, _, numbers, tokens = keyer._tables[2]
    keyer._tables[2] = salt, keyers._hash(np.array([[4, 3]]), salt), numbers, tokens
    assert keyer.keys([3, 4])[0].tolist() == [-1, -1]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_signs_are_bits(numbers, bits):
    found = sign_keys(np.array(numbers, dtype=np.float32), bits)
    chunks = [numbers[i : i + bits] for i in range(0, 12, bits)]
    assert found.tolist() == [sum((z >= 0) << i for i, z in enumerate(chunk)) for chunk in chunks]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_digits_number_every_id_once(radices):
    product = int(np.prod(radices))
    ids = np.arange(product)
    digits = digit_keys(ids, radices)
    assert len({tuple(digit) for digit in digits.tolist()}) == product
    assert (digits < radices).all()
    weights = np.cumprod([1, *radices[:-1]])
    assert np.array_equal(digits @ weights, ids)
    with pytest.raises(BadInput, match="ids end at"):
        digit_keys([product], radices)


@given(st.integers(1, 300_000), st.integers(1, 4))
def test_the_smallest_base(rows, digits):
    base = radix(rows, digits)
    assert base**digits >= rows
    assert base == 1 or (base - 1) ** digits < rows


def test_bad_input():
    assert token_keys([[1, 2]], 3).dtype == np.int64
    for call, why in (
        (lambda: token_keys([3], 3), "id 3"),
        (lambda: token_keys([-1]), "id -1"),
        (lambda: ngram_keys([0.5], 2, 5), "integers"),
        (lambda: ngram_keys([1], 0, 5), "n must"),
        (lambda: ngram_keys([1], 2, 1 << 32), "buckets"),
        (lambda: ngram_keys(3, 2, 5), "single id"),
        (lambda: ngram_keys([1, 2], 2, 5, starts=[True]), "starts"),
        (lambda: Engram(10, 5).keys([10]), "id 10"),
        (lambda: Engram(10, 5, n=1), "n must"),
        (lambda: Engram(10, 5, pad=10), "pad 10"),
        (lambda: LongestNGram([[1], []]), "n-gram 1"),
        (lambda: LongestNGram([[1, 2], [1, 2]]), "twice"),
        (lambda: sign_keys(np.zeros(5), 2), "divide"),
        (lambda: sign_keys(np.array([np.nan]), 1), "NaN"),
        (lambda: digit_keys([1], [0]), "radix"),
    ):
        with pytest.raises(BadInput, match=why):
            call()
    assert LongestNGram([]).keys([1, 2])[0].tolist() == [-1, -1]
