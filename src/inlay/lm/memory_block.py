"""MemoryFormer: a decoder whose fully connected layers are memory layers; only attention's products and the head stay.

    x = norm(h);  q, k, v = memory(x)                          three layers of dim inputs
    h = h + attention(q, k, v)                                 no map of what the heads found
    h = h + memory₂(norm(memory₁(norm(h))))                    no activation in between

With K = dim / τ chunks, memory₁ gives K·(τ + e) numbers and memory₂ reads them in as many chunks of τ + e bits: each
bit of expansion e doubles the rows of its tables. Every norm is a LayerNorm, whose zero mean keeps bits balanced.

The paper prints attention's residual with the normed stream, and feeds the second part with what went into the first;
here both are the ordinary pre-norm residual. It finds an activation between the two memory layers of no use (accuracy
0.402 with GELU, 0.404 without), and learns at three times a dense model's rate: `Trainer(…, table_lr=3)`.

Source: MemoryFormer: Minimize Transformer Computation by Removing Fully-Connected Layers (arXiv 2411.12992).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.attention import Attention
from inlay.lm.decoder import Decoder, Parts
from inlay.lm.memory_linear import MOST_BITS, MemoryLinear, Start, _check

__all__ = ["BlockCost", "MemoryFeedForward", "block_cost", "memoryformer"]


class MemoryFeedForward(nn.Module):
    """Two memory layers with a LayerNorm in between.

    Args:
        dim: width of the residual stream; a multiple of `tau`.
        tau: bits of the first layer's buckets.
        expand_bits: by how many the second layer's have more.
        t: temperature, see `MemoryLinear`.
        start: see `MemoryLinear`.
        sparse: give row-sparse gradients.
    """

    def __init__(
        self, dim: int, tau: int = 8, expand_bits: int = 2, *, t: float = 1.0, start: Start = "unit_variance",
        sparse: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = _hidden(dim, tau, expand_bits)
        self.up = MemoryLinear(dim, hidden, tau, t, start, sparse)
        self.norm = nn.LayerNorm(hidden)
        self.down = MemoryLinear(hidden, dim, tau + expand_bits, t, start, sparse)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Normed rows [..., dim] to what is added; the ids of the tokens are not looked at."""
        out: Tensor = self.down(self.norm(self.up(x)))
        return out


def memoryformer(
    vocab: int, dim: int = 128, layers: int = 6, heads: int = 4, tau: int = 8, *, expand_bits: int = 2,
    t: float = 1.0, start: Start = "unit_variance", sparse: bool = True, kv_heads: int | None = None,
    context: int = 1024, input: nn.Module | None = None, position: nn.Module | None = None,
    pre_block: Parts | None = None,
) -> Decoder:  # fmt: skip
    """A decoder of such blocks.

    The paper takes τ = 8 at widths of 512 to 1024, and three times the learning rate that a dense decoder has.

    Args:
        vocab: number of token ids.
        dim: width of the residual stream; a multiple of `tau`.
        layers: blocks.
        heads: attention heads.
        tau: bits of a bucket, see `MemoryLinear`.
        expand_bits: see `MemoryFeedForward`.
        t: temperature.
        start: what tables begin with, see `MemoryLinear`.
        sparse: give row-sparse gradients.
        kv_heads: as of `Decoder`, and what follows too.
        context: longest text, in tokens.
        input: ids → rows.
        position: where a token stands.
        pre_block: what comes before attention.
    """
    hidden = _hidden(dim, tau, expand_bits)

    def memory(inputs: int, outputs: int) -> nn.Module:
        return MemoryLinear(inputs, outputs, tau, t, start, sparse)

    return Decoder(
        vocab, dim, layers, heads, kv_heads=kv_heads, hidden=hidden, context=context, input=input, position=position,
        feed_forward=lambda layer: MemoryFeedForward(dim, tau, expand_bits, t=t, start=start, sparse=sparse),
        pre_block=pre_block, attention=lambda layer: Attention(dim, heads, kv_heads, memory, project=False),
        norm=nn.LayerNorm,
    )  # fmt: skip


class BlockCost(NamedTuple):
    """Multiply-adds of one block over a whole text, as the paper counts: every query with every key.

    `attention`: 2·s²·d, in both kinds of block; `dense`: fully connected layers of a block with a hidden width of 4·d,
    12·s·d²; `memory`: memory layers, hashing included; `rows`: numbers kept in their tables.
    """

    attention: int
    dense: int
    memory: int
    rows: int

    @property
    def saved(self) -> float:
        """How many times fewer multiply-adds memory layers take than what they replace."""
        return self.dense / self.memory


def block_cost(dim: int, length: int, tau: int = 8, expand_bits: int = 2) -> BlockCost:
    """What a block costs, dense and of memory layers.

    A memory layer of K chunks and h outputs takes s·K·(τ + h). The five of a block come to s·d²·(5/τ + 2/τ²) and lower
    terms with two bits of expansion. The paper writes 6·s·d²/τ, and its figures are of that with hashing added.

    Args:
        dim: width of the residual stream, d.
        length: of the text in tokens, s.
        tau: bits of a bucket.
        expand_bits: see `MemoryFeedForward`.
    """
    hidden = _hidden(dim, tau, expand_bits)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise BadInput(f"length must be an integer of at least 1, got {length!r}")
    chunks, wide = dim // tau, tau + expand_bits
    memory = 3 * (tau + dim) + (tau + hidden) + (wide + dim)
    return BlockCost(
        attention=2 * length * length * dim,
        dense=12 * length * dim * dim,
        memory=length * chunks * memory,
        rows=chunks * ((3 * dim + hidden << tau) + (dim << wide)),
    )


def _hidden(dim: int, tau: int, expand_bits: int) -> int:
    """What the first of two memory layers gives."""
    _check(tau)
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1 or dim % tau:
        raise BadInput(f"dim must be an integer that tau = {tau} divides, got {dim!r}")
    if not isinstance(expand_bits, int) or isinstance(expand_bits, bool) or not 0 <= expand_bits <= MOST_BITS - tau:
        raise BadInput(
            f"expand_bits must be an integer from 0 to {MOST_BITS - tau}, got {expand_bits!r}; "
            "the second layer's tables have 2**(tau + expand_bits) rows"
        )
    return dim // tau * (tau + expand_bits)
