"""A graph beside the dense rows of a large segment, so that a query scores some hundreds of them and not all.

Small segments are scanned, and have none; neither have those that were written where numba is missing, and a graph is
left alone where it is missing to the reader. The graph is
walked by codes of a byte a number, and what it finds is scored by the rows as they are stored; where these are int8
they are the codes, which are then not kept twice. A filter is handed on: the graph's planner chooses how to search
among few rows (`inlay.indexes.filter_plan`).
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

__all__ = ["graph_of", "has_graph", "with_graph"]

# Numbers in a segment's rows from which a graph is worth building and numba worth importing for it: 78,000 rows of 384
# are scanned in about 5 ms and walked in 0.2 (`python -m benchmarks graph` has both).
GRAPHED = WORTH_COMPILING
CONNECTIVITY, EXPANSION_ADD = 16, 128
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
    if rows.size < GRAPHED or importlib.util.find_spec("numba") is None:
        return arrays
    from inlay.indexes.dense_graph import DenseGraph

    index = DenseGraph(
        rows.shape[1], metric=metric, dtype="int8", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD,
        expansion_search=EF,
    )  # fmt: skip
    values = rows.astype(np.float32)
    index.add(values * arrays["scales"][:, None] if "scales" in arrays else values)
    made = {PREFIX + name: array for name, array in index.arrays().items() if name != "rows"}
    if "scales" in arrays:
        del made[PREFIX + "codes"]
    return arrays | made | {FACTS: np.frombuffer(json.dumps(index.facts()).encode(), dtype=np.uint8)}


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
