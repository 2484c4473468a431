"""A table: key → row. Every table has two forms, one that learns and one that is compiled to be read.

    table = Compositional(rows=1_000_000, dim=16, collisions=4)
    table(ids)                    # [..., 16], differentiable
    small = table.compiled()       # the same rows, without gradients, as few bytes as the method allows
    small.nbytes                  # codes, remaps, masks and indices counted

Both are plain `torch.nn.Module`s over int64 ids in [0, rows), so one goes wherever an `nn.Embedding` goes.
"""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from inlay.errors import BadInput, Corrupt
from inlay.tables import files

__all__ = ["Compiled", "Frozen", "Table"]


class Rows(nn.Module):
    """What both forms share: ids in [0, rows) to rows of `dim` numbers.

    A subclass gives `super().__init__` the plain keyword arguments that make it again; `repr` shows them and files
    keep them. It computes rows in `lookup`; `forward` checks the ids first.
    """

    def __init__(self, rows: int, dim: int, **settings: Any) -> None:
        super().__init__()
        for what, number in (("rows", rows), ("dim", dim)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise BadInput(f"{what} must be an integer of at least 1, got {number!r}")
        self.rows, self.dim = rows, dim
        self.settings: dict[str, Any] = {"rows": rows, "dim": dim, **settings}
        self.trained_on = ""

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim] of valid ids [...]."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., dim] of int ids [...]; ids outside [0, rows) are refused."""
        if ids.dtype.is_floating_point or ids.dtype is torch.bool:
            raise BadInput(f"ids must be integers, got {ids.dtype}")
        if ids.numel():
            low, high = (int(bound) for bound in torch.aminmax(ids))
            if low < 0 or high >= self.rows:
                raise BadInput(f"id {low if low < 0 else high} is outside this table's [0, {self.rows})")
        return self.lookup(ids)

    @torch.no_grad()
    def materialize(self, ids: Tensor | None = None, batch: int = 1 << 16) -> Tensor:
        """Float32 rows [n, dim] of ids (all, if None) as they are read outside of training."""
        wanted = torch.arange(self.rows) if ids is None else torch.as_tensor(ids).flatten()
        was = self.training
        self.eval()
        try:
            parts = [self(part).float() for part in wanted.split(batch)]
        finally:
            self.train(was)
        return torch.cat(parts) if parts else torch.zeros(0, self.dim)

    @property
    def num_parameters(self) -> int:
        """Numbers that are learnt."""
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    def parts(self) -> list[Rows]:
        """The tables this one is made of, in the order `assemble` takes them; empty for most."""
        return []

    @classmethod
    def assemble(cls, parts: list[Any], settings: dict[str, Any]) -> Self:
        """What a file describes, before its tensors are filled in."""
        return cls(**settings)

    def _facts(self) -> dict[str, Any]:
        facts = {"class": type(self).__name__, "settings": self.settings, "trained on": self.trained_on}
        return facts | {"parts": [part._facts() for part in self.parts()]}

    def save(self, path: str | Path) -> Path:
        """Write to one file (safetensors, settings in its header)."""
        return files.write(path, self.state_dict(), self._facts())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; any table can be read through `Table.load` or `Compiled.load`."""
        tensors, facts = files.read(path)
        made = _make(facts, path)
        if not isinstance(made, cls):
            raise BadInput(f"{path} holds a {type(made).__name__}, not a {cls.__name__}")
        try:
            made.load_state_dict(tensors)
        except RuntimeError as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); save the table again") from None
        return made


def _make(facts: dict[str, Any], path: str | Path) -> Any:
    try:
        of = getattr(import_module("inlay.tables"), facts["class"])
        made: Rows = of.assemble([_make(part, path) for part in facts["parts"]], facts["settings"])
        made.trained_on = str(facts["trained on"])
    except (KeyError, AttributeError, TypeError) as error:
        raise Corrupt(f"{path} names a table this version of inlay cannot make ({error!r})") from None
    return made


class Table(Rows):
    """The form that learns. Subclasses override what differs; the plain answers are here."""

    def compiled(self) -> Compiled:
        """The form that is read: the same rows (exactly, or to the rounding its docstring states)."""
        return Frozen(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the compiled form."""
        return self.compiled().nbytes

    @property
    def train_nbytes(self) -> int:
        """Bytes held while it learns, gradients and moments of an optimiser left out."""
        return _bytes(self)

    def penalty(self) -> Tensor:
        """What the method adds to the loss, of the rows read since the last call; a scalar."""
        return torch.zeros(())

    def after_step(self) -> None:
        """What the method does after each step of the optimiser (rounding, pruning)."""


class Compiled(Rows):
    """The form that is read: buffers only, no gradients, and every byte counted."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything a lookup touches."""
        return _bytes(self)


class Frozen(Compiled):
    """A table whose learning form is already its smallest: a copy without gradients."""

    def __init__(self, table: Table) -> None:
        super().__init__(table.rows, table.dim)
        self.settings, self.trained_on = {}, table.trained_on
        self.table = copy.deepcopy(table).eval().requires_grad_(False)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        return self.table.lookup(ids)

    def forward(self, ids: Any) -> Any:
        """As the table reads them, whatever form its ids have."""
        return self.table(ids)

    def materialize(self, ids: Tensor | None = None, batch: int = 1 << 16) -> Tensor:
        """As the table does."""
        return self.table.materialize(ids, batch)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: nothing here learns."""
        return super().train(False)

    def parts(self) -> list[Rows]:
        """The table."""
        return [self.table]

    @classmethod
    def assemble(cls, parts: list[Any], settings: dict[str, Any]) -> Self:
        """A copy of the one part."""
        return cls(parts[0])


def _bytes(module: nn.Module) -> int:
    """Bytes of parameters and of buffers that are kept with them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
