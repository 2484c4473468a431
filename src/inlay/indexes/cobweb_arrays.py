"""The arrays of a tree of concepts: with room to grow, cut to what is used for a file, checked when read from one."""

from __future__ import annotations

import numpy as np

from inlay.kernels.prototype_tree import FREE, NONE, ROOT, USED, Tree

__all__ = ["checked", "trimmed", "with_room"]


def with_room(tree: Tree, nodes: int) -> Tree:
    """The tree, or a longer copy with room for so many nodes: two a row, as a node that is no leaf has two children."""
    if nodes <= len(tree.counts):
        return tree
    used, room = int(tree.state[USED]), max(nodes, len(tree.counts) * 3 // 2)

    def longer(array: np.ndarray) -> np.ndarray:
        grown = np.zeros((room, *array.shape[1:]), dtype=array.dtype)
        grown[:used] = array[:used]
        return grown

    return Tree._make([*(longer(array) for array in tree[:-2]), tree.state, tree.random])


def trimmed(tree: Tree) -> Tree:
    """The tree without the room it has to grow."""
    used = int(tree.state[USED])
    return Tree._make([*(array[:used] for array in tree[:-2]), tree.state, tree.random])


def checked(tree: Tree, leaves: np.ndarray) -> Tree:
    """The tree, if its parts fit each other and the leaves of the rows; else ValueError."""
    fresh, used = Tree.empty(tree.means.shape[1], 0), len(tree.counts)
    for name, array in tree._asdict().items():
        its = getattr(fresh, name)
        length = len(its) if name in ("state", "random") else used
        if array.dtype != its.dtype or array.shape != (length, *its.shape[1:]):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    pointers = (tree.parents, tree.children, tree.siblings, tree.state[[ROOT, FREE]], leaves)
    if tree.state[USED] != used or any((one < NONE).any() or (one >= used).any() for one in pointers):
        raise ValueError("a pointer leads out of the tree")
    alive = leaves[leaves != NONE]
    if leaves.dtype != np.int32 or (tree.children[alive] != NONE).any() or (tree.counts[alive] < 1).any():
        raise ValueError("a row is at a node that is no leaf")
    return tree
