"""Keyed vectors: what a store gives, that searches are exact, and that no damaged byte is ever believed."""

from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.words import Featurizer, KeyedVectors, Rules, StoreWriter, concat
from inlay.words.store_writer import sketch_width

N, DIM = 700, 20
DTYPES = ("float32", "float16", "int8")
ATOL = {"float32": 1e-6, "float16": 1e-3, "int8": 2e-2}


@pytest.fixture(scope="module")
def keys() -> list[str]:
    rng = np.random.default_rng(1)
    made = ["".join(rng.choice(list("abcdefghij"), size=rng.integers(3, 9))) for _ in range(2 * N)]
    return list(dict.fromkeys(made))[:N]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    made = rng.standard_normal((N, DIM)) * rng.uniform(0.1, 30, size=(N, 1))
    made[17] = 0
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def stores(tmp_path_factory, keys, rows) -> dict[str, KeyedVectors]:
    folder = tmp_path_factory.mktemp("stores")
    return {dtype: KeyedVectors.write(folder / dtype, keys, rows, dtype=dtype) for dtype in DTYPES}


@pytest.fixture
def kv(stores) -> KeyedVectors:
    return stores["float32"]


@pytest.fixture
def path(stores) -> Path:
    return stores["float32"].file.path


def unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_come_back_normalised_and_raw(stores, keys, rows, dtype):
    kv = stores[dtype]
    assert (len(kv), kv.dim, kv.file.dtype) == (N, DIM, dtype)
    for some in (keys[:5], keys):  # one by one, and in bulk
        np.testing.assert_allclose(kv[some], unit(rows)[: len(some)], atol=ATOL[dtype])
        raw = kv.query(some, normalised=False)
        np.testing.assert_allclose(raw, rows[: len(some)], atol=30 * DIM * ATOL[dtype])
    np.testing.assert_array_equal(kv[keys[3]], kv[keys][3])
    np.testing.assert_allclose(np.linalg.norm(kv[keys[:10]], axis=1), 1, atol=1e-3)
    assert not kv[keys[17]].any()


def test_raw_float32_is_exact_to_rounding(path, keys, rows):
    with KeyedVectors.open(path, normalised=False) as kv:
        np.testing.assert_allclose(kv[keys], rows, rtol=1e-6, atol=1e-9)


def test_positions_slices_and_iteration_are_in_file_order(kv, keys):
    assert kv[0][0] == keys[0]
    assert kv[-1][0] == keys[-1]
    assert [key for key, _ in kv[5:20:3]] == keys[5:20:3]
    assert kv[900:] == []
    assert [key for key, _ in kv] == keys == list(kv.keys())
    np.testing.assert_array_equal(kv[7][1], kv[keys[7]])
    with pytest.raises(IndexError):
        kv[N]


def test_membership_and_rows(kv, keys):
    assert keys[4] in kv
    assert keys[4].upper() not in kv
    assert "nothing" not in kv
    assert 5 not in kv
    assert [kv.row_of(key) for key in keys] == list(range(N))
    assert kv.row_of("nothing") == -1


@given(st.lists(st.text(max_size=6), min_size=1, max_size=60, unique=True))
@settings(max_examples=40, deadline=None)
def test_any_key_finds_its_row_whatever_its_length_or_script(tmp_path_factory, keys):
    path = tmp_path_factory.mktemp("any") / "s"
    with KeyedVectors.write(path, keys, np.arange(1, 3 * len(keys) + 1.0).reshape(-1, 3)) as kv:
        assert [kv.row_of(key) for key in keys] == list(range(len(keys)))
        assert kv._index.first_rows(keys).tolist() == list(range(len(keys)))
        assert list(kv.keys()) == keys
        folded = [key.lower() for key in keys]
        with KeyedVectors.open(path, case_insensitive=True) as either:
            for key in keys:
                assert either.row_of(key) == keys.index(key)
                assert folded[either.row_of(key.lower())] == key.lower()


