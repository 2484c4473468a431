"""BiDR: codes that are learnt to find candidates, and dense rows that are learnt on what those candidates confuse.

The paper claims that product codes trained on pairs find more candidates than an unsupervised quantiser of the same
bytes, and that a dense re-ranker learns more from batches of mutually confusable documents than from hard negatives,
and from these more than from random ones. Here that holds if, on average over seeds,

- contrastive codes of 8 bytes reach at least 3 points more recall@100 than the best of three optimised product
  quantisers (OPQ) of the same bytes: of the frozen encoder's rows; of the rows that the codes' training begins from,
  which have been trained on the same pairs; and of rows trained on random negatives for longer still;
- within the candidates of the codes, MRR@10 of the re-ranker trained on neighbourhoods is at least 1 point above that
  of the one trained on hard negatives, and that at least 1 point above the one trained on random negatives, with every
  seed of the same sign.

Heads stand on frozen rows of the encoder in the box. Base: heads on random negatives. Codes: from the base, as
`ContrastivePQ`. Re-rankers: from the base, for the same number of steps each, on (a) random negatives, (b) one of the
codes' 200 best candidates of each query, queries in random order, (c) the same in neighbourhoods (snowball). The final
score is dense + mix · codes over 1,000 candidates, with each arm's best mix of 0, .1 and .3 on queries set aside.
Random negatives are drawn from all documents; every arm has the other documents of its batch as negatives too, and
known answers masked.

Codes of 24 bytes are measured beside, with the first seed: there an unsupervised quantiser loses so little that 3
points are hardly left to gain. Queries that are judged share no text with those learnt from. Rates were chosen for each
arm alone, among the same ones, by the figure it is judged by on queries set aside for that (`rates`), never on those
reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inlay.reproductions.result import Figure, Result
from inlay.reproductions.training._mixed_pairs import SOURCES, mixed_pairs

if TYPE_CHECKING:
    from inlay.codecs.rotation import OptimisedProduct
    from inlay.training.contrastive_product import ContrastivePQ
    from inlay.training.dense_head import DenseHead
    from inlay.training.locality_batches import Positives
    from inlay.types import Neighbours

PAPER = (
    "Progressively Optimized Bi-Granular Document Representation for Scalable Embedding Based Retrieval "
    "(BiDR, arXiv 2201.05409, WWW 2022)"
)

BYTES, MORE = 8, 24
CANDIDATES, LIST = 1000, 200
MIXES = (0.0, 0.1, 0.3)  # what the codes count in the final score; the paper tunes it and takes .3
SIZE, TEMPERATURE = 256, 0.05
OPQ_ROWS = 16_384  # that an unsupervised quantiser is fitted on, 64 a centre: it takes longer than training the codes
EPOCHS = {"base": 3, "codes": 5, "rerank": 3}
RATES = {"base": 1e-3, "codes": 3e-3, "random": 1e-3, "hard": 1e-3, "locality": 1e-3}
TRIED = (1e-3, 3e-3)
ARMS = ("random", "hard", "locality")
NEEDED_RECALL, NEEDED_MRR = 0.03, 0.01


class Judged(NamedTuple):
    """Queries of one part.

    Attributes:
        rows: of the frozen encoder [n, dim].
        positives: their answers among all documents.
        source: of each, a place in `SOURCES`.
    """

    rows: np.ndarray
    positives: Positives
    source: np.ndarray


class Setting(NamedTuple):
    """Everything that is learnt from and judged by."""

    train: Judged
    dev: Judged
    test: Judged
    documents: np.ndarray


class Known:
    """Candidates that were found already: the first stage of every arm, searched once."""

    nbytes = 0

    def __init__(self, found: Neighbours) -> None:
        self.found = found

    def add(self, vectors: Any) -> None:
        raise NotImplementedError

    def search(self, queries: Any, k: int, *, allow: Any = None) -> Neighbours:
        """The first k, of the queries they were found for."""
        return type(self.found)(self.found.scores[:, :k], self.found.ids[:, :k])


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """Base, codes, and three re-rankers for each seed."""
    began = time.perf_counter()
    setting = _setting(data, progress)
    test, documents = setting.test, setting.documents
    plain = {
        "dense": _of(_dense(test.rows, documents), test),
        "opq": _of(_coded(_opq(documents, BYTES, seeds[0]), test.rows, documents), test),
    }
    _say(progress, f"frozen rows: {plain}")
    found = [_seed(setting, seed, progress) for seed in seeds]
    plain |= _longer_codes(setting, seeds[0])
    _say(progress, f"{MORE} bytes: {plain}")
    return _result(setting, plain, found, seeds, time.perf_counter() - began)


def _seed(setting: Setting, seed: int, progress: bool) -> dict[str, Any]:
    from inlay.indexes.two_stage import TwoStage

    test, documents = setting.test, setting.documents
    base = _base(setting, seed, RATES["base"])
    opq = _opq(base.document(documents), BYTES, seed)
    codes = _codes(setting, base, opq, seed, RATES["codes"])
    asked, told = base.query(test.rows), base.document(documents)
    candidates = _candidates(codes, test, documents)
    own: dict[str, Any] = {
        "base_dense": _of(_dense(asked, told), test),
        "base_opq": _of(_coded(opq, asked, told), test),
        "codes": _of(candidates, test),
    }
    _say(progress, f"seed {seed}: {own}")
    lists, set_aside = _lists(setting, codes), _candidates(codes, setting.dev, documents)
    arms: dict[str, DenseHead] = {"base": base}
    for arm in ARMS:
        arms[arm] = _reranker(setting, base, lists, arm, seed, RATES[arm])
    longer = arms["random"].query(test.rows), arms["random"].document(documents)
    own["longer_opq"] = _of(_coded(_opq(longer[1], BYTES, seed), *longer), test)
    for arm, head in arms.items():
        rows = head.document(documents)
        mix = max(MIXES, key=lambda mix: _mrr(_final(set_aside, head, setting.dev, rows, mix).ids, setting.dev))
        stages = TwoStage(Known(candidates), rows, fine=head, candidates=CANDIDATES, mix=mix)
        final, alone = stages.search(test.rows, 10), stages.search(test.rows, 10, mix=0.0)
        whole = _dense(head.query(test.rows), rows)
        own[arm] = {
            "mix": mix,
            "mrr": _mrr(final.ids, test),
            "mrr_by_source": _by_source(final.ids, test),
            "mrr_without_codes": _mrr(alone.ids, test),
            "full_corpus": _of(whole, test),
            "bytes_a_query": round(stages.touched.bytes_per_query),
        }
        _say(progress, f"seed {seed}, {arm}: {own[arm]}")
    return own


def _longer_codes(setting: Setting, seed: int) -> dict[str, Any]:
    """Both quantisers with more bytes."""
    test, documents = setting.test, setting.documents
    base = _base(setting, seed, RATES["base"])
    opq = _opq(base.document(documents), MORE, seed)
    codes = _codes(setting, base, opq, seed, RATES["codes"])
    return {
        "base_opq_more": _of(_coded(opq, base.query(test.rows), base.document(documents)), test),
        "codes_more": _of(_candidates(codes, test, documents), test),
    }


def rates(data: Path) -> None:
    """Print what every rate that was tried gives on the queries set aside for that, with the first seed."""
    setting = _setting(data, True)
    dev, documents = setting.dev, setting.documents
    best: dict[str, tuple[float, float]] = {}

    def note(arm: str, rate: float, value: float) -> None:
        print(f"{arm} {rate:g}: {value:.4f}", flush=True)
        best[arm] = max(best.get(arm, (0.0, rate)), (value, rate))

    for rate in TRIED:
        base = _base(setting, 0, rate)
        note("base", rate, _of(_dense(base.query(dev.rows), base.document(documents)), dev)["mrr@10"])
    base = _base(setting, 0, best["base"][1])
    opq = _opq(base.document(documents), BYTES, 0)
    for rate in TRIED:
        codes = _codes(setting, base, opq, 0, rate)
        note("codes", rate, _of(_candidates(codes, dev, documents), dev)["recall@100"])
    codes = _codes(setting, base, opq, 0, best["codes"][1])
    candidates, lists = _candidates(codes, dev, documents), _lists(setting, codes)
    for arm in ARMS:
        for rate in TRIED:
            head = _reranker(setting, base, lists, arm, 0, rate)
            rows = head.document(documents)
            note(arm, rate, max(_mrr(_final(candidates, head, dev, rows, mix).ids, dev) for mix in MIXES))
    print({arm: rate for arm, (_, rate) in best.items()})


def _setting(data: Path, progress: bool) -> Setting:
    from inlay.encoders.box import Box
    from inlay.training.locality_batches import Positives

    mixed = mixed_pairs(data)
    box = Box()
    _say(progress, f"{len(mixed.queries):,} queries, {len(mixed.documents):,} documents, {len(mixed.pairs):,} pairs")
    rows, documents = box.encode_query(mixed.queries), box.encode_document(mixed.documents)
    parts = {}
    for part in ("train", "dev", "test"):
        mine = np.flatnonzero(mixed.part == part)
        number = np.full(len(mixed.queries), -1)
        number[mine] = np.arange(len(mine))
        pairs = mixed.pairs[number[mixed.pairs[:, 0]] >= 0]
        links = np.stack([number[pairs[:, 0]], pairs[:, 1]], axis=1)
        parts[part] = Judged(rows[mine], Positives(links, len(mine), len(documents)), mixed.source[mine])
    return Setting(**parts, documents=documents)


def _opq(rows: np.ndarray, count: int, seed: int) -> OptimisedProduct:
    from inlay.codecs.rotation import OptimisedProduct

    return OptimisedProduct(count, sample=OPQ_ROWS, seed=seed).fit(rows)


def _base(setting: Setting, seed: int, rate: float) -> DenseHead:
    from inlay.training.dense_head import DenseHead
    from inlay.training.locality_batches import RandomBatches

    head = DenseHead(setting.documents.shape[1], shared=False, temperature=TEMPERATURE, seed=seed)
    batches = RandomBatches(setting.train.positives, size=SIZE, seed=seed)
    return head.fit(setting.train.rows, setting.documents, batches, epochs=EPOCHS["base"], rate=rate)


def _codes(setting: Setting, base: DenseHead, opq: OptimisedProduct, seed: int, rate: float) -> ContrastivePQ:
    from inlay.training.contrastive_product import ContrastivePQ
    from inlay.training.locality_batches import RandomBatches

    codes = ContrastivePQ(opq.m, temperature=TEMPERATURE, seed=seed)
    batches = RandomBatches(setting.train.positives, size=SIZE, seed=seed + 100)
    return codes.fit(
        setting.train.rows, setting.documents, batches, base=base, opq=opq, epochs=EPOCHS["codes"], rate=rate
    )


def _lists(setting: Setting, codes: ContrastivePQ) -> np.ndarray:
    """The codes' candidates of the queries that are learnt from."""
    from inlay.indexes.flat import Flat
    from inlay.training.index_negatives import mined_lists

    # The codes as rows: the same scores as the index's tables give, many queries at a time.
    index = Flat.over(codes.codec.product.decode(codes.encode(setting.documents)), metric="dot")
    return mined_lists(index, codes.query(setting.train.rows), setting.train.positives, ranks=(0, LIST))


