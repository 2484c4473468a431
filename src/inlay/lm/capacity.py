"""How much of its tables a decoder reads in a text: the longer the text, the more distinct tokens, the more rows.

A text of L tokens touches |S| · f · L_uniq(L) numbers of STEM tables, |S| being the layers that have one, f its width
and L_uniq the distinct ids; the FLOPs of a token stay what they are. L_uniq grows slower than L (Heaps), so that a
longer text reads more rows, but fewer for each further token.

The same counts say what moving rows costs: distinct ids of a chunk are what is fetched (`traffic_of`).

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639), test-time capacity and offload traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.lm.decoder import Decoder
from inlay.lm.stem import stem_parts
from inlay.tables.lfu import LFU

__all__ = ["Capacity", "Demand", "context_capacity", "distinct_tokens", "traffic_of"]


class Capacity(NamedTuple):
    """What texts of some lengths read of STEM tables.

    Attributes:
        lengths: int64 [n], in tokens.
        distinct: float64 [n], distinct ids, the mean over texts.
        numbers: float64 [n], distinct numbers of STEM rows.
        exponent: β of the curve distinct = k · lengthᵝ that fits best, by least squares of logarithms; NaN where there
            are fewer than two lengths.
    """

    lengths: np.ndarray
    distinct: np.ndarray
    numbers: np.ndarray
    exponent: float


class Demand(NamedTuple):
    """What reading a text asks of a cache of rows.

    Attributes:
        capacity: rows it holds.
        ids: tokens read.
        distinct: the distinct ids of all chunks, summed.
        hit_rate: share of these that were in the cache.
    """

    capacity: int
    ids: int
    distinct: int
    hit_rate: float


def context_capacity(model: Decoder, ids: Any, lengths: Sequence[int] | None = None) -> Capacity:
    """Count the numbers of STEM tables that texts read, by length; exact, and without running the decoder.

    Args:
        model: with STEM parts.
        ids: texts, int [length] or [texts, length].
        lengths: ascending; None: 1, 2, 4, … and the whole.
    """
    widths = [int(part.table.dim) for part in stem_parts(model).values()]  # type: ignore[arg-type]
    curve = distinct_tokens(ids, model.vocab)
    curve = curve.reshape(-1, curve.shape[-1]).mean(0)
    whole = len(curve)
    given = sorted({*(2**k for k in range(whole.bit_length())), whole}) if lengths is None else list(lengths)
    at = np.asarray(given)
    if at.ndim != 1 or not at.size or at.dtype.kind not in "iu":
        raise BadInput(f"lengths must be integers with at least one, got {given!r}")
    if at[0] < 1 or at[-1] > whole or (np.diff(at) <= 0).any():
        raise BadInput(f"lengths must ascend from 1 to at most {whole}, the text's, got {given}")
    at = at.astype(np.int64)
    distinct = curve[at - 1]
    exponent = float(np.polyfit(np.log(at), np.log(distinct), 1)[0]) if len(at) > 1 else float("nan")
    return Capacity(at, distinct, distinct * sum(widths), exponent)


def distinct_tokens(ids: Any, vocab: int | None = None) -> np.ndarray:
    """Distinct ids among the first 1, 2, … tokens of texts, int64 of the shape of ids [..., length]."""
    texts = _texts(ids, vocab)
    flat = texts.reshape(-1, texts.shape[-1])
    fresh = np.zeros(flat.shape, dtype=np.int64)
    for text, new in zip(flat, fresh):
        new[np.unique(text, return_index=True)[1]] = 1
    return fresh.cumsum(1).reshape(texts.shape)


def traffic_of(ids: Any, vocab: int, capacities: Sequence[int], *, chunk: int = 1) -> list[Demand]:
    """What a cache of each capacity would do while a text is read; rows are planned and not moved.

    Args:
        ids: a text, int [length].
        vocab: number of token ids.
        capacities: rows of each cache.
        chunk: tokens read at a time, 1 while generating; one with more distinct ids than the cache holds is cut.
    """
    text = _texts(ids, vocab)
    if text.ndim != 1:
        raise BadInput(f"traffic is of one text [length], got {list(text.shape)}")
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise BadInput(f"chunk must be an integer of at least 1, got {chunk!r}")
    found = []
    for capacity in capacities:
        planner, distinct, misses = LFU(vocab, capacity), 0, 0
        for start in range(0, len(text), chunk):
            for run in planner.split(text[start : start + chunk]):
                plan = planner.plan(run)
                distinct, misses = distinct + len(plan.unique), misses + plan.misses
        found.append(Demand(capacity, len(text), distinct, 1 - misses / distinct))
    return found


def _texts(ids: Any, vocab: int | None) -> np.ndarray:
    given = np.asarray(ids)
    if given.ndim < 1 or not given.size or given.dtype.kind not in "iu":
        raise BadInput(f"ids must be integers [..., length] with at least one token, got {given.dtype} {given.shape}")
    low, high = int(given.min()), int(given.max())
    if low < 0 or (vocab is not None and high >= vocab):
        raise BadInput(f"id {low if low < 0 else high} is outside the vocabulary of {vocab}")
    return given.astype(np.int64)
