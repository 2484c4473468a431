"""Scores of rows by the paths that lead to them: the mean, over a path's nodes, of how well each explains the query.

ℓ of a node is −½ Σ_j (ln v_j + (x_j − μ_j)²/v_j). For all nodes at once that is two matrix products, because the square
comes apart; they are taken about a point amid the rows, where less is lost to rounding. Sums run down the tree,
level by level: the same as a sparse matrix of paths, without one.

What follows from a node's statistics is kept here and made again only where they changed, so that a row that was just
added is found at once.
"""

from __future__ import annotations

import numpy as np

from inlay.kernels.prototype_tree import NONE, ROOT, USED, Tree

__all__ = ["Paths"]


class Paths:
    """What path scores of one tree need, as of the last `refresh`."""

    def __init__(self, dim: int) -> None:
        self.origin = np.zeros(dim, dtype=np.float32)
        self.inverse = np.empty((0, dim), dtype=np.float32)  # 1/v
        self.scaled = np.empty((0, dim), dtype=np.float32)  # (μ − origin)/v
        self.constant = np.empty(0)  # Σ ln v + (μ − origin)²/v
        self.levels: list[np.ndarray] = []  # nodes of each depth below the root
        self.lengths = np.empty(0, dtype=np.int32)  # nodes from the root to each node, both counted
        self.shape_known = False

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        arrays: list[np.ndarray] = [self.origin, self.inverse, self.scaled, self.constant, self.lengths, *self.levels]
        return sum(array.nbytes for array in arrays)

    def refresh(self, tree: Tree, prior: float, acuity: bool) -> None:
        """Take up what changed in the tree, and clear its marks."""
        used = int(tree.state[USED])
        if len(self.inverse) != len(tree.means):
            self.origin = tree.means[tree.state[ROOT]].copy()
            shape = tree.means.shape
            self.inverse, self.scaled = np.ones(shape, np.float32), np.zeros(shape, np.float32)
            self.constant = np.zeros(shape[0])
            tree.stale[:used] = True
        changed = np.flatnonzero(tree.stale[:used] & (tree.counts[:used] > 0))
        for low in range(0, len(changed), 4096):
            nodes = changed[low : low + 4096]
            spread = tree.squares[nodes] / tree.counts[nodes, None].astype(np.float32)
            inverse = 1 / (np.maximum(spread, np.float32(prior)) if acuity else spread + np.float32(prior))
            means = tree.means[nodes] - self.origin
            self.inverse[nodes], self.scaled[nodes] = inverse, means * inverse
            self.constant[nodes] = tree.logs[nodes] + (means * means * inverse).sum(axis=1, dtype=np.float64)
        tree.stale[:used] = False
        if not self.shape_known:
            self._measure(tree, used)

    def _measure(self, tree: Tree, used: int) -> None:
        self.lengths = np.zeros(used, dtype=np.int32)
        parents = tree.parents[:used]
        above = np.flatnonzero(tree.counts[:used] > 0)
        at = above
        while len(above):
            self.lengths[above] += 1
            at = parents[at]
            above, at = above[at != NONE], at[at != NONE]
        order = np.argsort(self.lengths, kind="stable")
        cuts = np.searchsorted(self.lengths[order], np.arange(2, self.lengths.max(initial=0) + 2))
        self.levels = [order[low:high] for low, high in zip(cuts[:-1], cuts[1:])]
        self.shape_known = True

    def scores(self, tree: Tree, queries: np.ndarray, leaves: np.ndarray) -> np.ndarray:
        """Float32 [q, rows] of queries [q, dim] and the leaves of some rows."""
        used = int(tree.state[USED])
        away = queries - self.origin
        sums = self.inverse[:used] @ (away * away).T  # [nodes, q]
        sums -= 2 * (self.scaled[:used] @ away.T)
        sums += self.constant[:used, None].astype(np.float32)
        for nodes in self.levels:
            sums[nodes] += sums[tree.parents[nodes]]
        means = sums[leaves]
        means *= (np.float32(-0.5) / self.lengths[leaves])[:, None]
        return np.ascontiguousarray(means.T)
