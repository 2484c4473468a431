"""Hot loops, each in two forms.

`name.py` holds the plain numpy form: the oracle of the tests, and the path for small work, because importing numba
costs more than the work itself. `name_numba.py` holds the compiled form. `compiled(work)` decides between them.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache

__all__ = ["compiled"]

# Elementary operations (bytes tokenised, postings added, multiply-adds) below which numpy finishes before numba has
# been imported.
WORTH_COMPILING = 30_000_000
# How many times that many small calls may add up to: a process that goes on asking is better off with numba.
PATIENCE = 4

_done = 0


@cache
def _installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def compiled(work: int) -> bool:
    """Whether to take the compiled form of a kernel: numba is there, and loaded already or worth loading, for this call
    alone or for all calls so far together.
    """
    global _done
    if "numba" in sys.modules:
        return True
    _done += work
    return (work >= WORTH_COMPILING or _done >= PATIENCE * WORTH_COMPILING) and _installed()
