"""A flipped bit is an error with a name, never a wrong answer; what can be made again is made again."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import inlay
from durability.samples import ask, build, reopen
from inlay.errors import Corrupt, InlayError


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def sound(folder: Path) -> tuple[Path, dict[str, Any]]:
    """An undamaged collection and its answers."""
    path = folder / "sound.inlay"
    build(path)
    with reopen(path) as c:
        assert c.verify() == []
        return path, ask(c)


def files_of(path: Path) -> list[Path]:
    """What holds data: `writer.lock` is empty and only ever locked."""
    return [f for f in sorted(path.rglob("*")) if f.is_file() and f.stat().st_size]


class Damage:
    """Flips one bit at a time in copies of a collection, and judges what comes of it."""

    def __init__(self, folder: Path, sound: tuple[Path, dict[str, Any]]) -> None:
        self.copy = folder / "damaged.inlay"
        self.path, self.expected = sound
        self.outcomes: Counter[str] = Counter()
        self.unnoticed: list[str] = []

    def flip(self, file: Path, place: int, bit: int) -> None:
        name = str(file.relative_to(self.path))
        shutil.copytree(self.path, self.copy)
        try:
            with open(self.copy / name, "r+b") as damaged:
                damaged.seek(place)
                byte = damaged.read(1)[0]
                damaged.seek(place)
                damaged.write(bytes([byte ^ 1 << bit]))
            self._judge(name, f"{name} byte {place} bit {bit}")
        finally:
            shutil.rmtree(self.copy)

    def _judge(self, name: str, where: str) -> None:
        kind = "catalog" if name == "catalog.sqlite" else "segment"
        try:
            c = reopen(self.copy)
        except InlayError as error:
            _check_error(error, where)
            self.outcomes[f"{kind}: refused at opening"] += 1
            assert kind == "catalog", f"{where}: a damaged segment must not keep anybody from the documents"
            return
        with c:
            wrong = 0
            for question, answer in ask(c).items():
                if isinstance(answer, InlayError):
                    _check_error(answer, f"{where}: {question}")
                    wrong += 1
                else:
                    assert answer == self.expected[question], f"{where}: a wrong answer to {question!r}"
            self.outcomes[f"{kind}: {'an error by name' if wrong else 'answers unaffected'}"] += 1
            problems = c.verify()
            if not problems:
                self.unnoticed.append(where)
                assert not wrong, f"{where}: answers fail but verify() is content"
                return
            if kind == "segment":
                assert Path(name).parent.name in problems[0], where
                assert c.repair()
                assert c.verify() == [], where
                assert ask(c) == self.expected, f"{where}: after repair"
                self.outcomes["segment: repaired"] += 1
            else:
                assert "catalog.sqlite" in problems[0], where
                with pytest.raises(InlayError, match="catalog"):
                    c.repair()


def _check_error(error: InlayError, where: str) -> None:
    assert isinstance(error, Corrupt), f"{where}: {error!r}"
    message = str(error)
    assert "inlay doctor" in message, f"{where}: {message}"
    assert "catalog.sqlite" in message or "segment" in message, f"{where}: {message}"


def _places(path: Path, count: int, rng: random.Random) -> list[tuple[Path, int, int]]:
    """Half in the catalog, half over all other files."""
    files = files_of(path)
    catalog = path / "catalog.sqlite"
    others = [file for file in files if file != catalog]
    chosen = [catalog if i % 2 else others[i // 2 % len(others)] for i in range(count)]
    return [(file, rng.randrange(file.stat().st_size), rng.randrange(8)) for file in chosen]


def test_flipped_bits(folder: Path, sound: tuple[Path, dict[str, Any]]) -> None:
    damage = Damage(folder, sound)
    for place in _places(sound[0], 30, random.Random(1)):
        damage.flip(*place)
    assert damage.unnoticed == []
    assert damage.outcomes["segment: repaired"] >= 14


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_flipped_bits(
    folder: Path, sound: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    damage, rng = Damage(folder, sound), random.Random(2)
    places = _places(sound[0], 240, rng)
    # Every byte of the database header, whose meaning differs from byte to byte.
    places += [(sound[0] / "catalog.sqlite", i, rng.randrange(8)) for i in range(100)]
    for place in places:
        damage.flip(*place)
    with capsys.disabled():
        print(f"\n{len(places)} flipped bits: {dict(damage.outcomes)}; unnoticed by verify(): {damage.unnoticed}")
    assert damage.unnoticed == []


@pytest.mark.parametrize("what", ["truncate", "empty", "zeros", "shorter by a page", "another file"])
def test_coarser_damage_to_the_catalog(folder: Path, sound: tuple[Path, dict[str, Any]], what: str) -> None:
    copy = folder / "coarse.inlay"
    shutil.copytree(sound[0], copy)
    file = copy / "catalog.sqlite"
    data = file.read_bytes()
    match what:
        case "truncate":
            file.write_bytes(data[: len(data) // 2 + 77])
        case "empty":
            file.write_bytes(b"")
        case "zeros":
            file.write_bytes(data[:8192] + bytes(8192) + data[16384:])
        case "shorter by a page":
            file.write_bytes(data[:-8192])
        case "another file":
            file.write_bytes(b"%PDF-1.7" * 1000)
    try:
        try:
            c = reopen(copy)
        except Corrupt as error:
            complaint = str(error)
        else:
            with c:
                (complaint, *_) = c.verify()
                for question, answer in ask(c).items():
                    assert isinstance(answer, Corrupt) or answer == sound[1][question]
        assert "catalog.sqlite" in complaint
    finally:
        shutil.rmtree(copy)


def test_the_only_bytes_that_verify_overlooks_mean_nothing(folder: Path) -> None:
    """Pages on SQLite's free list: they hold what was deleted, and are never read before they are written anew."""
    path = folder / "free.inlay"
    build(path)
    with reopen(path) as c:
        c.delete([f"d{i}" for i in range(100)])
        c.compact()
        free, pages = c._catalog.one("PRAGMA freelist_count"), c._catalog.one("PRAGMA page_count")
        expected = ask(c)
    assert free
    file = path / "catalog.sqlite"
    sound = file.read_bytes()
    overlooked = 0
    for page in range(pages):
        data = bytearray(sound)
        data[page * 8192 + 5000] ^= 1
        file.write_bytes(data)
        try:
            with reopen(path) as c:
                if not c.verify():
                    overlooked += 1
                    assert ask(c) == expected
                    c.add(["it takes the free pages " * 1000])
                    assert c.verify() == []
        except Corrupt:
            continue
    assert overlooked <= free
    shutil.rmtree(path)


