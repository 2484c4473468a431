"""How hard rows are for a graph index, told from the rows alone: their intrinsic dimension, and who is whose neighbour.

A graph (HNSW) loses recall not with the width of the rows but with the number of directions in which they really
spread. Width can be 1,024 and recall nearly 1, if the rows lie in a plane of 8 dimensions.

- `lid`: local intrinsic dimension, one a row, by maximum likelihood from exact distances to the k nearest others.
- `pca99`: principal components that hold 99% of the variance.
- `hubness`: skewness of how often a row is among the ten nearest of others; hubs crowd out the rest.
- `predicted_recall`: what a graph with the usual settings would find. A heuristic and no more: it looks the mean LID
  up in a table measured on Gaussian rows of known rank, and real rows are clustered. `inlay reproduce hnsw-order`
  makes the table, and compares it with real text: there a graph found about 20 points more than predicted at ef=10,
  and about 5 more at ef=40. Take it for what a graph finds at the least.

Source: Elliott and Clark, The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in HNSW
(arXiv 2405.17813, ICTIR 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.flat import checked_rows
from inlay.indexes.local_dimension import dimension_of, near_distances
from inlay.kernels.dense import normalise
from inlay.types import Metric

__all__ = ["SWEEP", "IndexDifficulty", "Sweep", "index_difficulty", "predicted"]

NEIGHBOURS = 10  # whose lists decide what a hub is
VARIANCE = 0.99
MOST = 100_000  # rows that the principal components are taken of


@dataclass(frozen=True)
class Sweep:
    """Recall@10 measured on Gaussian rows of known rank, by mean LID.

    Args:
        rows: how many were inserted.
        lid: mean LID, ascending.
        recall: ef → recall@10 at each.
    """

    rows: int
    lid: tuple[float, ...]
    recall: dict[int, tuple[float, ...]]


# Figures of `inlay reproduce hnsw-order`: faiss, M 16, efConstruction 128, cosine; for few and for more rows.
SWEEP: tuple[Sweep, ...] = (
    Sweep(
        2000,
        (6.418, 19.276, 46.122, 100.684, 146.11),
        {
            10: (0.9749, 0.7612, 0.4829, 0.3218, 0.2793),
            40: (0.9999, 0.9825, 0.8522, 0.6913, 0.6287),
            100: (1.0, 0.9998, 0.9855, 0.9265, 0.8915),
        },
    ),
    Sweep(
        20_000,
        (6.819, 22.401, 57.075, 128.982, 189.149),
        {
            10: (0.9628, 0.5548, 0.1428, 0.0552, 0.0466),
            40: (1.0, 0.888, 0.3924, 0.1754, 0.1326),
            100: (1.0, 0.9884, 0.6514, 0.341, 0.2726),
        },
    ),
)


@dataclass(frozen=True)
class IndexDifficulty:
    """What `index_difficulty` found.

    Args:
        rows: how many there are.
        dim: their width.
        k: neighbours that LID was estimated from.
        anchors: numbers of the rows it was estimated for, int64 [m]: all rows, or a sample.
        lid: LID of those, float64 [m].
        lid_without_last: the same with the k-th neighbour, whose term is 0, left out of the mean.
        lid_mean: mean of the finite ones.
        lid_median: median of `lid`.
        pca99: principal components that hold 99% of the variance.
        hubness: skewness of the number of lists of ten neighbours a row is in; of the anchors' lists alone where they
            are a sample, which makes it smaller.
        duplicates: share of the anchors that have another row at distance 0.
        predicted_recall: ef → recall@10 to expect of a graph with M 16 and efConstruction 128. A heuristic.
    """

    rows: int
    dim: int
    k: int
    anchors: np.ndarray = field(repr=False)
    lid: np.ndarray = field(repr=False)
    lid_without_last: np.ndarray = field(repr=False)
    lid_mean: float
    lid_median: float
    pca99: int
    hubness: float
    duplicates: float
    predicted_recall: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the arrays."""
        return {
            "rows": self.rows,
            "dim": self.dim,
            "k": self.k,
            "sampled": len(self.anchors),
            "lid_mean": round(self.lid_mean, 3),
            "lid_median": round(self.lid_median, 3),
            "pca99": self.pca99,
            "hubness": round(self.hubness, 3),
            "duplicates": round(self.duplicates, 4),
            "predicted_recall": {str(ef): round(value, 3) for ef, value in self.predicted_recall.items()},
        }


