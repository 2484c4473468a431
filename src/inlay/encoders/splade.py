"""SPLADE: a text as weighted terms of a vocabulary, those it says and those it might as well have said.

    w_j = max over tokens i of log(1 + ReLU(logit_ij))

Formal et al. 2021, "SPLADE v2" (arXiv 2109.10086). A folder holds either of two kinds. A masked language model (extra
`train`), whose logits depend on the whole text: any published SPLADE folder will do. Or a table of token expansions,
which needs numpy only and is as quick as looking words up. `inlay.training.Splade` makes both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.encoders.expansions import FILE, Expansions
from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, longest_first, size_of, texts
from inlay.errors import BadInput, MissingExtra
from inlay.types import Space, Sparse

__all__ = ["Splade", "joined", "write_prompts"]


class Splade:
    """A sparse encoder; nearness is the dot product, and rows have no particular length.

    A text without known tokens gets an empty row. A masked language model marks the ends of every text, as SPLADE does.

    Args:
        path: folder that `inlay.training.Splade.save` wrote, or that of a masked language model; or `Expansions`.
        max_length: tokens after which a text is cut; from the folder.
        prompts: in place of the folder's, texts put before "query" and "document".
    """

    def __init__(
        self, path: str | Path | Expansions, *, max_length: int | None = None, prompts: Mapping[str, str] | None = None
    ) -> None:
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise BadInput(f"max_length must be a positive whole number or None, got {max_length!r}")
        unknown = set(prompts or {}) - {"query", "document"}
        if unknown:
            raise BadInput(f"prompts are for 'query' and 'document', got {sorted(unknown)}")
        self._options = {"max_length": max_length, "prompts": None if prompts is None else dict(prompts)}
        self.path: str | None = None
        self._network: Any = path
        if not isinstance(path, Expansions):
            folder = Path(path).expanduser().absolute()
            self.path = str(folder)
            self._network = Expansions.load(folder) if (folder / FILE).is_file() else _masked_lm(folder, max_length)
        self.expensive = not isinstance(self._network, Expansions)
        self.prompts = self._network.prompts | dict(prompts or {})
        if isinstance(self._network, Expansions):
            held = self._network
            self._network = Expansions(
                held.rows, held.vocabulary, held.columns, prompts=self.prompts,
                max_length=min(max_length or held.max_length, held.max_length),
            )  # fmt: skip
            weights: list[Any] = [array for _, array in sorted(held.arrays().items())]
            dim, settings = held.dim, self._network.settings
            self.tokens = [held.vocabulary[column] for column in held.columns.tolist()]
        else:
            state = sorted(self._network.state_dict().items())
            weights = [tensor.contiguous().numpy() for _, tensor in state]
            weights.append((Path(self._network.path) / "tokenizer.json").read_bytes())
            dim, self.tokens = len(self._network.decoder.weight), self._network.vocabulary()
            settings = {"max_length": self._network.max_length, "prompts": self.prompts}
        self.space = Space("sparse", dim, "dot", fingerprint("splade", settings, weights))

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Splade:
        """The same as `Splade(path)`."""
        return cls(path, **options)

    def __repr__(self) -> str:
        kind = "masked LM" if self.expensive else "token expansions"
        return f"Splade({self.path!r}, {kind}, dim={self.space.dim})"

    @property
    def spec(self) -> dict[str, Any] | None:
        """Arguments of `inlay.encoder` that make this encoder again; None until it is in a folder (`save`)."""
        given = {name: value for name, value in self._options.items() if value is not None}
        return {"name": "splade", "path": self.path} | given if self.path else None

    def encode_document(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Sparse:
        """Rows [n, dim] of documents."""
        return self._encode("document", items, batch_size, progress)

    def encode_query(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Sparse:
        """Rows [n, dim] of queries."""
        return self._encode("query", items, batch_size, progress)

    def explain(self, row: Sparse, most: int = 20) -> list[tuple[str, float]]:
        """The heaviest terms of a row, as (token, weight)."""
        if len(row) != 1 or row.shape[1] != self.space.dim:
            raise BadInput(f"explain one row of {self.space.dim} columns at a time, got shape {list(row.shape)}")
        order = np.argsort(-row.data, kind="stable")[:most]
        return [(self.tokens[row.indices[i]], float(row.data[i])) for i in order]

    def save(self, path: str | Path) -> None:
        """Write a folder that `load` reads."""
        self._network.save(path)
        if self.expensive:
            write_prompts(Path(path), self.prompts)
        self.path = str(Path(path).absolute())

    def _encode(self, role: str, items: Sequence[str], batch_size: int | None, progress: bool) -> Sparse:
        checked = [self.prompts[role] + text if text else text for text in texts(items)]
        size = size_of(batch_size, 16 if self.expensive else 1024)
        order = longest_first([len(text) for text in checked]) if self.expensive else list(range(len(checked)))
        parts: list[Sparse] = []
        with bar(len(checked), progress=progress, what="splade") as shown:
            for low in range(0, len(order), size):
                part = [checked[i] for i in order[low : low + size]]
                parts.append(_rows(self._network, part) if self.expensive else self._network.encode(part))
                shown.update(len(part))
        return joined(parts, self.space.dim)[np.argsort(order, kind="stable")]


def _masked_lm(folder: Path, max_length: int | None) -> Any:
    try:
        from inlay.encoders.masked_lm import MaskedLM
    except ImportError:
        raise MissingExtra("SPLADE by a masked language model", "train") from None
    return MaskedLM(folder, max_length=max_length)


def _rows(network: Any, part: Sequence[str]) -> Sparse:
    import torch

    from inlay.encoders.masked_lm import highest

    with torch.inference_mode():
        ids, mask, pool = network.ids(part)
        logits = highest(network.states(ids, mask), pool.bool(), network.decoder.weight) + network.offset
        return Sparse.from_dense(torch.log1p(torch.relu(logits)).numpy())


def joined(parts: Sequence[Sparse], dim: int) -> Sparse:
    """Rows of several parts [n, dim], one after another."""
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(np.diff(part.indptr) for part in parts)])
    indptr = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    indices = np.concatenate([np.zeros(0, dtype=np.int32), *(part.indices for part in parts)])
    data = np.concatenate([np.zeros(0, dtype=np.float32), *(part.data for part in parts)])
    return Sparse(indptr, indices, data, (len(lengths), dim))


def write_prompts(folder: Path, prompts: Mapping[str, str]) -> None:
    """Keep prompts beside a model, where sentence-transformers keeps them."""
    import json

    text = json.dumps({"prompts": dict(prompts)}, ensure_ascii=False, indent=2) + "\n"
    (folder / "config_sentence_transformers.json").write_text(text, encoding="utf-8")
