"""TT-Rec: a table as a train of three small tensors, one for each digit of the id.

Yin, Acun, Liu, Wu: "TT-Rec: Tensor Train Compression for Deep Learning Recommendation Models" (arXiv 2101.11714, MLSys
2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.tables.budget import largest_within
from inlay.tables.full import Full
from inlay.tables.keyspace import KeySpace
from inlay.tables.partitions import radix_codes, radix_sizes
from inlay.tables.per_field import PerField
from inlay.tables.staged import sizes_of
from inlay.tables.table import Table

__all__ = ["TensorTrain", "three_factors"]

TAIL = 2.0  # draws nearer to 0 than this many standard deviations are thrown away


class TensorTrain(Table):
    """Row = G₁[i₁] · G₂[i₂] · G₃[i₃], flattened, with i₁, i₂, i₃ the digits of the id, lowest first.

    With rows ≤ n₁n₂n₃ and dim = d₁d₂d₃ the cores are [n₁, d₁·r], [n₂, r·d₂·r] and [n₃, r·d₃]: about
    rows^(1/3) · dim^(1/3) · r² numbers.

    Cores begin with normal draws of which only the tails |z| ≥ 2 are kept: the product of three ordinary normals is
    nearly all peak at 0, the product of three tails looks much more like a normal one.

    Args:
        rows: number of keys.
        dim: width.
        rank: r.
        scale: standard deviation of the numbers of a row at the start; None takes what the paper's code does, cores of
            standard deviation (3 / n₁n₂n₃)^(1/6) before the tails are cut, which is far wider: 23.9 · r / √rows.
    """

    def __init__(self, rows: int, dim: int, *, rank: int, scale: float | None = None) -> None:
        super().__init__(rows, dim, rank=rank, scale=scale)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise BadInput(f"rank must be a whole number of at least 1, got {rank!r}")
        if scale is not None and not scale > 0:
            raise BadInput(f"scale must be above 0, got {scale}")
        self.sizes, self.widths, self.rank = radix_sizes(rows, 3), three_factors(dim), rank
        (n1, n2, n3), (d1, d2, d3) = self.sizes, self.widths
        spread = (3 / math.prod(self.sizes)) ** (1 / 6)
        if scale is not None:  # an entry sums r² products of three tails
            spread = (scale / rank) ** (1 / 3) / _tail_deviation()
        self.first = nn.Parameter(_tails(n1, d1 * rank) * spread)
        self.second = nn.Parameter(_tails(n2, rank * d2 * rank) * spread)
        self.third = nn.Parameter(_tails(n3, rank * d3) * spread)

    @classmethod
    def from_budget(
        cls, space: KeySpace | Sequence[int], dim: int, budget_bytes: float, *, scale: float | None = None
    ) -> PerField:
        """A train a field, all of the highest rank that fits; fields that would grow keep a plain table.

        Args:
            space: a `KeySpace`, or ids of each field.
            dim: width.
            budget_bytes: of all fields together.
            scale: of trains and plain tables, see above; plain tables without it begin in ±√(1 / largest field).
        """
        sizes = sizes_of(space)

        def nbytes(rank: int) -> float:
            return sum(4 * min(n * dim, _numbers(n, dim, rank)) for n in sizes)

        rank = largest_within(nbytes, budget_bytes, 1, max(sizes) * dim, "rank")
        bound = max(sizes) ** -0.5
        return PerField([
            cls(n, dim, rank=rank, scale=scale)
            if _numbers(n, dim, rank) < n * dim
            else Full(n, dim, scale=bound if scale is None else scale * 3**0.5)
            for n in sizes
        ])  # fmt: skip

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        i1, i2, i3 = radix_codes(ids.flatten(), self.sizes)
        (d1, d2, d3), r = self.widths, self.rank
        left = self.first[i1].view(-1, d1, r) @ self.second[i2].view(-1, r, d2 * r)  # [n, d₁, d₂·r]
        rows = left.view(-1, d1 * d2, r) @ self.third[i3].view(-1, r, d3)
        return rows.view(*ids.shape, self.dim)


def three_factors(dim: int) -> tuple[int, int, int]:
    """Three whole numbers with this product, rising and as even as can be: 16 → 2, 2, 4."""
    best = (1, 1, dim)
    for a in range(1, round(dim ** (1 / 3)) + 1):
        if dim % a:
            continue
        rest = dim // a
        b = next(b for b in range(math.isqrt(rest), 0, -1) if rest % b == 0)
        found = tuple(sorted((a, b, rest // b)))
        if found[2] - found[0] < best[2] - best[0]:
            best = found  # type: ignore[assignment]
    return best


def _numbers(rows: int, dim: int, rank: int) -> int:
    (n1, n2, n3), (d1, d2, d3) = radix_sizes(rows, 3), three_factors(dim)
    return (n1 * d1 + n2 * d2 * rank + n3 * d3) * rank


def _tails(*shape: int) -> Tensor:
    """Standard normal draws given |z| ≥ 2, by inverting the distribution: what rejection gives, without the loop."""
    outside = math.erf(TAIL / 2**0.5)
    u = torch.rand(shape, dtype=torch.float64) * (1 - outside) + outside
    z = torch.erfinv(u.clamp(max=1 - 1e-15)) * 2**0.5
    sign = torch.randint(0, 2, shape) * 2 - 1
    return (z * sign).float()


def _tail_deviation() -> float:
    """Standard deviation of `_tails`: √(1 + 2 φ(2) / (1 − Φ(2)))."""
    density = math.exp(-(TAIL**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 + TAIL * density / (0.5 * math.erfc(TAIL / 2**0.5)))
