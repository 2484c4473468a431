"""Filtered search: the planner, post-filtering, lists, ACORN, graphs of ranges and of labels, and the protocol."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.evaluation.filtered_bench import BANDS, Attribute, FilteredBench, band_of, correlation_of
from inlay.evaluation.filtered_corpus import made_up, read_attributes
from inlay.evaluation.filtered_sweep import Method, run, shown
from inlay.evaluation.vector_files import read_fvecs, read_ivecs, write_fvecs, write_ivecs
from inlay.indexes.acorn import Acorn
from inlay.indexes.dense_graph import DenseGraph
from inlay.indexes.filter_plan import FilterCosts, WalkCost, choose, must_probe
from inlay.indexes.flat import Flat
from inlay.indexes.labelled_graph import LabelledGraph
from inlay.indexes.post_filter import post_filtered
from inlay.indexes.range_graph import RangeGraph
from inlay.kernels.dense_graph import NONE
from inlay.types import Neighbours

pytest.importorskip("numba")


def clustered(rng, n=400, dim=16, clusters=12):
    """Unit rows, and the cluster of each."""
    centres, own = rng.standard_normal((clusters, dim)), rng.integers(clusters, size=n)
    rows = centres[own] + 0.5 * rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), own


def exact(rows, queries, k, allow):
    index = Flat(rows.shape[1])
    index.add(rows)
    return index.search(queries, k, allow=allow)


def recall(found, truth):
    return sum(np.isin(t[t >= 0], f).sum() for t, f in zip(truth.ids, found.ids)) / (truth.ids >= 0).sum()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def world():
    """A graph of 4,000 rows in 20 clusters, and queries that are none of them."""
    rng = np.random.default_rng(1)
    rows, own = clustered(rng, 4060, 16, 20)
    index = DenseGraph(16, connectivity=8, expansion_add=64)
    index.add(rows[:4000])
    return index, rows[:4000], own[:4000], rows[4000:], own[4000:]


# --- the planner


def costs_of(**walks):
    """Costs in which a walk's time is c / share."""
    own = {way.replace("_", "-"): tuple(WalkCost(s, 10, c / s) for s in (0.5, 0.1, 0.01)) for way, c in walks.items()}
    return FilterCosts(
        call=30, scanned=0.03, scored=0.01, probe=50, visited=0.1, walks=own, recall=0.9, k=10
    )  # fmt: skip


def test_the_cheapest_way_is_chosen():
    costs, efs = costs_of(through=50, lists=100), {"through": 10, "lists": 10}
    assert choose(costs, 100, 100_000, efs).route == "scan"
    assert choose(costs, 50_000, 100_000, efs).route == "through"
    away = choose(costs, 50_000, 100_000, efs, local=0.01)  # the filter is elsewhere: a walk would be long
    assert away.route == "lists"
    assert away.predicted["lists"] == choose(costs, 50_000, 100_000, efs).predicted["lists"]
    assert away.correlation == pytest.approx(0.02)
    assert away.share == 0.5
    near = choose(costs, 5_000, 100_000, {"through": 10}, local=0.9)
    assert near.route == "through"
    assert near.correlation == pytest.approx(18)


@pytest.mark.parametrize(("other", "hops", "route"), [
    ("lists", 1.9, "two-hop"), ("lists", 2.1, "lists"), ("through", 1.9, "two-hop"), ("through", 2.1, "through"),
    ("through", 0.9, "two-hop"),
])  # fmt: skip
def test_two_hops_are_taken_where_nearly_as_cheap(other, hops, route):
    costs = costs_of(**{other: 50, "two_hop": 50 * hops})
    assert choose(costs, 50_000, 100_000, {other: 10, "two-hop": 10}).route == route
    # But never instead of a scan, which costs the same wherever the filter is, and finds everything.
    assert choose(costs, 100, 100_000, {other: 10, "two-hop": 10}).route == "scan"


@given(st.floats(0.0001, 1.0), st.floats(0.0001, 1.0), st.integers(1, 200))
def test_costs_rise_as_fewer_pass_and_more_is_kept(a, b, ef):
    for costs in (costs_of(through=50, lists=7), FilterCosts.assumed(100_000, 448)):
        for way in costs.walks:
            low, high = sorted((a, b))
            assert costs.walk(way, low) >= costs.walk(way, high) * (1 - 1e-9) or way == "two-hop"
            assert costs.walk(way, a, ef) <= costs.walk(way, a, ef + 1)
            assert 0 < costs.walk(way, a) < math.inf
    assert costs.walk("lists", 0.5) == math.inf
    assert costs.scan(1000, 1) > costs.scan(1000, 10) > costs.scan(999, 10)


def test_a_probe_is_made_only_where_it_may_change_the_choice():
    efs = {"through": 10}
    assert not must_probe(costs_of(through=50), 10, 100_000, efs)  # a scan is cheaper than a probe
    assert not must_probe(costs_of(through=50), 20_000, 100_000, efs)  # a walk is expected at 250 µs, a scan at 600
    assert must_probe(costs_of(through=5), 10_000, 1_000_000, efs)  # a scan takes 330, a walk 500, or 50 with luck
    assert not must_probe(costs_of(through=12), 10_000, 1_000_000, efs)  # 120 and the probe are no gain worth a risk
    trusting = replace(costs_of(two_hop=5), recall=0.0)
    assert must_probe(trusting, 20_000, 100_000, {"two-hop": 10})  # it would not tell what it missed
    assert not must_probe(costs_of(two_hop=5), 20_000, 100_000, {"two-hop": 10})  # that was measured
    assert not must_probe(costs_of(lists=1, two_hop=5), 20_000, 100_000, {"two-hop": 10, "lists": 10})