def _reranker(setting: Setting, base: DenseHead, lists: np.ndarray, arm: str, seed: int, rate: float) -> DenseHead:
    from inlay.training.locality_batches import LocalityBatches, RandomBatches

    positives, seed = setting.train.positives, seed + 200
    batches: RandomBatches
    if arm == "locality":
        batches = LocalityBatches(positives, lists, size=SIZE, seed=seed)
    else:
        batches = RandomBatches(positives, lists if arm == "hard" else None, size=SIZE, seed=seed)
    head = base.copied()
    return head.fit(setting.train.rows, setting.documents, batches, epochs=EPOCHS["rerank"], rate=rate)


def _dense(queries: np.ndarray, documents: np.ndarray, k: int = 100) -> Neighbours:
    from inlay.indexes.flat import Flat

    return Flat.over(documents, metric="dot").search(queries, k)


def _coded(codec: OptimisedProduct, queries: np.ndarray, documents: np.ndarray) -> Neighbours:
    """Candidates by codes of documents; queries stay exact."""
    near = codec.product.decode(codec.encode(documents))
    return _dense(codec.turned(queries), near, CANDIDATES)


def _candidates(codes: ContrastivePQ, judged: Judged, documents: np.ndarray) -> Neighbours:
    near = codes.codec.product.decode(codes.encode(documents))
    return _dense(codes.query(judged.rows), near, CANDIDATES)


