"""English text that a machine already has: what the box is distilled on. Each reader yields texts of one kind of file.

Dictionaries and WordNet give single words, terms and definitions; manuals and documentation give sentences and
passages; Python files give docstrings, functions with and without them, and what one would type to find them; games,
fortunes and speeches give English about people and things, ontologies and R's vignettes about biology, medicine and
statistics. None of it is shipped: a model's card names its sources.
"""

from __future__ import annotations

import ast
import gzip
import html
import itertools
import json
import random
import re
import sqlite3
import subprocess
import warnings
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)

__all__ = ["PROSE", "READERS", "Reader", "english", "gather", "passages", "speeches", "table"]

Reader = Callable[[Path], Iterator[str]]
LONGEST = 1200  # characters of a passage: what mostly fits into 256 tokens
LENGTHS = (400, 600, 800, 1000, 1200)  # characters of passages made of several paragraphs
LARGEST = 3_000_000  # bytes of a file
# Every fourth word of English prose is one of these; of listings, and of other languages, none is.
COMMON = frozenset("the of and to a in is for that with are be this on by it as or an from".split())

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")
_TAG = re.compile(r"<[^>]+>")
_NOT_TEXT = re.compile(r"(?is)<(script|style|nav|head)\b.*?</\1>")
_BLOCK = re.compile(r"(?is)<(h[1-4]|p|dd|li)\b[^>]*>(.*?)</\1>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.){,2000})"|`([^`]{,2000})`', re.DOTALL)
# Of R's vignettes: code, equations and tables; citations, links and references; commands, marks and headings.
_LISTING = re.compile(
    r"(?ms)^```.*?^```|^<<.*?^@|^---.*?^---|\\begin\{(?:verbatim|equation|align|table).*?\\end\{\w+\*?\}"
)
_REFERENCE = re.compile(
    r"\\(?:cite\w*|ref|label|footnote|url|href|includegraphics)(?:\[[^\]]*\])?\{[^}]*\}|\[@[^\]]*\]"
)
_MARKS = re.compile(r"(?m)\\\w+\*?|[\[{}`*~]|\]\([^)]*\)|^[#%].*$")
_ROMAN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # digits of dictd's offsets


def clean(text: str) -> str:
    """One line, single spaces."""
    return " ".join(text.split())


def passages(text: str, draw: random.Random) -> Iterator[str]:
    """Sentences, one at a time or, four times out of ten, several together: queries are short, documents are not."""
    sentences = [s for s in SENTENCE.split(clean(text)) if 3 <= len(s) <= 500]
    at = 0
    while at < len(sentences):
        count = 1 if draw.random() < 0.6 else draw.choice((2, 3, 4, 6, 8, 12))
        joined = " ".join(sentences[at : at + count])[:LONGEST]
        if joined.count(" ") >= 2:
            yield joined
        at += count


def english(text: str) -> bool:
    """Whether a text reads as English prose; a short one may, whatever its words are."""
    words = text.lower().split()
    return len(words) < 12 or sum(word in COMMON for word in words) >= 0.12 * len(words)


def read(path: Path) -> str:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix in (".gz", ".dz") else data
    return data.decode("utf-8", "replace") if len(data) < LARGEST else ""


def synsets(path: Path) -> Iterator[tuple[list[str], str, list[str]]]:
    """Lemmas, gloss and examples of each synset of a `data.noun` and its like."""
    for line in path.read_text("latin-1").splitlines():
        head, bar, gloss = line.partition("|")
        if line.startswith("  ") or not bar:
            continue
        fields = head.split()
        lemmas = [fields[4 + 2 * i].split("(")[0].replace("_", " ") for i in range(int(fields[3], 16))]
        first, *examples = [part.strip(' ;"') for part in re.split(r";\s*(?=\")", gloss)]
        yield lemmas, first, examples


def wordnet(path: Path) -> Iterator[str]:
    """Lemmas, glosses, and examples of a `data.noun` and its like."""
    draw = random.Random(path.name)
    for lemmas, gloss, examples in synsets(path):
        yield gloss
        yield from lemmas
        if draw.random() < 0.6:
            yield f"{draw.choice(lemmas)}: {gloss}"
        yield from (example for example in examples if len(example) > 15)


def entries(path: Path) -> Iterator[tuple[str, str]]:
    """Headwords and entries of a dictd dictionary, given its `.index`."""
    body = gzip.decompress(path.with_suffix(".dict.dz").read_bytes())

    def number(digits: str) -> int:
        value = 0
        for digit in digits:
            value = value * 64 + _ROMAN.index(digit)
        return value

    for line in path.read_text("utf-8", "replace").splitlines():
        word, *place = line.split("\t")[:3]
        if len(place) == 2 and not word.startswith("00"):
            start = number(place[0])
            entry = body[start : start + number(place[1])].decode("utf-8", "replace")
            yield word, clean(re.sub(r"[{}]|\[[^\]]{1,40}\]", "", entry))[:700]


def dictionary(path: Path) -> Iterator[str]:
    """Entries of a dictd dictionary, given its `.index`."""
    for _, entry in entries(path):
        yield entry


def roff(path: Path) -> str:
    """Text of a manual page without its fonts; its requests still stand at the heads of lines."""
    return re.sub(r"\\f[A-Z]|\\&", "", read(path)).replace("\\-", "-")


def unmarked(part: str) -> str:
    """What is set of a part of a manual page: the words of a line of one font, no other requests."""
    return re.sub(r"(?m)^[.'].*$", "", re.sub(r"(?m)^\.[A-Z]{1,2} ", "", part))


def manual_parts(path: Path) -> list[str]:
    """Paragraphs of a manual page."""
    return [unmarked(part) for part in re.split(r"\n\.(?:PP|TP|SH|SS|LP|P|IP)[^\n]*", roff(path))]


def manual(path: Path) -> Iterator[str]:
    """Passages of a manual page."""
    draw = random.Random(path.name)
    for paragraph in manual_parts(path):
        if 40 < len(paragraph) < 1500:
            yield from passages(paragraph, draw)


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Tag and text of each heading, paragraph and item of an HTML page."""
    for kind, inner in _BLOCK.findall(_NOT_TEXT.sub("", read(path))):
        yield kind.lower(), clean(html.unescape(_TAG.sub(" ", inner))).replace("¶", "")


def web(path: Path) -> Iterator[str]:
    """Headings and paragraphs of an HTML page."""
    draw = random.Random(path.name)
    for kind, text in blocks(path):
        if kind[0] == "h":
            if 5 < len(text) < 150 and " " in text:
                yield text
        elif 25 < len(text) < 1500 and text.count(" ") > 3:
            yield from passages(text, draw)


def chapters(path: Path) -> Iterator[str]:
    """Paragraphs of an HTML page that follow each other, as many as make an abstract's length."""
    draw = random.Random(path.name)
    held, wanted = "", draw.choice(LENGTHS)
    for kind, text in blocks(path):
        if kind != "p":
            continue
        held = f"{held} {text}".strip()
        if len(held) >= wanted:
            if held.count(" ") > len(held) / 12:  # tables and listings have few spaces
                yield held[:LONGEST]
            held, wanted = "", draw.choice(LENGTHS)


def prose(path: Path) -> Iterator[str]:
    """Paragraphs of Markdown, reStructuredText, Perl's documentation or a package's description, code left out."""
    draw = random.Random(path.name)
    for paragraph in re.sub(r"(?s)```.*?```", "", read(path)).split("\n\n"):
        if paragraph.startswith(("    ", "\t", "|", "..")):
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"(?m)^=\w+", "", paragraph))
        text = re.sub(r"[`*#]+", "", re.sub(r"\b[A-Z]<+\s*([^<>]*?)\s*>+", r"\1", text))
        letters = sum(char.isalpha() or char == " " for char in text)
        if 40 < len(text) < 1500 and letters > 0.75 * len(text):
            yield from passages(text, draw)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def documented(text: str) -> Iterator[tuple[Definition, str, str, str]]:
    """Definition, docstring, source, and source without the docstring, of what is documented in a Python file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        docstring = isinstance(node, Definition) and ast.get_docstring(node)
        if not docstring or len(docstring) < 20:
            continue
        assert isinstance(node, Definition)
        first = node.body[0]
        whole = lines[node.lineno - 1 : node.end_lineno]
        bare = whole[: first.lineno - node.lineno] + lines[first.end_lineno or 0 : node.end_lineno]
        yield node, docstring, "\n".join(whole), "\n".join(bare) if len(node.body) > 1 else ""


def in_words(name: str) -> str:
    """An identifier as one would say it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).strip("_").replace("_", " ").lower()


