"""What turns rows into hashes: weights of n-grams for sparse rows, two layers for dense ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from inlay.kernels.mixing import mixed
from inlay.types import Sparse

__all__ = ["Layers", "Rows", "SparseRows", "Weights", "tensors"]

FASTER = 16.0  # a kind moves so much faster than one column: it says more of what was never seen

# (column of each number, row of each number, numbers, rows)
SparseRows: TypeAlias = tuple[Tensor, Tensor, Tensor, int]
Rows: TypeAlias = "Tensor | SparseRows"


def tensors(rows: np.ndarray | Sparse, which: np.ndarray) -> Rows:
    """Some rows as a head takes them."""
    part = rows[which]
    if isinstance(part, Sparse):
        row = np.repeat(np.arange(len(part)), np.diff(part.indptr))
        columns = torch.from_numpy(part.indices.astype(np.int64))
        return columns, torch.from_numpy(row), torch.from_numpy(part.data.astype(np.float32)), len(part)
    return torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))


class Weights(nn.Module):
    """A learnt weight for each column of sparse rows; then columns fall, with a sign each, into `out` buckets.

    Each kind of columns has a weight too, which counts for what was never seen: that codes matter holds for new codes.

    The buckets are a random projection that keeps dot products (feature hashing, arXiv 0902.2206), so before anything
    is learnt hashes are as near as rows are. A weight is the exponential of what is learnt and so never changes sign.
    """

    bucket: Tensor
    sign: Tensor

    kind: Tensor

    def __init__(self, kinds: Sequence[int], out: int) -> None:
        super().__init__()
        width = sum(kinds)
        hashed = mixed(np.arange(width))
        self.out = out
        self.logarithms = nn.Parameter(torch.zeros(width))
        self.of_kinds = nn.Parameter(torch.zeros(len(kinds)))
        which = np.repeat(np.arange(len(kinds)), kinds)
        self.register_buffer("kind", torch.from_numpy(which), persistent=False)
        self.register_buffer("bucket", torch.from_numpy((hashed % np.uint64(out)).astype(np.int64)), persistent=False)
        sign = np.where(hashed >> np.uint64(63), -1, 1).astype(np.float32)
        self.register_buffer("sign", torch.from_numpy(sign), persistent=False)

    def forward(self, rows: SparseRows) -> Tensor:
        columns, row, data, count = rows
        logarithms = self.logarithms[columns] + FASTER * self.of_kinds[self.kind[columns]]
        values = data * self.sign[columns] * torch.exp(logarithms)
        cells = row * self.out + self.bucket[columns]
        return torch.zeros(count * self.out).index_add(0, cells, values).view(count, self.out)


class Layers(nn.Module):
    """Two layers on dense rows, beside a fixed random projection of them, which keeps their distances.

    A language model that is fine-tuned knows what is near before it learns. New layers do not, so they learn what to
    add to a projection that does.
    """

    projection: Tensor

    def __init__(self, width: int, out: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, out)
        self.register_buffer("projection", torch.randn(width, out) / out**0.5)

    def forward(self, rows: Tensor) -> Tensor:
        learnt: Tensor = self.second(torch.relu(self.first(rows)))
        return learnt + rows @ self.projection
