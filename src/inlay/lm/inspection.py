"""A look inside a trained model: its tables and how their rows lie, what it costs, where its memory answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlay.errors import BadInput, MissingExtra
from inlay.lm.decoder import Decoder
from inlay.lm.engram import Engram
from inlay.lm.flops import flops_per_token
from inlay.lm.gates import GateMap, gate_map
from inlay.lm.spread import LEAST, Spread, angular_spread
from inlay.lm.stem import Stem
from inlay.lm.text import encode
from inlay.tables.table import Rows

__all__ = ["inspected", "likely", "pictures", "spreads"]


@torch.no_grad()
def likely(model: Decoder, tokenizer: Any, ids: Tensor, top: int = 4) -> list[tuple[str, float]]:
    """The likeliest next tokens after ids [length], and their probabilities."""
    shares = model(ids[None]).logits[0, -1].float().softmax(-1).topk(min(top, model.vocab))
    return [(tokenizer.decode([int(i)]), round(float(p), 4)) for p, i in zip(shares.values, shares.indices)]


def inspected(model: Decoder, tokenizer: Any, text: str | None = None) -> dict[str, Any]:
    """What `inlay lm inspect` shows, ready for JSON.

    Args:
        model: any decoder.
        tokenizer: its own.
        text: to open gates with; only of models with Engram.
    """
    flops = flops_per_token(model, model.context)
    tables = [
        (layer, name, part)
        for layer, block in enumerate(model.blocks)
        for name, part in block.named_modules()
        if isinstance(part, Rows)
    ]
    inside = {id(p) for _, _, part in tables for p in part.parameters()}
    spread = spreads(model)
    found: dict[str, Any] = {
        "parameters": model.num_parameters,
        "active": sum(p.numel() for p in model.parameters() if id(p) not in inside),
        "context": model.context,
        "flops_per_token": {
            "attention": flops.attention, "feed_forward": flops.feed_forward, "memory": flops.memory,
            "head": flops.head, "total": flops.total,
        },
        "tables": [],
    }  # fmt: skip
    for layer, name, part in tables:
        one = {
            "layer": layer, "part": name, "table": type(part).__name__, "rows": part.rows, "dim": part.dim,
            "nbytes": sum(t.numel() * t.element_size() for t in part.state_dict().values()),
        }  # fmt: skip
        if layer in spread and name.startswith("feed_forward"):
            one |= {"p95": round(spread[layer].p95_abs, 4), "isotropic": round(spread[layer].isotropic_p95, 4)}
        found["tables"].append(one)
    if text is not None and _remembers(model):
        gates = _gates(model, tokenizer, text)
        found["tokens"] = gates[1]
        found["gates"] = {
            str(layer): [round(float(a), 3) for a in row]
            for layer, row in zip(gates[0].layers, gates[0].alpha, strict=True)
        }
    return found


def spreads(model: Decoder) -> dict[int, Spread]:
    """Cosines of the rows of each STEM table, by layer. Rows that were never read still lie as they began."""
    parts = {layer: block.feed_forward for layer, block in enumerate(model.blocks)}
    return {
        layer: angular_spread(part.rows(torch.arange(model.vocab)))
        for layer, part in parts.items()
        if isinstance(part, Stem) and model.vocab >= LEAST
    }


def pictures(model: Decoder, tokenizer: Any, text: str | None, folder: str | Path) -> list[Path]:
    """Draw the spread of rows and, of a text, the gates; one SVG each.

    Raises:
        BadInput: there is nothing to draw.
        MissingExtra: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtra("plots", "plots") from None
    folder = Path(folder)
    spread, drawn = spreads(model), []
    folder.mkdir(parents=True, exist_ok=True)
    if spread:
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        for layer, one in spread.items():
            axes.stairs(one.histogram / one.histogram.sum(), one.edges, label=f"layer {layer}")
        axes.axvspan(-one.isotropic_p95, one.isotropic_p95, alpha=0.15, label="95% of isotropic rows")
        axes.set_xlabel("cosine of two rows")
        axes.set_ylabel("share of pairs")
        axes.legend(frameon=False)
        drawn.append(folder / "spread.svg")
        figure.savefig(drawn[-1])
    if text is not None and _remembers(model):
        gates, tokens = _gates(model, tokenizer, text)
        figure = Figure(figsize=(max(3.0, 0.4 * len(tokens)), 1.5 + 0.4 * len(gates.layers)), layout="constrained")
        gates.plot(tokens, figure.subplots())
        drawn.append(folder / "gates.svg")
        figure.savefig(drawn[-1])
    if not drawn:
        raise BadInput("this model has no STEM rows to draw, and no Engram gates (give a text to open them)")
    return drawn


def _remembers(model: Decoder) -> bool:
    return any(isinstance(block.before, Engram) for block in model.blocks)


def _gates(model: Decoder, tokenizer: Any, text: str) -> tuple[GateMap, list[str]]:
    ids = torch.from_numpy(encode([text], tokenizer))
    return gate_map(model, ids), ["·", *(tokenizer.decode([int(i)]) for i in ids[1:])]
