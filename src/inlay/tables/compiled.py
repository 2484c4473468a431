"""What tables compile to: rows as numbers, as codes of centres, or as their few non-zeros.

Each is made by `of(...)` from tensors; the constructor alone takes sizes, so that a file can be read back into it.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.tables.table import Compiled

__all__ = ["CodedRows", "CoordinateRows", "DenseRows", "SparseRows", "sparse", "sparse_count"]

_DTYPES = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8,
    "int16": torch.int16,
}  # fmt: skip


class DenseRows(Compiled):
    """Every number of every row.

    Integers are worth `scale` each, one a table or one a row. `index` (int32 [rows]) says which kept row a key
    reads, where keys share rows or have none (-1: a row of zeros); its bytes count.

    Args:
        rows: keys.
        dim: width.
        dtype: float32, float16, bfloat16, int8 or int16.
        kept: rows stored, if not one a key.
        scales: of integers, how many: 0, 1 or `kept`.
    """

    values: Tensor
    index: Tensor
    scale: Tensor

    def __init__(self, rows: int, dim: int, *, dtype: str = "float32", kept: int | None = None, scales: int = 0):
        super().__init__(rows, dim, dtype=dtype, kept=kept, scales=scales)
        if dtype not in _DTYPES:
            raise BadInput(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        self.register_buffer("values", torch.zeros(rows if kept is None else kept, dim, dtype=_DTYPES[dtype]))
        self.register_buffer("scale", torch.ones(scales) if scales else None)
        self.register_buffer("index", None if kept is None else torch.zeros(rows, dtype=torch.int32))

    @classmethod
    def of(cls, values: Tensor, *, scale: Tensor | None = None, index: Tensor | None = None) -> Self:
        """Of values [kept, dim], scale [1] or [kept] for integers, and index [rows]."""
        name = str(values.dtype).removeprefix("torch.")
        rows = len(values) if index is None else len(index)
        made = cls(
            rows, values.shape[1], dtype=name, kept=None if index is None else len(values),
            scales=0 if scale is None else scale.numel(),
        )  # fmt: skip
        made.values.copy_(values)
        if scale is not None:
            made.scale.copy_(scale.flatten())
        if index is not None:
            made.index.copy_(index)
        return made

    def lookup(self, ids: Tensor) -> Tensor:
        """Float32 rows [..., dim]."""
        at = ids if self.index is None else self.index[ids].long()
        gone = None if self.index is None else at < 0
        at = at if gone is None else at.clamp(min=0)
        found = self.values[at].float() if len(self.values) else torch.zeros(*ids.shape, self.dim)
        if self.scale is not None:
            found = found * (self.scale if self.scale.numel() == 1 else self.scale[at][..., None])
        return found if gone is None else found.masked_fill(gone[..., None], 0.0)


class CodedRows(Compiled):
    """Rows cut into parts, each one of a part's centres: product quantisation.

    Args:
        rows: keys.
        dim: width, a multiple of `parts`.
        parts: codes of a row.
        centres: choices of each part; codes take the fewest bits that tell them apart, packed.
    """

    codes: Tensor
    centre: Tensor

    def __init__(self, rows: int, dim: int, *, parts: int, centres: int) -> None:
        super().__init__(rows, dim, parts=parts, centres=centres)
        if parts < 1 or dim % parts or not 1 <= centres <= 1 << 16:
            raise BadInput(f"parts must divide {dim} and centres be from 1 to 65536, got {parts} and {centres}")
        self.bits = max(1, (centres - 1).bit_length())
        self.register_buffer("codes", torch.zeros(rows, -(-parts * self.bits // 8), dtype=torch.uint8))
        self.register_buffer("centre", torch.zeros(parts, centres, dim // parts))

    @classmethod
    def of(cls, codes: Tensor, centre: Tensor) -> Self:
        """Of codes int [rows, parts] and centres [parts, count, width]."""
        rows, parts = codes.shape
        made = cls(rows, parts * centre.shape[2], parts=parts, centres=centre.shape[1])
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < centre.shape[1]:
            raise BadInput(f"codes must lie in [0, {centre.shape[1]})")
        bits = (codes.long()[..., None] >> torch.arange(made.bits)) & 1  # [rows, parts, bits], lowest first
        flat = torch.zeros(rows, made.codes.shape[1] * 8, dtype=torch.long)
        flat[:, : parts * made.bits] = bits.flatten(1)
        made.codes.copy_((flat.view(rows, -1, 8) << torch.arange(8)).sum(-1))
        made.centre.copy_(centre)
        return made

    def unpacked(self, ids: Tensor) -> Tensor:
        """Codes int64 [..., parts] of ids [...]."""
        parts = self.settings["parts"]
        packed = self.codes[ids].long()
        if self.bits == 8:
            return packed
        bits = (packed[..., None] >> torch.arange(8)) & 1
        bits = bits.flatten(-2)[..., : parts * self.bits].unflatten(-1, (parts, self.bits))
        return (bits << torch.arange(self.bits)).sum(-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Float32 rows [..., dim]."""
        return self.centre[torch.arange(len(self.centre)), self.unpacked(ids)].flatten(-2)