def test_batches_are_padded_and_cut(kv, keys):
    a, b, c = keys[:3]
    block = kv[[[a, b, c], [b]]]
    assert block.shape == (2, 3, DIM)
    np.testing.assert_array_equal(block[0], kv[[a, b, c]])
    np.testing.assert_array_equal(block[1, 0], kv[b])
    assert not block[1, 1:].any()
    left = kv.query([[a, b, c], [b]], length=2, pad="left", truncate="left")
    np.testing.assert_array_equal(left[0], kv[[b, c]])
    np.testing.assert_array_equal(left[1, 1], kv[b])
    assert not left[1, 0].any()
    assert kv.query([a, b, c], length=2).shape == (2, DIM)
    assert kv.query([a], length=4).shape == (4, DIM)
    assert kv[[]].shape == (0, DIM)
    assert kv[[[], []]].shape == (2, 0, DIM)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda kv: kv[["a", ["b"]]], "lists beside keys"),
        (lambda kv: kv[[[["a"]]]], "no deeper"),
        (lambda kv: kv.query("a", pad="up"), "pad is"),
        (lambda kv: kv.query("a", length=-1), "length"),
        (lambda kv: kv.most_similar(), "at least one"),
        (lambda kv: kv.most_similar("a", k=0), "k must be"),
        (lambda kv: kv.most_similar("a", method="divide"), "method is"),
        (lambda kv: kv.most_similar("a", method="mul", effort=0.5), "effort goes with"),
        (lambda kv: kv.most_similar(np.zeros(3)), "20 numbers"),
        (lambda kv: kv.most_similar(np.full(DIM, np.nan)), "NaN"),
        (lambda kv: kv.most_similar("a", effort=0.5), "no graph"),
        (lambda kv: kv.doesnt_match([]), "at least one"),
        (lambda kv: kv.most_similar_to_given("a", []), "at least one"),
        (lambda kv: kv.similarity(["a"], "b"), "one key"),
    ],
)
def test_bad_requests(kv, call, match):
    with pytest.raises(BadInput, match=match):
        call(kv)


def test_bad_options_and_bad_rows(path, tmp_path):
    for options in ({"cache": -1}, {"cache": "some"}, {"placeholders": -1}):
        with pytest.raises(BadInput):
            KeyedVectors.open(path, **options)
    with pytest.raises(BadInput, match="no file of keyed vectors"):
        KeyedVectors.open(tmp_path / "nothing")
    target = tmp_path / "new"
    for keys, rows, match in (
        (["a"], np.ones((2, 3)), "1 keys with 2 vectors"),
        (["a"], np.full((1, 3), np.nan), "'a' .* NaN"),
        ([5], np.ones((1, 3)), "keys are strings"),
        ([], np.ones((0, 3)), "no keys"),
        (["a"], np.ones((1, 0)), "expected"),
    ):
        with pytest.raises(BadInput, match=match):
            KeyedVectors.write(target, keys, rows)
    for options in (
        {"dtype": "int4"},
        {"subword": (4, 2)},
        {"metadata": {"x": object()}},
        {"metadata": {"x": "y" * 99_999}},
    ):
        with pytest.raises(BadInput):
            KeyedVectors.write(target, ["a"], np.ones((1, 3)), **options)
    with StoreWriter(target) as writer:
        writer.add(["a"], np.ones((1, 2)))
        with pytest.raises(BadInput, match="3 dimensions, the keys before it 2"):
            writer.add(["b"], np.ones((1, 3)))
    target.unlink()
    assert not list(tmp_path.iterdir())


def test_the_cache_neither_leaks_nor_changes_answers(path, keys):
    for cache in (0, 3, None, "all"):
        with KeyedVectors.open(path, cache=cache) as kv:
            for key in (*keys[:6], *keys[:6], "unknown", "unknown"):
                row = kv[key]
                expected = row.copy()
                row[:] = 99  # a caller's array is his own
                np.testing.assert_array_equal(kv[key], expected)
            assert kv[keys].shape == (N, DIM)
            assert kv._one.cache_info().currsize <= (7 if cache in (None, "all") else cache)


def test_a_store_of_many_pages_can_be_read_whole(tmp_path):
    names = [f"k{i}" for i in range(5000)]
    rows = np.random.default_rng(2).standard_normal((5000, 300)).astype(np.float32)
    with KeyedVectors.write(tmp_path / "p", names, rows, subword=None) as kv:
        some = np.random.default_rng(3).permutation(5000)[:200]
        np.testing.assert_allclose(kv[[names[i] for i in some]], unit(rows)[some], atol=1e-6)  # scattered pages
        with KeyedVectors.open(kv.file.path, cache="all") as whole:
            np.testing.assert_array_equal(whole[names], kv[names])


