"""Packed documents: windows of one long text, in an order that seed and step alone decide.

A batch is a function of the step, so a run that goes on after a kill sees what it would have seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput

__all__ = ["Packed"]


class Packed:
    """Batches of windows. Each epoch cuts the text at another place and shuffles its windows.

    Args:
        ids: the text, int [n].
        length: tokens of a window.
        batch: windows of a batch.
        seed: of cuts and order.
    """

    def __init__(self, ids: np.ndarray | Tensor, length: int, batch: int, seed: int = 0) -> None:
        given = torch.as_tensor(ids)
        if given.ndim != 1 or given.dtype.is_floating_point or given.dtype is torch.bool:
            raise BadInput(f"text must be integers [n], got {given.dtype} {list(given.shape)}")
        self.ids = given.long()
        if length < 1 or batch < 1:
            raise BadInput(f"length and batch must be at least 1, got {length} and {batch}")
        if len(self.ids) < 2 * length + 1:
            raise BadInput(
                f"a text of {len(self.ids)} tokens is too short for windows of {length}: it takes twice that"
            )
        self.length, self.batch, self.seed = length, batch, seed
        self.windows = (len(self.ids) - 1) // length - 1  # of any epoch, wherever it cuts
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)

    def __repr__(self) -> str:
        return f"Packed({len(self.ids):,} tokens, length={self.length}, batch={self.batch}, seed={self.seed})"

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids and targets, int64 [batch, length] each, of a step from 0; a target is the token after."""
        starts = [self._start(number) for number in range(step * self.batch, (step + 1) * self.batch)]
        rows = torch.stack([self.ids[start : start + self.length + 1] for start in starts])
        return rows[:, :-1], rows[:, 1:]

    def epochs(self, steps: int) -> float:
        """How often the text is read in so many steps."""
        return steps * self.batch / self.windows

    def _start(self, number: int) -> int:
        epoch, place = divmod(number, self.windows)
        if epoch != self._epoch:
            random = np.random.default_rng((self.seed, epoch))
            cut = int(random.integers(self.length))
            self._epoch, self._starts = epoch, cut + self.length * random.permutation(self.windows)
        return int(self._starts[place])
