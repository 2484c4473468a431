"""The one contrastive loss. Papers differ in which cells stand in the denominator, not in the formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.training.scores import BLOCKS, MASKS, Mask, Pool, block_scores

__all__ = ["InfoNCE", "LearntScale", "hardness", "info_nce"]

Bonus = Mapping[str, Callable[[Tensor], Tensor]]


def info_nce(
    q: Tensor,
    d: Tensor,
    tau: float | Tensor,
    blocks: Sequence[str],
    keep: Mapping[str, Tensor] | None = None,
    bonus: Bonus | None = None,
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """−log softmax of the positive among itself and the cells of `blocks`, one value for each row.

    ℓ_i = −z_i0 + logsumexp({z_i0} ∪ {s_ic / τ + log w_block + b_ic : c kept}), with z_i0 = s(q_i, d_i0) / τ. The
    positive is always in the denominator, once. Logits are float32.

    Args:
        q: unit queries [B, D].
        d: unit documents [B, 1 + K, D], the positive first.
        tau: temperature.
        blocks: names from `inlay.training.scores.BLOCKS`.
        keep: block → bool [B, cells], False for cells to leave out.
        bonus: block → function of its scores (detached) that is added to its logits.
        weights: block → factor of its cells in the denominator; 0 leaves the block out.

    Returns:
        float32 [B].
    """
    positive = (q * d[:, 0]).sum(-1, keepdim=True).float() / tau
    logits = [positive]
    for block in blocks:
        weight = (weights or {}).get(block, 1.0)
        if weight == 0:
            continue
        scores, there = block_scores(q, d, block)
        if keep and block in keep:
            there = there & keep[block]
        added = bonus[block](scores.detach().float()) if bonus and block in bonus else 0.0
        logits.append((scores.float() / tau + added + math.log(weight)).masked_fill(~there, float("-inf")))
    return torch.cat(logits, 1).logsumexp(1) - positive[:, 0]


def hardness(alpha: float = 5.0, on: str | Sequence[str] = "own_negatives") -> Bonus:
    """EmbeddingGemma's weight exp(α·sg(s)) of hard negatives, as a bonus α·sg(s) on their logits."""
    return {block: lambda scores: alpha * scores for block in ([on] if isinstance(on, str) else on)}


class LearntScale(nn.Module):
    """A temperature that is learnt, as the logarithm of 1/τ, which is kept at or below `max`."""

    def __init__(self, tau: float = 0.05, max: float = 100.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / tau)))
        self.max = float(max)

    def forward(self) -> Tensor:
        """τ, a scalar tensor."""
        return 1 / self.log_scale.exp().clamp(max=self.max)


class InfoNCE(nn.Module):
    """`info_nce` as a term, mean over the rows of a batch.

    The batch's own `in_batch` flag is obeyed: where it is False only `own_negatives` count.

    Args:
        blocks: cells of the denominator.
        tau: temperature, or a `LearntScale`, or "learnt".
        mask: names (`same_text`, `same_class`) or functions `(pool, block) -> bool [B, cells]`; all must keep a cell.
        bonus: see `hardness`.
        weights: block → weight.
        symmetric: halve the sum with the same loss the other way round, from positives to queries, over the B × B
            table of positives.
    """

    def __init__(
        self,
        blocks: Sequence[str] = ("own_negatives", "batch_positives"),
        tau: float | str | LearntScale = 0.05,
        *,
        mask: Sequence[str | Mask] = (),
        bonus: Bonus | None = None,
        weights: Mapping[str, float] | None = None,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        for block in [*blocks, *(weights or {}), *(bonus or {})]:
            if block not in BLOCKS:
                raise BadInput(f"unknown block {block!r}; blocks are {', '.join(BLOCKS)}")
        for weight in (weights or {}).values():
            if weight < 0:
                raise BadInput(f"weights of blocks must be 0 or more, got {weight}")
        for name in mask:
            if isinstance(name, str) and name not in MASKS:
                raise BadInput(f"unknown mask {name!r}; masks are {', '.join(MASKS)}")
        if isinstance(tau, str) and tau != "learnt":
            raise BadInput(f"tau must be a number above 0 or 'learnt', got {tau!r}")
        if isinstance(tau, int | float) and not tau > 0:
            raise BadInput(f"tau must be above 0, got {tau}")
        self.scale = LearntScale() if tau == "learnt" else tau if isinstance(tau, LearntScale) else None
        self._tau = tau if isinstance(tau, int | float) else None
        self.blocks, self.weights, self.bonus, self.symmetric = list(blocks), dict(weights or {}), bonus, symmetric
        self.mask: list[Mask] = [MASKS[name] if isinstance(name, str) else name for name in mask]

    @property
    def tau(self) -> float | Tensor:
        """The temperature now."""
        return self._tau if self.scale is None else self.scale()  # type: ignore[return-value]

    def forward(self, pool: Pool) -> Tensor:
        """The loss of a pool whose rows have positives."""
        if not pool.d.shape[1]:
            raise BadInput(f"InfoNCE needs positives, but source {pool.batch.source!r} has texts only")
        in_batch = pool.batch.in_batch
        blocks = [block for block in self.blocks if in_batch or block == "own_negatives"]
        if not blocks:
            raise BadInput(f"source {pool.batch.source!r} allows no in-batch cells, so own_negatives must be in blocks")
        keep = {block: self._keep(pool, block) for block in blocks} if self.mask else None
        loss = info_nce(pool.q, pool.d, self.tau, blocks, keep, self.bonus, self.weights).mean()
        if self.symmetric and in_batch:
            table = (pool.q @ pool.d[:, 0].T).float() / self.tau
            if self.mask:
                off = ~torch.eye(len(table), dtype=torch.bool, device=table.device)
                table = table.masked_fill(off & ~self._keep(pool, "batch_positives"), float("-inf"))
            loss = (loss + F.cross_entropy(table.T, torch.arange(len(table), device=table.device))) / 2
        return loss

    def _keep(self, pool: Pool, block: str) -> Tensor:
        kept = self.mask[0](pool, block)
        for mask in self.mask[1:]:
            kept = kept & mask(pool, block)
        return kept
