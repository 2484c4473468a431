"""Encoders by name: `encoder("numen?dim=4096")`, `encoder("static:models/potion")`, `encoder(**spec)`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import re
from typing import Any, NamedTuple
from urllib.parse import unquote

from inlay.errors import BadInput
from inlay.types import Encoder

__all__ = ["NAMES", "encoder"]


class Name(NamedTuple):
    """Where an encoder is made, and what comes after the colon of its name."""

    module: str
    make: str
    after: str = ""  # the option that the text after the colon gives: "static:PATH" is path=PATH
    says: str = ""


NAMES = {
    "box": Name("box", "Box"),
    "bm25": Name("bm25", "BM25"),
    "numen": Name("numen", "Numen"),
    "static": Name("static", "Static.load", "path", "a folder with a token table"),
    "splade": Name("splade", "Splade", "path", "a folder with a SPLADE model"),
    "late-box": Name("late_box", "LateBox"),
    "colbert": Name("colbert", "ColBERT", "path", "a folder with a ColBERT model"),
    "onnx": Name("onnx", "Onnx", "path", "a folder or file with a transformer in ONNX"),
    "st": Name("sentence_transformers", "SentenceTransformers", "model", "a sentence-transformers model"),
    "openai": Name("endpoint", "Endpoint", "model", "a model of an OpenAI-compatible endpoint"),
}


def encoder(name: str | Encoder, **options: Any) -> Encoder:
    """Make an encoder.

    Args:
        name: `box`, `bm25`, `numen`, `static:PATH`, `splade:PATH`, `late-box`, `colbert:PATH`, `onnx:PATH`, `st:NAME`
            or `openai:MODEL`; options may follow as a query (`numen?dim=4096&n=3,4`). An encoder object is returned
            as it is.
        options: keyword arguments of the encoder's class; the text after the colon may also be given as `path=` or
            `model=`. `encoder(**e.spec)` makes `e` again.
    """
    if not isinstance(name, str):
        if not isinstance(name, Encoder):
            raise BadInput(f"an encoder is a name or an object with encode_document, got {type(name).__name__}")
        if options:
            raise BadInput(f"options ({', '.join(options)}) go with a name, not with an encoder object")
        return name
    bare, asked = _split_query(name)
    kind, colon, after = bare.partition(":")
    if kind not in NAMES:
        raise BadInput(_unknown(bare, kind))
    entry = NAMES[kind]
    given = asked | options
    if colon and not entry.after:
        raise BadInput(f"{kind!r} takes nothing after a colon, got {bare!r}; options go as {kind}?name=value")
    if after and entry.after in given:
        raise BadInput(f"{entry.after} is given twice: {after!r} and {given[entry.after]!r}")
    if after:
        given[entry.after] = after
    if entry.after and not given.get(entry.after):
        raise BadInput(f"{kind!r} needs {entry.says}: write {kind}:{entry.after.upper()}")
    make: Any = importlib.import_module(f"inlay.encoders.{entry.module}")
    for part in entry.make.split("."):
        make = getattr(make, part)
    known = inspect.signature(make).parameters
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadInput(f"{kind!r} has no option {option!r}; {hint}It has {', '.join(known)}")
    return make(**given)


def _split_query(name: str) -> tuple[str, dict[str, Any]]:
    """Cut `?name=value&…` off a name. A `?` that no `name=` follows belongs to the name."""
    match = re.fullmatch(r"(.*?)\?(\w+=.*)", name, re.DOTALL)
    if not match:
        return name, {}
    options = {}
    for pair in match[2].split("&"):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise BadInput(f"options in a name are written ?name=value&name=value, got {pair!r} in {name!r}")
        options[key] = _value(unquote(value))
    return match[1], options


def _value(text: str) -> Any:
    """A number, true, false, null or a list of them (`3,4,5`) where it reads as one; the text itself otherwise."""
    for written in (text, f"[{text}]") if "," in text else (text,):
        try:
            return json.loads(written)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(text, text)


def _unknown(bare: str, kind: str) -> str:
    names = ", ".join(f"{name}:{entry.after.upper()}" if entry.after else name for name, entry in NAMES.items())
    if os.path.exists(bare):
        return f"{bare!r} is a path: write static:{bare} for a token table or onnx:{bare} for an ONNX model"
    near = difflib.get_close_matches(kind.lower(), NAMES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no encoder is called {kind!r}; {hint}There are {names}"
