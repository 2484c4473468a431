"""Keyed vectors against gensim and numpy: nearest keys, opening, memory, single keys and many.

Rows are seeded and clustered (`data.clustered`), of uneven lengths; keys are words made of syllables. Both sides keep
float32 rows. Equal quality of a search is the share of the ten nearest keys of a float64 product that it finds.
Opening and memory are those of fresh processes, which read 100 keys: `resident` is how much the process grew from
before it opened the store, imports left out.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import child, data
from benchmarks.harness import Contender, Quality, Row, compare, ratios

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Keyed vectors"
PACKAGES = ("inlay", "gensim", "numpy", "numba")
DIM, K, ASKED, MANY = 300, 10, 200, 10_000
SAME = Quality("recall@10", 0.0005, at_least=True)
EQUAL = Quality("share of equal vectors", 0.0)
CHILDREN = 3


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows of each task and peer."""
    n = 20_000 if quick else 200_000
    size, budget = f"{n:,} × {DIM}", 1.0 if quick else 8.0
    try:
        import gensim.models  # noqa: F401
    except ImportError:
        yield Row(f"most_similar, {size}", "gensim", refused="gensim is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        keys, rows = words(n), _rows(n)
        places = _written(Path(folder), keys, rows)
        yield from _warm(places, keys, rows, size, budget)
        yield from _fresh(places, size, 1 if quick else CHILDREN)


def words(n: int, seed: int = 0) -> list[str]:
    """Different words of two to five syllables."""
    rng = np.random.default_rng(seed)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "l")]
    made: dict[str, None] = {}
    while len(made) < n:
        made["".join(syllables[i] for i in rng.integers(len(syllables), size=rng.integers(2, 6)))] = None
    return list(made)


def _rows(n: int) -> np.ndarray:
    lengths = np.random.default_rng(1).uniform(0.5, 8, size=(n, 1)).astype(np.float32)
    return data.clustered(n, DIM) * lengths


def _written(folder: Path, keys: list[str], rows: np.ndarray) -> dict[str, str]:
    """The same vectors as each side keeps them."""
    from gensim.models import KeyedVectors as Gensim

    from inlay.words import KeyedVectors

    places = {name: str(folder / name) for name in ("inlay", "gensim", "plain.npy", "plain.txt", "word2vec.bin")}
    KeyedVectors.write(places["inlay"], keys, rows).close()
    peer = Gensim(DIM)
    peer.add_vectors(keys, rows)
    peer.fill_norms()
    peer.save(places["gensim"])
    peer.save_word2vec_format(places["word2vec.bin"], binary=True, sort_attr="none")
    np.save(places["plain.npy"], rows)
    Path(places["plain.txt"]).write_text("\n".join(keys), encoding="utf-8")
    return places


def _warm(places: dict[str, str], keys: list[str], rows: np.ndarray, size: str, budget: float) -> Iterator[Row]:
    """Searches and look-ups in stores that are open and were used before."""
    from gensim.models import KeyedVectors as Gensim

    from inlay.words import KeyedVectors

    ours, loaded = KeyedVectors.open(places["inlay"]), KeyedVectors.open(places["inlay"], cache="all")
    theirs = Gensim.load(places["gensim"])
    rng = np.random.default_rng(3)
    asked = [keys[i] for i in rng.integers(len(keys), size=ASKED)]
    truth = _truth(rows, [keys.index(key) for key in asked], keys)

    def searching(name: str, search: Callable[[str], list[str]]) -> Contender:
        def recall() -> float:
            return statistics.mean(len(set(search(key)) & best) / K for key, best in zip(asked, truth))

        return Contender(name, _in_turn(search, asked), recall)

    yield compare(
        f"most_similar, {size}, float32",
        searching("inlay", lambda key: [name for name, _ in ours.most_similar(key, k=K)]),
        searching("gensim", lambda key: [name for name, _ in theirs.most_similar(key, topn=K)]),
        quality=SAME, unit="ms", budget=budget,
        notes={"scan": "high halves of an int8 sketch, then the rest of rows that can be among the best"},
    )  # fmt: skip
    # Equal vectors: ours are asked raw, since that is what gensim gives.
    same = _same(ours, theirs, asked)
    for name, store in (("kept rows", ours), ("all loaded", loaded)):
        yield compare(
            f"one key, warm, {name}",
            Contender("inlay", _in_turn(lambda key, store=store: store[key], asked), lambda: same),
            Contender("gensim", _in_turn(lambda key: theirs[key], asked), lambda: 1.0),
            quality=EQUAL, per=1e-6, unit="µs", budget=budget / 4,
        )  # fmt: skip
    many = [keys[i] for i in rng.integers(len(keys), size=MANY)]
    same = _same(ours, theirs, many)
    for name, store in (("from the file", ours), ("all loaded", loaded)):
        yield compare(
            f"{MANY:,} keys at once, {name}",
            Contender("inlay", lambda store=store: store.query(many, normalised=False), lambda: same),
            Contender("gensim", lambda: theirs[many], lambda: 1.0),
            quality=EQUAL, unit="ms", budget=budget / 2,
        )  # fmt: skip


