"""How to fuse BM25 with NUMEN, and whether to: the measurement behind the default of hybrid search.

    python -m benchmarks.fusion --data DIR

Every fusion is chosen on training and development judgments (SciFact train, CoSQA dev) and on those alone; Cranfield is
only reported, at the end, for what was chosen. Both lists are the 100 best, as a collection's are; a document that one
list lacks gets that list's zero. Compared are

    rrf         Σ weight / (k + rank)                                        ranks only
    min-max     scores scaled by each list's best and worst
    tmm         scores scaled by each list's best and the theoretical minimum, 0 for both spaces
    z-score     scores minus the list's mean, over its standard deviation; a missing document gets the list's lowest

where the last three are convex: (1 − w) · BM25 + w · NUMEN. A fusion must help on both sets to be worth a default.
Also reported: SciFact train with one typing error a query, since spelling is what n-grams can do and terms cannot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from inlay.evaluation.measures import mean_interval, randomisation_p
from inlay.evaluation.retrieval_set import RetrievalSet

DEPTH = 100
CHOSEN_ON = (("scifact", "train"), ("cosqa", "dev"))
REPORTED_ON = (("cranfield", "test"), ("scifact", "train, typing errors"))
DIMS = (2048, 4096, 8192, 32_768)
SHARES = tuple(round(0.05 * step, 2) for step in range(1, 20))
RRF_K = (1, 5, 10, 20, 60, 120)
RRF_WEIGHTS = (0.1, 0.25, 0.5, 1.0)


@dataclass
class Candidates:
    """What two lists hold for one query, side by side.

    Args:
        gains: float64 [u], grade of each document in the union of the lists, in order of row number.
        ideal: the best grades there are, descending.
        ranks: float64 [2, u], from 1; inf where the list lacks the document.
        scores: float64 [2, u]; nan where the list lacks it.
    """

    gains: np.ndarray
    ideal: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray


def top(scores: np.ndarray, depth: int = DEPTH) -> np.ndarray:
    """Rows of the best positive scores, best first, equal ones by row number."""
    rows = np.flatnonzero(scores > 0)
    return rows[np.lexsort((rows, -scores[rows]))][:depth]


def candidates(data: RetrievalSet, first: np.ndarray, second: np.ndarray) -> list[Candidates]:
    """Unite the lists of each query.

    Args:
        data: for the judgments.
        first: scores of one space, float32 [queries, documents].
        second: scores of the other.
    """
    row = {key: i for i, key in enumerate(data.ids)}
    found = []
    for query, *scores in zip(data.queries, first, second):
        lists = [top(values) for values in scores]
        rows = np.union1d(*lists)
        ranks, kept = np.full((2, len(rows)), np.inf), np.full((2, len(rows)), np.nan)
        for side, (ordered, values) in enumerate(zip(lists, scores)):
            place = np.searchsorted(rows, ordered)
            ranks[side, place] = np.arange(1, len(ordered) + 1)
            kept[side, place] = values[ordered]
        grades = {row[key]: grade for key, grade in data.qrels[query].items() if key in row}
        gains = np.array([max(grades.get(i, 0), 0) for i in rows.tolist()], dtype=np.float64)
        ideal = np.sort(np.array([max(grade, 0) for grade in data.qrels[query].values()], dtype=np.float64))[::-1]
        found.append(Candidates(gains, ideal, ranks, kept))
    return found


def scaled(scores: np.ndarray, how: str) -> np.ndarray:
    """Each list brought to a common scale, [2, u]."""
    out = np.zeros_like(scores)
    for side, values in enumerate(scores):
        there = ~np.isnan(values)
        if not there.any():
            continue
        own = values[there]
        if how == "z-score":
            spread = own.std() or 1.0
            out[side] = (own.min() - own.mean()) / spread
            out[side, there] = (own - own.mean()) / spread
        else:
            low = own.min() if how == "min-max" else 0.0
            span = own.max() - low
            out[side, there] = (own - low) / span if span > 0 else 1.0
    return out


def ndcg(query: Candidates, fused: np.ndarray, k: int = 10) -> float:
    """nDCG@k of one query; equal scores in order of row number."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    order = np.argsort(-fused, kind="stable")[:k]
    best = query.ideal[:k] @ discount[: len(query.ideal[:k])]
    return float(query.gains[order] @ discount[: len(order)] / best)


