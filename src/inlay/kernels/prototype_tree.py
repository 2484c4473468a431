"""A tree of prototypes that grows row by row: what `Cobweb` runs on.

A node is a diagonal Gaussian over the rows below it: their number n, mean μ, and S = Σ(x − μ)² in each dimension; its
variance is v = S/n + v₀ (or, with `acuity`, max(S/n, v₀)). What a child c tells beyond its parent p is

    s(c|p) = ½ Σ_j (ln v_p,j − ln v_c,j),

and the utility of a partition is the mean over its |C| children of n_c/n_p · s(c|p). A row goes down from the root; at
each node the partition after each of four moves is weighed, and the best is made: into the best child, into a new
child, into the two best merged, or the best child's children take its place and the node is weighed again.

The plain form is written as the equations are. The compiled one keeps Σ ln v of every node, so that a move costs the
logarithms of what it changes. Sums of logarithms are float64, statistics float32. Utilities within 1e-9 are a tie,
which both forms decide by the same random numbers: apart from rounding near that edge they grow the same tree.

The authors' code weighs with the Kullback–Leibler divergence of the two Gaussians in place of s. It decides alike: its
additional term ½ Σ_j ((v_c + (μ_c − μ_p)²)/v_p − 1), weighted by n_c/n_p, sums to nothing over the parts of a whole.

Singaravadivelan et al. 2025, "Hierarchical Semantic Retrieval with Cobweb" (arXiv 2510.02539); Fisher 1987, "Knowledge
Acquisition Via Incremental Conceptual Clustering".
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np

from inlay.kernels import compiled

__all__ = ["NONE", "Tree", "insert", "remove", "walk"]

NONE = -1
BEST, NEW, MERGE, SPLIT = range(4)
TIE = 1e-9  # utilities that differ by less, of 1 or of themselves, are equal
SAME = 1e-5  # rows that differ by less in every dimension are one
SPREAD = 1e-8  # S/n below which a leaf holds one row, perhaps many times
ROOT, USED, FREE = range(3)  # places in `state`


class Tree(NamedTuple):
    """Nodes by number; there may be room for more than there are. A node that is free has count 0."""

    parents: np.ndarray  # int32 [nodes], NONE of the root
    children: np.ndarray  # int32 [nodes], a child, NONE of a leaf
    siblings: np.ndarray  # int32 [nodes], the next child of the same parent, NONE after the last
    counts: np.ndarray  # int32 [nodes], rows below
    means: np.ndarray  # float32 [nodes, dim]
    squares: np.ndarray  # float32 [nodes, dim], S
    logs: np.ndarray  # float64 [nodes], Σ ln v
    stale: np.ndarray  # bool [nodes], set where statistics change; whoever keeps what follows from them clears it
    state: np.ndarray  # int64 [3], the root or NONE, nodes ever used, the first free node or NONE
    random: np.ndarray  # uint64 [1], decides ties

    @classmethod
    def empty(cls, dim: int, seed: int) -> Tree:
        """No nodes and no room."""
        state = np.array([NONE, 0, NONE], dtype=np.int64)
        return cls(
            np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32),
            np.empty((0, dim), np.float32), np.empty((0, dim), np.float32), np.empty(0), np.empty(0, np.bool_), state,
            np.array([seed], dtype=np.uint64),
        )  # fmt: skip


def insert(tree: Tree, rows: np.ndarray, *, prior: float, acuity: bool, leaves: np.ndarray) -> None:
    """Put rows into the tree, one after another.

    Args:
        tree: with room for two nodes a row, of those that are in it and of those that come: a tree that was flat may
            grow deep by a few rows.
        rows: float32 [n, dim].
        prior: v₀.
        acuity: whether v₀ is the least variance rather than added to each.
        leaves: int32 [n], filled with the leaf of each row.
    """
    if compiled(rows.size * 200):
        from inlay.kernels.prototype_tree_numba import insert_compiled

        insert_compiled(tree, rows, prior, acuity, leaves)
        return
    for i, row in enumerate(rows):
        leaves[i] = _insert_plain(tree, row.astype(np.float64), prior, acuity)


def walk(
    tree: Tree,
    queries: np.ndarray,
    *,
    prior: float,
    acuity: bool,
    max_nodes: int,
    starts: np.ndarray,
    members: np.ndarray,
    allowed: np.ndarray,
    scores: np.ndarray,
    ids: np.ndarray,
) -> int:
    """Best-first search: the node with the highest ln N(x; μ, v) + ln(n/N) is opened next, the constant left out.

    A row's score is the least of these numbers on its path. They order rows as the walk meets them: the walk meets a
    leaf when no node is left to open that is higher than the lowest on the way to it.

    Args:
        tree: to walk.
        queries: float32 [q, dim].
        prior: as in `insert`.
        acuity: as in `insert`.
        max_nodes: nodes that are opened for a query, at most.
        starts: int64 [nodes + 1], where a node's rows begin in `members`; only leaves have any.
        members: int64, row numbers.
        allowed: bool [rows], those that may be found.
        scores: float32 [q, k], filled in descending order and with −inf where there are no more.
        ids: int64 [q, k], filled with row numbers and −1.

    Returns:
        How many nodes were opened.
    """
    scores[:], ids[:] = -np.inf, NONE
    if tree.state[ROOT] == NONE:
        return 0
    if compiled(queries.size * 2000):
        from inlay.kernels.prototype_tree_numba import walk_compiled

        return walk_compiled(tree, queries, prior, acuity, max_nodes, starts, members, allowed, scores, ids)
    opened = 0
    for i, query in enumerate(queries):
        opened += _walk_plain(
            tree, query.astype(np.float64), prior, acuity, max_nodes, starts, members, allowed, scores[i], ids[i]
        )
    return opened


def remove(tree: Tree, leaf: int, *, prior: float, acuity: bool) -> None:
    """Take one row from a leaf and from all above it; what is above is put together anew of its children."""
    parent = int(tree.parents[leaf])
    if tree.counts[leaf] > 1:
        held = Moments.of(tree, leaf)
        less = Moments(held.n - 1, held.mean, held.squares * ((held.n - 1) / held.n))
        _keep(tree, leaf, less, prior, acuity)
    elif parent == NONE:
        _release(tree, leaf)
        tree.state[ROOT] = NONE
        return
    else:
        _unhang(tree, leaf)
        _release(tree, leaf)
        others = offspring(tree, parent)
        if len(others) == 1:  # a concept of one concept is that concept
            above = int(tree.parents[parent])
            if above == NONE:
                tree.state[ROOT], tree.parents[others[0]], tree.siblings[others[0]] = others[0], NONE, NONE
            else:
                _unhang(tree, parent)
                _hang(tree, above, others[0])
            _release(tree, parent)
            parent = above
    while parent != NONE:
        first, *rest = offspring(tree, parent)
        whole = Moments.of(tree, first)
        for other in rest:
            whole = whole.joined(Moments.of(tree, other))
        _keep(tree, parent, whole, prior, acuity)
        parent = int(tree.parents[parent])


class Moments(NamedTuple):
    """Statistics of some rows, in float64."""

    n: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, tree: Tree, node: int) -> Moments:
        """Of a node."""
        return cls(int(tree.counts[node]), tree.means[node].astype(np.float64), tree.squares[node].astype(np.float64))

    def plus(self, row: np.ndarray) -> Moments:
        """With one row more (Welford)."""
        mean = self.mean + (row - self.mean) / (self.n + 1)
        return Moments(self.n + 1, mean, self.squares + (row - self.mean) * (row - mean))

    def joined(self, other: Moments) -> Moments:
        """With the rows of another (Chan)."""
        count, apart = self.n + other.n, other.mean - self.mean
        squares = self.squares + other.squares + apart * apart * (self.n * other.n / count)
        return Moments(count, (self.n * self.mean + other.n * other.mean) / count, squares)

    def log_variance(self, prior: float, acuity: bool) -> float:
        """Σ ln v."""
        spread = self.squares / self.n
        return float(np.log(np.maximum(spread, prior) if acuity else spread + prior).sum())


def offspring(tree: Tree, node: int) -> list[int]:
    """Children of a node."""
    found, child = [], int(tree.children[node])
    while child != NONE:
        found.append(child)
        child = int(tree.siblings[child])
    return found


def _keep(tree: Tree, node: int, moments: Moments, prior: float, acuity: bool) -> None:
    """Make these a node's statistics."""
    tree.counts[node], tree.means[node], tree.squares[node] = moments
    tree.logs[node] = Moments.of(tree, node).log_variance(prior, acuity)
    tree.stale[node] = True


