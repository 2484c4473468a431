"""OptEmbed's recipe: train the supernet, prune its rows, breed widths, train what is left.

found = opt_embed(model, splits, lr=1e-3)     # model.table is an `inlay.tables.OptEmbed`
found.widths, found.kept_rows, found.fitted.auc, model.table.nbytes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlay.clicks.data import ClickSplits
from inlay.clicks.heads import ClickModel
from inlay.clicks.trainer import Fitted, auc, fit, logits
from inlay.errors import BadInput
from inlay.tables.evolution import evolve
from inlay.tables.narrow import NarrowRows
from inlay.tables.opt_embed import OptEmbed
from inlay.tables.per_field import PerField
from inlay.tables.table import Table

__all__ = ["Found", "opt_embed"]


@dataclass
class Found:
    """What the search chose.

    Args:
        fitted: the model with the table that was found, trained again.
        widths: of each field.
        kept_rows: of each field.
        supernet_auc: of the supernet in full width, on the slice of validation rows.
        searched_auc: of the supernet, frozen, in the chosen widths, on the same.
        history: best fitness up to each generation.
    """

    fitted: Fitted
    widths: list[int]
    kept_rows: list[int]
    supernet_auc: float
    searched_auc: float
    history: list[float]


def opt_embed(
    model: ClickModel,
    splits: ClickSplits,
    *,
    generations: int = 30,
    population: int = 20,
    keep: int = 0,
    rate: float = 0.1,
    price: float = 0.0,
    slice_rows: int = 5000,
    seed: int = 0,
    **training: Any,
) -> Found:
    """Search and train again; `model.table` becomes the table that was found.

    Args:
        model: with an `OptEmbed` as its table. A weight for each id (`model.linear`) loses the same rows.
        splits: data. Candidates are judged on validation rows.
        generations: of the evolution.
        population: candidates in each.
        keep: candidates that stay as they are in the next generation.
        rate: of mutation.
        price: taken off the AUC of a candidate whose bytes are those of the full table, and of others in proportion.
        slice_rows: validation rows that candidates are judged on, drawn at random.
        seed: of everything random.
        **training: of `inlay.clicks.trainer.fit`, for the supernet and for what is left.
    """
    table = model.table
    if not isinstance(table, OptEmbed):
        raise BadInput(f"model.table must be an OptEmbed, got a {type(table).__name__}")
    if slice_rows < 2:
        raise BadInput(f"slice_rows must be at least 2, got {slice_rows}")
    part = splits.valid
    if len(part) > slice_rows:
        part = part.halves(slice_rows / len(part), seed=seed)[0]
    full = 4 * table.rows * table.dim
    chosen: dict[str, Any] = {}

    def judge(widths: Sequence[int]) -> float:
        table.widths.copy_(torch.tensor(widths))
        return auc(part.labels, logits(model, part))

    def choose(kept: list[int]) -> list[int]:
        alive = table.alive()
        trained = table.weight.detach().clone()
        with torch.no_grad():  # a budget may prune rows that exceed their threshold
            table.weight[~alive] = 0.0
        supernet_auc = judge([table.dim] * len(kept))
        evolved = evolve(
            lambda c: judge(c.tolist()) - price * table.bytes_of(kept, c.tolist()) / full,
            len(kept), table.dim, generations=generations, population=population, keep=keep, rate=rate, seed=seed,
            repair=None if table.budget_bytes is None else lambda c: np.array(table.narrowed(kept, c.tolist())),
        )  # fmt: skip
        widths = [int(width) for width in evolved.best]
        chosen.update(
            widths=widths, kept_rows=kept, supernet_auc=supernet_auc, searched_auc=judge(widths),
            history=evolved.history,
        )  # fmt: skip
        with torch.no_grad():
            table.weight.copy_(trained)
        if isinstance(model.linear, Table) and model.linear.rows == table.rows:
            model.linear = _pruned(model.linear, alive, table.sizes)
        return widths

    table.choose = choose
    try:
        fitted = fit(model, splits, seed=seed, **training)
    finally:
        table.choose = None
    return Found(fitted=fitted, **chosen)


@torch.no_grad()
def _pruned(linear: Table, alive: Tensor, sizes: Sequence[int]) -> PerField:
    """The linear term's table with the same rows."""
    parts = zip(alive.split(list(sizes)), linear.materialize().split(list(sizes)))
    return PerField([NarrowRows.keep(mask, 1, 1, values=values) for mask, values in parts])
