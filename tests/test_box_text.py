"""English that a machine has: what each reader takes from its files, and what it leaves."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from inlay.training.box_text import READERS, concepts, english, gather, ontology, sayings, speeches, spoken, vignette


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_people_say_in_games(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "scene.cfg",
        """
        [message]
            speaker=narrator
            image="units/human-loyalists/knight.png with a long name indeed"
            message= _ "The old bridge will not hold all of us.\\nGo first, \\"little\\" one."
        [/message]
        name="The name of a thing"
        say `"We have waited here since the winter, and nobody came to ask for us."`
        count="There are <number> of them waiting for you in the hall."
        """,
    )
    said = " ".join(spoken(path))
    assert "The old bridge will not hold all of us. Go first, " in said
    assert '"little" one.' in said
    assert "We have waited here since the winter" in said
    for left in ("knight.png", "name of a thing", "<number>", "speaker"):
        assert left not in said
    assert not list(spoken(written(tmp_path, "scene.png", path.read_text())))


def test_sayings_are_parted_by_percent_signs(tmp_path: Path) -> None:
    text = "A stitch in time\nsaves nine of them.\n%\nTo be is to do.\n\t\t-- Socrates\n%\n"
    assert list(sayings(written(tmp_path, "wise", text))) == [
        "A stitch in time saves nine of them.",
        "To be is to do. -- Socrates",
    ]
    assert not list(sayings(written(tmp_path, "wise.dat", text)))


def test_vignettes_without_code_and_commands(tmp_path: Path) -> None:
    markdown = """---
title: "What the counts say about the samples of it all"
---
# Reads

Reads are counted for every *gene* before the model is fitted, as is told in [the paper](http://a.b/c) [@love2014].

```{r counts}
counts <- as.matrix(read.table("counts of every gene in all of the samples"))
```
"""
    latex = r"""\section{Reads}
% nobody is to read this remark, whatever it may say to us
The \emph{dispersion} of a gene is estimated by a maximum of its likelihood \cite{love2014}, given the means.

<<counts>>=
counts <- as.matrix(read.table("counts of every gene in all of the samples"))
@
"""
    one = list(vignette(written(tmp_path, "a.Rmd", markdown)))
    assert one == ["Reads are counted for every gene before the model is fitted, as is told in the paper ."]
    (two,) = vignette(written(tmp_path, "b.Rnw", latex))
    assert "dispersion of a gene is estimated by a maximum of its likelihood , given the means." in two
    assert "cite" not in two
    assert "nobody" not in two


def test_speeches_are_those_in_the_public_domain(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl.gz"
    with gzip.open(path, "wt") as lines:
        for kind, text in (
            ("brown", "Nobody may use this."),
            ("inaugural", "Fellow citizens of ours.\nThe oath is said."),
        ):
            lines.write(json.dumps({"_id": kind, "source": kind, "text": text}) + "\n")
    assert list(speeches(path)) == ["Fellow citizens of ours.", "The oath is said."]


def test_files_are_found_where_packages_put_them(tmp_path: Path) -> None:
    there = {
        "stories": "usr/share/games/wesnoth/1.16/data/scene.cfg",
        "fortunes": "usr/share/games/fortunes/wisdom",
        "vignettes": "usr/lib/R/site-library/DESeq2/doc/DESeq2.Rmd",
    }
    for name, at in there.items():
        written(tmp_path, at, "x")
        assert [
            path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(READERS[name][0]) if path.is_file()
        ] == [at]


def test_a_folder_among_the_files_is_no_reason_to_stop(tmp_path: Path) -> None:
    folder = tmp_path / "data.cfg"
    folder.mkdir()
    path = written(tmp_path, "told.txt", 'say "There is nothing in this valley but the wind and us."')
    assert gather(spoken, [folder, path], 5, english) == ["There is nothing in this valley but the wind and us."]


def test_damaged_files_are_no_reason_to_stop(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"source": "inaugural", "text": "Fellow citizens of ours."}\n' * 50)
    damaged = [tmp_path / f"{name}.gz" for name in ("cut", "turned", "other", "no")]
    for path, data in zip(damaged, (whole[:-12], whole[:15] + b"\xff" * 30, gzip.compress(b'{"text": "x"}\n'), b"no")):
        path.write_bytes(data)
    good = written(tmp_path, "good.jsonl.gz", "")
    good.write_bytes(whole)
    assert gather(speeches, [*damaged, good], 5) == ["Fellow citizens of ours."]


OBO = r"""format-version: 1.2

[Term]
id: X:1
name: Multicystic kidney dysplasia
def: "Many \"cysts\" in the kidney.\nIt does not work." [ORCID:1]
comment: It can be seen before birth. It is mostly on one side.
synonym: "Multicystic kidneys" EXACT layperson []
synonym: "Kidney trouble" BROAD []

[Term]
id: X:2
name: nothing said of it

[Term]
id: X:3
name: negative regulation of cysts
def: "Any process that stops cysts." []

[Typedef]
id: part_of
name: part of
def: "Not a term." []
"""


def test_terms_of_an_ontology_in_its_own_format(tmp_path: Path) -> None:
    path = written(tmp_path, "hp.obo", OBO)
    names = ["Multicystic kidney dysplasia", "Multicystic kidneys"]
    told = 'Many "cysts" in the kidney. It does not work.'
    assert list(concepts(path)) == [(names, told, "It can be seen before birth. It is mostly on one side.")]
    name, definition, *comment = ontology(path)
    assert name in names
    assert definition in (told, f"{name}: {told}")
    assert " ".join(comment) == "It can be seen before birth. It is mostly on one side."


def test_terms_of_an_ontology_in_a_database(tmp_path: Path) -> None:
    path = tmp_path / "GO.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE go_term (_id, go_id, term, ontology, definition)")
        database.execute("CREATE TABLE go_synonym (_id, synonym, secondary, like_go_id)")
        database.executemany(
            "INSERT INTO go_term VALUES (?, ?, ?, 'BP', ?)",
            [(1, "GO:1", "DNA amplification", "More copies\n are made."), (2, "GO:2", "unsaid", None),
             (3, "GO:3", "old", "OBSOLETE. Gone.")],
        )  # fmt: skip
        database.executemany("INSERT INTO go_synonym VALUES (1, ?, NULL, 0)", [("gene doubling",), ("GO:0000007",)])
    assert list(concepts(path)) == [(["DNA amplification", "gene doubling"], "More copies are made.", "")]
    path.write_bytes(b"no database" * 100)
    assert gather(ontology, [path, written(tmp_path, "b.obo", OBO)], 10)
