"""Bags of token vectors by MaxSim: candidates by one vector a document, then the exact score of those.

Source: "MUVERA" (arXiv 2405.19504). A document's fixed dimensional encoding goes into an index of dense rows; the
encoding of a query finds `candidates` there by dot product; their tokens are read and scored exactly.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from inlay import sealed
from inlay.codecs.ball_carving import carve as carved
from inlay.codecs.ball_carving import checked_tau
from inlay.codecs.muvera import MuveraFDE
from inlay.codecs.ragged import checked_ragged
from inlay.codecs.residual import ResidualTokens
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import Flat, checked_k, checked_mask
from inlay.indexes.token_rows import Dtype, TokenRows
from inlay.kernels.topk import top_k
from inlay.types import Index, Neighbours, Ragged

__all__ = ["MultiVector"]

KIND = "multi-vector index"


class MultiVector:
    """Multi-vector rows. Scores are MaxSim, Σ_q max_p ⟨q, p⟩, so tokens are expected at length 1.

    Args:
        fde: how a bag becomes one vector; fitted, or fitted by the first `add`.
        index: for encodings: any index of dense rows by dot product, still empty (default: `Flat` in float16).
        tokens: how tokens are kept for the exact score: `float32`, `float16`, `int8`, or a fitted `ResidualTokens`.
        candidates: documents that are scored exactly for a query, at least k. With as many as there are documents, the
            answer is exact.
        carve: threshold τ of ball carving (`inlay.codecs.carve`) in the exact stage; 0.7 in the paper, None leaves
            query tokens alone. Scores then are those of the groups.
    """

    def __init__(
        self, fde: MuveraFDE, *, index: Index | None = None, tokens: Dtype | ResidualTokens = "float16",
        candidates: int = 200, carve: float | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(fde, MuveraFDE):
            raise BadInput(f"fde must be a MuveraFDE, got {type(fde).__name__}")
        inner: Any = Flat(fde.width, metric="dot", dtype="float16") if index is None else index
        if not isinstance(inner, Index):
            raise BadInput(f"index must have add, search and nbytes, got {type(inner).__name__}")
        if getattr(inner, "metric", "dot") != "dot" or getattr(inner, "dim", fde.width) != fde.width:
            raise BadInput(f"encodings are {fde.width} numbers compared by dot product, {inner!r} is not made for them")
        if getattr(inner, "__len__", int)():
            raise BadInput(f"the index of encodings must still be empty, got {inner!r}")
        self.fde, self.rows = fde, TokenRows(fde.dim, tokens)
        self.index: Any = inner
        self.candidates = _positive(candidates)
        self.carve = None if carve is None else checked_tau(carve)
        self._alive = np.empty(0, dtype=bool)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return (
            f"MultiVector({self.fde!r}, index={type(self.index).__name__}, tokens={self.rows.dtype!r}, "
            f"candidates={self.candidates}, carve={self.carve}) of {len(self)} rows"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of encodings and of tokens."""
        return self.index.nbytes + self.rows.nbytes

    def add(self, vectors: Any) -> None:
        """Append documents (`Ragged`, or a list of arrays [tokens, dim]); ids are positions in order of addition.

        A document without tokens takes an id and is never found. Encodings of all documents of a call are in memory
        at once, 4 · width bytes each: add many in several calls.
        """
        bags = checked_ragged(vectors, self.fde.dim)
        if not self.fde.fitted and len(bags):
            self.fde.fit(bags)
        # Whatever can be refused is, before either side keeps anything: the two must not differ.
        kept, encodings = self.rows.encode(bags.values), self.fde.encode_document(bags)
        self.index.add(encodings)
        self.rows.append(kept, bags.offsets)
        self._alive = np.concatenate([self._alive, np.diff(bags.offsets) > 0])

    def delete(self, ids: Any) -> None:
        """Let these documents never be found again; ids of others stay, and so do the bytes."""
        ids = np.atleast_1d(np.asarray(ids))
        if ids.size and (ids.dtype.kind not in "iu" or ids.ndim != 1 or ids.min() < 0 or ids.max() >= len(self)):
            raise BadInput(f"ids to delete must be integers from 0 to {len(self) - 1}, got {ids}")
        self._alive[ids.astype(np.int64)] = False

    def search(
        self, queries: Any, k: int, *, allow: np.ndarray | None = None, candidates: int | None = None,
        carve: float | None = None,
    ) -> Neighbours:  # fmt: skip
        """About the k documents of highest MaxSim with each query; equal scores go to the lower id.

        Args:
            queries: `Ragged`, a list of arrays [tokens, dim], or one array [tokens, dim] for one query.
            k: how many; where fewer documents are allowed, the rest is id -1 with score -inf.
            allow: bool [n], the documents that may be returned.
            candidates: instead of the index's own.
            carve: instead of the index's own; a threshold above all dot products leaves tokens alone.
        """
        if isinstance(queries, np.ndarray):
            queries = [queries]
        bags, k = checked_ragged(queries, self.fde.dim, "query"), checked_k(k)
        allow = checked_mask(allow, len(self))
        allow = self._alive if allow is None else self._alive & allow
        wanted = max(k, self.candidates if candidates is None else _positive(candidates))
        tau = self.carve if carve is None else checked_tau(carve)
        scores = np.full((len(bags), k), -np.inf, dtype=np.float32)
        found = np.full((len(bags), k), -1, dtype=np.int64)
        allowed = int(allow.sum())
        if not allowed:
            return Neighbours(scores, found)
        for query, ids in enumerate(self._candidates(bags, wanted, allow, allowed)):
            tokens = bags[query] if tau is None else carved(bags[query], tau)
            best = top_k(self.rows.score(tokens, ids), k)
            scores[query] = best.scores[0]
            found[query] = np.where(best.ids[0] < 0, -1, ids[best.ids[0]])
        return Neighbours(scores, found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file."""
        if not hasattr(self.index, "save"):
            raise BadInput(f"{type(self.index).__name__} cannot be saved, so neither can an index over it")
        with tempfile.TemporaryDirectory() as folder:
            inner = Path(folder) / "index"
            self.index.save(inner)
            held = np.frombuffer(inner.read_bytes(), dtype=np.uint8)
        arrays = {"index": held, "alive": self._alive}
        arrays |= {f"fde.{name}": array for name, array in self.fde.arrays().items()}
        arrays |= {f"rows.{name}": array for name, array in self.rows.arrays().items()}
        facts = {
            "kind": KIND, "index": type(self.index).__name__, "fde": self.fde.settings(), "fitted": self.fde.fitted,
            "rows": self.rows.settings(), "candidates": self.candidates, "carve": self.carve,
        }  # fmt: skip
        sealed.write(Path(path), arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], index: type | None = None) -> MultiVector:
        """Read what `save` wrote.

        Args:
            path: the file.
            index: class of the index of encodings, where it is none of inlay's own.
        """
        arrays, facts = sealed.read(Path(path), KIND)
        kind = _class(facts["index"], index)

        def under(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        with tempfile.TemporaryDirectory() as folder:
            inner = Path(folder) / "index"
            inner.write_bytes(arrays["index"].tobytes())
            encodings = kind.load(inner)
        made = cls.__new__(cls)
        made.fde = MuveraFDE.restored(under("fde."), facts["fde"], facts["fitted"])
        made.index, made.rows = encodings, TokenRows.restored(under("rows."), facts["rows"])
        made.candidates, made.carve, made._alive = facts["candidates"], facts["carve"], arrays["alive"].copy()
        if not len(made.rows) == len(made._alive) == len(encodings):
            raise Corrupt(f"{path} has tokens and encodings of different documents; build and save it again")
        return made

    def _candidates(self, bags: Ragged, wanted: int, allow: np.ndarray, allowed: int) -> list[np.ndarray]:
        """Ascending ids of each query's candidates."""
        if wanted >= allowed:
            return [np.flatnonzero(allow)] * len(bags)
        found = self.index.search(self.fde.encode_query(bags), wanted, allow=None if allow.all() else allow)
        return [np.sort(row[row >= 0]) for row in found.ids]


def _class(name: str, given: type | None) -> Any:
    from inlay import indexes

    if given is not None:
        if given.__name__ != name:
            raise BadInput(f"the encodings were kept in an index of class {name}, got {given.__name__}")
        return given
    if name not in indexes.__all__:
        raise BadInput(f"the encodings were kept in an index of class {name}, which is not inlay's; give index={name}")
    return getattr(indexes, name)


def _positive(candidates: Any) -> int:
    if not isinstance(candidates, int | np.integer) or isinstance(candidates, bool) or candidates < 1:
        raise BadInput(f"candidates must be a positive integer, got {candidates!r}")
    return int(candidates)
