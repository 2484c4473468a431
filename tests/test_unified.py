"""One table for all features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.kernels.mixing import key_of

torch = pytest.importorskip("torch")

from inlay.tables import KeySpace, Table, Unified, UnifiedFields, hashing  # noqa: E402
from inlay.tables.unified import mean_angle  # noqa: E402


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.lists(st.integers(0, 2**60), min_size=1, max_size=5))
def test_many_salts_in_one_call_are_each_its_own_hash(keys, salts):
    at_once = hashing.mixed(hashing.salted(torch.tensor(keys), salts))
    for i, salt in enumerate(salts):
        assert torch.equal(at_once[:, i], hashing.mixed(torch.tensor(keys), salt))


def made(shards: int = 1, **settings) -> Unified:
    torch.manual_seed(0)
    return (
        Unified(600, 4, shards=shards, **settings)
        .add("movie", 3)
        .add("zip", 1)
        .add("genre", 2, combiner="sqrtn")
        .add("tag", 2, combiner="sum")
        .add("actor", 1)
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_chunks_are_rows_of_the_one_table(shards):
    table = made(shards)
    rows = torch.cat(list(table.stores))
    assert torch.equal(table.materialize(), rows)
    found = table({"movie": torch.tensor([7, 8]), "zip": ["1010", "1020"]})
    assert {name: tuple(of.shape) for name, of in found.items()} == {"movie": (2, 12), "zip": (2, 4)}
    per_shard = 600 // shards
    for chunk in range(3):
        row = hashing.buckets(torch.tensor([7, 8]), per_shard, chunk) + chunk % shards * per_shard
        assert torch.equal(found["movie"][:, 4 * chunk : 4 * chunk + 4], rows[row])
    key = torch.tensor([key_of("1010")], dtype=torch.uint64).view(torch.int64)
    row = hashing.buckets(key, per_shard, 1 << 16) + 3 % shards * per_shard  # the fourth chunk in all
    assert torch.equal(found["zip"][0], rows[row[0]])
    assert table.width("movie") == 12
    assert table.nbytes == 600 * 16


def test_the_salt_tells_features_and_chunks_apart():
    table = made()
    keys = torch.arange(3000)
    movie, actor = table.bucket("movie", keys), table.bucket("actor", keys)
    for other in (actor[:, 0], movie[:, 1], movie[:, 2]):
        assert (movie[:, 0] == other).float().mean() < 0.01
    assert (made(seed=1).bucket("movie", keys) == movie).float().mean() < 0.01


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=1, max_size=6),
    st.sampled_from(["genre", "tag", "actor"]),
)
def test_several_values_are_combined(bags, feature):
    table = made()
    found = table({feature: bags})[feature]
    values = [key for bag in bags for key in bag]
    offsets = np.r_[0, np.cumsum([len(bag) for bag in bags])]
    assert torch.equal(table({feature: (values, offsets)})[feature], found)
    for bag, row in zip(bags, found):
        if not bag:
            assert not row.any()
            continue
        each = table({feature: bag})[feature]
        total = each.sum(0)
        expected = {"genre": total / len(bag) ** 0.5, "tag": total, "actor": total / len(bag)}[feature]
        torch.testing.assert_close(row, expected)


def test_keys_are_numbers_or_strings():
    table = made()
    by_list, by_array = table({"zip": [5, 6]})["zip"], table({"zip": np.array([5, 6], dtype=np.uint8)})["zip"]
    assert torch.equal(by_list, by_array)
    assert torch.equal(by_list, table({"zip": torch.tensor([5, 6], dtype=torch.int32)})["zip"])
    assert not torch.equal(by_list, table({"zip": ["5", "6"]})["zip"])
    assert torch.equal(table({"zip": np.array(["a", "b"])})["zip"], table({"zip": ["a", "b"]})["zip"])
    assert torch.equal(table({"genre": [["a"], []]})["genre"][0], table({"genre": ["a"]})["genre"][0])
    assert table({"zip": []})["zip"].shape == (0, 4)


@pytest.mark.parametrize("shards", [1, 2])
def test_fields_of_a_key_space_are_features(shards):
    space = KeySpace.fit({"user": ["u", "v", "w"], "item": [1, 2, 2]})
    table = Unified(40, 3, shards=shards)
    fields = table.fields(space, chunks=2)
    assert (fields.rows, fields.dim) == (space.rows, 6)
    ids = torch.from_numpy(space.ids({"user": ["v", "nobody"], "item": [2, 1]}))
    found = fields(ids)
    numbers = ids - torch.from_numpy(space.offsets)
    assert torch.equal(found[:, 0], table({"user": numbers[:, 0]})["user"])
    assert torch.equal(found[:, 1], table({"item": numbers[:, 1]})["item"])
    assert fields(ids[None]).shape == (1, 2, 2, 6)
    every = fields.materialize()
    assert torch.equal(every[ids], found)
    assert torch.equal(fields.compiled().materialize(), every)
    assert torch.equal(fields.compiled()(ids), found)
    assert fields.nbytes == table.nbytes == 480
    found.sum().backward()
    assert all(store.grad.abs().sum() > 0 for store in table.stores)
    with pytest.raises(BadInput, match="a column a field"):
        fields(torch.tensor([1, 2, 3]))
    with pytest.raises(BadInput, match="ranges"):
        fields(torch.tensor([[4, 3]]))


@pytest.mark.parametrize("shards", [1, 3])
def test_files_keep_features_and_fields(shards, tmp_path: Path):
    table = made(shards, seed=4)
    table.trained_on = "clicks"
    again = Table.load(table.save(tmp_path / "t"))
    data = {"movie": [1, 2], "genre": [["x"], ["y", "z"]]}
    assert all(torch.equal(again(data)[name], of) for name, of in table(data).items())
    assert repr(again) == repr(table)
    assert again.trained_on == "clicks"
    compiled = table.compiled()
    assert all(torch.equal(compiled(data)[name], of) for name, of in table(data).items())
    assert not any(of.requires_grad for of in compiled(data).values())
    fields = UnifiedFields.from_budget({"a": 30, "b": 50}, 8, 999, chunks=2, shards=shards)
    assert fields.nbytes == 999 // (16 * shards) * 16 * shards
    held = Table.load(fields.save(tmp_path / "f"))
    assert torch.equal(held.materialize(), fields.materialize())


def test_collisions_are_counted_as_they_are():
    table = Unified(50, 4).add("a", 2).add("b", 1)
    keys, others = list(range(40)), ["x", "y", "z"]
    report = table.collisions("a", keys, {"b": others})
    rows = table.bucket("a", keys)
    lists = rows.T.tolist()
    within = np.mean([[chunk.count(row) > 1 for row in chunk] for chunk in lists])
    pairs = list(zip(*lists))
    theirs = set(table.bucket("b", others).flatten().tolist())
    assert report.within == pytest.approx(within)
    assert report.confused == pytest.approx(np.mean([pairs.count(pair) > 1 for pair in pairs]))
    assert report.across["b"] == pytest.approx(np.mean([[row in theirs for row in chunk] for chunk in lists]))
    assert report.expected == pytest.approx(1 - 0.98**39)
    matrix = table.collision_matrix({"a": keys, "b": others})
    assert matrix[0].tolist() == pytest.approx([report.within, report.across["b"]])
    many = Unified(1000, 4).add("a", 1).collisions("a", range(800))
    assert many.within == pytest.approx(many.expected, abs=0.05)
    assert many.keys == 800
    assert table.collisions("a", [1, 1, 1]).keys == 1
    assert table.collisions("a", []).within == 0


def test_angles_and_norms():
    assert mean_angle(torch.eye(3)) == pytest.approx(90)
    assert mean_angle(torch.tensor([[1.0, 0], [2, 0]])) == pytest.approx(0, abs=1e-4)
    assert mean_angle(torch.tensor([[1.0, 0], [1, 1], [-1, 0]])) == pytest.approx((45 + 180 + 135) / 3)
    with pytest.raises(BadInput):
        mean_angle(torch.zeros(1, 3))
    table = Unified(4, 2)
    with torch.no_grad():
        table.stores[0].fill_(2.0)
    assert table.row_norm() == 8


def test_bad_input_is_refused():
    for bad in ({"shards": 0}, {"shards": 7}, {"seed": -1}, {"scale": -1.0}):
        with pytest.raises(BadInput):
            Unified(600, 4, **bad)
    table = made()
    for call in (
        lambda: table.add("movie"),
        lambda: table.add("new", 0),
        lambda: table.add("new", 1, "max"),
        lambda: table({"director": [1]}),
        lambda: table({"movie": [1.5]}),
        lambda: table({"movie": [True]}),
        lambda: table({"movie": [1, "a"]}),
        lambda: table({"movie": torch.tensor([0.5])}),
        lambda: table({"genre": ([1, 2], [0, 1])}),
        lambda: table({"genre": ([1, 2], [0, 3, 2])}),
        lambda: table(torch.tensor([600])),
        lambda: UnifiedFields(table, {"movie": 3, "zip": 3}),
        lambda: UnifiedFields(table, {"nothing": 3}),
        lambda: UnifiedFields.from_budget({"a": 3}, 8, 999, chunks=3),
        lambda: Unified.from_budget(4, 31, shards=2),
    ):
        with pytest.raises(BadInput):
            call()
