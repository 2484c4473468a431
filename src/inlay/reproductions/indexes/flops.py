"""The FLOPs regulariser against L1: what an index multiplies, at equal quality and at equal non-zeros.

The paper claims that penalising Σ_j (mean |a_j|)² in place of Σ_j mean |a_j| spreads non-zeros evenly over dimensions
(R = F · d / s² near 1), so that searching costs less at equal quality. Here that holds if at every quality that both
reach, the FLOPs of its rows are at most 0.7 of those under L1, with a 95% interval over seeds below 1, and if at every
number of non-zeros that both reach its R is lower.

Heads of 2,048 dimensions stand on the vectors of the encoder in the box, which were made without these pairs, and learn
from captions of one picture which belong together (InfoNCE, λ rising over half of the run). They are judged on other
pictures: find the other four captions of each of 1,000 among 4,000. λ of both penalties is swept, since equal λ mean
nothing; curves are compared where they overlap, by interpolation of log FLOPs. Both are trained for the same number of
steps from the same start. FLOPs are exact, products a query and document, over the very rows searched. BM25 and the
dense vectors, searched by scanning all, are measured on the same queries. A SPLADE over the token table of the box is
trained with either penalty beside them, with one seed.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.training.sparse_rows import SparseModel
    from inlay.types import Sparse

PAPER = "Minimizing FLOPs to Learn Efficient Sparse Representations (arXiv 2004.05665, ICLR 2020)"

DIM = 2048
TRAIN = 3000  # pictures
STEPS, BATCH, RATE, TAU = 200, 128, 1e-2, 0.05
WEIGHTS: dict[str, tuple[float, ...]] = {"flops": (4.0, 10.0, 25.0, 60.0), "l1": (0.05, 0.1, 0.2, 0.4)}
SPLADE_STEPS, SPLADE_BATCH, SPLADE_RATE = 60, 64, 2e-3
SPLADE_WEIGHTS: dict[str, tuple[float, ...]] = {"flops": (0.03, 0.3), "l1": (0.01, 0.05)}
TARGETS = 3  # places at which curves are compared
NEEDED = 0.7


class Captions(NamedTuple):
    """Captions by picture to learn from, and queries and documents to judge by: document i answers query i // 4."""

    train: list[list[str]]
    queries: list[str]
    documents: list[str]


class Found(NamedTuple):
    """A trained model, measured."""

    ndcg: float
    flops: float
    non_zeros: float
    sub_optimality: float
    dead: int
    microseconds: float


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """Heads under both penalties and all weights, BM25, dense, and SPLADE; about eight minutes."""
    import torch

    from inlay.encoders.bm25 import BM25
    from inlay.encoders.box import Box
    from inlay.types import Sparse

    began = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is timed must not depend on how many there are
    try:
        captions = _captions(data)
        box = Box()
        held = [*captions.queries, *captions.documents]
        texts = [*(text for picture in captions.train for text in picture), *held]
        rows = dict(zip(texts, box.encode_document(texts)))
        bm25 = BM25().fit(captions.documents)
        widest = len(bm25.vocabulary)
        lexical = _measured(
            *(
                Sparse(one.indptr, one.indices, one.data, (len(one), widest))
                for one in (bm25.encode_query(captions.queries), bm25.encode_document(captions.documents))
            )
        )
        dense = _dense(*(np.stack([rows[text] for text in part]) for part in (captions.queries, captions.documents)))
        _say(progress, f"dense: nDCG@10 {dense:.3f}; BM25: {lexical}")
        curves: dict[str, list[list[Found]]] = {kind: [] for kind in WEIGHTS}
        for seed in seeds:
            for kind, weights in WEIGHTS.items():
                curves[kind].append([_head(box, rows, captions, kind, weight, seed) for weight in weights])
                for weight, one in zip(weights, curves[kind][-1]):
                    _say(progress, f"seed {seed}, {kind} {weight:g}: {one}")
        splade: dict[str, Found] = {}
        for kind, weights in SPLADE_WEIGHTS.items():
            for weight in weights:
                splade[f"{kind} {weight:g}"] = _splade(captions, kind, weight, seeds[0])
                _say(progress, f"SPLADE, {kind} {weight:g}: {splade[f'{kind} {weight:g}']}")
    finally:
        torch.set_num_threads(threads)

    by_quality, at_quality = _ratios(curves, "ndcg", "flops")
    by_density, at_density = _ratios(curves, "non_zeros", "flops")
    evenness, _ = _ratios(curves, "non_zeros", "sub_optimality")
    cheaper = [_interval(one) for one in by_quality.T]
    even = bool((evenness < 1).all())
    shown = even and all(mean <= NEEDED and high < 1 for mean, _, high in cheaper)
    middle = TARGETS // 2
    cost = {kind: _at(curves[kind], "ndcg", "flops", at_quality)[:, middle] for kind in curves}
    every = [one for kind in curves for seed in curves[kind] for one in seed]
    tracks = float(np.corrcoef([one.flops for one in every], [one.microseconds for one in every])[0, 1])
    return Result(
        name="flops",
        title="FLOPs regulariser",
        room="indexes",
        source=PAPER,
        claim="penalising the square of each dimension's mean spreads non-zeros evenly: fewer FLOPs at equal quality",
        paper="speed-accuracy curves on MegaFace and CIFAR-100 at or above L1's; R near 1 against far above 1",
        metric=f"products a query and document at nDCG@10 {at_quality[middle]:.3f} (lower is better)",
        baseline=Figure("L1", round(float(np.exp(np.log(cost["l1"]).mean())), 3)),
        method=Figure("FLOPs", round(float(np.exp(np.log(cost["flops"]).mean())), 3)),
        data=f"Flickr8k captions: {len(captions.train):,} pictures to learn from, {len(captions.queries):,} to judge",
        verdict="shown" if shown else "partly" if even or any(high < 1 for _, _, high in cheaper) else "not shown",
        detail=_detail(curves, cheaper, at_quality, by_density, at_density, evenness, lexical, dense, splade, tracks),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "columns": list(Found._fields),
            "weights": {kind: list(weights) for kind, weights in WEIGHTS.items()},
            "heads": {kind: [[_short(one) for one in seed] for seed in own] for kind, own in curves.items()},
            "bm25": _short(lexical),
            "dense": {"ndcg": round(dense, 4), "flops": box.space.dim},
            "splade": {name: _short(one) for name, one in splade.items()},
            "ndcg_compared_at": [round(float(one), 4) for one in at_quality],
            "flops_ratio_at_equal_ndcg": [[round(value, 4) for value in one] for one in cheaper],
            "non_zeros_compared_at": [round(float(one), 1) for one in at_density],
            "flops_ratio_at_equal_non_zeros": [[round(v, 4) for v in _interval(one)] for one in by_density.T],
            "sub_optimality_ratio_at_equal_non_zeros": [[round(v, 4) for v in _interval(one)] for one in evenness.T],
            "correlation_of_time_and_flops": round(tracks, 4),
        },
    )


