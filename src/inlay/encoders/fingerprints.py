"""Identity of an encoder: a hash of its weights and of every setting that changes its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["fingerprint"]


def fingerprint(name: str, settings: dict[str, Any], weights: Iterable[Any] = ()) -> str:
    """`name-` and 32 hex digits of BLAKE2b over settings and weights.

    Args:
        name: the kind of encoder, kept readable because errors about mismatched spaces show it.
        settings: JSON values that change the rows; leave out what does not (threads, batch sizes).
        weights: bytes, strings, C-contiguous arrays, or `Path`s of files whose bytes count, in a fixed order.
    """
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for weight in weights:
        if isinstance(weight, Path):
            with weight.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            size = weight.stat().st_size
        else:
            held = memoryview(weight.encode() if isinstance(weight, str) else weight)
            digest.update(held if held.nbytes else b"")
            size = held.nbytes
        digest.update(size.to_bytes(8, "little"))  # so that bytes cannot move from one weight to the next unnoticed
    return f"{name}-{digest.hexdigest()}"
