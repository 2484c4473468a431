"""Will this be clicked? Categories and counts to a probability: the models that embedding tables are measured in.

- `criteo`, `movielens`: click logs as `ClickSplits` of `Clicks`.
- `DCN`, `DLRM`, `DeepFM`, `WideDeep`: models over the rows of any table.
- `fit`: trains one, also with tables that want several stages; gives a `Fitted`.

Everything here is torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.clicks.data import Clicks, ClickSplits, criteo, movielens
    from inlay.clicks.heads import DCN, DLRM, ClickModel, DeepFM, WideDeep
    from inlay.clicks.trainer import Fitted, fit

_HOMES = {
    "ClickModel": "heads",
    "ClickSplits": "data",
    "Clicks": "data",
    "DCN": "heads",
    "DLRM": "heads",
    "DeepFM": "heads",
    "Fitted": "trainer",
    "WideDeep": "heads",
    "criteo": "data",
    "fit": "trainer",
    "movielens": "data",
}

__all__ = [
    "DCN",
    "DLRM",
    "ClickModel",
    "ClickSplits",
    "Clicks",
    "DeepFM",
    "Fitted",
    "WideDeep",
    "criteo",
    "fit",
    "movielens",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, what="click models", extra="train", needs=("torch",))
