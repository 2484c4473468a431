"""`inlay dedup`, end to end on small tables."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from inlay.cli.dedup import command
from inlay.errors import BadInput

ROWS = [
    ["id", "name", "city"],
    ["a1", "Miller & Sons Hardware", "Portland"],
    ["a2", "Green Valley Organics", "Salem"],
    ["a3", "Miller and Sons Hardware Store", "Portland"],
    ["a4", "Blue Heron Bakery", "Eugene"],
    ["a5", "Green Valey Organics, LLC", ""],
    ["a6", "Zebra Copy Centre", "Bend"],
]


def run(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def groups_of(result: Result) -> list[set[str]]:
    return [{str(record["name"]) for record in group["records"]} for group in json.loads(result.stdout)["groups"]]


@pytest.fixture
def shops(tmp_path: Path) -> Path:
    path = tmp_path / "shops.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(ROWS)
    return path


def test_groups_with_scores_and_reasons(shops):
    assert "group 1" in run(shops, "--id", "id").stdout
    said = run(shops, "--id", "id", "--threshold", 0.4)
    assert "group 2" in said.stdout
    assert "a1 ~ a3: same city; both have " in said.stdout
    assert "name differs" in said.stdout
    assert "6 records" in said.stderr
    found = json.loads(run(shops, "--id", "id", "--threshold", 0.4, "--json").stdout)
    assert sorted(sorted(record["name"] for record in group["records"]) for group in found["groups"]) == [
        ["a1", "a3"], ["a2", "a5"]
    ]  # fmt: skip
    assert found["groups"][0]["score"] >= found["groups"][1]["score"] >= found["threshold"]
    assert found["groups"][0]["pairs"][0]["shared"]


def test_rows_are_named_by_number_where_nothing_names_them(shops, tmp_path):
    assert {"a1", "a3"} in groups_of(run(shops, "--json"))  # a column called id that tells all apart
    bare = tmp_path / "bare.csv"
    with bare.open("w", newline="") as file:
        csv.writer(file).writerows([["id", *ROWS[0][1:]]] + [["same", *row[1:]] for row in ROWS[1:]])
    assert {"1", "3"} in groups_of(run(bare, "--by", "name,city", "--json"))


def test_thresholds_bind(shops):
    assert "pairs compared" in run(shops, "--threshold", 1, code=1).stderr
    assert json.loads(run(shops, "--threshold", 0.999, "--json", code=1).stdout)["groups"] == []


def test_columns_are_chosen(shops):
    assert groups_of(run(shops, "--by", "city", "--json")) == [{"a1", "a3"}]
    with pytest.raises(BadInput, match=r"no column 'town' .* there are id, name, city"):
        run(shops, "--by", "city,town")


@pytest.mark.parametrize("name", ["clean.csv", "clean.csv.gz"])
def test_the_fullest_record_stays_and_rows_are_copied_as_they_are(shops, tmp_path, name):
    out = tmp_path / name
    found = json.loads(run(shops, "--id", "id", "--threshold", 0.4, "--output", out, "--json").stdout)
    raw = gzip.decompress(out.read_bytes()) if name.endswith("gz") else out.read_bytes()
    lines = shops.read_bytes().splitlines(keepends=True)
    assert raw == b"".join(line for i, line in enumerate(lines) if i not in (3, 5))
    assert found["dropped"] == [3, 5]


def test_quoted_line_breaks_and_blank_lines_do_not_shift_rows(tmp_path):
    path, out = tmp_path / "t.csv", tmp_path / "out.csv"
    path.write_text('name,note\n"first\nthing alpha",x\n\n"other beta",y\n"first thing\nalpha",z\n')
    run(path, "--by", "name", "--output", out, "--threshold", 0.4)
    assert out.read_text() == 'name,note\n"first\nthing alpha",x\n\n"other beta",y\n'


def test_json_lines(tmp_path):
    path, out = tmp_path / "t.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"n": "quiet river"}\n\n{"n": "loud sea"}\n{"n": "quiet rivers", "m": 3}\n')
    assert groups_of(run(path, "--json", "--output", out, "--threshold", 0.4)) == [{"1", "3"}]
    assert out.read_text() == '\n{"n": "loud sea"}\n{"n": "quiet rivers", "m": 3}\n'


def test_another_table(shops, tmp_path):
    other, out = tmp_path / "other.tsv", tmp_path / "new.csv"
    other.write_text("name\tcity\nBlue Heron Bakery Inc\tEugene\nNobody\tNowhere\n")
    result = run(shops, "--other", other, "--by", "name,city", "--output", out, "--json")
    group = json.loads(result.stdout)["groups"]
    assert len(group) == 1  # records of the first table are not compared with each other
    assert [(Path(r["file"]).name, r["row"]) for r in group[0]["records"]] == [("shops.csv", 4), ("other.tsv", 1)]
    assert "Heron" not in out.read_text()
    assert len(out.read_text().splitlines()) == 6
    assert "shops.csv:4" in run(shops, "--other", other, "--by", "name,city").stdout


def test_labels_teach(tmp_path):
    pytest.importorskip("torch")
    path, pairs = tmp_path / "t.jsonl", tmp_path / "pairs.csv"
    with path.open("w") as file:
        for i in range(60):
            code = f"q{i // 2 * 7919 % 10007:05d}"
            words = ("superb original offer" if i % 2 else "classic quality edition") + " " + "abcdefghij"[i % 10] * 4
            file.write(json.dumps({"key": f"k{i}", "name": f"{code} {words}"}) + "\n")
    rows = [f"k{i},k{i + 1},1" for i in range(0, 40, 2)] + ["k0,k3,0"]
    pairs.write_text("left,right,label\n" + "\n".join(rows) + "\n")
    result = run(path, "--id", "key", "--labels", pairs, "--json", "-k", 1, "--threshold", 0.3)
    assert json.loads(result.stdout)["ranked_by"] == "learnt hashes"
    assert sum({f"k{i}", f"k{i + 1}"} <= g for g in groups_of(result) for i in range(40, 60, 2)) >= 8


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("left,right\na1,99\n", "row 1: no record has the 'id' '99'"),
        ("a,b\n1,2\n", "has no 'left'"),
        ("left,right,label\na1,a2,maybe\n", "a label is 1 or 0, got 'maybe'"),
        ("left,right,label\na1,a2,0\n", "cannot learn from no matches"),
    ],
)
def test_bad_labels(shops, tmp_path, pairs, message):
    pytest.importorskip("torch")
    (tmp_path / "pairs.csv").write_text(pairs)
    with pytest.raises(BadInput, match=message):
        run(shops, "--labels", tmp_path / "pairs.csv")


def test_rows_that_cannot_be_read_are_named_and_never_lost(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"n": "one thing"}\nnot json\n{"n": "one thing!"}\n')
    result = run(path, "--threshold", 0.3)
    assert "row 2 left out: not valid JSON" in result.stderr
    assert json.loads(run(path, "--json", "--threshold", 0.3).stdout)["failed"][0]["row"] == 2
    with pytest.raises(BadInput, match="--output would lose it"):
        run(path, "--output", tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("t.csv", "", [], "holds no records"),
        ("t.csv", "a,b\n", [], "holds no records"),
        ("t.txt", "a", [], "of what kind is it"),
        ("t.csv", "a\nx\n", ["--output", "out.jsonl"], "must end in .csv"),
        ("t.csv", "a\nx\nx\n", ["--id", "a", "--by", "a", "--labels", "t.csv"], "there and in row 1"),
        ("t.csv", "a\nx\n", ["--id", "a"], "has no column but"),
    ],
)
def test_bad_files(tmp_path, monkeypatch, name, content, more, message):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    with pytest.raises(BadInput, match=message):
        run(name, *more)
    assert not Path("out.jsonl").exists()


def test_a_damaged_archive_is_named(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"some row of text\n" * 5000)[:-200])
    with pytest.raises(BadInput, match="damaged or cut short"):
        run(path)
