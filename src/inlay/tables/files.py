"""Tables on disk, and other tensors: those of `inlay.sealed` files, settings among the facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlay import sealed

__all__ = ["read", "write"]

KIND = "table"


def write(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, kind: str = KIND) -> Path:
    """Write tensors and JSON-able facts, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    half: list[str] = []
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        if held.dtype == torch.bfloat16:  # numpy has no such type: its bits travel as uint16
            half.append(name)
            held = held.view(torch.int16)
        arrays[name] = held.numpy().view(np.uint16) if name in half else held.numpy()
    return sealed.write(path, arrays, {**facts, "kind": kind, "bfloat16": half})


def read(path: str | Path, *, kind: str = KIND) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file. Raises `Corrupt` where it is damaged or cut short."""
    arrays, facts = sealed.read(path, kind)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    for name in facts["bfloat16"]:
        tensors[name] = tensors[name].view(torch.bfloat16)
    return tensors, facts
