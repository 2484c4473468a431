"""The registry of reproductions, their results, the table made of them, and the two commands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from inlay import reproductions
from inlay.cli.evaluate import command as evaluate_command
from inlay.cli.reproduce import command
from inlay.errors import BadInput, Corrupt
from inlay.evaluation import Run, evaluate, limit, per_query
from inlay.evaluation.limit_set import limit_with_distractors
from inlay.evaluation.retrieval import Result as Evaluation
from inlay.evaluation.retrieval_set import RetrievalSet
from inlay.reproductions.result import Figure, Result, read_results, table


def example(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "name": "example",
        "title": "Example | method",
        "room": "indexes",
        "source": "A paper (arXiv 0000.00000, 2020)",
        "claim": "twice as good",
        "paper": "80 against 40",
        "metric": "recall@10",
        "baseline": Figure("BM25", 0.5),
        "method": Figure("ours", 0.75),
        "data": "twelve sentences",
        "verdict": "partly",
        "detail": "Half as much again, not twice.",
        "seconds": 1.26,
        "seeds": (1, 2),
    }
    return Result(**(values | changes))


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


# --- results and the registry -----------------------------------------------------------------------------------------


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = example(figures={"curve": [1, 2]})
    path = result.write(tmp_path / "results")
    assert path == tmp_path / "results" / "example.json"
    values = json.loads(path.read_text())
    assert values["baseline"] == {"name": "BM25", "value": 0.5}
    assert {"claim", "paper", "method", "metric", "data", "seconds", "verdict", "seeds", "version"} <= set(values)
    (again,) = read_results(path.parent)
    assert again == example(figures={"curve": [1, 2]}, seconds=1.3)


def test_other_json_is_left_aside_and_broken_json_is_named(tmp_path: Path) -> None:
    example().write(tmp_path)
    (tmp_path / "bench.json").write_text('{"ratio": 2}')
    assert [result.name for result in read_results(tmp_path)] == ["example"]
    (tmp_path / "other.json").write_text('{"verdict": "shown"}')
    with pytest.raises(Corrupt, match="inlay reproduce other"):
        read_results(tmp_path)


def test_a_verdict_is_one_of_three() -> None:
    with pytest.raises(BadInput, match="verdict 'proven'"):
        example(verdict="proven")


def test_the_table_has_a_row_and_a_reason_for_each(tmp_path: Path) -> None:
    page = table([example(), example(name="b", title="B", verdict="not shown")])
    assert "2 methods: 0 shown, 1 partly, 1 not shown." in page
    row = next(line for line in page.splitlines() if "`example`" in line)
    assert row.replace("\\|", "").count("|") == 8
    assert "ours **0.75**, BM25 0.5" in row
    assert page.count("Half as much again, not twice.") == 2


def test_every_reproduction_keeps_the_contract() -> None:
    assert "numen" in reproductions.names()
    for name in reproductions.names():
        module = reproductions.reproduction(name)
        assert module.__doc__, name
        assert isinstance(module.PAPER, str), name
        assert callable(module.run), name
    with pytest.raises(BadInput, match="did you mean 'numen'"):
        reproductions.reproduction("numenn")
    with pytest.raises(BadInput, match="--list"):
        reproductions.reproduction("xyzzy")


def test_data_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INLAY_DATA", raising=False)
    with pytest.raises(BadInput, match="INLAY_DATA"):
        reproductions.data_folder()
    monkeypatch.setenv("INLAY_DATA", str(tmp_path / "gone"))
    with pytest.raises(BadInput, match="does not exist"):
        reproductions.data_folder()
    assert reproductions.data_folder(tmp_path) == tmp_path


# --- inlay reproduce --------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two reproductions that only note how they were called."""
    calls: list[dict[str, Any]] = []

    def module(name: str) -> Any:
        def run(data: Path, **options: Any) -> Result:
            calls.append({"name": name, "data": data, **options})
            return example(name=name, seeds=options.get("seeds", (0,)))

        return SimpleNamespace(run=run, PAPER=f"Paper of {name}")

    known = {"one": module("one"), "two": module("two")}
    monkeypatch.setattr(reproductions, "names", lambda: sorted(known))
    monkeypatch.setattr(reproductions, "reproduction", known.__getitem__)
    return calls


def test_reproduce_runs_keeps_and_tabulates(scripted: list[dict[str, Any]], tmp_path: Path) -> None:
    places = ["--data", str(tmp_path), "--results", str(tmp_path / "r"), "--page", str(tmp_path / "d" / "systems.md")]
    shown = invoke("one", "--seed", "3", "--seed", "4", *places)
    assert shown.exit_code == 0
    assert "partly" in shown.output
    assert scripted[0]["seeds"] == (3, 4)
    assert json.loads(invoke("one", "--json", *places).stdout)["name"] == "one"
    several = json.loads(invoke("one", "two", "one", "--json", "--table", *places).stdout)
    assert [found["name"] for found in several] == ["one", "two"]
    assert "`two`" in (tmp_path / "d" / "systems.md").read_text()
    assert "seeds" not in scripted[1], "without --seed a method uses its own"
    assert invoke("--list").output.splitlines() == ["one  Paper of one", "two  Paper of two"]
    assert json.loads(invoke("--list", "--json").output)[1] == {"name": "two", "paper": "Paper of two"}
    assert invoke().exit_code == 2


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        invoke("--table", "--results", str(tmp_path / "none"))


