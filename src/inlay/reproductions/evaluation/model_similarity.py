"""Do encoders with alike geometries find the same (Caspari et al., 2024)?

The paper compares 19 encoders by CKA and by their lists of results, and finds that a high CKA does not imply the same
lists: two large models have a CKA of .85 to .88 and share .18 to .61 of their first ten (Jaccard). Mean pairwise CKA is
.74 to .78 over its sets, mean Jaccard@10 .12 to .47.

Here on Cranfield, all judged queries. Everything is compared with LSA of 256 dimensions: the same turned at random, its
copy in 8-bit floats (e4m3), its tf-idf counts, LSA of four-letter counts, LSA of 64 dimensions, and itself with its
rows shuffled. Four things decide:

(a) CKA, Jaccard@10 and rank similarity@10 all put them in the order just given, down to the shuffled rows; the turned
copy reaches 0.999 in all three;
(b) for every pair of encoders that are no copies, MiniLM, the box and NUMEN among them, CKA is at least 0.1 above
Jaccard@10;
(c) shuffled rows have a CKA above 0.05, the bias of its estimate;
(d) debiased it is within 0.02 of 0.

All four make it shown, some of them partly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from inlay.evaluation.measures import mean_interval
from inlay.evaluation.model_map import map_models
from inlay.evaluation.ranked_overlap import jaccard, rank_similarity, result_lists
from inlay.evaluation.similarity import cka, cka_matrix
from inlay.kernels.dense import normalise
from inlay.reproductions.evaluation._text_rows import in_package, lsa, minilm, tfidf
from inlay.reproductions.indexes._embedded_texts import judged
from inlay.reproductions.result import Figure, Result

PAPER = (
    "Beyond Benchmarks: Evaluating Embedding Model Similarity for Retrieval Augmented Generation (arXiv 2407.08275, "
    "IR-RAG at SIGIR 2024)"
)

BASE = "LSA-256"
ORDER = ("turned copy", "8-bit copy", "tf-idf", "char-LSA-256", "LSA-64", "shuffled")
COPIES = ("turned copy", "8-bit copy", "shuffled")
SIZES = (1, 3, 5, 10, 100)
K, ABOVE, FLOOR, NIL, SAME = 10, 0.1, 0.05, 0.02, 0.999

Rows = tuple[np.ndarray, np.ndarray]  # documents and queries


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All encoders of one set, compared in pairs; about two minutes."""
    began = time.perf_counter()
    texts = judged(data, "cranfield")
    # Blank documents are no texts: no encoder says anything about them.
    full = [text for text in texts.documents if text.strip()]
    encoders = _encoders(full, texts.queries)
    made = {**encoders, **_copies(encoders[BASE], seeds[0])}
    _say(progress, f"{len(made)} encoders, {len(full)} documents, {len(texts.queries)} queries")
    lists = {name: result_lists(queries, rows, SIZES[-1]) for name, (rows, queries) in made.items()}
    likeness = _likeness({name: rows for name, (rows, _) in made.items()})
    # A shuffled copy finds other texts at the same places: its lists are of whatever lies there.
    to_base = {name: _agreement(likeness, lists, BASE, name) for name in ORDER}
    for name, found in to_base.items():
        _say(progress, f"{name}: {found}")
    real = [name for name in made if name not in COPIES]
    between = {f"{a} – {b}": _agreement(likeness, lists, a, b) for a, b in combinations(real, 2)}
    floors = [_shuffled(encoders[BASE][0], seed) for seed in seeds]
    base_queries = list(jaccard(lists[BASE], lists["tf-idf"], K))

    held = _held(to_base, between, floors)
    means = {m: float(np.mean([one[m] for one in between.values()])) for m in ("CKA", f"Jaccard@{K}", f"RankSim@{K}")}
    tree = map_models(real, _matrix(real, between, "CKA"))
    found_tree = map_models(real, _matrix(real, between, f"Jaccard@{K}"))
    return Result(
        name="model-similarity",
        title="Likeness of encoders (CKA, Jaccard, rank similarity)",
        room="evaluation",
        source=PAPER,
        claim="encoders of alike geometry need not find the same: CKA is far above the overlap of results",
        paper="mean pairwise CKA .74 to .78, mean Jaccard@10 .12 to .47; one pair CKA .85, Jaccard@10 .18 to .61",
        metric=f"mean over {len(between)} pairs of encoders, Cranfield",
        baseline=Figure(f"Jaccard@{K}", round(means[f"Jaccard@{K}"], 4)),
        method=Figure("CKA", round(means["CKA"], 4)),
        data=f"Cranfield: {len(full):,} documents, {len(texts.queries)} queries; {len(real)} encoders",
        verdict="shown" if all(held) else "partly" if any(held) else "not shown",
        detail=_detail(to_base, between, means, floors, held, tree.clusters(3), found_tree.clusters(3)),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            f"to {BASE}": to_base,
            "pairs": between,
            "shuffled CKA and debiased": [[round(value, 4) for value in one] for one in floors],
            f"Jaccard@{K} of tf-idf with its interval": [round(v, 4) for v in mean_interval(np.array(base_queries))],
        },
    )


