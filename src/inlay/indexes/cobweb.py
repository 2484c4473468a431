"""Nearness by a tree of concepts that grows row by row and explains what it finds.

Every node of the tree is a concept: a prototype (the mean of the rows below it), how far rows spread about it in each
dimension, and how many they are. A row goes down from the root and joins, founds, merges or splits concepts on its way,
whichever tells most about the rows (`inlay.kernels.prototype_tree` has the equations). Nothing is built ahead and
nothing has to be built again: a row can be added or removed at any time, and the path from the root to a hit, from the
general to the particular, says why it was found.

Two searches. `path` scores every row by the mean, over the concepts of its path, of the query's log-likelihood; it
reads all nodes, of which there are at most twice as many as rows, in two matrix products. `best-first` opens the most
probable concept again and again and takes the rows it meets. On whitened rows it opens about a fifth of the concepts
and finds what plain distance finds, in more time than `path`; on rows that are not, it opens few and misses many.

Whitening is part of the method. Concepts have diagonal Gaussians with a variance v₀ that is absolute, so coordinates
must be independent and of unit size: those of unit rows of 384 numbers have variance 0.0026, far below v₀ = 0.0585, and
to the tree they would all look alike.

Singaravadivelan et al. 2025, "Hierarchical Semantic Retrieval with Cobweb" (arXiv 2510.02539). Three things are added.
Rows can be removed: the concepts above are put together anew of their children, so that no error adds up. The score of
a best-first hit is the least log-probability on its path, which is what orders the rows that such a walk meets; the
leaf's own would not descend. Rows with equal scores come in order of their ids, where the authors draw lots.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.indexes.cobweb_arrays import checked, trimmed, with_room
from inlay.indexes.cobweb_paths import Paths
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.interruption import Interruption
from inlay.kernels import compiled
from inlay.kernels.prototype_tree import NONE, ROOT, USED, Tree, insert, offspring, remove, walk
from inlay.kernels.topk import TopK
from inlay.spaces.whitening import PCAICA, Whitening
from inlay.types import Neighbours, SpaceMap

__all__ = ["Cobweb", "Concept"]

Mode = Literal["path", "best-first"]
WHITENINGS: dict[str, type[Whitening]] = {"pca-ica": PCAICA, "pca": Whitening}
LARGEST = 1e12  # rows beyond it have squares whose sums leave float32
ROWS_AT_ONCE = 1024  # inserted between two chances to interrupt
SCORES_AT_ONCE = 1 << 22
KIND = "cobweb"


@dataclass(frozen=True, slots=True, eq=False)
class Concept:
    """A node of the tree.

    `node` is its number, which other nodes may get when it is gone. `prototype` and `variance` float32 [width] are in
    the whitened space (`index.whiten.inverse_transform` leads back). `rows` are some row numbers below it, the nearest
    to the prototype first.
    """

    node: int
    count: int
    prototype: np.ndarray
    variance: np.ndarray
    rows: np.ndarray


class Cobweb:
    """Rows in a tree of concepts.

    Row numbers are positions in order of addition, and stay when others are removed.

    Args:
        dim: width of a row.
        whiten: `pca-ica` (256 dimensions), `pca`, a `SpaceMap` of your own, or None for rows that are white already.
            It is learnt by `fit`, or else from the first rows added, unless it says that it is `fitted`.
        prior: v₀, the variance of a concept of one row; by default 1/(2πe), with which its entropy is 0.
        acuity: take v₀ as the least variance instead of adding it to each.
        mode: of search, `path` or `best-first`.
        max_nodes: concepts that best-first search opens for a query, at most.
        order: `shuffle` inserts the rows of one addition in random order, on which the tree depends; `given` as they
            come.
        seed: of that order and of ties.
    """

    def __init__(
        self,
        dim: int,
        *,
        whiten: str | SpaceMap | None = "pca-ica",
        prior: float = 1 / (2 * math.pi * math.e),
        acuity: bool = False,
        mode: Mode = "path",
        max_nodes: int = 100_000,
        order: Literal["shuffle", "given"] = "shuffle",
        seed: int = 0,
    ) -> None:
        for name, value, least in (("dim", dim, 1), ("max_nodes", max_nodes, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 1 << 63:
                raise BadInput(f"{name} must be an integer of {least} or more (below 2⁶³), got {value!r}")
        if isinstance(whiten, str) and whiten not in WHITENINGS:
            raise BadInput(f"whiten must be {', '.join(WHITENINGS)}, a SpaceMap or None, got {whiten!r}")
        if not (whiten is None or isinstance(whiten, str | SpaceMap)):
            raise BadInput(f"whiten must have fit and transform (a SpaceMap), got {type(whiten).__name__}")
        number = isinstance(prior, int | float | np.number) and not isinstance(prior, bool)
        if not number or not 1e-12 <= prior <= 1e12:
            raise BadInput(f"prior must be a variance from 1e-12 to 1e12, got {prior!r}")
        if not isinstance(acuity, bool | np.bool_):
            raise BadInput(f"acuity must be True or False, got {acuity!r}")
        if order not in ("shuffle", "given"):
            raise BadInput(f"order must be shuffle or given, got {order!r}")
        self.dim = int(dim)
        self.whiten: Any = WHITENINGS[whiten]() if isinstance(whiten, str) else whiten
        self.prior, self.acuity, self.mode, self.max_nodes = float(prior), bool(acuity), _mode(mode), int(max_nodes)
        self.order, self.seed = order, int(seed)
        self._fitted = whiten is None or bool(getattr(self.whiten, "fitted", False))
        self._leaves = np.empty(0, dtype=np.int32)  # of each row ever added, NONE of those removed
        self._tree: Tree | None = None  # made when the width is known
        self._paths: Paths | None = None
        self._members: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        """Rows ever added, removed ones too: what `allow` must be as long as."""
        return len(self._leaves)

    def __repr__(self) -> str:
        return (
            f"Cobweb({self.dim}, whiten={self.whiten!r}, prior={self.prior:.6g}, acuity={self.acuity}, "
            f"mode={self.mode!r}, max_nodes={self.max_nodes}, order={self.order!r}, seed={self.seed}) "
            f"of {self.alive} rows in {self.concepts} concepts"
        )

    @property
    def alive(self) -> int:
        """Rows that were not removed."""
        return int((self._leaves != NONE).sum())

    @property
    def concepts(self) -> int:
        """Nodes of the tree, leaves too."""
        return 0 if self._tree is None else int((self._tree.counts > 0).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of the tree with the room it has to grow, of what searches keep, and of the whitening."""
        tree = 0 if self._tree is None else sum(array.nbytes for array in self._tree)
        kept = 0 if self._paths is None else self._paths.nbytes
        members = 0 if self._members is None else sum(array.nbytes for array in self._members)
        return tree + kept + members + self._leaves.nbytes + getattr(self.whiten, "nbytes", 0)

    def fit(self, rows: np.ndarray) -> Cobweb:
        """Learn the whitening from rows [n, dim], without adding them; only while the tree is empty."""
        if len(self):
            raise BadInput(f"the whitening is decided: the tree has held {len(self)} rows; fit a new one")
        rows = checked_rows(rows, self.dim)
        if self.whiten is not None:
            self.whiten.fit(rows)
        self._fitted = True
        return self

    def add(self, vectors: np.ndarray) -> None:
        """Put rows [n, dim], or one [dim], into the tree. Each is found from then on.

        An interrupt keeps those that are in by then; the others of the same call count as removed.
        """
        rows = checked_rows(vectors, self.dim)
        if not len(rows):
            return
        if not self._fitted:
            self.fit(rows)
        white = self._whitened(rows, "row")
        if self._tree is None:
            self._tree = Tree.empty(white.shape[1], self.seed)
        order = np.arange(len(white))
        if self.order == "shuffle":
            np.random.default_rng([self.seed, len(self)]).shuffle(order)
        first, new = len(self), np.full(len(white), NONE, dtype=np.int32)
        leaves = np.empty(ROWS_AT_ONCE, dtype=np.int32)
        self._members = None
        self._leaves = np.concatenate([self._leaves, new])
        if self._paths is not None:
            self._paths.shape_known = False
        with Interruption() as interruption:
            for low in range(0, len(order), ROWS_AT_ONCE):
                if interruption.asked:
                    raise KeyboardInterrupt
                some = order[low : low + ROWS_AT_ONCE]
                self._tree = tree = with_room(self._tree, 2 * (self.alive + len(some)))
                insert(tree, white[some], prior=self.prior, acuity=self.acuity, leaves=leaves)
                self._leaves[first + some] = leaves[: len(some)]

    def remove(self, rows: int | np.ndarray) -> None:
        """Take rows out by number; the concepts above them forget them."""
        numbers = np.atleast_1d(np.asarray(rows))
        if not len(numbers):
            return
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise BadInput(f"rows are removed by number, got {rows!r}")
        for number in numbers:
            self._leaf(int(number))
        if len(np.unique(numbers)) < len(numbers):
            raise BadInput(f"each row can be removed once, got {numbers.tolist()}")
        assert self._tree is not None
        self._members = None
        if self._paths is not None:
            self._paths.shape_known = False
        for number in numbers:
            leaf, self._leaves[number] = int(self._leaves[number]), NONE
            remove(self._tree, leaf, prior=self.prior, acuity=self.acuity)

    def search(
        self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None, mode: Mode | None = None
    ) -> Neighbours:
        """The k rows whose concepts explain each query best.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are met, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned, as long as all rows ever added.
            mode: in place of the index's own. Scores of one mode mean nothing in the other: those of `path` are means
                of log-likelihoods, those of `best-first` the least log-probability on the way; both without ln 2π.
        """
        queries, k = checked_rows(queries, self.dim, what="query"), checked_k(k)
        allow, mode = checked_mask(allow, len(self)), self.mode if mode is None else _mode(mode)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        tree = self._tree
        if tree is None or tree.state[ROOT] == NONE or not len(queries):
            return Neighbours(scores, ids)
        white = self._whitened(queries, "query")
        if mode == "path":
            return self._by_paths(tree, white, k, allow)
        starts, members = self._lists(tree)
        allowed = np.ones(len(self), dtype=np.bool_) if allow is None else allow
        walk(
            tree, white, prior=self.prior, acuity=self.acuity, max_nodes=self.max_nodes, starts=starts, members=members,
            allowed=allowed, scores=scores, ids=ids,
        )  # fmt: skip
        return Neighbours(scores, ids)

    def path(self, row: int, *, nearest: int = 5) -> list[Concept]:
        """The concepts that lead to a row, the root first and its leaf last.

        Args:
            row: number of a row.
            nearest: how many rows near its prototype each concept names.
        """
        leaf = self._leaf(row)
        if isinstance(nearest, bool) or not isinstance(nearest, int | np.integer) or nearest < 0:
            raise BadInput(f"nearest must be an integer from 0 on, got {nearest!r}")
        assert self._tree is not None
        tree, nodes = self._tree, [leaf]
        while tree.parents[nodes[-1]] != NONE:
            nodes.append(int(tree.parents[nodes[-1]]))
        return [self._concept(tree, node, int(nearest)) for node in reversed(nodes)]

    def rows_below(self, node: int) -> np.ndarray:
        """Numbers of the rows below a node, ascending."""
        tree = self._tree
        if tree is None or not 0 <= node < tree.state[USED] or not tree.counts[node]:
            raise BadInput(f"there is no node {node}; `path` names those that lead to a row")
        starts, members = self._lists(tree)
        found, ahead = [], [int(node)]
        while ahead:
            at = ahead.pop()
            found.append(members[starts[at] : starts[at + 1]])
            ahead += offspring(tree, at)
        return np.sort(np.concatenate(found))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tree and whitening to one file. A whitening must be one of `inlay.spaces`."""
        kind = next((name for name, made in WHITENINGS.items() if type(self.whiten) is made), None)
        if self.whiten is not None and kind is None:
            raise BadInput(f"a tree is saved with a whitening of inlay.spaces, not {type(self.whiten).__name__}")
        facts: dict[str, Any] = {
            "kind": KIND, "dim": self.dim, "whiten": kind, "prior": self.prior, "acuity": self.acuity,
            "mode": self.mode, "max_nodes": self.max_nodes, "order": self.order, "seed": self.seed,
            "fitted": self._fitted,
        }  # fmt: skip
        arrays = {"leaves": self._leaves}
        if kind is not None:
            facts["whitening"] = self.whiten.settings
            if self._fitted:
                arrays |= {f"whiten {name}": array for name, array in self.whiten.arrays().items()}
        if self._tree is not None:
            arrays |= {f"tree {name}": array for name, array in trimmed(self._tree)._asdict().items()}
        sealed.write(os.fspath(path), arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Cobweb:
        """Read what `save` wrote; rows may be added to it, and grow the tree that they would have grown."""
        arrays, facts = sealed.read(os.fspath(path), KIND)
        try:
            whiten: Any = None
            if facts["whiten"] is not None:
                made = WHITENINGS[facts["whiten"]]
                its = {name[7:]: array for name, array in arrays.items() if name.startswith("whiten ")}
                settings = facts["whitening"]
                whiten = made.restored(settings, its) if facts["fitted"] else made(**settings)
            names = ("prior", "acuity", "mode", "max_nodes", "order", "seed")
            index = cls(facts["dim"], whiten=whiten, **{name: facts[name] for name in names})
            index._fitted, index._leaves = facts["fitted"], np.array(arrays["leaves"])
            its = {name[5:]: np.array(array) for name, array in arrays.items() if name.startswith("tree ")}
            if its:
                index._tree = checked(Tree(**its), index._leaves)
            elif len(index._leaves):
                raise ValueError(f"{len(index._leaves)} rows without a tree")
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold a cobweb tree ({error}); build and save it again") from None
        return index

    def _whitened(self, rows: np.ndarray, what: str) -> np.ndarray:
        white = rows if self.whiten is None else np.asarray(self.whiten.transform(rows), dtype=np.float32)
        if white.ndim != 2 or len(white) != len(rows):
            raise BadInput(f"{self.whiten!r} made {list(white.shape)} of {list(rows.shape)}; it must keep the rows")
        far = np.flatnonzero(~(np.abs(white).max(axis=1, initial=0) <= LARGEST))
        if len(far):
            peak = np.abs(white[far[0]]).max()
            raise BadInput(f"{what} {far[0]} reaches {peak:g} where the tree ends at {LARGEST:g}; scale the rows")
        return np.ascontiguousarray(white)

    def _leaf(self, row: int) -> int:
        if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < len(self):
            raise BadInput(f"there is no row {row!r}: the tree has held {len(self)}, from 0 on")
        if self._leaves[row] == NONE:
            raise BadInput(f"row {row} was removed")
        return int(self._leaves[row])

    def _lists(self, tree: Tree) -> tuple[np.ndarray, np.ndarray]:
        """Where each node's rows begin, and the rows, ascending in a node."""
        if self._members is None:
            rows = np.flatnonzero(self._leaves != NONE)
            leaves = self._leaves[rows]
            starts = np.zeros(len(tree.counts) + 1, dtype=np.int64)
            np.cumsum(np.bincount(leaves, minlength=len(tree.counts)), out=starts[1:])
            self._members = starts, rows[np.argsort(leaves, kind="stable")]
        return self._members

    def _by_paths(self, tree: Tree, white: np.ndarray, k: int, allow: np.ndarray | None) -> Neighbours:
        if self._paths is None:
            self._paths = Paths(white.shape[1])
        self._paths.refresh(tree, self.prior, self.acuity)
        rows = np.flatnonzero((self._leaves != NONE) if allow is None else (self._leaves != NONE) & allow)
        if not len(rows):
            return TopK(len(white), k, fast=compiled(0)).result()
        at_once = max(1, SCORES_AT_ONCE // int(tree.state[USED]))
        found = []
        for low in range(0, len(white), at_once):
            some = white[low : low + at_once]
            best = TopK(len(some), k, fast=compiled(0))
            best.offer(self._paths.scores(tree, some, self._leaves[rows]))
            found.append(best.result())
        scores, ids = (np.concatenate(part) for part in zip(*found))
        return Neighbours(scores, np.where(ids < 0, -1, rows[ids]))

    def _concept(self, tree: Tree, node: int, nearest: int) -> Concept:
        spread = tree.squares[node] / tree.counts[node]
        variance = np.maximum(spread, self.prior) if self.acuity else spread + self.prior
        prototype = tree.means[node].copy()
        near = np.empty(0, dtype=np.int64)
        if nearest:
            rows = self.rows_below(node)
            away = (((tree.means[self._leaves[rows]] - prototype) ** 2) / variance).sum(axis=1)
            near = rows[np.argsort(away, kind="stable")[:nearest]]
        return Concept(node, int(tree.counts[node]), prototype, variance.astype(np.float32), near)


def _mode(mode: Any) -> Mode:
    if mode not in get_args(Mode):
        raise BadInput(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    return mode
