"""The tree of prototypes: invariants, the moves it chooses, both forms, both searches, removal, files; whitening."""

from __future__ import annotations

import math
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, InlayWarning, SpaceMismatch
from inlay.indexes.cobweb import Cobweb
from inlay.indexes.concept_path import draw_path
from inlay.kernels import prototype_tree as kernel
from inlay.kernels.prototype_tree import BEST, MERGE, NEW, NONE, ROOT, SPLIT, Moments, offspring
from inlay.spaces.whitening import PCAICA, Whitening
from inlay.types import Index, SpaceMap

pytest.importorskip("numba")

FORMS = {"plain": False, "compiled": True}
V0 = 1 / (2 * math.pi * math.e)


@contextmanager
def by_compiler(fast):
    with mock.patch.object(kernel, "compiled", return_value=fast):
        yield


@pytest.fixture(params=FORMS)
def form(request):
    with by_compiler(FORMS[request.param]):
        yield request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def clustered(rng, n=300, dim=8, groups=12, apart=1.0, about=0.4):
    """Rows about centres, which lie about centres themselves."""
    middles = rng.standard_normal((3, dim)) * apart
    centres = middles[rng.integers(3, size=groups)] + rng.standard_normal((groups, dim)) * apart / 2
    return (centres[rng.integers(groups, size=n)] + about * rng.standard_normal((n, dim))).astype(np.float32)


def tree_of(rows, **options):
    index = Cobweb(rows.shape[1], whiten=None, **options)
    index.add(rows)
    return index


def nodes_of(tree):
    return np.flatnonzero(tree.counts > 0)


def variances(tree, node, prior=V0, acuity=False):
    spread = tree.squares[node].astype(np.float64) / tree.counts[node]
    return np.maximum(spread, prior) if acuity else spread + prior


def path_of(tree, node):
    found = [node]
    while tree.parents[found[-1]] != NONE:
        found.append(int(tree.parents[found[-1]]))
    return found[::-1]


def log_density(tree, node, query, **how):
    v = variances(tree, node, **how)
    return -0.5 * (np.log(v) + (query.astype(np.float64) - tree.means[node]) ** 2 / v).sum()


def brute_paths(index, queries):
    """Mean log-likelihood over the path of every row."""
    tree = index._tree
    how = {"prior": index.prior, "acuity": index.acuity}
    return np.array(
        [
            [
                np.mean([log_density(tree, node, query, **how) for node in path_of(tree, leaf)])
                if leaf != NONE
                else -np.inf
                for leaf in index._leaves
            ]
            for query in queries
        ]
    )


def brute_lowest(index, query):
    """The least of ln N + ln n/N on the path of every row."""
    tree = index._tree
    total = tree.counts[tree.state[ROOT]]
    value = {n: log_density(tree, n, query) + math.log(tree.counts[n] / total) for n in nodes_of(tree)}
    return np.array([min(value[n] for n in path_of(tree, leaf)) if leaf != NONE else -np.inf for leaf in index._leaves])


def check(index, rows=None):
    """Everything that must hold of a tree, whatever was done to it."""
    tree = index._tree
    alive = np.flatnonzero(index._leaves != NONE)
    nodes = nodes_of(tree)
    if not len(alive):
        assert tree.state[ROOT] == NONE
        assert len(nodes) == 0
        return
    root = int(tree.state[ROOT])
    assert tree.parents[root] == NONE
    seen, ahead = [], [root]
    while ahead:
        node = ahead.pop()
        seen.append(node)
        children = offspring(tree, node)
        assert all(tree.parents[child] == node for child in children)
        own = np.flatnonzero(index._leaves == node)
        if not children:
            assert len(own) == tree.counts[node]
        else:
            assert len(children) >= 2
            assert not len(own)
            assert tree.counts[node] == sum(tree.counts[child] for child in children)
        expected = np.log(variances(tree, node, index.prior, index.acuity)).sum()
        assert tree.logs[node] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        ahead += children
    assert sorted(seen) == nodes.tolist()
    assert len(nodes) <= 2 * len(alive) - 1
    if rows is not None:
        for node in nodes:
            below = rows[index.rows_below(node)].astype(np.float64)
            assert len(below) == tree.counts[node]
            assert tree.means[node] == pytest.approx(below.mean(axis=0), rel=1e-4, abs=2e-4)
            squares = ((below - below.mean(axis=0)) ** 2).sum(axis=0)
            assert tree.squares[node] == pytest.approx(squares, rel=1e-4, abs=2e-3)


