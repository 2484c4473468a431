"""A language model from a TOML file: its text, its parts, its training, and the folder it is kept in.

    text = ["books/*.txt", "notes.jsonl"]   # beside the file; .gz too

    [tokenizer]
    vocab = 4096

    [model]                                 # options of `Decoder`
    dim = 128
    layers = 6
    context = 128

    [stem]                                  # of `stem_decoder`; leave a section out and the part stays as it was
    where = "half"

    [engram]                                # of `engram_parts`
    layers = [1]
    slots = 16384

    [train]                                 # of `Trainer`
    steps = 600
    lr = 3e-3

Other parts: [hash_experts] (`where`, `experts`), [scone] (of `mine_fgrams` and `Scone`), [memory] (of `memoryformer`),
[glyphs] (of `glyph_rows`). `[stem] table` names a table of `inlay.tables` with its options in `[stem.options]`.
"""

from __future__ import annotations

import glob
import gzip
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from inlay.errors import BadInput, Corrupt
from inlay.io import atomic_write
from inlay.lm.decoder import Decoder
from inlay.lm.hash_experts import HashExperts
from inlay.lm.stem import placed, stem_decoder
from inlay.lm.text import fingerprint, learn_tokenizer, split_documents
from inlay.lm.trainer import Trainer
from inlay.tables import files

__all__ = ["Plan", "load", "save"]

KIND = "language model"
SECTIONS = ("tokenizer", "model", "stem", "hash_experts", "engram", "scone", "memory", "glyphs", "train")
PLAIN = ("tokenizer", "model", "train")
SEPARATOR_ID = 0


