"""SparseGraph against brute force where a walk sees everything, against it in part elsewhere, in both forms."""

from __future__ import annotations

import os
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.indexes.graph_growth import levels_of
from inlay.indexes.inverted import Inverted
from inlay.indexes.sparse_graph import SparseGraph
from inlay.kernels import sparse_graph as kernel
from inlay.kernels.sparse_graph import NONE
from inlay.types import Index, Sparse

pytest.importorskip("numba")

FORMS = {"plain": False, "compiled": True}
SMALL = {"connectivity": 4, "expansion_add": 20}


@contextmanager
def by_compiler(fast):
    with mock.patch.object(kernel, "compiled", return_value=fast):
        yield


@pytest.fixture(params=FORMS)
def form(request):
    with by_compiler(FORMS[request.param]):
        yield request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def fast():
    with by_compiler(True):
        yield


def topical(rng, n=160, columns=60, topics=8, signal=10):
    """Rows that share the columns of their topic, with some of others."""
    likes = rng.random((topics, columns)) < signal / columns
    dense = (likes[rng.integers(topics, size=n)] & (rng.random((n, columns)) < 0.7)) * rng.random((n, columns))
    return (dense + (rng.random((n, columns)) < 0.03) * rng.random((n, columns))).astype(np.float32)


def index_of(dense, **settings):
    index = SparseGraph(**settings)
    index.add(Sparse.from_dense(dense))
    return index


def brute(dense, queries, k, allow=None):
    index = Inverted()
    index.add(Sparse.from_dense(np.float32(np.float16(dense))))
    return index.search(Sparse.from_dense(queries), k, allow=allow)


def recall(found, truth):
    wanted = truth.ids >= 0
    return sum(np.isin(t[t >= 0], f).sum() for t, f in zip(truth.ids, found.ids)) / wanted.sum()


def same_graph(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a._trimmed().values(), b._trimmed().values(), strict=True))


@pytest.mark.parametrize("keep_pruned", [True, False])
@pytest.mark.parametrize("values", ["float16", "float32"])
def test_both_forms_agree_bit_for_bit(rng, keep_pruned, values):
    dense, queries = topical(rng), Sparse.from_dense(topical(rng, 20))
    dense[::17] = 0
    allow = rng.random(len(dense)) < 0.9
    made = {}
    for name, quick in FORMS.items():
        with by_compiler(quick):
            index = index_of(dense, keep_pruned=keep_pruned, values=values, seed=3, **SMALL)
            found = [index.search(queries, 5, ef=8), index.search(queries, 5, ef=8, allow=allow)]
            found.append(index.search(queries, 5, allow=np.arange(len(dense)) % 7 == 0))
            made[name] = index, found, index.scored(queries, 5, ef=8)
    plain, quick = made.values()
    assert same_graph(plain[0], quick[0])
    assert plain[2] == quick[2]
    for a, b in zip(plain[1], quick[1], strict=True):
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.scores, b.scores)


