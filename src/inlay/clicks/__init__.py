"""Will this be clicked? Categories and counts to a probability: the models that embedding tables are measured in.

- `criteo`, `movielens`: click logs as `ClickSplits` of `Clicks`.
- `DCN`, `DLRM`, `DeepFM`, `WideDeep`: models over the rows of any table.
- `fit`: trains one, also with tables that want several stages; gives a `Fitted`.

Everything here is torch (extra `train`), imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        from inlay.errors import MissingExtra

        raise MissingExtra("click models", "train") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
