"""Texts as rows by encoders that need no weights, by those in the package, and by MiniLM where it is installed.

Weight-free encoders learn their vocabulary from the first list of texts they are given. All rows are at length 1.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.kernels.dense import normalise

__all__ = ["Utterances", "in_package", "lsa", "minilm", "tfidf", "utterances"]

Encode = Callable[..., list[np.ndarray]]


class Utterances(NamedTuple):
    """Short texts with labels, each once: to learn from, and to judge by.

    Args:
        train: texts.
        test: texts.
        train_labels: int64, numbers of classes.
        test_labels: the same numbers.
    """

    train: list[str]
    test: list[str]
    train_labels: np.ndarray
    test_labels: np.ndarray


def utterances(data: Path, name: str) -> Utterances:
    """A set of `classification/`, splits `train` and `test`; a test text that stands in train too is left out."""
    path = data / "classification" / f"{name}.tsv.gz"
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")[1:]
    seen: dict[str, tuple[str, str]] = {}
    cells = [line.split("\t") for line in lines]
    for part in ("train", "test"):
        for split, label, text in cells:
            if split == part:
                seen.setdefault(text.strip().lower(), (split, label))
    labels = np.unique([label for _, label in seen.values()], return_inverse=True)[1]
    side = np.array([split == "test" for split, _ in seen.values()])
    texts = list(seen)
    return Utterances(
        [texts[i] for i in np.flatnonzero(~side)], [texts[i] for i in np.flatnonzero(side)],
        labels[~side].astype(np.int64), labels[side].astype(np.int64),
    )  # fmt: skip


def tfidf(first: Sequence[str], *others: Sequence[str], characters: bool = False) -> list[np.ndarray]:
    """Word counts, or counts of four letters, weighed; [n, vocabulary] each."""
    made = _counts(first, others, characters)
    return [normalise(one.toarray()) for one in made]


def lsa(dims: int, first: Sequence[str], *others: Sequence[str], characters: bool = False) -> list[np.ndarray]:
    """The same, factorised to so many dimensions by the first list."""
    from sklearn.decomposition import TruncatedSVD

    counts = _counts(first, others, characters)
    factors = TruncatedSVD(dims, random_state=0).fit(counts[0])
    return [normalise(factors.transform(one)) for one in counts]


def in_package(name: str, *lists: Sequence[str]) -> list[np.ndarray]:
    """An encoder by its name; each list as documents."""
    from inlay.encoders.names import encoder

    made = encoder(name)
    return [normalise(np.asarray(made.encode_document(list(texts)))) for texts in lists]


def minilm(*lists: Sequence[str]) -> list[np.ndarray] | None:
    """all-MiniLM-L6-v2 in float32, texts cut at 256 tokens; None where its package is missing."""
    from inlay.encoders.minilm import minilm_folder

    try:
        folder = minilm_folder()
    except MissingExtra:
        return None
    from inlay.training.transformer import Transformer

    model = Transformer(folder)
    return [normalise(model.encode(list(texts), batch_size=32)) for texts in lists]


def _counts(first: Sequence[str], others: Sequence[Sequence[str]], characters: bool) -> list:  # type: ignore[type-arg]
    from sklearn.feature_extraction.text import TfidfVectorizer

    way = {"analyzer": "char_wb", "ngram_range": (4, 4)} if characters else {"stop_words": None}
    vectors = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32, **way)
    return [vectors.fit_transform(first), *(vectors.transform(one) for one in others)]
