"""How rows become a few bits a dimension: the networks of `inlay.codecs.RecurrentBinary`, learnt from rows alone.

"Binary Embedding-based Retrieval at Tencent" (arXiv 2302.08714, KDD 2023) puts residual networks on frozen rows and
teaches them by pairs of rows that belong together, so that neither texts nor the encoder are needed. The sign has the
gradient of the identity where its argument lies in [−1, 1], and none elsewhere. Of the other rows of a batch only the
hardest few push back. `compatible_with` teaches the queries to find codes that an older codec has made, so that a new
encoder can be put into service before its documents are coded anew.

The loss is the paper's. It is optimised by Adam rather than by SGD, in batches of 512, and networks are 1,024 wide, not
2,048: minutes on a processor in place of hours on an accelerator. Networks begin as rotations, and further bits see
what is left through the rotation of the first, where the paper draws all weights (Xavier): from such a start the second
bit had hardly learnt to help after a few passes over some ten thousand pairs. After learning, the statistics of batch
normalisation are taken anew under the final weights, and folded into the linear maps beside them.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.codecs.recurrent_binary import Block, RecurrentBinary
from inlay.errors import BadInput, SpaceMismatch
from inlay.kernels.bit_planes import BitPlanes

__all__ = ["RecurrentNet", "ResidualMLP", "hardest_contrast", "learn_binary", "learn_codes"]

SETTLED_ON = 64  # batches from which statistics are taken at the end


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


def sign(x: Tensor) -> Tensor:
    """1 where x ≥ 0, else −1; the gradient passes where |x| ≤ 1."""
    return _Sign.apply(x)


class ResidualBlock(nn.Module):
    """x → skip(x) + Linear(ReLU(BN(Linear(x)))), where what is added to `skip` begins at 0.

    Args:
        wide: numbers that come in.
        out: numbers that come out.
        hidden: width within.
        turned: `skip` is a linear map, which begins as a rotation that makes numbers of about 1 of a row of length 1;
            otherwise it is x.
    """

    def __init__(self, wide: int, out: int, hidden: int, turned: bool) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(wide, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, out)
        self.skip = nn.Linear(wide, out, bias=False) if turned else None
        nn.init.xavier_uniform_(self.inner.weight)
        for start in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(start)
        if self.skip is not None:
            nn.init.orthogonal_(self.skip.weight, gain=max(wide, out) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[n, wide] → [n, out]."""
        return (x if self.skip is None else self.skip(x)) + self.outer(F.relu(self.norm(self.inner(x))))

    def exported(self) -> Block:
        """The same in numpy, batch normalisation folded into what comes before it."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        scale = self.norm.weight / torch.sqrt(variance + self.norm.eps)
        bias = (self.inner.bias - mean) * scale + self.norm.bias
        return Block(
            _array(self.inner.weight.T * scale), _array(bias), _array(self.outer.weight.T), _array(self.outer.bias),
            None if self.skip is None else _array(self.skip.weight.T),
        )  # fmt: skip


class ResidualMLP(nn.Module):
    """A chain of residual blocks, the first of which turns rows into another width.

    Args:
        wide: numbers that come in.
        out: numbers that come out.
        hidden: width within a block.
        blocks: how many.
    """

    def __init__(self, wide: int, out: int, hidden: int = 1024, blocks: int = 1) -> None:
        super().__init__()
        self.turn = ResidualBlock(wide, out, hidden, turned=True)
        self.more = nn.Sequential(*(ResidualBlock(out, out, hidden, turned=False) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """[n, wide] → [n, out]."""
        return self.more(self.turn(x))

    @property
    def rotation(self) -> Tensor:
        """What the first block turns rows by [out, wide]."""
        assert self.turn.skip is not None
        return self.turn.skip.weight

    def exported(self) -> list[Block]:
        """The blocks as numpy has them."""
        return [self.turn.exported(), *(block.exported() for block in cast("list[ResidualBlock]", list(self.more)))]


class RecurrentNet(nn.Module):
    """The networks of a codec with `bits` bits a dimension: unit rows [n, dim] → codes b [n, dims].

    Args:
        dim: width of a row.
        dims: dimensions of a code.
        bits: of a dimension; one of them is plain learnt hashing.
        hidden: width within a block.
        blocks: of each network. The paper takes one, and three for one bit.
    """

    def __init__(self, dim: int, dims: int, bits: int = 2, hidden: int = 1024, blocks: int = 1) -> None:
        super().__init__()
        more = range(bits - 1)
        self.first = ResidualMLP(dim, dims, hidden, blocks)
        self.back = nn.ModuleList(ResidualMLP(dims, dim, hidden, blocks) for _ in more)
        self.rest = nn.ModuleList(ResidualMLP(dim, dims, hidden, blocks) for _ in more)
        with torch.no_grad():
            # What bits become is the same rotation back, and what is left is seen through it again: the bits of a
            # dimension are about one number from the start. With rotations of their own, further bits begin as noise.
            for back, rest in self.stages:
                back.rotation.copy_(self.first.rotation.T)
                rest.rotation.copy_(self.first.rotation)

    @torch.no_grad()
    def begin_at(self, rows: Tensor, codes: Tensor) -> None:
        """Begin at the linear map that brings unit rows [n, dim] nearest to codes [n, dims] rather than at a rotation.

        For codes that others have made: a rotation drawn at random would have to be unlearnt first.
        """
        there = _least_squares(rows, codes)
        there = there / (rows @ there).square().mean().sqrt()
        again = _least_squares(sign(rows @ there), rows)
        self.first.rotation.copy_(there.T)
        for back, rest in self.stages:
            back.rotation.copy_(again.T)
            rest.rotation.copy_(there.T)

    @property
    def stages(self) -> list[tuple[ResidualMLP, ResidualMLP]]:
        """B_t and W_t of each further bit."""
        return list(zip(cast("list[ResidualMLP]", list(self.back)), cast("list[ResidualMLP]", list(self.rest))))

    def forward(self, rows: Tensor) -> Tensor:
        """Codes b = Σ_t 2^−t s_t."""
        b = sign(self.first(rows))
        for t, (back, rest) in enumerate(self.stages, 1):
            left = rows - F.normalize(back(b))
            b = b + 2.0**-t * sign(rest(left))
        return b

    def exported(self) -> list[list[Block]]:
        """W_0, B_1, W_1, … for `RecurrentBinary`."""
        return [self.first.exported(), *(net.exported() for pair in self.stages for net in pair)]


def hardest_contrast(
    q: Tensor, d: Tensor, q_ids: Tensor, d_ids: Tensor, tau: float = 0.05, hardest: int | None = 5,
    more: Tensor | None = None, more_ids: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Symmetric InfoNCE in which each row is pushed from the few negatives that it is nearest to.

    Args:
        q: unit rows [n, dims].
        d: unit rows [n, dims]; d_i belongs to q_i.
        q_ids: int64 [n]; what shares an id is no negative.
        d_ids: int64 [n].
        tau: temperature.
        hardest: negatives of each row; None takes all.
        more: further documents [m, dims], negatives for the queries alone.
        more_ids: int64 [m].
    """
    table = q @ d.T / tau
    positive = table.diagonal()[:, None]
    same = q_ids[:, None] == d_ids[None, :]
    same = same | torch.eye(len(q), dtype=torch.bool, device=q.device)
    table = table.masked_fill(same, -math.inf)
    losses = []
    for negatives, beside in ((table, more), (table.T, None)):
        if beside is not None and more_ids is not None and len(beside):
            extra = (q @ beside.T / tau).masked_fill(q_ids[:, None] == more_ids[None, :], -math.inf)
            negatives = torch.cat([negatives, extra], dim=1)
        if hardest is not None and hardest < negatives.shape[1]:
            negatives = negatives.topk(hardest, dim=1).values
        losses.append((torch.cat([positive, negatives], dim=1).logsumexp(1) - positive[:, 0]).mean())
    return (losses[0] + losses[1]) / 2


