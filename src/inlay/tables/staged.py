"""Tables that are trained in stages: warmed up, searched or pruned, and trained again.

A trainer needs to know little of a method. For every stage it trains until validation stops improving, then goes on:

    while True:
        train(model)                                  # below
        if model.table.stage == model.table.stages[-1]:
            break
        model.table = model.table.advance()           # the same table or another one; then a new optimiser
    model.table = model.table.finish()

and of every step `loss(train batch) + penalty()`, backward, the optimiser's step, `after_step()` and, while
`searching`, `search_step(...)` with a batch of held-out rows. Those must not be the rows that decide when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.tables.keyspace import KeySpace
from inlay.tables.table import Table

__all__ = ["Staged", "largest", "sizes_of"]


class Staged(Table):
    """A table with stages. The plain answers are here: one stage, nothing searched, every checkpoint good."""

    stages: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(self, rows: int, dim: int, *, stage: str | None = None, **settings: Any) -> None:
        super().__init__(rows, dim, **settings)
        stage = self.stages[0] if stage is None else stage
        if stage not in self.stages:
            raise BadInput(f"stage must be one of {', '.join(self.stages)}, got {stage!r}")
        self.settings["stage"] = stage

    @property
    def stage(self) -> str:
        """Name of the stage it is in."""
        return str(self.settings["stage"])

    @property
    def searching(self) -> bool:
        """Whether `search_step` is to be called."""
        return False

    @property
    def may_keep(self) -> bool:
        """Whether a checkpoint of now counts; a stage is not to be stopped early before it does."""
        return True

    @property
    def stage_over(self) -> bool:
        """Whether this stage has what it was for, whatever validation says."""
        return False

    @property
    def fresh_model(self) -> bool:
        """Whether the next stage, to which `advance` leads, begins with a new model around the table."""
        return False

    def own_parameters(self) -> list[nn.Parameter]:
        """What the table updates itself: not for the trainer's optimiser nor its weight decay."""
        return []

    def search_step(
        self,
        valid_loss: Callable[[], Tensor],
        *,
        train_loss: Callable[[], Tensor] | None = None,
        weights: Sequence[nn.Parameter] = (),
        lr: float = 0.0,
    ) -> None:
        """One step of what is searched.

        Args:
            valid_loss: loss of a held-out batch.
            train_loss: loss of the batch that was just trained on.
            weights: what the trainer's optimiser updates.
            lr: with this rate.
        """

    def advance(self) -> Table:
        """The table of the next stage; this one, changed, unless a method says otherwise."""
        at = self.stages.index(self.stage)
        if at + 1 == len(self.stages):
            raise BadInput(f"{self.stage!r} is the last stage of {type(self).__name__}; call finish()")
        self.settings["stage"] = self.stages[at + 1]
        return self

    def finish(self) -> Table:
        """The table to be evaluated and compiled, after the last stage."""
        return self


def sizes_of(space: KeySpace | Sequence[int]) -> list[int]:
    """Ids of each field, of a key space or as they are."""
    sizes = [int(size) for size in (space.sizes if isinstance(space, KeySpace) else space)]
    if not sizes or min(sizes) < 1:
        raise BadInput(f"fields must have at least one id each, got {sizes}")
    return sizes


def largest(values: Tensor, keep: int) -> Tensor:
    """Mask of the `keep` largest magnitudes of a tensor; the threshold is found by bisection, ties are cut by place.

    Sorting all values costs more than the some 40 passes that settle a float's threshold.
    """
    magnitudes = values.detach().abs()
    if keep >= magnitudes.numel():
        return torch.ones_like(magnitudes, dtype=torch.bool)
    if keep <= 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    low, high = 0.0, float(magnitudes.max()) * 2 + 1e-30  # more than `keep` are ≥ low, or all; fewer are ≥ high
    for _ in range(60):
        middle = (low + high) / 2
        count = int((magnitudes >= middle).sum())
        if count == keep:
            return magnitudes >= middle
        if count > keep:
            low = middle
        else:
            high = middle
    mask = magnitudes >= high
    ties = ((magnitudes >= low) & ~mask).flatten().nonzero()[: keep - int(mask.sum()), 0]
    mask.view(-1)[ties] = True
    return mask
