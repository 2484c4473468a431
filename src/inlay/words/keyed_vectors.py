"""Vectors by key, from one file that is opened in milliseconds and answers for every key, misspelt ones too.

    kv = KeyedVectors.open("wiki.inlay")
    kv["cat"]                         a row, float32 [dim], of length 1
    kv[["I", "read", "hiiiii"]]       rows [3, dim]
    kv[[["a", "b"], ["c"]]]           a padded block [2, 2, dim]
    kv[3], kv[10:20]                  (key, row) by position
    kv.most_similar(["king", "woman"], ["man"], k=10)

Nothing is read before it is asked for. A search over all rows is exact (`exact_search` says how).

Source: "Magnitude: A Fast, Efficient Universal Vector Embedding Utility Package" (arXiv 1810.11190).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.flat import checked_k
from inlay.kernels.dense import normalise
from inlay.kernels.topk import top_k
from inlay.words import formats
from inlay.words.batches import Store
from inlay.words.exact_search import ExactSearch
from inlay.words.key_index import KeyIndex
from inlay.words.neighbour_graph import NeighbourGraph
from inlay.words.out_of_vocabulary import Rules, similar_rows, unknown_vector
from inlay.words.store_file import StoreFile
from inlay.words.store_writer import Dtype, StoreWriter, batches
from inlay.words.subword import Subword

__all__ = ["KeyedVectors"]

BULK = 32  # keys from which a query goes past the cache of single rows
AT_ONCE = 4096  # rows read together by iteration
SMALL = 1e-6  # keeps 3CosMul finite


class KeyedVectors(Store):
    """A file of keyed vectors. `KeyedVectors.open(path)` is the usual way in.

    Args:
        file: an open file.
        normalised: whether queries give unit vectors (or raw ones, unit · norm).
        case_insensitive: `Cat` finds `cat`; of several spellings the exact one is preferred, then the first.
        cache: rows of single keys kept after they were read: the last so many; None for all; `"all"` reads the whole
            store now.
        placeholders: zeros to append to every vector, for features of one's own.
    """

    def __init__(
        self,
        file: StoreFile,
        *,
        normalised: bool = True,
        case_insensitive: bool = False,
        cache: int | Literal["all"] | None = 4096,
        placeholders: int = 0,
    ) -> None:
        if cache is not None and cache != "all" and (not isinstance(cache, int) or cache < 0):
            raise BadInput(
                f"cache is a number of rows, None for all that are read, or 'all' to read all; got {cache!r}"
            )
        if not isinstance(placeholders, int) or placeholders < 0:
            raise BadInput(f"placeholders is a number of zeros, got {placeholders!r}")
        self.file, self.normalised, self.case_insensitive, self.placeholders = (
            file, normalised, case_insensitive, placeholders,
        )  # fmt: skip
        self.dim = file.dim + placeholders
        self.rules = Rules.from_dict(file.about["rules"])
        self._index = KeyIndex(file, "key")
        self._folded = KeyIndex(file, "folded")
        self.subword = Subword(file) if "gram_numbers" in file else None
        self._one = lru_cache(maxsize=cache if isinstance(cache, int) else None)(self._read_one)
        self._places: dict[str, int] | None = None
        self._search = ExactSearch(file)
        self._graph: NeighbourGraph | None = None
        if cache == "all":
            self._read_all()

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: Any) -> KeyedVectors:
        """Open a file; options as of the class.

        Raises:
            BadInput: there is no such file.
            Corrupt: it is damaged, cut short or something else. Damage further in is found when it is read.
        """
        try:
            file = StoreFile(path)
        except (FileNotFoundError, IsADirectoryError):
            raise BadInput(f"there is no file of keyed vectors at {path}; make one with KeyedVectors.convert") from None
        try:
            return cls(file, **options)
        except BaseException:
            file.close()
            raise

    @classmethod
    def write(
        cls, path: str | os.PathLike[str], keys: Iterable[str], vectors: np.ndarray, **options: Any
    ) -> KeyedVectors:
        """Keys and their vectors [n, dim] into a new file; options as of `StoreWriter`."""
        with StoreWriter(path, **options) as writer:
            for some, rows in batches(keys, np.asarray(vectors)):
                writer.add(some, rows)
        return cls.open(path)

    @classmethod
    def convert(
        cls,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        format: formats.Format | None = None,
        dtype: Dtype = "float32",
        sketch: bool | None = None,
        subword: tuple[int, int] | None = (3, 6),
        rules: Rules | None = None,
        metadata: Mapping[str, Any] | None = None,
        graph: bool = False,
        encoding_errors: str = "strict",
        progress: bool = False,
    ) -> KeyedVectors:
        """A word2vec, GloVe or fastText file into a file of keyed vectors, row by row.

        Args:
            source: what to read; `.gz` is unpacked on the way.
            target: the file to write.
            format: of the source (default: seen from its first bytes).
            dtype: as in `StoreWriter`, and so are `sketch`, `subword`, `rules` and `metadata`.
            sketch: see `dtype`.
            subword: see `dtype`.
            rules: see `dtype`.
            metadata: see `dtype`.
            graph: also build a graph for approximate search (see `build_graph`).
            encoding_errors: what to do with keys that are not UTF-8, as in `bytes.decode`.
            progress: show a bar.
        """
        with StoreWriter(target, dtype=dtype, sketch=sketch, subword=subword, rules=rules, metadata=metadata) as writer:
            for keys, rows in formats.read(source, format, encoding_errors=encoding_errors, progress=progress):
                writer.add(keys, rows)
        made = cls.open(target)
        if graph:
            made.build_graph()
        return made

    def export(self, path: str | os.PathLike[str], format: formats.Format) -> None:
        """Write all keys and raw vectors in another format."""
        ranges = [(start, min(start + AT_ONCE, len(self))) for start in range(0, len(self), AT_ONCE)]
        some = ((self.file.key_span(low, high), self._raw(np.arange(low, high))) for low, high in ranges)
        formats.write(path, some, format, count=len(self), dim=self.file.dim)

    def __repr__(self) -> str:
        name = f"KeyedVectors.open({str(self.file.path)!r}"
        if not self.normalised:
            name += ", normalised=False"
        if self.case_insensitive:
            name += ", case_insensitive=True"
        if self.placeholders:
            name += f", placeholders={self.placeholders}"
        return f"{name}) of {len(self):,} × {self.file.dim} {self.file.dtype}"

    def __len__(self) -> int:
        return len(self.file)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self._rows_of(key))

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Keys with their vectors, in file order."""
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def keys(self) -> Iterator[str]:
        """Keys in file order."""
        for start in range(0, len(self), AT_ONCE):
            yield from self.file.key_span(start, min(start + AT_ONCE, len(self)))

    def __getitem__(self, item: Any) -> Any:
        """Vectors by key or lists of keys (as `query`), or (key, vector) by position, or a list of those by slice."""
        if type(item) is str and self.normalised and not self.placeholders:
            return self._one(item, str)[0].copy()  # the same as below, in a third of the time
        if isinstance(item, slice):
            at = np.arange(*item.indices(len(self)))
            return list(zip(self.file.keys(at), self._vectors(at, self.normalised)))
        if isinstance(item, int | np.integer) and not isinstance(item, bool):
            if not -len(self) <= item < len(self):
                raise IndexError(f"there is no row {item}: the store has {len(self)}")
            at = np.array([int(item) % len(self)])
            return self.file.keys(at)[0], self._vectors(at, self.normalised)[0]
        return self.query(item)

    def row_of(self, key: str) -> int:
        """Position of a key, -1 where it is unknown; of several rows the first (an exact spelling before others)."""
        return next(iter(self._rows_of(key)), -1)

    def _rows_of(self, key: str) -> list[int]:
        if self._places is not None and not self.case_insensitive:
            row = self._places.get(key, -1)
            return [] if row < 0 else [row]
        return self.rows_in_any_case(key) if self.case_insensitive else self._index.rows(key)

    def rows_in_any_case(self, key: str) -> list[int]:
        """Rows of a key and of its other spellings in upper and lower case; those of the exact spelling first."""
        rows = self._folded.rows(key)
        return list(dict.fromkeys(self._index.rows(key) + rows)) if len(rows) > 1 else rows

    def rows(self, keys: Sequence[Any], *, normalised: bool | None = None) -> np.ndarray:
        """The vectors of keys, float32 [n, dim]. Unknown keys get vectors by the file's rules."""
        normalised = self.normalised if normalised is None else normalised
        if len(keys) < BULK:
            out = np.zeros((len(keys), self.dim), dtype=np.float32)
            for line, key in zip(out, keys):
                unit, norm = self._one(*_typed(key))
                line[: self.file.dim] = unit if normalised else unit * norm
            return out
        strings = [i for i, key in enumerate(keys) if isinstance(key, str)]
        places = np.full(len(keys), -1, dtype=np.int64)
        places[strings] = self._many_rows_of([keys[i] for i in strings])
        known = np.flatnonzero(places >= 0)
        if len(known) == len(keys):
            return self._vectors(places, normalised)
        out = np.zeros((len(keys), self.dim), dtype=np.float32)
        out[known] = self._vectors(places[known], normalised)
        for i in np.flatnonzero(places < 0).tolist():
            unit, norm = self._one(*_typed(keys[i]))
            out[i, : self.file.dim] = unit if normalised else unit * norm
        return out

    def _many_rows_of(self, keys: list[str]) -> np.ndarray:
        if self.case_insensitive:
            return np.array([self.row_of(key) for key in keys], dtype=np.int64)
        if self._places is not None:
            return np.array([self._places.get(key, -1) for key in keys], dtype=np.int64)
        return self._index.first_rows(keys)

    def _read_one(self, key: Any, kind: type) -> tuple[np.ndarray, float]:
        """A key's unit vector, and what makes it raw (1 for unknown keys). Callers must not change the array."""
        row = self.row_of(key) if isinstance(key, str) else -1
        if row >= 0:
            return self.file.unit_row(row), float(self.file.read("norms", row, row + 1)[0])
        made = unknown_vector(key, self.file.dim, self.rules, self.rows_in_any_case, self.file, self.subword)
        return made, 1.0

    def _read_all(self) -> None:
        for name in self.file.sizes():
            if not name.startswith(("gram_", "sums")):
                self.file.whole(name)
        self._places = {}
        for row, key in enumerate(self.keys()):
            self._places.setdefault(key, row)

    def _vectors(self, at: np.ndarray, normalised: bool) -> np.ndarray:
        rows = self.file.unit_rows(at) if normalised else self._raw(at)
        return np.pad(rows, ((0, 0), (0, self.placeholders))) if self.placeholders else rows

    def _raw(self, at: np.ndarray) -> np.ndarray:
        rows = self.file.unit_rows(at)
        rows *= self.file.norms(at)[:, None]
        return rows

    def similar_keys(self, key: str) -> list[tuple[str, float]]:
        """The keys that an unknown key's vector is made of, and their shares of it; empty where there are none."""
        rows, weights = similar_rows(key, self.rules, self.rows_in_any_case, self.file, self.subword)
        total = sum(weights)
        return [(other, weight / total) for other, weight in zip(self.file.keys(rows), weights)]

    def most_similar(
        self,
        positive: Any = (),
        negative: Any = (),
        k: int = 10,
        *,
        method: Literal["add", "mul"] = "add",
        effort: float | None = None,
    ) -> list[tuple[str, float]]:
        """The k keys nearest to all of `positive` and farthest from all of `negative`, with their scores, best first.

        Args:
            positive: keys, or vectors [dim], or a list of either.
            negative: the same.
            k: how many.
            method: `add`: cosine with the mean of the unit positives and negated negatives. `mul`: 3CosMul, the product
                of the positives' (1 + cos) / 2 over that of the negatives'.
            effort: None for the exact answer. From 0 to 1: by the graph (see `build_graph`), more effort finds more.

        Keys that were asked by do not come back; of a key with several rows the best one does. Equal scores are in
        file order.
        """
        k = checked_k(k)
        plus, minus, asked = self._asked(positive, negative)
        most = self.file.about["max_folded_duplicates" if self.case_insensitive else "max_duplicates"]
        wanted = min(len(self), most * (k + len(asked)))
        if method == "mul":
            if effort is not None:
                raise BadInput("method 'mul' scores every row; effort goes with method 'add'")
            scores = self._multiplied(plus, minus)
            best = top_k(scores, wanted)
            ids, values = best.ids[0], best.scores[0].astype(np.float64)
        elif method == "add":
            query = normalise(np.concatenate([plus, -minus]).mean(axis=0, keepdims=True))
            ids, values = (
                self._search.nearest(query, wanted) if effort is None else self._by_graph(query, wanted, effort)
            )
        else:
            raise BadInput(f"method is 'add' or 'mul', got {method!r}")
        return self._told(ids, values, asked, k)

    def _asked(self, positive: Any, negative: Any) -> tuple[np.ndarray, np.ndarray, set[str]]:
        """Unit vectors of both sides, and the keys among them."""
        sides, asked = [], set()
        for given in (positive, negative):
            if isinstance(given, str | int | float) or (isinstance(given, np.ndarray) and given.ndim == 1):
                given = [given]
            rows = []
            for item in given:
                if isinstance(item, np.ndarray):
                    if item.shape != (self.dim,):
                        raise BadInput(
                            f"vectors have {self.dim} numbers here, got an array of shape {list(item.shape)}"
                        )
                    if not np.isfinite(item).all():
                        raise BadInput("a vector to search by holds NaN or infinity")
                    rows.append(normalise(item[None, : self.file.dim])[0])
                else:
                    rows.append(self._one(*_typed(item))[0])
                    if isinstance(item, str):
                        asked.add(self._fold(item))
            sides.append(np.array(rows, dtype=np.float32).reshape(len(rows), self.file.dim))
        if not len(sides[0]) + len(sides[1]):
            raise BadInput("most_similar needs at least one key or vector")
        return sides[0], sides[1], asked

    def _fold(self, key: str) -> str:
        return key.lower() if self.case_insensitive else key

    def _told(self, ids: np.ndarray, values: np.ndarray, asked: set[str], k: int) -> list[tuple[str, float]]:
        """Rows to keys: without those that were asked by, and each once."""
        seen, told = set(asked), []
        for key, value in zip(self.file.keys(ids[ids >= 0]), values.tolist()):
            if self._fold(key) not in seen:
                seen.add(self._fold(key))
                told.append((key, value))
        return told[:k]

    def _multiplied(self, plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
        cosines = (1 + self._search.cosines(np.concatenate([plus, minus]))) / 2
        return cosines[: len(plus)].prod(axis=0) / (cosines[len(plus) :].prod(axis=0) + np.float32(SMALL))

    def closer_than(self, key: Any, other: Any) -> list[str]:
        """Keys nearer to `key` than `other` is, nearest first."""
        query = self._one(*_typed(key))[0][None]
        scores = self._search.cosines(query)[0]
        row = self.row_of(other) if isinstance(other, str) else -1
        bound = scores[row] if row >= 0 else np.float32(self._one(*_typed(other))[0] @ query[0])
        rows = np.flatnonzero(scores > bound)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        asked = {self._fold(item) for item in (key, other) if isinstance(item, str)}
        return [name for name, _ in self._told(rows, scores[rows], asked, len(rows))]

    def build_graph(self, **options: Any) -> Path:
        """Make the graph that approximate search goes by, beside the file (extra `hnsw`); options as of `HNSW`."""
        self._graph = NeighbourGraph.build(self.file, **options)
        return self._graph.path

    def _by_graph(self, query: np.ndarray, wanted: int, effort: float) -> tuple[np.ndarray, np.ndarray]:
        if self._graph is None:
            self._graph = NeighbourGraph.load(self.file)
        ids, scores = self._search.scored(query, self._graph.near(query, wanted, effort))
        return ids[:wanted], scores[:wanted]

    def close(self) -> None:
        """Let go of the file."""
        self._one.cache_clear()
        self.file.close()

    def __enter__(self) -> KeyedVectors:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _typed(key: Any) -> tuple[Any, type]:
    """A key with its type: to a cache, 1 and 1.0 and True would be one."""
    try:
        hash(key)
    except TypeError:
        raise BadInput(f"a key is a string or a number, got {key!r}") from None
    return key, type(key)
