"""CKA against its definition, lists of results against sets, the tree of models, and comparisons of whole encoders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inlay.cli.compare import command
from inlay.errors import BadInput
from inlay.evaluation import RetrievalSet
from inlay.evaluation.comparison_figure import draw_comparison
from inlay.evaluation.encoder_comparison import compare_encoders
from inlay.evaluation.model_map import map_models
from inlay.evaluation.ranked_overlap import jaccard, rank_similarity, result_lists
from inlay.evaluation.similarity import cka, cka_matrix
from inlay.evaluation.space_comparison import compare_spaces
from inlay.types import Space


def rows(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def similarities(x, kernel):
    """Of all pairs, by the book."""
    if kernel == "linear":
        return x @ x.T
    square = (x**2).sum(axis=1)
    distances = (square[:, None] + square - 2 * x @ x.T).clip(0)
    np.fill_diagonal(distances, 0)
    return np.exp(-distances / (2 * np.median(distances[np.triu_indices(len(x), 1)])))


def hsic(k, l, debiased):  # noqa: E741 - the letters of the paper
    n = len(k)
    if not debiased:
        h = np.eye(n) - 1 / n
        return np.trace(k @ h @ l @ h)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    return (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    )  # fmt: skip


# --- CKA --------------------------------------------------------------------------------------------------------------


@given(
    st.integers(4, 30),
    st.integers(1, 40),
    st.integers(1, 12),
    st.sampled_from(["linear", "rbf"]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_cka_is_its_definition(n, wide, narrow, kernel, debiased, seed):
    a, b = rows(n, wide, seed) + 1, rows(n, narrow, seed + 1) * 3
    k, l = (similarities(one.astype(np.float64), kernel) for one in (a, b))  # noqa: E741
    own = hsic(k, k, debiased), hsic(l, l, debiased)
    assume(min(own) > 1e-6)  # the unbiased estimate of so few rows need not be positive
    expected = hsic(k, l, debiased) / np.sqrt(own[0] * own[1])
    assert cka(a, b, kernel=kernel, debiased=debiased) == pytest.approx(expected, abs=1e-5)


def test_blocks_and_both_ways_of_multiplying_agree():
    """Rows of 30 dimensions are multiplied as AᵀB, those of 900 as similarity matrices, two blocks of them."""
    narrow, wide, other = rows(300, 30, 1), rows(300, 900, 2), rows(300, 900, 3)
    wide[:, :30] += narrow
    other[:, :30] += narrow
    for a, b in ((narrow, wide), (wide, other)):
        centred = [one - one.mean(axis=0) for one in (a.astype(np.float64), b.astype(np.float64))]
        norms = [np.linalg.norm(one.T @ one) for one in centred]
        expected = np.linalg.norm(centred[0].T @ centred[1]) ** 2 / (norms[0] * norms[1])
        assert cka(a, b) == pytest.approx(expected, abs=1e-9)
    k, l = (similarities(one.astype(np.float64), "rbf") for one in (narrow, wide))  # noqa: E741
    for debiased in (False, True):
        expected = hsic(k, l, debiased) / np.sqrt(hsic(k, k, debiased) * hsic(l, l, debiased))
        assert cka(narrow, wide, kernel="rbf", debiased=debiased) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("debiased", [False, True])
def test_a_turned_and_scaled_space_is_the_same(kernel, debiased):
    a = rows(80, 12)
    turned = 7 * a @ np.linalg.qr(rows(12, 12, 5))[0] + 2
    assert cka(a, turned, kernel=kernel, debiased=debiased) == pytest.approx(1, abs=1e-5)
    assert cka(a, rows(80, 12, 8), kernel=kernel, debiased=debiased) < 0.5


def test_shuffled_rows_have_a_floor_that_the_debiased_form_lacks():
    a = rows(200, 150)
    found = [cka_matrix([a, a[np.random.default_rng(s).permutation(200)]], debiased=d)[0, 1]
             for d in (False, True) for s in range(20)]  # fmt: skip
    assert np.mean(found[:20]) > 0.35
    assert abs(np.mean(found[20:])) < 0.02


def test_a_matrix_is_symmetric_and_made_of_pairs():
    sets = [rows(60, dim, dim) for dim in (3, 9, 20)]
    found = cka_matrix(sets)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1)
    assert found[0, 2] == pytest.approx(cka(sets[0], sets[2]))


def test_bad_sets_have_no_cka():
    a = rows(20, 5)
    with pytest.raises(BadInput, match="nothing to be compared"):
        cka_matrix([a])
    with pytest.raises(BadInput, match="19 rows and set 0 20"):
        cka(a, a[:19])
    with pytest.raises(BadInput, match="3 rows are too few"):
        cka(a[:3], a[:3])
    with pytest.raises(BadInput, match="rows of set 1 are equal"):
        cka(a, np.full((20, 3), 0.1))
    with pytest.raises(BadInput, match="median distance is 0"):
        cka(a, np.eye(20)[:, :2], kernel="rbf")
    with pytest.raises(BadInput, match="kernel must be"):
        cka(a, a, kernel="cosine")
    for width in (0, -1, True, np.inf, "wide"):
        with pytest.raises(BadInput, match="width must be"):
            cka(a, a, width=width)
    with pytest.raises(BadInput, match="NaN"):
        cka(a, np.full((20, 3), np.nan))


# --- lists ------------------------------------------------------------------------------------------------------------


def by_sets(a, b, k):
    """Jaccard and RankSim of one query, as the paper writes them."""
    a, b = a[:k].tolist(), b[:k].tolist()
    shared = [one for one in a if one in b]
    total = sum(2 / ((1 + abs(a.index(j) - b.index(j))) * (a.index(j) + b.index(j) + 2)) for j in shared)
    return len(shared) / len({*a, *b}), total / sum(1 / i for i in range(1, len(shared) + 1)) if shared else 0.0


@given(st.integers(1, 9), st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_overlap_is_that_of_sets(k, seed):
    rng = np.random.default_rng(seed)
    a, b = (np.stack([rng.permutation(12)[:9] for _ in range(5)]) for _ in range(2))
    expected = np.array([by_sets(one, other, k) for one, other in zip(a, b)]).T
    np.testing.assert_allclose([jaccard(a, b, k), rank_similarity(a, b, k)], expected)
    np.testing.assert_allclose(jaccard(b, a, k), jaccard(a, b, k))
    np.testing.assert_allclose(rank_similarity(a, a, k), 1)


def test_rank_similarity_rewards_a_small_intersection():
    a, b = np.array([[1, 2, 3, 4]]), np.array([[1, 7, 8, 9]])
    assert rank_similarity(a, b)[0] == 1
    assert jaccard(a, b)[0] == 1 / 7
    none = np.array([[-1, -1, -1, -1]])
    assert jaccard(none, none)[0] == rank_similarity(none, none)[0] == 0
    assert jaccard(np.array([[5, -1]]), np.array([[5, -1]]))[0] == 1


def test_lists_are_a_sort_of_cosines_without_the_query_itself():
    every, queries = rows(40, 6), rows(7, 6, 3)
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (queries, every)]
    order = np.argsort(-unit[0] @ unit[1].T, axis=1)
    np.testing.assert_array_equal(result_lists(queries, every * 9, 5), order[:, :5])
    own = np.array([order[0, 0], order[1, 3], order[2, 30], -1, -1, -1, order[6, 4]])
    found = result_lists(queries, every, 5, own=own)
    for line, best, skip in zip(found, order, own):
        np.testing.assert_array_equal(line, [one for one in best if one != skip][:5])
    assert result_lists(queries, every[:3], 5)[:, 3:].max() == -1


def test_bad_lists_are_refused():
    a = np.array([[1, 2]])
    for wrong in (np.array([1, 2]), np.array([[1.0, 2]]), np.array([[1, 2], [3, 4]])):
        with pytest.raises(BadInput, match="expected two lists"):
            jaccard(a, wrong)
    with pytest.raises(BadInput, match="names a result twice"):
        rank_similarity(a, np.array([[3, 3]]))
    with pytest.raises(BadInput, match="the first 3 of lists"):
        jaccard(a, a, 3)
    with pytest.raises(BadInput, match="k must be"):
        jaccard(a, a, 0)
    with pytest.raises(BadInput, match="use one encoder"):
        result_lists(rows(2, 3), rows(5, 4), 2)
    for own in (np.array([0]), np.array([0, 5]), np.array([0.0, 1]), np.array([-2, 0])):
        with pytest.raises(BadInput, match="own must be"):
            result_lists(rows(2, 3), rows(5, 3), 2, own=own)


# --- the map ----------------------------------------------------------------------------------------------------------


def test_families_stand_together():
    matrix = np.array([[1, 0.2, 0.9, 0.1], [0.2, 1, 0.3, 0.8], [0.9, 0.3, 1, 0.2], [0.1, 0.8, 0.2, 1]])
    found = map_models(["a1", "b1", "a2", "b2"], matrix)
    assert found.clusters(2) == [["a1", "a2"], ["b1", "b2"]]
    assert found.clusters(1) == [["a1", "b1", "a2", "b2"]]
    assert [name[0] for name in found.order] in (["a", "a", "b", "b"], ["b", "b", "a", "a"])
    assert found.linkage[-1, 2] == pytest.approx(1 - np.mean([0.2, 0.1, 0.3, 0.2]))
    for count in (0, 5, True):
        with pytest.raises(BadInput, match="groups of 4 models"):
            found.clusters(count)


def test_bad_maps_are_refused():
    with pytest.raises(BadInput, match="makes no map"):
        map_models(["a"], np.eye(1))
    with pytest.raises(BadInput, match="same name"):
        map_models(["a", "a"], np.eye(2))
    with pytest.raises(BadInput, match=r"need a matrix \[2, 2\]"):
        map_models(["a", "b"], np.eye(3))
    for wrong in ([[1, 0.5], [0.4, 1]], [[1, np.nan], [np.nan, 1]]):
        with pytest.raises(BadInput, match="finite, and the same both ways"):
            map_models(["a", "b"], np.array(wrong))


# --- spaces -----------------------------------------------------------------------------------------------------------


def test_spaces_are_compared_on_both_levels():
    a = rows(120, 16)
    turned = a @ np.linalg.qr(rows(16, 16, 4))[0]
    found = compare_spaces({"a": a, "turned": turned, "other": rows(120, 16, 7)}, k=(1, 10, 500))
    assert (found.sizes, found.queries, found.texts) == ((1, 10), 120, 120)  # 500 of 119 others is all of them
    same, apart = found.pairs["a", "turned"], found.pairs["a", "other"]
    assert min(same.cka, same.jaccard[10].mean, same.rank_similarity[10].mean) > 0.999
    assert apart.jaccard[10].mean < 0.2
    assert apart.jaccard[10].low < apart.jaccard[10].mean < apart.jaccard[10].high
    assert abs(apart.cka_debiased) < 0.05 < apart.cka_shuffled
    np.testing.assert_allclose(found.matrix("jaccard@10"), found.matrix("jaccard@10").T)
    assert found.matrix("cka_debiased")[0, 1] == same.cka_debiased
    assert found.map("jaccard@1").clusters(2) == [["a", "turned"], ["other"]]
    assert json.loads(json.dumps(found.to_dict()))["pairs"][0]["encoders"] == ["a", "turned"]
    for wrong in ("jaccard@7", "jaccard", "cka@10", "overlap"):
        with pytest.raises(BadInput, match="was not measured"):
            found.matrix(wrong)


def test_bad_spaces_are_refused():
    a = rows(40, 5)
    with pytest.raises(BadInput, match="no spaces"):
        compare_spaces({})
    with pytest.raises(BadInput, match="rows must be there for a, b"):
        compare_spaces({"a": a, "b": a[:30]})
    with pytest.raises(BadInput, match="queries must be there"):
        compare_spaces({"a": a, "b": a}, {"a": a})
    with pytest.raises(BadInput, match="hold all of them"):
        compare_spaces({"a": a, "b": a}, k=(39,))
    with pytest.raises(BadInput, match="k must be positive"):
        compare_spaces({"a": a}, k=(0,))
    with pytest.raises(BadInput, match="is zero"):
        compare_spaces({"a": np.zeros((40, 3))})


# --- encoders ---------------------------------------------------------------------------------------------------------

TEXTS = [f"{thing} of {colour} {number}" for thing in ("boat", "tree", "house") for colour in ("red", "green")
         for number in range(6)]  # fmt: skip


class Made:
    """An encoder by a function of the text."""

    expensive = False
    spec = None

    def __init__(self, row, kind="dense", dim=8):
        self.row, self.space = row, Space(kind, dim, "cosine", "made")

    def encode_document(self, items, *, batch_size=None, progress=False):
        return np.array([self.row(text) for text in items], dtype=np.float32)

    encode_query = encode_document


def of(text):
    return np.random.default_rng(sum(map(ord, text)) * 7 + len(text)).standard_normal(8)


NUMEN = "numen?dim=128"


def test_texts_are_cleaned_for_all_alike():
    texts = [*TEXTS, TEXTS[0], "  ", "x"]
    few = Made(lambda text: np.zeros(8) if text == "x" or "boat" in text else of(text))
    found = compare_encoders({"numen": NUMEN, "few": few}, texts, k=(1, 3))
    assert found.spaces.texts == 24
    assert found.left_out == {"blank texts": 1, "repeated texts": 1, "texts without a vector from few": 13}
    assert found.ndcg == found.differences == {}
    again = compare_encoders({"numen": NUMEN, "few": few}, texts, k=(1, 3))
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())
    sampled = compare_encoders([NUMEN], TEXTS, k=(1,), rows=25)
    assert (sampled.spaces.texts, sampled.spaces.pairs) == (25, {})


def judged():
    queries = {"q1": "red boats", "q2": "green trees", "q3": TEXTS[3], "q4": "houses of red"}
    qrels = {"q1": {"d0": 1, "d1": 2}, "q2": {"d18": 1}, "q3": {"d3": 1, "d4": 1}, "q4": {"d24": 1}}
    return RetrievalSet({f"d{i}": text for i, text in enumerate(TEXTS)}, queries, qrels, name="things")


def test_a_judged_set_has_quality_with_intervals():
    from inlay.encoders.numen import Numen
    from inlay.evaluation import per_query

    found = compare_encoders({"numen": NUMEN, "random": Made(of)}, judged(), k=(3,))
    encoder = Numen(128)
    scores = encoder.encode_query(list(judged().queries.values())) @ encoder.encode_document(TEXTS).T
    run = {q: {f"d{i}": float(s) - 1e-7 * i for i, s in enumerate(line)} for q, line in zip(judged().queries, scores)}
    expected = per_query(run, judged().qrels, ["ndcg@10"])["ndcg@10"].mean()
    assert found.ndcg["numen"].mean == pytest.approx(expected)
    assert list(found.differences) == ["random"]
    assert found.differences["random"].mean == pytest.approx(found.ndcg["random"].mean - found.ndcg["numen"].mean)
    assert found.spaces.queries == 4
    assert found.to_dict()["ndcg@10"]["numen"][0] == round(expected, 5)


def test_a_query_without_a_vector_counts_as_nothing_found():
    some = Made(lambda text: np.zeros(8) if text == "red boats" else of(text))
    found = compare_encoders({"numen": NUMEN, "some": some}, judged(), k=(3,))
    assert found.spaces.queries == 3
    assert any("nDCG 0" in why for why in found.left_out)
    none = Made(lambda text: of(text) if text in TEXTS else np.zeros(8))
    all_but_one = RetrievalSet(dict(enumerate(TEXTS)), {"q": "red"}, {"q": {"0": 1}})
    with pytest.raises(BadInput, match="no query has a vector"):
        compare_encoders({"numen": NUMEN, "none": none}, all_but_one, k=(3,))


@pytest.mark.parametrize(
    ("encoders", "texts", "says"),
    [
        ([NUMEN], ["one text"], "1 different text is too few"),
        ([NUMEN], ["same"] * 50, "1 different text is too few"),
        ([NUMEN], [], "0 different texts are too few"),
        ([NUMEN], "one str", "texts must be a list"),
        ([NUMEN, NUMEN], TEXTS, "named twice"),
        ([], TEXTS, "no encoders"),
        ("numen", TEXTS, "got one str"),
        (["bm25"], TEXTS, "makes sparse ones"),
        ({"flat": Made(lambda text: np.ones(8))}, TEXTS, "the same row to all 36 texts"),
        ({"few": Made(lambda text: np.eye(8)[len(text) % 3])}, TEXTS, "different rows to 36 texts"),
        ({"none": Made(lambda text: np.zeros(8))}, TEXTS, "0 of 36 texts have a vector"),
        ({"nan": Made(lambda text: np.full(8, np.nan))}, TEXTS, "gives NaN"),
        ({"thin": Made(lambda text: of(text)[:1])}, TEXTS, "1 dimension"),
        ({"lone": Made(lambda text: 1.0)}, TEXTS, "one row each is due"),
    ],
)  # fmt: skip
def test_bad_comparisons_get_a_clear_answer(encoders, texts, says):
    with pytest.raises(BadInput, match=says):
        compare_encoders(encoders, texts)


def test_rows_must_be_enough():
    with pytest.raises(BadInput, match="rows must be"):
        compare_encoders([NUMEN], TEXTS, rows=20)


# --- the command and its figure ---------------------------------------------------------------------------------------


def invoke(*arguments, **options):
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False, **options)


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return str(path)


def test_the_command_prints_shapes_and_agreement(lines):
    found = invoke(NUMEN, "numen?dim=64", "--texts", lines, "-k", "4")
    assert found.exit_code == 0
    assert "36 texts" in found.output
    head = next(line for line in found.output.splitlines() if line.startswith("encoder"))
    assert head.split()[:3] == ["encoder", "dim", "constant"]
    for title in ("CKA ", "CKA debiased", "jaccard@4", "rank similarity@4"):
        assert any(line.startswith(title) for line in found.output.splitlines())
    values = json.loads(invoke(NUMEN, "numen?dim=64", "--texts", lines, "--json").output)
    assert values["encoders"] == [NUMEN, "numen?dim=64"]
    assert set(values["pairs"][0]["jaccard"]) == {"1", "3", "5", "10"}
    piped = invoke(NUMEN, "--texts", "-", input="\n".join(TEXTS))
    assert "Name a second encoder" in piped.output


def test_the_command_judges_a_set_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    judged().save(tmp_path / "set")
    for name in ("out.png", "out.svg"):
        found = invoke(NUMEN, "numen?dim=64", "--set", str(tmp_path / "set"), "--figure", str(tmp_path / name))
        assert "nDCG@10" in found.output
        assert (tmp_path / name).stat().st_size > 10_000
    again = draw_comparison(compare_encoders([NUMEN, "numen?dim=64"], judged(), k=(1, 3, 5, 10)), tmp_path / "b.svg")
    assert again.read_bytes() == (tmp_path / "out.svg").read_bytes()


def test_the_command_refuses_before_it_works(lines, tmp_path):
    for arguments, says in (
        ((NUMEN,), "--texts FILE"),
        ((NUMEN, "--texts", lines, "--set", str(tmp_path)), "--texts FILE"),
        ((NUMEN, "--texts", lines, "--figure", "a.png"), "name a second encoder"),
        ((NUMEN, "numen", "--texts", lines, "--figure", "a.gif"), "a figure is written as"),
        ((NUMEN, "numen", "--texts", lines, "--figure", str(tmp_path / "no" / "a.png")), "there is no folder"),
        ((NUMEN, "--set", str(tmp_path / "none")), "is not a folder"),
    ):
        with pytest.raises(BadInput, match=says):
            invoke(*arguments)
    with pytest.raises(BadInput, match="compare two at least"):
        draw_comparison(compare_encoders([NUMEN], TEXTS), tmp_path / "a.png")
    assert CliRunner().invoke(command, []).exit_code == 2