def test_to_a_cache_one_and_true_are_different_keys(kv):
    assert not np.array_equal(kv.query(1), kv.query(1.0))


def test_placeholders_are_zeros_at_the_end(path, keys):
    with KeyedVectors.open(path, placeholders=3) as kv:
        assert kv.dim == DIM + 3
        assert kv[keys].shape == (N, DIM + 3)
        assert not kv[keys[2]][-3:].any()
        assert not kv[2][1][-3:].any()
        assert kv.most_similar(kv[keys[2]], k=1)[0][0] == keys[2]


def test_case_and_duplicates(tmp_path):
    rows = np.eye(6, dtype=np.float32) + 0.1
    names = ["Cat", "cat", "CAT", "dog", "cat", "Dog"]
    path = tmp_path / "c"
    with KeyedVectors.write(path, names, rows) as kv:
        assert [kv.row_of(name) for name in ("cat", "Cat", "cAt")] == [1, 0, -1]
        assert kv.file.about["max_duplicates"] == 2
        assert [name for name, _ in kv.most_similar(rows[4], k=6)] == ["cat", "Cat", "CAT", "dog", "Dog"]
        assert [name for name, _ in kv.most_similar("cat", k=2)] == ["Cat", "CAT"]
    with KeyedVectors.open(path, case_insensitive=True) as kv:
        assert [kv.row_of(name) for name in ("cat", "Cat", "cAt", "DOG")] == [1, 0, 0, 3]
        assert [name for name, _ in kv.most_similar("CAT", k=4)] == ["dog"]
        assert "dOG" in kv
        np.testing.assert_array_equal(kv[["cAt"] * 40], np.tile(kv["Cat"], (40, 1)))


# --- searching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_keys_are_those_of_brute_force(stores, keys, dtype, fast, monkeypatch):
    if fast:
        pytest.importorskip("numba")
    monkeypatch.setattr("inlay.kernels.dense.compiled", lambda work: fast)
    monkeypatch.setattr("inlay.kernels.halves.compiled", lambda work: fast)
    kv = stores[dtype]
    all_rows = kv.file.unit_rows(np.arange(N)).astype(np.float64)
    for row in range(0, N, 23):
        query = all_rows[row] / max(np.linalg.norm(all_rows[row]), 1e-9)
        scores = all_rows @ query
        scores[row] = -np.inf
        best = np.lexsort((np.arange(N), -scores))[:10]
        found = kv.most_similar(keys[row], k=10)
        np.testing.assert_allclose([score for _, score in found], scores[best], atol=1e-6)
        if row != 17:
            assert [name for name, _ in found] == [keys[i] for i in best]


def test_a_sketch_never_costs_a_neighbour(tmp_path):
    # Rows that differ by less than a step of int8, beside spikes that make the steps as coarse as they can be.
    rng = np.random.default_rng(5)
    rows = np.ones((400, 8)) + 1e-3 * rng.standard_normal((400, 8))
    rows[::7] = 0
    rows[::7, 0] = 1
    names = [f"k{i}" for i in range(400)]
    with KeyedVectors.write(tmp_path / "s", names, rows) as kv:
        exact = unit(kv.file.whole("rows").astype(np.float64))
        for row in range(1, 400, 9):
            scores = exact @ exact[row]
            expected = [i for i in np.lexsort((np.arange(400), -scores)) if i != row][:10]
            found = kv.most_similar(names[row], k=10)
            np.testing.assert_allclose([score for _, score in found], scores[expected], atol=1e-7)


def test_equal_scores_are_in_file_order(tmp_path):
    with KeyedVectors.write(tmp_path / "t", [f"k{i}" for i in range(50)], np.ones((50, 4))) as kv:
        assert [name for name, _ in kv.most_similar(np.ones(4), k=5)] == [f"k{i}" for i in range(5)]
        assert [name for name, _ in kv.most_similar("k0", k=5)] == [f"k{i}" for i in range(1, 6)]
        assert [name for name, _ in kv.most_similar("k0", k=3, method="mul")] == ["k1", "k2", "k3"]


