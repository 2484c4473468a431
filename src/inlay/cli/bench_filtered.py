"""`inlay bench-filtered`: filtered nearest-neighbour search, by selectivity and correlation."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("bench-filtered")
@click.option(
    "--vectors", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Rows as .npy or .fvecs."
)
@click.option(
    "--attributes",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON lines, one object a row [default: made up].",
)
@click.option("--data", metavar="DIR", type=click.Path(path_type=Path), help="Folder of texts [default: INLAY_DATA].")
@click.option("--rows", type=click.IntRange(min=100), default=20_000, show_default=True, help="At most so many.")
@click.option("--each", type=click.IntRange(min=1), default=20, show_default=True, help="Tasks of a kind and band.")
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Neighbours asked for.")
@click.option(
    "--recall", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True, help="Compared at it."
)
@click.option(
    "--by",
    type=click.Choice(["band", "kind", "correlation"]),
    default="band",
    show_default=True,
    help="Rows of the table: bands alone, or with kinds or bins of correlation.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draw of tasks.")
@click.option("--plot", metavar="DIR", type=click.Path(path_type=Path), help="Draw recall against speed into it.")
@click.option("--save", metavar="DIR", type=click.Path(path_type=Path), help="Keep vectors, filters and truth there.")
@click.option("--json", "as_json", is_flag=True, help="Print every point as JSON.")
@click.option("--progress/--no-progress", default=None, help="Show a bar [default: where a person looks on].")
def command(
    vectors: Path | None,
    attributes: Path | None,
    data: Path | None,
    rows: int,
    each: int,
    k: int,
    recall: float,
    by: str,
    seed: int,
    plot: Path | None,
    save: Path | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Measure how fast filtered searches are at equal recall, for filters that few or many rows pass.

    Takes your vectors (the last hundredth of them ask) with attributes, or texts of DIR by the static encoder. Compares
    an exact scan, the ways of a graph one by one and as planned, and faiss where it is installed.

    \b
      inlay bench-filtered --vectors rows.npy --attributes rows.jsonl --plot plots/
      inlay bench-filtered --data ~/data --by correlation
    """  # noqa: D301 - click reads the backspace
    import json
    import sys

    import numpy as np

    from inlay.errors import BadInput, MissingExtra
    from inlay.evaluation import filtered_methods as methods
    from inlay.evaluation.filtered_bench import FilteredBench
    from inlay.evaluation.filtered_corpus import made_up, of_texts, read_attributes
    from inlay.evaluation.filtered_sweep import run, shown
    from inlay.evaluation.vector_files import read_fvecs

    if progress is None:
        progress = sys.stderr.isatty() and not as_json
    if vectors is not None:
        if not vectors.is_file():
            raise BadInput(f"there is no file {vectors}; name rows as .npy or .fvecs")
        every = read_fvecs(vectors) if vectors.suffix == ".fvecs" else _npy(vectors)
        own = read_attributes(attributes, len(every)) if attributes else made_up(every, seed=seed)
        asking = max(2, min(1000, len(every) // 100))
        chosen = np.arange(min(rows, len(every) - asking))
        base, asked = every[chosen], every[-asking:]
        columns = {name: one.of(chosen) for name, one in own.items()}
    else:
        if attributes is not None:
            raise BadInput("attributes belong to rows: give them with --vectors")
        from inlay.reproductions import data_folder

        base, columns, asked = of_texts(data_folder(data), rows, seed=seed, progress=progress)
    half = len(asked) // 2
    bench = FilteredBench.build(base, columns, asked[half:], each=each, k=k, seed=seed)
    if save is not None:
        bench.save(save)
    index = methods.graph(bench, seed=seed)
    index.calibrate_filters(asked[:half][:50], k, recalls=(max(0.01, recall - 0.1), recall, (1 + recall) / 2))
    ways = [methods.of_graph(index, route) for route in ("scan", "through", "two-hop", "post")]
    compared = [
        methods.pre_filter(bench),
        *ways,
        methods.planned(index, (max(0.01, recall - 0.1), recall, (1 + recall) / 2)),
    ]
    try:
        compared += [methods.faiss_graph(bench), methods.faiss_lists(bench)]
    except MissingExtra as missing:
        click.echo(f"without faiss: {missing}", err=True)
    sweep = run(bench, compared, k=k, progress=progress)
    if plot is not None:
        for path in sweep.plot(plot):
            click.echo(f"wrote {path}", err=True)
    table = sweep.table(recall, by=by)
    if as_json:
        click.echo(json.dumps({"recall": recall, "k": k, "rows": len(base), "table": table}, ensure_ascii=False))
        return
    click.echo(f"{len(base):,} rows × {base.shape[1]}, {len(bench.tasks):,} tasks on {', '.join(columns)}\n")
    click.echo(shown(table, recall))


def _npy(path: Path):  # type: ignore[no-untyped-def]
    import numpy as np

    from inlay.errors import BadInput

    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no array of numpy ({error}); write it with numpy.save") from None
    if rows.ndim != 2 or len(rows) < 10 or rows.dtype.kind not in "fiu":
        raise BadInput(f"{path} must hold at least ten rows of numbers [n, dim], got {rows.dtype} {list(rows.shape)}")
    return rows
