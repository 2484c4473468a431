"""Row-sparse AdamW against dense AdamW where they must be equal, and against its own definition where they are not."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from inlay.tables.full import Full  # noqa: E402
from inlay.tables.row_adam import RowAdam  # noqa: E402


def table(rows: int = 12, dim: int = 5, seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def sparse(rows: list[int], like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A gradient that is not coalesced: rows may repeat."""
    values = torch.randn(len(rows), like.shape[1], generator=torch.Generator().manual_seed(seed))
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, like.shape, check_invariants=False)


@pytest.mark.parametrize("dense_gradient", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.0, 0.0)])
def test_it_is_adamw_where_every_row_is_touched(betas, dense_gradient):
    ours, theirs = table(), table()
    mine = RowAdam([ours], lr=0.02, betas=betas, weight_decay=0.3, clip=None)
    dense = torch.optim.AdamW([theirs], lr=0.02, betas=betas, weight_decay=0.3)
    for step in range(30):
        gradient = sparse([*range(12), *range(0, 12, 2)], ours, step)
        ours.grad = gradient.to_dense() if dense_gradient else gradient
        theirs.grad = gradient.to_dense()
        lr = 0.02 / (1 + step)
        mine.param_groups[0]["lr"] = dense.param_groups[0]["lr"] = lr
        mine.step()
        dense.step()
        assert torch.allclose(ours, theirs, atol=1e-6)


