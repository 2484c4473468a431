"""Edits: the rows they say and no others, taken back to the bit, at once or token by token."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from inlay.errors import BadInput, Corrupt

torch = pytest.importorskip("torch")

from inlay.lm import Decoder, KeyValueCache, stem_decoder  # noqa: E402
from inlay.lm.edit_figures import answer_log_probability, divergence, edit_figures, edit_success  # noqa: E402
from inlay.lm.editing import edit, edit_text, edited_ids  # noqa: E402
from inlay.lm.injecting import inject, injected, injection  # noqa: E402
from inlay.lm.offloading import offload  # noqa: E402
from inlay.tables import Hashed, Overlay, RowStore  # noqa: E402

V, D, H = 60, 32, 48


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def small(**options):
    torch.manual_seed(0)
    given = {"start": "scaled_normal", "where": "full", "context": 64}
    return stem_decoder(V, D, 3, 4, hidden=H, **given | options).eval()


def ids(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def rows_read(model, text):
    """Rows that each STEM layer reads, numpy [layers, batch, length, hidden]."""
    parts = [block.feed_forward for block in model.blocks[1:]]
    found = []
    for part in parts:
        row = part.table(text)
        for change in part.edits:
            row = change(row, text, None)
        found.append(row.detach().numpy())
    return np.stack(found)


@pytest.mark.parametrize(
    ("positions", "targets", "how", "options", "expected"),
    [  # what is read at each of the positions: groups of target tokens, None where the source keeps its row
        ([2, 3, 4], [7, 8], "average", {}, [[7, 8]] * 3),
        ([2], [7, 8, 9], "average", {}, [[7, 8, 9]]),
        ([5, 6], [7, 8], "average", {}, [[7, 8]] * 2),
        ([2, 3, 4], [7, 8], "pad", {}, [None, [7], [8]]),
        ([2, 3], [7, 8], "pad", {}, [[7], [8]]),
        ([1, 2, 3, 4, 5], [7, 8], "copy", {}, [None, [7], [8], [7], [8]]),
        ([2, 3], [7], "copy", {}, [[7], [7]]),
        ([2, 6], [7, 8, 9], "subset", {"keep": [0, 2]}, [[7], [9]]),
        ([2, 6], [7, 8, 9], "subset", {"keep": [2, 0]}, [[7], [9]]),
        ([2, 6], [7, 8, 9], "subset", {"counts": [9] * 7 + [5, 9, 1] + [9] * 50}, [[7], [9]]),
        ([2, 6], [7, 8], "subset", {}, [[7], [8]]),
    ],
)
@pytest.mark.parametrize("where", ["memory", "store"])
def test_rows_are_those_that_the_rule_says(positions, targets, how, options, expected, where):
    model, text = small(), ids(2, 9)
    tables = [block.feed_forward.table.weight.detach().numpy().copy() for block in model.blocks[1:]]
    wanted = np.stack([table[text.numpy()] for table in tables])
    for position, group in zip(positions, expected):
        if group is not None:
            for layer, table in enumerate(tables):
                wanted[layer, :, position] = table[group].mean(0)
    memory = text.clone()
    plain = model(text).logits
    if where == "store":
        model = offload(model)
    with edit(model, positions, targets, how, **options):
        np.testing.assert_allclose(rows_read(model, text), wanted, atol=1e-7)
        logits = model(text).logits
    assert torch.equal(logits[:, : positions[0]], plain[:, : positions[0]])
    assert not torch.equal(logits[:, positions[0] :], plain[:, positions[0] :])
    if all(group is None or len(group) == 1 for group in expected) and "counts" not in options:
        memory = edited_ids(text, positions, targets, how, **options)
        assert torch.equal(model(text, memory_ids=memory).logits, logits)
    assert torch.equal(model(text).logits, plain)
    if where == "store":
        model.close()


def test_the_largest_rows_are_the_subset():
    model = small()
    for block in model.blocks[1:]:
        block.feed_forward.table.weight.data[[7, 9]] *= 3
    text = ids(1, 8)
    with edit(model, [1, 2], [7, 8, 9], "subset"):
        found = model(text).logits
    assert torch.equal(found, model(text, memory_ids=edited_ids(text, [1, 2], [7, 9])).logits)


@pytest.mark.parametrize("mode", ["up", "gate", "additive"])
@pytest.mark.parametrize("table", [None, lambda rows, dim: Hashed(rows, dim, buckets=23)])
@pytest.mark.parametrize("where", ["memory", "store"])
@pytest.mark.parametrize("bound", [False, True])
def test_token_by_token_is_all_at_once(mode, table, where, bound):
    model, text = small(mode=mode, table=table), ids(2, 14)
    model = offload(model, capacity=5, chunk=4) if where == "store" else model
    prompt = text[0] if bound else None
    with edit(model, [3, 4, 9], [7, 8], prompt=prompt):
        whole = model(text).logits
        for sizes in ([1] * 14, [3, 1, 1, 6, 3], [9, 5]):
            cache = KeyValueCache()
            steps = [model(part, cache=cache).logits for part in text.split(sizes, 1)]
            torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=0)
        greedy = model.generate(text[0], 8, temperature=0)
        logits = model(torch.cat([text[0], greedy])[None]).logits[0, 13:-1]
        assert torch.equal(logits.argmax(-1), greedy)
    plain = model(text).logits
    assert (whole[0, 3:] - plain[0, 3:]).abs().max() > 1e-3
    assert torch.equal(whole[1], plain[1]) is bound  # the other text begins otherwise
    if where == "store":
        model.close()


def test_a_bound_edit_leaves_other_texts_alone():
    model, prompt = small(), ids(10)
    texts = prompt.repeat(4, 1)
    texts[1, 0] = (texts[1, 0] + 1) % V  # differs before
    texts[2, 5] = (texts[2, 5] + 1) % V  # between the two positions
    texts[3, 9] = (texts[3, 9] + 1) % V  # after both
    plain = model(texts).logits
    with edit(model, [3, 7], [8], prompt=prompt):
        bound = rows_read(model, texts)
        assert torch.equal(model(texts[1:2]).logits, model(texts).logits[1:2])
        edited = model(texts).logits
    with edit(model, [3, 7], [8]):
        free = rows_read(model, texts)
    table = model.blocks[1].feed_forward.table.weight.detach().numpy()
    changed = (bound != rows_read(model, texts)).any(axis=(0, 3))
    assert changed.tolist() == [[place in places for place in range(10)] for places in ([3, 7], [], [3], [3, 7])]
    assert (free[0][:, [3, 7]] == table[8]).all()
    assert torch.equal(edited[1], plain[1])


def test_edits_nest_and_unwind_to_the_bit():
    model, text = small(), ids(2, 12)
    plain = model(text).logits
    with edit(model, [2, 3], [7]):
        one = model(text).logits
        with edit(model, [3, 5, 6], [8, 9], "pad"):
            two = model(text).logits
            memory = edited_ids(edited_ids(text, [2, 3], [7], "copy"), [5, 6], [8, 9])
            assert torch.equal(model(text, memory_ids=memory).logits, two)  # position 3, padded, keeps the outer edit
            with injected(model, injection(model, [int(text[0, 8])], [9])):
                assert not torch.equal(model(text).logits, two)
            assert torch.equal(model(text).logits, two)
        assert torch.equal(model(text).logits, one)
        with pytest.raises(ZeroDivisionError), edit(model, [4], [7]):
            model(text[:, : 1 // len([])])
        assert torch.equal(model(text).logits, one)
    assert torch.equal(model(text).logits, plain)
    assert not any(block.feed_forward.edits for block in model.blocks[1:])
    outer, inner = edit(model, [1], [2]), edit(model, [1], [3])
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(BadInput, match="reverse order"):
        outer.__exit__(None, None, None)


def test_gradients_pass_an_edit():
    model, text = small(sparse=False), ids(1, 6)
    with edit(model, [2], [7]):
        model.loss(text, text).backward()
    grad = model.blocks[1].feed_forward.table.weight.grad
    others = text[0][[0, 1, 3, 4, 5]].tolist()
    touched = grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(touched) == set(others)  # the edited position reads rows that are not learnt


@pytest.mark.parametrize("where", ["memory", "store", "file"])
def test_an_injection_lasts_and_survives_a_file(where, tmp_path: Path):
    model, text = small(), ids(3, 12)
    source, target = text[0, 4:6].tolist(), [7, 8]
    assert len({*source, *target}) == 4
    swapped = text.clone()
    swapped[text == source[0]], swapped[text == source[1]] = 7, 8
    plain, expected = model(text).logits, model(text, memory_ids=swapped).logits
    if where != "memory":
        model = offload(model, None if where == "store" else f"mmap:{tmp_path}", capacity=20)
    change = injection(model, source, target, "pad")
    assert change.rows.shape == (2, 2, H)
    change.save(tmp_path / "spain.edit")
    change = Overlay.load(tmp_path / "spain.edit")
    with injected(model, change):
        assert torch.equal(model(text).logits, expected)
        cache = KeyValueCache()
        steps = [model(text[:, i : i + 1], cache=cache).logits for i in range(12)]
        torch.testing.assert_close(torch.cat(steps, 1), expected, atol=1e-5, rtol=0)
    assert torch.equal(model(text).logits, plain)
    if where != "memory":
        with model.store.overlay(change):  # the store's own way comes to the same
            assert torch.equal(model(text).logits, expected)
    inject(model, change)
    assert torch.equal(model(text).logits, expected)
    if where != "memory":
        model.close()
    if where == "file":
        rows = RowStore.open(tmp_path / "stem.rows").rows([*source, *target])
        assert np.array_equal(rows[:2], rows[2:])


def test_averages_and_padding_of_injections():
    model = small()
    tables = np.stack([block.feed_forward.table.weight.detach().numpy() for block in model.blocks[1:]], 1)
    change = injection(model, [3, 1], [7, 8, 9])
    assert change.keys.tolist() == [1, 3]
    np.testing.assert_allclose(change.rows, np.stack([tables[[7, 8, 9]].mean(0)] * 2), atol=1e-7)
    padded = injection(model, [3, 1], [7], "pad")
    assert padded.keys.tolist() == [1]
    assert np.array_equal(padded.rows[0], tables[7])
    with injected(model, Overlay()):
        pass
    model = small(table=lambda rows, dim: Hashed(rows, dim, buckets=23))
    with pytest.raises(BadInput, match="Hashed of layer 1"):
        inject(model, change)


tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "The capital of Spain is Madrid.",
    "The capital of Germany is Berlin.",
    "Spain and the United States of America.",
]


def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def test_a_text_is_edited_where_it_names_the_source():
    made, prompt = tokenizer(), "Spain: the capital of Spain is"
    torch.manual_seed(0)
    model = stem_decoder(made.get_vocab_size(), D, 3, 4, hidden=H, where="full", start="scaled_normal").eval()
    text = made.encode(prompt).ids
    plain = model(torch.tensor([[0, *text]])).logits
    with edit_text(model, made, prompt, "Spain", "Germany", before=[0]) as found:
        assert found.ids.tolist() == [0, *text]
        assert found.target_ids.tolist() == [0, *made.encode(prompt.replace("Spain", "Germany")).ids]
        said = [made.decode([found.ids[place] for place in places]) for places in found.positions]
        assert said == ["Spain", " Spain"]
        assert [made.decode(tokens) for tokens in found.targets] == ["Germany", " Germany"]
        logits = model(found.ids[None]).logits
        other = torch.tensor([[*text, 0]])
        unbound = model(other).logits
    assert torch.equal(model(other).logits, unbound)
    with edit(model, found.positions[0], found.targets[0]), edit(model, found.positions[1], found.targets[1]):
        assert torch.equal(model(found.ids[None]).logits, logits)
    with edit_text(model, made, prompt, "Spain", "Germany", before=[0], everywhere=True):
        assert not torch.equal(model(other).logits, unbound)
    assert torch.equal(model(torch.tensor([[0, *text]])).logits, plain)
    for source, target, match in (("France", "Spain", "does not name"), ("", "Spain", "must be text")):
        with pytest.raises(BadInput, match=match), edit_text(model, made, prompt, source, target):
            pass
    with pytest.raises(BadInput, match="cannot encode"), edit_text(model, object(), prompt, "Spain", "Germany"):
        pass


def test_trained_facts_follow_the_rows():
    """Where names differ in their rows alone, a model that has learnt facts answers as the rows say, and only there."""
    torch.manual_seed(0)
    names, answers = torch.arange(10, 22), torch.arange(30, 42)
    model = stem_decoder(V, D, 3, 4, hidden=H, where="full", start="scaled_normal", sparse=False)
    model.input.weight.data[names] = model.input.weight.data[names[0]].clone()
    model.input.requires_grad_(False)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    noise = torch.Generator().manual_seed(1)
    for _ in range(60):
        filler = torch.randint(50, 60, (12, 2), generator=noise)
        text = torch.cat([torch.full((12, 1), 1), filler, names[:, None], torch.full((12, 1), 2), answers[:, None]], 1)
        optimiser.zero_grad()
        targets = text[:, 1:].clone()
        targets[:, :-1] = -100
        model.loss(text[:, :-1], targets).backward()
        optimiser.step()
    model.eval()
    prompts = [[1, 50, 51, int(name), 2] for name in names]
    assert all(edit_success(model, prompts[n], [30 + n], [30 + (n + 1) % 12]) for n in range(12))
    figures = []
    for n in range(12):
        other = (n + 5) % 12
        change = edit(model, [3], [int(names[other])], prompt=prompts[n])
        figures.append(
            edit_figures(
                model, change, prompts[n], prompts[other], answers=([30 + other], [30 + n]),
                unrelated=[prompts[(n + 1) % 12], [3, 4, 5, int(names[n]), 2]],
            )
        )  # fmt: skip
    assert all(figure.locality == 0 for figure in figures)
    assert all(figure.success for figure in figures)
    assert all(figure.edited == 0 and figure.unedited > 0.5 for figure in figures)  # it reads the target's prompt
    change = injection(model, [int(names[0])], [int(names[1])])
    after = edit_figures(model, injected(model, change), prompts[0], prompts[1], unrelated=[prompts[2]])
    assert (after.success, after.locality) == (None, 0.0)
    assert edit_figures(model, injected(model, change), prompts[0], prompts[1]).locality is None
    moved = edit_figures(model, injected(model, change), prompts[0], prompts[1], unrelated=[prompts[0]])
    assert moved.locality > 0


def test_measures_are_their_definitions():
    model, text = small(), ids(9).tolist()
    logs = model(torch.tensor([text])).logits[0].double().log_softmax(-1).detach()
    expected = float(logs[4, text[5]] + logs[5, text[6]])
    assert answer_log_probability(model, text[:5], text[5:7]) == pytest.approx(expected, abs=1e-6)
    p, q = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    wanted = 0.5 * np.log(2) - 0.25 * np.log(2)
    assert float(divergence(p.log(), q.log())) == pytest.approx(wanted)
    with pytest.raises(BadInput, match="cannot be compared"):
        divergence(p, q[:2])


def test_bad_input_is_named(tmp_path: Path):
    model = small()
    for positions, targets, options, match in (
        ([], [7], {}, "at least one"),
        ([1.5], [7], {}, "integers"),
        ([3, 2], [7], {}, "ascend"),
        ([2, 2], [7], {}, "ascend"),
        ([-1], [7], {}, "ascend"),
        ([64], [7], {}, "ascend within"),
        ([1], [], {}, "at least one"),
        ([1], [V], {}, f"id {V} of target_ids"),
        ([1], [-2], {}, "id -2"),
        ([1], ["x"], {}, "target_ids must be integers"),
        ([1], [7], {"how": "mean"}, "how must be"),
        ([1], [7, 8], {"how": "pad"}, "do not fit"),
        ([1], [7, 8], {"how": "copy"}, "do not fit"),
        ([1, 2], [7], {"how": "subset"}, "no subset"),
        ([1], [7, 8], {"how": "subset", "keep": [2]}, "keep must be"),
        ([1], [7, 8], {"how": "subset", "keep": [0, 1]}, "keep must be"),
        ([1], [7, 8], {"how": "subset", "counts": [1, 2]}, "counts must be"),
        ([1], [7, 8], {"keep": [0]}, "nothing to choose"),
        ([5], [7], {"prompt": [1, 2, 3]}, "outside the prompt"),
        ([1], [7], {"prompt": [1, V]}, f"id {V} of prompt"),
    ):
        with pytest.raises(BadInput, match=match), edit(model, positions, targets, **options):
            pass
    for wrong, match in ((Decoder(V, D, 2, 4, hidden=H), "no STEM part"), (copy, "expected a Decoder")):
        with pytest.raises(BadInput, match=match), edit(wrong, [1], [2]):
            pass
    with pytest.raises(BadInput, match="is no token's row"):
        edited_ids(ids(1, 5), [1], [2, 3], "average")
    with pytest.raises(BadInput, match="pass keep="):
        edited_ids(ids(1, 5), [1], [2, 3], "subset")
    for rows, match in ((np.zeros((1, 2, H + 1)), "width"), (np.zeros((1, 3, H)), "3 layers")):
        with pytest.raises(BadInput, match=match), injected(model, Overlay([1], rows)):
            pass
        with pytest.raises(BadInput, match=match):
            inject(model, Overlay([1], rows))
    with pytest.raises(BadInput, match=f"id {V}"):
        inject(model, Overlay([V], np.zeros((1, 2, H))))
    with pytest.raises(BadInput, match="name one twice"):
        injection(model, [3, 3], [7])
    path = injection(model, [3], [7]).save(tmp_path / "an.edit")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Corrupt, match="edit"):
        Overlay.load(path)
