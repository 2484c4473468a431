"""What a definition looks like, language by language: enough to name a block of code, not to parse it."""

from __future__ import annotations

import re

__all__ = ["first_definition"]

_NAME = r"([A-Za-z_$][\w$]*)"
_LOOKED_AT = 4_000

# Passed over whole, for its prose may look like code.
BLOCK_COMMENT = r"/\*(?:[^*]++|\*(?!/))*+(?:\*/|\Z)"


def _compiled(*forms: str, flush: tuple[str, ...] = (), flags: re.RegexFlag = re.M) -> re.Pattern[str]:
    """One pattern of several forms of definition; those in `flush` must begin at the margin."""
    indented = "|".join(rf"^[ \t]*(?:{form})" for form in forms)
    return re.compile(
        "|".join(
            [rf"^[ \t]*{BLOCK_COMMENT}", *(rf"^(?:{form})" for form in flush), indented],
        ),
        flags,
    )


# Bounded repeats throughout: a line of a megabyte must not cost its square.
_MODIFIERS = r"(?:(?:@?[a-z]+(?:\([^()\n]{0,40}\))?)[ \t]+){0,6}"
_KEYWORDS = (
    r"(?:class|struct|enum|interface|trait|module|namespace|object|record|protocol|extension|actor|union|mixin|"
    r"func|fun|function\*?|fn|def|sub|proc|macro|type|message|service|rpc|defmodule|defp?|defmacro)"
)
_KEYWORDED = rf"{_MODIFIERS}{_KEYWORDS}[ \t]+{_NAME}"
_TYPED_METHOD = (
    r"(?:(?:public|private|protected|internal|static|final|abstract|override|virtual|async|synchronized)[ \t]+){1,5}"
    rf"[\w<>\[\],.? \t]{{0,80}}?\b{_NAME}[ \t]*\("
)
# The type on the same line or, as in much C, on the line before.
_C_FUNCTION = (
    r"(?!(?:return|else|if|for|while|switch|case|typedef|new|delete|throw)\b)"
    r"[A-Za-z_](?:[\w \t*&:<>,~]{0,100}?[ \t*&]|[\w \t*]{0,80}\n)"
    r"((?:[A-Za-z_]\w*::){0,3}~?[A-Za-z_]\w*)[ \t]*\([^;\n]{0,200}"
)
_C_FORMS = (
    r"(?:typedef[ \t]+)?(?:template[^\n]{0,80}\n)?(?:struct|class|enum(?:[ \t]+class)?|union|namespace)[ \t]+"
    rf"{_NAME}[^;\n]{{0,120}}$",
    rf"\#[ \t]*define[ \t]+{_NAME}\(",
    rf"{_C_FUNCTION}\{{[ \t]*$",
)
_JS_FORMS = (
    _KEYWORDED,
    rf"(?:export[ \t]+)?(?:default[ \t]+)?(?:const|let|var)[ \t]+{_NAME}[^=\n]{{0,80}}="
    r"[ \t]*(?:async\b|function\b|\(|\w+[ \t]*=>)",
    r"(?:(?:static|async|get|set|public|private|protected|readonly)[ \t]+){0,4}"
    rf"(?!(?:if|for|while|switch|catch)\b){_NAME}\([^;\n]{{0,200}}\{{[ \t]*$",
)

