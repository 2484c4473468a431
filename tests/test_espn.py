"""Slot files, inverted lists, and the pipeline that reads documents while it still searches."""

from __future__ import annotations

import os
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, InlayWarning, SpaceMismatch
from inlay.indexes.espn import ESPN
from inlay.indexes.flat import Flat
from inlay.indexes.ivf import IVF
from inlay.indexes.slot_file import SlotFile, Slots
from inlay.indexes.slot_layout import SLOT, lay_out
from inlay.io import Pack
from inlay.kernels import blocks as kernel
from inlay.types import Index, Neighbours, Ragged

CLS, BOW = 16, 8
FORMS = {"plain": False, "compiled": True}


def bag(counts, dim=BOW, seed=0):
    """Token rows of multiples of 1/8, which float16 holds and whose sums float32 holds."""
    values = np.random.default_rng(seed).integers(-8, 9, (int(np.sum(counts)), dim)) / 8
    return Ragged(values.astype(np.float32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def documents(counts, cls=CLS, dim=BOW, seed=0):
    rows = np.random.default_rng(seed + 1).integers(-8, 9, (len(counts), cls)) / 8
    return rows.astype(np.float32), bag(counts, dim, seed)


def chamfer(tokens, bag):
    return float((tokens @ bag.T).max(axis=1).sum()) if len(bag) else 0.0


def brute_force(cls, bow, query, tokens, weight=1.0):
    """CLS dot + MaxSim of every document, float64."""
    return np.array([chamfer(tokens, bow[i]) + weight * float(cls[i] @ query) for i in range(len(bow))])


# --- where documents lie ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 200), max_size=60), st.sampled_from([0, 32, 256, 1000]), st.sampled_from([2, 16, 64, 90])
)
@settings(deadline=None, max_examples=200)
def test_documents_lie_in_whole_blocks_apart_from_each_other(counts, cls_bytes, row_bytes):
    layout = lay_out(np.array(counts, dtype=np.int64), cls_bytes, row_bytes)
    assert (layout.tokens == np.minimum(counts, (2 * SLOT - cls_bytes) // row_bytes)).all()
    size = cls_bytes + layout.tokens.astype(int) * row_bytes
    start = layout.block.astype(int) * SLOT + layout.offset
    taken = np.zeros(layout.blocks * SLOT, dtype=int)
    for begin, length in zip(start, size):
        taken[begin : begin + length] += 1
    assert taken.max(initial=0) <= 1
    large = size > SLOT // 2
    assert (layout.offset[large] == 0).all()
    assert (layout.offset[~large] + size[~large] <= SLOT).all()
    # A large document is alone: nothing else lies in the block(s) it begins.
    for i in np.flatnonzero(large):
        last = layout.block[i] + (size[i] - 1) // SLOT
        others = (np.arange(len(size)) != i) & (size > 0)
        assert not ((layout.block[others] >= layout.block[i]) & (layout.block[others] <= last)).any()
    assert layout.blocks <= np.sum(np.where(large, -(-size // SLOT), 1))


def test_small_documents_share_blocks():
    layout = lay_out(np.full(100, 4), 256, 64)  # 512 bytes each
    assert layout.blocks == 13
    assert layout.offset[:9].tolist() == [0, 512, 1024, 1536, 2048, 2560, 3072, 3584, 0]
    # 2 KiB are small, one row more is not; what is large leaves the shared block open for what follows.
    layout = lay_out(np.array([28, 29, 28, 28, 61, 1]), 256, 64)
    assert layout.block.tolist() == [0, 1, 0, 2, 3, 2]
    assert layout.offset.tolist() == [0, 0, 2048, 0, 0, 2048]
    assert layout.blocks == 5


def test_a_document_of_one_row_beyond_a_slot_is_refused():
    with pytest.raises(BadInput, match="exceed the 8192"):
        lay_out(np.array([1]), 8190, 64)


# --- the file ---------------------------------------------------------------------------------------------------------

MIXED = [0, 3, 700, 1, 250, 0, 12, 400, 500, 2, 90, 0]


@pytest.fixture
def store(tmp_path):
    cls, bow = documents(MIXED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InlayWarning)
        store = SlotFile.create(tmp_path / "t.slots", cls, bow)
    store.rows = (cls, bow)
    with store:
        yield store


def kept(bow, i, most=(2 * SLOT - 2 * CLS) // (2 * BOW)):
    return bow[i][:most]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("ids", [range(12), [7, 3, 7, 0, 2, 2], [11], [], [5, 0, 11]])
def test_read_returns_rows_in_the_order_asked_for(store, direct, ids):
    cls, bow = store.rows
    try:
        opened = SlotFile(store.path, direct=direct)
    except BadInput:
        pytest.skip("no direct reads on this file system")
    with opened:
        got = opened.read(np.array(list(ids), dtype=np.int64))
        assert got.cls.dtype == got.bow.values.dtype == np.float16
        assert np.array_equal(got.cls, cls[list(ids)])
        assert len(got.bow) == len(ids)
        for i, rows in zip(ids, got.bow):
            assert np.array_equal(rows, kept(bow, i))
        assert opened.tokens(list(ids)).tolist() == [len(kept(bow, i)) for i in ids]


@pytest.mark.parametrize("form", FORMS)
def test_random_reads_over_many_blocks_agree_with_memory(tmp_path, form, monkeypatch):
    if FORMS[form]:
        pytest.importorskip("numba")
    monkeypatch.setattr(kernel, "compiled", lambda work: FORMS[form])
    rng = np.random.default_rng(3)
    cls, bow = documents(rng.integers(0, 300, 800), cls=5, dim=7)
    with SlotFile.create(tmp_path / "t.slots", cls, bow, threads=3) as store:
        assert store.blocks > 500  # many pieces, and more than one batch of asking ahead
        for _ in range(5):
            ids = rng.integers(0, 800, 400)
            got = store.read(ids)
            assert np.array_equal(got.cls, cls[ids])
            assert np.array_equal(got.bow.values, np.concatenate([bow[i] for i in ids]))
        store.verify()


def test_files_larger_than_a_writing_batch(tmp_path, monkeypatch):
    from inlay.indexes import slot_writer

    monkeypatch.setattr(slot_writer, "BLOCKS_AT_ONCE", 3)  # documents of two blocks straddle batches
    cls, bow = documents([400, 450, 3, 500, 300, 2, 450, 450, 1, 0, 499])
    with SlotFile.create(tmp_path / "t.slots", cls, bow) as store:
        got = store.read(range(11))
        assert np.array_equal(got.cls, cls)
        assert np.array_equal(got.bow.values, bow.values)
        assert np.array_equal(got.bow.offsets, bow.offsets)
        store.verify()


def test_without_cls_rows_a_document_without_tokens_is_no_byte(tmp_path):
    _, bow = documents([0, 0, 5, 0])
    with SlotFile.create(tmp_path / "t.slots", None, bow) as store:
        got = store.read([3, 2, 1])
        assert got.cls.shape == (3, 0)
        assert np.diff(got.bow.offsets).tolist() == [0, 5, 0]
        assert np.array_equal(got.bow.values, bow.values)
        assert store.start([0, 1], lambda places, slots: None).blocks == 0
    with SlotFile.create(
        tmp_path / "none.slots", None, Ragged(np.empty((0, 4), np.float32), np.zeros(1, int))
    ) as store:
        assert len(store) == store.blocks == 0
        assert len(store.read([]).bow) == 0


def test_documents_beyond_two_blocks_are_cut_at_7936_bytes_of_tokens_and_said_so(tmp_path):
    cls, bow = documents([125, 124, 60, 61], cls=128, dim=32)
    with pytest.warns(InlayWarning, match="1 of 4 documents .* document 0: 124 of its 125"):
        store = SlotFile.create(tmp_path / "t.slots", cls, bow)
    with store:
        assert store.truncated == 1
        got = store.read(range(4))
        assert np.diff(got.bow.offsets).tolist() == [124, 124, 60, 61]
        assert got.bow[0].nbytes == 7936
        assert np.array_equal(got.bow[0], bow[0][:124])
        # 256 + 60 · 64 = 4096 bytes are one block, one row more are two.
        assert [store.start([i], lambda places, slots: None).blocks for i in (2, 3)] == [1, 2]


def test_each_block_is_read_once_and_documents_are_handed_over_once(store):
    seen = []
    lock = threading.Lock()

    def each(places, slots):
        assert isinstance(slots, Slots)
        with lock:
            seen.extend(places.tolist())

    reading = store.start([1, 3, 6, 9, 1, 4], each)  # 1, 3, 6 and 9 share a block, 4 takes one
    reading.wait()
    assert reading.done()
    assert reading.blocks == 2
    assert reading.nbytes == 2 * SLOT
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def test_the_file_is_safetensors_whose_blocks_begin_on_a_block_of_the_disk(store):
    data = store.path.read_bytes()
    pack = Pack(data, "t")
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % SLOT == 0
    assert pack["blocks"].shape == (store.blocks, SLOT)
    block = store._block[7]
    row = pack["blocks"][block].view(np.float16)
    assert np.array_equal(row[:CLS], store.rows[0][7])
    assert np.array_equal(row[CLS : CLS + BOW], store.rows[1][7][0])
    try:
        from safetensors.numpy import load
    except ImportError:
        return
    assert np.array_equal(load(data)["blocks"], pack["blocks"])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("checks", ["first", "always"])
def test_a_damaged_block_is_an_error_that_names_the_file_and_others_stay_readable(store, checks):
    data = store.path.stat().st_size
    block = int(store._block[7])
    flip(store.path, store._data + block * SLOT + 100)
    assert store.path.stat().st_size == data
    with SlotFile(store.path, checks=checks) as opened:
        with pytest.raises(Corrupt, match=rf"t\.slots.*block {block} "):
            opened.read([7])
        assert np.array_equal(opened.read([4]).cls[0], store.rows[0][4])
        with pytest.raises(Corrupt, match=f"block {block} "):
            opened.verify()


def test_always_sees_damage_that_comes_after_the_first_read(store):
    with SlotFile(store.path, checks="always") as careful, SlotFile(store.path) as once:
        careful.read([7])
        once.read([7])
        flip(store.path, store._data + int(store._block[7]) * SLOT)
        once.read([7])
        with pytest.raises(Corrupt, match=r"t\.slots"):
            careful.read([7])


@pytest.mark.parametrize("part", ["header", "directory", "digest"])
def test_a_damaged_directory_is_noticed_at_opening(store, part):
    text = store.path.read_bytes()
    at = {"header": text.index(b'"cls'), "directory": store._data + store.blocks * SLOT + 3, "digest": len(text) - 5}
    flip(store.path, at[part])
    with pytest.raises(Corrupt, match=r"t\.slots"):
        SlotFile(store.path)


@pytest.mark.parametrize("share", [0, 1, 5000, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(store, share):
    data = store.path.read_bytes()
    store.path.write_bytes(data[: int(share * len(data)) if isinstance(share, float) else share])
    with pytest.raises(Corrupt, match=r"t\.slots"):
        SlotFile(store.path)


def test_a_failed_write_leaves_the_old_file(store, tmp_path):
    cls, bow = documents([3, 4])
    bow.values[5, 2] = np.nan
    with pytest.raises(BadInput, match="document 1 "):
        SlotFile.create(store.path, cls, bow)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.slots"]
    with SlotFile(store.path) as opened:
        assert len(opened) == len(MIXED)


def test_bad_input_of_files(tmp_path, store):
    cls, bow = documents([2, 3])
    path = tmp_path / "bad.slots"
    for arguments, message in [
        ((cls, bow.values), "Ragged"),
        ((cls[:1], bow), "1 CLS rows"),
        ((cls.astype(int), bow), "floats"),
        ((cls * 1e6, bow), "document 0 .*65504"),
        ((cls, Ragged(bow.values, np.array([0, 2]))), "rise from 0 to the 5"),
        ((cls, Ragged(bow.values, np.array([0, 6, 5]))), "rise"),
        ((cls, Ragged(bow.values[:, :0], bow.offsets)), "dim"),
    ]:
        with pytest.raises((BadInput, SpaceMismatch), match=message):
            SlotFile.create(path, *arguments)
    assert not path.exists()
    with pytest.raises(BadInput, match="does not exist"):
        SlotFile.create(tmp_path / "no" / "t.slots", cls, bow)
    with pytest.raises(BadInput, match="no slot file"):
        SlotFile(path)
    with pytest.raises(BadInput, match="folder"):
        SlotFile(tmp_path)
    for options in ({"threads": 0}, {"checks": "never"}):
        with pytest.raises(BadInput, match=next(iter(options))):
            SlotFile(store.path, **options)
    for ids, message in [([12], "12 is outside"), ([-1], "-1"), ([[1]], "integers"), ([0.5], "integers")]:
        with pytest.raises(BadInput, match=message):
            store.read(ids)
    store.close()
    with pytest.raises(BadInput, match="closed"):
        store.read([1])


# --- blocks of a file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_read_runs_and_find_the_damaged_block(tmp_path, form, monkeypatch):
    if FORMS[form]:
        pytest.importorskip("numba")
    monkeypatch.setattr(kernel, "compiled", lambda work: FORMS[form])
    data = np.random.default_rng(0).integers(0, 256, 20 * SLOT, dtype=np.uint8)
    data[SLOT : 2 * SLOT] = 0
    sums = np.array([zlib.crc32(part) for part in data.reshape(-1, SLOT)], dtype=np.uint32)
    path = tmp_path / "blocks"
    path.write_bytes(bytes(512) + data.tobytes())
    runs = np.array([[0, 7, 1], [1, 1, 3], [4, 19, 1]])
    with open(path, "rb") as file:
        verified, buffer = np.zeros(20, dtype=bool), np.empty(8 * SLOT, dtype=np.uint8)
        arguments = (file.fileno(), 512, runs, buffer, sums, verified)
        kernel.ask(file.fileno(), 512, runs)
        assert kernel.fetch(*arguments, False) == -1
        read = [7, 1, 2, 3, 19]
        assert np.array_equal(buffer[: 5 * SLOT], data.reshape(-1, SLOT)[read].reshape(-1))
        assert np.flatnonzero(verified).tolist() == sorted(read)
        flip(path, 512 + 3 * SLOT + 4095)
        assert kernel.fetch(*arguments, False) == -1  # it was verified before
        assert kernel.fetch(*arguments, True) == 3
        path.write_bytes(path.read_bytes()[: 512 + 19 * SLOT + 50])
        assert kernel.fetch(file.fileno(), 512, runs[[0, 2]], buffer, sums, verified, False) == 19


def test_the_compiled_checksum_is_crc_32():
    pytest.importorskip("numba")
    from inlay.kernels import blocks_numba

    data = np.random.default_rng(1).integers(0, 256, SLOT, dtype=np.uint8)
    assert blocks_numba._crc32(data.view(np.uint64), kernel._tables()) == zlib.crc32(data)


# --- inverted lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("masked", [False, True])
def test_all_lists_are_an_exact_search(metric, dtype, masked):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 12)).astype(np.float32)
    queries = rng.standard_normal((7, 12)).astype(np.float32)
    allow = rng.random(300) < 0.4 if masked else None
    index, exact = IVF(12, metric=metric, dtype=dtype, lists=20, probes=20), Flat(12, metric=metric, dtype=dtype)
    assert isinstance(index, Index)
    for part in (rows[:120], rows[120:121], rows[121:]):
        index.add(part)
        exact.add(part)
    found, expected = (x.search(queries, 50, allow=allow) for x in (index, exact))
    # Scores that differ by their last bit may change places.
    assert np.allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    swapped = found.ids != expected.ids
    assert swapped.mean() < 0.02
    assert np.array_equal(np.sort(found.ids, axis=1), np.sort(expected.ids, axis=1))
    assert index.sizes.sum() == len(index) == 300
    assert index.search(queries, 400).ids[:, 300:].tolist() == [[-1] * 100] * 7


def test_equal_rows_go_by_id():
    rows = np.eye(8, dtype=np.float32)[np.arange(64) % 8]
    index = IVF(8, metric="dot", lists=8, probes=8)
    index.add(rows)
    assert index.search(np.eye(8)[3] * 2, 5).ids.tolist() == [[3, 11, 19, 27, 35]]


def test_lists_are_scanned_in_order_of_their_centroids_and_looks_grow():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, 8)).astype(np.float32)
    index = IVF(8, metric="l2", lists=25, probes=10)
    index.add(rows)
    query = rng.standard_normal(8).astype(np.float32)
    nearest = np.argsort(((index._centroids - query) ** 2).sum(axis=1), kind="stable")
    lists = np.repeat(np.arange(25), index.sizes)
    stops = [1, 3, 3, 10, 40]
    for stop, found in zip(stops, index.probe(query, 20, stops), strict=True):
        ids = index._ids[np.isin(lists, nearest[:stop])]
        order = ids[np.lexsort((ids, ((rows[ids] - query) ** 2).sum(axis=1)))][:20]
        assert found.ids[0, : len(order)].tolist() == order.tolist()
        assert (found.ids[0, len(order) :] == -1).all()
        alone = index.search(query, 20).ids if stop == 10 else found.ids
        assert np.array_equal(alone, found.ids)


def test_lists_follow_the_first_rows_and_default_to_four_roots():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((400, 4))
    index = IVF(4)
    index.add(rows)
    assert len(index.sizes) == 80
    again = IVF(4).fit(rows)
    assert len(again) == 0
    assert again.search(rows[0], 3).ids.tolist() == [[-1] * 3]
    again.add(rows)
    assert np.array_equal(again.search(rows[:9], 5).ids, index.search(rows[:9], 5).ids)
    assert IVF(4).search(rows[:2], 3).ids.tolist() == [[-1] * 3] * 2
    with pytest.raises(BadInput, match="holds 400 rows"):
        index.fit(rows)


def test_ivf_saves_and_notices_damage(tmp_path):
    rng = np.random.default_rng(4)
    index = IVF(6, metric="dot", dtype="float16", lists=9, probes=4, seed=5)
    index.add(rng.standard_normal((100, 6)))
    path = tmp_path / "i.ivf"
    index.save(path)
    again = IVF.load(path)
    assert repr(again) == repr(index)
    queries = rng.standard_normal((5, 6))
    for a, b in zip(again.search(queries, 7), index.search(queries, 7)):
        assert np.array_equal(a, b)
    again.add(rng.standard_normal((3, 6)))
    assert len(again) == 103
    flip(path, path.stat().st_size // 2)
    with pytest.raises(Corrupt, match=r"i\.ivf"):
        IVF.load(path)


@pytest.mark.parametrize("options", [{"dim": 0}, {"lists": 0}, {"probes": 1.5}, {"metric": "ip"}, {"dtype": "int8"}])
def test_bad_settings_of_lists(options):
    with pytest.raises(BadInput, match=next(iter(options))):
        IVF(**{"dim": 4, **options})


def test_bad_input_of_lists():
    index = IVF(3, lists=2)
    with pytest.raises(SpaceMismatch):
        index.add(np.ones((2, 4)))
    with pytest.raises(BadInput, match="row 1 holds NaN"):
        index.add([[1, 2, 3], [1, np.nan, 3]])
    with pytest.raises(BadInput, match="at least one"):
        index.fit(np.empty((0, 3)))
    index.add(np.eye(3))
    with pytest.raises(BadInput, match="k must"):
        index.search(np.eye(3), 0)
    with pytest.raises(BadInput, match="allow"):
        index.search(np.eye(3), 1, allow=np.ones(2, bool))
    for stops in ([], [0, 2], [3, 2]):
        with pytest.raises(BadInput, match="stops"):
            index.probe(np.ones(3), 1, stops)
    with pytest.raises(BadInput, match="one query"):
        index.probe(np.eye(3), 1, [1])


# --- the pipeline -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(index, store, cls, bow, query CLS rows, query tokens) of 400 documents, some without tokens."""
    rng = np.random.default_rng(7)
    counts = rng.integers(0, 300, 400)
    counts[::17] = 0
    cls, bow = documents(counts)
    index = IVF(CLS, metric="dot", lists=30, probes=12)
    index.add(cls)
    queries = (rng.integers(-8, 9, (6, CLS)) / 8).astype(np.float32)
    tokens = bag([4, 32, 1, 0, 7, 9], seed=9)
    with SlotFile.create(tmp_path_factory.mktemp("espn") / "t.slots", cls, bow) as store:
        yield index, store, cls, bow, queries, tokens


def expected(corpus, i, candidates, rerank, allow=None, weight=1.0):
    """What the paper computes, in memory: ids and scores of one query."""
    index, _, cls, bow, queries, tokens = corpus
    near = index.search(queries[i], candidates, allow=allow)
    there = near.ids[0] >= 0
    ids, near = near.ids[0][there], near.scores[0][there]
    exact = brute_force(cls, bow, queries[i], tokens[i], weight)[ids[:rerank]]
    order = np.argsort(-exact, kind="stable")
    return np.concatenate([ids[:rerank][order], ids[rerank:]]), exact[order], near


@pytest.mark.parametrize("step", [0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_all_candidates_re_ranked_are_a_re_rank_in_memory(corpus, step, masked):
    index, store, _, _, queries, tokens = corpus
    allow = np.random.default_rng(1).random(400) < 0.5 if masked else None
    found = ESPN(index, store, candidates=80, rerank=None, step=step).search(queries, tokens, 80, allow=allow)
    assert found.scores.dtype == np.float32
    for i in range(len(queries)):
        ids, exact, _ = expected(corpus, i, 80, 80, allow)
        assert found.ids[i, : len(ids)].tolist() == ids.tolist()
        assert found.scores[i, : len(ids)].tolist() == exact.tolist()
        assert (found.ids[i, len(ids) :] == -1).all()


@pytest.mark.parametrize("step", [0, 0.3])
@pytest.mark.parametrize("k", [5, 20, 60, 90])
@pytest.mark.parametrize("weight", [1.0, -3.0])  # the second puts re-ranked scores below those of the index
def test_partial_re_rank_keeps_the_order_of_the_tail_below_the_head(corpus, step, k, weight):
    index, store, _, _, queries, tokens = corpus
    pipeline = ESPN(index, store, candidates=60, rerank=20, step=step, cls_weight=weight)
    found = pipeline.search(queries, tokens, k)
    for i in range(len(queries)):
        ids, exact, near = expected(corpus, i, max(k, 60), 20, weight=weight)
        there = found.ids[i] >= 0
        assert found.ids[i][there].tolist() == ids[:k].tolist()
        scores = found.scores[i][there]
        assert scores[:20].tolist() == exact[:k].tolist()
        assert (np.diff(scores) <= 0).all()
        # The tail keeps its distances, whatever the scale of its scores.
        assert np.allclose(scores[20:], exact.min() - (near[19] - near[20:k]), atol=1e-4)


def test_cls_weight_and_documents_without_tokens(corpus):
    index, store, cls, bow, queries, tokens = corpus
    found = ESPN(index, store, candidates=400, rerank=None, cls_weight=0.5).search(queries[:1], tokens[0], 400)
    ids, _, _ = expected(corpus, 0, 400, 400, weight=0.5)
    assert found.ids[0][: len(ids)].tolist() == ids.tolist()
    empty = [place for place, id in enumerate(ids) if len(bow[id]) == 0]
    assert empty
    assert found.scores[0][empty].tolist() == (0.5 * (cls[ids[empty]] @ queries[0])).tolist()


def test_an_index_that_cannot_be_looked_at_half_way_reads_afterwards(corpus):
    _, store, cls, bow, queries, tokens = corpus
    flat = Flat(CLS, metric="dot")
    flat.add(cls)
    pipeline = ESPN(flat, store, candidates=400, rerank=None, step=0)
    found = pipeline.search(queries, tokens, 5)
    for i in range(len(queries)):
        best = np.sort(brute_force(cls, bow, queries[i], tokens[i]))[::-1][:5]
        assert found.scores[i].tolist() == best.tolist()
    assert pipeline.reads.hits == pipeline.reads.ahead == 0
    with pytest.raises(BadInput, match="Flat has no probe"):
        ESPN(flat, store)


class Scripted:
    """An index whose looks are written down."""

    dim, probes, sizes, nbytes = 2, 10, np.ones(10, dtype=np.int64), 0

    def __init__(self, early, final, n):
        self.looks, self.n, self.stops = (early, final), n, None

    def __len__(self):
        return self.n

    def probe(self, query, k, stops, *, allow=None):
        self.stops = stops
        for ids in self.looks:
            yield Neighbours(-np.arange(len(ids), dtype=np.float32)[None], np.array([ids], dtype=np.int64))


def test_counters_are_exact(tmp_path):
    # 240 rows of 16 bytes are one block of their own each, and 512 rows two.
    cls, bow = documents([240] * 9 + [508], cls=2)
    index = Scripted(early=[4, 1, 7, 0, 9], final=[1, 9, 4, 2, 0, -1], n=10)
    with SlotFile.create(tmp_path / "t.slots", cls, bow) as store:
        pipeline = ESPN(index, store, candidates=6, rerank=4, step=0.3)
        for done in (1, 2):
            found = pipeline.search(np.ones(2), np.ones((3, BOW)), 6)
            # Read ahead: 4, 1, 7, 0. Wanted: 1, 9, 4, 2, of which 9 and 2 are missing, and 9 takes two blocks.
            reads = pipeline.reads
            assert index.stops == [3, 10]
            assert (reads.queries, reads.wanted, reads.hits, reads.ahead) == (done, 4 * done, 2 * done, 4 * done)
            assert reads.hit_rate == 0.5
            assert reads.moved == done * (4 + 2 + 1) * SLOT
            assert reads.bytes_per_query == 7 * SLOT
            assert 0 <= reads.early <= reads.hits
            assert reads.waited >= 0
            assert reads.waited_ms == pytest.approx(1e3 * reads.waited / done)
            assert sorted(found.ids[0, :4].tolist()) == [1, 2, 4, 9]
            assert found.ids[0, 4:].tolist() == [0, -1]
        assert pipeline.nbytes == store.resident


def test_documents_are_scored_while_the_scan_goes_on(tmp_path):
    cls, bow = documents([240] * 8, cls=2)
    scored = threading.Event()

    class Slow(Scripted):
        def probe(self, query, k, stops, *, allow=None):
            looks = super().probe(query, k, stops, allow=allow)
            yield next(looks)
            assert scored.wait(10)  # the scan ends only when everything read ahead was scored
            yield next(looks)

    with SlotFile.create(tmp_path / "t.slots", cls, bow) as store:
        start = store.start

        def watched(ids, each):
            reading = start(ids, each)
            for future, _ in reading._work:
                future.add_done_callback(lambda _: scored.set() if reading.done() else None)
            return reading

        store.start = watched
        pipeline = ESPN(Slow([0, 1, 2], [0, 2, 5], 8), store, candidates=3, rerank=None)
        pipeline.search(np.ones(2), np.ones((3, BOW)), 3)
        assert pipeline.reads.early == pipeline.reads.hits == 2


def test_damage_under_a_search_is_an_error(corpus, tmp_path):
    index, _, cls, bow, queries, tokens = corpus
    with SlotFile.create(tmp_path / "d.slots", cls, bow) as copy:
        best = int(index.search(queries[1], 1).ids[0, 0])
        flip(copy.path, copy._data + int(copy._block[best]) * SLOT + 7)
        for step in (0, 0.3):
            with pytest.raises(Corrupt, match=r"d\.slots"):
                ESPN(index, copy, candidates=50, step=step).search(queries[1:2], tokens[1], 5)


def test_two_searches_at_once_give_what_each_gives_alone(corpus):
    index, store, _, _, queries, tokens = corpus
    pipeline = ESPN(index, store, candidates=60, rerank=30)
    alone = pipeline.search(queries, tokens, 60)
    before = pipeline.reads
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: pipeline.search(queries, tokens, 60), range(16)):
            assert np.array_equal(found.ids, alone.ids)
            assert np.array_equal(found.scores, alone.scores)
    after = pipeline.reads
    for name in ("queries", "wanted", "hits", "ahead", "moved"):
        assert getattr(after, name) == 17 * getattr(before, name)


def test_bad_input_of_the_pipeline(corpus, tmp_path):
    index, store, cls, bow, queries, tokens = corpus
    for options in ({"candidates": 0}, {"rerank": 0}, {"step": 1.5}, {"step": "half"}, {"cls_weight": np.nan}):
        with pytest.raises(BadInput, match=next(iter(options))):
            ESPN(index, store, **options)
    with pytest.raises(BadInput, match="SlotFile"):
        ESPN(index, bow)
    short = IVF(CLS, lists=2)
    short.add(cls[:10])
    with pytest.raises(BadInput, match="10 rows, the store 400"):
        ESPN(short, store)
    narrow = IVF(CLS - 1, lists=2)
    narrow.add(cls[:, 1:])
    with pytest.raises(SpaceMismatch):
        ESPN(narrow, store)
    pipeline = ESPN(index, store)
    for arguments, message in [
        ((queries[:2], tokens, 3), "2 CLS rows and token rows of 6"),
        ((queries[0], np.full((2, BOW), np.nan), 3), "query token 0 holds NaN"),
        ((np.full(CLS, np.nan), tokens[0], 3), "query 0 holds NaN"),
        ((queries[0], tokens[0], 0), "k must"),
        ((queries, Ragged(tokens.values, tokens.offsets[:-1]), 3), "rise"),
        ((queries[0], [[1, 2], [3]], 3), "numbers"),
    ]:
        with pytest.raises(BadInput, match=message):
            pipeline.search(*arguments)
    with pytest.raises(SpaceMismatch):
        pipeline.search(queries[0], np.ones((2, BOW + 1)), 3)
    with pytest.raises(BadInput, match="allow"):
        pipeline.search(queries[0], tokens[0], 3, allow=np.ones(3, bool))


# --- the reproduction -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be told to forget a file")
def test_the_reproduction_ranks_alike_in_all_ways(tmp_path):
    from inlay.reproductions.indexes.espn import WAYS, run

    result = run(tmp_path, seeds=(0,), documents=2000, queries=4)
    assert result.name == "espn"
    assert set(result.figures["holds"]) == {"hit rate", "near memory", "over page faults", "quality kept"}
    for figures in result.figures["settings"].values():
        assert figures["overlap@10 of read ahead with memory"] == 1
        assert len({figures["MRR@10"][way] for way in WAYS if way != "read ahead, 64"}) == 1
        assert figures["KB a query"]["read ahead, 64"] < figures["KB a query"]["read after"] == 819
        assert all(0 < figures["p50 ms"][way] <= figures["p95 ms"][way] for way in WAYS)
    assert result.figures["settings"]["all of 179 lists"]["hit rate"] > 0.9
    with pytest.raises(BadInput, match="documents must be 2000 or more"):
        run(tmp_path, documents=100)