def _final(candidates: Neighbours, head: DenseHead, judged: Judged, rows: np.ndarray, mix: float) -> Neighbours:
    from inlay.indexes.two_stage import TwoStage

    return TwoStage(Known(candidates), rows, fine=head, candidates=CANDIDATES, mix=mix).search(judged.rows, 10)


def _of(found: Neighbours, judged: Judged) -> dict[str, float]:
    """Recall at some depths, and MRR@10."""
    hits, answers = _hits(found.ids, judged), np.diff(judged.positives.starts)
    own = {
        f"recall@{k}": round(float((hits[:, :k].sum(axis=1) / answers).mean()), 4)
        for k in (100, 1000)
        if k <= hits.shape[1]
    }
    return own | {"mrr@10": _mrr(found.ids, judged)}


def _hits(ids: np.ndarray, judged: Judged) -> np.ndarray:
    """Bool, like ids [queries, k]: what answers its query."""
    positives = judged.positives
    keys = np.repeat(np.arange(positives.queries), np.diff(positives.starts)) * positives.documents + positives.answers
    return (ids >= 0) & np.isin(ids + np.arange(len(ids))[:, None] * positives.documents, keys)


def _reciprocal(ids: np.ndarray, judged: Judged) -> np.ndarray:
    """Of each query, one over the rank of its first answer among ten, or 0."""
    hits = _hits(ids[:, :10], judged)
    return np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)


