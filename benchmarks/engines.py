"""The engines a user might take instead of ours, behind one small interface, each used as its own guide says.

All of them keep documents, dense vectors and a full-text index on disk, and answer one query by both. None gets to
make embeddings, so none loads a model or touches the network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["ENGINES", "Chroma", "Engine", "Inlay", "Lance", "Txtai"]


class Engine(Protocol):
    """A durable store that answers by text and by vector."""

    package: str
    how: str

    @staticmethod
    def imports() -> None:
        """Import all that the engine needs; not counted as its work."""

    def __init__(self, folder: Path) -> None: ...

    def add(self, ids: Sequence[str], texts: Sequence[str], vectors: np.ndarray) -> None:
        """Take documents in, durably, and leave them indexed in both ways."""

    def hybrid(self, text: str, vector: np.ndarray, k: int) -> list[str]:
        """Ids of the best k by text and vector together (or by each in turn, where the engine does not fuse)."""

    def dense(self, vector: np.ndarray, k: int) -> list[str]:
        """Ids of the nearest k by vector."""

    def lexical(self, text: str, k: int) -> list[str]:
        """Ids of the best k by text."""

    def close(self) -> None:
        """Let go of the files."""


class Inlay:
    """Ours."""

    package = "inlay"
    how = "one collection, BM25 and dense fused"

    @staticmethod
    def imports() -> None:
        import inlay
        import inlay.collection

        inlay.open  # noqa: B018  - the face is lazy: touch what is used

    def __init__(self, folder: Path) -> None:
        import inlay

        self.collection = inlay.open(folder / "docs.inlay", encoder=False)

    def add(self, ids: Sequence[str], texts: Sequence[str], vectors: np.ndarray) -> None:
        documents = [{"id": id, "text": text} for id, text in zip(ids, texts)]
        report = self.collection.add(documents, vectors=vectors)
        if report.added != len(ids):
            raise RuntimeError(f"{len(ids) - report.added} documents were not added: {report.failed[:3]}")

    def hybrid(self, text: str, vector: np.ndarray, k: int) -> list[str]:
        return [hit.id for hit in self.collection.search(text, k, vector=vector, mode="hybrid")]

    def dense(self, vector: np.ndarray, k: int) -> list[str]:
        return [hit.id for hit in self.collection.search("", k, vector=vector, mode="dense")]

    def lexical(self, text: str, k: int) -> list[str]:
        return [hit.id for hit in self.collection.search(text, k, mode="lexical")]

    def close(self) -> None:
        self.collection.close()


class Txtai:
    """txtai: `hybrid=True, content=True`, vectors from outside, saved after indexing.

    Its dense index is asked to be exact, as it is by itself up to 5,000 documents: the inverted lists it makes beyond
    that find fewer than half of the nearest vectors here, so their time would not compare.
    """

    package = "txtai"
    how = "Embeddings(hybrid=True, content=True) with external vectors and an exact faiss index, saved"

    @staticmethod
    def imports() -> None:
        import faiss  # noqa: F401
        from txtai.embeddings import Embeddings  # noqa: F401

    def __init__(self, folder: Path) -> None:
        from txtai.embeddings import Embeddings

        self.folder = folder
        known: dict[str, np.ndarray] = {}
        self.known = known

        def transform(texts: Sequence[str]) -> np.ndarray:
            return np.stack([known[text] for text in texts])

        self.embeddings = Embeddings(
            method="external", transform=transform, hybrid=True, content=True, faiss={"components": "IDMap,Flat"}
        )

    def add(self, ids: Sequence[str], texts: Sequence[str], vectors: np.ndarray) -> None:
        self.known.update(zip(texts, vectors))
        self.embeddings.index(zip(ids, texts))
        self.known.clear()
        self.embeddings.save(str(self.folder / "txtai"))

    def hybrid(self, text: str, vector: np.ndarray, k: int) -> list[str]:
        return self._search(text, vector, k, weights=0.5)

    def dense(self, vector: np.ndarray, k: int) -> list[str]:
        return self._search("query", vector, k, weights=1.0)

    def lexical(self, text: str, k: int) -> list[str]:
        return self._search(text, np.zeros(self.embeddings.config["dimensions"]), k, weights=0.0)

    def _search(self, text: str, vector: np.ndarray, k: int, weights: float) -> list[str]:
        self.known[text] = vector
        return [found["id"] for found in self.embeddings.search(text, k, weights=weights)]

    def close(self) -> None:
        self.embeddings.close()


class Chroma:
    """chromadb: a persistent client; it does not rank by text, so its full-text index answers `$contains`."""

    package = "chromadb"
    how = "PersistentClient, HNSW and full-text filter, asked one after the other (it has no fusion)"

    @staticmethod
    def imports() -> None:
        import chromadb
        import chromadb.config  # noqa: F401

    def __init__(self, folder: Path) -> None:
        import chromadb
        from chromadb.config import Settings

        self.client = chromadb.PersistentClient(str(folder / "chroma"), settings=Settings(anonymized_telemetry=False))
        self.collection = self.client.create_collection(
            "docs", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )

    def add(self, ids: Sequence[str], texts: Sequence[str], vectors: np.ndarray) -> None:
        batch = self.client.get_max_batch_size()
        for i in range(0, len(ids), batch):
            part = slice(i, i + batch)
            self.collection.add(ids=list(ids[part]), embeddings=vectors[part], documents=list(texts[part]))

    def hybrid(self, text: str, vector: np.ndarray, k: int) -> list[str]:
        by_text, by_vector = self.lexical(text, k), self.dense(vector, k)
        return list(dict.fromkeys(id for pair in zip(by_vector, by_text + by_vector) for id in pair))[:k]

    def dense(self, vector: np.ndarray, k: int) -> list[str]:
        return self.collection.query(query_embeddings=[vector], n_results=k, include=["documents"])["ids"][0]

    def lexical(self, text: str, k: int) -> list[str]:
        word = max(re.findall(r"\w+", text), key=len)
        return self.collection.get(where_document={"$contains": word}, limit=k, include=["documents"])["ids"]

    def close(self) -> None:
        self.client.close()


class Lance:
    """lancedb: one table with a full-text index; 5,000 rows need no vector index, its scan is exact."""

    package = "lancedb"
    how = "table with an FTS index, hybrid query fused by reciprocal ranks"

    @staticmethod
    def imports() -> None:
        import lancedb
        import lancedb.index
        import lancedb.rerankers  # noqa: F401
        import pyarrow  # noqa: F401

    def __init__(self, folder: Path) -> None:
        import lancedb

        self.database = lancedb.connect(str(folder / "lance"))

    def add(self, ids: Sequence[str], texts: Sequence[str], vectors: np.ndarray) -> None:
        import pyarrow as pa
        from lancedb.index import FTS

        rows = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])
        columns: dict[str, Any] = {"id": list(ids), "text": list(texts), "vector": rows}
        self.table = self.database.create_table("docs", pa.table(columns))
        self.table.create_index("text", config=FTS())

    def hybrid(self, text: str, vector: np.ndarray, k: int) -> list[str]:
        query = self.table.search(query_type="hybrid", fts_columns="text").vector(vector).text(text)
        return self._ids(query.distance_type("cosine"), k)

    def dense(self, vector: np.ndarray, k: int) -> list[str]:
        return self._ids(self.table.search(vector).distance_type("cosine"), k)

    def lexical(self, text: str, k: int) -> list[str]:
        return self._ids(self.table.search(text, query_type="fts", fts_columns="text"), k)

    def _ids(self, query: Any, k: int) -> list[str]:
        return query.select(["id", "text"]).limit(k).to_arrow()["id"].to_pylist()

    def close(self) -> None:
        self.database = self.table = None


ENGINES: dict[str, type[Engine]] = {"inlay": Inlay, "txtai": Txtai, "chromadb": Chroma, "lancedb": Lance}
