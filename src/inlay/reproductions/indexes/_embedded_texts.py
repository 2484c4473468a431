"""Real texts as dense rows: by the encoder in the box, by its token table alone, and by latent semantic analysis.

Queries are not among the rows: those of a judged set, or texts that are kept out.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput

__all__ = ["ENCODERS", "Texts", "encoded", "judged", "labelled", "ndcg"]

ENCODERS = ("box", "box, table alone", "LSA-256")
HELD_OUT = 1000
MOST = 4000  # documents of a table


class Texts(NamedTuple):
    """Documents to insert and queries to ask.

    Args:
        name: of the set.
        documents: texts.
        queries: texts.
        labels: category of each document, int64; empty where there are none.
        grades: uint8 [queries, documents], how relevant each document is; empty where nothing is judged.
    """

    name: str
    documents: list[str]
    queries: list[str]
    labels: np.ndarray
    grades: np.ndarray


def judged(data: Path, name: str) -> Texts:
    """A retrieval set with all its judged queries, to learn from or to test by: nothing is learnt here."""
    from inlay.evaluation.retrieval_set import RetrievalSet

    others = [split for split in ("train", "dev") if (data / name / f"qrels_{split}.tsv").exists()]
    sets = [RetrievalSet.load(data / name, split) for split in ("test", *others)]
    number = {key: i for i, key in enumerate(sets[0].ids)}
    queries = {query: text for one in sets for query, text in one.queries.items()}
    grades = np.zeros((len(queries), len(number)), dtype=np.uint8)
    row = {query: i for i, query in enumerate(queries)}
    for one in sets:
        for query, own in one.qrels.items():
            for document, grade in own.items():
                if document in number:
                    grades[row[query], number[document]] = max(grade, 0)
    return Texts(name, sets[0].texts, list(queries.values()), np.empty(0, dtype=np.int64), grades)


def labelled(data: Path, name: str, file: str, label: str, fields: tuple[str, ...]) -> Texts:
    """A table of texts with categories, or a random part of it; some texts are kept out, to ask with.

    Args:
        data: folder of data sets.
        name: of the set.
        file: tab-separated with a header, or JSON lines.
        label: column of the category.
        fields: columns that make the text.
    """
    path = data / file
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")
    if ".jsonl" in file:
        cells = [json.loads(line) for line in lines]
    else:
        columns = lines[0].split("\t")
        cells = [dict(zip(columns, line.split("\t"))) for line in lines[1:]]
    seen: dict[str, str] = {}  # a text that stands there twice would find itself
    for row in cells:
        seen.setdefault(" ".join(row[field] for field in fields).strip(), row[label])
    texts, labels = list(seen), np.unique(list(seen.values()), return_inverse=True)[1]
    shuffled = np.random.default_rng(0).permutation(len(texts))
    asked, kept = np.sort(shuffled[:HELD_OUT]), np.sort(shuffled[HELD_OUT:][:MOST])
    none = np.empty((0, 0), dtype=np.uint8)
    return Texts(name, [texts[i] for i in kept], [texts[i] for i in asked], labels[kept].astype(np.int64), none)


def encoded(texts: Texts, encoder: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of documents and of queries by one of `ENCODERS`, float32, at length 1."""
    if encoder == "LSA-256":
        return _lsa(texts)
    from inlay.encoders.box import Box

    box = Box(context=encoder == "box")
    return box.encode_document(texts.documents), box.encode_query(texts.queries)


def ndcg(grades: np.ndarray) -> Callable[[np.ndarray], float]:
    """Mean nDCG of found documents [queries, k], over queries with a relevant one."""
    ideal = -np.sort(-grades.astype(np.float64), axis=1)
    judged = ideal[:, 0] > 0

    def judge(ids: np.ndarray) -> float:
        discount = 1 / np.log2(np.arange(2, ids.shape[1] + 2))
        gains = np.where(ids >= 0, np.take_along_axis(grades, np.maximum(ids, 0), axis=1), 0)
        best = ideal[judged, : ids.shape[1]] @ discount
        return float(((gains[judged] @ discount) / best).mean())

    return judge


def _lsa(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """tf-idf, factorised: fitted to the documents alone."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    from inlay.kernels.dense import normalise

    words = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english", dtype=np.float32)
    counts = words.fit_transform(texts.documents)
    factors = TruncatedSVD(256, random_state=0)
    return normalise(factors.fit_transform(counts)), normalise(factors.transform(words.transform(texts.queries)))
