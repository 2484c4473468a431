"""Language models built round tables: one decoder with sockets, and what papers put into them.

- `Decoder`: pre-norm blocks with sockets for input, position, feed-forward, what comes before a block, and linear maps.
- feed-forward parts: `SwiGLU` (dense), `Stem` (a row for each token), `HashExperts` (a network for each token).
- `stem_decoder`, a decoder with STEM in some layers; `from_dense`, the STEM part that a trained dense one becomes.
- `KeyValueCache`, `Rotary`.

Everything here is torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        from inlay.errors import MissingExtra

        raise MissingExtra("language models", "train") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
