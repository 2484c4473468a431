"""The spine of the tables room: hashing, both forms of a table, files, budgets, key spaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.kernels.mixing import key_of, keys_of, mixed

torch = pytest.importorskip("torch")

from inlay.tables import (  # noqa: E402
    CodedRows,
    Compiled,
    DenseRows,
    Frozen,
    Full,
    KeySpace,
    PerField,
    SparseRows,
    Table,
    hashing,
)
from inlay.tables.budget import largest_within  # noqa: E402


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(0, 2**40))
def test_tensors_and_arrays_hash_alike(keys, salt):
    ours = hashing.mixed(torch.tensor(keys), salt).numpy().view(np.uint64)
    assert np.array_equal(ours, mixed(np.array(keys, dtype=np.int64), salt))


def test_hash_is_frozen_and_mixes():
    # These numbers are in files: they must never change.
    assert mixed(np.array([0, 1, 2**63], dtype=np.uint64)).tolist() == [
        5197578548964807871,
        16899028431761561291,
        4825662605679656087,
    ]
    assert key_of("embedding") == int(keys_of(["embedding"])[0]) == 16983706247036139079
    bits = np.unpackbits(mixed(np.arange(20_000)).view(np.uint8).reshape(-1, 8), axis=1).mean(0)
    assert abs(bits - 0.5).max() < 0.02


def test_salts_give_independent_buckets():
    ids = torch.arange(20_000)
    first, second = hashing.buckets(ids, 100, 1), hashing.buckets(ids, 100, 2)
    same_first = first[:, None] == first[None, :500]
    same_both = same_first & (second[:, None] == second[None, :500])
    assert same_both.sum() - 500 == pytest.approx((same_first.sum() - 500).item() / 100, rel=0.1)
    assert torch.bincount(first).float().std() < 2 * 200**0.5


def test_ids_outside_are_refused():
    table = Full(5, 3)
    with pytest.raises(BadInput, match=r"id 5 is outside"):
        table(torch.tensor([[0, 5]]))
    with pytest.raises(BadInput, match="id -1"):
        table(torch.tensor([-1]))
    with pytest.raises(BadInput, match="integers"):
        table(torch.tensor([1.0]))
    assert table(torch.zeros(0, 2, dtype=torch.long)).shape == (0, 2, 3)
    for rows, dim in ((0, 3), (3, 0), (True, 3), (2.0, 3)):
        with pytest.raises(BadInput):
            Full(rows, dim)


def test_a_table_learns_and_its_compiled_form_does_not():
    table = Full(10, 4)
    assert table.nbytes == 160
    compiled = table.compiled()
    assert isinstance(compiled, Compiled)
    assert not any(p.requires_grad for p in compiled.parameters())
    before = compiled.materialize()
    table(torch.tensor([1, 1, 3])).sum().backward()
    assert table.weight.grad[1].tolist() == [2.0] * 4
    with torch.no_grad():
        table.weight.add_(1)
    assert torch.equal(compiled.materialize(), before)


@pytest.mark.parametrize("make", ["full", "frozen", "fields", "compiled fields", "dense", "coded", "sparse"])
def test_files_round_trip_and_notice_damage(make, tmp_path: Path):
    torch.manual_seed(0)
    fields = PerField([Full(3, 4), Full(5, 4)])
    made = {
        "full": Full(10, 4), "frozen": Full(10, 4).compiled(), "fields": fields, "compiled fields": fields.compiled(),
        "dense": DenseRows.of(torch.randn(4, 4).bfloat16(), index=torch.tensor([0, -1, 3, 3])),
        "coded": CodedRows.of(torch.randint(0, 7, (9, 3)), torch.randn(3, 7, 2)),
        "sparse": SparseRows.of(torch.randn(6, 4) * (torch.rand(6, 4) > 0.5)),
    }[make]  # fmt: skip
    made.trained_on = "nothing"
    kind = Table if isinstance(made, Table) else Compiled
    read = kind.load(made.save(tmp_path / "t"))
    assert type(read) is type(made)
    assert repr(read) == repr(made)
    assert torch.equal(read.materialize(), made.materialize())
    assert read.trained_on == "nothing"
    data = bytearray((tmp_path / "t").read_bytes())
    generator = np.random.default_rng(0)
    for at in generator.integers(0, len(data), 40).tolist():
        broken = bytearray(data)
        broken[at] ^= 1 << int(generator.integers(8))
        (tmp_path / "t").write_bytes(broken)
        try:
            found = kind.load(tmp_path / "t")
        except (Corrupt, BadInput):
            continue
        assert torch.equal(found.materialize(), made.materialize())
        assert (repr(found), found.trained_on) == (repr(made), made.trained_on)
    (tmp_path / "t").write_bytes(data[: len(data) // 2])
    with pytest.raises(Corrupt):
        kind.load(tmp_path / "t")
    with pytest.raises(BadInput, match="no table"):
        kind.load(tmp_path / "absent")


def test_loading_another_kind_is_refused(tmp_path: Path):
    path = Full(2, 2).save(tmp_path / "t")
    with pytest.raises(BadInput, match="holds a Full"):
        Frozen.load(path)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 300), st.integers(1, 4))
def test_coded_rows_unpack_what_was_packed(rows, parts, centres, width):
    generator = torch.Generator().manual_seed(rows * 1000 + centres)
    codes = torch.randint(0, centres, (rows, parts), generator=generator)
    centre = torch.randn(parts, centres, width, generator=generator)
    made = CodedRows.of(codes, centre)
    assert torch.equal(made.unpacked(torch.arange(rows)), codes)
    expected = torch.stack([centre[p, codes[:, p]] for p in range(parts)], 1).flatten(1)
    assert torch.equal(made.materialize(), expected)
    assert made.codes.shape[1] == -(-parts * max(1, (centres - 1).bit_length()) // 8)


@given(st.integers(1, 8), st.integers(1, 6), st.floats(0, 1))
def test_sparse_rows_are_the_dense_ones(rows, dim, share):
    generator = torch.Generator().manual_seed(rows * 10 + dim)
    dense = torch.randn(rows, dim, generator=generator) * (torch.rand(rows, dim, generator=generator) < share)
    made = SparseRows.of(dense)
    assert torch.equal(made.materialize(), dense)
    ids = torch.randint(0, rows, (3, 2), generator=generator)
    assert torch.equal(made(ids), dense[ids])
    assert made.nbytes == 4 * (rows + 1) + 6 * int((dense != 0).sum())


def test_dense_rows_of_integers_and_shared_rows():
    values = torch.tensor([[1, -2], [127, 0]], dtype=torch.int8)
    made = DenseRows.of(values, scale=torch.tensor([0.5, 2.0]), index=torch.tensor([1, 0, -1]))
    assert made.materialize().tolist() == [[254.0, 0.0], [0.5, -1.0], [0.0, 0.0]]
    assert made.nbytes == 4 + 8 + 12


@given(st.integers(1, 50), st.integers(0, 60), st.integers(1, 2000))
def test_budgets_give_the_largest_size(unit, more, budget):
    if unit > budget:
        with pytest.raises(BadInput, match="too few"):
            largest_within(lambda size: size * unit, budget, 1, 1 + more)
        return
    best = largest_within(lambda size: size * unit, budget, 1, 1 + more)
    assert best * unit <= budget
    assert best == 1 + more or (best + 1) * unit > budget


def test_key_spaces_number_by_frequency():
    space = KeySpace.fit({"colour": ["red", "blue", "red", "tan"], "size": [1, 2, 2, 2]}, min_count=2)
    assert space.names == ("colour", "size")
    assert space.sizes.tolist() == [2, 2]
    assert space.counts.tolist() == [2, 2, 1, 3]
    ids = space.ids({"colour": ["red", "green"], "size": [2, 7]})
    assert ids.tolist() == [[1, 3], [0, 2]]
    assert space.field_of(ids).tolist() == [[0, 1], [0, 1]]
    again = KeySpace.from_json(space.to_json())
    assert again.ids({"colour": ["red"], "size": [2]}).tolist() == [[1, 3]]
    with pytest.raises(BadInput, match="no column 'size'"):
        space.ids({"colour": ["red"]})
    with pytest.raises(BadInput, match="differ in length"):
        space.ids({"colour": ["red"], "size": []})
    with pytest.raises(BadInput):
        KeySpace.fit({})
    with pytest.raises(BadInput, match="twice"):
        KeySpace({"a": ["x", "x"]}, {"a": np.zeros(3)})


def test_fields_read_their_own_tables():
    tables = [Full(3, 2), Full(4, 2)]
    both = PerField(tables)
    ids = torch.tensor([[0, 3], [2, 6]])
    assert torch.equal(both(ids)[:, 0], tables[0](torch.tensor([0, 2])))
    assert torch.equal(both(ids)[:, 1], tables[1](torch.tensor([0, 3])))
    assert torch.equal(both.materialize(torch.tensor([6, 0])), torch.stack([tables[1].weight[3], tables[0].weight[0]]))
    with pytest.raises(BadInput, match="a column a field"):
        both(torch.tensor([[0, 3, 1]]))
    with pytest.raises(BadInput, match="outside"):
        both(torch.tensor([[4, 3]]))
    with pytest.raises(BadInput, match="one dim"):
        PerField([Full(3, 2), Full(3, 4)])


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "many", True])
def test_a_budget_is_a_number_of_bytes(budget):
    from inlay.tables import Compositional, Hashed, LowRank, Robe, Subspace

    for kind in (Hashed, Subspace, Compositional, LowRank, Robe):
        with pytest.raises(BadInput, match="a budget is a number of bytes above 0"):
            kind.from_budget(100, 8, budget)


def test_values_of_fields_can_be_counted():
    with pytest.raises(BadInput, match="values must be strings"):
        KeySpace.fit({"tags": [["a", "list"]]})
