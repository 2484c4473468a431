"""The parts that reproductions of geometry, likeness and choice of encoders are made of, on small made data."""

from __future__ import annotations

import gzip
from types import SimpleNamespace

import numpy as np
import pytest

from inlay.errors import BadInput
from inlay.evaluation.encoder_report import Correlation
from inlay.evaluation.measures import Difference
from inlay.reproductions import names
from inlay.reproductions.evaluation import _text_rows, compass, model_similarity, redundancy
from inlay.reproductions.evaluation._text_rows import Utterances, lsa, tfidf, utterances

pytest.importorskip("sklearn")
pytest.importorskip("torch")

WORDS = ["card", "cash", "rate", "fee", "pin", "app", "bank", "sum"]


def made(classes=8, each=12, seed=0):
    """Utterances of a word that names the class among words that do not."""
    draw = np.random.default_rng(seed)
    texts = [f"{WORDS[c]} {' '.join(draw.choice(list('abcdefghij'), 4))}x" for c in range(classes) for _ in range(each)]
    labels = np.repeat(np.arange(classes), each)
    side = np.arange(len(texts)) % 3 == 0
    return Utterances(
        [t for t, s in zip(texts, side) if not s], [t for t, s in zip(texts, side) if s], labels[~side], labels[side]
    )


def test_they_are_found_by_name():
    assert {"redundancy", "model-similarity", "compass"} <= set(names())


def test_utterances_are_once_and_never_on_both_sides(tmp_path):
    lines = ["split\tlabel\ttext", "test\tb\tShared text", "train\ta\tshared text", "train\ta\tone", "train\ta\tone",
             "test\tb\ttwo", "val\tb\tthree"]  # fmt: skip
    (tmp_path / "classification").mkdir()
    (tmp_path / "classification" / "few.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    found = utterances(tmp_path, "few")
    assert (found.train, found.test) == (["shared text", "one"], ["two"])
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([0, 0], [1])
    with pytest.raises(BadInput, match="there is no"):
        utterances(tmp_path, "none")


def test_rows_without_weights_are_unit_rows_of_their_first_list():
    said = made()
    for rows in (lsa(5, said.train, said.test), tfidf(said.train, said.test), tfidf(said.train, characters=True)):
        lengths = np.linalg.norm(rows[0], axis=1)
        assert np.allclose(lengths[lengths > 0], 1, atol=1e-5)
    assert np.linalg.norm(lsa(5, said.train, ["zzzz"])[1]) == 0


def test_without_its_package_minilm_is_left_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _text_rows.minilm(["a text"]) is None


# --- redundancy -------------------------------------------------------------------------------------------------------


def test_sentences_are_long_enough_and_no_headings(tmp_path):
    text = "= Title with many words that is a heading =\nThis sentence has more than enough words in it . Short one . "
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "wikitext2_valid.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert redundancy._sentences(tmp_path) == ["This sentence has more than enough words in it"]
    with pytest.raises(BadInput, match="there is no"):
        redundancy._sentences(tmp_path / "none")


def test_the_measures_are_right_on_made_rows():
    worst, ball, line, forms = redundancy._made((0,))
    assert worst < 0.15
    assert ball > 0.95
    assert line < 1e-6
    assert forms < 1e-9


def test_training_on_classes_lowers_dimension_and_flattens_the_curve(monkeypatch):
    monkeypatch.setattr(redundancy, "WIDTH", 16)
    said = made(each=30)
    draw = np.random.default_rng(1)
    plain = [
        (np.eye(16)[labels] + 0.35 * draw.standard_normal((len(labels), 16))).astype(np.float32)
        for labels in (said.train_labels, said.test_labels, said.test_labels)
    ]
    shapes = {}
    for name, rows in (("plain", plain), ("trained", redundancy._head(plain, said, 0, steps=150))):
        shapes[name] = redundancy._space(redundancy._turned(rows, 0), said, ("first",), (4, 8))
    assert shapes["trained"].shape.two_nn < shapes["plain"].shape.two_nn
    assert shapes["trained"].curve.retained("first", 4) > shapes["plain"].curve.retained("first", 4)
    still = redundancy._head(plain, said, 0, steps=0)
    assert not np.allclose(still[0], plain[0])


def test_the_verdict_on_redundancy_follows_the_figures():
    right = (0.1, 0.99, 0.0, 1e-12)

    def space(dimension, score, general=None):
        shape = SimpleNamespace(two_nn=dimension, iso_score=score)
        return redundancy.Space(shape, general or shape, None)

    spaces = {"LSA": [space(20, 0.3)] * 2, "trained": [space(10, 0.1)] * 2}
    flat, steep = dict.fromkeys((8, 16, 32), 0.9), dict.fromkeys((8, 16, 32), 0.5)
    assert redundancy._held(right, spaces, {"LSA": steep, "trained": flat}, 0.6) == (True,) * 4
    assert redundancy._held((0.16, *right[1:]), spaces, {"LSA": steep, "trained": flat}, 0.6)[0] is False
    worse = {**spaces, "trained": [space(10, 0.1), space(10, 0.31)]}
    assert redundancy._held(right, worse, {"LSA": steep, "trained": flat}, 0.6)[1] is False
    general = SimpleNamespace(two_nn=21, iso_score=0.1)
    worse = {**spaces, "trained": [space(10, 0.1), space(10, 0.1, general)]}
    assert redundancy._held(right, worse, {"LSA": steep, "trained": flat}, 0.6)[1] is False
    assert redundancy._held(right, spaces, {"LSA": steep, "trained": {**flat, 16: 0.5}}, 0.6)[2] is False
    assert redundancy._held(right, spaces, {"LSA": steep, "trained": flat}, 0.81)[3] is False
    assert redundancy._held(right, spaces, {"LSA": steep, "trained": {**flat, 32: 0.55}}, 0.6)[3] is False


def test_turning_changes_no_product():
    rows = [np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)]
    turned = redundancy._turned(rows, 3)
    np.testing.assert_allclose(turned[0] @ turned[0].T, rows[0] @ rows[0].T, atol=1e-5)


