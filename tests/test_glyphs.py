"""Rows of tokens by how they look: fonts, pictures, PCA, the frozen table; the character tokenizer; words in layers."""

from __future__ import annotations

import gzip
import json
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, MissingExtra

torch = pytest.importorskip("torch")
ImageFont = pytest.importorskip("PIL.ImageFont")
pytest.importorskip("sklearn")

from inlay.lm import Decoder  # noqa: E402
from inlay.lm.adapter import Adapter  # noqa: E402
from inlay.lm.bitmap_font import BitmapFont, fallback, read_bdf, read_hex  # noqa: E402
from inlay.lm.glyphs import (  # noqa: E402
    frozen_table,
    glyph_bits,
    glyph_rows,
    glyph_table,
    is_easy,
    polar_order,
    token_texts,
)
from inlay.lm.hidden_neighbours import HiddenWords, hidden_words  # noqa: E402
from inlay.lm.outline_font import OutlineFont, open_font  # noqa: E402
from inlay.lm.unicode_tokenizer import UnicodeTokenizer, free_code_points  # noqa: E402
from inlay.tables import Compiled, Full  # noqa: E402

WORDS = [
    "a",
    "b",
    "c",
    "e",
    "the",
    " the",
    "The",
    "and",
    "house",
    "horse",
    "king",
    "ring",
    "queen",
    ",",
    "'",
    ".",
    "\n",
]
SQUARE = "FF" + "81" * 14 + "FF"
WIDE = "8001" * 16


# fonts


def written(folder, text, name="font.hex"):
    path = folder / name
    path.write_text(text)
    return path


def test_hex_of_two_widths_is_drawn_pixel_by_pixel(tmp_path):
    text = f"# a comment\n\n0041:{SQUARE}\n4E2D:{WIDE}\n01F600:{WIDE}\n"
    plain = read_hex(written(tmp_path, text))
    (tmp_path / "font.hex.gz").write_bytes(gzip.compress(text.encode()))
    packed = open_font(tmp_path / "font.hex.gz")
    assert len(plain) == len(packed) == 3
    assert "A" in plain
    assert "B" not in plain
    assert plain.cell("B") is None
    narrow = np.zeros((16, 8), bool)
    narrow[[0, -1]] = narrow[:, [0, -1]] = True
    expected = np.full((32, 32), 255, np.uint8)
    expected[:, 8:24] = np.where(narrow.repeat(2, 0).repeat(2, 1), 0, 255)
    np.testing.assert_array_equal(plain.cell("A"), expected)
    np.testing.assert_array_equal(packed.cell("A"), expected)
    for character in "中😀":
        ink = np.argwhere(plain.cell(character) == 0)
        assert sorted(set(ink[:, 1])) == [0, 1, 30, 31]
        assert len(ink) == 4 * 32


def test_several_hex_files_are_one_font(tmp_path):
    one = written(tmp_path, f"0041:{SQUARE}\n", "one.hex")
    two = written(tmp_path, f"0041:{'00' * 16}\n0042:{SQUARE}\n", "two.hex")
    both = read_hex(one, two)
    assert both.name == "one.hex + two.hex"
    np.testing.assert_array_equal(both.cell("A"), both.cell("B"))


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (f"0041:{SQUARE[:-2]}", r"line 2: U\+0041 has 30 digits"),
        (f"0041:{SQUARE[:-1]}G", "line 2: .* is not CODE:ROWS"),
        (f"0x41:{SQUARE}", "is not CODE:ROWS"),
        (f"41:{SQUARE}", "is not CODE:ROWS"),
        (f"110000:{SQUARE}", "is not CODE:ROWS"),
        ("0041", "is not CODE:ROWS"),
        (f"0040:{SQUARE}", r"line 2: U\+0040 was drawn before"),
    ],
)
def test_damaged_hex_is_named_by_its_line(tmp_path, line, match):
    with pytest.raises(BadInput, match=match):
        read_hex(written(tmp_path, f"0040:{SQUARE}\n{line}\n"))


