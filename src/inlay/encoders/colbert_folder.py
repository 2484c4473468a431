"""What the files beside a late-interaction model say: markers, lengths, query augmentation, what is skipped.

Two layouts are read. *colbert-ir*: one checkpoint with the transformer and `linear.weight`, settings in
`artifact.metadata`. *sentence-transformers*, in which PyLate writes too: `modules.json` names a Transformer and Dense
layers with a folder each, settings are in `config_sentence_transformers.json` (PyLate up to 3) or beside the modules
(MultiVectorEncoder). A folder with both is read as the second, as sentence-transformers does.

Taken from how sentence-transformers 6.2 reads the same folders. Not confirmed by a published file: what holds where a
file is silent. Here a colbert-ir folder without `artifact.metadata` augments queries to 32 without attention, cuts
documents at 180 and skips punctuation; a PyLate folder the same.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.encoders.model_folder import ModelFolder, _read
from inlay.errors import BadInput, Corrupt

__all__ = ["ColBERTFolder"]

QUERY_LENGTH, DOCUMENT_LENGTH = 32, 180
SETTINGS = "config_sentence_transformers.json"
KNOWN = ("Transformer", "Dense", "MultiVectorMask", "Normalize")
_PYLATE = (
    "query_prefix", "document_prefix", "query_length", "document_length", "attend_to_expansion_tokens",
    "do_query_expansion", "skiplist_words",
)  # fmt: skip


@dataclass(frozen=True)
class ColBERTFolder:
    """Settings of a late-interaction model.

    Args:
        transformer: folder of the transformer and its tokenizer.
        layers: folders of what projects its states, in order; none where `linear.weight` is in the checkpoint.
        query_length: tokens of a query at most, with its ends and marker.
        document_length: the same of a document.
        expansion: tokens to which shorter queries are filled up; 0 where they are not.
        attend: whether the transformer sees what was filled up.
        expansion_token: what it is filled up with; None takes the tokenizer's mask.
        markers: of "query" and "document", put behind the first token as one token if the vocabulary has it.
        prompts: of "query" and "document", text put before the text.
        skipped: tokens whose vectors are left out.
        skipped_of: "document", "query" or both.
    """

    transformer: Path
    layers: tuple[Path, ...]
    query_length: int
    document_length: int
    expansion: int
    attend: bool
    expansion_token: str | None
    markers: dict[str, str]
    prompts: dict[str, str]
    skipped: tuple[str, ...]
    skipped_of: tuple[str, ...]

    @classmethod
    def read(cls, root: Path) -> ColBERTFolder:
        """The settings of a folder in either layout."""
        if not (root / "modules.json").is_file():
            return cls._colbert_ir(root)
        modules = _read(root / "modules.json", [])
        kinds = [(str(one.get("type", "")).rpartition(".")[2], root / str(one.get("path", ""))) for one in modules]
        foreign = [kind for kind, _ in kinds if kind not in KNOWN]
        if foreign or [kind for kind, _ in kinds].count("Transformer") != 1:
            raise BadInput(
                f"{root} is made of {', '.join(kind for kind, _ in kinds) or 'nothing'}; a late-interaction model is "
                f"one Transformer with {', '.join(KNOWN[1:])} behind it"
            )
        layers = tuple(path for kind, path in kinds if kind == "Dense")
        if not layers:
            raise BadInput(f"{root} has no Dense layer; a model for whole texts is read by st:{root}")
        settings = _settings(root / SETTINGS)
        transformer = next(path for kind, path in kinds if kind == "Transformer")
        if settings.get("model_type") == "ColBERT" or any(name in settings for name in _PYLATE):
            return cls._pylate(root, transformer, layers, settings)
        masks = [_settings(path / "config.json") for kind, path in kinds if kind == "MultiVectorMask"]
        return cls._multi_vector(root, transformer, layers, settings, masks[0] if masks else {})

    @classmethod
    def _colbert_ir(cls, root: Path) -> ColBERTFolder:
        said = _settings(root / "artifact.metadata")
        length = _length(said, "query_maxlen", QUERY_LENGTH, root / "artifact.metadata")
        return cls(
            transformer=root,
            layers=(),
            query_length=length,
            document_length=_length(said, "doc_maxlen", DOCUMENT_LENGTH, root / "artifact.metadata"),
            expansion=length,
            attend=bool(said.get("attend_to_mask_tokens")),
            expansion_token=None,
            markers={
                "query": str(said.get("query_token_id") or "[unused0]") + " ",
                "document": str(said.get("doc_token_id") or "[unused1]") + " ",
            },
            prompts={"query": "", "document": ""},
            skipped=tuple(string.punctuation) if said.get("mask_punctuation", True) else (),
            skipped_of=("document",),
        )

    @classmethod
    def _pylate(cls, root: Path, transformer: Path, layers: tuple[Path, ...], said: dict[str, Any]) -> ColBERTFolder:
        length = _length(said, "query_length", QUERY_LENGTH, root / SETTINGS)
        words, given = said.get("skiplist_words"), said.get("prompts") or {}
        markers = {role: str(said.get(f"{role}_prefix") or "") for role in ("query", "document")}
        return cls(
            transformer=transformer,
            layers=layers,
            query_length=length,
            document_length=_length(said, "document_length", DOCUMENT_LENGTH, root / SETTINGS),
            expansion=0 if said.get("do_query_expansion") is False else length,
            attend=bool(said.get("attend_to_expansion_tokens", said.get("attend_to_mask_tokens"))),
            expansion_token=None,
            markers=markers,
            prompts={role: str(given.get(role) or "").removeprefix(markers[role]) for role in markers},
            skipped=tuple(string.punctuation) if words is None else tuple(words),
            skipped_of=("document",),
        )

    @classmethod
    def _multi_vector(
        cls, root: Path, transformer: Path, layers: tuple[Path, ...], said: dict[str, Any], mask: dict[str, Any]
    ) -> ColBERTFolder:
        if mask.get("keep_only_token_ids"):
            raise BadInput(f"{root} keeps vectors of image tokens only; texts are what can be encoded here")
        file = transformer / "sentence_bert_config.json"
        own = _settings(file)
        most = ModelFolder.read(transformer).max_length
        longest = _length(own, "query_length", most, file)
        expanded = own.get("query_expansion") or {}
        expansion = _length(expanded, "length", QUERY_LENGTH, file) if expanded else 0
        if expansion:
            longest = max(longest, expansion) if expanded.get("strategy") == "min" else expansion
        prompts = said.get("prompts") or {}
        return cls(
            transformer=transformer,
            layers=layers,
            query_length=longest,
            document_length=_length(own, "document_length", most, file),
            expansion=expansion,
            attend=bool(expanded.get("attend")),
            expansion_token=expanded.get("token"),
            markers={"query": "", "document": ""},
            prompts={role: str(prompts.get(role) or "") for role in ("query", "document")},
            skipped=tuple(mask.get("skiplist_words") or ()),
            skipped_of=tuple(mask.get("skiplist_tasks") or ("document",)),
        )


def _settings(file: Path) -> dict[str, Any]:
    said = _read(file, {})
    if not isinstance(said, dict):
        raise Corrupt(f"{file} holds a {type(said).__name__} in place of settings; fetch the model again")
    return said


def _length(said: dict[str, Any], name: str, otherwise: int, file: Path) -> int:
    value = said.get(name)
    if value is None:
        return otherwise
    if type(value) is not int or value < 1:
        raise Corrupt(f"{file} says {name} is {value!r}, which is not a number of tokens; fetch the model again")
    return value
