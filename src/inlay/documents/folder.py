"""The files of a folder that are worth reading, in a fixed order."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inlay.documents.formats import recognise
from inlay.errors import BadInput

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["Source", "walk"]

NEVER = frozenset({".git", ".hg", ".svn", "node_modules", "site-packages", "dist-packages", "__pycache__", ".venv"})
IGNORE_FILES = (".gitignore", ".inlayignore")  # later lines win, so the second may overrule the first


class Source(NamedTuple):
    """A file to read.

    Args:
        path: where it is, absolute.
        name: what to call it: its path below the root, with `/` between parts. Bytes that are no UTF-8 are escaped,
            so that a name can always be stored and printed.
        size: bytes.
        mtime_ns: time of last change, nanoseconds.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int


def walk(
    root: str | os.PathLike[str],
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    hidden: bool = False,
    max_bytes: int | None = 20_000_000,
    on_skip: Callable[[str, str], None] | None = None,
) -> Iterator[Source]:
    """Find the files below a folder that can be read, sorted by name.

    `.gitignore` and `.inlayignore` are honoured in every folder, and above the root up to the repository's top.
    Version control, installed packages, virtual environments and collections (`*.inlay`) are never entered. Links to
    files are followed inside the root, each real file once; links to folders are not.

    Args:
        root: a folder, or one file, which is then taken whatever its name.
        include: patterns as in `.gitignore`; if any, only files matching one are found, whatever their suffix.
        exclude: patterns as in `.gitignore` for files and folders to leave out.
        hidden: whether to take names that begin with a dot.
        max_bytes: leave out larger files; None for no bound.
        on_skip: called with (name, reason) for each file or folder left out that the caller may have expected:
            unreadable, too large, a format without a reader, a link that leads away. Not for ignored ones.

    Raises:
        BadInput: there is nothing at `root`, or a pattern is malformed.
    """
    top = os.path.abspath(root)
    if not os.path.exists(top):
        raise BadInput(f"no such file or folder: {os.fspath(root)!r}; relative paths start from {os.getcwd()!r}")
    walker = _Walk(top, _patterns(include), _patterns(exclude), hidden, max_bytes, on_skip or _silently)
    return walker.folder() if os.path.isdir(top) else walker.single()


def _silently(name: str, reason: str) -> None:
    """Report nothing."""


def _patterns(lines: Iterable[str]) -> GitIgnoreSpec | None:
    if isinstance(lines, str):
        raise BadInput(f"patterns come as a list, got the string {lines!r}; write [{lines!r}]")
    lines = list(lines)
    if not lines:
        return None
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise BadInput(f"malformed pattern among {lines!r}: {error}") from None


class _Rules(NamedTuple):
    """The ignore patterns of one folder, and how a name below the root reads from that folder."""

    spec: GitIgnoreSpec
    drop: int  # characters of the name that lead to the folder
    prepend: str = ""  # path from the folder to the root, where it lies above it

    def verdict(self, name: str) -> bool | None:
        return self.spec.check_file(self.prepend + name[self.drop :]).include


