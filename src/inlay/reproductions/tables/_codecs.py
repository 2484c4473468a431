"""What post-training codecs keep of real sentence vectors: recall@10 at equal bytes.

Called by the storage benchmark, whose paper (arXiv 2311.15578) compares them on vectors of Wikipedia passages.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.codecs import for_budget, nbytes_of
from inlay.errors import BadInput

__all__ = ["NAMES", "codec_curve", "ordering", "recall", "sentence_vectors"]

NAMES = ("int8", "svd", "mag-svd", "pq", "mag-pq", "tt", "pruned", "dedup")
INT8_SHARE = 0.26  # its quarter, and one scale a row


def sentence_vectors(
    data: Path, *, rows: int = 20_000, queries: int = 500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [rows, 384] and [queries, 384] of distinct sentences of English text, by the built-in encoder."""
    import inlay

    sentences: list[str] = []
    with gzip.open(data / "text" / "english_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            for paragraph in json.loads(line)["text"].split("\n"):
                sentences += [s for s in re.split(r"(?<=[.!?])\s+", paragraph) if 30 <= len(s) <= 100]
    distinct = sorted(set(sentences))
    if len(distinct) < rows + queries:
        raise BadInput(f"{rows + queries:,} sentences were asked for, the text has {len(distinct):,}")
    random = np.random.default_rng(seed)
    chosen = [distinct[i] for i in random.choice(len(distinct), rows + queries, replace=False)]
    vectors = np.asarray(inlay.encoder("box").encode_document(chosen), dtype=np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors[:rows], vectors[rows:]


def recall(base: np.ndarray, decoded: np.ndarray, queries: np.ndarray, k: int = 10) -> np.ndarray:
    """Of each query, the share of its k nearest rows (dot product) that are found among decoded ones, [queries]."""
    exact = np.argpartition(-(queries @ base.T), k, axis=1)[:, :k]
    found = np.argpartition(-(queries @ decoded.T), k, axis=1)[:, :k]
    return np.array([len(np.intersect1d(a, b)) / k for a, b in zip(exact, found)])


def codec_curve(
    data: Path,
    *,
    shares: Sequence[float] = (0.25, 0.1, 0.05),
    names: Sequence[str] = NAMES,
    rows: int = 20_000,
    queries: int = 500,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Recall@10 of each codec at each share of float32 bytes; codecs that a share is too small for are left out.

    INT8, whose one size is a little above a quarter, and block deduplication, which has no size to set, are measured
    once. A minute on one core, most of it k-means and encoding.

    Returns:
        {"codec", "share" (asked for), "bytes" (really taken, of all), "taken" (as a share), "recall", "error"
        (standard, over queries), "seconds" (fit, encode and decode)} of each.
    """
    base, asked = sentence_vectors(data, rows=rows, queries=queries, seed=seed)
    found: list[dict[str, Any]] = []
    once = {"int8": INT8_SHARE, "dedup": max(shares)}
    for share in sorted({*shares, INT8_SHARE}, reverse=True):
        for name in names:
            if share != once.get(name, share) or (share not in shares and name not in once):
                continue
            began = time.perf_counter()
            settings = {"iterations": 10, "sample": 10_000} if name == "pq" else {}
            settings |= {"iterations": 10} if name == "mag-pq" else {}
            try:
                codec = for_budget(name, base, share, **settings)
            except BadInput:
                continue
            codes = codec.encode(base)
            hits = recall(base, codec.decode(codes), asked)
            taken = nbytes_of(codec, codes)
            found.append({
                "codec": name, "share": share, "bytes": taken, "taken": round(taken / base.nbytes, 4),
                "recall": round(float(hits.mean()), 4), "error": round(float(hits.std() / len(hits) ** 0.5), 4),
                "seconds": round(time.perf_counter() - began, 2),
            })  # fmt: skip
    return found


def ordering(curve: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """Whether the curve is ordered as claimed: SVD and INT8 above PQ at a quarter, PQ the best below a tenth."""

    def at(name: str, share: float) -> float:
        kept = [
            point["recall"] for point in curve
            if point["codec"] == name and point["share"] == share and point["taken"] <= share * 1.001
        ]  # fmt: skip
        return float(max(kept, default=np.nan))

    small = sorted({point["share"] for point in curve if point["share"] < 0.1})
    others = {point["codec"] for point in curve} - {"pq", "mag-pq"}
    return {
        "svd above pq at 25%": at("svd", 0.25) > at("pq", 0.25),
        "int8 above pq at 25%": at("int8", INT8_SHARE) > at("pq", 0.25),
        "pq best below 10%": bool(small)
        and all(
            at("pq", share) > max((at(o, share) for o in others if at(o, share) >= 0), default=0.0) for share in small
        ),
    }
