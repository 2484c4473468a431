"""The compiled forms of `inlay.kernels.prototype_tree`; see there for arguments and results.

Σ ln v is taken of products of four variances at a time: a quarter of the logarithms, and in float64 no product of four
float32 numbers leaves the range.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["insert_compiled", "walk_compiled"]

NONE = -1
BEST, NEW, MERGE, SPLIT = 0, 1, 2, 3
TIE, SAME, SPREAD = 1e-9, 1e-5, 1e-8
ROOT, USED, FREE = 0, 1, 2

_u = np.uint64
_f = np.float64


@njit(cache=True, nogil=True, boundscheck=False)
def _summed(mean, squares, row, count, weight, prior, acuity):
    """Σ ln v of statistics S, n with `weight` times (x − μ)² added to S, n being what it is after that."""
    total = 0.0
    scale = 1.0 / count
    product = 1.0
    for j in range(len(mean)):
        away = _f(row[j]) - _f(mean[j])
        spread = (_f(squares[j]) + weight * away * away) * scale
        product *= max(spread, prior) if acuity else spread + prior
        if j & 3 == 3:
            total += math.log(product)
            product = 1.0
    return total + math.log(product)


@njit(cache=True, nogil=True, boundscheck=False)
def _grow(tree, node, row, prior, acuity):
    """Add a row to a node's statistics."""
    tree.counts[node] += 1
    count = tree.counts[node]
    mean, squares = tree.means[node], tree.squares[node]
    for j in range(len(row)):
        old = _f(mean[j])
        new = old + (_f(row[j]) - old) / count
        squares[j] = np.float32(_f(squares[j]) + (_f(row[j]) - old) * (_f(row[j]) - new))
        mean[j] = np.float32(new)
    tree.logs[node] = _summed(mean, squares, mean, count, 0.0, prior, acuity)
    tree.stale[node] = True


@njit(cache=True, nogil=True, boundscheck=False)
def _drawn(tree):
    tree.random[0] += _u(0x9E3779B97F4A7C15)
    x = tree.random[0]
    x = (x ^ (x >> _u(30))) * _u(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _u(27))) * _u(0x94D049BB133111EB)
    return np.int64((x ^ (x >> _u(31))) >> _u(32))


@njit(cache=True, nogil=True, boundscheck=False)
def _slack(a, b):
    return TIE if math.isinf(b) else TIE * max(1.0, abs(a), abs(b))


@njit(cache=True, nogil=True, boundscheck=False)
def _ahead(tree, gain, count, other_gain, other_count):
    if abs(gain - other_gain) > _slack(gain, other_gain):
        return gain > other_gain
    if count != other_count:
        return count > other_count
    return _drawn(tree) % 2 == 0


@njit(cache=True, nogil=True, boundscheck=False)
def _hang(tree, parent, child):
    tree.parents[child] = parent
    tree.siblings[child] = tree.children[parent]
    tree.children[parent] = child


@njit(cache=True, nogil=True, boundscheck=False)
def _unhang(tree, child):
    parent = tree.parents[child]
    after = tree.siblings[child]
    if tree.children[parent] == child:
        tree.children[parent] = after
        return
    before = tree.children[parent]
    while tree.siblings[before] != child:
        before = tree.siblings[before]
    tree.siblings[before] = after


@njit(cache=True, nogil=True, boundscheck=False)
def _fresh(tree):
    node = tree.state[FREE]
    if node == NONE:
        node = tree.state[USED]
        tree.state[USED] += 1
    else:
        tree.state[FREE] = tree.siblings[node]
    tree.parents[node] = NONE
    tree.children[node] = NONE
    tree.siblings[node] = NONE
    return node


@njit(cache=True, nogil=True, boundscheck=False)
def _leaf(tree, row, prior, acuity):
    leaf = _fresh(tree)
    tree.counts[leaf] = 0
    tree.means[leaf] = 0
    tree.squares[leaf] = 0
    _grow(tree, leaf, row, prior, acuity)
    return leaf


@njit(cache=True, nogil=True, boundscheck=False)
def _joined(tree, a, b, mean, squares):
    """Statistics of two nodes together, into `mean` and `squares`."""
    n, m = _f(tree.counts[a]), _f(tree.counts[b])
    both = n + m
    for j in range(len(mean)):
        left, right = _f(tree.means[a, j]), _f(tree.means[b, j])
        apart = right - left
        squares[j] = _f(tree.squares[a, j]) + _f(tree.squares[b, j]) + apart * apart * (n * m / both)
        mean[j] = (n * left + m * right) / both


