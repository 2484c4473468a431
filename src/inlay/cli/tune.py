"""`inlay tune`: the measured frontier of quality, bytes and latency on a collection's own data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from inlay.collection.collection import Collection
    from inlay.evaluation.frontier import Point
    from inlay.evaluation.tuning import Tuning
    from inlay.evaluation.tuning_applied import Delivered
    from inlay.evaluation.tuning_task import Task

__all__ = ["command"]

BYTES: dict[str, float] = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
TIMES = {"US": 1e-3, "ΜS": 1e-3, "MS": 1.0, "S": 1e3, "": 1.0}


class _Amount(click.ParamType):
    """A number with a unit."""

    def __init__(self, name: str, units: dict[str, float]) -> None:
        self.name, self.units = name, units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([^\W\d_]*)\s*", str(value))
        if not found or found[2].upper() not in self.units or not float(found[1]) > 0:
            known = ", ".join(unit for unit in self.units if unit and unit.isascii())
            self.fail(f"{value!r} is not a positive number with a unit of {known}", param, ctx)
        return float(found[1]) * self.units[found[2].upper()]


@click.command("tune")
@click.argument("collection", metavar="COLLECTION", type=click.Path(path_type=Path))
@click.option("--queries", "queries_file", metavar="FILE", type=click.Path(path_type=Path), help="Queries, one a line.")
@click.option("--qrels", metavar="FILE", type=click.Path(path_type=Path), help="Judgments of queries that have ids.")
@click.option("--budget", metavar="BYTES", type=_Amount("bytes", BYTES), help="Bytes at most, as 64MB.")
@click.option("--latency", metavar="TIME", type=_Amount("time", TIMES), help="Time of a query at most, as 5ms.")
@click.option(
    "--floor",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.98,
    show_default=True,
    help="Share of the full quality to keep.",
)
@click.option("--encoder", "encoders", metavar="NAME", multiple=True, help="Compare encoders; give it again for each.")
@click.option("--rows", type=click.IntRange(min=1), default=20_000, show_default=True, help="Passages sampled.")
@click.option("--sample", type=click.IntRange(min=1), default=300, show_default=True, help="Queries at most.")
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Answers looked at.")
@click.option("--apply", "applies", is_flag=True, help="Keep the collection so, and measure it then.")
@click.option("--abandon", is_flag=True, help="Give up an unfinished --apply; the collection stays as it is.")
@click.option("--exhaustive", is_flag=True, help="Measure every configuration to the end.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of samples and intervals.")
@click.option("--figure", metavar="OUT.png", type=click.Path(path_type=Path, dir_okay=False), help="Draw it there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--progress/--no-progress", default=None, help="Show bars [default: where a person looks on].")
@click.pass_context
def command(
    ctx: click.Context,
    collection: Path,
    queries_file: Path | None,
    qrels: Path | None,
    budget: float | None,
    latency: float | None,
    floor: float,
    encoders: tuple[str, ...],
    rows: int,
    sample: int,
    k: int,
    applies: bool,
    abandon: bool,
    exhaustive: bool,
    seed: int,
    figure: Path | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Measure how few bytes and milliseconds COLLECTION could do with, at which quality, and recommend a way.

    FILE has a query a line: {"query": "…", "relevant": ["doc id"]}, {"id": "…", "text": "…"} with --qrels, or text.
    Queries without judgments are measured by agreement with an exact search; without a FILE the passages ask. Nothing
    is changed unless --apply is given: then rows are kept as recommended, the old ones answer until the new ones are
    ready, and a job that was interrupted goes on by the same command. The exit code is 0 if a configuration meets every
    bound, else 1.

    \b
      inlay tune notes.inlay --queries q.jsonl --budget 64MB --latency 5ms
      inlay tune notes.inlay --floor 0.99 --figure frontier.png
      inlay tune notes.inlay --budget 20MB --apply
    """  # noqa: D301 - click reads the backspace
    import sys

    from inlay.cli.index import open_place
    from inlay.cli.places import locate
    from inlay.cli.show import print_json
    from inlay.errors import BadInput
    from inlay.evaluation.figure_file import checked_figure
    from inlay.evaluation.tuning import tune
    from inlay.evaluation.tuning_applied import apply
    from inlay.evaluation.tuning_figure import draw_tuning
    from inlay.evaluation.tuning_sample import read_questions, sample_collection
    from inlay.indexes.configuration import Configuration

    if qrels is not None and queries_file is None:
        raise BadInput("--qrels judges queries: name their file with --queries")
    if figure is not None:
        checked_figure(figure)
    if progress is None:
        progress = sys.stderr.isatty() and not as_json
    if applies and abandon:
        raise BadInput("--apply goes on with a job and --abandon gives it up: choose one")
    place = locate(collection, own=True)
    with open_place(place, mode="r") as opened:
        job = opened.arrangement
    if abandon or (applies and job is not None):
        with open_place(place, mode="a") as opened:
            if abandon:
                gone = opened.abandon()
                print_json({"abandoned": gone}) if as_json else click.echo("given up" if gone else "nothing to give up")
                return
            assert job is not None
            name = str(Configuration.from_dict(job["configuration"]))
            click.echo(f"going on with what was begun: {name} (--abandon gives it up)", err=True)
            done = opened.arrange(progress=progress)
        print_json({"applied": job, "bytes": done}) if as_json else click.echo(_kept(name, done))
        return
    questions = None if queries_file is None else read_questions(queries_file, qrels)

    def sampled(opened: Collection, rows: int) -> Task:
        return sample_collection(
            opened, questions, encoders=encoders, rows=rows, queries=sample, k=k, seed=seed, progress=progress
        )

    with open_place(place, mode="r") as opened:
        task = sampled(opened, rows)
        # What is promised of a sample is kept by all there is, and measured there.
        whole = sampled(opened, task.total) if applies and task.total > task.rows else task
    bytes_ = None if budget is None else int(budget)
    found = tune(task, budget=bytes_, latency_ms=latency, floor=floor, halving=not exhaustive, progress=progress)
    chosen = found.recommend(budget=bytes_, latency_ms=latency, floor=floor)
    if figure is not None:
        draw_tuning(found, figure, chosen, floor=floor)
        click.echo(f"wrote {figure}", err=True)
    delivered = None
    if applies and chosen.ok:
        with open_place(place, mode="a") as opened:
            delivered = apply(opened, whole, chosen.point, progress=progress)
    if as_json:
        more = {} if delivered is None else {"delivered": delivered.to_dict()}
        print_json(found.to_dict() | {"recommendation": chosen.to_dict()} | more)
    else:
        for line in _lines(found):
            click.echo(line)
        head = "recommended" if chosen.ok else "nothing meets every bound; nearest"
        click.echo(f"\n{head}: {chosen.point.configuration}")
        for line in chosen.why:
            click.echo(f"  {line}")
        if delivered is not None:
            click.echo(_promised(chosen.point, delivered, found.task.measure))
        elif applies:
            click.echo("nothing was changed: no configuration meets every bound")
        for line in found.remarks:
            click.echo(line, err=True)
    ctx.exit(0 if chosen.ok else 1)


