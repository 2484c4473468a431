"""Multi-vector rows on disk, read a document at a time by threads while others compute.

    store = SlotFile.create("tokens.slots", cls, bow)     # CLS rows [n, dim] and a Ragged of token rows
    with SlotFile("tokens.slots") as store:
        cls, bow = store.read([7, 3, 7])                  # sorted by place, one read of the disk a block
        reading = store.start(ids, each)                  # the same behind the caller's back
        reading.wait()

The file is safetensors whose first array, `blocks`, begins on a 4 KiB boundary and holds the documents (see
`slot_layout`); behind it lie a CRC-32 of every block, where each document is, and a digest over these. Memory keeps
nine bytes a document and five a block. A block is verified when first read.

Reading is `preadv` in a few threads, which hold no Python lock while the disk works. Before a thread reads, it asks
the system for the next two hundred blocks (`posix_fadvise(WILLNEED)`), so that the disk's queue is full however few
threads there are: cold on a virtual disk, bare reads of one thread came to 12,000 blocks a second without, and to
100,000 with.

Source: ESPN (arXiv 2312.05417).
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.indexes import slot_writer
from inlay.indexes.slot_layout import SLOT, row_starts, windows
from inlay.indexes.slot_plan import PIECE, Plan
from inlay.io import Pack
from inlay.kernels.blocks import ask, fetch
from inlay.types import Ragged

__all__ = ["Reading", "SlotFile", "Slots"]

AHEAD = 2  # pieces asked for before they are read

# What a reading thread calls: places int64 [m] of the documents among the ids asked for, and the documents.
Each: TypeAlias = Callable[[np.ndarray, "Slots"], None]


class Slots(NamedTuple):
    """Documents as they are kept.

    Attributes:
        cls: float16 [n, cls_dim].
        bow: rows of their tokens, float16.
    """

    cls: np.ndarray
    bow: Ragged


class Reading:
    """Documents on their way.

    Attributes:
        blocks: blocks that are read for them.
        nbytes: bytes of these.
    """

    def __init__(self, work: list[tuple[Future[None], Callable[[], None]]], blocks: int) -> None:
        self._work, self.blocks, self.nbytes = work, blocks, blocks * SLOT

    def done(self) -> bool:
        """Whether all have arrived."""
        return all(future.done() for future, _ in self._work)

    def wait(self) -> None:
        """Return when all have arrived, or raise what went wrong on their way; once for each reading.

        Who waits helps: pieces that no thread has begun are read here, the last ones first.
        """
        for future, work in reversed(self._work):
            if future.cancel():
                work()
        for future, _ in self._work:
            if not future.cancelled():
                future.result()


class SlotFile:
    """Documents of a slot file. Any number of threads may read at once.

    Args:
        path: of the file.
        threads: threads that read.
        direct: read past the system's page cache (O_DIRECT): each read then costs what the disk costs, and memory
            holds no copy. Not every file system offers it, and nothing can be asked for ahead.
        checks: verify a block when this object `first` reads it, or `always`.

    Attributes:
        cls_dim: numbers of a CLS row; 0 where documents have none.
        bow_dim: numbers of a token row.
        blocks: blocks of the file.
        truncated: documents that were cut to what a slot holds.
        nbytes: bytes of the file.
    """

    def __init__(
        self, path: str | Path, *, threads: int = 2, direct: bool = False, checks: Literal["first", "always"] = "first"
    ) -> None:
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise BadInput(f"threads must be a positive integer, got {threads!r}")
        if checks not in ("first", "always"):
            raise BadInput(f"checks must be first or always, got {checks!r}")
        if not hasattr(os, "preadv"):
            raise BadInput("slot files are read by preadv, which this system does not offer; keep the rows in memory")
        self.path, self.threads, self.direct, self.checks = Path(path), threads, direct, checks
        self._open_file = self._open()
        try:
            self._read_directory()
        except BaseException:
            self._open_file.close()
            raise
        self._verified = np.zeros(self.blocks, dtype=bool)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inlay-slots")
        self._own = threading.local()

    @classmethod
    def create(cls, path: str | Path, cls_rows: Any, bow: Ragged, **options: Any) -> Self:
        """Write a file, whole or not at all, and open it; a file of that name is replaced.

        Args:
            path: where.
            cls_rows: finite numbers [n, cls_dim] within float16, memory-mapped ones too; None where documents have no
                such row.
            bow: rows of n documents' tokens, some of which may have none.
            options: arguments of the constructor.

        Warns:
            InlayWarning: where documents were cut to what a slot holds.
        """
        slot_writer.write(Path(path), cls_rows, bow)
        return cls(path, **options)

    def _read_directory(self) -> None:
        if not os.fstat(self._file).st_size:
            raise Corrupt(f"{self.path} is empty: {slot_writer.REPAIR}")
        try:
            whole = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
            pack = Pack(whole, str(self.path), None, slot_writer.REPAIR)
            facts = pack.metadata["slots"]
            known = json.loads(facts)
            self.cls_dim, self.bow_dim, self.truncated = (known[name] for name in ("cls", "bow", "truncated"))
            self._sums, self._block, self._offset, self._tokens = (
                pack[name].copy() for name in ("sums", "block", "offset", "tokens")
            )
            self.blocks, self._data = len(self._sums), pack.nbytes - known["behind"] - len(self._sums) * SLOT
            kept = pack["digest"].tobytes()
        except Corrupt:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"{self.path} is damaged or no slot file ({error!r}): {slot_writer.REPAIR}") from None
        self.nbytes = pack.nbytes
        arrays = {"sums": self._sums, "block": self._block, "offset": self._offset, "tokens": self._tokens}
        if slot_writer.digest(facts, arrays) != kept or self._data % SLOT or self._data <= 0:
            raise Corrupt(f"{self.path} is damaged: its directory does not match its digest; {slot_writer.REPAIR}")
        # Bytes from the start of a slot, whichever block that is in.
        self._spans = -(-(self._offset + 2 * self.cls_dim + 2 * self.bow_dim * self._tokens.astype(np.int64)) // SLOT)
        self._spans = self._spans.astype(np.uint8)

    def _open(self) -> Any:
        def past_the_cache(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_DIRECT)

        try:
            file = open(self.path, "rb", buffering=0, opener=past_the_cache if self.direct else None)  # noqa: SIM115
        except FileNotFoundError:
            raise BadInput(f"there is no slot file {self.path}; make it with SlotFile.create") from None
        except IsADirectoryError:
            raise BadInput(f"{self.path} is a folder, not a slot file") from None
        except (OSError, AttributeError) as error:
            if not self.direct:
                raise
            raise BadInput(f"{self.path} cannot be read past the page cache ({error}); take direct=False") from None
        if not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # else a block brings its neighbours with it
        return file

    @property
    def _file(self) -> int:
        if self._open_file.closed:
            raise BadInput(f"{self.path} was closed; open it again with SlotFile({str(self.path)!r})")
        return self._open_file.fileno()

    def __len__(self) -> int:
        return len(self._block)

    def __repr__(self) -> str:
        return f"SlotFile({str(self.path)!r}) of {len(self)} documents, {self.cls_dim} + tokens × {self.bow_dim}"

    @property
    def resident(self) -> int:
        """Bytes in memory."""
        arrays = (self._sums, self._block, self._offset, self._tokens, self._spans, self._verified)
        return sum(array.nbytes for array in arrays) + self.threads * (PIECE + 1) * SLOT

    def tokens(self, ids: Any) -> np.ndarray:
        """How many rows each document has, int64 [n]; the disk is not read."""
        return self._tokens[self._checked(ids)].astype(np.int64)

    def start(self, ids: Any, each: Each) -> Reading:
        """Begin to read documents, and return at once.

        Args:
            ids: int [n] in [0, len(self)), in any order.
            each: called by the reading threads, and by who waits for them, with some of the documents at a time until
                every one was handed over, those without a byte too.
        """
        ids, file = self._checked(ids), self._file
        here = self._spans[ids] > 0
        work: list[Callable[[], None]] = []
        blocks = 0
        if not here.all():
            places = np.flatnonzero(~here)
            nothing = Ragged(np.empty((0, self.bow_dim), np.float16), np.zeros(len(places) + 1, np.int64))
            work.append(partial(each, places, Slots(np.empty((len(places), 0), np.float16), nothing)))
        if here.any():
            places = np.flatnonzero(here)
            ids = ids[places]
            block, spans, offset, tokens = (
                array[ids].astype(np.int64) for array in (self._block, self._spans, self._offset, self._tokens)
            )
            plan = Plan(places, block, spans, offset, tokens, self.cls_dim, self.bow_dim)
            blocks = plan.blocks
            work.extend(partial(self._read_piece, file, plan, piece, each) for piece in range(len(plan)))
        return Reading([(self._pool.submit(piece), piece) for piece in work], blocks)

    def read(self, ids: Any) -> Slots:
        """Documents in the order asked for; ids as in `start`."""
        ids = self._checked(ids)
        counts = self._tokens[ids].astype(np.int64)
        offsets = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        cls = np.empty((len(ids), self.cls_dim), dtype=np.float16)
        values = np.empty((int(offsets[-1]), self.bow_dim), dtype=np.float16)

        def each(places: np.ndarray, slots: Slots) -> None:
            cls[places] = slots.cls
            values[row_starts(offsets[places], counts[places], 1)] = slots.bow.values

        self.start(ids, each).wait()
        return Slots(cls, Ragged(values, offsets))

    def verify(self) -> None:
        """Verify every block."""
        buffer, file = self._buffer(), self._file
        for start in range(0, self.blocks, PIECE):
            count = min(PIECE, self.blocks - start)
            self._fetch(file, np.array([[0, start, count]]), buffer, True)

    def drop_cache(self) -> None:
        """Have the system forget what it holds of the file, so that the next reads are the disk's (for measuring)."""
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Give threads and file back. Wait for the readings that were begun before."""
        self._pool.shutdown()
        self._open_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read_piece(self, file: int, plan: Plan, piece: int, each: Each) -> None:
        self._ask(file, plan, piece)
        buffer = self._buffer()
        self._fetch(file, plan.runs[piece], buffer, self.checks == "always")
        first, last = plan.cuts[piece], plan.cuts[piece + 1]
        offsets = plan.offsets[first : last + 1]
        numbers = buffer.view(np.float16)
        cls = windows(numbers, self.cls_dim)[plan.cls[first:last]]
        bow = windows(numbers, self.bow_dim)[plan.rows[offsets[0] : offsets[-1]]]
        each(plan.places[first:last], Slots(cls, Ragged(bow, offsets - offsets[0])))

    def _ask(self, file: int, plan: Plan, piece: int) -> None:
        """See that the pieces up to some beyond this one are on their way from the disk."""
        if self.direct:
            return
        with plan.lock:
            first, plan.asked = plan.asked, max(plan.asked, min(piece + AHEAD + 1, len(plan)))
        for runs in plan.runs[first : plan.asked]:
            ask(file, self._data, runs)

    def _buffer(self) -> np.ndarray:
        """The thread's own; direct reads need it to begin on a page."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = np.frombuffer(mmap.mmap(-1, (PIECE + 1) * SLOT), dtype=np.uint8)
        return self._own.buffer

    def _fetch(self, file: int, runs: np.ndarray, buffer: np.ndarray, always: bool) -> None:
        damaged = fetch(file, self._data, runs, buffer, self._sums, self._verified, always)
        if damaged >= 0:
            raise Corrupt(
                f"{self.path} is damaged: block {damaged} does not match its checksum, or is cut short; "
                f"{slot_writer.REPAIR}"
            )

    def _checked(self, ids: Any) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise BadInput(f"ids must be integers [n], got {ids.dtype} {list(ids.shape)}")
        wrong = (ids < 0) | (ids >= len(self))
        if wrong.any():
            raise BadInput(f"id {ids[wrong][0]} is outside [0, {len(self)})")
        return ids.astype(np.int64)
