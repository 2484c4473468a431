"""Pairs of a question and its answer, made of what lies on a machine."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from inlay.training.box_pairs import (
    PAIRS,
    claims,
    definitions,
    functions,
    gather_pairs,
    purposes,
    sections,
    summaries,
    terms,
)

PARAGRAPH = "The lift of a wing depends on the angle at which the air meets it, and on the speed of the air itself. "


def test_functions_are_asked_for_by_what_they_do(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "class Shop:\n"
        '    """A class is no answer to what a function does."""\n'
        + "".join(
            f"    def parse_date_{i}(self, text):\n"
            f'        """Turn text number {i} into a date of the calendar."""\n'
            f"        return date({i})\n"
            for i in range(40)
        )
        + "def bare(x):\n    return x\n"
        + 'def only():\n    """There is nothing here but a docstring."""\n'
    )
    found = list(functions(path))
    assert len(found) == 40
    for asked, told in found:
        assert "date" in asked
        assert "def " in told
        if "text number" in asked:  # the summary must not stand in its own answer
            assert "Turn text" not in told
        else:  # nor the name
            assert "def f(self" in told
    assert {"text number" in asked for asked, _ in found} == {True, False}


def test_headings_announce_what_is_below_them(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        f"<h1>Wings</h1><p>{PARAGRAPH * 3}</p><h2>2.1 Angle of attack</h2><p>{PARAGRAPH * 4}</p>"
        f"<h2>run_all() now</h2><p>{PARAGRAPH * 4}</p><h2>Little said</h2><p>No.</p>"
    )
    found = list(sections(path))
    assert [asked.removeprefix("Wings: ") for asked, _ in found] == ["Angle of attack"]
    assert found[0][1].startswith("The lift of a wing")


@pytest.mark.parametrize(
    ("heading", "asked"),
    [("3 Stall speed", "Stall speed"), ("B.2. Stall speed", "Stall speed"), ("HTTP status codes", "HTTP status codes"),
     ("A wing that stalls", "A wing that stalls")],
)  # fmt: skip
def test_only_numbers_are_taken_off_headings(tmp_path: Path, heading: str, asked: str) -> None:
    path = tmp_path / "a.html"
    path.write_text(f"<h1>{heading}</h1><p>{PARAGRAPH * 4}</p>")
    assert [found for found, _ in sections(path)] == [asked]


def test_a_sentence_is_mostly_left_out_of_its_own_passage(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("".join(f"<p>{PARAGRAPH.replace('wing', f'wing of kind {i}')}</p>" for i in range(400)))
    found = list(claims(path))
    assert len(found) > 30
    held = sum(asked in told for asked, told in found)
    assert 0 <= held < 0.3 * len(found)
    assert all(told and asked.startswith("The lift") for asked, told in found)


def test_manuals_say_what_they_are_for(tmp_path: Path) -> None:
    path = tmp_path / "ls.1.gz"
    said = "List information about the files, which are those of the current directory unless others are named here."
    path.write_bytes(gzip.compress(
        f".TH LS 1\n.SH NAME\nls \\- list directory contents\n.SH DESCRIPTION\n.PP\n{said}\n.SH AUTHOR\nX\n".encode()
    ))  # fmt: skip
    assert list(purposes(path)) == [("list directory contents", said)]
    path.write_bytes(gzip.compress(b".SH NAME\nls\n"))
    assert not list(purposes(path))


def test_terms_stand_before_what_they_mean(tmp_path: Path) -> None:
    path = tmp_path / "data.noun"
    path.write_text(
        "  1 a licence line\n"
        '00001740 03 n 02 entity 0 thing(a) 0 000 | that which is perceived to have its own existence; "it is one"\n'
    )
    (first, gloss), (example, told) = terms(path)
    assert first in ("entity", "thing")
    assert gloss == "that which is perceived to have its own existence"
    assert example == "it is one"
    assert told == f"entity, thing: {gloss}"


def test_what_asks_nothing_is_left_out(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i:02}").write_text(f"{i}")

    def reader(path: Path):
        yield "See also", f"passage {path.name}"
        yield f"question {path.name}", f"answer {path.name}"
        yield f"same {path.name}", f"same {path.name}"
        yield " ", "nothing asked"
        yield "x" * 500, "too long a question"

    files = list(tmp_path.iterdir())
    found = gather_pairs(reader, files, 100)
    assert sorted(found) == [(f"question {i:02}", f"answer {i:02}") for i in range(30)]
    assert len(gather_pairs(reader, files, 7)) == 7
    assert gather_pairs(reader, files, 7) == gather_pairs(reader, list(reversed(files)), 7)


def test_shares_are_of_one_whole() -> None:
    assert sum(share for _, _, share in PAIRS.values()) == pytest.approx(1, abs=0.05)
    assert {reader for _, reader, _ in PAIRS.values()} == {
        claims, definitions, functions, purposes, sections, summaries, terms,
    }  # fmt: skip


def test_headwords_of_a_dictionary_stand_before_their_entries(tmp_path: Path) -> None:
    entry, short = (
        "wing\n  A {surface} that is moved through the air, and held up by it. [1913 Webster]",
        "tail\n  End.",
    )
    (tmp_path / "d.dict.dz").write_bytes(gzip.compress(f"{entry}{short}".encode()))
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    start, size = digits[len(entry) // 64] + digits[len(entry) % 64], digits[len(short)]
    (tmp_path / "d.index").write_text(
        f"00databaseinfo\tA\tC\ntail\t{start}\t{size}\nwing\tA\t{digits[len(entry) // 64]}{digits[len(entry) % 64]}\n"
    )
    ((asked, told),) = terms(tmp_path / "d.index")
    assert asked in ("wing", "what is wing")
    assert told == "wing A surface that is moved through the air, and held up by it."


def test_summaries_of_packages_stand_before_what_describes_them(tmp_path: Path) -> None:
    path = tmp_path / "lists_i18n_Translation-en"
    told = "This program reads a folder of notes and answers what is asked about them, without a network."
    path.write_text(
        f"Package: a\nDescription-md5: 1\nDescription-en: searcher of notes\n {told}\n .\n More.\n\n"
        f"Package: b\nDescription-md5: 2\nDescription-en: searcher of notes (debug)\n {told}\n\n"
        "Package: c\nDescription-md5: 3\nDescription-en: empty one\n Short.\n\n"
    )
    assert list(summaries(path)) == [("searcher of notes", told)]


def test_names_of_an_ontology_stand_before_what_they_mean(tmp_path: Path) -> None:
    path = tmp_path / "x.obo"
    told = "Several cysts are found in the kidney, which does not work."
    path.write_text("".join(
        f'[Term]\nid: X:{i}\nname: cysts {i}\ndef: "{told} {i}" []\nsynonym: "kidney trouble {i}" EXACT []\n\n'
        for i in range(60)
    ))  # fmt: skip
    found = list(definitions(path))
    under = 0
    for i, (asked, answer) in enumerate(found):
        names = {f"cysts {i}", f"kidney trouble {i}"}
        (other,) = names - {asked}
        assert answer in (f"{told} {i}", f"{other}: {told} {i}")
        under += answer.startswith(other)
    assert 0 < under < 60 == len(found)
    assert 0 < sum(asked.startswith("cysts") for asked, _ in found) < 60
