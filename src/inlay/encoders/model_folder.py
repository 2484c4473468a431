"""What the files beside a model say: pooling, normalisation, prompts, length. The layout is sentence-transformers'."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inlay.errors import BadInput, Corrupt

__all__ = ["ModelFolder"]

DEFAULT_LENGTH = 512
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class ModelFolder:
    """Settings read from a model's folder; None or empty where no file says anything.

    Args:
        pooling: `mean`, `cls`, `last` or `max`.
        normalize: whether the model ends in a Normalize module.
        max_length: tokens of a text that the model sees.
        query_prompt: text put before queries.
        document_prompt: text put before documents.
        dim: width of the hidden states, where config.json names it.
        pad: id of the padding token.
        unsupported: modules after pooling that only sentence-transformers itself can run.
        prompt_pooled: False where the model leaves the prompt's tokens out of the pooling.
    """

    pooling: str | None = None
    normalize: bool = False
    max_length: int = DEFAULT_LENGTH
    query_prompt: str = ""
    document_prompt: str = ""
    dim: int | None = None
    pad: int = 0
    unsupported: list[str] = field(default_factory=list)
    prompt_pooled: bool = True

    @classmethod
    def read(cls, root: Path) -> ModelFolder:
        modules = _read(root / "modules.json", [])
        # "sentence_transformers.models.Normalize" -> "Normalize"
        kinds = [(str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in modules]
        pooling_path = next((path for kind, path in kinds if kind == "Pooling"), "1_Pooling")
        pooling = _read(root / pooling_path / "config.json", {})
        config = _read(root / "config.json", {})
        prompts, default = _prompts(root)
        return cls(
            pooling=_pooling(pooling, root),
            normalize=any(kind == "Normalize" for kind, _ in kinds),
            max_length=_max_length(root, config),
            query_prompt=prompts.get("query", default),
            document_prompt=next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), default),
            dim=config.get("hidden_size"),
            pad=int(config.get("pad_token_id") or 0),
            unsupported=[kind for kind, _ in kinds if kind not in ("Transformer", "Pooling", "Normalize")],
            prompt_pooled=bool(pooling.get("include_prompt", True)),
        )


def _pooling(config: dict[str, Any], root: Path) -> str | None:
    modes = [key for key, on in config.items() if key.startswith("pooling_mode") and on is True]
    found = [_POOLING_KEYS.get(mode, mode) for mode in modes]
    if isinstance(config.get("pooling_mode"), str):  # how newer folders write it
        found = [{"lasttoken": "last"}.get(config["pooling_mode"], config["pooling_mode"])]
    if len(found) > 1:
        raise BadInput(f"{root} joins several poolings ({', '.join(found)}); choose one with the option pooling=")
    return found[0] if found else None


def _max_length(root: Path, config: dict[str, Any]) -> int:
    stated = _read(root / "sentence_bert_config.json", {}).get("max_seq_length")
    if stated:
        return int(stated)
    tokenizer = _read(root / "tokenizer_config.json", {}).get("model_max_length")
    # Libraries write "no limit" as 1e30.
    length = int(tokenizer) if tokenizer and tokenizer < 1e7 else DEFAULT_LENGTH
    return min(length, int(config.get("max_position_embeddings") or length))


def _prompts(root: Path) -> tuple[dict[str, str], str]:
    config = _read(root / "config_sentence_transformers.json", {})
    prompts = {name: text for name, text in (config.get("prompts") or {}).items() if isinstance(text, str)}
    return prompts, prompts.get(config.get("default_prompt_name") or "", "")


def _read(path: Path, otherwise: Any) -> Any:
    if not path.is_file():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Corrupt(f"{path} is not JSON ({error}); fetch the model again") from None
