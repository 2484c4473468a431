"""Cosines of rows that have a few bits a dimension, straight from the bits: xor, count, and add (symmetric distance).

A number of `bits` = u + 1 signs is c = Σ_t 2^(u−t) s_t, s_t = ±1: an odd integer. Signs of one weight lie together, a
plane, so that a product of two rows is (u + 1)² counts of differing bits over whole words:

    c_q · c_d = dims · (2^bits_q − 1) · (2^bits_d − 1) − 2 Σ_{s,t} 2^(u_q−s) 2^(u_d−t) |Q_s xor D_t|

Rows of more than one bit differ in length. Squares of odd numbers are 1 modulo 8, so |c|² is dims + 8·level with a
whole `level`, and a byte or two keep a length without any loss.

Eight rows are a block, [planes, words, 8]: the same word of eight rows is one load, counts of eight rows are added at
once, and no sum runs across a vector.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels import compiled
from inlay.kernels.topk import TopK
from inlay.types import Neighbours

__all__ = ["LANES", "BitPlanes", "nearest", "packed", "put", "reciprocals", "room", "score", "taken", "unpacked"]

LANES = 8  # rows of a block
UNROLLED = 8
WORDS_AT_ONCE = 1 << 17  # numpy form: 1 MB of words compared at a time


class BitPlanes(NamedTuple):
    """Packed rows.

    Args:
        planes: uint64 [n, bits, words], the most significant plane first; bit i of word w is dimension 64·w + i, set
            for +1. Bits beyond the last dimension are 0.
        levels: unsigned [n], (|c|² − dims) / 8; empty [0] where one bit makes all rows equally long.
    """

    planes: np.ndarray
    levels: np.ndarray


def packed(signs: np.ndarray) -> np.ndarray:
    """Signs bool [n, dims], True for +1, as words: uint64 [n, ⌈dims / 64⌉]."""
    n, dims = signs.shape
    octets = np.zeros((n, -(-dims // 64) * 8), dtype=np.uint8)
    octets[:, : -(-dims // 8)] = np.packbits(signs, axis=1, bitorder="little")
    return octets.view("<u8").astype(np.uint64, copy=False)


def unpacked(words: np.ndarray, dims: int) -> np.ndarray:
    """The reverse of `packed`: bool [n, dims]."""
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return np.unpackbits(octets, axis=1, count=dims, bitorder="little").astype(bool)


def reciprocals(levels: np.ndarray, dims: int, count: int) -> np.ndarray:
    """1 / |c| of `count` rows, float32 [count]."""
    if not len(levels):
        return np.full(count, 1 / np.sqrt(np.float32(dims)), dtype=np.float32)
    return 1 / np.sqrt(np.float32(dims) + np.float32(8) * levels.astype(np.float32))


def room(count: int, bits: int, words: int) -> np.ndarray:
    """Blocks for `count` rows: uint64 [⌈count / 8⌉, bits, words, 8], each plane of a word on one line of the cache."""
    blocks = -(-count // LANES)
    numbers = np.zeros(blocks * bits * words * LANES + LANES, dtype=np.uint64)
    first = -numbers.ctypes.data % (8 * LANES) // 8
    return numbers[first : first + blocks * bits * words * LANES].reshape(blocks, bits, words, LANES)


def put(blocks: np.ndarray, planes: np.ndarray, start: int) -> None:
    """Write planes uint64 [n, bits, words] as the rows from `start` on."""
    rows = np.arange(start, start + len(planes))
    blocks[rows // LANES, :, :, rows % LANES] = planes


def taken(blocks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Planes uint64 [n, bits, words] of rows by number."""
    return blocks[rows // LANES, :, :, rows % LANES]


def score(queries: BitPlanes, rows: BitPlanes, dims: int) -> np.ndarray:
    """Every cosine, float32 [q, n]."""
    _check(queries.planes, rows.planes.shape[2], dims)
    count = len(rows.planes)
    blocks = room(count, *rows.planes.shape[1:])
    put(blocks, rows.planes, 0)
    out = np.empty((len(queries.planes), count), dtype=np.float32)
    own = reciprocals(rows.levels, dims, count)
    for one, planes, factor in zip(out, queries.planes, reciprocals(queries.levels, dims, len(queries.planes))):
        one[:] = _products(planes, blocks, dims)[:count].astype(np.float32) * own * factor
    return out


def nearest(
    queries: BitPlanes, blocks: np.ndarray, levels: np.ndarray, count: int, dims: int, k: int, *,
    allow: np.ndarray | None = None,
) -> Neighbours:  # fmt: skip
    """The k rows of highest cosine with each query; equal ones go to the lower id.

    Args:
        queries: their bits a dimension may differ from those of the rows.
        blocks: uint64 [≥ ⌈count / 8⌉, bits, words, 8], see `room` and `put`.
        levels: of the rows, unsigned [count], or [0] for rows of one bit.
        count: rows.
        dims: of a row.
        k: how many; beyond the rows allowed the answer is padded with id -1 and score -inf.
        allow: bool [count], the rows that may be returned. Blocks without one are not read.
    """
    _check(queries.planes, blocks.shape[2], dims)
    blocks = blocks[: -(-count // LANES)]
    allow = None if allow is None or allow.all() else allow
    at = None if allow is None else np.flatnonzero(np.logical_or.reduceat(allow, np.arange(0, count, LANES)))
    n_queries, wanted = len(queries.planes), min(k, count)
    scores = np.full((n_queries, k), -np.inf, dtype=np.float32)
    ids = np.full((n_queries, k), -1, dtype=np.int64)
    if not n_queries or not wanted or (at is not None and not len(at)):
        return Neighbours(scores, ids)
    work = n_queries * (len(blocks) if at is None else len(at)) * LANES * int(np.prod(blocks.shape[1:3]))
    asked = reciprocals(queries.levels, dims, n_queries)
    if compiled(work * queries.planes.shape[1]):
        found = _scan_compiled(queries.planes, asked, blocks, levels, at, allow, count, dims, wanted)
        scores[:, :wanted], ids[:, :wanted] = found
        return Neighbours(scores, ids)
    best = TopK(n_queries, wanted, fast=False)
    _scan(queries.planes, asked, blocks, levels, at, allow, count, dims, best)
    found = best.result()
    # What was offered are places in the blocks read; they ascend with ids, so that ties fall as if they were ids.
    named = found.ids if at is None else np.where(found.ids < 0, -1, at[found.ids // LANES] * LANES + found.ids % LANES)
    scores[:, :wanted], ids[:, :wanted] = found.scores, named
    return Neighbours(scores, ids)


def _scan(
    queries: np.ndarray, asked: np.ndarray, blocks: np.ndarray, levels: np.ndarray, at: np.ndarray | None,
    allow: np.ndarray | None, count: int, dims: int, best: TopK,
) -> None:  # fmt: skip
    step = max(1, WORDS_AT_ONCE // (blocks.shape[2] * LANES))
    own = reciprocals(levels, dims, count)
    for start in range(0, len(blocks) if at is None else len(at), step):
        numbers = np.arange(start, min(start + step, len(blocks))) if at is None else at[start : start + step]
        rows = (numbers[:, None] * LANES + np.arange(LANES)).ravel()
        there = rows < count
        rows = np.minimum(rows, count - 1)
        if allow is not None:
            there &= allow[rows]
        part = blocks[start : start + step] if at is None else blocks[numbers]
        found = np.stack([
            np.where(there, _products(planes, part, dims).astype(np.float32) * own[rows] * factor, -np.inf)
            for planes, factor in zip(queries, asked)
        ]).astype(np.float32)  # fmt: skip
        best.offer(found, start * LANES)


def _scan_compiled(
    queries: np.ndarray, asked: np.ndarray, blocks: np.ndarray, levels: np.ndarray, at: np.ndarray | None,
    allow: np.ndarray | None, count: int, dims: int, k: int,
) -> Neighbours:  # fmt: skip
    from inlay.kernels.bit_planes_numba import scan

    # How many there are is part of a tuple's type.
    words = queries.shape[2]
    shape = (0,) * queries.shape[1], (0,) * blocks.shape[1], (0,) * words if words <= UNROLLED else ()
    flat = blocks.reshape(len(blocks), -1)
    known = np.arange(dims * (((1 << blocks.shape[1]) - 1) ** 2 - 1) // 8 + 1 if len(levels) else 0)
    table = reciprocals(known, dims, 1)
    best, sizes = np.zeros((len(queries), k), dtype=np.uint64), np.zeros(len(queries), dtype=np.int64)
    scan(
        np.ascontiguousarray(queries), asked, shape, flat, levels, table, np.empty(0, np.int64) if at is None else at,
        np.empty(0, np.bool_) if allow is None else allow, count, dims, best, sizes,
    )  # fmt: skip
    best.sort(axis=1)  # what is not filled is 0 and comes first
    best = best[:, ::-1]
    bits_of = (best >> np.uint64(32)).astype(np.uint32)
    bits_of ^= np.where(bits_of >= 1 << 31, np.uint32(1 << 31), np.uint32(0xFFFFFFFF))
    there = best > 0
    ids = 0xFFFFFFFF - (best & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return Neighbours(np.where(there, bits_of.view(np.float32), np.float32(-np.inf)), np.where(there, ids, -1))


def _products(query: np.ndarray, blocks: np.ndarray, dims: int) -> np.ndarray:
    """c_q · c_d of one query uint64 [bits, words] with every row of some blocks, int64 [8 · blocks]."""
    asked, kept = len(query), blocks.shape[1]
    differing = np.zeros((len(blocks), LANES), dtype=np.int64)
    for s in range(asked):
        for t in range(kept):
            counts = _ones(query[s][:, None] ^ blocks[:, t]).sum(axis=1, dtype=np.int64)
            differing += counts << (asked - 1 - s + kept - 1 - t)
    return (dims * ((1 << asked) - 1) * ((1 << kept) - 1) - 2 * differing).ravel()


def _check(queries: np.ndarray, words: int, dims: int) -> None:
    if queries.ndim != 3 or queries.shape[2] != words or words != -(-dims // 64):
        raise BadInput(f"{dims} dimensions take {-(-dims // 64)} words; queries {list(queries.shape)}, rows of {words}")


def _ones(words: np.ndarray) -> np.ndarray:
    """How many bits of each word are set."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(words)
    octets = np.unpackbits(words[..., None].view(np.uint8), axis=-1)
    return octets.sum(axis=-1, dtype=np.uint8)
