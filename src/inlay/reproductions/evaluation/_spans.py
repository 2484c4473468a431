"""Spans of real text to fill a corpus with: as many passages as wanted, each a run of words that stands in some text.

A span begins anywhere in a text and is as long as drawn. From three million words a million spans overlap each other
many times, so they are not as different as a million documents; but each is text that somebody wrote, unlike rows made
of other rows.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inlay.errors import BadInput

__all__ = ["Spans"]


class Spans:
    """Texts by number.

    Args:
        data: the folder of data sets.
        files: under it: `.jsonl.gz` with a field `text`, or `.tsv.gz` with a column of that name.
        n: spans.
        words: least and most of a span.
        seed: of what is drawn.
    """

    def __init__(self, data: Path, files: Sequence[str], n: int, words: tuple[int, int], seed: int) -> None:
        streams = [text.split() for name in files for text in _texts(data / name)]
        streams = [stream for stream in streams if len(stream) >= words[0]]
        if not streams:
            raise BadInput(f"no text of {words[0]} words in {', '.join(files)} under {data}; give longer texts")
        self.words = [word for stream in streams for word in stream]
        sizes = np.array([len(stream) for stream in streams])
        first = np.cumsum(sizes) - sizes
        random = np.random.default_rng(seed)
        of = random.choice(len(sizes), n, p=sizes / sizes.sum())
        lengths = np.minimum(random.integers(words[0], words[1] + 1, n), sizes[of])
        self.starts = first[of] + (random.random(n) * (sizes[of] - lengths + 1)).astype(np.int64)
        self.stops = self.starts + lengths
        self.ids = [f"span-{i}" for i in range(n)]

    def __getitem__(self, key: str) -> str:
        """The text of an id."""
        i = int(key.removeprefix("span-"))
        return " ".join(self.words[self.starts[i] : self.stops[i]])


def _texts(path: Path) -> list[str]:
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")
    if path.name.endswith(".jsonl.gz"):
        return [json.loads(line).get("text") or "" for line in lines]
    column = lines[0].split("\t").index("text")
    return [line.split("\t")[column] for line in lines[1:]]
