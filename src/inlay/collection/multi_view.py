"""A multi-vector space as a snapshot sees it: MaxSim over the bags of several segments."""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.collection.bag_encodings import encoding_of
from inlay.collection.views import Found, View
from inlay.kernels.maxsim import maxsim

__all__ = ["MultiView"]

CANDIDATES = 4  # scored exactly for each that is asked for, where encodings find them
SAMPLED = 128  # passages that stand for the collection


class MultiView(View):
    """A space of bags. Scores are exact; in a large segment, only those of candidates are computed."""

    def search(self, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """The k nearest chunks of one query [tokens, dim]. A chunk without tokens is never found."""
        found = []
        for i, segment in enumerate(self.segments):
            rows = self._candidates(i, query, k, self._allow(i, allowed))
            scores = self._score(i, query, rows)
            near = np.isfinite(scores)
            found.append(self._best([(segment.chunks[rows[near]], scores[near])], k))
        return self._best(found, k)

    def scores(self, query: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        """Score of each given chunk, float32; NaN where it has no tokens."""
        out = np.full(len(chunks), np.nan, dtype=np.float32)
        for i, segment in enumerate(self.segments):
            places, rows = segment.rows_of(chunks)
            if len(places):
                scores = self._score(i, query, rows)
                out[places] = np.where(np.isfinite(scores), scores, np.nan)
        return out

    def background(self, query: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of the query's scores over the collection, from a sample of its passages."""
        parts = [self._score(i, query, self._evenly(i, SAMPLED)) for i in range(len(self.segments))]
        scores = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
        scores = scores[np.isfinite(scores)].astype(np.float64)
        return (float(scores.mean()), float(scores.std())) if len(scores) else (0.0, 0.0)

    def _candidates(self, i: int, query: np.ndarray, k: int, allow: np.ndarray | None) -> np.ndarray:
        """Rows of segment i to score, ascending."""
        segment = self.segments[i]
        allowed = segment.rows if allow is None else int(allow.sum())
        if "encodings" not in segment.pack or allowed <= CANDIDATES * k:
            return np.arange(segment.rows) if allow is None else np.flatnonzero(allow)
        if self._parts[i] is None:
            self._parts[i] = encoding_of(segment.pack)
        fde, index = self._parts[i]
        rows = index.search(fde.encode_query([query]), CANDIDATES * k, allow=allow).ids[0]
        return np.sort(rows[rows >= 0])

    def _score(self, i: int, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        pack: Any = self.segments[i].pack
        if not len(rows):
            return np.empty(0, dtype=np.float32)
        scales = pack["scales"] if "scales" in pack else None
        scores: np.ndarray = maxsim(query, pack["rows"], pack["offsets"], scales=scales, ids=rows)
        return scores