def test_files_that_are_no_fonts(tmp_path):
    with pytest.raises(BadInput, match="no font file"):
        open_font(tmp_path / "none.hex")
    with pytest.raises(BadInput, match="no font file"):
        open_font(tmp_path / "none.ttf")
    with pytest.raises(BadInput, match="no glyphs"):
        read_hex(written(tmp_path, "# nothing\n"))
    cut = tmp_path / "cut.hex.gz"
    cut.write_bytes(gzip.compress(f"0041:{SQUARE}\n".encode())[:-9])
    with pytest.raises(BadInput, match="cannot be read"):
        open_font(cut)
    with pytest.raises(BadInput, match="not a font"):
        open_font(written(tmp_path, "text", "font.ttf"))
    with pytest.raises(BadInput, match="method cell"):
        open_font(3)
    with pytest.raises(BadInput, match="at least one file"):
        read_hex()


BDF = """STARTFONT 2.1
FONT test
SIZE 8 75 75
FONTBOUNDINGBOX 8 8 0 -2
CHARS 3
STARTCHAR A
ENCODING 65
DWIDTH 8 0
BBX 3 4 2 0
BITMAP
E0
A0
A0
E0
ENDCHAR
STARTCHAR acute
ENCODING 769
DWIDTH 0 0
BBX 2 1 -3 5
BITMAP
C0
ENDCHAR
STARTCHAR unnamed
ENCODING -1
DWIDTH 8 0
BBX 8 1 0 0
BITMAP
FF
ENDCHAR
STARTCHAR space
ENCODING 32
DWIDTH 8 0
BBX 0 0 0 0
BITMAP
ENDCHAR
ENDFONT
"""


def test_bdf_places_ink_on_the_baseline(tmp_path):
    font = open_font(written(tmp_path, BDF, "font.bdf"))
    assert sorted(font.glyphs) == [32, 65, 769]
    letter = np.zeros((8, 8), bool)  # the baseline is below row 5: two rows of eight are beneath it
    letter[2:6, 2:5] = [[1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]]
    np.testing.assert_array_equal(font.glyphs[65], letter)
    np.testing.assert_array_equal(font.cell("A") == 0, letter.repeat(4, 0).repeat(4, 1))
    assert font.glyphs[769].shape == (8, 3)
    assert font.glyphs[769].nonzero()[0].tolist() == [0, 0]
    assert font.glyphs[769].nonzero()[1].tolist() == [0, 1]
    assert not font.glyphs[32].any()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("STARTFONT 2.1", "STARTFACE", "not a BDF font"),
        ("ENDFONT\n", "", "without ENDFONT"),
        ("E0\nA0", "A0", "of 4 rows has 3"),
        ("E0\nA0", "E0\nZZ", "line 12: 'ZZ' is not a row of 3 pixels"),
        ("BBX 3 4 2 0", "BBX 3 4", "line 9: BBX needs 4 whole numbers"),
        ("BBX 3 4 2 0", "BBX 3 4 2 5", "outside FONTBOUNDINGBOX"),
        ("FONTBOUNDINGBOX 8 8 0 -2", "COMMENT", "before FONTBOUNDINGBOX"),
        ("ENCODING 65", "ENCODING A", "ENCODING needs 1"),
        ("ENCODING 65", "ENCODING 9999999", "no code point"),
    ],
)
def test_damaged_bdf_is_named(tmp_path, old, new, match):
    with pytest.raises(BadInput, match=match):
        read_bdf(written(tmp_path, BDF.replace(old, new, 1), "font.bdf"))