def _mrr(ids: np.ndarray, judged: Judged) -> float:
    return round(float(_reciprocal(ids, judged).mean()), 4)


def _by_source(ids: np.ndarray, judged: Judged) -> list[float]:
    each = _reciprocal(ids, judged)
    return [round(float(each[judged.source == place].mean()), 4) for place in range(len(SOURCES))]


def _result(
    setting: Setting, plain: dict[str, Any], found: list[dict[str, Any]], seeds: Sequence[int], seconds: float
) -> Result:
    recall = {
        name: np.array([one[name]["recall@100"] for one in found]) for name in ("base_opq", "longer_opq", "codes")
    }
    unsupervised = max(plain["opq"]["recall@100"], *(float(recall[name].mean()) for name in ("base_opq", "longer_opq")))
    gain = float(recall["codes"].mean()) - unsupervised
    mrr = {arm: np.array([one[arm]["mrr"] for one in found]) for arm in ("base", *ARMS)}
    steps = {f"{a} over {b}": mrr[a] - mrr[b] for a, b in (("locality", "hard"), ("hard", "random"))}
    holds = {"contrastive codes over OPQ": gain >= NEEDED_RECALL} | {
        name: bool(step.mean() >= NEEDED_MRR and (step > 0).all()) for name, step in steps.items()
    }
    documents = len(setting.documents)
    return Result(
        name="bidr",
        title="BiDR",
        room="training",
        source=PAPER,
        claim=(
            "codes trained on pairs find more candidates than an unsupervised quantiser, and a dense re-ranker trained "
            "on neighbourhoods of their candidates orders these better"
        ),
        paper="up to +4.3 % recall on million-scale and +17.5 % on billion-scale sets",
        metric=f"recall@100 of {BYTES}-byte codes",
        baseline=Figure("OPQ", round(unsupervised, 4)),
        method=Figure("contrastive codes", round(float(recall["codes"].mean()), 4)),
        data=(
            f"{len(setting.train.positives) + len(setting.dev.positives) + len(setting.test.positives):,} pairs of "
            f"captions, questions, titles and words, {documents:,} documents, {len(setting.test.rows):,} queries judged"
        ),
        verdict="shown" if all(holds.values()) else "partly" if any(holds.values()) else "not shown",
        detail=_detail(plain, found, recall, mrr, steps, holds, gain, documents),
        seconds=seconds,
        seeds=tuple(seeds),
        figures={
            "once": plain,
            "seeds": found,
            "sources": list(SOURCES),
            "rates": RATES,
            "epochs": EPOCHS,
            "mixes": list(MIXES),
            "gain_recall@100": round(gain, 4),
            "gains_mrr@10": {name: [round(float(x), 4) for x in step] for name, step in steps.items()},
            "holds": holds,
        },
    )


