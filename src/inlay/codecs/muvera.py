"""MUVERA: a bag of token vectors as one vector whose dot product with a query's approximates their MaxSim.

Source: Dhulipala et al., "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings" (arXiv 2405.19504, 2024).

Space is cut by random hyperplanes into 2^k buckets. A query's block of a bucket is the *sum* of its tokens there, a
document's the *mean*; a bucket without document tokens takes the one whose signs differ least from the bucket's
("fill"). So a query token meets the mean of document tokens near it, or one of them, never more than the best one:
with exact blocks a repetition never exceeds MaxSim. Repetitions with other planes are put side by side.

Where tokens share a large common part, planes through the origin leave most of them in few buckets, so the mean μ is
taken away. How matters. Taken from both sides, and lengths brought back to 1, encodings approximate MaxSim of *other*
tokens, and find fewer of the documents that are best by the tokens as they are: of the ten best, 73.5% among the first
100 of 1,000 Cranfield abstracts (tokens of `LateBox`, 5,120 numbers), where no centring at all finds 79.4%. Here
buckets are those of x − μ on both sides, a document's values are p − μ, and a query's values stay q: as
max_p ⟨q, p − μ⟩ = max_p ⟨q, p⟩ − ⟨q, μ⟩, what is approximated is the true MaxSim less a constant of the query, which
changes no ranking (80.3%).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from inlay import sealed
from inlay.codecs.ragged import checked_ragged, part
from inlay.errors import BadInput, Corrupt
from inlay.types import Ragged, Space

__all__ = ["MuveraFDE"]

KIND = "fixed dimensional encoding"
Projection = Literal["signs", "count-sketch"]
TOKENS_AT_ONCE = 1 << 15  # tokens projected together: their projections are then 20 MB at the defaults
COLUMNS_AT_ONCE = 256  # of several repetitions in one matrix product: one alone is too narrow to be fast
NUMBERS_AT_ONCE = 1 << 23  # of encodings made together: 32 MB
BLOCKS_AT_ONCE = 1 << 16  # (document, bucket) pairs at once, whose numbers fit 16 bits: numpy sorts those by radix
LOPSIDED = 0.2  # length of the mean token, of that of a token, from which "auto" centres
_NONE = np.iinfo(np.int64).max


class MuveraFDE:
    """Fixed dimensional encodings. They are compared by dot product and must not be normalised.

    Nothing depends on data but the mean that `fit` stores.

    Args:
        dim: width of a token vector.
        reps: repetitions.
        k_sim: hyperplanes of a repetition; 2^k_sim buckets.
        d_proj: width of a block, of random combinations of a token's numbers; None keeps tokens as they are.
        final: width to which the whole is projected at last; None leaves reps · 2^k_sim · d_proj numbers.
        projection: `signs`, of random ±1 over the square root of the width (the paper's), or `count-sketch`, where each
            number is added with a random sign to one place (the authors' code; the only one that is practical to
            project hundreds of thousands of numbers at last).
        fill: False leaves empty buckets of documents empty.
        center: "auto" centres tokens if the length of their mean is above 0.2 of a token's; or True, or False.
        seed: of planes and projections. Documents and queries must share it.
    """

    def __init__(
        self,
        dim: int,
        *,
        reps: int = 20,
        k_sim: int = 5,
        d_proj: int | None = 8,
        final: int | None = None,
        projection: Projection = "signs",
        fill: bool = True,
        center: bool | Literal["auto"] = "auto",
        seed: int = 42,
    ) -> None:
        for name, number in (("dim", dim), ("reps", reps), ("d_proj", d_proj), ("final", final)):
            optional = name in ("d_proj", "final")
            if not (number is None and optional) and (not _integer(number) or number < 1):  # type: ignore[operator]
                raise BadInput(f"{name} must be an integer of at least 1{' or None' * optional}, got {number!r}")
        if not _integer(k_sim) or not 0 <= k_sim <= 12:
            raise BadInput(f"k_sim must be an integer from 0 to 12, got {k_sim!r}")
        if projection not in get_args(Projection):
            raise BadInput(f"projection must be one of {', '.join(get_args(Projection))}, got {projection!r}")
        if center != "auto" and not isinstance(center, bool):
            raise BadInput(f"center must be True, False or 'auto', got {center!r}")
        if not isinstance(fill, bool):
            raise BadInput(f"fill must be True or False, got {fill!r}")
        if not _integer(seed) or seed < 0:
            raise BadInput(f"seed must be an integer of at least 0, got {seed!r}")
        self.dim, self.reps, self.k_sim = int(dim), int(reps), int(k_sim)
        self.d_proj, self.final, self.projection = d_proj, final, projection
        self.fill, self.center, self.seed = fill, center, int(seed)
        self.mean: np.ndarray | None = None  # float32 [dim], where tokens are centred
        self.fitted = center is False
        self._draw()

    def __repr__(self) -> str:
        return (
            f"MuveraFDE({self.dim}, reps={self.reps}, k_sim={self.k_sim}, d_proj={self.d_proj}, final={self.final}, "
            f"projection={self.projection!r}, fill={self.fill}, center={self.center!r}, seed={self.seed})"
        )

    @property
    def buckets(self) -> int:
        """Buckets of a repetition."""
        return 1 << self.k_sim

    @property
    def block(self) -> int:
        """Numbers of a bucket."""
        return self.d_proj or self.dim

    @property
    def width(self) -> int:
        """Numbers of an encoding."""
        return self.final or self.reps * self.buckets * self.block

    @property
    def space(self) -> Space:
        """Where encodings are comparable."""
        return Space("dense", self.width, "dot")

    def fit(self, bags: Any) -> Self:
        """Decide about centring from document tokens (`Ragged`, or a list of arrays [tokens, dim])."""
        values = checked_ragged(bags, self.dim).values
        self.mean = None
        if self.center is not False:
            if not len(values):
                raise BadInput("the mean of no tokens at all; bring documents, or set center=False")
            mean = values.mean(axis=0, dtype=np.float64)
            usual = float(np.linalg.norm(values, axis=1).mean(dtype=np.float64))
            if self.center is True or np.linalg.norm(mean) > LOPSIDED * usual:
                self.mean = mean.astype(np.float32)
        self.fitted = True
        return self

    def encode_document(self, bags: Any) -> np.ndarray:
        """Float32 [n, width]: means of tokens, empty buckets filled; zeros for a document without tokens."""
        return self._encode(bags, document=True)

    def encode_query(self, bags: Any) -> np.ndarray:
        """Float32 [n, width]: sums of tokens, empty buckets left at zero."""
        return self._encode(bags, document=False)

    def nbytes(self, dim: int) -> int:
        """Bytes of one encoding as float32, whatever the width of tokens."""
        return 4 * self.width

    def arrays(self) -> dict[str, np.ndarray]:
        """What was drawn and learnt, by name."""
        found = {"planes": self._planes}
        if self._inner is not None:
            found["inner"] = self._inner
        if self._last is not None:
            found["last"] = self._last
        if self.mean is not None:
            found["mean"] = self.mean
        return found

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        names = ("dim", "reps", "k_sim", "d_proj", "final", "projection", "fill", "center", "seed")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any], fitted: bool = True) -> Self:
        """Of what `arrays` and `settings` gave. Planes are taken as kept: a seed may draw others in another numpy."""
        try:
            made = cls(**settings)
            for name, own in made.arrays().items():
                kept = arrays[name]
                if kept.shape != own.shape or kept.dtype != own.dtype:
                    raise ValueError(f"{name} is {kept.dtype} {list(kept.shape)}")
            mean = arrays.get("mean")
            if mean is not None and (mean.shape != (made.dim,) or mean.dtype != np.float32):
                raise ValueError(f"mean is {mean.dtype} {list(mean.shape)}")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the encoding does not fit its settings ({error}); {sealed.REPAIR}") from None
        made._planes, made._inner, made._last = arrays["planes"], arrays.get("inner"), arrays.get("last")
        made.mean, made.fitted = mean, fitted
        return made

    def save(self, path: str | Path) -> Path:
        """Write it to one file."""
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings(), "fitted": self.fitted})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        return cls.restored(arrays, facts["settings"], facts["fitted"])

    def _draw(self) -> None:
        """Planes float32 [reps, dim, k_sim], projections int8 [reps, dim, d_proj], and the last one."""
        planes, inner, last = (np.random.default_rng([self.seed, stream]) for stream in range(3))
        self._planes = planes.standard_normal((self.reps, self.dim, self.k_sim)).astype(np.float32)
        self._inner: np.ndarray | None = None
        if self.d_proj is not None and self.d_proj != self.dim:
            signs = inner.choice(np.array([-1, 1], dtype=np.int8), (self.reps, self.dim, self.d_proj))
            if self.projection == "count-sketch":
                place = inner.integers(self.d_proj, size=(self.reps, self.dim, 1))
                signs *= place == np.arange(self.d_proj)
            self._inner = signs
        self._last: np.ndarray | None = None
        if self.final is not None:
            whole = self.reps * self.buckets * self.block
            if self.projection == "count-sketch":
                # The place of each number, from 1, with its sign: int32 [whole].
                place = 1 + last.integers(self.final, size=whole)
                self._last = (place * last.choice(np.array([-1, 1]), whole)).astype(np.int32)
            else:
                self._last = last.choice(np.array([-1, 1], dtype=np.int8), (whole, self.final))

    def _encode(self, bags: Any, document: bool) -> np.ndarray:
        if not self.fitted:
            raise BadInput(f"{self!r} does not know the mean of tokens yet; call fit(documents) first")
        bags = checked_ragged(bags, self.dim, "document" if document else "query")
        out = np.empty((len(bags), self.width), dtype=np.float32)
        whole = self.reps * self.buckets * self.block
        most, first = max(1, min(BLOCKS_AT_ONCE // self.buckets, NUMBERS_AT_ONCE // whole)), 0
        while first < len(bags):
            last = int(np.searchsorted(bags.offsets, bags.offsets[first] + TOKENS_AT_ONCE, side="right")) - 1
            last = min(max(last, first + 1), first + most, len(bags))
            out[first:last] = self._finished(self._blocks(part(bags, first, last), document))
            first = last
        return out

    def _blocks(self, bags: Ragged, document: bool) -> np.ndarray:
        """Float32 [n, reps · buckets · block] of a few items."""
        n, buckets, block = len(bags), self.buckets, self.block
        tokens = around = bags.values
        if self.mean is not None:
            around = tokens - self.mean
            tokens = around if document else tokens
        sides = around @ self._planes.transpose(1, 0, 2).reshape(self.dim, -1) > 0
        powers = 1 << np.arange(self.k_sim)
        item = np.repeat(np.arange(n) * buckets, np.diff(bags.offsets))
        out = np.zeros((n * buckets, self.reps, block), dtype=np.float32)
        for rep, shown in enumerate(self._projected(tokens)):
            bucket = sides[:, rep * self.k_sim : (rep + 1) * self.k_sim] @ powers
            # Sorted by (item, bucket), the tokens of a bucket are a segment.
            order = np.argsort((item + bucket).astype(np.uint16), kind="stable")
            key = (item + bucket)[order]
            starts = np.flatnonzero(np.diff(key, prepend=-1))
            if not len(starts):
                continue
            sums = np.add.reduceat(shown[order], starts, axis=0)
            held = key[starts]
            if document:
                sums /= np.diff(starts, append=len(key)).astype(np.float32)[:, None]
            out[held, rep] = sums
            if document and self.fill:
                empty, taken = self._nearest(held, order[starts], n)
                out[empty, rep] = shown[taken]
        if self._inner is not None and self.projection == "signs":
            out /= np.float32(np.sqrt(block))
        # From (item, bucket, rep) to (item, rep, bucket).
        return out.reshape(n, buckets, self.reps, block).swapaxes(1, 2).reshape(n, -1)

    def _projected(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Tokens as each repetition shows them, float32 [tokens, block]; unscaled."""
        if self._inner is None:
            yield from (tokens for _ in range(self.reps))
            return
        step = max(1, COLUMNS_AT_ONCE // self.block)
        for low in range(0, self.reps, step):
            some = self._inner[low : low + step].astype(np.float32)
            wide = tokens @ some.transpose(1, 0, 2).reshape(self.dim, -1)
            for rep in range(len(some)):
                yield wide[:, rep * self.block : (rep + 1) * self.block]

    def _nearest(self, held: np.ndarray, first: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Empty blocks, and for each the item's token whose bucket differs in the fewest bits; the first of equals.

        One step along each bit at a time: a bucket whose nearest token is h bits away has a neighbour that is h − 1
        away from it, so it takes the lowest of its neighbours' tokens. k_sim steps reach every bucket.
        """
        token = np.full(n * self.buckets, _NONE, dtype=np.int64)
        token[held] = first
        empty = np.flatnonzero(token == _NONE)
        taken = token.reshape(n, self.buckets)
        numbers = np.arange(self.buckets)
        for _ in range(self.k_sim):
            beside = taken[:, numbers ^ 1]
            for bit in range(1, self.k_sim):
                np.minimum(beside, taken[:, numbers ^ (1 << bit)], out=beside)
            taken = np.where(taken == _NONE, beside, taken)
        filling = taken.reshape(-1)[empty]
        known = filling != _NONE  # of an item without tokens nothing is
        return empty[known], filling[known]

    def _finished(self, blocks: np.ndarray) -> np.ndarray:
        """The last projection."""
        if self._last is None:
            return blocks
        assert self.final is not None
        if self._last.ndim == 2:
            return blocks @ self._last.astype(np.float32) / np.float32(np.sqrt(self.final))
        place = np.abs(self._last) - 1
        order = np.argsort(place, kind="stable")
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        out = np.zeros((len(blocks), self.final), dtype=np.float32)
        signed = blocks[:, order] * np.sign(self._last[order]).astype(np.float32)
        out[:, place[order[starts]]] = np.add.reduceat(signed, starts, axis=1)
        return out


def _integer(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
