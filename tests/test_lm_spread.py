"""Angular spread and context capacity: as a plain count says, and as isotropic vectors must come out."""

from __future__ import annotations

import numpy as np
import pytest

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from inlay.lm import Decoder, HashExperts, stem_decoder  # noqa: E402
from inlay.lm.capacity import context_capacity, distinct_tokens, traffic_of  # noqa: E402
from inlay.lm.editing import edit  # noqa: E402
from inlay.lm.offloading import offload  # noqa: E402
from inlay.lm.spread import angular_spread, token_vectors  # noqa: E402
from inlay.tables import Full, Prefetcher, RowStore  # noqa: E402

V, D, H = 60, 32, 48


def ids(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def gaussian(n, width, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


@pytest.mark.parametrize("width", [64, 256])
def test_random_rows_are_isotropic(width):
    found = angular_spread(gaussian(500, width))
    assert found.p95_abs == pytest.approx(found.isotropic_p95, rel=0.03)
    assert found.mean_abs == pytest.approx(found.isotropic_mean_abs, rel=0.03)
    assert abs(found.mean) < 0.003
    assert found.isotropic_p95 == 1.96 / width**0.5
    common = angular_spread(gaussian(500, width) + 0.6)  # a direction that all share
    assert common.mean == pytest.approx(0.36 / 1.36, abs=0.02)
    assert common.p95_abs > 1.7 * found.p95_abs
    assert "isotropic" in str(found)


def test_it_is_the_plain_computation(monkeypatch):
    rows = gaussian(40, 7)
    monkeypatch.setattr("inlay.lm.spread._AT_ONCE", 40 * 9)  # blocks that do not divide the rows
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(40, 1)]
    counts = np.full(40, 50)
    for found in (angular_spread(rows), angular_spread(torch.from_numpy(rows), counts)):
        assert found.rows == 40
        assert found.mean == pytest.approx(cosines.mean(), abs=1e-6)
        assert found.mean_abs == pytest.approx(np.abs(cosines).mean(), abs=1e-6)
        assert found.p95_abs == pytest.approx(np.quantile(np.abs(cosines), 0.95), abs=1e-6)
        assert found.histogram.sum() == 780
        assert np.abs(found.histogram - np.histogram(cosines, 100, (-1, 1))[0]).sum() <= 2  # rounding at an edge
        assert (found.moved, found.began) == (None, None)


def test_only_tokens_seen_often_count_and_how_far_they_moved():
    table = Full(100, 32)
    before = table.weight.detach().clone()
    table.weight.data[:30] += 3.0
    counts = np.repeat([60, 50, 49, 0], [15, 15, 40, 30])
    found = angular_spread(table, counts, start=before)
    assert found.rows == 30
    assert found.moved == pytest.approx(3 * 32**0.5, rel=1e-5)
    assert found.began == pytest.approx(float(before[:30].norm(dim=1).mean()), rel=1e-5)
    assert found.mean > 0.95
    assert angular_spread(table, counts, least=0).rows == 100
    assert angular_spread(table, counts, least=0, most=20, seed=3).rows == 20
    plain = angular_spread(before, counts, start=before)
    assert plain.moved == 0
    assert "moved by" in str(plain)


def test_rows_without_a_direction_and_too_few_are_refused():
    rows = gaussian(30, 8)
    with pytest.raises(BadInput, match="needs 10 of them, got 9"):
        angular_spread(rows[:9])
    with pytest.raises(BadInput, match="got 4 seen at least 50 times"):
        angular_spread(rows, np.repeat([50, 49], [4, 26]))
    for wrong in (0.0, np.nan, np.inf):
        bad = rows.copy()
        bad[17] = wrong
        with pytest.raises(BadInput, match="row 17 has length"):
            angular_spread(bad)
        assert angular_spread(bad, np.where(np.arange(30) == 17, 0, 90)).rows == 29
    for given, match in (
        ({"rows": rows[0]}, "floats"),
        ({"rows": rows.astype(int)}, "floats"),
        ({"rows": torch.nn.Linear(3, 3)}, "a table or floats"),
        ({"rows": rows, "counts": np.ones(29, int)}, "counts must be"),
        ({"rows": rows, "counts": np.ones(30)}, "counts must be"),
        ({"rows": rows, "start": rows[:, :4]}, "start"),
        ({"rows": rows, "least": -1}, "least"),
        ({"rows": rows, "most": 5}, "most"),
        ({"rows": rows, "bins": 0}, "bins"),
    ):
        with pytest.raises(BadInput, match=match):
            angular_spread(**given)


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_vectors_are_those_of_the_parts(batch):
    torch.manual_seed(0)
    model = stem_decoder(V, D, 3, 4, hidden=H, where=[2], start="scaled_normal").eval()
    text = ids(5, 11)
    hidden = model(text, capture=True).hidden
    for layer in (1, 2):
        block = model.blocks[layer]
        h = hidden[layer]
        at = torch.arange(11)
        h = h + block.attention(block.attention_norm(h), at, model.position, None, layer)
        x = block.feed_forward_norm(h)
        part = block.feed_forward
        up = part.table(text) if layer == 2 else part.up(x)
        down = torch.nn.functional.silu(part.gate(x)) * up
        for of, made in (("up", up), ("down", down)):
            tokens, vectors = token_vectors(model, text, layer, of, batch=batch)
            assert np.array_equal(tokens, np.unique(text))
            for token, vector in zip(tokens, vectors):
                row, place = (text == int(token)).nonzero()[0].tolist()
                torch.testing.assert_close(vector, made[row, place], atol=1e-5, rtol=0)
    with edit(model, [1], [7]):
        tokens, edited = token_vectors(model, text[:1], 2, "down")
    changed = (edited != token_vectors(model, text[:1], 2, "down")[1]).any(1)
    assert tokens[changed.numpy()].tolist() == [int(text[0, 1])]  # it is the last layer
    tokens, expected = token_vectors(model, text, 2)
    with offload(model, chunk=4) as runtime:
        assert torch.equal(token_vectors(runtime, text, 2)[1], expected)
        often = np.where(np.isin(np.arange(V), tokens), 50, 0)
        found = angular_spread(runtime.blocks[2].feed_forward.table, often)
        assert found.mean == pytest.approx(angular_spread(expected).mean, abs=1e-6)


def test_which_layers_have_vectors():
    model = Decoder(V, D, 2, 4, hidden=H, feed_forward={1: HashExperts(V, D, H, experts=2)})
    for given, match in (
        ({"layer": 1}, "HashExperts"),
        ({"layer": 2}, "layer 2 is not"),
        ({"layer": 0, "of": "gate"}, "of must be"),
        ({"layer": 0, "ids": ids(3)}, "texts, length"),
    ):
        with pytest.raises(BadInput, match=match):
            token_vectors(model, **{"ids": ids(2, 5)} | given)


def test_the_capacity_of_a_toy_text_is_counted():
    torch.manual_seed(0)
    model = stem_decoder(V, D, 4, 4, hidden=H, where=[1, 3])
    text = [5, 6, 5, 7, 7, 5, 8, 6]
    assert distinct_tokens(text).tolist() == [1, 2, 2, 3, 3, 3, 4, 4]
    found = context_capacity(model, text)
    assert found.lengths.tolist() == [1, 2, 4, 8]
    assert found.distinct.tolist() == [1, 2, 3, 4]
    assert found.numbers.tolist() == [n * 2 * H for n in (1, 2, 3, 4)]
    both = context_capacity(model, [text, [9] * 8], lengths=[3, 7])
    assert both.distinct.tolist() == [1.5, 2.5]
    assert np.isnan(context_capacity(model, text, [8]).exponent)
    long = np.arange(V)
    assert context_capacity(model, long).exponent == pytest.approx(1.0)
    assert context_capacity(model, torch.zeros(40, dtype=torch.long)).exponent == pytest.approx(0.0)
    rows = {int(token) for token in text}
    touched = torch.zeros(V, dtype=torch.bool)
    model.loss(torch.tensor([text]), torch.tensor([text])).backward()
    grad = model.blocks[1].feed_forward.table.weight.grad.coalesce()
    touched[grad.indices()[0]] = True
    assert set(touched.nonzero().flatten().tolist()) == rows  # what is counted is what is read


def test_traffic_is_what_a_prefetcher_counts():
    text = np.minimum(np.random.default_rng(0).zipf(1.3, 600), V) - 1
    store = RowStore.of(gaussian(V, 4))
    rates = []
    for chunk in (1, 16):
        for demand in traffic_of(text, V, [1, 4, 16, V], chunk=chunk):
            with Prefetcher(store, capacity=demand.capacity) as ahead:
                for start in range(0, 600, chunk):
                    for run in ahead.split(text[start : start + chunk]):
                        ahead.submit(run)
                        ahead.take()
                traffic = ahead.traffic
            assert (demand.ids, demand.distinct) == (600, traffic.hits + traffic.misses)
            assert demand.hit_rate == pytest.approx(traffic.hit_rate)
            rates.append(demand.hit_rate)
    assert rates[:4] == sorted(rates[:4])


def test_bad_counts_are_named():
    model = stem_decoder(V, D, 2, 4, hidden=H)
    for given, match in (
        ({"ids": []}, "at least one token"),
        ({"ids": [1.5]}, "integers"),
        ({"ids": [1, V]}, f"id {V}"),
        ({"ids": [1, -1]}, "id -1"),
        ({"ids": [1, 2], "lengths": [3]}, "ascend from 1 to at most 2"),
        ({"ids": [1, 2], "lengths": [2, 1]}, "ascend"),
        ({"ids": [1, 2], "lengths": [0, 1]}, "ascend"),
        ({"ids": [1, 2], "lengths": []}, "at least one"),
        ({"ids": [1, 2], "lengths": [1.0]}, "integers"),
    ):
        with pytest.raises(BadInput, match=match):
            context_capacity(model, **given)
    with pytest.raises(BadInput, match="no STEM part"):
        context_capacity(Decoder(V, D, 1, 4, hidden=H), [1])
    for given, match in (
        ({"ids": [[1]]}, "one text"),
        ({"chunk": 0}, "chunk"),
        ({"capacities": [0]}, "capacity"),
        ({"ids": [V]}, f"id {V}"),
    ):
        with pytest.raises(BadInput, match=match):
            traffic_of(**{"ids": [1, 2], "vocab": V, "capacities": [1]} | given)
