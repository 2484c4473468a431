"""One writer at a time: an operating-system lock, so that a killed writer never leaves it behind."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from inlay.errors import InlayError, Locked

__all__ = ["WriterLock"]


class WriterLock:
    """The right to write to one collection; taken at the first write, given back on close."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "writer.lock"
        self._holder = folder / "writer.json"
        self._file: IO[bytes] | None = None

    @property
    def held(self) -> bool:
        """Whether this handle holds the lock."""
        return self._file is not None

    def acquire(self) -> None:
        """Take the lock now or raise `Locked` with the holder's name."""
        if self.held:
            return
        import portalocker

        try:
            file = open(self._path, "a+b")  # noqa: SIM115 - kept open: the lock lives as long as the file does
        except OSError as error:
            raise InlayError(f"cannot write to {self._path.parent}: {error.strerror or error}") from error
        try:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException:
            file.close()
            raise Locked(
                f"{self._path.parent} is being written by {self.holder()}. Wait for it to finish, or open the "
                "collection with mode='r' to read."
            ) from None
        self._file = file
        who = {"pid": os.getpid(), "host": socket.gethostname(), "program": sys.argv[0], "since": time.time()}
        with suppress(OSError):  # it only serves to name the holder
            self._holder.write_text(json.dumps(who))

    def holder(self) -> str:
        """Who holds the lock, in words."""
        try:
            who = json.loads(self._holder.read_text())
            since = time.strftime("%H:%M:%S", time.localtime(who["since"]))
            return f"process {who['pid']} on {who['host']} ({who['program'] or 'python'}, since {since})"
        except (OSError, ValueError, KeyError):
            return "another process"

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            with suppress(OSError):
                self._holder.unlink(missing_ok=True)
            self._file.close()
            self._file = None