def learn_codes(
    net: nn.Module,
    queries: np.ndarray,
    documents: np.ndarray | None = None,
    *,
    ids: np.ndarray | None = None,
    tau: float = 0.05,
    hardest: int | None = 5,
    queue: int = 0,
    momentum: float = 0.999,
    epochs: int = 8,
    batch_size: int = 512,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    clip: float = 5.0,
    noise: float = 1.0,
    old_codes: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Teach a network [n, dim] → [n, dims] pairs of rows; see `learn_binary` for the arguments.

    `old_codes` float32 [n, dims] are codes of the documents under an older codec, of length 1.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    q_rows = _unit(queries)
    d_rows = q_rows if documents is None else _unit(documents)
    names = torch.arange(len(q_rows)) if ids is None else torch.from_numpy(_numbered(ids))
    old = None if old_codes is None else torch.from_numpy(np.ascontiguousarray(old_codes, dtype=np.float32))
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
    slow = copy.deepcopy(net).requires_grad_(False) if queue else None
    kept, kept_ids = torch.empty(0), torch.empty(0, dtype=torch.int64)
    net.train()
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = lr * (0.1 if epoch >= math.ceil(0.6 * epochs) else 1.0)  # the paper: at 6 of 10
        total, steps = 0.0, 0
        for at in torch.randperm(len(q_rows), generator=random).split(batch_size):
            if len(at) < min(batch_size, len(q_rows)):
                continue  # a remainder: statistics of a few rows would disturb those of all
            q, d = q_rows[at], d_rows[at]
            if documents is None:
                q, d = _shaken(q, noise, random), _shaken(d, noise, random)
            codes = F.normalize(net(torch.cat([q, d])))
            q_codes, d_codes = codes[: len(at)], codes[len(at) :]
            more = (kept, kept_ids) if len(kept) else (None, None)
            loss = hardest_contrast(q_codes, d_codes, names[at], names[at], tau, hardest, *more)
            if old is not None:
                loss = loss + hardest_contrast(q_codes, old[at], names[at], names[at], tau, hardest)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimiser.step()
            if slow is not None:
                with torch.no_grad():
                    for ours, its in zip(net.parameters(), slow.parameters()):
                        its.lerp_(ours, 1 - momentum)
                    past = F.normalize(slow(d))
                kept = (torch.cat([past, kept]) if len(kept) else past)[:queue]
                kept_ids = torch.cat([names[at], kept_ids])[:queue]
            total, steps = total + loss.item(), steps + 1
        if progress is not None:
            progress(epoch, total / max(1, steps))
    _settle(net, torch.cat([q_rows, d_rows]), batch_size, random)
    return net.eval()


def learn_binary(
    queries: np.ndarray,
    documents: np.ndarray | None = None,
    *,
    ids: np.ndarray | None = None,
    dims: int = 512,
    bits: int = 2,
    hidden: int = 1024,
    blocks: int | None = None,
    tau: float = 0.05,
    hardest: int | None = 5,
    queue: int = 0,
    momentum: float = 0.999,
    epochs: int = 8,
    batch_size: int = 512,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    clip: float = 5.0,
    noise: float = 1.0,
    compatible_with: tuple[RecurrentBinary, BitPlanes] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> RecurrentBinary:
    """A codec of `bits` bits in each of `dims` dimensions, learnt from rows of a frozen encoder.

    Args:
        queries: float32 [n, dim].
        documents: float32 [n, dim]; the i-th belongs to the i-th query. Without them a row belongs to itself, seen
            twice with noise.
        ids: [n]; pairs with one id (captions of one picture) are never each other's negatives.
        dims: of a code; a row costs dims · bits / 8 bytes, and one or two for its length where bits > 1.
        bits: 1 to 4.
        hidden: width of the networks.
        blocks: of each network; by default 1, and 3 for one bit.
        tau: temperature.
        hardest: negatives that count for each row; None takes all.
        queue: past documents that are negatives too, coded by a slow copy of the networks.
        momentum: how slow.
        epochs: passes over the pairs; the learning rate falls to a tenth after 60% of them.
        batch_size: pairs of a step, at most as many as there are.
        lr: of Adam.
        weight_decay: decoupled.
        clip: norm at which gradients are clipped.
        noise: length of what is added to a row of length 1 where there are no documents. A row and one of its nearest,
            given as pairs, keep more of who is near whom than any noise does.
        compatible_with: an older codec, and its codes of these documents: queries learn to find these as well. The
            rows of the older codec may have another width.
        seed: of weights, batches and noise.
        progress: print the loss of every epoch.
    """
    queries = _rows("queries", queries)
    if documents is not None:
        documents = _rows("documents", documents)
        if documents.shape != queries.shape:
            raise BadInput(f"queries and documents are pairs, got {list(queries.shape)} and {list(documents.shape)}")
    if len(queries) < 2:
        raise BadInput(f"a pair is told from others, so there must be two at least, got {len(queries)}")
    if ids is not None and np.shape(ids) != (len(queries),):
        raise BadInput(f"ids must be one a pair [{len(queries)}], got {list(np.shape(ids))}")
    blocks = (3 if bits == 1 else 1) if blocks is None else blocks
    whole = {"dims": dims, "bits": bits, "hidden": hidden, "blocks": blocks, "epochs": epochs}
    if hardest is not None:
        whole["hardest"] = hardest
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise BadInput(f"{name} must be a positive integer, got {value!r}")
    if bits > 4:
        raise BadInput(f"bits must be from 1 to 4, got {bits}")
    if not isinstance(batch_size, int | np.integer) or batch_size < 2:
        raise BadInput(f"batch_size must be 2 or more, got {batch_size!r}")
    if isinstance(queue, bool) or not isinstance(queue, int | np.integer) or queue < 0:
        raise BadInput(f"queue must be 0 or a number of past documents, got {queue!r}")
    for name, number in {"tau": tau, "lr": lr, "clip": clip}.items():
        if not number > 0:
            raise BadInput(f"{name} must be above 0, got {number!r}")
    for name, number in {"noise": noise, "weight_decay": weight_decay}.items():
        if not number >= 0:
            raise BadInput(f"{name} must be 0 or more, got {number!r}")
    old = None
    if compatible_with is not None:
        codec, codes = compatible_with
        if not isinstance(codec, RecurrentBinary):
            raise BadInput(f"compatible_with takes (codec, codes), and its codec is a {type(codec).__name__}")
        if codec.dims != dims:
            raise SpaceMismatch(f"codes of {codec!r} are {codec.dims} wide; learn the new codec with dims={codec.dims}")
        if documents is None or len(codes.planes) != len(documents):
            raise BadInput(f"compatible_with needs an old code for each document, got {len(codes.planes)}")
        old = codec.decode(codes)
    torch.manual_seed(seed)
    net = RecurrentNet(queries.shape[1], dims, bits, hidden, blocks)
    if documents is not None and old is not None:
        net.begin_at(_unit(documents), torch.from_numpy(old))

    def say(epoch: int, loss: float) -> None:
        print(f"epoch {epoch + 1} of {epochs}: loss {loss:.4f}", file=sys.stderr, flush=True)

    options: dict[str, Any] = {
        "tau": tau, "hardest": hardest, "queue": queue, "momentum": momentum, "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "clip": clip, "noise": noise, "seed": seed,
    }  # fmt: skip
    learn_codes(net, queries, documents, ids=ids, old_codes=old, progress=say if progress else None, **options)
    learnt = options | {"pairs": len(queries), "self_pairs": documents is None, "hidden": hidden, "blocks": blocks}
    known = () if compatible_with is None else (compatible_with[0].fingerprint,)
    return RecurrentBinary(net.exported(), compatible_with=known, learnt=learnt)


@torch.no_grad()
def _settle(net: nn.Module, rows: Tensor, batch_size: int, random: torch.Generator) -> None:
    """Means and variances of batch normalisation as they are under the weights as they are now."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
    net.train()
    for at in torch.randperm(len(rows), generator=random).split(2 * batch_size)[:SETTLED_ON]:
        if len(at) == min(2 * batch_size, len(rows)):
            net(rows[at])


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    """The map [wide, out] that brings x nearest to y, held back a little where x hardly varies."""
    square = x.T @ x
    ridge = 1e-3 * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square + ridge, x.T @ y)


def _shaken(rows: Tensor, noise: float, random: torch.Generator) -> Tensor:
    added = torch.randn(rows.shape, generator=random) * (noise / rows.shape[1] ** 0.5)
    return F.normalize(rows + added)


def _unit(rows: np.ndarray) -> Tensor:
    from inlay.kernels.dense import normalise

    return torch.from_numpy(normalise(rows))


def _numbered(ids: np.ndarray) -> np.ndarray:
    return np.unique(np.asarray(ids), return_inverse=True)[1].astype(np.int64)


def _rows(name: str, rows: Any) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise BadInput(f"{name} must be finite rows [n, dim], got shape {list(rows.shape)}")
    return rows


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy().astype(np.float32))
