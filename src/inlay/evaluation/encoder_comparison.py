"""Encoders side by side on the same texts or on a judged set: what `inlay compare` prints.

Texts are cleaned first, for all encoders alike: blank ones and repetitions go, and so does a text that some encoder has
no vector for (hashed n-grams of a text without words, say). What was left out is counted. With plain texts each text
asks for the others, encoded as a document. A judged set has queries: they are asked among all its documents, and
nDCG@10 is of these exact searches by vectors alone; the shape of spaces and CKA are measured on a sample of documents.

Sources: Caspari et al. (arXiv 2407.08275); Tsukagoshi and Sasano (arXiv 2506.01435); the Telecom Compass (arXiv
2406.12336).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.bootstrap import paired_difference
from inlay.evaluation.measures import Difference, Estimate, mean_interval, per_query
from inlay.evaluation.ranked_overlap import result_lists
from inlay.evaluation.retrieval_set import RetrievalSet
from inlay.evaluation.row_geometry import LEAST
from inlay.evaluation.space_comparison import SIZES, Comparison, compare_spaces

if TYPE_CHECKING:
    from inlay.types import Encoder

__all__ = ["EncoderComparison", "compare_encoders"]

MEASURE = "ndcg@10"
DEPTH = 10


@dataclass(frozen=True)
class EncoderComparison:
    """What `compare_encoders` found.

    Args:
        spaces: shapes and agreements.
        left_out: why → how many texts or queries were left out.
        ndcg: encoder → nDCG@10 with its 95% interval; empty without judgments.
        differences: encoder → nDCG@10 minus that of the best, on the same queries; without the best itself.
    """

    spaces: Comparison
    left_out: dict[str, int] = field(default_factory=dict)
    ndcg: dict[str, Estimate] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {"encoders": list(self.spaces.names), **self.spaces.to_dict(), "left_out": self.left_out}
        if self.ndcg:
            found["ndcg@10"] = {name: [round(value, 5) for value in one] for name, one in self.ndcg.items()}
            found["to the best"] = {name: [round(v, 5) for v in one] for name, one in self.differences.items()}
        return found


def compare_encoders(
    encoders: Sequence[str | Encoder] | Mapping[str, str | Encoder],
    texts: Sequence[str] | RetrievalSet,
    *,
    k: Sequence[int] = SIZES,
    rows: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> EncoderComparison:
    """Compare encoders of dense rows.

    Args:
        encoders: names or encoders; or name to show → one of these. One alone has a shape, and no agreement.
        texts: at least 21 different ones, or a judged set.
        k: lengths of lists of results.
        rows: texts that shapes and CKA are measured on, at most: a random sample of more. Intrinsic dimension depends
            on it.
        seed: of the sample, the shuffles and the halves.
        progress: show bars.
    """
    named = _named(encoders)
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < LEAST:
        raise BadInput(f"rows must be an integer from {LEAST} on, got {rows!r}")
    judged = texts if isinstance(texts, RetrievalSet) else None
    given = judged.texts if judged is not None else _checked_texts(texts)
    left_out: dict[str, int] = {}
    fit = _first_of_each(given, left_out)
    if len(fit) < LEAST:
        said = "text is" if len(fit) == 1 else "texts are"
        raise BadInput(f"{len(fit)} different {said} too few to compare encoders on; give {LEAST} at least")
    sample = np.random.default_rng(seed).permutation(fit)[:rows] if len(fit) > rows else fit
    sample.sort()
    wanted = np.arange(len(given)) if judged is not None else sample
    every = {name: _encoded(name, one, [given[i] for i in wanted], False, progress) for name, one in named.items()}
    full: dict[str, np.ndarray] = {name: np.asarray(found.any(axis=1)) for name, found in every.items()}
    place = np.flatnonzero(np.isin(wanted, sample))
    with_all = np.asarray(np.stack([one[place] for one in full.values()]).all(axis=0))
    for name, one in full.items():
        empty = int((~one[place]).sum())
        if empty:
            left_out[f"texts without a vector from {name}"] = empty
    place = place[with_all]
    if len(place) < LEAST:
        raise BadInput(
            f"{len(place)} of {len(with_all)} texts have a vector from every encoder ("
            + ", ".join(f"{why}: {count}" for why, count in left_out.items())
            + f"); give more texts, at least {LEAST} that all can encode"
        )
    kept = {name: found[place] for name, found in every.items()}
    for name, found in kept.items():
        _refuse_equal(name, found)
    if judged is None:
        return EncoderComparison(compare_spaces(kept, k=k, seed=seed), left_out)
    return _on_judged(judged, named, every, kept, k, left_out, seed, progress)


def _on_judged(
    judged: RetrievalSet,
    named: dict[str, Encoder],
    every: dict[str, np.ndarray],
    kept: dict[str, np.ndarray],
    k: Sequence[int],
    left_out: dict[str, int],
    seed: int,
    progress: bool,
) -> EncoderComparison:
    texts = list(judged.queries.values())
    if not texts:
        raise BadInput(f"{judged.name or 'the set'} has no judged query in split {judged.split!r}")
    asked = {name: _encoded(name, one, texts, True, progress) for name, one in named.items()}
    # A query that stands among the documents is the first result of every encoder.
    place = {text: i for i, text in enumerate(judged.texts)}
    own = np.array([place.get(text, -1) for text in texts], dtype=np.int64)
    values = {name: _ndcg(judged, asked[name], every[name]) for name in named}
    full = np.stack([one.any(axis=1) for one in asked.values()]).all(axis=0)
    if not full.all():
        left_out["queries without a vector from some encoder, which count as nDCG 0 for it"] = int((~full).sum())
    if not full.any():
        raise BadInput(f"no query has a vector from every one of {', '.join(named)}; compare encoders that read these")
    spaces = compare_spaces(
        kept, {name: one[full] for name, one in asked.items()}, k=k, lists_over=every,
        own=own[full] if (own[full] >= 0).any() else None, seed=seed,
    )  # fmt: skip
    best = max(values, key=lambda name: float(values[name].mean()))
    return EncoderComparison(
        spaces,
        left_out,
        {name: mean_interval(one, seed=seed) for name, one in values.items()},
        {name: paired_difference(one, values[best], seed=seed) for name, one in values.items() if name != best},
    )


def _ndcg(judged: RetrievalSet, asked: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query of an exact search; a query without a vector finds nothing."""
    lists = result_lists(asked, rows, min(DEPTH, len(rows)))
    run = {
        query: {judged.ids[row]: 1 / rank for rank, row in enumerate(ids.tolist(), start=1)} if vector.any() else {}
        for query, ids, vector in zip(judged.queries, lists, asked)
    }
    return per_query(run, judged.qrels, [MEASURE])[MEASURE]


