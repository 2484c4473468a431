"""Collections of sparse rows and of bags of vectors: what holds for dense ones holds for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inlay
from inlay.collection import bag_encodings, posting_blocks
from inlay.errors import BadInput, InlayError, SpaceMismatch
from inlay.kernels import seismic as kernel
from inlay.types import Ragged, Space, Sparse

DIM = 16


def bags(n: int, seed: int = 0, *, empty: int | None = None) -> list[np.ndarray]:
    """n bags of unit vectors around a direction of their own."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        tokens = rng.standard_normal(DIM) + 0.4 * rng.standard_normal((0 if i == empty else rng.integers(1, 9), DIM))
        found.append((tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32))
    return found


def sparse(n: int, seed: int = 0, columns: int = 40) -> Sparse:
    rng = np.random.default_rng(seed)
    dense = rng.random((n, columns), dtype=np.float32)
    return Sparse.from_dense(np.where(rng.random((n, columns)) < 0.2, dense, 0).astype(np.float32))


def nearest(query: np.ndarray, documents: list[np.ndarray], alive: Any, k: int) -> list[int]:
    scores = [(query @ tokens.T).max(1).sum() if len(tokens) else -np.inf for tokens in documents]
    order = sorted((i for i in alive if np.isfinite(scores[i])), key=lambda i: (-scores[i], i))
    return order[:k]


def ids(hits: list[Any]) -> list[str]:
    return [hit.id for hit in hits]


@pytest.mark.parametrize("form", ["list", "ragged", "array"])
def test_bags_are_found_by_maxsim_filtered_deleted_and_kept(tmp_path: Path, form: str) -> None:
    documents = bags(60, empty=None if form == "array" else 7)
    if form == "array":
        documents = [np.resize(tokens, (4, DIM)) for tokens in documents]
    given: Any = {
        "list": documents,
        "ragged": Ragged(np.concatenate(documents), np.cumsum([0, *map(len, documents)])),
        "array": np.stack(documents) if form == "array" else None,
    }[form]
    queries = bags(5, 1)
    path = tmp_path / "b.inlay"
    with inlay.open(path, encoder=False) as c:
        c.add([{"id": str(i), "text": f"text {i}", "odd": i % 2} for i in range(60)], vectors=given)
        for query in queries:
            assert ids(c.search(vector=query)) == [str(i) for i in nearest(query, documents, range(60), 10)]
        assert c.delete([str(i) for i in range(0, 60, 3)]) == 20
        alive = [i for i in range(60) if i % 3]
        odd = [i for i in alive if i % 2]
        for query in queries:
            assert ids(c.search(vector=query)) == [str(i) for i in nearest(query, documents, alive, 10)]
            assert ids(c.search(vector=query, where={"odd": 1})) == [str(i) for i in nearest(query, documents, odd, 10)]
    with inlay.open(path) as c:
        assert repr(c).endswith(f"multi {DIM}>")
        c.compact()
        assert not c.verify()
        for query in queries:
            assert ids(c.search(vector=query)) == [str(i) for i in nearest(query, documents, alive, 10)]
            hit = c.search("text 1", vector=query, mode="hybrid")[0]
            assert set(hit.spaces) <= {"lexical", "dense"}
        c.update([{"id": "1", "text": "text 1", "odd": 1}], vectors=[documents[5]])
        assert {"1", "5"} == set(ids(c.search(vector=documents[5], k=2)))


def test_many_bags_have_encodings_and_merges_keep_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bag_encodings, "ENCODED", 100)
    documents, queries = bags(900, 2), bags(30, 3)
    for dtype, least in (("float32", 0.9), ("int8", 0.85)):
        with inlay.open(tmp_path / f"{dtype}.inlay", encoder=False, dtype=dtype) as c:
            for low in range(0, 900, 300):
                chosen = range(low, low + 300)
                c.add([{"id": str(i), "text": "x"} for i in chosen], vectors=[documents[i] for i in chosen])
            assert all("encodings" in segment.pack for segment in c._snapshot.segments["dense"])

            def hits(c: Any = c) -> float:
                return float(
                    np.mean(
                        [
                            len(set(ids(c.search(vector=q, k=5))) & set(map(str, nearest(q, documents, range(900), 5))))
                            / 5
                            for q in queries
                        ]
                    )
                )

            assert hits() >= least
            c.compact()
            (segment,) = c._snapshot.segments["dense"]
            assert segment.pack["encodings"].shape[0] == 900
            assert hits() >= least
            assert ids(c.search(vector=queries[0], where={"none": 1})) == []