def python(path: Path) -> Iterator[str]:
    """Docstrings, functions with or without them, and questions after their names."""
    draw = random.Random(path.name)
    for node, docstring, whole, bare in documented(read(path)):
        if isinstance(node, ast.ClassDef):
            yield from passages(docstring[:1200], draw)
            continue
        yield clean(docstring.split("\n\n")[0])[:500]
        if bare:
            yield clean(draw.choice((whole, bare)))[:LONGEST]
        words = in_words(node.name)
        if " " in words and draw.random() < 0.3:
            yield draw.choice(ASKED) + words


def spoken(path: Path) -> Iterator[str]:
    """Quoted strings of a game's data that read as sentences: what people say, stories, descriptions of things."""
    if path.suffix not in (".cfg", ".txt", ".json", ".lua", ".ruleset"):
        return
    draw = random.Random(path.name)
    for quoted in _QUOTED.findall(read(path)):
        text = clean(re.sub(r"\\[nt]", " ", max(quoted)).replace('\\"', '"'))
        if text.count(" ") > 4 and text[-1] in ".!?\"')" and not re.search(r"[<{$=|]", text):  # none with a gap to fill
            yield from passages(text, draw)


def sayings(path: Path) -> Iterator[str]:
    """Entries of a file of fortunes, quotations for the most part."""
    draw = random.Random(path.name)
    if not path.suffix:
        for entry in read(path).split("\n%\n"):
            yield from passages(entry, draw)


