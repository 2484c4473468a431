"""The lines of a passage that answer a query.

They are the window of neighbouring lines with most of the query's words, words that are rare in the passage before
those that are frequent. Words match by their stem, and parts of identifiers are words: `parseDate` is two of them, and
so is `parse_date`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Span", "Window", "best_lines"]

Span = tuple[int, int]

# Words that are in every passage, and so mark nothing. Only left out while the query has others.
COMMON = frozenset(
    "a an and are as at be but by can do does for from had has have how i if in into is it its me my no not of on or "
    "our out so than that the their them then there these they this to up was we were what when where which who why "
    "will with you your".split()
)
WORD = re.compile(r"[^\W_]+")
WIDE = 0x2E80  # scripts from here on write without spaces between words


class Window(NamedTuple):
    """Lines of a passage: where they begin (from 0), the best one's place among them, and for each its marked spans."""

    start: int
    best: int
    lines: list[str]
    marks: list[list[Span]]


def best_lines(text: str, query: str, count: int, heading: str = "") -> Window:
    """The `count` neighbouring lines of a passage that have most of the query's words.

    Args:
        text: the passage.
        query: what was searched for.
        count: lines wanted; fewer where the passage is shorter.
        heading: heading path of the passage, whose last part is passed over.
    """
    lines = text.splitlines() or [""]
    terms = _terms(query)
    found = [_matches(line, terms) for line in lines]
    having = Counter(term for line in found for term in {term for term, _ in line})
    value = [sum(1 / having[term] for term in {term for term, _ in line}) for line in found]
    # The heading is shown above the passage: as the best line it would say nothing new.
    title = heading.rpartition(" › ")[2].strip()
    fresh = [i for i, line in enumerate(lines) if line.strip(" #=-*\t") not in ("", title)]
    best = max(
        [i for i in fresh if found[i]] or [i for i, line in enumerate(found) if line] or fresh[:1] or [0],
        key=lambda i: (value[i], len(found[i]), -i),
    )
    count = max(1, min(count, len(lines)))
    middle = best - (count - 1) // 2

    def merit(start: int) -> tuple[float, int, int]:
        window = range(start, start + count)
        terms_there = {term for i in window for term, _ in found[i]}
        return (
            sum(1 / having[term] for term in terms_there),
            sum(bool(lines[i].strip()) for i in window),
            -abs(start - middle),
        )

    start = max(range(max(0, best - count + 1), min(best, len(lines) - count) + 1), key=merit)
    stop = start + count
    while stop - 1 > best and not lines[stop - 1].strip():
        stop -= 1
    while start < best and not lines[start].strip():
        start += 1
    return Window(start, best - start, lines[start:stop], [[span for _, span in line] for line in found[start:stop]])


def _terms(query: str) -> frozenset[str]:
    """Stems of the query's words; of words in scripts without spaces, their pairs of characters."""
    words = [query[start:stop].lower() for start, stop in _words(query)]
    words = [word for word in words if word not in COMMON] or words
    terms = set()
    for word in words:
        if ord(word[0]) >= WIDE and len(word) > 2:
            terms |= {word[i : i + 2] for i in range(len(word) - 1)}
        else:
            terms.add(_stem(word))
    return frozenset(terms)


def _matches(line: str, terms: frozenset[str]) -> list[tuple[str, Span]]:
    """Terms of the query in a line, in order, each with its span."""
    found: list[tuple[str, Span]] = []
    wide = [term for term in terms if ord(term[0]) >= WIDE]
    for start, stop in _words(line):
        word = line[start:stop].lower()
        if wide and ord(word[0]) >= WIDE:
            found += [(t, (start + m.start(), start + m.end())) for t in wide for m in re.finditer(re.escape(t), word)]
        elif (stem := _stem(word)) in terms:
            found.append((stem, (start, stop)))
        else:
            # A longer word that begins with the term: `date` in `datetime`.
            found += [(t, (start, start + len(t))) for t in terms if len(t) >= 4 and word.startswith(t)][:1]
    return sorted(found, key=lambda match: match[1])


def _words(text: str) -> Iterator[Span]:
    """Spans of words; `parseDate` and `parse_date` are two words each."""
    for match in WORD.finditer(text):
        start, stop = match.span()
        for i in range(start + 1, stop):
            if text[i].isupper() and text[i - 1].islower():
                yield start, i
                start = i
        yield start, stop


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    return _stemmer()(word)


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    import Stemmer

    stem: Callable[[str], str] = Stemmer.Stemmer("english").stemWord
    return stem
