"""Rows judged: test sets, runs, measures with intervals, and the `mteb` adapters.

- `RetrievalSet`: documents, queries and judgments; reads the BEIR layout. `limit` makes the LIMIT stress test.
- `Run`: what a search answered; TREC run files in and out.
- `per_query`, `estimate`, `compare`: nDCG, recall, MRR and MAP with bootstrap intervals and paired tests.
- `evaluate`: a data set through a real collection, one call.
- `index_difficulty`, `order_effect`: how hard rows are for a graph, and what the order of insertion does.
- `as_mteb_encoder`, `as_mteb_search`: any encoder or collection under the `mteb` package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.evaluation.difficulty import IndexDifficulty, index_difficulty
    from inlay.evaluation.limit_set import limit, limit_with_distractors
    from inlay.evaluation.measures import Difference, Estimate, compare, estimate, mean_interval, per_query
    from inlay.evaluation.mteb import as_mteb_encoder, as_mteb_search
    from inlay.evaluation.orders import OrderEffect, order_effect
    from inlay.evaluation.retrieval import Result, evaluate
    from inlay.evaluation.retrieval_set import RetrievalSet
    from inlay.evaluation.run import Run

_HOMES = {
    "Difference": "measures",
    "Estimate": "measures",
    "IndexDifficulty": "difficulty",
    "OrderEffect": "orders",
    "Result": "retrieval",
    "RetrievalSet": "retrieval_set",
    "Run": "run",
    "as_mteb_encoder": "mteb",
    "as_mteb_search": "mteb",
    "compare": "measures",
    "estimate": "measures",
    "evaluate": "retrieval",
    "index_difficulty": "difficulty",
    "limit": "limit_set",
    "limit_with_distractors": "limit_set",
    "mean_interval": "measures",
    "order_effect": "orders",
    "per_query": "measures",
}

__all__ = [
    "Difference",
    "Estimate",
    "IndexDifficulty",
    "OrderEffect",
    "Result",
    "RetrievalSet",
    "Run",
    "as_mteb_encoder",
    "as_mteb_search",
    "compare",
    "estimate",
    "evaluate",
    "index_difficulty",
    "limit",
    "limit_with_distractors",
    "mean_interval",
    "order_effect",
    "per_query",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
