"""Words to vectors without a vocabulary: hashed rows of a word's norm, prefix, suffix and shape, mixed by Maxout.

    embed = MultiHash(96, rows=[5000, 2500, 2500, 2500])
    embed([["Apple", "buys", "U.K.", "startup"]])         # float32 [4 words, 96]; a new word is no special case

Each attribute has its own table and seed. A string is a 64-bit key, the key four 32-bit numbers (`murmur128`), and the
vector is the sum of the four rows they name. The attributes' vectors lie side by side and go through Maxout with three
pieces and a layer norm. `MultiEmbed` is the same layer over exact tables, and a baseline.

Source: "Multi hash embeddings in spaCy" (arXiv 2212.09255), with the rows and initial values of its code, but seeds
from 9 up. Its code begins with 8, which the hash cancels against the eight bytes of a key: what is left is one 64-bit
number, doubled and tripled, and the four rows of a norm are worth about two independent ones. Scripts whose characters
are words (Chinese) have little use for prefix, suffix and shape: leave them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from inlay.errors import BadInput
from inlay.kernels.mixing import key_of, keys_of
from inlay.kernels.murmur import murmur128
from inlay.tables.budget import largest_within
from inlay.tables.table import Table
from inlay.tables.word_shapes import ATTRIBUTES

__all__ = ["HashEmbed", "Maxout", "MultiEmbed", "MultiHash", "Words"]

FIRST_SEED = 9
INIT = 0.1  # rows begin uniform in ± this


class HashEmbed(Table):
    """Any 64-bit key to the sum of `hashes` rows of one table.

    Args:
        rows: of the table.
        dim: width.
        hashes: rows added for a key, 1 to 4.
        seed: of the hash.
        dropout: share of dimensions set to zero while learning, the same for all keys of a call.

    Unlike other tables it takes every int64 as an id: a key is hashed, not looked up.
    """

    def __init__(self, rows: int, dim: int, *, hashes: int = 4, seed: int = FIRST_SEED, dropout: float = 0.0) -> None:
        super().__init__(rows, dim, hashes=hashes, seed=seed, dropout=dropout)
        if hashes not in (1, 2, 3, 4):
            raise BadInput(f"hashes must be from 1 to 4, got {hashes!r}")
        if not 0 <= dropout < 1:
            raise BadInput(f"dropout must lie in [0, 1), got {dropout!r}")
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-INIT, INIT))

    def numbers(self, keys: np.ndarray) -> np.ndarray:
        """Rows int64 [..., hashes] of uint64 keys [...]."""
        hashed = murmur128(keys, self.settings["seed"])[..., : self.settings["hashes"]]
        return (hashed % np.uint32(self.rows)).astype(np.int64)

    def of_numbers(self, numbers: Tensor) -> Tensor:
        """Vectors [..., dim] of rows [..., hashes], with this call's dropout."""
        flat = numbers.reshape(-1, numbers.shape[-1])
        found = nn.functional.embedding_bag(flat, self.weight, mode="sum").view(*numbers.shape[:-1], self.dim)
        drop = self.settings["dropout"]
        if not self.training or not drop:
            return found
        # One mask for the batch: a dimension is there for all words or for none.
        return found * (torch.rand(self.dim, device=found.device) >= drop) / (1 - drop)

    def lookup(self, ids: Tensor) -> Tensor:
        """Vectors [..., dim] of keys [...], any int64."""
        numbers = self.numbers(ids.cpu().numpy().view(np.uint64))
        return self.of_numbers(torch.from_numpy(numbers).to(ids.device))

    def forward(self, ids: Tensor) -> Tensor:
        """As `lookup`."""
        if ids.dtype.is_floating_point or ids.dtype is torch.bool:
            raise BadInput(f"keys must be integers, got {ids.dtype}")
        return self.lookup(ids.long())


class Maxout(nn.Module):
    """The largest of `pieces` linear maps, number by number, and a layer norm behind it."""

    def __init__(self, inputs: int, outputs: int, *, pieces: int = 3) -> None:
        super().__init__()
        if pieces < 1:
            raise BadInput(f"pieces must be at least 1, got {pieces!r}")
        self.outputs, self.pieces = outputs, pieces
        self.linear = nn.Linear(inputs, outputs * pieces)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return self.norm(self.linear(x).unflatten(-1, (self.outputs, self.pieces)).amax(-1))


class Words(NamedTuple):
    """Documents as numbers, ready for a layer's `forward`; made by `read`, and worth keeping between epochs.

    Args:
        rows: for each attribute int64 [distinct words, hashes].
        static: int64 [distinct words], row of the frozen vector, -1 where there is none.
        words: int64 [words], numbers of distinct words, document after document.
        lengths: words of each document.
    """

    rows: tuple[Tensor, ...]
    static: Tensor
    words: Tensor
    lengths: list[int]


