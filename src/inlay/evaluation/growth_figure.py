"""The picture of codecs over growing corpora: quality by bytes, quality by size, and what stands in the first ten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.evaluation.figure_file import checked_figure

if TYPE_CHECKING:
    from inlay.evaluation.growth_bench import GrowthBench

__all__ = ["draw_growth"]

ROLES = {"relevant": "#2a7f62", "distractor": "#d9892b", "random": "#9aa0a6"}
LINES = 10  # codecs whose course by size is drawn; more cannot be told apart


def draw_growth(bench: GrowthBench, path: str | Path) -> Path:
    """Draw what `bench_growth` found.

    Left: share of float32's nDCG@10 kept at the largest size, by bytes of a row. Middle: nDCG@10 by size, of float32
    and of the codecs that lose most. Right: relevant documents, distractors and random ones among the first ten.

    Args:
        bench: what was found.
        path: a .png, .svg or .pdf file in a folder that is there.

    Raises:
        MissingExtra: matplotlib is missing.
    """
    path = checked_figure(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    by_quality = sorted(bench.names, key=bench.mean)
    with mpl.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(14, 2.4 + 0.16 * len(by_quality)), layout="constrained")
        bytes_, sizes, first = figure.subplots(1, 3)
        _by_bytes(bytes_, bench)
        _by_size(sizes, bench, by_quality)
        _first_ten(first, bench, by_quality)
        for panel in (bytes_, sizes, first):
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    return path


def _by_bytes(panel: Any, bench: GrowthBench) -> None:
    whole = bench.mean("float32")
    for name in bench.names:
        nbytes, kept = bench.costs[name].nbytes, bench.mean(name) / whole if whole else 1.0
        panel.plot(nbytes, kept, marker=".", color="black" if name == "float32" else "#35618e")
        panel.annotate(name, (nbytes, kept), fontsize=4.5, rotation=25, xytext=(2, 2), textcoords="offset points")
    panel.axhline(1, color="grey", linewidth=0.5)
    panel.set_xscale("log", base=2)
    panel.set(xlabel="bytes of a row", ylabel="nDCG@10 kept", title=f"{bench.sizes[-1]:,} documents")


def _by_size(panel: Any, bench: GrowthBench, by_quality: list[str]) -> None:
    shown = ["float32", *(name for name in by_quality if name != "float32")][:LINES]
    for name in shown:
        means = [bench.mean(name, size=size) for size in bench.sizes]
        wide = {"color": "black", "linewidth": 2.0} if name == "float32" else {"linewidth": 1.0}
        panel.plot(bench.sizes, means, marker=".", label=name, **wide)
    if len(bench.sizes) > 1:
        panel.set_xscale("log")
    panel.set_xticks(bench.sizes, [f"{size:,}" for size in bench.sizes])
    panel.minorticks_off()
    panel.set(xlabel="documents", ylabel="nDCG@10", title="by size: float32 and what loses most")
    panel.legend(frameon=False, fontsize=5.5)


def _first_ten(panel: Any, bench: GrowthBench, by_quality: list[str]) -> None:
    left = np.zeros(len(by_quality))
    for role, colour in ROLES.items():
        counts = np.array([bench.mean(name, role) for name in by_quality])
        panel.barh(by_quality, counts, left=left, color=colour, label=role)
        left += counts
    panel.tick_params(axis="y", labelsize=5.5)
    panel.set(xlabel="of the first ten", title="relevance composition")
    panel.legend(frameon=False, fontsize=6, loc="lower right")
