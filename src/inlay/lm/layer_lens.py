"""How far along a model is in each layer: by what it would already say, and by the layers of another it resembles.

`lens` reads the stream between blocks through the model's own last norm and head, and measures KL(layer ‖ final): where
it drops early, early layers have less left to put together. `similarity` compares the layers of two models by centred
kernel alignment, and `alignment` gives each layer of one its place among the layers of the other:

    a_j = Σ i S_ij / Σ S_ij   over the five layers i that are most similar to layer j

a_j > j says that layer j does what the other model does further up.

CKA is that of linear kernels, with the unbiased estimate of HSIC taken over batches and divided afterwards, so that the
size of a batch does not matter (Nguyen, Raghu & Kornblith, arXiv 2010.15327; Song et al., JMLR 2012).

Source: the analyses of Conditional Memory via Scalable Lookup (arXiv 2601.07372).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.lm.decoder import Decoder

__all__ = ["alignment", "cka", "lens", "similarity"]


@torch.no_grad()
def lens(model: Decoder, batches: Iterable[Tensor]) -> np.ndarray:
    """Mean KL(layer ‖ final) in nats a token, float64 [layers + 1]; of the input first, and 0 last.

    Args:
        model: a decoder.
        batches: texts, each ids [batch, length].
    """
    total, tokens = np.zeros(len(model.blocks) + 1), 0
    was = model.training
    model.eval()
    try:
        for ids in batches:
            found = model(ids, capture=True)
            final = found.logits.float().log_softmax(-1)
            for layer, hidden in enumerate(found.hidden):
                said = model.head(model.norm(hidden)).float().log_softmax(-1)
                total[layer] += float((said.exp() * (said - final)).sum(dtype=torch.float64))
            tokens += ids.numel()
    finally:
        model.train(was)
    if not tokens:
        raise BadInput("lens needs at least one batch of ids, got none")
    return total / tokens


def cka(batches: Iterable[tuple[Any, Any]]) -> float:
    """Likeness of two representations of the same things: 1 where one is a rotation of the other, 0 if unrelated.

    Unbiased, hence below 0 at times.

    Args:
        batches: pairs of [things, any width], at least 4 things each.
    """
    sums = np.zeros((3, 1, 1))
    for x, y in batches:
        sums = sums + _hsic([torch.as_tensor(x)], [torch.as_tensor(y)])
    return float(_ratio(sums)[0, 0])


@torch.no_grad()
def similarity(model: Decoder, other: Decoder, batches: Iterable[Tensor]) -> np.ndarray:
    """CKA of the hidden states of two decoders, S float64 [layers of model + 1, layers of other + 1].

    Row i is the stream after i blocks of `model`, column j that of `other`; 0 is the input.

    Args:
        model: rows; the baseline.
        other: columns.
        batches: texts, each ids [batch, length] of at least 4 tokens; some 500 are plenty.
    """
    sums = np.zeros((3, len(model.blocks) + 1, len(other.blocks) + 1))
    was = model.training, other.training
    model.eval(), other.eval()
    try:
        for ids in batches:
            states = [[hidden.flatten(0, 1) for hidden in one(ids, capture=True).hidden] for one in (model, other)]
            sums += _hsic(*states)
    finally:
        model.train(was[0]), other.train(was[1])
    return _ratio(sums)


def alignment(similar: Any, *, top: int = 5) -> np.ndarray:
    """Place of each column's layer among the rows' layers, a float64 [columns], of S [rows, columns].

    Args:
        similar: from `similarity`.
        top: rows that count, the most similar ones.
    """
    given = np.asarray(similar, dtype=np.float64)
    if given.ndim != 2 or not given.size or not np.isfinite(given).all():
        raise BadInput(f"alignment takes finite numbers [layers, layers], got shape {given.shape}")
    if top < 1:
        raise BadInput(f"top must be at least 1, got {top}")
    best = np.argsort(-given, axis=0, kind="stable")[:top]
    weight = np.maximum(np.take_along_axis(given, best, 0), 0.0)
    if not (weight.sum(0) > 0).all():
        raise BadInput(f"column {int(np.argmin(weight.sum(0)))} resembles no layer; give longer or more texts")
    return np.asarray((weight * best).sum(0) / weight.sum(0))


def _hsic(xs: list[Tensor], ys: list[Tensor]) -> np.ndarray:
    """Unbiased HSIC of each pair, of each x with itself, and of each y: float64 [3, xs, ys]."""
    count = {len(states) for states in [*xs, *ys]}
    if len(count) != 1 or min(count) < 4 or any(states.ndim != 2 for states in [*xs, *ys]):
        shapes = [list(states.shape) for states in [*xs, *ys]]
        raise BadInput(f"CKA compares [things, width] of the same things, at least 4, got {shapes}")
    n = count.pop()
    kernels = [torch.stack([_kernel(states) for states in side]) for side in (xs, ys)]
    sums = [kernel.sum(1) for kernel in kernels]  # [layers, n], of columns
    totals = [one.sum(1) for one in sums]

    def of(a: int, b: int) -> Tensor:
        traces = kernels[a].flatten(1) @ kernels[b].flatten(1).T
        middle = totals[a][:, None] * totals[b][None] / ((n - 1) * (n - 2))
        return (traces + middle - 2 / (n - 2) * sums[a] @ sums[b].T) / (n * (n - 3))

    own = [of(side, side).diagonal() for side in (0, 1)]
    return torch.stack(
        [of(0, 1), own[0][:, None].expand(-1, len(ys)), own[1][None].expand(len(xs), -1)]
    ).numpy(force=True)  # fmt: skip


def _kernel(states: Tensor) -> Tensor:
    """Linear kernel with nothing on its diagonal, float64 [n, n].

    The estimate does not depend on the origin; centred states spare it the cancellation of large means.
    """
    if not torch.isfinite(states).all():
        raise BadInput("CKA takes finite numbers, got NaN or infinity")
    centred = states.double() - states.double().mean(0)
    return (centred @ centred.T).fill_diagonal_(0.0)


def _ratio(sums: np.ndarray) -> np.ndarray:
    if not (sums[1:] > 0).all():
        raise BadInput("CKA is not defined for a representation that does not vary; give more or other texts")
    return np.asarray(sums[0] / np.sqrt(sums[1] * sums[2]))
