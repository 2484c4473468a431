"""What an n-gram memory is used for: the gate of each token of a text, layer by layer.

    found = gate_map(model, ids)
    found.alpha                      # [layers, tokens], from 0 to 1
    print(found.text(tokens))        # a line a token
    found.plot(tokens)               # a heat map, with matplotlib

Gates open at the end of what the memory knows by heart: "Alexander the Great", "By the way".

Source: Conditional Memory via Scalable Lookup (arXiv 2601.07372), section on gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput, MissingExtra
from inlay.lm.decoder import Decoder
from inlay.lm.engram import Engram

__all__ = ["GateMap", "gate_map"]

_SHADES = " ░▒▓█"


class GateMap(NamedTuple):
    """Gates of a text.

    Attributes:
        layers: the blocks that have a memory.
        alpha: float32 [layers, tokens], the mean over branches.
    """

    layers: tuple[int, ...]
    alpha: np.ndarray

    def text(self, tokens: Sequence[str]) -> str:
        """A line a token: for each layer a shade and the number, then the token."""
        self._fit(tokens)
        head = "  ".join(f"layer {layer}" for layer in self.layers)
        lines = [
            "  ".join(f"{_SHADES[min(int(a * 5), 4)]} {a:.3f}" for a in column) + f"  {token!r}"
            for column, token in zip(self.alpha.T, tokens)
        ]
        return "\n".join([head, *lines])

    def plot(self, tokens: Sequence[str], axes: Any = None) -> Any:
        """A heat map, a row a layer; returns the axes.

        Args:
            tokens: as they are to be written.
            axes: of matplotlib; None: new ones.

        Raises:
            MissingExtra: matplotlib is missing.
        """
        self._fit(tokens)
        try:
            import matplotlib.pyplot as plt
        except ModuleNotFoundError:
            raise MissingExtra("plots", "plots") from None
        if axes is None:
            size = (max(3.0, 0.4 * len(tokens)), 1.5 + 0.4 * len(self.layers))
            axes = plt.subplots(figsize=size, layout="constrained")[1]
        axes.imshow(self.alpha, vmin=0.0, vmax=1.0, cmap="Reds", aspect="auto")
        axes.set_xticks(range(len(tokens)), [token.strip() or repr(token) for token in tokens], rotation=60, ha="right")
        axes.set_yticks(range(len(self.layers)), [f"layer {layer}" for layer in self.layers])
        return axes

    def _fit(self, tokens: Sequence[str]) -> None:
        if len(tokens) != self.alpha.shape[1]:
            raise BadInput(f"this map is of {self.alpha.shape[1]} tokens, got {len(tokens)} names")


@torch.no_grad()
def gate_map(model: Decoder, ids: Tensor, *, memory_ids: Tensor | None = None) -> GateMap:
    """Gates that open while a model reads a text.

    Args:
        model: a decoder with `Engram` before some of its blocks.
        ids: tokens [length].
        memory_ids: what the memory reads instead.
    """
    parts = {layer: block.before for layer, block in enumerate(model.blocks) if isinstance(block.before, Engram)}
    if not parts:
        raise BadInput("this decoder has no Engram before any block; make it with pre_block=engram_parts(...)")
    if ids.ndim != 1:
        raise BadInput(f"a gate map is of one text, ids [length], got {list(ids.shape)}")
    alpha: dict[int, np.ndarray] = {}

    def note(layer: int) -> Any:
        def hook(part: Engram, given: tuple[Tensor, Tensor]) -> None:
            alpha[layer] = part.gates(*given)[0].mean(-1).float().numpy(force=True)

        return hook

    hooks = [part.register_forward_pre_hook(note(layer)) for layer, part in parts.items()]
    was = model.training
    model.eval()
    try:
        model(ids[None], memory_ids=None if memory_ids is None else memory_ids[None])
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return GateMap(tuple(parts), np.stack([alpha[layer] for layer in parts]))
