"""A sparse head on a dense encoder: high-dimensional rows that are mostly zero, made of short ones that are not.

The network of "Minimizing FLOPs to Learn Efficient Sparse Representations" (arXiv 2004.05665): a linear map from the
dense width to many dimensions, an activation that gives zeros, unit length. The dense encoder stays as it is, so its
rows are made once for each text, and a head is learnt in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from inlay import sealed
from inlay.encoders.items import texts
from inlay.errors import BadInput, SpaceMismatch
from inlay.training.models import rendered
from inlay.training.sparse_rows import ACTIVATIONS, SparseModel
from inlay.training.views import Rendered
from inlay.types import Encoder

__all__ = ["HeadRows", "SparseHead"]

KIND = "sparse head"


class HeadRows(NamedTuple):
    """Dense rows of texts [n, width]: what stands for tokens here."""

    rows: Tensor

    def to(self, device: torch.device) -> HeadRows:
        """The same on another device."""
        return HeadRows(self.rows.to(device))

    @property
    def total(self) -> int:
        """Texts."""
        return len(self.rows)


class SparseHead(SparseModel):
    """activation(W · encoder(text) + b), scaled to unit length.

    Args:
        encoder: makes the dense rows; frozen.
        dim: columns, several times the encoder's width. The paper has 1,024 on faces.
        activation: `relu`, `relu6`, `soft_threshold` (keeps signs) or `log1p_relu`.
        normalise: scale rows to unit length, as the paper does before it regularises.
        keep: remember the encoder's rows of every text that was asked for while training.
    """

    def __init__(
        self, encoder: Encoder, dim: int = 2048, *, activation: str = "relu", normalise: bool = True, keep: bool = True
    ) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise BadInput(f"dim must be a positive whole number, got {dim!r}")
        if activation not in ACTIVATIONS:
            raise BadInput(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if not isinstance(encoder, Encoder) or encoder.space.kind != "dense":
            raise BadInput(f"a sparse head stands on an encoder of dense rows, got {encoder!r}")
        super().__init__(dim, normalise=normalise)
        self.encoder, self.activation, self.keep = encoder, activation, bool(keep)
        self.map = nn.Linear(encoder.space.dim, dim)
        # Unit rows in: with deviation 1, what comes out has deviation 1, which is what activations are made for.
        nn.init.normal_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self._kept: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"SparseHead({self.encoder!r}, dim={self.dim}, activation={self.activation!r})"

    def blocks(self) -> list[nn.Module]:
        """The map."""
        return [self.map]

    def remember(self, items: Sequence[str], rows: np.ndarray | None = None) -> None:
        """Make the encoder's rows of texts now, in one go; or take them, float32 [n, width], from who made them."""
        given = texts(items)
        if rows is None:
            given = [text for text in dict.fromkeys(given) if text not in self._kept]
            if not given:
                return
            rows = np.asarray(self.encoder.encode_document(given))
        if rows.shape != (len(given), self.map.in_features) or not np.isfinite(rows).all():
            raise BadInput(f"{len(given)} texts need finite rows of {self.map.in_features}, got {list(rows.shape)}")
        self._kept.update(zip(given, rows.astype(np.float32, copy=False)))

    def tokenize(self, items: Sequence[str | Rendered]) -> HeadRows:
        """The encoder's rows of texts. A hidden prefix cannot be left out of them, and is refused."""
        held, hidden = rendered(items)
        if any(hidden):
            raise BadInput("a sparse head cannot hide a prefix from its encoder; use a view that pools it")
        if self.keep and self.training:
            self.remember(held)
        if held and all(text in self._kept for text in held):
            return HeadRows(torch.from_numpy(np.stack([self._kept[text] for text in held])))
        return HeadRows(torch.from_numpy(np.asarray(self.encoder.encode_document(held), dtype=np.float32)))

    def pooled(self, tokens: HeadRows) -> Tensor:
        """Activations [n, dim]."""
        return ACTIVATIONS[self.activation](self.map(tokens.rows))

    def save(self, folder: str | Path) -> None:
        """Write `head.safetensors`: the head alone, and whose rows it stands on."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        arrays = {name: t.detach().cpu().numpy() for name, t in self.state_dict().items()}
        facts = {"kind": KIND, "activation": self.activation, "normalise": self.normalise}
        sealed.write(Path(folder) / "head.safetensors", arrays, facts | {"on": self.encoder.space.fingerprint})

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder, **options: Any) -> SparseHead:
        """Read what `save` wrote, on the encoder it was learnt on."""
        arrays, facts = sealed.read(Path(folder) / "head.safetensors", KIND)
        if facts["on"] != encoder.space.fingerprint:
            raise SpaceMismatch(f"the head in {folder} stands on {facts['on']}, not on {encoder.space.fingerprint}")
        kept = {"activation": facts["activation"], "normalise": facts["normalise"]}
        model = cls(encoder, len(arrays["map.weight"]), **kept, **options)
        model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        return model
