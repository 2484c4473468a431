"""Fixed dimensional encodings against loops over tokens and buckets; their guarantee; the index over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs import ProductQuantiser
from inlay.codecs.ball_carving import carve
from inlay.codecs.muvera import MuveraFDE
from inlay.codecs.ragged import checked_ragged
from inlay.codecs.residual import ResidualTokens
from inlay.encoders.late_box import LateBox, _states
from inlay.errors import BadInput, Corrupt, InlayError, SpaceMismatch
from inlay.indexes import Flat
from inlay.indexes.coded import Coded
from inlay.indexes.multi_vector import MultiVector
from inlay.indexes.token_rows import TokenRows
from inlay.types import Index, Ragged


def bags_of(lengths, dim: int, seed: int = 0, shift: float = 0.0) -> Ragged:
    """Unit tokens, those of an item about three of forty themes; `shift` adds a common part."""
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths)
    themes = np.random.default_rng(99).standard_normal((40, dim)) * 1.5
    own = themes[rng.integers(40, size=(len(lengths), 3))]  # of each item
    tokens = int(lengths.sum())
    item = np.repeat(np.arange(len(lengths)), lengths)
    values = rng.standard_normal((tokens, dim)) + own[item, rng.integers(3, size=tokens)]
    values[:, 0] += shift
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return Ragged(values.astype(np.float32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def chamfer(query: np.ndarray, document: np.ndarray) -> float:
    return float((query.astype(float) @ document.T.astype(float)).max(axis=1).sum()) if len(document) else -np.inf


def truth_of(queries: Ragged, documents: Ragged) -> np.ndarray:
    return np.array([[chamfer(query, document) for document in documents] for query in queries])


def oracle(fde: MuveraFDE, bag: np.ndarray, document: bool) -> np.ndarray:
    """One item by the paper's words: a loop over repetitions, buckets and tokens."""
    parts = fde.arrays()
    tokens = around = bag.astype(np.float64)
    if fde.mean is not None:
        around = tokens - fde.mean
        tokens = around if document else tokens
    blocks = []
    for rep in range(fde.reps):
        bits = around @ parts["planes"][rep] > 0
        shown = tokens
        if "inner" in parts:
            shown = tokens @ parts["inner"][rep]
            if fde.projection == "signs":
                shown = shown / np.sqrt(fde.d_proj)
        for bucket in range(fde.buckets):
            wanted = [bool(bucket >> bit & 1) for bit in range(fde.k_sim)]
            inside = [t for t in range(len(tokens)) if bits[t].tolist() == wanted]
            if inside and document:
                blocks.append(np.mean([shown[t] for t in inside], axis=0))
            elif inside:
                blocks.append(np.sum([shown[t] for t in inside], axis=0))
            elif document and fde.fill and len(tokens):
                differing = [sum(a != b for a, b in zip(bits[t].tolist(), wanted)) for t in range(len(tokens))]
                blocks.append(shown[differing.index(min(differing))])
            else:
                blocks.append(np.zeros(fde.block))
    whole = np.concatenate(blocks)
    if fde.final is None:
        return whole
    last = parts["last"]
    if last.ndim == 2:
        return whole @ last / np.sqrt(fde.final)
    out = np.zeros(fde.final)
    for place, number in zip(last.tolist(), whole.tolist()):
        out[abs(place) - 1] += np.sign(place) * number
    return out


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_encodings_are_what_the_paper_says(data):
    dim = data.draw(st.integers(1, 9))
    fde = MuveraFDE(
        dim,
        reps=data.draw(st.integers(1, 3)),
        k_sim=data.draw(st.integers(0, 4)),
        d_proj=data.draw(st.sampled_from([None, 1, 4, dim])),
        final=data.draw(st.sampled_from([None, 7, 40])),
        projection=data.draw(st.sampled_from(["signs", "count-sketch"])),
        fill=data.draw(st.booleans()),
        center=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 9)),
    )
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    bags = bags_of(lengths + [3], dim, data.draw(st.integers(0, 99)), shift=1)
    fde.fit(bags)
    for document, made in ((True, fde.encode_document(bags)), (False, fde.encode_query(bags))):
        assert made.shape == (len(bags), fde.width)
        assert made.dtype == np.float32
        truth = np.stack([oracle(fde, bag, document) for bag in bags])
        np.testing.assert_allclose(made, truth, atol=2e-5)


