"""`inlay doctor --recall`: a collection's searches beside exact ones, and beside graphs over its rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import inlay
from inlay.cli import inlay as root
from inlay.collection import bag_encodings, posting_blocks, views
from inlay.collection.recall_check import QUERY, checked_spaces, dense_rows
from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.collection_recall import collection_recall
from inlay.types import Sparse

DIM = 12
needs_usearch = pytest.mark.skipif(importlib.util.find_spec("usearch") is None, reason="needs usearch")


def dense(n: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sparse(n: int, seed: int = 0, columns: int = 300) -> Sparse:
    rng = np.random.default_rng(seed)
    rows = rng.random((n, columns), dtype=np.float32)
    return Sparse.from_dense(np.where(rng.random((n, columns)) < 0.2, rows, 0).astype(np.float32))


def bags(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        tokens = rng.standard_normal(DIM) + 0.5 * rng.standard_normal((0 if i == 3 else rng.integers(1, 50), DIM))
        found.append((tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32))
    return found


def collection(path: Path, vectors: Any, n: int, parts: int = 1, **options: Any) -> inlay.Collection:
    c = inlay.open(path, encoder=False, **options)
    size = n // parts
    for low in range(0, n, size):
        c.add([{"id": str(i), "text": f"text {i}"} for i in range(low, low + size)], vectors=vectors[low : low + size])
    return c


def space(c: inlay.Collection, **options: Any) -> Any:
    return next(one for one in checked_spaces(c, **options) if one.space == "dense")


@pytest.mark.parametrize("kind", ["dense", "sparse", "multi"])
def test_what_is_scanned_is_exact_and_not_measured(tmp_path: Path, kind: str) -> None:
    rows: Any = {"dense": dense(40), "sparse": sparse(40), "multi": bags(40)}[kind]
    with collection(tmp_path / "c.inlay", rows, 40) as c:
        c.delete(["0", "1"])
        lexical, other = checked_spaces(c)
        assert (lexical.space, lexical.exact, lexical.rows) == ("lexical", True, 38)
        assert (other.kind, other.exact, other.rows, other.pending) == (kind, True, 38, 0)
        assert not len(other.recall)
        assert {"dense": "float32", "sparse": "posting lists", "multi": "bags"}[kind] in other.how


def test_blocks_of_a_sparse_space_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_blocks, "BLOCKED", 400)
    rows = sparse(1000)
    with collection(tmp_path / "s.inlay", rows, 1000, parts=2) as c:
        c.delete(["5"])
        found = space(c, k=10, sample=60)
        assert not found.exact
        assert found.how == "Seismic's blocks"
        assert len(found.recall) == 60
        assert found.recall.mean() > 0.95  # in lists this short hardly anything is skipped
        monkeypatch.setattr(views, "QUERY_CUT", 2)  # of some thirty lists
        worse = space(c, k=10, sample=60)
        assert 0.1 < worse.recall.mean() < 0.9
        np.testing.assert_array_equal(space(c, k=10, sample=60).recall, worse.recall)
        assert not np.array_equal(space(c, k=10, sample=60, seed=1).recall, worse.recall)
        c.add([{"id": "more", "text": "x"}], vectors=sparse(1, 7))
        assert space(c).how == "Seismic's blocks, in 2 of 3 segments; else posting lists"


def test_encodings_of_bags_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_encodings, "ENCODED", 100)
    for dtype in ("float32", "int8"):
        with collection(tmp_path / f"{dtype}.inlay", bags(600), 600, dtype=dtype) as c:
            c.delete(["8"])
            found = space(c, k=5, sample=40)
            assert found.how.startswith("MUVERA's encodings")
            assert 0.6 < found.recall.mean() <= 1
            assert len(found.recall) in (39, 40)  # the empty bag asks for nothing


def test_a_search_that_finds_nothing_has_no_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure itself: what a search loses must be seen."""
    monkeypatch.setattr(posting_blocks, "BLOCKED", 100)
    with collection(tmp_path / "s.inlay", sparse(400), 400) as c:
        view = c._snapshot.view("dense")
        right = type(view).search

        def half(self: Any, query: Any, k: int, allowed: Any = None) -> Any:
            chunks, scores = right(self, query, k, allowed)
            return chunks[::2], scores[::2]

        monkeypatch.setattr(type(view), "search", lambda self, query, k, allowed=None: (np.empty(0, int), np.empty(0)))
        assert space(c, sample=20).recall.tolist() == [0] * 20
        monkeypatch.setattr(type(view), "search", half)
        assert 0.3 < space(c, sample=20).recall.mean() < 0.6


def test_queries_are_the_rows_cut_short(tmp_path: Path) -> None:
    from inlay.collection.recall_check import _multi_queries, _sparse_queries

    rows, documents = sparse(50, columns=400), bags(50)
    with collection(tmp_path / "s.inlay", rows, 50, parts=2) as c:
        queries = _sparse_queries(c._snapshot.view("dense"), np.arange(1, 51))
        for i, (chunk, query) in enumerate(queries):
            own = rows[[i]].toarray()[0]
            kept = np.sort(np.argsort(-own, kind="stable")[:QUERY])
            assert chunk == i + 1
            np.testing.assert_array_equal(query.indices, kept)
            np.testing.assert_allclose(query.data, own[kept])
    with collection(tmp_path / "m.inlay", documents, 50, parts=2) as c:
        queries = _multi_queries(c._snapshot.view("dense"), np.arange(1, 51))
        assert len(queries) == 49
        for chunk, query in queries:
            np.testing.assert_allclose(query, documents[chunk - 1][:QUERY], atol=1e-6)


