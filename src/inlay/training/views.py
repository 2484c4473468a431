"""What a model is shown of a text: prefixes, titles, delimiters. A view takes `(text, example)` and renders it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from inlay.training.example import Example

__all__ = ["Prefix", "Rendered", "TitleText", "View", "Wrap", "plain"]


class Rendered(NamedTuple):
    """A text as the model gets it; its first `hidden` characters are attended to but left out of the pooling."""

    text: str
    hidden: int = 0


class View(Protocol):
    """Any callable of this form is a view."""

    def __call__(self, text: str, example: Example) -> Rendered: ...


def plain(text: str, example: Example) -> Rendered:
    """The text as it is."""
    return Rendered(text)


@dataclass(frozen=True)
class Prefix:
    """A fixed text in front, such as "query: "; `{task}` in it becomes the example's task.

    Args:
        prefix: what goes in front.
        pooled: False leaves its tokens out of the pooling.
    """

    prefix: str
    pooled: bool = True

    def __call__(self, text: str, example: Example) -> Rendered:
        front = self.prefix.replace("{task}", example.task or "")
        return Rendered(front + text, 0 if self.pooled else len(front))


@dataclass(frozen=True)
class TitleText:
    """Title and body in a form of words. A document has a title if its first line is followed by others.

    Args:
        form: how they are put, with `{title}` and `{text}`. The default is EmbeddingGemma's.
        missing: the title of a text that has none.
    """

    form: str = "title: {title} | text: {text}"
    missing: str = "none"

    def __call__(self, text: str, example: Example) -> Rendered:
        title, line, body = text.partition("\n")
        if not line:
            title, body = self.missing, text
        # replace, not format: documents may hold braces
        return Rendered(self.form.replace("{title}", title, 1).replace("{text}", body, 1))


@dataclass(frozen=True)
class Wrap:
    """A text between two delimiters (cpt marks queries and documents this way)."""

    before: str
    after: str

    def __call__(self, text: str, example: Example) -> Rendered:
        return Rendered(self.before + text + self.after)
