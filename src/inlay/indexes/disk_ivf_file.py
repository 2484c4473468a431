"""Inverted lists in one file that never changes: attributes and ids of a list in one block, its rows in another.

The file is safetensors. Its header fills the first page; then come `rows` and `heads`, both in pages of 4 KiB, and a
directory that memory holds:

- a list's rows begin on a page and lie one after another, as float32, float16, or int8;
- its head begins on a page too: attribute words, ids, scales of int8 rows, and the CRC-32 of every page of its rows;
- the directory has, for each list that has rows, its number, how many, where both blocks begin, how far its rows lie
  from their centroid, and what its attributes span; the CRC-32 of every page of heads; and a digest over all of it.

So a filter reads heads and nothing else, memory keeps no byte a row, and every page is verified by what was verified
before: the directory by its digest, heads by the directory, rows by their head.

Source: "Billion-scale Similarity Search Using a Hybrid Indexing Approach with Advanced Filtering" (arXiv 2501.13442).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.indexes.attribute_columns import Columns, Zones
from inlay.io import Pack, sync_folder
from inlay.kernels.blocks import SIZE, ask, fetch

__all__ = ["REPAIR", "Group", "Part", "PartWriter", "pages_of"]

REPAIR = "restore the folder from a copy, or build the index again"
KIND = "disk ivf lists"
TABLES = ("sums", "lists", "counts", "head", "place", "radius", "low", "high", "seen")
LAYOUT = ("rows", "heads", *TABLES, "digest")


class Group(NamedTuple):
    """Rows of one list, in the order in which they are kept.

    Attributes:
        codes: float32, float16 or int8 [n, dim].
        scales: float32 [n] of int8 rows, else [0].
        words: uint64 [width, n].
        ids: int64 [n].
    """

    codes: np.ndarray
    scales: np.ndarray
    words: np.ndarray
    ids: np.ndarray

    def some(self, rows: np.ndarray) -> Group:
        """Some of the rows, in the order given."""
        scales = self.scales[rows] if len(self.scales) else self.scales
        return Group(self.codes[rows], scales, self.words[:, rows], self.ids[rows])

    def floats(self) -> np.ndarray:
        """The rows as float32 [n, dim]."""
        rows = self.codes.astype(np.float32)
        return rows * self.scales[:, None] if len(self.scales) else rows


def pages_of(nbytes: np.ndarray | int) -> Any:
    """Pages that so many bytes take."""
    return -(-nbytes // SIZE)


class PartWriter:
    """Writes lists to a new file, one after another; nothing has the file's name before `finish`.

    Args:
        path: of the file.
        columns: of the attributes.
        dim: width of a row.
        dtype: of rows.
        wide: whether ids take eight bytes in place of four.
    """

    def __init__(self, path: Path, columns: Columns, dim: int, dtype: str, *, wide: bool) -> None:
        self.path, self._columns, self._wide = path, columns, wide
        self._facts = {"kind": KIND, "dim": dim, "dtype": dtype, "width": columns.width, "ids": 8 if wide else 4}
        self._row_bytes = dim * np.dtype(dtype).itemsize
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._file: IO[bytes] = open(self._partial, "wb")  # noqa: SIM115 - closed by finish or abandon
        self._file.write(bytes(SIZE))
        self._heads: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self._sums: list[int] = []
        self._lists: list[tuple[int, int, int, int, float]] = []
        self._zones: list[Zones] = []
        self._rows = 0

    def add(self, number: int, group: Group, centroid: np.ndarray) -> None:
        """Write the rows of a list; one without any leaves no trace."""
        n = len(group.ids)
        if not n:
            return
        rows = np.ascontiguousarray(group.codes).reshape(-1).view(np.uint8).tobytes()
        pages = pages_of(len(rows))
        rows += bytes(pages * SIZE - len(rows))
        sums = np.array([zlib.crc32(rows[i : i + SIZE]) for i in range(0, len(rows), SIZE)], dtype=np.uint32)
        parts = (np.ascontiguousarray(group.words), group.ids.astype(np.uint64 if self._wide else np.uint32))
        head = b"".join(one.tobytes() for one in (*parts, group.scales, sums))
        head += bytes(-len(head) % SIZE)
        # Rounded up, so that nothing lies outside.
        radius = float(np.linalg.norm(group.floats() - centroid, axis=1).max()) * (1 + 1e-5) + 1e-6
        self._lists.append((number, n, len(self._sums), self._rows, radius))
        self._zones.append(self._columns.zones(group.words, np.zeros(1, dtype=np.int64)))
        self._sums += [zlib.crc32(head[i : i + SIZE]) for i in range(0, len(head), SIZE)]
        self._rows += pages
        self._file.write(rows)
        self._heads.write(head)

    def finish(self) -> str:
        """Make the file whole and durable under its name; its digest."""
        order = sorted(range(len(self._lists)), key=lambda i: self._lists[i][0])
        columns = list(zip(*(self._lists[i] for i in order))) or [()] * 5
        tables: dict[str, np.ndarray] = {"sums": np.array(self._sums, dtype=np.uint32)}
        for name, values in zip(TABLES[1:5], columns):
            tables[name] = np.array(values, dtype=np.uint32)
        tables["radius"] = np.array(columns[4], dtype=np.float32)
        for i, name in enumerate(TABLES[6:]):
            kind = np.uint64 if name == "seen" else np.uint32
            own = [self._zones[j][i] for j in order]
            tables[name] = np.concatenate(own) if own else np.empty((0, len(self._columns)), dtype=kind)
        facts = json.dumps(self._facts, sort_keys=True)
        digest = _digest(facts, tables)
        try:
            self._heads.seek(0)
            shutil.copyfileobj(self._heads, self._file, 1 << 20)
            for name in TABLES:
                self._file.write(tables[name].tobytes())
            self._file.write(digest)
            self._file.seek(0)
            self._file.write(_header(self._rows, len(self._sums), tables, facts))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._partial, self.path)
        finally:
            self.abandon()
        sync_folder(self.path.parent)
        return digest.hex()

    def abandon(self) -> None:
        """Leave nothing behind; harmless after `finish`."""
        self._file.close()
        self._heads.close()
        self._partial.unlink(missing_ok=True)


def _header(rows: int, heads: int, tables: dict[str, np.ndarray], facts: str) -> bytes:
    kinds = {"uint32": "U32", "float32": "F32", "uint64": "U64"}
    shapes: dict[str, tuple[str, list[int], int]] = {
        "rows": ("U8", [rows, SIZE], rows * SIZE),
        "heads": ("U8", [heads, SIZE], heads * SIZE),
        **{name: (kinds[one.dtype.name], list(one.shape), one.nbytes) for name, one in tables.items()},
        "digest": ("U8", [16], 16),
    }
    header: dict[str, Any] = {"__metadata__": {"lists": facts}}
    offset = 0
    for name in LAYOUT:
        kind, shape, size = shapes[name]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (SIZE - 8 - len(text))  # about 900 bytes, whatever the numbers
    return len(text).to_bytes(8, "little") + text


def _digest(facts: str, tables: dict[str, np.ndarray]) -> bytes:
    state = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in TABLES:
        one = tables[name]
        state.update(f"{name} {one.dtype} {one.shape};".encode())
        state.update(np.ascontiguousarray(one).tobytes())
    return state.digest()


class Part:
    """One file of lists, open for reading.

    Args:
        path: of the file.
        digest: what `PartWriter.finish` returned.

    Attributes:
        lists: uint32 [b], numbers of the lists that have rows here, ascending.
        counts: uint32 [b], rows of each.
        radius: float32 [b], largest distance of a row from its centroid.
        zones: what their attributes span.
        dtype: of rows.
        verified: bool, which pages of rows were verified.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        try:
            self._open_file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close
        except FileNotFoundError:
            raise Corrupt(f"{path} is missing: {REPAIR}") from None
        try:
            self._read_directory(digest)
        except BaseException:
            self._open_file.close()
            raise
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_RANDOM)  # what is read ahead is asked for

    def _read_directory(self, digest: str) -> None:
        if not os.fstat(self.file).st_size:
            raise self._corrupt("it is empty")
        try:
            pack = Pack(mmap.mmap(self.file, 0, access=mmap.ACCESS_READ), str(self.path), None, REPAIR)
            facts = pack.metadata["lists"]
            known = json.loads(facts)
            tables = {name: pack[name].copy() for name in TABLES}
            rows, heads = (len(pack[name]) for name in ("rows", "heads"))
            kept, self.nbytes = pack["digest"].tobytes(), pack.nbytes
            self.dim, self.width, self.id_bytes = known["dim"], known["width"], known["ids"]
            self.dtype = np.dtype(known["dtype"])
            header = int.from_bytes(os.pread(self.file, 8, 0), "little") + 8
            whole = SIZE * (1 + rows + heads) + sum(one.nbytes for one in tables.values()) + 16
        except Corrupt:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise self._corrupt(f"its header does not parse ({error!r})") from None
        if _digest(facts, tables) != kept or known["kind"] != KIND or self.nbytes != whole or header != SIZE:
            raise self._corrupt("its directory does not match its digest")
        if kept.hex() != digest:
            raise self._corrupt("it is not the file that the index wrote")
        self._tables = tables
        self.row_bytes = self.dim * self.dtype.itemsize
        self.lists, self.counts = tables["lists"], tables["counts"]
        self.radius = tables["radius"]
        self.zones = Zones(tables["low"], tables["high"], tables["seen"])
        self._data, self._heads_at = SIZE, SIZE * (1 + rows)
        self._known_heads = np.zeros(heads, dtype=bool)
        self.verified = np.zeros(rows, dtype=bool)

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"{self.path} is damaged: {why}; {REPAIR}")

    @property
    def file(self) -> int:
        """The descriptor."""
        if self._open_file.closed:
            raise BadInput(f"{self.path} was closed; open the index again")
        return self._open_file.fileno()

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def resident(self) -> int:
        """Bytes in memory."""
        return sum(one.nbytes for one in self._tables.values()) + self._known_heads.nbytes + self.verified.nbytes

    def close(self) -> None:
        """Give the file back."""
        self._open_file.close()

    def __del__(self) -> None:
        if hasattr(self, "_open_file"):
            self.close()

    def blocks_of(self, lists: np.ndarray) -> np.ndarray:
        """Places in the directory of those of some lists that have rows here, in the order of `lists`."""
        if not len(self.lists):
            return np.empty(0, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.lists, lists), len(self.lists) - 1)
        return place[self.lists[place] == lists]

    def row_pages(self, blocks: np.ndarray) -> np.ndarray:
        """Pages of each block's rows, int64."""
        return pages_of(self.counts[blocks].astype(np.int64) * self.row_bytes)

    def head_pages(self, blocks: np.ndarray) -> np.ndarray:
        """Pages of each block's head, int64."""
        return pages_of(self._head_bytes(blocks) + 4 * self.row_pages(blocks))

    def _head_bytes(self, blocks: np.ndarray) -> np.ndarray:
        """Bytes of a head without its checksums."""
        return self.counts[blocks].astype(np.int64) * (8 * self.width + self.id_bytes + 4 * (self.dtype == np.int8))

    def data(self, blocks: np.ndarray) -> np.ndarray:
        """Byte of the file with which each block's rows begin, int64."""
        return self._data + self.first(blocks) * SIZE

    def first(self, blocks: np.ndarray) -> np.ndarray:
        """First page of each block's rows, int64."""
        return self._tables["place"][blocks].astype(np.int64)

    def head_runs(self, blocks: np.ndarray) -> np.ndarray:
        """Reads of heads into a buffer, one after another: int64 [b, 3] as `inlay.kernels.blocks` takes them."""
        pages = self.head_pages(blocks)
        return np.stack([np.cumsum(pages) - pages, self._tables["head"][blocks].astype(np.int64), pages], axis=1)

    def ask_heads(self, runs: np.ndarray) -> None:
        """Have the system begin to read heads."""
        ask(self.file, self._heads_at, runs)

    def fetch_heads(self, runs: np.ndarray, buffer: np.ndarray, always: bool) -> None:
        """Read heads into a buffer, and verify them."""
        sums = self._tables["sums"]
        damaged = fetch(self.file, self._heads_at, runs, buffer, sums, self._known_heads, always)
        if damaged >= 0:
            raise self._corrupt(f"page {damaged} of its heads does not match its checksum, or is cut short")

    def ask_rows(self, blocks: np.ndarray, runs: np.ndarray, bounds: np.ndarray) -> None:
        """Have the system begin to read rows: runs int64 [r, 3] by block, as `list_rows.plan` has them."""
        moved = runs.copy()
        moved[:, 1] += np.repeat(self.first(blocks), np.diff(bounds))
        ask(self.file, self._data, moved)

    def scales_at(self, blocks: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Bytes of a buffer where scales begin, given those where heads begin."""
        return starts + self.counts[blocks].astype(np.int64) * (8 * self.width + self.id_bytes)

    def sums_at(self, blocks: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The same for the checksums of rows."""
        return starts + self._head_bytes(blocks)

    def group(self, block: int, always: bool = True) -> Group:
        """All that a block holds."""
        one = np.array([block])
        runs = self.head_runs(one)
        head = np.empty(int(runs[0, 2]) * SIZE, dtype=np.uint8)
        self.fetch_heads(runs, head, always)
        n, pages, at = int(self.counts[block]), int(self.row_pages(one)[0]), 8 * self.width * int(self.counts[block])
        words = head[:at].view(np.uint64).reshape(self.width, n)
        kind = np.uint32 if self.id_bytes == 4 else np.uint64
        ids = head[at : at + self.id_bytes * n].view(kind).astype(np.int64)
        zero = np.zeros(1, dtype=np.int64)
        at, behind = int(self.scales_at(one, zero)[0]), int(self.sums_at(one, zero)[0])
        scales = head[at:behind].view(np.float32)
        sums = head[behind : behind + 4 * pages].view(np.uint32)
        rows = np.empty(pages * SIZE, dtype=np.uint8)
        first = int(self.first(one)[0])
        known = self.verified[first : first + pages]
        damaged = fetch(self.file, int(self.data(one)[0]), np.array([[0, 0, pages]]), rows, sums, known, always)
        if damaged >= 0:
            raise self.damaged_rows(block)
        return Group(rows[: n * self.row_bytes].view(self.dtype).reshape(n, self.dim), scales, words, ids)

    def damaged_rows(self, block: int) -> Corrupt:
        """The error for a block whose rows do not verify."""
        return self._corrupt(f"rows of list {self.lists[block]} do not match their checksums, or are cut short")

    def drop_cache(self) -> None:
        """Have the system forget what it holds of the file (for measuring)."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)
