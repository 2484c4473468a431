"""Spaces side by side: the shape of each, and how far any two of them agree.

Rows are of the same texts in the same order. Agreement is asked on two levels, and the first does not imply the second:
CKA compares geometries as a whole, Jaccard and rank similarity what a search finds. CKA has a floor above 0, since its
estimate is biased; it is measured by shuffling the texts of one side, and the debiased form stands beside it.

Source: Caspari et al., Beyond Benchmarks: Evaluating Embedding Model Similarity for Retrieval Augmented Generation
(arXiv 2407.08275).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.intrinsic_dimension import usable_rows
from inlay.evaluation.measures import Estimate, mean_interval
from inlay.evaluation.model_map import ModelMap, map_models
from inlay.evaluation.ranked_overlap import jaccard, rank_similarity, result_lists
from inlay.evaluation.row_geometry import Geometry, geometry
from inlay.evaluation.similarity import cka_matrix
from inlay.kernels.dense import normalise

__all__ = ["SIZES", "Agreement", "Comparison", "compare_spaces"]

SIZES = (1, 3, 5, 10, 100)


class Agreement(NamedTuple):
    """Two spaces.

    Args:
        cka: linear.
        cka_debiased: the same by the unbiased estimate.
        cka_shuffled: `cka` after the texts of one side were shuffled: what no agreement looks like.
        jaccard: k → mean over queries, with its 95% interval.
        rank_similarity: the same.
    """

    cka: float
    cka_debiased: float
    cka_shuffled: float
    jaccard: dict[int, Estimate]
    rank_similarity: dict[int, Estimate]


@dataclass(frozen=True)
class Comparison:
    """What `compare_spaces` found.

    Args:
        names: of the spaces.
        texts: rows that shapes and CKA were measured on.
        queries: whose lists were compared.
        sizes: of the lists, ascending.
        shapes: name → shape.
        pairs: (name, other name) → agreement; in the order of `names`.
    """

    names: tuple[str, ...]
    texts: int
    queries: int
    sizes: tuple[int, ...]
    shapes: dict[str, Geometry]
    pairs: dict[tuple[str, str], Agreement] = field(repr=False)

    def matrix(self, measure: str = "cka") -> np.ndarray:
        """Every pair's figure, float64 [spaces, spaces]: `cka`, `cka_debiased`, `jaccard@k` or `rank_similarity@k`."""
        name, _, size = measure.partition("@")
        listed = name in ("jaccard", "rank_similarity") and size.isdigit() and int(size) in self.sizes
        if not listed and measure not in ("cka", "cka_debiased"):
            known = [f"{one}@{k}" for one in ("jaccard", "rank_similarity") for k in self.sizes]
            raise BadInput(f"{measure!r} was not measured; there are cka, cka_debiased, {', '.join(known)}")
        found = np.eye(len(self.names))
        for (a, b), one in self.pairs.items():
            i, j = self.names.index(a), self.names.index(b)
            found[i, j] = found[j, i] = getattr(one, name)[int(size)].mean if size else getattr(one, name)
        return found

    def map(self, measure: str = "cka") -> ModelMap:
        """The spaces clustered by a measure (extra `sparse`)."""
        return map_models(self.names, self.matrix(measure))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "texts": self.texts,
            "queries": self.queries,
            "shapes": {name: one.to_dict() for name, one in self.shapes.items()},
            "pairs": [
                {
                    "encoders": list(pair),
                    "cka": round(one.cka, 5),
                    "cka_debiased": round(one.cka_debiased, 5),
                    "cka_shuffled": round(one.cka_shuffled, 5),
                    "jaccard": {str(k): [round(v, 5) for v in value] for k, value in one.jaccard.items()},
                    "rank_similarity": {
                        str(k): [round(v, 5) for v in value] for k, value in one.rank_similarity.items()
                    },
                }
                for pair, one in self.pairs.items()
            ],
        }


def compare_spaces(
    spaces: Mapping[str, np.ndarray],
    queries: Mapping[str, np.ndarray] | None = None,
    *,
    k: Sequence[int] = SIZES,
    lists_over: Mapping[str, np.ndarray] | None = None,
    own: np.ndarray | None = None,
    seed: int = 0,
) -> Comparison:
    """Measure shapes and agreements.

    Args:
        spaces: name → rows [n, dim] of the same texts in the same order; dims may differ.
        queries: name → rows [q, dim] of the same queries; without them each text asks for the others.
        k: lengths of lists; those that not enough texts are there for are left out.
        lists_over: name → rows that are searched, where they are others than those of `spaces` (which may be a sample).
        own: int64 [q], the searched row that is the query itself, −1 for none; it is no result.
        seed: of shuffles and of halves.
    """
    names = tuple(spaces)
    if not names:
        raise BadInput("no spaces to compare; give name → rows of the same texts")
    kept = {name: normalise(usable_rows(rows, zeros=False)) for name, rows in spaces.items()}
    searched = dict(lists_over or kept)
    asked = dict(queries if queries is not None else searched)
    for what, sides in (("rows", kept), ("searched rows", searched), ("queries", asked)):
        if tuple(sides) != names or len({len(one) for one in sides.values()}) > 1:
            raise BadInput(f"{what} must be there for {', '.join(names)}, in that order and as many for each")
    count, many = len(next(iter(searched.values()))), len(next(iter(asked.values())))
    if queries is None:
        own = np.arange(many)
    sizes = _checked_sizes(k, count - (own is not None))
    measured = {name: geometry(rows, seed=seed) for name, rows in kept.items()}
    pairs: dict[tuple[str, str], Agreement] = {}
    if len(names) > 1:
        sets = list(kept.values())
        biased, debiased = cka_matrix(sets), cka_matrix(sets, debiased=True)
        shuffled = np.random.default_rng(seed).permutation(len(sets[0]))
        lists = {name: result_lists(asked[name], searched[name], sizes[-1], own=own) for name in names}
        for (i, a), (j, b) in combinations(enumerate(names), 2):
            pairs[a, b] = Agreement(
                cka=float(biased[i, j]),
                cka_debiased=float(debiased[i, j]),
                cka_shuffled=float(cka_matrix([sets[i], sets[j][shuffled]])[0, 1]),
                jaccard={size: mean_interval(jaccard(lists[a], lists[b], size)) for size in sizes},
                rank_similarity={size: mean_interval(rank_similarity(lists[a], lists[b], size)) for size in sizes},
            )
    return Comparison(names, len(next(iter(kept.values()))), many, sizes, measured, pairs)


def _checked_sizes(k: Sequence[int], most: int) -> tuple[int, ...]:
    found = sorted(set(k))
    if not found or any(isinstance(one, bool) or not isinstance(one, int | np.integer) or one < 1 for one in found):
        raise BadInput(f"k must be positive integers, got {list(k)}")
    # A list of all there is would be the same set for everyone.
    enough = tuple(int(one) for one in found if one < most)
    if not enough:
        raise BadInput(f"lists of {found[0]} among {most} texts hold all of them: give more texts or a smaller k")
    return enough
