"""Records: blocking against brute force, losses against their formula, and a hash that learns what n-grams cannot."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.encoders.numen import Numen
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.records.blocking import block, nearest_pairs
from inlay.records.candidates import Candidates, candidate_report, checked_pairs
from inlay.records.clustering import clusters
from inlay.records.explanation import Explainer
from inlay.records.min_hash import MinHash
from inlay.records.record_grams import RecordGrams, number_of
from inlay.records.serialisation import Serialised, serialise
from inlay.records.shared_keys import pairs_by_key
from inlay.records.token_blocking import TokenBlocking
from inlay.records.tokenised import token_sets
from inlay.types import Sparse

SHOP = [
    {"name": "sony cyber-shot camera dsch50b", "price": "329.00"},
    {"name": "panasonic cordless phone kxtg9343t", "price": "79.00"},
    {"name": "lg dishwasher lds4821ww", "price": "700"},
    {"name": "canon ink cartridge 0628b002", "price": None},
]
OTHER = [
    {"name": "LG dish washer LDS4821WW white", "price": "699.99"},
    {"name": "dsch50b sony digital camera", "price": ""},
    {"name": "panasonic phone kx-tg9343t", "price": 81.5},
]
TRUE = [(0, 1), (1, 2), (2, 0)]


# --- records as text ------------------------------------------------------------------------------------------------


def test_a_record_is_one_text():
    record = {"name": "a  b\nc", "price": None, "stock": float("nan"), "n": 0}
    assert serialise(record) == "[COL] name [VAL] a b c [COL] price [VAL] [COL] stock [VAL] [COL] n [VAL] 0"
    assert serialise(record, ["n", "gone"]) == "[COL] n [VAL] 0 [COL] gone [VAL]"


def test_both_tables_are_read_in_the_same_order():
    reader = Serialised(Numen(512))
    rows = reader.encode([{"a": "x", "b": "y"}])
    assert reader.columns == ("a", "b")
    assert np.array_equal(rows, reader.encode([{"b": "y", "a": "x"}]))
    assert reader.space == Numen(512).space


@pytest.mark.parametrize(
    ("records", "message"),
    [("text", "expected a list of records"), ([{"a": 1}, 3], "record 1 is int"), ([{1: "a"}], "names of attributes")],
)
def test_what_is_no_record_is_refused(records, message):
    for read in (RecordGrams().fit, MinHash().signatures, Serialised(Numen(8)).encode):
        with pytest.raises(BadInput, match=message):
            read(records)


# --- n-grams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("19.99", 19.99), ("$1,299.00", 1299), ("€ 5", 5), ("12 kg", 12), (".5", 0.5), ("0", None), ("-3", None)]
    + [("a b", None), ("kx12", 12), ("1 2", None), ("", None), ("12 pieces", None)],
)
def test_numbers_are_seen(text, number):
    assert number_of(text) == number or (text == "kx12" and number_of(text) in (12, None))


def test_grams_are_the_cosine_of_weighted_ngrams():
    grams = RecordGrams(4096, word_share=0).fit(SHOP + OTHER)
    rows = grams.encode(SHOP).toarray()
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    texts = [" ".join(str(v) for v in (r["name"], r["price"]) if v) for r in SHOP + OTHER]
    df = np.bincount(Numen(4096).counts(texts).indices, minlength=4096)
    alone = Numen(4096, weights=(1, 1, 1), idf=np.log1p(len(texts) / df.clip(1))).encode_document(texts[:4])
    assert rows @ rows.T == pytest.approx(alone @ alone.T, abs=1e-5)


def test_columns_and_numbers_have_their_shares():
    grams = RecordGrams(1024, column_share=0.5, word_share=0, number_share=0.2).fit(SHOP + OTHER)
    assert grams.numbers == ("price",)
    assert grams.width == 3 * 1024 + 512
    rows = grams.encode([{"name": "sony", "price": p} for p in ("100", "104", "109", "121", "90000")]).toarray()
    sizes = rows[:, 3 * 1024 :]
    assert (sizes**2).sum(axis=1) == pytest.approx(np.full(5, 0.2), abs=1e-5)
    near = sizes @ sizes[0]
    assert near[0] > near[1] > near[2] > near[3] == near[4] == 0
    swapped = grams.encode([{"name": "500", "price": "sony"}, {"name": "sony", "price": "500"}]).toarray()
    whole = swapped[:, :1024] / np.linalg.norm(swapped[:, :1024], axis=1, keepdims=True)
    assert whole[0] == pytest.approx(whole[1])  # the whole does not know columns, columns do
    assert not np.allclose(swapped[0, 1024 : 3 * 1024], swapped[1, 1024 : 3 * 1024])


def test_words_are_whole_and_codes_apart():
    grams = RecordGrams(4096, word_share=0.5).fit(SHOP + OTHER)
    assert grams.kinds == [4096] * 3
    rows = grams.encode(
        [{"name": name} for name in ("KX-TG9343T phone", "kxtg9343t", "kxtg9344t", "phone 99")]
    ).toarray()
    plain, codes = rows[:, 4096:8192], rows[:, 8192:]
    assert (plain**2).sum(axis=1) == pytest.approx([0.25, 0, 0, 0.25], abs=1e-5)
    # Without other words, codes are a quarter of three quarters.
    assert codes @ codes[0] == pytest.approx([0.25, 0.25 / 0.75**0.5, 0, 0], abs=1e-5)
    assert rows[1, :4096] @ rows[2, :4096] > 0.1  # n-grams are not so strict


def test_a_record_without_values_is_near_nothing():
    grams = RecordGrams(256).fit(SHOP)
    assert len(grams.encode([{"name": None}, {}]).data) == 0
    assert len(block(grams, [{"name": ""}], SHOP, 3)) == 0


def test_grams_come_back_from_their_state():
    grams = RecordGrams(512, column_share=0.3, word_share=0.2).fit(SHOP)
    again = RecordGrams.of_state(*grams.state())
    assert again.space == grams.space
    assert again.space != RecordGrams(512, column_share=0.3, word_share=0.2).fit(OTHER).space
    assert np.array_equal(again.encode(OTHER).toarray(), grams.encode(OTHER).toarray())
    assert grams.nbytes == 5 * 512 * 4
    assert "column_share=0.3" in repr(grams)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column_share": 1}, "column_share must be a number from 0 to below 1"),
        ({"column_share": 0.7, "number_share": 0.7}, "add up to 1.7"),
        ({"columns": "name"}, r"write \['name'\]"),
        ({"columns": []}, "distinct names, at least one"),
        ({"dim": 0}, "dim must be"),
    ],
)
def test_bad_grams(arguments, message):
    with pytest.raises(BadInput, match=message):
        RecordGrams(**arguments)


def test_grams_want_records_first():
    with pytest.raises(BadInput, match="call fit"):
        RecordGrams().encode(SHOP)
    with pytest.raises(BadInput, match="no records"):
        RecordGrams().fit([])


# --- pairs ----------------------------------------------------------------------------------------------------------

keys = st.lists(st.integers(0, 6), max_size=20)


@given(keys, keys, st.one_of(st.none(), st.integers(1, 12)))
def test_pairs_by_key_are_all_of_them(left, right, most):
    at, other, makes = pairs_by_key(np.array(left, np.uint64), np.array(right, np.uint64), most)
    wanted = [
        (i, j) for i, a in enumerate(left) for j, b in enumerate(right)
        if a == b and (most is None or left.count(a) * right.count(a) <= most)
    ]  # fmt: skip
    assert sorted(zip(at.tolist(), other.tolist())) == wanted
    assert makes.tolist() == [left.count(left[i]) * right.count(left[i]) for i in at]


def test_too_many_pairs_are_refused_before_they_are_made():
    with pytest.raises(BadInput, match="commonest key alone makes 400,000,000"):
        pairs_by_key(np.zeros(20_000, np.int64), np.zeros(20_000, np.int64))


words = st.lists(st.sampled_from(["red", "blue", "tv", "x1", "sony", "of"]), max_size=5).map(" ".join)
tables = st.lists(words.map(lambda text: {"t": text}), max_size=8)


@given(tables, st.one_of(st.none(), tables), st.integers(1, 3))
@settings(deadline=None)
def test_token_blocking_is_what_it_says(a, b, least):
    found = {(i, j): score for i, j, score in TokenBlocking(1000, least).block(a, b)}
    left, right = ([set(r["t"].split()) for r in table] for table in (a, a if b is None else b))
    wanted = {}
    for (i, one), (j, other) in itertools.product(enumerate(left), enumerate(right)):
        if (b is not None or i < j) and len(one & other) >= least:
            wanted[i, j] = sum(1 / (sum(w in x for x in left) * sum(w in x for x in right)) for w in one & other)
    assert found == pytest.approx(wanted)


def test_common_tokens_are_left_out():
    table = [{"t": f"the item{i // 2}"} for i in range(20)]
    assert {(a, b) for a, b, _ in TokenBlocking(399).block(table)} == {(i, i + 1) for i in range(0, 20, 2)}
    assert len(TokenBlocking(400).block(table)) == 190


def test_min_hash_estimates_jaccard():
    rng = np.random.default_rng(0)
    base = [f"w{i}" for i in range(40)]
    for shared in (10, 25, 38):
        pair = [{"t": " ".join([*base[:shared], *(f"{side}{i}" for i in range(40 - shared))])} for side in "ab"]
        rng.shuffle(pair)
        signatures = MinHash(1024, 1024).signatures(pair)
        assert (signatures[0] == signatures[1]).mean() == pytest.approx(shared / (80 - shared), abs=0.05)


def test_min_hash_finds_pairs_that_share_a_band():
    table = [{"t": f"alpha beta gamma delta n{i // 2}"} for i in range(8)] + [{"t": ""}, {"t": ""}]
    method = MinHash(64, 32, seed=3)
    rows = method.signatures(table)
    found = {(a, b): score for a, b, score in method.block(table)}
    for a, b in itertools.combinations(range(10), 2):
        shares = a < 8 and b < 8 and (rows[a] == rows[b]).reshape(32, 2).all(axis=1).any()
        assert ((a, b) in found) == bool(shares)
        if shares:
            assert found[a, b] == pytest.approx((rows[a] == rows[b]).mean())
    assert all(found[i, i + 1] == 1 for i in range(0, 8, 2))
    assert {(a, b) for a, b, _ in method.block(table[:4], table[:4])} >= {(i, i) for i in range(4)}


def test_tokens_are_words_or_runs():
    assert len(token_sets([{"a": "Red red, TV"}], None, None).keys) == 2
    assert len(token_sets([{"a": "abc", "b": "d"}], None, 3).keys) == 3  # abc, bc_, c_d
    assert len(token_sets([{"a": "ab"}, {"a": ""}], ["a"], 3).keys) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinHash(64, 48), "cannot be cut into 48 equal bands"),
        (lambda: MinHash(0), "permutations must be an integer of 1 or more"),
        (lambda: MinHash(grams=0), "grams must be None"),
        (lambda: MinHash(seed=-1), "seed"),
        (lambda: TokenBlocking(0), "max_pairs must be a positive integer"),
        (lambda: TokenBlocking(min_shared=True), "min_shared"),
        (lambda: block(RecordGrams(), SHOP, OTHER, 0), "k must be a positive integer"),
        (lambda: block("numen", SHOP), "needs an encoder"),
        (lambda: Serialised(3), "encoder of dense or sparse rows"),
    ],
)
def test_bad_blocking(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize("how", [RecordGrams(2048), TokenBlocking(), Numen(2048), MinHash(64, 64, grams=3)])
def test_every_way_finds_the_same_shop(how):
    found = block(how, SHOP, OTHER, 1)
    assert {(a, b) for a, b, _ in found} >= set(TRUE)
    assert candidate_report(found, TRUE).completeness == 1


@given(st.integers(0, 12), st.integers(1, 6), st.booleans(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_nearest_pairs_are_those_of_brute_force(n, k, sparse, seed):
    rng = np.random.default_rng(seed)
    rows = (rng.integers(0, 3, (n, 5)) * (rng.random((n, 5)) < 0.7)).astype(np.float32)
    found = nearest_pairs(Sparse.from_dense(rows) if sparse else rows, None, k)
    scores, wanted = rows @ rows.T, set()
    for i in range(n):
        near = [
            j for j in np.argsort(-scores[i], kind="stable").tolist() if j != i and (not sparse or scores[i, j] > 0)
        ]
        wanted |= {(min(i, j), max(i, j)) for j in near[:k]}
    got = {(a, b) for a, b, _ in found}
    assert got == wanted
    assert all(scores[a, b] == pytest.approx(score) for a, b, score in found)
    assert (np.diff(found.scores) <= 0).all()


def test_equal_records_are_all_found_within_a_table():
    """A record need not be its own nearest where others are equal to it."""
    table = [{"t": "the very same thing"}] * 4 + [{"t": "another one here"}] * 2
    assert {(a, b) for a, b, _ in block(RecordGrams(512), table, k=3)} >= {
        *itertools.combinations(range(4), 2), (4, 5)
    }  # fmt: skip


def test_candidates_are_cut_as_asked():
    one = Candidates(np.array([0, 0, 0, 1]), np.array([2, 1, 3, 0]), np.array([0.5, 0.9, 0.1, 0.7]))
    assert [(a, b) for a, b, _ in one] == [(0, 1), (1, 0), (0, 2), (0, 3)]
    assert [(a, b) for a, b, _ in one.nearest(1)] == [(0, 1), (1, 0)]
    assert len(one.at_least(0.5)) == 3
    assert len(Candidates.within(one.left, one.right, one.scores)) == 3
    assert "4 pairs" in repr(one)


def test_the_report_counts():
    found = Candidates(np.array([0, 1, 2, 2]), np.array([1, 2, 0, 1]), np.ones(4))
    assert candidate_report(found, TRUE) == pytest.approx((1, 0.75, 6 / 7, 4, 3))
    assert candidate_report(found, [(1, 0), (0, 3)], within=True) == pytest.approx((0.5, 0.25, 1 / 3, 4, 2))
    assert candidate_report(found.best(0), TRUE).f1 == 0
    with pytest.raises(BadInput, match="no matches"):
        candidate_report(found, [])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([(0, 1), (2,)], r"pair of row numbers \(i, j\), got \(2,\)"), ([(0, 9)], r"match \(0, 9\) names a row")]
    + [([("a", 1)], "got"), ([(-1, 0)], "names a row"), ([(0.5, 1)], "got")],
)
def test_bad_pairs(pairs, message):
    with pytest.raises(BadInput, match=message):
        checked_pairs(pairs, "match", (3, 3))


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
def test_clusters_are_the_connected_parts(n, pairs):
    pairs = [(a % n, b % n) for a, b in pairs]
    reach = np.eye(n, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(n):
        reach = reach @ reach
    wanted = {tuple(np.flatnonzero(row).tolist()) for row in reach if row.sum() > 1}
    found = clusters(n, pairs)
    assert {tuple(group) for group in found} == wanted
    assert found == sorted(found)


def test_reasons_name_what_is_rare():
    explain = Explainer(SHOP + OTHER, ["name", "price"])
    reason = explain(SHOP[0], {"name": "a SONY camera dsch50b", "price": " 329.00 "})
    assert reason.same == ["price"]
    assert reason.differs == ["name"]
    assert set(reason.shared) >= {"sony", "camera", "dsch50b"}
    with pytest.raises(BadInput, match="names a row"):
        clusters(2, [(0, 5)])


# --- the hash -------------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")

from inlay.records.hash_losses import LOSSES, info_nce_loss, nlsh_loss, triplet_loss  # noqa: E402
from inlay.records.known_pairs import Labels, RuleLabels  # noqa: E402
from inlay.records.neural_lsh import NeuralLSH  # noqa: E402

YES, NONE = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)


def one(near, far, **more):
    """p at 0, q at `near`, r at `far` on a line."""
    p, q, r = (torch.tensor([[float(x), 0.0]], requires_grad=True) for x in (0, near, far))
    return p, q, r, nlsh_loss(p, q, r[None], YES, NONE, more.get("radius", 1.0), more.get("c", 3.0))


@pytest.mark.parametrize(("near", "far"), [(0.5, 5), (2, 5), (0.5, 2), (2, 2.5)])
def test_the_loss_is_the_published_one(near, far):
    *_, loss = one(near, far)
    assert loss.item() == pytest.approx(max(1, near) - min(3, far), abs=1e-5)


def test_the_hinges_rest_separately():
    """A triplet margin that is met gives no gradient at all; these hinges do, each for itself."""
    _, q, r, loss = one(2, 20)
    loss.backward()
    assert q.grad.abs().sum() > 0
    assert r.grad.abs().sum() == 0
    _, q, r, loss = one(0.5, 2)
    loss.backward()
    assert q.grad.abs().sum() == 0
    assert r.grad.abs().sum() > 0
    p, q, r = (torch.tensor([[float(x), 0.0]], requires_grad=True) for x in (0, 2, 20))
    triplet_loss(p, q, r[None], YES, NONE, 1.0, 3.0).backward()
    assert q.grad.abs().sum() == 0


def test_losses_leave_out_what_is_masked():
    rng = torch.Generator().manual_seed(0)
    p, q = (torch.randn(4, 6, generator=rng) for _ in range(2))
    r, own = torch.randn(4, 3, 6, generator=rng), torch.zeros(4, 3, dtype=torch.bool)
    own[:, 0] = True
    others = ~torch.eye(4, dtype=torch.bool)
    for name, loss in LOSSES.items():
        before = loss(p, q, r, own, others, 1.0, 1.4)
        r2 = r.clone()
        r2[:, 1:] = 99
        assert loss(p, q, r2, own, others, 1.0, 1.4) == before, name
        assert torch.isfinite(loss(p, q, r, own & False, others & False, 1.0, 1.4))
    cosine = torch.nn.functional.cosine_similarity(p[:, None], q[None], dim=-1) / 0.05
    wanted = torch.nn.functional.cross_entropy(cosine, torch.arange(4))
    assert info_nce_loss(p, q, r, own & False, others, 1.0, 1.4) == pytest.approx(float(wanted), rel=1e-5)


def products(count, seed=0, first=0):
    """Two tables of the same things, by their code of digits; by a tag of letters each is like another thing."""
    rng = np.random.default_rng(seed)
    tags = ["".join(rng.choice(list("abcd"), 10)) for _ in range(count + 1)]
    codes = [f"{i * 7919 % 100000:05d}" for i in range(first, first + count)]
    left = [{"name": f"{tag} offer x{code}"} for tag, code in zip(tags, codes)]
    return left, [{"name": f"x{code} offer {tag}"} for tag, code in zip(tags[1:], codes)]


SMALL = {"out": 256, "epochs": 8, "batch": 32, "lr": 0.05}


def grams():
    return RecordGrams(8192, word_share=0)


def test_it_learns_what_counts_and_it_counts_elsewhere():
    left, right = products(150)
    held, among = products(80, seed=1, first=1000)
    truth = [(i, i) for i in range(80)]
    reader = grams().fit([*left, *right])
    learnt = NeuralLSH(reader, **SMALL).fit(left, [(i, i) for i in range(150)], other=right)
    before = candidate_report(block(reader, held, among, 1), truth).completeness
    after = candidate_report(block(learnt, held, among, 1), truth).completeness
    assert after > 0.9 > before + 0.4
    assert learnt.losses[-1] < learnt.losses[0]
    hashes = learnt.encode(held)
    assert hashes.dtype == np.float32
    assert np.linalg.norm(hashes, axis=1) == pytest.approx(np.ones(80), abs=1e-4)
    assert learnt.space.metric == "l2"


def test_a_rule_teaches_it_and_finds_more_on_the_way():
    left, right = products(60)
    table = left + right
    asked = []

    def rule(a, b):
        asked.append((a["name"], b["name"]))
        return re.findall(r"x\d+", a["name"]) == re.findall(r"x\d+", b["name"])

    learnt = NeuralLSH(grams(), **SMALL).fit(table, rule=rule)
    assert len(asked) == len(set(asked))  # asked once about each pair
    held = list(itertools.chain(*products(40, seed=1, first=1000)))
    found = block(learnt, held, k=1)
    assert candidate_report(found, [(i, i + 40) for i in range(40)], within=True).completeness > 0.8


def test_a_rule_is_asked_with_the_first_table_first():
    left, right = products(20)
    left, right = ([{**r, "side": side} for r in t] for t, side in ((left, "a"), (right, "b")))

    def rule(a, b):
        assert (a["side"], b["side"]) == ("a", "b")
        return a["name"].split()[-1] == b["name"].split()[0]  # the code comes last in the first table

    NeuralLSH(grams(), out=64, epochs=1).fit(left, rule=rule, other=right)


def test_unlabelled_records_are_no_non_matches():
    """Row 3 has no match among the labels: whether it is one of row 0 is not known."""
    labels = Labels(6, np.array([[0, 1], [4, 5]]), np.array([[0, 3]]))
    near = np.array([[1, 3, 4, -1, 5]])
    assert labels.consider(np.array([0]), near).tolist() == [[False, False, True, False, True]]
    assert labels.non_matches == {0: [3], 3: [0]}


def test_rule_labels_grow():
    records = [{"v": v} for v in (1, 1, 2, 1)]
    known = RuleLabels(records, np.zeros(4, np.int8), lambda a, b: a["v"] == b["v"], np.array([[0, 1], [0, 2]]))
    assert known.matches.tolist() == [[0, 1]]
    assert known.consider(np.array([0]), np.array([[3, 2, 0, -1]])).tolist() == [[False, True, False, False]]
    assert known.matches.tolist() == [[0, 1], [0, 3]]
    assert known.group.tolist() == [0, 0, 2, 0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("unit", [True, False])
def test_it_survives_its_file(tmp_path, loss, unit):
    left, right = products(20)
    c = 1.4 if unit else 3.0
    learnt = NeuralLSH(grams(), out=32, epochs=2, loss=loss, unit=unit, c=c, seed=1)
    learnt.fit(left, [(i, i) for i in range(20)], other=right, non_matches=[(0, 1), (2, 5)])
    learnt.save(tmp_path / "hash")
    again = NeuralLSH.load(tmp_path / "hash")
    assert again.settings == learnt.settings
    assert again.space == learnt.space
    assert np.array_equal(again.encode(right), learnt.encode(right))
    assert again.nbytes == learnt.nbytes > 0


def test_it_stands_on_any_encoder_of_texts(tmp_path):
    left, right = products(30)
    learnt = NeuralLSH(Numen(512), out=16, hidden=8, epochs=2).fit(left, [(i, i) for i in range(30)], other=right)
    assert learnt.encode(left).shape == (30, 16)
    learnt.save(tmp_path / "hash")
    again = NeuralLSH.load(tmp_path / "hash", Numen(512))
    assert np.array_equal(again.encode(left), learnt.encode(left))
    with pytest.raises(BadInput, match="give that encoder"):
        NeuralLSH.load(tmp_path / "hash")
    with pytest.raises(SpaceMismatch, match="stands on numen"):
        NeuralLSH.load(tmp_path / "hash", Numen(256))


def test_the_same_seed_learns_the_same():
    left, right = products(20)
    rows = [
        NeuralLSH(grams(), out=32, epochs=2, seed=seed).fit(left, [(i, i) for i in range(20)], other=right).encode(left)
        for seed in (4, 4)
    ]
    assert np.array_equal(*rows)


def test_a_damaged_file_is_refused(tmp_path):
    left, right = products(10)
    path = tmp_path / "hash"
    NeuralLSH(grams(), out=16, epochs=1).fit(left, [(0, 0), (1, 1)], other=right).save(path)
    raw = path.read_bytes()
    for at in (20, len(raw) // 2, len(raw) - 40):
        bad = bytearray(raw)
        bad[at] ^= 64
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            NeuralLSH.load(path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Corrupt):
        NeuralLSH.load(path)
    with pytest.raises(BadInput, match="there is no neural hash"):
        NeuralLSH.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": 0}, "out must be an integer of 1 or more, got 0"),
        ({"batch": 1}, "batch must be"),
        ({"radius": 0}, "radius must be a number above 0"),
        ({"c": 1}, "c must be a number above 1"),
        ({"c": 2.0}, "hardly ever farther apart than √2"),
        ({"loss": "hinge"}, "loss must be one of nlsh"),
        ({"encoder": "box"}, "learns on RecordGrams"),
        ({"lr": -1}, "lr must be"),
    ],
)
def test_bad_hashes(arguments, message):
    with pytest.raises(BadInput, match=message):
        NeuralLSH(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of them"),
        ({"matches": [(0, 1)], "rule": lambda a, b: True}, "give one of them"),
        ({"matches": []}, "no matches"),
        ({"matches": [(0, 9)]}, "names a row that is not there"),
        ({"rule": lambda a, b: False}, "calls none of the"),
        ({"rule": lambda a, b: a["gone"]}, "the rule fails on records"),
    ],
)
def test_bad_lessons(arguments, message):
    with pytest.raises(BadInput, match=message):
        NeuralLSH(grams(), epochs=1).fit(SHOP, **arguments)


def test_nothing_learnt_is_nothing_to_use(tmp_path):
    fresh = NeuralLSH()
    for use in (lambda: fresh.encode(SHOP), lambda: fresh.save(tmp_path / "x")):
        with pytest.raises(BadInput, match="has learnt nothing"):
            use()
    assert "radius=1.0" in repr(fresh)


# --- what the reproduction counts on --------------------------------------------------------------------------------


def test_cuts_are_chosen_on_one_split_and_judged_on_another():
    from inlay.reproductions.records._cuts import measured
    from inlay.reproductions.records._entity_tables import Judged

    class Fixed:
        """Scores by the number in `s`."""

        def block(self, a, b):
            pairs = [(i, j, float(r["s"][j])) for i, r in enumerate(a) for j in range(len(b))]
            return Candidates(*(np.array(x) for x in zip(*pairs)))

    valid = Judged([{"s": [3, 2, 0]}, {"s": [2, 3, 0]}], [{}] * 3, [(0, 0), (1, 0)])
    test = Judged([{"s": [3, 2, 0]}, {"s": [0, 1, 3]}], [{}] * 3, [(0, 0), (1, 0)])
    found = measured(Fixed(), valid, test)
    assert found.by_k == pytest.approx((0.5, 0.25, 1 / 3, 4, 2))  # k = 2 was complete on validation
    assert found.by_both == pytest.approx((0.5, 1 / 3, 0.4, 3, 2))  # and a least score of 2: here that leaves 3
    assert found.completeness[:3] == [0.5, 0.5, 1.0]


def test_products_by_rule_are_as_described():
    from inlay.reproductions.records._entity_tables import Tables
    from inlay.reproductions.records._product_rule import model_of, product_rule, rule_tables

    left = [
        {"name": f"sony tv {i} black model kx-{i}99{i}b", "description": "big", "price": f"{50 + i}"} for i in range(20)
    ]
    judged = rule_tables(Tables(left, left, {}, {}))
    assert [len(judged[s].asking) for s in ("train", "valid", "test")] == [72, 24, 24]
    models = [{model_of(r["name"]) for r in one.asking} for one in judged.values()]
    assert not models[0] & models[1] | models[0] & models[2] | models[1] & models[2]
    for one in judged.values():
        brute = [
            (a, b) for a, b in itertools.combinations(range(len(one.asking)), 2)
            if product_rule(one.asking[a], one.asking[b])
        ]  # fmt: skip
        assert sorted(one.matches) == brute
        assert len(brute) >= 3 * len(one.asking) // 6
