"""Subspace embedding: every row of a vocabulary is put together from a few short rows that others use too.

Jaiswal, Liu: "Lightweight Adaptation of Neural Language Models via Subspace Embedding" (arXiv 2308.08688, CIKM 2023).
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.balanced import balanced_clusters
from inlay.tables.budget import checked_budget
from inlay.tables.compiled import CodedRows
from inlay.tables.partitions import radix_codes, root
from inlay.tables.permutation import permuted
from inlay.tables.table import Compiled, Frozen, Table

__all__ = ["Subspace", "SubspaceHead"]

Assign = Literal["digits", "permuted", "cluster", "given"]
_ASSIGNS = ("digits", "permuted", "cluster", "given")


class Subspace(Table):
    """Row = [T₁[c₁]; …; T_f[c_f]] with codes c that are different for every key: short rows are shared, rows are not.

    Each of the f tables has n = ⌊rows^(1/f)⌋ + 1 rows of dim / f numbers (the last takes what is left over). How keys
    get codes matters: digits of consecutive ids share the high digit, and ids mostly come sorted by frequency.

    Args:
        rows: number of keys.
        dim: width.
        parts: f.
        assign: `digits` of the key in base n, highest first; `permuted`, digits of a seeded shuffle (the control);
            `cluster`: keys that are near in `features` share their first codes, by balanced k-means, cluster in
            cluster; `given`: `codes`.
        features: [rows, width], for `cluster`: rows of a trained table, say.
        codes: int [rows, parts] in [0, n), all different, for `given`.
        pad: a key whose row is zero and stays so.
        scale: short rows begin uniform in ±scale.
        seed: of the shuffle or of k-means.
    """

    _codes: Tensor | None

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        parts: int = 2,
        assign: Assign = "digits",
        features: Tensor | None = None,
        codes: Tensor | None = None,
        pad: int | None = None,
        scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(rows, dim, parts=parts, assign=assign, pad=pad, scale=scale, seed=seed)
        if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= dim:
            raise BadInput(f"parts must be from 1 to the width {dim}, got {parts!r}")
        if assign not in _ASSIGNS:
            raise BadInput(f"assign must be one of {', '.join(_ASSIGNS)}, got {assign!r}")
        if pad is not None and not 0 <= pad < rows:
            raise BadInput(f"pad must be a key in [0, {rows}), got {pad}")
        if not scale >= 0:
            raise BadInput(f"scale must be at least 0, got {scale}")
        self.choices = _choices(rows, parts)
        self.assign, self.pad, self.seed = assign, pad, seed
        if features is not None and assign != "cluster":
            raise BadInput(f"features go with assign='cluster', not {assign!r}")
        given = codes
        if assign == "cluster" and codes is None:
            given = self._clustered(features)
        if (given is not None) != (assign in ("cluster", "given")):
            raise BadInput("codes go with assign='given', and it needs them")
        self.register_buffer("_codes", None)
        if given is not None:
            kept = self._checked(torch.as_tensor(given).long())
            self._codes = kept.to(torch.int16 if self.choices < 1 << 15 else torch.int32)
        widths = [dim // parts] * (parts - 1) + [dim - dim // parts * (parts - 1)]
        spare = 0 if pad is None else 1
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(self.choices + spare, width).uniform_(-scale, scale)) for width in widths
        )
        if spare:
            with torch.no_grad():
                for table in self.tables:
                    table[-1] = 0

    @classmethod
    def fit(cls, table: Tensor, parts: int = 2, **settings: Any) -> Self:
        """The best composition of a given table [rows, dim] for its codes (by default clusters of its own rows).

        Least squares for fixed codes: T_j[c] is the mean of the j-th slice over the keys with code c.
        """
        x = table.detach().float()
        settings = {"assign": "cluster", **settings}
        if settings["assign"] == "cluster" and "features" not in settings and "codes" not in settings:
            settings["features"] = x
        made = cls(*x.shape, parts=parts, **settings)
        codes, begin = made.codes.long(), 0
        counted = torch.ones(len(x), dtype=torch.bool)
        if made.pad is not None:
            counted[made.pad] = False
        with torch.no_grad():
            for part, own in enumerate(made.tables):
                piece, at = x[counted, begin : begin + own.shape[1]], codes[counted, part]
                sizes = torch.bincount(at, minlength=len(own))
                sums = torch.zeros_like(own).index_add_(0, at, piece)
                own.copy_(sums / sizes.clamp(min=1)[:, None])
                begin += own.shape[1]
        return made

    @classmethod
    def from_budget(cls, rows: int, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """The fewest parts that fit; each part more is a table of far fewer rows."""
        checked_budget(budget_bytes)
        spare = settings.get("pad") is not None
        kept = settings.get("assign", "digits") in ("cluster", "given")
        if "codes" in settings and settings["codes"] is not None:
            raise BadInput("a budget sets the number of parts, so codes cannot be given")
        for parts in range(1, dim + 1):
            choices = _choices(rows, parts)
            bits = parts * max(1, (choices + spare - 1).bit_length())
            # Clusters of one part are codes all the same: one bucket of all keys would be no compression at all.
            codes = 0 if not kept else rows * (-(-bits // 8) if dim % parts == 0 else parts * _code_bytes(choices))
            if 4 * (choices + spare) * dim + codes <= budget_bytes:
                return cls(rows, dim, parts=parts, **settings)
            if choices <= 2:
                break
        raise BadInput(f"{budget_bytes:,.0f} bytes are too few for {rows:,} rows in subspaces of {dim} numbers")

    @classmethod
    def assemble(cls, parts: list[Any], settings: dict[str, Any]) -> Self:
        """Codes that are kept come with the file's tensors; digits hold their place until then."""
        if settings["assign"] not in ("cluster", "given"):
            return cls(**settings)
        plain = cls(**{**settings, "assign": "digits", "pad": None})
        return cls(**settings, codes=plain.codes)

    def _clustered(self, features: Tensor | None) -> Tensor:
        if features is None:
            raise BadInput("assign='cluster' needs features [rows, width]: rows of a trained table, say")
        x = torch.as_tensor(features).detach().float()
        if x.ndim != 2 or len(x) != self.rows or not bool(torch.isfinite(x).all()):
            raise BadInput(f"features must be finite, [{self.rows}, width]; got {list(x.shape)}")
        codes = torch.zeros(self.rows, self.settings["parts"], dtype=torch.long)
        self._divide(x, torch.arange(self.rows), codes, 0)
        return codes

    def _divide(self, x: Tensor, members: Tensor, codes: Tensor, part: int) -> None:
        """Give members [m] their codes from `part` on: cluster, then clusters inside it; at last the place inside."""
        rest = codes.shape[1] - part - 1
        if rest == 0:
            codes[members, part] = torch.arange(len(members))
            return
        of = balanced_clusters(x[members], self.choices, self.choices**rest, seed=self.seed)
        codes[members, part] = of
        for cluster in torch.unique(of).tolist():
            self._divide(x, members[of == cluster], codes, part + 1)

    def _checked(self, codes: Tensor) -> Tensor:
        if codes.shape != (self.rows, self.settings["parts"]):
            raise BadInput(f"codes must be [{self.rows}, {self.settings['parts']}], got {list(codes.shape)}")
        if self.pad is not None:
            codes = codes.clone()
            codes[self.pad] = self.choices
        rest = codes if self.pad is None else torch.cat([codes[: self.pad], codes[self.pad + 1 :]])
        if rest.numel() and not 0 <= int(rest.min()) <= int(rest.max()) < self.choices:
            raise BadInput(f"codes must lie in [0, {self.choices}), got {int(rest.min())} to {int(rest.max())}")
        if len(torch.unique(codes, dim=0)) < len(codes):
            raise BadInput("codes must be different for every key: two keys would share their whole row")
        return codes

    def codes_of(self, ids: Tensor) -> Tensor:
        """Int64 codes [..., parts] of ids [...]."""
        if self._codes is not None:
            return self._codes[ids].long()
        numbers = permuted(ids, self.rows, self.seed) if self.assign == "permuted" else ids.long()
        digits = radix_codes(numbers, (self.choices,) * self.settings["parts"])
        codes = torch.stack(digits[::-1], -1)
        return codes if self.pad is None else codes.masked_fill((ids == self.pad)[..., None], self.choices)

    @property
    def codes(self) -> Tensor:
        """Int32 codes [rows, parts], all different; those of `pad` are n."""
        return self.codes_of(torch.arange(self.rows)).int()

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        pad = None if self.pad is None else self.choices
        codes = self.codes_of(ids).unbind(-1)
        return torch.cat([F.embedding(at, table, padding_idx=pad) for at, table in zip(codes, self.tables)], -1)

    def tied(self, *, factored: bool = True) -> SubspaceHead:
        """An output layer that shares these rows: logits = hidden · rowᵀ."""
        return SubspaceHead(self, factored=factored)

    def compiled(self) -> Compiled:
        """Exactly the same rows; kept codes are packed into the fewest bits where parts are of one width."""
        if self._codes is None or self.dim % len(self.tables):
            return Frozen(self)
        return CodedRows.of(self.codes, torch.stack([table.detach() for table in self.tables]))


