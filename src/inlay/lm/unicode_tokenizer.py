"""A tokenizer whose tokens are characters: each code point of Unicode's first plane, and frequent n-grams in the gaps.

The id of a token is its code point. Ids of private use, of noncharacters and of what is unassigned are given to the
most frequent bi- and trigrams of a text; so a vocabulary of 65,536 reads any script untrained, and needs fewer tokens
where it has seen some text. Texts are split greedily: at each place the longest token that fits.

Any Unicode text comes back exactly. What has no token of its own is written with two surrogates, whose ids stay theirs:

- beyond the first plane as in UTF-16, a high surrogate and a low one;
- a code point of the first plane whose id has been given away as a low one and a high one, an order that UTF-16 has no
  use for: U+DC00 + upper 10 bits, U+D800 + lower 10 bits.

The id of U+FFFF is never given to an n-gram: it is the separator of documents, and decodes to nothing.

The source says which ranges are filled with what, not how texts are split or how astral characters are written; both
are choices made here. `extra` holds the longer tokens of the source's larger vocabulary.

Source: the vocabularies bvv241-2-3 and bvv241-max of arXiv 2507.04886.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.io import atomic_write

__all__ = ["UnicodeTokenizer", "free_code_points"]

PLANE = 0x10000
KIND = "unicode tokenizer"
CHUNK = 1 << 22  # characters counted at a time


def free_code_points() -> list[int]:
    """Code points whose ids may be given away: private use first, then noncharacters and what is unassigned.

    What is unassigned depends on the Unicode version of this Python; a saved tokenizer names its ids, and does not.
    """
    private = list(range(0xE000, 0xF900))
    rest = [code for code in range(PLANE - 1) if unicodedata.category(chr(code)) == "Cn"]
    return private + rest


class UnicodeTokenizer:
    """Text to ids and back.

    Args:
        grams: id → n-gram that it stands for in place of its character; of two or more characters, none of them beyond
            the first plane or a surrogate.
        extra: longer tokens, which get ids from 65,536 on.

    Raises:
        BadInput: an id that cannot be given away (surrogates, the separator), or a token that is no n-gram or is given
            twice.
    """

    separator = 0xFFFF

    def __init__(self, grams: Mapping[int, str] | None = None, extra: Sequence[str] = ()) -> None:
        self.grams: dict[int, str] = dict(grams or {})
        if isinstance(extra, str):
            raise BadInput("extra must be a list of texts, got one text")
        self.extra = list(extra)
        for code in self.grams:
            if not isinstance(code, int) or not 0 <= code < self.separator or 0xD800 <= code < 0xE000:
                raise BadInput(f"id {code!r} cannot be given away; take ids of `free_code_points()`")
        self._ids: dict[str, int] = {}
        for number, text in [*self.grams.items(), *enumerate(self.extra, PLANE)]:
            if not isinstance(text, str) or len(text) < 2 or not _plain(text):
                raise BadInput(f"token {text!r} must have two characters or more, all of Unicode's first plane")
            if text in self._ids:
                raise BadInput(f"token {text!r} is given twice; keep one")
            self._ids[text] = number
        self._lengths: dict[str, list[int]] = {}
        for text in sorted(self._ids, key=len, reverse=True):
            lengths = self._lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))

    @classmethod
    def train(
        cls, texts: str | Iterable[str], *, grams: int | None = None, least: int = 2, extra: Sequence[str] = ()
    ) -> Self:
        """With the most frequent bi- and trigrams of texts, overlapping ones counted, none across two texts.

        Args:
            texts: one or many.
            grams: how many at most; None: as many as ids are free.
            least: occurrences that an n-gram needs.
            extra: see above.
        """
        free = free_code_points()
        if grams is not None and (not isinstance(grams, int) or isinstance(grams, bool) or grams < 0):
            raise BadInput(f"grams must be an integer of at least 0, got {grams!r}")
        if not isinstance(least, int) or isinstance(least, bool) or least < 1:
            raise BadInput(f"least must be an integer of at least 1, got {least!r}")
        counts: dict[str, int] = {}
        for text in [texts] if isinstance(texts, str) else texts:
            _valid(text)
            for length in (2, 3):
                _count(text, length, counts)
        taken = set(extra)
        kept = [(-count, gram) for gram, count in counts.items() if count >= least and gram not in taken]
        chosen = [gram for _, gram in sorted(kept)[: len(free) if grams is None else grams]]
        return cls(dict(zip(free, chosen)), extra)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; any but one with lone surrogates, which is no Unicode text."""
        _valid(text)
        ids: list[int] = []
        at, end, known, lengths, given = 0, len(text), self._ids, self._lengths, self.grams
        while at < end:
            character = text[at]
            for length in lengths.get(character, ()):
                found = known.get(text[at : at + length])
                if found is not None:
                    ids.append(found)
                    at += length
                    break
            else:
                code = ord(character)
                if code >= PLANE:
                    ids += (0xD800 + (code - PLANE >> 10), 0xDC00 + (code - PLANE & 0x3FF))
                elif code in given or code == self.separator:
                    ids += (0xDC00 + (code >> 10), 0xD800 + (code & 0x3FF))
                else:
                    ids.append(code)
                at += 1
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Surrogates without their other half, as a text cut short has, become U+FFFD."""
        out: list[str] = []
        held = -1
        for number in ids:
            code = int(number)
            if not 0 <= code < self.size:
                raise BadInput(f"id {code} is outside the vocabulary of {self.size:,}")
            surrogate = 0xD800 <= code < 0xE000
            if held >= 0:
                if surrogate and (held < 0xDC00) != (code < 0xDC00):
                    out.append(_joined(held, code))
                    held = -1
                    continue
                out.append("\ufffd")
            held = code if surrogate else -1
            if not surrogate and code != self.separator:
                out.append(self._token(code))
        if held >= 0:
            out.append("\ufffd")
        return "".join(out)

    @property
    def size(self) -> int:
        """Number of ids."""
        return PLANE + len(self.extra)

    def __len__(self) -> int:
        return self.size

    @cached_property
    def tokens(self) -> list[str]:
        """The text of every id, to be drawn; those of surrogates are lone ones, which no font draws."""
        return [self._token(code) for code in range(self.size)]

    def _token(self, number: int) -> str:
        if number >= PLANE:
            return self.extra[number - PLANE]
        return self.grams.get(number) or chr(number)

    def save(self, path: str | Path) -> Path:
        """Write to one JSON file."""
        path = Path(path)
        if not path.parent.is_dir():
            raise BadInput(f"the folder {path.parent} does not exist; make it first")
        facts: dict[str, Any] = {"kind": KIND, "grams": {f"{code:04X}": text for code, text in self.grams.items()}}
        facts["extra"] = self.extra
        facts["digest"] = _digest(facts)
        atomic_write(path, json.dumps(facts, ensure_ascii=False, indent=0).encode())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `BadInput` where there is no such file, `Corrupt` where it is damaged."""
        try:
            facts = json.loads(Path(path).read_bytes())
        except (FileNotFoundError, IsADirectoryError):
            raise BadInput(f"there is no tokenizer {path}") from None
        except ValueError as error:
            raise Corrupt(f"{path} is damaged or was not written by inlay ({error}); restore it from a copy") from None
        if not isinstance(facts, dict) or facts.get("kind") != KIND:
            raise BadInput(f"{path} holds no {KIND}")
        kept = facts.pop("digest", None)
        if _digest(facts) != kept:
            raise Corrupt(f"{path} is damaged: its content does not match its digest; restore it from a copy")
        return cls({int(code, 16): text for code, text in facts["grams"].items()}, facts["extra"])

    def __repr__(self) -> str:
        return f"UnicodeTokenizer(size={self.size}, grams={len(self.grams)}, extra={len(self.extra)})"


