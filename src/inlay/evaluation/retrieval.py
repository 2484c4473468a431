"""A data set through a real collection: documents in, queries asked one by one, measures out.

What is measured is what a user of the collection gets, storage and fusion included, and not a shortcut through arrays.
Each document is one passage, its title joined before its text, as retrieval benchmarks are usually run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inlay.errors import BadInput
from inlay.evaluation.measures import MEASURES, Difference, Estimate, compare, estimate
from inlay.evaluation.retrieval_set import RetrievalSet
from inlay.evaluation.run import Run

if TYPE_CHECKING:
    from inlay.types import Encoder, Hit

__all__ = ["Result", "evaluate"]

MODES = ("hybrid", "dense", "lexical")


@dataclass
class Result:
    """What an evaluation found.

    Args:
        dataset: name of the set.
        split: which judgments.
        mode: how was searched.
        encoder: name of the encoder, None where none took part.
        queries: judged queries.
        documents: documents that were indexed.
        measures: measure → mean and 95% interval.
        index_seconds: adding and embedding the documents.
        search_seconds: all queries, one after another.
        seconds: everything, measuring included.
        run: the answers.
        failed: documents that the collection refused, id → reason (empty texts, for example).
        baseline: name of the run that was compared with.
        differences: measure → run minus baseline.
    """

    dataset: str
    split: str
    mode: str
    encoder: str | None
    queries: int
    documents: int
    measures: dict[str, Estimate]
    index_seconds: float
    search_seconds: float
    seconds: float
    run: Run = field(repr=False)
    failed: dict[str, str] = field(default_factory=dict, repr=False)
    baseline: str | None = None
    differences: dict[str, Difference] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: each measure under its name, its interval under `<name>_interval`."""
        flat: dict[str, Any] = {
            "dataset": self.dataset,
            "split": self.split,
            "mode": self.mode,
            "encoder": self.encoder,
            "queries": self.queries,
            "documents": self.documents,
        }
        for name, (mean, low, high) in self.measures.items():
            flat[name] = round(mean, 6)
            flat[f"{name}_interval"] = [round(low, 6), round(high, 6)]
        flat |= {
            "seconds": round(self.seconds, 3),
            "index_seconds": round(self.index_seconds, 3),
            "search_seconds": round(self.search_seconds, 3),
            "failed": len(self.failed),
        }
        if self.differences:
            flat["baseline"] = self.baseline
            flat["differences"] = {
                name: {"mean": round(gain.mean, 6), "interval": [round(gain.low, 6), round(gain.high, 6)], "p": gain.p}
                for name, gain in self.differences.items()
            }
        return flat


def evaluate(
    dataset: RetrievalSet | str | Path,
    *,
    mode: Literal["hybrid", "dense", "lexical"] = "hybrid",
    encoder: str | Encoder | None = None,
    k: int = 100,
    measures: Sequence[str] = MEASURES,
    split: str = "test",
    baseline: Run | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = False,
    **search: Any,
) -> Result:
    """Index a data set in a temporary collection, ask every judged query, and measure the answers.

    Args:
        dataset: a `RetrievalSet`, or a folder that `RetrievalSet.load` reads.
        mode: `hybrid`, `dense` or `lexical`.
        encoder: name of an encoder or an encoder; None for the collection's own choice.
        k: documents asked for per query; recall@100 needs 100.
        measures: names, see `per_query`.
        split: judgments to load if `dataset` is a folder.
        baseline: a run to compare with on the same queries.
        resamples: of the bootstrap intervals.
        seed: of the intervals and the test.
        progress: show bars.
        search: further options of `Collection.search`.
    """
    import inlay
    from inlay.types import Chunk, Document

    if mode not in MODES:
        raise BadInput(f"mode {mode!r} is not one of {', '.join(MODES)}")
    if k < 1:
        raise BadInput(f"k must be at least 1, got {k}")
    if not isinstance(dataset, RetrievalSet):
        dataset = RetrievalSet.load(dataset, split)
    if not dataset.queries:
        raise BadInput(f"{dataset.name or 'the set'} has no judged query in split {dataset.split!r}")
    name = None if mode == "lexical" else encoder if isinstance(encoder, str) else _name(encoder)
    began = time.perf_counter()
    documents = (Document(key, text, chunks=[Chunk(0, len(text))]) for key, text in zip(dataset.ids, dataset.texts))
    with tempfile.TemporaryDirectory(prefix="inlay-eval-") as folder:
        collection = inlay.open(Path(folder) / "collection", encoder=False if mode == "lexical" else encoder)
        with collection:
            report = collection.add(documents, on_error="skip", progress=progress)
            if mode != "lexical":
                collection.embed(progress=progress)
            indexed = time.perf_counter()
            scores: dict[str, dict[str, float]] = {}
            for query, text in _shown(dataset.queries.items(), len(dataset.queries), progress):
                hits = collection.search(text, k=k, mode=mode, per="document", **search)
                scores[query] = _scores(hits)
            searched = time.perf_counter()
            size = len(collection)
    run = Run(scores, name="-".join(filter(None, ["inlay", mode, name])))
    found = estimate(run, dataset.qrels, measures, resamples=resamples, seed=seed)
    differences = compare(run, baseline, dataset.qrels, measures, resamples=resamples, seed=seed) if baseline else {}
    return Result(
        dataset=dataset.name,
        split=dataset.split,
        mode=mode,
        encoder=name,
        queries=len(dataset.queries),
        documents=size,
        measures=found,
        index_seconds=indexed - began,
        search_seconds=searched - indexed,
        seconds=time.perf_counter() - began,
        run=run,
        failed={failure.id: failure.reason for failure in report.failed},
        baseline=baseline.name if baseline else None,
        differences=differences,
    )


def _scores(hits: Sequence[Hit]) -> dict[str, float]:
    """Hits as scores that keep their order: a reranked head may carry scores of another scale than the tail."""
    values = [hit.score for hit in hits]
    if any(after > before for before, after in zip(values, values[1:])):
        values = [1.0 / rank for rank in range(1, len(hits) + 1)]
    return {hit.id: value for hit, value in zip(hits, values)}


def _name(encoder: Any) -> str:
    return "default" if encoder is None else str(getattr(encoder, "name", None) or type(encoder).__name__)


def _shown(items: Any, total: int, progress: bool) -> Any:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc="queries", unit="q")
