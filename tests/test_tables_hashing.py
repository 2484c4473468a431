"""Tables whose ids share memory by hashes, digits or likeness, and those of mixed dimensions.

TT-Rec, DHE, ROBE, AdaptEmb, Dedup, MDE.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from inlay.tables import (  # noqa: E402
    Adaptive,
    Deduplicated,
    DeepHash,
    Full,
    KeySpace,
    MixedDimension,
    PerField,
    Robe,
    Table,
    TensorTrain,
)
from inlay.tables.deduplicated import aliases  # noqa: E402
from inlay.tables.mixed_dimension import mixed_widths  # noqa: E402
from inlay.tables.tensor_train import _tail_deviation, _tails, three_factors  # noqa: E402


def space_of(*sizes):
    return KeySpace(
        {f"f{i}": list(range(size - 1)) for i, size in enumerate(sizes)},
        {f"f{i}": np.arange(size)[::-1] for i, size in enumerate(sizes)},
    )


SPACE = space_of(700, 280, 20)
COUNTS = np.random.default_rng(0).integers(0, 50, 300)

MADE = {
    "train": lambda: TensorTrain(300, 8, rank=3, scale=0.1),
    "hashes": lambda: DeepHash(300, 8, width=6, hashes=16),
    "normal hashes": lambda: DeepHash(300, 8, width=6, hashes=16, encoding="normal", seed=3),
    "robe": lambda: Robe(300, 8, size=500),
    "robe chunks": lambda: Robe(300, 8, size=37, chunk=3, seed=2),
    "robe linear": lambda: Robe(300, 8, size=500, chunk=4, hash="linear"),
    "adaptive": lambda: Adaptive(300, 8, private=40, shared=20, counts=COUNTS),
    "mixed": lambda: MixedDimension(300, 8, width=2),
    "mixed whole": lambda: MixedDimension(300, 8, width=8),
    "dedup": lambda: Deduplicated(300, 8, block=7, budget_bytes=5000),
    "dedup done": lambda: Deduplicated(300, 8, block=7, budget_bytes=5000).advance(),
}


def trained(table, steps=5):
    """A few steps, so that statistics and weights are not those of the start."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.01)
    for _ in range(steps):
        ids = torch.randint(0, table.rows, (64,))
        loss = (table(ids) - 1).square().mean() + table.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        table.after_step()
    return table


@pytest.mark.parametrize("name", MADE)
def test_learns_compiles_and_keeps(name, tmp_path: Path):
    torch.manual_seed(0)
    table = trained(MADE[name]())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in table.parameters())
    ids = torch.randint(0, 300, (4, 5))
    assert table(ids).shape == (4, 5, 8)
    compiled = table.compiled()
    exact = "hashes" not in name
    ours, theirs = table.materialize(), compiled.materialize()
    assert torch.equal(ours, theirs) if exact else torch.allclose(ours, theirs, atol=1e-5)
    assert torch.equal(compiled(ids), theirs[ids]) if exact else torch.allclose(compiled(ids), theirs[ids], atol=1e-6)
    kept = Table.load(table.save(tmp_path / "t"))
    assert type(kept) is type(table)
    assert repr(kept) == repr(table)
    assert torch.equal(kept.materialize(), ours)
    read = type(compiled).load(compiled.save(tmp_path / "c"))
    assert torch.equal(read.materialize(), theirs)
    assert read.nbytes == compiled.nbytes == table.nbytes
    with pytest.raises(BadInput, match="outside"):
        table(torch.tensor([300]))
    assert table(torch.zeros(0, 2, dtype=torch.long)).shape == (0, 2, 8)


