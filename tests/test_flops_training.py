"""The FLOPs regulariser, what sparse rows cost, sparse heads and SPLADE, in training and as encoders."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from inlay.encoders.expansions import FILE, Expansions  # noqa: E402
from inlay.encoders.masked_lm import highest  # noqa: E402
from inlay.encoders.splade import Splade as SpladeEncoder  # noqa: E402
from inlay.errors import BadInput, Corrupt, SpaceMismatch  # noqa: E402
from inlay.indexes.inverted import Inverted  # noqa: E402
from inlay.training.example import Example  # noqa: E402
from inlay.training.flops import Flops, flops, l1, ramp  # noqa: E402
from inlay.training.info_nce import InfoNCE  # noqa: E402
from inlay.training.models import MAIN  # noqa: E402
from inlay.training.posting_cost import sparse_cost  # noqa: E402
from inlay.training.scores import Pool  # noqa: E402
from inlay.training.sources import Source  # noqa: E402
from inlay.training.sparse_head import SparseHead  # noqa: E402
from inlay.training.sparse_rows import soft_threshold  # noqa: E402
from inlay.training.splade import Splade  # noqa: E402
from inlay.training.stage import Stage  # noqa: E402
from inlay.training.total import Sum  # noqa: E402
from inlay.training.trainer import Trainer  # noqa: E402
from inlay.training.views import Rendered  # noqa: E402
from inlay.types import Encoder, Space, Sparse  # noqa: E402

WORDS = "red blue green cat dog fish runs sleeps eats house river stone cold warm old new".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
TEXTS = ["red cat runs", "the blue dogs sleeps", "", "xyzzy", "old stone house, old river", "Cats"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pool(rows: Any, queries: int, documents: int) -> Pool:
    """A pool of `queries` rows, each with `documents` documents."""
    batch: Any = SimpleNamespace(docs=[[""] * documents for _ in range(queries)], source="s", in_batch=True)
    batch = type("B", (), {"__len__": lambda self: queries, **vars(batch)})()
    return Pool({MAIN: torch.as_tensor(rows)}, batch)


# the penalty


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_formulas_are_the_paper_s(n: int, dim: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    by_hand = sum(np.mean(np.abs(rows[:, j])) ** 2 for j in range(dim))
    assert float(flops(torch.from_numpy(rows))) == pytest.approx(by_hand, rel=1e-5)
    assert float(l1(torch.from_numpy(rows))) == pytest.approx(np.abs(rows).sum(1).mean(), rel=1e-5)
    assert float(flops(torch.from_numpy(-rows))) == pytest.approx(by_hand, rel=1e-5), "signs must not cancel"


def test_the_mean_is_inside_the_square() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(flops(rows)) == 0.5  # two half-used dimensions; mean of squares would be 1
    assert float(flops(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))) == 1.0
    signed = torch.tensor([[1.0], [-1.0]])
    assert float(flops(signed)) == 1.0
    assert float(flops(torch.zeros(0, 3))) == float(l1(torch.zeros(0, 3))) == 0.0


def test_gradients_push_busy_dimensions_harder() -> None:
    rows = torch.tensor([[2.0, -1.0, 0.0], [4.0, 1.0, 0.5]], requires_grad=True)
    flops(rows).backward()
    mean = rows.detach().abs().mean(0)
    np.testing.assert_allclose(rows.grad, 2 * mean * rows.detach().sign() / 2, rtol=1e-6)  # 2 ā_j / n
    assert rows.grad[0, 0] > rows.grad[1, 1] > 0 > rows.grad[0, 1], "towards zero from either side"
    rows.grad = None
    l1(rows).backward()
    np.testing.assert_allclose(rows.grad, rows.detach().sign() / 2)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_at_a_fixed_sum_even_use_costs_least(n: int, dim: int, seed: int) -> None:
    rows = torch.from_numpy(np.random.default_rng(seed).random((n, dim), dtype=np.float32) + 0.01)
    even = torch.full((n, dim), float(rows.sum()) / (n * dim))
    assert float(l1(even)) == pytest.approx(float(l1(rows)), rel=1e-4)
    assert float(flops(even)) <= float(flops(rows)) * (1 + 1e-5)
    assert float(flops(even)) == pytest.approx(float(l1(rows)) ** 2 / dim, rel=1e-4)


def test_the_ramp_is_quadratic() -> None:
    assert [ramp(t, 4) for t in range(6)] == [0, 1 / 16, 4 / 16, 9 / 16, 1, 1]
    assert ramp(0, 0) == ramp(9, 0) == 1


def test_the_term_has_a_mean_and_a_weight_for_either_side() -> None:
    rows = torch.rand(2 + 2 * 3, 5)
    term = Flops(0.5, 0.25)
    wanted = 0.5 * flops(rows[:2]) + 0.25 * flops(rows[2:])
    torch.testing.assert_close(term(pool(rows, 2, 3)), wanted)
    torch.testing.assert_close(
        Flops(0.5, 0.25, penalty="l1")(pool(rows, 2, 3)), 0.5 * l1(rows[:2]) + 0.25 * l1(rows[2:])
    )
    together = flops(rows)
    assert not torch.isclose(wanted, 0.75 * together), "one mean over both would be another penalty"
    torch.testing.assert_close(Flops(0.5, 0.25)(pool(rows[:2], 2, 0)), 0.5 * flops(rows[:2]))


def test_the_term_counts_its_calls_and_keeps_the_count() -> None:
    rows, term = torch.rand(4, 3), Flops(1.0, 0.0, steps=2)
    values = [float(term(pool(rows, 2, 1))) for _ in range(4)]
    full = float(flops(rows[:2]))
    np.testing.assert_allclose(values, [0, full / 4, full, full], rtol=1e-6)
    again = Flops(1.0, 0.0, steps=8)
    again.load_state_dict(term.state_dict())
    assert again.weights == (0.25, 0.0)
    term.eval()
    term(pool(rows, 2, 1))
    assert int(term.calls) == 4, "looking is not training"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lambda_q": -1}, "lambda_q"), ({"lambda_d": float("nan")}, "lambda_d"), ({"lambda_q": "big"}, "lambda_q"),
        ({"steps": -1}, "steps"), ({"steps": 2.5}, "steps"), ({"penalty": "l2"}, "penalty"),
    ],
)  # fmt: skip
def test_bad_penalties(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        Flops(**options)
    with pytest.raises(BadInput, match="rows must be"):
        flops(torch.rand(3))


# what rows cost


def test_cost_against_counting_pairs() -> None:
    rng = np.random.default_rng(3)
    documents = rng.random((17, 6)) * (rng.random((17, 6)) < [0.9, 0.5, 0.3, 0.2, 0.1, 0.0])
    queries = -rng.random((5, 6)) * (rng.random((5, 6)) < 0.4)
    d, q = documents != 0, queries != 0
    cost = sparse_cost(documents, queries)
    assert cost.flops == pytest.approx(np.mean([(a & b).sum() for a in q for b in d]))
    alone = sparse_cost(Sparse.from_dense(documents.astype(np.float32)))
    pairs = [(d[i] & d[j]).sum() for i in range(17) for j in range(17) if i != j]
    assert alone.flops == pytest.approx(np.mean(pairs)), "unbiased: no row is paired with itself"
    assert alone.non_zeros == alone.query_non_zeros == pytest.approx(d.sum(1).mean())
    assert cost.query_non_zeros == pytest.approx(q.sum(1).mean())
    assert (alone.dead, alone.busiest) == (int((~d.any(0)).sum()), pytest.approx(d.mean(0).max()))
    assert alone.effective == pytest.approx(6 / alone.sub_optimality)


def test_even_use_is_optimal_and_crowding_is_not() -> None:
    rng = np.random.default_rng(0)
    even = np.zeros((4000, 64), dtype=np.float32)
    for row in even:
        row[rng.choice(64, 8, replace=False)] = 1
    crowded = np.zeros_like(even)
    crowded[:, :8] = 1
    assert sparse_cost(even).sub_optimality == pytest.approx(1, abs=0.02)
    assert sparse_cost(crowded).sub_optimality == pytest.approx(8)
    assert sparse_cost(crowded).effective == pytest.approx(8)
    assert np.isnan(sparse_cost(np.zeros((3, 4))).sub_optimality)


def test_what_an_index_multiplies_is_the_cost() -> None:
    rng = np.random.default_rng(1)
    rows = (rng.random((40, 12)) * (rng.random((40, 12)) < 0.3)).astype(np.float32)
    index = Inverted()
    index.add(Sparse.from_dense(rows[:30]))
    lengths = {int(dim): len(index.postings.postings(i)[0]) for i, dim in enumerate(index.postings.dims)}
    touched = sum(lengths.get(j, 0) for query in rows[30:] for j in np.flatnonzero(query))
    assert touched / (30 * 10) == pytest.approx(sparse_cost(rows[:30], rows[30:]).flops)


def test_bad_rows_have_no_cost() -> None:
    for bad in (np.zeros(3), np.zeros((1, 3)), np.full((3, 3), np.nan), np.zeros((3, 0)), "rows"):
        with pytest.raises(BadInput):
            sparse_cost(bad)
    with pytest.raises(BadInput, match="3 dimensions, queries 4"):
        sparse_cost(np.ones((3, 3)), np.ones((3, 4)))
    with pytest.raises(BadInput, match="outside"):
        sparse_cost(Sparse(np.array([0, 1, 1]), np.array([7]), np.ones(1, np.float32), (2, 3)))


# heads


class Letters:
    """Counts of letters, as unit rows."""

    space = Space("dense", 26, "cosine", "letters")

    def __init__(self) -> None:
        self.asked = 0

    def encode_document(self, items: Any, **options: Any) -> np.ndarray:
        self.asked += len(items)
        rows = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in items], dtype=np.float32)
        rows = rows.reshape(len(items), 26)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    encode_query = encode_document


@pytest.mark.parametrize("activation", ["relu", "relu6", "soft_threshold", "log1p_relu"])
def test_a_head_is_a_map_and_an_activation(activation: str, tmp_path: Path) -> None:
    head = SparseHead(Letters(), 40, activation=activation)
    held = ["abc", "", "zebra crossing"]
    z = Letters().encode_document(held) @ head.map.weight.detach().numpy().T
    by_hand = {
        "relu": np.maximum(z, 0), "relu6": np.clip(z, 0, 6), "log1p_relu": np.log1p(np.maximum(z, 0)),
        "soft_threshold": np.sign(z) * np.maximum(np.abs(z) - 0.5, 0),
    }[activation]  # fmt: skip
    norms = np.linalg.norm(by_hand, axis=1, keepdims=True)
    by_hand = np.divide(by_hand, norms, out=np.zeros_like(by_hand), where=norms > 0)
    found = head.encode(held)
    np.testing.assert_allclose(found.toarray(), by_hand, atol=1e-5)
    assert isinstance(head, Encoder)
    assert (found.data < 0).any() == (activation == "soft_threshold")
    head.save(tmp_path)
    again = SparseHead.load(tmp_path, Letters())
    np.testing.assert_array_equal(again.encode(held).toarray(), found.toarray())
    assert again.space == head.space


def test_soft_threshold_keeps_signs() -> None:
    assert soft_threshold(torch.tensor([-2.0, -0.25, 0.25, 2.0])).tolist() == [-1.5, 0, 0, 1.5]


def test_a_head_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    for options in ({"dim": 0}, {"dim": True}, {"activation": "gelu"}):
        with pytest.raises(BadInput):
            SparseHead(Letters(), **options)
    with pytest.raises(BadInput, match="dense rows"):
        SparseHead("box")  # type: ignore[arg-type]
    head = SparseHead(Letters(), 8)
    with pytest.raises(BadInput, match="hide a prefix"):
        head.tokenize([Rendered("query: x", 7)])
    with pytest.raises(BadInput, match="no head"):
        head.encode(["x"], head="teacher")
    head.save(tmp_path)
    other = Letters()
    other.space = Space("dense", 26, "cosine", "others")
    with pytest.raises(SpaceMismatch, match="others"):
        SparseHead.load(tmp_path, other)


def test_training_makes_rows_sparse_and_flops_spreads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    examples = [
        Example(" ".join(rng.choice(WORDS, 4)) + f" q{i}", [" ".join(rng.choice(WORDS, 4)) + f" d{i}"])
        for i in range(64)
    ]
    costs, letters = {}, Letters()
    for kind, weight in (("flops", 0.0), ("flops", 60.0), ("l1", 0.9)):
        torch.manual_seed(0)
        head = SparseHead(letters, 128)
        loss = Sum(contrast=(1, InfoNCE()), sparse=(1, Flops(weight, weight, 30, penalty=kind)))
        stage = Stage([Source("s", examples)], loss, steps=100, batch_size=32, lr=2e-2, weight_decay=0.0)
        Trainer(head, [stage], tmp_path / f"{kind}{weight}").run()
        costs[kind, weight] = sparse_cost(head.encode([e.query for e in examples]))
        assert int(loss.terms["sparse"].calls) == 100
    assert letters.asked < 3 * (128 + 64) + 64, "rows of a text are made once a run, and again to encode"
    none, ours, theirs = costs["flops", 0.0], costs["flops", 60.0], costs["l1", 0.9]
    assert ours.non_zeros < none.non_zeros / 2
    assert theirs.non_zeros < none.non_zeros / 2
    assert ours.sub_optimality < theirs.sub_optimality


# SPLADE


def table(**options: Any) -> Splade:
    rows = np.random.default_rng(0).normal(size=(len(VOCABULARY), 24))
    return Splade.table(VOCABULARY, rows, **({"offset": -1.0} | options))


def by_hand(model: Splade, text: str) -> np.ndarray:
    """To the letter: every token's logits, log(1 + ReLU), then the maximum."""
    backbone: Any = model.backbone
    ids = [i for i in backbone.tokenizer(text) if VOCABULARY[i] != "[UNK]"]
    rows, projection, offset = (getattr(backbone, n).detach().numpy() for n in ("rows", "projection", "offset"))
    weights = [np.log1p(np.maximum(rows[i] @ projection.T + offset, 0)) for i in ids]
    return np.max(weights, axis=0) if weights else np.zeros(len(projection))


