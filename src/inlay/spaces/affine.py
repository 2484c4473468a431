"""Maps of rows into another space that are affine, and maps one after another.

An affine map takes a row x to (x − mean) · matrix. Two of them are again one, so that a composition of any number costs
what one costs: `Composed` collapses them once they are fitted.

    PCA(192) | Truncate(64)            # one map
    PCA(192) | Float8()                # with a codec behind it: a codec of the whole rows
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt, SpaceMismatch

__all__ = ["AffineMap", "Composed", "Map", "checked"]


class Map:
    """A map that is fitted, has a name, and joins others by `|`; a subclass says what it learns and does."""

    KIND: ClassVar[str] = "map"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

    def __or__(self, then: Any) -> Any:
        """Another map after this one; a codec on the right makes a codec of both."""
        if hasattr(then, "encode") or not (hasattr(then, "transform") and hasattr(then, "fit")):
            return NotImplemented
        return Composed([self, then])

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {}

    @property
    def spec(self) -> dict[str, Any]:
        """What it is, as JSON: the class and its arguments."""
        return {"map": type(self).__name__, **self.settings}

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of what was learnt."""
        return sum(array.nbytes for array in self.arrays().values())

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Learn from rows [n, dim]; Y is not used."""
        raise NotImplementedError

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, width] of rows [n, dim]."""
        raise NotImplementedError

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, dim] of mapped rows: as near to what they were as the map lets one come."""
        raise BadInput(f"there is no way back through {self!r}; score rows where they are mapped to")

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return {}

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        """Take learnt arrays of a file; KeyError, TypeError or ValueError where they do not fit."""
        raise NotImplementedError

    @classmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """The same map again, of its settings and arrays.

        Raises:
            KeyError, TypeError, ValueError: they do not fit each other.
        """
        made = cls(**settings)
        made._take(arrays)
        return made

    def save(self, path: str | Path) -> Path:
        """Write what was learnt to one file."""
        self._need()
        return sealed.write(path, self.arrays(), {"kind": self.KIND, "settings": self.settings})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, cls.KIND)
        try:
            return cls.restored(facts["settings"], arrays)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); {sealed.REPAIR}") from None

    def _need(self) -> None:
        if not self.fitted:
            raise BadInput(f"{self!r} has learnt nothing yet; call fit(rows) first")

    def _fitting(self, X: Any, width: int, what: str = "rows") -> np.ndarray:
        self._need()
        rows = checked(X)
        if rows.shape[1] != width:
            raise SpaceMismatch(f"{self!r} was fitted for {what} of {width} numbers, got {rows.shape[1]}")
        return rows


class AffineMap(Map):
    """x → (x − mean) · matrix.

    Attributes:
        mean: float32 [dim].
        matrix: float32 [dim, width].
    """

    KIND = "affine map"

    def __init__(self) -> None:
        self.mean = np.zeros(0, dtype=np.float32)
        self.matrix = np.zeros((0, 0), dtype=np.float32)

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return self.matrix.size > 0

    @property
    def width(self) -> int:
        """Numbers of a row that comes out; 0 before `fit`."""
        return self.matrix.shape[1]

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, width] of rows [n, dim]."""
        return (self._fitting(X, len(self.mean)) - self.mean) @ self.matrix

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, dim] of mapped rows; what the map left out is at its mean."""
        rows = self._fitting(X, self.width, "mapped rows")
        return rows @ self._back() + self.mean

    def _back(self) -> np.ndarray:
        """[width, dim], what undoes the matrix; of orthonormal columns, its transpose."""
        return np.linalg.pinv(self.matrix.astype(np.float64)).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return {"mean": self.mean, "matrix": self.matrix}

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        self._set(arrays["mean"], arrays["matrix"])

    def _set(self, mean: np.ndarray, matrix: np.ndarray) -> None:
        mean, matrix = (np.ascontiguousarray(one, dtype=np.float32) for one in (mean, matrix))
        if mean.ndim != 1 or matrix.ndim != 2 or len(matrix) != len(mean) or not matrix.size:
            raise ValueError(f"a map of {list(matrix.shape)} with a mean of {list(mean.shape)}")
        self.mean, self.matrix = mean, matrix


class Composed(Map):
    """Maps one after another; where all are affine they become one.

    Args:
        maps: in the order they are applied; compositions among them are taken apart.
    """

    KIND = "composed map"

    def __init__(self, maps: Sequence[Any]) -> None:
        self.maps: list[Any] = [one for each in maps for one in (each.maps if isinstance(each, Composed) else [each])]
        if len(self.maps) < 2 or not all(hasattr(one, "transform") for one in self.maps):
            raise BadInput(f"a composition is of at least two maps, got {list(maps)!r}")
        self._one: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # mean of the first, matrix, offset

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.maps))

    @property
    def spec(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"map": "Composed", "maps": [_spec(one) for one in self.maps]}

    @property
    def fitted(self) -> bool:
        """Whether every part was fitted."""
        return all(getattr(one, "fitted", True) for one in self.maps)

    @property
    def width(self) -> int:
        """Numbers of a row that comes out; 0 before `fit`."""
        return int(self.maps[-1].width)

    @property
    def collapsed(self) -> bool:
        """Whether the maps are applied as one."""
        return self._one is not None

    @property
    def nbytes(self) -> int:
        """Bytes of what has to be kept: of the one map where they collapsed, else of all."""
        if self._one is not None:
            return sum(array.nbytes for array in self._one)
        return sum(int(one.nbytes) for one in self.maps)

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Fit each map on what those before it give; Y is not used."""
        rows = checked(X)
        for one in self.maps:
            rows = one.fit(rows).transform(rows)
        self._collapse()
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, width] of rows [n, dim]."""
        self._need()
        if self._one is not None:
            mean, matrix, offset = self._one
            return (self._fitting(X, len(mean)) - mean) @ matrix + offset
        rows = checked(X)
        for one in self.maps:
            rows = one.transform(rows)
        return rows

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Back through every map, the last one first."""
        self._need()
        rows = checked(X)
        for one in reversed(self.maps):
            if not hasattr(one, "inverse_transform"):
                raise BadInput(f"there is no way back through {one!r}")
            rows = one.inverse_transform(rows)
        return rows

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by number of the map and name."""
        return {f"{i}.{name}": array for i, one in enumerate(self.maps) for name, array in one.arrays().items()}

    @property
    def settings(self) -> dict[str, Any]:
        """The classes and settings of the maps."""
        return {"maps": [{"class": type(one).__name__, "settings": one.settings} for one in self.maps]}

    @classmethod
    def restored(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        """The same composition again, of `settings` and `arrays`."""
        maps = []
        for i, one in enumerate(settings["maps"]):
            own = {name.removeprefix(f"{i}."): array for name, array in arrays.items() if name.startswith(f"{i}.")}
            maps.append(map_named(one["class"]).restored(one["settings"], own))
        made = cls(maps)
        made._collapse()
        return made

    def _collapse(self) -> None:
        if not all(isinstance(one, AffineMap) for one in self.maps):
            return
        first, *rest = self.maps
        matrix, offset = first.matrix.astype(np.float64), np.zeros(first.width)
        for one in rest:
            matrix, offset = matrix @ one.matrix, (offset - one.mean) @ one.matrix
        self._one = first.mean, matrix.astype(np.float32), offset.astype(np.float32)


def map_named(name: Any) -> Any:
    """A public map of this room by the name of its class; ValueError where there is none."""
    from inlay import spaces

    found = getattr(spaces, name) if isinstance(name, str) and name in spaces.__all__ else None
    if not (isinstance(found, type) and hasattr(found, "transform") and hasattr(found, "restored")):
        raise ValueError(f"there is no map {name!r}")
    return found


def _spec(one: Any) -> dict[str, Any]:
    return one.spec if hasattr(one, "spec") else {"map": type(one).__name__, **one.settings}


def checked(X: Any) -> np.ndarray:
    """Rows float32 [n, dim] of finite numbers, or an error that names the first that is not."""
    try:
        rows = np.asarray(X, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"expected rows [n, dim], got {type(X).__name__}: {error}") from None
    if rows.ndim != 2 or not rows.shape[1]:
        raise BadInput(f"expected rows [n, dim], got an array of shape {list(rows.shape)}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise BadInput(f"row {row} holds NaN, infinity, or a number beyond float32")
    return rows
