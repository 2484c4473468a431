"""What the reproductions of Seismic are measured with: curves, and segments whose blocks are made anew."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from inlay.errors import BadInput
from inlay.indexes.seismic import Seismic
from inlay.kernels import seismic as searching
from inlay.kernels import seismic_blocks as building
from inlay.reproductions.indexes._block_ablations import heaviest, rebuilt
from inlay.reproductions.indexes._expanded_text import ExpandedText
from inlay.reproductions.indexes._recall_curves import Point, accuracy, at, slope
from inlay.types import Sparse


def test_costs_are_interpolated_between_settings_that_no_other_beats():
    points = [
        Point("", 0.8, 10, 1), Point("", 0.9, 40, 2), Point("", 0.85, 50, 3), Point("", 1.0, 160, 4),
    ]  # fmt: skip
    assert at(points, 0.9) == pytest.approx(40)
    assert at(points, 0.85) == pytest.approx(20)  # of the front, not the slower 50
    assert at(points, 0.95) == pytest.approx(80)
    assert at(points, 0.5) == pytest.approx(10)
    assert at(points[:3], 0.95) is None
    assert at(points, 1.0, "scored") == pytest.approx(4)
    assert at([], 0.5) is None


def test_slopes_are_exponents():
    assert slope([1, 10, 100], [2, 20, 200]) == pytest.approx(1)
    assert slope([1, 10, 100], [3, None, 30]) == pytest.approx(0.5)
    assert slope([1, 10], [3, None]) is None


def test_accuracy_counts_true_ids_that_were_found():
    truth = np.array([[1, 2], [3, -1]])
    assert accuracy(truth, np.array([[2, 9], [-1, -1]])) == pytest.approx(1 / 3)
    assert accuracy(truth, truth) == 1


def topical(rng, n, columns=40, topics=5):
    likes = rng.random((topics, columns)) < 0.25
    dense = (likes[rng.integers(topics, size=n)] & (rng.random((n, columns)) < 0.7)) * rng.random((n, columns))
    return Sparse.from_dense(dense.astype(np.float32))


@pytest.fixture
def index():
    with (
        mock.patch.object(building, "compiled", return_value=False),
        mock.patch.object(searching, "compiled", return_value=False),
    ):
        index = Seismic(n_postings=20, centroid_fraction=0.3, min_cluster_size=1, summary_energy=0.6)
        index.add(topical(np.random.default_rng(0), 150))
        assert len(index.segments) == 1
        yield index


def test_summaries_made_in_numpy_are_those_of_the_build(index):
    (segment,), queries = index.segments, topical(np.random.default_rng(1), 12)
    columns = heaviest(segment, queries, 4)
    again = Seismic.over([rebuilt(segment, columns, summary_energy=0.6)])
    for factor in (1.0, 0.8):
        how = {"query_cut": 4, "heap_factor": factor}
        assert again.search(queries, 5, **how).ids.tolist() == index.search(queries, 5, **how).ids.tolist()
        assert again.work(queries, 5, **how) == index.work(queries, 5, **how)


def test_random_blocks_score_more_rows_and_no_rounding_changes_little(index):
    (segment,), queries = index.segments, topical(np.random.default_rng(1), 12)
    columns, how = heaviest(segment, queries, 4), {"query_cut": 4, "heap_factor": 1.0}
    scored = {}
    for name, change in {"kept": {}, "random": {"shuffle": 0}, "float": {"rounded": False}}.items():
        made = rebuilt(segment, columns, summary_energy=1.0, **change)
        scored[name] = Seismic.over([made]).work(queries, 5, **how).scored
        if name == "random":
            before, after = segment.arrays, made.arrays
            c = columns[0]
            assert after.lists[c + 1] - after.lists[c] == before.lists[c + 1] - before.lists[c]
    assert scored["random"] > scored["kept"]
    assert scored["float"] == pytest.approx(scored["kept"], rel=0.05)


def test_texts_that_are_not_there_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"none of a\.gz"):
        ExpandedText(tmp_path, ["a.gz"])
