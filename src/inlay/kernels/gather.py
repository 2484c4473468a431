"""Rows read by key, sums of rows by bag, and distinct ids: what stands between a table and whoever reads it.

Rows are float32, int8 with one float32 scale a layer, or bfloat16, handed over as the uint16 of its bits (numpy has no
such type); all come out as float32. A table may hold several layers a key side by side, so that a key is one block of
memory however many layers read it.

Tables are read in many small batches, so what decides whether numba is worth loading is all the work done so far.
"""

from __future__ import annotations

import numpy as np

from inlay.kernels import compiled

__all__ = ["distinct", "distinct_plain", "gather", "gather_plain", "sum_bags", "sum_bags_plain"]

_NO_SCALES = np.empty((0, 0), dtype=np.float32)
_NO_SCALES.flags.writeable = False
_done = 0  # numbers read so far in this process


def _fast(numbers: int) -> bool:
    global _done
    _done += numbers
    return compiled(_done)


def gather(
    rows: np.ndarray,
    keys: np.ndarray,
    out: np.ndarray,
    *,
    scales: np.ndarray | None = None,
    first: int = 0,
    at: np.ndarray | None = None,
) -> None:
    """Copy `rows[keys]` into `out`, widened to float32.

    Args:
        rows: float32, uint16 (bits of bfloat16) or int8 [rows, layers · width].
        keys: int64 [n], all in range: they are not checked here.
        out: float32 [m, wanted layers, width], any strides but within a row.
        scales: of int8 rows, float32 [rows, layers].
        first: first layer wanted.
        at: int64 [n], which of `out` a key goes to; None for its own place.
    """
    if _fast(len(keys) * out.shape[1] * out.shape[2]):
        from inlay.kernels.gather_numba import gather_compiled

        gather_compiled(
            _plain(rows), _NO_SCALES if scales is None else _plain(scales), keys, at, first,
            out.shape[1], out.shape[2], _flat(out), out.strides[0] // 4, out.strides[1] // 4,
        )  # fmt: skip
    else:
        gather_plain(rows, keys, out, scales=scales, first=first, at=at)


def gather_plain(
    rows: np.ndarray,
    keys: np.ndarray,
    out: np.ndarray,
    *,
    scales: np.ndarray | None = None,
    first: int = 0,
    at: np.ndarray | None = None,
) -> None:
    """The numpy form of `gather`."""
    out[slice(len(keys)) if at is None else at] = _read(rows, keys, out.shape[1], out.shape[2], scales, first)


def _read(
    rows: np.ndarray, keys: np.ndarray, layers: int, width: int, scales: np.ndarray | None, first: int
) -> np.ndarray:
    """Float32 [n, layers, width]."""
    block = rows.reshape(len(rows), -1, width)[keys, first : first + layers]
    if block.dtype == np.uint16:
        return (block.astype(np.uint32) << np.uint32(16)).view(np.float32)
    block = block.astype(np.float32, copy=False)
    return block if scales is None else block * scales[keys, first : first + layers, None]


def sum_bags(
    rows: np.ndarray, keys: np.ndarray, offsets: np.ndarray, out: np.ndarray, *, scales: np.ndarray | None = None
) -> None:
    """Add up the rows of each bag: bag b holds `keys[offsets[b]:offsets[b + 1]]`; sums go in order, in float32.

    Args:
        rows: as in `gather`.
        keys: int64 [n], all in range.
        offsets: int64 [bags + 1].
        out: float32 [bags, layers, width], any strides but within a row.
        scales: as in `gather`.
    """
    if _fast(len(keys) * out.shape[1] * out.shape[2]):
        from inlay.kernels.gather_numba import sum_bags_compiled

        sum_bags_compiled(
            _plain(rows), _NO_SCALES if scales is None else _plain(scales), keys, offsets,
            out.shape[1], out.shape[2], _flat(out), out.strides[0] // 4, out.strides[1] // 4,
        )  # fmt: skip
    else:
        sum_bags_plain(rows, keys, offsets, out, scales=scales)


def sum_bags_plain(
    rows: np.ndarray, keys: np.ndarray, offsets: np.ndarray, out: np.ndarray, *, scales: np.ndarray | None = None
) -> None:
    """The numpy form of `sum_bags`."""
    out[:] = 0
    bag = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    np.add.at(out, bag, _read(rows, keys, out.shape[1], out.shape[2], scales, 0))


def distinct(
    ids: np.ndarray, seen: np.ndarray, slot: np.ndarray, epoch: int, unique: np.ndarray, inverse: np.ndarray
) -> int:
    """Number distinct ids in the order they first occur, in one pass and without sorting.

    Args:
        ids: int64 [n] in range of `seen`.
        seen: int32 [rows], the epoch in which an id was last met; updated.
        slot: int32 [rows], the number it had then; updated.
        epoch: of this call, one that `seen` does not hold.
        unique: int64 [n], filled from the front.
        inverse: int64 [n], filled: `unique[inverse] == ids`.

    Returns:
        How many are distinct.
    """
    if _fast(len(ids)):
        from inlay.kernels.gather_numba import distinct_compiled

        return int(distinct_compiled(ids, seen, slot, epoch, unique, inverse))
    return distinct_plain(ids, seen, slot, epoch, unique, inverse)


def distinct_plain(
    ids: np.ndarray, seen: np.ndarray, slot: np.ndarray, epoch: int, unique: np.ndarray, inverse: np.ndarray
) -> int:
    """The numpy form of `distinct`."""
    places = np.arange(len(ids), dtype=np.int32)
    slot[ids[::-1]] = places[::-1]  # of one id written twice the last stands: its first place
    first = slot[ids] == places
    found = ids[first]
    unique[: len(found)] = found
    slot[found] = np.arange(len(found), dtype=np.int32)
    seen[found] = epoch
    inverse[:] = slot[ids]
    return len(found)


def _plain(array: np.ndarray) -> np.ndarray:
    """A read-only view: numba does not know `np.memmap`, and takes read-only arrays for another type."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _flat(out: np.ndarray) -> np.ndarray:
    """The memory under a strided array from its first number on, so that the inner loop runs over plain memory."""
    span = 1 + sum((size - 1) * stride // 4 for size, stride in zip(out.shape, out.strides)) if out.size else 0
    return np.lib.stride_tricks.as_strided(out, shape=(span,), strides=(4,))
