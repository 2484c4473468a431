"""A dense segment kept as a `Configuration` says: codes, a graph, a second stage, whatever `inlay tune` recommended.

Such a segment is made once, of all passages there are (`Collection.arrange`), and is left as it is: what is added later
has rows of its own until the collection is arranged again, and what is deleted is masked.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.io import Pack

__all__ = ["arranged", "configuration_of", "index_of", "is_arranged"]

PREFIX, FACTS = "arranged.", "arranged.facts"


def is_arranged(pack: Pack) -> bool:
    """Whether a dense segment is of this form."""
    return FACTS in pack


def arranged(index: Any, chunks: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a segment of chunks, int64 ascending, of which an `Arranged` has the rows."""
    facts = np.frombuffer(json.dumps(index.facts()).encode(), dtype=np.uint8)
    return {"chunks": chunks, FACTS: facts, **{PREFIX + name: array for name, array in index.arrays().items()}}


def configuration_of(pack: Pack) -> dict[str, Any]:
    """How such a segment is kept, plain values."""
    found: dict[str, Any] = json.loads(pack[FACTS].tobytes())["configuration"]
    return found


def index_of(pack: Pack) -> Any:
    """The index of such a segment; its rows are those of the segment."""
    from inlay.indexes.arranged import Arranged

    names = [name for name in pack.names() if name.startswith(PREFIX) and name != FACTS]
    arrays = {name.removeprefix(PREFIX): pack[name] for name in names}
    try:
        return Arranged.restored(arrays, json.loads(pack[FACTS].tobytes()))
    except BadInput as error:
        raise Corrupt(
            f"arranged rows were written by another version ({error}); run inlay tune --apply again"
        ) from None
