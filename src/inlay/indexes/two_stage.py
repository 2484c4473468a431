"""Small codes find candidates, long rows order them: an index in memory, and dense rows in memory or on disk.

    index = TwoStage(pq.index(documents), head.document(documents), coarse=pq, fine=head)
    found = index.search(queries, k=10)
    index.touched                       # rows and bytes that the dense side cost so far

1. The first index, of any kind, finds `candidates` rows by what it keeps in memory.
2. Their dense rows are read, in order of where they lie, from an array or from a memory-mapped file.
3. The score is dense + mix · first; the best k are returned.

The two stages may be made for different rows of the same thing: `coarse` and `fine` say how a vector becomes a row of
either, for queries and for documents. They need one scale, or `mix` means nothing: unit rows on both sides give it.

Source: "Progressively Optimized Bi-Granular Document Representation for Scalable Embedding Based Retrieval" (BiDR,
arXiv 2201.05409, WWW 2022).
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.io import Pack, sync_folder, write_pack
from inlay.kernels.dense import score
from inlay.types import Index, Neighbours

__all__ = ["Touched", "Tower", "TwoStage"]

KIND = "two-stage index"
PAGE = 4096
REPAIR = "build and save the index again"


class Tower(Protocol):
    """How a vector becomes a row of a stage: as a query, and as a document."""

    def query(self, rows: np.ndarray) -> np.ndarray: ...
    def document(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass
class Touched:
    """What the searches of a `TwoStage` read of its dense rows so far.

    Attributes:
        queries: how many.
        rows: dense rows that were scored.
        nbytes: bytes of these.
        pages: pages of 4 KiB that they lie on, what a disk reads at least.
        scanned: rows that the first index holds and a mask allows, summed over queries: what it reads at most.
    """

    queries: int = 0
    rows: int = 0
    nbytes: int = 0
    pages: int = 0
    scanned: int = 0

    @property
    def rows_per_query(self) -> float:
        """Dense rows of a query."""
        return self.rows / max(1, self.queries)

    @property
    def bytes_per_query(self) -> float:
        """Bytes of dense rows of a query."""
        return self.nbytes / max(1, self.queries)


class TwoStage:
    """Candidates by one index, ordered by dense rows.

    Args:
        first: an `Index`, finds candidates by dot product (or whatever its scores are); its ids number the dense rows.
        rows: dense rows float32 or float16 [n, dim], as many as `first` has; memory-mapped ones are only read where
            candidates lie.
        coarse: makes rows of `first`; None takes vectors as they are.
        fine: makes dense rows; None takes vectors as they are.
        candidates: that `first` finds for a query; more where more answers are asked for.
        mix: what the first score counts beside the dense one.
    """

    metric = "dot"

    def __init__(
        self, first: Any, rows: np.ndarray, *, coarse: Tower | None = None, fine: Tower | None = None,
        candidates: int = 1000, mix: float = 0.3,
    ) -> None:  # fmt: skip
        if not isinstance(first, Index):
            raise BadInput(f"first must be an index with add and search, got {type(first).__name__}")
        rows = rows if isinstance(rows, np.ndarray) else np.asarray(rows)
        if rows.ndim != 2 or rows.dtype not in (np.float32, np.float16):
            raise BadInput(f"dense rows are float32 or float16 [n, dim], got {rows.dtype} {list(rows.shape)}")
        held = len(first) if hasattr(first, "__len__") else len(rows)  # type: ignore[arg-type]
        if held != len(rows):
            raise BadInput(f"the first index has {held} rows, the dense side {len(rows)}; build both from the same")
        if isinstance(candidates, bool) or not isinstance(candidates, int | np.integer) or candidates < 1:
            raise BadInput(f"candidates must be a positive integer, got {candidates!r}")
        if not isinstance(mix, int | float) or not np.isfinite(mix):
            raise BadInput(f"mix must be a finite number, got {mix!r}")
        self.first, self.coarse, self.fine = first, coarse, fine
        self.candidates, self.mix = int(candidates), float(mix)
        self._rows, self._count = rows, len(rows)
        self._pack: Pack | None = None
        self._sound = np.empty(0, dtype=bool)  # rows of the pack that are verified
        self._touched, self._lock = Touched(), threading.Lock()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return (
            f"TwoStage({self.first!r}, {self._rows.dtype.name} rows of {self.dim}, candidates={self.candidates}, "
            f"mix={self.mix})"
        )

    @property
    def dim(self) -> int:
        """Width of a dense row."""
        return self._rows.shape[1]

    @property
    def rows(self) -> np.ndarray:
        """Dense rows, [n, dim]."""
        return self._rows[: self._count]

    @property
    def mapped(self) -> bool:
        """Whether the dense rows lie in a file."""
        held: Any = self._rows
        while held is not None:
            if isinstance(held, np.memmap | mmap.mmap):
                return True
            held = held.obj if isinstance(held, memoryview) else getattr(held, "base", None)
        return False

    @property
    def nbytes(self) -> int:
        """Bytes in memory: the first index, and the dense rows, or one byte a row where they lie in a file of ours."""
        return int(self.first.nbytes) + (self._sound.nbytes if self.mapped else self.rows.nbytes)

    @property
    def touched(self) -> Touched:
        """What was read so far, a copy."""
        with self._lock:
            return replace(self._touched)

    def add(self, vectors: np.ndarray) -> None:
        """Append vectors [n, ·], which `coarse` and `fine` make into rows; ids are positions in order of addition."""
        if self.mapped:
            raise BadInput("the dense rows lie in a file, which is not written to; load the index with mapped=False")
        vectors = np.asarray(vectors)
        fine = checked_rows(vectors if self.fine is None else self.fine.document(vectors), self.dim)
        coarse = vectors if self.coarse is None else self.coarse.document(vectors)
        start, stop = self._count, self._count + len(fine)
        rows = self._rows
        if stop > len(rows) or not rows.flags.writeable or rows.base is not None:
            # Growing by half keeps the cost of copying a constant per row; what the caller gave is never written to.
            rows = np.empty((max(stop, self._count * 3 // 2), self.dim), dtype=self._rows.dtype)
            rows[:start] = self.rows
        with np.errstate(over="ignore"):
            rows[start:stop] = fine
        if not np.isfinite(rows[start:stop]).all():
            raise BadInput(f"rows hold a number beyond {rows.dtype.name}; keep them as float32")
        self.first.add(coarse)
        self._rows, self._count = rows, stop

    def search(
        self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None, candidates: int | None = None,
        mix: float | None = None,
    ) -> Neighbours:  # fmt: skip
        """The k best of each query's candidates; equal scores keep the order of the first index.

        Args:
            queries: vectors [q, ·], or one, which `coarse` and `fine` make into rows.
            k: how many; where fewer were found, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned.
            candidates: instead of the index's own.
            mix: likewise.
        """
        k, allow = checked_k(k), checked_mask(allow, self._count)
        wanted = max(k, self.candidates if candidates is None else checked_k(candidates))
        mix = self.mix if mix is None else mix
        queries = np.asarray(queries)
        queries = queries[None] if queries.ndim == 1 else queries
        fine = checked_rows(queries if self.fine is None else self.fine.query(queries), self.dim, what="query")
        near = self.first.search(queries if self.coarse is None else self.coarse.query(queries), wanted, allow=allow)
        scores = np.full((len(fine), k), -np.inf, dtype=np.float32)
        ids = np.full((len(fine), k), -1, dtype=np.int64)
        own = Touched(queries=len(fine), scanned=len(fine) * (self._count if allow is None else int(allow.sum())))
        for i, query in enumerate(fine):
            there = near.ids[i] >= 0
            found = near.ids[i][there]
            if not len(found):
                continue
            final = self._dense(query, found, own) + np.float32(mix) * near.scores[i][there]
            order = np.argsort(-final, kind="stable")[:k]
            ids[i, : len(order)], scores[i, : len(order)] = found[order], final[order]
        with self._lock:
            for name, value in vars(own).items():
                setattr(self._touched, name, getattr(self._touched, name) + value)
        return Neighbours(scores, ids)

    def _dense(self, query: np.ndarray, ids: np.ndarray, own: Touched) -> np.ndarray:
        """Dot products of a dense query with rows, in the order of ids; counts what it reads."""
        order = np.argsort(ids)
        ascending = ids[order]
        width = self._rows.itemsize * self.dim
        first, last = ascending * width // PAGE, (ascending * width + width - 1) // PAGE
        own.rows += len(ids)
        own.nbytes += len(ids) * width
        own.pages += int((last - first + 1).sum() - (first[1:] == last[:-1]).sum())
        if self._pack is not None:
            fresh = ascending[~self._sound[ascending]]
            for row in fresh.tolist():
                self._pack.touch("rows", row * self.dim, (row + 1) * self.dim)
            self._sound[fresh] = True
        dense = np.empty(len(ids), dtype=np.float32)
        dense[order] = score(query[None], self.rows, ids=ascending)[0]
        return dense

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder: the first index, the dense rows, and sums of every block of these.

        A folder that holds such an index is written over; it is not whole until this returns.
        """
        folder = Path(folder)
        if not hasattr(self.first, "save"):
            raise BadInput(f"{type(self.first).__name__} cannot be saved")
        folder.mkdir(parents=True, exist_ok=True)
        self.first.save(folder / "candidates")
        partial = folder / f".rows.{os.getpid()}.partial"
        try:
            sums = write_pack(partial, {"rows": np.ascontiguousarray(self.rows).reshape(-1)})
            os.replace(partial, folder / "rows.safetensors")
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(folder)
        facts = {
            "kind": KIND, "candidates": self.candidates, "mix": self.mix, "shape": [len(self), self.dim],
            "coarse": _identity(self.coarse), "fine": _identity(self.fine),
        }  # fmt: skip
        sealed.write(folder / "index.safetensors", {"sums": np.array(sums, dtype=np.uint32)}, facts)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], open_first: Callable[[Path], Any], *, coarse: Tower | None = None,
        fine: Tower | None = None, mapped: bool = True,
    ) -> Self:  # fmt: skip
        """Read what `save` wrote.

        Args:
            folder: that was saved.
            open_first: reads the first index, `Coded.load` say.
            coarse: what `save` had, and so `fine`.
            mapped: leave the dense rows in their file; a block is verified when first read. False reads and verifies
                all of them now.
        """
        folder = Path(folder)
        arrays, facts = sealed.read(folder / "index.safetensors", KIND)
        for name, tower in (("coarse", coarse), ("fine", fine)):
            if facts.get(name, "") != _identity(tower):
                raise SpaceMismatch(
                    f"the index in {folder} was made with another {name} ({facts.get(name) or 'none'}), not with "
                    f"{_identity(tower) or 'none'}; give the one it was saved with"
                )
        first = open_first(folder / "candidates")
        path = folder / "rows.safetensors"
        try:
            pack = Pack.open(path, arrays["sums"].tolist(), REPAIR)
            if not mapped:
                pack.verify()
            rows = pack.unverified("rows").reshape(facts["shape"])
            made = cls(
                first, rows if mapped else rows.copy(), coarse=coarse, fine=fine, candidates=facts["candidates"],
                mix=facts["mix"],
            )  # fmt: skip
        except FileNotFoundError:
            raise Corrupt(f"there is no {path}; {REPAIR}") from None
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{folder} does not hold a {KIND} ({error}); {REPAIR}") from None
        if mapped:
            made._pack, made._sound = pack, np.zeros(len(made), dtype=bool)
        return made


def _identity(tower: Tower | None) -> str:
    return "" if tower is None else str(getattr(tower, "fingerprint", type(tower).__name__))
