"""The boxed model's tokens one by one: what `Box` averages, kept apart for late interaction (MaxSim).

A token's vector is its state after the layers, at length 1. (Adding the token's own table row, as `Box` does for a
text, made rankings worse: on 450 documents of Cranfield nDCG@10 fell from 0.405 to 0.371; `Box` itself has 0.421
there.) The model was learnt for means, not for MaxSim, so this is a stand-in where no trained late-interaction model
(ColBERT) is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inlay.encoders.box import TOKENS, Box, _Network, _unit
from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, longest_first, size_of, texts
from inlay.encoders.packed_transformer import layer_norm
from inlay.errors import BadInput
from inlay.types import Ragged, Space

__all__ = ["LateBox"]


class LateBox:
    """Token vectors of English text, at length 1.

    A text is cut after 254 tokens, as `Box` cuts it; the two tokens that mark beginning and end are left out. A text
    without any token has no vectors. Queries and documents are encoded alike.

    Args:
        context: False leaves the layers out: rows of the token table alone, the same whatever stands beside them.
    """

    expensive = True
    at_once = Box.at_once

    def __init__(self, context: bool = True) -> None:
        if not isinstance(context, bool):
            raise BadInput(f"context must be True or False, got {context!r}")
        self.context = context
        self._box = Box(context=context)
        self.space = Space(
            "multi",
            self._box.space.dim,
            "dot",
            fingerprint("late box", {"context": context}, [self._box._weights.hash]),
        )

    def __repr__(self) -> str:
        return f"LateBox(context={self.context}, dim={self.space.dim})"

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments from which `inlay.encoder` makes it again."""
        return {"name": "late-box"} | ({} if self.context else {"context": False})

    def encode_document(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Ragged:
        """Unit vectors of every token, in the order of the text."""
        checked = texts(items)
        size, found = size_of(batch_size, 1024), []
        with bar(len(checked), progress=progress, what="late box") as shown:
            for low in range(0, len(checked), size):
                part = [self._box._tokens(text) for text in checked[low : low + size]]
                found += self._vectors(part)
                shown.update(len(part))
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in found])]).astype(np.int64)
        return Ragged(np.concatenate([np.empty((0, self.space.dim), np.float32), *found]), offsets)

    encode_query = encode_document

    def _vectors(self, tokens: list[np.ndarray | None]) -> list[np.ndarray]:
        """Float32 [tokens, dim] of each text, from the tokens with both marks."""
        found = [np.empty((0, self.space.dim), dtype=np.float32)] * len(tokens)
        order = [i for i in longest_first([0 if ids is None else len(ids) for ids in tokens]) if tokens[i] is not None]
        first = 0
        while first < len(order):
            some: list[np.ndarray] = []
            for i in order[first:]:
                ids = tokens[i]
                assert ids is not None
                if some and len(some[0]) * (len(some) + 1) > TOKENS:
                    break
                some.append(ids)
            starts = np.cumsum([0, *(len(ids) for ids in some)])
            rows = self._rows(some)
            for i, low, high in zip(order[first:], starts, starts[1:]):
                found[i] = rows[low + 1 : high - 1]
            first += len(some)
        return found

    def _rows(self, tokens: list[np.ndarray]) -> np.ndarray:
        if self.context:
            return _unit(_states(self._network, tokens))
        return _unit(self._box._codes[np.concatenate(tokens)].astype(np.float32))  # a scale does not turn a row

    @property
    def _network(self) -> _Network:
        network = self._box._network
        assert isinstance(network, _Network)
        return network


def _states(network: _Network, tokens: Sequence[np.ndarray]) -> np.ndarray:
    """The last layer's rows, float32 [tokens, dim], of texts sorted by length."""
    lengths, ids = [len(own) for own in tokens], np.concatenate(tokens)
    rows = (network.codes[ids].astype(np.float32) * network.scales[ids, None]) @ network.map
    rows += network.positions[np.concatenate([np.arange(length) for length in lengths])]
    rows = layer_norm(rows, network.norm.gain, network.norm.offset)
    for layer in network.layers:
        rows = layer(rows, lengths)
    return rows
