"""Static token tables: a text is the mean of its tokens' rows. No network to run, so thousands of texts a second.

A table comes from a folder in model2vec's layout (`Static.load`) or from any array and word list (`Static`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import spans, texts
from inlay.errors import BadInput, Corrupt, MissingExtra
from inlay.types import Space

__all__ = ["Static"]

BATCH = 1024
# Tokens gathered at a time: bounds the memory of a very long text.
GATHER = 1 << 16


class Static:
    r"""Mean of token rows.

    A text none of whose tokens are in the table gets a zero row: it scores 0 with everything. Queries and documents
    are encoded alike.

    Args:
        table: float32, float16 or int8 [rows, dim]. int8 rows share one scale, which normalisation removes.
        tokens: words [tokens] of the rows, looked up among the lower-cased `\w+` runs of a text. Needs no extra.
        weights: factor of each token [tokens]; the mean still divides by the number of tokens, as model2vec does.
        normalize: scale rows to unit length.
        mapping: row of each token [tokens], where several tokens share one (a quantised vocabulary).
        tokenizer: a `tokenizers.Tokenizer` or its JSON, in place of `tokens`; its unknown token is left out.
    """

    expensive = False

    def __init__(
        self,
        table: np.ndarray,
        tokens: Sequence[str] | None = None,
        weights: np.ndarray | None = None,
        normalize: bool = True,
        *,
        mapping: np.ndarray | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.table = np.ascontiguousarray(table)
        if self.table.ndim != 2 or 0 in self.table.shape or self.table.dtype.kind not in "fi":
            raise BadInput(f"table must be numbers [rows, dim], got {self.table.dtype} {list(self.table.shape)}")
        if self.table.dtype.itemsize > 4:
            self.table = self.table.astype(np.float32)
        if self.table.dtype.kind == "f" and not np.isfinite(self.table).all():
            raise BadInput("table holds NaN or infinity")
        if (tokens is None) == (tokenizer is None):
            raise BadInput("give either tokens (a word list) or a tokenizer, not both and not neither")
        self.normalize = bool(normalize)
        self.path: str | None = None
        self._tokenizer: Any = None
        self._unknown: int | None = None
        self.weights = None if weights is None else np.ascontiguousarray(weights, dtype=np.float32)
        self.mapping = None if mapping is None else np.ascontiguousarray(mapping, dtype=np.int64)
        if tokens is not None:
            self._read_tokens(tokens)
        else:
            self._read_tokenizer(tokenizer)
        self._check_sizes()
        parts = [self.table, self._vocabulary_json]
        parts += [part for part in (self.weights, self.mapping) if part is not None]
        settings = {"normalize": self.normalize, "table": str(self.table.dtype), "shape": list(self.table.shape)}
        settings |= {"weights": self.weights is not None, "mapping": self.mapping is not None}
        self.space = Space("dense", self.table.shape[1], "cosine", fingerprint("static", settings, parts))

    def _read_tokens(self, tokens: Sequence[str]) -> None:
        if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
            raise BadInput("tokens must be a list of str, one for each row")
        self.size = len(tokens)
        self._number = {token: i for i, token in enumerate(tokens)}
        if len(self._number) < len(tokens):
            twice = next(token for i, token in enumerate(tokens) if self._number[token] != i)
            raise BadInput(f"tokens must be distinct, {twice!r} occurs twice")
        self._vocabulary_json = json.dumps(list(tokens), ensure_ascii=False)

    def _read_tokenizer(self, tokenizer: Any) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtra("token tables with a tokenizer", "static") from None
        # The JSON is kept as it came: the identity must not change when the library writes it another way.
        self._vocabulary_json = tokenizer if isinstance(tokenizer, str) else tokenizer.to_str()
        try:
            self._tokenizer = Tokenizer.from_str(self._vocabulary_json)
        except Exception as error:  # the library raises bare Exception
            raise BadInput(f"the tokenizer cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        model = json.loads(self._vocabulary_json).get("model", {})
        unknown = model.get("unk_token")
        self._unknown = model.get("unk_id") if unknown is None else self._tokenizer.token_to_id(unknown)
        self.size = max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def _check_sizes(self) -> None:
        rows = len(self.table)
        if self.mapping is None and self.size > rows:
            raise BadInput(f"the vocabulary has {self.size} tokens, the table only {rows} rows")
        for name, part in (("weights", self.weights), ("mapping", self.mapping)):
            if part is not None and (part.ndim != 1 or len(part) < self.size):
                raise BadInput(f"{name} must have one entry for each of {self.size} tokens, got {list(part.shape)}")
        if self.weights is not None and not np.isfinite(self.weights).all():
            raise BadInput("weights hold NaN or infinity")
        if self.mapping is not None and ((self.mapping < 0) | (self.mapping >= rows)).any():
            raise BadInput(f"mapping points outside the {rows} rows of the table")

    def __repr__(self) -> str:
        of = f"{self.path!r}, " if self.path else ""
        return f"Static({of}tokens={self.size}, dim={self.space.dim}, normalize={self.normalize})"

    @property
    def spec(self) -> dict[str, Any] | None:
        """Arguments of `inlay.encoder` that make this encoder again; None until the table is in a folder (`save`)."""
        return {"name": "static", "path": self.path, "normalize": self.normalize} if self.path else None

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]."""
        checked = texts(items)
        rows = np.zeros((len(checked), self.space.dim), dtype=np.float32)
        for part in spans(len(checked), batch_size, BATCH, progress=progress, what="static"):
            for i, tokens in enumerate(self._tokenize(checked[part]), part.start):
                if len(tokens):
                    rows[i] = self._mean(tokens)
        if self.normalize:
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            np.divide(rows, norms, out=rows, where=norms > 0)
        return rows

    encode_query = encode_document

    def _tokenize(self, checked: list[str]) -> list[list[int]]:
        if self._tokenizer is None:
            number = self._number
            return [[number[w] for w in re.findall(r"\w+", text.lower()) if w in number] for text in checked]
        found = [e.ids for e in self._tokenizer.encode_batch_fast(checked, add_special_tokens=False)]
        if self._unknown is None:
            return found
        return [[token for token in tokens if token != self._unknown] for tokens in found]

    def _mean(self, tokens: list[int]) -> np.ndarray:
        # A vector-matrix product per text: measured 4 to 10 times as fast as np.add.reduceat over a batch.
        total = np.zeros(self.space.dim, dtype=np.float32)
        for low in range(0, len(tokens), GATHER):
            ids = np.array(tokens[low : low + GATHER])
            rows = self.table[ids if self.mapping is None else self.mapping[ids]].astype(np.float32, copy=False)
            weights = np.ones(len(ids), dtype=np.float32) if self.weights is None else self.weights[ids]
            total += weights @ rows
        return total / len(tokens)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder that `load` reads: model.safetensors, config.json and tokenizer.json or tokens.json."""
        try:
            from safetensors.numpy import save_file
        except ImportError:
            raise MissingExtra("saved token tables", "static") from None
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"embeddings": self.table, "weights": self.weights, "mapping": self.mapping}
        save_file({k: v for k, v in arrays.items() if v is not None}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"normalize": self.normalize}) + "\n", encoding="utf-8")
        vocabulary = "tokens.json" if self._tokenizer is None else "tokenizer.json"
        (folder / vocabulary).write_text(self._vocabulary_json, encoding="utf-8", newline="")
        self.path = os.path.abspath(folder)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, normalize: bool | None = None) -> Static:
        """Read a folder in model2vec's layout (also sentence-transformers' `0_StaticEmbedding`), or one of `save`.

        Args:
            path: folder with model.safetensors, tokenizer.json (or tokens.json) and, optionally, config.json.
            normalize: in place of what config.json says (True where it says nothing).
        """
        try:
            from safetensors import SafetensorError
            from safetensors.numpy import load_file
        except ImportError:
            raise MissingExtra("saved token tables", "static") from None
        root = Path(path).expanduser().absolute()
        root = root.parent if root.name == "model.safetensors" else root
        folder = root if (root / "model.safetensors").exists() else root / "0_StaticEmbedding"
        if not (folder / "model.safetensors").exists():
            raise BadInput(f"no token table in {root}: expected model.safetensors and tokenizer.json")
        try:
            arrays = load_file(folder / "model.safetensors")
        except (SafetensorError, KeyError, ValueError) as error:
            raise Corrupt(f"{folder / 'model.safetensors'} cannot be read ({error}); fetch the model again") from None
        table = arrays.get("embeddings", arrays.get("embedding.weight"))
        if table is None:
            raise BadInput(f"{folder / 'model.safetensors'} holds {sorted(arrays)}, expected 'embeddings'")
        words, tokenizer = folder / "tokens.json", folder / "tokenizer.json"
        if not words.exists() and not tokenizer.exists():
            raise BadInput(f"no tokenizer.json in {folder}")
        if normalize is None:
            config = _json(root / "config.json", {})
            normalize = bool(config.get("normalize", True))
        encoder = cls(
            table,
            _json(words, []) if words.exists() else None,
            arrays.get("weights"),
            normalize,
            mapping=arrays.get("mapping"),
            tokenizer=None if words.exists() else tokenizer.read_bytes().decode("utf-8"),
        )
        encoder.path = str(root)
        return encoder


def _json(path: Path, otherwise: Any) -> Any:
    if not path.exists():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Corrupt(f"{path} is not JSON ({error}); fetch the model again") from None
