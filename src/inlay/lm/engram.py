"""Engram: rows of the n-grams that end here, looked up by hash, and added as far as the context wants them.

    e_t = rows of the hashed 2- and 3-grams (x′_{t−1}, x′_t), (x′_{t−2}, x′_{t−1}, x′_t), side by side
    k = W_K e_t + b_K      v = W_V e_t + b_V
    s = ⟨RMSNorm(h_t), RMSNorm(k)⟩ / √dim      α = σ(sign(s) · √max(|s|, 10⁻⁶))      ṽ = α v
    h ← h + ṽ + SiLU(Conv(RMSNorm(ṽ)))

before attention, in one or two early blocks. x′ are canonical ids (`fold_tokens`), the hash is that of
`inlay.tables.Engram`. The convolution is causal and by channel, and its taps stand N apart, N the longest n-gram, so
that each reads other tokens than the last; it begins at zero. What the module adds does not begin at zero, unless
`silent`: then W_V does.

The signed root is in the released code and not in the printed equation. Without it s, which reaches ±√dim, would
saturate the gate.

In packed text nothing is read from before the separator that begins a document, neither by an n-gram nor, which the
paper leaves open, by the convolution: a document adds the same alone and in a pack.

Keys depend on ids alone: `keys` gives them before the model runs, and rows may come from anywhere (`table`,
`offload_memory`). Rows want `RowAdam` with `multiplier=5` and `weight_decay=0`: each is touched rarely, and decay would
undo it in between.

Source: Conditional Memory via Scalable Lookup (arXiv 2601.07372) and its released demonstration. The deviation of new
rows is not given there; here it is 0.02.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.lm.cache import KeyValueCache
from inlay.lm.decoder import _linear
from inlay.lm.token_folding import checked_folding
from inlay.tables import keyers
from inlay.tables.full import Full

__all__ = ["Engram", "engram_parts"]


class Engram(nn.Module):
    """A `pre_block` part of a `Decoder`. For several layers make them with `engram_parts`.

    Attributes:
        enabled: False switches a trained memory off: nothing is added.
        table: module keys → rows [..., d_head].
        keyer: what makes keys of canonical ids.

    Args:
        dim: width of the residual stream.
        vocab: number of token ids.
        orders: lengths of the n-grams, ascending, the current token included.
        heads: hashes of each order.
        d_head: width of a row; an n-gram's memory has heads · d_head numbers.
        slots: rows of a head; the next prime above that nobody has taken.
        layer: the block it stands before; seeds the hash.
        folding: int64 [vocab], token id → canonical id, from `fold_tokens`. None: ids as they are.
        separator: id of the token that begins each document of packed text; None: one text a row.
        pad: id that stands before the first token; None: the separator, or 0.
        branches: residual streams; then h is [batch, length, branches, dim]. Each has its own W_K, norms and gate;
            table and W_V are shared.
        conv: taps of the convolution; 0 for none.
        gate: False leaves α at 1.
        silent: begin with W_V at zero, so that the model is exactly the one without memory.
        sparse: give the default table row-sparse gradients.
        scale: deviation of the default table's rows at the start.
        table: makes a table, called (rows, d_head); None: a full one.
        used: primes that other layers have taken; these are added to it.
        seed: of the hash.
    """

    wants_cache = True
    folding: Tensor | None
    multipliers: Tensor
    primes: Tensor

    def __init__(
        self, dim: int, vocab: int, *, orders: Sequence[int] = (2, 3), heads: int = 4, d_head: int = 16,
        slots: int = 50_000, layer: int = 1, folding: Any = None, separator: int | None = None, pad: int | None = None,
        branches: int = 1, conv: int = 4, gate: bool = True, silent: bool = False, sparse: bool = True,
        scale: float = 0.02, table: Callable[[int, int], nn.Module] | None = None, used: set[int] | None = None,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        _at_least(1, dim=dim, vocab=vocab, heads=heads, d_head=d_head, slots=slots, branches=branches)
        _at_least(0, layer=layer, conv=conv, seed=seed)
        if not scale >= 0:
            raise BadInput(f"scale must be at least 0, got {scale}")
        pad = (0 if separator is None else separator) if pad is None else pad
        for what, token in (("separator", separator), ("pad", pad)):
            if token is not None and not 0 <= token < vocab:
                raise BadInput(f"{what} {token} is outside the vocabulary of {vocab}")
        folded = None if folding is None else torch.from_numpy(checked_folding(folding, vocab))
        self.dim, self.vocab, self.layer, self.d_head, self.branches = dim, vocab, layer, d_head, branches
        self.separator, self.pad, self.conv, self.gate, self.enabled = separator, pad, conv, gate, True
        canonical = vocab if folded is None else int(folded.max()) + 1
        self.keyer = keyers.Engram(
            canonical, slots, heads=heads, layer=layer, used=used, seed=seed, orders=orders,
            pad=pad if folded is None else int(folded[pad]),
        )  # fmt: skip
        self.register_buffer("folding", folded)
        self.register_buffer("multipliers", torch.from_numpy(self.keyer.multipliers.copy()))
        self.register_buffer("primes", torch.from_numpy(self.keyer.primes.copy()))
        self.register_load_state_dict_post_hook(_loaded)
        self.table = _rows(self.keyer.rows, d_head, scale, sparse) if table is None else table(self.keyer.rows, d_head)
        holds = (getattr(self.table, "rows", self.keyer.rows), getattr(self.table, "dim", d_head))
        if holds != (self.keyer.rows, d_head):
            raise BadInput(f"the table must have {self.keyer.rows} rows of {d_head} numbers, got {self.table!r}")
        self.width = len(self.keyer.orders) * heads * d_head
        maps = [_linear(self.width, dim).weight.data for _ in range(1 + branches if gate else 1)]
        self.project = nn.Linear(self.width, dim * len(maps))  # [W_V; W_K of each branch], one product
        self.project.weight.data = torch.cat(maps)
        nn.init.zeros_(self.project.bias)
        if silent:
            nn.init.zeros_(self.project.weight[:dim])
        self.query_norm, self.key_norm = (nn.Parameter(torch.ones(branches * dim)) if gate else None for _ in range(2))
        self.conv_norm = nn.Parameter(torch.ones(branches * dim)) if conv else None
        self.conv_weight = nn.Parameter(torch.zeros(conv, branches, dim)) if conv else None  # tap j: N · j tokens ago

    def keys(self, ids: Any, before: Any = None) -> Tensor:
        """Rows of the table that ids [batch, length] read, int64 [batch, length, orders · heads], on the CPU.

        Args:
            ids: tokens, integers.
            before: those before them [batch, any], if they go on a text.
        """
        given = _tokens(ids, self.vocab)
        last = given[:, :0] if before is None else torch.as_tensor(before)[:, 1 - self.keyer.n :]
        earlier = _tokens(last, self.vocab)
        whole = torch.cat([earlier, given], 1)
        starts = None if self.separator is None else (whole == self.separator).numpy()
        if self.folding is not None:
            whole = self.folding[whole.to(self.folding.device)].cpu()
        return torch.from_numpy(self.keyer.keys(whole.numpy(), starts=starts)[:, earlier.shape[1] :])

    def rows(self, ids: Tensor, before: Tensor | None = None) -> Tensor:
        """Memory e [batch, length, orders · heads · d_head] of ids [batch, length]; `before` as in `keys`."""
        keys = self.keys(ids, before).to(self.project.weight.device)
        rows: Tensor = self.table(keys)
        if rows.shape != (*keys.shape, self.d_head):
            raise BadInput(
                f"the table gave {list(rows.shape)} for keys {list(keys.shape)}; rows are {self.d_head} wide"
            )
        return rows.flatten(2)

    def gates(self, h: Tensor, ids: Tensor, *, cache: KeyValueCache | None = None) -> Tensor:
        """How much of its memory each token takes, α [batch, length, branches] in (0, 1)."""
        stream = self._stream(h, ids)
        return self._read(stream, ids, cache)[0][..., 0]

    def forward(self, h: Tensor, ids: Tensor, *, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        """What is added to the stream h [batch, length, dim] (of several branches [batch, length, branches, dim]).

        Args:
            h: stream.
            ids: tokens [batch, length].
            cache: of the text before.
            layer: under which the cache keeps what the convolution has yet to read.
        """
        stream = self._stream(h, ids)
        if not self.enabled:
            if self.conv:
                self._recent(torch.zeros_like(stream), cache, layer)
            return torch.zeros_like(h)
        alpha, value = self._read(stream, ids, cache)
        value = alpha * value
        if self.conv:
            value = value + F.silu(self._convolved(value, ids, cache, layer))
        return value.reshape(h.shape)

    def _stream(self, h: Tensor, ids: Tensor) -> Tensor:
        wanted = (*ids.shape, self.dim) if self.branches == 1 else (*ids.shape, self.branches, self.dim)
        if ids.ndim != 2 or h.shape != wanted:
            raise BadInput(f"h must be {list(wanted)} for ids {list(ids.shape)} [batch, length], got {list(h.shape)}")
        return h.reshape(*ids.shape, self.branches, self.dim)

    def _read(self, stream: Tensor, ids: Tensor, cache: KeyValueCache | None) -> tuple[Tensor, Tensor]:
        """α [batch, length, branches, 1] and v [batch, length, 1, dim]."""
        memory = self.rows(ids, None if cache is None else cache.memory_ids).to(stream)
        value, *keys = self.project(memory).view(*ids.shape, -1, self.dim).split([1, self.branches][: 1 + self.gate], 2)
        if not keys:
            return torch.ones_like(stream[..., :1]), value
        agreed = (_normed(stream, self.query_norm) * _normed(keys[0], self.key_norm)).sum(-1, keepdim=True)
        agreed = agreed / self.dim**0.5
        return torch.sigmoid(agreed.sign() * agreed.abs().clamp_min(1e-6).sqrt()), value

    def _convolved(self, value: Tensor, ids: Tensor, cache: KeyValueCache | None, layer: int) -> Tensor:
        assert self.conv_weight is not None
        inputs = self._recent(_normed(value, self.conv_norm), cache, layer)
        length, reach, inside = ids.shape[1], inputs.shape[1] - ids.shape[1], None
        if self.separator is not None:
            inside = self._inside(ids, cache, reach)
        out = self.conv_weight[0] * inputs[:, reach:]
        for tap in range(1, self.conv):
            lag = tap * self.keyer.n
            earlier = inputs[:, reach - lag : reach - lag + length]
            if inside is not None:
                earlier = earlier.masked_fill((inside < lag)[..., None, None], 0.0)
            out = out + self.conv_weight[tap] * earlier
        return out

    def _recent(self, inputs: Tensor, cache: KeyValueCache | None, layer: int) -> Tensor:
        """Inputs of the convolution with the (conv − 1) · N before them, zero before the text begins."""
        reach = (self.conv - 1) * self.keyer.n
        kept = None if cache is None else cache.recall(self, layer)
        if kept is None:
            kept = inputs.new_zeros(len(inputs), reach, *inputs.shape[2:])
        inputs = torch.cat([kept, inputs], 1)
        if cache is not None:
            cache.keep(self, layer, inputs[:, inputs.shape[1] - reach :])
        return inputs

    def _inside(self, ids: Tensor, cache: KeyValueCache | None, reach: int) -> Tensor:
        """Tokens of its document before each of ids, int64 [batch, length]; counted up to `reach` and no further."""
        whole = ids
        if cache is not None and cache.memory_ids is not None and reach:
            whole = torch.cat([cache.memory_ids[:, -reach:], ids], 1)
        at = torch.arange(whole.shape[1], device=whole.device).expand_as(whole)
        begun = (at * (whole == self.separator)).cummax(1).values
        return (at - begun)[:, whole.shape[1] - ids.shape[1] :]

    @property
    def num_parameters(self) -> int:
        """All numbers that are learnt."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the rows that a token reads, in float32."""
        return 4 * self.width

    def flops_per_token(self, length: int) -> int:
        """Of a forward pass, a multiply-add being two, whatever the length of the text."""
        gates = 2 * self.branches * self.dim if self.gate else 0
        return 2 * self.project.weight.numel() + gates + 2 * self.conv * self.branches * self.dim

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, layer={self.layer}, {self.keyer!r}, d_head={self.d_head}, branches={self.branches}, "
            f"conv={self.conv}, gate={self.gate}"
        )


