"""BERT's uncased tokenizer in plain Python: cleaned, lower-cased, cut at spaces and punctuation, greedily matched.

Encoders that live in the core cannot ask for a tokenizer library. Natural text repeats its words, so a word's pieces
are kept once found, and a text costs one regular expression and one look-up a word.

One difference from the reference is meant: `[CLS]`, `[SEP]` and their like, written in a text, are ordinary text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from inlay.errors import BadInput

__all__ = ["WordPiece"]

LONGEST_WORD = 100  # characters; a longer run without spaces is one unknown token, as in the reference
KEPT_WORDS = 200_000

_ASCII_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Every character is a word of its own in scripts written without spaces.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPiece(dict[str, tuple[int, ...]]):
    """Token numbers of texts; as a dictionary, of the words met so far.

    Args:
        vocabulary: tokens in the order of their numbers; `##` begins one that continues a word.
        unknown: the token of words that cannot be spelled.
    """

    def __init__(self, vocabulary: Sequence[str], unknown: str = "[UNK]") -> None:
        super().__init__()
        self.number = {token: i for i, token in enumerate(vocabulary)}
        if unknown not in self.number:
            raise BadInput(f"the vocabulary has no unknown token {unknown!r}")
        self._unknown = (self.number[unknown],)
        self._longest = max(map(len, vocabulary))

    def __call__(self, text: str, limit: int | None = None) -> list[int]:
        """Token numbers of a text, the first `limit` of them."""
        if limit is not None and len(text) > 64 * limit:
            # A token is rarely longer: only text far beyond the limit is cut before it is read, at a space.
            head = text[: 64 * limit]
            tokens = self(head[: head.rfind(" ")] if " " in head else head)
            return tokens[:limit] if len(tokens) >= limit else self(text)[:limit]
        words = _ASCII_WORD.findall(_ascii(text)) if text.isascii() else _words(text)
        if len(self) > KEPT_WORDS:
            self.clear()
        return [token for word in words for token in self[word]][:limit]

    def __missing__(self, word: str) -> tuple[int, ...]:
        pieces = self[word] = self._spell(word)
        return pieces

    def _spell(self, word: str) -> tuple[int, ...]:
        if len(word) > LONGEST_WORD:
            return self._unknown
        pieces: list[int] = []
        low = 0
        while low < len(word):
            prefix = "##" if low else ""
            for high in range(min(len(word), low + self._longest), low, -1):
                piece = self.number.get(prefix + word[low:high])
                if piece is not None:
                    break
            else:
                return self._unknown
            pieces.append(piece)
            low = high
        return tuple(pieces)


def _ascii(text: str) -> str:
    return (_ASCII_CONTROL.sub("", text) if _ASCII_CONTROL.search(text) else text).lower()


def _words(text: str) -> Iterable[str]:
    """Words and marks of any text."""
    cleaned = "".join(_spaced(char) for char in text)
    bare = "".join(char for char in unicodedata.normalize("NFD", cleaned) if unicodedata.category(char) != "Mn")
    # Character by character: the reference knows no final sigma.
    lowered = "".join(char.lower() for char in bare)
    word: list[str] = []
    for char in lowered:
        if char == " " or char.isspace():
            if word:
                yield "".join(word)
                word = []
        elif _is_mark(char):
            if word:
                yield "".join(word)
                word = []
            yield char
        else:
            word.append(char)
    if word:
        yield "".join(word)


def _spaced(char: str) -> str:
    if " " <= char <= "~":
        return char
    if char in "\t\n\r":
        return " "
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Co"):
        return ""
    if char.isspace():
        return " "
    point = ord(char)
    if point >= 0x3400 and any(low <= point <= high for low, high in _IDEOGRAPHS):
        return f" {char} "
    return char


def _is_mark(char: str) -> bool:
    if char.isascii():
        return not char.isalnum() and " " < char < "\x7f"
    return unicodedata.category(char)[0] == "P"
