"""The nearest rows of a file of keyed vectors, exactly, read from less than the rows.

A search scans the rows (or the high halves of their int8 sketch) once, takes more candidates than it needs, and scores
those from the rows themselves. The error of the sketch is known from the day it was written, so a search knows which
rows could be among the best, and leaves out no other.
"""

from __future__ import annotations

import sys

import numpy as np

from inlay.kernels import compiled
from inlay.kernels.dense import nearest, score
from inlay.kernels.halves import Halves, contenders
from inlay.kernels.sketch import candidates
from inlay.words.store_file import StoreFile

__all__ = ["ExactSearch"]

# Float32 sums of products of unit vectors may be off by this much, whatever their order.
ROUNDING = 2e-5
AT_ONCE = 4096  # rows scored together


class ExactSearch:
    """Searches over all rows of a file, by cosine."""

    def __init__(self, file: StoreFile) -> None:
        self.file = file
        self._work = 0

    def nearest(self, query: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows of one unit query, exactly, and their scores, float64; equal scores in file order."""
        if "sketch_high" in self.file:
            halves = self._halves()
            self._warm(len(halves) * halves.width)
            ids, scores = self.scored(query, contenders(query, halves, wanted, ROUNDING))
            return ids[:wanted], scores[:wanted]
        rows, scales, off = self._scanned()
        self._warm(rows.size)
        depth = min(len(rows), 2 * wanted + 32)
        wide = np.pad(query, ((0, 0), (0, rows.shape[1] - query.shape[1])))  # a sketch may have columns of zeros
        while True:
            rounding = 0.0
            if scales is None:
                found = nearest(wide, rows, depth)
            else:
                found, rounding = candidates(wide, rows, scales, depth)
            ids, scores = self.scored(query, found.ids[0])
            # No row left out scores more than the last candidate's rough score and the error it can have.
            if depth == len(rows) or scores[wanted - 1] > float(found.scores[0, -1]) + off + rounding:
                return ids[:wanted], scores[:wanted]
            depth = min(len(rows), 4 * depth)

    def scored(self, query: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows in order of their exact scores, and the scores, float64; ids below 0 are left out."""
        ids, scores = np.sort(ids[ids >= 0]), np.empty(np.count_nonzero(ids >= 0))
        for start in range(0, len(ids), AT_ONCE):
            some = self.file.unit_rows(ids[start : start + AT_ONCE]).astype(np.float64)
            # Summed row by row, not by BLAS: there, equal rows can get scores that differ in the last bit.
            scores[start : start + len(some)] = (some * query[0]).sum(axis=1)
        order = np.argsort(-scores, kind="stable")
        return ids[order], scores[order]

    def cosines(self, queries: np.ndarray) -> np.ndarray:
        """Cosines of unit queries with every row, float32 [q, n]."""
        scales = self.file.whole("scales") if "scales" in self.file else None
        return score(queries, self.file.whole("rows"), scales=scales)

    def _scanned(self) -> tuple[np.ndarray, np.ndarray | None, float]:
        """What a search without halves scans, and by how much a score found there can be off."""
        if "sketch" in self.file:  # format 1
            error = float(self.file.about["sketch_error"])
            return self.file.whole("sketch"), self.file.whole("sketch_scales"), error + ROUNDING
        scales = self.file.whole("scales") if "scales" in self.file else None
        return self.file.whole("rows"), scales, ROUNDING

    def _halves(self) -> Halves:
        whole = self.file.whole
        high, low, scales, rests = (whole(f"sketch_{name}") for name in ("high", "low", "scales", "rests"))
        return Halves(high, low, scales, rests, self.file.dim, float(self.file.about["sketch_steps_off"]))

    def _warm(self, work: int) -> None:
        """Load the compiled kernels once all searches so far were worth it: one by one they may never be."""
        self._work += work
        if compiled(self._work) and "numba" not in sys.modules:
            import numba  # noqa: F401 - from here on, `compiled` says yes
