"""Rows by nearness: `add` rows, `search` for the k nearest of a query among the rows a mask allows.

- `Flat`: dense rows, exact scan.
- `HNSW`: dense rows, approximate, by a graph (extra `hnsw`).
- `Inverted`: sparse rows, exact, by posting lists; `Postings` are such lists ready made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.indexes.flat import Flat
    from inlay.indexes.hnsw import HNSW
    from inlay.indexes.inverted import Inverted, Postings

__all__ = ["HNSW", "Flat", "Inverted", "Postings"]

_HOMES = {"Flat": "flat", "HNSW": "hnsw", "Inverted": "inverted", "Postings": "inverted"}

__getattr__, __dir__ = lazy(__name__, _HOMES)
