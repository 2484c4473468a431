"""Memory layers and the decoder made of them: what must hold exactly, whatever is learnt."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from inlay.kernels import memory_lookup as kernel  # noqa: E402
from inlay.lm.cache import KeyValueCache  # noqa: E402
from inlay.lm.decoder import Decoder  # noqa: E402
from inlay.lm.flops import flops_per_token  # noqa: E402
from inlay.lm.memory_block import MemoryFeedForward, block_cost, memoryformer  # noqa: E402
from inlay.lm.memory_linear import MemoryLinear, weight_moment  # noqa: E402
from inlay.lm.trainer import Trainer, table_parameters  # noqa: E402
from inlay.tables.full import Full  # noqa: E402
from inlay.tables.row_adam import RowAdam  # noqa: E402

V, D = 50, 32


def layer(inputs=12, outputs=7, tau=4, t=1.0, seed=0, **options):
    torch.manual_seed(seed)
    return MemoryLinear(inputs, outputs, tau, t, **options)


def normed(rows, width, seed=0):
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return nn.functional.layer_norm(x, (width,))


def ids(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def naive(x, tables, t):
    """The definition: softmax over all patterns, chunk by chunk; tables [K, 2**tau, outputs]."""
    tau = x.shape[-1] // len(tables)
    patterns = torch.tensor([[2.0 * (b >> i & 1) - 1 for i in range(tau)] for b in range(1 << tau)], dtype=x.dtype)
    out = []
    for row in x:
        y = 0
        for k, z in enumerate(row.split(tau)):
            bucket = sum(1 << i for i, number in enumerate(z.tolist()) if number >= 0)
            y = y + (patterns @ z / t).softmax(0)[bucket] * tables[k][bucket]
        out.append(y)
    return torch.stack(out)


@pytest.mark.parametrize("tau", [1, 3, 4, 6])
@pytest.mark.parametrize("t", [0.3, 1.0, 2.5])
def test_the_weight_is_the_softmax_over_all_patterns(tau, t):
    part = layer(2 * tau, 5, tau, t).double()
    x = torch.randn(9, 2 * tau, dtype=torch.double)
    x[0, 0] = 0.0
    x[1, -1] = -0.0
    expected = naive(x, part.weight.view(2, 1 << tau, 5), t)
    torch.testing.assert_close(part(x), expected, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(part(x.view(3, 3, -1)).view(9, 5), expected, atol=1e-12, rtol=0)


def test_the_bucket_is_the_most_probable_pattern_and_weights_sum_to_one():
    tau, part = 5, layer(5, 1, 5)
    part = part.double()
    z = torch.randn(5, dtype=torch.double)
    total, best = 0.0, []
    part.weight.data.fill_(1.0)
    own = float(part(z).detach())
    for signs in itertools.product((-1.0, 1.0), repeat=tau):
        score = float(torch.sigmoid(2 * z * torch.tensor(signs, dtype=torch.double)).prod())
        total += score
        best.append(score)
    assert total == pytest.approx(1.0, abs=1e-12)
    assert own == pytest.approx(max(best), abs=1e-12)


def test_zero_counts_as_positive_and_the_first_number_is_the_lowest_bit():
    part = layer(6, 1, 3, sparse=False)
    part.weight.data = torch.arange(16.0)[:, None]
    x = torch.tensor([[0.0, -9.0, -9.0, -9.0, -0.0, 9.0]])
    counts = part.bucket_usage(x).counts
    assert counts.nonzero().tolist() == [[0, 0b001], [1, 0b110]]
    assert float(part(x).detach()) == pytest.approx(0.5 * 1 + 0.5 * (8 + 6), abs=1e-4)


def test_gradients_are_those_of_the_definition():
    part = layer(12, 7, 4, 0.7, sparse=False).double()
    x = torch.randn(6, 12, dtype=torch.double, requires_grad=True)
    aim = torch.randn(6, 7, dtype=torch.double)
    found = torch.autograd.grad((part(x) * aim).sum(), (x, part.weight))
    tables = part.weight.detach().view(3, 16, 7).requires_grad_()
    expected = torch.autograd.grad((naive(x, tables, 0.7) * aim).sum(), (x, tables))
    torch.testing.assert_close(found[0], expected[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(found[1], expected[1].view(-1, 7), atol=1e-12, rtol=0)
    assert found[0].abs().min() > 0
    torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(part, {"table.weight": weight}, (x,)),
        (x, part.weight.detach().clone().requires_grad_()),
    )


def test_sparse_gradients_are_the_dense_ones_and_hold_read_rows_only():
    x = torch.randn(5, 12)
    grads = {}
    for sparse in (True, False):
        part = layer(sparse=sparse)
        part(x).square().sum().backward()
        assert part.weight.grad.is_sparse is sparse
        grads[sparse] = part.weight.grad
    torch.testing.assert_close(grads[True].to_dense(), grads[False], atol=1e-6, rtol=0)
    read = layer().bucket_usage(x).counts.flatten()
    assert grads[True].coalesce().indices()[0].tolist() == read.nonzero().flatten().tolist()
    part = layer()
    before = part.weight.detach().clone()
    part(x).square().sum().backward()
    RowAdam([part.weight], lr=0.1, weight_decay=0.0, multiplier=3).step()
    moved = (part.weight.detach() != before).any(1)
    assert moved.tolist() == (read > 0).tolist()


@pytest.mark.parametrize(("tau", "t"), [(8, 1.0), (4, 1.0), (8, 2.0), (10, 1.0), (2, 1e-3), (3, 50.0)])
def test_outputs_begin_with_variance_one(tau, t):
    width = 16 * tau
    part = layer(width, 96, tau, t)
    y = part(normed(1000, width)).detach()
    assert float(y.std()) == pytest.approx(1.0, rel=0.1)
    assert float(y.mean()) == pytest.approx(0.0, abs=0.1)


def test_moments_of_the_weight_by_integration_and_by_sampling():
    assert weight_moment(8, power=1) == pytest.approx(0.134, abs=5e-4)
    assert weight_moment(8) == pytest.approx(0.0238, abs=5e-5)
    for chunks, deviation in ((16, 1.62), (64, 0.81)):
        assert float(layer(8 * chunks, 512, 8).weight.detach().std()) == pytest.approx(deviation, abs=0.01)
    assert (16 * weight_moment(8, 2.0)) ** -0.5 == pytest.approx(5.2, abs=0.05)
    random = np.random.default_rng(0)
    z = np.abs(random.standard_normal(2_000_000))
    for t in (0.01, 0.5, 1.0, 7.0):
        assert weight_moment(1, t) == pytest.approx(float(((1 + np.exp(-2 * z / t)) ** -2).mean()), rel=2e-3)
        assert weight_moment(3, t) == pytest.approx(weight_moment(1, t) ** 3)
    assert weight_moment(4, 1e-9) == pytest.approx(1.0, abs=1e-6)
    assert weight_moment(4, 1e9) == pytest.approx(2.0**-8, abs=1e-6)
    assert weight_moment(5, 0.3, power=0) == pytest.approx(1.0, abs=1e-12)
    assert float(layer(start="normal").weight.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_bits_are_balanced_where_inputs_are_centred():
    part, x = layer(128, 4, 8), torch.randn(6000, 128, generator=torch.Generator().manual_seed(0)) + 0.8
    centred = part.bucket_usage(nn.LayerNorm(128)(x))
    bits = torch.arange(256)[None, :] >> torch.arange(8)[:, None] & 1
    share = (centred.counts[:, None, :] * bits).sum(2) / 6000
    assert share.shape == (16, 8)
    assert (share - 0.5).abs().max() < 0.03
    assert centred.counts.sum(1).tolist() == [6000] * 16
    assert centred.evenness >= 0.9
    assert centred.dead.tolist() == [0] * 16
    skewed = part.bucket_usage(nn.RMSNorm(128)(x))
    assert skewed.evenness < 0.75 < centred.evenness
    one = part.bucket_usage(x[:1])
    assert one.entropy.tolist() == [0.0] * 16
    assert one.dead.tolist() == [255] * 16
    shares = centred.counts[3].double().numpy() / 6000
    assert float(centred.entropy[3]) == pytest.approx(-float((shares * np.log(shares)).sum()))


@pytest.mark.parametrize(("tau", "chunks", "width", "t"), [(8, 16, 128, 1.0), (3, 5, 7, 0.4), (1, 4, 1, 2.0)])
def test_the_kernel_reads_what_the_layer_computes(tau, chunks, width, t):
    pytest.importorskip("numba")
    from inlay.kernels.memory_lookup_numba import TILE, memory_lookup_compiled

    part = layer(tau * chunks, width, tau, t)
    x = torch.randn(TILE + 37, tau * chunks, generator=torch.Generator().manual_seed(1))
    x[0, 0] = 0.0
    expected, rows = part(x).detach().numpy(), part.weight.detach().numpy()
    plain = kernel.memory_lookup_plain(x.numpy(), rows, tau, t)
    compiled = memory_lookup_compiled(x.numpy(), rows, tau, np.float32(2 / t))
    with torch.no_grad():
        read = part(x).numpy()
    for found in (plain, compiled, read):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(kernel.memory_lookup(x.numpy()[::2], rows, tau, t), compiled[::2])


def test_the_plain_kernel_works_in_pieces(monkeypatch):
    part, x = layer(), torch.randn(50, 12)
    whole = kernel.memory_lookup_plain(x.numpy(), part.weight.detach().numpy(), 4, 1.0)
    monkeypatch.setattr(kernel, "AT_ONCE", 100)
    pieces = kernel.memory_lookup_plain(x.numpy(), part.weight.detach().numpy(), 4, 1.0)
    np.testing.assert_allclose(pieces, whole, atol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_reading_goes_through_either_form(compiled, monkeypatch):
    if compiled:
        pytest.importorskip("numba")
    monkeypatch.setattr(kernel, "compiled", lambda work: compiled)
    part, x = layer(), torch.randn(2, 3, 12)
    with torch.no_grad():
        torch.testing.assert_close(part(x), part.requires_grad_()(x.requires_grad_()), atol=1e-6, rtol=0)
        assert part(x[:0]).shape == (0, 3, 7)
        assert part(x[0, 0]).shape == (7,)
        with pytest.raises(BadInput, match="row 1 of x has NaN"):
            part(torch.stack([x[0, 0], torch.full((12,), math.nan)]))
    assert part(x[:0]).shape == (0, 3, 7)


def test_halves_and_infinities():
    part, x = layer(sparse=False), torch.randn(4, 12)
    half = layer(sparse=False).bfloat16()
    torch.testing.assert_close(half(x.bfloat16()).float(), part(x.bfloat16().float()), atol=0.1, rtol=0)
    far = torch.where(x >= 0, math.inf, -math.inf)
    expected = part.weight.view(3, 16, 7)[torch.arange(3), [[int(b) for b in row] for row in _buckets(x)]].sum(1)
    torch.testing.assert_close(part(far), expected)
    with torch.no_grad():
        torch.testing.assert_close(part(far), expected)


def _buckets(x):
    return ((x.view(-1, 3, 4) >= 0) * torch.tensor([1, 2, 4, 8])).sum(-1).tolist()


def test_a_block_is_the_formula():
    torch.manual_seed(2)
    model = memoryformer(V, D, 1, 4, 4, expand_bits=2, sparse=False)
    block = model.blocks[0]
    assert not [m for m in block.modules() if isinstance(m, nn.Linear | nn.RMSNorm | nn.SiLU | nn.GELU)]
    assert isinstance(block.attention.out, nn.Identity)
    assert isinstance(model.norm, nn.LayerNorm)
    assert isinstance(model.head, nn.Linear)
    part = block.feed_forward
    assert (part.up.outputs, part.down.inputs, part.down.tau, part.down.chunks) == (48, 48, 6, 8)
    assert part.down.weight.shape == (8 * 2**6, D)
    for norm in (block.attention_norm, block.feed_forward_norm, part.norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    text = ids(2, 9)
    before, after = model(text, capture=True).hidden

    def memory(x, own):
        tables = own.weight.view(own.chunks, -1, own.outputs)
        return naive(x.reshape(-1, own.inputs), tables, own.t).view(2, 9, -1)

    x = block.attention_norm(before)
    q, k, v = (
        memory(x, m).view(2, 9, 4, 8).transpose(1, 2)
        for m in (block.attention.query, block.attention.key, block.attention.value)
    )
    q, k = (model.position.rotate(one, torch.arange(9)) for one in (q, k))
    scores = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    h = before + (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 9, D)
    h = h + memory(part.norm(memory(block.feed_forward_norm(h), part.up)), part.down)
    torch.testing.assert_close(after, h, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_nothing_looks_ahead_and_token_by_token_is_all_at_once(kv_heads):
    torch.manual_seed(0)
    model = memoryformer(V, D, 3, 4, 4, kv_heads=kv_heads, context=64).eval()
    before, after = ids(2, 12), ids(2, 12, seed=1)
    after[:, :7] = before[:, :7]
    assert torch.equal(model(before).logits[:, :7], model(after).logits[:, :7])
    for exact in (False, True):
        if exact:
            model.double()
        with torch.no_grad():
            whole = model(before).logits
            assert torch.equal(whole[:, :7], model(after).logits[:, :7])
            cache = KeyValueCache()
            steps = torch.cat([model(before[:, i : i + 1], cache=cache).logits for i in range(12)], 1)
        torch.testing.assert_close(steps, whole, atol=1e-9 if exact else 1e-4, rtol=0)
    text = model.float().generate(ids(4), 8, temperature=0)
    assert len(text) == 8


def test_it_learns_and_comes_back_from_its_state():
    torch.manual_seed(0)
    follows = torch.randperm(V)
    model = memoryformer(V, D, 2, 4, 4)
    tables, _ = table_parameters(model)
    assert [len(table) for table in tables] == 2 * [*4 * [8 * 2**4], 8 * 2**6]
    taken = set(map(id, tables))
    others = torch.optim.AdamW([p for p in model.parameters() if id(p) not in taken], lr=3e-3)
    rows = RowAdam(tables, lr=3e-3, multiplier=3, weight_decay=0.0)
    losses = []
    for step in range(80):
        first = ids(16, 1, seed=step)
        batch = [first]
        for _ in range(8):
            batch.append(follows[batch[-1]])
        text = torch.cat(batch, 1)
        loss = model.loss(text[:, :-1], text[:, 1:])
        for part in (others, rows):
            part.zero_grad()
        loss.backward()
        for part in (others, rows):
            part.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 3.5
    assert np.mean(losses[-10:]) < 0.8
    torch.manual_seed(7)
    again = memoryformer(V, D, 2, 4, 4)
    with torch.no_grad():
        assert not torch.equal(again(text).logits, model(text).logits)
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(text).logits, model(text).logits)


def test_the_trainer_moves_its_tables_as_tables():
    torch.manual_seed(0)
    model, text = memoryformer(V, D, 2, 4, 4, context=8), ids(400).numpy()
    before = [table.detach().clone() for table in table_parameters(model)[0]]
    one = Trainer(model, text, steps=2, length=8, batch=2, table_lr=3, table_decay=0.0)
    one.run()
    assert one.row_optimiser is not None
    assert one.rows_read > 0
    for old, table in zip(before, table_parameters(model)[0]):
        moved = (table.detach() != old).any(1)
        assert 0 < int(moved.sum()) < len(table)


def test_its_tables_are_written_as_full_ones(tmp_path):
    part = layer()
    again = Full.load(part.table.save(tmp_path / "rows"))
    assert torch.equal(again.weight, part.weight)
    assert torch.equal(again(torch.arange(5)), part.table(torch.arange(5)))


def test_inputs_are_reached_through_the_weight_alone():
    torch.manual_seed(0)
    part = MemoryFeedForward(D, 4)
    x = normed(3, D).requires_grad_()
    part(x, None).square().sum().backward()
    assert x.grad.abs().min() > 0
    x.grad = None
    for own in (part.up, part.down):
        own.t = 1e-4  # every p is 1 and stays 1
    part(x, None).square().sum().backward()
    assert x.grad.abs().median() == 0


def test_a_decoder_has_norms_and_attention_of_any_kind():
    model = Decoder(V, D, 2, 4, norm=nn.LayerNorm, attention={1: memoryformer(V, D, 1, 4, 4).blocks[0].attention})
    kinds = [type(block.attention.query) for block in model.blocks]
    assert kinds == [nn.Linear, MemoryLinear]
    assert not [m for m in model.modules() if isinstance(m, nn.RMSNorm)]
    assert model(ids(1, 3)).logits.shape == (1, 3, V)
    with pytest.raises(BadInput, match="attention names layer 2"):
        Decoder(V, D, 2, 4, attention={2: nn.Identity()})


def test_costs_are_those_of_the_paper():
    giga = 1e9
    for dim, dense, ours in ((512, 10.7, 4.7), (768, 20.9, 7.4), (1024, 34.4, 10.2)):
        cost = block_cost(dim, 2048)
        printed = 6 * 2048 * dim * dim / 8 + 5 * 2048 * dim  # and hashing
        assert round((cost.attention + cost.dense) / giga, 1) == dense
        assert round((cost.attention + printed) / giga, 1) == ours
        leading = 2048 * dim * dim * (5 / 8 + 2 / 64)
        assert leading < cost.memory < 1.05 * leading
        assert 0.85 * printed < cost.memory < printed
    assert round(block_cost(1024, 2048).dense / giga, 1) == 25.8
    assert block_cost(512, 2048).saved == pytest.approx(12 * 8 / 5.25, rel=0.05)
    for tau, bits in ((8, 2), (4, 0), (4, 3)):
        model = memoryformer(V, D, 3, 4, tau, expand_bits=bits)
        cost, found = block_cost(D, 24, tau, bits), flops_per_token(model, 24)
        assert found.connected * 24 == 2 * 3 * cost.memory
        assert found.scores * 24 == 2 * 3 * cost.attention
        tables = sum(p.numel() for p in model.parameters() if p.ndim == 2 and p.shape[0] > V)
        assert tables == 3 * cost.rows
    dense = flops_per_token(Decoder(V, 128, 6, 4), 128)
    memory = flops_per_token(memoryformer(V, 128, 6, 4), 128)
    assert dense.connected / memory.connected >= 8


def test_bad_input_is_named():
    for wrong, match in (
        ({"inputs": 30}, "do not divide 30 inputs"),
        ({"inputs": 0}, "inputs must be"),
        ({"outputs": 1.5}, "outputs must be"),
        ({"tau": 17}, "tau must be an integer from 1 to 16, got 17"),
        ({"tau": 0}, "tau must be"),
        ({"tau": 4.0}, "tau must be"),
        ({"t": 0.0}, "t must be a number above 0, got 0.0"),
        ({"t": -1}, "t must be"),
        ({"t": math.nan}, "t must be"),
        ({"t": "1"}, "t must be"),
        ({"start": "ones"}, "start must be one of unit_variance, normal"),
    ):
        with pytest.raises(BadInput, match=match):
            MemoryLinear(**{"inputs": 12, "outputs": 7, "tau": 4} | wrong)
    part = layer()
    broken = torch.randn(3, 12)
    broken[2, 5] = math.nan
    for x, match in (
        (torch.randn(3, 11), r"floats \[..., 12\], got torch.float32 \[3, 11\]"),
        (torch.zeros(3, 12, dtype=torch.long), "got torch.int64"),
        (torch.tensor(1.0), "floats"),
        (broken, "row 2 of x has NaN"),
    ):
        for call in (part, part.bucket_usage):
            with pytest.raises(BadInput, match=match):
                call(x)
    with pytest.raises(BadInput, match="at least one row"):
        part.bucket_usage(broken[:0])
    with pytest.raises(BadInput, match="power"):
        weight_moment(8, power=-1)
    for options, match in (
        ({"tau": 5}, "tau = 5 divides, got 32"),
        ({"tau": 8, "expand_bits": 9}, "expand_bits must be an integer from 0 to 8, got 9"),
        ({"tau": 8, "expand_bits": -1}, "expand_bits"),
        ({"tau": 0}, "tau must be"),
        ({"t": 0}, "t must be"),
        ({"heads": 5}, "heads must divide"),
        ({"kv_heads": 3}, "3 heads of keys"),
    ):
        with pytest.raises(BadInput, match=match):
            memoryformer(V, D, 2, **{"heads": 4} | options)
    for dim, length in ((30, 8), (32, 0), (32, True)):
        with pytest.raises(BadInput):
            block_cost(dim, length)
