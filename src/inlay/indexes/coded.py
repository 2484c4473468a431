"""Rows kept as codes of a codec and scored from them: a scan that never decodes.

The query stays exact ("asymmetric"): a product quantiser answers it from a table a part. That is how MUVERA keeps its
encodings: 5,120 numbers in 640 bytes with 256 centres every 8 dimensions.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from inlay import sealed
from inlay.codecs.product import ProductQuantiser
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.kernels.topk import top_k
from inlay.types import Neighbours

__all__ = ["Coded"]

KIND = "coded index"


class Coded:
    """Dense rows as codes, scanned whole by dot product.

    Args:
        codec: a `ProductQuantiser`, fitted on rows like those to come.
        rows: codes that exist already, uint8 [n, nbytes].
    """

    metric = "dot"

    def __init__(self, codec: ProductQuantiser, rows: np.ndarray | None = None) -> None:
        if not isinstance(codec, ProductQuantiser):
            raise BadInput(f"codec must be a ProductQuantiser, got {type(codec).__name__}")
        self.codec, self.dim = codec, codec.dim
        wide = codec.nbytes(self.dim)
        rows = np.empty((0, wide), dtype=np.uint8) if rows is None else rows
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != wide:
            raise BadInput(f"expected codes uint8 [n, {wide}], got {rows.dtype} {list(rows.shape)}")
        self._rows, self._count = rows, len(rows)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Coded({self.codec!r}, dim={self.dim}) of {self._count} rows"

    @property
    def rows(self) -> np.ndarray:
        """Codes, uint8 [n, nbytes]."""
        return self._rows[: self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, and of the centres."""
        return self.rows.nbytes + self.codec.codebook_nbytes

    def add(self, vectors: np.ndarray) -> None:
        """Append rows [n, dim]; ids are positions in order of addition."""
        codes = self.codec.encode(checked_rows(vectors, self.dim))
        start, stop = self._count, self._count + len(codes)
        if stop > len(self._rows):
            grown = np.empty((max(stop, len(self._rows) * 3 // 2), codes.shape[1]), dtype=np.uint8)
            grown[:start] = self.rows
            self._rows = grown
        self._rows[start:stop] = codes
        self._count = stop

    def search(self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
        """The k rows of highest dot product with each query, as decoded; equal scores go to the lower id.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are allowed, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned. The others are not read.
        """
        queries, k = checked_rows(queries, self.dim, what="query"), checked_k(k)
        allow = checked_mask(allow, self._count)
        ids = None if allow is None or allow.all() else np.flatnonzero(allow)
        codes = self.rows if ids is None else self.rows[ids]
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = np.full((len(queries), k), -1, dtype=np.int64)
        for place, query in enumerate(queries if len(codes) else []):
            best = top_k(self.codec.scorer(query)(codes), k)
            scores[place] = best.scores[0]
            found[place] = best.ids[0] if ids is None else np.where(best.ids[0] < 0, -1, ids[best.ids[0]])
        return Neighbours(scores, found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes and centres to one file."""
        arrays = {"rows": self.rows} | {f"codec.{name}": array for name, array in self.codec.arrays().items()}
        sealed.write(Path(path), arrays, {"kind": KIND, "codec": self.codec.settings()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Coded:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(Path(path), KIND)
        own = {name.removeprefix("codec."): array for name, array in arrays.items() if name.startswith("codec.")}
        try:
            return cls(ProductQuantiser.restored(own, facts["codec"]), arrays["rows"])
        except (BadInput, KeyError) as error:
            raise Corrupt(f"{path} does not hold a coded index ({error}); build and save it again") from None
