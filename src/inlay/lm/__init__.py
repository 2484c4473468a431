"""Language models built round tables: one decoder with sockets, and what papers put into them.

- `Decoder`: pre-norm blocks with sockets for input, position, feed-forward, what comes before a block, and linear maps.
- feed-forward parts: `SwiGLU` (dense), `Stem` (a row for each token), `HashExperts` (a network for each token).
- `stem_decoder`, a decoder with STEM in some layers; `from_dense`, the STEM part that a trained dense one becomes.
- `KeyValueCache`, `Rotary`.

Everything here is torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.lm.cache import KeyValueCache
    from inlay.lm.decoder import Decoder
    from inlay.lm.feed_forward import SwiGLU, hidden_width
    from inlay.lm.hash_experts import HashExperts
    from inlay.lm.positions import Rotary
    from inlay.lm.stem import Stem, from_dense, stem_decoder

_HOMES = {
    "Decoder": "decoder",
    "HashExperts": "hash_experts",
    "KeyValueCache": "cache",
    "Rotary": "positions",
    "Stem": "stem",
    "SwiGLU": "feed_forward",
    "from_dense": "stem",
    "hidden_width": "feed_forward",
    "stem_decoder": "stem",
}

__all__ = [
    "Decoder",
    "HashExperts",
    "KeyValueCache",
    "Rotary",
    "Stem",
    "SwiGLU",
    "from_dense",
    "hidden_width",
    "stem_decoder",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, what="language models", extra="train", needs=("torch",))
