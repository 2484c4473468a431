"""A text classifier that trains in seconds: the mean of rows of words and hashed n-grams → linear → softmax.

    clf = BagClassifier(dim=10, word_ngrams=2).fit(texts, labels)
    clf.predict(["shares fell on Friday"])
    small = clf.compress(keep=20_000)      # see `compressed_bag`

Trained as fastText trains: one document at a time, plain gradient descent, a rate that falls linearly to zero. One
thread and one seed: the same file every time.

Source: "Bag of Tricks for Efficient Text Classification" (arXiv 1607.01759), the full model of "FastText.zip" (arXiv
1612.03651).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from inlay import sealed
from inlay.codecs.norm_product import NormPQ
from inlay.errors import BadInput, Corrupt
from inlay.kernels.bag import bag_epoch
from inlay.words.bag_features import END, BagFeatures, Tokens
from inlay.words.text_classifier import TextClassifier

if TYPE_CHECKING:
    from inlay.words.compressed_bag import CompressedBag

__all__ = ["BagClassifier", "descend"]


class BagClassifier(TextClassifier):
    """The full model.

    Args:
        dim: width of a row.
        word_ngrams: longest n-gram of words.
        buckets: rows for n-grams.
        epochs: passes over the texts.
        lr: rate at the first document.
        min_count: rarer words get no row (they still take part in n-grams).
        split, hash, end: see `BagFeatures`.
        seed: of the first rows and of the order of documents.
    """

    kind = "bag classifier"

    def __init__(
        self,
        dim: int = 10,
        word_ngrams: int = 2,
        buckets: int = 1_000_000,
        *,
        epochs: int = 5,
        lr: float = 0.5,
        min_count: int = 1,
        split: str = "words",
        hash: str = "mixing",
        end: bool = True,
        seed: int = 0,
    ) -> None:
        for name, number in (("dim", dim), ("epochs", epochs), ("min_count", min_count)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise BadInput(f"{name} must be an integer of at least 1, got {number!r}")
        if not 0 < lr <= 10:
            raise BadInput(f"lr must be above 0 and at most 10, got {lr!r}")
        features = BagFeatures(word_ngrams=word_ngrams, buckets=buckets, split=split, hash=hash, end=end)
        super().__init__(features, [], np.empty(0, dtype=np.float32), np.empty((0, dim), dtype=np.float32))
        self.epochs, self.lr, self.min_count, self.seed = epochs, float(lr), min_count, seed
        self.vocabulary: list[str] = []
        self.rows = np.empty((0, dim), dtype=np.float32)  # words, then buckets
        self.losses: list[float] = []  # mean of each epoch, in nats
        self._row_of: dict[str, int] = {}
        self._seen: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # indptr, ids, labels of training

    def __repr__(self) -> str:
        own = f"dim={self.dim}, word_ngrams={self.features.word_ngrams}, buckets={self.features.buckets}"
        return f"BagClassifier({own}, epochs={self.epochs}, lr={self.lr:g})"

    def fit(self, texts: Sequence[str], labels: Sequence[str], *, progress: bool = False) -> Self:
        """Learn from labelled texts; what was learnt before is forgotten."""
        labels = _checked(texts, labels)
        dim = self.dim
        classes = sorted(set(labels))
        if len(classes) < 2:
            raise BadInput(f"a classifier needs at least two labels, got only {classes[0]!r}")
        tokens = self.features.read(texts)
        counts = np.bincount(tokens.words, minlength=len(tokens.distinct))
        often = [word for word, count in zip(tokens.distinct, counts) if count >= self.min_count and word != END]
        self.classes = classes
        self.vocabulary = [*([END] if self.features.end else []), *often]
        self._row_of = {word: row for row, word in enumerate(self.vocabulary)}
        number_of = {name: number for number, name in enumerate(classes)}
        wanted = np.asarray([number_of[label] for label in labels], dtype=np.int32)
        self.prior = (np.bincount(wanted, minlength=len(classes)) / len(wanted)).astype(np.float32)
        random = np.random.default_rng(self.seed)
        size = (len(self.vocabulary) + (self.features.buckets if self.features.word_ngrams > 1 else 0), dim)
        self.rows = random.random(size, dtype=np.float32)
        self.rows -= np.float32(0.5)
        self.rows *= np.float32(2 / dim)
        self.head = np.zeros((len(classes), dim), dtype=np.float32)
        indptr, ids, _ = self._bags(texts)
        self._seen = indptr, ids, wanted
        self.losses = descend(
            self.rows, self.head, indptr, ids, wanted, epochs=self.epochs, lr=self.lr, seed=self.seed, progress=progress
        )
        return self

    def training_bags(
        self, texts: Sequence[str] | None, labels: Sequence[str] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row numbers of training documents (indptr, ids) and their classes, of texts given or those seen by `fit`."""
        self._need()
        if texts is None or labels is None:
            if self._seen is None:
                raise BadInput("this classifier was read from a file, which keeps no texts; pass texts= and labels=")
            return self._seen
        labels = _checked(texts, labels)
        number_of = {name: number for number, name in enumerate(self.classes)}
        if strange := sorted(set(labels) - set(number_of)):
            raise BadInput(f"label {strange[0]!r} is none of this classifier's {len(number_of)}")
        indptr, ids, _ = self._bags(texts)
        return indptr, ids, np.asarray([number_of[label] for label in labels], dtype=np.int32)

    def compress(
        self,
        keep: int = 20_000,
        *,
        coverage: bool = True,
        retrain: int = 3,
        pq: Any = NormPQ,
        refit_head: bool = True,
        quantise_head: bool = False,
        dictionary: str = "hashed",
        texts: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        progress: bool = False,
    ) -> CompressedBag:
        """A hundredth of the bytes; see `CompressedBag.of`. After `load`, pass the training texts and labels again."""
        from inlay.words.compressed_bag import CompressedBag

        return CompressedBag.of(
            self, keep, coverage=coverage, retrain=retrain, pq=pq, refit_head=refit_head, quantise_head=quantise_head,
            dictionary=dictionary, texts=texts, labels=labels, progress=progress,
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of rows, head, prior and the spelled vocabulary with its offsets."""
        spelled = sum(len(word.encode("utf-8", "surrogatepass")) + 4 for word in self.vocabulary) + 4
        return self.rows.nbytes + self.head.nbytes + self.prior.nbytes + spelled

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities, float32 [texts, classes]."""
        self._need()
        return super().predict_proba(texts)

    def save(self, path: str | Path) -> Path:
        """Write to one file (safetensors, settings in its header)."""
        self._need()
        spelled = [word.encode("utf-8", "surrogatepass") for word in self.vocabulary]
        arrays = {
            "rows": self.rows, "head": self.head, "prior": self.prior,
            "words": np.frombuffer(b"".join(spelled), dtype=np.uint8),
            "word_offsets": np.cumsum([0, *map(len, spelled)]).astype(np.uint32),
        }  # fmt: skip
        training = {"epochs": self.epochs, "lr": self.lr, "min_count": self.min_count, "seed": self.seed}
        return sealed.write(path, arrays, {**self._facts(), "training": training, "dim": self.dim})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, cls.kind)
        try:
            made = cls(facts["dim"], **facts["features"], **facts["training"])
            made.classes, made.rows, made.head = list(facts["classes"]), arrays["rows"].copy(), arrays["head"].copy()
            made.prior = arrays["prior"].copy()
            data, offsets = arrays["words"].tobytes(), arrays["word_offsets"].tolist()
            made.vocabulary = [
                data[low:high].decode("utf-8", "surrogatepass") for low, high in zip(offsets, offsets[1:])
            ]
            if made.head.shape != (len(made.classes), facts["dim"]) or len(made.prior) != len(made.classes):
                raise ValueError("its head does not fit its classes")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); {sealed.REPAIR}") from None
        made._row_of = {word: row for row, word in enumerate(made.vocabulary)}
        return made

    def _need(self) -> None:
        if not self.classes:
            raise BadInput("this classifier has learnt nothing yet; call fit(texts, labels) first")

    def _row_numbers(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        words = np.asarray([self._row_of.get(word, -1) for word in tokens.distinct], dtype=np.int64)
        return words, tokens.grams + len(self.vocabulary)

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        return self.rows[numbers]


def descend(
    rows: np.ndarray, head: np.ndarray, indptr: np.ndarray, ids: np.ndarray, labels: np.ndarray,
    *, epochs: int, lr: float, seed: int, learn_rows: bool = True, progress: bool = False,
) -> list[float]:  # fmt: skip
    """Passes over shuffled documents, in place, the rate falling linearly to zero; the mean loss of each in nats."""
    from tqdm import tqdm

    random = np.random.default_rng([seed, 1])
    losses = []
    for epoch in (bar := tqdm(range(epochs), unit=" epochs", disable=not progress, file=sys.stderr)):
        order = random.permutation(len(labels))
        now, then = (lr * (1 - done / epochs) for done in (epoch, epoch + 1))
        losses.append(bag_epoch(rows, head, indptr, ids, labels, order, now, then, learn_rows))
        if not np.isfinite(losses[-1]):
            raise BadInput(f"training diverged in epoch {epoch + 1} at lr={lr:g}; lower lr")
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def _checked(texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or isinstance(labels, str):
        raise BadInput("expected lists of texts and of labels, got one string")
    if len(texts) != len(labels):
        raise BadInput(f"{len(texts)} texts and {len(labels)} labels; each text needs one")
    if not len(texts):
        raise BadInput("there are no texts to learn from")
    names = [str(label) for label in labels]
    if empty := [place for place, name in enumerate(names) if not name]:
        raise BadInput(f"text {empty[0]} has an empty label")
    return names
