"""Nothing lost: a writer is killed hundreds of times, and what it had acknowledged is there each time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import inlay
from durability import writer_process as writer
from inlay.collection import segment
from inlay.errors import BadInput

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of the test process")

OPERATIONS = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing that the kernel has, synced or not."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


class Trial:
    """One collection that lives through many killed writers."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path, self.folder, self.rng = folder / "c.inlay", folder, random.Random(seed)
        self.model: writer.Model = {}
        self.generation = seed * 10_000
        self.kills: Counter[str] = Counter()
        self.cut_short = 0  # kills that left part of an operation: the last of several commits had not come

    def operations(self) -> list[writer.Operation]:
        self.generation += 1
        return writer.plan(self.generation, OPERATIONS)

    def rehearse(self) -> tuple[list[writer.Operation], dict[str, int], float]:
        """What a writer would do next, where it would pass and how long it would take."""
        operations, copy = self.operations(), self.folder / f"copy{self.generation}.inlay"
        if self.path.exists():
            shutil.copytree(self.path, copy)
        started = time.perf_counter()
        counts = writer.dry_run(copy, self.folder / f"dry{self.generation}", operations)
        seconds = time.perf_counter() - started
        shutil.rmtree(copy)
        return operations, counts, seconds

    def kill_at(self, operations: list[writer.Operation], place: str, number: int) -> None:
        """Let a writer end itself at a place of `KILLS`."""
        journal = self.folder / f"journal{self.generation}-{place}-{number}"
        pid = writer.start(self.path, journal, operations, place, number)
        self._judge(pid, journal, operations, place)

    def kill_after(self, operations: list[writer.Operation], seconds: float) -> None:
        """Kill a writer from outside after a while."""
        journal = self.folder / f"journal{self.generation}-{seconds}"
        pid = writer.start(self.path, journal, operations)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        self._judge(pid, journal, operations, "any moment")

    def _judge(self, pid: int, journal: Path, operations: list[writer.Operation], place: str) -> None:
        _, status = os.waitpid(pid, 0)
        log = journal.read_text() if journal.exists() else ""
        if not os.WIFSIGNALED(status):
            assert status == 0, f"the writer failed: {log}"
            place = ""
        else:
            assert os.WTERMSIG(status) == signal.SIGKILL
            self.kills[place] += 1
        begun, done = log.count("begin "), log.count("done ")
        assert begun - done in (0, 1)
        for operation in operations[:done]:
            self.model = writer.apply(self.model, operation)[-1]
        allowed = [self.model]
        if begun > done:
            allowed += writer.apply(self.model, operations[done])
        self._inspect(allowed, f"seed {self.generation}, killed {place}: {log[-300:]}")

    def _inspect(self, allowed: list[writer.Model], story: str) -> None:
        if (self.path / "catalog.sqlite").exists():
            try:
                reader = inlay.open(self.path, mode="r", encoder=writer.encoder())
            except BadInput as error:  # a reader cannot finish the making of a collection, and says so
                refusal = str(error)
                assert allowed[0] == {}, story
                assert "not an inlay collection" in refusal, story
            else:
                with reader:
                    assert _contents(reader) in allowed, story
        with writer.scaled_down(), inlay.open(self.path, encoder=writer.encoder()) as c:
            found = _contents(c)
            assert found in allowed, f"{story}\nfound {_difference(found, allowed[0])}"
            self.cut_short += found not in (allowed[0], allowed[-1])
            assert c.verify() == [], story
            for name in self.rng.sample(sorted(found), min(3, len(found))):
                text, metadata = found[name]
                words = " ".join(text.split()[:2])  # its name and the stamp of who wrote it
                assert c.search(words, 1, mode="lexical")[0].id == name, story
                where = {"stamp": metadata["stamp"]}
                same = {i for i, (_, m) in found.items() if m["stamp"] == metadata["stamp"]}
                assert {h.id for h in c.search(words, 1000, where=where, mode="dense")} == same, story
            # The next write clears away what the killed one left.
            c.add([{"id": "after", "text": "after the kill", "stamp": "s"}])
            left = {entry.name for entry in (self.path / "segments").iterdir()}
            assert left == {n for (n,) in c._catalog.all("SELECT segment FROM segments WHERE data IS NULL")}, story
            assert {e.name for e in self.path.iterdir()} <= EXPECTED_FILES, story
            assert c.delete(["after"]) == 1
            assert c.verify() == [], story
        self.model = found


EXPECTED_FILES = {
    "catalog.sqlite",
    "catalog.sqlite-wal",
    "catalog.sqlite-shm",
    "segments",
    "writer.lock",
    "writer.json",
}


def _contents(c: inlay.Collection) -> writer.Model:
    found = {d.id: (d.text, d.metadata) for d in c}
    assert len(c) == len(found)
    return found


def _difference(found: writer.Model, expected: writer.Model) -> Any:
    return {k: (found.get(k), expected.get(k)) for k in found.keys() | expected if found.get(k) != expected.get(k)}


