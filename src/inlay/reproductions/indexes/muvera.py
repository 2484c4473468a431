"""MUVERA against what one would do without it: candidates for MaxSim from one vector a document.

The paper claims that the dot product of two fixed dimensional encodings (FDE) finds the documents that are best by
exact MaxSim (Chamfer) among few candidates, better the longer the encoding; that the usual heuristic, which asks an
index of all tokens once for each query token, needs several times as many; and that product quantisation to a byte for
8 numbers (PQ-256-8) costs nearly nothing.

Here that holds if, of the ten documents of Cranfield that are best by exact MaxSim, the share among the first 100
candidates (10R@100) rises from each width to the next, 1,280 to 10,240 numbers, if at 10,240 it is at least 5 points
above the mean of tokens (cosine) and above the heuristic, and if PQ-256-8 of those 10,240 numbers loses at most 2.

No trained late-interaction model is at hand. The stand-in: every word is the mean of word vectors within two words of
it (PPMI of Cranfield itself, factorised to 128 numbers), at length 1. Such tokens share a large part, and planes
through the origin then tell them apart badly, so they are centred and brought back to length 1, and what is best is
decided by those (`centred`). Beside it, what is best is decided by the tokens as they are: with encodings of those
(`as they are`), and with what `MuveraFDE(center=True)` does (`shifted`): buckets and document values are centred,
MaxSim stays that of the tokens. The same is measured with the widest encodings for the tokens of the encoder in the
box, for a third of the queries; and, since the stand-in decides how well anything does, for words whose own vector
weighs as much as all around it.

The heuristic takes documents by the lowest rank that one of their tokens has for one of the query's, each document
once. "Candidates for 90%" is how many are needed until 90% of all queries' ten best are among them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.codecs.muvera import MuveraFDE
from inlay.codecs.product import ProductQuantiser
from inlay.evaluation.measures import mean_interval
from inlay.evaluation.retrieval_set import RetrievalSet
from inlay.reproductions.result import Figure, Result
from inlay.reproductions.words._ppmi import WORD, factorised
from inlay.types import Ragged

PAPER = "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings (arXiv 2405.19504, NeurIPS 2024)"

DIM = 128
AROUND = 2  # words to each side that are mixed in
WINDOW = 4  # words to each side that are counted
WIDTHS = {1280: (3, 8), 2560: (4, 8), 5120: (5, 8), 10240: (5, 16)}  # (k_sim, d_proj) at 20 repetitions
WIDEST = max(WIDTHS)
FIRST, BEST = 100, 10
SHARES = (0.8, 0.9, 0.95)
DRAWN = (10, 25, 50, 75, 100, 150, 200, 300, 400)  # candidates
NEEDED, LOST = 5.0, 2.0  # points
EVERY = 3  # of the queries, one in three for the encoder in the box, whose tokens are three times as wide


class Bags(NamedTuple):
    """Tokens of queries and of documents."""

    queries: Ragged
    documents: Ragged


class Truth(NamedTuple):
    """What is best, and where the baselines have it.

    Args:
        best: documents by falling MaxSim, int64 [queries, 10].
        mean: ranks of those by the cosine of means, from 0, int64 [queries, 10].
        heuristic: ranks of those by the heuristic over single tokens.
    """

    best: np.ndarray
    mean: np.ndarray
    heuristic: np.ndarray


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All widths on words, the widest on the encoder in the box; about ten minutes on one core."""
    began = time.perf_counter()
    cranfield = RetrievalSet.load(data / "cranfield")
    plain = _words(cranfield)
    centred = _centred(plain)
    truth, other = _truth(centred), _truth(plain)
    found: dict[str, Any] = {"centred": _baselines(truth), "as they are": _baselines(other)}
    _say(progress, f"words: {found}")

    encoded: dict[int, list[np.ndarray]] = {}  # ranks of the ten best, by width and seed
    packed, sums, empty = [], [], []
    for width, (k_sim, d_proj) in WIDTHS.items():
        for seed in seeds:
            fde = MuveraFDE(DIM, k_sim=k_sim, d_proj=d_proj, center=False, seed=seed)
            queries, documents = fde.encode_query(centred.queries), fde.encode_document(centred.documents)
            encoded.setdefault(width, []).append(_ranks(queries @ documents.T, truth.best))
            if width == WIDEST:
                packed.append(_ranks(queries @ _quantised(documents, seed).T, truth.best))
            if width == 2560:
                without = MuveraFDE(DIM, k_sim=k_sim, d_proj=d_proj, center=False, fill=False, seed=seed)
                bare = without.encode_document(centred.documents)
                empty.append(_ranks(queries @ bare.T, truth.best))
                summed = _summed(fde.encode_query(centred.documents), documents, d_proj)
                sums.append(_ranks(queries @ summed.T, truth.best))
        found["centred"][f"FDE {width}"] = _measured(encoded[width])
        _say(progress, f"centred words, FDE {width}: {found['centred'][f'FDE {width}']}")
    found["centred"] |= {
        f"FDE {WIDEST}, PQ-256-8": _measured(packed),
        "FDE 2560, not filled": _measured(empty),
        "FDE 2560, sums of documents": _measured(sums),
    }
    for width, (k_sim, d_proj) in WIDTHS.items():
        for name, center in (("as they are", False), ("shifted", True)):
            ranks = [_encoded(plain, other, k_sim, d_proj, seed, center) for seed in seeds]
            found.setdefault(name, {})[f"FDE {width}"] = _measured(ranks)
            _say(progress, f"words {name}, FDE {width}: {found[name][f'FDE {width}']}")

    elsewhere = {
        "words, own vector as much as the rest": _widest(_words(cranfield, own=True), seeds),
        "encoder in the box": _widest(_late_box(cranfield), seeds),
    }
    _say(progress, f"elsewhere: {elsewhere}")

    drawn = {f"FDE {width:,}": encoded[width] for width in WIDTHS}
    drawn |= {_called(name): [getattr(truth, name)] for name in ("mean", "heuristic")}
    best = max(("mean", "heuristic"), key=lambda name: found["centred"][name]["10R@100"])
    share = {width: found["centred"][f"FDE {width}"]["10R@100"] for width in WIDTHS}
    rises = bool((np.diff(list(share.values())) > 0).all())
    ours = np.mean([(ranks < FIRST).mean(axis=1) for ranks in encoded[WIDEST]], axis=0)
    gain = mean_interval(100 * (ours - (getattr(truth, best) < FIRST).mean(axis=1)))
    beats = share[WIDEST] >= found["centred"][best]["10R@100"] + NEEDED
    lost = share[WIDEST] - found["centred"][f"FDE {WIDEST}, PQ-256-8"]["10R@100"]
    keeps = lost <= LOST
    return Result(
        name="muvera",
        title="MUVERA",
        room="indexes",
        source=PAPER,
        claim="one vector a document finds what is best by MaxSim among few candidates, the fewer the longer it is",
        paper="candidates for 90% recall on MS MARCO: 200 (FDE 10,240) against 800 (single-vector heuristic)",
        metric="ten best by MaxSim among the first 100 candidates, %",
        baseline=Figure(_called(best), found["centred"][best]["10R@100"]),
        method=Figure(f"FDE {WIDEST:,}", share[WIDEST]),
        data=f"Cranfield, {len(plain.documents):,} documents, {len(plain.queries)} queries; word vectors as tokens",
        verdict="shown" if rises and beats and keeps else "partly" if rises or beats else "not shown",
        detail=_detail(found, elsewhere, rises, best, gain, lost),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "tokens_a_document": round(len(plain.documents.values) / len(plain.documents), 1),
            "tokens_a_query": round(len(plain.queries.values) / len(plain.queries), 1),
            "length_of_mean_token": round(float(np.linalg.norm(plain.documents.values.mean(axis=0))), 3),
            "words": found,
            "axes": {"x": "candidates", "y": "ten best by MaxSim among them, %", "log": False},
            "curves": {name: _curve(ranks) for name, ranks in drawn.items()},
            "elsewhere": elsewhere,
            f"fde_{WIDEST}_minus_best_baseline": [round(float(value), 2) for value in gain],
            "points_lost_by_pq": round(lost, 2),
        },
    )


