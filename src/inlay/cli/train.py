"""`inlay train`: run a recipe, from texts to a model with its card."""

from __future__ import annotations

import sys
from pathlib import Path

import click

__all__ = ["command"]


@click.command("train")
@click.argument("recipe", required=False)
@click.option("--list", "listing", is_flag=True, help="List the recipes that come with inlay.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Stop after so long; the learning rate falls in time.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the model goes [default: trained/RECIPE].",
)
@click.option(
    "--resume/--fresh",
    "resume",
    default=None,
    help="Go on from the checkpoint there, or start anew [default: go on with what is unfinished].",
)
@click.option(
    "--start",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Weights to go on from, where the recipe can.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the model card as JSON.")
def command(
    recipe: str | None,
    listing: bool,
    max_minutes: float | None,
    seed: int,
    output: Path | None,
    resume: bool | None,
    start: Path | None,
    as_json: bool,
) -> None:
    """Train a model by a RECIPE: the name of one that comes with inlay, or a .toml or .py file.

    Interrupt it when you like: the same command goes on where it stopped.

    \b
      inlay train --list
      inlay train demo --max-minutes 2
      inlay encode lines.txt -o rows.npy --encoder static:trained/demo
    """  # noqa: D301 - click reads the backspace
    import json

    from inlay.errors import BadInput
    from inlay.training.recipe import Recipe, packaged

    if listing:
        found = {name: Recipe.read(path) for name, path in packaged().items()}
        if as_json:
            click.echo(json.dumps([{"name": name, "title": one.title} for name, one in found.items()]))
            return
        width = max(map(len, found), default=0)
        for name, one in found.items():
            click.echo(f"{name.ljust(width)}  {one.title}")
        return
    if recipe is None:
        raise click.UsageError("name a recipe, or use --list to see them")
    chosen = Recipe.read(recipe)
    folder = output or Path("trained") / chosen.name
    there = any((folder / "training").glob("**/checkpoint.safetensors"))  # a recipe of several legs has some
    done = (folder / "card.json").exists()
    if resume and not there:
        raise BadInput(f"there is no checkpoint in {folder} to go on from; leave out --resume")
    if resume is None and done:
        raise BadInput(f"{folder} holds a trained model already: train it again with --fresh, or give another --output")
    if resume is False:
        (folder / "card.json").unlink(missing_ok=True)
    card = chosen.run(folder, max_minutes=max_minutes, seed=seed, resume=resume is not False,
                      progress=sys.stderr.isatty(), start=start)  # fmt: skip
    if as_json:
        click.echo(json.dumps(card.to_dict(), ensure_ascii=False))
        return
    ended = "stopped when its time was up" if card.stopped == "time" else "finished"
    click.echo(f"{card.name}: {ended} after {card.steps} steps, {card.rows} rows, {card.seconds / 60:.1f} minutes")
    for name, value in card.after.items():
        click.echo(f"  {name:<28} {card.before.get(name, float('nan')):.3f} → {value:.3f}")
    click.echo(f"  model and card in {folder}")
