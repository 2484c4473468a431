"""Rows found: how the lists that spaces return become one answer.

`reciprocal_rank` and `convex` fuse ranked lists.
"""

from inlay.search.fusion import Fusion, convex, reciprocal_rank

__all__ = ["Fusion", "convex", "reciprocal_rank"]
