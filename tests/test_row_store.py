"""Rows by key: kernels against numpy, every type, placement and cut, overlays, files and their damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, Locked
from inlay.kernels import gather as kernels
from inlay.tables import deduplication
from inlay.tables.deduplication import Deduplication
from inlay.tables.overlay import Overlay
from inlay.tables.row_store import RowStore, from_bfloat16, to_bfloat16

DTYPES = ("float32", "bfloat16", "int8")


def values(rows: int = 50, layers: int | None = 3, width: int = 10, seed: int = 0) -> np.ndarray:
    shape = (rows, width) if layers is None else (rows, layers, width)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stored(dtype: str, made: np.ndarray) -> np.ndarray:
    """What a table of that type keeps of rows, computed here."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        return torch.from_numpy(made).bfloat16().float().numpy()
    if dtype == "int8":
        scale = np.abs(made).max(-1, keepdims=True) / np.float32(127)
        return np.rint(made / np.where(scale > 0, scale, 1)).astype(np.int8) * scale
    return made


@pytest.fixture(params=["plain", "compiled"])
def form(request, monkeypatch):
    monkeypatch.setattr(kernels, "compiled", lambda work: request.param == "compiled")
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layers", [None, 1, 3])
@pytest.mark.parametrize("shards", [1, 3])
def test_rows_are_those_written(dtype, layers, shards, form, tmp_path: Path):
    made = values(layers=layers)
    kept = stored(dtype, made)
    store = RowStore.of(made, dtype=dtype, shards=shards)
    path = store.save(tmp_path / "t")
    keys = np.random.default_rng(1).integers(0, 50, (4, 9))
    for table in (store, RowStore.open(path), RowStore.open(path, placement="ram")):
        assert np.array_equal(table.rows(keys), kept[keys])
        assert np.array_equal(table.rows(7), kept[7])
        assert table.rows(np.zeros((0, 2), dtype=np.int64)).shape == (0, 2, *kept.shape[1:])
        for layer in range(layers or 1):
            one = kept if layers is None else kept[:, layer]
            assert np.array_equal(table.rows(keys, layer=layer), one[keys])
        out = np.empty((4, 9, *kept.shape[1:]), dtype=np.float32)
        assert table.rows(keys, out=out) is out
        assert np.array_equal(out, kept[keys])
        assert repr(table).startswith("RowStore(rows=50")
    item = {"float32": 4, "bfloat16": 2, "int8": 1}[dtype]
    many = layers or 1
    assert store.nbytes == 50 * many * (10 * item + (4 if dtype == "int8" else 0))
    assert store.row_nbytes * 50 == store.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shards", [1, 3])
def test_sums_of_bags(dtype, shards, form):
    made = values()
    kept = stored(dtype, made)
    store = RowStore.of(made, dtype=dtype, shards=shards)
    keys, offsets = np.array([3, 3, 9, 49, 0]), np.array([0, 2, 2, 5])
    long = np.random.default_rng(2).integers(0, 50, 23)  # bags of more than four, which are added four at a time
    expected = np.zeros((4, 3, 10), dtype=np.float32)
    for bag, part in enumerate(np.split(keys, offsets[1:])):
        for key in part:
            expected[bag] += kept[key]
    assert np.array_equal(store.sums(keys, offsets), expected)
    in_order = [np.zeros((3, 10), dtype=np.float32) for _ in range(2)]
    for place, key in enumerate(long):
        in_order[place >= 9] += kept[key]
    assert np.array_equal(store.sums(long, [0, 9]), in_order)
    with store.overlay(Overlay([9], np.ones((1, 3, 10)))):
        covered = store.sums(keys, offsets)
    assert np.array_equal(covered[0], expected[0])
    assert not covered[1].any()
    rows = kept.copy()
    rows[9] = 1
    assert np.allclose(covered, [rows[[3, 3]].sum(0), rows[[]].sum(0), rows[[9, 49, 0]].sum(0), rows[[]].sum(0)])
    for bad in ([1], [0, 3, 2], [0, 6], [-1]):
        with pytest.raises(BadInput):
            store.sums(keys, bad)
    assert store.sums([], []).shape == (0, 3, 10)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 20), st.sampled_from(DTYPES), st.data())
