"""The words inside identifiers: what a search for "parse date" needs in order to find `parseDate`."""

from __future__ import annotations

import re

__all__ = ["split_identifiers"]

# A run of letters and digits with a hump in it: a capital after a small letter or digit, or a small letter after two
# capitals. The look-behind lets a match begin at the start of a run only, which keeps a long run linear.
_HUMPED = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]*?(?:[a-z][0-9]*[A-Z]|[A-Z]{2}[a-z])[A-Za-z0-9]*")
# HTTPServer -> HTTP, Server; URLs -> URL; parseDate -> parse, Date. Digits and single letters stay behind.
_PART = re.compile(r"[A-Z]{2,}(?=s(?![a-z]))|[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+")
_LONGEST = 80  # beyond this it is data, not a name


def split_identifiers(text: str) -> str:
    """The parts of camelCase and PascalCase words that splitting at non-alphanumerics would not give.

    Each part once, in order of first appearance, separated by spaces; an empty string where there are none. The parts
    of snake_case need no help unless they have humps themselves.

    >>> split_identifiers("parseDate(HTTPServer2) is snake_case")
    'parse Date HTTP Server'
    """
    words = {word: None for word in _HUMPED.findall(text) if len(word) <= _LONGEST}
    if not words:
        return ""
    return " ".join(dict.fromkeys(part for part in _PART.findall("\n".join(words)) if len(part) > 1))
