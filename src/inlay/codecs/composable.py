"""What a codec needs to stand behind a map (`PCA(192) | Float8()`) and to be written as a name (`str(codec)`)."""

from __future__ import annotations

from typing import Any

__all__ = ["Composable"]


class Composable:
    """A codec of dense rows that has a name and may stand behind maps."""

    def __ror__(self, first: Any) -> Any:
        """`map | codec`: rows are mapped, then encoded."""
        if not (hasattr(first, "transform") and hasattr(first, "fit")):
            return NotImplemented
        from inlay.codecs.chain import Chain

        return Chain(first, self)

    def __str__(self) -> str:
        from inlay.codecs.named import name_of

        return name_of(self)

    @property
    def spec(self) -> dict[str, Any]:
        """Keyword arguments from which `codec(**spec)` makes it again, not fitted."""
        return {"name": str(self)}

    @property
    def fixed_nbytes(self) -> int:
        """Bytes kept once, whatever the number of rows."""
        return int(getattr(self, "codebook_nbytes", 0))