def test_dense_rows_come_in_order_and_decoded(tmp_path: Path) -> None:
    rows = dense(90)
    for dtype, near in (("float32", 1e-6), ("int8", 0.02)):
        with collection(tmp_path / f"{dtype}.inlay", rows, 90, parts=3, dtype=dtype) as c:
            c.delete(["1"])
            found = dense_rows(c, 1000)
            assert found is not None
            np.testing.assert_allclose(found[0], np.delete(rows, 1, axis=0), atol=near)
            assert found[1] == "cosine"
            few = dense_rows(c, 10, seed=2)
            assert few is not None
            places = (few[0] @ rows.T).argmax(axis=1)
            assert (np.diff(places) > 0).all()
    with collection(tmp_path / "s.inlay", sparse(9), 9) as c:
        assert dense_rows(c, 5) is None


@needs_usearch
def test_graphs_over_dense_rows(tmp_path: Path) -> None:
    with collection(tmp_path / "d.inlay", dense(700), 700) as c:
        found = collection_recall(c, efs=(10, 300), seeds=2)
        assert found.order is not None
        assert found.difficulty is not None
        assert found.order.rows == 560  # a fifth is kept out, to ask with
        for order in ("given", "lid-desc"):
            assert found.order.mean("usearch", order, 300) > 0.99
        assert 4 < found.difficulty.lid_mean < 14
        assert not found.remark
        said = "\n".join(found.lines())
        assert "exact" in said
        assert "highest LID first" in said
        assert json.dumps(found.to_dict())
        assert collection_recall(c, rows=300, efs=(10,), seeds=1).remark.startswith("A graph over more rows")


def test_without_an_engine_the_rest_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with collection(tmp_path / "d.inlay", dense(200), 200) as c:
        found = collection_recall(c)
    assert found.order is None
    assert found.difficulty is not None
    assert "inlay[hnsw]" in found.remark
    assert isinstance(MissingExtra("graph indexes", "hnsw"), ImportError)


def test_too_few_rows_or_none(tmp_path: Path) -> None:
    with collection(tmp_path / "d.inlay", dense(20), 20) as c:
        assert "20 dense rows are too few" in collection_recall(c).remark
    with collection(tmp_path / "s.inlay", sparse(20), 20) as c:
        assert "no dense rows" in collection_recall(c).remark
    with inlay.open(tmp_path / "empty.inlay", encoder=False) as c:
        assert [one.rows for one in checked_spaces(c)] == [0]
        for bad in ({"k": 0}, {"k": True}, {"sample": -1}, {"sample": 1.5}):
            with pytest.raises(BadInput, match="positive integer"):
                checked_spaces(c, **bad)


def test_rows_that_share_nothing_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_blocks, "BLOCKED", 10)
    with collection(tmp_path / "s.inlay", Sparse.from_dense(np.eye(30, dtype=np.float32)), 30) as c:
        assert not len(space(c).recall)
        assert any("have no neighbours" in line for line in collection_recall(c).lines())


# --- the command -----------------------------------------------------------------------------------------------------


def run(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(root, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@needs_usearch
def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "d.inlay"
    collection(path, dense(300), 300).close()
    said = run("doctor", str(path), "--recall").stdout
    assert said.startswith("everything verifies\nlexical: 300 rows, searched by posting lists: exact\n")
    assert "dense: 300 rows, searched by a scan of all rows as stored (float32): exact" in said
    assert "LID" in said
    found = json.loads(run("doctor", str(path), "--recall", "--sample", "5", "--json").stdout)
    assert found["ok"] is True
    assert found["recall"]["spaces"]["dense"]["exact"] is True
    assert set(found["recall"]["graph"]["recall"]["usearch"]) == {"given", "lid-desc"}
    assert found["recall"]["difficulty"]["rows"] == 300
    assert "recall" not in json.loads(run("doctor", str(path), "--json").stdout)
    assert "0 is not in the range" in run("doctor", str(path), "--recall", "--sample", "0", code=2).stderr


def test_the_command_measures_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_blocks, "BLOCKED", 100)
    path = tmp_path / "s.inlay"
    collection(path, sparse(400), 400).close()
    said = run("doctor", str(path), "--recall", "--sample", "20").stdout
    assert "searched by Seismic's blocks: recall@10 " in said
    assert "20 passages as queries" in said
    found = json.loads(run("doctor", str(path), "--recall", "--json").stdout)["recall"]["spaces"]["dense"]
    assert found["queries"] == 100
    assert found["interval"][0] <= found["recall"] <= found["interval"][1]


def test_what_does_not_verify_is_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "d.inlay"
    collection(path, np.repeat(dense(300), 40, axis=1), 300).close()
    (file,) = path.rglob("rows.safetensors")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    result = run("doctor", str(path), "--recall", code=1)
    assert "once everything verifies" in result.stderr
    assert "recall" not in json.loads(run("doctor", str(path), "--recall", "--json", code=1).stdout)
