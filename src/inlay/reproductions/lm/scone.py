"""SCONE against the plain decoder, and against a table with a row for each frequent n-gram.

The paper claims that input rows for frequent n-grams, made by a side transformer A_f that is written down after
training, lower the loss at no cost in inference, the more so the more f-grams there are and the larger A_f is; and that
a plain table of n-grams cannot do that, because most of its rows are hardly ever updated.

A small decoder reads English text. F-grams of 2 to 4 tokens are mined from the training documents: 2,000, 10,000 or
50,000 of them, with an A_f of 1, 2 or 4 blocks. Claims are judged at equal tokens. At equal FLOPs of training, A_f's
included, the plain decoder reads more text; that is shown too, as are the losses behind f-grams that are rare among the
10,000 (numbers 3,000 and above), and the loss of the compiled model, rows in bfloat16.

Rates are tuned for the plain decoder, the direct table and the middle SCONE; other sizes take the middle one's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.reproductions.lm._arms import BATCH, CONTEXT, SHAPE, Arm, Job, Outcome, arms, curve, english, gap, run_jobs
from inlay.reproductions.result import Figure, Result
from inlay.reproductions.tables._auc_gap import gap_of

if TYPE_CHECKING:
    from inlay.lm.decoder import Decoder
    from inlay.lm.frequent_ngrams import FGrams
    from inlay.reproductions.tables._auc_gap import Gap

PAPER = "Scaling Embedding Layers in Language Models (SCONE, arXiv 2502.01637)"

STEPS = 240
MIDDLE, SIZES, LAYERS = "scone-10000-2", ("scone-2000-2", "scone-50000-2"), ("scone-10000-1", "scone-10000-4")
RARE = 3000


def make(arm: str, given: FGrams) -> Decoder:
    """The decoder of an arm: plain, direct-SIZE or scone-SIZE-LAYERS; `given` are the f-grams, at least as many."""
    import torch

    from inlay.lm.decoder import Decoder
    from inlay.lm.direct_ngrams import DirectNGrams
    from inlay.lm.frequent_ngrams import FGrams
    from inlay.lm.scone import Scone
    from inlay.tables.full import Full

    if arm == "plain":
        return Decoder(**SHAPE)
    kind, size, *layers = arm.split("-")
    fgrams = FGrams(given.tokens[: int(size)], given.counts[: int(size)])
    tokens = Full(SHAPE["vocab"], SHAPE["dim"], scale=0.0)
    deviation = SHAPE["dim"] ** -0.5
    torch.nn.init.trunc_normal_(tokens.weight, std=deviation, a=-3 * deviation, b=3 * deviation)
    if kind == "direct":
        return Decoder(**SHAPE, input=DirectNGrams(fgrams, tokens, separator=0, sparse=True))
    return Decoder(**SHAPE, input=Scone(fgrams, tokens, int(layers[0]), separator=0))


def look(model: Decoder, valid: np.ndarray, fgrams: FGrams) -> dict[str, Any]:
    """Losses a window behind rare f-grams (NaN where a window has none); how many f-grams A_f made; compiled loss."""
    from inlay.lm.compiled_inputs import compile_inputs
    from inlay.lm.scone import Scone
    from inlay.lm.trainer import token_losses

    losses = token_losses(model, valid, CONTEXT)
    numbers, _ = fgrams.longest(valid[: losses.size].reshape(losses.shape), separator=0)
    rare = numbers >= RARE
    met = np.maximum(rare.sum(1), 1)
    found: dict[str, Any] = {"rare": np.where(rare.any(1), (losses * rare).sum(1) / met, np.nan)}
    if isinstance(model.input, Scone):
        found["made"] = model.input.made_per_token
        model.input = compile_inputs(model.input)
        found["compiled"] = float(token_losses(model, valid, CONTEXT).mean())
    return found


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All arms, about ten minutes."""
    from inlay.lm.frequent_ngrams import FGrams, mine_fgrams

    began = time.perf_counter()
    text = english(data)
    fgrams = mine_fgrams(text.train, separator=0, max_n=4, min_count=5, top=50_000, trained_on="English text")
    middle = FGrams(fgrams.tokens[:10_000], fgrams.counts[:10_000])
    options: dict[str, Any] = {"given": fgrams, "probe": partial(look, fgrams=middle), "progress": progress}

    tuned = [Arm("plain"), Arm("direct-10000"), Arm(MIDDLE)]
    rates, outcomes = arms(make, tuned, text, steps=STEPS, seeds=seeds, **options)
    found = {arm: by_steps[STEPS] for arm, by_steps in outcomes.items()}
    ratio = found[MIDDLE][0].flops / found["plain"][0].flops
    jobs = [Job(Arm(arm), rates[MIDDLE], seed, STEPS) for arm in (*SIZES, *LAYERS) for seed in seeds]
    jobs += [Job(Arm("plain"), rates["plain"], seed, round(ratio * STEPS)) for seed in seeds]
    others = run_jobs(make, jobs, text, **options)
    for number, arm in enumerate((*SIZES, *LAYERS, "plain, equal FLOPs")):
        found[arm] = others[number * len(seeds) : (number + 1) * len(seeds)]

    gaps = {
        f"{a} − {b}": gap(found[a], found[b])
        for a, b in (
            (MIDDLE, "plain"), (MIDDLE, "direct-10000"), ("direct-10000", "plain"), (MIDDLE, SIZES[0]),
            (SIZES[1], MIDDLE), (MIDDLE, LAYERS[0]), (LAYERS[1], MIDDLE), (MIDDLE, "plain, equal FLOPs"),
        )
    }  # fmt: skip
    rare = _rare_gap(found[MIDDLE], found["direct-10000"])
    means = {arm: float(np.mean([one.loss for one in own])) for arm, own in found.items()}
    grows = [gaps[f"{a} − {b}"].high < 0 for a, b in ((MIDDLE, SIZES[0]), (SIZES[1], MIDDLE))]
    deeper = [gaps[f"{a} − {b}"].high < 0 for a, b in ((MIDDLE, LAYERS[0]), (LAYERS[1], MIDDLE))]
    better, beats_table = gaps[f"{MIDDLE} − plain"].high < 0, rare.high < 0
    compiled = [one.seen["compiled"] - one.loss for one in found[MIDDLE]]
    return Result(
        name="scone",
        title="SCONE",
        room="lm",
        source=PAPER,
        claim="input rows of frequent n-grams, made by a side model and then tabulated, lower the loss; more, more so",
        paper="perplexity 16.08 → 15.46 (10M f-grams, A_f 0.6B) → 14.58 (1B, 1.8B) on OLMo-mix with a 1B main model",
        metric="nats a token, 10,000 f-grams and 2 blocks (lower is better)",
        baseline=Figure("plain decoder, equal tokens", round(means["plain"], 4)),
        method=Figure("SCONE", round(means[MIDDLE], 4)),
        data=f"English text, {SHAPE['vocab']:,} tokens, {STEPS * BATCH * CONTEXT:,} training positions",
        verdict="shown" if better and beats_table and all(grows + deeper) else "partly" if better else "not shown",
        detail=_detail(means, gaps, rare, grows, deeper, ratio, compiled, found[MIDDLE][0]),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "loss": {arm: [round(one.loss, 4) for one in own] for arm, own in found.items()},
            "rates": rates,
            "curves": {arm: curve(own) for arm, own in found.items()},
            "parameters": {arm: own[0].parameters for arm, own in found.items()},
            "training_flops": {arm: own[0].flops for arm, own in found.items()},
            "gaps": {name: [round(value, 5) for value in one] for name, one in gaps.items()},
            "gap_behind_rare": [round(value, 5) for value in rare],
            "compiled_minus_trained": [round(one, 6) for one in compiled],
            "fgrams_made_per_token": {
                arm: round(own[0].seen["made"], 4) for arm, own in found.items() if "made" in own[0].seen
            },
        },
    )