def same_tree(a, b):
    names = ("parents", "children", "siblings", "counts", "state", "random")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


# --- growing ----------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    n, dim = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.05, 1.0, 20.0]))
    rows = np.float32(scale * rng.standard_normal((n, dim)))
    if draw(st.booleans()):
        rows = np.round(rows)  # ties and equal rows abound
    rows[rng.random(n) < 0.2] = rows[0]
    options = {"acuity": draw(st.booleans()), "order": draw(st.sampled_from(["shuffle", "given"]))}
    return rows, options | {"seed": draw(st.integers(0, 5))}


@given(problems())
@settings(deadline=None, max_examples=60)
def test_both_forms_grow_the_same_tree(problem):
    rows, options = problem
    made = []
    for fast in FORMS.values():
        with by_compiler(fast):
            made.append(tree_of(rows, **options))
    plain, quick = made
    check(plain, rows)
    check(quick, rows)
    assert same_tree(plain._tree, quick._tree)
    assert np.array_equal(plain._leaves, quick._leaves)
    assert np.array_equal(plain._tree.means, quick._tree.means)
    assert np.array_equal(plain._tree.squares, quick._tree.squares)


def test_both_forms_grow_the_same_larger_tree(rng):
    rows = clustered(rng, 400)
    trees = []
    for fast in FORMS.values():
        with by_compiler(fast):
            trees.append(tree_of(rows))
    assert same_tree(trees[0]._tree, trees[1]._tree)
    check(trees[1], rows)


@given(problems(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_anything_added_and_removed_leaves_a_tree(problem, seed):
    rows, options = problem
    rng = np.random.default_rng(seed)
    with by_compiler(True):
        index = Cobweb(rows.shape[1], whiten=None, **options)
        held = np.empty((0, rows.shape[1]), np.float32)
        for part in np.array_split(rows, 4):
            index.add(part)
            held = np.concatenate([held, part])
            alive = np.flatnonzero(index._leaves != NONE)
            gone = alive[rng.random(len(alive)) < 0.4]
            index.remove(gone)
            check(index, held)
            if index.alive:
                found = index.search(held[:3], len(held))
                assert sorted(found.ids[0][found.ids[0] >= 0]) == np.flatnonzero(index._leaves != NONE).tolist()
        index.remove(np.flatnonzero(index._leaves != NONE))
        check(index)
        assert index.concepts == index.alive == 0
        index.add(rows[:2])
        assert index.search(rows[:1], 5).ids[0][0] >= len(held)


def utilities(tree, node, row, prior, kl=False):
    """Σ over parts of n_c/n_p · s over their number, of each move from its definition alone."""

    def v(m):
        return m.squares / m.n + prior

    def score(c, p):
        told = 0.5 * np.log(v(p) / v(c)).sum()
        return told + 0.5 * ((v(c) + (c.mean - p.mean) ** 2) / v(p) - 1).sum() if kl else told

    def utility(parts, p):
        return sum(c.n / p.n * score(c, p) for c in parts) / len(parts)

    parts = {child: Moments.of(tree, child) for child in offspring(tree, node)}
    whole = Moments.of(tree, node)
    grown = whole.plus(row)
    into = {c: utility([m.plus(row) if c == d else m for d, m in parts.items()], grown) for c in parts}
    order = sorted(into, key=into.__getitem__, reverse=True)
    found = {BEST: into[order[0]]}
    found[NEW] = utility([*parts.values(), Moments(1, row, np.zeros(len(row)))], grown)
    if len(parts) > 2:
        a, b, *rest = order
        both = parts[a].joined(parts[b]).plus(row)
        found[MERGE] = utility([both, *(parts[c] for c in rest)], grown)
    if tree.children[order[0]] != NONE:
        below = [Moments.of(tree, c) for c in offspring(tree, order[0])]
        found[SPLIT] = utility([*below, *(parts[c] for c in order[1:])], whole)
    return order, found


def test_the_move_made_is_the_best_by_definition(rng):
    """Also: weighing by the Kullback-Leibler divergence, as the authors' code does, decides alike."""
    from inlay.kernels.prototype_tree_numba import _chosen as compiled_choice

    choose, made = kernel._chosen, set()

    def judged(tree, node, row, prior, acuity):
        order, by_definition = utilities(tree, node, row, prior)
        again, by_divergence = utilities(tree, node, row, prior, kl=True)
        assert order == again
        assert by_divergence == pytest.approx(by_definition, abs=1e-6)
        quick = compiled_choice(tree, node, row.astype(np.float32), prior, acuity, np.empty(4), np.empty(4))
        found = choose(tree, node, row, prior, acuity)
        for move, best, second in (quick, found):
            assert [best, second] == order[:2]
            assert by_definition[move] == pytest.approx(max(by_definition.values()), abs=1e-8)
        made.add(found[0])
        return found

    with by_compiler(False), mock.patch.object(kernel, "_chosen", judged):
        tree_of(clustered(rng, 100, dim=4))
    assert made == {BEST, NEW, MERGE, SPLIT}


def test_two_rows_make_a_fringe(form):
    index = tree_of(np.float32([[0, 0], [2, 0]]), order="given")
    root, tree = int(index._tree.state[ROOT]), index._tree
    assert sorted(offspring(tree, root)) == sorted(index._leaves.tolist())
    assert tree.means[root].tolist() == [1, 0]
    assert tree.squares[root].tolist() == [2, 0]
    assert tree.logs[root] == pytest.approx(math.log(1 + V0) + math.log(V0))


def test_equal_rows_share_a_leaf(form, rng):
    rows = np.repeat(rng.standard_normal((1, 5)), 7, axis=0).astype(np.float32)
    rows[3] += 5e-6  # as good as equal
    index = tree_of(rows)
    assert index.concepts == 1
    assert index.search(rows[:1], 9).ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, -1, -1]]
    assert index.search(rows[:1], 9, mode="best-first").ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, -1, -1]]
    index.remove(np.array([0, 4]))
    assert index.search(rows[:1], 3, mode="best-first").ids.tolist() == [[1, 2, 3]]
    check(index, rows)


