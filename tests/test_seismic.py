"""Seismic against brute force where nothing is left out, against its bounds where something is, in both forms."""

from __future__ import annotations

import os
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.indexes.inverted import Inverted
from inlay.indexes.seismic import Seismic
from inlay.indexes.seismic_segment import kept
from inlay.kernels import seismic as searching
from inlay.kernels import seismic_blocks as building
from inlay.kernels import seismic_components as components
from inlay.kernels.seismic_components import CODES, coded, coded_plain, plain
from inlay.types import Index, Sparse

pytest.importorskip("numba")

FORMS = {"plain": False, "compiled": True}
EXHAUSTIVE = {"query_cut": None, "heap_factor": 0.0}
EVERYTHING = {"n_postings": 1 << 30, "pruning": "fixed"}


@contextmanager
def by_compiler(fast):
    with (
        mock.patch.object(building, "compiled", return_value=fast),
        mock.patch.object(searching, "compiled", return_value=fast),
        mock.patch.object(components, "compiled", return_value=fast),
    ):
        yield


@pytest.fixture(params=FORMS)
def form(request):
    with by_compiler(FORMS[request.param]):
        yield request.param


def topical(rng, n=160, columns=60, topics=8, signal=10):
    """Rows that share the columns of their topic, with some of others: blocks have something to find."""
    likes = rng.random((topics, columns)) < signal / columns
    dense = (likes[rng.integers(topics, size=n)] & (rng.random((n, columns)) < 0.7)) * rng.random((n, columns))
    return (dense + (rng.random((n, columns)) < 0.03) * rng.random((n, columns))).astype(np.float32)


def index_of(dense, **settings):
    index = Seismic(**settings)
    index.add(Sparse.from_dense(dense))
    return index


def same(a, b):
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.scores, b.scores)


def recall(found, truth):
    wanted = truth.ids >= 0
    return sum(np.isin(t[t >= 0], f).sum() for t, f in zip(truth.ids, found.ids)) / wanted.sum()


@st.composite
def problems(draw):
    """Rows, queries, a mask, k and settings: small dyadic numbers, so that sums are exact and ties abound."""
    n, d, q = draw(st.integers(0, 40)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(0, 4, (n, d)) * (rng.random((n, d)) < rng.random()) / 2
    queries = rng.integers(0, 4, (q, d)) * (rng.random((q, d)) < 0.7)
    allow = rng.random(n) < rng.random() if draw(st.booleans()) else None
    settings = {
        "centroid_fraction": draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), "min_cluster_size": draw(st.integers(0, 3)),
        "summary_energy": draw(st.sampled_from([0.0, 0.4, 1.0])), "doc_cut": draw(st.integers(1, 5)),
        "values": draw(st.sampled_from(["float16", "float32"])), "knn": draw(st.integers(0, 3)),
    }  # fmt: skip
    return rows.astype(np.float32), queries.astype(np.float32), allow, draw(st.integers(1, n + 3)), settings


def check_exact(problem, fast):
    rows, queries, allow, k, how = problem
    with by_compiler(fast):
        index = index_of(rows, **EVERYTHING, **how)
        found = index.search(Sparse.from_dense(queries), k, allow=allow, **EXHAUSTIVE)
        if allow is None:
            assert same(found, index.exact(Sparse.from_dense(queries), k))
    brute = Inverted()
    brute.add(Sparse.from_dense(rows))
    truth = brute.search(Sparse.from_dense(queries), k, allow=allow)
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert found.ids.tolist() == truth.ids.tolist()
    assert found.scores.tolist() == truth.scores.tolist()


@given(problems())
@settings(deadline=None, max_examples=25)
def test_exact_where_nothing_is_left_out_plain(problem):
    check_exact(problem, False)


@given(problems())
@settings(deadline=None, max_examples=60)
def test_exact_where_nothing_is_left_out_compiled(problem):
    check_exact(problem, True)


