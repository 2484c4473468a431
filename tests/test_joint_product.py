"""Poeem's layer and the towers under it: gradients, schedule, rotation steps, export, files, refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from inlay.errors import BadInput, Corrupt  # noqa: E402
from inlay.training.joint_product import JointPQ, _disjoint, _kl  # noqa: E402
from inlay.training.two_tower import TwoTower  # noqa: E402


def unit(n: int, dim: int = 8, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, generator=random) * 0.7 ** torch.arange(dim) + torch.randn(1, dim, generator=random) / 4
    return torch.nn.functional.normalize(rows, dim=1)


def layer_of(**given) -> JointPQ:
    return JointPQ(8, **({"coarse": 4, "m": 4, "ksub": 8, "warmup": 0, "buffer": 64, "turns": 4} | given))


def started(**given) -> JointPQ:
    layer = layer_of(**given)
    layer.start(unit(200))
    return layer


def test_value_is_that_of_the_codes_and_gradient_goes_to_the_row():
    layer, rows = started().train(), unit(30, seed=1).requires_grad_()
    out = layer(rows)
    codec = layer.codec()
    near = codec.decode(codec.encode(rows.detach().numpy()))
    np.testing.assert_allclose(out.rows.detach().numpy(), near, atol=1e-5)
    assert float(out.distortion.detach()) == pytest.approx(float(((near - rows.detach().numpy()) ** 2).sum(1).mean()))
    pull = torch.randn(30, 8)
    (out.rows * pull).sum().backward()
    assert torch.equal(rows.grad, pull)  # as if nothing had been done to the row
    assert layer.centroids.grad is None
    assert layer.codebooks.grad is None


def test_distortion_moves_centres_only():
    layer, rows = started().train(), unit(30, seed=1).requires_grad_()
    before = layer(rows).distortion
    before.backward()
    assert rows.grad is None
    assert layer.centroids.grad.abs().sum() > 0
    assert layer.codebooks.grad.abs().sum() > 0
    with torch.no_grad():
        for centres in (layer.centroids, layer.codebooks):
            centres -= 0.1 * centres.grad
    assert layer(rows).distortion < before


def test_rotation_is_where_rows_are_assigned():
    """Codes are of rotated rows: a layer that forgets to rotate names other centres."""
    layer = started()
    codes = layer(unit(200)).codes.numpy()
    codec = layer.codec()
    assert np.abs(codec.rotation - np.eye(8)).max() > 0.1
    assert np.array_equal(codes, codec.numbers(codec.encode(unit(200).numpy()).codes))
    layer.rotation.copy_(torch.eye(8))
    assert not np.array_equal(codes, layer(unit(200)).codes.numpy())


def test_the_skew_is_that_of_the_gradient():
    layer, rows = started().train(), unit(50, seed=2)
    layer(rows)
    skew = layer._skew
    rotation = layer.rotation.clone().requires_grad_()
    _, lists, codes = layer._assign(rows)
    near = layer._named(lists, codes).detach()
    ((near @ rotation.T - rows) ** 2).sum(1).mean().backward()
    grad = rotation.grad
    torch.testing.assert_close(skew, grad.T @ layer.rotation - layer.rotation.T @ grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pairs", ["greedy", "random"])
def test_turns_keep_a_rotation_and_lower_the_distortion(pairs):
    torch.manual_seed(0)
    layer, rows = started(pairs=pairs, rate=2.0).train(), unit(200)
    settled = float(layer.eval()(rows).distortion.detach())
    layer.train()
    with torch.no_grad():  # away from the rotation that the centres were made for
        layer.rotation.copy_(layer.rotation @ torch.linalg.matrix_exp((s := torch.randn(8, 8) * 0.1) - s.T))
    errors = []
    for _ in range(60):
        errors.append(float(layer(rows).distortion.detach()))
        assert layer.after_step() >= 0
    assert errors[-1] < (errors[0] + settled) / 2
    assert (np.diff(errors) < 1e-3).all()
    eye = layer.rotation.T @ layer.rotation
    torch.testing.assert_close(eye, torch.eye(8), atol=1e-4, rtol=0)
    assert torch.linalg.det(layer.rotation) > 0.99
    assert layer.after_step() == 0.0  # nothing was seen since


@pytest.mark.parametrize("pairs", ["greedy", "random"])
@pytest.mark.parametrize("dim", [1, 2, 5, 8])
def test_pairs_are_disjoint(pairs, dim):
    skew = torch.randn(dim, dim)
    first, second = _disjoint(skew - skew.T, pairs, np.random.default_rng(0))
    used = torch.cat([first, second]).tolist()
    assert len(first) == dim // 2
    assert len(set(used)) == len(used)
    if pairs == "greedy" and dim > 1:
        assert (skew - skew.T).abs().max() == (skew - skew.T)[first[0], second[0]].abs()


def test_the_schedule():
    layer = layer_of(warmup=3, buffer=64).train()
    phases = []
    for step in range(8):
        phases.append(layer.phase)
        out = layer(unit(32, seed=step))
        if out.codes is None:
            assert torch.equal(out.rows, unit(32, seed=step))
            assert float(out.distortion) == 0
    assert phases == ["warm-up"] * 3 + ["collecting"] * 2 + ["joint"] * 3
    assert not layer._kept
    layer = layer_of(warmup=1).eval()
    for _ in range(5):
        layer(unit(32))
    assert layer.phase == "warm-up"  # only training counts


def test_the_warm_start_is_of_the_collected_rows():
    layer = layer_of(warmup=1, buffer=64).train()
    for step in range(3):
        layer(unit(40, seed=step))
    assert layer.phase == "joint"
    other = layer_of()
    other.start(torch.cat([unit(40, seed=1), unit(40, seed=2)[:24]]))
    assert torch.equal(layer.codebooks, other.codebooks)
    assert torch.equal(layer.rotation, other.rotation)


def test_without_warm_start_most_centres_are_dead():
    cold, warm = layer_of(warm_start=False, coarse=16, ksub=32), started(coarse=16, ksub=32)
    assert cold.phase == "joint"
    found = []
    for layer in (cold, warm):
        layer.train()(unit(200))
        found.append(layer.usage())
    assert found[0].list_kl > 3 * found[1].list_kl
    assert found[0].code_kl > found[1].code_kl
    assert found[0].unused > found[1].unused
    assert found[0].distortion > 3 * found[1].distortion
    assert found[0].rows == 200
    assert layer.usage().rows == 0


def test_kl_of_usage():
    assert _kl(torch.full((8,), 5)) == pytest.approx(0)
    assert _kl(torch.tensor([9, 0, 0, 0])) == pytest.approx(np.log(4))
    assert _kl(torch.zeros(4, dtype=torch.int64)) == 0


def test_without_rotation_axes_stay():
    layer = started(rotation=None).train()
    layer(unit(50))
    assert layer.after_step() == 0.0
    assert torch.equal(layer.rotation, torch.eye(8))


def test_what_it_exports_is_what_the_model_saw():
    layer, rows = started(), unit(120, seed=5)
    seen = layer(rows)
    index = layer.export(rows, probes=99)
    queries = unit(10, seed=6).numpy()
    found = index.search(queries, 120)
    dots = queries @ seen.rows.detach().numpy().T
    np.testing.assert_allclose(found.scores, -np.sort(-dots, axis=1), atol=1e-4)
    same = layer.export(layer.encode(rows.numpy()), probes=99)
    assert np.array_equal(same._codes, index._codes)
    assert len(layer.export(rows[:0])) == 0
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    scores, _ = index.to_faiss().search(queries, 20)
    np.testing.assert_allclose(found.scores[:, :20], scores, atol=1e-4)


def test_no_coarse_centres():
    layer, rows = started(coarse=0), unit(50)
    out = layer(rows)
    assert not out.lists.any()
    assert layer.encode(rows).lists.tolist() == [0] * 50
    np.testing.assert_allclose(layer.codec().decode(layer.encode(rows)), out.rows.detach().numpy(), atol=1e-5)


def test_it_survives_its_file(tmp_path):
    layer = started(seed=3).train()
    layer(unit(40))
    layer.after_step()
    path = layer.save(tmp_path / "layer")
    again = JointPQ.load(path)
    assert again.settings() == layer.settings()
    assert again.phase == "joint"
    assert torch.equal(again(unit(30)).rows, layer.eval()(unit(30)).rows)
    raw = bytearray(path.read_bytes())
    for at in (12, len(raw) // 2, len(raw) * 3 // 4):  # the end is padding
        bad = bytearray(raw)
        bad[at] ^= 8
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            JointPQ.load(path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Corrupt):
        JointPQ.load(path)
    with pytest.raises(BadInput, match="there is no joint product quantiser"):
        JointPQ.load(tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m": 3}, "take an m that divides 8"),
        ({"ksub": 10}, "power of two"),
        ({"coarse": -1}, "lists must be"),
        ({"rotation": "cayley"}, "rotation must be 'givens' or None"),
        ({"pairs": "steepest"}, "pairs must be"),
        ({"rate": -1}, "rate must be"),
        ({"warmup": -1}, "warmup must be"),
        ({"buffer": 5}, "a buffer of 5 rows is too small for 8 centres"),
        ({"warm_start": 1}, "warm_start"),
        ({"turns": 0}, "iterations must be"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(BadInput, match=message):
        layer_of(**given)


def test_bad_rows_and_moments():
    layer = layer_of(warmup=4)
    with pytest.raises(BadInput, match=r"takes rows \[n, 8\], got \[3, 5\]"):
        layer(torch.zeros(3, 5))
    with pytest.raises(BadInput, match="has no codes yet; train on, or call start"):
        layer.export(unit(5))
    with pytest.raises(BadInput, match="at least 8 rows of 8"):
        layer.start(unit(5))
    with pytest.raises(BadInput, match="dim must be"):
        JointPQ(0)


# Towers


def topics(random: np.random.Generator, n: int = 64, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that share what the first eight numbers say; the rest is louder noise."""
    both = random.normal(size=(n, 8))
    sides = []
    for _ in range(2):
        rows = random.normal(size=(n, width)) * 2
        rows[:, :8] = both + random.normal(size=(n, 8)) * 0.2
        sides.append(rows.astype(np.float32))
    return sides[0], sides[1]


