"""Language models with tables: STEM in half of the layers against the dense decoder, and its rows outside of the model.

Peers are the dense `Decoder` of the same shape, and the same STEM decoder with its rows in memory. A training step is
the trainer's: loss, backward, clipping, AdamW of the backbone and `RowAdam` of the rows (`StoreAdam` where they are in
a store). Decoding reads a text token by token with a cache of keys and values, and takes the likeliest token each time,
as generating does; what it goes on with is the text's, since a decoder that has learnt nothing would repeat itself and
find every row in the cache. Texts that are timed are Zipf draws, never the same twice; a cache of a quarter of the rows
finds about as many of theirs as of English's. What caches save is counted on held-out English (`row_caches`).

Where torch finds a GPU, all that is timed is timed there too, with a larger decoder: rows on the device, in page-locked
host memory behind a copy stream, and in a mapped file. Mapped files are warm, that is, in the system's page cache.
"""

from __future__ import annotations

import copy
import gc
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import row_caches
from benchmarks.gather import zipf
from benchmarks.harness import Contender, Quality, Row, compare

if TYPE_CHECKING:
    import torch

    from inlay.lm import Decoder, Offloaded

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Language models with tables"
PACKAGES = ("inlay", "torch", "numpy", "numba", "tokenizers")
SHAPES: dict[str, dict[str, int]] = {
    "cpu": {"vocab": 8192, "dim": 512, "layers": 4, "heads": 8},
    "cuda": {"vocab": 32_768, "dim": 1024, "layers": 8, "heads": 16},
    "quick": {"vocab": 1024, "dim": 128, "layers": 4, "heads": 4},
}
BATCHES = {"cpu": (8, 128), "cuda": (16, 512), "quick": (2, 64)}  # windows of a training step, and their tokens
CHUNK = 128  # tokens read at a time
TEXTS = {"cpu": (1024, 64), "cuda": (1024, 64), "quick": (256, 8)}  # tokens of a text read at once, and of one singly
LITTLE = 10  # % of its tokens a second that decoding may lose when rows are in a store

SAVED = Quality("FLOPs saved a STEM layer, over 2·dim·hidden (torch's count or the formula's, the worse : 1)", 0.01)
SAME = Quality("share of equal logits", 0.0)
ALIKE = Quality("loss of the second step", 1e-3)


def measure(quick: bool = False) -> Iterator[Row]:
    """Training, decoding and prefill on the processor; caches; the same on a GPU where there is one."""
    import torch
    import torch._dynamo  # optimisers would load it later

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # each timing begins with a collection, which need not go through all that torch has loaded
    try:
        yield from _device("cpu", quick)
        yield from row_caches.measure(quick)
        if torch.cuda.is_available():
            yield from _device("cuda", quick)
        else:
            yield Row(
                "training, decoding and prefill on a GPU, rows there, in host memory and on disk", "the dense decoder",
                refused="torch finds no CUDA device, so this part was not run",
            )  # fmt: skip
    finally:
        gc.unfreeze()


