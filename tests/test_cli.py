"""The command line, end to end on small folders: what it prints, where, and with which exit code."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import inlay
from inlay.cli import COMMANDS, places, show
from inlay.cli import inlay as root
from inlay.cli.encode import RowFile
from inlay.cli.places import Place, index_of, locate
from inlay.cli.snippet import best_lines
from inlay.cli.transfer import read_rows
from inlay.cli.where import OPERATORS, both, globs, parse
from inlay.collection.filters import compile_filter
from inlay.errors import BadInput
from inlay.types import Hit

DATES = '''"""Dates in prose."""

import re


def unrelated(number):
    return number + 1


def parse_date(text):
    """Parse a date such as 3 May 2021 out of text."""
    return re.search(r"[0-9]+ [A-Z][a-z]+ [0-9]{4}", text)
'''
BREAD = "# Bread\n\nKnead the dough for ten minutes.\n\n## Oven\n\nBake the loaf until the crust is brown.\n"
NUMEN = "numen?dim=512"
PARROT = "A parrot repeats the sailor's words.\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three files, as the current one, and a home for indexes of its own."""
    folder = tmp_path / "project"
    (folder / "docs" / "birds").mkdir(parents=True)
    (folder / "dates.py").write_text(DATES)
    (folder / "docs" / "bread.md").write_text(BREAD)
    (folder / "docs" / "birds" / "parrot.txt").write_text(PARROT)
    monkeypatch.setenv("INLAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(folder)
    return folder


def run(*args: str, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(root, list(args), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


# --- the root -------------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom inlay.cli import inlay\n"
        "try: inlay.main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'apsw', 'tqdm', 'pathspec', 'numba', 'platformdirs'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", done.stdout, re.M)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_loads_and_explains_itself(name: str) -> None:
    assert run(name, "--help").output.startswith(f"Usage: inlay {name}")


def test_commands_of_this_room_load_no_numpy() -> None:
    script = (
        "import sys\nfrom inlay.cli import COMMANDS, inlay\n"
        "for name, entry in COMMANDS.items():\n"
        "    if entry.section in ('Search', 'Collections', 'Vectors', 'Shell'): inlay.get_command(None, name)\n"
        "assert 'numpy' not in sys.modules and 'apsw' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_typing_mistakes_get_the_nearest_command() -> None:
    assert "Did you mean 'inlay search'?" in run("serach", "x", code=2).output
    assert "inlay search 'how do dates work'" in run("how do dates work", code=2).output
    assert "No such option" in run("--nonsense", code=2).output


def test_version_and_no_arguments() -> None:
    assert run("--version").output.strip() == f"inlay {inlay.__version__}"
    assert run().output.startswith("Usage: inlay")


def test_errors_are_one_line_and_exit_code_2(here: Path) -> None:
    result = run("search", "x", "--where", "year", code=2)
    assert result.stdout == ""
    assert re.fullmatch(r"inlay: --where 'year' is not understood.*\n", result.stderr)
    assert run("search", "  ", code=2).stderr.startswith("inlay: the query is empty")
    assert run("search", "x", "no-such-folder", code=2).stderr.endswith("does not exist.\n")


def test_interrupt_says_that_the_work_is_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inlay, "open", stop)
    assert "kept; run the same command again to continue" in run("search", "x", code=130).stderr


def test_operating_system_errors_name_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(inlay, "open", fail)
    assert run("search", "x", code=2).stderr == "inlay: /some/file: Permission denied\n"


def test_closed_pipe_is_quiet(here: Path) -> None:
    run("index")
    script = "import sys; from inlay.cli import main; sys.argv[0] = 'inlay'; main()"
    args = [sys.executable, "-c", script, "export"]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"INLAY_X": "1"})
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


# --- --where --------------------------------------------------------------------------------------------------------

values = st.one_of(
    st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)


@given(
    st.from_regex(r"[A-Za-z_][\w.\-]{0,10}", fullmatch=True, alphabet=st.characters(codec="ascii")),
    values,
    st.sampled_from(sorted(set(OPERATORS) - {"~"})),
)
def test_shorthand_round_trip(field: str, value: object, sign: str) -> None:
    expected = {field: value} if OPERATORS[sign] == "$eq" else {field: {OPERATORS[sign]: value}}
    assert parse([f"{field}{sign}{json.dumps(value)}"]) == expected
    assert parse([f" {field} {sign}  {json.dumps(value)} "]) == expected
    assert parse([json.dumps(expected)]) == expected
    compile_filter(expected)


