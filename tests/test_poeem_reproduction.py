"""Poeem's reproduction: its measures, and its verdict from figures alone."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from inlay.errors import BadInput
from inlay.reproductions.training import poeem
from inlay.reproductions.training._picture_captions import AsTexts, Captions, KnownItems


def captions(pictures: int = 700, dev: int = 100) -> Captions:
    splits = np.array(["train"] * (pictures - dev) + ["dev"] * dev)
    return Captions([str(i) for i in range(5 * pictures)], splits)


def test_no_query_is_learnt_from_and_none_finds_itself():
    random = np.random.default_rng(0)
    rows = np.arange(3500, dtype=np.float32)[:, None]
    known, texts = KnownItems(captions(), rows), AsTexts(captions(), rows)
    for _ in range(20):
        asked, items = known.draw(64)(random)
        assert (asked[:, 0] // 5 == items).all()
        assert len(set(items.tolist())) == 64
        assert (asked[:, 0] % 5 < 3).all()
        first, second = texts.draw(64)(random)
        assert (first != second).all()
        assert (first // 5 == second // 5).all()
        assert first.max() < 100 * 5  # the last 500 of the training pictures choose, the dev ones test
    assert (known.queries(True)[:, 0] % 5 == 4).all()
    assert (known.queries(False)[:, 0] % 5 == 3).all()
    assert texts.queries(True).min() >= 600 * 5
    eye = np.eye(700, dtype=np.float32)
    assert known.recalls(eye, eye, True) == {10: 1.0, 100: 1.0}
    assert known.recalls(eye, np.zeros_like(eye), True)[100] == 0  # ties are no finds
    alike = np.repeat(np.random.default_rng(1).normal(size=(700, 32)), 5, axis=0).astype(np.float32)
    near = AsTexts(captions(), alike)
    assert near.recalls(near.queries(True), near.items, True) == {10: 1.0, 100: 1.0}


@pytest.mark.parametrize(
    ("gain", "cold", "turn", "verdict"),
    [
        (0.02, 0.2, 0.01, "shown"),
        (0.02, 0.01, 0.01, "partly"),
        (0.005, 0.2, 0.01, "partly"),
        (0.005, 0.01, 0.01, "not shown"),
        (-0.01, 0.2, 0.01, "not shown"),
    ],
)
def test_the_verdict_follows_the_figures(gain, cold, turn, verdict):
    def arm(recall: float, **facts: float) -> poeem.Arm:
        return poeem.Arm(recall, recall / 2, recall, {"distortion": 0.1, "unused": 0.0} | facts)

    def seed(number: int) -> dict[str, poeem.Arm]:
        base = 0.8 + number / 1000
        return {
            "float": arm(0.9),
            "OPQ": arm(base - 0.01),
            "IVF + OPQ": arm(base, recall_probed=0.7),
            "faiss IVF + OPQ": arm(base, train_seconds=100.0),
            "Poeem": arm(base + gain, export_seconds=0.1, encode_seconds=0.1, recall_exact=0.9, recall_probed=0.7),
            "without warm start": arm(base + gain - cold),
            "without rotation": arm(base + gain - turn),
        }

    known, texts = KnownItems(captions(), np.zeros((3500, 1))), AsTexts(captions(), np.zeros((3500, 1)))
    arms = {name: [seed(number) for number in range(3)] for name in ("8 bytes", "16 bytes", "sharp", "texts")}
    result = poeem._result(known, texts, arms, (0, 1, 2), 1.0)
    assert result.verdict == verdict
    assert result.baseline.name == "float towers, then IVF + OPQ"
    assert f"{100 * gain:+.1f} points" in result.detail
    assert result.figures["export_over_faiss_training"] == [0.001] * 3


def test_without_data(tmp_path):
    with pytest.raises(BadInput, match="give the data folder"):
        Captions.read(tmp_path)
