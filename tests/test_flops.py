"""FLOPs by formula: as torch counts them while it multiplies, and as the papers' formulas say."""

from __future__ import annotations

import pytest

from inlay.errors import BadInput

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from inlay.lm.attention import Attention  # noqa: E402
from inlay.lm.decoder import Block, Decoder  # noqa: E402
from inlay.lm.feed_forward import SwiGLU  # noqa: E402
from inlay.lm.flops import flops_per_token  # noqa: E402
from inlay.lm.hash_experts import HashExperts  # noqa: E402
from inlay.lm.memory_block import memoryformer  # noqa: E402
from inlay.lm.stem import stem_decoder  # noqa: E402
from inlay.tables.full import Full  # noqa: E402

V, D, H, L = 50, 32, 48, 24


def counted(model, length=L, *, backward=False):
    """What torch counts of its matrix products, per token."""
    text = torch.randint(V, (2, length), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(text).logits.sum()
        if backward:
            loss.backward()
    return counter.get_total_flops() / text.numel()


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("kind", ["dense", "stem", "gate", "additive", "experts"])
def test_as_torch_counts_the_products(kind, kv_heads):
    torch.manual_seed(0)
    if kind == "dense":
        model = Decoder(V, D, 3, 4, hidden=H, kv_heads=kv_heads)
    elif kind == "experts":
        model = Decoder(
            V, D, 3, 4, hidden=H, kv_heads=kv_heads, feed_forward={1: HashExperts(V, D, H, experts=3)}
        )  # fmt: skip
    else:
        mode = "up" if kind == "stem" else kind
        model = stem_decoder(V, D, 3, 4, where="full", mode=mode, hidden=H, kv_heads=kv_heads, sparse=False)
    found = flops_per_token(model, L)
    assert found.total == pytest.approx(counted(model), rel=1e-9)
    # The ids need no gradient; everything else is differentiated by both factors.
    assert found.training == pytest.approx(counted(model, backward=True), rel=1e-9)


def test_a_stem_layer_saves_one_matrix():
    dense = flops_per_token(Decoder(V, D, 4, 4, hidden=H), L)
    for where, layers in (("third", 1), ("half", 2), ("full", 3)):
        stem = flops_per_token(stem_decoder(V, D, 4, 4, where=where, hidden=H), L)
        assert dense.total - stem.total == layers * 2 * D * H
        assert dense.feed_forward - stem.feed_forward == layers * 2 * D * H
        assert (stem.scores, stem.maps, stem.head, stem.memory) == (dense.scores, dense.maps, dense.head, 0)
    layer = (dense.attention + dense.feed_forward) / 4
    assert 2 * D * H / layer == pytest.approx(H / (4 * D + 2 * L + 3 * H))
    experts = Decoder(V, D, 4, 4, hidden=H, feed_forward=lambda layer: HashExperts(V, D, H, experts=5))
    assert flops_per_token(experts, L) == dense


@pytest.mark.parametrize(("dim", "hidden", "layers"), [(1536, 8960, 28), (4096, 12288, 36)])
def test_the_parts_of_a_layer_by_hand(dim, hidden, layers):
    with torch.device("meta"):
        model = Decoder(8, dim, 1, dim // 128, hidden=hidden, input=Full(8, dim, scale=0.0))
    found = flops_per_token(model, 2048)
    assert found.scores == 4 * dim * 2048
    assert found.maps == 8 * dim * dim
    assert found.feed_forward == 6 * dim * hidden
    assert found.head == 16 * dim
    assert found.connected == found.maps + found.feed_forward
    assert found.attention == found.scores + found.maps
    assert found.total == found.scores + found.connected + found.head


def test_causal_counts_the_pairs_that_are_seen():
    model = Decoder(V, D, 2, 4, hidden=H)
    whole, causal = flops_per_token(model, L), flops_per_token(model, L, causal=True)
    pairs = sum(i + 1 for i in range(L))
    assert causal.scores * L == 2 * 2 * 2 * D * pairs
    assert whole.total - causal.total == whole.scores - causal.scores
    assert flops_per_token(model, 1).scores == flops_per_token(model, 1, causal=True).scores


def test_memory_layers_are_added_up():
    tau, bits = 4, 2
    model = memoryformer(V, D, 2, 4, tau, expand_bits=bits)
    found, chunks = flops_per_token(model, L), D // tau
    hidden = chunks * (tau + bits)
    assert found.maps == 2 * 3 * 2 * chunks * (tau + D)
    assert found.feed_forward == 2 * 2 * chunks * ((tau + hidden) + (tau + bits + D))
    assert (found.scores, found.head) == (2 * 4 * D * L, 2 * D * V)


def test_a_part_says_what_it_costs_or_is_refused():
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(D, D))

        def forward(self, h, ids):
            return h @ self.matrix

    class Saying(Silent):
        def flops_per_token(self, length):
            return 2 * D * D + length

    plain = flops_per_token(Decoder(V, D, 2, 4, hidden=H), L)
    found = flops_per_token(Decoder(V, D, 2, 4, hidden=H, pre_block={1: Saying()}), L)
    assert found.memory == 2 * D * D + L
    assert found.total - plain.total == found.memory
    with pytest.raises(BadInput, match=r"Silent does with its matrix \[32, 32\]"):
        flops_per_token(Decoder(V, D, 2, 4, hidden=H, pre_block={1: Silent()}), L)
    inner = Decoder(V, D, 1, 4, hidden=H, pre_block={0: Block(D, Attention(D, 4), SwiGLU(D, H))})
    with pytest.raises(BadInput, match="texts of its own"):
        flops_per_token(inner, L)


def test_bad_input_is_named():
    model = Decoder(V, D, 1, 4, hidden=H)
    with pytest.raises(BadInput, match="counts a Decoder, got a Linear"):
        flops_per_token(nn.Linear(2, 2), L)
    for wrong in (0, -3, 2.0, True, "8"):
        with pytest.raises(BadInput, match="length must be an integer"):
            flops_per_token(model, wrong)
