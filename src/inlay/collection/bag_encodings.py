"""Fixed dimensional encodings beside the bags of a segment, so that a query need not read every token (MUVERA).

Small segments are read whole, and have none. The encoding of a segment is self-contained: its planes and its mean are
kept with it, so segments can be merged, moved and read by a later version that would draw other ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from inlay.io import Pack
from inlay.types import Ragged

__all__ = ["encoding_of", "with_encodings"]

ENCODED = 2048  # passages of a segment from which finding candidates first costs less than scoring all
PART = 4096  # passages encoded together: 84 MB of float32
MEAN = 1 << 18  # tokens that their mean is taken of, at most
PREFIX, SETTINGS = "fde.", "fde.settings"


def with_encodings(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a segment of bags, encodings among them where there are enough of them.

    Args:
        arrays: `rows` [tokens, dim], `offsets` int64 [n + 1], and `scales` float32 [tokens] where rows are int8.
    """
    offsets = arrays["offsets"]
    if len(offsets) - 1 < ENCODED or not offsets[-1]:
        return arrays
    from inlay.codecs.muvera import MuveraFDE
    from inlay.indexes.flat import Flat

    fde = MuveraFDE(arrays["rows"].shape[1]).fit([_tokens(arrays, slice(None, None, -(-len(arrays["rows"]) // MEAN)))])
    index = Flat(fde.width, metric="dot", dtype="int8" if arrays["rows"].dtype == np.int8 else "float16")
    for first in range(0, len(offsets) - 1, PART):
        index.add(fde.encode_document(_bags(arrays, first, min(first + PART, len(offsets) - 1))))
    made = arrays | {"encodings": index.rows}
    if index.scales is not None:
        made["encoding_scales"] = index.scales
    made |= {PREFIX + name: array for name, array in fde.arrays().items()}
    made[SETTINGS] = np.frombuffer(json.dumps(fde.settings()).encode(), dtype=np.uint8)
    return made


def encoding_of(pack: Pack) -> tuple[Any, Any]:
    """The encoding of a segment and the index over what it made.

    Args:
        pack: the segment's arrays; `encodings` is among them.
    """
    from inlay.codecs.muvera import MuveraFDE
    from inlay.indexes.flat import Flat

    names = ("planes", "inner", "last", "mean")
    arrays = {name: pack[PREFIX + name] for name in names if PREFIX + name in pack}
    fde = MuveraFDE.restored(arrays, json.loads(pack[SETTINGS].tobytes()))
    scales = pack["encoding_scales"] if "encoding_scales" in pack else None
    return fde, Flat.over(pack["encodings"], scales, metric="dot")


def _bags(arrays: Mapping[str, np.ndarray], first: int, last: int) -> Ragged:
    """Bags `first` to `last` - 1, widened to float32."""
    low, high = arrays["offsets"][[first, last]]
    return Ragged(_tokens(arrays, slice(low, high)), arrays["offsets"][first : last + 1] - low)


def _tokens(arrays: Mapping[str, np.ndarray], which: slice) -> np.ndarray:
    values: np.ndarray = arrays["rows"][which].astype(np.float32)
    return values * arrays["scales"][which, None] if "scales" in arrays else values
