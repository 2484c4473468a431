"""Token blocking: two records that share a token are a pair, unless the token is so common that it tells nothing.

Pairs are ranked as in meta-blocking (Papadakis et al., "Meta-Blocking", TKDE 2014) by ARCS, the sum over shared tokens
of one over the number of pairs that the token makes: a rare shared token is worth more than many common ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inlay.errors import BadInput
from inlay.records.candidates import Candidates
from inlay.records.serialisation import Record, checked_columns
from inlay.records.shared_keys import pairs_by_key
from inlay.records.tokenised import checked_grams, token_sets

__all__ = ["TokenBlocking"]


class TokenBlocking:
    """Pairs of records by shared tokens.

    Args:
        max_pairs: a token that makes more pairs than this is left out (block purging).
        min_shared: tokens that two records must share.
        grams: None for words, or the length of runs of characters.
        columns: attributes that are read; None takes all.
    """

    def __init__(
        self, max_pairs: int = 10_000, min_shared: int = 1, *, grams: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        for name, value in (("max_pairs", max_pairs), ("min_shared", min_shared)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"{name} must be a positive integer, got {value!r}")
        self.max_pairs, self.min_shared = max_pairs, min_shared
        self.grams, self.columns = checked_grams(grams), checked_columns(columns)

    def __repr__(self) -> str:
        return f"TokenBlocking(max_pairs={self.max_pairs}, min_shared={self.min_shared}, grams={self.grams})"

    def block(self, a: Sequence[Record], b: Sequence[Record] | None = None) -> Candidates:
        """Pairs of records of two tables, or of one."""
        left = token_sets(a, self.columns, self.grams)
        right = left if b is None else token_sets(b, self.columns, self.grams)
        at, other, makes = pairs_by_key(left.keys, right.keys, self.max_pairs)
        rows, others = left.rows[at], right.rows[other]
        if b is None:
            kept = rows < others
            rows, others, makes = rows[kept], others[kept], makes[kept]
        width = len(right.indptr)
        pairs, inverse, shared = np.unique(rows * width + others, return_inverse=True, return_counts=True)
        scores = np.bincount(inverse, weights=1 / makes, minlength=len(pairs))
        kept = shared >= self.min_shared
        return Candidates(*np.divmod(pairs[kept], width), scores[kept])
