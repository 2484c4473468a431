"""Rows that stand in for those of a `RowStore` while an overlay lies on it: edits that leave no trace.

    with store.overlay() as edit:            # what is written now is written here
        store.write([spain], store.rows([germany]))
        …
        edit.save("spain.edit")
    with store.overlay(Overlay.load("spain.edit")):
        …

Overlays nest, the upper one wins, and leaving one uncovers exactly what was below it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt

__all__ = ["Overlay"]

KIND = "row overlay"


class Overlay:
    """Keys and the rows they have instead.

    Args:
        keys: int64 [n]; of one given twice the last row counts.
        rows: float32 [n, layers, width], or [n, width] for a table of one layer. They are kept as they are, whatever
            the table rounds to.
    """

    def __init__(self, keys: Any = (), rows: Any = None) -> None:
        keys = np.asarray(keys, dtype=np.int64).reshape(-1)
        rows = np.zeros((0, 0, 0), dtype=np.float32) if rows is None else np.asarray(rows, dtype=np.float32)
        if rows.ndim == 2:
            rows = rows[:, None]
        if rows.ndim != 3 or len(rows) != len(keys):
            raise BadInput(f"an overlay takes a row a key, got {len(keys)} keys and rows {rows.shape}")
        if not np.isfinite(rows).all():
            raise BadInput("an overlay takes finite rows, got NaN or infinity")
        self.keys, self.rows = _last(keys, rows)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Overlay({len(self)} keys)"

    def over(self, below: Overlay) -> Overlay:
        """Both in one: these rows where there are any, those of `below` elsewhere."""
        if not len(self) or not len(below):
            return self if len(self) else below
        if self.rows.shape[1:] != below.rows.shape[1:]:
            raise BadInput(f"overlays of rows {self.rows.shape[1:]} and {below.rows.shape[1:]} do not fit one table")
        return Overlay(np.concatenate([below.keys, self.keys]), np.concatenate([below.rows, self.rows]))

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of keys int64 [n] those that are here: their places in `keys`, and in this overlay."""
        place = np.searchsorted(self.keys, keys)
        place[place == len(self.keys)] = 0
        here = np.flatnonzero(self.keys[place] == keys)
        return here, place[here]

    def save(self, path: str | Path) -> Path:
        """Write to one small file (safetensors), whole or not at all."""
        return sealed.write(path, {"keys": self.keys, "rows": self.rows}, {"kind": KIND})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `Corrupt` where the file is damaged or cut short."""
        arrays, _ = sealed.read(path, KIND)
        try:
            return cls(arrays["keys"], arrays["rows"])
        except (KeyError, ValueError) as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); {sealed.REPAIR}") from None


def _last(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending distinct keys, each with the last of its rows."""
    order = np.argsort(keys, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(keys[order])), len(keys) - 1) if len(keys) else order
    return keys[order[ends]], np.ascontiguousarray(rows[order[ends]])
