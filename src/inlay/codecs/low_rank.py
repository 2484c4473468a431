"""Rows as short codes over a basis that they share: truncated singular value decomposition.

`LowRankRows` takes one basis for all rows; `MagnitudeLowRank` groups rows by length and gives longer ones more rank,
as in the benchmark of arXiv 2311.15578.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from inlay import sealed
from inlay.codecs.magnitude import equal_norm_edges, group_of
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput, Corrupt

__all__ = ["Grouped", "LowRankRows", "MagnitudeLowRank"]

KIND, GROUPED_KIND = "low-rank codec", "magnitude low-rank codec"


class LowRankRows:
    """Row ≈ code · basis, with codes [n, rank] and orthonormal basis [rank, dim]: the nearest of that rank.

    Args:
        rank: width of the codes. A budget cr of n rows gives n · dim · cr / (n + dim): `for_budget`.
    """

    def __init__(self, rank: int) -> None:
        if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or rank < 1:
            raise BadInput(f"rank must be an integer of at least 1, got {rank!r}")
        self.rank = int(rank)
        self.basis = np.zeros((0, 0), dtype=np.float32)

    def __repr__(self) -> str:
        return f"LowRankRows(rank={self.rank})"

    @classmethod
    def for_budget(cls, rows: int, dim: int, budget_bytes: float) -> Self:
        """The highest rank whose codes of so many rows, and basis, fit."""
        rank = int(budget_bytes // (4 * (rows + dim)))
        if rank < 1:
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: rank 1 takes {4 * (rows + dim):,}")
        return cls(min(rank, rows, dim))

    def fit(self, rows: np.ndarray) -> Self:
        """Learn the basis from rows [n, dim]: the leading right singular vectors."""
        rows = _finite(rows)
        if self.rank > min(rows.shape):
            raise BadInput(f"rank {self.rank} needs as many rows and columns, got {rows.shape[0]} x {rows.shape[1]}")
        self.basis = _leading(rows, self.rank)
        return self

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes float32 [n, rank]."""
        return _fitting(self, rows, self.basis) @ self.basis.T

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]."""
        codes = np.asarray(codes, dtype=np.float32)
        if codes.ndim != 2 or codes.shape[1] != len(self.basis):
            raise BadInput(
                f"expected codes [n, {len(self.basis)}], got {list(codes.shape)}; decode takes what encode gave"
            )
        return codes @ self.basis

    def scorer(self, query: np.ndarray) -> Any:
        """A function from codes to dot products [n] with a query [dim], in the codes' own width."""
        short = self.basis @ _query(query, self.basis.shape[1])
        return lambda codes: np.asarray(codes, dtype=np.float32) @ short

    def nbytes(self, dim: int) -> int:
        """Bytes of one row's codes."""
        return 4 * self.rank

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of the basis, kept once."""
        return self.basis.nbytes

    def save(self, path: str | Path) -> Path:
        """Write the basis to one file."""
        _fitted(self, self.basis)
        return sealed.write(path, {"basis": self.basis}, {"kind": KIND, "settings": {"rank": self.rank}})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        made = cls(**facts["settings"])
        made.basis = arrays["basis"]
        if made.basis.shape[0] != made.rank:
            raise Corrupt(f"{path} does not fit its own settings; {sealed.REPAIR}")
        return made


class Grouped(NamedTuple):
    """Codes of each group's rows, in order, and which group each row is in: uint8 [n]."""

    codes: tuple[np.ndarray, ...]
    group: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, and of a remap of one word a row, which finding a row's codes needs."""
        return sum(code.nbytes for code in self.codes) + 4 * len(self.group)


