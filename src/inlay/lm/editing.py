"""Knowledge edits: the rows of one entity's tokens read in the place of another's, while the text stays as it is.

    with edit(model, [3], target_ids=[germany]):          # position 3 of the text says Spain
        model.generate(prompt, 20)                        # … and is continued as if it said Germany
    with edit_text(model, tokenizer, "The capital of Spain is", "Spain", "Germany") as found:
        model.generate(found.ids, 20)

Every STEM layer reads the target's rows at the source's positions; attention, the input and the gate still see the
source. With n source tokens and m target tokens, `how` says which rows go where:

    average    every position gets the mean of the target's rows; for any n and m
    pad        the last m positions get the target's rows, those on the left keep their own; m ≤ n
    copy       the target as often as it fits, padded on the left in the same way; m ≤ n
    subset     n of the target's tokens, in their order: given, else the rarest, else those of largest rows; n ≤ m

With n = m, all but `average` set row for row. An edit is taken back, to the bit, by leaving its context; edits nest,
and the inner one wins. It acts where a position is read: what a `KeyValueCache` has read before stays as it was, and
what it has read under an edit stays edited.

Source: STEM: Scaling Transformers with Embedding Modules (arXiv 2601.10639), knowledge editing. What its pad row is and
how it chooses a subset is not told; a padded position keeps its row, and the choice is as above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from inlay.errors import BadInput
from inlay.lm.cache import KeyValueCache
from inlay.lm.decoder import Decoder
from inlay.lm.stem import Edit, Stem, stem_parts

__all__ = ["How", "TextEdit", "edit", "edit_text", "edited_ids"]

How = Literal["average", "pad", "copy", "subset"]


@contextmanager
def edit(
    model: Decoder, positions: Sequence[int], target_ids: Any, how: How = "average", *,
    keep: Sequence[int] | None = None, counts: Any = None, prompt: Any = None,
) -> Iterator[None]:  # fmt: skip
    """Read the rows of other tokens at some positions of the text, while the context lasts.

    Args:
        model: with STEM parts, in memory or offloaded.
        positions: of the source's tokens in the text, ascending from 0; in every text of a batch.
        target_ids: ids of the target's tokens, int [m].
        how: see above.
        keep: of `subset`, the places in `target_ids` of those to be taken.
        counts: of `subset`, how often each token of the vocabulary occurs: the rarest are taken.
        prompt: ids of the text that is meant, int [length]: others, which differ from it before or at a position, are
            not edited there.
    """
    parts = stem_parts(model)
    places = _positions(positions, model.context)
    targets = _ids(target_ids, model.vocab, "target_ids")
    text = None if prompt is None else torch.tensor(_ids(prompt, model.vocab, "prompt"))
    if text is not None and places[-1] >= len(text):
        raise BadInput(f"position {places[-1]} is outside the prompt of {len(text)} tokens")
    made = [
        (places[source], tokens) for source, tokens in spread_targets(parts, len(places), targets, how, keep, counts)
    ]
    changed = [place for place, _ in made]
    with on_top(
        parts, {layer: _Positions(changed, means(part, [t for _, t in made]), text) for layer, part in parts.items()}
    ):
        yield


def edited_ids(
    ids: Tensor, positions: Sequence[int], target_ids: Any, how: How = "pad", *, keep: Sequence[int] | None = None
) -> Tensor:
    """The `memory_ids` that say the same as an edit whose rows are rows of tokens, for texts [..., length].

    Args:
        ids: int [..., length].
        positions: as in `edit`.
        target_ids: as in `edit`.
        how: any; "average" where there is one target token, "subset" with `keep`.
        keep: as in `edit`.
    """
    places = _positions(positions, ids.shape[-1])
    targets = _ids(target_ids, None, "target_ids")
    if how == "subset" and keep is None and len(targets) != len(places):
        raise BadInput("without a model the tokens of a subset must be given; pass keep=")
    made, edited = spread_targets({}, len(places), targets, how, keep, None), ids.clone()
    if any(len(tokens) > 1 for _, tokens in made):
        raise BadInput(f"the mean of {len(targets)} tokens is no token's row; use edit(model, …), or another how")
    for source, tokens in made:
        edited[..., places[source]] = tokens[0]
    return edited


class TextEdit(NamedTuple):
    """What an edit of a text is about.

    Attributes:
        ids: the prompt, int64 [length].
        target_ids: the same with the target in the source's place, int64 [other length].
        positions: of the source's tokens, for each of its occurrences.
        targets: ids of the target's tokens, for each.
    """

    ids: Tensor
    target_ids: Tensor
    positions: list[list[int]]
    targets: list[list[int]]


@contextmanager
def edit_text(
    model: Decoder, tokenizer: Any, prompt: str, source: str, target: str, how: How = "average", *,
    counts: Any = None, before: Sequence[int] = (), everywhere: bool = False,
) -> Iterator[TextEdit]:  # fmt: skip
    """Read a target's rows wherever a prompt names the source, while the context lasts.

    Both are tokenised as they stand in the prompt. Tokens that hold some of the source and something else beside it
    count as the source's.

    Args:
        model: with STEM parts, in memory or offloaded.
        tokenizer: a `tokenizers.Tokenizer`, or one of transformers that is built on it.
        prompt: text that names the source.
        source: what it says, such as "Spain".
        target: what is to be read instead, such as "Germany".
        how: see above; the subset is the rarest or that of largest rows.
        counts: as in `edit`.
        before: ids that stand before the prompt, such as the separator.
        everywhere: edit these positions in any text, not in those alone that begin as the prompt does.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "encode"):
        raise BadInput(f"a {type(tokenizer).__name__} cannot encode; give a tokenizers.Tokenizer")
    if not source or not target:
        raise BadInput(f"source and target must be text, got {source!r} and {target!r}")
    starts, start = [], prompt.find(source)
    while start >= 0:
        starts.append(start)
        start = prompt.find(source, start + len(source))
    if not starts:
        raise BadInput(f"the prompt {prompt!r} does not name {source!r}")
    grown, shift = len(target) - len(source), len(before)
    asked, ids = _tokens(backend, prompt, [(s, s + len(source)) for s in starts])
    moved = [s + number * grown for number, s in enumerate(starts)]
    given, target_ids = _tokens(backend, prompt.replace(source, target), [(s, s + len(target)) for s in moved])
    positions = [[place + shift for place in places] for places in asked]
    targets = [[target_ids[place] for place in places] for places in given]
    whole = [*before, *ids]
    with ExitStack() as edits:
        for places, tokens in zip(positions, targets):
            edits.enter_context(edit(model, places, tokens, how, counts=counts, prompt=None if everywhere else whole))
        yield TextEdit(torch.tensor(whole), torch.tensor([*before, *target_ids]), positions, targets)