def test_costs_are_measured_kept_and_reach_their_recall(world, tmp_path):
    index, rows, _, queries, _ = world
    table = index.calibrate_filters(queries, 10, recalls=(0.99, 0.9), shares=(0.5, 0.1))
    assert [one.recall for one in table] == [0.9, 0.99]
    for cheap, dear in zip(*(one.walks["through"] for one in table)):
        assert cheap.ef <= dear.ef
    assert {"lists", "through"} <= set(table[0].walks)
    assert all(0 < cost.micros < 1e6 for one in table for own in one.walks.values() for cost in own)
    assert FilterCosts.from_dict(json.loads(json.dumps(table[0].to_dict()))) == table[0]
    assert index.filter_costs(10, 0.93) == table[1]
    assert index.filter_costs(10) == table[0]
    assert index.filter_costs(10, 0.999).recall == 0
    allow = np.random.default_rng(7).random(len(rows)) < 0.3
    for route in ("lists", "through", None):
        found = index.search(queries, 10, allow=allow, recall=0.99, route=route)
        assert recall(found, exact(rows, queries, 10, allow)) > 0.96
    with pytest.raises(BadInput, match="call calibrate"):
        index.search(queries, 10, allow=allow, recall=0.999)
    for bad, message in (
        ({"recalls": (1.2,)}, "recalls lie above 0"), ({"shares": (0.0,)}, "shares of allowed rows"),
        ({"recalls": ()}, "recalls lie"), ({"k": 4000}, "more than 4000 rows"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=message):
            index.calibrate_filters(queries, **bad)


def test_a_plan_tells_what_was_done(world):
    index, rows, own, queries, of = world
    allow = own == of[0]
    found, plans = index.explain(queries, 10, allow=allow)
    assert np.array_equal(found.ids, index.search(queries, 10, allow=allow).ids)
    assert len(plans) == len(queries)
    for plan in plans:
        assert plan.matches == allow.sum()
        assert plan.share == pytest.approx(allow.mean())
        assert plan.measured > 0
        assert "rows pass" in str(plan)
        assert plan.route in str(plan)
    with pytest.raises(BadInput, match="give allow"):
        index.explain(queries, 10, allow=None)
    assert index.explain(queries, 3, allow=np.ones(len(rows), bool))[1][0].route == "all"


def test_a_probe_sees_where_the_filter_is(world):
    """With costs that make a walk worth a look, each query goes its own way."""
    index, rows, own, queries, of = world
    allow = np.isin(own, [0, 1, 2, 3, 4, 5])
    costs = replace(costs_of(two_hop=100), scanned=1, scored=1, recall=0.0)
    from inlay.indexes.filtered_walks import filtered

    answer = filtered(index, index._asked(queries), 10, allow, costs, lambda share: {"two-hop": 20}, None, told=True)
    inside = np.isin(of, [0, 1, 2, 3, 4, 5])
    local = np.array([plan.correlation for plan in answer.plans])
    assert local[inside].mean() > 2 > 0.7 > local[~inside].mean()
    assert {plan.route for plan in np.array(answer.plans, object)[inside]} == {"two-hop"}
    assert "scan" in {plan.route for plan in answer.plans}
    assert recall(answer.neighbours, exact(rows, queries, 10, allow)) > 0.9


@pytest.mark.parametrize("route", ["two-hop", "through", "post", "lists"])
def test_no_answer_is_shorter_than_it_need_be(world, route):
    """Of a cluster far from the query, a walk of two hops finds nothing by itself."""
    index, rows, own, queries, of = world
    allow = own == 3
    asked = queries[of != 3]
    found, plans = index.explain(asked, 10, allow=allow, route=route, ef=10)
    assert (found.ids >= 0).all()
    assert allow[found.ids].all()
    assert {plan.route for plan in plans} == {route}
    if route == "two-hop":
        assert any(plan.completed for plan in plans)
    few = np.zeros(len(rows), bool)
    few[[5, 77, 2000]] = True
    assert np.sort(index.search(asked, 10, allow=few, route=route, ef=10).ids, axis=1)[:, -3:].tolist() == [
        [5, 77, 2000]
    ] * len(asked)


def test_a_walk_that_costs_more_than_a_scan_is_ended_by_one(world):
    index, rows, own, queries, of = world
    from inlay.indexes.filtered_walks import LEAST, filtered

    allow = own == 3
    costs = replace(costs_of(through=1e-3), visited=1e3, scanned=1.0, scored=1.0)  # it believes in walking
    asked = queries[of != 3]
    answer = filtered(index, index._asked(asked), 10, allow, costs, lambda share: {"through": 64}, None, told=True)
    assert any(plan.completed for plan in answer.plans)
    ended = [i for i, plan in enumerate(answer.plans) if plan.completed]
    assert recall(Neighbours(*(x[ended] for x in answer.neighbours)), exact(rows, asked[ended], 10, allow)) > 0.999
    assert answer.scored / len(asked) < 2 * LEAST + 100 + allow.sum()


def test_a_walk_that_meets_nothing_is_left_for_one_of_two_hops(world):
    """Half of the rows pass, but none of those near the query: walking through them all would not end soon."""
    index, rows, own, queries, of = world
    from inlay.indexes.filtered_walks import LEAST, filtered
    from inlay.kernels.dense_graph import LOOK

    allow, asked = np.isin(own, range(10)), queries[of >= 10]
    costs = replace(costs_of(through=1e-3, two_hop=1.0), scanned=5.0, scored=5.0)
    efs = {"through": 64, "two-hop": 64}
    answer = filtered(index, index._asked(asked), 10, allow, costs, lambda share: efs, None, told=True)
    assert {plan.route for plan in answer.plans} == {"through"}
    assert sum(plan.completed for plan in answer.plans) > len(asked) / 2
    assert recall(answer.neighbours, exact(rows, asked, 10, allow)) > 0.8
    alone = filtered(index, index._asked(asked), 10, allow, costs, lambda share: efs, "two-hop", told=True)
    assert answer.scored < alone.scored + len(asked) * 2 * LOOK < len(asked) * (LEAST + allow.sum())
    # And it is not left where enough of the first rows pass.
    near = queries[of < 10]
    inside = filtered(index, index._asked(near), 10, allow, costs, lambda share: efs, None, told=True)
    assert not any(plan.completed for plan in inside.plans)


# --- post-filter


def test_post_filter_asks_for_more_until_it_has_enough(rng):
    rows, _ = clustered(rng, 500)
    index = Flat(16)
    index.add(rows)
    asked = []

    def search(queries, wide):
        asked.append((len(queries), wide))
        return index.search(queries, wide)

    near = np.argsort(-(rows @ rows[0]))
    allow = np.zeros(500, bool)
    allow[near[-50:]] = True  # what passes is farthest from the first query
    queries = np.stack([rows[0], rows[near[-1]]])
    found, truth = post_filtered(search, queries, 10, allow), index.search(queries, 10, allow=allow)
    assert np.array_equal(found.ids, truth.ids)
    assert found.scores == pytest.approx(truth.scores, abs=1e-6)
    assert asked[0] == (2, 150)
    assert [wide for _, wide in asked] == [150, 300, 500]
    assert asked[1][0] == 1  # only the query that came back short is asked again


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_post_filter_is_exact_over_an_exact_index(n, k, seed):
    rng = np.random.default_rng(seed)
    rows, queries, allow = rng.standard_normal((n, 3)), rng.standard_normal((3, 3)), rng.random(n) < rng.random()
    index = Flat(3)
    index.add(rows)
    found = post_filtered(lambda q, wide: index.search(q, wide), queries.astype(np.float32), k, allow)
    assert np.array_equal(found.ids, index.search(queries, k, allow=allow).ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"margin": 0}, "margin must be"), ({"allow": np.ones(3)}, "allow must be bool"), ({"k": 0}, "k must be")],
)
def test_bad_post_filters(change, message):
    given = {"k": 1, "allow": np.ones(3, bool), "margin": 1.5, **change}
    with pytest.raises(BadInput, match=message):
        post_filtered(lambda q, wide: Neighbours(np.zeros((1, 1)), np.zeros((1, 1), int)), np.ones((1, 3)), **given)


