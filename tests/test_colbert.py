"""ColBERT on a tiny BERT with random weights, in each layout; beside sentence-transformers where it is installed."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

import numpy as np
import pytest

import inlay
from inlay.encoders import encoder
from inlay.encoders.colbert_folder import ColBERTFolder
from inlay.errors import BadInput, Corrupt, MissingExtra, Offline
from inlay.types import Encoder, Ragged

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file  # noqa: E402

from inlay.encoders.colbert import ColBERT  # noqa: E402
from inlay.encoders.marked_tokens import MarkedTokens  # noqa: E402

NOUNS = ["cat", "dog", "ship", "tax", "bread", "storm", "king", "river"]
WORDS = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *NOUNS, "##s"]
WIDTH, DIM, QUERY, DOCUMENT = 24, 8, 12, 16
TEXTS = [
    "cat dog.",
    "ship",
    "king, river; storm!",
    "",
    "tax bread cats dogs ships taxs kings storms river bread cat dog",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT's folder without a projection."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("base")
    (place / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(place)
    return place


def projection(rows: int = DIM, columns: int = WIDTH, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def put(path: Path, **values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def colbert_ir(base: Path, place: Path, **metadata) -> Path:
    """The layout of colbert-ir: `bert.` before the transformer's names, the projection beside them."""
    shutil.copytree(base, place)
    held = {f"bert.{name}": tensor for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(held | {"linear.weight": projection()}, place / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    values = {"query_maxlen": QUERY, "doc_maxlen": DOCUMENT, "dim": DIM, "mask_punctuation": True}
    values |= {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "attend_to_mask_tokens": False}
    put(place / "artifact.metadata", **(values | metadata))
    return place


def modules(place: Path, *kinds: str) -> None:
    home = "sentence_transformers.models"
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"{home}.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (place / "modules.json").write_text(json.dumps(listed))


def dense(place: Path, weight: torch.Tensor, activation: str = "torch.nn.modules.linear.Identity", **more) -> None:
    put(place / "config.json", in_features=weight.shape[1], out_features=weight.shape[0], bias=False,
        activation_function=activation, **more)  # fmt: skip
    save_file({"linear.weight": weight}, place / "model.safetensors")


def pylate(base: Path, place: Path, **settings) -> Path:
    shutil.copytree(base, place)
    modules(place, "Transformer", "Dense")
    dense(place / "1_Dense", projection())
    values = {"model_type": "ColBERT", "query_prefix": "[unused0] ", "document_prefix": "[unused1] "}
    values |= {"query_length": QUERY, "document_length": DOCUMENT, "attend_to_expansion_tokens": False}
    values |= {"skiplist_words": list(string.punctuation), "do_query_expansion": True, "prompts": {}}
    put(place / "config_sentence_transformers.json", **(values | settings))
    return place


LAYOUTS = {"colbert-ir": colbert_ir, "pylate": pylate}


@pytest.fixture(scope="module", params=LAYOUTS)
def folder(request, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LAYOUTS[request.param](base, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def made(folder: Path) -> ColBERT:
    return ColBERT(folder)


def near(a: Ragged, b: Ragged) -> None:
    assert a.offsets.tolist() == b.offsets.tolist()
    np.testing.assert_allclose(a.values, b.values, atol=2e-5)


# What is encoded


def test_by_hand(made: ColBERT, base: Path) -> None:
    """Token numbers written out, the transformer called by itself."""
    from transformers import BertModel

    number = {word: i for i, word in enumerate(WORDS)}
    lm = BertModel.from_pretrained(base).eval()

    def vectors(tokens: list[str], seen: int) -> np.ndarray:
        ids = torch.tensor([[number[token] for token in tokens]])
        mask = torch.tensor([[1] * seen + [0] * (len(tokens) - seen)])
        with torch.no_grad():
            rows = lm(input_ids=ids, attention_mask=mask).last_hidden_state[0] @ projection().T
        return torch.nn.functional.normalize(rows, dim=-1).numpy()

    query = ["[CLS]", "[unused0]", "cat", "##s", ".", "[SEP]"]
    filled = query + ["[MASK]"] * (QUERY - len(query))
    np.testing.assert_allclose(made.encode_query(["Cats."])[0], vectors(filled, len(query)), atol=2e-5)
    document = ["[CLS]", "[unused1]", "king", ",", "river", "!", "[SEP]"]
    kept = [i for i, token in enumerate(document) if token not in string.punctuation]
    np.testing.assert_allclose(
        made.encode_document(["king, river!"])[0], vectors(document, len(document))[kept], atol=2e-5
    )


def test_a_batch_is_what_its_texts_are_alone(made: ColBERT) -> None:
    for encode in (made.encode_query, made.encode_document):
        whole = encode(TEXTS)
        near(whole, encode(TEXTS, batch_size=2))
        alone = [encode([text])[0] for text in TEXTS]
        for own, single in zip(whole, alone, strict=True):
            np.testing.assert_allclose(own, single, atol=2e-5)
        np.testing.assert_allclose(np.linalg.norm(whole.values, axis=1), 1, atol=1e-5)
        assert whole.values.dtype == np.float32
        assert whole.offsets.dtype == np.int64


def test_queries_are_filled_up_and_documents_cut(made: ColBERT) -> None:
    assert np.diff(made.encode_query(TEXTS).offsets).tolist() == [QUERY] * len(TEXTS)
    # ends and marker, words, no punctuation; the last is cut
    assert np.diff(made.encode_document(TEXTS).offsets).tolist() == [5, 4, 6, 3, DOCUMENT]
    assert len(made.encode_document([]).offsets) == 1
    assert made.encode_query([]).values.shape == (0, DIM)


def test_punctuation_is_read_but_not_kept(made: ColBERT) -> None:
    plain, marked = made.encode_document(["cat dog", "cat, dog"])
    assert len(plain) == len(marked)
    assert np.abs(plain - marked).max() > 1e-3


def test_sides_differ(made: ColBERT) -> None:
    query, document = made.encode_query(["cat"])[0], made.encode_document(["cat"])[0]
    assert np.abs(query[: len(document)] - document).max() > 1e-3


def test_fillers_that_are_attended_to_change_the_rest(base: Path, tmp_path: Path) -> None:
    blind = ColBERT(colbert_ir(base, tmp_path / "a"))
    seeing = ColBERT(colbert_ir(base, tmp_path / "b", attend_to_mask_tokens=True))
    again = ColBERT(pylate(base, tmp_path / "c", attend_to_expansion_tokens=True))
    assert np.abs(blind.encode_query(["cat"]).values - seeing.encode_query(["cat"]).values).max() > 1e-3
    near(seeing.encode_query(["cat"]), again.encode_query(["cat"]))
    near(blind.encode_document(TEXTS), seeing.encode_document(TEXTS))
    assert blind.space != seeing.space


def test_both_layouts_mean_the_same(base: Path, tmp_path: Path) -> None:
    a, b = ColBERT(colbert_ir(base, tmp_path / "a")), ColBERT(pylate(base, tmp_path / "b"))
    near(a.encode_query(TEXTS), b.encode_query(TEXTS))
    near(a.encode_document(TEXTS), b.encode_document(TEXTS))
    assert a.space == b.space, "weights, tokens and settings are equal"


def test_what_folders_leave_out(base: Path, tmp_path: Path) -> None:
    place = colbert_ir(base, tmp_path / "a")
    (place / "artifact.metadata").unlink()
    said = ColBERTFolder.read(place)
    assert (said.expansion, said.document_length, said.attend) == (32, 180, False)
    assert said.skipped == tuple(string.punctuation)
    assert ColBERT(place).lengths["document"] == 64, "no more than there are positions"
    bare = pylate(base, tmp_path / "b", skiplist_words=None, query_length=None, do_query_expansion=False)
    made = ColBERT(bare)
    assert made.lengths["query"] == 32
    assert np.diff(made.encode_query(["cat dog."]).offsets).tolist() == [6], "not filled up"
    keeps = ColBERT(pylate(base, tmp_path / "c", skiplist_words=["cat", "nowhere"]))
    assert np.diff(keeps.encode_document(["cat dog.", "[UNK] unknown"]).offsets).tolist() == [5, 5]


def test_a_marker_outside_the_vocabulary_is_text(base: Path, tmp_path: Path) -> None:
    made = ColBERT(pylate(base, tmp_path / "a", document_prefix="dog: ", query_prefix="", prompts={"document": "cat "}))
    # [CLS] dog (: skipped) cat ship [SEP]: "dog:" is no token of the vocabulary
    assert np.diff(made.encode_document(["ship"]).offsets).tolist() == [5]


def test_markers_and_cuts(base: Path) -> None:
    file = base / "tokenizer.json"
    tokens = MarkedTokens(file, marker="[unused0] ", length=6)
    assert [[WORDS[i] for i in own] for own in tokens(["cat dog king ship", "", "[unused0]"])] == [
        ["[CLS]", "[unused0]", "cat", "dog", "king", "[SEP]"],
        ["[CLS]", "[unused0]", "[SEP]"],
        ["[CLS]", "[unused0]", "[", "[UNK]", "]", "[SEP]"],  # a text cannot write the marker
    ]
    with pytest.raises(BadInput, match="3 tokens leave none"):
        MarkedTokens(file, marker="[unused0] ", length=3)


def test_several_layers(base: Path, tmp_path: Path) -> None:
    place = pylate(base, tmp_path / "a")
    modules(place, "Transformer", "Dense", "Dense")
    wide = projection(WIDTH, WIDTH, seed=5) / WIDTH
    dense(place / "1_Dense", wide, "torch.nn.modules.activation.Tanh", use_residual=True)
    dense(place / "2_Dense", projection())
    plain = ColBERT(pylate(base, tmp_path / "b"))
    ids, mask = torch.tensor([[4, 2, 40, 5]]), torch.ones(1, 4, dtype=torch.int64)
    with torch.no_grad():
        states = plain._network.lm(input_ids=ids, attention_mask=mask).last_hidden_state
        rows = (torch.tanh(states @ wide.T) + states) @ projection().T
        expected = torch.nn.functional.normalize(rows, dim=-1)
        torch.testing.assert_close(ColBERT(place)._network(ids, mask), expected)


# Beside sentence-transformers


def reader(place: Path):
    library = pytest.importorskip("sentence_transformers")
    if not hasattr(library, "MultiVectorEncoder"):
        pytest.skip("this sentence-transformers reads no late-interaction models")
    return library.MultiVectorEncoder(str(place), device="cpu", local_files_only=True)


def test_agrees_with_sentence_transformers(folder: Path, made: ColBERT) -> None:
    other = reader(folder)
    some = [text for text in TEXTS if text]
    for ours, theirs in (
        (made.encode_query(some), other.encode_query(some)),
        (made.encode_document(some), other.encode_document(some)),
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, np.asarray(b), atol=2e-5)


@pytest.mark.parametrize("strategy", ["fixed", "min", None])
def test_reads_what_sentence_transformers_writes(base: Path, tmp_path: Path, strategy: str | None) -> None:
    first = reader(base)
    first.prompts = {"query": "[unused0] ", "document": "[unused1] "}
    if strategy:
        first[0].query_expansion = {"strategy": strategy, "attend": True, "length": 6, "token": "king"}
    first[0].document_length = 9
    first.save(str(tmp_path / "native"))
    other, made = reader(tmp_path / "native"), ColBERT(tmp_path / "native")
    some = [text for text in TEXTS if text]
    for ours, theirs in (
        (made.encode_query(some), other.encode_query(some)),
        (made.encode_document(some), other.encode_document(some)),
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, np.asarray(b), atol=2e-5)
    if strategy == "min":
        with pytest.raises(BadInput, match="below the 6"):
            ColBERT(tmp_path / "native", query_length=5)


# As an encoder


def test_it_is_an_encoder_and_made_again(made: ColBERT, folder: Path) -> None:
    assert isinstance(made, Encoder)
    assert (made.space.kind, made.space.dim, made.space.metric, made.expensive) == ("multi", DIM, "dot", True)
    again = encoder(**json.loads(json.dumps(made.spec)))
    assert again.space == made.space
    assert encoder(f"colbert:{folder}").space == made.space
    short = encoder(f"colbert:{folder}?query_length=7&document_length=6")
    assert encoder(**short.spec).space == short.space != made.space
    assert np.diff(short.encode_query(["cat"]).offsets).tolist() == [7]
    assert np.diff(short.encode_document(["cat dog king ship tax"]).offsets).tolist() == [6]
    assert str(folder) in repr(made)


def test_identity_follows_weights_and_settings(base: Path, tmp_path: Path) -> None:
    spaces = [ColBERT(colbert_ir(base, tmp_path / "a")).space]
    spaces += [ColBERT(colbert_ir(base, tmp_path / "b", mask_punctuation=False)).space]
    spaces += [ColBERT(colbert_ir(base, tmp_path / "c", doc_token_id="[unused0]")).space]
    place = pylate(base, tmp_path / "d")
    dense(place / "1_Dense", projection(seed=2))
    spaces += [ColBERT(place).space]
    assert len({space.fingerprint for space in spaces}) == len(spaces)


def test_missing_pooler_changes_nothing(base: Path, tmp_path: Path) -> None:
    place = colbert_ir(base, tmp_path / "a")
    whole = ColBERT(place).space
    held = {name: t for name, t in load_file(place / "model.safetensors").items() if "pooler" not in name}
    save_file(held, place / "model.safetensors", {"format": "pt"})
    assert ColBERT(place).space == whole
    del held["bert.embeddings.word_embeddings.weight"]
    save_file(held, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks 1 weights.*word_embeddings"):
        ColBERT(place)


def test_a_collection_with_it(folder: Path, tmp_path: Path) -> None:
    with inlay.open(tmp_path / "c.inlay", encoder=f"colbert:{folder}") as c:
        c.add([{"id": "sea", "text": "ship storm river"}, {"id": "court", "text": "king tax bread"}])
        assert c.embed() == 2
    with inlay.open(tmp_path / "c.inlay") as c:
        (hit, *_) = c.search("ship storm river", mode="dense")
        made = ColBERT(folder)
        query, document = made.encode_query(["ship storm river"])[0], made.encode_document([hit.text])[0]
        assert hit.score == pytest.approx(float((query @ document.T).max(1).sum()), abs=0.05)
        assert c.info()["spaces"]["dense"]["pending"] == 0


def test_progress(made: ColBERT, capfd) -> None:
    made.encode_document(TEXTS, batch_size=2, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "5/5" in err


# What is refused


def test_bad_arguments(folder: Path, made: ColBERT) -> None:
    for options, says in (
        ({"query_length": 0}, "query_length"),
        ({"document_length": 2.5}, "document_length"),
        ({"document_length": 65}, "more than the 64"),
        ({"query_length": 3}, "leave none"),
        ({"device": "abacus"}, "abacus"),
    ):
        with pytest.raises(BadInput, match=says):
            ColBERT(folder, **options)
    for items in ("one text", [1], None):
        with pytest.raises(BadInput):
            made.encode_query(items)
    with pytest.raises(BadInput, match="batch_size"):
        made.encode_document(["a"], batch_size=0)
    with pytest.raises(BadInput, match="int"):
        ColBERT(7)


def test_places_without_a_model(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no folder"):
        ColBERT(tmp_path / "gone")
    with pytest.raises(Offline, match="hf download nobody/never-was"):
        ColBERT("nobody/never-was")
    with pytest.raises(BadInput, match=r"config\.json"):
        ColBERT(tmp_path)
    with pytest.raises(BadInput, match=r"linear\.weight"):
        ColBERT(base)


def test_a_name_in_the_local_cache(folder: Path, made: ColBERT, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def cached(name: str, local_files_only: bool) -> str:
        assert (name, local_files_only) == ("some/model", True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    named = ColBERT("some/model")
    assert named.space == made.space
    assert named.spec["path"] == "some/model"


def test_pickles_are_not_opened(base: Path, tmp_path: Path) -> None:
    for name, place in (("a", colbert_ir(base, tmp_path / "a")), ("b", pylate(base, tmp_path / "b") / "1_Dense")):
        (place / "model.safetensors").rename(place / "pytorch_model.bin")
        with pytest.raises(BadInput, match="pickle"):
            ColBERT(tmp_path / name)
        (place / "pytorch_model.bin").unlink()
        with pytest.raises(BadInput, match="no weights"):
            ColBERT(tmp_path / name)


def test_foreign_and_broken_folders(base: Path, tmp_path: Path) -> None:
    place = pylate(base, tmp_path / "a")
    modules(place, "Transformer", "Pooling", "Dense")
    with pytest.raises(BadInput, match="Pooling"):
        ColBERT(place)
    modules(place, "Transformer")
    with pytest.raises(BadInput, match="st:"):
        ColBERT(place)
    modules(place, "Transformer", "Dense")
    dense(place / "1_Dense", projection(), "torch.nn.modules.activation.Softsign")
    with pytest.raises(BadInput, match="Softsign"):
        ColBERT(place)
    dense(place / "1_Dense", projection(DIM, WIDTH + 1))
    with pytest.raises(BadInput, match=f"gets {WIDTH}"):
        ColBERT(place)
    (place / "1_Dense" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(Corrupt, match="1_Dense"):
        ColBERT(place)
    with pytest.raises(Corrupt, match="query_maxlen"):
        ColBERT(colbert_ir(base, tmp_path / "b", query_maxlen="long"))
    (tmp_path / "b" / "artifact.metadata").write_text("[1]")
    with pytest.raises(Corrupt, match="list"):
        ColBERT(tmp_path / "b")
    (tmp_path / "b" / "artifact.metadata").unlink()
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    with pytest.raises(Corrupt, match=r"tokenizer\.json"):
        ColBERT(tmp_path / "b")
    native = pylate(base, tmp_path / "c")
    put(native / "config_sentence_transformers.json", model_type="MultiVectorEncoder")
    modules(native, "Transformer", "Dense", "MultiVectorMask")
    put(native / "2_MultiVectorMask" / "config.json", keep_only_token_ids=[3])
    with pytest.raises(BadInput, match="image"):
        ColBERT(native)


def test_no_mask_to_fill_with(base: Path, tmp_path: Path) -> None:
    place = colbert_ir(base, tmp_path / "a")
    text = (place / "tokenizer.json").read_text().replace("[MASK]", "[HOLE]")
    (place / "tokenizer.json").write_text(text)
    with pytest.raises(BadInput, match="no mask token"):
        ColBERT(place)


def test_without_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "inlay.encoders.projected_states", None)
    with pytest.raises(MissingExtra, match=r"inlay\[st\]"):
        ColBERT(folder)
