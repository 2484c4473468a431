"""The weights of `Box` as shipped: a safetensors file of quantised arrays, believed only if its hash is the known one.

Token tables are 4-bit codes with a scale for each row, two codes to a byte; matrices are int8 with a scale for each
output. `quantised` makes the arrays, `Weights` reads them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from inlay.errors import Corrupt
from inlay.io import Pack, pack_bytes

__all__ = ["FOLDER", "HASHES", "Weights", "graph_weights", "write"]

FOLDER = Path(__file__).with_name("weights")
GRAPHS = {False: "box.onnx", True: "box_signed.onnx"}  # by whether matrices are int8
HASHES = "box.json"  # file name → BLAKE2b of its content, in hex
AGAIN = "install inlay again, or where the weights are your own, write them again"


class Weights:
    """Arrays of one weights file.

    Args:
        folder: with `box.safetensors` and `box.json`, which holds its hash.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "box.safetensors"
        try:
            data = path.read_bytes()
            known = json.loads((folder / HASHES).read_text(encoding="utf-8"))
            self.hash = _checked(path, data, known["box.safetensors"])
            self.graphs: dict[bool, bytes] = {}  # the layers for onnxruntime, if the files are there
            for signed, name in GRAPHS.items():
                if name in known:
                    self.graphs[signed] = (folder / name).read_bytes()
                    _checked(folder / name, self.graphs[signed], known[name])
        except (OSError, ValueError, KeyError) as error:
            raise Corrupt(f"the weights in {folder} cannot be read ({error}); {AGAIN}") from None
        self._pack = Pack(data, str(path))

    def __contains__(self, name: str) -> bool:
        return name in self._pack

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return next(i for i in itertools.count() if f"layers.{i}.qkv" not in self)

    def array(self, name: str) -> np.ndarray:
        """An array as stored, read only."""
        return self._pack[name]

    def float(self, name: str) -> np.ndarray:
        """A matrix or vector as float32, whatever it is stored as."""
        if f"{name}.scale" in self._pack:
            return self._pack[name].astype(np.float32) * self._pack[f"{name}.scale"].astype(np.float32)[:, None]
        return self._pack[name].astype(np.float32)

    def table(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Codes int8 [rows, dim] from -7 to 7, and scales float32 [rows]."""
        return unpacked(self._pack[f"{name}.codes"]), self._pack[f"{name}.scale"].astype(np.float32)

    @property
    def vocabulary(self) -> list[str]:
        """Tokens in the order of their numbers."""
        return self._pack["vocabulary"].tobytes().decode("utf-8").split("\n")


def graph_weights(weights: Weights, *, signed: bool) -> dict[str, np.ndarray]:
    """What a graph is given: name → array. Matrices are int8 if `signed`, and else uint8 around 128."""
    laid = _turned if signed else _middled
    found = {"positions": weights.float("positions")}
    found |= {f"norm.{part}": weights.float(f"norm.{part}") for part in ("gain", "offset")}
    # The only matrix stored in float: 8 bits are enough for it too.
    codes, scale = eight_bits(weights.float("table.map").T)
    found |= {"table.map": laid(codes), "table.map.scale": scale}
    for at in (f"layers.{i}" for i in range(weights.depth)):
        for name in (f"{at}.{part}" for part in ("qkv", "out", "up", "down")):
            scale, zero = weights.float(f"{name}.range")
            found |= {name: laid(weights.array(name)), f"{name}.scale": weights.float(f"{name}.scale")}
            found |= {f"{name}.offset": weights.float(f"{name}.offset")}
            found |= {f"{name}.in.scale": np.array(scale, np.float32), f"{name}.in.zero": np.array(zero, np.uint8)}
        for name in (f"{at}.{part}.{of}" for part in ("after_attention", "after_hidden") for of in ("gain", "offset")):
            found[name] = weights.float(name)
    return found


def _turned(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in] as [in, out]."""
    return np.ascontiguousarray(codes.T)


def _middled(codes: np.ndarray) -> np.ndarray:
    """int8 [out, in] as uint8 [in, out], 128 for 0."""
    return np.ascontiguousarray((codes.T.astype(np.int16) + 128).astype(np.uint8))


def four_bits(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [n, dim] from -7 to 7 and scales float16 [n], each row's scale the best of several."""
    rows = np.asarray(rows, dtype=np.float32)
    largest = np.abs(rows).max(axis=1) / 7
    best, codes = np.full(len(rows), np.inf, dtype=np.float32), np.zeros(rows.shape, dtype=np.int8)
    scale = np.zeros(len(rows), dtype=np.float16)
    # Clipping the few largest values can be worth finer steps for all others.
    for share in (1.0, 0.92, 0.85, 0.78, 0.7, 0.62, 0.55):
        tried = np.maximum(largest * share, 1e-7).astype(np.float16)
        wide = tried.astype(np.float32)[:, None]
        found = np.clip(np.rint(rows / wide), -7, 7)
        error = np.square(rows - found * wide).sum(axis=1)
        better = error < best
        best[better], scale[better], codes[better] = error[better], tried[better], found[better].astype(np.int8)
    return codes, scale


def packed(codes: np.ndarray) -> np.ndarray:
    """Two codes to a byte, uint8 [n, dim / 2]: even columns in the low half."""
    shifted = (codes + 8).astype(np.uint8)
    return np.ascontiguousarray(shifted[:, 0::2] | (shifted[:, 1::2] << 4))


def unpacked(data: np.ndarray) -> np.ndarray:
    """The inverse of `packed`, int8 [n, dim]."""
    codes = np.empty((len(data), 2 * data.shape[1]), dtype=np.int8)
    codes[:, 0::2] = data & 15
    codes[:, 1::2] = data >> 4
    codes -= 8
    return codes


def eight_bits(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [out, in] and scales float32 [out]."""
    scale = np.maximum(np.abs(matrix).max(axis=1) / 127, 1e-12).astype(np.float32)
    return np.clip(np.rint(matrix / scale[:, None]), -127, 127).astype(np.int8), scale


def write(
    folder: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str],
    graphs: Mapping[bool, bytes] | None = None,
) -> str:  # fmt: skip
    """Write a weights file, its graphs for onnxruntime if there are any, and their hashes.

    Args:
        folder: where to.
        arrays: of the weights.
        metadata: of their file.
        graphs: whether matrices are int8 → the graph.

    Returns:
        The weights' hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"box.safetensors": pack_bytes(arrays, metadata)}
    files |= {GRAPHS[signed]: graph for signed, graph in (graphs or {}).items()}
    found = {name: _digest(data) for name, data in files.items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / HASHES).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found["box.safetensors"]


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _checked(path: Path, data: bytes, known: str) -> str:
    found = _digest(data)
    if found != known:
        raise Corrupt(f"{path} is not the file it was when written (its BLAKE2b is {found}); {AGAIN}")
    return found
