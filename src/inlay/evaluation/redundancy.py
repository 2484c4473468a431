"""How many dimensions a task needs: the task run again on rows cut to fewer and fewer of them.

Rows are cut in several ways, brought to length 1 again (a cut row is shorter, and a task by cosine would be another
task), and judged. `first` keeps the first dimensions and is what a user of a model can do for nothing; `random` keeps
random ones, and says whether there is anything special about the first; `pca` and `isomap` are what a fitted reduction
gets. Models trained to be cut (Matryoshka) are a case of their own: in them the first are better than random ones.

Source: Tsukagoshi and Sasano, Redundancy, Isotropy, and Intrinsic Dimensionality of Prompt-based Text Embeddings
(arXiv 2506.01435).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.intrinsic_dimension import usable_rows
from inlay.evaluation.measures import Estimate, mean_interval
from inlay.kernels.dense import normalise

__all__ = ["TruncationCurve", "truncation_curve"]

Task = Callable[..., "float | np.ndarray"]
Cut = Callable[[np.ndarray, int, int], Callable[[np.ndarray], np.ndarray]]

ISOMAP_NEIGHBOURS = 10  # of Isomap's graph


@dataclass(frozen=True)
class TruncationCurve:
    """A task's figure by dimensions kept.

    Args:
        dim: width of the whole rows.
        whole: the figure of the whole rows.
        kept: way of cutting → dimensions → the figure, averaged over seeds where the way is random.
        intervals: the same with the 95% interval over the task's items, where the task gives a value for each.
    """

    dim: int
    whole: float
    kept: dict[str, dict[int, float]]
    intervals: dict[str, dict[int, Estimate]]

    def retained(self, how: str, dims: int) -> float:
        """The figure as a share of that of whole rows."""
        if how not in self.kept or dims not in self.kept[how]:
            ways = "; ".join(f"{name} to {', '.join(map(str, own))}" for name, own in self.kept.items())
            raise BadInput(f"nothing was measured for {how!r} to {dims!r} dimensions; there are {ways}")
        return self.kept[how][dims] / self.whole if self.whole else float("nan")

    def enough(self, share: float = 0.99, how: str = "first") -> int:
        """Least number of dimensions from which on a share of the figure is always kept; `dim` if none does."""
        found = self.dim
        for dims in sorted(self.kept.get(how, ()), reverse=True):
            if self.retained(how, dims) < share:
                break
            found = dims
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ways = {how: {str(dims): round(value, 5) for dims, value in own.items()} for how, own in self.kept.items()}
        return {"dim": self.dim, "whole": round(self.whole, 5), "kept": ways}


def truncation_curve(
    rows: np.ndarray | Sequence[np.ndarray],
    task: Task,
    *,
    dims: Sequence[int] | None = None,
    how: Sequence[str] | dict[str, Cut] = ("first", "random", "pca"),
    seeds: Sequence[int] = (0, 1, 2),
    reduce_on: np.ndarray | None = None,
) -> TruncationCurve:
    """Run a task on whole rows, then on rows cut to fewer dimensions.

    Args:
        rows: [n, dim], or several such sets of one width (documents and queries): all are cut alike.
        task: called with the sets, each float32 at length 1; returns a figure, or one for each of its items.
        dims: numbers of dimensions to keep; powers of two below `dim`, down to 2, by default.
        how: `first`, `random`, `pca`, `isomap` (the last two need the extra `train`); or name → a way of one's own:
            (rows to fit on, dims, seed) → a function of rows.
        seeds: of random dimensions.
        reduce_on: rows that `pca` and `isomap` are fitted on; the first set by default.
    """
    sets = [rows] if isinstance(rows, np.ndarray) else list(rows)
    if not sets:
        raise BadInput("no rows to cut; give one set of rows [n, dim], or several")
    sets = [normalise(usable_rows(one)) for one in sets]
    dim = sets[0].shape[1]
    if any(one.shape[1] != dim for one in sets):
        raise BadInput(f"sets of {', '.join(str(one.shape[1]) for one in sets)} dimensions cannot be cut alike")
    basis = sets[0] if reduce_on is None else normalise(usable_rows(reduce_on))
    if basis.shape[1] != dim:
        raise BadInput(f"reduce_on has {basis.shape[1]} dimensions, the rows have {dim}")
    asked = _checked_dims(dims, dim)
    ways = how if isinstance(how, dict) else {name: _way(name) for name in how}
    if not ways or not len(seeds):
        raise BadInput("name a way of cutting and a seed at least")
    whole = float(np.mean(task(*sets)))
    kept: dict[str, dict[int, float]] = {}
    intervals: dict[str, dict[int, Estimate]] = {}
    for name, fit in ways.items():
        for wide in asked:
            drawn = []
            for seed in seeds if name == "random" else seeds[:1]:
                cut = fit(basis, wide, seed)
                drawn.append(np.asarray(task(*(normalise(cut(one)) for one in sets)), dtype=np.float64))
            value = np.mean(drawn, axis=0)
            kept.setdefault(name, {})[wide] = float(value.mean())
            if value.ndim == 1 and len(value) > 1:
                intervals.setdefault(name, {})[wide] = mean_interval(value)
    return TruncationCurve(dim, whole, kept, intervals)


def _checked_dims(dims: Sequence[int] | None, dim: int) -> list[int]:
    if dims is None:
        found = [1 << power for power in range(1, dim.bit_length()) if 1 << power < dim]
        if not found:
            raise BadInput(f"rows of {dim} dimensions have nothing to cut; give rows of 3 at least")
        return found
    found = sorted(set(dims))
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int | np.integer) or not 1 <= one <= dim:
            raise BadInput(f"dims must be integers from 1 to {dim}, got {one!r}")
    if not found:
        raise BadInput(f"dims names no number of dimensions; give some from 1 to {dim}")
    return [int(one) for one in found]


def _way(name: str) -> Cut:
    ways: dict[str, Cut] = {"first": _first, "random": _random, "pca": _pca, "isomap": _isomap}
    if name not in ways:
        raise BadInput(f"how must be among {', '.join(ways)}, got {name!r}; or give name → function")
    return ways[name]


def _first(basis: np.ndarray, dims: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: rows[:, :dims]


def _random(basis: np.ndarray, dims: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    chosen = np.random.default_rng(seed).permutation(basis.shape[1])[:dims]
    return lambda rows: rows[:, chosen]


def _pca(basis: np.ndarray, dims: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    try:
        from sklearn.decomposition import PCA
    except ModuleNotFoundError:
        raise MissingExtra("principal components", "train") from None
    if dims > len(basis):
        raise BadInput(f"{len(basis)} rows have no {dims} principal components; give more rows or fewer dimensions")
    return PCA(dims, random_state=seed).fit(basis).transform  # type: ignore[no-any-return]


def _isomap(basis: np.ndarray, dims: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    try:
        from sklearn.manifold import Isomap
    except ModuleNotFoundError:
        raise MissingExtra("Isomap", "train") from None
    if dims >= len(basis) or len(basis) <= ISOMAP_NEIGHBOURS:
        raise BadInput(f"{len(basis)} rows are too few for an Isomap of {dims} dimensions; give more rows")
    fitted = Isomap(n_neighbors=ISOMAP_NEIGHBOURS, n_components=dims).fit(basis)
    return lambda rows: np.asarray(fitted.transform(rows), dtype=np.float32)
