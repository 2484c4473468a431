"""The compiled form of `inlay.kernels.seismic_components`; see there for arguments and results."""

from __future__ import annotations

import numpy as np
from numba import njit

from inlay.kernels.seismic_components import CODES, FAR, MOST, REACH

__all__ = ["coded_compiled"]


@njit(cache=True, nogil=True, boundscheck=False)
def _put(at, code, here, entry, bases, firsts, codes):
    """Write a byte, unless there is no room yet; returns where the next one goes."""
    if len(codes) > 0:
        codes[at] = code
        if at % CODES == 0:
            bases[at // CODES], firsts[at // CODES] = here, entry
    return at + 1


@njit(cache=True, nogil=True, boundscheck=False)
def _written(list_components, components, counts, list_groups, bases, firsts, codes):
    at = i = 0
    for c in range(len(list_components)):
        begin, here, entry = at // CODES, np.int64(0), 0
        for t in range(list_components[c]):
            column, left = np.int64(components[i]), counts[i]
            gap = column - here
            if t == 0 or gap > FAR:
                at = (at + CODES - 1) // CODES * CODES
                gap = min(column, np.int64(REACH))
                here = column - gap
            while gap > REACH:
                at = _put(at, REACH << 2, here, entry, bases, firsts, codes)
                here, gap = here + REACH, gap - REACH
            at = _put(at, gap << 2 | min(left, MOST), here, entry, bases, firsts, codes)
            here = column
            while left > MOST:
                entry, left = entry + MOST, left - MOST
                at = _put(at, min(left, MOST), here, entry, bases, firsts, codes)
            entry += left
            i += 1
        at = (at + CODES - 1) // CODES * CODES
        list_groups[c] = at // CODES - begin
    return at


@njit(cache=True, nogil=True, boundscheck=False)
def coded_compiled(list_components, components, counts):
    list_groups = np.zeros(len(list_components), dtype=np.int64)
    none = np.empty(0, dtype=np.uint8)
    size = _written(
        list_components, components, counts, list_groups, np.empty(0, np.int32), np.empty(0, np.uint32), none
    )
    bases, firsts = np.empty(size // CODES, dtype=np.int32), np.empty(size // CODES, dtype=np.uint32)
    codes = np.zeros(size, dtype=np.uint8)
    if size > 0:
        _written(list_components, components, counts, list_groups, bases, firsts, codes)
    return list_groups, bases, firsts, codes
