"""Bits a dimension: the packed scan against integers, the codec against its networks, and what training promises."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs.recurrent_binary import Block, RecurrentBinary, level_type
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes.binary import Binary
from inlay.kernels import bit_planes as kernel
from inlay.kernels.bit_planes import BitPlanes
from inlay.types import Index

FORMS = {"plain": False, "compiled": True}


@pytest.fixture(params=FORMS)
def form(request):
    if FORMS[request.param]:
        pytest.importorskip("numba")
    with mock.patch.object(kernel, "compiled", return_value=FORMS[request.param]):
        yield request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawn(rng, n, dims, bits):
    """Random codes, and the odd integers they stand for."""
    signs = rng.random((bits, n, dims)) < 0.5
    numbers = sum((1 << (bits - 1 - t)) * np.where(own, 1, -1) for t, own in enumerate(signs))
    levels = ((numbers**2).sum(axis=1) - dims) // 8 if bits > 1 else np.empty(0)
    planes = np.stack([kernel.packed(own) for own in signs], axis=1)
    return BitPlanes(planes, levels.astype(level_type(dims, bits))), numbers


def brute(asked, kept, k, allow=None):
    """Float64 cosines, and the ids of the k best; of equal integers ratios the lower id."""
    scores = (asked @ kept.T) / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(kept, axis=1)
    if allow is not None:
        scores = np.where(allow, scores, -np.inf)
    return scores, np.argsort(-scores, axis=1, kind="stable")[:, :k]


def blocks_of(codes, count):
    blocks = kernel.room(count, *codes.planes.shape[1:])
    kernel.put(blocks, codes.planes, 0)
    return blocks


def made(rng, dim=12, dims=70, bits=2, hidden=9, blocks=1):
    """A codec with random networks."""

    def network(wide, out):
        chain = []
        for _ in range(blocks):
            shapes = [(wide, hidden), (hidden,), (hidden, out), (out,)]
            arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
            skip = None if wide == out else rng.standard_normal((wide, out)).astype(np.float32)
            chain.append(Block(*arrays, skip))
            wide = out
        return chain

    pairs = [net for _ in range(bits - 1) for net in (network(dims, dim), network(dim, dims))]
    return RecurrentBinary([network(dim, dims), *pairs], learnt={"pairs": 3})


# --- the kernel -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 40), dims=st.integers(1, 200), seed=st.integers(0, 9))
def test_packing_keeps_every_sign(n, dims, seed):
    signs = np.random.default_rng(seed).random((n, dims)) < 0.5
    words = kernel.packed(signs)
    assert words.dtype == np.uint64
    assert words.shape == (n, -(-dims // 64))
    assert np.array_equal(kernel.unpacked(words, dims), signs)


def test_bits_lie_where_they_are_said_to():
    signs = np.zeros((1, 130), dtype=bool)
    signs[0, [0, 3, 64, 129]] = True
    assert kernel.packed(signs).tolist() == [[1 + 8, 1, 2]]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60), dims=st.integers(1, 150), bits=st.integers(1, 4), asked_bits=st.integers(1, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_scores_are_cosines_of_the_integers(n, dims, bits, asked_bits, seed):
    rng = np.random.default_rng(seed)
    (codes, numbers), (queries, asked) = drawn(rng, n, dims, bits), drawn(rng, 3, dims, asked_bits)
    scores = kernel.score(queries, codes, dims)
    assert scores.dtype == np.float32
    assert scores == pytest.approx(brute(asked, numbers, 1)[0], abs=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dims", [24, 64, 192])
def test_both_forms_find_the_same_to_the_bit(rng, bits, dims):
    pytest.importorskip("numba")
    for count in (1, 7, 8, 2047, 2500):
        (codes, _), (queries, _) = drawn(rng, count, dims, bits), drawn(rng, 3, dims, 2)
        blocks = blocks_of(codes, count)
        for allow in (None, rng.random(count) < 0.3, rng.random(count) < 0.01):
            found = []
            for fast in FORMS.values():
                with mock.patch.object(kernel, "compiled", return_value=fast):
                    found.append(kernel.nearest(queries, blocks, codes.levels, count, dims, 20, allow=allow))
            assert np.array_equal(found[0].scores, found[1].scores)
            assert np.array_equal(found[0].ids, found[1].ids)


@pytest.mark.parametrize(("bits", "asked_bits"), [(1, 1), (2, 2), (3, 1), (2, 4)])
def test_the_nearest_are_those_of_a_sort(rng, form, bits, asked_bits):
    dims, count = 40, 3001
    (codes, numbers), (queries, asked) = drawn(rng, count, dims, bits), drawn(rng, 5, dims, asked_bits)
    blocks = blocks_of(codes, count)
    for allow in (None, rng.random(count) < 0.5, np.arange(count) == count - 1, np.zeros(count, dtype=bool)):
        found = kernel.nearest(queries, blocks, codes.levels, count, dims, 10, allow=allow)
        truth = kernel.score(queries, codes, dims)
        assert truth == pytest.approx(brute(asked, numbers, 1)[0], abs=1e-6)
        truth = truth if allow is None else np.where(allow, truth, -np.inf)
        order = np.argsort(-truth, axis=1, kind="stable")[:, :10]
        best = np.take_along_axis(truth, order, axis=1)
        assert np.array_equal(found.scores, best)
        assert np.array_equal(found.ids, np.where(np.isfinite(best), order, -1))


def test_equal_rows_come_in_order_of_id(rng, form):
    codes, _ = drawn(rng, 3, 64, 2)
    same = BitPlanes(np.repeat(codes.planes, 900, axis=0), np.repeat(codes.levels, 900))
    query, blocks = BitPlanes(codes.planes[1:2], codes.levels[1:2]), blocks_of(same, 2700)
    found = kernel.nearest(query, blocks, same.levels, 2700, 64, 5)
    assert found.ids.tolist() == [[900, 901, 902, 903, 904]]
    assert found.scores == pytest.approx(1)


def test_a_byte_keeps_a_length_exactly():
    assert level_type(255, 2) == np.uint8
    assert level_type(256, 2) == np.uint16
    assert level_type(2340, 4) == np.uint16
    assert level_type(512, 1) == np.uint8
    extreme = np.full(2340, 15)  # every bit set
    assert ((extreme**2).sum() - 2340) // 8 <= np.iinfo(level_type(2340, 4)).max


# --- the codec --------------------------------------------------------------------------------------------------------


def plainly(codec, rows):
    """The algorithm as the paper has it, in float64, one row at a time; and how near a sign was to turning."""
    found, margin = [], np.inf
    through = lambda network, x: _through(network, x)  # noqa: E731
    for row in rows.astype(np.float64):
        f = row / np.linalg.norm(row)
        x = through(codec.networks[0], f)
        margin = min(margin, np.abs(x).min())
        b = np.where(x >= 0, 1.0, -1.0)
        for t in range(1, codec.bits):
            back = through(codec.networks[2 * t - 1], b)
            x = through(codec.networks[2 * t], f - back / np.linalg.norm(back))
            margin = min(margin, np.abs(x).min())
            b = b + 2.0**-t * np.where(x >= 0, 1.0, -1.0)
        found.append(b)
    return np.array(found), margin


def _through(network, x):
    for block in network:
        hidden = np.maximum(x @ block.inner.astype(np.float64) + block.inner_bias, 0)
        x = hidden @ block.outer.astype(np.float64) + block.outer_bias + (x if block.skip is None else x @ block.skip)
    return x


@pytest.mark.parametrize(("bits", "blocks", "dims"), [(1, 3, 70), (2, 1, 70), (3, 2, 12), (4, 1, 130)])
def test_codes_are_those_of_the_algorithm(rng, bits, blocks, dims):
    codec = made(rng, bits=bits, blocks=blocks, dims=dims)
    rows = rng.standard_normal((30, 12)).astype(np.float32)
    b, margin = plainly(codec, rows)
    assert margin > 1e-5, "draw other rows: a sign hangs on rounding"
    codes = codec.encode(rows)
    unit = b / np.linalg.norm(b, axis=1, keepdims=True)
    assert codec.decode(codes) == pytest.approx(unit, abs=1e-6)
    assert set(np.unique(np.abs(b * 2 ** (bits - 1)))) <= set(range(1, 2**bits, 2))
    assert np.array_equal(codec.encode(rows * 7).planes, codes.planes), "the length of a row does not count"
    assert codec.score(codes, codes) == pytest.approx(unit @ unit.T, abs=1e-6)


def test_the_sign_of_zero_is_plus():
    zeros = [np.zeros(shape, np.float32) for shape in ((3, 2), (2,), (2, 5), (5,), (3, 5))]
    codec = RecurrentBinary([[Block(*zeros)]])
    assert codec.decode(codec.encode(np.ones((1, 3)))) == pytest.approx(1 / np.sqrt(5))


@pytest.mark.parametrize(("bits", "dims", "wanted"), [(1, 384, 48), (2, 192, 49), (2, 384, 98), (3, 65, 50)])
def test_bytes_of_a_row(rng, bits, dims, wanted):
    codec = made(rng, bits=bits, dims=dims)
    codes = codec.encode(rng.standard_normal((10, 12)))
    assert codec.nbytes(12) == wanted
    assert codes.planes.nbytes + codes.levels.nbytes == 10 * wanted
    index = Binary(codec)
    index.add(rng.standard_normal((10, 12)))
    assert index.nbytes == 10 * wanted + codec.network_nbytes
    with pytest.raises(BadInput, match="not of 13"):
        codec.nbytes(13)


def test_a_codec_survives_its_file(rng, tmp_path):
    codec = made(rng, bits=3, blocks=2, dims=12)
    path = codec.save(tmp_path / "codec")
    again = RecurrentBinary.load(path)
    rows = rng.standard_normal((20, 12))
    assert np.array_equal(again.encode(rows).planes, codec.encode(rows).planes)
    assert (again.fingerprint, again.learnt, repr(again)) == (codec.fingerprint, {"pairs": 3}, repr(codec))
    raw = bytearray(path.read_bytes())
    for at in (20, len(raw) // 2, len(raw) - 40):
        bad = bytearray(raw)
        bad[at] ^= 64
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            RecurrentBinary.load(path)
    path.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(Corrupt):
        RecurrentBinary.load(path)
    with pytest.raises(BadInput, match="there is no recurrent binary codec"):
        RecurrentBinary.load(tmp_path / "none")


def test_networks_that_do_not_fit_are_refused(rng):
    good = made(rng)
    block = good.networks[0][0]
    with pytest.raises(BadInput, match="1, 3, 5 or 7 networks, got 2"):
        RecurrentBinary(good.networks[:2])
    with pytest.raises(BadInput, match="skip of block 0 must be finite float32"):
        RecurrentBinary([[block._replace(skip=None)]])
    with pytest.raises(BadInput, match="inner of block 0"):
        RecurrentBinary([[block._replace(inner=block.inner.astype(np.float64))]])
    with pytest.raises(BadInput, match="outer_bias of block 0"):
        RecurrentBinary([[block._replace(outer_bias=block.outer_bias * np.float32(np.nan))]])
    with pytest.raises(BadInput, match="must end in 70 numbers ends in 12"):
        RecurrentBinary([good.networks[0], good.networks[1], [block, good.networks[1][0]]])
    with pytest.raises(BadInput, match=r"inner of block 0 must be finite float32 \[70, 9\]"):
        RecurrentBinary([good.networks[0], good.networks[0], good.networks[2]])


def test_bad_rows_and_codes_are_refused(rng):
    codec = made(rng)
    with pytest.raises(SpaceMismatch, match="learnt on rows of 12"):
        codec.encode(np.ones((2, 11)))
    with pytest.raises(BadInput, match="row 1 holds NaN"):
        codec.encode(np.array([[1.0] * 12, [np.nan] * 12]))
    codes = codec.encode(np.ones((2, 12)))
    with pytest.raises(BadInput, match=r"are uint64 \[n, 2, 2\]"):
        codec.decode(BitPlanes(codes.planes[:, :1], codes.levels))
    with pytest.raises(BadInput, match="came with 1 levels"):
        codec.decode(BitPlanes(codes.planes, codes.levels[:1]))
    with pytest.raises(SpaceMismatch, match="have 2 words"):
        codec.score(BitPlanes(codes.planes[:, :, :1], codes.levels), codes)


# --- the index --------------------------------------------------------------------------------------------------------


def test_the_index_finds_what_its_codec_scores(rng, form):
    codec = made(rng)
    rows, queries = rng.standard_normal((500, 12)), rng.standard_normal((6, 12))
    index = Binary(codec)
    for part in np.split(rows, [0, 1, 10, 11, 300]):
        index.add(part)
    scores = codec.score(codec.encode(queries), codec.encode(rows))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    found = index.search(queries, 9)
    assert isinstance(index, Index)
    assert np.array_equal(found.ids, order)
    assert np.array_equal(index.search(queries[0], 9).ids[0], order[0])
    assert np.array_equal(index.codes.planes, codec.encode(rows).planes)
    allow = rng.random(500) < 0.05
    masked = index.search(queries, 60, allow=allow)
    met = masked.ids >= 0
    assert (met.sum(axis=1) == allow.sum()).all()
    assert allow[masked.ids[met]].all()
    assert (masked.scores[~met] == -np.inf).all()
    assert "500 rows" in repr(index)


def test_empty_indexes(rng, form):
    index = Binary(made(rng))
    assert index.search(np.ones((2, 12)), 3).ids.tolist() == [[-1] * 3] * 2
    assert index.search(np.ones((0, 12)), 3).ids.shape == (0, 3)
    index.add(np.ones((0, 12)))
    index.add(np.ones((1, 12)))
    assert index.search(np.ones((1, 12)), 2).ids.tolist() == [[0, -1]]
    assert index.search(np.ones(12), 2, allow=np.zeros(1, bool)).ids.tolist() == [[-1, -1]]


def test_an_index_survives_its_file_and_grows_on(rng, tmp_path):
    for bits in (1, 2):
        codec, rows = made(rng, bits=bits), rng.standard_normal((50, 12))
        index = Binary(codec)
        index.add(rows[:43])
        index.save(tmp_path / "index")
        again = Binary.load(tmp_path / "index")
        assert (len(again), again.nbytes, again.codec.fingerprint) == (43, index.nbytes, codec.fingerprint)
        for one in (index, again):
            one.add(rows[43:])
        assert np.array_equal(index.search(rows, 5).ids, again.search(rows, 5).ids)
    raw = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(raw[: len(raw) // 3])
    with pytest.raises(Corrupt):
        Binary.load(tmp_path / "index")
    bad = bytearray(raw)
    bad[len(raw) // 2] ^= 1
    (tmp_path / "index").write_bytes(bad)
    with pytest.raises(Corrupt):
        Binary.load(tmp_path / "index")
    codec.save(tmp_path / "codec")
    with pytest.raises(BadInput, match="not a binary index"):
        Binary.load(tmp_path / "codec")


def test_bad_searches(rng):
    index = Binary(made(rng))
    index.add(np.ones((2, 12)))
    with pytest.raises(BadInput, match="k must be"):
        index.search(np.ones(12), 0)
    with pytest.raises(BadInput, match=r"allow must be bool \[2\]"):
        index.search(np.ones(12), 1, allow=np.ones(3, bool))
    with pytest.raises(SpaceMismatch, match="the index has 12 dimensions"):
        index.add(np.ones((1, 5)))
    with pytest.raises(BadInput, match="query 0 holds NaN"):
        index.search(np.full(12, np.nan), 1)
    with pytest.raises(BadInput, match="codec must be a RecurrentBinary, got str"):
        Binary("codec")


def test_another_codec_may_ask_only_if_it_was_taught_to(rng, tmp_path):
    old, stranger = made(rng), made(rng, dim=7)
    with pytest.raises(SpaceMismatch, match="was not learnt to be compatible"):
        Binary(old, query_codec=stranger)
    new = RecurrentBinary(stranger.networks, compatible_with=[old.fingerprint])
    index = Binary(old, query_codec=new)
    rows, queries = rng.standard_normal((30, 12)), rng.standard_normal((4, 7))
    index.add(rows)
    scores = kernel.score(new.encode(queries), old.encode(rows), old.dims)
    assert np.array_equal(index.search(queries, 3).ids, np.argsort(-scores, axis=1, kind="stable")[:, :3])
    index.save(tmp_path / "index")
    again = Binary.load(tmp_path / "index")
    assert again.query_codec.compatible_with == (old.fingerprint,)
    assert np.array_equal(again.search(queries, 3).ids, index.search(queries, 3).ids)


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    """Four rows of each of 300 topics in 8 of 24 dimensions; the other dimensions are noise, which pairs tell."""
    rng = np.random.default_rng(3)
    topics = np.pad(rng.standard_normal((300, 8)), ((0, 0), (0, 16)))
    rows = np.repeat(topics, 4, axis=0) + 0.3 * rng.standard_normal((1200, 24))
    rows[:, 8:] *= 2.5
    return rows[0::2].astype(np.float32), rows[1::2].astype(np.float32), np.repeat(np.arange(300), 2)


def at_ten(found, truth):
    return float((found == truth[:, None]).any(axis=1).mean())


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_gradients_pass_a_sign_near_zero_only(torch):
    from inlay.training.binarisation import sign

    x = torch.tensor([-2.0, -1.0, -0.3, 0.0, 1.0, 1.5], requires_grad=True)
    y = sign(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1]
    (y * torch.arange(1.0, 7.0)).sum().backward()
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]


def test_every_network_of_three_bits_gets_a_gradient_by_its_weight(torch):
    from inlay.training.binarisation import RecurrentNet

    torch.manual_seed(0)
    net = RecurrentNet(10, 16, bits=3, hidden=20)
    net(torch.nn.functional.normalize(torch.randn(32, 10))).square().sum().backward()
    for part in (net.first, *net.back, *net.rest):
        for layer in (part.turn.outer, part.turn.skip):
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_bits_begin_as_those_of_one_number(torch):
    """In as many dimensions as rows have: the second bit says whether the rotated number is beyond 1."""
    from inlay.training.binarisation import RecurrentNet

    torch.manual_seed(0)
    net = RecurrentNet(16, 16, bits=2, hidden=8).eval()
    rows = torch.nn.functional.normalize(torch.randn(50, 16))
    x = (rows @ net.first.rotation.T).detach()
    assert float((x**2).mean()) == pytest.approx(1, abs=1e-5)
    wanted = torch.where(x >= 0, 1.0, -1.0) * torch.where(x.abs() >= 1, 1.5, 0.5)
    assert torch.equal(net(rows), wanted)


def test_the_contrast_is_what_it_says(torch):
    from inlay.training.binarisation import hardest_contrast

    torch.manual_seed(0)
    q, d, more = (torch.nn.functional.normalize(torch.randn(n, 5)) for n in (6, 6, 4))
    ids, more_ids = torch.tensor([0, 1, 2, 2, 4, 5]), torch.tensor([1, 9, 9, 9])

    def by_hand(rows, others, names, theirs, positives, hardest):
        losses = []
        for i, row in enumerate(rows):
            z = float(row @ positives[i]) / 0.05
            against = sorted((float(row @ o) / 0.05 for o, t in zip(others, theirs) if t != names[i]), reverse=True)
            terms = np.array([z, *against[:hardest]])
            losses.append(np.log(np.exp(terms - terms.max()).sum()) + terms.max() - z)
        return np.mean(losses)

    for hardest in (None, 2, 5):
        wanted = by_hand(q, [*d, *more], ids.tolist(), [*ids.tolist(), *more_ids.tolist()], d, hardest)
        wanted = (wanted + by_hand(d, q, ids.tolist(), ids.tolist(), q, hardest)) / 2
        found = hardest_contrast(q, d, ids, ids, 0.05, hardest, more, more_ids)
        assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_export_is_the_network_in_evaluation(torch):
    from inlay.training.binarisation import RecurrentNet, learn_codes

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 8)).astype(np.float32)
    torch.manual_seed(0)
    for bits, blocks in ((1, 3), (3, 1)):
        net = learn_codes(RecurrentNet(8, 20, bits, hidden=16, blocks=blocks), rows, epochs=2, batch_size=64)
        codec = RecurrentBinary(net.exported())
        unit = torch.nn.functional.normalize(torch.from_numpy(rows))
        with torch.no_grad():
            b = torch.nn.functional.normalize(net(unit)).numpy()
        same = np.isclose(codec.decode(codec.encode(rows)), b, atol=1e-5).all(axis=1)
        assert same.mean() > 0.99, "but for signs that hang on rounding"
        one = np.array([net(unit[i : i + 1]).detach().numpy()[0] for i in range(3)])
        assert one == pytest.approx(net(unit[:3]).detach().numpy()), "statistics of the batch play no part"


def test_learnt_bits_beat_random_ones(torch, pairs):
    from inlay.training.binarisation import learn_binary

    queries, documents, ids = pairs
    train, test = ids < 200, (ids >= 200) & (np.arange(len(ids)) % 2 == 0)
    quick = {"dims": 32, "hidden": 64, "epochs": 30, "batch_size": 64, "lr": 3e-3}
    reached = {}
    for bits in (1, 2):
        codec = learn_binary(queries[train], documents[train], ids=ids[train], bits=bits, **quick)
        index = Binary(codec)
        index.add(documents[test])
        reached[bits] = at_ten(index.search(queries[test], 10).ids, np.arange(test.sum()))
        assert codec.learnt["pairs"] == train.sum()
        assert codec.learnt["self_pairs"] is False
    projection = np.random.default_rng(0).standard_normal((24, 32))
    q, d = (np.where(rows[test] @ projection >= 0, 1, -1) for rows in (queries, documents))
    chance = at_ten(np.argsort(-(q @ d.T), axis=1)[:, :10], np.arange(test.sum()))
    floats = at_ten(np.argsort(-(queries[test] @ documents[test].T), axis=1)[:, :10], np.arange(test.sum()))
    assert chance < floats - 0.1
    assert min(reached.values()) > floats + 0.1, "pairs tell which dimensions are noise"


def test_rows_alone_will_do(torch, pairs):
    from inlay.training.binarisation import learn_binary

    rows = np.concatenate(pairs[:2])
    codec = learn_binary(rows, dims=64, hidden=64, epochs=8, batch_size=128, queue=300, momentum=0.9)
    scores = codec.score(codec.encode(rows[:200]), codec.encode(rows))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.corrcoef(scores.ravel(), (unit[:200] @ unit.T).ravel())[0, 1] > 0.8
    assert codec.learnt["self_pairs"] is True


def test_the_same_seed_learns_the_same(torch, pairs):
    from inlay.training.binarisation import learn_binary

    rows, quick = pairs[0], {"dims": 16, "hidden": 16, "epochs": 1, "batch_size": 100}
    prints = [learn_binary(rows, seed=seed, **quick).fingerprint for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


def test_new_queries_find_old_codes(torch, pairs):
    """The new encoder is the old one seen through a random rotation into more dimensions."""
    from inlay.training.binarisation import learn_binary

    queries, documents, ids = pairs
    turn = np.random.default_rng(1).standard_normal((24, 40)).astype(np.float32)
    train, test = ids < 200, (ids >= 200) & (np.arange(len(ids)) % 2 == 0)
    quick = {"dims": 32, "hidden": 64, "epochs": 30, "batch_size": 64, "lr": 3e-3, "ids": ids[train]}
    old = learn_binary(queries[train], documents[train], **quick)
    turned = (queries[train] @ turn, documents[train] @ turn)
    new = learn_binary(*turned, compatible_with=(old, old.encode(documents[train])), seed=5, **quick)
    index = Binary(old, query_codec=new)
    index.add(documents[test])
    kept, truth = Binary(old), np.arange(test.sum())
    kept.add(documents[test])
    ours = at_ten(index.search(queries[test] @ turn, 10).ids, truth)
    theirs = at_ten(kept.search(queries[test], 10).ids, truth)
    alone = learn_binary(*turned, seed=5, **quick)
    apart = kernel.score(alone.encode(queries[test] @ turn), old.encode(documents[test]), 32)
    assert ours > theirs - 0.15
    assert at_ten(np.argsort(-apart, axis=1)[:, :10], truth) < 0.5 * ours
    with pytest.raises(SpaceMismatch, match="learn the new codec with dims=32"):
        learn_binary(*turned, compatible_with=(old, old.encode(documents[train])), **quick | {"dims": 16})
    with pytest.raises(BadInput, match="an old code for each document"):
        learn_binary(*turned, compatible_with=(old, old.encode(documents[:3])), **quick)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits must be from 1 to 4"),
        ({"bits": 0}, "bits must be a positive integer"),
        ({"dims": 1.5}, "dims must be a positive integer"),
        ({"epochs": True}, "epochs must be"),
        ({"hardest": 0}, "hardest must be"),
        ({"batch_size": 1}, "batch_size must be 2 or more"),
        ({"queue": -1}, "queue must be 0"),
        ({"tau": 0}, "tau must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"noise": -0.1}, "noise must be 0 or more"),
        ({"ids": [1, 2, 3]}, r"ids must be one a pair \[4\], got \[3\]"),
        ({"documents": np.ones((3, 2))}, "are pairs"),
        ({"compatible_with": ("old", None)}, "its codec is a str"),
    ],
)
def test_bad_settings(torch, options, message):
    from inlay.training.binarisation import learn_binary

    with pytest.raises(BadInput, match=message):
        learn_binary(np.eye(4, 2), **options)


@pytest.mark.parametrize("rows", [np.ones((1, 4)), np.ones(4), np.full((3, 4), np.inf)])
def test_bad_rows(torch, rows):
    from inlay.training.binarisation import learn_binary

    with pytest.raises(BadInput):
        learn_binary(rows)