def vignette(path: Path) -> Iterator[str]:
    """Paragraphs of an R package's vignette, code and mark-up left out."""
    draw = random.Random(path.name)
    for paragraph in re.split(r"\n\s*\n|\\item\b", _LISTING.sub("", read(path))):
        paragraph = _MARKS.sub("", _REFERENCE.sub("", paragraph))
        letters = sum(char.isalpha() or char == " " for char in paragraph)
        if 40 < len(paragraph) < 2500 and letters > 0.8 * len(paragraph):
            yield from passages(paragraph, draw)


def concepts(path: Path) -> Iterator[tuple[list[str], str, str]]:
    """Names, the first of them its own, definition and comment of each term of an ontology.

    The ontology is a file in OBO format, or the database that R's GO.db brings. How one process regulates another is
    left out: ten thousand of its definitions differ by a name alone.
    """
    for names, definition, comment in (_database if path.suffix == ".sqlite" else _obo)(path):
        if definition and "regulation of " not in names[0] and not definition.startswith("OBSOLETE"):
            yield names, definition, comment


def _database(path: Path) -> Iterator[tuple[list[str], str, str]]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as database:
        synonyms: dict[int, list[str]] = {}
        for number, synonym in database.execute("SELECT _id, synonym FROM go_synonym"):
            if not synonym.startswith("GO:"):
                synonyms.setdefault(number, []).append(synonym)
        for number, name, definition in database.execute("SELECT _id, term, definition FROM go_term ORDER BY _id"):
            yield [name, *synonyms.get(number, ())], clean(definition or ""), ""


def _obo(path: Path) -> Iterator[tuple[list[str], str, str]]:
    for stanza in path.read_text("utf-8", "replace").split("\n\n"):
        name, definition, comment = (
            clean("".join(re.findall(rf"(?m)^{line}$", stanza)[:1]).replace('\\"', '"').replace("\\n", " "))
            for line in ("name: (.+)", r'def: "(.+)" \[.*', "comment: (.+)")
        )
        if stanza.startswith("[Term]") and name:
            yield [name, *re.findall(r'(?m)^synonym: "(.+)" (?:EXACT|NARROW)', stanza)], definition, comment


def ontology(path: Path) -> Iterator[str]:
    """Names, definitions and comments of an ontology's terms."""
    draw = random.Random(path.name)
    for names, definition, comment in concepts(path):
        name = draw.choice(names)
        yield name
        yield f"{name}: {definition}" if draw.random() < 0.3 else definition
        yield from passages(comment, draw)


def speeches(path: Path) -> Iterator[str]:
    """Addresses of presidents, in the public domain, out of JSON lines that hold other texts too."""
    draw = random.Random(path.name)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            if entry.get("source") in ("inaugural", "state_union"):
                for paragraph in entry["text"].split("\n"):
                    yield from passages(paragraph, draw)


