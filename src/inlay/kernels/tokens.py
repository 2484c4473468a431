"""Texts to token numbers, and token numbers to term counts.

A token is a maximal run of letters and digits (what `str.isalnum` accepts); combining marks extend a token but never
start one, so that Devanagari words and decomposed accents stay whole. Scripts written without spaces (Han, kana,
Thai, Lao, Khmer, Myanmar) give one token a character. Here only ASCII letters are folded: folding the rest is done
on *distinct* tokens by whoever calls, which costs nothing.

Two steps, with the caller in between deciding which tokens share a column (stemming) or have none (stop words):

1. `token_stream(texts)` numbers the distinct tokens and spells each text as numbers;
2. `count_columns(offsets, ids, column_of, n_columns)` counts columns per text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from inlay.kernels import compiled
from inlay.kernels.words import SLICE, Words

__all__ = ["MOST", "count_columns", "posting_lists", "split", "token_stream"]

SEPARATOR, WORD, ALONE, MARK = 0, 1, 2, 3

# Counts are uint16: a term 65,535 times in one text is as present as a term can be.
MOST = 65_535

_ALONE = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
)


def kind(code: int) -> int:
    """What a code point does to a token: SEPARATOR, WORD, ALONE (a token by itself) or MARK (extends a token)."""
    if code >= 0x20000:  # planes 2 and 3 are Han by definition, assigned or not; beyond them there is no text
        return ALONE if code < 0x40000 else SEPARATOR
    character = chr(code)
    if character.isalnum():
        return ALONE if any(low <= code <= high for low, high in _ALONE) else WORD
    if unicodedata.category(character) in ("Mn", "Mc") and not 0xFE00 <= code <= 0xFE0F:  # variation selectors
        return MARK
    return SEPARATOR


class _Translation(dict):
    """`str.translate` table that learns each character when it is first met, and folds ASCII."""

    def __init__(self) -> None:
        self.marks = ""
        super().__init__({code: ord(chr(code).lower()) if chr(code).isalnum() else " " for code in range(128)})

    def __missing__(self, code: int) -> int | str:
        what = kind(code)
        if what == MARK:
            self.marks += chr(code)
        self[code] = value = (" ", code, f" {chr(code)} ", code)[what]
        return value


_translation = _Translation()


def split(text: str) -> list[str]:
    """The tokens of one text, in order, ASCII folded."""
    tokens = text.translate(_translation).split()
    if _translation.marks and not text.isascii():
        tokens = [stripped for token in tokens if (stripped := token.lstrip(_translation.marks))]
    return tokens


def token_stream(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Spell texts as numbers of their distinct tokens.

    Returns:
        (offsets int64 [n + 1], ids int32 [tokens], distinct tokens in order of first occurrence);
        text i is spelled `ids[offsets[i]:offsets[i + 1]]`.
    """
    return (_stream_compiled if compiled(sum(map(len, texts))) else _stream_plain)(texts)


# Bytes of UTF-8 → the same with ASCII letters folded and every ASCII separator a space; other characters stay.
_ASCII = bytes((ord(chr(code).lower()) if chr(code).isalnum() else 32) if code < 128 else code for code in range(256))


def _stream_plain(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    # Words between ASCII separators first: that is all there is to English.
    words = Words()
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    numbers = [np.empty(0, dtype=np.int32)]
    low, written = 0, 0
    while low < len(texts):
        encoded: list[bytes] = []
        size = 0
        while low + len(encoded) < len(texts) and size < SLICE:
            encoded.append(texts[low + len(encoded)].encode("utf-8", "replace"))
            size += len(encoded[-1]) + 1
        ids, starts = words.number(b" ".join(encoded).translate(_ASCII))
        ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)) + 1)
        offsets[low + 1 : low + 1 + len(encoded)] = written + np.searchsorted(starts, ends)
        numbers.append(ids)
        low, written = low + len(encoded), written + len(ids)
    return _inner_tokens(offsets, np.concatenate(numbers), words.spelled)


