"""Subspace embedding against low rank and hashing at equal size, and against the dense table.

The paper claims that a vocabulary of rows put together from a few shared short rows, over 99% fewer numbers, costs
little, and that keys which are near in a trained table should share them. Here that holds if the losses of a language
model are in the order dense < cluster < digits < low rank at equal size, each difference clear of 0, and f = 2 by
clusters is within 0.2 nats of dense.

The model sees the last three words of English text (4,096 words) and predicts the next, through one hidden layer and an
output layer that is dense and untied, so that input tables alone are compared. Clusters are those of the dense table's
rows, trained in the same run by the same seed on the same text. All tables are 128 wide; at f = 2 the shared rows are
8,320 numbers (1.6% of dense), as many as 65 hashed rows or a rank of 2; at f = 3 they are 2,176, which no rank reaches.
The rate of each table is chosen on validation with the first seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from torch import Tensor

    from inlay.tables.table import Table

PAPER = "Lightweight Adaptation of Neural Language Models via Subspace Embedding (arXiv 2308.08688, CIKM 2023)"

WORDS, DIM, CONTEXT = 4096, 128, 3
STEPS = 300
RATES = (3e-3, 1e-2)
ARMS = (
    "dense", "cluster-2", "digits-2", "permuted-2", "low-rank-2", "hash-2", "cluster-3", "digits-3", "permuted-3",
    "hash-3",
)  # fmt: skip


def arm_table(arm: str, features: Tensor | None, seed: int) -> Table:
    """The table of an arm: how it is made, and f (of low rank and hashing: the f whose size it has)."""
    from inlay.tables.full import Full
    from inlay.tables.hashed import Hashed
    from inlay.tables.low_rank import LowRank
    from inlay.tables.subspace import Subspace

    if arm == "dense":
        return Full(WORDS, DIM, scale=0.1)
    kind: Any
    kind, _, f = arm.rpartition("-")
    if kind == "cluster":
        return Subspace(WORDS, DIM, parts=int(f), assign="cluster", features=features, seed=seed)
    if kind in ("digits", "permuted"):
        return Subspace(WORDS, DIM, parts=int(f), assign=kind, seed=seed)
    choices = Subspace(WORDS, DIM, parts=int(f)).choices
    if kind == "hash":
        return Hashed(WORDS, DIM, buckets=choices, scale=0.1, seed=seed)
    return LowRank(WORDS, DIM, rank=round(choices * DIM / (WORDS + DIM)), scale=0.1 / 3**0.5)


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """All arms, about five minutes."""
    import torch

    from inlay.reproductions.tables._auc_gap import gap_of
    from inlay.reproductions.tables._next_word import NextWord, losses, train, words

    began = time.perf_counter()
    text = words(data, WORDS)

    def trained(arm: str, features: Tensor | None, seed: int, rate: float) -> NextWord:
        torch.manual_seed(seed)
        model = NextWord(arm_table(arm, features, seed), WORDS, context=CONTEXT)
        train(model, text.train, steps=STEPS, lr=3e-3, table_lr=rate, seed=seed)
        return model

    rates: dict[str, float] = {}
    found: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    overlap: dict[str, list[float]] = {arm: [] for arm in ARMS}
    sizes: dict[str, dict[str, int]] = {}
    dense: list[Tensor] = []
    for seed in seeds:
        features = None
        for arm in ARMS:
            if arm not in rates:
                tried = {rate: trained(arm, features, seed, rate) for rate in RATES}
                valid = {rate: float(losses(one, text.valid, stride=8).mean()) for rate, one in tried.items()}
                rates[arm] = min(valid, key=lambda rate: valid[rate])
                model = tried[rates[arm]]
            else:
                model = trained(arm, features, seed, rates[arm])
            rows = model.table.materialize()
            if arm == "dense":
                features = rows
                dense.append(rows)
            found[arm].append(losses(model, text.test, stride=4))
            overlap[arm].append(_overlap(rows, dense[-1]))
            sizes[arm] = {"numbers": model.table.num_parameters, "bytes": model.table.nbytes}
            _say(progress, f"seed {seed}, {arm}: {found[arm][-1].mean():.4f} nats at rate {rates[arm]}")

    def gap(worse: str, better: str) -> Any:
        apart = np.stack([a - b for a, b in zip(found[worse], found[better])])
        blocks = [
            block.mean() for block in np.array_split(apart.mean(0), 400)
        ]  # neighbouring words are not independent
        return gap_of(apart.mean(1).tolist(), float(np.std(blocks, ddof=1)) / len(blocks) ** 0.5)

    order = ("dense", "cluster-2", "digits-2", "low-rank-2")
    steps = {f"{b} − {a}": gap(b, a) for a, b in zip(order, order[1:])}
    others = {
        f"{b} − {a}": gap(b, a)
        for a, b in (
            ("dense", "permuted-2"), ("cluster-2", "permuted-2"), ("cluster-2", "low-rank-2"), ("cluster-2", "hash-2"),
            ("digits-2", "hash-2"), ("dense", "cluster-3"), ("cluster-3", "digits-3"), ("cluster-3", "hash-3"),
        )
    }  # fmt: skip
    loss = {arm: [round(float(one.mean()), 4) for one in own] for arm, own in found.items()}
    means = {arm: float(np.mean(own)) for arm, own in loss.items()}
    ordered, near = all(step.low > 0 for step in steps.values()), steps["cluster-2 − dense"].mean <= 0.2
    useful = near and others["low-rank-2 − cluster-2"].low > 0 and others["hash-2 − cluster-2"].low > 0
    return Result(
        name="subspace",
        title="Subspace embedding",
        room="tables",
        source=PAPER,
        claim="rows made of a few shared short rows, over 98% fewer numbers, cost little; shared by clusters, least",
        paper="up to 99.8% fewer embedding parameters (f = 2) with at most 4% absolute loss on XNLI and GLUE",
        metric="nats a word, f = 2 (lower is better)",
        baseline=Figure("low rank of equal size", round(means["low-rank-2"], 4)),
        method=Figure("subspace by clusters", round(means["cluster-2"], 4)),
        data=f"English text, {WORDS:,} words, {STEPS * 1024:,} training positions",
        verdict="shown" if ordered and near else "partly" if useful else "not shown",
        detail=_detail(means, steps, others, overlap, sizes, ordered, near),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "loss": loss,
            "table_rate": rates,
            "size": sizes,
            "gaps": {name: [round(value, 5) for value in one] for name, one in (steps | others).items()},
            "neighbours_shared_with_dense": {arm: [round(one, 4) for one in own] for arm, own in overlap.items()},
            "neighbours_two_dense_share": round(_overlap(dense[0], dense[-1]), 4),
        },
    )


def _overlap(rows: Tensor, dense: Tensor, *, k: int = 10, of: int = 1000) -> float:
    """Share of the k nearest rows (cosine) of the commonest words that both tables agree on."""
    import torch

    near = []
    for table in (rows, dense):
        unit = torch.nn.functional.normalize(table, dim=1)
        cosines = unit[1 : of + 1] @ unit.T
        cosines[torch.arange(of), torch.arange(1, of + 1)] = -2  # itself
        near.append(cosines.topk(k).indices)
    return float((near[0][:, :, None] == near[1][:, None, :]).any(2).double().mean())


def _detail(
    means: dict[str, float],
    steps: dict[str, Any],
    others: dict[str, Any],
    overlap: dict[str, list[float]],
    sizes: dict[str, dict[str, int]],
    ordered: bool,
    near: bool,
) -> str:
    return " ".join(
        [
            "Nats a word: " + ", ".join(f"{arm} {mean:.3f}" for arm, mean in means.items()) + ".",
            f"The order dense < cluster < digits < low rank {'holds' if ordered else 'does not hold'} with intervals "
            f"clear of 0; f = 2 by clusters is{'' if near else ' not'} within 0.2 of dense.",
            "Differences with 95% intervals over seeds and test words: "
            + "; ".join(f"{name} {one}" for name, one in (steps | others).items())
            + ".",
            "Of the ten nearest rows, shared with dense: "
            + ", ".join(f"{arm} {np.mean(own):.2f}" for arm, own in overlap.items() if arm != "dense")
            + ".",
            f"Codes by clusters are kept and count: {sizes['cluster-2']['bytes']:,} bytes against "
            f"{sizes['digits-2']['bytes']:,} by digits, {sizes['low-rank-2']['bytes']:,} of low rank, "
            f"{sizes['dense']['bytes']:,} dense.",
            "The model is small and trained briefly, and its output layer is untied.",
        ]
    )


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
