"""BiDR's parts: batches against what they must hold, heads and codes against their formulas, two stages against one."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from inlay.codecs.rotation import OptimisedProduct  # noqa: E402
from inlay.errors import BadInput, Corrupt, SpaceMismatch  # noqa: E402
from inlay.indexes.coded import Coded  # noqa: E402
from inlay.indexes.flat import Flat  # noqa: E402
from inlay.indexes.two_stage import TwoStage  # noqa: E402
from inlay.kernels.dense import normalise  # noqa: E402
from inlay.training.contrastive_product import ContrastivePQ, straight_through  # noqa: E402
from inlay.training.dense_head import DenseHead, contrast, learn  # noqa: E402
from inlay.training.index_negatives import mined_lists  # noqa: E402
from inlay.training.locality_batches import LocalityBatches, Positives, RandomBatches  # noqa: E402
from inlay.types import Index  # noqa: E402


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def one_each(count, documents=None):
    """Query i is answered by document i."""
    return Positives(np.stack([np.arange(count)] * 2, axis=1), count, documents)


def hidden_task(rng, n=300, dim=32, told=8, spread=0.5):
    """Pairs that agree in a few dimensions and differ in the others, by which rows seem far apart."""
    meant = rng.standard_normal((n, told))
    rows = [
        np.hstack([meant + spread * rng.standard_normal((n, told)), 1.2 * rng.standard_normal((n, dim - told))])
        for _ in range(2)
    ]
    return [normalise(one) for one in rows]


def reached(queries, documents, k=10):
    """Share of queries i that find document i among their k nearest."""
    near = np.argsort(-(queries @ documents.T), axis=1)[:, :k]
    return float((near == np.arange(len(queries))[:, None]).any(axis=1).mean())


# --- positives and batches --------------------------------------------------------------------------------------------


@st.composite
def judged(draw):
    queries, documents = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    cell = st.tuples(st.integers(0, queries - 1), st.integers(0, documents - 1))
    pairs = draw(st.lists(cell, min_size=1, max_size=20))
    asked = draw(st.lists(st.integers(0, queries - 1), max_size=8))
    told = draw(st.lists(st.integers(0, documents - 1), max_size=10))
    return queries, documents, pairs, np.array(asked, dtype=np.int64), np.array(told, dtype=np.int64)


@given(judged())
@settings(deadline=None, max_examples=80)
def test_known_is_what_the_pairs_say(case):
    queries, documents, pairs, asked, told = case
    positives = Positives(np.array(pairs), queries, documents)
    wanted = np.array([[(q, d) in set(pairs) for d in told.tolist()] for q in asked.tolist()], dtype=bool)
    assert np.array_equal(positives.known(asked, told), wanted.reshape(len(asked), len(told)))
    assert len(positives) == len(set(pairs))
    assert positives.asked.tolist() == sorted({q for q, _ in pairs})
    for query in range(queries):
        assert positives[query].tolist() == sorted({d for q, d in pairs if q == query})


@pytest.mark.parametrize(
    ("pairs", "counts", "message"),
    [
        (np.zeros((0, 2), int), {}, "n at least 1"),
        (np.zeros((2, 3), int), {}, r"pairs of integers \[n, 2\]"),
        (np.zeros((2, 2)), {}, "pairs of integers"),
        (np.array([[0, -1]]), {}, "begin at 0, got -1"),
        (np.array([[3, 0]]), {"queries": 3}, "number 3 of 3 queries"),
        (np.array([[0, 9]]), {"documents": 5}, "number 9 of 5 documents"),
    ],
)
def test_bad_positives(pairs, counts, message):
    with pytest.raises(BadInput, match=message):
        Positives(pairs, **counts)


def all_batches(kind, positives, lists, **options):
    make = RandomBatches if kind in ("random", "hard") else LocalityBatches
    options |= {} if make is RandomBatches else {"walk": kind}
    return make(positives, None if kind == "random" else lists, **options)


@pytest.mark.parametrize("kind", ["random", "hard", "snowball", "random_walk"])
@pytest.mark.parametrize("negatives", [1, 3])
def test_an_epoch_has_every_query_once_and_masks_what_answers(rng, kind, negatives):
    pairs = np.stack([rng.integers(0, 90, 200), rng.integers(0, 60, 200)], axis=1)
    positives = Positives(pairs, 100, 60)
    lists = np.array([rng.permutation(60)[:20] for _ in range(100)])
    lists[positives.known(np.arange(100), np.arange(60))[np.arange(100)[:, None], lists]] = -1
    batches = all_batches(kind, positives, lists, size=16, negatives=negatives, seed=1)
    seen, epoch = [], list(batches.epoch())
    assert len(epoch) == len(batches)
    for queries, documents, keep in epoch:
        size = len(queries)
        assert documents.shape == (size * (1 + negatives),)
        assert keep.shape == (size, len(documents))
        known = positives.known(queries, documents)
        own = np.zeros_like(known)
        own[np.arange(size), np.arange(size)] = True
        assert known[own].all(), "document i answers query i"
        assert np.array_equal(keep, own | ~known)
        if kind != "random":
            for query, given_ in zip(queries, documents[size:].reshape(size, negatives)):
                assert np.isin(given_, lists[query][lists[query] >= 0]).mean() >= (1 if kind == "hard" else 0)
        seen.extend(queries.tolist())
    assert sorted(seen) == positives.asked.tolist()
    again = all_batches(kind, positives, lists, size=16, negatives=negatives, seed=1)
    assert all(np.array_equal(a.documents, b.documents) for a, b in zip(epoch, again.epoch(), strict=True))


def test_positives_are_drawn_in_turn(rng):
    positives = Positives(np.array([[0, 0], [0, 1], [0, 2], [1, 3]]))
    drawn = {int(b.documents[b.queries.tolist().index(0)]) for _ in range(60) for b in RandomBatches(
        positives, size=2, seed=int(rng.integers(1 << 30))
    ).epoch()}  # fmt: skip
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("walk", ["snowball", "random_walk"])
def test_batches_follow_the_walk(rng, walk):
    """Each next query is one of those that the container would give: of the oldest group that waits, or the newest."""
    n, size = 120, 24
    positives = one_each(n, 2 * n)
    lists = rng.integers(n, 2 * n, (n, 6))
    linked = {document: {q for q in range(n) if document in lists[q]} for document in range(n, 2 * n)}
    jumps = 0
    for _ in range(3):
        left = set(range(n))
        for queries, documents, _ in LocalityBatches(positives, lists, walk=walk, size=size).epoch():
            groups: deque[set[int]] = deque()
            for query, negative in zip(queries.tolist(), documents[len(queries) :].tolist()):
                while groups and not groups[0 if walk == "snowball" else -1] & left:
                    groups.popleft() if walk == "snowball" else groups.pop()
                if groups:
                    assert query in groups[0 if walk == "snowball" else -1]
                else:
                    jumps += 1
                left.discard(query)
                groups.append(linked.get(negative, set()) & left)
        assert not left
    assert jumps < n, "most queries are reached by links"


def test_a_batch_is_a_neighbourhood(rng):
    """Two sets of queries without a candidate in common: no batch of random walks mixes them, random batches do."""
    n = 200
    positives = one_each(n, 3 * n)
    side = np.arange(n) % 2
    lists = n + side[:, None] * n + rng.integers(0, n // 4, (n, 12))
    mixed = {}
    for kind in ("hard", "snowball", "random_walk"):
        epoch = all_batches(kind, positives, lists, size=20).epoch()
        mixed[kind] = np.mean([len(set(side[b.queries])) == 2 for b in epoch])
    assert mixed["hard"] == 1
    assert mixed["snowball"] == mixed["random_walk"] == 0


def test_negatives_of_a_neighbourhood_are_not_repeated(rng):
    n = 64
    positives = one_each(n, 2 * n)
    lists = np.array([n + rng.permutation(n) for _ in range(n)])
    for batch in LocalityBatches(positives, lists, size=32).epoch():
        negatives = batch.documents[len(batch.queries) :]
        assert len(set(negatives.tolist())) == len(negatives)


def test_links_may_come_from_other_ranks():
    positives = one_each(4, 8)
    lists = np.array([[4], [5], [6], [7]])  # alone, nobody shares a negative
    links = np.array([[7], [4], [5], [6]])  # 0's negative leads to 1, 1's to 2, 2's to 3, 3's to 0
    (batch,) = LocalityBatches(positives, lists, links=links, size=4).epoch()
    assert (np.diff(batch.queries) % 4 == 1).all()


def test_where_lists_have_too_few_documents_others_come(rng):
    positives = one_each(30, 50)
    lists = np.full((30, 3), -1)
    lists[::2, 1] = 40
    for kind in ("hard", "snowball"):
        for batch in all_batches(kind, positives, lists, size=10, negatives=2).epoch():
            assert len(batch.documents) == 30
            assert ((batch.documents >= 0) & (batch.documents < 50)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: RandomBatches(p, size=0), "size must be an integer of 1 or more"),
        (lambda p: RandomBatches(p, negatives=-1), "negatives must be"),
        (lambda p: RandomBatches(p, np.zeros((3, 2), int)), r"lists must be integers \[4, width\]"),
        (lambda p: RandomBatches(p, np.full((4, 2), 9)), "lists name document 9; documents are 0 to 3"),
        (lambda p: RandomBatches(p, np.full((4, 2), -2)), "lists name document -2"),
        (lambda p: LocalityBatches(p, None), "give lists"),
        (lambda p: LocalityBatches(p, np.zeros((4, 1), int), negatives=0), "at least one negative"),
        (lambda p: LocalityBatches(p, np.zeros((4, 1), int), walk="hop"), "walk must be one of snowball, random_walk"),
        (lambda p: LocalityBatches(p, np.zeros((4, 1), int), links=np.zeros((4, 1))), "links must be integers"),
    ],
)
def test_bad_batches(make, message):
    with pytest.raises(BadInput, match=message):
        make(one_each(4))


# --- negatives from an index ------------------------------------------------------------------------------------------


def test_mined_lists_are_what_the_index_finds_less_the_answers(rng):
    queries, documents = rng.standard_normal((40, 8)).astype(np.float32), rng.standard_normal((90, 8))
    positives = Positives(np.stack([rng.integers(0, 40, 120), rng.integers(0, 90, 120)], axis=1), 40, 90)
    index = Flat(8, metric="dot")
    index.add(documents)
    lists = mined_lists(index, queries, positives, ranks=(2, 30))
    order = np.argsort(-(queries @ np.float32(documents).T), axis=1)[:, 2:30]
    for query, found in enumerate(lists):
        wanted = [d for d in order[query] if d not in positives[query]]
        assert found[: len(wanted)].tolist() == wanted
        assert (found[len(wanted) :] == -1).all()


def test_bad_mining(rng):
    index = Flat(4, metric="dot")
    index.add(rng.standard_normal((9, 4)))
    queries = rng.standard_normal((4, 4))
    with pytest.raises(BadInput, match="there are 3 query rows and positives of 4"):
        mined_lists(index, queries[:3], one_each(4))
    with pytest.raises(BadInput, match="ranks must be"):
        mined_lists(index, queries, one_each(4), ranks=(5, 5))
    with pytest.raises(BadInput, match="but there are 4 documents"):
        mined_lists(index, queries, one_each(4))


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_head_begins_as_the_identity_and_gives_unit_rows(rng):
    rows = normalise(rng.standard_normal((50, 16)))
    head = DenseHead(16, shared=False)
    assert head.query(rows) == pytest.approx(rows, abs=1e-6)
    assert head.document(rows) == pytest.approx(rows, abs=1e-6)
    assert np.linalg.norm(head.query(3 * rows), axis=1) == pytest.approx(np.ones(50), abs=1e-5)


def test_the_loss_is_cross_entropy_over_the_cells_that_count(rng):
    scores = rng.standard_normal((3, 5)).astype(np.float32)
    keep = rng.random((3, 5)) < 0.5
    keep[np.arange(3), np.arange(3)] = True
    wanted = np.mean([
        np.log(np.exp(scores[i][keep[i]] / 0.5).sum()) - scores[i, i] / 0.5 for i in range(3)
    ])  # fmt: skip
    assert float(contrast(torch.from_numpy(scores), keep, 0.5)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_training_finds_what_pairs_agree_in(rng, shared):
    queries, documents = hidden_task(rng)
    head = DenseHead(32, shared=shared)
    maps = sum(one.numel() for one in head.parameters())
    assert (head.of_query is head.of_document) == shared
    assert head.nbytes == 4 * maps == 4 * (1 if shared else 2) * 2 * (32 * 32 + 32)
    before = reached(queries[200:], documents[200:])
    head.fit(queries[:200], documents[:200], RandomBatches(one_each(200), size=50), epochs=30, rate=5e-3)
    after = reached(head.query(queries[200:]), head.document(documents[200:]))
    assert after > before + 0.2


def test_the_judge_decides_which_epoch_is_kept(rng):
    queries, documents = hidden_task(rng, 100)
    marks = iter([0.1, 0.5, 0.9, 0.2])
    head, states = DenseHead(32), []

    def judge():
        states.append(head.query(queries))
        return next(marks)

    head.fit(queries, documents, RandomBatches(one_each(100), size=50), epochs=3, rate=1e-2, judge=judge)
    assert np.array_equal(head.query(queries), states[2])
    assert not np.array_equal(states[2], states[3])


def test_bad_heads(rng):
    rows = normalise(rng.standard_normal((6, 8)))
    batches = RandomBatches(one_each(6), size=3)
    for options, message in (
        ({"dim": 0}, "dim must be a positive integer"),
        ({"dim": 8, "hidden": 1.5}, "hidden must be"),
        ({"dim": 8, "temperature": 0}, "temperature must be a number above 0"),
    ):
        with pytest.raises(BadInput, match=message):
            DenseHead(**options)
    head = DenseHead(8)
    with pytest.raises(BadInput, match="the batches number 6 query rows, got 5"):
        head.fit(rows[:5], rows, batches)
    with pytest.raises(SpaceMismatch, match="8 dimensions"):
        head.query(np.ones((2, 9)))
    with pytest.raises(BadInput, match="holds NaN"):
        head.fit(np.full((6, 8), np.nan), rows, batches)
    with pytest.raises(BadInput, match="epochs must be"):
        head.fit(rows, rows, batches, epochs=0)
    with pytest.raises(BadInput, match="rate must be"):
        head.fit(rows, rows, batches, rate=-1.0)
    with pytest.raises(BadInput, match="take a lower rate"):
        learn(head, lambda _: head.of_query.up.weight.sum() * float("nan"), batches, epochs=1, rate=1.0)


# --- codes ------------------------------------------------------------------------------------------------------------


def test_straight_through_is_the_one_hot_formula_forward_and_backward(rng):
    """h + w − sg(w) times the codebook, written out, against what is computed."""
    rows = torch.tensor(rng.standard_normal((7, 12)), dtype=torch.float64, requires_grad=True)
    books = torch.tensor(rng.standard_normal((3, 8, 4)), dtype=torch.float64, requires_grad=True)
    pull = torch.tensor(rng.standard_normal((7, 12)), dtype=torch.float64)
    near = straight_through(rows, books, 1 / 0.7)
    (near * pull).sum().backward()
    ours = rows.grad.clone(), books.grad.clone()
    rows.grad = books.grad = None
    parts = []
    for part in range(3):
        far = ((rows[:, None, part * 4 : part * 4 + 4] - books[part][None]) ** 2).sum(-1) / 0.7
        w = torch.softmax(-far, -1)
        h = torch.nn.functional.one_hot(far.argmin(-1), 8)
        parts.append((h + w - w.detach()) @ books[part])
    wanted = torch.cat(parts, 1)
    (wanted * pull).sum().backward()
    assert torch.allclose(near, wanted)
    assert torch.allclose(ours[0], rows.grad)
    assert torch.allclose(ours[1], books.grad)
    assert ours[0].abs().max() > 0


def test_codes_begin_as_the_quantiser_does_and_queries_stay_exact(rng):
    queries, documents = hidden_task(rng)
    opq = OptimisedProduct(4, 16, 4).fit(documents)
    pq = ContrastivePQ(4, 16).start(documents, opq=opq)
    assert np.array_equal(pq.encode(documents), opq.encode(documents))
    assert pq.query(queries) == pytest.approx(queries @ opq.rotation, abs=1e-5)
    forward = straight_through(torch.from_numpy(pq.document(documents)), pq.codebooks, 20).detach().numpy()
    assert forward == pytest.approx(pq.codec.product.decode(pq.encode(documents)), abs=1e-6)
    found = pq.index(documents).search(pq.query(queries), 5)
    wanted = queries @ opq.decode(opq.encode(documents)).T
    assert found.scores == pytest.approx(-np.sort(-wanted, axis=1)[:, :5], abs=1e-5)


def test_learnt_codes_find_more_than_unsupervised_ones_of_the_same_bytes(rng):
    queries, documents = hidden_task(rng, 600)
    train, test = slice(0, 450), slice(450, 600)
    opq = OptimisedProduct(4, 16, 4).fit(documents)
    plain = reached(queries[test] @ opq.rotation, opq.decode(opq.encode(documents[test])) @ opq.rotation)
    pq = ContrastivePQ(4, 16)
    pq.fit(queries[train], documents[train], RandomBatches(one_each(450), size=90), opq=opq, epochs=20, rate=3e-3)
    learnt = reached(pq.query(queries[test]), pq.codec.product.decode(pq.encode(documents[test])))
    assert pq.codec.nbytes(32) == opq.nbytes(32)
    assert np.array_equal(pq.codec.rotation, opq.rotation), "the rotation is frozen"
    assert not np.allclose(pq.codec.codebooks, opq.codebooks)
    assert learnt > plain + 0.15


def test_reconstruction_holds_codes_to_their_rows(rng):
    queries, documents = hidden_task(rng, 200)
    opq = OptimisedProduct(4, 16, 4).fit(documents)
    lost = {}
    for weight in (0.0, 10.0):
        pq = ContrastivePQ(4, 16, reconstruction=weight)
        pq.fit(queries, documents, RandomBatches(one_each(200), size=50), opq=opq, epochs=8, rate=3e-3)
        rows = pq.document(documents)
        lost[weight] = float(((rows - pq.codec.product.decode(pq.encode(documents))) ** 2).sum(1).mean())
    assert lost[10.0] < 0.9 * lost[0.0]


def test_the_base_is_copied(rng):
    queries, documents = hidden_task(rng, 200)
    base = DenseHead(32, seed=4)
    before = base.fingerprint
    pq = ContrastivePQ(4, 16).fit(queries, documents, RandomBatches(one_each(200)), base=base, epochs=1)
    assert base.fingerprint == before != pq.heads.fingerprint
    with pytest.raises(SpaceMismatch, match="take rows of 16 numbers"):
        ContrastivePQ(4, 16).start(documents, base=DenseHead(16))
    with pytest.raises(SpaceMismatch, match="is not what"):
        ContrastivePQ(8, 16).start(documents, opq=OptimisedProduct(4, 16, 1).fit(documents))


def test_bad_quantisers():
    for options, message in (
        ({"m": 0}, "m must be"),
        ({"ksub": 12}, "ksub must be a power of two"),
        ({"ksub": 512}, "a byte a part"),
        ({"reconstruction": -1}, "reconstruction must be"),
        ({"sharpness": 0}, "sharpness must be a number above 0"),
        ({"temperature": -1}, "temperature must be"),
    ):
        with pytest.raises(BadInput, match=message):
            ContrastivePQ(**options)
    with pytest.raises(BadInput, match="call fit or start first"):
        ContrastivePQ().query(np.ones((1, 4)))
    with pytest.raises(BadInput, match="cannot be cut into 24 equal parts"):
        ContrastivePQ().start(np.eye(300, 32, dtype=np.float32))


@pytest.mark.parametrize("kind", ["head", "codes"])
def test_what_was_learnt_survives_its_file_and_damage_is_refused(rng, kind, tmp_path):
    queries, documents = hidden_task(rng, 100)
    batches = RandomBatches(one_each(100), size=50)
    made = DenseHead(32, shared=False, hidden=8) if kind == "head" else ContrastivePQ(4, 16, shared=False)
    made.fit(queries, documents, batches, epochs=1)
    path = tmp_path / "learnt"
    made.save(path)
    again = type(made).load(path)
    assert repr(again) == repr(made)
    assert again.fingerprint == made.fingerprint
    assert again.nbytes == made.nbytes
    assert np.array_equal(again.query(queries), made.query(queries))
    assert np.array_equal(again.document(documents), made.document(documents))
    raw = path.read_bytes()
    for at in (20, len(raw) // 2, len(raw) - 70):
        bad = bytearray(raw)
        bad[at] ^= 64
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            type(made).load(path)
    path.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(Corrupt):
        type(made).load(path)
    other = ContrastivePQ if kind == "head" else DenseHead
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="not a"):
        other.load(path)


# --- two stages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stages(rng):
    """Codes that say little and rows that say all, of the same 400 vectors."""
    rows = normalise(rng.standard_normal((400, 16)))
    first = Flat(16, metric="dot")
    first.add(rows + 0.1 * rng.standard_normal((400, 16)).astype(np.float32))
    return first, rows, normalise(rng.standard_normal((20, 16)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 15), st.floats(-1, 2), st.booleans())
@settings(deadline=None, max_examples=40)
def test_two_stages_are_their_definition(seed, k, candidates, mix, masked):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 15))
    coarse, fine, query = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((n, 3), (n, 3), (2, 3)))
    allow = rng.random(n) < 0.6 if masked else None
    first = Flat(3, metric="dot")
    first.add(coarse)
    found = TwoStage(first, fine, candidates=candidates, mix=mix).search(query, k, allow=allow)
    near = first.search(query, max(k, candidates), allow=allow)
    for i in range(2):
        ids = near.ids[i][near.ids[i] >= 0]
        final = fine[ids] @ query[i] + np.float32(mix) * near.scores[i][: len(ids)]
        order = np.argsort(-final, kind="stable")[:k]
        assert found.ids[i].tolist() == ids[order].tolist() + [-1] * (k - len(order))
        assert found.scores[i][: len(order)] == pytest.approx(final[order], rel=1e-5, abs=1e-5)
        assert (found.scores[i][len(order) :] == -np.inf).all()


def test_reordering_brings_back_what_codes_lose(rng, stages):
    first, rows, queries = stages
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :5]
    alone = first.search(queries, 5).ids
    both = TwoStage(first, rows, candidates=60, mix=0).search(queries, 5).ids
    share = [np.mean([np.isin(a, b).mean() for a, b in zip(truth, found)]) for found in (alone, both)]
    assert share[0] < 0.8
    assert share[1] > 0.95


def test_rows_and_bytes_are_counted(stages):
    first, rows, queries = stages
    index = TwoStage(first, rows, candidates=50)
    index.search(queries, 10)
    index.search(queries[0], 10, candidates=20, allow=np.arange(400) < 100)
    touched = index.touched
    assert (touched.queries, touched.rows) == (21, 20 * 50 + 20)
    assert touched.nbytes == touched.rows * 16 * 4
    assert touched.scanned == 20 * 400 + 100
    assert touched.rows_per_query == pytest.approx(1020 / 21)
    assert touched.bytes_per_query == pytest.approx(1020 * 64 / 21)
    assert 20 * 4 < touched.pages <= 21 * 7, "400 rows of 64 bytes lie on 7 pages"


class Halves:
    """A tower that sees one half of a vector."""

    def __init__(self, part, name):
        self.part, self.fingerprint = part, name

    def query(self, rows):
        return np.asarray(rows)[:, self.part]

    document = query


def test_towers_make_the_rows_of_either_side(rng):
    vectors, queries = (rng.standard_normal((n, 16)).astype(np.float32) for n in (120, 5))
    coarse, fine = Halves(slice(0, 8), "a"), Halves(slice(8, 16), "b")
    index = TwoStage(
        Flat(8, metric="dot"), np.empty((0, 8), np.float32), coarse=coarse, fine=fine, candidates=120, mix=1
    )
    for low, high in ((0, 1), (1, 70), (70, 120)):
        index.add(vectors[low:high])
        assert len(index) == len(index.first) == high
    assert isinstance(index, Index)
    found = index.search(queries, 7)
    assert found.ids.tolist() == np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :7].tolist()
    assert index.nbytes == index.first.nbytes + 120 * 8 * 4


def test_adding_never_writes_to_what_was_given(rng, stages):
    first, rows, _ = stages
    kept = rows.copy()
    index = TwoStage(first, rows[:400])
    index.add(np.ones((3, 16)))
    assert np.array_equal(rows, kept)
    assert len(index) == 403
    half = TwoStage(Flat(2, metric="dot"), np.empty((0, 2), np.float16))
    with pytest.raises(BadInput, match="beyond float16"):
        half.add(np.array([[1e6, 0]]))
    assert len(half) == len(half.first) == 0


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_index_survives_its_folder(rng, tmp_path, mapped, dtype):
    queries, documents = hidden_task(rng, 300)
    pq, head = ContrastivePQ(4, 16).start(documents), DenseHead(32)
    index = TwoStage(
        pq.index(documents), head.document(documents).astype(dtype), coarse=pq, fine=head, candidates=40, mix=0.5
    )
    index.save(tmp_path / "two")
    index.save(tmp_path / "two")  # over itself
    again = TwoStage.load(tmp_path / "two", Coded.load, coarse=pq, fine=head, mapped=mapped)
    assert repr(again) == repr(index)
    assert again.mapped == mapped
    ours, theirs = index.search(queries, 10), again.search(queries, 10)
    assert np.array_equal(ours.ids, theirs.ids)
    assert np.array_equal(ours.scores, theirs.scores)
    assert again.nbytes == index.nbytes - (index.rows.nbytes - len(index) if mapped else 0)
    if mapped:
        with pytest.raises(BadInput, match="load the index with mapped=False"):
            again.add(documents[:1])
    else:
        again.add(documents[:1])
        assert len(again) == 301
    with pytest.raises(SpaceMismatch, match="made with another fine"):
        TwoStage.load(tmp_path / "two", Coded.load, coarse=pq)
    other = DenseHead(32, seed=9)
    with pytest.raises(SpaceMismatch, match="give the one it was saved with"):
        TwoStage.load(tmp_path / "two", Coded.load, coarse=pq, fine=other)


def test_a_memory_map_of_the_caller_does_too(rng, tmp_path, stages):
    first, rows, queries = stages
    np.save(tmp_path / "rows.npy", rows)
    index = TwoStage(first, np.load(tmp_path / "rows.npy", mmap_mode="r"), candidates=30)
    assert index.mapped
    assert index.nbytes == first.nbytes
    assert np.array_equal(index.search(queries, 5).ids, TwoStage(first, rows, candidates=30).search(queries, 5).ids)


def test_damage_is_found_where_it_is_read(rng, tmp_path):
    rows = rng.standard_normal((6000, 16)).astype(np.float32)  # two blocks of sums
    first = Coded(OptimisedProduct(4, 16, 1).fit(rows[:500]).product, np.zeros((6000, 2), np.uint8))
    index = TwoStage(first, rows, candidates=5, mix=0)
    folder = tmp_path / "two"
    index.save(folder)
    path = folder / "rows.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-10] ^= 1
    path.write_bytes(raw)
    again = TwoStage.load(folder, Coded.load)
    low, high = np.arange(6000) < 1000, np.arange(6000) > 5900
    assert again.search(rows[:2], 3, allow=low).ids.min() >= 0, "the first block is sound"
    with pytest.raises(Corrupt, match=r"rows\.safetensors is damaged: block 1"):
        again.search(rows[:2], 3, allow=high)
    with pytest.raises(Corrupt, match="block 1"):
        TwoStage.load(folder, Coded.load, mapped=False)
    path.write_bytes(raw[:3000])
    with pytest.raises(Corrupt):
        TwoStage.load(folder, Coded.load)
    path.unlink()
    with pytest.raises(Corrupt, match="there is no"):
        TwoStage.load(folder, Coded.load)
    (folder / "index.safetensors").write_bytes(b"nonsense")
    with pytest.raises(Corrupt):
        TwoStage.load(folder, Coded.load)
    with pytest.raises(BadInput, match="there is no two-stage index"):
        TwoStage.load(tmp_path / "nowhere", Coded.load)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": object()}, "first must be an index"),
        ({"rows": np.ones((400, 16))}, "float32 or float16"),
        ({"rows": np.ones((3, 16), np.float32)}, "the first index has 400 rows, the dense side 3"),
        ({"candidates": 0}, "candidates must be a positive integer"),
        ({"mix": float("nan")}, "mix must be a finite number"),
    ],
)
def test_bad_two_stages(stages, change, message):
    first, rows, queries = stages
    with pytest.raises(BadInput, match=message):
        TwoStage(**({"first": first, "rows": rows} | change))
    index = TwoStage(first, rows)
    with pytest.raises(BadInput, match="k must be"):
        index.search(queries, 0)
    with pytest.raises(BadInput, match=r"allow must be bool \[400\]"):
        index.search(queries, 1, allow=np.ones(3, bool))
    with pytest.raises(SpaceMismatch):
        index.search(np.ones((1, 5)), 1)