class Plan:
    """What makes and trains a model.

    Args:
        settings: as the TOML file has them.
        folder: where paths of texts begin.
    """

    def __init__(self, settings: dict[str, Any], folder: Path = Path()) -> None:
        unknown = [name for name in settings if name not in (*SECTIONS, "text", "held_out")]
        if unknown:
            raise BadInput(f"unknown section {unknown[0]!r}; known are text, held_out, {', '.join(SECTIONS)}")
        for name in SECTIONS:
            if not isinstance(settings.get(name, {}), dict):
                raise BadInput(f"{name} must be a section: [{name}]")
        if "memory" in settings and {"stem", "hash_experts"} & set(settings):
            raise BadInput("[memory] replaces every feed-forward part: leave out [stem] and [hash_experts]")
        if "stem" in settings and "hash_experts" in settings:
            raise BadInput("[stem] and [hash_experts] replace the same parts: leave one out")
        if "scone" in settings and "glyphs" in settings:
            raise BadInput("[scone] and [glyphs] replace the same input: leave one out")
        self.settings, self.folder = settings, folder

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """From a TOML file."""
        path = Path(path)
        try:
            return cls(tomllib.loads(path.read_text("utf-8")), path.parent)
        except FileNotFoundError:
            raise BadInput(f"there is no plan {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
            raise BadInput(f"{path} is no TOML file: {error}") from None

    def __getitem__(self, section: str) -> dict[str, Any]:
        return dict(self.settings.get(section, {}))

    @property
    def parts(self) -> list[str]:
        """What the model has that a dense decoder has not; "dense" if nothing."""
        return [name for name in SECTIONS if name in self.settings and name not in PLAIN] or ["dense"]

    def texts(self) -> list[str]:
        """Documents of the files named: a text file is one, of JSON lines each line's "text" is."""
        named = self.settings.get("text")
        if not named:
            raise BadInput('the plan names no text: text = ["books/*.txt"]')
        found: list[str] = []
        for pattern in [named] if isinstance(named, str) else named:
            paths = sorted(glob.glob(str(self.folder / pattern), recursive=True))
            if not paths:
                raise BadInput(f"no file matches {pattern!r} in {self.folder}")
            for path in paths:
                found += _documents(Path(path))
        return found

    def split(self) -> tuple[list[str], list[str]]:
        """Documents to learn from and to validate on."""
        share = self.settings.get("held_out", 0.1)
        if not isinstance(share, float):
            raise BadInput(f"held_out must be a share between 0 and 1, got {share!r}")
        return split_documents(self.texts(), share)

    def tokenizer(self, train: list[str]) -> Any:
        """Learnt from the training documents."""
        return learn_tokenizer(train, **_only(learn_tokenizer, self["tokenizer"], "tokenizer"))

    def decoder(self, tokenizer: Any, train: np.ndarray | None = None, kept: Path | None = None) -> Decoder:
        """The model, not trained.

        Args:
            tokenizer: whose ids it reads.
            train: ids to mine f-grams from, where there is a [scone].
            kept: folder in which f-grams were kept, in place of `train`.
        """
        vocab = tokenizer.get_vocab_size()
        model = _only(Decoder, self["model"], "model") | {"vocab": vocab}
        model.setdefault("dim", 128)
        model.setdefault("layers", 6)
        if "engram" in self.settings:
            model["pre_block"] = self._engram(tokenizer, vocab, model["dim"])
        if "scone" in self.settings:
            model["input"] = self._scone(vocab, model["dim"], train, kept)
        if "glyphs" in self.settings:
            model["input"] = self._glyphs(tokenizer, model["dim"])
        if "memory" in self.settings:
            from inlay.lm.memory_block import memoryformer

            model.pop("hidden", None)
            return memoryformer(**model, **_only(memoryformer, self["memory"], "memory"))
        if "hash_experts" in self.settings:
            return Decoder(**model, feed_forward=self._hash_experts(model))
        if "stem" in self.settings:
            return stem_decoder(**model, **self._stem())
        return Decoder(**model)

    def trainer(self, model: Decoder, train: np.ndarray, valid: np.ndarray, tokenizer: Any, **options: Any) -> Trainer:
        """The loop, with the plan's [train] options."""
        settings = _only(Trainer, self["train"], "train")
        settings.setdefault("length", min(128, model.context))
        identity = fingerprint(tokenizer) + json.dumps(self.settings, sort_keys=True, default=str)
        return Trainer(model, train, validation=valid, identity=identity, **(settings | options))

    def _stem(self) -> dict[str, Any]:
        options = self["stem"]
        name, settings = options.pop("table", None), options.pop("options", {})
        options = _only(stem_decoder, options, "stem")
        if name is not None:
            options["table"] = _table(name, settings)
        return options

    def _hash_experts(self, model: dict[str, Any]) -> dict[int, nn.Module]:
        from inlay.lm.feed_forward import hidden_width

        options = self["hash_experts"]
        where = options.pop("where", "half")
        options = _only(HashExperts, options, "hash_experts")
        hidden = model.get("hidden") or hidden_width(model["dim"])
        return {
            layer: HashExperts(model["vocab"], model["dim"], hidden, **({"seed": layer} | options))
            for layer in placed(where, model["layers"])
        }

    def _engram(self, tokenizer: Any, vocab: int, dim: int) -> dict[int, nn.Module]:
        from inlay.lm.engram import Engram, engram_parts
        from inlay.lm.token_folding import fold_tokens

        options = self["engram"]
        layers, fold = options.pop("layers", [1]), options.pop("fold", True)
        if not (isinstance(layers, list) and all(type(layer) is int for layer in layers)):
            raise BadInput(f"[engram] layers must be a list of numbers, got {layers!r}")
        options = {"separator": SEPARATOR_ID} | _only(Engram, options, "engram")
        if fold:
            options["folding"] = fold_tokens(tokenizer)
        return dict(engram_parts(dim, vocab, layers, **options))

    def _scone(self, vocab: int, dim: int, train: np.ndarray | None, kept: Path | None) -> nn.Module:
        from inlay.lm.frequent_ngrams import FGrams, mine_fgrams
        from inlay.lm.scone import Scone
        from inlay.tables.full import Full

        options = self["scone"]
        mining: dict[str, Any] = {name: options.pop(name) for name in ("max_n", "min_count", "top") if name in options}
        _only(mine_fgrams, mining, "scone")
        if kept is not None:
            fgrams = FGrams.load(kept / "fgrams")
        elif train is not None:
            fgrams = mine_fgrams(train, separator=SEPARATOR_ID, **mining)
        else:
            raise BadInput("[scone] needs training ids to mine f-grams from")
        tokens = Full(vocab, dim, scale=0.0)
        nn.init.normal_(tokens.weight, std=dim**-0.5)
        return Scone(fgrams, tokens, separator=SEPARATOR_ID, **_only(Scone, options, "scone"))

    def _glyphs(self, tokenizer: Any, dim: int) -> nn.Module:
        from inlay.lm.glyphs import glyph_rows, glyph_table

        options = self["glyphs"]
        scale = options.pop("scale", 1.0)  # as long as the rows a decoder would learn begin
        return glyph_table(tokenizer, dim=dim, scale=scale, **_only(glyph_rows, options, "glyphs"))


def save(folder: str | Path, model: Decoder, tokenizer: Any, plan: Plan, log: Sequence[dict[str, Any]] = ()) -> Path:
    """Write a trained model to a folder: `model`, `tokenizer.json`, and `fgrams` where it has them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "tokenizer.json", tokenizer.to_str().encode())
    fgrams = getattr(model.input, "fgrams", None)
    if fgrams is not None:
        fgrams.save(folder / "fgrams")
    facts = {"plan": plan.settings, "tokenizer": fingerprint(tokenizer), "log": list(log[-1:])}
    files.write(folder / "model", model.state_dict(), json.loads(json.dumps(facts, default=str)), kind=KIND)
    return folder


def load(folder: str | Path) -> tuple[Decoder, Any, Plan]:
    """What `save` wrote.

    Raises:
        BadInput: there is no model, or its tokenizer is another one.
        Corrupt: a file is damaged.
    """
    from tokenizers import Tokenizer

    folder = Path(folder)
    tensors, facts = files.read(folder / "model", kind=KIND)
    try:
        text = (folder / "tokenizer.json").read_text("utf-8")
        tokenizer = Tokenizer.from_str(text)
    except FileNotFoundError:
        raise BadInput(f"{folder} has no tokenizer.json; put back the one the model was trained with") from None
    except Exception as error:
        raise Corrupt(f"{folder / 'tokenizer.json'} cannot be read ({error}); restore it from a copy") from None
    if fingerprint(tokenizer) != facts["tokenizer"]:
        raise BadInput(f"the tokenizer in {folder} is not the one this model was trained with; put that one back")
    plan = Plan(facts["plan"], folder)
    model = plan.decoder(tokenizer, kept=folder)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise Corrupt(f"{folder / 'model'} does not fit its own plan ({error}); save it again") from None
    return model.eval(), tokenizer, plan


def _documents(path: Path) -> list[str]:
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            if kind != ".jsonl":
                return [file.read()]
            return [json.loads(line)["text"] for line in file if line.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise BadInput(
            f"{path} cannot be read as {'JSON lines with a text' if kind == '.jsonl' else 'text'}: {error!r}"
        ) from None


def _table(name: str, settings: dict[str, Any]) -> Callable[[int, int], nn.Module]:
    from inlay import tables
    from inlay.tables.table import Table

    kind = getattr(tables, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, Table)):
        raise BadInput(f"[stem] table: inlay.tables has no table {name!r}")
    if not isinstance(settings, dict):
        raise BadInput("options of a table are a section: [stem.options]")
    return lambda rows, width: kind(rows, width, **_only(kind, settings, "stem.options"))


def _only(made: Any, options: dict[str, Any], section: str) -> dict[str, Any]:
    """Options that something takes, as it takes them; others are refused by name."""
    known = {
        name: str(parameter.annotation)
        for name, parameter in inspect.signature(made).parameters.items()
        if name not in ("self", "options")
    }
    for name, value in options.items():
        if name not in known or isinstance(value, dict):
            raise BadInput(f"[{section}] has no option {name!r}; known are {', '.join(known)}")
        if not _fits(value, known[name]):
            raise BadInput(f"[{section}] {name} must be {known[name]}, got {value!r}")
    return options


def _fits(value: Any, annotation: str) -> bool:
    """Whether a TOML value is of a type as signatures write it; names of sets of words take any text."""
    for kind in re.sub(r"\[[^]]*\]", "", annotation).replace(" ", "").split("|"):
        if kind in ("int", "float", "bool"):
            right = {"int": (int,), "float": (int, float), "bool": (bool,)}[kind]
            if isinstance(value, right) and isinstance(value, bool) is (kind == "bool"):
                return True
        elif kind in ("list", "Sequence", "Iterable", "tuple"):
            if isinstance(value, list):
                return True
        elif kind != "None" and isinstance(value, str):
            return True
    return False