def test_analogies_by_sum_and_by_product(kv, keys, rows):
    plus, minus = keys[40:42], keys[60:61]
    u = unit(rows.astype(np.float64))
    mean = (u[40] + u[41] - u[60]) / 3
    scores = u @ (mean / np.linalg.norm(mean))
    expected = [keys[i] for i in np.argsort(-scores) if i not in (40, 41, 60)][:5]
    assert [name for name, _ in kv.most_similar(plus, minus, k=5)] == expected
    c = (1 + u @ u[[40, 41, 60]].T) / 2
    product = c[:, 0] * c[:, 1] / (c[:, 2] + 1e-6)
    expected = [keys[i] for i in np.argsort(-product) if i not in (40, 41, 60)][:5]
    found = kv.most_similar(plus, minus, k=5, method="mul")
    assert [name for name, _ in found] == expected
    np.testing.assert_allclose(
        found[0][1], product.max(where=~np.isin(np.arange(N), (40, 41, 60)), initial=0), rtol=1e-4
    )


def test_more_than_there_are(kv):
    assert len(kv.most_similar("unknown", k=10_000)) == N
    assert len(kv.most_similar(kv[3][0], k=10_000)) == N - 1


def test_pairwise_questions(kv, keys, rows):
    u = unit(rows)
    a, b = keys[30], keys[31]
    assert kv.similarity(a, b) == pytest.approx(float(u[30] @ u[31]), abs=1e-6)
    np.testing.assert_allclose(kv.similarity(a, keys[:50]), u[:50] @ u[30], atol=1e-6)
    assert kv.distance(a, b) == pytest.approx(float(np.linalg.norm(u[30] - u[31])), abs=1e-6)
    np.testing.assert_allclose(kv.distance(a, [a, b]), [0, kv.distance(a, b)], atol=1e-6)
    assert kv.most_similar_to_given(a, keys[:30]) == keys[int(np.argmax(u[:30] @ u[30]))]
    group = keys[30:36]
    mean = u[30:36].mean(axis=0)
    assert kv.doesnt_match(group) == group[int(np.argmin(u[30:36] @ mean))]
    nearer = [keys[i] for i in np.argsort(-(u @ u[30])) if (u @ u[30])[i] > u[31] @ u[30] and i not in (30, 31)]
    assert kv.closer_than(a, b) == nearer


def test_approximate_search_by_a_graph(tmp_path, keys, rows):
    pytest.importorskip("usearch")
    with KeyedVectors.write(tmp_path / "g", keys, rows) as kv:
        made = kv.build_graph()
        assert made.exists()
        exact = [name for name, _ in kv.most_similar(keys[50], k=10)]
        assert kv.most_similar(keys[50], k=10, effort=1.0) == kv.most_similar(keys[50], k=10)
        quick = [name for name, _ in kv.most_similar(keys[50], k=10, effort=0.0)]
        assert len(set(quick) & set(exact)) >= 5
        with pytest.raises(BadInput, match="effort is between"):
            kv.most_similar(keys[50], effort=2)
    other = KeyedVectors.write(tmp_path / "g", keys, -rows[::-1])  # the graph is not taken for that of new rows
    with pytest.raises(BadInput, match="no graph"):
        other.most_similar(keys[50], effort=0.5)


# --- several stores -------------------------------------------------------------------------------------------------


def test_stores_end_to_end(stores, keys):
    kv, coarse, part = stores["float32"], stores["int8"], Featurizer(100, "pos")
    both = concat(kv, coarse, part)
    assert part.dim == 4
    assert both.dim == 2 * DIM + 4
    key = keys[9]
    np.testing.assert_array_equal(both[key], np.concatenate([kv[key], coarse[key], part.query(key)]))
    mixed = both[(key, keys[3], "NOUN")]
    np.testing.assert_array_equal(mixed, np.concatenate([kv[key], coarse[keys[3]], part.query("NOUN")]))
    assert both[[key, (key, key, "VERB")]].shape == (2, both.dim)
    assert both[[[key], [key, key]]].shape == (2, 2, both.dim)
    assert (key, key, "NOUN") in both
    assert ("unknown", key, "NOUN") not in both
    assert both.similarity(key, key) == pytest.approx(1, abs=1e-2)
    assert "Featurizer(100, 'pos')" in repr(both)
    with pytest.raises(BadInput, match="tuple of 3"):
        both[(key, key)]
    with pytest.raises(BadInput, match="at least one store"):
        concat()


def test_features_differ_by_value_type_and_namespace():
    a, b = Featurizer(10_000, "a"), Featurizer(10_000, "b")
    assert a.dim == 7
    rows = a.query(["x", "y", 1, "1"])
    assert len({row.tobytes() for row in rows}) == 4
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(a.query("x"), Featurizer(10_000, "a").query("x"))
    assert not np.array_equal(a.query("x"), b.query("x"))
    with pytest.raises(BadInput, match="values"):
        Featurizer(0)