def test_the_tree_finds_clusters(rng):
    """Groups far apart are concepts of their own."""
    centres = rng.standard_normal((4, 16)) * 3
    label = rng.integers(4, size=400)
    index = tree_of(np.float32(centres[label] + 0.3 * rng.standard_normal((400, 16))))
    pure = [
        max(np.bincount(label[index.rows_below(int(node))], minlength=4)) / (label == group).sum()
        for group in range(4)
        for node in nodes_of(index._tree)
        if (label[index.rows_below(int(node))] == group).all() and index._tree.counts[node] == (label == group).sum()
    ]
    assert len(pure) == 4


def test_order_and_seed_decide_the_tree(rng):
    rows = clustered(rng, 200)
    a, b, c = tree_of(rows), tree_of(rows), tree_of(rows, seed=1)
    assert same_tree(a._tree, b._tree)
    assert not np.array_equal(a._leaves, c._leaves)
    given = tree_of(rows, order="given")
    one_by_one = Cobweb(rows.shape[1], whiten=None)
    for row in rows:
        one_by_one.add(row)
    assert np.array_equal(given._leaves, one_by_one._leaves)
    check(one_by_one, rows)


def test_ties_are_drawn_by_lot():
    """Of two children as large and as near, either may be the best."""
    from inlay.kernels.prototype_tree_numba import _chosen as compiled_choice

    rows = np.float32([[-1, 0], [1, 0]])
    tree = tree_of(rows)._tree
    root = int(tree.state[ROOT])
    plain = [kernel._chosen(tree, root, np.array([0.0, 3.0]), V0, False)[1] for _ in range(40)]
    tree = tree_of(rows)._tree
    row = np.float32([0, 3])
    quick = [compiled_choice(tree, root, row, V0, False, np.empty(2), np.empty(2))[1] for _ in range(40)]
    assert plain == quick
    assert 5 < plain.count(offspring(tree, root)[0]) < 35


