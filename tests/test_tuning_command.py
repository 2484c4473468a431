"""`inlay tune` on collections: queries of files and of passages, and the command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import inlay
from inlay.cli.tune import command
from inlay.collection import arrangement
from inlay.errors import BadInput
from inlay.evaluation.pseudo_queries import pseudo_queries
from inlay.evaluation.tuning_sample import Question, read_questions, sample_collection
from inlay.indexes.configuration import Configuration


def test_pseudo_queries_take_titles_or_rare_words():
    plain = "The cat sat on the old mat. "
    texts = [plain * 2 + "Quasars emit synchrotron radiation jets. " + plain, plain * 3, "", plain]
    found = pseudo_queries(texts, ["", "", "", "A title"])
    assert found[0].startswith("Quasars")
    assert found[1:] == ["The cat sat on the old mat.", "", "A title"]
    with pytest.raises(BadInput):
        pseudo_queries("text")
    with pytest.raises(BadInput):
        pseudo_queries(["a"], ["a", "b"])


def test_questions_are_read(tmp_path):
    path, qrels = tmp_path / "q.jsonl", tmp_path / "qrels.tsv"
    path.write_text('{"query": "a b", "relevant": ["d1", 2]}\n\nplain words\n{"id": "7", "text": "c"}\n')
    qrels.write_text("7\td9\t2\n")
    assert read_questions(path, qrels) == [
        Question("a b", {"d1": 1, "2": 1}), Question("plain words"), Question("c", {"d9": 2})
    ]  # fmt: skip
    for text, word in [
        ("", "no query"),
        ('{"x": 1}', "expected"),
        ("{", "JSON"),
        ('{"query":"a","relevant":3}', "list"),
    ]:
        path.write_text(text)
        with pytest.raises(BadInput, match=word):
            read_questions(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_questions(tmp_path / "none")


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    path = tmp_path_factory.mktemp("tune") / "notes.inlay"
    words = "river engine planet violin harbour enzyme treaty glacier falcon ledger".split()
    with inlay.open(path, encoder="numen?dim=256") as made:
        made.add(
            {"id": f"d{i}", "text": f"The {words[i % 10]} number {i} meets a {words[i // 10 % 10]}. It is {i % 7} old."}
            for i in range(60)
        )
    return path


def everything(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file() and "shm" not in file.name}


def run(*args):
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=True)


def test_the_command_changes_nothing_and_draws(notes, tmp_path):
    pytest.importorskip("matplotlib")
    before = everything(notes)
    result = run(notes, "--figure", tmp_path / "edge.png", "--sample", 20)
    assert result.exit_code == 0, result.output
    assert "recommended" in result.output
    assert "No queries were given" in result.output
    assert (tmp_path / "edge.png").stat().st_size > 5000
    assert everything(notes) == before


def test_the_command_with_judgments_and_bounds(notes, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "glacier number 7 violin", "relevant": ["d7"]}\n')
    result = run(notes, "--queries", path, "--json", "--budget", "64MB")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["judged"]
    assert found["recommendation"]["bytes"] <= 64e6
    assert found["measure"] == "nDCG@10"
    tight = run(notes, "--queries", path, "--budget", "10B")
    assert tight.exit_code == 1
    assert "nearest takes" in tight.output
    path.write_text("glacier\nviolin\n")
    assert "No query is judged" in run(notes, "--queries", path).output


@pytest.mark.parametrize(
    "bad", [["--budget", "many"], ["--latency", "0ms"], ["--floor", "2"], ["--budget", "5 parsecs"]]
)
def test_the_command_refuses(notes, bad):
    assert run(notes, *bad).exit_code == 2


def test_collections_without_what_is_needed(notes, tmp_path):
    with inlay.open(tmp_path / "a.inlay", encoder=False) as made:
        made.add(["some text"])
        with pytest.raises(BadInput, match="--encoder"):
            sample_collection(made)
        assert sample_collection(made, encoders=["numen?dim=64"]).rows == 1
    with inlay.open(tmp_path / "b.inlay", encoder=False) as made:
        made.add(
            vectors=np.random.default_rng(0).standard_normal((30, 32)).astype(np.float32),
            ids=[f"v{i}" for i in range(30)],
        )
        task = sample_collection(made, rows=20, queries=5)
        assert (task.rows, task.queries, task.total) == (20, 5, 30)
        with pytest.raises(BadInput, match="brought from outside"):
            sample_collection(made, [Question("a")])
    with inlay.open(notes, mode="r") as made:
        with pytest.raises(BadInput, match="check the ids"):
            sample_collection(made, [Question("a", {"nowhere": 1})])
        task = sample_collection(
            made, [Question("river", {"d0": 1}), Question("old", {}), Question("x", {"no": 1})], rows=5
        )
        assert (task.queries, task.rows) == (1, 5)
        assert "d0" in task.documents
        assert len(task.remarks) == 2
        two = sample_collection(
            made, [Question("river number 0", {"d0": 1})], encoders=["numen?dim=64", "numen?dim=128"]
        )
        assert list(two.spaces) == ["numen?dim=64", "numen?dim=128"]


def test_a_path_that_is_not_there_is_not_taken_for_the_index_round_it(notes, tmp_path, monkeypatch):
    from inlay.cli.places import index_of

    monkeypatch.setenv("INLAY_HOME", str(tmp_path / "home"))
    folder = tmp_path / "texts"
    folder.mkdir()
    index = index_of(folder)
    index.parent.mkdir(parents=True)
    notes.rename(index)
    try:
        result = run(folder / "nosuch.inlay")
        assert result.exit_code
        assert "not indexed" in str(result.exception)
    finally:
        index.rename(notes)


@pytest.fixture
def own(notes, tmp_path):
    """A copy that may be written to."""
    return shutil.copytree(notes, tmp_path / "own.inlay")


@pytest.mark.parametrize("judged", [True, False])
def test_what_is_applied_delivers_what_was_promised(own, tmp_path, judged):
    questions = tmp_path / "q.jsonl"
    words = "river engine planet violin harbour enzyme treaty glacier".split()
    lines = [{"query": f"{word} number", "relevant": [f"d{i}"] if judged else []} for i, word in enumerate(words)]
    questions.write_text("\n".join(map(json.dumps, lines)))
    result = run(own, "--queries", questions, "--floor", 0.9, "--apply", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    promised, delivered = found["recommendation"], found["delivered"]
    assert delivered["quality"] == pytest.approx(promised["quality"], abs=1e-4)
    assert promised["bytes"] <= delivered["nbytes"] < delivered["before_nbytes"] + 4096
    assert delivered["ms"] > 0
    with inlay.open(own) as opened:
        assert opened.info()["spaces"]["dense"]["arranged"][0]["codec"] == promised["codec"]
        assert opened.verify() == []
    again = run(own, "--apply")
    assert again.exit_code == 0, again.output
    assert "promised" in again.output


def test_a_sample_promises_for_all(own):
    result = run(own, "--rows", 30, "--sample", 10, "--apply")
    assert result.exit_code == 0, result.output
    assert "delivered" in result.output
    with inlay.open(own, mode="r") as opened:
        assert opened.info()["spaces"]["dense"]["rows"] == 60


def test_nothing_is_applied_that_breaks_a_bound(own):
    before = everything(own)
    result = run(own, "--budget", "10B", "--apply")
    assert result.exit_code == 1
    assert "nothing was changed" in result.output
    assert everything(own) == before


def test_an_unfinished_job_goes_on_or_is_given_up(own):
    for more in ("--abandon", "--apply"):
        with inlay.open(own) as opened, opened._mutex, opened._writing():
            arrangement.begin(opened, Configuration("", "int8"), "")
        result = run(own, more, "--json")
        assert result.exit_code == 0, result.output
        with inlay.open(own, mode="r") as opened:
            assert opened.arrangement is None
            assert bool(opened.info()["spaces"]["dense"]["arranged"]) == (more == "--apply")
    assert "nothing to give up" in run(own, "--abandon").output
    assert run(own, "--abandon", "--apply").exit_code != 0
    assert run(own.parent / "none.inlay", "--apply").exit_code != 0
    assert not (own.parent / "none.inlay").exists()


def test_another_encoder_is_applied(own):
    judged = own.parent / "q.jsonl"
    judged.write_text(json.dumps({"query": "river number", "relevant": ["d0"]}))
    result = run(own, "--queries", judged, "--encoder", "numen?dim=128", "--apply", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["delivered"]["quality"] == pytest.approx(found["recommendation"]["quality"], abs=1e-4)
    with inlay.open(own) as opened:
        assert opened.info()["spaces"]["dense"]["dim"] == 128
        assert opened.search("river number", mode="dense")
