"""Folders of `transformers` models: opened without a download, and what was grafted written into their config."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from inlay.errors import BadInput, Corrupt, MissingExtra

__all__ = ["ENTRY", "config_of", "describe", "folder_of", "opened", "tensors_below", "transformers"]

ENTRY = "inlay_graft"  # of a config: method → what is needed to make its parts again
AGAIN = "restore it from a copy, or save the model again"


def transformers() -> Any:
    """The package. Raises `MissingExtra` where it is not installed."""
    try:
        import transformers as package
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingExtra("grafts on pretrained models", "train") from None
    return package


def folder_of(path: str | Path) -> Path:
    """A folder that holds a model; refused where it does not, for nothing is downloaded."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} has no config.json; give the folder of a model on this machine")
    return folder


def config_of(folder: Path) -> Any:
    """A model's config. Raises `Corrupt` where it cannot be read."""
    package = transformers()
    try:
        return package.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parts do: OSError, ValueError, its validators' own
        raise Corrupt(f"{folder}/config.json cannot be read ({error}); {AGAIN}") from None


def opened(path: str | Path) -> Any:
    """The causal language model in a folder, which must not have been grafted."""
    folder = folder_of(path)
    if getattr(config_of(folder), ENTRY, None) is not None:
        raise BadInput(f"{folder} holds a grafted model; open it with load_grafted")
    return transformers().AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def describe(model: Any, method: str, entry: Mapping[str, Any]) -> None:
    """Write into a model's config what was grafted; into a copy, for other models may share the one it has."""
    shared, config = model.config, copy.deepcopy(model.config)
    setattr(config, ENTRY, {**(getattr(config, ENTRY, None) or {}), method: dict(entry)})
    for module in model.modules():
        if getattr(module, "config", None) is shared:
            module.config = config


def tensors_below(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Saved tensors whose names begin with a prefix, under the rest of their names.

    Raises:
        Corrupt: files are missing, damaged or cut short.
    """
    from safetensors import SafetensorError, safe_open

    index, names = folder / "model.safetensors.index.json", {"model.safetensors"}
    found: dict[str, Tensor] = {}
    try:
        if index.is_file():
            homes = json.loads(index.read_text())["weight_map"]
            names = {home for name, home in homes.items() if name.startswith(prefix)}
        for name in sorted(names):
            with safe_open(folder / name, "pt") as file:
                held = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 - no mapping
                found |= {key.removeprefix(prefix): file.get_tensor(key) for key in held}
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise Corrupt(f"weights in {folder} cannot be read ({error}); {AGAIN}") from None
    return found
