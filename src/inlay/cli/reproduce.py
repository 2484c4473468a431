"""`inlay reproduce`: run published methods against their baselines."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("reproduce")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="List the reproductions.")
@click.option("--table", "tabulate", is_flag=True, help="Write docs/systems.md from the files of results.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON: an object, or a list for several names.")
@click.option("--data", metavar="DIR", type=click.Path(path_type=Path), help="Data sets [default: INLAY_DATA].")
@click.option("--seed", "seeds", type=int, multiple=True, help="Seed; repeat for several [default: the method's own].")
@click.option(
    "--results",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where results are kept.",
)
@click.option(
    "--page",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("docs/systems.md"),
    show_default=True,
    help="What --table writes.",
)
def command(
    names: tuple[str, ...],
    listing: bool,
    tabulate: bool,
    as_json: bool,
    data: Path | None,
    seeds: tuple[int, ...],
    folder: Path,
    page: Path,
) -> None:
    """Run published methods against their baselines, on real data.

    Each NAME writes results/NAME.json: what the paper claims, what was measured here, and whether the one bears out
    the other. A "no" is reported as such.

    \b
      inlay reproduce --list
      inlay reproduce numen --data ~/data
      inlay reproduce --table
    """  # noqa: D301 - click reads the backspace
    import json
    import sys

    from inlay import reproductions
    from inlay.errors import BadInput
    from inlay.reproductions.curves import draw
    from inlay.reproductions.result import read_results, table

    if listing:
        known = {name: reproductions.reproduction(name) for name in reproductions.names()}
        if as_json:
            click.echo(json.dumps([{"name": name, "paper": module.PAPER} for name, module in known.items()]))
            return
        width = max(map(len, known), default=0)
        for name, module in known.items():
            click.echo(f"{name.ljust(width)}  {module.PAPER}")
        return
    if not names and not tabulate:
        raise click.UsageError("name a reproduction, or use --list to see them or --table to write the page")
    modules = [(name, reproductions.reproduction(name)) for name in dict.fromkeys(names)]
    place = reproductions.data_folder(data) if modules else None
    found = []
    for _, module in modules:
        options = {"seeds": seeds} if seeds else {}
        result = module.run(place, progress=sys.stderr.isatty(), **options)
        path = result.write(folder)
        found.append(result)
        if not as_json:
            click.echo(f"{result.title}: {result.verdict}\n  claim     {result.claim}\n  paper     {result.paper}")
            click.echo(f"  here      {result.metric} on {result.data}")
            for figure in (result.baseline, result.method):
                click.echo(f"            {figure.value:<8.4g} {figure.name}")
            click.echo(f"  because   {result.detail}\n  kept in   {path} ({result.seconds:.0f} s)")
    if as_json and found:
        values = [result.to_dict() for result in found]
        click.echo(json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False))
    if tabulate:
        if not folder.is_dir():
            raise BadInput(f"there is no folder {folder}; run a reproduction first, or name it with --results")
        page.parent.mkdir(parents=True, exist_ok=True)
        results = read_results(folder)
        page.write_text(table(results), encoding="utf-8")
        for result in results:
            if "curves" in result.figures:
                draw(result, page.parent / "curves" / f"{result.name}.svg")
        click.echo(f"wrote {page}", err=True)