def _inner_tokens(offsets: np.ndarray, ids: np.ndarray, words: list[bytes]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Split the words that have other characters than ASCII letters and digits, which in English are few."""
    names = b" ".join(words).decode().split(" ") if words else []
    odd = [at for at, word in enumerate(words) if not word.isascii()]
    if not odd:
        return offsets, ids, names
    number = dict(zip(names, range(len(names))))
    for at in odd:
        del number[names[at]]  # it is a word, and perhaps no token
    # Where a token that odd words hold occurs first: in which word, and where therein.
    place: dict[int, int] = {}
    inner: list[int] = []
    counts = np.ones(len(words), dtype=np.int64)
    for at in odd:
        tokens = split(names[at])
        counts[at] = len(tokens)
        for here, token in enumerate(tokens, at << 32):
            found = number.setdefault(token, len(names))
            if found == len(names):
                names.append(token)
            place.setdefault(found, here)
            inner.append(found)
    places = np.arange(len(names)) << 32
    held = list(place)
    own = np.where(np.array(held, dtype=np.int64) < len(words), places[held], 1 << 62)
    places[held] = np.minimum(own, list(place.values()))
    kept = np.ones(len(names), dtype=np.bool_)
    kept[odd] = False
    order = np.flatnonzero(kept)
    order = order[np.argsort(places[order], kind="stable")]
    renamed = np.zeros(len(names), dtype=np.int32)
    renamed[order] = np.arange(len(order), dtype=np.int32)
    # Most words are one token: only the others need a place made for them.
    first = np.arange(len(words))
    inside = np.cumsum(counts[odd]) - counts[odd]  # where in `inner` each odd word's tokens begin
    some = counts[odd] > 0
    first[np.array(odd)[some]] = np.array(inner, dtype=np.int64)[inside[some]]
    here = counts[ids]
    stream = np.repeat(renamed[first][ids], here)
    ends = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum(here, out=ends[1:])
    several = np.flatnonzero(here > 1)
    if len(several):
        begin = np.zeros(len(words), dtype=np.int64)
        begin[odd] = inside
        size = here[several]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        source = np.repeat(begin[ids[several]], size) + within
        stream[np.repeat(ends[several], size) + within] = renamed[np.array(inner)[source]]
    return ends[offsets], stream, [names[token] for token in order.tolist()]


@cache
def _kinds(whole: bool) -> np.ndarray:
    """Kind of each code point, uint8: of ASCII only, or of everything below 0x40000 (takes some 20 ms, once)."""
    if not whole:
        return np.array([kind(code) for code in range(128)], dtype=np.uint8)
    kinds = np.full(0x40000, ALONE, dtype=np.uint8)
    kinds[:0x20000] = np.fromiter(map(kind, range(0x20000)), dtype=np.uint8, count=0x20000)
    return kinds


def _stream_compiled(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    from inlay.kernels.tokens_numba import number_tokens

    # A lone surrogate cannot be encoded; "?" separates tokens just as it does.
    encoded = [text.encode("utf-8", "replace") for text in texts]
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)), out=starts[1:])
    joined = b"".join(encoded).lower()
    del encoded
    kinds = _kinds(not joined.isascii())
    offsets, ids, first, last = number_tokens(np.frombuffer(joined, dtype=np.uint8), starts, kinds)
    tokens = [joined[a:b].decode() for a, b in zip(first.tolist(), last.tolist())]
    return offsets, ids, tokens


def count_columns(
    offsets: np.ndarray, ids: np.ndarray, column_of: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count each text's columns.

    Args:
        offsets: int64 [n + 1], as from `token_stream`.
        ids: int32 [tokens].
        column_of: int32 [distinct tokens], the column of each token, or -1 to leave it out.
        n_columns: how many columns there are.

    Returns:
        CSR (indptr int64 [n + 1], columns int32 [nnz] ascending in a row, counts uint16 [nnz], at most `MOST`) and
        lengths int32 [n], the number of tokens that had a column.
    """
    if compiled(len(ids)):
        from inlay.kernels.tokens_numba import count_columns as count_compiled

        return count_compiled(offsets, ids, column_of, n_columns, MOST)
    return _count_plain(offsets, ids, column_of, n_columns)


def _count_plain(
    offsets: np.ndarray, ids: np.ndarray, column_of: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    row, columns, lengths = _placed(offsets, ids, column_of)
    indptr, columns, counts = _tallied(row, columns, len(offsets) - 1, n_columns)
    return indptr, columns, counts, lengths


def posting_lists(
    offsets: np.ndarray, ids: np.ndarray, column_of: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same counts by column: `count_columns` and `postings.transpose` in one.

    Returns:
        Column store (indptr int64 [n_columns + 1], rows int32 [nnz] ascending in a column, counts uint16 [nnz]) and
        lengths int32 [n].
    """
    if compiled(len(ids)):
        from inlay.kernels.postings import transpose

        starts, columns, counts, lengths = count_columns(offsets, ids, column_of, n_columns)
        return *transpose(starts, columns, counts, n_columns), lengths
    row, columns, lengths = _placed(offsets, ids, column_of)
    indptr, rows, counts = _tallied(columns, row, n_columns, len(offsets) - 1)
    return indptr, rows, counts, lengths


def _placed(offsets: np.ndarray, ids: np.ndarray, column_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(text, column) of each token that has one, both int32, and how many each text has of these."""
    n = len(offsets) - 1
    columns = column_of[ids]
    kept = columns >= 0
    row = np.repeat(np.arange(n, dtype=np.int32), np.diff(offsets))[kept]
    return row, columns[kept], np.bincount(row, minlength=n).astype(np.int32)


def _tallied(
    major: np.ndarray, minor: np.ndarray, n_major: int, n_minor: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs to (starts of each major int64 [n_major + 1], minors int32 ascending in each, how often uint16)."""
    bits = max(n_minor - 1, 0).bit_length()
    # Both numbers in one word, as short as will do: sorting words is what numpy does fastest.
    word: Any = np.uint32 if max(n_major - 1, 0).bit_length() + bits <= 32 else np.uint64
    pairs: np.ndarray = (major.astype(word) << word(bits)) | minor.astype(word)
    pairs.sort()
    first = np.flatnonzero(np.concatenate([np.ones(min(len(pairs), 1), dtype=np.bool_), pairs[1:] != pairs[:-1]]))
    counts = np.diff(np.append(first, len(pairs)))
    pairs = pairs[first]
    starts = np.zeros(n_major + 1, dtype=np.int64)
    np.cumsum(np.bincount((pairs >> word(bits)).astype(np.int64), minlength=n_major), out=starts[1:])
    minors = (pairs & word((1 << bits) - 1)).astype(np.int32)
    return starts, minors, np.minimum(counts, MOST).astype(np.uint16)
