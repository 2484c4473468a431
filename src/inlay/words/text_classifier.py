"""What full and compressed bag classifiers share: mean of a text's rows → linear → softmax, and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.kernels.bag import bag_means
from inlay.words.bag_features import END, BagFeatures, Tokens

__all__ = ["TextClassifier", "load_classifier"]

BATCH = 2048  # texts read at a time, so that predicting needs little memory whatever is asked


class TextClassifier:
    """Predicts one of `classes`. A text with no feature left but the end of it gets the classes' prior.

    Args:
        features: how texts are read.
        classes: names, sorted.
        prior: float32 [classes], share of each class in training.
        head: float32 [classes, dim].
    """

    kind = ""

    def __init__(self, features: BagFeatures, classes: Sequence[str], prior: np.ndarray, head: np.ndarray) -> None:
        self.features, self.classes, self.prior, self.head = features, list(classes), prior, head

    def _row_numbers(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Row of every distinct word and of every n-gram; -1 where there is none."""
        raise NotImplementedError

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self.head.shape[1])

    def _bags(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row numbers of texts as CSR (indptr int64, ids int32), and which texts have a feature besides the end."""
        tokens = self.features.read(texts)
        of_distinct, of_grams = self._row_numbers(tokens)
        of_words = of_distinct[tokens.words] if len(tokens.words) else np.empty(0, dtype=np.int64)
        ends = np.asarray([word == END for word in tokens.distinct], dtype=bool)
        is_end = ends[tokens.words] if len(tokens.words) else np.empty(0, dtype=bool)
        rows, texts_of = np.concatenate([of_words, of_grams]), np.concatenate([tokens.word_texts, tokens.gram_texts])
        says = np.concatenate([~is_end, np.ones(len(of_grams), dtype=bool)]) & (rows >= 0)
        told = np.zeros(tokens.texts, dtype=bool)
        told[texts_of[says]] = True
        kept = rows >= 0
        rows, texts_of = rows[kept], texts_of[kept]
        order = np.argsort(texts_of, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(texts_of, minlength=tokens.texts))]).astype(np.int64)
        return indptr, rows[order].astype(np.int32), told

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities, float32 [texts, classes]; they sum to 1."""
        if isinstance(texts, str):
            raise BadInput("expected a list of texts, got one string; put it into a list")
        found = np.empty((len(texts), len(self.classes)), dtype=np.float32)
        for low in range(0, len(texts), BATCH):
            indptr, ids, told = self._bags(texts[low : low + BATCH])
            scores = bag_means(self._rows(ids), indptr) @ self.head.T
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            odds[~told] = self.prior
            found[low : low + BATCH] = odds
        return found

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest class of each text."""
        return [self.classes[best] for best in self.predict_proba(texts).argmax(axis=1)]

    def evaluate(self, texts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
        """Accuracy, macro F1, and precision, recall and F1 of each class, over labelled texts.

        A label the classifier does not know counts as an error, and as a class of its own with F1 0.
        """
        if len(texts) != len(labels) or not len(texts):
            raise BadInput(
                f"evaluating needs as many labels as texts and at least one, got {len(labels)}, {len(texts)}"
            )
        said = np.asarray(self.predict(texts), dtype=object)
        truth = np.asarray([str(label) for label in labels], dtype=object)
        per_class: dict[str, dict[str, float]] = {}
        for name in sorted({*self.classes, *truth}):
            hits = int(((said == name) & (truth == name)).sum())
            named, real = int((said == name).sum()), int((truth == name).sum())
            precision, recall = hits / named if named else 0.0, hits / real if real else 0.0
            f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
            per_class[name] = {"precision": precision, "recall": recall, "f1": f1, "documents": real}
        f1s = [own["f1"] for own in per_class.values() if own["documents"]]
        return {
            "documents": len(texts), "accuracy": float((said == truth).mean()), "macro_f1": float(np.mean(f1s)),
            "classes": per_class,
        }  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        names = ("word_ngrams", "buckets", "split", "hash", "end")
        features = {name: getattr(self.features, name) for name in names}
        return {"kind": self.kind, "classes": self.classes, "features": features}


def load_classifier(path: str | Path) -> Any:
    """A `BagClassifier` or `CompressedBag`, whichever a file holds."""
    from inlay.words.bag_classifier import BagClassifier
    from inlay.words.compressed_bag import CompressedBag

    try:
        return CompressedBag.load(path)
    except Corrupt:
        raise
    except BadInput as error:
        if "holds a" not in str(error):
            raise
    return BagClassifier.load(path)
