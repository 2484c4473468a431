"""ONNX encoders, on graphs small enough to work out by hand: token rows plus the mean of the unmasked ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.encoders import Onnx, encoder
from inlay.encoders.model_folder import ModelFolder
from inlay.encoders.pooling import pool, unit
from inlay.errors import BadInput, Corrupt, MissingExtra

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "query", "doc", ":", *"abcdefgh"]
TABLE = np.random.default_rng(0).standard_normal((len(WORDS), 8)).astype(np.float32)
TABLE[0] = 100  # padding that leaks in shows


def write_graph(path: Path, inputs=("input_ids", "attention_mask"), kind="INT64", pooled=False, shape=8) -> None:
    """States are E[ids] + mean over the mask of E[ids] (+ type and position if asked): each token sees its company."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"INT64": TensorProto.INT64, "INT32": TensorProto.INT32}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["total"], keepdims=1),
        helper.make_node("ReduceSum", ["mask3", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("Add", ["rows", "mean"], ["mixed"]),
    ]
    state = "mixed"
    for name in set(inputs) - {"input_ids", "attention_mask"}:
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", [f"{name}_float", "last"], [f"{name}_3"]),
            helper.make_node("Add", [state, f"{name}_3"], [f"with_{name}"]),
        ]
        state = f"with_{name}"
    nodes.append(helper.make_node("Identity", [state], ["last_hidden_state"]))
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "tokens", shape])]
    if pooled:
        nodes.append(helper.make_node("Squeeze", ["mean", "tokens"], ["sentence_embedding"]))
        outputs.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", shape]))
    constants = {"table": TABLE, "last": np.array([2]), "tokens": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kinds[kind], ["n", "tokens"]) for name in inputs],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_tokenizer(folder: Path, special: bool = True) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.enable_padding(length=50)  # what the file says about padding must not matter
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_graph(tmp_path / "model.onnx")
    write_tokenizer(tmp_path)
    return tmp_path


def states(text: str, prompt: str = "", limit: int = 512) -> np.ndarray:
    """Token states of a text, worked out by hand."""
    words = [*prompt.split(), *text.split()][: limit - 2]
    rows = TABLE[[WORDS.index(word) if word in WORDS else 1 for word in ["[CLS]", *words, "[SEP]"]]]
    return rows + rows.mean(axis=0)


TEXTS = ["a b c", "", "h", "a a a a b zebra g f e d", "c b a", "b \ud800"]
WANT = [*TEXTS[:5], "b ?"]


@pytest.mark.parametrize(
    ("how", "by_hand"),
    [
        ("mean", lambda s: s.mean(axis=0)),
        ("cls", lambda s: s[0]),
        ("last", lambda s: s[-1]),
        ("max", lambda s: s.max(axis=0)),
    ],
)
def test_rows_are_pooled_states(folder: Path, how: str, by_hand) -> None:
    made = Onnx(folder, pooling=how)
    assert made.expensive
    assert made.space.dim == 8
    rows = made.encode_document(TEXTS, batch_size=4)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [by_hand(states(text)) for text in WANT], atol=1e-5)
    np.testing.assert_array_equal(made.encode_query(TEXTS, batch_size=4), rows)


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.lists(st.sampled_from([*"abcdefgh"]), max_size=12).map(" ".join), max_size=9), data=st.data())
def test_batch_equals_single(tmp_path_factory, texts: list[str], data) -> None:
    folder = tmp_path_factory.getbasetemp() / "batch"
    if not folder.exists():
        folder.mkdir()
        write_graph(folder / "model.onnx")
        write_tokenizer(folder)
    made = Onnx(folder, pooling=data.draw(st.sampled_from(["mean", "cls", "last", "max"])), normalize=True, threads=1)
    rows = made.encode_document(texts, batch_size=data.draw(st.integers(1, 5)))
    assert rows.shape == (len(texts), 8)
    for text, row in zip(texts, rows):
        np.testing.assert_allclose(row, made.encode_document([text])[0], atol=1e-5)


def test_settings_beside_the_model(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            ]
        )
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 4}')
    prompts = {"prompts": {"query": "query : ", "passage": "doc : "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    made = encoder(f"onnx:{folder}")
    assert (made.pooling, made.normalize, made.max_length) == ("cls", True, 6)
    text = "a b c d e f g h"
    want = states(text, "query :", 6)[0]
    np.testing.assert_allclose(made.encode_query([text])[0], want / np.linalg.norm(want), atol=1e-5)
    want = states(text, "doc :", 6)[0]
    np.testing.assert_allclose(made.encode_document([text])[0], want / np.linalg.norm(want), atol=1e-5)

    over = Onnx(folder, pooling="mean", normalize=False, max_length=4, query_prompt="")
    np.testing.assert_allclose(over.encode_query([text])[0], states(text, "", 4).mean(axis=0), atol=1e-5)
    for one in (made, over):
        again = encoder(**json.loads(json.dumps(one.spec)))
        assert again.space == one.space
        assert repr(again) == repr(one)
    assert over.space.fingerprint != made.space.fingerprint


def test_what_settings_files_may_say(tmp_path: Path) -> None:
    def write(name: str, value: object) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))

    assert ModelFolder.read(tmp_path) == ModelFolder()
    write("tokenizer_config.json", {"model_max_length": 1e30})
    assert ModelFolder.read(tmp_path).max_length == 512
    write("tokenizer_config.json", {"model_max_length": 8192})
    write("config.json", {"max_position_embeddings": 2048, "hidden_size": 384, "pad_token_id": 1})
    read = ModelFolder.read(tmp_path)
    assert (read.max_length, read.dim, read.pad) == (2048, 384, 1)
    write("1_Pooling/config.json", {"pooling_mode": "lasttoken", "include_prompt": False})
    assert ModelFolder.read(tmp_path).pooling == "last"
    assert not ModelFolder.read(tmp_path).prompt_pooled
    write("1_Pooling/config.json", {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True})
    with pytest.raises(BadInput, match="several poolings"):
        ModelFolder.read(tmp_path)
    write("config_sentence_transformers.json", {"prompts": {"s": "all: "}, "default_prompt_name": "s"})
    (tmp_path / "1_Pooling" / "config.json").unlink()
    assert ModelFolder.read(tmp_path).query_prompt == ModelFolder.read(tmp_path).document_prompt == "all: "
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(Corrupt, match=r"modules\.json"):
        ModelFolder.read(tmp_path)


