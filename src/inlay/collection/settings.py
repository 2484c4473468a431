"""What a user wants remembered with a collection."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from inlay.errors import BadInput

if TYPE_CHECKING:
    from inlay.collection.collection import Collection

__all__ = ["Settings"]


class Settings(MutableMapping[str, Any]):
    """A persistent dictionary of JSON values, kept in the catalog."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def __getitem__(self, key: str) -> Any:
        missing = object()
        with self._collection._mutex:
            value = self._collection._catalog.get(f"user:{key}", missing)
        if value is missing:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        try:
            if not isinstance(key, str):
                raise TypeError(f"a key is a string, not {type(key).__name__}")
            (key + json.dumps(value, allow_nan=False)).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput(f"settings[{key!r:.60}] cannot be stored as JSON: {error}") from None
        with self._collection._mutex, self._collection._writing(), self._collection._catalog.write():
            self._collection._catalog.set(f"user:{key}", value)

    def __delitem__(self, key: str) -> None:
        self[key]
        with self._collection._mutex, self._collection._writing(), self._collection._catalog.write():
            self._collection._catalog.run("DELETE FROM settings WHERE key=?", (f"user:{key}",))

    def __iter__(self) -> Iterator[str]:
        with self._collection._mutex:
            rows = self._collection._catalog.all("SELECT key FROM settings WHERE key GLOB 'user:*' ORDER BY key")
        return iter([row[0][5:] for row in rows])

    def __len__(self) -> int:
        return sum(1 for _ in self)
