"""STEM tables outside of the decoder: rows in a store, fetched ahead of the layers that read them.

    runtime = offload(model, "mmap:tables/", capacity=4096)
    runtime(ids).logits                       # as the model gives them
    runtime.generate(prompt, 100)
    runtime.traffic.hit_rate                  # of the cache of rows

The tables of all STEM layers become one `RowStore` [vocabulary, layers, hidden]: rows depend on ids alone, so all
layers of a token are fetched at once, before the first of them runs. Text is read in chunks of 128 tokens; while one is
computed, a thread gathers the distinct rows of the next (`Prefetcher`). A token that was just sampled cannot be known
ahead; rows used often stay in a cache (`LFU`). Inside a layer a row is `rows[layer][inverse]`: it sees places in the
buffer, never the table.

Rows are copied and nothing is computed anew, so logits do not depend on where the store is, on the capacity or on
prefetching, to the bit. Chunks do: a text in two chunks is rounded as one that is read in two parts with a cache.

    optimiser = StoreAdam(runtime.store, lr=3e-3)
    with runtime.learning(ids, optimiser):    # the batch's rows are a leaf; leaving takes its step
        runtime.loss(ids, targets).backward()

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639). Its released code has no tables outside of
the accelerator while training; that form is ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput, InlayError
from inlay.lm.cache import KeyValueCache
from inlay.lm.decoder import Decoder, Output
from inlay.lm.offloaded_rows import OffloadedRows, Shelf
from inlay.lm.staging import DeviceStaging, HostStaging
from inlay.lm.stem import Stem, stem_parts
from inlay.tables.full import Full
from inlay.tables.prefetcher import Batch, Prefetcher, Traffic
from inlay.tables.row_store import RowStore
from inlay.tables.store_adam import StoreAdam

__all__ = ["Offloaded", "offload"]

FILE = "stem.rows"
_AT_ONCE = 1 << 22  # numbers moved into the store at a time


class Offloaded(Decoder):
    """A decoder whose STEM rows are in a store. Made by `offload`; use it from one thread, and close it.

    Everything but the tables is shared with the model it was made of, whose layers read the store as well.
    """

    def __init__(self, model: Decoder, shelf: Shelf, capacity: int, prefetch: bool, chunk: int, owner: bool) -> None:
        super(Decoder, self).__init__()
        vars(self).update(vars(model))  # it is that decoder, read otherwise: no part is made anew
        self.chunk, self.prefetch = chunk, prefetch
        self.shelf, self._owner = shelf, owner
        self._ahead = Prefetcher(shelf.store, capacity=capacity)
        self._asked: deque[_Asked] = deque()
        device = next(self.parameters()).device
        self._staging: Any = DeviceStaging(device) if device.type == "cuda" else HostStaging()
        self._leaf: Tensor | None = None

    @property
    def store(self) -> RowStore:
        """Rows float32 [vocabulary, layers, hidden]; what is written to it, or laid on it, is read from then on."""
        return self.shelf.store

    @property
    def traffic(self) -> Traffic:
        """What was asked for, found in the cache, read from the store, and waited for."""
        return self._ahead.traffic

    @property
    def capacity(self) -> int:
        """Rows the cache holds."""
        return self._ahead.capacity

    def forward(
        self, ids: Tensor, *, memory_ids: Tensor | None = None, cache: KeyValueCache | None = None,
        capture: bool = False,
    ) -> Output:  # fmt: skip
        """As of a decoder; read chunk by chunk, by way of a cache of its own where none is given."""
        memory = self._checked(ids, memory_ids, cache)
        if self._leaf is not None:
            if not torch.equal(memory, self.shelf.ids):  # type: ignore[arg-type]
                raise BadInput("these are not the ids whose rows are being learnt; call learning(ids) with them")
            return super().forward(ids, memory_ids=self.shelf.ids, cache=cache, capture=capture)
        parts = list(zip(ids.split(self.chunk, 1), memory.split(self.chunk, 1)))
        if len(parts) > 1 and cache is None:
            cache = KeyValueCache()
        found = []
        staged = self._staged(parts[0][1])
        for number, (part, remembered) in enumerate(parts):
            following = parts[number + 1][1] if number + 1 < len(parts) else None
            if following is not None and self.prefetch:
                self._ask(following)
            self.shelf.ids, self.shelf.rows, self.shelf.inverse = remembered, staged.rows.unbind(0), staged.inverse
            try:
                self._staging.begin(staged)
                found.append(super().forward(part, memory_ids=remembered, cache=cache, capture=capture))
                self._staging.end(staged)
            finally:
                self.shelf.ids, self.shelf.rows, self.shelf.inverse = None, (), None
            if following is not None:
                staged = self._staged(following)
        hidden = tuple(torch.cat(layer, 1) for layer in zip(*(output.hidden for output in found)))
        return Output(torch.cat([output.logits for output in found], 1), hidden) if len(found) > 1 else found[0]

    @contextmanager
    def learning(
        self, ids: Tensor, optimiser: StoreAdam | None = None, following: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Learn the rows of a batch: they are a leaf, and leaving takes the optimiser's step and writes them back.

        Inside, call `loss` (or the decoder) with these ids, and `backward`. The rest of the decoder is stepped by an
        optimiser of its own. What is left by an error leaves the store as it was.

        Args:
            ids: int [batch, length].
            optimiser: of this runtime's store; None leaves the rows as they are (gradients are there to be read).
            following: ids of the next call, whose rows are fetched in the meantime.

        Yields:
            Rows [layers, u, hidden] of the distinct ids, float32, with gradient.
        """
        if self._leaf is not None:
            raise BadInput("rows are being learnt already; leave that context first")
        if optimiser is not None and optimiser.store is not self.store:
            raise BadInput("this optimiser is of another store; make it with StoreAdam(runtime.store)")
        memory = self._checked(ids, None, None)
        rows, inverse, keys = self._fetched(memory)
        if len(np.unique(keys)) < len(keys):  # in several runs, for lack of capacity: a leaf has one row a key
            keys, first, again = np.unique(keys, return_index=True, return_inverse=True)
            rows, inverse = rows[:, first], again.reshape(-1)[inverse]
        leaf = torch.from_numpy(rows).clone()
        if optimiser is not None:
            leaf *= optimiser.owed(keys)[None, :, None]
        keys, device = keys.copy(), memory.device
        if following is not None:
            self._ask(self._checked(following, None, None))
        self._leaf = leaf = leaf.to(device).requires_grad_()
        self.shelf.ids, self.shelf.rows = memory, leaf.unbind(0)
        self.shelf.inverse = torch.from_numpy(inverse).to(device, copy=True)
        try:
            yield leaf
        finally:
            self._leaf = None
            self.shelf.ids, self.shelf.rows, self.shelf.inverse = None, (), None
        if optimiser is not None:
            if leaf.grad is None:
                raise BadInput("no gradient reached the rows; call backward() before leaving learning(ids)")
            optimiser.step(keys, leaf.detach().transpose(0, 1), leaf.grad.transpose(0, 1))

    def bring_back(self) -> None:
        """Put the rows, as they are read now, into tables in memory (`Full`) with row-sparse gradients, and close."""
        parts = _offloaded(self)
        tables = {layer: Full(self.store.nrows, self.store.width, scale=0.0, sparse=True) for layer in parts}
        for keys in _blocks(self.store):
            rows = torch.from_numpy(self.store.rows(keys))
            for slot, table in enumerate(tables.values()):
                table.weight.data[keys] = rows[:, slot]
        for layer, part in parts.items():
            held: OffloadedRows = part.table  # type: ignore[assignment]
            part.table = tables[layer].to(next(part.parameters()).device, held.dtype)
        self.close()

    def close(self) -> None:
        """Stop fetching ahead, and make what was written to the store durable. Its rows can still be read, slowly.

        A store that `offload` made is closed: its file can be opened elsewhere, and is not written here any more.
        """
        self._asked.clear()
        self._ahead.close()
        self.store.flush()
        if self._owner:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _staged(self, ids: Tensor) -> Any:
        rows, inverse, _ = self._fetched(ids)
        return self._staging.place(rows, inverse)

    def _ask(self, ids: Tensor) -> None:
        """Have the rows of ids fetched; those with more distinct ids than the cache holds in several runs."""
        keys = ids.detach().cpu().numpy()
        runs = [keys] if keys.size <= self.capacity else self._ahead.split(keys)
        for number, run in enumerate(runs):
            self._ahead.submit(run)
            if not number:
                self._asked.append(_Asked(keys, 0))
            self._asked[-1].runs += 1

    def _fetched(self, ids: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows [layers, u, hidden], inverse of the ids' shape, and the u keys; valid until the next call."""
        if self._asked and not np.array_equal(self._asked[0].keys, ids.detach().cpu().numpy()):
            self._drop()  # what was asked for was given up: an error, or another text
        if not self._asked:
            self._ask(ids)
        asked = self._asked[0]
        batches: list[Batch] = []
        try:
            while asked.runs:
                asked.runs -= 1
                batch = self._ahead.take()
                batches.append(batch if len(batches) + asked.runs == 0 else batch._replace(rows=batch.rows.copy()))
        except BaseException:
            self._drop()
            raise
        self._asked.popleft()
        if len(batches) == 1:
            return batches[0].rows, batches[0].inverse.reshape(ids.shape), batches[0].unique
        starts = np.cumsum([0, *(len(batch.unique) for batch in batches)])
        inverse = np.concatenate([batch.inverse + start for batch, start in zip(batches, starts)])
        rows = np.concatenate([batch.rows for batch in batches], axis=1)
        return rows, inverse.reshape(ids.shape), np.concatenate([batch.unique for batch in batches])

    def _drop(self) -> None:
        while self._asked:
            for _ in range(self._asked.popleft().runs):
                with suppress(InlayError):  # nobody wants these rows any more
                    self._ahead.take()


@dataclass
class _Asked:
    """Ids whose rows are under way, in so many runs."""

    keys: np.ndarray
    runs: int


def offload(
    model: Decoder, store: str | RowStore | None = None, *, capacity: int | None = None, prefetch: bool = True,
    chunk: int = 128, dtype: str = "float32",
) -> Offloaded:  # fmt: skip
    """Move the tables of all STEM layers of a decoder into a store.

    The decoder loses them: its layers read the store from then on, whoever calls it. `bring_back` undoes that.

    Args:
        model: with STEM parts, all of one width; their tables may be of any kind.
        store: None: in memory. "mmap:DIR": a new mapped file in that folder. A `RowStore` of [vocabulary, layers,
            hidden] is taken with the rows it has, which need not be those of the tables.
        capacity: rows the cache holds; None: a quarter of the vocabulary, at least a chunk.
        prefetch: fetch a chunk's rows while the one before is computed; else when they are needed.
        chunk: tokens of each text that are read at a time.
        dtype: of a new store: "float32"; "bfloat16" or "int8" round the rows.
    """
    parts = stem_parts(model)
    for layer, part in parts.items():
        if isinstance(part.table, OffloadedRows):
            raise BadInput(f"the table of layer {layer} is in a store already; bring_back() puts it into memory")
    if type(model).forward is not Decoder.forward:
        raise BadInput(f"a {type(model).__name__} reads texts in its own way; give the Decoder itself")
    for what, number in (("chunk", chunk), ("capacity", 1 if capacity is None else capacity)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise BadInput(f"{what} must be an integer of at least 1, got {number!r}")
    widths = {layer: int(part.table.dim) for layer, part in parts.items()}  # type: ignore[arg-type]
    if len(set(widths.values())) > 1:
        raise BadInput(f"tables of one store have one width, got {widths} by layer")
    shape = (model.vocab, len(parts), next(iter(widths.values())))
    zero = torch.zeros(1, dtype=torch.long, device=next(model.parameters()).device)
    dtypes = {layer: part.table(zero).dtype for layer, part in parts.items()}
    owner = not isinstance(store, RowStore)
    if isinstance(store, RowStore):
        if (store.nrows, store.layers, store.width) != shape:
            raise BadInput(f"the store is {(store.nrows, store.layers, store.width)}, the tables are {shape}")
    else:
        store = _filled(_made(store, shape, dtype), parts)
    shelf = Shelf(store)
    for slot, (layer, part) in enumerate(parts.items()):
        part.table = OffloadedRows(shelf, slot, dtypes[layer])
    quarter = max(chunk, -(-model.vocab // 4))
    return Offloaded(model, shelf, quarter if capacity is None else capacity, prefetch, chunk, owner)


def _made(store: Any, shape: tuple[int, int, int], dtype: str) -> RowStore:
    rows, layers, width = shape
    if store is None:
        return RowStore.zeros(rows, width, layers=layers, dtype=dtype)
    if not isinstance(store, str) or not store.startswith("mmap:") or store == "mmap:":
        raise BadInput(f"store must be None, 'mmap:DIR' or a RowStore, got {store!r}")
    folder = Path(store.removeprefix("mmap:"))
    folder.mkdir(parents=True, exist_ok=True)
    return RowStore.create(folder / FILE, rows, width, layers=layers, dtype=dtype)


def _filled(store: RowStore, parts: dict[int, Stem]) -> RowStore:
    for keys in _blocks(store):
        ids = torch.from_numpy(keys)
        store.write(keys, torch.stack([part.rows(ids).cpu() for part in parts.values()], 1).numpy())
    store.flush()
    return store


def _blocks(store: RowStore) -> Iterator[np.ndarray]:
    """All keys, as many at a time as are moved at once."""
    step = max(1, _AT_ONCE // (store.width * (store.layers or 1)))
    for start in range(0, store.nrows, step):
        yield np.arange(start, min(start + step, store.nrows))


def _offloaded(model: Decoder) -> dict[int, Stem]:
    parts = {layer: part for layer, part in stem_parts(model).items() if isinstance(part.table, OffloadedRows)}
    if not parts:
        raise BadInput("the rows have been brought back already")
    return parts