_GENERIC = _compiled(_KEYWORDED)
_PATTERNS = {
    "python": _compiled(rf"(?:async[ \t]+)?(?:def|class)[ \t]+{_NAME}"),
    "javascript": _compiled(*_JS_FORMS),
    "typescript": _compiled(*_JS_FORMS),
    "vue": _compiled(r"<(template|script|style)\b", *_JS_FORMS),
    "java": _compiled(_KEYWORDED, _TYPED_METHOD),
    "csharp": _compiled(_KEYWORDED, _TYPED_METHOD),
    "dart": _compiled(_KEYWORDED, rf"{_C_FUNCTION}\{{[ \t]*$"),
    "c": _compiled(*_C_FORMS, flush=(rf"{_C_FUNCTION}$",)),
    "cpp": _compiled(*_C_FORMS, flush=(rf"{_C_FUNCTION}$",)),
    "go": _compiled(rf"func[ \t]+(?:\([^()\n]{{0,120}}\)[ \t]*)?{_NAME}", rf"type[ \t]+{_NAME}"),
    "rust": _compiled(
        r"(?:pub(?:\([^()\n]{0,40}\))?[ \t]+)?"
        r"(?:(?:async|unsafe|const|default|extern(?:[ \t]+\"[^\"\n]{0,20}\")?)[ \t]+){0,3}"
        rf"(?:fn|struct|enum|trait|mod|union|type|macro_rules!)[ \t]+{_NAME}",
        rf"(?:unsafe[ \t]+)?impl(?:<[^\n]{{0,80}}?>)?[ \t]+(?:[\w:]+(?:<[^\n]{{0,80}}?>)?[ \t]+for[ \t]+)?{_NAME}",
    ),
    "ruby": _compiled(
        r"(?:def|class|module)[ \t]+([\w.:]+[?!=]?)", r"(?:task|describe|context)[ \t]+[:\"']([\w -]{1,60})"
    ),
    "shell": _compiled(r"(?:function[ \t]+)?([\w:.-]+)[ \t]*\(\)", r"function[ \t]+([\w:.-]+)"),
    "sql": _compiled(
        r"(?:create|alter)[ \t]+(?:or[ \t]+replace[ \t]+)?(?:(?:temp|temporary|unique|materialized|virtual)[ \t]+){0,2}"
        r"(?:table|view|function|procedure|index|trigger|type|schema|sequence)[ \t]+"
        r"(?:if[ \t]+not[ \t]+exists[ \t]+)?[\"`\[]?([\w.]+)",
        flags=re.M | re.I,
    ),
    "lua": _compiled(r"(?:local[ \t]+)?function[ \t]+([\w.:]+)", r"(?:local[ \t]+)?([\w.]+)[ \t]*=[ \t]*function\b"),
    "r": _compiled(r"([\w.]+)[ \t]*(?:<-|=)[ \t]*function\b"),
    "julia": _compiled(r"(?:mutable[ \t]+)?(?:function|struct|macro|module|abstract[ \t]+type)[ \t]+([\w.!]+)"),
    "perl": _compiled(r"(?:sub|package)[ \t]+([\w:]+)"),
    "haskell": _compiled(r"(?:data|newtype|type|class|module)[ \t]+([A-Z][\w.']*)", r"([a-z][\w']*)[ \t]*::"),
    "ocaml": _compiled(r"(?:let(?:[ \t]+rec)?|and|type|module|class|val|exception)[ \t]+([\w']+)"),
    "elixir": _compiled(r"(?:defmodule|defprotocol|defimpl|defp?|defmacrop?)[ \t]+([\w.]+[?!]?)"),
    "erlang": _compiled(r"([a-z]\w*)\([^\n]{0,200}\)[ \t]*(?:when\b[^\n]{0,200})?->", r"-(?:module|record)\((\w+)"),
    "clojure": _compiled(r"\((?:ns|def\w*-?)[ \t]+(?:\^[^\s]{1,60}[ \t]+)?([^\s()\[\]]{1,80})"),
    "css": _compiled(r"([^\s{}/@*][^{}\n]{0,80}?)[ \t]*\{"),
    "scss": _compiled(r"(?:@mixin[ \t]+)?([^\s{}/@*][^{}\n]{0,80}?)[ \t]*\{"),
    "toml": _compiled(r"\[{1,2}([^\[\]\n]{1,80})\]"),
    "ini": _compiled(r"\[([^\[\]\n]{1,80})\]"),
    "yaml": re.compile(r"^([\w.\"'/-]{1,60}):(?:\s|$)", re.M),
    "tex": _compiled(r"\\(?:part|chapter|(?:sub){0,2}section)\*?(?:\[[^\]\n]{0,80}\])?\{([^{}\n]{1,80})\}"),
    "make": re.compile(r"^([\w./%-]{1,60})[ \t]*:(?!=)", re.M),
    "cmake": _compiled(r"(?:function|macro|add_executable|add_library|project)\([ \t]*([\w.-]+)", flags=re.M | re.I),
    "docker": _compiled(r"FROM[ \t]+[^\n]{1,120}?[ \t]AS[ \t]+(\S{1,60})", r"FROM[ \t]+(\S{1,80})", flags=re.M | re.I),
    "terraform": _compiled(
        r"(?:resource|data)[ \t]+\"[\w-]+\"[ \t]+\"([\w-]+)\"", r"(?:module|variable|output|provider)[ \t]+\"([\w-]+)\""
    ),
    "graphql": _compiled(r"(?:type|input|interface|enum|union|scalar|query|mutation|fragment|directive)[ \t]+@?(\w+)"),
    "xml": None,
}


def first_definition(text: str, start: int, stop: int, language: str | None) -> str:
    """The name of the first thing that a span of code defines, or an empty string."""
    pattern = _PATTERNS.get(language or "", _GENERIC)
    if pattern is None:
        return ""
    for match in pattern.finditer(text, start, min(stop, start + _LOOKED_AT)):
        if match.lastindex:
            return match[match.lastindex].strip("\"' ")
    return ""
