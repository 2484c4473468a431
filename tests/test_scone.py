"""SCONE: which n-grams are frequent, which row each place gets, and that the table is what was trained."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from inlay.errors import BadInput, Corrupt, MissingExtra, SpaceMismatch

torch = pytest.importorskip("torch")

from inlay.lm import Decoder, KeyValueCache, frequent_ngrams, lmdb_rows  # noqa: E402
from inlay.lm.compiled_inputs import CompiledInputs, compile_inputs  # noqa: E402
from inlay.lm.direct_ngrams import DirectNGrams  # noqa: E402
from inlay.lm.flops import flops_per_token  # noqa: E402
from inlay.lm.frequent_ngrams import FGrams, mine_fgrams  # noqa: E402
from inlay.lm.scone import Scone  # noqa: E402
from inlay.tables import Full  # noqa: E402

V, D, SEP = 40, 32, 0


def text(length=6000, seed=0):
    random = np.random.default_rng(seed)
    return np.where(random.random(length) < 0.04, SEP, random.zipf(1.5, length) % V)


def oracle(ids, max_n, min_count, separator=None, top=None):
    """The sheet's scans, one dictionary a scan; and how many different candidates each counted."""
    documents, kept, frequent, candidates = [[]], [], None, []
    for token in (int(token) for token in ids):
        if token == separator:
            documents.append([])
        documents[-1].append(token)
    for n in range(2, max_n + 1):
        counts = Counter()
        for document in documents:
            for i in range(len(document) - n + 1):
                gram = tuple(document[i : i + n])
                if n == 2 or (gram[:-1] in frequent and gram[1:] in frequent):
                    counts[gram] += 1
        candidates.append(len(counts))
        frequent = {gram for gram, count in counts.items() if count >= min_count}
        kept += [(gram, counts[gram]) for gram in frequent]
    kept.sort(key=lambda one: (-one[1], len(one[0]), one[0]))
    return kept[:top], candidates


def listed(found):
    return [(tuple(gram), int(count)) for gram, count in zip(found, found.counts)]


def plain_longest(ids, grams, max_n, separator=None):
    """Of each row of ids: the longest of the n-grams that ends at each place, or ()."""
    rows = []
    for row in ids.tolist():
        found = []
        for i in range(len(row)):
            best = ()
            for j in range(i - 1, max(-1, i - max_n), -1):
                if separator is not None and separator in row[j + 1 : i + 1]:
                    break
                if tuple(row[j : i + 1]) in grams:
                    best = tuple(row[j : i + 1])
            found.append(best)
        rows.append(found)
    return rows


def english(words):
    folder = Path(os.environ.get("INLAY_DATA", "")) / "text" / "english_text.jsonl.gz"
    if not os.environ.get("INLAY_DATA") or not folder.exists():
        pytest.skip("INLAY_DATA is not set: no English text")
    tokens = []
    with gzip.open(folder, "rt", encoding="utf-8") as lines:
        for line in lines:
            tokens.append("\0")
            tokens += re.findall(r"\w+|[^\w\s]", json.loads(line)["text"].lower())
            if len(tokens) >= words:
                break
    number = {word: i for i, word in enumerate(dict.fromkeys(tokens))}
    return np.array([number[word] for word in tokens[:words]])


# mining


@pytest.mark.parametrize("separator", [None, SEP])
@pytest.mark.parametrize(
    ("max_n", "min_count", "top"), [(4, 5, None), (2, 1, None), (5, 3, 70), (4, 2, 1), (3, 9999, 5)]
)
def test_mining_is_counting(separator, max_n, min_count, top):
    ids = text()
    found = mine_fgrams(ids, separator=separator, max_n=max_n, min_count=min_count, top=top)
    assert listed(found) == oracle(ids, max_n, min_count, separator, top)[0]
    assert found.max_n == max_n
    assert len(found) <= (top or len(found))


def test_mining_english_is_counting():
    ids = english(60_000)
    found = mine_fgrams(ids, separator=0, max_n=4, min_count=5, top=2000)
    assert listed(found) == oracle(ids, 4, 5, 0, 2000)[0]
    assert set(found.lengths.tolist()) == {2, 3, 4}


def test_blocks_change_nothing(monkeypatch):
    ids = text(1000)
    whole = mine_fgrams(ids, separator=SEP, min_count=3, top=None)
    for block in (1, 7, 999):
        monkeypatch.setattr(frequent_ngrams, "_BLOCK", block)
        assert listed(mine_fgrams(ids, separator=SEP, min_count=3, top=None)) == listed(whole)


