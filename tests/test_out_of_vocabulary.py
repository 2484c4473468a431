"""Vectors of unknown keys: the rules, step by step, and that nothing about them is left to chance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.words import KeyedVectors, Rules
from inlay.words.out_of_vocabulary import cut_runs, distances, hashed_vector, of_length_one, stemmed
from inlay.words.subword import EDGE, grams, number, postings

WORDS = (
    "the of and government hello hi discrimination discriminate discriminatory nation national international "
    "miss mississippi missing uber ubers stand standing letter better butter good goods hit"
).split()
DIM = 24


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((len(WORDS), DIM)).astype(np.float32)


def opened(path: Path, rows: np.ndarray, rules: Rules | None = None, **options) -> KeyedVectors:
    return KeyedVectors.write(path / "w.inlay", WORDS, rows, rules=rules, **options)


def of(kv: KeyedVectors, key: str) -> list[str]:
    return [name for name, _ in kv.similar_keys(key)]


@pytest.mark.parametrize(("text", "most", "cut"), [("hiiii", 1, "hi"), ("hiiii", 2, "hii"), ("good", 1, "god")])
def test_runs_are_cut(text, most, cut):
    assert cut_runs(text, most) == cut


def test_a_stem_loses_the_longer_affix_again_and_again_and_keeps_four_letters():
    assert stemmed("misunderstandings", Rules()) == "stand"
    assert stemmed("nations", Rules()) == "nation"
    assert len(stemmed("reading", Rules())) >= 4
    assert stemmed("ing", Rules()) == "ing"


@given(st.text(max_size=9), st.lists(st.text(max_size=9), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_edits_agree_with_the_textbook(asked, others):
    assert distances(asked, others).tolist() == [textbook(asked, other) for other in others]


def textbook(a: str, b: str) -> int:
    table = [[max(i, j) for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_posting_lists_hold_every_gram_of_every_key_once(keys):
    blocks = postings(keys, 3, 6)
    found = {}
    for i, value in enumerate(blocks["gram_numbers"].tolist()):
        low, high = blocks["gram_starts"][i : i + 2]
        found[value] = blocks["gram_rows"][low:high].tolist()
    expected: dict[int, list[int]] = {}
    for row, key in enumerate(keys):
        marked = f"{EDGE}{key.lower()}{EDGE}"
        for value in {number(gram) for n in range(3, 7) for gram in grams(marked, n)}:
            expected.setdefault(value, []).append(row)
    assert found == expected


def test_the_vector_is_three_tenths_hash_and_seven_tenths_similar_keys(tmp_path, rows):
    kv = opened(tmp_path, rows, Rules.magnitude())
    shares = kv.similar_keys("governmint")
    assert shares[0][0] == "government"
    assert len({share for _, share in shares}) == 1
    mean = of_length_one(np.mean([kv[name].astype(np.float64) for name, _ in shares], axis=0))
    expected = of_length_one(0.3 * hashed_vector("governmint", DIM, kv.rules) + 0.7 * mean)
    np.testing.assert_allclose(kv["governmint"], expected, atol=1e-6)


def test_held_down_letters_find_the_shortened_key(tmp_path, rows):
    for rules in (Rules(), Rules.magnitude()):
        kv = opened(tmp_path, rows, rules)
        assert of(kv, "hiiiiii") == ["hi"]
        assert of(kv, "gooooood") == ["good"]
        assert of(kv, "HIIIII") == ["hi"]  # similar keys are found whatever their case


def test_an_unknown_form_finds_its_stem(tmp_path, rows):
    kv = opened(tmp_path, rows, Rules.magnitude())
    assert stemmed("misstanding", kv.rules) == "stand"
    assert of(kv, "misstanding") == ["stand"]


def test_short_queries_prefer_first_and_last_letter_then_shorter_keys(tmp_path):
    words = ["xatz", "catty", "catta", "cata", "kcat"]
    kv = KeyedVectors.write(tmp_path / "s", words, np.eye(5, dtype=np.float32), rules=Rules.magnitude())
    # "catza" shares the 3-grams "cat" with all but the first; "cata" alone is no longer, begins and ends like it.
    assert of(kv, "catza")[0] == "cata"


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("goverment", "government"), ("lettre", "letter"), ("bettr", "better"), ("heello", "hello"), ("teh", "the")],
)
def test_misspellings_come_next_to_what_was_meant(tmp_path, rows, typo, meant):
    kv = opened(tmp_path, rows)
    assert of(kv, typo)[0] == meant
    assert kv.most_similar(typo, k=1)[0][0] == meant


@pytest.mark.parametrize("prior", [1.0, 0.0])
def test_earlier_keys_are_meant_more_often_unless_told_otherwise(tmp_path, prior):
    words = ["cart", "zzz", "yyy", "carp"]
    kv = KeyedVectors.write(tmp_path / "p", words, np.eye(4, dtype=np.float32), rules=Rules(prior=prior))
    shares = dict(kv.similar_keys("carq"))  # one edit from either
    assert shares["cart"] / shares["carp"] == pytest.approx(4**prior)
    assert of(kv, "carrp")[0] == "carp"  # a letter too many is half an edit, and no order outweighs that


def test_without_posting_lists_the_vector_is_only_a_hash(tmp_path, rows):
    kv = opened(tmp_path, rows, subword=None)
    assert of(kv, "governmint") == []
    np.testing.assert_allclose(kv["governmint"], hashed_vector("governmint", DIM, kv.rules), atol=1e-6)
    assert of(kv, "hiiii") == ["hi"]


def test_hashed_parts_of_like_spellings_are_alike_and_of_others_are_not():
    like = hashed_vector("discrimnatory", 300, Rules()) @ hashed_vector("discriminatory", 300, Rules())
    other = hashed_vector("discrimnatory", 300, Rules()) @ hashed_vector("butter", 300, Rules())
    assert like > 0.5 > abs(other)
    assert like < 1


def test_another_namespace_gives_other_hashes():
    a, b = hashed_vector("word", 300, Rules()), hashed_vector("word", 300, Rules(namespace="b"))
    assert abs(a @ b) < 0.3


def test_numbers_have_vectors_of_their_type_with_the_value_last(tmp_path, rows):
    kv = opened(tmp_path, rows)
    a, b, c = kv.query(7), kv.query(3_000_000), kv.query(7.0)
    np.testing.assert_array_equal(a[:-1], b[:-1])
    assert not np.array_equal(a[:-1], c[:-1])
    assert b[-1] == pytest.approx(3e6 / float(np.finfo(np.float32).max))
    for bad in (float("nan"), object(), {"a": 1}):
        with pytest.raises(BadInput):
            kv.query(bad)


def test_the_global_generator_is_not_touched(tmp_path, rows):
    kv = opened(tmp_path, rows)
    np.random.seed(5)  # noqa: NPY002 - the very generator that must stay as it is
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    kv["qwertzuiop"]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


ASK = """
import sys
from inlay.words import KeyedVectors
kv = KeyedVectors.open(sys.argv[1])
for key in ["goverment", "hiiii", "zzqx", "letterz", "ünïcode", "hello there"]:
    print(kv[key].tobytes().hex())
