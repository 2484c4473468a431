"""The folder of a `DiskIVF`: which files belong to it, who may write, and what a crash leaves.

A manifest names the files of lists and of centroids, and holds the bitmap of what was deleted. Files are written,
synced and renamed before the manifest names them, and never change; one that nobody names is removed by the next
writer. So after a crash the index is what it was after the last call that returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt, Locked
from inlay.indexes.attribute_columns import Columns
from inlay.indexes.disk_ivf_file import REPAIR, Part
from inlay.indexes.disk_ivf_search import Held
from inlay.indexes.flat import CODECS
from inlay.types import Metric

__all__ = ["KIND", "MANIFEST", "ListsFolder", "bits_of"]

MANIFEST, KIND, CENTROIDS = "index.inlay", "disk ivf index", "disk ivf centroids"


class ListsFolder:
    """What the manifest of a folder describes, and how it is replaced.

    Args:
        path: the folder.
    """

    dim: int
    metric: Metric
    dtype: str
    probes: int
    columns: Columns

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._read_manifest()

    def _read_manifest(self) -> None:
        if not self.path.is_dir():
            raise BadInput(f"there is no index {self.path}; make it with DiskIVF.create")
        while True:
            arrays, facts = sealed.read(self.path / MANIFEST, KIND)
            try:
                self._take(arrays, facts)
                return
            except Corrupt:
                # A writer may have replaced the files between the manifest and them.
                if sealed.read(self.path / MANIFEST, KIND)[1] == facts:
                    raise

    def _take(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Become what a manifest describes."""
        parts: list[Part] = []
        try:
            dead, rows = arrays["dead"], facts["rows"]
            self.dim, self.metric, self.dtype = facts["dim"], facts["metric"], facts["dtype"]
            self.probes, self.columns = facts["probes"], Columns(dict(facts["types"]), facts["labels"])
            self._facts, self._order, self._depths = facts, facts["order"], facts["depths"]
            self._codec = CODECS[self.dtype]
            centroids = np.empty((0, self.dim), dtype=np.float16)
            if facts["centroids"]:
                centroids = sealed.read(self.path / facts["centroids"], CENTROIDS)[0]["centroids"]
            if len(dead):
                dead = bits_of(dead, rows)
            for name, digest in facts["parts"]:
                parts.append(Part(self.path / name, digest))
                if parts[-1].dim != self.dim or parts[-1].dtype != self.dtype or parts[-1].width != self.columns.width:
                    raise KeyError(name)
        except BadInput as error:  # a file that the manifest names is not there
            raise Corrupt(f"{self.path} is damaged ({error}): {REPAIR}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{self.path} does not hold a disk ivf index ({error}): {REPAIR}") from None
        except BaseException:
            for part in parts:
                part.close()
            raise
        self._held = Held(parts, centroids, dead, rows)  # files replaced are closed when no search reads them

    @property
    def _parts(self) -> list[Part]:
        return self._held.parts

    @property
    def _centroids(self) -> np.ndarray:
        return self._held.centroids

    @property
    def _dead(self) -> np.ndarray:
        return self._held.dead

    @property
    def _rows(self) -> int:
        return self._held.rows

    @property
    def files(self) -> list[Path]:
        """The files of lists: one after `rewrite`, and another for each `add` since."""
        return [part.path for part in self._parts]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        import portalocker

        with open(self.path / "writer.lock", "a+b") as lock:
            try:
                portalocker.lock(lock, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            except portalocker.exceptions.LockException:
                raise Locked(f"{self.path} is being written by another process; wait for it to finish") from None
            _, facts = sealed.read(self.path / MANIFEST, KIND)
            if facts["generation"] != self._facts["generation"]:
                self._read_manifest()
            self._sweep()
            before = self._order
            try:
                yield
            except BaseException:
                self._order = before
                self.columns = Columns(dict(self._facts["types"]), self._facts["labels"])
                raise

    def _sweep(self) -> None:
        """Remove files that nobody names: left by a writer that was stopped, or replaced by a later one."""
        named = {name for name, _ in self._facts["parts"]} | {self._facts["centroids"], MANIFEST}
        for file in self.path.iterdir():
            ours = file.suffix == ".lists" or file.name.startswith("centroids-") or file.name.endswith(".partial")
            if ours and file.name not in named:
                with suppress(OSError):
                    file.unlink()

    def _commit(
        self, *, parts: list[list[str]] | None = None, rows: int | None = None, dead: np.ndarray | None = None,
        centroids: np.ndarray | None = None, depths: list[list[int]] | None = None,
    ) -> None:  # fmt: skip
        """Write the manifest, which makes what was written before a part of the index; then read it."""
        facts = dict(self._facts)
        facts["generation"] += 1
        if centroids is not None and not np.array_equal(centroids, self._centroids):
            facts["centroids"] = f"centroids-{facts['generation']:08d}.inlay"
            sealed.write(self.path / facts["centroids"], {"centroids": centroids}, {"kind": CENTROIDS})
        facts["parts"] = facts["parts"] if parts is None else parts
        facts["rows"] = facts["rows"] if rows is None else rows
        facts["depths"] = facts["depths"] if depths is None else depths
        facts["labels"] = {one.name: self.columns.labels(one.name) for one in self.columns if one.kind != "u"}
        facts["order"] = self._order
        sealed.write(self.path / MANIFEST, {"dead": self._dead if dead is None else dead}, facts)
        self._read_manifest()
        self._sweep()

    def close(self) -> None:
        """Give the files back."""
        for part in self._parts:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def bits_of(dead: np.ndarray, rows: int) -> np.ndarray:
    """A bit for each of so many ids, of a bitmap for fewer."""
    bits = np.zeros(-(-rows // 8), dtype=np.uint8)
    bits[: len(dead)] = dead
    return bits