def test_only_what_has_frequent_parts_is_counted(monkeypatch):
    counted = []
    count = frequent_ngrams._Scan.count

    def counting(self):
        keys, counts = count(self)
        counted.append(len(keys))
        return keys, counts

    monkeypatch.setattr(frequent_ngrams._Scan, "count", counting)
    ids = text()
    mine_fgrams(ids, separator=SEP, max_n=4, min_count=5)
    wanted = oracle(ids, 4, 5, SEP)[1]
    assert counted == wanted
    every = {tuple(ids[i : i + 4]) for i in range(len(ids) - 3)}
    assert wanted[2] < len(every) / 3


def test_ties_are_broken_by_length_then_ids():
    ids = np.array([7, 1, 2, 3, 7, 1, 2, 3, 7, 9, 4, 7, 9, 4, 7])
    found = listed(mine_fgrams(ids, max_n=3, min_count=2, top=None))
    assert found == sorted(found, key=lambda one: (-one[1], len(one[0]), one[0]))
    assert found[:2] == [((1, 2), 2), ((2, 3), 2)]
    assert listed(mine_fgrams(ids, max_n=3, min_count=2, top=3)) == found[:3]


def test_starts_are_separators_and_texts_may_be_short():
    ids = text(800)
    by_token = mine_fgrams(ids, separator=SEP, min_count=2)
    assert listed(mine_fgrams(ids, starts=ids == SEP, min_count=2)) == listed(by_token)
    assert any(SEP in gram for gram in by_token)  # begins documents …
    assert all(SEP not in gram[1:] for gram in by_token)  # … and is never crossed
    for short in ([], [3], [3, 3]):
        assert len(mine_fgrams(np.array(short, dtype=np.int64))) == 0
    assert listed(mine_fgrams(ids.astype(np.uint16), separator=SEP, min_count=2)) == listed(by_token)
    assert len(mine_fgrams(np.full(9, 2**31 - 1), max_n=2)) == 1


@pytest.mark.parametrize("separator", [None, SEP])
def test_the_longest_that_ends_here(separator):
    found = mine_fgrams(text(), separator=SEP, top=300)
    ids = text(400, seed=5).reshape(4, 100)
    numbers, lengths = found.longest(ids, separator=separator)
    grams = list(map(tuple, found))
    got = [[grams[n] if n >= 0 else () for n in row] for row in numbers.tolist()]
    assert got == plain_longest(ids, set(grams), 4, separator)
    assert lengths.tolist() == [[len(gram) for gram in row] for row in got]
    unique, place = found.distinct(ids, separator=separator, last=30)
    assert (np.diff(unique) > 0).all()
    np.testing.assert_array_equal(np.where(place < 0, -1, unique[place]), numbers[:, -30:])


def test_not_those_that_start_here():
    found = FGrams.of([(1, 2), (2, 3, 4), (3, 4)])
    numbers, lengths = found.longest(np.array([1, 2, 3, 4, 9]))
    assert numbers.tolist() == [-1, 0, -1, 1, -1]
    assert lengths.tolist() == [0, 2, 0, 3, 0]


def test_fgrams_are_kept_in_a_file(tmp_path):
    found = mine_fgrams(text(), separator=SEP, top=100, trained_on="zipf")
    again = FGrams.load(found.save(tmp_path / "fgrams"))
    assert listed(again) == listed(found)
    assert (again.trained_on, again.max_n, again.fingerprint) == ("zipf", 4, found.fingerprint)
    assert found.fingerprint != FGrams(found.tokens[::-1], found.counts).fingerprint
    data = bytearray((tmp_path / "fgrams").read_bytes())
    data[-100] ^= 1
    (tmp_path / "fgrams").write_bytes(data)
    with pytest.raises(Corrupt, match="fgrams"):
        FGrams.load(tmp_path / "fgrams")


# rows

FOUND = mine_fgrams(text(), separator=SEP, max_n=4, top=300)


def scone(layers=2, found=FOUND, seed=0, separator=SEP, **options):
    torch.manual_seed(seed)
    return Scone(found, Full(V, D, scale=0.3, **options), layers, hidden=48, separator=separator)


def direct(seed=0, **options):
    torch.manual_seed(seed)
    return DirectNGrams(FOUND, Full(V, D, scale=0.3), separator=SEP, **options)


def model(inputs, seed=0):
    torch.manual_seed(seed)
    return Decoder(V, D, 2, 4, hidden=48, context=64, input=inputs)


