"""Rows in fewer bytes: `encode` makes codes of float32 rows, `decode` rows of codes; `nbytes` is what one row costs.

- `Float32`, `Float16`: a number at 4 or 2 bytes.
- `Int8`: a number at 1 byte and one scale a row; its codes are `Quantised`.
- `ProductQuantiser`: parts of a row as numbers of their nearest centres; `NormPQ`: the same with lengths apart
  (`NormCodes`); `MagnitudePQ`: more parts for longer rows.
- `OptimisedProduct`: product codes after a rotation that makes them fit; `CoarseProduct`: of what a coarse centre
  leaves.
- `RecurrentBinary`: bits by small networks, each for what those before left over (learnt by
  `inlay.training.learn_binary`).
- `LowRankRows`, `MagnitudeLowRank`: short codes over a basis, or over one for each group of lengths.
- `TensorTrain`, `Pruned`, `Deduplicated`: a matrix as three small cores, its largest numbers, its distinct blocks.
- `MuveraFDE`: a bag of token vectors as one row, whose dots come near to MaxSim; `carve` shortens queries.
- `ResidualTokens`: token vectors as a centre and 2 or 4 bits a number of what is left (`ResidualCodes`).

`for_budget(name, rows, share)` fits one of them within so many bytes; `nbytes_of` counts what rows really took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.codecs.ball_carving import carve
    from inlay.codecs.budgets import for_budget, nbytes_of
    from inlay.codecs.coarse_product import CoarseCodes, CoarseProduct
    from inlay.codecs.deduplicated import BlockCodes, Deduplicated
    from inlay.codecs.low_rank import Grouped, LowRankRows, MagnitudeLowRank
    from inlay.codecs.magnitude_product import MagnitudePQ
    from inlay.codecs.muvera import MuveraFDE
    from inlay.codecs.norm_product import NormCodes, NormPQ
    from inlay.codecs.product import ProductQuantiser
    from inlay.codecs.pruned import Pruned, SparseCodes
    from inlay.codecs.recurrent_binary import RecurrentBinary
    from inlay.codecs.residual import ResidualCodes, ResidualTokens
    from inlay.codecs.rotation import OptimisedProduct
    from inlay.codecs.scalar import Float16, Float32, Int8, Quantised
    from inlay.codecs.tensor_train import TensorTrain, TrainCodes

_HOMES = {
    "BlockCodes": "deduplicated",
    "CoarseCodes": "coarse_product",
    "CoarseProduct": "coarse_product",
    "Deduplicated": "deduplicated",
    "Float16": "scalar",
    "Float32": "scalar",
    "Grouped": "low_rank",
    "Int8": "scalar",
    "LowRankRows": "low_rank",
    "MagnitudeLowRank": "low_rank",
    "MagnitudePQ": "magnitude_product",
    "MuveraFDE": "muvera",
    "NormCodes": "norm_product",
    "NormPQ": "norm_product",
    "OptimisedProduct": "rotation",
    "ProductQuantiser": "product",
    "Pruned": "pruned",
    "Quantised": "scalar",
    "RecurrentBinary": "recurrent_binary",
    "ResidualCodes": "residual",
    "ResidualTokens": "residual",
    "SparseCodes": "pruned",
    "TensorTrain": "tensor_train",
    "TrainCodes": "tensor_train",
    "carve": "ball_carving",
    "for_budget": "budgets",
    "nbytes_of": "budgets",
}

__all__ = [
    "BlockCodes",
    "CoarseCodes",
    "CoarseProduct",
    "Deduplicated",
    "Float16",
    "Float32",
    "Grouped",
    "Int8",
    "LowRankRows",
    "MagnitudeLowRank",
    "MagnitudePQ",
    "MuveraFDE",
    "NormCodes",
    "NormPQ",
    "OptimisedProduct",
    "ProductQuantiser",
    "Pruned",
    "Quantised",
    "RecurrentBinary",
    "ResidualCodes",
    "ResidualTokens",
    "SparseCodes",
    "TensorTrain",
    "TrainCodes",
    "carve",
    "for_budget",
    "nbytes_of",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
