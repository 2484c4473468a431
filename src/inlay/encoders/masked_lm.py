"""A masked language model from a local folder, opened up: states of tokens on one side, the output layer on the other.

SPLADE wants the largest logit of each term over a text's tokens, [n, terms], and never the logits themselves,
[n, length, terms], which for 30,000 terms are gigabytes. So the model gives the states that enter its output layer, and
`highest` goes through them some texts at a time. Needs torch and transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inlay.encoders.model_folder import ModelFolder
from inlay.errors import BadInput, MissingExtra

__all__ = ["MaskedLM", "highest"]

AT_ONCE = 1 << 24  # logits held at a time: 64 MB
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def highest(states: Tensor, keep: Tensor, projection: Tensor) -> Tensor:
    """Largest logit of each term over a text's tokens, without the output layer's offset.

    Args:
        states: of tokens [n, length, width].
        keep: bool [n, length], the tokens that count.
        projection: output layer [terms, width].

    Returns:
        [n, terms]; −inf for a text of which no token counts.
    """
    found: Tensor = _Highest.apply(states, keep, projection)
    return found


class _Highest(torch.autograd.Function):
    """The maximum, remembered by which token gave it.

    Few of the logits that come out pass a ReLU, so the way back visits those that have a gradient, one state and one
    row of the output layer each, in place of two more products as large as the way out.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, keep: Tensor, projection: Tensor) -> Tensor:
        n, length, _ = states.shape
        best = states.new_full((n, len(projection)), float("-inf"))
        which = torch.zeros(best.shape, dtype=torch.int64, device=states.device)
        size = max(1, AT_ONCE // max(1, length * len(projection)))
        for low in range(0, n if length else 0, size):
            part = slice(low, low + size)
            logits = states[part] @ projection.T
            logits.masked_fill_(~keep[part, :, None], float("-inf"))
            best[part], which[part] = logits.max(1)
        ctx.save_for_backward(states, projection, which)
        return best

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        states, projection, which = ctx.saved_tensors
        flat = states.flatten(0, 1)
        to_states, to_projection = torch.zeros_like(flat), torch.zeros_like(projection)
        if len(flat):
            texts, terms = gradient.nonzero(as_tuple=True)
            tokens = texts * states.shape[1] + which[texts, terms]
            values = gradient[texts, terms][:, None]
            size = max(1, AT_ONCE // states.shape[2])
            for low in range(0, len(texts), size):
                term, token, value = (part[low : low + size] for part in (terms, tokens, values))
                to_states.index_add_(0, token, value * projection[term])
                to_projection.index_add_(0, term, value * flat[token])
        return to_states.view_as(states), None, to_projection


class MaskedLM(nn.Module):
    """States before the output layer, and that layer.

    A sentence encoder has no output layer of its own. Of a BERT, its token table becomes the layer, and the dense map
    before it starts as the identity, so that training begins with "a token means itself, and what its state is near".

    Args:
        path: folder with config.json, weights and tokenizer.json. Nothing is fetched.
        max_length: tokens after which a text is cut; from the folder.
        offset: of every logit at the start, where a sentence encoder is started: at 0 nearly all terms of a text are
            active, at −3 a few in a hundred are (of all-MiniLM-L6-v2), those it says and those near to them.
    """

    def __init__(self, path: str | Path, *, max_length: int | None = None, offset: float = -3.0) -> None:
        super().__init__()
        self.path = Path(path).expanduser()
        if not (self.path / "config.json").is_file() or not (self.path / "tokenizer.json").is_file():
            raise BadInput(f"{self.path} must hold config.json and tokenizer.json: give the folder of a masked LM")
        try:
            from tokenizers import Tokenizer
            from transformers import AutoModelForMaskedLM
        except ImportError:
            raise MissingExtra("masked language models", "train") from None
        try:
            lm, about = AutoModelForMaskedLM.from_pretrained(
                self.path, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot load {self.path} as a masked language model: {error}") from error
        self.decoder: Any = lm.get_output_embeddings()
        if not isinstance(self.decoder, nn.Linear):
            raise BadInput(f"a {type(lm).__name__} has no output layer that can be taken off")
        if any("transform" in name for name in about["missing_keys"]):
            _begin_as_identity(lm, offset)
        lm.set_output_embeddings(_Through())
        self.lm: Any = lm.eval()
        settings = ModelFolder.read(self.path)
        self.max_length, self._pad = min(max_length or settings.max_length, settings.max_length), settings.pad
        self.prompts = {"query": settings.query_prompt, "document": settings.document_prompt}
        self._tokenizer = Tokenizer.from_file(str(self.path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    @property
    def offset(self) -> Tensor:
        """Of each term's logit [terms]."""
        weight, bias = self.decoder.weight, self.decoder.bias
        return weight.new_zeros(len(weight)) if bias is None else bias

    def vocabulary(self) -> list[str]:
        """Tokens in the order of their numbers."""
        numbers = self._tokenizer.get_vocab()
        return [token for token, _ in sorted(numbers.items(), key=lambda pair: pair[1])]

    def ids(self, texts: Sequence[str], hidden: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, attention mask and mask of the tokens that count, int64 [n, length].

        Args:
            texts: to be cut into tokens.
            hidden: leading characters of each text that are read but do not count.
        """
        found = self._tokenizer.encode_batch(list(texts))
        ids = torch.full((len(found), max((len(e.ids) for e in found), default=0)), self._pad)
        mask, pool = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, encoded in enumerate(found):
            n, skip = len(encoded.ids), hidden[i] if hidden else 0
            ids[i, :n], mask[i, :n] = torch.tensor(encoded.ids, dtype=torch.long), 1
            pool[i, :n] = torch.tensor([int(not skip or stop > skip) for _, stop in encoded.offsets])
        return ids, mask, pool

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What enters the output layer [n, length, width]."""
        states: Tensor = self.lm(input_ids=ids, attention_mask=mask).logits
        return states

    def blocks(self) -> list[nn.Module]:
        """The layers, from the input on."""
        lists = [list(m) for m in self.lm.modules() if isinstance(m, nn.ModuleList)]
        return max(lists, key=len, default=[])

    def save(self, folder: str | Path) -> None:
        """Write the folder that `MaskedLM` and transformers open."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.lm.set_output_embeddings(self.decoder)
        try:
            self.lm.save_pretrained(folder)
        finally:
            self.lm.set_output_embeddings(_Through())
        for name in TOKENIZER:
            if (self.path / name).is_file() and (self.path / name).resolve() != (folder / name).resolve():
                shutil.copyfile(self.path / name, folder / name)


class _Through(nn.Identity):
    """In the place of the output layer. Some models keep a second name for the layer's bias, and ask for it here."""

    bias = None


@torch.no_grad()
def _begin_as_identity(lm: Any, offset: float) -> None:
    head = getattr(getattr(getattr(lm, "cls", None), "predictions", None), "transform", None)
    if head is None:
        raise BadInput(f"a {type(lm).__name__} without an output layer cannot be started; give a BERT or a masked LM")
    # gelu(x + 4) is x + 4 for states of unit variance, and the LayerNorm that follows takes the 4 away again.
    nn.init.eye_(head.dense.weight)
    nn.init.constant_(head.dense.bias, 4.0)
    head.LayerNorm.reset_parameters()
    nn.init.constant_(lm.get_output_embeddings().bias, offset)
