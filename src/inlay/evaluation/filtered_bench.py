"""The protocol of filtered nearest-neighbour search: which queries are asked under which filters, and what is right.

Filters are of three kinds: *exact match* (`em`: a row's value is v), *range* (`r`: it lies between two values) and
*exact match in a set* (`emis`: v is one of a row's values). They are drawn from the values of the rows themselves, half
of them from the row that is nearest to the query, half from any row, so many for each band of selectivity. A figure
over all bands would say nothing: a method that is best at 50% can be useless at 0.1%.

Nor does selectivity say everything. *Correlation* is the mean distance of the query to its nearest rows that pass, over
that to the nearest of as many rows drawn at random: below 1 the filter is where the query is, above 1 elsewhere.

Truth is an exact scan of the rows that pass. Recall@k counts as many rows as there are, min(k, matches), so that a
filter with three matches can be answered in full.

Source: "Benchmarking Filtered Approximate Nearest Neighbor Search Algorithms on Transformer-based Embedding Vectors"
(arXiv 2507.21989). There every query has one filter of each kind, whatever its selectivity; here bands are filled
evenly, so that each has enough queries to be measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.evaluation.vector_files import read_fvecs, read_ivecs, write_fvecs, write_ivecs
from inlay.indexes.flat import checked_k, checked_rows
from inlay.kernels.dense import nearest, normalise

__all__ = ["BANDS", "CORRELATIONS", "KINDS", "Attribute", "FilteredBench", "Task", "band_of", "correlation_of"]

Kind: TypeAlias = Literal["em", "r", "emis"]
KINDS: tuple[str, ...] = get_args(Kind)
BANDS = ((0.0, 0.001), (0.001, 0.01), (0.01, 0.1), (0.1, 0.5), (0.5, 1.0))  # shares of rows that pass: above, up to
NAMES = ("≤ 0.1%", "0.1–1%", "1–10%", "10–50%", "> 50%")
CORRELATIONS = {"positive": (0.0, 0.97), "none": (0.97, 1.03), "negative": (1.03, np.inf)}
NEAREST = 10  # rows whose distance decides what correlates
AT_ONCE = 64  # queries scored in one product
TRIES = 50  # draws of a range for each that is kept


class Task(NamedTuple):
    """A query under a filter.

    `truth` int64, the nearest rows that pass, best first, as many as there are up to k of the bench.
    """

    query: int
    kind: str
    attribute: str
    value: Any
    matches: int
    share: float
    correlation: float
    truth: np.ndarray

    @property
    def band(self) -> int:
        """Number of the band of its selectivity."""
        return band_of(self.share)


class Attribute:
    """A value of every row.

    Args:
        kind: `em`, `r` or `emis`.
        values: of each row: a number or name; a number for `r`; a sequence of numbers or names for `emis`.
    """

    def __init__(self, kind: Kind, values: Sequence[Any]) -> None:
        if kind not in KINDS:
            raise BadInput(f"an attribute's kind is one of {', '.join(KINDS)}, got {kind!r}")
        self.kind, self.values = kind, values
        if kind == "emis":
            rows = np.repeat(np.arange(len(values)), [len(own) for own in values])
            flat = np.array([value for own in values for value in own])
        else:
            flat = np.asarray(values)
            rows = np.arange(len(flat))
        if flat.ndim != 1 or (flat.dtype.kind not in "iufU" and len(flat)):
            raise BadInput(f"an attribute holds a number or a name a row, got {flat.dtype} {list(flat.shape)}")
        if kind == "r" and (flat.dtype.kind == "U" or not np.isfinite(flat).all()):
            raise BadInput(f"an attribute for ranges holds finite numbers, got {flat.dtype}")
        self._distinct, codes = np.unique(flat, return_inverse=True)
        self._rows = rows[np.argsort(codes, kind="stable")]  # by value
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(self._distinct)))])

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Attribute({self.kind!r}, {len(self._distinct)} distinct values of {len(self)} rows)"

    def of(self, rows: np.ndarray) -> Attribute:
        """The attribute of some of the rows."""
        return Attribute(self.kind, [self.values[i] for i in rows.tolist()])

    def rows(self, value: Any) -> np.ndarray:
        """Numbers of the rows that pass; `value` is (lowest, highest) for `r`."""
        low, high = value if self.kind == "r" else (value, value)
        if len(self._distinct) and isinstance(low, str) != (self._distinct.dtype.kind == "U"):
            raise BadInput(f"the attribute's values are {self._distinct.dtype}, and {value!r} is none")
        first, last = np.searchsorted(self._distinct, low, "left"), np.searchsorted(self._distinct, high, "right")
        own = self._rows[self._starts[first] : self._starts[max(first, last)]]
        return np.unique(own) if self.kind == "emis" else np.sort(own)

    def mask(self, value: Any) -> np.ndarray:
        """Rows that pass, bool [n]; `value` as in `rows`."""
        mask = np.zeros(len(self), dtype=bool)
        mask[self.rows(value)] = True
        return mask

    def around(self, row: int, width: int, before: int) -> tuple[Any, Any]:
        """A range of at least `width` rows that begins some rows before the value of one."""
        value = np.asarray(self.values[row]).item()
        place = int(self._starts[np.searchsorted(self._distinct, value)])
        first = min(max(0, place - before), len(self) - width)
        ends = np.searchsorted(self._starts, [first, first + width - 1], "right") - 1
        return self._distinct[ends[0]].item(), self._distinct[ends[1]].item()


class FilteredBench:
    """Vectors with attributes, and tasks with their truth. `build` makes one, `load` reads one.

    Args:
        vectors: float32 [n, dim].
        attributes: name → `Attribute` of n values.
        queries: float32 [q, dim].
        tasks: of the queries.
        k: rows of a truth, at most.
        metric: `cosine` or `l2`.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        attributes: Mapping[str, Attribute],
        queries: np.ndarray,
        tasks: Sequence[Task],
        *,
        k: int = 100,
        metric: Literal["cosine", "l2"] = "cosine",
    ) -> None:
        if metric not in ("cosine", "l2"):
            raise BadInput(f"correlation is a ratio of distances: metric must be cosine or l2, got {metric!r}")
        vectors, queries = np.asarray(vectors), np.asarray(queries)
        if vectors.ndim != 2 or not len(vectors):
            raise BadInput(f"expected vectors [n, dim], got an array of shape {list(vectors.shape)}")
        self.vectors = checked_rows(vectors, vectors.shape[1])
        self.queries = checked_rows(queries, vectors.shape[1], what="query")
        if metric == "cosine":
            self.vectors, self.queries = normalise(self.vectors), normalise(self.queries)
        for name, attribute in attributes.items():
            if len(attribute) != len(vectors):
                raise BadInput(f"attribute {name!r} has {len(attribute)} values for {len(vectors)} rows")
        self.attributes, self.tasks, self.k, self.metric = dict(attributes), list(tasks), checked_k(k), metric

    def __repr__(self) -> str:
        return (
            f"FilteredBench({len(self.vectors)} rows × {self.vectors.shape[1]}, {len(self.tasks)} tasks on "
            f"{', '.join(self.attributes)})"
        )

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: Mapping[str, Attribute | tuple[Kind, Sequence[Any]]],
        queries: np.ndarray,
        *,
        kinds: Sequence[str] = KINDS,
        each: int = 30,
        k: int = 100,
        metric: Literal["cosine", "l2"] = "cosine",
        seed: int = 0,
    ) -> FilteredBench:
        """Draw tasks.

        Args:
            vectors: [n, dim].
            attributes: name → `Attribute`, or (kind, values).
            queries: [q, dim], which should not be among the vectors.
            kinds: of filters; those without an attribute are left out.
            each: tasks of each kind and band, where there are values that select so many rows.
            k: rows of a truth.
            metric: `cosine` or `l2`.
            seed: of the draw.
        """
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not isinstance(each, int | np.integer) or each < 1:
            wrong = (
                f"kinds are {', '.join(KINDS)}, got {unknown[0]!r}"
                if unknown
                else f"each must be 1 or more, got {each!r}"
            )
            raise BadInput(wrong)
        own = {name: one if isinstance(one, Attribute) else Attribute(*one) for name, one in attributes.items()}
        bench = cls(vectors, own, queries, [], k=k, metric=metric)
        if not len(bench.queries):
            raise BadInput("a bench needs queries, got none")
        random = np.random.default_rng(seed)
        near = nearest(bench.queries, bench.vectors, 1, metric="l2" if metric == "l2" else "dot").ids[:, 0]
        drawn = [
            (int(query), kind, name, value)
            for kind in kinds
            for band in range(len(BANDS))
            for query, name, value in bench._drawn(kind, band, each, near, random)
        ]
        bench.tasks = list(bench._judged(drawn, random))
        return bench

    def mask(self, task: Task) -> np.ndarray:
        """Rows that pass a task's filter, bool [n]."""
        return self.attributes[task.attribute].mask(task.value)

    def _drawn(
        self, kind: str, band: int, each: int, near: np.ndarray, random: np.random.Generator
    ) -> Iterator[tuple[int, str, Any]]:
        """Queries, attributes and values whose share lies in a band; every other one has a value of the nearest row."""
        names = [name for name, attribute in self.attributes.items() if attribute.kind == kind]
        if not names:
            return
        kept = tried = 0
        while kept < each and tried < each * TRIES:
            tried += 1
            query, name = int(random.integers(len(self.queries))), names[int(random.integers(len(names)))]
            attribute = self.attributes[name]
            row = int(near[query]) if kept % 2 else int(random.integers(len(self.vectors)))
            value = self._ranged(attribute, row, band, random) if kind == "r" else _one(attribute, row, random)
            if value is None:
                continue
            share = len(attribute.rows(value)) / len(self.vectors)
            if share > 0 and band_of(share) == band:
                kept += 1
                yield query, name, value

    def _ranged(self, attribute: Attribute, row: int, band: int, random: np.random.Generator) -> tuple[Any, Any] | None:
        """A range with the value of a row in it, and about as many rows as a band has."""
        low, high = BANDS[band]
        low = max(low, 1 / len(self.vectors))
        if low > high:
            return None
        width = max(1, round(len(self.vectors) * float(np.exp(random.uniform(np.log(low), np.log(high))))))
        return attribute.around(row, width, int(random.integers(width)))

    def _judged(self, drawn: Sequence[tuple[int, str, str, Any]], random: np.random.Generator) -> Iterator[Task]:
        for first in range(0, len(drawn), AT_ONCE):
            part = drawn[first : first + AT_ONCE]
            scores = self.queries[[query for query, *_ in part]] @ self.vectors.T
            if self.metric == "l2":
                own = np.square(self.queries[[query for query, *_ in part]]).sum(axis=1)
                scores = 2 * scores - np.square(self.vectors).sum(axis=1) - own[:, None]
            else:
                scores = 2 * scores - 2
            for (query, kind, name, value), line in zip(part, scores):
                passing = self.attributes[name].rows(value)
                truth = passing[_best(line[passing], self.k)]
                correlation = correlation_of(line, passing, random)
                share = len(passing) / len(self.vectors)
                yield Task(query, kind, name, value, len(passing), share, correlation, truth.astype(np.int64))

    def save(self, folder: str | Path) -> None:
        """Write the files of the study: vectors, attributes, and for each kind filters and truth."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_fvecs(folder / "database_vectors.fvecs", self.vectors)
        write_fvecs(folder / "query_vectors.fvecs", self.queries)
        columns = {name: _plain(attribute.values) for name, attribute in self.attributes.items()}
        lines = (json.dumps({name: own[i] for name, own in columns.items()}) for i in range(len(self.vectors)))
        (folder / "database_attributes.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        kinds = {name: attribute.kind for name, attribute in self.attributes.items()}
        about = {"k": self.k, "metric": self.metric, "kinds": kinds}
        (folder / "bench.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
        for kind in KINDS:
            own = [task for task in self.tasks if task.kind == kind]
            said = [
                json.dumps({"query": t.query, "attribute": t.attribute, "value": t.value, "correlation": t.correlation})
                for t in own
            ]
            (folder / f"{kind}_query_attributes.jsonl").write_text(
                "".join(f"{line}\n" for line in said), encoding="utf-8"
            )
            write_ivecs(folder / f"ground_truth_{kind}.ivecs", [task.truth for task in own])

    @classmethod
    def load(cls, folder: str | Path) -> FilteredBench:
        """Read what `save` wrote."""
        folder = Path(folder)
        if not (folder / "bench.json").is_file():
            raise BadInput(f"{folder} holds no bench.json; name a folder that FilteredBench.save wrote")
        try:
            about = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
            rows = _lines(folder / "database_attributes.jsonl")
            attributes = {name: Attribute(kind, [row[name] for row in rows]) for name, kind in about["kinds"].items()}
            bench = cls(
                read_fvecs(folder / "database_vectors.fvecs"), attributes, read_fvecs(folder / "query_vectors.fvecs"),
                [], k=about["k"], metric=about["metric"],
            )  # fmt: skip
            for kind in KINDS:
                truths = read_ivecs(folder / f"ground_truth_{kind}.ivecs")
                asked = _lines(folder / f"{kind}_query_attributes.jsonl")
                if len(truths) != len(asked):
                    raise ValueError(f"{len(asked)} filters of kind {kind} and {len(truths)} answers")
                for one, truth in zip(asked, truths):
                    value = tuple(one["value"]) if kind == "r" else one["value"]
                    matches = len(attributes[one["attribute"]].rows(value))
                    bench.tasks.append(
                        Task(one["query"], kind, one["attribute"], value, matches, matches / len(bench.vectors),
                             one["correlation"], truth.astype(np.int64))
                    )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{folder} does not hold a bench ({error}); build and save it again") from None
        return bench


def band_of(share: float) -> int:
    """Number of the band in which a share of rows lies."""
    return next(i for i, (low, high) in enumerate(BANDS) if share <= high)


def correlation_of(scores: np.ndarray, passing: np.ndarray, random: np.random.Generator) -> float:
    """Mean distance of the nearest passing rows over that of the nearest of as many random rows.

    Args:
        scores: of all rows with one query, negated squares of distances.
        passing: numbers of the rows that pass.
        random: draws as many others.
    """
    among = random.choice(len(scores), len(passing), replace=False)
    near, other = (np.sqrt(np.maximum(0, np.sort(-scores[rows])[:NEAREST])).mean() for rows in (passing, among))
    return float(near / other) if other > 0 else 1.0


def _one(attribute: Attribute, row: int, random: np.random.Generator) -> Any:
    """A value of a row."""
    value = attribute.values[row]
    if attribute.kind == "emis":
        if not len(value):
            return None
        value = value[int(random.integers(len(value)))]
    return value.item() if hasattr(value, "item") else value


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest, best first; of equals the first."""
    if len(scores) > 4 * k:
        cut = np.partition(scores, len(scores) - k)[len(scores) - k]
        some = np.flatnonzero(scores >= cut)
        return some[np.argsort(-scores[some], kind="stable")[:k]]
    return np.argsort(-scores, kind="stable")[:k]


def _plain(values: Sequence[Any]) -> list[Any]:
    return [np.asarray(one).tolist() for one in values]


def _lines(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
