"""AutoDim: a width for every field, chosen by a soft mixture of candidates that is trained on held-out rows.

Zhao, Liu, Liu, Liu, Guo, Liu, Wang, Tang: "AutoDim: Field-aware Embedding Dimension Search in Recommender Systems"
(arXiv 2006.14827, WWW 2021); the gradient of second order is that of DARTS (Liu, Simonyan, Yang, arXiv 1806.09055).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.keyspace import KeySpace
from inlay.tables.per_field import PerField
from inlay.tables.staged import Staged, sizes_of
from inlay.tables.table import Compiled, Table

__all__ = ["AutoDim", "Projected", "ProjectedRows"]


class Projected(Table):
    """Rows of a width of their own, brought to `dim` by a matrix and BatchNorm (no scale, no shift).

    Args:
        rows: number of keys.
        dim: width that is given.
        width: width that is stored.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
    """

    def __init__(self, rows: int, dim: int, *, width: int, scale: float | None = None) -> None:
        super().__init__(rows, dim, width=width, scale=scale)
        if width < 1:
            raise BadInput(f"width must be at least 1, got {width}")
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound))
        self.project = nn.Linear(width, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim, affine=False)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        wide = self.project(F.embedding(ids.flatten(), self.weight))
        if len(wide) < 2 and self.training:  # no spread to divide by
            wide = F.batch_norm(wide, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        else:
            wide = self.norm(wide)
        return wide.view(*ids.shape, self.dim)

    @torch.no_grad()
    def compiled(self) -> Compiled:
        """Stored rows and one affine map: the same numbers but for float32 rounding (some 1e-6 of their size)."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        spread = (variance + self.norm.eps).sqrt()
        return ProjectedRows.of(self.weight.detach(), self.project.weight / spread[:, None], -mean / spread)


class ProjectedRows(Compiled):
    """Row = values[id] · matrixᵀ + shift.

    Args:
        rows: keys.
        dim: width that is given.
        width: width that is stored.
    """

    values: Tensor
    matrix: Tensor
    shift: Tensor

    def __init__(self, rows: int, dim: int, *, width: int) -> None:
        super().__init__(rows, dim, width=width)
        self.register_buffer("values", torch.zeros(rows, width))
        self.register_buffer("matrix", torch.zeros(dim, width))
        self.register_buffer("shift", torch.zeros(dim))

    @classmethod
    def of(cls, values: Tensor, matrix: Tensor, shift: Tensor) -> Self:
        """Of values [rows, width], matrix [dim, width] and shift [dim]."""
        made = cls(len(values), len(matrix), width=values.shape[1])
        made.values.copy_(values)
        made.matrix.copy_(matrix)
        made.shift.copy_(shift)
        return made

    def lookup(self, ids: Tensor) -> Tensor:
        """Float32 rows [..., dim]."""
        return F.linear(self.values[ids], self.matrix, self.shift)


