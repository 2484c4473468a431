"""The loop, recipes and the command: a run that is killed ends as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from click.testing import CliRunner  # noqa: E402

from inlay.errors import BadInput, Corrupt  # noqa: E402
from inlay.training import (  # noqa: E402
    Example,
    GramMatch,
    InfoNCE,
    OrderMatch,
    Recipe,
    Source,
    Stage,
    StaticBag,
    Sum,
    Trainer,
)
from inlay.training.checkpoint import load  # noqa: E402

WORDS = [f"w{i}" for i in range(40)]

# A run of two stages with everything that could differ after a resume: dropout, a learnt temperature, sampled pairs of
# pairs, drawn negatives, optimiser state, fresh shuffles.
SCRIPT = """
import sys, time, torch
sys.path.insert(0, {here!r})
from test_training_run import trainer
torch.set_num_threads(1)
made = trainer(sys.argv[1])
if sys.argv[2] == "slow":
    step = torch.optim.AdamW.step
    def slow(self, *rest, **more):
        time.sleep(0.02)
        return step(self, *rest, **more)
    torch.optim.AdamW.step = slow
print(made.run().steps, flush=True)
"""


class Mirror:
    """A teacher: its rows are drawn from the text."""

    dim = 5

    def rows(self, items):
        import numpy as np

        made = np.array(
            [np.random.default_rng(len(t) + ord(t[-1])).standard_normal(5) for t in items], dtype=np.float32
        )
        return made / np.linalg.norm(made, axis=1, keepdims=True)


def pairs(size: int = 60) -> Source:
    def text(i: int) -> str:
        return " ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 6))

    rows = [Example(f"w{i % 40} {text(i)}", [text(i) + f" w{i % 40}"], [text(i + 1), text(i + 2)]) for i in range(size)]
    return Source("pairs", rows)


def trainer(folder, **options) -> Trainer:
    torch.manual_seed(5)
    model = StaticBag(8, words=WORDS, dropout=0.2, heads={"side": 6})
    one = Sum(c=(1.0, InfoNCE(["own_negatives", "batch_positives"], "learnt")), o=(1.0, OrderMatch(pairs=50), "side"))
    two = Sum(g=(1.0, GramMatch()), o=(1.0, OrderMatch(pairs=50)))
    stages = [
        Stage([pairs()], one, steps=25, batch_size=8, negatives=1, lr=0.01, teacher=Mirror(), micro=5, cached=True),
        Stage(
            [pairs()], two, epochs=2, batch_size=8, lr=0.02, schedule="cosine", teacher=Mirror(), train="regex:table"
        ),
    ]
    return Trainer(model, stages, folder, **({"checkpoint_every": 4, "log_every": 1, "seed": 3} | options))


def parameters(folder) -> dict:
    _, tensors = load(Path(folder) / "checkpoint.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("model.", "losses."))}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def steps_logged(folder) -> list[tuple[int, int]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [(entry["stage"], entry["step"]) for entry in map(json.loads, lines) if "lr" in entry]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_killed_and_resumed_ends_like_uninterrupted(tmp_path) -> None:
    report = trainer(tmp_path / "whole").run()
    assert report.stopped == "finished"
    assert report.steps == 25 + 15
    script = SCRIPT.format(here=str(Path(__file__).parent))
    killed = tmp_path / "killed"
    run = subprocess.Popen([sys.executable, "-c", script, str(killed), "slow"], stdout=subprocess.PIPE)
    log, deadline = killed / "metrics.jsonl", time.monotonic() + 60
    while (not log.exists() or log.read_text().count("\n") < 14) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    facts, _ = load(killed / "checkpoint.safetensors")
    assert 12 <= facts["report"]["steps"] < 40
    assert trainer(killed).run().steps == 40  # here, in another process
    assert equal(parameters(killed), parameters(tmp_path / "whole"))
    want = [(0, i) for i in range(1, 26)] + [(1, i) for i in range(1, 16)]
    assert steps_logged(killed) == steps_logged(tmp_path / "whole") == want
    assert trainer(killed).run().steps == 40  # finished: nothing is done again


@pytest.mark.parametrize("at", [3, 25, 31])
def test_interrupted_anywhere_ends_like_uninterrupted(tmp_path, at) -> None:
    trainer(tmp_path / "whole").run()
    first = trainer(tmp_path / "cut")
    count = first._count

    def ask(batch, parts) -> None:
        count(batch, parts)
        if first.report.steps == at:
            os.kill(os.getpid(), signal.SIGINT)

    first._count = ask  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert load(tmp_path / "cut" / "checkpoint.safetensors")[0]["report"]["steps"] == at
    trainer(tmp_path / "cut").run()
    assert equal(parameters(tmp_path / "cut"), parameters(tmp_path / "whole"))


def test_seeds_matter_and_repeat(tmp_path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer(tmp_path / name, seed=seed).run()
    assert equal(parameters(tmp_path / "a"), parameters(tmp_path / "b"))
    assert not equal(parameters(tmp_path / "a"), parameters(tmp_path / "c"))


def test_the_gradient_cache_changes_nothing(tmp_path) -> None:
    found = []
    for cached in (False, True):
        torch.manual_seed(0)
        model = StaticBag(8, words=WORDS, dropout=0.3)
        stage = Stage([pairs()], InfoNCE(), steps=6, batch_size=16, negatives=1, micro=7, cached=cached, lr=0.01)
        Trainer(model, [stage], tmp_path / str(cached), seed=1).run()
        found.append(model.table.detach())
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_another_run_is_refused(tmp_path) -> None:
    trainer(tmp_path, identity="one").run()
    for options in ({"identity": "two"}, {"identity": "one", "seed": 9}):
        with pytest.raises(BadInput, match="--fresh"):
            trainer(tmp_path, **options).run()
    trainer(tmp_path, identity="two").run(resume=False)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(Corrupt, match="checkpoint"):
        trainer(tmp_path, identity="two").run()


def test_time_limit_ends_on_a_finished_schedule(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("inlay.training.trainer.time.monotonic", lambda: now[0])
    model = StaticBag(8, words=WORDS)
    stages = [Stage([pairs()], InfoNCE(["batch_positives"]), steps=n, batch_size=8, lr=1.0) for n in (1000, 3000)]
    run = Trainer(model, stages, tmp_path, max_minutes=1, log_every=1)
    count = run._count

    def tick(batch, parts) -> None:
        now[0] += 0.5  # a step takes half a second: 120 steps of 4000 fit
        count(batch, parts)

    run._count = tick  # type: ignore[method-assign]
    report = run.run()
    assert report.stopped == "time"
    assert 60 <= report.seconds <= 61
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {stage: [entry["lr"] for entry in lines if entry["stage"] == stage] for stage in (0, 1)}
    assert 28 <= len(rates[0]) <= 32  # a quarter of the rows, a quarter of the time
    for found in rates.values():
        assert max(found) > 0.85
        assert found[-1] < 0.06
    assert load(tmp_path / "checkpoint.safetensors")[0]["report"]["stopped"] == "time"


def test_schedules() -> None:
    def rates(**options) -> list[float]:
        stage = Stage([pairs()], InfoNCE(["batch_positives"]), steps=100, batch_size=8, lr=2.0, **options)
        return [stage.rate(i / 100) for i in range(100)]

    linear, cosine, constant = (rates(schedule=s) for s in ("linear", "cosine", "constant"))
    for found in (linear, cosine, constant):
        assert 0 < found[0] < 0.3
        assert found[:11] == sorted(found[:11])
        assert max(found) == pytest.approx(2.0)
    assert linear[55] == pytest.approx(1.0)
    assert cosine[55] == pytest.approx(1.0)
    assert cosine[20] > linear[20]
    assert linear[-1] < 0.03
    assert constant[10:] == [2.0] * 90
    assert rates(warmup=20)[:20] == pytest.approx(rates(warmup=0.2)[:20])


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path) -> None:
    model = StaticBag(8, words=WORDS)
    with torch.no_grad():
        model.table[0] = float("nan")
    with pytest.raises(BadInput, match="not finite"):
        Trainer(model, [Stage([pairs()], InfoNCE(["batch_positives"]), steps=9, batch_size=8)], tmp_path).run()


def test_stage_refuses() -> None:
    loss = InfoNCE(["batch_positives"])
    for options in ({}, {"steps": 1, "epochs": 1}, {"steps": 1, "cached": True}, {"steps": 1, "schedule": "step"}):
        with pytest.raises(BadInput):
            Stage([pairs()], loss, **options)
    with pytest.raises(BadInput, match="other"):
        Stage([pairs()], {"other": loss}, steps=1)


# recipes

RECIPE = """
title = "A test"
[model]
kind = "static_bag"
dim = 16
vocabulary = "words"
size = 500
[source.pairs]
builder = "pairs"
path = "pairs.tsv"
columns = ["a", "b"]
[source.texts]
builder = "text_files"
paths = ["pairs.tsv"]
least = 2
loss = "spread"
[loss.default.contrast]
kind = "info_nce"
blocks = ["batch_positives"]
matryoshka = [16, 8]
[loss.spread.spread]
kind = "spread_out"
[[stage]]
sources = ["pairs"]
epochs = 20
batch_size = 16
lr = 0.02
[[stage]]
batcher = "one_source(alpha=0.5)"
steps = 5
batch_size = 16
[[after]]
do = "truncate"
dim = 8
[[after]]
do = "int8"
[evaluate]
hold_out = 20
sources = ["pairs"]
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    import numpy as np

    random, lines = np.random.default_rng(0), ["a\tb"]
    for _ in range(200):
        n = random.choice(60, 6, replace=False)
        lines.append(f"q{n[0]} q{n[1]} q{n[2]}\td{n[0]} d{n[1]} d{n[2]} d{n[3]}")
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    path = tmp_path / "test.toml"
    path.write_text(RECIPE)
    return path


