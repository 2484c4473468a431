"""What the reproductions of language models share: English text, arms trained beside each other, rates tuned per arm.

An arm is a name that a module-level function turns into a decoder. Every arm sees the same windows in the same order
for the same seed. Its learning rate is the one of `RATES` with the lowest validation loss at the full budget with the
first seed; where that is the highest or the lowest, the next one beyond is tried too. Losses are of held-out documents,
in nats a token. Runs are spread over two processes with one thread each.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inlay.reproductions.tables._auc_gap import Gap, gap_of

if TYPE_CHECKING:
    from inlay.lm.decoder import Decoder

__all__ = [
    "CONTEXT",
    "RATES",
    "VOCAB",
    "Arm",
    "English",
    "Job",
    "Outcome",
    "arms",
    "curve",
    "english",
    "gap",
    "gap_of_losses",
    "mean",
    "run_jobs",
]

VOCAB, CONTEXT, BATCH = 2048, 64, 16
SHAPE: dict[str, Any] = {"vocab": VOCAB, "dim": 96, "layers": 4, "heads": 4, "hidden": 256, "context": CONTEXT}
RATES = (3e-3, 6e-3, 1.2e-2)
HELD_OUT = 48_000  # tokens of validation text that losses are means over


class English(NamedTuple):
    """Token ids of training and held-out documents, int64, and what made them."""

    train: np.ndarray
    valid: np.ndarray
    tokenizer: Any


@dataclass(frozen=True)
class Arm:
    """Options of the trainer that belong to an arm; `rates` are tried for it."""

    name: str
    rates: tuple[float, ...] = RATES
    options: dict[str, Any] = field(default_factory=dict, hash=False)


class Job(NamedTuple):
    """One run."""

    arm: Arm
    lr: float
    seed: int
    steps: int


@dataclass
class Outcome:
    """What a run gave.

    `losses`: nats a token of each held-out window, float32 [windows]. `flops`: of training, all steps. `curve`: steps
    and training losses. `seen`: what `probe` found.
    """

    job: Job
    losses: np.ndarray
    flops: float
    parameters: int
    active: int
    seconds: float
    curve: list[tuple[int, float]]
    seen: Any = None

    @property
    def loss(self) -> float:
        """Mean over windows."""
        return float(self.losses.mean())


def english(data: Path, vocab: int = VOCAB) -> English:
    """`text/english_text`, a tenth of its documents held out, in byte-level BPE learnt from the others."""
    from inlay.lm.text import encode, learn_tokenizer, split_documents

    with gzip.open(data / "text" / "english_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        train, valid = split_documents([json.loads(line)["text"] for line in lines], 0.1)
    tokenizer = learn_tokenizer(train, vocab)
    return English(encode(train, tokenizer), encode(valid, tokenizer)[:HELD_OUT], tokenizer)


def run_jobs(
    make: Callable[[str, Any], Decoder], jobs: Sequence[Job], text: English, *, given: Any = None,
    probe: Callable[[Decoder, np.ndarray], Any] | None = None, batch: int = BATCH, progress: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Run jobs, two at a time; outcomes in their order.

    Args:
        make: (arm's name, `given`) → a decoder; a function of a module. The seed is set before it is called.
        jobs: what to run.
        text: to learn from and to judge by.
        given: whatever else `make` needs; it must pickle.
        probe: (trained decoder, held-out ids) → anything that pickles; a function of a module.
        batch: windows of a batch.
        progress: show a bar.
    """
    from tqdm import tqdm

    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "text.npz", train=text.train, valid=text.valid)
        work = partial(_run, make=make, folder=folder, given=given, probe=probe, batch=batch)
        workers = max(1, min(2, os.cpu_count() or 1, len(jobs)))
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread) as pool:
            # Long jobs first, so that the two processes end at about the same time.
            order = sorted(range(len(jobs)), key=lambda i: -jobs[i].steps)
            found = {i: pool.submit(work, jobs[i]) for i in order}
            bar = tqdm(total=len(jobs), unit=" runs", disable=not progress)
            for one in found.values():
                one.add_done_callback(lambda _: bar.update(1))
            outcomes = [found[i].result() for i in range(len(jobs))]
            bar.close()
    return outcomes