def test_bitmap_fonts_refuse_what_is_no_glyph():
    good = np.ones((16, 8), bool)
    for glyphs, match in (
        ({}, "no glyphs"),
        ({0x110000: good}, "no code point"),
        ({65: good.astype(int)}, "boolean"),
        ({65: np.ones((0, 8), bool)}, "at least one pixel"),
        ({65: good, 66: np.ones((8, 8), bool)}, "heights"),
    ):
        with pytest.raises(BadInput, match=match):
            BitmapFont(glyphs)


def test_the_fallback_font_has_ascii_and_latin_1_and_no_two_letters_alike():
    font = fallback()
    visible = [chr(code) for code in [*range(0x21, 0x7F), *range(0xA1, 0x100)]]
    assert " " in font
    assert (font.cell(" ") == 255).all()
    assert all(character in font for character in visible)
    drawn = {character: font.cell(character).tobytes() for character in visible}
    assert len(set(drawn.values())) == len(visible)
    assert all((font.cell(character) == 0).sum() >= 2 * 4 for character in visible)
    letters = [np.frombuffer(drawn[c], np.uint8) for c in visible if c.isascii() and c.isalnum()]
    apart = [int((one != other).sum()) // 4 for i, one in enumerate(letters) for other in letters[:i]]
    assert min(apart) >= 3  # pixels of 8 x 16
    for size in (16, 32):  # jittered and shrunk
        bits = glyph_bits([chr(code) for code in range(0x20, 0x7F)], font, size=size)
        assert len(np.unique(bits, axis=0)) == 95


def test_outline_fonts_know_what_they_lack(tmp_path):
    held = getattr(ImageFont.load_default(), "path", None)  # a small TrueType font within Pillow, in memory
    if held is None:
        pytest.skip("Pillow was built without FreeType")
    held.seek(0)
    path = tmp_path / "font.ttf"
    path.write_bytes(held.read())
    font = open_font(path)
    assert isinstance(font, OutlineFont)
    assert font.cell("A").shape == (32, 32)
    assert font.cell("A").min() < 64
    assert not np.array_equal(font.cell("A"), font.cell("B"))
    assert (font.cell(" ") == 255).all()
    for missing in ("\uf8ff", "\U0010ffff", "\ud800"):
        assert font.cell(missing) is None
    once, again = (glyph_rows(WORDS, path, size=16, dim=16) for _ in range(2))
    np.testing.assert_array_equal(once, again)


# pictures


def test_polar_order_is_by_radius_then_angle():
    for size in (2, 3, 16, 32):
        order = polar_order(size)
        assert sorted(order) == list(range(size * size))
        y, x = np.divmod(order, size) - np.array((size - 1) / 2)
        radius, angle = np.hypot(x, y).round(9), np.arctan2(y, x) % (2 * np.pi)
        assert all((r, a) < (s, b) for r, a, s, b in zip(radius, angle, radius[1:], angle[1:]))
    assert polar_order(3)[0] == 4
    assert polar_order(3)[1] == 5


def test_bits_without_jitter_are_the_shrunken_glyph():
    font = fallback()
    square = font.cell("H") == 0
    bits = glyph_bits(["H"], font, order="rows", augment=False)
    np.testing.assert_array_equal(bits.reshape(32, 32), square)
    half = glyph_bits(["H"], font, size=16, order="rows", augment=False).reshape(16, 16)
    assert half.any()
    assert half.sum() < square.sum()
    polar = glyph_bits(["H"], font, augment=False)
    np.testing.assert_array_equal(polar[0], bits[0][polar_order(32)])
    assert not polar[0, :4].all()  # H is white in the middle but for its bar


def test_a_token_is_a_strip_of_squares():
    font = fallback()
    wide = glyph_bits(["HI"], font, order="rows", augment=False, ink=0.25).reshape(32, 32)
    for letter, part in (("H", wide[:, :16]), ("I", wide[:, 16:])):
        alone = (font.cell(letter) == 0).reshape(32, 16, 2).any(2)
        assert (part & ~alone).sum() <= 0.1 * part.sum()  # shrunk to half its width, nothing strays
        assert part.sum() >= 0.5 * alone.sum()


def test_the_same_jitter_for_every_token_of_a_length():
    font = fallback()
    bits = glyph_bits(["a", "b", "a", "ab"], font)
    np.testing.assert_array_equal(bits[0], bits[2])
    np.testing.assert_array_equal(bits[1], glyph_bits(["b"], font)[0])  # whatever else is drawn
    assert (bits[0] != glyph_bits(["a"], font, augment=False)[0]).any()
    assert (bits[0] != glyph_bits(["a"], font, seed=7)[0]).any()
    assert is_easy("naïve Ελλάδα Україна 12€")
    assert not is_easy("中")
    assert not is_easy("a中")
    pixels = np.zeros((16, 16), bool)
    twin = BitmapFont({ord("a"): pixels, ord("中"): pixels})
    speckle = glyph_bits(["a", "中", "中a中中"], twin, order="rows").sum(1)
    assert 2 <= speckle[0] <= 30  # 1% of 1,024, shifts and blur besides
    assert speckle[1] <= 5


def test_missing_glyphs_are_white_and_told_apart_by_id():
    font = fallback()
    tokens = ["a", "中", "文", "a", "b"]
    bits = glyph_bits(tokens, font, augment=False)
    assert not bits[1].any()
    np.testing.assert_array_equal(bits[1], bits[2])
    rows = glyph_rows(tokens, font, augment=False)
    assert len(np.unique(rows, axis=0)) == 5
    apart = np.linalg.norm(rows[1] - rows[2])
    assert 0.01 < apart < 0.2  # near each other still
    assert 0.01 < np.linalg.norm(rows[0] - rows[3]) < 0.2
    moved = glyph_rows(["a", "b", "中", "文", "a"], font, augment=False)
    assert not np.allclose(moved[3], rows[2])  # the vector is the id's
    white = glyph_rows(["中", "文", "字"], font, size=8, augment=False)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, atol=1e-6)
    assert len(np.unique(white, axis=0)) == 3
    one = glyph_rows(["a"], font, size=4)
    assert one.shape == (1, 16)
    np.testing.assert_allclose(np.linalg.norm(one), 1, atol=1e-6)


