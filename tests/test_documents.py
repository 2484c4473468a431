"""Files to documents: what each format yields, and how the unreadable is refused."""

from __future__ import annotations

import codecs
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inlay.documents
from inlay.documents import Unreadable, chunk, read, walk
from inlay.documents.decode import decode
from inlay.documents.formats import recognise
from inlay.errors import InlayError


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def one(path: Path):
    (document,) = read(path)
    return document


# --- names and bytes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.PY", ("code", "python")),
        ("README", ("text", None)),
        ("Makefile", ("code", "make")),
        ("Dockerfile.dev", ("code", "docker")),
        ("CMakeLists.txt", ("code", "cmake")),
        ("x.tar.gz", None),
        (".bashrc", ("text", None)),
        ("t.ndjson", ("rows", None)),
        ("p.png", None),
    ],
)
def test_recognise(name, expected):
    assert recognise(name) == expected


@pytest.mark.parametrize(
    ("name", "kind", "language"),
    [("a.txt", "text", None), ("a.md", "markdown", None), ("a.rst", "rst", None), ("a.go", "code", "go")],
)
def test_a_text_file_is_one_document(tmp_path, name, kind, language):
    document = one(put(tmp_path, name, "Some words.\n"))
    assert (document.id, document.text, document.chunks) == (name, "Some words.\n", None)
    expected = {"path": name, "kind": kind}
    assert document.metadata == ({**expected, "language": language} if language else expected)


def test_a_source_keeps_its_name(tmp_path):
    (tmp_path / "d").mkdir()
    put(tmp_path, "d/a.txt", "x")
    (source,) = walk(tmp_path)
    assert read(source)[0].id == "d/a.txt"
    assert read(source, "other")[0].id == "other"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.csv", "a.jsonl", "a.json", "a.ipynb", "a.pdf", "a.py"])
@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8])
def test_an_empty_file_has_no_documents(tmp_path, name, content):
    if name == "a.pdf" and content:
        pytest.skip("a PDF of a byte order mark is malformed, not empty")
    assert read(put(tmp_path, name, content)) == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_byte_order_marks(tmp_path, encoding):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    assert one(put(tmp_path, "a.txt", mark + "naïve\n日本".encode(encoding))).text == "naïve\n日本"


def test_line_endings_become_one(tmp_path):
    assert one(put(tmp_path, "a.txt", b"a\r\nb\rc\n")).text == "a\nb\nc\n"


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r\ufeff")))
def test_utf8_survives(text):
    assert decode(text.encode(), "a") == text


def test_a_few_bad_bytes_are_replaced_and_many_are_refused(tmp_path):
    assert "\ufffd" in one(put(tmp_path, "a.txt", b"word " * 100 + b"\xff")).text
    with pytest.raises(Unreadable, match="not UTF-8"):
        read(put(tmp_path, "b.txt", b"word \xff\xfe\xfd" * 20))
    honest = "\ufffd" * 50
    assert one(put(tmp_path, "c.txt", honest)).text == honest


def test_a_declared_encoding_is_believed(tmp_path):
    page = '<meta charset="latin-1"><p>' + "é" * 50
    assert one(put(tmp_path, "a.html", page.encode("latin-1"))).text == "é" * 50
    assert "é" in one(put(tmp_path, "a.py", "# -*- coding: latin-1 -*-\ns = 'ééééé'\n".encode("latin-1"))).text


