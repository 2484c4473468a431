"""LIMIT: a retrieval set that is trivial to read and hard to embed.

Documents are people who like things ("Ada Marlow likes riverkites, moonlamps and …"), queries ask who likes one thing,
and exactly k people do. The judgments decide the difficulty: when every pair of people is asked for (the `dense`
pattern), one vector of d numbers per person cannot order all of them, however it was trained. Matching words can.

Weller, Boratko, Naim and Lee, "On the Theoretical Limitations of Embedding-Based Retrieval", arXiv 2508.21038.
The things are compounds of our own word lists, one word each, so that no list is copied and a query has exactly one
word that matters. `limit_with_distractors` instead keeps the published small set (46 people, 1,000 queries) and adds
people whose things no query asks for, which is how its full version differs from the small one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations, islice
from math import comb
from pathlib import Path
from typing import Literal

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.limit_words import (
    FIRST_ENDS,
    FIRST_STARTS,
    LAST_ENDS,
    LAST_STARTS,
    MODIFIERS,
    NOUNS,
    ORDINARY,
)
from inlay.evaluation.retrieval_set import Qrels, RetrievalSet

__all__ = ["limit", "limit_with_distractors"]

Pattern = Literal["dense", "random", "cycle", "disjoint"]

LIKES = 45  # things a person likes
FILLERS = 850  # things no query asks for, as in the paper: about 1,850 things, 1,000 of them asked for


def limit(
    n_documents: int = 50_000, n_queries: int = 1000, k: int = 2, pattern: Pattern = "dense", seed: int = 42
) -> RetrievalSet:
    """Make a LIMIT set; the same arguments give the same set.

    Args:
        n_documents: people.
        n_queries: queries, each about a thing of its own.
        k: relevant documents of a query.
        pattern: which k people share a thing. `dense`: the first combinations, in lexicographic order, of as few
            people as have `n_queries` combinations (46 people for 1,000 pairs); `random`: distinct random
            combinations of all people; `cycle`: k people in a row, the next query one further, closing to a ring;
            `disjoint`: k people of its own for each query.
        seed: of every random choice.
    """
    if n_documents < 1 or n_queries < 1 or k < 1:
        raise BadInput(f"need at least one document, query and k; got {n_documents}, {n_queries}, {k}")
    rng = np.random.default_rng(seed)
    relevant = _relevant(n_documents, n_queries, k, pattern, rng)
    things = _compounds(n_queries + FILLERS, rng)
    asked, fillers = things[:n_queries], things[n_queries:]
    likes: list[list[str]] = [[] for _ in range(n_documents)]
    for thing, people in zip(asked, relevant):
        for person in people:
            likes[person].append(thing)
    names = _names(n_documents, rng)
    corpus = [{"id": name, "title": "", "text": _sentence(name, own, fillers, rng)} for name, own in zip(names, likes)]
    queries = {f"query_{i}": f"Who likes {thing}?" for i, thing in enumerate(asked)}
    qrels: Qrels = {f"query_{i}": {names[person]: 1 for person in people} for i, people in enumerate(relevant)}
    return RetrievalSet(corpus, queries, qrels, name=f"limit-{pattern}-{n_documents}")


def limit_with_distractors(folder: str | Path, n_documents: int = 50_000, seed: int = 42) -> RetrievalSet:
    """The published small set, and generated people beside it who like nothing that is asked for.

    It stands in for the published full set, which has 50,000 documents. There the others' things come from the same
    list as those asked for, so they share words with them ("Elm Trees", "Oak Trees"), and that is what makes the full
    set harder than its size. Here they are made to share words as often: see `_kindred`.

    Args:
        folder: holds LIMIT-small (46 documents, 1,000 queries).
        n_documents: people in all.
        seed: of the others' names and things.
    """
    small = RetrievalSet.load(folder)
    if n_documents < len(small):
        raise BadInput(f"n_documents={n_documents} is less than the {len(small)} documents of {folder}")
    asked = dict.fromkeys(_asked(text) for text in small.queries.values())
    listed = dict.fromkeys(thing for document in small.corpus for thing in _listed(document["text"]))
    # A published thing may hold " and " itself, so that splitting a list leaves a part of one: never a distractor's.
    parts = {part for thing in asked for part in thing.split(" and ")}
    unasked = [thing for thing in listed if thing not in parts and thing not in asked]
    rng = np.random.default_rng(seed)
    things = unasked + _kindred(list(asked) + unasked, max(FILLERS - len(unasked), LIKES), rng)
    names = [name for name in _names(n_documents, rng) if name not in set(small.ids)][: n_documents - len(small)]
    others = [{"id": name, "title": "", "text": _sentence(name, [], things, rng)} for name in names]
    return RetrievalSet(small.corpus + others, small.queries, small.qrels, name=f"limit-{n_documents}")


def _kindred(known: list[str], n: int, rng: np.random.Generator) -> list[str]:
    """New things that share words with known ones about as often as these share words among themselves.

    Each takes the number of words of a random known thing. A word is new with the probability that Good and Turing
    give the next word of the list, the share of words that occur in it once; else it is drawn from those that occur
    more often, as often as they do. Last words and others are counted apart: "Trees" ends many things, "Red" begins
    many.
    """
    ends = Counter(thing.split()[-1] for thing in known)
    starts = Counter(word for thing in known for word in thing.split()[:-1])
    seen = {word.lower() for word in [*ends, *starts]}
    fresh = [word.capitalize() for word in dict.fromkeys(ORDINARY + NOUNS + MODIFIERS) if word not in seen]
    fresh = [fresh[i] for i in rng.permutation(len(fresh))]
    draws = [_next_word(counts, fresh, rng) for counts in (starts, ends)]
    made = dict.fromkeys(known)
    while len(made) < len(known) + n:
        words = known[rng.integers(len(known))].count(" ") + 1
        made.setdefault(" ".join([*(draws[0]() for _ in range(words - 1)), draws[1]()]))
    return list(made)[len(known) :]


def _next_word(counts: Counter[str], fresh: list[str], rng: np.random.Generator) -> Callable[[], str]:
    repeated = [word for word, count in counts.items() if count > 1]
    weights = np.array([counts[word] for word in repeated], dtype=np.float64)
    weights /= weights.sum() or 1
    unseen = sum(count == 1 for count in counts.values()) / max(counts.total(), 1)

    def draw() -> str:
        if not repeated or rng.random() < unseen:
            return fresh.pop() if fresh else _compounds(1, rng)[0]
        return repeated[rng.choice(len(repeated), p=weights)]

    return draw


def _relevant(n: int, n_queries: int, k: int, pattern: str, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The k people of each query."""
    if pattern == "dense":
        core = k
        while comb(core, k) < n_queries:
            core += 1
        _need(n, core, pattern, n_queries, k)
        return list(islice(combinations(range(core), k), n_queries))
    if pattern == "random":
        if comb(n, k) < n_queries:
            raise BadInput(f"{n} documents have only {comb(n, k)} combinations of {k}, fewer than {n_queries} queries")
        chosen: dict[tuple[int, ...], None] = {}
        while len(chosen) < n_queries:
            chosen.setdefault(tuple(sorted(rng.choice(n, k, replace=False).tolist())))
        return list(chosen)
    if pattern == "cycle":
        _need(n, max(n_queries, k + 1), pattern, n_queries, k)
        return [tuple((i + step) % n_queries for step in range(k)) for i in range(n_queries)]
    if pattern == "disjoint":
        _need(n, n_queries * k, pattern, n_queries, k)
        return [tuple(range(i * k, i * k + k)) for i in range(n_queries)]
    raise BadInput(f"pattern {pattern!r} is not one of dense, random, cycle, disjoint")


