"""`inlay compare`: the shape of encoders' spaces, and how far they agree."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

if TYPE_CHECKING:
    from inlay.evaluation.encoder_comparison import EncoderComparison

__all__ = ["command"]


@click.command("compare")
@click.argument("encoders", metavar="ENCODER...", nargs=-1, required=True)
@click.option(
    "--texts",
    metavar="FILE",
    type=click.File("r", encoding="utf-8", errors="replace"),
    help="Texts, one a line ('-' for standard input).",
)
@click.option("--set", "folder", metavar="FOLDER", type=click.Path(path_type=Path), help="A judged set (BEIR layout).")
@click.option("--split", default="test", show_default=True, help="Which judgments of the set: test, dev or train.")
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Length of lists in the matrices."
)
@click.option(
    "--rows",
    type=click.IntRange(min=21),
    default=2000,
    show_default=True,
    help="Texts that shapes and CKA are measured on, at most.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of samples and intervals.")
@click.option("--figure", metavar="OUT.png", type=click.Path(path_type=Path, dir_okay=False), help="Draw it there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with lists of all lengths.")
@click.option("--progress/--no-progress", default=None, help="Show bars [default: where a person looks on].")
def command(
    encoders: tuple[str, ...],
    texts: IO[str] | None,
    folder: Path | None,
    split: str,
    k: int,
    rows: int,
    seed: int,
    figure: Path | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Compare ENCODERs on the same texts: intrinsic dimension, isotropy, hubs, and whether they find the same.

    With --texts each text asks for the others. With --set the judged queries ask, and nDCG@10 of exact searches by
    vectors alone is printed with its 95% interval.

    \b
      inlay compare box numen --texts notes.txt
      inlay compare box 'box?context=false' 'numen?dim=4096' --set scifact/ --figure agreement.png
    """  # noqa: D301 - click reads the backspace
    import json
    import sys

    from inlay.errors import BadInput
    from inlay.evaluation.comparison_figure import check_figure, draw_comparison
    from inlay.evaluation.encoder_comparison import compare_encoders
    from inlay.evaluation.retrieval_set import RetrievalSet
    from inlay.evaluation.space_comparison import SIZES

    if (texts is None) == (folder is None):
        raise BadInput("say what to compare on: --texts FILE with a text a line, or --set FOLDER with a judged set")
    if figure is not None:
        if len(encoders) < 2:
            raise BadInput("the figure shows how encoders agree: name a second encoder, or leave --figure out")
        check_figure(figure)
    if progress is None:
        progress = sys.stderr.isatty() and not as_json
    given = RetrievalSet.load(folder, split) if folder is not None else [line.rstrip("\r\n") for line in texts or ()]
    found = compare_encoders(encoders, given, k=sorted({*SIZES, k}), rows=rows, seed=seed, progress=progress)
    if figure is not None:
        draw_comparison(found, figure, k=k)
        click.echo(f"wrote {figure}", err=True)
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    asked = f", {found.spaces.queries:,} queries" if folder is not None else ""
    click.echo(f"{found.spaces.texts:,} texts{asked}\n")
    for line in [*_shapes(found), *_agreements(found, k)]:
        click.echo(line)
    for why, count in found.left_out.items():
        click.echo(f"left out: {count:,} {why}", err=True)


def _shapes(found: EncoderComparison) -> list[str]:
    """A row for each encoder."""
    shapes = found.spaces.shapes
    constant = any(one.constant for one in shapes.values())
    head = ["encoder", "dim", *(["constant"] if constant else []), "intrinsic dim", "IsoScore", "mean cosine"]
    head += ["hubness", "antihubs", *(["nDCG@10", "95% interval", "p to the best"] if found.ndcg else [])]
    rows = []
    for name, one in shapes.items():
        row = [name, str(one.dim), *([str(one.constant)] if constant else [])]
        row += [f"{one.two_nn:.1f} ± {one.two_nn_spread:.1f}", f"{one.iso_score:.4f}", f"{one.mean_cosine:.3f}"]
        row += [f"{one.hubness:.2f}", f"{one.antihubs:.1%}"]
        if found.ndcg:
            mean, low, high = found.ndcg[name]
            difference = found.differences.get(name)
            row += [f"{mean:.4f}", f"{low:.4f} – {high:.4f}", "" if difference is None else f"{difference.p:.4f}"]
        rows.append(row)
    return _table([head, *rows])


def _agreements(found: EncoderComparison, k: int) -> list[str]:
    """A matrix for each measure; a word instead where there is one encoder alone."""
    spaces = found.spaces
    if len(spaces.names) == 1:
        return ["", "Name a second encoder to see how far they agree."]
    lines = []
    k = k if k in spaces.sizes else spaces.sizes[-1]
    for measure in ("cka", "cka_debiased", f"jaccard@{k}", f"rank_similarity@{k}"):
        said = measure.replace("cka", "CKA").replace("_", " ")
        rows = [[name, *(f"{value:.3f}" for value in line)] for name, line in zip(spaces.names, spaces.matrix(measure))]
        lines += ["", *_table([[said, *spaces.names], *rows])]
    shuffled = max(one.cka_shuffled for one in spaces.pairs.values())
    return [*lines, "", f"With the texts of one side shuffled, CKA is {shuffled:.3f} at the most; debiased, about 0."]


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
