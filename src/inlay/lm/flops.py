"""FLOPs a decoder spends on a token, part by part, by formula: a multiply-add is two.

    scores         4·dim·length      queries by keys, and weights by values
    maps           2·inputs·outputs  of queries, keys, values and output
    feed_forward   2·3·dim·hidden    SwiGLU, and one expert of `HashExperts`; 2·2·dim·hidden of `Stem`
    memory         what inputs and parts before attention multiply; rows that are only read cost nothing
    head           2·dim·vocab

Every query is counted with all `length` keys, as the papers of this room count and as kernels without a causal form
work; `causal=True` counts those that it may see, (length + 1) / 2 on average. Norms, activations, rotations, softmax
and products number by number are left out: they grow with dim, not with dim².

A module that is more than a sum of linear maps says what it costs by a method `flops_per_token(length)`, an int; one
that has matrices of its own and no such method is refused, since nobody can know how often they are used.

Source: the cost formulas of STEM (arXiv 2601.10639), whose layers save 2·dim·hidden each, which is hidden /
(4·dim + 2·length + 3·hidden) of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn
from torch.nn.modules.conv import _ConvNd

from inlay.errors import BadInput
from inlay.lm.attention import Attention
from inlay.lm.decoder import Decoder
from inlay.lm.hash_experts import HashExperts
from inlay.tables.table import Rows

__all__ = ["Flops", "flops_per_token"]


@dataclass(frozen=True)
class Flops:
    """What one token costs in the forward pass, all layers together.

    Args:
        scores: attention's products of queries, keys and values; with the length they grow.
        maps: attention's maps of rows.
        feed_forward: feed-forward parts.
        memory: the input and what comes before attention.
        head: logits.
    """

    scores: int
    maps: int
    feed_forward: int
    memory: int
    head: int

    @property
    def attention(self) -> int:
        """Scores and maps."""
        return self.scores + self.maps

    @property
    def connected(self) -> int:
        """Maps and feed-forward parts: what is fully connected in a dense decoder, the head left out."""
        return self.maps + self.feed_forward

    @property
    def total(self) -> int:
        """The forward pass."""
        return sum(int(getattr(self, field.name)) for field in fields(self))

    @property
    def training(self) -> int:
        """Forward and backward: three times, for each product is differentiated by both of its factors.

        A bound where something is frozen.
        """
        return 3 * self.total


def flops_per_token(model: Decoder, length: int, *, causal: bool = False) -> Flops:
    """Count a decoder's FLOPs for each token of a text.

    Args:
        model: with any parts in its sockets.
        length: of the text, in tokens.
        causal: count a query only with the keys it may see.
    """
    if not isinstance(model, Decoder):
        raise BadInput(f"flops_per_token counts a Decoder, got a {type(model).__name__}")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise BadInput(f"length must be an integer of at least 1, got {length!r}")
    scores, maps, feed_forward = _cost(model.position, length), 0, 0
    memory = _cost(model.input, length)
    for block in model.blocks:
        attention: nn.Module = block.attention  # type: ignore[assignment]
        if isinstance(attention, Attention):
            scores += 2 * model.dim * (length + 1) if causal else 4 * model.dim * length
            maps += _parts(attention, length)
        else:
            maps += _cost(attention, length)
        feed_forward += _cost(block.feed_forward, length)  # type: ignore[arg-type]
        if block.before is not None:
            memory += _cost(block.before, length)  # type: ignore[arg-type]
    return Flops(scores, maps, feed_forward, memory, _cost(model.head, length))


def _cost(module: nn.Module, length: int) -> int:
    says = getattr(module, "flops_per_token", None)
    if says is not None:
        return int(says(length))
    if isinstance(module, nn.Linear | _ConvNd):
        return 2 * module.weight.numel()
    if isinstance(module, HashExperts):
        return _cost(module.experts[0], length)
    if isinstance(module, Rows | nn.Embedding | nn.EmbeddingBag):
        return 0
    if isinstance(module, Attention):
        raise BadInput(
            "attention inside of a part has texts of its own, whose length is not known; "
            "give the part a method flops_per_token(length)"
        )
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim > 1:
            raise BadInput(
                f"what {type(module).__name__} does with its {name} {list(parameter.shape)} is not known; "
                "give it a method flops_per_token(length)"
            )
    return _parts(module, length)


def _parts(module: nn.Module, length: int) -> int:
    return sum(_cost(child, length) for child in module.children())
