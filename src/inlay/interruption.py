"""Ctrl-C as a request: what runs ends at a good moment. A second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption"]


class Interruption:
    """While it is entered, the first SIGINT sets `asked` and nothing else."""

    def __init__(self) -> None:
        self.asked = False
        self._usual: Any = None

    def __enter__(self) -> Interruption:
        try:
            self._usual = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread: signals are somebody else's
            self._usual = None
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._usual)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._usual is not None:
            signal.signal(signal.SIGINT, self._usual)
