"""Inverted lists of product codes: a row is a place in a list and a few bytes, and is scored from look-up tables.

What `JointPQ.export` makes, and any `CoarseProduct`: the query is rotated once; its lists are those of the nearest
coarse centres; a table a part holds what each of that part's centres adds to a score, so that a row costs one look-up a
part ("asymmetric": the query stays exact). For `dot` and `cosine` one set of tables serves all lists, since
q·(v + φ) = q·v + q·φ; for `l2` each list has its own. Nothing is decoded.

Source: Jégou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search" (PAMI 2011), IVFADC.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np

from inlay import sealed
from inlay.codecs.coarse_product import CoarseCodes, CoarseProduct
from inlay.errors import BadInput, Corrupt, MissingExtra
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.kernels.dense import normalise
from inlay.kernels.topk import top_k
from inlay.types import Metric, Neighbours

__all__ = ["IVFProduct"]

KIND = "ivf product index"


class IVFProduct:
    """Rows as codes in the lists of their coarse centres.

    Args:
        codec: a `CoarseProduct` that is fitted, or was learnt with a model.
        codes: rows that exist already.
        metric: `dot`; `cosine`, with rows and queries at length 1 before anything else (what is scored is the dot
            product with the decoded row, whose length is not quite 1); or `l2`, the negated square of the distance.
        probes: lists that a search scans; as many as there are, or more, scan everything.
    """

    def __init__(
        self, codec: CoarseProduct, codes: CoarseCodes | None = None, *, metric: Metric = "dot", probes: int = 16
    ) -> None:
        if not isinstance(codec, CoarseProduct):
            raise BadInput(f"codec must be a CoarseProduct, got {type(codec).__name__}")
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < 1:
            raise BadInput(f"probes must be a positive integer, got {probes!r}")
        self.codec, self.dim, self.metric, self.probes = codec, codec.dim, metric, int(probes)
        wide = codec.encode(np.empty((0, self.dim), dtype=np.float32)).codes.shape[1]
        self._codes = np.empty((0, wide), dtype=np.uint8)
        self._ids = np.empty(0, dtype=np.int64)
        self._starts = np.zeros(max(1, codec.lists) + 1, dtype=np.int64)
        if codes is not None:
            self._append(codes)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"IVFProduct({self.codec!r}, metric={self.metric!r}, probes={self.probes}) of {len(self)} rows"

    @property
    def nbytes(self) -> int:
        """Bytes of codes and ids, of where lists begin, and of rotation and centres."""
        return self._codes.nbytes + self._ids.nbytes + self._starts.nbytes + self.codec.codebook_nbytes

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each list, int64 [lists]."""
        return np.diff(self._starts)

    def add(self, vectors: np.ndarray) -> None:
        """Append rows [n, dim]; ids are positions in order of addition. All codes are moved: add many at once."""
        rows = self._ready(vectors, "row")
        if len(rows):
            self._append(self.codec.encode(rows))

    def search(
        self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None, probes: int | None = None
    ) -> Neighbours:
        """About the k nearest rows of each query: the best of the codes in `probes` lists.

        Of equal scores the one in the nearer list comes first, in one list the lower id.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where the lists hold fewer, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned. The others are not read.
            probes: instead of the index's own.
        """
        queries, k = self._ready(queries, "query"), checked_k(k)
        allow = checked_mask(allow, len(self))
        if probes is not None and (isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < 1):
            raise BadInput(f"probes must be a positive integer, got {probes!r}")
        count = min(self.probes if probes is None else int(probes), len(self.sizes))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        if not len(self):
            return Neighbours(scores, ids)
        turned = queries @ self.codec.rotation
        for i, query in enumerate(turned):
            lists, nearness = self._nearest_lists(query, count)
            found, places = self._scan(query, lists, nearness, allow)
            if not len(places):
                continue
            best = top_k(found, k)
            scores[i] = best.scores[0]
            ids[i] = np.where(best.ids[0] < 0, -1, self._ids[places[best.ids[0]]])
        return Neighbours(scores, ids)

    def to_faiss(self) -> Any:
        """The same index as a faiss `IndexPreTransform` of an `IndexIVFPQ` (extra `faiss`): same codes, same scores.

        faiss gives squared distances for `l2`, lower is nearer. For `cosine`, bring queries of length 1.
        """
        try:
            faiss: Any = import_module("faiss")  # its stubs know little of what SWIG adds
        except ImportError:
            raise MissingExtra("faiss indexes", "faiss") from None
        codec = self.codec
        if not codec.lists:
            raise BadInput("faiss' IndexIVFPQ needs coarse centres, and this codec has none; take lists=1 or more")
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        coarse = faiss.IndexFlat(self.dim, metric)
        coarse.add(codec.centroids)
        lists = faiss.IndexIVFPQ(coarse, self.dim, codec.lists, codec.m, codec.bits, metric)
        coarse.this.disown()  # the lists own it
        lists.own_fields = True
        lists.by_residual, lists.is_trained = True, True
        faiss.copy_array_to_vector(np.ascontiguousarray(codec.codebooks).ravel(), lists.pq.centroids)
        if self.metric == "l2":
            lists.precompute_table()
        for number, (low, high) in enumerate(zip(self._starts, self._starts[1:])):
            if high > low:
                ids, codes = self._ids[low:high].copy(), np.ascontiguousarray(self._codes[low:high])
                lists.invlists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        lists.ntotal, lists.nprobe = len(self), min(self.probes, codec.lists)
        turn = faiss.LinearTransform(self.dim, self.dim, False)
        faiss.copy_array_to_vector(np.ascontiguousarray(codec.rotation.T).ravel(), turn.A)
        turn.is_trained = turn.is_orthonormal = True
        whole = faiss.IndexPreTransform(turn, lists)
        turn.this.disown()
        lists.this.disown()
        whole.own_fields, whole.ntotal = True, len(self)
        return whole

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes, lists and centres to one file."""
        arrays: dict[str, np.ndarray] = {"codes": self._codes, "ids": self._ids, "starts": self._starts}
        arrays |= {f"codec.{name}": array for name, array in self.codec.arrays().items()}
        facts = {"kind": KIND, "metric": self.metric, "probes": self.probes, "codec": self.codec.settings()}
        sealed.write(Path(path), arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> IVFProduct:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(Path(path), KIND)
        own = {name.removeprefix("codec."): array for name, array in arrays.items() if name.startswith("codec.")}
        try:
            codec = CoarseProduct.restored(own, facts["codec"])
            index = cls(codec, metric=facts["metric"], probes=facts["probes"])
            codes, ids, starts = arrays["codes"], arrays["ids"], arrays["starts"]
            if starts.shape != index._starts.shape or starts[-1] != len(ids) or len(ids) != len(codes):
                raise ValueError("lists do not fit the codes")
            index._codes, index._ids, index._starts = codes, ids, starts
        except (BadInput, KeyError, IndexError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold an ivf product index ({error}); {sealed.REPAIR}") from None
        return index

    def _append(self, codes: CoarseCodes) -> None:
        lists, packed = np.asarray(codes.lists), np.asarray(codes.codes)
        count = len(self.sizes)
        if packed.dtype != np.uint8 or packed.shape != (len(lists), self._codes.shape[1]) or lists.ndim != 1:
            raise BadInput(
                f"expected codes uint8 [n, {self._codes.shape[1]}] and a list for each, got {packed.dtype} "
                f"{list(packed.shape)} and {list(lists.shape)}"
            )
        if len(lists) and (lists.min() < 0 or lists.max() >= count):
            raise BadInput(f"lists go from 0 to {count - 1}, got {int(lists.min())} to {int(lists.max())}")
        every = np.concatenate([np.repeat(np.arange(count), self.sizes), lists])
        order = np.argsort(every, kind="stable")  # within a list codes stay in order of id
        ids = np.concatenate([self._ids, np.arange(len(self), len(self) + len(lists))])[order]
        kept = np.concatenate([self._codes, packed])[order]
        starts = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(np.bincount(every, minlength=count), out=starts[1:])
        self._codes, self._ids, self._starts = kept, ids, starts

    def _nearest_lists(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the `count` nearest lists, nearest first, of equals the lower; and their centres' scores."""
        centres = self.codec.centroids
        if not len(centres):
            return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32)
        nearness = -((centres - query) ** 2).sum(axis=1) if self.metric == "l2" else centres @ query
        order = np.argsort(-nearness, kind="stable")[:count]
        return order, nearness[order]

    def _scan(
        self, query: np.ndarray, lists: np.ndarray, nearness: np.ndarray, allow: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of all rows of some lists, and where they lie."""
        sizes = self.sizes[lists]
        before = np.cumsum(sizes) - sizes
        places = np.repeat(self._starts[lists] - before, sizes) + np.arange(int(sizes.sum()))
        owner = np.repeat(np.arange(len(lists)), sizes)
        if allow is not None:
            held = allow[self._ids[places]]
            places, owner = places[held], owner[held]
        codes = self.codec.numbers(self._codes[places])
        books = self.codec.codebooks  # [m, ksub, dim / m]
        if self.metric != "l2":
            table = np.einsum("mkd,md->mk", books, query.reshape(len(books), -1))
            scores = nearness[owner].astype(np.float32)
            for part, row in enumerate(table):
                scores += row[codes[:, part]]
            return scores, places
        centres = self.codec.centroids[lists] if self.codec.lists else np.zeros((1, self.dim), dtype=np.float32)
        rest = (query - centres).reshape(len(lists), len(books), -1)  # [lists, m, dim / m]
        scores = np.zeros(len(places), dtype=np.float32)
        for part, book in enumerate(books):
            table = -((rest[:, part, None] - book) ** 2).sum(axis=2)  # [lists, ksub]
            scores += table[owner, codes[:, part]]
        return scores, places

    def _ready(self, rows: Any, what: str) -> np.ndarray:
        rows = checked_rows(rows, self.dim, what=what)
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)
