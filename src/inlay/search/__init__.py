"""Rows found: how the lists that spaces return become one answer.

`reciprocal_rank`, `convex` and `surprisal` fuse ranked lists; `fuse` chooses between them for a collection.
"""

from inlay.search.fusion import Found, Fused, convex, fuse, reciprocal_rank, surprisal

__all__ = ["Found", "Fused", "convex", "fuse", "reciprocal_rank", "surprisal"]