# --- searching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acuity", [False, True])
def test_path_scores_are_mean_log_likelihoods(rng, form, acuity):
    rows = clustered(rng, 150) + np.float32(30)  # far from 0, where squares lose digits
    index = tree_of(rows, acuity=acuity)
    queries = rows[:20] + np.float32(0.1)
    brute = brute_paths(index, queries)
    found = index.search(queries, 150)
    assert np.sort(found.ids, axis=1).tolist() == [list(range(150))] * 20
    assert np.allclose(found.scores, np.take_along_axis(brute, found.ids, axis=1), rtol=1e-4, atol=1e-3)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32


def test_best_first_meets_rows_by_the_least_on_their_path(rng, form):
    index = tree_of(clustered(rng, 150))
    for query in clustered(rng, 10):
        brute = brute_lowest(index, query)
        found = index.search(query, 150, mode="best-first")
        assert found.scores[0] == pytest.approx(np.sort(brute)[::-1], abs=1e-3)
        assert found.scores[0] == pytest.approx(brute[found.ids[0]], abs=1e-3)
        some = index.search(query, 7, mode="best-first")
        assert some.ids.tolist() == found.ids[:, :7].tolist()


def test_both_forms_walk_alike(rng):
    rows, queries = clustered(rng, 300), clustered(rng, 20)
    with by_compiler(True):
        index = tree_of(rows)
    allow = rng.random(300) < 0.5
    found = []
    for fast in FORMS.values():
        with by_compiler(fast):
            found += [
                index.search(queries, 9, mode="best-first"),
                index.search(queries, 9, mode="best-first", allow=allow),
            ]
    for a, b in ((found[0], found[2]), (found[1], found[3])):
        assert np.array_equal(a.ids, b.ids)
        assert a.scores == pytest.approx(b.scores, rel=1e-6)


def test_best_first_opens_no_more_than_it_may(rng, form):
    rows = clustered(rng, 300)
    index = tree_of(rows, max_nodes=1)
    assert index.search(rows[:2], 3, mode="best-first").ids.tolist() == [[-1] * 3] * 2
    index.max_nodes = 20
    few = (index.search(rows[:50], 5, mode="best-first").ids >= 0).sum()
    index.max_nodes = 600
    assert (index.search(rows[:50], 5, mode="best-first").ids >= 0).all()
    assert few < 250


@pytest.mark.parametrize("mode", ["path", "best-first"])
def test_a_mask_holds(rng, form, mode):
    rows = clustered(rng, 200)
    index = tree_of(rows)
    whole = index.search(rows[:20], 200, mode=mode)
    for share in (0.5, 0.02, 0.0):
        allow = rng.random(200) < share
        found = index.search(rows[:20], 10, allow=allow, mode=mode)
        for i in range(20):
            expected = [row for row in whole.ids[i] if allow[row]][:10]
            assert found.ids[i].tolist() == expected + [-1] * (10 - len(expected))
        assert (np.isneginf(found.scores) == (found.ids < 0)).all()


@pytest.mark.parametrize("mode", ["path", "best-first"])
def test_a_row_is_found_as_soon_as_it_is_in(rng, mode):
    rows = clustered(rng, 400, dim=24, about=1.0)
    index = tree_of(rows[:300], mode=mode)
    index.search(rows[:1], 1)  # what follows from the tree is kept from here on
    for number in range(300, 400):
        index.add(rows[number])
        assert number in index.search(rows[number], 3).ids[0]
        if number % 25 == 0:
            index.remove(number)
            assert number not in index.search(rows[number], 400).ids[0]
            assert index.search(rows[number], 400).ids[0].max() == number - 1
    fresh = Cobweb(24, whiten=None)
    fresh._tree, fresh._leaves = index._tree, index._leaves
    again, kept = fresh.search(rows[:20], 10, mode="path"), index.search(rows[:20], 10, mode="path")
    assert again.ids.tolist() == kept.ids.tolist()


def test_many_queries_are_answered_in_parts(rng):
    rows = clustered(rng, 300)
    index = tree_of(rows)
    whole = index.search(rows, 5)
    with mock.patch("inlay.indexes.cobweb.SCORES_AT_ONCE", 1000):
        parts = index.search(rows, 5)
    assert whole.ids.tolist() == parts.ids.tolist()


