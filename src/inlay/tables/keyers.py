"""Keys of rows, computed from token ids alone: nothing is learnt, so rows can be fetched before the model runs.

- `token_keys`: the token itself (STEM).
- `ngram_keys`: the n tokens that end here, hashed into buckets by the mixing hash of the house.
- `Engram`: the same by the hash that paper names, multiplications and XOR modulo distinct primes.
- `LongestNGram`: the longest frequent n-gram that ends here (SCONE).
- `digit_keys`: mixed-radix digits (quotient-remainder, subspace embedding).
- `sign_keys`: sign bits of chunks of a vector, the one keyer of activations (MemoryFormer).

No n-gram looks ahead, and with `starts` none reaches over the beginning of a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.mixing import mixed

__all__ = ["Engram", "LongestNGram", "digit_keys", "ngram_keys", "primes_above", "radix", "sign_keys", "token_keys"]


def token_keys(ids: Any, rows: int | None = None) -> np.ndarray:
    """The ids themselves as int64, refused where they are outside [0, rows)."""
    return _ids(ids, rows)


def ngram_keys(
    ids: Any, n: int, buckets: int, *, heads: int = 1, salt: int = 0, pad: int = 0, starts: Any = None
) -> np.ndarray:
    """Buckets of the n-gram that ends at each place, int64 [..., time, heads].

    Args:
        ids: int [..., time].
        n: tokens of an n-gram, the current one included.
        buckets: of a head, below 2³².
        heads: hashes of each n-gram, independent of each other.
        salt: other salts give other hashes; head h of salt s is head 0 of salt s + h.
        pad: id that stands before the first token.
        starts: bool [..., time], where documents begin: what is before is `pad`.
    """
    _positive(n=n, buckets=buckets, heads=heads)
    if buckets >= 1 << 32:
        raise BadInput(f"a hash needs from 1 to 2**32 - 1 buckets, got {buckets}")
    windows = _windows(_ids(ids), n, pad, starts)
    found = np.empty((*windows.shape[:-1], heads), dtype=np.int64)
    for head in range(heads):
        hashed = _hash(windows, salt + head)
        found[..., head] = ((hashed >> np.uint64(1)) % np.uint64(buckets)).astype(np.int64)
    return found


class Engram:
    """Keys of the suffix n-grams of 2 … `n` tokens (or of some `orders`), `heads` each, as one table of `rows` rows.

    Per layer, odd multipliers `m_k = 2r_k + 1` with r_k uniform below ⌊⌊(2⁶³ − 1) / vocabulary⌋ / 2⌋, so that no
    product overflows; `mix = XOR_k x_{t−k} · m_k`, and head j of an order takes `mix mod M_j`. The moduli of all
    layers, orders and heads are distinct primes above `slots`: heads share the multipliers and differ by them alone.

    Args:
        vocabulary: ids lie in [0, vocabulary).
        slots: rows a head, at least.
        n: longest n-gram.
        heads: of each order.
        layer: number of the layer, which seeds its multipliers.
        used: primes that other layers have taken; this layer's are added to it.
        seed: base seed; the multipliers are drawn with seed + 10007 · layer.
        pad: id that stands before the first token.
        orders: lengths of n-grams, ascending, from 2 on, in place of `n`.

    Source: Conditional Memory via Scalable Lookup (arXiv 2601.07372). Its generator of multipliers is not named; here
    it is numpy's PCG64.
    """

    def __init__(
        self, vocabulary: int, slots: int, *, n: int = 3, heads: int = 8, layer: int = 0, used: set[int] | None = None,
        seed: int = 0, pad: int = 0, orders: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        _positive(vocabulary=vocabulary, slots=slots, heads=heads)
        if orders is None:
            if n < 2:
                raise BadInput(f"n must be at least 2, got {n}")
            orders = range(2, n + 1)
        self.orders = tuple(orders)
        _positive(**{f"order {number}": order for number, order in enumerate(self.orders)})
        if not self.orders or self.orders[0] < 2 or list(self.orders) != sorted(set(self.orders)):
            raise BadInput(f"orders must ascend from at least 2, such as (2, 3), got {self.orders}")
        n = self.orders[-1]
        if not 0 <= pad < vocabulary:
            raise BadInput(f"pad {pad} is outside [0, {vocabulary})")
        self.vocabulary, self.n, self.heads, self.pad = vocabulary, n, heads, pad
        bound = (2**63 - 1) // vocabulary // 2
        drawn = np.random.default_rng(seed + 10007 * layer).integers(0, bound, size=n, dtype=np.int64)
        self.multipliers = 2 * drawn + 1
        taken = set() if used is None else used
        self.primes = np.array([primes_above(slots, heads, taken) for _ in self.orders], dtype=np.int64)
        sizes = self.primes.reshape(-1)
        self.offsets = (np.cumsum(sizes) - sizes).reshape(self.primes.shape)
        self.rows = int(sizes.sum())

    def __repr__(self) -> str:
        return f"Engram(vocabulary={self.vocabulary}, orders={self.orders}, heads={self.heads}, rows={self.rows})"

    def keys(self, ids: Any, *, starts: Any = None) -> np.ndarray:
        """Keys int64 [..., time, orders · heads] in [0, rows) of ids [..., time], orders ascending."""
        windows = _windows(_ids(ids, self.vocabulary), self.n, self.pad, starts)
        found = np.empty((*windows.shape[:-1], len(self.orders), self.heads), dtype=np.int64)
        mix = windows[..., 0] * self.multipliers[0]
        for k in range(1, self.n):
            mix = mix ^ (windows[..., k] * self.multipliers[k])
            if k + 1 in self.orders:
                order = self.orders.index(k + 1)
                found[..., order, :] = mix[..., None] % self.primes[order] + self.offsets[order]
        return found.reshape(*windows.shape[:-1], len(self.orders) * self.heads)


def primes_above(low: int, count: int, used: set[int]) -> list[int]:
    """The next `count` primes above `low` that are not in `used`, to which they are added."""
    found: list[int] = []
    candidate = low
    while len(found) < count:
        candidate += 1
        if candidate not in used and _is_prime(candidate):
            found.append(candidate)
            used.add(candidate)
    return found


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


class LongestNGram:
    """Finds, at each place, the longest of the given n-grams that ends there.

    Looked up by hash and then compared token by token, so that a collision never gives another n-gram's row.

    Args:
        ngrams: token ids of each; number i is the key of the i-th. Lengths may differ.

    Source: SCONE (arXiv 2502.01637).
    """

    def __init__(self, ngrams: Iterable[Sequence[int]]) -> None:
        by_length: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        count = 0
        for number, ngram in enumerate(ngrams):
            tokens = tuple(int(token) for token in ngram)
            if not tokens or min(tokens) < 0:
                raise BadInput(f"n-gram {number} must be at least one token id of at least 0, got {list(ngram)}")
            by_length.setdefault(len(tokens), []).append((number, tokens))
            count += 1
        self.rows, self.longest = count, max(by_length, default=0)
        if self.longest > 255:
            raise BadInput(f"n-grams of at most 255 tokens, got one of {self.longest}")
        self._tables: dict[int, tuple[int, np.ndarray, np.ndarray, np.ndarray]] = {}
        for length, found in sorted(by_length.items()):
            tokens_of = np.array([tokens for _, tokens in found], dtype=np.int64)
            if len({tokens for _, tokens in found}) != len(found):
                raise BadInput(f"an n-gram of {length} tokens is given twice; give each once")
            salt = 0
            while len(np.unique(hashed := _hash(tokens_of[:, ::-1], salt))) != len(found):
                salt += 1
            order = np.argsort(hashed)
            numbers = np.array([number for number, _ in found], dtype=np.int64)
            self._tables[length] = salt, hashed[order], numbers[order], tokens_of[order]

    def __repr__(self) -> str:
        return f"LongestNGram({self.rows} n-grams of up to {self.longest} tokens)"

    def keys(self, ids: Any, *, starts: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Of ids [..., time]: the n-gram's number, int64, -1 where none ends; and its length, uint8, 0 there.

        Args:
            ids: int [..., time].
            starts: bool [..., time], where documents begin: no n-gram reaches over it.
        """
        given = _ids(ids)
        numbers, lengths = np.full(given.shape, -1, dtype=np.int64), np.zeros(given.shape, dtype=np.uint8)
        if not self.rows or not given.size:
            return numbers, lengths
        windows = _windows(given, self.longest, -1, starts)  # -1 is no token of any n-gram
        for length, (salt, hashes, names, tokens) in self._tables.items():
            window = windows[..., :length]
            hashed = _hash(window, salt)
            place = np.minimum(np.searchsorted(hashes, hashed), len(hashes) - 1)
            same = (hashes[place] == hashed) & (tokens[place][..., ::-1] == window).all(axis=-1)
            numbers[same], lengths[same] = names[place[same]], length
        return numbers, lengths


