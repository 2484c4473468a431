"""Questions and what answers them, of text that a machine already has: what the box learns retrieval from.

Nobody wrote them as questions: a heading stands over what it announces, a sentence in a paragraph that says more of the
same, a term before its definition, the summary of a function over its code. Each reader yields pairs of one kind of
file, question first.
"""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from inlay.training.box_text import (
    ASKED,
    LENGTHS,
    LONGEST,
    SENTENCE,
    blocks,
    clean,
    collected,
    concepts,
    described,
    documented,
    english,
    entries,
    in_words,
    manual_parts,
    read,
    roff,
    synsets,
    unmarked,
)  # fmt: skip

__all__ = ["PAIRS", "Pair", "PairReader", "gather_pairs"]

Pair = tuple[str, str]
PairReader = Callable[[Path], Iterator[Pair]]
TWICE = 0.1  # how often a sentence is asked for in a passage that still holds it
COMMON = 3  # a question that more passages answer ("See also") asks nothing


def functions(path: Path) -> Iterator[Pair]:
    """Summaries → functions without them; what one would type after a name → the function with its docstring."""
    draw = random.Random(path.name)
    for node, docstring, whole, bare in documented(read(path)):
        if isinstance(node, ast.ClassDef) or not bare:
            continue
        summary, words = clean(docstring.split("\n\n")[0])[:300], in_words(node.name)
        if " " in words and draw.random() < 0.3:
            yield draw.choice(ASKED) + words, clean(re.sub(rf"\b{node.name}\b", "f", whole, count=1))[:LONGEST]
        elif summary.count(" ") > 2:
            asked = summary if draw.random() < 0.5 else summary.lower().rstrip(".")
            yield (asked if draw.random() < 0.7 else f"python {asked}"), clean(bare)[:LONGEST]


def sections(path: Path) -> Iterator[Pair]:
    """Headings of an HTML page, with the page's own before them half of the time → the paragraphs below."""
    draw = random.Random(path.name)
    page = heading = held = ""
    wanted = draw.choice(LENGTHS)

    def pair() -> Iterator[Pair]:
        if held.count(" ") > max(15, len(held) / 12) and heading.count(" ") and "()" not in heading:
            within = page and page != heading and draw.random() < 0.5
            yield (f"{page}: {heading}" if within else heading), held[:LONGEST]

    for kind, text in blocks(path):
        if kind[0] != "h":
            held = f"{held} {text}".strip() if len(held) < wanted else held
            continue
        yield from pair()
        heading = re.sub(r"^(?:\d+|[A-Z](?=\.))(\.\d+)*\.?\s+", "", text)[:150]
        page, held, wanted = page or heading, "", draw.choice(LENGTHS)
    yield from pair()


def claims(path: Path) -> Iterator[Pair]:
    """A sentence of an HTML page or a manual → what stands around it."""
    draw = random.Random(path.name)
    if path.suffix == ".gz":
        parts = manual_parts(path)
    else:
        parts = [text for kind, text in blocks(path) if kind == "p"]
    held: list[str] = []
    for part in parts:
        held += [sentence for sentence in SENTENCE.split(clean(part)) if 10 < len(sentence) < 400]
        count = draw.choice((4, 5, 6, 8, 10))
        if len(held) < count:
            continue
        at = draw.randrange(min(len(held), count))
        asked = held[at]
        if 40 < len(asked) < 250 and re.fullmatch(r"[A-Z].*[.!?]", asked):
            rest = held if draw.random() < TWICE else held[:at] + held[at + 1 :]
            yield asked, " ".join(rest)[:LONGEST]
        held = []


def terms(path: Path) -> Iterator[Pair]:
    """Lemmas of WordNet or headwords of a dictionary → what they mean."""
    draw = random.Random(path.name)
    if path.suffix == ".index":
        for word, entry in entries(path):
            if len(entry) > len(word) + 30:
                yield (word if draw.random() < 0.7 else f"what is {word}"), entry
        return
    for lemmas, gloss, examples in synsets(path):
        if len(gloss) > 25:
            yield draw.choice(lemmas), gloss
        if examples and len(lemmas) > 1:
            yield draw.choice(examples), f"{', '.join(lemmas)}: {gloss}"


def definitions(path: Path) -> Iterator[Pair]:
    """Names of an ontology's terms → what they mean; where there are two names, half of the time under the other."""
    draw = random.Random(path.name)
    for names, definition, comment in concepts(path):
        asked, *others = draw.sample(names, len(names))
        told = f"{definition} {comment}".strip()
        if len(definition) > 40:
            yield asked, (f"{others[0]}: {told}" if others and draw.random() < 0.5 else told)[:LONGEST]


def summaries(path: Path) -> Iterator[Pair]:
    """Summaries of packages → a paragraph that describes them."""
    for summary, paragraphs in described(path):
        if summary.count(" ") and len(paragraphs[0]) > 80:
            yield summary, paragraphs[0]


def purposes(path: Path) -> Iterator[Pair]:
    """What a manual page is for, by its NAME → its description."""
    text = roff(path)
    named = re.search(r"(?m)^\.SH \"?NAME\"?\s*\n(.+? - .+)$", text)
    body = re.search(r"(?s)\n\.SH \"?DESCRIPTION\"?[^\n]*\n(.*?)(?=\n\.SH|\Z)", text)
    if named and body:
        told = clean(unmarked(body[1]))
        asked = clean(named[1]).partition(" - ")[2]
        if len(told) > 80 and asked.count(" ") > 1:
            yield asked, told[:LONGEST]


PAIRS: dict[str, tuple[str, PairReader, float]] = {
    # name → what its files are called below a root, how they are read, and its share
    "functions": ("usr/lib/python3*/**/*.py", functions, 0.28),
    "sections": ("usr/share/doc/**/*.html", sections, 0.20),
    "claims": ("usr/share/doc/**/*.html", claims, 0.21),
    "manual claims": ("usr/share/man/man[1-8]/*.gz", claims, 0.05),
    "purposes": ("usr/share/man/man[1-8]/*.gz", purposes, 0.03),
    "terms": ("usr/share/wordnet/data.*", terms, 0.05),
    "entries": ("usr/share/dictd/*.index", terms, 0.05),
    "processes": ("usr/lib/R/site-library/GO.db/extdata/GO.sqlite", definitions, 0.04),
    "phenotypes": ("usr/lib/python3*/**/*.obo", definitions, 0.04),
    "summaries": ("var/lib/apt/lists/*_i18n_Translation-en*", summaries, 0.06),
}


def gather_pairs(
    reader: PairReader, files: Iterable[Path], most: int, of: Callable[[Path], str] = str, seed: int = 0
) -> list[Pair]:
    """At most `most` pairs of files, in English, without questions that ask nothing; see `box_text.gather`."""

    def sound(pair: Pair) -> bool:
        asked, told = pair
        return bool(asked.strip() and told.strip()) and asked != told and len(asked) <= 400

    prose = reader in (sections, claims, purposes, summaries)
    found = collected(reader, files, 2 * most, lambda pair: sound(pair) and (not prose or english(pair[1])), seed, of)
    often = Counter(asked for asked, _ in found)
    return [pair for pair in found if often[pair[0]] <= COMMON][:most]
