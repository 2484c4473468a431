"""Records: rows of tables that may speak of the same thing, and the pairs of them that are worth comparing.

- `serialise`: a record as one text, "[COL] name [VAL] value …"; `Serialised` makes any text encoder read records so.
- `RecordGrams`: records as rows of hashed character n-grams, weighted by rarity, by column too. Needs no training.
- `block`: for each record the nearest of another table, or of its own: `Candidates`. `candidate_report` says how many
  matches are among them, and at what price.
- `TokenBlocking` and `MinHash`: pairs by shared tokens and by estimated Jaccard similarity.
- `NeuralLSH`: a learnt hash, in which what labels or a rule of yours call a match is near (torch).
- `clusters`: groups of records, of the pairs that were accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.records.blocking import block
    from inlay.records.candidates import Candidates, Report, candidate_report
    from inlay.records.clustering import clusters
    from inlay.records.min_hash import MinHash
    from inlay.records.neural_lsh import NeuralLSH
    from inlay.records.record_grams import RecordGrams
    from inlay.records.serialisation import Serialised, serialise
    from inlay.records.token_blocking import TokenBlocking

_HOMES = {
    "Candidates": "candidates",
    "MinHash": "min_hash",
    "NeuralLSH": "neural_lsh",
    "RecordGrams": "record_grams",
    "Report": "candidates",
    "Serialised": "serialisation",
    "TokenBlocking": "token_blocking",
    "block": "blocking",
    "candidate_report": "candidates",
    "clusters": "clustering",
    "serialise": "serialisation",
}

__all__ = [
    "Candidates",
    "MinHash",
    "NeuralLSH",
    "RecordGrams",
    "Report",
    "Serialised",
    "TokenBlocking",
    "block",
    "candidate_report",
    "clusters",
    "serialise",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, what="learnt hashes", extra="train", needs=("torch",))
