"""Hash embeddings of words: the hash, attributes, both layers, the encoder, files, and words nobody has seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from inlay.errors import BadInput, Corrupt  # noqa: E402
from inlay.kernels.mixing import key_of, keys_of  # noqa: E402
from inlay.kernels.murmur import murmur128  # noqa: E402
from inlay.reproductions.tables.multihash import spans  # noqa: E402
from inlay.tables import Compiled, Table  # noqa: E402
from inlay.tables.multi_hash import HashEmbed, Maxout, MultiEmbed, MultiHash  # noqa: E402
from inlay.tables.word_shapes import norm, prefix, shape, suffix  # noqa: E402
from inlay.words.maxout_window import MaxoutWindow  # noqa: E402

torch.set_num_threads(1)  # sums of a few words are not worth waking a second thread

WORDS = st.lists(st.lists(st.text(max_size=12), max_size=6), max_size=5)
TEXTS = [["The", "cat", "sat", "."], ["A", "2012", "cat"], []]


def small(**more) -> MultiHash:
    torch.manual_seed(0)
    return MultiHash(8, rows=[50, 20, 20, 20], **more).eval()


def test_murmur_is_the_published_x64_variant():
    # By the reference implementation, of the eight bytes of 1 and of 2^63 with seed 8.
    known = {
        1: [1161550108, 2247783286, 1742325162, 1224191281],
        1 << 63: [2354736462, 2184247079, 1384621045, 1128886971],
    }
    for key, words in known.items():
        assert murmur128(np.array(key, dtype=np.uint64), 8).tolist() == words
    mmh3 = pytest.importorskip("mmh3")
    keys = np.random.default_rng(0).integers(0, 1 << 63, size=(20, 5), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    for seed in (0, 8, 11, (1 << 32) - 1):
        wanted = [
            np.frombuffer(mmh3.hash_bytes(int(key).to_bytes(8, "little"), seed, True), dtype="<u4")
            for key in keys.ravel()
        ]
        np.testing.assert_array_equal(murmur128(keys, seed).reshape(-1, 4), wanted)


def test_two_keys_hardly_ever_share_all_their_rows():
    keys = keys_of([f"word{i}" for i in range(20_000)])
    numbers = HashEmbed(1000, 2).numbers(keys)
    assert len(np.unique(numbers, axis=0)) == 20_000
    assert len(np.unique(HashEmbed(1000, 2, seed=8).numbers(keys), axis=0)) < 20_000  # why seeds begin at 9
    assert len(np.unique(HashEmbed(1000, 2, hashes=1).numbers(keys), axis=0)) <= 1000
    # The four of a key are independent: as often equal as chance has it.
    assert abs((numbers[:, 2] == numbers[:, 3]).mean() - 1 / 1000) < 1e-3
    assert (np.bincount(numbers.ravel(), minlength=1000) > 0).all()


def test_attributes():
    assert [norm(word) for word in ("Apple", "€", "$", "“", "É", "")] == ["apple", "$", "$", '"', "é", ""]
    assert (prefix("Apple"), suffix("Apple"), suffix("ab"), prefix("")) == ("A", "ple", "ab", "")
    shapes = {
        "Apple": "Xxxxx", "apples": "xxxx", "U.K.": "X.X.", "12345": "dddd", "C3PO": "XdXX", "": "", "a" * 99: "xxxx",
        "a" * 100: "LONG", "-----": "----", "Éva": "Xxx", "AAAAAbbbbb1": "XXXXxxxxd",
    }  # fmt: skip
    assert {word: shape(word) for word in shapes} == shapes


@pytest.mark.parametrize("hashes", [1, 2, 3, 4])
def test_a_hash_embedding_sums_rows_of_one_table(hashes):
    table = HashEmbed(30, 5, hashes=hashes, seed=9)
    keys = np.array([0, 5, 2**63 + 1, key_of("cat")], dtype=np.uint64)
    found = table(torch.from_numpy(keys.view(np.int64)))
    for key, vector in zip(keys, found):
        rows = murmur128(key, 9)[:hashes] % 30
        torch.testing.assert_close(vector, sum(table.weight[int(row)] for row in rows))
    found.sum().backward()
    assert table.weight.grad is not None
    assert table.compiled().nbytes == 30 * 5 * 4
    torch.testing.assert_close(table.compiled().materialize(), table.materialize())


def test_the_layer_is_the_mix_of_what_its_tables_say():
    layer = small(hashes=3)
    words = ["Cat", "dog7"]
    parts = []
    for place, of in enumerate((norm, prefix, suffix, shape)):
        table = layer.tables[place].weight
        rows = [murmur128(np.array(key_of(of(word)), dtype=np.uint64), 9 + place)[:3] % len(table) for word in words]
        parts.append(torch.stack([sum(table[int(row)] for row in own) for own in rows]))
    x = torch.cat(parts, dim=1)
    pieces = (x @ layer.mix.linear.weight.T + layer.mix.linear.bias).view(2, 8, 3).max(dim=2).values
    centred = pieces - pieces.mean(dim=1, keepdim=True)
    wanted = centred / torch.sqrt((centred**2).mean(dim=1, keepdim=True) + 1e-5)
    torch.testing.assert_close(layer([words]), wanted, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(documents=WORDS)
def test_any_words_have_vectors_and_context_free_ones_do_not_depend_on_others(documents):
    layer = small()
    with torch.no_grad():
        together = layer(documents)
        assert together.shape == (sum(map(len, documents)), 8)
        assert torch.isfinite(together).all()
        alone = [layer([[word]]) for document in documents for word in document]
        if alone:
            torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
        exact = MultiEmbed.of(TEXTS, 8, min_freq=1).eval()
        assert torch.isfinite(exact(documents)).all()


def test_dropout_takes_the_same_dimensions_of_every_word():
    torch.manual_seed(0)
    table = HashEmbed(40, 50, dropout=0.5)
    keys = torch.arange(30)
    kept = table(keys) != 0
    assert (kept == kept[0]).all()
    assert 5 < int(kept[0].sum()) < 45
    whole = table.eval()(keys)
    table.train()
    some = table(keys)
    torch.testing.assert_close(some[:, (some != 0)[0]], 2 * whole[:, (some != 0)[0]])


def test_exact_tables_have_rows_for_the_frequent_and_one_for_the_rest():
    texts = [["cat"] * 10 + ["dog"] * 9 + ["Dog"] + ["Cat"] * 2 + ["duck"]]
    layer = MultiEmbed.of(texts, 6, attributes=["norm", "prefix"], min_freq=10).eval()
    assert layer.settings["rows"] == [3, 3]  # cat and dog; c and d, for C and D are rare
    found = layer.read([["cat", "CAT", "duck", "zebra"]])
    norms = found.rows[0][found.words, 0].tolist()
    assert norms[0] == norms[1] > 0 == norms[2] == norms[3]
    first = found.rows[1][found.words, 0].tolist()
    assert [bool(row) for row in first] == [True, False, True, False]
    assert torch.equal(layer([["zebra"]]), layer([["Xylophone"]]))


def test_static_vectors_are_frozen_and_missing_ones_are_zero_behind_the_map():
    vectors = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    layer = small().with_static(["cat", "dog"], vectors).eval()
    with torch.no_grad():
        layer.project.bias.fill_(7)  # a map with a constant would turn zeros into something
    caught = []
    layer.mix.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    layer([["Cat", "zebra"]])
    own = caught[0][:, -8:]
    torch.testing.assert_close(own[0], layer.project(torch.from_numpy(vectors[0])))
    assert not own[1].any()
    assert "static_rows" not in dict(layer.named_parameters())
    layer([["cat"]]).sum().backward()
    assert layer.project.weight.grad is not None
    with pytest.raises(BadInput, match="NaN"):
        small().with_static(["a"], np.full((1, 2), np.nan))
    with pytest.raises(BadInput, match="one vector a key"):
        small().with_static(["a", "b"], np.zeros((1, 2)))


@pytest.mark.parametrize("kind", ["hashed", "exact", "static"])
def test_both_forms_and_files_give_the_same_vectors(kind, tmp_path):
    layer = MultiEmbed.of(TEXTS, 8, min_freq=1) if kind == "exact" else small(dropout=0.3)
    if kind == "static":
        layer = layer.with_static(["cat"], np.ones((1, 4)))
    layer.train()
    words = ["cat", "The", "never", "", "2012"]
    wanted = layer.materialize(words)
    frozen = layer.compiled()
    torch.testing.assert_close(frozen.materialize(words), wanted, atol=0, rtol=0)
    torch.testing.assert_close(frozen([words]), wanted)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert frozen.nbytes == layer.nbytes == sum(t.numel() * t.element_size() for t in layer.state_dict().values())
    torch.testing.assert_close(Table.load(layer.save(tmp_path / "layer")).materialize(words), wanted, atol=0, rtol=0)
    again = Compiled.load(frozen.save(tmp_path / "frozen"))
    torch.testing.assert_close(again.materialize(words), wanted, atol=0, rtol=0)
    data = bytearray((tmp_path / "layer").read_bytes())
    data[-100] ^= 1
    (tmp_path / "layer").write_bytes(data)
    with pytest.raises(Corrupt, match="layer"):
        Table.load(tmp_path / "layer")


@pytest.mark.parametrize("window", [1, 2])
def test_context_reaches_as_far_as_the_layers_and_not_into_other_documents(window):
    torch.manual_seed(0)
    encoder = MaxoutWindow(small(), depth=2, window=window).eval()
    long = [f"w{i}" for i in range(15)]
    with torch.no_grad():
        base = encoder([["x", "y"], long, ["z"]])
        torch.testing.assert_close(base[2:17], encoder([long]), atol=1e-5, rtol=1e-4)
        changed = encoder([["x", "y"], [*long[:7], "other", *long[8:]], ["z"]])
    moved = (base - changed).abs().amax(dim=1) > 1e-4
    reach = 2 * window
    assert moved.nonzero().flatten().tolist() == list(range(2 + 7 - reach, 2 + 7 + reach + 1))
    assert encoder([]).shape == (0, 8)
    assert encoder([["one"]]).shape == (1, 8)


def test_the_window_puts_neighbours_in_their_order():
    encoder = MaxoutWindow(small(), depth=1)
    x = torch.arange(1.0, 6)[:, None].repeat(1, 8)
    seen = encoder._windows(x, torch.tensor([0, 0, 0, 1, 1]))[:, ::8]
    assert seen.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0], [0, 4, 5], [4, 5, 0]]


def test_the_encoder_learns_with_either_form_below_it_and_comes_back_from_a_file(tmp_path):
    torch.manual_seed(0)
    documents = [["Anna", "went", "home"], ["Bela", "ate"], ["the", "cat", "Cili"]]
    wanted = torch.tensor([1, 0, 0, 1, 0, 0, 0, 1])  # is it a name? its shape tells

    def learnt(encoder):
        head = torch.nn.Linear(8, 2)
        optimizer = torch.optim.Adam(
            [*filter(lambda p: p.requires_grad, encoder.parameters()), *head.parameters()], 0.03
        )
        words = encoder.read(documents)
        for _ in range(40):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(head(encoder(words)), wanted)
            loss.backward()
            optimizer.step()
        encoder.eval()
        return head(encoder([["Dora", "slept"]])).argmax(1).tolist(), loss.item()

    encoder = MaxoutWindow(MultiHash(8, rows=[50, 20, 20, 20]), depth=1)
    said, loss = learnt(encoder)
    assert loss < 0.1
    assert said == [1, 0]  # words it never saw
    frozen = MaxoutWindow(MultiHash(8, rows=[50, 20, 20, 20]).compiled(), depth=1)
    assert learnt(frozen)[1] < 0.3
    for model in (encoder, frozen):
        loaded = MaxoutWindow.load(model.save(tmp_path / "encoder")).eval()
        with torch.no_grad():
            torch.testing.assert_close(loaded(documents), model(documents), atol=0, rtol=0)
    with pytest.raises(BadInput, match="holds a MultiHash"):
        MaxoutWindow.load(small().save(tmp_path / "other"))


def test_a_budget_is_kept():
    layer = MultiHash.from_budget(16, 60_000)
    assert 60_000 - 5 * 16 * 4 < layer.nbytes <= 60_000
    assert layer.settings["rows"][0] == 2 * layer.settings["rows"][1]
    with pytest.raises(BadInput, match="too few"):
        MultiHash.from_budget(16, 100)


def test_refusals():
    for make, match in (
        (lambda: MultiHash(8, attributes=["lemma"], rows=[5]), "attributes"),
        (lambda: MultiHash(8, rows=[5]), "as many numbers of rows"),
        (lambda: MultiHash(8, rows=[5, 0, 5, 5]), "at least 1"),
        (lambda: MultiHash(8, hashes=5), "hashes"),
        (lambda: MultiHash(0), "dim"),
        (lambda: MultiHash(8, dropout=1), "dropout"),
        (lambda: MultiEmbed(8, dropout=-1), "dropout"),
        (lambda: MultiEmbed.of(TEXTS, 8, attributes=["lemma"]), "attributes"),
        (lambda: Maxout(3, 3, pieces=0), "pieces"),
        (lambda: MaxoutWindow(small(), depth=0), "depth"),
        (lambda: MaxoutWindow(small(), dropout=1), "dropout"),
        (lambda: small()("cat"), "one string"),
        (lambda: small()(["cat"]), "document 0 is a string"),
        (lambda: small()([["cat", 3]]), "holds 3"),
        (lambda: small().lookup(torch.arange(2)), "reads words"),
        (lambda: small().materialize(), "pass words"),
        (lambda: HashEmbed(5, 2)(torch.zeros(2)), "integers"),
    ):
        with pytest.raises(BadInput, match=match):
            make()


def test_spans_are_exact():
    assert spans(["O", "B-PER", "I-PER", "O"]) == [(1, 3, "PER")]
    assert spans(["B-PER", "B-PER", "I-LOC", "I-LOC"]) == [(0, 1, "PER"), (1, 2, "PER"), (2, 4, "LOC")]
    assert spans(["I-ORG", "I-ORG"]) == [(0, 2, "ORG")]
    assert spans([]) == []
