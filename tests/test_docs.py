"""The documentation, run: every Python block and every shell block of README.md and the guides, in order, page by page.

    ```python    executed, all blocks of a page in one namespace; lines with >>> are doctests
    ```console   each `$ command` runs as in a terminal of 80 columns ("> " continues it) and must end with exit code 0

Where output is shown, it must be the output. `…` stands for anything within a line, a line of `…` for any lines, and
decimal fractions (scores, seconds) and the width of columns may differ. Lines that begin with "inlay: " are those of
standard error.
A block after `<!-- not run: reason -->` is left out; one after `<!-- slow: reason -->` runs with `make test-all`.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from inlay.cli import COMMANDS
from inlay.cli import inlay as root

ROOT = Path(__file__).resolve().parent.parent
GUIDES = (
    "getting-started", "collections", "encoders", "evaluation", "indexes", "language-models", "tables", "words",
)  # fmt: skip
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in GUIDES),
]
ALL_PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"(?:^<!-- (not run|slow): (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block: what is in it, from which line, and why it is not run each time."""

    page: str
    line: int
    language: str
    text: str
    unless: str | None

    @property
    def at(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(4)) + 1
        found.append(Block(page, line, match[3], match[4], match[1]))
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, and no index or key of the person who runs the tests."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("INLAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return folder


@pytest.mark.parametrize("page", [*PAGES, "docs/command-line.md"])
def test_page_runs(page: str, here: Path) -> None:
    ran = 0
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shell = Shell(here)
    for block in blocks(page):
        if block.unless is None and block.language in ("python", "console"):
            ran += 1
            run_python(block, namespace) if block.language == "python" else shell.run(block)
    assert ran, f"{page} has no block that runs"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/lib/python3.11/subprocess.py").exists(), reason="searches Debian 12's own Python")
def test_slow_blocks_run(here: Path) -> None:
    slow = [block for page in PAGES for block in blocks(page) if block.unless == "slow"]
    assert slow
    shell = Shell(here)
    for block in slow:
        shell.run(block)


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    if ">>>" not in block.text:
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), namespace)
        return
    # In doctest the ellipsis is three dots; on the page it is the character that the shell blocks use.
    text = block.text.replace("…", "...")
    test = doctest.DocTestParser().get_doctest(text, namespace, block.at, block.page, block.line - 1)
    said: list[str] = []
    runner = doctest.DocTestRunner(Numbers(), verbose=False, optionflags=FLAGS)
    failed, _ = runner.run(test, out=said.append, clear_globs=False)
    namespace.update(test.globs)  # the runner works on a copy
    assert not failed, "".join(said)


