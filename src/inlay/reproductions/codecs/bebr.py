"""BEBR (Gan et al., KDD 2023): a few learnt bits a dimension, each further bit for what the ones before left over.

The paper claims that at equal total bits two bits in half as many dimensions retrieve better than one bit in each, that
what floats find is found almost entirely in a sixteenth of their size, and that a codec can be learnt for a new encoder
so that its queries search the codes which the old one made. Three figures decide here, each the mean over seeds:

- R@10 of two bits is at least 0.5 points above that of one bit (learnt hashing) at equal bytes, at both sizes;
- at a sixteenth of the size R@10 is at least 97% of what the frozen float rows reach;
- new queries over old codes reach at least what old queries over old codes do.

All three make it shown, one or two of them partly.

Rows are captions under the encoder in the box; five captions of one picture belong together. Codecs learn from pairs of
captions of some pictures and are judged on others: of one caption's four sisters among 4,000 captions, the share within
the first ten (R@10), searched with codes on both sides and no re-ranking. The hash is given at least as many bytes: its
dimensions are raised by what a row of two bits spends on its length. The step (1e-3 or 3e-3) and the batch (128 or
512) of both were chosen by R@10 at 48 bytes on pictures that are neither learnt from nor judged on; there a hash of one
block did as well as the paper's three. Both are learnt for the same number of passes over the pairs.

Beside them stand codes that learn from the same rows without pairs, at equal bits: the signs of rows, of a random
rotation and of ITQ, two bits of a random rotation, product quantisation with and without a learnt rotation, and RaBitQ;
and, since pairs help by themselves, a network of the same kind that gives floats, and its rows product-quantised. The
old encoder of the upgrade is the box without its transformer layers.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.reproductions.result import Figure, Result

if TYPE_CHECKING:
    from inlay.codecs.recurrent_binary import RecurrentBinary

PAPER = "Binary Embedding-based Retrieval at Tencent (arXiv 2302.08714, KDD 2023)"

TRAIN = 2500  # pictures
SIZES = (192, 384)  # dimensions of two bits: 48 and 96 bytes, where floats take 1,536
LEARN: dict[str, Any] = {"hidden": 512, "epochs": 4, "lr": 1e-3}
EACH: dict[int, dict[str, int]] = {1: {"blocks": 1, "batch_size": 128}, 2: {"blocks": 1, "batch_size": 512}}  # by bits
GAIN, SHARE = 0.005, 0.97
K = 10


class Captions(NamedTuple):
    """Rows of captions: pairs to learn from with the pictures they are of, queries, and four documents for each."""

    left: np.ndarray
    right: np.ndarray
    pictures: np.ndarray
    queries: np.ndarray
    documents: np.ndarray


def run(data: Path, *, seeds: Sequence[int] = (0, 1, 2), progress: bool = False) -> Result:
    """Codecs of both kinds and sizes, an upgrade, and the codes that learn without pairs; about six minutes."""
    import torch

    began = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        new, old = _captions(data, context=True), _captions(data, context=False)
        truth = _best(new.queries @ new.documents.T)
        floats = _found(truth)
        _say(progress, f"float rows {floats:.4f}")
        plain = {
            name: (_found(ids), _overlap(ids, truth))
            for name, ids in _without_pairs(new, progress).items()
        }  # fmt: skip
        learnt: dict[str, list[tuple[float, float]]] = {}
        upgrade: dict[str, list[float]] = {}
        for seed in seeds:
            codecs: dict[tuple[int, int], RecurrentBinary] = {}
            for dims in SIZES:
                for bits, wide in ((2, dims), (1, 2 * dims + 8 * _spent(dims))):
                    codec = codecs[bits, dims] = _learnt(new, wide, bits, seed)
                    ids = _searched(codec, codec, new.queries, new.documents)
                    name = f"{bits} bit{'s' * (bits > 1)}, {wide} dimensions"
                    learnt.setdefault(name, []).append((_found(ids), _overlap(ids, truth)))
                    _say(progress, f"seed {seed}, {name}: R@10 {learnt[name][-1][0]:.4f}")
            for name, value in _heads(new, truth, seed).items():
                learnt.setdefault(name, []).append(value)
                _say(progress, f"seed {seed}, {name}: R@10 {value[0]:.4f}")
            for name, share in _upgraded(old, new, codecs[2, SIZES[0]], seed).items():
                upgrade.setdefault(name, []).append(share)
                _say(progress, f"seed {seed}, {name}: R@10 {share:.4f}")
    finally:
        torch.set_num_threads(threads)

    means = {name: float(np.mean([one[0] for one in own])) for name, own in learnt.items()}
    two = [means[f"2 bits, {dims} dimensions"] for dims in SIZES]
    one = [means[f"1 bit, {2 * dims + 8 * _spent(dims)} dimensions"] for dims in SIZES]
    gains = [a - b for a, b in zip(two, one)]
    kept = two[-1] / floats
    moved = {name: float(np.mean(own)) for name, own in upgrade.items()}
    held = (
        all(gain >= GAIN for gain in gains), kept >= SHARE, moved["new queries, old codes"] >= moved["old, old codes"]
    )  # fmt: skip
    return Result(
        name="bebr",
        title="BEBR",
        room="codecs",
        source=PAPER,
        claim="two learnt bits a dimension beat one at equal bytes, keep what floats find, and outlive an upgrade",
        paper="R@10 on COCO at 1,024 bits: .751 with two bits a dimension, .730 with one, .744 with floats",
        metric=f"R@10 at {SIZES[-1] * 2 // 8} bytes a row",
        baseline=Figure("learnt hash, 1 bit", round(one[-1], 4)),
        method=Figure("BEBR, 2 bits", round(two[-1], 4)),
        data=f"Flickr8k captions: {TRAIN:,} pictures to learn from, {len(new.queries):,} to judge",
        verdict="shown" if all(held) else "partly" if any(held) else "not shown",
        detail=_detail(two, one, gains, floats, kept, moved, held, means, learnt, plain),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={
            "float_R@10": round(floats, 4),
            "columns": ["R@10", "recall@10 of the float rows' nearest"],
            "without_pairs": {name: [round(value, 4) for value in own] for name, own in plain.items()},
            "learnt": {name: [[round(v, 4) for v in one] for one in own] for name, own in learnt.items()},
            "upgrade": {name: [round(value, 4) for value in own] for name, own in upgrade.items()},
            "settings": {**LEARN, "by bits": {str(bits): own for bits, own in EACH.items()}},
        },
    )


def _spent(dims: int) -> int:
    """Bytes in which a row of two bits keeps its length."""
    from inlay.codecs.recurrent_binary import level_type

    return level_type(dims, 2).itemsize


def _captions(data: Path, context: bool) -> Captions:
    from inlay.encoders.box import Box

    path = data / "pairs" / "flickr8k_captions.tsv.gz"
    if not path.is_file():
        raise BadInput(f"there is no {path}; give the data folder that holds it")
    pictures: dict[tuple[str, str], list[str]] = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()[1:]:
        split, picture, _, caption = line.split("\t")
        pictures.setdefault((split, picture), []).append(caption)
    learn, judge = (
        [own for (split, _), own in pictures.items() if split == name and len(own) == 5] for name in ("train", "dev")
    )
    learn = learn[:TRAIN]
    box = Box(context)
    train, held = (
        box.encode_document([text for own in part for text in own]).reshape(len(part), 5, -1) for part in (learn, judge)
    )
    pairs = [(i, (i + step) % 5) for i in range(5) for step in (1, 2)]  # every two of five, once
    left, right = (np.concatenate([train[:, pair[side]] for pair in pairs]) for side in (0, 1))
    names = np.tile(np.arange(len(learn)), len(pairs))
    return Captions(left, right, names, held[:, 0].copy(), held[:, 1:].reshape(-1, held.shape[2]).copy())


def _learnt(rows: Captions, dims: int, bits: int, seed: int, **options: Any) -> RecurrentBinary:
    from inlay.training.binarisation import learn_binary

    settings = {**LEARN, **EACH[bits], **options}
    return learn_binary(rows.left, rows.right, ids=rows.pictures, dims=dims, bits=bits, seed=seed, **settings)


def _searched(asking: RecurrentBinary, kept: RecurrentBinary, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    from inlay.indexes.binary import Binary

    index = Binary(kept, query_codec=asking)
    index.add(documents)
    return index.search(queries, K).ids


def _heads(rows: Captions, truth: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """A network that learns from the same pairs and gives floats, and its rows in 48 bytes."""
    import torch

    from inlay.training.binarisation import ResidualMLP, learn_codes

    torch.manual_seed(seed)
    wide = rows.queries.shape[1]
    net = learn_codes(
        ResidualMLP(wide, wide, LEARN["hidden"]), rows.left, rows.right, ids=rows.pictures, epochs=LEARN["epochs"],
        lr=LEARN["lr"], seed=seed,
    )  # fmt: skip

    def made(own: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.nn.functional.normalize(net(torch.from_numpy(own))).numpy()

    queries, documents = made(rows.queries), made(rows.documents)
    seen = made(rows.left[: 5 * TRAIN])
    ids = {
        "floats, learnt from the same pairs": _best(queries @ documents.T),
        f"these product-quantised, {SIZES[0] * 2 // 8} bytes": _product(seen, queries, documents, SIZES[0] * 2 // 8),
    }
    return {name: (_found(own), _overlap(own, truth)) for name, own in ids.items()}


def _upgraded(old: Captions, new: Captions, alone: RecurrentBinary, seed: int) -> dict[str, float]:
    """R@10 before, during and after an upgrade from the old encoder to the new one."""
    from inlay.kernels.bit_planes import score

    dims = SIZES[0]
    before = _learnt(old, dims, 2, seed + 1000)  # no rotation that both began with shall help
    after = _learnt(new, dims, 2, seed, compatible_with=(before, before.encode(old.right)))
    apart = score(alone.encode(new.queries), before.encode(old.documents), dims)
    return {
        "old, old codes": _found(_searched(before, before, old.queries, old.documents)),
        "new queries, old codes": _found(_searched(after, before, new.queries, old.documents)),
        "new, new codes": _found(_searched(after, after, new.queries, new.documents)),
        "new without that loss, old codes": _found(_best(apart)),
    }


def _without_pairs(rows: Captions, progress: bool) -> dict[str, np.ndarray]:
    """What codes that never saw a pair find, by name: those with signs compare signs, the others keep float queries."""
    wide, seen = rows.queries.shape[1], rows.left[: 5 * TRAIN]
    random = np.random.default_rng(0)
    middle = seen.mean(axis=0)
    found: dict[str, Callable[[], np.ndarray]] = {}

    def signs(turn: np.ndarray | None = None, less: np.ndarray | float = 0.0) -> Callable[[], np.ndarray]:
        def search() -> np.ndarray:
            q, d = (own - less if turn is None else (own - less) @ turn for own in (rows.queries, rows.documents))
            return _best(np.where(q >= 0, np.float32(1), np.float32(-1)) @ np.where(d >= 0, 1, -1).astype(np.float32).T)

        return search

    found["signs, 48 bytes"] = signs()
    found["signs of centred rows, 48 bytes"] = signs(less=middle)
    found["signs of a random rotation, 48 bytes"] = signs(np.linalg.qr(random.standard_normal((wide, wide)))[0])
    found["signs of a random projection, 96 bytes"] = signs(random.standard_normal((wide, 2 * wide)))
    found["ITQ, 48 bytes"] = signs(_itq(seen - middle, random), middle)
    for dims in SIZES:
        name = f"two bits of a random rotation, where learning starts, {dims * 2 // 8} bytes"
        found[name] = lambda dims=dims: _untaught(rows, dims)  # type: ignore[misc]
    for size in (SIZES[0] * 2 // 8, SIZES[1] * 2 // 8):
        found[f"PQ, {size} bytes"] = lambda size=size: _product(seen, rows.queries, rows.documents, size)  # type: ignore[misc]
    try:
        import faiss
    except ImportError:
        pass
    else:
        faiss.omp_set_num_threads(1)
        found["OPQ, 48 bytes"] = lambda: _rotated_product(seen, rows.queries, rows.documents, 48)
        for bits in (1, 2):
            size = wide * bits // 8
            found[f"RaBitQ, {size} bytes and its factors"] = lambda bits=bits: _rabitq(seen, rows, bits)  # type: ignore[misc]
    made = {}
    for name, search in found.items():
        made[name] = search()
        _say(progress, f"{name}: R@10 {_found(made[name]):.4f}")
    return made


def _untaught(rows: Captions, dims: int) -> np.ndarray:
    import torch

    from inlay.codecs.recurrent_binary import RecurrentBinary
    from inlay.training.binarisation import RecurrentNet

    torch.manual_seed(0)
    codec = RecurrentBinary(RecurrentNet(rows.queries.shape[1], dims, 2, hidden=1).exported())
    return _searched(codec, codec, rows.queries, rows.documents)


def _itq(rows: np.ndarray, random: np.random.Generator, steps: int = 50) -> np.ndarray:
    """PCA, then the rotation of Gong and Lazebnik (2011) that brings centred rows nearest to their signs [dim, dim]."""
    axes = np.linalg.eigh(rows.T @ rows)[1][:, ::-1]
    seen = rows @ axes
    turn = np.linalg.qr(random.standard_normal((rows.shape[1], rows.shape[1])))[0].astype(np.float32)
    for _ in range(steps):
        left, _, right = np.linalg.svd(np.where(seen @ turn >= 0, 1, -1).astype(np.float32).T @ seen)
        turn = (left @ right).T
    return axes @ turn


def _product(seen: np.ndarray, queries: np.ndarray, documents: np.ndarray, parts: int) -> np.ndarray:
    try:
        import faiss
    except ImportError:
        from inlay.codecs.product import ProductQuantiser

        codec = ProductQuantiser(parts).fit(seen)
        return _best(queries @ codec.decode(codec.encode(documents)).T)
    faiss.omp_set_num_threads(1)
    index = faiss.IndexPQ(seen.shape[1], parts, 8, faiss.METRIC_INNER_PRODUCT)
    return _by_faiss(index, seen, queries, documents)


def _rotated_product(seen: np.ndarray, queries: np.ndarray, documents: np.ndarray, parts: int) -> np.ndarray:
    import faiss

    wide = seen.shape[1]
    turn = faiss.OPQMatrix(wide, parts)
    turn.niter, turn.niter_pq = 10, 4
    index = faiss.IndexPreTransform(turn, faiss.IndexPQ(wide, parts, 8, faiss.METRIC_INNER_PRODUCT))
    return _by_faiss(index, seen, queries, documents)


def _rabitq(seen: np.ndarray, rows: Captions, bits: int) -> np.ndarray:
    import faiss

    wide = seen.shape[1]
    codec = faiss.IndexRaBitQ(wide, faiss.METRIC_INNER_PRODUCT, bits)
    index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(wide, wide), codec)
    return _by_faiss(index, seen, rows.queries, rows.documents)


def _by_faiss(index: Any, seen: np.ndarray, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    index.train(np.ascontiguousarray(seen))
    index.add(np.ascontiguousarray(documents))
    return index.search(np.ascontiguousarray(queries), K)[1]


def _best(scores: np.ndarray) -> np.ndarray:
    """The ten highest of each row, of equals the first: a scan in order of id, as the indexes have it."""
    from inlay.kernels.topk import top_k

    return top_k(scores, K).ids


def _found(ids: np.ndarray) -> float:
    """R@10: the share of pairs of a query and one of its four documents that are found."""
    return float((ids // 4 == np.arange(len(ids))[:, None]).sum() / (4 * len(ids)))


def _overlap(ids: np.ndarray, truth: np.ndarray) -> float:
    return float((ids[:, :, None] == truth[:, None, :]).any(axis=2).mean())


def _detail(
    two: list[float], one: list[float], gains: list[float], floats: float, kept: float, moved: dict[str, float],
    held: tuple[bool, ...], means: dict[str, float], learnt: dict[str, list[tuple[float, float]]],
    plain: dict[str, tuple[float, float]],
) -> str:  # fmt: skip
    sizes = [dims * 2 // 8 for dims in SIZES]
    spread = max(np.ptp([one[0] for one in own]) for name, own in learnt.items() if "bit" in name)
    said = [
        "R@10 of two bits a dimension and of one: "
        + "; ".join(f"{a:.4f} and {b:.4f} at {size} bytes ({gain * 100:+.1f} points)" for a, b, size, gain in zip(
            two, one, sizes, gains))
        + (", as claimed." if held[0] else f"; {GAIN * 100:g} points more were needed at both sizes.")
        + f" Over seeds a codec varies by {spread * 100:.1f} points at most.",
        f"The frozen float rows reach {floats:.4f}; two bits in a sixteenth of their size keep {kept:.1%} of it, "
        f"where {SHARE:.0%} were needed.",
        f"In the upgrade old queries over old codes reach {moved['old, old codes']:.4f}, new queries over old codes "
        f"{moved['new queries, old codes']:.4f} (without the compatible loss "
        f"{moved['new without that loss, old codes']:.4f}), and new over new {moved['new, new codes']:.4f}.",
        "Without pairs: "
        + "; ".join(f"{name} {value[0]:.4f}" for name, value in sorted(plain.items(), key=lambda own: -own[1][0]))
        + ".",
        "With the same pairs: "
        + "; ".join(f"{name} {value:.4f}" for name, value in means.items() if "bit" not in name)
        + ".",
    ]  # fmt: skip
    floats_too = next(value for name, value in means.items() if name.startswith("floats"))
    said.append(
        f"Pairs help whatever the code is: of those floats the larger two-bit codes keep {two[-1] / floats_too:.1%}."
    )
    best = max(plain, key=lambda name: plain[name][0])
    if plain[best][0] > max(two):
        said.append(f"No learnt code of two bits reaches {best}, which compares them with a query that stays exact.")
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        import sys

        print(line, file=sys.stderr, flush=True)