# rows


@pytest.fixture(scope="module")
def many():
    letters = [chr(code) for code in range(0x21, 0x7F)]
    return letters + [one + other for one in letters[:30] for other in letters[32:46]]


def test_rows_are_unit_distinct_and_the_same_each_time(many):
    rows = glyph_rows(many, fallback(), size=16, dim=128)
    assert rows.shape == (len(many), 128)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert len(np.unique(rows, axis=0)) == len(many)
    np.testing.assert_array_equal(rows, glyph_rows(many, fallback(), size=16, dim=128))


def test_pca_of_all_components_keeps_distances(many):
    bits = glyph_bits(many, fallback(), size=16).astype(float)
    first = np.unique(bits, axis=0, return_index=True)[1]
    centred = bits - bits.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    rows = glyph_rows(many, fallback(), size=16)
    np.testing.assert_allclose(rows[first] @ rows[first].T, expected[first] @ expected[first].T, atol=2e-5)
    spread = rows.var(0)
    assert rows.shape[1] == 256
    assert spread[:8].sum() > spread[-128:].sum()  # in order of spread, roughly: rows are unit


def test_components_are_those_of_an_eigendecomposition(many):
    bits = glyph_bits(many, fallback(), size=16).astype(float)
    first = np.unique(bits, axis=0, return_index=True)[1]
    centred = bits - bits.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, ::-1][:, :10]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    rows = glyph_rows(many, fallback(), size=16, dim=10)
    np.testing.assert_allclose(np.abs(rows[first]), np.abs(expected[first]), atol=1e-3)


def test_pca_undoes_the_order_of_pixels(many):
    polar, plain = (glyph_rows(many, fallback(), size=16, dim=16, order=order) for order in ("polar", "rows"))
    np.testing.assert_allclose(polar @ polar.T, plain @ plain.T, atol=1e-3)


