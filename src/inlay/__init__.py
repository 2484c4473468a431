"""inlay: one coherent embedding stack.

>>> import inlay
>>> c = inlay.open("notes.inlay")
>>> c.add([{"id": "d1", "text": "Ada Lovelace wrote the first program.", "year": 1843}])
>>> c.search("who programmed first?", where={"year": {"$lt": 1900}})

Importing it is cheap: everything is loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Collection", "Document", "Hit", "InlayError", "Space", "__version__", "encoder", "open"]

_HOMES = {
    "open": "inlay.collection",
    "Collection": "inlay.collection",
    "encoder": "inlay.encoders",
    "Document": "inlay.types",
    "Hit": "inlay.types",
    "Space": "inlay.types",
    "InlayError": "inlay.errors",
}

if TYPE_CHECKING:
    from inlay.collection import Collection, open
    from inlay.encoders import encoder
    from inlay.errors import InlayError
    from inlay.types import Document, Hit, Space


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