def _held(
    to_base: dict[str, dict[str, float]], between: dict[str, dict[str, float]], floors: list[tuple[float, float]]
) -> tuple[bool, ...]:
    """Which of the four that decide hold."""
    measures = ("CKA", f"Jaccard@{K}", f"RankSim@{K}")
    falling = all(to_base[a][one] > to_base[b][one] for one in measures for a, b in zip(ORDER, ORDER[1:]))
    return (
        falling and all(to_base[ORDER[0]][one] >= SAME for one in measures),
        all(one["CKA"] >= one[f"Jaccard@{K}"] + ABOVE for one in between.values()),
        all(plain > FLOOR for plain, _ in floors),
        all(abs(debiased) <= NIL for _, debiased in floors),
    )


def _encoders(documents: list[str], queries: list[str]) -> dict[str, Rows]:
    """Each encoder's rows of documents and queries."""
    found = {f"LSA-{dims}": lsa(dims, documents, queries) for dims in (64, 128, 256)}
    found["char-LSA-256"] = lsa(256, documents, queries, characters=True)
    found["tf-idf"] = tfidf(documents, queries)
    for name in ("box", "box?context=false", "numen?dim=4096"):
        found[name] = in_package(name, documents, queries)
    teacher = minilm(documents, queries)
    if teacher is not None:
        found["MiniLM"] = teacher
    return {name: (own[0], own[1]) for name, own in found.items()}


def _copies(rows: Rows, seed: int) -> dict[str, Rows]:
    """The same space turned, in 8 bits, and with its rows shuffled."""
    draw = np.random.default_rng(seed)
    width = rows[0].shape[1]
    turn = np.linalg.qr(draw.standard_normal((width, width)))[0].astype(np.float32)
    return {
        "turned copy": (rows[0] @ turn, rows[1] @ turn),
        "8-bit copy": (_eight_bits(rows[0]), _eight_bits(rows[1])),
        "shuffled": (rows[0][draw.permutation(len(rows[0]))], rows[1]),
    }


def _eight_bits(rows: np.ndarray) -> np.ndarray:
    """Each number as the nearest float of 4 bits exponent and 3 bits mantissa."""
    import torch

    return normalise(torch.from_numpy(np.ascontiguousarray(rows)).to(torch.float8_e4m3fn).float().numpy())


def _likeness(made: dict[str, np.ndarray]) -> dict[str, dict[tuple[str, str], float]]:
    """Every CKA of every pair."""
    names, sets = list(made), list(made.values())
    ways = {"CKA": cka_matrix(sets), "CKA debiased": cka_matrix(sets, debiased=True)}
    ways["RBF CKA"] = cka_matrix(sets, kernel="rbf")
    return {
        way: {(a, b): float(matrix[i, j]) for i, a in enumerate(names) for j, b in enumerate(names)}
        for way, matrix in ways.items()
    }