def test_neighbours_look_alike():
    words = ["house", "horse", "queen", "cabin", "mouse", "jumpy", "villa", "quilt"]
    rows = glyph_rows(words, fallback())
    near = np.argsort(-(rows @ rows[0]))[1:3]
    assert {words[number] for number in near} == {"horse", "mouse"}


def test_rows_refuse_bad_input():
    font = fallback()
    for tokens, options, match in (
        ([], {}, "no tokens"),
        (["a", ""], {}, "token 1 is ''"),
        (["a", 3], {}, "token 1 is 3"),
        ("ab", {}, "one text"),
        (3, {}, "got int"),
        (["a"], {"size": 1}, "size must be an integer of at least 2"),
        (["a"], {"size": 2.5}, "size"),
        (["a"], {"size": 4, "dim": 17}, "take a size of at least 5"),
        (["a"], {"dim": 0}, "dim"),
        (["a"], {"order": "spiral"}, "order"),
        (["a"], {"ink": 0}, "ink"),
        (["a"], {"ink": float("nan")}, "ink"),
        (["a"], {"nudge": 0}, "nudge"),
        (["a"], {"nudge": float("nan")}, "nudge"),
        (["a"], {"seed": -1}, "seed"),
        (["a", "b", "c"], {"dim": 1}, "cannot be told apart in dim 1"),
    ):
        with pytest.raises(BadInput, match=match):
            glyph_rows(tokens, font, **options)


@pytest.mark.parametrize(
    ("package", "what"), [("PIL", "pictures of glyphs"), ("sklearn.decomposition", "visual token")]
)
def test_what_is_missing_is_named(monkeypatch, package, what):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=what):
        glyph_rows(["a", "b"], fallback())


def test_texts_of_tokenizers():
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<s>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(["the house the horse " * 20], trainer)
    texts = token_texts(made)
    assert len(texts) == made.get_vocab_size()
    assert texts[0] == "<s>"
    assert " the" in texts
    assert "\ufffd" in texts
    assert glyph_rows(made, fallback(), size=16, dim=32).shape == (len(texts), 32)
    assert token_texts(UnicodeTokenizer({0xE000: "th"}))[0xE000] == "th"


# the table


def test_the_table_is_frozen_saved_and_of_the_length_of_a_trained_one(tmp_path):
    table = glyph_table(WORDS, fallback(), size=16, dim=32)
    rows = glyph_rows(WORDS, fallback(), size=16, dim=32)
    ids = torch.arange(len(WORDS))
    torch.testing.assert_close(table(ids).norm(dim=1), torch.full((len(WORDS),), 0.02 * 32**0.5))
    torch.testing.assert_close(table(ids), torch.from_numpy(rows) * 0.02 * 32**0.5)
    assert not list(table.parameters())
    assert table.num_parameters == 0
    assert table.nbytes == len(WORDS) * 32 * 4
    loaded = Compiled.load(table.save(tmp_path / "glyphs.table"))
    assert torch.equal(loaded(ids), table(ids))
    assert loaded.trained_on == "glyphs of fallback.hex"
    assert frozen_table(rows, 1.0)(ids).norm(dim=1).mean().item() == pytest.approx(1, abs=1e-6)
    for wrong, scale, match in (
        (np.full((2, 2), np.nan), "rms", "NaN"),
        (np.zeros(3), "rms", "vocabulary, dim"),
        (np.zeros((2, 0)), "rms", "at least one number"),
        (rows, 0, "scale"),
        (rows, "big", "scale"),
        (rows, float("inf"), "scale"),
    ):
        with pytest.raises(BadInput, match=match):
            frozen_table(wrong, scale)


