"""MaxSim: how near a bag of query tokens is to each bag of document tokens, Σ_q max_p ⟨q, p⟩ (Chamfer similarity).

Document tokens are float32, float16, int8 with one float32 scale a token, or codes of `inlay.codecs.ResidualTokens`.
They are widened as they are read and sums are float32. int8 is multiplied as integers: the query is rounded to 16 bits
(a step of max|q| / 32767 up to 516 dimensions, coarser above, so that no sum leaves 32 bits), the document not at all.

A document without tokens scores −inf, for there is no largest of nothing; a query without tokens scores 0 with others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.errors import BadInput, SpaceMismatch
from inlay.kernels import compiled
from inlay.kernels.dense import _plain

__all__ = ["maxsim", "maxsim_plain", "maxsim_residual", "maxsim_residual_plain", "put_together"]

VALUES_AT_ONCE = 1 << 20  # numpy form: 4 MB of tokens widened to float32
_done = 0  # multiply-adds so far in this process: re-ranking comes in many small calls


def _fast(work: int) -> bool:
    global _done
    _done += work
    return compiled(_done)


def maxsim(
    query: np.ndarray,
    values: np.ndarray,
    offsets: np.ndarray,
    *,
    scales: np.ndarray | None = None,
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """Score of one query with each document, float32 [n].

    Args:
        query: float32 [q, dim], its tokens.
        values: float32, float16 or int8 [tokens, dim], tokens of all documents one after another.
        offsets: int64 [documents + 1]; document i owns `values[offsets[i]:offsets[i + 1]]`.
        scales: float32 [tokens], what one step of each int8 token is worth.
        ids: int64 [n], score only these documents; ascending ids read memory in order.
    """
    query, offsets, ids = _checked(query, values.shape[-1], offsets, len(values), ids)
    if values.ndim != 2 or values.dtype not in (np.float32, np.float16, np.int8):
        raise BadInput(f"tokens are float32, float16 or int8 [tokens, dim], got {values.dtype} {list(values.shape)}")
    if (values.dtype == np.int8) != (scales is not None):
        raise BadInput("int8 tokens, and only they, come with scales")
    if scales is not None and len(scales) != len(values):
        raise BadInput(f"{len(values)} int8 tokens need as many scales, got {len(scales)}")
    work = len(query) * values.shape[1] * _tokens(offsets, ids)
    if not _fast(work) or not len(query) or not _halves(values):
        return maxsim_plain(query, values, offsets, scales=scales, ids=ids)
    from inlay.kernels.maxsim_numba import score, score_int8

    out = np.empty(len(offsets) - 1 if ids is None else len(ids), dtype=np.float32)
    if scales is None:
        bits = values.view(np.uint16) if values.dtype == np.float16 else values
        score(_turned(query), len(query), _plain(bits), offsets, ids, out)
        return out
    words, steps = _paired(query)
    score_int8(words, steps, len(query), _plain(values), _plain(scales), offsets, ids, out)
    return out


def maxsim_plain(
    query: np.ndarray,
    values: np.ndarray,
    offsets: np.ndarray,
    *,
    scales: np.ndarray | None = None,
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """The numpy form of `maxsim`."""

    def read(rows: Any) -> np.ndarray:
        tokens = values[rows].astype(np.float32, copy=False)
        return tokens if scales is None else tokens * scales[rows][:, None]

    return _largest(query, read, offsets, ids)


def maxsim_residual(
    query: np.ndarray,
    centroids: np.ndarray,
    weights: np.ndarray,
    near: np.ndarray,
    codes: np.ndarray,
    offsets: np.ndarray,
    *,
    bits: int,
    unit: bool,
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """`maxsim` with tokens kept as a centroid and a coded residual, which are put together in registers' reach.

    Args:
        query: float32 [q, dim].
        centroids: float32 [centroids, dim].
        weights: float32 [dim, 2^bits], what a code adds in each dimension; or [1, 2^bits] for the same in all.
        near: uint16 or uint32 [tokens], number of each token's centroid.
        codes: uint8 [tokens, ⌈dim · bits / 8⌉], lowest bits first.
        offsets: int64 [documents + 1].
        bits: 1, 2, 4 or 8.
        unit: whether a token is brought back to length 1.
        ids: int64 [n], score only these documents.
    """
    query, offsets, ids = _checked(query, centroids.shape[1], offsets, len(near), ids)
    if not _fast(len(query) * centroids.shape[1] * _tokens(offsets, ids)) or not len(query):
        return maxsim_residual_plain(
            query, centroids, weights, near, codes, offsets, bits=bits, unit=unit, ids=ids
        )  # fmt: skip
    from inlay.kernels.maxsim_numba import score_residual

    out = np.empty(len(offsets) - 1 if ids is None else len(ids), dtype=np.float32)
    score_residual(
        _turned(query), len(query), _plain(centroids), _plain(weights), _plain(near), _plain(codes), bits, unit,
        offsets, ids, out,
    )  # fmt: skip
    return out


def maxsim_residual_plain(
    query: np.ndarray,
    centroids: np.ndarray,
    weights: np.ndarray,
    near: np.ndarray,
    codes: np.ndarray,
    offsets: np.ndarray,
    *,
    bits: int,
    unit: bool,
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """The numpy form of `maxsim_residual`."""
    return _largest(
        query, lambda rows: put_together(centroids, weights, near[rows], codes[rows], bits, unit), offsets, ids
    )


def put_together(
    centroids: np.ndarray, weights: np.ndarray, near: np.ndarray, codes: np.ndarray, bits: int, unit: bool
) -> np.ndarray:
    """Float32 tokens [n, dim] of centroids and coded residuals (see `maxsim_residual`)."""
    dim = centroids.shape[1]
    each = (codes[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    buckets = each.reshape(len(codes), codes.shape[1] * (8 // bits))[:, :dim]
    tokens = centroids[near] + weights[np.arange(dim) % len(weights), buckets]
    if unit:
        length = np.sqrt(np.einsum("nd,nd->n", tokens, tokens))[:, None]
        tokens /= np.where(length > 0, length, np.float32(1))
    return tokens


def _largest(query: np.ndarray, read: Any, offsets: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """Scores from a function that gives float32 tokens [n, dim] by their numbers, a few documents at a time."""
    starts = offsets[:-1] if ids is None else offsets[ids]
    lengths = np.diff(offsets) if ids is None else offsets[ids + 1] - starts
    out = np.full(len(starts), -np.inf, dtype=np.float32)
    full = np.flatnonzero(lengths)
    ends = np.cumsum(lengths[full])
    most, first = max(1, VALUES_AT_ONCE // max(1, query.shape[1])), 0
    while first < len(full):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + most, side="right")))
        some = full[first:last]
        edges = np.cumsum(lengths[some]) - lengths[some]
        rows = np.arange(edges[-1] + lengths[some[-1]]) + np.repeat(starts[some] - edges, lengths[some])
        dots = read(rows) @ query.T
        out[some] = np.maximum.reduceat(dots, edges, axis=0).sum(axis=1)
        first = last
    return out


def _checked(
    query: np.ndarray, dim: int, offsets: np.ndarray, tokens: int, ids: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    query = np.ascontiguousarray(query, dtype=np.float32)
    if query.ndim != 2:
        raise BadInput(f"a query is its tokens [q, dim], got shape {list(query.shape)}")
    if query.shape[1] != dim:
        raise SpaceMismatch(f"the documents' tokens have {dim} dimensions, the query's {query.shape[1]}")
    if not np.isfinite(query).all():
        token = int(np.flatnonzero(~np.isfinite(query).all(axis=1))[0])
        raise BadInput(f"query token {token} holds NaN or infinity")
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] > tokens or (np.diff(offsets) < 0).any():
        raise BadInput(f"offsets must ascend from 0 to at most {tokens}, the number of tokens")
    if ids is not None:
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        if ids.ndim != 1 or (len(ids) and not (ids.min() >= 0 and ids.max() < len(offsets) - 1)):
            raise BadInput(
                f"ids must be numbers from 0 to {len(offsets) - 2}, one of {len(offsets) - 1} documents each"
            )
    return query, offsets, ids


def _tokens(offsets: np.ndarray, ids: np.ndarray | None) -> int:
    return int(offsets[-1] if ids is None else (offsets[ids + 1] - offsets[ids]).sum())


def _halves(values: np.ndarray) -> bool:
    """Whether the compiled form can read them: float16 wants an instruction that converts it."""
    if values.dtype != np.float16:
        return True
    from inlay.kernels.dense_numba import converts_halves

    return converts_halves()


def _turned(query: np.ndarray) -> np.ndarray:
    """Tokens side by side, float32 [dim, columns], zeros behind the last up to a whole vector."""
    from inlay.kernels.maxsim_numba import LANES

    turned = np.zeros((query.shape[1], -(-len(query) // LANES) * LANES), dtype=np.float32)
    turned[:, : len(query)] = query.T
    return turned


def _paired(query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in 16 bits, pairs of dimensions in one int32 [⌈dim / 2⌉, columns]; and float32 steps [columns]."""
    from inlay.kernels.maxsim_numba import LANES

    tokens, dim = query.shape
    most = min(32767, (2**31 - 1) // (128 * dim))  # so that no sum of products with int8 leaves 32 bits
    steps = np.zeros(-(-tokens // LANES) * LANES, dtype=np.float32)
    steps[:tokens] = np.abs(query).max(axis=1) / np.float32(most)
    numbers = np.rint(query / np.where(steps > 0, steps, np.float32(1))[:tokens, None])
    whole = np.zeros((dim + dim % 2, len(steps)), dtype=np.int16)
    whole[:dim, :tokens] = np.clip(numbers, -most, most).T
    pairs = np.ascontiguousarray(whole.reshape(-1, 2, len(steps)).swapaxes(1, 2))
    return pairs.view(np.int32)[:, :, 0], steps
