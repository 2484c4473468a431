"""What `inlay train box` trains: a token table, and beside it a few narrow transformer layers cut out of a teacher.

A text's vector is unit(unit(mean of the layers' output) + map · unit(Σ rows of the static table)). The layers begin as
the teacher's own with their least used heads and hidden units left out; what the missing units gave on average goes
into the offsets. The vocabulary table below them is the teacher's at a lower rank. Both tables are shipped in 4 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from inlay.encoders.box_weights import Weights, eight_bits, four_bits, packed, write
from inlay.errors import BadInput
from inlay.training.box_graph import graph, ranges
from inlay.training.models import MAIN, Model, rendered, unit
from inlay.training.transformer import Transformer, TransformerTokens
from inlay.training.views import Rendered

__all__ = ["BoxModel", "NarrowLayer"]

HEAD = 32  # width of an attention head in the teacher, and here
SOME = 400  # texts from which the ranges of activations are taken
CLIP = 0.85  # of a row's largest number is what 4 bits reach while learning; `four_bits` tries several when it is saved


class NarrowLayer(nn.Module):
    """A post-norm transformer layer with fewer heads and hidden units than its width would ask for."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * heads * HEAD), nn.Linear(heads * HEAD, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.after_attention, self.after_hidden = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)

    def forward(self, rows: Tensor, keep: Tensor) -> Tensor:
        """Rows [tokens, dim] of the places kept, keep [n, length]. Only what is attended to is padded."""
        n, length = keep.shape
        full = len(rows) == keep.numel()
        found = self.qkv(rows)
        wide = found if full else found.new_zeros(n, length, found.shape[1]).masked_scatter(keep[..., None], found)
        q, k, v = wide.view(n, length, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        unseen = None if full else q.new_zeros(keep.shape).masked_fill(~keep, -1e4)[:, None, None]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=unseen).transpose(1, 2).reshape(n, length, -1)
        rows = self.after_attention(rows + self.out(seen.flatten(0, 1) if full else seen[keep]))
        return self.after_hidden(rows + self.down(F.gelu(self.up(rows), approximate="tanh")))

    @torch.no_grad()
    def copy(self, layer: Any, rows: Tensor) -> Tensor:
        """Take the most used heads and hidden units of a BERT layer.

        Args:
            layer: the teacher's.
            rows: what enters it, [n, length, dim], of full-length texts.

        Returns:
            What leaves the whole layer, for the next one.
        """
        n, length, dim = rows.shape
        attention, output = layer.attention.self, layer.attention.output
        maps = [attention.query, attention.key, attention.value]
        q, k, v = (m(rows).view(n, length, -1, HEAD).transpose(1, 2) for m in maps)
        seen = F.scaled_dot_product_attention(q, k, v)  # [n, heads, length, HEAD]
        weight = output.dense.weight
        per_head = weight.view(dim, -1, HEAD)
        spread = seen - seen.mean((0, 2), keepdim=True)
        use = torch.stack([(spread[:, h] @ per_head[:, h].T).square().mean() for h in range(seen.shape[1])])
        kept = use.topk(self.heads).indices.sort().values
        columns = (kept[:, None] * HEAD + torch.arange(HEAD)).flatten()
        joined = seen.transpose(1, 2).reshape(n, length, -1)
        self.qkv.weight.copy_(torch.cat([m.weight[columns] for m in maps]))
        self.qkv.bias.copy_(torch.cat([m.bias[columns] for m in maps]))
        _keep_columns(self.out, output.dense, columns, joined.mean((0, 1)))
        middle = output.LayerNorm(output.dense(joined) + rows)
        units = F.gelu(layer.intermediate.dense(middle))
        use = units.flatten(0, 1).var(0) * layer.output.dense.weight.square().sum(0)
        columns = use.topk(self.up.out_features).indices.sort().values
        self.up.weight.copy_(layer.intermediate.dense.weight[columns])
        self.up.bias.copy_(layer.intermediate.dense.bias[columns])
        _keep_columns(self.down, layer.output.dense, columns, units.mean((0, 1)))
        self.after_attention.load_state_dict(output.LayerNorm.state_dict())
        self.after_hidden.load_state_dict(layer.output.LayerNorm.state_dict())
        return layer.output.LayerNorm(layer.output.dense(units) + middle)


