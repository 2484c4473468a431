"""Encoders by name, what all of them refuse and promise, and static token tables."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import numpy as np
import pytest

import inlay.encoders as encoders
from inlay.encoders import Numen, Static, encoder
from inlay.encoders.items import longest_first, spans, texts
from inlay.encoders.names import NAMES
from inlay.errors import BadInput, Corrupt, InlayError, MissingExtra, Offline
from inlay.types import Encoder, Sparse

WORDS = ["cat", "dog", "fish", "naïve", "i8"]
TABLE = np.random.default_rng(0).standard_normal((len(WORDS), 6)).astype(np.float32)


# Names


def test_names_and_query_strings() -> None:
    made = encoder("numen?dim=512&n=3,4&weights=1,2.5&output=sparse&signed=true")
    assert (made.dim, made.n, made.weights, made.output, made.signed) == (512, (3, 4), (1, 2.5), "sparse", True)
    assert encoder("numen?dim=512", dim=64).dim == 64
    assert encoder("numen?n=3", weights=2).n == (3,)
    assert encoder("bm25", k1=0.9).space.kind == "sparse"


def test_encoder_object_is_returned_as_it_is() -> None:
    made = Numen(64)
    assert encoder(made) is made
    with pytest.raises(BadInput, match="dim"):
        encoder(made, dim=3)
    with pytest.raises(BadInput, match="NoneType"):
        encoder(None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("numenn", "did you mean 'numen'"),
        ("BM25", "did you mean 'bm25'"),
        ("quantum", "box, bm25, numen, static:PATH"),
        ("static", "static:PATH"),
        ("onnx", "onnx:PATH"),
        ("st:", "st:MODEL"),
        ("numen:512", r"numen\?name=value"),
        ("numen?dimm=512", "did you mean dim"),
        ("numen?dim", "no encoder is called"),
        ("numen?dim=512&x", "name=value"),
        ("static:/no/such/folder", "/no/such/folder"),
        ("onnx:/no/such/folder", "/no/such/folder"),
    ],
)
def test_names_that_cannot_be_made(name: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        encoder(name)


def test_a_path_alone_is_explained(tmp_path) -> None:
    with pytest.raises(BadInput, match="static:"):
        encoder(str(tmp_path))


def test_spec_makes_it_again() -> None:
    for made in (Numen(256, n=(2, 3), weights=(1, 4), stop_grams=["th"]), Numen(256, output="sparse"), encoder("bm25")):
        again = encoder(**json.loads(json.dumps(made.spec)))
        assert again.space == made.space
        assert repr(again) == repr(made)


def test_settings_change_the_identity() -> None:
    variants = [
        Numen(256),
        Numen(512),
        Numen(256, n=(3, 4), weights=(1, 5)),
        Numen(256, weights=(1, 5, 11)),
        Numen(256, signed=True),
        Numen(256, boundaries=False),
        Numen(256, stop_grams=["ing"]),
    ]
    assert len({made.space.fingerprint for made in variants}) == len(variants)
    assert Numen(256).space == Numen(256, n=[3, 4, 5], weights=[1.0, 5.0, 10.0]).space


def test_face_is_lazy() -> None:
    code = (
        "import sys, inlay.encoders; dir(inlay.encoders)\n"
        "heavy = {'numpy', 'numba', 'tokenizers', 'onnxruntime', 'httpx', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "inlay.encoders.Numen(64).encode_document(['a'])\n"
        "heavy = {'numba', 'tokenizers', 'onnxruntime', 'httpx', 'tqdm', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in encoders.__all__:
        assert getattr(encoders, name).__name__ == name
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = encoders.Nonsense


# Items


@pytest.mark.parametrize("items", ["one text", b"bytes", {"a": 1}, 7, None])
def test_not_a_list(items) -> None:
    with pytest.raises(BadInput, match="list of texts"):
        texts(items)


def test_wrong_item_is_named() -> None:
    with pytest.raises(BadInput, match=r"item 1 is int.*42"):
        texts(["a", 42])
    assert texts(("a", "\udcff é")) == ["a", "? é"]
    assert texts(x for x in "ab") == ["a", "b"]


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_bad_batch_size(size) -> None:
    with pytest.raises(BadInput, match="batch_size"):
        Numen(64).encode_document(["a"], batch_size=size)


def test_spans_cover_and_show_progress(capfd) -> None:
    assert [(s.start, s.stop) for s in spans(5, 2, 9, progress=False, what="x")] == [(0, 2), (2, 4), (4, 5)]
    assert list(spans(0, None, 9, progress=False, what="x")) == []
    Numen(64).encode_document(["a"] * 5, batch_size=2, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "numen: 100%" in err
    assert "5/5" in err
    assert longest_first([2, 5, 1, 5]) == [1, 3, 0, 2]


def test_all_are_encoders() -> None:
    for made in (Numen(64), Numen(64, output="sparse"), Static(TABLE, WORDS), encoder("bm25")):
        assert isinstance(made, Encoder)
        assert made.expensive is False
        rows = made.encode_document(["cat dog", "fish"])
        assert rows.shape[0] == 2
        assert isinstance(rows, Sparse) == (made.space.kind == "sparse")


# Static tables


def test_static_is_the_mean_of_rows() -> None:
    made = Static(TABLE, WORDS, normalize=False)
    rows = made.encode_document(["The CAT, the cat; dog!", "NAÏVE-i8", "nothing known", ""])
    np.testing.assert_allclose(rows[0], (2 * TABLE[0] + TABLE[1]) / 3, atol=1e-6)
    np.testing.assert_allclose(rows[1], (TABLE[3] + TABLE[4]) / 2, atol=1e-6)
    assert not rows[2:].any()
    unit = Static(TABLE, WORDS).encode_query(["cat dog", "unheard"])
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 0], atol=1e-6)
    assert made.encode_document([]).shape == (0, 6)
    assert made.space.dim == 6
    assert made.spec is None


def test_static_weights_and_mapping() -> None:
    weights = np.array([0.5, 2, 1, 1, 1], dtype=np.float32)
    mapping = np.array([0, 1, 1, 0, 1])
    made = Static(TABLE[:2], WORDS, weights, normalize=False, mapping=mapping)
    row = made.encode_document(["cat fish dog"])[0]
    np.testing.assert_allclose(row, (0.5 * TABLE[0] + 1 * TABLE[1] + 2 * TABLE[1]) / 3, atol=1e-6)


def test_static_very_long_text(monkeypatch) -> None:
    monkeypatch.setattr("inlay.encoders.static.GATHER", 7)
    row = Static(TABLE, WORDS, normalize=False).encode_document(["cat dog " * 20])[0]
    np.testing.assert_allclose(row, (TABLE[0] + TABLE[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_static_save_and_load(tmp_path, kind) -> None:
    pytest.importorskip("safetensors")
    table = (TABLE * 30).astype(kind)
    made = Static(table, WORDS, np.arange(5), mapping=np.arange(5)[::-1])
    made.save(tmp_path / "table")
    assert sorted(file.name for file in (tmp_path / "table").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokens.json",
    ]
    for again in (Static.load(tmp_path / "table"), encoder(f"static:{tmp_path}/table"), encoder(**made.spec)):
        assert again.space == made.space
        assert again.table.dtype == kind
        np.testing.assert_array_equal(again.encode_document(["dog fish"]), made.encode_document(["dog fish"]))
    assert encoder("static", path=tmp_path / "table", normalize=False).space != made.space
    half = Static(table.astype(np.float32), WORDS).encode_document(["dog"])
    np.testing.assert_allclose(half, Static(table, WORDS).encode_document(["dog"]), atol=1e-3)


@pytest.fixture
def model2vec(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    from tokenizers import models, normalizers, pre_tokenizers, processors

    vocabulary = {"[UNK]": 0, "[CLS]": 1, "cat": 2, "dog": 3, "##s": 4}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = TABLE[:5]
    save_file({"embeddings": table.astype(np.float16)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "model2vec", "normalize": false}')
    return tmp_path, table.astype(np.float16).astype(np.float32)


def test_static_reads_model2vec_folders(model2vec) -> None:
    folder, table = model2vec
    made = encoder(f"static:{folder}")
    rows = made.encode_document(["Cats dog unknown dog", "zebra", ""])
    # no [CLS], no unknown token, neither cut nor padded
    np.testing.assert_allclose(rows[0], (table[2] + table[4] + 2 * table[3]) / 4, atol=1e-6)
    assert not rows[1:].any()
    assert made.normalize is False
    made.save(folder / "copy")
    assert Static.load(folder / "copy").space == made.space
    assert made.encode_document(["broken \ud800 dog"]).any()


def test_static_reads_sentence_transformers_folders(model2vec, tmp_path_factory) -> None:
    from safetensors.numpy import load_file, save_file

    folder, _ = model2vec
    inner = tmp_path_factory.mktemp("st") / "0_StaticEmbedding"
    inner.mkdir()
    save_file({"embedding.weight": load_file(folder / "model.safetensors")["embeddings"]}, inner / "model.safetensors")
    (inner / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    again = Static.load(inner.parent, normalize=False)
    assert again.space == Static.load(folder).space


def test_static_damaged_folders(model2vec) -> None:
    from safetensors.numpy import save_file

    folder, table = model2vec
    save_file({"other": table}, folder / "model.safetensors")
    with pytest.raises(BadInput, match="other"):
        Static.load(folder)
    save_file({"embeddings": table[:3]}, folder / "model.safetensors")
    with pytest.raises(BadInput, match="5 tokens"):
        Static.load(folder)
    save_file({"embeddings": table}, folder / "model.safetensors")
    (folder / "config.json").write_text("{")
    with pytest.raises(Corrupt, match=r"config\.json"):
        Static.load(folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(Corrupt, match="safetensors"):
        Static.load(folder)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((TABLE[0], ["a"]), {}),
        ((TABLE, WORDS[:-1] + ["cat"]), {}),
        ((TABLE, WORDS + ["more"]), {}),
        ((TABLE, "cat"), {}),
        ((TABLE,), {}),
        ((TABLE, WORDS), {"tokenizer": "{}"}),
        ((TABLE,), {"tokenizer": "{}"}),
        ((TABLE, WORDS, [1, 2]), {}),
        ((TABLE, WORDS, [1, 2, 3, 4, float("nan")]), {}),
        ((TABLE, WORDS), {"mapping": [0, 1, 2, 3, 5]}),
        ((np.full((5, 2), np.nan), WORDS), {}),
        ((np.array([["a"]] * 5), WORDS), {}),
    ],
)
def test_static_bad_tables(arguments: tuple, options: dict) -> None:
    with pytest.raises(BadInput):
        Static(*arguments, **options)


# sentence-transformers, by a stand-in with its interface


class _Model:
    """What the adapter uses of a SentenceTransformer; `known` are the models in the cache."""

    known = ("acme/small",)
    max_seq_length = 16
    default_prompt_name = None

    def __init__(self, name, *, device, revision, truncate_dim, trust_remote_code, local_files_only) -> None:
        if name not in self.known and local_files_only:
            raise OSError("not in the cache")
        self.prompts = {"query": "query: ", "document": ""}
        self.dim, self.calls = truncate_dim or 4, []

    def get_sentence_embedding_dimension(self) -> int:
        return self.dim

    def state_dict(self) -> dict:
        return {}

    def encode(self, items, *, batch_size, show_progress_bar, convert_to_numpy, prompt_name=None):
        self.calls.append(("encode", prompt_name, batch_size))
        prompt = self.prompts.get(prompt_name, "")
        return np.array([[len(prompt + item)] * self.dim for item in items], dtype=np.float32)


class _Model5(_Model):
    def encode_query(self, items, **options):
        return self.encode(items, prompt_name="query", **options)

    def encode_document(self, items, **options):
        return self.encode(items, prompt_name="document", **options)


@pytest.mark.parametrize("model", [_Model, _Model5])
def test_sentence_transformers(monkeypatch, model) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=model))
    made = encoder("st:acme/small")
    assert made.expensive
    assert made.space.dim == 4
    np.testing.assert_array_equal(made.encode_query(["ab", "abc"])[:, 0], [9, 10])
    np.testing.assert_array_equal(made.encode_document(["ab"], batch_size=3)[:, 0], [2])
    assert made._model.calls == [("encode", "query", 32), ("encode", "document", 3)]
    assert made.encode_document([]).shape == (0, 4)
    assert encoder(**made.spec).space == made.space
    assert encoder("st:acme/small?dim=2").space.dim == 2
    with pytest.raises(Offline, match="download=True"):
        encoder("st:acme/large")
    assert encoder("st:acme/large", download=True).spec == {"name": "st", "model": "acme/large"}


@pytest.mark.parametrize(
    ("name", "blocked", "extra"),
    [
        ("st:any", "sentence_transformers", "st"),
        ("static:.", "safetensors", "static"),
        ("openai:any?base_url=http://localhost", "httpx", "api"),
    ],
)
def test_missing_extras(monkeypatch, name: str, blocked: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(MissingExtra, match=rf"inlay\[{extra}\]"):
        encoder(name)


def test_every_name_is_importable() -> None:
    for entry in NAMES.values():
        module = __import__(f"inlay.encoders.{entry.module}", fromlist=["x"])
        assert hasattr(module, entry.make.split(".")[0])
    assert issubclass(BadInput, InlayError)