# --- the file -------------------------------------------------------------------------------------------------------


def test_another_reader_of_safetensors_can_look_inside(kv, path):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("rows"), kv.file.whole("rows"))
        assert json.loads(file.metadata()["inlay"])["rules"]["version"] == 1


@pytest.mark.parametrize("fast", [False, True])
def test_a_file_of_format_1_opens_and_searches(tmp_path, fast, monkeypatch):
    if fast:
        pytest.importorskip("numba")
    monkeypatch.setattr("inlay.kernels.sketch.compiled", lambda work: fast)
    path = tmp_path / "old"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "data" / "keyed-vectors-1.inlay.gz").read_bytes()))
    rows = np.random.default_rng(11).integers(-20, 21, size=(60, 12)).astype(np.float32)
    rows[7] = 0
    names = [f"key{i}" for i in range(60)]
    with KeyedVectors.open(path) as old, KeyedVectors.write(tmp_path / "new", names, rows, subword=None) as new:
        assert ["sketch" in kv.file for kv in (old, new)] == [True, False]
        assert "sketch_high" in new.file
        old.file.verify()
        np.testing.assert_allclose(old[names], unit(rows), atol=1e-6)
        for name in names[::7]:
            assert old.most_similar(name, k=5) == new.most_similar(name, k=5)


def test_a_sketch_takes_a_quarter_and_six_bytes_a_row(tmp_path):
    rows = np.random.default_rng(3).standard_normal((50, 300)).astype(np.float32)
    names = [f"k{i}" for i in range(50)]
    with KeyedVectors.write(tmp_path / "w", names, rows) as kv:
        sizes = kv.file.sizes()
        assert sizes["sketch_high"] == sizes["sketch_low"] == 50 * 160
        assert (sizes["sketch_scales"], sizes["sketch_rests"]) == (50 * 4, 50 * 2)
    for dim, width in ((1, 32), (32, 32), (50, 64), (100, 128), (200, 224), (256, 256), (1000, 1024)):
        assert sketch_width(dim) == width


def test_a_format_of_another_time_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("inlay.words.store_writer.FORMAT", "inlay keyed vectors 9")
    with pytest.raises(Corrupt, match="format is 'inlay keyed vectors 9', expected 'inlay keyed vectors 2'"):
        KeyedVectors.write(tmp_path / "f", ["a"], np.ones((1, 3)))


def test_opening_reads_neither_rows_nor_keys(path, keys, monkeypatch):
    asked: list[tuple[int, int]] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: asked.append((at, n)) or pread(fd, n, at))
    with KeyedVectors.open(path) as kv:
        low, high = kv.file._blocks["rows"][2]
        start, stop = kv.file._data + low, kv.file._data + high
        assert kv.file._map is None
        assert not any(at < stop and at + n > start for at, n in asked)
        kv[keys[5]]
        assert sum(n for at, n in asked if at < stop and at + n > start) <= 3 * 4096
        assert kv.file._map is None  # a single key maps nothing


def test_metadata_and_sizes(tmp_path, keys, rows):
    with KeyedVectors.write(tmp_path / "m", keys, rows, metadata={"corpus": "none"}, subword=None, sketch=False) as kv:
        assert kv.file.about["metadata"] == {"corpus": "none"}
        assert "sketch" not in kv.file
        assert sum(kv.file.sizes().values()) <= kv.file.nbytes == (tmp_path / "m").stat().st_size
        assert "m') of 700 × 20 float32" in repr(kv)


def test_every_flipped_byte_is_noticed_and_never_changes_an_answer(tmp_path, rows):
    path = tmp_path / "f"
    names = [f"key{i}" for i in range(40)]
    KeyedVectors.write(path, names, rows[:40]).close()
    whole = bytearray(path.read_bytes())
    for at in range(0, len(whole), 97):
        whole[at] ^= 0x10
        path.write_bytes(whole)
        whole[at] ^= 0x10
        with pytest.raises(Corrupt, match=str(path)):
            KeyedVectors.open(path).file.verify()
        try:
            with KeyedVectors.open(path) as kv:
                found = kv[names], [name for name, _ in kv.most_similar("key3", k=3)], kv["kye7"]
        except Corrupt:
            continue
        with_it = found
        path.write_bytes(whole)
        with KeyedVectors.open(path) as kv:
            np.testing.assert_array_equal(with_it[0], kv[names])
            assert with_it[1] == [name for name, _ in kv.most_similar("key3", k=3)]
            np.testing.assert_array_equal(with_it[2], kv["kye7"])