def hits(model: TwoTower, items=lambda rows: rows) -> float:
    queries, held = topics(np.random.default_rng(99), 300)
    dots = model.encode_query(queries) @ items(model.encode_item(held)).T
    return float((dots.argmax(axis=1) == np.arange(300)).mean())


def test_towers_learn_and_an_index_learnt_with_them_beats_none():
    model = TwoTower(20, 8, hidden=16)
    before = hits(model)
    losses: list[float] = []
    model.fit(topics, steps=120, rate=1e-2, watch=lambda step, loss: losses.append(loss))
    assert len(losses) == 120
    assert losses[-1] < 0.6 * losses[0]
    assert hits(model) > before + 0.2
    layer = layer_of(warmup=60, buffer=256, ksub=16)
    joint = TwoTower(20, 8, hidden=16, layer=layer).fit(topics, steps=120, rate=1e-2)
    assert layer.phase == "joint"
    codec = layer.codec()
    assert hits(joint, lambda rows: codec.decode(codec.encode(rows))) > before + 0.15


def test_towers_start_alike_and_by_their_seed():
    rows = topics(np.random.default_rng(0))[0]
    one, same, other = TwoTower(20, 8), TwoTower(20, 8), TwoTower(20, 8, seed=1)
    assert np.array_equal(one.encode_query(rows), one.encode_item(rows))
    assert np.array_equal(one.encode_query(rows), same.encode_query(rows))
    assert not np.array_equal(one.encode_query(rows), other.encode_query(rows))
    np.testing.assert_allclose(np.linalg.norm(one.encode_item(rows), axis=1), 1, atol=1e-5)


