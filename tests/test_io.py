"""Files that are whole or absent, and whose bytes are checked before they are believed."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from inlay import io
from inlay.errors import BadInput, Corrupt
from inlay.io import Pack, atomic_write, pack_bytes, write_pack

DTYPES = [
    "float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool",
]  # fmt: skip

packs = st.dictionaries(
    st.text("abcdef_.", min_size=1, max_size=8),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=7))
    ),
    max_size=5,
)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "BLOCK", 64)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=60, deadline=None)
@given(packs)
def test_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("pack") / "rows.safetensors"
    sums = write_pack(path, arrays, {"made": "here"})
    for pack in (Pack.open(path, sums, "fix it"), Pack(pack_bytes(arrays, {"made": "here"}), "bytes")):
        assert sorted(pack.names()) == sorted(arrays)
        assert pack.metadata == {"made": "here"}
        for name, array in arrays.items():
            assert name in pack
            assert same(pack[name], array)
        pack.verify()
        assert pack.nbytes == path.stat().st_size
    assert path.read_bytes() == pack_bytes(arrays, {"made": "here"})


@settings(max_examples=30, deadline=None)
@given(packs)
def test_other_readers_of_safetensors_read_them(arrays: dict[str, np.ndarray]) -> None:
    library = pytest.importorskip("safetensors.numpy")
    read = library.load(pack_bytes(arrays))
    assert {name for name in read if not name.startswith("pad")} == set(arrays)
    for name, array in arrays.items():
        assert same(read[name], array)


def test_arrays_start_on_cache_lines() -> None:
    data = pack_bytes({"a": np.zeros(3, np.int8), "b": np.zeros(5, np.float64), "c": np.zeros(1, np.float32)})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 64 == 0
    assert all(header[name]["data_offsets"][0] % 64 == 0 for name in "abc")


def test_views_that_are_not_contiguous(tmp_path: Path) -> None:
    array = np.arange(60).reshape(6, 10)
    write_pack(tmp_path / "p", {"t": array.T, "s": array[::2, ::3]})
    sums = write_pack(tmp_path / "q", {"t": array.T.copy(), "s": array[::2, ::3].copy()})
    assert (tmp_path / "p").read_bytes() == (tmp_path / "q").read_bytes()
    assert same(Pack.open(tmp_path / "q", sums, "")["t"], array.T)


@pytest.mark.parametrize("dtype", ["complex64", "object", "U3", "datetime64[s]"])
def test_dtypes_that_the_format_lacks(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(BadInput, match="'x'"):
        write_pack(tmp_path / "p", {"x": np.zeros(3, dtype)})


def test_a_pack_never_overwrites(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", {})
    with pytest.raises(FileExistsError):
        write_pack(tmp_path / "p", {})


@pytest.mark.parametrize("block", [64, 100, 1 << 18])
def test_every_flipped_bit_is_noticed_by_whoever_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(io, "BLOCK", block)
    rng = np.random.default_rng(0)
    arrays = {"rows": rng.standard_normal((20, 3)).astype(np.float32), "ids": rng.integers(0, 9, 11)}
    path = tmp_path / "p"
    sums = write_pack(path, arrays)
    sound = path.read_bytes()
    dice = random.Random(0)
    for place in dice.sample(range(len(sound)), 150):
        data = bytearray(sound)
        data[place] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        with pytest.raises(Corrupt, match=f"{path.name}.*fix it"):
            Pack.open(path, sums, "fix it").verify()
        try:
            pack = Pack.open(path, sums, "fix it")
        except Corrupt:
            continue
        for name, array in arrays.items():
            with contextlib.suppress(Corrupt):
                assert same(pack[name], array), "a wrong answer"


def test_only_what_is_touched_is_verified(tmp_path: Path, small_blocks: None) -> None:
    path = tmp_path / "p"
    sums = write_pack(path, {"x": np.arange(1000, dtype=np.int64)})
    data = bytearray(path.read_bytes())
    data[-4] ^= 1  # within the last element
    path.write_bytes(data)
    pack = Pack.open(path, sums, "fix it")
    pack.touch("x", 0, 900)
    assert same(pack.unverified("x")[:900], np.arange(900, dtype=np.int64))
    pack.touch("x", 5, 5)
    with pytest.raises(Corrupt, match="fix it"):
        pack.touch("x", 999, 1000)
    with pytest.raises(Corrupt):
        pack["x"]
    with pytest.raises(Corrupt):
        pack.verify()


@pytest.mark.parametrize("change", ["", "shorter", "longer", "other", "no header"])
def test_files_of_another_length(tmp_path: Path, small_blocks: None, change: str) -> None:
    path = tmp_path / "p"
    sums = write_pack(path, {"x": np.arange(100)})
    data = path.read_bytes()
    changed = {"shorter": data[:-1], "longer": data + b"\0", "other": b"x" * len(data), "no header": data[:4]}
    path.write_bytes(changed.get(change, b""))
    with pytest.raises(Corrupt, match="fix it"):
        Pack.open(path, sums, "fix it").verify()


def test_a_missing_file_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Pack.open(tmp_path / "none", [], "fix it")


def test_progress_counts_every_byte(tmp_path: Path, small_blocks: None) -> None:
    sums = write_pack(tmp_path / "p", {"x": np.arange(1000)})
    seen: list[int] = []
    pack = Pack.open(tmp_path / "p", sums, "")
    pack.verify(seen.append)
    assert sum(seen) == pack.nbytes


# -- whole or absent -----------------------------------------------------------------------------------------------


def test_an_atomic_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "f"
    atomic_write(path, b"one")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(OSError, match="space"):
        atomic_write(path, b"two")
    monkeypatch.undo()
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["f"]


def test_readers_of_a_file_that_is_replaced_see_one_or_the_other(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "f"
    contents = [bytes([i]) * 100_000 for i in range(3)]
    atomic_write(path, contents[0])
    wrong: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            data = path.read_bytes()
            if data not in contents:
                wrong.append(data[:10])

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        atomic_write(path, contents[i % 3])
    stop.set()
    reader.join()
    assert wrong == []
