"""Lists on disk against a flat scan, in both forms; what is read; crashes, damage, and updates."""

from __future__ import annotations

import json
import os
import threading
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, Locked, SpaceMismatch
from inlay.indexes.attributes import Attributes
from inlay.indexes.disk_ivf import DiskIVF
from inlay.indexes.disk_ivf_file import PartWriter
from inlay.indexes.disk_ivf_search import DiskReads
from inlay.indexes.flat import Flat
from inlay.kernels import attribute_scan, blocks, list_rows
from inlay.kernels.blocks import SIZE
from inlay.types import Index

pytest.importorskip("numba")

DIM = 24
TYPES = {"half": "u1", "tenth": "u4", "lang": "cat", "tags": "set32"}
EVERY = 10**6


@contextmanager
def by_compiler(fast):
    with ExitStack() as stack:
        for kernel in (attribute_scan, blocks, list_rows):
            stack.enter_context(mock.patch.object(kernel, "compiled", return_value=fast))
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def vectors(rng, n=1200, dim=DIM):
    """Multiples of 1/8 around some centres, which float16 holds and whose sums float32 holds."""
    centres = rng.integers(-16, 17, (12, dim))
    return ((centres[rng.integers(0, 12, n)] + rng.integers(-6, 7, (n, dim))) / 8).astype(np.float32)


def values(rng, n=1200):
    return {
        "half": rng.integers(0, 2, n),
        "tenth": rng.integers(0, 10, n),
        "lang": [[None, "bg", "en", "fr"][i] for i in rng.integers(0, 4, n)],
        "tags": [[tag for tag in "abc" if rng.random() < 0.3] for _ in range(n)],
    }


def part_of(given, low, high):
    return {name: own[low:high] for name, own in given.items()}


def made(tmp_path, rng, n=1200, **options):
    rows, attributes = vectors(rng, n), values(rng, n)
    index = DiskIVF.create(tmp_path / "index", DIM, attributes=TYPES, **{"lists": 24, "iterations": 3} | options)
    index.add(rows, attributes)
    return index, rows, attributes


def mask_of(attributes, where):
    held = Attributes(TYPES)
    held.add(attributes)
    return held.mask(where)


def flat(rows, queries, k, allow, **options):
    index = Flat(rows.shape[1], **options)
    index.add(rows)
    return index.search(queries, k, allow=allow)


WHERE = {"tenth": {"$lt": 3}, "$or": [{"tags": "a"}, {"lang": "bg"}], "half": 1}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_every_list_gives_what_a_scan_gives(tmp_path, rng, metric, dtype, fast):
    with by_compiler(fast):
        index, rows, attributes = made(tmp_path, rng, metric=metric, dtype=dtype)
        queries = vectors(rng, 7)
        allow = rng.random(len(rows)) < 0.7
        for where, mask in ((None, None), (WHERE, None), (None, allow), (WHERE, allow)):
            wanted = mask_of(attributes, where) & (mask if mask is not None else True)
            truth = flat(rows, queries, 9, wanted, metric=metric, dtype=dtype)
            found = index.search(queries, 9, where=where, allow=mask, probes=EVERY)
            assert np.allclose(found.scores, truth.scores, rtol=1e-5, atol=1e-5)
            # Of equal scores either may come first, so ids are compared by what they score.
            same = [set(a) == set(b) for a, b in zip(found.ids.tolist(), truth.ids.tolist())]
            assert np.mean(same) > 0.8
            assert wanted[found.ids[found.ids >= 0]].all()
        assert isinstance(index, Index)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_both_forms_agree_and_few_lists_are_those_of_the_nearest_centroids(tmp_path_factory, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, k = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 12))
    lists = data.draw(st.integers(1, 20))
    folder = tmp_path_factory.mktemp("both")
    index, rows, attributes = made(folder, rng, n, lists=lists, metric="l2", dtype="float32")
    probes = data.draw(st.integers(1, 20))
    queries = vectors(rng, 3)
    with by_compiler(False):
        plain = index.search(queries, k, where={"tenth": {"$lte": 4}}, probes=probes)
    with by_compiler(True):
        quick = index.search(queries, k, where={"tenth": {"$lte": 4}}, probes=probes)
    assert np.array_equal(plain.ids, quick.ids)
    assert np.allclose(plain.scores, quick.scores)
    of_list = np.empty(n, dtype=np.int64)
    for block, number in enumerate(index._parts[0].lists):
        of_list[index._parts[0].group(block).ids] = number
    keeps = attributes["tenth"] <= 4
    for i, query in enumerate(queries):
        away = ((index._centroids.astype(np.float64) - query) ** 2).sum(axis=1)
        cut = np.sort(away)[min(probes, len(away)) - 1]
        if (np.abs(away - cut) < 1e-3).sum() > 1:
            continue  # which of two lists equally far is scanned is left open
        allowed = keeps & np.isin(of_list, np.flatnonzero(away <= cut))
        truth = flat(rows, query[None], k, allowed, metric="l2")
        assert np.allclose(truth.scores[0], plain.scores[i])


