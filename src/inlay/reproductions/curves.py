"""Pictures of how losses fell: `docs/curves/<name>.svg`, drawn of what a result keeps as `curves`."""

from __future__ import annotations

from pathlib import Path

from inlay.errors import MissingExtra
from inlay.reproductions.result import Result

__all__ = ["draw"]


def draw(result: Result, path: str | Path) -> Path:
    """Training loss against FLOPs, a line an arm. Files are the same for the same figures.

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
        axes.set_xlabel("training FLOPs")
        axes.set_ylabel("training loss, nats a token")
        axes.set_title(result.title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
    return path
