"""Token expansions: a token stands for itself and for terms like it, a text for the largest of what its tokens say.

A SPLADE whose tokens do not look at each other needs no network to run. The logits of a token are always the same, and
the maximum over tokens commutes with the activation, so everything there is to know is one sparse row a token. Only
those rows are kept, in one checked file; numpy is enough to read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay import sealed
from inlay.encoders.wordpiece import WordPiece
from inlay.errors import BadInput
from inlay.types import Sparse

__all__ = ["FILE", "Expansions"]

FILE = "splade.safetensors"
KIND = "table of token expansions"


class Expansions:
    """What each token of a vocabulary stands for.

    Args:
        rows: [tokens, columns], positive weights, columns ascending within a row.
        vocabulary: WordPiece tokens, in the order of the rows; `##` begins one that continues a word. Unknown words
            (`[UNK]`) say nothing.
        columns: number of the token that each column stands for [columns].
        max_length: tokens after which a text is cut.
        prompts: texts put before queries and documents.
    """

    def __init__(
        self, rows: Any, vocabulary: Sequence[str], columns: np.ndarray, *, max_length: int = 512,
        prompts: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.vocabulary = Sparse.of(rows), list(vocabulary)
        self.columns = np.asarray(columns, dtype=np.int64)
        tokens, width = self.rows.shape
        if tokens != len(self.vocabulary) or self.columns.shape != (width,):
            raise BadInput(
                f"{len(self.vocabulary)} tokens and {len(self.columns)} columns do not fit rows {[tokens, width]}"
            )
        if len(self.columns) and not (self.columns.min() >= 0 and self.columns.max() < tokens):
            raise BadInput(f"columns must be numbers of the {tokens} tokens")
        if not (np.isfinite(self.rows.data).all() and (self.rows.data > 0).all()):
            raise BadInput("weights of expansions must be finite and above 0")
        held = self.rows.indices
        if len(held) and not (held.min() >= 0 and held.max() < width):
            raise BadInput(f"expansions lead outside their {width} columns")
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise BadInput(f"max_length must be a positive whole number, got {max_length!r}")
        self.max_length = max_length
        self.prompts = {"query": "", "document": ""} | dict(prompts or {})
        self._tokenizer = WordPiece(self.vocabulary)
        self._unknown = self._tokenizer.number["[UNK]"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Columns."""
        return self.rows.shape[1]

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values that change the rows of texts, beside the arrays."""
        return {"max_length": self.max_length, "prompts": self.prompts}

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learnt."""
        return {
            "indptr": np.ascontiguousarray(self.rows.indptr, dtype=np.int64),
            "indices": np.ascontiguousarray(self.rows.indices, dtype=np.int32),
            "data": np.ascontiguousarray(self.rows.data, dtype=np.float32),
            "columns": self.columns,
            "vocabulary": np.frombuffer("\n".join(self.vocabulary).encode(), dtype=np.uint8),
        }

    def encode(self, checked: Sequence[str]) -> Sparse:
        """Rows of texts, the largest weight of each column over the tokens of a text."""
        found = [np.unique(self._tokenizer(text, self.max_length)).astype(np.int64) for text in checked]
        found = [ids[ids != self._unknown] for ids in found]
        said = self.rows[np.concatenate([np.zeros(0, dtype=np.int64), *found])]
        text = np.repeat(np.arange(len(found)), [len(ids) for ids in found])
        cells = np.repeat(text, np.diff(said.indptr)) * self.dim + said.indices
        order = np.argsort(cells, kind="stable")
        cells, weights = cells[order], said.data[order]
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        if len(starts):
            weights, cells = np.maximum.reduceat(weights, starts), cells[starts]
        row, columns = np.divmod(cells, self.dim)
        indptr = np.searchsorted(row, np.arange(len(found) + 1))
        return Sparse(indptr, columns.astype(np.int32), weights, (len(found), self.dim))

    def save(self, folder: str | Path) -> None:
        """Write `splade.safetensors` into a folder, which is made if it is not there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        sealed.write(Path(folder) / FILE, self.arrays(), {"kind": KIND} | self.settings)

    @classmethod
    def load(cls, folder: str | Path) -> Expansions:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(Path(folder) / FILE, KIND)
        columns, vocabulary = arrays["columns"], arrays["vocabulary"].tobytes().decode().split("\n")
        rows = Sparse(arrays["indptr"], arrays["indices"], arrays["data"], (len(vocabulary), len(columns)))
        return cls(rows, vocabulary, columns, max_length=int(facts["max_length"]), prompts=facts["prompts"])