"""


def test_two_processes_give_the_same_bits(tmp_path, rows):
    opened(tmp_path, rows).close()
    outputs = {
        subprocess.run(
            [sys.executable, "-c", ASK, str(tmp_path / "w.inlay")],
            capture_output=True, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


def test_a_vector_made_today_is_made_the_same_way_tomorrow():
    # Frozen: were these numbers to change, vectors in the files of users would.
    found = hashed_vector("frozen", 4, Rules())
    np.testing.assert_allclose(found, FROZEN, atol=1e-12)


FROZEN = [0.27084971176033534, -0.32845544579994107, 0.860236324060261, 0.2806259441516319]


def test_rules_travel_with_the_file_and_strange_ones_are_refused(tmp_path, rows):
    rules = Rules(shortest=3, share=0.5, edits=0, namespace="mine", prefixes=("un",))
    assert opened(tmp_path, rows, rules).rules == rules
    assert Rules.from_dict(Rules().as_dict()) == Rules()
    with pytest.raises(Corrupt, match="version 2"):
        Rules.from_dict(Rules().as_dict() | {"version": 2})
    with pytest.raises(Corrupt, match="cannot be read"):
        Rules.from_dict({"version": 1, "unheard": 3})


@pytest.mark.parametrize("bad", [{"shortest": 4, "longest": 3}, {"share": 1.5}, {"similar": 0}, {"edits": -1.0}])
def test_impossible_rules(bad):
    with pytest.raises(BadInput):
        Rules(**bad)


def test_posting_lists_agree_with_and_without_the_compiler(monkeypatch):
    from inlay.words import subword

    keys = ["Ünïcode", "plain", "日本語テキスト", "a"]
    quick = postings(keys, 3, 6)
    monkeypatch.setattr("inlay.kernels.ngrams.compiled", lambda work: False)
    plain = subword.postings(keys, 3, 6)
    for name in plain:
        np.testing.assert_array_equal(quick[name], plain[name])
