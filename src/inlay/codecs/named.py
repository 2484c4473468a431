"""Codecs by name: `codec("pca:192|float8")`, `codec("steps:4?tails=0.01")`, and back: `str(codec)`.

A name is parts joined by `|`: maps, then one codec. A part is a word, after a colon what it mostly needs, and after a
`?` any keyword arguments of its class: `pq:96x4`, `signs:median?symmetric=true`, `float8:e5m2`.

The eight families of CoRECT (arXiv 2510.19340) are `FAMILIES`, each with the names its study runs over.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from importlib import import_module
from typing import Any, NamedTuple

from inlay.errors import BadInput

__all__ = ["FAMILIES", "codec", "name_of"]


class Entry(NamedTuple):
    """Where a part is made, and which arguments come after its colon (several are joined by an x)."""

    room: str
    make: str
    after: tuple[str, ...] = ()


ENTRIES = {
    "pca": Entry("spaces", "PCA", ("keep",)),
    "truncate": Entry("spaces", "Truncate", ("dims",)),
    "project": Entry("spaces", "RandomProjection", ("dims",)),
    "kernel-pca": Entry("spaces", "KernelPCA", ("dims",)),
    "autoencoder": Entry("spaces", "Autoencoder", ("dims",)),
    "umap": Entry("spaces", "UMAP", ("dims",)),
    "whiten": Entry("spaces", "Whitening", ("dims",)),
    "float32": Entry("codecs", "Float32"),
    "float16": Entry("codecs", "Float16"),
    "bfloat16": Entry("codecs", "BFloat16"),
    "float8": Entry("codecs", "Float8", ("format",)),
    "float4": Entry("codecs", "Float4"),
    "int8": Entry("codecs", "Int8"),
    "steps": Entry("codecs", "EqualSteps", ("bits",)),
    "percentiles": Entry("codecs", "Percentiles", ("bits",)),
    "signs": Entry("codecs", "Signs", ("threshold",)),
    "ternary": Entry("codecs", "Ternary"),
    "hyperplanes": Entry("codecs", "HyperplaneBits", ("bits",)),
    "pq": Entry("codecs", "ProductQuantiser", ("parts", "bits")),
    "opq": Entry("codecs", "OptimisedProduct", ("m", "ksub")),
    "residual-pq": Entry("codecs", "CoarseProduct", ("m", "ksub")),
}
# Short names of settings that have a name of their own in the field.
PRESETS = {
    "int8-global": "steps:8?tails=0.0&per=all",
    "int8-calibrated": "steps:8?tails=0.0",
    "int4": "steps:4?tails=0.006",  # where normal numbers lose least in sixteen equal steps
    "itq": "signs:mean?rotation=itq",
    "rotated": "signs:mean?rotation=random",
}
FAMILIES = {
    "casts": ("float16", "bfloat16", "float8:e4m3", "float8:e5m2"),
    "equal distance": ("steps:8", "steps:4", "steps:2"),
    "percentiles": ("percentiles:8", "percentiles:4", "percentiles:2"),
    "binary": ("signs:zero", "signs:median"),
    "truncation": tuple(f"truncate:{dims}|float32" for dims in (1024, 512, 256, 128, 64, 32)),
    "pca": tuple(f"pca:{dims}|float32" for dims in (512, 256, 128, 64, 32)),
    "hyperplanes": tuple(f"hyperplanes:{bits}" for bits in (1024, 2048, 4096, 8192)),
    "product": ("pq:1024x8", "pq:1024x2", "pq:512x8", "pq:512x2", "pq:128x8", "pq:128x2"),
}


def codec(name: Any, **options: Any) -> Any:
    """Make a codec, not fitted.

    Args:
        name: parts joined by `|`; see the module. A codec is returned as it is.
        options: further keyword arguments of the last part.

    Raises:
        BadInput: the name has a part that is not known, or arguments that its class refuses.
    """
    if not isinstance(name, str):
        if not (hasattr(name, "encode") and hasattr(name, "decode")):
            raise BadInput(f"a codec is a name or an object with encode and decode, got {type(name).__name__}")
        if options:
            raise BadInput(f"options ({', '.join(options)}) go with a name, not with a codec object")
        return name
    pieces = [piece.strip() for piece in name.split("|")]
    parts = [_part(piece, name, options if i == len(pieces) - 1 else {}) for i, piece in enumerate(pieces)]
    if not hasattr(parts[-1], "encode") or any(hasattr(one, "encode") for one in parts[:-1]):
        last = pieces[-1] if not hasattr(parts[-1], "encode") else pieces[0]
        raise BadInput(f"{name!r} must be maps and then one codec; write {last}|float32 to keep rows as they come out")
    made = parts[-1]
    if len(parts) > 1:
        from inlay.codecs.chain import Chain
        from inlay.spaces.affine import Composed

        made = Chain(parts[0] if len(parts) == 2 else Composed(parts[:-1]), made)
    return made


def name_of(one: Any) -> str:
    """The name from which `codec` makes it again, not fitted.

    Raises:
        BadInput: it is none of the classes that have a name.
    """
    from inlay.codecs.chain import Chain
    from inlay.spaces.affine import Composed

    if isinstance(one, Chain):
        return f"{name_of(one.map)}|{name_of(one.codec)}"
    if isinstance(one, Composed):
        return "|".join(name_of(part) for part in one.maps)
    head = next((word for word, entry in ENTRIES.items() if entry.make == type(one).__name__), None)
    if head is None:
        raise BadInput(f"{type(one).__name__} has no name; there are {', '.join(ENTRIES)}")
    after, settings = ENTRIES[head].after, one.settings if hasattr(one, "settings") else {}
    settings = dict(settings() if callable(settings) else settings)
    defaults = {name: p.default for name, p in inspect.signature(type(one)).parameters.items()}
    changed = {name: value for name, value in settings.items() if value != defaults.get(name, ...)}
    given = []
    for argument in after:
        value = settings.get(argument)
        # Numbers are always written; a word only where it is not the usual one.
        if value is None or settings[after[0]] is None or (isinstance(value, str) and argument not in changed):
            continue
        changed.pop(argument, None)
        given.append(str(value.bit_length() - 1 if argument == "ksub" else value))
    text = head + (":" + "x".join(given) if given else "")
    if changed:
        text += "?" + "&".join(f"{name}={_written(value)}" for name, value in changed.items())
    return next((short for short, long in PRESETS.items() if long == text), text)


def _part(text: str, whole: str, more: dict[str, Any]) -> Any:
    bare, _, asked = PRESETS.get(text, text).partition("?")
    head, colon, after = bare.partition(":")
    if head in PRESETS:
        inner, _, known = PRESETS[head].partition("?")
        if colon and ":" not in inner:
            raise BadInput(f"{head!r} takes nothing after a colon, got {text!r}")
        asked = "&".join(part for part in (known, f"bits={after}" if colon else "", asked) if part)
        head, colon, after = inner.partition(":")
    if head not in ENTRIES:
        near = difflib.get_close_matches(head, [*ENTRIES, *PRESETS], 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadInput(f"no codec or map is called {head!r} (in {whole!r}); {hint}There are "
                       + ", ".join([*ENTRIES, *PRESETS]))  # fmt: skip
    entry = ENTRIES[head]
    given: dict[str, Any] = {}
    if colon:
        values = after.split("x") if len(entry.after) > 1 else [after]
        if not entry.after or len(values) > len(entry.after):
            raise BadInput(f"{head!r} takes {'×'.join(entry.after) or 'nothing'} after its colon, got {text!r}")
        for name, value in zip(entry.after, values):
            found = _read(value)
            if name == "ksub":
                if not isinstance(found, int) or not 1 <= found <= 16:
                    raise BadInput(f"{head!r} takes parts x bits, bits from 1 to 16, got {text!r}")
                found = 1 << found
            given[name] = found
    for pair in asked.split("&") if asked else []:
        name, equals, value = pair.partition("=")
        if not re.fullmatch(r"\w+", name) or not equals:
            raise BadInput(f"options are written ?name=value&name=value, got {pair!r} in {whole!r}")
        given[name] = _read(value)
    given |= more
    make = getattr(import_module(f"inlay.{entry.room}"), entry.make)
    known_names = inspect.signature(make).parameters
    for name in given:
        if name not in known_names:
            has = f"it has {', '.join(known_names)}" if known_names else "it has none"
            raise BadInput(f"{head!r} has no option {name!r} (in {whole!r}); {has}")
    missing = [name for name, p in known_names.items() if p.default is inspect.Parameter.empty and name not in given]
    if missing:
        raise BadInput(f"{head!r} needs {missing[0]}: write {head}:{'x'.join(part.upper() for part in entry.after)}")
    return make(**given)


def _read(text: str) -> Any:
    """A number, true, false or null where it reads as one; the text itself otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