class SparseRows(Compiled):
    """Only the numbers that are not zero, in compressed sparse row form: int32 offsets, int16 columns.

    Args:
        rows: keys.
        dim: width, below 32,768.
        count: numbers kept in all.
    """

    indptr: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, rows: int, dim: int, *, count: int) -> None:
        super().__init__(rows, dim, count=count)
        if dim >= 1 << 15 or count >= 1 << 31:
            raise BadInput(f"sparse rows must be below 32,768 wide and hold below 2**31 numbers, got {dim} and {count}")
        self.register_buffer("indptr", torch.zeros(rows + 1, dtype=torch.int32))
        self.register_buffer("columns", torch.zeros(count, dtype=torch.int16))
        self.register_buffer("values", torch.zeros(count))

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Of dense rows [rows, dim]."""
        at = rows.nonzero()
        made = cls(rows.shape[0], rows.shape[1], count=len(at))
        made.indptr[1:] = torch.bincount(at[:, 0], minlength=len(rows)).cumsum(0)
        made.columns.copy_(at[:, 1])
        made.values.copy_(rows[at[:, 0], at[:, 1]])
        return made

    def lookup(self, ids: Tensor) -> Tensor:
        """Float32 rows [..., dim]."""
        flat = ids.flatten()
        return _scatter(self.indptr[flat].long(), self.indptr[flat + 1].long(), self, ids)


class CoordinateRows(Compiled):
    """Only the numbers that are not zero, each with its row (int32) and column (int16): for less than one a row.

    Args:
        rows: keys.
        dim: width, below 32,768.
        count: numbers kept in all.
    """

    row: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, rows: int, dim: int, *, count: int) -> None:
        super().__init__(rows, dim, count=count)
        if dim >= 1 << 15 or rows >= 1 << 31:
            raise BadInput(f"sparse rows must be below 32,768 wide and below 2**31 in number, got {dim} and {rows}")
        self.register_buffer("row", torch.zeros(count, dtype=torch.int32))
        self.register_buffer("columns", torch.zeros(count, dtype=torch.int16))
        self.register_buffer("values", torch.zeros(count))

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Of dense rows [rows, dim]."""
        at = rows.nonzero()
        made = cls(rows.shape[0], rows.shape[1], count=len(at))
        made.row.copy_(at[:, 0])
        made.columns.copy_(at[:, 1])
        made.values.copy_(rows[at[:, 0], at[:, 1]])
        return made

    def lookup(self, ids: Tensor) -> Tensor:
        """Float32 rows [..., dim]."""
        flat = ids.flatten().int()
        starts = torch.searchsorted(self.row, flat)
        return _scatter(starts, torch.searchsorted(self.row, flat, right=True), self, ids)


def _scatter(starts: Tensor, stops: Tensor, held: CoordinateRows | SparseRows, ids: Tensor) -> Tensor:
    """Dense rows [..., dim] of ids whose numbers lie at [start, stop) of a sparse table."""
    lengths = stops - starts
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    before = torch.cumsum(lengths, 0) - lengths
    at = torch.arange(len(row)) - before[row] + starts[row]
    found = torch.zeros(len(lengths), held.dim)
    found[row, held.columns[at].long()] = held.values[at]
    return found.view(*ids.shape, held.dim)


def sparse(rows: Tensor) -> SparseRows | CoordinateRows:
    """The smaller of both sparse forms of dense rows [rows, dim]: coordinates below one number a row."""
    kind = CoordinateRows if int(rows.count_nonzero()) <= len(rows) else SparseRows
    return kind.of(rows)


def sparse_count(rows: int, budget_bytes: float) -> int:
    """How many numbers fit into a budget in `sparse` form: 6 bytes each and 4 a row, or 10 each."""
    return max(int((budget_bytes - 4 * (rows + 1)) // 6), min(int(budget_bytes // 10), rows + 1), 0)
