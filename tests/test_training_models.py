"""Models, vocabulary tables, the gradient cache, the teacher's store, and what is done with weights afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from inlay.encoders import Static  # noqa: E402
from inlay.errors import BadInput, Corrupt, SpaceMismatch  # noqa: E402
from inlay.training import (  # noqa: E402
    LowRankTable,
    ProductTable,
    StaticBag,
    Teacher,
    cached_backward,
    concat,
    quantise_table,
    slerp,
    soup,
    task_arithmetic,
    truncate_dims,
)
from inlay.training.cached import join  # noqa: E402
from inlay.training.models import select, unit  # noqa: E402
from inlay.training.probe import probe, spearman  # noqa: E402
from inlay.training.static_bag import count_words, word_pieces  # noqa: E402
from inlay.training.tables import compressed  # noqa: E402
from inlay.training.views import Rendered  # noqa: E402
from inlay.types import Space  # noqa: E402

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
STRANGE = [
    "",
    "x",
    "alpha " * 3000,
    "🦆🦆",
    "日本語のテキスト",
    "def f(x):\n\treturn x",
    "\x00\x07\u200b",
    "\udcff alpha",
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def bag(**options) -> StaticBag:
    return StaticBag(8, words=WORDS, **options)


# the token table


@pytest.mark.parametrize("vocabulary", ["words", "pieces"])
def test_what_is_trained_is_what_runs(vocabulary, tmp_path) -> None:
    held = ["alpha beta beta", "Gamma, delta!", "nothing known here", "epsilon zeta alpha", *STRANGE]
    if vocabulary == "words":
        model = bag(weights=torch.rand(6) + 0.5, max_length=10_000)
    else:
        model = StaticBag(8, tokenizer=word_pieces(held[:4] * 3, 60), max_length=100_000)
    mine, theirs = model.encode(held), model.export().encode_document(held)
    np.testing.assert_allclose(mine, theirs, atol=3e-5)  # sums of 3000 rows, in another order
    assert np.isfinite(mine).all()
    norms = np.linalg.norm(mine, axis=1)
    assert (np.isclose(norms, 1, atol=1e-5) | (norms == 0)).all()
    np.testing.assert_allclose(np.concatenate([model.encode([text]) for text in held]), mine, atol=1e-5)
    model.save(tmp_path / "m")
    np.testing.assert_allclose(Static.load(tmp_path / "m").encode_document(held), theirs, atol=3e-5)
    again = StaticBag.load(tmp_path / "m", max_length=100_000)
    np.testing.assert_allclose(again.encode(held), mine, atol=3e-5)


def test_int8_export_stays_near() -> None:
    model = bag(weights=torch.rand(6) + 0.5)
    held = [" ".join(np.random.default_rng(i).choice(WORDS, 4)) for i in range(20)]
    exported = model.export(int8=True)
    assert exported.table.dtype == np.int8
    assert ((exported.encode_document(held) * model.encode(held)).sum(1) > 0.999).all()
    assert model.export(float16=True).table.dtype == np.float16
    np.testing.assert_allclose(
        model.export(dim=3).encode_document(held), unit(torch.from_numpy(model.encode(held))[:, :3]).numpy(), atol=1e-5
    )


def test_a_head_is_folded_into_the_table() -> None:
    model = bag(heads={"wide": 12})
    held = ["alpha beta", "gamma zeta zeta"]
    assert model.encode(held, head="wide").shape == (2, 12)
    np.testing.assert_allclose(
        model.export(head="wide").encode_document(held), model.encode(held, head="wide"), atol=1e-5
    )


def test_bag_hides_prefixes_and_cuts() -> None:
    model = bag(max_length=2)
    tokens = model.tokenize([Rendered("zeta zeta alpha", 10), "alpha beta gamma", ""])
    assert tokens.ids.tolist() == [0, 0, 1]
    assert tokens.starts.tolist() == [0, 1, 3]
    assert model.pooled(tokens)[2].abs().max() == 0


def test_fixed_weights_do_not_train() -> None:
    model = bag(train_weights=False, weights=torch.arange(1.0, 7))
    assert [name for name, _ in model.named_parameters()] == ["table"]
    assert torch.allclose(model.weights, torch.arange(1.0, 7))
    assert len(select(model, "full")) == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"dim": 4}, {"words": WORDS}, {"dim": 4, "words": WORDS, "tokenizer": "{}"}, {"dim": 4, "tokenizer": "{}"},
     {"dim": 4, "words": WORDS, "table": np.zeros((6, 5))}, {"words": WORDS, "table": np.zeros((2, 5))},
     {"dim": 4, "words": WORDS, "prompts": {"title": "t"}}, {"dim": 4, "words": WORDS, "heads": {"vector": 3}}],
)  # fmt: skip
def test_bag_refuses(options) -> None:
    with pytest.raises(BadInput):
        StaticBag(**options)


def test_vocabulary_by_count() -> None:
    assert count_words(["b a a", "B c"], 5) == ["a", "b"]
    with pytest.raises(BadInput):
        count_words(["a b"], 5)


def test_models_are_encoders() -> None:
    model = bag(prompts={"query": "alpha "})
    assert model.space.dim == 8
    before = model.space.fingerprint
    np.testing.assert_allclose(model.encode_query(["beta"]), model.encode_document(["alpha beta"]), atol=1e-6)
    with torch.no_grad():
        model.table += 1
    assert model.space.fingerprint != before


# selectors and tables


def test_select_heads_and_regex() -> None:
    model = bag(heads={"wide": 12})
    assert len(select(model, "heads")) == 1
    assert not model.table.requires_grad
    assert len(select(model, "regex:^(table|log)")) == 2
    assert model.table.requires_grad
    assert not model.heads["wide"].weight.requires_grad
    for bad in ("last(2)", "some", "regex:(", "regex:nothing"):
        with pytest.raises(BadInput, match="train="):
            select(model, bad)


def test_product_table_approximates_and_learns() -> None:
    table = torch.randn(200, 12)
    fits = [ProductTable.fit(table, 4, centres=count).weight.detach() for count in (4, 32, 200)]
    errors = [float((fit - table).square().mean()) for fit in fits]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05
    made = ProductTable.fit(table, 4, centres=32)
    assert made(torch.tensor([[1, 2], [3, 4]])).shape == (2, 2, 12)
    torch.testing.assert_close(made(torch.tensor([5])), made.weight[5:6])
    made(torch.tensor([5])).sum().backward()
    assert int((made.centres.grad.abs().sum(-1) > 0).sum()) == 4  # one centre of each part
    assert made.codes.dtype == torch.uint8


def test_low_rank_table_is_the_best_of_its_rank() -> None:
    table = torch.randn(30, 8)
    u, s, v = torch.linalg.svd(table, full_matrices=False)
    torch.testing.assert_close(LowRankTable.fit(table, 3).weight, (u[:, :3] * s[:3]) @ v[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(LowRankTable.fit(table, 8)(torch.tensor([2])), table[2:3], atol=1e-4, rtol=1e-4)


def test_tables_from_words() -> None:
    table = torch.randn(300, 8)
    assert isinstance(compressed(table, "product(4)"), ProductTable)
    assert isinstance(compressed(table, "product(4, 16)"), ProductTable)
    assert isinstance(compressed(table, "low_rank(2)"), LowRankTable)
    for bad in ("product(3)", "low_rank(9)", "hash(3)", "low_rank(2, 3)"):
        with pytest.raises(BadInput):
            compressed(table, bad)


# the gradient cache


def test_cached_gradients_are_plain_gradients_with_dropout() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.GELU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 4))
    scale = torch.nn.Parameter(torch.tensor(3.0))

    def encode(part):
        return {"vector": unit(model(part)), "unused": model(part)[:, :1]}

    def loss_of(vectors):
        x = vectors["vector"]
        return (scale * (x @ x.T)).logsumexp(1).mean()

    parts = list(torch.randn(12, 6).split(5))
    found = {}
    for how in ("plain", "cached"):
        torch.manual_seed(3)
        model.zero_grad()
        scale.grad = None
        if how == "plain":
            loss = loss_of(join([encode(part) for part in parts]))
            loss.backward()
        else:
            loss = cached_backward(encode, parts, loss_of)
        found[how] = [float(loss.detach()), scale.grad.clone(), *(p.grad.clone() for p in model.parameters())]
        found[how].append(torch.rand(3))  # the random state goes on as if nothing had been encoded twice
    for plain, cached in zip(found["plain"], found["cached"]):
        torch.testing.assert_close(plain, cached, atol=1e-5, rtol=1e-5)


# the teacher


class Counting:
    """An encoder that counts what it is asked, and can fail."""

    def __init__(self, fingerprint="counting", dim=5) -> None:
        self.space = Space("dense", dim, "cosine", fingerprint)
        self.asked: list[str] = []
        self.fails_after: int | None = None

    def encode_document(self, items, *, batch_size=None, progress=False):
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise KeyboardInterrupt
        self.asked += items
        seeds = [int.from_bytes(text.encode()[-4:], "little") for text in items]
        return np.array([np.random.default_rng(s).standard_normal(self.space.dim) for s in seeds], dtype=np.float32) * 9

    encode_query = encode_document


def test_teacher_encodes_once_and_goes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("inlay.training.teacher.COMMIT", 4)
    held = [f"text {i}" for i in range(11)]
    encoder = Counting()
    encoder.fails_after = 8
    with pytest.raises(KeyboardInterrupt):
        Teacher(tmp_path, encoder).add([*held, *held])
    with open(tmp_path / "vectors.f16", "ab") as file:
        file.write(b"half a row")  # what a kill in the middle of a write leaves
    encoder.fails_after = None
    teacher = Teacher(tmp_path, encoder)
    assert len(teacher) == 8
    assert teacher.add(held) == 3
    assert sorted(encoder.asked) == sorted(held)
    want = unit(torch.from_numpy(Counting().encode_document(held))).numpy()
    np.testing.assert_allclose(Teacher(tmp_path).rows(held[::-1]), want[::-1], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(teacher.rows(held), axis=1), 1, atol=1e-6)
    assert teacher.rows(["another"]).shape == (1, 5)  # made on demand
    assert len(Teacher(tmp_path)) == 12


def test_teacher_refuses_what_is_not_its_own(tmp_path) -> None:
    with pytest.raises(BadInput, match="no teacher vectors"):
        Teacher(tmp_path / "none")
    Teacher(tmp_path, Counting()).add(["a"])
    with pytest.raises(SpaceMismatch, match="other"):
        Teacher(tmp_path, Counting("other"))
    with pytest.raises(BadInput, match="no vector"):
        Teacher(tmp_path).rows(["unseen"])
    (tmp_path / "keys.u64").write_bytes(b"")
    with pytest.raises(Corrupt, match=r"keys\.u64"):
        Teacher(tmp_path)


def test_concat_is_the_mean_of_cosines(tmp_path) -> None:
    held = [f"text {i}" for i in range(6)]
    one, two = Teacher(tmp_path / "1", Counting("a", 5)), Teacher(tmp_path / "2", Counting("b", 9))
    both = concat([one, two])
    assert both.add(held) == 12
    assert both.dim == 14
    a, b, c = one.rows(held), two.rows(held), both.rows(held)
    np.testing.assert_allclose(c @ c.T, (a @ a.T + b @ b.T) / 2, atol=1e-5)


# after


def states(count: int):
    return [{"w": torch.randn(4, 3), "b": torch.randn(3), "n": torch.tensor([1, 2])} for _ in range(count)]


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_soup() -> None:
    (one,) = states(1)
    assert same(soup([one] * 3), one)
    assert same(soup([one, one], [0.3, 0.7]), one)
    a, b = states(2)
    torch.testing.assert_close(soup([a, b])["w"], (a["w"] + b["w"]) / 2)
    torch.testing.assert_close(soup([a, b], [3, 1])["b"], 0.75 * a["b"] + 0.25 * b["b"])
    with pytest.raises(BadInput, match="'w'"):
        soup([a, b | {"w": torch.zeros(2, 2)}])
    with pytest.raises(BadInput, match="differ"):
        soup([a, {"w": a["w"]}])


def test_task_arithmetic_and_slerp() -> None:
    base, a, b = states(3)
    assert same(task_arithmetic(base, [base, base]), base)
    torch.testing.assert_close(task_arithmetic(base, [a], 1.0)["w"], a["w"])
    torch.testing.assert_close(
        task_arithmetic(base, [a, b], 0.5)["w"], base["w"] + 0.5 * (a["w"] + b["w"] - 2 * base["w"])
    )
    assert same(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, b, 0.0)["w"], a["w"])
    torch.testing.assert_close(slerp(a, b, 1.0)["w"], b["w"])
    x, y = {"v": torch.tensor([1.0, 0])}, {"v": torch.tensor([0, 1.0])}
    torch.testing.assert_close(slerp(x, y, 0.5)["v"], torch.tensor([0.5, 0.5]).sqrt())


def test_quantise_and_truncate() -> None:
    table = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    table[3] = 0
    codes, weights = quantise_table(table, np.full(20, 2.0))
    step = np.abs(table).max(1, keepdims=True) / 127
    assert (np.abs(codes * weights[:, None] - 2 * table) <= step + 1e-6).all()
    assert truncate_dims(table, 2).tolist() == table[:, :2].tolist()
    with pytest.raises(BadInput):
        truncate_dims(table, 7)


# the probe


def test_spearman_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for _ in range(5):
        a, b = random.integers(0, 5, 30), random.standard_normal(30)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.ones(4), np.arange(4)) == 0


def test_probe_gives_an_untrained_point_no_credit() -> None:
    from inlay.training import Example, Source

    pairs = Source("pairs", [Example(w, [w + " beta"]) for w in ("alpha", "gamma", "zeta")])
    graded = Source("sts", [Example("alpha", [t], score=s) for t, s in (("alpha", 2.0), ("beta", 1.0))], "graded")
    model = StaticBag(words=WORDS, table=np.eye(6))
    found = probe([pairs, graded])(model)
    assert found == {"pairs accuracy@1": 1.0, "pairs MRR@10": 1.0, "sts Spearman": pytest.approx(1.0)}
    point = StaticBag(words=WORDS, table=np.ones((6, 2)))
    assert probe([pairs])(point)["pairs accuracy@1"] == 0


# transformers


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT with a tokenizer, written to a folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *"abcdefgh"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32}))
    return folder


def test_transformer(bert, tmp_path) -> None:
    from inlay.training import Transformer

    model = Transformer(bert)
    held = ["alpha beta", "gamma", *STRANGE]
    rows = model.encode(held)
    assert rows.shape == (len(held), 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([model.encode([text]) for text in held]), rows, atol=1e-5)
    half = Transformer(bert, layers=[0, 3], heads={"small": 4}, pooling="cls")
    assert len(half.blocks()) == 2
    theirs, ours = model.blocks()[3].state_dict(), half.blocks()[1].state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    half.save(tmp_path / "half")
    again = Transformer(tmp_path / "half")
    assert again.pooling == "cls"
    np.testing.assert_allclose(again.encode(held), half.encode(held), atol=1e-6)
    for bad in ([3, 0], [4], []):
        with pytest.raises(BadInput, match="layers"):
            Transformer(bert, layers=bad)
    with pytest.raises(BadInput, match=r"config\.json"):
        Transformer(tmp_path / "nowhere")


def test_transformer_selectors(bert) -> None:
    from inlay.training import Transformer

    model = Transformer(bert, heads={"small": 4})
    layer = len(list(model.blocks()[0].parameters()))
    assert len(select(model, "full")) == len(list(model.parameters()))
    assert len(select(model, "heads+last(3)")) == 1 + 3 * layer
    assert not next(model.backbone.embeddings.parameters()).requires_grad
    assert len(select(model, "freeze_first(1)")) == 3 * layer + 1
    assert not any(p.requires_grad for p in model.backbone.embeddings.parameters())
    assert all(p.ndim == 1 for p in select(model, "bitfit"))
    with pytest.raises(BadInput, match="4 layers"):
        select(model, "last(5)")


def test_transformer_with_a_compressed_table(bert, tmp_path) -> None:
    from inlay.training import Transformer

    whole = Transformer(bert)
    exact = Transformer(bert, table="low_rank(16)")
    np.testing.assert_allclose(exact.encode(["alpha beta"]), whole.encode(["alpha beta"]), atol=1e-3)
    small = Transformer(bert, table="product(4, 8)")
    assert small.num_parameters() < whole.num_parameters()
    small.save(tmp_path / "small")
    np.testing.assert_allclose(Transformer(tmp_path / "small").encode(["alpha"]), small.encode(["alpha"]), atol=1e-5)
    assert small.table is not None
    assert isinstance(small.backbone.get_input_embeddings(), ProductTable)


def test_hidden_prefix_is_read_but_not_pooled(bert) -> None:
    from inlay.training import Transformer

    model = Transformer(bert)
    tokens = model.tokenize([Rendered("alpha beta gamma", 11), "zeta"])
    assert tokens.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert tokens.pool.tolist() == [[0, 0, 0, 1, 0], [1, 1, 1, 0, 0]]


def test_random_start_with_another_shape(bert) -> None:
    from inlay.training import Transformer

    model = Transformer(bert, random=True, config={"hidden_size": 8, "num_hidden_layers": 1})
    assert (model.dim, len(model.blocks())) == (8, 1)
    with pytest.raises(BadInput, match="random"):
        Transformer(bert, config={"hidden_size": 8})
