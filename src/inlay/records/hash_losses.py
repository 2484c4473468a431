"""Losses of a learnt hash over matches and non-matches, and of those it is compared with.

Each takes rows of matches p, q [B, m], of own non-matches r [B, H, m] with a mask [B, H], and a mask [B, B] of which
other q of the batch are non-matches of p; and gives a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["LOSSES", "Loss", "info_nce_loss", "nlsh_loss", "triplet_loss"]

# (p, q, r, own, others, R, c)
Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float, float], Tensor]

TAU = 0.05  # of InfoNCE


def nlsh_loss(p: Tensor, q: Tensor, r: Tensor, own: Tensor, others: Tensor, radius: float, c: float) -> Tensor:
    """max(R, |p − q|) − min(cR, |p − r|), averaged over matches and over triples: two hinges, each on its own.

    A match within R pulls no more, a non-match beyond cR pushes no more, whatever the other of the two does: that is
    what parts this from a triplet margin, which asks for the difference of both distances only. Own non-matches and
    those of the batch weigh the same, though there are many more of the latter.
    """
    near = distance(p, q).clamp(min=radius).mean()
    far = [(distance(p[:, None], r), own), (distances(p, q), others)]
    return near - _mean_of_kinds([(one.clamp(max=c * radius), mask) for one, mask in far], near)


def triplet_loss(p: Tensor, q: Tensor, r: Tensor, own: Tensor, others: Tensor, radius: float, c: float) -> Tensor:
    """max(0, |p − q| − |p − r| + (c − 1) R): the margin that NLSH reaches when both of its hinges are at rest."""
    near, margin = distance(p, q)[:, None], (c - 1) * radius
    far = [(distance(p[:, None], r), own), (distances(p, q), others)]
    return _mean_of_kinds([((near - one + margin).clamp(min=0), mask) for one, mask in far], near)


def info_nce_loss(p: Tensor, q: Tensor, r: Tensor, own: Tensor, others: Tensor, radius: float, c: float) -> Tensor:
    """−log softmax of the match among all non-matches, by cosine; radius and c play no part."""
    p, q, r = (torch.nn.functional.normalize(x, dim=-1) for x in (p, q, r))
    match = (p * q).sum(-1, keepdim=True) / TAU
    hard = ((p[:, None] * r).sum(-1) / TAU).masked_fill(~own, -torch.inf)
    batch = (p @ q.T / TAU).masked_fill(~others, -torch.inf)
    return (torch.cat([match, hard, batch], dim=1).logsumexp(1) - match[:, 0]).mean()


LOSSES: dict[str, Loss] = {"nlsh": nlsh_loss, "triplet": triplet_loss, "info_nce": info_nce_loss}


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, with a gradient at 0 too."""
    return ((a - b) ** 2).sum(-1).clamp(min=1e-12).sqrt()


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean of each row of a with each of b, [n, m], by one product of matrices."""
    squares = (a**2).sum(-1)[:, None] + (b**2).sum(-1)[None] - 2 * a @ b.T
    return squares.clamp(min=1e-12).sqrt()


def _mean_of_kinds(kinds: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """The mean over kinds of the mean where a mask holds, of those kinds where it does anywhere."""
    means = [torch.where(mask, values, 0).sum() / mask.sum() for values, mask in kinds if mask.any()]
    return torch.stack(means).mean() if means else 0 * like.sum()
