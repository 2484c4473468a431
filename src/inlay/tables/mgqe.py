"""Differentiable product quantisation: rows learn to be one of a few centres in each of their parts.

`DPQ`: Chen, Li, Sun: "Differentiable Product Quantization for End-to-End Embedding Compression" (arXiv 1908.09756, ICML
2020), with distances (VQ) or dot products (SX). `MGQE`: Kang, Cheng, Chen, Yi, Lin, Hong, Chi: "Learning Multi-granular
Quantized Embeddings for Large-Vocab Categorical Features" (arXiv 2002.08530, WWW 2020): rare ids choose among fewer
centres.

Training holds a full table; codes and centres are all that is compiled.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.compiled import CodedRows
from inlay.tables.keyspace import KeySpace
from inlay.tables.table import Compiled, Table

__all__ = ["DPQ", "MGQE"]


class DPQ(Table):
    """A full table of queries whose parts are replaced by centres.

    Of a query part q and centres c the responses are −‖q − c‖² (`vq`) or q · key (`sx`), normalised over the batch for
    each centre (BatchNorm without scale and shift, so that no centre wins always); the largest is the code. Forward
    gives the centre; backward passes to q straight through (`vq`) or through a softmax of the responses (`sx`, where
    keys and centres are two tables). `penalty()` is commitment · mean (c − q)², which moves centres to the queries they
    serve.

    Codes are written at every training step, and they are what evaluation and the compiled form read. Ids that training
    never met are coded when first evaluated, with the running statistics.

    Args:
        rows: number of keys.
        dim: width, a multiple of `parts`.
        parts: codes of a row.
        centres: choices of each part.
        mode: `vq` or `sx`.
        commitment: weight of the penalty.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        parts: int = 8,
        centres: int = 32,
        mode: Literal["vq", "sx"] = "vq",
        commitment: float = 1.0,
        scale: float | None = None,
    ) -> None:
        super().__init__(rows, dim, parts=parts, centres=centres, mode=mode, commitment=commitment, scale=scale)
        if parts < 1 or dim % parts:
            raise BadInput(f"parts must divide {dim}, got {parts}")
        if not 2 <= centres <= 1 << 15:
            raise BadInput(f"centres must be from 2 to 32768, got {centres}")
        if mode not in ("vq", "sx"):
            raise BadInput(f"mode must be 'vq' or 'sx', got {mode!r}")
        self.num_parts, self.num_centres, self.mode, self.commitment = parts, centres, mode, commitment
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-bound, bound))
        self.centre = nn.Parameter(torch.empty(parts, centres, dim // parts).uniform_(-bound, bound))
        self.key = nn.Parameter(torch.empty_like(self.centre).uniform_(-bound, bound)) if mode == "sx" else None
        self.norm = nn.BatchNorm1d(centres, affine=False)
        self.register_buffer("codes", torch.full((rows, parts), -1, dtype=torch.int16))
        self.codes: Tensor
        self._penalties: list[Tensor] = []

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """The most parts that fit, of those that divide the width."""
        centres = int(settings.get("centres", 32))
        best = 0
        for parts in range(1, dim + 1):
            if dim % parts == 0 and cls._size(space.rows, dim, parts, centres) <= budget_bytes:
                best = parts
        if not best:
            needed = cls._size(space.rows, dim, 1, centres)
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: one part of {centres} centres takes {needed:,}")
        return cls._of(space, dim, **{**settings, "parts": best})

    @classmethod
    def _of(cls, space: KeySpace, dim: int, **settings: Any) -> Self:
        return cls(space.rows, dim, **settings)

    @staticmethod
    def _size(rows: int, dim: int, parts: int, centres: int) -> int:
        return rows * -(-parts * (centres - 1).bit_length() // 8) + 4 * centres * dim

    def _allowed(self, ids: Tensor) -> Tensor | None:
        """Mask [n, 1, centres] of what ids [n] may choose."""
        return None

    def _responses(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [n, parts, width] and normalised responses [n, parts, centres] of ids [n]."""
        q, raw = self._raw(ids)
        responses = self.norm(raw.flatten(0, 1)).view_as(raw)
        allowed = self._allowed(ids)
        return q, responses if allowed is None else responses.masked_fill(~allowed, -torch.inf)

    def _raw(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        q = F.embedding(ids, self.weight).view(len(ids), self.num_parts, -1)
        if self.key is not None:
            raw = torch.einsum("npw,pkw->npk", q, self.key)
        else:
            cross = torch.einsum("npw,pkw->npk", q, self.centre)
            raw = 2 * cross - q.square().sum(-1, keepdim=True) - self.centre.square().sum(-1)
        return q, raw

    @torch.no_grad()
    def _nearest(self, ids: Tensor) -> Tensor:
        """Codes [n, parts] of ids [n] in training: what `_responses` says, each distinct id once.

        Of responses `vq` needs no gradient, and ids of a batch repeat; the statistics weigh them by how often they do.
        """
        unique, inverse, counts = ids.unique(return_inverse=True, return_counts=True)
        _, raw = self._raw(unique)
        seen = len(ids) * self.num_parts
        weight = counts.float() / seen
        mean = torch.einsum("u,upk->k", weight, raw)
        raw -= mean
        variance = torch.einsum("u,upk->k", weight, raw.square())
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        assert self.norm.num_batches_tracked is not None
        momentum = 0.1 if self.norm.momentum is None else self.norm.momentum
        self.norm.running_mean.lerp_(mean, momentum)
        self.norm.running_var.lerp_(variance * (seen / max(seen - 1, 1)), momentum)
        self.norm.num_batches_tracked += 1
        raw *= (variance + self.norm.eps).rsqrt()
        allowed = self._allowed(unique)
        if allowed is not None:
            raw.masked_fill_(~allowed, -torch.inf)
        return raw.argmax(-1)[inverse]

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        flat = ids.flatten()
        part = torch.arange(self.num_parts)
        if not self.training or not len(flat):
            return self.centre[part, self.coded(flat)].view(*ids.shape, self.dim)
        if self.mode == "vq":
            q, codes = F.embedding(flat, self.weight).view(len(flat), self.num_parts, -1), self._nearest(flat)
        else:
            q, responses = self._responses(flat)
            codes = responses.argmax(-1)
        self.codes[flat] = codes.to(torch.int16)
        chosen = self.centre[part, codes]
        self._penalties.append((chosen - q.detach()).square().mean())
        if self.mode == "vq":
            found = q + (chosen - q).detach()
        else:
            soft = torch.einsum("npk,pkw->npw", responses.softmax(-1), self.centre)
            found = soft + (chosen - soft).detach()
        return found.reshape(*ids.shape, self.dim)

    @torch.no_grad()
    def coded(self, ids: Tensor) -> Tensor:
        """Codes int64 [n, parts] of ids [n]."""
        codes = self.codes[ids].long()
        unseen = (codes[:, 0] < 0).nonzero()[:, 0]
        if len(unseen):
            was = self.norm.training
            self.norm.eval()
            for some in unseen.split(1 << 14):
                codes[some] = self._responses(ids[some])[1].argmax(-1)
            self.norm.train(was)
        return codes

    def penalty(self) -> Tensor:
        """Mean squared distance of centres to the queries they stood for, since the last call."""
        found, self._penalties = self._penalties, []
        return self.commitment * torch.stack(found).sum() if found else torch.zeros(())

    @torch.no_grad()
    def compiled(self) -> Compiled:
        """Codes and centres: equal to the learning form in evaluation, exactly."""
        return CodedRows.of(self.coded(torch.arange(self.rows)), self.centre.detach())


class MGQE(DPQ):
    """As `DPQ`, but only frequent ids choose among all centres; rare ones among the first `low`.

    A rare id's codes are below `low`, so that the compiled form needs nothing that says which ids are rare. (The
    benchmark of arXiv 2311.15578 charges a word for each id for that.)

    Args:
        rows: number of keys.
        dim: width, a multiple of `parts`.
        parts: codes of a row.
        high: centres that frequent ids choose from.
        low: centres that rare ids choose from, the first of the same.
        frequent: share of the ids that count as frequent.
        commitment: weight of the penalty.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
        counts: how often each id is seen in training, [rows]; None (as a file is read) takes all for frequent.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        parts: int = 4,
        high: int = 256,
        low: int = 64,
        frequent: float = 0.1,
        commitment: float = 1.0,
        scale: float | None = None,
        counts: np.ndarray | None = None,
    ) -> None:
        super().__init__(rows, dim, parts=parts, centres=high, commitment=commitment, scale=scale)
        if not 1 <= low <= high:
            raise BadInput(f"low must be from 1 to {high}, got {low}")
        if not 0 <= frequent <= 1:
            raise BadInput(f"frequent must be from 0 to 1, got {frequent}")
        self.settings = {
            "rows": rows, "dim": dim, "parts": parts, "high": high, "low": low, "frequent": frequent,
            "commitment": commitment, "scale": scale,
        }  # fmt: skip
        self.low = low
        is_frequent = torch.ones(rows, dtype=torch.bool)
        if counts is not None:
            if len(counts) != rows:
                raise BadInput(f"counts has {len(counts)} numbers for {rows} rows")
            order = np.argsort(-np.asarray(counts), kind="stable")
            is_frequent[torch.from_numpy(order[round(frequent * rows) :].copy())] = False
        self.register_buffer("frequent", is_frequent)
        self.frequent: Tensor

    @classmethod
    def from_budget(cls, space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """The most parts that fit; where not even one does, fewer centres, both kinds alike."""
        high, low = int(settings.pop("high", 256)), int(settings.pop("low", 64))
        while high > 4 and cls._size(space.rows, dim, 1, high) > budget_bytes:
            high, low = high // 2, max(low // 2, 1)
        return super().from_budget(space, dim, budget_bytes, **settings, centres=high, low=low)

    @classmethod
    def _of(cls, space: KeySpace, dim: int, **settings: Any) -> Self:
        return cls(space.rows, dim, high=settings.pop("centres"), counts=space.counts, **settings)

    def _allowed(self, ids: Tensor) -> Tensor | None:
        return self.frequent[ids][:, None, None] | (torch.arange(self.num_centres) < self.low)
