"""Rows in which every coordinate has mean 0, variance 1, and nothing in common with the others.

`Whitening` is principal component analysis with each component divided by its standard deviation. `PCAICA` turns its
axes further, by independent component analysis, until coordinates are as far from Gaussian as they get, which makes
them as independent as a linear map can. Turning changes no distance and no dot product (each coordinate is scaled to
variance 1 once more, by a hair); only what looks at single coordinates gains by it, as diagonal Gaussians do.

Whitening is learnt from a corpus, and its queries go through the same map. It pays on rows whose variance lies in few
directions (count vectors, raw states of language models), and costs a little on those of encoders that were trained
for cosine. Directions in which the corpus does not vary are left out.

Sources: Su et al. 2021, "Whitening Sentence Representations for Better Semantics and Faster Retrieval" (arXiv
2103.15316); PCA then ICA as in "Hierarchical Semantic Retrieval with Cobweb" (arXiv 2510.02539); Hyvärinen 1999, "Fast
and Robust Fixed-Point Algorithms for Independent Component Analysis".
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np

from inlay.errors import BadInput, InlayWarning
from inlay.spaces.affine import AffineMap, checked

__all__ = ["PCAICA", "Whitening"]

FLAT = 1e-10  # share of the largest variance below which a direction is left out
ROUNDING = 1e-7  # of float32 numbers: a spread below that share of their size is none


class Whitening(AffineMap):
    """Principal components, each divided by √(its variance + epsilon).

    Args:
        dims: components to keep, those of the largest variance; None keeps all. Fewer where the corpus has fewer.
        epsilon: added to each variance.
    """

    KIND = "whitening"

    def __init__(self, dims: int | None = 256, *, epsilon: float = 1e-8) -> None:
        super().__init__()
        if dims is not None and (isinstance(dims, bool) or not isinstance(dims, int | np.integer) or dims < 1):
            raise BadInput(f"dims must be a positive integer or None, got {dims!r}")
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float | np.number) or not 0 <= epsilon < 1e6:
            raise BadInput(f"epsilon must be a number from 0 on, got {epsilon!r}")
        self.dims, self.epsilon = None if dims is None else int(dims), float(epsilon)
        self.inverse = np.zeros((0, 0), dtype=np.float32)  # [width, dim]

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"dims": self.dims, "epsilon": self.epsilon}

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Learn from rows [n, dim], n at least 2; Y is not used."""
        rows = checked(X)
        if len(rows) < 2:
            raise BadInput(
                f"whitening is learnt from at least 2 rows, got {len(rows)}; fit it on a sample of the corpus"
            )
        mean = rows.mean(axis=0, dtype=np.float64)
        rounding = ROUNDING**2 * float(np.square(rows, dtype=np.float64).mean())
        components, variances = _components(rows - mean, self.dims, rounding)
        if not len(variances):
            raise BadInput(f"all {len(rows)} rows are equal: there is no variance to scale; fit on rows that differ")
        scale = np.sqrt(variances + self.epsilon)
        # Row = mean + whitened · inverse, exactly so where all components are kept.
        self._learnt(mean, components.T / scale, components * scale[:, None], rows)
        return self

    def _learnt(self, mean: np.ndarray, matrix: np.ndarray, inverse: np.ndarray, rows: np.ndarray) -> None:
        self._set(mean, matrix)
        self.inverse = np.ascontiguousarray(inverse, dtype=np.float32)

    def _back(self) -> np.ndarray:
        return self.inverse

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return super().arrays() | {"inverse": self.inverse}

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        super()._take(arrays)
        inverse = np.ascontiguousarray(arrays["inverse"], dtype=np.float32)
        if inverse.shape != self.matrix.shape[::-1]:
            raise ValueError(f"a way back of {list(inverse.shape)} from a map of {list(self.matrix.shape)}")
        self.inverse = inverse