def test_sparse_rows_are_found_filtered_deleted_and_kept(tmp_path: Path) -> None:
    rows, queries = sparse(80), sparse(6, 1)
    dense = rows.toarray()
    with inlay.open(tmp_path / "s.inlay", encoder=False) as c:
        c.add([{"id": str(i), "text": f"text {i}", "odd": i % 2} for i in range(80)], vectors=rows)
    with inlay.open(tmp_path / "s.inlay") as c:
        assert c.delete([str(i) for i in range(0, 80, 4)]) == 20
        for compacted in (False, True):
            if compacted:
                c.compact()
                assert not c.verify()
            for q in range(6):
                scores = dense @ queries.toarray()[q]
                for where, alive in (
                    (None, [i for i in range(80) if i % 4]),
                    ({"odd": 1}, [i for i in range(80) if i % 2]),
                ):
                    want = sorted((i for i in alive if scores[i] > 0), key=lambda i: (-scores[i], i))[:10]
                    found = c.search(vector=queries[[q]], where=where)
                    assert ids(found) == [str(i) for i in want]
                    np.testing.assert_allclose([hit.score for hit in found], scores[want], rtol=1e-5)
        from_scipy = c.search(vector=queries[[0]].to_scipy())
        assert ids(from_scipy) == ids(c.search(vector=queries.toarray()[0]))


def test_large_sparse_segments_are_searched_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_blocks, "BLOCKED", 500)
    rows, queries = sparse(1500, 4, columns=300), sparse(20, 5, columns=300)
    scores = queries.toarray() @ rows.toarray().T
    with inlay.open(tmp_path / "s.inlay", encoder=False) as c:
        for low in range(0, 1500, 750):
            c.add([{"id": str(i), "text": "x", "n": i} for i in range(low, low + 750)], vectors=rows[low : low + 750])
        for merged in (False, True):
            if merged:
                c.delete(["0", "1"])
                c.compact()
            assert all("seismic.starts" in segment.pack for segment in c._snapshot.segments["dense"])
            found = 0
            for q in range(20):
                best = np.argsort(-scores[q], kind="stable")
                hits = c.search(vector=queries[[q]])
                found += len({hit.id for hit in hits} & {str(i) for i in best[best > 1][:10]})
                np.testing.assert_allclose([h.score for h in hits], scores[q][[int(h.id) for h in hits]], rtol=2e-3)
                few = c.search(vector=queries[[q]], where={"n": {"$lt": 60, "$gte": 2}})  # too few for blocks: exact
                want = [i for i in best.tolist() if 2 <= i < 60][:10]
                assert ids(few) == [str(i) for i in want]
            assert found >= 0.9 * 200
        assert not c.verify()
    negative = Sparse(rows.indptr, rows.indices, -rows.data, rows.shape)
    with inlay.open(tmp_path / "n.inlay", encoder=False) as c:
        c.add(["x"] * 1500, vectors=negative)
        (segment,) = c._snapshot.segments["dense"]
        assert "seismic.starts" not in segment.pack
        asked = Sparse(queries.indptr, queries.indices, -queries.data, queries.shape)[[0]]
        assert ids(c.search(vector=asked, k=5)) == [f"#{i + 1}" for i in np.argsort(-scores[0], kind="stable")[:5]]


class Lazy:
    """An expensive encoder of a kind: a text is its numbers."""

    expensive, at_once = True, 0

    def __init__(self, kind: str) -> None:
        self.space = Space(kind, 3, "dot", f"lazy {kind}")  # type: ignore[arg-type]
        self.asked: list[str] = []

    def encode_document(self, items: Any, **_: Any) -> Any:
        self.asked += items
        return self.encode_query(items)

    def encode_query(self, items: Any, **_: Any) -> Any:
        found = [[len(text) % 7 + 1.0, 1.0, float("b" in text)] for text in items]
        if self.space.kind == "sparse":
            return Sparse.from_dense(np.array(found, dtype=np.float32))
        offsets = np.arange(0, 2 * len(found) + 1, 2)
        return Ragged(np.repeat(np.array(found, dtype=np.float32), 2, axis=0), offsets)


@pytest.mark.parametrize("kind", ["sparse", "multi"])
@pytest.mark.parametrize("saved", [True, False], ids=["writable", "read-only"])
def test_rows_of_every_kind_come_lazily(tmp_path: Path, kind: str, saved: bool) -> None:
    made, path = Lazy(kind), tmp_path / "l.inlay"
    with inlay.open(path, encoder=made) as c:
        c.add([{"id": str(i), "text": "word " + "a" * i + ("b" if i % 2 else "")} for i in range(30)])
        assert not made.asked
    with inlay.open(path, encoder=made, mode="a" if saved else "r") as c:
        hits = c.search("word", k=5, rerank=10)
        assert len(made.asked) == 10
        assert all(hit.reranked for hit in hits)
        again = c.search("word", k=5, rerank=10)
        assert len(made.asked) == 10
        assert ids(again) == ids(hits)
        assert c.info()["spaces"]["dense"]["pending"] == (20 if saved else 30)
    with inlay.open(path, encoder=made) as c:
        assert c.embed() == (20 if saved else 30)
        assert not c.verify()
        assert len(c.search("word", k=30, mode="dense")) == 30