def _kept(name: str, done: dict[str, int]) -> str:
    from inlay.evaluation.frontier import size

    return f"kept as {name}: {size(done['before'])} before, {size(done['after'])} now"


def _promised(point: Point, delivered: Delivered, measure: str) -> str:
    """What was promised beside what was measured once it was done."""
    from inlay.evaluation.frontier import size

    return "\n".join((
        f"\napplied ({size(delivered.before_nbytes)} before)",
        f"  {measure}: promised {point.quality:.4f}, delivered {delivered.quality:.4f}",
        f"  bytes: promised {size(point.nbytes)}, delivered {size(delivered.nbytes)} on disk",
        f"  a query: promised {point.ms:.3f} ms, delivered {delivered.ms:.3f} ms",
    ))  # fmt: skip


def _lines(found: Tuning) -> list[str]:
    """What was measured on, and the frontier as a table."""
    from inlay.evaluation.frontier import size

    task = found.task
    encoding = max(one.encode_ms for one in task.spaces.values())
    of = "" if task.total == task.rows else f" of {task.total:,}"
    said = f"{task.rows:,}{of} passages, {task.queries:,} queries, {task.measure}; "
    said += f"{found.configurations:,} configurations, {len(found.points)} measured to the end"
    said += f"; encoding a query takes {encoding:.2f} ms of each latency" if encoding else ""
    rows = [["configuration", "bytes", "ms", task.measure, "kept", "95% interval"]]
    for one in [*found.frontier, *([] if found.full in found.frontier else [found.full])]:
        mean, low, high = one.share
        rows.append(
            [str(one.configuration), size(one.nbytes), f"{one.ms:.3f}", f"{one.quality:.4f}", f"{mean:.1%}",
             f"{low:.1%} – {high:.1%}"]
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [said, "", *("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)]
