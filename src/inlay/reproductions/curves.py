"""Pictures of how losses fell, or costs rose: `docs/curves/<name>.svg`, drawn of what a result keeps as `curves`."""

from __future__ import annotations

from pathlib import Path

from inlay.errors import MissingExtra
from inlay.reproductions.result import Result

__all__ = ["draw"]


def draw(result: Result, path: str | Path) -> Path:
    """A line an arm: training loss against FLOPs, or what `axes` among the figures says, {"x": …, "y": …, "log": bool}.

    Files are the same for the same figures.

    Raises:
        MissingExtra: matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtra("plots", "plots") from None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": result.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, points in result.figures["curves"].items():
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.5)
        said = result.figures.get("axes", {"x": "training FLOPs", "y": "training loss, nats a token", "log": False})
        axes.set_xlabel(said["x"])
        axes.set_ylabel(said["y"])
        if said["log"]:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_title(result.title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
    return path
