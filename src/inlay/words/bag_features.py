"""Text to the features of a bag classifier: its words, an end-of-sentence token, and hashed n-grams of words.

Source: "Bag of Tricks for Efficient Text Classification" (arXiv 1607.01759). N-grams are never stored: they are numbers
of buckets. The house's mixing hash is the default; `hash="fnv1a"` gives the buckets of fastText.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.mixing import keys_of, mixed

__all__ = ["END", "BagFeatures", "Tokens"]

END = "</s>"
WORD = re.compile(r"\w+|[^\w\s]")
FNV_START, FNV_PRIME, FASTTEXT_FACTOR = 2_166_136_261, 16_777_619, 116_049_371


class Tokens(NamedTuple):
    """Texts as numbers.

    Args:
        distinct: the distinct tokens of all texts, in order of first occurrence.
        words: int32 [tokens], numbers into `distinct`.
        word_texts: int64 [tokens], the text each is of.
        grams: int64 [n-grams], buckets.
        gram_texts: int64 [n-grams], the text each is of.
        texts: how many there are.
    """

    distinct: list[str]
    words: np.ndarray
    word_texts: np.ndarray
    grams: np.ndarray
    gram_texts: np.ndarray
    texts: int


class BagFeatures:
    """Reads texts.

    Args:
        word_ngrams: longest n-gram of words; 1 for words alone.
        buckets: n-grams are hashed into so many.
        split: "words" lower-cases and parts punctuation from words; "spaces" takes what spaces part, as it is.
        hash: "mixing" or "fnv1a" (as fastText).
        end: whether every text ends with the token `</s>`, which then takes part in n-grams.
    """

    def __init__(
        self, *, word_ngrams: int = 2, buckets: int = 1_000_000, split: str = "words", hash: str = "mixing",
        end: bool = True,
    ) -> None:  # fmt: skip
        for name, number, most in (("word_ngrams", word_ngrams, 16), ("buckets", buckets, 1 << 30)):
            if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
                raise BadInput(f"{name} must be an integer from 1 to {most:,}, got {number!r}")
        if split not in ("words", "spaces"):
            raise BadInput(f"split must be 'words' or 'spaces', got {split!r}")
        if hash not in ("mixing", "fnv1a"):
            raise BadInput(f"hash must be 'mixing' or 'fnv1a', got {hash!r}")
        self.word_ngrams, self.buckets, self.split, self.hash, self.end = word_ngrams, buckets, split, hash, bool(end)

    def tokens(self, text: str) -> list[str]:
        """The tokens of one text."""
        found = WORD.findall(text.lower()) if self.split == "words" else text.split()
        return [*found, END] if self.end else found

    def read(self, texts: Sequence[str]) -> Tokens:
        """The features of texts."""
        if isinstance(texts, str):
            raise BadInput("expected a list of texts, got one string; put it into a list")
        numbers: dict[str, int] = {}
        words: list[int] = []
        lengths: list[int] = []
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadInput(f"text {place} is {type(text).__name__}, not a string")
            own = self.tokens(text)
            lengths.append(len(own))
            words.extend([numbers.setdefault(token, len(numbers)) for token in own])
        number, texts_of = np.asarray(words, dtype=np.int32), np.repeat(np.arange(len(lengths)), lengths)
        distinct = list(numbers)
        grams, gram_texts = self._grams(distinct, number, texts_of)
        return Tokens(distinct, number, texts_of, grams, gram_texts, len(lengths))

    def _grams(self, distinct: list[str], words: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.word_ngrams == 1 or not distinct:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        fast = self.hash == "fnv1a"
        own = (_fnv1a(distinct) if fast else keys_of(distinct))[words]
        held, grams, grams_of = own, [], []
        for n in range(2, self.word_ngrams + 1):
            shift = n - 1
            if shift >= len(own):
                break
            with np.errstate(over="ignore"):
                if fast:  # the factor and the wrap-around of its getLine
                    held = held[:-1] * np.uint64(FASTTEXT_FACTOR) + own[shift:]
                else:
                    held = mixed(mixed(held[:-1], n) + own[shift:])
            within = texts[:-shift] == texts[shift:]
            grams.append((held[within] % np.uint64(self.buckets)).astype(np.int64))
            grams_of.append(texts[shift:][within])
        if not grams:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(grams), np.concatenate(grams_of)


def _fnv1a(tokens: Sequence[str]) -> np.ndarray:
    """FNV-1a of 32 bits as fastText has it (bytes are signed there), sign-extended to uint64 as its arithmetic is."""
    hashes = np.empty(len(tokens), dtype=np.uint32)
    for place, token in enumerate(tokens):
        value = FNV_START
        for byte in token.encode("utf-8", "surrogatepass"):
            value = ((value ^ (byte | 0xFFFFFF00 if byte > 127 else byte)) * FNV_PRIME) & 0xFFFFFFFF
        hashes[place] = value
    return hashes.view(np.int32).astype(np.int64).view(np.uint64)
