"""Where the indexes of folders live, and which of them answers for a path.

A folder's index is kept apart from the folder, under a name made from the folder's real path, so that nothing is ever
written into someone's files and the index of a path is found without a list of all indexes.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

__all__ = ["Place", "home", "index_of", "indexes", "is_collection", "locate", "mirror_of"]

CATALOG = "catalog.sqlite"


def home() -> Path:
    """The folder where inlay keeps what can be made again: `$INLAY_HOME`, or the user's cache."""
    if given := os.environ.get("INLAY_HOME"):
        return Path(given).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("inlay", appauthor=False))


def index_of(folder: str | os.PathLike[str]) -> Path:
    """Where the index of this folder (or single file) lives, whether it has been made or not."""
    real = os.path.realpath(folder)
    name = re.sub(r"[^\w.\-]+", "_", os.path.basename(real))[:48] or "root"
    return home() / "indexes" / f"{name}-{blake2b(os.fsencode(real), digest_size=8).hexdigest()}.inlay"


def is_collection(path: Path) -> bool:
    """Whether this folder is a collection, rather than a folder of someone's files."""
    return (path / CATALOG).is_file()


def indexes() -> Iterator[Path]:
    """Every folder index on this machine, by name."""
    for path in sorted((home() / "indexes").glob("*.inlay")):
        if is_collection(path):
            yield path


@dataclass(frozen=True)
class Place:
    """What a path on the command line stands for.

    Args:
        collection: the collection that answers, whether it has been made or not.
        folder: the folder that it mirrors; None for a collection that stands by itself.
        within: the part of the folder that was asked for, as a relative path with "/"; empty for all of it.
        alone: the index holds the single file `within` and nothing else of the folder.
    """

    collection: Path
    folder: Path | None = None
    within: str = ""
    alone: bool = False

    @property
    def exists(self) -> bool:
        return is_collection(self.collection)

    @property
    def cached(self) -> bool:
        """Whether the collection is one of those kept in `home()`, which can be made again from their folders."""
        return self.collection.parent == home() / "indexes"

    @property
    def where(self) -> dict[str, Any] | None:
        """The filter that keeps a search inside `within`."""
        if not self.within or self.alone:
            return None
        literal = re.sub(r"([\[*?])", r"[\1]", self.within)
        return {"$or": [{"path": {"$glob": literal}}, {"path": {"$glob": f"{literal}/*"}}]}

    @property
    def source(self) -> Path | None:
        """The folder, or the single file, that the index is made from."""
        return self.folder / self.within if self.folder and self.alone else self.folder

    def holds(self, path: str) -> bool:
        """Whether a path of the index lies in the part that was asked for."""
        return not self.within or path == self.within or path.startswith(self.within + "/")

    def file(self, path: str) -> Path | None:
        """The file on disk behind a path of the index, where there is one."""
        return None if self.folder is None else self.folder / path

    def shown(self, path: str) -> str:
        """A path of the index as a person in the current folder would type it."""
        file = self.file(path)
        if file is None:
            return path
        relative = os.path.relpath(file, os.path.realpath(os.curdir))
        return str(file) if relative.startswith(os.pardir) else relative

    def __str__(self) -> str:
        return self.shown(self.within or os.curdir) if self.folder else str(self.collection)


def locate(path: Path, *, own: bool = False) -> Place:
    """The collection that answers for a path.

    A collection answers for itself. A folder or file is answered by its own index or, failing that, by the index of
    the nearest folder round it.

    Args:
        path: a collection, a folder or a file; it may have vanished since it was indexed.
        own: take the path's own index, even where that of a folder round it exists.
    """
    if is_collection(path):
        return Place(path)
    real = Path(os.path.realpath(path))
    place = _own(real)
    if not place.exists and not own:
        for folder in real.parents:
            if is_collection(index := index_of(folder)):
                return Place(index, folder, real.relative_to(folder).as_posix())
    return place


def mirror_of(collection: Path, source: Path) -> Place:
    """A collection kept where the user wants it, as the mirror of a folder or a single file."""
    return dataclasses.replace(_own(Path(os.path.realpath(source))), collection=collection)


def _own(real: Path) -> Place:
    if real.is_file():
        return Place(index_of(real), real.parent, real.name, alone=True)
    return Place(index_of(real), real)
