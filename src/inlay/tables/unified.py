"""Unified embedding (feature multiplexing): every categorical feature reads one and the same table.

Coleman, Kang, Fahrbach, Wang, Hong, Chi, Cheng: "Unified Embedding: Battle-Tested Feature Representations for Web-Scale
ML Systems" (arXiv 2305.12102, NeurIPS 2023).

Values of one feature that collide cannot be told apart by any model. Values of different features that collide can: the
model has weights θ_f of its own for each feature, and training turns those orthogonal, so that what a row learns for
one feature hardly shows in another. Sharing all rows among all features makes the first kind rarest.

**That needs a first layer with separate weights for each feature**, as after a concatenation. A model that sums or
averages the features' vectors has no θ_f and loses the guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.kernels.mixing import keys_of
from inlay.tables.budget import checked_budget
from inlay.tables.collisions import Collisions, count_collisions
from inlay.tables.hashing import buckets, salted
from inlay.tables.table import Rows, Table

if TYPE_CHECKING:
    from inlay.tables.keyspace import KeySpace

__all__ = ["Unified", "UnifiedFields", "mean_angle"]

Combiner = Literal["mean", "sum", "sqrtn"]
_COMBINERS = ("mean", "sum", "sqrtn")
_MOST_CHUNKS = 1 << 16


class Unified(Table):
    """One table [rows, chunk_dim] for all features; chunk j of value v of feature f is row h(v; f, j).

        table = Unified(rows=50_000, chunk_dim=8)
        table.add("movie", chunks=3)
        table.add("genre", chunks=2, combiner="mean")
        table({"movie": movie_ids, "genre": [["drama"], ["comedy", "crime"]]})   # {"movie": [n, 24], "genre": [n, 16]}

    Keys are whole numbers or strings; any key has a vector, and vocabularies may grow. A feature is known to the hash
    by its place in the order of `add`. Given a tensor of row numbers in place of a mapping, stored rows are returned.

    Several narrow lookups are better than one wide: keep `chunk_dim` at 4 to 8 when rows are few. `UnifiedFields`
    (from `fields`) is the face for models that take the ids [..., fields] of a `KeySpace`.

    Args:
        rows: stored rows, all shards together; the one size to set.
        chunk_dim: width of a row.
        shards: equal physical tables, used in turns by the chunks in the order of `add`, for balanced placement.
        seed: of the hashes.
        features: (name, chunks, combiner) of each, as `add` takes them.
        scale: rows begin uniform in ±scale.
    """

    def __init__(
        self,
        rows: int,
        chunk_dim: int,
        *,
        shards: int = 1,
        seed: int = 0,
        features: Sequence[tuple[str, int, Combiner]] = (),
        scale: float = 0.05,
    ) -> None:
        super().__init__(rows, chunk_dim)
        if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1 or rows % shards:
            raise BadInput(f"shards must divide {rows} rows, got {shards!r}")
        if not scale >= 0:
            raise BadInput(f"scale must be at least 0, got {scale}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise BadInput(f"seed must be a whole number of at least 0, got {seed!r}")
        self.shards, self.seed = shards, seed
        self.features: dict[str, tuple[int, Combiner]] = {}
        self.settings = {
            "rows": rows, "chunk_dim": chunk_dim, "shards": shards, "seed": seed, "features": [], "scale": scale
        }  # fmt: skip
        self.stores = nn.ParameterList(
            nn.Parameter(torch.empty(rows // shards, chunk_dim).uniform_(-scale, scale)) for _ in range(shards)
        )
        for feature in features:
            self.add(*feature)

    @classmethod
    def from_budget(cls, chunk_dim: int, budget_bytes: float, *, shards: int = 1, **settings: Any) -> Self:
        """As many rows as fit, the same number in each shard."""
        per_shard = int(checked_budget(budget_bytes) // (4 * chunk_dim * shards))
        if per_shard < 1:
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: a row in each shard takes {4 * chunk_dim * shards}")
        return cls(per_shard * shards, chunk_dim, shards=shards, **settings)

    def add(self, feature: str, chunks: int = 1, combiner: Combiner = "mean") -> Self:
        """Declare a feature.

        Args:
            feature: its name.
            chunks: lookups a value, concatenated: the feature's width is chunks · chunk_dim.
            combiner: how the values of a feature with several are brought together: `mean`, `sum` or `sqrtn` (the sum
                over the root of their number).
        """
        if feature in self.features:
            raise BadInput(f"feature {feature!r} is declared already")
        if isinstance(chunks, bool) or not isinstance(chunks, int) or not 1 <= chunks < _MOST_CHUNKS:
            raise BadInput(f"chunks of {feature!r} must be from 1 to {_MOST_CHUNKS - 1}, got {chunks!r}")
        if combiner not in _COMBINERS:
            raise BadInput(f"combiner of {feature!r} must be one of {', '.join(_COMBINERS)}, got {combiner!r}")
        self.features[feature] = (chunks, combiner)
        self.settings["features"].append([feature, chunks, combiner])
        return self

    def width(self, feature: str) -> int:
        """Width of a feature's vectors."""
        return self._declared(feature)[0] * self.dim

    def _declared(self, feature: str) -> tuple[int, Combiner]:
        if feature not in self.features:
            raise BadInput(f"feature {feature!r} is not declared ({', '.join(self.features) or 'none is'}): add() it")
        return self.features[feature]

    def _columns(self, features: Sequence[str]) -> tuple[list[int], list[int]]:
        """Salt and shard of every chunk of these features, one after another."""
        names = list(self.features)
        before = dict(zip(names, accumulate((self.features[name][0] for name in names), initial=0)))
        salts, shards = [], []
        for name in features:
            for chunk in range(self._declared(name)[0]):
                salts.append((self.seed << 48) + names.index(name) * _MOST_CHUNKS + chunk)
                shards.append((before[name] + chunk) % self.shards)
        return salts, shards

    def bucket(self, feature: str, keys: Any) -> Tensor:
        """Rows [..., chunks] of the whole table that keys of a feature read."""
        salts, shards = self._columns([feature])
        return self._at(_as_keys(keys, feature)[..., None], salts, shards)

    def _at(self, keys: Tensor, salts: list[int], shards: list[int]) -> Tensor:
        """Rows [..., columns] of keys [..., columns] or [..., 1]."""
        per_shard = self.rows // self.shards
        shifts = salted(torch.zeros((), dtype=torch.long), salts)  # [columns]
        found = buckets(keys + shifts, per_shard)
        return found + torch.tensor(shards) * per_shard if self.shards > 1 else found

    def lookup(self, ids: Tensor) -> Tensor:
        """Stored rows [..., chunk_dim] by number."""
        if self.shards == 1:
            return F.embedding(ids, self.stores[0])
        per_shard = self.rows // self.shards
        found = torch.zeros(*ids.shape, self.dim, dtype=self.stores[0].dtype)
        for shard, store in enumerate(self.stores):
            mine = ids // per_shard == shard
            found = found.masked_scatter(mine[..., None], F.embedding(ids[mine] - shard * per_shard, store))
        return found

    def forward(self, ids: Any) -> Any:
        """Of a mapping feature → keys, a dict of vectors [n, chunks · chunk_dim]; of row numbers, stored rows.

        A feature's keys are n whole numbers or strings (list, array or tensor); for a feature with several values, n
        lists of keys, or a tuple (keys, offsets [n + 1]). A list without keys gives zeros.
        """
        if not isinstance(ids, Mapping):
            return super().forward(ids)
        return {feature: self._vectors(feature, keys) for feature, keys in ids.items()}

    def _vectors(self, feature: str, keys: Any) -> Tensor:
        chunks, combiner = self._declared(feature)
        bags = _as_bags(keys, feature)
        if bags is None:
            return self.lookup(self.bucket(feature, keys)).flatten(-2)
        values, offsets = bags
        rows = self.lookup(self.bucket(feature, values)).reshape(len(values), chunks * self.dim)
        lengths = offsets.diff()
        bag = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        total = torch.zeros(len(lengths), rows.shape[1], dtype=rows.dtype).index_add(0, bag, rows)
        if combiner == "sum":
            return total
        over = lengths.clamp(min=1).to(total.dtype)
        return total / (over if combiner == "mean" else over.sqrt())[:, None]

    def fields(self, space: KeySpace, chunks: int = 1) -> UnifiedFields:
        """The face for ids [..., fields] of a key space; its fields are added as features where they are not yet."""
        for name in space.names:
            if name not in self.features:
                self.add(name, chunks)
        return UnifiedFields(self, dict(zip(space.names, space.sizes.tolist())))

    def collisions(self, feature: str, keys: Any, others: Mapping[str, Any] | None = None) -> Collisions:
        """How often keys of a feature share rows, among themselves and with keys of other features.

        Args:
            feature: its name.
            keys: different keys of it.
            others: feature → keys, to compare with.
        """
        mine = self.bucket(feature, _distinct(keys, feature))
        theirs = {
            name: self.bucket(name, _distinct(of, name)) for name, of in (others or {}).items() if name != feature
        }
        return count_collisions(feature, mine, theirs, self.rows // self.shards)

    def collision_matrix(self, keys: Mapping[str, Any]) -> np.ndarray:
        """Float [features, features]: share of the lookups of feature i's keys whose row a key of feature j reads too.

        On the diagonal, of the lookups whose row another key of the same feature reads in the same chunk.
        """
        reports = [self.collisions(feature, of, keys) for feature, of in keys.items()]
        return np.array([[one.within if one.feature == name else one.across[name] for name in keys] for one in reports])

    @torch.no_grad()
    def row_norm(self) -> float:
        """Mean squared length of the stored rows; grows like (number of keys) / rows as training shares them out."""
        return float(torch.cat([store.square().sum(1) for store in self.stores]).mean())


class UnifiedFields(Table):
    """A `Unified` table behind the ids [..., fields] of a key space: vectors [..., fields, chunks · chunk_dim].

    Keys of a feature are the numbers inside its field, so that `unified({"movie": [7]})` reads what the field's id 7
    does. All fields have the same number of chunks.

    Args:
        unified: the table, with every field declared.
        sizes: field → number of ids, in the key space's order.
    """

    def __init__(self, unified: Unified, sizes: Mapping[str, int]) -> None:
        chunks = {unified._declared(name)[0] for name in sizes}
        if len(chunks) != 1:
            raise BadInput(f"fields must have one number of chunks, got {sorted(chunks)} for {', '.join(sizes)}")
        super().__init__(sum(sizes.values()), chunks.pop() * unified.dim)
        self.settings = {"sizes": dict(sizes)}
        self.unified = unified
        self.starts = [0, *accumulate(sizes.values())][:-1]
        self._salts, self._shards = unified._columns(list(sizes))

    @classmethod
    def from_budget(
        cls, sizes: Mapping[str, int], dim: int, budget_bytes: float, *, chunks: int = 1, **settings: Any
    ) -> Self:
        """The largest table within a budget under fields of these sizes, `dim` wide."""
        if dim % chunks:
            raise BadInput(f"chunks must divide the width {dim}, got {chunks}")
        unified = Unified.from_budget(dim // chunks, budget_bytes, **settings)
        for name in sizes:
            unified.add(name, chunks)
        return cls(unified, sizes)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., fields, dim] of ids [..., fields], each column in its own field's range."""
        if ids.ndim < 1 or ids.shape[-1] != len(self.starts):
            raise BadInput(f"ids must be [..., {len(self.starts)}], a column a field; got {list(ids.shape)}")
        numbers = ids - torch.tensor(self.starts)
        sizes = torch.tensor(list(self.settings["sizes"].values()))
        if bool(((numbers < 0) | (numbers >= sizes)).any()):
            raise BadInput(
                f"ids of the {len(sizes)} fields must lie in their fields' ranges, which start at {self.starts}"
            )
        chunks = self.dim // self.unified.dim
        at = self.unified._at(numbers.repeat_interleave(chunks, -1), self._salts, self._shards)
        return self.unified.lookup(at).view(*ids.shape, self.dim)

    def materialize(self, ids: Tensor | None = None, batch: int = 1 << 16) -> Tensor:
        """Float32 rows [n, dim] of ids in any order, whatever their field."""
        wanted = torch.arange(self.rows) if ids is None else torch.as_tensor(ids).flatten()
        found = torch.zeros(len(wanted), self.dim)
        with torch.no_grad():
            for (name, size), start in zip(self.settings["sizes"].items(), self.starts):
                mine = (wanted >= start) & (wanted < start + size)
                found[mine] = self.unified({name: wanted[mine] - start})[name].float()
        return found

    def parts(self) -> list[Rows]:
        """The one table."""
        return [self.unified]

    @classmethod
    def assemble(cls, parts: list[Any], settings: dict[str, Any]) -> Self:
        """Of the table and the fields' sizes."""
        return cls(parts[0], settings["sizes"])


def mean_angle(weights: Tensor) -> float:
    """Mean angle in degrees between the rows of weights [features, width]: the θ_f of a first layer.

    Orthogonal θ_f (90) cancel collisions between features; equal ones (0) do not.
    """
    if weights.ndim != 2 or len(weights) < 2:
        raise BadInput(f"weights must be [features, width] of at least 2 features, got {list(weights.shape)}")
    unit = F.normalize(weights.detach().double(), dim=1)
    cosines = (unit @ unit.T)[tuple(torch.triu_indices(len(unit), len(unit), 1))]
    return float(torch.rad2deg(cosines.clamp(-1, 1).acos()).mean())


def _as_keys(keys: Any, feature: str) -> Tensor:
    """Int64 of any shape: whole numbers as they are, strings by their 64-bit key."""
    if isinstance(keys, Tensor):
        if keys.dtype.is_floating_point or keys.dtype is torch.bool:
            raise BadInput(f"keys of {feature!r} must be whole numbers or strings, got a tensor of {keys.dtype}")
        return keys.long()
    held = list(keys) if not isinstance(keys, np.ndarray) else keys.tolist()
    if not held:
        return torch.zeros(0, dtype=torch.long)
    if all(isinstance(key, str) for key in held):
        return torch.from_numpy(keys_of(held).view(np.int64))
    if isinstance(keys, np.ndarray) and keys.dtype.kind in "iu":
        return torch.from_numpy(keys.astype(np.int64))
    if all(isinstance(key, int | np.integer) and not isinstance(key, bool) for key in held):
        return torch.tensor([int(key) for key in held], dtype=torch.long)
    odd = next((key for key in held if not isinstance(key, int | np.integer) or isinstance(key, bool)), held[0])
    raise BadInput(f"keys of {feature!r} must be all whole numbers or all strings, got {odd!r}")


def _as_bags(keys: Any, feature: str) -> tuple[Tensor, Tensor] | None:
    """(keys, offsets [n + 1]) of a feature with several values; None where every row has one."""
    if isinstance(keys, tuple) and len(keys) == 2 and not isinstance(keys[0], str | int):
        values, offsets = _as_keys(keys[0], feature), _as_keys(keys[1], feature)
        steps = offsets.diff()
        if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values) or (steps < 0).any():
            raise BadInput(f"offsets of {feature!r} must rise from 0 to its {len(values)} keys, got {offsets.tolist()}")
        return values, offsets
    if isinstance(keys, list) and keys and isinstance(keys[0], list | tuple | np.ndarray | Tensor):
        parts = [_as_keys(own, feature) for own in keys]
        if any(part.ndim != 1 for part in parts):
            raise BadInput(f"each row of {feature!r} must be a list of keys")
        return torch.cat(parts), torch.tensor([0, *accumulate(len(part) for part in parts)])
    return None


def _distinct(keys: Any, feature: str) -> Tensor:
    return torch.unique(_as_keys(keys, feature))