@given(st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=15), st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_skipped_rows_decay_as_in_adamw_whatever_the_learning_rate(batches, seed):
    """β = 0: a dense step moves a row without a gradient by its decay alone, so both must agree exactly."""
    ours, theirs = table(8, 3), table(8, 3)
    mine = RowAdam([ours], betas=(0.0, 0.0), weight_decay=0.5, clip=None)
    dense = torch.optim.AdamW([theirs], betas=(0.0, 0.0), weight_decay=0.5)
    rates = torch.rand(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
    for number, (rows, lr) in enumerate(zip(batches, rates)):
        mine.param_groups[0]["lr"] = dense.param_groups[0]["lr"] = lr
        gradient = sparse(rows, ours, number) if rows else None
        ours.grad = gradient
        theirs.grad = torch.zeros_like(theirs) if gradient is None else gradient.to_dense()
        mine.step()
        dense.step()
        touched = sorted(set(rows))
        assert torch.allclose(ours[touched], theirs[touched], atol=1e-5)
    mine.flush()
    assert torch.allclose(ours, theirs, atol=1e-5)
    before = ours.detach().clone()
    mine.flush()
    assert torch.equal(ours, before)


def test_moments_are_those_of_its_definition():
    ours = table(6, 4)
    lr, decay, (beta1, beta2), eps = 0.05, 0.2, (0.9, 0.95), 1e-8
    mine = RowAdam([ours], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay, clip=None)
    row = ours.detach().double().clone()
    first, second, last = torch.zeros(6, 4).double(), torch.zeros(6, 4).double(), [0] * 6
    dense = table(6, 4)
    theirs = torch.optim.AdamW([dense], lr=lr, betas=(beta1, beta2), weight_decay=decay)
    coasted = False
    for step, rows in enumerate([[0, 1], [1, 1, 2], [5], [0], [3, 0], [1], [2, 4, 2]], start=1):
        gradient = sparse(rows, ours, step)
        ours.grad, dense.grad = gradient, gradient.to_dense()
        mine.step()
        theirs.step()
        for i in sorted(set(rows)):
            g, missed = gradient.to_dense()[i].double(), step - last[i]
            first[i] = beta1**missed * first[i] + (1 - beta1) * g
            second[i] = beta2**missed * second[i] + (1 - beta2) * g * g
            row[i] *= (1 - lr * decay) ** missed
            root = (second[i] / (1 - beta2**step)).sqrt() + eps
            row[i] -= lr * first[i] / (1 - beta1**step) / root
            last[i] = step
            # the moments are exactly those that dense AdamW has
            assert torch.allclose(mine.state[ours]["first"][i], theirs.state[dense]["exp_avg"][i], atol=1e-6)
            assert torch.allclose(mine.state[ours]["second"][i], theirs.state[dense]["exp_avg_sq"][i], atol=1e-6)
        assert torch.allclose(ours.double(), row, atol=1e-6)
        coasted |= not torch.allclose(ours, dense, atol=1e-3)
    assert coasted  # the documented difference


def test_refreshed_rows_are_read_as_adamw_would_have_them():
    """A loss that depends on the rows: decay owed must be paid before the forward pass."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = Full(9, 4, sparse=True), Full(9, 4)
    theirs.load_state_dict(ours.state_dict())
    mine = RowAdam(ours.parameters(), lr=0.1, betas=(0.0, 0.0), weight_decay=0.5, clip=None)
    dense = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.0, 0.0), weight_decay=0.5)
    for _ in range(25):
        ids = torch.randint(0, 9, (3,), generator=generator)
        mine.refresh(ours.weight, ids)
        for model, optimiser in ((ours, mine), (theirs, dense)):
            optimiser.zero_grad(set_to_none=True)
            (model(ids) ** 3).sum().backward()
            optimiser.step()
    mine.flush()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-5)


def test_gradients_of_repeated_ids_add_up():
    ours = Full(4, 2, sparse=True)
    theirs = Full(4, 2)
    ids = torch.tensor([1, 1, 1, 3])
    for model in (ours, theirs):
        (model(ids) * torch.tensor([[1.0], [2.0], [3.0], [4.0]])).sum().backward()
    from inlay.tables.row_adam import _summed

    rows, gradient = _summed(ours.weight.grad)
    assert rows.tolist() == [1, 3]
    assert torch.equal(gradient, theirs.weight.grad[[1, 3]])
    assert gradient[0, 0] == 6


def test_clipping_is_over_all_tables_together():
    tables = [table(5, 3, 1), table(7, 3, 2)]
    same = [table(5, 3, 1), table(7, 3, 2)]
    for clip, gradients in ((0.5, (sparse([0, 1], tables[0]), sparse([3, 3], tables[1]))),):
        mine = RowAdam(tables, lr=0.1, betas=(0.9, 0.999), eps=1.0, clip=clip)
        dense = torch.optim.AdamW(same, lr=0.1, betas=(0.9, 0.999), eps=1.0, weight_decay=0.1)
        for ours, theirs, gradient in zip(tables, same, gradients):
            ours.grad, theirs.grad = gradient, gradient.to_dense()
        norm = torch.nn.utils.clip_grad_norm_(same, clip)
        assert norm > clip
        mine.step()
        dense.step()
        mine.flush()
        for ours, theirs in zip(tables, same):
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_multiplier_multiplies_the_learning_rate():
    ours, theirs = table(), table()
    mine, plain = RowAdam([ours], lr=0.01, multiplier=5.0), RowAdam([theirs], lr=0.05)
    for step in range(4):
        ours.grad, theirs.grad = (sparse([step, 3], ours, step) for _ in range(2))
        mine.step()
        plain.step()
    mine.flush()
    plain.flush()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_round_trip_goes_on_as_if_nothing_had_happened(dtype):
    ours = torch.nn.Parameter(table().detach().to(dtype))
    mine = RowAdam([ours], lr=0.05)
    for step in range(6):
        ours.grad = sparse([step, 11], ours, step).to(dtype)
        mine.step()
    mine.state[ours]["step"] = 2**24 + 1  # float32 could not count that far
    mine.state[ours]["touched"].fill_(2**24 - 1)
    kept = io.BytesIO()
    torch.save(mine.state_dict(), kept)
    again = torch.nn.Parameter(ours.detach().clone())
    other = RowAdam([again], lr=0.05)
    kept.seek(0)
    other.load_state_dict(torch.load(kept))
    assert other.state[again]["touched"].dtype is torch.int32
    assert other.state[again]["decayed"].dtype is torch.float64
    for step in range(6, 9):
        ours.grad, again.grad = (sparse([step, 2], ours, step).to(dtype) for _ in range(2))
        mine.step()
        other.step()
    mine.flush()
    other.flush()
    assert torch.equal(ours, again)


def test_a_step_costs_the_rows_of_the_batch():
    """Nothing but the touched rows is written: bytes elsewhere stay the same objects with the same contents."""
    ours = table(1000, 3)
    before = ours.detach().clone()
    mine = RowAdam([ours])
    ours.grad = sparse([5, 900], ours)
    mine.step()
    changed = (ours != before).any(1).nonzero().flatten().tolist()
    assert changed == [5, 900]
    assert mine.state[ours]["first"].any(1).nonzero().flatten().tolist() == [5, 900]


def test_closures_empty_gradients_and_bad_input():
    ours = table()
    mine = RowAdam([ours], lr=0.1, weight_decay=0.5, clip=1.0)
    assert mine.step(lambda: 3.0) == 3.0
    ours.grad = sparse([], ours)
    before = ours.detach().clone()
    mine.step()
    assert torch.equal(ours, before)
    mine.flush()
    assert torch.allclose(ours, before * 0.95**2, atol=1e-6)
    for wrong in (
        {"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": -1}, {"weight_decay": -1}, {"multiplier": 0}, {"clip": 0},
    ):  # fmt: skip
        with pytest.raises(BadInput, match=next(iter(wrong))):
            RowAdam([table()], **wrong)
    with pytest.raises(BadInput, match="floats"):
        RowAdam([torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.int32), requires_grad=False)])
    mine.param_groups[0]["lr"] = 3.0
    with pytest.raises(BadInput, match="below 1"):
        mine.step()
    ours.grad = torch.eye(12, 5).to_sparse()
    mine.param_groups[0]["lr"] = 0.1
    with pytest.raises(BadInput, match="by row"):
        mine.step()
