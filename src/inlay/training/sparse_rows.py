"""Models whose rows are sparse: what they share, and the activations that make the zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, longest_first, size_of, texts
from inlay.encoders.splade import joined
from inlay.errors import BadInput
from inlay.training.models import MAIN, Model, unit
from inlay.types import Space, Sparse

__all__ = ["ACTIVATIONS", "SparseModel", "soft_threshold"]


def soft_threshold(rows: Tensor, threshold: float = 0.5) -> Tensor:
    """sign(z) · ReLU(|z| − threshold): sparse rows that keep signs."""
    return rows.sign() * torch.relu(rows.abs() - threshold)


def log1p_relu(rows: Tensor) -> Tensor:
    """log(1 + ReLU(z)), SPLADE's: a term said loudly does not drown the others."""
    return torch.log1p(torch.relu(rows))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": lambda rows: rows.clamp(0, 6),
    "soft_threshold": soft_threshold,
    "log1p_relu": log1p_relu,
}


class SparseModel(Model):
    """A model that gives `Sparse` rows, compared by dot product.

    In training its rows are dense tensors with zeros in them, and losses see them as they are: unless `normalise`, a
    score is a dot product without bound, and `InfoNCE(tau=1)` fits where unit rows want 0.05.

    Args:
        dim: columns.
        normalise: scale rows to unit length.
        prompts: as in `Model`.
    """

    def __init__(self, dim: int, *, normalise: bool = False, prompts: Mapping[str, str] | None = None) -> None:
        super().__init__(dim, prompts=prompts)
        self.normalise = bool(normalise)

    def forward(self, tokens: Any) -> dict[str, Tensor]:
        """Rows [n, dim] as `vector`."""
        rows = self.pooled(tokens)
        return {MAIN: unit(rows) if self.normalise else rows.float()}

    @torch.no_grad()
    def encode(  # type: ignore[override]
        self, items: Sequence[str], *, batch_size: int | None = None, head: str = MAIN, progress: bool = False
    ) -> Sparse:
        """Rows [n, dim], without gradient or dropout."""
        if head != MAIN:
            raise BadInput(f"a sparse model has no head {head!r}, only {MAIN!r}")
        checked, size = texts(items), size_of(batch_size, 64)
        order = longest_first([len(text) for text in checked])
        training = self.training
        self.eval()
        parts: list[Sparse] = []
        try:
            with bar(len(checked), progress=progress, what=type(self).__name__) as shown:
                for low in range(0, len(order), size):
                    part = order[low : low + size]
                    tokens = self.tokenize([checked[i] for i in part]).to(self.device)
                    parts.append(Sparse.from_dense(self(tokens)[MAIN].cpu().numpy()))
                    shown.update(len(part))
        finally:
            self.train(training)
        back = sorted(range(len(order)), key=order.__getitem__)
        return joined(parts, self.dim)[back]

    def encode_document(self, *given: Any, **options: Any) -> Sparse:  # type: ignore[override]
        """Rows [n, dim]; the document prompt goes first."""
        return super().encode_document(*given, **options)  # type: ignore[return-value]

    def encode_query(self, *given: Any, **options: Any) -> Sparse:  # type: ignore[override]
        """Rows [n, dim]; the query prompt goes first."""
        return super().encode_query(*given, **options)  # type: ignore[return-value]

    @property
    def space(self) -> Space:
        """The space of the weights as they are now: it changes with every step."""
        weights = (t.detach().cpu().contiguous().numpy() for _, t in sorted(self.state_dict().items()))
        settings = {"prompts": self.prompts, "normalise": self.normalise}
        return Space("sparse", self.dim, "dot", fingerprint(type(self).__name__, settings, weights))
