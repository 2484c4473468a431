"""Tables that lose numbers: DeepLight, AutoSrh, PEP, and the sparse forms they compile to."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from inlay.tables import PEP, AutoSrh, Compiled, CoordinateRows, DeepLight, KeySpace, SparseRows, Table  # noqa: E402
from inlay.tables.auto_srh import frequency_groups  # noqa: E402
from inlay.tables.compiled import sparse, sparse_count  # noqa: E402
from inlay.tables.staged import largest  # noqa: E402


def space() -> KeySpace:
    return KeySpace.fit({"a": np.random.default_rng(0).zipf(1.3, 6000) % 300})


def step(table, optimizer, seed, loss=None):
    ids = torch.randint(0, table.rows, (64,), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    value = table(ids).square().mean() if loss is None else loss(ids)
    (value + table.penalty()).backward()
    optimizer.step()
    table.after_step()


def adam(table, lr=1e-2):
    own = {id(p) for p in table.own_parameters()}
    return torch.optim.Adam([p for p in table.parameters() if p.requires_grad and id(p) not in own], lr)


@given(st.integers(1, 300), st.integers(0, 320), st.booleans())
def test_largest_are_the_largest(count, keep, ties):
    random = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=random)
    values = values.round() if ties else values
    mask = largest(values, keep)
    assert mask.sum() == min(keep, count)
    if 0 < keep < count:
        assert values[mask].abs().min() >= values[~mask].abs().max()


@given(st.integers(1, 20), st.integers(1, 9), st.floats(0, 1))
def test_sparse_takes_the_smaller_form(rows, dim, share):
    random = torch.Generator().manual_seed(rows * 31 + dim)
    dense = torch.randn(rows, dim, generator=random) * (torch.rand(rows, dim, generator=random) < share)
    made = sparse(dense)
    ids = torch.randint(0, rows, (3, 4), generator=random)
    assert torch.equal(made(ids), dense[ids])
    assert made.nbytes == min(SparseRows.of(dense).nbytes, CoordinateRows.of(dense).nbytes)
    kept = int(dense.count_nonzero())
    most = sparse_count(rows, made.nbytes)
    assert most >= kept


@given(st.integers(1, 500), st.floats(20, 30_000))
def test_numbers_of_a_budget_fit_it_and_one_more_would_not(rows, budget):
    takes = lambda n: 10 * n if n <= rows else 4 * (rows + 1) + 6 * n  # noqa: E731
    count = sparse_count(rows, budget)
    assert takes(count) <= budget
    assert takes(count + 1) > budget


def test_half_of_the_bytes_is_far_less_than_half_of_the_numbers():
    keys = space()
    for cls in (DeepLight, AutoSrh, PEP):
        made = cls.from_budget(keys, 16, 0.5 * keys.rows * 64)
        assert made.keep < 0.34 * keys.rows * 16
        with pytest.raises(BadInput, match="too few"):
            cls.from_budget(keys, 16, 5)


def test_deep_light_follows_its_schedule():
    torch.manual_seed(0)
    table = DeepLight(100, 8, keep=100, every=5, pace=1.0)
    optimizer = adam(table)
    for i in range(20):
        step(table, optimizer, i)
    assert table.weight.count_nonzero() == 800  # warming up
    assert table.may_keep
    assert table.advance() is table
    assert table.stage == "prune"
    assert not table.may_keep
    for t in range(1, 701):
        step(table, optimizer, t)
        if t % 5 == 0:
            wanted = (1 - 100 / 800) * (1 - 0.99**t)
            assert int((table.weight == 0).sum()) == round(wanted * 800)
        elif t % 5 == 1 and t > 100:
            assert (table.weight == 0).float().mean() <= table.share + 1e-2  # what is read grows back
        assert table.may_keep == (t > math.log(1e-3) / math.log(0.99))
    finished = table.finish()
    assert finished.weight.count_nonzero() == 100


def test_auto_srh_gates_move_on_held_out_rows_only():
    torch.manual_seed(0)
    keys = space()
    table = AutoSrh(keys.rows, 4, keep=200, gate_lr=0.1, counts=keys.counts)
    optimizer = adam(table)
    step(table, optimizer, 0)
    table.search_step(lambda: table(torch.arange(keys.rows)).sum())
    assert (table.gates == 1).all()  # warming up
    table.advance()
    optimizer = adam(table)
    assert not any(p is table.gates for g in optimizer.param_groups for p in g["params"])
    step(table, optimizer, 1)
    assert (table.gates == 1).all()
    before = table.weight.detach().clone()
    with torch.no_grad():
        table.weight.abs_()
        before = table.weight.clone()
    slope = torch.autograd.grad(table(torch.arange(keys.rows)).square().sum(), table.gates)[0]
    table.search_step(lambda: table(torch.arange(keys.rows)).square().sum())
    expected = 1 - 0.1 * (slope / slope.abs().mean(1, keepdim=True) + 1e-5)
    torch.testing.assert_close(table.gates.detach(), expected.clamp(0, 1))
    assert torch.equal(table.weight, before)
    for i in range(50):
        table.search_step(lambda: table(torch.arange(keys.rows)).square().sum() * (-1) ** (i // 25))  # noqa: B023
        assert 0 <= table.gates.min() <= table.gates.max() <= 1
    table.advance()
    gates = table.gates.detach().clone()
    table.search_step(lambda: table(torch.arange(keys.rows)).sum())
    assert torch.equal(table.gates, gates)
    assert table.finish().compiled().values.numel() <= 200


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200), st.integers(1, 6))
def test_frequency_groups_keep_equals_together_and_frequent_first(counts, groups):
    found = frequency_groups(np.array(counts), groups)
    assert found.max() < groups
    by = {}
    for count, group in zip(counts, found.tolist()):
        assert by.setdefault(count, group) == group
    order = [by[count] for count in sorted(by, reverse=True)]
    assert order == sorted(order)


def test_frequency_groups_of_distinct_counts_are_even():
    assert np.bincount(frequency_groups(np.random.default_rng(0).permutation(60), 6)).tolist() == [10] * 6


def test_pep_soft_thresholds_then_trains_the_mask_anew():
    torch.manual_seed(0)
    table = PEP(40, 6, keep=50, start=-3.0, threshold_lr=0.2, scale=1.0)
    expected = table.weight.sign() * F.relu(table.weight.abs() - torch.sigmoid(torch.tensor(-3.0)))
    assert torch.allclose(table.materialize(), expected)
    optimizer = adam(table)
    assert not any(p is table.searched for g in optimizer.param_groups for p in g["params"])
    left = []
    for i in range(400):
        step(table, optimizer, i)
        left.append(table.left)
        assert table.may_keep == table.stage_over
        if table.stage_over:
            break
    assert left[-1] <= 50 < left[0]
    alive = table.materialize() != 0
    assert table.fresh_model
    again = table.advance()
    assert again.stage == "re-train"
    assert torch.equal(again.mask, alive)
    assert not torch.equal(again.weight, table.weight)
    with pytest.raises(BadInput, match="last stage"):
        again.advance()
    optimizer = adam(again)
    for i in range(5):
        step(again, optimizer, i)
    assert int(again.materialize().count_nonzero()) <= int(alive.sum())
    assert torch.equal(again.compiled().materialize(), again.materialize())


def test_pep_stopped_early_still_fits_its_budget():
    table = PEP(40, 6, keep=30, scale=1.0)
    assert table.advance().left == 30


def test_the_public_start_of_pep_has_no_gradient():
    dead = PEP(4, 3, keep=2, start=-150.0, scale=1.0)
    dead(torch.arange(4)).sum().backward()
    assert (dead.searched.grad == 0).all()
    alive = PEP(4, 3, keep=2, scale=1.0)
    alive(torch.arange(4)).sum().backward()
    assert (alive.searched.grad != 0).any()


MAKE = {
    "deep light": lambda: DeepLight(300, 8, keep=400),
    "deep light, few": lambda: DeepLight(300, 8, keep=90),
    "auto srh": lambda: AutoSrh(space().rows, 8, keep=300, counts=space().counts),
    "pep": lambda: PEP(300, 8, keep=500, scale=1.0),
}


@pytest.mark.parametrize("name", MAKE)
def test_both_forms_agree_and_files_round_trip(name, tmp_path: Path):
    torch.manual_seed(0)
    table = MAKE[name]()
    optimizer = adam(table)
    for i in range(5):
        step(table, optimizer, i)
    while table.stage != table.stages[-1]:
        table = table.advance()
    table = table.finish()
    ids = torch.randint(0, table.rows, (10_000,))
    compiled = table.compiled()
    assert torch.equal(compiled.materialize(ids), table.materialize(ids))
    assert compiled.values.numel() <= table.keep
    assert table.nbytes == compiled.nbytes
    read = Table.load(table.save(tmp_path / "t"))
    assert torch.equal(read.materialize(), table.materialize())
    assert read.stage == table.stage
    assert torch.equal(Compiled.load(compiled.save(tmp_path / "c")).materialize(), table.materialize())
    assert torch.equal(copy.deepcopy(table).materialize(), table.materialize())


@pytest.mark.parametrize("make", [
    lambda: DeepLight(4, 4, keep=17), lambda: DeepLight(4, 4, keep=1, every=0), lambda: DeepLight(4, 4, keep=1, pace=0),
    lambda: PEP(4, 4, keep=-1), lambda: PEP(4, 4, keep=1, start=math.inf), lambda: AutoSrh(4, 4, keep=1, groups=0),
    lambda: AutoSrh(4, 4, keep=1, counts=np.ones(3)), lambda: AutoSrh(4, 4, keep=1, l1=-1),
    lambda: CoordinateRows(4, 1 << 15, count=1),
])  # fmt: skip
def test_bad_settings_are_refused(make):
    with pytest.raises(BadInput):
        make()