@pytest.mark.parametrize("content", [b"\x7fELF\0\0\1", b"text " * 5000 + b"\0", codecs.BOM_UTF16_LE + b"a\0\0\0"])
def test_binary_is_refused(tmp_path, content):
    with pytest.raises(Unreadable, match="binary") as caught:
        read(put(tmp_path, "program", content))
    assert (caught.value.name, caught.value.reason) == ("program", "binary")
    assert isinstance(caught.value, InlayError)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for name, why in [("absent.txt", "no such file"), (".", "not a regular file"), ("pipe.txt", "not a regular file")]:
        with pytest.raises(Unreadable, match=why):
            read(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_file_is_refused(tmp_path):
    path = put(tmp_path, "a.txt", "x")
    path.chmod(0)
    with pytest.raises(Unreadable, match="permission denied"):
        read(path)


def test_unreadable_can_cross_processes():
    error = pickle.loads(pickle.dumps(Unreadable("a", "why")))
    assert (error.name, error.reason, str(error)) == ("a", "why", "cannot read a: why")


def test_a_shebang_names_the_language(tmp_path):
    assert one(put(tmp_path, "tool", "#!/usr/bin/env python3\nx = 1\n")).metadata["language"] == "python"
    assert one(put(tmp_path, "run", "#!/bin/sh\nls\n")).metadata["language"] == "shell"


def test_the_face_is_lazy():
    code = "import sys, inlay.documents; print([m for m in ('numpy', 'pathspec', 'markdown_it') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert set(inlay.documents.__all__) <= set(dir(inlay.documents))
    with pytest.raises(AttributeError):
        _ = inlay.documents.nonsense


# --- HTML --------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html><head><title>A &amp;
B</title><style>p {}</style></head>
<body><nav>menu</nav>
<h1>Hello <em>world</em></h1>
<p>First para
goes on &lt;here&gt;.</p><script>document.write("<p>no</p>")</script>
<h2>Sub</h2>
<ul><li>one<li>two</ul>
<pre>
def f():
    return 1
</pre>
<p>LONG</p>
</body></html>
"""


def test_html_keeps_what_a_reader_sees(tmp_path):
    document = one(put(tmp_path, "a.html", PAGE))
    assert document.metadata == {"path": "a.html", "kind": "html", "title": "A & B"}
    for seen in ("Hello world\n\nFirst para goes on <here>.", "one\ntwo", "def f():\n    return 1"):
        assert seen in document.text
    for unseen in ("menu", "p {}", "no</p>", "document.write"):
        assert unseen not in document.text


def test_html_chunks_have_headings_and_source_lines(tmp_path):
    page = PAGE.replace("LONG", "\n".join(f"line{number} " + "word " * 30 for number in range(100)))
    document = one(put(tmp_path, "a.html", page))
    source = page.splitlines()
    assert len(document.chunks) > 5
    assert {c.heading for c in document.chunks} == {"Hello world", "Hello world › Sub"}
    for c in document.chunks:
        words = document.text[c.start : c.stop].split()
        assert words[0] in source[c.line - 1]
        assert words[-1] in source[c.last_line - 1]


@pytest.mark.parametrize(
    "page", ["<" * 50_000, "<!--" * 20_000, "<a" * 20_000, "<p>x" * 20_000, "&" * 50_000, "<b>" * 9]
)
def test_hostile_html_ends(tmp_path, page):
    for document in read(put(tmp_path, "a.html", page)):
        assert all(c.stop - c.start <= 1600 for c in document.chunks)


# --- rows --------------------------------------------------------------------------------------------------------


def test_json_lines(tmp_path):
    skipped: dict[str, str] = {}
    rows = ['{"_id": "7", "title": "T", "text": "body", "year": 2020, "tags": [1]}', "", "{broken", "[1]", '"bare"']
    documents = read(put(tmp_path, "a.jsonl", "\n".join(rows)), on_skip=skipped.__setitem__)
    assert [d.id for d in documents] == ["a.jsonl#1", "a.jsonl#5"]
    assert documents[0].text == "T\nbody"
    assert documents[0].metadata == {
        "_id": "7", "title": "T", "year": 2020, "path": "a.jsonl", "kind": "rows", "row": 1, "line": 1,
    }  # fmt: skip
    assert documents[1].text == "bare"
    assert set(skipped) == {"a.jsonl#3", "a.jsonl#4"}
    assert "malformed JSON" in skipped["a.jsonl#3"]


def test_csv_with_quotes_and_newlines_in_fields(tmp_path):
    table = 'name,note,year\nAda,"said ""hi""\nand left",1843\n\n"Bob, Jr.",short,007\n'
    first, second = read(put(tmp_path, "a.csv", table))
    assert first.text == 'name: Ada\nnote: said "hi"\nand left'
    assert (first.id, first.metadata["year"], first.metadata["row"], first.metadata["line"]) == ("a.csv#2", 1843, 1, 2)
    assert (first.chunks[0].line, first.chunks[0].last_line) == (2, 3)
    assert second.id == "a.csv#5"
    assert second.metadata["year"] == "007", "leading zeros are a code, not a number"
    assert second.metadata["name"] == "Bob, Jr."


def test_tables_without_a_header_and_with_other_delimiters(tmp_path):
    assert one(put(tmp_path, "a.tsv", "text\tn\nhi\t2.5\n")).metadata["n"] == 2.5
    assert one(put(tmp_path, "b.csv", "text;n\nhi;3\n")).metadata["n"] == 3
    (document,) = read(put(tmp_path, "c.csv", "1,alpha\n"))
    assert (document.text, document.metadata["column 1"]) == ("column 2: alpha", 1)


def test_own_metadata_is_not_overwritten(tmp_path):
    document = one(put(tmp_path, "a.jsonl", '{"text": "t", "kind": "invoice", "path": "/x"}'))
    assert document.metadata["kind"] == "rows"
    assert (document.metadata["kind_"], document.metadata["path_"]) == ("invoice", "/x")


def test_json_list_or_text(tmp_path):
    first, second = read(put(tmp_path, "a.json", '[\n {"text": "x"},\n {"text":\n "y"}\n]\n'))
    assert (first.id, first.chunks[0].line) == ("a.json#1", 2)
    assert (second.id, second.chunks[0].line, second.chunks[0].last_line) == ("a.json#2", 3, 4)
    for content in ('{"a": 1}', "[1, 2]", '[{"a": 1}', '[{"a": 1}] x', "[" * 5000, "[]"):
        document = one(put(tmp_path, "b.json", content))
        assert (document.metadata["kind"], document.text) == ("text", content)


def test_a_long_row_has_several_chunks_on_its_line(tmp_path):
    row = json.dumps({"text": "A sentence of words. " * 500})
    document = one(put(tmp_path, "a.jsonl", row + "\n"))
    assert len(document.chunks) > 5
    assert {(c.line, c.last_line) for c in document.chunks} == {(1, 1)}


@given(st.lists(st.lists(st.text(alphabet="ab\"',;\n 1é", max_size=6), min_size=2, max_size=2), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_csv_round_trip(tmp_path_factory, cells):
    import csv
    import io

    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["text", "extra"], *cells])
    documents = read(put(tmp_path_factory.getbasetemp(), "t.csv", out.getvalue()))
    expected = [text for text, extra in cells if text.strip() or (extra.strip() and not extra.strip().isdigit())]
    kept = [d.text for d in documents]
    assert len(kept) <= len(cells)
    for text in expected:
        if text.strip() and not text.isdigit():
            assert text in kept


# --- notebooks and PDF -------------------------------------------------------------------------------------------


def test_notebook(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Intro\n", "\n", "Words.\n"]},
        {"cell_type": "code", "source": "def f():\n    return 1\n", "outputs": [{"text": "OUTPUT"}]},
        {"cell_type": "code", "source": []},
        {"cell_type": "code", "source": "x = [\n" + "    'some value here',\n" * 200 + "]\n"},
    ]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}
    document = one(put(tmp_path, "a.ipynb", json.dumps(notebook)))
    assert document.metadata == {"path": "a.ipynb", "kind": "notebook", "language": "python"}
    assert "OUTPUT" not in document.text
    assert "Words.\n\n\ndef f" in document.text
    assert document.chunks[0].heading == "Intro"
    assert document.chunks[-1].heading == "Intro › cell 4"
    assert all(c.line == 0 for c in document.chunks)


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": 3}', '{"cells": [1]}', "{}"])
def test_a_malformed_notebook_is_refused(tmp_path, content):
    with pytest.raises(Unreadable, match="malformed notebook"):
        read(put(tmp_path, "a.ipynb", content))


def pdf_of(*pages: str) -> bytes:
    """A minimal PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * i} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    out += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return f"{out}startxref\n{out.index('xref')}\n%%EOF\n".encode()


