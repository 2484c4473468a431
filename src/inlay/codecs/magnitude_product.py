"""Product quantisation with more bits for long rows: groups of equal total length, a codebook each.

From the benchmark of "Experimental Analysis of Large-scale Learnable Vector Storage Compression" (arXiv 2311.15578).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from inlay import sealed
from inlay.codecs.low_rank import Grouped, _fitted
from inlay.codecs.magnitude import equal_norm_edges, group_of
from inlay.codecs.product import ProductQuantiser
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt

__all__ = ["MagnitudePQ"]

KIND = "magnitude product quantiser"


class MagnitudePQ:
    """Rows in groups whose lengths add up to the same, each with a `ProductQuantiser` of its own.

    Args:
        parts: parts of a row of the longest group, and so on: one number for each group.
        bits: of a code.
        iterations: of k-means.
        seed: of sample and centres.

    `for_budget` doubles the parts from a group to the next longer one. Besides its codes a row costs one word (the
    remap).
    """

    def __init__(self, parts: Sequence[int], *, bits: int = 8, iterations: int = 25, seed: int = 0) -> None:
        if not 1 <= len(parts) <= 255:
            raise BadInput(f"parts takes one number a group, from 1 to 255 of them, got {len(parts)}")
        self.parts, self.bits, self.iterations, self.seed = [int(p) for p in parts], bits, iterations, seed
        self.quantisers = [ProductQuantiser(p, bits=bits, iterations=iterations, seed=seed) for p in self.parts]
        self.edges = np.zeros(0, dtype=np.float32)
        self.dim = 0

    def __repr__(self) -> str:
        return f"MagnitudePQ({self.parts}, bits={self.bits})"

    @classmethod
    def for_budget(
        cls, rows: np.ndarray, budget_bytes: float, *, groups: int = 3, bits: int = 8, **settings: int
    ) -> Self:
        """The most parts that fit, half as many for each group of shorter rows; groups too small to fit are joined."""
        rows = _finite(rows)
        n, dim = rows.shape
        while groups > 1:
            sizes = np.bincount(group_of(rows, equal_norm_edges(rows, groups)), minlength=groups)
            if sizes.min() >= 1 << bits:
                break
            groups -= 1
        sizes = np.bincount(group_of(rows, equal_norm_edges(rows, groups)), minlength=groups)
        best: list[int] = []
        for longest in range(1, dim + 1):
            parts = [max(1, round(longest / 2**g)) for g in range(groups)]
            codes = sum(-(-p * bits // 8) * int(size) for p, size in zip(parts, sizes))
            if codes + 4 * n + groups * 4 * dim * (1 << bits) <= budget_bytes:
                best = parts
        if not best:
            raise BadInput(
                f"{budget_bytes:,.0f} bytes are too few for {n} rows of {dim} in {groups} groups of {1 << bits} centres"
            )
        return cls(best, bits=bits, **settings)

    def fit(self, rows: np.ndarray) -> Self:
        """Learn groups and centres from rows [n, dim]; each group needs 2^bits rows."""
        rows = _finite(rows)
        edges = equal_norm_edges(rows, len(self.parts))
        group = group_of(rows, edges)
        for g, quantiser in enumerate(self.quantisers):
            quantiser.fit(rows[group == g])
        self.edges, self.dim = edges, rows.shape[1]
        return self

    def encode(self, rows: np.ndarray) -> Grouped:
        """Codes of each group and the groups."""
        rows = _finite(rows)
        _fitted(self, range(self.dim))
        if rows.shape[1] != self.dim:
            raise BadInput(f"{self!r} was fitted on rows of {self.dim} numbers, got {rows.shape[1]}")
        group = group_of(rows, self.edges)
        return Grouped(tuple(q.encode(rows[group == g]) for g, q in enumerate(self.quantisers)), group)

    def decode(self, codes: Grouped) -> np.ndarray:
        """Float32 rows [n, dim]."""
        _fitted(self, range(self.dim))
        found = np.zeros((len(codes.group), self.dim), dtype=np.float32)
        for g, (code, quantiser) in enumerate(zip(codes.codes, self.quantisers)):
            found[codes.group == g] = quantiser.decode(code)
        return found

    def nbytes(self, dim: int) -> int:
        """Bytes of one row, at most: a row of the longest group, and its remap."""
        return max(quantiser.nbytes(dim) for quantiser in self.quantisers) + 4

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of the centres of all groups."""
        return sum(quantiser.codebook_nbytes for quantiser in self.quantisers) + self.edges.nbytes

    def save(self, path: str | Path) -> Path:
        """Write what was learnt to one file."""
        _fitted(self, range(self.dim))
        arrays = {"edges": self.edges}
        for g, quantiser in enumerate(self.quantisers):
            arrays |= {f"{name} {g}": array for name, array in quantiser.arrays().items()}
        settings = {"parts": self.parts, "bits": self.bits, "iterations": self.iterations, "seed": self.seed}
        return sealed.write(path, arrays, {"kind": KIND, "settings": settings})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        made = cls(**facts["settings"])
        try:
            made.edges = arrays["edges"]
            made.quantisers = [
                ProductQuantiser.restored({name: arrays[f"{name} {g}"] for name in ("centres", "edges")}, q.settings())
                for g, q in enumerate(made.quantisers)
            ]
        except KeyError as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); {sealed.REPAIR}") from None
        made.dim = made.quantisers[0].dim
        return made
