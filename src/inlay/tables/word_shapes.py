"""What a word looks like: the four attributes that stand for it in spaCy's embedding layer."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

__all__ = ["ATTRIBUTES", "norm", "prefix", "shape", "suffix"]

LONG = 100  # characters from which a word's shape is "LONG"
RUN = 4  # characters of one kind in a row that a shape shows


def norm(word: str) -> str:
    """Lower case; every currency sign is "$", and typographic quotation marks are plain ones."""
    if len(word) == 1 and unicodedata.category(word) == "Sc":
        return "$"
    return _QUOTES.get(word) or word.lower()


def prefix(word: str) -> str:
    """The first character."""
    return word[:1]


def suffix(word: str) -> str:
    """The last three characters."""
    return word[-3:]


def shape(word: str) -> str:
    """Upper case X, lower case x, digits d, anything else as it is; runs cut to four.

    "Apple" is "Xxxxx", "U.K." "X.X.", "2012" "dddd", "12345" "dddd".
    """
    if len(word) >= LONG:
        return "LONG"
    out: list[str] = []
    last, run = "", 0
    for character in word:
        if character.isalpha():
            kind = "X" if character.isupper() else "x"
        else:
            kind = "d" if character.isdigit() else character
        run = run + 1 if kind == last else 1
        last = kind
        if run <= RUN:
            out.append(kind)
    return "".join(out)


_QUOTES = {"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'", "´": "'", "`": "'"}

ATTRIBUTES: dict[str, Callable[[str], str]] = {"norm": norm, "prefix": prefix, "suffix": suffix, "shape": shape}
