"""Subspace tables: codes, clusters with room for so many, heads, fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from inlay.tables import CodedRows, Subspace, Table  # noqa: E402
from inlay.tables.balanced import balanced_clusters, fill  # noqa: E402


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 4),
    st.sampled_from(["digits", "permuted", "cluster"]),
    st.booleans(),
    st.integers(0, 9),
)
def test_codes_are_different_for_every_key(rows, parts, assign, padded, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 3, generator=generator).round(decimals=0) if assign == "cluster" else None
    pad = seed % rows if padded else None
    table = Subspace(rows, 6, parts=parts, assign=assign, features=features, pad=pad, seed=seed)
    codes = table.codes
    n = table.choices
    assert n**parts >= rows
    assert (n - 1) ** parts <= rows
    assert codes.dtype == torch.int32
    assert codes.shape == (rows, parts)
    assert len(torch.unique(codes, dim=0)) == rows
    alone = codes if pad is None else torch.cat([codes[:pad], codes[pad + 1 :]])
    assert not len(alone) or 0 <= int(alone.min()) <= int(alone.max()) < n
    if pad is not None:
        assert codes[pad].tolist() == [n] * parts
        assert not table(torch.tensor(pad)).any()


def test_sizes_are_the_papers():
    assert Subspace(4096, 8, parts=2).choices == 65
    assert Subspace(4096, 9, parts=3).choices == 17  # and not 16, as a float root of 15.999… gives
    assert Subspace(250_000, 4, parts=2).choices == 501
    assert Subspace(250_000, 4, parts=3).choices == 63
    table = Subspace(30, 7, parts=3)
    assert [own.shape[1] for own in table.tables] == [2, 2, 3]
    assert table.codes[11].tolist() == [0, 2, 3]  # 11 in base 4
    big = Subspace((1 << 26) + 1, 2)
    assert len(torch.unique(big.codes_of(torch.arange((1 << 26) - 3, (1 << 26) + 1)), dim=0)) == 4


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 3), st.integers(0, 99))
def test_filling_takes_pairs_by_distance(rows, centres, spare, seed):
    generator = torch.Generator().manual_seed(seed)
    x, middle = torch.randn(rows, 2, generator=generator), torch.randn(centres, 2, generator=generator)
    capacity = -(-rows // centres) + spare
    found = fill(x, middle, capacity)
    assert int(torch.bincount(found, minlength=centres).max()) <= capacity
    expected, room = [-1] * rows, [capacity] * centres
    apart = torch.cdist(x.double(), middle.double())
    for flat in apart.flatten().argsort().tolist():
        row, centre = divmod(flat, centres)
        if expected[row] < 0 and room[centre]:
            expected[row] = centre
            room[centre] -= 1
    assert found.tolist() == expected


def test_clusters_find_what_belongs_together():
    torch.manual_seed(0)
    kinds = torch.arange(64).repeat_interleave(64)[torch.randperm(4096)]
    features = 10 * torch.randn(64, 16)[kinds] + 0.1 * torch.randn(4096, 16)
    of = balanced_clusters(features, 65, 65)
    assert int(torch.bincount(of).max()) <= 65
    both = torch.stack([of, kinds], 1).unique(dim=0)
    assert len(both) < 350  # 64 if perfect, 2,600 by chance
    with pytest.raises(BadInput, match="no room"):
        balanced_clusters(features, 4, 5)
    with pytest.raises(BadInput, match="cannot take"):
        fill(features, features[:4], 5)


@pytest.mark.parametrize("assign", ["digits", "permuted", "cluster"])
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("pad", [None, 0, 40])
def test_both_forms_agree_and_files_keep_them(assign, parts, pad, tmp_path: Path):
    torch.manual_seed(0)
    features = torch.randn(100, 5) if assign == "cluster" else None
    for dim in (12, 13):
        table = Subspace(100, dim, parts=parts, assign=assign, features=features, pad=pad)
        rows = table.materialize()
        expected = torch.cat([own[code] for own, code in zip(table.tables, table.codes.long().T)], 1)
        assert torch.equal(rows, expected)
        compiled = table.compiled()
        assert torch.equal(compiled.materialize(), rows)
        assert isinstance(compiled, CodedRows) == (assign == "cluster" and dim == 12)
        again = Table.load(table.save(tmp_path / "t"))
        assert torch.equal(again.materialize(), rows)
        assert torch.equal(again.codes, table.codes)
        kept = (
            0 if assign != "cluster" else 100 * (-(-parts * 4 // 8) if parts == 2 else 2) if dim == 12 else 200 * parts
        )
        numbers = (table.choices + (pad is not None)) * dim
        assert table.nbytes == 4 * numbers + kept


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("pad", [None, 7])
def test_the_factored_head_is_the_whole_matrix(parts, pad):
    torch.manual_seed(0)
    table = Subspace(50, 8, parts=parts, assign="permuted", pad=pad).double()
    hidden = torch.randn(3, 2, 8, dtype=torch.double, requires_grad=True)
    whole = hidden @ table(torch.arange(50)).T
    weights = torch.randn_like(whole)
    wanted = torch.autograd.grad((whole * weights).sum(), [hidden, *table.parameters()])
    for factored in (True, False):
        head = table.tied(factored=factored)
        logits = head(hidden)
        torch.testing.assert_close(logits, whole)
        got = torch.autograd.grad((logits * weights).sum(), [hidden, *table.parameters()])
        for ours, theirs in zip(got, wanted):
            torch.testing.assert_close(ours, theirs)
    if pad is not None:
        assert all(not gradient[-1].any() for gradient in wanted[1:])
        assert not logits[..., pad].any()
    assert list(head.parameters()) == list(table.parameters())
    with pytest.raises(BadInput, match="hidden states"):
        head(torch.zeros(2, 7))


@pytest.mark.parametrize("pad", [None, 3])
def test_fits_are_least_squares(pad):
    torch.manual_seed(0)
    x = torch.randn(60, 7)
    made = Subspace.fit(x, parts=2, pad=pad)
    keep = torch.arange(60) != (-1 if pad is None else pad)
    best = float((made.materialize() - x)[keep].square().sum())
    begin = 0
    total = 0.0
    for part, width in enumerate((3, 4)):
        picks = torch.nn.functional.one_hot(made.codes[keep, part].long(), made.choices).float()
        piece = x[keep, begin : begin + width]
        fitted = picks @ torch.linalg.lstsq(picks, piece, driver="gelsd").solution
        total += float((fitted - piece).square().sum())
        begin += width
    assert best == pytest.approx(total, rel=1e-4)
    assert pad is None or not made(torch.tensor(pad)).any()
    by_digits = Subspace.fit(x, parts=2, assign="digits", pad=pad)
    assert float((by_digits.materialize() - x)[keep].square().sum()) > best


def test_pads_never_learn():
    table = Subspace(20, 4, pad=5)
    (table(torch.arange(20)).sum() + table.tied()(torch.ones(1, 4)).sum()).backward()
    assert all(not own.grad[-1].any() and own.grad[:-1].any() for own in table.tables)


def test_budgets():
    assert Subspace.from_budget(4096, 8, 4 * 65 * 8).settings["parts"] == 2
    assert Subspace.from_budget(4096, 8, 4 * 65 * 8 - 1).settings["parts"] == 3
    assert Subspace.from_budget(4096, 8, 1e9).settings["parts"] == 1
    features = torch.randn(200, 2)
    for budget in (4000, 1500, 1000):
        assert Subspace.from_budget(200, 8, budget, assign="cluster", features=features).nbytes <= budget
    with pytest.raises(BadInput, match="too few"):
        Subspace.from_budget(4096, 8, 10)


def test_bad_input_is_refused():
    good = Subspace(9, 4).codes
    assert torch.equal(Subspace(9, 4, assign="given", codes=good.flip(0)).codes, good.flip(0))
    same = good.clone()
    same[1] = same[0]
    for bad in (
        {"parts": 0}, {"parts": 5}, {"assign": "random"}, {"pad": 9}, {"scale": -1.0}, {"assign": "cluster"},
        {"features": torch.zeros(9, 2)}, {"codes": good}, {"assign": "given"}, {"assign": "given", "codes": same},
        {"assign": "given", "codes": good + 3}, {"assign": "given", "codes": good[:, :1]},
        {"assign": "cluster", "features": torch.zeros(8, 2)},
        {"assign": "cluster", "features": torch.full((9, 2), float("nan"))},
    ):  # fmt: skip
        with pytest.raises(BadInput):
            Subspace(9, 4, **bad)
