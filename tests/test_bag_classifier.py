"""The bag classifier: gradients, features, compression step by step, files, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.cli import inlay
from inlay.codecs import NormPQ, ProductQuantiser
from inlay.errors import BadInput, Corrupt
from inlay.kernels import bag
from inlay.words.bag_classifier import BagClassifier, descend
from inlay.words.bag_features import END, BagFeatures, _fnv1a
from inlay.words.compressed_bag import CompressedBag
from inlay.words.feature_map import HashedMap, StringMap
from inlay.words.labelled import read_labelled
from inlay.words.pruning import by_coverage, by_norm
from inlay.words.text_classifier import load_classifier


def corpus(count: int = 600, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of two topics whose words overlap: half of a text's words are of its topic's hundred, half of anyone's."""
    random = np.random.default_rng(seed)
    texts, labels = [], []
    for number in range(count):
        topic = "sea" if number % 2 else "land"
        own = [f"{topic}{random.integers(100)}" for _ in range(5)]
        texts.append(" ".join(random.permutation([*own, *(f"any{random.integers(200)}" for _ in range(5))])))
        labels.append(topic)
    return texts, labels


@pytest.fixture(scope="module")
def trained() -> BagClassifier:
    return BagClassifier(dim=6, buckets=4000, epochs=10).fit(*corpus())


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_follows_the_gradient_of_the_cross_entropy(compiled, monkeypatch):
    if compiled:
        pytest.importorskip("numba")
    monkeypatch.setattr(bag.kernels, "compiled", lambda work: compiled)
    random = np.random.default_rng(0)
    rows, head = random.normal(size=(7, 3)).astype(np.float32), random.normal(size=(4, 3)).astype(np.float32)
    ids, label = np.array([2, 5, 2], dtype=np.int32), 1  # a repeated feature counts twice

    def loss(rows, head):
        scores = head @ rows[ids].mean(axis=0)
        return np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]

    def slope(array, rows, head):
        out, step = np.zeros(array.shape), 1e-5
        for at in np.ndindex(array.shape):
            kept = array[at]
            array[at] = kept + step
            up = loss(rows, head)
            array[at] = kept - step
            out[at] = (up - loss(rows, head)) / (2 * step)
            array[at] = kept
        return out

    wide_rows, wide_head = rows.astype(float), head.astype(float)
    wanted_rows, wanted_head = slope(wide_rows, wide_rows, wide_head), slope(wide_head, wide_rows, wide_head)
    before = loss(wide_rows, wide_head)
    moved_rows, moved_head = rows.copy(), head.copy()
    one = np.array([0, 3], dtype=np.int64), ids, np.array([label], dtype=np.int32), np.array([0])
    said = bag.bag_epoch(moved_rows, moved_head, *one, 0.1, 0.0)
    assert said == pytest.approx(before, rel=1e-4)
    np.testing.assert_allclose(moved_rows - rows, -0.1 * wanted_rows, atol=1e-5)
    np.testing.assert_allclose(moved_head - head, -0.1 * wanted_head, atol=1e-5)
    still = rows.copy()
    bag.bag_epoch(still, head.copy(), *one, 0.1, 0.0, learn_rows=False)
    np.testing.assert_array_equal(still, rows)


def test_both_forms_of_an_epoch_agree(monkeypatch):
    pytest.importorskip("numba")
    random = np.random.default_rng(1)
    indptr = np.concatenate([[0], np.cumsum(random.integers(0, 9, size=50))])  # some documents are empty
    ids = random.integers(0, 40, size=indptr[-1]).astype(np.int32)
    labels, order = random.integers(0, 3, size=50).astype(np.int32), random.permutation(50)
    found = []
    for compiled in (False, True):
        monkeypatch.setattr(bag.kernels, "compiled", lambda work, compiled=compiled: compiled)
        rows = np.random.default_rng(2).normal(size=(40, 5)).astype(np.float32)
        head = np.zeros((3, 5), dtype=np.float32)
        loss = bag.bag_epoch(rows, head, indptr, ids, labels, order, 0.5, 0.1)
        found.append((loss, rows, head))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-5)
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.text(max_size=30), max_size=6), n=st.integers(1, 4), hashed=st.sampled_from(["mixing", "fnv1a"])
)
def test_features_of_texts_read_together_are_those_of_each(texts, n, hashed):
    features = BagFeatures(word_ngrams=n, buckets=1000, hash=hashed)
    both = features.read(texts)
    for place, text in enumerate(texts):
        alone = features.read([text])
        words = [both.distinct[word] for word in both.words[both.word_texts == place]]
        assert words == [alone.distinct[word] for word in alone.words] == features.tokens(text)
        assert both.grams[both.gram_texts == place].tolist() == alone.grams.tolist()
        count = len(words)
        assert len(alone.grams) == sum(max(0, count - size + 1) for size in range(2, n + 1))


