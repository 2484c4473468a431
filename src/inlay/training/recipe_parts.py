"""A recipe's tables made into parts, trained, and written to its output folder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inlay.errors import BadInput
from inlay.training.batching import choice
from inlay.training.card import Card, write_card
from inlay.training.cosent import CoSENT
from inlay.training.distillation import EmbedMatch, GramMatch, Listwise, OrderMatch
from inlay.training.flops import Flops
from inlay.training.info_nce import InfoNCE, hardness
from inlay.training.matryoshka import Matryoshka
from inlay.training.mining import decontaminate, dedupe
from inlay.training.models import Model
from inlay.training.probe import probe
from inlay.training.recipe import SOURCE_KEYS, TERM_KEYS, Recipe, call, only, resolved
from inlay.training.scores import guide
from inlay.training.source_files import BUILDERS
from inlay.training.sources import Source
from inlay.training.spread_out import SpreadOut
from inlay.training.stage import Stage
from inlay.training.static_bag import StaticBag, count_words, word_pieces
from inlay.training.teacher import Teacher
from inlay.training.total import Sum
from inlay.training.trainer import Report, Trainer
from inlay.training.transformer import Transformer
from inlay.training.views import Prefix

__all__ = ["train"]


def contrast(**options: Any) -> InfoNCE:
    """InfoNCE with the two options that are functions written as numbers: `hardness` (α) and `guide` (eps)."""
    alpha, eps = options.pop("hardness", None), options.pop("guide", None)
    if alpha is not None:
        per_block = alpha if isinstance(alpha, Mapping) else {"own_negatives": alpha}
        options["bonus"] = {block: hardness(a, block)[block] for block, a in per_block.items()}
    if eps is not None:
        options["mask"] = [*options.get("mask", ()), guide(eps)]
    return InfoNCE(**options)


TERMS: dict[str, tuple[Any, tuple[str, ...]]] = {
    # kind → what makes it, and the keys it takes
    "info_nce": (contrast, ("blocks", "tau", "mask", "hardness", "guide", "weights", "symmetric")),
    "embed_match": (EmbedMatch, ("p", "reduction", "prefix")),
    "gram_match": (GramMatch, ()),
    "order_match": (OrderMatch, ("margin", "pairs")),
    "listwise": (Listwise, ("tau_t", "tau_s", "over", "by")),
    "spread_out": (SpreadOut, ("floor",)),
    "cosent": (CoSENT, ("tau",)),
    "flops": (Flops, ("lambda_q", "lambda_d", "steps", "penalty")),
}


def train(recipe: Recipe, output: Path, *, max_minutes: float | None, seed: int, resume: bool, progress: bool) -> Card:
    """Make the parts, train, write the model and its card."""
    table, here = recipe.table, recipe.path.parent
    kept = output / "training"
    kept.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    sources = {name: _source(name, entry, here) for name, entry in table["source"].items()}
    evaluate = table.get("evaluate", {})
    only("[evaluate]", evaluate, ("hold_out", "every", "sources"))
    held: list[Source] = []
    judged = [name for name, source in sources.items() if source.kind in ("retrieval", "symmetric", "graded")]
    for name in evaluate.get("sources", judged):
        if name not in sources:
            raise BadInput(f"[evaluate]: no source is called {name!r}; there are {', '.join(sources)}")
        if evaluate.get("hold_out"):
            sources[name], out = sources[name].split(int(evaluate["hold_out"]))
            held.append(out)
    teacher, teacher_name = _teacher(table.get("teacher"), kept, here)
    if teacher is not None:
        teacher.add(itertools.chain.from_iterable(s.texts() for s in sources.values()), progress=progress)
    model = _model(table["model"], sources, kept, here, fresh=not resume)
    losses = {name: _loss(f"[loss.{name}]", terms) for name, terms in table["loss"].items()}
    stages = [_stage(i, entry, sources, losses, teacher) for i, entry in enumerate(table["stage"], 1)]
    after = [_after(i, entry, model) for i, entry in enumerate(table.get("after", []), 1)]
    trainer = Trainer(
        model, stages, kept, seed=seed, max_minutes=max_minutes, identity=f"{recipe.name} {recipe.digest}",
        evaluate=probe(held) if held else None, evaluate_every=evaluate.get("every"), progress=progress,
    )  # fmt: skip
    report = trainer.run(resume=resume)
    _write(model, after, output)
    card = _card(recipe, model, sources, report, kept / "metrics.jsonl", seed, teacher_name)
    write_card(output, card)
    return card


def _source(name: str, entry: Mapping[str, Any], here: Path) -> Source:
    where = f"[source.{name}]"
    entry = resolved(entry, here)
    kind = entry.get("builder")
    if kind not in BUILDERS:
        raise BadInput(f"{where}: builder {kind!r}; builders are {', '.join(BUILDERS)}")
    own = {key: value for key, value in entry.items() if key not in SOURCE_KEYS}
    source: Source = call(where, BUILDERS[kind], own | {"name": name}, also=SOURCE_KEYS)
    if entry.get("dedupe", True):
        source = dedupe(source)
    for path in entry.get("without", []):
        source = decontaminate(source, Path(path).read_text("utf-8", "replace").splitlines())
    if "limit" in entry:
        source = replace(source, examples=source.examples[: int(entry["limit"])])
    changes: dict[str, Any] = {key: entry[key] for key in ("loss", "in_batch", "kind") if key in entry}
    for key in ("query", "document"):
        if f"{key}_prefix" in entry:
            changes[f"show_{key}"] = Prefix(entry[f"{key}_prefix"])
    return replace(source, **changes)


def _teacher(entry: Mapping[str, Any] | None, kept: Path, here: Path) -> tuple[Teacher | None, str]:
    if not entry:
        return None, ""
    only("[teacher]", entry, ("encoder", "folder", "licence", "batch_size"))
    from inlay.encoders import encoder

    folder = (here / Path(entry["folder"]).expanduser()) if "folder" in entry else kept / "teacher"
    made = encoder(entry["encoder"]) if "encoder" in entry else None
    return Teacher(folder, made, batch_size=entry.get("batch_size")), str(entry.get("encoder", folder))


def _model(entry: Mapping[str, Any], sources: Mapping[str, Source], kept: Path, here: Path, fresh: bool) -> Model:
    entry = resolved(entry, here)
    kind = entry.pop("kind", None)
    if kind == "transformer":
        model: Model = call("[model]", Transformer, entry)
        return model
    if kind != "static_bag":
        raise BadInput(f"[model]: kind must be static_bag or transformer, got {kind!r}")
    if "start" in entry:
        start = entry.pop("start")
        return StaticBag.load(start, **entry)
    vocabulary, size = entry.pop("vocabulary", "word_pieces"), int(entry.pop("size", 8000))
    if vocabulary not in ("words", "word_pieces"):
        raise BadInput(f"[model]: vocabulary must be words or word_pieces (or give start), got {vocabulary!r}")
    # Kept, so that a resumed run has the tokens it began with whatever became of the texts.
    path = kept / f"{vocabulary}.json"
    if fresh or not path.exists():
        texts = itertools.chain.from_iterable(source.texts() for source in sources.values())
        found = json.dumps(count_words(texts, size)) if vocabulary == "words" else word_pieces(texts, size).to_str()
        path.write_text(found, encoding="utf-8")
    made = {"words": json.loads(path.read_text("utf-8"))} if vocabulary == "words" else {"tokenizer": path}
    bag: Model = call("[model]", StaticBag, entry | made, also=("kind", "vocabulary", "size", "start"))
    return bag


def _loss(where: str, terms: Mapping[str, Any]) -> Sum:
    made: dict[str, tuple[float, nn.Module, str]] = {}
    for name, entry in terms.items():
        at = f"{where[:-1]}.{name}]"
        if not isinstance(entry, Mapping) or entry.get("kind") not in TERMS:
            kind = entry.get("kind") if isinstance(entry, Mapping) else entry
            raise BadInput(f"{at}: kind {kind!r}; kinds of loss are {', '.join(TERMS)}")
        function, keys = TERMS[entry["kind"]]
        only(at, entry, (*keys, *TERM_KEYS))
        try:
            term: nn.Module = function(**{key: value for key, value in entry.items() if key in keys})
            if "matryoshka" in entry:
                term = Matryoshka(term, entry["matryoshka"])
        except (BadInput, TypeError, ValueError) as error:
            raise BadInput(f"{at}: {error}") from error
        made[name] = (float(entry.get("weight", 1.0)), term, str(entry.get("head", "vector")))
    return Sum(**made)


def _stage(
    number: int, entry: Mapping[str, Any], sources: Mapping[str, Source], losses: Mapping[str, Sum],
    teacher: Teacher | None,
) -> Stage:  # fmt: skip
    where, entry = f"[[stage]] {number}", dict(entry)
    names = entry.pop("sources", list(sources))
    missing = [name for name in names if name not in sources]
    if missing:
        raise BadInput(f"{where}: no source is called {missing[0]!r}; there are {', '.join(sources)}")
    if "batcher" in entry:
        entry["choice"] = choice(entry.pop("batcher"))
    if "loss" in entry:  # one for all, whatever the sources say
        chosen = entry.pop("loss")
        if chosen not in losses:
            raise BadInput(f"{where}: no loss is called {chosen!r}; there are {', '.join(losses)}")
        given: Mapping[str, nn.Module] = {sources[name].loss: losses[chosen] for name in names}
    else:
        # A recipe with a single loss need not call it by the name that sources ask for by default.
        given = {**losses} | ({"default": next(iter(losses.values()))} if len(losses) == 1 else {})
    parts = {"sources": [sources[name] for name in names], "losses": given, "teacher": teacher}
    stage: Stage = call(where, Stage, entry | parts, also=("batcher", "loss"))
    return stage


def _after(number: int, entry: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """Arguments of `StaticBag.export`."""
    where = f"[[after]] {number}"
    only(where, entry, ("do", "dim"))
    if not isinstance(model, StaticBag):
        raise BadInput(f"{where}: only token tables are cut or quantised here; a transformer is written as it is")
    options: dict[str, dict[str, Any]] = {
        "truncate": {"dim": entry.get("dim")},
        "int8": {"int8": True},
        "float16": {"float16": True},
    }
    if entry.get("do") not in options or (entry["do"] == "truncate") != ("dim" in entry):
        raise BadInput(f"{where}: do must be truncate (with dim), int8 or float16, got {dict(entry)}")
    return options[entry["do"]]


def _write(model: Model, after: list[dict[str, Any]], output: Path) -> None:
    if isinstance(model, StaticBag) and after:
        options: dict[str, Any] = {}
        for step in after:
            options |= step
        model.export(**options).save(output)
        return
    model.save(output)


def _card(
    recipe: Recipe, model: Model, sources: Mapping[str, Source], report: Report, log: Path, seed: int, teacher: str
) -> Card:
    before: dict[str, float] = {}
    for line in log.read_text("utf-8").splitlines() if log.exists() else []:
        entry = json.loads(line)
        if entry["total"] == 0:
            before = {name: entry[name] for name in report.metrics if name in entry}
    entries = recipe.table["source"]
    return Card(
        name=recipe.name,
        title=recipe.title,
        model=repr(model),
        parameters=model.num_parameters(),
        sources={n: {"rows": len(s), "kind": s.kind, "of": entries[n]["builder"]} for n, s in sources.items()},
        stages=recipe.table["stage"],
        seed=seed,
        steps=report.steps,
        rows=report.rows,
        tokens=report.tokens,
        seconds=report.seconds,
        threads=torch.get_num_threads(),
        stopped=report.stopped,
        before=before,
        after=report.metrics,
        licence=str(recipe.table.get("licence", "Apache-2.0")),
        teacher=teacher,
        teacher_licence=str(recipe.table.get("teacher", {}).get("licence", "")),
    )
