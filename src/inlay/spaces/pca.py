"""Principal components: the directions in which rows vary most, without whitening.

The mean that was taken off rows is taken off queries too, and lengths along the axes stay what they were (`Whitening`
scales them). Learnt from `Moments`, so that a corpus larger than memory is read once, in blocks.

Source: "Optimization of embeddings storage for RAG systems using quantization and dimensionality reduction techniques"
(arXiv 2505.00105): fit on an unrelated sample, keep half of the dimensions, store what remains in float8.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from inlay.errors import BadInput
from inlay.spaces.affine import AffineMap, checked
from inlay.spaces.moments import Moments

__all__ = ["PCA"]


class PCA(AffineMap):
    """Rows along their principal axes.

    Args:
        keep: how many axes: a whole number, or a share of the width between 0 and 1.
        sample: rows that are learnt from at most, evenly spaced.

    Attributes:
        variances: of the rows along each axis kept, float32 [width].
        share: of the whole variance that the axes kept have.
    """

    KIND = "principal components"

    def __init__(self, keep: float = 0.5, *, sample: int = 100_000) -> None:
        super().__init__()
        whole = isinstance(keep, int | np.integer) and not isinstance(keep, bool)
        if not (whole and keep >= 1) and not (isinstance(keep, float | np.floating) and 0 < keep < 1):
            raise BadInput(f"keep must be a number of axes from 1 on, or a share between 0 and 1, got {keep!r}")
        if isinstance(sample, bool) or not isinstance(sample, int | np.integer) or sample < 2:
            raise BadInput(f"sample must be a whole number of at least 2, got {sample!r}")
        self.keep: int | float = int(keep) if whole else float(keep)
        self.sample = int(sample)
        self.variances = np.zeros(0, dtype=np.float32)
        self.share = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"keep": self.keep, "sample": self.sample}

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Learn from rows [n, dim], n at least 2; Y is not used."""
        rows = checked(X)
        if len(rows) > self.sample:
            rows = rows[np.linspace(0, len(rows) - 1, self.sample).astype(np.int64)]
        return self.fit_moments(Moments.of(rows))

    def fit_moments(self, moments: Moments) -> Self:
        """Learn from the moments of a corpus."""
        if moments.n < 2:
            raise BadInput(f"principal components are learnt from at least 2 rows, got {moments.n}")
        width = self.keep if isinstance(self.keep, int) else max(1, round(self.keep * moments.dim))
        if width > moments.dim:
            raise BadInput(f"rows of {moments.dim} numbers do not have {width} axes; keep at most {moments.dim}")
        variances, axes = moments.principal()
        self.variances = variances[:width].astype(np.float32)
        whole = float(variances.sum())
        self.share = float(variances[:width].sum() / whole) if whole > 0 else 1.0
        self._set(moments.mean, axes[:, :width])
        return self

    def _back(self) -> np.ndarray:
        return self.matrix.T

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return super().arrays() | {"variances": self.variances, "share": np.array([self.share], dtype=np.float32)}

    @property
    def nbytes(self) -> int:
        """Bytes of what rows and queries need: mean and axes."""
        return self.mean.nbytes + self.matrix.nbytes

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        super()._take(arrays)
        self.variances = np.array(arrays["variances"], dtype=np.float32)
        (self.share,) = (float(one) for one in arrays["share"])
        if self.variances.shape != (self.width,):
            raise ValueError(f"{self.width} axes with variances {list(self.variances.shape)}")
