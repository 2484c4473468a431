"""Fewer dimensions by maps that are not linear: kernel PCA, an autoencoder, and UMAP.

They stand beside PCA in the study of "Optimization of embeddings storage for RAG systems …" (arXiv 2505.00105), which
finds kernel PCA as good as PCA, the autoencoder and UMAP far worse. Kernel PCA is solved by scikit-learn, the
autoencoder is learnt by torch, UMAP is umap-learn's; what the first two learnt is arrays, and rows are mapped with
numpy alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.spaces.affine import Map, checked
from inlay.spaces.projections import _count

__all__ = ["UMAP", "Autoencoder", "KernelPCA"]

Kernel: TypeAlias = Literal["cosine", "poly", "rbf"]


class KernelPCA(Map):
    """Principal components in the space of a kernel, learnt from a sample.

    Args:
        dims: components to keep.
        kernel: `cosine`, `poly` ((γ x·y + 1)³) or `rbf` (exp(−γ |x − y|²)).
        gamma: γ; None for 1 / dim.
        sample: rows that are learnt from at most, evenly spaced; time grows with its cube, and each row that is mapped
            is compared with every one of them.
    """

    KIND = "kernel principal components"

    def __init__(self, dims: int, *, kernel: Kernel = "cosine", gamma: float | None = None, sample: int = 2000) -> None:
        self.dims, self.sample = _count("dims", dims), _count("sample", sample)
        if kernel not in get_args(Kernel):
            raise BadInput(f"kernel must be one of {', '.join(get_args(Kernel))}, got {kernel!r}")
        if gamma is not None and (isinstance(gamma, bool) or not isinstance(gamma, int | float) or not gamma > 0):
            raise BadInput(f"gamma must be a positive number or None, got {gamma!r}")
        self.kernel, self.gamma = kernel, gamma
        self._learnt: dict[str, np.ndarray] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"dims": self.dims, "kernel": self.kernel, "gamma": self.gamma, "sample": self.sample}

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return bool(self._learnt)

    @property
    def width(self) -> int:
        """Numbers of a row that comes out; 0 before `fit`."""
        return self._learnt["axes"].shape[1] if self._learnt else 0

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Learn from rows [n, dim], n above `dims`; Y is not used."""
        try:
            from sklearn.decomposition import KernelPCA as Solver
        except ImportError:
            raise MissingExtra("kernel principal components (scikit-learn)", "train") from None
        rows = checked(X)
        if len(rows) > self.sample:
            rows = rows[np.linspace(0, len(rows) - 1, self.sample).astype(np.int64)]
        if len(rows) <= self.dims:
            raise BadInput(f"{self.dims} components are learnt from more than as many rows, got {len(rows)}")
        solver = Solver(self.dims, kernel="precomputed", eigen_solver="dense")
        kernel = self._products(rows, rows)
        solver.fit(kernel)
        values = solver.eigenvalues_
        axes = solver.eigenvectors_ / np.sqrt(np.where(values > 0, values, np.inf))
        self._learnt = {
            "rows": rows,
            "axes": axes.astype(np.float32),
            "means": kernel.mean(axis=0).astype(np.float32),
            "mean": np.array([kernel.mean()], dtype=np.float32),
        }
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, dims] of rows [n, dim]."""
        self._need()
        kept = self._learnt
        rows = self._fitting(X, kept["rows"].shape[1])
        kernel = self._products(rows, kept["rows"])
        centred = kernel - kernel.mean(axis=1, keepdims=True) - kept["means"] + kept["mean"]
        return (centred @ kept["axes"]).astype(np.float32)

    def _products(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        left, right = left.astype(np.float64), right.astype(np.float64)
        if self.kernel == "cosine":
            lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in (left, right)]
            left, right = (one / np.where(size > 0, size, 1) for one, size in zip((left, right), lengths))
            return left @ right.T
        gamma = 1 / left.shape[1] if self.gamma is None else self.gamma
        if self.kernel == "poly":
            return (gamma * (left @ right.T) + 1) ** 3
        squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
        return np.exp(-gamma * np.maximum(squares, 0))

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return dict(self._learnt)

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        own = {name: np.array(arrays[name], dtype=np.float32) for name in ("rows", "axes", "means", "mean")}
        n = len(own["rows"])
        if own["rows"].ndim != 2 or own["axes"].shape != (n, self.dims) or own["means"].shape != (n,):
            raise ValueError(f"{n} rows with axes {list(own['axes'].shape)}")
        self._learnt = own


class Autoencoder(Map):
    """Two layers in, two layers out: rows as the numbers in the middle, from which they can be made again.

    Args:
        dims: numbers in the middle.
        hidden: width of the layer on either side; None for the mean of `dims` and the width of a row.
        epochs: passes over the rows.
        lr: learning rate of Adam.
        batch_size: rows a step.
        seed: of weights and order.
    """

    KIND = "autoencoder"

    def __init__(
        self, dims: int, *, hidden: int | None = None, epochs: int = 20, lr: float = 1e-3, batch_size: int = 256,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.dims, self.epochs, self.batch_size = (
            _count(name, number) for name, number in (("dims", dims), ("epochs", epochs), ("batch_size", batch_size))
        )
        self.hidden = None if hidden is None else _count("hidden", hidden)
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < 1:
            raise BadInput(f"lr must be a number between 0 and 1, got {lr!r}")
        self.lr, self.seed = float(lr), int(seed)
        self._weights: list[np.ndarray] = []  # [in, out] and [out] of the four layers

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {name: getattr(self, name) for name in ("dims", "hidden", "epochs", "lr", "batch_size", "seed")}

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return bool(self._weights)

    @property
    def width(self) -> int:
        """Numbers of a row that comes out; 0 before `fit`."""
        return self.dims if self._weights else 0

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Learn to make rows [n, dim] again, by their mean squared error; Y is not used."""
        try:
            import torch
        except ImportError:
            raise MissingExtra("autoencoders (torch)", "train") from None
        rows = checked(X)
        if len(rows) < 2:
            raise BadInput(f"an autoencoder learns from at least 2 rows, got {len(rows)}")
        dim = rows.shape[1]
        hidden = self.hidden or (dim + self.dims) // 2
        order = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = torch.nn.Sequential(
                torch.nn.Linear(dim, hidden), torch.nn.GELU(approximate="tanh"), torch.nn.Linear(hidden, self.dims),
                torch.nn.Linear(self.dims, hidden), torch.nn.GELU(approximate="tanh"), torch.nn.Linear(hidden, dim),
            )  # fmt: skip
        adam, data = torch.optim.Adam(net.parameters(), lr=self.lr), torch.from_numpy(np.ascontiguousarray(rows))
        scale = float(data.var()) or 1.0  # embeddings have small numbers: a loss of about 1 suits the learning rate
        for _ in range(self.epochs):
            for batch in torch.randperm(len(data), generator=order).split(self.batch_size):
                adam.zero_grad()
                (torch.nn.functional.mse_loss(net(data[batch]), data[batch]) / scale).backward()
                adam.step()
        linear: list[Any] = [net[i] for i in (0, 2, 3, 5)]
        self._weights = [part.detach().numpy().T.copy() for one in linear for part in (one.weight, one.bias)]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, dims] of rows [n, dim]."""
        self._need()
        return self._through(self._fitting(X, len(self._weights[0])), self._weights[:4])

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, dim]: the rows that the two layers out make."""
        return self._through(self._fitting(X, self.dims, "mapped rows"), self._weights[4:])

    @staticmethod
    def _through(rows: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
        first, offset, second, last = weights
        inner = rows @ first + offset
        bent = np.tanh(np.float32(np.sqrt(2 / np.pi)) * (inner + np.float32(0.044715) * inner**3))
        return (np.float32(0.5) * inner * (1 + bent)) @ second + last

    @property
    def nbytes(self) -> int:
        """Bytes of the two layers in, which rows and queries need."""
        return sum(one.nbytes for one in self._weights[:4])

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        return {f"{i}": one for i, one in enumerate(self._weights)}

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        own = [np.array(arrays[f"{i}"], dtype=np.float32) for i in range(8)]
        if own[2].shape[1] != self.dims or any(a.shape[1:] != b.shape for a, b in zip(own[::2], own[1::2])):
            raise ValueError(f"layers of {[list(one.shape) for one in own]}")
        self._weights = own


class UMAP(Map):
    """Uniform manifold approximation and projection, by the package umap-learn.

    Args:
        dims: numbers of a row that comes out.
        neighbours: of each row in the graph that is kept.
        seed: of the layout.
    """

    KIND = "umap"

    def __init__(self, dims: int, *, neighbours: int = 15, seed: int = 0) -> None:
        self.dims, self.neighbours, self.seed = _count("dims", dims), _count("neighbours", neighbours), int(seed)
        self._model: Any = None
        self._dim = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"dims": self.dims, "neighbours": self.neighbours, "seed": self.seed}

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return self._model is not None

    @property
    def width(self) -> int:
        """Numbers of a row that comes out; 0 before `fit`."""
        return self.dims if self._model is not None else 0

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Learn from rows [n, dim]; Y is not used."""
        try:
            import umap
        except ImportError:
            raise MissingExtra("UMAP (umap-learn)", "umap") from None
        rows = checked(X)
        model = umap.UMAP(n_components=self.dims, n_neighbors=self.neighbours, metric="cosine", random_state=self.seed)
        self._model, self._dim = model.fit(rows), rows.shape[1]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, dims] of rows [n, dim]."""
        return np.asarray(self._model.transform(self._fitting(X, self._dim)), dtype=np.float32)

    def save(self, path: str | Path) -> Path:
        """UMAP keeps its graph in objects of its package, which a file without pickle cannot hold."""
        raise BadInput("a UMAP map cannot be kept in a file; fit it again where it is needed, or take PCA")
