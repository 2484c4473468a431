"""A map and a codec behind it: `PCA(192) | Float8()` is a codec of whole rows.

Both are fitted on the same sample. A query is mapped once, and codes are scored where they are, in the space that the
map leads to; the scores are dot products there. What is kept once, the map and what the codec learnt, is
`fixed_nbytes`; what every row takes, `nbytes`.

Source: "Optimization of embeddings storage for RAG systems …" (arXiv 2505.00105): half of the dimensions in float8 are
an eighth of the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from inlay import sealed
from inlay.codecs.composable import Composable
from inlay.codecs.fitted import Fitted
from inlay.errors import BadInput, Corrupt
from inlay.kernels.code_scan import Linear, Tables
from inlay.spaces.affine import Composed, map_named

__all__ = ["Chain"]

KIND = "chain of a map and a codec"


class Chain(Composable):
    """Rows are mapped, then encoded.

    Args:
        map: a map with `fit` and `transform`; several are joined by `|` beforehand, or here by `map | chain`.
        codec: a codec of what the map gives.
    """

    def __init__(self, map: Any, codec: Any) -> None:
        if not (hasattr(map, "transform") and hasattr(map, "fit")):
            raise BadInput(f"a chain begins with a map (fit, transform), got {type(map).__name__}")
        if not all(hasattr(codec, name) for name in ("fit", "encode", "decode", "nbytes")):
            raise BadInput(f"a chain ends with a codec (fit, encode, decode, nbytes), got {type(codec).__name__}")
        if isinstance(codec, Chain):
            map, codec = Composed([map, codec.map]), codec.codec  # one chain, whose maps can become one
        self.map: Any = map
        self.codec: Any = codec

    def __repr__(self) -> str:
        return f"{self.map!r} | {self.codec!r}"

    @property
    def dim(self) -> int:
        """Width of the rows it was fitted on, 0 before."""
        first = self.map.maps[0] if isinstance(self.map, Composed) else self.map
        return _width_in(first)

    @property
    def width_of_rows(self) -> int:
        """Width of the rows it encodes; an error before `fit`."""
        self._need()
        return self.dim

    @property
    def signs(self) -> bool:
        """Whether queries are coded too and bits are counted."""
        return bool(getattr(self.codec, "signs", False))

    @property
    def fixed_nbytes(self) -> int:
        """Bytes of map and codec, kept once."""
        return int(self.map.nbytes) + fixed_nbytes(self.codec)

    def fit(self, rows: np.ndarray) -> Self:
        """Fit the map on rows [n, dim], and the codec on what it gives."""
        self.codec.fit(np.ascontiguousarray(self.map.fit(rows).transform(rows), dtype=np.float32))
        return self

    def mapped(self, rows: np.ndarray) -> np.ndarray:
        """Rows where the codec has them, float32 [n, width]."""
        return np.ascontiguousarray(self.map.transform(rows), dtype=np.float32)

    def encode(self, rows: np.ndarray) -> Any:
        """The codec's codes of mapped rows."""
        return self.codec.encode(self.mapped(rows))

    def decode(self, codes: Any) -> np.ndarray:
        """Float32 rows [n, dim]: decoded, and taken back through the map; what it left out is at its mean.

        Raises:
            BadInput: there is no way back through the map; `chain.codec.decode` gives the mapped rows.
        """
        back = getattr(self.map, "inverse_transform", None)
        if back is None:
            raise BadInput(f"there is no way back through {self.map!r}; chain.codec.decode gives the mapped rows")
        return np.asarray(back(self.codec.decode(codes)), dtype=np.float32)

    def scorer(self, query: np.ndarray) -> Callable[[Any], np.ndarray]:
        """A function from codes to float32 scores [n]: the codec's, of the mapped query."""
        return self.codec.scorer(self._asked(query))

    def linear(self, query: np.ndarray) -> Linear | None:
        """The codec's, of the mapped query."""
        made = getattr(self.codec, "linear", None)
        return None if made is None else made(self._asked(query))

    def tables(self, query: np.ndarray) -> Tables | None:
        """The codec's, of the mapped query."""
        made = getattr(self.codec, "tables", None)
        return None if made is None else made(self._asked(query))

    def nbytes(self, dim: int) -> int:
        """Bytes of one row of `dim` numbers; needs the map fitted where that decides the width."""
        return int(self.codec.nbytes(_width_out(self.map, dim)))

    def save(self, path: str | Path) -> Path:
        """Write map and codec to one file."""
        self._need()
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings()})

    def arrays(self) -> dict[str, np.ndarray]:
        """What both learnt, by name."""
        return {f"map.{name}": array for name, array in self.map.arrays().items()} | {
            f"codec.{name}": array for name, array in self.codec.arrays().items()
        }

    def settings(self) -> dict[str, Any]:
        """The classes and settings of both."""
        return {
            "map": {"class": type(self.map).__name__, "settings": self.map.settings},
            "codec": codec_facts(self.codec),
        }

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        """Of what `arrays` and `settings` gave."""
        try:
            first = settings["map"]
            kind = Composed if first["class"] == "Composed" else map_named(first["class"])
            return cls(kind.restored(first["settings"], _part(arrays, "map.")), codec_of(settings["codec"], arrays))
        except (BadInput, KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(f"map and codec do not fit their settings ({error}); {sealed.REPAIR}") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        return cls.restored(arrays, facts.get("settings", {}))

    def _asked(self, query: np.ndarray) -> np.ndarray:
        query = np.asarray(query, dtype=np.float32)
        if query.ndim != 1:
            raise BadInput(f"expected one query [{self.dim}], got shape {list(query.shape)}")
        return self.mapped(query[None])[0]

    def _need(self) -> None:
        if not getattr(self.map, "fitted", True):
            raise BadInput(f"{self!r} has learnt nothing yet; call fit(rows) first")


def codec_facts(codec: Any) -> dict[str, Any]:
    """Class and settings of a codec, as JSON; with its `arrays`, all that `codec_of` needs."""
    own = codec.settings() | ({"dim": codec.dim} if isinstance(codec, Fitted) else {})
    return {"class": type(codec).__name__, "settings": own}


def codec_of(facts: Any, arrays: dict[str, np.ndarray], prefix: str = "codec.") -> Any:
    """The codec that `codec_facts` and its arrays, named with a prefix, are of; ValueError where it is not known."""
    from inlay import codecs

    name = facts["class"]
    kind = getattr(codecs, name) if isinstance(name, str) and name in codecs.__all__ else None
    if not (isinstance(kind, type) and hasattr(kind, "encode") and hasattr(kind, "restored")):
        raise ValueError(f"there is no codec {name!r}")
    return kind.restored(_part(arrays, prefix), facts["settings"])


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _width_in(map: Any) -> int:
    """Numbers of a row that a map takes, 0 where it is not fitted or does not say."""
    mean = getattr(map, "mean", None)
    if mean is not None:
        return len(mean)
    kept: dict[str, np.ndarray] = map.arrays() if hasattr(map, "arrays") else {}
    for name in ("rows", "0"):
        if name in kept:
            return int(kept[name].shape[1] if name == "rows" else kept[name].shape[0])
    return int(getattr(map, "n_features_in_", getattr(map, "_dim", 0)))


def _width_out(map: Any, dim: int) -> int:
    """Numbers of a row that a map gives."""
    width = int(getattr(map, "width", 0) or getattr(map, "_n_features_out", 0))
    if width:
        return width
    last = map.maps[-1] if isinstance(map, Composed) else map
    keep = getattr(last, "keep", getattr(last, "dims", None))
    if isinstance(keep, float):
        return max(1, round(keep * dim))
    if keep is None:
        raise BadInput(f"the width that {map!r} gives is known once it is fitted; call fit(rows) first")
    return int(keep)


def fixed_nbytes(codec: Any) -> int:
    """Bytes that a codec keeps once, whatever the number of rows."""
    return int(getattr(codec, "fixed_nbytes", getattr(codec, "codebook_nbytes", 0)))
