"""Heads that turn the rows of a frozen encoder into better ones: a residual layer for queries, one for documents.

A head is x + W₂·relu(W₁·x + b₁) + b₂, brought back to unit length; W₂ and b₂ begin at zero, so an untrained head gives
the rows it was given. The loss is the cross-entropy of each query's positive among all documents of the batch that are
not known to answer it; which documents stand in a batch is the business of `locality_batches`. Texts are encoded once,
and a head is learnt in seconds to minutes without a GPU.

In the paper the whole encoder is trained, its rows end in a LayerNorm and so have length √D, and the temperature is 1.
Rows here have length 1, and scores are divided by `temperature`: the same as rows of length 1/√temperature at 1.

Source: "Progressively Optimized Bi-Granular Document Representation for Scalable Embedding Based Retrieval" (BiDR,
arXiv 2201.05409, WWW 2022), whose dense stage this is.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import checked_rows
from inlay.training.locality_batches import Batches, PairBatch

__all__ = ["DenseHead", "ResidualLayer", "contrast", "learn"]

KIND = "dense head"
ROWS_AT_ONCE = 8192
WARM = 0.05  # share of the steps in which the rate rises


class ResidualLayer(nn.Module):
    """x + W₂·relu(W₁·x + b₁) + b₂ at unit length; the identity on unit rows until it is trained.

    Args:
        dim: width of a row.
        hidden: width between the two maps.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, rows: Tensor) -> Tensor:
        return F.normalize(rows + self.down(F.relu(self.up(rows))), dim=-1)