def test_empty_ones(form):
    index = Cobweb(3, whiten=None)
    assert isinstance(index, Index)
    assert len(index) == index.concepts == 0
    assert index.search(np.ones((2, 3)), 2).ids.tolist() == [[-1, -1]] * 2
    index.add(np.empty((0, 3)))
    index.add(np.float32([1, 2, 3]))
    assert index.search(np.ones((0, 3)), 2).ids.shape == (0, 2)
    for mode in ("path", "best-first"):
        assert index.search(np.ones((1, 3)), 2, mode=mode).ids.tolist() == [[0, -1]]
    index.remove(0)
    assert index.search(np.ones((1, 3)), 2).ids.tolist() == [[-1, -1]]
    assert "of 0 rows in 0 concepts" in repr(index)


# --- explaining -------------------------------------------------------------------------------------------------------


def test_a_path_leads_from_the_general_to_the_row(rng):
    rows = clustered(rng, 200)
    index = tree_of(rows)
    for row in (0, 77, 199):
        path = index.path(row, nearest=4)
        assert path[0].node == index._tree.state[ROOT]
        assert path[0].count == 200
        assert path[-1].node == index._leaves[row]
        assert path[-1].rows.tolist() == [row]
        assert path[-1].prototype == pytest.approx(rows[row], abs=1e-5)
        assert path[-1].variance == pytest.approx(np.full(8, V0), rel=1e-5)
        counts = [concept.count for concept in path]
        assert all(a > b for a, b in zip(counts, counts[1:]))
        for concept in path:
            below = index.rows_below(concept.node)
            assert row in below
            assert concept.prototype == pytest.approx(rows[below].mean(axis=0), abs=1e-4)
            away = ((rows - concept.prototype) ** 2 / concept.variance).sum(axis=1)
            assert away[concept.rows] == pytest.approx(np.sort(away[below])[:4], rel=1e-4, abs=1e-4)
    with pytest.raises(BadInput, match="there is no row 200"):
        index.path(200)
    with pytest.raises(BadInput, match="nearest"):
        index.path(0, nearest=-1)
    with pytest.raises(BadInput, match="there is no node"):
        index.rows_below(10_000)


def test_a_path_can_be_drawn(rng, tmp_path):
    pytest.importorskip("matplotlib")
    rows = clustered(rng, 60)
    index = tree_of(rows)
    texts = [f"text ${i}_{{" for i in range(60)]  # nothing of it is mathematics
    made = [draw_path(index.path(3), tmp_path / f"{i}.svg", texts=texts, query="what?") for i in range(2)]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert "text $3_{" in made[0].read_text()
    assert "60 rows" in made[0].read_text()
    with pytest.raises(BadInput, match="there are 2 texts"):
        draw_path(index.path(3), tmp_path / "x.svg", texts=texts[:2])
    with pytest.raises(BadInput, match="at least one concept"):
        draw_path([], tmp_path / "x.svg", texts=texts)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [None, "pca", "pca-ica"])
def test_survives_its_file_and_grows_on(rng, tmp_path, whiten):
    rows = spread(rng, 200, 8)
    index = Cobweb(8, whiten=whiten, seed=3, mode="best-first", max_nodes=500)
    index.add(rows[:150])
    index.remove(np.array([3, 4, 5]))
    index.save(tmp_path / "tree")
    again = Cobweb.load(tmp_path / "tree")
    assert repr(again) == repr(index)
    for one in (index, again):
        one.add(rows[150:])
    assert np.array_equal(index._leaves, again._leaves)
    for mode in ("path", "best-first"):
        a, b = index.search(rows[:20], 5, mode=mode), again.search(rows[:20], 5, mode=mode)
        assert np.array_equal(a.ids, b.ids)
    Cobweb(4, whiten=whiten).save(tmp_path / "empty")
    assert len(Cobweb.load(tmp_path / "empty")) == 0