def spread_targets(
    parts: dict[int, Stem], sources: int, targets: list[int], how: str, keep: Sequence[int] | None, counts: Any
) -> list[tuple[int, list[int]]]:
    """Which of so many sources reads which target tokens (the mean, of several); sources that keep theirs are left out.

    Args:
        parts: whose rows say which tokens are the largest, if that is asked.
        sources: how many.
        targets: ids.
        how: see above.
        keep: as in `edit`.
        counts: as in `edit`.
    """
    if how not in get_args(How):
        raise BadInput(f"how must be one of {', '.join(get_args(How))}, got {how!r}")
    if how != "subset" and (keep is not None or counts is not None):
        raise BadInput(f"keep and counts choose a subset; with how={how!r} there is nothing to choose")
    if how == "average":
        return [(source, targets) for source in range(sources)]
    if how == "subset":
        chosen = _subset(parts, sources, targets, keep, counts)
        return [(source, [targets[place]]) for source, place in enumerate(chosen)]
    if len(targets) > sources:
        raise BadInput(f"{len(targets)} target tokens do not fit {sources} source tokens; use 'average' or 'subset'")
    tokens = targets * (sources // len(targets)) if how == "copy" else targets
    return [(sources - len(tokens) + place, [token]) for place, token in enumerate(tokens)]


def _subset(
    parts: dict[int, Stem], sources: int, targets: list[int], keep: Sequence[int] | None, counts: Any
) -> list[int]:
    if keep is not None:
        chosen = sorted(set(keep))
        if len(chosen) != sources or len(keep) != sources or chosen[0] < 0 or chosen[-1] >= len(targets):
            raise BadInput(f"keep must be {sources} different places in the {len(targets)} target tokens, got {keep}")
        return chosen
    if len(targets) < sources:
        raise BadInput(f"{len(targets)} target tokens have no subset of {sources}; use 'average', 'pad' or 'copy'")
    if len(targets) == sources:
        return list(range(sources))
    if counts is not None:
        seen = np.asarray(counts)
        if seen.ndim != 1 or len(seen) <= max(targets):
            raise BadInput(f"counts must be numbers [vocabulary], got {seen.dtype} {seen.shape}")
        weight = -seen[targets].astype(np.float64)
    else:
        rows = torch.stack([part.rows(torch.tensor(targets)).cpu() for part in parts.values()])
        weight = rows.double().square().sum((0, 2)).numpy()
    return sorted(np.argsort(-weight, kind="stable")[:sources].tolist())


def means(part: Stem, groups: list[list[int]]) -> Tensor:
    """The mean float32 [groups, hidden] of each group's rows; of one token its row itself."""
    return torch.stack([part.rows(torch.tensor(tokens)).mean(0) for tokens in groups])


@contextmanager
def on_top(parts: dict[int, Stem], edits: dict[int, Edit]) -> Iterator[None]:
    """Lay an edit on each part while the context lasts."""
    for layer, part in parts.items():
        part.edits.append(edits[layer])
    try:
        yield
    finally:
        if any(part.edits[-1:] != [edits[layer]] for layer, part in parts.items()):
            raise BadInput("edits are left in the reverse order of entering them; an upper one is still there")
        for part in parts.values():
            part.edits.pop()


class _Positions:
    """Rows float32 [n, hidden] that are read at n positions, ascending, of texts that begin as `text` does."""

    def __init__(self, positions: list[int], rows: Tensor, text: Tensor | None) -> None:
        self.positions, self.rows, self.text = positions, rows, text

    def __call__(self, row: Tensor, ids: Tensor, cache: KeyValueCache | None) -> Tensor:
        start = 0 if cache is None else cache.length
        inside = [n for n, position in enumerate(self.positions) if start <= position < start + ids.shape[1]]
        if not inside:
            return row
        positions = [self.positions[n] for n in inside]
        at = [position - start for position in positions]
        rows = self.rows[inside].to(row.device, row.dtype)
        if self.text is not None:
            read = ids if cache is None or cache.memory_ids is None else torch.cat([cache.memory_ids, ids], 1)
            length = positions[-1] + 1
            same = (read[:, :length] == self.text[:length].to(ids.device)).cumprod(1).bool()
            rows = torch.where(same[:, positions, None], rows, row[:, at])
        edited = row.clone()
        edited[:, at] = rows
        return edited


def _positions(positions: Sequence[int], length: int) -> list[int]:
    given = np.asarray(positions)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise BadInput(f"positions must be integers [n] with at least one, got {positions!r}")
    if given[0] < 0 or given[-1] >= length or (np.diff(given) <= 0).any():
        raise BadInput(f"positions must ascend within [0, {length}), got {given.tolist()}")
    return [int(position) for position in given]


def _ids(ids: Any, vocab: int | None, what: str) -> list[int]:
    given = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise BadInput(f"{what} must be integers [n] with at least one, got {ids!r}")
    low, high = int(given.min()), int(given.max())
    if low < 0 or (vocab is not None and high >= vocab):
        raise BadInput(f"id {low if low < 0 else high} of {what} is outside the vocabulary of {vocab}")
    return [int(token) for token in given]


def _tokens(backend: Any, text: str, spans: list[tuple[int, int]]) -> tuple[list[list[int]], list[int]]:
    """The places of the tokens that lie in each span of characters, and all ids."""
    encoded = backend.encode(text, add_special_tokens=False)
    if not hasattr(encoded, "offsets"):
        raise BadInput("this tokenizer does not say where its tokens stand; give a tokenizers.Tokenizer")
    found = []
    for start, stop in spans:
        places = [n for n, (left, right) in enumerate(encoded.offsets) if left < stop and right > start]
        if not places:
            raise BadInput(f"the tokenizer makes no token of {text[start:stop]!r}; it cannot be edited")
        found.append(places)
    return found, list(encoded.ids)
