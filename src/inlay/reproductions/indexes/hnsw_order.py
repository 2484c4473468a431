"""What recall in an HNSW graph depends on: the intrinsic dimension of the rows, and the order they are inserted in.

The paper claims that recall falls by about half as the rank of synthetic rows approaches their width, and that rows
inserted by falling local intrinsic dimension (LID) are found more often than by rising: at ef=10 by 6.2 points with
faiss and 2.6 with hnswlib, on the mean of its sets and models.

Here that holds if both of these do.

(a) Gaussian rows of 1,024 numbers in subspaces of rising rank, 20,000 of them, searched by cosine as the paper's
embeddings are: recall@10 at ef=40 falls from each rank to the next, and in all by at least 40%. One seed at that size;
three at 2,000 rows, which show how much seeds matter. There the rows are also searched by distance as they are: then
those near the middle are neighbours of all others and easy to find, and rank matters less.

(b) Real texts as dense rows: with faiss at ef=10, the mean over sets of recall by falling minus by rising LID is at
least one point, and lies outside the spread over seeds: in every seed, the mean over sets of the one is above that of
the other in any seed.

Graphs have the paper's settings (M 16, efConstruction 128, k 10), one thread, and for each seed other levels. Random
order is another one for each seed. faiss gets a row a call, because it shuffles the rows of one call within their
levels; that call is measured beside it, and should show nothing. Order by category, one after another, is the paper's
real variant: two sets have categories. On the judged set nDCG@10 is measured of what the graph finds, beside that of an
exact search, and how it goes with recall; for faiss also the mean length of the shortest ways in the lowest layer.

The sweep is what `predicted_recall` of `index_difficulty` looks up; how far that is from what real rows give is
reported. Recall counts a row as found if it is as near as the tenth by an exact scan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.evaluation.difficulty import IndexDifficulty, Sweep, index_difficulty, predicted
from inlay.evaluation.graph_engines import build
from inlay.evaluation.orders import OrderEffect, found_share, order_effect, seed_interval
from inlay.kernels.dense import nearest, normalise
from inlay.reproductions.indexes._embedded_texts import Texts, encoded, judged, labelled, ndcg
from inlay.reproductions.result import Figure, Result
from inlay.types import Metric

PAPER = (
    "The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in Hierarchical Navigable Small Worlds "
    "(arXiv 2405.17813, ICTIR 2024)"
)

WIDTH, RANKS, QUERIES, ANCHORS = 1024, (8, 32, 128, 512, 1024), 500, 1000
SIZES = {2000: 3, 20_000: 1}  # rows of the sweep, and how many seeds
EFS = (10, 40, 100)
FALL, GAIN = 0.4, 0.01
DESC, ASC, RANDOM = "lid-desc", "lid-asc", "random"


class Measured(NamedTuple):
    """Graphs over one set."""

    hard: IndexDifficulty
    order: OrderEffect
    exact: float | None  # nDCG@10 of an exact search


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2, 3, 4), progress: bool = False) -> Result:
    """The sweep, and three or four orders of five sets of rows; about eight minutes on one core."""
    began = time.perf_counter()
    sweep, spread = [], 0.0
    for rows, count in SIZES.items():
        one, apart = _sweep(rows, seeds[:count], "cosine")
        sweep.append(one)
        spread = max(spread, apart)
        _say(progress, f"{one}")
    fewest, count = next(iter(SIZES.items()))
    by_distance, _ = _sweep(fewest, seeds[:count], "l2")
    _say(progress, f"by distance: {by_distance}")
    found: dict[str, Measured] = {}
    for texts, encoder, backends in _sets(data):
        name = f"{texts.name}, {encoder}"
        found[name] = _measured(*encoded(texts, encoder), texts, backends, seeds, progress)
        _say(progress, f"{name}: {found[name].hard.to_dict()} {found[name].order.to_dict()}")

    by_rank = sweep[-1].recall[40]
    fall = 1 - by_rank[-1] / by_rank[0]
    falls = bool((np.diff(by_rank) < 0).all() and fall >= FALL)
    gains = {backend: _gain(found, backend, 10) for backend in ("faiss", "hnswlib")}
    ours, theirs = (_over_sets(found, "faiss", order, 10) for order in (DESC, ASC))
    better = bool((ours - theirs).mean() >= GAIN and ours.min() > theirs.max())
    shuffled = _over_sets(found, "faiss", RANDOM, 10)
    return Result(
        name="hnsw-order",
        title="Order of insertion and intrinsic dimension (HNSW)",
        room="indexes",
        source=PAPER,
        claim="a graph's recall falls with the intrinsic dimension of rows, and rises when hard rows go in first",
        paper="recall about halves towards full rank; falling minus rising LID: 6.2 points (faiss), 2.6 (hnswlib)",
        metric="recall@10 at ef=10 with faiss, mean over sets of real text",
        baseline=Figure("random order", round(float(shuffled.mean()), 4)),
        method=Figure("highest LID first", round(float(ours.mean()), 4)),
        data="Gaussian rows of known rank; " + "; ".join(f"{name} ({one.order.rows:,})" for name, one in found.items()),
        verdict="shown" if falls and better else "partly" if falls or better else "not shown",
        detail=_detail(sweep, by_distance, fall, spread, found, gains, ours, theirs, shuffled),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "ranks": list(RANKS),
            "sweep": [_sweep_dict(one) for one in sweep],
            "sweep_by_distance": _sweep_dict(by_distance),
            "sweep_spread_over_seeds": round(spread, 4),
            "gain_at_ef_10": {backend: [round(v, 4) for v in _gain(found, backend, 10)] for backend in gains},
            "sets": {
                name: {"difficulty": one.hard.to_dict(), "exact_ndcg": one.exact, **one.order.to_dict()}
                for name, one in found.items()
            },
        },
    )


def _sweep(rows: int, seeds: Sequence[int], metric: Metric) -> tuple[Sweep, float]:
    """Recall by rank, averaged over seeds, and the largest standard deviation over seeds (0 for one)."""
    lid = np.empty((len(seeds), len(RANKS)))
    recall = np.empty((len(EFS), len(seeds), len(RANKS)))
    for i, seed in enumerate(seeds):
        for j, rank in enumerate(RANKS):
            random = np.random.default_rng([seed, rank])
            basis = np.linalg.qr(random.standard_normal((WIDTH, rank)))[0].T
            made = (random.standard_normal((rows + QUERIES, rank)) @ basis).astype(np.float32)
            made = made if metric == "l2" else normalise(made)
            inserted, queries = made[:rows], made[rows:]
            lid[i, j] = index_difficulty(inserted, 100, ANCHORS, metric=metric).lid_mean
            best = nearest(queries, inserted, 10, metric=metric).scores
            # Rows of a Gaussian have no order to keep.
            graph = build("faiss-at-once", inserted, dot=metric != "l2", seed=seed)
            for e, ef in enumerate(EFS):
                recall[e, i, j] = found_share(graph.search(queries, 10, ef), queries, inserted, best, metric)
    mean = {ef: tuple(np.round(recall[e].mean(axis=0), 4).tolist()) for e, ef in enumerate(EFS)}
    spread = float(recall.std(axis=1, ddof=1).max()) if len(seeds) > 1 else 0.0
    return Sweep(rows, tuple(np.round(lid.mean(axis=0), 3).tolist()), mean), spread


def _sweep_dict(one: Sweep) -> dict[str, Any]:
    recall = {str(ef): list(values) for ef, values in one.recall.items()}
    return {"rows": one.rows, "lid": list(one.lid), "recall": recall}


def _sets(data: Path) -> list[tuple[Texts, str, tuple[str, ...]]]:
    scifact = judged(data, "scifact")
    news = labelled(data, "ag_news", "classification/ag_news.tsv.gz", "label", ("title", "text"))
    questions = labelled(data, "mmlu questions", "llm_routing/routing_mmlu.jsonl.gz", "subject", ("text",))
    both = ("faiss", "hnswlib")
    return [
        (scifact, "box", both),
        (scifact, "box, table alone", ("faiss", "hnswlib", "usearch", "faiss-at-once")),
        (scifact, "LSA-256", both),
        (news, "box", both),
        (questions, "box, table alone", both),
    ]


def _measured(
    rows: np.ndarray, queries: np.ndarray, texts: Texts, backends: Sequence[str], seeds: Sequence[int], progress: bool
) -> Measured:
    judge = ndcg(texts.grades) if texts.grades.size else None
    more = {"category": _one_by_one(texts.labels)} if len(texts.labels) else None
    order = order_effect(
        rows, queries, (DESC, ASC, RANDOM), seeds, backends, efs=EFS, more=more, judge=judge, paths=True,
        progress=progress,
    )  # fmt: skip
    exact = None if judge is None else round(judge(nearest(queries, rows, 10).ids), 4)
    return Measured(index_difficulty(rows, 100, 10_000), order, exact)


def _one_by_one(labels: np.ndarray) -> Callable[[int], np.ndarray]:
    """Rows of one category after another; which comes first, and the order within, are the seed's."""

    def order(seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        place = random.permutation(labels.max() + 1)
        return np.lexsort((random.random(len(labels)), place[labels]))

    return order


def _over_sets(found: dict[str, Measured], backend: str, order: str, ef: int) -> np.ndarray:
    """Recall of each seed, averaged over the sets that have the engine and the order."""
    each = [one.order for one in found.values()]
    return np.mean(
        [one.recall[backend][order][:, one.efs.index(ef)] for one in each if order in one.recall.get(backend, {})],
        axis=0,
    )


def _gain(found: dict[str, Measured], backend: str, ef: int, order: str = DESC, than: str = ASC) -> Any:
    return seed_interval(_over_sets(found, backend, order, ef) - _over_sets(found, backend, than, ef))


def _points(one: Any) -> str:
    mean, low, high = (100 * value for value in one)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _correlation(pairs: list[tuple[float, float]]) -> str:
    return f"{float(np.corrcoef(np.array(pairs).T)[0, 1]):.2f} over {len(pairs)} graphs"


def _detail(
    sweeps: Sequence[Sweep], by_distance: Sweep, fall: float, spread: float, found: dict[str, Measured],
    gains: dict[str, Any], ours: np.ndarray, theirs: np.ndarray, shuffled: np.ndarray,
) -> str:  # fmt: skip
    few, sweep = sweeps[0], sweeps[-1]
    said = [
        f"Recall@10 at ef=40 by rank of {sweep.rows:,} Gaussian rows: "
        + ", ".join(f"{rank} {recall:.2f}" for rank, recall in zip(RANKS, sweep.recall[40]))
        + f" (mean LID {', '.join(f'{lid:.1f}' for lid in sweep.lid)}): it falls by {fall:.0%}. Over seeds at "
        f"{few.rows:,} rows recall deviates by {spread:.3f} at most. There it goes from {few.recall[40][0]:.2f} to "
        f"{few.recall[40][-1]:.2f}, and by distance between rows as they are to {by_distance.recall[40][-1]:.2f}.",
        f"Real text, faiss at ef=10, mean over {len(found)} sets of rows: highest LID first {ours.mean():.3f} "
        f"(seeds {ours.min():.3f} to {ours.max():.3f}), lowest first {theirs.mean():.3f} ({theirs.min():.3f} to "
        f"{theirs.max():.3f}), random {shuffled.mean():.3f} ({shuffled.min():.3f} to {shuffled.max():.3f}). "
        "Falling minus rising LID in points, with 95% intervals over seeds: "
        + "; ".join(
            f"{backend} {_points(gain)} at ef=10, {_points(_gain(found, backend, 40))} at ef=40"
            for backend, gain in gains.items()
        )
        + ". Falling LID minus random, which is what there is to gain: "
        + "; ".join(f"{backend} {_points(_gain(found, backend, 10, DESC, RANDOM))}" for backend in gains)
        + " at ef=10.",
    ]
    for name, one in found.items():
        order = one.order
        expected = predicted(one.hard.lid_mean, order.rows, tuple(sweeps))
        each = "; ".join(f"{backend} {_points(order.difference(backend, 10, DESC, ASC))}" for backend in order.recall)
        line = (
            f"{name} (LID {one.hard.lid_mean:.1f}, {one.hard.pca99} components): falling minus rising at ef=10 {each}"
        )
        if "category" in order.recall["faiss"]:
            line += ", one category after another minus random " + "; ".join(
                f"{backend} {_points(order.difference(backend, 10, 'category', RANDOM))}" for backend in order.recall
            )
        line += ". A graph was predicted to find " + ", ".join(
            f"{expected[ef]:.2f} at ef={ef} (faiss found {order.mean('faiss', RANDOM, ef):.2f})" for ef in EFS
        )
        said.append(f"{line}.")
    said.append(_ranking(found))
    return " ".join(said)


def _ranking(found: dict[str, Measured]) -> str:
    """nDCG of the encoders on the judged set, exactly and through graphs, and what recall goes with."""
    known = {name: one for name, one in found.items() if one.exact is not None}
    exact = sorted(known, key=lambda name: -(known[name].exact or 0))
    by_graph = sorted(known, key=lambda name: -float(known[name].order.judged["faiss"][RANDOM][:, 0].mean()))
    lines = ", ".join(
        f"{name} {known[name].exact:.3f} exactly and {known[name].order.judged['faiss'][RANDOM][:, 0].mean():.3f} "
        "by faiss at ef=10"
        for name in exact
    )
    with_ndcg = [
        (float(recall), float(gain / (one.exact or 1)))
        for one in known.values()
        for order in one.order.recall["faiss"]
        for recall, gain in zip(one.order.recall["faiss"][order][:, 0], one.order.judged["faiss"][order][:, 0])
    ]
    with_path = [
        (float(recall), float(length))
        for one in found.values()
        for order in one.order.recall["faiss"]
        for recall, length in zip(one.order.recall["faiss"][order][:, 0], one.order.path["faiss"][order])
    ]
    return (
        f"nDCG@10: {lines}; the order of the encoders {'stays' if exact == by_graph else 'changes'}. With faiss at "
        f"ef=10 recall correlates with nDCG@10 as a share of the exact one at {_correlation(with_ndcg)}, with the mean "
        f"length of ways in the lowest layer at {_correlation(with_path)}."
    )


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