def _captions(data: Path) -> Captions:
    path = data / "pairs" / "flickr8k_captions.tsv.gz"
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    pictures: dict[tuple[str, str], list[str]] = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()[1:]:
        split, picture, _, caption = line.split("\t")
        pictures.setdefault((split, picture), []).append(caption)
    learn, judge = (
        [own for (split, _), own in pictures.items() if split == name and len(own) == 5] for name in ("train", "dev")
    )
    return Captions(learn[:TRAIN], [own[0] for own in judge], [text for own in judge for text in own[1:]])


def _train(model: SparseModel, captions: Captions, loss: Any, seed: int, **options: Any) -> None:
    from tempfile import TemporaryDirectory

    from inlay.training.example import Example
    from inlay.training.sources import Source
    from inlay.training.stage import Stage
    from inlay.training.trainer import Trainer

    source = Source("captions", [Example(own[0], own[1:]) for own in captions.train], "symmetric")
    with TemporaryDirectory() as folder:
        Trainer(model, [Stage([source], loss, weight_decay=0.0, **options)], folder, seed=seed).run()


def _head(box: Any, rows: dict[str, np.ndarray], captions: Captions, kind: Any, weight: float, seed: int) -> Found:
    import torch

    from inlay.training.flops import Flops
    from inlay.training.info_nce import InfoNCE
    from inlay.training.sparse_head import SparseHead
    from inlay.training.total import Sum

    torch.manual_seed(seed)
    model = SparseHead(box, DIM)
    model.remember(list(rows), np.stack(list(rows.values())))
    loss = Sum(contrast=(1, InfoNCE(tau=TAU)), sparse=(1, Flops(weight, weight, STEPS // 2, penalty=kind)))
    _train(model, captions, loss, seed, steps=STEPS, batch_size=BATCH, lr=RATE)
    return _measured(model.encode(captions.queries), model.encode(captions.documents))


def _splade(captions: Captions, kind: Any, weight: float, seed: int) -> Found:
    import torch

    from inlay.encoders.box_weights import FOLDER, Weights
    from inlay.encoders.wordpiece import WordPiece
    from inlay.training.flops import Flops
    from inlay.training.info_nce import InfoNCE
    from inlay.training.splade import Splade
    from inlay.training.total import Sum

    torch.manual_seed(seed)
    tokens = WordPiece(Weights(FOLDER).vocabulary)
    said = np.unique([token for own in captions.train for text in own for token in tokens(text)])
    model = Splade.table(columns=said, max_length=64)
    loss = Sum(contrast=(1, InfoNCE(tau=1)), sparse=(1, Flops(weight, weight, SPLADE_STEPS // 3, penalty=kind)))
    _train(model, captions, loss, seed, steps=SPLADE_STEPS, batch_size=SPLADE_BATCH, lr=SPLADE_RATE, micro=32)
    return _measured(model.encode(captions.queries), model.encode(captions.documents))


def _measured(queries: Sparse, documents: Sparse) -> Found:
    from inlay.indexes.inverted import Inverted
    from inlay.training.posting_cost import sparse_cost

    index = Inverted()
    index.add(documents)
    index.search(queries[:1], 10)  # builds the lists
    times = []
    for _ in range(2):  # the first may compile
        start = time.perf_counter()
        found = index.search(queries, 10).ids
        times.append((time.perf_counter() - start) / len(queries) * 1e6)
    cost, alone = sparse_cost(documents, queries), sparse_cost(documents)
    return Found(_ndcg(found), cost.flops, alone.non_zeros, alone.sub_optimality, alone.dead, min(times))


def _dense(queries: np.ndarray, documents: np.ndarray) -> float:
    return _ndcg(np.argsort(-(queries @ documents.T), axis=1)[:, :10])


def _ndcg(found: np.ndarray) -> float:
    """Mean nDCG@10 of ids [queries, 10], where four documents answer each query."""
    gains = 1 / np.log2(np.arange(2, found.shape[1] + 2))
    right = (found >= 0) & (found // 4 == np.arange(len(found))[:, None])
    return float((right @ gains).mean() / gains[:4].sum())


def _at(curves: list[list[Found]], along: str, value: str, places: np.ndarray) -> np.ndarray:
    """Log-linear interpolation of each seed's curve [seeds, places]."""
    rows = []
    for curve in curves:
        x, y = (np.array([getattr(one, name) for one in curve]) for name in (along, value))
        order = np.argsort(x)
        rows.append(np.exp(np.interp(places, x[order], np.log(y[order]))))
    return np.array(rows)


def _ratios(curves: dict[str, list[list[Found]]], along: str, value: str) -> tuple[np.ndarray, np.ndarray]:
    """Value under FLOPs over value under L1 [seeds, places], at places [TARGETS] that every curve reaches."""
    each = [[getattr(one, along) for one in curve] for own in curves.values() for curve in own]
    low, high = max(map(min, each)), min(map(max, each))
    if not low < high:
        raise BadInput(f"the curves share no {along}: {low:.4g} to {high:.4g}; widen the weights")
    places = np.geomspace(low, high, TARGETS) if along == "non_zeros" else np.linspace(low, high, TARGETS)
    ours, theirs = (_at(curves[kind], along, value, places) for kind in ("flops", "l1"))
    return ours / theirs, places


def _interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """Geometric mean of ratios [seeds] and its 95% interval."""
    from scipy.stats import t

    logs, n = np.log(ratios), len(ratios)
    half = float(t.ppf(0.975, n - 1) * logs.std(ddof=1) / n**0.5) if n > 1 else 0.0
    mean = float(logs.mean())
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))


def _short(one: Found) -> list[float]:
    return [round(float(value), 4) for value in one]


def _detail(
    curves: dict[str, list[list[Found]]], cheaper: list[Any], at_quality: np.ndarray, by_density: np.ndarray,
    at_density: np.ndarray, evenness: np.ndarray, lexical: Found, dense: float, splade: dict[str, Found], tracks: float,
) -> str:  # fmt: skip
    spread = {kind: [one.sub_optimality for seed in own for one in seed] for kind, own in curves.items()}
    said = [
        "FLOPs under the regulariser over those under L1, with 95% intervals over seeds: at equal nDCG@10 "
        + "; ".join(f"({place:.3f}) {a:.2f} ({b:.2f} to {c:.2f})" for place, (a, b, c) in zip(at_quality, cheaper))
        + "; at equal non-zeros "
        + "; ".join(f"({place:.0f}) {_interval(one)[0]:.2f}" for place, one in zip(at_density, by_density.T))
        + ".",
        f"R was {min(spread['flops']):.2f} to {max(spread['flops']):.2f} under the regulariser and "
        f"{min(spread['l1']):.2f} to {max(spread['l1']):.2f} under L1; at equal non-zeros it was "
        + ("lower everywhere." if (evenness < 1).all() else "not lower everywhere."),
        f"Time of a query through posting lists and FLOPs correlate at {tracks:.3f} over all heads.",
        f"On the same queries BM25 reaches nDCG@10 {lexical.ndcg:.3f} with {lexical.flops:.2f} products a pair (its R "
        f"is {lexical.sub_optimality:.1f}), the dense vectors {dense:.3f} with 384.",
        "SPLADE over a token table: "
        + "; ".join(
            f"{name}: nDCG@10 {one.ndcg:.3f}, {one.flops:.2f} products, {one.non_zeros:.0f} non-zeros, "
            f"R {one.sub_optimality:.1f}"
            for name, one in splade.items()
        )
        + ".",
        "The heads are trained for a few seconds on a frozen encoder; that encoder learnt from captions as plain text.",
    ]
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