# --- lists


def test_lists_hold_every_row_once_and_effort_buys_recall(world):
    index, rows, _, queries, _ = world
    lists = index._listed()
    assert np.array_equal(np.sort(lists.rows), np.arange(len(rows)))
    assert lists.starts[-1] == len(rows)
    assert len(lists.starts) - 1 == round(2 * len(rows) ** 0.5)
    for share in (0.5, 0.05):
        allow = np.random.default_rng(3).random(len(rows)) < share
        truth = exact(rows, queries, 10, allow)
        found = [index.search(queries, 10, allow=allow, route="lists", ef=effort) for effort in (1, 4, 40)]
        reached = [recall(one, truth) for one in found]
        assert reached[0] < reached[1] <= reached[2]
        assert reached[2] > 0.99
        assert (found[0].ids >= 0).all()
        scored = [index.scored(queries, 10, allow=allow, route="lists", ef=effort) for effort in (1, 4, 40)]
        assert scored[0] < scored[1] < scored[2] <= allow.sum()


# --- ACORN


@pytest.fixture(scope="module")
def acorn():
    rng = np.random.default_rng(2)
    rows, own = clustered(rng, 3040, 16, 1)  # of clusters apart, a graph without diverse links falls into parts
    index = Acorn(16, connectivity=8, gamma=12, uncompressed=16)
    index.add(rows[:3000])
    return index, rows[:3000], own[:3000], rows[3000:]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.15, 0.05, 0.0])
