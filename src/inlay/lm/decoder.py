"""One decoder, with sockets.

Pre-norm blocks (RMSNorm, RoPE, SwiGLU, untied head) in which every part that a paper replaces is a socket:

    input          ids → rows: any `Table`, trained or frozen
    position       where a token stands: `Rotary` or anything with its two methods
    feed_forward   layer → module(x, ids): SwiGLU, `Stem`, `HashExperts`
    pre_block      layer → module(h, ids), added to the residual stream before attention
    attention      layer → module(x, at, position, cache, layer)
    linear         (inputs, outputs) → module, for every map but the head
    norm           width → module, for every norm
    cache          keys and values while generating

Every part that reads token ids reads `memory_ids`, which are the ids unless the caller says otherwise: that is how
memory is edited while the text stays as it is. Ids are those of the input, never of what is to be predicted.

A part that reads more than the current token says so by an attribute `wants_cache = True`, and is then called with
`cache=` (None where a text is read at once) and, in a block, `layer=`. Of the tokens before those it is called with, an
input finds the ids in `cache.ids`, a part of a block in `cache.memory_ids`; what else it needs of them it keeps with
`cache.keep` and finds with `cache.recall`. So a text read token by token gives what it gives when read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.attention import Attention
from inlay.lm.cache import KeyValueCache
from inlay.lm.feed_forward import SwiGLU, hidden_width
from inlay.lm.positions import Rotary
from inlay.tables.full import Full

__all__ = ["Block", "Decoder", "Output"]

Parts = Mapping[int, nn.Module] | Callable[[int], nn.Module | None]


class Output(NamedTuple):
    """What a decoder makes of ids [batch, length].

    `logits` [batch, length, vocab]; `hidden`, if asked for: the residual stream entering each block and leaving the
    last, layers + 1 tensors [batch, length, dim].
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


