"""Published methods, each run against its baseline on the same data.

One module a method, `reproductions/<room>/<name>.py`, found by walking this package: there is no list to keep. A module
says in its docstring what the method claims, names its source in `PAPER`, and offers

    run(data: Path, *, seeds: Sequence[int] = …, progress: bool = False) -> Result

`inlay reproduce NAME` calls it and keeps what it returns in `results/<name>.json`; the table in `docs/systems.md` is
made of those files and of nothing else. A module's underscores are hyphens in its name.
"""

from __future__ import annotations

import os
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from inlay.errors import BadInput

__all__ = ["data_folder", "names", "reproduction"]


@cache
def _places() -> dict[str, str]:
    """Name of each reproduction → its module, without importing any."""
    places: dict[str, str] = {}
    for room in pkgutil.iter_modules(__path__):
        if not room.ispkg:
            continue
        folders = [str(Path(folder) / room.name) for folder in __path__]
        for entry in pkgutil.iter_modules(folders):
            if entry.ispkg or entry.name.startswith("_"):
                continue
            name, module = entry.name.replace("_", "-"), f"{__name__}.{room.name}.{entry.name}"
            if name in places:
                raise BadInput(f"two reproductions are called {name!r}: {places[name]} and {module}")
            places[name] = module
    return places


def names() -> list[str]:
    """Names of all reproductions, in alphabetical order."""
    return sorted(_places())


def reproduction(name: str) -> ModuleType:
    """The module of a reproduction, by its name."""
    name = name.replace("_", "-")
    if name not in _places():
        from difflib import get_close_matches

        near = get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see: inlay reproduce --list"
        raise BadInput(f"there is no reproduction {name!r}; {hint}")
    return import_module(_places()[name])


def data_folder(given: str | Path | None = None) -> Path:
    """The folder of data sets: the one given, or the one the environment variable INLAY_DATA names."""
    folder = given or os.environ.get("INLAY_DATA")
    if not folder:
        raise BadInput("reproductions read real data: name its folder with --data DIR, or set INLAY_DATA=DIR")
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"the data folder {folder} does not exist; set --data or INLAY_DATA to one that does")
    return folder
