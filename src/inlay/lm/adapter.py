"""A trained square map behind a frozen table: what a table that means nothing can be turned into by one matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.tables.compiled import DenseRows
from inlay.tables.table import Rows

__all__ = ["Adapter"]


class Adapter(nn.Module):
    """Row = table[id] · mapᵀ. The table stays as it is, the map [dim, dim] begins as the identity and learns.

    Args:
        table: ids → rows, without parameters (a `DenseRows`, say).

    Source: the control of arXiv 2507.04886, with random rows in place of visual ones.
    """

    def __init__(self, table: Rows) -> None:
        super().__init__()
        if not isinstance(table, Rows):
            raise BadInput(f"an adapter stands behind a table, got {type(table).__name__}")
        if any(parameter.requires_grad for parameter in table.parameters()):
            raise BadInput(f"the table {type(table).__name__} learns; give its compiled() form")
        self.table, self.rows, self.dim = table, table.rows, table.dim
        self.map = nn.Linear(table.dim, table.dim, bias=False)
        nn.init.eye_(self.map.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., dim] of ids [...]."""
        mapped: Tensor = self.map(self.table(ids))
        return mapped

    @torch.no_grad()
    def compiled(self) -> DenseRows:
        """The rows the map makes, as a table: the same but for float32 rounding, and the map is no longer needed."""
        return DenseRows.of(self.table.materialize() @ self.map.weight.T)
