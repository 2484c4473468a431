"""Optimised product quantisation: rows are turned before they are cut into parts, so that little is lost at the cuts.

A product quantiser assumes that the parts of a row are independent and equally rich. A rotation changes no length and
no dot product, and can make that so: `OptimisedProduct` finds one by turns, each of which leaves less to lose than
before. The codebook is improved for the rotated rows, then the rotation for the codebook: argmin |XR − X̂| over
orthogonal R is U·Vᵀ of the singular value decomposition of XᵀX̂ ("Procrustes").

Source: Ge, He, Ke, Sun, "Optimized Product Quantization" (CVPR 2013, PAMI 2014): the non-parametric solution, started
from the parametric one (principal axes, dealt out so that the parts have equal products of variances). faiss starts
from a random rotation and takes 50 turns of 4 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from inlay import sealed
from inlay.codecs.composable import Composable
from inlay.codecs.kmeans import _fill, assign
from inlay.codecs.product import ProductQuantiser
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt
from inlay.kernels.code_scan import Tables

__all__ = ["OptimisedProduct", "balanced_axes", "lloyd", "procrustes"]

KIND = "optimised product quantiser"
LAST = 25  # steps of k-means once the rotation stands


class OptimisedProduct(Composable):
    """Rotated rows as product codes.

    Args:
        m: parts of a row; must divide its width.
        ksub: centres a part, a power of two up to 65,536. Codes have log₂ ksub bits.
        iterations: turns of k-means and rotation; 0 leaves the rows as they are (plain product quantisation).
        steps: of k-means in a turn.
        sample: rows that are learnt from at most.
        seed: of the sample and of the first centres.

    A row costs ⌈m · log₂ ksub / 8⌉ bytes (`nbytes`); rotation and centres, kept once, `codebook_nbytes`.
    """

    def __init__(
        self,
        m: int,
        ksub: int = 256,
        iterations: int = 25,
        *,
        steps: int = 2,
        sample: int = 65_536,
        seed: int = 0,
    ) -> None:
        for name, number, least in (
            ("m", m, 1), ("ksub", ksub, 2), ("iterations", iterations, 0), ("steps", steps, 1), ("sample", sample, 1),
            ("seed", seed, 0),
        ):  # fmt: skip
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise BadInput(f"{name} must be an integer of at least {least}, got {number!r}")
        if ksub & (ksub - 1) or ksub > 65_536:
            near = min(65_536, 1 << (int(ksub).bit_length() - 1))
            raise BadInput(f"ksub must be a power of two up to 65536, got {ksub}; take {near}")
        self.m, self.ksub, self.iterations, self.steps = int(m), int(ksub), int(iterations), int(steps)
        self.sample, self.seed = int(sample), int(seed)
        self.rotation = np.empty((0, 0), dtype=np.float32)  # rows @ rotation is what is cut into parts
        self.errors: list[float] = []  # mean squared error of a row after each turn
        self._product = ProductQuantiser(self.m, bits=self._bits, sample=self.sample, seed=self.seed)

    def __repr__(self) -> str:
        return f"OptimisedProduct(m={self.m}, ksub={self.ksub}, iterations={self.iterations}, seed={self.seed})"

    @property
    def _bits(self) -> int:
        return self.ksub.bit_length() - 1

    @property
    def dim(self) -> int:
        """Width of the rows it was fitted on."""
        self._need()
        return len(self.rotation)

    @property
    def codebooks(self) -> np.ndarray:
        """Centres in the rotated space, float32 [m, ksub, dim / m]."""
        self._need()
        return np.stack(self._product.centres)

    @property
    def product(self) -> ProductQuantiser:
        """The product quantiser of rotated rows."""
        self._need()
        return self._product

    def fit(self, rows: np.ndarray) -> Self:
        """Learn rotation and centres from float32 rows [n, dim], n at least ksub."""
        rows = _finite(rows)
        dim = rows.shape[1]
        if dim % self.m:
            fits = max(part for part in range(1, self.m + 1) if dim % part == 0)
            raise BadInput(f"rows of {dim} numbers cannot be cut into {self.m} equal parts; take m={fits}")
        if len(rows) < self.ksub:
            raise BadInput(
                f"{self!r} has {self.ksub} centres a part and cannot be fitted on {len(rows)} rows; lower ksub to "
                f"{max(2, 1 << (len(rows).bit_length() - 1))} or bring more rows"
            )
        random = np.random.default_rng(self.seed)
        if len(rows) > self.sample:
            rows = rows[np.sort(random.choice(len(rows), max(self.sample, self.ksub), replace=False))]
        rotation = balanced_axes(rows, self.m) if self.iterations else np.eye(dim, dtype=np.float32)
        turned = rows @ rotation
        books = first_centres(turned, self.m, self.ksub, random)
        self.errors = []
        for turn in range(self.iterations):
            near = lloyd(turned, books, self.steps if turn else self.steps + 2, random)
            self.errors.append(float(((turned - near) ** 2).sum(axis=1).mean()))
            rotation = procrustes(rows, near)
            turned = rows @ rotation
        near = lloyd(turned, books, LAST, random)
        self.errors.append(float(((turned - near) ** 2).sum(axis=1).mean()))
        self._take(rotation, books)
        return self

    @classmethod
    def of(cls, rotation: np.ndarray, codebooks: np.ndarray) -> Self:
        """Of a rotation [dim, dim] and centres [m, ksub, dim / m] that were learnt elsewhere."""
        rotation, codebooks = np.asarray(rotation, dtype=np.float32), np.asarray(codebooks, dtype=np.float32)
        if codebooks.ndim != 3 or rotation.shape != (codebooks.shape[0] * codebooks.shape[2],) * 2:
            raise BadInput(
                f"expected a rotation [dim, dim] and centres [m, ksub, dim / m], got {list(rotation.shape)} "
                f"and {list(codebooks.shape)}"
            )
        if not np.isfinite(codebooks).all() or not _orthogonal(rotation):
            raise BadInput("a rotation must be orthogonal and centres finite; these are not")
        made = cls(codebooks.shape[0], codebooks.shape[1])
        made._take(rotation, codebooks)
        return made

    def turned(self, rows: np.ndarray) -> np.ndarray:
        """Rotated rows, float32 [n, dim]."""
        rows = _finite(rows)
        if rows.shape[1] != self.dim:
            raise BadInput(f"{self!r} was fitted on rows of {self.dim} numbers, got {rows.shape[1]}")
        return rows @ self.rotation

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes, uint8 [n, nbytes(dim)]."""
        return self._product.encode(self.turned(rows))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]: what the codes name, turned back."""
        self._need()
        return self._product.decode(codes) @ self.rotation.T

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """Codes, unpacked: integers [n, m]."""
        self._need()
        return self._product.numbers(codes)

    def scorer(self, query: np.ndarray, metric: str = "dot") -> Callable[[np.ndarray], np.ndarray]:
        """As `ProductQuantiser.scorer`: a function from codes to scores [n] against a query [dim]."""
        query = np.asarray(query, dtype=np.float32)
        if query.shape != (self.dim,):
            raise BadInput(f"expected one query [{self.dim}], got shape {list(query.shape)}")
        return self._product.scorer(query @ self.rotation, metric)

    def tables(self, query: np.ndarray) -> Tables | None:
        """As `ProductQuantiser.tables`, of the rotated query."""
        query = np.asarray(query, dtype=np.float32)
        if query.shape != (self.dim,):
            raise BadInput(f"expected one query [{self.dim}], got shape {list(query.shape)}")
        return self._product.tables(query @ self.rotation)

    def nbytes(self, dim: int) -> int:
        """Bytes of one row's codes."""
        return -(-self.m * self._bits // 8)

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of rotation and centres, kept once whatever the number of rows."""
        return self.rotation.nbytes + self._product.codebook_nbytes

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return {"rotation": self.rotation, "codebooks": self.codebooks}

    def settings(self) -> dict[str, int]:
        """The keyword arguments that make it again."""
        return {name: getattr(self, name) for name in ("m", "ksub", "iterations", "steps", "sample", "seed")}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, int]) -> Self:
        """Of what `arrays` and `settings` gave."""
        try:
            made = cls(**settings)
            like = cls.of(arrays["rotation"], arrays["codebooks"])
            if (like.m, like.ksub) != (made.m, made.ksub):
                raise ValueError(f"{made.m} parts of {made.ksub} centres, not {like.m} of {like.ksub}")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the rotation does not fit its settings ({error}); {sealed.REPAIR}") from None
        made._take(like.rotation, arrays["codebooks"])
        return made

    def save(self, path: str | Path) -> Path:
        """Write rotation and centres to one file."""
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        settings: Any = facts.get("settings")
        return cls.restored(arrays, settings if isinstance(settings, dict) else {})

    def _take(self, rotation: np.ndarray, books: np.ndarray) -> None:
        flat = np.concatenate([book.ravel() for book in books]).astype(np.float32)
        edges = np.arange(0, len(rotation) + 1, len(rotation) // self.m, dtype=np.int32)
        self.rotation = np.ascontiguousarray(rotation, dtype=np.float32)
        self._product = ProductQuantiser.restored({"centres": flat, "edges": edges}, self._product.settings())

    def _need(self) -> None:
        if not len(self.rotation):
            raise BadInput(f"{self!r} has no rotation yet; call fit(rows) first")


def balanced_axes(rows: np.ndarray, m: int) -> np.ndarray:
    """Principal axes of rows [n, dim] as columns [dim, dim], dealt out to m parts of equal size.

    The axis of largest variance goes to the part with the smallest product of variances that has room, and so on: of
    normal rows, parts with equal products lose least at equal bits. The determinant is 1.
    """
    dim = rows.shape[1]
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred / max(1, len(rows)))
    logs = np.log(np.maximum(values, max(float(values[-1]), 1e-30) * 1e-9))
    parts: list[list[int]] = [[] for _ in range(m)]
    weight = np.zeros(m)
    for axis in range(dim - 1, -1, -1):
        free = [part for part in range(m) if len(parts[part]) < dim // m]
        chosen = min(free, key=lambda part: (weight[part], part))
        parts[chosen].append(axis)
        weight[chosen] += logs[axis] - logs[0]  # above the smallest, so that an empty part always weighs least
    rotation = axes[:, [axis for part in parts for axis in part]]
    if np.linalg.slogdet(rotation)[0] < 0:
        rotation[:, 0] *= -1
    return rotation.astype(np.float32)


def procrustes(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The rotation R [dim, dim] of determinant 1 that brings rows·R nearest to `wanted`, both [n, dim].

    Among all orthogonal maps one with a mirror could be nearer by twice the smallest singular value; a mirror cannot
    be reached by rotating on, and for codes it is worth nothing: negated centres do the same.
    """
    u, _, v = np.linalg.svd(rows.T.astype(np.float64) @ wanted.astype(np.float64))
    if np.linalg.slogdet(u @ v)[0] < 0:
        u[:, -1] *= -1
    return (u @ v).astype(np.float32)


def first_centres(rows: np.ndarray, m: int, ksub: int, random: np.random.Generator) -> np.ndarray:
    """Centres [m, ksub, dim / m] to start from: parts of distinct rows, other rows for every part."""
    chosen = [rows[random.choice(len(rows), ksub, replace=False)] for _ in range(m)]
    wide = rows.shape[1] // m
    return np.stack([own[:, part * wide : (part + 1) * wide] for part, own in enumerate(chosen)])


def lloyd(rows: np.ndarray, books: np.ndarray, steps: int, random: np.random.Generator) -> np.ndarray:
    """Move centres [m, ksub, dim / m] in place by some steps of k-means; the rows as the centres then name them.

    Centres that are nobody's nearest take half of a populous one's rows (as in `inlay.codecs.kmeans`).
    """
    m, ksub, wide = books.shape
    near = np.empty_like(rows)
    for part in range(m):
        own = np.ascontiguousarray(rows[:, part * wide : (part + 1) * wide])
        book = books[part]
        hair = np.float32(max(1e-6 * float(np.abs(own).max(initial=0)), 1e-30))
        before = None
        for _ in range(steps):
            nearest = assign(own, book)
            held = np.bincount(nearest, minlength=ksub)
            if before is not None and held.all() and np.array_equal(nearest, before):
                break
            before = nearest
            for column in range(wide):
                sums = np.bincount(nearest, weights=own[:, column], minlength=ksub)
                book[:, column] = np.where(held > 0, sums / np.maximum(held, 1), book[:, column])
            _fill(book, held, len(own), hair, random)
        near[:, part * wide : (part + 1) * wide] = book[assign(own, book)]
    return near


def _orthogonal(rotation: np.ndarray) -> bool:
    if not np.isfinite(rotation).all():
        return False
    off = rotation.astype(np.float64).T @ rotation.astype(np.float64) - np.eye(len(rotation))
    return bool(np.abs(off).max(initial=0) < 1e-3)
