"""`inlay eval`: measure retrieval quality on judged queries."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("eval")
@click.argument("dataset", metavar="DATASET_DIR", type=click.Path(path_type=Path))
@click.option(
    "--mode",
    type=click.Choice(["lexical", "dense", "hybrid"]),
    default="hybrid",
    show_default=True,
    help="Search mode.",
)
@click.option("--encoder", metavar="NAME", help="Encoder of the dense space; inlay's default without it.")
@click.option("--split", default="test", show_default=True, help="Which judgments: test, dev or train.")
@click.option("-k", "k", type=click.IntRange(min=1), default=100, show_default=True, help="Documents asked per query.")
@click.option(
    "--run", "run_file", metavar="FILE", type=click.Path(path_type=Path), help="Write the answers as a TREC run."
)
@click.option(
    "--baseline", "baseline_file", metavar="FILE", type=click.Path(path_type=Path), help="Compare with a TREC run."
)
@click.option(
    "--measure", "measures", metavar="NAME", multiple=True,
    help="recall@2, ndcg@10, map, …; several times [default: ndcg@10, recall@100, mrr@10].",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of the intervals and the test.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--progress/--no-progress", default=None, help="Show bars [default: where a person looks on].")
def command(
    dataset: Path,
    mode: str,
    encoder: str | None,
    split: str,
    k: int,
    run_file: Path | None,
    baseline_file: Path | None,
    measures: tuple[str, ...],
    seed: int,
    as_json: bool,
    progress: bool | None,
) -> None:
    """Measure retrieval quality on the judged queries of DATASET_DIR.

    DATASET_DIR holds corpus.jsonl, queries.jsonl and qrels/test.tsv (the BEIR layout; .gz files are read too). The
    documents go into a temporary collection, every judged query is asked, and nDCG@10, recall@100 and MRR@10 are
    printed with 95% bootstrap intervals.

    \b
      inlay eval scifact/
      inlay eval limit/ --measure recall@2 --measure recall@10
      inlay eval scifact/ --mode lexical --run bm25.run
      inlay eval scifact/ --mode hybrid --baseline bm25.run
    """  # noqa: D301 - click reads the backspace
    import json
    import sys

    from inlay.evaluation import Run, evaluate
    from inlay.evaluation.measures import MEASURES

    baseline = Run.read(baseline_file) if baseline_file else None
    if progress is None:
        progress = sys.stderr.isatty() and not as_json
    result = evaluate(
        dataset,
        mode=mode,  # type: ignore[arg-type]
        encoder=encoder,
        split=split,
        k=k,
        measures=measures or MEASURES,
        baseline=baseline,
        seed=seed,
        progress=progress,
    )
    if run_file:
        result.run.write(run_file)
    if as_json:
        click.echo(json.dumps(result.to_dict(), ensure_ascii=False))
        return
    click.echo(f"{result.dataset} ({result.split}): {result.documents} documents, {result.queries} queries")
    said = f"{result.mode}, encoder {result.encoder}" if result.encoder else result.mode
    click.echo(
        f"{said}: indexed in {result.index_seconds:.1f} s, "
        f"{1000 * result.search_seconds / result.queries:.1f} ms a query\n"
    )
    for line in _lines(result):
        click.echo(line)
    if result.failed:
        key, reason = next(iter(result.failed.items()))
        click.echo(f"\n{len(result.failed)} documents were left out ({key}: {reason})", err=True)


def _lines(result: object) -> list[str]:
    """The measures as an aligned table, with the difference to the baseline where there is one."""
    from inlay.evaluation import Result

    assert isinstance(result, Result)
    head = ["measure", "mean", "95% interval"]
    rows = [[name, f"{e.mean:.4f}", f"{e.low:.4f} – {e.high:.4f}"] for name, e in result.measures.items()]
    if result.differences:
        head += [f"− {result.baseline}", "95% interval", "p"]
        for row, gain in zip(rows, result.differences.values()):
            row += [f"{gain.mean:+.4f}", f"{gain.low:+.4f} – {gain.high:+.4f}", f"{gain.p:.4f}"]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