@given(st.text(max_size=30))
def test_any_condition_is_read_or_refused(text: str) -> None:
    try:
        where = parse([text])
    except BadInput:
        return
    assert isinstance(where, dict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year>=2020", {"year": {"$gte": 2020}}),
        ("lang=en", {"lang": "en"}),
        ("lang==en", {"lang": "en"}),
        ("kind!=code", {"kind": {"$ne": "code"}}),
        ("path~*.py", {"path": {"$glob": "*.py"}}),
        ("path~20*", {"path": {"$glob": "20*"}}),
        ('lang=["en","de"]', {"lang": {"$in": ["en", "de"]}}),
        ('lang!=["en"]', {"lang": {"$nin": ["en"]}}),
        ('zip="01234"', {"zip": "01234"}),
        ("zip=01234", {"zip": "01234"}),
        ("name=NaN", {"name": "NaN"}),
        ("note=a=b", {"note": "a=b"}),
        ("author.name=Ann Lee", {"author.name": "Ann Lee"}),
        ('{"year": {"$lt": 5}}', {"year": {"$lt": 5}}),
    ],
)
def test_shorthand_examples(text: str, expected: dict[str, object]) -> None:
    assert parse([text]) == expected


def test_conditions_add_up() -> None:
    assert parse([]) is None
    assert parse(["a=1", "b=2"]) == {"$and": [{"a": 1}, {"b": 2}]}
    assert both(None, {"a": 1}, None) == {"a": 1}
    with pytest.raises(BadInput, match="not valid JSON"):
        parse(["{year: 2}"])


def test_file_patterns_reach_names_and_folders() -> None:
    assert globs([], []) is None
    where = globs(["*.py"], ["tests/"])
    compile_filter(where)  # the filters take what is made here
    assert {"path": {"$glob": "*.py"}} in where["$and"][0]["$or"]
    assert {"$not": {"path": {"$glob": "*/tests/*"}}} in where["$and"]
    assert globs(["docs/*.md"], []) == {"$or": [{"path": {"$glob": "docs/*.md"}}, {"path": {"$glob": "docs/*.md/*"}}]}
    with pytest.raises(BadInput, match="empty pattern"):
        globs(["/"], [])


# --- places ---------------------------------------------------------------------------------------------------------


