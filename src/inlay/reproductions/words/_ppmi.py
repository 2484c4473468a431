"""Word vectors to try a store on: PPMI over a window, factorised (Levy, Goldberg and Dagan 2015), in a minute.

Nothing of a word's spelling goes into its vector, so what a store makes of a misspelling comes from the store.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inlay.errors import BadInput, MissingExtra

__all__ = ["WORD", "factorised", "running_words", "vectors"]

WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
# English text of the data folder, with the fields that hold it.
TEXTS = {
    "text/english_text.jsonl.gz": ("text",),
    "scifact/corpus.jsonl.gz": ("title", "text"),
    "cranfield/corpus.jsonl.gz": ("title", "text"),
    "cosqa/corpus.jsonl.gz": ("text",),
    "classification/ag_news.tsv.gz": (),
    "classification/sentence_polarity.tsv.gz": (),
    "wordnet_nouns/synsets.tsv.gz": (),
    "wn18rr/entities.tsv.gz": (),
}


def running_words(data: Path) -> Iterator[list[str]]:
    """Words of each line of text, in lower case."""
    for name, fields in TEXTS.items():
        path = data / name
        if not path.exists():
            raise BadInput(f"{path} is not there; the vectors are made of it")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = " ".join(str(json.loads(line).get(field, "")) for field in fields) if fields else line
                yield WORD.findall(text.replace("_", " ").lower())


def vectors(
    data: Path, dim: int = 100, *, least: int = 2, contexts: int = 10_000, window: int = 4, seed: int = 0
) -> tuple[list[str], np.ndarray]:
    """Words by falling frequency (then alphabet), and their vectors, float32 [words, dim].

    Args:
        data: folder of data sets.
        dim: width.
        least: occurrences of a word that gets a vector.
        contexts: most frequent words that count as contexts.
        window: words to each side, weighed by one over their distance.
        seed: of the randomised factorisation.
    """
    texts = list(running_words(data))
    counts = Counter(word for text in texts for word in text)
    words = sorted((word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word))
    number = {word: i for i, word in enumerate(words)}
    # -1 for rare words, and between texts so that no window spans two.
    breaks = [-1] * window
    ids = np.fromiter((i for text in texts for i in [*(number.get(word, -1) for word in text), *breaks]), np.int32)
    del texts
    return words, factorised(ids, len(words), min(contexts, len(words)), dim, window=window, seed=seed)


def factorised(ids: np.ndarray, words: int, contexts: int, dim: int, *, window: int, seed: int) -> np.ndarray:
    """Vectors of words that stand near each other, float32 [words, dim].

    Args:
        ids: running words, integers; negative ones are no word, and `window` of them part texts.
        words: how many there are.
        contexts: the first so many count as contexts.
        dim: width.
        window: words to each side, weighed by one over their distance.
        seed: of the randomised factorisation.
    """
    try:
        from scipy import sparse
    except ImportError:
        raise MissingExtra("word vectors by factorisation", "sparse") from None
    shape = (words, contexts)
    near = sparse.csr_array(shape, dtype=np.float32)
    for step in range(1, window + 1):
        for left, right in ((ids[:-step], ids[step:]), (ids[step:], ids[:-step])):
            kept = (left >= 0) & (right >= 0) & (right < contexts)
            ones = np.full(int(kept.sum()), 1 / step, dtype=np.float32)
            near = near + sparse.coo_array((ones, (left[kept], right[kept])), shape=shape).tocsr()
    of_word = np.asarray(near.sum(axis=1)).ravel()
    of_context = np.asarray(near.sum(axis=0)).ravel() ** 0.75
    near = near.tocoo()
    row, column = near.coords
    pmi = np.log(near.data * of_context.sum() / (of_word[row] * of_context[column]))
    kept = pmi > 0
    ppmi = sparse.coo_array((pmi[kept].astype(np.float32), (row[kept], column[kept])), shape=shape).tocsr()
    return _leading(ppmi, dim, seed)


def _leading(matrix: object, dim: int, seed: int) -> np.ndarray:
    """U · √S of the leading part, by subspace iteration from a random start; float32 [n, dim]."""
    rng = np.random.default_rng(seed)
    right = rng.standard_normal((matrix.shape[1], dim + 20)).astype(np.float32)  # type: ignore[attr-defined]
    for _ in range(2):
        left, _ = np.linalg.qr(matrix @ right)  # type: ignore[operator]
        right, _ = np.linalg.qr(matrix.T @ left)  # type: ignore[attr-defined]
    left, sizes, _ = np.linalg.svd(matrix @ right, full_matrices=False)  # type: ignore[operator]
    return np.ascontiguousarray(left[:, :dim] * np.sqrt(sizes[:dim]), dtype=np.float32)
