"""The model card: what a model was trained on, how long, with what seed and result, in words and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Card", "write_card"]

WATTS_A_THREAD = 15.0  # a busy core of a server with its share of memory and power supply


@dataclass
class Card:
    """Facts of a training run.

    Args:
        name: of the model.
        title: one line.
        model: what it is, as its repr shows it.
        parameters: learnt numbers.
        sources: name → {"rows": …, "kind": …, "of": what it was made from}.
        stages: settings of each stage.
        seed: of the run.
        steps: updates.
        rows: rows seen.
        tokens: tokens seen.
        seconds: of training, without data preparation.
        threads: busy while it trained.
        stopped: `finished` or `time`.
        before: figures of the untrained model.
        after: figures of the trained one.
        licence: of the weights.
        teacher: what taught it, or "".
        teacher_licence: of that.
    """

    name: str
    title: str = ""
    model: str = ""
    parameters: int = 0
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    steps: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    threads: int = 1
    stopped: str = ""
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    licence: str = "Apache-2.0"
    teacher: str = ""
    teacher_licence: str = ""

    @property
    def watt_hours(self) -> float:
        """An estimate, see `WATTS_A_THREAD`."""
        return self.seconds / 3600 * self.threads * WATTS_A_THREAD

    def to_dict(self) -> dict[str, Any]:
        """The facts, with the estimate and what it rests on."""
        energy = {"watt_hours": round(self.watt_hours, 2), "assumed": f"{WATTS_A_THREAD:g} W a busy thread"}
        machine = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
        return dataclasses.asdict(self) | {"energy": energy, "on": machine}

    def to_markdown(self) -> str:
        """The card in words, with the front matter that model hubs read."""
        minutes = self.seconds / 60
        ended = {"finished": "all of its steps", "time": "the time it was given"}.get(self.stopped, self.stopped)
        lines = ["---", f"license: {self.licence.lower()}", "library_name: inlay", "tags: [sentence-similarity]", "---"]
        lines += ["", f"# {self.name}", "", self.title, "", f"`{self.model}`, {self.parameters:,} parameters.", ""]
        if self.teacher:
            lines += [f"Taught by {self.teacher} ({self.teacher_licence or 'licence not stated'}).", ""]
        lines += ["## Data", "", "| source | rows | kind | made from |", "|---|---|---|---|"]
        for name, facts in self.sources.items():
            lines.append(f"| {name} | {facts['rows']:,} | {facts['kind']} | {facts.get('of', '')} |")
        lines += ["", "## Training", ""]
        lines.append(f"{self.steps:,} steps over {self.rows:,} rows ({self.tokens:,} tokens), seed {self.seed}.")
        lines.append(f"It took {minutes:.1f} minutes on {self.threads} threads and used up {ended}.")
        lines.append(
            f"Energy: about {self.watt_hours:.2g} Wh, an estimate that assumes {WATTS_A_THREAD:g} W for each busy "
            "thread; nothing was metered."
        )
        if self.stages:
            lines += ["", "```json", *(json.dumps(stage, ensure_ascii=False) for stage in self.stages), "```"]
        if self.after:
            lines += ["", "## Figures on rows held out of its own sources", ""]
            lines += ["| figure | untrained | trained |", "|---|---|---|"]
            for name, value in self.after.items():
                start = f"{self.before[name]:.3f}" if name in self.before else ""
                lines.append(f"| {name} | {start} | {value:.3f} |")
            lines += ["", "They show that it learnt, not how it does elsewhere: measure that with `inlay eval`."]
        return "\n".join(lines) + "\n"


def write_card(folder: str | Path, card: Card) -> None:
    """Write README.md and card.json into a model's folder."""
    folder = Path(folder)
    (folder / "README.md").write_text(card.to_markdown(), encoding="utf-8")
    text = json.dumps(card.to_dict(), indent=2, ensure_ascii=False)
    (folder / "card.json").write_text(text + "\n", encoding="utf-8")