class Numbers(doctest.OutputChecker):
    """Output that may differ in decimal fractions."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(_without_fractions(want), _without_fractions(got), optionflags)


def _without_fractions(text: str) -> str:
    return re.sub(r"-?\d+\.\d+(?:e-?\d+)?", "0.0", text)


def _even(text: str) -> str:
    """A line of output without what may differ."""
    return re.sub(r"(?<=\S)  +", "  ", _without_fractions(text))


class Shell:
    """A terminal of 80 columns without colours, that remembers the current folder from command to command."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def run(self, block: Block) -> None:
        for line, command, expected in _commands(block):
            code, out, err = self._terminal(command)
            shown = f"{block.page}:{line}: {command}\n{out}{err}"
            assert code == 0, f"exit code {code} from {shown}"
            said = [wanted for wanted in expected if wanted.startswith("inlay: ")]
            for wanted in said:
                assert re.search(f"^{_pattern(wanted)}$", _even(err), re.M), f"no {wanted!r} from {shown}"
            wanted = [each for each in expected if each not in said]
            if wanted:
                assert _agree(wanted, out.splitlines()), f"the page shows other output than {shown}"

    def _terminal(self, command: str) -> tuple[int, str, str]:
        pty = pytest.importorskip("pty")
        environment = os.environ | {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        with tempfile.TemporaryDirectory() as scratch:
            place, errors = Path(scratch, "pwd"), Path(scratch, "stderr")
            script = f"trap 'pwd > \"{place}\"' EXIT\n{command}\n"
            terminal, slave = pty.openpty()
            with errors.open("wb") as stderr:
                process = subprocess.Popen(
                    ["bash", "-c", script], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=slave, stderr=stderr,
                    env=environment,
                )  # fmt: skip
            os.close(slave)
            out = b"".join(_read(terminal))
            code = process.wait()
            self.folder = place.read_text().strip() if place.exists() else self.folder
            return code, out.decode().replace("\r\n", "\n"), errors.read_text()


def _read(terminal: int) -> Iterator[bytes]:
    """What is written to a terminal until nobody holds its other end."""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux's way of saying that the other end is closed
            part = b""
        if not part:
            os.close(terminal)
            return
        yield part


def _commands(block: Block) -> Iterator[tuple[int, str, list[str]]]:
    """Line, command and the output shown below it."""
    command: list[str] = []
    output: list[str] = []
    at = block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            if command:
                yield at, "\n".join(command), output
            at, command, output = number, [line[2:]], []
        elif line.startswith("> ") and not output:
            command.append(line[2:])
        elif line == ">" and not output:
            command.append("")
        else:
            assert command, f"{block.page}:{number}: output before any command"
            output.append(line)
    assert command, f"{block.at}: no command (commands begin with '$ ')"
    yield at, "\n".join(command), output


def _agree(wanted: list[str], got: list[str]) -> bool:
    """Whether lines of output are those of the page, blank lines at the ends aside."""
    parts = [r"(?:.*\n)*" if line.strip() == "…" else rf"{_pattern(line)}\s*\n" for line in _stripped(wanted)]
    return re.fullmatch("".join(parts), _even("".join(f"{line}\n" for line in _stripped(got)))) is not None


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in _even(line.rstrip()).split("…"))


def _stripped(lines: list[str]) -> list[str]:
    return "\n".join(lines).strip("\n").splitlines()


@pytest.mark.parametrize(
    ("wanted", "got", "same"),
    [
        (["a  0.033"], ["a    0.1"], True),
        (["    a"], ["  a"], False),
        (["a", "…", "z"], ["a", "b", "c", "z"], True),
        (["a", "…", "z"], ["a", "z"], True),
        (["a … z"], ["a b z"], True),
        (["a … z"], ["a b", "z"], False),
        (["3 files"], ["4 files"], False),
        (["a"], ["a", "b"], False),
    ],
)
def test_output_is_compared(wanted: list[str], got: list[str], same: bool) -> None:
    assert _agree(wanted, got) is same


def test_a_wrong_page_fails(here: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 2"):
        Shell(here).run(Block("x.md", 1, "console", "$ inlay info nowhere\n", None))
    with pytest.raises(AssertionError, match="other output"):
        Shell(here).run(Block("x.md", 1, "console", "$ echo one\ntwo\n", None))
    with pytest.raises(AssertionError, match="Expected"):
        run_python(Block("x.md", 1, "python", ">>> 1 + 1\n3\n", None), {})


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in _anchors(file), f"{page.name} links to {target}, which has no such heading"


def _anchors(page: Path) -> set[str]:
    """Names of headings, made as code hosts make them: lower case, hyphens for spaces, punctuation dropped."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `inlay ([\w-]+)[^\n]*\n(.*?)(?=^##|\Z)", page, re.M | re.S))
    assert set(sections) == set(COMMANDS)
    context = click.Context(root)
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        real = {option for one in inner for parameter in one.params if isinstance(parameter, click.Option)
                for option in (*parameter.opts, *parameter.secondary_opts) if option.startswith("--")}  # fmt: skip
        said = set(re.findall(r"--[a-z][a-z0-9-]*", sections[name]))
        assert real <= said, f"inlay {name}: the page does not mention {', '.join(sorted(real - said))}"
        assert said <= real, f"inlay {name}: the page mentions {', '.join(sorted(said - real))}, which is not there"


def test_every_extra_is_documented() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"dev", "bench"}
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == extras


def test_every_encoder_is_documented() -> None:
    from inlay.encoders.names import NAMES

    page = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)(?::[A-Z]+)?` \|", page, re.M)) == set(NAMES)
