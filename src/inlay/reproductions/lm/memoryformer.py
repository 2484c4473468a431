"""MemoryFormer against the dense decoder: loss at equal tokens and at equal FLOPs, and whether buckets are used.

The paper claims better models for a fraction of the FLOPs, and that more bits a bucket and more bits of expansion help.
Here the claim is shown if, at equal tokens and each at its own best learning rate, MemoryFormer's validation loss is
below the dense decoder's, its fully connected part takes at least 8 times fewer FLOPs, and both orders hold (τ = 8
before 4, two bits of expansion before none), intervals clear of 0. It is partly shown if FLOPs are as few and the loss
is within 0.2 nats at equal tokens or below at equal FLOPs.

The paper trains on 300 billion tokens; a table's row meets few of a small run's, and a matrix all of them. Tables learn
at three times the rate of the rest, as the paper has it against a dense model. Nearly every row is read in every step,
so gradients are dense. The ablations have the rate of the main arm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.reproductions.lm._arms import CONTEXT, SHAPE, Arm, Job, Outcome, arms, curve, english, gap, run_jobs
from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.lm.decoder import Decoder

PAPER = "MemoryFormer: Minimize Transformer Computation by Removing Fully-Connected Layers (arXiv 2411.12992)"

STEPS = 300
MAIN, ABLATIONS = "tau 8, 2 bits", ("tau 4, 2 bits", "tau 8, 0 bits")


def make(arm: str, given: Any = None) -> Decoder:
    """The decoder of an arm."""
    from inlay.lm.decoder import Decoder
    from inlay.lm.memory_block import memoryformer

    if arm == "dense":
        return Decoder(**SHAPE)
    _, tau, bits, _ = arm.replace(",", "").split()
    shape = {name: value for name, value in SHAPE.items() if name != "hidden"}
    return memoryformer(**shape, tau=int(tau), expand_bits=int(bits), sparse=False)


def probe(model: Decoder, valid: np.ndarray) -> dict[str, list[float]]:
    """How evenly the buckets of memory layers are used by held-out text, and how many are dead, layer by layer."""
    import torch

    from inlay.lm.memory_linear import BucketUsage, MemoryLinear

    counts: dict[str, torch.Tensor] = {}

    def note(name: str) -> Any:
        def hook(part: MemoryLinear, args: tuple[torch.Tensor]) -> None:
            counts[name] = counts.get(name, 0) + part.bucket_usage(args[0]).counts

        return hook

    hooks = [
        part.register_forward_pre_hook(note(name))
        for name, part in model.named_modules()
        if isinstance(part, MemoryLinear) and name.endswith(("query", "up", "down"))  # keys and values read as queries
    ]
    with torch.no_grad():
        for rows in torch.from_numpy(valid[: len(valid) // CONTEXT * CONTEXT]).view(-1, CONTEXT).split(64):
            model.eval()(rows)
    for hook in hooks:
        hook.remove()
    usage = {name: BucketUsage(own) for name, own in counts.items()}
    return {
        name: [round(own.evenness, 4), round(float((own.dead / own.counts.shape[1]).mean()), 4)]
        for name, own in usage.items()
    }


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All arms, about ten minutes."""
    began = time.perf_counter()
    text = english(data)
    options: dict[str, Any] = {"steps": STEPS, "seeds": seeds, "probe": probe, "progress": progress}
    tables = {"table_lr": 3.0}
    rates, every = arms(make, [Arm("dense"), Arm(MAIN, options=tables)], text, **options)
    others = [Arm(name, (rates[MAIN],), tables) for name in ABLATIONS]
    rates_of_others, ablated = arms(make, others, text, **options)
    rates |= rates_of_others
    found = {name: own[STEPS] for name, own in (every | ablated).items()}

    flops = {name: _flops(name) for name in found}
    fewer = round(STEPS * flops[MAIN]["total"] / flops["dense"]["total"])
    short = run_jobs(make, [Job(Arm("dense"), rates["dense"], seed, fewer) for seed in seeds], text, progress=progress)
    ratio = flops["dense"]["connected"] / flops[MAIN]["connected"]
    gaps = {
        "equal tokens": gap(found[MAIN], found["dense"]),
        "equal FLOPs": gap(found[MAIN], short),
        "tau 8 − tau 4": gap(found[MAIN], found["tau 4, 2 bits"]),
        "2 bits − 0 bits": gap(found[MAIN], found["tau 8, 0 bits"]),
    }
    usage = _usage(found[MAIN])
    even = min(share for share, _ in usage.values())
    ordered = gaps["tau 8 − tau 4"].high < 0 and gaps["2 bits − 0 bits"].high < 0
    better = gaps["equal tokens"].high < 0
    near = gaps["equal tokens"].mean <= 0.2 or gaps["equal FLOPs"].high < 0
    loss = {name: [round(one.loss, 4) for one in own] for name, own in found.items()}
    loss[f"dense, {fewer} steps"] = [round(one.loss, 4) for one in short]
    means = {name: float(np.mean(own)) for name, own in loss.items()}
    return Result(
        name="memoryformer",
        title="MemoryFormer",
        room="lm",
        source=PAPER,
        claim="sign-hashed tables in place of linear maps: better models for a fraction of the FLOPs",
        paper="Pythia-70M shape: average of six tasks 0.404 for 4.7 G a block, 0.375 for 10.7 G dense",
        metric="validation nats a token at equal tokens (lower is better)",
        baseline=Figure("dense", round(means["dense"], 4)),
        method=Figure("MemoryFormer", round(means[MAIN], 4)),
        data=f"English text, {SHAPE['vocab']:,} tokens, {STEPS * 1024:,} of them for training; dim 96, 4 layers",
        verdict="shown" if better and ratio >= 8 and ordered else "partly" if near and ratio >= 8 else "not shown",
        detail=(
            f"Each arm at its own best rate ({', '.join(f'{name} {lr:g}' for name, lr in rates.items())}; ablations at "
            f"the main arm's). Its fully connected part takes {ratio:.1f} times fewer FLOPs than the dense one, the "
            f"whole model {flops['dense']['total'] / flops[MAIN]['total']:.1f} times fewer (the head is the same). "
            f"Differences of loss: {'; '.join(f'{name} {one}' for name, one in gaps.items())} (equal FLOPs: dense with "
            f"{fewer} steps; below 0 the first is better). More bits are {'' if ordered else 'not '}better on both "
            f"axes with intervals clear of 0. Buckets of the least even layer have {even:.1%} of the largest entropy. "
            "MemoryFormer keeps "
            f"{found[MAIN][0].parameters / found['dense'][0].parameters:.0f} times as many numbers as dense."
        ),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "loss": loss,
            "rate": rates,
            "curves": {name: curve(own) for name, own in found.items()},
            "gaps": {name: [round(value, 4) for value in one] for name, one in gaps.items()},
            "FLOPs a token": flops,
            "parameters": {name: own[0].parameters for name, own in found.items()},
            "evenness and dead share of buckets": usage,
        },
    )


def _flops(name: str) -> dict[str, int]:
    from inlay.lm.flops import flops_per_token

    found = flops_per_token(make(name), CONTEXT)
    return {"scores": found.scores, "connected": found.connected, "head": found.head, "total": found.total}


def _usage(outcomes: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
    means = {name: np.mean([one.seen[name] for one in outcomes], axis=0) for name in outcomes[0].seen}
    return {name: (round(float(even), 4), round(float(dead), 4)) for name, (even, dead) in means.items()}
