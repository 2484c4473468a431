"""A vector for every key: what a store answers when it is asked for one it does not have.

    v = 0.3 · r + 0.7 · s,  normalised

r is a hash that looks like a vector: the mean over all character n-grams (1 to 6 characters) of numbers drawn evenly
from (−1, 1), normalised. The numbers of an n-gram are `mixed(mixed(key_of(gram)) + position)`, a counter-based
generator: the same on every machine, in every process, in any order, and no generator of anyone else's is touched.
s is the normalised mean of the rows of up to three similar keys that the store has, found in this order:

1. keys equal to the query with repeated characters cut to one, or to two (`hiiii` → `hi`, `hii`); else
2. to its stem, English affixes cut off; else to the stem of its shortened form; else
3. keys that share character n-grams with it, 6 characters long, then 5, 4, 3, until three are found. More shared
   n-grams are better; for short queries, keys with the same first and last letter and no longer than the query; then
   shorter keys; then the lower row. A best key more than 4 edits away is not believed: if the query has a stem of its
   own, the stem's n-grams are asked instead.

Keys that are not strings get a vector of their type, whose last number is the key over the largest float32.

All of this is in `Rules`, which every file carries in its header, so that a vector made today is made the same way
tomorrow. `Rules.magnitude()` are the paper's; `Rules()` differ in one point, which the reproduction measures: see
`edits`.

Source: "Magnitude" (arXiv 1810.11190) and, where the paper is silent, the behaviour of its public code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.kernels.mixing import key_of, keys_of, mixed
from inlay.words.subword import EDGE, grams

if TYPE_CHECKING:
    from inlay.words.store_file import StoreFile
    from inlay.words.subword import Subword

Weighed: TypeAlias = tuple[list[int], list[float]]

__all__ = ["Rules", "hashed_vector", "of_length_one", "similar_rows", "unknown_vector"]

PREFIXES = (
    "counter", "electro", "circum", "contra", "hetero", "hyper", "infra", "inter", "intra", "macro", "micro", "multi",
    "photo", "proto", "super", "supra", "tetra", "trans", "ultra", "under", "after", "extra", "retro", "anti", "auto",
    "down", "fore", "homo", "hydr", "kilo", "mega", "mini", "mono", "neur", "omni", "over", "para", "poly", "post",
    "self", "semi", "tele", "theo", "with", "bio", "con", "dec", "dis", "ego", "geo", "mal", "mid", "mis", "neo", "non",
    "off", "out", "pan", "per", "pre", "pro", "sub", "sym", "syn", "tri", "uni", "bi", "co", "de", "em", "en", "ex",
    "il", "im", "in", "ir", "re", "un", "up",
)  # fmt: skip
SUFFIXES = (
    "ologically", "ification", "fulness", "ibility", "ability", "ization", "isation", "ousness", "iveness", "lessly",
    "ically", "ation", "ition", "ement", "ingly", "ology", "ative", "itive", "ible", "able", "ance", "ence", "ancy",
    "ency", "ical", "less", "ship", "ward", "wise", "like", "ness", "ment", "hood", "some", "sion", "tion", "ious",
    "eous", "ling", "ette", "ify", "ize", "ise", "ing", "ion", "ity", "ive", "ous", "ful", "ial", "ian", "ant", "ent",
    "ary", "ery", "ory", "ate", "ish", "ism", "ist", "dom", "eer", "ess", "est", "age", "acy", "ly", "al", "an", "ar",
    "ed", "en", "er", "es", "fy", "ic", "or", "ty", "cy", "s", "y",
)  # fmt: skip
NEAR = 2  # edits up to which a key is believed to be what was meant
REPEATED = 0.5  # edits that letters repeated too often, or not often enough, count for together
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Rules:
    """How vectors of unknown keys are made.

    Args:
        shortest, longest: n-grams of the hashed part r.
        subword: n-grams of the search for similar keys; None where the store has no posting lists.
        similar: how many similar keys make s.
        share: weight of s; r has the rest.
        edits: how similar keys are found and weighed. 0: as above, the paper's, where up to three keys of one weight
            leave the vector between them and near none in particular. Above 0: as a spelling corrector weighs them.
            Candidates are the `pool` keys that share most n-grams (by Dice's coefficient, all lengths at once) and
            those that one swap or one deletion makes; each weighs exp(−`edits` · its edits) / rank ** `prior`, where a
            swap of neighbours is one edit and letters repeated too often half of one. Steps 1 and 2 then only come
            first where a letter was held down (three or more), and where no key is within two edits.
        prior: how much more often earlier rows are meant: files of word vectors are in order of frequency, and by
            Zipf's law 1 says how frequent a word of that rank is. 0 for files in another order.
        pool: candidates whose edits are counted.
        far: edits (by the ratio of matching runs) beyond which the stem is asked.
        stem_at_least: characters that affixes leave.
        namespace: another one gives other hashed parts.
        prefixes, suffixes: affixes that a stem loses, longest first.
    """

    shortest: int = 1
    longest: int = 6
    subword: tuple[int, int] | None = (3, 6)
    similar: int = 3
    share: float = 0.7
    edits: float = 5.0
    prior: float = 1.0
    pool: int = 100
    far: float = 4.0
    stem_at_least: int = 4
    namespace: str = ""
    prefixes: tuple[str, ...] = PREFIXES
    suffixes: tuple[str, ...] = SUFFIXES
    version: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise BadInput(f"n-grams from {self.shortest} to {self.longest} characters: the first must be the smaller")
        if not 0 <= self.share <= 1:
            raise BadInput(f"share is between 0 and 1, got {self.share}")
        if self.similar < 1 or self.pool < self.similar or min(self.edits, self.prior) < 0:
            raise BadInput("similar is at least 1, pool at least similar, and edits and prior are not negative")

    @classmethod
    def magnitude(cls, **changes: Any) -> Rules:
        """The paper's."""
        return cls(**({"edits": 0.0} | changes))

    def over(self, subword: tuple[int, int] | None) -> Rules:
        """The same rules for a store with these posting lists."""
        return Rules(**(self._values() | {"subword": subword}))

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rules:
        """The reverse of `as_dict`. Raises `Corrupt` for rules that this version does not know."""
        try:
            if values["version"] != 1:
                raise Corrupt(f"out-of-vocabulary rules of version {values['version']}: a newer inlay wrote them")
            plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(**plain)
        except (KeyError, TypeError) as error:
            raise Corrupt(f"out-of-vocabulary rules cannot be read: {error}") from None


def of_length_one(vector: np.ndarray) -> np.ndarray:
    """A float64 vector at length 1; zeros stay zeros. The sum is exact, so that every machine rounds it alike."""
    length = math.sqrt(math.fsum((vector * vector).tolist()))
    return vector / length if length > 0 else vector


def evenly(seeds: np.ndarray, dim: int) -> np.ndarray:
    """Numbers evenly from (−1, 1) for each seed, uint64 [n] to float64 [n, dim], by counting."""
    with np.errstate(over="ignore"):
        drawn = mixed(mixed(seeds)[:, None] + np.arange(dim, dtype=np.uint64))
    return (drawn >> np.uint64(11)) * 2.0**-52 - 1


def hashed_vector(key: Any, dim: int, rules: Rules) -> np.ndarray:
    """The hashed part r, float64 [dim]: of length 1 for strings."""
    begin = f"{rules.namespace}{EDGE}" if rules.namespace else ""
    if not isinstance(key, str):
        return _of_value(key, dim, begin)
    marked = cut_runs(f"{EDGE}{key}{EDGE}", 2)
    pieces = [gram for n in range(rules.shortest, rules.longest + 1) for gram in grams(marked, n)] or [marked]
    drawn = evenly(keys_of(begin + piece for piece in pieces), dim)
    return of_length_one(drawn.sum(axis=0) / len(pieces))


def _of_value(key: Any, dim: int, begin: str) -> np.ndarray:
    vector = evenly(np.array([key_of(begin + type(key).__name__)], dtype=np.uint64), dim)[0]
    try:
        value = float(key)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f"a key is a string or a number, got {key!r} of type {type(key).__name__}") from None
    if not math.isfinite(value):
        raise BadInput(f"a key that is a number must be finite, got {key!r}")
    vector[-1] = max(-1.0, min(1.0, value / FLOAT32_MAX))
    return vector


