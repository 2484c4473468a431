"""Hubs: rows that are among the nearest of very many others, while some are among the nearest of none.

The k-occurrence of a row is the number of other rows that have it among their k nearest. Its mean is k, always. In many
dimensions its distribution grows a long tail on the right, and the skewness of it measures that: near 0 without hubs,
and 1 and more where a few rows crowd into everybody's results.

Source: Radovanović, Nanopoulos and Ivanović, Hubs in Space: Popular Nearest Neighbors in High-Dimensional Data (JMLR
11, 2010).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from inlay.evaluation.difficulty import skewness
from inlay.evaluation.intrinsic_dimension import usable_rows
from inlay.indexes.local_dimension import near_distances
from inlay.types import Metric

__all__ = ["Hubness", "hubs"]


@dataclass(frozen=True)
class Hubness:
    """Who is whose neighbour.

    Args:
        k: length of the lists.
        times: how many lists each row is in, int64 [n].
    """

    k: int
    times: np.ndarray = field(repr=False)

    @property
    def skewness(self) -> float:
        """Third standardised moment of the k-occurrence; 0 where all rows are in as many lists."""
        return skewness(self.times)

    @property
    def antihubs(self) -> float:
        """Share of the rows that are in no list: no search for a row's like finds them."""
        return float((self.times == 0).mean())

    @property
    def most(self) -> int:
        """Lists that the largest hub is in."""
        return int(self.times.max())


def hubs(rows: np.ndarray, k: int = 10, *, metric: Metric = "cosine") -> Hubness:
    """Count how often each row is among the k nearest of another.

    Args:
        rows: [n, dim], n above k; for `cosine` none of them zero.
        k: length of the lists, from 2 on.
        metric: `cosine` brings rows to length 1; `l2` and `dot` measure distances between rows as they are.
    """
    rows = usable_rows(rows, zeros=metric != "cosine")
    return hubs_of(near_distances(rows, k, metric=metric)[0])


def hubs_of(near: np.ndarray) -> Hubness:
    """The same from the lists of all rows, int64 [n, k]."""
    return Hubness(near.shape[1], np.bincount(near.ravel(), minlength=len(near)))
