"""Any model that sentence-transformers runs, as an encoder. Offline first: nothing is fetched unless asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import size_of, spans, texts
from inlay.errors import BadInput, MissingExtra, Offline
from inlay.types import Space

__all__ = ["SentenceTransformers"]

BATCH = 32


class SentenceTransformers:
    """A sentence-transformers model.

    Args:
        model: a folder, or the name of a model that is in the local cache.
        download: fetch the model if it is not in the cache.
        device: `cpu`, `cuda`, …; None lets the library choose.
        dim: keep the first `dim` coordinates (for models trained to be cut, "Matryoshka").
        revision: commit or tag of a model that is fetched by name.
        trust_remote_code: run code that comes with the model.
    """

    expensive = True

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        download: bool = False,
        device: str | None = None,
        dim: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtra("sentence-transformers models", "st") from None
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim < 1):
            raise BadInput(f"dim must be a positive integer or None, got {dim!r}")
        local = os.path.expanduser(os.fspath(model))
        self.model = os.path.abspath(local) if os.path.isdir(local) else os.fspath(model)
        self.device, self.revision, self.trust_remote_code = device, revision, trust_remote_code
        try:
            self._model: Any = SentenceTransformer(
                self.model,
                device=device,
                revision=revision,
                truncate_dim=dim,
                trust_remote_code=trust_remote_code,
                local_files_only=not download,
            )
        except OSError as error:
            if download or os.path.isdir(self.model):
                raise BadInput(f"cannot load {self.model!r}: {error}") from error
            raise Offline(
                f"the model {self.model!r} is not on this machine; pass download=True "
                f"(inlay.encoder('st:{self.model}', download=True)) to fetch it once"
            ) from error
        width = getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        full = width()
        if full is None:
            full = len(self._model.encode(["a"], convert_to_numpy=True)[0])
        self.dim = dim
        settings = {
            "dim": dim,
            "max_length": getattr(self._model, "max_seq_length", None),
            "prompts": dict(getattr(self._model, "prompts", None) or {}),
            "default_prompt": getattr(self._model, "default_prompt_name", None),
        }
        self.space = Space(
            "dense", min(dim or full, full), "cosine", fingerprint("st", settings, _weights(self._model))
        )

    def __repr__(self) -> str:
        return f"SentenceTransformers({self.model!r}, dim={self.space.dim})"

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of `inlay.encoder` that make this encoder again (by then it is in the cache: no download)."""
        spec: dict[str, Any] = {"name": "st", "model": self.model}
        options = {"device": self.device, "dim": self.dim, "revision": self.revision}
        spec |= {name: value for name, value in options.items() if value is not None}
        return spec | ({"trust_remote_code": True} if self.trust_remote_code else {})

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]."""
        return self._encode(items, "document", batch_size, progress)

    def encode_query(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]; the model's query prompt goes first, if it has one."""
        return self._encode(items, "query", batch_size, progress)

    def _encode(self, items: Sequence[str], role: str, batch_size: int | None, progress: bool) -> np.ndarray:
        checked = texts(items)
        encode, options = getattr(self._model, f"encode_{role}", None), {}
        if encode is None:  # sentence-transformers before 5
            encode = self._model.encode
            if role in (getattr(self._model, "prompts", None) or {}):
                options = {"prompt_name": role}
        # The library sorts by length within a call, so each call gets many batches.
        size = size_of(batch_size, BATCH)
        rows = np.zeros((len(checked), self.space.dim), dtype=np.float32)
        for part in spans(len(checked), 32 * size, BATCH, progress=progress, what=os.path.basename(self.model)):
            rows[part] = encode(
                checked[part], batch_size=size, show_progress_bar=False, convert_to_numpy=True, **options
            )
        return rows


def _weights(model: Any) -> Iterator[str | np.ndarray]:
    """Names and bytes of all weights, in order of name."""
    for name, tensor in sorted(model.state_dict().items()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}"
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if not flat.numel():
            continue
        import torch

        yield flat.view(torch.uint8).numpy()  # as bytes: numpy has no bfloat16