def trained(model, steps=5):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        batch = torch.randint(len(WORDS), (4, 9), generator=torch.Generator().manual_seed(step))
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def test_training_leaves_the_table_alone_and_the_head_is_not_tied():
    torch.manual_seed(0)
    table = glyph_table(WORDS, fallback(), size=16, dim=32)
    before = table.values.clone()
    model = Decoder(len(WORDS), 32, 2, 4, input=table)
    names = [name for name, _ in model.named_parameters()]
    assert not any(name.startswith("input") for name in names)
    head = model.head.weight.detach().clone()
    trained(model)
    assert torch.equal(model.input.values, before)
    assert not torch.equal(model.head.weight, head)
    with pytest.raises(TypeError):  # a buffer is no parameter: the head cannot be the table
        model.head.weight = model.input.values
    again = Decoder(len(WORDS), 32, 2, 4, input=frozen_table(torch.zeros(len(WORDS), 32)))
    again.load_state_dict(model.state_dict())
    ids = torch.arange(8)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_an_adapter_learns_one_map_and_can_be_folded_into_the_rows():
    torch.manual_seed(0)
    table = glyph_table(WORDS, fallback(), size=16, dim=32)
    before, adapter = table.values.clone(), Adapter(table)
    ids = torch.arange(len(WORDS))
    assert torch.equal(adapter(ids), table(ids))
    model = trained(Decoder(len(WORDS), 32, 2, 4, input=adapter))
    assert [tuple(p.shape) for p in adapter.parameters()] == [(32, 32)]
    assert not torch.equal(adapter.map.weight, torch.eye(32))
    assert torch.equal(table.values, before)
    expected = model(ids[None]).logits
    model.input = adapter.compiled()
    torch.testing.assert_close(model(ids[None]).logits, expected, atol=1e-5, rtol=0)
    with pytest.raises(BadInput, match="learns"):
        Adapter(Full(4, 4))
    with pytest.raises(BadInput, match="behind a table"):
        Adapter(torch.nn.Embedding(4, 4))


# the tokenizer


