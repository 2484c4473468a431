"""What an index says of itself: how it was built, and which setting finds how much.

A user asks for recall; an index has a knob. `found_setting` measures where the knob has to stand, and the card keeps
the answer, so that `search(recall=0.95)` means something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inlay.errors import BadInput

__all__ = ["Card", "found_setting"]


@dataclass
class Card:
    """Args:
    rows: how many were added.
    seconds: that adding them took.
    recalls: for each k, the setting that reached each recall.
    facts: whatever else was measured of the rows (local intrinsic dimension, order of insertion).
    """

    rows: int = 0
    seconds: float = 0.0
    recalls: dict[int, dict[float, int]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def built(self, rows: int, seconds: float) -> None:
        """Count rows that were added; what was measured before holds no more."""
        self.rows, self.seconds = self.rows + rows, self.seconds + seconds
        self.recalls.clear()

    def setting(self, recall: float, k: int, name: str) -> int:
        """The least setting that was measured to reach a recall."""
        table = self.recalls.get(k, {})
        enough = [setting for reached, setting in table.items() if reached >= recall]
        if not enough:
            known = f"up to {max(table):.3g} for k={k}" if table else f"nothing for k={k}"
            raise BadInput(f"{known} was measured; call calibrate(queries, k={k}, recalls=({recall},)) or give {name}")
        return min(enough)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        recalls = [[k, recall, setting] for k, table in self.recalls.items() for recall, setting in table.items()]
        return {"rows": self.rows, "seconds": self.seconds, "recalls": recalls, "facts": self.facts}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Card:
        """The reverse of `to_dict`."""
        card = cls(values["rows"], values["seconds"], facts=values["facts"])
        for k, recall, setting in values["recalls"]:
            card.recalls.setdefault(k, {})[recall] = setting
        return card


def found_setting(recall_at: Callable[[int], float], target: float, low: int, high: int) -> int | None:
    """The least setting in [low, high] whose recall reaches the target, by doubling and bisection; None if none does.

    Recall is taken to rise with the setting, as it does but for noise.
    """
    if not 0 < target <= 1:
        raise BadInput(f"a recall lies above 0 and at most at 1, got {target!r}")
    below, at = low - 1, low
    while recall_at(at) < target:
        if at == high:
            return None
        below, at = at, min(2 * at, high)
    while at - below > max(1, at // 32):
        middle = (at + below) // 2
        if recall_at(middle) >= target:
            at = middle
        else:
            below = middle
    return at