class AutoDim(Staged):
    """Every field's vector is a mixture of candidates, each with a width, a table, a matrix to `dim` and BatchNorm.

    The mixture's weights are a Gumbel softmax of the field's logits α at temperature max(0.01, 1 − 5e-5 · batch / 2000
    · t) after t steps. Everything else learns from training batches; α by gradient descent on held-out ones
    (`search_step`), with the gradient of first order, or of second: what the last training step does to the held-out
    loss included. After that `advance()` gives a `PerField` of each field's likeliest candidate to train again. In
    evaluation the search form reads the likeliest candidates too.

    The method has no budget of its own. With `budget_bytes`, the fields whose smaller candidates lose least in logits
    are made narrower until the tables fit.

    Args:
        space: a `KeySpace`, or ids of each field.
        dim: width that is given.
        widths: candidates; None takes 2, 4, 8, … up to `dim`.
        choice_lr: rate of α.
        second_order: take the gradient of second order.
        batch_size: that the trainer uses; it sets the pace of the temperature.
        inherit: the second stage starts from what the search learnt, and not anew.
        budget_bytes: of the compiled form, or None.
        seed: of the Gumbel noise.
        stage: `search`; the next stage is another table.
    """

    stages = ("search", "re-train")

    def __init__(
        self,
        space: KeySpace | Sequence[int],
        dim: int,
        *,
        widths: Sequence[int] | None = None,
        choice_lr: float = 1e-3,
        second_order: bool = False,
        batch_size: int = 128,
        inherit: bool = False,
        budget_bytes: float | None = None,
        seed: int = 0,
        stage: str | None = None,
    ) -> None:
        sizes = sizes_of(space)
        super().__init__(sum(sizes), dim, stage=stage)
        if widths is None:
            widths = [1 << power for power in range(1, dim.bit_length()) if 1 << power <= dim] or [dim]
        if not widths or min(widths) < 1 or list(widths) != sorted(set(widths)):
            raise BadInput(f"widths must rise, from at least 1, got {list(widths)}")
        if not choice_lr >= 0:
            raise BadInput(f"choice_lr must be at least 0, got {choice_lr}")
        self.settings = {
            "space": sizes, "dim": dim, "widths": list(widths), "choice_lr": choice_lr, "second_order": second_order,
            "batch_size": batch_size, "inherit": inherit, "budget_bytes": budget_bytes, "seed": seed,
            "stage": self.stage,
        }  # fmt: skip
        self.sizes, self.widths, self.second_order, self.choice_lr = sizes, list(widths), second_order, choice_lr
        self.batch_size, self.inherit, self.budget_bytes = batch_size, inherit, budget_bytes
        self.random = torch.Generator().manual_seed(seed)
        self.candidates = nn.ModuleList(PerField([Projected(n, dim, width=w) for n in sizes]) for w in self.widths)
        self.choice = nn.Parameter(torch.zeros(len(sizes), len(self.widths)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.steps: Tensor
        if budget_bytes is not None and self._bytes([0] * len(sizes)) > budget_bytes:
            raise BadInput(
                f"{budget_bytes:,.0f} bytes are too few: width {widths[0]} takes {self._bytes([0] * len(sizes)):,}"
            )

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """With what the budget will make of it in the end."""
        if "widths" not in settings:
            powers = [1 << power for power in range(dim.bit_length()) if 1 << power <= dim]
            fits = cls(space, dim, widths=powers[:1])._bytes([0] * space.num_fields) <= budget_bytes
            needs_one = (
                cls(space, dim, widths=[powers[min(1, len(powers) - 1)]])._bytes([0] * space.num_fields) > budget_bytes
            )
            settings["widths"] = powers if fits and needs_one else powers[1:] or powers
        return cls(space, dim, budget_bytes=budget_bytes, **settings)

    def _bytes(self, chosen: Sequence[int]) -> int:
        """Of the compiled form, with the given candidate of each field."""
        wide = [self.widths[c] for c in chosen]
        return sum(4 * (n * w + self.dim * w + self.dim) for n, w in zip(self.sizes, wide))

    @property
    def temperature(self) -> float:
        """Of the Gumbel softmax, now."""
        return max(0.01, 1 - 5e-5 * self.batch_size / 2000 * int(self.steps))

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., fields, dim] of ids [..., fields]."""
        if not self.training:
            return self._likeliest()(ids)
        uniform = torch.rand(self.choice.shape, generator=self.random).clamp(1e-20, 1 - 1e-7)
        weights = ((self.choice.log_softmax(-1) - (-uniform.log()).log()) / self.temperature).softmax(-1)
        mixed = torch.stack([candidate(ids) for candidate in self.candidates], -1)  # [..., fields, dim, candidates]
        return (mixed * weights[:, None, :]).sum(-1)

    def materialize(self, ids: Tensor | None = None, batch: int = 1 << 16) -> Tensor:
        """Float32 rows [n, dim] of ids in any order, whatever their field."""
        return self._likeliest().materialize(ids, batch)

    @property
    def searching(self) -> bool:
        """Always: the second stage is another table."""
        return True

    def own_parameters(self) -> list[nn.Parameter]:
        """The logits α."""
        return [self.choice]

    def after_step(self) -> None:
        """Cool, and drop what the training batch said of α."""
        self.steps += 1
        self.choice.grad = None

    def search_step(
        self,
        valid_loss: Callable[[], Tensor],
        *,
        train_loss: Callable[[], Tensor] | None = None,
        weights: Sequence[nn.Parameter] = (),
        lr: float = 0.0,
    ) -> None:
        """A step of α on a held-out batch."""
        norms = [part for part in self.modules() if isinstance(part, nn.BatchNorm1d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:  # held-out rows and weights moved for a moment leave no trace in the statistics
            norm.momentum = 0.0
        try:
            if not self.second_order:
                (slope,) = torch.autograd.grad(valid_loss(), [self.choice])
            elif train_loss is None or not weights:
                raise BadInput("the gradient of second order needs train_loss, weights and lr")
            else:
                slope = second_order(self.choice, weights, self._same_noise(train_loss), valid_loss, lr)
        finally:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
        with torch.no_grad():
            self.choice.sub_(self.choice_lr * slope)

    def _same_noise(self, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A loss with the same Gumbel noise whenever called: a difference over 2r would show little else."""
        state = self.random.get_state()

        def again() -> Tensor:
            self.random.set_state(state)
            return loss()

        return again

    def chosen(self) -> list[int]:
        """Number of each field's candidate: the likeliest, made narrower where the budget asks for it."""
        logits = self.choice.detach()
        chosen = logits.argmax(-1).tolist()
        while self.budget_bytes is not None and self._bytes(chosen) > self.budget_bytes:
            # Least loss of log-probability for each byte that it frees.
            log_p = logits.log_softmax(-1)
            costs = {
                f: float(log_p[f, c] - log_p[f, c - 1]) / (self.sizes[f] * (self.widths[c] - self.widths[c - 1]))
                for f, c in enumerate(chosen)
                if c
            }
            chosen[min(costs, key=lambda f: (costs[f], -self.sizes[f]))] -= 1
        return chosen

    def _likeliest(self) -> PerField:
        tables: Any = self.candidates
        parts = [tables[c].parts()[f] for f, c in enumerate(self.chosen())]
        made = PerField(parts)
        made.train(self.training)
        return made

    @property
    def fresh_model(self) -> bool:
        """A reset starts everything anew, the model around the table too."""
        return not self.inherit

    def advance(self) -> Table:
        """A table a field, of its likeliest width."""
        if self.inherit:
            return self._likeliest()
        widths = [self.widths[c] for c in self.chosen()]
        return PerField([Projected(n, self.dim, width=w) for n, w in zip(self.sizes, widths)])

    def compiled(self) -> Compiled:
        """Of the likeliest widths."""
        return self._likeliest().compiled()


def second_order(
    searched: nn.Parameter,
    weights: Sequence[nn.Parameter],
    train_loss: Callable[[], Tensor],
    valid_loss: Callable[[], Tensor],
    lr: float,
) -> Tensor:
    """DARTS: d L_valid(w − lr · ∇L_train(w, α), α) / dα, its mixed derivative by finite differences.

    ∇α L_valid(w′, α) − lr · (∇α L_train(w⁺, α) − ∇α L_train(w⁻, α)) / 2r,
    w± = w ± r · ∇w′ L_valid, r = 0.01 / ‖∇w′ L_valid‖.
    The weights are left as they were. `train_loss` must give the same number for the same weights: noise that differs
    between calls is divided by 2r.
    """
    kept = [weight.detach().clone() for weight in weights]

    def move(to: Sequence[Tensor], along: Sequence[Tensor], by: float) -> None:
        with torch.no_grad():
            for weight, start, direction in zip(weights, to, along):
                weight.copy_(start + by * direction)

    def slopes(loss: Tensor, of: Sequence[nn.Parameter]) -> list[Tensor]:
        found = torch.autograd.grad(loss, list(of), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(of, found)]

    try:
        move(kept, slopes(train_loss(), weights), -lr)
        outer = slopes(valid_loss(), [searched, *weights])
        direct, of_weights = outer[0], outer[1:]
        length = float(torch.stack([slope.square().sum() for slope in of_weights]).sum().sqrt())
        if length == 0:
            return direct
        r = 0.01 / length
        move(kept, of_weights, r)
        above = slopes(train_loss(), [searched])[0]
        move(kept, of_weights, -r)
        below = slopes(train_loss(), [searched])[0]
        return direct - lr * (above - below) / (2 * r)
    finally:
        move(kept, kept, 0.0)
