"""Rows by key: every way of storing more rows in fewer bytes, as parts that go wherever an `nn.Embedding` goes.

A `Table` learns; `table.compiled()` gives the form that is read, with every byte counted. `KeySpace` numbers the values
of fields, `PerField` puts a table behind each.

- `Full`: a row a key.
- what tables compile to: `DenseRows`, `CodedRows`, `SparseRows`, `Frozen`.

Everything here is torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlay.tables.compiled import CodedRows, DenseRows, SparseRows
    from inlay.tables.full import Full
    from inlay.tables.keyspace import KeySpace
    from inlay.tables.per_field import CompiledFields, PerField
    from inlay.tables.table import Compiled, Frozen, Table

_HOMES = {
    "CodedRows": "compiled",
    "Compiled": "table",
    "CompiledFields": "per_field",
    "DenseRows": "compiled",
    "Frozen": "table",
    "Full": "full",
    "KeySpace": "keyspace",
    "PerField": "per_field",
    "SparseRows": "compiled",
    "Table": "table",
}

__all__ = [
    "CodedRows",
    "Compiled",
    "CompiledFields",
    "DenseRows",
    "Frozen",
    "Full",
    "KeySpace",
    "PerField",
    "SparseRows",
    "Table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        from inlay.errors import MissingExtra

        raise MissingExtra("embedding tables", "train") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