def table(path: Path) -> Iterator[str]:
    """Every cell of a tab-separated table, and every string of JSON lines, that reads as text."""
    draw = random.Random(path.name)
    for line in read(path).splitlines()[1 if ".tsv" in path.name else 0 :]:
        cells = (
            line.split("\t") if ".tsv" in path.name else [v for v in json.loads(line).values() if isinstance(v, str)]
        )
        for cell in cells:
            if len(cell) > LONGEST:
                yield from passages(cell, draw)
            elif " " in cell:
                yield clean(cell)


def described(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Summary and paragraphs of each package of an index of descriptions, whatever it is compressed with."""
    shown = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], capture_output=True, check=False)
    seen: set[str] = set()
    for summary, body in re.findall(
        r"(?m)^Description-en: (.*)\n((?: .*\n?)*)", shown.stdout.decode("utf-8", "replace")
    ):
        paragraphs = [clean(part)[:LONGEST] for part in re.split(r"\n \.\n", body)]
        if paragraphs[0][:60] not in seen:
            seen.add(paragraphs[0][:60])
            yield summary, paragraphs


def descriptions(path: Path) -> Iterator[str]:
    """Summaries and paragraphs of an index of package descriptions."""
    for summary, paragraphs in described(path):
        yield summary
        yield from (part for part in paragraphs if len(part) > 40)


ASKED = ("python ", "python how to ", "how to ", "")  # in front of a function's name
# Readers of which only English is kept.
PROSE = ("manuals", "documentation", "chapters", "perl", "descriptions", "stories", "fortunes", "vignettes")
READERS: dict[str, tuple[str, Reader]] = {
    # name → what its files are called below a root, and how they are read
    "wordnet": ("usr/share/wordnet/data.*", wordnet),
    "dictionaries": ("usr/share/dictd/*.index", dictionary),
    "manuals": ("usr/share/man/man[1-8]/*.gz", manual),
    "documentation": ("usr/share/doc/**/*.html", web),
    "chapters": ("usr/share/doc/**/*.html", chapters),
    "perl": ("usr/share/perl/**/*.pod", prose),
    "descriptions": ("var/lib/apt/lists/*_i18n_Translation-en*", descriptions),
    "python": ("usr/lib/python3*/**/*.py", python),
    "stories": ("usr/share/games/*/**/*.*", spoken),
    "fortunes": ("usr/share/games/fortunes/*", sayings),
    "processes": ("usr/lib/R/site-library/GO.db/extdata/GO.sqlite", ontology),
    "phenotypes": ("usr/lib/python3*/**/*.obo", ontology),
    "vignettes": ("usr/lib/R/site-library/*/doc/*.R[mn][dw]", vignette),
}


def gather(
    reader: Reader, files: Iterable[Path], most: int, keep: Callable[[str], bool] = bool, seed: int = 0,
    of: Callable[[Path], str] = str,
) -> list[str]:  # fmt: skip
    """At most `most` distinct texts of files; the collections that files belong to take turns, each by chance.

    Args:
        reader: what reads a file.
        files: in any order.
        most: how many texts.
        keep: which texts.
        seed: of the order.
        of: file → name of its collection; so that a manual in ten thousand pages does not crowd out ten others.
    """
    return collected(reader, files, most, lambda text: len(text) <= LONGEST and keep(text), seed, of)


def collected(
    reader: Callable[[Path], Iterator[Item]], files: Iterable[Path], most: int, keep: Callable[[Item], bool],
    seed: int = 0, of: Callable[[Path], str] = str,
) -> list[Item]:  # fmt: skip
    """As `gather`, of whatever a reader yields."""
    draw = random.Random(seed)
    parts: dict[str, list[Path]] = {}
    for path in sorted(files):
        parts.setdefault(of(path), []).append(path)
    for part in parts.values():
        draw.shuffle(part)
    rounds = list(parts.values())
    draw.shuffle(rounds)
    found: dict[Item, None] = {}
    for path in filter(None, itertools.chain.from_iterable(itertools.zip_longest(*rounds))):
        if len(found) >= 2 * most:
            break
        try:
            found.update(dict.fromkeys(item for item in reader(path) if keep(item)))
        except (OSError, ValueError, EOFError, zlib.error, sqlite3.Error):
            continue  # a file that is not what it is called is no reason to stop
    items = list(found)
    random.Random(seed).shuffle(items)
    return items[:most]