def test_index_is_named_after_the_real_path(here: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(here)
    assert index_of(link) == index_of(here) == index_of(".")
    assert index_of(here).parent == tmp_path / "home" / "indexes"
    assert index_of(here).name.startswith("project-")
    assert index_of(here / "docs") != index_of(here)
    assert index_of("/").name.startswith("root-")
    # Two names that differ in bytes that a file name may have, and a path may not.
    assert index_of(here / "a b") != index_of(here / "a_b")


def test_home_is_the_users_cache_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INLAY_HOME", str(tmp_path))
    assert places.home() == tmp_path
    monkeypatch.delenv("INLAY_HOME")
    assert places.home().name == "inlay"


def test_own_index_before_that_of_a_folder_round_it(here: Path) -> None:
    docs = here / "docs"
    assert locate(docs) == Place(index_of(docs), docs)
    _pretend(index_of(here))
    assert locate(docs) == Place(index_of(here), here, "docs")
    assert locate(docs / "birds" / "parrot.txt") == Place(index_of(here), here, "docs/birds/parrot.txt")
    assert locate(docs, own=True) == Place(index_of(docs), docs)
    _pretend(index_of(docs))
    assert locate(docs / "birds").folder == docs
    assert locate(index_of(docs)) == Place(index_of(docs))


def test_a_file_alone(here: Path) -> None:
    place = locate(here / "dates.py")
    assert place == Place(index_of(here / "dates.py"), here, "dates.py", alone=True)
    assert place.source == here / "dates.py"
    assert place.where is None


def test_paths_with_glob_characters_are_literal() -> None:
    place = Place(Path("x"), Path("/f"), "a[1]*?")
    assert place.where == {"$or": [{"path": {"$glob": "a[[]1][*][?]"}}, {"path": {"$glob": "a[[]1][*][?]/*"}}]}
    assert place.holds("a[1]*?/b")
    assert not place.holds("a[1]*?b")


def test_paths_are_shown_as_one_would_type_them(here: Path) -> None:
    assert Place(Path("x"), here).shown("docs/bread.md") == os.path.join("docs", "bread.md")
    assert Place(Path("x"), here.parent / "other").shown("a.txt") == str(here.parent / "other" / "a.txt")
    assert Place(Path("x")).shown("id-1") == "id-1"


def _pretend(collection: Path) -> None:
    collection.mkdir(parents=True)
    (collection / places.CATALOG).touch()


# --- the lines shown ------------------------------------------------------------------------------------------------


def test_best_lines_have_the_words_of_the_query() -> None:
    window = best_lines(DATES, "parse dates out of text", 3)
    lines = DATES.splitlines()
    assert window.lines == lines[window.start : window.start + 3]
    assert "def parse_date(text):" in window.lines
    assert window.lines[window.best] == "def parse_date(text):"
    marked = [line[a:b].lower() for line, spans in zip(window.lines, window.marks) for a, b in spans]
    assert {"parse", "date", "text"} <= set(marked)
    assert "of" not in marked


@pytest.mark.parametrize(
    ("text", "query", "marked"),
    [
        ("getUserName()", "user", ["User"]),
        ("The runners were running", "run", ["running"]),
        ("a datetime object", "date", ["date"]),
        ("die Öfen glühen", "öfen", ["Öfen"]),
        ("機械学習の本", "学習", ["学習"]),
        ("to be or not to be", "to be", ["to", "be", "to", "be"]),
        ("nothing", "", []),
    ],
)
def test_marks(text: str, query: str, marked: list[str]) -> None:
    assert [text[a:b] for a, b in best_lines(text, query, 1).marks[0]] == marked


def test_without_a_word_in_common_the_first_text_below_the_heading() -> None:
    window = best_lines("\n# Oven\n\nBake it.\nEat it.\n", "zebra", 2, "Bread › Oven")
    assert window.lines == ["Bake it.", "Eat it."]
    assert best_lines("", "x", 3).lines == [""]


@given(st.text(alphabet="ab xyzé\n\t学\x85", max_size=80), st.text(alphabet="ab xé学", max_size=10), st.integers(1, 6))
def test_windows_lie_within_the_passage(text: str, query: str, count: int) -> None:
    window = best_lines(text, query, count)
    lines = text.splitlines() or [""]
    assert 1 <= len(window.lines) <= count
    assert window.lines == lines[window.start : window.start + len(window.lines)]
    assert 0 <= window.best < len(window.lines)
    for line, spans in zip(window.lines, window.marks):
        assert spans == sorted(spans)
        assert all(0 <= a < b <= len(line) for a, b in spans)


HIT = Hit(
    "docs/a.md", 0.5, "# Dates\n\nParse a date.\nAnd more.\n", {"path": "docs/a.md"}, "Dates", 10, 13,
    spaces={"lexical": {"rank": 1, "score": 7.25}, "dense": {"rank": 3, "score": np.float32(0.5)}}, reranked=True,
)  # fmt: skip


def test_page_with_colour_and_links(here: Path) -> None:
    look = show.Look(page=True, colour=True, links=True, width=80, context=2)
    first, *body = show.as_page([HIT], "parse date", Place(Path("x"), here), look)
    assert first.startswith(f"\x1b]8;;file://{os.uname().nodename}{here}/docs/a.md\x1b\\")
    assert "12" in click.unstyle(first)
    assert "\x1b[31m" in body[0]
    assert [click.unstyle(line) for line in body] == ["12  Parse a date.", "13  And more."]


def test_page_without_colour_is_plain(here: Path) -> None:
    look = show.Look(page=True, colour=False, context=1)
    lines = list(show.as_page([HIT, HIT], "parse date", Place(Path("x"), here), look, explain=True))
    assert not any("\x1b" in line for line in lines)
    assert lines[0] == "docs/a.md:12  Dates  0.500"
    assert lines[1] == "12  Parse a date."
    assert lines[3].split()[:3] == ["lexical", "1", "7.2500"]
    assert "" in lines
    assert lines[-1] == "Re-ranked with vectors made on demand: hits 1, 2 of 2."


def test_text_cannot_steer_the_terminal(here: Path) -> None:
    hit = Hit("a\x1b]0;owned\x07", 1.0, "date \x1b[2J \u202egnp.exe\x9b\ud800 \tx", {})
    for page in (True, False):
        look = show.Look(page=page, colour=False)
        out = "\n".join((show.as_page if page else show.as_lines)([hit], "date", Place(Path("x")), look))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", out)


def test_long_lines_are_cropped_round_the_match(here: Path) -> None:
    hit = Hit("a", 1.0, "x " * 5000 + "needle" + " y" * 5000, {}, line=1)
    look = show.Look(page=True, colour=False, width=60, context=3)
    _, line = show.as_page([hit], "needle", Place(Path("x")), look)
    assert "needle" in line
    assert line.count("…") == 2
    assert len(line) < 3 * 60


def test_json_of_a_hit_is_plain_numbers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hit = Hit("a", np.float32(1.5), "x", {}, spaces={"dense": {"rank": np.int64(1), "score": float("nan")}})
    show.print_json(show.as_json([hit], "x", Place(Path("x"))))
    (row,) = json.loads(capsys.readouterr().out)
    assert row["score"] == 1.5
    assert row["spaces"] == {"dense": {"rank": 1, "score": None}}


def test_look_follows_the_terminal_and_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show.Look.of("auto") == show.Look(False, False, width=show.Look.of("auto").width)
    assert show.Look.of("always").page
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert show.Look.of("auto").colour
    assert show.Look.of("never").page
    assert not show.Look.of("never").colour
    monkeypatch.setenv("NO_COLOR", "1")
    assert not show.Look.of("auto").colour
    assert show.Look.of("always").colour
    monkeypatch.setenv("FORCE_HYPERLINK", "1")
    assert show.Look.of("always").links
    monkeypatch.setenv("FORCE_HYPERLINK", "0")
    assert not show.Look.of("always").links


def test_sizes() -> None:
    assert [show.size(n) for n in (0, 999, 1000, 123_456, 5e9, 7e12)] == [
        "0 B", "999 B", "1.0 kB", "123 kB", "5.0 GB", "7.0 TB",
    ]  # fmt: skip


# --- search and index -----------------------------------------------------------------------------------------------


def test_search_in_a_pipe_is_one_line_a_hit(here: Path) -> None:
    lines = run("search", "parse a date out of text").stdout.splitlines()
    path, score, text = lines[0].split("\t")
    assert path == "dates.py:10"
    assert float(score) > 0
    assert text == "def parse_date(text):"
    assert not any("\x1b" in line for line in lines)
    assert all(line.count("\t") == 2 for line in lines)


def test_search_with_forced_colour_is_a_page(here: Path) -> None:
    out = run("search", "crust of the loaf", "--color", "always", "-k", "1", "--context", "1").stdout
    assert "\x1b[" in out
    assert "\x1b]8" not in out  # links only where a terminal follows them
    plain = click.unstyle(out).splitlines()
    assert plain[0].startswith(f"{os.path.join('docs', 'bread.md')}:7  ")
    assert plain[1] == "7  Bake the loaf until the crust is brown."


def test_search_json_schema(here: Path) -> None:
    hits = json.loads(run("search", "brown crust of the loaf", "--json").stdout)
    types = {
        "path": str, "line": int, "last_line": int, "match_line": int, "score": float, "text": str, "id": str,
        "heading": str, "metadata": dict, "spaces": dict, "reranked": bool,
    }  # fmt: skip
    for hit in hits:
        assert {name: type(value) for name, value in hit.items()} == types
        assert hit["line"] <= hit["match_line"] <= hit["last_line"]
        assert hit["path"] == hit["metadata"]["path"]
    assert hits[0]["path"] == "docs/bread.md"
    assert hits[0]["match_line"] == 7
    assert "Bake the loaf" in hits[0]["text"]
    assert all({"rank", "score"} <= part.keys() for part in hits[0]["spaces"].values())


def test_nothing_found(here: Path) -> None:
    result = run("search", "dates", "--mode", "lexical", "--where", "kind=nonsense", code=1)
    assert result.stdout == ""
    assert run("search", "dates", "--where", "kind=nonsense", "--json").stdout.strip() == "[]"


def test_search_follows_the_files(here: Path) -> None:
    assert "parrot.txt" in run("search", "parrot").stdout
    (here / "docs" / "birds" / "parrot.txt").unlink()
    (here / "zebra.txt").write_text("A zebra grazes.\n")
    # Nothing has the word, and search says so; by meaning, a parrot is near enough.
    assert run("search", "zebra", "--no-sync", "--mode", "lexical", code=1).stdout == ""
    first = run("search", "zebra parrot").stdout.splitlines()[0]
    assert first.startswith("zebra.txt:1\t")
    assert "parrot.txt" not in run("search", "parrot").stdout


def test_search_a_part_reuses_the_index(here: Path) -> None:
    run("index")
    hits = json.loads(run("search", "parse a date, bake a loaf, hear a parrot", "docs", "--json").stdout)
    assert {hit["path"] for hit in hits} == {"docs/bread.md", "docs/birds/parrot.txt"}
    hits = json.loads(run("search", "bake", "docs/birds/parrot.txt", "--json").stdout)
    assert {hit["path"] for hit in hits} <= {"docs/birds/parrot.txt"}
    assert len(json.loads(run("ls", "--json").stdout)) == 1


def test_search_a_file_alone(here: Path) -> None:
    hits = json.loads(run("search", "parse a date", "dates.py", "--json").stdout)
    assert {hit["path"] for hit in hits} == {"dates.py"}
    assert not index_of(here).exists()


def test_search_what_the_index_round_it_leaves_out(here: Path) -> None:
    (here / ".gitignore").write_text("vendor/\n")
    (here / "vendor").mkdir()
    (here / "vendor" / "yeti.txt").write_text("A yeti in the snow.\n")
    assert "yeti.txt" not in run("search", "yeti", "--json").stdout
    assert run("search", "yeti", "vendor").stdout.startswith(os.path.join("vendor", "yeti.txt") + ":1\t")


def test_search_where_and_patterns(here: Path) -> None:
    query = "parse a date, bake a loaf, hear a parrot"

    def paths(*args: str, code: int = 0) -> set[str]:
        return {line.split(":")[0] for line in run("search", query, *args, code=code).stdout.splitlines()}

    assert paths("--where", "path~*.py") == {"dates.py"}
    assert paths("--include", "*.md", "--include", "parrot.txt") == {"docs/bread.md", "docs/birds/parrot.txt"}
    assert paths("--exclude", "docs/") == {"dates.py"}
    assert paths("--exclude", "birds", "--where", "path!=dates.py") == {"docs/bread.md"}
    assert len(run("search", query, "-k", "1").stdout.splitlines()) == 1


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_search_modes_and_explain(here: Path, mode: str) -> None:
    out = run("search", "parrot", "--mode", mode, "--explain", "--color", "always").stdout
    assert "parrot.txt" in click.unstyle(out).splitlines()[0]
    assert re.search(r"space +rank +score", click.unstyle(out))
    assert "e-ranked" in out.splitlines()[-1]


def test_search_while_another_process_writes(here: Path) -> None:
    run("index")
    (here / "new.txt").write_text("A new yeti.\n")
    other = inlay.open(index_of(here))
    other.settings["x"] = 1
    try:
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(index_of(here))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        other.close()
        assert holder.stdout is not None
        holder.stdout.readline()
        result = run("search", "parrot")
        assert "parrot.txt" in result.stdout
        assert "searches what is indexed so far" in result.stderr
    finally:
        holder.communicate(b"\n", timeout=60)
    assert "new.txt" in run("search", "yeti").stdout


_HOLD = """
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from inlay.collection.lock import WriterLock
import time
lock = WriterLock(Path(sys.argv[1]))
for _ in range(100):
    try: lock.acquire(); break
    except Exception: time.sleep(0.1)
print('held', flush=True)
sys.stdin.readline()
lock.release()
"""


def test_index_reports_and_remembers_what_it_covers(here: Path) -> None:
    report = json.loads(run("index", "--include", "*.md", "--json").stdout)
    assert report["files"] == report["added"] == 1
    assert report["collection"] == str(index_of(here))
    assert json.loads(run("index", "--json").stdout)["unchanged"] == 1
    assert "dates.py" not in run("search", "parse a date").stdout
    assert re.match(r"1 file \(nothing new\) in ", run("index").stdout)
    assert json.loads(run("index", "--rebuild", "--json").stdout)["added"] == 1
    assert json.loads(run("index", "--include", "*.py", "--json").stdout)["removed"] == 1
    assert "dates.py" in run("search", "parse a date").stdout


def test_index_into_a_collection_of_ones_own(here: Path) -> None:
    run("index", "-o", "notes.inlay")
    assert not index_of(here).exists()
    assert "parrot.txt" in run("search", "parrot", "notes.inlay").stdout
    (here / "zebra.txt").write_text("A zebra grazes.\n")
    assert json.loads(run("index", "notes.inlay", "--json").stdout)["added"] == 1
    assert json.loads(run("index", "-o", "notes.inlay", "--json").stdout)["unchanged"] == 4
    assert run("search", "zebra", "notes.inlay").stdout.startswith("zebra.txt:1\t")
    assert "give another" in run("index", "docs", "-o", "notes.inlay", code=2).stderr
    assert "holds other files" in run("index", "-o", "docs", code=2).stderr
    assert "notes.inlay" not in run("search", "zebra").stdout


def test_interrupted_indexing_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inlay.Collection, "update", stop)
        run("index", "--include", "*.md", code=130)
    (row,) = json.loads(run("ls", "--json").stdout)
    assert row["folder"] == str(here)
    assert row["note"].startswith("unfinished")
    assert json.loads(run("index", "--json").stdout)["added"] == 1
    assert json.loads(run("ls", "--json").stdout)[0]["note"] == ""


