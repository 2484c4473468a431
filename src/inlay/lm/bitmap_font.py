"""Bitmap fonts: every character as black and white pixels, with no rasteriser that could differ between machines.

Two formats are read, plain or gzipped: GNU Unifont's .hex (a code point, then its 16 rows in hexadecimal) and BDF.
`fallback` is a small font that comes with inlay: ASCII, Latin-1 and some typographic marks in cells of 8 × 16, drawn
for it and copied from none. Debian's package `unifont` brings 57,000 glyphs.

Source of the formats: GNU Unifont's manual; Adobe, Glyph Bitmap Distribution Format 2.2 (1993).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from inlay.errors import BadInput

__all__ = ["CELL", "BitmapFont", "Font", "fallback", "read_bdf", "read_hex"]

CELL = 32  # pixels of a character's own square
LAST = 0x10FFFF

_LINE = re.compile(r"([0-9A-Fa-f]{4,6}):([0-9A-Fa-f]*)")


class Font(Protocol):
    """What draws characters."""

    name: str

    def cell(self, character: str) -> np.ndarray | None:
        """A character centred in its own square, uint8 [32, 32], 0 ink on 255 white; None where there is no glyph."""
        ...


class BitmapFont:
    """Glyphs by code point.

    A glyph stands in the square as its whole cell does (ink and the white round it, centred together), so that a comma
    and an apostrophe stay apart. A cell of 16 rows is drawn at twice its size, which is exactly how Unifont looks at 32
    pixels; other heights are brought to 32 by repeating or leaving out pixels.

    Args:
        glyphs: code point → pixels, boolean [height, width], True is ink; all of one height.
        name: how it is called in errors and in what is made with it.
    """

    def __init__(self, glyphs: Mapping[int, np.ndarray], name: str = "font") -> None:
        if not glyphs:
            raise BadInput(f"the font {name} has no glyphs; is it a bitmap font?")
        heights = set()
        for code, pixels in glyphs.items():
            if not 0 <= code <= LAST:
                raise BadInput(f"{code:#x} in the font {name} is no code point; the last one is {LAST:#x}")
            if pixels.ndim != 2 or not pixels.size or pixels.dtype != np.bool_:
                raise BadInput(
                    f"the glyph of U+{code:04X} must be boolean [height, width] with at least one pixel, "
                    f"got {pixels.dtype} {list(pixels.shape)}"
                )
            heights.add(len(pixels))
        if len(heights) > 1:
            raise BadInput(
                f"glyphs of the font {name} have heights {sorted(heights)}; give all the same number of rows"
            )
        self.glyphs, self.name, self.height = dict(glyphs), name, heights.pop()

    def cell(self, character: str) -> np.ndarray | None:
        """A character centred in its own square, uint8 [32, 32]; None where there is no glyph."""
        pixels = self.glyphs.get(ord(character))
        if pixels is None:
            return None
        scale = CELL / max(self.height, pixels.shape[1])
        tall, wide = (max(1, round(length * scale)) for length in pixels.shape)
        rows = np.arange(tall) * self.height // tall
        columns = np.arange(wide) * pixels.shape[1] // wide
        top, left = (CELL - tall) // 2, (CELL - wide) // 2
        square = np.full((CELL, CELL), 255, np.uint8)
        square[top : top + tall, left : left + wide][pixels[rows][:, columns]] = 0
        return square

    def __contains__(self, character: str) -> bool:
        return ord(character) in self.glyphs

    def __len__(self) -> int:
        return len(self.glyphs)

    def __repr__(self) -> str:
        return f"BitmapFont({self.name}, glyphs={len(self)}, height={self.height})"


def read_hex(*paths: str | Path) -> BitmapFont:
    """A font in Unifont's .hex format, or several as one (`unifont.hex`, `unifont_upper.hex`); earlier glyphs win.

    A line is `CODE:ROWS`, with 4 to 6 hexadecimal digits of a code point and 32, 64, 96 or 128 of its 16 rows (8, 16,
    24 or 32 pixels wide). Empty lines and lines that begin with # are passed over.

    Raises:
        BadInput: no such file, or a line that is none of this, named by its number.
    """
    if not paths:
        raise BadInput("read_hex needs at least one file")
    glyphs: dict[int, np.ndarray] = {}
    for path in paths:
        found: dict[int, np.ndarray] = {}
        for number, line in _lines(path):
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if not match or (point := int(match[1], 16)) > LAST:
                raise BadInput(f"{path}, line {number}: {_cut(line)!r} is not CODE:ROWS in hexadecimal digits")
            if len(match[2]) not in (32, 64, 96, 128):
                raise BadInput(
                    f"{path}, line {number}: U+{point:04X} has {len(match[2])} digits of pixels, "
                    "not 32, 64, 96 or 128; was the line cut short?"
                )
            if point in found:
                raise BadInput(f"{path}, line {number}: U+{point:04X} was drawn before; keep one of the two lines")
            found[point] = np.unpackbits(
                np.frombuffer(bytes.fromhex(match[2]), np.uint8).reshape(16, -1), axis=1
            ).astype(bool)
        glyphs = found | glyphs
    return BitmapFont(glyphs, " + ".join(Path(path).name for path in paths))


def read_bdf(path: str | Path) -> BitmapFont:
    """A font in BDF, its ENCODING taken as Unicode; glyphs without a code point (ENCODING -1) are left out.

    Each glyph stands in a cell as high as FONTBOUNDINGBOX and as wide as it moves the pen (DWIDTH), wider where its ink
    goes beyond that, as that of combining marks does.

    Raises:
        BadInput: no such file, or one that is not BDF, is cut short or contradicts itself; names the line.
    """
    glyphs: dict[int, np.ndarray] = {}
    box: list[int] | None = None
    encoding, advance, size, ended = -1, 0, (0, 0, 0, 0), False
    lines = _lines(path)

    def numbers(number: int, words: list[str], count: int) -> list[int]:
        try:
            found = [int(word) for word in words[1:]]
        except ValueError:
            found = []
        if len(found) < count:
            raise BadInput(
                f"{path}, line {number}: {words[0]} needs {count} whole numbers, got {' '.join(words[1:])!r}"
            )
        return found[:count]

    for number, line in lines:
        words = line.split() or [""]
        if number == 1 and words[0] != "STARTFONT":
            raise BadInput(f"{path} is not a BDF font: it begins with {_cut(line)!r}, not with STARTFONT")
        if words[0] == "FONTBOUNDINGBOX":
            box = numbers(number, words, 4)
            if box[1] < 1:
                raise BadInput(f"{path}, line {number}: FONTBOUNDINGBOX is {box[1]} pixels high")
        elif words[0] == "STARTCHAR":
            encoding, advance, size = -1, 0, (0, 0, 0, 0)
        elif words[0] == "ENCODING":
            encoding = numbers(number, words, 1)[0]
        elif words[0] == "DWIDTH":
            advance = numbers(number, words, 1)[0]
        elif words[0] == "BBX":
            wide, tall, x, y = numbers(number, words, 4)
            if wide < 0 or tall < 0:
                raise BadInput(f"{path}, line {number}: a glyph of {wide} x {tall} pixels")
            size = (wide, tall, x, y)
        elif words[0] == "BITMAP":
            if box is None:
                raise BadInput(f"{path}, line {number}: a glyph before FONTBOUNDINGBOX; the font is damaged")
            pixels = _bitmap(path, number, lines, size[0], size[1])
            if encoding >= 0:
                glyphs[encoding] = _placed(path, encoding, pixels, size, advance, box)
        elif words[0] == "ENDFONT":
            ended = True
    if not ended:
        raise BadInput(f"{path} ends without ENDFONT; it was cut short, or is not a BDF font")
    return BitmapFont(glyphs, Path(path).name)


@cache
def fallback() -> BitmapFont:
    """The font that comes with inlay: ASCII, Latin-1 and some typographic marks."""
    return read_hex(Path(__file__).with_name("fallback.hex"))


def _bitmap(path: str | Path, start: int, lines: Iterator[tuple[int, str]], wide: int, tall: int) -> np.ndarray:
    """The rows after BITMAP, to ENDCHAR."""
    digits = 2 * ((wide + 7) // 8)
    rows: list[bytes] = []
    for number, line in lines:
        if line == "ENDCHAR":
            break
        try:
            row = bytes.fromhex(line[:digits])
        except ValueError:
            row = b""
        if len(row) != digits // 2:
            raise BadInput(f"{path}, line {number}: {_cut(line)!r} is not a row of {wide} pixels in hexadecimal digits")
        rows.append(row)
    if len(rows) != tall:
        raise BadInput(f"{path}, line {start}: a glyph of {tall} rows has {len(rows)}")
    if not tall or not wide:
        return np.zeros((tall, wide), bool)
    packed = np.frombuffer(b"".join(rows), np.uint8).reshape(tall, -1)
    return np.unpackbits(packed, axis=1)[:, :wide].astype(bool)


def _placed(
    path: str | Path, encoding: int, pixels: np.ndarray, size: tuple[int, int, int, int], advance: int, box: list[int]
) -> np.ndarray:
    """A glyph's ink in its cell."""
    wide, tall, x, y = size
    top = box[1] + box[3] - (y + tall)
    if top < 0 or top + tall > box[1]:
        raise BadInput(f"{path}: the glyph of U+{encoding:04X} is outside FONTBOUNDINGBOX; the font is damaged")
    left = min(0, x)
    cell = np.zeros((box[1], max(1, max(advance, x + wide) - left)), bool)
    cell[top : top + tall, x - left : x - left + wide] = pixels
    return cell


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, plain or gzipped."""
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (FileNotFoundError, IsADirectoryError):
        raise BadInput(f"there is no font file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read ({error}); fetch the font again") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # comments of old BDF fonts
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))


def _cut(line: str) -> str:
    return line if len(line) <= 40 else line[:40] + "…"
