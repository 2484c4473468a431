"""Questions and what answers them, of four kinds of English text, split so that no text is in two parts.

- captions: a picture's first caption finds the other four.
- questions: a question finds those that were marked as asking the same.
- papers: a title finds the first 600 characters of its abstract.
- words: a word finds the definitions of its senses.

Sentences of news and books stand among the documents and answer nothing. Texts are compared without regard to case and
spaces; a query that is also a document is left out. Queries and documents that are linked by a pair, however far, make
one group, and a group is wholly in one part; all documents of all parts are searched.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput

__all__ = ["MixedPairs", "mixed_pairs"]

SOURCES = ("captions", "questions", "papers", "words")
WORDS_TAKEN = 8  # one word in so many
SENTENCES = 6000
ABSTRACT = 600  # characters of an abstract
HELD = {"test": (0, 12), "dev": (12, 20)}  # hundredths of the groups; the rest is learnt from

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")


class MixedPairs(NamedTuple):
    """Texts, and which belong together.

    Attributes:
        queries: texts.
        documents: texts.
        pairs: int64 [n, 2], numbers of a query and of a document that answers it.
        source: of each query, a place in `SOURCES`.
        part: of each query, `train`, `dev` or `test`.
    """

    queries: list[str]
    documents: list[str]
    pairs: np.ndarray
    source: np.ndarray
    part: np.ndarray


def mixed_pairs(data: Path) -> MixedPairs:
    """All of it, from a folder of data sets."""
    found = [(place, q, d) for place, name in enumerate(SOURCES) for q, d in _READERS[name](data)]
    told: dict[str, tuple[int, str]] = {}
    for _, _, document in found:
        told.setdefault(_key(document), (len(told), document))
    asked: dict[str, tuple[int, str]] = {}
    source: list[int] = []
    pairs: list[tuple[int, int]] = []
    for place, query, document in found:
        key = _key(query)
        if not key or not _key(document) or key in told:
            continue
        if key not in asked:
            asked[key] = (len(asked), query)
            source.append(place)
        pairs.append((asked[key][0], told[_key(document)][0]))
    for sentence in _sentences(data, SENTENCES):
        if _key(sentence) not in asked:
            told.setdefault(_key(sentence), (len(told), sentence))
    links = np.unique(np.array(pairs, dtype=np.int64), axis=0)
    queries, documents = ([text for _, text in own.values()] for own in (asked, told))
    return MixedPairs(queries, documents, links, np.array(source), _parts(links, queries, len(documents)))


def _parts(links: np.ndarray, queries: list[str], documents: int) -> np.ndarray:
    """Part of each query: groups are dealt out by a hash of their first query."""
    parent = list(range(len(queries) + documents))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for query, document in links.tolist():
        a, b = root(query), root(len(queries) + document)
        parent[max(a, b)] = min(a, b)  # so that a group's root is its first query
    names = []
    for query in range(len(queries)):
        place = zlib.crc32(_key(queries[root(query)]).encode()) % 100
        names.append(next((name for name, (low, high) in HELD.items() if low <= place < high), "train"))
    return np.array(names)


def _key(text: str) -> str:
    return " ".join(text.lower().split())


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()


def _captions(data: Path) -> Iterator[tuple[str, str]]:
    pictures: dict[str, list[str]] = {}
    for line in _lines(data / "pairs" / "flickr8k_captions.tsv.gz")[1:]:
        _, picture, _, caption = line.split("\t")
        pictures.setdefault(picture, []).append(caption)
    for first, *others in pictures.values():
        for other in others:
            yield first, other


def _questions(data: Path) -> Iterator[tuple[str, str]]:
    for line in _lines(data / "pairs" / "qqp.tsv.gz")[1:]:
        label, one, other = line.split("\t")
        if label == "1":
            yield one, other


def _papers(data: Path) -> Iterator[tuple[str, str]]:
    for line in _lines(data / "scifact" / "corpus.jsonl.gz"):
        paper = json.loads(line)
        yield paper["title"], paper["text"][:ABSTRACT]


def _words(data: Path) -> Iterator[tuple[str, str]]:
    for line in _lines(data / "wn18rr" / "entities.tsv.gz")[1:]:
        _, _, lemmas, gloss = line.split("\t")
        meaning = gloss.split('; "')[0]  # what follows are examples, with the word in them
        for lemma in lemmas.split("|"):
            if not zlib.crc32(lemma.encode()) % WORDS_TAKEN:
                yield lemma.replace("_", " "), meaning


_READERS = {"captions": _captions, "questions": _questions, "papers": _papers, "words": _words}


def _sentences(data: Path, count: int) -> list[str]:
    """Sentences of 40 to 300 characters, evenly from all over the text."""
    kept: list[str] = []
    for line in _lines(data / "text" / "english_text.jsonl.gz"):
        for paragraph in json.loads(line)["text"].split("\n"):
            kept.extend(one for one in _SENTENCE.split(paragraph.strip()) if 40 <= len(one) <= 300)
    return [kept[i] for i in np.linspace(0, len(kept) - 1, min(count, len(kept))).astype(int)]
