"""A graph that knows its rows' labels while it is built: among rows with a label, there is always a way.

An ordinary graph leaves out an edge where a nearer row lies on the way. Under a filter that row may not be there. So
here an edge from a to b may be left out for c only if c has every label that a and b share: whoever walks among the
rows with one of these labels can take the way by c. Each label has rows of its own where walks for it begin, and a walk
never leaves the rows with the labels it was asked for. Rows are found at the same cost however few have the label;
the labels must be known when the graph is built.

Gollapudi et al. 2023, "Filtered-DiskANN: Graph Algorithms for Approximate Nearest Neighbor Search with Filters" (WWW
2023): FilteredVamana (algorithms 1 to 4). Where a choice was open: the stretch α compares distances, not their squares;
a row may have 30% more links than `degree` before it is pruned to `degree` again, as in DiskANN's own code, which saves
most of the pruning. Distances are those of int8 codes. One thing is added: links run out where rows have many labels,
and then some rows with a label cannot be reached from where its walks begin; one of every such part becomes a further
row at which they begin.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt, MissingExtra
from inlay.indexes.flat import checked_k, checked_rows
from inlay.kernels import dense_graph as kernel
from inlay.kernels.dense import normalise
from inlay.kernels.dense_graph import NONE, Room
from inlay.types import Neighbours

__all__ = ["LabelledGraph"]

KIND = "labelled graph"
SLACK = 1.3
ROWS_AT_ONCE = 1024  # inserted between two chances to interrupt
MOST = 1 << 14  # labels, a bit of every row each
SAMPLED = 100  # rows of a label among which its first is chosen


class Labelled(NamedTuple):
    """Rows, labels and links."""

    codes: np.ndarray  # int8 [n, width]
    facts: np.ndarray  # float32 [n, width / 4], the same bytes; the last is half of the row's square
    labels: np.ndarray  # uint64 [n, words], a bit for each label
    links: np.ndarray  # uint32 [n, 1.3 · degree], NONE after the last


class LabelledGraph:
    """Rows with labels (extra `fast`). Rows are linked anew whenever some are added: add all at once.

    Args:
        dim: width of a row.
        metric: `cosine` or `l2`.
        dtype: how rows are kept, `float32` or `float16`.
        degree: links that a row keeps when they are pruned (R in the paper).
        expansion_add: candidates kept during the walk that finds a row's links (L).
        expansion_search: candidates kept during a search (L).
        alpha: how much longer the way by another row may be for an edge to be left out; 1 leaves out most.
        refine: rows scored in full, for each of the k that are wanted.
        seed: of the order of insertion, and of the choice of rows at which walks begin.
    """

    def __init__(
        self,
        dim: int,
        *,
        metric: Literal["cosine", "l2"] = "cosine",
        dtype: Literal["float32", "float16"] = "float32",
        degree: int = 48,
        expansion_add: int = 96,
        expansion_search: int = 64,
        alpha: float = 1.2,
        refine: int = 3,
        seed: int = 0,
    ) -> None:
        kernel.kernels()
        if metric not in ("cosine", "l2"):
            raise BadInput(f"edges are pruned by distance: metric must be cosine or l2, got {metric!r}")
        if dtype not in ("float32", "float16"):
            raise BadInput(f"dtype must be float32 or float16, got {dtype!r}")
        counts = {
            "dim": dim, "degree": degree, "expansion_add": expansion_add, "expansion_search": expansion_search,
            "refine": refine, "seed": seed,
        }  # fmt: skip
        least = {"degree": 2, "seed": 0}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least.get(name, 1):
                raise BadInput(f"{name} must be a whole number from {least.get(name, 1)} on, got {value!r}")
        if not isinstance(alpha, int | float) or not 1 <= alpha < math.inf:
            raise BadInput(f"alpha must be a number from 1 on, got {alpha!r}")
        self.settings: dict[str, Any] = {name: int(value) for name, value in counts.items()}
        self.settings |= {"metric": metric, "dtype": dtype, "alpha": float(alpha)}
        self.dim, self.metric = int(dim), metric
        self.labels: list[Hashable] = []
        self._bits: dict[Hashable, int] = {}
        self._entries: list[np.ndarray] = []  # of each label, the rows at which walks for it begin; last of no label
        self._rows = np.empty((0, self.dim), dtype)
        self._graph = self._room_for(0, 1)
        self._lock = threading.Lock()

    def _room_for(self, count: int, words: int) -> Labelled:
        codes, links = kernel.aligned(count, kernel.width_of(self.dim)), math.ceil(SLACK * self.settings["degree"])
        empty = np.zeros((count, words), np.uint64)
        return Labelled(codes, codes.view(np.float32), empty, np.full((count, links), NONE, np.uint32))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if name != "dim")
        return f"LabelledGraph({self.dim}, {said}) of {len(self)} rows with {len(self.labels)} labels"

    @property
    def nbytes(self) -> int:
        """Bytes of rows, codes, labels and links."""
        own = [array for name, array in self._graph._asdict().items() if name != "facts"]
        return sum(array.nbytes for array in (self._rows, *self._entries, *own))

    def add(self, vectors: np.ndarray, labels: Sequence[Any], *, progress: bool = False) -> None:
        """Append rows [n, dim] with their labels: for each row one, or a list, tuple or set of any number.

        Ids are positions in order of addition. A row without labels is found by searches without labels only.
        """
        from tqdm import tqdm

        vectors = self._ready(vectors, "row")
        sets = [_set_of(own) for own in labels]
        if len(sets) != len(vectors):
            raise BadInput(f"{len(vectors)} rows need as many labels, got {len(sets)}")
        fresh = [label for label in dict.fromkeys(one for own in sets for one in own) if label not in self._bits]
        if len(self.labels) + len(fresh) > MOST:
            raise BadInput(
                f"{len(self.labels) + len(fresh)} labels are more than {MOST}; filter by `allow` of a DenseGraph"
            )
        if len(self) + len(vectors) >= NONE:
            raise BadInput(f"an index holds {NONE - 1} rows, and {len(self)} + {len(vectors)} are more; use several")
        names = [*self.labels, *fresh]
        bits = {label: bit for bit, label in enumerate(names)}
        old, count = self._graph, len(self)
        rows = np.concatenate([self._rows, vectors.astype(self._rows.dtype)])
        graph = self._room_for(len(rows), max(1, -(-len(names) // 64)))
        graph.labels[:count, : old.labels.shape[1]] = old.labels
        for row, own in enumerate(sets, count):
            for label in own:
                graph.labels[row, bits[label] >> 6] |= np.uint64(1) << np.uint64(bits[label] & 63)
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            kernel.code(rows[part].astype(np.float32), distances=True, out=graph.codes[part])
        random = np.random.default_rng(self.settings["seed"])
        entries = _entries(graph.labels, len(names), random)
        order, room = random.permutation(len(rows)).astype(np.int64), _room(len(rows))
        with self._lock, tqdm(total=len(rows), unit=" rows", desc="linking", disable=not progress, leave=False) as bar:
            for first in range(0, len(rows), ROWS_AT_ONCE):
                part_of = order[first : first + ROWS_AT_ONCE]
                starts = [self._starts(graph.labels[row], entries) for row in part_of]
                offsets = np.concatenate([[0], np.cumsum([len(own) for own in starts])]).astype(np.int64)
                _kernels().insert(
                    graph, part_of, offsets, np.concatenate(starts), self.settings["expansion_add"],
                    self.settings["degree"], np.float32(self.settings["alpha"] ** 2), room,
                )  # fmt: skip
                bar.update(len(part_of))
            entries = [_parts(graph, label, own) for label, own in enumerate(entries[:-1])] + entries[-1:]
            self._rows, self._graph, self._entries, self.labels, self._bits = rows, graph, entries, names, bits

    def search(self, queries: np.ndarray, k: int, *, labels: Any = None, ef: int | None = None) -> Neighbours:
        """About the k nearest rows of each query that have any of some labels.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are found, the rest is id -1 with score -inf.
            labels: one label or several, or None for all rows.
            ef: candidates to keep in place of `expansion_search`; at least k are.
        """
        queries, k = self._ready(queries, "query"), checked_k(k)
        ef = self.settings["expansion_search"] if ef is None else ef
        if not isinstance(ef, int | np.integer) or isinstance(ef, bool) or ef < 1:
            raise BadInput(f"ef must be a positive integer, got {ef!r}")
        wanted, starts = self._wanted(labels)
        expansion = max(1, min(max(int(ef), k), len(self)))
        within = min(expansion, k * self.settings["refine"])
        best, sizes = np.zeros((len(queries), within), np.uint64), np.zeros(len(queries), np.int64)
        if len(starts):
            asked = np.empty((len(queries), self._graph.codes.shape[1]), np.int8)
            kernel.code(queries, distances=False, out=asked)
            steps = asked.view(np.float32)[:, -2].copy()
            _kernels().walk(self._graph, asked, steps, wanted, starts, expansion, _room(len(self)), best, sizes)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = np.full((len(queries), k), -1, dtype=np.int64)
        rows = self._rows.view(np.uint16) if self._rows.dtype == np.float16 else self._rows
        kernel.kernels().refine(queries, rows, self.metric == "l2", best, sizes, scores, found)
        return Neighbours(scores, found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file; labels must be numbers or names."""
        if not all(isinstance(label, str | int | float) for label in self.labels):
            odd = next(label for label in self.labels if not isinstance(label, str | int | float))
            raise BadInput(f"a file holds labels that are numbers or names, not {odd!r}; turn each into one")
        arrays = {name: array for name, array in self._graph._asdict().items() if name != "facts"}
        facts = {"kind": KIND, "settings": self.settings, "names": self.labels}
        entries = np.concatenate([*self._entries, np.empty(0, np.int64)])
        offsets = np.cumsum([0, *map(len, self._entries)], dtype=np.int64)
        sealed.write(Path(path), {**arrays, "rows": self._rows, "entries": entries, "offsets": offsets}, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelledGraph:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(Path(path), KIND)
        try:
            index = cls(**facts["settings"])
            kept, own = arrays["codes"], {name: np.array(arrays[name]) for name in ("labels", "links")}
            codes = kernel.aligned(*kept.shape)
            codes[:] = kept
            index._graph = Labelled(codes, codes.view(np.float32), **own)
            index._rows = np.array(arrays["rows"])
            index._entries = np.split(np.array(arrays["entries"]), arrays["offsets"][1:])[:-1]
            index.labels = list(facts["names"])
            index._bits = {label: bit for bit, label in enumerate(index.labels)}
            if not len(codes) == len(index._rows) == len(own["links"]) == len(own["labels"]):
                raise ValueError(f"{len(codes)} codes, {len(index._rows)} rows")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold a labelled graph ({error}); build and save it again") from None
        return index

    def _ready(self, rows: Any, what: str) -> np.ndarray:
        rows = checked_rows(rows, self.dim, what=what)
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)

    def _wanted(self, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Bits of the labels a search is for, none for all; and the rows where it begins."""
        if labels is None:
            return np.empty(0, np.uint64), np.unique(np.concatenate([*self._entries, np.empty(0, np.int64)]))
        names = _set_of(labels)
        if not names:
            raise BadInput("labels names none; give one or several, or None for all rows")
        wanted = np.zeros(self._graph.labels.shape[1], np.uint64)
        for label in names:
            bit = self._bits.get(label)
            if bit is not None:
                wanted[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
        return wanted, self._starts(wanted, self._entries)

    @staticmethod
    def _starts(bits: np.ndarray, entries: list[np.ndarray]) -> np.ndarray:
        """Rows at which walks for some labels begin."""
        own = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
        return np.unique(np.concatenate([entries[label] for label in own])) if len(own) else entries[-1]


def _having(labels: np.ndarray, label: int) -> np.ndarray:
    """Which rows have a label, bool [n]."""
    bit: np.ndarray = labels[:, label >> 6] >> np.uint64(label & 63) & np.uint64(1)
    return bit.astype(bool)


def _entries(labels: np.ndarray, count: int, random: np.random.Generator) -> list[np.ndarray]:
    """For each label a row that has it, int64 [1]: of some at random the one that begins fewest labels' walks.

    The last is any row, for those without a label.
    """
    load = np.zeros(len(labels), np.int64)
    entries = []
    for label in range(count):
        own = np.flatnonzero(_having(labels, label))
        some = random.choice(own, min(SAMPLED, len(own)), replace=False)
        row = some[np.argmin(load[some])]
        load[row] += 1
        entries.append(np.array([row], dtype=np.int64))
    return [*entries, np.zeros(min(1, len(labels)), np.int64)]


def _parts(graph: Labelled, label: int, entry: np.ndarray) -> np.ndarray:
    """The row at which walks for a label begin, and one of every part of its rows that is not reached from it."""
    missing = _having(graph.labels, label)
    begin, entries = entry, []
    while len(begin):
        entries.append(int(begin[0]))
        edge = begin
        while len(edge):
            missing[edge] = False
            links = graph.links[edge]
            edge = np.unique(links[links != NONE]).astype(np.int64)
            edge = edge[missing[edge]]
        begin = np.flatnonzero(missing)[:1]
    return np.array(entries, dtype=np.int64)


def _set_of(own: Any) -> list[Hashable]:
    """Labels of a row or a search, each once."""
    several = own if isinstance(own, list | tuple | set | frozenset | np.ndarray) else [own]
    try:
        return list(dict.fromkeys(label.item() if isinstance(label, np.generic) else label for label in several))
    except TypeError as error:
        raise BadInput(f"labels are numbers or names, got {own!r:.80}: {error}") from None


def _room(count: int) -> Room:
    return Room(np.zeros(count, np.uint8), np.zeros(1, np.int64), np.empty(count + 1, np.uint64))


def _kernels() -> Any:
    try:
        from inlay.kernels import labelled_graph_numba
    except ImportError:
        raise MissingExtra("graph indexes", "fast") from None
    return labelled_graph_numba
