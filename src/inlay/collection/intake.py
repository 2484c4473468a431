"""What people hand in, brought to one form: `Document`s whose every value can be stored and found again."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from inlay.errors import BadInput
from inlay.types import Chunk, Document

__all__ = ["as_document", "as_json", "batches", "check_ids", "each", "name_of"]

BATCH_DOCUMENTS, BATCH_CHARACTERS = 8192, 16_000_000  # of one commit
LONGEST = 256 * 2**20  # characters of one document; more is a file that wants splitting, not a document


def each(documents: Any) -> Iterator[Any]:
    """Items of whatever holds documents: an iterable, a pandas or a pyarrow table (row by row).

    Raises:
        BadInput: a single string or dictionary, which is almost always a forgotten pair of brackets.
    """
    if isinstance(documents, str | bytes | Mapping) or documents is None:
        raise BadInput(f"expected a list of documents, got a single {type(documents).__name__}: put it into [ ]")
    if hasattr(documents, "to_batches"):  # pyarrow
        return (row for batch in documents.to_batches() for row in batch.to_pylist())
    if hasattr(documents, "to_pylist"):  # an array or a batch of pyarrow's
        return iter(documents.to_pylist())
    if hasattr(documents, "iterrows") and hasattr(documents, "to_dict"):  # pandas
        columns = [str(name) for name in documents.columns]
        return (dict(zip(columns, row)) for row in documents.itertuples(index=False, name=None))
    if not isinstance(documents, Iterable):
        raise BadInput(f"expected a list of documents, got {type(documents).__name__}")
    return iter(documents)


def as_document(item: Any, default_id: Any, *, bare: bool = False) -> Document:
    """One item as a Document.

    Strings are texts; dictionaries and dataclasses have `text`, perhaps `id`, and every other key is metadata.

    Args:
        item: what was handed in.
        default_id: its id, if it brings none.
        bare: whether it may have no text, because its vector says everything.

    Raises:
        BadInput: what is wrong with it, in words that fit behind "document ID: ".
    """
    if isinstance(item, Document):
        if not isinstance(item.metadata, Mapping):
            raise BadInput(f"its metadata must be a dictionary, got {type(item.metadata).__name__}")
        document = Document(item.id, item.text, dict(item.metadata), _passages(item.chunks))
    elif isinstance(item, str):
        document = Document(default_id, item)
    else:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            try:
                item = dataclasses.asdict(item)
            except (TypeError, RecursionError) as error:
                raise BadInput(f"it cannot be read as a dictionary: {error}") from None
        if not isinstance(item, Mapping):
            raise BadInput(f"a document is a string, a dictionary or a dataclass, got {type(item).__name__}")
        rest = dict(item)
        name = rest.pop("id", None)
        name = default_id if _missing(name) else name
        text = rest.pop("text", None)
        if _missing(text):
            raise BadInput(f"it has no 'text' (its keys are {', '.join(map(repr, item)) or 'none'})")
        document = Document(name, text, rest)
    if isinstance(document.id, int) and not isinstance(document.id, bool):
        document.id = str(document.id)
    if not isinstance(document.id, str) or not document.id:
        raise BadInput(f"its id must be a non-empty string, got {document.id!r}")
    if not isinstance(document.text, str):
        raise BadInput(f"its text must be a string, got {type(document.text).__name__}")
    if len(document.text) > LONGEST:
        raise BadInput(f"its text has {len(document.text):,} characters; the limit is {LONGEST:,}: split it")
    if not bare and not document.text.strip():
        raise BadInput("its text is empty")
    _encodable("id", document.id)
    _encodable("text", document.text)
    document.metadata = {_name(key): _value(key, value) for key, value in document.metadata.items()}
    return document


def check_ids(ids: Sequence[Any]) -> None:
    """Refuse what can be nobody's id."""
    for name in ids:
        if not isinstance(name, str):
            raise BadInput(f"an id is a string, got {name!r:.80}")
        _encodable(f"id {name!r}", name)


def _missing(value: Any) -> bool:
    if type(value) is str:
        return False
    # What pandas writes for absent: NaN, NaT, NA. The latter two are told by name, to not import it.
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or type(value).__name__ in ("NaTType", "NAType")
    )


def _passages(chunks: Any) -> Sequence[Chunk] | None:
    if chunks is None:
        return None
    if not isinstance(chunks, Sequence) or not chunks:
        raise BadInput(f"its chunks must be a non-empty list of Chunk, or None, got {chunks!r:.60}")
    for chunk in chunks:
        numbers = isinstance(chunk, Chunk) and (chunk.start, chunk.stop, chunk.line, chunk.last_line)
        if not numbers or not all(isinstance(n, int) and -(2**63) <= n < 2**63 for n in numbers):
            raise BadInput(f"its chunks must be Chunk(start, stop, …) with whole numbers, got {chunk!r:.60}")
        if not isinstance(chunk.heading, str):
            raise BadInput(f"the heading of a chunk must be a string, got {chunk.heading!r:.60}")
        _encodable("heading", chunk.heading)
    return chunks


def _encodable(what: str, text: str) -> None:
    if "\0" in text:
        raise BadInput(f"its {what} has a NUL character (number {text.index(chr(0))}): it is binary, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"its {what} is not valid Unicode (a lone surrogate at character {error.start}); "
            "decode the source with errors='replace'"
        ) from None


def _name(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise BadInput(f"a metadata name must be a non-empty string, got {key!r}")
    if key.startswith("$"):
        raise BadInput(f"the metadata name {key!r} begins with $, which filters keep for operators")
    _encodable("metadata name", key)
    return key


def _value(key: Any, value: Any, depth: int = 0) -> Any:
    if depth > 32:
        raise BadInput(f"the metadata under {key!r} nests more than 32 levels deep")
    if isinstance(value, bool):
        return value
    if _missing(value):
        return None
    if isinstance(value, str):
        _encodable(f"metadata {key!r}", value)
        return str.__str__(value)  # an enumeration of strings gives its value, not its name
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise BadInput(f"the metadata {key!r} = {value} does not fit 64 bits; store it as a string")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            # An absent number in a data frame; in JSON it has no name, and in a filter no order.
            return None
        return float(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_name(inner): _value(inner, item, depth + 1) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(key, item, depth + 1) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _value(key, value.tolist(), depth + 1)
    raise BadInput(f"the metadata {key!r} is a {type(value).__name__}, which JSON cannot hold")


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def as_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as stored."""
    return _encoder.encode(metadata) if metadata else "{}"


def batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Items in groups of the size of one commit."""
    iterator = iter(items)
    while batch := list(islice(iterator, 1)):
        size = 0
        for item in iterator:
            batch.append(item)
            text = item.get("text") if isinstance(item, Mapping) else getattr(item, "text", item)
            size += len(text) if isinstance(text, str) else 0
            if len(batch) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
                break
        yield batch


def name_of(item: Any, ids: Any, i: int) -> str:
    """What to call a document that could not be read."""
    name = item.get("id") if isinstance(item, Mapping) else getattr(item, "id", None)
    if name is None and ids is not None and i < len(ids):
        name = ids[i]
    return str(name) if name is not None else f"number {i}"
