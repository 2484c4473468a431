"""Compositional tables, and the baselines of equal size: hashed and low rank."""

from __future__ import annotations

from math import gcd, prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from inlay.tables import Compositional, DenseRows, Hashed, LowRank, Table, hashing  # noqa: E402
from inlay.tables.partitions import cell_codes, coprime_sizes, radix_sizes, root  # noqa: E402
from inlay.tables.permutation import permuted  # noqa: E402


@given(st.integers(1, 10**15), st.integers(1, 6))
def test_roots_are_exact(number, k):
    m = root(number, k)
    assert m**k >= number
    assert m == 1 or (m - 1) ** k < number


@given(st.integers(1, 10**7), st.integers(1, 5))
def test_sizes_cover_all_rows(rows, k):
    sizes = radix_sizes(rows, k)
    assert len(sizes) == k
    assert prod(sizes) >= rows
    assert max(sizes) <= root(rows, k)
    coprime = coprime_sizes(rows, k)
    assert prod(coprime) >= rows
    assert all(gcd(a, b) == 1 for i, a in enumerate(coprime) for b in coprime[:i])


@given(st.integers(1, 5000), st.integers(0, 100))
def test_permutations_are_bijections(count, seed):
    assert torch.equal(permuted(torch.arange(count), count, seed).sort().values, torch.arange(count))


def test_permutations_depend_on_their_seed_and_scatter_neighbours():
    first, second = permuted(torch.arange(1000), 1000, 1), permuted(torch.arange(1000), 1000, 2)
    assert (first == second).float().mean() < 0.05
    assert np.corrcoef(first.numpy()[:-1], first.numpy()[1:])[0, 1] < 0.2
    assert permuted(torch.tensor([[3]]), 1000, 1).shape == (1, 1)