def test_the_boxed_model_reads_token_by_token(tmp_path: Path) -> None:
    with inlay.open(tmp_path / "late.inlay", encoder="late-box") as c:
        c.add([{"id": "sea", "text": "Waves break on the shore."}, {"id": "tax", "text": "Pay your taxes in April."}])
    with inlay.open(tmp_path / "late.inlay") as c:
        assert ids(c.search("ocean surf", mode="dense"))[0] == "sea"
        assert ids(c.search("what do I owe the government"))[0] == "tax"


BROKEN: list[Any] = [
    [[[1, 2], [3]]], [[["x", "y"]]], [[[1.0, 2.0]], None], [np.ones((2, 2), complex)], np.ones((2, 2), complex),
    np.zeros((1, 2, 0)), Ragged(np.ones((3, 2), np.float32), np.array([0, 9])),
    Sparse(np.array([0, 2]), np.array([0.0, 1.0]), np.ones(2, np.float32), (1, 10)),
    Sparse(np.array([0, 2]), np.array([-1, 1]), np.ones(2, np.float32), (1, 10)),
    Sparse(np.array([0, 0]), np.empty(0, np.int64), np.empty(0, np.float32), (1, 0)),
]  # fmt: skip


@pytest.mark.parametrize("vectors", BROKEN, ids=range(len(BROKEN)))
def test_what_are_no_vectors_is_refused_by_name(tmp_path: Path, vectors: Any) -> None:
    with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
        with pytest.raises(InlayError):
            c.add([str(i) for i in range(len(vectors))], vectors=vectors)
        assert c.add(["a"], vectors=np.ones((1, 3))).added == 1
        assert c.verify() == []


@pytest.mark.parametrize("offsets", [[0, 5], [1, 2], [0, 2, 1], [0, 3, 2]], ids=str)
def test_offsets_of_sparse_rows_are_checked(offsets: list[int]) -> None:
    with pytest.raises(BadInput, match="offsets"):
        Sparse(np.array(offsets), np.array([0, 1]), np.ones(2, np.float32), (len(offsets) - 1, 10))


def test_many_documents_without_tokens_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_encodings, "ENCODED", 10)
    monkeypatch.setattr(bag_encodings, "PART", 8)
    given = [np.zeros((0, DIM), np.float32)] * 20 + bags(20)
    with inlay.open(tmp_path / "e.inlay", encoder=False) as c:
        c.add([{"id": str(i), "text": "x"} for i in range(40)], vectors=given)
        assert c.search(vector=given[30], k=1)[0].id == "30"


def test_blocks_of_another_layout_leave_the_exact_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_blocks, "BLOCKED", 50)
    rows = sparse(60)
    with inlay.open(tmp_path / "s.inlay", encoder=False) as c:
        c.add(["x"] * 60, vectors=rows)
        assert c.search(vector=rows[[3]])[0].id == "#4"
    monkeypatch.setattr(kernel.Arrays, "_fields", (*kernel.Arrays._fields, "newer"))
    with inlay.open(tmp_path / "s.inlay") as c:
        best = np.argsort(-(rows.toarray() @ rows.toarray()[3]), kind="stable")[:10]
        assert ids(c.search(vector=rows[[3]])) == [f"#{i + 1}" for i in best]


def test_wrong_vectors_are_refused_and_bad_ones_reported(tmp_path: Path) -> None:
    documents = bags(3)
    with inlay.open(tmp_path / "m.inlay", encoder=False) as c:
        bad = [tokens.copy() for tokens in documents]
        bad[1][0, 0] = np.nan
        report = c.add(["a", "b", "c"], vectors=bad)
        assert report.added == 2
        assert "NaN" in report.failed[0].reason
        with pytest.raises(SpaceMismatch, match="multi"):
            c.add(["d"], vectors=np.ones((1, DIM), np.float32))
        with pytest.raises(SpaceMismatch, match="dimensions"):
            c.add(["d"], vectors=[np.ones((2, DIM + 1), np.float32)])
        with pytest.raises(BadInput, match="2 vectors for 1"):
            c.add(["d"], vectors=documents[:2])
        with pytest.raises(BadInput, match="tokens"):
            c.search(vector=np.ones(DIM))
        with pytest.raises(SpaceMismatch):
            c.search(vector=np.ones((2, DIM + 1)))
        with pytest.raises(BadInput, match="NaN"):
            c.search(vector=np.full((2, DIM), np.inf))
    with inlay.open(tmp_path / "s.inlay", encoder=False) as c:
        rows = sparse(4)
        rows.data[0] = np.inf
        assert c.add(list("abcd"), vectors=rows).added == 3
        with pytest.raises(SpaceMismatch):
            c.search(vector=sparse(1, columns=41))
        with pytest.raises(BadInput, match="one sparse row"):
            c.search(vector=sparse(2))
    with (
        inlay.open(tmp_path / "l2.inlay", encoder=False, metric="l2") as c,
        pytest.raises(BadInput, match="metric='l2'"),
    ):
        c.add(["a"], vectors=documents[:1])