def _words(data: RetrievalSet, own: bool = False) -> Bags:
    """Each word as the mean of vectors around it; with `own`, its own weighs as much as that mean of the others."""
    texts, queries = ([WORD.findall(text.lower()) for text in some] for some in (data.texts, data.queries.values()))
    counts: dict[str, int] = {}
    for text in texts:
        for word in text:
            counts[word] = counts.get(word, 0) + 1
    numbers = {word: i for i, word in enumerate(sorted(word for word, count in counts.items() if count > 1))}
    known = [[[numbers[word] for word in text if word in numbers] for text in some] for some in (queries, texts)]
    running = np.array([i for text in known[1] for i in [*text, *[-1] * WINDOW]])  # so that no window spans two texts
    rows = factorised(running, len(numbers), len(numbers), DIM, window=WINDOW, seed=0)
    return Bags(*(_mixed(some, rows, own) for some in known))


def _mixed(texts: list[list[int]], rows: np.ndarray, own: bool) -> Ragged:
    found: list[np.ndarray] = [np.empty((0, rows.shape[1]), dtype=np.float32)]
    for text in texts:
        vectors = rows[text]
        near, count = np.zeros_like(vectors), np.zeros((len(text), 1), dtype=np.float32)
        for step in range(1, min(AROUND, len(text) - 1) + 1):
            near[step:] += vectors[:-step]
            near[:-step] += vectors[step:]
            count[step:] += 1
            count[:-step] += 1
        found.append(vectors + near / np.maximum(count, 1) if own else vectors + near)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return Ragged(_unit(np.concatenate(found)), offsets)