def test_another_encoder_needs_a_rebuild(here: Path) -> None:
    run("index", "--encoder", NUMEN)
    assert "inlay index --rebuild --encoder 'numen?dim=64'" in run("index", "--encoder", "numen?dim=64", code=2).stderr
    run("index", "--rebuild", "--encoder", "numen?dim=64")
    assert json.loads(run("info", "--json").stdout)["spaces"]["dense"]["dim"] == 64
    run("index", "--rebuild")
    assert json.loads(run("info", "--json").stdout)["spaces"]["dense"]["dim"] == 64
    assert "no encoder is called" in run("search", "x", "docs/birds", "--encoder", "nonsense", code=2).stderr


def test_index_embeds_on_request(here: Path) -> None:
    assert json.loads(run("index", "--embed", "--json").stdout)["embedded"] >= 0


# --- ls, info, rm ---------------------------------------------------------------------------------------------------


def test_ls(here: Path) -> None:
    assert "nothing is indexed yet" in run("ls").stderr
    run("index")
    run("index", "docs")
    lines = run("ls").stdout.splitlines()
    assert len(lines) == 3
    assert {line.split()[0] for line in lines[1:]} == {str(here), str(here / "docs")}
    rows = {row["folder"]: row for row in json.loads(run("ls", "--json").stdout)}
    assert rows[str(here)]["documents"] == 3
    assert rows[str(here / "docs")]["documents"] == 2
    assert rows[str(here)]["bytes"] > 0
    assert rows[str(here)]["indexed"]


