"""Product quantisation: a row is cut into parts, and each part is written as the number of its nearest centre.

Source: Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search" (PAMI 2011); sampling, k-means and
parts as in "FastText.zip: Compressing text classification models" (arXiv 1612.03651).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from inlay import sealed
from inlay.codecs.composable import Composable
from inlay.codecs.kmeans import assign, kmeans
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt
from inlay.kernels.code_scan import Tables, byte_tables, table_scores

__all__ = ["ProductQuantiser", "pack_codes", "unpack_codes"]

KIND = "product quantiser"


class ProductQuantiser(Composable):
    """Rows as codes of `bits` bits a part.

    Args:
        parts: parts of a row, as even as can be; or give `dsub`.
        dsub: numbers in a part; the last part is narrower when `dsub` does not divide the width.
        bits: of one code, 1 to 16; a part has 2^bits centres.
        iterations: of k-means.
        sample: rows that k-means sees at most.
        seed: of the sample and of the first centres.

    A row costs ⌈parts · bits / 8⌉ bytes (`nbytes`); the centres, kept once, `codebook_nbytes`. Codes of 8 bits are
    uint8 [n, parts]; others are packed, lowest bit first, into uint8 [n, ⌈parts · bits / 8⌉].
    """

    def __init__(
        self,
        parts: int | None = None,
        *,
        dsub: int | None = None,
        bits: int = 8,
        iterations: int = 25,
        sample: int = 65_536,
        seed: int = 0,
    ) -> None:
        if (parts is None) == (dsub is None):
            raise BadInput(f"give either parts or dsub, got parts={parts!r} and dsub={dsub!r}")
        for name, number in (("parts", parts), ("dsub", dsub), ("iterations", iterations), ("sample", sample)):
            if number is not None and (not isinstance(number, (int, np.integer)) or number < 1):
                raise BadInput(f"{name} must be an integer of at least 1, got {number!r}")
        if bits not in range(1, 17):
            raise BadInput(f"bits must be from 1 to 16, got {bits!r}")
        self.parts, self.dsub, self.bits = parts, dsub, bits
        self.iterations, self.sample, self.seed = iterations, sample, seed
        self.edges: list[int] = []  # part p spans columns edges[p]:edges[p + 1]
        self.centres: list[np.ndarray] = []  # float32 [2^bits, width of the part]
        self._whole: tuple[list[np.ndarray], np.ndarray | None] | None = None  # the same as one array

    def __repr__(self) -> str:
        cut = f"parts={self.parts}" if self.dsub is None else f"dsub={self.dsub}"
        return f"ProductQuantiser({cut}, bits={self.bits})"

    @property
    def dim(self) -> int:
        """Width of the rows it was fitted on."""
        self._need()
        return self.edges[-1]

    def fit(self, rows: np.ndarray) -> Self:
        """Learn the centres of float32 rows [n, dim], n at least 2^bits."""
        rows = _finite(rows)
        edges = self._edges(rows.shape[1])
        count = 1 << self.bits
        if len(rows) < count:
            raise BadInput(
                f"{self!r} has {count} centres a part and cannot be fitted on {len(rows)} rows; "
                f"lower bits to {max(1, len(rows).bit_length() - 1)} or bring more rows"
            )
        random = np.random.default_rng(self.seed)
        if len(rows) > self.sample:
            rows = rows[np.sort(random.choice(len(rows), max(self.sample, count), replace=False))]
        self.centres = [
            kmeans(rows[:, low:high], count, iterations=self.iterations, seed=self.seed + 1 + part)
            for part, (low, high) in enumerate(zip(edges, edges[1:]))
        ]
        self.edges = edges
        return self

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes, uint8 [n, nbytes(dim)]."""
        rows = self._fitting(rows)
        codes = np.empty((len(rows), len(self.centres)), dtype=np.uint8 if self.bits <= 8 else np.uint16)
        for part, (low, high) in enumerate(zip(self.edges, self.edges[1:])):
            codes[:, part] = assign(np.ascontiguousarray(rows[:, low:high]), self.centres[part])
        return pack_codes(codes, self.bits)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]: the centres the codes name, side by side."""
        numbers = self.numbers(codes)
        return np.concatenate([centres[numbers[:, part]] for part, centres in enumerate(self.centres)], axis=1)

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """Codes, unpacked: integers [n, parts]."""
        return unpack_codes(self._packed(codes), self.bits, len(self.centres))

    def _packed(self, codes: np.ndarray) -> np.ndarray:
        self._need()
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != self.nbytes(self.dim) or codes.dtype != np.uint8:
            raise BadInput(
                f"expected codes uint8 [n, {self.nbytes(self.dim)}], got {codes.dtype} {list(codes.shape)}; "
                "decode takes what encode gave"
            )
        return codes

    def scorer(self, query: np.ndarray, metric: str = "dot") -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 scores [n] against a query [dim], without decoding.

        A table a part holds what each centre contributes ("asymmetric": the query stays exact). `metric` is "dot", or
        "l2" for minus the squared distance; higher is nearer. Equal to scoring decoded rows up to rounding.
        """
        self._need()
        query = np.asarray(query, dtype=np.float32)
        if query.shape != (self.dim,) or not np.isfinite(query).all():
            raise BadInput(f"expected one finite query [{self.dim}], got shape {list(query.shape)}")
        if metric not in ("dot", "l2"):
            raise BadInput(f"metric must be 'dot' or 'l2', got {metric!r}")
        pieces = [query[low:high] for low, high in zip(self.edges, self.edges[1:])]
        tables = [
            centres @ piece if metric == "dot" else -((centres - piece) ** 2).sum(axis=1)
            for centres, piece in zip(self.centres, pieces)
        ]

        read = byte_tables(Tables(np.stack(tables), self.bits)) if self.bits in (1, 2, 4, 8) else None

        def score(codes: np.ndarray) -> np.ndarray:
            if read is not None:
                return table_scores(read, self._packed(codes))
            numbers = self.numbers(codes)
            total = np.zeros(len(numbers), dtype=np.float32)
            for part, table in enumerate(tables):
                total += table[numbers[:, part]]
            return total

        return score

    def tables(self, query: np.ndarray) -> Tables | None:
        """What each centre contributes to a dot product with a query [dim]; None where codes straddle bytes."""
        self._need()
        if self.bits not in (1, 2, 4, 8):
            return None
        query = np.asarray(query, dtype=np.float32)
        if query.shape != (self.dim,) or not np.isfinite(query).all():
            raise BadInput(f"expected one finite query [{self.dim}], got shape {list(query.shape)}")
        whole, wide = self._stacked(), self.dim // len(self.centres)
        if whole is not None:
            return Tables((whole @ query.reshape(-1, wide, 1))[:, :, 0], self.bits)
        parts = zip(self.centres, self.edges, self.edges[1:])
        return Tables(np.stack([centres @ query[low:high] for centres, low, high in parts]), self.bits)

    def _stacked(self) -> np.ndarray | None:
        """Centres float32 [parts, 2^bits, width of a part], where parts are equally wide."""
        if self._whole is None or self._whole[0] is not self.centres:
            equal = len({centres.shape for centres in self.centres}) == 1
            self._whole = self.centres, np.stack(self.centres) if equal else None
        return self._whole[1]

    def nbytes(self, dim: int) -> int:
        """Bytes of one row's codes."""
        return -(-(len(self._edges(dim)) - 1) * self.bits // 8)

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of the centres, kept once whatever the number of rows."""
        return sum(centres.nbytes for centres in self.centres)

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name: centres of all parts in one line, and where parts begin."""
        self._need()
        flat = np.concatenate([centres.ravel() for centres in self.centres])
        return {"centres": flat, "edges": np.asarray(self.edges, dtype=np.int32)}

    def settings(self) -> dict[str, int | None]:
        """The keyword arguments that make it again."""
        names = ("parts", "dsub", "bits", "iterations", "sample", "seed")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, int | None]) -> Self:
        """Of what `arrays` and `settings` gave."""
        try:
            made = cls(**settings)  # type: ignore[arg-type]
            edges, flat, count = arrays["edges"].tolist(), arrays["centres"], 1 << made.bits
            if edges != made._edges(edges[-1]) or flat.shape != (count * edges[-1],):
                raise ValueError("centres do not fit the parts")
        except (BadInput, KeyError, TypeError, ValueError, IndexError) as error:
            raise Corrupt(f"the codebook does not fit its settings ({error}); {sealed.REPAIR}") from None
        made.edges = edges
        made.centres = [
            flat[count * low : count * high].reshape(count, high - low).copy() for low, high in zip(edges, edges[1:])
        ]
        return made

    def save(self, path: str | Path) -> Path:
        """Write the codebook to one file."""
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        return cls.restored(arrays, facts["settings"])

    def _edges(self, dim: int) -> list[int]:
        if self.dsub is not None:
            return [*range(0, dim, self.dsub), dim]
        assert self.parts is not None
        if self.parts > dim:
            raise BadInput(f"rows of {dim} numbers cannot be cut into {self.parts} parts; take at most {dim}")
        wide, extra = divmod(dim, self.parts)
        return [part * wide + min(part, extra) for part in range(self.parts + 1)]

    def _need(self) -> None:
        if not self.centres:
            raise BadInput(f"{self!r} has no centres yet; call fit(rows) first")

    def _fitting(self, rows: np.ndarray) -> np.ndarray:
        rows = _finite(rows)
        if rows.shape[1] != self.dim:
            raise BadInput(f"{self!r} was fitted on rows of {self.dim} numbers, got {rows.shape[1]}")
        return rows


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Integers [n, parts] below 2^bits into uint8 [n, ⌈parts · bits / 8⌉], lowest bit first."""
    if bits == 8:
        return codes.astype(np.uint8)
    flags = (codes[:, :, None] >> np.arange(bits, dtype=codes.dtype)) & 1
    return np.packbits(flags.reshape(len(codes), codes.shape[1] * bits).astype(np.uint8), axis=1, bitorder="little")


def unpack_codes(packed: np.ndarray, bits: int, parts: int) -> np.ndarray:
    """The reverse of `pack_codes`: uint8 or uint16 [n, parts]."""
    if bits == 8:
        return packed
    flags = np.unpackbits(packed, axis=1, count=parts * bits, bitorder="little").reshape(len(packed), parts, bits)
    dtype = np.uint8 if bits <= 8 else np.uint16
    return (flags * (1 << np.arange(bits)).astype(dtype)).sum(axis=2, dtype=dtype)