def test_pooling_is_the_definition_in_training_and_in_use(tmp_path: Path) -> None:
    model = table(prompts={"query": "red "})
    expected = np.stack([by_hand(model, text) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS).toarray(), expected, atol=1e-5)
    assert model.encode(TEXTS).indptr[3] == model.encode(TEXTS).indptr[2], "of an empty text, an empty row"
    model.save(tmp_path / "m")
    for encoder in (SpladeEncoder(tmp_path / "m"), SpladeEncoder(model.backbone.expansions(model.prompts))):
        found = encoder.encode_document(TEXTS, batch_size=2)
        assert isinstance(encoder, Encoder)
        np.testing.assert_allclose(found.toarray(), np.where(expected >= 1e-3, expected, 0), atol=1e-5)
        asked = np.stack([by_hand(model, "red " + text) if text else np.zeros(len(VOCABULARY)) for text in TEXTS])
        np.testing.assert_allclose(encoder.encode_query(TEXTS).toarray(), np.where(asked >= 1e-3, asked, 0), atol=1e-5)
    assert len(encoder.encode_document([])) == 0
    (token, weight), *_ = encoder.explain(found[[0]])
    assert weight == pytest.approx(found[[0]].data.max())
    assert token == VOCABULARY[found[[0]].indices[found[[0]].data.argmax()]]


