"""Free embeddings: their kernel against torch and against itself, and the searches that use them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.evaluation.limit_capacity import Trial, _boundary, capacity, critical_n, fit_capacity, smallest_dim
from inlay.kernels.free_steps import free_steps_plain, loss_and_gradients, ordered_share
from inlay.training.free_embeddings import FreeEmbeddings, all_subsets, learn_free_embeddings, torch_loss

STEPS: dict[str, Any] = {"temperature": 0.1, "rate": 0.01, "every": 50, "patience": 1000, "least": 1e-5}


def unit(random: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = random.standard_normal((n, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def judgments(random: np.random.Generator, queries: int, documents: int) -> np.ndarray:
    """Some of each row, from one to all but one."""
    wanted = np.zeros((queries, documents), dtype=bool)
    for row in wanted:
        row[random.choice(documents, random.integers(1, documents), replace=False)] = True
    return wanted


# --- the kernel -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(2, 9), st.integers(1, 6), st.sampled_from([0.05, 0.1, 1.0]))
def test_gradients_are_those_of_torch(seed: int, m: int, n: int, dim: int, temperature: float) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(seed)
    queries, documents, wanted = unit(random, m, dim), unit(random, n, dim), judgments(random, m, n)
    loss, gradients = loss_and_gradients(queries, documents, wanted, temperature)
    rows = [torch.tensor(own, dtype=torch.float64, requires_grad=True) for own in (queries, documents)]
    exact = torch_loss(rows[0], rows[1], torch.tensor(wanted), temperature)
    exact.backward()
    assert loss == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)
    for ours, own in zip(gradients, rows):
        assert ours == pytest.approx(own.grad.numpy(), abs=2e-5 / temperature)


def test_steps_are_those_of_torch() -> None:
    pytest.importorskip("torch")
    wanted = all_subsets(8, 2)
    for steps in (1, 3, 40):
        ours = learn_free_embeddings(wanted, 3, steps=steps)
        theirs = learn_free_embeddings(wanted, 3, steps=steps, device="cpu")
        assert (ours.steps, ours.solved) == (theirs.steps, theirs.solved)
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)
        assert ours.documents == pytest.approx(theirs.documents, abs=1e-3)
        assert ours.queries == pytest.approx(theirs.queries, abs=1e-3)


@pytest.mark.parametrize(("n", "dim", "most"), [(7, 3, 1), (7, 3, 60), (17, 5, 200), (33, 2, 20)])
def test_both_forms_take_the_same_steps(n: int, dim: int, most: int) -> None:
    compiled = pytest.importorskip("inlay.kernels.free_steps_numba").free_steps_compiled
    wanted = all_subsets(n, 2)
    starts = [(unit(np.random.default_rng(1), len(wanted), dim), unit(np.random.default_rng(2), n, dim)) for _ in "ab"]
    plain = free_steps_plain(*starts[0], wanted, most=most, **STEPS)
    solved, steps, loss = compiled(*starts[1], wanted, np.float32(0.1), 0.01, most, 50, 1000, 1e-5)
    assert (plain.solved, plain.steps) == (solved, steps)
    assert plain.loss == pytest.approx(loss, abs=1e-4)
    for a, b in zip(*starts):
        assert a == pytest.approx(b, abs=2e-3)
        assert np.linalg.norm(b, axis=1) == pytest.approx(1, abs=1e-5), "every step ends on the sphere"


def test_the_compiled_exponential_is_right() -> None:
    exponential = pytest.importorskip("inlay.kernels.free_steps_numba")._exp
    at = np.linspace(-87, 0, 4001).astype(np.float32)
    assert [float(exponential(x)) for x in at] == pytest.approx(np.exp(at.astype(np.float64)).tolist(), rel=4e-7)


def test_a_tie_is_no_order() -> None:
    queries = np.array([[1, 0]], dtype=np.float32)
    documents = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    wanted = np.array([[True, False, False]])
    assert ordered_share(queries, documents, wanted) == 0
    documents[1] = [0.6, 0.8]
    assert ordered_share(queries, documents, wanted) == 1
    compiled = pytest.importorskip("inlay.kernels.free_steps_numba")._ordered
    line = np.empty(3, dtype=np.float32)
    for second, ordered in (([1, 0], False), ([0.6, 0.8], True)):
        documents[1] = second
        assert compiled(queries, np.ascontiguousarray(documents.T), wanted.astype(np.float32), line) == ordered


# --- the search for vectors -------------------------------------------------------------------------------------------


def test_what_is_solved_is_ordered() -> None:
    found = learn_free_embeddings(all_subsets(6, 2), 4)
    assert found.solved
    assert found.ordered == 1
    scores = found.queries @ found.documents.T
    for row, pair in zip(scores, combinations(range(6), 2)):
        assert set(np.argsort(-row)[:2].tolist()) == set(pair)
    again = learn_free_embeddings(all_subsets(6, 2), 4)
    assert np.array_equal(found.documents, again.documents)
    assert not np.array_equal(found.documents, learn_free_embeddings(all_subsets(6, 2), 4, seed=1).documents)


def test_what_cannot_be_ordered_is_given_up() -> None:
    found = learn_free_embeddings(all_subsets(6, 2), 2)  # on a circle only neighbours are together
    assert not found.solved
    assert found.ordered < 1
    assert 1000 < found.steps < 100_000, "the loss stood still"
    assert "ordered" in repr(found)
    short = learn_free_embeddings(all_subsets(6, 2), 2, steps=7)
    assert (short.steps, short.solved) == (7, False)


def test_subsets_are_all_of_them() -> None:
    wanted = all_subsets(6, 3)
    assert [tuple(np.flatnonzero(row)) for row in wanted] == list(combinations(range(6), 3))


def test_vectors_survive_their_file(tmp_path: Path) -> None:
    found = learn_free_embeddings(all_subsets(5, 2), 3)
    path = found.save(tmp_path / "free.inlay")
    again = FreeEmbeddings.load(path)
    assert np.array_equal(again.queries, found.queries)
    assert np.array_equal(again.documents, found.documents)
    assert (again.solved, again.ordered, again.steps, again.loss) == (
        found.solved,
        found.ordered,
        found.steps,
        found.loss,
    )
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (bytes(flipped), whole[:-100], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(Corrupt):
            FreeEmbeddings.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wanted": np.ones((2, 3), dtype=bool)}, "wants 3 of 3"),
        ({"wanted": np.zeros((2, 3), dtype=bool)}, "wants 0 of 3"),
        ({"wanted": np.full((2, 3), 2)}, "true and false"),
        ({"wanted": np.ones(3, dtype=bool)}, "true and false"),
        ({"dim": 0}, "dim must be"),
        ({"dim": True}, "dim must be"),
        ({"temperature": 0}, "temperature must be"),
        ({"rate": -1.0}, "rate must be"),
        ({"patience": 0}, "patience must be"),
        ({"device": "cuda:99"}, "no device"),
    ],
)
def test_bad_requests_for_vectors(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        learn_free_embeddings(**({"wanted": all_subsets(4), "dim": 2} | change))


@pytest.mark.parametrize("arguments", [(2, 2), (0, 2), (3, 0), (5000, 3), (True, 2)])
def test_subsets_that_do_not_exist(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(BadInput):
        all_subsets(*arguments)


# --- critical n -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(3, 60))
def test_the_boundary_is_found_from_anywhere(edge: int, first: int) -> None:
    asked: list[int] = []

    def solves(n: int) -> bool:
        asked.append(n)
        return n <= edge

    assert _boundary(solves, first, 2) == edge
    assert len(asked) <= 4 * np.log2(60) + 4


def test_critical_n_of_small_widths() -> None:
    three, four = critical_n(3), critical_n(4)
    assert three.n < four.n
    assert abs(four.n - capacity(4).documents) <= 4
    assert set(range(four.boundary - 4, four.boundary + 6)) <= set(four.trials), "the neighbourhood was tried"
    assert four.trials[four.n].solved
    assert not four.trials[four.boundary + 1].solved
    assert isinstance(four.trials[four.n], Trial)
    told = four.to_dict()
    assert told["n"] == four.n
    assert told["trials"][str(four.n)]["solved"]
    assert critical_n(3, start=10).boundary == three.boundary, "from above as from below"


def test_the_papers_curve() -> None:
    assert capacity(8).documents == pytest.approx(26.9374)
    assert capacity(1024).documents == pytest.approx(4.03e6, rel=0.01), "the paper says four million"
    assert capacity(512).documents == pytest.approx(5e5, rel=0.03)
    assert capacity(1024).extrapolated
    assert not capacity(45).extrapolated
    assert capacity(3).extrapolated
    with pytest.raises(BadInput, match="dim"):
        capacity(0)


def test_a_fit_finds_the_curve_again() -> None:
    dims = range(4, 46)
    fit = fit_capacity(dims, [capacity(dim).documents for dim in dims])
    assert fit.coefficients == pytest.approx((-10.5322, 4.0309, 0.0520, 0.0037), abs=1e-6)
    assert fit.r2 == pytest.approx(1)
    assert fit(20) == pytest.approx(capacity(20).documents)
    assert fit_capacity([1, 2, 3], [5, 5, 5], 1).coefficients == pytest.approx((5, 0))
    with pytest.raises(BadInput, match="needs 4 different widths"):
        fit_capacity([4, 5, 5, 6], [9, 13, 13, 19])
    with pytest.raises(BadInput, match="finite"):
        fit_capacity([4, 5], [9, np.nan], 1)


def test_the_smallest_width_bounds_the_rank() -> None:
    apart = np.eye(4, dtype=bool)  # each document for itself: points on a circle do
    assert smallest_dim(apart) == 2
    wanted = all_subsets(7, 2)
    width = smallest_dim(wanted)
    assert 3 <= width <= 4
    assert learn_free_embeddings(wanted, width).solved
    assert not learn_free_embeddings(wanted, width - 1).solved
    with pytest.raises(BadInput, match="raise most"):
        smallest_dim(wanted, most=2)


@pytest.mark.parametrize("options", [{"dim": 0}, {"dim": 3, "k": 0}, {"dim": 3, "start": 2}, {"dim": 3, "start": 1.5}])
def test_bad_requests_for_critical_n(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        critical_n(**options)
