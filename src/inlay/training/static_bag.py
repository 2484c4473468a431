"""A trained token table: a text is the weighted mean of its tokens' rows. Exports to `inlay.encoders.Static`."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.encoders.static import Static
from inlay.errors import BadInput, MissingExtra
from inlay.training.after import quantise_table, truncate_dims
from inlay.training.models import Model, rendered
from inlay.training.views import Rendered

__all__ = ["BagTokens", "StaticBag", "count_words", "word_pieces"]

SMALLEST = 1e-4  # a weight is kept as its logarithm, so that it stays positive


class BagTokens(NamedTuple):
    """Token ids of all texts one after another, int64 [tokens], and where each text starts, int64 [n]."""

    ids: Tensor
    starts: Tensor

    def to(self, device: torch.device) -> BagTokens:
        """The same on another device."""
        return BagTokens(self.ids.to(device), self.starts.to(device))

    @property
    def total(self) -> int:
        """Tokens in all."""
        return len(self.ids)


class StaticBag(Model):
    r"""Mean of token rows, each times a learnt weight.

    Texts are cut into tokens exactly as `inlay.encoders.Static` cuts them, so that what is trained is what runs: no
    special tokens, the unknown token left out.

    Args:
        dim: width of a row; taken from `table` where that is given.
        words: the vocabulary, looked up among the lower-cased `\w+` runs of a text; or
        tokenizer: a `tokenizers.Tokenizer`, its JSON, or the path of a tokenizer.json.
        table: where training starts, [tokens, dim]; otherwise normal with deviation `dim ** -0.5`.
        weights: positive factor of each token [tokens]; 1 otherwise.
        train_weights: learn the factors too.
        heads: further outputs, name → width.
        max_length: tokens after which a text is cut (in training and in `encode`; the exported encoder reads it all).
        dropout: share of a text's tokens that is left out in training.
        prompts: as in `Model`.
    """

    def __init__(
        self,
        dim: int | None = None,
        *,
        words: Sequence[str] | None = None,
        tokenizer: Any = None,
        table: np.ndarray | Tensor | None = None,
        weights: np.ndarray | Tensor | None = None,
        train_weights: bool = True,
        heads: Mapping[str, int] | None = None,
        max_length: int = 512,
        dropout: float = 0.0,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        if dim is None and table is None:
            raise BadInput("a StaticBag needs a dim or a table to start from")
        super().__init__(int(table.shape[1] if table is not None else dim or 0), heads, prompts)
        if (words is None) == (tokenizer is None):
            raise BadInput("give either words or a tokenizer, not both and not neither")
        if dim is not None and dim != self.dim:
            raise BadInput(f"dim={dim}, but the table has rows of {self.dim}")
        if not 0 <= dropout < 1:
            raise BadInput(f"dropout must be from 0 up to 1, got {dropout}")
        self.words = None if words is None else list(words)
        self._number = {word: i for i, word in enumerate(self.words or [])}
        self._tokenizer: Any = None
        self._unknown: int | None = None
        if tokenizer is not None:
            self._tokenizer, self._unknown = _tokenizer(tokenizer)
        size = len(self.words) if self.words is not None else _size(self._tokenizer)
        start = torch.randn(size, self.dim) * self.dim**-0.5 if table is None else torch.as_tensor(table).float()
        factors = torch.ones(size) if weights is None else torch.as_tensor(weights).float()
        if start.ndim != 2 or len(start) < size or len(factors) < size:
            shapes = f"{list(start.shape)}, {list(factors.shape)}"
            raise BadInput(f"{size} tokens need as many rows and weights; got {shapes}")
        self.table = nn.Parameter(start[:size].clone())
        logs = factors[:size].clamp(min=SMALLEST).log()
        self.log_weights: Tensor
        if train_weights:
            self.log_weights = nn.Parameter(logs)
        else:
            self.register_buffer("log_weights", logs)
        self.max_length, self.dropout = int(max_length), float(dropout)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> StaticBag:
        """Start from a folder that `inlay.encoders.Static` reads (its own, or model2vec's)."""
        static = Static.load(path)
        folder = Path(path) if (Path(path) / "model.safetensors").exists() else Path(path) / "0_StaticEmbedding"
        vocabulary: dict[str, Any] = {"tokenizer": folder / "tokenizer.json"}
        if (folder / "tokens.json").exists():
            vocabulary = {"words": json.loads((folder / "tokens.json").read_text(encoding="utf-8"))}
        table = static.table.astype(np.float32)
        table = table if static.mapping is None else table[static.mapping]
        return cls(table=table, weights=static.weights, **vocabulary, **options)

    def __repr__(self) -> str:
        return f"StaticBag(tokens={len(self.table)}, dim={self.dim}, heads={list(self.heads)})"

    @property
    def weights(self) -> Tensor:
        """Factor of each token [tokens]."""
        return self.log_weights.exp()

    def tokenize(self, items: Sequence[str | Rendered]) -> BagTokens:
        """Tokens of texts; those of a hidden prefix are left out, for here to be read is to be pooled."""
        held, hidden = rendered(items)
        held = [text[skip:] for text, skip in zip(held, hidden)]
        if self._tokenizer is None:
            number = self._number
            found = [[number[w] for w in re.findall(r"\w+", text.lower()) if w in number] for text in held]
        else:
            found = [e.ids for e in self._tokenizer.encode_batch_fast(held, add_special_tokens=False)]
            if self._unknown is not None:
                found = [[token for token in tokens if token != self._unknown] for tokens in found]
        found = [tokens[: self.max_length] for tokens in found]
        starts = np.zeros(len(found), dtype=np.int64)
        np.cumsum([len(tokens) for tokens in found[:-1]], out=starts[1:])
        ids = np.fromiter(itertools.chain.from_iterable(found), dtype=np.int64)
        return BagTokens(torch.from_numpy(ids), torch.from_numpy(starts))

    def pooled(self, tokens: BagTokens) -> Tensor:
        """Weighted mean of the rows, [n, dim]; zero for a text without known tokens."""
        # index_select: its gradient is an index_add, several times as fast as that of indexing.
        factors = self.log_weights.index_select(0, tokens.ids).exp()
        if self.training and self.dropout:
            factors = F.dropout(factors, self.dropout)
        total = F.embedding_bag(tokens.ids, self.table, tokens.starts, mode="sum", per_sample_weights=factors)
        counts = torch.diff(tokens.starts, append=tokens.starts.new_tensor([len(tokens.ids)]))
        return total / counts.clamp(min=1)[:, None]

    def export(
        self, *, int8: bool = False, float16: bool = False, dim: int | None = None, head: str | None = None
    ) -> Static:
        """The encoder that runs without torch.

        Args:
            int8: one byte a number; each row's scale goes into the token's weight.
            float16: two bytes a number.
            dim: keep the first `dim` coordinates (of a table trained for it, see `Matryoshka`).
            head: give the rows of a head: being linear, it goes into the table.
        """
        rows = self.table if head is None else self.table @ self.heads[head].weight.T  # type: ignore[operator]
        table = rows.detach().cpu().numpy()
        table = table.copy() if dim is None else truncate_dims(table, dim)
        weights = self.weights.detach().cpu().numpy()
        if int8:
            table, weights = quantise_table(table, weights)
        elif float16:
            table = table.astype(np.float16)
        if self.words is not None:
            return Static(table, self.words, weights)
        return Static(table, weights=weights, tokenizer=self._tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `inlay.encoders.Static` and sentence-transformers both open.

        sentence-transformers knows no weights and only tokenizers: the weights are folded into the table, and a word
        list is left to inlay.
        """
        folder = Path(folder)
        folded = (self.table * self.weights[:, None]).detach().cpu().numpy()
        if self.words is not None:
            Static(folded, self.words).save(folder)
            return
        inner = folder / "0_StaticEmbedding"
        Static(folded, tokenizer=self._tokenizer).save(inner)
        from safetensors.numpy import save_file

        save_file({"embedding.weight": folded}, inner / "model.safetensors")
        modules = [("0_StaticEmbedding", "StaticEmbedding"), ("1_Normalize", "Normalize")]
        rows = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ]
        (folder / "1_Normalize").mkdir(exist_ok=True)
        (folder / "modules.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _tokenizer(given: Any) -> tuple[Any, int | None]:
    """A tokenizer of our own (its padding and truncation off), and the id of its unknown token."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("tokenizers", "train") from None
    if isinstance(given, Path):
        if not given.is_file():
            raise BadInput(f"no such tokenizer: {given}")
        given = given.read_text(encoding="utf-8")
    text = given if isinstance(given, str) else given.to_str()
    try:
        made = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise BadInput(f"the tokenizer cannot be read: {error}") from None
    made.no_truncation()
    made.no_padding()
    model = json.loads(text).get("model", {})
    unknown = model.get("unk_token")
    return made, model.get("unk_id") if unknown is None else made.token_to_id(unknown)


def _size(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def count_words(texts: Iterable[str], size: int, least: int = 2) -> list[str]:
    r"""The `size` most frequent lower-cased `\w+` runs that occur at least `least` times."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r"\w+", text.lower()))
    # Ties by the alphabet, so that the vocabulary does not depend on the order of the texts.
    ranked = sorted(((-n, word) for word, n in counts.items() if n >= least))[:size]
    if not ranked:
        raise BadInput(f"no word occurs {least} times in the texts; give more text or words of your own")
    return [word for _, word in ranked]


def word_pieces(texts: Iterable[str], size: int) -> Any:
    """A lower-cased WordPiece tokenizer of `size` pieces, trained on texts."""
    try:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise MissingExtra("tokenizers", "train") from None
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
