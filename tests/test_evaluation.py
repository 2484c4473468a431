"""Test sets, runs, measures with their intervals, and LIMIT."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.evaluation import RetrievalSet, Run, compare, estimate, limit, limit_with_distractors, per_query
from inlay.evaluation.limit_set import FILLERS
from inlay.evaluation.measures import mean_interval, randomisation_p
from inlay.types import Neighbours

CORPUS = [
    {"_id": "a b", "title": "Tides", "text": "The moon\u2028pulls the sea."},
    {"_id": "2", "title": "", "text": "Bread rises."},
    {"_id": "c", "text": "A third."},
]
QUERIES = [{"_id": "q1", "text": "why tides"}, {"_id": "q2", "text": "baking"}, {"_id": "q3", "text": "nobody asked"}]


def write(folder: Path, layout: str) -> Path:
    def lines(rows: list[dict[str, str]]) -> bytes:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    test = b"query-id\tcorpus-id\tscore\nq1\ta b\t2\nq1\t2\t0\nq2\t2\t1\nq3\tc\t0\n"
    dev = b"q3\tc\t1\r\n"
    folder.mkdir(exist_ok=True)
    if layout == "beir":
        (folder / "corpus.jsonl").write_bytes(lines(CORPUS))
        (folder / "queries.jsonl").write_bytes(lines(QUERIES))
        (folder / "qrels").mkdir()
        (folder / "qrels" / "test.tsv").write_bytes(test)
        (folder / "qrels" / "dev.tsv").write_bytes(dev)
    else:
        (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines(CORPUS)))
        (folder / "queries.jsonl.gz").write_bytes(gzip.compress(lines(QUERIES)))
        (folder / "qrels.tsv").write_bytes(test)
        (folder / "qrels_dev.tsv").write_bytes(dev)
    return folder


@pytest.mark.parametrize("layout", ["beir", "flat"])
def test_both_layouts_say_the_same(tmp_path: Path, layout: str) -> None:
    data = RetrievalSet.load(write(tmp_path / "set", layout))
    assert data.ids == ["a b", "2", "c"]
    assert data.texts == ["Tides The moon\u2028pulls the sea.", "Bread rises.", "A third."]
    assert data.qrels == {"q1": {"a b": 2, "2": 0}, "q2": {"2": 1}}
    assert list(data.queries) == ["q1", "q2"], "q3 has no relevant document in this split"
    assert (data.name, data.split) == ("set", "test")
    dev = RetrievalSet.load(tmp_path / "set", split="dev")
    assert dev.qrels == {"q3": {"c": 1}}
    data.save(tmp_path / "again")
    assert RetrievalSet.load(tmp_path / "again").__dict__ == {**data.__dict__, "name": "again"}


def test_a_set_of_plain_mappings() -> None:
    data = RetrievalSet({"1": "one", "2": "two"}, {"q": "uno"}, {"q": {"1": 1}}, name="tiny")
    assert data.texts == ["one", "two"]
    assert "2 documents, 1 queries" in repr(data)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("corpus.jsonl", None, "looked for corpus.jsonl, corpus.jsonl.gz"),
        ("qrels/test.tsv", None, "there is qrels/dev.tsv"),
        ("corpus.jsonl", '{"_id": "1", "text": "x"}\n{"_id": \n', "corpus.jsonl:2: not a line of JSON"),
        ("corpus.jsonl", '{"_id": "1"}\n', "corpus.jsonl:1: expected an object with _id and text"),
        ("corpus.jsonl", '{"_id": "1", "text": "x"}\n{"_id": "1", "text": "y"}\n', "'1' occurs twice"),
        ("corpus.jsonl", '{"_id": "z", "text": "x"}\n', "no judged document is in the corpus"),
        ("corpus.jsonl", "", "at least one document"),
        ("queries.jsonl", b"\xff\xfe\n", "queries.jsonl:1: not UTF-8"),
        ("queries.jsonl", '{"_id": "q9", "text": "x"}\n', "query 'q1' has judgments but no text"),
        ("qrels/test.tsv", "q1\ta b\t1\nq1 2 1\n", "test.tsv:2: expected query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\ta\t0.5\n", "test.tsv:2"),
        ("qrels/test.tsv", "\n", "holds no judgments"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, file: str, content: str | bytes | None, said: str) -> None:
    folder = write(tmp_path / "set", "beir")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as error:
        RetrievalSet.load(folder)
    assert said in str(error.value)


def test_bad_folders_and_splits(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        RetrievalSet.load(tmp_path / "nothing")
    with pytest.raises(BadInput, match="is not a name"):
        RetrievalSet.load(tmp_path, split="../secret")
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "1", "text": "x"}\n' * 1000)[:40])
    (tmp_path / "qrels.tsv").write_text("q\t1\t1\n")
    with pytest.raises(BadInput, match="cannot be read"):
        RetrievalSet.load(tmp_path)


# --- runs -------------------------------------------------------------------------------------------------------------

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
scores = st.floats(allow_nan=False, width=64)


@given(st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1, max_size=4), min_size=1, max_size=4), ids)
@settings(max_examples=150, deadline=None)
def test_any_run_survives_its_file(tmp_path_factory: pytest.TempPathFactory, found: dict, name: str) -> None:
    path = tmp_path_factory.mktemp("run") / "a.run"
    run = Run(found, name)
    run.write(path)
    again = Run.read(path)
    assert (again, again.name) == (run, name)
    assert [again.top(query) for query in run] == [run.top(query) for query in run]


def test_a_run_file_is_trec(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    Run({"query_0": {"Geneva Durben": 1.5, "100%": 2.0}}, "bm25 plain").write(path)
    assert path.read_text().splitlines() == [
        "query_0 Q0 100%25 1 2.0 bm25%20plain",
        "query_0 Q0 Geneva%20Durben 2 1.5 bm25%20plain",
    ]
    path.write_text("1\tQ0\thttp://x/%C3%A9\t1\t7\ttheirs\n\n")
    assert Run.read(path) == {"1": {"http://x/%C3%A9": 7.0}}, "escapes that are not ours are left alone"


@pytest.mark.parametrize(
    ("line", "said"),
    [("1 Q0 a 1 0.5", "six fields"), ("1 Q0 a 1 high x", "not a number"), ("1 Q0 a 1 nan x", "not a number")],
)
def test_bad_run_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "bad.run"
    path.write_text(f"1 Q0 b 1 0.9 x\n{line}\n")
    with pytest.raises(BadInput, match=said) as error:
        Run.read(path)
    assert "bad.run:2" in str(error.value)
    path.write_text("1 Q0 b 1 0.9 x\n1 Q0 b 2 0.8 x\n")
    with pytest.raises(BadInput, match="given before"):
        Run.read(path)


def test_a_run_of_neighbours() -> None:
    found = Neighbours(
        np.array([[3, 2, 1], [1, -math.inf, -math.inf]], dtype=np.float32), np.array([[2, 0, 1], [1, -1, -1]])
    )
    run = Run.of(found, ["p", "q"], ["x", "y", "x"])
    assert run == {"p": {"x": 3.0, "y": 1.0}, "q": {"y": 1.0}}, "passages of a document keep its best score"
    with pytest.raises(BadInput):
        Run.of(found, ["p"], ["x", "y", "x"])
    with pytest.raises(BadInput, match="not a number"):
        Run({"q": {"d": math.nan}})
    with pytest.raises(BadInput, match="empty"):
        Run({"": {"d": 1.0}}).write("/dev/null")


# --- measures ---------------------------------------------------------------------------------------------------------


def by_hand(found: dict[str, float], grades: dict[str, int], k: int = 10) -> dict[str, float]:
    """The definitions, written out. Ties go to the larger id, as in trec_eval."""
    order = sorted(found, key=lambda key: (found[key], key), reverse=True)
    gains = [grades.get(key, 0) for key in order]
    ideal = sorted(grades.values(), reverse=True)
    relevant = sum(grade > 0 for grade in grades.values())

    def dcg(values: list[int]) -> float:
        return sum(value / math.log2(i + 2) for i, value in enumerate(values[:k]))

    hits = [grade > 0 for grade in gains]
    return {
        f"ndcg@{k}": dcg(gains) / dcg(ideal),
        f"recall@{k}": sum(hits[:k]) / relevant,
        f"precision@{k}": sum(hits[:k]) / k,
        f"mrr@{k}": next((1 / (i + 1) for i, hit in enumerate(hits[:k]) if hit), 0.0),
        "map": sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / relevant,
    }


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_measures_are_their_definitions(data: st.DataObject) -> None:
    documents = [f"d{i}" for i in range(14)]
    grades = data.draw(st.dictionaries(st.sampled_from(documents), st.integers(0, 3), min_size=1))
    grades[data.draw(st.sampled_from(documents))] = 1
    found = data.draw(st.dictionaries(st.sampled_from(documents), st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1))
    expected = by_hand(found, grades, k := data.draw(st.sampled_from([1, 3, 10])))
    measured = per_query({"q": found}, {"q": grades}, list(expected))
    assert {name: values[0] for name, values in measured.items()} == pytest.approx(expected), k


def test_judged_queries_without_answer_count_as_zero() -> None:
    qrels = {"1": {"a": 1}, "2": {"a": 1}, "3": {"b": 2, "a": 0}}
    values = per_query({"3": {"b": 1.0}, "1": {"a": 0.1}, "other": {"z": 1.0}}, qrels, ["ndcg@10", "MAP"])
    assert values["ndcg@10"].tolist() == [1, 0, 1]
    assert values["MAP"].tolist() == [1, 0, 1]
    assert per_query({"3": {"a": 1.0}}, qrels, ["recall@5"])["recall@5"].tolist() == [0, 0, 0], "grade 0 is no answer"


def test_bad_measures() -> None:
    qrels = {"1": {"a": 1}}
    for name in ("ndgc@10", "recall", "ndcg@0", "mrr@x"):
        with pytest.raises(BadInput, match="is not a measure"):
            per_query({"1": {"a": 1.0}}, qrels, [name])
    with pytest.raises(BadInput, match="answers none"):
        per_query({"2": {"a": 1.0}}, qrels)
    with pytest.raises(BadInput, match="no judgments"):
        per_query({"2": {"a": 1.0}}, {})
    with pytest.raises(BadInput):
        mean_interval(np.empty(0))


def test_the_interval_covers_as_often_as_it_says() -> None:
    """95% intervals of samples whose true mean is 0 hold it about 95 times in 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        found = mean_interval(rng.normal(size=80), resamples=400)
        assert found.low <= found.mean <= found.high
        covered += found.low <= 0 <= found.high
    assert 178 <= covered <= 199
    assert mean_interval(np.full(5, 0.25)) == (0.25, 0.25, 0.25)
    values = rng.normal(size=50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_the_paired_test_has_its_level_and_its_power() -> None:
    rng = np.random.default_rng(2)
    null = [randomisation_p(rng.normal(size=30), permutations=300, seed=i) for i in range(200)]
    assert 0.01 <= np.mean(np.array(null) <= 0.05) <= 0.10
    assert randomisation_p(rng.normal(1, 0.5, size=30)) < 0.001
    assert randomisation_p(np.zeros(20)) == 1.0
    exact = 2 / 2**4  # all signs alike, twice of sixteen patterns
    assert randomisation_p(np.ones(4), permutations=20_000) == pytest.approx(exact, abs=0.01)


def test_compare_is_paired() -> None:
    qrels = {str(i): {"d": 1} for i in range(40)}
    better = Run({query: {"d": 1.0} for query in qrels})
    worse = Run({query: {"d": 1.0} if int(query) % 2 else {"e": 2.0, "d": 1.0} for query in qrels})
    found = compare(better, worse, qrels, ["mrr@10", "recall@100"])
    assert found["mrr@10"].mean == pytest.approx(0.25)
    assert found["mrr@10"].low > 0.1
    assert found["mrr@10"].p < 0.001
    assert found["recall@100"] == (0, 0, 0, 1)
    assert compare(worse, better, qrels, ["mrr@10"])["mrr@10"].mean == pytest.approx(-0.25)
    assert estimate(worse, qrels, ["mrr@10"])["mrr@10"].mean == pytest.approx(0.75)


# --- LIMIT ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["dense", "random", "cycle", "disjoint"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_exactly_k_people_like_what_is_asked(pattern: str, k: int) -> None:
    data = limit(200, 60, k, pattern, seed=5)  # type: ignore[arg-type]
    assert (len(data), len(data.queries), len(set(data.ids))) == (200, 60, 200)
    words = {doc["id"]: set(doc["text"].removesuffix(".").replace(",", "").split()) for doc in data.corpus}
    for query, text in data.queries.items():
        thing = text.removeprefix("Who likes ").removesuffix("?")
        assert {key for key, own in words.items() if thing in own} == set(data.qrels[query])
        assert len(data.qrels[query]) == k
    assert len({frozenset(grades) for grades in data.qrels.values()}) == 60, "the combinations are distinct"
    assert all(doc["text"].count(",") == 43 for doc in data.corpus if pattern != "dense"), "45 things each"


def test_patterns_are_what_they_are_called() -> None:
    dense = limit(50, 1000)
    assert len({key for grades in dense.qrels.values() for key in grades}) == 46, "46 people have 1,035 pairs"
    cycle = limit(300, 300, pattern="cycle")
    assert set(Counter(key for grades in cycle.qrels.values() for key in grades).values()) == {2}
    disjoint = limit(600, 300, pattern="disjoint")
    assert set(Counter(key for grades in disjoint.qrels.values() for key in grades).values()) == {1}
    assert limit(60, 100).corpus == limit(60, 100).corpus != limit(60, 100, seed=1).corpus


@pytest.mark.parametrize(
    "arguments",
    [(45, 1000), (10, 20, 2, "cycle"), (39, 20, 2, "disjoint"), (5, 20, 2, "random"), (0,), (50, 10, 0)]
    + [(50, 10, 2, "spiral"), (200_000, 10), (100_000, 50_000, 1, "dense")],
)
def test_limits_of_limit(arguments: tuple) -> None:
    with pytest.raises(BadInput):
        limit(*arguments)


def test_distractors_like_nothing_that_is_asked(tmp_path: Path) -> None:
    small = limit(46, 1000)
    small.save(tmp_path)
    data = limit_with_distractors(tmp_path, 300)
    assert data.corpus[:46] == small.corpus
    assert (data.queries, data.qrels, len(set(data.ids))) == (small.queries, small.qrels, 300)
    asked = {text.removeprefix("Who likes ").removesuffix("?") for text in data.queries.values()}
    liked = [set(doc["text"].partition(" likes ")[2].removesuffix(".").replace(" and ", ", ").split(", "))
             for doc in data.corpus[46:]]  # fmt: skip
    assert not any(asked & own for own in liked)
    assert all(len(own) == 45 for own in liked)
    assert len(set().union(*liked)) <= FILLERS
    with pytest.raises(BadInput, match="less than"):
        limit_with_distractors(tmp_path, 20)