class _Walk:
    """One pass over a folder. Names end in `/` while they are those of folders, as ignore patterns expect."""

    def __init__(
        self,
        top: str,
        include: GitIgnoreSpec | None,
        exclude: GitIgnoreSpec | None,
        hidden: bool,
        max_bytes: int | None,
        on_skip: Callable[[str, str], None],
    ) -> None:
        self.top, self.real_top = top, os.path.realpath(top)
        self.include, self.exclude, self.hidden, self.max_bytes = include, exclude, hidden, max_bytes
        self.on_skip = on_skip
        self.seen: set[tuple[int, int]] = set()

    def single(self) -> Iterator[Source]:
        name = os.path.basename(self.top)
        if source := self._source(self.top, name):
            yield source

    def folder(self) -> Iterator[Source]:
        links: list[tuple[str, str]] = []
        open_folders = [self._list(self.top, "", self._rules_above())]
        while open_folders:
            for entry, name, rules in open_folders[-1]:
                if name.endswith("/"):
                    open_folders.append(self._list(entry.path, name, rules))
                    break
                if entry.is_symlink():
                    links.append((entry.path, name))
                elif source := self._source(entry.path, name, entry):
                    yield source
            else:
                open_folders.pop()
        # Links come last, so that a real file keeps its own name whichever way the two sort.
        for path, name in links:
            if self._leads_inside(path, name) and (source := self._source(path, name, once=True)):
                yield source

    def _list(
        self, path: str, prefix: str, rules: tuple[_Rules, ...]
    ) -> Iterator[tuple[os.DirEntry[str], str, tuple[_Rules, ...]]]:
        """What to look at in one folder: entry, name, rules for what lies below."""
        try:
            with os.scandir(path) as scan:
                entries = {entry.name: entry for entry in scan}
        except OSError as error:
            self.on_skip(_printable(prefix) or ".", _why(error))
            return
        if prefix and "pyvenv.cfg" in entries:
            return
        if lines := [line for name in IGNORE_FILES if name in entries for line in self._lines(entries[name].path)]:
            rules = (*rules, _Rules(_spec(lines), len(prefix)))
        folders = {name for name, entry in entries.items() if entry.is_dir(follow_symlinks=False)}
        for name in sorted(name + "/" if name in folders else name for name in entries):
            entry = entries[name.rstrip("/")]
            if self._wanted(entry.name, prefix + name, rules):
                yield entry, prefix + name, rules

    def _wanted(self, base: str, name: str, rules: tuple[_Rules, ...]) -> bool:
        if base in NEVER or (base[0] == "." and not self.hidden) or (base.endswith(".inlay") and name[-1] == "/"):
            return False
        if rules and _ignored(name, rules):
            return False
        return not (self.exclude and self.exclude.match_file(name))

    def _source(self, path: str, name: str, entry: os.DirEntry[str] | None = None, once: bool = False) -> Source | None:
        """The file as a source, unless its format, size or nature is against it."""
        shown = _printable(name)
        if path != self.top:  # a file given by name is taken at its word
            if self.include:
                if not self.include.match_file(name):
                    return None
            elif recognise(name) is None:
                self.on_skip(shown, f"no reader for .{shown.rpartition('.')[2]} files")
                return None
        try:
            status = entry.stat() if entry else os.stat(path)
        except OSError as error:
            self.on_skip(shown, _why(error))
            return None
        if not stat.S_ISREG(status.st_mode):
            self.on_skip(shown, "not a regular file")
            return None
        identity = (status.st_dev, status.st_ino) if status.st_ino else (0, hash(os.path.realpath(path)))
        if once and identity in self.seen:
            return None
        self.seen.add(identity)
        if self.max_bytes is not None and status.st_size > self.max_bytes:
            self.on_skip(shown, f"{status.st_size:,} bytes is over the limit of {self.max_bytes:,}")
            return None
        return Source(Path(path), shown, status.st_size, status.st_mtime_ns)

    def _leads_inside(self, path: str, name: str) -> bool:
        """Whether a link leads to a file below the root; a folder there is walked under its own name already."""
        target = os.path.realpath(path)
        inside = os.path.join(target, "").startswith(os.path.join(self.real_top, ""))
        if os.path.isdir(path) and inside:
            return False
        if not inside:
            self.on_skip(_printable(name), "a link to somewhere outside the folder")
        return inside

    def _rules_above(self) -> tuple[_Rules, ...]:
        """The ignore files between the repository's top and the root, unless they ignore the root itself.

        Someone who names an ignored folder wants it read.
        """
        found: list[_Rules] = []
        below, above = "", self.top
        while not os.path.lexists(os.path.join(above, ".git")):
            above, base = os.path.split(above)
            if not base:
                return ()
            below = f"{base}/{below}"
            paths = (os.path.join(above, name) for name in IGNORE_FILES)
            if lines := [line for path in paths if os.path.isfile(path) for line in self._lines(path)]:
                found.insert(0, _Rules(_spec(lines), 0, below))
        return () if found and _ignored("", tuple(found)) else tuple(found)

    def _lines(self, path: str) -> list[str]:
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                return file.read().splitlines()
        except OSError as error:
            self.on_skip(_printable(os.path.relpath(path, self.top)), _why(error))
            return []


def _ignored(name: str, rules: tuple[_Rules, ...]) -> bool:
    """The innermost folder with an opinion decides."""
    for folder in reversed(rules):
        if (verdict := folder.verdict(name)) is not None:
            return verdict
    return False


def _spec(lines: list[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:
        # As git does, let a malformed line match nothing rather than lose the others.
        return GitIgnoreSpec([pattern for line in lines for pattern in _compiled(line)])


def _compiled(line: str) -> list:
    from pathspec import GitIgnoreSpec

    try:
        return list(GitIgnoreSpec.from_lines([line]).patterns)
    except ValueError:
        return []


def _printable(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