def fusions(query: Candidates) -> Iterator[tuple[str, np.ndarray]]:
    """Name and scores [u] of every fusion of one query."""
    bm25, numen = np.where(np.isinf(query.ranks), -np.inf, -query.ranks)
    yield "bm25 alone", bm25
    yield "numen alone", numen
    for k in RRF_K:
        first, second = 1 / (k + query.ranks)
        for weight in RRF_WEIGHTS:
            yield f"rrf k={k} weight={weight}", first + weight * second
    for how in ("min-max", "tmm", "z-score"):
        first, second = scaled(query.scores, how)
        for share in SHARES:
            yield f"{how} share={share}", (1 - share) * first + share * second


def values(found: list[Candidates]) -> dict[str, np.ndarray]:
    """nDCG@10 of every query [queries] under every fusion."""
    collected: dict[str, list[float]] = {}
    for query in found:
        for name, fused in fusions(query):
            collected.setdefault(name, []).append(ndcg(query, fused))
    return {name: np.array(own) for name, own in collected.items()}


def misspelt(query: str, seed: int) -> str:
    """A query with two inner letters of its longest word exchanged."""
    words = query.split()
    longest = max(range(len(words)), key=lambda i: len(words[i]))
    word = words[longest]
    places = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
    if places:
        i = int(np.random.default_rng(seed).choice(places))
        words[longest] = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return " ".join(words)


def bm25_scores(data: RetrievalSet) -> np.ndarray:
    """BM25 of every query and document, float32 [queries, documents]."""
    from inlay.encoders.bm25 import BM25

    bm25 = BM25()
    rows = bm25.encode_document(data.texts).to_scipy()
    return _product(bm25.encode_query(list(data.queries.values())).to_scipy(), rows)


def numen_scores(data: RetrievalSet, dim: int, idf: bool) -> np.ndarray:
    """NUMEN's cosines, float32 [queries, documents]."""
    from inlay.encoders.numen import Numen

    numen = Numen(dim, output="sparse")
    if idf:
        numen.fit(data.texts)
    rows = numen.encode_document(data.texts).to_scipy()
    return _product(numen.encode_query(list(data.queries.values())).to_scipy(), rows)


def _product(queries: Any, rows: Any) -> np.ndarray:
    # One side filled out: a product of two sparse matrices spends its time on bookkeeping for a dense answer.
    blocks = [rows @ queries[i : i + 64].toarray().T for i in range(0, queries.shape[0], 64)]
    return np.concatenate(blocks, axis=1).T


