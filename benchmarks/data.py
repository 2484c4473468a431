"""The collections measured: judged ones as published, large ones generated from real text with a seed.

Published sets are read from the folder that `INLAY_DATA` names: `<set>/corpus.jsonl.gz`, `queries.jsonl.gz` and
`qrels.tsv` as BEIR lays them out, and `text/english_text.jsonl.gz`, whose lines have a `text` of one sentence a line.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from inlay.evaluation import RetrievalSet

__all__ = [
    "DataMissing", "clustered", "embedded", "folder", "hashed_vectors", "judged", "ndcg", "resampled", "sentences",
    "spans", "utterances",
]  # fmt: skip


# Columns of short texts, by file.
TABLES = {
    "pairs/qqp.tsv.gz": ("text1", "text2"),
    "pairs/flickr8k_captions.tsv.gz": ("caption",),
    "classification/ag_news.tsv.gz": ("text",),
    "classification/banking77.tsv.gz": ("text",),
    "classification/clinc150.tsv.gz": ("text",),
    "classification/sentence_polarity.tsv.gz": ("text",),
}


class DataMissing(Exception):
    """The published sets are not there. Says where they are looked for."""


def folder() -> Path:
    """The folder of published sets, or `DataMissing`."""
    named = os.environ.get("INLAY_DATA")
    if not named:
        raise DataMissing("set INLAY_DATA to the folder of data sets (scifact/, cranfield/, cosqa/, text/)")
    if not Path(named).is_dir():
        raise DataMissing(f"INLAY_DATA names {named}, which is not a folder")
    return Path(named)


def judged(name: str) -> RetrievalSet:
    """Read one judged set."""
    from inlay.errors import BadInput
    from inlay.evaluation import RetrievalSet

    try:
        return RetrievalSet.load(folder() / name)
    except BadInput as error:
        raise DataMissing(str(error)) from error


def ndcg(test: RetrievalSet, found: Iterable[Sequence[str]], k: int = 10) -> float:
    """nDCG@k of ranked document ids, one list for each query of the set in its order.

    By ir-measures itself, so that nobody here judges himself.
    """
    import ir_measures

    run = {query: {id: float(-rank) for rank, id in enumerate(ids)} for query, ids in zip(test.queries, found)}
    measure = ir_measures.nDCG @ k
    return float(ir_measures.calc_aggregate([measure], test.qrels, run)[measure])


def sentences(limit: int = 400) -> list[str]:
    """Sentences of the English texts, three words to `limit` characters long, in the order of the file."""
    path = folder() / "text" / "english_text.jsonl.gz"
    if not path.exists():
        raise DataMissing(f"no text/english_text.jsonl.gz under {folder()}")
    kept = []
    for text in _lines(path):
        for line in text["text"].splitlines():
            for sentence in line.replace("? ", "?\n").replace("! ", "!\n").replace(". ", ".\n").split("\n"):
                if sentence.count(" ") >= 2 and len(sentence) <= limit:
                    kept.append(sentence)
    return kept


def utterances() -> list[str]:
    """Short real texts of many kinds, each once: sentences, questions, captions, claims, headlines, requests."""
    texts = dict.fromkeys(sentences())
    for place, columns in TABLES.items():
        path = folder() / place
        if not path.exists():
            raise DataMissing(f"no {place} under {folder()}")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            names = next(lines).rstrip("\n").split("\t")
            at = [names.index(column) for column in columns]
            texts.update(dict.fromkeys(line.rstrip("\n").split("\t")[i] for line in lines for i in at))
    for name in ("scifact", "cranfield", "cosqa"):
        for document in _lines(folder() / name / "corpus.jsonl.gz"):
            texts.update(dict.fromkeys(part for part in document["text"].split(". ") if part.count(" ") >= 2))
    return [text for text in texts if text.strip()]


def embedded(rows: int, queries: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of real texts by the encoder in the box, and of others to ask with: float32 [rows, dim], [queries, dim].

    They are made once and kept in the user's cache folder.
    """
    import platformdirs

    import inlay

    encoder = inlay.encoder("box")
    texts = utterances()
    if rows + queries > len(texts):
        raise DataMissing(f"there are {len(texts):,} short texts, not {rows + queries:,}")
    order = np.random.default_rng(seed).permutation(len(texts))[: rows + queries]
    chosen = [texts[i] for i in order]
    digest = zlib.crc32("\0".join([encoder.space.fingerprint, *chosen]).encode())
    kept = Path(platformdirs.user_cache_dir("inlay")) / "benchmarks" / f"embedded-{rows}-{queries}-{digest:08x}.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = np.concatenate(
            [
                encoder.encode_document(chosen[:rows], progress=True),
                encoder.encode_query(chosen[rows:], progress=True),
            ]
        )
        np.save(kept, np.asarray(made, dtype=np.float32))
    vectors = np.load(kept)
    return vectors[:rows], vectors[rows:]


