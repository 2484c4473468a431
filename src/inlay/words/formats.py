"""Word vectors as others write them: read and written a batch at a time.

    word2vec         text: a line "rows dim", then a line a key: the key and its numbers, parted by spaces
    word2vec-binary  the same first line; then each key, a space and its numbers as float32
    fasttext         a `.vec` file: word2vec text (a space ends each line)
    glove            a line a key, without a first line; a key may hold spaces (GloVe's largest files have such keys)

A file that is not what its first line promises (too few rows, too many, a row of another width) is `Corrupt`; NaN, an
empty key or one that is not UTF-8 is `BadInput`; both name the file and the row. Who writes what is read here, as
`KeyedVectors.convert` does, leaves nothing behind then.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, get_args

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.io import sync_folder

__all__ = ["Batch", "Format", "read", "seen_format", "write"]

Format: TypeAlias = Literal["word2vec", "word2vec-binary", "fasttext", "glove"]
Batch: TypeAlias = tuple[list[str], np.ndarray]

ROWS_AT_ONCE = 4096
BYTES_AT_ONCE = 1 << 20
LONGEST_KEY = 1 << 16  # bytes; beyond it, a binary file is taken to be something else
LONGEST_LINE = 1 << 24
PEEK = 1 << 16


def read(
    path: str | os.PathLike[str],
    format: Format | None = None,
    *,
    encoding_errors: str = "strict",
    progress: bool = False,
) -> Iterator[Batch]:
    """Keys and rows, float32 [batch, dim], in file order.

    Args:
        path: the file; `.gz` is unpacked on the way.
        format: what it is (default: seen from its first bytes).
        encoding_errors: what to do with keys that are not UTF-8, as in `bytes.decode`; `strict` refuses them.
        progress: show a bar.
    """
    path = Path(path)
    if format is not None and format not in get_args(Format):
        raise BadInput(f"format is one of {', '.join(get_args(Format))}, got {format!r}")
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    format = format or seen_format(path)
    with _opened(path) as file:
        parse = _Binary if format == "word2vec-binary" else _Text
        source = parse(file, path, format != "glove", encoding_errors)
        with _bar(source.promised, progress) as bar:
            try:
                for keys, rows in source.batches():
                    bar.update(len(keys))
                    yield keys, rows
            except (EOFError, gzip.BadGzipFile, gzip.zlib.error) as error:  # type: ignore[attr-defined]
                raise Corrupt(f"{path} is damaged or was cut short: {error}") from None


def seen_format(path: str | os.PathLike[str]) -> Format:
    """The format of a file, from its first bytes."""
    with _opened(Path(path)) as file:
        try:
            head = file.read(PEEK)
        except (EOFError, OSError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
            raise Corrupt(f"{path} is damaged or was cut short: {error}") from None
    first, _, rest = head.partition(b"\n")
    parts = first.split()
    if not head.strip():
        raise Corrupt(f"{path} is empty")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return "glove"
    line = rest.partition(b"\n")[0].rstrip()
    try:
        numbers = np.array(line.rsplit(b" ", int(parts[1]))[1:], dtype=np.bytes_).astype(np.float64)
        return "fasttext" if len(numbers) == int(parts[1]) and rest.startswith(line + b" ") else "word2vec"
    except ValueError:
        return "word2vec-binary"


class _Source:
    """What the two parsers share: the first line, and how errors are worded."""

    def __init__(self, file: IO[bytes], path: Path, headed: bool, encoding_errors: str) -> None:
        self.file, self.path, self.encoding_errors = file, path, encoding_errors
        self.promised: int | None = None
        self.dim = 0
        self.done = 0
        if headed:
            line = file.readline(LONGEST_LINE)
            parts = line.split()
            try:
                self.promised, self.dim = (int(part) for part in parts)
            except ValueError:
                raise Corrupt(
                    f"{path}: the first line must be the number of rows and of dimensions, got {line[:60]!r}"
                ) from None
            if self.promised < 1 or not 1 <= self.dim <= 1 << 20:
                raise Corrupt(f"{path}: the first line promises {self.promised} rows of {self.dim} dimensions")

    def where(self, i: int) -> str:
        return f"{self.path}, row {self.done + i + 1}"

    def checked(self, raw: list[bytes], rows: np.ndarray) -> Batch:
        """Decoded keys and finite rows."""
        keys = []
        for i, key in enumerate(raw):
            try:
                keys.append(key.decode("utf-8", self.encoding_errors))
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"{self.where(i)}: the key {key[:40]!r} is not UTF-8 ({error.reason}); encoding_errors='replace' "
                    "reads it nevertheless"
                ) from None
            if not key:
                raise BadInput(f"{self.where(i)} has an empty key")
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            i = int(np.flatnonzero(~finite)[0])
            raise BadInput(f"{self.where(i)} ({keys[i]!r}) holds NaN or infinity")
        return keys, rows

    def finish(self) -> None:
        """Whether all that the first line promised has come."""
        if not self.done:
            raise Corrupt(f"{self.path} holds no rows")
        if self.promised is not None and self.done < self.promised:
            raise Corrupt(
                f"{self.path} holds {self.done:,} rows and its first line promises {self.promised:,}: it was cut short"
            )

    def surplus(self) -> Corrupt:
        return Corrupt(f"{self.path} holds more than the {self.promised:,} rows that its first line promises")


class _Text(_Source):
    """A line a key."""

    def batches(self) -> Iterator[Batch]:
        lines: list[bytes] = []
        while line := self.file.readline(LONGEST_LINE):
            line = line.rstrip(b" \r\n")
            if not line:
                if self.file.read(1):
                    raise Corrupt(f"{self.where(len(lines))} is an empty line")
                break
            lines.append(line)
            if self.promised is not None and self.done + len(lines) > self.promised:
                raise self.surplus()
            if len(lines) == ROWS_AT_ONCE:
                yield self._parsed(lines)
                self.done += len(lines)
                lines = []
        if lines:
            yield self._parsed(lines)
            self.done += len(lines)
        self.finish()

    def _parsed(self, lines: list[bytes]) -> Batch:
        if not self.dim:  # GloVe says its width nowhere: the first key has no spaces, the rest of the line is its row
            self.dim = len(lines[0].split(b" ")) - 1
            if self.dim < 1:
                raise Corrupt(f"{self.where(0)} has no numbers: {lines[0][:60]!r}")
        parts = [line.rsplit(b" ", self.dim) for line in lines]
        for i, part in enumerate(parts):
            if len(part) != self.dim + 1:
                raise Corrupt(f"{self.where(i)} has {len(part) - 1} numbers, expected {self.dim}: {lines[i][:60]!r}")
            if b" " in part[0] and self.promised is not None:
                raise Corrupt(f"{self.where(i)} has more than {self.dim} numbers: {lines[i][:60]!r}")
        return self.checked([part[0] for part in parts], self._numbers(parts, lines))

    def _numbers(self, parts: list[list[bytes]], lines: list[bytes]) -> np.ndarray:
        flat = [number for part in parts for number in part[1:]]
        try:
            with np.errstate(over="ignore"):
                return np.array(flat, dtype=np.bytes_).astype(np.float64).astype(np.float32).reshape(-1, self.dim)
        except ValueError:
            pass
        for i, part in enumerate(parts):
            for number in part[1:]:
                try:
                    float(number)
                except ValueError:
                    raise Corrupt(f"{self.where(i)}: {number[:40]!r} is no number: {lines[i][:60]!r}") from None
        raise Corrupt(f"{self.where(0)} and on cannot be read as numbers")


class _Binary(_Source):
    """Keys and float32 numbers, one after the other."""

    def batches(self) -> Iterator[Batch]:
        assert self.promised is not None
        width = 4 * self.dim
        held = b""
        keys: list[bytes] = []
        rows: list[bytes] = []
        ended = False
        while self.done + len(keys) < self.promised:
            while not ended and len(held) < width + LONGEST_KEY:
                more = self.file.read(BYTES_AT_ONCE)
                ended = not more
                held += more
            at = 0
            while self.done + len(keys) < self.promised and (ended or len(held) - at >= width + LONGEST_KEY):
                space = held.find(b" ", at, at + LONGEST_KEY)
                if space < 0 or space + 1 + width > len(held):
                    if ended and len(held) - at < width + LONGEST_KEY:
                        self.done += len(keys)
                        if self.done == 0:
                            raise Corrupt(f"{self.path} was cut short in its first row")
                        self.finish()
                    raise Corrupt(f"{self.where(len(keys))} has no space behind its key: no word2vec file, or damaged")
                keys.append(held[at:space].lstrip(b"\r\n"))
                rows.append(held[space + 1 : space + 1 + width])
                at = space + 1 + width
                if len(keys) == ROWS_AT_ONCE:
                    yield self._made(keys, rows)
                    self.done += len(keys)
                    keys, rows = [], []
            held = held[at:]
        if keys:
            yield self._made(keys, rows)
            self.done += len(keys)
        if held.strip(b"\r\n") or (not ended and self.file.read(PEEK).strip(b"\r\n")):
            raise self.surplus()
        self.finish()

    def _made(self, keys: list[bytes], rows: list[bytes]) -> Batch:
        return self.checked(keys, np.frombuffer(b"".join(rows), dtype="<f4").reshape(-1, self.dim))


def write(path: str | os.PathLike[str], batches: Iterable[Batch], format: Format, *, count: int, dim: int) -> None:
    """Keys and rows into a file, which appears when it is whole.

    Args:
        path: the file; `.gz` packs it.
        batches: keys with rows [batch, dim].
        format: `word2vec`, `word2vec-binary`, `fasttext` or `glove`. Text has nine digits, which give every float32
            back.
        count: how many rows there are, for the first line.
        dim: how wide they are.
    """
    if format not in get_args(Format):
        raise BadInput(f"format is one of {', '.join(get_args(Format))}, got {format!r}")
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    done = 0
    try:
        with _opened(partial, write=True, packed=path.suffix == ".gz") as file:
            if format != "glove":
                file.write(f"{count} {dim}\n".encode())
            for keys, rows in batches:
                rows = np.asarray(rows, dtype="<f4")
                if rows.shape != (len(keys), dim):
                    raise BadInput(f"{len(keys)} keys with vectors of shape {list(rows.shape)}, expected dim {dim}")
                file.write(b"".join(_written(keys, rows, format)))
                done += len(keys)
            if done != count:
                raise BadInput(f"{done} rows were given, {count} announced")
            file.flush()
        with open(partial, "rb") as whole:
            os.fsync(whole.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _written(keys: list[str], rows: np.ndarray, format: Format) -> Iterator[bytes]:
    pattern = " ".join(["%.9g"] * rows.shape[1])
    for key, row in zip(keys, rows):
        encoded = key.encode("utf-8", "surrogatepass")
        if not encoded or encoded != encoded.strip() or b"\n" in encoded or (b" " in encoded and format != "glove"):
            raise BadInput(f"the key {key!r} cannot be written as {format}: it is empty, or holds white space")
        if format == "word2vec-binary":
            yield encoded + b" " + row.tobytes()
        else:
            numbers = (pattern % tuple(row.tolist())).encode()
            yield encoded + b" " + numbers + (b" \n" if format == "fasttext" else b"\n")


def _opened(path: Path, *, write: bool = False, packed: bool | None = None) -> Any:
    packed = path.suffix == ".gz" if packed is None else packed
    if packed:
        return gzip.open(path, "wb" if write else "rb")
    return open(path, "wb" if write else "rb", buffering=BYTES_AT_ONCE)


def _bar(total: int | None, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit=" rows", disable=not show)
