"""Rows with attributes for `disk_ivf`'s measurements, and what it is compared with.

Real vectors: texts of six sets, encoded by the encoder in the box. Sampled up: a row lies between a text and one of its
eight nearest, nearer to the former, and is moved by a noise of 0.3 of its length; its source, length and words are the
text's. Three more columns are drawn evenly: `half`, `tenth` and `hundredth`, so that one value of theirs keeps that
share of the rows. Queries are texts that no row was made of.
"""

from __future__ import annotations

import ctypes
import gzip
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.indexes.disk_ivf_file import pages_of
from inlay.kernels.blocks import SIZE
from inlay.kernels.dense import score
from inlay.kernels.topk import TopK

__all__ = ["TYPES", "Faiss", "Interleaved", "Rows", "Texts", "device_bytes", "drawn", "encoded", "truth"]

SOURCES = {  # path in the data folder, column of the text
    "captions": ("pairs/flickr8k_captions.tsv.gz", "caption"),
    "questions": ("pairs/qqp.tsv.gz", "text1"),
    "news": ("classification/ag_news.tsv.gz", "text"),
    "requests": ("classification/clinc150.tsv.gz", "text"),
    "banking": ("classification/banking77.tsv.gz", "text"),
    "reviews": ("classification/sentence_polarity.tsv.gz", "text"),
}
TYPES = {"half": "u1", "tenth": "u4", "hundredth": "u7", "source": "cat8", "length": "u12", "words": "set32"}
NEAREST, NOISE = 8, 0.3
DONT_NEED, RANDOM, NORMAL = 4, 1, 0  # of madvise


class Texts(NamedTuple):
    """Encoded texts: vectors float32 [n, dim], attributes of each, and vectors of further texts to ask with."""

    vectors: np.ndarray
    attributes: dict[str, list[Any]]
    queries: np.ndarray


class Rows(NamedTuple):
    """Rows float32 [n, dim] at length 1, and their attributes."""

    vectors: np.ndarray
    attributes: dict[str, Any]


