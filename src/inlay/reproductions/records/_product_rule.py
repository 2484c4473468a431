"""Real products with made duplicates, where a rule says what matches: the same model number, and prices within 10%.

Of each product of Abt-Buy whose name holds a model number there are six records: itself; two duplicates in other words
(words dropped, cut short, mistyped, moved; another price within 5%); two siblings in the same words, with one or two
characters of the model number changed; and the same words and model at another price. So likeness of words says
little, and on purpose: what the paper learns hashes for are rules that no generic similarity follows.
"""

from __future__ import annotations

import random
import re
from typing import Any

from inlay.reproductions.records._entity_tables import Judged, Tables

__all__ = ["model_of", "product_rule", "rule_tables"]

_KEPT = re.compile(r"[^a-z0-9]")
WITHIN = 0.1
ENOUGH = 5  # characters of a model number
DESCRIPTION = 12  # words of it that are kept
PRODUCTS = 600  # of about 1,140 with a model number, for time


def model_of(name: str) -> str:
    """The model number in a product's name: the longest word of letters and digits; "" if there is none."""
    words = [_KEPT.sub("", word) for word in name.lower().split()]
    words = [w for w in words if len(w) >= ENOUGH and any(c.isdigit() for c in w) and any(c.isalpha() for c in w)]
    return max(words, key=len, default="")


def product_rule(a: Any, b: Any) -> bool:
    """Whether two products have the same model number, and prices within 10% of the higher."""
    one, other = float(a["price"]), float(b["price"])
    return model_of(a["name"]) == model_of(b["name"]) != "" and abs(one - other) <= WITHIN * max(one, other)


def rule_tables(tables: Tables, seed: int = 0) -> dict[str, Judged]:
    """Three tables of records, of distinct products 3:1:1; the matches of each are all pairs that the rule accepts."""
    rng = random.Random(seed)
    products: dict[str, dict[str, Any]] = {}
    every = [*tables.left, *tables.right]
    prices = [record["price"] for record in every if record["price"]]
    for record in every:
        if model := model_of(record["name"]):
            products.setdefault(model, record)
    models = sorted(products)
    rng.shuffle(models)
    del models[PRODUCTS:]
    made: dict[str, list[dict[str, Any]]] = {"train": [], "valid": [], "test": []}
    for number, model in enumerate(models):
        split = ("train", "train", "train", "valid", "test")[number % 5]
        made[split] += _family(products[model], float(products[model]["price"] or rng.choice(prices)), rng)
    for records in made.values():
        rng.shuffle(records)
    return {split: Judged(records, None, _matches(records)) for split, records in made.items()}


def _family(record: dict[str, Any], price: float, rng: random.Random) -> list[dict[str, Any]]:
    name, description = record["name"].split(), record["description"].split()[:DESCRIPTION]
    model = model_of(record["name"])
    at = next(i for i, word in enumerate(name) if _KEPT.sub("", word.lower()) == model)
    name[at] = model
    twins = [_sibling(model, rng) for _ in range(2)]
    out = [(name, description, price)]
    for _ in range(2):
        words = [_damaged(word, rng) for i, word in enumerate(name) if i != at and rng.random() > 0.4]
        rng.shuffle(words)
        words.insert(rng.randrange(len(words) + 1), model)
        out.append((words, description if rng.random() < 0.3 else [], price * rng.uniform(0.95, 1.05)))
    out += [([*name[:at], twin, *name[at + 1 :]], description, price * rng.uniform(0.98, 1.02)) for twin in twins]
    out.append((name, description, price * rng.choice((rng.uniform(0.5, 0.8), rng.uniform(1.3, 2.0)))))
    return [
        {"name": " ".join(words), "description": " ".join(about), "price": f"{max(cost, 0.5):.2f}"}
        for words, about, cost in out
    ]


def _sibling(model: str, rng: random.Random) -> str:
    """The model number with one or two characters changed to others of their kind."""
    letters = list(model)
    for at in rng.sample(range(len(letters)), rng.choice((1, 2))):
        kind = "0123456789" if letters[at].isdigit() else "abcdefghijklmnopqrstuvwxyz"
        letters[at] = rng.choice(kind.replace(letters[at], ""))
    return "".join(letters)


def _damaged(word: str, rng: random.Random) -> str:
    """A word mistyped, cut short, or (mostly) as it is."""
    chance = rng.random()
    if len(word) < 4 or chance > 0.35 or model_of(word):
        return word
    if chance > 0.2:
        return word[: rng.randint(2, 4)]
    at = rng.randrange(len(word) - 1)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _matches(records: list[dict[str, Any]]) -> list[tuple[int, int]]:
    by_model: dict[str, list[int]] = {}
    for at, record in enumerate(records):
        by_model.setdefault(model_of(record["name"]), []).append(at)
    return [
        (a, b)
        for own in by_model.values() for i, a in enumerate(own) for b in own[i + 1 :]
        if product_rule(records[a], records[b])
    ]  # fmt: skip
