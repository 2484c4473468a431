"""AdamW over the rows of a store: what `RowAdam` is to a table in memory.

    optimiser = StoreAdam(store, lr=3e-3)
    rows = torch.from_numpy(store.rows(keys))
    rows *= optimiser.owed(keys)[:, None, None]      # the decay of steps that did not touch them
    … gradient of the rows, summed over all their occurrences …
    optimiser.step(keys, rows, gradient)             # writes the rows back

A step reads and writes the rows of a batch and their moments, and nothing else. The moments are two stores of the same
shape, in memory or in files; the step of its moments and the decay a row has paid are kept for a key, all of whose
layers are touched together. The arithmetic is `RowAdam`'s own.

Source: the table optimiser of STEM (arXiv 2601.10639), row-sparse and outside of the accelerator.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.tables.deduplication import checked
from inlay.tables.row_adam import RowAdam, _update
from inlay.tables.row_store import RowStore

__all__ = ["StoreAdam"]

KIND = "row optimiser"
_AT_ONCE = 1 << 22  # numbers decayed at a time


class StoreAdam:
    """Row-sparse AdamW with lazy moments and lazy decay; see `RowAdam` for what that means.

    Args:
        store: of float32 rows that can be written; a narrower type would round small steps away.
        lr: learning rate; a schedule sets `param_groups[0]["lr"]`.
        betas: of the moments.
        eps: added to the root.
        weight_decay: decoupled.
        multiplier: of the learning rate.
        clip: largest norm of a batch's gradient; None for none.
        moments: a folder for mapped files of the moments; None: in memory.
    """

    def __init__(
        self, store: RowStore, lr: float = 1e-3, *, betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8,
        weight_decay: float = 0.1, multiplier: float = 1.0, clip: float | None = 1.0,
        moments: str | Path | None = None,
    ) -> None:  # fmt: skip
        if store.dtype != "float32":
            raise BadInput(f"rows of {store.dtype} cannot be learnt, small steps would be lost; use a float32 store")
        self.store = store
        self._rule = RowAdam(
            [torch.zeros(1)], lr, betas=betas, eps=eps, weight_decay=weight_decay, multiplier=multiplier, clip=clip
        )  # its settings, checks and clipping; it never steps itself
        self.steps, self.log_decay = 0, 0.0
        self.touched = np.zeros(store.nrows, dtype=np.int32)
        self.decayed = np.zeros(store.nrows, dtype=np.float64)
        shape: dict[str, Any] = {"rows": store.nrows, "width": store.width, "layers": store.layers}
        if moments is None:
            self.first, self.second = RowStore.zeros(**shape), RowStore.zeros(**shape)
        else:
            Path(moments).mkdir(parents=True, exist_ok=True)
            self.first, self.second = (RowStore.create(Path(moments) / f"{name}.rows", **shape) for name in _MOMENTS)

    def __repr__(self) -> str:
        return f"StoreAdam({self.store!r}, steps={self.steps}, lr={self.param_groups[0]['lr']})"

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """One group, with lr, betas, eps, weight_decay and multiplier."""
        return self._rule.param_groups

    def owed(self, keys: Any) -> Tensor:
        """Factors float32 [n] by which rows of keys [n] must be multiplied before they are read: decay not yet paid."""
        flat = checked(keys, self.store.nrows)
        return torch.exp(self.log_decay - torch.from_numpy(self.decayed[flat])).float()

    @torch.no_grad()
    def step(self, keys: Any, rows: Tensor, gradient: Tensor) -> None:
        """Take a step of some rows and write them back; all others owe its decay.

        Args:
            keys: int [n], each once.
            rows: float32 [n, layers, width] ([n, width] of a store without layers), as read and multiplied by `owed`.
            gradient: the same shape, summed over all occurrences of a key.
        """
        flat = checked(keys, self.store.nrows)
        if len(np.unique(flat)) < len(flat):
            raise BadInput("a step takes each key once; sum the gradients of those that occur again")
        wanted = (len(flat), *self.store.row_shape)
        for what, given in (("rows", rows), ("gradient", gradient)):
            if tuple(given.shape) != wanted:
                raise BadInput(f"expected {what} {wanted}, got {tuple(given.shape)}")
            if not torch.isfinite(given).all():
                raise BadInput(f"the {what} hold NaN or infinity; nothing was changed")
        group = self.param_groups[0]
        lr = group["lr"] * group["multiplier"]
        owed = lr * group["weight_decay"]
        if owed >= 1:
            raise BadInput(f"lr · multiplier · weight_decay must stay below 1, got {owed:g}; lower one of them")
        gradient = gradient.detach().cpu().float()
        scale = self._rule._scale([gradient])
        table = rows.detach().cpu().contiguous().clone()
        state: dict[str, Any] = {
            "first": torch.from_numpy(self.first.rows(flat)),
            "second": torch.from_numpy(self.second.rows(flat)),
            "touched": torch.from_numpy(self.touched[flat]),
            "decayed": torch.full((len(flat),), self.log_decay, dtype=torch.float64),  # `owed` has paid it
            "step": self.steps + 1,
            "log_decay": self.log_decay + math.log1p(-owed),
        }
        _update(table, None, gradient if scale is None else gradient * scale, state, group, lr)
        self.store.write(flat, table.numpy())
        self.first.write(flat, state["first"].numpy())
        self.second.write(flat, state["second"].numpy())
        self.steps, self.log_decay = state["step"], state["log_decay"]
        self.touched[flat], self.decayed[flat] = self.steps, self.log_decay

    def flush(self) -> None:
        """Pay the decay that every row owes: before rows are used without this optimiser."""
        step = max(1, _AT_ONCE // math.prod(self.store.row_shape))
        for start in range(0, self.store.nrows, step):
            keys = np.arange(start, min(start + step, self.store.nrows))
            keys = keys[self.decayed[keys] != self.log_decay]
            factors = self.owed(keys).numpy().reshape(-1, *[1] * len(self.store.row_shape))
            self.store.write(keys, self.store.rows(keys) * factors)
            self.decayed[keys] = self.log_decay

    def save(self, folder: str | Path, *, shards: int | None = None) -> Path:
        """Write moments, counters and settings to a folder that holds none yet. The rows are the store's to save.

        Args:
            folder: made if it is not there.
            shards: cut the columns of the moments anew; None keeps the cuts.
        """
        folder = Path(folder)
        if (folder / _COUNTERS).exists():
            raise BadInput(f"{folder} holds an optimiser already; save to another folder, then remove this one")
        folder.mkdir(parents=True, exist_ok=True)
        for name, moments in zip(_MOMENTS, (self.first, self.second)):
            moments.save(folder / f"{name}.rows", shards=shards)
        facts = {"kind": KIND, "steps": self.steps, "log decay": self.log_decay, "clip": self._rule.clip}
        kept = {name: self.param_groups[0][name] for name in ("lr", "betas", "eps", "weight_decay", "multiplier")}
        arrays = {"touched": self.touched, "decayed": self.decayed}
        sealed.write(folder / _COUNTERS, arrays, facts | {"settings": kept})  # last: it says that all is there
        return folder

    @classmethod
    def load(cls, folder: str | Path, store: RowStore, *, placement: Literal["mmap", "ram"] = "ram") -> Self:
        """Read what `save` wrote, to go on with the rows that were saved with it.

        Args:
            folder: as given to `save`.
            store: the rows.
            placement: "mmap" goes on in the folder's own files.

        Raises:
            Corrupt: a file is damaged or cut short.
        """
        folder = Path(folder)
        arrays, facts = sealed.read(folder / _COUNTERS, KIND)
        made = cls.__new__(cls)
        try:
            settings = facts["settings"] | {"betas": tuple(facts["settings"]["betas"])}
            made._rule = RowAdam([torch.zeros(1)], clip=facts["clip"], **settings)
            made.steps, made.log_decay = facts["steps"], facts["log decay"]
            made.touched, made.decayed = arrays["touched"].copy(), arrays["decayed"].copy()
        except (KeyError, TypeError) as error:
            raise Corrupt(f"{folder / _COUNTERS} does not fit its own settings ({error!r}); {sealed.REPAIR}") from None
        opened = [
            RowStore.open(folder / f"{name}.rows", placement=placement, writable=placement == "mmap")
            for name in _MOMENTS
        ]
        made.store, (made.first, made.second) = store, opened
        for moments in opened:
            if (moments.nrows, moments.row_shape) != (store.nrows, store.row_shape):
                raise BadInput(
                    f"the moments are of {moments.nrows} rows {moments.row_shape}, "
                    f"the store has {store.nrows} rows {store.row_shape}"
                )
        return made


_MOMENTS, _COUNTERS = ("first", "second"), "counters"
