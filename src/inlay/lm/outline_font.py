"""Outline fonts (TrueType, OpenType) drawn into the same squares as bitmap ones, and where fonts are found.

Pillow draws. Bitmap fonts are to be preferred where there is a choice: a rasteriser's grey edges may differ between
versions of FreeType.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.lm.bitmap_font import CELL, Font, fallback, read_bdf, read_hex

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["UNIFONT", "OutlineFont", "open_font"]

UNIFONT = (
    "/usr/share/unifont/unifont.hex",
    "/usr/share/unifont/unifont.hex.gz",
    "/usr/share/fonts/opentype/unifont/unifont.otf",
    "/usr/share/fonts/truetype/unifont/unifont.ttf",
)
"""Where Debian and others install GNU Unifont, best first."""

UNASSIGNED = "\U0010ffff"  # a noncharacter: no font has it, so that what is drawn for it is drawn for what is missing


class OutlineFont:
    """A TrueType or OpenType font.

    Drawn at the largest size of at most 32 whose line (ascent and descent) fits into 32 pixels, on a common baseline,
    each character's advance width centred; what is wider than the square is cut off. Pillow's basic layout is used, so
    that the picture does not depend on whether Raqm is installed.

    Args:
        path: of the font file.

    Raises:
        BadInput: there is no such file, or it is no font.
        MissingExtra: Pillow is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        pillow = _pillow()
        if not Path(path).is_file():
            raise BadInput(f"there is no font file {path}")
        self.name = Path(path).name
        for size in range(CELL, 0, -1):
            try:
                font = pillow["font"].truetype(str(path), size, layout_engine=pillow["font"].Layout.BASIC)
            except OSError as error:
                raise BadInput(f"{path} is not a font that FreeType can read ({error})") from None
            if sum(font.getmetrics()) <= CELL:
                break
        self._font: Any = font
        self.size = size
        self._missing = self._draw(UNASSIGNED)

    def cell(self, character: str) -> np.ndarray | None:
        """A character centred in its own square, uint8 [32, 32]; None where there is no glyph."""
        if 0xD800 <= ord(character) < 0xE000:
            return None
        drawn = self._draw(character)
        return None if np.array_equal(drawn, self._missing) and drawn.min() < 255 else drawn

    def _draw(self, character: str) -> np.ndarray:
        pillow, font = _pillow(), self._font
        square: Image.Image = pillow["image"].new("L", (CELL, CELL), 255)
        ascent, descent = font.getmetrics()
        left, top = (CELL - font.getlength(character)) / 2, (CELL - ascent - descent) // 2
        pillow["draw"].Draw(square).text((round(left), top + ascent), character, fill=0, font=font, anchor="ls")
        return np.asarray(square)

    def __repr__(self) -> str:
        return f"OutlineFont({self.name}, size={self.size})"


def open_font(font: Font | str | Path | None = None) -> Font:
    """A font by path; None: GNU Unifont where it is installed (see `UNIFONT`), otherwise the one that comes with inlay.

    What None gives depends on the machine: name a font where results must be the same everywhere. Files whose names
    end in .hex or .bdf (also .gz after it) are bitmap fonts, all others outline fonts.
    """
    if font is None:
        installed = [path for path in UNIFONT if Path(path).is_file()]
        return open_font(installed[0]) if installed else fallback()
    if not isinstance(font, (str, Path)):
        if not hasattr(font, "cell"):
            raise BadInput(f"font must be a path or have a method cell(character), got {type(font).__name__}")
        return font
    name = Path(font).name.lower().removesuffix(".gz")
    if name.endswith(".hex"):
        return read_hex(font)
    if name.endswith(".bdf"):
        return read_bdf(font)
    return OutlineFont(font)


def _pillow() -> dict[str, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtra("pictures of glyphs", "glyphs") from None
    return {"image": Image, "draw": ImageDraw, "font": ImageFont}