@st.composite
def problems(draw):
    """Rows, queries, a mask, k: small dyadic numbers, so that sums are exact and ties abound."""
    n, d, q = draw(st.integers(0, 24)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(0, 4, (n, d)) * (rng.random((n, d)) < rng.random()) / 2
    queries = rng.integers(0, 4, (q, d)) * (rng.random((q, d)) < 0.7)
    allow = rng.random(n) < rng.random() if draw(st.booleans()) else None
    values = draw(st.sampled_from(["float16", "float32"]))
    return rows.astype(np.float32), queries.astype(np.float32), allow, draw(st.integers(1, n + 3)), values


def check_exact(problem, fast):
    """With links enough for all rows the graph is complete, and a walk as wide as the index misses nothing."""
    rows, queries, allow, k, values = problem
    with by_compiler(fast):
        index = index_of(rows, connectivity=32, expansion_add=32, values=values)
        found = index.search(Sparse.from_dense(queries), k, allow=allow, ef=32)
    truth = brute(rows, queries, k, allow)
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert found.ids.tolist() == truth.ids.tolist()
    assert found.scores.tolist() == truth.scores.tolist()


@given(problems())
@settings(deadline=None, max_examples=25)
def test_exact_where_all_rows_are_linked_plain(problem):
    check_exact(problem, False)


@given(problems())
@settings(deadline=None, max_examples=60)
def test_exact_where_all_rows_are_linked_compiled(problem):
    check_exact(problem, True)


def test_rows_one_by_one_make_the_same_graph(rng, form):
    dense = topical(rng, 90)
    dense[:30, 40:] = 0  # columns that come later
    whole, parts = index_of(dense, **SMALL), SparseGraph(**SMALL)
    for low, high in ((0, 1), (1, 30), (30, 30), (30, 75), (75, 90)):
        part = Sparse.from_dense(dense[low:high])
        parts.add(part)
        assert len(parts) == high
    asked = Sparse.from_dense(topical(rng, 20))
    assert np.array_equal(parts._graph.links[:90], whole._graph.links[:90])
    assert np.array_equal(whole.search(asked, 5).ids, parts.search(asked, 5).ids)


def test_finds_most_of_clustered_rows_and_scores_few(rng, fast):
    dense = topical(rng, 4000, 400, 60, 25)
    queries = np.float32(dense[rng.integers(4000, size=100)] * (rng.random((100, 400)) < 0.6))  # parts of rows
    index, asked, truth = (
        index_of(dense, connectivity=8, expansion_add=64),
        Sparse.from_dense(queries),
        brute(dense, queries, 10),
    )
    found, narrow = index.search(asked, 10, ef=64), index.search(asked, 10, ef=10)
    assert recall(found, truth) > 0.97
    assert index.scored(asked, 10, ef=64) < 0.2 * len(dense)
    assert recall(narrow, truth) < recall(found, truth)
    assert index.scored(asked, 10, ef=10) < 0.5 * index.scored(asked, 10, ef=64)


def test_scores_are_dot_products_in_descending_order(rng, fast):
    dense, queries = topical(rng, 500), topical(rng, 30)
    found = index_of(dense, values="float32").search(Sparse.from_dense(queries), 10)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    met = found.ids >= 0
    products = (queries @ dense.T)[np.nonzero(met)[0], found.ids[met]]
    assert found.scores[met] == pytest.approx(products, rel=1e-5)
    assert all(len(set(ids[ids >= 0])) == (ids >= 0).sum() for ids in found.ids)


@pytest.mark.parametrize("share", [0.8, 0.3, 0.02, 0.0])
def test_a_mask_holds_whatever_its_share(rng, fast, share):
    dense, queries = topical(rng, 2000), topical(rng, 30)
    allow = rng.random(2000) < share
    index = index_of(dense, **SMALL)
    found, truth = index.search(Sparse.from_dense(queries), 10, allow=allow), brute(dense, queries, 10, allow)
    assert allow[found.ids[found.ids >= 0]].all()
    assert share == 0 or recall(found, truth) > (0.999 if share < 0.1 else 0.8)
    assert np.array_equal(found.ids >= 0, truth.ids >= 0)


def test_few_allowed_rows_are_all_scored(rng, fast):
    dense = topical(rng, 2000)
    allow = np.zeros(2000, dtype=bool)
    allow[[7, 90, 1500]] = True
    index = index_of(dense, **SMALL)
    assert index.scored(Sparse.from_dense(topical(rng, 5)), 10, allow=allow) == 3


def test_rows_with_words_of_their_own_are_found(rng, form):
    """Two languages: no walk leads from one to the other, for all scores between them are 0."""
    dense = np.zeros((120, 40), dtype=np.float32)
    dense[:100, :20] = topical(rng, 100, 20, 4, 8)
    dense[100:, 20:] = topical(rng, 20, 20, 2, 8)
    index = index_of(dense, **SMALL)
    queries = dense[100:].copy()
    assert recall(index.search(Sparse.from_dense(queries), 5), brute(dense, queries, 5)) > 0.95


def test_what_has_nothing_in_common_is_not_found(form):
    dense = np.zeros((6, 8), dtype=np.float32)
    dense[[0, 2, 4], [1, 2, 1]] = 1  # rows 1, 3 and 5 are empty
    index = index_of(dense)
    found = index.search(Sparse.from_dense(np.eye(8, dtype=np.float32)[[1, 5]]), 3)
    assert found.ids.tolist() == [[0, 4, -1], [-1, -1, -1]]
    assert found.scores.tolist() == [[1, 1, -np.inf], [-np.inf] * 3]
    far = Sparse(np.array([0, 2]), np.array([1, 1 << 40]), np.ones(2, np.float32), (1, 1 << 41))  # an unknown column
    assert index.search(far, 1).ids.tolist() == [[0]]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_empty_ones(form, rows):
    index = index_of(np.zeros((rows, 4), dtype=np.float32))
    assert len(index) == rows
    assert index.search(Sparse.from_dense(np.ones((2, 4), np.float32)), 2).ids.tolist() == [[-1, -1]] * 2
    assert index.search(Sparse.from_dense(np.ones((0, 4), np.float32)), 2).ids.shape == (0, 2)
    index.add(Sparse.from_dense(np.ones((1, 4), np.float32)))
    assert index.search(Sparse.from_dense(np.ones((1, 4), np.float32)), 2).ids.tolist() == [[rows, -1]]


def test_equal_rows_are_all_found_lower_ids_first(form):
    dense = np.zeros((80, 6), dtype=np.float32)
    dense[:40, :3], dense[40:, 2:5] = 1, 2
    index, queries = index_of(dense, **SMALL), dense[[0, 79]]
    allow = np.arange(80) % 2 == 1
    for mask in (None, allow):
        found = index.search(Sparse.from_dense(queries), 30, ef=64, allow=mask)
        truth = brute(dense, queries, 30, mask)
        assert found.ids.tolist() == truth.ids.tolist()
        assert found.scores.tolist() == truth.scores.tolist()


def test_columns_beyond_sixteen_bits():
    n = 70_000
    wide = Sparse(np.arange(n + 1), np.arange(n), np.ones(n, np.float32), (n, n))
    index = SparseGraph(connectivity=2, expansion_add=2)
    with by_compiler(False):
        index.add(wide[:100])
    assert index._graph.ids.dtype == np.uint16
    index._append(wide[100:])  # linking them is not what is tested
    assert index._graph.ids.dtype == np.uint32
    with by_compiler(False):
        assert index.search(wide[[3, 99]], 1).ids.tolist() == [[3], [99]]


def test_links_are_of_others_and_bounded(rng, fast):
    dense = topical(rng, 400)
    counts = []
    for keep_pruned in (False, True):
        links = index_of(dense, keep_pruned=keep_pruned, **SMALL)._graph.links[:400]
        for row, its in enumerate(links):
            own = its[its != NONE]
            assert len(set(own.tolist())) == len(own) <= 8
            assert row not in own
            assert (its[len(own) :] == NONE).all()
        counts.append((links != NONE).sum())
    assert counts[0] < counts[1]


def test_links_are_chosen_by_the_heuristic():
    """Of three rows the second is nearer to the first than to the new row, the third is not."""
    dense = np.array([[4, 4, 0], [2, 3, 0], [0, 0, 3], [3, 1, 1]], dtype=np.float32)
    index = index_of(dense, connectivity=2, expansion_add=8, keep_pruned=False)
    room, graph = kernel.Room.of(index._graph), index._graph
    room.query[:3] = dense[3]
    keys = sorted((kernel._key(graph, room.query, row) for row in range(3)), reverse=True)
    assert kernel._select(graph, keys, 2, False, room) == [0, 2]
    assert kernel._select(graph, keys, 3, True, room) == [0, 2, 1]


def test_levels_are_drawn_by_the_seed():
    levels = levels_of(0, 200_000, 16, 0)
    for level in range(3):
        assert (levels >= level).mean() == pytest.approx(16.0**-level, rel=0.15)
    assert np.array_equal(levels[1000:2000], levels_of(1000, 2000, 16, 0))
    assert not np.array_equal(levels, levels_of(0, 200_000, 16, 1))


def test_survives_its_file_and_grows_on(rng, form, tmp_path):
    dense, more = topical(rng, 80), Sparse.from_dense(topical(rng, 20))
    index, asked = index_of(dense, seed=5, **SMALL), Sparse.from_dense(topical(rng, 10))
    index.save(tmp_path / "graph")
    again = SparseGraph.load(tmp_path / "graph")
    assert again.settings == index.settings
    assert (len(again), again.nbytes) == (len(index), index.nbytes)
    for one in (index, again):
        one.add(more)
    assert same_graph(index, again)
    assert np.array_equal(index.search(asked, 5).ids, again.search(asked, 5).ids)
    SparseGraph().save(tmp_path / "empty")
    assert len(SparseGraph.load(tmp_path / "empty")) == 0


def test_a_damaged_file_is_refused(rng, fast, tmp_path):
    path = tmp_path / "graph"
    index_of(topical(rng, 40), **SMALL).save(path)
    raw = bytearray(path.read_bytes())
    for at in (20, len(raw) // 2, len(raw) - 70):
        bad = bytearray(raw)
        bad[at] ^= 64
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            SparseGraph.load(path)
    path.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(Corrupt):
        SparseGraph.load(path)
    os.unlink(path)
    with pytest.raises(BadInput, match="there is no sparse graph"):
        SparseGraph.load(path)


def test_it_is_an_index_and_counts_its_bytes(rng, fast):
    index = index_of(topical(rng, 300), **SMALL)
    assert isinstance(index, Index)
    parts = index.nbytes_of_parts
    assert index.nbytes == sum(parts.values())
    assert parts["graph"] > 300 * 8 * 4
    assert "300 rows" in repr(index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"connectivity": 1}, "connectivity must be an integer of 2 or more"),
        ({"connectivity": 8.0}, "connectivity"),
        ({"expansion_add": 0}, "expansion_add"),
        ({"expansion_search": -1}, "expansion_search"),
        ({"keep_pruned": "no"}, "keep_pruned must be True or False"),
        ({"values": "int8"}, "values must be one of"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(BadInput, match=message):
        SparseGraph(**settings)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[0, 1], [np.nan, 1]]), "row 1 holds NaN"),
        (np.array([[1.0, -2.0]]), "row 0 has the negative weight -2; a SparseGraph walks"),
        (np.array([[1e6]]), "float16 ends at 65504"),
    ],
)
def test_bad_rows_change_nothing(rows, message):
    index = index_of(np.ones((2, 2), np.float32))
    with pytest.raises(BadInput, match=message):
        index.add(Sparse.from_dense(rows))
    assert len(index) == 2
    with pytest.raises(BadInput, match="expected sparse rows"):
        index.add(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a positive integer"),
        ({"k": True}, "k must be"),
        ({"k": 1, "ef": 0}, "ef must be an integer of 1 or more"),
        ({"k": 1, "allow": np.ones(3, bool)}, r"allow must be bool \[2\]"),
        ({"k": 1, "allow": np.ones(2)}, "allow must be bool"),
    ],
)
def test_bad_searches(arguments, message):
    index = index_of(np.ones((2, 2), np.float32))
    with pytest.raises(BadInput, match=message):
        index.search(Sparse.from_dense(np.ones((1, 2), np.float32)), **arguments)
    with pytest.raises(BadInput, match="query 0 has the negative weight"):
        index.search(Sparse.from_dense(-np.ones((1, 2), np.float32)), 1)