def _named(encoders: Any) -> dict[str, Encoder]:
    from inlay.encoders.names import encoder

    if isinstance(encoders, str):
        raise BadInput(f"encoders takes a list of names, got one str; write [{encoders!r}]")
    if isinstance(encoders, Mapping):
        pairs = list(encoders.items())
    else:
        pairs = [(one if isinstance(one, str) else str(getattr(one, "name", None) or one), one) for one in encoders]
    if not pairs:
        raise BadInput("no encoders to compare; name one or more, such as box and numen")
    found: dict[str, Encoder] = {}
    for name, one in pairs:
        if name in found:
            raise BadInput(f"encoder {name!r} is named twice: it agrees with itself; name each once")
        found[name] = encoder(one)
        kind = found[name].space.kind
        if kind != "dense":
            raise BadInput(f"encoders are compared by dense rows, and {name!r} makes {kind} ones; name another")
    return found


def _encoded(name: str, one: Encoder, texts: list[str], query: bool, progress: bool) -> np.ndarray:
    made = np.asarray((one.encode_query if query else one.encode_document)(texts, progress=progress))
    if made.ndim != 2 or len(made) != len(texts):
        raise BadInput(f"encoder {name!r} gave an array {list(made.shape)} for {len(texts)} texts: one row each is due")
    odd = np.flatnonzero(~np.isfinite(made).all(axis=1))
    if len(odd):
        raise BadInput(f"encoder {name!r} gives NaN or infinity for {texts[odd[0]]!r:.80} ({len(odd)} texts)")
    if made.shape[1] < 2:
        raise BadInput(f"encoder {name!r} gives rows of {made.shape[1]} dimension: there is no shape to measure")
    return np.asarray(made, dtype=np.float32)


def _refuse_equal(name: str, rows: np.ndarray) -> None:
    different = len(np.unique(rows, axis=0))
    if different == 1:
        raise BadInput(f"encoder {name!r} gives the same row to all {len(rows)} texts: there is nothing to compare")
    if different < LEAST:
        raise BadInput(
            f"encoder {name!r} gives {different} different rows to {len(rows)} texts, and {LEAST} are needed; "
            "give texts that it tells apart, or more of them"
        )


def _checked_texts(texts: Any) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise BadInput(f"texts must be a list of str, got {type(texts).__name__}")
    return list(texts)


def _first_of_each(texts: list[str], left_out: dict[str, int]) -> np.ndarray:
    """Numbers of the texts that are not blank and stand for the first time."""
    seen: dict[str, int] = {}
    for number, text in enumerate(texts):
        if text.strip():
            seen.setdefault(text.strip(), number)
    blank = sum(not text.strip() for text in texts)
    if blank:
        left_out["blank texts"] = blank
    if len(texts) - blank > len(seen):
        left_out["repeated texts"] = len(texts) - blank - len(seen)
    return np.array(list(seen.values()), dtype=np.int64)
