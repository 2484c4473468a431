"""Rows in a store give the very logits that rows in memory give, and learn as they do."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from inlay.errors import BadInput, Corrupt

torch = pytest.importorskip("torch")

from inlay.lm import Decoder, KeyValueCache, stem_decoder  # noqa: E402
from inlay.lm.editing import edit  # noqa: E402
from inlay.lm.offloaded_rows import OffloadedRows  # noqa: E402
from inlay.lm.offloading import Offloaded, offload  # noqa: E402
from inlay.lm.staging import DeviceStaging  # noqa: E402
from inlay.tables import Full, Hashed, Overlay, RowAdam, RowStore  # noqa: E402
from inlay.tables.store_adam import StoreAdam  # noqa: E402

V, D, H = 60, 32, 48
CHUNK = 8


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def small(**options):
    torch.manual_seed(0)
    given = {"start": "scaled_normal", "where": "full", "context": 64}
    return stem_decoder(V, D, 3, 4, hidden=H, **given | options).eval()


def ids(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def in_chunks(model, text, memory=None):
    """A text as the runtime reads it, by the model itself."""
    cache = KeyValueCache()
    memory = text if memory is None else memory
    parts = zip(text.split(CHUNK, 1), memory.split(CHUNK, 1))
    return torch.cat([model(part, memory_ids=there, cache=cache).logits for part, there in parts], 1)


def distinct(text):
    return max(len(part.unique()) for part in text.split(CHUNK, 1))


def stores(tmp_path):
    return {"ram": None, "mmap": f"mmap:{tmp_path / 'tables'}"}


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("capacity", ["distinct", 5, 1])
@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_logits_are_bit_equal_wherever_rows_are(placement, capacity, prefetch, tmp_path: Path):
    model, text = small(), ids(2, 37)
    expected, short = in_chunks(model, text), model(text[:, :CHUNK]).logits
    prompt = text[0, :20]
    cache = KeyValueCache()
    in_chunks_of_prompt = in_chunks(model, prompt[None])
    greedy = model.generate(prompt, 6, temperature=0)
    steps = [model(text[:1, i : i + 1], cache=cache).logits for i in range(17)]

    capacity = distinct(text) if capacity == "distinct" else capacity
    with offload(model, stores(tmp_path)[placement], capacity=capacity, prefetch=prefetch, chunk=CHUNK) as runtime:
        assert runtime.store.placement == placement
        assert torch.equal(runtime(text).logits, expected)
        assert torch.equal(runtime(text).logits, expected)
        assert torch.equal(runtime(text[:, :CHUNK]).logits, short)
        assert torch.equal(runtime(prompt[None]).logits, in_chunks_of_prompt)
        assert torch.equal(runtime.generate(prompt, 6, temperature=0), greedy)
        cache = KeyValueCache()
        found = [runtime(text[:1, i : i + 1], cache=cache).logits for i in range(17)]
        assert torch.equal(torch.cat(found, 1), torch.cat(steps, 1))
        assert runtime.shelf.direct == 0  # the store was never read past the buffers
        assert (model(text[:, :CHUNK]).logits == short).all()  # by itself, the model reads it directly
        assert runtime.shelf.direct == 2 * text[:, :CHUNK].numel()


def test_token_by_token_is_the_full_forward():
    model, text = small(), ids(2, 20)
    whole = model(text).logits
    with offload(model, capacity=9, chunk=CHUNK) as runtime:
        cache = KeyValueCache()
        found = torch.cat([runtime(text[:, i : i + 1], cache=cache).logits for i in range(20)], 1)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(runtime(text).logits, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["up", "gate", "additive"])
@pytest.mark.parametrize("table", ["full", "hashed"])
def test_any_table_and_any_mode(mode, table):
    made = {"full": None, "hashed": lambda rows, dim: Hashed(rows, dim, buckets=17)}[table]
    model, text = small(mode=mode, table=made), ids(2, 19)
    memory = ids(2, 19, seed=5)
    expected, edited = in_chunks(model, text), in_chunks(model, text, memory)
    hidden = model(text[:, :CHUNK], capture=True).hidden
    with offload(model, chunk=CHUNK) as runtime:
        assert torch.equal(runtime(text).logits, expected)
        assert torch.equal(runtime(text, memory_ids=memory).logits, edited)
        found = runtime(text, capture=True).hidden
        assert len(found) == 4
        assert found[2].shape == (2, 19, D)
        assert torch.equal(found[3][:, :CHUNK], hidden[3])


def test_narrow_rows_round_but_stay_equal_between_placements(tmp_path: Path):
    text = ids(2, 30)
    for dtype, tolerance in (("bfloat16", 2**-8), ("int8", 1 / 127)):
        found = []
        for store in (None, f"mmap:{tmp_path / dtype}"):
            model = small()
            weight = model.blocks[1].feed_forward.table.weight.detach().clone()
            with offload(model, store, dtype=dtype, chunk=CHUNK, capacity=11) as runtime:
                found.append(runtime(text).logits)
                rows = torch.from_numpy(runtime.store.rows(np.arange(V), layer=0))
                assert ((rows - weight).abs() <= tolerance * weight.abs().amax(1, keepdim=True)).all()
        assert torch.equal(found[0], found[1])


def test_the_staged_rows_are_those_of_the_table():
    """The oracle: staging[layer, inverse] is the table's row, bit for bit, for every position and layer."""
    model = small()
    tables = [part.table.weight.detach().clone() for part in (model.blocks[i].feed_forward for i in (1, 2))]
    with offload(model, capacity=12, chunk=100) as runtime:
        for seed in range(6):
            text = ids(2, 9, seed=seed)
            rows, inverse, keys = runtime._fetched(text)
            assert np.array_equal(keys[inverse], text.numpy())
            for layer, table in enumerate(tables):
                assert np.array_equal(rows[layer][inverse], table[text].numpy())


