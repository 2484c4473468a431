"""inlay under the mteb package, on a tiny task that needs no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation import as_mteb_encoder, as_mteb_search
from inlay.types import Document, Space, Sparse

CORPUS = {
    "a": ("Tides", "the moon pulls the sea twice a day"),
    "b": ("", "yeast makes bread rise"),
    "c": ("", "a lathe turns metal"),
    "d": ("", "owls hunt at night"),
}
QUERIES = {"q1": "moon and sea", "q2": "bread with yeast", "q3": "night owls"}
QRELS = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"d": 1}}
WORDS = sorted({word for title, text in CORPUS.values() for word in f"{title} {text}".lower().split()})


class WordCounts:
    """An encoder whose queries are twice as long as its documents, so that a mix-up shows."""

    def __init__(self, metric: str = "cosine", sparse: bool = False) -> None:
        self.space = Space("sparse" if sparse else "dense", len(WORDS), metric, "wordcounts-1")  # type: ignore[arg-type]
        self.calls: list[tuple[str, int]] = []

    def encode_document(self, items: Sequence[str], **options: Any) -> Any:
        self.calls.append(("document", len(items)))
        return self._rows(items)

    def encode_query(self, items: Sequence[str], **options: Any) -> Any:
        self.calls.append(("query", len(items)))
        return self._rows(items)

    def _rows(self, items: Sequence[str]) -> Any:
        rows = np.array([[text.lower().split().count(word) for word in WORDS] for text in items], dtype=np.float32)
        return Sparse.from_dense(rows) if self.space.kind == "sparse" else rows


class Shelf:
    """The least that `as_mteb_search` asks of a collection."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.closed = False

    def add(self, documents: Sequence[Document]) -> None:
        self.documents.extend(documents)

    def search(self, query: str, k: int) -> list[Any]:
        asked = set(query.lower().split())
        scores = [(len(asked & set(doc.text.lower().split())), doc.id) for doc in self.documents]
        return [SimpleNamespace(id=key, score=score) for score, key in sorted(scores, reverse=True)[:k] if score]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def mteb(monkeypatch: pytest.MonkeyPatch) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when the hub client is imported
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("mteb", reason="mteb is not installed (extra: mteb)")


def task(mteb: Any, reranking: bool = False) -> Any:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    class Tiny(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="InlayTiny" + ("Reranking" if reranking else ""),
            description="Four sentences.",
            type="Reranking" if reranking else "Retrieval",
            main_score="map_at_1000" if reranking else "ndcg_at_10",
            eval_langs=["eng-Latn"],
            eval_splits=["test"],
            dataset={"path": "local", "revision": "1"},
        )

        def load_data(self, num_proc: int | None = None, **options: Any) -> None:
            if self.data_loaded:
                return
            corpus = Dataset.from_list([{"id": k, "title": t, "text": x} for k, (t, x) in CORPUS.items()])
            queries = Dataset.from_list([{"id": key, "text": text} for key, text in QUERIES.items()])
            ranked = {query: ["a", "b", "d"] for query in QUERIES} if reranking else None
            split = {"corpus": corpus, "queries": queries, "relevant_docs": QRELS, "top_ranked": ranked}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Tiny()


def score(mteb: Any, model: Any, reranking: bool = False) -> float:
    result = mteb.evaluate(
        model, [task(mteb, reranking)], cache=None, co2_tracker=False, show_progress_bar=False, raise_error=True
    )
    return result.task_results[0].get_score()


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_an_encoder_runs_a_retrieval_task(mteb: Any, metric: str) -> None:
    encoder = WordCounts(metric)
    model = as_mteb_encoder(encoder, name="inlay/wordcounts")
    assert model.mteb_model_meta.revision == "wordcounts-1"
    assert score(mteb, model) == pytest.approx(1.0, abs=0.2)
    assert {kind for kind, _ in encoder.calls} == {"document", "query"}
    assert sum(count for kind, count in encoder.calls if kind == "query") == 3


def test_sparse_rows_are_the_same_as_dense(mteb: Any) -> None:
    assert score(mteb, as_mteb_encoder(WordCounts(sparse=True))) == score(mteb, as_mteb_encoder(WordCounts()))


def test_a_search_runs_retrieval_and_reranking(mteb: Any) -> None:
    made: list[Shelf] = []

    def make() -> Shelf:
        made.append(Shelf())
        return made[-1]

    model = as_mteb_search(make, name="inlay/shelf")
    assert score(mteb, model) == 1.0
    assert score(mteb, model, reranking=True) == 1.0
    assert [shelf.closed for shelf in made] == [True, False], "a task's collection goes when the next one comes"


def test_candidates_that_were_not_found_come_last(mteb: Any) -> None:
    model = as_mteb_search(Shelf, name="inlay/shelf")
    model.index([{"id": key, "title": title, "text": text} for key, (title, text) in CORPUS.items()])
    found = model.search([{"id": "q1", "text": "moon"}], top_k=3, top_ranked={"q1": ["d", "c", "a"]})
    assert set(found["q1"]) == {"a", "c", "d"}
    assert max(found["q1"], key=found["q1"].get) == "a"
    assert len(model.search([{"id": "q1", "text": "the a"}], top_k=1)["q1"]) == 1


def test_a_real_collection_runs(mteb: Any) -> None:
    assert score(mteb, as_mteb_search(mode="lexical", name="inlay/lexical")) == 1.0


def test_names_need_an_organisation(mteb: Any) -> None:
    with pytest.raises(BadInput, match="organisation/model"):
        as_mteb_encoder(WordCounts(), name="wordcounts")
    bags = WordCounts()
    bags.space = Space("multi", 8)
    with pytest.raises(BadInput, match="as_mteb_search"):
        as_mteb_encoder(bags)


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    for adapter in (lambda: as_mteb_encoder(WordCounts()), as_mteb_search):
        with pytest.raises(MissingExtra, match=r"inlay\[mteb\]"):
            adapter()
