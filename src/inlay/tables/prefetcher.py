"""Rows fetched by another thread before they are needed.

    with Prefetcher(store, capacity=4096) as ahead:
        ahead.submit(batches[0])
        for ids, following in zip(batches, [*batches[1:], None]):
            if following is not None:
                ahead.submit(following)
            batch = ahead.take()              # of `ids`; the rows of `following` are on their way
            batch.rows[layer][batch.inverse]  # what store.rows(ids, layer=layer) is, bit for bit

A batch's ids are made distinct, rows that are not in the cache are read (all layers of a key are one block), and the
batch's rows are laid out layer by layer in one of two buffers: one is read while the other is filled. Compiled kernels
run without Python's lock, so that the thread works beside the one that computes.

Source: the offload runtime of STEM (arXiv 2601.10639).
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.gather import gather
from inlay.tables.deduplication import checked
from inlay.tables.lfu import LFU
from inlay.tables.row_store import RowStore

__all__ = ["Batch", "Prefetcher", "Traffic"]


class Batch(NamedTuple):
    """Rows of a batch as they were when it was taken. They are in a buffer that the next `take` gives back.

    Attributes:
        rows: float32 [layers, u, width], or [u, width] of a store without layers.
        unique: int64 [u], the distinct ids.
        inverse: int64 of the batch's shape, the place of each id among them.
    """

    rows: np.ndarray
    unique: np.ndarray
    inverse: np.ndarray


@dataclass
class Traffic:
    """What a prefetcher did so far.

    Attributes:
        ids: ids asked for.
        hits: distinct ids of a batch that were in the cache.
        misses: those that were not.
        moved: bytes read from the store for them, as stored.
        worked: seconds the thread spent on fetching.
        waited: seconds `take` waited for it.
        patched: rows read again because they were written after they had been fetched.
    """

    ids: int = 0
    hits: int = 0
    misses: int = 0
    moved: int = 0
    worked: float = 0.0
    waited: float = 0.0
    patched: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of distinct ids that were in the cache."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def overlap(self) -> float:
        """Share of the fetching that nobody waited for."""
        return max(0.0, 1 - self.waited / self.worked) if self.worked else 1.0


@dataclass
class _Pending:
    shape: tuple[int, ...]
    fetched: Future[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    changed: list[np.ndarray] = field(default_factory=list)


class Prefetcher:
    """One thread, two buffers and a cache (`LFU`) in front of a store.

    What is written to the store, and overlays laid on it, is seen by every batch taken afterwards. Batches are taken
    by one thread, in the order they were submitted.

    Args:
        store: rows.
        capacity: rows the cache holds, as float32; at least the distinct ids of a batch.
    """

    def __init__(self, store: RowStore, *, capacity: int = 4096) -> None:
        self.store, self.traffic = store, Traffic()
        self._lfu = LFU(store.nrows, capacity)
        self._layers = store.layers or 1
        self._cache = np.empty((self._lfu.capacity, self._layers * store.width), dtype=np.float32)
        self._free: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        for _ in range(2):
            self._free.put(np.empty(0, dtype=np.float32))
        self._taken: np.ndarray | None = None
        self._pending: deque[_Pending] = deque()
        self._lock = threading.Lock()  # cache and planner: held while a batch is fetched and while rows change
        self._order = threading.Lock()  # the batches under way: held for a moment only
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inlay-prefetch")
        self._open = True
        store.watch(self)

    def __repr__(self) -> str:
        return f"Prefetcher({self.store!r}, capacity={self.capacity})"

    @property
    def capacity(self) -> int:
        """Rows the cache holds."""
        return self._lfu.capacity

    def submit(self, ids: Any) -> None:
        """Ask for the rows of ids of any shape. Returns at once; what is wrong with them `take` says.

        Ids outside the table are refused here. More than one batch may be under way: the second is fetched into the
        other buffer, further ones wait for a buffer.
        """
        if not self._open:
            raise BadInput("this prefetcher is closed; make a new one")
        flat = np.array(checked(ids, self.store.nrows))  # a copy: the caller may go on with his
        with self._order:
            self._pending.append(_Pending(np.shape(ids), self._thread.submit(self._fetch, flat)))

    def take(self) -> Batch:
        """The oldest batch submitted, waiting for it if need be.

        Raises:
            BadInput: nothing was submitted, or the batch has more distinct ids than the cache has slots (`split`).
            Corrupt: the store is damaged where the batch reads it.
        """
        if not self._pending:
            raise BadInput("nothing was submitted; call submit(ids) before take()")
        if self._taken is not None:
            self._free.put(self._taken)
            self._taken = None
        start = time.perf_counter()
        pending = self._pending[0]
        try:
            self._taken, rows, unique, inverse = pending.fetched.result()
        finally:
            self.traffic.waited += time.perf_counter() - start
            with self._order:
                self._pending.popleft()
        if pending.changed:
            stale = np.flatnonzero(np.isin(unique, np.concatenate(pending.changed)))
            self.store.read_into(rows.swapaxes(0, 1), unique[stale], at=stale)
            self.traffic.patched += len(stale)
        return Batch(rows if self.store.layers is not None else rows[0], unique, inverse.reshape(pending.shape))

    def split(self, ids: Any) -> list[np.ndarray]:
        """Cut ids, taken flat, into runs that the cache can hold, each as long as possible, in order."""
        with self._lock:
            return self._lfu.split(ids)

    def _fetch(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        buffer = self._free.get()
        if buffer is None:
            raise BadInput("this prefetcher was closed before the batch was fetched")
        start = time.perf_counter()
        try:
            with self._lock:
                plan = self._lfu.plan(ids)
                cached = self._cache.reshape(len(self._cache), self._layers, -1)
                try:
                    self.store.read_into(cached, plan.reads, at=plan.writes)
                except BaseException:
                    self._lfu.clear()  # it believes in rows that never came
                    raise
                size = plan.slots.size * self._cache.shape[1]
                held = buffer if len(buffer) >= size else np.empty(size, dtype=np.float32)
                rows = held[:size].reshape(self._layers, len(plan.slots), self.store.width)
                gather(self._cache, plan.slots, rows.swapaxes(0, 1))
        except BaseException:
            self._free.put(buffer)
            raise
        traffic = self.traffic
        traffic.ids += len(ids)
        traffic.hits += len(plan.unique) - plan.misses
        traffic.misses += plan.misses
        traffic.moved += plan.misses * self.store.row_nbytes
        traffic.worked += time.perf_counter() - start
        return held, rows, plan.unique, plan.inverse

    def changed(self, keys: np.ndarray) -> None:
        """Rows of keys changed in the store (which calls this): the cache follows, and batches not yet taken."""
        with self._lock:
            slots = self._lfu.slot_of[keys]
            here = np.flatnonzero(slots >= 0)
            cached = self._cache.reshape(len(self._cache), self._layers, -1)
            self.store.read_into(cached, keys[here], at=slots[here])
            with self._order:
                for pending in self._pending:
                    pending.changed.append(keys)

    def close(self) -> None:
        """Stop the thread; batches not yet taken are dropped."""
        if self._open:
            self._open = False
            for pending in self._pending:
                pending.fetched.cancel()
            self._free.put(None)
            self._thread.shutdown(wait=True)
            self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
