"""Ways to keep and search dense rows that are worth a try: reducer × codec × index × re-ranking.

The grid is that of "Optimization of embeddings storage for RAG systems" (arXiv 2505.00105), dimensions kept by number
format, with the small codes of CoRECT (arXiv 2510.19340), a graph, and re-ranking: a small code finds candidates, a
finer one of the same rows orders them, and the bytes of both are counted.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.configuration import FULL, Configuration

__all__ = ["Configuration", "grid"]

REDUCED = (0.75, 0.5, 0.25)  # shares of the dimensions that principal components keep
CUT = (0.5, 0.25)  # and those of plain truncation, for models that were trained to be cut
CODES = (FULL, "float16", "float8", "int8", "int4", "percentiles:2", "signs:mean")
PARTS = (4, 8)  # numbers of a row that one byte of a product code stands for
FIRST, FINE, CANDIDATES = ("percentiles:2", "signs:mean", "pq"), ("float16", "int8"), (50, 200)
KEPT_BY_GRAPH, EFS, GRAPH_CANDIDATES = ("float16", "int8"), (32, 128), 50
FEWEST = 1000  # rows for which a graph, or centres of product codes, are worth a try


def grid(dim: int, rows: int, *, encoder: str = "", graphs: bool | None = None) -> list[Configuration]:
    """Every configuration that rows of a width allow, exact search of full rows first.

    Args:
        dim: width of a row.
        rows: how many there are; few rows allow no graph, no centres and no more axes than there are rows.
        encoder: what made them.
        graphs: whether there are graphs; by default where numba is installed (extra `fast`).
    """
    for name, value in (("dim", dim), ("rows", rows)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise BadInput(f"{name} must be a positive whole number, got {value!r}")
    widths = {f"pca:{_even(dim * share)}": _even(dim * share) for share in REDUCED if dim > 8 and rows > dim * share}
    widths |= {f"truncate:{_even(dim * share)}": _even(dim * share) for share in CUT if dim > 8}
    widths = {name: width for name, width in widths.items() if width < dim}
    found = []
    for reducer, width in ({"": dim} | widths).items():
        parts = [width // each for each in PARTS if width % each == 0 and rows >= FEWEST]
        found += [Configuration(reducer, code, encoder=encoder) for code in CODES]
        found += [Configuration(reducer, f"pq:{count}x8", encoder=encoder) for count in parts]
        if reducer.startswith("truncate"):
            continue
        for first in [code for code in FIRST if code != "pq"] + [f"pq:{count}x8" for count in parts[-1:]]:
            for candidates in (few for few in CANDIDATES if few < rows):
                found += [
                    Configuration(reducer, first, candidates=candidates, fine=fine, encoder=encoder) for fine in FINE
                ]
        if rows >= FEWEST and (find_spec("numba") is not None if graphs is None else graphs):
            for ef in EFS:
                found += [Configuration(reducer, kept, "graph", ef, encoder=encoder) for kept in KEPT_BY_GRAPH]
            if reducer:
                found.append(Configuration(reducer, "int8", "graph", EFS[-1], GRAPH_CANDIDATES, "float16", encoder))
    return found


def _even(width: float) -> int:
    """A width that fills bytes, whatever the code."""
    return max(8, round(width / 8) * 8)
