"""Rows from one space to another: maps with `fit` and `transform` (see `inlay.types.SpaceMap`).

- `Whitening`: principal axes at unit variance. `PCAICA`: then rotated until they are as independent as can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.spaces.whitening import PCAICA, Whitening

__all__ = ["PCAICA", "Whitening"]

_HOMES = {"PCAICA": "whitening", "Whitening": "whitening"}

__getattr__, __dir__ = lazy(__name__, _HOMES)
