"""LEANN: what is found without vectors, against an exact scan of them; what it costs; what is kept; collections."""

from __future__ import annotations

import numpy as np
import pytest

import inlay
from inlay.errors import BadInput, Corrupt, InlayError, SpaceMismatch
from inlay.indexes.leann import Leann, Walk
from inlay.indexes.packed_links import PackedLinks
from inlay.indexes.recomputed import Recomputed
from inlay.types import Space

DIM = 32
pytest.importorskip("numba")


class Numbered:
    """Texts are numbers of rows; queries are numbers of queries."""

    def __init__(self, rows: np.ndarray, queries: np.ndarray, fingerprint: str = "numbered") -> None:
        self.rows, self.queries, self.made = rows, queries, 0
        self.space = Space("dense", rows.shape[1], "cosine", fingerprint)

    def encode_document(self, items, *, batch_size=None, progress=False):
        self.made += len(items)
        return self.rows[[int(item) for item in items]]

    def encode_query(self, items, *, batch_size=None, progress=False):
        return self.queries[[int(item) for item in items]]


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(0)
    centres = random.standard_normal((60, DIM))
    rows = centres[random.integers(60, size=3000)] + 0.6 * random.standard_normal((3000, DIM))
    asked = centres[random.integers(60, size=40)] + 0.6 * random.standard_normal((40, DIM))
    return Numbered(rows.astype(np.float32), asked.astype(np.float32)), [str(i) for i in range(3000)]


@pytest.fixture(scope="module")
def built(world):
    encoder, texts = world
    return Leann(encoder, budget=None, code_bytes=8).build(texts)


def recall(index: Leann, queries: int, truth: np.ndarray, **how) -> float:
    found = [index.search(str(q), 3, **how).ids[0] for q in range(queries)]
    return float(np.mean([len(set(a) & set(b)) / 3 for a, b in zip(found, truth)]))


def test_it_finds_what_an_exact_scan_finds(world, built):
    truth = built.exact([str(q) for q in range(40)], 3)
    assert recall(built, 40, truth, ef=64) > 0.95
    assert recall(built, 6, truth, ef=3000, promote=1.0) == 1.0  # all rows are seen and encoded


def test_scores_are_exact_and_descend(world, built):
    encoder, _ = world
    near = built.search("0", 5, ef=64)
    unit = encoder.rows / np.linalg.norm(encoder.rows, axis=1, keepdims=True)
    query = encoder.queries[0] / np.linalg.norm(encoder.queries[0])
    np.testing.assert_allclose(near.scores[0], unit[near.ids[0]] @ query, rtol=1e-5)
    assert (np.diff(near.scores[0]) <= 0).all()


def test_two_levels_encode_fewer_rows_than_one(world, built):
    truth = built.exact([str(q) for q in range(40)], 3)

    def cost(promote: float) -> int:
        for ef in (4, 8, 16, 32, 64, 128):
            if recall(built, 40, truth, ef=ef, promote=promote, batch=1) >= 0.9:
                walk = Walk()
                for q in range(40):
                    built.search(str(q), 3, ef=ef, promote=promote, batch=1, walk=walk)
                return walk.encoded
        raise AssertionError("recall 0.9 was not reached")

    assert cost(0.15) * 1.3 < cost(1.0)


def test_a_walk_counts_what_the_encoder_made(world, built):
    encoder, _ = world
    walk, before = Walk(), encoder.made
    built.search("3", 3, ef=16, walk=walk)
    assert walk.encoded == encoder.made - before
    assert walk.seen >= walk.encoded


def test_batches_need_fewer_calls(world, built):
    one, many = Walk(), Walk()
    for q in range(10):
        built.search(str(q), 3, ef=32, batch=1, walk=one)
        built.search(str(q), 3, ef=32, batch=64, walk=many)
    assert many.calls < one.calls


def test_hubs_stay_hubs(world):
    encoder, texts = world
    index = Leann(encoder, budget=None, code_bytes=8, degree=24, low_degree=6, hub_share=0.02).build(texts)
    facts = index.card.facts
    assert facts["mean_degree"] < facts["mean_degree_before"]
    # Others choose 6 links, yet may be given up to 24.
    assert index._links.degrees.max() > 12
    assert index._links.degrees.max() <= 24 + 2  # and two for equal rows


