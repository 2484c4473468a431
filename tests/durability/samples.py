"""A small collection with everything in it that a large one has, and the fixed questions that are put to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import inlay
from durability.fakes import Words
from inlay.collection import segment

__all__ = ["QUESTIONS", "ask", "build", "reopen"]


def build(path: Path, small: int = 4096) -> None:
    """Large and small segments (on disk and in the catalog), deleted rows, free pages, settings, long texts."""
    rng = random.Random(5)
    before, segment.INLINE = segment.INLINE, small
    try:
        with inlay.open(path, encoder=Words(16), chunk=200) as c:
            c.add([_document(rng, i) for i in range(120)])
            c.add([_document(rng, i, 120) for i in range(120, 130)])
            c.add([_document(rng, i) for i in range(130, 132)])
            c.update([_document(rng, i) for i in range(0, 120, 17)])
            c.delete([f"d{i}" for i in range(5, 120, 13)])
            c.settings["folder"] = "/somewhere"
            kinds = c._catalog.all("SELECT space, data IS NULL FROM segments GROUP BY 1, 2")
            assert len(kinds) == 4, "both spaces have segments of both kinds"
    finally:
        segment.INLINE = before


def _document(rng: random.Random, i: int, words: int = 30) -> dict[str, Any]:
    text = " ".join(f"w{min(rng.randrange(200), rng.randrange(200))}" for _ in range(words))
    return {"id": f"d{i}", "text": f"doc{i} {text}", "n": i, "tags": [f"t{rng.randrange(6)}", f"u{i % 3}"]}


def reopen(path: Path, mode: Any = "a") -> inlay.Collection:
    """Open what `build` made."""
    return inlay.open(path, encoder=Words(16), mode=mode)


QUESTIONS: dict[str, Any] = {
    "len": len,
    "iterate": lambda c: [(d.id, d.text, d.metadata) for d in c],
    "get": lambda c: [c.get(f"d{i}") for i in range(135)],
    "settings": lambda c: dict(c.settings),
    "vectors": lambda c: [(name, row.tobytes()) for name, row in zip(*c.vectors())],
} | {
    f"{mode} {query} {where}": lambda c, mode=mode, query=query, where=where: [
        (h.id, h.chunk, h.text, h.metadata, round(h.score, 5)) for h in c.search(query, 8, mode=mode, where=where)
    ]
    for mode in ("lexical", "dense", "hybrid")
    for query in ("w3 w70", "doc44 w1", "w150 w151 w152")
    for where in (None, {"n": {"$lt": 60}}, {"tags": {"$in": ["t1", "u2"]}})
}


def ask(c: inlay.Collection) -> dict[str, Any]:
    """Every question with its answer, or the `InlayError` in place of it. Any other error is raised."""
    answers: dict[str, Any] = {}
    for name, question in QUESTIONS.items():
        try:
            answers[name] = question(c)
        except inlay.InlayError as error:
            answers[name] = error
    return answers
