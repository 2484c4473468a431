"""A record as one text: "[COL] name [VAL] value" for each attribute, as language models for entity matching read it.

The form is that of Ditto (arXiv 2004.00584), which NLSHBlock (arXiv 2401.18064) takes over. A missing value is an empty
one, "[COL] price [VAL]": a transformer may learn that it is missing, and the order of attributes stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from inlay.errors import BadInput
from inlay.types import Encoder, Space, Sparse

__all__ = ["Record", "Serialised", "checked_columns", "checked_records", "columns_of", "serialise", "value_of"]

Record: TypeAlias = Mapping[str, Any]


def serialise(record: Record, columns: Sequence[str] | None = None) -> str:
    """The text of a record: its attributes in the order of `columns`, or in its own."""
    names = list(record) if columns is None else columns
    return " ".join(f"[COL] {name} [VAL] {value_of(record, name)}".rstrip() for name in names)


def value_of(record: Record, name: str) -> str:
    """An attribute as text without line breaks; "" where it is absent, None, NaN or blank."""
    value = record.get(name)
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return " ".join(str(value).split())


def columns_of(records: Sequence[Record]) -> list[str]:
    """Names of all attributes, in the order in which they first occur."""
    return list(dict.fromkeys(name for record in records for name in record))


def checked_records(records: Any, what: str = "record") -> list[Record]:
    """Records as a list of mappings with text names, or an error that names the first offender."""
    if isinstance(records, str | bytes | Mapping) or not hasattr(records, "__iter__"):
        raise BadInput(f"expected a list of records (mappings of name to value), got {type(records).__name__}")
    given = list(records)
    for i, record in enumerate(given):
        if not isinstance(record, Mapping):
            raise BadInput(f"{what} {i} is {type(record).__name__}, expected a mapping of name to value")
        for name in record:
            if not isinstance(name, str):
                raise BadInput(f"{what} {i} has an attribute {name!r}; names of attributes are texts")
    return given


def checked_columns(columns: Any) -> tuple[str, ...] | None:
    """Names of columns, each once, or None."""
    if columns is None:
        return None
    if isinstance(columns, str):
        raise BadInput(f"columns takes a list of names, got one str; write [{columns!r}]")
    names = tuple(columns)
    if not names or any(not isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BadInput(f"columns must be distinct names, at least one, got {names}")
    return names


class Serialised:
    """Any encoder of texts as an encoder of records.

    Args:
        encoder: makes dense or sparse rows of texts.
        columns: attributes that are read, in this order; None takes those of the first records given, in theirs, so
            that both tables of a comparison are read alike.
    """

    def __init__(self, encoder: Encoder, columns: Sequence[str] | None = None) -> None:
        if not isinstance(encoder, Encoder) or encoder.space.kind == "multi":
            raise BadInput(f"records are read by an encoder of dense or sparse rows of texts, got {encoder!r}")
        self.encoder, self.columns = encoder, checked_columns(columns)

    def __repr__(self) -> str:
        return f"Serialised({self.encoder!r}, columns={list(self.columns) if self.columns else None})"

    @property
    def space(self) -> Space:
        """The space of the encoder."""
        return self.encoder.space

    def fit(self, records: Sequence[Record]) -> Serialised:
        """Take the columns of these records, unless they were given."""
        if self.columns is None:
            self.columns = checked_columns(columns_of(checked_records(records)) or None)
        return self

    def encode(self, records: Sequence[Record]) -> np.ndarray | Sparse:
        """A row of each record."""
        given = checked_records(records)
        self.fit(given)
        rows: Any = self.encoder.encode_document([serialise(record, self.columns) for record in given])
        return rows