@settings(deadline=None, max_examples=40)
def test_both_forms_of_a_gather_agree(rows, layers, width, dtype, data):
    store = RowStore.of(values(rows, layers, width), dtype=dtype)
    keys = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=30)), dtype=np.int64)
    at = np.random.default_rng(len(keys)).permutation(len(keys) + 3)[: len(keys)]
    first = data.draw(st.integers(0, layers - 1))
    from inlay.kernels.gather_numba import gather_compiled

    assert gather_compiled is not None  # numba is loaded now, so `gather` takes the compiled form
    plain, fast = (np.full((layers - first, len(keys) + 3, width), 7, np.float32).swapaxes(0, 1) for _ in range(2))
    block, scales = store._arrays["rows-0"], store._arrays.get("scales")
    kernels.gather_plain(block, keys, plain, scales=scales, first=first, at=at)
    kernels.gather(block, keys, fast, scales=scales, first=first, at=at)
    assert np.array_equal(plain, fast)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_bfloat16_is_that_of_torch(numbers):
    torch = pytest.importorskip("torch")
    given_ = np.array(numbers, dtype=np.float32)
    expected = torch.from_numpy(given_).bfloat16()
    if not torch.isfinite(expected).all():
        with pytest.raises(BadInput, match="bfloat16"):
            to_bfloat16(given_)
        return
    assert np.array_equal(to_bfloat16(given_), expected.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(from_bfloat16(to_bfloat16(given_)), expected.float().numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mapped_table_is_written_in_place(dtype, tmp_path: Path):
    path = tmp_path / "t"
    made = values(3000, 2, 64)
    with_file = RowStore.create(path, 3000, 64, layers=2, dtype=dtype, shards=2)
    assert not with_file.rows([0, 2999]).any()
    with_file.write(np.arange(3000), made)
    with_file.write([5, 5], made[[6, 7]])  # the last counts
    made[5] = made[7]
    kept = stored(dtype, made)
    assert np.array_equal(with_file.rows(np.arange(3000)), kept)
    with pytest.raises(Corrupt, match="was being written"):
        RowStore.open(path)
    with_file.flush()
    assert np.array_equal(RowStore.open(path).rows(np.arange(3000)), kept)
    with_file.write([17], made[[18]])
    with_file.close()
    read = RowStore.open(path)
    read.verify()
    assert np.array_equal(read.rows(17), kept[18])
    with pytest.raises(BadInput, match="open for reading"):
        read.write([0], made[:1])
    with pytest.raises(BadInput, match="exists already"):
        RowStore.create(path, 2, 2)
    with pytest.raises(BadInput, match="mapped from"):
        read.save(path)


def test_what_a_dead_process_left_is_refused_or_recovered(tmp_path: Path):
    path = tmp_path / "t"
    RowStore.of(values()).save(path)
    code = (
        "import os, sys, numpy as np\nfrom inlay.tables.row_store import RowStore\n"
        "store = RowStore.open(sys.argv[1], writable=True)\n"
        "store.write([4], np.ones((1, 3, 10)))\nos._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    with pytest.raises(Corrupt, match="recover=True"):
        RowStore.open(path)
    with pytest.raises(Corrupt, match="recover=True"):
        RowStore.open(path, placement="ram")
    assert (RowStore.open(path, recover=True).rows(4) == 1).all()
    RowStore.open(path, writable=True, recover=True).close()
    assert (RowStore.open(path).rows(4) == 1).all()


def test_one_writer_at_a_time(tmp_path: Path):
    path = RowStore.of(values()).save(tmp_path / "t")
    writer = RowStore.open(path, writable=True)
    with pytest.raises(Locked, match="elsewhere"):
        RowStore.open(path, writable=True)
    RowStore.open(path).rows(3)
    writer.close()
    RowStore.open(path, writable=True).close()


@pytest.mark.parametrize("shards", [1, 2, 3, 10])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cutting_anew_changes_nothing(dtype, shards, tmp_path: Path):
    store = RowStore.of(values(), dtype=dtype)
    again = RowStore.open(store.save(tmp_path / "a", shards=shards))
    back = RowStore.open(again.save(tmp_path / "b", shards=1))
    assert again.shards == shards
    everything = np.arange(50)
    assert np.array_equal(again.rows(everything), store.rows(everything))
    assert np.array_equal(back.rows(everything), store.rows(everything))


def test_every_flipped_byte_is_an_error_or_harmless(tmp_path: Path):
    made = values(40, 2, 8)
    path = RowStore.of(made, dtype="int8", shards=2).save(tmp_path / "t")
    whole = RowStore.open(path).rows(np.arange(40))
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    errors = unharmed = 0
    for at in generator.integers(0, len(data), 300).tolist():
        broken = bytearray(data)
        broken[at] ^= 1 << int(generator.integers(8))
        path.write_bytes(broken)
        try:
            found = RowStore.open(path).rows(np.arange(40))
        except (Corrupt, BadInput) as error:
            errors += str(path) in str(error)
            continue
        unharmed += 1
        assert np.array_equal(found, whole)
    assert errors > 150
    assert errors + unharmed == 300  # every error named the file
    for length in (0, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(Corrupt, match="t"):
            RowStore.open(path).rows(np.arange(40))
    path.write_bytes(b"\x00" * 4096)
    with pytest.raises(Corrupt):
        RowStore.open(path)


def test_only_blocks_that_are_read_are_believed(tmp_path: Path):
    path = RowStore.of(values(4000, None, 128)).save(tmp_path / "t")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    store = RowStore.open(path)
    store.rows([0, 3999])  # first and last block are whole
    with pytest.raises(Corrupt, match="block 3"):
        store.rows(np.arange(4000))
    with pytest.raises(Corrupt):
        store.verify()
    with pytest.raises(Corrupt):
        RowStore.open(path, placement="ram")
    writer = RowStore.open(path, writable=True)
    with pytest.raises(Corrupt):  # a sum that fits a damaged block would hide the damage
        writer.write([2000], np.zeros((1, 128)))


def test_rows_longer_than_a_block(tmp_path: Path):
    made = values(3, None, 200_000)
    path = RowStore.of(made).save(tmp_path / "t")
    assert np.array_equal(RowStore.open(path).rows([2, 0]), made[[2, 0]])
    data = bytearray(path.read_bytes())
    data[4096 + 800_000 + 400_000] ^= 1  # within the second row
    path.write_bytes(data)
    store = RowStore.open(path)
    with pytest.raises(Corrupt):
        store.rows(1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_overlays_nest_and_unwind_exactly(dtype, placement, tmp_path: Path):
    path = RowStore.of(values(), dtype=dtype, shards=2).save(tmp_path / "t")
    store = RowStore.open(path, placement=placement)
    everything = np.arange(50)
    before = store.rows(everything)
    with store.overlay() as lower:
        store.write([3, 4], before[[7, 8]] * 2)
        below = store.rows(everything)
        assert np.array_equal(below[[3, 4]], before[[7, 8]] * 2)
        assert np.array_equal(np.delete(below, [3, 4], 0), np.delete(before, [3, 4], 0))
        with store.overlay() as upper:
            store.write([4, 9], before[[0, 1]])
            assert np.array_equal(store.rows(4), before[0])
            assert np.array_equal(store.rows([9, 3], layer=1), np.stack([before[1, 1], before[7, 1] * 2]))
            assert (len(lower), len(upper)) == (2, 2)
            with pytest.raises(BadInput, match="overlays lie"):
                store.apply(upper)
        assert np.array_equal(store.rows(everything), below)
    assert np.array_equal(store.rows(everything), before)
    again = Overlay.load(lower.save(tmp_path / "edit"))
    with store.overlay(again):
        assert np.array_equal(store.rows(everything), below)
    with pytest.raises(ZeroDivisionError), store.overlay(again):
        _ = 1 / 0
    assert np.array_equal(store.rows(everything), before)
    if placement == "ram":
        store.apply(again)
        assert np.array_equal(store.rows([3, 4]), stored(dtype, before[[7, 8]] * 2))


def test_overlays_left_out_of_order_are_named():
    store = RowStore.of(values())
    lower, upper = store.overlay(), store.overlay()
    lower.__enter__()
    upper.__enter__()
    with pytest.raises(BadInput, match="reverse order"):
        lower.__exit__(None, None, None)
    upper.__exit__(None, None, None)


def test_bad_overlays(tmp_path: Path):
    store = RowStore.of(values())
    edit = Overlay([60], np.zeros((1, 3, 10)))
    with pytest.raises(BadInput, match="key 60"), store.overlay(edit):
        pass
    with pytest.raises(BadInput, match="rows are"), store.overlay(Overlay([0], np.zeros((1, 2, 10)))):
        pass
    with pytest.raises(BadInput, match="finite"):
        Overlay([0], np.full((1, 2, 10), np.nan))
    with pytest.raises(BadInput, match="a row a key"):
        Overlay([0, 1], np.zeros((1, 2, 10)))
    path = edit.save(tmp_path / "e")
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            found = Overlay.load(path)
        except (Corrupt, BadInput):
            continue
        assert np.array_equal(found.rows, edit.rows)
        assert np.array_equal(found.keys, edit.keys)
    path.write_bytes(data[:-200])
    with pytest.raises(Corrupt):
        Overlay.load(path)
    with pytest.raises(BadInput, match="no row overlay"):
        Overlay.load(tmp_path / "absent")


def test_bad_input(tmp_path: Path):
    store = RowStore.of(values())
    for keys, why in (([50], "key 50"), ([-1], "key -1"), ([0.5], "integers")):
        with pytest.raises(BadInput, match=why):
            store.rows(keys)
    with pytest.raises(BadInput, match="layer 3"):
        store.rows([0], layer=3)
    with pytest.raises(BadInput, match="out must be"):
        store.rows([0], out=np.empty((2, 3, 10), np.float32))
    with pytest.raises(BadInput, match="key 1 holds NaN"):
        store.write([0, 1], np.stack([np.zeros((3, 10)), np.full((3, 10), np.nan)]))
    with pytest.raises(BadInput, match="expected rows"):
        store.write([0], np.zeros((1, 10)))
    for wrong in ({"dtype": "float8"}, {"shards": 11}, {"shards": 0}):
        with pytest.raises(BadInput):
            RowStore.of(values(), **wrong)
    store.write([], np.zeros((0, 3, 10)))
    RowStore.of(values(), dtype="int8").write([], np.zeros((0, 3, 10)))
    with pytest.raises(BadInput, match="floats"):
        RowStore.of(np.zeros((3, 3), dtype=int))
    with pytest.raises(BadInput, match="no table"):
        RowStore.open(tmp_path / "absent")
    with pytest.raises(BadInput, match="does not exist"):
        store.save(tmp_path / "no" / "folder")
    with pytest.raises(BadInput, match="placement"):
        RowStore.open(store.save(tmp_path / "t"), placement="gpu")  # type: ignore[arg-type]


def test_a_store_needs_no_torch():
    code = "import sys\nfrom inlay.tables import prefetcher, row_store\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@given(st.lists(st.lists(st.integers(0, 30), max_size=60), max_size=5), st.booleans())
@settings(deadline=None)
def test_distinct_ids_in_order_of_first_occurrence(batches, compiled):
    find = Deduplication(31)
    before = kernels.compiled
    kernels.compiled = lambda work: compiled
    try:
        for ids in batches:
            unique, inverse = find(np.array(ids, dtype=np.int64))
            assert unique.tolist() == list(dict.fromkeys(ids))
            assert unique[inverse].tolist() == ids
    finally:
        kernels.compiled = before


@pytest.mark.parametrize("left", [1, 2, 3])
def test_epochs_begin_anew_after_the_last(left, form):
    find = Deduplication(5)
    find(np.array([4, 1]))  # seen in epoch 1, which comes again
    find.epoch = deduplication.LAST - left
    for ids in ([1, 1, 3], [3, 4], [0, 4, 0], [2, 1], [4, 4]):
        unique, inverse = find(np.array(ids))
        assert unique.tolist() == list(dict.fromkeys(ids))
        assert unique[inverse].tolist() == ids
    assert find.epoch == 5 - left