class MagnitudeLowRank:
    """Groups of rows with equal total length, each with a basis of its own, of rank ∝ (rows of the group)^−0.3.

    Groups of long rows have few rows and so a high rank. New rows go to the group whose lengths are theirs.

    Args:
        budget: bytes of codes, bases and remap, as a share of float32 rows.
        groups: of rows.
        power: of a group's size.
    """

    def __init__(self, budget: float, *, groups: int = 4, power: float = -0.3) -> None:
        if not 0 < budget <= 1:
            raise BadInput(f"budget must be a share above 0 and up to 1, got {budget}")
        if not 1 <= groups <= 255:
            raise BadInput(f"groups must be from 1 to 255, got {groups}")
        self.budget, self.groups, self.power = float(budget), groups, float(power)
        self.edges = np.zeros(0, dtype=np.float32)
        self.bases: list[np.ndarray] = []

    def __repr__(self) -> str:
        return f"MagnitudeLowRank({self.budget:g}, groups={self.groups})"

    def fit(self, rows: np.ndarray) -> Self:
        """Learn groups and bases from rows [n, dim]."""
        rows = _finite(rows)
        n, dim = rows.shape
        self.edges = equal_norm_edges(rows, self.groups)
        group = group_of(rows, self.edges)
        sizes = np.bincount(group, minlength=self.groups)
        room = self.budget * 4 * n * dim - 4 * n  # the remap
        most = np.minimum(sizes, dim)

        def ranks(scale: float) -> np.ndarray:
            wanted = np.floor(scale * np.maximum(sizes, 1.0) ** self.power)
            return np.where(sizes > 0, np.clip(wanted, 1, np.maximum(most, 1)), 0).astype(int)

        def takes(of: np.ndarray) -> int:
            return int((4 * of * (sizes + dim)).sum())

        if takes(ranks(0)) > room:
            raise BadInput(
                f"a budget of {self.budget:g} is too small for {n} rows of {dim}: the remap and rank 1 exceed it"
            )
        low, high = 0.0, float(dim / np.maximum(sizes, 1.0).max() ** self.power) + 1
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if takes(ranks(middle)) <= room else (low, middle)
        self.bases = [_leading(rows[group == g], rank) if rank else np.zeros((0, dim), np.float32)
                      for g, rank in enumerate(ranks(low))]  # fmt: skip
        return self

    def encode(self, rows: np.ndarray) -> Grouped:
        """Codes of each group and the groups."""
        rows = _fitting(self, rows, self.bases[0] if self.bases else np.zeros((0, 0)))
        group = group_of(rows, self.edges)
        return Grouped(tuple(rows[group == g] @ basis.T for g, basis in enumerate(self.bases)), group)

    def decode(self, codes: Grouped) -> np.ndarray:
        """Float32 rows [n, dim]."""
        _fitted(self, self.bases)
        found = np.zeros((len(codes.group), self.bases[0].shape[1]), dtype=np.float32)
        for g, (code, basis) in enumerate(zip(codes.codes, self.bases)):
            found[codes.group == g] = code @ basis
        return found

    def nbytes(self, dim: int) -> int:
        """Bytes of one row, at most: a row of the group of the highest rank, and its remap."""
        return 4 * max((len(basis) for basis in self.bases), default=0) + 4

    @property
    def codebook_nbytes(self) -> int:
        """Bytes of the bases."""
        return sum(basis.nbytes for basis in self.bases) + self.edges.nbytes

    def save(self, path: str | Path) -> Path:
        """Write what was learnt to one file."""
        _fitted(self, self.bases)
        settings = {"budget": self.budget, "groups": self.groups, "power": self.power}
        arrays = {f"basis {g}": basis for g, basis in enumerate(self.bases)} | {"edges": self.edges}
        return sealed.write(path, arrays, {"kind": GROUPED_KIND, "settings": settings})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, GROUPED_KIND)
        made = cls(**facts["settings"])
        try:
            made.edges, made.bases = arrays["edges"], [arrays[f"basis {g}"] for g in range(made.groups)]
        except KeyError as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); {sealed.REPAIR}") from None
        return made


def _leading(rows: np.ndarray, rank: int) -> np.ndarray:
    """The leading right singular vectors [rank, dim]: of tall matrices, eigenvectors of the Gram matrix."""
    n, dim = rows.shape
    if n >= dim:
        _, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows)
        return np.ascontiguousarray(vectors[:, ::-1][:, :rank].T, dtype=np.float32)
    return np.linalg.svd(rows.astype(np.float64), full_matrices=False)[2][:rank].astype(np.float32)


def _fitted(codec: Any, learnt: Any) -> None:
    if not len(learnt):
        raise BadInput(f"{codec!r} has learnt nothing yet; call fit(rows) first")


def _fitting(codec: Any, rows: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    _fitted(codec, learnt) if learnt.shape[1] == 0 else None
    rows = _finite(rows)
    if rows.shape[1] != learnt.shape[1]:
        raise BadInput(f"{codec!r} was fitted on rows of {learnt.shape[1]} numbers, got {rows.shape[1]}")
    return rows


def _query(query: np.ndarray, dim: int) -> np.ndarray:
    query = np.asarray(query, dtype=np.float32)
    if query.shape != (dim,) or not np.isfinite(query).all():
        raise BadInput(f"expected one finite query [{dim}], got shape {list(query.shape)}")
    return query
