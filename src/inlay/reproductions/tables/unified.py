"""Unified embedding against a hashed table a feature, at equal size, and against tables without collisions.

The paper claims that one table shared by all features is better than splitting it among them, more so the smaller it
is, and that several narrow lookups are better than one wide. Here that holds if unified (one lookup) − per-feature
hashing is at least +0.02 AUC at every budget and grows from 1.0 to 0.1, and if 2 or 4 lookups add 0.03 at 0.1. A check
of the theory: in a model of one layer, Σ θ_f · e_f(v), whose θ_f all begin in one direction, training turns them apart
to a mean angle above 50 degrees, and further for smaller tables.

Two tasks with the same model (DCN, no batch norm) and trainer: the Criteo sample (391 test rows, too few to tell close
arms apart) and words of English text as clicks (`_word_clicks`), on which the verdict on AUC rests. The logistic model
is trained on Criteo, which has 26 features. Per-feature tables have rows in proportion to their feature's values. The
rate of each arm's table is chosen on validation, at a tenth of the size, with the first seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.clicks.data import ClickSplits
    from inlay.tables.table import Table

PAPER = (
    "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML Systems (arXiv 2305.12102, NeurIPS 2023)"
)

BUDGETS = (1.0, 0.5, 0.1)
LOOKUPS = (1, 2, 4)
RATES = (4e-3, 1.6e-2)
DIM = 16
SETTINGS: dict[str, dict[str, Any]] = {
    "criteo": {"lr": 1e-3, "batch_size": 256, "epochs": 8, "evaluations": 2, "patience": 4},
    "words": {"lr": 4e-3, "batch_size": 1024, "epochs": 4, "evaluations": 2, "patience": 4},
}


def arm_table(splits: ClickSplits, arm: str, share: float, seed: int) -> Table:
    """The table of an arm: `collision-free`, `per-feature`, or `unified-k`."""
    from inlay.tables.full import Full
    from inlay.tables.hashed import Hashed
    from inlay.tables.per_field import PerField
    from inlay.tables.unified import UnifiedFields

    sizes = dict(zip(splits.space.names, splits.space.sizes.tolist()))
    if arm == "collision-free":
        return PerField([Full(rows, DIM, scale=0.05) for rows in sizes.values()])
    if arm == "per-feature":
        return PerField(
            [Hashed(rows, DIM, buckets=max(1, round(share * rows)), scale=0.05, seed=seed) for rows in sizes.values()]
        )
    total = share * sum(sizes.values()) * DIM * 4
    return UnifiedFields.from_budget(sizes, DIM, total, chunks=int(arm.removeprefix("unified-")), seed=seed)


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """Both tasks, all arms and budgets, and the angles; about five minutes."""
    import torch

    from inlay.clicks.data import criteo
    from inlay.clicks.heads import DCN
    from inlay.clicks.trainer import Fitted, fit
    from inlay.reproductions.tables._auc_gap import Gap, auc_gap
    from inlay.reproductions.tables._word_clicks import word_clicks

    began = time.perf_counter()
    figures: dict[str, Any] = {"auc": {}, "table_rate": {}, "gaps": {}}
    gaps: dict[str, dict[str, Gap]] = {}
    clicks = criteo(data / "criteo_sample")
    arms = ("per-feature", *(f"unified-{k}" for k in LOOKUPS))
    for task, splits in (("criteo", clicks), ("words", word_clicks(data))):

        def fitted(arm: str, share: float, seed: int, rate: float, task: str = task, splits: Any = splits) -> Fitted:
            torch.manual_seed(seed)
            table = arm_table(splits, arm, share, seed)
            model = DCN(table, splits.space.num_fields, DIM, splits.num_numbers)
            return fit(model, splits, table_lr=rate, seed=seed, **SETTINGS[task])

        rates: dict[str, float] = {}
        scores: dict[tuple[str, float], list[np.ndarray]] = {}
        cells = [(arm, share) for share in sorted(BUDGETS) for arm in arms] + [("collision-free", 1.0)]
        for arm, share in cells:
            runs: dict[float, list[Fitted]] = {}
            if arm not in rates:
                tried = {rate: fitted(arm, share, seeds[0], rate) for rate in RATES}
                rates[arm] = max(tried, key=lambda rate: tried[rate].valid_auc)
                runs = {rate: [first] for rate, first in tried.items()}
            rate = rates[arm]
            done = runs.get(rate, [])
            done += [fitted(arm, share, seed, rate) for seed in seeds[len(done) :]]
            scores[arm, share] = [one.scores for one in done]
            figures["auc"][f"{task}: {arm} {share:g}"] = [round(one.auc, 4) for one in done]
            _say(progress, f"{task}: {arm} {share:g}: {figures['auc'][f'{task}: {arm} {share:g}']}")
        figures["table_rate"][task] = rates
        labels = splits.test.labels
        own = {
            f"unified-{k} − per-feature at {share:g}": auc_gap(
                labels, scores[f"unified-{k}", share], scores["per-feature", share]
            )
            for share in BUDGETS
            for k in LOOKUPS
        }
        own |= {
            f"unified-{k} − unified-1 at 0.1": auc_gap(labels, scores[f"unified-{k}", 0.1], scores["unified-1", 0.1])
            for k in LOOKUPS[1:]
        }
        gaps[task] = own
        figures["gaps"][task] = {name: [round(value, 5) for value in gap] for name, gap in own.items()}
    angles = {share: [_angle(clicks, share, seed) for seed in seeds] for share in (0.5, 0.1, 0.02)}
    figures["angle"] = {f"{share:g}": [round(one, 1) for one in own] for share, own in angles.items()}
    _say(progress, f"angles: {figures['angle']}")

    words = gaps["words"]
    single = [words[f"unified-1 − per-feature at {share:g}"] for share in BUDGETS]
    more = max(words[f"unified-{k} − unified-1 at 0.1"].mean for k in LOOKUPS[1:])
    turned = [float(np.mean(own)) for own in angles.values()]
    checks = {
        "unified-1 is at least 0.02 above per-feature hashing at every budget": min(gap.mean for gap in single) >= 0.02,
        "the gap grows from 1.0 to 0.1": single[-1].mean > single[0].mean,
        "2 or 4 lookups add at least 0.03 at 0.1": more >= 0.03,
        "θ turn to more than 50 degrees": min(turned) > 50,
        "and further for smaller tables": all(b > a for a, b in zip(turned, turned[1:])),
    }
    figures["checks"] = checks
    better = all(words[f"unified-2 − per-feature at {share:g}"].low > 0 for share in BUDGETS)
    return Result(
        name="unified",
        title="Unified embedding",
        room="tables",
        source=PAPER,
        claim="one table for all features is better than a hashed table each, more so the smaller; more lookups help",
        paper="MovieLens-1M AUC, per-feature → unified: 0.8537 → 0.8774 at 1.0×, 0.7707 → 0.8200 at 0.1×",
        metric="AUC at a tenth of the rows, words as clicks",
        baseline=Figure("per-feature hashing", round(float(np.mean(figures["auc"]["words: per-feature 0.1"])), 4)),
        method=Figure("unified, 2 lookups", round(float(np.mean(figures["auc"]["words: unified-2 0.1"])), 4)),
        data="words of English text as clicks (3 × 8,192 values), Criteo sample",
        verdict="shown" if all(checks.values()) else "partly" if better else "not shown",
        detail=_detail(figures, gaps, checks),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures=figures,
    )


def _angle(splits: ClickSplits, share: float, seed: int, *, chunk_dim: int = 32, steps: int = 600) -> float:
    """Mean angle of the θ_f of a logistic model after training; they begin as one and the same vector."""
    import torch
    from torch.nn import functional as F

    from inlay.tables.unified import Unified, mean_angle

    torch.manual_seed(seed)
    space = splits.space
    table = Unified(max(1, round(share * space.rows)), chunk_dim, seed=seed).fields(space)
    theta = torch.nn.Parameter(torch.nn.functional.normalize(torch.randn(chunk_dim), dim=0).repeat(space.num_fields, 1))
    bias = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([*table.parameters(), theta, bias], lr=1e-2)
    ids, labels = torch.from_numpy(splits.train.ids), torch.from_numpy(splits.train.labels)
    for _ in range(steps):
        at = torch.randint(len(ids), (256,))
        logits = (table(ids[at]) * theta).sum((1, 2)) + bias
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, labels[at]).backward()
        optimizer.step()
    return mean_angle(theta)


def _detail(figures: dict[str, Any], gaps: dict[str, Any], checks: dict[str, bool]) -> str:
    def mean(name: str) -> str:
        return f"{np.mean(figures['auc'][name]):.4f}"

    arms = ("per-feature", *(f"unified-{k}" for k in LOOKUPS))
    words, clicks = gaps["words"], gaps["criteo"]["unified-2 − per-feature at 0.1"]
    clear = clicks.low > 0 or clicks.high < 0
    return " ".join(
        [
            f"On words, collision-free tables have AUC {mean('words: collision-free 1')}; at 1.0/0.5/0.1 of the rows: "
            + "; ".join(f"{arm} " + "/".join(mean(f"words: {arm} {share:g}") for share in BUDGETS) for arm in arms)
            + ".",
            "Unified − per-feature with 95% intervals over seeds and test rows: "
            + "; ".join(
                f"{k} lookup{'s' if k > 1 else ''} "
                + ", ".join(f"{words[f'unified-{k} − per-feature at {share:g}']} at {share:g}" for share in BUDGETS)
                for k in (1, 2)
            )
            + ".",
            "Mean angle of the θ of the logistic model, from 0: "
            + ", ".join(f"{np.mean(own):.0f}° with {share} of the rows" for share, own in figures["angle"].items())
            + ".",
            "; ".join(f"{what}: {'yes' if held else 'no'}" for what, held in checks.items()) + ".",
            f"On the Criteo sample at 0.1: per-feature {mean('criteo: per-feature 0.1')}, unified with 2 lookups "
            f"{mean('criteo: unified-2 0.1')}, collision-free {mean('criteo: collision-free 1')}; difference {clicks}: "
            + ("its interval excludes 0." if clear else "391 test rows are too few to tell."),
        ]
    )


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