def resampled(documents: int, *, seed: int = 0, held_out: int = 2000) -> tuple[list[str], list[str]]:
    """Documents of 5 to 12 sentences drawn with replacement from real English, and sentences none of them has.

    Term statistics within a sentence are those of real text; what is lost is the topic that ties a document's sentences
    together, which makes posting lists, if anything, longer than real ones.

    Returns:
        The documents, and the `held_out` sentences to make queries of.
    """
    pool = sentences()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool))
    aside, drawn_from = order[:held_out], order[held_out:]
    lengths = rng.integers(5, 13, size=documents)
    drawn = rng.choice(drawn_from, size=int(lengths.sum()))
    ends = np.cumsum(lengths)
    texts = [" ".join([pool[i] for i in drawn[end - n : end]]) for end, n in zip(ends.tolist(), lengths.tolist())]
    return texts, [pool[i] for i in aside]


def spans(sources: Sequence[str], queries: int, *, seed: int = 1, shortest: int = 3, longest: int = 8) -> list[str]:
    """Queries: contiguous spans of 3 to 8 words, each of a random source."""
    rng = np.random.default_rng(seed)
    asked = []
    while len(asked) < queries:
        words = sources[int(rng.integers(len(sources)))].split()
        length = int(rng.integers(shortest, longest + 1))
        if len(words) < length or not any(word.strip(".,;:'\"!?").isalpha() for word in words):
            continue
        start = int(rng.integers(len(words) - length + 1))
        asked.append(" ".join(words[start : start + length]))
    return asked


def clustered(rows: int, dim: int, *, clusters: int = 1000, spread: float = 0.6, seed: int = 0) -> np.ndarray:
    """Unit rows in clusters, as embeddings lie: float32 [rows, dim].

    Args:
        rows: how many.
        dim: their width.
        clusters: centres, drawn uniformly on the sphere.
        spread: length of the noise relative to the centre's.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    made = np.empty((rows, dim), dtype=np.float32)
    for start in range(0, rows, 65_536):
        block = made[start : start + 65_536]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= spread / np.sqrt(dim)
        block += centres[rng.integers(clusters, size=len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return made


def hashed_vectors(texts: Sequence[str], *, dim: int = 384) -> np.ndarray:
    """Dense vectors without a model: log(1 + tf) of each word times a random row seeded by the word, float32 [n, dim].

    They carry some meaning (a random projection keeps the inner products of bags of words), which is all that a
    comparison of engines needs: every engine gets the same.
    """
    bags = [Counter(word.strip(".,;:()[]'\"!?").lower() for word in text.split()) for text in texts]
    seen = {word: place for place, word in enumerate(dict.fromkeys(word for bag in bags for word in bag))}
    rows = np.empty((len(seen), dim), dtype=np.float32)
    for word, place in seen.items():
        rows[place] = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(dim, dtype=np.float32)
    made = np.zeros((len(texts), dim), dtype=np.float32)
    for vector, bag in zip(made, bags):
        weights = np.log1p(np.fromiter(bag.values(), dtype=np.float32, count=len(bag)))
        vector[:] = weights @ rows[[seen[word] for word in bag]]
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)


def _lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