def test_batches_do_not_matter(monkeypatch):
    bags = bags_of([3, 0, 8, 20, 0, 1, 5], 6)
    fde = MuveraFDE(6, reps=3, k_sim=3, d_proj=4, center=False)
    whole = fde.encode_document(bags)
    for name, value in (("TOKENS_AT_ONCE", 1), ("BLOCKS_AT_ONCE", 16), ("NUMBERS_AT_ONCE", 200)):
        with monkeypatch.context() as changed:
            changed.setattr(f"inlay.codecs.muvera.{name}", value)
            np.testing.assert_allclose(fde.encode_document(bags), whole, atol=1e-6)
    one_by_one = np.concatenate([fde.encode_document([bag]) for bag in bags])
    np.testing.assert_allclose(one_by_one, whole, atol=1e-6)


def test_an_empty_bucket_takes_the_nearest_token_and_of_equals_the_first():
    fde = MuveraFDE(3, reps=1, k_sim=3, d_proj=None, center=False)
    fde._planes = np.eye(3, dtype=np.float32)[None]
    tokens = np.array([[1, -1, -1], [-1, 1, -1], [-1, 1, -2]], dtype=np.float32)  # buckets 1, 2 and 2
    blocks = fde.encode_document([tokens])[0].reshape(8, 3)
    np.testing.assert_array_equal(blocks[1], tokens[0])
    np.testing.assert_array_equal(blocks[2], [-1, 1, -1.5])
    # Bucket 0 is one bit from tokens 0, 1 and 2; 3 too; 5 is nearest to token 0, 6 to token 1; 4 and 7 tie again.
    for bucket, token in ((0, 0), (3, 0), (5, 0), (6, 1), (4, 0), (7, 0)):
        np.testing.assert_array_equal(blocks[bucket], tokens[token])
    swapped = fde.encode_document([tokens[::-1]])[0].reshape(8, 3)
    np.testing.assert_array_equal(swapped[0], tokens[2])
    query = fde.encode_query([tokens])[0].reshape(8, 3)
    np.testing.assert_array_equal(query[[0, 3, 4, 5, 6, 7]], 0)
    np.testing.assert_array_equal(query[2], tokens[1] + tokens[2])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fill", [True, False])
def test_no_repetition_exceeds_chamfer(seed, fill):
    documents, queries = bags_of([1, 4, 30, 7, 12], 12, seed), bags_of([1, 5, 32], 12, seed + 100)
    fde = MuveraFDE(12, reps=6, k_sim=3, d_proj=None, center=False, seed=seed, fill=True)
    truth = truth_of(queries, documents)
    d = fde.encode_document(documents).reshape(5, 6, -1)
    q = fde.encode_query(queries).reshape(3, 6, -1)
    each = np.einsum("qrw,drw->rqd", q, d)
    assert (each <= truth + 1e-4).all()
    # A document of a single token leaves nothing to chance.
    np.testing.assert_allclose(each[:, :, 0], np.broadcast_to(truth[:, 0], (6, 3)), atol=1e-5)
    if not fill:
        # Summed documents break the bound: what it guards against can happen here.
        counts = np.diff(documents.offsets).max()
        assert (each * counts > truth + 1e-4).any()


@pytest.mark.parametrize("projection", ["signs", "count-sketch"])
@pytest.mark.parametrize("final", [False, True])
def test_projections_are_unbiased(projection, final):
    documents, queries = bags_of([9], 10, 1), bags_of([6], 10, 2)
    estimates = []
    for seed in range(400):
        fde = MuveraFDE(
            10, reps=1, k_sim=2, d_proj=None if final else 4, final=16 if final else None, projection=projection,
            center=False, seed=seed,
        )  # fmt: skip
        fde._planes = np.random.default_rng(7).standard_normal((1, 10, 2)).astype(np.float32)  # the same buckets
        estimates.append(float(fde.encode_query(queries)[0] @ fde.encode_document(documents)[0]))
    exact = MuveraFDE(10, reps=1, k_sim=2, d_proj=None, center=False)
    exact._planes = fde._planes
    truth = float(exact.encode_query(queries)[0] @ exact.encode_document(documents)[0])
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - truth) < 4 * error
    assert error < 0.3


