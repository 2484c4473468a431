"""Token rows made of how tokens look: pictures of their characters, rotated by PCA, never trained.

    text → strip of 32 × 32 squares → jitter → black or white → size × size → black or white → bits in polar order
    bits of the whole vocabulary → PCA → unit rows [vocabulary, dim]

Such a row means nothing. That a model learns about as well with it, its meanings appearing in the layers above, is the
claim. The table is a `DenseRows`: buffers, no parameter, nothing for an optimiser or a tied head to take hold of; the
`Decoder`'s head is a matrix of its own.

    model = Decoder(len(tokens), 128, input=glyph_table(tokens, size=16, dim=128))

Where the source is silent or is not followed:

- A character stands in its square with its whole cell, not with its ink alone, so that "." and "·" differ.
- Easy scripts are alphabets, digits and symbols whose strokes survive jitter (`EASY`); one other character makes a
  token complex. Speckle turns a pixel to its opposite.
- One sequence of random numbers, restarted for every token, draws the angle, the shifts and the speckle. Tokens of one
  length and kind therefore all get the same jitter: it blurs the picture and sets no token apart.
- A pixel of the small picture is black where half of what it covers is, which is the source's threshold at 32 × 32. At
  16 × 16 hardly a stroke of a longer token covers half a pixel: of 4,096 byte-pair tokens of English 916 stay distinct
  and 1,757 are white. There a quarter is enough (3,844 distinct); in general `size` / 64.
- The order of pixels is one of columns, and PCA takes columns in any order to the same rows (but for rounding). It is
  kept since the bits are a result of their own.

Source: Emergent Semantics Beyond Token Embeddings: Transformer LMs with Frozen Visual Unicode Representations
(arXiv 2507.04886, TMLR 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from inlay.errors import BadInput, MissingExtra
from inlay.lm.bitmap_font import CELL, Font
from inlay.lm.outline_font import open_font
from inlay.tables.compiled import DenseRows

__all__ = ["EASY", "frozen_table", "glyph_bits", "glyph_rows", "glyph_table", "is_easy", "polar_order", "token_texts"]

Order = Literal["polar", "rows"]

EASY = (
    (0x0000, 0x0590), (0x10A0, 0x1100), (0x13A0, 0x1400), (0x1C80, 0x1CC0), (0x1D00, 0x2D30), (0x2DE0, 0x2E80),
    (0xA640, 0xA6A0), (0xA700, 0xA800), (0xAB30, 0xABC0), (0xFB00, 0xFB18), (0xFF01, 0xFF5F), (0x1D400, 0x1D800),
    (0x1F000, 0x1FB00),
)  # fmt: skip
"""Ranges [from, to) of Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee, Coptic, punctuation and symbols."""


def is_easy(text: str) -> bool:
    """Whether all characters are of scripts that are jittered strongly."""
    return all(any(low <= ord(character) < high for low, high in EASY) for character in text)


def polar_order(size: int) -> np.ndarray:
    """Pixels of a picture size × size from its centre outwards, those as far by angle: int64 [size²] of y · size + x.

    Radii are compared as whole numbers, so that equal ones are equal; the angle begins at +x and goes down the picture.
    """
    _at_least("size", size, 2)
    y, x = (2 * axis.ravel() - (size - 1) for axis in np.mgrid[:size, :size])
    angle = np.mod(np.arctan2(y, x), 2 * np.pi)
    return np.lexsort((angle, x * x + y * y))


def token_texts(tokenizer: Any) -> list[str]:
    """The text of every token id, as it is drawn.

    Args:
        tokenizer: a list of texts, a `UnicodeTokenizer`, or one of `tokenizers` or `transformers`. Theirs are decoded
            one by one; a token of bytes that are no text alone becomes U+FFFD, a number without a token too.
    """
    if isinstance(tokenizer, str):
        raise BadInput("tokens must be a list of texts or a tokenizer, got one text")
    if isinstance(tokenizer, Sequence):
        texts = list(tokenizer)
    elif hasattr(tokenizer, "tokens"):
        texts = list(tokenizer.tokens)
    elif hasattr(tokenizer, "decode") and (hasattr(tokenizer, "id_to_token") or hasattr(tokenizer, "__len__")):
        count = tokenizer.get_vocab_size() if hasattr(tokenizer, "get_vocab_size") else len(tokenizer)
        name = tokenizer.id_to_token if hasattr(tokenizer, "id_to_token") else tokenizer.convert_ids_to_tokens
        texts = [_text(tokenizer, number, name(number)) for number in range(count)]
    else:
        raise BadInput(f"tokens must be a list of texts or a tokenizer, got {type(tokenizer).__name__}")
    if not texts:
        raise BadInput("there are no tokens to draw")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise BadInput(f"token {number} is {text!r}; every token needs a text of at least one character")
    return texts


def glyph_bits(
    tokens: Any, font: Font | str | Path | None = None, *, size: int = 32, order: Order = "polar", augment: bool = True,
    ink: float | None = None, seed: int = 42,
) -> np.ndarray:  # fmt: skip
    """Pictures of tokens as bits, bool [vocabulary, size²], True is ink.

    Args:
        tokens: see `token_texts`.
        font: see `open_font`. Characters that it lacks are white.
        size: side of the picture that a token of any length is brought to.
        order: of pixels: "polar", or "rows" from top left.
        augment: jitter: of easy scripts an angle of ±4°, a shift of ±2 pixels, 1% speckle and a blur of 0.5 pixels; of
            others 0.1% speckle.
        ink: share of a pixel that must be black; None takes 1/2, and size / 64 below a size of 32.
        seed: of the jitter, restarted for every token.

    Raises:
        BadInput: a token without text, or an argument out of its range.
        MissingExtra: Pillow is not installed.
    """
    if order not in get_args(Order):
        raise BadInput(f"order must be 'polar' or 'rows', got {order!r}")
    if ink is not None and not 0 < ink <= 1:
        raise BadInput(f"ink must be above 0 and at most 1, got {ink}")
    _at_least("seed", seed, 0)
    places = polar_order(size) if order == "polar" else np.arange(size * size)
    share = min(0.5, size / 64) if ink is None else ink
    texts, font = token_texts(tokens), open_font(font)
    bits = np.empty((len(texts), size * size), bool)
    for number, picture in enumerate(_pictures(texts, font, size, seed if augment else None)):
        bits[number] = picture.ravel()[places] < 255 * (1 - share) + 0.5
    return bits


def glyph_rows(
    tokens: Any, font: Font | str | Path | None = None, *, size: int = 32, dim: int | None = None,
    order: Order = "polar", augment: bool = True, ink: float | None = None, seed: int = 42, nudge: float = 0.05,
) -> np.ndarray:  # fmt: skip
    """Unit rows of tokens by how they look, float32 [vocabulary, dim], no two alike.

    PCA (means taken off, all directions kept in order of spread) sees every token once, however often texts have it.

    Args:
        tokens: see `token_texts`.
        font: see `open_font`.
        size: side of the picture; it has size² bits.
        dim: components kept, at most size²; None: all. What is beyond the number of tokens is 0.
        order: see `glyph_bits`, as `augment`, `ink` and `seed`.
        nudge: a token that looks like an earlier one (many do that a font lacks) gets a random vector of its own added,
            drawn by its id, this large against a typical row.

    Raises:
        BadInput: as `glyph_bits`; also where `dim` is too small to keep the tokens apart.
        MissingExtra: Pillow or scikit-learn is not installed.
    """
    if not (isinstance(nudge, (int, float)) and 0 < nudge < float("inf")):
        raise BadInput(f"nudge must be a number above 0, got {nudge!r}")
    _at_least("size", size, 2)
    width = size * size if dim is None else dim
    _at_least("dim", width, 1)
    if width > size * size:
        raise BadInput(f"dim {width} is more than the {size * size} bits of a picture; take a size of at least "
                       f"{int(np.ceil(width**0.5))}")  # fmt: skip
    bits = glyph_bits(tokens, font, size=size, order=order, augment=augment, ink=ink, seed=seed)
    rows = _principal(bits, width)
    norms = np.linalg.norm(rows, axis=1)
    typical = float(np.sqrt(np.mean(norms**2)))
    nothing = norms < 1e-5 * size
    typical = typical if typical >= 1e-5 * size else 1.0
    for number in np.flatnonzero(_repeats(bits) | nothing):
        random = np.random.default_rng([seed, int(number)]).standard_normal(width).astype(np.float32)
        rows[number] += nudge * typical * random / np.linalg.norm(random)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if len(np.unique(rows, axis=0)) < len(rows):
        raise BadInput(f"{len(rows)} tokens cannot be told apart in dim {width}; take a larger dim")
    return rows


def frozen_table(rows: np.ndarray | torch.Tensor, scale: float | Literal["rms"] = "rms") -> DenseRows:
    """Rows [vocabulary, dim] times a number, as a table that does not learn.

    Args:
        rows: finite.
        scale: "rms" gives unit rows the length √dim · 0.02 of a trained table that begins in N(0, 0.02²), so that no
            comparison with it is about scale. A `Decoder` that makes its own input begins with rows of length 1:
            against that one, 1.0 is the same length.
    """
    values = torch.as_tensor(rows, dtype=torch.float32)
    if values.ndim != 2 or not values.numel():
        raise BadInput(f"rows must be [vocabulary, dim] with at least one number, got {list(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise BadInput("rows have NaN or infinity; make them again")
    if scale == "rms":
        scale = 0.02 * values.shape[1] ** 0.5
    if isinstance(scale, str) or not 0 < scale < float("inf"):
        raise BadInput(f"scale must be 'rms' or a number above 0, got {scale!r}")
    return DenseRows.of(values * scale)


def glyph_table(
    tokens: Any, font: Font | str | Path | None = None, *, scale: float | Literal["rms"] = "rms", **options: Any
) -> DenseRows:
    """`glyph_rows` as a frozen table: goes into the `input` socket of a `Decoder`. Options as there."""
    font = open_font(font)
    table = frozen_table(glyph_rows(tokens, font, **options), scale)
    table.trained_on = f"glyphs of {font.name}"
    return table


def _pictures(texts: Sequence[str], font: Font, size: int, seed: int | None) -> Iterator[np.ndarray]:
    """Grey pictures uint8 [size, size] of texts; no jitter where there is no seed."""
    try:
        from PIL import Image, ImageFilter
    except ImportError:
        raise MissingExtra("pictures of glyphs", "glyphs") from None
    blur, bilinear = ImageFilter.GaussianBlur(0.5), Image.Resampling.BILINEAR
    white, cells = np.full((CELL, CELL), 255, np.uint8), dict[str, np.ndarray]()
    drawn: dict[tuple[int, bool], tuple[float, tuple[int, int], np.ndarray]] = {}
    for text in texts:
        for character in text:
            if character not in cells:
                cell = font.cell(character)
                cells[character] = white if cell is None else cell
        strip = np.concatenate([cells[character] for character in text], axis=1)
        if seed is not None:
            kind = (len(text), is_easy(text))
            if kind not in drawn:
                drawn[kind] = _jitter(*kind, seed)
            angle, shift, speckle = drawn[kind]
            if kind[1]:
                turned = Image.fromarray(strip).rotate(angle, bilinear, translate=shift, fillcolor=255)
                strip = np.array(turned)
            strip[speckle] = 255 - strip[speckle]
            if kind[1]:
                strip = np.asarray(Image.fromarray(strip).filter(blur))
        sharp = np.where(strip < 128, 0, 255).astype(np.uint8)
        yield np.asarray(Image.fromarray(sharp).resize((size, size), bilinear))


def _jitter(length: int, easy: bool, seed: int) -> tuple[float, tuple[int, int], np.ndarray]:
    """Degrees, pixels right and down, and which pixels [32, 32 · length] turn to their opposite."""
    random = np.random.default_rng(seed)
    angle, right, down = random.uniform(-4, 4), random.integers(-2, 3), random.integers(-2, 3)
    speckle = random.random((CELL, CELL * length)) < (0.01 if easy else 0.001)
    return float(angle), (int(right), int(down)), speckle


def _principal(bits: np.ndarray, dim: int) -> np.ndarray:
    """Float32 [n, dim]: the leading components of bits [n, ..]; zeros beyond those that n points have."""
    try:
        from sklearn.decomposition import PCA
    except ImportError:
        raise MissingExtra("visual token rows", "glyphs") from None
    rows = np.zeros((len(bits), dim), np.float32)
    if (bits == bits[0]).all():  # no spread to divide by
        return rows
    kept = min(dim, *bits.shape)
    solver = "covariance_eigh" if len(bits) > bits.shape[1] else "full"
    rows[:, :kept] = PCA(kept, svd_solver=solver).fit_transform(bits.astype(np.float32))
    return rows


def _repeats(bits: np.ndarray) -> np.ndarray:
    """Which rows of bits are equal to an earlier one."""
    packed = np.packbits(bits, axis=1)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return first[group.ravel()] != np.arange(len(bits))


def _text(tokenizer: Any, number: int, name: str | None) -> str:
    if name is None:
        return "\ufffd"
    if "▁" in name:  # a decoder would strip the space in front
        return name.replace("▁", " ")
    return tokenizer.decode([number], skip_special_tokens=False) or name


def _at_least(what: str, number: Any, least: int) -> None:
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < least:
        raise BadInput(f"{what} must be an integer of at least {least}, got {number!r}")
