"""A query's way through a collection: lists from the spaces, vectors on demand, fusion, passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.collection.brought import one
from inlay.collection.compaction import compact
from inlay.collection.dense_view import DenseView
from inlay.collection.pending import keep
from inlay.collection.rows import encoded, rows_of, unit
from inlay.collection.segment import in_memory
from inlay.collection.snapshot import DENSE, LEXICAL, Snapshot, embeddable
from inlay.errors import BadInput, Locked
from inlay.search.fusion import Found, Fused, fuse, union, weight_of
from inlay.types import Hit

if TYPE_CHECKING:
    from inlay.collection.collection import Collection
    from inlay.collection.handle import Handle

__all__ = ["dense_view", "search"]

DEPTH = 100  # candidates of each space, at least


def search(
    c: Collection,
    query: str | None,
    k: int,
    *,
    where: Mapping[str, Any] | None,
    mode: str | None,
    per: str,
    vector: Any,
    rerank: int,
) -> list[Hit]:
    """See `Collection.search`."""
    _check(query, k, mode, per, vector, rerank)
    if query is not None and not query.isascii():
        query = query.encode("utf-8", "replace").decode()  # a lone surrogate, half of a character, matches nothing
    snapshot = c._snapshot
    mode = mode or _mode(c, snapshot, query, vector)
    allowed = snapshot.allowed(where)
    if allowed is not None and not len(allowed):
        return []
    row = _query_row(c, snapshot, query, vector) if mode != "lexical" else None
    depth = max(DEPTH, 4 * k)
    while True:
        lists: dict[str, Found] = {}
        if mode != "dense" or _is_lazy(snapshot):
            lists[LEXICAL] = snapshot.view(LEXICAL).search(c._terms().terms(query or ""), depth, allowed)
        made: set[int] = set()
        if row is not None:
            lists[DENSE] = _dense(c, snapshot, row, depth, allowed)
            if _is_lazy(snapshot) and len(lists[LEXICAL][0]):
                lists[DENSE], made = _embed_candidates(c, snapshot, row, lists, depth, rerank)
                snapshot = c._snapshot
        shown = {DENSE: lists[DENSE]} if mode == "dense" else lists
        if len(shown) > 1:
            encoder = c._dense_encoder()
            found = fuse(LEXICAL, DENSE, shown, encoder, _background(c, snapshot, encoder, row))
        else:
            found = Fused(*next(iter(shown.values())), {})
        documents = snapshot.documents_of(found.ids) if per == "document" else {}
        # Several passages of one document count once: look deeper until k documents are found.
        enough = per == "chunk" or len(set(documents.values())) >= k
        if enough or all(len(ids) < depth for ids, _ in lists.values()):
            break
        depth *= 4
    best = _best_of_documents(documents, found.ids, k) if per == "document" else range(min(k, len(found.ids)))
    return _hits(snapshot, found, list(best), lists, made)


def _check(query: Any, k: Any, mode: Any, per: Any, vector: Any, rerank: Any) -> None:
    if query is None and vector is None:
        raise BadInput("nothing to search for: pass a query, a vector, or both")
    if query is not None and not isinstance(query, str):
        raise BadInput(f"the query is a string, got {type(query).__name__}")
    if query is not None and not query.strip() and vector is None:
        raise BadInput("the query is empty")
    if query is None and mode == "lexical":
        raise BadInput("mode='lexical' searches for words: pass a query")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise BadInput(f"k is a positive number, got {k!r}")
    if mode not in (None, "hybrid", "dense", "lexical"):
        raise BadInput(f"mode is 'hybrid', 'dense' or 'lexical', got {mode!r}")
    if per not in ("document", "chunk"):
        raise BadInput(f"per is 'document' or 'chunk', got {per!r}")
    if isinstance(rerank, bool) or not isinstance(rerank, int | np.integer) or rerank < 0:
        raise BadInput(f"rerank is a number of candidates, got {rerank!r}")


def _mode(c: Collection, snapshot: Snapshot, query: str | None, vector: Any) -> str:
    if query is None:
        return "dense"
    stored = snapshot.spaces.get(DENSE)
    if stored is None:
        return "lexical"
    return "hybrid" if vector is not None or c._dense_encoder() is not None else "lexical"


def _is_lazy(snapshot: Snapshot) -> bool:
    stored = snapshot.spaces.get(DENSE)
    return stored is not None and snapshot.pending(DENSE) > 0


def _query_row(c: Collection, snapshot: Snapshot, query: str | None, vector: Any) -> Any:
    stored = snapshot.spaces.get(DENSE)
    if stored is None:
        raise BadInput(f"{c.path} has no vectors; search it with mode='lexical', or open it with an encoder")
    kind = stored.space.kind
    if vector is not None:
        row = one(vector, kind, stored.space.dim)
    else:
        encoder = c._dense_encoder()
        if encoder is None:
            if stored.space.fingerprint == "given":
                raise BadInput(f"the vectors of {c.path} were brought from outside: pass vector= with the query's own")
            raise BadInput(f"{c.path} was made with an encoder object: open it with encoder= that same encoder")
        rows = encoder.encode_query([query])
        if kind == "multi":
            rows = rows[0]
        if c._map is not None:
            rows = c._map.transform(rows)
        row = one(rows, kind, stored.space.dim)
    if stored.space.metric == "cosine" and kind != "sparse":
        row = unit(np.atleast_2d(row)).reshape(row.shape)
    return row


def dense_view(c: Handle, snapshot: Snapshot) -> Any:
    """The view of the dense space, with what it makes vectors with that are not kept."""
    view = snapshot.view(DENSE)
    if isinstance(view, DenseView) and view.thin:
        # Of the text as it was when this snapshot was taken: a view must not make other rows than it has codes of.
        def texts(chunks: np.ndarray) -> list[str | None]:
            found = map(snapshot.passages(chunks.tolist()).get, chunks.tolist())
            return [None if p is None else embeddable(p.metadata, p.heading, p.text) for p in found]

        view.lend(c._document_encoder(), texts)
    return view


def _dense(c: Collection, snapshot: Snapshot, row: Any, depth: int, allowed: np.ndarray | None) -> Found:
    chunks, scores = dense_view(c, snapshot).search(row, depth, allowed)
    # A zero query row says nothing about anything: no list is better than an arbitrary one.
    if isinstance(row, np.ndarray) and not row.any():
        return chunks[:0], scores[:0]
    found: Found = chunks, scores
    return found


def _background(c: Collection, snapshot: Snapshot, encoder: Any, row: Any) -> tuple[float, float] | None:
    """How the query scores with the whole collection, where fusion asks and every passage has its vector."""
    if weight_of(encoder) is None or not isinstance(row, np.ndarray) or _is_lazy(snapshot):
        return None
    background: tuple[float, float] = dense_view(c, snapshot).background(row)
    return background


def _embed_candidates(
    c: Collection, snapshot: Snapshot, row: Any, lists: dict[str, Found], depth: int, rerank: int
) -> tuple[Found, set[int]]:
    """Give the best lexical candidates their vectors now, keep these, and list everything that has one.

    Returns:
        The dense list, and the chunks whose order the lazily made vectors decided.
    """
    stored = snapshot.spaces[DENSE]
    best = lists[LEXICAL][0][:rerank]
    unsaved = snapshot.over(DENSE, c._unsaved)
    known = np.concatenate([snapshot.view(DENSE).covered(), unsaved.covered()])
    missing = np.setdiff1d(best, known)
    encoder = c._document_encoder()
    if len(missing) and encoder is not None:
        passages = snapshot.passages(missing)
        texts = [embeddable(passages[i].metadata, passages[i].heading, passages[i].text) for i in missing.tolist()]
        vectors = encoded(encoder, texts)
        try:
            if c._mode == "r":
                raise Locked("open for reading only")
            with c._writing(brief=True):
                keep(c._catalog, c.path, stored, missing, vectors)
                compact(c._catalog, c.path)
            c._state = None
        except Locked:
            c._unsaved.append(in_memory({**rows_of(stored, None, vectors), "chunks": missing}))
            unsaved = snapshot.over(DENSE, c._unsaved)
    candidates = union([lists[LEXICAL], lists[DENSE]])
    scores = dense_view(c, c._snapshot).scores(row, candidates)
    scores = np.where(np.isnan(scores), unsaved.scores(row, candidates), scores)
    have = ~np.isnan(scores)
    order = np.lexsort((candidates[have], -scores[have]))[:depth]
    return (candidates[have][order], scores[have][order]), set(best.tolist()) & set(candidates[have].tolist())


def _best_of_documents(documents: Mapping[int, int], chunks: np.ndarray, k: int) -> list[int]:
    """Positions of the best chunk of each of the first k documents."""
    first: dict[int, int] = {}
    for i, chunk in enumerate(chunks.tolist()):
        # A chunk without a document: another process deleted it before this search took the right to write.
        if chunk in documents:
            first.setdefault(documents[chunk], i)
    return list(first.values())[:k]


def _hits(
    snapshot: Snapshot, found: Fused, best: Sequence[int], lists: Mapping[str, Found], made: set[int]
) -> list[Hit]:
    passages = snapshot.passages(found.ids[best])
    places = {
        name: {chunk: (rank, score) for rank, (chunk, score) in enumerate(zip(ids.tolist(), scores.tolist()), 1)}
        for name, (ids, scores) in lists.items()
    }
    hits = []
    for i in best:
        chunk, score = int(found.ids[i]), float(found.scores[i])
        if chunk not in passages:
            continue
        spaces: dict[str, dict[str, float]] = {}
        for name, place in places.items():
            if chunk in place:
                spaces[name] = {"rank": place[chunk][0], "score": place[chunk][1]}
                if name in found.parts:
                    spaces[name]["share"] = float(found.parts[name][i]) / score if score else 0.0
        p = passages[chunk]
        hits.append(
            Hit(p.id, score, p.text, p.metadata, p.heading, p.line, p.last_line, p.number, spaces, chunk in made)
        )
    return hits
