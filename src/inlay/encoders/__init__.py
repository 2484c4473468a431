"""How rows are made: what turns texts into vectors, behind two methods, `encode_document` and `encode_query`.

`encoder(name, **options)` makes one by name; the classes are here too.

- `BM25`: term weights (sparse), over the terms that an `Analyzer` makes of a text. `Numen`: hashed character n-grams.
  Neither needs a model.
- `Splade`: learnt term weights (sparse), of a model that `inlay.training.Splade` trained.
- `LateBox`: a vector for each token, of the model in the box. `ColBERT`: of a trained late-interaction model.
- `Static`: mean of token rows from a table; thousands of texts a second.
- `Onnx`, `SentenceTransformers`: transformers on this machine.
- `Endpoint`: any OpenAI-compatible service.

Every encoder takes a list of texts (a lone str is refused), gives one row each, carries the `space` its rows live in,
and a `spec` from which `encoder(**spec)` makes it again. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.encoders.analysis import Analyzer
    from inlay.encoders.bm25 import BM25
    from inlay.encoders.colbert import ColBERT
    from inlay.encoders.endpoint import Endpoint
    from inlay.encoders.late_box import LateBox
    from inlay.encoders.names import encoder
    from inlay.encoders.numen import Numen
    from inlay.encoders.onnx import Onnx
    from inlay.encoders.sentence_transformers import SentenceTransformers
    from inlay.encoders.splade import Splade
    from inlay.encoders.static import Static

__all__ = [
    "BM25",
    "Analyzer",
    "ColBERT",
    "Endpoint",
    "LateBox",
    "Numen",
    "Onnx",
    "SentenceTransformers",
    "Splade",
    "Static",
    "encoder",
]

_HOMES = {
    "Analyzer": "analysis",
    "BM25": "bm25",
    "ColBERT": "colbert",
    "Endpoint": "endpoint",
    "LateBox": "late_box",
    "Numen": "numen",
    "Onnx": "onnx",
    "SentenceTransformers": "sentence_transformers",
    "Splade": "splade",
    "Static": "static",
    "encoder": "names",
}

__getattr__, __dir__ = lazy(__name__, _HOMES)
