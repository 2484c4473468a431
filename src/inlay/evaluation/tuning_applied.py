"""A recommendation put into effect, and what the collection then does, measured as the promise was.

Quality is asked of the collection's own dense search, all passages of it, on the queries of the task; bytes are those
of its files.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.frontier import Point
from inlay.evaluation.tuning_task import Task
from inlay.kernels.dense import normalise

if TYPE_CHECKING:
    from inlay.collection.collection import Collection

__all__ = ["Delivered", "apply"]

WARM = 3  # queries before time counts


@dataclass(frozen=True)
class Delivered:
    """What a collection does.

    Args:
        quality: mean over queries, by the task's measure.
        ms: median of one query a call, its encoding included.
        nbytes: of the files of dense rows, the numbers of their passages (8 bytes a row) included.
        before_nbytes: of these files before.
    """

    quality: float
    ms: float
    nbytes: int
    before_nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def apply(collection: Collection, task: Task, point: Point, *, progress: bool = False) -> Delivered:
    """Keep a collection as a point's configuration says, and measure it.

    Args:
        collection: open for writing.
        task: of all its passages that have a vector, in their order (`sample_collection` with as many rows).
        point: what to do.
        progress: show bars.

    Raises:
        BadInput: the collection cannot be kept so; nothing is changed.
    """
    one = point.configuration
    if one.encoder not in task.spaces:
        raise BadInput(f"the task has no rows of encoder {one.encoder!r}")
    done = collection.arrange(one, encoder=one.encoder, progress=progress)
    space = task.spaces[one.encoder]
    queries = normalise(space.queries) if task.metric == "cosine" else space.queries
    chunks = collection.passages_with_vectors()
    if len(chunks) != task.rows:
        raise BadInput(f"{len(chunks):,} passages have a vector and {task.rows:,} were measured: it was written to")
    found, took = [], []
    for i, query in enumerate(np.concatenate([queries[:WARM], queries])):
        began = time.perf_counter()
        near = collection.nearest_passages(query, task.depth)
        if i >= min(WARM, len(queries)):
            took.append(time.perf_counter() - began)
            found.append(np.searchsorted(chunks, near))
    quality = float(task.quality(one.encoder, found).mean())
    ms = 1000 * float(np.median(took)) + space.encode_ms
    return Delivered(quality, ms, done["after"], done["before"])
