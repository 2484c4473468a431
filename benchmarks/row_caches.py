"""What a cache of STEM rows saves on held-out English: its hit rate, and the bytes that are moved beside it.

Caches begin empty and keep the rows used most (`LFU`). What they can save is a matter of the vocabulary: pieces
of a small one that was learnt from this very text are used almost alike, of one as large as language models have few
are used most. Each distinct token of a text is missed once. Rows are those of the decoder that `lm` times; what is
moved is counted while they are moved, and must be what `traffic_of` plans.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator

import numpy as np

from benchmarks import data
from benchmarks.harness import Quality, Ratios, Row, UnequalQuality

__all__ = ["measure"]

DIM, LAYERS, CHUNK = 512, 2, 128  # width of the decoder, its layers with STEM, tokens read at a time
SHARES, HELD_OUT, VOCAB = (0.05, 0.10, 0.25, 0.50), 200_000, 32_768
PLANNED = Quality("hit rate (of what was moved : as planned)", 1e-9)


def measure(quick: bool) -> Iterator[Row]:
    """A row for each share of the vocabulary, reading in chunks and token by token."""
    from inlay.lm import hidden_width, traffic_of
    from inlay.tables.prefetcher import Prefetcher
    from inlay.tables.row_store import RowStore

    vocab = 1024 if quick else VOCAB
    try:
        text = _english(vocab, quick)
    except data.DataMissing as why:
        yield Row("caches of rows on held-out English", "no cache", refused=str(why))
        return
    store = RowStore.zeros(vocab, hidden_width(DIM), layers=LAYERS)
    capacities = [round(share * vocab) for share in SHARES]
    for chunk, reading in ((CHUNK, f"prefill in chunks of {CHUNK}"), (1, "decoding")):
        for share, planned in zip(SHARES, traffic_of(text, vocab, capacities, chunk=chunk)):
            with Prefetcher(store, capacity=planned.capacity) as ahead:
                for start in range(0, len(text), chunk):
                    for run in ahead.split(text[start : start + chunk]):
                        ahead.submit(run)
                        ahead.take()
                moved, hit_rate = ahead.traffic.moved, ahead.traffic.hit_rate
            every = planned.distinct * store.row_nbytes
            row = Row(
                f"{reading}, {len(text):,} tokens of English, a cache of {share:.0%} of {vocab:,} rows",
                "each distinct row of a chunk moved" if chunk > 1 else "each row moved", "kB/token",
                moved / len(text) / 1e3, every / len(text) / 1e3, Ratios(*[every / moved] * 3, 1),
                {"measure": PLANNED.measure, "ours": round(hit_rate, 4), "peer": round(planned.hit_rate, 4)},
                {"MB moved": round(moved / 1e6, 1), "distinct tokens of the text": len(np.unique(text))},
            )  # fmt: skip
            try:
                PLANNED.check(hit_rate, planned.hit_rate)
            except UnequalQuality as why:
                row.refused = str(why)
            yield row


def _english(vocab: int, quick: bool) -> np.ndarray:
    """Tokens of documents that the tokenizer has not seen."""
    from inlay.lm import encode, learn_tokenizer, split_documents

    path = data.folder() / "text" / "english_text.jsonl.gz"
    if not path.exists():
        raise data.DataMissing(f"no text/english_text.jsonl.gz under {data.folder()}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in itertools.islice(lines, 40 if quick else None)]
    train, held_out = split_documents(documents, 0.1)
    return encode(held_out, learn_tokenizer(train, vocab))[: 2048 if quick else HELD_OUT]