def test_a_filter_reads_attributes_and_few_rows(tmp_path, rng):
    n, dim = 6000, 256  # rows of half a page
    rows, attributes = vectors(rng, n, dim), values(rng, n)
    index = DiskIVF.create(tmp_path / "index", dim, attributes=TYPES, lists=20, iterations=2, order=["tenth"])
    index.add(rows, attributes)
    part = index._parts[0]
    everything = len(part.verified) * SIZE
    heads = len(part._known_heads) * SIZE
    for where, share in (({}, 1.0), ({"tenth": 3}, 0.1), ({"tenth": {"$in": [2, 5]}}, 0.2)):
        index.reads = DiskReads()
        index.search(rows[:1], 5, where=where, probes=EVERY)
        assert index.reads.head_bytes == heads if not index.reads.skipped else index.reads.head_bytes < heads
        assert index.reads.scored == mask_of(attributes, where).sum()
        # A run of rows begins and ends somewhere in a page.
        runs = 0 if share == 1 else round(10 * share)
        assert index.reads.row_bytes <= share * everything * 1.15 + runs * len(part.lists) * 2 * SIZE
        assert index.reads.requests <= len(part.lists) * (1 + max(1, runs))
    index.reads = DiskReads()
    index.search(rows[:1], 5, where={"lang": "nobody speaks it"}, probes=EVERY)
    assert (index.reads.head_bytes, index.reads.row_bytes) == (0, 0)
    assert index.reads.skipped == index.reads.lists == len(part.lists)


def test_lists_whose_attributes_cannot_match_are_not_read(tmp_path, rng):
    rows = vectors(rng)
    index = DiskIVF.create(tmp_path / "index", DIM, attributes={"list": "u16"}, lists=12, metric="l2")
    index.fit(rows)
    near = ((rows[:, None] - index._centroids.astype(np.float32)) ** 2).sum(axis=2).argmin(axis=1)
    index.add(rows, {"list": near})
    index.search(rows[:1], 3, where={"list": int(near[0])}, probes=EVERY)
    assert index.reads.lists - index.reads.skipped == 1
    assert index.reads.tested == (near == near[0]).sum()


def test_probes_auto_finds_k_rows_and_stops(tmp_path, rng):
    index, rows, attributes = made(tmp_path, rng, metric="l2", dtype="float32", lists=40, probes=1)
    where = {"tenth": 7, "half": 0, "lang": "bg"}
    wanted = mask_of(attributes, where)
    assert 3 < wanted.sum() < 60
    few = index.search(rows[:30], 5, where=where, probes=1)
    assert (few.ids < 0).any()
    auto = index.search(rows[:30], 5, where=where, probes="auto")
    assert (auto.ids >= 0).all()
    assert wanted[auto.ids].all()
    table = index.calibrate(rows[:200], recall=0.99, depth=300)
    assert list(table.values()) == sorted(table.values())
    again = DiskIVF(index.path)
    assert again._depths == index._depths
    truth = flat(rows, rows[:100], 5, wanted, metric="l2").ids
    found = again.search(rows[:100], 5, where=where, probes="auto").ids
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.tolist(), truth.tolist())]) > 0.9
    # With rows of a tight cluster around it, a query needs not look far: what is left cannot be nearer.
    assert again.reads.lists < 100 * len(again._centroids)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_what_auto_passes_over_is_not_nearer(tmp_path, rng, metric):
    index, *_ = made(tmp_path, rng, metric=metric, dtype="float32", lists=60)
    index._depths = [[10, EVERY]]  # as many lists as there are: only the bound may stop a search
    queries = vectors(rng, 40)
    index.probes = 1
    found = index.search(queries, 3, probes="auto")
    truth = index.search(queries, 3, probes=EVERY)
    assert np.allclose(found.scores, truth.scores, atol=1e-5)


