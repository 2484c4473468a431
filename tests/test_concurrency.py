"""One writer, many readers, other threads: every reader sees whole transactions, and one moment of them at a time."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import inlay
from durability.fakes import Words
from inlay.collection import segment
from inlay.errors import BadInput, InlayError, Locked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="starts writer and readers by fork")

GROUP = 10  # documents that always come, change and go together
GROUPS = 12


def group(number: int, version: int) -> list[dict[str, Any]]:
    """Ten documents of one version. `same` is in all of them, so that they are found together."""
    rng = random.Random(version)
    return [
        {
            "id": f"g{number}-{i}",
            "text": f"group{number} version{version} same " + " ".join(f"w{rng.randrange(500)}" for _ in range(20)),
            "group": number,
            "version": version,
        }
        for i in range(GROUP)
    ]


def write(path: Path, seconds: float, results: Any) -> None:
    """Replace, delete and add groups, and compact, until the time is up. Every call keeps the invariant."""
    rng, version, counts = random.Random(0), 1, Counter[str]()
    there = set(range(GROUPS))
    stop = time.monotonic() + seconds
    try:
        with inlay.open(path, encoder=Words(16)) as c:
            while time.monotonic() < stop:
                version += 1
                what = rng.choices(["update", "delete", "add", "compact"], [6, 2, 3, 1])[0]
                number = rng.randrange(GROUPS)
                if what == "update":
                    c.update(group(number, version))
                    there.add(number)
                elif what == "delete" and number in there and len(there) > 2:
                    assert c.delete([d["id"] for d in group(number, 0)]) == GROUP
                    there.remove(number)
                elif what == "add" and number not in there:
                    assert c.add(group(number, version)).added == GROUP
                    there.add(number)
                elif what == "compact":
                    c.compact()
                else:
                    continue
                counts[what] += 1
            assert c.verify() == []
        results.put(("writer", dict(counts), []))
    except BaseException:
        results.put(("writer", dict(counts), [traceback.format_exc()]))


def read(path: Path, seconds: float, seed: int, results: Any) -> None:
    """Open, refresh and look, until the time is up; report every violation."""
    rng, violations, counts = random.Random(seed), [], Counter[str]()
    stop = time.monotonic() + seconds
    mode = "r" if seed % 2 else "a"
    c = inlay.open(path, encoder=Words(16), mode=mode)
    seen: set[int] = set()
    try:
        while time.monotonic() < stop and len(violations) < 5:
            try:
                if rng.random() < 0.2:
                    c.close()
                    c = inlay.open(path, encoder=Words(16), mode=mode)
                    counts["opened"] += 1
                else:
                    c.refresh()
                violations += look(c, rng, seen)
                if rng.random() < 0.02:
                    violations += [f"verify: {problem}" for problem in c.verify()]
                    assert c.info()["bytes"] > 0
                    counts["verified"] += 1
                counts["snapshots"] += 1
            except BaseException:
                violations.append(traceback.format_exc())
        c.close()
    except BaseException:
        violations.append(traceback.format_exc())
    counts["versions"] = len(seen)
    results.put(("reader", dict(counts), violations))


def look(c: inlay.Collection, rng: random.Random, seen: set[int]) -> list[str]:
    """What a snapshot must be, asked in several ways that must agree with each other."""
    wrong = []
    documents = {d.id: d for d in c}
    versions: dict[int, set[int]] = {}
    for document in documents.values():
        versions.setdefault(document.metadata["group"], set()).add(document.metadata["version"])
    seen.update(v for group in versions.values() for v in group)
    if len(c) != len(documents):
        wrong.append(f"len {len(c)}, iterated {len(documents)}")
    if len(c) % GROUP:
        wrong.append(f"{len(c)} documents")
    wrong += [f"group {g} has versions {v}" for g, v in versions.items() if len(v) != 1]
    if not documents:
        return wrong
    number = rng.choice(sorted(versions))
    time.sleep(rng.random() / 200)  # let the writer get ahead of this snapshot
    for mode in ("lexical", "dense", "hybrid"):
        hits = c.search("same", 500, mode=mode)
        if mode != "hybrid" and {h.id for h in hits} != set(documents):
            wrong.append(f"{mode}: {len(hits)} hits of {len(documents)} documents")
        few = c.search(f"group{number}", 500, where={"group": number}, mode=mode)
        if {h.id for h in few} != {f"g{number}-{i}" for i in range(GROUP)}:
            wrong.append(f"{mode}: group {number} answers with {[h.id for h in few]}")
        for hit in [*hits[:20], *few]:
            document = c.get(hit.id)
            if document is None or document.text != hit.text or document.metadata != hit.metadata:
                wrong.append(f"{mode}: hit {hit} is not document {document}")
    return wrong


def run(path: Path, seconds: float, readers: int) -> tuple[Counter[str], list[str]]:
    context = multiprocessing.get_context("fork")
    before, segment.INLINE = segment.INLINE, 6000  # segments of a group in the catalog, merged ones on disk
    try:
        with inlay.open(path, encoder=Words(16)) as c:
            for number in range(GROUPS):
                c.add(group(number, 1))
            # Where kernels are compiled, they are compiled here: in each process it would take longer than it may run.
            for mode in ("lexical", "dense", "hybrid"):
                c.search("same", 500, mode=mode)
                c.search("group0", 500, where={"group": 0}, mode=mode)
        results = context.Queue()
        tasks = [context.Process(target=write, args=(path, seconds, results))]
        tasks += [context.Process(target=read, args=(path, seconds, seed, results)) for seed in range(readers)]
        for task in tasks:
            task.start()
        totals: Counter[str] = Counter()
        violations = []
        for _ in tasks:
            who, counts, wrong = results.get(timeout=seconds * 3 + 60)
            totals.update({f"{who} {name}": count for name, count in counts.items()})
            violations += wrong
        for task in tasks:
            task.join()
    finally:
        segment.INLINE = before
    with inlay.open(path, encoder=Words(16)) as c:
        assert c.verify() == []
    return totals, violations


def test_readers_beside_a_writer(tmp_path: Path) -> None:
    totals, violations = run(tmp_path / "c.inlay", 5, 8)
    assert violations == []
    assert totals["reader snapshots"] >= 40
    assert totals["reader versions"] > 8, "readers saw the writer at work"


@pytest.mark.slow
def test_readers_beside_a_writer_for_a_minute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    totals, violations = run(tmp_path / "c.inlay", 60, 8)
    with capsys.disabled():
        print(f"\n{len(violations)} violations; {dict(totals)}")
    assert violations == []
    assert totals["reader snapshots"] >= 400


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()

    def hold() -> None:
        with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
            c.add(["mine"])
            ready.set()
            release.wait(30)

    holder = context.Process(target=hold)
    holder.start()
    assert ready.wait(30)
    with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
        for write in (lambda: c.add(["x"]), lambda: c.delete(["#1"]), c.compact, c.repair,
                      lambda: c.settings.update(a=1)):  # fmt: skip
            with pytest.raises(Locked, match=rf"\b{holder.pid}\b"):
                write()
        assert len(c) == 1
        assert c.search("mine")
        release.set()
        holder.join()
        c.add(["now it is mine"])
        assert len(c) == 2


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        c = inlay.open(tmp_path / "c.inlay", encoder=False)
        c.add(["mine"])
        ready.set()
        time.sleep(60)

    holder = context.Process(target=hold)
    holder.start()
    assert ready.wait(30)
    holder.kill()
    holder.join()
    with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
        c.add(["next"])
        assert len(c) == 2


def test_two_handles_in_one_process_are_two_writers(tmp_path: Path) -> None:
    with inlay.open(tmp_path / "c.inlay", encoder=False) as a, inlay.open(tmp_path / "c.inlay", encoder=False) as b:
        a.add(["one"])
        with pytest.raises(Locked, match=str(os.getpid())):
            b.add(["two"])
        a.close()
        b.add(["two"])
        assert len(b) == 2


def test_many_processes_make_the_same_collection(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results, start = context.Queue(), context.Event()

    def make(number: int) -> None:
        start.wait(30)
        try:
            with inlay.open(tmp_path / "c.inlay", encoder=Words(8)) as c:
                for _ in range(200):
                    try:
                        c.add([{"id": f"p{number}", "text": "from a process"}])
                        break
                    except Locked:
                        time.sleep(0.02)
            results.put("")
        except BaseException:
            results.put(traceback.format_exc())

    makers = [context.Process(target=make, args=(i,)) for i in range(6)]
    for maker in makers:
        maker.start()
    start.set()
    assert [results.get(timeout=60) for _ in makers] == [""] * len(makers)
    for maker in makers:
        maker.join()
    with inlay.open(tmp_path / "c.inlay", encoder=Words(8)) as c:
        assert {d.id for d in c} == {f"p{i}" for i in range(6)}
        assert c.verify() == []


def test_threads_share_a_collection(tmp_path: Path) -> None:
    errors: list[str] = []
    with inlay.open(tmp_path / "c.inlay", encoder=Words(16)) as c:
        for number in range(4):
            c.add(group(number, 1))
        stop = threading.Event()

        def reading(seed: int) -> None:
            rng = random.Random(seed)
            try:
                while not stop.is_set():
                    assert len(c) % GROUP == 0
                    assert c.search(f"group{rng.randrange(4)}", 5)
                    assert sum(1 for _ in c) >= 40 - GROUP
                    c.get(f"g{rng.randrange(4)}-1")
                    dict(c.settings)
                    repr(c)
                    c.info()
            except BaseException:
                errors.append(traceback.format_exc())

        def writing() -> None:
            try:
                for version in range(2, 12):
                    c.update(group(version % 4, version))
                    c.settings["version"] = version
                    c.delete([d["id"] for d in group(9, 0)])
                    c.add(group(9, version))
                    c.refresh()
                assert c.verify() == []
            except BaseException:
                errors.append(traceback.format_exc())

        threads = [threading.Thread(target=reading, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        writer = threading.Thread(target=writing)
        writer.start()
        writer.join()
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(c) == 50


def test_closing_while_threads_search(tmp_path: Path) -> None:
    c = inlay.open(tmp_path / "c.inlay", encoder=Words(16))
    c.add(group(1, 1))
    unexpected: list[str] = []

    def search() -> None:
        try:
            while True:
                c.search("same", 3)
                next(iter(c))
        except BadInput:
            return
        except BaseException:
            unexpected.append(traceback.format_exc())

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    c.close()
    for thread in threads:
        thread.join()
    assert unexpected == []


def test_a_reader_that_stays_does_not_hold_up_the_writer(tmp_path: Path) -> None:
    with inlay.open(tmp_path / "c.inlay", encoder=Words(8)) as c:
        c.add(group(0, 1))
        with inlay.open(tmp_path / "c.inlay", encoder=Words(8), mode="r") as reader:
            assert len(reader) == GROUP
            for version in range(2, 6):
                c.update(group(0, version))
                c.compact()
            assert {d.metadata["version"] for d in reader} == {1}
            assert {h.metadata["version"] for h in reader.search("same")} == {1}
    with inlay.open(tmp_path / "c.inlay", mode="r", encoder=Words(8)) as again, pytest.raises(InlayError):
        again.add(["x"])