def test_a_batch_as_large_as_the_cache_after_another_and_one_larger():
    model = small()
    full, other, larger = torch.arange(12)[None], torch.arange(30, 42)[None], torch.arange(20, 33)[None]
    expected = [model(text).logits for text in (full, other, larger, full)]
    with offload(model, capacity=12, chunk=64) as runtime:
        for text, logits in zip((full, other, larger, full), expected):
            assert torch.equal(runtime(text).logits, logits)
        assert runtime.traffic.hits + runtime.traffic.misses == 12 * 3 + 13


def test_traffic_is_counted():
    model, text = small(), ids(1, 32)
    with offload(model, capacity=V, chunk=CHUNK) as runtime:
        runtime(text)
        traffic = runtime.traffic
        seen, hits, misses = set(), 0, 0
        for part in text.split(CHUNK, 1):
            new = set(part.flatten().tolist())
            hits, misses, seen = hits + len(new & seen), misses + len(new - seen), seen | new
        assert (traffic.ids, traffic.hits, traffic.misses) == (32, hits, misses)
        assert traffic.moved == misses * 2 * H * 4
        assert traffic.hit_rate == hits / (hits + misses)
        runtime(text)
        assert traffic.misses == misses


def test_after_an_error_the_next_text_gets_its_own_rows():
    model, text, other = small(), ids(1, 30), ids(1, 30, seed=1)
    expected, again = in_chunks(model, text), in_chunks(model, other)
    with offload(model, capacity=6, chunk=CHUNK) as runtime:
        for _ in range(3):
            calls = []

            def fail(*given, calls=calls):
                calls.append(1)
                if len(calls) == 2:
                    raise RuntimeError("in the middle of the second chunk")

            hook = runtime.norm.register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="second chunk"):
                runtime(text)
            hook.remove()
            assert torch.equal(runtime(other).logits, again)
            assert torch.equal(runtime(text).logits, expected)


def test_writes_and_overlays_are_seen():
    model, text = small(), ids(1, 20)
    swapped = text.clone()
    token, target = int(text[0, 3]), (int(text[0, 3]) + 1) % V
    swapped[text == token] = target
    expected, plain = in_chunks(model, text, swapped), in_chunks(model, text)
    with offload(model, capacity=7, chunk=CHUNK) as runtime:
        assert torch.equal(runtime(text).logits, plain)
        with runtime.store.overlay(Overlay([token], runtime.store.rows([target]))):
            assert torch.equal(runtime(text).logits, expected)
        assert torch.equal(runtime(text).logits, plain)
        runtime.store.write([token], runtime.store.rows([target]))
        assert torch.equal(runtime(text).logits, expected)


def test_rows_come_back():
    model, text = small(), ids(2, 20)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(text).logits
    runtime = offload(model)
    assert isinstance(model.blocks[1].feed_forward.table, OffloadedRows)
    assert not [name for name in model.state_dict() if ".table." in name]
    dense = sum(tensor.numel() for name, tensor in before.items() if ".table." not in name)
    assert runtime.num_parameters == model.num_parameters == dense
    runtime.bring_back()
    assert torch.equal(model(text).logits, expected)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(BadInput, match="closed"):
        runtime(text)
    with pytest.raises(BadInput, match="brought back already"):
        runtime.bring_back()
    with pytest.raises(BadInput, match="in its own way"):
        offload(runtime)
    with offload(model) as again:
        assert torch.equal(again(text).logits, expected)


