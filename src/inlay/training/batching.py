"""From sources to batches: which rows go together, and what travels with them.

A *choice* splits the rows of all sources into lanes and says how often each lane is drawn; a batch comes from one
lane. That is all that `mixed`, `one_source`, `quota` and `by_length` differ in. The `Batcher` does the rest: endless
reshuffling, no duplicates in a batch, K negatives to a row. It is deterministic: batch number n of a seed is always the
same, so a resumed run goes on where it stopped.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.training.example import Example
from inlay.training.sources import Source
from inlay.training.views import Rendered

__all__ = ["Batch", "Batcher", "Choice", "Lane", "by_length", "by_loss", "choice", "mixed", "one_source", "quota"]


CLASSES = ("class", "cluster")


@dataclass(slots=True)
class Batch:
    """B rows, each a query and 1 + K documents (the positive first), or no documents at all for plain texts.

    Args:
        query: texts [B].
        docs: texts [B][1 + K], or [B][0].
        label: class of each query, or None.
        doc_label: class of each document [B][1 + K], or None.
        score: gold similarity of each pair, or None.
        doc_score: teacher relevance [B][1 + K], or None unless every document has one.
        source: where the rows come from; joined by "+" if mixed.
        loss: name of the loss that the source asks for.
        in_batch: whether other rows' documents may serve as negatives.
        ids: (number of the source, number of the row) [B].
        shown: queries, then documents row by row, as the sources' views render them.
    """

    query: list[str]
    docs: list[list[str]]
    label: list[Any]
    doc_label: list[list[Any]]
    score: list[float | None]
    doc_score: list[list[float]] | None
    source: str
    loss: str
    in_batch: bool
    ids: list[tuple[int, int]]
    shown: list[Rendered]

    def __len__(self) -> int:
        return len(self.query)

    @property
    def texts(self) -> list[str]:
        """Queries, then documents row by row, without prompts: what a teacher is asked about."""
        return [*self.query, *(text for row in self.docs for text in row)]


class Lane(NamedTuple):
    """Rows that may share a batch: int64 [n, 2], (source, row); and how often the lane is drawn."""

    rows: np.ndarray
    share: float


Choice = Callable[[Sequence[Source]], list[Lane]]


def _rows(number: int, source: Source) -> np.ndarray:
    return np.stack([np.full(len(source), number), np.arange(len(source))], axis=1)


def mixed() -> Choice:
    """Any row beside any other, each equally often. The sources must agree in loss and in-batch flag."""

    def lanes(sources: Sequence[Source]) -> list[Lane]:
        if len({(s.loss, s.in_batch) for s in sources}) > 1:
            said = ", ".join(f"{s.name}: loss={s.loss!r} in_batch={s.in_batch}" for s in sources)
            raise BadInput(f"mixed() needs sources of one loss and in-batch flag ({said}); use one_source(...)")
        return [Lane(np.concatenate([_rows(i, s) for i, s in enumerate(sources)]), 1.0)]

    return lanes


def one_source(alpha: float = 1.0) -> Choice:
    """A batch comes from one source, drawn in proportion to size ** alpha (0: all alike, 1: by size)."""

    def lanes(sources: Sequence[Source]) -> list[Lane]:
        return [Lane(_rows(i, s), len(s) ** alpha) for i, s in enumerate(sources)]

    return lanes


def quota(shares: Mapping[str, float], alpha: float = 0.5) -> Choice:
    """As `one_source`, but each kind or name in `shares` gets a fixed share of the batches (QZhou's η).

    Args:
        shares: kind or name of sources → share; what remains of 1 goes to all others.
        alpha: exponent of the sizes within a group.
    """
    if any(not 0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise BadInput(f"shares must be from 0 to 1 and add up to at most 1, got {dict(shares)}")

    def lanes(sources: Sequence[Source]) -> list[Lane]:
        group = [next((g for g in shares if g in (s.name, s.kind)), None) for s in sources]
        missing = [g for g in shares if g not in group]
        rest = 1 - sum(shares.values())
        if missing:
            raise BadInput(f"quota names {missing}, but no source has that name or kind")
        if rest > 1e-9 and None not in group:
            raise BadInput(f"shares {dict(shares)} leave {rest:.3g} of the batches to other sources; there are none")
        total = {g: sum(len(s) ** alpha for s, of in zip(sources, group) if of == g) for g in set(group)}
        return [
            Lane(_rows(i, s), (rest if g is None else shares[g]) * len(s) ** alpha / total[g])
            for i, (s, g) in enumerate(zip(sources, group))
        ]

    return lanes


def by_length(inner: Choice, edges: Sequence[int]) -> Choice:
    """Split each lane of another choice by length, so that a batch pads little.

    Args:
        inner: the choice to refine.
        edges: where to cut, in tokens (in characters for rows that do not know their tokens).
    """

    def lanes(sources: Sequence[Source]) -> list[Lane]:
        found: list[Lane] = []
        for rows, share in inner(sources):
            lengths = [_length(sources[s][i]) for s, i in rows]
            bucket = np.digitize(lengths, sorted(edges))
            for b in np.unique(bucket):
                part = rows[bucket == b]
                found.append(Lane(part, share * len(part) / len(rows)))
        return found

    return lanes


def by_loss(inner: Choice, shares: Mapping[str, float] | None = None) -> Choice:
    """Another choice among the sources of each loss.

    Args:
        inner: the choice for each.
        shares: loss → how often it is drawn; as often as it has rows, if None.
    """

    def lanes(sources: Sequence[Source]) -> list[Lane]:
        found: list[Lane] = []
        losses = list(dict.fromkeys(source.loss for source in sources))
        if shares is not None and set(shares) != set(losses):
            raise BadInput(f"by_loss has shares for {sorted(shares)}, the sources ask for {sorted(losses)}")
        for loss in losses:
            numbers = np.array([i for i, source in enumerate(sources) if source.loss == loss])
            group = [sources[i] for i in numbers]
            inside = inner(group)
            often = sum(map(len, group)) if shares is None else shares[loss]
            total = sum(lane.share for lane in inside)
            for rows, share in inside:
                found.append(Lane(np.stack([numbers[rows[:, 0]], rows[:, 1]], axis=1), often * share / total))
        return found

    return lanes


def _length(example: Example) -> int:
    return example.tokens or max(map(len, example.texts))


def choice(text: str) -> Choice:
    """A choice from words, as recipes write it: `mixed`, `one_source(alpha=.5)`, `quota(retrieval=.72, alpha=.5)`.

    `by_length(64, 128)` behind a `|` refines it: `mixed | by_length(64, 128)`.
    """
    first, *rest = [part.strip() for part in text.split("|")]
    made = _choice(first, None)
    for part in rest:
        made = _choice(part, made)
    return made


def _choice(text: str, inner: Choice | None) -> Choice:
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
    arguments = [a.strip() for a in (match[2] or "").split(",") if a.strip()] if match else []
    try:
        named = {k.strip(): float(v) for k, _, v in (a.partition("=") for a in arguments if "=" in a)}
        plain = [int(a) for a in arguments if "=" not in a]
    except ValueError:
        match = None
    if match and inner is not None and match[1] == "by_length" and plain and not named:
        return by_length(inner, plain)
    if match and inner is None and not plain:
        if match[1] == "mixed" and not named:
            return mixed()
        if match[1] == "one_source" and set(named) <= {"alpha"}:
            return one_source(**named)
        if match[1] == "quota" and set(named) - {"alpha"}:
            return quota({k: v for k, v in named.items() if k != "alpha"}, named.get("alpha", 0.5))
    raise BadInput(
        f"batcher {text!r}: write mixed, one_source(alpha=.5) or quota(retrieval=.72, alpha=.5), "
        "with '| by_length(64, 128)' behind it if wanted"
    )


class Batcher:
    """Batches without end.

    Two rows with the same query, or with a positive in common, never share a batch. Graded pairs may, for nothing there
    is a negative; and rows of a class may share a positive, which is what the mask `same_class` is for.
    A lane that runs out of rows that fit gives a smaller batch.

    Args:
        sources: where rows come from.
        batch_size: rows.
        negatives: K, hard negatives to a row: drawn again where a row has fewer, cut where it has more.
        choice: which rows go together.
    """

    def __init__(
        self, sources: Sequence[Source], batch_size: int = 128, *, negatives: int = 0, choice: Choice | None = None
    ) -> None:
        if not sources or batch_size < 1 or negatives < 0:
            raise BadInput(f"need sources, batch_size ≥ 1 and negatives ≥ 0, got {batch_size}, {negatives}")
        empty = [source.name for source in sources if not len(source)]
        if empty:
            raise BadInput(f"no rows in source {', '.join(empty)}")
        self.sources, self.batch_size, self.negatives = list(sources), batch_size, negatives
        self.lanes = [lane for lane in (choice or mixed())(self.sources) if lane.share > 0]

    def __len__(self) -> int:
        """Rows of all sources."""
        return sum(map(len, self.sources))

    def batches(self, seed: int = 0, skip: int = 0) -> Iterator[Batch]:
        """Batches number `skip`, `skip` + 1, … of a seed. To skip costs little: no text is rendered."""
        for number, rows in enumerate(self._picks(seed)):
            if number >= skip:
                yield self.make(rows, np.random.default_rng([seed, 1, number]))

    def _picks(self, seed: int) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([seed, 0])
        shares = np.array([lane.share for lane in self.lanes])
        decks = [_Deck(lane.rows, np.random.default_rng([seed, 2, i])) for i, lane in enumerate(self.lanes)]
        while True:
            yield self._pick(decks[rng.choice(len(decks), p=shares / shares.sum())])

    def _pick(self, deck: _Deck) -> list[tuple[int, int]]:
        picked: list[tuple[int, int]] = []
        held: list[tuple[int, int]] = []
        queries: set[str] = set()
        positives: set[str] = set()
        for _ in range(min(self.batch_size * 8 + 64, len(deck.rows))):
            if len(picked) == self.batch_size:
                break
            source, row = one = deck.draw()
            example = self.sources[source][row]
            kind = self.sources[source].kind
            if kind == "graded":
                picked.append(one)
            elif example.query in queries or (kind not in CLASSES and not positives.isdisjoint(example.pos)):
                held.append(one)
            else:
                queries.add(example.query)
                positives.update(example.pos)
                picked.append(one)
        deck.put_back(held)
        return picked

    def make(self, rows: Sequence[tuple[int, int]], rng: np.random.Generator) -> Batch:
        """Render rows."""
        examples = [self.sources[s][i] for s, i in rows]
        froms = [self.sources[s] for s, _ in rows]
        paired = bool(examples[0].pos)
        k = self.negatives if paired else 0
        docs, labels, scores = [], [], []
        for example, source in zip(examples, froms):
            if bool(example.pos) != paired:
                raise BadInput(f"source {source.name!r}: rows with and without positives cannot share a batch")
            if k and not example.neg:
                raise BadInput(f"source {source.name!r} has rows without negatives: mine some, or set negatives = 0")
            at = int(rng.integers(len(example.pos))) if len(example.pos) > 1 else 0
            chosen = list(range(len(example.neg)))[:k]
            if len(chosen) < k:
                chosen += [int(n) for n in rng.integers(len(example.neg), size=k - len(chosen))]
            docs.append([*example.pos[at : at + 1], *(example.neg[n] for n in chosen)])
            known = example.neg_labels
            labels.append([example.label][: len(example.pos)] + [known[n] if known else None for n in chosen])
            if example.pos_scores and (example.neg_scores or not k):
                scores.append([example.pos_scores[at], *((example.neg_scores or [])[n] for n in chosen)])
        shown = [s.show_query(e.query, e) for s, e in zip(froms, examples)]
        shown += [s.show_document(text, e) for s, e, row in zip(froms, examples, docs) for text in row]
        return Batch(
            query=[e.query for e in examples],
            docs=docs,
            label=[e.label for e in examples],
            doc_label=labels,
            score=[e.score for e in examples],
            doc_score=scores if len(scores) == len(docs) else None,
            source="+".join(dict.fromkeys(s.name for s in froms)),
            loss=froms[0].loss,
            in_batch=froms[0].in_batch,
            ids=[(int(s), int(i)) for s, i in rows],
            shown=shown,
        )


class _Deck:
    """Rows of a lane in random order, shuffled again when they run out."""

    def __init__(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        self.rows, self.rng = rows, rng
        self.waiting: deque[tuple[int, int]] = deque()
        self.order, self.at = rng.permutation(len(rows)), 0

    def draw(self) -> tuple[int, int]:
        if self.waiting:
            return self.waiting.popleft()
        if self.at == len(self.order):
            self.order, self.at = self.rng.permutation(len(self.rows)), 0
        self.at += 1
        source, row = self.rows[self.order[self.at - 1]]
        return int(source), int(row)

    def put_back(self, rows: list[tuple[int, int]]) -> None:
        """What did not fit into this batch comes first in the next, so that no row is lost."""
        self.waiting.extend(rows)
