"""The picture of a tuning: quality by bytes and quality by latency, with the frontier and what is recommended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.evaluation.figure_file import checked_figure

if TYPE_CHECKING:
    from inlay.evaluation.frontier import Point, Recommendation
    from inlay.evaluation.tuning import Tuning

__all__ = ["draw_tuning"]


def draw_tuning(
    tuning: Tuning, path: str | Path, recommended: Recommendation | None = None, *, floor: float | None = None
) -> Path:
    """Draw what `tune` found.

    Args:
        tuning: what was found.
        path: a .png, .svg or .pdf file in a folder that is there.
        recommended: marked, if given.
        floor: a line at this share of the full quality, if given.
    """
    path = checked_figure(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    edge = tuning.frontier
    with mpl.rc_context({"svg.hashsalt": "tuning", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, title, along in zip(panels, ("bytes", "milliseconds of a query"), (_nbytes, _ms)):
            for one in tuning.points:
                panel.plot(along(one), one.share.mean, marker=".", color="#b9bec4", zorder=1)
            for one in edge:
                mean, low, high = one.share
                panel.errorbar(along(one), mean, yerr=[[max(0, mean - low)], [max(0, high - mean)]], fmt="o",
                               markersize=4, color="#35618e", capsize=2, linewidth=0.8, zorder=2)  # fmt: skip
                panel.annotate(str(one.configuration), (along(one), mean), fontsize=5, rotation=20, xytext=(3, 3),
                               textcoords="offset points")  # fmt: skip
            if recommended is not None:
                at = recommended.point
                panel.plot(along(at), at.share.mean, marker="*", markersize=13, color="#c5482e", zorder=3)
            if floor is not None:
                panel.axhline(floor, color="#c5482e", linewidth=0.6, linestyle="--")
            panel.set_xscale("log")
            panel.set(xlabel=title)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set(ylabel=f"share of the full {tuning.task.measure}")
        panels[0].set_title(f"{tuning.task.total:,} passages, {tuning.task.queries:,} queries")
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    return path


def _nbytes(one: Point) -> Any:
    return max(1, one.nbytes)


def _ms(one: Point) -> Any:
    return max(1e-4, one.ms)
