"""The collection as people use it: what goes in comes out, is found, changes, goes, and survives reopening."""

from __future__ import annotations

import datetime
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import inlay
from durability.fakes import Scaled, Words
from inlay.collection import segment as segments
from inlay.collection.catalog import Catalog
from inlay.encoders.analysis import Analyzer
from inlay.encoders.bm25 import idf, saturation
from inlay.errors import BadInput, Corrupt, InlayError, SpaceMismatch
from inlay.types import Chunk, Document

WORDS = [a + b for a in ("ka", "lo", "mi", "ru", "se", "to") for b in ("ban", "dor", "fel", "gus", "hin", "jar", "kel")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.inlay"


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even small segments go into files of their own."""
    monkeypatch.setattr(segments, "INLINE", 0)


def sentences(n: int, seed: int = 0, length: int = 12) -> list[str]:
    rng = np.random.default_rng(seed)
    # Rare and frequent words, as in life.
    weights = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(rng.choice(WORDS, size=length, p=weights / weights.sum())) for _ in range(n)]


def records(n: int, seed: int = 0, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"d{start + i}", "text": t, "n": start + i} for i, t in enumerate(sentences(n, seed))]


def answers(c: inlay.Collection, query: str, k: int = 10, **how: Any) -> list[tuple[str, int, float]]:
    return [(hit.id, hit.chunk, round(hit.score, 5)) for hit in c.search(query, k, **how)]


def catalog(path: Path, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
    """Ask the catalog behind the collection's back; by the same SQLite, as a second one would drop our locks."""
    with closing(Catalog(path / "catalog.sqlite", create=False)) as behind:
        return behind.all(sql, bindings)


# -- what goes in --------------------------------------------------------------------------------------------------


@dataclass
class Note:
    text: str
    id: str
    year: int


def _pandas(rows: list[dict[str, Any]]) -> Any:
    return pytest.importorskip("pandas").DataFrame(rows)


def _pyarrow(rows: list[dict[str, Any]]) -> Any:
    return pytest.importorskip("pyarrow").Table.from_pylist(rows)


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        lambda rows: (row for row in rows),
        lambda rows: [Note(**row) for row in rows],
        lambda rows: [Document(row["id"], row["text"], {"year": row["year"]}) for row in rows],
        _pandas,
        _pyarrow,
    ],
    ids=["dicts", "tuple", "iterator", "generator", "dataclasses", "documents", "pandas", "pyarrow"],
)
def test_every_form_of_documents_is_stored_alike(path: Path, form: Any) -> None:
    rows = [{"id": "ada", "text": "Ada wrote a program", "year": 1843}, {"id": "7", "text": "Zuse", "year": 1941}]
    with inlay.open(path, encoder=False) as c:
        report = c.add(form(rows))
        assert (report.added, report.updated, report.unchanged, report.failed) == (2, 0, 0, [])
        assert c.get("ada") == Document("ada", "Ada wrote a program", {"year": 1843})
        assert [d.id for d in c] == ["ada", "7"]
        assert c.search("program")[0].metadata == {"year": 1843}
        assert c.verify() == []


