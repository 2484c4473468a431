"""An index that keeps no vectors: a sparse graph, a few bytes of product code a row, and the encoder to make the rest.

A search walks the graph by two scores. Codes say roughly how near every neighbour is; only the most promising share of
all that has been seen is encoded again, in batches, and scored exactly. What was passed over stays in the queue, and
may be taken later.

The graph is thinned so that hubs stay hubs: rows of the highest degree keep many links, others choose few, but may be
given more by rows that come after them (`leann_build`; `leann_walk` is the search).

Source: Wang, Li et al. 2025, "LEANN: A Low-Storage Vector Index" (arXiv 2506.08276). Departures: the graph has one
level, for the rows of higher levels would have to be kept; links take 2 to 4 bytes (`PackedLinks`); and equal rows are
linked in a chain to the first of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay import sealed
from inlay.codecs.product import ProductQuantiser
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes.card import Card, found_setting
from inlay.indexes.flat import checked_k
from inlay.indexes.leann_build import LEAST_DEGREE, Thinned, coded, decoded, diverse, from_the_middle, shards
from inlay.indexes.leann_walk import Walk, walked
from inlay.indexes.packed_links import MOST, PackedLinks
from inlay.indexes.recomputed import Recomputed
from inlay.types import Encoder, Neighbours

__all__ = ["Leann", "Walk"]

KIND = "leann index"
AT_ONCE = 4096  # rows whose codes are made together
CENTRES = 8  # bits of a code: 256 centres a part


class Leann:
    """Texts by nearness of rows that are made again (extra `fast`).

    Args:
        encoder: makes the rows of texts and of queries; its rows are dense, compared by cosine or dot product.
        degree: most links of a row, and what hubs choose.
        low_degree: links that other rows choose for themselves.
        hub_share: share of rows, those of the highest degree before thinning, that are hubs.
        code_bytes: bytes of a row's product code; by default one for every 16 numbers of a row.
        budget: bytes that all of it may take, as a share of the texts' bytes, or None. Where links and codes take more,
            rows choose fewer links; what is left is spent on rows that are kept (`cached`).
        cached: share of rows, those of the highest degree, kept in half precision.
        expansion_add: candidates from which a row's links are chosen (efConstruction).
        promote: share of what was seen by its code that is encoded.
        batch: rows encoded at once.
        seed: of the order of insertion and of the codes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        degree: int = 24,
        low_degree: int = 10,
        hub_share: float = 0.02,
        code_bytes: int | None = None,
        budget: float | None = 0.05,
        cached: float = 0.0,
        expansion_add: int = 128,
        promote: float = 0.15,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        code_bytes = max(1, encoder.space.dim // 16) if code_bytes is None else code_bytes
        counts = {
            "degree": degree, "low_degree": low_degree, "code_bytes": code_bytes, "expansion_add": expansion_add,
            "batch": batch,
        }  # fmt: skip
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name} must be a positive integer, got {value!r}")
        if not LEAST_DEGREE <= low_degree <= degree <= MOST // 2:
            raise BadInput(
                f"degrees go from {LEAST_DEGREE} to {MOST // 2} and low_degree is the lower, got {low_degree}, {degree}"
            )
        shares = {"hub_share": hub_share, "cached": cached, "promote": promote}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise BadInput(f"{name} is a share from 0 to 1, got {share!r}")
        if budget is not None and budget <= 0:
            raise BadInput(f"budget is a share of the texts' bytes above 0, got {budget!r}")
        self.settings: dict[str, Any] = {**counts, **shares, "budget": budget, "seed": seed}
        self.rows = Recomputed(encoder, [])
        self.card = Card()
        self.codec = ProductQuantiser(code_bytes, bits=CENTRES, seed=seed)
        self._links = PackedLinks([])
        self._codes = np.empty((0, code_bytes), dtype=np.uint8)
        self._dead: set[int] = set()
        self._entry = -1

    def __len__(self) -> int:
        return len(self._codes)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Leann({type(self.rows.encoder).__name__}, {said}) of {len(self)} rows"

    @property
    def nbytes(self) -> int:
        """Bytes of everything but the texts and the encoder."""
        return sum(self.nbytes_of_parts.values())

    @property
    def nbytes_of_parts(self) -> dict[str, int]:
        """Bytes of `links`, `codes`, `codebook` and `cached` rows."""
        return {
            "links": self._links.nbytes,
            "codes": self._codes.nbytes,
            "codebook": self.codec.codebook_nbytes // 2 if self.codec.centres else 0,
            "cached": self.rows.nbytes,
        }

    def build(self, texts: Sequence[str], *, progress: bool = False) -> Leann:
        """Index texts; they are kept by reference, and read whenever rows are made again.

        While it builds it holds a byte for each number of all rows.
        """
        if len(self):
            raise BadInput(f"the index holds {len(self)} rows; add() appends, a new Leann builds anew")
        least = 1 << CENTRES
        if len(texts) < least:
            raise BadInput(f"product codes are learnt from {least} rows or more, got {len(texts)}; use Flat for so few")
        self.rows = Recomputed(self.rows.encoder, texts)
        seed = self.settings["seed"]
        codes, sample = coded(self.rows, len(texts), sample=self.codec.sample, seed=seed, progress=progress)
        self.codec.fit(sample)
        # Kept in half precision, as few texts would not outweigh the centres; so they are used as they are kept.
        self.codec.centres = [part.astype(np.float16).astype(np.float32) for part in self.codec.centres]
        # The codes of the walk are a byte a number, as good a row as its product code needs.
        self._codes = np.concatenate(
            [self.codec.encode(decoded(codes[i : i + AT_ONCE], self._dim)) for i in range(0, len(codes), AT_ONCE)]
        )
        order, n = from_the_middle(codes, self._dim, seed), len(texts)
        self._entry = int(order[0])
        text_bytes = sum(len(text.encode()) for text in texts)
        room = None
        if self.settings["budget"] is not None:
            room = self.settings["budget"] * text_bytes - self._codes.nbytes - self.codec.codebook_nbytes // 2
        self._links, low_degree, before = Thinned.of(codes, order, self.settings, room)
        wanted = round(self.settings["cached"] * n)
        if room is not None:
            row = 2 * self._dim + 4
            wanted = min(wanted, max(0, int((room - self._links.nbytes) // row)))
        if wanted:
            self.rows.keep(np.argsort(-self._links.degrees.astype(np.int64), kind="stable")[:wanted])
        self.card.built(n, 0.0)
        self.card.facts = {
            "text_bytes": text_bytes, "within_budget": room is None or bool(self._links.nbytes <= room),
            "low_degree": low_degree, "mean_degree_before": before, "mean_degree": float(self._links.degrees.mean()),
        }  # fmt: skip
        return self

    def search(
        self,
        query: str,
        k: int = 3,
        *,
        ef: int = 32,
        recall: float | None = None,
        promote: float | None = None,
        batch: int | None = None,
        allow: np.ndarray | None = None,
        walk: Walk | None = None,
    ) -> Neighbours:
        """About the k nearest texts to a query.

        Args:
            query: a text.
            k: how many; where fewer are found, the rest is id -1 with score -inf.
            ef: exactly scored rows that are kept (at least k); more is slower and finds more.
            recall: take the `ef` that `calibrate` found for this recall instead.
            promote: in place of the index's own; 1 encodes all that is seen.
            batch: in place of the index's own; 1 encodes after each step.
            allow: bool [n], the rows that may be found.
            walk: counts what this search costs.
        """
        if not isinstance(query, str) or not query.strip():
            raise BadInput(f"the query is a text, got {query!r}")
        k = checked_k(k)
        ef = self.card.setting(recall, k, "ef") if recall is not None else ef
        scores = np.full((1, k), -np.inf, dtype=np.float32)
        ids = np.full((1, k), -1, dtype=np.int64)
        if len(self):
            best = self._walk(self.rows.query(query), max(ef, k), promote, batch, walk, allow)[0][:k]
            for place, (score, row) in enumerate(best):
                scores[0, place], ids[0, place] = score, row
        return Neighbours(scores, ids)

    def search_rows(self, row: np.ndarray, k: int, *, ef: int = 32, allow: np.ndarray | None = None) -> Neighbours:
        """The same for a query that is a row [dim] already."""
        k = checked_k(k)
        scores = np.full((1, k), -np.inf, dtype=np.float32)
        ids = np.full((1, k), -1, dtype=np.int64)
        best = self._walk(np.asarray(row, np.float32), max(ef, k), allow=allow)[0][:k] if len(self) else []
        for place, (score, found) in enumerate(best):
            scores[0, place], ids[0, place] = score, found
        return Neighbours(scores, ids)

    def add(self, texts: Sequence[str]) -> None:
        """Append texts to an index that was built; ids go on from the last. Each encodes some hundreds of rows."""
        if not len(self):
            raise BadInput("the index is empty: build(texts) it first")
        kept = self.rows.texts
        if callable(kept):
            raise BadInput("the texts of this index are read by a function; build it anew with the new ones")
        self.rows.texts = [*kept, *texts]
        for row in range(len(self), len(self) + len(texts)):
            vector = self.rows.fetch([row])[0]
            _, found = self._walk(vector, self.settings["expansion_add"])
            self._codes = np.concatenate([self._codes, self.codec.encode(vector[None])])
            near = sorted(found.items(), key=lambda item: -float(vector @ item[1]))
            self._links.change(row, diverse(vector, near, self.settings["low_degree"]))
            for other in self._links.of(row).tolist():
                self._link_back(other, row, found[other], vector)

    def delete(self, ids: Sequence[int]) -> None:
        """These rows are found no more; walks still pass through them."""
        for row in ids:
            if not 0 <= row < len(self):
                raise BadInput(f"there is no row {row}; the index holds rows 0 to {len(self) - 1}")
        self._dead.update(int(row) for row in ids)

    def calibrate(
        self,
        queries: Sequence[str],
        k: int = 3,
        *,
        recalls: tuple[float, ...] = (0.9, 0.95),
        truth: np.ndarray | None = None,
        progress: bool = False,
    ) -> dict[float, int | None]:
        """Measure which `ef` reaches each recall on these queries, for `search(recall=…)`; None where none does.

        Args:
            queries: texts like those that will be asked.
            k: results that count.
            recalls: to be reached.
            truth: int64 [q, k], the true nearest. By default every text is encoded once more to find them.
            progress: show a bar.
        """
        if not len(self) or not len(queries):
            raise BadInput("calibrate needs an index with rows, and queries to measure with")
        if truth is None:
            truth = self.exact(queries, k, progress=progress)
        asked = [self.rows.query(query) for query in queries]

        def recall_at(ef: int) -> float:
            found = [self.search_rows(row, k, ef=ef).ids[0] for row in asked]
            hits = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(found, truth))
            return hits / max(1, int((truth >= 0).sum()))

        table = {target: found_setting(recall_at, target, k, min(len(self), 1024)) for target in recalls}
        self.card.recalls[k] = {target: ef for target, ef in table.items() if ef is not None}
        return table

    def exact(self, queries: Sequence[str], k: int, *, progress: bool = False) -> np.ndarray:
        """The true k nearest of each query, int64 [q, k], by encoding every text."""
        from inlay.indexes.flat import Flat

        flat = Flat(self._dim, metric="dot")
        for ids in shards(len(self), progress):
            flat.add(self.rows.fetch(ids))
        allow = np.ones(len(self), dtype=bool)
        allow[list(self._dead)] = False
        return flat.search(np.stack([self.rows.query(query) for query in queries]), k, allow=allow).ids

    def decoded(self, ids: np.ndarray) -> np.ndarray:
        """Rows float32 [n, dim] as far as their product codes know them; nothing is encoded."""
        return self.codec.decode(self._codes[ids])

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept, by name; `facts` goes with it."""
        links = self._links.compacted()
        kept, rows = self.rows.kept
        codec = self.codec.arrays() if len(self) else {}
        if codec:
            codec["centres"] = codec["centres"].astype(np.float16)
        return {
            "links": links.packed, "degrees": links.degrees, "codes": self._codes, "kept": kept, "rows": rows,
            "dead": np.array(sorted(self._dead), dtype=np.uint32),
            **{f"codec.{name}": array for name, array in codec.items()},
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What JSON can hold of the rest."""
        return {
            "settings": self.settings, "card": self.card.to_dict(), "entry": self._entry,
            "codec": self.codec.settings(), "fingerprint": self.rows.encoder.space.fingerprint,
        }  # fmt: skip

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], facts: dict[str, Any], rows: Recomputed) -> Leann:
        """Of what `arrays` and `facts` gave."""
        try:
            index = cls(rows.encoder, **facts["settings"])
            index._links = PackedLinks(arrays["links"], arrays["degrees"])
            index._codes, index._entry = arrays["codes"], int(facts["entry"])
            index._dead = {int(row) for row in arrays["dead"]}
            if len(index):
                own = {n.removeprefix("codec."): a for n, a in arrays.items() if n.startswith("codec.")}
                own["centres"] = own["centres"].astype(np.float32)
                index.codec = ProductQuantiser.restored(own, facts["codec"])
            if len(index._links) != len(index._codes):
                raise ValueError(f"{len(index._links)} rows have links and {len(index._codes)} have codes")
            index.rows = rows
            rows.stand_in = index.decoded
            if len(arrays["kept"]):
                rows.keep(arrays["kept"].astype(np.int64), arrays["rows"])
            index.card = Card.from_dict(facts["card"])
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"this is no leann index ({error}); build it again") from None
        return index

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file; texts and encoder stay where they are."""
        sealed.write(Path(path), self.arrays(), {"kind": KIND, **self.facts()})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        encoder: Encoder,
        texts: Sequence[str] | Callable[[list[int]], list[str | None]],
    ) -> Leann:
        """Read what `save` wrote.

        Args:
            path: of the file.
            encoder: the one the index was built with.
            texts: those it was built of, in their order, or a function from row numbers to texts.
        """
        arrays, facts = sealed.read(Path(path), KIND)
        if facts.get("fingerprint") != encoder.space.fingerprint:
            raise SpaceMismatch(
                f"{path} was built with the encoder {facts.get('fingerprint')!r}, not {encoder.space.fingerprint!r}; "
                "open it with that one, or build it anew"
            )
        index = cls.restored(arrays, facts, Recomputed(encoder, texts))
        if not callable(texts) and len(texts) != len(index):
            raise BadInput(f"{path} holds {len(index)} rows, and {len(texts)} texts were given; they must be the same")
        return index

    @property
    def _dim(self) -> int:
        return self.rows.encoder.space.dim

    def _walk(
        self,
        query: np.ndarray,
        ef: int,
        promote: float | None = None,
        batch: int | None = None,
        walk: Walk | None = None,
        allow: np.ndarray | None = None,
    ) -> tuple[list[tuple[float, int]], dict[int, np.ndarray]]:
        promote = self.settings["promote"] if promote is None else promote
        batch = self.settings["batch"] if batch is None else batch
        return walked(self, query, ef, promote=promote, batch=batch, walk=walk or Walk(), allow=allow)

    def _link_back(self, row: int, new: int, vector: np.ndarray, its: np.ndarray) -> None:
        """Give a row a link to a new one, and take the least useful away where it has too many."""
        links = [*self._links.of(row).tolist(), new]
        if len(links) > self.settings["degree"]:
            vectors = {**dict(zip(links[:-1], self.rows.fetch(links[:-1]))), new: its}
            near = sorted(vectors.items(), key=lambda item: -float(vector @ item[1]))
            links = diverse(vector, near, self.settings["degree"]).tolist()
        self._links.change(row, np.array(links))