def test_fnv1a_is_fasttexts():
    # Published vectors of 32-bit FNV-1a; a byte above 127 is signed in fastText, which its hash of "é" shows.
    assert _fnv1a(["", "a", "foobar"]).astype(np.uint32).tolist() == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]
    signed = 2166136261
    for byte in "é".encode():
        signed = ((signed ^ ((byte - 256) & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
    assert int(_fnv1a(["é"]).astype(np.uint32)[0]) == signed
    a, b = (int(value) for value in _fnv1a(["a", "b"]))
    grams = BagFeatures(buckets=997, hash="fnv1a", end=False).read(["a b"]).grams
    assert grams.tolist() == [(a * 116_049_371 + b) % (1 << 64) % 997]


def test_it_learns_words_and_it_learns_order():
    texts, labels = corpus(800)
    made = BagClassifier(dim=6, buckets=4000, epochs=10).fit(texts[:600], labels[:600])
    assert made.evaluate(texts[600:], labels[600:])["accuracy"] > 0.95
    # The same words in two orders: only n-grams tell them apart.
    turned = [("good but not bad", "yes"), ("bad but not good", "no")] * 100
    names = [label for _, label in turned]
    bigrams = BagClassifier(dim=4, buckets=500, epochs=20).fit([text for text, _ in turned], names)
    words = BagClassifier(dim=4, word_ngrams=1, epochs=20).fit([text for text, _ in turned], names)
    assert bigrams.predict(["good but not bad", "bad but not good"]) == ["yes", "no"]
    assert len(set(words.predict(["good but not bad", "bad but not good"]))) == 1


def test_the_same_seed_gives_the_same_model_and_another_another():
    texts, labels = corpus(200)
    first, again, other = (BagClassifier(4, buckets=300, seed=seed).fit(texts, labels) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.head, again.head)
    assert not np.array_equal(first.head, other.head)
    small, once_more = first.compress(260), again.compress(260)
    np.testing.assert_array_equal(small.predict_proba(texts), once_more.predict_proba(texts))


def test_probabilities_and_the_prior_of_a_text_that_says_nothing(trained):
    odds = trained.predict_proba(["sea1 any3", "", "!!! 好"])
    np.testing.assert_allclose(odds.sum(axis=1), 1, atol=1e-6)
    # A text without one known feature has the prior of the classes; its unknown bigrams still fall into buckets.
    np.testing.assert_array_equal(odds[1], trained.prior)
    skewed = BagClassifier(4, word_ngrams=1).fit(["a", "a", "a", "b"], ["x", "x", "x", "y"])
    np.testing.assert_allclose(skewed.predict_proba(["never seen"]), [[0.75, 0.25]])
    assert trained.predict_proba([]).shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), keep=st.integers(1, 40))
def test_coverage_keeps_a_feature_of_every_document_while_there_is_room(seed, keep):
    random = np.random.default_rng(seed)
    indptr = np.concatenate([[0], np.cumsum(random.integers(0, 6, size=20))])
    ids = random.integers(1, 30, size=indptr[-1])
    ids[indptr[:-1][np.diff(indptr) > 0]] = 0  # feature 0 is the end of a text
    norms = random.random(30)
    chosen = by_coverage(norms, keep, np.array([0]), indptr, ids)
    assert len(chosen) == min(keep, 30)
    assert 0 in chosen
    plain = by_norm(norms, keep, np.array([0]))
    others = np.setdiff1d(np.arange(1, 30), plain)
    assert norms[plain[plain > 0]].min(initial=1) >= norms[others].max(initial=0)
    documents = [set(ids[low:high].tolist()) - {0} for low, high in zip(indptr, indptr[1:])]
    bare = [own for own in documents if own and not own & set(chosen.tolist())]
    if keep > 20:  # as many as documents, and the end
        assert not bare
    # The first document that asks has its longest.
    first = next((own for own in documents if own), None)
    if keep > 1 and first:
        assert max(first, key=lambda feature: norms[feature]) in chosen


def test_a_rare_document_is_covered_where_norms_forget_it():
    norms = np.array([0.1, 9, 8, 7, 0.2, 0.3])
    indptr, ids = np.array([0, 3, 6]), np.array([0, 1, 2, 0, 4, 5])
    assert by_norm(norms, 3, np.array([0])).tolist() == [0, 1, 2]
    assert by_coverage(norms, 3, np.array([0]), indptr, ids).tolist() == [0, 1, 5]


@pytest.mark.parametrize("of", [StringMap, HashedMap])
def test_maps_find_every_kept_feature_and_few_others(of):
    features = BagFeatures(buckets=1 << 20)
    kept = [f"kept{i}" for i in range(3000)]
    buckets = np.random.default_rng(0).choice(1 << 20, 2000, replace=False)
    made, order = of.of(kept, buckets)
    assert sorted(order.tolist()) == list(range(5000))
    back = of.restored(made.arrays())
    strangers = features.read([" ".join([*kept, *(f"strange{i}" for i in range(20_000))])])
    words, grams = back.rows(strangers._replace(grams=np.concatenate([buckets, buckets ^ 1])))
    at = {word: row for row, word in zip(words, strangers.distinct)}
    original = np.array([at[word] for word in kept])
    wrong = int((order[original] != np.arange(3000)).sum())
    assert wrong <= (0 if of is StringMap else 3)  # two kept features may share a group and a fingerprint
    assert (order[grams[:2000]] == np.arange(3000, 5000)).mean() > 0.998
    mistaken = np.mean([at[f"strange{i}"] >= 0 for i in range(20_000)])
    assert mistaken == 0 if of is StringMap else mistaken < 0.001
    size = sum(array.nbytes for array in made.arrays().values())
    assert size < 2.6 * 5000 if of is HashedMap else size > 9 * 3000


def test_compressed_means_norm_times_centres(trained):
    texts, _ = corpus()
    small = trained.compress(500, retrain=0, refit_head=False, dictionary="strings", coverage=False)
    norms = np.linalg.norm(trained.rows, axis=1)
    indptr, ids, _ = trained._seen
    seen = np.bincount(ids, minlength=len(norms)) > 0
    kept = by_norm(norms, 500, np.array([0]), seen)
    assert 0 in kept
    codec = NormPQ(dsub=2).fit(
        trained.rows[[*kept[kept < len(trained.vocabulary)], *kept[kept >= len(trained.vocabulary)]]]
    )
    wanted = codec.decode(codec.encode(trained.rows[kept]))
    where = {feature: place for place, feature in enumerate(kept)}
    for place in range(20):
        own = [where[feature] for feature in ids[indptr[place] : indptr[place + 1]] if feature in where]
        scores = small.head @ wanted[own].mean(axis=0)
        odds = np.exp(scores - scores.max())
        np.testing.assert_allclose(small.predict_proba([texts[place]])[0], odds / odds.sum(), atol=1e-4)


def test_a_hundredth_of_the_bytes_says_nearly_the_same(trained):
    texts, labels = corpus(400, seed=9)
    full = trained.evaluate(texts, labels)["accuracy"]
    small = trained.compress(400, retrain=3)
    assert small.evaluate(texts, labels)["accuracy"] > full - 0.03
    assert trained.nbytes / small.nbytes > 8  # of a table this small, codebooks are the most
    parts = small.nbytes_by_part()
    assert sum(parts.values()) == small.nbytes
    assert parts["rows"] == 400 * (3 + 1)
    assert sorted(small.losses) == ["refit", "retrain"]


def test_what_pruning_took_from_a_text_leaves_the_prior():
    texts = ["a a a", "b b b", "a b c"] * 100
    full = BagClassifier(3, word_ngrams=1, epochs=3).fit([*texts, "rare"], [*["x", "y", "x"] * 100, "y"])
    small = full.compress(2, pq=None, coverage=False, retrain=0)
    assert len(small.features_map) == 2
    np.testing.assert_array_equal(small.predict_proba(["rare", "c", ""]), np.repeat(small.prior[None], 3, axis=0))
    endless = BagClassifier(3, word_ngrams=1, epochs=3, end=False).fit(texts, ["x", "y", "x"] * 100)
    assert endless.predict_proba([""]).tolist() == [endless.prior.tolist()]


def test_the_refit_lowers_the_loss_on_quantised_rows(trained):
    small = trained.compress(300, pq=ProductQuantiser(dsub=6, bits=4), retrain=0, refit_head=False)
    fitted = trained.compress(300, pq=ProductQuantiser(dsub=6, bits=4), retrain=0, refit_head=True)
    texts, labels = corpus()
    truth = [small.classes.index(label) for label in labels]
    loss = [-np.log(made.predict_proba(texts)[np.arange(len(texts)), truth]).mean() for made in (small, fitted)]
    assert loss[1] < loss[0]
    for name, array in small.stored.items():
        np.testing.assert_array_equal(array, fitted.stored[name])


def test_a_head_of_many_classes_is_quantised():
    texts = [f"word{i} word{i} and {j}" for j in range(2) for i in range(300)]
    full = BagClassifier(4, word_ngrams=1, epochs=30).fit(texts, [str(i % 300) for i in range(600)])
    whole, small = full.compress(600, retrain=0), full.compress(600, retrain=0, quantise_head=True)
    assert small.head_codes.nbytes == 300 * 2
    assert (
        small.evaluate(texts, [str(i % 300) for i in range(600)])["accuracy"]
        > 0.5 * (whole.evaluate(texts, [str(i % 300) for i in range(600)])["accuracy"])
    )
    with pytest.raises(BadInput, match="256 centres"):
        BagClassifier(3).fit(["a", "b"], ["x", "y"]).compress(2, quantise_head=True)


@pytest.mark.parametrize(
    "options", [{}, {"pq": None}, {"pq": ProductQuantiser(dsub=4, bits=5), "dictionary": "strings"}]
)
def test_files_come_back_and_damage_is_named(trained, options, tmp_path):
    texts, _ = corpus(50, seed=3)
    small = trained.compress(300, **options)
    path = small.save(tmp_path / "small.clf")
    assert path.stat().st_size == small.nbytes
    loaded = load_classifier(path)
    assert isinstance(loaded, CompressedBag)
    assert repr(loaded) == repr(small)
    np.testing.assert_array_equal(loaded.predict_proba(texts), small.predict_proba(texts))
    whole = load_classifier(trained.save(tmp_path / "full.clf"))
    assert isinstance(whole, BagClassifier)
    np.testing.assert_array_equal(whole.predict_proba(texts), trained.predict_proba(texts))
    with pytest.raises(BadInput, match="pass texts= and labels="):
        whole.compress(300)
    again = whole.compress(300, texts=corpus()[0], labels=corpus()[1], **options)
    np.testing.assert_array_equal(again.predict_proba(texts), small.predict_proba(texts))
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for at in random.integers(0, len(data), size=60):
        broken = bytearray(data)
        broken[at] ^= 4
        (tmp_path / "broken").write_bytes(broken)
        try:
            read = CompressedBag.load(tmp_path / "broken")
        except (Corrupt, BadInput):
            continue
        np.testing.assert_array_equal(read.predict_proba(texts), small.predict_proba(texts))  # padding
    for cut in (0, 5, 100, len(data) - 64):
        (tmp_path / "short").write_bytes(data[:cut])
        with pytest.raises(Corrupt, match="short"):
            load_classifier(tmp_path / "short")


def test_refusals(trained):
    for settings_, match in (
        ({"dim": 0}, "dim"), ({"epochs": 0}, "epochs"), ({"lr": 0}, "lr"), ({"word_ngrams": 0}, "word_ngrams"),
        ({"buckets": -1}, "buckets"), ({"hash": "md5"}, "hash"), ({"split": "x"}, "split"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            BagClassifier(**settings_)
    for texts, labels, match in (
        ("text", "label", "one string"), (["a"], ["x", "y"], "1 texts and 2 labels"), ([], [], "no texts"),
        (["a", "b"], ["x", "x"], "at least two labels"), (["a", 3], ["x", "y"], "text 1 is int"),
        (["a", "b"], ["x", ""], "text 1 has an empty label"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=match):
            BagClassifier().fit(texts, labels)
    with pytest.raises(BadInput, match="learnt nothing"):
        BagClassifier().predict(["a"])
    with pytest.raises(BadInput, match="one string"):
        trained.predict("a")
    with pytest.raises(BadInput, match="keep"):
        trained.compress(0)
    with pytest.raises(BadInput, match="cannot be fitted on 50 rows"):
        trained.compress(50)
    with pytest.raises(BadInput, match="dictionary"):
        trained.compress(300, dictionary="bloom")
    with pytest.raises(BadInput, match="pq must be"):
        trained.compress(300, pq="pq")
    with pytest.raises(BadInput, match="is none of"):
        trained.compress(300, texts=["a"], labels=["sky"])
    with pytest.raises(BadInput, match="at least one"):
        trained.evaluate([], [])
    with pytest.raises(BadInput, match="there is no"):
        load_classifier("/nonexistent")
    rows, head = np.full((2, 2), 1e30, dtype=np.float32), np.full((2, 2), np.nan, dtype=np.float32)
    one = np.array([0, 1]), np.array([0], dtype=np.int32), np.array([0], dtype=np.int32)
    with pytest.raises(BadInput, match="diverged"):
        descend(rows, head, *one, epochs=1, lr=1.0, seed=0)


def test_labelled_files(tmp_path):
    (tmp_path / "a.txt").write_text("__label__x one two\n\n__label__y three\n")
    assert read_labelled(tmp_path / "a.txt") == (["one two", "three"], ["x", "y"])
    (tmp_path / "a.jsonl").write_text('{"text": "one", "label": 3}\n')
    assert read_labelled(tmp_path / "a.jsonl") == (["one"], ["3"])
    (tmp_path / "a.tsv").write_text('label\ttitle\ttext\nx\t"q\tone\n')
    assert read_labelled(tmp_path / "a.tsv", text=["title", "text"]) == (['"q one'], ["x"])
    (tmp_path / "a.csv").write_text('label,text\nx,"one, two"\n')
    assert read_labelled(tmp_path / "a.csv") == (["one, two"], ["x"])
    for name, content, match in (
        ("b.txt", "no label here\n", "line 1"), ("b.jsonl", "{}\n", "line 1"), ("b.jsonl", "[\n", "line 1"),
        ("b.tsv", "a\tb\n", "column 'text'"), ("b.csv", "label,text\nx\n", "1 values under 2"),
        ("c.txt", "", "no labelled"),
        ("d.txt.gz", "x", "cannot be read"),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        with pytest.raises(BadInput, match=match):
            read_labelled(tmp_path / name)


def test_the_command(tmp_path):
    texts, labels = corpus(300)
    lines = "".join(f"__label__{label} {text}\n" for text, label in zip(texts, labels))
    (tmp_path / "train.txt").write_text(lines)

    def call(*words, **more):
        result = CliRunner().invoke(inlay, ["classify", *map(str, words)], catch_exceptions=False, **more)
        assert result.exit_code == 0, result.output
        return result.stdout

    facts = json.loads(call("train", tmp_path / "train.txt", tmp_path / "m", "--buckets", 2000, "--dim", 4, "--json"))
    assert facts["classes"] == ["land", "sea"]
    small = json.loads(
        call("compress", tmp_path / "m", tmp_path / "train.txt", tmp_path / "s", "--keep", 300, "--json")
    )
    assert small["bytes"] == (tmp_path / "s").stat().st_size < facts["bytes"]
    judged = json.loads(call("evaluate", tmp_path / "s", tmp_path / "train.txt", "--json"))
    assert judged["accuracy"] > 0.9
    assert "accuracy" in call("evaluate", tmp_path / "m", tmp_path / "train.txt")
    said = call("predict", tmp_path / "s", input="sea1 sea2 sea3\nland1 land2\n")
    assert [line.split("\t")[0] for line in said.splitlines()] == ["sea", "land"]
    both = json.loads(call("predict", tmp_path / "s", "-k", 2, "--json", input="sea1\n"))
    assert sum(both["scores"]) == pytest.approx(1, abs=1e-3)
    assert END not in said