def engram_parts(dim: int, vocab: int, layers: Iterable[int] = (1,), **options: Any) -> dict[int, Engram]:
    """Memory of several layers, to be given as `pre_block=`: no two share a prime or a multiplier.

    Args:
        dim: width of the residual stream.
        vocab: number of token ids.
        layers: which, from 0. One at 1 is best; the same budget in two, one of them further up, is better.
        options: of `Engram`.
    """
    chosen, used = sorted(set(layers)), options.pop("used", set())
    if not chosen:
        raise BadInput("layers must name at least one block, got none")
    return {layer: Engram(dim, vocab, layer=layer, used=used, **options) for layer in chosen}


def _loaded(module: Engram, incompatible: Any) -> None:
    """Weights are worth nothing under another hash: what was loaded brings its own."""
    keyer = module.keyer
    keyer.multipliers, keyer.primes = module.multipliers.cpu().numpy().copy(), module.primes.cpu().numpy().copy()
    sizes = keyer.primes.reshape(-1)
    keyer.offsets, keyer.rows = (np.cumsum(sizes) - sizes).reshape(keyer.primes.shape), int(sizes.sum())
    if module.folding is not None:
        keyer.vocabulary, keyer.pad = int(module.folding.max()) + 1, int(module.folding[module.pad])


def _normed(x: Tensor, weight: Tensor | None) -> Tensor:
    """RMSNorm of each branch: x [..., branches, dim], its scales in one row, as what is not to decay."""
    normed = F.rms_norm(x, x.shape[-1:], eps=1e-5)
    return normed if weight is None else normed * weight.view(-1, x.shape[-1])


def _rows(rows: int, width: int, scale: float, sparse: bool) -> Full:
    made = Full(rows, width, scale=0.0, sparse=sparse)
    nn.init.normal_(made.weight, std=scale)
    return made


def _tokens(ids: Any, vocab: int) -> Tensor:
    given = torch.as_tensor(ids).cpu()
    if given.ndim != 2 or given.dtype.is_floating_point or given.dtype.is_complex or given.dtype is torch.bool:
        raise BadInput(f"ids must be integers [batch, length], got {given.dtype} {list(given.shape)}")
    if given.numel():
        low, high = (int(bound) for bound in torch.aminmax(given))
        if low < 0 or high >= vocab:
            raise BadInput(f"id {low if low < 0 else high} is outside the vocabulary of {vocab}")
    return given.long()


def _at_least(least: int, **numbers: int) -> None:
    for what, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise BadInput(f"{what} must be an integer of at least {least}, got {number!r}")
