"""The shape of a set of rows in a few numbers: intrinsic dimension, isotropy, hubs.

Rows are brought to length 1, as a search by cosine does it, and equal ones are counted once. Every number depends on
how many rows there are, intrinsic dimension most: compare encoders on the same texts.

Source: Tsukagoshi and Sasano, Redundancy, Isotropy, and Intrinsic Dimensionality of Prompt-based Text Embeddings
(arXiv 2506.01435).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.hubness import hubs_of
from inlay.evaluation.intrinsic_dimension import (
    dimension_of_subsamples,
    distinct_neighbours,
    levina_bickel_of,
    two_nn,
    two_nn_of,
    usable_rows,
)
from inlay.evaluation.isotropy import constant_dimensions, mean_cosine, participation_ratio
from inlay.kernels.dense import normalise

__all__ = ["LEAST", "Geometry", "geometry"]

NEIGHBOURS = 20  # what Levina and Bickel average up to
HUBS = 10
LEAST = NEIGHBOURS + 1  # different rows


@dataclass(frozen=True)
class Geometry:
    """What `geometry` found.

    Args:
        rows: different ones, which everything was measured on.
        duplicates: rows that another one equals, left out.
        dim: width of a row.
        constant: dimensions in which all rows are equal.
        two_nn: intrinsic dimension by TwoNN, most likely.
        two_nn_spread: standard deviation of it over random halves of the rows; 0 where none were drawn.
        two_nn_fit: the same by the line of the classical form.
        levina_bickel: intrinsic dimension by ten to twenty neighbours.
        participation_ratio: directions of equal variance that would be as concentrated.
        iso_score: from 0 (one direction) to 1 (a ball).
        mean_cosine: of all pairs.
        hubness: skewness of the number of lists of ten neighbours a row is in.
        antihubs: share of rows that are in none of them.
    """

    rows: int
    duplicates: int
    dim: int
    constant: int
    two_nn: float
    two_nn_spread: float
    two_nn_fit: float
    levina_bickel: float
    participation_ratio: float
    iso_score: float
    mean_cosine: float
    hubness: float
    antihubs: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in asdict(self).items()}


def geometry(rows: np.ndarray, *, subsamples: int = 5, seed: int = 0) -> Geometry:
    """Measure the shape of rows.

    Args:
        rows: [n, dim] of 2 dimensions at least, none of them zero, 21 different ones at least.
        subsamples: random halves that the error bar of TwoNN is taken over; 0 for none. Each needs a search.
        seed: of those.
    """
    rows = usable_rows(rows, zeros=False)
    if rows.shape[1] < 2:
        raise BadInput("rows of 1 dimension have no shape at length 1; give rows of 2 dimensions at least")
    if isinstance(subsamples, bool) or not isinstance(subsamples, int | np.integer) or subsamples < 0:
        raise BadInput(f"subsamples must be a number from 0 on, got {subsamples!r}")
    rows = normalise(rows)
    found = distinct_neighbours(rows, NEIGHBOURS)
    kept = rows[found.kept]
    ratio = participation_ratio(kept)
    parts = dimension_of_subsamples(kept, two_nn, subsamples=subsamples, seed=seed) if subsamples else np.zeros(1)
    hub = hubs_of(found.near[:, :HUBS])
    return Geometry(
        rows=len(kept),
        duplicates=len(rows) - len(kept),
        dim=rows.shape[1],
        constant=constant_dimensions(kept),
        two_nn=two_nn_of(found.distances),
        two_nn_spread=float(parts.std(ddof=1)) if len(parts) > 1 else 0.0,
        two_nn_fit=two_nn_of(found.distances, method="fit"),
        levina_bickel=levina_bickel_of(found.distances),
        participation_ratio=ratio,
        iso_score=(ratio - 1) / (rows.shape[1] - 1),
        mean_cosine=mean_cosine(kept),
        hubness=hub.skewness,
        antihubs=hub.antihubs,
    )
