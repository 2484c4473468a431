"""Where rows come from: plain texts, titles, neighbours, docstrings, classes, graded pairs, judgments, translations.

Each builder returns a `Source`. What a row needs of the trainer (its loss, whether in-batch negatives are sound, its
prompts) belongs to its source and travels with the batch.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from inlay.errors import BadInput
from inlay.training.example import Example, read
from inlay.training.views import View, plain

__all__ = [
    "BUILDERS",
    "Source",
    "docstring_code",
    "graded",
    "labelled",
    "neighbours",
    "parallel",
    "python_files",
    "qrels",
    "rows",
    "text_files",
    "texts",
    "title_body",
]

Kind = Literal["retrieval", "symmetric", "class", "cluster", "graded", "text"]
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")


@dataclass
class Source:
    """Rows of one kind.

    Args:
        name: what it is called in metrics and quotas.
        examples: the rows.
        kind: `retrieval`, `symmetric`, `class`, `cluster`, `graded` or `text`.
        loss: which of a stage's losses its batches get.
        in_batch: whether other rows' documents are sound negatives; False for classes with few members.
        show_query: view of queries.
        show_document: view of documents.
    """

    name: str
    examples: Sequence[Example]
    kind: Kind = "retrieval"
    loss: str = "default"
    in_batch: bool = True
    show_query: View = field(default=plain)
    show_document: View = field(default=plain)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> Example:
        return self.examples[row]

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self.kind}, {len(self)} rows)"

    def texts(self) -> list[str]:
        """Distinct texts in order of appearance: what a teacher encodes, a vocabulary counts."""
        return list(dict.fromkeys(text for example in self.examples for text in example.texts))

    def where(self, keep: Callable[[Example], bool]) -> Source:
        """The rows that `keep` wants."""
        return replace(self, examples=[example for example in self.examples if keep(example)])

    def split(self, count: int, seed: int = 0) -> tuple[Source, Source]:
        """(the other rows, `count` rows drawn at random). No row on the left shares a text with one on the right."""
        if not 0 < count < len(self):
            raise BadInput(f"cannot hold out {count} of the {len(self)} rows of {self.name!r}")
        chosen = set(np.random.default_rng(seed).permutation(len(self))[:count].tolist())
        held = [example for i, example in enumerate(self.examples) if i in chosen]
        seen = {text for example in held for text in (example.query, *example.pos)}
        rest = [e for i, e in enumerate(self.examples) if i not in chosen and not seen.intersection([e.query, *e.pos])]
        return replace(self, examples=rest), replace(self, examples=held)


def _source(name: str, examples: list[Example], kind: Kind) -> Source:
    for example in examples:
        example.source = name
    return Source(name, examples, kind)


def rows(path: str | Path, *, kind: Kind = "retrieval", name: str = "rows") -> Source:
    """A file that `inlay.training.write` wrote."""
    return _source(name, read(path), kind)


def texts(items: Iterable[str], *, name: str = "text") -> Source:
    """Plain texts, for distillation."""
    return _source(name, [Example(text) for text in dict.fromkeys(items) if text.strip()], "text")


def text_files(
    paths: str | Path | Iterable[str | Path], *, unit: Literal["document", "paragraph", "sentence"] = "paragraph",
    least: int = 20, name: str = "text",
) -> Source:  # fmt: skip
    """Texts of files: whole, by paragraph (parted by empty lines) or by sentence.

    Args:
        paths: files, or folders whose .txt, .md and .rst files are taken.
        unit: what a row is.
        least: shorter ones are left out, in characters.
        name: name of the source.
    """
    found = [part for path in _files(paths, (".txt", ".md", ".rst")) for part in _units(_text(path), unit)]
    return texts((part for part in found if len(part) >= least), name=name)


def title_body(documents: Iterable[Mapping[str, Any]], *, name: str = "title_body") -> Source:
    """Titles as queries, bodies as positives, of documents `{"title", "text"}`; those that lack one are left out."""
    pairs = ((str(d.get("title") or "").strip(), str(d.get("text") or "").strip()) for d in documents)
    return _source(name, [Example(title, [body]) for title, body in pairs if title and body], "retrieval")


def neighbours(
    documents: Iterable[str], *, unit: Literal["sentence", "paragraph"] = "paragraph", least: int = 20,
    name: str = "neighbours",
) -> Source:  # fmt: skip
    """Each unit with the one that follows it in the same document (cpt's pairs)."""
    found = []
    for document in documents:
        parts = [part for part in _units(document, unit) if len(part) >= least]
        found += [Example(a, [b]) for a, b in zip(parts, parts[1:]) if a != b]
    return _source(name, found, "symmetric")


def docstring_code(
    paths: str | Path | Iterable[str | Path] = "stdlib", *, body: Literal["code", "rest", "both"] = "code",
    least: int = 15, most: int = 4000, name: str = "docstring_code",
) -> Source:  # fmt: skip
    """Python definitions: the summary of a docstring, and what it summarises.

    Args:
        paths: files, folders, or "stdlib" for the library of the running interpreter.
        body: the positive: the definition without its docstring (`code`), name and rest of the docstring (`rest`),
            or name, rest and code (`both`).
        least: shorter summaries and bodies are left out, in characters.
        most: a body is cut after so many characters.
        name: name of the source.
    """
    if body not in ("code", "rest", "both"):
        raise BadInput(f"body must be code, rest or both, got {body!r}")
    found = []
    for path in python_files() if paths == "stdlib" else _files(paths, (".py",)):
        for title, docstring, code in _definitions(_text(path)):
            summary, _, rest = docstring.partition("\n\n")
            summary, rest = " ".join(summary.split()), " ".join(rest.split())
            parts = {"code": [code], "rest": [rest and f"{title}. {rest}"], "both": [title, rest, code]}[body]
            text = "\n".join(part for part in parts if part).strip()[:most]
            if len(summary) >= least and len(text) >= least and summary != text:
                found.append(Example(summary, [text]))
    return _source(name, found, "retrieval")


def labelled(
    items: Sequence[str], labels: Sequence[str | int], *, style: Literal["example", "label", "unique_id"] = "example",
    negatives: int = 4, names: Mapping[Any, str] | None = None, seed: int = 0, name: str = "labelled",
) -> Source:  # fmt: skip
    """Texts with classes.

    Args:
        items: the texts.
        labels: their classes.
        style: `example`: another text of the class is the positive, texts of others are negatives; `label`: the
            class's name is; `unique_id`: as `example`, with an id of the row at the end of its texts, which makes
            other rows' texts of the same class trivially distinguishable (Gecko).
        negatives: how many negatives to a row.
        names: class → its name, for `label`.
        seed: of the draw.
        name: name of the source.
    """
    if len(items) != len(labels):
        raise BadInput(f"{len(items)} texts with {len(labels)} labels")
    members: dict[Any, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        members[label].append(i)
    if len(members) < 2:
        raise BadInput(f"labelled texts need at least two classes, got {list(members)}")
    rng, classes = np.random.default_rng(seed), list(members)
    found = []
    for i, (text, label) in enumerate(zip(items, labels)):
        others = [c for c in classes if c != label]
        drawn = [others[n] for n in rng.integers(len(others), size=negatives)]
        if style == "label":
            called = names or {c: str(c) for c in classes}
            drawn = list(dict.fromkeys(drawn))
            found.append(Example(text, [called[label]], [called[c] for c in drawn], label=label, neg_labels=drawn))
            continue
        same = [n for n in members[label] if items[n] != text]
        if not same:
            continue
        end = f" [{i}]" if style == "unique_id" else ""
        pos = items[same[int(rng.integers(len(same)))]] + end
        neg = [items[members[c][int(rng.integers(len(members[c])))]] + end for c in drawn]
        found.append(Example(text + end, [pos], neg, label=label, neg_labels=list(drawn)))
    return _source(name, found, "class")


def graded(triples: Iterable[tuple[str, str, float]], *, symmetric: bool = True, name: str = "graded") -> Source:
    """Pairs with a gold similarity; with `symmetric`, each the other way round as well."""
    found = []
    for a, b, score in triples:
        found.append(Example(a, [b], score=float(score)))
        if symmetric and a != b:
            found.append(Example(b, [a], score=float(score)))
    return _source(name, found, "graded")


def qrels(
    corpus: Mapping[str, str], queries: Mapping[str, str], judged: Mapping[str, Mapping[str, int]], *,
    name: str = "qrels",
) -> Source:  # fmt: skip
    """Judged queries: documents with a grade above 0 are positives, those judged 0 are negatives.

    Positives that the corpus does not hold are left out, and so is a query without any.
    """
    found = []
    for query, grades in judged.items():
        pos = [d for d, grade in grades.items() if grade > 0 and d in corpus]
        neg = [d for d, grade in grades.items() if grade <= 0 and d in corpus]
        if pos and query in queries:
            texts_of = ([corpus[d] for d in pos], [corpus[d] for d in neg])
            found.append(Example(queries[query], *texts_of, doc_ids=pos + neg))
    return _source(name, found, "retrieval")


def parallel(pairs: Iterable[tuple[str, str]], *, name: str = "parallel") -> Source:
    """Texts that say the same: translations, paraphrases, captions of one picture."""
    return _source(name, [Example(a, [b]) for a, b in pairs if a.strip() and b.strip() and a != b], "symmetric")


def python_files() -> list[Path]:
    """The standard library of the running interpreter, without its tests and installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
    return sorted(path for path in root.rglob("*.py") if not out.intersection(path.relative_to(root).parts))


def _files(paths: str | Path | Iterable[str | Path], endings: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given).expanduser()
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix in endings and p.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise BadInput(f"no such file or folder: {path}")
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _units(text: str, unit: str) -> list[str]:
    if unit == "document":
        return [text.strip()]
    if unit not in ("paragraph", "sentence"):
        raise BadInput(f"unit must be document, paragraph or sentence, got {unit!r}")
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    parts = paragraphs if unit == "paragraph" else [s for part in paragraphs for s in SENTENCE.split(part)]
    return [part for part in parts if part]


def _definitions(text: str) -> Iterator[tuple[str, str, str]]:
    """(name in words, docstring, code without it) of every documented function, method and class."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another's doubtful escapes are not ours to report
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring:
            first, last = node.body[0].lineno - 1, node.body[0].end_lineno or node.body[0].lineno
            code = lines[node.lineno - 1 : first] + lines[last : node.end_lineno]
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", " ", node.name).strip()
            yield words, docstring, "\n".join(code)


BUILDERS: dict[str, Callable[..., Source]] = {
    "rows": rows,
    "text_files": text_files,
    "docstring_code": docstring_code,
}
