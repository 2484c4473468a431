"""Rows by nearness: `add` rows, `search` for the k nearest of a query among the rows a mask allows.

- `Flat`: dense rows, exact scan.
- `HNSW`: dense rows, approximate, by a graph (extra `hnsw`); `DenseGraph`: the same by the house's own, walked in int8,
  with filters (extra `fast`).
- `IVFProduct`: lists of product codes, as `JointPQ` learns them; `TwoStage`: candidates by codes in memory, ordered by
  rows on disk; `Binary`: rows of a few bits a dimension.
- `insertion_order`: rows of high local intrinsic dimension first, which is how a graph finds most.
- `DiskIVF`: dense rows in lists on disk, with attributes beside them that a filter is tested on before rows are read;
  `Attributes`: such columns in memory, for masks of any index.
- `Acorn`, `LabelledGraph`, `RangeGraph`: graphs built to be searched under filters. `Cobweb`: a tree of prototypes
  that explains what it finds.
- `Leann`: texts without rows, by a thinned graph and product codes; rows are made again as a search needs them.
- `Inverted`: sparse rows, exact, by posting lists; `Postings` are such lists ready made.
- `Seismic`: sparse rows, approximate, by blocks of lists and their summaries.
- `SparseGraph`: sparse rows, approximate, by a graph.
- `MultiVector`: bags of token vectors, candidates by `MuveraFDE`, re-ranked by exact MaxSim.
- `Coded`: codes of any codec, scanned as they are. `Arranged`: rows kept and searched as a `Configuration` says.
- `IVF`: dense rows in lists by nearest centre; `ESPN`: re-ranks what it finds by token vectors that are read from a
  `SlotFile` on disk while the lists are still scanned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.indexes.acorn import Acorn
    from inlay.indexes.arranged import Arranged
    from inlay.indexes.attributes import Attributes
    from inlay.indexes.binary import Binary
    from inlay.indexes.cobweb import Cobweb, Concept
    from inlay.indexes.coded import Coded
    from inlay.indexes.concept_path import draw_path
    from inlay.indexes.configuration import Configuration
    from inlay.indexes.dense_graph import DenseGraph
    from inlay.indexes.disk_ivf import DiskIVF
    from inlay.indexes.disk_ivf_search import DiskReads
    from inlay.indexes.espn import ESPN, Reads
    from inlay.indexes.flat import Flat
    from inlay.indexes.hnsw import HNSW
    from inlay.indexes.inverted import Inverted, Postings
    from inlay.indexes.ivf import IVF
    from inlay.indexes.ivf_product import IVFProduct
    from inlay.indexes.labelled_graph import LabelledGraph
    from inlay.indexes.leann import Leann
    from inlay.indexes.multi_vector import MultiVector
    from inlay.indexes.orders import insertion_order
    from inlay.indexes.range_graph import RangeGraph
    from inlay.indexes.seismic import Seismic
    from inlay.indexes.slot_file import SlotFile, Slots
    from inlay.indexes.sparse_graph import SparseGraph
    from inlay.indexes.two_stage import Touched, TwoStage

__all__ = [
    "ESPN",
    "HNSW",
    "IVF",
    "Acorn",
    "Arranged",
    "Attributes",
    "Binary",
    "Cobweb",
    "Coded",
    "Concept",
    "Configuration",
    "DenseGraph",
    "DiskIVF",
    "DiskReads",
    "Flat",
    "IVFProduct",
    "Inverted",
    "LabelledGraph",
    "Leann",
    "MultiVector",
    "Postings",
    "RangeGraph",
    "Reads",
    "Seismic",
    "SlotFile",
    "Slots",
    "SparseGraph",
    "Touched",
    "TwoStage",
    "draw_path",
    "insertion_order",
]

_HOMES = {
    "Acorn": "acorn",
    "Arranged": "arranged",
    "Attributes": "attributes",
    "Binary": "binary",
    "Cobweb": "cobweb",
    "Coded": "coded",
    "Concept": "cobweb",
    "Configuration": "configuration",
    "DenseGraph": "dense_graph",
    "DiskIVF": "disk_ivf",
    "DiskReads": "disk_ivf_search",
    "ESPN": "espn",
    "Flat": "flat",
    "HNSW": "hnsw",
    "IVF": "ivf",
    "IVFProduct": "ivf_product",
    "Inverted": "inverted",
    "LabelledGraph": "labelled_graph",
    "Leann": "leann",
    "MultiVector": "multi_vector",
    "Postings": "inverted",
    "RangeGraph": "range_graph",
    "Reads": "espn",
    "Seismic": "seismic",
    "SlotFile": "slot_file",
    "Slots": "slot_file",
    "SparseGraph": "sparse_graph",
    "Touched": "two_stage",
    "TwoStage": "two_stage",
    "draw_path": "concept_path",
    "insertion_order": "orders",
}

__getattr__, __dir__ = lazy(__name__, _HOMES)
