"""Rows, sources, mining, filters, batches, views: what reaches a model, and what must not."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.types import Space

pytest.importorskip("torch")

from inlay.training import (
    Batcher,
    Example,
    Prefix,
    Source,
    TitleText,
    Wrap,
    by_length,
    by_loss,
    consistent,
    decontaminate,
    dedupe,
    mine,
    mixed,
    one_source,
    quota,
    read,
    sources,
    write,
)
from inlay.training.batching import choice
from inlay.training.mining import BelowFraction, BelowMargin, BelowScore


class Letters:
    """An encoder: how often each letter occurs."""

    space = Space("dense", 26, "cosine", "letters")

    def encode_document(self, items, *, batch_size=None, progress=False):
        return np.array([[text.count(chr(97 + i)) for i in range(26)] for text in items], dtype=np.float32)

    encode_query = encode_document


def source(name: str, size: int, kind="retrieval", k: int = 0, **options) -> Source:
    rows = [Example(f"{name} q{i}", [f"{name} p{i}"], [f"{name} n{i}.{j}" for j in range(k)]) for i in range(size)]
    return Source(name, rows, kind, **options)


# examples

texts = st.text(max_size=20)


@given(
    st.lists(
        st.builds(
            Example,
            query=texts,
            pos=st.lists(texts, max_size=2),
            neg=st.lists(texts, max_size=2),
            task=st.none() | texts.filter(bool),
            label=st.none() | st.integers(0, 3) | texts,
            score=st.none() | st.floats(-1, 5),
            row=st.none() | st.integers(0, 9),
            tokens=st.integers(0, 9),
        ),
        max_size=4,
    )
)
@settings(max_examples=50, deadline=None)
def test_examples_survive_a_file(tmp_path_factory, rows) -> None:
    folder = tmp_path_factory.mktemp("rows")
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        assert write(folder / name, rows) == len(rows)
        assert read(folder / name) == rows


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "JSON"), ("[]", "object"), ('{"pos": []}', "query"), ('{"query": "a", "answer": 1}', "answer"),
     ('{"query": "a", "pos": "b"}', "list")],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path, line, said) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "fine"}\n' + line + "\n")
    with pytest.raises(BadInput, match=said) as error:
        read(path)
    assert "rows.jsonl:2" in str(error.value)


# sources


def test_text_files_by_unit(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("One sentence here. And another one.\n\nA second paragraph\nover two lines.\n")
    (tmp_path / "b.bin").write_text("not text")
    units = {unit: [e.query for e in sources.text_files(tmp_path, unit=unit, least=5)] for unit in
             ("document", "paragraph", "sentence")}  # fmt: skip
    assert len(units["document"]) == 1
    assert units["paragraph"] == ["One sentence here. And another one.", "A second paragraph over two lines."]
    assert units["sentence"] == ["One sentence here.", "And another one.", "A second paragraph over two lines."]
    with pytest.raises(BadInput, match="missing"):
        sources.text_files(tmp_path / "missing")


def test_neighbours_do_not_cross_documents() -> None:
    made = sources.neighbours(["First part of A.\n\nSecond part of A.\n\nThird of A.", "Only part of B."], least=3)
    assert [(e.query, e.pos) for e in made] == [
        ("First part of A.", ["Second part of A."]),
        ("Second part of A.", ["Third of A."]),
    ]


def test_docstring_code_leaves_the_docstring_out(tmp_path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        'def parse_date(text):\n    """Parse a date out of text.\n\n    In ISO form.\n    """\n    return 1\n'
    )
    (tmp_path / "broken.py").write_text("def f(:\n")
    (code,) = sources.docstring_code([tmp_path])
    assert code.query == "Parse a date out of text."
    assert code.pos == ["def parse_date(text):\n    return 1"]
    (rest,) = sources.docstring_code(path, body="rest")
    assert rest.pos == ["parse date. In ISO form."]
    (both,) = sources.docstring_code(path, body="both")
    assert "ISO" in both.pos[0]
    assert "return 1" in both.pos[0]
    assert "Parse a date" not in both.pos[0]


@pytest.mark.parametrize("style", ["example", "label", "unique_id"])
def test_labelled(style) -> None:
    items, labels = [f"t{i}" for i in range(12)], [i % 3 for i in range(12)]
    made = sources.labelled(items, labels, style=style, negatives=5)
    of = dict(zip(items, labels))
    assert len(made) == 12
    for example in made:
        if style == "label":
            assert example.pos == [str(example.label)]
            assert str(example.label) not in example.neg
            continue
        bare = [text.split(" [")[0] for text in example.texts]
        assert bare[1] != bare[0]
        assert [of[text] for text in bare] == [example.label, example.label, *example.neg_labels]
        assert example.label not in example.neg_labels
        if style == "unique_id":
            assert len({text.split(" [")[1] for text in example.texts}) == 1


def test_graded_and_qrels_and_titles() -> None:
    made = sources.graded([("a", "b", 3), ("c", "c", 5)])
    assert [(e.query, e.pos[0], e.score) for e in made] == [("a", "b", 3.0), ("b", "a", 3.0), ("c", "c", 5.0)]
    (judged,) = sources.qrels(
        {"1": "one", "2": "two"}, {"q": "ask", "r": "lost"}, {"q": {"1": 1, "2": 0}, "r": {"9": 1}}
    )
    assert (judged.pos, judged.neg, judged.doc_ids) == (["one"], ["two"], ["1", "2"])
    titles = sources.title_body([{"title": "T", "text": "body"}, {"title": "", "text": "x"}, {"text": "y"}])
    assert [(e.query, e.pos) for e in titles] == [("T", ["body"])]


def test_split_shares_no_text() -> None:
    rows = [Example(f"q{i % 7}", [f"p{i % 5}"]) for i in range(35)]
    rest, held = Source("s", rows + [Example(f"x{i}", [f"y{i}"]) for i in range(20)]).split(3)
    seen = {text for e in held for text in e.texts}
    assert len(held) == 3
    assert len(rest)
    assert not any(text in seen for e in rest for text in e.texts)


# mining and filters

words = st.text("abc", min_size=1, max_size=4)


@given(st.lists(st.tuples(words, words), min_size=2, max_size=12), st.sampled_from(["random", "top", "last"]))
@settings(max_examples=60, deadline=None)
def test_mined_negatives_are_never_positives(rows, pick) -> None:
    made = Source("s", [Example(q, [p]) for q, p in rows])
    answers: dict[str, set[str]] = {}
    for q, p in rows:
        answers.setdefault(q, set()).add(p)
    for example in mine(made, Letters(), n=3, pick=pick):
        assert not set(example.neg) & answers[example.query]
        assert example.query not in example.neg
        assert len(set(example.neg)) == len(example.neg) <= 3
        assert example.neg_scores == sorted(example.neg_scores, reverse=True)


def test_mining_by_rank_rule_and_pick() -> None:
    corpus = ["aaaa", "aaab", "aabb", "abbb", "bbbb", "cccc"]
    made = Source("s", [Example("aaaaa", ["aaaa"]), Example("b", ["not there"])])

    def found(**options):
        return [e.neg for e in mine(made, Letters(), corpus, n=2, **options)]

    assert found(pick="top") == [["aaab", "aabb"], []]  # the positive is not in the corpus: nothing can be said
    assert found(pick="top", k_range=(1, 3))[0] == ["aabb", "abbb"]
    assert found(pick="last", k_range=(0, 4))[0] == ["abbb", "bbbb"]
    assert found(pick="top", keep=BelowFraction(0.9))[0] == ["aabb", "abbb"]
    assert found(pick="top", keep=BelowMargin(0.5))[0] == ["abbb", "bbbb"]
    assert found(pick="top", keep=BelowScore(0.1))[0] == ["bbbb", "cccc"]
    with pytest.raises(BadInput, match="k_range"):
        found(k_range=(3, 3))


def test_dedupe_looks_past_case_and_punctuation() -> None:
    rows = [Example("A b!", ["c"]), Example("a  B", ["C."]), Example("a b", ["d"]), Example("!!"), Example("??")]
    assert [e.query for e in dedupe(Source("s", rows))] == ["A b!", "a b", "!!", "??"]


def test_decontaminate_by_runs_of_words() -> None:
    judged = " ".join(f"w{i}" for i in range(20))
    leak = Example("fine", ["before " + " ".join(f"W{i}," for i in range(4, 17)) + " after"])
    near = Example("fine too", [" ".join(f"w{i}" for i in range(4, 16))])
    kept = decontaminate(Source("s", [leak, near, Example("Short query?", ["x"])]), [judged, "short query"])
    assert [e.query for e in kept] == ["fine too"]


def test_consistent_keeps_what_finds_itself() -> None:
    made = Source("s", [Example("aaa", ["aab"]), Example("ccc", ["aaa"]), Example("bbb", ["bbc"])])
    assert [e.query for e in consistent(made, Letters(), top=1)] == ["bbb"]
    assert [e.query for e in consistent(made, Letters(), top=2)] == ["aaa", "bbb"]


# batches


def some(batcher: Batcher, count: int, seed: int = 0, skip: int = 0):
    return list(itertools.islice(batcher.batches(seed, skip), count))


def test_batches_are_a_function_of_seed_and_number() -> None:
    batcher = Batcher([source("a", 50, k=3), source("b", 20, k=1)], 8, negatives=2, choice=one_source(0.5))
    first = some(batcher, 12)
    assert some(batcher, 12) == first
    assert some(batcher, 5, skip=7) == first[7:]
    assert some(batcher, 12, seed=1) != first


def test_an_epoch_sees_every_row_once() -> None:
    batcher = Batcher([source("a", 24), source("b", 16)], 8)
    seen = Counter(row for batch in some(batcher, 5) for row in batch.ids)
    assert len(seen) == 40
    assert set(seen.values()) == {1}


@given(st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_no_duplicates_in_a_batch(size, seed) -> None:
    rows = [Example(f"q{i % 7}", [f"p{i % 5}"]) for i in range(35)]
    counted: Counter = Counter()
    for batch in some(Batcher([Source("s", rows)], size), 20, seed):
        assert len(set(batch.query)) == len(batch) > 0
        assert len({row[0] for row in batch.docs}) == len(batch)
        counted.update(batch.ids)
    assert len(counted) >= min(35, sum(counted.values()) // 4)  # what did not fit is not lost


def test_negatives_are_cut_and_drawn_again() -> None:
    (batch,) = some(Batcher([source("s", 4, k=5)], 4, negatives=2), 1)
    assert all(len(row) == 3 for row in batch.docs)
    (batch,) = some(Batcher([source("s", 4, k=1)], 4, negatives=3), 1)
    assert all(len(row) == 4 and len(set(row[1:])) == 1 for row in batch.docs)
    with pytest.raises(BadInput, match="without negatives"):
        some(Batcher([source("s", 4)], 4, negatives=1), 1)


def test_one_source_and_quota_shares() -> None:
    three = [source("a", 400), source("b", 100, "graded"), source("c", 100, "graded")]
    draws = 3000

    def shares(how) -> dict[str, float]:
        batcher = Batcher(three, 1, choice=how)
        picks = itertools.islice(batcher._picks(0), draws)
        counted = Counter(three[s].name for ((s, _),) in picks)
        return {name: counted[name] / draws for name in "abc"}

    def close(found, **want) -> bool:
        return all(abs(found[n] - p) < 3.5 * (p * (1 - p) / draws) ** 0.5 for n, p in want.items())

    assert close(shares(one_source(0.5)), a=0.5, b=0.25, c=0.25)
    assert close(shares(one_source(0)), a=1 / 3, b=1 / 3)
    assert close(shares(quota({"retrieval": 0.72})), a=0.72, b=0.14, c=0.14)
    assert close(shares(quota({"b": 0.1, "a": 0.3})), a=0.3, b=0.1, c=0.6)
    for bad in ({"retrieval": 1.2}, {"nobody": 0.5}, {"a": 0.2, "graded": 0.2}):
        with pytest.raises(BadInput):
            Batcher(three, 1, choice=quota(bad))


def test_by_length_keeps_lengths_together() -> None:
    rows = [Example("x" * n + str(i), [f"p{i}"]) for i, n in enumerate([5, 50] * 40)]
    for batch in some(Batcher([Source("s", rows)], 8, choice=by_length(mixed(), [20])), 20):
        assert len({len(query) > 20 for query in batch.query}) == 1


def test_by_loss_keeps_losses_apart_and_draws_them_by_their_rows() -> None:
    texts = [source("a", 20, loss="texts"), source("b", 10, loss="texts")]
    three = [texts[0], source("pairs", 10, loss="pairs"), texts[1]]
    batcher = Batcher(three, 1, choice=by_loss(mixed()))
    assert [lane.share for lane in batcher.lanes] == [30, 10]
    seen = [batch.ids[0] for batch in some(batcher, 40)]
    assert {number for number, _ in seen} == {0, 1, 2}  # the sources' own numbers, not those within a group
    for batch in some(Batcher(three, 5, choice=by_loss(mixed())), 30):
        assert {three[number].loss for number, _ in batch.ids} == {batch.loss}
        assert all(three[number][row].query == query for (number, row), query in zip(batch.ids, batch.query))
    rare = Batcher(three, 1, choice=by_loss(mixed(), {"texts": 0.25, "pairs": 0.75}))
    assert [lane.share for lane in rare.lanes] == [0.25, 0.75]
    with pytest.raises(BadInput, match="shares for"):
        Batcher(three, 1, choice=by_loss(mixed(), {"texts": 1}))
    with pytest.raises(BadInput, match="one_source"):
        Batcher([*three, source("shy", 4, loss="pairs", in_batch=False)], 2, choice=by_loss(mixed()))


def test_what_belongs_to_a_source_travels() -> None:
    shy = source("shy", 8, loss="class", in_batch=False, show_query=Prefix("ask: ", pooled=False))
    (batch,) = some(Batcher([shy], 4), 1)
    assert (batch.loss, batch.in_batch, batch.source) == ("class", False, "shy")
    assert all(shown == ("ask: " + query, 5) for shown, query in zip(batch.shown, batch.query))
    assert not any("ask: " in text for text in batch.texts)  # the teacher has prompts of its own
    with pytest.raises(BadInput, match="one_source"):
        Batcher([shy, source("b", 8)], 4, choice=mixed())


def test_choices_from_words() -> None:
    made = [source("a", 30), source("b", 30, "graded")]
    for text in (
        "mixed",
        "one_source",
        "one_source(alpha=.5)",
        "quota(retrieval=.7, alpha=.5)",
        "mixed | by_length(4, 9)",
    ):
        assert some(Batcher(made, 4, choice=choice(text)), 1)
    for text in ("best", "mixed(3)", "one_source(beta=1)", "quota", "by_length(4)", "one_source(alpha=x)"):
        with pytest.raises(BadInput, match="batcher"):
            choice(text)


def test_views() -> None:
    example = Example("q", task="find {x}")
    assert Prefix("{task}: ")("t", example).text == "find {x}: t"
    assert TitleText()("Title\nbody {text}", example).text == "title: Title | text: body {text}"
    assert TitleText()("body", example).text == "title: none | text: body"
    assert Wrap("[", "]")("t", example) == ("[t]", 0)


def test_the_face_is_lazy() -> None:
    import subprocess
    import sys

    code = "import sys, inlay.training, inlay.training.recipe; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
    import inlay.training

    for name in inlay.training.__all__:
        assert getattr(inlay.training, name).__module__.startswith(("inlay.training.", "inlay.tables."))
    assert set(inlay.training.__all__) == set(inlay.training._HOMES)
    with pytest.raises(AttributeError):
        inlay.training.Nothing  # noqa: B018


def test_without_torch_the_extra_is_named() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import inlay.training\n"
        "try: inlay.training.StaticBag\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("MissingExtra")
    assert "inlay[train]" in found.stdout


def test_table_sources(tmp_path: Path) -> None:
    from inlay.training.source_files import BUILDERS

    (tmp_path / "t.tsv").write_text("a\tb\tscore\nx\ty\t3\n")
    (graded,) = list(BUILDERS["graded"](tmp_path / "t.tsv", columns=["a", "b", "score"], symmetric=False))
    assert (graded.query, graded.pos, graded.score) == ("x", ["y"], 3.0)
    assert len(BUILDERS["pairs"](tmp_path / "t.tsv", columns=[0, 1])) == 2
    with pytest.raises(BadInput, match="'c'"):
        BUILDERS["pairs"](tmp_path / "t.tsv", columns=["a", "c"])


def test_a_neighbourhood_shares_its_batches() -> None:
    from inlay.training.neighbourhoods import neighbourhoods

    class Two:
        """A teacher that knows two kinds of texts."""

        dim = 2

        def rows(self, items):
            return np.array([[1, 0.01 * len(t)] if t.startswith("a") else [0, 1] for t in items], dtype=np.float32)

    both = [Source(name, [Example(f"{name} {i}") for i in range(40)], "texts") for name in ("a", "b")]
    lanes = neighbourhoods(mixed(), Two(), size=40, share=0.5)(both)
    assert sum(lane.share for lane in lanes) == pytest.approx(1)
    assert [len(lane.rows) for lane in lanes] == [80, 40, 40]
    assert [lane.share for lane in lanes] == pytest.approx([0.5, 0.25, 0.25])
    assert {len(set(lane.rows[:, 0].tolist())) for lane in lanes[1:]} == {1}
    batches = itertools.islice(Batcher(both, 8, choice=neighbourhoods(mixed(), Two(), size=40)).batches(), 60)
    alike = sum(len({source for source, _ in batch.ids}) == 1 for batch in batches)
    assert 15 <= alike <= 45
    for wrong in ({"size": 0}, {"share": 1.5}):
        with pytest.raises(BadInput, match="size must be"):
            neighbourhoods(mixed(), Two(), **wrong)


def test_agreement_is_whole_with_oneself() -> None:
    from inlay.training.probe import agreement

    class Taught(Letters):
        dim = 26

        def rows(self, items):
            rows = self.encode_document(items)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        encode_document = Letters.encode_document

    class Unit(Letters):
        def encode_document(self, items, *, batch_size=None, progress=False):
            return Taught().rows(items)

    words = [
        "parrot",
        "carrot",
        "bread",
        "beard",
        "gull",
        "full",
        "tide",
        "diet",
        "edit",
        "date",
        "rate",
        "tear",
        "loaf",
    ]
    figures = agreement(words, Taught(), k=3)
    assert figures(Unit()) == {"teacher neighbours": 1.0, "teacher cosine": pytest.approx(1)}

    class Other(Letters):
        def encode_document(self, items, *, batch_size=None, progress=False):
            return np.random.default_rng(0).normal(size=(len(items), 8)).astype(np.float32)

    found = figures(Other())
    assert set(found) == {"teacher neighbours"}
    assert found["teacher neighbours"] < 0.7
