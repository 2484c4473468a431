"""Rows in fewer bytes: `encode` makes codes of float32 rows, `decode` rows of codes; `nbytes` is what one row costs.

- `Float32`, `Float16`, `BFloat16`, `Float8`, `Float4`: a number at 4, 2, 2, 1 or ½ byte.
- `Int8`: a number at 1 byte and one scale a row; its codes are `Quantised`. `EqualSteps`: a number in 8, 4 or 2 bits
  within its dimension's range; `Percentiles`: in bins that hold equally many rows; `Ternary`: in three values.
- `Signs`, `HyperplaneBits`: a bit a dimension, or for each of any number of directions.
- `Chain`: a map of `inlay.spaces` with a codec behind it, as `PCA(192) | Float8()` makes it.
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

`codec("pca:192|float8")` makes one by name, and `str` gives the name. `for_budget(name, rows, share)` fits one of them
within so many bytes; `nbytes_of` counts what rows really took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.codecs.ball_carving import carve
    from inlay.codecs.budgets import for_budget, nbytes_of
    from inlay.codecs.chain import Chain
    from inlay.codecs.coarse_product import CoarseCodes, CoarseProduct
    from inlay.codecs.deduplicated import BlockCodes, Deduplicated
    from inlay.codecs.floats import BFloat16, Float4, Float8
    from inlay.codecs.low_rank import Grouped, LowRankRows, MagnitudeLowRank
    from inlay.codecs.magnitude_product import MagnitudePQ
    from inlay.codecs.muvera import MuveraFDE
    from inlay.codecs.named import codec
    from inlay.codecs.norm_product import NormCodes, NormPQ
    from inlay.codecs.percentiles import Percentiles
    from inlay.codecs.product import ProductQuantiser
    from inlay.codecs.pruned import Pruned, SparseCodes
    from inlay.codecs.recurrent_binary import RecurrentBinary
    from inlay.codecs.residual import ResidualCodes, ResidualTokens
    from inlay.codecs.rotation import OptimisedProduct
    from inlay.codecs.scalar import Float16, Float32, Int8, Quantised
    from inlay.codecs.signs import HyperplaneBits, Signs
    from inlay.codecs.steps import EqualSteps
    from inlay.codecs.tensor_train import TensorTrain, TrainCodes
    from inlay.codecs.ternary import Ternary

_HOMES = {
    "BFloat16": "floats",
    "BlockCodes": "deduplicated",
    "Chain": "chain",
    "CoarseCodes": "coarse_product",
    "CoarseProduct": "coarse_product",
    "Deduplicated": "deduplicated",
    "EqualSteps": "steps",
    "Float16": "scalar",
    "Float32": "scalar",
    "Float4": "floats",
    "Float8": "floats",
    "Grouped": "low_rank",
    "HyperplaneBits": "signs",
    "Int8": "scalar",
    "LowRankRows": "low_rank",
    "MagnitudeLowRank": "low_rank",
    "MagnitudePQ": "magnitude_product",
    "MuveraFDE": "muvera",
    "NormCodes": "norm_product",
    "NormPQ": "norm_product",
    "OptimisedProduct": "rotation",
    "Percentiles": "percentiles",
    "ProductQuantiser": "product",
    "Pruned": "pruned",
    "Quantised": "scalar",
    "RecurrentBinary": "recurrent_binary",
    "ResidualCodes": "residual",
    "ResidualTokens": "residual",
    "Signs": "signs",
    "SparseCodes": "pruned",
    "TensorTrain": "tensor_train",
    "Ternary": "ternary",
    "TrainCodes": "tensor_train",
    "carve": "ball_carving",
    "codec": "named",
    "for_budget": "budgets",
    "nbytes_of": "budgets",
}

__all__ = [
    "BFloat16",
    "BlockCodes",
    "Chain",
    "CoarseCodes",
    "CoarseProduct",
    "Deduplicated",
    "EqualSteps",
    "Float4",
    "Float8",
    "Float16",
    "Float32",
    "Grouped",
    "HyperplaneBits",
    "Int8",
    "LowRankRows",
    "MagnitudeLowRank",
    "MagnitudePQ",
    "MuveraFDE",
    "NormCodes",
    "NormPQ",
    "OptimisedProduct",
    "Percentiles",
    "ProductQuantiser",
    "Pruned",
    "Quantised",
    "RecurrentBinary",
    "ResidualCodes",
    "ResidualTokens",
    "Signs",
    "SparseCodes",
    "TensorTrain",
    "Ternary",
    "TrainCodes",
    "carve",
    "codec",
    "for_budget",
    "nbytes_of",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
