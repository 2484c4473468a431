"""Free embeddings: vectors of queries and documents learnt for one table of judgments, without any text or model.

Whether n documents fit into d numbers is a question about the vectors alone. If even vectors that are free to be
anything do not order a table of judgments, no encoder of that width does. If they do, they are proof that the width is
enough: the smallest that succeeds bounds the rank of the table, rank_rop(A), from above, and the sign rank with it
(rank±(2A − 1) − 1 ≤ rank_rop(A) ≤ rank±(2A − 1)).

To the letter: rows drawn from a Gaussian and brought to length 1; InfoNCE over all documents, one term for each query
and document that belong together, T = 0.1; all of them in one batch; Adam at 0.01; rows back to length 1 after every
step; solved when every query has exactly its documents on top, looked at every 50 steps; given up when the loss has not
fallen by 1e-5 for 1,000 steps, or after 100,000. A tie is not solved, where the published code lets the order of a sort
decide.

Weller, Boratko, Naim and Lee, "On the Theoretical Limitations of Embedding-Based Retrieval" (arXiv 2508.21038).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt, MissingExtra
from inlay.kernels.free_steps import FIRST, SECOND, TINY, Ending, free_steps, ordered_share

__all__ = ["FreeEmbeddings", "all_subsets", "learn_free_embeddings", "torch_loss"]

KIND = "free embeddings"
LOGITS = 1 << 28  # queries times documents at most: 1 GB of scores
ROWS = np.float32


@dataclass(frozen=True)
class FreeEmbeddings:
    """Vectors that were brought towards an order.

    Args:
        queries: float32 [queries, dim] at length 1.
        documents: float32 [documents, dim] at length 1.
        solved: whether every query has exactly its documents on top.
        ordered: share of the queries of which that is true.
        steps: taken.
        loss: before the last step, in nats.
    """

    queries: np.ndarray
    documents: np.ndarray
    solved: bool
    ordered: float
    steps: int
    loss: float

    def __repr__(self) -> str:
        said, dim = "solved" if self.solved else f"{self.ordered:.1%} ordered", self.queries.shape[1]
        return f"FreeEmbeddings({len(self.documents)} documents, dim {dim}: {said}, {self.steps} steps)"

    def save(self, path: str | Path) -> Path:
        """Write the vectors, and how they came about, to one file."""
        facts = {"solved": self.solved, "ordered": self.ordered, "steps": self.steps, "loss": self.loss}
        arrays = {"queries": self.queries, "documents": self.documents}
        return sealed.write(path, arrays, {"kind": KIND, "settings": facts})

    @classmethod
    def load(cls, path: str | Path) -> FreeEmbeddings:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        try:
            own: Any = facts["settings"]
            queries, documents = (np.array(arrays[name], dtype=ROWS) for name in ("queries", "documents"))
            if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
                raise ValueError(f"vectors {list(queries.shape)} and {list(documents.shape)}")
            ending = bool(own["solved"]), float(own["ordered"]), int(own["steps"]), float(own["loss"])
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold free embeddings ({error}); {sealed.REPAIR}") from None
        return cls(queries, documents, *ending)


def all_subsets(n: int, k: int = 2) -> np.ndarray:
    """The table of judgments in which every k of n documents are asked for once: bool [C(n, k), n], lexicographic."""
    for name, number in (("n", n), ("k", k)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise BadInput(f"{name} must be a positive whole number, got {number!r}")
    if k >= n:
        raise BadInput(f"k={k} documents of n={n} leave none to be ordered below them; take n above k")
    if comb(n, k) * n > LOGITS:
        raise BadInput(f"{comb(n, k):,} subsets of {n} documents are too many scores; the limit is {LOGITS:,}")
    wanted = np.zeros((comb(n, k), n), dtype=bool)
    wanted[np.arange(len(wanted))[:, None], np.array(list(combinations(range(n), k)), dtype=np.int64)] = True
    return wanted


def learn_free_embeddings(
    wanted: np.ndarray, dim: int, *, temperature: float = 0.1, rate: float = 0.01, steps: int = 100_000,
    every: int = 50, patience: int = 1000, least: float = 1e-5, seed: int = 42, device: str | None = None,
) -> FreeEmbeddings:  # fmt: skip
    """Look for vectors that order a table of judgments.

    Args:
        wanted: bool [queries, documents], which documents belong to a query: some, and not all, of each.
        dim: width of the vectors.
        temperature: of the softmax.
        rate: learning rate of Adam.
        steps: at most.
        every: the order is looked at every so many steps.
        patience: steps without improvement after which the search gives up.
        least: an improvement that is smaller is none.
        seed: of the first vectors.
        device: None for the kernels of this package on one core; else where torch runs (`cpu`, `cuda`; extra `train`),
            for widths at which a graphics card pays.

    Raises:
        BadInput: a query has no document or all of them, or a setting is out of its range.
    """
    wanted = _checked(wanted)
    for name, number in (("dim", dim), ("steps", steps), ("every", every), ("patience", patience)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise BadInput(f"{name} must be a positive whole number, got {number!r}")
    for name, value in (("temperature", temperature), ("rate", rate), ("least", least)):
        if not np.isfinite(value) or value < 0 or (value == 0 and name != "least"):
            raise BadInput(f"{name} must be a positive number, got {value!r}")
    random = np.random.default_rng(seed)
    queries = _unit(random.standard_normal((wanted.shape[0], dim), dtype=ROWS))
    documents = _unit(random.standard_normal((wanted.shape[1], dim), dtype=ROWS))
    options: dict[str, Any] = {
        "temperature": temperature, "rate": rate, "most": steps, "every": every, "patience": patience, "least": least,
    }  # fmt: skip
    if device is None:
        ending = free_steps(queries, documents, wanted, **options)
    else:
        queries, documents, ending = _by_torch(queries, documents, wanted, device, **options)
    ordered = ordered_share(queries, documents, wanted)
    return FreeEmbeddings(queries, documents, ending.solved, ordered, ending.steps, ending.loss)


def torch_loss(queries: Any, documents: Any, wanted: Any, temperature: float) -> Any:
    """The loss as torch computes it, a tensor: −log softmax of each wanted pair, averaged."""
    import torch

    log_shares = torch.log_softmax(queries @ documents.T / temperature, dim=1)
    return -log_shares[wanted].mean()


def _by_torch(
    queries: np.ndarray, documents: np.ndarray, wanted: np.ndarray, device: str, *, temperature: float, rate: float,
    most: int, every: int, patience: int, least: float,
) -> tuple[np.ndarray, np.ndarray, Ending]:  # fmt: skip
    try:
        import torch
    except ImportError:
        raise MissingExtra("free embeddings on a device", "train") from None
    try:
        rows = [torch.tensor(own, device=device, requires_grad=True) for own in (queries, documents)]
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"torch has no device {device!r} here ({error}); leave device out") from None
    table = torch.tensor(wanted, device=device)
    adam = torch.optim.Adam(rows, lr=rate, betas=(FIRST, SECOND), eps=TINY)
    best, waited, value, taken, solved = np.inf, 0, np.inf, most, False

    def ordered() -> bool:
        with torch.no_grad():
            scores = rows[0] @ rows[1].T
            lowest = scores.masked_fill(~table, torch.inf).amin(dim=1)
            return bool((lowest > scores.masked_fill(table, -torch.inf).amax(dim=1)).all())

    for step in range(most):
        adam.zero_grad()
        loss = torch_loss(rows[0], rows[1], table, temperature)
        loss.backward()
        adam.step()
        with torch.no_grad():
            for own in rows:
                own /= own.norm(dim=1, keepdim=True)
        value = loss.item()
        best, waited = (value, 0) if value < best - least else (best, waited + 1)
        if step % every == 0 and ordered():
            taken, solved = step + 1, True
            break
        if waited >= patience:
            taken = step + 1
            break
    solved = solved or ordered()
    found = [own.detach().cpu().numpy() for own in rows]
    return found[0], found[1], Ending(solved, taken, value)


def _checked(wanted: np.ndarray) -> np.ndarray:
    wanted = np.asarray(wanted)
    if wanted.ndim != 2 or not wanted.size or (wanted.dtype != bool and not np.isin(wanted, (0, 1)).all()):
        raise BadInput(f"wanted is a table of true and false [queries, documents], got {wanted.dtype} {wanted.shape}")
    wanted = np.ascontiguousarray(wanted, dtype=bool)
    if wanted.size > LOGITS:
        raise BadInput(f"{wanted.shape[0]:,} queries over {wanted.shape[1]:,} documents are too many scores; the limit "
                       f"is {LOGITS:,}")  # fmt: skip
    counts = wanted.sum(axis=1)
    bad = np.flatnonzero((counts == 0) | (counts == wanted.shape[1]))
    if len(bad):
        raise BadInput(f"query {bad[0]} wants {counts[bad[0]]} of {wanted.shape[1]} documents; leave out queries that "
                       "have nothing to order")  # fmt: skip
    return wanted


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return np.ascontiguousarray(rows / lengths, dtype=ROWS)
