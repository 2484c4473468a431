"""One bit a dimension: on which side of a threshold a number lies, in the axes of the rows or in turned ones.

Zero is the right threshold of a model whose rows lie round the origin, the median that of one whose rows do not; taken
for the wrong one, either can halve quality, so `auto` tries both on rows it knows the neighbours of.

A code is read against an exact query by default: a bit stands for the threshold plus or minus the mean distance from it
in that dimension. `symmetric=True` codes the query too and counts the bits that differ (Hamming), as CoRECT does (arXiv
2510.19340).

Rotations spread what a row has over all bits: a random one, or that of iterative quantisation (ITQ: Gong, Lazebnik,
"Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011), which brings centred rows nearest
to their signs. `HyperplaneBits` are signs of projections on random directions, any number of them (locality-sensitive
hashing for cosine, Charikar 2002).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from inlay.codecs.fitted import Fitted, Tables, checked_query
from inlay.codecs.product import pack_codes, unpack_codes
from inlay.errors import BadInput
from inlay.kernels.bit_planes import _ones
from inlay.kernels.code_scan import score
from inlay.spaces.moments import Moments

__all__ = ["HyperplaneBits", "Signs"]

Threshold: TypeAlias = Literal["zero", "mean", "median", "auto"]
Rotation: TypeAlias = Literal["random", "itq"]
TURNS = 50  # of ITQ
SAMPLE = 20_000  # rows that ITQ and medians are learnt from at most
CENTRED = 0.01  # share of the mean squared length that the mean has at most where rows count as centred
ASKED, AMONG, NEAR = 200, 2000, 10  # rows that ask, rows that are searched, and how many are found, for `auto`


class _Bits(Fitted):
    """Bits of projected rows; what they stand for is learnt."""

    def __init__(self, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = bool(symmetric)
        self.axes: np.ndarray | None = None  # float32 [dim, bits]; None for the rows' own
        self.origin = np.zeros(0, dtype=np.float32)  # [dim], taken off before
        self.threshold_at = np.zeros(0, dtype=np.float32)  # [bits]
        self.size = np.zeros(0, dtype=np.float32)  # [bits], what a bit is worth

    @property
    def width(self) -> int:
        """Bits of a row."""
        return len(self.threshold_at)

    @property
    def signs(self) -> bool:
        """Whether queries are coded too and bits are counted."""
        return self.symmetric

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt; a symmetric codec needs no more than where its bits begin."""
        own = {"threshold": self.threshold_at, "size": self.size}
        return own if self.axes is None else own | {"axes": self.axes, "origin": self.origin}

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        own = {name: np.array(arrays[name], dtype=np.float32) for name in arrays}
        axes = own.get("axes")
        bits = dim if axes is None else axes.shape[1]
        if own["threshold"].shape != (bits,) or own["size"].shape != (bits,):
            raise ValueError(f"{bits} bits, got thresholds {list(own['threshold'].shape)}")
        if axes is not None and (axes.shape != (dim, bits) or own["origin"].shape != (dim,)):
            raise ValueError(f"axes {list(axes.shape)} for {dim} numbers")
        self.axes, self.origin = axes, own.get("origin", np.zeros(dim, dtype=np.float32))
        self.threshold_at, self.size = own["threshold"], own["size"]

    def turned(self, rows: np.ndarray) -> np.ndarray:
        """Rows along the axes whose signs are kept, float32 [n, bits]."""
        rows = self._fitting(rows)
        return rows if self.axes is None else (rows - self.origin) @ self.axes

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Packed bits, uint8 [n, ⌈bits / 8⌉], the first in the lowest place."""
        return pack_codes((self.turned(rows) > self.threshold_at).astype(np.uint8), 1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]; where it is symmetric, ±1 for each bit [n, bits]."""
        found = unpack_codes(self._codes(codes), 1, self.width).astype(np.float32) * 2 - 1
        if self.symmetric:
            return found
        near = self.threshold_at + found * self.size
        return near if self.axes is None else near @ self._back() + self.origin

    def _back(self) -> np.ndarray:
        assert self.axes is not None
        return self.axes.T

    def tables(self, query: np.ndarray) -> Tables:
        """What a bit that is not set, and one that is, contribute."""
        query = checked_query(query, self.width_of_rows)
        if self.symmetric:
            signs = np.where(self.turned(query[None])[0] > self.threshold_at, 1, -1) / np.float32(self.width)
            return Tables(np.stack([-signs, signs], axis=1).astype(np.float32), 1)
        constant = 0.0
        if self.axes is not None:
            constant, query = float(query.astype(np.float64) @ self.origin), query @ self._back().T
        worth = query * self.size
        constant += float(query.astype(np.float64) @ self.threshold_at)
        return Tables(np.stack([-worth, worth], axis=1), 1, constant)

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 scores [n]: dot products with a query [dim], or cosines of bits (±1) where
        it is symmetric.
        """
        if not self.symmetric:
            view = self.tables(query)
            return lambda codes: score(view, self._codes(codes))
        asked = self.encode(checked_query(query, self.width_of_rows)[None])[0]

        def cosine(codes: np.ndarray) -> np.ndarray:
            differing = _ones(self._codes(codes) ^ asked).sum(axis=1, dtype=np.int32)
            return (self.width - 2 * differing).astype(np.float32) / np.float32(self.width)

        return cosine


class Signs(_Bits):
    """One bit a dimension.

    Args:
        threshold: `zero`, `mean` or `median` of each dimension, or `auto`: zero or median, whichever finds more of the
            ten nearest of some rows.
        rotation: None for the axes of the rows, `random` or `itq`.
        bits: kept of turned rows, at most their width; None for as many as rows have numbers. `itq` takes the leading
            principal components.
        symmetric: code queries too and count the bits that differ.
        seed: of the rotation.

    Attributes:
        chosen: the threshold taken.
    """

    KIND = "signs codec"

    def __init__(
        self, threshold: Threshold = "zero", *, rotation: Rotation | None = None, bits: int | None = None,
        symmetric: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(symmetric)
        if threshold not in get_args(Threshold):
            raise BadInput(f"threshold must be one of {', '.join(get_args(Threshold))}, got {threshold!r}")
        if rotation is not None and rotation not in get_args(Rotation):
            raise BadInput(f"rotation must be one of {', '.join(get_args(Rotation))} or None, got {rotation!r}")
        if bits is not None:
            _positive("bits", bits)
            if rotation is None:
                raise BadInput(f"bits={bits} needs a rotation; without one a row has as many bits as numbers")
        self.threshold, self.rotation, self.bits, self.seed = threshold, rotation, bits, int(seed)
        self.chosen: str = threshold

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {name: getattr(self, name) for name in ("threshold", "rotation", "bits", "symmetric", "seed")}

    def _learn(self, rows: np.ndarray) -> None:
        dim = rows.shape[1]
        self.dim, self.axes, self.origin = dim, None, np.zeros(dim, dtype=np.float32)
        if len(rows) > SAMPLE:
            rows = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]
        if self.rotation is not None:
            bits = dim if self.bits is None else self.bits
            if bits > dim:
                raise BadInput(f"rows of {dim} numbers have no {bits} axes; take HyperplaneBits({bits})")
            random = np.random.default_rng(self.seed)
            if self.rotation == "random":
                self.axes = np.linalg.qr(random.standard_normal((dim, bits)))[0].astype(np.float32)
            else:
                if len(rows) < 2:
                    raise BadInput("ITQ learns from at least 2 rows")
                self.origin = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
                self.axes = itq(rows - self.origin, bits, random)
        turned = self.turned(rows)
        self.chosen = self.threshold if self.threshold != "auto" else self._better(turned)
        self._stand(turned, self.chosen)

    def _stand(self, turned: np.ndarray, threshold: str) -> None:
        middle = {
            "zero": lambda: np.zeros(turned.shape[1]),
            "mean": lambda: turned.mean(axis=0, dtype=np.float64),
            "median": lambda: np.median(turned, axis=0),
        }[threshold]()
        self.threshold_at = middle.astype(np.float32)
        self.size = np.abs(turned - self.threshold_at).mean(axis=0, dtype=np.float64).astype(np.float32)

    def _better(self, turned: np.ndarray) -> str:
        """Zero or median, by the neighbours that codes find among rows they were made of."""
        mean = turned.mean(axis=0, dtype=np.float64)
        if mean @ mean <= CENTRED * np.square(turned, dtype=np.float64).sum(axis=1).mean():
            return "zero"
        some = turned[np.linspace(0, len(turned) - 1, min(len(turned), ASKED + AMONG)).astype(np.int64)]
        order = np.random.default_rng(self.seed).permutation(len(some))
        asking, kept = some[order[:ASKED]], some[order[ASKED:]]
        if len(kept) < 5 * NEAR:
            return "median"
        unit = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-30)
        truth = np.argpartition(-(asking @ unit.T), NEAR, axis=1)[:, :NEAR]
        found: dict[str, float] = {}
        for threshold in ("zero", "median"):
            self._stand(turned, threshold)
            signs = np.where(kept > self.threshold_at, np.float32(1), np.float32(-1))
            if self.symmetric:
                queries = np.where(asking > self.threshold_at, np.float32(1), np.float32(-1))
            else:
                queries, signs = asking, self.threshold_at + signs * self.size
                signs = signs / np.maximum(np.linalg.norm(signs, axis=1, keepdims=True), 1e-30)
            ids = np.argpartition(-(queries @ signs.T), NEAR, axis=1)[:, :NEAR]
            found[threshold] = float((ids[:, :, None] == truth[:, None]).any(axis=2).mean())
        return max(found, key=lambda name: found[name])

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt."""
        chosen = get_args(Threshold).index(self.chosen)
        return super().arrays() | ({"chosen": np.array([chosen], dtype=np.uint8)} if self.threshold == "auto" else {})

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        arrays = dict(arrays)
        if self.threshold == "auto":
            self.chosen = get_args(Threshold)[int(arrays.pop("chosen")[0])]
        if (self.rotation is None) != ("axes" not in arrays):
            raise ValueError(f"axes of rotation {self.rotation}")
        super()._take(arrays, dim)

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return -(-(dim if self.bits is None else self.bits) // 8)


class HyperplaneBits(_Bits):
    """Signs of random projections: the share of bits that agree tells the angle between two rows.

    Against an exact query the bits are an unbiased estimate of the unit row, √(π / 2) / bits · Σ ± direction.

    Args:
        bits: directions.
        symmetric: code queries too and count the bits that differ.
        seed: of the directions.
    """

    KIND = "hyperplane bits codec"

    def __init__(self, bits: int = 1024, *, symmetric: bool = False, seed: int = 0) -> None:
        super().__init__(symmetric)
        self.bits, self.seed = _positive("bits", bits), int(seed)

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {"bits": self.bits, "symmetric": self.symmetric, "seed": self.seed}

    def _learn(self, rows: np.ndarray) -> None:
        dim = rows.shape[1]
        self.axes = np.random.default_rng(self.seed).standard_normal((dim, self.bits), dtype=np.float32)
        self.origin = np.zeros(dim, dtype=np.float32)
        self.threshold_at = np.zeros(self.bits, dtype=np.float32)
        self.size = np.full(self.bits, np.sqrt(np.pi / 2) / self.bits, dtype=np.float32)

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        super()._take(arrays, dim)
        if self.axes is None or self.axes.shape[1] != self.bits:
            raise ValueError(f"{self.bits} directions")

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return -(-self.bits // 8)


def itq(rows: np.ndarray, bits: int, random: np.random.Generator, turns: int = TURNS) -> np.ndarray:
    """Axes [dim, bits] of centred rows [n, dim]: principal components, turned until rows are nearest to their signs."""
    axes = Moments.of(rows).principal()[1][:, :bits]
    seen = (rows @ axes).astype(np.float32)
    turn = np.linalg.qr(random.standard_normal((bits, bits)))[0].astype(np.float32)
    for _ in range(turns):
        # Given the signs, the orthogonal matrix that brings the rows nearest to them (Procrustes).
        signs = np.where(seen @ turn > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd((seen.T @ signs).astype(np.float64))
        turn = (left @ right).astype(np.float32)
    return (axes @ turn).astype(np.float32)


def _positive(name: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise BadInput(f"{name} must be a positive whole number, got {number!r}")
    return int(number)
