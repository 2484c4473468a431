"""Rows in fewer bytes: `encode` makes codes of float32 rows, `decode` rows of codes; `nbytes` is what one row costs.

- `Float32`, `Float16`: a number at 4 or 2 bytes.
- `Int8`: a number at 1 byte and one scale a row; its codes are `Quantised`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlay.codecs.scalar import Float16, Float32, Int8, Quantised

__all__ = ["Float16", "Float32", "Int8", "Quantised"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from inlay.codecs import scalar

        return getattr(scalar, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