def encoded(data: Path, each: int, queries: int) -> Texts:
    """`each` texts of every source, and `queries` more in all."""
    from inlay.encoders.box import Box

    texts, sources, asked = [], [], []
    more = -(-queries // len(SOURCES))
    for source, (name, column) in SOURCES.items():
        path = data / name
        if not path.is_file():
            raise BadInput(f"there is no {path}; give the data folder that holds it")
        head, *lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
        place = head.split("\t").index(column)
        own = list(dict.fromkeys(line.split("\t")[place] for line in lines))
        own = [own[i] for i in np.random.default_rng(0).permutation(len(own))[: each + more]]
        texts += own[more:]
        asked += own[:more]
        sources += [source] * len(own[more:])
    bags = [{word.strip(".,;:?!()'\"").lower() for word in text.split()} for text in texts]
    held = Counter(word for bag in bags for word in bag if len(word) > 3)
    frequent = {word for word, _ in held.most_common(32)}
    attributes: dict[str, list[Any]] = {
        "source": sources,
        "length": [min(len(text.split()), 4095) for text in texts],
        "words": [sorted(bag & frequent) for bag in bags],
    }
    box = Box()
    order = np.random.default_rng(1).permutation(len(asked))[:queries]
    return Texts(box.encode_document(texts), attributes, box.encode_query([asked[i] for i in order]))


def drawn(texts: Texts, n: int, seed: int) -> Rows:
    """`n` rows made of texts."""
    random = np.random.default_rng(seed)
    near = np.empty((len(texts.vectors), NEAREST), dtype=np.int64)
    for low in range(0, len(near), 1024):
        alike = texts.vectors[low : low + 1024] @ texts.vectors.T
        alike[np.arange(len(alike)), low + np.arange(len(alike))] = -np.inf
        near[low : low + 1024] = np.argpartition(-alike, NEAREST, axis=1)[:, :NEAREST]
    parents = random.integers(0, len(near), n)
    vectors = np.empty((n, texts.vectors.shape[1]), dtype=np.float32)
    for low in range(0, n, 16_384):
        own = parents[low : low + 16_384]
        share = random.uniform(0, 0.5, (len(own), 1)).astype(np.float32)
        other = near[own, random.integers(0, NEAREST, len(own))]
        rows = random.standard_normal((len(own), vectors.shape[1]), dtype=np.float32)
        rows *= NOISE / vectors.shape[1] ** 0.5
        rows += (1 - share) * texts.vectors[own] + share * texts.vectors[other]
        vectors[low : low + 16_384] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    attributes: dict[str, Any] = {
        "half": random.integers(0, 2, n), "tenth": random.integers(0, 10, n), "hundredth": random.integers(0, 100, n),
    }  # fmt: skip
    for name, values in texts.attributes.items():
        attributes[name] = [values[i] for i in parents]
    return Rows(vectors, attributes)


def truth(queries: np.ndarray, rows: np.ndarray, kept: np.ndarray | None, k: int) -> np.ndarray:
    """Ids int64 [q, k] of the k nearest of each query among the rows kept, or all, by a full scan."""
    best = TopK(len(queries), k)
    count = len(rows) if kept is None else len(kept)
    for low in range(0, count, 16_384):
        own = rows[low : low + 16_384] if kept is None else rows[kept[low : low + 16_384]]
        best.offer(np.ascontiguousarray(queries @ own.T), low)
    found = best.result().ids
    return found if kept is None else kept[found]


def device_bytes() -> int:
    """Bytes that this process has had read from the disk, as the system counts them."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes"):
            return int(line.split()[1])
    raise BadInput("this system does not count the bytes that a process reads")


@contextmanager
def _not_on_stdout() -> Iterator[None]:
    """Send what compiled code prints to where messages go."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class Interleaved:
    """The same lists with attributes, id and vector of a row side by side: a filter needs all of them.

    Reads are asked for together, as `DiskIVF` does; nothing is verified.
    """

    def __init__(self, index: Any, path: Path) -> None:
        part = index._parts[0]
        self.index = index
        self.record = np.dtype([("word", "<u8"), ("id", "<u4"), ("row", part.dtype, (part.dim,))])
        self.counts = np.zeros(len(index._centroids), dtype=np.int64)
        self.counts[part.lists] = part.counts
        pages = pages_of(self.counts * self.record.itemsize)
        self.places = (np.cumsum(pages) - pages) * SIZE
        with open(path, "wb") as file:
            for block, number in enumerate(part.lists.tolist()):
                group = part.group(block, always=False)
                rows = np.zeros(len(group.ids), dtype=self.record)
                rows["word"], rows["id"], rows["row"] = group.words[0], group.ids, group.codes
                file.seek(int(self.places[number]))
                file.write(rows.tobytes())
            file.truncate(int(pages.sum()) * SIZE)
            file.flush()
            os.fsync(file.fileno())
        self.file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_RANDOM)

    def search(self, query: np.ndarray, k: int, predicate: Any, probes: int) -> np.ndarray:
        """Ids of the k best."""
        from inlay.indexes.disk_ivf_search import _largest

        lists = _largest(self.index._nearness(query[None], self.index._centroids)[0], probes)
        lists = lists[self.counts[lists] > 0]
        sizes = self.counts[lists] * self.record.itemsize
        for place, size in zip(self.places[lists].tolist(), sizes.tolist()):
            os.posix_fadvise(self.file, place, size, os.POSIX_FADV_WILLNEED)
        best, known = TopK(1, k), [np.empty(0, dtype=np.int64)]
        for place, size in zip(self.places[lists].tolist(), sizes.tolist()):
            rows = np.frombuffer(os.pread(self.file, size, place), dtype=self.record)
            kept = np.flatnonzero(predicate(rows["word"][None]))
            best.offer(score(query[None], rows["row"][kept]), sum(map(len, known)))
            known.append(rows["id"][kept].astype(np.int64))
        found = best.result().ids[0]
        return np.concatenate(known)[found[found >= 0]]

    def forget(self) -> None:
        """Drop the file from the page cache."""
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Give the file back."""
        os.close(self.file)


class Faiss:
    """faiss with the same centroids and the same rows in each list, its lists on disk by its own memory map.

    Args:
        index: a `DiskIVF` of one file.
        rows: what it was made of.
        path: of the lists.
        half: rows as float16 (`IndexIVFScalarQuantizer`) in place of float32 (`IndexIVFFlat`).
    """

    def __init__(self, index: Any, rows: np.ndarray, path: Path, *, half: bool) -> None:
        try:
            import faiss
        except ImportError:
            raise MissingExtra("comparisons with faiss", "bench") from None
        faiss.omp_set_num_threads(1)
        self.faiss: Any = faiss
        self.path = path
        centroids = index._centroids.astype(np.float32)
        lists, dim = centroids.shape
        self.quantiser = faiss.IndexFlatL2(dim)
        self.quantiser.add(centroids)
        inner = faiss.METRIC_INNER_PRODUCT
        if half:
            kind = faiss.ScalarQuantizer.QT_fp16
            made: Any = faiss.IndexIVFScalarQuantizer(self.quantiser, dim, lists, kind, inner, False)
        else:
            made = faiss.IndexIVFFlat(self.quantiser, dim, lists, inner)
        made.is_trained = True
        part = index._parts[0]
        assigned = np.empty(len(rows), dtype=np.int64)
        for block, number in enumerate(part.lists.tolist()):
            assigned[part.group(block, always=False).ids] = number
        for low in range(0, len(rows), 65_536):
            own = np.ascontiguousarray(rows[low : low + 65_536].astype(np.float16).astype(np.float32))
            ids = np.arange(low, low + len(own))
            to = np.ascontiguousarray(assigned[low : low + len(own)])
            made.add_core(len(own), faiss.swig_ptr(own), faiss.swig_ptr(ids), faiss.swig_ptr(to))
        disk = faiss.OnDiskInvertedLists(lists, made.code_size, str(path))
        both = self.faiss.InvertedListsPtrVector()
        both.push_back(made.invlists)
        with _not_on_stdout():  # it says how large the file becomes
            disk.merge_from_multiple(both.data(), 1)
        made.replace_invlists(disk, False)
        self.index, self.disk = made, disk
        self._nothing = np.empty(1, dtype=np.int64)
        self._libc = ctypes.CDLL(None, use_errno=True)
        file = os.open(path, os.O_RDWR)
        os.fsync(file)
        self.file = file

    def _madvise(self, advice: int) -> None:
        if self._libc.madvise(ctypes.c_void_p(int(self.disk.ptr)), ctypes.c_size_t(self.disk.totsize), advice):
            raise OSError(ctypes.get_errno(), "madvise")

    def tune(self, ways: tuple[bool, bool]) -> None:
        """Whether pages that are not there are read one by one (else with much ahead), and lists fetched by threads."""
        alone, ahead = ways
        self._madvise(RANDOM if alone else NORMAL)
        self.disk.prefetch_nthread = 32 if ahead else 0  # its default is 32

    def search(self, query: np.ndarray, k: int, selector: Any, probes: int) -> np.ndarray:
        """Ids of the k best; a selector that `allowed` made, or None."""
        settings = self.faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        found = self.index.search(query[None], k, params=settings)[1][0]
        return found[found >= 0]

    def allowed(self, mask: np.ndarray) -> Any:
        """A selector of the ids of a mask, made before anything is timed."""
        return self.faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    @property
    def memory(self) -> int:
        """Bytes of centroids and of the lists' directory: its size, capacity and offset."""
        return self.quantiser.ntotal * (self.quantiser.d * 4 + 3 * 8)

    def forget(self) -> None:
        """Unmap the pages, and drop the file from the page cache; threads that still fetch lists are waited for."""
        self.disk.prefetch_lists(self.faiss.swig_ptr(self._nothing), 0)
        self._madvise(DONT_NEED)
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Give the file back."""
        os.close(self.file)