def test_items_with_rows_of_their_own():
    texts = np.random.default_rng(5).normal(size=(60, 20)).astype(np.float32)

    def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        items = random.choice(60, 32, replace=False)
        return texts[items] + random.normal(size=(32, 20)).astype(np.float32) * 0.3, items

    layer = layer_of(warmup=20, buffer=64)
    model = TwoTower(20, 8, hidden=16, items=60, layer=layer).fit(draw, steps=100, rate=2e-2)
    items = model.encode_item(np.arange(60))
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-5)
    near = layer.codec().decode(layer.encode(items))
    for known in (items, near):
        assert ((model.encode_query(texts) @ known.T).argmax(axis=1) == np.arange(60)).mean() > 0.8
    with pytest.raises(BadInput, match="items go from 0 to 59, got 60 to 60"):
        model.encode_item(np.array([60]))
    with pytest.raises(BadInput, match=r"items are numbers \[n\] here"):
        model.encode_item(texts)
    with pytest.raises(BadInput, match="items must be"):
        TwoTower(20, 8, items=0)


def test_towers_survive_their_file(tmp_path):
    layer = layer_of(warmup=2)
    model = TwoTower(20, 8, hidden=16, layer=layer, tau=0.1).fit(topics, steps=4)
    path = model.save(tmp_path / "towers")
    again = TwoTower.load(path, layer=layer)
    rows = topics(np.random.default_rng(0))[0]
    assert np.array_equal(again.encode_item(rows), model.encode_item(rows))
    assert repr(again) == repr(model)
    with pytest.raises(BadInput, match="the layer takes rows of 16"):
        TwoTower.load(path, layer=JointPQ(16, coarse=0, m=4, ksub=2))
    raw = path.read_bytes()
    path.write_bytes(raw[:-9])
    with pytest.raises(Corrupt):
        TwoTower.load(path)


def test_bad_towers():
    with pytest.raises(BadInput, match="width must be"):
        TwoTower(0)
    with pytest.raises(BadInput, match="tau must be"):
        TwoTower(4, tau=0)
    with pytest.raises(BadInput, match="the layer takes rows of 8 numbers, the towers make 16"):
        TwoTower(4, 16, layer=layer_of())
    with pytest.raises(BadInput, match="steps must be"):
        TwoTower(20, 8).fit(topics, steps=0)
    with pytest.raises(BadInput, match=r"take rows \[n, 20\], got \[2, 3\]"):
        TwoTower(20, 8).encode_item(np.zeros((2, 3)))