# --- a data set through a collection ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> RetrievalSet:
    return limit(60, 40, pattern="random", seed=1)


@pytest.fixture(scope="module")
def folder(people: RetrievalSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("people")
    people.save(place)
    return place


def test_lexical_search_finds_who_likes_what(people: RetrievalSet) -> None:
    found = evaluate(people, mode="lexical")
    assert isinstance(found, Evaluation)
    assert found.measures["recall@100"].mean == 1.0
    assert found.measures["ndcg@10"].mean == 1.0, "each thing is one word, which only the relevant people have"
    assert (found.documents, found.queries, found.encoder) == (60, 40, None)
    assert found.run.keys() == people.queries.keys()
    values = found.to_dict()
    assert values["ndcg@10_interval"] == [1.0, 1.0]
    assert values["seconds"] >= values["index_seconds"] + values["search_seconds"] - 0.01


class Letters:
    """An encoder of letter counts: bad, quick, and dense."""

    expensive = False

    def __init__(self) -> None:
        from inlay.types import Space

        self.space = Space("dense", 26, "cosine", "letters-1")

    def encode_document(self, items: Any, **options: Any) -> np.ndarray:
        codes = [[text.lower().count(chr(97 + i)) for i in range(26)] for text in items]
        return np.array(codes, dtype=np.float32)

    encode_query = encode_document


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_an_encoder_takes_part(people: RetrievalSet, mode: Any) -> None:
    lexical = evaluate(people, mode="lexical").run
    found = evaluate(people, mode=mode, encoder=Letters(), baseline=lexical)
    assert found.encoder == "Letters"
    assert found.measures["recall@100"].mean == 1.0, "100 answers hold all 60 documents"
    assert found.differences["ndcg@10"].mean < 0, "letters know less than words"
    assert found.to_dict()["baseline"] == lexical.name


def test_refused_documents_are_counted_and_not_fatal(people: RetrievalSet) -> None:
    corpus = [*people.corpus, {"id": "blank", "title": "", "text": " "}]
    data = RetrievalSet(corpus, people.queries, people.qrels)
    found = evaluate(data, mode="lexical")
    assert list(found.failed) == ["blank"]
    assert found.documents == 60


def test_bad_requests(people: RetrievalSet) -> None:
    with pytest.raises(BadInput, match="mode 'fuzzy'"):
        evaluate(people, mode="fuzzy")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="k must be"):
        evaluate(people, k=0)


def test_eval_prints_one_object_and_writes_a_run(people: RetrievalSet, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "a.run"
    said = CliRunner().invoke(evaluate_command, [str(folder), "--mode", "lexical", "--json", "--run", str(run)])
    assert said.exit_code == 0, said.output
    values = json.loads(said.stdout)
    for key in ("ndcg@10", "recall@100", "mrr@10"):
        low, high = values[f"{key}_interval"]
        assert low <= values[key] <= high
    assert {"queries", "documents", "seconds", "dataset", "mode", "encoder"} <= set(values)
    again = per_query(Run.read(run), people.qrels, ["ndcg@10"])["ndcg@10"].mean()
    assert again == pytest.approx(values["ndcg@10"]), "ids with spaces came through the file"


def test_eval_compares_with_a_run(folder: Path, tmp_path: Path, people: RetrievalSet) -> None:
    worse = Run({query: {people.ids[0]: 1.0} for query in people.queries}, "first")
    worse.write(tmp_path / "worse.run")
    options = ["--mode", "lexical", "--baseline", str(tmp_path / "worse.run")]
    said = CliRunner().invoke(evaluate_command, [str(folder), *options])
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    head = next(line for line in lines if line.startswith("measure"))
    assert "− first" in head
    assert all(line.split()[4].startswith("1.0") for line in lines if line.startswith("ndcg"))
    values = json.loads(CliRunner().invoke(evaluate_command, [str(folder), *options, "--json"]).stdout)
    assert values["differences"]["ndcg@10"]["p"] < 0.001


# --- the first entry --------------------------------------------------------------------------------------------------


def test_numen_answers_are_exact_over_shards(people: RetrievalSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from inlay.encoders.bm25 import BM25
    from inlay.encoders.numen import Numen
    from inlay.reproductions.indexes import numen

    for make in (lambda: Numen(512, output="sparse"), BM25):
        monkeypatch.setattr(numen, "SHARD", 7)
        apart = numen._answers(people, make(), k=20)
        monkeypatch.setattr(numen, "SHARD", 1000)
        whole = numen._answers(people, make(), k=20)
        for query in people.queries:  # sums in another order differ in their last bit, so near ties may swap
            assert sorted(apart[query].values()) == pytest.approx(sorted(whole[query].values()), abs=1e-5)
            assert apart.top(query, 2) == whole.top(query, 2)


@pytest.mark.skipif(not os.environ.get("INLAY_DATA"), reason="needs the data sets: set INLAY_DATA")
def test_numen_gains_with_width_on_real_data() -> None:
    from inlay.encoders.numen import Numen
    from inlay.reproductions.indexes import numen

    data = limit_with_distractors(Path(os.environ["INLAY_DATA"]) / "limit_small", 1000)
    narrow, wide = (
        per_query(numen._answers(data, Numen(dim, output="sparse")), data.qrels, ["recall@10"])["recall@10"].mean()
        for dim in (512, 32_768)
    )
    assert wide > narrow + 0.15
