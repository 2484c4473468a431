"""Engram on a pretrained `transformers` model of the Llama kind: n-gram memory before attention in some layers.

    model = graft_engram("path/to/a/llama", layers=(1,), slots=50_000, folding=fold_tokens(tokenizer))
    model.generate(ids)

What is added begins as nothing, so that the model is at first exactly what it was. While text is generated, the cache
of keys and values also carries the tokens and the convolution's inputs that the next token will want; beams that are
reordered take them along. It cannot be shortened, as assisted generation would: those inputs are gone.

In a batch padded on the left a text reads what it would read alone, as long as it begins with the separator.

Source: Conditional Memory via Scalable Lookup (arXiv 2601.07372); there the memory is trained with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.lm.cache import KeyValueCache
from inlay.lm.engram import Engram
from inlay.lm.graft_ids import cache_of, carry_ids, chosen_layers, decoder_of
from inlay.lm.pretrained import describe, opened
from inlay.tables.table import Rows, _make

__all__ = ["attach", "describe_engram", "engrams_of", "graft_engram"]


@torch.no_grad()
def graft_engram(
    model_or_path: Any, layers: Iterable[int] = (1,), *, separator: int | None = None, silent: bool = True,
    table: Callable[[int, int], Rows] | None = None, sparse: bool = False, **options: Any,
) -> Any:  # fmt: skip
    """Put n-gram memory before attention of some layers, in place; returns the model.

    Args:
        model_or_path: a `transformers` model, or the folder of one; a folder is opened as a causal language model,
            and nothing is ever downloaded.
        layers: which, from 0.
        separator: id of the token that begins each document; None: the config's `bos_token_id`, if it has one.
        silent: begin with nothing added; False begins as `Engram` does.
        table: makes a table, called (rows, width of a row); None: a full one.
        sparse: give that full table row-sparse gradients.
        options: of `Engram`: orders, heads, d_head, slots, folding, pad, conv, gate, scale, seed.
    """
    unwanted = sorted({"branches", "layer", "used", "dim", "vocab"} & set(options))
    if unwanted:
        raise BadInput(f"{unwanted[0]} is not to be chosen here: a pretrained model has one stream and its own sizes")
    model = opened(model_or_path) if isinstance(model_or_path, (str, Path)) else model_or_path
    inner = decoder_of(model)
    chosen = chosen_layers(inner, layers)
    there = {layer: block.engram for layer, block in enumerate(inner.layers) if hasattr(block, "engram")}
    twice = sorted(set(chosen) & set(there))
    if twice:
        raise BadInput(f"layer {twice[0]} has memory already; layers with it are {sorted(there)}")
    given = getattr(model.config, "bos_token_id", None)
    separator = given if separator is None and isinstance(given, int) else separator
    dim, vocab = inner.embed_tokens.embedding_dim, inner.embed_tokens.num_embeddings
    used = {int(prime) for part in there.values() for prime in part.primes.flatten()}
    options["separator"] = separator
    made: dict[int, Any] = {
        layer: Engram(dim, vocab, layer=layer, used=used, silent=silent, table=table, sparse=sparse, **options)
        for layer in chosen
    }
    for layer, part in made.items():
        if not isinstance(part.table, Rows):
            raise BadInput(f"the table must be one of inlay.tables, got a {type(part.table).__name__}")
        like = inner.layers[layer].self_attn.q_proj.weight
        part.to(like.device, like.dtype)
    carry_ids(model)
    attach(model, made)
    describe_engram(model)
    return model


def attach(model: Any, parts: Mapping[int, Engram]) -> None:
    """Give layers of a model, which carries ids, their memory."""
    inner = decoder_of(model)
    for layer, part in parts.items():
        inner.layers[layer].engram = part
        inner.layers[layer].register_forward_pre_hook(_remember, with_kwargs=True)


def describe_engram(model: Any) -> None:
    """Write the memory of a model's layers into its config."""
    entry = {}
    for layer, block in enumerate(decoder_of(model).layers):
        if hasattr(block, "engram"):
            part, keyer = block.engram, block.engram.keyer
            entry[str(layer)] = {
                "dim": part.dim, "vocab": part.vocab, "orders": list(keyer.orders), "heads": keyer.heads,
                "d_head": part.d_head, "primes": keyer.primes.flatten().tolist(), "folded": part.folding is not None,
                "separator": part.separator, "pad": part.pad, "conv": part.conv, "gate": part.gate,
                "table": part.table._facts(),
            }  # fmt: skip
    describe(model, "engram", entry)