def test_ls_lists_the_vanished_and_the_damaged(here: Path) -> None:
    run("index", "docs")
    run("index")
    shutil.rmtree(here / "docs")
    (index_of(here) / places.CATALOG).write_bytes(b"no catalog at all" * 100)
    notes = sorted(row["note"][:20] for row in json.loads(run("ls", "--json").stdout))
    assert notes == ["cannot be opened: " + notes[0][18:], "the folder is gone; "]
    run("rm", "docs", "-y")
    run("rm", "-y")
    assert json.loads(run("ls", "--json").stdout) == []


def test_info(here: Path) -> None:
    assert "is not indexed yet; run: inlay index" in run("info", code=2).stderr
    run("index")
    about = json.loads(run("info", "--json").stdout)
    assert about["folder"] == str(here)
    assert re.search(rf"^folder +{re.escape(str(here))}$", run("info").stdout, re.M)
    assert json.loads(run("info", "docs", "--json").stdout)["folder"] == str(here)


def test_rm_asks_and_leaves_the_files(here: Path) -> None:
    run("index")
    assert "nothing was removed" in run("rm", stdin="n\n", code=1).stderr
    assert "pass --yes" in run("rm", stdin="", code=1).stderr
    assert index_of(here).exists()
    assert "covered by the index" in run("rm", "docs", "-y", code=2).stderr
    assert "removed the index" in run("rm", stdin="y\n").stdout
    assert not index_of(here).exists()
    assert (here / "dates.py").exists()
    assert "no index of its own" in run("rm", "-y", code=2).stderr


