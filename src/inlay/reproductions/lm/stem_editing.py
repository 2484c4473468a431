"""Editing what a STEM model knows by swapping rows, against swapping in rows at random.

The paper claims that the rows of one entity, read at the positions of another, change what the model says of it, with
the text as it is: "The capital of Spain is", read with Germany's rows, goes on with Berlin; whatever the numbers of
tokens, and surprisingly well with the average of the target's rows.

A small model learns English text and, in half of its training tokens, the capitals of 200 invented countries, told in
five ways; half of the names are single tokens, the others have several. Of pairs of countries whose capitals it knows,
the prompt of one is read with the rows of the other. It holds here if greedy decoding then gives the other's capital in
at least 70% of pairs with the average (the threshold is ours), if as many rows of other tokens drawn at random
hardly ever do so, and if texts that are not edited stay as they are to the bit.

Beside it: the other rules, for pairs whose lengths they take; the control that replaces input rows and leaves those of
the tables (pairs of equal length); how near the edited next-token distribution comes to that of the target's prompt;
and how far rows injected for a token move held-out text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inlay.reproductions.lm._arms import CONTEXT, SHAPE, Arm, English, Job, Outcome, run_jobs
from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.lm.decoder import Decoder

PAPER = "STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639, ICLR 2026)"

STEPS, LR, COUNTRIES, PAIRS = 600, 6e-3, 200, 200
ARMS = {"stem half": [1, 3], "stem full": [1, 2, 3]}
WAYS = (
    "The capital of {} is {}.", "The state of {} has its capital in {}.", "In {} the seat of government is {}.",
    "Everybody in {} knows the city of {}.", "People who live in {} often travel to {}.",
)  # fmt: skip
RULES = ("average", "pad", "copy", "subset")
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


class Fact(NamedTuple):
    """Ids of "The capital of X is", where X stands in it, and the ids of its answer."""

    prompt: list[int]
    positions: list[int]
    answer: list[int]


def make(arm: str, given: Any = None) -> Decoder:
    """The decoder of an arm."""
    from inlay.lm.stem import stem_decoder

    return stem_decoder(**SHAPE, where=ARMS[arm])


def look(model: Decoder, valid: np.ndarray, facts: Sequence[Fact]) -> dict[str, Any]:
    """What becomes of pairs of known facts when the rows of one are read in the prompt of the other."""
    import torch

    from inlay.lm.edit_figures import divergence, edit_figures
    from inlay.lm.editing import edit
    from inlay.lm.injecting import injected, injection

    model.eval()
    random = np.random.default_rng(0)

    def said(prompt: list[int], length: int) -> list[int]:
        found: list[int] = model.generate(torch.tensor(prompt), length, temperature=0).tolist()
        return found

    known = [fact for fact in facts if said(fact.prompt, len(fact.answer)) == fact.answer]
    if len(known) < 2:
        return {"known": len(known)}
    flips: dict[str, list[bool]] = {}
    measured = []
    text = torch.from_numpy(valid[: 40 * CONTEXT]).view(40, CONTEXT)
    plain = model(text).logits.detach().double().log_softmax(-1)
    moved = []
    for number in range(PAIRS):
        source, target = (known[i] for i in random.choice(len(known), 2, replace=False))
        tokens = [target.prompt[place] for place in target.positions]
        others = random.integers(1, model.vocab, len(tokens)).tolist()
        n, m = len(source.positions), len(tokens)
        fits = [rule for rule in RULES if rule == "average" or (m >= n if rule == "subset" else m <= n)]
        for name, rows, rule in [*((rule, tokens, rule) for rule in fits), ("random rows", others, "average")]:
            with edit(model, source.positions, rows, rule):  # type: ignore[arg-type]
                hit = said(source.prompt, len(target.answer)) == target.answer
            flips.setdefault(name, []).append(hit)
        same = "same length" if n == m else "longer target" if n < m else "shorter target"
        flips.setdefault(f"average, {same}", []).append(flips["average"][-1])
        if n == m:
            swapped = torch.tensor([target.prompt])
            logits = model(swapped, memory_ids=torch.tensor([source.prompt])).logits[0, -1]
            flips.setdefault("input rows alone, first token", []).append(int(logits.argmax()) == target.answer[0])
        change = edit(model, source.positions, tokens, prompt=source.prompt)
        answers = (target.answer, source.answer)
        measured.append(
            edit_figures(
                model, change, source.prompt, target.prompt, answers=answers,
                unrelated=[known[0].prompt if known[0] is not source else known[1].prompt, valid[:CONTEXT]],
            )
        )  # fmt: skip
        if number < 20:
            ids = list(dict.fromkeys(source.prompt[place] for place in source.positions))
            with injected(model, injection(model, ids, tokens)), torch.no_grad():
                after = model(text).logits.double().log_softmax(-1)
            moved.append(float(divergence(after, plain).mean()))
    return {
        "known": len(known),
        "flips": {name: [int(sum(hits)), len(hits)] for name, hits in flips.items()},
        "likelier": float(np.mean([one.success for one in measured])),
        "divergence": [
            float(np.mean([one.edited for one in measured])),
            float(np.mean([one.unedited for one in measured])),
        ],
        "locality": max(one.locality or 0.0 for one in measured),
        "injected locality": float(np.mean(moved)),
    }


def world(data: Path) -> tuple[English, list[Fact]]:
    """English text with the facts, half and half by tokens; held-out English; and the facts."""
    import gzip
    import json

    from inlay.lm.text import encode, learn_tokenizer, split_documents

    with gzip.open(data / "text" / "english_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        train, valid = split_documents([json.loads(line)["text"] for line in lines], 0.1)
    random = np.random.default_rng(0)
    names: list[str] = []
    while len(names) < 2 * COUNTRIES:
        name = "".join(random.choice(SYLLABLES, random.integers(2, 4))).capitalize()
        if name not in names:
            names.append(name)
    pairs = list(zip(names[:COUNTRIES], names[COUNTRIES:], strict=True))
    told = [[way.format(*pair) for way in WAYS] for pair in pairs]
    single = [f" {name}" for pair in pairs[: COUNTRIES // 2] for name in pair]  # tokens of their own
    tokenizer = learn_tokenizer([*train, *(line for some in told for line in some)], SHAPE["vocab"] - len(single))
    tokenizer.add_tokens(single)
    rows = encode([line for some in told for line in some], tokenizer)
    english = encode(train, tokenizer)
    starts = np.append(np.flatnonzero(rows == 0), len(rows))
    lines_of = [rows[a:b] for a, b in zip(starts, starts[1:])]
    mixed = [lines_of[i] for _ in range(len(english) // len(rows) + 1) for i in random.permutation(len(lines_of))]
    facts = []
    for country, capital in pairs:
        before = WAYS[0].split("{}")[0]
        whole = tokenizer.encode(WAYS[0].format(country, capital), add_special_tokens=False)
        end = whole.offsets[-1][1] - 1  # without the full stop
        ids, answer, positions = [0], [], []
        stop = len(before) + len(country)
        for token, (left, right) in zip(whole.ids, whole.offsets):
            if left < stop and right > len(before):
                positions.append(len(ids))
            if right > end - len(capital) and left < end:
                answer.append(token)
            elif left < end:
                ids.append(token)
        facts.append(Fact(ids, positions, answer))
    text = np.concatenate([english, np.concatenate(mixed)[: len(english)]])
    return English(text, encode(valid, tokenizer)[:48_000], tokenizer), facts


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False, steps: int = STEPS) -> Result:
    """Both placements, some minutes."""
    began = time.perf_counter()
    text, facts = world(data)
    jobs = [Job(Arm(name), LR, seed, steps) for name in ARMS for seed in seeds]
    outcomes = run_jobs(make, jobs, text, probe=partial(look, facts=facts), progress=progress)
    found = {name: [one for one in outcomes if one.job.arm.name == name] for name in ARMS}
    seen = {name: _joined(own) for name, own in found.items()}
    half = seen["stem half"]
    average, drawn = half["shares"].get("average", 0.0), half["shares"].get("random rows", 0.0)
    exact = all(one["locality"] == 0 for one in seen.values())
    lengths = np.bincount([len(fact.positions) for fact in facts]).tolist()
    return Result(
        name="stem-editing",
        title="STEM, knowledge editing",
        room="lm",
        source=PAPER,
        claim="rows of one entity read at another's positions change the model's answer to that entity's facts",
        paper="examples: with Germany's rows a prompt about Spain goes on with Berlin, its top-4 tokens are Germany's",
        metric="share of pairs answered as the target (higher is better)",
        baseline=Figure("rows drawn at random", round(drawn, 4)),
        method=Figure("average of the target's rows", round(average, 4)),
        data=(
            f"English text and {len(facts)} invented capitals, half and half, {steps * 1024:,} tokens; countries of "
            f"1, 2, … tokens: {', '.join(map(str, lengths[1:]))}; dim {SHAPE['dim']}, {SHAPE['layers']} layers"
        ),
        verdict="shown" if average >= 0.7 and drawn <= 0.05 and exact else "partly" if average > drawn else "not shown",
        detail=" ".join(_detail(name, one) for name, one in seen.items()),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "probes": {name: [one.seen for one in own] for name, own in found.items()},
            "loss": {name: [round(one.loss, 4) for one in own] for name, own in found.items()},
            "rate": LR,
        },
    )


def _joined(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All seeds together."""
    probes = [one.seen for one in outcomes if "flips" in one.seen]
    names = list(dict.fromkeys(name for probe in probes for name in probe["flips"]))
    shares = {}
    for name in names:
        pairs = np.array([probe["flips"][name] for probe in probes if name in probe["flips"]]).sum(0)
        shares[name] = float(pairs[0] / pairs[1])
    return {
        "known": [one.seen["known"] for one in outcomes],
        "shares": shares,
        "likelier": float(np.mean([probe["likelier"] for probe in probes])) if probes else 0.0,
        "divergence": np.mean([probe["divergence"] for probe in probes], axis=0).tolist() if probes else [0.0, 0.0],
        "locality": max((probe["locality"] for probe in probes), default=0.0),
        "injected": float(np.mean([probe["injected locality"] for probe in probes])) if probes else 0.0,
    }


def _detail(name: str, one: dict[str, Any]) -> str:
    return (
        f"{name}: knows {', '.join(map(str, one['known']))} capitals; answered as the target: "
        f"{', '.join(f'{rule} {share:.1%}' for rule, share in one['shares'].items())}; the target's answer is likelier "
        f"than the source's in {one['likelier']:.1%}; divergence from the target's prompt {one['divergence'][0]:.2f} "
        f"nats, {one['divergence'][1]:.2f} unedited; largest divergence of texts that were not edited "
        f"{one['locality']:g}; rows injected for all texts move held-out English by {one['injected']:.4f} nats a token."
    )