@settings(deadline=None)
@given(
    st.integers(2, 700),
    st.sampled_from(["qr", "mixed_radix", "crt", "naive"]),
    st.integers(1, 40),
    st.integers(1, 4),
    st.booleans(),
)
def test_no_two_ids_have_the_same_codes(rows, scheme, collisions, k, permute):
    table = Compositional(rows, 8, scheme=scheme, collisions=collisions, k=k, permute=permute, min_rows=0)
    assert table.is_complementary()
    blocks = torch.stack(table.blocks(torch.arange(rows)), 1)
    assert len(torch.unique(blocks, dim=0)) == rows
    assert (blocks.min(0).values >= 0).all()
    assert all(int(top) < size for top, size in zip(blocks.max(0).values, table.sizes))
    assert table.num_parameters <= rows * 8


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), min_size=1, max_size=80))
def test_columns_become_complementary_partitions(pairs):
    columns = [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
    codes, sizes = cell_codes(columns)
    assert len(np.unique(codes, axis=0)) == len(pairs)
    assert (codes.max(0) < np.array(sizes)).all()
    for i, column in enumerate(columns):
        same = np.array([[a == b for b in column] for a in column])
        assert (same == (codes[:, i, None] == codes[None, :, i])).all()
    table = Compositional.semantic(columns, 4)
    assert table.is_complementary()
    assert torch.equal(torch.stack(table.blocks(torch.arange(len(pairs))), 1), torch.from_numpy(codes))


@pytest.mark.parametrize("op", ["mul", "add", "concat", "path"])
@pytest.mark.parametrize("scheme", ["qr", "mixed_radix", "crt"])
def test_rows_are_what_the_paper_says(op, scheme):
    torch.manual_seed(0)
    n, d, k = 1009, 6, 3
    table = Compositional(n, d, scheme=scheme, collisions=7, k=k, op=op, hidden=2, min_rows=0)
    assert table.scheme == scheme
    ids = torch.tensor([0, 1, 6, 7, 500, 1008])
    for x, row in zip(ids.tolist(), table(ids)):
        if scheme == "qr":
            blocks = [x // 7, x % 7]
            assert table.sizes == (145, 7)
        elif scheme == "crt":
            blocks = [x % m for m in table.sizes]
        else:
            m1, m2, _ = table.sizes
            blocks = [x % m1, x // m1 % m2, x // (m1 * m2)]
        if op == "path":
            z = table.tables[0][blocks[0]]
            for net, b in zip(table.paths, blocks[1:]):
                z = net.w2[b].T @ torch.relu(net.w1[b].T @ z + net.b1[b]) + net.b2[b]
        else:
            rows = [own[b] for own, b in zip(table.tables, blocks)]
            z = {"mul": lambda r: torch.stack(r).prod(0), "add": sum, "concat": torch.cat}[op](rows)
        torch.testing.assert_close(row, z)
    expected = {
        "concat": sum(m * own.shape[1] for m, own in zip(table.sizes, table.tables)),
        "path": table.sizes[0] * d + sum(table.sizes[1:]) * (2 * d * 2 + 2 + d),
    }.get(op, sum(table.sizes) * d)
    assert table.num_parameters == expected
    assert table.nbytes == 4 * expected


@pytest.mark.parametrize("op", ["mul", "add", "concat"])
@pytest.mark.parametrize("init", ["uniform", "legacy"])
def test_every_id_has_a_row_of_its_own(op, init):
    torch.manual_seed(1)
    assert Compositional(5000, 8, op=op, init=init, collisions=50).is_unique()
    table = Compositional(5000, 8, op=op, init=init, collisions=50)
    with torch.no_grad():
        table.tables[1].fill_(1.0)
    assert not table.is_unique()


def test_first_numbers_are_as_stated():
    torch.manual_seed(0)
    n = 10_000
    small = Compositional(n, 16, init="uniform")
    assert all(own.abs().max() <= 0.05 and own.abs().max() > 0.045 for own in small.tables)
    near_one = Compositional(n, 16, init="around_one").tables
    assert near_one[0].abs().max() <= 0.05
    assert 0.95 <= near_one[1].min() < near_one[1].max() <= 1.05
    for own in Compositional(n, 16, init="legacy").tables:
        assert n**-0.5 <= own.min() < 0.05
        assert own.max() > 0.95
    three = Compositional(n, 16, scheme="crt", k=3)
    assert three.materialize().std() == pytest.approx(small.materialize().std().item(), rel=0.15)


def test_small_or_pointless_tables_stay_plain():
    assert Compositional(200, 4).scheme == "naive"
    assert Compositional(201, 4).scheme == "qr"
    assert Compositional(300, 4, collisions=1, min_rows=0).scheme == "naive"
    assert Compositional(10, 4, collisions=3, min_rows=0).sizes == (4, 3)
    assert Compositional(4, 4, collisions=2, min_rows=0).scheme == "naive"  # 2 + 2 rows are not fewer than 4
    assert isinstance(Compositional(200, 4).compiled(), DenseRows)


def test_arithmetic_holds_above_two_to_the_24():
    table = Compositional((1 << 26) + 3, 1, collisions=1 << 13)
    ids = torch.arange((1 << 26) - 4, (1 << 26) + 3)
    quotient, remainder = table.blocks(ids)
    assert torch.equal(quotient * (1 << 13) + remainder, ids)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(10, 3000),
    st.floats(0.1, 1.2),
    st.sampled_from([("qr", 2), ("mixed_radix", 2), ("mixed_radix", 3), ("crt", 3)]),
    st.sampled_from(["mul", "add", "concat"]),
)
def test_budgets_are_kept_and_used(rows, share, scheme, op):
    budget = rows * 8 * 4 * share
    try:
        table = Compositional.from_budget(rows, 8, budget, scheme=scheme[0], k=scheme[1], op=op)
    except BadInput:
        least = Compositional(rows, 8, scheme=scheme[0], collisions=None, k=scheme[1], op=op, min_rows=0)
        assert least.nbytes > budget
        return
    assert table.nbytes <= budget
    assert table.is_complementary()
    if table.scheme == "qr":
        c = table.sizes[1]
        fewer = Compositional(rows, 8, collisions=max(1, c - 1), op=op, min_rows=0)
        assert c <= 2 or fewer.nbytes > budget or fewer.scheme == "naive"
    elif table.scheme == "mixed_radix" and op == "mul" and share <= 0.5 and rows >= 100:
        assert table.nbytes > 0.85 * budget


def test_gradients_reach_every_table():
    for op in ("mul", "add", "concat", "path"):
        table = Compositional(500, 6, op=op)
        table(torch.arange(500)).square().sum().backward()
        assert all(own.grad.abs().sum() > 0 for own in table.parameters())
    sparse = Compositional(500, 6, sparse=True)
    sparse(torch.tensor([[1, 2]])).sum().backward()
    assert all(own.grad.is_sparse for own in sparse.parameters())


@pytest.mark.parametrize(
    "made",
    ["qr", "permuted", "crt", "path", "plain", "plain permuted", "semantic", "hashed", "hashed 3", "low rank"],
)
def test_both_forms_agree_and_files_keep_them(made, tmp_path: Path):
    torch.manual_seed(0)
    table = {
        "qr": lambda: Compositional(700, 6, op="concat"),
        "permuted": lambda: Compositional(700, 6, permute=True, seed=5),
        "crt": lambda: Compositional(700, 6, scheme="crt", k=3),
        "path": lambda: Compositional(700, 6, op="path", hidden=3),
        "plain": lambda: Compositional(100, 6),
        "plain permuted": lambda: Compositional(100, 6, permute=True),
        "semantic": lambda: Compositional.semantic([list("aabbc") * 9, [1, 2, 1, 2, 3] * 9], 6, op="add"),
        "hashed": lambda: Hashed(700, 6, buckets=31),
        "hashed 3": lambda: Hashed(700, 6, buckets=31, hashes=3, seed=2),
        "low rank": lambda: LowRank(70, 6, rank=2),
    }[made]()
    rows = table.materialize()
    assert torch.equal(table.compiled().materialize(), rows)
    again = Table.load(table.save(tmp_path / "t"))
    assert torch.equal(again.materialize(), rows)
    assert repr(again) == repr(table)
    assert torch.equal(type(table.compiled()).load(table.compiled().save(tmp_path / "c")).materialize(), rows)
    assert (tmp_path / "c").stat().st_size > table.nbytes
    ids = torch.randint(0, table.rows, (3, 2))
    assert torch.equal(table(ids), rows[ids])


def test_semantic_codes_are_counted():
    table = Compositional.semantic([[i % 10 for i in range(1000)], [i % 7 for i in range(1000)]], 4)
    assert table.sizes == (10, 7, 15)
    assert table.nbytes == 4 * 4 * 32 + 1000 * 3


@pytest.mark.parametrize(
    "bad",
    [
        {"scheme": "ternary"}, {"op": "sub"}, {"init": "zero"}, {"init": "around_one", "op": "add"}, {"collisions": 0},
        {"collisions": 2.5}, {"scheme": "crt", "k": 0}, {"scheme": "crt", "sizes": (20, 30, 10)}, {"sizes": (3, 5)},
        {"scheme": "mixed_radix", "sizes": ()}, {"scheme": "semantic"}, {"scale": 0.0}, {"sizes": (20, 20, 20)},
        {"op": "concat", "scheme": "mixed_radix", "k": 9},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(bad):
    with pytest.raises(BadInput):
        Compositional(1000, 4, **bad)


def test_bad_columns_and_budgets_are_refused():
    with pytest.raises(BadInput, match="one length"):
        Compositional.semantic([[1, 2], [1]], 4)
    with pytest.raises(BadInput, match="permute"):
        Compositional.semantic([[1, 2]], 4, permute=True)
    with pytest.raises(BadInput, match="too few"):
        Compositional.from_budget(1000, 4, 100)
    with pytest.raises(BadInput, match="semantic"):
        Compositional.from_budget(1000, 4, 1000, scheme="semantic")


def test_hashed_rows_are_sums_of_buckets():
    table = Hashed(100, 4, buckets=17, hashes=2, seed=3)
    ids = torch.arange(100)
    first, second = (hashing.buckets(ids, 17, salt) for salt in (6, 7))
    assert torch.equal(table(ids), table.weight[first] + table.weight[second])
    assert table.nbytes == 17 * 16
    assert Hashed.from_budget(100, 4, 333).buckets == 20
    assert Hashed.from_budget(5, 4, 333).buckets == 5
    for bad in ({"buckets": 0}, {"buckets": 3, "hashes": 0}, {"buckets": 3, "scale": -1.0}):
        with pytest.raises(BadInput):
            Hashed(100, 4, **bad)
    with pytest.raises(BadInput, match="too few"):
        Hashed.from_budget(5, 4, 15)


def test_low_rank_fits_are_the_nearest():
    torch.manual_seed(0)
    x = torch.randn(40, 8) @ torch.diag(torch.linspace(2, 0.1, 8))
    s = torch.linalg.svdvals(x)
    for rank in (1, 3, 8):
        table = LowRank.fit(x, rank)
        assert (table.materialize() - x).norm() == pytest.approx(s[rank:].norm().item(), abs=1e-4)
        assert torch.allclose(table.weight, table.materialize())
    assert LowRank(10_000, 64, rank=8, scale=0.05).materialize().std() == pytest.approx(0.05, rel=0.2)
    assert LowRank.from_budget(100, 10, 4 * 110 * 3 + 100).settings["rank"] == 3
    with pytest.raises(BadInput, match="rank"):
        LowRank(10, 4, rank=5)
    with pytest.raises(BadInput, match="too few"):
        LowRank.from_budget(100, 10, 400)
