"""Rows by key: every way of storing more rows in fewer bytes, as parts that go wherever an `nn.Embedding` goes.

A `Table` learns; `table.compiled()` gives the form that is read, with every byte counted. `KeySpace` numbers the values
of fields, `PerField` puts a table behind each.

- a row a key: `Full`; shared by hashing: `Hashed`, `Unified`, `MultiHash`; composed of parts: `Compositional`,
  `Subspace`, `LowRank`, `TensorTrain`, `Robe`, `DeepHash`.
- in codes or integers: `MGQE`, `DPQ`, `IntTable`, `ALPT`; as wide as it should be: `MixedDimension`, `AutoDim`,
  `OptEmbed`; pruned: `DeepLight`, `AutoSrh`, `PEP`; by frequency or likeness: `Adaptive`, `Deduplicated`.
- what tables compile to: `DenseRows`, `CodedRows`, `SparseRows`, `CoordinateRows`, `Frozen`.
- beneath them: `RowStore` and `Overlay` (rows in memory or mapped), `Prefetcher` and `LFU` (rows before they are
  needed), `Engram` and `LongestNGram` (keys of token ids), `RowAdam` and `StoreAdam` (optimisers by row).

Tables are torch (extra `train`), imported when first used; stores and what reads them are numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.tables.adaptive import Adaptive
    from inlay.tables.auto_dim import AutoDim, Projected, ProjectedRows
    from inlay.tables.auto_srh import AutoSrh
    from inlay.tables.compiled import CodedRows, CoordinateRows, DenseRows, SparseRows
    from inlay.tables.compositional import Compositional
    from inlay.tables.deduplicated import Deduplicated
    from inlay.tables.deduplication import Deduplication
    from inlay.tables.deep_hash import DeepHash
    from inlay.tables.deep_light import DeepLight
    from inlay.tables.full import Full
    from inlay.tables.hashed import Hashed
    from inlay.tables.keyers import Engram, LongestNGram
    from inlay.tables.keyspace import KeySpace
    from inlay.tables.lfu import LFU
    from inlay.tables.low_rank import LowRank
    from inlay.tables.mgqe import DPQ, MGQE
    from inlay.tables.mixed_dimension import MixedDimension
    from inlay.tables.multi_hash import HashEmbed, Maxout, MultiEmbed, MultiHash
    from inlay.tables.narrow import CompiledNarrow, NarrowRows
    from inlay.tables.opt_embed import OptEmbed
    from inlay.tables.overlay import Overlay
    from inlay.tables.pep import PEP
    from inlay.tables.per_field import CompiledFields, PerField
    from inlay.tables.prefetcher import Prefetcher
    from inlay.tables.quantised import ALPT, IntTable
    from inlay.tables.robe import Robe
    from inlay.tables.row_adam import RowAdam
    from inlay.tables.row_store import RowStore
    from inlay.tables.store_adam import StoreAdam
    from inlay.tables.subspace import Subspace, SubspaceHead
    from inlay.tables.table import Compiled, Frozen, Table
    from inlay.tables.tensor_train import TensorTrain
    from inlay.tables.unified import Unified, UnifiedFields

_HOMES = {
    "ALPT": "quantised",
    "Adaptive": "adaptive",
    "AutoDim": "auto_dim",
    "AutoSrh": "auto_srh",
    "CodedRows": "compiled",
    "Compiled": "table",
    "CompiledFields": "per_field",
    "CompiledNarrow": "narrow",
    "Compositional": "compositional",
    "CoordinateRows": "compiled",
    "DPQ": "mgqe",
    "Deduplicated": "deduplicated",
    "Deduplication": "deduplication",
    "DeepHash": "deep_hash",
    "DeepLight": "deep_light",
    "DenseRows": "compiled",
    "Engram": "keyers",
    "Frozen": "table",
    "Full": "full",
    "HashEmbed": "multi_hash",
    "Hashed": "hashed",
    "IntTable": "quantised",
    "KeySpace": "keyspace",
    "LFU": "lfu",
    "LongestNGram": "keyers",
    "LowRank": "low_rank",
    "MGQE": "mgqe",
    "Maxout": "multi_hash",
    "MixedDimension": "mixed_dimension",
    "MultiEmbed": "multi_hash",
    "MultiHash": "multi_hash",
    "NarrowRows": "narrow",
    "OptEmbed": "opt_embed",
    "Overlay": "overlay",
    "PEP": "pep",
    "PerField": "per_field",
    "Prefetcher": "prefetcher",
    "Projected": "auto_dim",
    "ProjectedRows": "auto_dim",
    "Robe": "robe",
    "RowAdam": "row_adam",
    "RowStore": "row_store",
    "SparseRows": "compiled",
    "StoreAdam": "store_adam",
    "Subspace": "subspace",
    "SubspaceHead": "subspace",
    "Table": "table",
    "TensorTrain": "tensor_train",
    "Unified": "unified",
    "UnifiedFields": "unified",
}

__all__ = [
    "ALPT",
    "DPQ",
    "LFU",
    "MGQE",
    "PEP",
    "Adaptive",
    "AutoDim",
    "AutoSrh",
    "CodedRows",
    "Compiled",
    "CompiledFields",
    "CompiledNarrow",
    "Compositional",
    "CoordinateRows",
    "Deduplicated",
    "Deduplication",
    "DeepHash",
    "DeepLight",
    "DenseRows",
    "Engram",
    "Frozen",
    "Full",
    "HashEmbed",
    "Hashed",
    "IntTable",
    "KeySpace",
    "LongestNGram",
    "LowRank",
    "Maxout",
    "MixedDimension",
    "MultiEmbed",
    "MultiHash",
    "NarrowRows",
    "OptEmbed",
    "Overlay",
    "PerField",
    "Prefetcher",
    "Projected",
    "ProjectedRows",
    "Robe",
    "RowAdam",
    "RowStore",
    "SparseRows",
    "StoreAdam",
    "Subspace",
    "SubspaceHead",
    "Table",
    "TensorTrain",
    "Unified",
    "UnifiedFields",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, what="embedding tables", extra="train", needs=("torch",))
