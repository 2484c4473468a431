"""Compositional embeddings: a vector of its own for every id, from a few small tables ("the QR trick").

Shi, Mudigere, Naumov, Yang: "Compositional Embeddings Using Complementary Partitions for Memory-Efficient
Recommendation Systems" (arXiv 1909.02107, KDD 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.budget import checked_budget, largest_within
from inlay.tables.compiled import DenseRows
from inlay.tables.partitions import cell_codes, coprime_sizes, radix_codes, radix_sizes, residues, root
from inlay.tables.permutation import permuted
from inlay.tables.table import Compiled, Frozen, Table

__all__ = ["Compositional"]

Scheme = Literal["qr", "mixed_radix", "crt", "naive", "semantic"]
Op = Literal["mul", "add", "concat", "path"]
Init = Literal["uniform", "around_one", "legacy"]

_SCHEMES = ("qr", "mixed_radix", "crt", "naive", "semantic")
_OPS = ("mul", "add", "concat", "path")
_INITS = ("uniform", "around_one", "legacy")


class Compositional(Table):
    """Row = ω(W₁[p₁(id)], …, W_k[p_k(id)]) over complementary partitions p₁ … p_k of the ids.

    Schemes: `qr` (`id div c` and `id mod c`), `mixed_radix` (k digits), `crt` (k residues of coprime sizes), `semantic`
    (columns of the user, through `Compositional.semantic`), `naive` (one plain table).

    A composition that would not be smaller than the plain table, or a table of at most `min_rows` keys, becomes
    `naive`: `scheme` says what was made, `settings` what was asked.

    Weight decay acts on every factor of a product, so it shrinks rows quadratically: set it lower than for a plain
    table. A row of the small table gets about rows / c times the updates of one of the large: Adagrad and Adam even
    that out, plain SGD does not.

    Args:
        rows: number of keys.
        dim: width.
        scheme: how ids fall into blocks.
        collisions: c of `qr`: ids that share a quotient row; the table gets about c times smaller. None takes √rows,
            the smallest.
        k: partitions of `mixed_radix` and `crt`.
        sizes: blocks of each partition, in place of `collisions` or `k`.
        op: `mul`, `add`, `concat` (each table has its share of the width) or `path` (the first table's row goes through
            a small network, D → hidden → D with ReLU, that the block picks, for each further partition).
        init: `uniform` in ±scale for each table (wider for a product of more than two, which would vanish: rows get the
            spread that a product of two has); `around_one`, for products: the first table so, the others in
            1 ± scale; `legacy`: in [√(1 / rows), 1], which is what the public code does by passing one bound of two.
        scale: 0.05 was measured best for products of two.
        hidden: of `path`; None takes `dim`.
        permute: shuffle ids first, by a seeded bijection that takes no memory: neighbours, which are of similar
            frequency in a `KeySpace`, then share no row.
        min_rows: keys up to which a plain table is kept.
        seed: of the shuffle.
        sparse: give sparse gradients, for `RowAdam`.
    """

    codes: Tensor | None

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        scheme: Scheme = "qr",
        collisions: int | None = 4,
        k: int = 2,
        sizes: Sequence[int] | None = None,
        op: Op = "mul",
        init: Init = "uniform",
        scale: float = 0.05,
        hidden: int | None = None,
        permute: bool = False,
        min_rows: int = 200,
        seed: int = 0,
        sparse: bool = False,
    ) -> None:
        super().__init__(
            rows, dim, scheme=scheme, collisions=collisions, k=k, sizes=None if sizes is None else list(sizes), op=op,
            init=init, scale=scale, hidden=hidden, permute=permute, min_rows=min_rows, seed=seed, sparse=sparse,
        )  # fmt: skip
        for what, given, known in (("scheme", scheme, _SCHEMES), ("op", op, _OPS), ("init", init, _INITS)):
            if given not in known:
                raise BadInput(f"{what} must be one of {', '.join(known)}, got {given!r}")
        if init == "around_one" and op != "mul":
            raise BadInput(f"init='around_one' makes factors near 1: it is for op='mul', not {op!r}")
        if not scale > 0:
            raise BadInput(f"scale must be above 0, got {scale}")
        if scheme == "semantic" and sizes is None:
            raise BadInput("semantic partitions are made of columns: use Compositional.semantic(columns, dim)")
        if scheme == "semantic" and permute:
            raise BadInput("permute would shuffle what the columns mean: leave it False for semantic partitions")
        self.hidden, self.op, self.permute, self.seed, self.sparse = hidden or dim, op, permute, seed, sparse
        self.sizes = _sizes(rows, scheme, collisions, k, sizes)
        self.scheme: Scheme = scheme
        if scheme != "semantic" and (rows <= min_rows or self._numbers(self.sizes) >= rows * dim):
            self.scheme, self.sizes = "naive", (rows,)
        if op == "concat" and len(self.sizes) > dim:
            raise BadInput(f"{len(self.sizes)} tables cannot share a width of {dim}")
        self.register_buffer(
            "codes",
            torch.zeros(rows, len(self.sizes), dtype=_smallest_int(self.sizes)) if scheme == "semantic" else None,
        )
        self._begin(init, scale)

    def _begin(self, init: Init, scale: float) -> None:
        """Make the tables and draw their first numbers."""
        bound = scale
        if self.op == "mul" and len(self.sizes) > 2:  # uniform in ±b has standard deviation b / √3
            bound = 3**0.5 * (scale / 3**0.5) ** (2 / len(self.sizes))
        tabled = self.sizes[:1] if self.op == "path" else self.sizes
        self.tables = nn.ParameterList()
        for i, (size, width) in enumerate(zip(tabled, self._widths(len(tabled)))):
            low, high = -bound, bound
            if init == "legacy":
                low, high = self.rows**-0.5, 1.0
            elif init == "around_one" and i > 0:
                low, high = 1 - scale, 1 + scale
            self.tables.append(nn.Parameter(torch.empty(size, width).uniform_(low, high)))
        rest = self.sizes[1:] if self.op == "path" else ()
        self.paths = nn.ModuleList(_Networks(size, self.dim, self.hidden) for size in rest)

    def _widths(self, tables: int) -> list[int]:
        if self.op != "concat":
            return [self.dim] * tables
        return [self.dim // tables] * (tables - 1) + [self.dim - self.dim // tables * (tables - 1)]

    def _numbers(self, sizes: Sequence[int]) -> int:
        """Numbers that tables of these sizes hold."""
        if self.op == "path":
            network = 2 * self.dim * self.hidden + self.hidden + self.dim
            return sizes[0] * self.dim + sum(sizes[1:]) * network
        return sum(size * width for size, width in zip(sizes, self._widths(len(sizes))))

    @classmethod
    def semantic(cls, columns: Sequence[Sequence[Any]], dim: int, **settings: Any) -> Self:
        """Partitions by columns of the user, and one that numbers the ids inside each cell of equal values.

        Codes are kept in the smallest whole numbers that hold them, and count. Built as asked, whatever the size: what
        it shares, it shares on purpose.

        Args:
            columns: each a value for every id (brand, colour, year).
            dim: width.
            settings: of the constructor.
        """
        codes, sizes = cell_codes(columns)
        made = cls(len(codes), dim, scheme="semantic", sizes=sizes, **settings)
        assert made.codes is not None
        made.codes.copy_(torch.from_numpy(codes))
        return made

    @classmethod
    def from_budget(
        cls, rows: int, dim: int, budget_bytes: float, *, scheme: Scheme = "qr", k: int = 2, **settings: Any
    ) -> Self:
        """The largest composition within a budget; the plain table where that fits.

        The knob is c for `qr`, and the size of the first partition otherwise (the others share the rest evenly). The
        budget decides, so `min_rows` is 0.
        """
        if scheme not in ("qr", "mixed_radix", "crt"):
            raise BadInput(f"a budget sets the sizes of qr, mixed_radix or crt, not of {scheme!r}")
        settings = {"min_rows": 0, **settings}
        if rows * dim * 4 <= checked_budget(budget_bytes):
            return cls(rows, dim, scheme="naive", **settings)
        # A tiny table of the same settings knows how many numbers sizes make.
        count = cls(1, dim, scheme="naive", **settings)._numbers
        fewest = root(rows, 2 if scheme == "qr" else k)
        if scheme == "qr":
            # Fewer collisions, down to two, are a larger table: size s stands for c = fewest + 1 - s.
            size = largest_within(
                lambda s: 4 * count(_sizes(rows, "qr", fewest + 1 - s, k, None)), budget_bytes, 1, max(1, fewest - 1),
                "qr size",
            )  # fmt: skip
            return cls(rows, dim, scheme="qr", collisions=fewest + 1 - size, **settings)
        solve = radix_sizes if scheme == "mixed_radix" else coprime_sizes
        first = largest_within(
            lambda m: 4 * count(solve(rows, k, m)), budget_bytes, fewest, max(fewest, -(-rows // 2)),
            "size of the first partition",
        )  # fmt: skip
        return cls(rows, dim, scheme=scheme, k=k, sizes=solve(rows, k, first), **settings)

    def blocks(self, ids: Tensor) -> list[Tensor]:
        """Block of ids [...] in each partition, int64 [...] each."""
        if self.permute:
            ids = permuted(ids, self.rows, self.seed)
        if self.scheme == "naive":
            return [ids.long()]
        if self.codes is not None:
            return list(self.codes[ids].long().unbind(-1))
        if self.scheme == "qr":
            return [ids // self.sizes[1], ids % self.sizes[1]]
        return radix_codes(ids, self.sizes) if self.scheme == "mixed_radix" else residues(ids, self.sizes)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        blocks = self.blocks(ids)
        found = [F.embedding(at, table, sparse=self.sparse) for at, table in zip(blocks, self.tables)]
        if self.op == "concat":
            return torch.cat(found, -1)
        row = found[0]
        for other in found[1:]:
            row = row * other if self.op == "mul" else row + other
        for at, networks in zip(blocks[1:], self.paths):
            row = networks(row, at)
        return row

    def compiled(self) -> Compiled:
        """The same tables without gradients; rows are exactly the same."""
        if self.scheme == "naive" and not self.permute:
            return DenseRows.of(self.tables[0].detach())
        return Frozen(self)

    @torch.no_grad()
    def is_complementary(self) -> bool:
        """Whether no two ids fall into the same block of every partition."""
        number = torch.zeros(self.rows, dtype=torch.long)
        if prod(self.sizes) >= 1 << 62:
            return len(torch.unique(torch.stack(self.blocks(torch.arange(self.rows)), 1), dim=0)) == self.rows
        for size, at in zip(self.sizes, self.blocks(torch.arange(self.rows))):
            number = number * size + at
        return len(torch.unique(number)) == self.rows

    def is_unique(self) -> bool:
        """Whether all rows are different, to the last bit. Reads every row."""
        rows = np.ascontiguousarray(self.materialize().numpy() + 0.0)  # −0 is 0
        return len(np.unique(rows.view(np.dtype((np.void, rows.itemsize * self.dim))))) == self.rows


class _Networks(nn.Module):
    """One network D → hidden → D for each block: W₂ relu(W₁ z + b₁) + b₂."""

    def __init__(self, count: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(count, dim, hidden).uniform_(-(dim**-0.5), dim**-0.5))
        self.b1 = nn.Parameter(torch.empty(count, hidden).uniform_(-(dim**-0.5), dim**-0.5))
        self.w2 = nn.Parameter(torch.empty(count, hidden, dim).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.b2 = nn.Parameter(torch.empty(count, dim).uniform_(-(hidden**-0.5), hidden**-0.5))

    def forward(self, z: Tensor, at: Tensor) -> Tensor:
        """[..., D] of z [..., D] through the network of each block [...]."""
        flat, where = z.reshape(-1, z.shape[-1]), at.reshape(-1)
        # Rows are grouped by block: gathering a network for every row would copy 2·D·hidden numbers each.
        order = torch.argsort(where, stable=True)
        present, lengths = torch.unique_consecutive(where[order], return_counts=True)
        done = []
        for block, part in zip(present.tolist(), flat[order].split(lengths.tolist())):
            done.append(torch.relu(part @ self.w1[block] + self.b1[block]) @ self.w2[block] + self.b2[block])
        return torch.cat(done)[torch.argsort(order)].view_as(z) if done else z


def _sizes(rows: int, scheme: Scheme, collisions: int | None, k: int, sizes: Sequence[int] | None) -> tuple[int, ...]:
    """Blocks of each partition, checked to tell all rows apart."""
    if sizes is not None:
        sizes = tuple(int(size) for size in sizes)
        if not sizes or min(sizes) < 1:
            raise BadInput(f"sizes must be at least 1 each, got {sizes}")
        if prod(sizes) < rows:
            raise BadInput(f"sizes {sizes} tell {prod(sizes):,} ids apart, and there are {rows:,}; make one larger")
        if scheme == "crt" and any(gcd(a, b) > 1 for i, a in enumerate(sizes) for b in sizes[:i]):
            raise BadInput(f"sizes of crt must be coprime, pair by pair; got {sizes}")
        if (scheme == "naive" and sizes != (rows,)) or (scheme == "qr" and len(sizes) != 2):
            raise BadInput(f"scheme {scheme!r} cannot have sizes {sizes}")
        return sizes
    if scheme == "naive":
        return (rows,)
    if scheme == "qr":
        c = root(rows, 2) if collisions is None else collisions
        if isinstance(c, bool) or not isinstance(c, int) or c < 1:
            raise BadInput(f"collisions must be a whole number of at least 1, or None; got {collisions!r}")
        return (-(-rows // c), c)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise BadInput(f"k must be a whole number of at least 1, got {k!r}")
    return radix_sizes(rows, k) if scheme == "mixed_radix" else coprime_sizes(rows, k)


def _smallest_int(sizes: Sequence[int]) -> torch.dtype:
    most = max(sizes)
    return torch.uint8 if most <= 1 << 8 else torch.int16 if most <= 1 << 15 else torch.int32
