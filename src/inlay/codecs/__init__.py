"""Rows in fewer bytes: `encode` makes codes of float32 rows, `decode` rows of codes; `nbytes` is what one row costs.

- `Float32`, `Float16`: a number at 4 or 2 bytes.
- `Int8`: a number at 1 byte and one scale a row; its codes are `Quantised`.
- `ProductQuantiser`: parts of a row as numbers of their nearest centres; `NormPQ`: the same with lengths apart
  (`NormCodes`); `MagnitudePQ`: more parts for longer rows.
- `LowRankRows`, `MagnitudeLowRank`: short codes over a basis, or over one for each group of lengths.
- `TensorTrain`, `Pruned`, `Deduplicated`: a matrix as three small cores, as its largest numbers, as its distinct
blocks.

`for_budget(name, rows, share)` fits one of them within so many bytes; `nbytes_of` counts what rows really took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.codecs.budgets import for_budget, nbytes_of
    from inlay.codecs.deduplicated import BlockCodes, Deduplicated
    from inlay.codecs.low_rank import Grouped, LowRankRows, MagnitudeLowRank
    from inlay.codecs.magnitude_product import MagnitudePQ
    from inlay.codecs.norm_product import NormCodes, NormPQ
    from inlay.codecs.product import ProductQuantiser
    from inlay.codecs.pruned import Pruned, SparseCodes
    from inlay.codecs.scalar import Float16, Float32, Int8, Quantised
    from inlay.codecs.tensor_train import TensorTrain, TrainCodes

_HOMES = {
    "BlockCodes": "deduplicated",
    "Deduplicated": "deduplicated",
    "Float16": "scalar",
    "Float32": "scalar",
    "Grouped": "low_rank",
    "Int8": "scalar",
    "LowRankRows": "low_rank",
    "MagnitudeLowRank": "low_rank",
    "MagnitudePQ": "magnitude_product",
    "NormCodes": "norm_product",
    "NormPQ": "norm_product",
    "ProductQuantiser": "product",
    "Pruned": "pruned",
    "Quantised": "scalar",
    "SparseCodes": "pruned",
    "TensorTrain": "tensor_train",
    "TrainCodes": "tensor_train",
    "for_budget": "budgets",
    "nbytes_of": "budgets",
}

__all__ = [
    "BlockCodes",
    "Deduplicated",
    "Float16",
    "Float32",
    "Grouped",
    "Int8",
    "LowRankRows",
    "MagnitudeLowRank",
    "MagnitudePQ",
    "NormCodes",
    "NormPQ",
    "ProductQuantiser",
    "Pruned",
    "Quantised",
    "SparseCodes",
    "TensorTrain",
    "TrainCodes",
    "for_budget",
    "nbytes_of",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