@pytest.mark.parametrize("pruning", ["global", "fixed", "mass"])
@pytest.mark.parametrize("values", ["float16", "float32"])
def test_both_forms_agree_bit_for_bit(rng, pruning, values):
    dense, queries = topical(rng), Sparse.from_dense(topical(rng, 30))
    made = {}
    for name, fast in FORMS.items():
        with by_compiler(fast):
            index = index_of(
                dense, n_postings=30, pruning=pruning, values=values, knn=4, summary_energy=0.5, doc_cut=6, seed=7
            )
            found = [
                index.search(queries, 5, query_cut=cut, heap_factor=factor, first_sorted=order, n_knn=knn)
                for cut, factor, order, knn in [(3, 0.9, True, 0), (5, 1.0, False, 2), (None, 0.7, True, None)]
            ]
            made[name] = index.segments[0].arrays, found, index.work(queries, 5)
    (plain, found, work), (fast, found_fast, work_fast) = made["plain"], made["compiled"]
    for field in plain._fields:
        one, other = getattr(plain, field), getattr(fast, field)
        assert one.dtype == other.dtype, field
        assert np.array_equal(one, other), field
    assert all(map(same, found, found_fast))
    assert work == work_fast


def test_a_batch_beyond_the_epochs_of_the_stamps_gives_what_single_queries_give(rng):
    """Rows met are stamped with a byte's epoch: after 255 queries it starts again."""
    dense = topical(rng, n=300)
    queries = Sparse.from_dense(dense[rng.integers(len(dense), size=600)])
    found = {}
    for name, fast in FORMS.items():
        with by_compiler(fast):
            index = index_of(dense, n_postings=30, knn=3)
            found[name] = index.search(queries, 5, query_cut=4, heap_factor=0.8)
            assert len(index.segments[0]._spare) == 1
            assert same(index.search(queries, 5, query_cut=4, heap_factor=0.8), found[name])
            for i in range(0, 600, 7):
                one = index.search(queries[i : i + 1], 5, query_cut=4, heap_factor=0.8)
                assert np.array_equal(one.ids[0], found[name].ids[i])
    assert same(found["plain"], found["compiled"])


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 3)), max_size=80))
@settings(deadline=None, max_examples=40)
def test_stamps_are_a_set_for_each_epoch(steps):
    from inlay.kernels.seismic_search_numba import _fresh, _met

    stamps, met, now = np.zeros(300 // searching.STAMPED + 1, np.uint64), set(), 1
    for slot, epochs in sorted(steps, key=lambda step: step[1]):
        if epochs != now:
            met, now = set(), epochs
        assert _fresh(stamps, np.uint64(slot), np.uint64(now)) == (slot not in met)
        assert _met(stamps, np.uint64(slot), np.uint64(now)) == (slot in met)
        met.add(slot)


def test_arrays_of_another_type_are_refused(rng):
    """Compiled code reads them by address, so a wrong type would be read as noise."""
    arrays, dims = index_of(topical(rng)).segments[0].arrays, np.arange(60)
    for name, wrong in {"starts": np.int64, "scales": np.float64, "bases": np.uint32, "graph": np.uint64}.items():
        with pytest.raises(BadInput, match=name):
            searching.Bound.of(arrays._replace(**{name: getattr(arrays, name).astype(wrong)}), dims)
    with pytest.raises(BadInput, match="contiguous"):
        searching.Bound.of(arrays._replace(postings=np.repeat(arrays.postings, 2)[::2]), dims)


def test_threads_build_the_same_index(rng):
    dense = topical(rng)
    with (
        by_compiler(True),
        mock.patch("inlay.indexes.seismic_segment.POSTINGS_AT_ONCE", 200),
    ):
        alone, together = index_of(dense, n_postings=30), index_of(dense, n_postings=30, threads=3)
        for one, other in zip(alone.segments[0].arrays, together.segments[0].arrays):
            assert np.array_equal(one, other)


def decoded(arrays, column):
    """Summaries of a list's blocks as they are read: float32 [blocks, columns]; and its blocks' rows."""
    first, last = arrays.lists[column], arrays.lists[column + 1]
    summaries = np.zeros((last - first, len(arrays.lists) - 1), dtype=np.float32)
    low, high = arrays.groups[column], arrays.groups[column + 1]
    its_codes = arrays.codes[low * CODES : high * CODES]
    for component, start, count in zip(*plain(arrays.bases[low:high], arrays.firsts[low:high], its_codes)):
        begin, end = arrays.entries[column] + start, arrays.entries[column] + start + count
        its = arrays.entry_blocks[begin:end]
        step, minimum = arrays.scales[first + its].T
        summaries[its, component] = step * arrays.entry_codes[begin:end] + minimum
    members = []
    for b in range(first, last):
        slots = arrays.postings[arrays.blocks[b] : arrays.blocks[b + 1]] >> np.uint64(16)
        members.append(np.searchsorted(arrays.starts, slots.astype(np.uint32), side="right") - 1)
    return summaries, members


def test_summaries_bound_the_full_rows_of_their_blocks(rng, form):
    dense = topical(rng)
    arrays = index_of(dense, n_postings=20, summary_energy=1.0).segments[0].arrays
    rounded = dense.astype(np.float16).astype(np.float32)
    for column in range(dense.shape[1]):
        summaries, members = decoded(arrays, column)
        for b, rows in enumerate(members):
            assert (rounded[rows, column] > 0).all()  # members hold the list's column
            step = arrays.scales[arrays.lists[column] + b, 0]
            highest = rounded[rows].max(axis=0)
            assert np.abs(summaries[b] - highest).max() <= step * 0.51 + 1e-6


def test_summaries_keep_the_largest_weights_until_they_hold_the_energy(rng, form):
    dense = topical(rng)
    arrays = index_of(dense, summary_energy=0.4).segments[0].arrays
    rounded = dense.astype(np.float16).astype(np.float64)
    for column in range(0, dense.shape[1], 7):
        summaries, members = decoded(arrays, column)
        for b, rows in enumerate(members):
            highest = rounded[rows].max(axis=0)
            falling = np.sort(highest)[::-1]
            n = int(np.searchsorted(np.cumsum(falling), 0.4 * falling.sum())) + 1
            kept_ones = summaries[b] > 0
            assert kept_ones.sum() == n
            assert np.sort(highest[kept_ones])[::-1].tolist() == falling[:n].tolist()


@pytest.mark.parametrize("width", [5, 70, 600, 70_000])
def test_columns_in_bytes_come_back(rng, width):
    """Gaps that need bridging, gaps that begin a group, counts beyond three, lists without any; both forms."""
    for most in (2, 9, 400):
        sizes = np.where(rng.random(30) < 0.8, rng.integers(0, min(width, 60), 30), 0)
        columns = np.concatenate([np.sort(rng.choice(width, n, replace=False)) for n in sizes]).astype(np.int32)
        counts = rng.integers(1, most, len(columns))
        with by_compiler(True):
            made = coded(sizes, columns, counts)
        for one, other in zip(made, coded_plain(sizes, columns, counts)):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
        groups, ends = np.append(0, np.cumsum(made.list_groups)), np.append(0, np.cumsum(sizes))
        assert len(made.codes) == groups[-1] * CODES
        for i in range(len(sizes)):
            span, its = slice(*groups[i : i + 2]), slice(*ends[i : i + 2])
            back = plain(made.bases[span], made.firsts[span], made.codes[groups[i] * CODES : groups[i + 1] * CODES])
            assert back[0].tolist() == columns[its].tolist()
            assert back[1].tolist() == (np.cumsum(counts[its]) - counts[its]).tolist()
            assert back[2].tolist() == counts[its].tolist()
    assert all(len(part) == 0 for part in coded_plain(np.zeros(0, np.int64), columns[:0], counts[:0]))


def test_lists_of_more_blocks_than_a_byte_names(rng):
    """A list of hundreds of blocks beside a short one, searched without leaving anything out and with."""
    dense = np.eye(700, dtype=np.float32)[:, np.arange(700)] * 4  # so that each row is nearest to itself
    dense = np.hstack([np.ones((700, 1)), rng.integers(0, 3, (700, 1)) * (np.arange(700) < 50)[:, None], dense])
    queries = rng.integers(0, 3, (6, 702)) * (rng.random((6, 702)) < 0.1)
    queries[:, :2] = 1
    brute, found = Inverted(), {}
    brute.add(Sparse.from_dense(dense))
    for name, fast in FORMS.items():
        with by_compiler(fast):
            index = index_of(dense, centroid_fraction=1.0, min_cluster_size=0, **EVERYTHING)
            arrays = index.segments[0].arrays
            assert np.diff(arrays.lists)[0] > 256 >= np.diff(arrays.lists)[1]
            assert np.diff(arrays.highs)[0] == np.diff(arrays.entries)[0] > np.diff(arrays.highs)[1] == 0
            exact = index.search(Sparse.from_dense(queries), 9, **EXHAUSTIVE)
            assert same(exact, brute.search(Sparse.from_dense(queries), 9))
            found[name] = index.search(Sparse.from_dense(queries), 9, query_cut=2, heap_factor=1.0)
    assert same(*found.values())


def test_small_clusters_are_dissolved(rng, form):
    arrays = index_of(topical(rng), centroid_fraction=0.5, min_cluster_size=3).segments[0].arrays
    sizes, blocks = np.diff(arrays.blocks), np.diff(arrays.lists)
    lonely = np.repeat(blocks == 1, blocks)
    assert (sizes[~lonely] > 3).all()
    assert (blocks > 1).any()


def test_geometric_blocks_spare_rows_that_random_ones_do_not(rng):
    """Blocks of rows that are alike have summaries that tell: the same blocks filled at random do not."""
    dense = topical(rng, n=3000, columns=400, topics=40, signal=25)
    queries = Sparse.from_dense(dense[rng.integers(len(dense), size=60)] * (rng.random((60, 400)) < 0.6))
    index = index_of(dense, centroid_fraction=0.1, summary_energy=0.6)
    segment = index.segments[0]
    geometric = index.work(queries, 10, heap_factor=0.9).scored
    arrays = segment.arrays
    shuffled = arrays.postings.copy()
    for c in range(len(arrays.lists) - 1):
        rng.shuffle(shuffled[arrays.blocks[arrays.lists[c]] : arrays.blocks[arrays.lists[c + 1]]])
    assert geometric < 0.5 * len(dense)
    # Rows at random under the old summaries are skipped wrongly; what tells is that recall falls.
    truth = index.exact(queries, 10)
    found = recall(index.search(queries, 10, heap_factor=0.9), truth)
    segment.arrays = segment.arrays._replace(postings=shuffled)
    assert found > 0.9
    assert recall(index.search(queries, 10, heap_factor=0.9), truth) < found - 0.05


def test_more_careful_settings_find_more_and_read_more(rng):
    dense = topical(rng, n=2000, columns=300, topics=30)
    queries = Sparse.from_dense(dense[:80] * (rng.random((80, 300)) < 0.5))
    index = index_of(dense, n_postings=60, knn=8)
    truth = index.exact(queries, 10)
    hasty = {"query_cut": 2, "heap_factor": 1.0, "n_knn": 0}
    careful = {"query_cut": 8, "heap_factor": 0.5, "n_knn": 0}
    assert recall(index.search(queries, 10, **hasty), truth) < recall(index.search(queries, 10, **careful), truth)
    assert index.work(queries, 10, **hasty).scored < index.work(queries, 10, **careful).scored
    refined = recall(index.search(queries, 10, **{**hasty, "n_knn": 8}), truth)
    assert refined > recall(index.search(queries, 10, **hasty), truth)


def test_scores_are_those_of_the_whole_query(rng, form):
    dense, queries = topical(rng), topical(rng, 20)
    rounded = dense.astype(np.float16).astype(np.float32)
    found = index_of(dense, n_postings=20).search(Sparse.from_dense(queries), 5, query_cut=1)
    for query, scores, ids in zip(queries, *found):
        np.testing.assert_allclose(scores[ids >= 0], rounded[ids[ids >= 0]] @ query, rtol=1e-5)
        assert len(set(ids[ids >= 0])) == (ids >= 0).sum()


def test_a_mask_is_kept_by_lists_and_by_the_graph(rng, form):
    dense = topical(rng)
    index = index_of(dense, n_postings=20, knn=6)
    allow = rng.random(len(dense)) < 0.3
    found = index.search(Sparse.from_dense(dense[:30]), 10, allow=allow, query_cut=3)
    assert allow[found.ids[found.ids >= 0]].all()
    assert (found.ids >= 0).any()
    assert (index.search(Sparse.from_dense(dense[:3]), 2, allow=np.zeros(len(dense), bool)).ids == -1).all()


def test_the_graph_holds_neighbours_without_the_row_itself(rng, form):
    dense = topical(rng)
    graph = index_of(dense, knn=5, **EVERYTHING).segments[0].arrays.graph
    assert graph.shape == (len(dense), 5)
    for row, others in enumerate(graph):
        others = others[others < len(dense)]
        assert row not in others
        assert len(set(others)) == len(others)
        assert (np.diff(dense[others] @ dense[row]) <= 1e-2).all()


@pytest.mark.parametrize("values", ["float16", "float32"])
def test_more_columns_than_sixteen_bits_and_dimensions_anywhere(rng, form, values):
    n, each = 100, 60
    dims = np.sort(rng.choice(2**40, size=70_000, replace=False))
    columns = np.stack([np.sort(rng.choice(len(dims), size=each, replace=False)) for _ in range(n)])
    columns[:, -1] = np.minimum(columns[:, -1], len(dims) - 1)
    columns = np.concatenate([columns, np.arange(66_000).reshape(-1, each)])  # so that all these occur
    weights = rng.integers(1, 8, columns.shape).astype(np.float32)
    offsets = np.arange(len(columns) + 1) * each
    rows = Sparse(offsets, dims[columns].reshape(-1), weights.reshape(-1), (len(columns), 2**40))
    index = Seismic(values=values)
    index.add(rows[: 20 if form == "plain" else len(rows)])
    held = index.segments[0].arrays
    assert held.ids.dtype == (np.uint32 if form == "compiled" else np.uint16)
    queries = Sparse(
        np.array([0, 3, 5]), np.concatenate([dims[columns[1, :3]], [5, 2**41]]), np.ones(5, np.float32), (2, 2**42)
    )
    brute = Inverted()
    brute.add(rows[: len(index)])
    assert same(index.search(queries, 4, **EXHAUSTIVE), brute.search(queries, 4))


def test_empty_rows_single_terms_and_an_empty_index(form):
    index = Seismic(knn=2)
    queries = Sparse.from_dense(np.eye(3, dtype=np.float32))
    assert (index.search(queries, 2).ids == -1).all()
    index.add(Sparse.from_dense(np.zeros((3, 3), dtype=np.float32)))
    assert (index.search(queries, 2).ids == -1).all()
    index.add(Sparse.from_dense(np.array([[0, 0, 0], [0, 2, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)))
    assert index.search(queries, 3).ids.tolist() == [[-1, -1, -1], [4, 6, -1], [-1, -1, -1]]
    none = Sparse(np.zeros(2, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), (1, 3))
    assert (index.search(none, 2).ids == -1).all()
    assert index.search(none[:0], 2).ids.shape == (0, 2)


def test_huge_and_tiny_weights(form):
    rows = np.array([[3e38, 0], [1e-38, 1], [1e30, 1e-30]], dtype=np.float32)
    index = index_of(rows, values="float32")
    found = index.search(Sparse.from_dense(np.array([[0.5, 0.0], [0.0, 1.0]], dtype=np.float32)), 3)
    assert found.ids.tolist() == [[0, 2, 1], [1, 2, -1]]
    half = index_of(np.array([[6e-8, 1e-9], [65_504, 1]], dtype=np.float32))  # subnormal, nothing, the largest
    found = half.search(Sparse.from_dense(np.eye(2, dtype=np.float32)), 2)
    assert found.ids.tolist() == [[1, 0], [1, -1]]
    assert found.scores[0].tolist() == [65_504, np.float32(np.float16(6e-8))]


def test_more_queries_than_epochs(rng):
    dense = topical(rng, 60)
    with by_compiler(True):
        index = index_of(dense)
        many = Sparse.from_dense(np.tile(dense, (12, 1)))
        ids = index.search(many, 3).ids.reshape(12, 60, 3)
    assert (ids == ids[0]).all()


def test_static_pruning():
    lists, weights = np.array([0, 5, 6, 9]), np.array([5, 1, 4, 4, 2, 9, 3, 3, 3], dtype=np.float32)

    def stays(**how):
        given = {"n_postings": 2, "pruning": "fixed", "max_fraction": 1.5, "mass": 0.9}
        return np.flatnonzero(kept(lists, weights, **{**given, **how})).tolist()

    assert stays() == [0, 2, 5, 6, 7]
    assert stays(pruning="global") == [0, 2, 3, 5, 6, 7]
    assert stays(pruning="global", max_fraction=1.0) == [0, 2, 5, 6, 7]
    assert stays(pruning="mass", mass=0.5, max_fraction=9) == [0, 2, 5, 6, 7]
    assert stays(pruning="mass", mass=1.0, max_fraction=9) == list(range(9))
    assert stays(n_postings=100) == list(range(9))


def test_added_rows_are_found_and_compacted_as_if_they_had_come_at_once(rng, form):
    dense = topical(rng, 240)
    queries = Sparse.from_dense(dense[::4] * (rng.random((60, 60)) < 0.6))
    whole, parts = index_of(dense, n_postings=40, knn=3), Seismic(n_postings=40, knn=3)
    for low, high in ((0, 100), (100, 110), (110, 240)):
        parts.add(Sparse.from_dense(dense[low:high]))
        parts.search(queries, 1)
    assert len(parts.segments) == 3
    assert len(parts) == 240
    truth = whole.exact(queries, 10)
    assert same(truth, parts.exact(queries, 10))
    careful = {"query_cut": 12, "heap_factor": 0.7}
    assert (
        recall(parts.search(queries, 10, **careful), truth) > recall(whole.search(queries, 10, **careful), truth) - 0.03
    )
    allow = np.arange(240) >= 105
    assert (parts.search(queries, 5, allow=allow, **careful).ids[:, 0] >= 105).all()
    parts.compact()
    assert len(parts.segments) == 1
    for one, other in zip(whole.segments[0].arrays, parts.segments[0].arrays):
        assert np.array_equal(one, other)


def test_segments_share_one_heap_and_lose_nothing(rng, form):
    dense = topical(rng)
    brute = Inverted()
    index = Seismic(values="float32", **EVERYTHING)
    for part in np.array_split(np.round(dense * 8) / 8, 3):
        index.add(Sparse.from_dense(part))
        brute.add(Sparse.from_dense(part))
        index.search(Sparse.from_dense(dense[:1]), 1)
    queries = Sparse.from_dense(np.round(topical(rng, 20) * 4))
    assert same(index.search(queries, 7, **EXHAUSTIVE), brute.search(queries, 7))


def test_recall_by_calibration(rng, tmp_path):
    dense = topical(rng, n=1500, columns=300, topics=30)
    asked = Sparse.from_dense(dense[:200] * (rng.random((200, 300)) < 0.5))
    index = index_of(dense, n_postings=100)
    with pytest.raises(BadInput, match="calibrate"):
        index.search(asked, 10, recall=0.9)
    front = index.calibrate(asked[:100])
    assert (np.diff([s["cost"] for s in front]) > 0).all()
    assert (np.diff([s["recall"] for s in front]) > 0).all()
    fresh = asked[100:]
    found = index.search(fresh, 10, recall=0.9)
    assert recall(found, index.exact(fresh, 10)) > 0.85
    assert next(s for s in front if s["recall"] >= 0.9)["scored"] < 0.5 * len(dense)
    index.save(tmp_path / "i")
    assert same(Seismic.load(tmp_path / "i").search(fresh, 10, recall=0.9), found)
    with pytest.raises(BadInput, match="reached"):
        _unreached(index, asked)
    index.add(Sparse.from_dense(dense))
    with pytest.raises(BadInput, match="calibrated with 1500 rows"):
        index.search(asked, 10, recall=0.9)


def _unreached(index, asked):
    index.calibration = [setting | {"recall": min(setting["recall"], 0.98)} for setting in index.calibration]
    index.search(asked, 10, recall=0.999)


def test_save_and_load(rng, tmp_path, form):
    dense, queries = topical(rng), Sparse.from_dense(topical(rng, 10))
    index = index_of(dense, knn=2)
    index.search(queries, 1)
    index.add(Sparse.from_dense(dense[:50]))
    index.save(tmp_path / "index")
    for verify in (True, False):
        back = Seismic.load(tmp_path / "index", verify=verify)
        assert back.settings == index.settings
        assert len(back) == 210
        assert back.nbytes == index.nbytes
        assert same(back.search(queries, 5), index.search(queries, 5))
        assert not back.segments[0].arrays.ids.flags.owndata  # mapped, not read
        assert back.segments[0].arrays.postings.base is not None
    back.add(Sparse.from_dense(dense[50:60]))
    back.save(tmp_path / "index")  # over the file that it maps
    assert len(Seismic.load(tmp_path / "index")) == 220
    assert os.listdir(tmp_path) == ["index"]


def test_damage_is_noticed(rng, tmp_path):
    path = tmp_path / "index"
    index, refused = index_of(topical(rng, 40)), 0
    index.save(path)
    whole = path.read_bytes()
    for at in [*range(64), *rng.integers(len(whole), size=60).tolist(), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        try:
            back = Seismic.load(path)
        except (Corrupt, BadInput):
            refused += 1
            continue
        # Padding between arrays, and what the header says of it, is read by nobody.
        assert back.settings == index.settings
        for one, other in zip(back.segments[0].arrays, index.segments[0].arrays):
            assert np.array_equal(one, other)
    assert refused > 100
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 65):
        path.write_bytes(whole[:length])
        with pytest.raises(Corrupt):
            Seismic.load(path)
    with pytest.raises(BadInput, match="no Seismic index"):
        Seismic.load(tmp_path / "nothing")
    with pytest.raises(BadInput, match="folder"):
        Seismic.load(tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        Seismic().save(tmp_path / "no" / "index")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[1, -0.5]], "row 0 has the negative weight -0.5"),
        ([[0, 0], [np.nan, 1]], "row 1 holds NaN"),
        ([[np.inf, 1]], "row 0 holds NaN or infinity"),
        ([[1, 7e4]], "values='float32'"),
    ],
)
def test_bad_rows(weights, message):
    index = Seismic()
    with pytest.raises(BadInput, match=message):
        index.add(Sparse.from_dense(np.array(weights, dtype=np.float32)))
    assert len(index) == 0


