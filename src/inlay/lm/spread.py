"""How far the directions of rows are spread: cosines of all pairs, beside what random directions would have.

Rows of STEM are said to be spread more widely than the addresses W_u x that a dense up-projection makes. Untouched
random rows would look best of all, so only tokens that were seen often count, and how far rows moved from where they
began is told beside. Isotropic vectors of f numbers have cosines of deviation 1/√f: 95% of them within 1.96/√f.

    angular_spread(table, counts=np.bincount(training_ids, minlength=vocab), start=rows_before)
    tokens, vectors = token_vectors(model, held_out, layer=3, of="up")       # also of a dense layer
    angular_spread(vectors)

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639), its section on angular spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.lm.decoder import Decoder
from inlay.lm.feed_forward import SwiGLU
from inlay.lm.stem import Stem

__all__ = ["Spread", "angular_spread", "token_vectors"]

LEAST = 10  # rows: the 95th percentile of fewer than 45 pairs says nothing
_AT_ONCE = 1 << 24  # cosines computed at a time


@dataclass(frozen=True)
class Spread:
    """Cosines of all pairs of different rows.

    Args:
        rows: how many rows were compared.
        width: numbers of a row.
        mean: of the cosines.
        mean_abs: of their magnitudes.
        p95_abs: 95% of the magnitudes are at most this, interpolated as numpy does.
        histogram: int64 [bins], how many cosines lie between neighbouring `edges`.
        edges: float64 [bins + 1], from -1 to 1.
        moved: mean distance of rows from where they began; None if that was not given.
        began: mean length of the rows they began as; None if that was not given.
    """

    rows: int
    width: int
    mean: float
    mean_abs: float
    p95_abs: float
    histogram: np.ndarray
    edges: np.ndarray
    moved: float | None = None
    began: float | None = None

    @property
    def isotropic_p95(self) -> float:
        """What `p95_abs` is of random directions."""
        return 1.96 / math.sqrt(self.width)

    @property
    def isotropic_mean_abs(self) -> float:
        """What `mean_abs` is of random directions."""
        return math.sqrt(2 / (math.pi * self.width))

    def __str__(self) -> str:
        moved = "" if self.moved is None else f"; moved by {self.moved:.3g} from rows of length {self.began:.3g}"
        return (
            f"{self.rows} rows of {self.width}: cosine {self.mean:.3f} on average, {self.mean_abs:.3f} in magnitude "
            f"(isotropic {self.isotropic_mean_abs:.3f}), 95% within {self.p95_abs:.3f} "
            f"(isotropic {self.isotropic_p95:.3f}){moved}"
        )


@torch.no_grad()
def angular_spread(
    rows: Any, counts: Any = None, *, least: int = 50, start: Any = None, most: int = 4096, bins: int = 100,
    seed: int = 0,
) -> Spread:  # fmt: skip
    """Measure the cosines of a table's rows.

    Args:
        rows: a table, or floats [n, width].
        counts: how often each row's token was seen in training, int [n]; None: all rows count, which is right of
            vectors that a text made, and wrong of a table.
        least: rows seen less often are left out.
        start: what the rows began as, floats [n, width] or a table.
        most: rows compared; of more, some are drawn. All pairs of 4,096 are 8.4 million.
        bins: of the histogram.
        seed: of the draw.

    Raises:
        BadInput: fewer than ten rows are left, or one of them has no direction (zero, NaN or infinity).
    """
    for what, number, low in (("least", least, 0), ("most", most, LEAST), ("bins", bins, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < low:
            raise BadInput(f"{what} must be an integer of at least {low}, got {number!r}")
    values = _values(rows, "rows")
    chosen = np.arange(len(values))
    if counts is not None:
        seen = np.asarray(counts)
        if seen.shape != (len(values),) or seen.dtype.kind not in "iu":
            raise BadInput(f"counts must be integers [{len(values)}], got {seen.dtype} {seen.shape}")
        chosen = np.flatnonzero(seen >= least)
    if len(chosen) < LEAST:
        often = "" if counts is None else f" seen at least {least} times; lower least=, or count more text"
        raise BadInput(f"the spread of rows needs {LEAST} of them, got {len(chosen)}{often}")
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
    picked = values[torch.from_numpy(chosen)]
    lengths = picked.norm(dim=1)
    bad = torch.nonzero(~(torch.isfinite(lengths) & (lengths > 0))).flatten()
    if len(bad):
        row = int(chosen[int(bad[0])])
        raise BadInput(f"row {row} has length {float(lengths[bad[0]])} and no direction; leave it out")
    cosines = _cosines(picked / lengths[:, None])
    histogram, edges = np.histogram(cosines, bins, (-1.0, 1.0))[0], np.linspace(-1.0, 1.0, bins + 1)
    magnitudes = np.abs(cosines)
    moved = began = None
    if start is not None:
        first = _values(start, "start")
        if first.shape != values.shape:
            raise BadInput(f"start {list(first.shape)} must have the shape of the rows {list(values.shape)}")
        first = first[torch.from_numpy(chosen)]
        moved, began = float((picked - first).norm(dim=1).mean()), float(first.norm(dim=1).mean())
    return Spread(
        len(chosen), values.shape[1], float(cosines.mean(dtype=np.float64)),
        float(magnitudes.mean(dtype=np.float64)), float(np.quantile(magnitudes, 0.95)), histogram, edges, moved, began,
    )  # fmt: skip


@torch.no_grad()
def token_vectors(
    model: Decoder, ids: Tensor, layer: int, of: Literal["up", "down"] = "up", *, batch: int = 32
) -> tuple[np.ndarray, Tensor]:
    """What a feed-forward part makes of tokens in a text: one vector for each distinct token, where it first occurs.

    Args:
        model: with a `SwiGLU` or a `Stem` in that layer.
        ids: texts, int [texts, length].
        layer: which.
        of: "up": W_u x of a dense part, the token's row (without edits) of a STEM part. "down": what W_d reads, that
            is, after gating.
        batch: texts read at a time.

    Returns:
        Tokens int64 [n], ascending, and their vectors float32 [n, hidden].
    """
    if ids.ndim != 2 or not ids.numel():
        raise BadInput(f"ids must be [texts, length] with at least one token, got {list(ids.shape)}")
    if not 0 <= layer < len(model.blocks):
        raise BadInput(f"layer {layer} is not one of 0 to {len(model.blocks) - 1}")
    if of not in ("up", "down"):
        raise BadInput(f"of must be 'up' or 'down', got {of!r}")
    part = model.blocks[layer].feed_forward
    if not isinstance(part, SwiGLU | Stem):
        raise BadInput(f"layer {layer} has a {type(part).__name__}, not a SwiGLU or a Stem")
    source: nn.Module = part.down
    if of == "up":
        source = part.table if isinstance(part, Stem) else part.up
    held: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        held.append((given[0] if of == "down" else made).detach().float().cpu())

    tokens, first = np.unique(ids.cpu().numpy(), return_index=True)
    text, place = np.divmod(first, ids.shape[1])
    width = model.hidden
    vectors = torch.empty(len(tokens), width)
    was = model.training
    model.eval()
    hook = source.register_forward_hook(keep)
    try:
        for begin in range(0, len(ids), batch):
            here = np.flatnonzero((text >= begin) & (text < begin + batch))
            if not len(here):
                continue
            held.clear()
            model(ids[begin : begin + batch])
            made = torch.cat(held, 1)  # one a chunk, of a decoder that reads in chunks
            vectors[here] = made[text[here] - begin, place[here]]
    finally:
        hook.remove()
        model.train(was)
    return tokens, vectors


def _values(rows: Any, what: str) -> Tensor:
    if isinstance(rows, nn.Module):
        materialize = getattr(rows, "materialize", None)
        if materialize is None:
            raise BadInput(f"{what} must be a table or floats [n, width], got a {type(rows).__name__}")
        rows = materialize()
    values = torch.as_tensor(rows)
    if values.ndim != 2 or not values.is_floating_point() or not values.numel():
        raise BadInput(f"{what} must be floats [n, width], got {values.dtype} {list(values.shape)}")
    return values.detach().float().cpu()


def _cosines(directions: Tensor) -> np.ndarray:
    """Float32 [n · (n − 1) / 2], of each pair of unit rows once."""
    n = len(directions)
    found, filled = np.empty(n * (n - 1) // 2, dtype=np.float32), 0
    step = max(1, _AT_ONCE // n)
    for begin in range(0, n, step):
        block = (directions[begin : begin + step] @ directions.T).numpy()
        later = block[np.arange(n) > np.arange(begin, begin + len(block))[:, None]]
        found[filled : filled + len(later)] = later
        filled += len(later)
    return found.clip(-1.0, 1.0)
