"""How many documents a width can serve: LIMIT's critical n, and the curve through it.

If any k of n documents may be asked for together, d numbers a vector serve up to some n. `critical_n` finds it by free
embeddings (`inlay.training.learn_free_embeddings`): gallop from a first guess until the answer changes, bisect, then
try n − 4 … n + 5 around the boundary, because success is not strictly monotone. `capacity` is the paper's curve,

    n(d) = −10.5322 + 4.0309 d + 0.0520 d² + 0.0037 d³,

a fit to what was found for widths of 4 to 45 and k = 2: far beyond, it is a guess. `fit_capacity` fits such a curve to
your own figures. `smallest_dim` asks the reverse, for judgments of your own.

Weller, Boratko, Naim and Lee, "On the Theoretical Limitations of Embedding-Based Retrieval" (arXiv 2508.21038).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput

__all__ = ["Capacity", "CapacityFit", "CriticalN", "Trial", "capacity", "critical_n", "fit_capacity", "smallest_dim"]

CUBIC = (-10.5322, 4.0309, 0.0520, 0.0037)  # of 1, d, d², d³
FITTED = (4, 45)  # widths the paper's fit is to
BELOW, ABOVE = 4, 5  # how far around the boundary is tried


class Capacity(NamedTuple):
    """Documents that a width serves, and whether the width lies beyond those the curve was fitted to."""

    documents: float
    extrapolated: bool


class Trial(NamedTuple):
    """One n that was tried: whether it was solved, the steps and the last loss, and the seconds it took."""

    solved: bool
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class CriticalN:
    """What a search found.

    Args:
        dim: width of the vectors.
        k: documents a query.
        n: largest number of documents that was solved, the neighbourhood of the boundary included.
        boundary: where bisection ended.
        trials: n → how it went, every n that was tried.
        seed: of the vectors.
    """

    dim: int
    k: int
    n: int
    boundary: int
    trials: dict[int, Trial] = field(repr=False)
    seed: int = 42

    @property
    def monotone(self) -> bool:
        """Whether every n tried up to the largest one solved was solved."""
        return all(trial.solved for n, trial in self.trials.items() if n <= self.n)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        trials = {
            str(n): {"solved": one.solved, "steps": one.steps, "loss": round(one.loss, 5)}
            for n, one in sorted(self.trials.items())
        }
        return {"dim": self.dim, "k": self.k, "n": self.n, "boundary": self.boundary, "seed": self.seed} | {
            "monotone": self.monotone, "trials": trials,
        }  # fmt: skip


class CapacityFit(NamedTuple):
    """A polynomial n(d): its coefficients of 1, d, d², …, and the share of variance it explains (r²)."""

    coefficients: tuple[float, ...]
    r2: float

    def __call__(self, dim: float) -> float:
        """Documents at a width."""
        return float(sum(one * dim**power for power, one in enumerate(self.coefficients)))


def capacity(dim: int) -> Capacity:
    """Documents of which a vector of `dim` numbers can return any two: the paper's cubic.

    It is flagged where the width lies outside of what the curve was fitted to; a bound it is nowhere.
    """
    dim = _positive("dim", dim)
    documents = sum(one * float(dim) ** power for power, one in enumerate(CUBIC))
    return Capacity(max(documents, 2.0), not FITTED[0] <= dim <= FITTED[1])


def critical_n(
    dim: int, k: int = 2, *, seed: int = 42, start: int | None = None, progress: bool = False, **options: Any
) -> CriticalN:
    """The largest n for which every k of n documents can be told apart by `dim` numbers, as far as a search finds.

    Args:
        dim: width of the vectors.
        k: documents a query.
        seed: of the first vectors, the same for every n.
        start: the n to begin at; the nearest to the paper's cubic without it. It decides how long the search takes,
            and, where success is not monotone, which boundary it finds.
        progress: say each n on stderr.
        options: of `learn_free_embeddings`.
    """
    from inlay.training.free_embeddings import all_subsets, learn_free_embeddings

    dim, k = _positive("dim", dim), _positive("k", k)
    first = max(k + 1, round(capacity(dim).documents)) if start is None else _positive("start", start)
    if first <= k:
        raise BadInput(f"start={first} is no more than k={k}: of {k} documents any {k} are all of them")
    trials: dict[int, Trial] = {}

    def solves(n: int) -> bool:
        if n <= k:  # any k of k documents are all of them
            return True
        if n not in trials:
            began = time.perf_counter()
            found = learn_free_embeddings(all_subsets(n, k), dim, seed=seed, **options)
            trials[n] = Trial(found.solved, found.steps, found.loss, time.perf_counter() - began)
            _say(progress, f"d={dim}, k={k}, n={n}: {found!r}")
        return trials[n].solved

    boundary = _boundary(solves, first, k)
    for n in range(max(k + 1, boundary - BELOW), boundary + ABOVE + 1):
        solves(n)
    largest = max([k, *(n for n, trial in trials.items() if trial.solved)])
    return CriticalN(dim, k, largest, boundary, dict(sorted(trials.items())), seed)


def smallest_dim(
    wanted: np.ndarray, *, most: int = 4096, seed: int = 42, progress: bool = False, **options: Any
) -> int:
    """The smallest width at which free embeddings order a table of judgments: an upper bound of its rank_rop.

    A width that fails proves nothing, one that succeeds does: no encoder needs more. Widths are doubled until one
    succeeds, then halved in between.

    Args:
        wanted: bool [queries, documents], see `learn_free_embeddings`.
        most: widest to try.
        seed: of the first vectors.
        progress: say each width on stderr.
        options: of `learn_free_embeddings`.
    """
    from inlay.training.free_embeddings import learn_free_embeddings

    most = _positive("most", most)

    def solves(dim: int) -> bool:
        found = learn_free_embeddings(wanted, dim, seed=seed, **options)
        _say(progress, f"d={dim}: {found!r}")
        return found.solved

    dim = 1
    while not solves(dim):
        if dim >= most:
            raise BadInput(f"no width up to most={most} ordered these judgments; raise most, or steps")
        dim = min(2 * dim, most)
    low, high = dim // 2, dim  # low failed, or is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if solves(middle) else (middle, high)
    return high


def fit_capacity(dims: Sequence[int], documents: Sequence[float], degree: int = 3) -> CapacityFit:
    """The polynomial of least squares through what was found.

    Args:
        dims: widths.
        documents: largest n at each.
        degree: of the polynomial; needs more widths than that.
    """
    x, y = np.asarray(dims, dtype=np.float64), np.asarray(documents, dtype=np.float64)
    degree = _positive("degree", degree)
    if x.ndim != 1 or x.shape != y.shape or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise BadInput(f"expected a finite n for each width, got shapes {list(x.shape)} and {list(y.shape)}")
    if len(np.unique(x)) <= degree:
        raise BadInput(f"a polynomial of degree {degree} needs {degree + 1} different widths, got {len(np.unique(x))}")
    coefficients = np.polynomial.Polynomial.fit(x, y, degree).convert().coef
    coefficients = np.pad(coefficients, (0, degree + 1 - len(coefficients)))
    left = y - np.polynomial.polynomial.polyval(x, coefficients)
    whole = ((y - y.mean()) ** 2).sum()
    r2 = 1.0 - float((left**2).sum() / whole) if whole > 0 else 1.0
    return CapacityFit(tuple(float(one) for one in coefficients), r2)


def _boundary(solves: Callable[[int], bool], first: int, k: int) -> int:
    """The largest n that solves, with n + 1 failing, found from `first` by galloping and bisection."""
    step = 1
    if solves(first):
        low = first
        while solves(low + step):
            low += step
            step *= 2
        high = low + step
    else:
        high = first
        while True:
            low = max(high - step, k)
            if solves(low):
                break
            high = low
            step *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if solves(middle):
            low = middle
        else:
            high = middle
    return low


def _positive(name: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise BadInput(f"{name} must be a positive whole number, got {number!r}")
    return int(number)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
