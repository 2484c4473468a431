"""STEM: a feed-forward part whose up-projection is a row of a table, read by the token's own id.

    dense      y = down(SiLU(gate x) ⊙ up x)
    "up"       y = down(SiLU(gate x) ⊙ row)            the method
    "gate"     y = down(SiLU(row) ⊙ up x)              an ablation: worse at scale
    "additive" y = down(SiLU(gate x) ⊙ (up x + row))   an ablation: more cost, no gain

Each layer has a table of its own, as wide as the hidden units. A feed-forward part is a memory: the up-projection
makes an address out of context, STEM gives each token its own and leaves the context to the gate; hence gate and down
stay dense. Rows depend on ids alone, so they can be fetched before the layer runs, kept out of fast memory, and edited
by hand.

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.lm.cache import KeyValueCache
from inlay.lm.decoder import Decoder, _linear
from inlay.lm.feed_forward import SwiGLU, hidden_width
from inlay.tables.full import Full

__all__ = ["Start", "Stem", "from_dense", "placed", "start_rows", "stem_decoder", "stem_parts"]

Mode = Literal["up", "gate", "additive"]
Start = Literal["xavier", "normal", "scaled_normal", "zero"]
Where = Literal["third", "half", "full"]
Edit = Callable[[Tensor, Tensor, KeyValueCache | None], Tensor]


def placed(where: Where | list[int], layers: int) -> list[int]:
    """The layers that read a table: a third, half or all of them but layer 0, whose input is the token itself already.

    A list is taken as it is (layer 0 included, if somebody means it).
    """
    if isinstance(where, str):
        spread = {"third": range(2, layers, 3), "half": range(1, layers, 2), "full": range(1, layers)}
        if where not in spread:
            raise BadInput(f"layers must be 'third', 'half', 'full' or a list of numbers, got {where!r}")
        return list(spread[where])
    beyond = [layer for layer in where if not 0 <= layer < layers]
    if beyond:
        raise BadInput(f"layer {beyond[0]} is not one of 0 to {layers - 1}")
    return sorted(set(where))


def start_rows(rows: int, width: int, start: Start = "xavier") -> Tensor:
    """What a table begins with, [rows, width].

    Xavier on the whole matrix makes rows so small that a STEM part adds almost nothing at first; with few tokens they
    are larger. "scaled_normal" has a deviation of width ** -0.5.
    """
    deviation = {"xavier": (2 / (rows + width)) ** 0.5, "normal": 0.02, "scaled_normal": width**-0.5, "zero": 0.0}
    if start not in deviation:
        raise BadInput(f"start must be one of {', '.join(deviation)}, got {start!r}")
    return torch.randn(rows, width) * deviation[start]


class Stem(nn.Module):
    """A feed-forward part that reads a table.

    Args:
        dim: width of the residual stream.
        table: token id → row [hidden]; any `Table`.
        mode: which half the row replaces.
        linear: makes the maps, called (inputs, outputs).

    Attributes:
        edits: what changes rows after they are read, the last one on top; called (rows [batch, length, hidden],
            ids, cache). See `inlay.lm.editing`.
    """

    wants_cache = True  # edits need to know where in its text a token stands

    def __init__(
        self, dim: int, table: nn.Module, mode: Mode = "up", linear: Callable[[int, int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise BadInput(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        make, hidden = linear or _linear, int(table.dim)  # type: ignore[arg-type]
        self.table, self.mode = table, mode
        self.gate = None if mode == "gate" else make(dim, hidden)
        self.up = None if mode == "up" else make(dim, hidden)
        self.down = make(hidden, dim)
        self.edits: list[Edit] = []

    def forward(self, x: Tensor, ids: Tensor, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        """Normed rows [batch, length, dim] and the ids [batch, length] of their tokens to what is added."""
        row = self.table(ids)
        for edit in self.edits:
            row = edit(row, ids, cache)
        if self.gate is None:
            assert self.up is not None
            mixed = F.silu(row) * self.up(x)
        else:
            mixed = F.silu(self.gate(x)) * (row if self.up is None else self.up(x) + row)
        out: Tensor = self.down(mixed)
        return out

    @torch.no_grad()
    def rows(self, ids: Tensor) -> Tensor:
        """Float32 rows [..., hidden] of ids [...] as they are read outside of training, without edits."""
        was = self.table.training
        self.table.eval()
        try:
            found: Tensor = self.table(ids.to(next(self.parameters()).device))
        finally:
            self.table.train(was)
        return found.float()

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


def stem_parts(model: Decoder) -> dict[int, Stem]:
    """The STEM parts of a decoder by layer, ascending; one without any is refused."""
    if not isinstance(model, Decoder):
        raise BadInput(f"expected a Decoder with STEM parts, got a {type(model).__name__}")
    found = {layer: block.feed_forward for layer, block in enumerate(model.blocks)}
    parts = {layer: part for layer, part in found.items() if isinstance(part, Stem)}
    if not parts:
        raise BadInput("this decoder has no STEM part; make one with stem_decoder or from_dense")
    return parts


def stem_decoder(
    vocab: int, dim: int = 128, layers: int = 6, heads: int = 4, *, where: Where | list[int] = "half",
    mode: Mode = "up", start: Start = "xavier", hidden: int | None = None,
    table: Callable[[int, int], nn.Module] | None = None, sparse: bool = True, **options: Any,
) -> Decoder:  # fmt: skip
    """A decoder with STEM in some of its layers.

    Args:
        vocab: number of token ids.
        dim: width of the residual stream.
        layers: blocks.
        heads: attention heads.
        where: which layers, see `placed`.
        mode: see `Stem`.
        start: see `start_rows`; of the default table.
        hidden: width of the tables, that is, hidden units.
        table: makes a table, called (vocab, hidden); None: a full one.
        sparse: give the default tables row-sparse gradients.
        options: of `Decoder`.
    """
    width = hidden_width(dim) if hidden is None else hidden

    def full(rows: int, columns: int) -> nn.Module:
        made = Full(rows, columns, scale=0.0, sparse=sparse)
        made.weight.data = start_rows(rows, columns, start)
        return made

    chosen = placed(where, layers)
    parts = {layer: Stem(dim, (table or full)(vocab, width), mode) for layer in chosen}
    for layer, part in parts.items():
        if part.table.dim != width:
            raise BadInput(f"the table of layer {layer} is {part.table.dim} wide, the decoder's hidden units {width}")
    return Decoder(vocab, dim, layers, heads, hidden=width, feed_forward=parts, **options)


@torch.no_grad()
def from_dense(model: Decoder, layer: int, *, statistics: bool = False, seed: int = 0) -> Stem:
    """The STEM part that a trained decoder's dense one becomes, its rows made of the up-projection.

    A token's row is the up-projection of its input row, normed as that layer norms: exact where the residual stream
    still is the token's input row, an approximation further up.

    Args:
        model: trained, with a `SwiGLU` in that layer.
        layer: which.
        statistics: draw each hidden unit's numbers from a normal with the mean and deviation they would have had;
            better for deep layers, where the stream no longer resembles the input row.
        seed: of that draw.
    """
    block = model.blocks[layer]
    part = block.feed_forward
    if not isinstance(part, SwiGLU):
        raise BadInput(f"layer {layer} has a {type(part).__name__}, not a dense SwiGLU")
    norm: nn.Module = block.feed_forward_norm  # type: ignore[assignment]
    ids = torch.arange(model.vocab, device=model.head.weight.device)
    rows = torch.cat([part.up(norm(model.input(some))) for some in ids.split(4096)])
    if statistics:
        random = torch.Generator(rows.device).manual_seed(seed)
        noise = torch.randn(rows.shape, generator=random, device=rows.device)
        rows = rows.mean(0) + rows.std(0) * noise
    table = Full(model.vocab, model.hidden, scale=0.0, sparse=True)
    table.weight.data = rows
    made = Stem(model.dim, table)
    made.gate, made.down = part.gate, part.down
    return made
