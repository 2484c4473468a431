"""Rows kept as a few bits a dimension and scanned as they are: both sides coded, compared by counting differing bits.

The codec is a `RecurrentBinary` (BEBR, arXiv 2302.08714). A newer one that was learnt `compatible_with` it may encode
the queries while the rows keep their old codes, so that a model is replaced before its rows are made again.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from inlay import sealed
from inlay.codecs.recurrent_binary import RecurrentBinary, level_type
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.kernels.bit_planes import BitPlanes, nearest, put, room, taken
from inlay.types import Neighbours

__all__ = ["Binary"]

KIND = "binary index"


class Binary:
    """Dense rows as codes of `RecurrentBinary`, scanned whole by the cosine of codes.

    Args:
        codec: of the rows.
        query_codec: of the queries, where a newer codec asks; it must be compatible with `codec`.
    """

    metric = "cosine"

    def __init__(self, codec: RecurrentBinary, *, query_codec: RecurrentBinary | None = None) -> None:
        for name, one in (("codec", codec), ("query_codec", query_codec or codec)):
            if not isinstance(one, RecurrentBinary):
                raise BadInput(f"{name} must be a RecurrentBinary, got {type(one).__name__}")
        self.codec, self.query_codec, self.dim = codec, query_codec or codec, codec.dim
        self.query_codec.reads(codec)
        self._count = 0
        self._blocks = room(0, codec.bits, -(-codec.dims // 64))
        self._levels = np.empty(0, dtype=level_type(codec.dims, codec.bits))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        asked = "" if self.query_codec is self.codec else f", query_codec={self.query_codec!r}"
        return f"Binary({self.codec!r}{asked}) of {self._count} rows"

    @property
    def nbytes(self) -> int:
        """Bytes of codes, and of the networks that make them."""
        own = {id(codec): codec.network_nbytes for codec in (self.codec, self.query_codec)}
        return self._count * self.codec.nbytes(self.dim) + sum(own.values())

    @property
    def codes(self) -> BitPlanes:
        """The rows' codes, in order of id."""
        planes = taken(self._blocks, np.arange(self._count))
        return BitPlanes(planes, self._levels[: self._count].copy())

    def add(self, vectors: np.ndarray) -> None:
        """Encode rows [n, dim] and append them; ids are positions in order of addition."""
        self.add_codes(self.codec.encode(checked_rows(vectors, self.dim)))

    def add_codes(self, codes: BitPlanes) -> None:
        """Append what `codec.encode` gave."""
        planes, levels = self.codec._own(codes)
        start, stop = self._count, self._count + len(planes)
        if stop > self._blocks.shape[0] * self._blocks.shape[3]:
            # Growing by half keeps the cost of copying a constant per row.
            blocks = room(max(stop, start * 3 // 2), *self._blocks.shape[1:3])
            blocks[: len(self._blocks)] = self._blocks
            self._blocks = blocks
        put(self._blocks, planes, start)
        if self.codec.bits > 1:
            if stop > len(self._levels):
                grown = np.empty(max(stop, start * 3 // 2), dtype=self._levels.dtype)
                grown[:start] = self._levels[:start]
                self._levels = grown
            self._levels[start:stop] = levels
        self._count = stop

    def search(self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
        """The k rows whose codes have the highest cosine with each query's code; equal scores go to the lower id.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are allowed, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned.
        """
        queries = checked_rows(queries, self.query_codec.dim, what="query")
        return self.search_codes(self.query_codec.encode(queries), k, allow=allow)

    def search_codes(self, queries: BitPlanes, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
        """The same for queries that `query_codec` has encoded."""
        queries, k = self.query_codec._own(queries), checked_k(k)
        allow = checked_mask(allow, self._count)
        levels = self._levels[: self._count]
        return nearest(queries, self._blocks, levels, self._count, self.codec.dims, k, allow=allow)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes and codecs to one file."""
        codes = self.codes
        arrays = {"planes": codes.planes, "levels": codes.levels}
        facts: dict[str, object] = {"kind": KIND}
        codecs = {"codec": self.codec} | ({} if self.query_codec is self.codec else {"query_codec": self.query_codec})
        for name, codec in codecs.items():
            arrays |= {f"{name}.{part}": array for part, array in codec.arrays().items()}
            facts[name] = codec.facts()
        sealed.write(Path(path), arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Binary:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(Path(path), KIND)
        try:
            codecs = {
                name: RecurrentBinary.restored(
                    {
                        part.removeprefix(f"{name}."): array
                        for part, array in arrays.items()
                        if part.startswith(f"{name}.")
                    },
                    facts[name],
                )
                for name in ("codec", "query_codec")
                if name in facts
            }
            index = cls(codecs["codec"], query_codec=codecs.get("query_codec"))
            index.add_codes(BitPlanes(arrays["planes"], arrays["levels"]))
        except (BadInput, Corrupt, KeyError) as error:
            raise Corrupt(f"{path} does not hold a binary index ({error}); build and save it again") from None
        return index
