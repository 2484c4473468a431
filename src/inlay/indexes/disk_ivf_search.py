"""One query on its way through inverted lists on disk: which lists, what is read of them, and what is scored.

How a search goes is told in `inlay.indexes.disk_ivf`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inlay.indexes.attribute_filter import Predicate
from inlay.indexes.disk_ivf_file import Part
from inlay.kernels import compiled
from inlay.kernels.attribute_scan import Heads, Program, survivors
from inlay.kernels.blocks import SIZE
from inlay.kernels.dense import score
from inlay.kernels.list_rows import Blocks, plan, score_blocks
from inlay.kernels.topk import TopK
from inlay.types import Neighbours

if TYPE_CHECKING:
    from inlay.indexes.disk_ivf import DiskIVF

__all__ = ["BUFFER", "DiskReads", "Held", "Search"]

BUFFER = 256  # pages of rows that are scored at a time, unless a list has more: 1 MiB stays in L2
HEADS = 1024  # pages of heads read at a time
EVERYTHING = Program(np.empty((0, 4), np.int64), np.empty((0, 3), np.uint64), np.empty(0, np.uint64), 0)


@dataclass
class DiskReads:
    """What searches did so far.

    Attributes:
        queries: how many.
        lists: lists that they came to.
        skipped: those of them in which nothing could match or nothing could be near enough; they were not read.
        tested: rows whose attributes were read.
        scored: rows that were scored.
        head_bytes: bytes read of attributes and ids, in whole pages.
        row_bytes: bytes read of rows, in whole pages.
        requests: runs of pages read.
    """

    queries: int = 0
    lists: int = 0
    skipped: int = 0
    tested: int = 0
    scored: int = 0
    head_bytes: int = 0
    row_bytes: int = 0
    requests: int = 0

    @property
    def bytes_per_query(self) -> float:
        """Bytes read for a query."""
        return (self.head_bytes + self.row_bytes) / max(1, self.queries)


class Held(NamedTuple):
    """What a search needs of a manifest; a writer replaces it as a whole, a search keeps what it began with."""

    parts: list[Part]
    centroids: np.ndarray
    dead: np.ndarray
    rows: int


class Search:
    """One query on its way through the lists."""

    def __init__(
        self, index: DiskIVF, held: Held, query: np.ndarray, k: int, predicate: Predicate, allow: np.ndarray
    ) -> None:
        self.index, self.query, self.k, self.predicate, self.allow = index, query, k, predicate, allow
        self.parts, self.centroids, self.dead, _ = held
        self.best = TopK(1, k, fast=compiled(0))
        self.known: list[np.ndarray] = []
        self.kept = self.tested = 0

    def run(self, least: int, auto: bool) -> Neighbours:
        """Scan `least` lists, and with `auto` as many more as it takes."""
        lists = len(self.centroids)
        nearness = self.index._nearness(self.query[None], self.centroids)[0]
        order = _largest(nearness, lists if auto else least)
        done, stop = 0, min(least, lists)
        while done < stop:
            near = order[done:stop]
            if auto and done:
                near = near[self._within(near)]
                self.index.reads.skipped += stop - done - len(near)
            self._scan(near)
            done = stop
            if not auto:
                break
            wanted = max(least, self.index._wanted(self.k, self.kept, self.tested))
            if self.kept >= self.k and (done >= wanted or not self._within(order[done:]).any()):
                break
            stop = min(lists, 2 * done if self.kept < self.k else min(wanted, 2 * done))
        found = self.best.result()
        if not self.known:
            return found
        known = np.concatenate(self.known)
        return Neighbours(found.scores, np.where(found.ids < 0, -1, known[found.ids]))

    def _within(self, lists: np.ndarray) -> np.ndarray:
        """Which lists can hold a row nearer than the k-th best so far."""
        cut = float(self.best.result().scores[0, -1])
        if not np.isfinite(cut):
            return np.ones(len(lists), dtype=bool)
        radius = np.zeros(len(self.centroids), dtype=np.float32)
        for part in self.parts:
            np.maximum.at(radius, part.lists, part.radius)
        centres, r = self.centroids[lists], radius[lists]
        if self.index.metric == "l2":
            away = np.sqrt(np.maximum(0, -score(self.query[None], centres, metric="l2")[0]))
            most = -(np.maximum(0, away - r) ** 2)
        else:  # q·x = q·c + q·(x − c)
            most = score(self.query[None], centres, metric="dot")[0] + np.linalg.norm(self.query) * r
        return most * (1 - 1e-5 * np.sign(most)) + 1e-5 >= cut

    def _scan(self, lists: np.ndarray) -> None:
        jobs = []
        reads = self.index.reads
        for part in self.parts:
            blocks = part.blocks_of(lists)
            if not len(blocks):
                continue
            reads.lists += len(blocks)
            self.tested += int(part.counts[blocks].sum())
            program = EVERYTHING
            if len(self.predicate.program.steps):
                may, fail = self.predicate.zones(part.zones.of(blocks))
                program = self.predicate.program if fail.any() else EVERYTHING
                reads.skipped += int(len(blocks) - may.sum())
                blocks = blocks[may]
            for chunk in _chunks(blocks, part.head_pages(blocks), HEADS):
                runs = part.head_runs(chunk)
                part.ask_heads(runs)
                jobs.append((part, chunk, runs, program))
        for part, blocks, runs, program in jobs:
            self._read(part, blocks, runs, program)

    def _read(self, part: Part, blocks: np.ndarray, runs: np.ndarray, program: Program) -> None:
        """Test the attributes of some blocks, then read and score the rows that pass."""
        index, reads, always = self.index, self.index.reads, self.index.checks == "always"
        pages = int(runs[:, 2].sum())
        buffer = index._buffer("heads", pages)
        part.fetch_heads(runs, buffer, always)
        starts, counts = runs[:, 0] * SIZE, part.counts[blocks].astype(np.int64)
        heads = Heads(buffer, starts, counts, part.width, part.id_bytes)
        rows, ids, cuts = survivors(heads, program, self.allow, self.dead)
        reads.tested += int(counts.sum())
        reads.head_bytes += pages * SIZE
        reads.requests += len(runs)
        if not len(rows):
            return
        some = np.flatnonzero(np.diff(cuts))  # of the rest, nothing is read
        blocks, starts, counts, cuts = blocks[some], starts[some], counts[some], np.append(cuts[some], cuts[-1])
        row_runs, bounds = plan(rows, cuts, counts, part.row_bytes)
        part.ask_rows(blocks, row_runs, bounds)
        reads.scored += len(rows)
        reads.row_bytes += int(row_runs[:, 2].sum()) * SIZE
        reads.requests += len(row_runs)
        sizes = part.row_pages(blocks)
        room = index._buffer("rows", max(BUFFER, int(sizes.max())))
        data, first = part.data(blocks), part.first(blocks)
        sums, scales = part.sums_at(blocks, starts), part.scales_at(blocks, starts)
        for group in _chunks(np.arange(len(blocks)), sizes, len(room) // SIZE):
            a, b = int(group[0]), int(group[-1]) + 1
            low, high = int(cuts[a]), int(cuts[b])
            ends = np.cumsum(sizes[a:b])
            where = Blocks(
                part.file, data[a:b], (ends - sizes[a:b]) * SIZE, counts[a:b], buffer, sums[a:b], scales[a:b],
                part.verified, first[a:b],
            )  # fmt: skip
            scores, damaged = score_blocks(
                where, self.query, part.dtype, index.metric, room, rows[low:high], cuts[a : b + 1] - low,
                row_runs[bounds[a] : bounds[b]], bounds[a : b + 1] - bounds[a], always,
            )  # fmt: skip
            if damaged >= 0:
                raise part.damaged_rows(int(blocks[a + damaged]))
            self.best.offer(scores[None], self.kept)
            self.known.append(ids[low:high])
            self.kept += high - low


def _chunks(blocks: np.ndarray, pages: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Blocks in order, as many at a time as have `most` pages, but one at least."""
    ends = np.cumsum(pages)
    start = 0
    while start < len(blocks):
        before = int(ends[start] - pages[start])
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield blocks[start:stop]
        start = stop


def _largest(nearness: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest, largest first; of equals the lower."""
    near = np.arange(len(nearness))
    if count < len(nearness):
        near = np.flatnonzero(nearness >= np.partition(nearness, len(nearness) - count)[len(nearness) - count])
    return near[np.argsort(-nearness[near], kind="stable")][:count]