def measure(folder: Path, encoders: list[tuple[int, bool]]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Set → encoder → fusion → nDCG@10 of every query."""
    measured: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, split in CHOSEN_ON + REPORTED_ON:
        data = RetrievalSet.load(folder / name, split.partition(",")[0])
        if "errors" in split:
            data.queries = {query: misspelt(text, i) for i, (query, text) in enumerate(data.queries.items())}
        lexical = bm25_scores(data)
        own = measured[f"{name} {split}"] = {}
        for dim, idf in encoders:
            own[label(dim, idf)] = values(candidates(data, lexical, numen_scores(data, dim, idf)))
    return measured


def label(dim: int, idf: bool) -> str:
    return f"numen-{dim}{'-idf' if idf else ''}"


def choose(measured: dict[str, Any], family: str, encoder: str | None = None) -> tuple[str, str]:
    """The encoder and fusion of a family whose smaller gain over BM25, of the sets for choosing, is the largest."""
    found = next(iter(measured.values()))
    options = [(e, f) for e in found for f in found[e] if f.startswith(family) and encoder in (None, e)]
    return max(options, key=lambda option: _gain(measured, option))


def row(measured: dict[str, Any], encoder: str, fusion: str) -> dict[str, Any]:
    """One line of the result: the fusion against BM25 alone, on each set."""
    line: dict[str, Any] = {"encoder": encoder, "fusion": fusion}
    for name, found in measured.items():
        ours, baseline = found[encoder][fusion], found[encoder]["bm25 alone"]
        gain = mean_interval(ours - baseline)
        line[name] = {
            "ndcg@10": round(float(ours.mean()), 4),
            "gain": round(gain.mean, 4),
            "gain_interval": [round(gain.low, 4), round(gain.high, 4)],
            "p": round(randomisation_p(ours - baseline), 4),
        }
    return line


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), envvar="INLAY_DATA", required=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/fusion.json"), show_default=True)
def main(data: Path, out: Path) -> None:
    """Measure every fusion, choose on SciFact train and CoSQA dev, report on Cranfield."""
    began = time.perf_counter()
    encoders = [(dim, idf) for dim in DIMS for idf in (False, True)]
    measured = measure(data, encoders)
    names = [label(dim, idf) for dim, idf in encoders]
    lines = [row(measured, names[0], "bm25 alone")]
    lines += [row(measured, name, "numen alone") for name in names]
    lines += [row(measured, name, "rrf k=60 weight=1.0") for name in names]
    families = ("rrf", "min-max", "tmm", "z-score")
    best = [row(measured, *choose(measured, family)) for family in families]
    # What a growing collection can have by default: no idf (it would change every row), and any width.
    best += [row(measured, *choose(measured, "tmm", name)) for name in names if not name.endswith("-idf")]
    chosen = row(measured, *max((choose(measured, family) for family in families), key=lambda o: _gain(measured, o)))
    report = {
        "benchmark": "fusion of BM25 and NUMEN",
        "metric": "ndcg@10",
        "depth": DEPTH,
        "chosen_on": [f"{name} {split}" for name, split in CHOSEN_ON],
        "reported_on": [f"{name} {split}" for name, split in REPORTED_ON],
        "queries": {name: len(next(iter(found.values()))["bm25 alone"]) for name, found in measured.items()},
        "chosen": chosen,
        "best": best,
        "references": lines,
        "tmm_curves": curves(measured),
        "seconds": round(time.perf_counter() - began, 1),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show(lines + best + [chosen], list(measured))
    click.echo(f"\nthe last line is the best found; kept in {out} ({report['seconds']} s)")


def _gain(measured: dict[str, Any], option: tuple[str, str]) -> float:
    encoder, fusion = option
    sets = [measured[f"{name} {split}"][encoder] for name, split in CHOSEN_ON]
    return min(float((found[fusion] - found["bm25 alone"]).mean()) for found in sets)


def curves(measured: dict[str, Any], how: str = "tmm") -> dict[str, Any]:
    """nDCG@10 by the share of NUMEN, for each encoder and set: how flat the optimum is."""
    found: dict[str, Any] = {"share": [0.0, *SHARES]}
    for encoder in next(iter(measured.values())):
        found[encoder] = {}
        for name, own in measured.items():
            points = [own[encoder]["bm25 alone"], *(own[encoder][f"{how} share={share}"] for share in SHARES)]
            found[encoder][name] = [round(float(point.mean()), 4) for point in points]
    return found


def show(lines: list[dict[str, Any]], sets: list[str]) -> None:
    """The table."""
    head = ["encoder", "fusion"] + [cell for name in sets for cell in (name, "gain (95%)", "p")]
    rows = []
    for line in lines:
        cells = [line["encoder"], line["fusion"]]
        for name in sets:
            own = line[name]
            low, high = own["gain_interval"]
            cells += [f"{own['ndcg@10']:.4f}", f"{own['gain']:+.4f} ({low:+.3f} {high:+.3f})", f"{own['p']:.3f}"]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for cells in [head, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())


if __name__ == "__main__":
    main()
