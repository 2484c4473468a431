"""Click models: data, heads, the trainer and its stages."""

from __future__ import annotations

import gzip
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from inlay.errors import BadInput, InlayWarning

torch = pytest.importorskip("torch")
metrics = pytest.importorskip("sklearn.metrics")

from inlay.clicks import DCN, DLRM, Clicks, ClickSplits, DeepFM, WideDeep, criteo, fit, movielens  # noqa: E402
from inlay.clicks.heads import HEADS  # noqa: E402
from inlay.clicks.trainer import auc, logits, logloss  # noqa: E402
from inlay.tables import Full, KeySpace, PerField  # noqa: E402
from inlay.tables.staged import Staged  # noqa: E402


def made_up(rows=900, sizes=(30, 20), numbers=1, seed=0) -> ClickSplits:
    """Clicks that depend on a hidden number of each id."""
    random = np.random.default_rng(seed)
    space = KeySpace(
        {f"f{i}": list(range(size - 1)) for i, size in enumerate(sizes)},
        {f"f{i}": np.arange(size)[::-1] for i, size in enumerate(sizes)},
    )
    ids = np.stack([random.integers(0, size, rows) for size in sizes], 1) + space.offsets
    worth = random.normal(0, 2, space.rows)[ids].sum(1)
    labels = (worth + random.normal(0, 0.3, rows) > 0).astype(np.float32)
    every = Clicks(ids, random.normal(size=(rows, numbers)), labels)
    parts = np.split(np.arange(rows), [rows * 2 // 3, rows * 5 // 6])
    return ClickSplits(space, *(every.take(at) for at in parts), "made up")


@pytest.fixture(scope="module")
def splits():
    return made_up()


def model_of(splits, head=DCN, dim=4, table=None):
    table = Full(splits.space.rows, dim, scale=0.1) if table is None else table
    return head(table, splits.space.num_fields, table.dim, splits.num_numbers)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_every_head_learns(head, splits):
    torch.manual_seed(0)
    fitted = fit(model_of(splits, head), splits, lr=1e-2, epochs=12, batch_size=32)
    assert fitted.auc > 0.85
    assert fitted.auc == pytest.approx(metrics.roc_auc_score(splits.test.labels, fitted.scores))
    assert fitted.logloss == pytest.approx(
        metrics.log_loss(splits.test.labels, 1 / (1 + np.exp(-fitted.scores.astype(np.float64)))), rel=1e-5
    )
    assert np.array_equal(logits(fitted.model, splits.test), fitted.scores)
    assert fitted.train_nbytes == 4 * 50 * 4
    assert fitted.valid_auc == max(value for _, _, value in fitted.curve)


def test_heads_compute_what_they_say(splits):
    torch.manual_seed(0)
    ids, numbers = torch.from_numpy(splits.test.ids[:5]), torch.from_numpy(splits.test.numbers[:5])
    rows = Full(splits.space.rows, 4)
    v = rows(ids)
    flat = torch.cat([v.flatten(1), numbers], 1)

    fm = model_of(splits, DeepFM, table=rows)
    pairs = sum((v[:, i] * v[:, j]).sum(1) for i, j in combinations(range(2), 2))
    expected = fm.deep(flat)[:, 0] + pairs + fm.linear(ids).sum((1, 2)) + fm.wide(numbers)[:, 0]
    assert torch.allclose(fm(ids, numbers), expected, atol=1e-6)

    wide = model_of(splits, WideDeep, table=rows)
    expected = wide.deep(flat)[:, 0] + wide.linear(ids).sum((1, 2)) + wide.wide(numbers)[:, 0]
    assert torch.allclose(wide(ids, numbers), expected, atol=1e-6)

    cross = model_of(splits, DCN, table=rows)
    x = flat
    for layer in cross.cross:
        x = flat * (x * layer.weight).sum(1, keepdim=True) + layer.bias + x
    assert torch.allclose(cross(ids, numbers), cross.out(torch.cat([x, cross.deep(flat)], 1))[:, 0], atol=1e-6)

    dots = model_of(splits, DLRM, table=rows)
    dense = dots.bottom(numbers)
    vectors = [v[:, 0], v[:, 1], dense]
    found = torch.stack([(a * b).sum(1) for a, b in combinations(vectors, 2)], 1)
    assert torch.allclose(dots(ids, numbers), dots.top(torch.cat([dense, found], 1))[:, 0], atol=1e-6)


def test_heads_without_numbers():
    splits = made_up(rows=300, numbers=0)
    for head in HEADS.values():
        model = model_of(splits, head)
        assert logits(model, splits.test).shape == (50,)
    assert model_of(splits, DLRM).bottom is None


def test_a_run_repeats_and_leaves_the_generator_alone(splits):
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        model = model_of(splits)
        state = torch.random.get_rng_state()
        found.append(fit(model, splits, epochs=2, seed=5))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(found[0].scores, found[1].scores)
    torch.manual_seed(3)
    assert not np.array_equal(fit(model_of(splits), splits, epochs=2, seed=6).scores, found[0].scores)


def test_it_stops_early_and_keeps_the_best(splits):
    torch.manual_seed(0)
    fitted = fit(model_of(splits), splits, lr=0.05, epochs=50, batch_size=64, patience=4)
    values = [value for _, _, value in fitted.curve]
    assert fitted.epochs < 50
    assert len(values) - 1 - values.index(max(values)) == 4
    assert auc(splits.valid.labels, logits(fitted.model, splits.valid)) == pytest.approx(max(values))


def test_learning_rates_are_of_their_parts(splits):
    torch.manual_seed(0)
    model = model_of(splits)
    before = model.table.weight.detach().clone()
    fit(model, splits, epochs=1, table_lr=0.0)
    assert torch.equal(model.table.weight, before)
    head = [p.detach().clone() for p in model.head_parameters()]
    fit(model, splits, epochs=1, lr=0.0, table_lr=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(head, model.head_parameters()))
    assert not torch.equal(model.table.weight, before)


class Recorder(Staged):
    """A table that writes down what the trainer does with it."""

    stages = ("first", "second")

    def __init__(self, rows, dim, log, stage=None, fresh=False, patient=0):
        super().__init__(rows, dim, stage=stage)
        self.weight = torch.nn.Parameter(torch.rand(rows, dim) / 10)
        self.own = torch.nn.Parameter(torch.ones(1))
        self.log, self.fresh, self.patient, self.steps = log, fresh, patient, 0

    def lookup(self, ids):
        return self.weight[ids]

    def own_parameters(self):
        return [self.own]

    def penalty(self):
        self.log.append("penalty")
        return self.own.sum() * 0

    def second_pass(self, loss):
        self.log.append("second pass")
        assert loss().requires_grad

    def after_step(self):
        self.log.append("after step")
        self.steps += 1

    @property
    def searching(self):
        return self.stage == "first"

    @property
    def may_keep(self):
        return self.steps > self.patient

    @property
    def fresh_model(self):
        return self.fresh

    def search_step(self, valid_loss, *, train_loss=None, weights=(), lr=0.0):
        self.log.append("search")
        assert all(p is not self.own for p in weights)
        assert any(p is self.weight for p in weights)
        assert lr == 1e-3
        assert float(valid_loss().detach()) != float(train_loss().detach())

    def advance(self):
        self.log.append("advance")
        return Recorder(self.rows, self.dim, self.log, "second")

    def finish(self):
        self.log.append("finish")
        return self


def test_stages_are_walked_in_order(splits):
    log: list[str] = []
    model = model_of(splits, table=Recorder(50, 4, log, fresh=True))
    head = [p.detach().clone() for p in model.head_parameters()]
    fitted = fit(model, splits, epochs=1, batch_size=100, lr=1e-3, patience=99)
    step = ["penalty", "second pass", "after step"]
    assert log == [*(step + ["search"]) * 6, "advance", *step * 6, "finish"]
    assert {stage for _, stage, _ in fitted.curve} == {"first", "second"}
    assert fitted.epochs == 2
    assert model.table.own.item() == 1.0
    assert model.table.stage == "second"
    assert not any(torch.equal(a, b) for a, b in zip(head, model.head_parameters()) if a.abs().sum() > 0)


def test_held_out_rows_do_not_decide_when_to_stop(splits, monkeypatch):
    """A searching table gets rows that are in no evaluation."""
    from inlay.clicks import trainer

    seen, judged = [], []
    real = trainer._Run._loss
    monkeypatch.setattr(trainer._Run, "_loss", lambda self, batch: (seen.append(batch[1]), real(self, batch))[1])
    looked = trainer.logits
    monkeypatch.setattr(trainer, "logits", lambda model, part: (judged.append(part.numbers), looked(model, part))[1])
    fit(model_of(splits, table=Recorder(50, 4, [])), splits, epochs=1, batch_size=20)
    train = {float(x) for x in splits.train.numbers[:, 0]}
    searched = {float(x) for batch in seen for x in batch[:, 0]} - train
    stopped = {float(x) for part in judged[:-1] for x in part[:, 0]}
    valid = {float(x) for x in splits.valid.numbers[:, 0]}
    assert searched
    assert searched <= valid
    assert stopped <= valid
    assert not searched & stopped


def test_a_stage_that_was_not_through_says_so(splits):
    with pytest.warns(InlayWarning, match="'first' of Recorder was cut short after 1 epochs"):
        fit(model_of(splits, table=Recorder(50, 4, [], patient=10**6)), splits, epochs=1)


def test_tables_of_fields_go_in_too(splits):
    table = PerField([Full(30, 4), Full(20, 4)])
    assert fit(model_of(splits, table=table), splits, epochs=2, lr=1e-2).auc > 0.5


def test_criteo_is_read(tmp_path: Path):
    header = "split\tlabel\t" + "\t".join([f"I{i}" for i in range(13)] + [f"C{i}" for i in range(26)])
    lines = [header]
    random = np.random.default_rng(0)
    for n in range(60):
        split = ("train", "train", "dev", "test")[n % 4]
        counts = [str(n)] + ["" if n in (4, 8) else "7"] + ["-2"] + ["1"] * 10
        cats = [str(random.integers(4)) for _ in range(24)] + ["", "only once" if n == 0 else "x"]
        lines.append("\t".join([split, str(n // 4 % 2), *counts, *cats]))
    with gzip.open(tmp_path / "criteo.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    splits = criteo(tmp_path)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (30, 15, 15)
    assert splits.num_numbers == 14  # one count is missing at times in training, and has a column for that
    assert splits.train.numbers[:2, 0].tolist() == pytest.approx(np.log1p([0, 1]).tolist())
    missing = splits.train.numbers[:, 13] == 1
    assert missing.sum() == 2
    assert splits.train.numbers[missing, 1] == pytest.approx(np.log1p(7))
    assert (splits.train.numbers[:, 2] == 0).all()
    assert splits.train.ids[0, 25] == splits.space.offsets[25]  # a value seen once is the field's id 0
    assert splits.train.ids[1, 25] == splits.space.offsets[25] + 1
    (tmp_path / "criteo.tsv.gz").write_bytes(gzip.compress(b"split\tlabel\ntrain\t1\n"))
    with pytest.raises(BadInput, match="41 columns"):
        criteo(tmp_path)
    with pytest.raises(BadInput, match=r"no .*criteo"):
        criteo(tmp_path / "absent")


@pytest.mark.parametrize("size", ["100k", "1m"])
def test_movielens_is_read(size, tmp_path: Path):
    random = np.random.default_rng(0)
    ratings = [(random.integers(1, 9), random.integers(1, 9), random.integers(1, 6), 0) for _ in range(400)]
    if size == "100k":
        users = [f"{u}|{20 + u}|M|artist|0{u}" for u in range(1, 9)]
        (tmp_path / "u.data").write_text("\n".join("\t".join(map(str, row)) for row in ratings))
        (tmp_path / "u.user").write_text("\n".join(users))
    else:
        users = [f"{u}::M::{20 + u}::artist::0{u}" for u in range(1, 9)]
        (tmp_path / "ratings.dat").write_text("\n".join("::".join(map(str, row)) for row in ratings))
        (tmp_path / "users.dat").write_text("\n".join(users))
    splits = movielens(tmp_path)
    assert splits.space.names == ("user", "item", "age", "gender", "occupation", "zip")
    kept = [row for row in ratings if row[2] != 3]
    parts = (splits.train, splits.valid, splits.test)
    assert sum(map(len, parts)) == len(kept)
    assert sum(part.labels.sum() for part in parts) == sum(row[2] >= 4 for row in kept)
    assert splits.space.sizes.tolist() == [9, 9, 9, 2, 2, 9]
    assert set(splits.space.values["age"]) == {str(20 + u) for u in range(1, 9)}
    with pytest.raises(BadInput, match="neither"):
        movielens(tmp_path / "absent")


def test_bad_input(splits):
    space = splits.space
    with pytest.raises(BadInput, match="differ in rows"):
        Clicks(np.zeros((3, 2)), np.zeros((3, 0)), np.zeros(2))
    with pytest.raises(BadInput, match="0 or 1"):
        Clicks(np.zeros((1, 2)), np.zeros((1, 0)), np.array([2.0]))
    with pytest.raises(BadInput, match="finite"):
        Clicks(np.zeros((1, 2)), np.array([[np.nan]]), np.array([1.0]))
    with pytest.raises(BadInput, match="with and without"):
        ClickSplits(space, splits.train, splits.valid, splits.test.take(splits.test.labels == 1), "x")
    with pytest.raises(BadInput, match="2 fields"):
        ClickSplits(space, Clicks(np.zeros((2, 3)), np.zeros((2, 0)), [0, 1]), splits.valid, splits.test, "x")
    with pytest.raises(BadInput, match="4 wide, not 8"):
        DCN(Full(50, 4), 2, 8, 1)
    for wrong in ({"batch_size": 0}, {"epochs": 0}, {"patience": 0}, {"search_share": 1.0}, {"evaluations": 0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            fit(model_of(splits), splits, **wrong)
    with pytest.raises(BadInput, match="diverged"):
        auc(np.array([0, 1]), np.array([0, np.nan]))


def test_logloss_is_that_of_sklearn():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 100), random.normal(size=100)
    assert logloss(labels, scores) == pytest.approx(metrics.log_loss(labels, 1 / (1 + np.exp(-scores))))


class Ruined(Staged):
    """A second stage that forgets everything at each step."""

    stages = ("first", "second")

    def __init__(self, rows, dim):
        super().__init__(rows, dim)
        self.weight = torch.nn.Parameter(torch.rand(rows, dim) / 10)

    def lookup(self, ids):
        return self.weight[ids]

    def after_step(self):
        if self.stage == "second":
            self.weight.data.normal_(0, 5)


def test_a_later_stage_may_keep_what_it_was_given(splits):
    torch.manual_seed(0)
    fitted = fit(model_of(splits, table=Ruined(50, 4)), splits, lr=1e-2, epochs=8, batch_size=32)
    of = {stage: [v for _, s, v in fitted.curve if s == stage] for stage in ("first", "second")}
    assert of["second"][0] == max(of["first"]) > max(of["second"][1:])
    assert fitted.valid_auc == of["second"][0]
    assert fitted.auc > 0.8
