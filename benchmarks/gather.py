"""Rows by key: `RowStore` against torch on 65,536 Zipf keys of a million rows of 128; prefetch; row-sparse AdamW.

Ours writes into an array it was given. Torch does where it can (`index_select(out=…)`), and is also called as people
call it, when it allocates the answer. Keys differ from call to call. The share of memory bandwidth counts each row of
a batch read and written once, distinct or not, so that cached rows push it up. Equal quality is equality of all
numbers, or, for sums and rounded types, closeness to the same rows in float32.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.harness import Contender, Quality, Row, compare, interleave, ratios

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Rows by key"
PACKAGES = ("inlay", "torch", "numpy", "numba")
DIM, BATCHES, BAG = 128, 8, 4
SAME = Quality("share of equal numbers", 0.0)
CLOSE = Quality("share of numbers within rounding", 0.0, at_least=True)
BUDGET = 4.0
ROUNDED = 0.03  # largest error of a normal number as int8, whose step is about 4 / 127, or bfloat16


def measure(quick: bool = False) -> Iterator[Row]:
    """Gathers by type and placement, sums of bags, prefetch, and the optimiser."""
    import torch

    torch.set_num_threads(1)
    rows, batch = (50_000, 8_192) if quick else (1_000_000, 65_536)
    budget = 0.5 if quick else BUDGET
    speed = machine.bandwidth(64 if quick else 512)
    values = np.random.default_rng(0).standard_normal((rows, DIM), dtype=np.float32)
    keys = zipf(rows, batch)
    yield from _gathers(values, keys, speed, budget)
    yield from _placements(values, keys, speed, budget)
    yield from _prefetch(values, budget, quick)
    yield from _optimiser(quick, budget)


def zipf(rows: int, batch: int, batches: int = BATCHES, seed: int = 1) -> list[np.ndarray]:
    """Batches of int64 keys of which the r-th most frequent has probability ∝ 1 / r; frequent keys lie anywhere."""
    rng = np.random.default_rng(seed)
    ladder = np.cumsum(1 / np.arange(1, rows + 1))
    place = rng.permutation(rows)
    return [place[np.searchsorted(ladder, rng.random(batch) * ladder[-1])] for _ in range(batches)]


def _turns(batches: list[Any], work: Callable[[Any], Any]) -> Callable[[], Any]:
    """One call a batch, in turn."""
    turn = iter(range(1 << 60))
    return lambda: work(batches[next(turn) % len(batches)])


def _gathers(values: np.ndarray, keys: list[np.ndarray], speed: float, budget: float) -> Iterator[Row]:
    import torch
    from torch.nn import functional as F

    from inlay.tables.row_store import RowStore

    rows, batch = len(values), len(keys[0])
    store, table = RowStore.of(values), torch.from_numpy(values)
    ids = [torch.from_numpy(part) for part in keys]
    out, theirs = np.zeros((batch, DIM), np.float32), torch.zeros(batch, DIM)
    bag = torch.nn.EmbeddingBag.from_pretrained(table, mode="sum")
    each = torch.arange(batch)
    truth = values[keys[0]]
    ours = Contender(
        "inlay", _turns(keys, lambda part: store.rows(part, out=out)), lambda: _equal(store.rows(keys[0]), truth)
    )
    peers: dict[str, Callable[[Any], Any]] = {
        "torch.index_select(out=)": lambda part: torch.index_select(table, 0, part, out=theirs),
        "torch.index_select": lambda part: torch.index_select(table, 0, part),
        "F.embedding": lambda part: F.embedding(part, table),
        "nn.EmbeddingBag, bags of 1": lambda part: bag(part, each),
    }
    task = f"{batch:,} Zipf keys of {rows:,} × {DIM} float32"
    with torch.no_grad():
        for name, work in peers.items():
            peer = Contender(name, _turns(ids, work), lambda work=work: _equal(work(ids[0]).numpy(), truth))
            yield _shares(compare(task, ours, peer, quality=SAME, per=batch, unit="rows/s", budget=budget), speed)

        starts = np.arange(0, batch, BAG)
        offsets, summed = torch.from_numpy(starts), np.zeros((len(starts), DIM), np.float32)
        expected = truth.reshape(-1, BAG, DIM).sum(1)
        yield _shares(
            compare(
                f"{task}, sums of {BAG}",
                Contender(
                    "inlay", _turns(keys, lambda part: store.sums(part, starts, out=summed)),
                    lambda: _close(store.sums(keys[0], starts), expected, 1e-5),
                ),
                Contender(
                    "nn.EmbeddingBag", _turns(ids, lambda part: bag(part, offsets)),
                    lambda: _close(bag(ids[0], offsets).numpy(), expected, 1e-5),
                ),
                quality=CLOSE, per=batch, unit="rows/s", budget=budget,
            ),
            speed, moved=DIM * 4 * (1 + 1 / BAG),
        )  # fmt: skip


def _placements(values: np.ndarray, keys: list[np.ndarray], speed: float, budget: float) -> Iterator[Row]:
    """Other types, and a mapped file, against the same rows in memory."""
    import torch

    from inlay.tables.row_store import RowStore

    rows, batch = len(values), len(keys[0])
    ids = [torch.from_numpy(part) for part in keys]
    out, theirs = np.zeros((batch, DIM), np.float32), torch.zeros(batch, DIM)
    task = f"{batch:,} Zipf keys of {rows:,} × {DIM}"

    def side(name: str, store: RowStore, tolerance: float) -> Contender:
        return Contender(
            name, _turns(keys, lambda part: store.rows(part, out=out)),
            lambda: _close(store.rows(keys[0]), values[keys[0]], tolerance),
        )  # fmt: skip

    table = torch.from_numpy(values)
    for dtype, size in (("bfloat16", 2), ("int8", 1)):
        store = RowStore.of(values, dtype=dtype)
        peer = Contender(
            "torch.index_select(out=), float32",
            _turns(ids, lambda part: torch.index_select(table, 0, part, out=theirs)), lambda: 1.0,
        )  # fmt: skip
        row = compare(
            f"{task} {dtype}, read as float32", side("inlay", store, ROUNDED), peer, quality=CLOSE, per=batch,
            unit="rows/s", budget=budget,
        )  # fmt: skip
        row.notes["bytes a row"] = {"inlay": store.row_nbytes, "float32": 4 * DIM}
        yield _shares(row, speed, moved=DIM * (4 + size))
    half, store = table.bfloat16(), RowStore.of(values, dtype="bfloat16")
    peer = Contender(
        "index_select of bfloat16, .float()", _turns(ids, lambda part: torch.index_select(half, 0, part).float()),
        lambda: _close(torch.index_select(half, 0, ids[0]).float().numpy(), values[keys[0]], ROUNDED),
    )  # fmt: skip
    yield compare(
        f"{task} bfloat16, read as float32", side("inlay", store, ROUNDED), peer, quality=CLOSE, per=batch,
        unit="rows/s", budget=budget,
    )  # fmt: skip
    memory = RowStore.of(values)
    with tempfile.TemporaryDirectory() as folder:
        mapped = RowStore.open(memory.save(Path(folder) / "table.rows"))
        mapped.verify()  # reads, and so warms, every page
        yield _shares(
            compare(
                f"{task} float32, a mapped file, warm", side("inlay", mapped, 0.0),
                side("the same in memory", memory, 0.0), quality=SAME, per=batch, unit="rows/s", budget=budget,
            ),
            speed,
        )  # fmt: skip


def _shares(row: Row, speed: float, moved: float = DIM * 8) -> Row:
    """Note GB/s and the share of memory bandwidth; `moved` bytes a row are read and written."""
    if row.ours and row.theirs:
        row.notes["GB/s"] = {"inlay": round(row.ours * moved / 1e9, 1), "peer": round(row.theirs * moved / 1e9, 1)}
        row.notes["share of memory bandwidth"] = {
            "inlay": round(row.ours * moved / speed, 2),
            "peer": round(row.theirs * moved / speed, 2),
        }
    return row


def _prefetch(values: np.ndarray, budget: float, quick: bool) -> Iterator[Row]:
    """A matrix product per batch with its rows read first, against the same with the next batch's rows on their way."""
    import torch

    from inlay.tables.prefetcher import Prefetcher
    from inlay.tables.row_store import RowStore

    layers = 4
    rows, batch, count = len(values) // layers, (512 if quick else 4_096), 8
    store = RowStore.of(values[: rows * layers].reshape(rows, layers, DIM))
    keys = zipf(rows, batch, count, seed=2)
    weight = torch.from_numpy(np.random.default_rng(3).standard_normal((DIM, 256), dtype=np.float32))
    spent: dict[str, list[float]] = {"compute": [], "fetch": []}

    def compute(block: torch.Tensor) -> None:
        block @ weight

    def one_by_one() -> None:
        for part in keys:
            start = time.perf_counter()
            block = torch.from_numpy(store.rows(part))
            between = time.perf_counter()
            for layer in range(layers):
                compute(block[:, layer])
            spent["fetch"].append(between - start)
            spent["compute"].append(time.perf_counter() - between)

    ahead = Prefetcher(store, capacity=rows // 10)

    def prefetched() -> None:
        ahead.submit(keys[0])
        for number in range(count):
            if number + 1 < count:
                ahead.submit(keys[number + 1])
            taken = ahead.take()
            inverse = torch.from_numpy(taken.inverse)
            block = torch.from_numpy(taken.rows)
            for layer in range(layers):
                compute(block[layer][inverse])

    ahead.submit(keys[0])
    first = ahead.take()
    same = _equal(first.rows[:, first.inverse].swapaxes(0, 1), store.rows(keys[0]))
    row = Row(
        f"{count} × {batch:,} keys of {rows:,} × {layers} × {DIM}, then a product a layer", "rows read first", "s"
    )
    row.quality = {"measure": SAME.measure, "ours": same, "peer": 1.0}
    seconds = interleave(prefetched, one_by_one, budget=budget, least=5)
    row.ours, row.theirs = (statistics.median(side) for side in seconds)
    row.ratio = ratios(*seconds)
    traffic = ahead.traffic
    row.notes["of one batch read first (ms)"] = {
        name: round(1e3 * statistics.median(times), 2) for name, times in spent.items()
    }
    row.notes["overlap"] = f"{traffic.overlap:.2f} of the fetching was not waited for"
    row.notes["cache"] = f"{ahead.capacity:,} rows, {traffic.hit_rate:.2f} of distinct rows in it"
    ahead.close()
    yield row


def _optimiser(quick: bool, budget: float) -> Iterator[Row]:
    """A step of a table of 32,768 rows from a batch of 2,048 Zipf tokens."""
    import torch

    from inlay.tables.row_adam import RowAdam

    rows, dim, batch = (4_096, 128, 512) if quick else (32_768, 512, 2_048)
    keys = [torch.from_numpy(part) for part in zipf(rows, batch, BATCHES, seed=5)]
    start = torch.randn(rows, dim) * 0.02
    rest = torch.randn(batch, dim)

    def side(name: str, sparse: bool, make: Callable[[Any], torch.optim.Optimizer]) -> Contender:
        table = torch.nn.Parameter(start.clone())
        optimiser = make([table])

        def step(part: torch.Tensor) -> None:
            optimiser.zero_grad(set_to_none=True)
            torch.nn.functional.embedding(part, table, sparse=sparse).backward(rest)
            optimiser.step()

        def quality() -> float:
            fresh, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
            for optimiser, each in ((make([fresh]), fresh), (torch.optim.AdamW([other], lr=1e-3), other)):
                torch.nn.functional.embedding(keys[0], each, sparse=sparse and each is fresh).backward(rest)
                optimiser.step()
                if isinstance(optimiser, RowAdam):
                    optimiser.flush()
            return _close(fresh.detach().numpy(), other.detach().numpy(), 1e-5)

        return Contender(name, _turns(keys, step), quality)

    settings: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.01}
    ours = side("RowAdam", True, lambda p: RowAdam(p, clip=None, **settings))
    for name, fused in (("dense AdamW", False), ("dense AdamW, fused", True)):
        peer = side(name, False, lambda p, fused=fused: torch.optim.AdamW(p, fused=fused, **settings))
        row = compare(
            f"backward and step of a table {rows:,} × {dim}, {batch:,} tokens", ours, peer, quality=CLOSE, unit="ms",
            budget=budget,
        )  # fmt: skip
        row.notes["distinct rows of a batch"] = round(statistics.mean(len(part.unique()) for part in keys))
        yield row


def _equal(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found == truth).mean())


def _close(found: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    return float((np.abs(found - truth) <= tolerance + 1e-5 * np.abs(truth)).mean())
