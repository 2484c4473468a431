"""What stands in the place of a STEM part's table when its rows are in a store.

Source: the offload runtime of STEM (arXiv 2601.10639): a layer sees places in a buffer, never ids of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from inlay.tables.row_store import RowStore
from inlay.tables.table import Rows

__all__ = ["OffloadedRows", "Shelf"]


@dataclass
class Shelf:
    """What the tables of all layers read: the store, and the rows staged for the ids that are being computed.

    `direct` counts rows read from the store itself, past the buffers.
    """

    store: RowStore
    ids: Tensor | None = None
    rows: tuple[Tensor, ...] = ()
    inverse: Tensor | None = None
    direct: int = 0


class OffloadedRows(Rows):
    """One layer's share of a store, in the place of a STEM part's table.

    It gives the staged rows to the very ids they were staged for, and reads the store for any others: slower, and
    without gradients, but never wrong.

    Args:
        shelf: shared by all layers.
        layer: which of the store's.
        dtype: of the rows it gives.
    """

    def __init__(self, shelf: Shelf, layer: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(shelf.store.nrows, shelf.store.width)
        self.settings = {"store": shelf.store, "layer": layer}
        self.shelf, self.layer, self.dtype = shelf, layer, dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., dim] of ids [...]."""
        shelf = self.shelf
        if ids is not shelf.ids:
            return super().forward(ids)
        assert shelf.inverse is not None
        return F.embedding(shelf.inverse, shelf.rows[self.layer]).to(self.dtype)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim], read from the store."""
        self.shelf.direct += ids.numel()
        rows = self.shelf.store.rows(ids.cpu().numpy(), layer=self.layer)
        return torch.from_numpy(rows).to(ids.device, self.dtype)
