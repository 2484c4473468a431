"""`inlay completion`: the script that teaches a shell to complete commands and options."""

from __future__ import annotations

import sys

import click

__all__ = ["command"]

INSTALL = {
    "bash": "inlay completion bash > ~/.local/share/bash-completion/completions/inlay",
    "zsh": "inlay completion zsh > ~/.zfunc/_inlay    # with 'fpath+=~/.zfunc' before compinit in ~/.zshrc",
    "fish": "inlay completion fish > ~/.config/fish/completions/inlay.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(INSTALL)))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash  inlay completion bash > ~/.local/share/bash-completion/completions/inlay
    zsh   inlay completion zsh > ~/.zfunc/_inlay
    fish  inlay completion fish > ~/.config/fish/completions/inlay.fish

    Then start a new shell. For zsh, ~/.zshrc needs 'fpath+=~/.zfunc' before compinit.
    """  # noqa: D301 - click reads the backspace
    from click.shell_completion import get_completion_class

    from inlay.cli import inlay

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(inlay, {}, "inlay", "_INLAY_COMPLETE").source())
    if sys.stdout.isatty():
        click.echo(f"# To install it: {INSTALL[shell]}", err=True)
