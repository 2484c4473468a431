"""A bag classifier in a hundredth of its bytes: few features, quantised rows, fingerprints instead of strings.

The order of steps matters. (1) Features are selected, by coverage or by norm. (2) What is kept is trained again, before
anything is quantised. (3) Rows are quantised, lengths apart. (4) With the quantised rows fixed the head is trained
again, so that it makes up for what their rounding changed. (5) Features are kept as fingerprints.

Reading decodes only the rows that a text names; the table as such is never made.

Source: "FastText.zip: Compressing text classification models" (arXiv 1612.03651). Selection by coverage, the refit of
the head and the hashed dictionary are in the paper and absent from the released code.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from inlay import sealed
from inlay.codecs import NormCodes, NormPQ, ProductQuantiser
from inlay.errors import BadInput, Corrupt
from inlay.kernels.bag import bag_means
from inlay.words.bag_classifier import descend
from inlay.words.bag_features import END, Tokens
from inlay.words.feature_map import HashedMap, StringMap, map_of
from inlay.words.pruning import by_coverage, by_norm
from inlay.words.text_classifier import TextClassifier

if TYPE_CHECKING:
    from inlay.words.bag_classifier import BagClassifier

__all__ = ["CompressedBag"]

CODECS: dict[str, Any] = {"NormPQ": NormPQ, "ProductQuantiser": ProductQuantiser}


class CompressedBag(TextClassifier):
    """A classifier to be read, made by `BagClassifier.compress`."""

    kind = "compressed bag classifier"

    features_map: HashedMap | StringMap
    codec: Any  # NormPQ, ProductQuantiser, or None where rows are float32
    stored: dict[str, np.ndarray]  # "codes" and "norms", or "rows"
    head_codec: ProductQuantiser | None
    head_codes: np.ndarray | None
    losses: dict[str, list[float]]

    @classmethod
    def of(
        cls,
        full: BagClassifier,
        keep: int,
        *,
        coverage: bool = True,
        retrain: int = 3,
        pq: Any = NormPQ,
        refit_head: bool = True,
        quantise_head: bool = False,
        dictionary: str = "hashed",
        texts: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        progress: bool = False,
    ) -> Self:
        """Compress a trained classifier, which stays as it is.

        Args:
            full: the classifier.
            keep: features kept, the end-of-sentence token among them.
            coverage: select so that every training document keeps a feature; else by norm alone.
            retrain: epochs over the kept features before quantising; 0 for none.
            pq: codec of the rows (`NormPQ(dsub=2)`, `ProductQuantiser(dsub=2)`; it is copied), or None for float32.
            refit_head: train the head again on quantised rows, as many epochs as the classifier had.
            quantise_head: quantise the head too (two numbers a code); needs 256 classes.
            dictionary: "hashed" (16 bits a feature, one in 8,000 strangers mistaken for one) or "strings" (exact).
            texts, labels: training data, where the classifier was read from a file.
            progress: show bars on standard error.
        """
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise BadInput(f"keep must be an integer of at least 1, got {keep!r}")
        if not isinstance(retrain, int) or retrain < 0:
            raise BadInput(f"retrain counts epochs and must be an integer of at least 0, got {retrain!r}")
        mapped = map_of(dictionary)
        codec = pq() if isinstance(pq, type) else copy.deepcopy(pq)
        if codec is not None and type(codec).__name__ not in CODECS:
            raise BadInput(f"pq must be one of {', '.join(CODECS)} or None, got {codec!r}")
        if quantise_head and len(full.classes) < 256:
            raise BadInput(
                f"a head of {len(full.classes)} classes cannot be quantised (its codebook has 256 centres, and would "
                "outweigh it); leave quantise_head off"
            )
        indptr, ids, wanted = full.training_bags(texts, labels)

        # A bucket that no document fell into holds its first random numbers, whose length says nothing.
        seen = np.bincount(ids, minlength=len(full.rows)) > 0
        norms = np.sqrt(np.einsum("ij,ij->i", full.rows, full.rows))
        always = np.asarray([full._row_of[END]] if full.features.end else [], dtype=np.int64)
        kept = (
            by_coverage(norms, keep, always, indptr, ids, seen) if coverage else by_norm(norms, keep, always, seen)
        )  # ascending, so words come before buckets
        words = [full.vocabulary[row] for row in kept if row < len(full.vocabulary)]
        buckets = kept[len(words) :] - len(full.vocabulary)
        features_map, order = mapped.of(words, buckets)

        made = cls(full.features, full.classes, full.prior.copy(), full.head.copy())
        made.features_map, made.losses = features_map, {}
        rows = full.rows[kept[order]]
        where = np.full(len(full.rows), -1, dtype=np.int64)
        where[kept[order]] = np.arange(len(kept))
        indptr, ids = _restricted(indptr, where[ids])
        if retrain:
            made.losses["retrain"] = descend(
                rows, made.head, indptr, ids, wanted, epochs=retrain, lr=full.lr, seed=full.seed + 1, progress=progress
            )
        made.codec = codec
        if codec is None:
            made.stored = {"rows": rows}
        else:
            codes = codec.fit(rows).encode(rows)
            made.stored = (
                {"codes": codes.codes, "norms": codes.norms} if isinstance(codes, NormCodes) else {"codes": codes}
            )
        if refit_head and codec is not None:
            # Rows are fixed, so a document is its mean: one feature each.
            means, each = bag_means(made._rows(ids), indptr), np.arange(len(wanted) + 1)
            made.losses["refit"] = descend(
                means, made.head, each, each[:-1].astype(np.int32), wanted,
                epochs=full.epochs, lr=full.lr, seed=full.seed + 2, learn_rows=False, progress=progress,
            )  # fmt: skip
        made.head_codec = made.head_codes = None
        if quantise_head:
            made.head_codec = ProductQuantiser(dsub=2).fit(made.head)
            made.head_codes = made.head_codec.encode(made.head)
            made.head = made.head_codec.decode(made.head_codes)
        return made

    def __repr__(self) -> str:
        return (
            f"CompressedBag({len(self.features_map):,} features, {self.codec!r}, {self.features_map.kind}, "
            f"{self.nbytes:,} bytes)"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file: codes, codebooks, the map of features, head, prior, names, header."""
        return sealed.size(self._arrays(), self._all_facts())

    def nbytes_by_part(self) -> dict[str, int]:
        """Where the bytes go: rows, codebooks, map of features, head (with the prior), and the rest of the file."""
        arrays = self._arrays()
        parts = {"rows": 0, "codebooks": 0, "map": 0, "head": 0}
        for name, array in arrays.items():
            kind = name.partition(".")[0]
            parts["rows" if kind == "stored" else "codebooks" if kind == "codec" else kind] += array.nbytes
        return {**parts, "rest": self.nbytes - sum(parts.values())}

    def save(self, path: str | Path) -> Path:
        """Write to one file (safetensors, settings in its header)."""
        return sealed.write(path, self._arrays(), self._all_facts())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        from inlay.words.bag_features import BagFeatures

        arrays, facts = sealed.read(path, cls.kind)
        try:
            made = cls(
                BagFeatures(**facts["features"]), facts["classes"], arrays["head.prior"].copy(), np.empty((0, 0))
            )
            made.losses, made.codec, made.head_codec, made.head_codes = {}, None, None, None
            made.stored = _under("stored", arrays)
            made.features_map = map_of(facts["dictionary"]).restored(_under("map", arrays))
            if facts["codec"] is not None:
                made.codec = CODECS[facts["codec"]["name"]].restored(
                    _under("codec", arrays), facts["codec"]["settings"]
                )
            if facts["head codec"] is None:
                made.head = arrays["head.rows"].copy()
            else:
                made.head_codec = ProductQuantiser.restored(_under("head", arrays), facts["head codec"])
                made.head_codes = arrays["head.codes"].copy()
                made.head = made.head_codec.decode(made.head_codes)
            if any(len(array) != len(made.features_map) for array in made.stored.values()):
                raise ValueError("its map of features and its rows differ in number")
            if len(made.head) != len(made.classes) or len(made.prior) != len(made.classes):
                raise ValueError("its head does not fit its classes")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not fit its own settings ({error}); {sealed.REPAIR}") from None
        return made

    def _row_numbers(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        return self.features_map.rows(tokens)

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        if self.codec is None:
            return self.stored["rows"][numbers]
        own = {name: array[numbers] for name, array in self.stored.items()}
        return self.codec.decode(NormCodes(own["codes"], own["norms"]) if "norms" in own else own["codes"])

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"stored.{name}": array for name, array in self.stored.items()}
        arrays |= {f"map.{name}": array for name, array in self.features_map.arrays().items()}
        if self.codec is not None:
            arrays |= {f"codec.{name}": array for name, array in self.codec.arrays().items()}
        arrays["head.prior"] = self.prior
        if self.head_codec is None or self.head_codes is None:
            arrays["head.rows"] = self.head
        else:
            arrays["head.codes"] = self.head_codes
            arrays |= {f"head.{name}": array for name, array in self.head_codec.arrays().items()}
        return arrays

    def _all_facts(self) -> dict[str, Any]:
        codec = None if self.codec is None else {"name": type(self.codec).__name__, "settings": self.codec.settings()}
        head = None if self.head_codec is None else self.head_codec.settings()
        return {**self._facts(), "codec": codec, "dictionary": self.features_map.kind, "head codec": head}


def _restricted(indptr: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A CSR of documents without ids below 0."""
    before = np.concatenate([[0], np.cumsum(ids >= 0)])
    return before[indptr].astype(np.int64), ids[ids >= 0].astype(np.int32)


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(prefix + ".")}
