"""A graph built to be walked under any filter: more links than a walk needs, so that those which pass are enough.

Every row is linked to its nearest rows, without a rule of diversity, γ times as many as a walk without a filter would
use: with a share 1/γ of rows allowed, as many links pass as an ordinary graph has. So many would not fit, and on the
lowest level they are compressed: the nearest `uncompressed` stay, and a further row is left out where it is a link of
another further row that stayed. A walk makes up for it by looking past the further links at what they link to.

With `gamma=1` and `uncompressed=2 * connectivity` it is ACORN-1: built like any graph (without the rule of diversity),
and a walk looks past every link.

Patel, Kraft, Guestrin & Zaharia 2024, "ACORN: Performant and Predicate-Agnostic Search Over Vector Embeddings and
Structured Data" (arXiv 2403.04871), as described in arXiv 2507.21989. Where the authors' code and this differ: while
building, it looks at the first M links of a row only, here at all of them; on the upper levels it writes one link more
than there is room for, here the nearest M·γ stay; a walk here counts towards the 2·M rows of a step those that were
not met before, there all that pass. Rows that are equal share one place (see `DenseGraph`), and a walk that comes back
short is completed by a scan.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.indexes.dense_graph import DenseGraph
from inlay.indexes.filter_plan import FilterCosts, FilterPlan, Route
from inlay.indexes.filtered_walks import Answer
from inlay.indexes.flat import checked_k, checked_mask
from inlay.indexes.graph_rows import Asked, Dtype
from inlay.kernels.dense_graph import PASS, Room, Within
from inlay.types import Metric, Neighbours

__all__ = ["Acorn"]


class Acorn(DenseGraph):
    """Rows in a graph with links to spare, for filters that are not known when it is built (extra `fast`).

    Args:
        dim: width of a row.
        metric: as in `Flat`.
        dtype: as in `DenseGraph`.
        connectivity: M in the paper: a step of a walk scores up to 2·M rows.
        gamma: γ, how many times as many links there are; about one over the smallest share of allowed rows that the
            graph is to serve. Where fewer are allowed, all of them are scored instead.
        uncompressed: M_β, links on the lowest level that compression leaves alone; 2·M by default. There is room for
            M_β + 1.5·M.
        expansion_add: candidates from which a row's links are chosen; M·γ by default.
        expansion_search: candidates kept during a search (ef).
        refine: rows scored in full, for each of the k that are wanted.
        seed: of the draw of levels.
    """

    kind = "acorn graph"

    def __init__(
        self,
        dim: int,
        *,
        metric: Metric = "cosine",
        dtype: Dtype = "float32",
        connectivity: int = 32,
        gamma: int = 12,
        uncompressed: int | None = None,
        expansion_add: int | None = None,
        expansion_search: int = 64,
        refine: int = 3,
        seed: int = 0,
    ) -> None:
        for name, value in {"gamma": gamma, "uncompressed": uncompressed, "expansion_add": expansion_add}.items():
            if value is None and name != "gamma":
                continue
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name} must be a whole number from 1 on, got {value!r}")
        super().__init__(
            dim, metric=metric, dtype=dtype, connectivity=connectivity, expansion_add=expansion_add or 1,
            expansion_search=expansion_search, refine=refine, seed=seed,
        )  # fmt: skip
        m, least = int(connectivity), 2 * int(connectivity) if uncompressed is None else int(uncompressed)
        if least > 2 * m * gamma:
            raise BadInput(f"uncompressed must be at most 2 * connectivity * gamma = {2 * m * gamma}, got {least}")
        del self.settings["keep_pruned"]
        self.settings |= {
            "gamma": int(gamma), "uncompressed": least,
            "expansion_add": max(m * int(gamma), 2 * m) if expansion_add is None else int(expansion_add),
        }  # fmt: skip
        self._graph = self._empty(self._graph.codes.shape[1], least + m + m // 2, m * int(gamma))

    def calibrate_filters(self, *_: Any, **__: Any) -> list[FilterCosts]:  # type: ignore[override]
        """There is nothing to measure: the way is decided by `gamma`."""
        raise BadInput("an Acorn scans where fewer than one row in gamma is allowed, and walks elsewhere; set gamma")

    def _found(
        self,
        queries: np.ndarray,
        k: int,
        allow: Any,
        ef: int | None,
        recall: float | None = None,
        route: Route | None = None,
        told: bool = False,
    ) -> Answer:
        if route not in (None, "scan"):
            raise BadInput(f"route must be scan, or None to walk where enough rows are allowed, got {route!r}")
        asked, k, width = self._asked(queries), checked_k(k), self._ef(ef, recall, k)
        allow = checked_mask(allow, self._count)
        if allow is None:
            return Answer(*self._walked(asked, k, None, width, "all"), [])
        matches = int(np.count_nonzero(allow))
        scans = route == "scan" or matches * self.settings["gamma"] < self._count
        plan = FilterPlan("scan" if scans else "two-hop", self._count, matches, None, {}, 0 if scans else width)
        if not matches:
            return Answer(self._none(len(asked), k), 0, [plan] * len(asked))
        if scans:
            found, scored, short = self._none(len(asked), k), 0, np.arange(len(asked))
        else:
            found, scored = self._walked(asked, k, allow, width, "compressed")
            short = np.flatnonzero(found.ids[:, min(k, matches) - 1] < 0)
        if len(short):
            found.scores[short], found.ids[short] = self._scanned(asked[short], k, np.flatnonzero(allow))
        return Answer(found, scored + matches * len(short), [plan] * len(asked))

    @staticmethod
    def _none(queries: int, k: int) -> Neighbours:
        return Neighbours(np.full((queries, k), -np.inf, dtype=np.float32), np.full((queries, k), -1, dtype=np.int64))

    def _insert(self, rows: np.ndarray, budgets: np.ndarray, room: Room) -> None:
        _kernels().insert(self._graph, rows, self.settings["expansion_add"], self.settings["uncompressed"], room)

    def _walk(
        self, asked: Asked, expansion: int, allow: np.ndarray | None, how: str, within: Within | None, room: Room,
        best: np.ndarray, sizes: np.ndarray,
    ) -> int:  # fmt: skip
        if allow is None:
            return super()._walk(asked, expansion, None, "all", within, room, best, sizes)
        way = PASS["two-hop-always" if self.settings["gamma"] == 1 else "compressed"]
        return int(
            _kernels().walk(
                self._graph, asked.codes, asked.steps, expansion, np.ascontiguousarray(allow), way,
                self.settings["uncompressed"], self.settings["connectivity"], room, best, sizes,
            )
        )  # fmt: skip


def _kernels() -> Any:
    try:
        from inlay.kernels import acorn_numba
    except ImportError:
        raise MissingExtra("graph indexes", "fast") from None
    return acorn_numba
