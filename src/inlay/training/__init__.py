"""How encoders are learnt: sources → mining and filters → batches → a model → weighted loss terms → stages → after.

`inlay train RECIPE` runs a recipe; the parts below make one. Each is small and fits the next:

- rows: `Example`, `read`, `write`; `Source` and its builders in `inlay.training.sources`.
- better rows: `mine`, `dedupe`, `decontaminate`, `consistent`.
- batches: `Batcher` with a choice of `mixed`, `one_source`, `quota`, `by_length`, `by_loss`; views `Prefix`,
  `TitleText`, `Wrap`.
- models: `StaticBag` (a token table), `Transformer` (a local Hugging Face folder); compressed vocabulary tables; sparse
  ones: `Splade`, `SparseHead`, and what their rows cost, `sparse_cost`.
- losses, each a term over a `Pool` of vectors: `InfoNCE`, `EmbedMatch`, `GramMatch`, `OrderMatch`, `Listwise`,
  `SpreadOut`, `CoSENT`, `Flops`; `Matryoshka` wraps one, `Sum` weighs several.
- codes that are learnt with what they serve: `JointPQ` (in an item tower, `TwoTower`), `ContrastivePQ` and then a
  `DenseHead` over `LocalityBatches`, `learn_binary`.
- training: `Teacher` (vectors computed once), `Stage`, `Trainer`, `Recipe`.
- analysis: `learn_free_embeddings`, vectors for a table of judgments, without text (needs no torch).
- after: `soup`, `task_arithmetic`, `slerp`, `truncate_dims`, `quantise_table`; `write_card`.

Everything is plain torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.training.after import quantise_table, slerp, soup, task_arithmetic, truncate_dims
    from inlay.training.batching import Batch, Batcher, by_length, by_loss, mixed, one_source, quota
    from inlay.training.binarisation import learn_binary
    from inlay.training.cached import cached_backward
    from inlay.training.card import write_card
    from inlay.training.contrastive_product import ContrastivePQ
    from inlay.training.cosent import CoSENT
    from inlay.training.dense_head import DenseHead
    from inlay.training.distillation import EmbedMatch, GramMatch, Listwise, OrderMatch
    from inlay.training.example import Example, read, write
    from inlay.training.flops import Flops
    from inlay.training.free_embeddings import FreeEmbeddings, all_subsets, learn_free_embeddings
    from inlay.training.index_negatives import mined_lists
    from inlay.training.info_nce import InfoNCE, LearntScale, hardness
    from inlay.training.joint_product import JointPQ
    from inlay.training.locality_batches import LocalityBatches, RandomBatches
    from inlay.training.matryoshka import Matryoshka
    from inlay.training.mining import consistent, decontaminate, dedupe, mine
    from inlay.training.models import Model
    from inlay.training.posting_cost import SparseCost, sparse_cost
    from inlay.training.recipe import Recipe
    from inlay.training.scores import Pool
    from inlay.training.sources import Source
    from inlay.training.sparse_head import SparseHead
    from inlay.training.splade import Splade
    from inlay.training.spread_out import SpreadOut
    from inlay.training.stage import Stage
    from inlay.training.static_bag import StaticBag
    from inlay.training.tables import LowRankTable, ProductTable
    from inlay.training.teacher import Teacher, concat
    from inlay.training.total import Sum
    from inlay.training.trainer import Trainer
    from inlay.training.transformer import Transformer
    from inlay.training.two_tower import TwoTower
    from inlay.training.views import Prefix, TitleText, Wrap

_HOMES = {
    "Batch": "batching",
    "Batcher": "batching",
    "CoSENT": "cosent",
    "ContrastivePQ": "contrastive_product",
    "DenseHead": "dense_head",
    "EmbedMatch": "distillation",
    "Example": "example",
    "Flops": "flops",
    "FreeEmbeddings": "free_embeddings",
    "GramMatch": "distillation",
    "InfoNCE": "info_nce",
    "JointPQ": "joint_product",
    "LearntScale": "info_nce",
    "Listwise": "distillation",
    "LocalityBatches": "locality_batches",
    "LowRankTable": "tables",
    "Matryoshka": "matryoshka",
    "Model": "models",
    "OrderMatch": "distillation",
    "Pool": "scores",
    "Prefix": "views",
    "ProductTable": "tables",
    "RandomBatches": "locality_batches",
    "Recipe": "recipe",
    "Source": "sources",
    "SparseCost": "posting_cost",
    "SparseHead": "sparse_head",
    "Splade": "splade",
    "SpreadOut": "spread_out",
    "Stage": "stage",
    "StaticBag": "static_bag",
    "Sum": "total",
    "Teacher": "teacher",
    "TitleText": "views",
    "Trainer": "trainer",
    "Transformer": "transformer",
    "TwoTower": "two_tower",
    "Wrap": "views",
    "all_subsets": "free_embeddings",
    "by_length": "batching",
    "by_loss": "batching",
    "cached_backward": "cached",
    "concat": "teacher",
    "consistent": "mining",
    "decontaminate": "mining",
    "dedupe": "mining",
    "hardness": "info_nce",
    "learn_binary": "binarisation",
    "learn_free_embeddings": "free_embeddings",
    "mine": "mining",
    "mined_lists": "index_negatives",
    "mixed": "batching",
    "one_source": "batching",
    "quantise_table": "after",
    "quota": "batching",
    "read": "example",
    "slerp": "after",
    "soup": "after",
    "sparse_cost": "posting_cost",
    "task_arithmetic": "after",
    "truncate_dims": "after",
    "write": "example",
    "write_card": "card",
}

__all__ = [
    "Batch",
    "Batcher",
    "CoSENT",
    "ContrastivePQ",
    "DenseHead",
    "EmbedMatch",
    "Example",
    "Flops",
    "FreeEmbeddings",
    "GramMatch",
    "InfoNCE",
    "JointPQ",
    "LearntScale",
    "Listwise",
    "LocalityBatches",
    "LowRankTable",
    "Matryoshka",
    "Model",
    "OrderMatch",
    "Pool",
    "Prefix",
    "ProductTable",
    "RandomBatches",
    "Recipe",
    "Source",
    "SparseCost",
    "SparseHead",
    "Splade",
    "SpreadOut",
    "Stage",
    "StaticBag",
    "Sum",
    "Teacher",
    "TitleText",
    "Trainer",
    "Transformer",
    "TwoTower",
    "Wrap",
    "all_subsets",
    "by_length",
    "by_loss",
    "cached_backward",
    "concat",
    "consistent",
    "decontaminate",
    "dedupe",
    "hardness",
    "learn_binary",
    "learn_free_embeddings",
    "mine",
    "mined_lists",
    "mixed",
    "one_source",
    "quantise_table",
    "quota",
    "read",
    "slerp",
    "soup",
    "sparse_cost",
    "task_arithmetic",
    "truncate_dims",
    "write",
    "write_card",
]

__getattr__, __dir__ = lazy(
    __name__,
    _HOMES,
    what="training recipes",
    extra="train",
    needs=("torch", "transformers", "tokenizers", "safetensors"),
)
