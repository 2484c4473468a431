"""Rows that are not kept: made again from their texts by the encoder, whenever they are asked for.

A few can be kept all the same, in half precision: those that are asked for most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from inlay.errors import BadInput, SpaceMismatch
from inlay.kernels.dense import normalise
from inlay.types import Encoder

__all__ = ["Recomputed"]


class Recomputed:
    """Dense rows of texts, by number.

    Args:
        encoder: makes the rows; of the kind `dense`, with the metric `cosine` or `dot`.
        texts: the texts, or a function from row numbers to their texts; None for a text that is gone.
        stand_in: gives rows [n, dim] for numbers whose texts are gone.

    `encoded` counts the rows that were made, `cached` those that had been kept.
    """

    def __init__(
        self,
        encoder: Encoder,
        texts: Sequence[str] | Callable[[list[int]], list[str | None]],
        *,
        stand_in: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if encoder.space.kind != "dense" or encoder.space.metric not in ("cosine", "dot"):
            raise SpaceMismatch(
                f"rows are made again for dense vectors and a dot product or cosine, not for {encoder.space.kind} "
                f"ones with {encoder.space.metric}"
            )
        self.encoder, self.texts, self.stand_in = encoder, texts, stand_in
        self.encoded = self.cached = 0
        self._places: dict[int, int] = {}
        self._kept = np.empty((0, encoder.space.dim), dtype=np.float16)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are kept, and of their numbers."""
        return self._kept.nbytes + 4 * len(self._places)

    @property
    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers uint32 [m] and rows float16 [m, dim] of those that are kept."""
        return np.array(list(self._places), dtype=np.uint32), self._kept

    def keep(self, ids: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Keep these rows, and no others; those that are not given are made."""
        rows = self._made(ids.tolist()) if rows is None else rows
        if rows.shape != (len(ids), self.encoder.space.dim):
            raise BadInput(f"{len(ids)} rows of {self.encoder.space.dim} numbers are kept, got {list(rows.shape)}")
        self._places = {int(row): place for place, row in enumerate(ids)}
        self._kept = rows.astype(np.float16)

    def fetch(self, ids: Sequence[int]) -> np.ndarray:
        """Rows float32 [n, dim], at length 1 where nearness is the cosine."""
        places = [self._places.get(row, -1) for row in ids]
        missing = [row for row, place in zip(ids, places) if place < 0]
        out = np.empty((len(ids), self.encoder.space.dim), dtype=np.float32)
        at = np.array(places, dtype=np.int64)
        if missing:
            out[at < 0] = self._made(missing)
        if len(missing) < len(ids):
            out[at >= 0] = self._kept[at[at >= 0]]
        self.encoded += len(missing)
        self.cached += len(ids) - len(missing)
        return out

    def query(self, text: str) -> np.ndarray:
        """A query's row [dim]."""
        return self._ready(self.encoder.encode_query([text]))[0]

    def _made(self, ids: list[int]) -> np.ndarray:
        texts = self.texts(ids) if callable(self.texts) else [self.texts[row] for row in ids]
        known = [text for text in texts if text is not None]
        if len(known) == len(ids):
            return self._ready(self.encoder.encode_document(known))
        there = np.array([text is not None for text in texts], dtype=bool)
        gone = np.array(ids)[~there]
        if self.stand_in is None:
            raise BadInput(f"the text of row {gone[0]} is gone, and its row cannot be made again")
        out = np.empty((len(ids), self.encoder.space.dim), dtype=np.float32)
        out[~there] = self.stand_in(gone)
        if there.any():
            out[there] = self._ready(self.encoder.encode_document(known))
        return out

    def _ready(self, rows: object) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.float32)
        return normalise(rows) if self.encoder.space.metric == "cosine" else rows