class SubspaceHead(nn.Module):
    """Logits over the keys of a `Subspace` table, tied to it: hidden [..., dim] to [..., rows].

    Factored, h · E[i] = Σⱼ hⱼ · Tⱼ[cⱼ(i)] is a sum of f numbers picked from f short products: n·dim + rows·f operations
    a position, where the whole matrix takes rows·dim. Both are exact; sums differ in their order.

    Args:
        table: whose rows are used; gradients flow into it.
        factored: False makes the matrix [rows, dim] in every call.
    """

    codes: Tensor

    def __init__(self, table: Subspace, *, factored: bool = True) -> None:
        super().__init__()
        self.table, self.factored = table, factored
        self.register_buffer("codes", table.codes, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., rows]."""
        if hidden.shape[-1] != self.table.dim:
            raise BadInput(f"hidden states must be [..., {self.table.dim}], got {list(hidden.shape)}")
        if not self.factored:
            return hidden @ self.table(torch.arange(self.table.rows)).T
        widths = [table.shape[1] for table in self.table.tables]
        short = [
            piece @ table[: self.table.choices].T for piece, table in zip(hidden.split(widths, -1), self.table.tables)
        ]
        if self.table.pad is not None:  # its row is zero, and no gradient may reach it
            short = [F.pad(product, (0, 1)) for product in short]
        logits = short[0].index_select(-1, self.codes[:, 0])
        for part in range(1, len(short)):
            logits = logits + short[part].index_select(-1, self.codes[:, part])
        return logits


def _choices(rows: int, parts: int) -> int:
    """⌊rows^(1/parts)⌋ + 1, in whole numbers."""
    up = root(rows, parts)
    return (up if up**parts == rows else up - 1) + 1


def _code_bytes(choices: int) -> int:
    return 2 if choices < 1 << 15 else 4