def _places(rng: random.Random, counts: dict[str, int], each: int) -> list[tuple[str, int]]:
    """`each` moments of every place, spread over the run, in random order."""
    chosen = [
        # Each writer starts from what the last one left and may pass less often than the rehearsal did.
        (place, rng.randrange(1, counts[place] * 2 // 3 + 2))
        for place in writer.KILLS
        if counts.get(place)
        for _ in range(each)
    ]
    rng.shuffle(chosen)
    return chosen


def test_a_killed_writer_loses_nothing_that_it_acknowledged(folder: Path) -> None:
    trial = Trial(folder, seed=1)
    operations, counts, seconds = trial.rehearse()
    assert set(writer.KILLS) <= set(counts), f"never passed: {set(writer.KILLS) - set(counts)}"
    for place, number in _places(trial.rng, counts, 2):
        trial.kill_at(operations, place, number)
    for _ in range(3):
        trial.kill_after(operations, trial.rng.uniform(0, seconds))
    assert sum(trial.kills.values()) >= 24


@pytest.mark.parametrize("number", [1, 2, 4, 6, 9, 12, 15])
def test_a_writer_killed_while_it_makes_the_collection(folder: Path, number: int) -> None:
    trial = Trial(folder, seed=2)
    trial.kill_at(trial.operations(), "before SQL", number)
    assert sum(trial.kills.values()) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_kills(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kills: Counter[str] = Counter()
    partly = 0
    for seed in range(3, 11):
        home = folder / str(seed)
        home.mkdir()
        trial = Trial(home, seed)
        # The making of a collection, every step of it.
        for number in range(1, 12):
            fresh = home / f"made{number}"
            fresh.mkdir()
            young = Trial(fresh, seed * 100 + number)
            young.kill_at(young.operations(), trial.rng.choice(["before SQL", "after SQL"]), number * 2 - seed % 2)
            kills += young.kills
        for _ in range(3):
            operations, counts, seconds = trial.rehearse()
            for place, number in _places(trial.rng, counts, 1):
                trial.kill_at(operations, place, number)
            for _ in range(8):
                trial.kill_after(trial.operations(), trial.rng.uniform(0, seconds))
        kills += trial.kills
        partly += trial.cut_short
    with capsys.disabled():
        print(f"\n{sum(kills.values())} kills, 0 losses; {partly} left part of an operation: {dict(kills)}")
    assert sum(kills.values()) >= 200
    assert set(kills) == {*writer.KILLS, "any moment"}


def test_a_segment_is_synced_before_the_catalog_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    real = os.fsync, os.rename

    def fsync(handle: int) -> None:
        events.append(("sync", os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else "?"))
        real[0](handle)

    def rename(source: Any, target: Any) -> None:
        events.append(("rename", str(target)))
        real[1](source, target)

    monkeypatch.setattr(segment, "INLINE", 0)
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to tell which file is synced")
    path = folder / "c.inlay"
    with inlay.open(path, encoder=False) as c:
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", rename)
        assert c._catalog.one("PRAGMA synchronous") == 2
        c._catalog.db.trace_v2(1, lambda event: events.append(("sql", event["sql"])))
        c.add(["hello world"])
        c._catalog.db.trace_v2(0, None)
        (name,) = c._catalog.all("SELECT segment FROM segments")[0]
    steps = [
        ("sync", str(path / "segments" / f".{name}.partial" / "rows.safetensors")),
        ("sync", str(path / "segments" / f".{name}.partial")),
        ("rename", str(path / "segments" / name)),
        ("sync", str(path / "segments")),
        ("sql", "BEGIN IMMEDIATE"),
        ("sql", "COMMIT"),
    ]
    places = [events.index(step) for step in steps]
    assert places == sorted(places)
    sums = [i for i, (what, where) in enumerate(events) if what == "sync" and "checksums" in where]
    assert places[0] < sums[0] < places[2]
    assert ("sync", str(path)) in events[: places[2]], "the folder of segments is itself an entry to be synced"


def test_a_catalog_from_before_the_last_commit_is_still_whole(folder: Path) -> None:
    """The write-ahead log cut off anywhere is some earlier state, never a broken one."""
    path, copy = folder / "c.inlay", folder / "copy.inlay"
    rng = random.Random(0)
    with inlay.open(path, encoder=writer.encoder()) as c:  # small segments, all of them in the catalog
        states: list[writer.Model] = [{}]
        for operation in writer.plan(77, 6):
            writer.perform(c, operation)
            states += writer.apply(states[-1], operation)
        log = (path / "catalog.sqlite-wal").read_bytes()
        seen = set()
        for _ in range(20):
            shutil.copytree(path, copy)
            (copy / "catalog.sqlite-shm").unlink()
            (copy / "catalog.sqlite-wal").write_bytes(log[: rng.randrange(len(log))])
            with inlay.open(copy, encoder=writer.encoder()) as old:
                seen.add(states.index(_contents(old)))
                assert old.verify() == []
            shutil.rmtree(copy)
    assert len(seen) > 3


def test_sqlite_itself_finds_the_file_in_order(folder: Path) -> None:
    with inlay.open(folder / "c.inlay", encoder=False) as c:
        c.add([f"text {i}" for i in range(50)])
    with sqlite3.connect(folder / "c.inlay" / "catalog.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
