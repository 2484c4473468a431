"""Two small towers on frozen rows: one for queries, one for items, learnt from pairs by an in-batch softmax.

The encoder stays as it is and its rows are made once, so a pair of towers is learnt in seconds. A tower is a linear map
and beside it a branch of two maps with a ReLU between them, which starts at nothing; its rows have length 1. Items that
are known beforehand may instead be rows of a table that is learnt, as they are where people buy or watch things. On the
item side may stand an indexing layer (`JointPQ`), through which items go while the towers learn; queries do not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay import sealed
from inlay.errors import BadInput, Corrupt

if TYPE_CHECKING:
    from inlay.training.joint_product import JointPQ

__all__ = ["ItemRows", "Tower", "TwoTower"]

KIND = "two towers"
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


class Tower(nn.Module):
    """unit(W·x + V·relu(U·x + b)), V starting at 0."""

    def __init__(self, width: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.line = nn.Linear(width, dim, bias=False)
        self.into, self.out = nn.Linear(width, hidden), nn.Linear(hidden, dim, bias=False)
        nn.init.orthogonal_(self.line.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """Unit rows [n, dim] of rows [n, width]."""
        return F.normalize(self.line(rows) + self.out(F.relu(self.into(rows))), dim=-1)


class ItemRows(nn.Module):
    """A unit row for each of so many items, learnt."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(count, dim)
        nn.init.normal_(self.rows.weight, std=dim**-0.5)  # of length 1: longer ones would turn more slowly

    def forward(self, items: Tensor) -> Tensor:
        """Unit rows [n, dim] of item numbers [n]."""
        return F.normalize(self.rows(items), dim=-1)


class TwoTower(nn.Module):
    """Query and item towers, which start alike.

    Args:
        width: of the frozen rows.
        dim: of what the towers make.
        hidden: of the branch.
        items: how many items there are, for a table in place of the item tower; an item is then its number.
        layer: indexing layer on the item tower.
        tau: temperature of the softmax over dot products.
        seed: of the first weights.
    """

    def __init__(
        self, width: int, dim: int = 64, *, hidden: int = 256, items: int | None = None, layer: JointPQ | None = None,
        tau: float = 0.05, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        given = {"width": width, "dim": dim, "hidden": hidden} | ({} if items is None else {"items": items})
        for name, number in given.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise BadInput(f"{name} must be a positive integer, got {number!r}")
        if not tau > 0:
            raise BadInput(f"tau must be above 0, got {tau!r}")
        if layer is not None and layer.dim != dim:
            raise BadInput(f"the layer takes rows of {layer.dim} numbers, the towers make {dim}; give both the same")
        self.width, self.dim, self.hidden, self.items = width, dim, hidden, items
        self.tau, self.seed = float(tau), seed
        self.item: Tower | ItemRows
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query = Tower(width, dim, hidden)
            self.item = Tower(width, dim, hidden) if items is None else ItemRows(items, dim)
        if items is None:
            self.item.load_state_dict(self.query.state_dict())
        self.layer = layer

    def __repr__(self) -> str:
        settings = f"hidden={self.hidden}, items={self.items}, tau={self.tau:g}, layer={self.layer!r}"
        return f"TwoTower({self.width}, {self.dim}, {settings})"

    def forward(self, queries: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a batch of pairs, [n, width] (or item numbers [n]), and the distortion of its items.

        Of n pairs the other n − 1 items are what a query's own must stand out from.
        """
        q, e = self.query(queries), self.item(items)
        distortion = e.new_zeros(())
        if self.layer is not None:
            e, distortion, *_ = self.layer(e)
        return F.cross_entropy(q @ e.T / self.tau, torch.arange(len(q), device=q.device)), distortion

    def fit(
        self,
        draw: Draw,
        *,
        steps: int,
        rate: float = 1e-3,
        layer_rate: float = 1e-3,
        weight: float = 1.0,
        decay: float = 0.0,
        seed: int = 0,
        watch: Callable[[int, float], Any] | None = None,
    ) -> TwoTower:
        """Learn from pairs with Adam, both rates falling to 0 along half a cosine.

        Args:
            draw: gives the batch of a step, queries float32 [n, width] and items alike, or their numbers int64 [n];
                rows whose items would answer each other's queries should not be in it together.
            steps: batches.
            rate: of the towers.
            layer_rate: of the layer's centres.
            weight: of the distortion.
            decay: of the towers' weights.
            seed: of the generator that `draw` is given.
            watch: called after each step with its number and loss.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise BadInput(f"steps must be a positive integer, got {steps!r}")
        random = np.random.default_rng(seed)
        groups: list[dict[str, Any]] = [
            {"params": [*self.query.parameters(), *self.item.parameters()], "lr": rate, "weight_decay": decay}
        ]
        if self.layer is not None:
            groups.append({"params": list(self.layer.parameters()), "lr": layer_rate, "weight_decay": 0.0})
        optimiser = torch.optim.AdamW(groups)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        self.train()
        for step in range(steps):
            queries, items = draw(random)
            loss, distortion = self(_tensor(queries), _tensor(items))
            optimiser.zero_grad()
            (loss + weight * distortion).backward()
            optimiser.step()
            falling.step()
            if self.layer is not None:
                self.layer.after_step()
            if watch is not None:
                watch(step, float(loss.detach()))
        self.eval()
        return self

    def encode_query(self, rows: np.ndarray) -> np.ndarray:
        """Unit rows float32 [n, dim] of queries [n, width]."""
        return self._rows(self.query, self._checked(rows))

    def encode_item(self, rows: np.ndarray) -> np.ndarray:
        """Unit rows float32 [n, dim] of items [n, width], or of their numbers [n], before any index."""
        if self.items is None:
            return self._rows(self.item, self._checked(rows))
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise BadInput(f"items are numbers [n] here, got {numbers.dtype} {list(numbers.shape)}")
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < self.items):
            raise BadInput(f"items go from 0 to {self.items - 1}, got {numbers.min()} to {numbers.max()}")
        return self._rows(self.item, numbers)

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise BadInput(f"the towers take rows [n, {self.width}], got {list(rows.shape)}")
        return rows

    @torch.no_grad()
    def _rows(self, tower: Tower | ItemRows, rows: np.ndarray) -> np.ndarray:
        return tower(_tensor(rows)).numpy()

    def save(self, path: str | Path) -> Path:
        """Write the towers to one file; a layer has its own `save`."""
        arrays = {name: own.detach().numpy() for name, own in self._own().items()}
        names = ("width", "dim", "hidden", "items", "tau", "seed")
        return sealed.write(path, arrays, {"kind": KIND, "settings": {name: getattr(self, name) for name in names}})

    @classmethod
    def load(cls, path: str | Path, *, layer: JointPQ | None = None) -> TwoTower:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        try:
            model = cls(**facts["settings"])
            model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        except (BadInput, KeyError, TypeError, RuntimeError) as error:
            raise Corrupt(f"{path} does not hold two towers ({error}); {sealed.REPAIR}") from None
        if layer is not None and layer.dim != model.dim:
            raise BadInput(f"the layer takes rows of {layer.dim} numbers, the towers make {model.dim}")
        model.layer = layer
        return model.eval()

    def _own(self) -> dict[str, Tensor]:
        return {name: own for name, own in self.state_dict().items() if not name.startswith("layer.")}


def _tensor(values: np.ndarray) -> Tensor:
    values = np.asarray(values)
    return torch.from_numpy(values.astype(np.int64 if values.dtype.kind in "iu" else np.float32, copy=False))