# --- likeness ---------------------------------------------------------------------------------------------------------


def test_copies_are_as_far_as_they_should_be():
    draw = np.random.default_rng(2)
    base = tuple(draw.standard_normal((n, 32)).astype(np.float32) for n in (300, 20))
    rows = {model_similarity.BASE: base, **model_similarity._copies(base, 0)}
    likeness = model_similarity._likeness({name: own[0] for name, own in rows.items()})
    lists = {name: model_similarity.result_lists(q, d, 100) for name, (d, q) in rows.items()}
    found = {
        name: model_similarity._agreement(likeness, lists, model_similarity.BASE, name)
        for name in model_similarity.COPIES
    }
    assert found["turned copy"]["Jaccard@10"] == found["turned copy"]["RankSim@10"] == 1
    assert 0.9 < found["8-bit copy"]["CKA"] < 1
    assert found["shuffled"]["Jaccard@10"] < 0.1
    plain, debiased = model_similarity._shuffled(base[0], 0)
    assert plain > 0.05 > abs(debiased)


def test_the_verdict_on_likeness_follows_the_figures():
    values = [1.0, 0.97, 0.8, 0.7, 0.6, 0.1]
    to_base = {
        name: dict.fromkeys(("CKA", "Jaccard@10", "RankSim@10"), value)
        for name, value in zip(model_similarity.ORDER, values)
    }
    between = {"a – b": {"CKA": 0.8, "Jaccard@10": 0.5}, "a – c": {"CKA": 0.6, "Jaccard@10": 0.4}}
    floors = [(0.13, 0.001), (0.14, -0.002)]
    assert model_similarity._held(to_base, between, floors) == (True,) * 4
    swapped = {**to_base, "tf-idf": {**to_base["tf-idf"], "RankSim@10": 0.65}}
    assert model_similarity._held(swapped, between, floors)[0] is False
    turned = {**to_base, "turned copy": dict.fromkeys(("CKA", "Jaccard@10", "RankSim@10"), 0.99)}
    assert model_similarity._held(turned, between, floors)[0] is False
    close = {**between, "b – c": {"CKA": 0.6, "Jaccard@10": 0.51}}
    assert model_similarity._held(to_base, close, floors)[1] is False
    assert model_similarity._held(to_base, between, [*floors, (0.04, 0.0)])[2] is False
    assert model_similarity._held(to_base, between, [*floors, (0.1, 0.03)])[3] is False