class Block(nn.Module):
    """Attention, then a feed-forward part, each over normed rows and added back."""

    def __init__(
        self, dim: int, attention: nn.Module, feed_forward: nn.Module, before: nn.Module | None = None,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = norm or _norm
        self.before, self.attention, self.feed_forward = before, attention, feed_forward
        self.attention_norm, self.feed_forward_norm = norm(dim), norm(dim)

    def forward(
        self, h: Tensor, ids: Tensor, at: Tensor, position: Any, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        if self.before is not None:
            h = h + self.before(h, ids, **_seen(self.before, cache=cache, layer=layer))
        h = h + self.attention(self.attention_norm(h), at, position, cache, layer)
        return h + self.feed_forward(
            self.feed_forward_norm(h), ids, **_seen(self.feed_forward, cache=cache, layer=layer)
        )


class Decoder(nn.Module):
    """A language model.

    Args:
        vocab: number of token ids.
        dim: width of the residual stream.
        layers: blocks.
        heads: attention heads.
        kv_heads: heads of keys and values; None: as many.
        hidden: hidden units of feed-forward parts; None: `hidden_width(dim)`.
        context: longest text, in tokens.
        input: ids → rows [.., dim]; None: `Full(vocab, dim)`.
        position: None: `Rotary`.
        feed_forward: module of each layer, as a mapping (others stay dense) or a function of the layer (None: dense).
        pre_block: the same, for what comes before attention; absent where nothing is given.
        attention: the same, for attention; None: `Attention` with linear maps.
        linear: makes every map but the head, called (inputs, outputs).
        norm: makes every norm, called (dim); None: RMSNorm.
    """

    def __init__(
        self, vocab: int, dim: int = 128, layers: int = 6, heads: int = 4, *, kv_heads: int | None = None,
        hidden: int | None = None, context: int = 1024, input: nn.Module | None = None,
        position: nn.Module | None = None, feed_forward: Parts | None = None, pre_block: Parts | None = None,
        attention: Parts | None = None, linear: Callable[[int, int], nn.Module] | None = None,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for what, number in (("vocab", vocab), ("dim", dim), ("layers", layers), ("context", context)):
            if number < 1:
                raise BadInput(f"{what} must be at least 1, got {number}")
        if heads < 1 or dim % heads or (dim // heads) % 2:
            raise BadInput(f"{heads} heads must divide dim {dim} into even widths")
        self.vocab, self.dim, self.context = vocab, dim, context
        self.hidden = hidden_width(dim) if hidden is None else hidden
        make = linear or _linear
        if input is None:
            input = Full(vocab, dim, scale=0.0)
            _truncated_normal(input.weight, dim**-0.5)
        self.input = input
        self.position = Rotary(dim // heads) if position is None else position
        self.blocks = nn.ModuleList()
        for layer in range(layers):
            part = _part(feed_forward, layer) or SwiGLU(dim, self.hidden, make)
            attend = _part(attention, layer) or Attention(dim, heads, kv_heads, make)
            self.blocks.append(Block(dim, attend, part, _part(pre_block, layer), norm))
        _known(feed_forward, layers, "feed_forward")
        _known(pre_block, layers, "pre_block")
        _known(attention, layers, "attention")
        self.norm, self.head = (norm or _norm)(dim), _linear(dim, vocab)

    def forward(
        self, ids: Tensor, *, memory_ids: Tensor | None = None, cache: KeyValueCache | None = None,
        capture: bool = False,
    ) -> Output:  # fmt: skip
        """Logits of the token after each of ids [batch, length].

        Args:
            ids: the text.
            memory_ids: what tables that are read by token id see instead, same shape.
            cache: of the text before; extended in place.
            capture: also return hidden states.
        """
        memory = self._checked(ids, memory_ids, cache)
        start = 0 if cache is None else cache.length
        at = torch.arange(start, start + ids.shape[1], device=ids.device)
        h = self.input(ids, **_seen(self.input, cache=cache))
        hidden = [h] if capture else []
        for layer, block in enumerate(self.blocks):
            h = block(h, memory, at, self.position, cache, layer)
            if capture:
                hidden.append(h)
        if cache is not None:
            cache.read(ids, memory)
        return Output(self.head(self.norm(h)), tuple(hidden))

    def _checked(self, ids: Tensor, memory_ids: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """The memory ids, when all that `forward` was given can be read."""
        if ids.ndim != 2 or not ids.numel():
            raise BadInput(f"ids must be [batch, length] with at least one token, got {list(ids.shape)}")
        memory = ids if memory_ids is None else memory_ids
        if memory.shape != ids.shape:
            raise BadInput(f"memory_ids {list(memory.shape)} must have the shape of ids {list(ids.shape)}")
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 0 or high >= self.vocab:
            raise BadInput(f"id {low if low < 0 else high} is outside the vocabulary of {self.vocab}")
        start = 0 if cache is None else cache.length
        if start + ids.shape[1] > self.context:
            raise BadInput(
                f"{start + ids.shape[1]} tokens do not fit the context of {self.context}; "
                "shorten the text, or make the decoder with a larger context"
            )
        if cache is not None:
            cache.check(ids)
        return memory

    def loss(self, ids: Tensor, targets: Tensor, *, memory_ids: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats of targets [batch, length], the tokens after ids; -100 is left out."""
        logits = self(ids, memory_ids=memory_ids).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def stream(
        self, ids: Tensor, *, memory_ids: Tensor | None = None, temperature: float = 1.0, top_k: int | None = None,
        seed: int | None = None,
    ) -> Iterator[int]:  # fmt: skip
        """Token ids that follow a text [length], one by one, until the context is full.

        Args:
            ids: the text; at least one token.
            memory_ids: its edited form; what is generated is read unedited.
            temperature: 0 takes the likeliest token.
            top_k: choose among that many only.
            seed: of the choice.
        """
        if ids.ndim != 1 or not len(ids):
            raise BadInput("generation needs a text of at least one token; begin with the separator token")
        if len(ids) > self.context:
            raise BadInput(f"a text of {len(ids)} tokens does not fit the context of {self.context}; shorten it")
        if temperature < 0:
            raise BadInput(f"temperature must be at least 0, got {temperature}")
        random = None if seed is None else torch.Generator(ids.device).manual_seed(seed)
        was, cache = self.training, KeyValueCache()
        self.eval()
        try:
            part, memory = ids[None], None if memory_ids is None else memory_ids[None]
            while cache.length + part.shape[1] <= self.context:
                logits = self(part, memory_ids=memory, cache=cache).logits[0, -1].float()
                yield (token := _pick(logits, temperature, top_k, random))
                part, memory = torch.tensor([[token]], device=ids.device), None
        finally:
            self.train(was)

    def generate(self, ids: Tensor, most: int = 64, *, stop: int | None = None, **options: Any) -> Tensor:
        """At most `most` tokens that follow a text [length]; ends before the token `stop`. Options as in `stream`."""
        found: list[int] = []
        for token in self.stream(ids, **options):
            if token == stop or len(found) == most:
                break
            found.append(token)
        return torch.tensor(found, dtype=torch.long)

    @property
    def num_parameters(self) -> int:
        """All numbers that are learnt, tables included."""
        return sum(parameter.numel() for parameter in self.parameters())


def _pick(logits: Tensor, temperature: float, top_k: int | None, random: torch.Generator | None) -> int:
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(min(top_k, len(logits))).values[-1], float("-inf"))
    return int(torch.multinomial(logits.softmax(-1), 1, generator=random))


def _norm(width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=1e-5)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    made = nn.Linear(inputs, outputs, bias=False)
    _truncated_normal(made.weight, inputs**-0.5)
    return made


def _truncated_normal(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


def _part(parts: Parts | None, layer: int) -> nn.Module | None:
    if parts is None:
        return None
    return parts.get(layer) if isinstance(parts, Mapping) else parts(layer)


def _seen(part: nn.Module, **given: Any) -> dict[str, Any]:
    """What a part is called with beside its input: nothing, unless it asks for it."""
    return given if getattr(part, "wants_cache", False) else {}


def _known(parts: Parts | None, layers: int, what: str) -> None:
    beyond = [layer for layer in parts if not 0 <= layer < layers] if isinstance(parts, Mapping) else []
    if beyond:
        raise BadInput(f"{what} names layer {beyond[0]}, the decoder has layers 0 to {layers - 1}")