def batch(rows=3, length=40, seed=7):
    return torch.from_numpy(text(rows * length, seed=seed).reshape(rows, length))


def by_hand(inputs, gram):
    """A_f in numpy, for one f-gram."""
    weight = {name: p.detach().double().numpy() for name, p in inputs.named_parameters()}

    def norm(x, gain):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain

    n, heads, width = len(gram), 4, D // 4
    h = weight["tokens.weight"][list(gram)] + weight["places"][:n]
    for layer in range(len(inputs.blocks)):
        own = {name.split(".", 2)[2]: w for name, w in weight.items() if name.startswith(f"blocks.{layer}.")}
        x = norm(h, own["attention_norm.weight"])
        q, k, v = (
            (x @ own[f"attention.{m}.weight"].T).reshape(n, heads, width).transpose(1, 0, 2)
            for m in ("query", "key", "value")
        )
        score = q @ k.transpose(0, 2, 1) / width**0.5 + np.triu(np.full((n, n), -np.inf), 1)
        share = np.exp(score - score.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True)) @ v
        h = h + mixed.transpose(1, 0, 2).reshape(n, D) @ own["attention.out.weight"].T
        x = norm(h, own["feed_forward_norm.weight"])
        gate = x @ own["feed_forward.gate.weight"].T
        up = x @ own["feed_forward.up.weight"].T
        h = h + (gate / (1 + np.exp(-gate)) * up) @ own["feed_forward.down.weight"].T
    return h[-1]


def test_each_place_has_the_row_of_its_fgram_or_of_its_token():
    inputs, ids = scone(), batch()
    rows = inputs(ids).detach().numpy()
    tokens, made = inputs.tokens.weight.detach().numpy(), {}
    wanted = plain_longest(ids.numpy(), set(map(tuple, FOUND)), 4, SEP)
    for b, row in enumerate(wanted):
        for i, gram in enumerate(row):
            if gram:
                made[gram] = made[gram] if gram in made else by_hand(inputs, gram)
                np.testing.assert_allclose(rows[b, i], made[gram], atol=2e-5)
            else:
                np.testing.assert_array_equal(rows[b, i], tokens[ids[b, i]])
    assert {len(gram) for gram in made} == {2, 3, 4}


def test_rows_replace_and_are_not_added():
    inputs, ids = direct(), batch()
    rows = inputs(ids)
    numbers, _ = FOUND.longest(ids.numpy(), separator=SEP)
    at = torch.from_numpy(numbers)
    assert torch.equal(rows[at >= 0], inputs.table.weight[at[at >= 0]])
    assert torch.equal(rows[at < 0], inputs.tokens.weight[ids[at < 0]])


def test_an_fgram_knows_nothing_but_itself():
    inputs = scone().eval()
    gram = next(gram for gram in FOUND if len(gram) == 3)
    number = [list(one) for one in FOUND].index(gram)
    rows = []
    for seed in range(20):
        ids = batch(1, 30, seed=seed)
        ids[0, 10:13] = torch.tensor(gram)
        if FOUND.longest(ids.numpy(), separator=SEP)[0][0, 12] == number:
            rows.append(inputs(ids)[0, 12])
    assert len(rows) > 3
    for row in rows:
        torch.testing.assert_close(row, rows[0], atol=1e-6, rtol=0)
    inputs.tokens.weight.data[[t for t in range(V) if t not in gram]] = 9.0
    assert torch.equal(inputs.rows(np.array([number]))[0], scone().rows(np.array([number]))[0])


def test_nothing_looks_ahead_or_over_documents():
    net = model(scone()).eval()
    before, after = batch(), batch(seed=8)
    after[:, :20] = before[:, :20]
    torch.testing.assert_close(net(before).logits[:, :20], net(after).logits[:, :20], atol=1e-5, rtol=0)
    one = batch(1, 20)
    one[0, 0] = SEP
    joined = torch.cat([batch(1, 15, seed=9), one], 1)
    torch.testing.assert_close(net.input(joined)[:, 15:], net.input(one), atol=1e-6, rtol=0)
    crossing = scone(separator=None, found=FGrams.of([(5, SEP)], 4))
    ids = torch.tensor([[5, SEP]])
    assert not torch.equal(crossing(ids)[0, 1], crossing.tokens(ids)[0, 1])
    crossing.separator = SEP
    assert torch.equal(crossing(ids)[0, 1], crossing.tokens(ids)[0, 1])


