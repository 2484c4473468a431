"""What encoders take: the rules for items, in one place, and the walk over them in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from inlay.errors import BadInput

__all__ = ["bar", "longest_first", "size_of", "spans", "texts"]


def texts(items: Any) -> list[str]:
    """Check items and return them as a list of strings that UTF-8 can hold.

    A lone surrogate (a byte that someone decoded with `surrogateescape`, half an emoji) becomes `?`: one broken
    character in one document is no reason to lose the batch.
    """
    if isinstance(items, (str, bytes)):
        raise BadInput(f"encoders take a list of texts, got one {type(items).__name__}; write [{_short(items)}]")
    if isinstance(items, dict) or not isinstance(items, Iterable):
        raise BadInput(f"encoders take a list of texts, got {type(items).__name__}")
    checked = list(items)
    for i, item in enumerate(checked):
        if not isinstance(item, str):
            raise BadInput(f"item {i} is {type(item).__name__}, expected str: {_short(item)}")
        if not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                checked[i] = item.encode(errors="replace").decode()
    return checked


def spans(total: int, size: int | None, default: int, *, progress: bool, what: str) -> Iterator[slice]:
    """Slices of `size` (or `default`) items that cover `total`, with a progress bar on stderr if asked."""
    size = size_of(size, default)
    with bar(total, progress=progress, what=what) as shown:
        for low in range(0, total, size):
            yield slice(low, min(low + size, total))
            shown.update(min(size, total - low))


def size_of(batch_size: int | None, default: int) -> int:
    """The batch size asked for, checked, or the encoder's own."""
    size = default if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadInput(f"batch_size must be a positive integer, got {size!r}")
    return size


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def update(self, count: int) -> None: ...


def bar(total: int, *, progress: bool, what: str) -> Any:
    """A tqdm bar (rate and time left, on stderr), or nothing that looks like one."""
    if not progress:
        return _NoBar()
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=" items")


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Order of items by length, longest first: batches pad little, and the batch that needs most memory comes first."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def _short(item: object) -> str:
    shown = repr(item)
    return shown if len(shown) <= 60 else shown[:57] + "..."