def test_columns_may_be_chosen() -> None:
    columns = np.array([7, 5, 9])
    whole, part = table(), table(columns=columns)
    np.testing.assert_allclose(part.encode(TEXTS).toarray(), whole.encode(TEXTS).toarray()[:, columns], atol=1e-6)
    assert SpladeEncoder(part.backbone.expansions(part.prompts)).tokens == [VOCABULARY[c] for c in columns]


def test_the_maximum_and_its_way_back() -> None:
    states = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    projection = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]).bool()
    logits = (states @ projection.T).masked_fill(~keep[..., None], float("-inf"))
    torch.testing.assert_close(highest(states, keep, projection), logits.max(1).values)
    weight = torch.randn(5, 7, dtype=torch.float64)

    def loss(found: Any) -> Any:
        return (torch.log1p(torch.relu(found + 0.3)) * weight).sum()

    wanted = torch.autograd.grad(loss(logits.max(1).values), (states, projection))
    with pytest.MonkeyPatch.context() as patch:
        for at_once in (1, 40, 1 << 24):
            patch.setattr("inlay.encoders.masked_lm.AT_ONCE", at_once)
            found = torch.autograd.grad(loss(highest(states, keep, projection)), (states, projection))
            for mine, theirs in zip(found, wanted):
                torch.testing.assert_close(mine, theirs)
    empty = torch.zeros(2, 0, 3, requires_grad=True)
    assert (highest(empty, torch.zeros(2, 0).bool(), torch.ones(4, 3)) == -torch.inf).all()


