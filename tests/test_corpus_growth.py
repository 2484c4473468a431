"""Corpora that grow around a judged set, and codecs measured over them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.evaluation.corpus_growth import GrownCorpus, grow_corpus
from inlay.evaluation.growth_bench import BLOCK, FLOAT32, GrowthBench, bench_growth, paired_t
from inlay.evaluation.measures import per_query
from inlay.evaluation.run import Run
from inlay.kernels.dense import nearest, normalise

DIM = 16
WIDTHS = ["float16", "float8:e4m3", "steps:8?faithful=true", "signs:zero?symmetric=true", "pca:4|float32", "pq:4x2"]


def judged(seed: int, queries: int = 6, documents: int = 80) -> tuple[dict[str, dict[str, int]], list[Run]]:
    """Graded judgments, and runs of two systems that find some of what is relevant first."""
    random = np.random.default_rng(seed)
    qrels, runs = {}, [Run(name="a"), Run(name="b")]
    for query in range(queries):
        relevant = random.choice(documents, random.integers(2, 9), replace=False)
        qrels[f"q{query}"] = {f"d{i}": int(random.integers(0, 3)) for i in relevant}
        for run in runs:
            scores = random.standard_normal(documents)
            scores[relevant] += 1
            run[f"q{query}"] = {f"d{i}": float(scores[i]) for i in range(documents)}
    return qrels, runs


OTHERS = [f"o{i}" for i in range(500)] + [f"d{i}" for i in range(80)]


def grown(seed: int = 0, **options: Any) -> GrownCorpus:
    qrels, runs = judged(seed)
    given = {"relevant": 2, "distractors": 5, "sizes": (60, 120, 240), "grade": 1} | options
    return grow_corpus(qrels, runs, OTHERS, **given)


# --- the builder ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300), st.integers(1, 3), st.integers(0, 7), st.integers(1, 2))
def test_what_a_grown_corpus_holds(seed: int, relevant: int, distractors: int, grade: int) -> None:
    qrels, runs = judged(seed)
    enough = {query for query, own in qrels.items() if sum(g >= grade for g in own.values()) >= relevant}
    if not enough:
        with pytest.raises(BadInput, match="lower relevant or grade"):
            grow_corpus(qrels, runs, OTHERS, relevant=relevant, distractors=distractors, sizes=(70,), grade=grade)
        return
    sizes = (70, 100, 300)
    made = grow_corpus(qrels, runs, OTHERS, relevant=relevant, distractors=distractors, sizes=sizes, grade=grade)
    assert set(made.qrels) == enough
    assert len(made.ids) == len(set(made.ids)) == 300
    assert made.core <= set(made.ids[:70]), "all that matters is in the smallest, so in every size"
    for query, own in made.qrels.items():
        assert len(own) == relevant
        assert all(qrels[query][document] == given >= grade for document, given in own.items())
        assert len(made.distractors[query]) == distractors
        assert not any(qrels[query].get(document, 0) >= grade for document in made.distractors[query])
    fill = set(made.ids) - made.core
    assert not any(own.get(d, 0) >= grade for query, own in qrels.items() if query in enough for d in fill)
    again = grow_corpus(qrels, runs, OTHERS, relevant=relevant, distractors=distractors, sizes=sizes, grade=grade)
    assert again == made


def test_distractors_are_the_best_of_the_fused_runs() -> None:
    qrels = {"q": {"r": 1}, "p": {"x1": 1}}
    runs = [
        {"q": {"r": 9.0, "x1": 8.0, "x2": 7.0, "x3": 6.0, "x4": 5.0}, "p": {"x1": 3.0, "r": 2.0, "x4": 1.0, "x5": 0.5}},
        {"q": {"x3": 9.0, "x2": 8.0, "r": 7.0, "x1": 1.0}, "p": {"x1": 1.0, "r": 0.9, "x4": 0.8}},
    ]
    made = grow_corpus(qrels, runs, ["o1", "o2", "o3"], relevant=1, distractors=2, sizes=(7,))
    # 1/64 + 1/61 for x3, 1/63 + 1/62 for x2 and 1/62 + 1/64 for x1, by rank: x3 before x2 before x1.
    assert made.distractors["q"] == ["x3", "x2"]
    assert made.distractors["p"] == ["r", "x4"], "what answers another query stays"
    order = grow_corpus(qrels, runs, ["o1", "o2", "o3"], relevant=1, distractors=0, sizes=(4,))
    assert order.distractors == {"q": [], "p": []}
    with pytest.raises(BadInput, match="leave 3 distractors, 4 are wanted; bring runs of depth 5"):
        grow_corpus({"p": qrels["p"]}, runs, ["o1"], relevant=1, distractors=4, sizes=(7,))


def test_another_seed_draws_others() -> None:
    one, two = grown(seed=0), grow_corpus(*judged(0), OTHERS, relevant=2, distractors=5, sizes=(60, 120, 240), seed=7)
    assert one.ids != two.ids
    assert one.distractors.keys() == two.distractors.keys()


def test_composition_counts_the_first() -> None:
    made = grown()
    query, *others = made.qrels
    right, hard = list(made.qrels[query]), made.distractors[query]
    run = Run({query: {right[0]: 9.0, hard[0]: 8.0, hard[1]: 7.0, "o1": 6.0, right[1]: 5.0}})
    found = made.composition(run, 4)
    assert (found.relevant[0], found.distractor[0], found.random[0]) == (1, 2, 1)
    assert found.relevant[1:].tolist() == [0] * len(others), "what was not answered has nothing"
    assert made.composition(run, 10).mean() == pytest.approx((2 / 6, 2 / 6, 1 / 6))
    for k in (0, True, 2.5):
        with pytest.raises(BadInput, match="k must be"):
            made.composition(run, k)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="none of the judged"):
        made.composition(Run({"else": {"a": 1.0}}))


def test_a_size_is_a_retrieval_set() -> None:
    made = grown()
    texts = {key: f"text of {key}" for key in made.ids}
    queries = {query: f"what is {query}?" for query in made.qrels}
    data = made.at(120, texts, queries)
    assert (len(data), data.ids, data.qrels) == (120, made.ids[:120], made.qrels)
    with pytest.raises(BadInput, match="not one of 60, 120, 240"):
        made.at(100, texts, queries)
    with pytest.raises(BadInput, match="no text of document"):
        made.at(120, {}, queries)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": (60, 60)}, "must rise"),
        ({"sizes": ()}, "must rise"),
        ({"sizes": (10,)}, "do not fit into 10"),
        ({"sizes": (60, 5000)}, "do not fill 5,000"),
        ({"relevant": 0}, "relevant must be"),
        ({"distractors": -1}, "distractors must be"),
        ({"relevant": 40}, "the most is"),
        ({"grade": 0}, "grade must be"),
    ],
)
def test_bad_requests_for_a_corpus(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        grown(**options)
    with pytest.raises(BadInput, match="at least one"):
        grow_corpus(judged(0)[0], [], OTHERS, relevant=2, sizes=(60,))


# --- codecs over it ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space() -> tuple[GrownCorpus, np.ndarray, np.ndarray]:
    """A corpus, its rows, and queries near to what is relevant to them."""
    corpus = grown()
    random = np.random.default_rng(3)
    rows = normalise(random.standard_normal((len(corpus.ids), DIM)).astype(np.float32) + 0.3)
    place = {key: i for i, key in enumerate(corpus.ids)}
    near = [rows[[place[d] for d in own]].mean(axis=0) for own in corpus.qrels.values()]
    return corpus, rows, normalise(np.array(near) + 0.25 * random.standard_normal((len(near), DIM)))


@pytest.fixture(scope="module")
def bench(space: tuple[GrownCorpus, np.ndarray, np.ndarray]) -> GrowthBench:
    return bench_growth(*space, WIDTHS, k=100)


def test_measures_are_those_of_the_usual_way(space: tuple[GrownCorpus, np.ndarray, np.ndarray], bench: Any) -> None:
    corpus, rows, queries = space
    for place, size in enumerate(corpus.sizes):
        run = Run.of(nearest(queries, rows[:size], 100), list(corpus.qrels), corpus.ids)
        expected = per_query(run, corpus.qrels, ["ndcg@10", "recall@100"])
        for measure, values in expected.items():
            assert bench.values[FLOAT32][measure][place] == pytest.approx(values, abs=1e-6)
        roles = corpus.composition(run, 10)
        for role in ("relevant", "distractor", "random"):
            assert bench.values[FLOAT32][role][place].tolist() == getattr(roles, role).tolist()
    assert "recall@1000" not in bench.values[FLOAT32], "no thousand was asked for"


def test_codecs_score_by_the_cosine_of_what_they_decode_to(space: Any, bench: GrowthBench) -> None:
    from inlay.codecs.named import codec

    corpus, rows, queries = space
    for name in ("steps:8?faithful=true", "signs:zero?symmetric=true", "pq:4x2"):
        one = codec(name).fit(rows)
        asked = queries if name.startswith("pq") else one.decode(one.encode(queries))
        scores = normalise(asked) @ normalise(one.decode(one.encode(rows))).T
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        run = {query: {corpus.ids[i]: float(-place) for place, i in enumerate(row)} for query, row in
               zip(corpus.qrels, ids)}  # fmt: skip
        expected = per_query(run, corpus.qrels, ["ndcg@10"])["ndcg@10"]
        assert bench.values[name]["ndcg@10"][-1] == pytest.approx(expected, abs=0.02), name


def test_a_map_is_scored_behind_it(space: Any, bench: GrowthBench) -> None:
    from inlay.spaces.pca import PCA

    corpus, rows, queries = space
    pca = PCA(4).fit(rows)
    found = nearest(normalise(pca.transform(queries)), normalise(pca.transform(rows)), 100)
    run = Run.of(found, list(corpus.qrels), corpus.ids)
    expected = per_query(run, corpus.qrels, ["ndcg@10"])["ndcg@10"]
    assert bench.values["pca:4|float32"]["ndcg@10"][-1] == pytest.approx(expected, abs=1e-6)
    assert bench.costs["pca:4|float32"].nbytes == 16
    assert bench.costs["float8:e4m3"].nbytes == DIM


def test_quality_and_what_it_is_said_of(bench: GrowthBench) -> None:
    assert bench.names[0] == FLOAT32
    assert bench.retained("float16").mean == pytest.approx(1, abs=0.01)
    assert bench.mean("pq:4x2") < bench.mean(FLOAT32)
    low, high = bench.retained("pq:4x2")[1:]
    assert low <= bench.retained("pq:4x2").mean <= high
    assert sum(bench.composition(FLOAT32)) == pytest.approx(10)
    for size, wider in zip(bench.sizes, bench.sizes[1:]):
        assert bench.mean(FLOAT32, "recall@100", wider) <= bench.mean(FLOAT32, "recall@100", size)
    told = bench.to_dict()
    assert set(told["codecs"]) == {FLOAT32, *WIDTHS}
    assert told["codecs"]["pq:4x2"]["240"]["retained"][0] == pytest.approx(bench.retained("pq:4x2").mean, abs=1e-4)
    for wrong in (("pq:9x9",), ("pq:4x2", "map"), ("pq:4x2", "ndcg@10", 61)):
        with pytest.raises(BadInput):
            bench.mean(*wrong)  # type: ignore[arg-type]


def test_rows_may_be_made_on_the_way(space: Any, bench: GrowthBench) -> None:
    corpus, rows, queries = space
    asked: list[tuple[int, int]] = []

    def make(low: int, high: int) -> np.ndarray:
        asked.append((low, high))
        return rows[low:high]

    found = bench_growth(corpus, make, queries, WIDTHS, k=100)
    for name in WIDTHS:
        assert np.array_equal(found.values[name]["ndcg@10"], bench.values[name]["ndcg@10"])
    assert max(high for _, high in asked) == 240
    short = bench_growth(corpus, make, queries, ["float16"], k=100, sample=50)
    assert short.mean("float16") == bench.mean("float16")
    assert asked[-4:] == [(0, 50), (0, 60), (60, 120), (120, 240)], "a sample first, then blocks that end at sizes"
    with pytest.raises(BadInput, match="expected rows"):
        bench_growth(corpus, lambda low, high: rows[:1], queries, ["float16"], k=100)


def test_batches_have_parameters_of_their_own(space: Any) -> None:
    corpus, rows, queries = space
    names = ["float16", "steps:2?faithful=true"]
    whole = bench_growth(corpus, rows, queries, names, fit="batch", k=100, batch=1000)
    once = bench_growth(corpus, rows, queries, names, k=100)
    assert whole.values["steps:2?faithful=true"]["ndcg@10"][-1] == pytest.approx(
        once.values["steps:2?faithful=true"]["ndcg@10"][-1]
    ), "one batch of all documents is a fit to the corpus"
    shifted = rows.copy()
    shifted[120:] += 3  # the second half lies elsewhere, so that its batch has other ranges
    apart = bench_growth(corpus, shifted, queries, names, fit="batch", k=100, batch=60)
    one = bench_growth(corpus, shifted, queries, names, k=100)
    assert np.array_equal(apart.values["float16"]["ndcg@10"], one.values["float16"]["ndcg@10"])
    assert not np.array_equal(apart.values[names[1]]["ndcg@10"][-1], one.values[names[1]]["ndcg@10"][-1])


def test_symmetric_codes_the_queries(space: Any) -> None:
    corpus, rows, queries = space
    one = bench_growth(corpus, rows, queries, ["steps:2"], k=100)
    both = bench_growth(corpus, rows, queries, ["steps:2"], k=100, symmetric=True)
    assert not np.array_equal(one.values["steps:2"]["ndcg@10"], both.values["steps:2"]["ndcg@10"])


def test_the_paired_test_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    ours, theirs = random.random(40), random.random(40)
    found = paired_t(ours, theirs)
    expected = stats.ttest_1samp(ours - theirs, 0)
    assert (found.t, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert paired_t(ours, ours) == (0, 0, 1)
    assert paired_t(np.ones(3), np.zeros(3)).p == 0
    for bad in ((ours, theirs[:5]), (ours[:1], theirs[:1])):
        with pytest.raises(BadInput, match="two or more queries"):
            paired_t(*bad)


def test_holm_adjusts_for_the_number_of_codecs(bench: GrowthBench) -> None:
    raw = {name: bench.paired(name).p for name in WIDTHS}
    adjusted = bench.adjusted()
    order = sorted(raw, key=lambda name: raw[name])
    assert adjusted[order[0]] == pytest.approx(min(1, raw[order[0]] * len(WIDTHS)))
    assert all(adjusted[name] >= raw[name] for name in raw)
    assert all(adjusted[a] <= adjusted[b] for a, b in zip(order, order[1:]))
    for name in raw:  # the definition: the largest of (m − j) · p over the ranks j up to its own
        rank = order.index(name)
        assert adjusted[name] == pytest.approx(min(1, max(raw[order[j]] * (len(raw) - j) for j in range(rank + 1))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codecs": "float16"}, r"write \['float16'\]"),
        ({"codecs": ["no such codec"]}, "no codec or map"),
        ({"queries": np.zeros((2, DIM))}, "each of 6 queries"),
        ({"rows": np.zeros((3, DIM), dtype=np.float32)}, "one for each document"),
        ({"fit": "row"}, "fit must be"),
        ({"k": 5}, "at least 10"),
        ({"batch": 0}, "batch must be"),
        ({"sample": 1.5}, "sample must be"),
    ],
)
def test_bad_requests_for_a_bench(space: Any, change: dict[str, Any], said: str) -> None:
    corpus, rows, queries = space
    given = {"corpus": corpus, "rows": rows, "queries": queries, "codecs": ["float16"], "k": 100} | change
    with pytest.raises(BadInput, match=said):
        bench_growth(**given)


def test_the_figure_is_drawn(bench: GrowthBench, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = bench.draw(tmp_path / "growth.svg")
    text = path.read_text()
    assert all(word in text for word in ("relevance composition", "pq:4x2", "bytes of a row", "240 documents"))
    assert bench.draw(tmp_path / "again.svg").read_text() == text, "the same figures, the same file"
    with pytest.raises(BadInput, match="written as"):
        bench.draw(tmp_path / "growth.txt")
    with pytest.raises(BadInput, match="no folder"):
        bench.draw(tmp_path / "none" / "growth.svg")


def test_blocks_end_where_sizes_do() -> None:
    """Sizes that are no multiple of a block, and one within it, give what an exact scan gives."""
    random = np.random.default_rng(0)
    qrels = {"q0": {"r0": 1, "r1": 1}, "q1": {"r2": 2}}
    others = [f"o{i}" for i in range(BLOCK + 900)]
    corpus = grow_corpus(qrels, [], others, relevant=1, distractors=0, sizes=(40, 1000, BLOCK + 700))
    rows = random.standard_normal((len(corpus.ids), 4)).astype(np.float32)
    queries = random.standard_normal((2, 4)).astype(np.float32)
    found = bench_growth(corpus, rows, queries, [], k=1000, sample=100)
    for place, size in enumerate(corpus.sizes):
        run = Run.of(nearest(normalise(queries), normalise(rows[:size]), 1000), list(corpus.qrels), corpus.ids)
        for measure in ("ndcg@10", "recall@100", "recall@1000"):
            expected = per_query(run, corpus.qrels, [measure])[measure]
            assert found.values[FLOAT32][measure][place] == pytest.approx(expected)
    assert replace(corpus, seed=1).ids == corpus.ids


# --- the texts that fill ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("INLAY_DATA"), reason="needs the data sets: set INLAY_DATA")
def test_spans_are_runs_of_words_of_some_text() -> None:
    from inlay.evaluation.retrieval_set import RetrievalSet
    from inlay.reproductions.evaluation._spans import Spans

    data = Path(os.environ["INLAY_DATA"])
    spans = Spans(data, ["cranfield/corpus.jsonl.gz"], 200, (20, 40), 1)
    texts = [" ".join(doc["text"].split()) for doc in RetrievalSet.load(data / "cranfield").corpus]
    assert len(set(spans.ids)) == 200
    for key in spans.ids[:50]:
        text = spans[key]
        assert 20 <= len(text.split()) <= 40
        assert any(text in whole for whole in texts)
    again = Spans(data, ["cranfield/corpus.jsonl.gz"], 200, (20, 40), 1)
    assert [again[key] for key in spans.ids] == [spans[key] for key in spans.ids]
    with pytest.raises(BadInput, match="no text of 9000 words"):
        Spans(data, ["cranfield/corpus.jsonl.gz"], 5, (9000, 9001), 1)
