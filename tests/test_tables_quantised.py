"""Tables in few bits: MGQE, DPQ, IntTable, ALPT, AutoDim's candidates."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from inlay.tables import ALPT, DPQ, MGQE, AutoDim, Compiled, IntTable, KeySpace, PerField, Projected, Table  # noqa: E402
from inlay.tables.auto_dim import second_order  # noqa: E402
from inlay.tables.quantised import stochastic_round  # noqa: E402


def space() -> KeySpace:
    random = np.random.default_rng(0)
    return KeySpace.fit({"a": random.zipf(1.3, 4000) % 150, "b": random.integers(0, 40, 4000)})


def trained(table, steps=25, fields=2, seed=0):
    """A table after some steps below a linear model of its rows, with every hook called as a trainer calls it."""
    torch.manual_seed(seed)
    keys = space()
    head = nn.Linear(fields * table.dim, 1)
    own = {id(p) for p in table.own_parameters()} if hasattr(table, "own_parameters") else set()
    rest = [p for p in [*head.parameters(), *table.parameters()] if id(p) not in own]
    optimizer = torch.optim.Adam(rest, 1e-2)
    for _ in range(steps):
        ids = torch.stack([torch.randint(0, int(n), (32,)) + int(o) for n, o in zip(keys.sizes, keys.offsets)], 1)
        labels = (ids.sum(1) % 2).float()

        def loss(ids=ids, labels=labels):
            return F.binary_cross_entropy_with_logits(head(table(ids).flatten(1))[:, 0], labels)

        optimizer.zero_grad()
        (loss() + table.penalty()).backward()
        optimizer.step()
        if hasattr(table, "second_pass"):
            table.second_pass(loss)
        table.after_step()
        if getattr(table, "searching", False):
            table.search_step(loss, train_loss=loss, weights=rest, lr=1e-2)
    return table


MAKE = {
    "mgqe": lambda: MGQE(space().rows, 8, parts=4, high=32, low=8, counts=space().counts),
    "dpq": lambda: DPQ(space().rows, 8, parts=4, centres=8),
    "dpq sx": lambda: DPQ(space().rows, 8, parts=2, centres=5, mode="sx"),
    "int8": lambda: IntTable(space().rows, 8),
    "int16": lambda: IntTable(space().rows, 8, bits=16, step=1e-4),
    "alpt": lambda: ALPT(space().rows, 8, step_lr=1e-3),
    "auto dim": lambda: AutoDim(space(), 8),
}


@pytest.mark.parametrize("name", MAKE)
def test_both_forms_agree_and_files_round_trip(name, tmp_path: Path):
    torch.manual_seed(0)
    table = trained(MAKE[name]())
    random = np.random.default_rng(1)
    ids = torch.from_numpy(random.integers(0, table.rows, 10_000))
    learning, compiled = table.materialize(ids), table.compiled()
    if name == "auto dim":  # BatchNorm is folded into the matrix
        torch.testing.assert_close(compiled.materialize(ids), learning, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(compiled.materialize(ids), learning)
    assert not any(p.requires_grad for p in compiled.parameters())
    read = Table.load(table.save(tmp_path / "t"))
    assert torch.equal(read.materialize(ids), learning)
    assert repr(read) == repr(table)
    path = compiled.save(tmp_path / "c")
    assert torch.equal(Compiled.load(path).materialize(ids), compiled.materialize(ids))
    assert path.stat().st_size == pytest.approx(compiled.nbytes, abs=4000)


@pytest.mark.parametrize(("cls", "share"), [(MGQE, 0.25), (MGQE, 0.1), (DPQ, 0.2), (IntTable, 0.5), (IntTable, 0.25),
                                            (ALPT, 0.4), (AutoDim, 0.5), (AutoDim, 0.25)])  # fmt: skip
def test_budgets_are_kept(cls, share):
    random = np.random.default_rng(0)
    keys = KeySpace.fit({"a": random.zipf(1.2, 9000) % 3000, "b": random.integers(0, 2000, 9000)})
    budget = share * keys.rows * 16 * 4
    made = cls.from_budget(keys, 16, budget)
    assert made.nbytes <= budget + 4  # a fixed step is not counted
    if cls is not AutoDim:  # nothing is searched yet, so it reads its narrowest candidates
        assert made.nbytes > 0.4 * budget
    with pytest.raises(BadInput, match="too few"):
        cls.from_budget(keys, 16, 100)


def test_stochastic_rounding_is_unbiased_and_its_own_stream():
    values = torch.tensor([0.25, -1.75, 3.0])
    draws = torch.stack([stochastic_round(values, torch.Generator().manual_seed(i)) for i in range(4000)])
    assert torch.allclose(draws.mean(0), values, atol=0.03)
    assert set(draws[:, 1].tolist()) == {-2.0, -1.0}
    assert (draws[:, 2] == 3).all()
    torch.manual_seed(0)
    first = trained(IntTable(space().rows, 4, seed=3))
    torch.manual_seed(0)
    torch.rand(5)  # what else is drawn does not reach the rounding: only its own seed does
    second = IntTable(space().rows, 4, seed=3)
    assert first.random.initial_seed() == second.random.initial_seed()


@given(st.sampled_from([8, 16]), st.floats(1e-3, 0.1), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_rows_are_always_whole_steps_and_only_read_rows_move(bits, step, seed):
    table = IntTable(20, 3, bits=bits, step=step, seed=seed)
    optimizer = torch.optim.Adam(table.parameters(), 0.05)
    for _ in range(2):  # the second step moves rows of the first through momentum alone
        before = table.codes.clone()
        ids = torch.tensor([seed, 7 + seed])
        optimizer.zero_grad()
        table(ids).square().sum().backward()
        optimizer.step()
        table.after_step()
        untouched = torch.ones(20, dtype=torch.bool)
        untouched[ids] = False
        assert torch.equal(table.codes[untouched], before[untouched])
        assert torch.equal(table.weight, table.codes.float() * table.step)
        seed += 3
    with torch.no_grad():
        table.weight[0] = 1e9
    table.train()(torch.tensor([0]))
    table.after_step()
    assert table.codes[0].tolist() == [table.limit] * 3  # clipped, not wrapped


def test_alpt_gradient_is_lsq_and_steps_come_in_order():
    torch.manual_seed(0)
    table = ALPT(6, 4, bits=8, step=0.01, step_lr=1e-3)
    with torch.no_grad():
        table.weight[2] = torch.tensor([0.0137, -0.021, 5.0, -5.0])  # the last two are outside the range
    ids = torch.tensor([[2], [2], [4]])
    weight, seen = torch.randn(4), {}
    table.train()
    table(ids)

    def loss():
        seen["rows"] = table(ids)
        return (seen["rows"] * weight).sum()

    before = table.step.clone()
    leaf_slopes = []
    original = torch.autograd.grad
    try:
        torch.autograd.grad = lambda *a, **k: leaf_slopes.append(original(*a, **k)) or leaf_slopes[-1]
        table.second_pass(loss)
    finally:
        torch.autograd.grad = original
    v = table.weight.detach()[2] / 0.01
    of_step = torch.where(v.abs() <= 127, v.round() - v, v.sign() * 127)
    expected = 2 * (weight * of_step).sum() / (3 * 4 * 127) ** 0.5
    assert leaf_slopes[0][0][2].item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.equal(seen["rows"][0, 0], (v.round().clamp(-127, 127) * 0.01))  # rounded to the nearest, from step A
    moved = table.step != before
    # Row 4 lies on whole steps: round(v) = v, which says nothing of its step.
    assert moved.tolist() == [False, False, True, False, False, False]
    table.after_step()  # step C uses the new steps
    assert torch.equal(table.weight, table.codes.float() * table.step[:, None])
    table(ids)
    with pytest.raises(BadInput, match="second_pass"):
        table.after_step()


@pytest.mark.parametrize("mode", ["vq", "sx"])
def test_dpq_reads_nearest_centres_straight_through(mode):
    torch.manual_seed(0)
    table = DPQ(30, 6, parts=3, centres=4, mode=mode)
    table.eval()
    rows = table(torch.arange(30))
    part = torch.arange(3)
    codes = table.coded(torch.arange(30))
    assert torch.equal(rows.view(30, 3, 2), table.centre[part, codes])
    if mode == "vq":  # the running statistics of a new BatchNorm change nothing: responses are plain distances
        q = table.weight.view(30, 3, 1, 2)
        assert torch.equal(codes, (q - table.centre[None]).square().sum(-1).argmin(-1))
    table.train()
    out = table(torch.arange(30))
    out.sum().backward()
    if mode == "vq":
        assert torch.allclose(table.weight.grad, torch.ones(30, 6))
        assert table.centre.grad is None
        table(torch.arange(30))
        table.penalty().backward()
        assert table.centre.grad.abs().sum() > 0
        assert torch.allclose(table.weight.grad, torch.ones(30, 6))  # commitment moves centres, not queries
    else:
        assert table.key.grad.abs().sum() > 0
        assert table.weight.grad.abs().sum() > 0
    assert (table.codes >= 0).all()
    assert table.penalty() is not None


def test_commitment_is_the_mean_squared_distance_and_is_given_once():
    torch.manual_seed(0)
    table = MGQE(12, 4, parts=2, high=4, low=2)
    out = table(torch.arange(12))
    expected = (out - table.weight).square().mean()
    assert table.penalty().item() == pytest.approx(expected.item(), rel=1e-5)
    assert table.penalty().item() == 0


def test_rare_ids_use_few_centres():
    keys = space()
    table = trained(MGQE(keys.rows, 8, parts=4, high=64, low=4, frequent=0.1, counts=keys.counts))
    codes = table.coded(torch.arange(keys.rows))
    assert (codes[~table.frequent] < 4).all()
    assert (codes[table.frequent] >= 4).any()
    assert table.frequent.sum() == round(0.1 * keys.rows)
    assert keys.counts[table.frequent.numpy()].min() >= keys.counts[~table.frequent.numpy()].max()


def test_auto_dim_chooses_and_re_trains():
    torch.manual_seed(0)
    table = trained(AutoDim(space(), 8, choice_lr=1.0))
    assert table.choice.abs().sum() > 0
    nxt = table.advance()
    assert isinstance(nxt, PerField)
    assert [part.settings["width"] for part in nxt.parts()] == [table.widths[c] for c in table.chosen()]
    assert table.fresh_model
    inheriting = AutoDim(space(), 8, inherit=True)
    assert torch.equal(inheriting.advance().materialize(), inheriting.materialize())
    assert AutoDim(space(), 8, batch_size=2000).temperature == 1.0
    table.steps.fill_(10**9)
    assert table.temperature == 0.01


def test_auto_dim_narrows_to_its_budget():
    keys = space()
    table = AutoDim.from_budget(keys, 16, 0.3 * keys.rows * 64)
    with torch.no_grad():
        table.choice[:, -1] = 9.0  # every field wants the widest
    assert table.nbytes <= 0.3 * keys.rows * 64
    assert any(table.widths[c] < 16 for c in table.chosen())


def test_second_order_is_the_derivative_through_the_step():
    torch.manual_seed(0)
    a, w = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
    x, lr = torch.randn(3), 0.1
    train = lambda: ((w * a - x) ** 2).sum()  # noqa: E731
    valid = lambda: ((w * a + w - 1) ** 2).sum()  # noqa: E731
    kept = w.detach().clone()
    found = second_order(a, [w], train, valid, lr)
    assert torch.equal(w, kept)
    copy_a = a.detach().clone().requires_grad_(True)
    moved = kept.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(((moved * copy_a - x) ** 2).sum(), moved, create_graph=True)
    after = moved - lr * slope
    (expected,) = torch.autograd.grad(((after * copy_a + after - 1) ** 2).sum(), copy_a)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    first = torch.autograd.grad(valid(), a)[0]
    assert (found - expected).norm() < 0.2 * (first - expected).norm()
    table = trained(AutoDim(space(), 4, second_order=True, choice_lr=1.0), steps=5)
    assert torch.isfinite(table.choice).all()
    with pytest.raises(BadInput, match="second order"):
        table.search_step(lambda: table.choice.sum())


def test_projected_rows_of_one_id_train():
    table = Projected(3, 4, width=2)
    assert table(torch.tensor([1])).shape == (1, 4)
    assert torch.isfinite(table(torch.tensor([1]))).all()


@pytest.mark.parametrize("make", [
    lambda: MGQE(5, 8, parts=3), lambda: MGQE(5, 8, low=300), lambda: MGQE(5, 8, frequent=2),
    lambda: DPQ(5, 8, centres=1),
    lambda: DPQ(5, 8, mode="xs"), lambda: IntTable(5, 8, bits=4), lambda: IntTable(5, 8, step=0),
    lambda: ALPT(5, 8, step_lr=-1),
    lambda: MGQE(5, 8, counts=np.ones(4)), lambda: AutoDim([3, 4], 8, widths=[4, 2]), lambda: AutoDim([], 8),
    lambda: AutoDim([3], 8, stage="done"), lambda: Projected(3, 4, width=0), lambda: AutoDim([3], 8, choice_lr=-1),
])  # fmt: skip
def test_bad_settings_are_refused(make):
    with pytest.raises(BadInput):
        make()


@pytest.mark.parametrize("kind", ["dpq", "mgqe"])
def test_codes_in_training_are_those_of_every_row_of_the_batch(kind):
    """Distinct ids are looked at once, weighed by how often they come: what BatchNorm over the whole batch gives."""
    torch.manual_seed(0)
    table = DPQ(40, 8, parts=2, centres=16) if kind == "dpq" else MGQE(40, 8, parts=2, high=16, low=4)
    twin = copy.deepcopy(table)
    for _ in range(3):
        ids = torch.randint(0, 40, (90,)) % torch.randint(1, 41, (90,))
        found = table._nearest(ids)
        _, responses = twin._responses(ids)
        assert torch.equal(found, responses.argmax(-1))
        for ours, theirs in zip(table.norm.buffers(), twin.norm.buffers()):
            assert torch.allclose(ours.float(), theirs.float(), rtol=1e-5)
