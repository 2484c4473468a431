"""Which words are near in each layer of a model: alike to the eye in a frozen visual table, alike in meaning above it.

A word's state in a layer is the mean, over its occurrences in a text, of the residual stream at its last token, which
is the first that has seen the whole word. Streams share large directions that say nothing about words; the mean over
the words is therefore taken off in each layer before cosines are compared.

    words = hidden_words(model, ids, {" king": [..], " queen": [..], ..})
    words.neighbours(" king", layer=0)        # " kind", " ring" …
    words.neighbours(" king", layer=3)        # " queen" …, if meanings appear
    words.ranks([(" king", " queen"), ..])    # the same as numbers: [layers, pairs]

Source: the claim is that of arXiv 2507.04886; taking occurrences in texts, and centring, are choices made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from inlay.errors import BadInput

__all__ = ["HiddenWords", "hidden_words"]


class HiddenWords:
    """States of words in the layers of a model.

    Args:
        names: the words.
        layers: which streams: 0 enters the first block, n leaves the last of n.
        states: float32 [layers, words, dim], finite.
        counts: occurrences behind each state [words].
    """

    def __init__(self, names: Sequence[str], layers: Sequence[int], states: np.ndarray, counts: np.ndarray) -> None:
        states = np.asarray(states, np.float32)
        if states.ndim != 3 or states.shape[:2] != (len(layers), len(names)) or len(counts) != len(names):
            raise BadInput(
                f"states must be [{len(layers)} layers, {len(names)} words, dim] with a count a word, "
                f"got {list(states.shape)} and {len(counts)} counts"
            )
        if len(names) < 2:
            raise BadInput(f"neighbours need at least two words, got {len(names)}; take a longer text or more words")
        if not np.isfinite(states).all():
            raise BadInput("states have NaN or infinity; did the model diverge?")
        self.names, self.layers, self.states = list(names), list(layers), states
        self.counts = np.asarray(counts, np.int64)
        self._at = {name: number for number, name in enumerate(self.names)}
        centred = states - states.mean(1, keepdims=True)
        self._unit = centred / np.maximum(np.linalg.norm(centred, axis=2, keepdims=True), 1e-12)

    def neighbours(self, word: str, k: int = 10, *, layer: int) -> list[tuple[str, float]]:
        """The k words nearest to a word in a layer, with their cosines, nearest first."""
        if k < 1:
            raise BadInput(f"k must be at least 1, got {k}")
        own = self._number(word)
        cosines = self._unit[self._layer(layer)] @ self._unit[self._layer(layer), own]
        order = [int(number) for number in np.argsort(-cosines, kind="stable") if number != own]
        return [(self.names[number], float(cosines[number])) for number in order[:k]]

    def ranks(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """Share of words that are nearer to the first of a pair than the second is, float64 [layers, pairs].

        0 is the nearest neighbour, 1/2 what words without any relation have on average.
        """
        pairs = list(pairs)
        first = np.array([self._number(one) for one, _ in pairs], np.int64)
        second = np.array([self._number(other) for _, other in pairs], np.int64)
        if not len(pairs) or (first == second).any():
            raise BadInput("pairs must be of two different words each, and at least one")
        found = np.empty((len(self.layers), len(pairs)))
        every = np.arange(len(pairs))
        for number, unit in enumerate(self._unit):
            cosines = unit[first] @ unit.T
            cosines[every, first] = -np.inf
            found[number] = (cosines > cosines[every, second][:, None]).sum(1) / max(1, len(self.names) - 2)
        return found

    def _number(self, word: str) -> int:
        if word not in self._at:
            raise BadInput(f"{word!r} is none of the {len(self.names)} words, or occurs too seldom in the text")
        return self._at[word]

    def _layer(self, layer: int) -> int:
        if layer not in self.layers:
            raise BadInput(f"layer {layer} was not kept; there are {self.layers}")
        return self.layers.index(layer)

    def __repr__(self) -> str:
        return f"HiddenWords(words={len(self.names)}, layers={self.layers})"


@torch.no_grad()
def hidden_words(
    model: Any, ids: torch.Tensor, words: Mapping[str, Sequence[int]], *, layers: Sequence[int] | None = None,
    least: int = 1, batch: int = 16,
) -> HiddenWords:  # fmt: skip
    """States of words in a model that reads a text.

    Args:
        model: a `Decoder`, or what returns `hidden` when called (ids, capture=True).
        ids: the text, cut into windows [n, length] that fit the context.
        words: name → its token ids, in order. One that is the beginning of a longer word (" king" of " kingdom") is
            found there too; its state at that place has not seen the rest.
        layers: streams to keep, 0 to the number of blocks; None: all.
        least: occurrences that a word needs to be kept.
        batch: windows read at once.
    """
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or not ids.numel() or ids.dtype.is_floating_point:
        raise BadInput(f"ids must be integers [windows, length], got {getattr(ids, 'shape', type(ids).__name__)}")
    for what, number in (("least", least), ("batch", batch)):
        if number < 1:
            raise BadInput(f"{what} must be at least 1, got {number}")
    names = list(words)
    row, column, word = _occurrences(ids.cpu().numpy(), [list(words[name]) for name in names])
    counts = np.bincount(word, minlength=len(names))
    sums: torch.Tensor | None = None
    was = model.training
    model.eval()
    try:
        for start in range(0, len(ids), batch):
            here = slice(*np.searchsorted(row, (start, start + batch)))
            if here.start == here.stop:
                continue
            hidden = model(ids[start : start + batch], capture=True).hidden
            kept = list(range(len(hidden))) if layers is None else list(layers)
            if not kept or not all(0 <= layer < len(hidden) for layer in kept) or len(set(kept)) < len(kept):
                raise BadInput(f"layers must be different numbers from 0 to {len(hidden) - 1}, got {layers}")
            at = torch.from_numpy(row[here] - start), torch.from_numpy(column[here])
            found = torch.stack([hidden[layer][at].double().cpu() for layer in kept])
            if sums is None:
                sums = torch.zeros(len(kept), len(names), found.shape[2], dtype=torch.float64)
            sums.index_add_(1, torch.from_numpy(word[here]), found)
    finally:
        model.train(was)
    enough = np.flatnonzero(counts >= least)
    if sums is None or len(enough) < 2:
        raise BadInput(f"{len(enough)} of {len(names)} words occur {least} times or more; neighbours need at least two")
    states = (sums.numpy()[:, enough] / counts[enough][:, None]).astype(np.float32)
    return HiddenWords([names[number] for number in enough], kept, states, counts[enough])


def _occurrences(ids: np.ndarray, words: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where words end in ids [n, length]: rows, columns and which word, int64 each, by rows."""
    length, flat = ids.shape[1], ids.ravel()
    by_id = np.argsort(flat, kind="stable")
    ordered = flat[by_id]
    places, which = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, tokens in enumerate(words):
        if not tokens:
            raise BadInput(f"word {number} has no tokens; encode it")
        found = by_id[slice(*np.searchsorted(ordered, (tokens[-1], tokens[-1] + 1)))]
        found = found[found % length >= len(tokens) - 1]
        for back, token in enumerate(reversed(tokens)):
            found = found[flat[found - back] == token]
        places.append(found)
        which.append(np.full(len(found), number, np.int64))
    place, word = np.concatenate(places), np.concatenate(which)
    order = np.argsort(place, kind="stable")
    return place[order] // length, place[order] % length, word[order]
