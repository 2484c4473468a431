"""The training loop: stages of steps over batches, plain torch, meant to be read in a sitting.

A run lives in a folder: `checkpoint.safetensors` (everything needed to go on; replaced as a whole), `metrics.jsonl`
(a line each few steps). Kill it at any moment, start it again, and it ends with the same parameters as a run that was
never interrupted. With `max_minutes` the learning rate follows the clock where that is ahead of the steps, so a run
that has to stop early still ends on a schedule that reached its end.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inlay.encoders.items import longest_first
from inlay.errors import BadInput
from inlay.interruption import Interruption
from inlay.training import checkpoint
from inlay.training.batching import Batch
from inlay.training.cached import cached_backward, join
from inlay.training.models import Model, select
from inlay.training.scores import Pool
from inlay.training.stage import Stage

__all__ = ["Evaluate", "Report", "Trainer"]

Evaluate = Callable[[Model], Mapping[str, float]]
# A batch, its texts tokenised in parts, where each text is among those parts, and what the teacher says of it.
Ready = tuple[Batch, list[Any], Tensor, Tensor | None]


@dataclass
class Report:
    """How a run ended: `stopped` is "finished" or "time"."""

    steps: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stopped: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Run stages over a model.

    Args:
        model: what is trained, in place.
        stages: one after another, each with a fresh optimiser.
        folder: where checkpoint and metrics are kept.
        seed: of batches and dropout. The model's own start is made before it comes here.
        device: where to train.
        max_minutes: time for all stages, that before an interruption included; shared out by their rows.
        identity: names what is run; a checkpoint of another identity or seed is refused.
        checkpoint_every: steps between checkpoints; None saves every two minutes.
        log_every: steps between lines of metrics.
        evaluate: model → figures, called before the first step, every `evaluate_every` steps, and at the end.
        evaluate_every: steps; None only before and after.
        progress: show a bar.
    """

    def __init__(
        self, model: Model, stages: Sequence[Stage], folder: str | Path, *, seed: int = 0, device: str = "cpu",
        max_minutes: float | None = None, identity: str = "", checkpoint_every: int | None = None, log_every: int = 10,
        evaluate: Evaluate | None = None, evaluate_every: int | None = None, progress: bool = False,
    ) -> None:  # fmt: skip
        if not stages:
            raise BadInput("nothing to train: give at least one stage")
        if max_minutes is not None and not max_minutes > 0:
            raise BadInput(f"max_minutes must be above 0, got {max_minutes}")
        self.model, self.stages, self.folder = model.to(device), list(stages), Path(folder)
        self.seed, self.device, self.identity = seed, torch.device(device), identity
        self.budget = math.inf if max_minutes is None else 60 * max_minutes
        self.checkpoint_every, self.log_every, self.progress = checkpoint_every, log_every, progress
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.losses = nn.ModuleList([stage.terms for stage in self.stages]).to(device)
        self.report = Report()
        self.at = (0, 0)  # stage and step to do next
        self.stage_began = 0.0  # seconds of training before the present stage
        self.interruption = Interruption()

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / "checkpoint.safetensors"

    def run(self, *, resume: bool = True) -> Report:
        """Train to the end, going on from the folder's checkpoint if there is one and `resume`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.seed)
        tensors = self._restore() if resume and self.path.exists() else None
        if self.report.stopped:
            return self.report
        if tensors is None:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            self._evaluate()
        self.clock = time.monotonic() - self.report.seconds
        with self.interruption:
            for number in range(self.at[0], len(self.stages)):
                self._run_stage(number, tensors)
                tensors = None
                self.at, self.stage_began = (number + 1, 0), self.report.seconds
        self._evaluate()
        planned = sum(stage.steps or 0 for stage in self.stages)
        self.report.stopped = "finished" if self.report.steps == planned else "time"
        self._save(None)
        return self.report

    def _run_stage(self, number: int, tensors: dict[str, Tensor] | None) -> None:
        stage, first = self.stages[number], self.at[1]
        assert stage.steps is not None
        parameters = select(self.model, stage.train) + list(stage.terms.parameters())
        matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        # Fused: eight times as fast on a token table, where the optimiser is most of a step.
        optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=stage.lr, fused=True)
        if tensors is not None:
            checkpoint.restore_optimiser(optimiser, tensors)
        work = [(s.steps or 0) * s.batch_size for s in self.stages[number:]]
        seconds = max((self.budget - self.stage_began) * work[0] / sum(work), 1e-9)
        self.model.train()
        saved = time.monotonic()
        with self._bar(stage, number, first) as bar:
            for step, (batch, parts, order, taught) in enumerate(self._batches(stage, number, first), first):
                spent = self.report.seconds - self.stage_began
                progress = max(step / stage.steps, spent / seconds)
                if progress >= 1:
                    break
                lr = stage.rate(progress)
                for group in optimiser.param_groups:
                    group["lr"] = lr
                optimiser.zero_grad(set_to_none=True)
                loss = self._backward(stage, batch, parts, order, taught)
                norm = nn.utils.clip_grad_norm_(parameters, stage.clip)
                if not torch.isfinite(norm):
                    at = f"stage {number + 1}, step {step + 1}"
                    raise BadInput(f"{at}: the gradient is not finite; lower lr ({lr:.3g})")
                optimiser.step()
                self._count(batch, parts)
                self.at = (number, step + 1)
                bar.update(1)
                if self.evaluate_every and (step + 1) % self.evaluate_every == 0:
                    self._evaluate()
                if (step + 1) % self.log_every == 0 or step + 1 == stage.steps:
                    parts_of = getattr(stage.terms[batch.loss], "parts", {})
                    self._log(loss=float(loss), lr=lr, norm=float(norm), source=batch.source, **parts_of)
                    bar.set_postfix_str(f"loss {float(loss):.4g}, lr {lr:.2g}", refresh=False)
                every = self.checkpoint_every
                due = (step + 1) % every == 0 if every else time.monotonic() - saved > 120
                if due or self.interruption.asked:
                    self._save(optimiser)
                    saved = time.monotonic()
                if self.interruption.asked:
                    raise KeyboardInterrupt

    def _batches(self, stage: Stage, number: int, first: int) -> Iterator[Ready]:
        """Batches ready to be computed, the next one prepared while this one trains."""
        plans = stage.batcher.batches(self.seed * 1000 + number, first)

        def prepare() -> Ready:
            batch = next(plans)
            size = stage.micro or len(batch.shown)
            order = longest_first([len(shown.text) for shown in batch.shown]) if stage.micro else list(range(size))
            spans = [order[low : low + size] for low in range(0, len(order), size)]
            parts = [self.model.tokenize([batch.shown[i] for i in span]) for span in spans]
            taught = None if stage.teacher is None else torch.from_numpy(stage.teacher.rows(batch.texts))
            return batch, parts, torch.tensor(order).argsort(), taught

        with ThreadPoolExecutor(1) as worker:
            coming = worker.submit(prepare)
            while True:
                ready, coming = coming.result(), worker.submit(prepare)
                yield ready

    def _backward(self, stage: Stage, batch: Batch, parts: list[Any], order: Tensor, taught: Tensor | None) -> Tensor:
        order = order.to(self.device)
        taught = None if taught is None else taught.to(self.device)

        def loss_of(vectors: dict[str, Tensor]) -> Tensor:
            rows = {head: tensor[order] for head, tensor in vectors.items()}
            return stage.terms[batch.loss](Pool(rows, batch, taught))

        parts = [part.to(self.device) for part in parts]
        if stage.cached:
            return cached_backward(self.model, parts, loss_of)
        loss = loss_of(join([self.model(part) for part in parts]))
        loss.backward()
        return loss.detach()

    def _count(self, batch: Batch, parts: list[Any]) -> None:
        self.report.steps += 1
        self.report.rows += len(batch)
        self.report.tokens += sum(part.total for part in parts)
        self.report.seconds = time.monotonic() - self.clock

    def _evaluate(self) -> None:
        if self.evaluate is not None:
            self.report.metrics = dict(self.evaluate(self.model))
            self._log(**self.report.metrics)
            self.model.train()

    def _log(self, **figures: Any) -> None:
        line: dict[str, Any] = {
            "stage": self.at[0],
            "step": self.at[1],
            "total": self.report.steps,
            "rows": self.report.rows,
        }
        line |= {"seconds": round(self.report.seconds, 3)}
        line |= {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in figures.items()}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _save(self, optimiser: torch.optim.Optimizer | None) -> None:
        facts = {"identity": self.identity, "seed": self.seed, "at": self.at, "stage_began": self.stage_began}
        checkpoint.save(self.path, facts | {"report": vars(self.report)}, self.model, self.losses, optimiser)

    def _restore(self) -> dict[str, Tensor]:
        facts, tensors = checkpoint.load(self.path)
        if (facts["identity"], facts["seed"]) != (self.identity, self.seed):
            raise BadInput(
                f"{self.folder} holds a run of {facts['identity'] or 'something else'} with seed {facts['seed']}, not "
                f"of {self.identity or 'this'} with seed {self.seed}: start anew with --fresh, or in another folder"
            )
        self.model.load_state_dict(checkpoint.part(tensors, "model."))
        self.losses.load_state_dict(checkpoint.part(tensors, "losses."))
        torch.set_rng_state(tensors["random"])
        if torch.cuda.is_available() and "cuda.0" in tensors:
            torch.cuda.set_rng_state_all(list(checkpoint.part(tensors, "cuda.").values()))
        self.report = Report(**facts["report"])
        self.at, self.stage_began = (int(facts["at"][0]), int(facts["at"][1])), facts["stage_began"]
        # Lines that were written after the checkpoint will be written again.
        log = self.folder / "metrics.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [x for x in lines if x.endswith("}\n") and json.loads(x)["total"] <= self.report.steps]
        log.write_text("".join(kept), encoding="utf-8")
        return tensors

    def _bar(self, stage: Stage, number: int, first: int) -> Any:
        from tqdm import tqdm

        name = stage.name or f"stage {number + 1}/{len(self.stages)}"
        return tqdm(total=stage.steps, initial=first, desc=name, unit=" steps", disable=not self.progress)