TEXT = "the cat and the hat and the rat; 日本語と日本 \ue000\uffff\u0378 😀"
PLAIN = UnicodeTokenizer()
TOKENIZER = UnicodeTokenizer.train(TEXT * 3, grams=6500, extra=["the rat"])
tricky = st.text(
    st.one_of(
        st.sampled_from("the cathn ;日本語と\ue000\uf8ff\uffff\ufffe\u0378\ufdd0😀\U0010ffff\0\r\n\ufeff\ufffd"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@given(tricky)
@settings(deadline=None, max_examples=300)
@example("the the rat the ra")
@example("\ue000\ue001😀\uffff\U0010ffff")
def test_any_text_comes_back(text):
    for tokenizer in (TOKENIZER, PLAIN):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.separator not in ids
        assert all(0 <= number < tokenizer.size for number in ids)


def test_tokens_are_characters_and_the_longest_that_fit():
    plain = UnicodeTokenizer()
    assert plain.encode("aé中") == [0x61, 0xE9, 0x4E2D]
    assert plain.encode("😀") == [0xD83D, 0xDE00]
    assert plain.encode("\ue000") == [0xE000]
    assert len(plain) == 65536
    given = UnicodeTokenizer({0xE000: "th", 0xE001: "the", 0xE002: "he"}, ["there is"])
    assert given.encode("the th he") == [0xE001, 32, 0xE000, 32, 0xE002]
    assert given.encode("there is") == [65536]
    assert given.encode("there") == [0xE001, ord("r"), ord("e")]
    assert given.encode("\ue000") == [0xDC00 + 0xE000 // 1024, 0xD800 + 0xE000 % 1024]
    assert given.decode([given.separator, 0xE001, given.separator]) == "the"
    assert given.size == 65537
    assert len(given.tokens) == given.size
    assert given.decode([0xD83D, 97, 0xDE00]) == "\ufffda\ufffd"  # halves of a text that was cut
    assert given.decode([0xD83D, 0xD83D, 0xDE00]) == "\ufffd😀"
    assert given.decode([0xDC3F, 0xDBFF, 0xDFFF, 0xD800, 0xDC36, 0xD800]) == "\uffff\ufffd\ufffd"


def test_training_counts_overlapping_n_grams_as_a_counter_does():
    from collections import Counter

    texts = ["banana bandana", "ananas", "日本語日本語", "a😀b a😀b", "x"]
    counts = Counter(
        text[at : at + n]
        for text in texts
        for n in (2, 3)
        for at in range(len(text) - n + 1)
        if "😀" not in text[at : at + n]
    )
    ranked = sorted((gram for gram, count in counts.items() if count >= 2), key=lambda gram: (-counts[gram], gram))
    made = UnicodeTokenizer.train(texts)
    assert list(made.grams.values()) == ranked
    assert list(made.grams) == free_code_points()[: len(ranked)]
    assert list(UnicodeTokenizer.train(texts, grams=3).grams.values()) == ranked[:3]
    assert not UnicodeTokenizer.train(texts, least=99).grams
    assert len(made.encode("banana")) < 6


def test_free_code_points_are_free():
    free = free_code_points()
    assert len(set(free)) == len(free) > 6400
    assert not any(0xD800 <= code < 0xE000 or code >= 0xFFFF for code in free)
    assert not any(chr(code).isprintable() for code in free)


def test_tokenizers_are_saved_and_checked(tmp_path):
    path = TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = UnicodeTokenizer.load(path)
    assert loaded.grams == TOKENIZER.grams
    assert loaded.extra == ["the rat"]
    assert loaded.encode(TEXT) == TOKENIZER.encode(TEXT)
    data = json.loads(path.read_text())
    data["grams"]["E000"] = "zz"
    path.write_text(json.dumps(data))
    with pytest.raises(Corrupt, match="digest"):
        UnicodeTokenizer.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Corrupt, match="damaged"):
        UnicodeTokenizer.load(path)
    path.write_text("[]")
    with pytest.raises(BadInput, match="holds no"):
        UnicodeTokenizer.load(path)
    with pytest.raises(BadInput, match="no tokenizer"):
        UnicodeTokenizer.load(tmp_path / "none.json")
    with pytest.raises(BadInput, match="does not exist"):
        TOKENIZER.save(tmp_path / "no" / "tokenizer.json")


def test_tokenizers_refuse_bad_input():
    for grams, extra, match in (
        ({0xD800: "ab"}, (), "cannot be given away"),
        ({0xFFFF: "ab"}, (), "cannot be given away"),
        ({"E000": "ab"}, (), "cannot be given away"),
        ({0xE000: "a"}, (), "two characters"),
        ({0xE000: "a😀"}, (), "first plane"),
        ({0xE000: "ab", 0xE001: "ab"}, (), "given twice"),
        ({}, "ab", "one text"),
        ({}, ["a"], "two characters"),
    ):
        with pytest.raises(BadInput, match=match):
            UnicodeTokenizer(grams, extra)
    with pytest.raises(BadInput, match=r"lone surrogate U\+D800 at 1"):
        TOKENIZER.encode("a\ud800")
    with pytest.raises(BadInput, match="got bytes"):
        TOKENIZER.encode(b"a")
    with pytest.raises(BadInput, match="outside the vocabulary"):
        TOKENIZER.decode([70000])
    for options in ({"grams": -1}, {"grams": 1.5}, {"least": 0}):
        with pytest.raises(BadInput):
            UnicodeTokenizer.train("abab", **options)


# words in layers


def test_states_are_means_over_occurrences():
    torch.manual_seed(0)
    model = Decoder(20, 16, 2, 2, context=12)
    ids = torch.randint(20, (7, 12), generator=torch.Generator().manual_seed(1))
    ids[2, 3:5], ids[5, 0:2], ids[3, 11], ids[4, 0] = torch.tensor([7, 8]), torch.tensor([7, 8]), 7, 8
    words = {"seven": [7], "eight": [8], "both": [7, 8], "never": [19, 19, 19, 19]}
    found = hidden_words(model, ids, words, batch=3)
    assert found.names == ["seven", "eight", "both"]
    assert found.layers == [0, 1, 2]
    hidden = model(ids, capture=True).hidden
    for number, name in enumerate(found.names):
        tokens = words[name]
        places = [
            (row, column)
            for row in range(7)
            for column in range(len(tokens) - 1, 12)
            if ids[row, column - len(tokens) + 1 : column + 1].tolist() == tokens
        ]
        assert found.counts[number] == len(places)
        for layer in range(3):
            expected = torch.stack([hidden[layer][place] for place in places]).mean(0)
            np.testing.assert_allclose(found.states[layer, number], expected.detach(), atol=1e-5)
    kept = hidden_words(model, ids, words, layers=[2], least=2)
    np.testing.assert_allclose(kept.states[0], found.states[2], atol=1e-6)
    assert model.training


def test_neighbours_and_ranks_are_those_of_centred_cosines():
    random = np.random.default_rng(0)
    states = random.standard_normal((2, 30, 8)).astype(np.float32) + 5  # a common direction
    states[1, 1] = states[1, 0] + 0.01
    names = [f"w{number}" for number in range(30)]
    words = HiddenWords(names, [0, 4], states, np.ones(30))
    assert words.neighbours("w0", 1, layer=4)[0][0] == "w1"
    centred = states[0] - states[0].mean(0)
    cosines = centred @ centred[3] / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred[3])
    order = [names[number] for number in np.argsort(-cosines) if number != 3]
    found = words.neighbours("w3", 29, layer=0)
    assert [name for name, _ in found] == order
    assert found[0][1] == pytest.approx(np.sort(cosines)[-2], abs=1e-5)
    ranks = words.ranks([("w0", "w1"), ("w3", order[0]), ("w3", order[5]), ("w3", order[-1])])
    assert ranks.shape == (2, 4)
    assert ranks[1, 0] == 0
    np.testing.assert_allclose(ranks[0, 1:], [0, 5 / 28, 1])


def test_words_in_layers_refuse_bad_input():
    model = Decoder(20, 16, 2, 2, context=12)
    ids = torch.arange(20).repeat(3)[:48].view(4, 12)
    words = {"a": [1], "b": [2]}
    for wrong, options, match in (
        ((ids.float(), words), {}, "integers"),
        ((ids[0], words), {}, "windows, length"),
        ((ids, {"a": [1], "b": []}), {}, "no tokens"),
        ((ids, {"a": [1], "b": [5, 5]}), {}, "1 of 2 words"),
        ((ids, words), {"least": 100}, "0 of 2 words"),
        ((ids, words), {"layers": [3]}, "from 0 to 2"),
        ((ids, words), {"layers": [1, 1]}, "different"),
        ((ids, words), {"batch": 0}, "batch"),
    ):
        with pytest.raises(BadInput, match=match):
            hidden_words(model, *wrong, **options)
    found = hidden_words(model, ids, words)
    with pytest.raises(BadInput, match="'c' is none"):
        found.neighbours("c", layer=0)
    with pytest.raises(BadInput, match="layer 7"):
        found.neighbours("a", layer=7)
    with pytest.raises(BadInput, match="k must"):
        found.neighbours("a", 0, layer=0)
    with pytest.raises(BadInput, match="two different"):
        found.ranks([("a", "a")])
    with pytest.raises(BadInput, match="NaN"):
        HiddenWords(["a", "b"], [0], np.full((1, 2, 3), np.nan), np.ones(2))
    with pytest.raises(BadInput, match="states must be"):
        HiddenWords(["a", "b"], [0], np.zeros((2, 2, 3)), np.ones(2))
