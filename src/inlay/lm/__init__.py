"""Language models built round tables: one decoder with sockets, and what papers put into them.

- `Decoder`: pre-norm blocks with sockets for input, position, feed-forward, what comes before a block, and linear maps.
- feed-forward parts: `SwiGLU` (dense), `Stem` (a row for each token), `HashExperts` (a network for each token).
- `stem_decoder`, a decoder with STEM in some layers; `from_dense`, the STEM part that a trained dense one becomes.
- `learn_tokenizer`, `encode`, `split_documents`, `Packed`: text as they read it.
- `Trainer`, `validation_loss`: learning.
- `KeyValueCache`, `Rotary`; `flops_per_token`.

Everything here is torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.lm.cache import KeyValueCache
    from inlay.lm.decoder import Decoder
    from inlay.lm.feed_forward import SwiGLU, hidden_width
    from inlay.lm.flops import flops_per_token
    from inlay.lm.hash_experts import HashExperts
    from inlay.lm.packing import Packed
    from inlay.lm.positions import Rotary
    from inlay.lm.stem import Stem, from_dense, stem_decoder
    from inlay.lm.text import encode, learn_tokenizer, split_documents
    from inlay.lm.trainer import Trainer, validation_loss

_HOMES = {
    "Decoder": "decoder",
    "HashExperts": "hash_experts",
    "KeyValueCache": "cache",
    "Packed": "packing",
    "Rotary": "positions",
    "Stem": "stem",
    "SwiGLU": "feed_forward",
    "Trainer": "trainer",
    "encode": "text",
    "flops_per_token": "flops",
    "from_dense": "stem",
    "hidden_width": "feed_forward",
    "learn_tokenizer": "text",
    "split_documents": "text",
    "stem_decoder": "stem",
    "validation_loss": "trainer",
}

__all__ = [
    "Decoder",
    "HashExperts",
    "KeyValueCache",
    "Packed",
    "Rotary",
    "Stem",
    "SwiGLU",
    "Trainer",
    "encode",
    "flops_per_token",
    "from_dense",
    "hidden_width",
    "learn_tokenizer",
    "split_documents",
    "stem_decoder",
    "validation_loss",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, what="language models", extra="train", needs=("torch",))