@njit(cache=True, nogil=True, boundscheck=False)
def _is_same(tree, node, row):
    for j in range(len(row)):
        if tree.squares[node, j] / tree.counts[node] >= SPREAD or abs(_f(row[j]) - _f(tree.means[node, j])) >= SAME:
            return False
    return True


@njit(cache=True, nogil=True, boundscheck=False)
def _chosen(tree, node, row, prior, acuity, mean, squares):
    logs, counts = tree.logs, tree.counts
    n = _f(counts[node])
    after = n + 1.0
    whole = _summed(tree.means[node], tree.squares[node], row, after, n / after, prior, acuity)
    best, best_gain, best_grown = NONE, 0.0, 0.0
    second, second_gain = NONE, 0.0
    held = 0.0  # Σ n_c · (Σ ln v of the whole with the row − Σ ln v of c)
    before = 0.0  # the same with the whole without the row
    size = 0
    child = tree.children[node]
    while child != NONE:
        m = _f(counts[child])
        grown = _summed(tree.means[child], tree.squares[child], row, m + 1.0, m / (m + 1.0), prior, acuity)
        gain = ((m + 1.0) * (whole - grown) - m * (whole - logs[child])) / after / 2.0
        held += m * (whole - logs[child])
        before += m * (logs[node] - logs[child])
        size += 1
        if best == NONE or _ahead(tree, gain, counts[child], best_gain, counts[best]):
            second, second_gain = best, best_gain
            best, best_gain, best_grown = child, gain, grown
        elif second == NONE or _ahead(tree, gain, counts[child], second_gain, counts[second]):
            second, second_gain = child, gain
        child = tree.siblings[child]

    m = _f(counts[best])
    own = m * (whole - logs[best])
    into_best = (held - own + (m + 1.0) * (whole - best_grown)) / after / 2.0 / size
    alone = len(row) * math.log(prior)
    into_new = (held + whole - alone) / after / 2.0 / (size + 1)
    into_both, into_parts = -math.inf, -math.inf
    if size > 2:
        _joined(tree, best, second, mean, squares)
        both = m + _f(counts[second])
        grown = _summed(mean, squares, row, both + 1.0, both / (both + 1.0), prior, acuity)
        rest = held - own - _f(counts[second]) * (whole - logs[second])
        into_both = (rest + (both + 1.0) * (whole - grown)) / after / 2.0 / (size - 1)
    if tree.children[best] != NONE:
        total = before - m * (logs[node] - logs[best])
        parts = size - 1
        child = tree.children[best]
        while child != NONE:
            total += _f(counts[child]) * (logs[node] - logs[child])
            parts += 1
            child = tree.siblings[child]
        into_parts = total / n / 2.0 / parts
    offers = (into_best, into_new, into_both, into_parts)

    move, most, ties = BEST, -math.inf, 0
    for offer in range(4):
        value = offers[offer]
        if math.isinf(value):
            continue
        if value > most + _slack(value, most):
            move, most, ties = offer, value, 1
        elif value >= most - _slack(value, most):
            ties += 1
            if _drawn(tree) % ties == 0:
                move, most = offer, value
    return move, best, second


