"""Recipes: a TOML file that names one choice for every slot, and what runs it.

    title = "…"
    [model]                kind = "static_bag" | "transformer", and its arguments
    [teacher]              encoder = "onnx:FOLDER", licence = "…"              (only for losses that want a teacher)
    [source.NAME]          builder = "docstring_code", its arguments, loss, in_batch, prefixes, filters
    [loss.NAME.TERM]       kind = "info_nce", weight, head, matryoshka, and its arguments
    [[stage]]              sources, batcher, steps or epochs, and the other fields of `Stage`
    [[after]]              do = "truncate" | "int8" | "float16"                (of a token table)
    [evaluate]             hold_out = rows kept from each source, every = steps

A key that nobody knows is an error that names it. Paths are relative to the recipe. A recipe may also be a Python file
with a function `run(output, *, max_minutes, seed, resume, progress) -> Card`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.errors import BadInput, MissingExtra

__all__ = ["Recipe", "find", "packaged"]

PACKAGED = Path(__file__).with_name("recipes")
SOURCE_KEYS = ("builder", "loss", "in_batch", "kind", "query_prefix", "document_prefix", "dedupe", "limit", "without")
TERM_KEYS = ("kind", "weight", "head", "matryoshka")
PATHS = ("path", "paths", "start", "without")  # keys whose values are


def packaged() -> dict[str, Path]:
    """Name → file of the recipes that come with inlay."""
    return {path.stem: path for path in sorted(PACKAGED.iterdir()) if path.suffix in (".toml", ".py")}


def find(name: str) -> Path:
    """The file of a recipe: one that comes with inlay, by name, or any other, by path."""
    if name in packaged():
        return packaged()[name]
    path = Path(name).expanduser()
    if path.suffix not in (".toml", ".py") or not path.is_file():
        raise BadInput(f"there is no recipe {name!r}; name one of {', '.join(packaged())}, or a .toml or .py file")
    return path


def call(where: str, function: Callable[..., Any], arguments: Mapping[str, Any], *, also: Iterable[str] = ()) -> Any:
    """Call with arguments from a recipe; one that the function does not take is an error that names it.

    Args:
        where: the table in the recipe, for errors.
        function: what to call.
        arguments: by name.
        also: keys that the table may have besides, to be named among the known ones.
    """
    known = list(inspect.signature(function).parameters)
    only(where, arguments, known, also)
    try:
        return function(**arguments)
    except (TypeError, ValueError) as error:  # BadInput is a ValueError
        raise BadInput(f"{where}: {error}") from error


def only(where: str, table: Mapping[str, Any], known: Iterable[str], also: Iterable[str] = ()) -> None:
    """Refuse a table with other keys than the known ones."""
    unknown = sorted(set(table) - set(known))
    if unknown:
        names = ", ".join(sorted({*known, *also}))
        raise BadInput(f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {names}")


def resolved(entry: Mapping[str, Any], here: Path) -> dict[str, Any]:
    """A table whose paths are taken from the recipe's folder."""

    def place(path: Any) -> Any:
        return path if path == "stdlib" else here / Path(os.path.expandvars(str(path))).expanduser()

    return {
        key: ([place(v) for v in value] if isinstance(value, list) else place(value)) if key in PATHS else value
        for key, value in entry.items()
    }


@dataclass
class Recipe:
    """A recipe as read; `run` trains it.

    Args:
        name: of the file.
        path: the file.
        table: its content.
        digest: of its bytes; a checkpoint of another recipe is refused.
    """

    name: str
    path: Path
    table: dict[str, Any]
    digest: str = ""

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a recipe and check the names in it."""
        path = find(str(path))
        data = path.read_bytes()
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        if path.suffix == ".py":
            doc = inspect.cleandoc(next(iter(_docstring(data)), ""))
            return cls(path.stem, path, {"title": doc.partition("\n")[0]}, digest)
        try:
            table = tomllib.loads(data.decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is not TOML: {error}") from None
        known = ("title", "licence", "model", "teacher", "source", "loss", "stage", "after", "evaluate")
        only(str(path), table, known)
        for part in ("model", "source", "loss", "stage"):
            if not table.get(part):
                raise BadInput(f"{path} has no [{part}]")
        return cls(path.stem, path, table, digest)

    @property
    def title(self) -> str:
        """What it trains, in a line."""
        return str(self.table.get("title", ""))

    def run(
        self, output: str | Path, *, max_minutes: float | None = None, seed: int = 0, resume: bool = True,
        progress: bool = False, start: str | Path | None = None,
    ) -> Any:  # fmt: skip
        """Train; returns the `Card`, which lies in `output` beside the model.

        Args:
            output: folder of the model; what is needed to go on after an interruption is in its `training`.
            max_minutes: time to train, preparation of data left out.
            seed: of everything.
            resume: go on from a checkpoint that is there.
            progress: show bars.
            start: folder of weights to go on from, for a recipe whose `run` takes them.
        """
        output = Path(output)
        run = _module(self.path).run if self.path.suffix == ".py" else None
        if start is not None and (run is None or "start" not in inspect.signature(run).parameters):
            raise BadInput(f"recipe {self.name} cannot go on from other weights")
        if run is not None:
            more = {} if start is None else {"start": start}
            return run(output, max_minutes=max_minutes, seed=seed, resume=resume, progress=progress, **more)
        try:
            from inlay.training.recipe_parts import train
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("torch", "transformers", "tokenizers", "safetensors"):
                raise
            raise MissingExtra("training recipes", "train") from None
        return train(self, output, max_minutes=max_minutes, seed=seed, resume=resume, progress=progress)


def _docstring(data: bytes) -> Iterable[str]:
    import ast

    found = ast.get_docstring(ast.parse(data))
    return [found] if found else []


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"inlay_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "run"):
        raise BadInput(f"{path} defines no run(output, *, max_minutes, seed, resume, progress)")
    return module
