"""What a reproduction found, as it is kept in `results/<name>.json` and shown in `docs/systems.md`.

The verdict is about the claim as stated, on the data named, and nothing kinder: `shown` when the figures here bear it
out, `partly` when some of it holds, `not shown` when it does not. `detail` says why in plain words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import inlay
from inlay.errors import BadInput, Corrupt

__all__ = ["Figure", "Result", "Verdict", "read_results", "table"]

Verdict = Literal["shown", "partly", "not shown"]


class Figure(NamedTuple):
    """A measured value and what it was measured of."""

    name: str
    value: float


@dataclass
class Result:
    """A method beside its baseline.

    Args:
        name: of the reproduction; also of its file.
        title: of the method, as people call it.
        room: the room of the house the method lives in.
        source: the paper, with its identifier.
        claim: what the paper claims, in a sentence.
        paper: the figure the paper reports for it.
        metric: what `baseline` and `method` are values of.
        baseline: best honest alternative, on the same data, in the same run.
        method: the method.
        data: what it was measured on.
        verdict: `shown`, `partly` or `not shown`.
        detail: why the verdict is what it is, and what else was measured, in plain words.
        seconds: wall time of the whole reproduction.
        seeds: seeds that were used; empty where nothing is random.
        figures: every further figure, by name; whatever JSON can hold.
        version: of inlay.
    """

    name: str
    title: str
    room: str
    source: str
    claim: str
    paper: str
    metric: str
    baseline: Figure
    method: Figure
    data: str
    verdict: Verdict
    detail: str
    seconds: float
    seeds: tuple[int, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    version: str = inlay.__version__

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise BadInput(f"verdict {self.verdict!r} is not one of {', '.join(get_args(Verdict))}")
        self.baseline, self.method = Figure(*self.baseline), Figure(*self.method)
        self.seeds = tuple(self.seeds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        values["baseline"], values["method"] = self.baseline._asdict(), self.method._asdict()
        values["seeds"] = list(self.seeds)
        values["seconds"] = round(self.seconds, 1)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """The reverse of `to_dict`."""
        values = dict(values)
        for side in ("baseline", "method"):
            values[side] = Figure(**values[side])
        return cls(**values)

    def write(self, folder: str | Path) -> Path:
        """Write `<folder>/<name>.json`, whole or not at all."""
        path = Path(folder) / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".json.tmp")
        draft.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(draft, path)
        return path


def read_results(folder: str | Path) -> list[Result]:
    """All results of a folder, by room and name. JSON files of other kinds (benchmarks) are left aside."""
    results = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values, dict) and "verdict" in values:
                results.append(Result.from_dict(values))
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(f"{path} is not a result ({error}); write it again: inlay reproduce {path.stem}") from None
    return sorted(results, key=lambda result: (result.room, result.name))


def table(results: Iterable[Result]) -> str:
    """The page `docs/systems.md`."""
    results = list(results)
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in get_args(Verdict)}
    lines = [
        "# Systems",
        "",
        "Published methods in this package, each run against its baseline on the same data. This page is made of the",
        "files in `results/` by `inlay reproduce --table`; do not edit it. `inlay reproduce NAME` runs a row again.",
        "",
        f"{len(results)} method{'' if len(results) == 1 else 's'}: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        + ".",
        "",
        "| method | room | claim | paper | here | verdict | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        here = f"{result.metric}: {result.method.name} **{result.method.value:.4g}**"
        here += f", {result.baseline.name} {result.baseline.value:.4g}"
        row = [f"{result.title} (`{result.name}`)", result.room, result.claim, result.paper, here]
        row += [result.verdict, f"{result.seconds:.0f}"]
        lines.append("| " + " | ".join(map(_cell, row)) + " |")
    for result in results:
        lines += ["", f"## {result.title}", "", f"{result.source}. Data: {result.data}.", "", result.detail]
        if "curves" in result.figures:
            axes = result.figures.get("axes", {"x": "FLOPs", "y": "Training loss"})
            lines += ["", f"![{axes['y']} against {axes['x']}: {result.title}](curves/{result.name}.svg)"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
