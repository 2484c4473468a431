"""Teacher vectors, computed once: an append-only store of float16 rows by text, tied to the teacher's identity.

Encoding a training set with a transformer takes hours on a small machine, so nothing is encoded twice: whatever was
committed when a run was killed is there when it starts again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from inlay.encoders.items import bar, longest_first, texts
from inlay.encoders.pooling import unit
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.io import atomic_write
from inlay.types import Encoder

__all__ = ["Concat", "Teacher", "Teaching", "concat"]

COMMIT = 2048  # texts encoded between two commits


class Teaching(Protocol):
    """What a stage needs of a teacher."""

    dim: int

    def rows(self, items: Sequence[str]) -> np.ndarray:
        """Unit rows float32 [n, dim]."""
        ...


def _keys(items: Iterable[str]) -> np.ndarray:
    """64-bit digests; among ten million texts, two share one with probability 3e-6."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in items)
    return np.frombuffer(digests, dtype="<u8")


class Teacher:
    """Vectors of one encoder in a folder: `vectors.f16` [rows, dim], `keys.u64` [rows] and `teacher.json`.

    Args:
        folder: where they are kept; made if it is not there.
        encoder: what makes new rows, or None to use what is there. It must be the one that made those.
        batch_size: handed to the encoder.
    """

    def __init__(self, folder: str | Path, encoder: Encoder | None = None, *, batch_size: int | None = None) -> None:
        self.folder, self.encoder, self.batch_size = Path(folder), encoder, batch_size
        facts = self._facts()
        if facts is None and encoder is None:
            raise BadInput(f"no teacher vectors in {self.folder}: give an encoder that makes them")
        if encoder is not None:
            made = encoder.space
            if made.kind != "dense":
                raise BadInput(f"a teacher must make dense rows, {encoder!r} makes {made.kind} ones")
            if facts is not None and facts["fingerprint"] != made.fingerprint:
                raise SpaceMismatch(
                    f"{self.folder} holds vectors of {facts['fingerprint']}, the teacher given is {made.fingerprint}: "
                    "take another folder, or delete this one"
                )
            facts = facts or {"fingerprint": made.fingerprint, "dim": made.dim, "rows": 0}
        assert facts is not None
        self.dim, self.fingerprint = int(facts["dim"]), str(facts["fingerprint"])
        self._read(int(facts["rows"]))

    def _facts(self) -> dict[str, Any] | None:
        path = self.folder / "teacher.json"
        if not path.exists():
            return None
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            return {name: facts[name] for name in ("fingerprint", "dim", "rows")}
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{path} cannot be read ({error!r}); delete {self.folder} and encode again") from None

    def _read(self, count: int) -> None:
        self._count = count
        if not count:
            self._vectors = np.empty((0, self.dim), dtype=np.float16)
            self._sorted, self._order = np.empty(0, dtype="<u8"), np.empty(0, dtype=np.int64)
            return
        vectors, keys = self.folder / "vectors.f16", self.folder / "keys.u64"
        for path, size in ((vectors, 2 * self.dim), (keys, 8)):
            if not path.exists() or path.stat().st_size < size * count:
                raise Corrupt(f"{path} is shorter than its {count} rows; delete {self.folder} and encode again")
        self._vectors = np.memmap(vectors, dtype=np.float16, mode="r", shape=(count, self.dim))
        found = np.fromfile(keys, dtype="<u8", count=count)
        self._order = np.argsort(found, kind="stable")
        self._sorted = found[self._order]

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Teacher({str(self.folder)!r}, {len(self)} × {self.dim}, {self.fingerprint})"

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """Row of each key, −1 where there is none."""
        if not self._count:
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self._sorted, keys), self._count - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1)

    def add(self, items: Iterable[str], *, progress: bool = False) -> int:
        """Encode the texts that have no row yet, committing as it goes; returns how many those were."""
        distinct = list(dict.fromkeys(texts(list(items))))
        missing = [distinct[i] for i in np.flatnonzero(self._find(_keys(distinct)) < 0)]
        if not missing:
            return 0
        if self.encoder is None:
            raise BadInput(
                f"{len(missing)} texts have no vector in {self.folder} (the first: {missing[0][:60]!r}); "
                "give the teacher its encoder"
            )
        # Longest first within a commit, so that batches pad little; commits in the order given.
        self.folder.mkdir(parents=True, exist_ok=True)
        count = self._count
        with (
            open(self.folder / "vectors.f16", "ab") as vectors,
            open(self.folder / "keys.u64", "ab") as keys,
            bar(len(missing), progress=progress, what="teacher") as shown,
        ):
            vectors.truncate(2 * self.dim * count)  # what an interrupted commit left behind
            keys.truncate(8 * count)
            for low in range(0, len(missing), COMMIT):
                part = missing[low : low + COMMIT]
                part = [part[i] for i in longest_first([len(text) for text in part])]
                made = np.asarray(self.encoder.encode_document(part, batch_size=self.batch_size))
                if made.shape != (len(part), self.dim) or not np.isfinite(made).all():
                    raise BadInput(f"the teacher made rows {list(made.shape)} that are not finite [n, {self.dim}]")
                vectors.write(unit(made.astype(np.float32, copy=False)).astype(np.float16).tobytes())
                keys.write(_keys(part).tobytes())
                for file in (vectors, keys):
                    file.flush()
                    os.fsync(file.fileno())
                count += len(part)
                facts = {"fingerprint": self.fingerprint, "dim": self.dim, "rows": count}
                atomic_write(self.folder / "teacher.json", (json.dumps(facts) + "\n").encode())
                shown.update(len(part))
        self._read(count)
        return len(missing)

    def rows(self, items: Sequence[str]) -> np.ndarray:
        """Unit rows float32 [n, dim]; texts that were not added are encoded now (and kept)."""
        checked = texts(items)
        found = self._find(_keys(checked))
        if (found < 0).any():
            self.add(checked)
            found = self._find(_keys(checked))
        return unit(np.asarray(self._vectors[found], dtype=np.float32))


class Concat:
    """Several teachers as one: normalise(concat of normalised rows), whose cosine is the mean of their cosines."""

    def __init__(self, teachers: Sequence[Teaching]) -> None:
        if not teachers:
            raise BadInput("concat needs at least one teacher")
        self.teachers = list(teachers)
        self.dim = sum(teacher.dim for teacher in teachers)

    def add(self, items: Iterable[str], *, progress: bool = False) -> int:
        """Encode what is missing in any of them."""
        held = list(items)
        return sum(teacher.add(held, progress=progress) for teacher in self.teachers if hasattr(teacher, "add"))

    def rows(self, items: Sequence[str]) -> np.ndarray:
        """Unit rows float32 [n, sum of dims]."""
        # Each is normalised first, or the teacher with the longest rows would dominate.
        return unit(np.concatenate([unit(teacher.rows(items)) for teacher in self.teachers], axis=1))


def concat(teachers: Sequence[Teaching]) -> Concat:
    """Several teachers as one, see `Concat`."""
    return Concat(teachers)
