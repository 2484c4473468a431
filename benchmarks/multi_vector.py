"""Multi-vector search: MaxSim against torch, residual codes against decoding them, and MUVERA against its baselines.

MaxSim: one query of 32 tokens against 1,000 documents of 128 tokens, 128 dimensions, one thread; torch multiplies with
`einsum` and takes maxima, in whichever of two layouts is faster. Equal quality is that the ten best are the same.

MUVERA: tokens of the boxed model (`LateBox`) on SciFact. Truth is the exact MaxSim of all documents. How many
candidates does it take until 95% of the ten best are among them: for encodings of several widths, for the mean of
tokens, and for the single-vector heuristic (documents in the order of their best rank for any query token, each
counted once)? Then the time of encodings and re-ranking with that many candidates, against scoring everything.

fast-plaid is built against one torch version and crashes with others: it runs in an interpreter of its own
(`benchmarks.plaid`), which INLAY_PLAID_PYTHON names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.harness import Contender, Quality, Row, compare
from benchmarks.plaid import against_plaid
from inlay.types import Ragged

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Multi-vector search (MaxSim, MUVERA)"
PACKAGES = ("inlay", "torch", "numpy", "numba")
TOKENS, DIM, LENGTH, K = 32, 128, 128, 10
SHARE = 0.95
SAME = Quality("overlap@10 with float64", 0.05, at_least=True)
CLOSE = Quality("overlap@10 with float64", 0.15, at_least=True)
RECALL = Quality("recall@10 of exact MaxSim", 1 - SHARE + 0.01)


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows of the kernels, then of the index."""
    yield from _kernels(250 if quick else 1000, 0.3 if quick else 10.0)
    yield from _candidates(60 if quick else None, 20 if quick else 300, 0.3 if quick else 15.0)


def _kernels(documents: int, budget: float) -> Iterator[Row]:
    from inlay.codecs.residual import ResidualTokens
    from inlay.codecs.scalar import Int8
    from inlay.kernels.maxsim import maxsim

    rng = np.random.default_rng(0)
    query = data.clustered(TOKENS, DIM, seed=1)
    values = data.clustered(documents * LENGTH, DIM, clusters=400, seed=1)
    values = values[rng.permutation(len(values))]
    offsets = np.arange(0, len(values) + 1, LENGTH)
    truth = (values.astype(np.float64) @ query.T.astype(np.float64)).reshape(documents, LENGTH, -1).max(1).sum(1)
    whole, (codes, scales), half = values, Int8().encode(values), values.astype(np.float16)
    try:
        theirs = _torch(query, values.reshape(documents, LENGTH, DIM))
    except ImportError:
        yield Row("MaxSim", "torch", refused="torch is not installed")
        return
    residual = ResidualTokens(2, centroids=256).fit(values[: 8 * 1024])
    packed = residual.encode(values)
    scorer = residual.scorer(query)

    def side(name: str, run: Callable[[], np.ndarray]) -> Contender:
        return Contender(name, run, lambda: _overlap(run(), truth))

    shape = f"{TOKENS} × ({documents:,} × {LENGTH}) × {DIM}"
    for dtype, run, quality in (
        ("float32", lambda: maxsim(query, whole, offsets), SAME),
        ("float16", lambda: maxsim(query, half, offsets), SAME),
        ("int8", lambda: maxsim(query, codes, offsets, scales=scales), CLOSE),
    ):
        yield compare(
            f"MaxSim {shape}, {dtype}", side("inlay", run), side("torch einsum, float32", theirs),
            quality=quality, per=1, unit="ms", budget=budget,
        )  # fmt: skip
    decoded = _torch_decoding(query, residual, packed, documents)
    row = compare(
        f"MaxSim {shape}, centroid and 2 bits", Contender("inlay", lambda: scorer(packed, offsets)),
        Contender("decoded, then torch einsum", decoded), per=1, unit="ms", budget=budget,
    )  # fmt: skip
    row.notes["bytes a token"] = residual.nbytes(DIM)
    row.notes["overlap@10 with float64"] = round(_overlap(scorer(packed, offsets), truth), 3)
    yield row


def _torch(query: np.ndarray, values: np.ndarray) -> Callable[[], np.ndarray]:
    """torch on one thread, in the faster of two layouts."""
    import torch

    torch.set_num_threads(1)
    q, d = torch.from_numpy(query), torch.from_numpy(values)
    forms = [
        lambda: torch.einsum("ntd,qd->ntq", d, q).amax(1).sum(1).numpy(),
        lambda: torch.einsum("qd,ntd->nqt", q, d).amax(2).sum(1).numpy(),
    ]
    best = [float("inf")] * len(forms)
    for _ in range(5):  # in turn, so that a busy moment does not decide
        for place, form in enumerate(forms):
            start = time.perf_counter()
            form()
            best[place] = min(best[place], time.perf_counter() - start)
    return forms[int(np.argmin(best))]


def _torch_decoding(query: np.ndarray, codec: Any, codes: Any, documents: int) -> Callable[[], np.ndarray]:
    """Decode all tokens in torch by table look-ups, then einsum."""
    import torch

    q, centroids, weights = (torch.from_numpy(x) for x in (query, codec.centroids, codec.weights))
    near = torch.from_numpy(codes.centroids.astype(np.int64))
    packed = torch.from_numpy(codes.residuals)
    shifts = torch.arange(0, 8, codec.bits, dtype=torch.uint8)
    columns = torch.arange(DIM)

    def run() -> np.ndarray:
        buckets = ((packed[:, :, None] >> shifts) & ((1 << codec.bits) - 1)).reshape(len(near), DIM).long()
        tokens = torch.nn.functional.normalize(centroids[near] + weights[columns, buckets], dim=1)
        return torch.einsum("ntd,qd->ntq", tokens.view(documents, LENGTH, DIM), q).amax(1).sum(1).numpy()

    return run