def engrams_of(entry: Mapping[str, Any], folder: Path) -> dict[int, Engram]:
    """The parts that a config describes, by layer, before their tensors are filled in."""
    made = {}
    for name, facts in entry.items():
        facts, layer = dict(facts), int(name)
        table, primes, folded = _make(facts.pop("table"), folder), facts.pop("primes"), facts.pop("folded")
        others = set(range(min(primes), max(primes) + 1)) - set(primes)  # the hash takes the primes that are left
        made[layer] = Engram(
            layer=layer, slots=min(primes) - 1, used=others, table=lambda *_, t=table: t,
            folding=np.zeros(facts["vocab"], dtype=np.int64) if folded else None, **facts,
        )  # fmt: skip
    return made  # their multipliers and foldings come with the tensors


def _remember(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ids = kwargs.get("memory_ids")
    if ids is None:
        raise BadInput("a grafted layer was run by itself, without the ids of its tokens; run the whole model")
    h: Tensor = args[0] if args else kwargs["hidden_states"]
    cache, number = cache_of(kwargs), layer.self_attn.layer_idx
    memory = None if cache is None else _memory(cache, number)
    added = layer.engram(h, ids, cache=memory, layer=number)
    if memory is not None:
        memory.read(ids, ids)
    if args:
        return (h + added, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": h + added}


def _memory(cache: Any, layer: int) -> KeyValueCache:
    """What a cache of `transformers` carries for the memory of a layer; begun where the cache is."""
    if not hasattr(cache, "inlay_memory"):
        cache.inlay_memory = {}
        cache.__class__ = _carrying(cast(Any, type(cache)))
    found: KeyValueCache = cache.inlay_memory.setdefault(layer, KeyValueCache())
    return found


@lru_cache
def _carrying(kind: Any) -> type:
    """A class of caches that moves what it carries as it moves keys and values."""

    def reorder_cache(self: Any, beam_idx: Tensor) -> None:
        kind.reorder_cache(self, beam_idx)
        _pick(self, beam_idx)

    def batch_select_indices(self: Any, indices: Tensor) -> None:
        kind.batch_select_indices(self, indices)
        _pick(self, indices)

    def batch_repeat_interleave(self: Any, repeats: int) -> None:
        kind.batch_repeat_interleave(self, repeats)
        for memory in self.inlay_memory.values():
            _change(memory, lambda t: t.repeat_interleave(repeats, 0))

    def reset(self: Any) -> None:
        kind.reset(self)
        self.inlay_memory.clear()

    def crop(self: Any, *args: Any) -> None:
        raise BadInput("a cache that carries n-gram memory cannot be shortened; generate without an assistant")

    methods = [reorder_cache, batch_select_indices, batch_repeat_interleave, reset, crop]
    made: dict[str, Any] = {method.__name__: method for method in methods}
    return type(kind.__name__, (kind,), {**made, "is_croppable": False, "__module__": kind.__module__})


def _pick(cache: Any, indices: Tensor) -> None:
    for memory in cache.inlay_memory.values():
        _change(memory, lambda t: t.index_select(0, indices.to(t.device)))


def _change(memory: KeyValueCache, how: Callable[[Tensor], Tensor]) -> None:
    if memory.ids is not None and memory.memory_ids is not None:
        memory.ids, memory.memory_ids = how(memory.ids), how(memory.memory_ids)
    memory.kept = {key: how(tensor) for key, tensor in memory.kept.items()}