def test_rm_spares_files_that_are_not_inlays(here: Path) -> None:
    run("index", "-o", "notes.inlay")
    (here / "notes.inlay" / "mine.txt").write_text("mine")
    result = run("rm", "notes.inlay", "-y")
    assert "it holds other files: mine.txt" in result.stderr
    assert os.listdir(here / "notes.inlay") == ["mine.txt"]


# --- import and export ----------------------------------------------------------------------------------------------

ROWS = [
    {"id": "a", "text": "Bake the loaf.", "year": 2020, "tags": ["food"]},
    {"id": "b", "text": "A parrot — “speaks”.\nTwice.", "year": 2021},
]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_import_and_export_round_trip(here: Path, ending: str) -> None:
    file = here / f"rows{ending}"
    if ending == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), file)
    else:
        with gzip.open(file, "wt") if ending.endswith("gz") else open(file, "w") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in ROWS)
    assert run("import", "c.inlay", str(file)).stdout == "2 added\n"
    assert run("import", "c.inlay", str(file)).stdout == "2 unchanged\n"
    assert "b" in run("search", "parrot", "c.inlay", "--where", "year>=2021", "-k", "1").stdout
    rows = [json.loads(line) for line in run("export", "c.inlay").stdout.splitlines()]
    if ending == ".parquet":
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert sorted(rows, key=lambda row: row["id"]) == ROWS
    run("export", "c.inlay", "-o", "out.jsonl.gz")
    assert run("import", "again.inlay", "out.jsonl.gz").stdout == "2 added\n"
    assert not [name for name in os.listdir(here) if name.endswith(".partial")]


