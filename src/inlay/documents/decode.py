"""Bytes to text, or a reason why not."""

from __future__ import annotations

import codecs
import re

from inlay.errors import InlayError

__all__ = ["Unreadable", "decode"]

# The longer marks first: a UTF-32 mark begins with the UTF-16 one.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# `<meta charset=...>`, `<?xml encoding=...?>` and Python's `# -*- coding: ... -*-`.
_DECLARED = re.compile(rb"""(?:charset|coding)\s*[:=]\s*["']?([A-Za-z][\w.:-]*)""")
_DECLARED_WITHIN = 1024
_TOLERATED = 0.01


class Unreadable(InlayError):
    """A file that cannot be turned into documents; its neighbours can.

    Args:
        name: the file, as its folder calls it.
        reason: why, in words for a person.
        passing: the reason may go without the file changing, so that trying again later is worth it.
    """

    def __init__(self, name: str, reason: str, *, passing: bool = False) -> None:
        super().__init__(name, reason)
        self.name, self.reason, self.passing = name, reason, passing

    def __str__(self) -> str:
        return f"cannot read {self.name}: {self.reason}"


def decode(data: bytes, name: str) -> str:
    r"""The text of a file, with every line ending in `\n`.

    UTF-8 unless a byte order mark, or failing UTF-8 a declaration near the top, says otherwise. A few bad bytes are
    replaced; many mean that this is no text.

    Args:
        data: the whole file.
        name: the file's name, for the error.

    Raises:
        Unreadable: the bytes are binary, or 1% or more of the characters are invalid.
    """
    text = _characters(data, name)
    # Lines are counted as editors and compilers count them, so one convention from here on.
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _characters(data: bytes, name: str) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            if "\0" in text:
                raise Unreadable(name, "binary")
            return _tolerable(text, data.count("\ufffd".encode(encoding)), name)
    if b"\0" in data:
        raise Unreadable(name, "binary")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if declared := _DECLARED.search(data, 0, _DECLARED_WITHIN):
        try:
            return data.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeError):
            pass
    return _tolerable(data.decode("utf-8", "replace"), data.count(b"\xef\xbf\xbd"), name)


def _tolerable(text: str, honest: int, name: str) -> str:
    """The text, if few of its characters are replacements beyond the `honest` ones that stood in the file."""
    bad = text.count("\ufffd") - honest
    if bad and bad >= _TOLERATED * len(text):
        raise Unreadable(name, f"not UTF-8 text ({bad / len(text):.0%} invalid characters); save it as UTF-8")
    return text
