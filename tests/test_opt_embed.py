"""OptEmbed: thresholds, widths, evolution, and the table that is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.tables.evolution import crossed, evolve, mutated

torch = pytest.importorskip("torch")

from inlay.clicks.data import Clicks, ClickSplits  # noqa: E402
from inlay.clicks.heads import DCN, DeepFM  # noqa: E402
from inlay.clicks.opt_embed_search import opt_embed  # noqa: E402
from inlay.tables import Compiled, KeySpace, NarrowRows, OptEmbed, PerField, Table  # noqa: E402
from inlay.tables.opt_embed import step  # noqa: E402


def test_step_and_its_derivative():
    z = torch.tensor([-2.0, -1.0, -0.7, -0.4, -0.1, 0.0, 0.1, 0.4, 0.41, 1.0, 1.01], requires_grad=True)
    out = step(z)
    assert out.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    out.sum().backward()
    expected = [0, 0.4, 0.4, 0.4, 1.6, 2.0, 1.6, 0.4, 0.4, 0.4, 0]
    assert torch.allclose(z.grad, torch.tensor(expected), atol=1e-6)


def test_norms_are_of_whole_rows_and_widths_drawn_for_each_sample_and_field():
    table = OptEmbed([3, 3], 8, scale=1.0)
    with torch.no_grad():
        table.weight.fill_(1.0)
        table.threshold.fill_(7.5)  # a row cut to fewer than 8 numbers would fall below it
    table.train()
    out = table(torch.zeros(2000, 2, dtype=torch.long) + torch.tensor([0, 3]))
    widths = out.sum(-1)
    assert torch.equal(torch.bincount(widths.long().flatten(), minlength=9) > 0, torch.arange(9) > 0)  # 1 … 8, never 0
    assert (widths[:, 0] != widths[:, 1]).float().mean() > 0.8
    assert torch.equal(out, out.sort(-1, descending=True).values)  # the first numbers stay
    assert widths.mean().item() == pytest.approx(4.5, abs=0.15)
    assert table.eval()(torch.tensor([[0, 3]])).sum() == 16


@given(st.lists(st.floats(0, 3), min_size=2, max_size=2), st.integers(0, 99))
@settings(deadline=None)
def test_what_is_selected_reads_as_the_supernet(thresholds, seed):
    torch.manual_seed(seed)
    table = OptEmbed([7, 5], 6, scale=0.5)
    with torch.no_grad():
        table.threshold.copy_(torch.tensor(thresholds))
        table.widths.copy_(torch.tensor([4, 1]))
    small = table.select()
    assert torch.equal(small.materialize(), table.materialize())
    assert torch.equal(table.compiled().materialize(), table.materialize())
    ids = torch.stack([torch.randint(0, 7, (50,)), torch.randint(7, 12, (50,))], 1)
    assert torch.equal(small.compiled()(ids), table.eval()(ids))
    assert small.nbytes == table.bytes_of(table.kept_rows(), [4, 1])


def test_pruned_ids_share_a_row_in_oov_mode():
    table = OptEmbed([6, 4], 4, mode="oov", scale=1.0)
    with torch.no_grad():
        table.weight[1:3] = 0.01
        table.threshold.fill_(0.5)
    small = table.select()
    rows = small.materialize()
    assert torch.equal(rows[1], rows[2])
    assert rows[1].abs().sum() > 0
    assert small.parts()[1].kept is None or small.parts()[1].kept <= 4
    small(torch.tensor([[1, 6]])).sum().backward()
    assert small.parts()[0].weight.grad[-1].abs().sum() > 0
    assert small.nbytes == table.bytes_of(table.kept_rows(), [4, 4])


def shares(alpha: float) -> float:
    torch.manual_seed(0)
    table = OptEmbed([200], 8, alpha=alpha, threshold_lr=0.02, scale=0.3)
    for _ in range(80):
        (table(torch.randint(0, 200, (64, 1))).square().mean() * 0 + table.penalty()).backward()
        table.after_step()
    return float(table.alive().float().mean())


def test_more_alpha_prunes_more():
    found = [shares(alpha) for alpha in (0.0, 0.3, 0.6, 1.2)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1 > found[2] > found[3]


def test_thresholds_move_by_plain_descent_and_only_near_norms():
    table = OptEmbed([3], 4, alpha=0.5, threshold_lr=0.1)
    table.penalty().backward()
    table.after_step()
    assert table.threshold.item() == pytest.approx(0.05)
    with torch.no_grad():
        table.weight.fill_(9.0)
    table(torch.tensor([[0]])).sum().backward()
    assert table.threshold.grad.item() == 0
    assert table.inside == 0
    per_value = OptEmbed([3, 2], 4, per_value=True)
    assert per_value.threshold.shape == (5,)
    assert per_value.own_parameters()[0] is per_value.threshold


def test_mutants_leave_their_parents_alone_and_may_be_one_wide():
    random = np.random.default_rng(0)
    parent = np.full(50, 9)
    children = np.stack([mutated(parent, 16, 0.5, random) for _ in range(200)])
    assert (parent == 9).all()
    assert children.min() == 1
    assert children.max() == 16
    assert (children == 9).mean() == pytest.approx(0.5 + 0.5 / 16, abs=0.02)


@given(st.integers(2, 9), st.integers(0, 1000))
def test_crossing_takes_from_both(genes, seed):
    child = crossed(np.ones(genes, int), np.full(genes, 2), np.random.default_rng(seed))
    assert set(child.tolist()) == {1, 2}
    assert (np.diff(child) >= 0).all()


def test_evolution_remembers_the_best_ever():
    seen = []

    def score(c):
        seen.append((-float(np.abs(c - np.arange(1, 9)).sum()), c.copy()))
        c[:] = 99  # a caller that scribbles does no harm
        return seen[-1][0]

    found = evolve(score, 8, 8, generations=25, seed=0)
    best = max(seen, key=lambda pair: pair[0])
    assert found.score == best[0]
    assert (found.best == best[1]).all()
    assert found.history == sorted(found.history)
    assert found.score > found.history[0]
    again = evolve(lambda c: -float(np.abs(c - np.arange(1, 9)).sum()), 8, 8, generations=25, seed=0)
    assert (again.best == found.best).all()
    tight = evolve(lambda c: float(c.sum()), 4, 8, generations=5, repair=lambda c: np.minimum(c, 3), seed=1)
    assert tight.best.tolist() == [3, 3, 3, 3]
    assert evolve(lambda c: float(c[0]), 1, 5, generations=3).best.tolist() == [5]
    with pytest.raises(BadInput):
        evolve(score, 0, 3)
    with pytest.raises(BadInput):
        evolve(score, 3, 3, population=4, keep=3, mutants=2)


def splits() -> ClickSplits:
    """Field a decides; b is noise of many values."""
    random = np.random.default_rng(0)
    a, b = random.integers(0, 12, 3000), random.integers(0, 400, 3000)
    labels = (random.random(3000) < np.where(a % 3 == 0, 0.9, 0.1)).astype(np.float32)
    space = KeySpace.fit({"a": a[:2000], "b": b[:2000]}, min_count=2)
    ids = space.ids({"a": a, "b": b})
    parts = [Clicks(ids[i], np.zeros((len(i), 0)), labels[i]) for i in np.split(np.arange(3000), [2000, 2500])]
    return ClickSplits(space, *parts, "made")


@pytest.mark.parametrize("head", [DCN, DeepFM])
def test_the_recipe_shrinks_and_keeps_what_decides(head):
    torch.manual_seed(0)
    data = splits()
    full = data.space.rows * 8 * 4
    table = OptEmbed.from_budget(data.space, 8, 0.5 * full, alpha=1e-3, threshold_lr=0.1)
    model = head(table, 2, 8, 0)
    found = opt_embed(model, data, generations=3, slice_rows=300, lr=1e-2, epochs=4, patience=4)
    assert isinstance(model.table, PerField)
    assert model.table.nbytes <= 0.5 * full
    assert found.fitted.auc > 0.8
    assert found.searched_auc >= found.history[0] - 1e-9
    assert [part.width for part in model.table.parts()] == found.widths
    assert torch.equal(model.table.compiled().materialize(), model.table.materialize())
    if head is DeepFM:  # the weight of each id goes with its row
        gone = model.table.materialize().abs().sum(1) == 0
        assert (model.linear.materialize()[gone] == 0).all()
    with pytest.raises(BadInput, match="must be an OptEmbed"):
        opt_embed(model, data)


def test_a_budget_prunes_rows_and_widths():
    torch.manual_seed(0)
    table = OptEmbed([100, 100], 16, budget_bytes=2000)
    assert table.advance().nbytes <= 2000
    with pytest.raises(BadInput, match="too few"):
        OptEmbed([100, 100], 16, budget_bytes=0)


def test_starting_from_the_first_rows():
    table = OptEmbed([4, 3], 4, inherit=False)
    first = table.weight.detach().clone()
    with torch.no_grad():
        table.weight.add_(1.0)
    assert table.fresh_model
    assert torch.equal(table.advance().materialize(), first)


def test_files_round_trip(tmp_path: Path):
    table = OptEmbed([6, 4], 4, mode="oov", scale=1.0)
    with torch.no_grad():
        table.threshold.fill_(2.0)
        table.widths.copy_(torch.tensor([3, 2]))
    read = Table.load(table.save(tmp_path / "t"))
    assert torch.equal(read.materialize(), table.materialize())
    small = table.select()
    assert torch.equal(Table.load(small.save(tmp_path / "s")).materialize(), small.materialize())
    path = small.compiled().save(tmp_path / "c")
    assert torch.equal(Compiled.load(path).materialize(), small.materialize())


def test_rows_may_all_be_gone():
    none = NarrowRows.keep(torch.zeros(3, dtype=torch.bool), 4, 2)
    assert none(torch.tensor([0, 2])).tolist() == [[0.0] * 4] * 2
    assert none.compiled()(torch.tensor([1])).tolist() == [[0.0] * 4]
    assert none.nbytes == 12


@pytest.mark.parametrize("make", [
    lambda: OptEmbed([], 4), lambda: OptEmbed([3], 4, alpha=-1), lambda: OptEmbed([3], 4, mode="none"),
    lambda: OptEmbed([3], 4).select([5]), lambda: OptEmbed([3], 4).select([1, 1]), lambda: NarrowRows(3, 4, width=5),
    lambda: NarrowRows(3, 4, width=2, kept=4), lambda: OptEmbed([3], 4, stage="x"),
])  # fmt: skip
def test_bad_settings_are_refused(make):
    with pytest.raises(BadInput):
        make()


def test_the_random_baseline_takes_the_same_bytes_and_rows():
    from inlay.reproductions.tables.optembed import mde_table, random_table

    table = random_table([300, 500, 50], 400, 20_000, seed=1)
    assert 18_000 < table.nbytes <= 20_000
    assert sum(part.rows if part.kept is None else part.kept for part in table.parts()) == 400
    assert mde_table([300, 500, 50], 20_000).nbytes <= 20_000
    assert {part.settings["width"] for part in mde_table([400, 400], 20_000).parts()} == {6}  # MDE sees no difference
