"""Collections whose large dense segments have a graph: the same answers as a scan, and what is left where it fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inlay
from inlay.collection import row_graphs
from inlay.collection.recall_check import checked_spaces
from inlay.errors import Corrupt

pytest.importorskip("numba")

DIM, ROWS = 24, 900


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_graphs, "GRAPHED", 500)
    monkeypatch.setattr(row_graphs, "NUMBERS", 0)


def rows(n: int = ROWS, seed: int = 0) -> np.ndarray:
    """Around 40 centres, so that near ones are near."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((40, DIM))
    return (centres[rng.integers(40, size=n)] + 0.5 * rng.standard_normal((n, DIM))).astype(np.float32)


def made(path: Path, vectors: np.ndarray, first: int = 0, **options: Any) -> Any:
    c = inlay.open(path, encoder=False, **options)
    texts = [{"id": str(first + i), "text": f"text {first + i}", "third": i % 3} for i in range(len(vectors))]
    c.add(texts, vectors=vectors)
    return c


def graphed(c: Any) -> list[bool]:
    with c._mutex:
        found: list[bool] = c._snapshot.view("dense").graphed()
        return found


def exact(vectors: np.ndarray, query: np.ndarray, metric: str, alive: np.ndarray, k: int) -> list[str]:
    v = vectors.astype(np.float64)
    if metric == "cosine":
        scores = (v / np.linalg.norm(v, axis=1, keepdims=True)) @ query
    else:
        scores = v @ query if metric == "dot" else -((v - query) ** 2).sum(1)
    order = alive[np.argsort(-scores[alive], kind="stable")]
    return [str(i) for i in order[:k]]


def overlap(hits: Any, expected: list[str]) -> float:
    return len({hit.id for hit in hits} & set(expected)) / len(expected)


def stored(path: Path) -> Path:
    return max(path.glob("segments/*/rows.safetensors"), key=lambda one: one.stat().st_size)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_graph_finds_what_a_scan_finds(tmp_path: Path, metric: str, dtype: str) -> None:
    vectors, queries = rows(), rows(20, 1)
    path = tmp_path / "d.inlay"
    made(path, vectors, metric=metric, dtype=dtype).close()
    with inlay.open(path, encoder=False) as c:
        assert any(graphed(c))
        every = np.arange(ROWS)
        for filtered in (None, {"third": 1}):
            alive = every if filtered is None else every[every % 3 == 1]
            found = [
                overlap(c.search(vector=q, k=10, where=filtered), exact(vectors, q, metric, alive, 10)) for q in queries
            ]
            assert np.mean(found) > (0.9 if dtype == "int8" else 0.97)
        # The score is that of the rows as they are stored, as a scan gives it.
        hits = c.search(vector=queries[0], k=5)
        with c._mutex:
            view = c._snapshot.view("dense")
            query = queries[0] / np.linalg.norm(queries[0]) if metric == "cosine" else queries[0]
            scanned = dict(zip(*(part.tolist() for part in view.scan(query, 900))))
            chunks, scores = view.search(query, 5)
        np.testing.assert_allclose(scores, [scanned[chunk] for chunk in chunks.tolist()], rtol=1e-5, atol=1e-5)
        assert len(hits) == 5


def test_deleted_rows_are_never_found_and_merges_make_the_graph_again(tmp_path: Path) -> None:
    vectors, path = rows(), tmp_path / "d.inlay"
    with made(path, vectors) as c:
        query = rows(1, 3)[0]
        gone = [hit.id for hit in c.search(vector=query, k=20)]
        c.delete(gone)
        alive = np.array([i for i in range(ROWS) if str(i) not in set(gone)])
        assert overlap(c.search(vector=query, k=10), exact(vectors, query, "cosine", alive, 10)) >= 0.9
        c.compact()
        assert graphed(c) == [True]
        assert overlap(c.search(vector=query, k=10), exact(vectors, query, "cosine", alive, 10)) >= 0.9
        assert not {hit.id for hit in c.search(vector=query, k=200)} & set(gone)