def test_a_budget_takes_links_first_and_spends_the_rest_on_rows(world):
    encoder, texts = world
    per_text = sum(map(len, texts)) / len(texts)
    roomy = Leann(encoder, budget=100 / per_text, cached=1.0, code_bytes=8).build(texts)
    assert roomy.card.facts["within_budget"]
    assert 0 < len(roomy.rows.kept[0]) < 3000
    assert roomy.nbytes <= 100 * 3000
    tight = Leann(encoder, budget=1e-3, code_bytes=8).build(texts)
    assert not tight.card.facts["within_budget"]
    assert tight.card.facts["low_degree"] == 4


def test_kept_rows_save_encoding(world):
    encoder, texts = world
    index = Leann(encoder, budget=None, cached=0.3, code_bytes=8).build(texts)
    walk = Walk()
    for q in range(10):
        index.search(str(q), 3, ef=32, walk=walk)
    assert walk.cached > 0


def test_equal_rows_are_all_found():
    random = np.random.default_rng(1)
    rows = random.standard_normal((400, DIM)).astype(np.float32)
    rows[100:140] = rows[99]
    encoder = Numbered(rows, rows)
    index = Leann(encoder, budget=None, code_bytes=8).build([str(i) for i in range(400)])
    assert set(index.search("99", 41, ef=200, promote=1.0).ids[0]) == set(range(99, 140))


def test_rows_that_are_not_allowed_or_deleted_are_not_found(world):
    encoder, texts = world
    index = Leann(encoder, budget=None, code_bytes=8).build(texts)
    first = index.search("5", 3, ef=64).ids[0]
    allow = np.ones(3000, dtype=bool)
    allow[first[0]] = False
    assert first[0] not in index.search("5", 3, ef=64, allow=allow).ids[0]
    index.delete([int(first[1])])
    assert first[1] not in index.search("5", 3, ef=64).ids[0]
    with pytest.raises(BadInput, match="no row 3000"):
        index.delete([3000])


def test_texts_can_be_added(world):
    encoder, texts = world
    index = Leann(encoder, budget=None, code_bytes=8).build(texts[:2900])
    index.add(texts[2900:])
    assert len(index) == 3000
    for row in range(2900, 3000, 9):
        found = index.search_rows(encoder.rows[row] / np.linalg.norm(encoder.rows[row]), 1, ef=64)
        assert found.ids[0, 0] == row


def test_recall_is_looked_up(world, built):
    with pytest.raises(BadInput, match="calibrate"):
        built.search("0", 4, recall=0.9)
    table = built.calibrate([str(q) for q in range(40)], 3, recalls=(0.9,))
    assert table[0.9] is not None
    assert recall(built, 40, built.exact([str(q) for q in range(40)], 3), recall=0.9) >= 0.9


def test_saved_and_loaded_it_is_the_same(world, tmp_path):
    encoder, texts = world
    index = Leann(encoder, budget=None, cached=0.05, code_bytes=8).build(texts)
    index.delete([7])
    index.save(tmp_path / "x")
    again = Leann.load(tmp_path / "x", encoder, texts)
    assert repr(again) == repr(index)
    assert again.nbytes == index.nbytes
    for q in range(10):
        np.testing.assert_array_equal(again.search(str(q), 5).ids, index.search(str(q), 5).ids)
    with pytest.raises(SpaceMismatch, match="numbered"):
        Leann.load(tmp_path / "x", Numbered(encoder.rows, encoder.queries, "another"), texts)
    with pytest.raises(BadInput, match="2999"):
        Leann.load(tmp_path / "x", encoder, texts[:2999])
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-99])
    with pytest.raises(Corrupt):
        Leann.load(tmp_path / "x", encoder, texts)


