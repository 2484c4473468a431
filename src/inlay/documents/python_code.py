"""Python: one unit for each function, method, class header and stretch of module code, by the syntax tree."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence

from inlay.documents import code
from inlay.documents.spans import LIMIT, Unit, line_starts, target_of

__all__ = ["units"]

MODULE_DOCSTRING = "module docstring"

# A syntax tree takes some hundred bytes for a character at worst; beyond this, blocks will do.
_PARSED_UP_TO = 5_000_000
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NESTING = (ast.If, ast.Try, ast.TryStar, ast.With, ast.For, ast.While)


def units(text: str, limit: int = LIMIT) -> list[Unit]:
    """Definitions under their dotted names, decorators and leading comments included; else blocks of any code."""
    if len(text) > _PARSED_UP_TO:
        return code.units(text, "python", limit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # another's doubtful escapes are not the reader's business
            tree = ast.parse(text)
        outline = _Outline([*line_starts(text), len(text)], target_of(limit))
        outline.module(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code.units(text, "python", limit)
    marks = outline.marks
    stops = [start for start, _ in marks[1:]] + [len(text)]
    return [Unit(start, stop, heading) for (start, heading), stop in zip(marks, stops)]


class _Outline:
    """Where each unit begins: right after the statement before it, so that comments go with what they lead to."""

    def __init__(self, starts: list[int], small: int) -> None:
        self.starts, self.small = starts, small
        self.marks: list[tuple[int, str]] = [(0, "")]
        self.done = 0  # last line accounted for

    def module(self, tree: ast.Module) -> None:
        body = tree.body
        if ast.get_docstring(tree, clean=False) is not None:
            self.mark(body[0], MODULE_DOCSTRING)
            self.done = body[0].end_lineno or self.done
            body = body[1:]
        self.visit(body, "")

    def mark(self, node: ast.stmt, heading: str) -> None:
        if node.lineno <= self.done:  # shares a line with the statement before it
            return
        start = self.starts[self.done]
        if start == self.marks[-1][0]:
            self.marks[-1] = (start, heading)
        else:
            self.marks.append((start, heading))

    def visit(self, body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            end = node.end_lineno or node.lineno
            if isinstance(node, _DEFINITIONS):
                name = f"{prefix}.{node.name}" if prefix else node.name
                self.mark(node, name)
                if isinstance(node, ast.ClassDef) and self.starts[end] - self.starts[self.done] > self.small:
                    self.enter(node.body)
                    self.visit(node.body, name)
            else:
                if self.marks[-1][1] != prefix:
                    self.mark(node, prefix)
                if isinstance(node, _NESTING):
                    for inner in _bodies(node):
                        self.enter(inner)
                        self.visit(inner, prefix)
            self.done = max(self.done, end)

    def enter(self, body: Sequence[ast.stmt]) -> None:
        """Count the header above a nested body, and the comments in between, as accounted for."""
        if body:
            decorators = getattr(body[0], "decorator_list", None)
            self.done = max(self.done, (decorators[0].lineno if decorators else body[0].lineno) - 1)


def _bodies(node: ast.stmt) -> list[list[ast.stmt]]:
    """The nested blocks of a compound statement, in the order of the source."""
    bodies = [node.body]  # type: ignore[attr-defined]
    bodies += [handler.body for handler in getattr(node, "handlers", ())]
    return bodies + [getattr(node, "orelse", []), getattr(node, "finalbody", [])]
