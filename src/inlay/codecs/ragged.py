"""Bags of vectors as they come in: checked, and cut or joined without a loop over bags."""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.errors import BadInput, SpaceMismatch
from inlay.types import Ragged

__all__ = ["checked_ragged", "joined", "part"]


def checked_ragged(bags: Any, dim: int | None = None, what: str = "document", *, finite: bool = True) -> Ragged:
    """A `Ragged` of finite float32 values, or an error that names the first offender.

    Args:
        bags: a `Ragged`, or a list with an array [tokens, dim] for each item.
        dim: width the vectors must have; None takes any.
        what: what an item is called in messages.
        finite: False lets NaN and infinity pass, for those who report them item by item.
    """
    if not isinstance(bags, Ragged):
        bags = _of_list(bags, dim, what)
    offsets = np.asarray(bags.offsets)
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype.kind not in "iu":
        raise BadInput(f"offsets are integers [n + 1], got {offsets.dtype} {list(offsets.shape)}")
    try:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(bags.values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"vectors are numbers [tokens, dim], got {type(bags.values).__name__}: {error}") from None
    if values.ndim != 2:
        raise BadInput(f"vectors are [tokens, dim], got an array of shape {list(values.shape)}")
    if dim is not None and values.shape[1] != dim:
        raise SpaceMismatch(f"expected vectors of {dim} dimensions, those of the {what}s have {values.shape[1]}")
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise BadInput(
            f"offsets must ascend from 0 to the number of vectors, {len(values)}; got {offsets[0]} to {offsets[-1]}"
        )
    if not finite:
        return Ragged(values, offsets)
    # The sum of a vector is finite if every number is; only where it is not are the numbers looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(values.sum(axis=1)))
    for token in suspects:
        if not np.isfinite(values[token]).all():
            item = int(np.searchsorted(offsets, token, side="right")) - 1
            raise BadInput(
                f"{what} {item} holds NaN, or a number beyond float32, in its vector {token - offsets[item]}"
            )
    return Ragged(values, offsets)


def part(bags: Ragged, first: int, last: int) -> Ragged:
    """Items first to last - 1; values are not copied."""
    low, high = int(bags.offsets[first]), int(bags.offsets[last])
    return Ragged(bags.values[low:high], bags.offsets[first : last + 1] - low)


def joined(parts: list[Ragged], dim: int) -> Ragged:
    """Items of all parts, one after another."""
    lengths = [np.diff(one.offsets) for one in parts]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))]).astype(np.int64)
    return Ragged(np.concatenate([np.empty((0, dim), np.float32), *(one.values for one in parts)]), offsets)


def _of_list(bags: Any, dim: int | None, what: str) -> Ragged:
    if isinstance(bags, np.ndarray) or not isinstance(bags, list | tuple):
        raise BadInput(
            f"expected a Ragged or a list of arrays [tokens, dim], got {type(bags).__name__}; wrap one {what} in a list"
        )
    arrays = []
    for item, bag in enumerate(bags):
        try:
            if np.iscomplexobj(bag):
                raise TypeError("complex ones would lose half of what they are")
            array = np.asarray(bag, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise BadInput(f"{what} {item} is not numbers [tokens, dim]: {error}") from None
        if array.ndim != 2:
            raise BadInput(f"{what} {item} must be an array [tokens, dim], got shape {list(array.shape)}")
        if dim is not None and array.shape[1] != dim:
            raise SpaceMismatch(f"expected vectors of {dim} dimensions, {what} {item} has {array.shape[1]}")
        arrays.append(Ragged(array, np.array([0, len(array)], dtype=np.int64)))
    widths = {bag.values.shape[1] for bag in arrays}
    if len(widths) > 1:
        raise SpaceMismatch(f"all {what}s need vectors of one width, got {sorted(widths)}")
    return joined(arrays, widths.pop() if widths else dim or 0)
