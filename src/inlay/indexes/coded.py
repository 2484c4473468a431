"""Rows kept as codes of a codec and scored from them: an exact scan that never decodes what it need not.

"Exact" is about the codes: the k best scores of all, as decoded rows would have them up to rounding of float32; the
query stays exact too ("asymmetric"), unless the codec was made to code both sides. How a codec's codes are read follows
from what it says of them (`inlay.codecs.fitted`): numbers of a small type are widened in registers, codes of 1, 2,
4 or 8 bits are looked up for 64 rows at a time, bits of both sides are counted.

So MUVERA keeps its encodings: 5,120 numbers in 640 bytes with 256 centres every 8 dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from inlay import sealed
from inlay.codecs.chain import Chain, codec_facts, codec_of, fixed_nbytes
from inlay.codecs.scalar import Quantised
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.kernels import bit_planes, compiled, fast_scan
from inlay.kernels.code_scan import KINDS, Linear, Tables, linear_scores
from inlay.kernels.topk import TopK
from inlay.types import Neighbours

__all__ = ["Coded"]

KIND = "coded index"
Metric: TypeAlias = Literal["dot", "cosine"]
SCORES_AT_ONCE = 1 << 17
CODES_AT_ONCE = 1 << 14  # rows encoded at a time
QUERIES_AT_ONCE = 256


class Coded:
    """Dense rows as codes, scanned whole.

    Args:
        codec: fitted on rows like those to come: any of `inlay.codecs` that has codes of single rows, or a `Chain`.
        rows: codes that exist already, as the codec's `encode` gives them.
        dim: width of the rows, for a codec that learns nothing (`Float16()`) and does not know it.
        metric: `dot`, of the query with what the codes decode to (behind a map: with both mapped); or `cosine`, for
            which 4 bytes a row more keep what decoded rows have to be multiplied with. A codec that counts bits has
            cosines of bits whatever is asked for.
    """

    def __init__(self, codec: Any, rows: Any = None, *, dim: int | None = None, metric: Metric = "dot") -> None:
        if not all(hasattr(codec, name) for name in ("encode", "decode", "scorer", "arrays", "settings")):
            raise BadInput(
                f"codec must score its codes of single rows, as a ProductQuantiser, got {type(codec).__name__}"
            )
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        known = int(getattr(codec, "dim", 0))
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1):
            raise BadInput(f"dim must be a positive integer, got {dim!r}")
        if not known and (dim is None or hasattr(codec, "dim")):
            raise BadInput(f"{codec!r} does not know how wide rows are; fit it, or give dim where it learns nothing")
        if known and dim not in (None, known):
            raise BadInput(f"{codec!r} is for rows of {known} numbers, not {dim}")
        self.codec, self.dim, self.metric = codec, known or int(dim or 0), metric
        self._bits = bool(getattr(codec, "signs", False))
        self._view = None if self._bits else self._seen(np.zeros(self.dim, dtype=np.float32))
        self._count = 0
        self._store = self._room(0)
        self._factors = np.empty(0, dtype=np.float32) if self._scaled() else None
        if rows is not None:
            self.add_codes(rows)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        asked = "" if self.metric == "dot" else f", metric={self.metric!r}"
        return f"Coded({self.codec!r}, dim={self.dim}{asked}) of {self._count} rows"

    @property
    def rows(self) -> np.ndarray:
        """Codes in order of id, as `encode` gave them (of `Int8`, without the scales)."""
        if self._bits:
            planes = bit_planes.taken(self._store, np.arange(self._count))
            octets = planes.astype("<u8", copy=False).reshape(self._count, -1).view(np.uint8)
            return octets[:, : self.codec.nbytes(self.dim)]
        if self._blocked():
            return fast_scan.taken(self._store, np.arange(self._count))
        return self._store[: self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, of what a cosine needs, and of what the codec keeps once."""
        extra = 4 if self.metric == "cosine" and not self._bits and not self._own_scales() else 0
        return self._count * (self.codec.nbytes(self.dim) + extra) + fixed_nbytes(self.codec)

    def decoded(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids as their codes have them, float32 [n, dim]; for cosines, at the codec's length or at length 1."""
        codes = self.rows[ids]
        if not self._own_scales():
            return np.asarray(self.codec.decode(codes), dtype=np.float32)
        assert self._factors is not None
        return np.asarray(self.codec.decode(Quantised(codes, self._factors[ids])), dtype=np.float32)

    def add(self, vectors: np.ndarray) -> None:
        """Append rows [n, dim]; ids are positions in order of addition."""
        vectors = checked_rows(vectors, self.dim)
        # Encoded before any is kept: a row that a codec refuses leaves the index as it was.
        for part in [self.codec.encode(vectors[i : i + CODES_AT_ONCE]) for i in range(0, len(vectors), CODES_AT_ONCE)]:
            self.add_codes(part)

    def add_codes(self, codes: Any) -> None:
        """Append what the codec's `encode` gave."""
        factors = self._factors_of(codes)
        codes = np.asarray(codes.codes if isinstance(codes, Quantised) else codes)
        dtype, wide = self._shape()
        if codes.dtype != dtype or codes.ndim != 2 or codes.shape[1] != wide:
            raise BadInput(f"expected codes {dtype} [n, {wide}], got {codes.dtype} {list(codes.shape)}")
        start, stop = self._count, self._count + len(codes)
        if stop > self._fits():
            grown = self._room(max(stop, start * 3 // 2))  # by half keeps the cost of copying a constant per row
            grown[: len(self._store)] = self._store
            self._store = grown
        if self._bits:
            words = np.zeros((len(codes), self._store.shape[2] * 8), dtype=np.uint8)
            words[:, :wide] = codes
            bit_planes.put(self._store, words.view("<u8").astype(np.uint64, copy=False)[:, None], start)
        elif self._blocked():
            fast_scan.put(self._store, codes, start)
        else:
            self._store[start:stop] = codes
        if self._factors is not None:
            if stop > len(self._factors):
                larger = np.empty(self._fits(), dtype=np.float32)
                larger[:start] = self._factors[:start]
                self._factors = larger
            self._factors[start:stop] = factors
        self._count = stop

    def search(self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
        """The k rows of highest score with each query; equal scores go to the lower id.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are allowed, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned. The others are not read where codes lie row by row.
        """
        queries, k = self._asked(queries), checked_k(k)
        allow = checked_mask(allow, self._count)
        allow = None if allow is None or allow.all() else allow
        if self._bits:
            return self._counted(queries, k, allow)
        factors = None if self._factors is None else self._factors[: self._count]
        views = [self._seen(query) for query in queries]
        if self._blocked():
            found = fast_scan.nearest(views, self._store, self._count, k, factors=factors, allow=allow)  # type: ignore[arg-type]
        else:
            parts = [
                self._scanned(views[i : i + QUERIES_AT_ONCE], k, factors, allow)
                for i in range(0, len(queries), QUERIES_AT_ONCE)
            ] or [Neighbours(np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64))]
            found = Neighbours(*(np.concatenate(each) for each in zip(*parts)))
        if self.metric == "cosine" and len(queries):
            lengths = np.array([self._length(query) for query in queries], dtype=np.float32)
            found = Neighbours(found.scores / np.where(lengths > 0, lengths, 1)[:, None], found.ids)
        return found

    def _asked(self, queries: np.ndarray) -> np.ndarray:
        """Queries as checked rows: after a scan nothing is in the caches, and all checks together are a tenth of it."""
        single = isinstance(queries, np.ndarray) and queries.dtype == np.float32 and queries.shape == (1, self.dim)
        if single and np.isfinite(np.dot(queries[0], queries[0])):  # then every number is
            return queries
        return checked_rows(queries, self.dim, what="query")

    def _scanned(self, views: list[Any], k: int, factors: np.ndarray | None, allow: np.ndarray | None) -> Neighbours:
        ids = None if allow is None else np.flatnonzero(allow)
        count = self._count if ids is None else len(ids)
        wanted = min(k, count)
        scores = np.full((len(views), k), -np.inf, dtype=np.float32)
        found = np.full((len(views), k), -1, dtype=np.int64)
        if not wanted:
            return Neighbours(scores, found)
        score, step = self._scorer(views)
        best = TopK(len(views), wanted, fast=compiled(len(views) * count * 16))
        for start in range(0, count, step):
            stop = min(start + step, count)
            block = self._store[start:stop] if ids is None else self._store
            some = None if ids is None else ids[start:stop]
            made = score(block, some)
            if factors is not None:
                made = made * (factors[start:stop] if some is None else factors[some])
            best.offer(np.ascontiguousarray(made, dtype=np.float32), start)
        part = best.result()
        scores[:, :wanted] = part.scores
        found[:, :wanted] = part.ids if ids is None else np.where(part.ids < 0, -1, ids[part.ids])
        return Neighbours(scores, found)

    def _scorer(self, views: list[Any]) -> tuple[Callable[..., np.ndarray], int]:
        """What scores a block of codes, or those of it that ids name; and how many rows at a time."""
        rows_at_once = max(256, SCORES_AT_ONCE // len(views))
        if isinstance(views[0], Linear):
            return lambda codes, ids: linear_scores(views, codes, ids), rows_at_once
        step = CODES_AT_ONCE
        return lambda codes, ids: np.stack([view(codes if ids is None else codes[ids]) for view in views]), step

    def _counted(self, queries: np.ndarray, k: int, allow: np.ndarray | None) -> Neighbours:
        """By the bits that differ."""
        bits = int(self._inner().width)
        octets = self.codec.encode(queries)
        words = np.zeros((len(queries), self._store.shape[2] * 8), dtype=np.uint8)
        words[:, : octets.shape[1]] = octets
        planes = words.view("<u8").astype(np.uint64, copy=False)[:, None]
        none = np.empty(0, dtype=np.uint8)
        asked = bit_planes.BitPlanes(planes, none)
        return bit_planes.nearest(asked, self._store, none, self._count, bits, k, allow=allow)

    def _inner(self) -> Any:
        return self.codec.codec if isinstance(self.codec, Chain) else self.codec

    def _mapped(self, rows: np.ndarray) -> np.ndarray:
        return self.codec.mapped(rows) if isinstance(self.codec, Chain) else rows

    def _seen(self, query: np.ndarray) -> Any:
        """What the codec makes of a query: `Linear`, `Tables`, or a function from codes to scores."""
        for name in ("linear", "tables"):
            made = getattr(self.codec, name, None)
            view = None if made is None else made(query)
            if view is not None:
                return view
        return self.codec.scorer(query)

    def _length(self, query: np.ndarray) -> float:
        inner, asked = self._inner(), self._mapped(query[None])
        if getattr(inner, "faithful", False):
            asked = inner.numbers(asked)
        return float(np.linalg.norm(asked[0].astype(np.float64)))

    def _blocked(self) -> bool:
        return isinstance(self._view, Tables)

    def _own_scales(self) -> bool:
        return type(self._inner()).__name__ == "Int8"

    def _scaled(self) -> bool:
        return not self._bits and (self.metric == "cosine" or self._own_scales())

    def _factors_of(self, codes: Any) -> np.ndarray | None:
        """What a row's score is multiplied with: its scale, over its decoded length where cosines are asked for."""
        if self._factors is None:
            return None
        scales = np.asarray(codes.scales, dtype=np.float32) if isinstance(codes, Quantised) else np.float32(1)
        if self.metric == "dot":
            return np.asarray(scales)
        there = np.asarray(self._inner().decode(codes), dtype=np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", there, there))
        return (scales / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def _shape(self) -> tuple[np.dtype[Any], int]:
        """Type and width of a row's codes."""
        if isinstance(self._view, Linear):
            return KINDS[self._view.kind], len(self._view.vector)
        return np.dtype(np.uint8), int(self.codec.nbytes(self.dim))

    def _room(self, count: int) -> np.ndarray:
        dtype, wide = self._shape()
        if self._bits:
            return bit_planes.room(count, 1, -(-wide // 8))
        return fast_scan.room(count, wide) if self._blocked() else np.empty((count, wide), dtype=dtype)

    def _fits(self) -> int:
        """Rows there is room for."""
        each = bit_planes.LANES if self._bits else fast_scan.ROWS if self._blocked() else 1
        return len(self._store) * each

    def arrays(self) -> dict[str, np.ndarray]:
        """Codes, factors and what the codec learnt, by name; with `facts` all there is."""
        found = {"rows": self.rows} | {f"codec.{name}": array for name, array in self.codec.arrays().items()}
        return found if self._factors is None else found | {"factors": self._factors[: self._count]}

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of the rest."""
        return {"codec": codec_facts(self.codec), "dim": self.dim, "metric": self.metric}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Coded:
        """Of what `arrays` and `facts` gave; BadInput where they do not fit each other."""
        try:
            codec = codec_of(facts["codec"], dict(arrays))
            dim = None if getattr(codec, "dim", 0) else facts["dim"]
            index = cls(codec, dim=dim, metric=facts["metric"])
            rows, factors = arrays["rows"], arrays.get("factors")
            if (factors is None) != (index._factors is None) or (factors is not None and len(factors) != len(rows)):
                raise ValueError(f"{len(rows)} rows with {None if factors is None else len(factors)} factors")
            keep, index._factors = index._factors, None
            index.add_codes(rows)
            index._factors = None if keep is None else np.array(factors, dtype=np.float32)
        except (BadInput, Corrupt, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"this is no coded index ({error}); build it again") from None
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes and codec to one file."""
        sealed.write(Path(path), self.arrays(), {"kind": KIND, **self.facts()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Coded:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(Path(path), KIND)
        try:
            return cls.restored(arrays, facts)
        except BadInput as error:
            raise Corrupt(f"{path} does not hold a coded index ({error})") from None
