"""A dense segment without vectors: links and product codes, and rows made again from the text as a search needs them.

Such a segment is made once, of all passages there are (`Collection.thin`), and is left as it is: what is added later
has rows of its own or waits for them, and what is deleted is masked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from inlay.io import Pack
from inlay.types import Encoder

__all__ = ["Texts", "index_of", "is_thin", "thinned"]

PREFIX, FACTS = "leann.", "leann.facts"
Texts = Callable[[np.ndarray], list[str | None]]  # what the encoder reads of chunks; None where they were deleted


def is_thin(pack: Pack) -> bool:
    """Whether a dense segment has no vectors."""
    return FACTS in pack


def thinned(encoder: Encoder, chunks: np.ndarray, texts: list[str], *, progress: bool) -> dict[str, np.ndarray]:
    """The arrays of a segment of chunks, int64 ascending, of which these are the texts."""
    from inlay.indexes.leann import Leann

    index = Leann(encoder).build(texts, progress=progress)
    facts = np.frombuffer(json.dumps(index.facts()).encode(), dtype=np.uint8)
    return {"chunks": chunks, FACTS: facts, **{PREFIX + name: array for name, array in index.arrays().items()}}


def index_of(pack: Pack, encoder: Encoder, texts: Texts) -> Any:
    """The index of such a segment; its rows are those of the segment."""
    from inlay.indexes.leann import Leann
    from inlay.indexes.recomputed import Recomputed

    names = [name for name in pack.names() if name.startswith(PREFIX) and name != FACTS]
    arrays = {name.removeprefix(PREFIX): pack[name] for name in names}
    chunks = pack["chunks"]
    rows = Recomputed(encoder, lambda ids: texts(chunks[ids]))
    return Leann.restored(arrays, json.loads(pack[FACTS].tobytes()), rows)
