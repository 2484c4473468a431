"""Rows of one space into another: `fit` on rows, `transform` rows, as in scikit-learn.

- `PCA`: principal components; learnt from `Moments`, which are streamed and add up. `Truncate`: the leading
  dimensions; `RandomProjection`: a random matrix.
- `Whitening`: principal components at variance 1; `PCAICA`: their axes turned until coordinates are independent.
- `KernelPCA`, `Autoencoder`, `UMAP`: reducers that are not linear.

Maps join by `|`, and affine ones become one (`Composed`); with a codec of `inlay.codecs` behind they make a codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.spaces.affine import AffineMap, Composed
    from inlay.spaces.moments import Moments
    from inlay.spaces.nonlinear import UMAP, Autoencoder, KernelPCA
    from inlay.spaces.pca import PCA
    from inlay.spaces.projections import RandomProjection, Truncate
    from inlay.spaces.whitening import PCAICA, Whitening

_HOMES = {
    "AffineMap": "affine",
    "Autoencoder": "nonlinear",
    "Composed": "affine",
    "KernelPCA": "nonlinear",
    "Moments": "moments",
    "PCA": "pca",
    "PCAICA": "whitening",
    "RandomProjection": "projections",
    "Truncate": "projections",
    "UMAP": "nonlinear",
    "Whitening": "whitening",
}

__all__ = [
    "PCA",
    "PCAICA",
    "UMAP",
    "AffineMap",
    "Autoencoder",
    "Composed",
    "KernelPCA",
    "Moments",
    "RandomProjection",
    "Truncate",
    "Whitening",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