def test_a_damaged_file_is_refused(rng, tmp_path):
    path = tmp_path / "tree"
    tree_of(clustered(rng, 60)).save(path)
    raw = path.read_bytes()
    for at in (20, len(raw) // 2, len(raw) - 64):
        bad = bytearray(raw)
        bad[at] ^= 64
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            Cobweb.load(path)
    path.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(Corrupt):
        Cobweb.load(path)
    with pytest.raises(BadInput, match="there is no cobweb"):
        Cobweb.load(tmp_path / "none")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree, leaves: tree.parents.__setitem__(0, 10_000),
        lambda tree, leaves: tree.siblings.__setitem__(1, -7),
        lambda tree, leaves: leaves.__setitem__(0, tree.state[ROOT]),
        lambda tree, leaves: tree.state.__setitem__(1, 3),
    ],
)
def test_a_whole_file_of_a_broken_tree_is_refused(rng, tmp_path, spoil):
    index = tree_of(clustered(rng, 60))
    spoil(index._tree, index._leaves)
    index.save(tmp_path / "tree")
    with pytest.raises(Corrupt, match="cobweb tree"):
        Cobweb.load(tmp_path / "tree")


def test_a_map_of_ones_own_is_used_but_not_saved(rng, tmp_path):
    class Half:
        def fit(self, X, Y=None):
            self.seen = len(X)
            return self

        def transform(self, X):
            return X[:, :4]

    index = Cobweb(8, whiten=Half())
    index.add(clustered(rng, 50))
    assert index.whiten.seen == 50
    assert index._tree.means.shape[1] == 4
    with pytest.raises(BadInput, match="not Half"):
        index.save(tmp_path / "tree")


def test_bytes_are_counted(rng):
    index = tree_of(clustered(rng, 500, dim=32))
    before = index.nbytes
    assert before >= index.concepts * 32 * 8
    index.search(np.zeros((1, 32)), 1)
    assert index.nbytes >= before + index.concepts * 32 * 8


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be an integer of 1 or more"),
        ({"dim": 4, "whiten": "zca"}, "whiten must be pca-ica, pca"),
        ({"dim": 4, "whiten": 3}, "whiten must have fit and transform"),
        ({"dim": 4, "prior": 0}, "prior must be a variance"),
        ({"dim": 4, "prior": math.nan}, "prior must be a variance"),
        ({"dim": 4, "acuity": 1}, "acuity must be True or False"),
        ({"dim": 4, "mode": "beam"}, "mode must be one of path, best-first"),
        ({"dim": 4, "max_nodes": 0}, "max_nodes"),
        ({"dim": 4, "order": "random"}, "order must be shuffle or given"),
        ({"dim": 4, "seed": -1}, "seed"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(BadInput, match=message):
        Cobweb(**options)


def test_bad_rows_change_nothing(rng):
    index = tree_of(clustered(rng, 20))
    for rows, message in (
        (np.full((1, 8), np.nan), "row 0 holds NaN"),
        (np.full((1, 8), 1e13), "row 0 reaches 1e"),
        ("rows", "expected numbers"),
    ):
        with pytest.raises(BadInput, match=message):
            index.add(rows)
    with pytest.raises(SpaceMismatch, match="8 dimensions, the row has 7"):
        index.add(np.ones((1, 7)))
    with pytest.raises(SpaceMismatch, match="the query has 7"):
        index.search(np.ones((1, 7)), 1)
    assert index.alive == len(index) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a positive integer"),
        ({"k": 1, "mode": "exact"}, "mode must be one of"),
        ({"k": 1, "allow": np.ones(3, bool)}, r"allow must be bool \[20\]"),
    ],
)
def test_bad_searches(rng, arguments, message):
    with pytest.raises(BadInput, match=message):
        tree_of(clustered(rng, 20)).search(np.ones((1, 8)), **arguments)


def test_bad_removals_change_nothing(rng):
    index = tree_of(clustered(rng, 20))
    for rows, message in (
        (20, "there is no row 20"),
        (-1, "there is no row -1"),
        ([1, 1], "removed once"),
        ([0.5], "by number"),
        ([3, 99], "there is no row 99"),
    ):
        with pytest.raises(BadInput, match=message):
            index.remove(rows)
    assert index.alive == 20
    index.remove(3)
    with pytest.raises(BadInput, match="row 3 was removed"):
        index.remove(3)
    with pytest.raises(BadInput, match="row 3 was removed"):
        index.path(3)
    index.remove([])
    assert index.alive == 19


