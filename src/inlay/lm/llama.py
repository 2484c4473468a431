"""From a `transformers` model of the Llama kind to the house's `Decoder`, and back: the same weights, the same logits.

Both turn the halves of a head against each other, so rotary positions need no permutation of rows; norms differ in
what is added under their root, which is carried over. Tables and n-gram memory that were grafted come along.

    model = decoder_from_llama("path/to/a/llama")       # Llama, Mistral, Qwen2
    llama_from_decoder(model).save_pretrained("back")
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from inlay.errors import BadInput
from inlay.lm.attention import Attention
from inlay.lm.decoder import Decoder
from inlay.lm.engram import Engram
from inlay.lm.feed_forward import SwiGLU
from inlay.lm.graft import GraftedStem, describe_stem
from inlay.lm.graft_ids import carry_ids, decoder_of
from inlay.lm.grafted_engram import attach, describe_engram
from inlay.lm.positions import Rotary
from inlay.lm.pretrained import opened, transformers
from inlay.lm.stem import Stem
from inlay.tables.full import Full
from inlay.tables.table import Rows

__all__ = ["decoder_from_llama", "llama_from_decoder"]

KINDS = ("llama", "mistral", "qwen2")
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
FEED_FORWARD = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


@torch.no_grad()
def decoder_from_llama(model_or_path: Any) -> Decoder:
    """A decoder with a copy of a model's weights; its head is its own, also where the model's was tied.

    Args:
        model_or_path: a causal language model of `transformers` (Llama, Mistral, Qwen2), grafted or not, or the folder
            of one that is not; nothing is ever downloaded.

    Raises:
        BadInput: the model does what a `Decoder` does not: other kinds, heads that are not dim / heads wide, rotary
            positions that depend on the length of the text. A window of attention bounds the context instead.
    """
    model = opened(model_or_path) if isinstance(model_or_path, (str, Path)) else model_or_path
    inner, config = decoder_of(model), model.config
    if getattr(config, "model_type", None) not in KINDS or not hasattr(model, "lm_head"):
        raise BadInput(f"a {type(model).__name__} is none of the causal models of {', '.join(KINDS)}")
    dim, heads = config.hidden_size, config.num_attention_heads
    width = getattr(config, "head_dim", None) or dim // heads
    if width * heads != dim:
        raise BadInput(f"{heads} heads of width {width} do not make up the stream of {dim}, as those of a Decoder must")
    rotary = inner.rotary_emb
    if rotary.rope_type not in ("default", "linear", "llama3") or rotary.attention_scaling != 1.0:
        raise BadInput(f"rotary positions of type {rotary.rope_type!r} change with the text; a Decoder's do not")
    if config.hidden_act not in ("silu", "swish"):
        raise BadInput(f"feed-forward parts with {config.hidden_act!r} are not SwiGLU")
    window = getattr(config, "sliding_window", None) or config.max_position_embeddings
    made: Any = Decoder(
        inner.embed_tokens.num_embeddings, dim, len(inner.layers), heads, kv_heads=config.num_key_value_heads,
        hidden=config.intermediate_size, context=min(window, config.max_position_embeddings),
        position=Rotary(width, config.rope_parameters["rope_theta"]),
        norm=lambda size: nn.RMSNorm(size, eps=config.rms_norm_eps),
        feed_forward=lambda layer: _stem(inner.layers[layer].mlp, dim),
        pre_block=lambda layer: copy.deepcopy(getattr(inner.layers[layer], "engram", None)),
    )  # fmt: skip
    like = inner.embed_tokens.weight
    made.to(like.device, like.dtype).train(model.training)
    made.position.frequency = rotary.inv_freq.detach().float().clone()  # llama3 stretches some, theta does not tell
    made.input.weight.copy_(like)
    made.head.weight.copy_(model.lm_head.weight)
    made.norm.weight.copy_(inner.norm.weight)
    for block, layer in zip(made.blocks, inner.layers, strict=True):
        block.attention_norm.weight.copy_(layer.input_layernorm.weight)
        block.feed_forward_norm.weight.copy_(layer.post_attention_layernorm.weight)
        for ours, theirs in ATTENTION.items():
            _carry(block.attention, ours, getattr(layer.self_attn, theirs))
        for ours, theirs in FEED_FORWARD.items():
            if getattr(block.feed_forward, ours) is not None:
                _carry(block.feed_forward, ours, getattr(layer.mlp, theirs))
    return cast(Decoder, made)


@torch.no_grad()
def llama_from_decoder(decoder: Decoder) -> Any:
    """A `LlamaForCausalLM` with a copy of a decoder's weights, STEM and n-gram memory grafted on where it has them.

    Raises:
        BadInput: a socket holds what no Llama has: other positions than rotary ones of one theta, an input that is not
            a table, maps that are not linear, norms of several kinds.
    """
    position: Any = decoder.position
    blocks: list[Any] = list(decoder.blocks)
    first = blocks[0].attention
    if not all(type(block.attention) is Attention for block in blocks):
        raise BadInput("attention of this decoder is not that of a Llama")
    if type(position) is not Rotary or not torch.allclose(
        position.frequency.cpu().float(), Rotary(position.width, position.theta).frequency, rtol=1e-4
    ):
        raise BadInput(f"positions must be Rotary, of one theta, got {position!r}")
    if not isinstance(decoder.input, Full):
        raise BadInput(f"the input must be a Full table, got {type(decoder.input).__name__}; fill one with its rows")
    norms = [norm for block in blocks for norm in (block.attention_norm, block.feed_forward_norm)] + [decoder.norm]
    if not all(type(norm) is nn.RMSNorm and norm.eps == decoder.norm.eps for norm in norms):
        raise BadInput("norms of a Llama are all RMSNorm with the same eps; this decoder's are not")
    for layer, block in enumerate(blocks):
        if type(block.feed_forward) not in (SwiGLU, Stem):
            raise BadInput(f"layer {layer} has a {type(block.feed_forward).__name__}, which no Llama has")
        if block.before is not None and type(block.before) is not Engram:
            raise BadInput(f"a {type(block.before).__name__} stands before layer {layer}, as in no Llama")
        for reader in (block.before, block.feed_forward):
            table = getattr(reader, "table", None)
            if table is not None and not isinstance(table, Rows):
                raise BadInput(f"layer {layer} reads a {type(table).__name__}, which no file of a model can hold")
        for owner, names in ((block.attention, ATTENTION), (block.feed_forward, FEED_FORWARD)):
            for name in names:
                part = getattr(owner, name)
                if part is not None and type(part) is not nn.Linear:
                    raise BadInput(f"{name} of layer {layer} is a {type(part).__name__}, not a linear map")
    linear = [m for block in blocks for m in block.attention.children()]
    package = transformers()
    model = package.LlamaForCausalLM(
        package.LlamaConfig(
            vocab_size=decoder.vocab, hidden_size=decoder.dim, intermediate_size=decoder.hidden,
            num_hidden_layers=len(blocks), num_attention_heads=first.heads, num_key_value_heads=first.kv_heads,
            max_position_embeddings=decoder.context, rms_norm_eps=decoder.norm.eps,
            rope_parameters={"rope_type": "default", "rope_theta": position.theta}, tie_word_embeddings=False,
            attention_bias=any(m.bias is not None for m in linear),
            mlp_bias=any(m.bias is not None for b in blocks for m in b.feed_forward.children() if type(m) is nn.Linear),
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    )  # fmt: skip
    like, inner = decoder.input.weight, model.model
    model.to(like.device, like.dtype).train(decoder.training)
    inner.embed_tokens.weight.copy_(like)
    model.lm_head.weight.copy_(decoder.head.weight)
    inner.norm.weight.copy_(decoder.norm.weight)
    for block, layer in zip(blocks, inner.layers, strict=True):
        layer.input_layernorm.weight.copy_(block.attention_norm.weight)
        layer.post_attention_layernorm.weight.copy_(block.feed_forward_norm.weight)
        for owner, theirs, names in (
            (block.attention, layer.self_attn, ATTENTION), (block.feed_forward, layer.mlp, FEED_FORWARD)
        ):  # fmt: skip
            for ours, name in names.items():
                if getattr(owner, ours) is not None:
                    _copy(getattr(owner, ours), getattr(theirs, name))
        if isinstance(block.feed_forward, Stem):
            table = cast(Rows, copy.deepcopy(block.feed_forward.table))
            layer.mlp = GraftedStem(layer.mlp, table, block.feed_forward.mode)
    memories = {layer: copy.deepcopy(block.before) for layer, block in enumerate(blocks) if block.before is not None}
    if memories or any(isinstance(block.feed_forward, Stem) for block in blocks):
        carry_ids(model)
        attach(model, memories)
        describe_stem(model)
        describe_engram(model)
    return model


def _stem(part: Any, dim: int) -> Stem | None:
    return Stem(dim, copy.deepcopy(part.table), part.mode) if isinstance(part, GraftedStem) else None


def _carry(owner: nn.Module, name: str, source: Any) -> None:
    """Put a copy of a linear map, with the bias if it has one, into a socket."""
    made = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None)
    _copy(source, made.to(source.weight.device, source.weight.dtype))
    setattr(owner, name, made)


def _copy(source: Any, target: Any) -> None:
    target.weight.copy_(source.weight)
    if target.bias is not None:
        target.bias.copy_(source.bias if source.bias is not None else torch.zeros_like(target.bias))
