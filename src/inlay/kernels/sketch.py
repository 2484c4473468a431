"""The nearest rows by a rough copy of them: int8 rows, one query, integer arithmetic.

`dense.nearest` widens int8 rows to float32 and keeps every digit of the query. Where the answer is only a list of
candidates, and its error is known, the query may be rounded too, to int16: two products and a sum are then one
instruction on 16 numbers, and the scan waits for memory alone.
"""

from __future__ import annotations

import numpy as np

from inlay.kernels import compiled
from inlay.kernels.dense import nearest
from inlay.types import Neighbours

__all__ = ["candidates", "rounded"]

MOST = np.iinfo(np.int16).max


def candidates(query: np.ndarray, codes: np.ndarray, scales: np.ndarray, k: int) -> tuple[Neighbours, float]:
    """The k rows whose rough scores are highest, and by how much rounding the query can have changed a score.

    Args:
        query: float32 [1, width].
        codes: int8 [n, width], no value -128.
        scales: float32 [n], what one step of each row is worth. A decoded row is no longer than 1.1.
        k: how many; beyond n the answer is padded with id -1 and score -inf.
    """
    if not _fast(codes):
        return nearest(query, codes, k, scales=scales), 0.0
    from inlay.kernels.sketch_numba import scan

    numbers, step, error = rounded(query[0])
    codes, scales = codes.view(), scales.view()
    codes.flags.writeable = scales.flags.writeable = False  # to numba, a read-only array is another type
    wanted = min(k, len(codes))
    best, rows = np.empty(wanted + max(wanted, 64), np.float32), np.empty(wanted + max(wanted, 64), np.int64)
    count = scan(numbers, step, codes, scales, wanted, best, rows)
    order = np.argsort(-best[:count], kind="stable")
    scores, ids = np.full((1, k), -np.inf, np.float32), np.full((1, k), -1, np.int64)
    scores[0, :count], ids[0, :count] = best[order], rows[order]
    return Neighbours(scores, ids), 1.1 * error


def rounded(query: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.float32, float]:
    """A query [width] as int16 of up to `most`, so small that no product with int8 rows leaves int32; its step; and the
    length of what rounding left out.
    """
    most = min(most, ((1 << 31) - 1) // (127 * len(query)))
    step = np.float32(np.abs(query).max(initial=0) / most)
    if step == 0:
        return np.zeros(len(query), np.int16), step, float(np.linalg.norm(query.astype(np.float64)))
    numbers = np.clip(np.rint(query / step), -most, most).astype(np.int16)
    return numbers, step, float(np.linalg.norm(query.astype(np.float64) - numbers * np.float64(step)))


def _fast(codes: np.ndarray) -> bool:
    if codes.dtype != np.int8 or codes.shape[1] % 16 or not len(codes) or not compiled(codes.size):
        return False
    from inlay.kernels.sketch_numba import multiplies_pairs

    return multiplies_pairs()