def test_gradients_reach_tokens_and_the_transformer():
    net = model(scone(sparse=True))
    ids = batch()
    net.loss(ids[:, :-1], ids[:, 1:]).backward()
    for name, parameter in net.input.named_parameters():
        grad = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert grad.isfinite().all(), name
        assert grad.abs().sum() > 0, name
    numbers, _ = FOUND.longest(ids[:, :-1].numpy(), separator=SEP)
    inner = {token for n in set(numbers[numbers >= 0].tolist()) for token in list(FOUND)[n]}
    seen = inner | set(ids[:, :-1][torch.from_numpy(numbers < 0)].tolist())
    touched = net.input.tokens.weight.grad.coalesce().indices()[0].tolist()
    assert set(touched) == seen  # none for the sake of padding


def test_gradients_of_a_direct_table_touch_what_was_met():
    grads = {}
    for sparse in (True, False):
        net = model(direct(sparse=sparse))
        ids = batch()
        net.loss(ids[:, :-1], ids[:, 1:]).backward()
        grads[sparse] = net.input.table.weight.grad.to_dense()
    torch.testing.assert_close(grads[True], grads[False], atol=1e-6, rtol=0)
    numbers, _ = FOUND.longest(ids[:, :-1].numpy(), separator=SEP)
    assert set(grads[True].abs().sum(1).nonzero()[:, 0].tolist()) == set(numbers[numbers >= 0].tolist())


def trained(inputs):
    net = model(inputs)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(5):
        ids = batch(seed=20 + step)
        optimiser.zero_grad()
        net.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimiser.step()
    return net


PLACES = ["ram", "mmap", "lmdb"]


def place(tmp_path, where, name="fgrams"):
    if where == "lmdb":
        pytest.importorskip("lmdb")
    return {"ram": None, "mmap": tmp_path / name, "lmdb": tmp_path / f"{name}.lmdb"}[where]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("make", [scone, direct])
def test_compiled_is_trained(tmp_path, where, make):
    net, ids = trained(make()), batch(4, 50, seed=3)
    net.train()
    expected = net(ids).logits.detach()
    net.input = compile_inputs(net.input, place(tmp_path, where), dtype="float32", batch=37)
    torch.testing.assert_close(net(ids).logits, expected, atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in net.input.parameters())
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    if where != "ram":
        again = CompiledInputs.load(place(tmp_path, where), placement="ram")
        assert torch.equal(again(ids), net.input(ids))
        assert again.nbytes == net.input.nbytes


@pytest.mark.parametrize("where", PLACES)
def test_sixteen_bits_are_near(tmp_path, where):
    net, ids = trained(scone()), batch(4, 50, seed=3)
    exact, inputs = net(ids).logits.detach(), net.input
    rows = inputs(ids).detach()
    net.input = compile_inputs(inputs, place(tmp_path, where))
    assert ((net.input(ids) - rows).abs() <= rows.abs() * 2**-8).all()
    assert not torch.equal(net.input(ids), rows)
    torch.testing.assert_close(net(ids).logits, exact, atol=0.05, rtol=0)
    if where != "lmdb":
        whole = compile_inputs(inputs, dtype="float32")
        assert net.input.store.nbytes * 2 == whole.store.nbytes
        assert compile_inputs(inputs, dtype="int8").store.nbytes < net.input.store.nbytes


