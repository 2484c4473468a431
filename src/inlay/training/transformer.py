"""A transformer encoder from a local Hugging Face folder: some of its layers, a smaller vocabulary table, pooling."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inlay.encoders.model_folder import ModelFolder
from inlay.errors import BadInput, MissingExtra
from inlay.training.models import Model, rendered
from inlay.training.tables import compressed
from inlay.training.views import Rendered

__all__ = ["Transformer", "TransformerTokens"]

POOLINGS = ("mean", "cls")


class TransformerTokens(NamedTuple):
    """int64 ids, attention and pooling mask, each [n, length], padded on the right."""

    ids: Tensor
    mask: Tensor
    pool: Tensor

    def to(self, device: torch.device) -> TransformerTokens:
        """The same on another device."""
        return TransformerTokens(self.ids.to(device), self.mask.to(device), self.pool.to(device))

    @property
    def total(self) -> int:
        """Tokens in all, padding left out."""
        return int(self.mask.sum())


class Transformer(Model):
    """A backbone, pooled.

    Args:
        path: folder with config.json, weights and a tokenizer. Nothing is fetched.
        layers: numbers of the layers to keep, from 0; all of them if None. `[0, 2, 5]` of six makes a student of half
            the depth that starts from its teacher.
        table: compress the vocabulary table: `product(PARTS[, CENTRES])` or `low_rank(RANK)`; rows keep their width.
        pooling: `mean` or `cls`; from the folder, otherwise `mean`.
        heads: further outputs, name → width.
        max_length: tokens after which a text is cut; from the folder.
        prompts: as in `Model`.
        random: start from random weights of the folder's configuration.
        config: changes to the configuration, with `random` (hidden_size, …).
    """

    expensive = True

    def __init__(
        self,
        path: str | Path,
        *,
        layers: Sequence[int] | None = None,
        table: str | None = None,
        pooling: str | None = None,
        heads: Mapping[str, int] | None = None,
        max_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        random: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        if not (self.path / "config.json").is_file():
            raise BadInput(f"{self.path} holds no config.json: give the folder of a Hugging Face model on this machine")
        if config and not random:
            raise BadInput("config changes the shape of the network, so it needs random=True")
        backbone: Any = _backbone(self.path, random, dict(config or {}))
        settings = ModelFolder.read(self.path)
        super().__init__(backbone.config.hidden_size, heads, prompts)
        self.pooling = pooling or settings.pooling or "mean"
        if self.pooling not in POOLINGS:
            raise BadInput(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        self.backbone: Any = backbone
        if layers is not None:
            self._keep(list(layers))
        self.table = table
        if table is not None:
            dense = backbone.get_input_embeddings()
            backbone.set_input_embeddings(compressed(dense.weight, table))
        self.max_length = min(max_length or settings.max_length, settings.max_length)
        self._tokenizer, self._pad = _tokenizer(self.path, self.max_length), settings.pad

    def __repr__(self) -> str:
        millions = self.num_parameters() / 1e6
        what = f"layers={len(self.blocks())}, dim={self.dim}, {millions:.1f}M parameters"
        return f"Transformer({str(self.path)!r}, {what})"

    def _stack(self) -> tuple[nn.Module, str]:
        """The module that holds the list of layers, and the list's name in it."""
        found = [
            (module, name)
            for module in self.backbone.modules()
            for name, child in module.named_children()
            if isinstance(child, nn.ModuleList) and name in ("layer", "layers", "h", "block")
        ]
        if not found:
            raise BadInput(f"cannot find the layers of a {type(self.backbone).__name__}")
        return max(found, key=lambda pair: len(getattr(*pair)))

    def blocks(self) -> list[nn.Module]:
        """The layers, from the input on."""
        return list(getattr(*self._stack()))

    def _keep(self, layers: list[int]) -> None:
        there = self.blocks()
        if not layers or sorted(set(layers)) != layers or layers[0] < 0 or layers[-1] >= len(there):
            raise BadInput(f"layers must be rising numbers from 0 to {len(there) - 1}, got {layers}")
        setattr(*self._stack(), nn.ModuleList([there[i] for i in layers]))
        self.backbone.config.num_hidden_layers = len(layers)

    def tokenize(self, items: Sequence[str | Rendered]) -> TransformerTokens:
        """Ids, padded to the longest text of the batch; tokens of a hidden prefix are left out of the pooling."""
        held, hidden = rendered(items)
        found = self._tokenizer.encode_batch(held)
        width = max((len(e.ids) for e in found), default=0)
        ids = torch.full((len(found), width), self._pad)
        mask, pool = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, (encoded, skip) in enumerate(zip(found, hidden)):
            n = len(encoded.ids)
            ids[i, :n] = torch.tensor(encoded.ids, dtype=torch.long)
            mask[i, :n] = 1
            pool[i, :n] = 1
            if skip:  # [CLS] stands at (0, 0); it and the prefix are read but not averaged
                kept = [int(stop > skip) for _, stop in encoded.offsets]
                pool[i, :n] = torch.tensor(kept) if any(kept) else 1
        return TransformerTokens(ids, mask, pool)

    def pooled(self, tokens: TransformerTokens) -> Tensor:
        """Mean of the tokens to be pooled, or the first token's state [n, dim]."""
        states = self.backbone(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state
        if self.pooling == "cls":
            return states[:, 0]
        weight = tokens.pool[..., None].to(states)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)

    def save(self, folder: str | Path) -> None:
        """Write sentence-transformers' layout. A compressed table is written out in full, as that layout wants."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        backbone = self.backbone
        if self.table is not None:
            table = backbone.get_input_embeddings()
            dense = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
            backbone.set_input_embeddings(dense)
            try:
                copy.deepcopy(backbone).save_pretrained(folder)
            finally:
                backbone.set_input_embeddings(table)
        else:
            backbone.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, folder / name)
        if not (folder / "tokenizer.json").exists():
            self._tokenizer.save(str(folder / "tokenizer.json"))
        pooling = {
            "word_embedding_dimension": self.dim,
            "pooling_mode_cls_token": self.pooling == "cls",
            "pooling_mode_mean_tokens": self.pooling == "mean",
        }
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        rows = [
            {"idx": i, "name": str(i), "path": where, "type": f"sentence_transformers.models.{kind}"}
            for i, (where, kind) in enumerate(modules)
        ]
        files = {
            "modules.json": rows,
            "sentence_bert_config.json": {"max_seq_length": self.max_length, "do_lower_case": False},
            "1_Pooling/config.json": pooling,
            "config_sentence_transformers.json": {"prompts": self.prompts},
        }
        (folder / "2_Normalize").mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _backbone(path: Path, random: bool, changes: dict[str, Any]) -> Any:
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise MissingExtra("transformer students", "train") from None
    options: dict[str, Any] = {"local_files_only": True}
    try:
        if random:
            made = AutoModel.from_config(AutoConfig.from_pretrained(path, **options, **changes))
        else:
            made = AutoModel.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot load {path}: {error}") from error
    if made.config.model_type in ("bert", "roberta", "xlm-roberta", "camembert", "mpnet"):
        made.pooler = None  # a layer over [CLS] that no sentence encoder uses
    return made


def _tokenizer(path: Path, max_length: int) -> Any:
    if (path / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(path / "tokenizer.json"))
    else:
        from transformers import AutoTokenizer

        made = AutoTokenizer.from_pretrained(path, local_files_only=True).backend_tokenizer
    made.no_padding()
    made.enable_truncation(max_length)
    return made
