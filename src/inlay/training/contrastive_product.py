"""Product codes that are learnt to be found by: codebooks and heads are trained so that queries reach their documents.

An unsupervised product quantiser keeps rows near to what they were; this one keeps answers near to their questions. It
begins as an optimised product quantiser of the documents' rows (`OptimisedProduct`): its rotation R stays as it is, its
centres c and the heads of the rows are trained. For each part x_p of a rotated row,

    w = softmax_j(−|x_p − c_pj|²),   x̂_p = (h + w − sg(w)) · C_p,

with h the one-hot of the nearest centre and sg a stop of the gradient: forward x̂_p is the nearest centre, backward the
soft assignment is differentiated. The loss is CE(q·dᵀ) + CE((qR)·x̂(d)ᵀ) + w_r·|dR − x̂(d)|², where w_r is next to
nothing: to be near is not what is wanted. Queries are never quantised.

In the paper rows end in a LayerNorm and so have length √D. Rows here have length 1: distances are multiplied by D,
which makes w and the reconstruction what they are there, and scores are divided by a temperature (see `dense_head`).

In the paper (and here, with `base`) the encoder that quantisation begins from was trained on the same pairs already.

Source: "Progressively Optimized Bi-Granular Document Representation for Scalable Embedding Based Retrieval" (BiDR,
arXiv 2201.05409, WWW 2022), whose first stage this is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay import sealed
from inlay.codecs.rotation import OptimisedProduct
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes.coded import Coded
from inlay.training.dense_head import DenseHead, _tensors, contrast, digest, learn
from inlay.training.locality_batches import Batches, PairBatch

__all__ = ["ContrastivePQ", "straight_through"]

KIND = "contrastive product quantiser"


class ContrastivePQ(nn.Module):
    """Heads, a rotation and codebooks: rows of queries, and codes of documents, that meet by dot product.

    Args:
        m: parts of a row; must divide its width. A document costs m bytes.
        ksub: centres a part, a power of two up to 256.
        reconstruction: w_r.
        sharpness: what squared distances are multiplied by in w; None takes the width of a row, which is the paper's 1
            for rows of that length.
        shared: as in `DenseHead`, where no `base` is given to `fit`.
        temperature: likewise.
        seed: of the heads and of the quantiser it begins from.
    """

    rotation: Tensor  # rows @ rotation is what is cut into parts

    def __init__(
        self, m: int = 24, ksub: int = 256, *, reconstruction: float = 1e-6, sharpness: float | None = None,
        shared: bool = True, temperature: float = 0.05, seed: int = 0,
    ) -> None:  # fmt: skip
        if not isinstance(reconstruction, int | float) or not 0 <= reconstruction < float("inf"):
            raise BadInput(f"reconstruction must be a number of 0 or more, got {reconstruction!r}")
        if sharpness is not None and (not isinstance(sharpness, int | float) or not 0 < sharpness < float("inf")):
            raise BadInput(f"sharpness must be a number above 0, or None, got {sharpness!r}")
        if isinstance(ksub, int | np.integer) and ksub > 256:
            raise BadInput(f"ksub must be a power of two up to 256, a byte a part; got {ksub}")
        OptimisedProduct(m, ksub, seed=seed)  # refuses what cannot be
        DenseHead(1, temperature=temperature)
        super().__init__()
        self.m, self.ksub, self.seed = int(m), int(ksub), int(seed)
        self.reconstruction, self.sharpness = float(reconstruction), sharpness
        self.shared, self.temperature = bool(shared), float(temperature)
        self.heads: DenseHead | None = None
        self.register_buffer("rotation", torch.empty(0, 0))
        self.codebooks = nn.Parameter(torch.empty(0))

    def __repr__(self) -> str:
        return (
            f"ContrastivePQ(m={self.m}, ksub={self.ksub}, reconstruction={self.reconstruction}, "
            f"sharpness={self.sharpness}, shared={self.shared}, temperature={self.temperature}, seed={self.seed})"
        )

    def start(
        self, documents: np.ndarray, *, base: DenseHead | None = None, opq: OptimisedProduct | None = None
    ) -> Self:
        """Be what training begins from: the heads of `base`, and an unsupervised quantiser of their documents.

        Args:
            documents: rows [n, dim] of the frozen encoder.
            base: heads trained on the pairs, which are copied; None begins from the rows as they are.
            opq: a quantiser fitted on `base.document(documents)`, where there is one already.
        """
        documents = np.asarray(documents, dtype=np.float32)
        if documents.ndim != 2:
            raise BadInput(f"documents must be rows [n, dim], got shape {list(documents.shape)}")
        dim = documents.shape[1]
        if base is None:
            base = DenseHead(dim, shared=self.shared, temperature=self.temperature, seed=self.seed)
        if base.dim != dim:
            raise SpaceMismatch(f"the heads take rows of {base.dim} numbers, the documents have {dim}")
        if opq is None:
            opq = OptimisedProduct(self.m, self.ksub, seed=self.seed).fit(base.document(documents))
        if (opq.m, opq.ksub, opq.dim) != (self.m, self.ksub, dim):
            raise SpaceMismatch(f"{opq!r} of rows of {opq.dim} numbers is not what {self!r} begins from at {dim}")
        self._take(base.copied(), opq.rotation, opq.codebooks)
        return self

    def fit(
        self, queries: np.ndarray, documents: np.ndarray, batches: Batches, *, base: DenseHead | None = None,
        opq: OptimisedProduct | None = None, epochs: int = 8, rate: float = 1e-3, weight_decay: float = 0.0,
        judge: Callable[[], float] | None = None,
    ) -> Self:  # fmt: skip
        """Start (see there) and train; other arguments as in `DenseHead.fit`."""
        self.start(documents, base=base, opq=opq)
        heads = self._ready()
        sharpness = float(heads.dim) if self.sharpness is None else self.sharpness
        asked, told = _tensors(heads.dim, batches, queries, documents)

        def loss(batch: PairBatch) -> Tensor:
            q, d = heads.of_query(asked[batch.queries]), heads.of_document(told[batch.documents])
            turned = d @ self.rotation
            near = straight_through(turned, self.codebooks, sharpness)
            exact = contrast(q @ d.T, batch.keep, heads.temperature)
            coded = contrast((q @ self.rotation) @ near.T, batch.keep, heads.temperature)
            lost = ((turned - near) ** 2).sum(-1).mean() * heads.dim
            return exact + coded + self.reconstruction * lost

        learn(self, loss, batches, epochs=epochs, rate=rate, weight_decay=weight_decay, judge=judge)
        return self

    @property
    def dim(self) -> int:
        """Width of the rows it takes and gives."""
        return self._ready().dim

    @property
    def codec(self) -> OptimisedProduct:
        """Rotation and centres as they are now, as a codec of rows that have been through the document head."""
        self._ready()
        return OptimisedProduct.of(self.rotation.numpy(), self.codebooks.detach().numpy())

    def query(self, rows: np.ndarray) -> np.ndarray:
        """Rotated rows of queries, float32 [n, dim]: what `index` is searched with."""
        return self._ready().query(rows) @ self.rotation.numpy()

    def document(self, rows: np.ndarray) -> np.ndarray:
        """Rotated rows of documents, float32 [n, dim], not quantised yet: what is added to `index`."""
        return self._ready().document(rows) @ self.rotation.numpy()

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes of documents, uint8 [n, bytes]."""
        return self.codec.product.encode(self.document(rows))

    def index(self, rows: np.ndarray) -> Coded:
        """An index of documents' codes, to be searched with what `query` gives."""
        made = Coded(self.codec.product)
        made.add(self.document(rows))
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of heads, rotation and codebooks."""
        return self._ready().nbytes + self.codec.codebook_nbytes

    @property
    def fingerprint(self) -> str:
        """Identity of the space its rows are in, as far as it decides it."""
        return digest(self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, by name."""
        own = {f"heads.{name}": array for name, array in self._ready().arrays().items()}
        return own | {"rotation": self.rotation.numpy(), "codebooks": self.codebooks.detach().numpy()}

    def settings(self) -> dict[str, Any]:
        """The arguments that make it again."""
        names = ("m", "ksub", "reconstruction", "sharpness", "shared", "temperature", "seed")
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | Path) -> Path:
        """Write everything to one file."""
        heads = self._ready().settings()
        return sealed.write(path, self.arrays(), {"kind": KIND, "settings": self.settings(), "heads": heads})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        own = {name.removeprefix("heads."): array for name, array in arrays.items() if name.startswith("heads.")}
        try:
            made = cls(**facts["settings"])
            codec = OptimisedProduct.of(arrays["rotation"], arrays["codebooks"])
            heads = DenseHead.restored(own, facts["heads"])
            if (codec.m, codec.ksub, codec.dim) != (made.m, made.ksub, heads.dim):
                raise ValueError("codebooks do not fit the settings")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold a {KIND} ({error}); {sealed.REPAIR}") from None
        made._take(heads, codec.rotation, codec.codebooks)
        return made

    def _take(self, heads: DenseHead, rotation: np.ndarray, codebooks: np.ndarray) -> None:
        self.heads = heads
        self.rotation = torch.tensor(rotation)
        self.codebooks = nn.Parameter(torch.tensor(codebooks))

    def _ready(self) -> DenseHead:
        if self.heads is None:
            raise BadInput(f"{self!r} has no codebooks yet; call fit or start first")
        return self.heads


def straight_through(rows: Tensor, codebooks: Tensor, sharpness: float) -> Tensor:
    """Nearest centres of rotated rows [n, m·s] in codebooks [m, ksub, s], side by side, with gradients for both.

    Forward, the nearest centre of every part. Backward, (h + w − sg(w))·C: a centre moves by the rows that have it, and
    rows and centres by the soft assignment w = softmax(−sharpness · |x − c|²).
    """
    parts, count, width = codebooks.shape
    cut = rows.view(len(rows), parts, width).transpose(0, 1).contiguous()  # [m, n, s]
    # |x|² is the same for all centres, so it changes neither the softmax nor the nearest.
    nearness = 2 * cut @ codebooks.transpose(1, 2) - (codebooks**2).sum(-1)[:, None]
    soft = F.softmax(nearness * sharpness, dim=-1)
    nearest = nearness.argmax(-1) + count * torch.arange(parts)[:, None]
    hard = F.embedding(nearest, codebooks.reshape(parts * count, width))
    # w − sg(w) is zero forward, so the centres get no gradient through this product: they are held still in it.
    near = hard + (soft - soft.detach()) @ codebooks.detach()
    return near.transpose(0, 1).reshape(len(rows), parts * width)
