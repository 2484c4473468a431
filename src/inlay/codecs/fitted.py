"""What every codec of single rows has in common: a name, `|` with maps before it, learnt arrays, and one file.

`Fitted` adds to `Composable` what codecs have that learn from rows: the width they were fitted on, checks of what is
encoded, and a file.

A codec says in one of three ways what a query's dot product with its codes is made of, and that decides how fast an
index reads them (`inlay.indexes.Coded`):

- `linear(query)`: numbers as they lie in the codes, times a vector, plus a constant (`Linear`);
- `tables(query)`: the sum over the parts of a row of a table's entry that the part's code names (`Tables`);
- `signs`: bits on both sides, compared by counting those that differ.

A codec with none of them is decoded a block of rows at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from inlay import sealed
from inlay.codecs.composable import Composable
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.kernels.code_scan import Linear, Tables

__all__ = ["Fitted", "Linear", "Tables", "checked_query"]


class Fitted(Composable, ABC):
    """A codec that learns from rows; a subclass names its settings and its arrays.

    Attributes:
        dim: width of the rows it was fitted on, 0 before.
    """

    KIND: ClassVar[str] = "codec"

    def __init__(self) -> None:
        self.dim = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return {}

    @property
    def fixed_nbytes(self) -> int:
        """Bytes of what was learnt, kept once whatever the number of rows."""
        return sum(array.nbytes for array in self.arrays().values())

    def fit(self, rows: np.ndarray) -> Self:
        """Learn from float32 rows [n, dim], n at least 1; a sample of 100,000 is enough."""
        rows = _finite(rows)
        if not rows.size:
            raise BadInput(f"{self!r} is fitted on at least one row of one number, got {list(rows.shape)}")
        self._learn(rows)
        self.dim = rows.shape[1]
        return self

    @abstractmethod
    def _learn(self, rows: np.ndarray) -> None:
        """Learn from rows that are finite."""

    @abstractmethod
    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        """Take learnt arrays of a file; ValueError or KeyError where they do not fit."""

    @abstractmethod
    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes of float32 rows [n, dim]."""

    @abstractmethod
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim] of codes."""

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 dot products [n] of what they decode to with a query [dim].

        The query stays exact ("asymmetric") unless the codec was made to score symmetrically.
        """
        query = checked_query(query, self.width_of_rows)

        def score(codes: np.ndarray) -> np.ndarray:
            return self.decode(codes) @ query

        return score

    @property
    def width_of_rows(self) -> int:
        """Width of the rows it encodes; an error before `fit`."""
        self._need()
        return self.dim

    @abstractmethod
    def nbytes(self, dim: int) -> int:
        """Bytes of one row of `dim` numbers."""

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Of what `arrays` and `settings` gave; `settings` also has `dim`."""
        try:
            settings = dict(settings)
            dim = settings.pop("dim")
            if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
                raise ValueError(f"a width of {dim!r}")
            made = cls(**settings)
            made._take(arrays, dim)
        except (BadInput, KeyError, TypeError, ValueError, IndexError) as error:
            raise Corrupt(f"what was learnt does not fit its settings ({error}); {sealed.REPAIR}") from None
        made.dim = dim
        return made

    def save(self, path: str | Path) -> Path:
        """Write what was learnt to one file."""
        self._need()
        return sealed.write(path, self.arrays(), {"kind": self.KIND, "settings": self.settings() | {"dim": self.dim}})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, cls.KIND)
        settings: Any = facts.get("settings")
        return cls.restored(arrays, settings if isinstance(settings, dict) else {})

    def _need(self) -> None:
        if not self.dim:
            raise BadInput(f"{self!r} has learnt nothing yet; call fit(rows) first")

    def _fitting(self, rows: np.ndarray) -> np.ndarray:
        self._need()
        rows = _finite(rows)
        if rows.shape[1] != self.dim:
            raise SpaceMismatch(f"{self!r} was fitted on rows of {self.dim} numbers, got {rows.shape[1]}")
        return rows

    def _codes(self, codes: np.ndarray, dtype: Any = np.uint8) -> np.ndarray:
        """Codes as `encode` gave them, or an error that says what was expected."""
        self._need()
        codes = np.asarray(codes)
        wide = self.nbytes(self.dim) // np.dtype(dtype).itemsize
        if codes.ndim != 2 or codes.shape[1] != wide or codes.dtype != dtype:
            raise BadInput(
                f"expected codes {np.dtype(dtype).name} [n, {wide}], got {codes.dtype} {list(codes.shape)}; "
                "decode takes what encode gave"
            )
        return codes


def checked_query(query: np.ndarray, dim: int) -> np.ndarray:
    """One finite query, float32 [dim]."""
    query = np.asarray(query, dtype=np.float32)
    if query.shape != (dim,) or not np.isfinite(query).all():
        raise BadInput(f"expected one finite query [{dim}], got shape {list(query.shape)}")
    return query