class _Place:
    """A device, and what is measured there: copies of one dense decoder and of one with STEM, and texts."""

    def __init__(self, device: str, quick: bool, folder: Path) -> None:
        import torch

        size = "quick" if quick else device
        self.device, self.folder, self.quick = torch.device(device), folder, quick
        self.shape, (self.batch, self.length), (self.prompt, self.decoded) = SHAPES[size], BATCHES[size], TEXTS[size]
        self.near = "memory" if device == "cpu" else "the GPU's memory"
        self.text = torch.from_numpy(zipf(self.shape["vocab"], 1 << 18, 1)[0])
        self._folders = itertools.count()

    def __str__(self) -> str:
        import torch

        where = "" if self.device.type == "cpu" else f"{torch.cuda.get_device_name(self.device)}, "
        return f"{where}dim {self.shape['dim']}, {self.shape['layers']} layers"

    @cached_property
    def _made(self) -> dict[str, Decoder]:
        import torch

        from inlay.lm import Decoder, stem_decoder

        torch.manual_seed(0)
        options = self.shape | {"context": 1024}
        return {"dense": Decoder(**options), "STEM": stem_decoder(**options, where="half")}

    def decoder(self, name: str) -> Decoder:
        """A copy that can be trained or robbed of its tables."""
        return copy.deepcopy(self._made[name]).to(self.device)

    def stores(self) -> dict[str, Callable[[], str | None]]:
        """Where rows can be, as `offload` names it, in a new folder each time."""
        memory = "a store in memory" if self.device.type == "cpu" else "a store in host memory"
        return {memory: lambda: None, "a mapped file": lambda: f"mmap:{self.new_folder()}"}

    def new_folder(self) -> Path:
        """One that does not exist."""
        return self.folder / str(next(self._folders))

    def texts(self, length: int) -> Iterator[torch.Tensor]:
        """Texts [1, length], the same ones in the same order for everybody who asks."""
        whole = self.text.to(self.device)[None]
        for start in itertools.cycle(range(0, whole.shape[1] - length + 1, length)):
            yield whole[:, start : start + length]

    def finish(self) -> None:
        """Wait for the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def spend(self, seconds: float, least: int = 5) -> dict[str, Any]:
        """Options of `compare`: seconds to spend, and pairs to measure whatever they cost."""
        return {"budget": 0.2, "least": 3} if self.quick else {"budget": seconds, "least": least}

    @cached_property
    def saved(self) -> float:
        """FLOPs of training that a STEM layer saves, over what it should; by torch's count or by formula, the worse."""
        from inlay.lm import flops_per_token, stem_parts

        dense, stem = self.decoder("dense"), self.decoder("STEM")
        layers, length = len(stem_parts(stem)), 128
        should = layers * 3 * 2 * stem.dim * stem.hidden  # forward, and backward to both factors
        ids = next(self.texts(length + 1))
        counted = (_counted(dense, ids) - _counted(stem, ids)) / length
        by_formula = flops_per_token(dense, length).training - flops_per_token(stem, length).training
        return max(counted / should, by_formula / should, key=lambda share: abs(share - 1))

    def against_dense(self, task: str, ours: Callable[[], Any], dense: Callable[[], Any], **options: Any) -> Row:
        """STEM against the dense decoder: refused unless it saves the FLOPs it should."""
        from inlay.lm import flops_per_token

        row = compare(
            f"{self}: {task}, STEM in half of the layers", Contender("STEM", ours, lambda: self.saved),
            Contender("the dense decoder", dense, lambda: 1.0), quality=SAVED, unit="tokens/s", **options,
        )  # fmt: skip
        flops = [flops_per_token(self._made[name], self.length).total for name in ("dense", "STEM")]
        row.notes["FLOPs of the dense decoder over those of STEM"] = round(flops[0] / flops[1], 3)
        row.notes["parameters (millions)"] = {
            name: round(one.num_parameters / 1e6, 1) for name, one in self._made.items()
        }
        return row


def _device(device: str, quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        place = _Place(device, quick, Path(folder))
        yield from _training(place)
        yield from _decoding(place)
        yield from _prefill(place)


def _training(place: _Place) -> Iterator[Row]:
    from inlay.lm import offload

    tokens = place.batch * place.length
    yield place.against_dense(
        f"training, {place.batch} × {place.length} tokens a step", _trained(place, place.decoder("STEM")),
        _trained(place, place.decoder("dense")), per=tokens, **place.spend(20),
    )  # fmt: skip
    for where, store in place.stores().items():
        step = _trained(place, place.decoder("STEM"))
        given = store()
        with offload(place.decoder("STEM"), given) as runtime:
            ours = _trained_in_store(place, runtime, None if given is None else place.new_folder())
            row = compare(
                f"{place}: training, STEM rows and their moments in {where}",
                Contender("inlay", ours, lambda ours=ours: [ours() for _ in range(2)][-1]),
                Contender(f"STEM rows in {place.near}", step, lambda step=step: [step() for _ in range(2)][-1]),
                quality=ALIKE, per=tokens, unit="tokens/s", **place.spend(8, least=3),
            )  # fmt: skip
            row.notes |= _traffic(runtime)
            yield row


def _trained(place: _Place, model: Decoder) -> Callable[[], float]:
    """A step of the trainer; gives its loss."""
    from inlay.lm import Trainer

    trainer = Trainer(model, place.text, steps=1, length=place.length, batch=place.batch, device=str(place.device))

    def step() -> float:
        trainer.steps = trainer.step + 1
        loss = trainer.run()[-1]["loss"]
        place.finish()
        return float(loss)

    return step


def _trained_in_store(place: _Place, runtime: Offloaded, moments: Path | None) -> Callable[[], float]:
    """The same step where rows are a leaf that `StoreAdam` writes back; the next batch's are on their way."""
    import torch

    from inlay.lm import Trainer
    from inlay.lm.trainer import rate
    from inlay.tables import StoreAdam

    # Its windows, and its optimiser of the backbone: the tables are not the model's any more.
    trainer = Trainer(runtime, place.text, steps=1, length=place.length, batch=place.batch, device=str(place.device))
    rows = StoreAdam(runtime.store, trainer.lr, clip=trainer.clip, moments=moments)

    def step() -> float:
        number = trainer.step
        share = rate(number, number + 1, trainer.warmup, trainer.floor)
        for group in (*trainer.optimiser.param_groups, *rows.param_groups):
            group["lr"] = trainer.lr * share
        ids, targets = (part.to(place.device) for part in trainer.batches(number))
        following = trainer.batches(number + 1)[0].to(place.device)
        trainer.optimiser.zero_grad(set_to_none=True)
        with runtime.learning(ids, rows, following):
            loss = runtime.loss(ids, targets)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.backbone, trainer.clip)
        trainer.optimiser.step()
        trainer.step += 1
        place.finish()
        return float(loss.detach())

    return step


