"""The frontier of quality, bytes and latency, and which point of it to take.

A point is on the frontier if no other is at least as good in all three and better in one. Latencies closer than a tenth
count as equal, for they are measured.

What is recommended lies within the budget and the latency asked for, and keeps the floor, a share of the quality of an
exact search at full precision:

- with a budget: the best quality, and of what is as good (within `AS_GOOD` of the full quality) the fewest bytes;
- without: the fewest bytes.

Where nothing does, the nearest is named, with what it misses.

Source: the selection of "Optimization of embeddings storage for RAG systems" (arXiv 2505.00105), with latency and a
floor beside its limit of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.bootstrap import bootstrap_statistic
from inlay.evaluation.measures import Estimate
from inlay.indexes.configuration import Configuration

__all__ = ["Point", "Recommendation", "frontier", "recommend", "share_kept"]

AS_GOOD = 0.0025  # difference of shares that no set of queries shows
SLOWER, BLUR = 1.1, 0.01  # factor and milliseconds within which latencies are equal


@dataclass(frozen=True)
class Point:
    """What a configuration was measured to do.

    Args:
        configuration: which.
        values: quality for each query, float64 [q].
        nbytes: of all that a query of the whole collection needs.
        latency_ms: median of one query a call, of the rows that were measured.
        share: of the quality of full precision, with its paired 95% interval.
        projected_ms: latency for the whole collection, where only a sample was measured.
    """

    configuration: Configuration
    values: np.ndarray
    nbytes: int
    latency_ms: float
    share: Estimate
    projected_ms: float | None = None

    @property
    def quality(self) -> float:
        """Mean over queries."""
        return float(self.values.mean())

    @property
    def ms(self) -> float:
        """Latency that is promised for the whole collection."""
        return self.latency_ms if self.projected_ms is None else self.projected_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = self.configuration.to_dict() | {
            "quality": round(self.quality, 5), "share": round(self.share.mean, 5),
            "interval": [round(self.share.low, 5), round(self.share.high, 5)], "bytes": self.nbytes,
            "latency_ms": round(self.latency_ms, 4),
        }  # fmt: skip
        return own | ({} if self.projected_ms is None else {"projected_ms": round(self.projected_ms, 4)})


@dataclass(frozen=True)
class Recommendation:
    """A configuration, what it promises, and why it was taken.

    Args:
        point: the configuration and what was measured of it.
        met: bound → whether it is kept, of those asked for (`budget`, `latency`, `floor`).
        why: in sentences.
    """

    point: Point
    met: dict[str, bool]
    why: tuple[str, ...]

    @property
    def codec(self) -> str:
        """Reducer and codec, as `inlay.codecs.codec` takes them."""
        return self.point.configuration.codec_name

    @property
    def index(self) -> str:
        """`scan` or `graph`."""
        return self.point.configuration.index

    @property
    def rerank(self) -> tuple[int, str] | None:
        """Candidates, and the codec that orders them; None for one stage."""
        own = self.point.configuration
        return (own.candidates, own.fine) if own.candidates else None

    @property
    def ok(self) -> bool:
        """Whether every bound is kept."""
        return all(self.met.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.point.to_dict() | {"name": str(self.point.configuration), "met": self.met, "why": list(self.why)}


def share_kept(values: np.ndarray, full: np.ndarray, *, seed: int = 0) -> Estimate:
    """Mean quality as a share of another's on the same queries, with its paired 95% interval.

    Args:
        values: a value for each query [q].
        full: those of full precision.
        seed: of the resamples.
    """
    if len(values) != len(full) or not len(full):
        raise BadInput(f"{len(values)} values against {len(full)}: shares are of the same queries, one at least")
    if not full.any():
        return Estimate(1.0, 1.0, 1.0)  # of nothing, nothing can be lost

    def ratio(weights: np.ndarray) -> float:
        whole = float(weights @ full)
        return float(weights @ values) / whole if whole > 0 else 1.0

    return bootstrap_statistic(ratio, len(full), seed=seed)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats, by bytes, ascending."""
    kept: list[Point] = []
    for one in sorted(points, key=_cost):
        if not any(_beats(other, one) for other in points if other is not one):
            kept.append(one)
    return kept


