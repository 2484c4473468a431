"""A product-quantised index that is learnt with the model: a layer on the item tower, and what it exports is the index.

A model that is trained on exact vectors and searched through codes is trained for something else than it is used for.
Here items go through the index while the model learns: a row e is rotated, y = eR; v is the nearest coarse centre of y,
φ the product code of the residual y − v; T(e) = (v + φ(y − v))·Rᵀ is what the loss sees, and its gradient goes to e as
if nothing had been done to it (ê = e − sg(e − T(e)), "straight-through"). Queries stay exact, as they do in search.
Centres and rotation learn from the distortion |T(e) − sg(e)|² alone, which does not pull at e. The rotation moves by
Givens steps on disjoint pairs of axes, and so stays a rotation.

Centres that start at random die. So the model learns without the layer for `warmup` forwards in training; then rows are
collected, and when `buffer` of them are there, coarse centres come from k-means and the rest from turns of product
quantisation and Procrustes (`inlay.codecs.coarse_product`, also for where that departs from the paper).

Source: "Joint Learning of Deep Retrieval Model and Product Quantization based Embedding Index" (Poeem, arXiv
2105.03933, SIGIR 2021), and for pairs and angle "Givens Coordinate Descent Methods for Rotation Matrix Learning in
Trainable Embedding Indexes" (arXiv 2203.05082). Of its ways to choose pairs `greedy` and `random` are here; `steepest`,
which needs a matching of largest weight, is left out.

The released code sums the distortion over a batch; here it is the mean, so that the rotation's rate does not depend on
the batch. Its warm start takes 200 turns from no rotation; here 50 from principal axes, on residuals. It clusters whole
rows for the parts' centres of its warm start, which are then used on residuals: a slip, not followed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from inlay import sealed
from inlay.codecs.coarse_product import CoarseCodes, CoarseProduct
from inlay.errors import BadInput, Corrupt

if TYPE_CHECKING:
    from inlay.indexes.ivf_product import IVFProduct

__all__ = ["Indexed", "JointPQ", "Usage"]

KIND = "joint product quantiser"
ROWS = 4096  # rows that are quantised at a time outside of training


class Indexed(NamedTuple):
    """What the layer makes of rows [n, dim].

    Args:
        rows: ê, [n, dim]: T(e) in value, e in gradient; e itself while there are no codes.
        distortion: mean of |T(e) − e|² over the rows, whose gradient goes to the centres only; 0 without codes.
        lists: number of each row's coarse centre, int64 [n], or None without codes.
        codes: numbers of the parts' centres, int64 [n, m], or None.
    """

    rows: Tensor
    distortion: Tensor
    lists: Tensor | None
    codes: Tensor | None


class Usage(NamedTuple):
    """How evenly centres were used by the rows since the last look; KL in nats of usage to uniform.

    0 is even use; log K is a single centre for everything.
    """

    rows: int
    distortion: float
    list_kl: float
    code_kl: float
    unused: float


class JointPQ(nn.Module):
    """The layer. Call `after_step()` after each step of the optimiser: it turns the rotation.

    Args:
        dim: width of rows, which should be of length 1 (lengths that grow make every code worse); m must divide it.
        coarse: coarse centres, the lists of the index; 0 for none.
        m: parts of a residual.
        ksub: centres a part, a power of two; 16 in 32 parts are what fast scans of 4 bits take.
        rotation: `givens`, or None to leave axes as they are.
        pairs: which axes are turned in a step, `greedy` (largest |A_ij| first) or `random`.
        rate: λ of the angle −λ·A_ij / √2, with A of the mean distortion of a row.
        warmup: forwards in training without the layer.
        buffer: rows that the warm start is made of.
        turns: of product quantisation and Procrustes in the warm start.
        warm_start: False starts from random centres and quantises from the first step: the ablation.
        seed: of the warm start, of random centres and of random pairs.

    `centroids` and `codebooks` are parameters for any optimiser; the rotation is a buffer, which no optimiser can bend.
    """

    centroids: nn.Parameter
    codebooks: nn.Parameter
    rotation: Tensor
    state: Tensor  # [2]: forwards in training so far; whether there are codes

    def __init__(
        self,
        dim: int,
        *,
        coarse: int = 128,
        m: int = 32,
        ksub: int = 16,
        rotation: str | None = "givens",
        pairs: str = "greedy",
        rate: float = 1.0,
        warmup: int = 1024,
        buffer: int = 8192,
        turns: int = 50,
        warm_start: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise BadInput(f"dim must be a positive integer, got {dim!r}")
        if rotation not in ("givens", None):
            raise BadInput(f"rotation must be 'givens' or None, got {rotation!r}")
        if pairs not in ("greedy", "random"):
            raise BadInput(f"pairs must be 'greedy' or 'random', got {pairs!r}")
        if not rate >= 0:
            raise BadInput(f"rate must be 0 or more, got {rate!r}")
        if not isinstance(warm_start, bool):
            raise BadInput(f"warm_start must be True or False, got {warm_start!r}")
        for name, number, least in (("warmup", warmup, 0), ("buffer", buffer, 1)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise BadInput(f"{name} must be an integer of at least {least}, got {number!r}")
        # Checks what is left.
        CoarseProduct(m, ksub, lists=coarse, rotate=rotation is not None, iterations=turns, seed=seed)
        if dim % m:
            raise BadInput(f"rows of {dim} numbers cannot be cut into m={m} equal parts; take an m that divides {dim}")
        if warm_start and buffer < max(coarse, ksub):
            raise BadInput(f"a buffer of {buffer} rows is too small for {max(coarse, ksub)} centres; raise buffer")
        self.dim, self.coarse, self.m, self.ksub = dim, int(coarse), int(m), int(ksub)
        self.kind, self.pairs, self.rate = rotation, pairs, float(rate)
        self.warmup, self.buffer, self.turns, self.warm_start, self.seed = warmup, buffer, turns, warm_start, seed
        random = torch.Generator().manual_seed(seed)
        # Unit rows have entries of deviation dim^-½: what random centres are drawn by.
        self.centroids = nn.Parameter(torch.randn(self.coarse, dim, generator=random) * dim**-0.5)
        spread = 0.5 if coarse else 1.0
        self.codebooks = nn.Parameter(torch.randn(m, ksub, dim // m, generator=random) * spread * dim**-0.5)
        self.register_buffer("rotation", torch.eye(dim))
        self.register_buffer("state", torch.tensor([0, 0 if warm_start else 1]))
        self._random = np.random.default_rng(seed)
        self._kept: list[Tensor] = []
        self._skew: Tensor | None = None
        self._forget()

    def __repr__(self) -> str:
        return (
            f"JointPQ({self.dim}, coarse={self.coarse}, m={self.m}, ksub={self.ksub}, rotation={self.kind!r}, "
            f"warmup={self.warmup}, buffer={self.buffer}) {self.phase}"
        )

    @property
    def phase(self) -> str:
        """`warm-up`, `collecting` rows, or `joint`."""
        if int(self.state[1]):
            return "joint"
        return "warm-up" if int(self.state[0]) < self.warmup else "collecting"

    def forward(self, rows: Tensor) -> Indexed:
        """Rows [n, dim] as the index will have them. In training a call counts as a step of the schedule."""
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise BadInput(f"{self!r} takes rows [n, {self.dim}], got {list(rows.shape)}")
        phase = self.phase
        if self.training:
            self.state[0] += 1
        if phase != "joint":
            if self.training and phase == "collecting":
                self._collect(rows.detach())
            return Indexed(rows, rows.new_zeros(()), None, None)
        turned, lists, codes = self._assign(rows.detach())
        near = self._named(lists, codes)
        distortion = ((near - turned) ** 2).sum(1).mean()  # lengths are the same on either side of the rotation
        if self.training:
            self._watch(turned, near.detach(), lists, codes, float(distortion.detach()))
        back = near.detach() @ self.rotation.T
        return Indexed(rows - (rows - back).detach(), distortion, lists, codes)

    @torch.no_grad()
    def after_step(self) -> float:
        """Turn the rotation by what the forwards since the last call say; the largest angle, in radians."""
        skew, self._skew = self._skew, None
        if skew is None or self.kind is None or self.rate == 0:
            return 0.0
        first, second = _disjoint(skew, self.pairs, self._random)
        angles = -self.rate * skew[first, second] / 2**0.5
        # R ← R · Π G_ij(θ): pairs are disjoint, so the product is one step on columns.
        cos, sin, a, b = angles.cos(), angles.sin(), self.rotation[:, first], self.rotation[:, second]
        turned = self.rotation.clone()
        turned[:, first], turned[:, second] = cos * a + sin * b, cos * b - sin * a
        self.rotation.copy_(turned)
        return float(angles.abs().max()) if len(angles) else 0.0

    @torch.no_grad()
    def start(self, rows: Tensor | np.ndarray) -> CoarseProduct:
        """Make centres and rotation from rows [n, dim] now: the warm start, which the schedule does by itself."""
        held = torch.as_tensor(rows).detach().float().cpu().numpy()
        if held.ndim != 2 or held.shape[1] != self.dim or len(held) < max(self.coarse, self.ksub):
            raise BadInput(
                f"a start needs at least {max(self.coarse, self.ksub)} rows of {self.dim}, got {list(held.shape)}"
            )
        made = CoarseProduct(
            self.m, self.ksub, lists=self.coarse, rotate=self.kind is not None, iterations=self.turns,
            coarse_iterations=100, seed=self.seed,
        ).fit(held)  # fmt: skip
        self.centroids.copy_(torch.from_numpy(made.centroids))
        self.codebooks.copy_(torch.from_numpy(made.codebooks))
        self.rotation.copy_(torch.from_numpy(made.rotation))
        self.state[1] = 1
        self._kept = []
        return made

    def usage(self) -> Usage:
        """Use of centres by the rows of training since the last call; then counts anew."""
        held = int(self._rows)
        distortion = self._distortion / max(1, held)
        found = Usage(
            held, distortion, _kl(self._list_counts), _mean(_kl(own) for own in self._code_counts),
            float((self._code_counts == 0).double().mean()),
        )  # fmt: skip
        self._forget()
        return found

    def codec(self) -> CoarseProduct:
        """Rotation and centres as they are now, as a codec of numpy rows."""
        if self.phase != "joint":
            raise BadInput(f"{self!r} has no codes yet; train on, or call start(rows)")
        parts = (self.rotation, self.centroids, self.codebooks)
        return CoarseProduct.of(*(part.detach().cpu().numpy() for part in parts))

    @torch.no_grad()
    def encode(self, rows: Tensor | np.ndarray) -> CoarseCodes:
        """Lists and codes of rows [n, dim]: what an index of them consists of."""
        codec = self.codec()
        held = torch.as_tensor(rows).to(self.rotation)
        parts = [self._assign(held[low : low + ROWS])[1:] for low in range(0, len(held), ROWS)]
        if not parts:
            return codec.encode(np.empty((0, self.dim), dtype=np.float32))
        lists, codes = (torch.cat(own).cpu().numpy() for own in zip(*parts))
        return CoarseCodes(lists, codec.packed(codes))

    def export(self, rows: Tensor | np.ndarray | CoarseCodes, **settings: Any) -> IVFProduct:
        """The index of rows [n, dim], or of the codes that `forward` or `encode` gave; `settings` as `IVFProduct`'s."""
        from inlay.indexes.ivf_product import IVFProduct

        codes = rows if isinstance(rows, CoarseCodes) else self.encode(rows)
        return IVFProduct(self.codec(), codes, **settings)

    def save(self, path: str | Path) -> Path:
        """Write layer and schedule to one file."""
        arrays = {name: own.detach().cpu().numpy() for name, own in self.state_dict().items()}
        return sealed.write(path, arrays, {"kind": KIND, "settings": self.settings()})

    @classmethod
    def load(cls, path: str | Path) -> JointPQ:
        """Read what `save` wrote. Rows that were being collected are collected again."""
        arrays, facts = sealed.read(path, KIND)
        try:
            layer = cls(**facts["settings"])
            layer.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        except (BadInput, KeyError, TypeError, RuntimeError) as error:
            raise Corrupt(f"{path} does not hold a joint product quantiser ({error}); {sealed.REPAIR}") from None
        return layer

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        names = ("dim", "coarse", "m", "ksub", "pairs", "rate", "warmup", "buffer", "turns", "warm_start", "seed")
        return {name: getattr(self, name) for name in names} | {"rotation": self.kind}

    def _assign(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated rows, and the numbers of their nearest centres."""
        with torch.no_grad():
            turned = rows @ self.rotation
            rest = turned
            if self.coarse:
                lists = _nearest(turned[:, None], self.centroids[None])[:, 0]
                rest = turned - self.centroids[lists]
            else:
                lists = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            return turned, lists, _nearest(rest.view(len(rows), self.m, -1), self.codebooks)

    def _named(self, lists: Tensor, codes: Tensor) -> Tensor:
        """v + φ in the rotated space; differentiable in the centres."""
        near = self.codebooks[torch.arange(self.m, device=codes.device), codes].flatten(1)
        return near + self.centroids[lists] if self.coarse else near

    def _collect(self, rows: Tensor) -> None:
        have = sum(len(own) for own in self._kept)
        self._kept.append(rows[: self.buffer - have].clone())
        if have + len(self._kept[-1]) >= self.buffer:
            self.start(torch.cat(self._kept))

    @torch.no_grad()
    def _watch(self, turned: Tensor, near: Tensor, lists: Tensor, codes: Tensor, distortion: float) -> None:
        if self.kind is not None:
            # G = dL/dR of L = mean |near·Rᵀ − e|² is 2·(R·nearᵀnear − eᵀnear) / n, and in A = GᵀR − RᵀG only the
            # second term is left.
            cross = turned.T @ near * (2 / len(turned))
            skew = cross - cross.T
            self._skew = skew if self._skew is None else self._skew + skew
        self._rows += len(turned)
        self._distortion += distortion * len(turned)
        self._list_counts += torch.bincount(lists.cpu(), minlength=max(1, self.coarse))
        offsets = torch.arange(self.m) * self.ksub
        flat = (codes.cpu() + offsets).flatten()
        self._code_counts += torch.bincount(flat, minlength=self.m * self.ksub).view(self.m, self.ksub)

    def _forget(self) -> None:
        self._rows, self._distortion = 0, 0.0
        self._list_counts = torch.zeros(max(1, self.coarse), dtype=torch.int64)
        self._code_counts = torch.zeros(self.m, self.ksub, dtype=torch.int64)


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """Numbers [n, parts] of the nearest of centres [parts, k, width] to rows [n, parts, width]."""
    # |x − c|² = |x|² − 2 (x·c − |c|²/2)
    dots = torch.bmm(rows.transpose(0, 1), centres.transpose(1, 2))  # [parts, n, k]
    return (dots - (centres**2).sum(2)[:, None] / 2).argmax(2).T


def _disjoint(skew: Tensor, pairs: str, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """dim // 2 disjoint pairs of axes: those of largest |A_ij| first, or any."""
    dim = len(skew)
    if pairs == "random":
        order = torch.from_numpy(random.permutation(dim)[: dim // 2 * 2])
        return order[0::2], order[1::2]
    upper = np.triu_indices(dim, 1)
    sizes = skew.abs().cpu().numpy()[upper]
    free, first, second = np.ones(dim, dtype=bool), [], []
    for place in np.argsort(-sizes, kind="stable"):
        a, b = upper[0][place], upper[1][place]
        if free[a] and free[b]:
            free[a] = free[b] = False
            first.append(int(a))
            second.append(int(b))
            if len(first) == dim // 2:
                break
    return torch.tensor(first), torch.tensor(second)


def _kl(counts: Tensor) -> float:
    """KL of counts to uniform, in nats."""
    share = counts.double() / max(1, int(counts.sum()))
    used = share[share > 0]
    return float((used * (used * len(counts)).log()).sum()) if len(used) else 0.0


def _mean(values: Any) -> float:
    held = list(values)
    return sum(held) / max(1, len(held))
