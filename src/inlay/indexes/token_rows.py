"""Token vectors of many documents in one array a kind, which grows as documents come: the exact side of re-ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from inlay.codecs.residual import ResidualCodes, ResidualTokens
from inlay.codecs.scalar import Float16, Float32, Int8
from inlay.errors import BadInput, Corrupt
from inlay.kernels.maxsim import maxsim

__all__ = ["TokenRows"]

Dtype: TypeAlias = Literal["float32", "float16", "int8"]
_CODECS: dict[str, Float32 | Float16 | Int8] = {"float32": Float32(), "float16": Float16(), "int8": Int8()}


class TokenRows:
    """Documents' tokens, and MaxSim with those that are asked for.

    Args:
        dim: width of a token vector.
        dtype: `float32`, `float16`, `int8` (one scale a token), or a fitted `ResidualTokens`.
    """

    def __init__(self, dim: int, dtype: Dtype | ResidualTokens = "float16") -> None:
        if isinstance(dtype, ResidualTokens):
            if dtype.dim != dim:
                raise BadInput(f"{dtype!r} was fitted on tokens of {dtype.dim} dimensions, the index has {dim}")
        elif dtype not in _CODECS:
            raise BadInput(f"tokens are kept as {', '.join(_CODECS)}, or by a fitted ResidualTokens; got {dtype!r}")
        self.dim, self.dtype = int(dim), dtype
        self.offsets = np.zeros(1, dtype=np.int64)
        self._kept = self.encode(np.empty((0, self.dim), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, document: int) -> np.ndarray:
        """Tokens of a document as they are scored, float32 [tokens, dim]."""
        low, high = self.offsets[document : document + 2]
        part = {name: array[low:high] for name, array in self._kept.items()}
        if isinstance(self.dtype, ResidualTokens):
            return self.dtype.decode(ResidualCodes(part["near"], part["codes"]))
        values = part["values"].astype(np.float32)
        return values * part["scales"][:, None] if "scales" in part else values

    @property
    def nbytes(self) -> int:
        """Bytes of tokens, and of where documents begin."""
        tokens = int(self.offsets[-1])
        return self.offsets.nbytes + sum(tokens * array[:1].nbytes for array in self._kept.values() if len(array))

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Tokens float32 [n, dim] as they will be kept; raises where they cannot be."""
        if isinstance(self.dtype, ResidualTokens):
            near, codes = self.dtype.encode(values)
            return {"near": near, "codes": codes}
        made: Any = _CODECS[self.dtype].encode(values)
        return {"values": made.codes, "scales": made.scales} if self.dtype == "int8" else {"values": made}

    def append(self, kept: Mapping[str, np.ndarray], offsets: np.ndarray) -> None:
        """Add what `encode` made of documents' tokens that lie at `offsets` int64 [n + 1]."""
        start, count = int(self.offsets[-1]), int(offsets[-1])
        for name, array in kept.items():
            old = self._kept[name]
            if start + count > len(old):  # growing by half keeps the cost of copying a constant per token
                room = max(start + count, len(old) * 3 // 2)
                grown = np.empty((room, *old.shape[1:]), dtype=old.dtype)
                grown[:start] = old[:start]
                self._kept[name] = old = grown
            old[start : start + count] = array
        self.offsets = np.concatenate([self.offsets, start + offsets[1:]])

    def score(self, query: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """MaxSim of query tokens float32 [q, dim] with the documents `ids` int64 [n], or with all: float32 [n]."""
        if isinstance(self.dtype, ResidualTokens):
            tokens = int(self.offsets[-1])
            codes = ResidualCodes(self._kept["near"][:tokens], self._kept["codes"][:tokens])
            return self.dtype.scorer(query)(codes, self.offsets, ids)
        return maxsim(query, self._kept["values"], self.offsets, scales=self._kept.get("scales"), ids=ids)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that is kept, by name."""
        tokens = int(self.offsets[-1])
        found = {name: array[:tokens] for name, array in self._kept.items()} | {"offsets": self.offsets}
        if isinstance(self.dtype, ResidualTokens):
            found |= {f"codec.{name}": array for name, array in self.dtype.arrays().items()}
        return found

    def settings(self) -> dict[str, Any]:
        """Width and dtype, as JSON has them."""
        codec = isinstance(self.dtype, ResidualTokens)
        return {"dim": self.dim, "dtype": {"residual": self.dtype.settings()} if codec else self.dtype}  # type: ignore[union-attr]

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> TokenRows:
        """Of what `arrays` and `settings` gave."""
        try:
            dtype = settings["dtype"]
            if isinstance(dtype, dict):
                own = {name.removeprefix("codec."): a for name, a in arrays.items() if name.startswith("codec.")}
                dtype = ResidualTokens.restored(own, dtype["residual"])
            made = cls(settings["dim"], dtype)
            offsets = arrays["offsets"]
            for name, empty in made._kept.items():
                kept = arrays[name]
                if kept.dtype != empty.dtype or kept.shape != (offsets[-1], *empty.shape[1:]):
                    raise ValueError(f"{name} is {kept.dtype} {list(kept.shape)}")
                made._kept[name] = kept
            if offsets.dtype != np.int64 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
                raise ValueError("offsets out of order")
            made.offsets = offsets
        except (BadInput, KeyError, TypeError, ValueError, IndexError) as error:
            raise Corrupt(f"tokens do not fit their settings ({error}); build and save the index again") from None
        return made