class _WordTable(Table):
    """What hashed and exact layers share: attributes, frozen vectors, the mix."""

    def __init__(
        self, width: int, attributes: Sequence[str], rows: Sequence[int], *, static: Sequence[int] | None, pieces: int,
        **settings: Any,
    ) -> None:  # fmt: skip
        attributes, rows = list(attributes), [int(count) for count in rows]
        super().__init__(max(1, sum(rows)), width, **settings)
        self.settings = {
            "width": width, "attributes": attributes, "rows": rows, "static": static, "pieces": pieces, **settings
        }  # fmt: skip
        if not attributes or len(set(attributes)) < len(attributes) or set(attributes) - set(ATTRIBUTES):
            raise BadInput(f"attributes must be some of {', '.join(ATTRIBUTES)}, each once, got {attributes!r}")
        if len(rows) != len(attributes) or min(rows) < 1:
            raise BadInput(f"{len(attributes)} attributes need as many numbers of rows, each at least 1, got {rows}")
        self.attributes = attributes
        count, wide = static or (0, 0)
        self.register_buffer("static_keys", torch.zeros(count, dtype=torch.int64) if count else None)
        self.register_buffer("static_rows", torch.zeros(count, wide) if count else None)
        self.project = nn.Linear(wide, width) if count else None
        self.mix = Maxout(width * (len(attributes) + bool(count)), width, pieces=pieces)

    static_keys: Tensor | None
    static_rows: Tensor | None

    def with_static(self, keys: Sequence[str], vectors: np.ndarray) -> Self:
        """A new layer like this one beside frozen vectors float32 [keys, dim]; a learnt map brings them to its width.

        Keys are norms: a word is looked up as `word_shapes.norm` has it. A word without a vector gets zeros behind
        the map, where the map's constant would else say something about it.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(keys) or not len(keys):
            raise BadInput(f"expected one vector a key, got {len(keys)} keys and vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise BadInput("static vectors hold NaN or infinity")
        made = type(self)(**{**self.settings, "static": [len(keys), vectors.shape[1]]})
        hashed = keys_of(keys).view(np.int64)
        order = np.argsort(hashed)
        assert made.static_keys is not None
        assert made.static_rows is not None
        made.static_keys.copy_(torch.from_numpy(hashed[order]))
        made.static_rows.copy_(torch.from_numpy(vectors[order]))
        return made

    def numbers(self, place: int, keys: np.ndarray) -> np.ndarray:
        """Rows int64 [n, hashes] in the table of attribute `place`, of uint64 keys [n]."""
        raise NotImplementedError

    def vectors(self, place: int, numbers: Tensor) -> Tensor:
        """Vectors [n, width] of those rows."""
        raise NotImplementedError

    def read(self, documents: Iterable[Sequence[str]]) -> Words:
        """Documents, lists of words, as numbers. Any string is a word, also one never seen, and the empty one."""
        number_of: dict[str, int] = {}
        lengths, words = [], []
        if isinstance(documents, str):
            raise BadInput("expected documents, each a list of words; got one string")
        for place, document in enumerate(documents):
            if isinstance(document, str):
                raise BadInput(f"document {place} is a string; split it into words")
            for word in document:
                if not isinstance(word, str):
                    raise BadInput(f"document {place} holds {word!r}, which is no string")
                words.append(number_of.setdefault(word, len(number_of)))
            lengths.append(len(document))
        rows = []
        for place, name in enumerate(self.attributes):
            keys = keys_of([ATTRIBUTES[name](word) for word in number_of])
            rows.append(torch.from_numpy(self.numbers(place, keys)))
        static = np.full(len(number_of), -1, dtype=np.int64)
        if self.static_keys is not None:
            held = self.static_keys.cpu().numpy()
            wanted = keys_of([ATTRIBUTES["norm"](word) for word in number_of]).view(np.int64)
            at = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
            static = np.where(held[at] == wanted, at, -1)
        return Words(tuple(rows), torch.from_numpy(static), torch.tensor(words, dtype=torch.long), lengths)

    def forward(self, documents: Any) -> Tensor:
        """Float32 [words of all documents, width], of lists of words or of what `read` made of them."""
        given = documents if isinstance(documents, Words) else self.read(documents)
        # Words of a batch are read once each: a text says most of them again and again.
        distinct, back = torch.unique(given.words, return_inverse=True)
        parts = [self.vectors(place, rows[distinct]) for place, rows in enumerate(given.rows)]
        if self.project is not None:
            assert self.static_rows is not None
            at = given.static[distinct]
            mapped = self.project(self.static_rows[at.clamp(min=0)])
            parts.append(mapped.masked_fill((at < 0)[:, None], 0.0))
        return self.mix(torch.cat(parts, dim=-1))[back]

    def lookup(self, ids: Tensor) -> Tensor:
        """Refused: words are strings."""
        raise BadInput("this layer reads words, not ids; call it with lists of words")

    def materialize(self, ids: Any = None, batch: int = 1 << 16) -> Tensor:
        """Float32 [n, width] of words as they are read outside of training; they must be given."""
        if ids is None or isinstance(ids, Tensor):
            raise BadInput("a layer without a vocabulary cannot list its rows; pass words")
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self([list(ids)])
        finally:
            self.train(was)


class MultiHash(_WordTable):
    """The hashed layer.

    Args:
        width: of a vector.
        attributes: some of "norm", "prefix", "suffix", "shape".
        rows: of each attribute's table.
        hashes: rows added for a key, 1 to 4.
        static: [count, dim] of frozen vectors; set by `with_static`.
        pieces: of Maxout.
        dropout: share of an attribute's dimensions set to zero while learning, the same for the whole batch.
        seed: of the first attribute's hash; each further one has the next.
    """

    def __init__(
        self,
        width: int = 96,
        *,
        attributes: Sequence[str] = ("norm", "prefix", "suffix", "shape"),
        rows: Sequence[int] = (5000, 2500, 2500, 2500),
        hashes: int = 4,
        static: Sequence[int] | None = None,
        pieces: int = 3,
        dropout: float = 0.1,
        seed: int = FIRST_SEED,
    ) -> None:
        super().__init__(
            width, attributes, rows, static=static, pieces=pieces, hashes=hashes, dropout=dropout, seed=seed
        )
        self.tables = nn.ModuleList(
            HashEmbed(int(count), width, hashes=hashes, seed=seed + place, dropout=dropout)
            for place, count in enumerate(rows)
        )

    @classmethod
    def from_budget(
        cls, width: int, budget_bytes: float, *, attributes: Sequence[str] = tuple(ATTRIBUTES), **settings: Any
    ) -> MultiHash:
        """The largest within a budget, the norm's table twice as long as each of the others."""
        shares = [2 if name == "norm" else 1 for name in attributes]

        def made(size: int) -> MultiHash:
            return cls(width, attributes=attributes, rows=[share * size for share in shares], **settings)

        fixed: int = made(1).nbytes
        each = 4 * width * sum(shares)
        return made(largest_within(lambda size: fixed + each * (size - 1), budget_bytes, 1, 1 << 24, "rows"))

    def numbers(self, place: int, keys: np.ndarray) -> np.ndarray:
        """Rows int64 [n, hashes]."""
        return self.tables[place].numbers(keys)  # type: ignore[operator, no-any-return]

    def vectors(self, place: int, numbers: Tensor) -> Tensor:
        """Vectors [n, width]."""
        return self.tables[place].of_numbers(numbers)  # type: ignore[operator, no-any-return]


