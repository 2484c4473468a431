"""Input rows of f-grams written down: the table a trained SCONE becomes.

    model.input = compile_inputs(model.input)                           # in memory
    model.input = compile_inputs(model.input, "fgrams")                 # mapped from a folder
    model.input = compile_inputs(model.input, "fgrams.lmdb")            # a B+-tree keyed by the n-gram
    model.input = CompiledInputs.load("fgrams.lmdb")                    # later, without what made the rows

The rows are those that A_f gives, rounded to the type they are kept in: float32 exactly, bfloat16 to 2⁻⁸ of each
number, int8 (not in LMDB) to half a step of 1/127 of the row's largest. The rows T of tokens stay in memory.

Source: Scaling Embedding Layers in Language Models (arXiv 2502.01637): 16 bits a number, in memory or in LMDB.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.io import sync_folder
from inlay.lm.fgram_input import FGramInput
from inlay.lm.frequent_ngrams import FGrams
from inlay.lm.lmdb_rows import LmdbRows
from inlay.tables.row_store import RowStore
from inlay.tables.table import Compiled, Table

__all__ = ["CompiledInputs", "compile_inputs"]

KIND = "compiled inputs"


class CompiledInputs(FGramInput):
    """The `input` socket: ids to rows, those of f-grams as they were written down. Nothing here learns.

    Args:
        store: row number i is that of f-gram i; or a tree that finds f-grams by itself.
        tokens: T, token id → row [dim].
        fgrams: whose numbers the store's are; None for a tree.
        separator: the token that documents begin with; None: a text is one document.
    """

    def __init__(
        self, store: RowStore | LmdbRows, tokens: Compiled, fgrams: FGrams | None = None, separator: int | None = None
    ) -> None:
        super().__init__(fgrams, tokens, separator)
        width = store.dim if isinstance(store, LmdbRows) else store.width
        if width != tokens.dim:
            raise BadInput(f"rows of f-grams are {width} wide, those of tokens {tokens.dim}")
        if (fgrams is None) != isinstance(store, LmdbRows) or (fgrams is not None and len(fgrams) > len(store)):
            raise BadInput(f"{store} does not go with {fgrams}: a row store needs the f-grams it was filled for")
        self.store = store
        self.requires_grad_(False)

    @property
    def max_n(self) -> int:
        """Tokens of the longest f-gram there is room for."""
        return self.store.max_n if isinstance(self.store, LmdbRows) else super().max_n

    @property
    def nbytes(self) -> int:
        """Bytes of rows, of the tokens' as well, and of the f-grams where they are kept beside their rows."""
        own = 0 if self.fgrams is None else self.fgrams.tokens.nbytes + self.fgrams.lengths.nbytes
        return self.store.nbytes + own + int(self.tokens.nbytes)

    def rows(self, numbers: np.ndarray) -> Tensor:
        """Float32 rows [n, dim] of f-grams int64 [n]."""
        if isinstance(self.store, LmdbRows):
            raise BadInput("an LMDB file is read by n-gram, not by number")
        return torch.from_numpy(self.store.rows(numbers))

    def found(self, ids: np.ndarray, last: int) -> tuple[Tensor, np.ndarray]:
        """As in `FGramInput`."""
        if not isinstance(self.store, LmdbRows):
            return super().found(ids, last)
        rows, place = self.store.longest(ids, separator=self.separator, last=last)
        return torch.from_numpy(rows), place

    @classmethod
    def load(cls, path: str | Path, *, placement: Literal["mmap", "ram"] = "mmap", verify: bool = True) -> Self:
        """Open the folder that `compile_inputs` wrote.

        Args:
            path: of the folder.
            placement: of rows that are not in LMDB: `mmap` reads what is asked for; `ram` reads all of them now.
            verify: of LMDB, see `LmdbRows`; other rows are verified when they are first read.

        Raises:
            Corrupt: a file is damaged, cut short or missing.
        """
        path = Path(path)
        if placement not in ("mmap", "ram"):
            raise BadInput(f"placement must be 'mmap' or 'ram', got {placement!r}")
        _, facts = sealed.read(path / "inputs", KIND)
        try:
            tokens = Compiled.load(path / "tokens")
            if facts["lmdb"]:
                return cls(LmdbRows(path, verify=verify), tokens, None, facts["separator"])
            store = RowStore.open(path / "rows", placement=placement)
            return cls(store, tokens, FGrams.load(path / "fgrams"), facts["separator"])
        except (BadInput, KeyError) as error:
            raise Corrupt(f"{path} is incomplete ({error}); compile it again") from None

    def extra_repr(self) -> str:
        return f"{self.store}, separator={self.separator}"


@torch.no_grad()
def compile_inputs(
    trained: FGramInput, path: str | Path | None = None, *, dtype: str = "bfloat16", batch: int = 4096
) -> CompiledInputs:
    """The table that a trained input becomes; what made its rows is no longer needed.

    Args:
        trained: a `Scone`, or `DirectNGrams`.
        path: a folder to write, whole or not at all; named *.lmdb, it holds a B+-tree. None: rows stay in memory.
        dtype: `float32`, `bfloat16` or, not in LMDB, `int8`.
        batch: f-grams computed at a time.
    """
    if not isinstance(trained, FGramInput) or isinstance(trained, CompiledInputs):
        raise BadInput(f"only an input that makes rows of f-grams can be compiled, got {type(trained).__name__}")
    fgrams = trained.fgrams
    assert fgrams is not None
    if not len(fgrams):
        raise BadInput("there is no f-gram to be written down; mine with a smaller min_count")
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise BadInput(f"batch must be an integer of at least 1, got {batch!r}")
    tokens = trained.tokens.compiled() if isinstance(trained.tokens, Table) else trained.tokens

    def rows(numbers: np.ndarray) -> np.ndarray:
        return trained.rows(numbers).float().cpu().numpy()

    def fill(store: RowStore) -> None:
        for start in range(0, len(fgrams), batch):
            numbers = np.arange(start, min(start + batch, len(fgrams)))
            store.write(numbers, rows(numbers))

    was = trained.training
    trained.eval()
    try:
        if path is None:
            store = RowStore.zeros(len(fgrams), trained.dim, dtype=dtype)
            fill(store)
            return CompiledInputs(store, tokens, fgrams, trained.separator)
        path = Path(path)
        if path.exists():
            raise BadInput(f"{path} exists already; remove it first, or write to another place")
        if not path.parent.is_dir():
            raise BadInput(f"the folder {path.parent} does not exist; make it first")
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            if path.suffix == ".lmdb":
                LmdbRows.write(partial, fgrams, rows, trained.dim, dtype=dtype, batch=batch)
            else:
                partial.mkdir()
                store = RowStore.create(partial / "rows", len(fgrams), trained.dim, dtype=dtype)
                fill(store)
                store.close()
                fgrams.save(partial / "fgrams")
            tokens.save(partial / "tokens")
            facts = {"kind": KIND, "lmdb": path.suffix == ".lmdb", "separator": trained.separator}
            sealed.write(partial / "inputs", {}, facts)
            os.rename(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync_folder(path.parent)
    finally:
        trained.train(was)
    return CompiledInputs.load(path, verify=False)
