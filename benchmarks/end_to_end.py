"""From documents to the first answer: add, index both ways, durable on disk, one hybrid query.

Every engine gets the same documents (SciFact) and the same dense vectors, in a fresh process each time; ours and a
peer's processes alternate. Importing the engine is not in the timed part, it has a row of its own. Compiled kernels are
cached on disk by the first, unmeasured process, as they are after any earlier use. Pools are pinned by environment
variables, which not every engine heeds; processor time has a row too, and where it exceeds the wall time, more than
one core was at work.

Equal answers come first: the dense answers of both must be the exact ones (recall@10), and a document's own title
must find it by text and by both. How good the fused ranking is (nDCG@10 of the judged queries) is reported, but
depends on the vectors, which here are hashes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import child, data
from benchmarks.engines import ENGINES
from benchmarks.harness import Quality, Row, UnequalQuality, alternate, ratios

__all__ = ["PACKAGES", "TITLE", "first_answer", "measure"]

TITLE = "Documents to the first hybrid answer"
PACKAGES = ("inlay", "txtai", "faiss-cpu", "chromadb", "lancedb", "numpy", "numba", "apsw")
PEERS = ("txtai", "chromadb", "lancedb")

EXACT = Quality("dense recall@10", 0.03, at_least=True)
FOUND = Quality("known item by text@10", 0.03, at_least=True)
ASKED = 100  # queries of the untimed checks and of the warm latency


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows of each peer: seconds, peak memory, bytes on disk, warm latency."""
    with tempfile.TemporaryDirectory() as scratch:
        where = _prepare(Path(scratch), 1000 if quick else None)
        for peer in PEERS:
            yield from _against(peer, where, pairs=2 if quick else 7)


def _against(peer: str, where: Path, pairs: int) -> Iterator[Row]:
    task = f"{len(json.loads((where / 'docs.json').read_text())['ids']):,} documents"
    try:
        warm = {name: _fresh(name, where) for name in ("inlay", peer)}  # leaves caches warm, and says how good each is
    except child.ChildFailed as why:
        reason = "is not installed" if "ModuleNotFoundError" in str(why) else f"could not be measured: {why}"
        yield Row(task, peer, refused=f"{peer} {reason}" if "No module named 'inlay" not in str(why) else str(why))
        return
    checked: dict[str, dict] = {}
    for quality, key in ((EXACT, "recall"), (FOUND, "found")):
        ours, theirs = warm["inlay"][key], warm[peer][key]
        checked[key] = {"measure": quality.measure, "ours": round(ours, 4), "peer": round(theirs, 4)}
        try:
            quality.check(ours, theirs)
        except UnequalQuality as why:
            yield Row(task, peer, quality=checked[key], refused=str(why))
            return
    runs: dict[str, list[dict]] = {"inlay": [], peer: []}
    for order in alternate(0.0, pairs, pairs):
        for which in order:
            name = ("inlay", peer)[which]
            runs[name].append(_fresh(name, where))
    notes = {"how": ENGINES[peer].how, "nDCG@10": {name: round(warm[name]["ndcg"], 4) for name in warm}}
    for what, key, unit, scale in (
        ("add to first hybrid answer", "seconds", "s", 1.0),
        ("the same in processor time", "processor_seconds", "s", 1.0),
        ("the same with imports", "with_imports", "s", 1.0),
        ("peak memory", "peak_bytes", "MB", 1e-6),
        ("bytes on disk", "disk_bytes", "MB", 1e-6),
        ("hybrid query, warm", "query_seconds", "ms", 1e3),
    ):
        ours, theirs = ([run[key] for run in runs[name]] for name in ("inlay", peer))
        yield Row(
            f"{task}: {what}",
            peer,
            unit,
            statistics.median(ours) * scale,
            statistics.median(theirs) * scale,
            ratios(ours, theirs),
            checked["recall"],
            notes,
        )


def _prepare(where: Path, limit: int | None) -> Path:
    """Write what every child reads: documents, vectors, queries and the exact answers."""
    test = data.judged("scifact")
    ids, texts = test.ids[:limit], test.texts[:limit]
    vectors = data.hashed_vectors(texts)
    titles = [document["title"] for document in test.corpus[:limit]]
    queries = list(test.queries.values())
    asked = data.hashed_vectors(queries)
    exact = np.argsort(-(asked[:ASKED] @ vectors.T), axis=1, kind="stable")[:, :10]
    np.save(where / "vectors.npy", vectors)
    np.save(where / "queries.npy", asked)
    documents = {"ids": ids, "texts": texts, "titles": titles[:ASKED], "queries": queries, "exact": exact.tolist()}
    (where / "docs.json").write_text(json.dumps(documents), encoding="utf-8")
    return where


def _fresh(name: str, where: Path) -> dict:
    """One engine from nothing, in a process of its own and an empty folder."""
    with tempfile.TemporaryDirectory() as scratch:
        return child.run("benchmarks.end_to_end:first_answer", {"name": name, "scratch": scratch, "where": str(where)})


def first_answer(name: str, scratch: str, where: str) -> dict:
    """Runs in a child: what an engine takes from documents to its first answer, and what it answers."""
    given = json.loads(Path(where, "docs.json").read_text(encoding="utf-8"))
    vectors, asked = np.load(Path(where, "vectors.npy")), np.load(Path(where, "queries.npy"))
    ids, queries = given["ids"], given["queries"]
    engine = ENGINES[name]
    start = time.perf_counter()
    engine.imports()
    imported, used = time.perf_counter(), time.process_time()
    store = engine(Path(scratch))
    store.add(ids, given["texts"], vectors)
    store.hybrid(queries[0], asked[0], 10)
    answered, used = time.perf_counter(), time.process_time() - used
    peak = child.peak_bytes()

    seconds = []
    fused = []
    for query, vector in zip(queries, asked):
        begun = time.perf_counter()
        fused.append(store.hybrid(query, vector, 10))
        seconds.append(time.perf_counter() - begun)
    recall = [
        len({ids[i] for i in best} & set(store.dense(vector, 10))) / 10 for vector, best in zip(asked, given["exact"])
    ]
    found = [
        id in store.lexical(title, 10) if name != "chromadb" else id in store.hybrid(title, vector, 10)
        for id, title, vector in zip(ids, given["titles"], vectors)
    ]
    store.close()
    files = [path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file()]
    test = data.judged("scifact")
    return {
        "seconds": answered - imported,
        "processor_seconds": used,
        "with_imports": answered - start,
        "import_seconds": imported - start,
        "peak_bytes": peak,
        "disk_bytes": sum(files),
        "query_seconds": statistics.median(seconds[1:]),
        "recall": statistics.fmean(recall),
        "found": statistics.fmean(found),
        "ndcg": data.ndcg(test, fused),
    }