def test_later_rows_deletions_and_rewriting(tmp_path, rng):
    rows, attributes = vectors(rng), values(rng)
    index = DiskIVF.create(tmp_path / "index", DIM, attributes=TYPES, lists=24, dtype="float32", metric="l2")
    for low, high in ((0, 700), (700, 703), (703, 1200)):
        index.add(rows[low:high], part_of(attributes, low, high))
    assert len(index.files) == 3
    gone = rng.permutation(1200)[:200]
    index.delete(gone)
    index.delete(gone[:5])
    assert len(index) == 1000
    alive = np.ones(1200, dtype=bool)
    alive[gone] = False
    queries = vectors(rng, 20)
    truth = flat(rows, queries, 6, mask_of(attributes, WHERE) & alive, metric="l2")
    for again in (index, DiskIVF(index.path)):
        assert np.allclose(again.search(queries, 6, where=WHERE, probes=EVERY).scores, truth.scores)
    before = index.nbytes
    index.rewrite()
    assert len(index.files) == 1
    assert index.nbytes < before
    assert len(index) == 1000
    assert sum(index.sizes) == 1000
    found = index.search(queries, 6, where=WHERE, probes=EVERY)
    assert np.allclose(found.scores, truth.scores)
    assert alive[found.ids[found.ids >= 0]].all()
    assert sorted(path.name for path in index.path.glob("*.lists")) == [index.files[0].name]
    index.add(rows[:1] + 40, part_of(attributes, 0, 1))
    assert index.search(rows[:1] + 40, 1, probes=EVERY).ids.tolist() == [[1200]]
    index.delete([1200])
    assert 1200 not in index.search(rows[:1] + 40, 5, probes=EVERY).ids


def test_a_handle_that_was_open_before_reads_on_and_a_second_writer_sees_the_first(tmp_path, rng):
    index, rows, attributes = made(tmp_path, rng, 600)
    other, queries = DiskIVF(index.path), vectors(rng, 5)
    truth = other.search(queries, 4, probes=EVERY)
    index.add(rows[:50] + 1, part_of(attributes, 0, 50))
    index.rewrite()
    assert np.array_equal(other.search(queries, 4, probes=EVERY).ids, truth.ids)
    other.add(rows[:7], part_of(attributes, 0, 7))
    assert len(other) == 657
    index.delete([3])
    assert len(index) == 656


def test_threads_may_search_while_one_writes(tmp_path, rng):
    index, rows, attributes = made(tmp_path, rng, 600)
    wrong: list[BaseException] = []

    def ask():
        try:
            for _ in range(40):
                found = index.search(rows[:2], 3, where={"half": 1}, probes=EVERY)
                assert (found.ids >= 0).all()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(4):
        index.add(rows[i : i + 40], part_of(attributes, i, i + 40))
        index.rewrite()
    for thread in threads:
        thread.join()
    assert not wrong


def test_large_lists_are_split(tmp_path, rng):
    rows = np.concatenate([vectors(rng, 150), rng.integers(-3, 4, (1500, DIM)).astype(np.float32) / 64 + 9])
    index = DiskIVF.create(tmp_path / "index", DIM, lists=30, metric="l2", dtype="float32")
    index.fit(rows[:160])  # centroids that know next to nothing of the second kind
    index.add(rows)
    assert len(index._centroids) > 30
    assert index.sizes.max() <= 4 * len(rows) / 30
    truth = flat(rows, rows[::50], 3, None, metric="l2")
    assert np.allclose(index.search(rows[::50], 3, probes=EVERY).scores, truth.scores, atol=1e-4)
    alike = DiskIVF.create(tmp_path / "alike", DIM, lists=5, metric="l2")
    alike.fit(vectors(rng, 60))
    alike.add(np.ones((300, DIM), dtype=np.float32))  # cannot be split
    assert alike.sizes.max() == 300
    assert alike.search(np.ones(DIM), 3, probes=2).scores.tolist() == [[0, 0, 0]]


