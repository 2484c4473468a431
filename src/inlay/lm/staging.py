"""Where the rows of a batch stand while a decoder reads them: in host memory, or on a GPU before they are needed.

On the host a fetched batch is read where it lies. For a GPU there are two page-locked host buffers and two device
buffers, filled in turn by a stream of their own, so that one copy runs beside the forward pass that reads the other.
Events keep the order: a forward pass waits for its copy, a copy for the forward pass that read its buffer last, and
the host for the copy that left its page-locked one.

Source: the offload runtime of STEM (arXiv 2601.10639).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["DeviceStaging", "HostStaging", "Staged"]


class Staged(NamedTuple):
    """Rows of a batch, where the decoder is.

    Attributes:
        rows: [layers, u, width].
        inverse: int64 of the shape of the ids, the place of each among the u.
        turn: which of two buffers; 0 where there is one.
    """

    rows: Tensor
    inverse: Tensor
    turn: int = 0


class HostStaging:
    """Reads a batch where the prefetcher laid it; valid until the next one is taken."""

    def place(self, rows: np.ndarray, inverse: np.ndarray) -> Staged:
        """Rows float32 [layers, u, width] and inverse int64, neither copied."""
        return Staged(torch.from_numpy(rows), torch.from_numpy(inverse))

    def begin(self, staged: Staged) -> None:
        """A forward pass is about to read them."""

    def end(self, staged: Staged) -> None:
        """It has been launched."""


class DeviceStaging:
    """Two page-locked buffers, two on the device, and a copy stream.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.turn = device, 1
        self._stream: Any = torch.cuda.Stream(device)
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._read = [torch.cuda.Event() for _ in range(2)]
        self._host = [(torch.empty(0), torch.empty(0, dtype=torch.long)) for _ in range(2)]
        self._there = [(torch.empty(0), torch.empty(0, dtype=torch.long)) for _ in range(2)]

    def place(self, rows: np.ndarray, inverse: np.ndarray) -> Staged:
        """Begin to copy rows float32 [layers, u, width] and inverse int64; the arrays are free when this returns."""
        self.turn = turn = 1 - self.turn
        self._copied[turn].synchronize()  # the copy that last left this page-locked buffer
        given = torch.from_numpy(rows), torch.from_numpy(inverse)
        for kind in range(2):
            self._reserve(turn, kind, given[kind])
        staged = []
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._read[turn])  # the forward pass that last read this device buffer
            for kind, source in enumerate(given):
                held = self._host[turn][kind][: source.numel()].view(source.shape)
                held.copy_(source)
                there = self._there[turn][kind][: source.numel()].view(source.shape)
                staged.append(there.copy_(held, non_blocking=True))
            self._copied[turn].record(self._stream)
        return Staged(staged[0], staged[1], turn)

    def begin(self, staged: Staged) -> None:
        """Let the stream that computes wait for the copy."""
        torch.cuda.current_stream(self.device).wait_event(self._copied[staged.turn])

    def end(self, staged: Staged) -> None:
        """Note when the forward pass will have read the buffer."""
        self._read[staged.turn].record(torch.cuda.current_stream(self.device))

    def _reserve(self, turn: int, kind: int, source: Tensor) -> None:
        """Make buffers at least as large as a batch; a half more than asked for, since batches differ little."""
        if self._host[turn][kind].numel() >= source.numel():
            return
        self._read[turn].synchronize()  # nothing on the device still reads what is given back
        size = source.numel() * 3 // 2
        host, there = list(self._host[turn]), list(self._there[turn])
        host[kind] = torch.empty(size, dtype=source.dtype, pin_memory=True)
        there[kind] = torch.empty(size, dtype=source.dtype, device=self.device)
        # Memory is given out in the order of the computing stream, which may not be done with its last owner.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self._host[turn], self._there[turn] = (host[0], host[1]), (there[0], there[1])
