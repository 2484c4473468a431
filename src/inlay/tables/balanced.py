"""k-means whose clusters have room for so many and no more."""

from __future__ import annotations

import torch
from torch import Tensor

from inlay.errors import BadInput

__all__ = ["balanced_clusters", "fill"]

_BLOCK = 1 << 24  # distances held at once


def balanced_clusters(features: Tensor, clusters: int, capacity: int, *, rounds: int = 10, seed: int = 0) -> Tensor:
    """Cluster int64 [n] of each row of features [n, width]; no cluster has more than `capacity`.

    Lloyd's iterations in which rows are dealt out by `fill`, until nothing moves or `rounds` are over. Clusters may
    stay empty where there are fewer rows than clusters.
    """
    if clusters * capacity < len(features):
        raise BadInput(f"{clusters} clusters of {capacity} have no room for {len(features)} rows")
    x = features.detach().float()
    random = torch.Generator().manual_seed(seed)
    centres = x[torch.randperm(len(x), generator=random)[:clusters]].clone()
    found = torch.full((len(x),), -1)
    for _ in range(rounds):
        moved = fill(x, centres, capacity)
        if torch.equal(moved, found):
            break
        found = moved
        sizes = torch.bincount(found, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, found, x)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
    return found


def fill(x: Tensor, centres: Tensor, capacity: int) -> Tensor:
    """Cluster of each row: pairs (row, centre) are taken by increasing distance, as long as there is room.

    Without sorting all n·k pairs: every row asks its nearest centre that has room or holds a farther row, and a centre
    that is asked too often keeps the nearest. That ends in the same answer (deferred acceptance, Gale & Shapley 1962;
    both sides prefer the nearer, so that the stable answer is one).
    """
    if len(centres) * capacity < len(x):
        raise BadInput(f"{len(centres)} centres with room for {capacity} cannot take {len(x)} rows")
    held = torch.full((len(x),), -1)
    distance = torch.full((len(x),), torch.inf)
    farthest = torch.full((len(centres),), torch.inf)  # of the rows a full centre holds
    lengths = centres.square().sum(1)
    step = max(1, _BLOCK // len(centres))
    waiting = torch.arange(len(x))
    while len(waiting):
        for some in waiting.split(step):
            apart = (x[some].square().sum(1, keepdim=True) - 2 * x[some] @ centres.T + lengths).clamp(min=0)
            apart = apart.masked_fill(apart >= farthest, torch.inf)
            distance[some], held[some] = apart.min(1)
        order = torch.argsort(distance, stable=True)
        order = order[torch.argsort(held[order], stable=True)]  # by centre, then by distance
        counts = torch.bincount(held, minlength=len(centres))
        place = torch.arange(len(x)) - (counts.cumsum(0) - counts)[held[order]]
        full = counts >= capacity
        last = (counts.cumsum(0) - counts + capacity - 1).clamp(max=len(x) - 1)
        farthest = torch.where(full, distance[order[last]], torch.inf)
        waiting = order[place >= capacity]
    return held
