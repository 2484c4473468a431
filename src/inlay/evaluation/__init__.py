"""Rows judged: test sets, runs, measures with intervals, and the `mteb` adapters.

- `RetrievalSet`: documents, queries and judgments; reads the BEIR layout. `limit` makes the LIMIT stress test.
- `Run`: what a search answered; TREC run files in and out.
- `per_query`, `estimate`, `compare`: nDCG, recall, MRR and MAP with bootstrap intervals and paired tests.
- `evaluate`: a data set through a real collection, one call.
- `as_mteb_encoder`, `as_mteb_search`: any encoder or collection under the `mteb` package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.evaluation.limit_set import limit, limit_with_distractors
    from inlay.evaluation.measures import Difference, Estimate, compare, estimate, mean_interval, per_query
    from inlay.evaluation.mteb import as_mteb_encoder, as_mteb_search
    from inlay.evaluation.retrieval import Result, evaluate
    from inlay.evaluation.retrieval_set import RetrievalSet
    from inlay.evaluation.run import Run

_HOMES = {
    "Difference": "measures",
    "Estimate": "measures",
    "Result": "retrieval",
    "RetrievalSet": "retrieval_set",
    "Run": "run",
    "as_mteb_encoder": "mteb",
    "as_mteb_search": "mteb",
    "compare": "measures",
    "estimate": "measures",
    "evaluate": "retrieval",
    "limit": "limit_set",
    "limit_with_distractors": "limit_set",
    "mean_interval": "measures",
    "per_query": "measures",
}

__all__ = [
    "Difference",
    "Estimate",
    "Result",
    "RetrievalSet",
    "Run",
    "as_mteb_encoder",
    "as_mteb_search",
    "compare",
    "estimate",
    "evaluate",
    "limit",
    "limit_with_distractors",
    "mean_interval",
    "per_query",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
