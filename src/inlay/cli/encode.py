"""`inlay encode`: lines of text to rows of vectors, in batches, into a file of any size."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from inlay.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

__all__ = ["RowFile", "command"]

HEADER = 256  # bytes kept for the header of a safetensors file, which is known only at the end


@click.command("encode")
@click.argument("file", type=click.File("r", encoding="utf-8", errors="replace"))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .npy or .safetensors file.",
)
@click.option("--encoder", metavar="NAME", required=True, help="What makes the vectors, such as static:FOLDER.")
@click.option("--query", is_flag=True, help="Encode the lines as queries rather than as documents.")
@click.option("--batch-size", default=256, show_default=True, type=click.IntRange(min=1), help="Lines at a time.")
def command(file: IO[str], output: Path, encoder: str, query: bool, batch_size: int) -> None:
    """Encode the lines of FILE ('-' for standard input), a row for each line, as float32.

    A safetensors file holds them under the name "vectors", with the fingerprint of what made them.
    """
    import numpy as np
    from tqdm import tqdm

    import inlay

    if output.suffix not in (".npy", ".safetensors"):
        raise BadInput(f"--output {str(output)!r}: the name must end in .npy or .safetensors")
    made = inlay.encoder(encoder)
    if made.space.kind != "dense":
        raise BadInput(f"inlay encode writes dense rows, and {encoder!r} makes {made.space.kind} ones")
    encode = made.encode_query if query else made.encode_document
    name = getattr(file, "name", "standard input")
    with RowFile(output, made.space.fingerprint) as rows, tqdm(unit=" lines", disable=not sys.stderr.isatty()) as bar:
        for batch in _batches(file, batch_size):
            try:
                rows.write(np.asarray(encode(batch, batch_size=batch_size), dtype="<f4"))
            except BadInput as error:
                raise BadInput(f"{name}, lines {rows.count + 1} to {rows.count + len(batch)}: {error}") from error
            bar.update(len(batch))
        if not rows.count:
            raise BadInput(f"{name} has no lines to encode")
        total, dim = rows.count, rows.dim
    click.echo(f"{total} × {dim} → {output}")


def _batches(lines: IO[str], count: int) -> Iterator[list[str]]:
    texts = (line.rstrip("\r\n") for line in lines)
    while batch := list(itertools.islice(texts, count)):
        yield batch


class RowFile:
    """Rows of unknown number into one array on disk: the header is written last, over the room kept for it.

    The file appears under its name when all of it is there; a failure leaves nothing behind.
    """

    def __init__(self, path: Path, fingerprint: str = "") -> None:
        self.path, self.count, self.dim = path, 0, 0
        self._fingerprint = fingerprint
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> RowFile:
        self._file = open(self._partial, "wb")
        self._file.write(self._header())
        return self

    def write(self, rows: np.ndarray) -> None:
        """Append rows, float32 [n, dim]."""
        if self.count and rows.shape[1] != self.dim:
            raise BadInput(f"rows of {rows.shape[1]} dimensions after rows of {self.dim}")
        self.dim = rows.shape[1]
        self._file.write(rows.tobytes())
        self.count += len(rows)

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        try:
            if error is None:
                self._file.seek(0)
                self._file.write(self._header())
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._partial, self.path)
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _header(self) -> bytes:
        shape = (self.count, self.dim)
        if self.path.suffix == ".npy":
            text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
            # Magic, version 1.0 and the header's length, filled to a multiple of 64 as the format asks.
            return b"\x93NUMPY\x01\x00" + (128 - 10).to_bytes(2, "little") + text.ljust(128 - 11) + b"\n"
        tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * self.count * self.dim]}
        header = {"__metadata__": {"fingerprint": self._fingerprint}, "vectors": tensor}
        text = json.dumps(header, separators=(",", ":")).encode()
        room = HEADER + -(-len(self._fingerprint) // 8) * 8  # the format likes data on 8-byte boundaries
        return room.to_bytes(8, "little") + text.ljust(room)
