"""Faces of rooms: public names that are imported when first used, so that opening a room costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(
    room: str, homes: Mapping[str, str], *, what: str = "", extra: str = "", needs: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a room's module.

    Args:
        room: the module's `__name__`.
        homes: public name → the file it lives in.
        what: what a room with an extra offers, for the error where that extra is missing.
        extra: its name.
        needs: packages of that extra; where another one is missing, the import error stands.
    """
    missing = frozenset(needs)

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        home = import_module(room)
        try:
            value = getattr(import_module(f"{room}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in missing:
                raise
            from inlay.errors import MissingExtra

            raise MissingExtra(what, extra) from None
        setattr(home, name, value)
        return value

    def __dir__() -> list[str]:
        return sorted(homes)

    return __getattr__, __dir__
