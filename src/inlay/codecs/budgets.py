"""A codec of a given kind for given rows within a given number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inlay.codecs.deduplicated import Deduplicated
from inlay.codecs.low_rank import LowRankRows, MagnitudeLowRank
from inlay.codecs.magnitude_product import MagnitudePQ
from inlay.codecs.product import ProductQuantiser
from inlay.codecs.pruned import Pruned
from inlay.codecs.scalar import Float16, Float32, Int8, _finite
from inlay.codecs.tensor_train import TensorTrain
from inlay.errors import BadInput

__all__ = ["for_budget", "nbytes_of"]


def for_budget(name: str, rows: np.ndarray, budget: float, **settings: Any) -> Any:
    """A fitted codec whose codes of rows [n, dim], with all that they share, take at most a share of float32 rows.

        codec = for_budget("svd", rows, 0.1)
        codes = codec.encode(rows)
        nbytes_of(codec, codes) <= 0.1 * rows.nbytes

    Args:
        name: float32, float16, int8, pq, mag-pq, svd, mag-svd, tt, pruned or dedup. `int8` needs one scale a row beside
            its quarter. `dedup` goes as far as its blocks are alike, which may be not at all: ask `nbytes_of`.
        rows: that are to be kept.
        budget: share of the bytes of float32 rows, above 0 and up to 1.
        **settings: further ones of the codec.

    Raises:
        BadInput: the budget is too small for the codec, or there is no codec of that name.
    """
    rows = _finite(rows)
    if not 0 < budget <= 1:
        raise BadInput(f"budget must be a share above 0 and up to 1, got {budget}")
    if name not in _MAKERS:
        raise BadInput(f"there is no codec {name!r}; there are {', '.join(_MAKERS)}")
    return _MAKERS[name](rows, budget, settings).fit(rows)


def nbytes_of(codec: Any, codes: Any) -> int:
    """Bytes of codes and of what the codec keeps for all of them."""
    own = getattr(codes, "nbytes", None)
    if own is None:
        own = sum(part.nbytes for part in codes if isinstance(part, np.ndarray))
    return int(own) + int(getattr(codec, "codebook_nbytes", 0))


def _scalar(kind: Any) -> Callable[[np.ndarray, float, dict[str, Any]], Any]:
    def make(rows: np.ndarray, budget: float, settings: dict[str, Any]) -> Any:
        codec, dim = kind(**settings), rows.shape[1]
        if codec.nbytes(dim) > budget * 4 * dim:
            raise BadInput(
                f"{codec!r} takes {codec.nbytes(dim)} bytes a row of {dim}, which is more than {budget:g} of it"
            )
        return codec

    return make


def _product(rows: np.ndarray, budget: float, settings: dict[str, Any]) -> ProductQuantiser:
    bits = int(settings.pop("bits", 8))
    n, dim = rows.shape
    room = budget * rows.nbytes - 4 * dim * (1 << bits)
    parts = min(int(room // max(n, 1)) * 8 // bits if room > 0 else 0, dim)
    if parts < 1:
        raise BadInput(
            f"{budget:g} of {n} rows of {dim} is too little for a code each and {1 << bits} centres; lower bits"
        )
    return ProductQuantiser(parts, bits=bits, **settings)


_MAKERS: dict[str, Callable[[np.ndarray, float, dict[str, Any]], Any]] = {
    "float32": _scalar(Float32),
    "float16": _scalar(Float16),
    "int8": _scalar(Int8),
    "pq": _product,
    "mag-pq": lambda rows, budget, more: MagnitudePQ.for_budget(rows, budget * rows.nbytes, **more),
    "svd": lambda rows, budget, more: LowRankRows.for_budget(len(rows), rows.shape[1], budget * rows.nbytes),
    "mag-svd": lambda rows, budget, more: MagnitudeLowRank(budget, **more),
    "tt": lambda rows, budget, more: TensorTrain(budget, **more),
    "pruned": lambda rows, budget, more: Pruned(budget, **more),
    "dedup": lambda rows, budget, more: Deduplicated(budget, **more),
}
