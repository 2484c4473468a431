"""Rows kept where they are cheap and read by key: in memory or in a mapped file, as float32, bfloat16 or int8.

    store = RowStore.of(values, dtype="bfloat16")          # values [rows, width] or [rows, layers, width]
    store.save("table.rows", shards=3)
    store = RowStore.open("table.rows", placement="mmap")
    store.rows(keys)                                       # float32 [n, width] or [n, layers, width]

A key's layers lie side by side (token-major), so that whoever needs all of them copies one block. Columns may be cut
into shards, each an array of its own; what is read does not change. numpy alone, so that a worker thread or a machine
without torch can read it.

Source: the offload runtime of STEM (arXiv 2601.10639), as described in its section 3; overlays are its knowledge edits.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np

from inlay.codecs import Int8
from inlay.errors import BadInput, Corrupt
from inlay.kernels.gather import gather, sum_bags
from inlay.tables import row_file
from inlay.tables.deduplication import checked
from inlay.tables.overlay import Overlay

__all__ = ["RowStore", "from_bfloat16", "to_bfloat16"]

_STORED = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
_AT_ONCE = 1 << 22  # numbers converted at a time: 16 MB of float32


class _Watcher(Protocol):
    def changed(self, keys: np.ndarray) -> None: ...


class RowStore:
    """A keyed table. Make one with `of`, `zeros`, `create` or `open`.

    Args:
        arrays: `rows-0` … [rows, layers · columns] as stored, and of int8 `scales` float32 [rows, layers].
        settings: rows, width, layers (None: no such axis), dtype, shards.
        file: what vouches for the arrays and is told of writes; None in memory.
    """

    def __init__(
        self, arrays: dict[str, np.ndarray], settings: dict[str, Any], file: row_file.RowFile | None = None
    ) -> None:
        self.nrows, self.width = settings["rows"], settings["width"]
        self.layers: int | None = settings["layers"]
        self.dtype, self.shards = settings["dtype"], settings["shards"]
        self._settings, self._arrays, self._file = settings, arrays, file
        self._cuts = _cuts(self.width, self.shards)
        self._overlays: list[Overlay] = []
        self._edits = Overlay()  # all of them in one; replaced as a whole, so that a reading thread sees one state
        self._watchers: weakref.WeakSet[Any] = weakref.WeakSet()

    @classmethod
    def of(cls, values: Any, *, dtype: str = "float32", shards: int = 1) -> Self:
        """In memory, of finite numbers [rows, width] or [rows, layers, width]."""
        values = np.asarray(values)
        if values.ndim not in (2, 3) or values.dtype.kind != "f":
            raise BadInput(f"expected floats [rows, width] or [rows, layers, width], got {values.dtype} {values.shape}")
        layers = values.shape[1] if values.ndim == 3 else None
        made = cls.zeros(len(values), values.shape[-1], layers=layers, dtype=dtype, shards=shards)
        step = max(1, _AT_ONCE // max(1, values[:1].size))
        for start in range(0, len(values), step):
            block = values[start : start + step]
            made.write(np.arange(start, start + len(block)), block)
        return made

    @classmethod
    def zeros(
        cls, rows: int, width: int, *, layers: int | None = None, dtype: str = "float32", shards: int = 1
    ) -> Self:
        """In memory, all zero; memory is taken as rows are written.

        Args:
            rows: keys.
            width: numbers a row.
            layers: rows a key, kept side by side; None for one, without an axis of its own.
            dtype: `float32`; `bfloat16` (8 significant bits); or `int8` with a float32 scale a row.
            shards: arrays that the columns are cut into.
        """
        settings = {"rows": rows, "width": width, "layers": layers, "dtype": dtype, "shards": shards}
        return cls({name: np.zeros(shape, kind) for name, (kind, shape) in _shapes(settings).items()}, settings)

    @classmethod
    def create(
        cls, path: str | Path, rows: int, width: int, *, layers: int | None = None, dtype: str = "float32",
        shards: int = 1,
    ) -> Self:  # fmt: skip
        """A new file of zeros, mapped and writable. Arguments as in `zeros`."""
        path = Path(path)
        if path.exists():
            raise BadInput(f"{path} exists already; open it with RowStore.open, or remove it first")
        cls.zeros(rows, width, layers=layers, dtype=dtype, shards=shards).save(path)
        return cls.open(path, writable=True)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        placement: Literal["mmap", "ram"] = "mmap",
        writable: bool = False,
        recover: bool = False,
    ) -> Self:
        """Open a file that `save` or `create` wrote.

        Args:
            path: of the file.
            placement: `mmap` reads what is asked for, verifying each block when first touched; `ram` reads and
                verifies all of it now, and what is written stays in memory until it is saved.
            writable: of a mapped file, whether `write` may change it; until `flush` the file counts as unfinished.
            recover: open a file left unfinished by a process that died, with its rows as they stand.

        Raises:
            Corrupt: the file is damaged, cut short or unfinished.
            Locked: another process has it open for writing.
        """
        if placement not in ("mmap", "ram"):
            raise BadInput(f"placement must be 'mmap' or 'ram', got {placement!r}")
        if placement == "ram" and writable:
            raise BadInput("rows in memory can always be written; writable=True belongs to placement='mmap'")
        file = row_file.RowFile(Path(path), writable=writable, recover=recover)
        try:
            wanted = _shapes(file.settings)
        except (BadInput, KeyError, TypeError) as error:
            raise Corrupt(f"{path} has settings that make no table ({error}); save the table again") from None
        found = {name: (array.dtype, array.shape) for name, array in file.arrays.items()}
        if found != {name: (np.dtype(kind), shape) for name, (kind, shape) in wanted.items()}:
            raise Corrupt(f"{path} does not fit its own settings {file.settings}; save the table again")
        if placement == "mmap":
            return cls(file.arrays, file.settings, file)
        file.verify()
        held = {name: array.copy() for name, array in file.arrays.items()}
        file.close()
        return cls(held, file.settings)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings.items())
        return f"RowStore({settings}, placement={self.placement!r})"

    def __len__(self) -> int:
        return self.nrows

    @property
    def placement(self) -> str:
        """`ram` or `mmap`."""
        return "ram" if self._file is None else "mmap"

    @property
    def nbytes(self) -> int:
        """Bytes of all rows and scales as stored."""
        return sum(array.nbytes for array in self._arrays.values())

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what a key gives: (width,) or (layers, width)."""
        return (self.width,) if self.layers is None else (self.layers, self.width)

    @property
    def row_nbytes(self) -> int:
        """Bytes that reading one key moves."""
        return self.nbytes // self.nrows

    def rows(self, keys: Any, *, layer: int | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Float32 rows [..., width], or [..., layers, width], of int keys [...].

        Args:
            keys: in [0, rows).
            layer: only this one of several; then [..., width].
            out: float32 of the answer's shape, contiguous, to be filled and returned.
        """
        flat, shape = checked(keys, self.nrows), np.shape(keys)
        if layer is not None and not 0 <= layer < (self.layers or 1):
            raise BadInput(f"layer {layer} is outside this table's [0, {self.layers or 1})")
        wanted = (*shape, self.width) if layer is not None else (*shape, *self.row_shape)
        if out is None:
            out = np.empty(wanted, dtype=np.float32)
        elif out.shape != wanted or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise BadInput(f"out must be contiguous float32 {wanted}, got {out.dtype} {out.shape}")
        many = 1 if layer is not None else self.layers or 1
        self.read_into(out.reshape(len(flat), many, self.width), flat, first=layer or 0)
        return out

    def read_into(self, out: np.ndarray, keys: np.ndarray, *, first: int = 0, at: np.ndarray | None = None) -> None:
        """Fill `out` float32 [m, wanted layers, width], any strides but within a row: what `rows` and caches stand on.

        Args:
            out: where rows go.
            keys: int64 [n], valid: they are not checked again.
            first: first layer wanted.
            at: int64 [n], the place in `out` of each key; None for 0, 1, ….
        """
        if self._file is not None:
            self._file.touch(keys)
        edits, scales = self._edits, self._arrays.get("scales")
        for shard, (start, stop) in enumerate(self._cuts):
            gather(self._arrays[f"rows-{shard}"], keys, out[:, :, start:stop], scales=scales, first=first, at=at)
        if len(edits):
            here, there = edits.find(keys)
            out[here if at is None else at[here]] = edits.rows[there, first : first + out.shape[1]]

    def sums(self, keys: Any, offsets: Any, *, out: np.ndarray | None = None) -> np.ndarray:
        """Sums of bags, float32 [bags, width] or [bags, layers, width], as `nn.EmbeddingBag(mode="sum")` gives them.

        Args:
            keys: int [n].
            offsets: int [bags], ascending from 0: where each bag begins in `keys`.
            out: as in `rows`.
        """
        flat = checked(keys, self.nrows)
        ends = np.append(checked(offsets, len(flat) + 1), len(flat))
        if (len(ends) > 1 and ends[0]) or (np.diff(ends) < 0).any() or (len(ends) == 1 and len(flat)):
            raise BadInput(f"offsets must ascend from 0 to at most {len(flat)}, the number of keys")
        wanted = (len(ends) - 1, *self.row_shape)
        if out is None:
            out = np.empty(wanted, dtype=np.float32)
        elif out.shape != wanted or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise BadInput(f"out must be contiguous float32 {wanted}, got {out.dtype} {out.shape}")
        held = out.reshape(len(ends) - 1, self.layers or 1, self.width)
        if len(self._edits) and len(self._edits.find(flat)[0]):
            rows = self.rows(flat).reshape(len(flat), -1)  # the kernel knows no overlays: read through them first
            sum_bags(rows, np.arange(len(flat)), ends, held)
            return out
        if self._file is not None:
            self._file.touch(flat)
        for shard, (start, stop) in enumerate(self._cuts):
            array = self._arrays[f"rows-{shard}"]
            sum_bags(array, flat, ends, held[:, :, start:stop], scales=self._arrays.get("scales"))
        return out

    def write(self, keys: Any, rows: Any) -> None:
        """Replace rows; of a key given twice the last counts.

        Goes to the topmost overlay while there is one. Otherwise into the table itself, rounded to its type: bfloat16
        to the nearest (ties to even), int8 to half a step of the row's largest magnitude / 127.

        Args:
            keys: int [n].
            rows: finite floats [n, width] or [n, layers, width].
        """
        flat = checked(keys, self.nrows)
        rows = np.asarray(rows, dtype=np.float32)
        if rows.shape != (len(flat), *self.row_shape):
            raise BadInput(f"expected rows {(len(flat), *self.row_shape)}, got {rows.shape}")
        rows = rows.reshape(len(flat), self.layers or 1, self.width)
        if not np.isfinite(rows).all():
            row = int(np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2)))[0])
            raise BadInput(f"the row of key {flat[row]} holds NaN or infinity; tables take finite rows")
        if self._overlays:
            top = self._overlays[-1]
            merged = Overlay(flat, rows).over(top)
            top.keys, top.rows = merged.keys, merged.rows
            self._restack(flat)
        else:
            self._write_through(flat, rows)
            self._announce(flat)

    def _write_through(self, keys: np.ndarray, rows: np.ndarray) -> None:
        if self._file is not None:
            if not self._file.writable:
                raise BadInput(f"{self._file.path} is open for reading; open it with writable=True, or use an overlay")
            if not len(keys):
                return
            self._file.begin(keys)
        if self.dtype == "int8":
            codes, scales = Int8().encode(rows.reshape(-1, self.width))
            self._arrays["scales"][keys] = scales.reshape(rows.shape[:2])
            stored = codes.reshape(rows.shape)
        else:
            stored = to_bfloat16(rows) if self.dtype == "bfloat16" else rows
        for shard, (start, stop) in enumerate(self._cuts):
            self._arrays[f"rows-{shard}"][keys] = stored[:, :, start:stop].reshape(
                len(keys), rows.shape[1] * (stop - start)
            )

    def apply(self, overlay: Overlay) -> None:
        """Write an overlay's rows into the table itself, for good. No overlay may lie on it."""
        if self._overlays:
            raise BadInput(f"{len(self._overlays)} overlays lie on this table; leave them before applying another")
        self.write(overlay.keys, overlay.rows if self.layers is not None else overlay.rows[:, 0])

    @contextmanager
    def overlay(self, overlay: Overlay | None = None) -> Iterator[Overlay]:
        """Lay an overlay (a new one, if None) on the table while the context lasts; further ones lie on top of it."""
        top = Overlay() if overlay is None else overlay
        if len(top):
            checked(top.keys, self.nrows)
            if top.rows.shape[1:] != (self.layers or 1, self.width):
                raise BadInput(f"the overlay's rows are {top.rows.shape[1:]}, this table's {self.row_shape}")
        if any(top is other for other in self._overlays):
            raise BadInput("this overlay lies on the table already")
        self._overlays.append(top)
        self._restack(top.keys)
        try:
            yield top
        finally:
            if self._overlays[-1] is not top:
                raise BadInput("overlays are left in the reverse order of entering them; an upper one is still there")
            self._overlays.pop()
            self._restack(top.keys)

    def _restack(self, keys: np.ndarray) -> None:
        stacked = Overlay()
        for overlay in self._overlays:
            stacked = overlay.over(stacked)
        self._edits = copy.copy(stacked)  # its arrays are replaced and never changed; `write` replaces those of the top
        self._announce(keys)

    def watch(self, watcher: _Watcher) -> None:
        """Call `watcher.changed(keys)` after rows of int64 keys change, as long as the watcher lives."""
        self._watchers.add(watcher)

    def _announce(self, keys: np.ndarray) -> None:
        if len(keys):
            for watcher in list(self._watchers):
                watcher.changed(keys)

    def save(self, path: str | Path, *, shards: int | None = None) -> Path:
        """Write the table (without overlays) to one file, whole or not at all.

        Args:
            path: of the file; one that is there is replaced. Not the file this table is mapped from.
            shards: cut the columns anew; None keeps the cuts.
        """
        path = Path(path)
        if self._file is not None:
            if path.exists() and path.samefile(self._file.path):
                raise BadInput(f"{path} is the file this table is mapped from; flush() keeps it up to date")
            self._file.verify()
        settings = {**self._settings, "shards": self.shards if shards is None else shards}
        _shapes(settings)  # refuses bad cuts
        arrays = dict(self._arrays)
        if settings["shards"] != self.shards:
            whole = np.concatenate([self._shard(shard) for shard in range(self.shards)], axis=2)
            arrays = {
                f"rows-{shard}": whole[:, :, start:stop].reshape(self.nrows, -1)
                for shard, (start, stop) in enumerate(_cuts(self.width, settings["shards"]))
            } | {name: array for name, array in arrays.items() if name == "scales"}
        row_file.write(path, arrays, settings)
        return path

    def _shard(self, shard: int) -> np.ndarray:
        return self._arrays[f"rows-{shard}"].reshape(self.nrows, self.layers or 1, -1)

    def verify(self) -> None:
        """Verify every byte of a mapped file. Raises `Corrupt`."""
        if self._file is not None:
            self._file.verify()

    def flush(self) -> None:
        """Make what was written to a mapped file durable, with its checksums."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Flush and give the file back; for a table in memory, nothing."""
        if self._file is not None:
            self._file.close()


def to_bfloat16(rows: np.ndarray) -> np.ndarray:
    """Finite float32 to the uint16 of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)
    bits = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    if ((bits & np.uint32(0x7F80)) == 0x7F80).any():
        raise BadInput(f"values of magnitude {np.abs(rows).max():g} do not fit bfloat16, which ends at 3.39e38")
    return bits.astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The uint16 of bfloat16 to float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _cuts(width: int, shards: int) -> list[tuple[int, int]]:
    edges = [width * shard // shards for shard in range(shards + 1)]
    return list(zip(edges, edges[1:]))


def _shapes(settings: dict[str, Any]) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Names, types and shapes of the arrays that settings ask for."""
    rows, width, layers, shards = (settings[name] for name in ("rows", "width", "layers", "shards"))
    for what, number in (
        ("rows", rows),
        ("width", width),
        ("layers", 1 if layers is None else layers),
        ("shards", shards),
    ):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise BadInput(f"{what} must be an integer of at least 1, got {number!r}")
    if shards > width:
        raise BadInput(f"{width} columns cannot be cut into {shards} shards")
    if settings["dtype"] not in _STORED:
        raise BadInput(f"dtype must be one of {', '.join(_STORED)}, got {settings['dtype']!r}")
    stored, many = _STORED[settings["dtype"]], layers or 1
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        f"rows-{shard}": (stored, (rows, many * (stop - start)))
        for shard, (start, stop) in enumerate(_cuts(width, shards))
    }
    if settings["dtype"] == "int8":
        shapes["scales"] = (np.float32, (rows, many))
    return shapes
