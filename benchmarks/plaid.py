"""fast-plaid beside MUVERA and re-ranking: the same token vectors, the same queries, one a call on one thread.

The peer runs in an interpreter of its own, which INLAY_PLAID_PYTHON names. For each of its settings ours takes the
fewest candidates with which it finds at least as many of the ten best by exact MaxSim.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contender, Quality, Row, UnequalQuality, compare
from inlay.evaluation.measures import per_query
from inlay.types import Ragged

__all__ = ["against_plaid"]

NAMED = "INLAY_PLAID_PYTHON"
SETTINGS = ((64, 2), (256, 4), (1024, 8), (4096, 8))  # documents scored in full, lists probed; the last is its default
CANDIDATES = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
K, ASKED, TIMED = 10, 100, 20
AS_GOOD = Quality("recall@10 of exact MaxSim", 0.002, at_least=True)


def against_plaid(
    name: str, index: Any, rows: Ragged, queries: Ragged, exact: np.ndarray, test: Any, budget: float
) -> Iterator[Row]:  # fmt: skip
    """A row for each of the peer's settings.

    Args:
        name: of the task.
        index: a `MultiVector` of the rows.
        rows: token vectors of the documents.
        queries: those of the queries, in the order of the test's.
        exact: ids of the ten best by exact MaxSim, [queries, 10].
        test: judgments.
        budget: seconds of each comparison.
    """
    python = os.environ.get(NAMED)
    if not python:
        yield Row(f"{name}: encodings and re-ranking", "fast-plaid",
                  refused=f"it runs with one torch version only; {NAMED} names a Python that has both")  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "tokens.npz", documents=rows.values.astype(np.float32), offsets=rows.offsets,
                 queries=queries.values.astype(np.float32), asked=queries.offsets)  # fmt: skip
        peer = _Peer(python, folder)
        try:
            for full, probe in SETTINGS:
                yield _against(name, index, queries, exact, test, peer, full, probe, budget)
        finally:
            peer.close()


def _against(
    name: str, index: Any, queries: Ragged, exact: np.ndarray, test: Any, peer: _Peer, full: int, probe: int,
    budget: float,
) -> Row:  # fmt: skip
    count = len(queries)
    theirs = peer.search(0, count, ASKED, full, probe)
    wanted = _recall(theirs, exact)
    ours, candidates = None, 0
    for candidates in CANDIDATES:
        ours = index.search(queries, K, candidates=candidates).ids
        if _recall(ours, exact) >= wanted:
            break
    assert ours is not None
    more = index.search(queries, ASKED, candidates=max(candidates, ASKED)).ids
    ends = queries.offsets[: TIMED + 1].tolist()
    single = [Ragged(queries.values[low:high], np.array([0, high - low])) for low, high in zip(ends, ends[1:])]

    def run() -> None:
        for query in single:
            index.search(query, K, candidates=candidates)

    task = f"{name}: {candidates} candidates, one query a call"
    try:
        row = compare(
            task, Contender("inlay", run, lambda: _recall(ours, exact)),
            Contender("fast-plaid", lambda: peer.search(0, len(single), K, full, probe), lambda: wanted),
            quality=AS_GOOD, per=len(single), unit="ms/query", budget=budget,
        )  # fmt: skip
    except UnequalQuality as why:
        return Row(task, "fast-plaid", refused=str(why))
    row.notes |= {
        "fast-plaid": {"full scores": full, "lists": probe, "bytes": peer.nbytes, "build s": round(peer.seconds, 1)},
        "nDCG@10": {"inlay": _ndcg(ours, test, count), "fast-plaid": _ndcg(theirs, test, count)},
        f"relevant among {ASKED}": {"inlay": _found(more, test, count), "fast-plaid": _found(theirs, test, count)},
    }
    return row


class _Peer:
    """The other process."""

    def __init__(self, python: str, folder: str) -> None:
        script = Path(__file__).with_name("plaid_server.py")
        self._process = subprocess.Popen([python, str(script), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        made = self._line()
        self.seconds, self.nbytes = made["seconds"], made["bytes"]

    def search(self, low: int, high: int, k: int, full: int, probe: int) -> list[list[int]]:
        """Lists of some queries, asked one by one."""
        assert self._process.stdin is not None
        asked = {"from": low, "to": high, "k": k, "full": full, "probe": probe}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        ids: list[list[int]] = self._line()["ids"]
        return ids

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"fast-plaid ended with status {self._process.wait()}")


def _recall(found: Any, exact: np.ndarray) -> float:
    return float(np.mean([len(set(list(a)[:K]) & set(b)) / K for a, b in zip(found, exact.tolist())]))


def _lists(found: Any, test: Any, count: int, k: int) -> dict[str, Mapping[str, float]]:
    names = list(test.queries)[:count]
    return {
        query: {test.ids[i]: 1.0 / rank for rank, i in enumerate([i for i in list(ids)[:k] if i >= 0], start=1)}
        for query, ids in zip(names, found)
    }


def _ndcg(found: Any, test: Any, count: int) -> float:
    return round(float(per_query(_lists(found, test, count, K), test.qrels, ["ndcg@10"])["ndcg@10"].mean()), 4)


def _found(found: Any, test: Any, count: int) -> float:
    values = per_query(_lists(found, test, count, ASKED), test.qrels, [f"recall@{ASKED}"])[f"recall@{ASKED}"]
    return round(float(values.mean()), 4)
