"""Where a figure is written: checked before the long work, not after it."""

from __future__ import annotations

from pathlib import Path

from inlay.errors import BadInput, MissingExtra

__all__ = ["SUFFIXES", "checked_figure"]

SUFFIXES = (".png", ".svg", ".pdf")


def checked_figure(path: str | Path) -> Path:
    """The path, if a figure can be drawn into it.

    Raises:
        BadInput: of another suffix, or in a folder that is not there.
        MissingExtra: matplotlib is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"a figure is written as {', '.join(SUFFIXES)}, got {str(path)!r}; give such a name")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {path.absolute().parent} to write the figure into; make it first")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtra("plots", "plots") from None
    return path