def _in_turn(work: Callable[[str], Any], asked: Sequence[str]) -> Callable[[], Any]:
    turn = iter(range(1 << 60))
    return lambda: work(asked[next(turn) % len(asked)])


def _same(ours: Any, theirs: Any, keys: Sequence[str]) -> float:
    """Share of keys whose raw vectors are equal on both sides, to float32 rounding."""
    a, b = ours.query(list(keys), normalised=False), theirs[list(keys)]
    return float(np.mean([np.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in zip(a, b)]))


def _truth(rows: np.ndarray, asked: Sequence[int], keys: Sequence[str]) -> list[set[str]]:
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    best = []
    for start in range(0, len(asked), 20):
        some = list(asked[start : start + 20])
        scores = unit @ unit[some].T
        scores[some, range(len(some))] = -np.inf
        best += [{keys[i] for i in np.argpartition(-column, K)[:K]} for column in scores.T]
    return best


def _fresh(places: dict[str, str], size: str, times: int) -> Iterator[Row]:
    """What a process pays that opens a store and reads 100 keys, against others that load theirs."""
    peers = {
        "np.load and a dict": ("plain.npy", "numpy"),
        "gensim load, mapped": ("gensim", "mapped"),
        "gensim load": ("gensim", "whole"),
        "gensim, word2vec binary": ("word2vec.bin", "word2vec"),
    }
    for peer, (place, how) in peers.items():
        ours, theirs = [], []
        for _ in range(times):
            ours.append(child.run("benchmarks.keyed_vectors:open_store", {"path": places["inlay"], "how": "inlay"}))
            theirs.append(child.run("benchmarks.keyed_vectors:open_store", {"path": places[place], "how": how}))
        for task, name, unit in (
            ("open", "open_ms", "ms"),
            ("resident memory after 100 keys", "resident_mb", "MB"),
        ):
            a, b = [each[name] for each in ours], [each[name] for each in theirs]
            yield Row(
                f"{task}, {size}", peer, unit, statistics.median(a), statistics.median(b),
                ratios([max(value, 0.01) for value in a], b),
            )  # fmt: skip


def open_store(path: str, how: str) -> dict[str, float]:
    """One fresh process: open, then read 100 keys."""
    if how == "inlay":
        import inlay.words.keyed_vectors as module
    elif how != "numpy":
        import gensim.models as module
    before = _resident()
    start = time.perf_counter()
    if how == "inlay":
        store = module.KeyedVectors.open(path)
    elif how == "numpy":
        loaded = np.load(path)
        text = Path(path).with_suffix(".txt").read_text(encoding="utf-8")
        numbers = {key: i for i, key in enumerate(text.split("\n"))}
    elif how == "word2vec":
        store = module.KeyedVectors.load_word2vec_format(path, binary=True)
    else:
        store = module.KeyedVectors.load(path, mmap="r" if how == "mapped" else None)
    opened = time.perf_counter() - start
    keys = words(2_000)[::20]  # the first of the same words
    for key in keys:
        _ = loaded[numbers[key]].copy() if how == "numpy" else np.array(store[key])
    return {"open_ms": 1e3 * opened, "resident_mb": _resident() - before}


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")