def _late_box(data: RetrievalSet) -> Bags:
    from inlay.encoders.late_box import LateBox

    encoder = LateBox()
    return Bags(encoder.encode_query(list(data.queries.values())[::EVERY]), encoder.encode_document(data.texts))


def _centred(bags: Bags) -> Bags:
    """Without the mean of document tokens, at length 1."""
    mean = bags.documents.values.mean(axis=0)
    return Bags(*(Ragged(_unit(some.values - mean), some.offsets) for some in bags))


def _truth(bags: Bags) -> Truth:
    documents = bags.documents
    full = np.flatnonzero(np.diff(documents.offsets))
    score = np.full((len(bags.queries), len(documents)), -np.inf, dtype=np.float32)
    rank = np.full(score.shape, len(documents.values), dtype=np.int64)
    for i, query in enumerate(bags.queries):
        dots = query @ documents.values.T
        largest = np.maximum.reduceat(dots, documents.offsets[full], axis=1)
        score[i, full] = largest.sum(axis=0)
        dots.sort(axis=1)
        for every, own in zip(dots, largest):
            before = len(every) - np.searchsorted(every, own, side="right")  # tokens that are nearer
            rank[i, full] = np.minimum(rank[i, full], before)
    best = np.argsort(-score, axis=1, kind="stable")[:, :BEST]
    means = [_unit(np.stack([own.sum(axis=0) for own in some])) for some in bags]
    return Truth(best, _ranks(means[0] @ means[1].T, best), _ranks(-rank.astype(np.float64), best))


