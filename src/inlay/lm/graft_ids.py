"""How token ids reach the layers of a `transformers` model, which hands them rows only.

A hook on the inner model notes the ids of the call and adds them to the arguments that every layer passes on to its
attention; a hook there takes them out again, before attention sees them, and lays them where the feed-forward part of
the same layer finds them a moment later, on the same thread. Nothing is kept on the model: threads do not meet, and a
layer that gradient checkpointing runs again, in whatever thread and order, has the ids it had.

    with edited(model, memory_ids):          # [batch, length], or [length] for every text of the batch
        model.generate(ids)                  # tables read memory_ids; attention and input rows still read ids
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.stem import Where, placed

__all__ = ["cache_of", "carry_ids", "checked_ids", "chosen_layers", "current_ids", "decoder_of", "edited"]

_here = threading.local()
_edits: ContextVar[Mapping[nn.Module, Tensor]] = ContextVar("edits", default=MappingProxyType({}))


def decoder_of(model: Any) -> Any:
    """The part of a `transformers` model that has input rows and layers; refused where its layers are not Llama's."""
    inner = getattr(model, "base_model", model)
    layers = getattr(inner, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(inner, "embed_tokens"):
        raise BadInput(
            f"{type(model).__name__} has no layers and input rows where Llama has them; "
            "give a transformers model of the Llama, Mistral or Qwen2 kind"
        )
    for layer in layers:
        if not hasattr(layer, "self_attn") or not hasattr(layer, "mlp"):
            raise BadInput(f"layers of {type(model).__name__} have no self_attn and mlp, as those of Llama have")
    return inner


def chosen_layers(inner: Any, where: Where | Iterable[int]) -> list[int]:
    """The layers that are named, ascending and at least one; see `placed`."""
    if not isinstance(where, Iterable):
        raise BadInput(f"layers must be 'third', 'half', 'full' or a list of numbers, got {where!r}")
    named = where if isinstance(where, str) else list(where)
    for layer in named if isinstance(named, list) else []:
        if not isinstance(layer, int) or isinstance(layer, bool):
            raise BadInput(f"layers are named by their numbers, got {layer!r}")
    chosen = placed(named, len(inner.layers))
    if not chosen:
        raise BadInput(f"{where!r} names none of the {len(inner.layers)} layers; give a list of at least one")
    return chosen


def checked_ids(inner: Any, ids: Any, what: str) -> Tensor:
    """Ids as int64 [batch, length], of one text also [length], all of them in the model's vocabulary."""
    found = torch.as_tensor(ids)
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype is torch.bool:
        raise BadInput(f"{what} must be integers, got {found.dtype}")
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.numel():
        raise BadInput(f"{what} must be [batch, length] with at least one token, got {list(found.shape)}")
    low, high = (int(bound) for bound in torch.aminmax(found))
    rows = inner.embed_tokens.num_embeddings
    if low < 0 or high >= rows:
        raise BadInput(f"{what} {low if low < 0 else high} is outside the vocabulary of {rows}")
    return found.long()


def carry_ids(model: Any) -> None:
    """Make ids reach every layer of a model; a second time changes nothing."""
    inner = decoder_of(model)
    if _note in inner._forward_pre_hooks.values():
        return
    for part in (inner, inner.layers[0], inner.layers[0].self_attn):
        taken = signature(part.forward).parameters.values()
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in taken):
            raise BadInput(f"{type(part).__name__} passes no further arguments on; a newer transformers does")
    inner.register_forward_pre_hook(_note, with_kwargs=True)
    for layer in inner.layers:
        layer.self_attn.register_forward_pre_hook(_hand_over, with_kwargs=True)


def current_ids() -> Tensor:
    """Ids [batch, length] that tables of the layer now running are to read."""
    ids: Tensor | None = getattr(_here, "ids", None)
    if ids is None:
        raise BadInput("a grafted layer was run by itself, without the ids of its tokens; run the whole model")
    return ids


def cache_of(kwargs: Mapping[str, Any]) -> Any:
    """The cache that a model or a layer was called with, under its newer or its older name; None without one."""
    return next((kwargs[name] for name in ("cache", "past_key_values") if kwargs.get(name) is not None), None)


@contextmanager
def edited(model: Any, memory_ids: Any) -> Iterator[Any]:
    """Let tables of a grafted model read other ids than the text has, from its beginning on.

    Ids of tokens beyond them, those being generated for instance, are read as they are. An edit holds for the thread
    that made it; an inner one replaces an outer one, and leaving it brings the outer one back. Keys and values cached
    under an edit carry its traces: do not go on with them outside.

    Args:
        model: grafted.
        memory_ids: int ids [batch, length] or [length]. A batch that generation multiplies (beams, several answers a
            text) may be given once.
    """
    inner = decoder_of(model)
    if _note not in inner._forward_pre_hooks.values():
        raise BadInput(f"this {type(model).__name__} has no grafted layers that an edit could reach; graft it first")
    memory = checked_ids(inner, memory_ids, "memory_ids")
    token = _edits.set({**_edits.get(), inner: memory})
    try:
        yield model
    finally:
        _edits.reset(token)


def _note(inner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ids = args[0] if args else kwargs.get("input_ids")
    like = kwargs.get("inputs_embeds") if ids is None else ids
    if like is None:
        return args, kwargs  # the model's own error says it best
    shape, memory, cache = like.shape[:2], kwargs.get("memory_ids"), cache_of(kwargs)
    if memory is None:
        edit, read = _edits.get().get(inner), 0 if cache is None else int(cache.get_seq_length())
        memory = ids if edit is None else _edited(edit.to(like.device), ids, shape, read)
    if memory is None:
        raise BadInput(
            "inputs_embeds have no token ids for the tables of this model to be read by; "
            "give input_ids, or memory_ids [batch, length] beside inputs_embeds"
        )
    if memory.shape != shape:
        raise BadInput(f"memory_ids {list(memory.shape)} must have the shape of the text {list(shape)}")
    return args, {**kwargs, "memory_ids": memory}


def _edited(edit: Tensor, ids: Tensor | None, shape: torch.Size, start: int) -> Tensor | None:
    batch, length = shape
    if batch % len(edit):
        raise BadInput(f"memory_ids of {len(edit)} texts do not fit a batch of {batch}; give as many")
    part = edit[:, start : start + length].repeat_interleave(batch // len(edit), 0)
    if part.shape[1] == length:
        return part
    return None if ids is None else torch.cat([part, ids[:, part.shape[1] :]], 1)


def _hand_over(
    attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    _here.ids = kwargs.get("memory_ids")
    return args, {name: value for name, value in kwargs.items() if name != "memory_ids"}
