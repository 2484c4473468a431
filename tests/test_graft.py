"""Tables and n-gram memory on `transformers` models of the Llama kind: what must hold exactly, whatever is learnt."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import numpy as np
import pytest

from inlay.errors import BadInput, Corrupt, MissingExtra

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.nn import functional as F  # noqa: E402

from inlay.lm.decoder import Decoder  # noqa: E402
from inlay.lm.engram import engram_parts  # noqa: E402
from inlay.lm.graft import GraftedStem, graft_stem, grafted_layers, replace_table, upcycling_cosines  # noqa: E402
from inlay.lm.graft_ids import edited  # noqa: E402
from inlay.lm.grafted_engram import graft_engram  # noqa: E402
from inlay.lm.grafted_files import load_grafted  # noqa: E402
from inlay.lm.llama import decoder_from_llama, llama_from_decoder  # noqa: E402
from inlay.lm.stem import Stem, stem_decoder  # noqa: E402
from inlay.tables import Compositional, Full, Hashed  # noqa: E402

V, D, H = 64, 32, 48
BOS, PAD = 1, 0
TAKEN = signature(transformers.LlamaForCausalLM.forward).parameters
CACHE = "cache" if "cache" in TAKEN else "past_key_values"


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def dense(kind="Llama", seed=0, **options):
    """A small model with weights large enough to tell one token from another."""
    torch.manual_seed(seed)
    plain = {
        "vocab_size": V, "hidden_size": D, "intermediate_size": H, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**plain | options)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def ids(*shape, seed=0):
    return torch.randint(3, V, shape, generator=torch.Generator().manual_seed(seed))


def greedy(model, text, most=8, **options):
    return model.generate(text, max_new_tokens=most, do_sample=False, **options)


def waken(model, seed=5):
    """Let n-gram memory say something, in every part of it."""
    random = torch.Generator().manual_seed(seed)
    for layer in model.model.layers:
        if hasattr(layer, "engram"):
            for weight in layer.engram.parameters():
                weight.data += 0.3 * torch.randn(weight.shape, generator=random).to(weight.dtype)
    return model


@pytest.fixture(params=["stem", "engram", "both"])
def grafted(request):
    model = dense()
    if request.param != "engram":
        graft_stem(model, where=[1, 2], start="scaled_normal")
    if request.param != "stem":
        waken(graft_engram(model, layers=(0, 1), slots=50, heads=2, d_head=4, folding=np.arange(V) // 2))
    return model


@pytest.mark.parametrize("mode", ["up", "gate", "additive"])
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_a_layer_is_the_house_stem(kind, mode):
    model = graft_stem(dense(kind), where=[1], mode=mode, start="scaled_normal")
    part = model.model.layers[1].mlp
    ours = Stem(D, part.table, mode)
    for name in ("gate", "up", "down"):
        if getattr(ours, name) is not None:
            getattr(ours, name).weight = getattr(part, f"{name}_proj").weight
    seen = {}
    part.register_forward_hook(lambda _, x, out: seen.update(x=x[0], out=out))
    text = ids(2, 7)
    model(text)
    assert torch.equal(seen["out"], ours(seen["x"], text))
    assert (part.gate_proj is None, part.up_proj is None) == (mode == "gate", mode == "up")


@pytest.mark.parametrize("mode", ["up", "gate"])
@pytest.mark.parametrize("options", [{}, {"mlp_bias": True}, {"tie_word_embeddings": True}])
def test_the_first_layer_is_exact_where_attention_says_nothing(mode, options):
    model = dense(**options)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    text = ids(2, 9)
    before = model(text).logits
    after = graft_stem(model, where=[0], mode=mode)(text).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert isinstance(model.model.layers[0].mlp, GraftedStem)


def test_rows_are_projections_of_input_rows_under_the_norm_of_the_layer():
    model = dense()
    layer, rows = model.model.layers[2], model.model.embed_tokens.weight.detach().double()
    norm, up = layer.post_attention_layernorm.weight.detach().double(), layer.mlp.up_proj.weight.detach().double()
    norm = norm + torch.rand(D, generator=torch.Generator().manual_seed(1))
    layer.post_attention_layernorm.weight.data = norm.float()
    wanted = (rows * (rows.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * norm) @ up.T
    table = graft_stem(copy.deepcopy(model)).model.layers[2].mlp.table
    torch.testing.assert_close(table.weight.detach().double(), wanted, atol=1e-5, rtol=0)
    drawn = [graft_stem(copy.deepcopy(model), start="from_dense_stats", seed=seed) for seed in (3, 3, 4)]
    one, same, other = (made.model.layers[2].mlp.table.weight.detach() for made in drawn)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, table.weight)
    assert float(((one.mean(0) - wanted.mean(0)) / wanted.std(0)).abs().max()) < 5 / V**0.5
    assert 0.8 < float((one.std(0) / wanted.std(0)).mean()) < 1.2


def test_a_table_that_is_added_begins_as_nothing():
    model, text = dense(), ids(2, 9)
    before = model(text).logits
    assert torch.equal(graft_stem(model, mode="additive")(text).logits, before)


def test_cosines_say_how_far_rows_are_from_what_they_replace():
    model, text = dense(), ids(2, 9)
    found = upcycling_cosines(model, text)
    assert list(found) == [0, 1, 2]
    assert all(-1 <= cosine <= 1 for cosine in found.values())
    assert found[0] > found[2]
    quiet = dense()
    for layer in quiet.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    assert upcycling_cosines(quiet, text)[0] == pytest.approx(1, abs=1e-5)
    assert torch.equal(model(text).logits, dense()(text).logits)  # no hook stays
    for wrong, match in [(text.float(), "integers"), (text + V, "outside"), (text[:, :0], "at least one")]:
        with pytest.raises(BadInput, match=match):
            upcycling_cosines(model, wrong)


def test_layers_that_are_not_grafted_stay_as_they_were():
    model, text = dense(), ids(2, 9)
    before = model(text, output_hidden_states=True).hidden_states
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = graft_stem(model, where=[2])(text, output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3]))
    assert not torch.equal(before[3], after[3])
    kept = model.state_dict()
    assert set(weights) - set(kept) == {"model.layers.2.mlp.up_proj.weight"}
    assert set(kept) - set(weights) == {"model.layers.2.mlp.table.weight"}
    assert all(torch.equal(kept[name], weights[name]) for name in set(kept) & set(weights))


def test_models_that_share_a_config_do_not_share_a_graft():
    one = dense()
    other = transformers.LlamaForCausalLM(one.config)
    graft_stem(one)
    assert hasattr(one.config, "inlay_graft")
    assert not hasattr(other.config, "inlay_graft")
    assert all(m.config is one.config for m in one.modules() if hasattr(m, "config"))
    text = ids(1, 6)
    twin = copy.deepcopy(one)
    twin.model.layers[2].mlp.table.weight.data.zero_()
    assert not torch.equal(one(text).logits, twin(text).logits)


def test_memory_begins_as_nothing_and_learns():
    model, text = dense(), ids(2, 9)
    before = model(text).logits
    graft_engram(model, layers=(0, 1), slots=50, heads=2, d_head=4)
    assert torch.equal(model(text).logits, before)
    primes = [int(p) for layer in (0, 1) for p in model.model.layers[layer].engram.primes.flatten()]
    assert len(set(primes)) == len(primes)
    model.train()(text, labels=text).loss.backward()
    assert float(model.model.layers[1].engram.project.weight.grad.norm()) > 0


def test_token_by_token_is_all_at_once(grafted):
    text, memory = ids(2, 10), ids(2, 10, seed=3)
    for other in (None, memory):
        whole = grafted(text, memory_ids=other).logits
        steps, cache = [], transformers.DynamicCache(config=grafted.config)
        for i in range(10):
            given = None if other is None else other[:, i : i + 1]
            steps.append(grafted(text[:, i : i + 1], **{CACHE: cache}, memory_ids=given).logits)
        torch.testing.assert_close(torch.cat(steps, 1), whole, atol=2e-5, rtol=0)
        cut = transformers.DynamicCache(config=grafted.config)
        chunks = [(0, 4), (4, 9), (9, 10)]
        given = [None if other is None else other[:, a:b] for a, b in chunks]
        parts = [grafted(text[:, a:b], **{CACHE: cut}, memory_ids=m).logits for (a, b), m in zip(chunks, given)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=0)


def test_nothing_looks_ahead(grafted):
    one, other = ids(2, 12), ids(2, 12, seed=1)
    other[:, :7] = one[:, :7]
    assert torch.equal(grafted(one).logits[:, :7], grafted(other).logits[:, :7])


def test_generation_is_the_likeliest_token_each_time(grafted):
    text = ids(1, 6)
    found = greedy(grafted, text)
    by_hand = text
    while by_hand.shape[1] < found.shape[1]:
        by_hand = torch.cat([by_hand, grafted(by_hand, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, by_hand)
    assert torch.equal(greedy(grafted, text, use_cache=False), found)
    assert torch.equal(greedy(grafted, text, cache_implementation="static"), found)


def test_beams_take_their_memory_along(grafted):
    text = ids(2, 6)
    kept, anew = (greedy(grafted, text, num_beams=3, use_cache=use) for use in (True, False))
    assert torch.equal(kept, anew)
    several = {"num_beams": 3, "num_return_sequences": 2}
    with edited(grafted, ids(2, 6, seed=3)):
        assert torch.equal(*(greedy(grafted, text, use_cache=use, **several) for use in (True, False)))


def test_padding_on_the_left_changes_nothing(grafted):
    short, long = ids(1, 5), ids(1, 9, seed=1)
    short[0, 0] = long[0, 0] = BOS
    batch = torch.full((2, 9), PAD)
    batch[0, 4:], batch[1] = short[0], long[0]
    mask = (batch != PAD).long()
    mask[:, 4] = 1
    logits = grafted(batch, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0)).logits
    torch.testing.assert_close(logits[0, 4:], grafted(short).logits[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits[1], grafted(long).logits[0], atol=2e-5, rtol=0)
    together = greedy(grafted, batch, attention_mask=mask)
    for row, alone in ((together[0, 4:], short), (together[1], long)):
        wanted = greedy(grafted, alone)[0]
        assert torch.equal(row[: len(wanted)], wanted)


def test_edits_act_from_where_they_are(grafted):
    text = ids(1, 9)
    plain = grafted(text).logits
    with edited(grafted, text.clone()):
        assert torch.equal(grafted(text).logits, plain)
    other = text.clone()
    other[0, 4] = (text[0, 4] + 7) % V
    with edited(grafted, other) as model:
        changed = model(text).logits
        with edited(grafted, text[0]):  # an inner one stands in place of the outer one
            assert torch.equal(grafted(text).logits, plain)
        assert torch.equal(grafted(text).logits, changed)
        assert torch.equal(grafted(text, memory_ids=text).logits, plain)
    assert torch.equal(grafted(text).logits, plain)
    assert torch.equal(changed[:, :4], plain[:, :4])
    assert not torch.equal(changed[:, 4], plain[:, 4])
    assert torch.equal(grafted(text, memory_ids=other).logits, changed)
    ended = pytest.raises(RuntimeError, match="stop")
    with ended, edited(grafted, other):
        raise RuntimeError("stop")
    assert torch.equal(grafted(text).logits, plain)


def test_generation_goes_on_from_an_edited_text(grafted):
    text = ids(2, 6)
    other = text.clone()
    other[:, 2:4] = ids(2, 2, seed=9)
    with edited(grafted, other):
        found = greedy(grafted, text)
        assert torch.equal(greedy(grafted, text, use_cache=False), found)
    by_hand = text
    while by_hand.shape[1] < found.shape[1]:
        memory = torch.cat([other, by_hand[:, 6:]], 1)
        by_hand = torch.cat([by_hand, grafted(by_hand, memory_ids=memory).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, by_hand)


def test_tables_alone_read_an_edit():
    model, text, other = graft_stem(dense(), where=[2]), ids(1, 9), ids(1, 9, seed=2)
    plain = model(text, output_hidden_states=True)
    with edited(model, other):
        changed = model(text, output_hidden_states=True)
    assert all(torch.equal(plain.hidden_states[at], changed.hidden_states[at]) for at in range(3))
    table = model.model.layers[2].mlp.table
    kept = table.weight.data.clone()
    table.weight.data[text[0]] = kept[other[0]]
    repeats = len(set(text[0].tolist())) < 9
    assert repeats or torch.equal(model(text).logits, changed.logits)


def test_threads_do_not_meet():
    model = graft_stem(dense(), where="full")
    texts, others = [ids(1, 8, seed=seed) for seed in range(8)], [ids(1, 8, seed=50 + seed) for seed in range(8)]

    def read(text, other):
        with edited(model, other):
            gate.wait()
            return [model(text).logits for _ in range(5)]

    gate = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, texts, others))
    for text, other, several in zip(texts, others, found):
        alone = model(text, memory_ids=other).logits
        assert all(torch.equal(logits, alone) for logits in several)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_the_plain_ones(grafted, reentrant):
    texts, grads = [ids(2, 8), ids(2, 8, seed=4)], []
    for checkpointing in (False, True):
        model = copy.deepcopy(grafted).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        first, second = (model(text, labels=text, use_cache=False).loss for text in texts)
        (first + 2 * second).backward()  # the layers of the first run again when the second has been read
        grads.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert any("table" in name for name in grads[0])
    assert set(grads[0]) == set(grads[1])
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)


def test_sparse_gradients_are_the_dense_ones():
    text = ids(4, 12) % 5 + 3
    found = []
    for sparse in (True, False):
        model = graft_stem(dense(), sparse=sparse)
        model(text, labels=text).loss.backward()
        grad = model.model.layers[2].mlp.table.weight.grad
        assert grad.is_sparse == sparse
        found.append(grad.to_dense())
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    assert not found[1][:3].any()


@pytest.mark.parametrize(("dtype", "tied", "shards"), [(torch.float32, False, False), (torch.bfloat16, True, True)])
def test_what_is_saved_comes_back(tmp_path, grafted, dtype, tied, shards):
    frequency = grafted.model.rotary_emb.inv_freq
    model = grafted.to(dtype)
    model.model.rotary_emb.inv_freq = frequency  # not a weight: loading makes it anew, in full precision
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
        model.tie_weights()
    text = ids(2, 7)
    model.save_pretrained(tmp_path, **({"max_shard_size": "10KB"} if shards else {}))
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    back = load_grafted(tmp_path)
    assert type(back) is transformers.LlamaForCausalLM
    assert not back.training
    assert {t.dtype for t in back.parameters()} == {dtype}
    kept, found = model.state_dict(), back.state_dict()
    assert list(kept) == list(found)
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert (back.lm_head.weight is back.model.embed_tokens.weight) == tied
    assert torch.equal(back(text).logits, model(text).logits)
    assert torch.equal(greedy(back, text), greedy(model, text))
    back.save_pretrained(tmp_path / "again")
    assert torch.equal(load_grafted(tmp_path / "again")(text).logits, model(text).logits)
    halved = load_grafted(tmp_path, dtype=torch.float16)
    assert {t.dtype for t in halved.parameters()} == {torch.float16}


def test_a_folder_is_grafted_without_being_changed(tmp_path):
    model, text = dense(), ids(1, 6)
    model.save_pretrained(tmp_path)
    assert torch.equal(graft_stem(tmp_path)(text).logits, graft_stem(model)(text).logits)
    assert torch.equal(graft_engram(str(tmp_path), slots=20)(text).logits, dense()(text).logits)
    with pytest.raises(BadInput, match="not grafted"):
        load_grafted(tmp_path)


@pytest.mark.parametrize(
    "make", [lambda rows, dim: Compositional(rows, dim, collisions=4), lambda rows, dim: Hashed(rows, dim, buckets=16)]
)
def test_any_table_fits_and_is_saved(tmp_path, make):
    model, text = graft_stem(dense(), table=make), ids(2, 6)
    graft_engram(model, slots=20, table=make, silent=False)
    logits = model(text).logits
    model.save_pretrained(tmp_path / "learnt")
    assert torch.equal(load_grafted(tmp_path / "learnt")(text).logits, logits)
    replace_table(model, 2, model.model.layers[2].mlp.table.compiled())
    assert torch.equal(model(text).logits, logits)
    model.save_pretrained(tmp_path / "compiled")
    back = load_grafted(tmp_path / "compiled")
    assert torch.equal(back(text).logits, logits)
    assert type(back.model.layers[2].mlp.table) is type(model.model.layers[2].mlp.table)


def test_other_heads_than_language_are_grafted_too(tmp_path):
    torch.manual_seed(0)
    model = graft_stem(transformers.LlamaForSequenceClassification(dense().config)).eval()
    inner = graft_stem(transformers.LlamaModel(dense().config)).eval()
    for number, (made, name) in enumerate([(model, "logits"), (inner, "last_hidden_state")]):
        text = ids(2, 6)
        made.save_pretrained(tmp_path / str(number))
        back = load_grafted(tmp_path / str(number))
        assert type(back) is type(made)
        assert torch.equal(getattr(back(text), name), getattr(made(text), name))


KINDS = {
    "llama": ("Llama", {}),
    "tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "biased": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "stretched": ("Llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }}),
    "mistral": ("Mistral", {"sliding_window": 16}),
    "qwen2": ("Qwen2", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("graft", ["nothing", "both"])
def test_the_house_decoder_says_the_same(name, graft):
    kind, options = KINDS[name]
    model = dense(kind, **options)
    for weight in model.parameters():
        if weight.ndim == 1:  # norms and biases that are not what they begin as
            weight.data += 0.1 * torch.randn(weight.shape)
    if graft == "both":
        graft_stem(model, where=[1])
        waken(graft_engram(model, layers=(1, 2), slots=50, heads=2, d_head=4))
    ours = decoder_from_llama(model)
    text = ids(2, 16)
    logits = model(text).logits
    torch.testing.assert_close(ours(text).logits, logits, atol=1e-4, rtol=0)
    assert ours.context == (16 if name == "mistral" else 128)
    memory = ids(2, 16, seed=1)
    edits = [made(text, memory_ids=memory).logits for made in (ours, model)] if graft == "both" else [logits, logits]
    torch.testing.assert_close(*edits, atol=1e-4, rtol=0)
    if name != "tied":
        assert ours.head.weight.data_ptr() != model.lm_head.weight.data_ptr()
    if name == "stretched":
        with pytest.raises(BadInput, match="theta"):
            llama_from_decoder(ours)
        return
    back = llama_from_decoder(ours)
    torch.testing.assert_close(back(text).logits, logits, atol=1e-4, rtol=0)
    assert hasattr(back.config, "inlay_graft") == (graft == "both")
    if graft == "both":
        assert list(grafted_layers(back)) == [1]


def test_a_decoder_of_the_house_becomes_a_llama_and_is_saved(tmp_path):
    torch.manual_seed(0)
    memory = engram_parts(D, V, (1, 3), slots=50, heads=2, d_head=4, separator=BOS, folding=np.arange(V) // 2)
    ours = stem_decoder(V, D, 4, 4, hidden=H, context=64, kv_heads=2, start="scaled_normal", pre_block=memory).eval()
    model, text = llama_from_decoder(ours), ids(2, 12)
    torch.testing.assert_close(model(text).logits, ours(text).logits, atol=1e-4, rtol=0)
    model.save_pretrained(tmp_path)
    back = load_grafted(tmp_path)
    assert torch.equal(back(text).logits, model(text).logits)
    torch.testing.assert_close(decoder_from_llama(back)(text).logits, ours(text).logits, atol=1e-4, rtol=0)
    found = greedy(model, text[:1], 8)
    assert torch.equal(found[0, 12:], ours.generate(text[0], 8, temperature=0))


def test_bad_grafts_are_refused():
    torch.manual_seed(0)
    with pytest.raises(BadInput, match="GPT2"):
        graft_stem(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=D, n_layer=2, n_head=4, vocab_size=V)))
    with pytest.raises(BadInput, match="layers"):
        graft_stem(torch.nn.Linear(2, 2))
    small = {
        "hidden_size": D,
        "intermediate_size": H,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": V,
    }
    phi = transformers.Phi3ForCausalLM(transformers.Phi3Config(**small, num_key_value_heads=4, pad_token_id=0))
    with pytest.raises(BadInput, match="not a SwiGLU: it has no gate_proj"):
        graft_stem(phi, where=[1])
    with pytest.raises(BadInput, match="gelu"):
        graft_stem(dense(hidden_act="gelu"))
    olmo = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**small))
    with pytest.raises(BadInput, match="norm elsewhere"):
        graft_stem(olmo, where=[1])
    model, shared = dense(), Full(V, H)
    for options, match in [
        ({"where": [3]}, "layer 3"),
        ({"where": []}, "none"),
        ({"where": [1.5]}, "1.5"),
        ({"where": 2}, "list of numbers"),
        ({"where": "most"}, "'third'"),
        ({"start": "warm"}, "warm"),
        ({"mode": "down"}, "down"),
        ({"mode": "additive", "start": "from_dense"}, "twice"),
        ({"table": lambda rows, dim: Full(rows, dim + 1)}, f"{V} rows of {H}"),
        ({"table": lambda rows, dim: Full(rows - 1, dim)}, f"{V} rows of {H}"),
        ({"table": lambda rows, dim: torch.nn.Embedding(rows, dim)}, "Embedding"),
        ({"table": Full, "start": "zero"}, "begins as it was made"),
        ({"table": lambda rows, dim: shared, "where": "full"}, "of its own"),
    ]:
        with pytest.raises(BadInput, match=match):
            graft_stem(model, **options)
        assert not grafted_layers(model)
        assert not hasattr(model.config, "inlay_graft")
    graft_stem(model)
    with pytest.raises(BadInput, match="has a table already"):
        graft_stem(model)
    graft_stem(model, where=[1], mode="gate")
    assert list(grafted_layers(model)) == [1, 2]
    for layer, table, match in [(0, Full(V, H), "no table"), (9, Full(V, H), "no table"), (2, Full(V, D), "rows of")]:
        with pytest.raises(BadInput, match=match):
            replace_table(model, layer, table)
    for options, match in [
        ({"layers": [3]}, "layer 3"),
        ({"layers": []}, "at least one"),
        ({"layers": [True]}, "True"),
        ({"branches": 2}, "branches"),
        ({"slots": 0}, "slots"),
        ({"separator": V}, "separator"),
        ({"table": lambda rows, dim: torch.nn.Embedding(rows, dim)}, "Embedding"),
    ]:
        with pytest.raises(BadInput, match=match):
            graft_engram(model, **{"slots": 20} | options)
    graft_engram(model, slots=20)
    with pytest.raises(BadInput, match="memory already"):
        graft_engram(model, slots=20)


def test_bad_texts_are_refused(grafted):
    text = ids(2, 6)
    rows = grafted.get_input_embeddings()(text)
    with pytest.raises(BadInput, match="memory_ids"):
        grafted(inputs_embeds=rows)
    assert torch.equal(grafted(inputs_embeds=rows, memory_ids=text).logits, grafted(text).logits)
    with edited(grafted, text):
        assert torch.equal(grafted(inputs_embeds=rows).logits, grafted(text).logits)
    with pytest.raises(BadInput, match="shape"):
        grafted(text, memory_ids=text[:, :3])
    with pytest.raises(ValueError):
        grafted()
    for wrong, match in [
        (torch.zeros(2, 3, 4, dtype=torch.long), "batch, length"),
        (torch.zeros(2, 0, dtype=torch.long), "batch, length"),
        (text.float(), "integers"),
        (text > 3, "integers"),
        (text + V, "outside the vocabulary"),
        (-text, "outside the vocabulary"),
    ]:
        with pytest.raises(BadInput, match=match), edited(grafted, wrong):
            pass
    with pytest.raises(BadInput, match="3 texts"), edited(grafted, ids(3, 6)):
        grafted(text)
    with pytest.raises(BadInput, match="graft it first"), edited(dense(), text):
        pass
    at = grafted.model.rotary_emb(rows, torch.arange(6)[None])
    with pytest.raises(BadInput, match="by itself"):
        grafted.model.layers[1](rows, position_embeddings=at)


@torch.no_grad()
def test_memory_that_is_cached_cannot_be_shortened():
    model = graft_engram(dense(), slots=20)
    cache = transformers.DynamicCache(config=model.config)
    model(ids(2, 6), **{CACHE: cache})
    with pytest.raises(BadInput, match="shortened"):
        cache.crop(-1)
    chosen = copy.deepcopy(cache)
    chosen.batch_select_indices(torch.tensor([1]))
    chosen.batch_repeat_interleave(2)
    text = ids(2, 6)[1:].repeat(2, 1)
    last = ids(2, 1, seed=3)
    torch.testing.assert_close(
        model(last, **{CACHE: chosen}).logits, model(torch.cat([text, last], 1)).logits[:, -1:], atol=2e-5, rtol=0
    )
    cache.reset()
    assert not cache.inlay_memory


def test_damaged_folders_are_refused(tmp_path):
    model = graft_engram(graft_stem(dense()), slots=20)
    good, bad = tmp_path / "good", tmp_path / "bad"
    model.save_pretrained(good)

    def spoilt(change):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        settings = json.loads((bad / "config.json").read_text())
        text = change(settings)
        (bad / "config.json").write_text(text if isinstance(text, str) else json.dumps(settings))

    def setting(name, value):
        return lambda settings: settings.update({name: value})

    def graft(change):
        return lambda settings: change(settings["inlay_graft"])

    changes = [
        setting("vocab_size", V + 8),
        setting("intermediate_size", H + 8),
        setting("num_hidden_layers", 2),
        setting("num_hidden_layers", 4),
        setting("architectures", ["NoSuchModel"]),
        lambda settings: "{",
        graft(lambda entry: entry["stem"]["2"]["table"]["settings"].update(dim=H + 1)),
        graft(lambda entry: entry["stem"]["2"]["table"]["settings"].update(rows=V + 1)),
        graft(lambda entry: entry["stem"]["2"]["table"].update({"class": "Nothing"})),
        graft(lambda entry: entry["stem"]["2"].update(mode="down")),
        graft(lambda entry: entry["stem"].update({"1": entry["stem"]["2"]})),
        graft(lambda entry: entry["stem"].pop("2")),
        graft(lambda entry: entry["engram"]["1"].update(d_head=8)),
        graft(lambda entry: entry["engram"]["1"].pop("primes")),
        graft(lambda entry: entry["engram"]["1"].update(folded=True)),
        graft(lambda entry: entry["engram"].update({"0": entry["engram"]["1"]})),
    ]
    for change in changes:
        spoilt(change)
        with pytest.raises(Corrupt, match=str(bad)):
            load_grafted(bad)
    spoilt(lambda settings: None)
    whole = (good / "model.safetensors").read_bytes()
    for size in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        (bad / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(Corrupt, match=str(bad)):
            load_grafted(bad)
    (bad / "model.safetensors").unlink()
    with pytest.raises(Corrupt, match=str(bad)):
        load_grafted(bad)
    for wrong in (tmp_path / "absent", tmp_path):
        with pytest.raises(BadInput, match=r"config\.json"):
            load_grafted(wrong)
        with pytest.raises(BadInput, match=r"config\.json"):
            graft_stem(wrong)
    with pytest.raises(BadInput, match="load_grafted"):
        graft_stem(good)


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    for attempt in (load_grafted, graft_stem, graft_engram, decoder_from_llama):
        with pytest.raises(MissingExtra, match="train"):
            attempt(tmp_path)


def test_conversions_refuse_what_does_not_fit():
    torch.manual_seed(0)
    for kind, options, match in [
        ("Qwen3", {}, "none of"),
        ("Llama", {"head_dim": 16}, "width 16"),
        ("Llama", {"hidden_act": "gelu"}, "gelu"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
    ]:
        with pytest.raises(BadInput, match=match):
            decoder_from_llama(dense(kind, **options))
    with pytest.raises(BadInput, match="none of"):
        decoder_from_llama(transformers.LlamaModel(dense().config))

    class Odd(torch.nn.Module):
        dim = H

        def forward(self, x, *rest):
            return F.relu(x)

    for options, match in [
        ({"input": Compositional(V, D, collisions=4)}, "Full"),
        ({"feed_forward": {1: Odd()}}, "Odd"),
        ({"pre_block": {1: Odd()}}, "Odd"),
        ({"norm": torch.nn.LayerNorm}, "RMSNorm"),
        ({"position": Odd()}, "Rotary"),
        ({"feed_forward": {1: Stem(D, Odd())}}, "Odd"),
    ]:
        with pytest.raises(BadInput, match=match):
            llama_from_decoder(Decoder(V, D, 2, 4, hidden=H, **options))
