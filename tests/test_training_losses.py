"""Loss terms against brute force, against sentence-transformers where it is installed, and against their own claims."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from inlay.errors import BadInput  # noqa: E402
from inlay.training import (  # noqa: E402
    Batcher,
    CoSENT,
    EmbedMatch,
    Example,
    GramMatch,
    InfoNCE,
    LearntScale,
    Listwise,
    Matryoshka,
    OrderMatch,
    Pool,
    Source,
    SpreadOut,
    Sum,
    hardness,
)
from inlay.training.cosent import cosent  # noqa: E402
from inlay.training.distillation import (  # noqa: E402
    NeighbourMatch,
    embed_match,
    gram_match,
    listwise,
    neighbour_match,
    order_match,
)
from inlay.training.info_nce import info_nce  # noqa: E402
from inlay.training.models import unit  # noqa: E402
from inlay.training.scores import BLOCKS, block_scores, guide  # noqa: E402
from inlay.training.spread_out import spread_out  # noqa: E402


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def vectors(size: int, k: int, dim: int = 8):
    return unit(torch.randn(size, dim)), unit(torch.randn(size, 1 + k, dim))


def pool_of(examples, *, k: int = 0, q=None, d=None, teacher=None, **source) -> Pool:
    made = Source("s", examples, **source)
    import numpy as np

    batch = Batcher([made], len(examples), negatives=k).make(
        [(0, i) for i in range(len(examples))], np.random.default_rng(0)
    )
    if q is None:
        q, d = vectors(len(examples), k if examples[0].pos else -1)
    return Pool({"vector": torch.cat([q, d.flatten(0, 1)])}, batch, teacher)


def pairs(size: int, k: int = 0) -> list[Example]:
    return [Example(f"q{i}", [f"p{i}"], [f"n{i}.{j}" for j in range(k)]) for i in range(size)]


def brute(q, d, tau, blocks, alpha=0.0):
    """The formula of P8 with loops, from the table of blocks in the sheet."""
    size, k = len(q), d.shape[1] - 1
    losses = []
    for i in range(size):
        others = [j for j in range(size) if j != i]
        cells = {
            "own_negatives": [q[i] @ d[i, c] for c in range(1, k + 1)],
            "batch_positives": [q[i] @ d[j, 0] for j in others],
            "batch_negatives": [q[i] @ d[j, c] for j in others for c in range(1, k + 1)],
            "queries": [q[i] @ q[j] for j in others],
            "documents": [d[i, 0] @ d[j, 0] for j in others],
            "documents_all": [d[i, 0] @ d[j, c] for j in range(size) for c in range(k + 1) if (j, c) != (i, 0)],
            "reverse": [d[i, 0] @ q[j] for j in others],
        }
        positive = float(q[i] @ d[i, 0]) / tau
        total = math.exp(positive)
        for block in blocks:
            extra = alpha if block == "own_negatives" else 0.0
            total += sum(math.exp(float(s) / tau + extra * float(s)) for s in cells[block])
        losses.append(math.log(total) - positive)
    return losses


@pytest.mark.parametrize("blocks", [[b] for b in BLOCKS] + [list(BLOCKS), ["own_negatives", "batch_positives"]])
def test_info_nce_is_the_formula(blocks) -> None:
    q, d = vectors(5, 2)
    found = info_nce(q, d, 0.2, blocks, bonus=hardness(5.0))
    assert found.tolist() == pytest.approx(brute(q, d, 0.2, blocks, alpha=5.0), abs=1e-4)


def test_block_weights_count_cells() -> None:
    q, d = vectors(4, 1)
    base = info_nce(q, d, 0.1, ["batch_positives"])
    assert torch.allclose(info_nce(q, d, 0.1, ["batch_positives", "queries"], weights={"queries": 0}), base)
    twice = info_nce(q, d, 0.1, ["batch_positives"], weights={"batch_positives": 2})
    assert torch.allclose(twice, info_nce(q, d, 0.1, ["batch_positives", "batch_positives"]), atol=1e-6)


def test_symmetric_is_the_mean_of_both_directions() -> None:
    pool = pool_of(pairs(6))
    there = info_nce(pool.q, pool.d, 0.05, ["batch_positives"]).mean()
    back = info_nce(pool.d[:, 0], pool.q[:, None], 0.05, ["batch_positives"]).mean()
    found = InfoNCE(["batch_positives"], 0.05, symmetric=True)(pool)
    assert float(found) == pytest.approx(float((there + back) / 2), abs=1e-5)


def test_agrees_with_sentence_transformers() -> None:
    st = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.losses")
    del st
    q, d = vectors(6, 2, 16)
    ranking = losses.MultipleNegativesRankingLoss(model=torch.nn.Identity(), scale=20.0)
    theirs = ranking.compute_loss_from_embeddings([q, d[:, 0], d[:, 1], d[:, 2]], None)
    ours = info_nce(q, d, 1 / 20, ["own_negatives", "batch_positives", "batch_negatives"]).mean()
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)


def test_a_duplicate_does_not_become_its_own_negative() -> None:
    q, d = vectors(4, 0)
    rows = pairs(4)
    once = InfoNCE(["batch_positives"], 0.1, mask=["same_text"])
    alone = info_nce(q, d, 0.1, ["batch_positives"])[0]
    doubled = pool_of([*rows, rows[0]], q=torch.cat([q, q[:1]]), d=torch.cat([d, d[:1]]))
    keep = {"batch_positives": once._keep(doubled, "batch_positives")}
    found = info_nce(doubled.q, doubled.d, 0.1, ["batch_positives"], keep)
    assert float(found[0]) == pytest.approx(float(alone), abs=1e-6)
    assert float(found[4]) == pytest.approx(float(alone), abs=1e-6)
    assert float(info_nce(doubled.q, doubled.d, 0.1, ["batch_positives"])[0]) > float(alone) + 1e-3


def test_same_text_knows_chains() -> None:
    # The positive of row 0 is the query of row 1: as a candidate of the queries block it would be a false negative.
    pool = pool_of([Example("a", ["b"]), Example("b", ["c"]), Example("x", ["y"])])
    from inlay.training.scores import same_text

    assert same_text(pool, "queries").tolist()[0] == [False, False, True]
    assert same_text(pool, "batch_positives").tolist()[0] == [False, True, True]


def test_class_mask_with_one_class_couples_no_rows() -> None:
    rows = [Example(f"q{i}", [f"p{i}"], ["n"], label=7, neg_labels=[3]) for i in range(4)]
    q, d = vectors(4, 1)
    q.requires_grad_()
    pool = pool_of(rows, k=1, q=q, d=d, kind="class")
    term = InfoNCE(["batch_positives", "queries", "documents"], 0.1, mask=["same_class"])
    loss = term(pool)
    (gradient,) = torch.autograd.grad(loss, q)
    q.requires_grad_(False)
    pool = pool_of(rows, k=1, q=q, d=d, kind="class")
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-6
    # Negatives of another class do count, own and others'.
    assert float(InfoNCE(["batch_negatives"], 0.1, mask=["same_class"])(pool)) > 0.1


def test_rows_without_a_class_are_never_masked() -> None:
    pool = pool_of([Example(f"q{i}", [f"p{i}"]) for i in range(3)])
    from inlay.training.scores import same_class

    assert same_class(pool, "batch_positives").all()


def test_guide_drops_what_the_teacher_finds_as_near() -> None:
    pool = pool_of(pairs(3), teacher=unit(torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0.1], [1, 0], [0, 1]])))
    kept = guide(0.0)(pool, "batch_positives")
    assert not kept[0, 1]  # the teacher finds p1 nearer to q0 than p0
    assert kept[0, 2]


def test_the_in_batch_flag_travels() -> None:
    rows = pairs(4, 2)
    q, d = vectors(4, 2)
    term = InfoNCE(["own_negatives", "batch_positives", "queries"], 0.1)
    only_own = info_nce(q, d, 0.1, ["own_negatives"]).mean()
    assert float(term(pool_of(rows, k=2, q=q, d=d, in_batch=False))) == pytest.approx(float(only_own), abs=1e-6)
    assert float(term(pool_of(rows, k=2, q=q, d=d))) > float(only_own)
    with pytest.raises(BadInput, match="own_negatives"):
        InfoNCE(["batch_positives"])(pool_of(rows, k=2, q=q, d=d, in_batch=False))


def test_hardness_has_no_gradient_of_its_own() -> None:
    q, d = vectors(3, 1)
    q.requires_grad_()
    with_bonus = torch.autograd.grad(info_nce(q, d, 0.1, ["own_negatives"], bonus=hardness(5.0)).sum(), q)[0]
    # The same with the bonus as a constant.
    constant = (5.0 * (q.detach() * d[:, 1]).sum(-1)).unsqueeze(1)
    own, _ = block_scores(q, d, "own_negatives")
    z = torch.cat([(q * d[:, 0]).sum(-1, keepdim=True) / 0.1, own / 0.1 + constant], 1)
    assert torch.allclose(with_bonus, torch.autograd.grad((z.logsumexp(1) - z[:, 0]).sum(), q)[0], atol=1e-5)


def test_learnt_scale_learns_and_is_clamped() -> None:
    scale = LearntScale(0.05, max=100)
    assert float(scale().detach()) == pytest.approx(0.05)
    with torch.no_grad():
        scale.log_scale.fill_(50.0)
    assert float(scale().detach()) == pytest.approx(0.01)
    term = InfoNCE(["batch_positives"], "learnt")
    term(pool_of(pairs(4))).backward()
    assert term.scale.log_scale.grad.abs() > 0


@pytest.mark.parametrize(
    "options",
    [{"blocks": ["nearby"]}, {"tau": 0.0}, {"tau": "guessed"}, {"mask": ["same"]}, {"weights": {"queries": -1}}],
)
def test_info_nce_refuses(options) -> None:
    with pytest.raises(BadInput):
        InfoNCE(**options)


def test_info_nce_of_plain_texts_is_an_error() -> None:
    with pytest.raises(BadInput, match="texts only"):
        InfoNCE()(pool_of([Example("a"), Example("b")], kind="text"))


# distillation


def test_embed_match() -> None:
    s, t = unit(torch.randn(5, 6)), unit(torch.randn(5, 6))
    cos = embed_match(s, t, "cos", "sum")
    assert float(cos) == pytest.approx(sum(1 - float(a @ b) for a, b in zip(s, t)), abs=1e-5)
    # |s − t|² = 2(1 − s·t) for unit rows
    assert float(embed_match(s, t, "sq", "sum")) == pytest.approx(2 * float(cos), abs=1e-5)
    assert float(embed_match(s, s, "l2")) < 1e-5
    with pytest.raises(BadInput, match="wide"):
        embed_match(s, t[:, :3])


def test_gram_match_needs_no_equal_widths() -> None:
    s, t = unit(torch.randn(5, 4)), unit(torch.randn(5, 9))
    want = sum(float((s[i] @ s[j] - t[i] @ t[j]) ** 2) for i in range(5) for j in range(5)) / 25
    assert float(gram_match(s, t)) == pytest.approx(want, abs=1e-6)


def full_order(s, t, margin):
    """The O(n⁴) mean of the paper, over all ordered pairs (i, j), (m, n) with i ≠ j and m ≠ n."""
    n, total, count = len(s), 0.0, 0
    both = [(i, j) for i in range(n) for j in range(n) if i != j]
    for i, j in both:
        for m, k in both:
            # The two orders of one pair are one pair: their similarities are equal, whatever rounding says.
            if {i, j} != {m, k} and float(t[i] @ t[j]) > float(t[m] @ t[k]):
                total += max(0.0, float(s[m] @ s[k]) - float(s[i] @ s[j]) + margin)
                count += 1
    return total / count


def test_order_match_is_the_full_mean() -> None:
    s, t = unit(torch.randn(6, 4)), unit(torch.randn(6, 7))
    want = full_order(s, t, 0.015)
    assert float(order_match(s, t, 0.015, None)) == pytest.approx(want, abs=1e-5)
    draws = torch.stack([order_match(s, t, 0.015, 2000) for _ in range(100)])
    error = float(draws.std() / math.sqrt(len(draws)))
    assert abs(float(draws.mean()) - want) < 4 * error + 1e-6
    assert error < 0.01 * want


def test_order_match_leaves_ties_out() -> None:
    s = unit(torch.randn(4, 3))
    tied = unit(torch.ones(4, 3))
    assert float(order_match(s, tied, 0.015, 500)) == 0
    assert float(order_match(s[:1], tied[:1])) == 0
    assert float(order_match(s, s, 0.0, None)) == 0


def test_listwise_is_least_when_student_is_teacher() -> None:
    scores = torch.randn(4, 5)
    best = listwise(scores, scores, 1.0, 1.0)
    entropy = -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1).mean()
    assert float(best) == pytest.approx(float(entropy), abs=1e-6)
    assert float(listwise(scores, scores + torch.randn(4, 5), 1.0, 1.0)) > float(best)


def test_listwise_by_the_examples_scores() -> None:
    rows = [Example(f"q{i}", [f"p{i}"], ["a", "b"], pos_scores=[1.0], neg_scores=[0.5, 0.1]) for i in range(3)]
    pool = pool_of(rows, k=2)
    want = listwise(torch.tensor([[1.0, 0.5, 0.1]] * 3), torch.einsum("bd,bkd->bk", pool.q, pool.d))
    assert float(Listwise(by="scores")(pool)) == pytest.approx(float(want), abs=1e-6)
    with pytest.raises(BadInput, match="scores"):
        Listwise(by="scores")(pool_of(pairs(2, 2), k=2))


def test_terms_without_a_teacher_say_so() -> None:
    for term in (EmbedMatch(), GramMatch(), OrderMatch(), Listwise()):
        with pytest.raises(BadInput, match="teacher"):
            term(pool_of(pairs(3)))


# the others


def test_spread_out() -> None:
    assert float(spread_out(torch.eye(6)[:4])) == pytest.approx(0, abs=1e-7)
    assert float(spread_out(unit(torch.ones(4, 3)))) == pytest.approx(1, abs=1e-6)
    for n in (5, 30):  # both ways to compute it
        x = unit(torch.randn(n, 8))
        want = sum(float(x[i] @ x[j]) ** 2 for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        assert float(spread_out(x)) == pytest.approx(want, abs=1e-5)
        assert float(spread_out(x, floor=want / 2)) == pytest.approx(want / 2, abs=1e-5)
    assert float(spread_out(x, floor=1.0)) == 0
    pool = pool_of(pairs(5))
    both = spread_out(pool.q) + spread_out(pool.d[:, 0])
    assert float(SpreadOut()(pool)) == pytest.approx(float(both), abs=1e-6)


def test_cosent() -> None:
    s, gold = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([2.0, 1.0, 1.0])
    want = math.log(1 + math.exp((0.1 - 0.9) / 0.2) + math.exp((0.5 - 0.9) / 0.2))
    assert float(cosent(s, gold, 0.2)) == pytest.approx(want, abs=1e-6)
    assert float(cosent(s, torch.ones(3))) == 0  # nothing but ties
    with pytest.raises(BadInput, match="score"):
        CoSENT()(pool_of(pairs(3)))


def test_matryoshka_prefixes_have_unit_length() -> None:
    pool = pool_of(pairs(4, 2), k=2)
    for dim in (2, 5, 8):
        cut = pool.cut(dim)
        assert cut.q.shape[-1] == dim
        assert torch.allclose(cut.rows.norm(dim=-1), torch.ones(len(cut.rows)), atol=1e-6)
    term = InfoNCE(["own_negatives", "batch_positives"], 0.1)
    each = [info_nce(unit(pool.q[:, :n]), unit(pool.d[..., :n]), 0.1, term.blocks).mean() for n in (8, 4)]
    assert float(Matryoshka(term, [8, 4])(pool)) == pytest.approx(float(sum(each) / 2), abs=1e-5)
    assert float(Matryoshka(term, [8, 4], [3, 1])(pool)) == pytest.approx(float((3 * each[0] + each[1]) / 4), abs=1e-5)
    with pytest.raises(BadInput, match="9"):
        Matryoshka(term, [9])(pool)


def test_sum_weighs_and_remembers() -> None:
    pool = pool_of(pairs(4))
    one, two = InfoNCE(["batch_positives"]), SpreadOut()
    total = Sum(c=(2.0, one), s=(0.5, two))
    assert float(total(pool)) == pytest.approx(2 * float(one(pool)) + 0.5 * float(two(pool)), abs=1e-5)
    assert total.parts == pytest.approx({"c": float(one(pool)), "s": float(two(pool))})
    with pytest.raises(BadInput, match="head 'small'"):
        Sum(c=(1.0, one, "small"))(pool)


def test_neighbour_match_by_its_definition() -> None:
    s, t = unit(torch.randn(6, 5)), unit(torch.randn(6, 9))
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        mine = torch.softmax(torch.stack([s[i] @ s[j] for j in others]) / 0.1, 0)
        theirs = torch.softmax(torch.stack([t[i] @ t[j] for j in others]) / 0.1, 0)
        total += float((theirs * (theirs / mine).log()).sum())
    assert float(neighbour_match(s, t, 0.1)) == pytest.approx(total / 6, rel=1e-4)
    assert float(neighbour_match(t, t)) == pytest.approx(0, abs=1e-5)
    assert float(neighbour_match(s[:1], t[:1])) == 0
    with pytest.raises(BadInput, match="tau"):
        NeighbourMatch(0)