@pytest.mark.parametrize(
    "wrong",
    [{"degree": 0}, {"low_degree": 3}, {"low_degree": 30}, {"promote": 1.5}, {"budget": 0}, {"batch": True}],
)
def test_settings_are_checked(world, wrong):
    with pytest.raises(BadInput):
        Leann(world[0], **wrong)


def test_few_texts_and_bad_queries_are_refused(world, built):
    encoder, texts = world
    with pytest.raises(BadInput, match="256"):
        Leann(encoder).build(texts[:100])
    with pytest.raises(BadInput, match="a text"):
        built.search("  ")
    with pytest.raises(BadInput, match="holds 3000"):
        built.build(texts)
    with pytest.raises(SpaceMismatch):
        Recomputed(_Sparse(), texts)


class _Sparse:
    space = Space("sparse", 0, "dot", "x")


def test_links_are_packed_in_the_bytes_they_need():
    random = np.random.default_rng(0)
    for rows, wide in ((300, 2), (70_000, 3)):
        links = [random.integers(rows, size=random.integers(0, 9)) for _ in range(rows)]
        packed = PackedLinks(links)
        assert len(packed.packed) == wide * sum(map(len, links))
        for row in random.integers(rows, size=200).tolist():
            np.testing.assert_array_equal(packed.of(row), links[row])
        packed.change(3, np.array([5, 6]))
        packed.change(rows, np.array([1]))
        again = packed.compacted()
        assert len(again) == rows + 1
        assert again.of(3).tolist() == [5, 6]
        assert again.of(rows).tolist() == [1]
        np.testing.assert_array_equal(again.of(4), links[4])
    with pytest.raises(BadInput, match="255"):
        PackedLinks([np.zeros(256, dtype=np.int64)])
    with pytest.raises(BadInput, match="bytes"):
        PackedLinks(np.zeros(5, np.uint8), np.array([3], np.uint8))


WORDS = "river bank money loan water boat fish tree leaf wood fire stone wall house door window".split()


def _texts(n: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, 12)) + f" number {i}" for i in range(n)]


def test_a_collection_keeps_a_graph_in_place_of_vectors(tmp_path):
    with inlay.open(tmp_path / "c", encoder="box") as c:
        texts = _texts(300)
        c.add([{"id": f"d{i}", "text": text, "even": i % 2 == 0} for i, text in enumerate(texts)])
        c.embed()
        before = [hit.id for hit in c.search("a boat on the water", 10, mode="dense")]
        vectors = c.vectors()[1]
        sizes = c.thin()
        assert sizes["after"] < sizes["before"]
        after = c.search("a boat on the water", 10, mode="dense")
        assert len({hit.id for hit in after} & set(before)) >= 9
        np.testing.assert_allclose(c.vectors()[1], vectors, atol=2e-3)
        assert c.search("boat", 5)  # both spaces, fused
        few = c.search("a boat", 5, where={"even": True}, mode="dense")
        assert all(int(hit.id[1:]) % 2 == 0 for hit in few)
        # What comes later stands beside it; what goes is found no more.
        c.add([{"id": "new", "text": "a boat on the water, and a fish in the boat"}])
        c.embed()
        c.delete([after[0].id])
        found = [hit.id for hit in c.search("a boat on the water", 300, mode="dense")]
        assert "new" in found
        assert after[0].id not in found
        assert list(c.verify()) == []
        c.compact()
        assert "new" in [hit.id for hit in c.search("a boat on the water", 20, mode="dense")]
    with inlay.open(tmp_path / "c", mode="r") as c:
        assert c.search("a boat on the water", 3, mode="dense")


def test_brought_vectors_are_not_thrown_away(tmp_path):
    with inlay.open(tmp_path / "c") as c:
        c.add(["one", "two"], vectors=np.eye(2, dtype=np.float32))
        with pytest.raises(BadInput, match="make again"):
            c.thin()


def test_without_its_encoder_it_says_so(tmp_path):
    with inlay.open(tmp_path / "c", encoder="box") as c:
        c.add(_texts(260))
        c.thin()
    with inlay.open(tmp_path / "c", encoder=False) as c, pytest.raises(InlayError, match="encoder"):
        c.vectors()