def _need(n: int, least: int, pattern: str, n_queries: int, k: int) -> None:
    if n < least:
        raise BadInput(f"pattern {pattern!r} with {n_queries} queries and k={k} needs {least} documents, got {n}")


def _sentence(name: str, own: list[str], fillers: list[str], rng: np.random.Generator) -> str:
    """A person's document: the things asked for and fillers up to 45, in random order."""
    missing = min(max(LIKES - len(own), 0), len(fillers))
    likes = own + [fillers[i] for i in rng.choice(len(fillers), missing, replace=False)]
    likes = [likes[i] for i in rng.permutation(len(likes))]
    return f"{name} likes {', '.join(likes[:-1])} and {likes[-1]}." if len(likes) > 1 else f"{name} likes {likes[0]}."


def _asked(query: str) -> str:
    match = re.fullmatch(r"Who likes (.+)\?", query)
    if not match:
        raise BadInput(f"expected a LIMIT query ('Who likes …?'), got {query!r}")
    return match[1]


def _listed(text: str) -> list[str]:
    return re.split(r", | and ", text.partition(" likes ")[2].removesuffix("."))


def _compounds(n: int, rng: np.random.Generator) -> list[str]:
    """Distinct one-word things: a modifier and a noun."""
    pairs = [modifier + noun for modifier in MODIFIERS for noun in NOUNS]
    if n > len(pairs):
        raise BadInput(f"{n} different things are needed, the word lists make {len(pairs)}; ask for fewer queries")
    return [pairs[i].capitalize() for i in rng.permutation(len(pairs))[:n]]


def _names(n: int, rng: np.random.Generator) -> list[str]:
    """Distinct first and last names, composed of syllables."""
    firsts = [start + end for start in FIRST_STARTS for end in FIRST_ENDS]
    lasts = [start + end for start in LAST_STARTS for end in LAST_ENDS]
    if n > len(firsts) * len(lasts):
        raise BadInput(f"{n} documents are more than the {len(firsts) * len(lasts)} names that can be composed")
    drawn = rng.permutation(len(firsts) * len(lasts))[:n].tolist()
    return [f"{firsts[i // len(lasts)].capitalize()} {lasts[i % len(lasts)].capitalize()}" for i in drawn]