def _decoding(place: _Place) -> Iterator[Row]:
    from inlay.lm import offload

    plain = place.decoder("STEM").eval()
    yield place.against_dense(
        f"decoding {place.decoded} tokens", _singly(place, plain), _singly(place, place.decoder("dense").eval()),
        per=place.decoded, **place.spend(8),
    )  # fmt: skip
    for where, store in place.stores().items():
        with offload(place.decoder("STEM").eval(), store()) as runtime:
            row = compare(
                f"{place}: decoding {place.decoded} tokens, STEM rows in {where}",
                Contender("inlay", _singly(place, runtime), partial(_equal, place, runtime, plain, 1, place.decoded)),
                Contender(f"STEM rows in {place.near}", _singly(place, plain), lambda: 1.0), quality=SAME,
                per=place.decoded, unit="tokens/s", **place.spend(8),
            )  # fmt: skip
            if row.ratio is not None:
                slower = 100 * (1 - row.ratio.median)
                held = "met" if slower <= LITTLE else "not met"
                row.notes["slower by"] = f"{slower:.1f}% (at most {LITTLE}% is wanted: {held})"
            row.notes |= _traffic(runtime)
            yield row


def _singly(place: _Place, model: Decoder) -> Callable[[], None]:
    """A text read token by token, the likeliest next one taken each time; another text a call."""
    import torch

    from inlay.lm import KeyValueCache

    texts = place.texts(place.decoded)

    def decode() -> None:
        cache = KeyValueCache()
        with torch.no_grad():
            for token in next(texts).split(1, 1):
                int(model(token, cache=cache).logits[0, -1].argmax())

    return decode


def _prefill(place: _Place) -> Iterator[Row]:
    """Chunks whose rows are fetched while the one before is computed, against chunks that wait for theirs.

    The cache holds a chunk's rows and no more, so that there is something to fetch.
    """
    from inlay.lm import offload

    plain = place.decoder("STEM").eval()
    for where, store in place.stores().items():
        sides = [
            offload(place.decoder("STEM").eval(), store(), capacity=CHUNK, chunk=CHUNK, prefetch=prefetch)
            for prefetch in (True, False)
        ]
        with sides[0], sides[1]:
            ours, peer = (
                Contender(name, _at_once(place, side), partial(_equal, place, side, plain, CHUNK, place.prompt))
                for name, side in zip(("inlay", "without prefetch"), sides)
            )
            row = compare(
                f"{place}: prefill of {place.prompt:,} tokens in chunks of {CHUNK}, prefetch, STEM rows in {where}",
                ours, peer, quality=SAME, per=place.prompt, unit="tokens/s", **place.spend(8),
            )  # fmt: skip
            row.notes["waited for rows (ms a chunk)"] = {
                name: round(1e3 * side.traffic.waited / (side.traffic.ids / CHUNK), 3)
                for name, side in zip(("prefetch", "without"), sides)
            }
            row.notes |= _traffic(sides[0])
            yield row


def _at_once(place: _Place, model: Decoder) -> Callable[[], None]:
    """The logits of a text; another one a call."""
    import torch

    texts = place.texts(place.prompt)

    def read() -> None:
        with torch.no_grad():
            model(next(texts))
        place.finish()

    return read


def _counted(model: Decoder, ids: torch.Tensor) -> int:
    """FLOPs of forward and backward as torch counts the products it makes."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
    return int(counter.get_total_flops())


def _equal(place: _Place, runtime: Decoder, plain: Decoder, chunk: int, length: int) -> float:
    """Share of logits that are, bit for bit, those of the decoder with its rows, reading a text in the same parts."""
    import torch

    from inlay.lm import KeyValueCache

    text = next(place.texts(length))
    caches = KeyValueCache(), KeyValueCache()
    same = []
    with torch.no_grad():
        # The runtime cuts a longer text into chunks itself; single tokens it is given one by one.
        for part in text.split(length if chunk > 1 else 1, 1):
            found = runtime(part, cache=caches[0]).logits
            expected = [plain(piece, cache=caches[1]).logits for piece in part.split(chunk, 1)]
            same.append((found == torch.cat(expected, 1)).double().mean())
    return float(torch.stack(same).mean())


def _traffic(runtime: Offloaded) -> dict[str, Any]:
    traffic = runtime.traffic
    return {
        "cache": f"{runtime.capacity:,} of {runtime.store.nrows:,} rows, {traffic.hit_rate:.2f} of distinct rows in it",
        "read from the store (kB/token)": round(traffic.moved / max(1, traffic.ids) / 1e3, 2),
    }
