"""Which files can be read, by name: the kind of a file, and the language of a code file."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PLAIN", "Format", "recognise"]


class Format(NamedTuple):
    """What a file is: `kind` chooses the reader and the chunker, `language` the definitions looked for in code."""

    kind: str
    language: str | None = None


PLAIN = Format("text")

_SUFFIXES = {
    "text": "txt text log adoc asciidoc org",
    "markdown": "md markdown mdx",
    "rst": "rst",
    "html": "html htm xhtml",
    "rows": "jsonl ndjson csv tsv json",
    "notebook": "ipynb",
    "pdf": "pdf",
}

_LANGUAGES = {
    "python": "py pyi pyw pyx",
    "javascript": "js mjs cjs jsx",
    "typescript": "ts mts cts tsx",
    "java": "java",
    "c": "c h",
    "cpp": "cpp hpp cc cxx hh hxx cu cuh",
    "csharp": "cs",
    "go": "go",
    "rust": "rs",
    "ruby": "rb rake",
    "php": "php",
    "swift": "swift",
    "kotlin": "kt kts",
    "scala": "scala sc",
    "shell": "sh bash zsh",
    "sql": "sql",
    "lua": "lua",
    "r": "r",
    "julia": "jl",
    "perl": "pl pm",
    "haskell": "hs",
    "elixir": "ex exs",
    "clojure": "clj cljs cljc edn",
    "erlang": "erl hrl",
    "ocaml": "ml mli",
    "dart": "dart",
    "zig": "zig",
    "toml": "toml",
    "yaml": "yaml yml",
    "ini": "ini cfg conf properties",
    "css": "css",
    "scss": "scss sass less",
    "vue": "vue svelte",
    "tex": "tex sty cls bib",
    "protobuf": "proto",
    "graphql": "graphql gql",
    "terraform": "tf",
    "cmake": "cmake",
    "make": "mk make",
    "docker": "dockerfile",
    "xml": "xml xsd xsl",
}

_BY_SUFFIX = {
    **{suffix: Format(kind) for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()},
    **{suffix: Format("code", language) for language, names in _LANGUAGES.items() for suffix in names.split()},
}

_BY_NAME = {
    "makefile": Format("code", "make"),
    "gnumakefile": Format("code", "make"),
    "cmakelists.txt": Format("code", "cmake"),
    "dockerfile": Format("code", "docker"),
    "containerfile": Format("code", "docker"),
    "gemfile": Format("code", "ruby"),
    "rakefile": Format("code", "ruby"),
    "vagrantfile": Format("code", "ruby"),
    "jenkinsfile": Format("code", "java"),
}


def recognise(name: str) -> Format | None:
    """The format of a file by its name, or None if there is no reader for it.

    A name without a suffix (README, LICENSE) passes as plain text: whether it is text shows when it is read.
    """
    name = name.rpartition("/")[2].lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem:
        return PLAIN
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return _BY_NAME["dockerfile"] if name.startswith("dockerfile.") else None
