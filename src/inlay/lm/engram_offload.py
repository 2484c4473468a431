"""Rows of an n-gram memory kept out of fast memory, and fetched while the blocks before it run.

    with offload_memory(model, "memory/") as memory:
        model.generate(ids)          # the same numbers, bit for bit
        memory.rows[1].fetcher.traffic.hit_rate

Keys need nothing but token ids. So all layers' are hashed when the decoder is called, a thread for each layer fetches
their rows, and a memory finds its own ready when its turn comes. N-grams are Zipfian: an LFU cache before the store
holds the common ones, the tail is read from a mapped file.

Source: Conditional Memory via Scalable Lookup (arXiv 2601.07372), which measures under 2.8% of throughput for 100B
parameters in host memory; the thread, buffers and cache are those of STEM (arXiv 2601.10639).
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.decoder import Decoder
from inlay.lm.engram import Engram
from inlay.tables.prefetcher import Prefetcher
from inlay.tables.row_store import RowStore

__all__ = ["MemoryOffload", "StoredRows", "offload_memory"]


class StoredRows(nn.Module):
    """Rows of a store as a table: int64 keys [...] → float32 rows [..., width], without gradients.

    Args:
        store: rows, one a key.
        capacity: rows of the cache through which they are fetched ahead; None: they are read when asked for.
    """

    def __init__(self, store: RowStore, capacity: int | None = None) -> None:
        super().__init__()
        if store.layers is not None:
            raise BadInput(
                f"an n-gram memory reads one row a key, this store has {store.layers}; give one without layers"
            )
        self.store, self.rows, self.dim = store, store.nrows, store.width
        self.fetcher = None if capacity is None else Prefetcher(store, capacity=min(capacity, store.nrows))
        self._ahead: deque[Tensor] = deque()

    def submit(self, keys: Tensor) -> None:
        """Say which keys [...] will be asked for next. Batches larger than the cache are left to be read in time."""
        if self.fetcher is not None and keys.numel() <= self.fetcher.capacity:
            self.fetcher.submit(keys.numpy())
            self._ahead.append(keys)

    def forward(self, keys: Tensor) -> Tensor:
        """Rows [..., width] of keys [...], on the CPU."""
        wanted = keys.cpu()
        while self._ahead:
            assert self.fetcher is not None
            keys, batch = self._ahead.popleft(), self.fetcher.take()
            if torch.equal(keys, wanted):  # else it was fetched for a call that never came
                return torch.from_numpy(batch.rows[batch.inverse])
        return torch.from_numpy(self.store.rows(wanted.numpy()))

    def close(self) -> None:
        """Stop the thread; rows are read when asked for from now on."""
        if self.fetcher is not None:
            self.fetcher.close()
            self.fetcher = None
            self._ahead.clear()

    def extra_repr(self) -> str:
        return repr(self.store)


class MemoryOffload:
    """The memory of a decoder while it lies in stores; made by `offload_memory`.

    Attributes:
        rows: layer → its rows, with `.store` and, while a thread fetches them, `.fetcher.traffic`.
    """

    def __init__(self, model: Decoder, rows: dict[int, StoredRows]) -> None:
        self.rows = rows
        self._hook = model.register_forward_pre_hook(_submit, with_kwargs=True)

    def __repr__(self) -> str:
        return f"MemoryOffload({', '.join(f'{layer}: {rows.store!r}' for layer, rows in self.rows.items())})"

    def close(self) -> None:
        """Stop the threads. The model goes on reading the stores, each row when it is asked for."""
        self._hook.remove()
        for rows in self.rows.values():
            rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def offload_memory(
    model: Decoder, folder: str | Path | None = None, *, dtype: str = "float32", capacity: int | None = 1 << 16
) -> MemoryOffload:
    """Move the tables of all `Engram` parts of a decoder into stores. It can be read from then on, not trained.

    Rows in a store have no gradients and are in no `state_dict`: save the model before.

    Args:
        model: a decoder; its tables are replaced by `StoredRows`, and freed unless somebody else holds them.
        folder: where a file for each layer is written (in place of an older one) and mapped; None: in memory.
        dtype: of stored rows; float32 keeps every bit, see `RowStore` for others.
        capacity: rows that each layer's cache holds; None: no thread and no cache.
    """
    parts: dict[int, Any] = {
        layer: block.before for layer, block in enumerate(model.blocks) if isinstance(block.before, Engram)
    }
    if not parts:
        raise BadInput("this decoder has no Engram before any block; make it with pre_block=engram_parts(...)")
    for layer, part in parts.items():
        if not hasattr(part.table, "materialize"):
            raise BadInput(f"the table of layer {layer} is a {type(part.table).__name__}, whose rows cannot be listed")
    for layer, part in parts.items():
        store = RowStore.of(part.table.cpu().materialize().numpy(), dtype=dtype)
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            store = RowStore.open(store.save(Path(folder) / f"engram-{layer}.rows"))
        part.table = StoredRows(store, capacity)
    return MemoryOffload(model, {layer: part.table for layer, part in parts.items()})


def _submit(model: Decoder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before the decoder runs: hash what all of its memories will read."""
    ids = kwargs.get("memory_ids")
    if ids is None:
        ids = args[0] if args else kwargs["ids"]
    cache = kwargs.get("cache")
    for block in model.blocks:
        part = block.before
        if isinstance(part, Engram) and part.enabled and isinstance(part.table, StoredRows):
            part.table.submit(part.keys(ids, None if cache is None else cache.memory_ids))
