"""Words and labelled text: keyed vectors, text classifiers, token encoders.

- `KeyedVectors`: a file of vectors by key, opened in milliseconds, that answers for misspelt and unknown keys too;
  `Rules` say how. `StoreWriter` writes one row by row; `read` and `write` know the word2vec, GloVe and fastText files.
- `concat` reads several stores as one; `Featurizer` is a store without a file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlay.words.concatenation import Concatenated, Featurizer, concat
    from inlay.words.formats import read, write
    from inlay.words.keyed_vectors import KeyedVectors
    from inlay.words.out_of_vocabulary import Rules
    from inlay.words.store_writer import StoreWriter

_HOMES = {
    "Concatenated": "concatenation",
    "Featurizer": "concatenation",
    "KeyedVectors": "keyed_vectors",
    "Rules": "out_of_vocabulary",
    "StoreWriter": "store_writer",
    "concat": "concatenation",
    "read": "formats",
    "write": "formats",
}

__all__ = [
    "Concatenated",
    "Featurizer",
    "KeyedVectors",
    "Rules",
    "StoreWriter",
    "concat",
    "read",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