def test_more_buckets_and_repetitions_come_nearer_to_chamfer():
    documents, queries = bags_of([20] * 60, 16, 3), bags_of([8] * 20, 16, 4)
    truth = truth_of(queries, documents)

    def agreement(**sizes) -> float:
        fde = MuveraFDE(16, center=False, **sizes)
        found = fde.encode_query(queries) @ fde.encode_document(documents).T
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(found, truth)]))

    small, middle = agreement(reps=2, k_sim=2, d_proj=4), agreement(reps=20, k_sim=4, d_proj=8)
    large = agreement(reps=40, k_sim=5, d_proj=None)
    assert small < middle < large
    assert large > 0.8


def test_centring_is_decided_by_how_lopsided_tokens_are():
    level, lopsided = bags_of([40, 60], 8, 5), bags_of([40, 60], 8, 5, shift=6)
    # Few themes have a mean of their own: a mirrored token for each takes it away.
    level = [np.concatenate([bag, -bag]) for bag in level]
    assert MuveraFDE(8).fit(level).mean is None
    assert MuveraFDE(8, center=True).fit(level).mean is not None
    assert MuveraFDE(8, center=False).fit(lopsided).mean is None
    fde = MuveraFDE(8).fit(lopsided)
    np.testing.assert_allclose(fde.mean, lopsided.values.mean(axis=0), atol=1e-6)
    assert (lopsided.values[:, 0] > 0.2).all()  # the caller's tokens are not touched


@pytest.mark.parametrize("seed", range(4))
def test_centred_encodings_approximate_chamfer_less_a_constant_of_the_query(seed):
    documents, queries = bags_of([1, 4, 30, 7, 12], 12, seed, shift=4), bags_of([1, 5, 32], 12, seed + 100, shift=4)
    fde = MuveraFDE(12, reps=6, k_sim=3, d_proj=None, seed=seed).fit(documents)
    assert fde.mean is not None
    constant = np.array([float((query @ fde.mean).sum()) for query in queries])
    each = np.einsum(
        "qrw,drw->rqd", fde.encode_query(queries).reshape(3, 6, -1), fde.encode_document(documents).reshape(5, 6, -1)
    )
    truth = truth_of(queries, documents) - constant[:, None]
    assert (each <= truth + 1e-4).all()
    np.testing.assert_allclose(each[:, :, 0], np.broadcast_to(truth[:, 0], (6, 3)), atol=1e-4)


def test_centring_finds_more_where_tokens_are_lopsided():
    documents, queries = bags_of([12] * 200, 16, 8, shift=20), bags_of([6] * 30, 16, 9, shift=20)
    truth = best_of(truth_of(queries, documents), 10)
    found = {}
    for center in (True, False):
        fde = MuveraFDE(16, k_sim=4, center=center).fit(documents)
        order = np.argsort(-(fde.encode_query(queries) @ fde.encode_document(documents).T), axis=1)[:, :30].tolist()
        found[center] = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(order, truth)]))
    assert found[True] > found[False] + 0.1


