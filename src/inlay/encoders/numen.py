"""NUMEN: weighted hashed character n-grams, no training ("Beyond the Geometric Curse", arXiv 2601.15205).

Lower-case; split at whitespace; wrap each word as `^word$`; every n-gram of a wrapped word adds its weight to bucket
CRC-32(UTF-8) mod dim; `log(1 + v)`; L2-normalise. The number of buckets is the only capacity. It finds spellings, not
meanings: names, part numbers, inflections, typing errors. Rows are about 3 % full, so ask for `output="sparse"` where
there are more than a few thousand.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import spans, texts
from inlay.errors import BadInput
from inlay.kernels.ngrams import hash_ngrams, sum_words
from inlay.types import Space, Sparse

__all__ = ["Numen"]

BATCH = 2048
MOST_BUCKETS = 1 << 24


class Numen:
    """Weighted hashed character n-grams.

    A text without words (or with words shorter than every n) gets a zero row: it scores 0 with everything.
    The defaults are the paper's. The last four options are ours, off by default.

    Args:
        dim: number of buckets. 32768 for the paper's claims; 4096 to 8192 does for routine use.
        n: lengths of the n-grams, in characters.
        weights: what an n-gram of each length adds (the paper's PubMed variant: n=3…7 with 1, 5, 10, 15, 20).
        output: `dense` float32 [n, dim], or `sparse` CSR rows (the same numbers).
        idf: float32 [dim], or the path of a `.npy` file that holds it: factor of each bucket, applied after the
            logarithm. `fit` learns one.
        signed: let one bit of the hash decide the sign of an n-gram, so that collisions cancel on average.
        boundaries: False leaves out the `^` and `$`.
        stop_grams: n-grams to ignore, as they stand in the wrapped, lower-cased word (`"ing$"`).
    """

    expensive = False
    hybrid_share = 0.15  # what it is worth beside BM25: benchmarks/fusion.py
    hybrid_floor = 0.0

    def __init__(
        self,
        dim: int = 32_768,
        n: Sequence[int] = (3, 4, 5),
        weights: Sequence[float] = (1, 5, 10),
        output: Literal["dense", "sparse"] = "dense",
        *,
        idf: np.ndarray | str | os.PathLike[str] | None = None,
        signed: bool = False,
        boundaries: bool = True,
        stop_grams: Sequence[str] = (),
    ) -> None:
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not 1 <= dim <= MOST_BUCKETS:
            raise BadInput(f"dim must be a whole number from 1 to {MOST_BUCKETS}, got {dim!r}")
        n, weights = _tuple(n), _tuple(weights)
        if not n or any(not isinstance(m, (int, np.integer)) or not 1 <= m <= 64 for m in n) or len(set(n)) < len(n):
            raise BadInput(f"n must be distinct n-gram lengths from 1 to 64, got {n}")
        if len(weights) != len(n) or any(isinstance(w, str) or not 0 < w < float("inf") for w in weights):
            raise BadInput(f"weights must be {len(n)} positive numbers, one for each n in {n}, got {weights}")
        if output not in ("dense", "sparse"):
            raise BadInput(f"output must be 'dense' or 'sparse', got {output!r}")
        if isinstance(stop_grams, str):
            raise BadInput(f"stop_grams takes a list of n-grams, got one str; write [{stop_grams!r}]")
        self.dim, self.n, self.weights, self.output = int(dim), tuple(map(int, n)), tuple(map(float, weights)), output
        self.signed, self.boundaries, self.stop_grams = bool(signed), bool(boundaries), tuple(sorted(stop_grams))
        self._weight = np.zeros(max(self.n) + 1)
        self._weight[list(self.n)] = weights
        self._stop = np.unique(np.array([zlib.crc32(gram.encode()) for gram in self.stop_grams], dtype=np.uint32))
        self._idf_path: str | None = None
        self.idf: np.ndarray | None = None
        if isinstance(idf, (str, os.PathLike)):
            self._idf_path = os.path.abspath(idf)
            try:
                idf = np.load(self._idf_path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise BadInput(f"cannot read idf from {self._idf_path}: {error}") from None
        if idf is not None:
            self._set_idf(idf)

    def __repr__(self) -> str:
        said = [f"dim={self.dim}"]
        if (self.n, self.weights) != ((3, 4, 5), (1, 5, 10)):
            said += [f"n={self.n}", f"weights={self.weights}"]
        if self.output == "sparse":
            said.append("output='sparse'")
        if self.idf is not None:
            said.append(f"idf={self._idf_path!r}" if self._idf_path else "idf=<fitted>")
        said += ["signed=True"] * self.signed + ["boundaries=False"] * (not self.boundaries)
        said += [f"stop_grams={self.stop_grams}"] * bool(self.stop_grams)
        return f"Numen({', '.join(said)})"

    @property
    def space(self) -> Space:
        settings = {key: value for key, value in self._settings().items() if key != "output"}
        identity = fingerprint("numen", settings, [] if self.idf is None else [self.idf])
        if self.output == "sparse":
            return Space("sparse", self.dim, "dot", identity)
        return Space("dense", self.dim, "cosine", identity)

    @property
    def spec(self) -> dict[str, Any] | None:
        """Arguments of `inlay.encoder` that make this encoder again; None while a learnt idf is not in a file."""
        if self.idf is None:
            return {"name": "numen", **self._settings()}
        return {"name": "numen", **self._settings(), "idf": self._idf_path} if self._idf_path else None

    def _settings(self) -> dict[str, Any]:
        """JSON values; what is at its default and ours is left out, so that later options keep old fingerprints."""
        settings: dict[str, Any] = {
            "dim": self.dim,
            "n": list(self.n),
            "weights": [float(weight) for weight in self.weights],
            "output": self.output,
        }
        if self.signed:
            settings["signed"] = True
        if not self.boundaries:
            settings["boundaries"] = False
        if self.stop_grams:
            settings["stop_grams"] = list(self.stop_grams)
        return settings

    def fit(self, documents: Iterable[str]) -> Numen:
        """Learn an idf for each bucket: log(1 + (N − df + ½) / (df + ½)), as in BM25 (ours, not the paper's).

        The rows change, so the fingerprint does. Keep it with `save_idf`.
        """
        df, total, documents = np.zeros(self.dim), 0, texts(documents)
        for part in spans(len(documents), None, BATCH, progress=False, what="numen"):
            df += np.bincount(self.counts(documents[part]).indices, minlength=self.dim)
            total += part.stop - part.start
        if not total:
            raise BadInput("an idf needs at least one document to learn from")
        self._idf_path = None
        self._set_idf(np.log1p((total - df + 0.5) / (df + 0.5)))
        return self

    def save_idf(self, path: str | os.PathLike[str]) -> None:
        """Write the learnt idf to a `.npy` file, from where `Numen(idf=path)` takes it."""
        if self.idf is None:
            raise BadInput("this encoder has no idf to save; learn one with fit(documents)")
        with Path(path).open("wb") as file:
            np.save(file, self.idf, allow_pickle=False)
        self._idf_path = os.path.abspath(path)

    def _set_idf(self, idf: Any) -> None:
        idf = np.ascontiguousarray(idf, dtype=np.float32)
        if idf.shape != (self.dim,) or not np.isfinite(idf).all() or (idf < 0).any():
            raise BadInput(f"idf must be {self.dim} finite numbers >= 0, one for each bucket, got shape {idf.shape}")
        self.idf = idf

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray | Sparse:
        """Unit rows, float32 [n, dim], or the same as `Sparse`."""
        checked = texts(items)
        dense = np.zeros((len(checked), self.dim), dtype=np.float32) if self.output == "dense" else None
        parts: list[Sparse] = []
        for part in spans(len(checked), batch_size, BATCH, progress=progress, what="numen"):
            rows = self._weigh(self._count(checked[part]))
            if dense is None:
                parts.append(rows)
            else:
                row = np.repeat(np.arange(part.start, part.stop), np.diff(rows.indptr))
                dense[row, rows.indices] = rows.data
        return _stack(parts, self.dim) if dense is None else dense

    encode_query = encode_document

    def counts(self, items: Sequence[str]) -> Sparse:
        """Weighted sums of n-grams before the logarithm; at dim and dim / 2 they nest (fold one to get the other)."""
        return self._count(texts(items))

    def _count(self, checked: list[str]) -> Sparse:
        # Words repeat: number the distinct ones (a missing key gets the next number), hash each once.
        number: defaultdict[str, int] = defaultdict()
        number.default_factory = number.__len__
        words = [text.lower().split() for text in checked]
        indptr = np.zeros(len(words) + 1, dtype=np.int64)
        np.cumsum([len(found) for found in words], out=indptr[1:])
        tokens = np.fromiter(map(number.__getitem__, chain.from_iterable(words)), np.int64, count=int(indptr[-1]))

        distinct = [f"^{word}$".encode() if self.boundaries else word.encode() for word in number]
        offsets = np.zeros(len(distinct) + 1, dtype=np.int64)
        np.cumsum([len(word) for word in distinct], out=offsets[1:])
        buffer = np.frombuffer(b"".join(distinct), dtype=np.uint8)
        pairs = hash_ngrams(buffer, offsets, self._weight, self.dim, signed=self.signed, stop=self._stop)
        return Sparse(*sum_words(indptr, tokens, pairs, self.dim), (len(checked), self.dim))

    def _weigh(self, counts: Sparse) -> Sparse:
        """log(1 + v) (of the magnitude, where signs are on), idf if there is one, unit length."""
        data = np.copysign(np.log1p(np.abs(counts.data)), counts.data)
        if self.idf is not None:
            data *= self.idf[counts.indices]
        row = np.repeat(np.arange(len(counts)), np.diff(counts.indptr))
        norms = np.sqrt(np.bincount(row, weights=data * data, minlength=len(counts)))
        data /= np.where(norms > 0, norms, 1)[row]
        return Sparse(counts.indptr, counts.indices, data.astype(np.float32), counts.shape)


def _stack(parts: list[Sparse], dim: int) -> Sparse:
    lengths = [np.diff(part.indptr) for part in parts]
    indptr = np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum()
    indices = np.concatenate([np.zeros(0, dtype=np.int32), *(part.indices for part in parts)])
    data = np.concatenate([np.zeros(0, dtype=np.float32), *(part.data for part in parts)])
    return Sparse(indptr, indices, data, (len(indptr) - 1, dim))


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)
