"""inlay under the `mteb` package (2.x): an encoder as an mteb encoder, a collection as an mteb search model.

mteb brings tasks, metrics, result files and leaderboards; these two adapters bring the models. Nothing here imports
mteb before one of them is called. Results are cached by model name and revision: give another `revision` when weights
or settings change, or call `mteb.evaluate(..., cache=None)`, or mteb returns the scores of the former model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.types import Chunk, Document, Ragged, Sparse

if TYPE_CHECKING:
    from inlay.types import Encoder

__all__ = ["as_mteb_encoder", "as_mteb_search"]


def as_mteb_encoder(encoder: Encoder, name: str = "inlay/encoder", revision: str | None = None) -> Any:
    """An encoder as an mteb model: `mteb.evaluate(as_mteb_encoder(encoder), tasks)`.

    Queries are encoded by `encode_query`, everything else by `encode_document`; nearness is the metric of the
    encoder's space. mteb keeps dense rows in memory, so sparse rows are filled out: for wide sparse encoders over many
    documents take `as_mteb_search`. Multi-vector encoders need `as_mteb_search` too.

    Args:
        encoder: gives dense or sparse rows.
        name: `organisation/model`; mteb refuses names without a slash.
        revision: what mteb files results under; the fingerprint of the encoder's space by default.
    """
    _require()
    from mteb import similarity_functions
    from mteb.models.abs_encoder import AbsEncoder

    space = encoder.space
    if space.kind == "multi":
        raise BadInput("mteb takes one vector a text: give a multi-vector encoder to as_mteb_search")
    kernels = {"cosine": "cos_sim", "dot": "dot_score", "l2": "euclidean_sim"}
    pairs = {"cosine": "pairwise_cos_sim", "dot": "pairwise_dot_score", "l2": "pairwise_euclidean_sim"}

    class InlayEncoder(AbsEncoder):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self.model = encoder
            self.mteb_model_meta = _meta(name, revision or space.fingerprint, space.dim)

        def encode(self, inputs: Any, *, prompt_type: Any = None, **options: Any) -> np.ndarray:
            as_query = getattr(prompt_type, "value", prompt_type) == "query"
            encode = encoder.encode_query if as_query else encoder.encode_document
            rows = [_dense(encode(list(batch["text"]))) for batch in inputs]
            return np.concatenate(rows) if rows else np.empty((0, space.dim), dtype=np.float32)

        def similarity(self, a: Any, b: Any) -> Any:
            return getattr(similarity_functions, kernels[space.metric])(a, b)

        def similarity_pairwise(self, a: Any, b: Any) -> Any:
            return getattr(similarity_functions, pairs[space.metric])(a, b)

    return InlayEncoder()


def as_mteb_search(
    make: Callable[[], Any] | None = None,
    *,
    encoder: str | Encoder | None = None,
    mode: str = "hybrid",
    name: str = "inlay/search",
    revision: str | None = None,
) -> Any:
    """A collection as an mteb search model, for its retrieval and reranking tasks.

    Args:
        make: gives an empty collection for each task: anything with `add(documents)`, `search(query, k=k)` giving hits
            with `id` and `score`, best first, and `close()`. By default a temporary inlay collection.
        encoder: encoder of the temporary collection.
        mode: how the temporary collection searches: `hybrid`, `dense` or `lexical`.
        name: `organisation/model`.
        revision: what mteb files results under.
    """
    _require()

    class InlaySearch:
        def __init__(self) -> None:
            self.mteb_model_meta = _meta(name, revision, None)
            self.collection: Any = None
            self.size = 0
            self.home: tempfile.TemporaryDirectory[str] | None = None

        def index(self, corpus: Any, **options: Any) -> None:
            self._release()
            if make is not None:
                self.collection = make()
            else:
                import inlay

                self.home = tempfile.TemporaryDirectory(prefix="inlay-mteb-")
                place = Path(self.home.name) / "collection"
                self.collection = inlay.open(place, encoder=False if mode == "lexical" else encoder)
            self.collection.add([_document(row) for row in corpus])
            self.size = len(corpus)
            if make is None and mode != "lexical":
                self.collection.embed()

        def search(
            self, queries: Any, *, top_k: int, top_ranked: Any = None, **options: Any
        ) -> dict[str, dict[str, float]]:
            extra = {"mode": mode, "per": "document"} if make is None else {}
            answers = {}
            for row in queries:
                query = row["id"]
                wanted = top_ranked[query] if top_ranked is not None else None
                depth = self.size if wanted is not None else min(top_k, self.size)
                hits = self.collection.search(row["text"], k=depth, **extra)
                found = {hit.id: float(hit.score) for hit in hits}
                if wanted is not None:
                    # A reranking task wants a score for each candidate, also for those the search did not reach.
                    least = min(found.values(), default=0.0) - 1.0
                    found = {key: found.get(key, least) for key in wanted}
                    found = dict(sorted(found.items(), key=lambda item: -item[1])[:top_k])
                answers[query] = found
            return answers

        def _release(self) -> None:
            if self.collection is not None:
                self.collection.close()
            if self.home is not None:
                self.home.cleanup()
            self.collection = self.home = None

    return InlaySearch()


def _require() -> None:
    try:
        import mteb  # noqa: F401
    except ImportError:
        raise MissingExtra("mteb benchmarks", "mteb") from None


def _meta(name: str, revision: str | None, dim: int | None) -> Any:
    from mteb.models import ModelMeta

    if "/" not in name:
        raise BadInput(f"mteb wants names of the form organisation/model, got {name!r}")
    return ModelMeta.create_empty({"name": name, "revision": revision or "unknown", "embed_dim": dim})


def _document(row: Any) -> Document:
    title = row.get("title") or ""
    text = f"{title} {row['text']}".strip() if title else row["text"]
    return Document(row["id"], text, chunks=[Chunk(0, len(text))])


def _dense(rows: Any) -> np.ndarray:
    if isinstance(rows, Ragged):
        raise BadInput("mteb takes one vector a text: give a multi-vector encoder to as_mteb_search")
    if hasattr(rows, "indptr"):
        return Sparse.of(rows).toarray()
    return np.asarray(rows, dtype=np.float32)