def _keep_columns(mine: nn.Linear, theirs: nn.Linear, columns: Tensor, mean: Tensor) -> None:
    gone = torch.ones(theirs.in_features, dtype=torch.bool)
    gone[columns] = False
    mine.weight.copy_(theirs.weight[:, columns])
    mine.bias.copy_(theirs.bias + theirs.weight[:, gone] @ mean[gone])


class _Rows(torch.autograd.Function):
    """Rows of a table, their gradient added to the table's where it belongs.

    PyTorch's own lookup makes a whole table of zeros on every way back, and a batch has one for each of its parts.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids)
        return table[ids]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        (ids,), table = ctx.saved_tensors, ctx.table
        if table.grad is None:
            table.grad = torch.zeros_like(table)
        table.grad.index_add_(0, ids.flatten(), grads[0].flatten(0, -2).to(table.dtype))
        return None, None


class BoxModel(Model):
    """The student. Its outputs: `vector`; `static`, the table's part in the teacher's space; `tokens`, the table's own.

    Args:
        teacher: a BERT of 32-wide heads, whose vocabulary table, positions and layers it begins with.
        texts: some texts, by which the use of heads and units, and the range of activations, are judged.
        layers: which of the teacher's layers, from 0.
        heads: attention heads kept in each.
        hidden: hidden units kept in each.
        rank: width of the vocabulary table.
        static: rows [tokens, width] of the static table to begin with.
        static_map: its map [width, dim] into the teacher's space.
        lighter: compute in bfloat16 where training.
    """

    def __init__(
        self, teacher: Transformer, texts: Sequence[str], *, static: Tensor, static_map: Tensor,
        layers: Sequence[int] = (0, 5), heads: int = 6, hidden: int = 768, rank: int = 256, lighter: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(teacher.dim)
        bert = teacher.backbone
        if bert.config.hidden_size != HEAD * bert.config.num_attention_heads:
            raise BadInput(f"the teacher's heads must be {HEAD} wide, got {bert.config}")
        table = bert.get_input_embeddings().weight.detach()
        if len(static) != len(table):
            raise BadInput(f"the static table has {len(static)} rows, the teacher's vocabulary {len(table)}")
        u, s, v = torch.linalg.svd(table, full_matrices=False)
        root = s[:rank].sqrt()
        self.table, self.table_map = (
            nn.Embedding.from_pretrained(u[:, :rank] * root, False),
            nn.Linear(rank, self.dim, False),
        )
        embedded = bert.embeddings
        with torch.no_grad():
            self.table_map.weight.copy_((root[:, None] * v[:rank]).T)
            places = embedded.position_embeddings.weight[: teacher.max_length]
            self.positions = nn.Parameter(places + embedded.token_type_embeddings.weight[0])
        self.norm = nn.LayerNorm(self.dim, eps=1e-12)
        self.norm.load_state_dict(embedded.LayerNorm.state_dict())
        self.static = nn.Embedding.from_pretrained(static / static.square().sum(1).mean().sqrt(), False)
        self.static_map = nn.Linear(static.shape[1], self.dim, False)
        self.static_map.weight.data = static_map.T.clone()
        self.gate = nn.Parameter(torch.ones(()))
        self.layers = nn.ModuleList(NarrowLayer(self.dim, heads, hidden) for _ in layers)
        self.lighter, self.max_length, self.coarse = lighter, teacher.max_length, False
        self._teacher_tokenize, self._vocabulary = teacher.tokenize, _vocabulary(teacher)
        self._copy(bert, texts, dict(zip(layers, self.layers)))  # type: ignore[arg-type]
        self._some = [text for text in texts if text.strip()][:: max(1, len(texts) // SOME)][:SOME]

    @torch.no_grad()
    def restore(self, folder: str | Path) -> BoxModel:
        """Take the weights that `save` wrote, as far as their 4 and 8 bits tell; shapes must be the model's own."""
        weights = Weights(Path(folder))
        held = self.state_dict()

        def put(name: str, array: Any) -> None:
            if tuple(array.shape) != tuple(held[name].shape):
                raise BadInput(f"{folder} has {name} as {list(array.shape)}, this model as {list(held[name].shape)}")
            held[name].copy_(torch.from_numpy(array.copy()))

        for name in ("static", "table"):
            codes, scale = weights.table(name)
            put(f"{name}.weight", codes * scale[:, None])
            put(f"{name}_map.weight", weights.float(f"{name}.map").T)
        put("positions", weights.float("positions"))
        held["gate"].fill_(1)  # it is part of the map
        norms = ["norm"]
        for i in range(len(self.layers)):
            for name in ("qkv", "out", "up", "down"):
                put(f"layers.{i}.{name}.weight", weights.float(f"layers.{i}.{name}"))
                put(f"layers.{i}.{name}.bias", weights.float(f"layers.{i}.{name}.offset"))
            norms += [f"layers.{i}.{name}" for name in ("after_attention", "after_hidden")]
        for name in norms:
            put(f"{name}.weight", weights.float(f"{name}.gain"))
            put(f"{name}.bias", weights.float(f"{name}.offset"))
        return self

    @torch.no_grad()
    def deepen(
        self, teacher: Transformer, texts: Sequence[str], *, at: int, layer: int, heads: int = 6, hidden: int = 384
    ) -> BoxModel:
        """Put one more layer in, which hands on what it gets until it has learnt better.

        Args:
            teacher: whose heads and units it begins with; what they give is left out to begin with.
            texts: some texts, as for a new model.
            at: before which of the model's layers.
            layer: number of the teacher's layer.
            heads: attention heads kept.
            hidden: hidden units kept.
        """
        if not 0 <= at <= len(self.layers):
            raise BadInput(f"at must be from 0 to {len(self.layers)}, got {at}")
        new = NarrowLayer(self.dim, heads, hidden)
        self._copy(teacher.backbone, texts, {layer: new})
        for part in (new.out, new.down):
            part.weight.zero_()
            part.bias.zero_()
        entering = torch.cat([self._entering_layer(at, text) for text in self._some])
        for norm in (new.after_attention, new.after_hidden):
            # A norm takes mean and spread of a row away; gain and offset that give them back on average.
            normed = F.layer_norm(entering, (self.dim,), eps=norm.eps)
            middle, mean = normed.mean(0), entering.mean(0)
            gain = ((normed - middle) * (entering - mean)).mean(0) / (normed - middle).square().mean(0)
            norm.weight.copy_(gain)
            norm.bias.copy_(mean - gain * middle)
            entering = norm(entering)
        self.layers.insert(at, new)
        return self

    def _entering_layer(self, at: int, text: str) -> Tensor:
        tokens = self.tokenize([text])
        keep = tokens.mask.bool()
        rows = self._embedded(tokens.ids[keep], keep)
        for layer in self.layers[:at]:
            rows = layer(rows, keep)
        return rows

    @torch.no_grad()
    def _copy(self, bert: Any, texts: Sequence[str], wanted: Mapping[int, NarrowLayer]) -> None:
        length = 24
        ids = [row[:length] for row in self._teacher_tokenize(texts).ids if int(row[length - 1])]
        if not ids:
            raise BadInput(f"none of the {len(texts)} texts given has {length} tokens")
        rows = bert.embeddings(input_ids=torch.stack(ids[:256]))
        for number, layer in enumerate(bert.encoder.layer):
            if number in wanted:
                rows = wanted[number].copy(layer, rows)
            else:
                found = layer(rows)
                rows = found[0] if isinstance(found, tuple) else found

    def __repr__(self) -> str:
        return f"BoxModel(layers={len(self.layers)}, dim={self.dim}, static={self.static.weight.shape[1]})"

    def blocks(self) -> list[nn.Module]:
        """The layers."""
        return list(self.layers)

    def tokenize(self, items: Sequence[str | Rendered]) -> TransformerTokens:
        """Tokens as the teacher has them."""
        held, _ = rendered(items)
        tokens: TransformerTokens = self._teacher_tokenize(held)
        return tokens

    def forward(self, tokens: TransformerTokens) -> dict[str, Tensor]:
        """Unit rows by output."""
        keep = tokens.mask.bool()
        ids, count = tokens.ids[keep], keep.sum(1)
        owner = torch.arange(len(keep), device=keep.device).repeat_interleave(count)
        # Plain attention while training: the fused kernel's way back is half as fast on texts this short.
        plain = sdpa_kernel(SDPBackend.MATH) if self.training else nullcontext()
        with plain, torch.autocast(keep.device.type, torch.bfloat16, enabled=self.lighter and self.training):
            rows = self._embedded(ids, keep)
            for layer in self.layers:
                rows = layer(rows, keep)
        summed = rows.new_zeros(len(keep), self.dim, dtype=torch.float32).index_add(0, owner, rows.float())
        words = self._looked_up(self.static, ids)
        alone = unit(words.new_zeros(len(keep), words.shape[1]).index_add(0, owner, words))
        mapped = self.static_map(alone)
        return {MAIN: unit(unit(summed / count[:, None]) + self.gate * mapped), "static": unit(mapped), "tokens": alone}

    def _embedded(self, ids: Tensor, keep: Tensor) -> Tensor:
        """What enters the layers, [tokens, dim], of ids [tokens] at the places kept."""
        places = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)[keep]
        known = self.table_map(self._looked_up(self.table, ids))
        rows: Tensor = self.norm(known + _Rows.apply(self.positions, places))  # type: ignore[no-untyped-call]
        return rows

    def _looked_up(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Rows of a table; if `coarse`, in the 4 bits they will be shipped in, and learnt as if they were not."""
        rows: Tensor = _Rows.apply(table.weight, ids)  # type: ignore[no-untyped-call]
        if not self.coarse:
            return rows
        with torch.no_grad():
            step = (rows.abs().amax(-1, keepdim=True) * (CLIP / 7)).clamp(min=1e-7)
            left = (rows / step).round().clamp(-7, 7) * step - rows
        return rows + left

    def width(self, head: str = MAIN) -> int:
        """How wide the rows of an output are."""
        return int(self.static.weight.shape[1]) if head == "tokens" else self.dim

    def save(self, folder: str | Path) -> None:
        """Write the weights as `inlay.encoders.box.Box` reads them."""
        arrays: dict[str, Any] = {}
        for name, table in (("static", self.static), ("table", self.table)):
            codes, scale = four_bits(_array(table.weight))
            arrays |= {f"{name}.codes": packed(codes), f"{name}.scale": scale}
        arrays["static.map"] = _array(self.gate * self.static_map.weight.T).astype("float16")
        arrays["table.map"] = _array(self.table_map.weight.T).astype("float16")
        arrays["positions"] = _array(self.positions).astype("float16")
        arrays |= _norm("norm", self.norm)
        for i, layer in enumerate(self.layers):
            for name in ("qkv", "out", "up", "down"):
                linear: Any = getattr(layer, name)
                codes, scale = eight_bits(_array(linear.weight))
                at = f"layers.{i}.{name}"
                arrays |= {at: codes, f"{at}.scale": scale, f"{at}.offset": _array(linear.bias)}
            for name in ("after_attention", "after_hidden"):
                arrays |= _norm(f"layers.{i}.{name}", getattr(layer, name))
        arrays["vocabulary"] = torch.frombuffer(
            bytearray("\n".join(self._vocabulary).encode()), dtype=torch.uint8
        ).numpy()
        arrays |= ranges(self._entering())
        made = {"made by": "inlay train box"}
        write(Path(folder), arrays, made)
        plain = Weights(Path(folder))
        write(Path(folder), arrays, made, {signed: graph(plain, signed=signed) for signed in (False, True)})

    @torch.no_grad()
    def _entering(self) -> dict[str, Any]:
        """What enters each matrix of the layers, on a few texts, float32 [tokens, in]."""
        found: dict[str, list[Tensor]] = {}
        hooks = []
        for i, layer in enumerate(self.layers):
            for name in ("qkv", "out", "up", "down"):
                at = found.setdefault(f"layers.{i}.{name}", [])
                linear: nn.Linear = getattr(layer, name)
                hooks.append(linear.register_forward_pre_hook(lambda _, rows, at=at: at.append(rows[0].flatten(0, -2))))
        training = self.training
        self.eval()
        for text in self._some:  # one by one: padding must not count
            self(self.tokenize([text]))
        self.train(training)
        for hook in hooks:
            hook.remove()
        return {name: torch.cat(rows).numpy() for name, rows in found.items()}


def _array(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().contiguous().numpy()


def _norm(name: str, norm: Any) -> dict[str, Any]:
    return {f"{name}.gain": _array(norm.weight), f"{name}.offset": _array(norm.bias)}


def _vocabulary(teacher: Transformer) -> list[str]:
    numbers = teacher._tokenizer.get_vocab()
    return [token for token, _ in sorted(numbers.items(), key=lambda pair: pair[1])]