def test_verify_looks_at_the_disk_not_at_its_memory(folder: Path) -> None:
    path = folder / "cached.inlay"
    build(path)
    with reopen(path) as c:
        ask(c)
        assert c.verify() == []
        data = bytearray((path / "catalog.sqlite").read_bytes())
        data[3 * 8192 + 100] ^= 1
        (path / "catalog.sqlite").write_bytes(data)
        assert c.verify()
    shutil.rmtree(path)


def test_a_reader_is_told_too(folder: Path, sound: tuple[Path, dict[str, Any]]) -> None:
    copy = folder / "reader.inlay"
    shutil.copytree(sound[0], copy)
    damaged = next(copy.glob("segments/*/rows.safetensors"))
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with reopen(copy, "r") as c:
        assert any(isinstance(answer, Corrupt) for answer in ask(c).values())
        assert damaged.parent.name in c.verify()[0]
        with pytest.raises(InlayError, match="reading only"):
            c.repair()
    shutil.rmtree(copy)


def test_a_damaged_segment_does_not_hide_the_documents(folder: Path, sound: tuple[Path, dict[str, Any]]) -> None:
    copy = folder / "hidden.inlay"
    shutil.copytree(sound[0], copy)
    for sums in copy.glob("segments/*/checksums.json"):
        sums.write_text("{}")
    with reopen(copy) as c:
        assert [(d.id, d.text, d.metadata) for d in c] == sound[1]["iterate"]
        assert len(c) == sound[1]["len"]
        assert c.get("d0") == sound[1]["get"][0]
        # And is not laundered into fresh checksums by a merge.
        with pytest.raises(Corrupt):
            c.compact()
        c.repair()
        assert ask(c) == sound[1]
    shutil.rmtree(copy)


def test_an_index_file_of_an_older_format_is_named(folder: Path, sound: tuple[Path, dict[str, Any]]) -> None:
    copy = folder / "format.inlay"
    shutil.copytree(sound[0], copy)
    with reopen(copy) as c, c._catalog.write():
        c._catalog.set("format", 99)
    with pytest.raises(InlayError, match="format 99"):
        inlay.open(copy)
    shutil.rmtree(copy)
