"""CoRECT: eight families of compression over corpora of growing size.

The paper claims that casting to 8-bit floats costs nothing, that families differ in what they keep at equal size, and
that the loss of strong compression grows with the corpus. Its figures are shares of float32's nDCG@10, for several
encoders; here they are those of Jina v3 (1,024 numbers, mean over BEIR), and settings are scaled to our width: half of
the dimensions is half of ours, a bit a dimension a bit a dimension. Scalar and binary codes are compared as the paper
does, code against code without decoding (`faithful`, `symmetric`); beside each of them stands the same code decoded and
read against exact queries.

Two judged sets are grown (`grow_corpus`, seed 42). Passages: Cranfield, its 52 queries with ten relevant documents or
more, to 10,000, 100,000 and 1,000,000. Documents: SciFact, 300 queries with one relevant document each, to 10,000 and
100,000. Distractors are the best of BM25, NUMEN, LSA and the box without context (Cranfield: with it, too). The rest
are spans of real text: essays, news, and abstracts of the other set. Rows are those of `box?context=false` (256
numbers), which makes a million in a minute or two; at 10,000 passages the box with context (384) is measured too. What
takes minutes for a million rows stops at 100,000. Codecs are fitted once, on the first rows of the corpus.

The claim counts as shown if all of these hold:

(a) float8 e4m3 keeps at least 99.5% of float32's nDCG@10 on both sets at every size, and no paired t-test of it is
    significant after Holm's correction;
(b) the rank correlation (Spearman) of what settings keep, mean of the two sets at 100,000, with the paper's figures is
    at least 0.7; and
(c) what binary codes (zero threshold) keep falls from 10,000 to the largest size, on both sets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.corpus_growth import GrownCorpus, grow_corpus
from inlay.evaluation.growth_bench import FLOAT32, GrowthBench, bench_growth
from inlay.evaluation.retrieval_set import RetrievalSet
from inlay.evaluation.run import Run
from inlay.reproductions.evaluation._spans import Spans
from inlay.reproductions.evaluation.limit import LatentSemantics
from inlay.reproductions.result import Figure, Result

PAPER = "CoRECT: A Framework for Evaluating Embedding Compression Techniques at Scale (arXiv 2510.19340, 2025)"

SIZES = (10_000, 100_000, 1_000_000)
SAMPLE = 25_000  # rows that codecs are fitted on
DEEP = 300  # of the runs that distractors come from
E4M3, BINARY, E4M3_KEEPS, ALIKE = "float8:e4m3", "signs:zero?symmetric=true", 0.995, 0.7
KMEANS = "?iterations=10&sample=16384"  # the default of 25 takes minutes for as many parts as dimensions


class Set(NamedTuple):
    """A grown corpus, the texts of its judged set, and what fills it."""

    corpus: GrownCorpus
    data: RetrievalSet
    spans: Spans


def settings(dim: int) -> dict[str, tuple[str, float | None]]:
    """Codec → its name in the paper's terms and the share that Jina v3 keeps with it, scaled to `dim` numbers."""
    paper: dict[str, tuple[str, float | None]] = {
        "float16": ("cast fp16", 100.0), "bfloat16": ("cast bf16", None), E4M3: ("cast e4m3", 100.0),
        "float8:e5m2": ("cast e5m2", None),
        "steps:8?faithful=true": ("equal distance 8", 97.5), "steps:4?faithful=true": ("equal distance 4", None),
        "steps:2?faithful=true": ("equal distance 2", None),
        "percentiles:8?faithful=true": ("percentile 8", 99.3), "percentiles:4?faithful=true": ("percentile 4", 99.1),
        "percentiles:2?faithful=true": ("percentile 2", 97.6),
        BINARY: ("binary zero", 94.8), "signs:median?symmetric=true": ("binary median", 91.0),
    }  # fmt: skip
    for part, kept in ((2, 99.2), (4, 97.8), (8, 94.0), (16, 85.3), (32, 68.4)):
        paper[f"truncate:{dim // part}|float32"] = (f"truncation d/{part}", kept)
    for part, kept in ((2, 96.4), (4, 95.1), (8, 86.1)):
        paper[f"pca:{dim // part}|float32"] = (f"PCA d/{part}", kept)
    for times, kept in ((8, 99.1), (1, 94.0)):
        paper[f"hyperplanes:{dim * times}?symmetric=true"] = (f"LSH {times} bits a dimension", kept)
    for part, bits, share in ((1, 8, 100.0), (2, 8, 99.7), (8, 8, 89.1), (8, 2, 65.8)):
        paper[f"pq:{dim // part}x{bits}{KMEANS}"] = (f"PQ d/{part} parts of {bits} bits", share)
    return paper


