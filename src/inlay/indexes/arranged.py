"""Dense rows kept and searched as a `Configuration` says: codes or a graph, and a second stage of finer codes.

What `inlay tune` measures and what a collection is then kept as are both this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from inlay.codecs.chain import codec_of, fixed_nbytes
from inlay.errors import BadInput
from inlay.indexes.coded import Coded
from inlay.indexes.configuration import Configuration

__all__ = ["Arranged", "Ranked"]

MAP = "float32"  # the codec behind a map that is kept beside a graph: it changes nothing


class Ranked(NamedTuple):
    """Ids and scores of one query's nearest rows, best first; fewer than asked for where there are fewer."""

    ids: np.ndarray
    scores: np.ndarray


class Arranged:
    """Rows under a configuration.

    Args:
        configuration: how they are kept and searched.
        first: what is searched first, a `Coded` or a `DenseGraph`.
        fine: finer codes of the same rows, which order the candidates; None where there is no second stage.
        map: what rows and queries go through before a graph; None for rows as they are.
    """

    def __init__(self, configuration: Configuration, first: Any, fine: Coded | None, map: Any = None) -> None:
        self.configuration, self.first, self.fine, self.map = configuration, first, fine, map
        self._signs = fine is None and bool(getattr(getattr(first, "codec", None), "signs", False))
        self._allow = np.zeros(len(first), dtype=bool) if fine is not None else np.empty(0, dtype=bool)

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        return f"Arranged({str(self.configuration)!r}) of {len(self)} rows"

    @property
    def row_nbytes(self) -> float:
        """Bytes of a row."""
        own = (self.first.nbytes - fixed_nbytes(getattr(self.first, "codec", None))) / max(1, len(self))
        return own + (
            0 if self.fine is None else (self.fine.nbytes - fixed_nbytes(self.fine.codec)) / max(1, len(self))
        )

    @property
    def fixed_nbytes(self) -> int:
        """Bytes that are kept once."""
        own = fixed_nbytes(getattr(self.first, "codec", None)) + (0 if self.map is None else int(self.map.nbytes))
        return own + (0 if self.fine is None else fixed_nbytes(self.fine.codec))

    def search(self, query: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Ranked:
        """The k nearest rows of a query [dim].

        Scores are dot products or cosines with the rows as they are kept. Where bits are counted, they are the cosine
        of the angle that so many equal bits stand for.

        Args:
            query: float32 [dim].
            k: how many.
            allow: bool [n], the rows that may be returned.
        """
        wanted = k if self.fine is None else max(k, self.configuration.candidates)
        wanted = max(1, min(wanted, len(self)))
        if self.configuration.index == "graph":
            asked = query[None] if self.map is None else self.map.transform(query[None])
            found = self.first.search(asked, wanted, ef=self.configuration.ef, allow=allow)
        else:
            found = self.first.search(query, wanted, allow=allow)
        ids, scores = found.ids[0], found.scores[0]
        if self.fine is not None:
            near = ids[ids >= 0]
            self._allow[near] = True
            found = self.fine.search(query, k, allow=self._allow)
            self._allow[near] = False
            ids, scores = found.ids[0], found.scores[0]
        there = ids >= 0
        scores = scores[there]
        return Ranked(ids[there], np.sin(scores * (np.pi / 2), dtype=np.float32) if self._signs else scores)

    def decoded(self, ids: np.ndarray) -> np.ndarray:
        """Rows as the finest of their codes have them, float32 [n, dim].

        Where int8 behind a map is all there is, lengths are lost to cosines, and the rows are right in direction only.
        """
        if self.fine is not None:
            return self.fine.decoded(ids)
        if self.configuration.index == "scan":
            return self.first.decoded(ids)  # type: ignore[no-any-return]
        rows = self.first.decoded(ids)
        return rows if self.map is None else np.asarray(self.map.inverse_transform(rows), dtype=np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name; with `facts` all there is."""
        found = {f"first.{name}": array for name, array in self.first.arrays().items()}
        if self.fine is not None:
            found |= {f"fine.{name}": array for name, array in self.fine.arrays().items()}
        if self.map is not None:
            found |= {f"map.{name}": array for name, array in self._chain().arrays().items()}
        return found

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of the rest."""
        from inlay.codecs.chain import codec_facts

        found: dict[str, Any] = {"configuration": self.configuration.to_dict(), "first": self.first.facts()}
        found |= {} if self.fine is None else {"fine": self.fine.facts()}
        return found if self.map is None else found | {"map": codec_facts(self._chain())}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Arranged:
        """Of what `arrays` and `facts` gave; BadInput where they do not fit each other."""
        from inlay.indexes.dense_graph import DenseGraph

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        try:
            one = Configuration.from_dict(facts["configuration"])
            kind: Any = DenseGraph if one.index == "graph" else Coded
            first = kind.restored(part("first."), facts["first"])
            fine = Coded.restored(part("fine."), facts["fine"]) if one.candidates else None
            map_ = codec_of(facts["map"], dict(arrays), "map.").map if "map" in facts else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"these are no arranged rows ({error}); build them again") from None
        return cls(one, first, fine, map_)

    def _chain(self) -> Any:
        from inlay.codecs.chain import Chain
        from inlay.codecs.named import codec

        return Chain(self.map, codec(MAP))
