"""Rows as a few bits a dimension, by networks that were taught which rows belong together (BEBR).

The first bit of every dimension is the sign of what a small network makes of the row. Each further bit is the sign of
what another network makes of the part of the row that the bits so far do not explain: they are turned back into a row
of the input space, and the difference is what is coded next, at half the weight.

    b_0 = sign(W_0(f));   b_t = b_(t−1) + 2^−t · sign(W_t(f − f̂)),  f̂ = B_t(b_(t−1)) scaled to length 1

Two such codes are compared without decoding, by counting differing bits (`inlay.kernels.bit_planes`). The networks are
learnt by `inlay.training.learn_binary`, which makes this codec; nothing but numpy is needed to use it.

Source: Gan et al., "Binary Embedding-based Retrieval at Tencent" (arXiv 2302.08714, KDD 2023). Where the paper keeps
1/|b| of a row in a byte on a log scale, a row here keeps |b| exactly, as a whole number in one or two bytes; a row of
one bit a dimension keeps nothing, as all are equally long. The sign of 0 is +1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay import sealed
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.kernels.bit_planes import BitPlanes, packed, reciprocals, score, unpacked
from inlay.kernels.dense import normalise

__all__ = ["Block", "RecurrentBinary", "level_type"]

KIND = "recurrent binary codec"
MOST_BITS, MOST_DIMS = 4, 1 << 16  # so that a product of two rows is exact in float32
ROWS_AT_ONCE = 4096


class Block(NamedTuple):
    """x → max(0, x·inner + inner_bias)·outer + outer_bias + x·skip; without `skip`, x itself is added."""

    inner: np.ndarray
    inner_bias: np.ndarray
    outer: np.ndarray
    outer_bias: np.ndarray
    skip: np.ndarray | None


Network = Sequence[Block]


class RecurrentBinary:
    """Rows [n, dim] as `bits` bits in each of `dims` dimensions, compared by cosine.

    Args:
        networks: W_0, then B_t and W_t for each further bit, each a chain of blocks.
        compatible_with: fingerprints of older codecs whose codes its own may be compared with.
        learnt: what it was learnt from, and how; whatever JSON can hold.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        compatible_with: Iterable[str] = (),
        learnt: Mapping[str, Any] | None = None,
    ) -> None:
        self.networks = [list(network) for network in networks]
        if len(self.networks) % 2 == 0 or len(self.networks) >= 2 * MOST_BITS:
            raise BadInput(f"1 to {MOST_BITS} bits take 1, 3, 5 or 7 networks, got {len(self.networks)}")
        self.bits = (len(self.networks) + 1) // 2
        first = self.networks[0]
        self.dim, self.dims = len(first[0].inner), len(first[-1].outer_bias)
        if not 1 <= self.dims <= MOST_DIMS:
            raise BadInput(f"a code has 1 to {MOST_DIMS} dimensions, got {self.dims}")
        for i, network in enumerate(self.networks):
            _check(network, *((self.dims, self.dim) if i % 2 else (self.dim, self.dims)))
        self.compatible_with, self.learnt = tuple(compatible_with), dict(learnt or {})

    def __repr__(self) -> str:
        return f"RecurrentBinary(dim={self.dim}, dims={self.dims}, bits={self.bits})"

    @property
    def fingerprint(self) -> str:
        """Identity of the networks: codes of different ones are compared only where they were learnt to be."""
        digest = hashlib.blake2b(digest_size=8)
        for name, array in self.arrays().items():
            digest.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return f"recurrent-binary-{digest.hexdigest()}"

    @property
    def network_nbytes(self) -> int:
        """Bytes of the networks, kept once whatever the number of rows."""
        return sum(array.nbytes for array in self.arrays().values())

    def nbytes(self, dim: int) -> int:
        """Bytes of one row: its planes, in whole words of 64 bits, and its length."""
        if dim != self.dim:
            raise BadInput(f"{self!r} codes rows of {self.dim} numbers, not of {dim}")
        return self.bits * -(-self.dims // 64) * 8 + (level_type(self.dims, self.bits).itemsize if self.bits > 1 else 0)

    def encode(self, rows: np.ndarray) -> BitPlanes:
        """Codes of float32 rows [n, dim]; their length does not count."""
        rows = _finite(rows)
        if rows.shape[1] != self.dim:
            raise SpaceMismatch(f"{self!r} was learnt on rows of {self.dim} numbers, got {rows.shape[1]}")
        planes = np.empty((len(rows), self.bits, -(-self.dims // 64)), dtype=np.uint64)
        levels = np.empty(len(rows) if self.bits > 1 else 0, dtype=level_type(self.dims, self.bits))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            signs = self._signs(normalise(rows[part]))
            for plane, own in enumerate(signs):
                planes[part, plane] = packed(own)
            if self.bits > 1:
                numbers = _integers(signs)
                levels[part] = (np.einsum("nd,nd->n", numbers, numbers) - self.dims) // 8
        return BitPlanes(planes, levels)

    def decode(self, codes: BitPlanes) -> np.ndarray:
        """The codes as numbers, float32 [n, dims] of length 1, whose dot products are the cosines of codes.

        They live in the space of codes, not in that of rows: what the last bit adds is never turned back.
        """
        codes = self._own(codes)
        signs = [unpacked(codes.planes[:, plane], self.dims) for plane in range(self.bits)]
        own = reciprocals(codes.levels, self.dims, len(codes.planes))
        return _integers(signs).astype(np.float32) * own[:, None]

    def score(self, queries: BitPlanes, codes: BitPlanes) -> np.ndarray:
        """Cosine of every query with every row, both coded: float32 [q, n]."""
        if queries.planes.ndim != 3 or queries.planes.shape[2] != -(-self.dims // 64):
            raise SpaceMismatch(f"queries of {self!r} have {-(-self.dims // 64)} words, got {queries.planes.shape}")
        return score(queries, self._own(codes), self.dims)

    def reads(self, other: RecurrentBinary) -> None:
        """Refuse, with a reason, unless codes of this codec may be compared with codes of the other."""
        if other is self or other.fingerprint in (self.fingerprint, *self.compatible_with):
            if other.dims == self.dims:
                return
            raise SpaceMismatch(f"codes of {self!r} and {other!r} have different dimensions")
        raise SpaceMismatch(
            f"{self!r} was not learnt to be compatible with {other.fingerprint}; "
            "learn it with compatible_with=(old codec, its codes), or encode the rows anew"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The networks' arrays, by name."""
        return {
            f"{i}.{j}.{name}": array
            for i, network in enumerate(self.networks)
            for j, block in enumerate(network)
            for name, array in block._asdict().items()
            if array is not None
        }

    def facts(self) -> dict[str, Any]:
        """What is known of it beside the arrays; JSON."""
        blocks = [len(network) for network in self.networks]
        return {"blocks": blocks, "compatible_with": list(self.compatible_with), "learnt": self.learnt}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> RecurrentBinary:
        """Of what `arrays` and `facts` gave."""
        try:
            networks = [[_block(arrays, f"{i}.{j}.") for j in range(n)] for i, n in enumerate(facts["blocks"])]
            return cls(networks, compatible_with=facts["compatible_with"], learnt=facts["learnt"])
        except (BadInput, KeyError, TypeError, ValueError, IndexError) as error:
            raise Corrupt(f"the networks do not fit together ({error!r}); {sealed.REPAIR}") from None

    def save(self, path: str | Path) -> Path:
        """Write the codec to one file."""
        return sealed.write(path, self.arrays(), {"kind": KIND, **self.facts()})

    @classmethod
    def load(cls, path: str | Path) -> RecurrentBinary:
        """Read what `save` wrote."""
        return cls.restored(*sealed.read(path, KIND))

    def _signs(self, rows: np.ndarray) -> list[np.ndarray]:
        """The planes of unit rows as bool [n, dims], the first bit first."""
        signs = [_through(self.networks[0], rows) >= 0]
        numbers = _weighted(signs)
        for t in range(1, self.bits):
            back = normalise(_through(self.networks[2 * t - 1], numbers))
            signs.append(_through(self.networks[2 * t], rows - back) >= 0)
            numbers = _weighted(signs)
        return signs

    def _own(self, codes: BitPlanes) -> BitPlanes:
        shape = (self.bits, -(-self.dims // 64))
        planes, levels = codes
        if planes.dtype != np.uint64 or planes.ndim != 3 or planes.shape[1:] != shape:
            found = f"{planes.dtype} {list(planes.shape)}"
            raise BadInput(f"codes of {self!r} are uint64 [n, {shape[0]}, {shape[1]}], got {found}")
        if len(levels) != (len(planes) if self.bits > 1 else 0):
            raise BadInput(f"{len(planes)} codes of {self!r} came with {len(levels)} levels; pass on what encode gave")
        return codes


def level_type(dims: int, bits: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds the level of every row."""
    return np.min_scalar_type(dims * ((2**bits - 1) ** 2 - 1) // 8)


def _integers(signs: Sequence[np.ndarray]) -> np.ndarray:
    """c = Σ_t 2^(u−t) s_t of signs bool [n, dims], int32."""
    total = np.zeros(signs[0].shape, dtype=np.int32)
    for own in signs:
        total = 2 * total + np.where(own, np.int32(1), np.int32(-1))
    return total


def _weighted(signs: Sequence[np.ndarray]) -> np.ndarray:
    """b = Σ_t 2^−t s_t, float32."""
    return _integers(signs).astype(np.float32) / np.float32(1 << (len(signs) - 1))


def _block(arrays: Mapping[str, np.ndarray], name: str) -> Block:
    inner, inner_bias, outer, outer_bias = (arrays[name + part] for part in Block._fields[:4])
    return Block(inner, inner_bias, outer, outer_bias, arrays.get(name + "skip"))


def _through(network: Network, rows: np.ndarray) -> np.ndarray:
    for block in network:
        hidden = np.maximum(rows @ block.inner + block.inner_bias, 0)
        rows = hidden @ block.outer + block.outer_bias + (rows if block.skip is None else rows @ block.skip)
    return rows


def _check(network: Network, wide: int, out: int) -> None:
    if not network:
        raise BadInput("a network has at least one block")
    for i, block in enumerate(network):
        hidden, made = len(block.inner_bias), len(block.outer_bias)
        wanted = {"inner": (wide, hidden), "inner_bias": (hidden,), "outer": (hidden, made), "outer_bias": (made,)}
        if block.skip is not None or wide != made:
            wanted["skip"] = (wide, made)
        for name, shape in wanted.items():
            array = getattr(block, name)
            if array is None or array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise BadInput(f"{name} of block {i} must be finite float32 {list(shape)}, got {found}")
        wide = made
    if wide != out:
        raise BadInput(f"a network that must end in {out} numbers ends in {wide}")