def test_padding_and_company_change_nothing() -> None:
    model = table()
    together = model.encode(TEXTS).toarray()
    alone = np.concatenate([model.encode([text]).toarray() for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    hidden = model.tokenize([Rendered("red cat", 4), Rendered("cat")])
    rows = model(hidden)[MAIN]
    torch.testing.assert_close(rows[0], rows[1])


def test_training_learns_what_goes_together_and_resumes(tmp_path: Path) -> None:
    # Queries in one half of the words, answers in the other: nothing but learnt expansion connects them.
    pairs = [Example(f"{a} {b}", [f"{c} {d}"]) for a, b, c, d in (
        (WORDS[i], WORDS[j], WORDS[8 + i], WORDS[8 + j]) for i in range(8) for j in range(i)
    )]  # fmt: skip

    def run(folder: Path, stop: int | None = None) -> tuple[Splade, Sum]:
        torch.manual_seed(0)
        model = table(offset=0.0)  # a term that is never active has no gradient, and cannot be learnt
        loss = Sum(contrast=(1, InfoNCE(tau=1)), sparse=(1, Flops(3e-3, 3e-3, 20)))
        stage = Stage([Source("s", pairs)], loss, steps=60, batch_size=14, lr=5e-2, micro=8)
        trainer = Trainer(model, [stage], folder, checkpoint_every=25)
        if stop is not None:
            calls = 0

            def counted(self: Any, *given: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > stop:
                    raise KeyboardInterrupt
                return Trainer._backward(self, *given)

            trainer._backward = counted.__get__(trainer)  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
        else:
            trainer.run()
        return model, loss

    def right(model: Splade) -> float:
        q, d = (model.encode([text for e in pairs for text in side(e)]).toarray() for side in (
            lambda e: [e.query], lambda e: e.pos
        ))  # fmt: skip
        return float(((q @ d.T).argmax(1) == np.arange(len(pairs))).mean())

    model, loss = run(tmp_path / "a")
    assert right(table()) < 0.4
    assert right(model) > 0.8
    run(tmp_path / "b", stop=40)
    again, counted = run(tmp_path / "b")
    assert int(counted.terms["sparse"].calls) == int(loss.terms["sparse"].calls) == 60
    for mine, theirs in zip(again.state_dict().values(), model.state_dict().values()):
        torch.testing.assert_close(mine, theirs)


def test_it_goes_into_a_collection(tmp_path: Path) -> None:
    import inlay

    model = table()
    model.save(tmp_path / "m")
    encoder = SpladeEncoder(tmp_path / "m")
    with inlay.open(tmp_path / "c.inlay", encoder=encoder) as collection:
        collection.add([{"id": "a", "text": "old stone house"}, {"id": "b", "text": "red cat runs"}])
        (first, *_) = collection.search("old house", mode="dense")
    assert first.id == "a"
    expected = float(by_hand(model, "old house") @ by_hand(model, "old stone house"))
    assert first.score == pytest.approx(expected, rel=1e-3)


def test_bad_tables_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="together"):
        Splade.table(VOCABULARY)
    with pytest.raises(BadInput, match="finite rows"):
        Splade.table(VOCABULARY, np.zeros((3, 4)))
    for options in ({"columns": np.array([0, 0])}, {"columns": np.array([99])}, {"scale": 0}, {"max_length": 0}):
        with pytest.raises(BadInput):
            table(**options)
    with pytest.raises(BadInput, match="TokenTable"):
        Splade(torch.nn.Identity())  # type: ignore[arg-type]
    model = table()
    with pytest.raises(BadInput, match="list of texts"):
        model.encode("one text")
    model.save(tmp_path)
    encoder = SpladeEncoder(tmp_path)
    with pytest.raises(BadInput, match="max_length"):
        SpladeEncoder(tmp_path, max_length=0)
    with pytest.raises(BadInput, match="prompts are for"):
        SpladeEncoder(tmp_path, prompts={"passage": ""})
    with pytest.raises(BadInput, match="one row"):
        encoder.explain(encoder.encode_query(["red", "blue"]))
    with pytest.raises(BadInput, match=r"config\.json"):
        SpladeEncoder(tmp_path / "nowhere")
    assert SpladeEncoder(tmp_path, max_length=1).space != encoder.space
    assert SpladeEncoder(tmp_path).space == encoder.space
    held = Expansions.load(tmp_path)
    with pytest.raises(BadInput, match="above 0"):
        Expansions(
            Sparse(held.rows.indptr, held.rows.indices, -held.rows.data, held.rows.shape), VOCABULARY, held.columns
        )
    data = bytearray((tmp_path / FILE).read_bytes())
    data[-70] ^= 1
    (tmp_path / FILE).write_bytes(bytes(data))
    with pytest.raises(Corrupt, match="save it again"):
        SpladeEncoder(tmp_path)


# masked language models


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=24, initializer_range=0.5,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).eval().save_pretrained(folder)
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({t: i for i, t in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))
    return folder


def reference(folder: Path, text: str) -> np.ndarray:
    """SPLADE to the letter, from the library's own logits of one text."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    lm = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    with torch.no_grad():
        logits = lm(input_ids=torch.tensor([ids])).logits[0]
    return torch.log1p(torch.relu(logits)).max(0).values.numpy()


def test_a_masked_language_model_is_splade_as_it_stands(bert: Path, tmp_path: Path) -> None:
    expected = np.stack([reference(bert, text) for text in TEXTS])
    model = Splade.masked_lm(bert)
    np.testing.assert_allclose(model.encode(TEXTS).toarray(), expected, atol=1e-4)
    encoder = SpladeEncoder(bert)
    np.testing.assert_allclose(encoder.encode_document(TEXTS, batch_size=2).toarray(), expected, atol=1e-4)
    assert encoder.expensive
    assert encoder.tokens == VOCABULARY
    assert [len(block.attention.self.query.weight) for block in model.blocks()] == [32, 32]
    term = Sum(contrast=(1, InfoNCE(tau=1)), sparse=(1, Flops(1e-2, 1e-2)))
    pairs = [Example(f"{a} red", [f"{a} blue"]) for a in WORDS]
    before = model.space
    Trainer(model, [Stage([Source("s", pairs)], term, steps=3, batch_size=8)], tmp_path / "t").run()
    assert model.space != before
    model.prompts["query"] = "cold "
    model.save(tmp_path / "m")
    trained = SpladeEncoder(tmp_path / "m")
    np.testing.assert_allclose(
        trained.encode_query(TEXTS[:2]).toarray(), model.encode_query(TEXTS[:2]).toarray(), atol=1e-4
    )
    np.testing.assert_allclose(
        trained.encode_document(["cold cat"]).toarray()[0], reference(tmp_path / "m", "cold cat"), atol=1e-4
    )
    trained.save(tmp_path / "again")
    assert SpladeEncoder(tmp_path / "again").space == trained.space


def test_a_sentence_encoder_starts_as_its_own_table(bert: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "encoder"
    transformers.AutoModel.from_pretrained(bert).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    assert (Splade.masked_lm(folder).backbone.offset == -3).all()
    model = Splade.masked_lm(folder, offset=-1.0)
    backbone: Any = model.backbone
    assert (backbone.offset == -1).all()
    model.save(tmp_path / "m")
    kept = SpladeEncoder(tmp_path / "m").encode_document(TEXTS).toarray()
    np.testing.assert_allclose(kept, model.encode(TEXTS).toarray(), atol=1e-4)
    model.eval()
    with torch.no_grad():
        tokens = model.tokenize(["red cat runs"])
        states = backbone.states(tokens.ids, tokens.mask)
        plain = transformers.AutoModel.from_pretrained(folder).eval()(input_ids=tokens.ids).last_hidden_state
    cosine = torch.nn.functional.cosine_similarity(states, plain - plain.mean(-1, keepdim=True), dim=-1)
    assert (cosine > 0.99).all(), "the map before the output layer is the identity"
    torch.testing.assert_close(backbone.decoder.weight, backbone.lm.get_input_embeddings().weight)
    with pytest.raises(BadInput, match="config"):
        Splade.masked_lm(tmp_path)


def test_the_start_from_the_box_has_its_vocabulary() -> None:
    model = Splade.table(columns=np.arange(1996, 2100), max_length=8)
    assert model.dim == 104
    assert len(model.backbone.rows) == 30_522
    assert json.dumps(model.backbone.tokenizer.number["the"]) == "1996"


def test_modules_load_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = None; import inlay.encoders.splade, inlay.training.posting_cost"
    subprocess.run([sys.executable, "-c", code], check=True)