def test_import_reports_each_failure_and_keeps_the_rest(here: Path) -> None:
    lines = [json.dumps(ROWS[0]), "{broken", "[1]", '{"id": "c"}', '{"id": "d", "text": "  "}', '{"text": "unnamed"}']
    result = run("import", "c.inlay", "-", stdin="\n".join(lines), code=1)
    assert result.stdout == "2 added, 4 failed\n"
    for expected in ("-:2: not valid JSON", "-:3: not a JSON object", "-:4: it has no 'text'", "d: its text is empty"):
        assert expected in result.stderr
    report = json.loads(run("import", "c.inlay", "-", "--json", stdin="\n".join(lines), code=1).stdout)
    assert (report["added"], report["unchanged"], len(report["failed"])) == (0, 2, 4)


def test_import_csv_with_other_names(here: Path) -> None:
    with open("t.csv", "w", newline="", encoding="utf-8-sig") as file:
        header = ["key", "body", "year", "zip", "x"]
        csv.writer(file).writerows([header, ["k1", "A\nparrot, it is", "2020", "0123", ""]])
    assert run("import", "c.inlay", "t.csv", "--id", "key", "--text", "body").stdout == "1 added\n"
    (row,) = [json.loads(line) for line in run("export", "c.inlay").stdout.splitlines()]
    assert row == {"id": "k1", "text": "A\nparrot, it is", "year": 2020, "zip": "0123"}
    assert "it has no 'id'" in run("import", "c.inlay", "t.csv", "--id", "id", "--text", "body", code=1).stderr


