"""What `inlay train box` learns from, what it looks at while learning, and what it must not see.

The text lies below the folders named in INLAY_TEXT ("/" if it is not set), and in those tables of the folder INLAY_DATA
that are under free licences. Sets that are used to judge are left out with every text that repeats 13 words of theirs.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from inlay.errors import BadInput
from inlay.io import atomic_write
from inlay.training.box_pairs import PAIRS, gather_pairs
from inlay.training.box_text import PROSE, READERS, english, gather, speeches, table
from inlay.training.example import Example, read, write
from inlay.training.mining import decontaminate
from inlay.training.sources import Source, docstring_code, graded, texts

__all__ = ["held_out", "pairs", "sources"]

# Tables of INLAY_DATA that hold English to learn from and may be learnt from in any model (MIT, CC BY).
TABLES = (
    "classification/clinc150", "classification/sentence_polarity", "text/gsm8k", "llm_routing/routing_mmlu",
)  # fmt: skip
IN_DATA = {"tables": table, "speeches": speeches}  # readers of what INLAY_DATA holds


def _data() -> Path | None:
    return Path(os.environ["INLAY_DATA"]) if os.environ.get("INLAY_DATA") else None


def held_out() -> tuple[list[Source], list[str]]:
    """Rows to look at while it learns; and every text that must not be learnt from."""
    data = _data()
    held = [docstring_code(most=700).split(600)[1]]
    if data is not None and (data / "pairs/stsb.tsv.gz").exists():
        held.append(graded(_sts(data, "dev"), symmetric=False, name="STS-B dev"))
    return held, [*(_judged(data) if data else ()), *(text for source in held for text in source.texts())]


def sources(most: int, kept: Path, resume: bool, judged: list[str]) -> list[Source]:
    """Text to learn from."""
    path = kept / "text.json"
    if not (resume and path.exists()):
        atomic_write(path, json.dumps(_gathered(most, _data(), judged), ensure_ascii=False).encode())
    try:
        held = dict(json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged ({error}); remove it, and the text is gathered again") from None
    found = [texts(items, name=name) for name, items in held.items()]
    if not found:
        raise BadInput("no text on this machine: install documentation, or name folders in INLAY_TEXT")
    return found


def pairs(most: int, kept: Path, resume: bool, judged: list[str]) -> list[Source]:
    """Questions and answers to learn from."""
    path = kept / "pairs.jsonl.gz"
    if not (resume and path.exists()):
        files, package = _files({name: pattern for name, (pattern, _, _) in PAIRS.items()})
        examples = []
        for name, paths in files.items():
            _, reader, share = PAIRS[name]
            wanted = round(1.1 * share * most)  # some are judged
            examples += [Example(a, [b], source=name) for a, b in gather_pairs(reader, paths, wanted, package)]
        part = path.with_name(f"part-{path.name}")  # half of the pairs must not pass for all of them
        write(part, decontaminate(Source("pairs", examples), judged))
        part.replace(path)
    of: dict[str, list[Example]] = {}
    for example in read(path):
        of.setdefault(example.source, []).append(example)
    if not of:
        raise BadInput("no pairs on this machine: install documentation, or name folders in INLAY_TEXT")
    return [Source(name, examples) for name, examples in of.items()]


def _files(patterns: Mapping[str, str]) -> tuple[dict[str, list[Path]], Callable[[Path], str]]:
    """Name → files below the folders of INLAY_TEXT; and file → what package it belongs to."""
    roots = [Path(root) for root in os.environ.get("INLAY_TEXT", "/").split(os.pathsep)]

    def package(path: Path) -> str:
        root = next(root for root in roots if path.is_relative_to(root))
        parts = path.relative_to(root).parts
        return "/".join(parts[: 5 if "dist-packages" in parts else 4])  # usr/share/doc/PACKAGE

    return {name: [p for root in roots for p in root.glob(pattern)] for name, pattern in patterns.items()}, package


def _gathered(most: int, data: Path | None, judged: list[str]) -> dict[str, list[str]]:
    files, package = _files({name: pattern for name, (pattern, _) in READERS.items()})
    if data is not None:
        files["tables"] = [data / f"{name}{end}" for name in TABLES for end in (".tsv.gz", ".jsonl.gz")]
        files["speeches"] = [data / "text/english_text.jsonl.gz"]
        files |= {name: [path for path in files[name] if path.exists()] for name in IN_DATA}
    there = {name: paths for name, paths in files.items() if paths}
    share = 2 * most // max(1, len(there))  # more than is needed: not every reader finds its share
    found = {
        name: gather(READERS[name][1], paths, share, english if name in PROSE else bool, of=package)
        if name in READERS
        else gather(IN_DATA[name], paths, share)
        for name, paths in there.items()
    }
    over = max(sum(map(len, found.values())) / most, 1)
    of = {text: name for name, part in found.items() for text in part[: max(1, int(len(part) / over))]}
    clean: dict[str, list[str]] = {}
    for example in decontaminate(texts(of), judged):  # all at once: reading what is judged takes longest
        clean.setdefault(of[example.query], []).append(example.query)
    return clean


def _judged(data: Path) -> Iterator[str]:
    """Texts of every set that is used to judge."""
    for qrels in sorted(data.glob("*/qrels.tsv")):
        for name in ("corpus", "queries"):
            for path in sorted(qrels.parent.glob(f"{name}.jsonl*")):
                with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path) as lines:
                    for line in lines:
                        entry = json.loads(line)
                        yield from (entry[key] for key in ("title", "text") if entry.get(key))
    if (data / "pairs/stsb.tsv.gz").exists():
        yield from (text for a, b, _ in _sts(data, "test") for text in (a, b))


def _sts(data: Path, split: str) -> list[tuple[str, str, float]]:
    with gzip.open(data / "pairs/stsb.tsv.gz", "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    return [(a, b, float(score)) for lang, part, score, a, b in rows[1:] if lang == "en" and part == split]