def _candidates(documents: int | None, asked: int, budget: float) -> Iterator[Row]:
    """Candidates needed on SciFact, then time at that many."""
    from inlay.codecs.muvera import MuveraFDE
    from inlay.codecs.product import ProductQuantiser
    from inlay.encoders.late_box import LateBox
    from inlay.indexes.multi_vector import MultiVector

    test = data.judged("scifact")
    encoder = LateBox()
    rows = encoder.encode_document(test.texts[:documents])
    queries = encoder.encode_query(list(test.queries.values())[:asked])
    name = f"scifact, {len(rows):,} documents × {len(rows.values) // len(rows)} tokens, {len(queries)} queries"

    index = MultiVector(MuveraFDE(encoder.space.dim).fit(rows), tokens="float16")
    index.add(rows)
    exact = index.search(queries, K, candidates=len(rows))
    heuristic = _needed(_single_vector(queries, rows), exact.ids)
    means = _needed(_means(queries) @ _means(rows).T, exact.ids)
    needed = {}
    for sizes in ({"k_sim": 3}, {"k_sim": 4}, {"k_sim": 5}, {"k_sim": 5, "d_proj": 16}, {"center": False}):
        fde = MuveraFDE(encoder.space.dim, **sizes).fit(rows)
        encoded = fde.encode_document(rows)
        scores = fde.encode_query(queries) @ encoded.T
        label = f"encodings of {fde.width:,}" + (", not centred" if sizes.get("center") is False else "")
        needed[label] = _needed(scores, exact.ids)
        row = Row(
            f"{name}: {label}", "single-vector heuristic", f"candidates for {SHARE:.0%} of the ten best",
            needed[label], heuristic,
        )  # fmt: skip
        row.notes["mean of tokens"] = means
        row.notes["among the first 100"] = round(_share(scores, exact.ids, 100), 3)
        if not sizes.get("center", True) or sizes != {"k_sim": 5} or len(rows) < 256:
            yield row
            continue
        product = ProductQuantiser(dsub=8, iterations=4, sample=4096).fit(encoded)
        coded = product.decode(product.encode(encoded))
        row.notes["as 1 byte for 8 numbers"] = _needed(fde.encode_query(queries) @ coded.T, exact.ids)
        yield row

    enough = max(K, int(needed[f"encodings of {index.fde.width:,}"]))
    asked_once = Ragged(queries.values[: queries.offsets[10]], queries.offsets[:11])

    def recall(found: np.ndarray) -> float:
        return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), exact.ids.tolist())]))

    def side(label: str, candidates: int, **options: Any) -> Contender:
        return Contender(
            label,
            lambda: index.search(asked_once, K, candidates=candidates, **options),
            lambda: recall(index.search(queries, K, candidates=candidates, **options).ids),
        )

    everything = side("exact MaxSim of all", len(rows))
    yield compare(
        f"{name}: encodings and {enough} candidates", side("inlay", enough), everything,
        quality=RECALL, per=10, unit="ms/query", budget=budget,
        notes={"bytes": {"encodings": index.index.nbytes, "tokens": index.rows.nbytes}},
    )  # fmt: skip
    yield from against_plaid(name, index, rows, queries, exact.ids, test, budget)


def _needed(scores: np.ndarray, truth: np.ndarray) -> int:
    """Least number of candidates that hold the share of the true ten best of all queries."""
    return int(np.ceil(np.quantile(_ranks(scores, truth), SHARE, method="inverted_cdf")))


def _share(scores: np.ndarray, truth: np.ndarray, candidates: int) -> float:
    return float((_ranks(scores, truth) <= candidates).mean())


def _ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank from 1 that each true document has by `scores` [queries, documents]."""
    place = np.empty(scores.shape, dtype=np.int64)
    order = np.argsort(-scores, axis=1, kind="stable")
    np.put_along_axis(place, order, np.arange(1, scores.shape[1] + 1)[None], axis=1)
    return np.concatenate([row[ids[ids >= 0]] for row, ids in zip(place, truth)])


def _means(bags: Ragged) -> np.ndarray:
    """Mean of each bag at length 1."""
    means = np.stack([bag.mean(axis=0) if len(bag) else np.zeros(bags.values.shape[1], np.float32) for bag in bags])
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def _single_vector(queries: Ragged, rows: Ragged) -> np.ndarray:
    """Minus the best rank a document has for any query token, float32 [queries, documents]; ties by its best dot."""
    full = np.flatnonzero(np.diff(rows.offsets))
    out = np.full((len(queries), len(rows)), -np.inf)
    for query, tokens in enumerate(queries):
        best = np.maximum.reduceat(tokens @ rows.values.T, rows.offsets[full], axis=1)
        rank = np.empty(best.shape)
        np.put_along_axis(rank, np.argsort(-best, axis=1, kind="stable"), np.arange(best.shape[1])[None] * 1.0, axis=1)
        out[query, full] = -rank.min(axis=0) + best.max(axis=0) / 4  # a dot of unit tokens is at most 1
    return out


def _overlap(scores: np.ndarray, truth: np.ndarray) -> float:
    best = np.argsort(-truth)[:K]
    return len(set(np.argsort(-scores)[:K].tolist()) & set(best.tolist())) / K