class DenseHead(nn.Module):
    """A head for queries and one for documents.

    Args:
        dim: width of the rows.
        hidden: width between a head's two maps; by default that of the rows.
        shared: one head for both sides, as the paper's encoder is one; False for pairs whose sides are unlike.
        temperature: what scores are divided by in the loss.
        seed: of the maps that do not start at zero.
    """

    def __init__(
        self, dim: int, *, hidden: int | None = None, shared: bool = True, temperature: float = 0.05, seed: int = 0
    ) -> None:
        for name, value in (("dim", dim), ("hidden", 1 if hidden is None else hidden)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise BadInput(f"{name} must be a positive integer, got {value!r}")
        if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
            raise BadInput(f"temperature must be a number above 0, got {temperature!r}")
        super().__init__()
        self.dim, self.hidden = int(dim), int(dim if hidden is None else hidden)
        self.shared, self.temperature, self.seed = bool(shared), float(temperature), int(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.of_query = ResidualLayer(self.dim, self.hidden)
            self.of_document = self.of_query if self.shared else ResidualLayer(self.dim, self.hidden)

    def __repr__(self) -> str:
        return (
            f"DenseHead({self.dim}, hidden={self.hidden}, shared={self.shared}, temperature={self.temperature}, "
            f"seed={self.seed})"
        )

    def copied(self) -> Self:
        """A head of its own with the same maps, to be trained on."""
        return copy.deepcopy(self)

    def fit(
        self, queries: np.ndarray, documents: np.ndarray, batches: Batches, *, epochs: int = 8, rate: float = 1e-3,
        weight_decay: float = 0.0, judge: Callable[[], float] | None = None,
    ) -> Self:  # fmt: skip
        """Train on from the maps there are.

        Args:
            queries: rows [n, dim] of the frozen encoder, as the batches number them.
            documents: likewise.
            batches: see `locality_batches`.
            epochs: passes over the queries.
            rate: of AdamW, at its highest; it rises over the first steps and falls to 0.
            weight_decay: of AdamW.
            judge: called after every epoch, says how good the head is (on pairs held out, say): the best is kept.
        """
        asked, told = _tensors(self.dim, batches, queries, documents)

        def loss(batch: PairBatch) -> Tensor:
            q, d = self.of_query(asked[batch.queries]), self.of_document(told[batch.documents])
            return contrast(q @ d.T, batch.keep, self.temperature)

        learn(self, loss, batches, epochs=epochs, rate=rate, weight_decay=weight_decay, judge=judge)
        return self

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Unit rows of queries, float32 [n, dim]."""
        return _through(self.of_query, checked_rows(rows, self.dim, what="query"))

    def document(self, rows: np.ndarray) -> np.ndarray:
        """Unit rows of documents, float32 [n, dim]."""
        return _through(self.of_document, checked_rows(rows, self.dim))

    @property
    def nbytes(self) -> int:
        """Bytes of the maps."""
        return sum(array.nbytes for array in self.arrays().values())

    @property
    def fingerprint(self) -> str:
        """Identity of the space its rows are in, as far as the head decides it."""
        return digest(self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name; maps that are shared once."""
        return {name: one.detach().cpu().numpy() for name, one in self.named_parameters()}

    def settings(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {name: getattr(self, name) for name in ("dim", "hidden", "shared", "temperature", "seed")}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: Any) -> Self:
        """Of what `arrays` and `settings` gave."""
        try:
            made = cls(**settings)
            kept = dict(made.named_parameters())
            if set(kept) != set(arrays):
                raise ValueError(f"maps {sorted(arrays)}")
            for name, parameter in kept.items():
                if tuple(arrays[name].shape) != tuple(parameter.shape):
                    raise ValueError(f"{name} is {list(arrays[name].shape)}")
                parameter.data = torch.tensor(arrays[name], dtype=torch.float32)
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the maps do not fit their settings ({error}); {sealed.REPAIR}") from None
        return made

    def save(self, path: str | Path) -> Path:
        """Write the maps to one file."""
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        return cls.restored(arrays, facts.get("settings"))


def contrast(scores: Tensor, keep: np.ndarray, temperature: float) -> Tensor:
    """Mean cross-entropy of cell (i, i) among the cells of row i that count.

    Args:
        scores: [B, C], document i of the first B the positive of query i.
        keep: bool [B, C]; (i, i) must count.
        temperature: what scores are divided by.
    """
    logits = (scores / temperature).masked_fill(~torch.from_numpy(keep), float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(logits)))


def learn(
    module: nn.Module, loss: Callable[[PairBatch], Tensor], batches: Batches, *, epochs: int, rate: float,
    weight_decay: float = 0.0, clip: float = 1.0, judge: Callable[[], float] | None = None,
) -> list[float]:  # fmt: skip
    """Train a module by AdamW on batches of pairs; gives the mean loss of each epoch.

    With a `judge` the module ends as it was after the epoch that the judge liked best, the start among them.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise BadInput(f"epochs must be a positive integer, got {epochs!r}")
    if not isinstance(rate, int | float) or not 0 < rate < float("inf"):
        raise BadInput(f"rate must be a number above 0, got {rate!r}")
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=weight_decay)
    total = epochs * len(batches)
    warm = max(1, round(WARM * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, max(0.0, (total - step) / max(1, total - warm)))
    )
    best, kept = (judge(), copy.deepcopy(module.state_dict())) if judge is not None else (0.0, None)
    losses: list[float] = []
    for _ in range(epochs):
        summed, steps = 0.0, 0
        module.train()
        for batch in batches.epoch():
            optimiser.zero_grad(set_to_none=True)
            cost = loss(batch)
            cost.backward()
            nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimiser.step()
            schedule.step()
            summed, steps = summed + float(cost.detach()), steps + 1
        module.eval()
        losses.append(summed / max(1, steps))
        if not np.isfinite(losses[-1]):
            raise BadInput(f"the loss became {losses[-1]} at rate {rate}; take a lower rate")
        if judge is not None and (now := judge()) > best:
            best, kept = now, copy.deepcopy(module.state_dict())
    if kept is not None:
        module.load_state_dict(kept)
    return losses


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Sixteen bytes, in hexadecimal, that stand for named arrays."""
    made = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        made.update(f"{name} {array.dtype} {array.shape};".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def _tensors(dim: int, batches: Batches, queries: np.ndarray, documents: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rows of queries and documents, as many as the batches number."""
    asked, told = checked_rows(queries, dim, what="query"), checked_rows(documents, dim, what="document")
    for name, rows, count in (
        ("query", asked, batches.positives.queries),
        ("document", told, batches.positives.documents),
    ):
        if len(rows) != count:
            raise BadInput(f"the batches number {count} {name} rows, got {len(rows)}; give the rows they were made for")
    return torch.from_numpy(np.ascontiguousarray(asked)), torch.from_numpy(np.ascontiguousarray(told))


def _through(layer: nn.Module, rows: np.ndarray) -> np.ndarray:
    out = np.empty(rows.shape, dtype=np.float32)
    with torch.no_grad():
        for low in range(0, len(rows), ROWS_AT_ONCE):
            part = torch.from_numpy(np.ascontiguousarray(rows[low : low + ROWS_AT_ONCE]))
            out[low : low + len(part)] = layer(part).numpy()
    return out
