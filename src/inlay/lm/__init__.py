"""Language models built round tables: one decoder with sockets, and what papers put into them.

- `Decoder`: pre-norm blocks with sockets for input, position, attention, feed-forward, norms, what comes before a
  block, and linear maps; `KeyValueCache`, `Rotary`, `SwiGLU`.
- STEM: `Stem` (a row for each token), `stem_decoder`, `from_dense`; its control `HashExperts`.
- Engram: `Engram`, `engram_parts`, `fold_tokens`, `allocate`, `gate_map`.
- SCONE: `mine_fgrams` → `FGrams`, `Scone`, its control `DirectNGrams`, `compile_inputs` → `CompiledInputs`.
- MemoryFormer: `MemoryLinear` and `BucketUsage`, `MemoryFeedForward`, `memoryformer`, `block_cost`.
- Frozen glyphs: `glyph_rows`, `glyph_table`, `frozen_table`, `Adapter`, `UnicodeTokenizer`; fonts by `open_font`.
- Learning: `learn_tokenizer`, `encode`, `split_documents`, `Packed`, `Trainer`, `validation_loss`, `flops_per_token`;
  `Plan`, all of it from a TOML file.
- A trained one: `offload` (rows in a store), `edit`, `edit_text`, `injected` (rows exchanged), `angular_spread`,
  `context_capacity`, `hidden_words`, `lens`, `similarity`.
- Hugging Face: `graft_stem`, `graft_engram`, `load_grafted`, `decoder_from_llama`, `llama_from_decoder`.

Everything here is torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.lm.adapter import Adapter
    from inlay.lm.allocation import allocate
    from inlay.lm.bitmap_font import BitmapFont, read_bdf, read_hex
    from inlay.lm.cache import KeyValueCache
    from inlay.lm.capacity import Capacity, Demand, context_capacity, traffic_of
    from inlay.lm.compiled_inputs import CompiledInputs, compile_inputs
    from inlay.lm.decoder import Decoder
    from inlay.lm.direct_ngrams import DirectNGrams
    from inlay.lm.edit_figures import EditFigures
    from inlay.lm.editing import TextEdit, edit, edit_text, edited_ids
    from inlay.lm.engram import Engram, engram_parts
    from inlay.lm.feed_forward import SwiGLU, hidden_width
    from inlay.lm.flops import Flops, flops_per_token
    from inlay.lm.frequent_ngrams import FGrams, mine_fgrams
    from inlay.lm.gates import gate_map
    from inlay.lm.glyphs import frozen_table, glyph_rows, glyph_table
    from inlay.lm.graft import graft_stem, replace_table, upcycling_cosines
    from inlay.lm.graft_ids import edited
    from inlay.lm.grafted_engram import graft_engram
    from inlay.lm.grafted_files import load_grafted
    from inlay.lm.hash_experts import HashExperts
    from inlay.lm.hidden_neighbours import HiddenWords, hidden_words
    from inlay.lm.injecting import inject, injected, injection
    from inlay.lm.layer_lens import cka, lens, similarity
    from inlay.lm.llama import decoder_from_llama, llama_from_decoder
    from inlay.lm.memory_block import MemoryFeedForward, block_cost, memoryformer
    from inlay.lm.memory_linear import BucketUsage, MemoryLinear
    from inlay.lm.offloading import Offloaded, offload
    from inlay.lm.outline_font import OutlineFont, open_font
    from inlay.lm.packing import Packed
    from inlay.lm.plan import Plan
    from inlay.lm.positions import Rotary
    from inlay.lm.scone import Scone
    from inlay.lm.spread import Spread, angular_spread, token_vectors
    from inlay.lm.stem import Stem, from_dense, stem_decoder, stem_parts
    from inlay.lm.text import encode, learn_tokenizer, split_documents
    from inlay.lm.token_folding import fold_tokens
    from inlay.lm.trainer import Trainer, validation_loss
    from inlay.lm.unicode_tokenizer import UnicodeTokenizer

_HOMES = {
    "Adapter": "adapter",
    "BitmapFont": "bitmap_font",
    "BucketUsage": "memory_linear",
    "Capacity": "capacity",
    "CompiledInputs": "compiled_inputs",
    "Decoder": "decoder",
    "Demand": "capacity",
    "DirectNGrams": "direct_ngrams",
    "EditFigures": "edit_figures",
    "Engram": "engram",
    "FGrams": "frequent_ngrams",
    "Flops": "flops",
    "HashExperts": "hash_experts",
    "HiddenWords": "hidden_neighbours",
    "KeyValueCache": "cache",
    "MemoryFeedForward": "memory_block",
    "MemoryLinear": "memory_linear",
    "Offloaded": "offloading",
    "OutlineFont": "outline_font",
    "Packed": "packing",
    "Plan": "plan",
    "Rotary": "positions",
    "Scone": "scone",
    "Spread": "spread",
    "Stem": "stem",
    "SwiGLU": "feed_forward",
    "TextEdit": "editing",
    "Trainer": "trainer",
    "UnicodeTokenizer": "unicode_tokenizer",
    "allocate": "allocation",
    "angular_spread": "spread",
    "block_cost": "memory_block",
    "cka": "layer_lens",
    "compile_inputs": "compiled_inputs",
    "context_capacity": "capacity",
    "decoder_from_llama": "llama",
    "edit": "editing",
    "edit_text": "editing",
    "edited": "graft_ids",
    "edited_ids": "editing",
    "encode": "text",
    "engram_parts": "engram",
    "flops_per_token": "flops",
    "fold_tokens": "token_folding",
    "from_dense": "stem",
    "frozen_table": "glyphs",
    "gate_map": "gates",
    "glyph_rows": "glyphs",
    "glyph_table": "glyphs",
    "graft_engram": "grafted_engram",
    "graft_stem": "graft",
    "hidden_width": "feed_forward",
    "hidden_words": "hidden_neighbours",
    "inject": "injecting",
    "injected": "injecting",
    "injection": "injecting",
    "learn_tokenizer": "text",
    "lens": "layer_lens",
    "llama_from_decoder": "llama",
    "load_grafted": "grafted_files",
    "memoryformer": "memory_block",
    "mine_fgrams": "frequent_ngrams",
    "offload": "offloading",
    "open_font": "outline_font",
    "read_bdf": "bitmap_font",
    "read_hex": "bitmap_font",
    "replace_table": "graft",
    "similarity": "layer_lens",
    "split_documents": "text",
    "stem_decoder": "stem",
    "stem_parts": "stem",
    "token_vectors": "spread",
    "traffic_of": "capacity",
    "upcycling_cosines": "graft",
    "validation_loss": "trainer",
}

__all__ = [
    "Adapter",
    "BitmapFont",
    "BucketUsage",
    "Capacity",
    "CompiledInputs",
    "Decoder",
    "Demand",
    "DirectNGrams",
    "EditFigures",
    "Engram",
    "FGrams",
    "Flops",
    "HashExperts",
    "HiddenWords",
    "KeyValueCache",
    "MemoryFeedForward",
    "MemoryLinear",
    "Offloaded",
    "OutlineFont",
    "Packed",
    "Plan",
    "Rotary",
    "Scone",
    "Spread",
    "Stem",
    "SwiGLU",
    "TextEdit",
    "Trainer",
    "UnicodeTokenizer",
    "allocate",
    "angular_spread",
    "block_cost",
    "cka",
    "compile_inputs",
    "context_capacity",
    "decoder_from_llama",
    "edit",
    "edit_text",
    "edited",
    "edited_ids",
    "encode",
    "engram_parts",
    "flops_per_token",
    "fold_tokens",
    "from_dense",
    "frozen_table",
    "gate_map",
    "glyph_rows",
    "glyph_table",
    "graft_engram",
    "graft_stem",
    "hidden_width",
    "hidden_words",
    "inject",
    "injected",
    "injection",
    "learn_tokenizer",
    "lens",
    "llama_from_decoder",
    "load_grafted",
    "memoryformer",
    "mine_fgrams",
    "offload",
    "open_font",
    "read_bdf",
    "read_hex",
    "replace_table",
    "similarity",
    "split_documents",
    "stem_decoder",
    "stem_parts",
    "token_vectors",
    "traffic_of",
    "upcycling_cosines",
    "validation_loss",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, what="language models", extra="train", needs=("torch",))
