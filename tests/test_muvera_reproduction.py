"""The reproduction of MUVERA: its truth, baselines and counts by loops, and the whole of it on a few texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from inlay.codecs.muvera import MuveraFDE
from inlay.codecs.ragged import checked_ragged
from inlay.reproductions.indexes import muvera
from inlay.reproductions.result import Result

pytest.importorskip("scipy")

THEMES = [
    "wing lift drag flow".split(),
    "heat plate shell wall".split(),
    "shock wave speed sound".split(),
    "load beam stress bend".split(),
]


def bags(lengths, seed: int, dim: int = 12) -> muvera.Ragged:
    rng = np.random.default_rng(seed)
    tokens = [rng.standard_normal((n, dim)).astype(np.float32) + np.float32(0.4) for n in lengths]
    return checked_ragged([bag / np.linalg.norm(bag, axis=1, keepdims=True) for bag in tokens], dim)


@pytest.fixture(scope="module")
def few() -> muvera.Bags:
    rng = np.random.default_rng(4)
    return muvera.Bags(bags(rng.integers(2, 6, 7), 1), bags([*rng.integers(1, 9, 30), 0], 2))


def test_truth_and_baselines_by_loops(few: muvera.Bags) -> None:
    truth = muvera._truth(few)
    queries, documents = few
    for i, query in enumerate(queries):
        score = [(query @ own.T).max(axis=1).sum() if len(own) else -np.inf for own in documents]
        best = sorted(range(len(documents)), key=lambda d: -score[d])[: muvera.BEST]
        assert truth.best[i].tolist() == best
        cosine = []
        for own in documents:
            both = query.mean(axis=0), own.mean(axis=0) if len(own) else np.zeros(12)
            cosine.append(float(both[0] @ both[1]) / max(1e-9, float(np.prod([np.linalg.norm(one) for one in both]))))
        order = sorted(range(len(documents)), key=lambda d: -cosine[d])
        assert truth.mean[i].tolist() == [order.index(d) for d in best]
        # Lists of tokens, one for each of the query's; a document's rank is its first place in any.
        owner = np.repeat(np.arange(len(documents)), np.diff(documents.offsets))
        place = np.full(len(documents), len(owner))
        for token in query:
            for at, document in enumerate(owner[np.argsort(-(documents.values @ token), kind="stable")]):
                place[document] = min(place[document], at)
        order = sorted(range(len(documents)), key=lambda d: place[d])
        assert truth.heuristic[i].tolist() == [order.index(d) for d in best]


def test_candidates_and_shares() -> None:
    ranks = np.array([[0, 5, 2], [9, 1, 100]])
    assert [muvera._needed(ranks, share) for share in (0.5, 0.6, 0.8, 1.0)] == [3, 6, 10, 101]
    found = muvera._measured([ranks, ranks])
    assert found["10R@100"] == pytest.approx(100 * 5 / 6, abs=0.01)
    assert found["1R@100"] == 100
    assert found["sd"] == 0
    assert "sd" not in muvera._measured([ranks])
    points = muvera._curve([ranks])
    assert points[0] == [10, pytest.approx(100 * 5 / 6, abs=0.01)]
    assert points[-1][1] == 100
    scores = np.array([[0.1, 0.9, 0.5]])
    assert muvera._ranks(scores, np.array([[1, 0]])).tolist() == [[0, 2]]


def test_words_are_mixed_with_their_neighbours() -> None:
    rows = np.eye(4, dtype=np.float32)
    mixed = muvera._mixed([[0, 1, 2, 3], [], [3], [1, 2]], rows, own=False)
    assert mixed.offsets.tolist() == [0, 4, 4, 5, 7]
    np.testing.assert_allclose(mixed[0][0] * 3**0.5, [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(mixed[0][1] * 2, [1, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(mixed[2], rows[3:], atol=1e-6)
    np.testing.assert_allclose(mixed[3][0] * 2**0.5, [0, 1, 1, 0], atol=1e-6)
    own = muvera._mixed([[0, 1, 2, 3]], rows, own=True)[0][0]
    np.testing.assert_allclose(own / own[0], [1, 0.5, 0.5, 0], atol=1e-6)


def test_sums_of_documents(few: muvera.Bags) -> None:
    fde = MuveraFDE(12, reps=3, k_sim=3, d_proj=4, center=False, seed=1)
    bare = MuveraFDE(12, reps=3, k_sim=3, d_proj=4, center=False, fill=False, seed=1)
    filled, sums = fde.encode_document(few.documents), fde.encode_query(few.documents)
    found = muvera._summed(sums, filled, 4).reshape(len(filled), -1, 4)
    empty = ~bare.encode_document(few.documents).reshape(found.shape).any(axis=2)
    assert 0 < empty.mean() < 1
    np.testing.assert_array_equal(found[empty], filled.reshape(found.shape)[empty])
    np.testing.assert_array_equal(found[~empty], sums.reshape(found.shape)[~empty])


def test_centring_takes_the_documents_mean(few: muvera.Bags) -> None:
    centred = muvera._centred(few)
    mean = few.documents.values.mean(axis=0)
    for before, after in zip(few, centred, strict=True):
        np.testing.assert_allclose(np.linalg.norm(after.values, axis=1), 1, atol=1e-5)
        length = np.linalg.norm(before.values - mean, axis=1, keepdims=True)
        np.testing.assert_allclose(after.values * length + mean, before.values, atol=1e-5)


def test_quantised_rows_are_near_and_of_256_kinds() -> None:
    rows = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    found = muvera._quantised(rows, 0)
    assert len(np.unique(found[:, :8], axis=0)) <= 256
    assert np.square(rows - found).mean() < 0.5 * np.square(rows).mean()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four themes of made-up abstracts, in the layout of Cranfield."""
    rng = np.random.default_rng(0)
    place = tmp_path_factory.mktemp("data")
    (place / "cranfield").mkdir()

    def text(i: int, words: int) -> str:
        return " ".join(
            rng.choice(THEMES[i % 4] if rng.random() < 0.8 else THEMES[rng.integers(4)]) for _ in range(words)
        )

    documents = [{"_id": str(i), "title": "", "text": text(i, 14)} for i in range(300)]
    queries = [{"_id": str(i), "text": text(i, 5)} for i in range(6)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        with gzip.open(place / "cranfield" / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    judged = "".join(f"{i}\t{i}\t1\n" for i in range(6))
    (place / "cranfield" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return place


def test_whole_on_a_few_texts(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muvera, "DIM", 8)
    monkeypatch.setattr(muvera, "WIDTHS", {1280: (3, 8), 2560: (4, 8)})
    monkeypatch.setattr(muvera, "WIDEST", 2560)
    monkeypatch.setattr(muvera, "_late_box", muvera._words)
    monkeypatch.setattr(muvera, "_quantised", lambda rows, seed: rows.astype(np.float16).astype(np.float32))
    result = muvera.run(tiny, seeds=(0, 1))
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))).name == "muvera"
    arms = result.figures["words"]["centred"]
    assert set(arms) == {
        "mean", "heuristic", "FDE 1280", "FDE 2560", "FDE 2560, PQ-256-8", "FDE 2560, not filled",
        "FDE 2560, sums of documents",
    }  # fmt: skip
    assert result.method.value == arms["FDE 2560"]["10R@100"]
    assert result.baseline.value == max(arms[name]["10R@100"] for name in ("mean", "heuristic"))
    rises = arms["FDE 1280"]["10R@100"] < arms["FDE 2560"]["10R@100"]
    beats = result.method.value >= result.baseline.value + 5
    keeps = arms["FDE 2560"]["10R@100"] - arms["FDE 2560, PQ-256-8"]["10R@100"] <= 2
    assert result.verdict == ("shown" if rises and beats and keeps else "partly" if rises or beats else "not shown")
    assert all(0 <= arm["10R@100"] <= 100 and arm["candidates"] == sorted(arm["candidates"]) for arm in arms.values())
    assert arms["FDE 2560"]["10R@100"] > 100 * muvera.FIRST / 300, "better than chance"
    assert "{" not in result.detail