def _insert_plain(tree: Tree, row: np.ndarray, prior: float, acuity: bool) -> int:
    node = int(tree.state[ROOT])
    if node == NONE:
        tree.state[ROOT] = leaf = _leaf(tree, row, NONE, prior, acuity)
        return leaf
    while True:
        if tree.children[node] == NONE:
            if (tree.squares[node] / tree.counts[node] < SPREAD).all() and (abs(row - tree.means[node]) < SAME).all():
                _keep(tree, node, Moments.of(tree, node).plus(row), prior, acuity)
                return node
            return _fringe(tree, node, row, prior, acuity)
        move, best, second = _chosen(tree, node, row, prior, acuity)
        if move == SPLIT:  # the row is not in the node yet: it is weighed again
            _unhang(tree, best)
            for child in offspring(tree, best):
                _hang(tree, node, child)
            _release(tree, best)
            continue
        _keep(tree, node, Moments.of(tree, node).plus(row), prior, acuity)
        if move == NEW:
            return _leaf(tree, row, node, prior, acuity)
        node = best if move == BEST else _merged(tree, node, best, second, prior, acuity)


def _chosen(tree: Tree, node: int, row: np.ndarray, prior: float, acuity: bool) -> tuple[int, int, int]:
    """The move to make, and the two children that gain most by the row."""
    numbers = offspring(tree, node)
    parts = {child: Moments.of(tree, child) for child in numbers}
    whole = Moments.of(tree, node)
    grown = whole.plus(row)

    def tells(part: Moments, of: Moments) -> float:  # n_c/n_p · s(c|p)
        gap = of.log_variance(prior, acuity) - part.log_variance(prior, acuity)
        return part.n / of.n * gap / 2

    best = second = NONE
    gains: dict[int, float] = {}
    for child in numbers:
        gains[child] = tells(parts[child].plus(row), grown) - tells(parts[child], grown)
        if best == NONE or _ahead(tree, gains[child], parts[child].n, gains[best], parts[best].n):
            best, second = child, best
        elif second == NONE or _ahead(tree, gains[child], parts[child].n, gains[second], parts[second].n):
            second = child

    def utility(changed: list[Moments], left_out: tuple[int, ...], of: Moments) -> float:
        held = changed + [parts[child] for child in numbers if child not in left_out]
        return sum(tells(part, of) for part in held) / len(held)

    single = Moments(1, row, np.zeros(len(row)))
    offers = [(BEST, utility([parts[best].plus(row)], (best,), grown)), (NEW, utility([single], (), grown))]
    if len(numbers) > 2:
        offers.append((MERGE, utility([parts[best].joined(parts[second]).plus(row)], (best, second), grown)))
    if tree.children[best] != NONE:
        promoted = [Moments.of(tree, child) for child in offspring(tree, best)]
        offers.append((SPLIT, utility(promoted, (best,), whole)))
    move, most, ties = BEST, -math.inf, 0
    for offer, value in offers:
        if value > most + _slack(value, most):
            move, most, ties = offer, value, 1
        elif value >= most - _slack(value, most):
            ties += 1
            if _drawn(tree) % ties == 0:
                move, most = offer, value
    return move, best, second