def test_the_whitening_is_decided_once(rng):
    rows = clustered(rng, 50)
    index = Cobweb(8, whiten="pca")
    with pytest.raises(BadInput, match="at least 2 rows"):
        index.add(rows[0])
    index.fit(rows)
    index.add(rows[0])
    assert len(index) == 1
    with pytest.raises(BadInput, match="the whitening is decided"):
        index.fit(rows)
    known = Whitening(4).fit(rows)
    matrix = known.matrix.copy()
    index = Cobweb(8, whiten=known)
    index.add(rows[:10])
    assert np.array_equal(index.whiten.matrix, matrix)


# --- whitening --------------------------------------------------------------------------------------------------------


def spread(rng, n=500, dim=12):
    mix = rng.standard_normal((dim, dim)) * np.geomspace(10, 0.1, dim)
    return (rng.laplace(size=(n, dim)) @ mix + 5).astype(np.float32)


@pytest.mark.parametrize("made", [Whitening, PCAICA])
def test_whitened_coordinates_have_nothing_in_common(rng, made):
    rows = spread(rng)
    white = made(8).fit(rows).transform(rows)
    assert isinstance(made(8), SpaceMap)
    assert white.shape == (500, 8)
    assert white.dtype == np.float32
    assert white.mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-4)
    assert np.cov(white.T) == pytest.approx(np.eye(8), abs=0.01)


def test_whitening_is_pca_of_scikit_learn(rng):
    PCA = pytest.importorskip("sklearn.decomposition").PCA
    rows = spread(rng)
    theirs = PCA(8, whiten=True).fit_transform(rows.astype(np.float64))
    ours = Whitening(8).fit(rows).transform(rows)
    signs = np.sign((ours * theirs).sum(axis=0))
    assert np.allclose(ours * signs, theirs, atol=1e-3)


def test_independent_components_are_the_sources(rng):
    sources = rng.laplace(size=(4000, 4))
    rows = (sources @ rng.standard_normal((4, 4)) + 3).astype(np.float32)
    for made, least in ((PCAICA, 0.98), (Whitening, None)):
        likeness = np.abs(np.corrcoef(made(4).fit(rows).transform(rows).T, sources.T)[:4, 4:])
        if least is None:
            assert likeness.max(axis=0).min() < 0.98
        else:
            assert likeness.max(axis=0).min() > least
            assert sorted(likeness.argmax(axis=0)) == [0, 1, 2, 3]


