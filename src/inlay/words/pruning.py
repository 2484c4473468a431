"""Which features of a bag classifier to keep.

By norm: the longest rows. By coverage: the longest rows under the condition that every training document keeps one,
which is a maximum cover, solved online: documents pass by once, and one that has no kept feature yet keeps its longest.

Source: "FastText.zip: Compressing text classification models" (arXiv 1612.03651), section 3.2.
"""

from __future__ import annotations

import numpy as np

__all__ = ["by_coverage", "by_norm"]


def by_norm(norms: np.ndarray, keep: int, always: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Numbers, ascending int64, of `keep` features: `always`, and then the longest.

    Args:
        norms: float [features], lengths of rows.
        keep: features kept; fewer if fewer are allowed.
        always: features kept whatever their length.
        allowed: bool [features], features that may be kept; all, if None.
    """
    chosen = np.zeros(len(norms), dtype=bool)
    chosen[always] = True
    return _fill(norms, keep, chosen, allowed)


def by_coverage(
    norms: np.ndarray, keep: int, always: np.ndarray, indptr: np.ndarray, ids: np.ndarray,
    allowed: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """As `by_norm`, where every document (CSR `indptr`, `ids`) keeps a feature besides `always`, while there is room.

    Room goes to documents in their order; what they leave is filled by norm.
    """
    chosen = np.zeros(len(norms), dtype=bool)
    chosen[always] = True
    idle = chosen.copy()  # these do not cover: every document has the end of it
    room = keep - int(chosen.sum())
    for start, stop in zip(indptr[:-1].tolist(), indptr[1:].tolist()):
        if room <= 0:
            break
        own = ids[start:stop]
        own = own[~idle[own]]
        if not len(own) or chosen[own].any():
            continue
        chosen[own[norms[own].argmax()]] = True
        room -= 1
    return _fill(norms, keep, chosen, allowed)


def _fill(norms: np.ndarray, keep: int, chosen: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    rest = ~chosen if allowed is None else ~chosen & allowed
    candidates = np.flatnonzero(rest)
    room = max(0, keep - int(chosen.sum()))
    longest = candidates[np.argsort(-norms[candidates], kind="stable")[:room]]
    chosen[longest] = True
    return np.flatnonzero(chosen)