def test_bad_columns():
    one = np.ones(2, np.float32)
    for columns, message in [([1, 1], "do not ascend"), ([2, 0], "do not ascend"), ([-1, 0], "negative")]:
        with pytest.raises(BadInput, match=message):
            Seismic().add(Sparse(np.array([0, 2]), np.array(columns), one, (1, 3)))
    with pytest.raises(BadInput, match="sparse rows"):
        Seismic().add([[1, 2]])
    n = 65_535 * 8 + 1
    wide = Sparse(np.array([0, n]), np.arange(n), np.ones(n, np.float32), (1, n))
    with pytest.raises(BadInput, match="non-zeros"):
        Seismic().add(wide)


@pytest.mark.parametrize(
    "bad",
    [
        {"n_postings": 0}, {"n_postings": 1.5}, {"pruning": "some"}, {"max_fraction": 0.5}, {"mass": 2},
        {"centroid_fraction": -0.1}, {"centroid_fraction": float("nan")}, {"min_cluster_size": -1},
        {"summary_energy": 1.1}, {"doc_cut": 0}, {"knn": -1}, {"values": "int8"}, {"seed": "x"}, {"threads": 0},
    ],
)  # fmt: skip
def test_bad_settings(bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        Seismic(**bad)


@pytest.mark.parametrize(
    "bad", [{"query_cut": 0}, {"heap_factor": -1}, {"heap_factor": "x"}, {"n_knn": -1}, {"recall": 2}, {"k": 0},
            {"allow": np.ones(3, bool)}, {"allow": [1, 0]}],
)  # fmt: skip
def test_bad_searches(bad):
    index = index_of(np.eye(2, dtype=np.float32))
    with pytest.raises(BadInput, match=next(iter(bad))):
        index.search(Sparse.from_dense(np.eye(2, dtype=np.float32)), **{"k": 1, **bad})
    with pytest.raises(BadInput, match="query 0 has the negative weight"):
        index.search(Sparse.from_dense(-np.eye(2, dtype=np.float32)), 1)
    with pytest.raises(BadInput, match="work takes"):
        index.work(Sparse.from_dense(np.eye(2, dtype=np.float32)), 1, recall=0.9)


def test_it_is_an_index_and_says_what_it_is(rng):
    index = index_of(topical(rng, 50), knn=2)
    assert isinstance(index, Index)
    assert "n_postings=None" in repr(index)
    assert "of 50 rows" in repr(index)
    parts = index.nbytes_of_parts
    assert index.nbytes == sum(parts.values()) > 0
    assert parts["graph"] == 50 * 2 * 4
    scipy = pytest.importorskip("scipy.sparse")
    other = Seismic(knn=2)
    other.add(scipy.csr_array(index.segments[0].rows().to_scipy()))
    assert np.array_equal(other.segments[0].arrays.postings, index.segments[0].arrays.postings)


@pytest.fixture
def rng():
    return np.random.default_rng(11)