def test_pdf(tmp_path):
    pytest.importorskip("pypdf")
    document = one(put(tmp_path, "a.pdf", pdf_of("Hello first page", "", "And the third")))
    assert document.metadata == {"path": "a.pdf", "kind": "pdf", "pages": 3}
    assert [c.heading for c in document.chunks] == ["page 1", "page 3"]
    assert document.text[document.chunks[1].start : document.chunks[1].stop] == "And the third"


@pytest.mark.parametrize(("content", "why"), [(b"%PDF-1.4 nonsense", "malformed"), (pdf_of(""), "no text")])
def test_a_pdf_without_text_is_refused(tmp_path, content, why):
    pytest.importorskip("pypdf")
    with pytest.raises(Unreadable, match=why):
        read(put(tmp_path, "a.pdf", content))


def test_pdf_without_its_extra_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(Unreadable, match=r"inlay\[pdf\]"):
        read(put(tmp_path, "a.pdf", pdf_of("x")))


# --- anything at all ---------------------------------------------------------------------------------------------

SUFFIXES = ["txt", "md", "rst", "html", "jsonl", "csv", "tsv", "json", "ipynb", "py", "c", "js", "yaml", "css", "sql"]


@given(
    st.sampled_from(SUFFIXES),
    st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")),
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, suffix, content):
    path = put(tmp_path_factory.getbasetemp(), f"any.{suffix}", content)
    try:
        documents = read(path)
    except Unreadable:
        return
    for document in documents:
        document.text.encode("utf-8")
        for c in document.chunks if document.chunks is not None else chunk(document):
            assert document.text[c.start : c.stop].strip()
