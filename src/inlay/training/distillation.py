"""Learning from a teacher's vectors: match each vector, all similarities, their order, or ranked lists.

The first three are Jasper and Stella's losses (arXiv 2412.19048); `embed_match` is EmbeddingGemma's geometric matching
as well. Only `embed_match` needs student and teacher to be equally wide.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.training.models import MAIN, unit
from inlay.training.scores import Pool

__all__ = [
    "EmbedMatch",
    "GramMatch",
    "Listwise",
    "NeighbourMatch",
    "OrderMatch",
    "embed_match",
    "gram_match",
    "listwise",
    "neighbour_match",
    "order_match",
]


def embed_match(s: Tensor, t: Tensor, p: str = "sq", reduction: str = "mean") -> Tensor:
    """Distance between student and teacher rows [n, dim]: `l2`, `sq` (its square), or `cos` (1 − s·t).

    Jasper writes L_cos as a sum over the batch: choose reduction="sum" to take its weights over unchanged.
    """
    if s.shape != t.shape:
        raise BadInput(
            f"the student's rows are {s.shape[1]} wide, the teacher's {t.shape[1]}: give the model a head of the "
            "teacher's width (heads = {teacher = ...}) or match by gram or order instead"
        )
    if p == "cos":
        each = 1 - (s * t).sum(-1)
    elif p == "sq":
        each = (s - t).square().sum(-1)
    elif p == "l2":
        each = ((s - t).square().sum(-1) + 1e-12).sqrt()  # the root has no gradient at 0
    else:
        raise BadInput(f"p must be l2, sq or cos, got {p!r}")
    return each.sum() if reduction == "sum" else each.mean()


def gram_match(s: Tensor, t: Tensor) -> Tensor:
    """L_sim: mean squared difference of the two similarity matrices, S Sᵀ and T Tᵀ."""
    return F.mse_loss(s @ s.T, t @ t.T)


def order_match(s: Tensor, t: Tensor, margin: float = 0.015, pairs: int | None = 20_000) -> Tensor:
    """L_resim: pairs of pairs that the teacher orders, the student must order too, by a margin.

    Mean of max(0, s_m·s_n − s_i·s_j + δ) over all (i, j), (m, n) with t_i·t_j > t_m·t_n. There are O(n⁴) of them, so
    pairs of pairs are drawn at random; a tie is no pair, and (i, j) is the same as (j, i), so the upper triangle
    without the diagonal is enough. The mean of the sample is unbiased for the full mean.

    Args:
        s: unit student rows [n, dim].
        t: unit teacher rows [n, teacher dim].
        margin: δ.
        pairs: how many pairs of pairs to draw; None takes all of them.
    """
    i, j = torch.triu_indices(len(s), len(s), 1, device=s.device)
    mine, theirs = (s @ s.T)[i, j], (t @ t.T)[i, j]
    if len(mine) < 2:
        return mine.sum() * 0
    if pairs is None:
        a, b = torch.triu_indices(len(mine), len(mine), 1, device=s.device)
    else:
        a, b = torch.randint(len(mine), (2, pairs), device=s.device)
    above = theirs[a] > theirs[b]
    high, low = torch.where(above, a, b), torch.where(above, b, a)
    ordered = theirs[a] != theirs[b]
    # Not a mean over a selection: an empty one would be NaN.
    return (F.relu(mine[low] - mine[high] + margin) * ordered).sum() / ordered.sum().clamp(min=1)


def listwise(teacher: Tensor, student: Tensor, tau_t: float = 0.05, tau_s: float = 0.05) -> Tensor:
    """Cross-entropy of the teacher's softmax over a list against the student's, mean over lists [n, candidates]."""
    goal = (teacher.float() / tau_t).softmax(-1)
    return -(goal * (student.float() / tau_s).log_softmax(-1)).sum(-1).mean()


def neighbour_match(s: Tensor, t: Tensor, tau: float = 0.05) -> Tensor:
    """Kullback-Leibler divergence of each row's softmax over all other rows, teacher's from student's, mean over rows.

    Where `gram_match` weighs every pair alike, this one looks at the nearest, and at their order. 0 when both agree.

    Args:
        s: unit student rows [n, dim].
        t: unit teacher rows [n, teacher dim].
        tau: temperature of both.
    """
    if len(s) < 2:
        return s.sum() * 0
    others = ~torch.eye(len(s), dtype=torch.bool, device=s.device)
    mine, theirs = ((rows @ rows.T / tau)[others].view(len(s), -1).log_softmax(-1) for rows in (s.float(), t.float()))
    return F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


class EmbedMatch(nn.Module):
    """`embed_match` over all texts of a batch.

    Args:
        p: `l2`, `sq` or `cos`.
        reduction: `mean` or `sum`.
        prefix: compare with the teacher's first coordinates, scaled to unit length, where the student is narrower.
    """

    def __init__(self, p: str = "sq", reduction: str = "mean", prefix: bool = False) -> None:
        super().__init__()
        if p not in ("l2", "sq", "cos") or reduction not in ("mean", "sum"):
            raise BadInput(f"p must be l2, sq or cos and reduction mean or sum, got {p!r}, {reduction!r}")
        self.p, self.reduction, self.prefix = p, reduction, prefix

    def forward(self, pool: Pool) -> Tensor:
        """The loss of a pool with teacher vectors."""
        width = pool.rows.shape[1]
        goal = unit(pool.teacher[:, :width]) if self.prefix else pool.teacher
        return embed_match(pool.rows, goal, self.p, self.reduction)


class GramMatch(nn.Module):
    """`gram_match` over all texts of a batch."""

    def forward(self, pool: Pool) -> Tensor:
        """The loss of a pool with teacher vectors."""
        return gram_match(pool.rows, pool.teacher)


class OrderMatch(nn.Module):
    """`order_match` over all texts of a batch. Put related texts into one: unrelated ones are all equally far."""

    def __init__(self, margin: float = 0.015, pairs: int | None = 20_000) -> None:
        super().__init__()
        self.margin, self.pairs = margin, pairs

    def forward(self, pool: Pool) -> Tensor:
        """The loss of a pool with teacher vectors."""
        return order_match(pool.rows, pool.teacher, self.margin, self.pairs)


class NeighbourMatch(nn.Module):
    """`neighbour_match` over all texts of a batch. Put related texts into one, as for `OrderMatch`."""

    def __init__(self, tau: float = 0.05) -> None:
        super().__init__()
        if not tau > 0:
            raise BadInput(f"tau must be above 0, got {tau}")
        self.tau = tau

    def forward(self, pool: Pool) -> Tensor:
        """The loss of a pool with teacher vectors."""
        return neighbour_match(pool.rows, pool.teacher, self.tau)


class Listwise(nn.Module):
    """`listwise` over each query's own documents, or over all documents of the batch.

    Args:
        tau_t: temperature of the teacher.
        tau_s: temperature of the student.
        over: `group` or `batch`.
        by: `vectors` scores documents by the teacher's vectors; `scores` by the examples' `pos_scores` and
            `neg_scores`, which only `group` can have.
    """

    def __init__(self, tau_t: float = 0.05, tau_s: float = 0.05, over: str = "group", by: str = "vectors") -> None:
        super().__init__()
        if over not in ("group", "batch") or by not in ("vectors", "scores") or (over, by) == ("batch", "scores"):
            raise BadInput(f"over={over!r}, by={by!r}: choose group or batch by vectors, or group by scores")
        self.tau_t, self.tau_s, self.over, self.by = tau_t, tau_s, over, by

    def forward(self, pool: Pool) -> Tensor:
        """The loss of a pool with teacher vectors or scores."""
        if self.by == "scores":
            if pool.batch.doc_score is None:
                raise BadInput(f"source {pool.batch.source!r} has no teacher scores for all of its documents")
            goal = torch.tensor(pool.batch.doc_score, device=pool.rows.device)
        else:
            goal = self._table(pool.taught().on(MAIN))
        return listwise(goal, self._table(pool), self.tau_t, self.tau_s)

    def _table(self, pool: Pool) -> Tensor:
        if self.over == "group":
            return torch.einsum("bd,bkd->bk", pool.q, pool.d)
        return pool.q @ pool.d.flatten(0, 1).T
