"""Planner and prefetcher: never a wrong row, whatever the capacity, the order of events or the damage."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.kernels import gather as kernels
from inlay.tables.lfu import LFU
from inlay.tables.overlay import Overlay
from inlay.tables.prefetcher import Prefetcher
from inlay.tables.row_store import RowStore


class Simple:
    """Least frequently used with ties to the least recently used, one id at a time, as one would write it down."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.time = capacity, 0
        self.count: dict[int, int] = {}
        self.last: dict[int, int] = {}

    def batch(self, ids: list[int]) -> list[int]:
        missed = []
        for id in ids:
            if id not in self.count:
                missed.append(id)
                if len(self.count) == self.capacity:
                    free = [key for key in self.count if key not in ids]
                    out = min(free, key=lambda key: (self.count[key], self.last[key]))
                    del self.count[out], self.last[out]
                self.count[id] = 0
            self.count[id] += 1
            self.last[id] = self.time
            self.time += 1
        return missed


@given(st.integers(1, 8), st.lists(st.lists(st.integers(0, 14), max_size=12), max_size=25))
def test_plans_are_those_of_the_plain_algorithm(capacity, batches):
    planner, simple = LFU(15, capacity), Simple(capacity)
    held = np.full(planner.capacity, -1)
    for ids in batches:
        given_ = np.array(ids, dtype=np.int64)
        if len(set(ids)) > capacity:
            before = planner.slot_of.copy()
            with pytest.raises(BadInput, match="split"):
                planner.plan(given_)
            assert np.array_equal(planner.slot_of, before)
            continue
        plan = planner.plan(given_)
        assert plan.reads.tolist() == simple.batch(ids)
        assert plan.misses == len(plan.writes) == len(set(plan.writes.tolist()))
        held[plan.writes] = plan.reads
        assert held[plan.slot].tolist() == ids
        assert {key for key in range(15) if planner.slot_of[key] >= 0} == set(simple.count)


@given(st.integers(1, 6), st.lists(st.integers(0, 14), max_size=60))
def test_splits_fit_and_lose_nothing(capacity, ids):
    runs = LFU(15, capacity).split(np.array(ids, dtype=np.int64))
    assert [id for run in runs for id in run.tolist()] == ids
    assert all(0 < len(set(run.tolist())) <= capacity for run in runs)
    for run, following in zip(runs, runs[1:]):  # as long as possible
        assert len({*run.tolist(), int(following[0])}) > capacity


@pytest.mark.parametrize("capacity", [1, 2, 7, 64])
def test_a_full_batch_after_another_full_batch(capacity):
    """STEM's test under pressure: every slot pinned, every row new, and again with half of them there."""
    values = np.arange(200, dtype=np.float32)[:, None, None] + np.zeros((1, 2, 3), dtype=np.float32)
    store = RowStore.of(values)
    generator = np.random.default_rng(capacity)
    with Prefetcher(store, capacity=capacity) as ahead:
        for _ in range(60):
            ids = generator.permutation(200)[:capacity]
            ids = np.concatenate([ids, generator.choice(ids, 5)])
            ahead.submit(ids)
            batch = ahead.take()
            assert np.array_equal(batch.rows[:, batch.inverse].swapaxes(0, 1), values[ids])
        ahead.submit(np.arange(capacity + 1))
        with pytest.raises(BadInput, match="split"):
            ahead.take()
        for run in ahead.split(np.arange(capacity + 1)):
            ahead.submit(run)
            batch = ahead.take()
            assert np.array_equal(batch.rows[:, batch.inverse].swapaxes(0, 1), values[run])


@pytest.fixture(params=["plain", "compiled"])
def form(request, monkeypatch):
    monkeypatch.setattr(kernels, "compiled", lambda work: request.param == "compiled")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("layers", [None, 3])
@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_fetched_rows_are_bit_equal_at_every_capacity(dtype, layers, placement, form, tmp_path: Path):
    generator = np.random.default_rng(0)
    shape = (300, 8) if layers is None else (300, layers, 8)
    path = RowStore.of(generator.standard_normal(shape), dtype=dtype, shards=2).save(tmp_path / "t")
    store = RowStore.open(path, placement=placement)
    batches = [np.minimum(generator.zipf(1.3, (2, 40)), 299) for _ in range(12)]
    smallest = max(len(np.unique(batch)) for batch in batches)
    misses = []
    for capacity in (smallest, smallest + 1, smallest + 7, 150, 300, 1000):
        with Prefetcher(store, capacity=capacity) as ahead:
            ahead.submit(batches[0])
            for ids, following in zip(batches, [*batches[1:], None]):
                if following is not None:
                    ahead.submit(following)
                batch = ahead.take()
                assert np.array_equal(batch.unique[batch.inverse], ids)
                if layers is None:
                    assert np.array_equal(batch.rows[batch.inverse], store.rows(ids))
                for layer in range(layers or 0):
                    assert np.array_equal(batch.rows[layer][batch.inverse], store.rows(ids, layer=layer))
            traffic = ahead.traffic
            assert traffic.ids == 12 * 80
            assert traffic.hits + traffic.misses == sum(len(np.unique(batch)) for batch in batches)
            assert traffic.moved == traffic.misses * store.row_nbytes
            assert 0 <= traffic.overlap <= 1
            misses.append(traffic.misses)
    assert misses[-1] == misses[-2] == len(np.unique(batches))
    assert misses[0] > misses[-1]
    with Prefetcher(store, capacity=smallest - 1) as ahead:
        largest = max(batches, key=lambda batch: len(np.unique(batch)))
        ahead.submit(largest)
        with pytest.raises(BadInput, match=f"{smallest} distinct ids, more than the {smallest - 1} slots"):
            ahead.take()