# The same codes, decoded and read against exact queries.
DECODED = {
    "steps:8?faithful=true": "steps:8", "steps:4?faithful=true": "steps:4", "steps:2?faithful=true": "steps:2",
    "percentiles:8?faithful=true": "percentiles:8", "percentiles:4?faithful=true": "percentiles:4",
    "percentiles:2?faithful=true": "percentiles:2", BINARY: "signs:zero", "signs:median?symmetric=true": "signs:median",
}  # fmt: skip


def run(data: Path, *, seeds: Sequence[int] = (42,), progress: bool = False) -> Result:
    """Grow two sets and measure every family; eight to ten minutes on one core."""
    from inlay.encoders.box import Box

    began = time.perf_counter()
    seed, static, box = seeds[0], Box(context=False), _box()
    sets = {
        "passages": _grown(data, "cranfield", 10, SIZES, (30, 90), ["scifact/corpus.jsonl.gz"], static, box, seed),
        "documents": _grown(
            data, "scifact", 1, SIZES[:2], (100, 250), ["cranfield/corpus.jsonl.gz"], static, None, seed
        ),
    }
    _say(progress, f"grown after {time.perf_counter() - began:.0f} s")
    dim = static.space.dim
    known = settings(dim)
    slow = [name for name in [*known, *DECODED.values()] if not _quick(name, dim)]
    found: dict[str, GrowthBench] = {}
    for name, one in sets.items():
        every = [*known, *DECODED.values()]
        rows = _Rows(one, static)
        asked = static.encode_query([one.data.queries[query] for query in one.corpus.qrels])
        part = _first(one.corpus, 2)
        options: dict[str, Any] = {"sample": SAMPLE, "progress": progress}
        if len(one.corpus.sizes) > 2:
            quick = bench_growth(one.corpus, rows, asked, [n for n in every if n not in slow], **options)
            rest = bench_growth(part, rows, asked, slow, **options)
            found[name], found[f"{name}, slow codecs"] = quick, rest
        else:
            found[name] = bench_growth(part, rows, asked, every, **options)
        _say(progress, f"{name} after {time.perf_counter() - began:.0f} s")
    passages = sets["passages"]
    small = _first(passages.corpus, 1)
    wide = settings(box.space.dim)
    found["passages, box with context"] = bench_growth(
        small, _Rows(Set(small, passages.data, passages.spans), box),
        box.encode_query([passages.data.queries[query] for query in small.qrels]), [*wide, *DECODED.values()],
        sample=SAMPLE, progress=progress,
    )  # fmt: skip
    return _result(found, sets, dim, seed, time.perf_counter() - began)


def _quick(codec: str, dim: int) -> bool:
    """Whether a codec takes a million rows in seconds, or its family would be missing among them otherwise."""
    families = ("float", "steps:8", "percentiles:8?", "signs:zero", "signs:median?", "truncate", "pca")
    return codec.startswith((*families, f"hyperplanes:{dim}?", f"pq:{dim // 8}x2"))


def _box() -> Any:
    from inlay.encoders.box import Box

    try:
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError:
        return Box()
    return Box(runtime="onnxruntime")


def _grown(
    data: Path, name: str, relevant: int, sizes: tuple[int, ...], words: tuple[int, int], more: list[str], static: Any,
    box: Any, seed: int,
) -> Set:  # fmt: skip
    """A judged set, distractors out of several systems' runs, and spans around it."""
    from inlay.encoders.bm25 import BM25
    from inlay.encoders.numen import Numen
    from inlay.indexes.inverted import Inverted
    from inlay.kernels.dense import nearest

    own = RetrievalSet.load(data / name)
    texts, queries = own.texts, list(own.queries.values())
    runs = []
    for sparse in (BM25().fit(texts), Numen(32_768, output="sparse")):
        index = Inverted()
        index.add(sparse.encode_document(texts))
        runs.append(Run.of(index.search(sparse.encode_query(queries), DEEP), list(own.queries), own.ids))
    for dense in (LatentSemantics(256, seed).fit(texts), static, box):
        if dense is not None:
            lists = nearest(dense.encode_query(queries), dense.encode_document(texts), DEEP)
            runs.append(Run.of(lists, list(own.queries), own.ids))
    spans = Spans(data, ["text/english_text.jsonl.gz", "classification/ag_news.tsv.gz", *more], sizes[-1], words, seed)
    corpus = grow_corpus(own.qrels, runs, spans.ids, relevant=relevant, distractors=100, sizes=sizes, seed=seed)
    return Set(corpus, own, spans)