def test_an_addition_that_was_interrupted_leaves_nothing(tmp_path, rng):
    index, rows, attributes = made(tmp_path, rng, 400)
    facts = (index.path / "index.inlay").read_bytes()
    for place in ("finish", "add"):
        with mock.patch.object(PartWriter, place, side_effect=OSError("no space left")), pytest.raises(OSError):
            index.add(rows[:10], part_of(attributes, 0, 10) | {"lang": ["new"] * 10})
        assert (index.path / "index.inlay").read_bytes() == facts
        assert index.columns.labels("lang") == DiskIVF(index.path).columns.labels("lang")
        assert not list(index.path.glob(".*"))
    # Killed between the file and the manifest: the file is there, and nobody names it.
    with mock.patch.object(DiskIVF, "_commit", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        index.add(rows[:10], part_of(attributes, 0, 10))
    assert len(list(index.path.glob("*.lists"))) == 2
    again = DiskIVF(index.path)
    assert len(again) == 400
    again.add(rows[:3], part_of(attributes, 0, 3))
    assert len(again) == 403
    assert len(list(index.path.glob("*.lists"))) == 2
    found = again.search(rows[:3], 2, probes=EVERY).scores
    assert np.allclose(found[:, 0], found[:, 1], atol=1e-3)


def test_one_writer_at_a_time(tmp_path, rng):
    import portalocker

    index, rows, attributes = made(tmp_path, rng, 100)
    with open(index.path / "writer.lock", "a+b") as held:
        portalocker.lock(held, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        with pytest.raises(Locked, match="another process"):
            index.add(rows, attributes)


def test_every_damaged_byte_is_found(tmp_path, rng):
    index, rows, _ = made(tmp_path, rng, 300, lists=6)
    path = index.files[0]
    data = path.read_bytes()

    def everything():
        fresh = DiskIVF(index.path)
        return fresh.search(rows[:3], 4, probes=EVERY)

    places = [*range(0, 900, 31), *range(SIZE, len(data), 661), len(data) - 1]
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(Corrupt, match=r"\.lists is damaged"):
            everything()
    for size in (0, 5, 100, SIZE, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(Corrupt, match=r"\.lists is damaged"):
            everything()
    path.write_bytes(data + b"more")
    with pytest.raises(Corrupt):
        everything()
    path.unlink()
    with pytest.raises(Corrupt, match="missing"):
        everything()


def test_rows_are_verified_again_if_asked(tmp_path, rng):
    index, rows, _ = made(tmp_path, rng, 300, lists=6)
    always = DiskIVF(index.path, checks="always")
    for one in (index, always):
        one.search(rows[:1], 3, probes=EVERY)
    with open(index.files[0], "r+b") as file:
        file.seek(SIZE + 9)
        old = file.read(1)
        file.seek(SIZE + 9)
        file.write(bytes([old[0] ^ 1]))
    index.search(rows[:1], 3, probes=EVERY)
    with pytest.raises(Corrupt, match="rows of list"):
        always.search(rows[:1], 3, probes=EVERY)


def test_a_file_of_another_index_is_refused(tmp_path, rng):
    index, _, _ = made(tmp_path, rng, 100)
    (tmp_path / "b").mkdir()
    other, _, _ = made(tmp_path / "b", rng, 100)
    index.files[0].write_bytes(other.files[0].read_bytes())
    with pytest.raises(Corrupt, match="not the file that the index wrote"):
        DiskIVF(index.path)
    manifest = other.path / "index.inlay"
    data = manifest.read_bytes()
    manifest.write_bytes(data[:-9])
    with pytest.raises(Corrupt):
        DiskIVF(other.path)
    manifest.write_bytes(data)
    next(other.path.glob("centroids-*")).unlink()
    with pytest.raises(Corrupt, match="centroids"):
        DiskIVF(other.path)


def test_centroids_too_large_or_too_close_for_half_precision_stay_whole(tmp_path, rng):
    for name, rows in (("large", vectors(rng, 300) * 1e5), ("close", 1000 + vectors(rng, 300) / 100)):
        index = DiskIVF.create(tmp_path / name, DIM, lists=12, metric="l2", dtype="float32")
        index.add(rows)
        assert index._centroids.dtype == np.float32
        assert np.array_equal(index.search(rows, 1, probes=3).ids[:, 0], np.arange(300)) or name == "close"
    small = DiskIVF.create(tmp_path / "small", DIM, lists=12)
    small.add(vectors(rng, 300))
    assert small._centroids.dtype == np.float16


def test_without_attributes_and_with_few_rows(tmp_path):
    index = DiskIVF.create(tmp_path / "index", 3)
    assert index.search(np.ones(3), 2).ids.tolist() == [[-1, -1]]
    index.add(np.empty((0, 3), dtype=np.float32))
    index.rewrite()
    index.add(np.eye(3, dtype=np.float32)[:1])
    index.add(np.eye(3, dtype=np.float32)[1:])
    assert index.search(np.eye(3), 1).ids[:, 0].tolist() == [0, 1, 2]
    index.delete([0, 1, 2])
    assert len(index) == 0
    assert index.search(np.eye(3), 1).ids[:, 0].tolist() == [-1] * 3
    index.rewrite()
    assert index.search(np.eye(3), 1).ids[:, 0].tolist() == [-1] * 3
    assert DiskIVF(index.path).search(np.ones(3), 2).ids.tolist() == [[-1, -1]]


def test_memory_does_not_grow_with_rows(tmp_path, rng):
    index, rows, _ = made(tmp_path, rng, 1200)
    index.search(rows[:1], 1)
    part = index._parts[0]
    a_list = 4 * 5 + len(TYPES) * 16 + 2 * DIM
    work = sum(len(held) for held in vars(index._own).values())
    assert index.resident - work <= len(part.lists) * a_list + 5 * len(part._known_heads) + len(part.verified) + 64
    assert index.nbytes > sum(path.stat().st_size for path in index.files)
    shown = repr(index)
    assert "dim=24" in shown
    assert "1200 rows in 24 lists" in shown


def test_the_file_is_safetensors(tmp_path, rng):
    index, _, _ = made(tmp_path, rng, 100)
    data = index.files[0].read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    ends = sorted(one["data_offsets"] for one in header.values())
    assert ends[0][0] == 0
    assert all(a[1] == b[0] for a, b in zip(ends, ends[1:]))
    assert ends[-1][1] + 8 + size == len(data)
    assert (8 + size) % SIZE == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be"), ({"metric": "cos"}, "metric must be"), ({"dtype": "float64"}, "dtype must be"),
        ({"lists": 0}, "lists must be"), ({"probes": True}, "probes must be"), ({"attributes": {"a": "x"}}, "none of"),
        ({"order": ["b"]}, "no attribute 'b'"),
    ],
)  # fmt: skip
def test_settings_are_checked(tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        DiskIVF.create(tmp_path / "index", **{"dim": 4, "attributes": {"a": "u8"}} | options)


def test_arguments_are_checked(tmp_path, rng):
    index, rows, attributes = made(tmp_path, rng, 60)
    with pytest.raises(BadInput, match="there already"):
        DiskIVF.create(index.path, DIM)
    with pytest.raises(BadInput, match="does not exist"):
        DiskIVF.create(tmp_path / "no" / "index", DIM)
    with pytest.raises(BadInput, match="no index"):
        DiskIVF(tmp_path / "none")
    with pytest.raises(BadInput, match="checks must be"):
        DiskIVF(index.path, checks="never")
    with pytest.raises(BadInput, match="lack half"):
        index.add(rows)
    with pytest.raises(SpaceMismatch):
        index.add(rows[:, :3], attributes)
    with pytest.raises(BadInput, match="NaN"):
        index.add(rows * np.nan, attributes)
    with pytest.raises(BadInput, match="decided"):
        index.fit(rows)
    with pytest.raises(BadInput, match="probes must be"):
        index.search(rows[:1], 1, probes="all")
    with pytest.raises(BadInput, match="k must be"):
        index.search(rows[:1], 0)
    with pytest.raises(BadInput, match="no attribute 'year'"):
        index.search(rows[:1], 1, where={"year": 3})
    with pytest.raises(BadInput, match=r"allow must be bool \[60\]"):
        index.search(rows[:1], 1, allow=np.ones(4, dtype=bool))
    with pytest.raises(BadInput, match="outside"):
        index.delete([60])
    with pytest.raises(BadInput, match="integers"):
        index.delete([0.5])
    with pytest.raises(BadInput, match="recall"):
        index.calibrate(rows, recall=2)
    assert len(index) == 60
    with index:
        pass
    with pytest.raises(BadInput, match="closed"):
        index.search(rows[:1], 1)


def test_the_cache_can_be_dropped(tmp_path, rng):
    index, rows, _ = made(tmp_path, rng, 300)
    index.drop_cache()
    assert index.search(rows[:1], 1, probes=EVERY).ids.tolist() == [[0]]
    assert os.path.getsize(index.files[0]) == index._parts[0].nbytes