class PCAICA(Whitening):
    """Whitening, then independent component analysis (FastICA, all components at once, log cosh).

    It wants ten rows or more for each dimension kept; with fewer, axes may never settle, and `max_iter` turns are made.

    Args:
        dims: as in `Whitening`.
        epsilon: as in `Whitening`.
        max_iter: turns at most; where they do not suffice, a warning says so and the axes reached are kept.
        tol: how little the axes move when they count as found.
        seed: of the axes that FastICA starts from.

    Attributes:
        iterations: turns that were made.
    """

    KIND = "pca-ica whitening"

    def __init__(
        self, dims: int | None = 256, *, epsilon: float = 1e-8, max_iter: int = 5000, tol: float = 1e-3, seed: int = 0
    ) -> None:
        super().__init__(dims, epsilon=epsilon)
        if isinstance(max_iter, bool) or not isinstance(max_iter, int | np.integer) or max_iter < 1:
            raise BadInput(f"max_iter must be a positive integer, got {max_iter!r}")
        if isinstance(tol, bool) or not isinstance(tol, int | float | np.number) or not 0 < tol < 1:
            raise BadInput(f"tol must be a number between 0 and 1, got {tol!r}")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 32:
            raise BadInput(f"seed must be an integer from 0 to 2³² − 1, got {seed!r}")
        self.max_iter, self.tol, self.seed = int(max_iter), float(tol), int(seed)
        self.iterations = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return super().settings | {"max_iter": self.max_iter, "tol": self.tol, "seed": self.seed}

    def _learnt(self, mean: np.ndarray, matrix: np.ndarray, inverse: np.ndarray, rows: np.ndarray) -> None:
        white = ((rows - mean) @ matrix).astype(np.float32)
        # Epsilon, where a variance is not far above it, leaves less than 1; turning needs 1.
        scale = white.std(axis=0, dtype=np.float64)
        axes, self.iterations = _independent(white / scale.astype(np.float32), self.max_iter, self.tol, self.seed)
        super()._learnt(mean, (matrix / scale) @ axes.T, axes @ (inverse * scale[:, None]), rows)
        if not self.iterations:
            self.iterations = self.max_iter
            warnings.warn(
                f"{self!r} did not settle in {self.max_iter} turns; its axes stay as they are: raise max_iter or tol",
                InlayWarning,
                stacklevel=3,
            )


def _independent(white: np.ndarray, max_iter: int, tol: float, seed: int) -> tuple[np.ndarray, int]:
    """Orthonormal axes [width, width] of white rows float32 [n, width], and after how many turns (0: not settled).

    FastICA of all components at once, as scikit-learn has it. There, in float32, axes cease to be orthogonal, because
    the decorrelation is done in float32 too; here that is float64, and only the products over rows are float32.
    """
    n, width = white.shape
    axes = _orthonormal(np.random.RandomState(seed).normal(size=(width, width)))
    for turn in range(1, max_iter + 1):
        bent = np.tanh(white @ axes.T.astype(np.float32))
        slope = 1 - np.square(bent).mean(axis=0, dtype=np.float64)
        turned = _orthonormal((bent.T @ white).astype(np.float64) / n - slope[:, None] * axes)
        moved = np.abs(np.abs((turned * axes).sum(axis=1)) - 1).max()
        axes = turned
        if moved < tol:
            return axes, turn
    return axes, 0


def _orthonormal(axes: np.ndarray) -> np.ndarray:
    """(A Aᵀ)^−½ A, the nearest orthonormal axes."""
    values, vectors = np.linalg.eigh(axes @ axes.T)
    return (vectors / np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))) @ vectors.T @ axes


def _components(centred: np.ndarray, dims: int | None, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Principal components [width, dim] and their variances [width], both float64, largest first."""
    n, dim = centred.shape
    most = min(dim, n - 1) if dims is None else min(dims, dim, n - 1)
    if n > dim:
        variances, vectors = np.linalg.eigh(centred.T @ centred / (n - 1))
        variances, vectors = variances[::-1][:most], vectors[:, ::-1][:, :most].T
    else:
        _, lengths, vectors = np.linalg.svd(centred, full_matrices=False)
        variances, vectors = (lengths**2 / (n - 1))[:most], vectors[:most]
    kept = variances > max(FLAT * float(variances.max(initial=0)), rounding)
    # A sign that rounding cannot turn: the largest number of a component is positive (scikit-learn's convention).
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
    return (vectors * signs[:, None])[kept], variances[kept]