def test_eight_bits_keep_few_values():
    rows = np.random.default_rng(3).standard_normal((50, 8)).astype(np.float32)
    import torch

    stored = torch.from_numpy(rows).to(torch.float8_e4m3fn)
    assert stored.element_size() == 1
    np.testing.assert_allclose(
        model_similarity._eight_bits(rows), redundancy.normalise(stored.float().numpy()), atol=1e-6
    )
    normal = np.abs(rows) >= 2**-6  # smaller ones are subnormal, in steps of 2⁻⁹
    assert np.abs(stored.float().numpy() / rows - 1)[normal].max() < 0.0626  # half a step of three bits


def test_a_matrix_of_pairs_is_symmetric():
    pairs = {"a – b": {"J": 0.5}, "a – c": {"J": 0.2}, "b – c": {"J": 0.1}}
    found = model_similarity._matrix(["a", "b", "c"], pairs, "J")
    np.testing.assert_array_equal(found, [[1, 0.5, 0.2], [0.5, 1, 0.1], [0.2, 0.1, 1]])


# --- compass ----------------------------------------------------------------------------------------------------------


def test_coverage_is_counted(monkeypatch):
    monkeypatch.setattr(compass, "TRIALS", 100)
    assert 0.87 <= compass._coverage(0) <= 1
    monkeypatch.setattr(compass, "SHARE", 2.0)  # no sample reaches it
    assert compass._coverage(0) == 0


def test_the_verdict_on_choice_follows_the_figures():
    def linked(overlap, isotropy):
        return {"overlap C/R": Correlation(overlap, 0.1), "iso_score": Correlation(isotropy, 0.1)}

    gains = [Difference(0.1, 0.05, 0.15, 0.001)]
    good, bad = linked(-0.9, 0.4), linked(-0.3, 0.4)
    assert compass._held(0.96, gains, good, good) == (True, True, True)
    assert compass._held(0.92, gains, good, good) == (False, True, True)
    assert compass._held(0.95, [*gains, Difference(0.1, -0.01, 0.2, 0.1)], good, good) == (True, False, True)
    assert compass._held(0.95, gains, good, bad) == compass._held(0.95, gains, bad, good) == (True, True, False)


def test_a_map_learnt_from_pairs_brings_classes_together():
    draw = np.random.default_rng(4)
    labels = np.repeat(np.arange(6), 30)
    noise = draw.standard_normal((180, 24)) * np.r_[np.full(6, 0.3), np.full(18, 0.6)]
    rows = redundancy.normalise(np.eye(24)[labels] + noise)
    pairs = [np.flatnonzero(labels == one)[:20] for one in range(6)]
    left = np.array([i for own in range(6) for i in np.flatnonzero(labels == own)[20:]])

    def gap(values):
        same = labels[left][:, None] == labels[left]
        scores = values[left] @ values[left].T
        return scores[same].mean() - scores[~same].mean()

    tuned = compass._tuned([rows, rows[:3]], pairs, 0, steps=200)
    assert gap(tuned[0]) > gap(rows) + 0.04
    np.testing.assert_allclose(tuned[1], tuned[0][:3], atol=1e-6)
    untouched = compass._tuned([rows], pairs, 0, steps=0)[0]
    np.testing.assert_allclose(untouched, rows, atol=1e-6)  # it starts at the identity