def index_difficulty(
    X: np.ndarray, k: int = 100, sample: int = 10_000, *, metric: Metric = "cosine", seed: int = 0
) -> IndexDifficulty:
    """How hard rows are for a graph.

    Args:
        X: rows [n, dim].
        k: neighbours that LID is estimated from; n must be larger.
        sample: rows that LID is estimated for; their neighbours are looked for among all rows.
        metric: what the rows are searched by: with `cosine` they are brought to length 1 first.
        seed: of the sample.
    """
    rows = np.asarray(X)
    if rows.ndim != 2 or not rows.shape[1]:
        raise BadInput(f"expected rows [n, dim], got an array of shape {list(rows.shape)}")
    rows = checked_rows(rows, rows.shape[1])
    if not isinstance(sample, int | np.integer) or isinstance(sample, bool) or sample < 1:
        raise BadInput(f"sample must be a positive number of rows, got {sample!r}")
    random = np.random.default_rng(seed)
    count = len(rows)
    anchors = np.sort(random.choice(count, sample, replace=False)) if count > sample else np.arange(count)
    near, distances = near_distances(rows, k, metric=metric, anchors=anchors)
    lid = dimension_of(distances)
    finite = lid[np.isfinite(lid)]
    mean = float(finite.mean()) if len(finite) else math.inf
    times = np.bincount(near[:, :NEIGHBOURS].ravel(), minlength=count)
    few = np.sort(random.choice(count, MOST, replace=False)) if count > MOST else slice(None)
    return IndexDifficulty(
        rows=count,
        dim=rows.shape[1],
        k=k,
        anchors=anchors,
        lid=lid,
        lid_without_last=dimension_of(distances, last=False),
        lid_mean=mean,
        lid_median=float(np.median(lid)),
        pca99=components(normalise(rows[few]) if metric == "cosine" else rows[few]),
        hubness=skewness(times),
        duplicates=float((distances[:, 0] == 0).mean()),
        predicted_recall=predicted(mean, count),
    )


def components(rows: np.ndarray, share: float = VARIANCE) -> int:
    """Least number of principal components that hold a share of the variance; 0 where there is none."""
    centred = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    small = centred if centred.shape[0] >= centred.shape[1] else centred.T
    values = np.linalg.eigvalsh((small.T @ small).astype(np.float64))[::-1].clip(0)
    if not values.sum() > 0:
        return 0
    held = np.cumsum(values) / values.sum()
    return int(np.searchsorted(held, share - 1e-9) + 1)


def skewness(times: np.ndarray) -> float:
    """Third standardised moment; 0 where all values are equal."""
    centred = times - times.mean()
    deviation = float(np.sqrt(np.mean(centred**2)))
    return float(np.mean(centred**3)) / deviation**3 if deviation > 0 else 0.0


def predicted(lid: float, rows: int, sweep: tuple[Sweep, ...] | None = None) -> dict[int, float]:
    """Recall@10 by ef, looked up by mean LID and number of rows: linear in their logarithms, flat beyond the ends."""
    sweep = SWEEP if sweep is None else sweep
    if not sweep:
        return {}
    place = math.log(max(lid, 1e-9)) if math.isfinite(lid) else math.inf
    sizes = [math.log(one.rows) for one in sweep]
    found = {}
    for ef in sweep[0].recall:
        each = [np.interp(place, np.log(one.lid), one.recall[ef]) for one in sweep]
        found[ef] = float(np.interp(math.log(max(rows, 1)), sizes, each))
    return found