def _detail(
    plain: dict[str, Any], found: list[dict[str, Any]], recall: dict[str, np.ndarray], mrr: dict[str, np.ndarray],
    steps: dict[str, np.ndarray], holds: dict[str, bool], gain: float, documents: int,
) -> str:  # fmt: skip
    def mean(*path: str) -> float:
        values: list[Any] = list(found)
        for name in path:
            values = [one[name] for one in values]
        return float(np.mean(values))

    by_source = {arm: np.mean([one[arm]["mrr_by_source"] for one in found], axis=0) for arm in ("base", *ARMS)}
    failed = [name for name, held in holds.items() if not held]
    said = [
        f"At {BYTES} bytes a document recall@100 is {plain['opq']['recall@100']:.3f} for OPQ of the frozen rows, "
        f"{recall['base_opq'].mean():.3f} for OPQ of rows trained on the pairs ({recall['longer_opq'].mean():.3f} when "
        f"trained on), and {recall['codes'].mean():.3f} for contrastive codes: {100 * gain:+.1f} points on the best "
        f"OPQ, where {100 * NEEDED_RECALL:.0f} were asked for. Unquantised, the frozen rows reach "
        f"{plain['dense']['recall@100']:.3f} and the trained ones {mean('base_dense', 'recall@100'):.3f}. At {MORE} "
        f"bytes (one seed) it is {plain['base_opq_more']['recall@100']:.3f} for OPQ of trained rows and "
        f"{plain['codes_more']['recall@100']:.3f} for contrastive codes.",
        f"MRR@10 over the codes' {CANDIDATES:,} candidates (which hold {mean('codes', 'recall@1000'):.3f} of the "
        "answers), dense + mix · codes: "
        + ", ".join(f"{arm} {mrr[arm].mean():.3f}" for arm in ("base", *ARMS))
        + "; differences by seed: "
        + "; ".join(f"{name} {', '.join(f'{100 * x:+.1f}' for x in step)} points" for name, step in steps.items())
        + ".",
        "By dense rows alone: "
        + ", ".join(f"{arm} {mean(arm, 'mrr_without_codes'):.3f}" for arm in ("base", *ARMS))
        + f"; by dense rows over all {documents:,} documents: "
        + ", ".join(f"{arm} {mean(arm, 'full_corpus', 'mrr@10'):.3f}" for arm in ("base", *ARMS))
        + f"; by the codes alone {mean('codes', 'mrr@10'):.3f}.",
        "Of the gain of neighbourhoods over hard negatives, by kind of text: "
        + ", ".join(
            f"{name} {100 * (by_source['locality'][i] - by_source['hard'][i]):+.1f}" for i, name in enumerate(SOURCES)
        )
        + "; of hard negatives over random ones: "
        + ", ".join(
            f"{name} {100 * (by_source['hard'][i] - by_source['random'][i]):+.1f}" for i, name in enumerate(SOURCES)
        )
        + " points.",
        f"A query reads {mean('locality', 'bytes_a_query') / 1024:.0f} KiB of dense rows.",
        "Every part of the claim holds here." if not failed else f"What does not hold here: {', '.join(failed)}.",
    ]
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