def test_writes_and_overlays_are_seen_by_batches_already_fetched(form):
    generator = np.random.default_rng(0)
    store = RowStore.of(generator.standard_normal((50, 2, 4)))

    def check(batch, ids):
        assert np.array_equal(batch.rows[:, batch.inverse].swapaxes(0, 1), store.rows(ids))

    with Prefetcher(store, capacity=20) as ahead:
        for turn in range(40):
            ids = [generator.integers(0, 50, 15) for _ in range(3)]
            ahead.submit(ids[0])
            ahead.submit(ids[1])
            if turn % 2:
                ahead._pending[0].fetched.result()
            keys = generator.choice(50, 9, replace=False)
            store.write(keys, generator.standard_normal((9, 2, 4)))
            check(ahead.take(), ids[0])
            with store.overlay(Overlay(keys[:4], generator.standard_normal((4, 2, 4)))):
                check(ahead.take(), ids[1])
                ahead.submit(ids[2])
                check(ahead.take(), ids[2])
                ahead.submit(ids[2])
                ahead.submit(ids[0])
            check(ahead.take(), ids[2])
            check(ahead.take(), ids[0])
        assert ahead.traffic.patched > 0


def test_training_through_a_prefetcher_is_training_on_the_store():
    """Rows go out, are changed by a gradient, and come back while the next batch is already under way."""
    generator = np.random.default_rng(3)
    start = generator.standard_normal((60, 5)).astype(np.float32)
    batches = [generator.integers(0, 60, 20) for _ in range(50)]
    plain = start.copy()
    for ids in batches:
        unique = np.unique(ids)
        plain[unique] -= np.float32(0.1) * plain[unique]
    store = RowStore.of(start)
    with Prefetcher(store, capacity=25) as ahead:
        ahead.submit(batches[0])
        for number in range(50):
            if number < 49:
                ahead.submit(batches[number + 1])
            batch = ahead.take()
            store.write(batch.unique, batch.rows - np.float32(0.1) * batch.rows)
    assert np.array_equal(store.rows(np.arange(60)), plain)


def test_a_batch_is_fetched_while_nobody_waits():
    store = RowStore.of(np.random.default_rng(0).standard_normal((500, 4)))
    with Prefetcher(store, capacity=400) as ahead:
        ahead.submit(np.arange(300))
        ahead.submit(np.arange(200, 500))
        deadline = time.monotonic() + 10
        while ahead.traffic.ids < 600 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert ahead.traffic.ids == 600  # both are there though none was taken
        first, kept = ahead.take(), None
        kept = first.rows.copy()
        ahead.submit(np.arange(100, 250))
        time.sleep(0.05)  # the third must not touch the buffer that is being read
        assert np.array_equal(first.rows, kept)
        assert np.array_equal(ahead.take().rows, store.rows(np.arange(200, 500)))
        assert np.array_equal(ahead.take().rows, store.rows(np.arange(100, 250)))


def test_damage_is_told_and_the_cache_does_not_keep_it(tmp_path: Path):
    path = RowStore.of(np.ones((4000, 128))).save(tmp_path / "t")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    store = RowStore.open(path)
    with Prefetcher(store, capacity=100) as ahead:
        for ids, damaged in (([0, 1], False), ([0, 2000], True), ([0, 1], False), ([2000], True), ([3999], False)):
            ahead.submit(ids)
            if damaged:
                with pytest.raises(Corrupt, match="damaged"):
                    ahead.take()
            else:
                assert (ahead.take().rows == 1).all()


def test_bad_input_and_closing():
    store = RowStore.of(np.ones((5, 2)))
    before = threading.active_count()
    ahead = Prefetcher(store, capacity=3)
    with pytest.raises(BadInput, match="nothing was submitted"):
        ahead.take()
    with pytest.raises(BadInput, match="key 5"):
        ahead.submit([5])
    ahead.submit(np.zeros((0, 3), dtype=np.int64))
    empty = ahead.take()
    assert (empty.rows.shape, empty.inverse.shape) == ((0, 2), (0, 3))
    for _ in range(5):
        ahead.submit([1, 2])  # more than there are buffers: close must not hang
    ahead.close()
    ahead.close()
    with pytest.raises(BadInput, match="closed"):
        ahead.submit([1])
    assert threading.active_count() == before
    with pytest.raises(BadInput, match="capacity"):
        Prefetcher(store, capacity=0)
    assert "capacity=5" in repr(Prefetcher(store, capacity=10))
