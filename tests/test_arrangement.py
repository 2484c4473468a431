"""Collections that are kept as a configuration says: same answers as its index, safe at every moment of the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inlay
from inlay.collection import arrangement
from inlay.errors import BadInput, InlayError
from inlay.indexes.arranged import Arranged
from inlay.indexes.configuration import Configuration
from inlay.indexes.shelf import Shelf

DIM, ROWS = 32, 400
WAYS = [
    Configuration("", "float32"),
    Configuration("", "int8"),
    Configuration("pca:16", "float8"),
    Configuration("pca:16", "int8"),
    Configuration("truncate:16", "float16"),
    Configuration("", "signs:mean"),
    Configuration("", "signs:mean", candidates=60, fine="float16"),
    Configuration("pca:16", "percentiles:2", candidates=60, fine="int8"),
]
GRAPHS = [
    Configuration("", "int8", "graph", 64),
    Configuration("pca:16", "float16", "graph", 64),
    Configuration("pca:16", "int8", "graph", 64, 40, "float16"),
]


def rows(n: int = ROWS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((20, DIM))
    made = (centres[rng.integers(20, size=n)] + 0.4 * rng.standard_normal((n, DIM))) * np.linspace(1.5, 0.3, DIM)
    return made.astype(np.float32)


def given(path: Path, vectors: np.ndarray, **options: Any) -> Any:
    c = inlay.open(path, encoder=False, **options)
    c.add([{"id": str(i), "text": f"text {i}", "third": i % 3} for i in range(len(vectors))], vectors=vectors)
    return c


def texts(n: int = 60, first: int = 0) -> list[dict[str, Any]]:
    words = "amber basin cedar delta ember flint grove harbour island juniper kettle lantern".split()
    return [
        {"id": str(i), "text": " ".join(words[(i * step + step) % len(words)] for step in range(1, 6)) + f" {i}"}
        for i in range(first, first + n)
    ]


def ids(hits: list[Any]) -> list[str]:
    return [hit.id for hit in hits]


@pytest.mark.parametrize("way", WAYS + GRAPHS, ids=str)
def test_a_collection_answers_as_the_index_that_was_measured(tmp_path, way) -> None:
    if way.index == "graph":
        pytest.importorskip("numba")
    vectors, queries = rows(), rows(12, seed=1)
    c = given(tmp_path / "c", vectors)
    c.arrange(way)
    shelf = Shelf(vectors, "cosine").arranged(way)
    held = c.info()["spaces"]["dense"]
    assert held["arranged"] == [way.to_dict()]
    assert held["segments"] == 1
    with inlay.open(tmp_path / "c", encoder=False, mode="r") as again:
        for query in queries:
            asked = query / np.linalg.norm(query)
            expected = shelf.search(asked, 100)  # so deep does a collection look
            found = again.search(vector=query, k=10)
            assert ids(found) == [str(i) for i in expected.ids[:10]]
            np.testing.assert_allclose([hit.score for hit in found], expected.scores[:10], atol=2e-3)
            some = again.search(vector=query, k=5, where={"third": 1})
            assert len(some) == 5
            assert all(int(hit.id) % 3 == 1 for hit in some)
        names, back = again.vectors()
        assert [name for name, _ in names] == [str(i) for i in range(ROWS)]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = (back * unit).sum(1) / np.linalg.norm(back, axis=1)
        assert cosines.mean() > (0.6 if "signs" in way.codec and not way.candidates else 0.85)
        assert again.verify() == []


@pytest.mark.parametrize("way", WAYS + GRAPHS, ids=str)
def test_arrays_and_facts_are_all_there_is(way) -> None:
    if way.index == "graph":
        pytest.importorskip("numba")
    index = Shelf(rows(), "cosine").arranged(way)
    again = Arranged.restored(index.arrays(), index.facts())
    assert again.configuration == way == Configuration.from_dict(way.to_dict())
    for query in rows(5, seed=2):
        assert again.search(query, 7).ids.tolist() == index.search(query, 7).ids.tolist()
    assert (again.row_nbytes, again.fixed_nbytes) == (index.row_nbytes, index.fixed_nbytes)


def test_fewer_bytes_are_kept_and_dots_too(tmp_path) -> None:
    c = given(tmp_path / "c", rows(3000), metric="dot")
    done = c.arrange(Configuration("pca:8", "int8"))
    assert done["after"] < done["before"] / 4
    found = c.search(vector=rows(1, seed=3)[0], k=3)
    assert len(found) == 3


def test_what_comes_later_is_found_and_what_goes_is_gone(tmp_path) -> None:
    vectors, more = rows(), rows(20, seed=5)
    c = given(tmp_path / "c", vectors)
    c.arrange(Configuration("pca:16", "int8"))
    c.add([{"id": f"new {i}", "text": f"more {i}"} for i in range(20)], vectors=more)
    assert ids(c.search(vector=more[7], k=1)) == ["new 7"]
    best = ids(c.search(vector=vectors[3], k=1))
    c.delete(best)
    assert best[0] not in ids(c.search(vector=vectors[3], k=50))
    c.compact()
    assert ids(c.search(vector=more[7], k=1)) == ["new 7"]
    assert best[0] not in ids(c.search(vector=vectors[3], k=50))
    assert c.verify() == []
    with pytest.raises(BadInput, match="no encoder is at hand"):
        c.arrange(Configuration("", "int8"))
    assert c.arrangement is None


def test_a_job_that_was_killed_goes_on_where_it_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(arrangement, "BATCH", 8)
    c = inlay.open(tmp_path / "c", encoder="numen?dim=64")
    c.add(texts())
    c.arrange(Configuration("", "int8"))
    before = ids(c.search("amber basin", mode="dense"))
    calls = 0
    whole = arrangement.encoded

    def few(encoder: Any, part: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return whole(encoder, part)

    monkeypatch.setattr(arrangement, "encoded", few)
    with pytest.raises(KeyboardInterrupt):
        c.arrange(Configuration("", "float16"))
    assert ids(c.search("amber basin", mode="dense")) == before
    c.close()
    with inlay.open(tmp_path / "c") as again:
        assert again.arrangement == {
            "configuration": Configuration("", "float16").to_dict(), "encoder": "", "from": again.arrangement["from"],
        }  # fmt: skip
        again.delete(["3"])
        again.add(texts(2, first=100))
        again.arrange()
        assert calls == 4 + 5  # of 8 batches three were there, and what is new has rows of its own or a batch
        assert again.arrangement is None
        assert not (tmp_path / "c" / arrangement.FOLDER).exists()
        assert {"100", "101"} <= set(ids(again.search("amber basin", k=80, mode="dense")))
        assert "3" not in ids(again.search("amber basin", k=80, mode="dense"))
        assert again.verify() == []


def test_what_happens_while_the_index_is_made(tmp_path, monkeypatch) -> None:
    vectors, more = rows(), rows(30, seed=6)
    c = given(tmp_path / "c", vectors)
    whole = Shelf.arranged

    def slow(self: Any, one: Configuration) -> Any:
        c.delete([str(i) for i in range(10)])
        c.add([{"id": f"new {i}", "text": "more"} for i in range(30)], vectors=more)
        c.compact()
        assert ids(c.search(vector=more[2], k=1)) == ["new 2"]
        return whole(self, one)

    monkeypatch.setattr(Shelf, "arranged", slow)
    c.arrange(Configuration("", "int8"))
    assert len(c) == ROWS + 20
    assert len(c.search(vector=vectors[0], k=1000)) == ROWS + 20
    assert ids(c.search(vector=more[2], k=1)) == ["new 2"]
    assert c.verify() == []


@pytest.mark.parametrize("moment", ["store", "rmtree", "sweep"])
def test_a_failure_leaves_the_old_or_the_new(tmp_path, monkeypatch, moment) -> None:
    c = given(tmp_path / "c", rows())
    before = ids(c.search(vector=rows(1, seed=7)[0]))
    target = arrangement.shutil if moment == "rmtree" else arrangement

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(target, moment, fail)
        with pytest.raises(OSError, match="no space"):
            c.arrange(Configuration("", "float16"))
    c.close()
    with inlay.open(tmp_path / "c", encoder=False) as again:
        assert ids(again.search(vector=rows(1, seed=7)[0])) == before
        assert again.verify() == []


def test_killed_at_any_moment(tmp_path) -> None:
    path = tmp_path / "c"
    given(path, rows(4000)).close()
    script = textwrap.dedent(f"""
        import inlay
        from inlay.indexes.configuration import Configuration
        c = inlay.open({str(path)!r}, encoder=False)
        print("ready", flush=True)
        c.arrange(Configuration("pca:16", "int8"))
    """)
    for wait in (0.0, 0.05, 0.2):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ)
        assert child.stdout is not None
        child.stdout.readline()
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with inlay.open(path, encoder=False) as c:
            assert c.verify() == []
            assert len(c.search(vector=rows(1, seed=8)[0], k=10)) == 10
            if c.info()["spaces"]["dense"]["arranged"]:
                break


def test_another_encoder_takes_the_place(tmp_path) -> None:
    c = inlay.open(tmp_path / "c", encoder="numen?dim=64")
    c.add(texts())
    c.arrange(Configuration("", "int8"), encoder="numen?dim=128")
    assert c.info()["spaces"]["dense"]["dim"] == 128
    found = ids(c.search("amber basin cedar", mode="dense", k=5))
    c.add(texts(3, first=200))
    assert c.verify() == []
    c.close()
    with inlay.open(tmp_path / "c") as again:
        assert ids(again.search("amber basin cedar", mode="dense", k=5)) == found
        assert again.info()["spaces"]["dense"]["encoder"]["dim"] == 128


def test_it_is_given_up(tmp_path) -> None:
    c = inlay.open(tmp_path / "c", encoder="numen?dim=64")
    c.add(texts())
    with c._mutex, c._writing():
        arrangement.begin(c, Configuration("", "int8"), "")
    assert c.arrangement is not None
    assert c.abandon()
    assert not c.abandon()
    with pytest.raises(BadInput, match="under way"):
        c.arrange()
    c.arrange(Configuration("", "int8"), background=True)
    assert c._background is not None
    c._background.join()
    assert c.info()["spaces"]["dense"]["arranged"]


def test_what_cannot_be_done_changes_nothing(tmp_path) -> None:
    c = given(tmp_path / "c", rows(20))
    way = Configuration("", "int8")
    for bad, more in (
        (Configuration("pca:40", "int8"), {}),
        (Configuration("", "int7"), {}),
        (way, {"encoder": "numen"}),
    ):
        with pytest.raises(BadInput):
            c.arrange(bad, **more)
        assert c.arrangement is None
        assert c.info()["spaces"]["dense"]["arranged"] == []
    with pytest.raises(BadInput, match="configuration"):
        c.arrange("int8")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="l2"):
        given(tmp_path / "l2", rows(20), metric="l2").arrange(way)
    bare = inlay.open(tmp_path / "none", encoder=False)
    bare.add(["words alone"])
    with pytest.raises(BadInput, match="no dense rows"):
        bare.arrange(way)
    with pytest.raises(BadInput, match="no configuration"):
        Configuration.from_dict({"codec": "int8"})
    with pytest.raises(BadInput, match="no arranged rows"):
        Arranged.restored({}, {"configuration": way.to_dict()})
    with inlay.open(tmp_path / "c", encoder=False, mode="r") as reader, pytest.raises(InlayError, match="reading only"):
        reader.arrange(way)


def test_damage_is_found_and_mended(tmp_path) -> None:
    c = inlay.open(tmp_path / "c", encoder="numen?dim=512")
    c.add(texts(200))
    c.arrange(Configuration("", "float16"))
    c.close()
    file = next((tmp_path / "c" / "segments").glob("*/rows.safetensors"))
    held = bytearray(file.read_bytes())
    held[-100] ^= 255
    file.write_bytes(held)
    with inlay.open(tmp_path / "c") as again:
        assert again.verify()
        again.repair()
        assert again.verify() == []
        assert len(again.search("amber basin", mode="dense", k=10)) == 10
