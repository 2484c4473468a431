"""Captions of pictures (Flickr8k) in frozen rows of the encoder in the box, for small towers to learn from.

Two tasks. *Known items*: a picture is an item with a trained row of its own, as a thing in a shop is; its first three
captions are queries to learn from, the fourth is to choose settings by, and the fifth to test on. *Items as texts*:
every caption is an item, whose row is a function of its text; the towers learn from pictures of the training split but
its last 500, which are to choose settings by, and are tested on the 1,000 of the dev split.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput

__all__ = ["AsTexts", "Captions", "KnownItems"]

K = 100
EACH = 5  # captions of a picture
CHOOSE = 500  # pictures
ASKED = 2  # captions of a picture that are queries, where captions are items
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


class Captions(NamedTuple):
    """Texts, five a picture and one picture after another, and the split of each picture."""

    texts: list[str]
    splits: np.ndarray

    @classmethod
    def read(cls, data: Path) -> Captions:
        """From the data folder."""
        path = data / "pairs" / "flickr8k_captions.tsv.gz"
        if not path.is_file():
            raise BadInput(f"there is no {path}; give the data folder that holds it")
        pictures: dict[tuple[str, str], list[str]] = {}
        for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()[1:]:
            split, picture, _, caption = line.split("\t")
            pictures.setdefault((split, picture), []).append(caption)
        whole = {key: own for key, own in pictures.items() if len(own) == EACH}
        return cls([text for own in whole.values() for text in own], np.array([split for split, _ in whole]))


class KnownItems:
    """Pictures as items with rows of their own; see the module.

    Args:
        captions: texts.
        rows: float32 [texts, width], theirs.
    """

    def __init__(self, captions: Captions, rows: np.ndarray) -> None:
        self.count = len(captions.splits)
        self.rows = rows.reshape(self.count, EACH, -1)

    def draw(self, batch: int) -> Draw:
        """Captions to learn from and the numbers of their pictures, no picture twice."""

        def drawn(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            chosen = random.choice(self.count, batch, replace=False)
            return self.rows[chosen, random.integers(EACH - 2, size=batch)], chosen

        return drawn

    @property
    def items(self) -> np.ndarray:
        """What the item side of the towers is given for all items."""
        return np.arange(self.count)

    def queries(self, test: bool) -> np.ndarray:
        """Rows of the queries, one an item."""
        return self.rows[:, EACH - 1 if test else EACH - 2]

    def recalls(self, queries: np.ndarray, items: np.ndarray, test: bool) -> dict[int, float]:
        """Share of queries whose picture is among the 10 and the 100 best items, all of them scored."""
        dots = queries @ items.T
        ahead = (dots >= np.diag(dots)[:, None]).sum(axis=1) - 1  # of equal codes the right one comes last
        return {k: float((ahead < k).mean()) for k in (10, K)}

    def recall_of(self, best: np.ndarray) -> float:
        """Of ids [queries, 100] that an index found for the test queries."""
        return float((best == np.arange(self.count)[:, None]).any(axis=1).mean())


class AsTexts:
    """Captions as items; see the module. Arguments as of `KnownItems`."""

    def __init__(self, captions: Captions, rows: np.ndarray) -> None:
        self.rows, self.count = rows, len(rows)
        train = np.flatnonzero(captions.splits == "train")
        self._learn = train[:-CHOOSE]
        self._parts = {False: train[-CHOOSE:], True: np.flatnonzero(captions.splits == "dev")}

    def draw(self, batch: int) -> Draw:
        """Two different captions of each of some pictures, no picture twice."""

        def drawn(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            chosen = random.choice(self._learn, batch, replace=False) * EACH
            first = random.integers(EACH, size=batch)
            second = (first + 1 + random.integers(EACH - 1, size=batch)) % EACH
            return self.rows[chosen + first], self.rows[chosen + second]

        return drawn

    @property
    def items(self) -> np.ndarray:
        """What the item side of the towers is given for all items."""
        return self.rows

    def _asked(self, test: bool) -> np.ndarray:
        return (self._parts[test][:, None] * EACH + np.arange(ASKED)).ravel()

    def queries(self, test: bool) -> np.ndarray:
        """Rows of the queries, two captions a picture."""
        return self.rows[self._asked(test)]

    def recalls(self, queries: np.ndarray, items: np.ndarray, test: bool) -> dict[int, float]:
        """Share of the other four captions among the 10 and the 100 best items, the query itself left out."""
        asked, found = self._asked(test), {10: 0.0, K: 0.0}
        for low in range(0, len(asked), 500):
            some = asked[low : low + 500]
            dots = queries[low : low + 500] @ items.T
            dots[np.arange(len(some)), some] = -np.inf
            best = np.argpartition(-dots, K, axis=1)[:, :K]
            best = np.take_along_axis(best, np.argsort(-np.take_along_axis(dots, best, axis=1), axis=1), axis=1)
            right = best // EACH == some[:, None] // EACH
            for k in found:
                found[k] += float(right[:, :k].sum()) / (EACH - 1)
        return {k: total / len(asked) for k, total in found.items()}
