"""Transformer encoders in ONNX, without torch: a folder with a graph, a tokenizer and the settings beside them."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.items import bar, longest_first, spans, texts
from inlay.encoders.model_folder import ModelFolder
from inlay.encoders.pooling import POOLINGS, pool, unit
from inlay.errors import BadInput, Corrupt, MissingExtra
from inlay.types import Space

__all__ = ["Onnx"]

BATCH = 32
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FEEDS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class Onnx:
    """A transformer in ONNX.

    Settings come from the files beside the graph (sentence-transformers' layout) and can be overruled. A text that
    gives no token at all (only where the tokenizer adds none of its own) gets a zero row.

    Args:
        path: a `.onnx` file, or a folder that holds one (`model.onnx`, `onnx/model.onnx`, or the only one there).
        file: which graph to take, relative to the folder, where there are several.
        pooling: `mean`, `cls`, `last` or `max`; from `1_Pooling/config.json`, otherwise `mean`.
        normalize: scale rows to unit length; from `modules.json`, otherwise False.
        max_length: tokens after which a text is cut.
        query_prompt: put before every query; from `config_sentence_transformers.json`.
        document_prompt: put before every document.
        output: name of the graph's output to take; `sentence_embedding` where there is one, otherwise the first.
        threads: threads within an operator; None lets the runtime choose.
        providers: execution providers in order of preference, as onnxruntime names them.
    """

    expensive = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        file: str | None = None,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        output: str | None = None,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self.graph, self.root = _find(Path(path).expanduser().absolute(), file)
        folder = ModelFolder.read(self.root)
        self.pooling = pooling or folder.pooling or "mean"
        if self.pooling not in POOLINGS:
            raise BadInput(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        if folder.unsupported:
            what = ", ".join(folder.unsupported)
            raise BadInput(f"{self.root} has modules that ONNX does not hold ({what}); use st:{self.root} instead")
        self.normalize = folder.normalize if normalize is None else bool(normalize)
        self.max_length = folder.max_length if max_length is None else max_length
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 1:
            raise BadInput(f"max_length must be a positive integer, got {self.max_length!r}")
        self.query_prompt = folder.query_prompt if query_prompt is None else query_prompt
        self.document_prompt = folder.document_prompt if document_prompt is None else document_prompt
        if not folder.prompt_pooled and (self.query_prompt or self.document_prompt):
            raise BadInput(f"{self.root} leaves its prompt out of the pooling, which only st:{self.root} can do")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise BadInput(f"threads must be a positive integer or None, got {threads!r}")
        self.threads, self.providers = threads, tuple(providers)
        self._tokenizer = _tokenizer(self.root, self.max_length)
        self._pad = folder.pad
        self._session = _session(self.graph, self.threads, self.providers)
        self._inputs = _inputs(self._session, self.graph)
        self.output = _output(self._session, output)
        self.space = Space("dense", self._dim(folder.dim), "cosine", self._fingerprint())

    def __repr__(self) -> str:
        said = f"{str(self.graph)!r}, dim={self.space.dim}, pooling={self.pooling!r}, normalize={self.normalize}"
        return f"Onnx({said}, max_length={self.max_length})"

    @property
    def spec(self) -> dict[str, Any]:
        """Arguments of `inlay.encoder` that make this encoder again."""
        spec = {"name": "onnx", "path": str(self.graph), **self._settings()}
        spec |= {} if self.threads is None else {"threads": self.threads}
        return spec | ({} if self.providers == ("CPUExecutionProvider",) else {"providers": list(self.providers)})

    def _settings(self) -> dict[str, Any]:
        names = ("pooling", "normalize", "max_length", "query_prompt", "document_prompt", "output")
        return {name: getattr(self, name) for name in names}

    def _fingerprint(self) -> str:
        name = glob.escape(self.graph.name)
        # A graph above 2 GB, or exported that way, keeps its weights beside it: model.onnx_data, model.onnx.data.
        beside = sorted([*self.graph.parent.glob(f"{name}_data*"), *self.graph.parent.glob(f"{name}.data*")])
        return fingerprint("onnx", self._settings(), [self.graph, *beside, self.root / "tokenizer.json"])

    def _dim(self, stated: int | None) -> int:
        shape = next(found.shape for found in self._session.get_outputs() if found.name == self.output)
        if shape and isinstance(shape[-1], int):
            return shape[-1]
        ids = next((e.ids for e in self._tokenizer.encode_batch_fast(["a", "the", "."]) if e.ids), [0])
        return int(self._run([ids]).shape[1]) if stated is None else int(stated)

    def encode_document(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]."""
        return self._encode(items, self.document_prompt, batch_size, progress)

    def encode_query(
        self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Rows float32 [n, dim]; the query prompt goes first."""
        return self._encode(items, self.query_prompt, batch_size, progress)

    def _encode(self, items: Sequence[str], prompt: str, batch_size: int | None, progress: bool) -> np.ndarray:
        checked = texts(items)
        tokens: list[list[int]] = []
        for part in spans(len(checked), None, 4096, progress=False, what="tokens"):
            tokens += [e.ids for e in self._tokenizer.encode_batch_fast([prompt + text for text in checked[part]])]
        order = [i for i in longest_first([len(ids) for ids in tokens]) if tokens[i]]
        rows = np.zeros((len(checked), self.space.dim), dtype=np.float32)
        with bar(len(checked), progress=progress, what=self.root.name) as shown:
            shown.update(len(checked) - len(order))
            for part in spans(len(order), batch_size, BATCH, progress=False, what=self.root.name):
                batch = order[part]
                rows[batch] = self._run([tokens[i] for i in batch])
                shown.update(len(batch))
        return unit(rows) if self.normalize else rows

    def _run(self, tokens: list[list[int]]) -> np.ndarray:
        """Rows of one batch, padded on the right to its longest text."""
        lengths = np.array([len(ids) for ids in tokens])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self._pad, dtype=np.int64)
        ids[mask] = np.concatenate([np.asarray(one, dtype=np.int64) for one in tokens])
        feeds = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.where(mask, np.arange(mask.shape[1]), 0),
        }
        feed = {name: feeds[name].astype(kind) for name, kind in self._inputs.items()}
        states = self._session.run([self.output], feed)[0]
        return states.astype(np.float32, copy=False) if states.ndim == 2 else pool(states, mask, self.pooling)


def _find(path: Path, file: str | None) -> tuple[Path, Path]:
    """The graph, and the folder with its tokenizer (the graph's own, or the one above it)."""
    if path.is_dir():
        usual = [path / file] if file else [path / "model.onnx", path / "onnx" / "model.onnx"]
        graph = next((found for found in usual if found.is_file()), None)
        if graph is None:
            found = sorted([*path.glob("*.onnx"), *path.glob("onnx/*.onnx")])
            names = ", ".join(str(one.relative_to(path)) for one in found) or "none"
            if len(found) != 1 or file:
                raise BadInput(f"cannot tell the graph in {path}: looked for {file or 'model.onnx'}, there: {names}")
            graph = found[0]
    elif path.is_file():
        graph = path
    else:
        raise BadInput(f"no such file or folder: {path}")
    for root in (graph.parent, graph.parent.parent):
        if (root / "tokenizer.json").is_file():
            return graph, root
    raise BadInput(f"no tokenizer.json beside {graph} or in the folder above it")


def _tokenizer(root: Path, max_length: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("ONNX models", "onnx") from None
    try:
        tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise Corrupt(f"{root / 'tokenizer.json'} cannot be read ({error}); fetch the model again") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _session(graph: Path, threads: int | None, providers: tuple[str, ...]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("ONNX models", "onnx") from None
    unknown = set(providers) - set(onnxruntime.get_available_providers())
    if unknown:
        there = ", ".join(onnxruntime.get_available_providers())
        raise BadInput(f"this onnxruntime has no {', '.join(sorted(unknown))}; it has {there}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=list(providers))
    except Exception as error:  # its classes are private, and differ between versions
        raise Corrupt(f"{graph} cannot be loaded ({error}); fetch or export the model again") from None


def _inputs(session: Any, graph: Path) -> dict[str, Any]:
    """Name -> integer type of what the graph asks for."""
    asked = {found.name: found.type for found in session.get_inputs()}
    strange = [name for name in asked if name not in _FEEDS]
    if strange or "input_ids" not in asked:
        needs = ", ".join(asked)
        raise BadInput(f"{graph} asks for {needs}; only {', '.join(_FEEDS)} can be given. Export it as an encoder.")
    wrong = {name: kind for name, kind in asked.items() if kind not in _INTEGERS}
    if wrong:
        raise BadInput(f"{graph} asks for inputs of a type that tokens do not have: {wrong}")
    return {name: _INTEGERS[kind] for name, kind in asked.items()}


def _output(session: Any, asked: str | None) -> str:
    names = [found.name for found in session.get_outputs()]
    if asked is not None and asked not in names:
        raise BadInput(f"the graph has no output {asked!r}; it has {', '.join(names)}")
    if asked is not None:
        return asked
    return "sentence_embedding" if "sentence_embedding" in names else names[0]