def test_seeds_decide_everything(tmp_path):
    bags = bags_of([4, 9, 2], 7, shift=2)
    for options in ({}, {"final": 30}, {"final": 30, "projection": "count-sketch"}, {"d_proj": None, "fill": False}):
        fde = MuveraFDE(7, reps=2, k_sim=3, **{"d_proj": 4} | options).fit(bags)
        again = MuveraFDE(7, reps=2, k_sim=3, **{"d_proj": 4} | options).fit(bags)
        other = MuveraFDE(7, reps=2, k_sim=3, seed=1, **{"d_proj": 4} | options).fit(bags)
        made = fde.encode_document(bags)
        np.testing.assert_array_equal(made, again.encode_document(bags))
        assert not np.allclose(made, other.encode_document(bags))
        loaded = MuveraFDE.load(fde.save(tmp_path / "fde"))
        assert repr(loaded) == repr(fde)
        np.testing.assert_array_equal(made, loaded.encode_document(bags))
        np.testing.assert_array_equal(fde.encode_query(bags), loaded.encode_query(bags))
    data, caught = (tmp_path / "fde").read_bytes(), 0
    for at in range(0, len(data), 97):
        (tmp_path / "fde").write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            read = MuveraFDE.load(tmp_path / "fde")
        except (Corrupt, BadInput):
            caught += 1
        else:  # only padding carries nothing
            np.testing.assert_array_equal(read.encode_document(bags), made)
    assert caught > len(data) // 97 // 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MuveraFDE(0), BadInput, "dim must be an integer of at least 1, got 0"),
        (lambda: MuveraFDE(4, reps=1.5), BadInput, "reps must be"),
        (lambda: MuveraFDE(4, d_proj=0), BadInput, "d_proj must be an integer of at least 1 or None"),
        (lambda: MuveraFDE(4, k_sim=13), BadInput, "from 0 to 12, got 13"),
        (lambda: MuveraFDE(4, projection="gauss"), BadInput, "gauss"),
        (lambda: MuveraFDE(4, center="yes"), BadInput, "center"),
        (lambda: MuveraFDE(4, fill=1), BadInput, "fill"),
        (lambda: MuveraFDE(4, seed=-1), BadInput, "seed"),
        (lambda: MuveraFDE(4).encode_query([np.ones((2, 4))]), BadInput, "call fit"),
        (lambda: MuveraFDE(4).fit([]), BadInput, "mean of no tokens"),
        (lambda: MuveraFDE(4).fit([np.ones((2, 5))]), SpaceMismatch, "4 dimensions, document 0 has 5"),
        (lambda: MuveraFDE(4).fit(np.ones((2, 4))), BadInput, "wrap one document in a list"),
        (lambda: MuveraFDE(4).fit([np.ones(4)]), BadInput, r"\[tokens, dim\], got shape \[4\]"),
        (lambda: MuveraFDE(4).fit(Ragged(np.ones((3, 5)), np.array([0, 3]))), SpaceMismatch, "documents have 5"),
        (lambda: MuveraFDE(4).fit(Ragged(np.ones((3, 4)), np.array([0, 2]))), BadInput, "number of vectors, 3"),
        (lambda: MuveraFDE(4).fit(Ragged(np.ones((3, 4)), np.array([0, 2, 1, 3]))), BadInput, "ascend"),
        (lambda: MuveraFDE(4).fit(Ragged(np.ones((3, 4)), np.array([0.0, 3]))), BadInput, "integers"),
        (lambda: MuveraFDE(4).fit([["a", "b"]]), BadInput, "not numbers"),
        (
            lambda: MuveraFDE(4).fit([np.ones((2, 4)), np.array([[1, 1, 1, 1], [1, np.nan, 1, 1.0]])]),
            BadInput,
            "document 1 holds NaN, or a number beyond float32, in its vector 1",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_lists_become_ragged():
    bags = checked_ragged([np.ones((2, 3)), np.empty((0, 3)), np.zeros((1, 3))])
    assert bags.offsets.tolist() == [0, 2, 2, 3]
    assert bags.values.dtype == np.float32
    assert len(checked_ragged([], 3)) == 0
    assert checked_ragged([], 3).values.shape == (0, 3)


DOCUMENTS, QUERIES = bags_of([12] * 80 + [0, 3, 1] + [7] * 30, 16, 6, shift=0.5), bags_of([5] * 9, 16, 7, shift=0.5)


def filled(tokens="float32", **options) -> MultiVector:
    index = MultiVector(MuveraFDE(16, reps=10, k_sim=3, d_proj=None), tokens=tokens, **options)
    index.add(DOCUMENTS)
    return index


def best_of(truth: np.ndarray, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in truth]


@pytest.mark.parametrize("tokens", ["float32", "float16", "int8"])
def test_as_many_candidates_as_documents_are_exact(tokens):
    index = filled(tokens)
    assert isinstance(index, Index)
    kept = [index.rows[i] for i in range(len(index))]
    truth = np.array([[chamfer(query, document) for document in kept] for query in QUERIES])
    found = index.search(QUERIES, 10, candidates=len(index))
    assert found.ids.dtype == np.int64
    np.testing.assert_allclose(found.scores, -np.sort(-truth, axis=1)[:, :10], rtol=1e-4)
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.ids, axis=1), rtol=1e-4)
    np.testing.assert_allclose(truth, truth_of(QUERIES, DOCUMENTS), atol=0.05 if tokens == "int8" else 0.005)


