"""What the box learns from: text below folders, without anything that judges it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from inlay.errors import BadInput
from inlay.training import box_data

SAID = "The lift of wing {0} depends on the angle at which the air of kind {0} meets it, and on the speed of all that."
JUDGED = "A boundary layer thickens as it moves along a flat plate until the flow in it becomes turbulent at last."


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with two packages and a set that judges."""
    for package in ("a-doc", "b-doc"):
        folder = tmp_path / "root/usr/share/doc" / package
        folder.mkdir(parents=True)
        paragraphs = "".join(f"<p>{SAID.format(f'{package} {i}')}</p>" for i in range(40))
        body = (
            f"<h1>The whole of {package}</h1>{paragraphs}<h2>Plates in {package}</h2><p>{JUDGED} " + JUDGED * 3 + "</p>"
        )
        (folder / "index.html").write_text(body)
    judge = tmp_path / "data/judge"
    judge.mkdir(parents=True)
    (judge / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")
    for name, entry in (("corpus", {"_id": "1", "title": "", "text": JUDGED}), ("queries", {"_id": "1", "text": "x"})):
        with gzip.open(judge / f"{name}.jsonl.gz", "wt") as lines:
            lines.write(json.dumps(entry) + "\n")
    monkeypatch.setenv("INLAY_TEXT", str(tmp_path / "root"))
    monkeypatch.setenv("INLAY_DATA", str(tmp_path / "data"))
    kept = tmp_path / "kept"
    kept.mkdir()
    return kept


def test_what_judges_is_not_learnt_from(machine: Path) -> None:
    held, judged = box_data.held_out()
    assert JUDGED in judged
    assert [source.name for source in held] == ["docstring_code"]
    learnt = [text for source in box_data.sources(500, machine, False, judged) for text in source.texts()]
    learnt += [text for source in box_data.pairs(500, machine, False, judged) for text in source.texts()]
    assert any("The lift of wing" in text for text in learnt)
    assert not any("boundary layer thickens as it moves along a flat plate until" in text for text in learnt)


def test_pairs_of_all_packages_are_kept_for_the_next_run(machine: Path) -> None:
    found = box_data.pairs(500, machine, False, [])
    assert {source.name for source in found} == {"sections", "claims"}
    for source in found:
        assert all(example.query and len(example.pos) == 1 for example in source)
    assert len({text for source in found for text in source.texts() if "a-doc" in text}) > 3
    assert len({text for source in found for text in source.texts() if "b-doc" in text}) > 3
    for page in machine.parent.rglob("index.html"):
        page.unlink()
    again = box_data.pairs(500, machine, True, [])
    assert [list(source) for source in again] == [list(source) for source in found]


def test_gathering_that_was_cut_off_begins_again(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*args: object, **named: object) -> str:
        raise KeyboardInterrupt

    for what in (box_data.pairs, box_data.sources):
        with monkeypatch.context() as cutting:
            cutting.setattr(json, "dumps", cut)
            with pytest.raises(KeyboardInterrupt):
                what(500, machine, True, [])
        assert sum(map(len, what(500, machine, True, []))) > 10


@pytest.mark.parametrize("name", ["text.json", "pairs.jsonl.gz"])
def test_what_was_kept_and_is_damaged_is_named(machine: Path, name: str) -> None:
    what = box_data.pairs if name.startswith("pairs") else box_data.sources
    what(500, machine, False, [])
    path = machine / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=rf"{name} is damaged.*remove it"):
        what(500, machine, True, [])
    if name == "text.json":
        path.write_text("[1, 2]")  # JSON, but not of texts by their source
        with pytest.raises(BadInput, match=r"text\.json is damaged"):
            what(500, machine, True, [])


def test_a_machine_without_text_says_what_to_do(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_TEXT", str(tmp_path / "nothing"))
    for what in (box_data.pairs, box_data.sources):
        with pytest.raises(BadInput, match="INLAY_TEXT"):
            what(100, machine, False, [])


def test_no_table_under_a_licence_that_forbids_use_is_read() -> None:
    for name in ("flickr8k", "qqp", "ag_news", "english_text", "stsb"):
        assert not any(name in table for table in box_data.TABLES)