def _joined(first: int, second: int) -> str:
    if first < 0xDC00:
        return chr(PLANE + (first - 0xD800 << 10) + (second - 0xDC00))
    code = (first - 0xDC00 << 10) + (second - 0xD800)
    return chr(code) if code < PLANE and not 0xD800 <= code < 0xE000 else "\ufffd"


def _count(text: str, length: int, counts: dict[str, int]) -> None:
    """Add the n-grams of a text that are all of the first plane."""
    for start in range(0, len(text), CHUNK):
        codes = np.frombuffer(text[start : start + CHUNK + length - 1].encode("utf-32-le"), "<u4").astype(np.int64)
        windows = len(codes) - length + 1
        if windows < 1:
            return
        keys, fits = np.zeros(windows, np.int64), np.ones(windows, bool)
        for place in range(length):
            part = codes[place : place + windows]
            keys, fits = keys << 16 | part & 0xFFFF, fits & (part < PLANE)
        for key, count in zip(*(array.tolist() for array in np.unique(keys[fits], return_counts=True))):
            gram = "".join(chr(key >> 16 * place & 0xFFFF) for place in reversed(range(length)))
            counts[gram] = counts.get(gram, 0) + count


def _valid(text: Any) -> None:
    if not isinstance(text, str):
        raise BadInput(f"a text must be a str, got {type(text).__name__}")
    try:
        text.encode("utf-16-le")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at {error.start}, which is no character; "
            "decode its bytes with errors='replace'"
        ) from None


def _plain(text: str) -> bool:
    return all(ord(character) < PLANE and not 0xD800 <= ord(character) < 0xE000 for character in text)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
