"""What can go wrong, by name. Every message says what was wrong, with the offending value, and what to do next."""

from __future__ import annotations

__all__ = [
    "BadInput",
    "Corrupt",
    "InlayError",
    "InlayWarning",
    "Locked",
    "MissingExtra",
    "ModelChanged",
    "Offline",
    "SpaceMismatch",
]


class InlayError(Exception):
    """Any error that inlay raises on purpose."""


class BadInput(InlayError, ValueError):
    """A value given by the caller cannot be used: wrong type, shape, range or syntax."""


class SpaceMismatch(InlayError):
    """Vectors of different spaces were about to be compared: another model, dimension or metric."""


class ModelChanged(SpaceMismatch):
    """A model of the name that a collection was made with is there, but it is another one now."""


class Corrupt(InlayError):
    """Stored bytes do not verify. Names the file and the repair command."""


class Locked(InlayError):
    """Another process is writing to the collection. Names the holder."""


class MissingExtra(InlayError, ImportError):
    """An optional dependency is not installed.

    Args:
        what: what needs it, as the user would say it ("PDF files").
        extra: the extra of this package that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} need an optional part of inlay. Install it with: pip install 'inlay[{extra}]'")
        self.extra = extra


class Offline(InlayError):
    """Something would have to be fetched from the network, and nobody asked for that."""


class InlayWarning(UserWarning):
    """Something the caller should know and may ignore."""