def test_a_store_that_is_there_is_taken_as_it_is(tmp_path: Path):
    model, text = small(), ids(2, 20)
    expected = in_chunks(model, text)
    with offload(model, f"mmap:{tmp_path}", chunk=CHUNK):
        pass
    for shards in (1, 3):
        path = RowStore.open(tmp_path / "stem.rows").save(tmp_path / f"{shards}.rows", shards=shards)
        with offload(small(start="zero"), RowStore.open(path), chunk=CHUNK) as runtime:
            assert torch.equal(runtime(text).logits, expected)
    with pytest.raises(BadInput, match="exists already"):
        offload(small(), f"mmap:{tmp_path}")
    data = (tmp_path / "stem.rows").read_bytes()
    (tmp_path / "short.rows").write_bytes(data[: len(data) // 2])
    with pytest.raises(Corrupt, match="short"):
        offload(small(), RowStore.open(tmp_path / "short.rows"))


def batch_of(step):
    return ids(3, 10, seed=step) % (V - 7 * (step % 5))


def train(model, forward, steps, tables):
    """Some steps with a backbone optimiser of its own; `tables(step, batch)` learns the rows."""
    backbone = [p for name, p in model.named_parameters() if ".table." not in name]
    optimiser = torch.optim.SGD(backbone, lr=0.05)
    losses = []
    for step in steps:
        optimiser.zero_grad()
        losses.append(tables(batch_of(step), forward))
        optimiser.step()
    return losses


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("capacity", [None, 6])
def test_learning_in_a_store_is_learning_in_memory(clip, capacity):
    options = {"lr": 0.02, "weight_decay": 0.5, "clip": clip}
    plain, text = small(), ids(2, 20)
    other = copy.deepcopy(plain)
    weights = [block.feed_forward.table.weight for block in plain.blocks[1:]]
    adam = RowAdam(weights, **options)

    def in_memory(batch, model):
        for weight in weights:
            adam.refresh(weight, batch[:, :-1])
            weight.grad = None
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        adam.step()
        return float(loss.detach())

    with offload(other, capacity=capacity) as runtime:
        store_adam = StoreAdam(runtime.store, **options)
        following = iter([batch_of(step)[:, :-1] for step in (1, 2, 3, 0, 5)])  # one of them is not what comes

        def in_store(batch, model):
            with runtime.learning(batch[:, :-1], store_adam, next(following, None)):
                loss = model.loss(batch[:, :-1], batch[:, 1:])
                loss.backward()
            return float(loss.detach())

        expected, found = train(plain, plain, range(15), in_memory), train(other, runtime, range(15), in_store)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        adam.flush()
        store_adam.flush()
        for layer, weight in enumerate(weights):
            np.testing.assert_allclose(runtime.store.rows(np.arange(V), layer=layer), weight.detach(), atol=1e-5)
            for name, moments in (("first", store_adam.first), ("second", store_adam.second)):
                kept = adam.state[weight][name]
                np.testing.assert_allclose(moments.rows(np.arange(V), layer=layer), kept, atol=1e-6)
        assert np.array_equal(store_adam.touched, adam.state[weights[0]]["touched"])
        assert store_adam.steps == 15
        torch.testing.assert_close(runtime(text).logits, plain(text).logits, atol=1e-4, rtol=0)


def test_the_rows_gradient_is_that_of_the_table():
    plain = small(sparse=False)
    other, batch = copy.deepcopy(plain), ids(4, 20) % 5  # many of each
    plain.loss(batch[:, :-1], batch[:, 1:]).backward()
    with offload(other, capacity=3) as runtime:
        with runtime.learning(batch[:, :-1].clone()) as leaf:
            runtime.loss(batch[:, :-1], batch[:, 1:]).backward()
            keys = batch[:, :-1].unique()
            assert leaf.shape == (2, len(keys), H)
            for layer, block in enumerate(plain.blocks[1:]):
                grad = block.feed_forward.table.weight.grad[keys]
                torch.testing.assert_close(leaf.grad[layer], grad, atol=1e-6, rtol=0)
        unlike = runtime.store.rows(keys.numpy()) - leaf.detach().transpose(0, 1).numpy()
        assert not unlike.any()


def test_other_ids_are_read_from_the_store_while_rows_are_learnt():
    model, batch = small(), ids(2, 9)
    part, other = model.blocks[1].feed_forward, ids(2, 9, seed=1)
    expected = part.table(other).detach()
    with offload(model) as runtime, runtime.learning(batch):
        assert torch.equal(part.rows(other), expected)
        with edit(runtime, [2], other[0, :1]):
            edited = runtime(batch).logits
    with edit(model, [2], other[0, :1]):
        assert torch.equal(model(batch).logits, edited)


class Recorder:
    """Stands in for a CUDA stream or event: notes what is done to it, in one list."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def record(self, stream):
        self.log.append(("record", self.name, stream.name))

    def wait_event(self, event):
        self.log.append(("wait", self.name, event.name))

    def wait_stream(self, stream):
        self.log.append(("wait", self.name, stream.name))

    def synchronize(self):
        self.log.append(("host waits", self.name))


def test_the_order_of_copies_to_a_gpu(monkeypatch):
    """No GPU here: streams and events are stand-ins that write down who waits for whom; the copies are made."""
    log, made = [], iter(["copied 0", "copied 1", "read 0", "read 1"])
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Recorder(log, "copying"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: Recorder(log, next(made)))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Recorder(log, "computing"))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **options: empty(*size, **options))
    model, text = small(), ids(2, 37)
    expected = in_chunks(model, text)
    with offload(model, capacity=5, chunk=CHUNK) as runtime:
        runtime._staging = DeviceStaging(torch.device("cpu"))
        assert torch.equal(runtime(text).logits, expected)
        del log[:]
        assert torch.equal(runtime(text).logits, expected)
    turns = [entry[1][-1] for entry in log if entry[0] == "host waits"]
    assert turns == ["1", "0", "1", "0", "1"]  # five chunks before, five now
    for turn in "01":
        mine = [entry for entry in log if entry[1][-1] == turn or entry[2:] in [(f"copied {turn}",), (f"read {turn}",)]]
        rounds = [mine[start : start + 5] for start in range(0, len(mine), 5)]
        assert len(rounds) == turns.count(turn)
        assert all(
            round
            == [
                ("host waits", f"copied {turn}"),  # the page-locked buffer is free
                ("wait", "copying", f"read {turn}"),  # the device buffer is free
                ("record", f"copied {turn}", "copying"),
                ("wait", "computing", f"copied {turn}"),
                ("record", f"read {turn}", "computing"),
            ]
            for round in rounds
        )


@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_an_interrupted_training_goes_on_as_if_it_were_not(placement, tmp_path: Path):
    """Tables, moments and counters survive being saved, cut into three shards, and opened again."""

    def learn(runtime, adam, steps):
        def in_store(batch, model):
            with runtime.learning(batch[:, :-1], adam):
                loss = model.loss(batch[:, :-1], batch[:, 1:])
                loss.backward()
            return float(loss.detach())

        return train(runtime, runtime, steps, in_store)

    whole = small()
    with offload(whole) as runtime:
        adam = StoreAdam(runtime.store, lr=0.02)
        learn(runtime, adam, range(5))
        half = copy.deepcopy({n: p for n, p in whole.state_dict().items() if ".table." not in n})
        adam.save(tmp_path / "adam", shards=3)
        runtime.store.save(tmp_path / "t.rows", shards=3)
        losses = learn(runtime, adam, range(5, 10))
        expected = runtime.store.rows(np.arange(V))
        moments, counters = adam.second.rows(np.arange(V)), (adam.steps, adam.log_decay)

    store = RowStore.open(tmp_path / "t.rows", placement=placement, writable=placement == "mmap")
    assert store.shards == 3
    again = small()
    with offload(again, store) as runtime:
        again.load_state_dict(half)
        adam = StoreAdam.load(tmp_path / "adam", store, placement=placement)
        assert (adam.steps, adam.first.shards) == (5, 3)
        assert learn(runtime, adam, range(5, 10)) == losses
        assert np.array_equal(store.rows(np.arange(V)), expected)
        assert np.array_equal(adam.second.rows(np.arange(V)), moments)
        assert (adam.steps, adam.log_decay) == counters
    for part in (adam.first, adam.second, store):
        part.close()


def test_an_error_while_learning_leaves_the_store_as_it_was():
    model, batch = small(), ids(2, 9)
    with offload(model) as runtime:
        adam, before = StoreAdam(runtime.store), runtime.store.rows(np.arange(V))
        with pytest.raises(ZeroDivisionError), runtime.learning(batch, adam):
            runtime.loss(batch, batch).backward(torch.tensor(1 / len([])))
        with pytest.raises(BadInput, match="no gradient"), runtime.learning(batch, adam):
            pass
        with pytest.raises(BadInput, match="NaN"), runtime.learning(batch, adam) as leaf:
            (runtime.loss(batch, batch) * float("nan")).backward()
        assert leaf.grad is not None
        with runtime.learning(batch, adam):
            with pytest.raises(BadInput, match="not the ids"):
                runtime.loss(batch + 0 * batch[:1] + 1, batch)
            with pytest.raises(BadInput, match="already"), runtime.learning(batch, adam):
                pass
            runtime.loss(batch, batch).backward()
            untouched = np.setdiff1d(np.arange(V), batch.numpy())
        assert adam.steps == 1
        after = runtime.store.rows(np.arange(V))
        assert np.array_equal(after[untouched], before[untouched])
        assert (after[np.unique(batch.numpy())] != before[np.unique(batch.numpy())]).any(axis=(1, 2)).all()


def test_bad_input_is_named(tmp_path: Path):
    model = small()
    for wrong, match in (
        ({"store": "lmdb:x"}, "mmap:DIR"),
        ({"store": "mmap:"}, "mmap:DIR"),
        ({"store": 3}, "mmap:DIR"),
        ({"store": RowStore.zeros(V, H, layers=3)}, "the tables are"),
        ({"store": RowStore.zeros(V, H)}, "the tables are"),
        ({"capacity": 0}, "capacity"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": 1.5}, "chunk"),
        ({"dtype": "float16"}, "dtype"),
    ):
        with pytest.raises(BadInput, match=match):
            offload(model, **wrong)
    assert isinstance(model.blocks[1].feed_forward.table, Full)  # nothing was moved
    with pytest.raises(BadInput, match="no STEM part"):
        offload(Decoder(V, D, 2, 4, hidden=H))
    with pytest.raises(BadInput, match="expected a Decoder"):
        offload(Full(V, H))
    with offload(model, dtype="bfloat16", chunk=CHUNK) as runtime:
        assert isinstance(runtime, Offloaded)
        with pytest.raises(BadInput, match="in a store already"):
            offload(model)
        with pytest.raises(BadInput, match="float32 store"):
            StoreAdam(runtime.store)
        for text, match in (
            (torch.tensor([[V]]), f"id {V}"),
            (ids(1, 65), "do not fit the context"),
            (torch.zeros(3, dtype=torch.long), "batch, length"),
        ):
            with pytest.raises(BadInput, match=match):
                runtime(text)
        with pytest.raises(BadInput, match=f"key {V}"):
            runtime(ids(1, 3), memory_ids=torch.tensor([[0, V, 1]]))
        cache = KeyValueCache()
        runtime(ids(1, 60), cache=cache)
        with pytest.raises(BadInput, match="do not fit"):
            runtime(ids(1, 20), cache=cache)
        assert cache.length == 60
        other = StoreAdam(RowStore.zeros(V, H, layers=2))
        with pytest.raises(BadInput, match="another store"), runtime.learning(ids(1, 3), other):
            pass
    adam = StoreAdam(RowStore.zeros(5, 4, layers=2))
    rows = torch.zeros(2, 2, 4)
    for keys, given, match in (
        ([1, 1], rows, "each key once"),
        ([1, 5], rows, "key 5"),
        ([1, 2], rows[:, :, :3], "expected rows"),
        ([1, 2], rows + float("inf"), "NaN or infinity"),
    ):
        with pytest.raises(BadInput, match=match):
            adam.step(keys, given, torch.zeros(2, 2, 4))
    with pytest.raises(BadInput, match="below 1"):
        StoreAdam(RowStore.zeros(5, 4), lr=20).step([0], torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(BadInput, match="betas"):
        StoreAdam(RowStore.zeros(5, 4), betas=(1.0, 0.9))
    adam.save(tmp_path / "adam")
    with pytest.raises(BadInput, match="already"):
        adam.save(tmp_path / "adam")
    with pytest.raises(BadInput, match="the store has 6 rows"):
        StoreAdam.load(tmp_path / "adam", RowStore.zeros(6, 4, layers=2))
    with pytest.raises(BadInput, match="there is no"):
        StoreAdam.load(tmp_path / "nothing", RowStore.zeros(5, 4, layers=2))
    counters = tmp_path / "adam" / "counters"
    counters.write_bytes(counters.read_bytes()[:-90])
    with pytest.raises(Corrupt, match="counters"):
        StoreAdam.load(tmp_path / "adam", RowStore.zeros(5, 4, layers=2))
