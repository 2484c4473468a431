"""The encoder in the box: English sentence vectors with nothing to download and nothing but numpy to run.

A text's vector is the sum of two: what its tokens say each by itself (a table), and what four narrow transformer
layers make of them together. Both were learnt from all-MiniLM-L6-v2 by `inlay train box`; `weights/README.md` is the
card.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from inlay.encoders.box_graph import Graph
from inlay.encoders.box_weights import FOLDER, Weights
from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, longest_first, size_of, texts
from inlay.encoders.packed_transformer import Layer, Linear, Norm, layer_norm
from inlay.encoders.wordpiece import WordPiece
from inlay.errors import BadInput
from inlay.types import Space

__all__ = ["Box"]

MAX_TOKENS = 254  # and the two that mark beginning and end
# Tokens that go through the layers together: their activations stay in a core's cache.
TOKENS = 2048


class Box:
    """Sentence vectors of English text.

    A text is cut after 254 tokens (about 200 words). One without any token (empty, or nothing but control characters)
    gets a zero row, which scores 0 with everything. Queries and documents are encoded alike.

    Args:
        context: False leaves the transformer layers out: vectors of the token table alone, many times as fast, in a
            space of their own.
        runtime: what runs the layers: `numpy` in 32 bits (None too), so that a text has the same row on every machine;
            or `onnxruntime` (extra `onnx`) in 8, faster. Both make the same space: the cosine of a text's two rows is
            above 0.98, and 0.99 on average.
        threads: for onnxruntime; None takes as many as there are processors.
        path: folder of other weights, as `inlay train box` writes them.
    """

    at_once = 128  # new passages of one addition that are encoded with it; more are left until they are wanted
    hybrid_share = 0.75  # where surprise cannot be told, calibrated on training pairs: `python -m benchmarks.box share`
    hybrid_floor = 0.0

    def __init__(
        self, context: bool = True, *, runtime: str | None = None, threads: int | None = None,
        path: str | Path | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(context, bool):
            raise BadInput(f"context must be True or False, got {context!r}")
        if runtime not in (None, "numpy", "onnxruntime"):
            raise BadInput(f"runtime must be 'numpy', 'onnxruntime' or None, got {runtime!r}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise BadInput(f"threads must be a positive integer or None, got {threads!r}")
        self.runtime, self.threads = runtime, threads
        self.expensive = context
        # Beside BM25, chosen on judgments to learn from: `python -m benchmarks.fusion_brought --only box` and `static`.
        self.hybrid_surprise = 0.85 if context else 0.4
        self.context, self.path = context, None if path is None else str(Path(path).expanduser().absolute())
        self._weights = weights = Weights(FOLDER if self.path is None else Path(self.path))
        self._codes, self._scales = weights.table("static")
        self._map = weights.float("static.map")
        dim = self._map.shape[1] if context else self._codes.shape[1]
        self.space = Space("dense", dim, "cosine", fingerprint("box", {"context": context}, [weights.hash]))

    def __repr__(self) -> str:
        return f"Box(context={self.context}, dim={self.space.dim})"

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of `inlay.encoder` that make this encoder again."""
        spec: dict[str, Any] = {"name": "box", "context": self.context}
        chosen = {"runtime": self.runtime, "threads": self.threads, "path": self.path}
        return spec | {name: value for name, value in chosen.items() if value is not None}

    @cached_property
    def _tokenizer(self) -> WordPiece:
        return WordPiece(self._weights.vocabulary)

    @cached_property
    def _network(self) -> _Network | Graph:
        if self.runtime == "onnxruntime" and not self._weights.graphs:
            raise BadInput(f"the weights in {self.path} come without a graph: leave runtime out")
        if self.runtime == "onnxruntime":
            return Graph(self._weights, self.threads)
        return _Network(self._weights)

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Unit rows float32 [n, dim]."""
        checked = texts(items)
        rows = np.zeros((len(checked), self.space.dim), dtype=np.float32)
        size = size_of(batch_size, 1024)
        with bar(len(checked), progress=progress, what="box") as shown:
            for low in range(0, len(checked), size):
                part = [self._tokens(text) for text in checked[low : low + size]]
                rows[low : low + len(part)] = self._rows(part)
                shown.update(len(part))
        return rows

    encode_query = encode_document

    def _tokens(self, text: str) -> np.ndarray | None:
        pieces = self._tokenizer(text, MAX_TOKENS)
        number = self._tokenizer.number
        return np.array([number["[CLS]"], *pieces, number["[SEP]"]]) if pieces else None

    def _rows(self, tokens: list[np.ndarray | None]) -> np.ndarray:
        rows = np.zeros((len(tokens), self.space.dim), dtype=np.float32)
        lengths = [0 if ids is None else len(ids) for ids in tokens]
        order = [i for i in longest_first(lengths) if lengths[i]]
        if order:
            rows[order] = self._encode([ids for i in order if (ids := tokens[i]) is not None])
        return rows

    def _encode(self, tokens: list[np.ndarray]) -> np.ndarray:
        alone = np.stack([self._scales[ids] @ self._codes[ids].astype(np.float32) for ids in tokens])
        alone = _unit(alone)
        if not self.context:
            return alone
        return _unit(_unit(self._network(tokens)) + alone @ self._map)


class _Network:
    """The layers, made ready when first asked for."""

    def __init__(self, weights: Weights) -> None:
        self.codes, self.scales = weights.table("table")
        self.map = weights.float("table.map")
        self.positions = weights.float("positions")
        self.norm = Norm(weights.float("norm.gain"), weights.float("norm.offset"))
        self.layers: list[Layer] = []
        for prefix in (f"layers.{i}" for i in range(weights.depth)):
            parts = [
                Linear(
                    np.ascontiguousarray(weights.float(f"{prefix}.{name}").T), weights.float(f"{prefix}.{name}.offset")
                )
                for name in ("qkv", "out", "up", "down")
            ]
            norms = [
                Norm(weights.float(f"{prefix}.{name}.gain"), weights.float(f"{prefix}.{name}.offset"))
                for name in ("after_attention", "after_hidden")
            ]
            qkv, out, up, down = parts
            self.layers.append(Layer(qkv, out, up, down, norms[0], norms[1], qkv.matrix.shape[1] // 96))

    def __call__(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Mean of the last layer's rows, float32 [texts, dim], of texts sorted by length, longest first."""
        found, low = [], 0
        while low < len(tokens):
            high = low + max(1, TOKENS // len(tokens[low]))
            found.append(self._means(tokens[low:high]))
            low = high
        return np.concatenate(found)

    def _means(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        lengths = [len(ids) for ids in tokens]
        ids = np.concatenate(tokens)
        rows = (self.codes[ids].astype(np.float32) * self.scales[ids, None]) @ self.map
        rows += self.positions[np.concatenate([np.arange(length) for length in lengths])]
        rows = layer_norm(rows, self.norm.gain, self.norm.offset)
        for layer in self.layers:
            rows = layer(rows, lengths)
        starts = np.cumsum([0, *lengths[:-1]])
        return np.add.reduceat(rows, starts, axis=0) / np.array(lengths, dtype=np.float32)[:, None]


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
