"""`inlay classify`: train a text classifier, use it, judge it, and make it a hundredth as large."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, Any

import click

__all__ = ["command"]

FILE = click.Path(dir_okay=False, path_type=Path)


def _labelled(function: Any) -> Any:
    """The options by which labelled files are read."""
    for option in (
        click.option("--label", default="label", show_default=True, help="Column or key of the label."),
        click.option("--text", multiple=True, default=["text"], show_default=True, help="Column or key of the text."),
    ):
        function = option(function)
    return function


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("classify")
def command() -> None:
    """Train, use, judge and compress text classifiers.

    Labelled files are lines '__label__x some text' (as fastText has them), JSON lines, or .tsv and .csv tables with a
    header; each may be compressed by gzip.

    \b
      inlay classify train news.tsv news.clf --text title --text text
      inlay classify compress news.clf news.tsv small.clf --text title --text text
      inlay classify evaluate small.clf test.tsv --text title --text text
      echo "shares fell on Friday" | inlay classify predict small.clf
    """  # noqa: D301 - click reads the backspace


@command.command("train")
@click.argument("file", type=FILE)
@click.argument("model", type=FILE)
@_labelled
@click.option("--dim", default=10, show_default=True, help="Width of a row.")
@click.option("--word-ngrams", default=2, show_default=True, help="Longest n-gram of words.")
@click.option("--buckets", default=1_000_000, show_default=True, help="Rows for n-grams.")
@click.option("--epochs", default=5, show_default=True, help="Passes over FILE.")
@click.option("--lr", default=0.5, show_default=True, help="First learning rate.")
@click.option("--min-count", default=1, show_default=True, help="Rarer words get no row.")
@click.option("--hash", type=click.Choice(["mixing", "fnv1a"]), default="mixing", show_default=True, help="Of n-grams.")
@click.option("--seed", default=0, show_default=True, help="Seed of rows and order.")
@as_json
def train(file: Path, model: Path, text: tuple[str, ...], label: str, as_json: bool, **settings: Any) -> None:
    """Train on the labelled texts of FILE and write MODEL."""
    from inlay.words.bag_classifier import BagClassifier
    from inlay.words.labelled import read_labelled

    texts, labels = read_labelled(file, text=text, label=label)
    made = BagClassifier(**settings).fit(texts, labels, progress=sys.stderr.isatty() and not as_json)
    made.save(model)
    facts: dict[str, Any] = {
        "model": str(model), "texts": len(texts), "classes": made.classes, "features": len(made.rows),
        "loss": made.losses[-1], "bytes": model.stat().st_size,
    }  # fmt: skip
    said = f"{len(texts):,} texts, {len(made.classes)} classes, loss {made.losses[-1]:.3f} → {model}"
    _print(facts, f"{said} ({_size(facts['bytes'])})", as_json)


@command.command("predict")
@click.argument("model", type=FILE)
@click.argument("file", type=click.File("r", encoding="utf-8", errors="replace"), default="-")
@click.option("-k", default=1, show_default=True, type=click.IntRange(min=1), help="Classes for each line.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each line.")
def predict(model: Path, file: IO[str], k: int, as_json: bool) -> None:
    """Name the class of each line of FILE ('-', the default, for standard input), with its probability."""
    import itertools

    from inlay.words.text_classifier import load_classifier

    made = load_classifier(model)
    lines = (line.rstrip("\r\n") for line in file)
    while batch := list(itertools.islice(lines, 1024)):
        odds = made.predict_proba(batch)
        best = (-odds).argsort(axis=1, kind="stable")[:, :k]
        for row, order in zip(odds, best):
            named = [(made.classes[at], round(float(row[at]), 4)) for at in order]
            if as_json:
                click.echo(json.dumps({"classes": [name for name, _ in named], "scores": [p for _, p in named]}))
            else:
                click.echo("\t".join(f"{name}\t{p:.4f}" for name, p in named))


@command.command("evaluate")
@click.argument("model", type=FILE)
@click.argument("file", type=FILE)
@_labelled
@as_json
def evaluate(model: Path, file: Path, text: tuple[str, ...], label: str, as_json: bool) -> None:
    """Measure MODEL on the labelled texts of FILE."""
    from inlay.words.labelled import read_labelled
    from inlay.words.text_classifier import load_classifier

    result = load_classifier(model).evaluate(*read_labelled(file, text=text, label=label))
    lines = [f"{result['documents']:,} texts: accuracy {result['accuracy']:.4f}, macro F1 {result['macro_f1']:.4f}", ""]
    width = max(map(len, result["classes"]))
    for name, own in result["classes"].items():
        figures = "  ".join(f"{what} {own[what]:.4f}" for what in ("precision", "recall", "f1"))
        lines.append(f"{name.ljust(width)}  {figures}  of {own['documents']:,}")
    _print(result, "\n".join(lines), as_json)


@command.command("compress")
@click.argument("model", type=FILE)
@click.argument("file", type=FILE)
@click.argument("output", type=FILE)
@_labelled
@click.option("--keep", default=20_000, show_default=True, help="Features kept.")
@click.option("--coverage/--norm", default=True, show_default=True, help="Keep one of every text, or the longest.")
@click.option("--retrain", default=3, show_default=True, help="Epochs over what is kept, before quantising.")
@click.option("--dsub", default=2, show_default=True, help="Numbers in a code.")
@click.option("--refit/--no-refit", default=True, show_default=True, help="Train the head on quantised rows.")
@click.option("--quantise-head", is_flag=True, help="Quantise the head too; needs 256 classes.")
@click.option("--dictionary", type=click.Choice(["hashed", "strings"]), default="hashed", show_default=True)
@as_json
def compress(
    model: Path, file: Path, output: Path, text: tuple[str, ...], label: str, keep: int, coverage: bool, retrain: int,
    dsub: int, refit: bool, quantise_head: bool, dictionary: str, as_json: bool,
) -> None:  # fmt: skip
    """Write a small form of MODEL, trained on FILE, to OUTPUT."""
    from inlay.codecs import NormPQ
    from inlay.words.bag_classifier import BagClassifier
    from inlay.words.labelled import read_labelled

    full = BagClassifier.load(model)
    texts, labels = read_labelled(file, text=text, label=label)
    small = full.compress(
        keep, coverage=coverage, retrain=retrain, pq=NormPQ(dsub), refit_head=refit, quantise_head=quantise_head,
        dictionary=dictionary, texts=texts, labels=labels, progress=sys.stderr.isatty() and not as_json,
    )  # fmt: skip
    small.save(output)
    before, after = model.stat().st_size, output.stat().st_size
    facts = {"model": str(output), "features": len(small.features_map), "bytes": after, "bytes_before": before}
    said = f"{_size(before)} → {_size(after)}, {before / after:.0f} times smaller → {output}"
    _print({**facts, "bytes_by_part": small.nbytes_by_part()}, said, as_json)


def _print(facts: dict[str, Any], said: str, as_json: bool) -> None:
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else said)


def _size(count: int) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
