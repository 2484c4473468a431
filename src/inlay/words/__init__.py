"""Words and labelled text: keyed vectors, text classifiers, token encoders.

- `KeyedVectors`: a file of vectors by key, opened in milliseconds, that answers for misspelt and unknown keys too;
  `Rules` say how. `StoreWriter` writes one row by row; `read` and `write` know the word2vec, GloVe and fastText files.
- `concat` reads several stores as one; `Featurizer` is a store without a file.
- `BagClassifier`, a text classifier over bags of words and hashed word pairs; its `compress` makes a `CompressedBag`.
  `load_classifier` reads either.
- `MaxoutWindow`: tokens in their context, over a table without a vocabulary (torch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.words.bag_classifier import BagClassifier
    from inlay.words.compressed_bag import CompressedBag
    from inlay.words.concatenation import Concatenated, Featurizer, concat
    from inlay.words.formats import read, write
    from inlay.words.keyed_vectors import KeyedVectors
    from inlay.words.maxout_window import MaxoutWindow
    from inlay.words.out_of_vocabulary import Rules
    from inlay.words.store_writer import StoreWriter
    from inlay.words.text_classifier import load_classifier

_HOMES = {
    "BagClassifier": "bag_classifier",
    "CompressedBag": "compressed_bag",
    "Concatenated": "concatenation",
    "Featurizer": "concatenation",
    "KeyedVectors": "keyed_vectors",
    "MaxoutWindow": "maxout_window",
    "Rules": "out_of_vocabulary",
    "StoreWriter": "store_writer",
    "concat": "concatenation",
    "load_classifier": "text_classifier",
    "read": "formats",
    "write": "formats",
}

__all__ = [
    "BagClassifier",
    "CompressedBag",
    "Concatenated",
    "Featurizer",
    "KeyedVectors",
    "MaxoutWindow",
    "Rules",
    "StoreWriter",
    "concat",
    "load_classifier",
    "read",
    "write",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, what="token encoders", extra="train", needs=("torch",))