def test_strings_get_ids_of_their_own_that_never_repeat(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add(["one", "two"])
        report = c.add(["", "three", None, "four"])
        assert report.added == 2
        assert len(report.failed) == 2
        assert c.add(["five", "six"]).failed == []
        c.delete([next(iter(c)).id])
        assert c.add(["seven"]).failed == []
    with inlay.open(path, encoder=False) as c:
        assert c.add(["eight", {"id": "named", "text": "nine"}, "ten"]).failed == []
        assert {d.text for d in c} == {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
        assert len({d.id for d in c}) == len(c) == 9


def test_ids_beside_the_documents(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add(["x", {"id": "own", "text": "y"}], ids=["a", "b"])
        assert sorted(d.id for d in c) == ["a", "own"]
        for wrong in (["p"], ["p", "q", "r"]):
            with pytest.raises(BadInput, match="ids"):
                c.add(["x", "y"], ids=wrong)
        with pytest.raises(BadInput, match="ids"):
            c.add((t for t in ["x", "y"]), ids=["p"])
        assert len(c) == 2


def test_numbers_as_ids_become_strings(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add([{"id": 7, "text": "seven"}])
        assert c.get("7").text == "seven"


def test_metadata_of_every_json_kind_comes_back(path: Path) -> None:
    when = datetime.datetime(2024, 2, 29, 12)
    given = {
        "text": "t", "id": "m", "b": True, "i": -(2**63), "f": 0.1, "n": None, "l": [1, "a", [2]], "d": {"x": {"y": 1}},
        "when": when, "day": when.date(), "np": np.float32(0.5), "arr": np.arange(3), "nan": float("nan"), "ü": "ö😀",
    }  # fmt: skip
    with inlay.open(path, encoder=False) as c:
        assert c.add([given]).failed == []
        assert c.get("m").metadata == {
            "b": True, "i": -(2**63), "f": 0.1, "n": None, "l": [1, "a", [2]], "d": {"x": {"y": 1}},
            "when": "2024-02-29T12:00:00", "day": "2024-02-29", "np": 0.5, "arr": [0, 1, 2], "nan": None, "ü": "ö😀",
        }  # fmt: skip
        assert c.verify() == []


def test_missing_values_of_a_data_frame_are_none(path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({
        "text": ["a", "b"],
        "n": pd.array([1, None], dtype="Int64"),
        "when": pd.to_datetime(["2024-01-01", None]),
        "f": [1.5, float("nan")],
        "s": ["x", None],
    })  # fmt: skip
    with inlay.open(path, encoder=False) as c:
        assert c.add(frame).failed == []
        first, second = c
        assert first.metadata == {"n": 1, "when": "2024-01-01T00:00:00", "f": 1.5, "s": "x"}
        assert second.metadata == {"n": None, "when": None, "f": None, "s": None}


def test_numpy_strings_are_strings(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        assert c.add(np.array(["hello", "world"])).added == 2
        assert c.search("world")[0].text == "world"


def test_an_id_that_exists_is_reported_and_the_rest_goes_in(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add([{"id": "a", "text": "first"}])
        report = c.add([{"id": "a", "text": "x"}, {"id": "b", "text": "y"}, {"id": "b", "text": "z"}])
        assert report.added == 1
        assert [f.id for f in report.failed] == ["a", "b"]
        assert "update()" in report.failed[0].reason
        assert "twice" in report.failed[1].reason
        assert c.get("a").text == "first"
        assert c.get("b").text == "y"
        assert "2 failed" in repr(report)


@pytest.mark.parametrize("bad", [{"id": "a", "text": "again"}, {"id": "n", "text": ""}, 3])
def test_raise_stores_nothing_of_the_batch(path: Path, bad: Any) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add([{"id": "a", "text": "first"}])
        with pytest.raises(BadInput):
            c.add([{"id": "b", "text": "good"}, bad, {"id": "c", "text": "good"}], on_error="raise")
        assert [d.id for d in c] == ["a"]
        assert c.verify() == []
        assert c.add([{"id": "b", "text": "good"}]).added == 1


def test_passages_that_a_document_brings(path: Path) -> None:
    text = "alpha beta\n\ngamma delta"
    chunks = [Chunk(0, 10, 1, 1, "One"), Chunk(12, 23, 3, 3, "Two")]
    with inlay.open(path, encoder=False) as c:
        c.add([Document("d", text, {"title": "T"}, chunks)])
        hit = c.search("gamma")[0]
        assert (hit.text, hit.heading, hit.line, hit.last_line, hit.chunk) == ("gamma delta", "Two", 3, 3, 1)
        assert c.search("two")[0].chunk == 1, "headings are searched"
        wrongs = ([Chunk(0, 99)], [Chunk(5, 5)], [Chunk(0, 10), Chunk(5, 20)], [], [(0, 5)], 7, [Chunk("a", 2)])
        for i, wrong in enumerate(wrongs):
            report = c.add([Document("w", text, {}, wrong), Document(f"ok{i}", "fine")])
            assert ([f.id for f in report.failed], report.added) == (["w"], 1), wrong
        assert c.verify() == []


def test_long_texts_are_cut_and_found_by_passage(path: Path) -> None:
    parts = [f"Paragraph {i} speaks of {w}. " * 12 for i, w in enumerate(WORDS[:20])]
    with inlay.open(path, encoder=False, chunk=400) as c:
        c.add([{"id": "long", "text": "\n\n".join(parts)}])
        assert c.info()["passages"] >= 20
        hit = c.search(WORDS[13])[0]
        assert WORDS[13] in hit.text
        assert len(hit.text) <= 400
        assert len(c.search("paragraph", 50)) == 1
        assert len(c.search("paragraph", 50, per="chunk")) >= 20
    with inlay.open(path.with_name("whole.inlay"), encoder=False, chunk=None) as c:
        c.add(["\n\n".join(parts)])
        assert c.info()["passages"] == 1


# -- what comes out ------------------------------------------------------------------------------------------------


def test_the_container_protocol(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        assert len(c) == 0
        assert list(c) == []
        assert c.search("anything") == []
        assert "0 documents" in repr(c)
        c.add(records(3))
        assert len(c) == 3
        assert "d1" in c
        assert "nope" not in c
        assert 5 not in c
        assert c.get("nope") is None
        assert [d.id for d in c] == ["d0", "d1", "d2"]
        assert str(path) in repr(c)
        assert "3 documents" in repr(c)
    assert "closed" in repr(c)


def test_iterating_while_writing(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add(records(600))
        seen = []
        for i, document in enumerate(c):
            seen.append(document.id)
            if i % 100 == 0:
                c.delete([document.id])
        assert seen == [f"d{i}" for i in range(600)]
        assert len(c) == 594


def test_a_closed_collection_says_so(path: Path) -> None:
    c = inlay.open(path, encoder=False)
    c.add(["x"])
    c.close()
    c.close()
    for use in (
        lambda: c.add(["x"]), lambda: c.search("x"), lambda: len(c), lambda: c.get("x"), lambda: c.delete([]),
        lambda: list(c), c.verify, c.repair, c.compact, c.refresh, c.info, c.embed, c.vectors,
        lambda: c.settings["a"], lambda: dict(c.settings),
    ):  # fmt: skip
        with pytest.raises(BadInput, match="closed"):
            use()


def test_search_modes(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add([{"id": "a", "text": "red green"}, {"id": "b", "text": "green blue"}, {"id": "c", "text": "stone"}])
        lexical = c.search("red", mode="lexical")
        assert [hit.id for hit in lexical] == ["a"]
        assert set(lexical[0].spaces) == {"lexical"}
        dense = c.search("red green", mode="dense")
        assert dense[0].id == "a"
        assert len(dense) == 3, "every row has a distance"
        assert dense[0].score == pytest.approx(1.0, abs=1e-5)
        hybrid = c.search("red green")
        assert hybrid[0].id == "a"
        assert hybrid[0].spaces["lexical"]["rank"] == hybrid[0].spaces["dense"]["rank"] == 1
        assert c.search("red green", 1, mode="hybrid") == hybrid[:1]
        assert [h.score for h in hybrid] == sorted((h.score for h in hybrid), reverse=True)
        assert not any(hit.reranked for hit in hybrid)


@pytest.mark.parametrize("mode", ["lexical", "dense", "hybrid"])
def test_filters_hold_in_every_mode(path: Path, mode: str) -> None:
    with inlay.open(path, encoder=Words()) as c:
        for part in range(3):
            c.add(records(100, seed=part, start=100 * part))
        c.delete([f"d{i}" for i in range(0, 300, 5)])
        found = c.search(WORDS[0], 500, where={"n": {"$gte": 120, "$lt": 180}}, mode=mode)
        assert {h.metadata["n"] for h in found} <= set(range(120, 180)) - set(range(0, 300, 5))
        if mode != "lexical":
            assert len(found) == 48
        everything = [h for h in c.search(WORDS[0], 500, mode=mode) if 120 <= h.metadata["n"] < 180]
        if mode != "hybrid":  # fused scores depend on ranks, and these on who else is in the list
            assert [(h.id, h.score) for h in found] == [(h.id, h.score) for h in everything]
        assert c.search(WORDS[0], where={"n": -1}, mode=mode) == []
        assert len(c.search(WORDS[0], 500, where={}, mode=mode)) == len(c.search(WORDS[0], 500, mode=mode))


def test_lexical_scores_are_exact_bm25_whatever_was_deleted(path: Path) -> None:
    with inlay.open(path, encoder=False, chunk=None) as c:
        for part in range(5):
            c.add(records(40, seed=part, start=40 * part))
        c.delete([f"d{i}" for i in range(0, 200, 7)])
        c.update([{"id": f"d{i}", "text": t} for i, t in zip(range(3, 60, 11), sentences(9, 99, 30))])
        assert len(c._snapshot.segments["lexical"]) > 1, "the point is several segments with holes"
        assert len(c._snapshot.tombstones)
        for seed in range(10):
            query = sentences(1, 1000 + seed, 4)[0]
            _equal_to_brute_force(c, query)
        c.compact()
        _equal_to_brute_force(c, sentences(1, 1000, 4)[0])


def _equal_to_brute_force(c: inlay.Collection, query: str) -> None:
    analyzer = Analyzer()
    alive = {d.id: analyzer.terms(d.text) for d in c}
    average = np.mean([len(terms) for terms in alive.values()])
    expected = dict.fromkeys(alive, 0.0)
    for term in analyzer.terms(query):
        df = sum(term in terms for terms in alive.values())
        for name, terms in alive.items():
            if term in terms:
                tf = saturation(np.array([terms.count(term)]), np.array([len(terms)]), average)
                expected[name] += float(idf(len(alive), df) * tf[0])
    expected = {name: score for name, score in expected.items() if score > 0}
    found = {hit.id: hit.score for hit in c.search(query, 1000, mode="lexical")}
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        assert found[name] == pytest.approx(score, rel=2e-5), name


def test_a_huge_k_costs_no_more_than_there_is(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(20))
        for mode in ("lexical", "dense", "hybrid"):
            assert len(c.search(WORDS[0], 2**40, mode=mode)) <= 20


def test_many_passages_of_one_document_do_not_crowd_out_others(path: Path) -> None:
    with inlay.open(path, encoder=False, chunk=64) as c:
        c.add([{"id": "long", "text": "needle " * 4000}])
        c.add([{"id": f"s{i}", "text": "one needle here"} for i in range(9)])
        assert {h.id for h in c.search("needle", 10)} == {"long", *(f"s{i}" for i in range(9))}


# -- change --------------------------------------------------------------------------------------------------------


def test_update_keeps_the_rows_of_passages_that_did_not_change(path: Path) -> None:
    encoder = Words()
    text = ["first part alpha", "second part beta", "third part gamma"]

    def document(parts: list[str], **metadata: Any) -> Document:
        chunks, start = [], 0
        for part in parts:
            chunks.append(Chunk(start, start + len(part)))
            start += len(part) + 1
        return Document("d", " ".join(parts), metadata, chunks)

    def numbers() -> list[int]:
        return [row[0] for row in catalog(path, "SELECT chunk FROM chunks ORDER BY number")]

    with inlay.open(path, encoder=encoder) as c:
        c.add([document(text)])
        before = numbers()
        assert len(encoder.documents) == 3
        report = c.update([document([text[0], "second part changed", text[2]])])
        assert report.updated == 1
        after = numbers()
        assert (after[0], after[2]) == (before[0], before[2])
        assert after[1] not in before
        assert encoder.documents[3:] == ["second part changed"]
        assert c.search("beta", mode="lexical") == []
        assert c.search("changed", mode="lexical")[0].chunk == 1

        # Moved passages keep their rows too; metadata is no reason to encode again, a title is.
        c.update([document([text[2], text[0]], year=1)])
        assert numbers() == [before[2], before[0]]
        assert len(encoder.documents) == 4
        assert c.get("d").metadata == {"year": 1}
        assert c.update([document([text[2], text[0]], year=1)]).unchanged == 1
        c.update([document([text[2], text[0]], year=1, title="T")])
        assert set(numbers()).isdisjoint(before)
        assert len(encoder.documents) == 6
        assert c.verify() == []


def test_update_inserts_replaces_and_counts(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(5))
        report = c.update([*records(5), {"id": "new", "text": "fresh"}, {"id": "d1", "text": "replaced", "n": 99}])
        assert (report.added, report.updated, report.unchanged) == (1, 1, 5)
        assert c.get("d1").text == "replaced", "the last one of an id counts"
        assert [h.id for h in c.search("replaced", mode="lexical")] == ["d1"]
        assert c.search("x", where={"n": 1}, mode="dense") == []
        assert c.search("replaced", where={"n": 99})[0].id == "d1"
        assert len(c) == 6
        assert c.verify() == []


def test_delete(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(30))
        assert c.delete(["d3", "d4", "nope", "d3"]) == 2
        assert c.delete(["d3"]) == 0
        assert c.delete([]) == 0
        assert len(c) == 28
        assert "d3" not in c
        assert c.search(WORDS[0], 100, where={"n": 3}) == []
        assert "d3" not in {h.id for h in c.search(WORDS[0], 100, mode="dense")}
        c.add([{"id": "d3", "text": "back again"}])
        assert c.search("again", mode="lexical")[0].id == "d3"
        c.delete([d.id for d in c])
        assert len(c) == 0
        assert c.search(WORDS[0]) == []
        assert c.verify() == []
        c.add(["something new"])
        assert len(c.search("new")) == 1


def test_compaction_changes_nothing_but_bytes(path: Path, on_disk: None) -> None:
    with inlay.open(path, encoder=Words()) as c:
        for part in range(4):
            c.add(records(50, seed=part, start=50 * part))
        c.delete([f"d{i}" for i in range(0, 200, 9)])
        queries = [(q, mode) for q in sentences(6, 7, 3) for mode in ("lexical", "dense", "hybrid")]
        before = [answers(c, q, 20, mode=mode) for q, mode in queries]
        assert c.compact() > 0
        assert [answers(c, q, 20, mode=mode) for q, mode in queries] == before
        info = c.info()
        assert info["deleted_rows"] == 0
        assert info["spaces"]["lexical"]["segments"] == info["spaces"]["dense"]["segments"] == 1
        assert info["spaces"]["dense"]["rows"] == len(c)
        assert {e.name for e in (path / "segments").iterdir()} == {
            row[0] for row in catalog(path, "SELECT segment FROM segments")
        }
        assert c.compact() == 0
        assert c.verify() == []
    with inlay.open(path, encoder=Words()) as c:
        assert [answers(c, q, 20, mode=mode) for q, mode in queries] == before


def test_many_tiny_additions_equal_one_big_one(path: Path) -> None:
    documents = records(150)
    with inlay.open(path, encoder=Words()) as many, inlay.open(path.with_name("one.inlay"), encoder=Words()) as one:
        for document in documents:
            many.add([document])
        one.add(documents)
        most = max(s["segments"] for s in many.info()["spaces"].values())
        assert most <= 24, "small additions are folded together as they come"
        many.compact()
        for q in sentences(8, 5, 3):
            for mode in ("lexical", "dense", "hybrid"):
                assert answers(many, q, 20, mode=mode) == answers(one, q, 20, mode=mode)
        for name in ("lexical", "dense"):
            (a,), (b,) = many._snapshot.segments[name], one._snapshot.segments[name]
            assert sorted(a.pack.names()) == sorted(b.pack.names())
            for array in a.pack.names():
                np.testing.assert_array_equal(a.pack[array], b.pack[array])
        assert many.verify() == one.verify() == []


# -- reopening -----------------------------------------------------------------------------------------------------


def test_reopening_needs_no_reminder_of_the_encoder(path: Path) -> None:
    from inlay.encoders import Numen

    with inlay.open(path, encoder=Numen(dim=64)) as c:
        c.add(records(10))
        before = answers(c, WORDS[0])
    for again in (None, "numen?dim=64", Numen(dim=64)):
        with inlay.open(path, encoder=again) as c:
            assert answers(c, WORDS[0]) == before
            c.add([f"more {again}"])
            assert c.verify() == []
            c.delete([list(c)[-1].id])
    with inlay.open(path, mode="r") as c:
        assert answers(c, WORDS[0]) == before
        for write in (lambda: c.add(["x"]), lambda: c.delete(["d1"]), c.compact, c.repair, lambda: c.update(["x"])):
            with pytest.raises(BadInput, match="reading only"):
                write()


def test_a_reader_sees_writes_after_refresh_only(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as writer:
        writer.add(records(5))
        with inlay.open(path, encoder=Words(), mode="r") as reader:
            assert len(reader) == 5
            before = answers(reader, WORDS[0])
            writer.delete(["d0"])
            writer.add(records(5, seed=3, start=10))
            writer.compact()
            assert len(reader) == 5
            assert reader.get("d0") is not None
            assert reader.get("d11") is None
            assert answers(reader, WORDS[0]) == before
            reader.refresh()
            assert len(reader) == 9
            assert reader.get("d0") is None
            assert answers(reader, WORDS[0]) == answers(writer, WORDS[0])


def test_settings_are_a_dictionary_that_stays(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        assert dict(c.settings) == {}
        c.settings["folder"] = "/x"
        c.settings["n"] = {"a": [1, None]}
        with pytest.raises(KeyError):
            c.settings["nope"]
        with pytest.raises(KeyError):
            del c.settings["nope"]
        for key, value in (("x", object()), (3, 1), ("nan", float("nan")), ("\ud800", 1)):
            with pytest.raises(BadInput):
                c.settings[key] = value
    with inlay.open(path, mode="r") as c:
        assert dict(c.settings) == {"folder": "/x", "n": {"a": [1, None]}}
        assert len(c.settings) == 2
        assert c.info()["settings"]["folder"] == "/x"
        with pytest.raises(BadInput):
            c.settings["x"] = 1
    with inlay.open(path, encoder=False) as c:
        del c.settings["n"]
        assert list(c.settings) == ["folder"]


def test_info(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(7))
        info = c.info()
        assert (info["documents"], info["passages"], info["deleted_rows"]) == (7, 7, 0)
        assert info["spaces"]["dense"]["dim"] == 24
        assert info["spaces"]["dense"]["rows"] == 7
        assert info["spaces"]["dense"]["pending"] == 0
        assert info["bytes"] > 1000
        import json

        json.dumps(info)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_dtypes_of_stored_vectors(path: Path, dtype: str) -> None:
    if dtype == "int8":
        pytest.importorskip("inlay.codecs.scalar")
    texts = records(60)
    with inlay.open(path, encoder=Words(64), dtype=dtype) as c:
        c.add(texts[:30])
        c.add(texts[30:])
        c.delete(["d5"])
        c.compact()
        names, rows = c.vectors()
        exact = Words(64).encode_document([t["text"] for t in texts if t["id"] != "d5"])
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        assert [name for name, _ in names] == [t["id"] for t in texts if t["id"] != "d5"]
        np.testing.assert_allclose(rows, exact, atol={"float32": 1e-6, "float16": 1e-3, "int8": 6e-3}[dtype])
        hit = c.search(texts[40]["text"], mode="dense")[0]
        assert hit.score == pytest.approx(1, abs=0.02)
        assert c.get(hit.id).text.split().sort() == texts[40]["text"].split().sort()


# -- vectors of one's own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_that_the_user_brings(path: Path, metric: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 8)).astype(np.float32)
    query = rng.standard_normal(8).astype(np.float32)
    with inlay.open(path, encoder=False, metric=metric) as c:
        assert c.add(records(20), vectors=rows[:20]).added == 20
        assert c.add(records(20, start=20, seed=1), vectors=rows[20:].tolist()).added == 20
        found = c.search(vector=query, k=40)
        norm = np.linalg.norm
        scores = {
            "cosine": rows @ query / (norm(rows, axis=1) * norm(query)),
            "dot": rows @ query,
            "l2": -((rows - query) ** 2).sum(axis=1),
        }[metric]
        assert [h.id for h in found] == [f"d{i}" for i in np.argsort(-scores, kind="stable")]
        np.testing.assert_allclose([h.score for h in found], np.sort(scores)[::-1], rtol=2e-4, atol=1e-5)
        assert {h.id for h in c.search(vector=query, where={"n": {"$lt": 3}})} == {"d0", "d1", "d2"}
        both = c.search(WORDS[0], vector=query, k=5)
        assert any("dense" in h.spaces for h in both)
        assert any("lexical" in h.spaces for h in c.search(WORDS[0], vector=query, k=40))
        assert {s for h in c.search(WORDS[0]) for s in h.spaces} == {"lexical"}, "no vector, no dense list"
        with pytest.raises(BadInput, match="vector="):
            c.search(WORDS[0], mode="dense")
        with pytest.raises(BadInput, match="vectors="):
            c.add(["no vector"])
        names, stored = c.vectors()
        assert names == [(f"d{i}", 0) for i in range(40)]
        kept = rows / norm(rows, axis=1)[:, None] if metric == "cosine" else rows
        np.testing.assert_allclose(stored, kept, atol=1e-6)
        assert c.verify() == []
    with inlay.open(path) as c:
        assert [h.id for h in c.search(vector=query, k=40)] == [h.id for h in found]
        report = c.update(records(2), vectors=[rows[0], rows[5]])
        assert (report.unchanged, report.updated) == (1, 1)
        assert c.verify() == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_background_of_a_query_is_that_of_the_rows_alive(path: Path, metric: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    rows = (rng.standard_normal((900, 8)) + 1).astype(np.float32)
    query = rng.standard_normal(8).astype(np.float32)
    with inlay.open(path, encoder=False, metric=metric, dtype=dtype) as c:
        for start, stop in ((0, 30), (30, 400), (400, 900)):
            c.add(vectors=rows[start:stop], ids=[f"d{i}" for i in range(start, stop)])
        for alive, tolerance in ((range(900), 0.12), (range(800, 900), 0.03)):  # 512 of 900 rows, then all of 100
            c.delete([document.id for document in c if int(document.id[1:]) not in alive])
            kept = rows[list(alive)]
            if metric == "cosine":
                kept = kept / np.linalg.norm(kept, axis=1, keepdims=True)
            scores = -((kept - query) ** 2).sum(axis=1) if metric == "l2" else kept @ query
            mean, deviation = c._snapshot.view("dense").background(query)
            assert mean == pytest.approx(scores.mean(), abs=tolerance * float(scores.std()))
            assert deviation == pytest.approx(float(scores.std()), rel=tolerance)


def test_vectors_that_know_nothing_do_not_drown_the_words(path: Path) -> None:
    rng = np.random.default_rng(2)
    texts = [f"{a} {b} {c}" for a in WORDS[:20] for b in WORDS[:20] for c in WORDS[20:]]
    noise = rng.standard_normal((len(texts), 64)).astype(np.float32)
    with inlay.open(path, encoder=False) as c:
        c.add([{"id": str(i), "text": text} for i, text in enumerate(texts)], vectors=noise)
        for query in (f"{WORDS[0]} {WORDS[1]}", f"{WORDS[4]} {WORDS[5]}"):
            best = c.search(query, vector=rng.standard_normal(64), k=3)
            both = sorted(query.split())
            assert [sorted(set(hit.text.split()) & set(both)) for hit in best] == [both] * 3
        assert c.search(WORDS[0], vector=noise[37], k=1)[0].id == "37", "what is met to the point comes first"


def test_vectors_alone(path: Path) -> None:
    with inlay.open(path) as c:  # nobody asked for an encoder: the vectors decide
        c.add(vectors=np.eye(4), ids=["a", "b", "c", "d"])
        assert c.search(vector=[0, 1, 0, 0], k=1)[0].id == "b"
        assert c.get("a").text == ""
        report = c.add(vectors=np.eye(4)[:1])
        assert report.added == 1
        assert len(c) == 5
        assert c.verify() == []
        c.compact()
        assert c.verify() == []


def test_vectors_after_all_documents_are_gone(path: Path) -> None:
    with inlay.open(path) as c:
        c.add(records(4))
        c.delete([d.id for d in c])
        c.add(vectors=np.eye(4), ids=list("abcd"))
        assert c.search(vector=[0, 0, 1, 0], k=1)[0].id == "c"
        assert c.verify() == []


def test_bad_vectors_are_named_and_the_rest_goes_in(path: Path) -> None:
    rows = np.eye(5, dtype=np.float32)
    rows[1, 1], rows[3, 0] = np.nan, np.inf
    with inlay.open(path, encoder=False) as c:
        report = c.add(["a", "b", "c", "d", "e"], vectors=rows, ids=list("abcde"))
        assert report.added == 3
        assert [f.id for f in report.failed] == ["b", "d"]
        assert "NaN or infinite" in report.failed[0].reason
        for name, place in (("a", 0), ("c", 2), ("e", 4)):
            assert c.search(vector=np.eye(5)[place], k=1)[0].id == name
        assert c.verify() == []


# -- spaces --------------------------------------------------------------------------------------------------------


def test_another_model_is_refused_unless_a_map_leads_there(path: Path) -> None:
    with inlay.open(path, encoder=Words(24, seed=0)) as c:
        c.add(records(10))
        before = answers(c, WORDS[0], mode="dense")
    for other in (Words(24, seed=1), Words(32), "numen?dim=24"):
        with pytest.raises(SpaceMismatch, match="words-24-0"):
            inlay.open(path, encoder=other)
    same_rows = Words(24, seed=0)
    same_rows.space = Words(24, seed=1).space  # as if drift had been compensated exactly
    through = Scaled()
    with inlay.open(path, encoder=same_rows, space_map=through) as c:
        assert answers(c, WORDS[0], mode="dense") == before
        assert through.seen == 1
        # Documents of the new model must not be stored beside those of the old one.
        c.add([{"id": "later", "text": "kaban kaban"}])
        assert same_rows.documents == []
        assert c.search("kaban", where={"n": {"$exists": False}}, mode="lexical")[0].id == "later"
        assert c.verify() == []
    with inlay.open(path, encoder=Words(24, seed=0)) as c:
        assert c.search("kaban kaban", 1, mode="dense")[0].id == "later"
        assert c.verify() == []


def test_vectors_of_another_width_or_origin_are_refused(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add(vectors=np.eye(3))
        with pytest.raises(SpaceMismatch, match="4 dimensions"):
            c.add(vectors=np.eye(4))
        with pytest.raises(SpaceMismatch, match="2 dimensions"):
            c.search(vector=[1, 2])
    with pytest.raises(SpaceMismatch):
        inlay.open(path, encoder=Words(3))
    other = path.with_name("words.inlay")
    with inlay.open(other, encoder=Words(3)) as c:
        c.add(["x"])
        with pytest.raises(SpaceMismatch, match="another origin"):
            c.add(vectors=np.eye(3))
        with pytest.raises(SpaceMismatch):
            c.search("x", vector=[1, 0])


def test_an_encoder_that_joins_later_covers_what_was_there(path: Path) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add(records(10))
        with pytest.raises(BadInput, match="lexical"):
            c.search("x", mode="dense")
    with inlay.open(path, encoder=Words()) as c:
        c.add([{"id": "new", "text": "a new one"}])
        assert c.verify() == []
        assert len(c.search(WORDS[0], 50, mode="dense")) == 11
    with inlay.open(path, encoder=Words()) as c:
        assert c.verify() == []


def test_writing_without_the_encoder_leaves_its_vectors_for_later(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(5))
    for again in (None, False):
        with inlay.open(path, encoder=again) as c:
            c.add([f"written without its encoder, {again}"])
            assert c.search("written")[0].spaces.keys() == {"lexical"}
            assert c.verify() == []
            with pytest.raises(InlayError, match="encoder"):
                c.embed()
    with inlay.open(path, encoder=Words()) as c:
        assert c.info()["spaces"]["dense"]["pending"] == 0
        assert len(c.search("x", 50, mode="dense")) == 7
        assert c.verify() == []


# -- lazy vectors --------------------------------------------------------------------------------------------------


def test_an_expensive_encoder_is_asked_for_the_best_candidates_only(path: Path) -> None:
    slow = Words(expensive=True)
    with inlay.open(path, encoder=slow) as c:
        c.add(records(200))
        assert slow.documents == [], "adding does not wait for the encoder"
        assert c.info()["spaces"]["dense"]["pending"] == 200
        hits = c.search(WORDS[20], 5, rerank=10)
        assert 0 < len(slow.documents) <= 10
        assert all(hit.reranked for hit in hits if "dense" in hit.spaces)
        assert any(hit.reranked for hit in hits)
        asked = len(slow.documents)
        assert answers(c, WORDS[20], 5, rerank=10) == [(h.id, h.chunk, round(h.score, 5)) for h in hits]
        assert len(slow.documents) == asked, "made once, kept"
        assert c.info()["spaces"]["dense"]["pending"] == 200 - asked
        assert c.search(WORDS[20], 5, rerank=0)
        assert len(slow.documents) == asked
        assert not any(h.reranked for h in c.search(WORDS[20], 5, mode="lexical"))
        assert c.verify() == []
    slow = Words(expensive=True)
    with inlay.open(path, encoder=slow) as c:
        c.search(WORDS[20], 5, rerank=10)
        assert slow.documents == [], "kept across reopening"
        assert c.embed(limit=50) == 50
        assert c.info()["spaces"]["dense"]["pending"] == 150 - asked
        assert c.embed() == 150 - asked
        assert c.embed() == 0
        assert len(slow.documents) == 200 - asked
        lazy = [answers(c, q, 10, mode=m) for q in sentences(5, 3, 3) for m in ("dense", "hybrid")]
        assert not any(h.reranked for h in c.search(WORDS[20], 5))
        assert c.verify() == []
    with inlay.open(path.with_name("eager.inlay"), encoder=Words()) as c:
        c.add(records(200))
        assert [answers(c, q, 10, mode=m) for q in sentences(5, 3, 3) for m in ("dense", "hybrid")] == lazy


def test_an_interrupted_embedding_resumes(path: Path) -> None:
    class Stops(Words):
        def encode_document(self, items: Any, **options: Any) -> Any:
            if len(self.documents) >= 128:
                raise KeyboardInterrupt
            return super().encode_document(items, **options)

    slow = Stops(expensive=True)
    with inlay.open(path, encoder=slow) as c:
        c.add(records(300))
        with pytest.raises(KeyboardInterrupt):
            c.embed()
        assert c.info()["spaces"]["dense"]["pending"] == 300 - 128
        assert c.verify() == []
    slow = Words(expensive=True)
    with inlay.open(path, encoder=slow) as c:
        assert c.embed() == len(slow.documents) == 300 - 128
        assert c.verify() == []


def test_a_reader_embeds_candidates_without_keeping_them(path: Path) -> None:
    with inlay.open(path, encoder=Words(expensive=True)) as c:
        c.add(records(50))
    slow = Words(expensive=True)
    with inlay.open(path, encoder=slow, mode="r") as reader:
        hits = reader.search(WORDS[3], 5, rerank=8)
        assert any(h.reranked for h in hits)
        asked = len(slow.documents)
        assert 0 < asked <= 8
        assert reader.search(WORDS[3], 5, rerank=8) == hits
        assert len(slow.documents) == asked, "remembered while it is open"
        assert reader.info()["spaces"]["dense"]["pending"] == 50
        reader.refresh()
        assert reader.search(WORDS[3], 5, rerank=8) == hits


def test_embedding_in_the_background_lets_searches_through(path: Path) -> None:
    with inlay.open(path, encoder=Words(expensive=True)) as c:
        c.add(records(400))
        assert c.embed(background=True) == 0
        while c.info()["spaces"]["dense"]["pending"]:
            assert c.search(WORDS[1], 3)
        assert len(c.search(WORDS[1], 400, mode="dense")) == 400
        assert c.verify() == []
    with inlay.open(path.with_name("cut.inlay"), encoder=Words(expensive=True)) as c:
        c.add(records(400))
        c.embed(background=True)
    with inlay.open(path.with_name("cut.inlay"), encoder=Words(expensive=True)) as c:
        assert c.verify() == []


def test_lazy_vectors_of_changed_and_deleted_documents(path: Path) -> None:
    slow = Words(expensive=True)
    with inlay.open(path, encoder=slow) as c:
        c.add(records(20))
        c.search(WORDS[0], rerank=5)
        c.update([{"id": f"d{i}", "text": f"{WORDS[0]} anew {i}"} for i in range(8)])
        c.delete([f"d{i}" for i in range(6, 12)])
        assert c.verify() == []
        c.embed()
        assert c.verify() == []
        assert len(c.search("anew", 50, mode="dense")) == 14


def test_another_process_deletes_what_a_lazy_search_is_about_to_embed(path: Path) -> None:
    with inlay.open(path, encoder=Words(expensive=True)) as c:
        c.add(records(30))
    stale = inlay.open(path, encoder=Words(expensive=True))
    assert len(stale) == 30
    with inlay.open(path, encoder=Words(expensive=True)) as other:
        other.delete([f"d{i}" for i in range(0, 30, 2)])
    found = stale.search(WORDS[0], 30)
    assert {h.id for h in found} <= {f"d{i}" for i in range(1, 30, 2)}
    assert stale.verify() == []
    stale.close()


# -- verify and repair ---------------------------------------------------------------------------------------------


def _segment(path: Path, space: str) -> Path:
    (name,) = catalog(
        path, "SELECT segment FROM segments JOIN spaces USING(space) WHERE name=? AND data IS NULL LIMIT 1", space
    )[0]
    return path / "segments" / name


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


@pytest.mark.parametrize("space", ["lexical", "dense"])
@pytest.mark.parametrize("damage", ["flip", "flip sums", "truncate", "empty", "delete file", "delete folder"])
def test_damaged_segments_are_noticed_and_made_again(path: Path, on_disk: None, space: str, damage: str) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(60))
        c.add(records(60, seed=1, start=60))
        c.delete(["d7"])
        expected = [answers(c, q, 20, mode=m) for q in sentences(4, 2, 3) for m in ("lexical", "dense", "hybrid")]
    folder = _segment(path, space)
    file = folder / "rows.safetensors"
    match damage:
        case "flip":
            _flip(file)
        case "flip sums":
            _flip(folder / "checksums.json")
        case "truncate":
            file.write_bytes(file.read_bytes()[:-100])
        case "empty":
            file.write_bytes(b"")
        case "delete file":
            file.unlink()
        case "delete folder":
            for entry in folder.iterdir():
                entry.unlink()
            folder.rmdir()
    with inlay.open(path, encoder=Words()) as c:
        with pytest.raises(Corrupt, match="inlay doctor"):
            [c.search(q) for q in sentences(4, 2, 3)]
        problems = c.verify()
        assert len(problems) == 1
        assert folder.name in problems[0]
        done = c.repair()
        assert any(space in line for line in done)
        assert c.verify() == []
        assert [
            answers(c, q, 20, mode=m) for q in sentences(4, 2, 3) for m in ("lexical", "dense", "hybrid")
        ] == expected
        assert c.repair() == []


def test_vectors_of_ones_own_cannot_be_made_again_and_repair_says_whose(path: Path, on_disk: None) -> None:
    with inlay.open(path, encoder=False) as c:
        c.add(["keep one"], vectors=[[1, 0]], ids=["kept"])
        c.add(["x", "y"], vectors=[[0, 1], [1, 1]], ids=["lost1", "lost2"])
    rows = catalog(path, "SELECT segment FROM segments JOIN spaces USING(space) WHERE name='dense' ORDER BY 1")
    for (name,) in rows:
        file = path / "segments" / name / "rows.safetensors"
        if catalog(path, "SELECT rows FROM segments WHERE segment=?", name) == [(2,)]:
            _flip(file)
    with inlay.open(path) as c:
        assert c.verify()
        done = " ".join(c.repair())
        assert "lost1" in done
        assert "lost2" in done
        assert [d.id for d in c] == ["kept"]
        assert c.verify() == []
        assert c.search(vector=[1, 0])[0].id == "kept"


def test_repair_without_the_encoder_leaves_the_rows_pending(path: Path, on_disk: None) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(10))
    _flip(_segment(path, "dense") / "rows.safetensors")
    with inlay.open(path, encoder=False) as c:
        c.repair()
        assert c.verify() == []
        assert c.search(WORDS[0])
    with inlay.open(path, encoder=Words()) as c:
        assert len(c.search("x", 50, mode="dense")) == 10


def test_verify_notices_rows_that_do_not_add_up(path: Path) -> None:
    with inlay.open(path, encoder=Words()) as c:
        c.add(records(10))
        c.add(records(10, start=10))
        with c._catalog.write():
            c._catalog.run("DELETE FROM segments WHERE rowid=(SELECT max(rowid) FROM segments)")
        c.refresh()
        assert any("no row" in problem for problem in c.verify())
        with c._catalog.write():
            c._catalog.run("DELETE FROM fields WHERE doc=1")
        assert any("filter index" in problem for problem in c.verify())
        c.repair()
        assert c.verify() == []
        assert len(c.search("x", 50, mode="dense")) == 20


def test_what_is_no_collection_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("x")
    for path, mode in ((file, "a"), (folder, "a"), (tmp_path / "none", "r"), (file / "below", "a")):
        with pytest.raises(BadInput):
            inlay.open(path, encoder=False, mode=mode)
    assert not (tmp_path / "none").exists()
    fake = tmp_path / "fake.inlay"
    fake.mkdir()
    (fake / "catalog.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(Corrupt):
        inlay.open(fake, encoder=False)


# -- anything, in any order ----------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """A collection lives beside a dictionary, and they must agree."""

    names = st.sampled_from([f"id{i}" for i in range(12)])
    texts = st.lists(st.sampled_from(WORDS[:10]), min_size=1, max_size=40).map(" ".join)
    documents = st.lists(st.tuples(names, texts, st.integers(0, 3)), max_size=6)

    @initialize(inline=st.sampled_from([0, segments.INLINE]))
    def begin(self, inline: int) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.inline, segments.INLINE = segments.INLINE, inline
        self.path = Path(self.folder.name) / "c.inlay"
        self.model: dict[str, tuple[str, dict[str, Any]]] = {}
        self.open()

    def open(self) -> None:
        self.c = inlay.open(self.path, encoder=Words(8), chunk=64)

    @rule(batch=documents)
    def add(self, batch: list[tuple[str, str, int]]) -> None:
        report = self.c.add([{"id": name, "text": text, "n": n} for name, text, n in batch])
        added = 0
        for name, text, n in batch:
            if name not in self.model:
                self.model[name] = (text, {"n": n})
                added += 1
        assert report.added == added
        assert len(report.failed) == len(batch) - added

    @rule(batch=documents)
    def update(self, batch: list[tuple[str, str, int]]) -> None:
        report = self.c.update([{"id": name, "text": text, "n": n} for name, text, n in batch])
        assert report.failed == []
        self.model |= {name: (text, {"n": n}) for name, text, n in batch}

    @rule(names=st.lists(names, max_size=5))
    def delete(self, names: list[str]) -> None:
        gone = set(names) & set(self.model)
        assert self.c.delete(names) == len(gone)
        for name in gone:
            del self.model[name]

    @rule()
    def compact(self) -> None:
        self.c.compact()

    @rule()
    def reopen(self) -> None:
        self.c.close()
        self.open()

    @rule(query=st.sampled_from(WORDS[:12]), n=st.none() | st.integers(0, 3))
    def search(self, query: str, n: int | None) -> None:
        where = None if n is None else {"n": n}
        stem = Analyzer().terms(query)[0]
        expected = {
            name
            for name, (text, metadata) in self.model.items()
            if stem in Analyzer().terms(text) and (n is None or metadata["n"] == n)
        }
        assert {h.id for h in self.c.search(query, 100, where=where, mode="lexical")} == expected
        dense = self.c.search(query, 100, where=where, mode="dense")
        assert {h.id for h in dense} == {m for m, (_, d) in self.model.items() if n is None or d["n"] == n}

    @precondition(lambda self: hasattr(self, "c"))
    @invariant()
    def agrees(self) -> None:
        assert len(self.c) == len(self.model)
        assert {d.id: (d.text, d.metadata) for d in self.c} == self.model
        assert self.c.verify() == []

    def teardown(self) -> None:
        if hasattr(self, "c"):
            self.c.close()
            segments.INLINE = self.inline
            self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