class MultiEmbed(_WordTable):
    """Exact tables over what training showed often enough; everything else shares one row. Made by `of`.

    Args:
        width: of a vector.
        attributes: as in `MultiHash`.
        rows: of each attribute's table, the row of rare strings included.
        static, pieces, dropout: as in `MultiHash`.
    """

    def __init__(
        self,
        width: int = 96,
        *,
        attributes: Sequence[str] = ("norm", "prefix", "suffix", "shape"),
        rows: Sequence[int] = (1, 1, 1, 1),
        static: Sequence[int] | None = None,
        pieces: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(width, attributes, rows, static=static, pieces=pieces, dropout=dropout)
        if not 0 <= dropout < 1:
            raise BadInput(f"dropout must lie in [0, 1), got {dropout!r}")
        self.tables = nn.ParameterList(torch.empty(int(count), width).uniform_(-INIT, INIT) for count in rows)
        for place, count in enumerate(rows):
            self.register_buffer(f"keys{place}", torch.zeros(int(count) - 1, dtype=torch.int64))

    @classmethod
    def of(
        cls, documents: Iterable[Sequence[str]], width: int = 96, *, attributes: Sequence[str] = tuple(ATTRIBUTES),
        min_freq: int = 10, **settings: Any,
    ) -> Self:  # fmt: skip
        """With a row for every string seen `min_freq` times or more in training documents."""
        if set(attributes) - set(ATTRIBUTES):
            raise BadInput(f"attributes must be some of {', '.join(ATTRIBUTES)}, got {list(attributes)!r}")
        counts = Counter(word for document in documents for word in document)
        kept: list[list[int]] = []
        for name in attributes:
            of_strings: Counter[str] = Counter()
            for word, count in counts.items():
                of_strings[ATTRIBUTES[name](word)] += count
            kept.append([key_of(string) for string, count in of_strings.items() if count >= min_freq])
        made = cls(width, attributes=attributes, rows=[len(keys) + 1 for keys in kept], **settings)
        for place, keys in enumerate(kept):
            signed = np.asarray(keys, dtype=np.uint64).view(np.int64)
            getattr(made, f"keys{place}").copy_(torch.from_numpy(np.sort(signed)))
        return made

    def numbers(self, place: int, keys: np.ndarray) -> np.ndarray:
        """Rows int64 [n, 1]; 0 is the shared one."""
        held, wanted = getattr(self, f"keys{place}").cpu().numpy(), keys.view(np.int64)
        if not len(held):
            return np.zeros((len(wanted), 1), dtype=np.int64)
        at = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
        return np.where(held[at] == wanted, at + 1, 0)[:, None]

    def vectors(self, place: int, numbers: Tensor) -> Tensor:
        """Vectors [n, width]."""
        found = self.tables[place][numbers[:, 0]]
        drop = self.settings["dropout"]
        if not self.training or not drop:
            return found
        return found * (torch.rand(self.dim, device=found.device) >= drop) / (1 - drop)