def _ranks(scores: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Places, from 0, of the documents `best` [queries, 10] in the order of `scores` [queries, documents]."""
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(order.shape[1])[None], axis=1)
    return np.take_along_axis(places, best, axis=1)


def _encoded(bags: Bags, truth: Truth, k_sim: int, d_proj: int, seed: int, center: bool) -> np.ndarray:
    width = bags.documents.values.shape[1]
    fde = MuveraFDE(width, k_sim=k_sim, d_proj=d_proj, center=center, seed=seed).fit(bags.documents)
    return _ranks(fde.encode_query(bags.queries) @ fde.encode_document(bags.documents).T, truth.best)


def _quantised(rows: np.ndarray, seed: int) -> np.ndarray:
    """Rows after PQ-256-8. Asymmetric scores are dot products with these."""
    codec = ProductQuantiser(dsub=8, iterations=10, seed=seed).fit(rows)
    return codec.decode(codec.encode(rows))


def _summed(sums: np.ndarray, filled: np.ndarray, block: int) -> np.ndarray:
    """Sums of documents' tokens by bucket; buckets that are empty as they were filled."""
    parts = sums.reshape(len(sums), -1, block)
    empty = ~parts.any(axis=2, keepdims=True)
    return np.where(empty, filled.reshape(parts.shape), parts).reshape(sums.shape)


def _widest(bags: Bags, seeds: Sequence[int]) -> dict[str, Any]:
    """Baselines and the widest encodings, of tokens as they are and of centred ones."""
    centred = _centred(bags)
    truth, other = _truth(centred), _truth(bags)
    k_sim, d_proj = WIDTHS[WIDEST]
    found: dict[str, Any] = {"centred": _baselines(truth), "as they are": _baselines(other), "shifted": {}}
    for name, own, judge, center in (
        ("centred", centred, truth, False),
        ("as they are", bags, other, False),
        ("shifted", bags, other, True),
    ):
        ranks = [_encoded(own, judge, k_sim, d_proj, seed, center) for seed in seeds]
        found[name][f"FDE {WIDEST}"] = _measured(ranks)
    return found


def _baselines(truth: Truth) -> dict[str, Any]:
    return {name: _measured([getattr(truth, name)]) for name in ("mean", "heuristic")}


def _measured(ranks: Sequence[np.ndarray]) -> dict[str, Any]:
    """Shares in points, means over seeds with their standard deviation, and candidates for some shares."""
    tens = [100 * (one < FIRST).mean() for one in ranks]
    found: dict[str, Any] = {
        "10R@100": round(float(np.mean(tens)), 2),
        "1R@100": round(float(np.mean([100 * (one[:, 0] < FIRST).mean() for one in ranks])), 2),
        "candidates": [round(float(np.mean([_needed(one, share) for one in ranks]))) for share in SHARES],
    }
    return found | ({"sd": round(float(np.std(tens, ddof=1)), 2)} if len(ranks) > 1 else {})


def _curve(ranks: Sequence[np.ndarray]) -> list[list[float]]:
    return [[first, round(100 * float(np.mean([(one < first).mean() for one in ranks])), 2)] for first in DRAWN]


def _needed(ranks: np.ndarray, share: float) -> int:
    """Fewest candidates among which are at least `share` of all the best."""
    return int(np.sort(ranks, axis=None)[int(np.ceil(share * ranks.size)) - 1]) + 1


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = (rows / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


def _called(baseline: str) -> str:
    return {"mean": "mean of tokens", "heuristic": "single-vector heuristic"}[baseline]


def _detail(found: dict[str, Any], elsewhere: dict[str, Any], rises: bool, best: str, gain: Any, lost: float) -> str:
    centred, widest = found["centred"], f"FDE {WIDEST}"

    def points(arms: dict[str, Any], *names: str) -> str:
        return "/".join(f"{arms[name]['10R@100']:.1f}" for name in names)

    fdes = [f"FDE {width}" for width in WIDTHS]
    said = [
        f"Centred words, 10R@100 at {', '.join(f'{width:,}' for width in WIDTHS)} numbers: {points(centred, *fdes)} "
        f"({'rises' if rises else 'does not rise'} at every step; deviation over seeds at most "
        f"{max(centred[name]['sd'] if 'sd' in centred[name] else 0 for name in fdes):.1f}); mean of tokens "
        f"{points(centred, 'mean')}, heuristic {points(centred, 'heuristic')}. The widest is {gain.mean:+.1f} points "
        f"({gain.low:+.1f} to {gain.high:+.1f} over queries) from the better baseline, {_called(best)}.",
        f"PQ-256-8, a byte for 8 numbers, fitted on the documents themselves, changes that by {-lost:+.1f} points.",
        "Candidates for 80/90/95%: "
        + "; ".join(
            f"{label} {'/'.join(map(str, centred[name]['candidates']))}"
            for label, name in ((widest, widest), ("heuristic", "heuristic"), ("mean", "mean"))
        )
        + ".",
        f"At 2,560 numbers: {points(centred, 'FDE 2560')}, with empty buckets left empty "
        f"{points(centred, 'FDE 2560, not filled')}, with sums in place of means "
        f"{points(centred, 'FDE 2560, sums of documents')}.",
        f"Tokens as they are: FDE {points(found['as they are'], *fdes)}, mean {points(found['as they are'], 'mean')}, "
        f"heuristic {points(found['as they are'], 'heuristic')}; shifted as MuveraFDE(center=True) does "
        f"{points(found['shifted'], *fdes)}.",
    ]
    for name, arms in elsewhere.items():
        said.append(
            f"{name[0].upper()}{name[1:]}: centred FDE {WIDEST:,} {points(arms['centred'], widest)}, mean "
            f"{points(arms['centred'], 'mean')}, heuristic {points(arms['centred'], 'heuristic')}; as they are FDE "
            f"{points(arms['as they are'], widest)}, shifted {points(arms['shifted'], widest)}, mean "
            f"{points(arms['as they are'], 'mean')}, heuristic {points(arms['as they are'], 'heuristic')}."
        )
    said.append("No late-interaction model was at hand: these tokens are stand-ins, and which they are decides much.")
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
