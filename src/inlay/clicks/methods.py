"""The compressors of the storage benchmark by name, each built to a share of the full table's bytes.

The 14 of arXiv 2311.15578, the three more that its code ships (hashing, DPQ, PEP), and the full table. Which of them
have a table a field and which one table for all is theirs; rows begin uniform in ±√(1 / largest field) as there, where
a method leaves that open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from inlay.errors import BadInput
from inlay.tables.budget import largest_within
from inlay.tables.keyspace import KeySpace
from inlay.tables.per_field import PerField
from inlay.tables.table import Table

__all__ = ["METHODS", "Method", "build", "check_budget", "full_nbytes"]


@dataclass(frozen=True)
class Method:
    """How a compressor is built.

    Args:
        title: as people call it.
        make: space, dim, budget in bytes, settings → table.
        family: what it makes cheaper, as the paper sorts them.
        tries: settings between which validation decides; most need none.
        scale: whether it takes the common `scale` of first rows.
    """

    title: str
    make: Callable[..., Table]
    family: str
    tries: tuple[dict[str, Any], ...] = field(default=({},))
    scale: bool = True


def _of(home: str, name: str) -> Callable[..., Table]:
    """`from_budget` of a class, imported when it is built."""

    def make(space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Table:
        kind = getattr(import_module(f"inlay.tables.{home}"), name)
        made: Table = kind.from_budget(space, dim, budget_bytes, **settings)
        return made

    return make


def _full(space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Table:
    from inlay.tables.full import Full

    return Full(space.rows, dim, **settings)


def _hashed(space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Table:
    """A field of n ids has the same share of n buckets as any other, and at least one."""
    from inlay.tables.hashed import Hashed

    def buckets(total: int) -> list[int]:
        return [max(1, total * n // space.rows) for n in space.sizes.tolist()]

    total = largest_within(lambda t: 4 * dim * sum(buckets(t)), budget_bytes, 1, space.rows, "buckets")
    return PerField([Hashed(n, dim, buckets=b, **settings) for n, b in zip(space.sizes.tolist(), buckets(total))])


def _compositional(space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Table:
    """Quotient and remainder, multiplied: one divisor for all fields; a field that would not shrink stays whole."""
    from inlay.tables.compositional import Compositional

    sizes = space.sizes.tolist()
    most = math.isqrt(space.rows) + 1

    def nbytes(step: int) -> float:
        c = most - step
        return 4 * dim * sum(min(n, -(-n // c) + c) for n in sizes)

    if nbytes(0) > budget_bytes and min(nbytes(step) for step in range(most)) > budget_bytes:
        raise BadInput(f"{budget_bytes:,.0f} bytes are too few: quotients and remainders take {nbytes(0):,.0f}")
    # Bytes need not fall steadily with c: small fields become whole again. The smallest divisor that fits is it.
    c = next(most - step for step in range(most - 1, -1, -1) if nbytes(step) <= budget_bytes)
    return PerField([Compositional(n, dim, scheme="qr", collisions=c, min_rows=0, **settings) for n in sizes])


def _integers(space: KeySpace, dim: int, budget_bytes: float, **settings: Any) -> Table:
    """The one scale of the whole table is not what a budget of just a quarter fails by."""
    from inlay.tables.quantised import IntTable

    return IntTable.from_budget(space, dim, budget_bytes + 4, **settings)


INTER, INTRA, REST = "ids share memory", "rows are made cheaper", "baseline"

METHODS: dict[str, Method] = {
    "compo": Method("CompoEmb (QR)", _compositional, INTER, scale=False),
    "tt": Method("TT-Rec", _of("tensor_train", "TensorTrain"), INTER),
    "dhe": Method("DHE", _of("deep_hash", "DeepHash"), INTER, ({}, {"hashes": 128}), scale=False),
    "robe": Method("ROBE", _of("robe", "Robe"), INTER),
    "mgqe": Method("MGQE", _of("mgqe", "MGQE"), INTER),
    "adapt": Method("AdaptEmb", _of("adaptive", "Adaptive"), INTER, ({"private": 0.5}, {"private": 0.9})),
    "dedup": Method("Dedup", _of("deduplicated", "Deduplicated"), INTER),
    "int": Method("INT8/16", _integers, INTRA, ({"step": 0.01}, {"step": 0.002}), scale=False),
    "alpt": Method("ALPT", _of("quantised", "ALPT"), INTRA, ({"step": 0.01}, {"step": 0.002}), scale=False),
    "mde": Method("MDE", _of("mixed_dimension", "MixedDimension"), INTRA),
    "autodim": Method("AutoDim", _of("auto_dim", "AutoDim"), INTRA, scale=False),
    "optembed": Method("OptEmbed", _of("opt_embed", "OptEmbed"), INTRA, scale=False),
    "deeplight": Method("DeepLight", _of("deep_light", "DeepLight"), INTRA),
    "autosrh": Method("AutoSrh", _of("auto_srh", "AutoSrh"), INTRA),
    "hash": Method("hashing", _hashed, REST),
    "dpq": Method("DPQ", _of("mgqe", "DPQ"), REST),
    "pep": Method("PEP", _of("pep", "PEP"), REST),
    "full": Method("full table", _full, REST),
}


def full_nbytes(space: KeySpace, dim: int) -> int:
    """Bytes of a float32 row a key."""
    return 4 * space.rows * dim


def check_budget(budget: float) -> None:
    """Refuse what is no share."""
    if not 0 < budget <= 1:
        raise BadInput(f"budget is a share of the full table's bytes, above 0 and at most 1; got {budget}")


def build(
    name: str, space: KeySpace, dim: int, budget: float, *, batch_size: int = 128, steps: int = 1000, **settings: Any
) -> Table:
    """A compressor at a share of the full table's bytes; its size is found by bisection.

    Args:
        name: one of `METHODS`.
        space: numbers the ids.
        dim: width.
        budget: share of `full_nbytes`, above 0 and at most 1.
        batch_size: of the training to come: AutoDim's temperature falls with the rows it has seen.
        steps: of the training to come, at most: the papers' schedules, made for hundreds of thousands, are scaled down
            so that DeepLight's pruning is through after a tenth of them, and PEP's search after some half.
        settings: of the method.

    Raises:
        BadInput: the method cannot become so small; the message says what it needs.
    """
    if name not in METHODS:
        raise BadInput(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    check_budget(budget)
    method = METHODS[name]
    scale = int(space.sizes.max()) ** -0.5
    given: dict[str, Any] = {"scale": scale} if method.scale else {}
    if name == "tt":  # its scale is a standard deviation
        given["scale"] = scale / 3**0.5
    if name == "deeplight":  # no checkpoint counts before it is through, and long before that others have stopped
        given["pace"] = steps / 10 / 688
    if name == "pep":
        given["threshold_lr"] = 16 / steps
    if name == "autodim":
        given["batch_size"] = batch_size
    return method.make(space, dim, budget * full_nbytes(space, dim), **{**given, **settings})
