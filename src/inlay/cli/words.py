"""`inlay words`: files of word vectors, converted, searched and described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.group("words")
def command() -> None:
    """Convert word vectors to one memory-mapped file, and find what is near a word in it.

    \b
      inlay words convert glove.6B.100d.txt glove.inlay --dtype int8
      inlay words near king glove.inlay -k 5
    """  # noqa: D301 - click reads the backspace


@command.command("convert")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["word2vec", "word2vec-binary", "fasttext", "glove"]),
    help="What SOURCE is [default: seen from its first bytes].",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="How rows are kept.",
)
@click.option("--no-subword", is_flag=True, help="Leave out the n-grams that answer for misspelt words.")
@click.option("--graph", is_flag=True, help="Also build a graph for approximate search.")
@click.option("--replace-bad-utf8", is_flag=True, help="Take words that are not valid UTF-8, with replacement marks.")
@click.option("--json", "json_wanted", is_flag=True, help="Print what was written as JSON.")
def convert(
    source: Path,
    output: Path,
    format: Any,
    dtype: Any,
    no_subword: bool,
    graph: bool,
    replace_bad_utf8: bool,
    json_wanted: bool,
) -> None:
    """Convert SOURCE (word2vec, GloVe or fastText; .gz too) to the file OUTPUT."""
    import sys

    from inlay.words import KeyedVectors

    with KeyedVectors.convert(
        source,
        output,
        format=format,
        dtype=dtype,
        subword=None if no_subword else (3, 6),
        graph=graph,
        encoding_errors="replace" if replace_bad_utf8 else "strict",
        progress=sys.stderr.isatty(),
    ) as made:
        _tell(_about(made), json_wanted, f"{len(made):,} × {made.dim} {made.file.dtype} → {output}")


@command.command("near")
@click.argument("key")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="How many.")
@click.option("--not", "negative", metavar="KEY", multiple=True, help="A word to go away from; repeat for several.")
@click.option("--and", "more", metavar="KEY", multiple=True, help="A further word to go towards; repeat for several.")
@click.option("-i", "--ignore-case", is_flag=True, help="Take upper and lower case for the same.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the words as JSON.")
def near(
    key: str, file: Path, k: int, negative: tuple[str, ...], more: tuple[str, ...], ignore_case: bool, json_wanted: bool
) -> None:
    """List the words nearest to KEY in FILE. A word that FILE does not have is guessed from its spelling.

    \b
      inlay words near king glove.inlay --not man --and woman
    """  # noqa: D301 - click reads the backspace
    from inlay.cli.show import print_json, printable
    from inlay.words import KeyedVectors

    with KeyedVectors.open(file, case_insensitive=ignore_case) as kv:
        found = kv.most_similar([key, *more], list(negative), k)
        guessed = {
            word: [name for name, _ in kv.similar_keys(word)] for word in (key, *more, *negative) if word not in kv
        }
    if json_wanted:
        print_json({"near": [{"key": name, "score": score} for name, score in found], "guessed_from": guessed})
        return
    for word, others in guessed.items():
        by = ", ".join(map(printable, others)) or "nothing but its letters"
        click.echo(f"{printable(word)} is not in {file}; its vector comes from {by}", err=True)
    for name, score in found:
        click.echo(f"{score:.4f}  {printable(name)}")


@command.command("info")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--verify", is_flag=True, help="Check every byte.")
@click.option("--json", "json_wanted", is_flag=True, help="Print it as JSON.")
def info(file: Path, verify: bool, json_wanted: bool) -> None:
    """Show what FILE holds."""
    from inlay.words import KeyedVectors

    with KeyedVectors.open(file) as kv:
        if verify:
            kv.file.verify()
        about = _about(kv) | ({"verified": True} if verify else {})
    _tell(about, json_wanted, None)


def _about(kv: Any) -> dict[str, Any]:
    return {
        "file": str(kv.file.path),
        "keys": len(kv),
        "dim": kv.dim,
        "dtype": kv.file.dtype,
        "subword": kv.file.about["subword"],
        "bytes": kv.file.nbytes,
        "blocks": kv.file.sizes(),
        "metadata": kv.file.about["metadata"],
    }


def _tell(about: dict[str, Any], json_wanted: bool, line: str | None) -> None:
    from inlay.cli.show import print_json, size

    if json_wanted:
        print_json(about)
    elif line:
        click.echo(line)
    else:
        for name, value in about.items():
            if name == "bytes":
                click.echo(f"{'size':<9} {size(value)}")
            elif name == "subword":
                click.echo(f"{name:<9} {'–' if value is None else '{} to {} characters'.format(*value)}")
            elif name == "blocks":
                for block, nbytes in value.items():
                    click.echo(f"  {block:<15} {size(nbytes)}")
            elif value not in ({}, None):
                click.echo(f"{name:<9} {value:,}" if isinstance(value, int) else f"{name:<9} {value}")