@pytest.mark.parametrize("mapped", [False, True])
def test_every_page_of_a_wide_row_is_verified(tmp_path, mapped):
    path, dim = tmp_path / "wide", 5000  # a row spans five pages or six
    rows = np.random.default_rng(4).standard_normal((3, dim)).astype(np.float32)
    with KeyedVectors.write(path, ["a", "b", "c"], rows, sketch=False) as kv:
        start = kv.file._data + kv.file._blocks["rows"][2][0] + 4 * dim
    whole = bytearray(path.read_bytes())
    for at in range(start, start + 4 * dim, 1009):
        whole[at] ^= 1
        path.write_bytes(whole)
        whole[at] ^= 1
        with KeyedVectors.open(path) as kv:
            if mapped:
                kv.file._mapped()
            with pytest.raises(Corrupt, match="does not match its checksum"):
                kv["b"]


def test_a_file_cut_anywhere_does_not_open(tmp_path, rows):
    path = tmp_path / "f"
    KeyedVectors.write(path, ["a", "b"], rows[:2]).close()
    whole = path.read_bytes()
    for stop in [*range(0, 64, 7), *range(64, len(whole), 509), len(whole) - 1]:
        path.write_bytes(whole[:stop])
        with pytest.raises(Corrupt, match="cannot be used"):
            KeyedVectors.open(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(Corrupt, match="grew"):
        KeyedVectors.open(path)
    path.write_bytes(b"the 0.1 0.2\n" * 1000)
    with pytest.raises(Corrupt):
        KeyedVectors.open(path)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, keys, rows):
    path = tmp_path / "k"
    KeyedVectors.write(path, keys, rows).close()
    before = path.read_bytes()

    def fails() -> None:
        with StoreWriter(path) as writer:
            writer.add(["a"], np.ones((1, 2)))
            raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        fails()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["k"]


def test_a_replaced_file_does_not_disturb_its_readers(tmp_path, keys, rows):
    path = tmp_path / "r"
    old = KeyedVectors.write(path, keys, rows)
    new = KeyedVectors.write(path, keys, -rows)
    np.testing.assert_allclose(old[keys], -new[keys])
    old.close()
    with pytest.raises(BadInput, match="closed"):
        old[keys[0]]
    with pytest.raises(BadInput, match="closed"):
        old.most_similar(np.ones(DIM))


def test_threads_share_a_store(path, keys):
    with KeyedVectors.open(path, cache=5) as kv:
        expected = {key: kv[key] for key in keys}
        wrong: list[str] = []

        def work(start: int) -> None:
            for key in keys[start::3] * 2:
                if not np.array_equal(kv[key], expected[key]):
                    wrong.append(key)

        threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_rules_of_the_file_are_used(tmp_path, keys, rows):
    with KeyedVectors.write(tmp_path / "u", keys, rows, rules=Rules(share=0.0)) as kv:
        assert max(kv.similarity("zzzz", keys)) < 0.95


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_converts_finds_and_describes(tmp_path):
    from inlay.cli import inlay

    def said(*arguments: str):
        done = CliRunner().invoke(inlay, ["words", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done

    source, target = tmp_path / "glove.txt", tmp_path / "glove.inlay"
    source.write_text("king 1 0.1\nqueen 1 0.2\nthing 0 1\n")
    assert "3 × 2 int8" in said("convert", source, target, "--dtype", "int8").output
    near = json.loads(said("near", "king", target, "-k", "1", "--json").stdout)
    assert near["near"][0]["key"] == "queen"
    assert near["guessed_from"] == {}
    guessed = said("near", "kinng", target, "-k", "1")
    assert "king" in guessed.output
    about = json.loads(said("info", target, "--verify", "--json").stdout)
    assert (about["keys"], about["dim"], about["verified"]) == (3, 2, True)
    assert "3 to 6 characters" in said("info", target).output
    missing = CliRunner().invoke(inlay, ["words", "near", "x", str(tmp_path / "nothing")])
    assert missing.exit_code != 0
