"""Vectors with attributes for `filtered_bench`: of real texts, of a file, or made up for rows that have none.

Texts are sentences, questions, captions, headlines and requests. Where a text is from goes with what it says, how long
it is hardly does, and a cluster of the vectors themselves goes with nothing else: so filters of every correlation come
about.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.filtered_bench import Attribute

__all__ = ["clusters", "made_up", "of_texts", "read_attributes", "texts"]

LONGEST = 400  # characters of a text
SPLIT = re.compile(r"(?<=[.!?])\s+")
WORDS = re.compile(r"[a-z]+")
COMMON = 2000  # words that a text may be asked for
GRAINS = (3, 30, 300)  # clusters, coarse to fine
QUERIES = 2000
TABLES = {
    "pairs/qqp.tsv.gz": ("qqp", None, ("text1", "text2")),
    "pairs/flickr8k_captions.tsv.gz": ("captions", None, ("caption",)),
    "classification/ag_news.tsv.gz": ("news", "label", ("title", "text")),
    "classification/clinc150.tsv.gz": ("requests", "label", ("text",)),
    "classification/banking77.tsv.gz": ("banking", "label", ("text",)),
    "classification/sentence_polarity.tsv.gz": ("reviews", "label", ("text",)),
}


def texts(data: Path) -> Iterator[tuple[str, str]]:
    """Texts and where they are from, in the order of the files; each text once."""
    seen: set[str] = set()

    def fresh(text: str) -> bool:
        if len(text) > LONGEST or text.count(" ") < 2 or text in seen:
            return False
        seen.add(text)
        return True

    for document in map(json.loads, _lines(data / "text" / "english_text.jsonl.gz")):
        source = document["source"]
        if source == "brown":  # its second letter is the genre
            source += " " + document["_id"].split("/")[1][1]
        for line in document["text"].splitlines():
            yield from ((sentence, source) for sentence in SPLIT.split(line) if fresh(sentence))
    for place, (source, label, columns) in TABLES.items():
        lines = _lines(data / place)
        names = next(lines).rstrip("\n").split("\t")
        at = [names.index(column) for column in columns]
        for line in lines:
            values = line.rstrip("\n").split("\t")
            own = f"{source} {values[names.index(label)]}" if label else source
            yield from ((values[i], own) for i in at if fresh(values[i]))


def of_texts(
    data: Path, rows: int, *, queries: int = QUERIES, seed: int = 0, progress: bool = False
) -> tuple[np.ndarray, dict[str, Attribute], np.ndarray]:
    """Vectors float32 [rows, dim], their attributes, and vectors of other texts float32 [queries, dim].

    By the encoder in the box without context, which makes thousands a second.
    """
    import inlay

    every = list(texts(data))
    rows = min(rows, len(every) - queries)
    if rows < 100:
        raise BadInput(f"{data} has {len(every)} short texts, which are too few; name the folder of data sets")
    chosen = np.random.default_rng(seed).permutation(len(every))[: rows + queries]
    kept, asked = np.sort(chosen[:rows]), chosen[rows:]
    own = [every[i][0] for i in kept]
    encoder = inlay.encoder("box?context=false")
    vectors = np.asarray(encoder.encode_document(own, progress=progress), dtype=np.float32)
    words = [set(WORDS.findall(text.lower())) for text in own]
    common = {word for word, _ in Counter(word for bag in words for word in bag).most_common(COMMON)}
    attributes = {
        "source": Attribute("em", [every[i][1] for i in kept]),
        "length": Attribute("em", [min(len(text) // 10, 30) for text in own]),
        "position": Attribute("r", kept.tolist()),
        "characters": Attribute("r", [len(text) for text in own]),
        "words": Attribute("emis", [sorted(bag & common) for bag in words]),
        "clusters": clusters(vectors, seed=seed),
    }
    return vectors, attributes, np.asarray(encoder.encode_query([every[i][0] for i in asked]), dtype=np.float32)


def clusters(vectors: np.ndarray, *, seed: int = 0) -> Attribute:
    """The clusters a row belongs to, one of 3, one of 30 and one of 300."""
    from inlay.codecs.kmeans import assign, kmeans
    from inlay.kernels.dense import normalise

    rows, random = normalise(vectors), np.random.default_rng(seed)
    labels = []
    for grain in GRAINS:
        some = np.sort(random.permutation(len(rows))[: 64 * grain])
        centres = kmeans(rows[some], min(grain, len(rows)), iterations=8, seed=seed)
        labels.append([f"{grain}/{label}" for label in assign(rows, centres).tolist()])
    return Attribute("emis", list(zip(*labels)))


def made_up(vectors: np.ndarray, *, seed: int = 0) -> dict[str, Attribute]:
    """Attributes for rows that have none: a number and a group at random, and the clusters they are in."""
    random = np.random.default_rng(seed)
    return {
        "group": Attribute("em", (1 / np.maximum(random.random(len(vectors)), 1e-4)).astype(int).tolist()),
        "number": Attribute("r", random.random(len(vectors)).tolist()),
        "clusters": clusters(vectors, seed=seed),
    }


def read_attributes(path: str | Path, count: int) -> dict[str, Attribute]:
    """Attributes of JSON lines, an object a row: lists are sets, numbers are for ranges, all else for exact matches."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; name JSON lines, one object a row")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise BadInput(f"line {number} of {path} is no JSON ({error})") from None
    if len(rows) != count:
        raise BadInput(f"{path} has {len(rows)} lines for {count} rows; give one for each")
    attributes = {}
    for name in rows[0] if rows else ():
        values: list[Any] = [row.get(name) if isinstance(row, dict) else None for row in rows]
        if all(isinstance(value, list) for value in values):
            attributes[name] = Attribute("emis", values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            attributes[name] = Attribute("r", values)
        else:
            attributes[name] = Attribute("em", [str(value) for value in values])
    return attributes


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from lines