def _ahead(tree: Tree, gain: float, count: int, other_gain: float, other_count: int) -> bool:
    """Whether one child goes before another: by gain, then by size, then by lot."""
    if abs(gain - other_gain) > _slack(gain, other_gain):
        return gain > other_gain
    return count > other_count if count != other_count else _drawn(tree) % 2 == 0


def _slack(a: float, b: float) -> float:
    return TIE if math.isinf(b) else TIE * max(1.0, abs(a), abs(b))


def _drawn(tree: Tree) -> int:
    """A random number of 32 bits (splitmix64)."""
    mask = (1 << 64) - 1
    x = (int(tree.random[0]) + 0x9E3779B97F4A7C15) & mask
    tree.random[0] = x
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return (x ^ x >> 31) >> 32


def _hang(tree: Tree, parent: int, child: int) -> None:
    """Make a node the first child of another."""
    tree.parents[child], tree.siblings[child], tree.children[parent] = parent, tree.children[parent], child


def _unhang(tree: Tree, child: int) -> None:
    """Take a node, with what is below it, from its parent."""
    parent, after = int(tree.parents[child]), tree.siblings[child]
    if tree.children[parent] == child:
        tree.children[parent] = after
        return
    before = int(tree.children[parent])
    while tree.siblings[before] != child:
        before = int(tree.siblings[before])
    tree.siblings[before] = after


