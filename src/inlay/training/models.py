"""What is trained: texts → tokens → one pooled row → unit vectors, by head. `StaticBag` and `Transformer` are two.

A model is an `inlay.types.Encoder` as well, so that it can be measured, mined with and searched with at any moment of
its training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, longest_first, size_of, texts
from inlay.errors import BadInput
from inlay.training.views import Rendered
from inlay.types import Space

__all__ = ["Model", "rendered", "select", "unit"]

MAIN = "vector"  # the head that is the model's embedding


def unit(rows: Tensor) -> Tensor:
    """Rows scaled to unit length, in float32; zero rows stay zero."""
    return F.normalize(rows.float(), dim=-1, eps=1e-6)


def rendered(items: Sequence[str | Rendered]) -> tuple[list[str], list[int]]:
    """Texts that UTF-8 can hold, and how many characters of each stay out of the pooling."""
    return (
        texts([item if isinstance(item, str) else item.text for item in items]),
        [0 if isinstance(item, str) else item.hidden for item in items],
    )


class Model(nn.Module):
    """Base of the models: heads, pooling to unit vectors, and the encoder's two methods.

    A model defines `tokenize(texts) -> tokens` (a tuple of tensors with `.to(device)`), `pooled(tokens)` [n, dim],
    `blocks()` (layers from input to output, for the trainable selector) and `save(folder)`.

    Args:
        dim: width of the pooled row.
        heads: name → width of further outputs, each a linear map of the pooled row, without bias ("teacher": 384).
        prompts: texts put before queries and documents by `encode_query` and `encode_document`.
    """

    expensive = False

    def __init__(self, dim: int, heads: Mapping[str, int] | None = None, prompts: Mapping[str, str] | None = None):
        super().__init__()
        unknown = set(prompts or {}) - {"query", "document"}
        if unknown:
            raise BadInput(f"prompts are for 'query' and 'document', got {sorted(unknown)}")
        if MAIN in (heads or {}):
            raise BadInput(f"a head cannot be called {MAIN!r}: that is the pooled row itself")
        self.dim = int(dim)
        self.heads = nn.ModuleDict({name: nn.Linear(dim, width, bias=False) for name, width in (heads or {}).items()})
        self.prompts = {"query": "", "document": ""} | dict(prompts or {})

    def tokenize(self, items: Sequence[str | Rendered]) -> Any:
        """Tokens of a batch."""
        raise NotImplementedError

    def pooled(self, tokens: Any) -> Tensor:
        """One row for each text, [n, dim], of any length."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write the model so that inlay and sentence-transformers open it."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """Layers from input to output; empty where there are none."""
        return []

    def forward(self, tokens: Any) -> dict[str, Tensor]:
        """Unit rows by head: `vector` [n, dim] and every named head."""
        rows = self.pooled(tokens)
        return {MAIN: unit(rows)} | {name: unit(head(rows)) for name, head in self.heads.items()}

    def width(self, head: str = MAIN) -> int:
        """How wide the rows of a head are."""
        weight: Any = None if head == MAIN else self.heads[head].weight
        return self.dim if head == MAIN else int(weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @torch.no_grad()
    def encode(
        self, items: Sequence[str], *, batch_size: int | None = None, head: str = MAIN, progress: bool = False
    ) -> np.ndarray:
        """Unit rows float32 [n, dim] of a head, without gradient or dropout."""
        checked = texts(items)
        size = size_of(batch_size, 256)
        order = longest_first([len(text) for text in checked])
        training = self.training
        self.eval()
        found: list[Tensor] = []
        try:
            with bar(len(checked), progress=progress, what=type(self).__name__) as shown:
                for low in range(0, len(order), size):
                    part = order[low : low + size]
                    tokens = self.tokenize([checked[i] for i in part]).to(self.device)
                    found.append(self(tokens)[head].cpu())
                    shown.update(len(part))
        finally:
            self.train(training)
        width = self.width(head)
        rows = np.zeros((len(checked), width), dtype=np.float32)
        if found:
            rows[order] = torch.cat(found).numpy()
        return rows

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]; the document prompt goes first."""
        return self._prompted("document", items, batch_size, progress)

    def encode_query(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]; the query prompt goes first."""
        return self._prompted("query", items, batch_size, progress)

    def _prompted(self, role: str, items: Sequence[str], batch_size: int | None, progress: bool) -> np.ndarray:
        prompt = self.prompts[role]
        return self.encode([prompt + text for text in texts(items)], batch_size=batch_size, progress=progress)

    @property
    def space(self) -> Space:
        """The space of the weights as they are now: it changes with every step."""
        weights = (t.detach().cpu().contiguous().numpy() for _, t in sorted(self.state_dict().items()))
        return Space("dense", self.dim, "cosine", fingerprint(type(self).__name__, {"prompts": self.prompts}, weights))

    def num_parameters(self) -> int:
        """Learnt numbers."""
        return sum(p.numel() for p in self.parameters())


def select(model: Model, what: str) -> list[nn.Parameter]:
    """Choose what trains, and freeze everything else. Returns what trains.

    Args:
        model: the model.
        what: `full`; `heads`; `bitfit` (biases); `last(n)` or `freeze_first(n)` of the model's layers (the rest of
            the network above the input table trains with `freeze_first`); `regex:PATTERN` over parameter names.
            Joined by `+` they add up, as in `heads+last(3)`.
    """
    names = dict(model.named_parameters())
    chosen: set[str] = set()
    for part in what.split("+") if not what.startswith("regex:") else [what]:
        chosen |= _selected(model, part.strip(), names)
    if not chosen:
        raise BadInput(f"train={what!r} selects none of the model's {len(names)} parameters, e.g. {next(iter(names))}")
    for name, parameter in names.items():
        parameter.requires_grad_(name in chosen)
    return [names[name] for name in names if name in chosen]


def _selected(model: Model, what: str, names: dict[str, nn.Parameter]) -> set[str]:
    if what == "full":
        return set(names)
    if what == "heads":
        return {name for name in names if name.startswith("heads.")}
    if what == "bitfit":
        return {name for name in names if name.endswith("bias")}
    if what.startswith("regex:"):
        try:
            pattern = re.compile(what.removeprefix("regex:"))
        except re.error as error:
            raise BadInput(f"train={what!r} is not a regular expression: {error}") from None
        return {name for name in names if pattern.search(name)}
    match = re.fullmatch(r"(last|freeze_first)\((\d+)\)", what)
    if not match:
        raise BadInput(f"train={what!r}; it must be full, heads, bitfit, last(n), freeze_first(n) or regex:PATTERN")
    blocks, n = model.blocks(), int(match[2])
    if n > len(blocks):
        raise BadInput(f"train={what!r}, but the model has {len(blocks)} layers")
    held = {id(p): number for number, block in enumerate(blocks) for p in block.parameters()}
    if match[1] == "last":
        return {name for name, p in names.items() if held.get(id(p), -1) >= len(blocks) - n}
    first = min((i for i, p in enumerate(names.values()) if id(p) in held), default=0)
    # What stands before the first layer is the input table: frozen together with the first layers. Heads come last.
    return {
        name
        for i, (name, p) in enumerate(names.items())
        if (held[id(p)] >= n if id(p) in held else i > first or name.startswith("heads."))
    }