def test_candidates_find_most_of_the_truth_and_more_find_more():
    index = filled()
    truth = best_of(truth_of(QUERIES, DOCUMENTS), 10)
    recalls = []
    for candidates in (10, 30, 113):
        found = index.search(QUERIES, 10, candidates=candidates).ids
        recalls.append(float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth)])))
    assert recalls[0] < recalls[1] < recalls[2] == 1
    assert recalls[1] > 0.8  # 30 of 113 by chance: 0.27


def test_residual_and_product_codes_in_an_index():
    fde = MuveraFDE(16, reps=10, k_sim=3, d_proj=8).fit(DOCUMENTS)
    quantiser = ProductQuantiser(dsub=8, bits=5, iterations=5).fit(fde.encode_document(DOCUMENTS))
    codec = ResidualTokens(4, centroids=16).fit(DOCUMENTS.values)
    index = MultiVector(fde, index=Coded(quantiser), tokens=codec, candidates=40)
    index.add(DOCUMENTS)
    assert index.index.rows.shape == (len(index), 10 * 8 * 8 // 8 * 5 // 8)  # 80 parts of 5 bits
    truth = best_of(truth_of(QUERIES, DOCUMENTS), 10)
    found = index.search(QUERIES, 10).ids.tolist()
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth)]) > 0.6
    scores = index.rows.score(QUERIES[0], np.array([3, 80]))
    np.testing.assert_allclose(scores, [chamfer(QUERIES[0], index.rows[3]), -np.inf], rtol=1e-4)


def test_masks_deleted_and_empty_documents_are_never_found():
    index = filled(candidates=20)
    rng = np.random.default_rng(0)
    allow = rng.random(len(index)) < 0.5
    gone = rng.choice(len(index), 30, replace=False)
    before = index.search(QUERIES, 5, candidates=500)
    assert 80 not in index.search(QUERIES, 113, candidates=500).ids  # it has no tokens
    index.delete(gone)
    index.delete([])
    for mask in (None, allow):
        for candidates in (20, 500):
            found = index.search(QUERIES, 112, allow=mask, candidates=candidates)
            ids = found.ids[found.ids >= 0]
            assert not np.isin(ids, gone).any()
            assert 80 not in ids
            left = np.setdiff1d(np.arange(len(index)) if mask is None else np.flatnonzero(mask), [*gone, 80])
            assert (np.sort(found.ids[0][found.ids[0] >= 0]) == left).all()
            assert np.isneginf(found.scores[found.ids < 0]).all()
    # Documents that come later take ids behind the deleted ones, and those that stay keep theirs.
    index.add([QUERIES[0]])
    found = index.search(QUERIES, 5, candidates=500)
    assert found.ids[0, 0] == 113
    np.testing.assert_allclose(found.scores[0, 0], 5, rtol=1e-4)
    for row, old in zip(found.ids[1:].tolist(), before.ids[1:].tolist()):
        assert [i for i in row if i != 113][:2] == [i for i in old if i not in gone][:2] or len(
            set(old) - set(gone)
        ) < 2
    index.delete(np.arange(len(index)))
    assert (index.search(QUERIES, 3).ids == -1).all()


def test_ties_go_to_the_lower_id():
    index = MultiVector(MuveraFDE(3, reps=2, k_sim=2, center=False), candidates=3)
    index.add([np.eye(3)[[0]]] * 6)
    assert index.search(np.eye(3)[[0]], 8, candidates=6).ids.tolist() == [[0, 1, 2, 3, 4, 5, -1, -1]]
    assert index.search([np.empty((0, 3))], 2).ids.tolist() == [[0, 1]]  # a query without tokens: 0 with everyone
    assert index.search([], 2).ids.shape == (0, 2)


def test_carving_scores_groups():
    index = filled(carve=0.5)
    query = np.repeat(QUERIES[0], 2, axis=0)
    groups = carve(query, 0.5)
    assert len(groups) < len(query)
    found = index.search(query, 4, candidates=200)
    truth = np.array([[chamfer(groups, document) for document in DOCUMENTS]])
    assert found.ids.tolist() == best_of(truth, 4)
    np.testing.assert_allclose(found.scores[0], -np.sort(-truth[0])[:4], rtol=1e-4)
    plain = index.search(query, 4, candidates=200, carve=9.0)
    np.testing.assert_allclose(plain.scores, filled().search(query, 4, candidates=200).scores, rtol=1e-5)


