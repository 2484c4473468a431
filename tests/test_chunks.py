"""Texts to passages: nothing lost, nothing twice, nothing too long, and every line number true."""

from __future__ import annotations

import ast
import inspect
import json.decoder
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.documents import chunk
from inlay.documents.definitions import first_definition
from inlay.documents.identifiers import split_identifiers
from inlay.documents.spans import LIMIT, line_starts, target_of
from inlay.errors import BadInput
from inlay.types import Document

KINDS = [
    ("text", None),
    ("markdown", None),
    ("rst", None),
    ("code", None),
    ("code", "python"),
    ("code", "c"),
    ("code", "javascript"),
    ("code", "yaml"),
]

LINES = [
    "# heading", "## sub", "title", "=====", "-----", "~~~~~", "```", "~~~", "    # indented", "- item", "> quote",
    "---", "+++", "...", "", "", "   ", "\t", "\f", "word " * 12, "x" * 50, "One. Two! Three?", "日本語。文字。",
    "def f():", "    return 1", "@decorator", "class A(B):", "    def m(self):", "        pass", "if x:", "else:",
    "import os; x = 1", '"""doc', 'string"""', "x = (", ")", "}", "{", "/* comment", "*/", "function f() {", "[table]",
    "key: value", ".. note:: x", "int main(int a)", "\x0b", "\u2028", "a\u0301",
]  # fmt: skip
texts = st.lists(st.sampled_from(LINES), max_size=40).flatmap(
    lambda lines: st.sampled_from(["\n", "\n", "\r\n", "\r"]).map(lambda end: end.join(lines))
) | st.text(max_size=200)


def check(text: str, chunks, limit: int) -> None:
    at = 0
    starts = line_starts(text)
    for c in chunks:
        assert at <= c.start < c.stop <= len(text)
        assert not text[at : c.start].strip(), "something was lost"
        assert c.stop - c.start <= limit
        assert text[c.start : c.stop].strip()
        assert starts[c.line - 1] <= c.start
        assert c.line == len(starts) or c.start < starts[c.line]
        assert starts[c.last_line - 1] < c.stop
        assert c.last_line == len(starts) or c.stop <= starts[c.last_line]
        at = c.stop
    assert not text[at:].strip(), "the end was lost"


@pytest.mark.parametrize(("kind", "language"), KINDS)
@given(text=texts, limit=st.sampled_from([1, 2, 10, 40, 200, LIMIT]))
@settings(max_examples=60, deadline=None)
def test_chunks_cover_everything_in_order(kind, language, text, limit):
    check(text, chunk(text, kind=kind, language=language, limit=limit), limit)


@pytest.mark.parametrize(("kind", "language"), KINDS)
@given(text=texts)
@settings(max_examples=30, deadline=None)
def test_lines_are_those_of_the_file(kind, language, text):
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    for c in chunk(text, kind=kind, language=language, limit=60):
        passage = text[c.start : c.stop].split("\n")
        assert passage[0] in lines[c.line - 1]
        assert passage[-1] in lines[c.last_line - 1]