def test_acorn_finds_what_passes(acorn, share):
    index, rows, _, queries = acorn
    allow = np.random.default_rng(3).random(len(rows)) < share
    found, truth = index.search(queries, 10, allow=allow), exact(rows, queries, 10, allow)
    assert np.array_equal(found.ids >= 0, truth.ids >= 0)
    assert allow[found.ids[found.ids >= 0]].all()
    if share:
        assert recall(found, truth) > (0.999 if share < 1 / 12 else 0.95)
        assert recall(index.search(queries, 10), exact(rows, queries, 10, None)) > 0.95
    if share == 0.15:  # fewer than in a scan, and than of an ordinary graph without two hops
        assert index.scored(queries, 10, allow=allow) < allow.sum()


def test_acorn_keeps_the_nearest_and_compresses_the_rest(acorn):
    index, rows, _, _ = acorn
    graph, slots = index._graph, 16 + 12
    assert graph.links.shape[1] == slots
    assert graph.higher.shape[1] == 8 * 12
    near, recalled = np.argsort(-(rows @ rows.T), axis=1)[:, 1:9], 0
    for row in range(0, 3000, 50):
        own = graph.links[row][graph.links[row] != NONE]
        assert len(set(own.tolist())) == len(own)
        assert row not in own
        recalled += np.isin(near[row], own).sum()
    assert recalled > 0.8 * 8 * 60  # no rule of diversity: the nearest are all there


def test_compression_leaves_out_what_a_further_link_leads_to():
    """Rows on a line. Of the far ones each leads to the next, so that every other one can go."""
    from inlay.kernels import acorn_numba
    from inlay.kernels.dense_graph import Room
    from inlay.kernels.dense_graph_scores_numba import _key

    index = Acorn(2, metric="l2", connectivity=2, gamma=8, uncompressed=2)
    index._append(np.stack([np.arange(8.0), np.zeros(8)], axis=1).astype(np.float32), np.zeros((8, 2), np.float32))
    graph = index._graph
    for row in range(8):
        graph.links[row, 0] = min(row + 1, 7)
    query = graph.codes[0].astype(np.int16)
    query[-8:] = 0
    keys = np.sort(np.array([_key(graph, query, graph.facts[0, -2], np.uint64(row)) for row in range(1, 8)]))
    chosen = np.zeros(8, np.uint32)
    taken = acorn_numba._compress(graph, keys, 7, 2, 8, Room.of(graph), chosen)
    assert chosen[:taken].tolist() == [1, 2, 3, 5, 7]


def test_acorn_one_looks_past_every_link():
    rng = np.random.default_rng(4)
    rows, _ = clustered(rng, 1000, 16, 1)
    index = Acorn(16, connectivity=8, gamma=1)
    index.add(rows)
    assert index.settings["expansion_add"] == 16
    allow = np.random.default_rng(3).random(1000) < 0.2
    walked = index._walked(index._asked(rows[:20]), 10, allow, 64, "compressed")[0]
    assert recall(walked, exact(rows, rows[:20], 10, allow)) > 0.9
    assert "gamma=1" in repr(index)


def test_acorn_survives_its_file(acorn, tmp_path):
    index, rows, _, queries = acorn
    index.save(tmp_path / "acorn")
    again = Acorn.load(tmp_path / "acorn")
    assert again.settings == index.settings
    assert again.nbytes == index.nbytes
    allow = np.random.default_rng(3).random(len(rows)) < 0.3
    assert np.array_equal(again.search(queries, 5, allow=allow).ids, index.search(queries, 5, allow=allow).ids)
    with pytest.raises(BadInput, match="holds a acorn graph, not a dense graph"):
        DenseGraph.load(tmp_path / "acorn")
    raw = (tmp_path / "acorn").read_bytes()
    (tmp_path / "acorn").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Corrupt):
        Acorn.load(tmp_path / "acorn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma must be"), ({"gamma": 2.5}, "gamma must be"), ({"uncompressed": 0}, "uncompressed must"),
        ({"connectivity": 4, "gamma": 2, "uncompressed": 17}, "uncompressed must be at most"),
        ({"expansion_add": -1}, "expansion_add must be"), ({"metric": "l1"}, "metric must be one of"),
    ],
)  # fmt: skip
def test_bad_acorns(options, message):
    with pytest.raises(BadInput, match=message):
        Acorn(4, **options)


def test_an_acorn_is_not_planned(acorn):
    index, rows, _, queries = acorn
    with pytest.raises(BadInput, match="set gamma"):
        index.calibrate_filters(queries)
    with pytest.raises(BadInput, match="route must be scan, or None"):
        index.search(queries, 1, allow=np.ones(len(rows), bool), route="two-hop")


# --- ranges


