"""Groups of records: whoever is linked by accepted pairs, directly or through others, is one group."""

from __future__ import annotations

from collections.abc import Iterable

from inlay.errors import BadInput

__all__ = ["clusters"]


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of two and more rows, each ascending, by their first row.

    Args:
        count: how many rows there are.
        pairs: rows that belong together.
    """
    above = list(range(count))

    def root(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for a, b in pairs:
        if not (0 <= a < count and 0 <= b < count):
            raise BadInput(f"the pair {(a, b)} names a row that is not there; there are {count}, counted from 0")
        a, b = root(a), root(b)
        above[max(a, b)] = min(a, b)  # the lowest row stands for its group
    groups: dict[int, list[int]] = {}
    for row in range(count):
        groups.setdefault(root(row), []).append(row)
    return [group for group in groups.values() if len(group) > 1]
