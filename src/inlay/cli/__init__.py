"""The command line.

One file for each command. The table below is all that `inlay --help` and a typing mistake need, so a command's file is
imported only when that command is called: the help, and the shell's completion, stay instant.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from inlay import __version__
from inlay.errors import InlayError, InlayWarning

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "inlay", "main"]

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a program that was stopped with Ctrl-C
PIPE_CLOSED = 141  # 128 + SIGPIPE, what it reports for `grep … | head` when head has seen enough


class Entry(NamedTuple):
    """Where a command lives, and the line that the help shows for it."""

    section: str
    target: str
    help: str


COMMANDS: dict[str, Entry] = {
    "search": Entry("Search", "inlay.cli.search:command", "Search a folder or a collection by meaning."),
    "index": Entry("Search", "inlay.cli.index:command", "Index a folder, or bring its index up to date."),
    "ls": Entry("Collections", "inlay.cli.manage:ls", "List the folders that are indexed."),
    "info": Entry("Collections", "inlay.cli.manage:info", "Show what an index holds and what made it."),
    "rm": Entry("Collections", "inlay.cli.manage:rm", "Remove an index; the files it was made from stay."),
    "import": Entry("Collections", "inlay.cli.transfer:import_", "Add JSONL, CSV or Parquet rows to a collection."),
    "export": Entry("Collections", "inlay.cli.transfer:export", "Write the documents as JSON lines."),
    "doctor": Entry("Collections", "inlay.cli.doctor:command", "Verify every byte, and repair what can be repaired."),
    "dedup": Entry("Collections", "inlay.cli.dedup:command", "Find records of a table that are likely the same."),
    "encode": Entry("Vectors", "inlay.cli.encode:command", "Turn lines of text into rows of vectors."),
    "classify": Entry("Vectors", "inlay.cli.classify:command", "Train, use and compress text classifiers."),
    "words": Entry("Vectors", "inlay.cli.words:command", "Convert word vectors, and find words near others."),
    "eval": Entry("Measure", "inlay.cli.evaluate:command", "Measure retrieval quality on judged queries."),
    "compare": Entry("Measure", "inlay.cli.compare:command", "Compare encoders: shape, agreement, quality."),
    "tune": Entry("Measure", "inlay.cli.tune:command", "Find fewer bytes and milliseconds at equal quality."),
    "reproduce": Entry("Measure", "inlay.cli.reproduce:command", "Run a published method against its baseline."),
    "bench-tables": Entry("Measure", "inlay.cli.bench_tables:command", "Compare compressed embedding tables."),
    "bench-filtered": Entry("Measure", "inlay.cli.bench_filtered:command", "Compare ways of filtered vector search."),
    "train": Entry("Measure", "inlay.cli.train:command", "Train a model by a recipe."),
    "lm": Entry("Measure", "inlay.cli.lm:command", "Train, edit and inspect language models with tables."),
    "completion": Entry("Shell", "inlay.cli.completion:command", "Print the completion script for your shell."),
}


class Commands(click.Group):
    """A group that imports a command when it is called, and ends every error in one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"there is no command {args[0]!r}. {suggestion(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        column = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [(name.ljust(column), entry.help) for name, entry in COMMANDS.items() if entry.section == section]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=e.help) for n, e in COMMANDS.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # here, for click itself would end it with exit code 1
            _silence_stdout()
            ctx.exit(PIPE_CLOSED)

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        run = super().main
        if not standalone_mode:
            return run(args, prog_name or "inlay", complete_var, standalone_mode=False, **extra)
        with _short_warnings(), _replacing_unprintable():
            try:
                # A command that ends with `ctx.exit(code)` makes click return the code; all others return None.
                code = run(args, prog_name or "inlay", complete_var, standalone_mode=False, **extra) or 0
                sys.stdout.flush()
            except click.exceptions.NoArgsIsHelpError as error:
                error.show(sys.stdout)
                code = 0
            except click.ClickException as error:
                error.show()
                code = error.exit_code
            except (click.Abort, KeyboardInterrupt):
                _say("interrupted. What was finished is kept; run the same command again to continue.")
                code = INTERRUPTED
            except InlayError as error:
                _say(str(error))
                code = 2
            except BrokenPipeError:
                _silence_stdout()
                code = PIPE_CLOSED
            except OSError as error:
                _say(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
                code = 2
        sys.exit(code)


def suggestion(name: str) -> str:
    """What to do after a command that does not exist."""
    import shlex
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), COMMANDS, n=1, cutoff=0.7)
    if near:
        return f"Did you mean 'inlay {near[0]}'?"
    return f"To search for it: inlay search {shlex.quote(name)}"


def _say(message: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"inlay: {message}", err=True)


def _silence_stdout() -> None:
    """Give the interpreter somewhere to flush what nobody reads any more, or it complains as it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Show inlay's own warnings as a sentence rather than as a line of source code."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, InlayWarning):
                _say(str(message))
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _replacing_unprintable() -> Iterator[None]:
    """A file name that is no valid text must not end the output of all the others."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    yield


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Nothing leaves this machine and nothing is fetched unless you ask for it.",
)
@click.version_option(__version__, "-V", "--version", prog_name="inlay", message="%(prog)s %(version)s")
def inlay() -> None:
    """Search a folder by meaning, build retrieval on it, and measure every choice.

    \b
      inlay search "parse a date out of text" src/
    """  # noqa: D301 - click reads the backspace


def main() -> NoReturn:
    """Run the command line, and leave with its exit code.

    0: done · 1: nothing found, or something did not verify · 2: the request or the data cannot be used.
    """
    inlay.main()
    raise AssertionError("a click group in standalone mode always exits")
