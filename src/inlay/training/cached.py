"""Gradient cache: a contrastive batch as large as you like in the memory of a small one.

A loss of vectors depends on the model only through them. So (1) encode all parts without gradient, remembering each
part's random state; (2) take the loss of all vectors, and its gradient at them; (3) encode each part again from its
random state, with gradient, and push that part's vector gradient through. The result is the gradient of the whole
batch, dropout included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["cached_backward", "join"]

Vectors = dict[str, Tensor]


def join(parts: Sequence[Vectors]) -> Vectors:
    """Vectors of parts one after another, by head."""
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}


def cached_backward(
    encode: Callable[[Any], Vectors], parts: Sequence[Any], loss_of: Callable[[Vectors], Tensor]
) -> Tensor:
    """Loss of a batch given in parts; its gradient is added to the parameters' `.grad`.

    Args:
        encode: part → vectors by head.
        parts: what `encode` takes, as many at a time as memory allows.
        loss_of: vectors of all parts, joined → scalar loss. Its own parameters get their gradient too.

    Returns:
        The loss, detached.
    """
    states, leaves = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state())
            leaves.append(encode(part))
    for vectors in leaves:
        for tensor in vectors.values():
            tensor.requires_grad_()
    loss = loss_of(join(leaves))
    loss.backward()
    end = _random_state()
    for part, state, vectors in zip(parts, states, leaves):
        _set_random_state(state)
        again = encode(part)
        # A head that no term looks at has no gradient.
        used = [head for head, tensor in vectors.items() if tensor.grad is not None]
        if used:
            torch.autograd.backward([again[head] for head in used], [vectors[head].grad for head in used])
    _set_random_state(end)
    return loss.detach()


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
