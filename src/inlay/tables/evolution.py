"""Evolution of a choice for every field: the best of a population are changed and crossed, the best ever is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput

__all__ = ["Evolved", "crossed", "evolve", "mutated"]


class Evolved(NamedTuple):
    """The best candidate ever, int64 [genes], its score, and the best score up to each generation."""

    best: np.ndarray
    score: float
    history: list[float]


def mutated(parent: np.ndarray, choices: int, rate: float, random: np.random.Generator) -> np.ndarray:
    """A copy of which each gene is, with probability `rate`, drawn anew from 1 … choices."""
    drawn = random.integers(1, choices + 1, len(parent))
    return np.where(random.random(len(parent)) < rate, drawn, parent)


def crossed(mother: np.ndarray, father: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mother's genes up to a cut, the father's after it; both give at least one where there are two or more."""
    cut = int(random.integers(1, len(mother))) if len(mother) > 1 else 1
    return np.concatenate([mother[:cut], father[cut:]])


def evolve(
    score: Callable[[np.ndarray], float],
    genes: int,
    choices: int,
    *,
    generations: int = 30,
    population: int = 20,
    keep: int = 0,
    mutants: int | None = None,
    rate: float = 0.1,
    repair: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
) -> Evolved:
    """Breed vectors of `genes` numbers from 1 to `choices`; higher scores are better.

    The first generation is random. In each, candidates are scored and sorted; the next one is the `keep` best, a mutant
    of each of the best `mutants`, and crossings of two of the best.

    Args:
        score: of a candidate; called once for each distinct one.
        genes: numbers of a candidate.
        choices: highest number.
        generations: after the first, random one is scored, so many are bred and scored.
        population: candidates in a generation.
        keep: that stay as they are.
        mutants: None takes half of the population.
        rate: probability that a gene of a mutant is drawn anew.
        repair: makes a candidate admissible before it is scored (a budget, say).
        seed: of all draws.
    """
    mutants = population // 2 if mutants is None else mutants
    if genes < 1 or choices < 1 or population < 1 or generations < 0:
        raise BadInput(f"genes, choices and population must be at least 1, got {genes}, {choices} and {population}")
    if keep < 0 or mutants < 0 or keep + mutants > population or not 0 <= rate <= 1:
        raise BadInput(
            f"{keep} kept and {mutants} mutants do not fit {population} candidates, or rate {rate} not [0, 1]"
        )
    random = np.random.default_rng(seed)
    scored: dict[bytes, float] = {}

    def value(candidate: np.ndarray) -> float:
        key = candidate.tobytes()
        if key not in scored:
            scored[key] = float(score(candidate.copy()))
        return scored[key]

    def admissible(candidate: np.ndarray) -> np.ndarray:
        candidate = np.asarray(candidate, dtype=np.int64)
        return candidate if repair is None else np.asarray(repair(candidate.copy()), dtype=np.int64)

    crowd = [admissible(random.integers(1, choices + 1, genes)) for _ in range(population)]
    best, best_score, history = crowd[0], -np.inf, []
    for generation in range(generations + 1):
        values = [value(candidate) for candidate in crowd]
        order = np.argsort([-v for v in values], kind="stable")
        crowd = [crowd[i] for i in order]
        if values[order[0]] > best_score:
            best, best_score = crowd[0].copy(), values[order[0]]
        history.append(best_score)
        if generation == generations:
            break
        parents = crowd[: max(2, population - mutants - keep)]
        pick = [random.integers(len(parents), size=2) for _ in range(population - mutants - keep)]
        crowd = [
            *crowd[:keep],
            *(admissible(mutated(crowd[i], choices, rate, random)) for i in range(mutants)),
            *(admissible(crossed(parents[a], parents[b], random)) for a, b in pick),
        ]
    return Evolved(best.copy(), best_score, history)