def arms(
    make: Callable[[str, Any], Decoder], tried: Sequence[Arm], text: English, *, steps: int, seeds: Sequence[int],
    shorter: Sequence[int] = (), **options: Any,
) -> tuple[dict[str, float], dict[str, dict[int, list[Outcome]]]]:  # fmt: skip
    """Each arm at its own best rate.

    Returns:
        The rate of each arm, and its outcomes by steps (the full budget and each of `shorter`), one a seed.
    """
    first = [Job(arm, lr, seeds[0], steps) for arm in tried for lr in arm.rates]
    found = dict(zip(first, run_jobs(make, first, text, **options), strict=True))
    beyond = []
    for arm in tried:
        by_rate = {job.lr: one.loss for job, one in found.items() if job.arm == arm}
        best = min(by_rate, key=lambda lr: by_rate[lr])
        edge = {min(by_rate): 0.5, max(by_rate): 2.0}
        if len(by_rate) > 1 and best in edge:
            beyond.append(Job(arm, best * edge[best], seeds[0], steps))
    if beyond:
        found |= dict(zip(beyond, run_jobs(make, beyond, text, **options), strict=True))
    rates: dict[str, float] = {}
    for arm in tried:
        by_rate = {job.lr: one.loss for job, one in found.items() if job.arm == arm}
        rates[arm.name] = min(by_rate, key=lambda lr: by_rate[lr])
    rest = [Job(arm, rates[arm.name], seed, steps) for arm in tried for seed in seeds[1:]]
    rest += [Job(arm, rates[arm.name], seed, fewer) for arm in tried for fewer in shorter for seed in seeds]
    found |= dict(zip(rest, run_jobs(make, rest, text, **options), strict=True))
    outcomes = {
        arm.name: {
            budget: [found[Job(arm, rates[arm.name], seed, budget)] for seed in seeds] for budget in (steps, *shorter)
        }
        for arm in tried
    }
    return rates, outcomes


def mean(outcomes: Sequence[Outcome]) -> float:
    """Mean loss over seeds."""
    return float(np.mean([one.loss for one in outcomes]))


def gap(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Gap:
    """Loss of ours minus theirs, paired by seed and by held-out window; below 0 is better."""
    return gap_of_losses([one.losses for one in ours], [one.losses for one in theirs])


def gap_of_losses(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Gap:
    """The same of losses [windows], one array a seed."""
    apart = np.stack([a - b for a, b in zip(ours, theirs, strict=True)])
    blocks = [float(block.mean()) for block in np.array_split(apart.mean(0), 60)]  # windows side by side are alike
    return gap_of(apart.mean(1).tolist(), float(np.std(blocks, ddof=1)) / len(blocks) ** 0.5)


def curve(outcomes: Sequence[Outcome], points: int = 30) -> list[list[float]]:
    """[FLOPs, training loss] along a run: means over seeds and over stretches of steps."""
    losses = np.mean([[loss for _, loss in one.curve] for one in outcomes], axis=0)
    parts = np.array_split(losses, points)
    ends = np.cumsum([len(part) for part in parts])
    each = outcomes[0].flops / len(losses)
    return [[float(f"{end * each:.4g}"), round(float(part.mean()), 4)] for end, part in zip(ends, parts, strict=True)]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _run(job: Job, *, make: Any, folder: str, given: Any, probe: Any, batch: int) -> Outcome:
    import torch

    from inlay.lm.flops import flops_per_token
    from inlay.lm.trainer import Trainer, table_parameters, token_losses

    with np.load(Path(folder) / "text.npz") as text:
        train, valid = text["train"], text["valid"]
    torch.manual_seed(job.seed)
    model = make(job.arm.name, given)
    one = Trainer(
        model, train, steps=job.steps, length=CONTEXT, batch=batch, lr=job.lr, seed=job.seed,
        warmup=max(10, job.steps // 10), log_every=1, **job.arm.options,
    )  # fmt: skip
    log = one.run()
    return Outcome(
        job,
        token_losses(model, valid, CONTEXT).mean(1),
        flops_per_token(model, CONTEXT).training * CONTEXT * batch * job.steps,
        model.num_parameters,
        model.num_parameters - sum(p.numel() for part in table_parameters(model) for p in part),
        one.seconds,
        [(line["step"], line["loss"]) for line in log],
        None if probe is None else probe(model, valid),
    )