@pytest.mark.parametrize("kind", ["INT64", "INT32"])
def test_feeds_only_what_the_graph_asks_for(folder: Path, kind: str) -> None:
    inputs = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    write_graph(folder / "model.onnx", inputs, kind)
    rows = Onnx(folder).encode_document(["a b", "c"])
    np.testing.assert_allclose(rows[0], (states("a b") + np.arange(4)[:, None]).mean(axis=0), atol=1e-5)


def test_pooled_output_is_preferred_and_can_be_passed_over(folder: Path) -> None:
    write_graph(folder / "model.onnx", pooled=True)
    rows = TABLE[[2, 7, 3]].mean(axis=0)
    np.testing.assert_allclose(Onnx(folder).encode_document(["a"])[0], rows, atol=1e-5)
    np.testing.assert_allclose(Onnx(folder, output="last_hidden_state").encode_document(["a"])[0], 2 * rows, atol=1e-5)
    with pytest.raises(BadInput, match="sentence_embedding"):
        Onnx(folder, output="logits")


def test_where_the_graph_may_be(folder: Path) -> None:
    whole = Onnx(folder).encode_document(["a b"])
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    for made in (Onnx(folder), Onnx(folder / "onnx" / "model.onnx"), Onnx(folder, file="onnx/model.onnx")):
        np.testing.assert_array_equal(made.encode_document(["a b"]), whole)
        assert encoder(**made.spec).space == made.space
    (folder / "onnx" / "model.onnx").rename(folder / "onnx" / "one.onnx")
    np.testing.assert_array_equal(Onnx(folder).encode_document(["a b"]), whole)
    write_graph(folder / "onnx" / "two.onnx")
    with pytest.raises(BadInput, match=r"one\.onnx.*two\.onnx"):
        Onnx(folder)
    with pytest.raises(BadInput, match=r"three\.onnx"):
        Onnx(folder, file="three.onnx")


def test_weights_are_part_of_the_identity(folder: Path) -> None:
    before = Onnx(folder).space
    assert Onnx(folder, threads=2).space == before
    (folder / "model.onnx_data").write_bytes(b"weights")
    beside = Onnx(folder).space
    write_graph(folder / "model.onnx", pooled=True)
    after = Onnx(folder, output="last_hidden_state").space
    assert len({before.fingerprint, beside.fingerprint, after.fingerprint}) == 3


def test_texts_without_tokens_and_unknown_width(folder: Path) -> None:
    write_graph(folder / "model.onnx", shape="dim")
    write_tokenizer(folder, special=False)
    made = Onnx(folder)
    assert made.space.dim == 8
    rows = made.encode_document(["", "a", "  "])
    assert not rows[[0, 2]].any()
    np.testing.assert_allclose(rows[1], 2 * TABLE[7], atol=1e-5)
    assert made.encode_document([]).shape == (0, 8)


def test_progress(folder: Path, capfd) -> None:
    Onnx(folder).encode_document(["a"] * 5, batch_size=2, progress=True)
    assert "5/5" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pooling": "sum"}, "mean, cls, last, max"),
        ({"max_length": 0}, "max_length"),
        ({"threads": 0}, "threads"),
        ({"providers": ["AbacusExecutionProvider"]}, "AbacusExecutionProvider"),
    ],
)
def test_bad_options(folder: Path, options: dict, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Onnx(folder, **options)


def test_models_that_cannot_be_run(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    with pytest.raises(BadInput, match=r"Dense.*st:"):
        Onnx(folder)
    (folder / "modules.json").unlink()
    write_graph(folder / "model.onnx", ("input_ids", "attention_mask", "past_key_values"))
    with pytest.raises(BadInput, match="past_key_values"):
        Onnx(folder)
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(Corrupt, match=r"model\.onnx"):
        Onnx(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(Corrupt, match=r"tokenizer\.json"):
        Onnx(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        Onnx(folder)
    with pytest.raises(BadInput, match="no such file"):
        Onnx(folder / "nothing")


def test_missing_extra(folder: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"inlay\[onnx\]"):
        Onnx(folder)


def test_pooling_ignores_padding() -> None:
    rng = np.random.default_rng(1)
    values, mask = rng.standard_normal((3, 5, 4)).astype(np.float16), np.arange(5) < np.array([[1], [3], [5]])
    for how in ("mean", "cls", "last", "max"):
        spoilt = np.where(mask[:, :, None], values, np.float16(999))
        assert pool(spoilt, mask, how).dtype == np.float32
        for n, length in enumerate((1, 3, 5)):
            alone = pool(values[n : n + 1, :length], mask[n : n + 1, :length], how)
            np.testing.assert_allclose(pool(spoilt, mask, how)[n], alone[0], atol=1e-5)
    with pytest.raises(BadInput, match="sum"):
        pool(values, mask, "sum")
    assert unit(np.zeros((2, 3), dtype=np.float32)).tolist() == [[0, 0, 0]] * 2
