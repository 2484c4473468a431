"""word2vec, GloVe and fastText files: in, out, against gensim, and every way in which they can be broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.words import KeyedVectors, formats

KEYS = ["the", "of", "naïve", "日本", "don't", "x"]
FORMATS = ("word2vec", "word2vec-binary", "fasttext", "glove")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((len(KEYS), 5)).astype(np.float32)
    made[2] *= 1e-12
    made[3] *= 1e12
    return made


def saved(path: Path, rows: np.ndarray, format: str, keys=KEYS) -> Path:
    formats.write(path, [(list(keys), rows)], format, count=len(keys), dim=rows.shape[1])
    return path


def all_of(path: Path, format=None, **options) -> tuple[list[str], np.ndarray]:
    parts = list(formats.read(path, format, **options))
    return [key for keys, _ in parts for key in keys], np.concatenate([rows for _, rows in parts])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_was_written_is_read_bit_for_bit(tmp_path, rows, format, suffix):
    path = saved(tmp_path / f"v{suffix}", rows, format)
    assert formats.seen_format(path) == format
    keys, found = all_of(path)
    assert keys == KEYS
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("n", [1, formats.ROWS_AT_ONCE, formats.ROWS_AT_ONCE + 1])
def test_batches_lose_nothing(tmp_path, format, n):
    rows = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    keys, found = all_of(saved(tmp_path / "v", rows, format, [f"k{i}" for i in range(n)]))
    assert keys == [f"k{i}" for i in range(n)]
    np.testing.assert_array_equal(found, rows)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1).filter(
            lambda key: key.encode().strip() == key.encode() and not key.isdigit()
        ),
        min_size=1, max_size=5,
    ),
    st.sampled_from(FORMATS),
    st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_key_and_any_float32_survive(tmp_path_factory, keys, format, data):
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
    rows = np.array(
        data.draw(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=len(keys), max_size=len(keys)))
    )
    path = saved(tmp_path_factory.mktemp("any") / "v", rows.astype(np.float32), format, keys)
    found_keys, found = all_of(path, format)
    assert found_keys == keys
    np.testing.assert_array_equal(found, rows.astype(np.float32))


def test_glove_keys_may_hold_spaces(tmp_path):
    path = tmp_path / "g.txt"
    path.write_text("word 1 2\n. . . 3 4\n")
    keys, found = all_of(path)
    assert keys == ["word", ". . ."]
    np.testing.assert_array_equal(found, [[1, 2], [3, 4]])
    # The store keeps them, and writes them where they fit.
    kv = KeyedVectors.convert(path, tmp_path / "g.inlay")
    kv.export(tmp_path / "again.txt", "glove")
    assert all_of(tmp_path / "again.txt")[0] == keys
    with pytest.raises(BadInput, match="white space"):
        kv.export(tmp_path / "again.bin", "word2vec-binary")
    assert not (tmp_path / "again.bin").exists()


# --- against gensim -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gensim():
    return pytest.importorskip("gensim.models", reason="gensim is not installed")


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_what_we_write(gensim, tmp_path, rows, binary):
    path = saved(tmp_path / "v", rows, "word2vec-binary" if binary else "word2vec")
    theirs = gensim.KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert theirs.index_to_key == KEYS
    np.testing.assert_array_equal(theirs.vectors, rows)


@pytest.mark.parametrize("format", ["fasttext", "glove"])
def test_gensim_reads_our_other_text_files(gensim, tmp_path, rows, format):
    path = saved(tmp_path / "v", rows, format)
    theirs = gensim.KeyedVectors.load_word2vec_format(str(path), binary=False, no_header=format == "glove")
    assert theirs.index_to_key == KEYS
    np.testing.assert_array_equal(theirs.vectors, rows)


@pytest.mark.parametrize("binary", [False, True])
def test_we_read_what_gensim_writes_and_give_it_back(gensim, tmp_path, rows, binary):
    theirs = gensim.KeyedVectors(rows.shape[1])
    theirs.add_vectors(KEYS, rows)
    theirs.save_word2vec_format(str(tmp_path / "theirs"), binary=binary, sort_attr="none")
    keys, found = all_of(tmp_path / "theirs")
    assert keys == theirs.index_to_key
    np.testing.assert_array_equal(found, theirs.vectors)
    kv = KeyedVectors.convert(tmp_path / "theirs", tmp_path / "v.inlay")
    kv.export(tmp_path / "back", "word2vec-binary" if binary else "word2vec")
    back = gensim.KeyedVectors.load_word2vec_format(str(tmp_path / "back"), binary=binary)
    assert back.index_to_key == theirs.index_to_key
    np.testing.assert_allclose(back.vectors, theirs.vectors, rtol=1e-6)
    a, b = [name for name, _ in theirs.most_similar("the", topn=3)], [n for n, _ in kv.most_similar("the", k=3)]
    assert a == b


# --- broken files -------------------------------------------------------------------------------------------------

BROKEN = {
    "an empty file": (b"", Corrupt, "empty", None),
    "no header": (b"a 1 2\nb 3 4\n", Corrupt, "first line", "word2vec"),
    "a header of words": (b"two rows\na 1 2\n", Corrupt, "first line", "word2vec"),
    "a header of nothing": (b"0 2\n", Corrupt, "promises 0 rows", "word2vec"),
    "too few rows": (b"3 2\na 1 2\nb 3 4\n", Corrupt, "2 rows and its first line promises 3", None),
    "too many rows": (b"1 2\na 1 2\nb 3 4\n", Corrupt, "more than the 1 rows", None),
    "a short row": (b"2 2\na 1 2\nb 3\n", Corrupt, "row 2 has 1 numbers", None),
    "a long row": (b"2 2\na 1 2\nb 3 4 5\n", Corrupt, "row 2 has more than 2", None),
    "a short row in the middle of a number": (b"2 2\na 1 2\nb 3 4e", Corrupt, "is no number", None),
    "a word among numbers": (b"2 2\na 1 2\nb 3 x\n", Corrupt, "row 2: b'x' is no number", "word2vec"),
    "an empty line": (b"2 2\na 1 2\n\nb 3 4\n", Corrupt, "row 2 is an empty line", None),
    "NaN": (b"2 2\na 1 2\nb nan 4\n", BadInput, "row 2 \\('b'\\) holds NaN", None),
    "beyond float32": (b"2 2\na 1 2\nb 1e39 4\n", BadInput, "holds NaN or infinity", None),
    "not UTF-8": (b"2 2\na 1 2\n\xff\xfe 3 4\n", BadInput, "row 2: the key .* is not UTF-8", None),
    "GloVe, a short row": (b"a 1 2\nb 3\n", Corrupt, "row 2", None),
    "GloVe, no numbers": (b"hello\n", Corrupt, "no numbers", None),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_text_file_is_named_and_leaves_nothing(tmp_path, what):
    content, error, match, format = BROKEN[what]
    path = tmp_path / "broken.vec"
    path.write_bytes(content)
    with pytest.raises(error, match=match) as raised:
        KeyedVectors.convert(path, tmp_path / "out.inlay", format=format)
    assert "broken.vec" in str(raised.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken.vec"]


def test_a_binary_file_cut_anywhere_is_an_error_and_leaves_nothing(tmp_path, rows):
    whole = saved(tmp_path / "whole", rows, "word2vec-binary").read_bytes()
    for stop in range(len(whole)):
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[:stop])
        with pytest.raises((Corrupt, BadInput)):
            KeyedVectors.convert(path, tmp_path / "out", format="word2vec-binary")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cut.bin", "whole"]


def test_a_binary_file_with_more_or_with_nan(tmp_path, rows):
    whole = saved(tmp_path / "whole", rows, "word2vec-binary").read_bytes()
    (tmp_path / "more").write_bytes(whole + b"x 1234")
    with pytest.raises(Corrupt, match="more than the 6 rows"):
        all_of(tmp_path / "more", "word2vec-binary")
    (tmp_path / "lines").write_bytes(whole + b"\n")  # the C program ends rows by line feeds
    assert all_of(tmp_path / "lines", "word2vec-binary")[0] == KEYS
    spoilt = rows.copy()
    spoilt[4, 1] = np.nan
    (tmp_path / "nan").write_bytes(whole.replace(rows[4].tobytes(), spoilt[4].tobytes()))
    with pytest.raises(BadInput, match=r"row 5 .* holds NaN"):
        all_of(tmp_path / "nan", "word2vec-binary")


def test_a_packed_file_cut_short(tmp_path, rows):
    path = saved(tmp_path / "v.gz", np.tile(rows, (500, 1)), "word2vec", [f"k{i}" for i in range(3000)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Corrupt, match="cut short"):
        all_of(path)
    path.write_bytes(b"this is no gzip file")
    with pytest.raises(Corrupt):
        all_of(path)


def test_keys_that_are_not_utf8_can_be_taken_when_asked(tmp_path):
    path = tmp_path / "v"
    path.write_bytes(b"1 2\n\xffab 3 4\n")
    assert all_of(path, encoding_errors="replace")[0] == ["\ufffdab"]


def test_a_file_that_is_not_there_or_of_no_known_format(tmp_path, rows):
    with pytest.raises(BadInput, match="no file"):
        all_of(tmp_path / "nothing")
    with pytest.raises(BadInput, match="format is one of"):
        all_of(saved(tmp_path / "v", rows, "glove"), "pickle")
    with pytest.raises(BadInput, match="format is one of"):
        saved(tmp_path / "w", rows, "pickle")


def test_writing_refuses_what_cannot_be_read_back(tmp_path, rows):
    for key in ("", "two words", "line\nfeed", " edge"):
        with pytest.raises(BadInput, match="cannot be written"):
            saved(tmp_path / "w", rows[:1], "word2vec", [key])
    with pytest.raises(BadInput, match="1 rows were given, 2 announced"):
        formats.write(tmp_path / "w", [(["a"], rows[:1])], "glove", count=2, dim=5)
    with pytest.raises(BadInput, match="expected dim 4"):
        formats.write(tmp_path / "w", [(["a"], rows[:1])], "glove", count=1, dim=4)
    assert not list(tmp_path.iterdir())


def test_a_packed_file_is_packed(tmp_path, rows):
    assert gzip.decompress(saved(tmp_path / "v.gz", rows, "word2vec").read_bytes()).startswith(b"6 5\n")
