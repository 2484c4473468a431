"""Product quantisation with lengths apart: unit rows by parts, and each row's length by a codebook of its own.

Lengths of a text classifier's rows span three orders of magnitude and say how much a feature matters; k-means on the
rows themselves spends its centres on the few long ones.

Source: "FastText.zip: Compressing text classification models" (arXiv 1612.03651), `-qnorm`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from inlay import sealed
from inlay.codecs.kmeans import assign, kmeans
from inlay.codecs.product import ProductQuantiser
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt

__all__ = ["NormCodes", "NormPQ"]

KIND = "norm product quantiser"
LEVELS = 256


class NormCodes(NamedTuple):
    """Codes of unit rows, uint8 [n, bytes], and the number of each row's length, uint8 [n]."""

    codes: np.ndarray
    norms: np.ndarray


class NormPQ:
    """`ProductQuantiser` of rows divided by their length, and 256 levels of length: one byte a row more.

    Args:
        dsub: numbers in a part; the last part is narrower when `dsub` does not divide the width.
        bits: of one code, 1 to 16. Lengths always have 8, so `fit` needs at least 256 rows.
        iterations: of k-means.
        sample: rows that k-means sees at most.
        seed: of the sample and of the first centres.

    A row of zeros is decoded with the smallest level, which need not be 0.
    """

    def __init__(
        self, dsub: int = 2, *, bits: int = 8, iterations: int = 25, sample: int = 65_536, seed: int = 0
    ) -> None:
        self.parts = ProductQuantiser(dsub=dsub, bits=bits, iterations=iterations, sample=sample, seed=seed)
        self.levels = np.zeros(0, dtype=np.float32)  # ascending, float32 [256]

    def __repr__(self) -> str:
        return f"NormPQ(dsub={self.parts.dsub}, bits={self.parts.bits})"

    @property
    def dim(self) -> int:
        """Width of the rows it was fitted on."""
        return self.parts.dim

    def fit(self, rows: np.ndarray) -> Self:
        """Learn both codebooks of float32 rows [n, dim], n at least 256 and 2^bits."""
        rows = _finite(rows)
        if len(rows) < LEVELS:
            raise BadInput(f"{LEVELS} levels of length cannot be fitted on {len(rows)} rows; keep so few as they are")
        units, norms = _split(rows)
        self.parts.fit(units)
        if len(norms) > self.parts.sample:
            random = np.random.default_rng(self.parts.seed)
            norms = norms[random.choice(len(norms), max(self.parts.sample, LEVELS), replace=False)]
        levels = kmeans(norms[:, None], LEVELS, iterations=self.parts.iterations, seed=self.parts.seed)
        self.levels = np.sort(levels[:, 0])
        return self

    def encode(self, rows: np.ndarray) -> NormCodes:
        """Codes and lengths."""
        units, norms = _split(_finite(rows))
        return NormCodes(self.parts.encode(units), assign(norms[:, None], self.levels[:, None]).astype(np.uint8))

    def decode(self, codes: NormCodes) -> np.ndarray:
        """Float32 rows [n, dim]."""
        return self.parts.decode(codes.codes) * self.levels[codes.norms][:, None]

    def scorer(self, query: np.ndarray) -> Callable[[NormCodes], np.ndarray]:
        """A function from codes to dot products, float32 [n], with a query [dim], without decoding."""
        score = self.parts.scorer(query)
        return lambda codes: score(codes.codes) * self.levels[codes.norms]

    def nbytes(self, dim: int) -> int:
        """Bytes of one row: its codes and its length."""
        return self.parts.nbytes(dim) + 1

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of centres and levels, kept once whatever the number of rows."""
        return self.parts.codebook_nbytes + self.levels.nbytes

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return {**self.parts.arrays(), "levels": self.levels}

    def settings(self) -> dict[str, int]:
        """The keyword arguments that make it again."""
        return {name: value for name, value in self.parts.settings().items() if value is not None}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, int]) -> Self:
        """Of what `arrays` and `settings` gave."""
        try:
            made = cls(**settings)
            levels = arrays["levels"]
        except (BadInput, KeyError, TypeError) as error:
            raise Corrupt(f"the codebook does not fit its settings ({error}); {sealed.REPAIR}") from None
        if levels.shape != (LEVELS,):
            raise Corrupt(f"the codebook of lengths has {levels.size} levels instead of {LEVELS}; {sealed.REPAIR}")
        made.parts = ProductQuantiser.restored(arrays, made.parts.settings())
        made.levels = levels.copy()
        return made

    def save(self, path: str | Path) -> Path:
        """Write both codebooks to one file."""
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        return cls.restored(arrays, facts["settings"])


def _split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows and lengths; a row of zeros stays one."""
    norms = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1))
    return (rows / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32), norms.astype(np.float32)