def test_turning_keeps_distances(rng):
    rows = spread(rng)
    turned, plain = PCAICA(6).fit(rows).transform(rows), Whitening(6).fit(rows).transform(rows)
    apart = [np.linalg.norm(one[:, None] - one[None], axis=2) for one in (turned, plain)]
    assert np.allclose(*apart, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("made", [Whitening, PCAICA])
def test_there_is_a_way_back(rng, made, tmp_path):
    rows = spread(rng)
    whole = made(None).fit(rows)
    assert np.allclose(whole.inverse_transform(whole.transform(rows)), rows, atol=1e-3)
    whole.save(tmp_path / "map")
    again = made.load(tmp_path / "map")
    assert repr(again) == repr(whole)
    assert np.array_equal(again.transform(rows), whole.transform(rows))
    raw = bytearray((tmp_path / "map").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "map").write_bytes(raw)
    with pytest.raises(Corrupt):
        made.load(tmp_path / "map")
    (tmp_path / "map").write_bytes(raw[:100])
    with pytest.raises(Corrupt):
        made.load(tmp_path / "map")


def test_directions_without_variance_are_left_out(rng):
    flat = np.zeros((60, 10), np.float32)
    flat[:, :3] = spread(rng, 60, 3)
    flat[:, 5] = 7
    assert Whitening(8).fit(flat).width == 3
    few = spread(rng, 5, 12)
    assert Whitening(8).fit(few).width == 4
    assert Whitening(None).fit(spread(rng)).width == 12
    with pytest.raises(BadInput, match="all 9 rows are equal"):
        Whitening(2).fit(np.full((9, 3), 0.1, np.float32))


def test_components_that_do_not_settle_are_told_of(rng):
    with pytest.warns(InlayWarning, match="did not settle in 1 turns"):
        made = PCAICA(6, max_iter=1, tol=1e-9).fit(rng.standard_normal((200, 8)))
    assert made.iterations == 1
    assert made.width == 6


def test_independent_components_are_those_of_scikit_learn(rng):
    FastICA = pytest.importorskip("sklearn.decomposition").FastICA
    rows = spread(rng, 2000, 8)
    ours = PCAICA(8, seed=4).fit(rows)
    start = np.random.RandomState(4).normal(size=(8, 8))
    white = Whitening(8).fit(rows).transform(rows).astype(np.float64)
    white /= white.std(axis=0)
    theirs = FastICA(whiten=False, tol=1e-3, w_init=start).fit(white)
    found, wanted = ours.transform(rows), white @ theirs.components_.T
    assert ours.iterations == theirs.n_iter_
    assert np.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 0}, "dims must be a positive integer or None"),
        ({"dims": True}, "dims"),
        ({"epsilon": -1}, "epsilon"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": 0}, "tol"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_whitening(options, message):
    with pytest.raises(BadInput, match=message):
        PCAICA(**options)


def test_bad_rows_of_a_whitening(rng, tmp_path):
    for call in (lambda: Whitening(2).transform(np.ones((1, 2))), lambda: Whitening(2).save(tmp_path / "x")):
        with pytest.raises(BadInput, match="call fit"):
            call()
    made = Whitening(2).fit(spread(rng))
    with pytest.raises(SpaceMismatch, match="12 numbers, got 3"):
        made.transform(np.ones((1, 3)))
    with pytest.raises(BadInput, match="row 1 holds NaN"):
        made.transform(np.array([[0.0] * 12, [math.inf] * 12]))
    with pytest.raises(BadInput, match="at least 2 rows"):
        Whitening().fit(np.ones((1, 3)))
    with pytest.raises(BadInput, match="shape"):
        Whitening().fit(np.ones(3))


# --- the reproduction -------------------------------------------------------------------------------------------------


def test_entropy_of_labels_in_groups(rng):
    from inlay.reproductions.indexes.cobweb import _entropy

    labels = np.repeat(np.arange(8), 10)
    assert _entropy(np.zeros(80, int), labels) == pytest.approx(3)
    assert _entropy(labels, labels) == 0
    assert _entropy(labels // 2, labels) == pytest.approx(1)
    assert 2.3 < _entropy(rng.integers(2, size=80), labels) < 3


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "shown"),
        ({"tree": 0.5}, "partly"),
        ({"insert": 6.0}, "partly"),
        ({"dealt": 1.5}, "partly"),
        ({"tree": 0.5, "insert": 6.0, "dealt": 1.5}, "not shown"),
    ],
)
def test_the_verdict_follows_the_figures(changes, verdict):
    from inlay.reproductions.indexes import cobweb as reproduction

    tree = changes.get("tree", 0.9)
    ways = {
        "raw dot": [0.6], "whitened dot": [0.92], "whitened L2": [0.9], "Cobweb path, whitened": [tree],
        "Cobweb path, PCA without ICA": [0.8], "Cobweb path, raw": [0.7],
    }  # fmt: skip
    costs = dict.fromkeys(
        ("build_s", "whitening_s", "concepts", "bytes", "path_ms_a_query", "best-first_ms_a_query", "insert_ms_95"), 1.0
    )
    costs |= {"insert_ms_median": changes.get("insert", 2.0), "found_at_once": 1.0}
    bits = [[4, 2, 1, 0], [4, changes.get("dealt", 3), 2.5, 0.1], [4, 2, 1, 0], [4, 3, 2, 0]]
    result = reproduction._result({"box": ways, "word counts": ways | {"BM25": [0.99]}}, costs, [bits], (0,), 1.0)
    assert result.verdict == verdict
    assert result.baseline == ("whitened dot", 0.92)
    assert ("Not reached" in result.detail) == (verdict != "shown")
