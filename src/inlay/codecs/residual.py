"""Token vectors as the number of the nearest centroid and a few bits a dimension of what is left.

Source: Santhanam et al., "ColBERTv2" (arXiv 2112.01488) and "PLAID" (arXiv 2205.09707). Centroids by k-means; the
residual of each dimension falls into one of 2^bits buckets, cut at the quantiles of residuals, and decodes to the
bucket's own middle quantile. Tokens of length 1 are brought back to it.

The authors' code cuts all dimensions at the same places; here each has its own (`shared=True` gives theirs), which
costs a few kilobytes once and is closer wherever dimensions spread differently.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from inlay import sealed
from inlay.codecs.kmeans import assign, kmeans
from inlay.codecs.product import pack_codes
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt
from inlay.kernels.maxsim import maxsim_residual, put_together

__all__ = ["ResidualCodes", "ResidualTokens"]

KIND = "residual token codec"
BITS = (1, 2, 4, 8)
UNIT = 1e-3  # how far lengths may be from 1 for tokens to count as of length 1


class ResidualCodes(NamedTuple):
    """Centroid numbers, uint16 (uint32 above 65,536 centroids) [tokens], and residuals, uint8 [tokens, bytes]."""

    centroids: np.ndarray
    residuals: np.ndarray


class ResidualTokens:
    """Tokens at 2 + dim · bits / 8 bytes: 34 instead of 512 for 128 dimensions at 2 bits.

    Args:
        bits: of a residual's dimension: 1, 2, 4 or 8.
        centroids: how many; None takes the power of two nearest below 16·√tokens, as PLAID does, at most what the
            sample allows.
        shared: True cuts all dimensions at the same places.
        iterations: of k-means.
        sample: tokens that `fit` looks at, at most.
        seed: of the sample and of the first centroids.
    """

    def __init__(
        self, bits: int = 2, *, centroids: int | None = None, shared: bool = False, iterations: int = 4,
        sample: int = 65_536, seed: int = 0,
    ) -> None:  # fmt: skip
        if bits not in BITS or isinstance(bits, bool):
            raise BadInput(f"bits must be one of {', '.join(map(str, BITS))}, got {bits!r}")
        for name, number in (("centroids", centroids), ("iterations", iterations), ("sample", sample)):
            if number is None and name == "centroids":
                continue
            if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
                raise BadInput(f"{name} must be an integer of at least 1, got {number!r}")
        if not isinstance(shared, bool):
            raise BadInput(f"shared must be True or False, got {shared!r}")
        self.bits, self.count, self.shared = int(bits), centroids, shared
        self.iterations, self.sample, self.seed = iterations, sample, seed
        self.centroids = np.empty((0, 0), dtype=np.float32)  # [centroids, dim]
        self.cuts = np.empty((0, 0), dtype=np.float32)  # [dim or 1, 2^bits - 1], ascending
        self.weights = np.empty((0, 0), dtype=np.float32)  # [dim or 1, 2^bits]
        self.unit = True

    def __repr__(self) -> str:
        return f"ResidualTokens(bits={self.bits}, centroids={self.count}, shared={self.shared})"

    @property
    def dim(self) -> int:
        """Width of the tokens it was fitted on."""
        self._need()
        return self.centroids.shape[1]

    def fit(self, rows: np.ndarray) -> Self:
        """Learn centroids and buckets from tokens float32 [n, dim]."""
        rows = _finite(rows)
        if not len(rows) or not rows.shape[1]:
            raise BadInput(f"nothing to learn from {len(rows)} tokens of {rows.shape[1]} dimensions")
        total = len(rows)
        if total > self.sample:
            drawn = np.random.default_rng(self.seed).choice(total, self.sample, replace=False)
            rows = rows[np.sort(drawn)]
        count = self.count
        if count is None:
            count = 1 << int(np.log2(max(1.0, 16 * np.sqrt(total))))
            while count > 1 and count > len(rows) // 4:
                count //= 2
        if count > len(rows):
            raise BadInput(f"{count} centroids need at least as many tokens, got {len(rows)}")
        lengths = np.linalg.norm(rows, axis=1)
        self.unit = bool((np.abs(lengths - 1) < UNIT).all())
        self.centroids = kmeans(rows, count, iterations=self.iterations, seed=self.seed + 1)
        left = rows - self.centroids[assign(rows, self.centroids)]
        left = left.reshape(-1, 1) if self.shared else left
        levels = 1 << self.bits
        self.cuts = np.quantile(left, np.arange(1, levels) / levels, axis=0).T.astype(np.float32)
        self.weights = np.quantile(left, (np.arange(levels) + 0.5) / levels, axis=0).T.astype(np.float32)
        self.cuts, self.weights = np.ascontiguousarray(self.cuts), np.ascontiguousarray(self.weights)
        return self

    def encode(self, rows: np.ndarray) -> ResidualCodes:
        """Codes of tokens float32 [n, dim]."""
        rows = _finite(rows)
        if rows.shape[1] != self.dim:
            raise BadInput(f"{self!r} was fitted on tokens of {self.dim} numbers, got {rows.shape[1]}")
        near = assign(rows, self.centroids)
        left = rows - self.centroids[near]
        buckets = np.zeros(rows.shape, dtype=np.uint8)
        for cut in range(self.cuts.shape[1]):
            buckets += left > self.cuts[:, cut]
        kind = np.uint16 if len(self.centroids) <= 1 << 16 else np.uint32
        return ResidualCodes(near.astype(kind), pack_codes(buckets, self.bits))

    def decode(self, codes: ResidualCodes) -> np.ndarray:
        """Float32 tokens [n, dim]."""
        near, residuals = self._codes(codes)
        return put_together(self.centroids, self.weights, near, residuals, self.bits, self.unit)

    def nbytes(self, dim: int) -> int:
        """Bytes of one token."""
        return (2 if len(self.centroids) <= 1 << 16 else 4) + -(-dim * self.bits // 8)

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of centroids and buckets, kept once whatever the number of tokens."""
        return self.centroids.nbytes + self.cuts.nbytes + self.weights.nbytes

    def scorer(self, query: np.ndarray) -> Callable[..., np.ndarray]:
        """A function from codes and offsets (and ids) to MaxSim scores float32 [n] of query tokens [q, dim].

        Tokens are put together a handful at a time where they are scored; no document is decoded in memory.
        """
        self._need()

        def score(codes: ResidualCodes, offsets: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
            near, residuals = self._codes(codes)
            return maxsim_residual(
                query, self.centroids, self.weights, near, residuals, offsets, bits=self.bits, unit=self.unit, ids=ids
            )

        return score

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        self._need()
        return {"centroids": self.centroids, "cuts": self.cuts, "weights": self.weights}

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again, and whether tokens are of length 1."""
        names = ("bits", "shared", "iterations", "sample", "seed", "unit")
        return {"centroids": self.count} | {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Of what `arrays` and `settings` gave."""
        try:
            settings = dict(settings)
            unit = settings.pop("unit")
            made = cls(**settings)
            made.centroids, made.cuts, made.weights = arrays["centroids"], arrays["cuts"], arrays["weights"]
            rows = 1 if made.shared else made.centroids.shape[1]
            levels = 1 << made.bits
            if made.cuts.shape != (rows, levels - 1) or made.weights.shape != (rows, levels) or not len(made.centroids):
                raise ValueError("buckets do not fit the centroids")
            made.unit = bool(unit)
        except (BadInput, KeyError, TypeError, ValueError, IndexError) as error:
            raise Corrupt(f"the codec does not fit its settings ({error}); {sealed.REPAIR}") from None
        return made

    def save(self, path: str | Path) -> Path:
        """Write it to one file."""
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        return cls.restored(arrays, facts["settings"])

    def _need(self) -> None:
        if not len(self.centroids):
            raise BadInput(f"{self!r} has no centroids yet; call fit(tokens) first")

    def _codes(self, codes: ResidualCodes) -> tuple[np.ndarray, np.ndarray]:
        self._need()
        near, residuals = (np.asarray(one) for one in codes)
        wide = -(-self.dim * self.bits // 8)
        if residuals.dtype != np.uint8 or residuals.shape != (len(near), wide) or near.dtype.kind != "u":
            raise BadInput(
                f"expected centroid numbers [n] and uint8 [n, {wide}], got {near.dtype} {list(near.shape)} and "
                f"{residuals.dtype} {list(residuals.shape)}; decode takes what encode gave"
            )
        if len(near) and near.max() >= len(self.centroids):
            raise BadInput(f"the codes name centroid {near.max()}, there are {len(self.centroids)}")
        return near, residuals
