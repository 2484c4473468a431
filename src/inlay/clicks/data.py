"""Click logs as numbered categories, counts and labels, split into training, validation and test."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inlay.errors import BadInput
from inlay.tables.keyspace import KeySpace

__all__ = ["ClickSplits", "Clicks", "criteo", "movielens"]

COUNTS, CATEGORIES = 13, 26


@dataclass
class Clicks:
    """Rows of a click log.

    Args:
        ids: int64 [n, fields], global ids of a key space.
        numbers: float32 [n, m]; m may be 0.
        labels: float32 [n], 1 where it was clicked.
    """

    ids: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        self.ids = np.ascontiguousarray(self.ids, dtype=np.int64)
        self.numbers = np.ascontiguousarray(self.numbers, dtype=np.float32)
        self.labels = np.ascontiguousarray(self.labels, dtype=np.float32)
        if not len(self.ids) == len(self.numbers) == len(self.labels):
            raise BadInput(
                f"ids, numbers, labels differ in rows: {self.ids.shape, self.numbers.shape, self.labels.shape}"
            )
        if not np.isfinite(self.numbers).all():
            raise BadInput("numbers must be finite; fill what is missing first")
        if not np.isin(self.labels, (0, 1)).all():
            raise BadInput("labels must be 0 or 1")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, at: np.ndarray) -> Clicks:
        """The rows at some places, in that order."""
        return Clicks(self.ids[at], self.numbers[at], self.labels[at])

    def halves(self, share: float = 0.5, *, seed: int = 0) -> tuple[Clicks, Clicks]:
        """Two random parts, the first with that share of the rows, of clicks and non-clicks alike."""
        first = np.zeros(len(self), dtype=bool)
        random = np.random.default_rng(seed)
        for label in (0, 1):
            at = random.permutation(np.flatnonzero(self.labels == label))
            first[at[: round(share * len(at))]] = True
        return self.take(np.flatnonzero(first)), self.take(np.flatnonzero(~first))


@dataclass
class ClickSplits:
    """A click log in three parts, and what its ids stand for."""

    space: KeySpace
    train: Clicks
    valid: Clicks
    test: Clicks
    name: str

    def __post_init__(self) -> None:
        for what in ("train", "valid", "test"):
            part: Clicks = getattr(self, what)
            if part.ids.ndim != 2 or part.ids.shape[1] != self.space.num_fields:
                raise BadInput(f"{what} has ids {part.ids.shape}, the key space {self.space.num_fields} fields")
            if not 0 < part.labels.sum() < len(part):
                raise BadInput(f"the {what} part of {self.name} needs rows with and without a click")

    @property
    def num_numbers(self) -> int:
        """Columns of numbers."""
        return self.train.numbers.shape[1]


def criteo(folder: str | Path, *, min_count: int = 2, seed: int = 0) -> ClickSplits:
    """`criteo.tsv.gz`: a column `split` (train, dev, test), label, 13 counts and 26 categories; empty is missing.

    A count x becomes log(x + 1) (counts below 0, of which there are a few, are taken as 0), a missing one the mean of
    its column in training; each count that is ever missing in training also has a column that says so. Categories are
    numbered by their frequency in training. Everything is fitted on the training part alone.

    Args:
        folder: holds the file.
        min_count: categories seen less often in training share their field's id 0.
        seed: unused, as the file has its own split; all loaders take one.
    """
    path = Path(folder) / "criteo.tsv.gz"
    if not path.is_file():
        raise BadInput(f"there is no {path}; name the folder that holds criteo.tsv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        lines.readline()
        rows = [line.rstrip("\n").split("\t") for line in lines]
    wide = 2 + COUNTS + CATEGORIES
    if not rows or {len(row) for row in rows} != {wide}:
        raise BadInput(f"{path} must have {wide} columns a row, got {sorted({len(row) for row in rows})}")
    split = np.array([row[0] for row in rows])
    labels = np.array([row[1] for row in rows], dtype=np.float32)
    raw = np.array([[cell or "nan" for cell in row[2 : 2 + COUNTS]] for row in rows], dtype=np.float64)
    logs = np.log1p(np.maximum(raw, 0))
    in_train = split == "train"
    mean = np.nanmean(logs[in_train], axis=0)
    missing = np.isnan(logs)
    flags = missing[:, missing[in_train].any(0)]
    numbers = np.concatenate([np.where(missing, mean, logs), flags], axis=1)
    columns = {f"C{c + 1}": [row[2 + COUNTS + c] for row in rows] for c in range(CATEGORIES)}
    return _splits(
        columns, numbers, labels, [np.flatnonzero(split == part) for part in ("train", "dev", "test")], min_count,
        "criteo_sample",
    )  # fmt: skip


def movielens(folder: str | Path, *, min_count: int = 2, seed: int = 0) -> ClickSplits:
    """MovieLens-100K (`u.data`, `u.user`) or -1M (`ratings.dat`, `users.dat`), from the folder it was unpacked to.

    Ratings of 3 are dropped, 4 and 5 are clicks, 1 and 2 are not. Fields: user, item, age, gender, occupation, zip; no
    numbers. Rows are split 8:1:1 at random.

    Args:
        folder: of the data set. It may not be redistributed; get it from grouplens.org.
        min_count: values seen less often in training share their field's id 0.
        seed: of the split.
    """
    folder = Path(folder)
    if (folder / "u.data").is_file():
        name, order = "ml-100k", (1, 2, 3, 4)
        ratings, users = _cells(folder / "u.data", "\t"), _cells(folder / "u.user", "|")
    elif (folder / "ratings.dat").is_file():
        name, order = "ml-1m", (2, 1, 3, 4)  # its users are id, gender, age, …
        ratings, users = _cells(folder / "ratings.dat", "::"), _cells(folder / "users.dat", "::")
    else:
        raise BadInput(f"{folder} holds neither u.data (ml-100k) nor ratings.dat (ml-1m)")
    about = {user[0]: [user[i] for i in order] for user in users}
    kept = [row for row in ratings if row[2] != "3"]
    labels = np.array([float(row[2]) >= 4 for row in kept], dtype=np.float32)
    fields = [[row[0], row[1], *about[row[0]]] for row in kept]
    names = ("user", "item", "age", "gender", "occupation", "zip")
    columns = {field: [row[i] for row in fields] for i, field in enumerate(names)}
    shuffled = np.random.default_rng(seed).permutation(len(kept))
    parts = np.split(shuffled, [int(0.8 * len(kept)), int(0.9 * len(kept))])
    return _splits(columns, np.zeros((len(kept), 0)), labels, parts, min_count, name)


def _cells(path: Path, cut: str) -> list[list[str]]:
    return [line.split(cut) for line in path.read_text(encoding="latin-1").splitlines() if line]


def _splits(
    columns: Mapping[str, Sequence[str]],
    numbers: np.ndarray,
    labels: np.ndarray,
    parts: Sequence[np.ndarray],
    min_count: int,
    name: str,
) -> ClickSplits:
    space = KeySpace.fit(
        {field: [column[i] for i in parts[0]] for field, column in columns.items()}, min_count=min_count
    )
    ids = space.ids(columns)
    train, valid, test = (Clicks(ids[at], numbers[at], labels[at]) for at in parts)
    return ClickSplits(space, train, valid, test, name)