def inlay(*arguments: str):
    from inlay.cli import inlay as group

    return CliRunner().invoke(group, ["train", *arguments], catch_exceptions=True)


def test_a_recipe_from_the_command_line(recipe, tmp_path) -> None:
    from inlay.encoders import Static

    output = tmp_path / "out"
    done = inlay(str(recipe), "--output", str(output), "--json")
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert card["after"]["pairs accuracy@1"] > card["before"]["pairs accuracy@1"] + 0.2
    assert card == json.loads((output / "card.json").read_text())
    assert card["energy"]["assumed"]
    text = (output / "README.md").read_text()
    assert "seed 0" in text
    assert "pairs MRR@10" in text
    model = Static.load(output)
    assert model.table.shape[1] == 8
    assert model.table.dtype.name == "int8"
    refused = inlay(str(recipe), "--output", str(output))
    assert refused.exit_code == 2
    assert "--fresh" in refused.stderr
    again = inlay(str(recipe), "--output", str(output), "--fresh", "--json")
    assert json.loads(again.stdout)["after"] == card["after"]
    assert inlay(str(recipe), "--output", str(tmp_path / "new"), "--resume").exit_code == 2
    leg = tmp_path / "legs" / "training" / "second"  # where a recipe of several legs keeps one's
    leg.mkdir(parents=True)
    (leg / "checkpoint.safetensors").touch()
    assert inlay(str(recipe), "--output", str(tmp_path / "legs"), "--resume").exit_code == 0