def sign_keys(vectors: Any, bits: int) -> np.ndarray:
    """Chunks of `bits` numbers to `Σ_i [z_i ≥ 0] · 2^i`, int64 [..., chunks] of vectors [..., chunks · bits].

    Source: MemoryFormer (arXiv 2411.12992).
    """
    values = np.asarray(vectors)
    if not 1 <= bits <= 62 or values.ndim < 1 or values.shape[-1] % bits:
        raise BadInput(f"bits must be from 1 to 62 and divide the width, got {bits} and vectors {values.shape}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise BadInput("vectors hold NaN, which has no sign")
    positive = (values >= 0).reshape(*values.shape[:-1], -1, bits)
    return positive.astype(np.int64) @ (np.int64(1) << np.arange(bits, dtype=np.int64))


def digit_keys(ids: Any, radices: Sequence[int]) -> np.ndarray:
    """Mixed-radix digits of ids [...], the lowest first: int64 [..., digits]; digit i lies in [0, radices[i]).

    Distinct ids below the product of the radices have distinct digits; larger ones are refused.
    """
    given, made = _ids(ids), []
    product = 1
    for base in radices:
        _positive(radix=base)
        product *= base
    if given.size and int(given.max()) >= product:
        raise BadInput(f"id {int(given.max())} has more digits than radices {list(radices)} hold: ids end at {product}")
    for base in radices:
        given, digit = np.divmod(given, base)
        made.append(digit)
    return np.stack(made, axis=-1) if made else np.zeros((*given.shape, 0), dtype=np.int64)


def radix(rows: int, digits: int) -> int:
    """The smallest base in which `digits` digits number `rows` rows."""
    _positive(rows=rows, digits=digits)
    base = max(1, round(rows ** (1 / digits)) - 1)
    while base**digits < rows:
        base += 1
    return base


def _hash(windows: np.ndarray, salt: int) -> np.ndarray:
    """uint64 [...] of n-grams int64 [..., n], the current token first: the mixing hash, chained over the tokens."""
    hashed = mixed(windows[..., 0], salt)
    for k in range(1, windows.shape[-1]):
        hashed = mixed(hashed ^ windows[..., k].astype(np.uint64), salt)
    return hashed


def _windows(ids: np.ndarray, n: int, pad: int, starts: Any) -> np.ndarray:
    """Int64 [..., time, n]: the current token, the one before it, and so on; `pad` before the document begins."""
    if ids.ndim < 1:
        raise BadInput("n-grams need ids [..., time], got a single id")
    windows = np.full((*ids.shape, n), pad, dtype=np.int64)
    since = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)  # tokens of the document before this one
    if starts is not None:
        begins = np.asarray(starts)
        if begins.shape != ids.shape or begins.dtype != np.bool_:
            raise BadInput(f"starts must be bool {ids.shape}, got {begins.dtype} {begins.shape}")
        since = since - np.maximum.accumulate(np.where(begins, since, 0), axis=-1)
    windows[..., 0] = ids
    for k in range(1, min(n, ids.shape[-1])):
        inside = since[..., k:] >= k
        windows[..., k:, k] = np.where(inside, ids[..., :-k], pad)
    return windows


def _ids(ids: Any, rows: int | None = None) -> np.ndarray:
    given = np.asarray(ids)
    if given.size and given.dtype.kind not in "iu":
        raise BadInput(f"ids must be integers, got {given.dtype}")
    given = given.astype(np.int64)
    if given.size and (given.min() < 0 or (rows is not None and given.max() >= rows)):
        wrong = int(given.min()) if given.min() < 0 else int(given.max())
        raise BadInput(f"id {wrong} is outside [0, {'∞' if rows is None else rows})")
    return given


def _positive(**numbers: int) -> None:
    for what, number in numbers.items():
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 1:
            raise BadInput(f"{what} must be an integer of at least 1, got {number!r}")