@pytest.mark.parametrize("budget", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("kind", [TensorTrain, DeepHash, Robe, Adaptive, Deduplicated, MixedDimension])
def test_budgets_are_met_and_used(kind, budget):
    nbytes = budget * SPACE.rows * 16 * 4
    few = {"hashes": 64} if kind is DeepHash else {}
    table = kind.from_budget(SPACE, 16, nbytes, **few)
    if kind is Deduplicated:
        table = table.advance()
    assert table.rows == 1000
    assert table.compiled().nbytes <= nbytes
    # Ranks, widths and powers of two are coarse; an array of numbers is not.
    assert table.nbytes > {Robe: 0.999, Adaptive: 0.98, Deduplicated: 0.9}.get(kind, 0.6) * nbytes
    ids = torch.tensor([[0, 700, 999], [699, 979, 980]])
    assert table(ids).shape == (2, 3, 16)


@pytest.mark.parametrize("kind", [TensorTrain, DeepHash, Robe, Adaptive, Deduplicated, MixedDimension])
def test_a_budget_that_is_too_small_is_refused(kind):
    with pytest.raises(BadInput, match="too few"):
        kind.from_budget(SPACE, 16, 3.0)


def test_size_is_that_of_the_file(tmp_path: Path):
    for table in (
        TensorTrain(100_000, 16, rank=16),
        Robe(10**5, 16, size=10**5),
        Adaptive(30_000, 16, private=9, shared=999),
    ):
        compiled = table.compiled()
        assert compiled.save(tmp_path / "t").stat().st_size == pytest.approx(compiled.nbytes, rel=0.01)


# TT-Rec


@given(st.integers(1, 400), st.integers(1, 24), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_trains_are_products_of_their_cores(rows, dim, rank):
    torch.manual_seed(rows)
    table = TensorTrain(rows, dim, rank=rank, scale=0.3)
    (n1, n2, _), (d1, d2, d3), r = table.sizes, table.widths, rank
    for x in {0, rows - 1, rows // 2}:
        i1, i2, i3 = x % n1, x // n1 % n2, x // (n1 * n2)
        first = table.first[i1].view(d1, r)
        second = table.second[i2].view(r, d2, r)
        third = table.third[i3].view(r, d3)
        expected = torch.einsum("ap,pbq,qc->abc", first, second, third).flatten()
        assert torch.allclose(table(torch.tensor(x)), expected, atol=1e-4)


def test_factors():
    assert three_factors(16) == (2, 2, 4)
    assert three_factors(64) == (4, 4, 4)
    assert three_factors(7) == (1, 1, 7)
    assert all(math.prod(three_factors(dim)) == dim for dim in range(1, 200))


def test_only_tails_are_drawn_and_products_look_normal():
    torch.manual_seed(0)
    z = _tails(200_000)
    assert z.abs().min() >= 2
    assert abs(float(z.mean())) < 0.02
    assert float(z.std()) == pytest.approx(_tail_deviation(), rel=0.005)
    normal = torch.randn(1_000_000)
    normal = normal[normal.abs() >= 2]  # what rejection keeps
    quantiles = torch.linspace(0.05, 0.95, 19)
    assert torch.allclose(z.abs().quantile(quantiles), normal.abs().quantile(quantiles), atol=0.05)
    assert float((z > 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    # Kurtosis of a product of three: 27 for normals, near a normal's 3 for tails.
    product = _tails(100_000) * _tails(100_000) * _tails(100_000)
    ordinary = torch.randn(100_000) * torch.randn(100_000) * torch.randn(100_000)
    kurtosis = [float((x**4).mean() / (x**2).mean() ** 2) for x in (product, ordinary)]
    assert kurtosis[0] < 3 < 15 < kurtosis[1]
    table = TensorTrain(8000, 16, rank=4, scale=0.07)
    assert float(table.materialize().std()) == pytest.approx(0.07, rel=0.15)
    paper = TensorTrain(8000, 16, rank=4)
    assert paper.first.std().item() == pytest.approx(_tail_deviation() * (3 / 8000) ** (1 / 6), rel=0.05)


def test_fields_that_would_grow_stay_plain():
    table = TensorTrain.from_budget(SPACE, 16, 30_000)
    assert [type(part) for part in table.parts()] == [TensorTrain, TensorTrain, Full]
    ranks = {part.rank for part in table.parts()[:2]}
    assert len(ranks) == 1
    (rank,) = ranks
    bigger = [TensorTrain(n, 16, rank=rank + 1).nbytes for n in (700, 280)]
    assert sum(bigger) + 20 * 64 > 30_000


# DHE


def test_uniform_codes_are_uniform_and_normal_ones_normal():
    ids = torch.arange(20_000)
    table = DeepHash(20_000, 4, width=2, hashes=8)
    code = table.encode(ids)
    assert code.min() >= -1
    assert code.max() <= 1
    assert torch.allclose(code.std(0), torch.tensor(3**-0.5), atol=0.01)
    assert (torch.corrcoef(code.T) - torch.eye(8)).abs().max() < 0.03
    normal = DeepHash(20_000, 4, width=2, hashes=8, encoding="normal").encode(ids)
    assert torch.isfinite(normal).all()
    assert torch.allclose(normal.std(0), torch.ones(8), atol=0.02)
    assert torch.allclose((normal**4).mean(0), torch.full((8,), 3.0), atol=0.3)
    assert (torch.corrcoef(normal.T) - torch.eye(8)).abs().max() < 0.03


def test_hashes_do_not_overflow_and_seeds_differ():
    big = torch.tensor([2**40 - 1, 2**31, 5])
    first = DeepHash(2**40, 4, width=2, hashes=8).encode(big)
    assert first.abs().max() <= 1
    assert not torch.equal(first, DeepHash(2**40, 4, width=2, hashes=8, seed=1).encode(big))


def test_norms_are_folded_away():
    table = trained(DeepHash(300, 8, width=6, hashes=16))
    w, k, d = 6, 16, 8
    assert table.nbytes == 4 * ((k + 1) * w + 4 * w * (w + 1) + (w + 1) * d)
    state = table.compiled().state_dict()
    assert not any("running" in name for name in state)
    table.train()
    before = table.network[1].running_mean.clone()
    table.materialize()  # reading is not training
    assert torch.equal(before, table.network[1].running_mean)
    assert table(torch.tensor([3])).shape == (1, 8)  # one row has no spread to divide by
    assert torch.isfinite(table(torch.tensor([3]))).all()


# ROBE


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 80))
@settings(max_examples=40, deadline=None)
def test_chunks_are_runs_that_wrap_around(rows, chunk, size):
    table = Robe(rows, 9, size=size, chunk=chunk)
    at = table.places(torch.arange(rows))
    assert at.min() >= 0
    assert at.max() < size
    for c in range(0, 9, chunk):
        run = at[:, c : c + chunk]
        assert torch.equal(run, (run[:, :1] + torch.arange(run.shape[1])) % size)
    rows_of = table.weight[at] * table.signs(torch.arange(rows))
    assert torch.equal(table.materialize(), rows_of)


@pytest.mark.parametrize("hash", ["mixing", "linear"])
def test_signs_and_starts_are_spread(hash):
    table = Robe(20_000, 16, size=4096, chunk=4, hash=hash)
    ids = torch.arange(20_000)
    assert set(table.signs(ids).unique().tolist()) == {-1.0, 1.0}
    assert table.signs(ids).mean(0).abs().max() < 0.05
    starts = table.places(ids)[:, ::4]
    assert torch.bincount(starts.flatten(), minlength=4096).float().std() < 3 * (80_000 / 4096) ** 0.5


def test_chunks_collide_independently():
    """Trap of the paper's hash: ids that share one chunk should not share the next."""
    ids = torch.arange(3000)
    shared = {}
    for hash in ("mixing", "linear"):
        starts = Robe(3000, 8, size=512, chunk=4, hash=hash).places(ids)[:, [0, 4]]
        same = [(starts[:, None, c] == starts[None, :, c]).fill_diagonal_(False) for c in (0, 1)]
        shared[hash] = float((same[0] & same[1]).sum() / same[0].sum())
    assert shared["mixing"] < 0.01
    assert shared["linear"] > 0.5


# AdaptEmb


def test_frequent_ids_have_rows_of_their_own():
    table = Adaptive(300, 8, private=40, shared=20, counts=COUNTS)
    order = np.argsort(-COUNTS, kind="stable")
    private = table.index[torch.from_numpy(order[:40].copy())]
    assert private.tolist() == list(range(40))
    rest = table.index[torch.from_numpy(order[40:].copy())]
    assert rest.min() >= 40
    assert rest.max() < 60
    assert len(rest.unique()) == 20
    assert table.nbytes == 60 * 8 * 4 + 300 * 4
    assert Adaptive.from_budget(SPACE, 16, 1e9).weight.shape == (1000, 16)


# Dedup


def brute_aliases(blocks, most, tolerance, alike):
    """As `aliases`, with every earlier block proposed."""
    order = np.argsort(np.quantile(np.abs(blocks), 0.75, axis=1), kind="stable").tolist()
    found, left, earlier = np.arange(len(blocks)), len(blocks), []
    for block in order:
        if left <= most:
            break
        within = [(np.abs(blocks[e] - blocks[block]) <= tolerance).mean() for e in earlier]
        if within and max(within) >= alike:
            found[block] = earlier[int(np.argmax(within))]
            left -= 1
        else:
            earlier.append(block)
    return found


def test_likeness_is_judged_as_by_brute_force():
    random = np.random.default_rng(0)
    centres = random.normal(0, 0.2, (12, 30)).astype(np.float32)
    blocks = (centres[random.integers(0, 12, 80)] + random.normal(0, 0.003, (80, 30))).astype(np.float32)
    wide = aliases(blocks, 1, cell=1.0)
    assert np.array_equal(wide, brute_aliases(blocks, 1, 0.01, 0.7))
    assert len(np.unique(wide)) == 12
    usual = aliases(blocks, 1)  # the paper's cells: near blocks are still found
    assert len(np.unique(usual)) == 12
    assert len(np.unique(aliases(blocks, 40, cell=1.0))) == 40  # stops when the budget is met
    assert np.array_equal(aliases(blocks * 100, 1), np.arange(80))  # nothing is alike


def test_deduplication_keeps_what_differs():
    torch.manual_seed(0)
    table = Deduplicated(100, 4, block=5, budget_bytes=4 * (8 * 20 + 20), scale=0.001)
    with torch.no_grad():
        table.weight[50:75] += torch.randn(25, 4)
    rows = table.materialize()
    done = table.advance()
    assert done.stage == "fine-tune"
    assert done.settings["kept"] == 8
    assert done.tolerance == 0.01
    assert done.nbytes == 4 * (8 * 20 + 20)
    after = done.materialize()
    assert torch.equal(after[50:75], rows[50:75])  # the loud ones are nobody's alias
    assert (after - rows).abs().max() <= 0.002
    strict = Deduplicated(100, 4, block=5, budget_bytes=4 * (2 * 20 + 20), scale=1.0).advance()
    assert strict.settings["kept"] <= 2
    assert strict.tolerance > 0.01


def test_deduplication_without_a_budget_takes_all_that_is_alike():
    table = Deduplicated(90, 4, block=10, scale=1e-4).advance()
    assert table.settings["kept"] == 1
    assert table.finish() is table
    with pytest.raises(BadInput, match="last stage"):
        table.advance()


# MDE


def test_widths_follow_the_power_law():
    sizes = [10, 40, 160, 10_240]
    assert mixed_widths(sizes, 16, 0.0) == [16] * 4
    assert mixed_widths(sizes, 16, 1.0) == [16, 4, 1, 1]
    assert mixed_widths(sizes, 16, 0.5) == [16, 8, 4, 1]
    for alpha in np.linspace(0, 1, 21):
        widths = mixed_widths(sizes, 12, float(alpha))
        assert widths == sorted(widths, reverse=True)
        assert all(w == 12 or (w & (w - 1)) == 0 for w in widths)
    with pytest.raises(BadInput, match="alpha"):
        mixed_widths(sizes, 16, 1.5)


def test_rows_of_few_numbers_are_brought_to_the_common_width():
    table = MixedDimension(50, 16, width=4)
    assert torch.allclose(table.materialize(), table.weight @ table.matrix.T)
    assert table.nbytes == 4 * (50 * 4 + 16 * 4)
    assert MixedDimension(50, 16, width=16).matrix is None
    spread = float(MixedDimension(4000, 16, width=4, scale=0.1).materialize().std())
    assert spread == pytest.approx(0.1 / 3**0.5, rel=0.35)
    fields = MixedDimension.from_budget(SPACE, 16, 0.25 * 64_000)
    assert isinstance(fields, PerField)
    assert [part.settings["width"] for part in fields.parts()] == sorted(
        part.settings["width"] for part in fields.parts()
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TensorTrain(9, 4, rank=0), "rank"),
        (lambda: TensorTrain(9, 4, rank=1, scale=0.0), "scale"),
        (lambda: DeepHash(9, 4, width=0), "width"),
        (lambda: DeepHash(9, 4, width=2, hashes=3, encoding="normal"), "even"),
        (lambda: DeepHash(9, 4, width=2, encoding="x"), "encoding"),
        (lambda: Robe(9, 4, size=0), "size"),
        (lambda: Robe(9, 4, size=9, chunk=5), "chunk"),
        (lambda: Robe(9, 4, size=9, hash="x"), "hash"),
        (lambda: Robe(9, 4, size=9, scale=-1.0), "scale"),
        (lambda: Adaptive(9, 4, private=10, shared=1), "private"),
        (lambda: Adaptive(9, 4, private=8, shared=0), "shared"),
        (lambda: Adaptive(9, 4, private=8, shared=1, counts=np.zeros(3)), "counts"),
        (lambda: Adaptive.from_budget(SPACE, 4, 1e5, private=2.0), "share"),
        (lambda: Deduplicated(9, 4, block=0), "block"),
        (lambda: Deduplicated(9, 4, tolerance=0.0), "tolerance"),
        (lambda: Deduplicated(9, 4, kept=3), "kept"),
        (lambda: Deduplicated(9, 4, stage="x"), "stage"),
        (lambda: MixedDimension(9, 4, width=5), "width"),
        (lambda: MixedDimension(9, 4, width=2, scale=-1.0), "scale"),
    ],
)
def test_bad_settings(make, said):
    with pytest.raises(BadInput, match=said):
        make()
