"""One table a field, behind the ids of a `KeySpace`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.tables.table import Compiled, Rows, Table

__all__ = ["CompiledFields", "PerField"]


class _Fields(Rows):
    """Column f of the ids [..., fields] is read from part f."""

    tables: nn.ModuleList

    def _hold(self, tables: Sequence[Rows]) -> None:
        self.settings, self.tables, self.starts = {}, nn.ModuleList(tables), [0]
        for table in tables[:-1]:
            self.starts.append(self.starts[-1] + table.rows)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., fields, dim] of ids [..., fields], each column in its own field's range."""
        if ids.ndim < 1 or ids.shape[-1] != len(self.tables):
            raise BadInput(f"ids must be [..., {len(self.tables)}], a column a field; got {list(ids.shape)}")
        parts = [table(ids[..., f] - start) for f, (table, start) in enumerate(zip(self.tables, self.starts))]
        return torch.stack(parts, -2)

    def materialize(self, ids: Tensor | None = None, batch: int = 1 << 16) -> Tensor:
        """Float32 rows [n, dim] of ids in any order, whatever their field."""
        wanted = torch.arange(self.rows) if ids is None else torch.as_tensor(ids).flatten()
        found = torch.zeros(len(wanted), self.dim)
        for table, start in zip(self.parts(), self.starts):
            mine = (wanted >= start) & (wanted < start + table.rows)
            found[mine] = table.materialize(wanted[mine] - start, batch)
        return found

    def parts(self) -> list[Any]:
        """The fields' tables, in order."""
        return list(self.tables)

    @classmethod
    def assemble(cls, parts: list[Any], settings: dict[str, Any]) -> Self:
        """Of the fields' tables."""
        return cls(parts)  # type: ignore[arg-type, call-arg]


def _one_dim(tables: Sequence[Rows]) -> tuple[int, int]:
    if not tables or len({table.dim for table in tables}) != 1:
        raise BadInput(f"give at least one table, all of one dim; got dims {[table.dim for table in tables]}")
    return sum(table.rows for table in tables), tables[0].dim


class PerField(_Fields, Table):
    """Tables side by side: column f of the ids [..., fields] is read from table f.

    Args:
        tables: one a field, in the key space's order, all of one `dim`.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        super().__init__(*_one_dim(tables))
        self._hold(tables)

    def compiled(self) -> Compiled:
        """Each field's table compiled."""
        return CompiledFields([table.compiled() for table in self.parts()])

    @property
    def train_nbytes(self) -> int:
        """Of all fields."""
        return sum(table.train_nbytes for table in self.parts())

    def penalty(self) -> Tensor:
        """Sum over the fields."""
        return torch.stack([table.penalty() for table in self.parts()]).sum()

    def after_step(self) -> None:
        """Of every field."""
        for table in self.parts():
            table.after_step()


class CompiledFields(_Fields, Compiled):
    """What `PerField` compiles to."""

    def __init__(self, tables: Sequence[Compiled]) -> None:
        super().__init__(*_one_dim(tables))
        self._hold(tables)