@njit(cache=True, nogil=True, boundscheck=False)
def insert_compiled(tree, rows, prior, acuity, leaves):
    dim = rows.shape[1]
    mean, squares = np.empty(dim), np.empty(dim)
    for i in range(len(rows)):
        row = rows[i]
        if tree.state[ROOT] == NONE:
            tree.state[ROOT] = _leaf(tree, row, prior, acuity)
            leaves[i] = tree.state[ROOT]
            continue
        node = tree.state[ROOT]
        while True:
            if tree.children[node] == NONE:
                if _is_same(tree, node, row):
                    _grow(tree, node, row, prior, acuity)
                    leaves[i] = node
                    break
                inner = _fresh(tree)
                if tree.parents[node] == NONE:
                    tree.state[ROOT] = inner
                else:
                    parent = tree.parents[node]
                    _unhang(tree, node)
                    _hang(tree, parent, inner)
                _hang(tree, inner, node)
                tree.counts[inner] = tree.counts[node]
                tree.means[inner] = tree.means[node]
                tree.squares[inner] = tree.squares[node]
                _grow(tree, inner, row, prior, acuity)
                leaves[i] = _leaf(tree, row, prior, acuity)
                _hang(tree, inner, leaves[i])
                break
            move, best, second = _chosen(tree, node, row, prior, acuity, mean, squares)
            if move == SPLIT:
                _unhang(tree, best)
                child = tree.children[best]
                while child != NONE:
                    after = tree.siblings[child]
                    _hang(tree, node, child)
                    child = after
                tree.counts[best] = 0
                tree.parents[best] = NONE
                tree.children[best] = NONE
                tree.siblings[best] = tree.state[FREE]
                tree.state[FREE] = best
                continue
            _grow(tree, node, row, prior, acuity)
            if move == NEW:
                leaves[i] = _leaf(tree, row, prior, acuity)
                _hang(tree, node, leaves[i])
                break
            if move == BEST:
                node = np.int64(best)
                continue
            above = _fresh(tree)
            _joined(tree, best, second, mean, squares)
            tree.counts[above] = tree.counts[best] + tree.counts[second]
            tree.means[above] = mean.astype(np.float32)
            tree.squares[above] = squares.astype(np.float32)
            tree.logs[above] = _summed(
                tree.means[above], tree.squares[above], tree.means[above], tree.counts[above], 0.0, prior, acuity
            )
            tree.stale[above] = True
            _unhang(tree, best)
            _hang(tree, above, best)
            _unhang(tree, second)
            _hang(tree, above, second)
            _hang(tree, node, above)
            node = np.int64(above)


@njit(cache=True, nogil=True, boundscheck=False)
def _nearness(tree, node, query, prior, acuity):
    scale = 1.0 / tree.counts[node]
    total = 0.0
    for j in range(len(query)):
        spread = _f(tree.squares[node, j]) * scale
        away = _f(query[j]) - _f(tree.means[node, j])
        total += away * away / (max(spread, prior) if acuity else spread + prior)
    share = math.log(tree.counts[node] / tree.counts[tree.state[ROOT]])
    return -(tree.logs[node] + total) / 2.0 + share


@njit(cache=True, nogil=True, boundscheck=False)
def _before(keys, nodes, a, b):
    return keys[a] > keys[b] or (keys[a] == keys[b] and nodes[a] < nodes[b])


@njit(cache=True, nogil=True, boundscheck=False)
def _push(keys, nodes, size, key, node):
    at = size
    keys[at], nodes[at] = key, node
    while at > 0:
        up = (at - 1) // 2
        if not _before(keys, nodes, at, up):
            break
        keys[at], keys[up] = keys[up], keys[at]
        nodes[at], nodes[up] = nodes[up], nodes[at]
        at = up


@njit(cache=True, nogil=True, boundscheck=False)
def _pop(keys, nodes, size):
    """Move the last to the first place and down; returns how many are left."""
    size -= 1
    keys[0], nodes[0] = keys[size], nodes[size]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        if down + 1 < size and _before(keys, nodes, down + 1, down):
            down += 1
        if not _before(keys, nodes, down, at):
            break
        keys[at], keys[down] = keys[down], keys[at]
        nodes[at], nodes[down] = nodes[down], nodes[at]
        at = down
    return size


@njit(cache=True, nogil=True, boundscheck=False)
def walk_compiled(tree, queries, prior, acuity, max_nodes, starts, members, allowed, scores, ids):
    room = tree.state[USED]
    keys, nodes = np.empty(room), np.empty(room, np.int64)
    k = ids.shape[1]
    opened = 0
    for i in range(len(queries)):
        query = queries[i]
        keys[0], nodes[0] = _nearness(tree, tree.state[ROOT], query, prior, acuity), tree.state[ROOT]
        size, found, here, lowest = 1, 0, 0, math.inf
        while size > 0 and here < max_nodes and found < k:
            node = nodes[0]
            lowest = min(lowest, keys[0])
            size = _pop(keys, nodes, size)
            here += 1
            for at in range(starts[node], starts[node + 1]):
                row = members[at]
                if allowed[row] and found < k:
                    scores[i, found] = lowest
                    ids[i, found] = row
                    found += 1
            child = tree.children[node]
            while child != NONE:
                _push(keys, nodes, size, _nearness(tree, child, query, prior, acuity), np.int64(child))
                size += 1
                child = tree.siblings[child]
        opened += here
    return opened
