"""One trainer for all click models and all tables, also for tables that are trained in stages.

Adam over batches; several looks at validation an epoch; a stage is over when they have stopped improving, and its best
checkpoint is what goes on. What a table may ask for besides (`inlay.tables.staged`): a penalty, a second pass over the
batch, work after each step, a step on held-out rows, and another table for the next stage.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.clicks.data import Clicks, ClickSplits
from inlay.clicks.heads import ClickModel
from inlay.errors import BadInput, InlayWarning, MissingExtra
from inlay.tables.staged import Staged
from inlay.tables.table import Rows, Table

__all__ = ["Fitted", "auc", "fit", "logits", "logloss"]

EVALUATION_BATCH = 4096


@dataclass
class Fitted:
    """A trained model and what it is worth.

    Args:
        auc: area under the ROC curve of the test part.
        logloss: mean negative log-likelihood of the test part, nats.
        valid_auc: best of the last stage, on the rows that decided when to stop.
        seconds: wall time of all training, validation included.
        epochs: passes over the training part, of all stages together.
        train_nbytes: most bytes any stage's table held; gradients and moments left out.
        scores: logits [n] of the test part.
        model: with the best checkpoint; its table is finished.
        curve: (epoch, stage, validation AUC) of every look.
    """

    auc: float
    logloss: float
    valid_auc: float
    seconds: float
    epochs: float
    train_nbytes: int
    scores: np.ndarray = field(repr=False)
    model: ClickModel = field(repr=False)
    curve: list[tuple[float, str, float]] = field(repr=False)


def fit(
    model: ClickModel,
    splits: ClickSplits,
    *,
    lr: float = 1e-3,
    table_lr: float | None = None,
    weight_decay: float = 0.0,
    table_weight_decay: float = 0.0,
    batch_size: int = 128,
    epochs: int = 20,
    evaluations: int = 4,
    patience: int = 8,
    search_share: float = 0.5,
    seed: int = 0,
    progress: bool = False,
) -> Fitted:
    """Train a click model; the model given is changed, and its table may be put in place of by that of a later stage.

    Args:
        model: one of `inlay.clicks.heads`.
        splits: data. Tables that search on held-out rows get `search_share` of the validation part for that, and only
            the rest decides when to stop; for all others the whole part does.
        lr: of Adam, for what is outside of the table.
        table_lr: for the table; None takes `lr`.
        weight_decay: L2 added to gradients, outside of the table.
        table_weight_decay: of the table. A product of tables shrinks quadratically under it.
        batch_size: rows a step.
        epochs: of each stage, at most.
        evaluations: looks at validation an epoch.
        patience: looks without a better AUC after which a stage is over.
        search_share: of validation rows, see `splits`.
        seed: of everything random. The global generator is left as it was.
        progress: show a bar.
    """
    for what, number in (("batch_size", batch_size), ("epochs", epochs), ("evaluations", evaluations)):
        if number < 1:
            raise BadInput(f"{what} must be at least 1, got {number}")
    if patience < 1 or not 0 < search_share < 1:
        raise BadInput(f"patience must be at least 1, search_share inside (0, 1); got {patience} and {search_share}")
    _auc_of()
    run = _Run(
        model, splits, lr, lr if table_lr is None else table_lr, weight_decay, table_weight_decay, batch_size, epochs,
        evaluations, patience, search_share, seed, progress,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return run()


class _Run:
    """The state of one `fit`."""

    def __init__(
        self, model: ClickModel, splits: ClickSplits, lr: float, table_lr: float, weight_decay: float,
        table_weight_decay: float, batch_size: int, epochs: int, evaluations: int, patience: int, search_share: float,
        seed: int, progress: bool,
    ) -> None:  # fmt: skip
        self.model, self.splits = model, splits
        self.lr, self.table_lr = lr, table_lr
        self.weight_decay, self.table_weight_decay = weight_decay, table_weight_decay
        self.epochs, self.patience, self.progress = epochs, patience, progress
        self.train = _tensors(splits.train)
        self.random = torch.Generator().manual_seed(seed)
        self.batch_size = min(batch_size, len(splits.train))
        self.steps = -(-len(splits.train) // self.batch_size)
        self.every = max(1, self.steps // evaluations)
        self.stop, self.search = splits.valid, None
        if _searches(model.table):
            search, self.stop = splits.valid.halves(search_share, seed=seed)
            self.search = self._batches(_tensors(search), torch.Generator().manual_seed(seed + 1))
        self.curve: list[tuple[float, str, float]] = []
        self.done = 0.0

    def __call__(self) -> Fitted:
        began = time.perf_counter()
        held = 0
        while True:
            held = max(held, getattr(self.model.table, "train_nbytes", 0))
            best = self._stage()
            table: Any = self.model.table
            if not isinstance(table, Staged) or table.stage == table.stages[-1]:
                break
            fresh = table.fresh_model
            self.model.table = table.advance()
            if fresh:
                self.model.begin_anew()
        if isinstance(table, Staged):
            self.model.table = table.finish()
        seconds = time.perf_counter() - began
        self.model.eval()
        test = self.splits.test
        scores = logits(self.model, test)
        return Fitted(
            auc(test.labels, scores), logloss(test.labels, scores), best, seconds, self.done, held, scores, self.model,
            self.curve,
        )  # fmt: skip

    def _stage(self) -> float:
        """Train until validation stops improving; leave the best checkpoint in the model and return its AUC."""
        table = self.model.table
        name = str(getattr(table, "stage", "train"))
        optimizer = self._optimizer()
        best, kept, since = -np.inf, None, 0
        total = self.epochs * self.steps
        if self.curve and getattr(table, "may_keep", True) and not getattr(table, "searching", False):
            # What an earlier stage left is a checkpoint too: training on need not do it good.
            best, kept = self._look(name, self.done), deepcopy(self.model.state_dict())
        with _bar(total, name, self.progress) as bar:
            for step, batch in enumerate(self._batches(self.train, self.random), 1):
                self._step(optimizer, batch)
                bar.update(1)
                over = bool(getattr(table, "stage_over", False))
                if step % self.every == 0 or step == total or over:
                    value = self._look(name, self.done + step / self.steps)
                    if getattr(table, "may_keep", True):
                        since += 1
                        if value > best:
                            best, kept, since = value, deepcopy(self.model.state_dict()), 0
                    bar.set_postfix_str(f"AUC {value:.4f}")
                if over or since >= self.patience or step == total:
                    break
        self.done += step / self.steps
        if kept is None:
            best = self.curve[-1][2]
            warnings.warn(
                f"stage {name!r} of {type(table).__name__} was cut short after {self.epochs} epochs, before its "
                "schedule was through: give it more epochs or a faster one",
                InlayWarning,
                stacklevel=4,
            )
        else:
            self.model.load_state_dict(kept)
        return best

    def _look(self, stage: str, epoch: float) -> float:
        value = auc(self.stop.labels, logits(self.model, self.stop))
        self.curve.append((epoch, stage, value))
        return value

    def _optimizer(self) -> torch.optim.Optimizer:
        table: Any = self.model.table
        own = {id(parameter) for parameter in getattr(table, "own_parameters", list)()}
        rows = [parameter for parameter in table.parameters() if parameter.requires_grad and id(parameter) not in own]
        groups: list[dict[str, Any]] = [
            {"params": self.model.head_parameters(), "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": rows, "lr": self.table_lr, "weight_decay": self.table_weight_decay},
        ]
        self.weights = [parameter for group in groups for parameter in group["params"]]
        return torch.optim.Adam([group for group in groups if group["params"]], fused=True)

    def _step(self, optimizer: torch.optim.Optimizer, batch: list[Tensor]) -> None:
        table: Any = self.model.table
        self.model.train()
        again = self._loss(batch)
        loss = again() + table.penalty() if isinstance(table, Table) else again()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if hasattr(table, "second_pass"):
            table.second_pass(again)
        if hasattr(table, "after_step"):
            table.after_step()
        if self.search is not None and getattr(table, "searching", False):
            held_out = self._loss(next(self.search))
            table.search_step(held_out, train_loss=again, weights=self.weights, lr=self.table_lr)

    def _loss(self, batch: list[Tensor]) -> Callable[[], Tensor]:
        ids, numbers, labels = batch
        return lambda: F.binary_cross_entropy_with_logits(self.model(ids, numbers), labels)

    def _batches(self, rows: list[Tensor], random: torch.Generator) -> Iterator[list[Tensor]]:
        """Shuffled batches without end. A last batch of one row is left out: BatchNorm has nothing to divide by."""
        n = len(rows[0])
        while True:
            for at in torch.randperm(n, generator=random).split(self.batch_size):
                if len(at) > 1 or n == 1:
                    yield [column[at] for column in rows]


def _searches(table: Rows) -> bool:
    step = getattr(type(table), "search_step", None)
    return step is not None and step is not Staged.search_step


def _tensors(clicks: Clicks) -> list[Tensor]:
    return [torch.from_numpy(column) for column in (clicks.ids, clicks.numbers, clicks.labels)]


def _bar(total: int, name: str, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit="step", leave=False, disable=not progress)


@torch.no_grad()
def logits(model: nn.Module, clicks: Clicks, batch: int = EVALUATION_BATCH) -> np.ndarray:
    """Logits float32 [n] of a part, in evaluation mode."""
    was = model.training
    model.eval()
    ids, numbers, _ = _tensors(clicks)
    found = [model(i, x) for i, x in zip(ids.split(batch), numbers.split(batch))]
    model.train(was)
    return torch.cat(found).numpy()


def _auc_of() -> Callable[..., float]:
    try:
        from sklearn.metrics import roc_auc_score
    except ModuleNotFoundError:
        raise MissingExtra("click models", "train") from None
    return roc_auc_score


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve."""
    if not np.isfinite(scores).all():
        raise BadInput("the model's logits are not finite: training diverged; lower lr or table_lr")
    return float(_auc_of()(labels, scores))


def logloss(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean negative log-likelihood, nats, of logits."""
    return float(np.mean(np.logaddexp(0, scores) - labels * scores))
