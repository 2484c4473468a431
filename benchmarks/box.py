"""The encoder in the box beside its teacher: quality, bytes, texts a second, cold start.

    INLAY_DATA=DIR python -m benchmarks.box [minilm] [box] [int8] [static] [hybrid] [lazy] [speed] [robust]
    INLAY_DATA=DIR python -m benchmarks.box share
    INLAY_DATA=DIR python -m benchmarks.box learn [--weights DIR]

Every part adds to results/box-frontier.json. `box` is run by numpy in 32 bits, `int8` is the same by onnxruntime in 8.
`lazy` is the hybrid of a large addition, where only the best by words have vectors. Two parts choose something, on
what may be learnt from: `share` the weight of the box beside BM25 (`Box.hybrid_share`), on pairs (summary of a
docstring → function, title → body, caption → another caption); `learn` between weights, on the judgments to learn from
of SciFact and CoSQA and three sets of pairs. All other parts only judge. MiniLM is the original in float32; its
texts are cut at 256 tokens, as its authors do.
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
from inlay.encoders.minilm import minilm_folder

SETS = ("scifact", "cranfield", "cosqa")
PARTS = ("minilm", "box", "int8", "static", "hybrid", "lazy", "speed", "robust")
RESULTS = Path(__file__).parents[1] / "results" / "box-frontier.json"
Encode = Callable[[Sequence[str]], np.ndarray]


def minilm() -> Encode:
    """The teacher as published."""
    from inlay.training.transformer import Transformer

    model = Transformer(minilm_folder())
    return lambda items: model.encode(items, batch_size=32)


def box(context: bool, runtime: str | None = None) -> Encode:
    """The encoder in the box."""
    from inlay.encoders.box import Box

    return Box(context, runtime=runtime, threads=2).encode_document


def sts(data: Path, split: str) -> tuple[list[str], list[str], np.ndarray]:
    """Sentences and gold similarities of English STS-B."""
    import gzip

    with gzip.open(data / "pairs/stsb.tsv.gz", "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines][1:]
    rows = [row for row in rows if row[0] == "en" and row[1] == split]
    return [row[3] for row in rows], [row[4] for row in rows], np.array([float(row[2]) for row in rows])


def quality(encode: Encode) -> dict[str, float]:
    """nDCG@10 of exact search by vectors alone on each set, and Spearman's correlation on STS-B's test split."""
    from inlay.training.probe import spearman

    found = {}
    for name in SETS:
        found[name] = _ndcg(encode, judged(name))
        click.echo(f"  {name} {found[name]}")
    found["mean"] = round(float(np.mean([found[name] for name in SETS])), 4)
    a, b, gold = sts(folder(), "test")
    found["sts"] = round(spearman((encode(a) * encode(b)).sum(1), gold), 4)
    click.echo(f"  mean {found['mean']}, STS-B {found['sts']}")
    return found


def _ndcg(encode: Encode, test: Any) -> float:
    from inlay.evaluation.measures import per_query

    scores = encode(list(test.queries.values())) @ encode(test.texts).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    run = {query: {test.ids[d]: float(scores[i, d]) for d in best[i]} for i, query in enumerate(test.queries)}
    return round(float(per_query(run, test.qrels, ["ndcg@10"])["ndcg@10"].mean()), 4)


def learn(weights: Path | None) -> dict[str, float]:
    """nDCG@10 by vectors alone of what weights are chosen by; `weights` are the shipped ones if None."""
    from benchmarks.fusion_brought import REPORTED_ON, sets
    from inlay.encoders.box import Box

    encode = Box(path=weights).encode_document
    found = {name: _ndcg(encode, test) for name, test in sets(folder()) if name != REPORTED_ON}
    found["mean"] = round(float(np.mean(list(found.values()))), 4)
    click.echo(f"  {found}")
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
    """Chunks of 128 tokens a second on two threads, tokenising included, best of eleven rounds; cold start; bytes."""
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
        def __init__(self) -> None:
            super().__init__()
            self.backbone = model.backbone.requires_grad_(False)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
            return states

    teacher = Teacher().eval()
    ways: dict[str, Encode] = {
        "minilm torch": _pooled(model.tokenize, torch.inference_mode()(teacher)),
        "minilm onnxruntime int8": _pooled(model.tokenize, _int8(teacher)),
        "box numpy": box(True, "numpy"),
        "box onnxruntime": box(True, "onnxruntime"),
        "box static": box(False),
    }
    found: dict[str, Any] = {"chunks_per_second": {}, "threads": 2}
    parts = {name: chunks[:16] if "minilm" in name else chunks[:64] for name in ways}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(12):  # in turn, so that whatever else the machine does meets all of them
        for name, encode in ways.items():
            began = time.perf_counter()
            encode(parts[name])
            if number:  # the first warms up
                took[name].append(time.perf_counter() - began)
    for name in ways:
        found["chunks_per_second"][name] = round(len(parts[name]) / min(took[name]), 1)
        click.echo(f"  {name}: {found['chunks_per_second'][name]}/s")
    rate = found["chunks_per_second"]
    found["times minilm"] = {
        f"{mine} / {theirs}": round(rate[mine] / rate[f"minilm {theirs}"], 2)
        for mine in ("box numpy", "box onnxruntime", "box static")
        for theirs in ("torch", "onnxruntime int8")
    }
    click.echo(f"  {found['times minilm']}")
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


def lazy() -> dict[str, float]:
    """nDCG@10 of the default hybrid where a collection is too large to be embedded at once."""
    import inlay
    from inlay.evaluation.measures import per_query
    from inlay.types import Chunk, Document

    found = {}
    for name in SETS:
        test = judged(name)
        with tempfile.TemporaryDirectory() as scratch, inlay.open(Path(scratch) / "c", encoder="box") as collection:
            collection.add(Document(i, text, chunks=[Chunk(0, len(text))]) for i, text in zip(test.ids, test.texts))
            run = {query: {hit.id: hit.score for hit in collection.search(text, 100)}
                   for query, text in test.queries.items()}  # fmt: skip
        found[name] = round(float(per_query(run, test.qrels, ["ndcg@10"])["ndcg@10"].mean()), 4)
        click.echo(f"  {name} {found[name]}")
    found["mean"] = round(float(np.mean([found[name] for name in SETS])), 4)
    return found


STRANGE = {
    "empty": "", "space": " \t\n", "one character": "x", "100,000 words": "lorem ipsum " * 50_000,
    "one word of 500,000": "a" * 500_000, "emoji": "🎉🚀 👩‍👩‍👧‍👦 ok", "cjk": "信息检索 と 埋め込み 한국어",
    "code": "def f(x: int) -> str:\n    return f'{x!r}' if x else None", "control": "\x00\x01 \x1b[31mred\x7f\ufffd",
    "half a character": "half \ud83d emoji",
}  # fmt: skip


def robust() -> dict[str, Any]:
    """Norms of the rows of odd texts, and the largest difference between a text in a batch and alone."""
    from inlay.encoders.box import Box

    found: dict[str, Any] = {}
    texts = [*STRANGE.values(), *judged("scifact").texts[:100]]
    for runtime in ("numpy", "onnxruntime"):
        encode = Box(runtime=runtime).encode_document
        together = encode(texts)
        alone = np.concatenate([encode([text]) for text in texts])
        norms = np.linalg.norm(together[: len(STRANGE)], axis=1)
        found[runtime] = {
            "norms": {name: round(float(norm), 5) for name, norm in zip(STRANGE, norms)},
            "batch against single": float(f"{np.abs(together - alone).max():.2g}"),
        }
        found.setdefault("rows", []).append(together)
    a, b = found.pop("rows")
    cosine = (a * b).sum(1)[np.linalg.norm(a, axis=1) > 0]
    found["cosine of both runtimes"] = {"least": round(float(cosine.min()), 4), "mean": round(float(cosine.mean()), 4)}
    click.echo(f"  {found}")
    return found


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


def table(found: dict[str, Any]) -> str:
    """The trade-off, as docs/encoders.md shows it."""
    speed, size = found["speed"]["chunks_per_second"], found["speed"]["bytes"]
    ways = [
        ("all-MiniLM-L6-v2, torch", "minilm", "minilm torch", size["minilm"]),
        ("all-MiniLM-L6-v2, onnxruntime int8", None, "minilm onnxruntime int8", None),
        ("`box`, numpy", "box", "box numpy", size["box"]),
        ("`box`, onnxruntime int8", "int8", "box onnxruntime", size["box"]),
        ("`box?context=false`", "static", "box static", size["box"]),
    ]
    lines = ["| | nDCG@10, mean of three | STS-B test | 128-token chunks/s | MB |", "|---|---:|---:|---:|---:|"]
    for title, quality, rate, size_of in ways:
        judged_as = found.get(quality or "", {})
        first = " | ".join(f"{judged_as[name]:.3f}" if name in judged_as else "–" for name in ("mean", "sts"))
        lines.append(f"| {title} | {first} | {speed[rate]:,.0f} | {f'{size_of / 1e6:.1f}' if size_of else '–'} |")
    lines += ["", "| nDCG@10 | SciFact | Cranfield | CoSQA | mean |", "|---|---:|---:|---:|---:|"]
    rows = {
        "BM25 alone": found["hybrid"]["bm25"], "`box` alone": found["box"],
        "all-MiniLM-L6-v2 alone": found["minilm"], "BM25 and `box` (the default)": found["hybrid"]["hybrid box"],
        "the same, embedded on demand": found["lazy"],
    }  # fmt: skip
    for title, row in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{row[name]:.3f}" for name in (*SETS, "mean")) + " |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, "share", "learn"]))
@click.option("--pairs", type=click.Path(path_type=Path), help="for `share`: JSON of set → [[query, document], …].")
@click.option("--weights", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="for `learn`: a folder that `inlay train box` wrote; nothing is recorded.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(parts: tuple[str, ...], pairs: Path | None, weights: Path | None, out: Path) -> None:
    """Run parts and write them."""
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "minilm": lambda: quality(minilm()),
        "box": lambda: quality(box(True)),
        "int8": lambda: quality(box(True, "onnxruntime")),
        "static": lambda: quality(box(False)),
        "hybrid": hybrid,
        "lazy": lazy,
        "speed": speed,
        "robust": robust,
        "share": lambda: share(pairs),
        "learn": lambda: learn(weights),
    }
    for part in parts or PARTS:
        click.echo(part)
        made = makers[part]()
        if part == "learn" and weights is not None:
            continue
        found = json.loads(out.read_text()) if out.exists() else {}
        found[part] = made
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
