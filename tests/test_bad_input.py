"""What people really hand in: a named error or a line in the report, the rest stored, and everything in order after."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inlay
from durability.fakes import Words
from inlay.collection.folder import sync
from inlay.errors import BadInput, Corrupt, InlayError, Locked, SpaceMismatch
from inlay.types import Document

GOOD = [{"id": "good0", "text": "a good one"}, {"id": "good1", "text": "another good one"}]


@pytest.fixture
def c(tmp_path: Path) -> Iterator[inlay.Collection]:
    with inlay.open(tmp_path / "c.inlay", encoder=Words(8)) as made:
        made.add([{"id": "first", "text": "what was there first", "n": 1}])
        yield made
        # Whatever happened: nothing lost, nothing broken, and life goes on.
        assert made.verify() == []
        assert made.get("first").text == "what was there first"
        made.update([{"id": "last", "text": "life goes on"}])
        assert made.search("life")[0].id == "last"


def names(values: list[Any], longest: int) -> list[str]:
    """Names of cases, without addresses: processes that share the tests out must find the same ones."""
    return [re.sub(r" at 0x\w+", "", repr(value))[:longest] for value in values]


class Hostile:
    """Neither a document nor anything else."""

    def __repr__(self) -> str:
        return "Hostile()"


@dataclass
class Locky:
    text: str
    lock: Any


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"d": value}
    return value


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


BAD = {
    "empty text": ({"id": "x", "text": ""}, "empty"),
    "blank text": ({"id": "x", "text": " \n\t\u3000"}, "empty"),
    "empty string": ("", "empty"),
    "None": (None, "NoneType"),
    "no text": ({"id": "x"}, "'text'"),
    "empty dictionary": ({}, "'text'"),
    "text None": ({"id": "x", "text": None}, "'text'"),
    "text a number": ({"id": "x", "text": 5}, "int"),
    "text NaN": ({"id": "x", "text": float("nan")}, "'text'"),
    "text bytes": ({"id": "x", "text": b"abc"}, "bytes"),
    "bytes": (b"abc", "bytes"),
    "a number": (3, "int"),
    "a list": (["text"], "list"),
    "a class": (Document, "type"),
    "hostile": (Hostile(), "Hostile"),
    "binary": ({"id": "x", "text": "PK\x03\x04\0\0abc"}, "NUL"),
    "lone surrogate": ({"id": "x", "text": "abc \udce9 def"}, "surrogate"),
    "surrogate in id": ({"id": "\ud800", "text": "t"}, "surrogate"),
    "surrogate in metadata": ({"id": "x", "text": "t", "m": "\udfff"}, "surrogate"),
    "surrogate in name": ({"id": "x", "text": "t", "\udfff": 1}, "surrogate"),
    "NUL in id": ({"id": "a\0b", "text": "t"}, "NUL"),
    "NUL in metadata": ({"id": "x", "text": "t", "m": ["a\0"]}, "NUL"),
    "empty id": ({"id": "", "text": "t"}, "non-empty"),
    "id a float": ({"id": 1.5, "text": "t"}, "1.5"),
    "id a list": ({"id": ["x"], "text": "t"}, "string"),
    "id a boolean": ({"id": True, "text": "t"}, "True"),
    "operator as name": ({"id": "x", "text": "t", "$gt": 1}, "[$]"),
    "empty name": ({"id": "x", "text": "t", "": 1}, "non-empty"),
    "number as name": ({"id": "x", "text": "t", 3: 1}, "3"),
    "huge integer": ({"id": "x", "text": "t", "n": 2**63}, "64 bits"),
    "huge negative integer": ({"id": "x", "text": "t", "n": [-(10**30)]}, "64 bits"),
    "deep nesting": ({"id": "x", "text": "t", "m": deep(500)}, "deep"),
    "circular": ({"id": "x", "text": "t", "m": circular()}, "deep"),
    "bytes in metadata": ({"id": "x", "text": "t", "m": b"x"}, "bytes"),
    "object in metadata": ({"id": "x", "text": "t", "m": Hostile()}, "Hostile"),
    "complex in metadata": ({"id": "x", "text": "t", "m": 1j}, "complex"),
    "lock in a dataclass": (Locky("t", threading.Lock()), "dictionary"),
    "metadata None": (Document("x", "t", None), "dictionary"),  # type: ignore[arg-type]
    "metadata a list": (Document("x", "t", [1]), "dictionary"),  # type: ignore[arg-type]
    "chunks of nonsense": (Document("x", "t", {}, "abc"), "Chunk"),  # type: ignore[arg-type]
    "existing id": ({"id": "first", "text": "usurper"}, "exists"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
def test_one_bad_document_is_reported_and_the_rest_goes_in(c: inlay.Collection, bad: Any, reason: str) -> None:
    report = c.add([GOOD[0], bad, GOOD[1]])
    assert report.added == 2
    assert len(report.failed) == 1
    assert re.search(reason, report.failed[0].reason), report.failed[0].reason
    assert {h.id for h in c.search("good", mode="lexical")} == {"good0", "good1"}
    assert {h.id for h in c.search("good", mode="dense")} == {"first", "good0", "good1"}
    with pytest.raises(BadInput, match=reason):
        c.add([{"id": "never", "text": "never"}, bad], on_error="raise")
    assert "never" not in c


def test_twice_the_same_id_in_one_addition(c: inlay.Collection) -> None:
    report = c.add([GOOD[0], {**GOOD[0], "text": "other"}, GOOD[1]])
    assert report.added == 2
    assert c.get("good0").text == "a good one"


# -- arguments of the wrong kind -----------------------------------------------------------------------------------

NOT_DOCUMENTS = [None, "text", b"text", {"text": "x"}, 5, 1.5, True, object(), Hostile(), Document("a", "b")]
ODD = [None, 0, -1, 1.5, True, "x", b"x", [], {}, object(), float("nan"), 2**70]


def named(call: Callable[[], Any]) -> None:
    """It works or it says by name why not."""
    with contextlib.suppress(InlayError):
        call()


@pytest.mark.parametrize("documents", NOT_DOCUMENTS, ids=names(NOT_DOCUMENTS, 30))
def test_what_is_no_list_of_documents(c: inlay.Collection, documents: Any) -> None:
    for put in (c.add, c.update):
        with pytest.raises(BadInput):
            put(documents)
    assert len(c) == 1


@pytest.mark.parametrize("odd", ODD, ids=names(ODD, 20))
def test_wrong_types_for_every_argument(c: inlay.Collection, odd: Any, tmp_path: Path) -> None:
    named(lambda: c.add(GOOD, vectors=odd))
    named(lambda: c.add(["t"], ids=odd))
    named(lambda: c.add(["t"], ids=[odd]))
    named(lambda: c.update(GOOD, on_error=odd))
    named(lambda: c.add([odd]))
    named(lambda: c.delete(odd))
    named(lambda: c.delete([odd]))
    named(lambda: c.get(odd))
    assert (odd in c) == (odd in [d.id for d in c])
    for name in ("query", "k", "where", "mode", "per", "vector", "rerank"):
        named(lambda: c.search(**{"query": "first", name: odd}))  # noqa: B023
    named(lambda: c.search(odd))
    named(lambda: c.search("first", where={"n": odd}))
    named(lambda: c.search("first", where={odd if isinstance(odd, str | int) else "k": {"$in": odd}}))
    named(lambda: c.embed(limit=odd))
    named(lambda: c.settings.__setitem__("k", odd))
    named(lambda: c.settings.__setitem__(odd, 1))
    for name in ("encoder", "mode", "dtype", "chunk", "metric", "space_map"):
        named(lambda: inlay.open(tmp_path / f"other-{name}.inlay", **{name: odd}).close())  # noqa: B023
    if not isinstance(odd, str):
        named(lambda: inlay.open(odd))
    named(lambda: sync(c, odd))


@pytest.mark.parametrize(
    "path", ["", "a\0b", None, 5, b"bytes", "x" * 5000], ids=["empty", "NUL", "None", "number", "bytes", "long"]
)
def test_impossible_paths(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for mode in ("a", "r"):
        with pytest.raises(InlayError):
            inlay.open(path, encoder=False, mode=mode)
    assert list(tmp_path.iterdir()) == []


def test_impossible_searches(c: inlay.Collection) -> None:
    for query in ("", "   ", "\n", None, 5, b"x", ["x"]):
        with pytest.raises(BadInput):
            c.search(query)
    odd = ["\ud800", "first \udce9", "\0", "first\0was", "?!… ", "the of and", "😀", "a" * 100_000, "first " * 20_000]
    for query in odd:
        for mode in ("lexical", "dense", "hybrid"):
            named(lambda: c.search(query, mode=mode))  # noqa: B023
    with pytest.raises(SpaceMismatch):
        c.search(vector=[1.0])
    for vector in ([np.nan] * 8, [np.inf] + [0] * 7, "abc", [[1, 2], [3]], [None] * 8, ["x"] * 8, {"a": 1}, object()):
        with pytest.raises(InlayError):
            c.search(vector=vector)
    assert c.search(vector=[0] * 8) == []


# -- vectors -------------------------------------------------------------------------------------------------------

BAD_VECTORS = [
    [[1, 2], [3]], [1, 2], [["a", "b"], ["c", "d"]], [[{}, 1], [2, 3]], "ab", [[]], [[], []], np.zeros((2, 2, 2, 2)),
    np.zeros((3, 2)), np.zeros((0, 2)), [[1j, 2], [3, 4]], object(), 3, {"a": 1}, iter([[1, 2], [3, 4]]),
]  # fmt: skip


@pytest.mark.parametrize("vectors", BAD_VECTORS, ids=names(BAD_VECTORS, 30))
def test_vectors_of_the_wrong_shape(tmp_path: Path, vectors: Any) -> None:
    with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
        with pytest.raises(InlayError):
            c.add(GOOD, vectors=vectors)
        assert len(c) == 0
        assert c.add(GOOD, vectors=np.eye(2)).added == 2
        with pytest.raises(InlayError):
            c.add([{"id": "x", "text": "x"}, {"id": "y", "text": "y"}], vectors=vectors)
        with pytest.raises(SpaceMismatch, match="3 dimensions"):
            c.add(["x"], vectors=[[1, 2, 3]])
        assert len(c) == 2
        assert c.verify() == []


@pytest.mark.parametrize("ids", [[""], [None], ["\ud800"], ["a\0"], [1.5], [["x"]], [True]])
def test_vectors_alone_with_bad_ids(tmp_path: Path, ids: Any) -> None:
    with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
        report = c.add(vectors=np.eye(2), ids=[*ids, "good"])
        assert report.added == 1
        assert len(report.failed) == 1
        assert c.verify() == []


def test_an_encoder_that_misbehaves_loses_nothing(tmp_path: Path) -> None:
    class Broken(Words):
        result: Any = None

        def encode_document(self, items: Any, **options: Any) -> Any:
            rows = super().encode_document(items)
            return self.result(rows) if self.result else rows

    encoder = Broken(8)
    with inlay.open(tmp_path / "c.inlay", encoder=encoder) as c:
        c.add(GOOD)
        for result in (
            lambda rows: rows[:, :4],
            lambda rows: rows[:-1],
            lambda rows: np.full_like(rows, np.nan),
            lambda rows: rows[0],
            lambda rows: [["a"] * 8 for _ in rows],
            lambda rows: None,
        ):
            encoder.result = result
            with pytest.raises(InlayError):
                c.add([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}])
            encoder.result = None
            assert len(c) == 2
            assert c.verify() == []
        c.add([{"id": "a", "text": "one"}])
        assert c.verify() == []


# -- size ----------------------------------------------------------------------------------------------------------


def test_one_line_of_fifty_megabytes(tmp_path: Path) -> None:
    line = ("lorem ipsum dolor sit amet " * 40_000 + "needle ") * 47
    assert len(line) > 50_000_000
    assert "\n" not in line
    with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
        started = time.perf_counter()
        assert c.add([{"id": "huge", "text": line}, *GOOD]).failed == []
        # A bound against the quadratic, not a benchmark: it takes about ten seconds.
        assert time.perf_counter() - started < 120
        started = time.perf_counter()
        hit = c.search("needle")[0]
        assert "needle" in hit.text
        assert len(hit.text) <= 1600
        assert len(c.search("lorem", per="chunk")) == 10
        assert time.perf_counter() - started < 60
        assert c.delete(["huge"]) == 1
        assert c.verify() == []


def test_a_text_beyond_the_limit_is_refused(c: inlay.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    from inlay.collection import intake

    monkeypatch.setattr(intake, "LONGEST", 1000)
    report = c.add([*GOOD, {"id": "long", "text": "x" * 1001}])
    assert report.added == 2
    assert "1,001" in report.failed[0].reason


def test_a_word_of_a_million_letters_and_a_million_fields(c: inlay.Collection) -> None:
    assert c.add([{"id": "word", "text": "a" * 1_000_000}]).failed == []
    fields = {f"field{i}": i for i in range(20_000)}
    assert c.add([{"id": "fields", "text": "many fields", **fields}]).failed == []
    assert c.search("many", where={"field19999": 19_999})[0].id == "fields"
    c.delete(["fields"])
    assert c.search("many", where={"field19999": 19_999}) == []


# -- no space ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("only root can mount a small file system; see the next test")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_no_space_left(small_disk: Path) -> None:
    rng = np.random.default_rng(0)
    path, stored, refused = small_disk / "c.inlay", [], 0
    with inlay.open(path, encoder=Words(32)) as c:
        for i in range(200):
            batch = [
                {"id": f"d{i}-{j}", "text": " ".join(f"w{n}" for n in rng.integers(0, 10**6, 40))} for j in range(30)
            ]
            try:
                c.add(batch)
                stored += batch
            except InlayError as error:
                reason = str(error)
                assert "space" in reason or "cannot write" in reason
                refused += 1
                if refused > 5:
                    break
            assert len(c) == len(stored)
        assert refused > 5, "the disk never filled up"
        assert {d.id for d in c} == {d["id"] for d in stored}
        assert c.verify() == []
    with inlay.open(path, encoder=Words(32)) as c:
        assert {d.id: d.text for d in c} == {d["id"]: d["text"] for d in stored}
        assert c.verify() == []
        assert c.search(stored[0]["text"], mode="dense")[0].id == stored[0]["id"]
    assert [e for e in (path / "segments").iterdir() if e.name.endswith(".partial")] == []


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """As on a full disk or over quota, without being root: no file may grow beyond half a megabyte."""
    path = tmp_path / "c.inlay"
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
            with inlay.open(path, encoder=Words(16)) as c:
                refused = 0
                for i in range(40):
                    try:
                        c.add([{"id": f"{i}-{j}", "text": f"{i} {j} " + "x" * 1000} for j in range(20)])
                    except InlayError as error:
                        refused += not isinstance(error, Corrupt)
                os.write(2, f"refused {refused}, stored {len(c)}\n".encode())
                code = 0 if refused and len(c) % 20 == 0 and len(c) else 2
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with inlay.open(path, encoder=Words(16)) as c:
        assert len(c) % 20 == 0
        assert len(c)
        assert c.verify() == []
        c.add(GOOD)


def test_a_place_that_is_read_only(tmp_path: Path) -> None:
    home, place = tmp_path / "home", tmp_path / "place ?#%"
    home.mkdir()
    place.mkdir()
    with inlay.open(home / "c.inlay", encoder=Words(8)) as c:
        c.add(GOOD)

    def mount(*words: Any) -> bool:
        return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0

    if os.geteuid() != 0 or not mount("--bind", home, place):
        pytest.skip("only root can mount a read-only file system")
    try:
        assert mount("-o", "remount,ro,bind", place)
        with inlay.open(place / "c.inlay", encoder=Words(8), mode="r") as c:
            assert len(c) == 2
            assert c.search("good")
            assert c.verify() == []
            assert c.info()["documents"] == 2
        with pytest.raises(InlayError, match="mode='r'"):
            inlay.open(place / "c.inlay", encoder=Words(8))
        # Somebody else writes there, and the reader keeps up.
        with inlay.open(home / "c.inlay", encoder=Words(8)) as writer:
            writer.add(["more"])
            with inlay.open(place / "c.inlay", encoder=Words(8), mode="r") as c:
                assert len(c) == 3
                writer.add(["and more"])
                assert len(c) == 3
                c.refresh()
                assert len(c) == 4
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# -- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "a.txt").write_text("alpha is here")
    (made / "b.md").write_text("# Beta\n\nbeta is here")
    return made


def test_a_folder_of_everything(c: inlay.Collection, folder: Path) -> None:
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 50)
    (folder / "latin.txt").write_bytes("déjà vu à la carte, où ça".encode("latin-1"))
    (folder / "few-bad.txt").write_bytes(b"mostly fine " * 100 + b"\xff" + b" gamma")
    (folder / "bom.txt").write_bytes("\ufeffdelta with a mark".encode("utf-16"))
    (folder / "broken.json").write_text('{"text": ')
    (folder / "broken.ipynb").write_text("{}")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nonsense")
    (folder / "rows.jsonl").write_text('{"id": "r1", "text": "row one"}\n{"id": \n{"id": "r3", "text": "row three"}\n')
    (folder / "fields.csv").write_text('text,"a\'; DROP TABLE documents; --"\nepsilon here,1\n')
    (folder / "line.txt").write_text("zeta " * 200_000)
    (folder / "odd\nname.txt").write_text("eta in an odd name")
    (folder / os.fsdecode(b"bad-\xff.txt")).write_text("theta in a name that is no UTF-8")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "dangling.txt").symlink_to(folder / "nowhere.txt")
    os.mkfifo(folder / "pipe.txt")
    deep = folder
    for i in range(40):
        deep = deep / f"level{i}"
    deep.mkdir(parents=True)
    (deep / "deep.txt").write_text("iota far below")
    report = sync(c, folder)
    skipped = dict(report.skipped)
    for name in ("binary.txt", "self.txt", "dangling.txt", "pipe.txt"):
        assert any(name in skip for skip in skipped), (name, skipped)
    for word, part in (("alpha", "a.txt"), ("beta", "b.md"), ("gamma", "few-bad"), ("delta", "bom.txt"),
                       ("zeta", "line.txt"), ("eta", "odd"), ("theta", "bad-"), ("iota", "deep.txt")):  # fmt: skip
        assert part in c.search(word, mode="lexical")[0].metadata["path"], word
    assert c.verify() == []
    again = sync(c, folder)
    assert (again.added, again.updated, again.removed) == (0, 0, 0)
    assert again.documents == report.documents == len(c)


def test_files_change_and_vanish(c: inlay.Collection, folder: Path) -> None:
    sync(c, folder)
    (folder / "a.txt").write_text("omega instead")
    (folder / "b.md").unlink()
    (folder / "c.txt").write_text("kappa is new")
    report = sync(c, folder)
    assert (report.added, report.updated, report.removed) == (1, 1, 1)
    assert c.search("alpha", mode="lexical") == []
    assert c.search("beta", mode="lexical") == []
    assert c.search("omega", mode="lexical")[0].id == "a.txt"
    (folder / "a.txt").write_bytes(bytes(range(256)))
    report = sync(c, folder)
    assert "a.txt" in dict(report.skipped)
    assert c.search("omega", mode="lexical") == [], "what can no longer be read is no longer true"


def test_rows_that_are_left_out_are_named(c: inlay.Collection, folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "epsilon row"}\nnot json\n[1]\n')
    skipped = dict(sync(c, folder).skipped)
    assert "malformed JSON" in skipped["rows.jsonl#2"]
    assert "list" in skipped["rows.jsonl#3"]
    assert c.search("epsilon", mode="lexical")[0].id == "rows.jsonl#1"


def test_a_file_without_a_reader_is_read_once_there_is_one(
    c: inlay.Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inlay.documents import reading

    real, broken = reading._bytes, [True]

    def bytes_of(path: Path, name: str, sniff: bool) -> bytes:
        if name == "a.txt" and broken[0]:
            raise reading.Unreadable(name, "permission denied", passing=True)
        return real(path, name, sniff)

    monkeypatch.setattr(reading, "_bytes", bytes_of)
    monkeypatch.setattr(reading, "may_read", lambda source: not broken[0])
    first = sync(c, folder)
    assert "permission" in dict(first.skipped)["a.txt"]
    second = sync(c, folder)
    assert (second.added, second.updated, second.unchanged) == (0, 0, second.files)
    broken[0] = False
    assert sync(c, folder).updated == 1
    assert c.search("alpha", mode="lexical")[0].id == "a.txt"
    assert sync(c, folder).unchanged == second.files


def test_unreadable_files_and_folders(tmp_path: Path) -> None:
    """As another user, because root may read everything."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        folder, path = Path(home) / "folder", Path(home) / "c.inlay"
        folder.mkdir()
        (folder / "open.txt").write_text("open to all")
        (folder / "secret.txt").write_text("secret")
        (folder / "closed").mkdir()
        (folder / "closed" / "in.txt").write_text("inside")
        os.chmod(folder / "secret.txt", 0)
        os.chmod(folder / "closed", 0)
        path.mkdir()
        os.chown(path, 65534, 65534)
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setgid(65534)
                os.setuid(65534)
                with inlay.open(path, encoder=Words(8)) as c:
                    report = sync(c, folder)
                    names = " ".join(name for name, _ in report.skipped)
                    code = 0 if "secret.txt" in names and "closed" in names and len(c) == 1 and not c.verify() else 2
                os.chmod(path, 0o555)
                os.chmod(path / "writer.lock", 0o444)
                os.chmod(path / "segments", 0o555)
                with inlay.open(path, encoder=Words(8)) as c:
                    assert c.search("open")
                    try:
                        c.add(["x"])
                        code = 5
                    except InlayError as error:
                        code = code if "cannot write" in str(error) else 6
                try:
                    inlay.open(Path(home) / "forbidden.inlay", encoder=False)
                    code = 3
                except BadInput as error:
                    code = code if "forbidden" in str(error) else 4
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


def test_sync_of_nothing(c: inlay.Collection, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        sync(c, tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert sync(c, empty).files == 0


def test_an_interrupted_addition_keeps_the_batches_that_were_committed(
    c: inlay.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inlay.collection import intake

    monkeypatch.setattr(intake, "BATCH_DOCUMENTS", 10)

    def stream() -> Iterator[dict[str, Any]]:
        for i in range(25):
            yield {"id": f"s{i}", "text": f"stream {i}"}
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        c.add(stream())
    assert len(c) == 21
    assert c.verify() == []
    assert c.update({"id": f"s{i}", "text": f"stream {i}"} for i in range(25)).unchanged == 20
    assert len(c) == 26


def test_locked_is_an_inlay_error() -> None:
    assert issubclass(Locked, InlayError)