@pytest.mark.parametrize("tokens", ["float32", "int8", "residual"])
@pytest.mark.parametrize("inner", ["flat", "coded"])
def test_save_and_load(tmp_path, tokens, inner):
    if tokens == "residual":
        tokens = ResidualTokens(2, centroids=8).fit(DOCUMENTS.values)
    fde = MuveraFDE(16, reps=4, k_sim=3).fit(DOCUMENTS)
    over = None
    if inner == "coded":
        over = Coded(ProductQuantiser(dsub=16, bits=4, iterations=3).fit(fde.encode_document(DOCUMENTS)))
    index = MultiVector(fde, index=over, tokens=tokens, candidates=30, carve=0.8)
    index.add(DOCUMENTS)
    index.delete([4, 5])
    index.save(tmp_path / "multi.index")
    again = MultiVector.load(tmp_path / "multi.index", index=Coded if inner == "coded" else None)
    assert repr(again) == repr(index)
    assert again.nbytes == index.nbytes
    for a, b in zip(index.search(QUERIES, 7), again.search(QUERIES, 7)):
        np.testing.assert_array_equal(a, b)
    again.add([QUERIES[1]])
    assert again.search(QUERIES[1], 1).ids.tolist() == [[113]]
    again.delete(0)

    data = bytearray((tmp_path / "multi.index").read_bytes())
    for at in range(len(data) // 3, len(data), len(data) // 7):
        broken = data.copy()
        broken[at] ^= 16
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(Corrupt):
            MultiVector.load(tmp_path / "broken", index=Coded if inner == "coded" else None)


def test_an_index_of_another_class_is_handed_over(tmp_path):
    class Mine(Flat):
        pass

    index = MultiVector(MuveraFDE(16), index=Mine(5120, metric="dot"))
    index.add(DOCUMENTS)
    index.save(tmp_path / "mine")
    with pytest.raises(BadInput, match="class Mine, which is not inlay's; give index=Mine"):
        MultiVector.load(tmp_path / "mine")
    with pytest.raises(BadInput, match="class Mine, got Flat"):
        MultiVector.load(tmp_path / "mine", index=Flat)
    assert len(MultiVector.load(tmp_path / "mine", index=Mine)) == len(index)


def test_a_refused_document_leaves_the_index_as_it_was():
    index = filled("float16")
    bad = bags_of([3, 2], 16)
    bad.values[4, 0] = 1e6
    before = index.search(QUERIES, 5)
    with pytest.raises(BadInput, match="65504"):
        index.add(bad)
    assert len(index) == len(index.index) == len(index.rows) == 113
    np.testing.assert_array_equal(index.search(QUERIES, 5).ids, before.ids)


def test_many_adds_equal_one():
    one, many = filled("int8"), MultiVector(MuveraFDE(16, reps=10, k_sim=3, d_proj=None).fit(DOCUMENTS), tokens="int8")
    assert many.search(QUERIES, 2).ids.tolist() == [[-1, -1]] * 9
    many.add([])
    for low, high in ((0, 1), (1, 60), (60, 60), (60, 113)):
        many.add([DOCUMENTS[i] for i in range(low, high)])
    assert len(many) == 113
    assert many.nbytes == one.nbytes
    for a, b in zip(one.search(QUERIES, 9, candidates=30), many.search(QUERIES, 9, candidates=30)):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.add([np.ones((2, 3))]), SpaceMismatch, "16 dimensions, document 0 has 3"),
        (lambda i: i.search(np.ones((2, 3)), 1), SpaceMismatch, "query 0 has 3"),
        (lambda i: i.search(np.ones(16), 1), BadInput, r"got shape \[16\]"),
        (lambda i: i.search(np.full((1, 16), np.nan), 1), BadInput, "query 0 holds NaN"),
        (lambda i: i.search(np.ones((1, 16)), 0), BadInput, "k must be"),
        (lambda i: i.search(np.ones((1, 16)), 1, candidates=0), BadInput, "candidates must be"),
        (lambda i: i.search(np.ones((1, 16)), 1, carve="a"), BadInput, "tau"),
        (lambda i: i.search(np.ones((1, 16)), 1, allow=np.ones(3, bool)), BadInput, r"allow must be bool \[113\]"),
        (lambda i: i.delete(113), BadInput, "from 0 to 112"),
        (lambda i: i.delete([-1]), BadInput, "from 0 to 112"),
        (lambda i: i.delete([0.5]), BadInput, "integers"),
        (lambda i: MultiVector(i), BadInput, "MuveraFDE, got MultiVector"),
        (lambda i: MultiVector(i.fde, index=Flat(7, metric="dot")), BadInput, "640|numbers compared by dot"),
        (lambda i: MultiVector(i.fde, index=Flat(i.fde.width)), BadInput, "compared by dot product"),
        (lambda i: MultiVector(i.fde, index=i.index), BadInput, "must still be empty"),
        (lambda i: MultiVector(i.fde, index=3), BadInput, "got int"),
        (lambda i: MultiVector(i.fde, tokens="int4"), BadInput, "int4"),
        (lambda i: MultiVector(i.fde, candidates=True), BadInput, "candidates"),
        (lambda i: TokenRows(7, ResidualTokens(centroids=2).fit(np.eye(4))), BadInput, "4 dimensions, the index has 7"),
        (lambda i: MultiVector.load("/nonexistent/multi"), BadInput, "there is no multi-vector index"),
        (lambda i: Coded(3), BadInput, "ProductQuantiser, got int"),
    ],
)
def test_bad_input_of_an_index_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(filled())
    assert issubclass(error, InlayError)


