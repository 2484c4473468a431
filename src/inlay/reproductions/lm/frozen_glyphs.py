"""Frozen rows of how tokens look against a trained table, frozen random rows, and those behind a trained map.

The paper claims that a decoder needs no trained input table: rows of glyphs, which mean nothing, serve as well, and
meaning appears in the layers above. Here that holds if frozen visual rows and frozen random ones both end within 0.15
nats of a trained table (the whole interval), each at its own best learning rate, and if words of like meaning, no
nearer than others in the visual table, draw together above it: their median rank in streams 2 and 3 is below half of
what it is in stream 0, and below that of a decoder with the same rows that has learnt nothing.

All frozen rows have length 1, which is what rows of the trained table begin with; an arm with the scale of 0.02 a
number says what the scale does. Glyphs are those of the font that comes with inlay, 16 × 16, so that every machine
gets the same ones. The paper's own evidence are multiple-choice scores near or below chance, which tell more of how
answers are written than of what is known: nothing of that is repeated here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.reproductions.lm._arms import CONTEXT, SHAPE, Arm, arms, curve, english, gap, mean
from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.lm.decoder import Decoder

PAPER = (
    "Emergent Semantics Beyond Token Embeddings: Transformer LMs with Frozen Visual Unicode Representations "
    "(arXiv 2507.04886, TMLR 2025)"
)

STEPS, WINDOWS, LEAST = 300, 1500, 8
MOST = 0.15  # nats that a frozen table may cost
ARMS = ("trained", "glyphs", "random", "random + map", "glyphs, small")

PAIRS = (
    "two three", "four six", "first second", "year month", "week day", "night day", "years months", "men people",
    "children people", "women people", "his their", "him them", "she they", "could might", "may can", "must should",
    "would will", "was been", "are were", "before after", "under over", "small large", "good great", "old new",
    "young old", "many several", "some any", "through across", "came went", "take give", "said asked", "say told",
    "think know", "want need", "get make", "government state", "school University", "business company",
    "money dollars", "war military", "house room", "left right", "long short", "now then", "never always",
    "President Congress", "policy program", "public private", "who which", "where when", "because since",
    "nation world", "education health", "see find", "city town", "water land", "family children", "mother wife",
    "father man", "white black", "north south", "hundred thousand", "began started", "small big",
)  # fmt: skip
"""Words of like meaning or kind, written down before anything was measured."""


def make(arm: str, given: np.ndarray) -> Decoder:
    """The decoder of an arm; `given` are the visual rows [vocab, dim]."""
    import torch

    from inlay.lm.adapter import Adapter
    from inlay.lm.decoder import Decoder
    from inlay.lm.glyphs import frozen_table

    if arm == "trained":
        return Decoder(**SHAPE)
    if arm.startswith("glyphs"):
        return Decoder(**SHAPE, input=frozen_table(given, "rms" if arm.endswith("small") else 1.0))
    rows = torch.nn.functional.normalize(torch.randn(SHAPE["vocab"], SHAPE["dim"]), dim=1)
    table = frozen_table(rows, 1.0)
    return Decoder(**SHAPE, input=Adapter(table) if arm.endswith("map") else table)


def probe(
    model: Decoder, valid: np.ndarray, *, ids: np.ndarray, words: dict[str, list[int]], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Ranks of pairs by stream, and the neighbours of some words, in training text: averages over many places."""
    import torch

    from inlay.lm.hidden_neighbours import hidden_words

    found = hidden_words(model, torch.from_numpy(ids), words, least=LEAST)
    known = [pair for pair in pairs if set(pair) <= set(found.names)]
    shown = [word for word in ("house", "women", "three", "could") if word in found.names]
    return {
        "ranks": found.ranks(known),
        "pairs": len(known),
        "words": len(found.names),
        "neighbours": {
            word: {str(at): [name for name, _ in found.neighbours(word, 5, layer=at)] for at in (0, 2, 3)}
            for word in shown
        },
    }


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All arms, about ten minutes."""
    import torch

    from inlay.lm.bitmap_font import fallback
    from inlay.lm.glyphs import glyph_bits, glyph_rows, token_texts

    began = time.perf_counter()
    text = english(data)
    tokens = token_texts(text.tokenizer)
    rows = glyph_rows(tokens, fallback(), size=16, dim=SHAPE["dim"])
    alike = len(tokens) - len(np.unique(glyph_bits(tokens, fallback(), size=16), axis=0))
    words = {token[1:]: [number] for number, token in enumerate(tokens) if token[0] == " " and token[1:].isalpha()}
    starts = np.linspace(0, len(text.train) - CONTEXT, WINDOWS).astype(np.int64)
    ids = text.train[starts[:, None] + np.arange(CONTEXT)]
    pairs = [(one, other) for one, other in (pair.split() for pair in PAIRS)]
    look = partial(probe, ids=ids, words=words, pairs=pairs)
    rates, outcomes = arms(
        make, [Arm(name) for name in ARMS], text, steps=STEPS, seeds=seeds, given=rows, probe=look, progress=progress
    )
    found = {name: outcomes[name][STEPS] for name in ARMS}
    torch.manual_seed(seeds[0])
    untrained = look(make("glyphs", rows), text.valid)

    gaps = {name: gap(found[name], found["trained"]) for name in ARMS[1:]}
    cheap = all(gaps[name].high <= MOST for name in ("glyphs", "random"))
    ranks = {name: np.mean([np.median(one.seen["ranks"], 1) for one in found[name]], 0) for name in ARMS}
    before = np.median(untrained["ranks"], 1)
    own = ranks["glyphs"]
    means = all(own[stream] < 0.5 * own[0] and own[stream] < before[stream] for stream in (2, 3))
    seen = found["glyphs"][0].seen
    return Result(
        name="frozen-glyphs",
        title="Frozen visual Unicode",
        room="lm",
        source=PAPER,
        claim="a frozen input table of how tokens look costs little or nothing; meaning appears in the layers above",
        paper="335M parameters: MMLU 23.68 frozen, 14.00 trained (chance is 25); ARC-e 23.51 and 24.09",
        metric="validation nats a token (lower is better)",
        baseline=Figure("trained table", round(mean(found["trained"]), 4)),
        method=Figure("frozen visual rows", round(mean(found["glyphs"]), 4)),
        data=f"English text, {SHAPE['vocab']:,} tokens, {STEPS * 1024:,} of them for training; dim 96, 4 layers",
        verdict="shown" if cheap and means else "partly" if cheap or means else "not shown",
        detail=(
            f"Each arm at its own best rate ({', '.join(f'{name} {lr:g}' for name, lr in rates.items())}). Loss minus "
            f"the trained table's: {'; '.join(f'{name} {one}' for name, one in gaps.items())}. Median rank of "
            f"{seen['pairs']} pairs of like meaning among {seen['words']} words (0 nearest, 0.5 unrelated), streams 0 "
            f"to 4: visual rows {_slash(own)}, before training {_slash(before)}; trained table "
            f"{_slash(ranks['trained'])}; random rows {_slash(ranks['random'])}. {alike} of {len(tokens):,} tokens "
            "look like another one (bytes that are no text, above all); a small vector of their own tells them apart."
        ),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "loss": {name: [round(one.loss, 4) for one in found[name]] for name in ARMS},
            "rate": rates,
            "curves": {name: curve(found[name]) for name in ARMS},
            "gaps": {name: [round(value, 4) for value in one] for name, one in gaps.items()},
            "parameters": {name: found[name][0].parameters for name in ARMS},
            "ranks": {name: [round(float(rank), 4) for rank in ranks[name]] for name in ARMS},
            "ranks before training": [round(float(rank), 4) for rank in before],
            "neighbours": seen["neighbours"],
            "tokens that look like another": alike,
        },
    )


def _slash(values: np.ndarray) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
