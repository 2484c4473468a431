"""Engram against the dense decoder, and against the same rows added to the input.

The paper claims that a gated memory of hashed n-grams in an early block lowers the loss at no cost in FLOPs worth
mentioning, that the gate and the folding of tokens carry most of it, that the loss falls with the logarithm of the
number of rows, and that a model which has learnt with its memory is lost without it. Here the first holds if one memory
of 16,384 slots has a lower validation loss than the dense decoder and than over-encoding, each at its own best learning
rate, the interval clear of 0, by at least 0.1 nats from dense; the third if each fourfold number of slots lowers the
loss; the last if switching the memory off costs more than it had gained.

Over-encoding adds its rows up: divided by the number of terms, as its paper has it, they learnt more slowly here.
Ablations take the rate of the full method. Tables learn by row, at five times the rate and without decay. The dense
decoder is smaller in parameters, as it has no rows; experts to trade them for, as in the paper, it has not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.reproductions.lm._arms import CONTEXT, SHAPE, Arm, Job, Outcome, arms, curve, english, gap, mean, run_jobs
from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.lm.decoder import Decoder

PAPER = "Conditional Memory via Scalable Lookup (Engram, arXiv 2601.07372)"

STEPS, SLOTS = 450, 16_384
MEMORY: dict[str, Any] = {"table_lr": 5.0, "table_decay": 0.0}
TUNED = ("dense", "engram", "engram in two", "over-encoding")
CHANGED: dict[str, dict[str, Any]] = {
    "ids as they are": {"folding": None}, "no gate": {"gate": False}, "no convolution": {"conv": 0},
    "2-grams": {"orders": (2,)}, "a quarter of the slots": {"slots": SLOTS // 4},
    "a sixteenth of the slots": {"slots": SLOTS // 16},
}  # fmt: skip


def make(arm: str, folding: np.ndarray) -> Decoder:
    """The decoder of an arm; "engram in two" has half of the heads in each of two blocks."""
    import torch

    from inlay.lm.decoder import Decoder
    from inlay.lm.engram import engram_parts
    from inlay.lm.over_encoding import OverEncoding
    from inlay.tables.full import Full

    vocab, dim = SHAPE["vocab"], SHAPE["dim"]
    options: dict[str, Any] = {"slots": SLOTS, "folding": folding, "separator": 0} | CHANGED.get(arm, {})
    if arm == "dense":
        return Decoder(**SHAPE)
    if arm == "over-encoding":
        tokens = Full(vocab, dim, scale=0.0)
        deviation = dim**-0.5
        torch.nn.init.trunc_normal_(tokens.weight, std=deviation, a=-3 * deviation, b=3 * deviation)
        return Decoder(**SHAPE, input=OverEncoding(tokens, average=False, **options))
    if arm == "engram in two":
        return Decoder(**SHAPE, pre_block=engram_parts(dim, vocab, (1, 2), heads=2, **options))
    return Decoder(**SHAPE, pre_block=engram_parts(dim, vocab, (1,), **options))


def look(model: Decoder, valid: np.ndarray) -> dict[str, Any]:
    """KL(layer ‖ final) by layer; with a memory, the loss without it and the mean of its gates."""
    import torch

    from inlay.lm.engram import Engram
    from inlay.lm.gates import gate_map
    from inlay.lm.layer_lens import lens
    from inlay.lm.trainer import token_losses

    texts = torch.from_numpy(valid[: 100 * CONTEXT]).view(-1, CONTEXT)
    found: dict[str, Any] = {"lens": [round(float(value), 4) for value in lens(model, texts.split(20))]}
    parts = [part for part in model.modules() if isinstance(part, Engram)]
    if any(part.gate for part in parts):
        maps = [gate_map(model, text).alpha for text in texts[:20]]
        found["gates"] = [round(float(value), 4) for value in np.concatenate(maps, axis=1).mean(1)]
    for part in parts:
        part.enabled = False
    if parts:
        found["off"] = float(token_losses(model, valid, CONTEXT).mean())
    return found


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All arms; a quarter of an hour on two quiet cores."""
    from inlay.lm.token_folding import fold_tokens

    began = time.perf_counter()
    text = english(data)
    folding = fold_tokens(text.tokenizer)
    options: dict[str, Any] = {"given": folding, "probe": look, "progress": progress}
    tuned = [Arm(name, options={} if name == "dense" else MEMORY) for name in TUNED]
    rates, outcomes = arms(make, tuned, text, steps=STEPS, seeds=seeds, **options)
    found = {name: by_steps[STEPS] for name, by_steps in outcomes.items()}
    jobs = [Job(Arm(name, options=MEMORY), rates["engram"], seed, STEPS) for name in CHANGED for seed in seeds]
    others = run_jobs(make, jobs, text, **options)
    for number, name in enumerate(CHANGED):
        found[name] = others[number * len(seeds) : (number + 1) * len(seeds)]

    gaps = {f"engram − {name}": gap(found["engram"], own) for name, own in found.items() if name != "engram"}
    gaps["a quarter − a sixteenth"] = gap(found["a quarter of the slots"], found["a sixteenth of the slots"])
    from_dense = gaps["engram − dense"]
    better = from_dense.high < 0 and gaps["engram − over-encoding"].high < 0
    enough = from_dense.mean <= -0.1
    grows = gaps["engram − a quarter of the slots"].high < 0 and gaps["a quarter − a sixteenth"].high < 0
    cost = float(np.mean([one.seen["off"] - one.loss for one in found["engram"]]))
    lost = cost > -from_dense.mean
    flops = found["engram"][0].flops / found["dense"][0].flops - 1
    return Result(
        name="engram",
        title="Engram",
        room="lm",
        source=PAPER,
        claim="gated rows of hashed n-grams in an early block lower the loss, and more than rows at the input do",
        paper="loss on the Pile 1.960 → 1.950 at equal parameters and FLOPs (27B); 1.808 → 1.770 with one memory (3B)",
        metric="validation nats a token (lower is better)",
        baseline=Figure("dense", round(mean(found["dense"]), 4)),
        method=Figure("one Engram before block 1", round(mean(found["engram"]), 4)),
        data=f"English text, {SHAPE['vocab']:,} tokens, {STEPS * 1024:,} of them for training; dim 96, 4 layers",
        verdict="shown" if better and enough and grows and lost else "partly" if from_dense.high < 0 else "not shown",
        detail=(
            f"Each tuned arm at its own best rate ({', '.join(f'{name} {lr:g}' for name, lr in rates.items())}). "
            f"Differences with 95% intervals: {'; '.join(f'{name} {one}' for name, one in gaps.items())}. The memory "
            f"takes {flops:.1%} more FLOPs. Folding makes {1 - (folding.max() + 1) / len(folding):.1%} of the tokens "
            f"another's. Switched off after training the memory costs {cost:.3f} nats, against {-from_dense.mean:.3f} "
            f"that it gained. KL(layer ‖ final): dense {_lens(found['dense'])}, engram {_lens(found['engram'])}. The "
            f"dense decoder has no experts to trade for rows: this is at equal tokens, not at equal parameters."
        ),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "loss": {name: [round(one.loss, 4) for one in own] for name, own in found.items()},
            "rate": rates,
            "curves": {name: curve(own) for name, own in found.items() if name in TUNED},
            "gaps": {name: [round(value, 4) for value in one] for name, one in gaps.items()},
            "loss without memory": {
                name: [round(one.seen["off"], 4) for one in own] for name, own in found.items() if name != "dense"
            },
            "gates": {name: own[0].seen["gates"] for name, own in found.items() if "gates" in own[0].seen},
            "lens": {name: own[0].seen["lens"] for name, own in found.items()},
            "parameters": {name: [own[0].parameters, own[0].active] for name, own in found.items()},
        },
    )


def _lens(outcomes: Sequence[Outcome]) -> str:
    return " / ".join(f"{value:.2f}" for value in np.mean([one.seen["lens"] for one in outcomes], axis=0))