def unknown_vector(
    key: Any, dim: int, rules: Rules, rows_of: Callable[[str], list[int]], file: StoreFile, subword: Subword | None
) -> np.ndarray:
    """The vector of a key that the store does not have, float32 [dim].

    Args:
        key: a string, or a number.
        dim: width of the vector.
        rules: those of the file.
        rows_of: rows of a key, whatever its case.
        file: the store.
        subword: its posting lists, if it has any.
    """
    hashed = hashed_vector(key, dim, rules)
    if not isinstance(key, str):
        return hashed.astype(np.float32)
    found, weights = similar_rows(key, rules, rows_of, file, subword)
    if not found:
        return hashed.astype(np.float32)
    mean = np.zeros(dim)
    for weight, row in zip(weights, file.unit_rows(found).astype(np.float64)):
        mean += weight * row
    similar = of_length_one(mean)
    return of_length_one((1 - rules.share) * hashed + rules.share * similar).astype(np.float32)


def similar_rows(
    key: str, rules: Rules, rows_of: Callable[[str], list[int]], file: StoreFile, subword: Subword | None
) -> Weighed:
    """Rows of the keys most similar to an unknown one, best first, and their weights."""
    once, twice = cut_runs(key, 1), cut_runs(key, 2)
    stem, stem_once = stemmed(key, rules), stemmed(once, rules)
    if rules.subword is None:
        subword = None
    weighed: Weighed = ([], [])
    if subword is not None and rules.edits and twice == key:
        weighed, edits = _by_edits(key, rules, rows_of, file, subword)
        if edits <= NEAR:
            return weighed
    # (1) and (2): the first group of spellings that the store knows.
    for spellings in ((once, twice), (stem,), (stem_once,)):
        known = [rows_of(spelling) for spelling in dict.fromkeys(spellings) if spelling != key]
        rows = _shared(known, rules.similar)
        if rows:
            return rows, [1.0] * len(rows)
    if subword is None:
        return [], []
    if rules.edits:
        return weighed if weighed[0] else _by_edits(twice, rules, rows_of, file, subword)[0]
    rows = _by_grams(key, once, stem_once, rules, file, subword)
    return rows, [1.0] * len(rows)


