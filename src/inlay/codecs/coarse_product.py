"""Product quantisation of what a coarse centre leaves: a row is the number of a centre, and a product code of the rest.

That is what an inverted file of product codes keeps of a row: the centre's list, and the code. The rows are rotated
first, and the rotation is made for the residuals, which are what is cut into parts. A row x in the list of centre c is
stored as c + φ((x − c)·R)·Rᵀ, so that R is found as for `OptimisedProduct`, on x − c, and the centres turn along.
(Poeem takes the Procrustes step on whole rows, XᵀT(X), against centres that stay where they are in the rotated space.
The centres' own part of that is best solved by the rotation of the turn before, so a turn moves less; the released code
takes 200.)

Source: Jégou, Douze, Schmid (PAMI 2011) for residual codes; Ge et al. (CVPR 2013) for the rotation; the warm start of
"Joint Learning of Deep Retrieval Model and Product Quantization based Embedding Index" (arXiv 2105.03933).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from inlay import sealed
from inlay.codecs.composable import Composable
from inlay.codecs.kmeans import assign, kmeans
from inlay.codecs.product import pack_codes
from inlay.codecs.rotation import OptimisedProduct
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt

__all__ = ["CoarseCodes", "CoarseProduct"]

KIND = "coarse product quantiser"


class CoarseCodes(NamedTuple):
    """Number of each row's centre, int64 [n], and the code of its residual, uint8 [n, bytes]."""

    lists: np.ndarray
    codes: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the codes; the lists are where a row stands in an inverted file."""
        return self.codes.nbytes


class CoarseProduct(Composable):
    """Rows as a coarse centre and a product code of the rotated residual.

    Args:
        m: parts of a row; must divide its width.
        ksub: centres a part, a power of two up to 65,536.
        lists: coarse centres; 0 for none: the code is of the row itself.
        rotate: learn a rotation; False leaves the rows as they are.
        iterations: turns of k-means and rotation.
        coarse_iterations: of k-means for the coarse centres.
        sample: rows that are learnt from at most.
        seed: of the sample and of all first centres.

    All centres are kept in the rotated space. A row costs ⌈m · log₂ ksub / 8⌉ bytes and its list (`nbytes`).
    """

    def __init__(
        self,
        m: int,
        ksub: int = 256,
        *,
        lists: int = 128,
        rotate: bool = True,
        iterations: int = 25,
        coarse_iterations: int = 25,
        sample: int = 65_536,
        seed: int = 0,
    ) -> None:
        if not isinstance(rotate, bool):
            raise BadInput(f"rotate must be True or False, got {rotate!r}")
        for name, number, least in (("lists", lists, 0), ("coarse_iterations", coarse_iterations, 1)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
                raise BadInput(f"{name} must be an integer of at least {least}, got {number!r}")
        # Checks what is left, and does the residuals.
        inner = OptimisedProduct(m, ksub, iterations if rotate else 0, sample=sample, seed=seed)
        if iterations < 1 and rotate:
            raise BadInput(f"iterations must be at least 1 to learn a rotation, got {iterations}; or take rotate=False")
        self.m, self.ksub, self.lists, self.rotate = inner.m, inner.ksub, int(lists), rotate
        self.iterations, self.coarse_iterations = int(iterations), int(coarse_iterations)
        self.sample, self.seed = inner.sample, inner.seed
        self._inner = inner
        self.centroids = np.empty((0, 0), dtype=np.float32)  # rotated, [lists, dim]

    def __repr__(self) -> str:
        return f"CoarseProduct(m={self.m}, ksub={self.ksub}, lists={self.lists}, rotate={self.rotate})"

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self._inner.dim

    @property
    def rotation(self) -> np.ndarray:
        """Orthogonal, float32 [dim, dim]: rows @ rotation is what is quantised."""
        return self._inner.rotation

    @property
    def codebooks(self) -> np.ndarray:
        """Centres of the parts of residuals, float32 [m, ksub, dim / m]."""
        return self._inner.codebooks

    @property
    def errors(self) -> list[float]:
        """Mean squared error of a row after each turn of `fit`."""
        return self._inner.errors

    @property
    def bits(self) -> int:
        """Bits of one part's code."""
        return self.ksub.bit_length() - 1

    def fit(self, rows: np.ndarray) -> Self:
        """Learn everything from float32 rows [n, dim], n at least ksub and lists."""
        rows = _finite(rows)
        if len(rows) < self.lists:
            raise BadInput(f"{self.lists} lists need at least as many rows, got {len(rows)}; take fewer lists")
        if len(rows) > self.sample:
            random = np.random.default_rng(self.seed)
            keep = max(self.sample, self.ksub, self.lists)
            rows = rows[np.sort(random.choice(len(rows), keep, replace=False))]
        if self.lists:
            centres = kmeans(rows, self.lists, iterations=self.coarse_iterations, seed=self.seed)
            rows = rows - centres[assign(rows, centres)]
        else:
            centres = np.zeros((0, rows.shape[1]), dtype=np.float32)
        self._inner.fit(rows)
        self.centroids = centres @ self._inner.rotation
        return self

    @classmethod
    def of(cls, rotation: np.ndarray, centroids: np.ndarray, codebooks: np.ndarray) -> Self:
        """Of a rotation [dim, dim] and, behind it, coarse centres [lists, dim] and parts' [m, ksub, dim / m]."""
        inner, centroids = OptimisedProduct.of(rotation, codebooks), np.asarray(centroids, dtype=np.float32)
        if centroids.ndim != 2 or centroids.shape[1] != inner.dim or not np.isfinite(centroids).all():
            raise BadInput(f"expected finite coarse centres [lists, {inner.dim}], got {list(centroids.shape)}")
        made = cls(inner.m, inner.ksub, lists=len(centroids))
        made._inner, made.centroids = inner, np.ascontiguousarray(centroids)
        return made

    def turned(self, rows: np.ndarray) -> np.ndarray:
        """Rotated rows, float32 [n, dim]."""
        return self._inner.turned(rows)

    def encode(self, rows: np.ndarray) -> CoarseCodes:
        """Lists and codes of rows [n, dim]."""
        turned = self.turned(rows)
        lists = np.zeros(len(turned), dtype=np.int64)
        if self.lists and len(turned):
            lists = assign(turned, self.centroids)
            turned = turned - self.centroids[lists]
        return CoarseCodes(lists, self._inner.product.encode(turned))

    def decode(self, codes: CoarseCodes) -> np.ndarray:
        """Float32 rows [n, dim]: what the codes name, turned back."""
        near = self._inner.product.decode(codes.codes)
        if self.lists:
            lists = np.asarray(codes.lists)
            if lists.shape != (len(near),) or not ((lists >= 0) & (lists < self.lists)).all():
                raise BadInput(f"{len(near)} codes need one list each, from 0 to {self.lists - 1}")
            near = near + self.centroids[lists]
        return near @ self.rotation.T

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """Codes of residuals, unpacked: integers [n, m]."""
        return self._inner.numbers(codes)

    def packed(self, numbers: np.ndarray) -> np.ndarray:
        """The reverse of `numbers`."""
        return pack_codes(np.asarray(numbers, dtype=np.uint16 if self.bits > 8 else np.uint8), self.bits)

    def scorer(self, query: np.ndarray) -> Callable[[CoarseCodes], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]: the list's centre, and the rest."""
        query = np.asarray(query, dtype=np.float32)
        if query.shape != (self.dim,):
            raise BadInput(f"expected one query [{self.dim}], got shape {list(query.shape)}")
        turned = query @ self.rotation
        rest, coarse = self._inner.product.scorer(turned), self.centroids @ turned

        def score(codes: CoarseCodes) -> np.ndarray:
            found = rest(codes.codes)
            return found + coarse[np.asarray(codes.lists)] if self.lists else found

        return score

    def nbytes(self, dim: int) -> int:
        """Bytes of one row: its code, and the number of its list in whole bytes."""
        return self._inner.nbytes(dim) + (-(-(self.lists - 1).bit_length() // 8) if self.lists else 0)

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of rotation and all centres, kept once."""
        return self._inner.codebook_nbytes + self.centroids.nbytes

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return {"rotation": self.rotation, "centroids": self.centroids, "codebooks": self.codebooks}

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        names = ("m", "ksub", "lists", "rotate", "iterations", "coarse_iterations", "sample", "seed")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Of what `arrays` and `settings` gave."""
        try:
            made, like = cls(**settings), cls.of(arrays["rotation"], arrays["centroids"], arrays["codebooks"])
            if (like.m, like.ksub, like.lists) != (made.m, made.ksub, made.lists):
                raise ValueError(f"{made!r} and not {like!r}")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the centres do not fit their settings ({error}); {sealed.REPAIR}") from None
        made._inner, made.centroids = like._inner, like.centroids
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