def test_coded_rows_are_scored_as_they_decode(tmp_path):
    rng = np.random.default_rng(1)
    rows, queries = rng.standard_normal((90, 10)).astype(np.float32), rng.standard_normal((4, 10)).astype(np.float32)
    index = Coded(ProductQuantiser(parts=5, bits=4, iterations=4).fit(rows))
    assert index.search(queries, 2).ids.tolist() == [[-1, -1]] * 4
    for part in (rows[:1], rows[1:50], rows[50:]):
        index.add(part)
    decoded = index.codec.decode(index.rows)
    allow = rng.random(90) < 0.5
    for mask in (None, allow):
        truth = queries @ decoded.T
        truth[:, ~(np.ones(90, bool) if mask is None else mask)] = -np.inf
        found = index.search(queries, 7, allow=mask)
        np.testing.assert_allclose(found.scores, -np.sort(-truth, axis=1)[:, :7], rtol=1e-4, atol=1e-5)
    index.save(tmp_path / "coded")
    again = Coded.load(tmp_path / "coded")
    assert again.nbytes == index.nbytes
    np.testing.assert_array_equal(again.search(queries, 9).ids, index.search(queries, 9).ids)


TEXTS = ["A bird in the hand", "", "Wings of a slender aircraft at high speed, seen from below.", "\x00", "wind"]


@pytest.mark.parametrize("context", [True, False])
def test_the_boxed_model_token_by_token(context):
    encoder = LateBox(context=context)
    bags = encoder.encode_document(TEXTS)
    assert encoder.space.kind == "multi"
    assert bags.values.shape[1] == encoder.space.dim
    assert np.diff(bags.offsets).tolist() == [
        0 if ids is None else len(ids) - 2 for ids in map(encoder._box._tokens, TEXTS)
    ]
    np.testing.assert_allclose(np.linalg.norm(bags.values, axis=1), 1, rtol=1e-5)
    # A text has the same vectors whatever stands beside it.
    for text, bag in zip(TEXTS, bags):
        np.testing.assert_allclose(encoder.encode_query([text], batch_size=1)[0], bag, atol=1e-5)
    assert len(encoder.encode_document([])) == 0
    assert encoder.encode_document([]).values.shape == (0, encoder.space.dim)
    same = [encoder.encode_query([text])[0] for text in ("hand wind", "wind hand")]
    assert np.allclose(same[0][1], same[1][0]) == (not context)


def test_means_of_token_states_are_what_box_averages():
    encoder = LateBox()
    ids = encoder._box._tokens(TEXTS[2])
    states = _states(encoder._network, [ids])
    np.testing.assert_allclose(states.mean(axis=0), encoder._box._network([ids])[0], atol=1e-5)
    vectors = encoder.encode_document([TEXTS[2]])[0]
    truth = states[1:-1] / np.linalg.norm(states[1:-1], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, truth, atol=1e-5)


def test_late_box_refuses():
    with pytest.raises(BadInput, match="context must be True or False"):
        LateBox(context=1)
    with pytest.raises(BadInput, match="list of texts"):
        LateBox(context=False).encode_query("one")
