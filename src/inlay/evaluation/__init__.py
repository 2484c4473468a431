"""Rows judged: test sets, runs, measures with intervals, the shape and likeness of spaces, and the `mteb` adapters.

- `RetrievalSet`: documents, queries and judgments; reads the BEIR layout. `limit` makes the LIMIT stress test.
- `Run`: what a search answered; TREC run files in and out.
- `per_query`, `estimate`, `compare`: nDCG, recall, MRR and MAP with bootstrap intervals and paired tests.
- `evaluate`: a data set through a real collection, one call.
- `index_difficulty`, `order_effect`: how hard rows are for a graph, and what the order of insertion does.
- `geometry`: intrinsic dimension (`two_nn`, `levina_bickel`), isotropy (`iso_score`, `partition_ratio`), hubs (`hubs`).
  `truncation_curve`: how many dimensions a task needs.
- `compare_encoders`, `compare_spaces`: whether encoders agree, by geometry (`cka`) and by what they find (`jaccard`,
  `rank_similarity`); `map_models` clusters them, `draw_comparison` draws.
- `report_encoders`: accuracy with intervals, overlaps of scores (`overlap_coefficient`) and where to cut them
  (`score_cut`).
- `tune`: the frontier of quality, bytes and latency of a `Task` (`sample_collection` makes one), and the
  `Recommendation` within bounds; `draw_tuning` draws.
- `as_mteb_encoder`, `as_mteb_search`: any encoder or collection under the `mteb` package.
- `critical_n`, `capacity`, `smallest_dim`: how many documents a width can serve (LIMIT).
- `grow_corpus`, `bench_growth`: corpora of growing size, and what codecs lose there (CoRECT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.evaluation.bootstrap import bootstrap_mean, bootstrap_statistic, paired_difference
    from inlay.evaluation.comparison_figure import draw_comparison
    from inlay.evaluation.corpus_growth import Composition, GrownCorpus, grow_corpus
    from inlay.evaluation.difficulty import IndexDifficulty, index_difficulty
    from inlay.evaluation.encoder_comparison import EncoderComparison, compare_encoders
    from inlay.evaluation.encoder_report import EncoderReport, report_encoders
    from inlay.evaluation.frontier import Point, Recommendation, recommend
    from inlay.evaluation.growth_bench import GrowthBench, bench_growth
    from inlay.evaluation.growth_figure import draw_growth
    from inlay.evaluation.hubness import Hubness, hubs
    from inlay.evaluation.intrinsic_dimension import levina_bickel, two_nn
    from inlay.evaluation.isotropy import iso_score, mean_cosine, participation_ratio, partition_ratio
    from inlay.evaluation.limit_capacity import (
        Capacity,
        CapacityFit,
        CriticalN,
        capacity,
        critical_n,
        fit_capacity,
        smallest_dim,
    )  # fmt: skip
    from inlay.evaluation.limit_set import limit, limit_with_distractors
    from inlay.evaluation.measures import Difference, Estimate, compare, estimate, mean_interval, per_query
    from inlay.evaluation.model_map import ModelMap, map_models
    from inlay.evaluation.mteb import as_mteb_encoder, as_mteb_search
    from inlay.evaluation.orders import OrderEffect, order_effect
    from inlay.evaluation.ranked_overlap import jaccard, rank_similarity, result_lists
    from inlay.evaluation.redundancy import TruncationCurve, truncation_curve
    from inlay.evaluation.retrieval import Result, evaluate
    from inlay.evaluation.retrieval_set import RetrievalSet
    from inlay.evaluation.row_geometry import Geometry, geometry
    from inlay.evaluation.run import Run
    from inlay.evaluation.score_overlap import Scores, cloud_overlap, overlap_coefficient, score_cut
    from inlay.evaluation.similarity import cka, cka_matrix
    from inlay.evaluation.space_comparison import Comparison, compare_spaces
    from inlay.evaluation.tuning import Tuning, tune
    from inlay.evaluation.tuning_figure import draw_tuning
    from inlay.evaluation.tuning_grid import Configuration
    from inlay.evaluation.tuning_sample import sample_collection
    from inlay.evaluation.tuning_task import Task, TunedSpace

_HOMES = {
    "Capacity": "limit_capacity",
    "CapacityFit": "limit_capacity",
    "Comparison": "space_comparison",
    "Composition": "corpus_growth",
    "Configuration": "tuning_grid",
    "CriticalN": "limit_capacity",
    "Difference": "measures",
    "EncoderComparison": "encoder_comparison",
    "EncoderReport": "encoder_report",
    "Estimate": "measures",
    "Geometry": "row_geometry",
    "GrownCorpus": "corpus_growth",
    "GrowthBench": "growth_bench",
    "Hubness": "hubness",
    "IndexDifficulty": "difficulty",
    "ModelMap": "model_map",
    "OrderEffect": "orders",
    "Point": "frontier",
    "Recommendation": "frontier",
    "Result": "retrieval",
    "RetrievalSet": "retrieval_set",
    "Run": "run",
    "Scores": "score_overlap",
    "Task": "tuning_task",
    "TruncationCurve": "redundancy",
    "TunedSpace": "tuning_task",
    "Tuning": "tuning",
    "as_mteb_encoder": "mteb",
    "as_mteb_search": "mteb",
    "bench_growth": "growth_bench",
    "bootstrap_mean": "bootstrap",
    "bootstrap_statistic": "bootstrap",
    "capacity": "limit_capacity",
    "cka": "similarity",
    "cka_matrix": "similarity",
    "cloud_overlap": "score_overlap",
    "compare": "measures",
    "compare_encoders": "encoder_comparison",
    "compare_spaces": "space_comparison",
    "critical_n": "limit_capacity",
    "draw_comparison": "comparison_figure",
    "draw_growth": "growth_figure",
    "draw_tuning": "tuning_figure",
    "estimate": "measures",
    "evaluate": "retrieval",
    "fit_capacity": "limit_capacity",
    "geometry": "row_geometry",
    "grow_corpus": "corpus_growth",
    "hubs": "hubness",
    "index_difficulty": "difficulty",
    "iso_score": "isotropy",
    "jaccard": "ranked_overlap",
    "levina_bickel": "intrinsic_dimension",
    "limit": "limit_set",
    "limit_with_distractors": "limit_set",
    "map_models": "model_map",
    "mean_cosine": "isotropy",
    "mean_interval": "measures",
    "order_effect": "orders",
    "overlap_coefficient": "score_overlap",
    "paired_difference": "bootstrap",
    "participation_ratio": "isotropy",
    "partition_ratio": "isotropy",
    "per_query": "measures",
    "rank_similarity": "ranked_overlap",
    "recommend": "frontier",
    "report_encoders": "encoder_report",
    "result_lists": "ranked_overlap",
    "sample_collection": "tuning_sample",
    "score_cut": "score_overlap",
    "smallest_dim": "limit_capacity",
    "truncation_curve": "redundancy",
    "tune": "tuning",
    "two_nn": "intrinsic_dimension",
}

__all__ = [
    "Capacity",
    "CapacityFit",
    "Comparison",
    "Composition",
    "Configuration",
    "CriticalN",
    "Difference",
    "EncoderComparison",
    "EncoderReport",
    "Estimate",
    "Geometry",
    "GrownCorpus",
    "GrowthBench",
    "Hubness",
    "IndexDifficulty",
    "ModelMap",
    "OrderEffect",
    "Point",
    "Recommendation",
    "Result",
    "RetrievalSet",
    "Run",
    "Scores",
    "Task",
    "TruncationCurve",
    "TunedSpace",
    "Tuning",
    "as_mteb_encoder",
    "as_mteb_search",
    "bench_growth",
    "bootstrap_mean",
    "bootstrap_statistic",
    "capacity",
    "cka",
    "cka_matrix",
    "cloud_overlap",
    "compare",
    "compare_encoders",
    "compare_spaces",
    "critical_n",
    "draw_comparison",
    "draw_growth",
    "draw_tuning",
    "estimate",
    "evaluate",
    "fit_capacity",
    "geometry",
    "grow_corpus",
    "hubs",
    "index_difficulty",
    "iso_score",
    "jaccard",
    "levina_bickel",
    "limit",
    "limit_with_distractors",
    "map_models",
    "mean_cosine",
    "mean_interval",
    "order_effect",
    "overlap_coefficient",
    "paired_difference",
    "participation_ratio",
    "partition_ratio",
    "per_query",
    "rank_similarity",
    "recommend",
    "report_encoders",
    "result_lists",
    "sample_collection",
    "score_cut",
    "smallest_dim",
    "truncation_curve",
    "tune",
    "two_nn",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