def _agreement(
    likeness: dict[str, dict[tuple[str, str], float]], lists: dict[str, np.ndarray], a: str, b: str
) -> dict[str, float]:
    found = {way: pairs[a, b] for way, pairs in likeness.items()}
    for k in SIZES:
        found[f"Jaccard@{k}"] = float(jaccard(lists[a], lists[b], k).mean())
        found[f"RankSim@{k}"] = float(rank_similarity(lists[a], lists[b], k).mean())
    return {name: round(value, 4) for name, value in found.items()}


def _shuffled(rows: np.ndarray, seed: int) -> tuple[float, float]:
    """CKA, and debiased CKA, of rows with themselves in another order."""
    other = rows[np.random.default_rng(100 + seed).permutation(len(rows))]
    return cka(rows, other), cka(rows, other, debiased=True)


def _matrix(names: list[str], pairs: dict[str, dict[str, float]], measure: str) -> np.ndarray:
    found = np.eye(len(names))
    for (i, a), (j, b) in combinations(enumerate(names), 2):
        found[i, j] = found[j, i] = pairs[f"{a} – {b}"][measure]
    return found


def _detail(
    to_base: dict[str, dict[str, float]],
    between: dict[str, dict[str, float]],
    means: dict[str, float],
    floors: list[tuple[float, float]],
    held: tuple[bool, ...],
    by_geometry: list[list[str]],
    by_results: list[list[str]],
) -> str:
    nearest = min(between, key=lambda pair: between[pair]["CKA"] - between[pair][f"Jaccard@{K}"])
    close = between[nearest]
    widest = max(between, key=lambda pair: between[pair]["CKA"] - between[pair][f"Jaccard@{K}"])
    far = between[widest]
    said = [
        f"CKA, Jaccard@{K} and RankSim@{K} with {BASE}: "
        + "; ".join(
            f"{name} {one['CKA']:.3f}, {one[f'Jaccard@{K}']:.3f}, {one[f'RankSim@{K}']:.3f}"
            for name, one in to_base.items()
        )
        + (", in the order expected." if held[0] else f". Out of the order expected: {_out_of_order(to_base)}."),
        f"Over {len(between)} pairs CKA is {means['CKA']:.3f}, Jaccard@{K} {means[f'Jaccard@{K}']:.3f}, RankSim@{K} "
        f"{means[f'RankSim@{K}']:.3f} on average. CKA is furthest above Jaccard for {widest} "
        f"({far['CKA']:.3f} and {far[f'Jaccard@{K}']:.3f}) and least for {nearest} "
        f"({close['CKA']:.3f} and {close[f'Jaccard@{K}']:.3f})"
        + ("." if held[1] else f", where {ABOVE:g} more was needed."),
        "Shuffled rows have a CKA of "
        + ", ".join(f"{plain:.3f}" for plain, _ in floors)
        + "; debiased "
        + ", ".join(f"{debiased:+.4f}" for _, debiased in floors)
        + ".",
        f"In three clusters by CKA: {_groups(by_geometry)}; by Jaccard@{K}: {_groups(by_results)}.",
    ]
    return " ".join(said)


def _out_of_order(to_base: dict[str, dict[str, float]]) -> str:
    found = [
        f"{one} of {a} and {b}, {to_base[a][one]:.3f} and {to_base[b][one]:.3f}"
        for one in ("CKA", f"Jaccard@{K}", f"RankSim@{K}")
        for a, b in zip(ORDER, ORDER[1:])
        if to_base[a][one] <= to_base[b][one]
    ]
    return "; ".join(found) or "the turned copy is not the same"


def _groups(clusters: list[list[str]]) -> str:
    return " | ".join(", ".join(own) for own in clusters)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
