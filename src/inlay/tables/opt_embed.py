"""OptEmbed: which values need no row at all, and how wide the rows of each field have to be.

Lyu, Tang, Zhu, Huang, Guo, Tang, Liu: "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction"
(arXiv 2208.04482, CIKM 2022). Three steps, which `inlay.clicks.opt_embed_search` takes one after another: a supernet is
trained, widths are bred from it without training, and what is left is trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.keyspace import KeySpace
from inlay.tables.narrow import NarrowRows
from inlay.tables.per_field import PerField
from inlay.tables.staged import Staged, largest, sizes_of
from inlay.tables.table import Compiled

__all__ = ["OptEmbed", "step"]


class _Step(torch.autograd.Function):
    """1 where z > 0; its derivative is taken to be that of a long-tailed bump."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # type: ignore[override]
        far = ctx.saved_tensors[0].abs()
        bump = torch.where(far <= 0.4, 2 - 4 * far, torch.where(far <= 1, 0.4, 0.0))
        return slope * bump


def step(z: Tensor) -> Tensor:
    """1[z > 0], with derivative 2 − 4|z| for |z| ≤ 0.4, 0.4 up to 1, and 0 beyond."""
    return _Step.apply(z)


class OptEmbed(Staged):
    """The supernet: every row, times whether its L1 norm exceeds its field's threshold, cut to a random width.

    In training each looked-up row keeps its first c + 1 numbers, c uniform in {0 … dim − 1} and drawn anew for each
    sample and field, so that one table serves all widths. The norm is that of the whole row. Thresholds learn by plain
    gradient descent, from the loss and from alpha · Σ exp(−t), which pushes them up; **they only move while norms lie
    within 1 of them** (`inside` says what share does). In evaluation rows have their field's width of `widths`, which
    is `dim` until `inlay.clicks.opt_embed_search` finds better ones.

    Args:
        space: a `KeySpace`, or ids of each field.
        dim: width.
        alpha: weight of the push.
        threshold_lr: rate of the thresholds.
        per_value: a threshold for each id, and not for each field.
        mode: ids without a row read `zero`, or share one row a field (`oov`).
        scale: rows begin uniform in ±scale; None takes Xavier's √(6 / (rows + dim)).
        inherit: what is left is trained on from the supernet's rows; else from those it began with, in a new model.
        budget_bytes: of the compiled form, or None.
        seed: of the random widths.
        stage: `supernet`; the next stage is another table.
    """

    stages = ("supernet", "re-train")

    def __init__(
        self,
        space: KeySpace | Sequence[int],
        dim: int,
        *,
        alpha: float = 1e-4,
        threshold_lr: float = 1e-4,
        per_value: bool = False,
        mode: Literal["zero", "oov"] = "zero",
        scale: float | None = None,
        inherit: bool = True,
        budget_bytes: float | None = None,
        seed: int = 0,
        stage: str | None = None,
    ) -> None:
        sizes = sizes_of(space)
        rows = sum(sizes)
        super().__init__(rows, dim, stage=stage)
        if not alpha >= 0 or not threshold_lr >= 0:
            raise BadInput(f"alpha and threshold_lr must be at least 0, got {alpha} and {threshold_lr}")
        if mode not in ("zero", "oov"):
            raise BadInput(f"mode must be 'zero' or 'oov', got {mode!r}")
        self.settings = {
            "space": sizes, "dim": dim, "alpha": alpha, "threshold_lr": threshold_lr, "per_value": per_value,
            "mode": mode, "scale": scale, "inherit": inherit, "budget_bytes": budget_bytes, "seed": seed,
            "stage": self.stage,
        }  # fmt: skip
        self.sizes, self.alpha, self.threshold_lr, self.mode = sizes, alpha, threshold_lr, mode
        self.budget_bytes = budget_bytes
        self.random = torch.Generator().manual_seed(seed)
        bound = (6 / (rows + dim)) ** 0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-bound, bound))
        self.inherit = inherit
        self._first = None if inherit else self.weight.detach().clone()
        self.choose: Callable[[list[int]], Sequence[int]] | None = None
        self.threshold = nn.Parameter(torch.zeros(rows if per_value else len(sizes)))
        self.register_buffer("widths", torch.full((len(sizes),), dim))
        self.widths: Tensor
        starts = torch.tensor([0, *sizes]).cumsum(0)
        self.register_buffer("_starts", starts[1:-1], persistent=False)
        self._starts: Tensor
        if budget_bytes is not None and self.bytes_of([0] * len(sizes), [1] * len(sizes)) >= budget_bytes:
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: the remap alone takes {4 * rows:,}")

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """With a limit for rows and widths together. A remap takes 4 bytes an id of any field that is pruned."""
        return cls(space, dim, budget_bytes=budget_bytes, **settings)

    def field_of(self, ids: Tensor) -> Tensor:
        """Field [...] of ids [...]."""
        return torch.bucketize(ids, self._starts, right=True)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        v = F.embedding(ids, self.weight)
        field = self.field_of(ids)
        threshold = self.threshold[ids if self.settings["per_value"] else field]
        alive = step(v.abs().sum(-1) - threshold)[..., None]
        if self.training:
            width = torch.randint(1, self.dim + 1, ids.shape, generator=self.random)
        else:
            width = self.widths[field]
        within = torch.arange(self.dim) < width[..., None]
        return v * within * alive

    def penalty(self) -> Tensor:
        """What pushes thresholds up."""
        return self.alpha * (-self.threshold).exp().sum()

    def own_parameters(self) -> list[nn.Parameter]:
        """The thresholds."""
        return [self.threshold]

    @torch.no_grad()
    def after_step(self) -> None:
        """A step of the thresholds."""
        if self.threshold.grad is not None:
            self.threshold.sub_(self.threshold_lr * self.threshold.grad)
            self.threshold.grad = None

    @torch.no_grad()
    def margin(self) -> Tensor:
        """By how much each id's norm exceeds its threshold, [rows]."""
        ids = torch.arange(self.rows)
        return self.weight.abs().sum(-1) - self.threshold[ids if self.settings["per_value"] else self.field_of(ids)]

    @property
    def inside(self) -> float:
        """Share of ids whose norm is within 1 of their threshold: others do not move it."""
        return float((self.margin().abs() <= 1).float().mean())

    def alive(self) -> Tensor:
        """Mask [rows] of the ids that keep a row: those above their threshold.

        Where a budget would leave them less than a quarter of the width on average, only those farthest above it.
        """
        margin = self.margin()
        alive = margin > 0
        if self.budget_bytes is not None:
            most = int((self.budget_bytes - 4 * self.rows) // (4 * max(1, self.dim // 4)))
            if int(alive.sum()) > max(most, 1):
                alive &= largest(margin.clamp(min=0), max(most, 1))
        return alive

    def kept_rows(self, alive: Tensor | None = None) -> list[int]:
        """Ids of each field that keep a row."""
        return [int(part.sum()) for part in (self.alive() if alive is None else alive).split(self.sizes)]

    def bytes_of(self, kept: Sequence[int], widths: Sequence[int]) -> int:
        """Bytes of the compiled form with so many rows and such widths, the remaps of pruned fields included."""
        return sum(
            4 * (k + (self.mode == "oov" and k < n)) * w + (4 * n if k < n else 0)
            for k, w, n in zip(kept, widths, self.sizes)
        )

    def select(
        self, widths: Sequence[int] | None = None, *, alive: Tensor | None = None, values: Tensor | None = None
    ) -> PerField:
        """The table that is left: rows that are alive, each field in its width.

        Args:
            widths: of each field; None takes `widths`.
            alive: mask [rows]; None takes `alive()`.
            values: [rows, dim] that it begins with; None takes the supernet's.
        """
        widths = self.widths.tolist() if widths is None else [int(width) for width in widths]
        if len(widths) != len(self.sizes) or not all(1 <= width <= self.dim for width in widths):
            raise BadInput(f"widths must be {len(self.sizes)} numbers from 1 to {self.dim}, got {widths}")
        alive = self.alive() if alive is None else alive
        values = self.weight.detach() if values is None else values
        return PerField([
            NarrowRows.keep(mask, self.dim, width, values=own, oov=self.mode == "oov")
            for mask, own, width in zip(alive.split(self.sizes), values.split(self.sizes), widths)
        ])  # fmt: skip

    @property
    def fresh_model(self) -> bool:
        """Where the supernet's weights are not inherited, nor are the model's."""
        return not self.inherit

    def advance(self) -> PerField:
        """What is left, to be trained again, in the widths that `choose` gives for the rows kept of each field.

        Without `choose`, in `widths`. Either way they are narrowed to the budget.
        """
        alive = self.alive()
        kept = self.kept_rows(alive)
        widths = self.widths.tolist() if self.choose is None else self.choose(kept)
        widths = self.narrowed(kept, widths)
        self.widths.copy_(torch.tensor(widths))
        return self.select(widths, alive=alive, values=self._first)

    def narrowed(self, kept: Sequence[int], widths: Sequence[int]) -> list[int]:
        """Widths made narrower, the widest first and among equals that of the most rows, until they fit the budget."""
        found = [int(width) for width in widths]
        while self.budget_bytes is not None and self.bytes_of(kept, found) > self.budget_bytes and max(found) > 1:
            found[max(range(len(found)), key=lambda f: (found[f], kept[f]))] -= 1
        return found

    def compiled(self) -> Compiled:
        """Kept rows of each field in its width, and remaps. In `zero` mode equal to the supernet in evaluation exactly,
        unless a budget prunes more rows than the thresholds do.
        """
        return self.select().compiled()
