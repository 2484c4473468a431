"""Sizes from a budget in bytes: bisection over the one number that sets a method's size."""

from __future__ import annotations

import math
from collections.abc import Callable

from inlay.errors import BadInput

__all__ = ["checked_budget", "largest_within"]


def checked_budget(budget: float) -> float:
    """A budget in bytes, refused where it is none."""
    if isinstance(budget, (bool, str)) or not (math.isfinite(budget) and budget > 0):
        raise BadInput(f"a budget is a number of bytes above 0, got {budget!r}")
    return budget


def largest_within(nbytes: Callable[[int], float], budget: float, low: int, high: int, what: str = "size") -> int:
    """The largest whole number in [low, high] whose bytes stay within a budget.

    Args:
        nbytes: bytes at a size; must not fall as the size grows.
        budget: bytes.
        low: smallest size that makes sense.
        high: largest.
        what: the size's name, for errors.
    """
    checked_budget(budget)
    if low > high:
        raise BadInput(f"{what} must lie in [{low}, {high}], which is empty")
    if nbytes(low) > budget:
        raise BadInput(f"{budget:,.0f} bytes are too few: {what}={low} already takes {nbytes(low):,.0f}")
    while low < high:
        middle = (low + high + 1) // 2
        if nbytes(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
