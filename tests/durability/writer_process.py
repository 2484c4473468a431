"""A writer that is killed, and the journal by which what it left is judged.

The writer is a fork of the test, so that a kill costs no import. It does a seeded sequence of operations and writes a
line to its journal before and after each. `KILLS` names the places where it can be told to end itself by SIGKILL:
before or after the n-th call of a system call or an SQL statement, or in the middle of a write to a file.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

import inlay
import inlay.io
from durability.fakes import Words
from inlay.collection import intake, segment

__all__ = ["KILLS", "Model", "Operation", "apply", "dimension", "dry_run", "encoder", "plan", "scaled_down", "start"]

Model = dict[str, tuple[str, dict[str, Any]]]  # id -> text and metadata
BATCH = 24  # documents of one commit, so that large operations take several
dimension = 12


def encoder() -> Words:
    """What writer and judge both use."""
    return Words(dimension)


@dataclass
class Operation:
    """One call: `add`, `update`, `delete` or `compact`, with its documents or ids."""

    kind: str
    documents: list[dict[str, Any]]

    @property
    def ids(self) -> list[str]:
        return [document["id"] for document in self.documents]


def plan(seed: int, count: int) -> list[Operation]:
    """A random life: mostly small changes, sometimes large ones."""
    rng = random.Random(seed)
    operations = []
    for number in range(count):
        kind = rng.choices(["add", "update", "delete", "compact"], [5, 4, 3, 1])[0]
        size = rng.choice([1, 1, 3, 8, 60]) if kind != "delete" else rng.choice([1, 5, 40])
        names = rng.sample(range(150), size)
        stamp = f"s{seed}o{number}"
        documents = [
            {
                "id": f"d{i}",
                "text": " ".join([f"doc{i}", stamp, *(f"w{rng.randrange(300)}" for _ in range(rng.randrange(3, 30)))]),
                "stamp": stamp,
                "tags": [f"t{rng.randrange(5)}" for _ in range(rng.randrange(3))],
            }
            for i in names
        ]
        operations.append(Operation(kind, [] if kind == "compact" else documents))
    return operations


def apply(model: Model, operation: Operation) -> list[Model]:
    """The states that an operation passes through, one after each commit; the last is its result."""
    states = []
    step = BATCH if operation.kind in ("add", "update") else max(1, len(operation.documents))
    for start in range(0, len(operation.documents), step):
        model = dict(model)
        for document in operation.documents[start : start + step]:
            name = document["id"]
            if operation.kind == "delete":
                model.pop(name, None)
            elif operation.kind == "update" or name not in model:
                model[name] = (document["text"], {k: v for k, v in document.items() if k not in ("id", "text")})
        states.append(model)
    return states or [model]


def perform(c: inlay.Collection, operation: Operation) -> None:
    """Do it."""
    match operation.kind:
        case "add":
            c.add(operation.documents)
        case "update":
            c.update(operation.documents)
        case "delete":
            c.delete(operation.ids)
        case "compact":
            c.compact()


@contextmanager
def scaled_down() -> Iterator[None]:
    """Small commits and small segments on disk: everything that happens to large collections, in little time."""
    before = intake.BATCH_DOCUMENTS, segment.INLINE
    intake.BATCH_DOCUMENTS, segment.INLINE = BATCH, 4096
    try:
        yield
    finally:
        intake.BATCH_DOCUMENTS, segment.INLINE = before


# -- places to die -------------------------------------------------------------------------------------------------


class _Trap:
    """Counts passages through each place, and ends the process at the chosen one."""

    def __init__(self, place: str = "", number: int = 0) -> None:
        self.place, self.number = place, number
        self.counts: Counter[str] = Counter()

    def pass_by(self, place: str) -> bool:
        """True if this is the place and the moment (to a caller that has something to spoil first)."""
        self.counts[place] += 1
        return place == self.place and self.counts[place] == self.number

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*args: Any, **kwargs: Any) -> Any:
            if self.pass_by(f"before {name}"):
                _die()
            result = call(*args, **kwargs)
            if self.pass_by(f"after {name}"):
                _die()
            return result

        return trapped


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _File:
    """A file that may be cut off in the middle of a write."""

    def __init__(self, file: Any, trap: _Trap) -> None:
        self._file, self._trap = file, trap

    def write(self, data: Any) -> int:
        if self._trap.pass_by("within write"):
            self._file.write(memoryview(data).cast("B")[: len(memoryview(data).cast("B")) // 2])
            self._file.flush()
            _die()
        return self._file.write(data)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.__exit__(*exception)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


KILLS = [f"{when} {what}" for what in ("fsync", "rename", "replace", "rmtree", "mkdir", "COMMIT", "SQL")
         for when in ("before", "after")] + ["within write"]  # fmt: skip


def _set(trap: _Trap) -> None:
    """Put the trap into this process; it is a fork that nobody will use for anything else."""
    for name in ("fsync", "rename", "replace", "mkdir"):
        setattr(os, name, trap.around(name, getattr(os, name)))
    shutil.rmtree = trap.around("rmtree", shutil.rmtree)

    class Connection(apsw.Connection):
        def execute(self, statements: str, *args: Any, **kwargs: Any) -> Any:
            name = "COMMIT" if statements == "COMMIT" else "SQL"
            return trap.around(name, super().execute)(statements, *args, **kwargs)

        def executemany(self, *args: Any, **kwargs: Any) -> Any:
            return trap.around("SQL", super().executemany)(*args, **kwargs)

    apsw.Connection = Connection

    def cut_off(path: Any, mode: str) -> Any:
        return open(path, mode) if "r" in mode else _File(open(path, mode), trap)

    inlay.io.open = cut_off  # type: ignore[attr-defined]


# -- the process ---------------------------------------------------------------------------------------------------


def start(path: Path, journal: Path, operations: list[Operation], place: str = "", number: int = 0) -> int:
    """Fork a writer that does the operations and ends. Returns its process id; wait for it.

    Args:
        path: the collection, which the writer opens or makes.
        journal: file that gets `begin N` and `done N` lines, and the traceback of an unexpected error.
        operations: what to do.
        place: one of `KILLS`, or nothing.
        number: at which passage through that place to die.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        trap = _Trap(place, number)
        _set(trap)
        try:
            with scaled_down(), inlay.open(path, encoder=encoder()) as c:
                for i, operation in enumerate(operations):
                    os.write(log, f"begin {i}\n".encode())
                    perform(c, operation)
                    os.write(log, f"done {i}\n".encode())
            if not place:
                for name, count in trap.counts.items():
                    os.write(log, f"count {count} {name}\n".encode())
            code = 0
        except BaseException:
            os.write(log, traceback.format_exc().encode())
    finally:
        os._exit(code)


def dry_run(path: Path, journal: Path, operations: list[Operation]) -> dict[str, int]:
    """Let a writer do everything undisturbed. Returns how often it passed each place of `KILLS`."""
    _, status = os.waitpid(start(path, journal, operations), 0)
    lines = journal.read_text().splitlines()
    assert status == 0, "\n".join(lines)
    return {name: int(count) for _, count, name in (x.split(" ", 2) for x in lines if x.startswith("count "))}