def test_rows_of_damaged_and_unknown_files(here: Path) -> None:
    Path("t.tsv").write_text("id\ttext\na\tone\nb\ttwo\tthree\n")
    assert list(read_rows(Path("t.tsv"))) == [{"id": "a", "text": "one"}, "it has more fields than the header's 2"]
    packed = gzip.compress(b'{"id": "a", "text": "one"}\n' * 1000)
    Path("cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert "the file is damaged from here on" in run("import", "c.inlay", "cut.jsonl.gz", code=1).stderr
    assert "Files end in" in run("import", "new.inlay", "t.tsv", "dates.py", code=2).stderr
    assert not Path("new.inlay").exists()


def test_export_of_a_part(here: Path) -> None:
    run("index")
    rows = [json.loads(line) for line in run("export", "docs").stdout.splitlines()]
    assert {row["path"] for row in rows} == {"docs/bread.md", "docs/birds/parrot.txt"}


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_on_a_sound_index(here: Path) -> None:
    assert "is not indexed yet" in run("doctor", code=2).stderr
    run("index")
    assert run("doctor").stdout == "everything verifies\n"
    assert json.loads(run("doctor", "--json").stdout) == {"path": str(index_of(here)), "ok": True, "problems": []}


def test_doctor_on_what_cannot_be_opened(here: Path) -> None:
    run("index")
    (index_of(here) / places.CATALOG).write_bytes(b"no catalog at all" * 100)
    assert "damaged" in run("doctor", code=1).stdout
    assert json.loads(run("doctor", "--json", code=1).stdout)["ok"] is False
    assert "inlay index --rebuild" in run("doctor", "--repair", code=1).stderr
    run("index", "--rebuild")
    assert run("doctor").stdout == "everything verifies\n"


def test_an_index_that_lost_its_catalog_is_made_again(here: Path) -> None:
    run("index")
    catalog = index_of(here) / places.CATALOG
    for lose in (catalog.unlink, lambda: catalog.rename(f"{catalog}.removed")):
        lose()
        assert "is not indexed yet" in run("doctor", code=2).stderr
        assert "parrot.txt" in run("search", "parrot").stdout
        assert run("doctor").stdout == "everything verifies\n"
        assert not list(index_of(here).glob("*.removed"))


def test_doctor_repairs_a_flipped_byte(here: Path) -> None:
    (index_of(here) / "segments").mkdir(parents=True)  # what is left by a removal that was interrupted
    for i in range(300):  # enough for a segment on disk rather than in the catalog
        (here / f"{i}.txt").write_text(f"Document number {i} about subject {i * i} and parrots.\n" * 20)
    run("index", "--encoder", NUMEN)
    files = [file for file in (index_of(here) / "segments").rglob("*") if file.is_file()]
    assert files
    data = bytearray(files[0].read_bytes())
    data[len(data) // 2] ^= 0x40
    files[0].write_bytes(data)
    assert run("doctor", code=1).stdout.startswith("- ")
    assert "repaired; everything verifies" in run("doctor", "--repair").stdout
    assert run("doctor").stdout == "everything verifies\n"


# --- encode and completion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_encode_lines(here: Path, ending: str) -> None:
    lines = ["parse a date", "bake a loaf", "hear a parrot"]
    Path("lines.txt").write_text("\n".join(lines) + "\n")
    output = here / f"out{ending}"
    run("encode", "lines.txt", "-o", str(output), "--batch-size", "2", "--encoder", NUMEN)
    if ending == ".npy":
        rows = np.load(output)
    else:
        load_file = pytest.importorskip("safetensors.numpy").load_file
        rows = load_file(output)["vectors"]
    np.testing.assert_allclose(rows, inlay.encoder(NUMEN).encode_document(lines), rtol=1e-5, atol=1e-6)
    run("encode", "-", "-o", str(output), "--encoder", NUMEN, "--query", stdin="one line")
    assert not [name for name in os.listdir(here) if name.endswith(".partial")]


@contextmanager
def release_before() -> Iterator[None]:
    """The model in the package is the one of another release."""
    from inlay.encoders import box

    with pytest.MonkeyPatch.context() as patch:
        made = box.fingerprint
        patch.setattr(box, "fingerprint", lambda *given: made(*given)[:-4] + "0000")
        yield


@pytest.mark.parametrize("first", [("search", "bake a loaf"), ("index",)])
def test_another_model_in_the_package_makes_the_index_again(here: Path, first: tuple[str, ...]) -> None:
    with release_before():
        run("index", "--exclude", "*.txt")
    assert "--rebuild" in run("search", "bake a loaf", "--no-sync", code=2).stderr
    assert "indexed again" in run(*first).stderr
    again = run("search", "bake a loaf", "--json")
    assert "indexed again" not in again.stderr
    assert "bread.md" in again.stdout
    assert json.loads(run("index", "--json").stdout)["files"] == 2  # it still covers what it covered


def test_a_collection_elsewhere_is_not_made_again_unasked(here: Path) -> None:
    kept = str(here.parent / "kept.inlay")
    with release_before():
        run("index", "--output", kept)
    assert "--rebuild" in run("index", kept, code=2).stderr
    run("index", "--rebuild", kept)
    assert "bread.md" in run("search", "bake a loaf", kept).stdout


def test_encode_refuses(here: Path) -> None:
    numen = ("--encoder", NUMEN)
    assert "must end in .npy or .safetensors" in run("encode", "dates.py", "-o", "x.csv", *numen, code=2).stderr
    assert "has no lines" in run("encode", "-", "-o", "x.npy", *numen, stdin="", code=2).stderr
    assert "makes sparse ones" in run("encode", "-", "-o", "x.npy", "--encoder", "bm25", stdin="x", code=2).stderr
    assert not Path("x.npy").exists()


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
@pytest.mark.parametrize("fingerprint", ["", "f" * 37])
def test_row_files_of_any_length(tmp_path: Path, ending: str, fingerprint: str) -> None:
    for count in (0, 1, 100_000):
        rows = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
        with RowFile(tmp_path / f"x{ending}", fingerprint) as file:
            for start in range(0, max(count, 1), 40_000):
                file.write(rows[start : start + 40_000])
        if ending == ".npy":
            got = np.load(tmp_path / "x.npy")
        else:
            got = pytest.importorskip("safetensors.numpy").load_file(tmp_path / "x.safetensors")["vectors"]
        np.testing.assert_array_equal(got, rows)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert "_INLAY_COMPLETE" in run("completion", shell).stdout


def test_completion_offers_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(root, {}, "inlay", "_INLAY_COMPLETE")
    assert [item.value for item in complete.get_completions([], "e")] == ["export", "encode", "eval"]
    assert "--where" in [item.value for item in complete.get_completions(["search"], "--w")]
