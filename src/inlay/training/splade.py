"""SPLADE, trained: a text's weight for a term is the largest, over its tokens, of log(1 + ReLU(logit)).

Formal et al. 2021, "SPLADE v2" (arXiv 2109.10086): max pooling, a contrastive or distillation loss on dot products,
and the FLOPs regulariser (`inlay.training.Flops`) for queries and documents apart. The states that become logits come
from a masked language model, `Splade.masked_lm(folder)`; or from a token table, `Splade.table()`, where tokens do not
see each other. The second learns which terms go together and which count, trains in minutes on a processor, and what it
learnt runs without a network (`inlay.encoders.expansions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.encoders.expansions import Expansions
from inlay.encoders.masked_lm import MaskedLM, highest
from inlay.encoders.splade import joined, write_prompts
from inlay.encoders.wordpiece import WordPiece
from inlay.errors import BadInput
from inlay.training.models import rendered
from inlay.training.sparse_rows import SparseModel, log1p_relu
from inlay.training.transformer import TransformerTokens
from inlay.training.views import Rendered
from inlay.types import Sparse

__all__ = ["Splade", "TokenTable"]

LEAST = 1e-3  # an expansion that weighs less is not kept when a table is written
EXPANDED = 1024  # tokens whose expansions are made at a time


class TokenTable(nn.Module):
    """Rows of tokens that know nothing of each other, and the output layer they are held against.

    Args:
        vocabulary: WordPiece tokens in the order of `rows`.
        rows: [tokens, width]; scaled to unit length, they are the output layer's start, and times `scale` the input's.
        columns: numbers of the tokens that become columns; all if None.
        scale: logit of a token for itself at the start, before `offset`.
        offset: of every logit at the start. Terms whose cosine with a token is above −offset / scale begin active. What
            is never active has no gradient: begin with too many terms rather than too few, and let `Flops` take them.
        max_length: tokens after which a text is cut.
    """

    def __init__(
        self, vocabulary: Sequence[str], rows: np.ndarray | Tensor, *, columns: np.ndarray | None = None,
        scale: float = 4.0, offset: float = -2.0, max_length: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        table = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
        if table.ndim != 2 or len(table) != len(vocabulary) or not torch.isfinite(table).all():
            raise BadInput(f"{len(vocabulary)} tokens need as many finite rows, got {list(table.shape)}")
        chosen = np.arange(len(table)) if columns is None else np.asarray(columns)
        if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu" or len(np.unique(chosen)) < len(chosen):
            raise BadInput("columns must be distinct numbers of tokens, at least one")
        if chosen.min() < 0 or chosen.max() >= len(table):
            raise BadInput(f"columns must be numbers of the {len(table)} tokens, got {chosen.min()} to {chosen.max()}")
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise BadInput(f"max_length must be a positive whole number, got {max_length!r}")
        if not scale > 0:
            raise BadInput(f"scale must be above 0, got {scale}")
        self.max_length = max_length
        self.tokenizer = WordPiece(vocabulary)
        self._unknown = self.tokenizer.number["[UNK]"]
        table = F.normalize(table, dim=1)
        self.rows = nn.Parameter(scale * table)
        self.projection = nn.Parameter(table[torch.from_numpy(chosen)].clone())
        self.offset = nn.Parameter(torch.full((len(chosen),), float(offset)))
        self.register_buffer("columns", torch.from_numpy(chosen.astype(np.int64)))

    def tokenize(self, held: Sequence[str], hidden: Sequence[int]) -> TransformerTokens:
        """Ids of texts, padded. A prefix that is hidden is not read: here to be read is to be pooled."""
        found = [self.tokenizer(text[skip:], self.max_length) for text, skip in zip(held, hidden)]
        ids = torch.zeros(len(found), max(map(len, found), default=0), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, tokens in enumerate(found):
            ids[i, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            mask[i, : len(tokens)] = 1
        return TransformerTokens(ids, mask, mask * (ids != self._unknown))

    def states(self, tokens: TransformerTokens) -> Tensor:
        """Rows of tokens [n, length, width]."""
        # index_select: its gradient is an index_add, several times as fast as that of indexing.
        return self.rows.index_select(0, tokens.ids.flatten()).view(*tokens.ids.shape, self.rows.shape[1])

    @torch.no_grad()
    def expansions(self, prompts: Mapping[str, str]) -> Expansions:
        """What each token stands for, as the encoder that needs no torch."""
        parts = []
        for low in range(0, len(self.rows), EXPANDED):
            weights = log1p_relu(self.rows[low : low + EXPANDED] @ self.projection.T + self.offset)
            parts.append(Sparse.from_dense((weights * (weights >= LEAST)).cpu().numpy()))
        columns: Any = self.columns
        vocabulary = list(self.tokenizer.number)
        return Expansions(
            joined(parts, len(self.projection)), vocabulary, columns.cpu().numpy(), max_length=self.max_length,
            prompts=prompts,
        )  # fmt: skip


class Splade(SparseModel):
    """Terms of a vocabulary, weighted. Rows are not normalised: train with `InfoNCE(tau=1)` and `Flops`.

    Args:
        backbone: `TokenTable` or `inlay.encoders.masked_lm.MaskedLM`; see `Splade.table` and `Splade.masked_lm`.
        prompts: as in `Model`.
    """

    def __init__(self, backbone: TokenTable | MaskedLM, *, prompts: Mapping[str, str] | None = None) -> None:
        if not isinstance(backbone, TokenTable | MaskedLM):
            raise BadInput(f"a Splade stands on a TokenTable or a MaskedLM, got {type(backbone).__name__}")
        super().__init__(len(backbone.offset), prompts=prompts)
        self.backbone = backbone
        self.expensive = isinstance(backbone, MaskedLM)

    @classmethod
    def table(
        cls, vocabulary: Sequence[str] | None = None, rows: np.ndarray | Tensor | None = None, *,
        prompts: Mapping[str, str] | None = None, **options: Any,
    ) -> Splade:  # fmt: skip
        """Start from a token table; from that of the encoder in the box (30,522 × 256) if none is given.

        Args:
            vocabulary: tokens of `rows`.
            rows: [tokens, width].
            prompts: as in `Model`.
            options: of `TokenTable`.
        """
        if (vocabulary is None) != (rows is None):
            raise BadInput("give vocabulary and rows together, or neither to start from the box")
        if vocabulary is None or rows is None:
            from inlay.encoders.box_weights import FOLDER, Weights

            weights = Weights(FOLDER)
            codes, scales = weights.table("static")
            vocabulary, rows = weights.vocabulary, codes * scales[:, None]
        return cls(TokenTable(vocabulary, rows, **options), prompts=prompts)

    @classmethod
    def masked_lm(
        cls, path: str | Path, *, prompts: Mapping[str, str] | None = None, **options: Any
    ) -> Splade:  # fmt: skip
        """Start from a masked language model, a SPLADE folder or a BERT sentence encoder on this machine.

        Args:
            path: the folder.
            prompts: as in `Model`; from the folder.
            options: of `MaskedLM`.
        """
        backbone = MaskedLM(path, **options)
        return cls(backbone, prompts=backbone.prompts if prompts is None else prompts)

    def __repr__(self) -> str:
        return f"Splade({type(self.backbone).__name__}, dim={self.dim}, {self.num_parameters() / 1e6:.1f}M parameters)"

    def blocks(self) -> list[nn.Module]:
        """Layers of the language model; none of a token table."""
        return self.backbone.blocks() if isinstance(self.backbone, MaskedLM) else []

    def tokenize(self, items: Sequence[str | Rendered]) -> TransformerTokens:
        """Ids, padded to the longest text of the batch, and which tokens are read and which count."""
        held, hidden = rendered(items)
        if isinstance(self.backbone, TokenTable):
            return self.backbone.tokenize(held, hidden)
        return TransformerTokens(*self.backbone.ids(held, hidden))

    def pooled(self, tokens: TransformerTokens) -> Tensor:
        """Weights of terms [n, dim]."""
        if isinstance(self.backbone, TokenTable):
            states, projection = self.backbone.states(tokens), self.backbone.projection
        else:
            states, projection = self.backbone.states(tokens.ids, tokens.mask), self.backbone.decoder.weight
        # The activation rises, and the offset is the same for all tokens: the maximum may be taken before both.
        return log1p_relu(highest(states, tokens.pool.bool(), projection) + self.backbone.offset)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `inlay.encoders.splade.Splade` opens (of a masked LM, transformers as well)."""
        if isinstance(self.backbone, TokenTable):
            self.backbone.expansions(self.prompts).save(folder)
            return
        self.backbone.save(folder)
        write_prompts(Path(folder), self.prompts)
