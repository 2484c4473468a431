"""A picture of why a row was found: the concepts from the root of a `Cobweb` to it, each by the texts it stands for."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from inlay.errors import BadInput, MissingExtra
from inlay.indexes.cobweb import Concept

__all__ = ["draw_path"]

WIDTH = 78  # characters of a text
LINE = 0.19  # inches


def draw_path(
    concepts: Sequence[Concept], file: str | os.PathLike[str], *, texts: Sequence[str], query: str = "", shown: int = 3
) -> Path:
    """Draw what `Cobweb.path` returned: general concepts above, the row's own below.

    A disc's area grows with the logarithm of the rows it stands for; the line between two says how many there are
    fewer. Files are the same for the same path.

    Args:
        concepts: from the root to a leaf.
        file: to write, `.svg`, `.png` or whatever else matplotlib knows.
        texts: the text of each row.
        query: what was asked, for the title.
        shown: texts of a concept, at most.

    Raises:
        MissingExtra: matplotlib is missing.
    """
    if not concepts:
        raise BadInput("a path has at least one concept, got none; ask `Cobweb.path` for one")
    most = max((int(row) for concept in concepts for row in concept.rows), default=-1)
    if most >= len(texts):
        raise BadInput(f"the path names row {most}, and there are {len(texts)} texts; give one for each row")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtra("plots", "plots") from None
    from math import log2

    said = [[textwrap.shorten(texts[row], WIDTH, placeholder=" …") for row in one.rows[:shown]] for one in concepts]
    heights = [LINE * (len(lines) + 1.8) for lines in said]
    total = sum(heights) + 0.3
    with mpl.rc_context({"svg.hashsalt": "concepts", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.4, total + 0.5))
        axes = figure.add_axes((0, 0, 1, total / (total + 0.5)))
        axes.set(xlim=(0, 8.4), ylim=(total, 0))
        axes.axis("off")
        top, places = 0.15, []
        for height in heights:
            places.append(top + LINE)
            top += height
        axes.plot([0.6] * len(places), places, color="#9ab", linewidth=1.5, zorder=1)
        areas = [60 + 45 * log2(concept.count) for concept in concepts]
        axes.scatter([0.6] * len(places), places, s=areas, color="#27c", zorder=2)
        for depth, (concept, lines, place) in enumerate(zip(concepts, said, places)):
            rows = "row" if concept.count == 1 else "rows"
            axes.text(1.2, place, f"{concept.count:,} {rows}", va="center", fontsize=9, weight="bold")
            axes.text(2.3, place, f"depth {depth}, concept {concept.node}", va="center", fontsize=8, color="#667")
            for number, line in enumerate(lines, 1):
                axes.text(1.2, place + LINE * number, line, va="center", fontsize=8, parse_math=False)
        title = f"“{textwrap.shorten(query, 90, placeholder=' …')}”" if query else "The way to a row"
        figure.text(0.05, 1 - 0.25 / (total + 0.5), title, va="center", fontsize=11, parse_math=False)
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return file
