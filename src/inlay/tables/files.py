"""Tables on disk: one safetensors file with its settings in the header, believed only when its digest matches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput, Corrupt
from inlay.io import Pack, atomic_write, pack_bytes

__all__ = ["read", "write"]


def write(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors and JSON-able facts, whole or not at all."""
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    arrays: dict[str, np.ndarray] = {}
    half: list[str] = []
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        if held.dtype == torch.bfloat16:  # numpy has no such type: its bits travel as uint16
            half.append(name)
            held = held.view(torch.int16)
        arrays[name] = held.numpy().view(np.uint16) if name in half else held.numpy()
    metadata = {"facts": json.dumps(facts, ensure_ascii=False), "bfloat16": json.dumps(half), "digest": _digest(arrays)}
    atomic_write(path, pack_bytes(arrays, metadata))
    return path


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file. Raises `Corrupt` where it is damaged or cut short."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"there is no table {path}") from None
    repair = "restore the file from a copy, or save the table again"
    try:
        pack = Pack(data, str(path), repair=repair)
        arrays = {name: pack[name] for name in pack.names()}
        facts, half = json.loads(pack.metadata["facts"]), json.loads(pack.metadata["bfloat16"])
        kept = pack.metadata["digest"]
    except Corrupt:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} is damaged or no table ({error!r}): {repair}") from None
    if _digest(arrays) != kept:
        raise Corrupt(f"{path} is damaged: its arrays do not match their digest; {repair}")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    for name in half:
        tensors[name] = tensors[name].view(torch.bfloat16)
    return tensors, facts


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
