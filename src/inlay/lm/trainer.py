"""One loop that trains any decoder of this room.

Backbone and tables have an optimiser each: dense AdamW, and `RowAdam` for tables with row-sparse gradients, which moves
and decays only rows that were read. Their gradients are clipped apart, because the norm of a large table's gradient
would throttle the backbone. Both follow one schedule: linear warm-up, then half a cosine down to `floor`.

A batch depends on seed and step alone, and a checkpoint holds everything else: a run that was killed goes on to the
numbers it would have had.

Source: the training loop of STEM (arXiv 2601.10639); row-sparse, and with a multiplier for tables, as Engram
(arXiv 2601.07372) asks.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.interruption import Interruption
from inlay.lm.decoder import Decoder
from inlay.lm.flops import flops_per_token
from inlay.lm.packing import Packed
from inlay.tables import files
from inlay.tables.full import Full
from inlay.tables.row_adam import RowAdam
from inlay.tables.table import Rows, Table

__all__ = ["KIND", "Trainer", "rate", "table_parameters", "token_losses", "validation_loss"]

KIND = "language model run"


def rate(step: int, steps: int, warmup: int, floor: float) -> float:
    """Share of the peak learning rate at a step."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def table_parameters(model: Decoder) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of tables with row-sparse gradients, and of other tables; dense rows of the input are neither."""
    inside = set(model.input.modules())
    rows: dict[int, nn.Parameter] = {}
    dense: dict[int, nn.Parameter] = {}
    for part in model.modules():
        if isinstance(part, Rows):
            sparse = getattr(part, "sparse", False)
            if sparse or part not in inside:
                (rows if sparse else dense).update({id(p): p for p in part.parameters() if p.requires_grad})
    return list(rows.values()), [p for key, p in dense.items() if key not in rows]


@torch.no_grad()
def validation_loss(model: Decoder, ids: np.ndarray | Tensor, length: int, *, batch: int = 32) -> float:
    """Mean negative log-likelihood in nats a token, over windows of `length` side by side."""
    return float(np.mean(token_losses(model, ids, length, batch=batch)))


