"""Edits that stay: other rows for token ids, wherever they occur, kept as a small file.

    change = injection(model, [spain], [germany])
    change.save("spain.edit")
    with injected(model, Overlay.load("spain.edit")):     # for a while, whatever the tables are
        …
    inject(model, change)                                 # for good

An `Overlay` holds the rows of all STEM layers for some token ids. `injected` lays it on the layers and is taken back,
to the bit, by leaving it; `inject` writes into the tables.

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639), knowledge injection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.lm.cache import KeyValueCache
from inlay.lm.decoder import Decoder
from inlay.lm.editing import How, _ids, means, on_top, spread_targets
from inlay.lm.offloaded_rows import OffloadedRows
from inlay.lm.stem import Stem, stem_parts
from inlay.tables.full import Full
from inlay.tables.overlay import Overlay

__all__ = ["inject", "injected", "injection"]


def injection(
    model: Decoder, token_ids: Any, target_ids: Any, how: How = "average", *, keep: Sequence[int] | None = None,
    counts: Any = None,
) -> Overlay:  # fmt: skip
    """The rows that the source's tokens get, as an overlay [tokens, layers, hidden].

    Args:
        model: with STEM parts, in memory or offloaded.
        token_ids: ids of the source's tokens, in their order, each once.
        target_ids: ids of the target's tokens.
        how: as in `edit`; a padded token keeps its rows and is left out.
        keep: as in `edit`.
        counts: as in `edit`.
    """
    parts = stem_parts(model)
    sources = _ids(token_ids, model.vocab, "token_ids")
    if len(set(sources)) < len(sources):
        raise BadInput(f"a token has one row; token_ids {sources} name one twice, edit its positions instead")
    targets = _ids(target_ids, model.vocab, "target_ids")
    made = spread_targets(parts, len(sources), targets, how, keep, counts)
    rows = torch.stack([means(part, [tokens for _, tokens in made]).cpu() for part in parts.values()], 1)
    return Overlay([sources[source] for source, _ in made], rows.numpy())


@contextmanager
def injected(model: Decoder, overlay: Overlay) -> Iterator[None]:
    """Read an overlay's rows for its token ids in any text, while the context lasts; tables may be of any kind."""
    parts = stem_parts(model)
    _fitting(overlay, model, parts)
    if not len(overlay):
        yield
        return
    keys, rows = torch.from_numpy(overlay.keys.copy()), torch.from_numpy(overlay.rows.copy())
    with on_top(parts, {layer: _Tokens(keys, rows[:, slot]) for slot, (layer, _) in enumerate(parts.items())}):
        yield


@torch.no_grad()
def inject(model: Decoder, overlay: Overlay) -> None:
    """Write an overlay's rows into the tables, for good.

    A row owes its optimiser the decay of steps that did not touch it: let that be paid (`flush`) before, if the model
    is to be trained further.

    Args:
        model: with STEM parts whose tables hold a row a token (`Full`), or offloaded.
        overlay: as `injection` makes it.
    """
    parts = stem_parts(model)
    _fitting(overlay, model, parts)
    for layer, part in parts.items():
        if not isinstance(part.table, Full | OffloadedRows):
            raise BadInput(
                f"the {type(part.table).__name__} of layer {layer} makes rows of what tokens share, and none can be "
                "written alone; use injected(model, overlay)"
            )
    stores = [part.table.shelf.store for part in parts.values() if isinstance(part.table, OffloadedRows)]
    if stores:
        stores[0].apply(overlay)
        return
    for slot, part in enumerate(parts.values()):
        weight: Tensor = part.table.weight  # type: ignore[assignment]
        weight[overlay.keys] = torch.from_numpy(overlay.rows[:, slot]).to(weight.device, weight.dtype)


class _Tokens:
    """Rows float32 [n, hidden] that n ascending token ids have."""

    def __init__(self, keys: Tensor, rows: Tensor) -> None:
        self.keys, self.rows = keys, rows

    def __call__(self, row: Tensor, ids: Tensor, cache: KeyValueCache | None) -> Tensor:
        keys = self.keys.to(ids.device)
        place = torch.searchsorted(keys, ids.contiguous()).clamp(max=len(keys) - 1)
        here = (keys[place] == ids)[..., None]
        return torch.where(here, self.rows.to(row.device, row.dtype)[place], row)


def _fitting(overlay: Overlay, model: Decoder, parts: dict[int, Stem]) -> None:
    if not len(overlay):
        return
    _ids(overlay.keys, model.vocab, "the overlay")
    widths = {int(part.table.dim) for part in parts.values()}  # type: ignore[arg-type]
    if overlay.rows.shape[1] != len(parts) or {overlay.rows.shape[2]} != widths:
        raise BadInput(
            f"the overlay has {overlay.rows.shape[1]} layers of width {overlay.rows.shape[2]}, "
            f"the decoder {len(parts)} of width {', '.join(map(str, sorted(widths)))}; make it with injection(model, …)"
        )
