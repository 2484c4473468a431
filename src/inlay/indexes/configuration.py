"""A way to keep dense rows and to search them: reducer × codec × index × second stage, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from inlay.errors import BadInput

__all__ = ["FULL", "Configuration"]

FULL = "float32"


@dataclass(frozen=True, order=True)
class Configuration:
    """A way to keep rows and to search them.

    Args:
        reducer: a map by name (`pca:192`), or empty for rows as they are.
        codec: of what the map gives, by name; of a graph `float16` or `int8`.
        index: `scan` of all codes, or `graph`.
        ef: candidates that a walk of the graph keeps; 0 for scans.
        candidates: rows that are ordered again; 0 for none.
        fine: codec by which they are.
        encoder: what made the rows, where several are compared.
    """

    reducer: str
    codec: str
    index: Literal["scan", "graph"] = "scan"
    ef: int = 0
    candidates: int = 0
    fine: str = ""
    encoder: str = ""

    @property
    def codec_name(self) -> str:
        """Reducer and codec as `inlay.codecs.codec` takes them."""
        return f"{self.reducer}|{self.codec}" if self.reducer else self.codec

    @property
    def rerank(self) -> str:
        """The second stage in words, empty if there is none."""
        return f"top {self.candidates} by {self.fine}" if self.candidates else ""

    @property
    def family(self) -> tuple[str, str, bool]:
        """What grows alike with the number of rows, and so can be compared on few."""
        return self.encoder, self.index, bool(self.candidates)

    @property
    def full(self) -> bool:
        """Whether this is an exact search of the rows as they are."""
        return (self.reducer, self.codec, self.index, self.candidates) == ("", FULL, "scan", 0)

    def least_nbytes(self, dim: int) -> int:
        """Bytes that the codes of a row of `dim` numbers take, links and what is kept once apart; 0 if only fitting
        tells.
        """
        from inlay.codecs.named import codec

        names = [self.codec_name] + ([self.fine] if self.candidates else [])
        try:
            return sum(int(codec(name).nbytes(dim)) for name in names)
        except BadInput:
            return 0

    def __str__(self) -> str:
        index = f"graph ef={self.ef}" if self.index == "graph" else "scan"
        return " · ".join(part for part in (self.encoder, self.codec_name, index, self.rerank) if part)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own: dict[str, Any] = {"codec": self.codec_name, "index": self.index}
        own |= {"ef": self.ef} if self.index == "graph" else {}
        own |= {"rerank": {"candidates": self.candidates, "by": self.fine}} if self.candidates else {"rerank": None}
        return own | ({"encoder": self.encoder} if self.encoder else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Configuration:
        """The reverse of `to_dict`.

        Raises:
            BadInput: a value is missing or of the wrong kind.
        """
        try:
            reducer, _, codec = str(values["codec"]).rpartition("|")
            index, rerank = values["index"], values.get("rerank") or {"candidates": 0, "by": ""}
            if index not in ("scan", "graph"):
                raise ValueError(f"index {index!r}")
            return cls(reducer, codec, index, int(values.get("ef", 0)), int(rerank["candidates"]), str(rerank["by"]),
                       str(values.get("encoder", "")))  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"this is no configuration ({error}): {values!r}") from None
