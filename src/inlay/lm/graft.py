"""STEM on a pretrained `transformers` model of the Llama kind: up-projections become tables read by token id.

    model = graft_stem("path/to/a/llama", where="third")        # rows made of the up-projections they replace
    model.generate(ids)                                          # as ever; so are training and save_pretrained
    model.save_pretrained("grafted")
    model = load_grafted("grafted")

Llama, Mistral, Qwen2 and whatever else has `model.layers[i].mlp` with gate_proj, up_proj, down_proj and SiLU between
them. Weights that stay keep their names, so that adapters and quantisers find them. A token's row starts as the
up-projection of its input row under the norm of that layer: exact where the residual stream still is that row, an
approximation further up, which `upcycling_cosines` measures; training is what closes the gap.

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639); starting from a dense model is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.graft_ids import carry_ids, checked_ids, chosen_layers, current_ids, decoder_of
from inlay.lm.pretrained import describe, opened
from inlay.lm.stem import Mode, Start, Where, start_rows
from inlay.tables.full import Full
from inlay.tables.table import Rows

__all__ = ["GraftedStem", "describe_stem", "fits", "graft_stem", "grafted_layers", "replace_table", "upcycling_cosines"]

GraftStart = Literal["from_dense", "from_dense_stats"] | Start


class GraftedStem(nn.Module):
    """The feed-forward part of a `transformers` layer with a table in it; the arithmetic of `Stem`.

    Args:
        dense: what it replaces; maps that stay are taken over, not copied.
        table: token id → row as wide as the hidden units; None where it is still to come.
        mode: see `Stem`.
    """

    table: Any  # a module, but one that has rows and dim
    gate_proj: Any
    up_proj: Any

    def __init__(self, dense: Any, table: Rows | None, mode: Mode = "up") -> None:
        super().__init__()
        self.gate_proj = None if mode == "gate" else dense.gate_proj
        self.up_proj = None if mode == "up" else dense.up_proj
        self.down_proj, self.act_fn = dense.down_proj, dense.act_fn
        self.table, self.mode = table, mode

    def forward(self, x: Tensor) -> Tensor:
        """Normed rows [batch, length, dim] to what is added; ids are those of the call that is running."""
        row = self.table(current_ids())
        if self.gate_proj is None:
            up = self.up_proj(x)
            mixed = self.act_fn(row.to(up.dtype)) * up
        else:
            gate = self.act_fn(self.gate_proj(x))
            mixed = gate * (row if self.up_proj is None else self.up_proj(x) + row).to(gate.dtype)
        out: Tensor = self.down_proj(mixed)
        return out

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


@torch.no_grad()
def graft_stem(
    model_or_path: Any, where: Where | list[int] = "third", start: GraftStart | None = None, mode: Mode = "up",
    table: Callable[[int, int], Rows] | None = None, sparse: bool = False, seed: int = 0,
) -> Any:  # fmt: skip
    """Put STEM into some layers of a model, in place; returns the model.

    Args:
        model_or_path: a `transformers` model, or the folder of one; a folder is opened as a causal language model,
            and nothing is ever downloaded.
        where: which layers, see `placed`: a third of them, never the first unless it is named.
        start: what rows begin as. "from_dense": the projection they replace, of each token's input row under the
            layer's norm; "from_dense_stats": drawn with the mean and deviation that each hidden unit has in those,
            better for deep layers; or one of `start_rows`. None: "from_dense", or "zero" in mode "additive" (which
            leaves the model as it was), or, with `table`, whatever it begins with.
        mode: which half the row replaces, see `Stem`.
        table: makes a table, called (vocabulary, hidden units); None: a full one, as exact as the model's weights.
        sparse: give that full table row-sparse gradients.
        seed: of what is drawn.

    Raises:
        BadInput: the model has no SwiGLU layers, or a layer is named that it does not have or that has a table.
    """
    if mode not in get_args(Mode):
        raise BadInput(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    known = [*get_args(get_args(GraftStart)[0]), *get_args(Start)]
    if start is not None and start not in known:
        raise BadInput(f"start must be one of {', '.join(known)}, got {start!r}")
    if start is not None and table is not None:
        raise BadInput(f"a table that is given begins as it was made; leave start={start!r} out, or the table")
    if mode == "additive" and start in ("from_dense", "from_dense_stats"):
        raise BadInput(f"mode 'additive' keeps the up-projection, {start!r} would count it twice; start from 'zero'")
    start = start or ("zero" if mode == "additive" else "from_dense")
    model = opened(model_or_path) if isinstance(model_or_path, (str, Path)) else model_or_path
    inner = decoder_of(model)
    chosen = _dense_layers(model, where)
    carry_ids(model)
    made: dict[int, Rows] = {}
    vocab = inner.embed_tokens.num_embeddings
    for layer in chosen:
        mlp = inner.layers[layer].mlp
        like, width = mlp.up_proj.weight, mlp.down_proj.in_features
        if table is None:
            part: Rows = Full(vocab, width, scale=0.0, sparse=sparse)
            part.weight.data = _rows(inner, layer, mode, start, seed + layer).to(like.device, like.dtype)
        else:
            part = table(vocab, width)
            fits(part, vocab, width, f"layer {layer}")
            if any(part is other for other in made.values()):
                raise BadInput("each layer has a table of its own; let table make a new one each time it is called")
            part = part.to(like.device)
        made[layer] = part
    for layer, part in made.items():
        inner.layers[layer].mlp = GraftedStem(inner.layers[layer].mlp, part, mode)
    describe_stem(model)
    return model


def replace_table(model: Any, layer: int, table: Rows) -> None:
    """Give a grafted layer another table, its compiled form for instance, so that it is saved with the model."""
    inner = decoder_of(model)
    if not 0 <= layer < len(inner.layers) or not isinstance(inner.layers[layer].mlp, GraftedStem):
        raise BadInput(f"layer {layer} has no table to replace; grafted are {sorted(grafted_layers(model))}")
    part = inner.layers[layer].mlp
    fits(table, inner.embed_tokens.num_embeddings, part.down_proj.in_features, f"layer {layer}")
    part.table = table.to(part.down_proj.weight.device)
    describe_stem(model)


@torch.no_grad()
def upcycling_cosines(model: Any, ids: Tensor) -> dict[int, float]:
    """How well "from_dense" would do, layer by layer: the mean cosine of its rows and the up-projections in a text.

    Args:
        model: dense.
        ids: a text, [batch, length].
    """
    inner, seen = decoder_of(model), {}
    ids = checked_ids(inner, ids, "ids")
    hooks = [
        inner.layers[layer].mlp.up_proj.register_forward_hook(lambda _, x, out, layer=layer: seen.update({layer: out}))
        for layer in _dense_layers(model, list(range(len(inner.layers))))
    ]
    try:
        inner(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        layer: float(torch.cosine_similarity(_projected(inner, layer, "up", ids).float(), out.float(), -1).mean())
        for layer, out in sorted(seen.items())
    }


def _dense_layers(model: Any, where: Where | list[int]) -> list[int]:
    """The layers named by `where`, each of them a SwiGLU that can be taken apart."""
    inner = decoder_of(model)
    chosen = chosen_layers(inner, where)
    act = getattr(model.config, "hidden_act", None)
    for layer in chosen:
        block = inner.layers[layer]
        if isinstance(block.mlp, GraftedStem):
            raise BadInput(f"layer {layer} has a table already; grafted are {sorted(grafted_layers(model))}")
        lacking = [name for name in ("gate_proj", "up_proj", "down_proj", "act_fn") if not hasattr(block.mlp, name)]
        if lacking or act not in ("silu", "swish"):
            what = f"no {lacking[0]}" if lacking else f"{act!r} for its activation"
            raise BadInput(f"layer {layer} of {type(model).__name__} is not a SwiGLU: it has {what}")
        if not hasattr(block, "post_attention_layernorm") or hasattr(block, "post_feedforward_layernorm"):
            raise BadInput(f"layers of {type(model).__name__} norm elsewhere than Llama's, before each part")
    return chosen


def _projected(inner: Any, layer: int, half: str, ids: Tensor) -> Tensor:
    """What a layer's up- or gate-projection makes of the tokens' input rows, normed as that layer norms."""
    block = inner.layers[layer]
    projection = block.mlp.gate_proj if half == "gate" else block.mlp.up_proj
    rows: Tensor = projection(block.post_attention_layernorm(inner.embed_tokens(ids)))
    return rows


def _rows(inner: Any, layer: int, mode: Mode, start: GraftStart, seed: int) -> Tensor:
    vocab, width = inner.embed_tokens.num_embeddings, inner.layers[layer].mlp.down_proj.in_features
    if start not in ("from_dense", "from_dense_stats"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return start_rows(vocab, width, start)  # type: ignore[arg-type]
    ids = torch.arange(vocab, device=inner.embed_tokens.weight.device)
    rows = torch.cat([_projected(inner, layer, mode, some) for some in ids.split(4096)])
    if start == "from_dense":
        return rows
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows.shape, generator=random).to(rows.device)
    return rows.float().mean(0) + rows.float().std(0) * noise


def fits(table: Any, vocab: int, width: int, whose: str) -> None:
    """Refuse a table that does not hold a row of hidden units for every token."""
    if not isinstance(table, Rows):
        raise BadInput(f"the table of {whose} must be one of inlay.tables, got a {type(table).__name__}")
    if (table.rows, table.dim) != (vocab, width):
        raise BadInput(
            f"the table of {whose} must have {vocab} rows of {width}, as many as tokens and hidden units, "
            f"got {table.rows} of {table.dim}"
        )


def grafted_layers(model: Any) -> dict[int, GraftedStem]:
    """The layers that have a table, with the parts it is in."""
    parts = enumerate(layer.mlp for layer in decoder_of(model).layers)
    return {layer: part for layer, part in parts if isinstance(part, GraftedStem)}


def describe_stem(model: Any) -> None:
    """Write the tables of a model's layers into its config."""
    parts = grafted_layers(model)
    entry = {str(layer): {"mode": part.mode, "table": part.table._facts()} for layer, part in parts.items()}
    describe(model, "stem", entry)
