"""One leg of a training run: which rows, which losses, how many steps, and how the learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from inlay.errors import BadInput
from inlay.training.batching import Batcher, Choice, mixed
from inlay.training.sources import Source
from inlay.training.teacher import Teaching

__all__ = ["Stage"]


@dataclass
class Stage:
    """One leg of a run.

    Args:
        sources: rows.
        losses: a term, or name → term for sources that name their loss.
        steps: how many updates; or
        epochs: how many times as many rows as the sources have.
        batch_size: rows in a batch.
        negatives: hard negatives to a row.
        choice: which rows go together, see `inlay.training.batching`.
        lr: highest learning rate.
        schedule: how it falls after the warm-up: `linear` or `cosine` to 0, or `constant`.
        warmup: share of the stage (below 1) or steps over which it rises.
        weight_decay: AdamW's, for matrices; vectors (biases, norms, token weights) have none.
        clip: largest norm of the gradient.
        train: which parameters, see `inlay.training.models.select`.
        teacher: teacher vectors for the terms that want them.
        micro: texts encoded at a time; None encodes a batch at once.
        cached: use the gradient cache over the parts of `micro`.
        name: what metrics call it.
    """

    sources: Sequence[Source]
    losses: nn.Module | Mapping[str, nn.Module]
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 128
    negatives: int = 0
    choice: Choice = field(default_factory=mixed)
    lr: float = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    train: str = "full"
    teacher: Teaching | None = None
    micro: int | None = None
    cached: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise BadInput("a stage needs either steps or epochs")
        if self.schedule not in ("linear", "cosine", "constant"):
            raise BadInput(f"schedule must be linear, cosine or constant, got {self.schedule!r}")
        if self.cached and self.micro is None:
            raise BadInput("cached=True needs micro, the number of texts encoded at a time")
        self.batcher = Batcher(self.sources, self.batch_size, negatives=self.negatives, choice=self.choice)
        if self.steps is None:
            self.steps = max(1, math.ceil((self.epochs or 0) * len(self.batcher) / self.batch_size))
        self.terms = nn.ModuleDict(dict(self.losses) if isinstance(self.losses, Mapping) else {"default": self.losses})
        unknown = {source.loss for source in self.sources} - set(self.terms)
        if unknown:
            raise BadInput(f"sources ask for losses {sorted(unknown)}; the stage has {sorted(self.terms)}")

    def rate(self, progress: float) -> float:
        """Learning rate when a share `progress` of the stage is done."""
        warm = self.warmup if self.warmup < 1 else self.warmup / (self.steps or 1)
        if progress < warm:
            return self.lr * (progress + 1 / (self.steps or 1)) / (warm + 1 / (self.steps or 1))
        left = (1 - progress) / max(1 - warm, 1e-9)
        shape = {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}
        return self.lr * max(shape[self.schedule], 0.0)
