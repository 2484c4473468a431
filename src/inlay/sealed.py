"""What was learnt, on disk: arrays and facts in one safetensors file, believed only when its digest matches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.io import Pack, atomic_write, pack_bytes

__all__ = ["REPAIR", "read", "size", "write"]

REPAIR = "restore the file from a copy, or save it again"


def write(path: str | Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Path:
    """Write arrays and JSON-able facts, whole or not at all; facts["kind"] is what `read` is asked for."""
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    atomic_write(path, _bytes(arrays, facts))
    return path


def size(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> int:
    """Bytes of the file that `write` would make."""
    return len(_bytes(arrays, facts))


def read(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of a file whose facts say {"kind": kind}.

    Raises:
        BadInput: there is no such file, or it holds something else.
        Corrupt: it is damaged or cut short.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"there is no {kind} {path}") from None
    except IsADirectoryError:
        raise BadInput(f"{path} is a folder, not a {kind}") from None
    try:
        pack = Pack(data, str(path), repair=REPAIR)
        arrays = {name: pack[name] for name in pack.names()}
        text, kept = pack.metadata["facts"], pack.metadata["digest"]
        facts = json.loads(text)
    except Corrupt:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{path} is damaged or was not written by inlay ({error!r}): {REPAIR}") from None
    if _digest(arrays, text) != kept:
        raise Corrupt(f"{path} is damaged: its content does not match its digest; {REPAIR}")
    if not isinstance(facts, dict) or facts.get("kind") != kind:
        found = facts.get("kind") if isinstance(facts, dict) else None
        raise BadInput(f"{path} holds a {found or 'file of another kind'}, not a {kind}")
    return arrays, facts


def _bytes(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> bytes:
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    return pack_bytes(arrays, {"facts": text, "digest": _digest(arrays, text)})


def _digest(arrays: Mapping[str, np.ndarray], facts: str) -> str:
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
