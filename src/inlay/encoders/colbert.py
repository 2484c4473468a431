"""ColBERT: a vector for each token, compared by MaxSim.

Khattab and Zaharia 2020 (arXiv 2004.12832); Santhanam et al. 2022, "ColBERTv2" (arXiv 2112.01488). A BERT reads
`[CLS] [Q] tokens [SEP]` or `[CLS] [D] tokens [SEP]`, a linear map brings each state to 128 numbers, and these to length
1. A query is filled up with `[MASK]` to 32 tokens ("query augmentation"), whose vectors count like others: the model
learnt to put there what it might have been asked. Of a document the vectors of punctuation are left out, after the
model has read it.

Folders of colbert-ir, PyLate and sentence-transformers (`MultiVectorEncoder`) are read; see
`inlay.encoders.colbert_folder` for what each says, and what is assumed where it says nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.encoders.colbert_folder import ColBERTFolder
from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, longest_first, size_of, texts
from inlay.encoders.model_folder import _read
from inlay.errors import BadInput, MissingExtra, Offline
from inlay.types import Ragged, Space

__all__ = ["ColBERT"]

BATCH = 32
MASKS = ("[MASK]", "<mask>")


class ColBERT:
    """A trained late-interaction model.

    A text without words still has the vectors of its ends and marker.

    Args:
        path: folder of the model, or the name of one that is in the local cache of the Hugging Face hub. Nothing is
            fetched.
        query_length: tokens of a query; from the folder. Where queries are filled up to a fixed length, this is it.
        document_length: tokens after which a document is cut; from the folder.
        device: `cpu` or `cuda`.
    """

    expensive = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        query_length: int | None = None,
        document_length: int | None = None,
        device: str = "cpu",
    ) -> None:
        for name, number in (("query_length", query_length), ("document_length", document_length)):
            if number is not None and (type(number) is not int or number < 1):
                raise BadInput(f"{name} must be a positive whole number or None, got {number!r}")
        self.path, root = _found(path)
        folder = ColBERTFolder.read(root)
        if not (folder.transformer / "config.json").is_file() or not (folder.transformer / "tokenizer.json").is_file():
            raise BadInput(f"{folder.transformer} must hold config.json and tokenizer.json: give a ColBERT's folder")
        try:
            import torch

            from inlay.encoders.marked_tokens import MarkedTokens
            from inlay.encoders.projected_states import ProjectedStates
        except ImportError:
            raise MissingExtra("ColBERT models", "st") from None
        network = ProjectedStates(folder)
        self._given: dict[str, Any] = {"query_length": query_length, "document_length": document_length}
        queries, self.expansion = _of_queries(folder, query_length, network.positions)
        self.lengths = {
            "query": queries,
            "document": _at_most(document_length, folder.document_length, network.positions, "document_length"),
        }
        file = folder.transformer / "tokenizer.json"
        self._tokens = {
            role: MarkedTokens(file, marker=folder.markers[role], prompt=folder.prompts[role], length=length)
            for role, length in self.lengths.items()
        }
        known = self._tokens["query"].numbers
        self._skipped = {
            role: np.array(known(folder.skipped) if role in folder.skipped_of else [], dtype=np.int64)
            for role in self.lengths
        }
        self._pad, self._attend = int(getattr(network.lm.config, "pad_token_id", None) or 0), folder.attend
        self._filler = self._pad
        if self.expansion:
            token = folder.expansion_token
            numbers = known([token] if token else _masks(folder.transformer))
            if not numbers:
                raise BadInput(f"{file} has no {token or 'mask token'}, with which {root} fills queries up")
            self._filler = numbers[0]
        settings = {
            "lengths": self.lengths,
            "expansion": [self.expansion, self._filler, folder.attend],
            "markers": folder.markers,
            "prompts": folder.prompts,
            "skipped": {role: sorted(numbers.tolist()) for role, numbers in self._skipped.items()},
        }
        weights = [*network.weights(), file.read_bytes()]
        self.space = Space("multi", network.dim, "dot", fingerprint("colbert", settings, weights))
        try:
            self.device = str(torch.device(device))
            self._network = network.to(self.device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise BadInput(f"device {device!r} cannot be used here: {error}") from None

    def __repr__(self) -> str:
        return f"ColBERT({self.path!r}, dim={self.space.dim})"

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments from which `inlay.encoder` makes it again."""
        given = {name: value for name, value in self._given.items() if value is not None}
        given |= {} if self.device == "cpu" else {"device": self.device}
        return {"name": "colbert", "path": self.path} | given

    def encode_document(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Ragged:
        """Unit vectors of every token but punctuation, float32 [tokens, dim] of each text."""
        return self._encode("document", items, batch_size, progress)

    def encode_query(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Ragged:
        """Unit vectors of every token and of what a query is filled up with."""
        return self._encode("query", items, batch_size, progress)

    def _encode(self, role: str, items: Sequence[str], batch_size: int | None, progress: bool) -> Ragged:
        import torch

        checked, size = texts(items), size_of(batch_size, BATCH)
        found = [np.empty((0, self.space.dim), dtype=np.float32)] * len(checked)
        order = longest_first([len(text) for text in checked])
        with bar(len(checked), progress=progress, what="colbert") as shown:
            for low in range(0, len(order), size):
                some = order[low : low + size]
                ids, mask, kept = self._padded(role, self._tokens[role]([checked[i] for i in some]))
                with torch.inference_mode():
                    rows = self._network(*(torch.from_numpy(one).to(self.device) for one in (ids, mask)))
                for i, own, keep in zip(some, rows.cpu().numpy(), kept):
                    found[i] = own[keep]
                shown.update(len(some))
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in found])]).astype(np.int64)
        return Ragged(np.concatenate([np.empty((0, self.space.dim), np.float32), *found]), offsets)

    def _padded(self, role: str, tokens: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token numbers and attention mask, int64 [n, length], and whose vectors count, bool [n, length]."""
        filled = self.expansion if role == "query" else 0
        ids = np.full((len(tokens), max(filled, *(len(own) for own in tokens))), self._pad, dtype=np.int64)
        ids[:, :filled] = self._filler
        mask, kept = np.zeros_like(ids), np.zeros(ids.shape, dtype=bool)
        mask[:, :filled], kept[:, :filled] = self._attend, True
        for i, own in enumerate(tokens):
            ids[i, : len(own)], mask[i, : len(own)], kept[i, : len(own)] = own, 1, True
        return ids, mask, kept & ~np.isin(ids, self._skipped[role])


def _found(path: str | os.PathLike[str]) -> tuple[str, Path]:
    """What to remember as the model's path, and its folder."""
    if not isinstance(path, str | os.PathLike):
        raise BadInput(f"path must be a folder or the name of a model, got {type(path).__name__}")
    folder = Path(path).expanduser().absolute()
    if folder.is_dir():
        return str(folder), folder
    name = os.fspath(path)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise BadInput(f"there is no folder {folder}; give the folder of a ColBERT model, or its name on the hub")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtra("ColBERT models", "st") from None
    try:
        return name, Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        raise Offline(
            f"there is no folder {folder}, and no model {name!r} in the local cache; fetch it once with: "
            f"hf download {name}"
        ) from None


def _of_queries(folder: ColBERTFolder, given: int | None, positions: int | None) -> tuple[int, int]:
    """Tokens of a query at most, and at least where it is filled up."""
    most = _at_most(given, folder.query_length, positions, "query_length")
    if not folder.expansion or folder.expansion == folder.query_length:
        return most, most if folder.expansion else 0
    if most < folder.expansion:
        raise BadInput(f"query_length {most} is below the {folder.expansion} tokens to which queries are filled up")
    return most, folder.expansion


def _at_most(given: int | None, said: int, positions: int | None, name: str) -> int:
    if given is not None and positions is not None and given > positions:
        raise BadInput(f"{name} {given} is more than the {positions} tokens that the model reads")
    return given or min(said, positions or said)


def _masks(folder: Path) -> list[str]:
    """Names the mask token may have: the one that the tokenizer's settings say comes first."""
    said = []
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(folder / file, {}).get("mask_token")
        token = token.get("content") if isinstance(token, dict) else token
        said += [token] if isinstance(token, str) else []
    return [*said, *MASKS]
