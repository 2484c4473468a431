"""Rows that can be among the nearest, by int8 copies that lie in two planes: the high half of every number apart from
the low half.

A scan that waits for memory takes as long as it reads. The high halves, four bits a number, place a row's score between
two bounds, and where the upper one is far enough below the k-th best so far, the low halves cannot change that and are
not read. The answer is that of the whole int8 rows; only the reading is less.

A code c of a row is 16 · (h − 8) + l, with h and l from 0 to 15. Byte j of `high` holds the h of number j in its low
half and that of number j + width / 2 in its high half; byte j of `low` holds the l of the same two. A row's `rest` is
the length of (l − 7.5) over its numbers, in units of √dim / 8192: by Cauchy and Schwarz no more than that length times
the query's can be missing from a score that is made of 16 · (h − 8) + 7.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from inlay.kernels import compiled
from inlay.kernels.sketch import rounded

__all__ = ["Halves", "contenders", "join", "split"]

UNITS = 8192  # of a rest, to √dim: the longest, 7.5 · √dim, still fits 16 bits
LONGEST = 1.1  # of a decoded row
ROOM = 256  # for rows that score about as well as the k-th best
ROWS_AT_ONCE = 4096  # numpy form
MIDDLE = np.float32(8 - 7.5 / 16)  # of high halves
SLACK = 1e-5  # of a score, for sums in float32


@dataclass(frozen=True)
class Halves:
    """Int8 rows in two planes.

    Args:
        high: uint8 [n, width / 2], the upper halves; width / 2 is a multiple of 16 where the compiled form is to serve.
        low: uint8 [n, width / 2], the lower halves.
        scales: float32 [n], what one step of each row is worth. A decoded row is no longer than 1.1.
        rests: uint16 [n], see the module.
        dim: numbers of a row; those from `dim` to width are zero, and so are a query's.
        off: length of what a row can differ by from its int8 copy, in steps.
    """

    high: np.ndarray
    low: np.ndarray
    scales: np.ndarray
    rests: np.ndarray
    dim: int
    off: float = 0.0

    def __len__(self) -> int:
        return len(self.high)

    @property
    def width(self) -> int:
        """Numbers of a row with those that fill it up."""
        return 2 * int(self.high.shape[1])

    @property
    def unit(self) -> float:
        """What one unit of a rest is worth, in steps."""
        return math.sqrt(self.dim) / UNITS


def split(codes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Int8 codes [n, dim] as `high`, `low` uint8 [n, width / 2] and `rests` uint16 [n]; width is even, at least dim."""
    n, dim = codes.shape
    whole = np.zeros((n, width), np.int8)
    whole[:, :dim] = codes
    bits = whole.view(np.uint8) ^ np.uint8(0x80)
    upper, lower = bits >> 4, bits & np.uint8(15)
    half = width // 2
    high, low = (part[:, :half] | part[:, half:] << 4 for part in (upper, lower))
    odd = 2 * lower[:, :dim].astype(np.float32) - 15
    squares = np.einsum("nd,nd->n", odd, odd)  # of twice the length; whole numbers, so exact
    # Rounded up, and one unit more: what float32 arithmetic rounds while a bound is computed is less than that.
    rests = np.ceil(np.sqrt(squares / 4) * (UNITS / math.sqrt(dim))) + 1
    return high, low, rests.astype(np.uint16)


def join(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The int8 codes [n, width] of two planes."""
    first = (high & np.uint8(15)) << 4 | low & np.uint8(15)
    second = high & np.uint8(0xF0) | low >> 4
    return (np.concatenate([first, second], axis=1) ^ np.uint8(0x80)).view(np.int8)


def contenders(query: np.ndarray, rows: Halves, k: int, off: float) -> np.ndarray:
    """All rows that can be among the k best, in order of id: int64.

    Args:
        query: float32 [1, dim].
        rows: what is searched.
        k: how many are wanted, at most n.
        off: by how much a row's score can differ from that of the row that was copied, besides `rows.off` steps.
    """
    wide = np.zeros(rows.width, np.float32)
    wide[: query.shape[1]] = query[0]
    if not _fast(rows):
        return _contenders_numpy(wide, rows, k, off)
    from inlay.kernels.halves_numba import scan

    numbers, step, error = rounded(wide)
    coarse, coarse_step, _ = rounded(wide, most=127)
    taken, exact = coarse * np.float64(coarse_step), numbers * np.float64(step)
    length = math.sqrt(exact @ exact)
    slack = LONGEST * math.sqrt(np.square(exact - taken).sum()) + SLACK * length
    unit = math.sqrt(taken @ taken) * rows.unit
    # k rows score no less than the k-th best lower bound; a row whose upper bound is below that is not among the best.
    window, steps = 2 * (off + LONGEST * error), rows.off * (length + error)
    high, low, scales, rests = (_plain(array) for array in (rows.high, rows.low, rows.scales, rows.rests))
    room, count = 2 * k + ROOM, -1
    while count < 0:
        best, ids = np.empty(room, np.float32), np.empty(room, np.int64)
        count = scan(
            numbers, step, coarse.astype(np.int8), coarse_step, high, low, scales, rests,
            np.float32(unit), np.float32(slack), np.float32(steps), np.float32(window), k, best, ids,
        )  # fmt: skip
        room = min(4 * room, len(rows) + 1)
    return np.sort(ids[:count])


def _contenders_numpy(query: np.ndarray, rows: Halves, k: int, off: float) -> np.ndarray:
    """The same in numpy, with the query as it is: bounds of all rows, then the codes of those that can be among k."""
    n, half = len(rows), rows.width // 2
    middle = np.empty(n, np.float32)
    for start in range(0, n, ROWS_AT_ONCE):
        some = rows.high[start : start + ROWS_AT_ONCE]
        found = ((some & np.uint8(15)) - MIDDLE) @ query[:half] + ((some >> 4) - MIDDLE) @ query[half:]
        middle[start : start + ROWS_AT_ONCE] = 16 * found
    middle *= rows.scales
    length = np.linalg.norm(query)
    steps, window = rows.scales * np.float32(rows.off * length), np.float32(2 * off)
    missing = rows.scales * rows.rests * np.float32(length * rows.unit) + np.float32(SLACK * length) + steps
    left = np.flatnonzero(middle + missing >= _kth(middle - missing, k) - window)
    scores = np.empty(len(left), np.float32)
    for start in range(0, len(left), ROWS_AT_ONCE):
        at = left[start : start + ROWS_AT_ONCE]
        scores[start : start + len(at)] = join(rows.high[at], rows.low[at]).astype(np.float32) @ query
    scores *= rows.scales[left]
    steps = steps[left]
    return left[scores + steps >= _kth(scores - steps, k) - window]


def _kth(scores: np.ndarray, k: int) -> np.float32:
    return np.float32(np.partition(scores, len(scores) - k)[len(scores) - k])


def _plain(array: np.ndarray) -> np.ndarray:
    """A read-only view: to numba, that is another type, and stores are read-only."""
    if array.flags.c_contiguous and not array.flags.writeable:
        return array
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _fast(rows: Halves) -> bool:
    if rows.width % 32 or not len(rows) or not compiled(len(rows) * rows.width):
        return False
    from inlay.kernels.sketch_numba import multiplies_pairs

    return multiplies_pairs()