@torch.no_grad()
def token_losses(model: Decoder, ids: np.ndarray | Tensor, length: int, *, batch: int = 32) -> np.ndarray:
    """Negative log-likelihood in nats, float32 [windows, length], of each token after the first of its window."""
    ids = torch.as_tensor(ids, dtype=torch.long)
    if len(ids) < length + 1:
        raise BadInput(f"{len(ids)} tokens make no window of {length}")
    device, was = model.head.weight.device, model.training
    windows = ids[: (len(ids) - 1) // length * length + 1].unfold(0, length + 1, length)
    model.eval()
    found = []
    try:
        for rows in windows.split(batch):
            rows = rows.to(device)
            logits = model(rows[:, :-1]).logits.float()
            losses = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
            found.append(losses.view(len(rows), length).cpu())
    finally:
        model.train(was)
    return torch.cat(found).numpy()


class Trainer:
    """Trains a decoder.

    Args:
        model: any decoder.
        text: training tokens, int [n].
        steps: batches to learn from.
        length: tokens of a window.
        batch: windows of a batch.
        lr: peak learning rate.
        floor: of the cosine, as a share of the peak.
        warmup: steps.
        weight_decay: decoupled; of matrices only.
        clip: largest norm of the backbone's gradient, and apart from it of the tables'.
        table_lr: multiplier of the tables' learning rate.
        table_decay: weight decay of tables; None: as the backbone's.
        seed: of the order of windows.
        validation: tokens to validate on.
        validate_every: steps; None: at the end alone.
        folder: for `checkpoint` and `log.jsonl`; None keeps nothing.
        identity: what else decides the run (plan, tokenizer); a checkpoint of another one is refused.
        checkpoint_every: steps; None: every two minutes.
        log_every: steps between lines.
        max_minutes: time for training, that before an interruption included; the schedule is then run through in it.
        device: where to train.
        progress: show a bar.
        watch: called with each line of the log.

    Raises:
        BadInput: the folder holds another run.
        Corrupt: its checkpoint is damaged.
    """

    def __init__(
        self, model: Decoder, text: np.ndarray | Tensor, *, steps: int = 600, length: int = 128, batch: int = 16,
        lr: float = 3e-3, floor: float = 0.1, warmup: int = 60, weight_decay: float = 0.1, clip: float = 1.0,
        table_lr: float = 1.0, table_decay: float | None = None, seed: int = 0,
        validation: np.ndarray | Tensor | None = None, validate_every: int | None = None,
        folder: str | Path | None = None, identity: str = "", checkpoint_every: int | None = None, log_every: int = 10,
        max_minutes: float | None = None, device: str = "cpu", progress: bool = False,
        watch: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:  # fmt: skip
        for what, number in (("steps", steps), ("length", length), ("batch", batch), ("log_every", log_every)):
            if number < 1:
                raise BadInput(f"{what} must be at least 1, got {number}")
        for what, amount in (
            ("lr", lr),
            ("clip", clip),
            ("table_lr", table_lr),
            ("max_minutes", 1 if max_minutes is None else max_minutes),
        ):
            if not (math.isfinite(amount) and amount > 0):
                raise BadInput(f"{what} must be above 0, got {amount}")
        if length > model.context:
            raise BadInput(f"windows of {length} tokens do not fit the model's context of {model.context}")
        self.model, self.batches = model.to(device), Packed(text, length, batch, seed)
        low, high = (int(bound) for bound in torch.aminmax(self.batches.ids))
        if low < 0 or high >= model.vocab:
            wrong = low if low < 0 else high
            raise BadInput(f"the text has token {wrong}, the model {model.vocab} of them: it is of another tokenizer")
        self.steps, self.lr, self.floor, self.warmup, self.clip = steps, lr, floor, min(warmup, steps), clip
        self.validation, self.validate_every, self.length = validation, validate_every, length
        self.folder, self.identity = None if folder is None else Path(folder), identity
        self.checkpoint_every, self.log_every, self.progress, self.watch = checkpoint_every, log_every, progress, watch
        self.device, self.seed, self.seconds_most = (
            torch.device(device),
            seed,
            60 * (math.inf if max_minutes is None else max_minutes),
        )
        self.settings = {
            "steps": steps, "length": length, "batch": batch, "lr": lr, "floor": floor, "warmup": self.warmup,
            "weight_decay": weight_decay, "clip": clip, "table_lr": table_lr, "table_decay": table_decay, "seed": seed,
            "parameters": model.num_parameters,
        }  # fmt: skip
        decay = weight_decay if table_decay is None else table_decay
        rows, dense = table_parameters(model)
        tables = {id(p) for p in (*rows, *dense)}
        self.backbone = [p for p in model.parameters() if p.requires_grad and id(p) not in tables]
        self.dense_tables = dense
        groups = [
            {"params": [p for p in self.backbone if p.ndim > 1], "weight_decay": weight_decay, "multiplier": 1.0},
            {"params": [p for p in self.backbone if p.ndim < 2], "weight_decay": 0.0, "multiplier": 1.0},
            {"params": dense, "weight_decay": decay, "multiplier": table_lr},
        ]
        self.optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.95), fused=True)
        self.row_optimiser = RowAdam(rows, lr, weight_decay=decay, multiplier=table_lr, clip=clip) if rows else None
        self.step, self.seconds, self.rows_read = 0, 0.0, 0
        self.log: list[dict[str, Any]] = []
        self.flops = flops_per_token(model, length).training * length * batch
        self.interruption = Interruption()

    @property
    def path(self) -> Path | None:
        """The checkpoint."""
        return None if self.folder is None else self.folder / "checkpoint"

    def run(self, *, resume: bool = True) -> list[dict[str, Any]]:
        """Train to the end, going on from the folder's checkpoint if there is one and `resume`; gives the log."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if resume and self.path is not None and self.path.exists():
                self._restore()
            else:  # lines of a run that was killed before its first checkpoint are of no run
                (self.folder / "log.jsonl").unlink(missing_ok=True)
        self.model.train()
        hooks = self._watch_tables()
        clock, saved = time.monotonic() - self.seconds, time.monotonic()
        try:
            with self.interruption, self._bar() as bar:
                while self.step < self.steps and self.seconds < self.seconds_most:
                    done = max(self.step, round(self.seconds / self.seconds_most * self.steps))
                    share = rate(done, self.steps, self.warmup, self.floor)
                    loss, norm = self._one(share)
                    self.step += 1
                    self.seconds = time.monotonic() - clock
                    bar.update(1)
                    last = self.step == self.steps or self.seconds >= self.seconds_most
                    validate = self.validate_every is not None and self.step % self.validate_every == 0
                    if last or validate or self.step % self.log_every == 0:
                        self._note(loss, norm, share, validate or last)
                        clock = time.monotonic() - self.seconds  # validation is not training
                        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                    every = self.checkpoint_every
                    due = self.step % every == 0 if every else time.monotonic() - saved > 120
                    if (due or last or self.interruption.asked) and self.folder is not None:
                        self._save()
                        saved = time.monotonic()
                    if self.interruption.asked:
                        raise KeyboardInterrupt
        finally:
            for hook in hooks:
                hook.remove()
        if self.row_optimiser is not None:
            self.row_optimiser.flush()
        return self.log

    def _one(self, share: float) -> tuple[float, float]:
        """One step; its loss, and the norm of the backbone's gradient before it was clipped."""
        ids, targets = (part.to(self.device) for part in self.batches(self.step))
        optimisers = [self.optimiser, *([self.row_optimiser] if self.row_optimiser else [])]
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = self.lr * share * (1 if optimiser is self.row_optimiser else group["multiplier"])
        loss = self.model.loss(ids, targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.backbone, self.clip)
        if self.dense_tables:
            nn.utils.clip_grad_norm_(self.dense_tables, self.clip)
        if not torch.isfinite(norm):
            raise BadInput(f"step {self.step + 1}: the gradient is not finite; lower lr ({self.lr:.3g})")
        for optimiser in optimisers:
            optimiser.step()
        for part in self.model.modules():
            if isinstance(part, Table):
                part.after_step()
        return float(loss.detach()), float(norm)

    def _watch_tables(self) -> list[Any]:
        """Before rows are read: pay the decay they owe, and count them."""
        optimiser, hooks = self.row_optimiser, []
        if optimiser is None:
            return []
        learnt = {id(weight) for group in optimiser.param_groups for weight in group["params"]}
        for part in self.model.modules():
            if isinstance(part, Rows):
                inner = {id(p) for child in part.modules() if isinstance(child, Rows) and child is not part
                         for p in child.parameters()}  # fmt: skip
                own = [p for p in part.parameters() if id(p) in learnt and id(p) not in inner]
                if own:
                    hooks.append(part.register_forward_pre_hook(partial(self._before_read, optimiser, own)))
        return hooks

    def _before_read(self, optimiser: RowAdam, weights: list[nn.Parameter], table: Rows, args: tuple[Any, ...]) -> None:
        if table.training and torch.is_grad_enabled():
            ids = args[0].reshape(-1).unique()
            self.rows_read += 4 * ids.numel() * table.dim
            for weight in weights:
                # A table that shares rows keeps few, and which of them ids read is its own affair: pay for all.
                optimiser.refresh(weight, ids if isinstance(table, Full) else None)

    def _note(self, loss: float, norm: float, share: float, validate: bool) -> None:
        tokens = self.step * self.length * self.batches.batch
        line = {
            "step": self.step, "tokens": tokens, "flops": self.flops * self.step, "table_bytes": self.rows_read,
            "loss": loss, "lr": self.lr * share, "norm": norm, "seconds": self.seconds,
            "tokens_per_second": tokens / max(self.seconds, 1e-9),
        }  # fmt: skip
        if validate and self.validation is not None:
            if self.row_optimiser is not None:
                self.row_optimiser.flush()
            line["validation"] = validation_loss(self.model, self.validation, self.length)
        line = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
        self.log.append(line)
        if self.folder is not None:
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.watch is not None:
            self.watch(line)

    def _save(self) -> None:
        assert self.path is not None
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        numbers: dict[str, dict[str, float]] = {}  # of the row optimiser: float64 sums that a tensor would round
        for kind, optimiser in (("optimiser", self.optimiser), ("rows", self.row_optimiser)):
            for number, state in (optimiser.state_dict()["state"] if optimiser else {}).items():
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        tensors[f"{kind}.{number}.{name}"] = value
                    else:
                        numbers.setdefault(f"{kind}.{number}", {})[name] = value
        facts = {
            "identity": self.identity, "settings": self.settings, "step": self.step, "seconds": self.seconds,
            "rows_read": self.rows_read, "numbers": numbers,
        }  # fmt: skip
        files.write(self.path, tensors, facts, kind=KIND)

    def _restore(self) -> None:
        assert self.path is not None and self.folder is not None  # noqa: PT018
        tensors, facts = files.read(self.path, kind=KIND)
        differ = [name for name, value in self.settings.items() if facts["settings"].get(name) != value]
        if facts["identity"] != self.identity or differ:
            what = f"with another {', '.join(differ)}" if differ else "of another plan or tokenizer"
            raise BadInput(f"{self.folder} holds a run {what}: start anew with --fresh, or in another folder")
        self.model.load_state_dict(_under(tensors, "model."))
        for kind, optimiser in (("optimiser", self.optimiser), ("rows", self.row_optimiser)):
            state: dict[int, dict[str, Any]] = {}
            for name, tensor in _under(tensors, f"{kind}.").items():
                number, _, key = name.partition(".")
                state.setdefault(int(number), dict(facts["numbers"].get(f"{kind}.{number}", {})))[key] = tensor
            if optimiser is not None and state:
                optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.step, self.seconds, self.rows_read = int(facts["step"]), float(facts["seconds"]), int(facts["rows_read"])
        self.log = [line for line in _lines(self.folder / "log.jsonl") if line["step"] <= self.step]
        whole = "".join(json.dumps(line) + "\n" for line in self.log)  # later lines will be written again
        (self.folder / "log.jsonl").write_text(whole, encoding="utf-8")

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(total=self.steps, initial=self.step, desc="train", unit=" steps", disable=not self.progress)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("}\n"):  # a kill may have left half a line
                yield json.loads(line)