def _first(corpus: GrownCorpus, sizes: int) -> GrownCorpus:
    """The same corpus, up to one of its smaller sizes."""
    return replace(corpus, ids=corpus.ids[: corpus.sizes[sizes - 1]], sizes=corpus.sizes[:sizes])


class _Rows:
    """Rows of a corpus by place, made when asked for; those of the first sizes are kept."""

    def __init__(self, one: Set, encoder: Any) -> None:
        self.ids, self.spans, self.encoder = one.corpus.ids, one.spans, encoder
        self.texts = dict(zip(one.data.ids, one.data.texts))
        self.kept = np.empty((0, encoder.space.dim), dtype=np.float32)

    def __call__(self, low: int, high: int) -> np.ndarray:
        if high <= len(self.kept):
            return self.kept[low:high]
        rows = self.encoder.encode_document([self.texts[key] if key in self.texts else self.spans[key]
                                             for key in self.ids[low:high]])  # fmt: skip
        if low == len(self.kept) and high <= SIZES[1]:
            self.kept = np.concatenate([self.kept, rows])
        return rows


def _kept(found: dict[str, GrowthBench], name: str, codec: str, size: int) -> Any:
    """Share of float32's nDCG@10 with its interval, of whichever run has the codec."""
    return _of(found, name, codec, size).retained(codec, size=size)


def _of(found: dict[str, GrowthBench], name: str, codec: str, size: int) -> GrowthBench:
    for key, one in found.items():
        if key in (name, f"{name}, slow codecs") and codec in one.names and size in one.sizes:
            return one
    raise BadInput(f"{codec} was not measured on {name} at {size}")


def _result(found: dict[str, GrowthBench], sets: dict[str, Set], dim: int, seed: int, seconds: float) -> Result:
    try:
        from scipy.stats import spearmanr
    except ModuleNotFoundError:
        raise MissingExtra("rank correlations", "sparse") from None
    known = settings(dim)
    at = SIZES[1]
    ours = {codec: 100 * float(np.mean([_kept(found, name, codec, at).mean for name in sets])) for codec in known}
    judged = [codec for codec, (_, share) in known.items() if share is not None]
    correlation = float(spearmanr([ours[codec] for codec in judged], [known[codec][1] for codec in judged])[0])
    casts = {
        (name, size): (_kept(found, name, E4M3, size).mean, found[name].adjusted(size=size)[E4M3])
        for name, one in sets.items() for size in one.corpus.sizes
    }  # fmt: skip
    free = all(kept >= E4M3_KEEPS and p > 0.05 for kept, p in casts.values())
    falls = {name: [_kept(found, name, BINARY, size).mean for size in one.corpus.sizes] for name, one in sets.items()}
    grows = all(kept[-1] < kept[0] for kept in falls.values())
    checks = {"e4m3_costs_nothing": free, "order_as_in_the_paper": correlation >= ALIKE, "loss_grows": grows}
    return Result(
        name="corect",
        title="CoRECT",
        room="evaluation",
        source=PAPER,
        claim="8-bit floats cost nothing, families keep their order, and strong compression loses more among more",
        paper="Jina v3, share of nDCG@10 kept: e4m3 100, binary 94.8, PCA d/8 86.1, PQ d/8 of 2 bits 65.8; binary 95.4 "
        "at 10k, 93.0 at 100M",
        metric=f"share of float32's nDCG@10 kept at {at:,}, percent, mean of both sets",
        baseline=Figure("binary, zero threshold", round(ours[BINARY], 2)),
        method=Figure("float8 e4m3", round(ours[E4M3], 2)),
        data=f"Cranfield ({len(sets['passages'].corpus.qrels)} queries) to {SIZES[-1]:,}, SciFact "
        f"({len(sets['documents'].corpus.qrels)} queries) to {SIZES[1]:,}, filled with spans of real text",
        verdict="shown" if all(checks.values()) else "partly" if any(checks.values()) else "not shown",
        detail=_detail(found, sets, known, ours, correlation, casts, falls, checks),
        seconds=seconds,
        seeds=(seed,),
        figures={
            "checks": checks,
            "spearman_with_paper": round(correlation, 3),
            "kept_mean_of_sets": {codec: round(share, 2) for codec, share in ours.items()},
            "paper": {codec: share for codec, (_, share) in known.items() if share is not None},
            "runs": {name: one.to_dict() for name, one in found.items()},
            "curves": _curves(found["passages"], known),
            "axes": {"x": "passages, log10", "y": "share of float32's nDCG@10", "log": False},
        },
    )