@pytest.mark.parametrize(("kind", "language"), KINDS)
@pytest.mark.parametrize(
    "pattern", ["a", "a ", " ", "\n", "\n\n", "(", "a,", "#", "# a\n\n", "/*", "a\n=\n", "é.", "x:\n", "\t{\n"]
)
@pytest.mark.timeout(20)  # a second where time is linear, and hundreds where it is quadratic
def test_hostile_texts_take_linear_time(kind, language, pattern):
    text = pattern * (100_000 // len(pattern))
    check(text, chunk(text, kind=kind, language=language), LIMIT)


def test_a_line_of_megabytes():
    text = "word " * 1_000_000
    chunks = chunk(text)
    assert len(chunks) == pytest.approx(len(text) / target_of(LIMIT), rel=0.01)
    assert {c.line for c in chunks} == {1}


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1600", True, None])
def test_a_bad_limit_is_refused(limit):
    with pytest.raises(BadInput, match="limit"):
        chunk("x", limit=limit)
    with pytest.raises(BadInput, match="string"):
        chunk(b"x")


def test_metadata_chooses_the_chunker_and_strangers_are_prose():
    text = "# One\n\n" + "word " * 150 + "\n\n# Two\n\n" + "word " * 150
    markdown = Document("a", text, {"kind": "markdown"})
    assert [c.heading for c in chunk(markdown)] == ["One", "Two"]
    for metadata in ({}, {"kind": "invoice"}, {"kind": 3, "language": ["en"]}, {"language": "en"}):
        assert {c.heading for c in chunk(Document("a", text, metadata))} == {""}
    assert chunk("") == chunk(" \n\t\n") == []


def headings(text: str, kind: str, language: str | None = None) -> list[str]:
    """Headings where every unit stays by itself, being long enough."""
    return [c.heading for c in chunk(text, kind=kind, language=language)]


LONG = "Some words that make a paragraph long enough to stand by itself. " * 12


def test_prose_ends_at_paragraphs():
    text = "\n\n".join(f"Paragraph {number}. {'Words go on. ' * 30}" for number in range(20))
    chunks = chunk(text)
    assert all(text[c.start : c.stop].startswith("Paragraph") for c in chunks)
    assert len(chunks) == 10


def test_prose_ends_at_sentences_where_there_are_no_paragraphs():
    text = "This is one sentence of a long text. " * 200
    assert all(text[c.start : c.stop].endswith(".") for c in chunk(text))


# --- Markdown ----------------------------------------------------------------------------------------------------


def test_markdown_sections():
    text = textwrap.dedent(
        f"""\
        ---
        title: x
        ---
        preamble {LONG}

        # Top *thing* [link](http://x) `code` {{#anchor}}

        {LONG}

        ```python
        # not a heading
        ```

        {LONG}

        Setext
        ------

        {LONG}

        #### Deep

        {LONG}

          - # in a list

        Other snake_case_name
        =====

        {LONG}
        """
    )
    assert list(dict.fromkeys(headings(text, "markdown"))) == [
        "front matter",
        "",
        "Top thing link code",
        "Top thing link code › Setext",
        "Top thing link code › Setext › Deep",
        "Other snake_case_name",
    ]


def test_a_lone_heading_goes_with_the_section_below():
    text = f"# A\n\n## B\n\n{LONG}\n\n## C\n\n{LONG}\n"
    first, second = chunk(text, kind="markdown")
    assert (first.heading, first.line, second.heading) == ("A › B", 1, "A › C")


def test_tiny_sections_are_joined_under_what_they_share():
    text = "# A\n\nx\n\n## B\n\ny\n\n## C\n\nz\n"
    (only,) = chunk(text, kind="markdown")
    assert only.heading == "A"
    (only,) = chunk("# One\n\nx\n\n# Two\n\ny\n", kind="markdown")
    assert only.heading == "One, Two"


def test_a_fence_is_not_cut_where_a_paragraph_could_be():
    fence = "```\n" + "code\n\n" * 120 + "```"
    text = f"# A\n\n{LONG}\n\n{fence}\n\n{LONG}\n"
    passages = [text[c.start : c.stop] for c in chunk(text, kind="markdown")]
    assert any(passage == fence for passage in passages)


# --- reStructuredText --------------------------------------------------------------------------------------------


def test_rst_sections():
    text = textwrap.dedent(
        f"""\
        =======
         Title
        =======

        {LONG}

        Section
        -------

        {LONG}::

            Literal
            -------

        =====  =====
        A      B
        =====  =====

        Below :func:`open`
        ~~~~~~~~~~~~~~~~~~

        {LONG}

        not a title because
        of two lines
        ------------

        Next
        ----

        {LONG}
        """
    )
    assert headings(text, "rst") == ["Title", "Title › Section", "Title › Section › Below open", "Title › Next"]


# --- Python ------------------------------------------------------------------------------------------------------

PYTHON = '''\
"""Module docstring."""

import os

X = 1

# leading comment
@decorator
def first(a):
    """Doc."""
    BODY

class Big(Base):
    """Class doc."""

    attribute = 1

    def one(self):
        BODY

    @property
    def two(self):
        BODY

class Small:
    def m(self): ...

if X:
    async def conditional():
        BODY
else:
    conditional = None
'''.replace("BODY", f"return {'words ' * 80!r}")


def test_python_units_are_named_and_begin_with_their_comments():
    from inlay.documents.python_code import units

    cuts = units(PYTHON)
    assert [unit.heading for unit in cuts] == [
        "module docstring", "", "first", "Big", "Big.one", "Big.two", "Small", "", "conditional", "",
    ]  # fmt: skip
    found = {unit.heading: PYTHON[unit.start : unit.stop].strip("\n") for unit in cuts}
    assert found["first"].startswith("# leading comment\n@decorator\ndef first")
    assert found["Big"].startswith("class Big(Base):")
    assert found["Big"].endswith("attribute = 1")
    assert found["Big.two"].startswith("    @property\n    def two")
    assert found["Small"] == "class Small:\n    def m(self): ..."


@pytest.mark.parametrize("module", [ast, inspect, json.decoder, textwrap])
def test_every_definition_of_the_standard_library_is_where_its_heading_says(module):
    text = inspect.getsource(module)
    chunks = chunk(text, kind="code", language="python")
    check(text, chunks, LIMIT)
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            (home,) = (c for c in chunks if c.line <= node.lineno <= c.last_line)
            assert node.name in home.heading or ", " in home.heading or not home.heading


@pytest.mark.parametrize("text", ["def f(:\n    pass\n", "print 'old'\n\ndef g():\n    pass\n", "x = 1\0", "(" * 500])
def test_python_that_does_not_parse_is_cut_into_blocks(text):
    chunks = chunk(text, kind="code", language="python")
    check(text, chunks, LIMIT)
    assert chunks


def test_doubtful_escapes_warn_nobody(recwarn):
    chunk("x = '\\d'\n", kind="code", language="python")
    assert not recwarn.list


# --- other code --------------------------------------------------------------------------------------------------


def test_methods_are_cut_between_and_named_after_their_class():
    method = "    public int method{0}(int a) {{\n" + "        call(a);\n\n" * 16 + "        return a;\n    }}\n"
    text = "package x;\n\npublic class Foo {\n\n" + "\n".join(method.format(n) for n in range(8)) + "}\n"
    chunks = chunk(text, kind="code", language="java")
    assert [c.heading for c in chunks][-7:] == [f"Foo.method{n}" for n in range(1, 8)]
    assert text[chunks[-1].stop - 1] == "}", "a closing brace stays with what it closes"


@pytest.mark.parametrize(
    ("language", "text", "name"),
    [
        ("javascript", "export default async function load(x) {", "load"),
        ("javascript", "const go = async (x) => {", "go"),
        ("typescript", "export interface Shape {", "Shape"),
        ("java", "  public static <T> List<T> make(int a) {", "make"),
        ("csharp", "internal sealed class Foo : Bar", "Foo"),
        ("c", "static int\nfoo(char *x)\n{", "foo"),
        ("c", "/* class of its own */\nstatic inline void *bar(int x) {", "bar"),
        ("c", "    call(x,\n", ""),
        ("cpp", "std::string Foo::name() const {", "Foo::name"),
        ("cpp", "class Foo : public Bar {", "Foo"),
        ("go", "func (s *Server) Serve(x int) error {", "Serve"),
        ("rust", "pub(crate) async fn run<T>(x: T) {", "run"),
        ("rust", "impl<T> Display for Foo<T> {", "Foo"),
        ("ruby", "  def self.find?(x)", "self.find?"),
        ("php", "  public static function make() {", "make"),
        ("swift", "public extension Foo {", "Foo"),
        ("kotlin", "data class User(val x: Int)", "User"),
        ("scala", "case class P(x: Int)", "P"),
        ("shell", "build() {", "build"),
        ("sql", "create table if not exists users (", "users"),
        ("lua", "local function f(x)", "f"),
        ("r", "my.fun <- function(x) {", "my.fun"),
        ("julia", "function area(x)", "area"),
        ("perl", "sub new {", "new"),
        ("haskell", "area :: Shape -> Double", "area"),
        ("elixir", "defmodule My.App do", "My.App"),
        ("clojure", "(defn- go [x]", "go"),
        ("css", ".menu > a:hover {", ".menu > a:hover"),
        ("toml", "[tool.x]", "tool.x"),
        ("yaml", "jobs:\n  a: 1", "jobs"),
        ("tex", "\\subsection{Results}", "Results"),
        ("protobuf", "message Point {", "Point"),
        ("make", "build: x", "build"),
        ("unheard-of", "fn main() {", "main"),
        ("xml", "<class>class Foo</class>", ""),
    ],
)
def test_first_definition(language, text, name):
    assert first_definition(text, 0, len(text), language) == name


# --- identifiers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("parseDate HTTPServer2", "parse Date HTTP Server"),
        ("snake_case and CONSTANT_NAME and Plain words", ""),
        ("get_userName x.parseDate() parseDate", "user Name parse Date"),
        ("URLs IDs XMLHttpRequest", "URL ID XML Http Request"),
        ("utf8Decoder sha256 v2 xAxis", "utf Decoder Axis"),
        ("", ""),
    ],
)
def test_split_identifiers(text, parts):
    assert split_identifiers(text) == parts


@given(st.text(alphabet="abAB_1 .é", max_size=60))
def test_parts_are_distinct_and_stand_in_the_text(text):
    parts = split_identifiers(text).split()
    assert len(set(parts)) == len(parts)
    assert all(part in text and len(part) > 1 for part in parts)


@pytest.mark.parametrize("pattern", ["a", "A", "aB", "1", "a1", "AB"])
def test_identifiers_of_megabytes_end(pattern):
    assert split_identifiers(pattern * 1_000_000) == ""