def test_small_segments_are_scanned_beside_a_graph_and_folded_into_it(tmp_path: Path) -> None:
    vectors, path = rows(), tmp_path / "d.inlay"
    made(path, vectors[:700]).close()
    made(path, vectors[700:], first=700).close()
    with inlay.open(path, encoder=False) as c:
        assert sorted(graphed(c)) == [False, True]
        query = vectors[800]
        assert c.search(vector=query, k=1)[0].id == "800"
        c.compact()
        assert graphed(c) == [True]
        assert c.search(vector=query, k=1)[0].id == "800"


def test_nothing_is_built_below_the_size_or_without_numba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(tmp_path / "few.inlay", rows(400)) as c:
        assert not any(graphed(c))
    path = tmp_path / "d.inlay"
    made(path, rows()).close()
    with monkeypatch.context() as without:
        without.setattr(row_graphs.importlib.util, "find_spec", lambda name: None)
        with inlay.open(path, encoder=False) as c:
            assert not any(graphed(c))
            query = rows(1, 5)[0]
            assert [hit.id for hit in c.search(vector=query, k=10)] == exact(
                rows(), query, "cosine", np.arange(ROWS), 10
            )
        with made(tmp_path / "scanned.inlay", rows()) as c:
            assert not any(graphed(c))
    with inlay.open(tmp_path / "scanned.inlay", encoder=False) as c:
        assert not any(graphed(c))
        c.delete(["3"])
        c.compact()
        assert graphed(c) == [True]
    assert "numba" in sys.modules


def test_a_graph_that_loses_rows_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_graphs, "CONNECTIVITY", 2)
    monkeypatch.setattr(row_graphs, "EXPANSION_ADD", 2)
    monkeypatch.setattr(row_graphs, "EF", 1)
    spread = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    with made(tmp_path / "d.inlay", spread) as c:
        assert not any(graphed(c))
        assert c.search(vector=spread[17], k=1)[0].id == "17"


def test_graphs_of_another_version_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.inlay"
    from inlay.indexes.dense_graph import DenseGraph

    facts = DenseGraph.facts
    with monkeypatch.context() as other:
        other.setattr(DenseGraph, "facts", lambda self: {**facts(self), "settings": {"dim": DIM, "unheard": 1}})
        made(path, rows()).close()
    with inlay.open(path, encoder=False) as c:
        assert not any(graphed(c))
        assert c.search(vector=rows()[7], k=1)[0].id == "7"


@pytest.mark.parametrize("part", ["graph.links", "graph.codes", "rows"])
def test_a_damaged_byte_is_an_error_and_no_answer(tmp_path: Path, part: str) -> None:
    from inlay.io import Pack

    path = tmp_path / "d.inlay"
    made(path, rows(6000)).close()
    file = stored(path)
    data = bytearray(file.read_bytes())
    pack = Pack(bytes(data), "test")
    start, stop = pack._header[part]["data_offsets"]
    for at in range(pack._data + start, pack._data + stop, 100_000):  # a byte of every block
        data[at] ^= 0x40
    file.write_bytes(bytes(data))
    with inlay.open(path, encoder=False, mode="r") as c, pytest.raises(Corrupt, match="inlay doctor"):
        c.search(vector=rows()[7], k=3)


def test_some_rows_of_a_pack_are_verified_alone(tmp_path: Path) -> None:
    from inlay.io import BLOCK, Pack, write_pack

    array = np.arange(4 * BLOCK // 4, dtype=np.float32).reshape(-1, 64)
    sums = write_pack(tmp_path / "p", {"rows": array, "other": np.arange(5)})
    data = bytearray((tmp_path / "p").read_bytes())
    data[3 * BLOCK + 5] ^= 1  # the rows of the fourth block
    pack = Pack(bytes(data), "p", sums)
    ids = np.array([5, 0, 5])
    np.testing.assert_array_equal(pack.rows("rows", ids), array[ids])
    assert pack.rows("rows", np.empty(0, dtype=np.int64)).shape == (0, 64)
    with pytest.raises(Corrupt):
        pack.rows("rows", np.array([3 * BLOCK // 256 + 1]))


def test_recall_of_a_graph_is_measured(tmp_path: Path) -> None:
    with made(tmp_path / "d.inlay", rows()) as c:
        (dense,) = [one for one in checked_spaces(c) if one.space == "dense"]
    assert not dense.exact
    assert "graph over rows" in dense.how
    assert dense.recall.mean() > 0.97
