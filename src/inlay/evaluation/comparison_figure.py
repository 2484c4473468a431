"""The picture of a comparison: agreement matrices, agreement by length of lists, the tree of models, their shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.encoder_comparison import EncoderComparison
from inlay.evaluation.figure_file import checked_figure

__all__ = ["check_figure", "draw_comparison"]


def check_figure(path: str | Path) -> Path:
    """The path, if a figure can be drawn into it; asked before the long work.

    Raises:
        MissingExtra: matplotlib or scipy is missing.
    """
    path = checked_figure(path)
    try:
        import scipy.cluster  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtra("maps of models", "sparse") from None
    return path


def draw_comparison(comparison: EncoderComparison, path: str | Path, *, k: int = 10) -> Path:
    """Draw a comparison of two encoders or more.

    Args:
        comparison: what `compare_encoders` found.
        path: a .png, .svg or .pdf file in a folder that is there.
        k: length of the lists in the matrices; the longest measured one where it was not measured.
    """
    path, spaces = check_figure(path), comparison.spaces
    if len(spaces.names) < 2:
        raise BadInput("the figure shows how encoders agree: compare two at least")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    k = k if k in spaces.sizes else spaces.sizes[-1]
    order = spaces.map("cka").order
    with mpl.rc_context({"svg.hashsalt": "comparison", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(11, 6.6), layout="constrained")
        panels = figure.subplots(2, 3)
        for panel, measure in zip(panels[0], ("cka", f"jaccard@{k}", f"rank_similarity@{k}")):
            _heat(panel, spaces.names, order, spaces.matrix(measure), _said(measure))
        spaces.map(f"jaccard@{k}").draw(panels[1, 0])
        panels[1, 0].set_title(f"clusters by jaccard@{k}")
        _by_length(panels[1, 1], comparison)
        _shapes(panels[1, 2], comparison)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    return path


def _said(measure: str) -> str:
    return "CKA" if measure == "cka" else measure.replace("_", " ")


def _heat(panel: Any, names: tuple[str, ...], order: list[str], matrix: np.ndarray, title: str) -> None:
    """A matrix with its numbers, models in the order of the tree."""
    place = [names.index(name) for name in order]
    matrix = matrix[np.ix_(place, place)]
    panel.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
    panel.set_xticks(range(len(order)), order, rotation=35, ha="right")
    panel.set_yticks(range(len(order)), order)
    for i, line in enumerate(matrix):
        for j, value in enumerate(line):
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.62 else "black")
    panel.set_title(title)


def _by_length(panel: Any, comparison: EncoderComparison) -> None:
    """Jaccard of each pair by k, with intervals."""
    for (a, b), one in comparison.spaces.pairs.items():
        sizes = list(one.jaccard)
        mean, low, high = np.array([one.jaccard[size] for size in sizes]).T
        panel.plot(sizes, mean, marker=".", linewidth=1.2, label=f"{a} – {b}")
        panel.fill_between(sizes, low, high, alpha=0.15)
    panel.set_xscale("log")
    panel.set_xticks(comparison.spaces.sizes, [str(size) for size in comparison.spaces.sizes])
    panel.minorticks_off()
    panel.set(xlabel="k", ylabel="Jaccard@k", ylim=(0, 1), title="agreement by length of lists")
    panel.spines[["top", "right"]].set_visible(False)
    if len(comparison.spaces.pairs) <= 10:
        panel.legend(frameon=False, fontsize=6)


def _shapes(panel: Any, comparison: EncoderComparison) -> None:
    """nDCG with intervals where a set was judged; intrinsic dimension against IsoScore otherwise."""
    names = comparison.spaces.names
    if comparison.ndcg:
        for place, name in enumerate(names):
            mean, low, high = comparison.ndcg[name]
            panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3)
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set(xlabel="nDCG@10, 95% interval", title="quality")
    else:
        for name in names:
            shape = comparison.spaces.shapes[name]
            panel.errorbar(shape.iso_score, shape.two_nn, yerr=shape.two_nn_spread, fmt="o", capsize=3)
            panel.annotate(name, (shape.iso_score, shape.two_nn), xytext=(5, 4), textcoords="offset points")
        panel.set(xlabel="IsoScore", ylabel="intrinsic dimension (TwoNN)", title="shape")
    panel.spines[["top", "right"]].set_visible(False)