def ranged(rng, n=3000, leaf=100, **settings):
    rows, own = clustered(rng, n, 16, 20)
    values = rng.integers(0, n // 2, size=n) + 100.0 * own  # goes with the rows
    index = RangeGraph(16, connectivity=8, expansion_add=48, leaf=leaf, **settings)
    index.add(rows, values)
    return index, rows, values


@pytest.fixture(scope="module")
def ranges():
    return ranged(np.random.default_rng(6))


@given(st.integers(-100, 4000), st.integers(-100, 4000))
@settings(deadline=None, max_examples=60)
def test_a_range_is_covered_exactly_by_few_spans(ranges, a, b):
    index, _, values = ranges
    low, high = min(a, b), max(a, b)
    spans = index.cover(low, high)
    inside = np.concatenate([np.arange(first, last) for first, last, _ in spans]) if spans else np.empty(0, int)
    wanted = np.flatnonzero((np.sort(values) >= low) & (np.sort(values) <= high))
    assert np.array_equal(np.sort(inside), wanted)
    assert sum(graph for *_, graph in spans) <= 2 * len(index._depths)
    assert all(last - first <= 400 for first, last, graph in spans if not graph)


@pytest.mark.parametrize("low", [-np.inf, 500.0, 1200.5, 3000.0])
@pytest.mark.parametrize("high", [np.inf, 1300.0, 1200.0])
def test_ranges_find_the_nearest_within(ranges, low, high):
    index, rows, values = ranges
    allow = (values >= low) & (values <= high)
    found, truth = index.search(rows[:30], 10, low=low, high=high, ef=48), exact(rows, rows[:30], 10, allow)
    assert np.array_equal(found.ids >= 0, truth.ids >= 0)
    assert allow[found.ids[found.ids >= 0]].all()
    if allow.any():
        assert recall(found, truth) > 0.95
        hits = (found.ids == truth.ids) & (truth.ids >= 0)
        assert found.scores[hits] == pytest.approx(truth.scores[hits], abs=1e-5)


def test_each_query_may_have_a_range_of_its_own(ranges):
    index, rows, values = ranges
    lows, highs = values[:20] - 50, values[:20] + 50
    found = index.search(rows[:20], 5, low=lows, high=highs)
    for i in range(20):
        one = index.search(rows[i], 5, low=lows[i], high=highs[i])
        assert np.array_equal(found.ids[i], one.ids[0])
        assert found.ids[i, 0] == i


def test_ranges_add_save_and_refuse(rng, tmp_path):
    index, rows, values = ranged(rng, 500, 50, dtype="float16", metric="l2")
    more = RangeGraph(16, connectivity=8, expansion_add=48, leaf=50, dtype="float16", metric="l2")
    for part in (slice(0, 200), slice(200, 200), slice(200, 500)):
        more.add(rows[part], values[part])
    index.save(tmp_path / "ranges")
    again = RangeGraph.load(tmp_path / "ranges")
    assert (again.settings, again.nbytes, len(again)) == (index.settings, index.nbytes, 500)
    for other in (more, again):
        a, b = (one.search(rows[:9], 5, low=300, high=900) for one in (index, other))
        assert np.array_equal(a.ids, b.ids)
    raw = bytearray((tmp_path / "ranges").read_bytes())
    raw[len(raw) // 2] ^= 8
    (tmp_path / "ranges").write_bytes(raw)
    with pytest.raises(Corrupt):
        RangeGraph.load(tmp_path / "ranges")
    (tmp_path / "ranges").write_bytes(raw[:300])
    with pytest.raises(Corrupt):
        RangeGraph.load(tmp_path / "ranges")
    assert RangeGraph(3).search(np.ones((2, 3)), 2).ids.tolist() == [[-1, -1]] * 2
    for call, message in (
        (lambda: index.add(rows[:2], [1.0]), r"values must be \[2\]"),
        (lambda: index.add(rows[:1], [np.nan]), r"values\[0\] is not finite"),
        (lambda: index.add(rows[:1], ["a"]), "values must be numbers"),
        (lambda: index.search(rows[:1], 1, low="x"), "low must be a number"),
        (lambda: index.search(rows[:3], 1, high=[1, 2]), "one for each of 3 queries"),
        (lambda: index.search(rows[:1], 1, ef=0), "ef must be a positive integer"),
        (lambda: RangeGraph(3, leaf=1), "leaf must be a whole number from 2 on"),
        (lambda: RangeGraph(3, metric="dot"), "metric must be cosine or l2"),
    ):
        with pytest.raises(BadInput, match=message):
            call()
    with pytest.raises(SpaceMismatch):
        index.search(np.ones((1, 4)), 1)


# --- labels


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(8)
    rows, own = clustered(rng, 3000, 16, 20)
    labels = [[f"cluster {c}", f"digit {i % 10}", *(["rare"] if i % 500 == 3 else [])] for i, c in enumerate(own)]
    index = LabelledGraph(16, degree=24, expansion_add=48)
    index.add(rows, labels)
    return index, rows, labels


def with_any(labels, wanted):
    return np.array([bool(set(own) & set(wanted)) for own in labels])


@pytest.mark.parametrize("wanted", [["digit 3"], ["cluster 5"], ["rare"], ["digit 3", "cluster 5"], ["rare", "none"]])
def test_labels_find_the_nearest_that_have_them(labelled, wanted):
    index, rows, labels = labelled
    allow = with_any(labels, wanted)
    found, truth = index.search(rows[:40], 10, labels=wanted, ef=96), exact(rows, rows[:40], 10, allow)
    assert allow[found.ids[found.ids >= 0]].all()
    assert recall(found, truth) > 0.97


def test_labels_may_be_left_out_or_unknown(labelled):
    index, rows, _ = labelled
    assert recall(index.search(rows[:40], 10), exact(rows, rows[:40], 10, None)) > 0.95
    assert (index.search(rows[:2], 3, labels="unheard of").ids == -1).all()
    one, several = index.search(rows[:5], 3, labels="digit 3"), index.search(rows[:5], 3, labels={"digit 3"})
    assert np.array_equal(one.ids, several.ids)


def test_an_edge_is_pruned_only_where_the_other_way_has_the_labels():
    """Three rows on a line; the middle one lies on the way from the first to the last."""
    rows = np.array([[0, 1], [1, 1], [2.2, 1]], dtype=np.float32)

    def edge(middle):
        index = LabelledGraph(2, metric="l2", degree=2, expansion_add=4, alpha=1)
        index.add(rows, [["a", "b"], middle, ["a"]])
        return 2 in index._graph.links[0]

    assert not edge(["a"])  # who walks for a can go by the middle
    assert not edge(["a", "c"])
    assert edge(["b"])
    assert edge(["c"])


def test_every_row_with_a_label_is_reached_from_where_its_walks_begin(labelled):
    index, _, labels = labelled
    for label in ("digit 7", "cluster 2", "rare"):
        allow = with_any(labels, [label])
        seen, edge = set(), set(index._entries[index._bits[label]].tolist())
        while edge:
            seen |= edge
            links = {int(x) for row in edge for x in index._graph.links[row] if x != NONE}
            edge = {row for row in links if allow[row]} - seen
        assert len(seen) == allow.sum(), label
        assert all(allow[row] for row in seen)


def test_labels_add_save_and_refuse(labelled, tmp_path):
    index, rows, labels = labelled
    index.save(tmp_path / "labels")
    again = LabelledGraph.load(tmp_path / "labels")
    assert (again.settings, again.nbytes, again.labels) == (index.settings, index.nbytes, index.labels)
    assert np.array_equal(again.search(rows[:9], 5, labels="rare").ids, index.search(rows[:9], 5, labels="rare").ids)
    assert "3000 rows with 31 labels" in repr(index)
    raw = bytearray((tmp_path / "labels").read_bytes())
    raw[len(raw) // 2] ^= 8
    (tmp_path / "labels").write_bytes(raw)
    with pytest.raises(Corrupt):
        LabelledGraph.load(tmp_path / "labels")
    small = LabelledGraph(16, degree=8, expansion_add=16)
    assert (small.search(rows[:1], 2).ids == -1).all()
    small.add(rows[:30], [own[0] for own in labels[:30]])
    small.add(rows[30:60], [own[1:] if i else [] for i, own in enumerate(labels[30:60])])
    assert len(small) == 60
    assert small.search(rows[30], 1, ef=60).ids.tolist() == [[30]]  # it has no label
    for i in (5, 45):
        assert small.search(rows[i], 1, labels=labels[i][:2]).ids.tolist() == [[i]]
    for call, message in (
        (lambda: small.add(rows[:2], ["a"]), "2 rows need as many labels, got 1"),
        (lambda: small.add(rows[:1], [[{}]]), "labels are numbers or names"),
        (lambda: small.search(rows[:1], 1, labels=[]), "labels names none"),
        (lambda: small.search(rows[:1], 1, ef=True), "ef must be"),
        (lambda: LabelledGraph(3, metric="dot"), "metric must be cosine or l2"),
        (lambda: LabelledGraph(3, alpha=0.9), "alpha must be a number from 1 on"),
        (lambda: LabelledGraph(3, degree=1), "degree must be"),
    ):
        with pytest.raises(BadInput, match=message):
            call()


# --- the bench


@pytest.fixture(scope="module")
def bench():
    rng = np.random.default_rng(9)
    rows, _ = clustered(rng, 2100, 12, 10)
    attributes = made_up(rows[:2000])
    return FilteredBench.build(rows[:2000], attributes, rows[2000:], each=6, k=20, seed=1)


def test_tasks_are_what_they_say(bench):
    for task in bench.tasks:
        mask = bench.mask(task)
        assert task.matches == mask.sum() > 0
        assert task.share == pytest.approx(mask.mean())
        low, high = BANDS[task.band]
        assert low < task.share <= high
        truth, scores = exact(bench.vectors, bench.queries[task.query], 20, mask).scores[0], bench.queries[task.query]
        assert bench.vectors[task.truth] @ scores == pytest.approx(truth[np.isfinite(truth)], abs=1e-6)
        assert mask[task.truth].all()
        assert len(set(task.truth.tolist())) == len(task.truth) == min(20, task.matches)
    kinds = {(task.kind, task.band) for task in bench.tasks}
    assert {("r", band) for band in range(5)} <= kinds
    assert {"em", "r", "emis"} == {kind for kind, _ in kinds}
    near = [task.correlation for task in bench.tasks if task.attribute == "clusters"]
    assert min(near) < 0.9
    assert max(near) > 1.1


def test_the_same_seed_draws_the_same_tasks(bench):
    again, other = (
        FilteredBench.build(bench.vectors, bench.attributes, bench.queries, each=6, k=20, seed=seed) for seed in (1, 2)
    )
    assert [(t.query, t.value) for t in again.tasks] == [(t.query, t.value) for t in bench.tasks]
    assert [t.correlation for t in again.tasks] == pytest.approx([t.correlation for t in bench.tasks], rel=1e-5)
    assert [t.query for t in other.tasks] != [t.query for t in bench.tasks]


def test_correlation_is_low_where_the_filter_is(rng):
    scores = -np.linspace(0, 1, 1000)
    near, far = correlation_of(scores, np.arange(100), rng), correlation_of(scores, np.arange(900, 1000), rng)
    every = correlation_of(scores, np.arange(0, 1000, 10), rng)
    assert near < 0.6 < every < 1.6 < far


def test_attributes_select(rng):
    numbers = Attribute("r", [5, 1, 3, 3, 9])
    assert numbers.mask((2, 5)).tolist() == [True, False, True, True, False]
    assert not numbers.mask((6, 8)).any()
    names = Attribute("em", ["b", "a", "b"])
    assert names.rows("b").tolist() == [0, 2]
    assert not names.mask("c").any()
    sets = Attribute("emis", [["x", "y"], [], ["y", "y"]])
    assert sets.rows("y").tolist() == [0, 2]
    assert sets.of(np.array([2, 1])).rows("y").tolist() == [0]
    for bad in (lambda: Attribute("set", []), lambda: Attribute("r", ["a"]), lambda: Attribute("r", [np.nan]),
                lambda: names.mask(3), lambda: Attribute("em", [[1], [2]])):  # fmt: skip
        with pytest.raises(BadInput):
            bad()
    assert [band_of(share) for share in (0.001, 0.0011, 0.1, 0.11, 1.0)] == [0, 1, 2, 3, 4]


def test_a_sweep_counts_recall_of_what_there_is(bench):
    truth = {(t.query, t.attribute, str(t.value)): t.truth for t in bench.tasks}
    queries = {bench.queries[i].tobytes(): i for i in range(len(bench.queries))}

    def half(query, task, k, setting):
        right = truth[queries[query[0].tobytes()], task.attribute, str(task.value)][:k]
        return np.concatenate([right[: max(1, len(right) // 2)] if setting == 1 else right, [-1]])

    ticks = iter(range(1 << 30))
    slow = Method("half", half, (1, 2), prepare=lambda mask, task: task, skip=lambda share, s: s == 2 and share > 0.5)
    sweep = run(bench, [slow], k=10, clock=lambda: float(next(ticks)))
    every = sweep.where()
    assert len(every) == len(bench.tasks)
    few = [i for i, task in enumerate(bench.tasks) if task.matches == 1]
    assert (sweep.recall["half"][1][few] == 1).all()  # of one match, one was found
    many = [i for i, task in enumerate(bench.tasks) if task.matches >= 10]
    assert sweep.recall["half"][1][many] == pytest.approx(0.5)
    narrow = sweep.where(band=1)
    assert [point.recall for point in sweep.points("half", narrow)][1] == 1
    assert {point.qps for point in sweep.points("half", narrow)} == {1.0}
    assert [point.setting for point in sweep.points("half", sweep.where(band=4))] == [1]
    assert sweep.qps_at("half", sweep.where(band=4), 0.9) == 0
    assert sweep.qps_at("half", narrow, 0.9) == 1
    assert [point.setting for point in sweep.pareto(narrow)] == [2]
    rows = sweep.table(0.9, by="correlation")
    assert sum(row["tasks"] for row in rows) == len(bench.tasks)
    assert "half" in shown(rows, 0.9)
    for bad in ({"kind": "x"}, {"correlation": "x"}):
        with pytest.raises(BadInput):
            sweep.where(**bad)
    with pytest.raises(BadInput, match="the bench knows 20 neighbours"):
        run(bench, [slow], k=21)
    with pytest.raises(BadInput, match="two methods have one name"):
        run(bench, [slow, slow])


def test_plots_are_drawn(bench, tmp_path):
    pytest.importorskip("matplotlib")
    exactly = Method("none", lambda query, mask, k, setting: np.flatnonzero(mask)[:k], (1,))
    drawn = run(bench, [exactly]).plot(tmp_path)
    assert [path.name for path in drawn] == ["filtered-em.svg", "filtered-r.svg", "filtered-emis.svg"]
    assert all(b"<svg" in path.read_bytes() for path in drawn)


def test_a_bench_survives_its_files(bench, tmp_path):
    bench.save(tmp_path)
    again = FilteredBench.load(tmp_path)
    assert again.vectors == pytest.approx(bench.vectors, abs=1e-6)
    assert len(again.tasks) == len(bench.tasks)
    for a, b in zip(again.tasks, bench.tasks):
        assert a[:6] == b[:6]
        assert np.array_equal(a.truth, b.truth)
    with pytest.raises(BadInput, match=r"holds no bench\.json"):
        FilteredBench.load(tmp_path / "other")
    (tmp_path / "ground_truth_r.ivecs").write_bytes(b"\x05\x00\x00\x00\x01\x00\x00\x00")
    with pytest.raises(Corrupt, match="ends in the middle of row 0"):
        FilteredBench.load(tmp_path)


def test_vector_files(tmp_path, rng):
    rows = rng.standard_normal((5, 3)).astype(np.float32)
    write_fvecs(tmp_path / "a.fvecs", rows)
    assert np.array_equal(read_fvecs(tmp_path / "a.fvecs"), rows)
    assert (tmp_path / "a.fvecs").stat().st_size == 5 * 4 * 4
    write_ivecs(tmp_path / "a.ivecs", [np.arange(3), np.empty(0, int)])
    assert [row.tolist() for row in read_ivecs(tmp_path / "a.ivecs")] == [[0, 1, 2], []]
    (tmp_path / "a.fvecs").write_bytes((tmp_path / "a.fvecs").read_bytes()[:-4])
    for error, path in ((Corrupt, "a.fvecs"), (BadInput, "b.fvecs")):
        with pytest.raises(error):
            read_fvecs(tmp_path / path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ("x",)}, "kinds are em"), ({"each": 0}, "each must be"), ({"metric": "dot"}, "must be cosine or l2"),
        ({"queries": np.empty((0, 12))}, "needs queries"), ({"attributes": {"a": ("em", [1])}}, "1 values for 2000"),
    ],
)  # fmt: skip
def test_bad_benches(bench, change, message):
    given = {"vectors": bench.vectors, "attributes": bench.attributes, "queries": bench.queries, **change}
    with pytest.raises(BadInput, match=message):
        FilteredBench.build(**given)


def test_attributes_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "b": "x", "c": ["p"]}\n{"a": 2.5, "b": null, "c": []}\n')
    read = read_attributes(path, 2)
    assert {name: one.kind for name, one in read.items()} == {"a": "r", "b": "em", "c": "emis"}
    with pytest.raises(BadInput, match="2 lines for 3 rows"):
        read_attributes(path, 3)
    path.write_text("{")
    with pytest.raises(BadInput, match=r"line 1 of .* is no JSON"):
        read_attributes(path, 1)


# --- the command


def test_the_command_compares_on_ones_own_vectors(rng, tmp_path):
    from click.testing import CliRunner

    from inlay.cli.bench_filtered import command

    rows, own = clustered(rng, 1500, 8, 10)
    np.save(tmp_path / "rows.npy", rows)
    lines = (
        json.dumps({"year": 1900 + int(i % 120), "tag": f"t{c}", "tags": [f"t{c}", "all"]}) for i, c in enumerate(own)
    )
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    given = ["--vectors", str(tmp_path / "rows.npy"), "--attributes", str(tmp_path / "rows.jsonl"), "--each", "2"]
    done = CliRunner().invoke(command, [*given, "--save", str(tmp_path / "kept")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "planned" in done.output
    assert "1,485 rows × 8" in done.output
    assert {task.attribute for task in FilteredBench.load(tmp_path / "kept").tasks} <= {"year", "tag", "tags"}
    told = CliRunner().invoke(command, [*given, "--json", "--rows", "500", "--by", "kind"], catch_exceptions=False)
    kept = json.loads(told.stdout)
    assert kept["rows"] == 500
    assert all(row["qps"]["exact scan"] > 0 for row in kept["table"])
    for wrong, message in (
        (["--vectors", str(tmp_path / "none.npy")], "there is no file"),
        (["--vectors", str(tmp_path / "rows.jsonl")], "is no array of numpy"),
        (["--attributes", str(tmp_path / "rows.jsonl")], "give them with --vectors"),
    ):
        failed = CliRunner().invoke(command, wrong)
        assert isinstance(failed.exception, BadInput)
        assert message in str(failed.exception)


def test_the_reproduction_says_what_its_figures_say():
    from inlay.evaluation.filtered_bench import Task
    from inlay.evaluation.filtered_sweep import Sweep
    from inlay.reproductions.indexes.filtered import _checks

    shares = np.repeat([0.0005, 0.005, 0.05, 0.4, 0.8], 4)
    tasks = [Task(i, "em", "a", 0, 10, float(share), 1.0, np.arange(10)) for i, share in enumerate(shares)]

    def sweep(**micros):
        """Each method at recall 1 with these µs by band; None below the recall."""
        recall, times = {}, {}
        for name, by_band in micros.items():
            name = {"through": "graph, through", "hop": "graph, two-hop", "scan": "scan", "faiss": "faiss HNSW"}.get(
                name, name
            )
            recall[name] = {1: np.repeat([1.0 if one else 0.5 for one in by_band], 4).astype(np.float32)}
            times[name] = {1: np.repeat([one or 1 for one in by_band], 4).astype(np.float32)}
        return Sweep(tasks, 10, recall, times)

    fine = {
        "scan": (5, 10, 200, 900, 1800), "through": (None, None, 300, 60, 50), "hop": (None, None, 100, 90, 90),
        "faiss": (None, None, None, 80, 70), "planned": (6, 12, 110, 70, 60),
    }  # fmt: skip

    def holds(**change):
        made = sweep(**{**fine, **change})
        return [ok for ok, _ in _checks(made, made.table(0.9)).values()]

    assert holds() == [True, True, True]
    assert holds(through=(None, None, 150, 60, 50)) == [True, False, True]
    assert holds(hop=(None, None, None, 90, 90)) == [True, False, True]
    assert holds(scan=(5, 10, 200, 10, 10))[0] is False
    assert holds(planned=(6, 14, 110, 70, 60))[2] is False
    assert holds(planned=(6, 12, None, 70, 60))[2] is False
