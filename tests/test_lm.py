"""The decoder and STEM: what must hold exactly, whatever is learnt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from inlay.lm import Decoder, HashExperts, KeyValueCache, Stem, SwiGLU, from_dense, hidden_width, stem_decoder  # noqa: E402
from inlay.lm.stem import placed, start_rows  # noqa: E402
from inlay.tables import Full  # noqa: E402

V, D, H = 50, 32, 48


def small(**options):
    torch.manual_seed(0)
    return stem_decoder(V, D, 3, 4, hidden=H, context=64, **{"start": "scaled_normal", "sparse": False} | options)


def ids(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["up", "gate", "additive"])
def test_a_block_is_the_formula(mode):
    torch.manual_seed(1)
    part = Stem(D, Full(V, H, scale=1.0), mode)
    x, tokens = torch.randn(2, 5, D), ids(2, 5)
    found = part(x, tokens).detach().numpy()

    def silu(a):
        return a / (1 + np.exp(-a))

    weight = {name: p.detach().double().numpy() for name, p in part.named_parameters()}
    rows, x = weight["table.weight"][tokens.numpy()], x.double().numpy()
    gate = silu(x @ weight["gate.weight"].T) if mode != "gate" else silu(rows)
    up = {"up": rows, "gate": None, "additive": None}[mode]
    if up is None:
        up = x @ weight["up.weight"].T + (rows if mode == "additive" else 0)
    np.testing.assert_allclose(found, (gate * up) @ weight["down.weight"].T, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("part", ["dense", "stem", "experts"])
def test_nothing_looks_ahead(part, kv_heads):
    torch.manual_seed(0)
    parts = {
        "dense": None,
        "stem": lambda layer: Stem(D, Full(V, H, scale=1.0)),
        "experts": lambda layer: HashExperts(V, D, H, experts=3),
    }[part]
    model = Decoder(V, D, 2, 4, hidden=H, kv_heads=kv_heads, feed_forward=parts)
    before, after = ids(2, 12), ids(2, 12, seed=1)
    after[:, :7] = before[:, :7]
    one, other = model(before).logits[:, :7], model(after).logits[:, :7]
    if part == "experts":  # tokens are multiplied in groups, whose size decides how sums are rounded
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    else:
        assert torch.equal(one, other)


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_token_by_token_is_all_at_once_also_when_memory_is_edited(kv_heads):
    model = small(where="full", kv_heads=kv_heads).eval()
    text, memory = ids(2, 10), ids(2, 10, seed=3)
    for edited in (None, memory):
        whole = model(text, memory_ids=edited).logits
        cache = KeyValueCache()
        steps = [
            model(text[:, i : i + 1], memory_ids=None if edited is None else edited[:, i : i + 1], cache=cache).logits
            for i in range(10)
        ]
        torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=0)
        assert cache.length == 10
        assert cache.nbytes == 2 * 3 * 2 * 10 * (D if kv_heads is None else D // 2) * 4


def test_edited_memory_acts_from_where_it_is_edited():
    model = small().eval()
    text = ids(1, 9)
    assert torch.equal(model(text).logits, model(text, memory_ids=text.clone()).logits)
    edited = text.clone()
    edited[0, 4] = (text[0, 4] + 1) % V
    same, other = model(text).logits, model(text, memory_ids=edited).logits
    assert torch.equal(same[:, :4], other[:, :4])
    assert not torch.equal(same[:, 4], other[:, 4])


def test_random_ids_cannot_be_learnt():
    torch.manual_seed(0)
    model = stem_decoder(V, D, 3, 4, hidden=H, where="full")
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.ndim > 1 and p.shape[0] != V], lr=3e-3)
    tables = torch.optim.SparseAdam(
        [b.feed_forward.table.weight for b in model.blocks if hasattr(b.feed_forward, "table")]
    )
    losses = []
    for step in range(100):
        batch = ids(8, 33, seed=step)
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        for part in (optimiser, tables):
            part.zero_grad()
        loss.backward()
        for part in (optimiser, tables):
            part.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) >= math.log(V) - 0.05


def test_sparse_gradients_of_a_table_are_the_dense_ones():
    grads = {}
    for sparse in (True, False):
        torch.manual_seed(0)
        model = stem_decoder(V, D, 2, 4, hidden=H, sparse=sparse)
        batch = ids(4, 21) % 5  # many of each
        model.loss(batch[:, :-1], batch[:, 1:]).backward()
        grad = model.blocks[1].feed_forward.table.weight.grad
        assert grad.is_sparse is sparse
        grads[sparse] = grad.to_dense()
    torch.testing.assert_close(grads[True], grads[False], atol=1e-6, rtol=0)


def test_a_dense_layer_becomes_a_table_exactly_where_the_stream_is_the_token():
    torch.manual_seed(0)
    dense = Decoder(V, D, 2, 4, hidden=H)
    for block in dense.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    text = ids(2, 8)
    expected = dense(text).logits
    dense.blocks[0].feed_forward = from_dense(dense, 0)
    torch.testing.assert_close(dense(text).logits, expected, atol=1e-5, rtol=0)
    drawn = from_dense(dense, 1, statistics=True).table.weight
    kept = from_dense(dense, 1).table.weight
    torch.testing.assert_close(drawn.mean(0), kept.mean(0), atol=4 * float(kept.detach().std()) / V**0.5, rtol=0)
    with pytest.raises(BadInput, match="not a dense SwiGLU"):
        from_dense(dense, 0)


def test_layers_and_starts():
    assert placed("third", 12) == [2, 5, 8, 11]
    assert placed("half", 8) == [1, 3, 5, 7]
    assert placed("full", 4) == [1, 2, 3]
    assert placed([3, 0, 3], 4) == [0, 3]
    model = small(where="half")
    assert [type(b.feed_forward) for b in model.blocks] == [SwiGLU, Stem, SwiGLU]
    assert start_rows(2000, 500).std().item() == pytest.approx((2 / 2500) ** 0.5, rel=0.01)
    assert start_rows(2000, 400, "scaled_normal").std().item() == pytest.approx(0.05, rel=0.01)
    assert not start_rows(3, 4, "zero").any()
    assert [hidden_width(96), hidden_width(128), hidden_width(2048, multiple=256)] == [256, 384, 5632]
    for wrong in ("most", [4], [-1]):
        with pytest.raises(BadInput):
            placed(wrong, 4)
    with pytest.raises(BadInput, match="wide"):
        stem_decoder(V, D, 2, 4, hidden=H, table=lambda rows, dim: Full(rows, dim + 1))
    with pytest.raises(BadInput, match="mode"):
        Stem(D, Full(V, H), "down")
    with pytest.raises(BadInput, match="start"):
        start_rows(3, 4, "ones")


def test_generation_is_seeded_and_ends():
    model = small().eval()
    text = ids(5)
    once, again = (model.generate(text, 12, temperature=0.8, top_k=10, seed=4) for _ in range(2))
    assert torch.equal(once, again)
    greedy = model.generate(text, 6, temperature=0)
    logits = model(torch.cat([text, greedy])[None]).logits[0, 4:-1]
    assert torch.equal(logits.argmax(-1), greedy)
    assert len(model.generate(text, 6, temperature=0, stop=int(greedy[2]))) <= 2
    assert len(list(model.stream(ids(60), temperature=0))) == 64 - 60 + 1
    hidden = model(text[None], capture=True).hidden
    assert len(hidden) == 4
    torch.testing.assert_close(model.head(model.norm(hidden[-1])), model(text[None]).logits)


def test_bad_input_is_named():
    model = small()
    for wrong, match in (
        (torch.tensor([[V]]), f"id {V} is outside"),
        (torch.tensor([[-1]]), "id -1"),
        (torch.zeros(1, 0, dtype=torch.long), "at least one token"),
        (torch.zeros(3, dtype=torch.long), "batch, length"),
        (torch.zeros(1, 65, dtype=torch.long), "do not fit the context of 64"),
    ):
        with pytest.raises(BadInput, match=match):
            model(wrong)
    with pytest.raises(BadInput, match="shape"):
        model(ids(1, 3), memory_ids=ids(1, 2))
    with pytest.raises(BadInput, match="at least one token"):
        model.generate(torch.zeros(0, dtype=torch.long))
    with pytest.raises(BadInput, match="temperature"):
        model.generate(ids(2), temperature=-1)
    with pytest.raises(BadInput, match="must divide dim 30"):
        Decoder(V, 30, 1, 4)
    with pytest.raises(BadInput, match="layer 2"):
        Decoder(V, D, 2, 4, feed_forward={2: SwiGLU(D, H)})
    with pytest.raises(BadInput, match="vocab"):
        Decoder(0, D, 2, 4)
    with pytest.raises(BadInput, match="experts"):
        HashExperts(V, D, H, experts=0)