def recommend(
    points: Sequence[Point], *, budget: int | None = None, latency_ms: float | None = None, floor: float = 0.98
) -> Recommendation:
    """The point to take.

    Args:
        points: measured, one at least.
        budget: bytes at most.
        latency_ms: at most.
        floor: share of full precision's quality to keep, above 0 and up to 1.
    """
    if not points:
        raise BadInput("nothing was measured, so nothing can be recommended")
    for name, given in (("budget", budget), ("latency", latency_ms)):
        if given is not None and not (np.isfinite(given) and given > 0):
            raise BadInput(f"{name} must be positive, got {given!r}")
    if not 0 < floor <= 1:
        raise BadInput(f"floor is a share of the full quality, above 0 and up to 1, got {floor!r}")
    left, said = list(points), []
    for name, bound, value in (("budget", budget, _nbytes), ("latency", latency_ms, _latency)):
        if bound is None:
            continue
        within = [one for one in left if value(one) <= bound]
        if within:
            left = within
        else:  # the nearest that exists; further bounds choose among what is that near
            least = min(value(one) for one in left)
            left = [one for one in left if value(one) <= least * (1.0 if name == "budget" else SLOWER)]
            said.append(_missed(name, bound, least, name == "latency" and budget is not None))
    keeping = [one for one in left if one.share.mean >= floor]
    if not keeping:
        best = max(left, key=lambda one: (one.share.mean, -one.nbytes))
        said.append(f"No configuration within these bounds keeps {floor:.1%} of the full quality.")
        enough = [one for one in points if one.share.mean >= floor]
        if enough:
            least_of = min(enough, key=_cost)
            said.append(f"The smallest measured to the end that keeps it is {_told(least_of)}.")
    elif budget is None:
        best = min(keeping, key=_cost)
    else:
        top = max(one.share.mean for one in keeping)
        best = min((one for one in keeping if one.share.mean >= top - AS_GOOD), key=_cost)
    met = {"budget": budget is None or best.nbytes <= budget, "latency": latency_ms is None or best.ms <= latency_ms}
    met = {name: kept for name, kept in met.items() if (budget, latency_ms)[name == "latency"] is not None}
    met["floor"] = best.share.mean >= floor
    return Recommendation(best, met, tuple(said + _why(best, points, met, budget, latency_ms, floor)))


def size(nbytes: float) -> str:
    """Bytes for a person, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:,.0f} {unit}" if unit == "bytes" else f"{nbytes:,.2f} {unit}"


def _nbytes(one: Point) -> float:
    return one.nbytes


def _latency(one: Point) -> float:
    return one.ms


def _cost(one: Point) -> tuple[float, float, float]:
    return one.nbytes, one.ms, -one.quality


def _beats(a: Point, b: Point) -> bool:
    """Whether a is nowhere worse than b and somewhere better."""
    if a.nbytes > b.nbytes or a.ms > b.ms * SLOWER + BLUR or a.quality < b.quality:
        return False
    faster = a.ms * SLOWER + BLUR < b.ms
    equal = a.nbytes == b.nbytes and a.quality == b.quality and not faster
    return not equal or (a.ms, str(a.configuration)) < (b.ms, str(b.configuration))


def _told(one: Point) -> str:
    return f"{one.configuration} ({size(one.nbytes)}, {one.ms:.2f} ms, keeps {one.share.mean:.1%})"


def _missed(name: str, bound: float, least: float, within: bool) -> str:
    asked, nearest = (size(bound), size(least)) if name == "budget" else (f"{bound:g} ms", f"{least:.2f} ms")
    verb = "takes" if name == "budget" else "answers within"
    return f"No configuration{' of that size' if within else ''} {verb} {asked}; the nearest takes {nearest}."


def _why(
    best: Point, points: Sequence[Point], met: dict[str, bool], budget: int | None, latency_ms: float | None,
    floor: float,
) -> list[str]:  # fmt: skip
    mean, low, high = best.share
    full = next((one for one in points if one.configuration.full), None)
    said = []
    if budget is not None and met["budget"]:
        said.append(f"It takes {size(best.nbytes)} of a budget of {size(budget)}.")
    elif budget is None:
        smaller = f", {full.nbytes / best.nbytes:.1f} times less than full precision" if full and best.nbytes else ""
        said.append(f"It takes {size(best.nbytes)}{smaller}.")
    if latency_ms is not None and met["latency"]:
        said.append(f"It answers in {best.ms:.2f} ms, {latency_ms:g} ms were allowed.")
    if len(best.values) < 2:
        said.append(f"It keeps {mean:.1%} of the full quality on one query, which says little about others.")
        return said
    said.append(f"It keeps {mean:.1%} of the full quality ({low:.1%} to {high:.1%}, 95% interval, paired by query).")
    if met["floor"] and low < floor:
        said.append(f"The interval reaches below the floor of {floor:.1%}: more queries would tell.")
    return said