def _release(tree: Tree, node: int) -> None:
    """Free a node that nothing points to any more."""
    tree.counts[node], tree.parents[node], tree.children[node] = 0, NONE, NONE
    tree.siblings[node], tree.state[FREE] = tree.state[FREE], node


def _fresh(tree: Tree) -> int:
    node = int(tree.state[FREE])
    if node == NONE:
        node = int(tree.state[USED])
        tree.state[USED] += 1
    else:
        tree.state[FREE] = tree.siblings[node]
    tree.parents[node] = tree.children[node] = tree.siblings[node] = NONE
    return node


def _leaf(tree: Tree, row: np.ndarray, parent: int, prior: float, acuity: bool) -> int:
    leaf = _fresh(tree)
    _keep(tree, leaf, Moments(1, row, np.zeros(len(row))), prior, acuity)
    if parent != NONE:
        _hang(tree, parent, leaf)
    return leaf


def _fringe(tree: Tree, leaf: int, row: np.ndarray, prior: float, acuity: bool) -> int:
    """Put a node in a leaf's place, over the leaf and another one for the row."""
    inner, parent = _fresh(tree), int(tree.parents[leaf])
    if parent == NONE:
        tree.state[ROOT] = inner
    else:
        _unhang(tree, leaf)
        _hang(tree, parent, inner)
    _hang(tree, inner, leaf)
    _keep(tree, inner, Moments.of(tree, leaf).plus(row), prior, acuity)
    return _leaf(tree, row, inner, prior, acuity)


def _merged(tree: Tree, node: int, best: int, second: int, prior: float, acuity: bool) -> int:
    """A child over two children."""
    above = _fresh(tree)
    _keep(tree, above, Moments.of(tree, best).joined(Moments.of(tree, second)), prior, acuity)
    for child in (best, second):
        _unhang(tree, child)
        _hang(tree, above, child)
    _hang(tree, node, above)
    return above


def _walk_plain(
    tree: Tree, query: np.ndarray, prior: float, acuity: bool, max_nodes: int, starts: np.ndarray, members: np.ndarray,
    allowed: np.ndarray, scores: np.ndarray, ids: np.ndarray,
) -> int:  # fmt: skip
    root = int(tree.state[ROOT])

    def nearness(node: int) -> float:
        spread = tree.squares[node].astype(np.float64) / tree.counts[node]
        variance = np.maximum(spread, prior) if acuity else spread + prior
        away = query - tree.means[node]
        share = math.log(tree.counts[node] / tree.counts[root])
        return float(-(tree.logs[node] + (away * away / variance).sum()) / 2 + share)

    ahead = [(-nearness(root), root)]
    lowest, found, opened = math.inf, 0, 0
    while ahead and opened < max_nodes:
        key, node = heapq.heappop(ahead)
        lowest = min(lowest, -key)
        opened += 1
        for row in members[starts[node] : starts[node + 1]]:
            if allowed[row]:
                scores[found], ids[found] = lowest, row
                found += 1
                if found == len(ids):
                    return opened
        for child in offspring(tree, node):
            heapq.heappush(ahead, (-nearness(child), child))
    return opened