def _rare_gap(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> Gap:
    """Loss behind rare f-grams, ours minus theirs, of windows that have any."""
    apart = np.stack([a.seen["rare"] - b.seen["rare"] for a, b in zip(ours, theirs, strict=True)])
    apart = apart[:, ~np.isnan(apart).any(0)]
    return gap_of(apart.mean(1).tolist(), float(apart.mean(0).std(ddof=1)) / apart.shape[1] ** 0.5)


def _detail(
    means: dict[str, float], gaps: dict[str, Gap], rare: Gap, grows: list[bool], deeper: list[bool], ratio: float,
    compiled: list[float], middle: Outcome,
) -> str:  # fmt: skip
    def steps(of: list[bool]) -> str:
        return "in both steps" if all(of) else "in one step of two" if any(of) else "in neither step"

    return " ".join(
        [
            "Nats a token: " + ", ".join(f"{arm} {mean:.3f}" for arm, mean in means.items()) + ".",
            "Differences with 95% intervals over seeds and held-out windows: "
            + "; ".join(f"{name} {one}" for name, one in gaps.items())
            + f"; SCONE less the direct table behind rare f-grams {rare}.",
            f"More f-grams lower the loss {steps(grows)}, more blocks of A_f {steps(deeper)}.",
            f"A_f makes {middle.seen['made']:.2f} f-grams a token and multiplies the FLOPs of training by {ratio:.2f}; "
            f"the plain decoder that is given as many reads as much more text.",
            f"Compiled to bfloat16 rows the loss changes by {np.mean(compiled):+.5f}, and A_f is gone.",
            "The models are small and trained briefly: an f-gram is met some ten times, in the paper thousands.",
        ]
    )
