"""`inlay bench-tables`: embedding tables under one budget in bytes."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("bench-tables")
@click.option("--data", metavar="DIR", type=click.Path(path_type=Path), help="Click log [default: INLAY_DATA].")
@click.option("--methods", metavar="NAMES", help="Names with commas between [default: all].")
@click.option("--list", "listing", is_flag=True, help="List the methods.")
@click.option(
    "--budgets",
    metavar="SHARES",
    default="0.5,0.25,0.1,0.01",
    show_default=True,
    help="Bytes, as shares of the full table's.",
)
@click.option(
    "--head",
    type=click.Choice(["dcn", "deepfm", "dlrm", "wide-deep"]),
    default="dcn",
    show_default=True,
    help="Model over the rows.",
)
@click.option("--dim", type=click.IntRange(min=1), default=16, show_default=True, help="Width of rows.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each cell.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True, help="At most, of each stage.")
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, help="Rows a step.")
@click.option(
    "--results",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("results/bench-tables.jsonl"),
    show_default=True,
    help="Finished cells are kept here, and not made again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--progress/--no-progress", default=None, help="Show a bar [default: where a person looks on].")
def command(
    data: Path | None,
    methods: str | None,
    listing: bool,
    budgets: str,
    head: str,
    dim: int,
    seeds: int,
    epochs: int,
    batch: int,
    results: Path,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Train every compressor of an embedding table under the same budgets in bytes.

    DIR holds criteo.tsv.gz, or an unpacked MovieLens (100K or 1M). Prints, by budget and AUC, what each method is worth
    with 95% intervals, what it weighs to read and to train, and how long both take. A run that was interrupted goes on
    where it stopped.

    \b
      inlay bench-tables --data ~/data/ml-100k
      inlay bench-tables --methods full,hash,robe,mde --budgets 0.25,0.1 --seeds 5
    """  # noqa: D301 - click reads the backspace
    import json
    import sys

    from inlay.clicks.methods import METHODS, full_nbytes
    from inlay.clicks.storage_benchmark import compare, load, markdown, run
    from inlay.reproductions import data_folder

    if listing:
        width = max(map(len, METHODS))
        for name, method in METHODS.items():
            click.echo(f"{name.ljust(width)}  {method.title} ({method.family})")
        return
    try:
        shares = [float(share) for share in budgets.split(",")]
    except ValueError:
        raise click.BadParameter(f"{budgets!r} is no list like 0.25,0.1", param_hint="--budgets") from None
    names = list(METHODS) if methods is None else [name.strip() for name in methods.split(",")]
    splits = load(data_folder(data))
    if progress is None:
        progress = sys.stderr.isatty() and not as_json
    cells = list(
        run(
            splits, names, shares, head=head, dim=dim, seeds=range(seeds), results=results, progress=progress,
            epochs=epochs, batch_size=batch,
        )
    )  # fmt: skip
    rows = compare(cells, splits.test.labels)
    if as_json:
        values = [{key: value if value == value else None for key, value in vars(row).items()} for row in rows]
        click.echo(json.dumps(values, ensure_ascii=False))
        return
    full = full_nbytes(splits.space, dim)
    click.echo(
        f"{splits.name}: {len(splits.train):,} rows to train, {len(splits.test):,} to test, {splits.space.rows:,} ids; "
        f"{head}, {dim} wide; the full table takes {full:,} bytes\n"
    )
    click.echo(markdown(rows, full))
