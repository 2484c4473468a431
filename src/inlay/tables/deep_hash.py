"""DHE: no table at all. Many hashes of the id are the input of a network whose output is the row.

Kang, Cheng, Yao, Yi, Chen, Hong, Chi: "Learning to Embed Categorical Features without Embedding Tables for
Recommendation" (arXiv 2010.10784, KDD 2021).
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.tables.budget import largest_within
from inlay.tables.hashing import buckets, salted
from inlay.tables.keyspace import KeySpace
from inlay.tables.table import Compiled, Frozen, Table

__all__ = ["DeepHash"]

LAYERS = 5


class DeepHash(Table):
    """`hashes` hashes of the id, scaled to numbers, through five layers (linear, BatchNorm, Mish) and a linear one.

    The paper hashes by ((a·x + b) mod p) mod m; here it is the mixing hash of the house, whose hashes are independent.
    The code of an id is computed when it is looked up, and is kept nowhere: lookups take time instead of memory.

    Args:
        rows: number of keys.
        dim: width.
        width: of the hidden layers.
        hashes: k; even for `normal`.
        buckets: m, values of each hash.
        encoding: `uniform` in [−1, 1], or `normal`: pairs of hashes through Box and Muller's transform.
        norm: BatchNorm. The compiled form has none: it is part of the linear layers there.
        seed: of the hashes.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        width: int,
        hashes: int = 1024,
        buckets: int = 1_000_000,
        encoding: Literal["uniform", "normal"] = "uniform",
        norm: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            rows, dim, width=width, hashes=hashes, buckets=buckets, encoding=encoding, norm=norm, seed=seed
        )
        for what, number, least in (("width", width, 1), ("hashes", hashes, 1), ("buckets", buckets, 2)):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise BadInput(f"{what} must be a whole number of at least {least}, got {number!r}")
        if encoding not in ("uniform", "normal"):
            raise BadInput(f"encoding must be 'uniform' or 'normal', got {encoding!r}")
        if encoding == "normal" and hashes % 2:
            raise BadInput(f"normal encodings are made of pairs of hashes, so hashes must be even; got {hashes}")
        self.buckets, self.encoding = buckets, encoding
        self.salts = range(seed * hashes, (seed + 1) * hashes)
        layers: list[nn.Module] = []
        for inside in (hashes, *[width] * (LAYERS - 1)):
            layers += [nn.Linear(inside, width), *([nn.BatchNorm1d(width)] if norm else []), nn.Mish()]
        self.network = nn.Sequential(*layers, nn.Linear(width, dim))

    @classmethod
    def from_budget(cls, space: KeySpace | int, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """The widest network whose compiled form fits, one for all fields."""
        rows = space.rows if isinstance(space, KeySpace) else space
        k = int(settings.get("hashes", 1024))

        def nbytes(width: int) -> float:
            return 4 * ((k + 1) * width + (LAYERS - 1) * width * (width + 1) + (width + 1) * dim)

        return cls(rows, dim, width=largest_within(nbytes, budget_bytes, 1, 1 << 14, "width"), **settings)

    def encode(self, ids: Tensor) -> Tensor:
        """Codes float32 [..., hashes] of ids [...]."""
        found = buckets(salted(ids, self.salts), self.buckets)
        if self.encoding == "uniform":
            return found.float() * (2 / (self.buckets - 1)) - 1
        first, second = found.unflatten(-1, (-1, 2)).unbind(-1)
        far = (-2 * ((first + 1).float() / self.buckets).log()).sqrt()  # 1 … m over m: never the logarithm of 0
        turn = second.float() * (2 * math.pi / self.buckets)
        return torch.cat([far * turn.cos(), far * turn.sin()], -1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]. In training, the statistics of BatchNorm are those of the rows read, repeats counted."""
        flat = ids.flatten()
        unique, inverse = flat.unique(return_inverse=True)
        code = self.encode(unique)
        first = self.network[0](code)[inverse]  # the widest layer once for each distinct id
        rows = first
        for layer in list(self.network)[1:]:
            if isinstance(layer, nn.BatchNorm1d) and layer.training and len(rows) < 2:  # no spread to divide by
                rows = nn.functional.batch_norm(
                    rows, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
                )
            else:
                rows = layer(rows)
        return rows.view(*ids.shape, self.dim)

    @torch.no_grad()
    def compiled(self) -> Compiled:
        """The network with BatchNorm folded into its linear layers: the same rows but for float32 rounding (1e-5)."""
        if not self.settings["norm"]:
            return Frozen(self)
        small = type(self)(**{**self.settings, "norm": False})
        small.trained_on = self.trained_on
        into = [layer for layer in small.network if isinstance(layer, nn.Linear)]
        own = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        norms = [layer for layer in self.network if isinstance(layer, nn.BatchNorm1d)]
        for to, linear, norm in zip(into, own, [*norms, None]):
            gain, shift = torch.ones(len(linear.bias)), torch.zeros(len(linear.bias))
            if norm is not None:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                shift = norm.bias - norm.running_mean * gain
            to.weight.copy_(linear.weight * gain[:, None])
            to.bias.copy_(linear.bias * gain + shift)
        return Frozen(small)