@pytest.mark.parametrize("kind", ["scone", "direct", *PLACES])
def test_token_by_token_is_all_at_once(tmp_path, kind):
    net, ids = model(direct() if kind == "direct" else scone()).eval(), batch(2, 40)
    if kind in PLACES:
        net.input = compile_inputs(net.input, place(tmp_path, kind))
    whole = net(ids).logits
    for cuts in (range(1, 40), (2, 3, 17, 18)):
        cache = KeyValueCache()
        parts = [net(part, cache=cache).logits for part in torch.tensor_split(ids, list(cuts), 1)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
    prompt = ids[0, :12]
    made = net.generate(prompt, 10, temperature=0)
    logits = net(torch.cat([prompt, made])[None]).logits[0, 11:-1]
    assert torch.equal(logits.argmax(-1), made)


def test_no_fgram_at_all_is_the_plain_table():
    empty = FGrams.of([], 4)
    inputs, ids = scone(found=empty), batch()
    assert torch.equal(inputs(ids), inputs.tokens(ids))
    assert inputs.rows(np.zeros(0, dtype=np.int64)).shape == (0, D)
    with pytest.raises(BadInput, match="no f-gram"):
        compile_inputs(inputs)
    with pytest.raises(BadInput, match="no f-gram"):
        DirectNGrams(empty, Full(V, D))


def test_flops_are_of_the_fgrams_that_were_made():
    net, ids = model(scone(layers=3)), batch()
    each = 3 * (2 * (4 * D * D + 3 * D * 48) + 4 * D * 4)  # maps; scores and mixtures over four tokens
    assert flops_per_token(net, 40).memory == 4 * each  # before any text: each token ends an f-gram of its own
    net(ids)
    numbers, _ = FOUND.longest(ids.numpy(), separator=SEP)
    made = len(np.unique(numbers[numbers >= 0])) / ids.numel()
    assert net.input.made_per_token == made < 0.6
    assert flops_per_token(net, 40).memory == round(made * 4 * each)
    net.input = compile_inputs(net.input)
    assert flops_per_token(net, 40).memory == 0
    assert flops_per_token(model(direct()), 40).memory == 0


def test_weights_go_with_their_fgrams():
    weights = scone(seed=1).state_dict()
    same, ids = scone(seed=2), batch()
    same.load_state_dict(weights)
    assert torch.equal(same(ids), scone(seed=1)(ids))
    other = FGrams(FOUND.tokens[::-1], FOUND.counts[::-1])
    with pytest.raises(SpaceMismatch, match="other f-grams"):
        scone(found=other).load_state_dict(weights)


# what goes wrong


def test_a_tree_finds_what_a_list_finds(tmp_path):
    pytest.importorskip("lmdb")
    grams = [*FOUND, (SEP, SEP), (3, SEP), (1, SEP, 2), (SEP, 1, 2, 39)]
    found = FGrams.of(list(dict.fromkeys(map(tuple, grams))))
    lmdb_rows.LmdbRows.write(
        tmp_path / "a", found, lambda numbers: numbers[:, None].astype(np.float32), 1, dtype="float32", batch=50
    )
    tree = lmdb_rows.LmdbRows(tmp_path / "a")
    for length, last, separator in ((60, 60, SEP), (60, 60, None), (60, 7, SEP), (2, 1, SEP), (1, 1, SEP)):
        ids = text(8 * length, seed=length).reshape(8, length)
        rows, place = tree.longest(ids, separator=separator, last=last)
        numbers = found.longest(ids, separator=separator)[0][:, -last:]
        np.testing.assert_array_equal(np.append(rows[:, 0], -1)[place], numbers)
        assert len(np.unique(rows)) == len(rows)


def test_a_damaged_lmdb_is_noticed(tmp_path, monkeypatch):
    pytest.importorskip("lmdb")
    inputs = scone()
    compiled = compile_inputs(inputs, tmp_path / "a.lmdb", dtype="float32")
    two = CompiledInputs.load(tmp_path / "a.lmdb")  # LMDB itself opens a file once in a process
    assert torch.equal(two(batch()), compiled(batch()))
    compiled.store.verify()
    assert len(compiled.store) == len(FOUND)
    row = compiled.store.longest(np.array([next(iter(FOUND))]), last=1)[0].tobytes()
    data = (tmp_path / "a.lmdb" / "data.mdb").read_bytes()
    at = data.index(row) + 5
    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    for number, wrong in enumerate((flipped, data[: len(data) // 2], b"\0" * len(data), data[:100], None)):
        folder = shutil.copytree(tmp_path / "a.lmdb", tmp_path / f"{number}.lmdb")
        (folder / "data.mdb").unlink()
        if wrong is not None:
            (folder / "data.mdb").write_bytes(wrong)
        with pytest.raises(Corrupt, match=str(folder)):
            CompiledInputs.load(folder)
    monkeypatch.setattr(lmdb_rows.LmdbRows, "_check", lambda self, every: None)
    with pytest.raises(Corrupt, match=r"row of n-gram .* does not match its checksum"):
        CompiledInputs.load(tmp_path / "0.lmdb")(torch.tensor([next(iter(FOUND))]))


def test_a_damaged_folder_is_noticed(tmp_path):
    compile_inputs(scone(), tmp_path / "a")
    for name in ("inputs", "tokens", "fgrams", "rows"):
        kept = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes(kept[: len(kept) // 2])
        with pytest.raises(Corrupt):
            CompiledInputs.load(tmp_path / "a")(batch())
        (tmp_path / "a" / name).unlink()
        with pytest.raises((Corrupt, BadInput), match=r"compile it again|there is no compiled inputs"):
            CompiledInputs.load(tmp_path / "a")
        (tmp_path / "a" / name).write_bytes(kept)
    CompiledInputs.load(tmp_path / "a").store.verify()


def test_nothing_is_left_of_what_fails(tmp_path):
    inputs = scone()
    inputs.places.data[0] = float("nan")
    for path in (tmp_path / "a", tmp_path / "b.lmdb"):
        if path.suffix:
            pytest.importorskip("lmdb")
        with pytest.raises(BadInput, match="finite"):
            compile_inputs(inputs, path)
    assert os.listdir(tmp_path) == []


def test_lmdb_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(MissingExtra, match=r"inlay\[lmdb\]"):
        compile_inputs(scone(), tmp_path / "a.lmdb")
    assert compile_inputs(scone(), tmp_path / "a").store.placement == "mmap"


def test_bad_input_is_named(tmp_path):
    ids = text(100)
    for options, match in (
        ({"max_n": 1}, "max_n must be an integer of at least 2, got 1"),
        ({"max_n": 2.0}, "max_n"),
        ({"min_count": 0}, "min_count"),
        ({"top": 0}, "top"),
        ({"top": True}, "top"),
        ({"separator": -1}, "separator"),
        ({"separator": 0, "starts": ids == 0}, "either"),
        ({"starts": np.zeros(99, dtype=bool)}, "starts"),
        ({"starts": np.zeros(100)}, "starts"),
    ):
        with pytest.raises(BadInput, match=match):
            mine_fgrams(ids, **options)
    for wrong, match in (
        (ids.reshape(10, 10), r"\[tokens\]"),
        (ids.astype(float), "float64"),
        (np.array([1, -2]), "got -2"),
        (np.array([1, 2**31]), "2147483648"),
        (["a", "b"], "tokens"),
    ):
        with pytest.raises(BadInput, match=match):
            mine_fgrams(wrong)
    for tokens, counts, match in (
        ([[1]], [1], "at least 2"),
        ([[1, -1]], [1], "n-gram 0 must be two tokens"),
        ([[1, 2, -1], [1, -1, 2]], [1, 1], "n-gram 1"),
        ([[1, 2]], [0], "counts"),
        ([[1, 2]], [1, 1], "counts"),
        ([[1, 2], [1, 2]], [1, 1], "twice"),
        ([[1, -2]], [1], "-2"),
        ([[1.0, 2.0]], [1], "float"),
    ):
        with pytest.raises(BadInput, match=match):
            FGrams(np.array(tokens), np.array(counts))
    with pytest.raises(BadInput, match="at most 2"):
        FGrams.of([(1, 2, 3)], 2)
    tokens = Full(V, D)
    for make, match in (
        (lambda: Scone(FGrams.of([(1, V)]), tokens), f"hold token {V}"),
        (lambda: Scone([(1, 2)], tokens), "FGrams"),
        (lambda: Scone(FOUND, torch.nn.Embedding(V, D)), "Embedding"),
        (lambda: Scone(FOUND, tokens, 0), "layers"),
        (lambda: Scone(FOUND, tokens, heads=5), "heads"),
        (lambda: Scone(FOUND, tokens, separator=V), "separator"),
        (lambda: DirectNGrams(FOUND, tokens, Full(len(FOUND), D + 1)), "33"),
        (lambda: DirectNGrams(FOUND, tokens, Full(7, D)), "7 rows"),
        (lambda: compile_inputs(tokens), "Full"),
        (lambda: compile_inputs(compile_inputs(scone())), "CompiledInputs"),
        (lambda: compile_inputs(scone(), dtype="float16"), "float16"),
        (lambda: compile_inputs(scone(), batch=0), "batch"),
        (lambda: compile_inputs(scone(), tmp_path), "exists"),
        (lambda: compile_inputs(scone(), tmp_path / "no" / "a"), "make it first"),
        (lambda: CompiledInputs.load(tmp_path / "none"), "none"),
        (lambda: CompiledInputs.load(tmp_path, placement="disk"), "disk"),
    ):
        with pytest.raises(BadInput, match=match):
            make()
    inputs = scone()
    for wrong, match in (
        (torch.zeros(1, 3), "float32"),
        (torch.zeros(3, dtype=torch.long), "batch, length"),
        (torch.tensor([[V]]), f"id {V}"),
        (torch.tensor([[-1]]), "id -1"),
    ):
        with pytest.raises(BadInput, match=match):
            inputs(wrong)
