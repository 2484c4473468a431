"""Language models from a file: what a plan makes, what is kept, and the commands that use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inlay.errors import BadInput, Corrupt

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from inlay.cli import inlay as root  # noqa: E402
from inlay.lm import HashExperts, Plan, Scone, Stem, encode  # noqa: E402
from inlay.lm.engram import Engram  # noqa: E402
from inlay.lm.memory_linear import MemoryLinear  # noqa: E402
from inlay.lm.plan import load, save  # noqa: E402
from inlay.tables import Compositional  # noqa: E402

TEXTS = [f"The capital of country {i} is city {i}. Everybody there knows it, and nobody asks. " * 5 for i in range(30)]
MODEL = {"dim": 32, "layers": 2, "heads": 2, "context": 32}
SECTIONS = {
    "dense": {},
    "stem": {"stem": {"where": [1]}},
    "stem over a compressed table": {"stem": {"where": [1], "table": "Compositional", "options": {"collisions": 4}}},
    "hash_experts": {"hash_experts": {"where": [1], "experts": 3}},
    "engram": {"engram": {"layers": [1], "slots": 50, "heads": 2, "d_head": 4}},
    "scone": {"scone": {"top": 100, "max_n": 3, "layers": 1, "heads": 2}},
    "memory": {"memory": {"tau": 4}},
    "glyphs and stem": {"glyphs": {"size": 8}, "stem": {"where": [1]}},
}


def plan(**sections) -> Plan:
    return Plan({"tokenizer": {"vocab": 300}, "model": MODEL, "train": {"steps": 3, "batch": 2}, **sections})


@pytest.mark.parametrize("name", SECTIONS)
def test_what_is_kept_is_what_was_made(name, tmp_path: Path):
    if "glyphs" in name:
        pytest.importorskip("PIL")
        pytest.importorskip("sklearn")
    of = plan(**SECTIONS[name])
    tokenizer = of.tokenizer(TEXTS)
    ids = encode(TEXTS, tokenizer)
    torch.manual_seed(0)
    model = of.decoder(tokenizer, ids)
    kind = {"stem": Stem, "hash_experts": HashExperts, "engram": Engram, "scone": Scone, "memory": MemoryLinear}
    wanted = kind.get(name.split()[0])
    assert wanted is None or any(isinstance(part, wanted) for part in model.modules())
    if "compressed" in name:
        assert any(isinstance(part, Compositional) for part in model.modules())
    log = of.trainer(model, ids, ids, tokenizer).run()
    assert log[-1]["step"] == 3
    save(tmp_path, model, tokenizer, of, log)
    again, its, read = load(tmp_path)
    assert read.settings == of.settings
    assert its.to_str() == tokenizer.to_str()
    text = torch.from_numpy(ids[None, :20])
    assert torch.equal(again(text).logits, model.eval()(text).logits)


def test_a_model_without_its_tokenizer_is_refused(tmp_path: Path):
    of = plan()
    tokenizer = of.tokenizer(TEXTS)
    save(tmp_path, of.decoder(tokenizer), tokenizer, of)
    (tmp_path / "tokenizer.json").write_text(plan(tokenizer={"vocab": 290}).tokenizer(TEXTS).to_str(), "utf-8")
    with pytest.raises(BadInput, match="not the one this model was trained with"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(Corrupt, match=r"tokenizer\.json"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        load(tmp_path)
    with pytest.raises(BadInput, match="no language model"):
        load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"modell": {}}, "unknown section 'modell'"),
        ({"model": 3}, "must be a section"),
        ({"memory": {}, "stem": {}}, r"leave out \[stem\]"),
        ({"hash_experts": {}, "stem": {}}, "leave one out"),
        ({"scone": {}, "glyphs": {}}, "leave one out"),
    ],
)
def test_plans_that_are_none(settings, what):
    with pytest.raises(BadInput, match=what):
        Plan(settings)


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"model": {"dimm": 3}}, r"\[model\] has no option 'dimm'"),
        ({"stem": {"table": "Nothing"}}, "no table 'Nothing'"),
        ({"stem": {"where": "somewhere"}}, "somewhere"),
        ({"engram": {"layers": [9]}}, "layer 9"),
        ({"train": {"stepps": 3}}, r"\[train\] has no option"),
        ({"train": {"steps": "many"}}, r"\[train\] steps must be int"),
        ({"train": {"lr": True}}, r"\[train\] lr must be float"),
        ({"model": {"dim": "wide"}}, r"\[model\] dim must be int"),
        ({"engram": {"layers": "1"}}, "must be a list of numbers"),
        ({"stem": {"table": "Compositional", "options": {"colisions": 3}}}, "no option 'colisions'"),
    ],
)
def test_options_that_are_none(sections, what):
    of = plan(**sections)
    tokenizer = plan().tokenizer(TEXTS)
    with pytest.raises(BadInput, match=what):
        of.trainer(of.decoder(tokenizer), encode(TEXTS, tokenizer), encode(TEXTS, tokenizer), tokenizer)


def test_texts_of_a_plan(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one", "utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n', "utf-8")
    (tmp_path / "plan.toml").write_text('text = ["*.txt", "b.jsonl"]\n', "utf-8")
    assert Plan.read(tmp_path / "plan.toml").texts() == ["one", "two", "three"]
    for content, what in (("text = 'c.txt'", "no file matches"), ("", "names no text"), ("text = [", "no TOML")):
        (tmp_path / "plan.toml").write_text(content, "utf-8")
        with pytest.raises(BadInput, match=what):
            Plan.read(tmp_path / "plan.toml").texts()
    (tmp_path / "plan.toml").write_text('text = "*.txt"\nheld_out = "x"', "utf-8")
    with pytest.raises(BadInput, match="held_out must be a share"):
        Plan.read(tmp_path / "plan.toml").split()
    with pytest.raises(BadInput, match="no plan"):
        Plan.read(tmp_path / "absent.toml")
    (tmp_path / "b.jsonl").write_text('{"txt": "two"}\n', "utf-8")
    (tmp_path / "plan.toml").write_text('text = "b.jsonl"', "utf-8")
    with pytest.raises(BadInput, match="JSON lines with a text"):
        Plan.read(tmp_path / "plan.toml").texts()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), "utf-8")
    (tmp_path / "plan.toml").write_text(
        'text = "texts.jsonl"\n[tokenizer]\nvocab = 300\n[model]\ndim = 32\nlayers = 2\nheads = 2\ncontext = 32\n'
        "[stem]\nwhere = [1]\n[engram]\nlayers = [1]\nslots = 50\n[train]\nsteps = 4\nbatch = 2\n",
        "utf-8",
    )
    return tmp_path


def run(*arguments: object, code: int = 0) -> str:
    found = CliRunner().invoke(root, ["lm", *map(str, arguments)])
    assert found.exit_code == code, found.output
    return found.output


def test_commands(folder: Path):
    model = folder / "model"
    made = json.loads(run("train", folder / "plan.toml", "--output", model, "--json"))
    assert made["step"] == 4
    assert made["validation"] > 0
    assert "holds a trained model already" in run("train", folder / "plan.toml", "--output", model, code=2)
    said = json.loads(run("generate", model, "The capital", "--most", 5, "--seed", 1, "--json"))
    assert said == json.loads(run("generate", model, "The capital", "--most", 5, "--seed", 1, "--json"))
    assert said["tokens"] <= 5
    assert run("generate", model, "The capital", "--most", 3).startswith("The capital")
    assert "does not fit the context of 32" in run("generate", model, "many words " * 40, code=2)
    prompt = "The capital of country 7 is"
    edited = json.loads(run("edit", model, prompt, "--from", "country 7", "--to", "country 9", "--json", "--most", 3))
    assert edited["plain"]["prompt"] == edited["edited"]["prompt"] == prompt
    assert edited["other prompt"]["prompt"] == prompt.replace("7", "9")
    assert edited["kl_plain"] > 0
    assert "does not name" in run("edit", model, prompt, "--from", "Spain", "--to", "Italy", code=2)
    seen = json.loads(run("inspect", model, "By the way", "--json"))
    assert {one["table"] for one in seen["tables"]} == {"Full"}
    assert seen["parameters"] > seen["active"]
    assert len(seen["gates"]["1"]) == len(seen["tokens"])
    assert "FLOPs a token" in run("inspect", model)


def test_pictures(folder: Path):
    pytest.importorskip("matplotlib")
    run("train", folder / "plan.toml", "--output", folder / "model")
    run("inspect", folder / "model", "By the way", "--plot", folder / "pictures")
    assert {path.name for path in (folder / "pictures").iterdir()} == {"spread.svg", "gates.svg"}