def _curves(bench: GrowthBench, known: dict[str, tuple[str, float | None]]) -> dict[str, list[list[float]]]:
    """What is kept by size, of one codec a family."""
    drawn = (E4M3, "steps:8?faithful=true", "percentiles:8?faithful=true", BINARY, f"truncate:{bench.dim // 4}|float32",
             f"pca:{bench.dim // 4}|float32", f"hyperplanes:{bench.dim}?symmetric=true",
             f"pq:{bench.dim // 8}x2{KMEANS}")  # fmt: skip
    return {
        known[codec][0]: [[float(np.log10(size)), round(bench.retained(codec, size=size).mean, 4)]
                          for size in bench.sizes]
        for codec in drawn
    }  # fmt: skip


def _detail(
    found: dict[str, GrowthBench], sets: dict[str, Set], known: dict[str, tuple[str, float | None]],
    ours: dict[str, float], correlation: float, casts: dict[Any, Any], falls: dict[str, list[float]],
    checks: dict[str, bool],
) -> str:  # fmt: skip
    at = SIZES[1]
    best = sorted(known, key=lambda codec: -ours[codec])
    said = [
        "Share of float32's nDCG@10 kept, percent, mean of both sets at "
        f"{at:,} (the paper's for Jina v3 in brackets): "
        + ", ".join(
            f"{known[codec][0]} {ours[codec]:.1f}" + (f" ({known[codec][1]:.1f})" if known[codec][1] else "")
            for codec in best
        )
        + f". Spearman's correlation with the paper's order is {correlation:.2f}.",
        "float8 e4m3 by set and size: "
        + ", ".join(f"{name} {size:,} {100 * kept:.1f} (p {p:.2g})" for (name, size), (kept, p) in casts.items())
        + f"; that it costs nothing {'holds' if checks['e4m3_costs_nothing'] else 'does not hold'} here.",
        "Binary codes from the smallest to the largest corpus: "
        + "; ".join(f"{name} {' → '.join(f'{100 * kept:.1f}' for kept in own)}" for name, own in falls.items()) + ".",
    ]  # fmt: skip
    for name, one in sets.items():
        bench = found[name]
        counts = "; ".join(
            f"{size:,}: float32 {_counts(bench, FLOAT32, size)}, binary {_counts(bench, BINARY, size)}"
            for size in one.corpus.sizes
        )
        line = ", ".join(f"{bench.mean(FLOAT32, size=size):.3f}" for size in one.corpus.sizes)
        said.append(f"{name}: nDCG@10 of float32 {line}; relevant/distractors/random in the first ten, {counts}.")
        worse = [codec for run in (name, f"{name}, slow codecs") if run in found
                 for codec, p in found[run].adjusted(size=at).items() if p < 0.05 and codec in known]  # fmt: skip
        said.append(
            f"Significantly below or above float32 at {at:,} (paired t, Holm, 5%): "
            + (", ".join(known[codec][0] for codec in worse) or "none") + "."
        )  # fmt: skip
    pairs = [
        f"{known[raw][0]} {ours[raw]:.1f} → "
        f"{100 * np.mean([_kept(found, name, decoded, at).mean for name in sets]):.1f}"
        for raw, decoded in DECODED.items()
    ]
    said.append("Codes against codes → decoded against exact queries: " + ", ".join(pairs) + ".")
    box = found["passages, box with context"]
    wide = settings(box.dim)
    said.append(
        f"The box with context ({box.dim} numbers) among {SIZES[0]:,} passages: "
        + ", ".join(
            f"{wide[codec][0]} {100 * box.retained(codec).mean:.1f}"
            for codec in sorted(wide, key=lambda codec: -box.mean(codec))
        )
        + "."
    )
    said.append(
        "What differs from the paper: two small sets instead of MS MARCO, encoders of 256 and 384 numbers that were "
        "not trained to be truncated, and random documents that overlap each other and lie far from the questions."
    )
    return " ".join(said)


def _counts(bench: GrowthBench, codec: str, size: int) -> str:
    return "/".join(f"{count:.1f}" for count in bench.composition(codec, size))


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