def test_the_command_lists_and_asks() -> None:
    listed = inlay("--list")
    assert listed.output.startswith("demo") or "\ndemo" in listed.output
    assert {"name", "title"} == set(json.loads(inlay("--list", "--json").output)[0])
    assert inlay().exit_code == 2
    unknown = inlay("no-such-recipe")
    assert unknown.exit_code == 2
    assert "demo" in unknown.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title =", "titel =", "'titel'"),
        ("dim = 16", "dims = 16", "'dims'"),
        ("least = 2", "leest = 2", "'leest'"),
        ('builder = "pairs"', 'builder = "triples"', "triples"),
        ('kind = "info_nce"', 'kind = "infonce"', "infonce"),
        ("matryoshka = [16, 8]", "temperature = 1", "'temperature'"),
        ("matryoshka = [16, 8]", "tau = -1", "tau"),
        ("lr = 0.02", "rate = 0.02", "'rate'"),
        ('sources = ["pairs"]\nepochs', 'sources = ["pair"]\nepochs', "'pair'"),
        ("one_source(alpha=0.5)", "all_sources", "all_sources"),
        ('loss = "spread"', 'loss = "spreads"', "spreads"),
        ('do = "int8"', 'do = "int4"', "int4"),
        ("hold_out = 20", "holdout = 20", "'holdout'"),
        ('columns = ["a", "b"]', 'columns = ["a", "c"]', "'c'"),
        ('path = "pairs.tsv"', 'path = "missing.tsv"', "missing.tsv"),
        ("[model]", "[model", "not TOML"),
    ],
)
def test_a_recipe_with_a_mistake_names_it(recipe, tmp_path, old, new, said) -> None:
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(BadInput, match=said.replace("(", r"\(")):
        Recipe.read(recipe).run(tmp_path / "out")


def test_a_recipe_in_python(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        '"""My recipe."""\n\n'
        "def run(output, *, max_minutes, seed, resume, progress):\n    return (output.name, seed, resume)\n"
    )
    found = Recipe.read(path)
    assert found.title == "My recipe."
    assert found.run(tmp_path / "out", seed=4) == ("out", 4, True)
    with pytest.raises(BadInput, match="cannot go on from other weights"):
        found.run(tmp_path / "out", start=tmp_path)
    path.write_text("def run(output, *, max_minutes, seed, resume, progress, start=None):\n    return start\n")
    assert Recipe.read(path).run(tmp_path / "out") is None
    assert Recipe.read(path).run(tmp_path / "out", start=tmp_path) == tmp_path
    path.write_text("x = 1\n")
    with pytest.raises(BadInput, match="run"):
        Recipe.read(path).run(tmp_path / "out")


def test_every_packaged_recipe_reads() -> None:
    from inlay.training.recipe import packaged

    assert "demo" in packaged()
    for path in packaged().values():
        assert Recipe.read(path).title
