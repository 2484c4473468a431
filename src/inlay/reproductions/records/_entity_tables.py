"""Two tables of records and the pairs that match, of the DeepMatcher / Magellan benchmark sets, split 3:1:1."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

from inlay.errors import BadInput

__all__ = ["Judged", "Tables", "entity_tables"]

SPLITS = ("train", "valid", "test")
Pairs = list[tuple[int, int]]


class Judged(NamedTuple):
    """Records that ask, the records among which they look, and the pairs (of their positions) that match.

    Where `among` is None the asking records look among themselves.
    """

    asking: list[dict[str, Any]]
    among: list[dict[str, Any]] | None
    matches: Pairs


class Tables(NamedTuple):
    """The distinct records of both sides, and labelled pairs of each split."""

    left: list[dict[str, Any]]
    right: list[dict[str, Any]]
    matches: dict[str, Pairs]
    non_matches: dict[str, Pairs]

    def judged(self, split: str) -> Judged:
        """Records of the left table whose matches are all of this split; they look in the whole right table.

        Their matches alone count. A record that also has a match in another split is left out.
        """
        elsewhere = {a for name in SPLITS if name != split for a, _ in self.matches[name]}
        own = sorted({a for a, _ in self.matches[split]} - elsewhere)
        place = {a: at for at, a in enumerate(own)}
        pairs = [(place[a], b) for a, b in self.matches[split] if a in place]
        return Judged([self.left[a] for a in own], self.right, pairs)


def entity_tables(data: Path, name: str) -> Tables:
    """Read `entity_matching/<name>.jsonl.gz`."""
    path = data / "entity_matching" / f"{name}.jsonl.gz"
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    sides: dict[str, dict[tuple[Any, ...], int]] = {"left": {}, "right": {}}
    labelled: dict[int, dict[str, Pairs]] = {label: {split: [] for split in SPLITS} for label in (0, 1)}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines():
        row = json.loads(line)
        a, b = (sides[side].setdefault(tuple(row[side].items()), len(sides[side])) for side in sides)
        labelled[row["label"]][row["split"]].append((a, b))
    left, right = ([dict(record) for record in table] for table in sides.values())
    return Tables(left, right, labelled[1], labelled[0])
