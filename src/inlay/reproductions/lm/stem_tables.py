"""STEM over compressed tables: what its memory loses when it is composed, hashed, or written in codes.

A STEM layer takes any table. Its paper keeps full rows, in bfloat16; here the same decoder learns with full rows, with
quotient and remainder, and with rows hashed to the same bytes, and the full rows are then written as 8-bit integers
and as product codes. The claim, ours: at least one of these takes at most a quarter of the bytes and costs at most 0.01
nats, so that memory as a table can also be a small one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.reproductions.lm._arms import CONTEXT, SHAPE, Arm, arms, english, gap_of_losses
from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.lm.decoder import Decoder

PAPER = "STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639, ICLR 2026)"

STEPS, HALF, COLLISIONS = 300, [1, 3], 8
ARMS = ("dense", "full", "quotient-remainder", "hashed")
LITTLE, QUARTER = 0.01, 0.25


def make(arm: str, given: Any = None) -> Decoder:
    """The decoder of an arm."""
    from inlay.lm.decoder import Decoder
    from inlay.lm.stem import stem_decoder
    from inlay.tables import Compositional, Hashed

    if arm == "dense":
        return Decoder(**SHAPE)

    def composed(rows: int, width: int) -> Compositional:
        return Compositional(rows, width, collisions=COLLISIONS, min_rows=0, sparse=True)

    def hashed(rows: int, width: int) -> Hashed:
        return Hashed.from_budget(rows, width, composed(rows, width).nbytes, sparse=True)

    table: Any = {"full": None, "quotient-remainder": composed, "hashed": hashed}[arm]
    return stem_decoder(**SHAPE, where=HALF, table=table)


def probe(model: Decoder, valid: np.ndarray) -> dict[str, dict[str, Any]]:
    """Loss and bytes of the tables as they are read, and of full rows written in fewer bytes."""
    from inlay.lm.stem import Stem, stem_parts
    from inlay.lm.trainer import token_losses
    from inlay.tables import Full

    if not any(isinstance(block.feed_forward, Stem) for block in model.blocks):
        return {}
    parts = stem_parts(model)
    trained: dict[int, Any] = {layer: part.table for layer, part in parts.items()}
    found: dict[str, dict[str, Any]] = {}
    forms: dict[str, Any] = {"compiled": lambda table: table.compiled()}
    if all(isinstance(table, Full) for table in trained.values()):
        forms |= {"bfloat16": _half, "int8": _int8, "PQ, 2 numbers a code": _pq(2), "PQ, 4 numbers a code": _pq(4)}
    for name, form in forms.items():
        compiled = {layer: form(table) for layer, table in trained.items()}
        for layer, part in parts.items():
            part.table = compiled[layer]
        found[name] = {
            "losses": token_losses(model, valid, CONTEXT).mean(1),
            "bytes": sum(table.nbytes for table in compiled.values()),
        }
    for layer, part in parts.items():
        part.table = trained[layer]
    return found


def _half(table: Any) -> Any:
    from inlay.tables import DenseRows

    return DenseRows.of(table.weight.detach().bfloat16())


def _int8(table: Any) -> Any:
    import torch

    from inlay.tables import DenseRows

    rows = table.weight.detach()
    scale = rows.abs().amax(1).clamp_min(1e-12) / 127
    return DenseRows.of((rows / scale[:, None]).round().to(torch.int8), scale=scale)


def _pq(width: int) -> Any:
    def coded(table: Any) -> Any:
        import torch

        from inlay.codecs import ProductQuantiser
        from inlay.tables import CodedRows

        rows = table.weight.detach().numpy()
        codec = ProductQuantiser(dsub=width).fit(rows)
        numbers = codec.numbers(codec.encode(rows)).astype(np.int64)
        return CodedRows.of(torch.from_numpy(numbers), torch.from_numpy(np.stack(codec.centres)))

    return coded


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All arms, about ten minutes."""
    began = time.perf_counter()
    text = english(data)
    rates, found = arms(
        make, [Arm(name) for name in ARMS], text, steps=STEPS, seeds=seeds, probe=probe, progress=progress
    )
    table: dict[str, dict[str, Any]] = {}
    for arm in ARMS[1:]:
        for form in found[arm][STEPS][0].seen:
            own = [one.seen[form] for one in found[arm][STEPS]]
            name = "full" if (arm, form) == ("full", "compiled") else arm if form == "compiled" else form
            table[name] = {"losses": [one["losses"] for one in own], "bytes": own[0]["bytes"]}
    full = table["full"]
    dense = [one.losses for one in found["dense"][STEPS]]
    gaps = {name: gap_of_losses(one["losses"], full["losses"]) for name, one in table.items() if name != "full"}
    gaps["dense decoder"] = gap_of_losses(dense, full["losses"])
    share = {name: one["bytes"] / full["bytes"] for name, one in table.items()}
    fine = {name for name, one in gaps.items() if name in share and one.high <= LITTLE and share[name] <= QUARTER}
    near = {name for name, one in gaps.items() if name in share and one.high <= LITTLE and share[name] <= 0.5}
    best = min(fine or near or {"int8"}, key=lambda name: share[name])
    loss = {name: [round(float(one.mean()), 4) for one in of["losses"]] for name, of in table.items()}
    return Result(
        name="stem-tables",
        title="STEM over compressed tables",
        room="lm",
        source=PAPER,
        claim="a table of the decoder can be a compressed one: a quarter of the bytes for at most 0.01 nats",
        paper="tables in bfloat16; no compression is reported",
        metric="validation nats a token (lower is better)",
        baseline=Figure("full rows, float32", round(float(np.mean(loss["full"])), 4)),
        method=Figure(f"{best}, {share[best]:.0%} of the bytes", round(float(np.mean(loss[best])), 4)),
        data=f"English text, {SHAPE['vocab']:,} tokens, {STEPS * 1024:,} of them for training; STEM in 2 of 4 layers",
        verdict="shown" if fine else "partly" if near else "not shown",
        detail=(
            "Loss minus that of full rows, and share of their bytes: "
            + "; ".join(
                f"{name} {one}" + (f", {share[name]:.1%}" if name in share else "") for name, one in gaps.items()
            )
            + f". Each arm that learns at its own best rate ({', '.join(f'{a} {lr:g}' for a, lr in rates.items())})."
        ),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "loss": loss | {"dense decoder": [round(float(one.mean()), 4) for one in dense]},
            "bytes": {name: one["bytes"] for name, one in table.items()},
            "gaps": {name: [round(value, 4) for value in one] for name, one in gaps.items()},
            "rate": rates,
        },
    )
