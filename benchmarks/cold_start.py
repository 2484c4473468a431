"""What a person waits for at the prompt: whole processes, interpreter included, on a warm disk.

The folder searched holds 1,400 files of SciFact and was indexed before; how many passages that makes is counted. The
yardstick of every row is a bare `python -c pass`, timed in turn with it, or another engine's import.
"""

from __future__ import annotations

import statistics
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks import child, data
from benchmarks.harness import Row, alternate, ratios

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Cold start"
PACKAGES = ("inlay", "txtai", "chromadb", "lancedb", "bm25s", "numpy")
ROUNDS = 11
BARE = [sys.executable, "-c", "pass"]


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows of importing, of the help text and of a search."""
    rounds = 3 if quick else ROUNDS
    inlay = [sys.executable, "-c", "import inlay"]
    yield _pair("import inlay", inlay, "python -c pass", BARE, rounds)
    for peer in ("bm25s", "lancedb", "chromadb", "txtai"):
        if find_spec(peer) is None:
            yield Row("import", peer, refused=f"{peer} is not installed")
            continue
        notes = {"note": "inlay loads its parts when first used; what that comes to is in the end_to_end rows"}
        yield _pair("import", inlay, peer, [sys.executable, "-c", f"import {peer}"], rounds, notes=notes)
    yield _pair("inlay --help", [*_command(), "--help"], "python -c pass", BARE, rounds)
    with tempfile.TemporaryDirectory() as scratch:
        folder, env = Path(scratch) / "papers", {"INLAY_HOME": str(Path(scratch) / "home")}
        documents = _write(folder, 200 if quick else 1400)
        first = child.wall([*_command(), "search", "microstructure of the brain", str(folder)], env=env)
        search = [*_command(), "search", "microstructure of the brain", str(folder)]
        task = f"inlay search, a folder of {documents:,} files"
        notes = {"passages": _passages(Path(env["INLAY_HOME"])), "first search, which indexes (s)": round(first, 2)}
        yield _pair(task, search, "python -c pass", BARE, rounds, env, notes)
        yield _pair(f"{task}, --no-sync", [*search, "--no-sync"], "python -c pass", BARE, rounds, env)


def _pair(
    task: str,
    ours: list[str],
    peer: str,
    theirs: list[str],
    rounds: int,
    env: dict[str, str] | None = None,
    notes: dict | None = None,
) -> Row:
    """Whole commands, in turn; the first of each is not counted."""
    commands = (ours, theirs)
    seconds: tuple[list[float], list[float]] = ([], [])
    try:
        for command in commands:
            child.wall(command, env=env)
        for order in alternate(0.0, rounds, rounds):
            for which in order:
                seconds[which].append(child.wall(commands[which], env=env))
    except child.ChildFailed as why:
        return Row(task, peer, refused=str(why))
    a, b = (statistics.median(side) * 1e3 for side in seconds)
    return Row(task, peer, "ms", a, b, ratios(*seconds), notes=dict(notes or {}))


def _command() -> list[str]:
    """The installed command, as a user types it, or its module where there is no script."""
    script = Path(sysconfig.get_path("scripts")) / "inlay"
    return [str(script)] if script.exists() else [sys.executable, "-c", "from inlay.cli import main; main()"]


def _passages(home: Path) -> int:
    """Passages of the one index under this home."""
    import inlay

    (index,) = (home / "indexes").glob("*.inlay")
    with inlay.open(index, mode="r") as collection:
        return collection.info()["passages"]


def _write(folder: Path, files: int) -> int:
    test = data.judged("scifact")
    folder.mkdir()
    for id, text in list(zip(test.ids, test.texts))[:files]:
        (folder / f"{id}.txt").write_text(text + "\n", encoding="utf-8")
    return min(files, len(test.ids))
