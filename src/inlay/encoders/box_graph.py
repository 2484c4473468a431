"""The box's layers in 8 bits, run by onnxruntime where it is installed (extra `onnx`): faster than numpy.

`weights/box.onnx` is the graph alone, a few kilobytes; it is given the weights that are in memory anyway. There is one
more, for processors that multiply int8 without overflow (VNNI), which are twice as fast with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from inlay.encoders.box_weights import Weights, graph_weights
from inlay.errors import MissingExtra

__all__ = ["Graph"]

TOKENS = 1024  # that go through together: their activations stay in a core's cache


class Graph:
    """Called like the layers in numpy: token numbers of texts to the mean of the last layer's rows.

    Args:
        weights: of the box.
        threads: how many; None takes as many as there are processors.
    """

    def __init__(self, weights: Weights, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("the box through onnxruntime", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads side by side on different texts: within a matrix this small they would wait for each other.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._threads = threads or _processors()
        signed = True in weights.graphs and _multiplies_int8()
        values = graph_weights(weights, signed=signed)
        # Held as long as the session, which reads them where they are.
        self._held = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in values.values()]
        options.add_external_initializers(list(values), self._held)
        self._session: Any = onnxruntime.InferenceSession(
            weights.graphs[signed], options, providers=["CPUExecutionProvider"]
        )
        codes, self._scales = weights.table("table")
        self._codes = (codes + 8).astype(np.uint8)

    def __call__(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Float32 [texts, dim]. Texts of equal length, next to each other, go through together: nothing is padded."""
        groups = list(_groups([len(ids) for ids in tokens]))
        if len(groups) == 1 or self._threads == 1:
            return np.concatenate([self._means(tokens[low:high]) for low, high in groups])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(lambda group: self._means(tokens[group[0] : group[1]]), groups)))

    def _means(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        ids = np.stack(tokens)
        feed = {"codes": self._codes[ids], "scales": self._scales[ids][..., None]}
        rows: np.ndarray = self._session.run(None, feed)[0]
        return rows


@cache
def _multiplies_int8() -> bool:
    """Whether the processor is known to have VNNI, in one of its forms."""
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(f" {flag} " in f"{known} ".replace("\n", " ") for flag in ("avx512_vnni", "avx_vnni"))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where groups of one length begin and end, each of at most `TOKENS` tokens."""
    low = 0
    while low < len(lengths):
        last = min(len(lengths), low + max(1, TOKENS // lengths[low]))
        high = low + 1
        while high < last and lengths[high] == lengths[low]:
            high += 1
        yield low, high
        low = high
