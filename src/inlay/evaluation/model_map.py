"""Encoders arranged by how alike they are: hierarchical clustering of a model-by-model matrix.

Distance is 1 − similarity, and two clusters are as far apart as the mean of their pairs (average linkage), which needs
no coordinates. Neighbouring leaves of the tree are alike, so a matrix drawn in their order shows families as blocks.

Source: Caspari et al., Beyond Benchmarks: Evaluating Embedding Model Similarity for Retrieval Augmented Generation
(arXiv 2407.08275).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inlay.errors import BadInput, MissingExtra

__all__ = ["ModelMap", "map_models"]

SYMMETRIC = 1e-6


@dataclass(frozen=True)
class ModelMap:
    """A tree of models.

    Args:
        names: of the models.
        similarity: float64 [models, models].
        linkage: scipy's form of the tree, float64 [models − 1, 4]: the two clusters joined, their distance, the number
            of models in the new one.
    """

    names: tuple[str, ...]
    similarity: np.ndarray = field(repr=False)
    linkage: np.ndarray = field(repr=False)

    @property
    def order(self) -> list[str]:
        """Names as the leaves of the tree stand."""
        from scipy.cluster.hierarchy import leaves_list

        return [self.names[i] for i in leaves_list(self.linkage)]

    def clusters(self, count: int) -> list[list[str]]:
        """The models in at most `count` groups, each in the order given; fewer where distances tie."""
        from scipy.cluster.hierarchy import fcluster

        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= len(self.names):
            raise BadInput(f"{count!r} groups of {len(self.names)} models: give an integer from 1 to that number")
        groups: dict[int, list[str]] = {}
        for name, group in zip(self.names, fcluster(self.linkage, count, criterion="maxclust").tolist()):
            groups.setdefault(group, []).append(name)
        return list(groups.values())

    def draw(self, axes: Any) -> None:
        """Draw the tree on axes of matplotlib."""
        from scipy.cluster.hierarchy import dendrogram

        size = axes.xaxis.label.get_fontsize()
        dendrogram(
            self.linkage, labels=list(self.names), orientation="left", ax=axes, color_threshold=0, leaf_font_size=size
        )
        axes.set_xlabel("1 − similarity")
        axes.spines[["top", "right", "left"]].set_visible(False)


def map_models(names: Sequence[str], similarity: np.ndarray) -> ModelMap:
    """Cluster models by a matrix of similarities.

    Args:
        names: of the models, two at least, each once.
        similarity: symmetric, finite, [models, models]: CKA, Jaccard or rank similarity; 1 is equal.

    Raises:
        MissingExtra: scipy is missing.
    """
    matrix = np.asarray(similarity, dtype=np.float64)
    if len(names) < 2:
        raise BadInput(f"{len(names)} model makes no map; give two at least")
    if len(set(names)) < len(names):
        raise BadInput("two models have the same name: give each its own")
    if matrix.shape != (len(names), len(names)):
        raise BadInput(f"{len(names)} models need a matrix [{len(names)}, {len(names)}], got {list(matrix.shape)}")
    if not np.isfinite(matrix).all() or np.abs(matrix - matrix.T).max() > SYMMETRIC:
        raise BadInput("similarities must be finite, and the same both ways")
    try:
        from scipy.cluster.hierarchy import linkage
        from scipy.spatial.distance import squareform
    except ModuleNotFoundError:
        raise MissingExtra("maps of models", "sparse") from None
    apart = (1 - (matrix + matrix.T) / 2).clip(0)
    np.fill_diagonal(apart, 0)
    return ModelMap(tuple(names), matrix, linkage(squareform(apart, checks=False), "average", optimal_ordering=True))