def _shared(known: list[list[int]], most: int) -> list[int]:
    """Up to `most` rows of several spellings, each given its part where all are known."""
    known = [rows for rows in known if rows]
    if len(known) < 2:
        return known[0][:most] if known else []
    part = -(-most // len(known))
    return list(dict.fromkeys(row for rows in known for row in rows[:part]))[:most]


def _by_grams(key: str, once: str, stem: str, rules: Rules, file: StoreFile, subword: Subword) -> list[int]:
    """Step 3 of the paper."""
    shortest, longest = rules.subword or (3, 6)
    asked = f"{EDGE}{cut_runs(key.lower(), 2)}{EDGE}"
    best: list[int] = []
    for n in range(longest, shortest - 1, -1):
        wanted = _sampled(grams(asked, n), n)
        best = _ranked(asked, *subword.matches(wanted), rules.similar, file)
        near = best and _edits_by_ratio(file.keys(best[:1])[0].lower(), key.lower()) <= rules.far
        if not near and stem not in (key, once):
            other = f"{EDGE}{cut_runs(stem.lower(), 2)}{EDGE}"
            wanted = [gram for m in range(n, longest + 1) for gram in grams(other, m)]
            best = _ranked(asked, *subword.matches(wanted), rules.similar, file)
        if len(best) >= rules.similar:
            break
    return best


def _sampled(found: list[str], n: int) -> list[str]:
    """Every second n-gram of long queries, and the last."""
    most = {6: 4, 5: 8, 4: 12}.get(n, len(found))
    while len(found) > most:
        found = found[:-1][::2] + found[-1:]
    return found


def _ranked(asked: str, rows: np.ndarray, counts: np.ndarray, most: int, file: StoreFile) -> list[int]:
    """The best rows: more n-grams, then (short queries) first and last letter, then shorter keys, then lower rows."""
    if len(rows) > most:  # the cut is made by the first criterion, so that keys are read only of rows that may count
        cut = np.partition(counts, len(counts) - most)[len(counts) - most]
        rows, counts = rows[counts >= cut], counts[counts >= cut]
    word = asked[1:-1]
    short = len(word) <= 6

    def place(item: tuple[int, int, str]) -> tuple[int, ...]:
        row, count, key = item
        fits = short and len(key) <= len(word)
        first = fits and key[:1].lower() == word[:1]
        last = fits and key[-1:].lower() == word[-1:]
        return -count, not first, not last, len(key), row

    items = sorted(zip(rows.tolist(), counts.tolist(), file.keys(rows)), key=place)
    return [row for row, *_ in items[:most]]


def _by_edits(
    key: str, rules: Rules, rows_of: Callable[[str], list[int]], file: StoreFile, subword: Subword
) -> tuple[Weighed, float]:
    """Candidates by n-grams and by single edits, weighed as `Rules.edits` says; and the edits of the best."""
    shortest, longest = rules.subword or (3, 6)
    asked = key.lower()
    marked = f"{EDGE}{asked}{EDGE}"
    wanted = {gram for n in range(shortest, longest + 1) for gram in grams(marked, n)}
    rows, counts = subword.matches(sorted(wanted))
    if len(rows) > rules.pool:
        # n-grams of a key of c characters; bytes stand for characters, which is enough to choose candidates by.
        ends = file.whole("key_offsets")
        sizes = (ends[rows + 1] - ends[rows]).astype(np.int64) + 2
        others = sum(np.maximum(sizes - n + 1, 0) for n in range(shortest, longest + 1))
        alike = counts / (len(wanted) + others)
        rows = rows[np.lexsort((rows, -alike))[: rules.pool]]
    swapped = [asked[:i] + asked[i + 1] + asked[i] + asked[i + 2 :] for i in range(len(asked) - 1)]
    dropped = [asked[:i] + asked[i + 1 :] for i in range(len(asked))]
    single = [row for other in dict.fromkeys(swapped + dropped) if other for row in rows_of(other)[: rules.similar]]
    candidates = np.unique(np.concatenate([rows.astype(np.int64), np.array(single, dtype=np.int64)]))
    once = cut_runs(asked, 1)
    ranked = []
    spelled = [other.lower() for other in file.keys(candidates)]
    for row, other, edits in zip(candidates.tolist(), spelled, distances(asked, spelled).astype(np.float64).tolist()):
        if edits > REPEATED and cut_runs(other, 1) == once:
            edits = REPEATED
        ranked.append((rules.edits * edits + rules.prior * math.log(row + 1), row, edits))
    ranked = sorted(ranked)[: rules.similar]
    if not ranked:
        return ([], []), math.inf
    weights = [math.exp(ranked[0][0] - cost) for cost, *_ in ranked]
    return ([row for _, row, _ in ranked], weights), ranked[0][2]


def distances(asked: str, others: Sequence[str]) -> np.ndarray:
    """Edits from one string to each of others, int64 [n]: insert, delete, replace, or swap two neighbours (optimal
    string alignment: no letter is edited twice). One table for all of them, filled cell by cell.
    """
    widest = max(map(len, others), default=0)
    letters = np.full((widest, len(others)), -1, dtype=np.int32)
    for column, other in enumerate(others):
        letters[: len(other), column] = [ord(letter) for letter in other]
    costs = np.empty((len(asked) + 1, widest + 1, len(others)), dtype=np.int64)
    costs[:, 0], costs[0] = np.arange(len(asked) + 1)[:, None], np.arange(widest + 1)[:, None]
    codes = [ord(letter) for letter in asked]
    for i, code in enumerate(codes, 1):
        differs = letters != code
        for j in range(1, widest + 1):
            least = np.minimum(costs[i - 1, j], costs[i, j - 1]) + 1
            np.minimum(least, costs[i - 1, j - 1] + differs[j - 1], out=least)
            if i > 1 and j > 1:
                swapped = ~differs[j - 2] & (letters[j - 1] == codes[i - 2])
                least = np.where(swapped, np.minimum(least, costs[i - 2, j - 2] + 1), least)
            costs[i, j] = least
    return costs[len(asked), [len(other) for other in others], np.arange(len(others))]


def _edits_by_ratio(a: str, b: str) -> float:
    """The paper's measure of edits: the characters of the longer string that no matching run covers."""
    length = max(len(a), len(b))
    return length - SequenceMatcher(None, a, b).ratio() * length


_RUNS = {1: re.compile(r"(.)\1+", re.DOTALL), 2: re.compile(r"(.)\1{2,}", re.DOTALL)}


def cut_runs(text: str, most: int) -> str:
    """Runs of one character cut to `most`, 1 or 2."""
    return _RUNS[most].sub(r"\1" * most, text)


def stemmed(key: str, rules: Rules) -> str:
    """The key without affixes: the longer of its longest prefix and suffix goes, again and again."""
    while True:
        low = key.lower()
        before = next((len(affix) for affix in rules.prefixes if low.startswith(affix)), 0)
        after = next((len(affix) for affix in rules.suffixes if low.endswith(affix)), 0)
        rest = key[before if before >= after else 0 : len(key) - (after if after >= before else 0)]
        if len(rest) < rules.stem_at_least or rest == key:
            return key
        key = rest
