"""A graph beside the dense rows of a large segment, so that a query scores some hundreds of them and not all.

Small segments are scanned, and have none; so are those whose rows a graph does not serve well, which is measured with
some of them when it is built. Neither is there one where the writer had no numba, and it is left alone where the reader
has none. The graph is walked by codes of a byte a number, and what it finds is scored by the rows as they are stored;
where these are int8 they are the codes, which are then not kept twice. A filter is handed on: the graph's planner
chooses how to search among few rows (`inlay.indexes.filter_plan`).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.io import Pack
from inlay.kernels import WORTH_COMPILING
from inlay.types import Metric

__all__ = ["EF", "candidates", "graph_of", "has_graph", "with_graph"]

# Rows of a segment from which a graph is worth building, if there are so many numbers in them that numba is worth
# importing: 80,000 rows of 384 are scanned in about 5 ms and walked in 0.3 (`python -m benchmarks graph` has both).
GRAPHED, NUMBERS = 80_000, WORTH_COMPILING
CONNECTIVITY, EXPANSION_ADD = 16, 128
GOOD = 0.95  # recall@10 of its own rows below which a graph is not kept
ASKED = 64  # rows that it is measured with
EF = 128  # candidates of a walk, at least: recall@10 on texts is 0.99 among 80,000 rows, 0.98 among 200,000
PREFIX, FACTS = "graph.", "graph.facts"


def has_graph(pack: Pack) -> bool:
    """Whether a dense segment has a graph."""
    return FACTS in pack


def with_graph(arrays: dict[str, np.ndarray], metric: Metric) -> dict[str, np.ndarray]:
    """The arrays of a dense segment, a graph among them where there are enough rows.

    Args:
        arrays: `rows` [n, dim] float32, float16 or int8, the last with `scales` float32 [n].
        metric: rows are compared by.
    """
    rows = arrays["rows"]
    if len(rows) < GRAPHED or rows.size < NUMBERS or importlib.util.find_spec("numba") is None:
        return arrays
    from inlay.indexes.dense_graph import DenseGraph

    index = DenseGraph(
        rows.shape[1], metric=metric, dtype="int8", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD,
        expansion_search=EF,
    )  # fmt: skip
    values = rows.astype(np.float32)
    if "scales" in arrays:
        values *= arrays["scales"][:, None]
    index.add(values)
    if _recall(index, values, metric) < GOOD:
        return arrays
    made = {PREFIX + name: array for name, array in index.arrays().items() if name != "rows"}
    if "scales" in arrays:
        del made[PREFIX + "codes"]
    return arrays | made | {FACTS: np.frombuffer(json.dumps(index.facts()).encode(), dtype=np.uint8)}


def candidates(k: int) -> int:
    """How many rows a walk is asked for, of which k are wanted once they are scored in full."""
    return k + k // 2 + 8


def _recall(index: Any, values: np.ndarray, metric: Metric, k: int = 10) -> float:
    """Share of the k nearest, of some rows, that a walk finds; one as near as the k-th counts."""
    from inlay.kernels.dense import nearest

    asked = values[:: max(1, len(values) // ASKED)][:ASKED]
    best = nearest(asked, values, k, metric=metric)
    found = index.search(asked, candidates(k), ef=EF).ids
    shares = []
    for i, query in enumerate(asked):
        own = values[found[i][found[i] >= 0]]
        scores = nearest(query[None], own, min(k, len(own)), metric=metric).scores[0]
        kth = best.scores[i, -1]
        shares.append(float((scores >= kth - 1e-5 * abs(kth)).sum()) / k)
    return float(np.mean(shares))


def graph_of(pack: Pack) -> Any:
    """The graph of a segment; None where it cannot be walked.

    That is where numba is missing, or another version wrote it. Nothing is lost then: the rows are all there to be
    scanned, and a merge makes the graph again.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    from inlay.indexes.dense_graph import DenseGraph

    facts = json.loads(pack[FACTS].tobytes())
    arrays = {name.removeprefix(PREFIX): pack[name] for name in pack.names() if name.startswith(PREFIX)}
    del arrays[FACTS.removeprefix(PREFIX)]
    try:
        if "scales" in pack:
            arrays["codes"] = _codes(pack["rows"], pack["scales"], facts["settings"])
        return DenseGraph.restored({"rows": np.empty((len(arrays["levels"]), 0), np.float32), **arrays}, facts)
    except (BadInput, KeyError):
        return None


def _codes(rows: np.ndarray, scales: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Codes with their facts as a walk reads them, int8 [n, width]."""
    from inlay.kernels.dense_graph import aligned, tell, width_of

    codes = aligned(len(rows), width_of(rows.shape[1]))
    codes[:, : rows.shape[1]] = rows
    tell(codes, scales, rows.shape[1], distances=settings["metric"] == "l2")
    return codes
