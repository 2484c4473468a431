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
from itertools import combinations, islice
from math import comb
from pathlib import Path
from typing import Literal

import numpy as np

from inlay.errors import BadInput
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
    corpus = [
        {"id": name, "title": "", "text": _sentence(name, own, fillers, rng)} for name, own in zip(names, likes)
    ]
    queries = {f"query_{i}": f"Who likes {thing}?" for i, thing in enumerate(asked)}
    qrels: Qrels = {f"query_{i}": {names[person]: 1 for person in people} for i, people in enumerate(relevant)}
    return RetrievalSet(corpus, queries, qrels, name=f"limit-{pattern}-{n_documents}")


def limit_with_distractors(folder: str | Path, n_documents: int = 50_000, seed: int = 42) -> RetrievalSet:
    """The published small set and generated people beside it.

    The others like about 45 things that no query asks for: those the small set has (69) and our own up to 850, the
    number of the full set. It is a rebuild, somewhat easier than the published full set, whose things are not ours.

    Args:
        folder: holds LIMIT-small (46 documents, 1,000 queries).
        n_documents: people in all.
        seed: of the others' names and things.
    """
    small = RetrievalSet.load(folder)
    if n_documents < len(small):
        raise BadInput(f"n_documents={n_documents} is less than the {len(small)} documents of {folder}")
    asked = {_asked(text) for text in small.queries.values()}
    # A published thing may hold " and " itself, so that a split leaves a part of one: never a thing of a distractor.
    listed = dict.fromkeys(thing for document in small.corpus for thing in _listed(document["text"]))
    words = {word for thing in asked for word in re.split(r" and ", thing)}
    unasked = [thing for thing in listed if thing not in asked and thing not in words]
    rng = np.random.default_rng(seed)
    things = unasked + [thing for thing in _compounds(FILLERS, rng) if thing not in asked]
    things = things[:FILLERS]
    known = set(small.ids)
    names = [name for name in _names(n_documents, rng) if name not in known][: n_documents - len(small)]
    others = [{"id": name, "title": "", "text": _sentence(name, [], things, rng)} for name in names]
    return RetrievalSet(small.corpus + others, small.queries, small.qrels, name=f"limit-{n_documents}")


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
    pairs = [modifier + noun for modifier in _MODIFIERS for noun in _NOUNS]
    if n > len(pairs):
        raise BadInput(f"{n} different things are needed, the word lists make {len(pairs)}; ask for fewer queries")
    return [pairs[i].capitalize() for i in rng.permutation(len(pairs))[:n]]


def _names(n: int, rng: np.random.Generator) -> list[str]:
    """Distinct first and last names, composed of syllables."""
    firsts = [start + end for start in _FIRST_STARTS for end in _FIRST_ENDS]
    lasts = [start + end for start in _LAST_STARTS for end in _LAST_ENDS]
    if n > len(firsts) * len(lasts):
        raise BadInput(f"{n} documents are more than the {len(firsts) * len(lasts)} names that can be composed")
    drawn = rng.permutation(len(firsts) * len(lasts))[:n].tolist()
    return [f"{firsts[i // len(lasts)].capitalize()} {lasts[i % len(lasts)].capitalize()}" for i in drawn]


_MODIFIERS = (
    "amber apple autumn barley bitter blue bright bronze butter candle cedar cherry clay clover cloud copper coral"
    " cotton crystal desert dream dust ember evening feather fern fire flint fog forest frost garden glass golden grain"
    " granite green harbour hazel hill honey ice indigo iron ivory jade lake lantern lavender leaf lemon linen maple"
    " marble meadow mint mist moon moss mountain night north oak ocean olive orchid paper pearl pepper pine plum rain"
    " red reed river rose rust saffron sand scarlet shadow silk silver sky slate smoke snow star stone storm summer sun"
    " thistle thunder timber velvet violet water wheat willow wind winter wood"
).split()

_NOUNS = (
    "anchors arches axes badges bakers ballads balloons bands banners barges baskets beads beetles bells belts benches"
    " bicycles birds blankets boats bones books boots bottles bowls boxes bracelets branches bricks bridges brooms"
    " brushes buckets buds buttons cabins cakes canoes capes caps cards carpets carts castles cats chains chairs charms"
    " chests chimes clocks coats coins combs cookies cottages crabs cranes crowns cups curtains cymbals daggers dancers"
    " dials dishes docks dolls domes doors doves dragons drums ducks eagles eels engines fables falcons fans fences"
    " ferries fiddles finches fish flags flasks flowers flutes foxes frogs fruits games gardens gates geese giants"
    " gloves goats gongs grapes gulls hammers harps hats hawks hedges helmets herons hinges hoods hooks horns horses"
    " houses huts inks jackets jars jewels jugs kettles keys kites knives knots ladders ladles lamps larks lilies lions"
    " lizards lockets looms lutes maps masks mats mice mills mirrors moths mugs needles nests nets newts oars organs"
    " otters ovens owls paddles pails paints pans parrots pastes pears pedals pens pillows pipes plates plays poems"
    " ponies pools pots prints pumps puppets puzzles quills quilts rabbits rafts ravens ribbons riddles rings roads"
    " robes rockets roofs ropes rugs sails salads satchels saws scarves seals seeds shawls shells shields ships shoes"
    " skates skirts sledges snails soaps socks songs soups spiders spices spoons squares stamps stoves straps swans"
    " swords tables tales tapes teas tents thimbles thrones tiles toads tools torches towers toys trails trains traps"
    " trays trees trucks trumpets tulips tunnels turtles vases veils vests vines wagons walls wands webs wells whales"
    " wheels whistles wigs windows wolves wreaths wrens yachts zebras"
).split()

_FIRST_STARTS = "al ber cor da el fer gre han is jo ka lu mar nor o pe quin ro sa ti u ver wil xan za".split()
_FIRST_ENDS = "a bert cia dora ette fina gar lan mira nelle rick son ta vin".split()
_LAST_STARTS = (
    "ash bran cald dun ell fair green hart ing jarr kend lang mer nor oak pem quar ren stan thorn un vern whit yar zel"
).split()
_LAST_ENDS = "bury by cott den field ford ham land ley man ridge son ton wick worth".split()
